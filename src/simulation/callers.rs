//! What services do: they emit, one by one, in batches and in transactions, give up waiting, and try again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{DEFINITIONS, Direct, Event, Fate, Way};
use super::plan;
use super::process::Process;
use super::session::Session;
use super::situation::Situation;
use super::world::World;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};
use crate::{EmitRequest, Emitter as _, OutboxMode, Outcome, PolicyOverride, Producer, Receipt, StoredReason};

/// An emit may take this much longer than it was given.
const SLACK: Duration = Duration::from_millis(1_500);

/// How long an emit waits for the database to say what others have stored.
const LOOK_UP_TIMEOUT: Duration = Duration::from_millis(500);

/// How long an emit may take that says nothing of it.
const EMIT_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) struct Caller {
    world: Arc<World>,
    process: Arc<Process>,
    producer: Producer,
    session: Session,
    built: u64,
    rng: Rng,
}

/// Emits all that a caller of the plan has left.
pub(super) async fn call(
    world: Arc<World>,
    process: Arc<Process>,
    producer: Producer,
    session: Session,
    built: u64,
    index: usize,
    plan: plan::Caller,
) {
    let rng = Rng::with_seed(plan.seed ^ process.number);
    let mut caller = Caller { world: Arc::clone(&world), process: Arc::clone(&process), producer, session, built, rng };
    loop {
        let pause = caller.millis(world.plan.pause);
        sleep(pause).await;
        if process.stopping.load(Ordering::SeqCst) || !world.next_emit(index) {
            return;
        }
        match caller.rng.u8(..20) {
            0..12 => caller.emit().await,
            12..16 => caller.emit_batch().await,
            _ => caller.emit_in().await,
        }
        world.emitted(index);
    }
}

impl Caller {
    pub(super) fn new(world: &Arc<World>, process: &Arc<Process>, producer: Producer, built: u64) -> Self {
        let session = Session::new(world, process);
        let rng = world.rng(5, process.place as u64);
        Self { world: Arc::clone(world), process: Arc::clone(process), producer, session, built, rng }
    }

