//! The relay: moves what is in the outbox to the topic, in order.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use uuid::Uuid;

use crate::BoxFuture;
use crate::error::{ErrorKind, Result};
use crate::outbox::{Hole, Lease, Leases, Limits, Outbox, Page, Parked, StoredRow, highest};
use crate::producer::client::{Role, Transports};
use crate::producer::fallback::Fallback;
use crate::producer::known::Key;
use crate::telemetry::metrics;
use crate::transport::{Delivery, OnDelivery, Transport};

mod changes;
mod cursor;
mod firsts;
mod handed;
mod lane;
mod nudge;
mod poison;
mod poll;
mod witnesses;

use cursor::{Cursor, Look};
use firsts::{Firsts, Turn};
pub(crate) use handed::{Handed, Journaled};
use lane::{Lane, Trial};
use nudge::nudge;
pub(crate) use poison::Poison;
use poison::Verdict;
use poll::Poll;
use witnesses::Witnesses;

/// How long a lease holds. A relay that died is taken over after this time.
const LEASE_TIME: Duration = Duration::from_secs(10);
/// Leases are extended this often: two attempts may fail before a lease runs out.
const RENEW_EVERY: Duration = Duration::from_secs(3);
/// So often a relay asks for lanes as long as it has fewer than its share: another one is about to hand some over.
const ASK_EVERY: Duration = Duration::from_millis(500);
/// How often progress is written, at most. A crash repeats what was delivered since.
const SAVE_EVERY: Duration = Duration::from_millis(50);
/// How long to wait before the database is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often the relay looks who writes, as long as there are gaps. Most are closed by the other proof before.
const ASK_WITNESSES_EVERY: Duration = Duration::from_millis(500);
/// How often the relay asks whether numbers that it was told of were given out, if they do not show.
const ASK_DRAWN_EVERY: Duration = Duration::from_millis(100);
/// Rows that are to be handed over after their commit are looked for after this time: somebody has forgotten to, or died.
const HANDED_WITHIN: Duration = Duration::from_millis(100);
/// So long a row that was handed over waits for one before it, of a transaction that is about to be committed.
const NEXT_WITHIN: Duration = Duration::from_millis(5);
/// How often delivered events that are old enough are dropped.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// No statement of the relay may keep it from its leases for longer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a relay that stops waits for what is in flight, unless it is told otherwise.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(10);

/// How many rows a page has, shared out evenly among its holes.
const PAGE_ROWS: usize = 2_000;
/// A page has this many rows of each hole at least, lest many holes make it crawl.
const MIN_ROWS_PER_HOLE: usize = 64;
/// How many bytes of headers and payloads a page has, shared out likewise; and of each hole at least.
const PAGE_BYTES: usize = 8 << 20;
const MIN_BYTES_PER_HOLE: usize = 64 << 10;
/// How many rows may be read and not settled. Two pages fly while the next is read.
const WINDOW_ROWS: usize = 3 * PAGE_ROWS;
/// How many rows of one lane may be. One that waits for stuck keys must not fill the window.
const LANE_ROWS: usize = WINDOW_ROWS / 4;
/// The same in bytes. What is read beyond is one page at most.
const WINDOW_BYTES: usize = 3 * PAGE_BYTES;
const LANE_BYTES: usize = WINDOW_BYTES / 4;

/// A row of a lane, as long as the lease holds under which it was read.
#[derive(Clone, Copy)]
struct Ticket {
    lane: u16,
    tenure: u64,
    number: i64,
}

/// What became of a row that was submitted.
struct Report {
    ticket: Ticket,
    /// Which of the relay's clients it was submitted to.
    client: u32,
    /// Whether it was that client's first of its key.
    first: Option<Key>,
    result: Result<Delivery>,
}

/// What the loop does not wait for.
type Aside<T> = Option<BoxFuture<'static, T>>;

