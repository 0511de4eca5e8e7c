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
use crate::outbox::{Limits, Outbox, Progress};
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
mod leases;
mod nudge;
mod poison;
mod poll;
mod reading;
mod witnesses;

use firsts::{Firsts, Turn};
pub(crate) use handed::{Handed, Journaled};
use lane::{Lane, Trial};
use nudge::nudge;
pub(crate) use poison::Poison;
use poison::Verdict;
use poll::Poll;
use reading::{Answer, HANDED_WITHIN, HELD_BYTES, PAGE_ROWS};
use witnesses::Witnesses;

/// How often progress is written, at most. A crash repeats what was delivered since.
const SAVE_EVERY: Duration = Duration::from_millis(50);
/// How long to wait before the database is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(500);
/// How often the relay looks who writes, as long as there are gaps. Most are closed by the other proof before.
const ASK_WITNESSES_EVERY: Duration = Duration::from_millis(500);
/// How often the relay asks whether numbers that it was told of were given out, if they do not show.
const ASK_DRAWN_EVERY: Duration = Duration::from_millis(100);
/// How often delivered events that are old enough are dropped.
const RETAIN_EVERY: Duration = Duration::from_secs(60);
/// No statement of the relay may keep it from its leases for longer.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a relay that stops waits for what is in flight, unless it is told otherwise.
pub(crate) const DRAIN_TIME: Duration = Duration::from_secs(10);

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
    /// Not before this is another one made, should it not have been possible.
    connect_at: Instant,
    /// Of which keys that client has delivered something.
    firsts: Firsts,
    lanes: BTreeMap<u16, Lane>,
    /// Counts how often it took over a lane.
    tenures: u64,
    /// Rows to be submitted, in order.
    queue: VecDeque<Ticket>,
    /// How many rows were submitted and not reported on.
    submitted: usize,
    /// How many of these a client has that was given up. Nothing is submitted meanwhile: what another client has could overtake them.
    given_up: usize,
    reports: mpsc::UnboundedReceiver<Report>,
    reporter: mpsc::UnboundedSender<Report>,
    poll: Poll,
    /// How many rows the next page may have.
    page_rows: usize,
    /// The lane that it begins with: the one behind that which had no room in the last one.
    next_lane: u16,
    witnesses: Witnesses,
    ask_witnesses_at: Instant,
    ask_drawn_at: Instant,
    renew_at: Instant,
    /// Of which life of the database the leases are.
    life: i64,
    /// Behind this the leases may be somebody else's.
    leased_until: Instant,
    save_at: Instant,
    /// How often it has written progress down, or tried to.
    saves: i64,
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
            connect_at: now,
            firsts: Firsts::new(now),
            lanes: BTreeMap::new(),
            tenures: 0,
            queue: VecDeque::new(),
            submitted: 0,
            given_up: 0,
            reports,
            reporter,
            poll: Poll::new(now),
            page_rows: PAGE_ROWS,
            next_lane: 0,
            witnesses: Witnesses::default(),
            ask_witnesses_at: now,
            ask_drawn_at: now,
            renew_at: now,
            life: 0,
            leased_until: now,
            save_at: now,
            saves: 0,
            retain_at: now + RETAIN_EVERY,
        })
    }

    /// Relays until `shutdown` completes, which yields how long to wait for what is in flight then.
    pub(crate) async fn run(mut self, shutdown: impl Future<Output = Duration> + Send) {
        let mut shutdown = pin!(shutdown);
        let (mut reading, mut waking): (Aside<Answer>, Aside<()>) = (None, None);
        let (fallback, outbox) = (Arc::clone(&self.fallback), Arc::clone(&self.outbox));
        let mut woken = outbox.woken();
        let (mut nudging, mut nudged) = (pin!(nudge(Arc::clone(&self.transport))), self.client);
        let drain_time = loop {
            self.keep_leases().await;
            self.take_reports();
            self.retry_stuck();
            if self.take_handed() && waking.is_none() {
                let fallback = Arc::clone(&fallback);
                waking = Some(Box::pin(async move { fallback.wake_others().await }));
            }
            self.submit();
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
                Some(report) = self.reports.recv() => self.take(report),
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
                () = transport.room(), if self.given_up == 0 && !self.queue.is_empty() => {}
                never = &mut nudging => match never {},
                () = sleep_until(wake_at) => {}
            }
        };
        self.drain(drain_time).await;
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
            let rows = u32::try_from(limit).unwrap_or(u32::MAX);
            let limits = Limits { rows, bytes: HELD_BYTES, in_all: rows };
            let rows = within(self.outbox.held(index, &key, limits)).await;
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
            let rows: Vec<_> = rows.into_iter().map(|held| held.row).collect();
            let limit = if limits.are_reached(rows.iter().map(|row| row.bytes)) { rows.len() } else { limit };
            let numbers = lane.retry(&key, rows, limit, now);
            self.queue.extend(numbers.into_iter().map(|number| Ticket { lane: index, tenure, number }));
        }
    }

    /// Takes in what became of the rows that were reported on.
    fn take_reports(&mut self) {
        while let Ok(report) = self.reports.try_recv() {
            self.take(report);
        }
    }

    /// Takes in what became of a row.
    fn take(&mut self, report: Report) {
        let Report { ticket: Ticket { lane: index, tenure, number }, client, first, result } = report;
        self.submitted -= 1;
        self.given_up -= usize::from(client != self.client);
        if let Some(first) = first.filter(|_| client == self.client) {
            self.firsts.ended(first, result.is_ok());
        }
        if let Err(error) = &result
            && error.kind() == ErrorKind::ClientFailed
            && client == self.client
            && Instant::now() >= self.connect_at
        {
            tracing::error!(%error, "the relay's client failed for good, and is replaced");
            match self.transports.connect(Role::Relay) {
                Ok(transport) => self.replace_client(transport),
                // A later record that fails asks for one again.
                Err(error) => {
                    tracing::error!(%error, "a new client can't be made");
                    self.connect_at = Instant::now() + RETRY_AFTER;
                }
            }
        }
        // Of a lane that was lost, even if it was won again since, the new lease starts from what was saved.
        let Some(lane) = self.lanes.get_mut(&index).filter(|lane| lane.tenure == tenure) else {
            return;
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
    }

    /// Goes on with another client than the one that failed.
    fn replace_client(&mut self, transport: Arc<dyn Transport>) {
        self.firsts = Firsts::new(Instant::now());
        let old = std::mem::replace(&mut self.transport, transport);
        if !Arc::ptr_eq(&old, &self.transport) {
            self.client += 1;
            self.given_up = self.submitted;
            self.transports.give_up(old);
        }
    }

    fn retry_stuck(&mut self) {
        let now = Instant::now();
        for (index, lane) in &mut self.lanes {
            let tenure = lane.tenure;
            self.queue.extend(lane.due(now).into_iter().map(|number| Ticket { lane: *index, tenure, number }));
        }
    }

    /// Submits what is queued, as far as the transport has room.
    fn submit(&mut self) {
        if Instant::now() >= self.leased_until {
            return;
        }
        while self.given_up == 0
            && let Some(ticket) = self.queue.pop_front()
        {
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
                return;
            }
            self.submitted += 1;
            if let Some(first) = first {
                self.firsts.began(first);
            }
            if let Some(lane) = self.lanes.get_mut(&index) {
                lane.submitted += 1;
            }
            // A record may fail at once, and those of its key behind it need not follow it.
            self.take_reports();
        }
    }

    /// Writes progress, when it is time to or `now`; and takes a mark if a gap wants one.
    async fn save(&mut self, now: bool) {
        let wanted = self.lanes.values().any(|lane| lane.has_unsaved() || lane.cursor.wants_mark());
        if !wanted || (!now && Instant::now() < self.save_at) {
            return;
        }
        let unsaved = self.lanes.iter_mut().filter(|(_, lane)| lane.has_unsaved());
        self.saves += 1;
        let (life, save) = (self.life, self.saves);
        let progress: Vec<_> =
            unsaved.map(|(index, lane)| Progress { save, ..lane.take_progress(*index, life) }).collect();
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
    async fn drain(mut self, time: Duration) {
        let deadline = Instant::now() + time;
        // What is queued, and what these reports free, is left for the next relay.
        while self.submitted > 0 {
            match tokio::time::timeout_at(deadline, self.reports.recv()).await {
                Ok(Some(report)) => self.take(report),
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
    }
}

impl Drop for Relay {
    /// Whoever watches it is not left with what was true of it last.
    fn drop(&mut self) {
        self.lanes.clear();
        self.tell();
    }
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