    fn millis(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.rng.u64(0..=u64::try_from(most.as_millis()).unwrap()))
    }

    fn event(&mut self, way: Way, key: usize, batch: Option<(u64, usize)>) -> u64 {
        let definition = if self.rng.u8(..4) == 0 { self.rng.usize(1..3) } else { 0 };
        let mut ledger = self.world.ledger();
        ledger.events.push(Event {
            key,
            definition,
            producer: (self.process.place, self.process.number),
            built: self.built,
            way,
            batch,
            began: self.world.step(),
            accepted: None,
            began_at: self.world.elapsed(),
            accepted_at: None,
            fate: Fate::Unknown,
            committed: false,
            lost: false,
            licences: Vec::new(),
            direct: Direct::None,
            relayed: Vec::new(),
            settled_under_way: false,
            rows: 0,
            commands: Vec::new(),
            under_way: 0,
            direct_since: None,
            refused: 0,
            turned_down: false,
            storing: false,
        });
        let event = ledger.events.len() as u64 - 1;
        self.world.tell(|| {
            format!("{}: emits e{event} of k{key} ({way:?}, {})", self.process.name(), DEFINITIONS[definition])
        });
        event
    }

    fn request(&self, event: u64) -> EmitRequest {
        let (key, definition, way) = {
            let mut ledger = self.world.ledger();
            let event = ledger.event(event);
            (event.key, event.definition, event.way)
        };
        let mode = match way {
            Way::Transaction if event.is_multiple_of(2) => OutboxMode::Journaled,
            Way::Journaled => OutboxMode::Journaled,
            Way::Fallback | Way::Transaction => OutboxMode::Fallback,
            Way::Never => OutboxMode::Never,
            Way::Always => OutboxMode::Always,
        };
        EmitRequest::new(DEFINITIONS[definition])
            .id(format!("e{event}").parse().unwrap())
            .tenant(format!("k{key}"))
            .payload(event.to_string())
            .policy(PolicyOverride::default().with_outbox(mode))
    }

    fn any_way(&mut self) -> Way {
        match self.rng.u8(..20) {
            0..14 => Way::Fallback,
            14 | 15 => Way::Always,
            16 => Way::Journaled,
            _ => Way::Never,
        }
    }

    fn any_key(&mut self) -> usize {
        self.rng.usize(..self.world.plan.keys)
    }

    /// Takes down what became of an emit.
    fn heard(&self, number: u64, result: &Result<Receipt>) {
        let step = self.world.step();
        let mut ledger = self.world.ledger();
        let event = ledger.event(number);
        match result {
            Ok(receipt) => {
                event.fate = Fate::Accepted;
                event.accepted = Some(step);
                event.accepted_at = Some(self.world.elapsed());
                if let Outcome::Stored { .. } = receipt.outcome {
                    self.world.tell(|| format!("{}: e{number} is stored: {:?}", self.process.name(), receipt.outcome));
                } else {
                    self.world.tell(|| format!("{}: e{number} is published", self.process.name()));
                }
                self.world.went(self.process.place, event.key, matches!(receipt.outcome, Outcome::Published { .. }));
            }
            Err(error) => {
                let is_ambiguous = error.is_ambiguous() || event.fate == Fate::Ambiguous;
                event.fate = if is_ambiguous { Fate::Ambiguous } else { Fate::Failed };
                let ambiguous = if error.is_ambiguous() { ", and may be there" } else { "" };
                self.world.tell(|| format!("{}: e{number} fails{ambiguous}: {error}", self.process.name()));
                if error.kind() == ErrorKind::LaneSpilled {
                    self.world.reach(Situation::LaneSpilledError);
                }
            }
        }
    }

    fn is_lane_unsettled(&self, key: usize) -> bool {
        let lane = self.world.lane_of(format!("k{key}").as_bytes());
        let head = self.world.database().heads()[usize::from(lane)];
        head.last >= head.floor
    }

    fn check_time(&self, event: u64, began: Instant, limit: Duration) {
        // Who sleeps takes longer.
        let slept = self.world.has_slept(self.process.place);
        if began.elapsed() > limit + SLACK && !slept {
            self.world
                .violate(format!("too late: the emit of e{event} took {:?} instead of {limit:?}", began.elapsed()));
        }
    }

    /// Whatever the brokers do, an emit that is accepted has waited for them no longer than it may, and for the database.
    fn check_latency(&self, event: u64, began: Duration, way: Way) {
        let (now, plan) = (self.world.elapsed(), &self.world.plan);
        let waits = match way {
            // For its lane, and then for the broker.
            Way::Fallback => 2 * plan.direct_timeout,
            // It has nowhere else to go.
            Way::Never => return,
            _ => Duration::ZERO,
        };
        if plan.disturbs_look_up(began, now) || self.world.has_slept(self.process.place) {
            return;
        }
        let direct_since = self.world.ledger().event(event).direct_since.unwrap_or(now);
        let waited_long = now - direct_since > plan.direct_timeout + LOOK_UP_TIMEOUT && !plan.changes_lanes(began, now);
        if waited_long || now - began > waits + LOOK_UP_TIMEOUT + SLACK {
            self.world.violate(format!(
                "too late: e{event} was accepted after {:?}, {:?} of these for the brokers, with a database that was well",
                now - began,
                now - direct_since,
            ));
        }
    }

    async fn emit(&mut self) {
        let (way, key) = (self.any_way(), self.any_key());
        let event = self.event(way, key, None);
        let limit = if self.rng.bool() { EMIT_TIMEOUT } else { self.millis(Duration::from_secs(5)) };
        let (tries, drops) = (self.rng.usize(1..4), self.rng.u8(..10) == 0);
        let most = if self.rng.bool() { 20 } else { 2_000 };
        let patience = self.millis(Duration::from_millis(most));
        for attempt in 0..tries {
            let was_unsettled = self.is_lane_unsettled(key);
            self.world.ledger().event(event).emitted_again();
            let request = self.request(event).timeout(limit);
            let (began, began_at) = (Instant::now(), self.world.elapsed());
            let result = if drops && attempt == 0 {
                match timeout(patience, self.producer.emit(request)).await {
                    Ok(result) => result,
                    Err(_) => {
                        self.dropped(event);
                        continue;
                    }
                }
            } else {
                self.producer.emit(request).await
            };
            self.check_time(event, began, limit);
            self.heard(event, &result);
            let Err(error) = result else {
                self.check_latency(event, began_at, way);
                if way == Way::Never && was_unsettled {
                    self.world.reach(Situation::NeverWaited);
                }
                return;
            };
            if !error.is_retryable() || self.process.stopping.load(Ordering::SeqCst) {
                return;
            }
            self.emit_again(event, &error).await;
        }
    }

    async fn emit_again(&mut self, event: u64, error: &Error) {
        if error.is_ambiguous() {
            self.world.ledger().license(event, "emitted again");
        }
        let pause = self.millis(Duration::from_millis(800));
        sleep(pause).await;
    }

    fn dropped(&self, number: u64) {
        self.world.tell(|| format!("{}: the emit of e{number} is dropped", self.process.name()));
        let mut ledger = self.world.ledger();
        // If it is emitted again, it may be there already.
        ledger.license(number, "its emit was dropped");
        let event = ledger.event(number);
        event.fate = Fate::Ambiguous;
        let (is_storing, is_direct) = (event.storing, event.under_way > 0);
        drop(ledger);
        if is_storing {
            self.world.reach(Situation::DroppedStoring);
        } else if is_direct {
            self.world.reach(Situation::DroppedDirect);
        }
    }

    async fn emit_batch(&mut self) {
        let batch = {
            let mut ledger = self.world.ledger();
            ledger.batches += 1;
            ledger.batches
        };
        let way = self.any_way();
        let events: Vec<_> = (0..self.rng.usize(2..9))
            .map(|place| {
                let key = self.any_key();
                self.event(way, key, Some((batch, place)))
            })
            .collect();
        let limit = if self.rng.bool() { EMIT_TIMEOUT } else { self.millis(Duration::from_secs(5)) };
        let requests = events.iter().map(|event| self.request(*event).timeout(limit)).collect();
        let began = Instant::now();
        let results = self.producer.emit_batch(requests).await;
        self.check_time(events[0], began, limit);
        let mut was_direct = false;
        for (event, result) in events.iter().zip(&results) {
            self.heard(*event, result);
            match result.as_ref().map(|receipt| &receipt.outcome) {
                Ok(Outcome::Published { .. }) => was_direct = true,
                Ok(Outcome::Stored { reason: StoredReason::PublishFailed | StoredReason::LaneSpilled, .. })
                    if was_direct =>
                {
                    self.world.reach(Situation::SpillDuringBatch);
                }
                _ => {}
            }
        }
    }

    async fn emit_in(&mut self) {
        let Ok(transaction) = self.session.begin().await else { return };
        let batch = {
            let mut ledger = self.world.ledger();
            ledger.batches += 1;
            ledger.batches
        };
        let key = self.any_key();
        if self.rng.u8(..5) > 0 && self.session.lock(transaction, key).await.is_err() {
            return self.session.roll_back(transaction).await;
        }
        let mut place = 0;
        let (mut events, mut receipts) = (Vec::new(), Vec::new());
        for _ in 0..self.rng.usize(1..3) {
            let appended: Vec<_> = (0..self.rng.usize(1..4))
                .map(|_| {
                    place += 1;
                    self.event(Way::Transaction, key, Some((batch, place)))
                })
                .collect();
            let requests = appended.iter().map(|event| self.request(*event)).collect();
            let Ok(stored) = self.producer.append(Tx(Inner::Simulated(transaction)), requests).await else {
                return self.session.roll_back(transaction).await;
            };
            receipts.extend(stored);
            events.extend(appended);
            let most = if self.rng.u8(..6) == 0 { 4_000 } else { 60 };
            let pause = self.millis(Duration::from_millis(most));
            sleep(pause).await;
        }
        match self.rng.u8(..20) {
            // Forgotten: its connection is closed some time.
            0 => {}
            1..6 => self.session.roll_back(transaction).await,
            _ => {
                if self.session.commit(transaction).await.is_ok() {
                    self.producer.committed(receipts);
                    let mut ledger = self.world.ledger();
                    for event in events {
                        ledger.event(event).fate = Fate::Accepted;
                    }
                }
            }
        }
    }

    /// Whether events of this key are published directly again.
    pub(super) async fn goes_direct(&mut self, key: usize) -> bool {
        let event = self.event(Way::Fallback, key, None);
        let result = self.producer.emit(self.request(event)).await;
        self.heard(event, &result);
        matches!(result, Ok(Receipt { outcome: Outcome::Published { .. }, .. }))
    }
}