/// A page, and what it was asked for.
struct Answer {
    holes: Vec<Hole>,
    /// Of each hole the tenure of its lane.
    tenures: Vec<u64>,
    /// How much of each hole.
    limits: Limits,
    /// The last set of witnesses that had ended when it was begun.
    ended: u64,
    page: Result<Page>,
}

pub(crate) struct Relay {
    id: Uuid,
    outbox: Arc<dyn Outbox>,
    fallback: Arc<Fallback>,
    /// What becomes of events that can't be delivered.
    poison: Arc<Poison>,
    transports: Transports,
    transport: Arc<dyn Transport>,
    /// Counts the clients: one that failed for good is replaced.
    client: u32,
    /// Of which keys that client has delivered something.
    firsts: Firsts,
    lanes: BTreeMap<u16, Lane>,
    /// Counts how often it took over a lane.
    tenures: u64,
    /// Rows to be submitted, in order.
    queue: VecDeque<Ticket>,
    /// How many rows were submitted and not reported on.
    submitted: usize,
    reports: mpsc::UnboundedReceiver<Report>,
    reporter: mpsc::UnboundedSender<Report>,
    poll: Poll,
    witnesses: Witnesses,
    ask_witnesses_at: Instant,
    ask_drawn_at: Instant,
    renew_at: Instant,
    /// Of which life of the database the leases are.
    life: i64,
    /// Behind this the leases may be somebody else's.
    leased_until: Instant,
    save_at: Instant,
    retain_at: Instant,
}

impl Relay {
    pub(crate) fn new(
        outbox: Arc<dyn Outbox>,
        transports: Transports,
        fallback: Arc<Fallback>,
        poison: Arc<Poison>,
    ) -> Result<Self> {
        let (reporter, reports) = mpsc::unbounded_channel();
        let now = Instant::now();
        Ok(Self {
            id: Uuid::now_v7(),
            outbox,
            fallback,
            poison,
            transport: transports.connect(Role::Relay)?,
            transports,
            client: 0,
            firsts: Firsts::new(now),
            lanes: BTreeMap::new(),
            tenures: 0,
            queue: VecDeque::new(),
            submitted: 0,
            reports,
            reporter,
            poll: Poll::new(now),
            witnesses: Witnesses::default(),
            ask_witnesses_at: now,
            ask_drawn_at: now,
            renew_at: now,
            life: 0,
            leased_until: now,
            save_at: now,
            retain_at: now + RETAIN_EVERY,
        })
    }

    /// Relays until `shutdown` completes, which yields how long to wait for what is in flight then.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = Duration> + Send) -> Result<()> {
        let mut shutdown = pin!(shutdown);
        let (mut reading, mut waking): (Aside<Answer>, Aside<()>) = (None, None);
        let (fallback, outbox) = (Arc::clone(&self.fallback), Arc::clone(&self.outbox));
        let mut woken = outbox.woken();
        let (mut nudging, mut nudged) = (pin!(nudge(Arc::clone(&self.transport))), self.client);
        let drain_time = loop {
            self.keep_leases().await;
            self.take_reports()?;
            self.retry_stuck();
            if self.take_handed() && waking.is_none() {
                let fallback = Arc::clone(&fallback);
                waking = Some(Box::pin(async move { fallback.wake_others().await }));
            }
            self.submit()?;
            self.save(false).await;
            self.ask_drawn().await;
            self.ask_witnesses().await;
            self.retry_parked().await;
            self.hand_over().await;
            self.retain().await;
            if reading.is_none() && self.poll.is_due(Instant::now()) {
                reading = self.read();
            }
            if nudged != self.client {
                nudged = self.client;
                nudging.set(nudge(Arc::clone(&self.transport)));
            }
            let wake_at = self.wake_at(reading.is_some());
            let transport = Arc::clone(&self.transport);
            tokio::select! {
                biased;
                drain_time = &mut shutdown => break drain_time,
                answer = done(&mut reading) => {
                    reading = None;
                    self.look(answer);
                }
                Some(report) = self.reports.recv() => self.take(report)?,
                () = fallback.handed.wait() => {}
                () = done(&mut waking) => waking = None,
                () = &mut woken => {
                    woken = outbox.woken();
                    self.poll.hint(Instant::now());
                }
                () = fallback.spills.wait_for_spill() => self.poll.hint(Instant::now()),
                () = fallback.spills.wait_for_announcement() => {
                    self.poll.hint_within(Instant::now(), HANDED_WITHIN);
                }
                () = transport.room(), if !self.queue.is_empty() => {}
                never = &mut nudging => match never {},
                () = sleep_until(wake_at) => {}
            }
        };
        self.drain(drain_time).await
    }

    /// Extends the leases, and takes the lanes that are free. Lanes that are not ours any more are dropped at once, with
    /// all that is known of them: whoever has them now starts from what was saved.
    async fn keep_leases(&mut self) {
        let asked_at = Instant::now();
        if asked_at < self.renew_at {
            return;
        }
        match within(self.outbox.lease(self.id, LEASE_TIME)).await {
            Some(Leases { leases, share, life }) => {
                // Counted from before the question, so never longer than the database counts it.
                self.leased_until = asked_at + LEASE_TIME;
                if life != self.life {
                    // What is known of the lanes is of another history, whatever their epochs are.
                    self.lanes.clear();
                }
                self.life = life;
                self.hear(&leases, life).await;
                let pause = if leases.len() < share { ASK_EVERY } else { RENEW_EVERY };
                self.renew_at = asked_at + if self.adopt(leases).await { pause } else { RETRY_AFTER };
            }
            None => {
                self.renew_at = Instant::now() + RETRY_AFTER;
                if Instant::now() >= self.leased_until {
                    self.lanes.clear();
                }
            }
        }
        self.tell();
    }

    /// Says how far behind it is.
    fn tell(&self) {
        for index in 0..self.fallback.lanes().count() {
            let known = self.fallback.spills.known(index);
            let behind = usize::try_from(known.last.saturating_sub(known.floor).saturating_add(1)).unwrap_or(0);
            metrics::lane(index, if self.lanes.contains_key(&index) { behind } else { 0 });
        }
        let gaps = self.lanes.values().map(|lane| lane.cursor.gap_count()).sum();
        metrics::relay(self.lanes.len(), gaps, self.lanes.values().map(Lane::parked_count).sum());
        if let Some(vitals) = self.transport.vitals() {
            metrics::client("relay", &vitals);
        }
    }

    /// Takes in which numbers others have drawn. If they were rolled back and nothing is stored behind them, nobody else tells,
    /// and producers would take the lane for spilled for ever.
    async fn hear(&self, leases: &[Lease], life: i64) {
        let spills = &self.fallback.spills;
        let known = spills.all_known();
        let is_new = |lease: &Lease| known.get(usize::from(lease.lane)).is_some_and(|known| known.life != life);
        if leases.iter().any(is_new)
            && let Some(heads) = within(self.outbox.heads()).await
        {
            spills.refresh(&known, &heads);
        }
        for lease in leases {
            spills.hear(lease.lane, lease.last, life);
        }
    }

    /// Takes over the lanes that are leased now. False if some have to be asked for again.
    async fn adopt(&mut self, leases: Vec<Lease>) -> bool {
        let ours: BTreeMap<u16, i64> = leases.iter().map(|lease| (lease.lane, lease.epoch)).collect();
        self.lanes.retain(|lane, state| {
            let kept = ours.get(lane) == Some(&state.epoch);
            if !kept {
                tracing::warn!(lane, epoch = state.epoch, "the lease of the lane was lost");
            }
            kept
        });
        // Of a lane that is new, the parked keys must be known before a row is read; of the others, what is wanted of them.
        let asked: Vec<_> = leases
            .iter()
            .map(|lease| lease.lane)
            .filter(|lane| self.lanes.get(lane).is_none_or(Lane::has_parked))
            .collect();
        let parked = if asked.is_empty() { Some(Vec::new()) } else { within(self.outbox.parked(&asked)).await };
        let Some(parked) = parked else { return false };
        let mut of_lane: BTreeMap<u16, Vec<Parked>> = BTreeMap::new();
        for (lane, parked) in parked {
            of_lane.entry(lane).or_default().push(parked);
        }
        let (mut taken, mut surplus, now) = (0, Vec::new(), Instant::now());
        for lease in leases {
            let parked = of_lane.remove(&lease.lane).unwrap_or_default();
            if let Some(lane) = self.lanes.get_mut(&lease.lane) {
                lane.leaving |= !lease.keep;
                for Parked { key, head, command, .. } in parked {
                    if let Some(command) = command {
                        lane.command(&key, head, command, now);
                    }
                }
            } else if !lease.keep {
                surplus.push(lease.lane);
            } else if is_sound(&lease) {
                taken += 1;
                self.tenures += 1;
                let lane = Lane::new(lease.epoch, self.tenures, Cursor::new(lease.settled), parked, now);
                self.lanes.insert(lease.lane, lane);
            }
        }
        // Handed over, but that could not be written down; or leased in an earlier life of the database. As long as this relay renews
        // its leases, nobody else would end these.
        if !surplus.is_empty() {
            within(self.outbox.release(self.id, &surplus, false)).await;
        }
        self.fallback.spills.relay_here(|lane| self.lanes.contains_key(&lane));
        if taken > 0 {
            tracing::info!(taken, owned = self.lanes.len(), "the relay took over lanes");
            self.poll.hint(now);
        }
        true
    }

    /// Releases the lanes that go to another relay, and have nothing in flight any more.
    async fn hand_over(&mut self) {
        let ready = |lane: &Lane| lane.leaving && lane.submitted == 0 && !lane.has_unsaved();
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| ready(lane)).map(|(lane, _)| *lane).collect();
        if lanes.is_empty() {
            return;
        }
        self.lanes.retain(|_, lane| !ready(lane));
        tracing::info!(lanes = lanes.len(), "the relay hands lanes over");
        // If that fails, it is done when they are leased again.
        within(self.outbox.release(self.id, &lanes, false)).await;
    }

    /// Drops delivered events that are old enough.
    async fn retain(&mut self) {
        let now = Instant::now();
        if now >= self.retain_at {
            self.retain_at = now + RETAIN_EVERY;
            within(self.outbox.retain()).await;
        }
    }

    /// Tries the first held events of parked keys whose time has come.
    async fn retry_parked(&mut self) {
        let now = Instant::now();
        let due = |lane: &Lane| !lane.leaving && lane.next_trial(self.save_at).is_some_and(|at| at <= now);
        let lanes: Vec<_> = self.lanes.iter().filter(|(_, lane)| due(lane)).map(|(lane, _)| *lane).collect();
        if lanes.is_empty() || now >= self.leased_until {
            return;
        }
        // What is held must be written down before it is read.
        self.save(true).await;
        for index in lanes {
            let Some(lane) = self.lanes.get_mut(&index).filter(|lane| !lane.has_unsaved()) else { continue };
            let Some(Trial { key, limit, parked }) = lane.trial(now) else { continue };
            let rows = within(self.outbox.held(index, &key, u32::try_from(limit).unwrap_or(u32::MAX))).await;
            let Some(mut rows) = rows else {
                lane.postpone(&key, Instant::now() + RETRY_AFTER);
                continue;
            };
            let tenure = lane.tenure;
            if let Some(first) = rows.first_mut() {
                match self.poison.judge(&parked, first) {
                    Verdict::Deliver => {}
                    Verdict::DeadLetter(record) => {
                        metrics::dead_lettered(&first.definition_key);
                        first.row.record = Ok(record);
                    }
                    Verdict::Skip => {
                        tracing::error!(
                            lane = index,
                            number = first.row.sequence,
                            error = parked.error,
                            "an event is left out"
                        );
                        lane.skip(&key, first.row.sequence, now);
                        continue;
                    }
                }
            }
            let rows = rows.into_iter().map(|held| held.row).collect();
            let numbers = lane.retry(&key, rows, limit, now);
            self.queue.extend(numbers.into_iter().map(|number| Ticket { lane: index, tenure, number }));
        }
    }

    /// Takes in what became of the rows that were reported on.
    fn take_reports(&mut self) -> Result<()> {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report)?;
        }
        Ok(())
    }

    /// Takes in what became of a row.
    fn take(&mut self, report: Report) -> Result<()> {
        let Report { ticket: Ticket { lane: index, tenure, number }, client, first, result } = report;
        self.submitted -= 1;
        if let Some(first) = first.filter(|_| client == self.client) {
            self.firsts.ended(first, result.is_ok());
        }
        if let Err(error) = &result
            && error.kind() == ErrorKind::ClientFailed
            && client == self.client
        {
            tracing::error!(%error, "the relay's client failed for good, and is replaced");
            self.transport = self.transports.connect(Role::Relay)?;
            self.client += 1;
            self.firsts = Firsts::new(Instant::now());
        }
        // Of a lane that was lost, even if it was won again since, the new lease starts from what was saved.
        let Some(lane) = self.lanes.get_mut(&index).filter(|lane| lane.tenure == tenure) else {
            return Ok(());
        };
        lane.submitted -= 1;
        match result {
            Ok(_) => {
                let freed = lane.delivered(number, Instant::now());
                self.queue.extend(freed.into_iter().map(|number| Ticket { lane: index, tenure, number }));
                self.fallback.spills.settle_below(index, lane.floor(), self.life);
                self.fallback.advance.made();
            }
            Err(error) => {
                let attempts = lane.failed(number, &error, Instant::now(), Utc::now());
                let kind = error.kind();
                tracing::warn!(%error, %kind, lane = index, number, attempts, "an event was not relayed; its key waits");
            }
        }
        Ok(())
    }

    fn retry_stuck(&mut self) {
        let now = Instant::now();
        for (index, lane) in &mut self.lanes {
            let tenure = lane.tenure;
            self.queue.extend(lane.due(now).into_iter().map(|number| Ticket { lane: *index, tenure, number }));
        }
    }

    /// Submits what is queued, as far as the transport has room.
    fn submit(&mut self) -> Result<()> {
        if Instant::now() >= self.leased_until {
            return Ok(());
        }
        while let Some(ticket) = self.queue.pop_front() {
            let Ticket { lane: index, tenure, number } = ticket;
            let Some(lane) = self.lanes.get_mut(&index).filter(|lane| lane.tenure == tenure) else { continue };
            if !lane.may_submit(number, Instant::now()) {
                continue;
            }
            let record = match lane.record(number) {
                None => continue,
                Some(Ok(record)) => record,
                Some(Err(error)) => {
                    tracing::error!(%error, lane = index, number, "a row of the outbox can't be read; its key waits");
                    let error = error.retold();
                    lane.failed(number, &error, Instant::now(), Utc::now());
                    continue;
                }
            };
            let first = match self.firsts.turn(record, Instant::now()) {
                Turn::Pipelined => None,
                Turn::Alone(first) => Some(first),
                Turn::Wait => {
                    lane.hold_back(number, Instant::now());
                    continue;
                }
            };
            let (reporter, client) = (self.reporter.clone(), self.client);
            let on_delivery = OnDelivery::new(move |result| {
                // The relay may be gone: its successor reads the row again.
                let _ = reporter.send(Report { ticket, client, first, result });
            });
            if self.transport.submit(record, on_delivery).is_err() {
                self.queue.push_front(ticket);
                return Ok(());
            }
            self.submitted += 1;
            if let Some(first) = first {
                self.firsts.began(first);
            }
            if let Some(lane) = self.lanes.get_mut(&index) {
                lane.submitted += 1;
            }
            // A record may fail at once, and those of its key behind it need not follow it.
            self.take_reports()?;
        }
        Ok(())
    }

    /// Writes progress, when it is time to or `now`; and takes a mark if a gap wants one.
    async fn save(&mut self, now: bool) {
        let wanted = self.lanes.values().any(|lane| lane.has_unsaved() || lane.cursor.wants_mark());
        if !wanted || (!now && Instant::now() < self.save_at) {
            return;
        }
        let unsaved = self.lanes.iter_mut().filter(|(_, lane)| lane.has_unsaved());
        let progress: Vec<_> = unsaved.map(|(index, lane)| lane.take_progress(*index, self.life)).collect();
        match within(self.outbox.settle(&progress)).await {
            Some(settled) => {
                self.save_at = Instant::now() + SAVE_EVERY;
                for lane in progress.iter().map(|progress| progress.lane).filter(|lane| !settled.lanes.contains(lane)) {
                    tracing::warn!(lane, "the lease of the lane was lost; its progress was not written");
                    self.lanes.remove(&lane);
                }
                for lane in self.lanes.values_mut() {
                    lane.cursor.mark(settled.mark);
                }
            }
            None => {
                self.save_at = Instant::now() + RETRY_AFTER;
                for progress in progress {
                    if let Some(lane) = self.lanes.get_mut(&progress.lane) {
                        lane.put_back(progress);
                    }
                }
            }
        }
    }

    /// Finds out which numbers were given out that this process knows of and that do not show: they are not committed yet, or
    /// never will be. What the process knows is of an earlier life of the database perhaps.
    async fn ask_drawn(&mut self) {
        let now = Instant::now();
        if now < self.ask_drawn_at || !self.lanes.values().any(|lane| lane.is_behind) {
            return;
        }
        self.ask_drawn_at = now + ASK_DRAWN_EVERY;
        let spills = &self.fallback.spills;
        let known = spills.all_known();
        let Some(heads) = within(self.outbox.drawn()).await else { return };
        for ((index, known), head) in (0..).zip(known).zip(heads) {
            if head.last < known.last {
                spills.go_back(index, known, &head);
            }
            if let Some(lane) = self.lanes.get_mut(&index).filter(|lane| lane.is_behind) {
                lane.is_behind = false;
                lane.cursor.expect(head.last);
            }
        }
    }

    /// Looks who writes, as long as there are gaps.
    async fn ask_witnesses(&mut self) {
        let now = Instant::now();
        if now < self.ask_witnesses_at || !self.lanes.values().any(|lane| lane.cursor.has_gaps()) {
            return;
        }
        self.ask_witnesses_at = now + ASK_WITNESSES_EVERY;
        if let Some(Some(writers)) = within(self.outbox.writers()).await
            && let Some(named) = self.witnesses.take(writers)
        {
            for lane in self.lanes.values_mut() {
                lane.cursor.name_witnesses(named);
            }
        }
    }

    /// Whether there is no room for more rows.
    fn is_full(&self) -> bool {
        let rows: usize = self.lanes.values().map(Lane::len).sum();
        let bytes: usize = self.lanes.values().map(Lane::bytes).sum();
        rows >= WINDOW_ROWS || bytes >= WINDOW_BYTES
    }

    /// The lanes of which more rows may be read.
    fn readable(&self) -> impl Iterator<Item = (u16, &Lane)> {
        let full = self.is_full();
        let lanes = self.lanes.iter().map(|(index, lane)| (*index, lane));
        lanes.filter(move |(_, lane)| !full && may_read(lane))
    }

    /// Takes in the rows that were handed over, as far as they can't overtake anything; the others are read. Says whether
    /// there are some of lanes that this relay does not have.
    fn take_handed(&mut self) -> bool {
        let handed = self.fallback.handed.take();
        let (mut elsewhere, now) = (handed.elsewhere, Instant::now());
        for row in handed.rows {
            let (full, index) = (self.is_full(), row.lane);
            let Some(lane) = self.lanes.get_mut(&index) else {
                elsewhere = true;
                continue;
            };
            // In another life of the database its number may be that of another row.
            let may_take = !full && may_read(lane) && row.life == self.life;
            if may_take && lane.hand(Arc::unwrap_or_clone(row).into_stored()) {
                self.queue_handed(index);
            } else {
                self.poll.hint(now);
            }
        }
        elsewhere
    }

    /// Queues the rows of a lane that were handed over and have nothing missing before them.
    fn queue_handed(&mut self, index: u16) {
        let Some(lane) = self.lanes.get_mut(&index) else { return };
        while let Some(row) = lane.next_handed() {
            let number = row.sequence;
            if lane.add(row) {
                self.queue.push_back(Ticket { lane: index, tenure: lane.tenure, number });
            }
        }
        lane.is_behind &= self.fallback.spills.last(index) >= lane.cursor.first_unknown();
        self.fallback.spills.settle_below(index, lane.floor(), self.life);
        if lane.has_early() {
            self.poll.hint_within(Instant::now(), NEXT_WITHIN);
        }
    }

    /// Begins to read a page, if there is room for one.
    fn read(&mut self) -> Aside<Answer> {
        let (mut holes, mut tenures) = (Vec::new(), Vec::new());
        for (index, lane) in self.readable() {
            holes.extend(lane.cursor.holes(index));
            tenures.resize(holes.len(), lane.tenure);
        }
        if holes.is_empty() {
            return None;
        }
        let share = |whole: usize, least| u32::try_from((whole / holes.len()).max(least)).unwrap_or(u32::MAX);
        let limits = Limits { rows: share(PAGE_ROWS, MIN_ROWS_PER_HOLE), bytes: share(PAGE_BYTES, MIN_BYTES_PER_HOLE) };
        let (outbox, ended) = (Arc::clone(&self.outbox), self.witnesses.ended());
        Some(Box::pin(async move {
            let page = outbox.page(&holes, limits).await;
            Answer { holes, tenures, limits, ended, page }
        }))
    }

    /// Takes in a page.
    fn look(&mut self, answer: Answer) {
        let now = Instant::now();
        let Answer { holes, tenures, limits, ended, page } = answer;
        let Page { mut rows, horizon, life } = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "a page could not be read; trying again");
                self.poll.failed(now);
                return;
            }
        };
        if life != self.life {
            tracing::warn!("the database was started anew; its lanes are leased anew");
            self.renew_at = now;
            return;
        }
        self.poll.read(now, !rows.is_empty());
        rows.sort_unstable_by_key(|row| (row.lane, row.sequence));
        let mut rows = rows.into_iter().peekable();
        let mut cut_lane = None;
        // Holes come lane by lane and in order, as `Cursor::holes` lists them.
        for (hole, tenure) in holes.into_iter().zip(tenures) {
            let mut found: Vec<StoredRow> = Vec::new();
            while let Some(row) = rows.next_if(|row| row.lane == hole.lane && row.sequence < hole.high) {
                found.push(row);
            }
            // Behind a hole that was cut there are rows, perhaps of the same keys, that this page does not have: what it
            // has of the lane's later holes would overtake them.
            let lane = self.lanes.get_mut(&hole.lane).filter(|lane| lane.tenure == tenure);
            let Some(lane) = lane.filter(|_| cut_lane != Some(hole.lane)) else { continue };
            let numbers: Vec<_> = found.iter().map(|row| row.sequence).collect();
            let cut = limits.are_reached(&found);
            let new = lane.cursor.look(&Look { hole, numbers: &numbers, cut, horizon, ended });
            let Some(new) = new else { continue };
            if cut {
                cut_lane = Some(hole.lane);
            } else if hole.high == i64::MAX {
                let spills = &self.fallback.spills;
                let is_missing = numbers.is_empty() && spills.last(hole.lane) >= new;
                // One that is to be handed over has its time.
                let is_late = is_missing && lane.misses(new, now) >= HANDED_WITHIN;
                lane.is_behind = is_late || (is_missing && spills.expected(hole.lane) >= new);
                if is_missing {
                    self.poll.hint_within(now, HANDED_WITHIN);
                }
            }
            self.fallback.spills.settle_below(hole.lane, lane.floor(), self.life);
            for row in found.into_iter().filter(|row| row.sequence >= new) {
                let number = row.sequence;
                if lane.add(row) {
                    self.queue.push_back(Ticket { lane: hole.lane, tenure, number });
                }
            }
            if lane.has_early() {
                self.queue_handed(hole.lane);
            }
        }
        if self.lanes.values().all(|lane| lane.len() == 0) {
            self.fallback.advance.made();
        }
        self.poll.expect(self.lanes.values().any(|lane| lane.is_behind || lane.cursor.has_gaps()));
    }

    /// When there is next something to do without being told.
    fn wake_at(&self, reading: bool) -> Instant {
        let is_leased = Instant::now() < self.leased_until;
        let unsaved = self.lanes.values().any(|lane| lane.has_unsaved() || lane.cursor.wants_mark());
        let times = [
            Some(self.renew_at.min(self.retain_at)),
            unsaved.then_some(self.save_at),
            self.lanes.values().any(|lane| lane.cursor.has_gaps()).then_some(self.ask_witnesses_at),
            self.lanes.values().any(|lane| lane.is_behind).then_some(self.ask_drawn_at),
            // When there is no room, a report tells that there is again.
            (!reading && self.readable().next().is_some()).then(|| self.poll.due_at()),
            // Nothing of lanes that are not ours for certain, or leave, is tried again.
            self.lanes
                .values()
                .filter(|lane| is_leased && !lane.leaving)
                .filter_map(|lane| lane.next_due(self.save_at))
                .min(),
        ];
        times.into_iter().flatten().min().unwrap_or(self.renew_at)
    }

    /// Waits for what is in flight, writes progress, and frees the lanes.
    async fn drain(mut self, time: Duration) -> Result<()> {
        let deadline = Instant::now() + time;
        // What is queued, and what these reports free, is left for the next relay.
        while self.submitted > 0 {
            match tokio::time::timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(report)) => self.take(report)?,
                _ => {
                    tracing::warn!("the broker did not confirm everything in time; the next relay sends it again");
                    break;
                }
            }
        }
        self.save(true).await;
        self.fallback.spills.relay_here(|_| false);
        self.fallback.handed.take();
        within(self.outbox.release(self.id, &[], true)).await;
        Ok(())
    }
}

impl Drop for Relay {
    /// Whoever watches it is not left with what was true of it last.
    fn drop(&mut self) {
        self.lanes.clear();
        self.tell();
    }
}

/// Whether the numbers of a lane go on where they ended. If not, as after a restore of the database without its sequences,
/// new events would be taken for delivered ones.
fn is_sound(lease: &Lease) -> bool {
    let highest = highest(&lease.settled);
    if lease.last < highest {
        tracing::error!(
            lane = lease.lane,
            last = lease.last,
            highest,
            "the numbers of the lane have gone back: nothing of it is relayed until its sequence is set to the highest number"
        );
    }
    lease.last >= highest
}

/// Whether more rows of the lane may be read, as far as it alone is concerned.
fn may_read(lane: &Lane) -> bool {
    !lane.leaving && lane.len() < LANE_ROWS && lane.bytes() < LANE_BYTES
}

/// What is done aside yields; for ever, if nothing is.
async fn done<T>(aside: &mut Aside<T>) -> T {
    match aside {
        Some(aside) => aside.await,
        None => std::future::pending().await,
    }
}

/// What a statement of the relay yields, unless it fails or takes too long.
async fn within<T>(statement: impl Future<Output = Result<T>>) -> Option<T> {
    match timeout(STATEMENT_TIMEOUT, statement).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the outbox's database failed; trying again");
            None
        }
        Err(_) => {
            tracing::warn!("the outbox's database did not answer in time; trying again");
            None
        }
    }
}

#[cfg(test)]
mod tests;
