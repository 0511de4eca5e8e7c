//! The brokers, and the clients that each process has of them (src/transport/kafka.rs).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use fastrand::Rng;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::ledger::{DEFINITIONS, Direct, Relayed};
use super::plan::Fault;
use super::process::Process;
use super::situation::Situation;
use super::world::World;
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::lane;
use crate::producer::client::Role;
use crate::transport::{Delivery, OnDelivery, QueueFull, Record, Transport, Vitals};

/// What is on the topics, in the order in which it arrived.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    pub(super) log: Vec<Arrived>,
    clients: u64,
}

#[derive(Debug)]
pub(super) struct Arrived {
    /// None of a record that is none of ours.
    pub(super) event: Option<u64>,
    pub(super) key: usize,
    pub(super) is_dead_letter: bool,
    pub(super) place: usize,
    pub(super) role: Role,
    pub(super) at: Duration,
}

fn is_silent(fault: Fault) -> bool {
    matches!(fault, Fault::Silent | Fault::Blackout)
}

/// The event that a record is of: its payload is the number.
fn event_of(record: &Record) -> Option<u64> {
    std::str::from_utf8(record.payload.as_deref()?).ok()?.parse().ok()
}

pub(super) fn event_of_id(id: &str) -> u64 {
    id.strip_prefix('e').and_then(|number| number.parse().ok()).expect("ids are the simulation's")
}

fn key_of(record: &Record) -> usize {
    std::str::from_utf8(&record.key)
        .ok()
        .and_then(|key| key.strip_prefix('k')?.parse().ok())
        .expect("keys are the simulation's")
}

/// A client, as its process holds it.
#[derive(Debug)]
pub(super) struct Client(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    world: Arc<World>,
    process: Arc<Process>,
    role: Role,
    number: u64,
    state: Mutex<State>,
    room: Notify,
    /// Of each partition: told when there is something to send, or nothing ever more.
    work: Vec<Notify>,
}

struct State {
    rng: Rng,
    serial: u64,
    /// What is not reported on.
    held: BTreeMap<u64, Held>,
    queues: Vec<VecDeque<u64>>,
    acknowledged: u64,
    given_up: bool,
    failed: bool,
    /// Keys of which a record has expired.
    expired: Vec<usize>,
    /// Partitions whose leaders know the client, and those to come.
    known_to: BTreeSet<usize>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("State")
    }
}

struct Held {
    record: Record,
    event: u64,
    key: usize,
    on_delivery: OnDelivery,
    since: Instant,
    sent: bool,
    /// Which time it is that a relay sends the event.
    time: Option<usize>,
}

/// Records that travel together.
type Batch = Vec<(u64, u64, Record)>;

impl Client {
    pub(super) fn connect(world: &Arc<World>, process: &Arc<Process>, role: Role) -> Arc<Self> {
        let number = {
            let mut cluster = world.cluster();
            cluster.clients += 1;
            cluster.clients
        };
        let partitions = usize::from(world.plan.partitions);
        let state = State {
            rng: world.rng(1, number),
            serial: 0,
            held: BTreeMap::new(),
            queues: vec![VecDeque::new(); partitions],
            acknowledged: 0,
            given_up: false,
            failed: false,
            expired: Vec::new(),
            known_to: BTreeSet::new(),
        };
        let inner = Arc::new(Inner {
            world: Arc::clone(world),
            process: Arc::clone(process),
            role,
            number,
            state: Mutex::new(state),
            room: Notify::new(),
            work: (0..partitions).map(|_| Notify::new()).collect(),
        });
        for partition in 0..partitions {
            process.spawn(Arc::clone(&inner).send(partition));
        }
        if role == Role::Direct {
            process.spawn(Arc::clone(&inner).expire());
        }
        let client = Arc::new(Self(inner));
        process.clients.lock().unwrap().push((role, Arc::downgrade(&client)));
        client
    }

    /// How many records of a lane, or of any, are not reported on.
    pub(super) fn in_flight(&self, lane: Option<u16>) -> usize {
        let is_of = |held: &&Held| lane.is_none_or(|lane| self.0.world.lane_of(&held.record.key) == lane);
        self.0.state().held.values().filter(is_of).count()
    }

    /// The process has crashed: whoever had records that were sent never hears of them.
    pub(super) fn vanish(&self) {
        let mut state = self.0.state();
        state.given_up = true;
        let held = std::mem::take(&mut state.held);
        drop(state);
        drop(held);
    }

    /// The client breaks down.
    pub(super) fn fail(&self) {
        self.0.state().failed = true;
        let count = self.0.give_up(ErrorKind::ClientFailed, "failed for good");
        if count > 0 {
            self.0.world.reach(Situation::ClientFailed);
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn name(&self) -> String {
        let role = if self.role == Role::Direct { "direct" } else { "relay" };
        format!("{} {role} client {}", self.process.name(), self.number)
    }

    fn is_over(&self) -> bool {
        let state = self.state();
        (state.given_up || state.failed) && state.held.is_empty()
    }

    /// Says what became of a record, once.
    fn report(&self, serial: u64, result: Result<Delivery>) {
        let Some(held) = self.take(serial) else { return };
        self.report_held(held, result);
    }

    fn take(&self, serial: u64) -> Option<Held> {
        let mut state = self.state();
        for queue in &mut state.queues {
            queue.retain(|queued| *queued != serial);
        }
        state.held.remove(&serial)
    }

    fn report_held(&self, held: Held, result: Result<Delivery>) {
        {
            let mut ledger = self.world.ledger();
            let refused = result.as_ref().is_err_and(|error| error.kind() == ErrorKind::RecordRejected);
            let event = ledger.event(held.event);
            event.under_way -= u32::from(self.role == Role::Direct);
            match (self.role, &result) {
                // Its caller may have given up at this very moment.
                (Role::Direct, Ok(_)) if held.since.elapsed() >= self.world.plan.direct_timeout => {
                    event.direct = Direct::Ambiguous;
                }
                (Role::Direct, Ok(_)) => event.direct = Direct::Acknowledged,
                (Role::Direct, Err(error)) if error.is_ambiguous() => event.direct = Direct::Ambiguous,
                (Role::Direct, Err(_)) => event.turned_down |= refused,
                (Role::Relay, _) => event.refused += u32::from(refused),
            }
            if let Some(time) = held.time {
                event.relayed[time].1 = match &result {
                    Ok(_) => Relayed::Acknowledged,
                    Err(error) if error.is_ambiguous() => Relayed::Ambiguous,
                    Err(_) => Relayed::Failed,
                };
            }
        }
        if result.is_err() {
            let behind: Vec<_> =
                self.state().held.values().filter(|other| other.key == held.key).map(|other| other.event).collect();
            if !behind.is_empty() {
                self.world.reach(Situation::FailedAhead);
                // A broker that refuses one record, and takes those that are on their way behind it, reorders them.
                if result.as_ref().is_err_and(|error| error.kind() == ErrorKind::RecordRejected) {
                    let overtaken = behind.into_iter().map(|behind| (held.event, behind));
                    self.world.ledger().overtaken.extend(overtaken);
                }
            }
        }
        self.world.tell(|| match &result {
            Ok(_) => format!("{}: e{} is acknowledged", self.name(), held.event),
            Err(error) => format!("{}: e{} fails: {error}", self.name(), held.event),
        });
        held.on_delivery.call(result);
        self.room.notify_one();
    }

    /// Reports all that is held as failed; what was sent may arrive. Of each partition what was sent, and what was not, is reported on
    /// at once, and all these in any order, and not without a pause: some may be acknowledged before.
    fn give_up(self: &Arc<Self>, kind: ErrorKind, why: &'static str) -> usize {
        let (groups, count) = {
            let mut state = self.state();
            state.given_up = true;
            for queue in &mut state.queues {
                queue.clear();
            }
            let mut groups: BTreeMap<_, Vec<u64>> = BTreeMap::new();
            for (serial, held) in &state.held {
                groups.entry((self.partition_of(&held.record), held.sent)).or_default().push(*serial);
            }
            let mut groups: Vec<_> = groups.into_values().collect();
            state.rng.shuffle(&mut groups);
            (groups, state.held.len())
        };
        let inner = Arc::clone(self);
        self.process.spawn(async move {
            for serials in groups {
                let pause = inner.state().rng.u64(0..4);
                sleep(Duration::from_millis(pause)).await;
                for held in serials.into_iter().filter_map(|serial| inner.take(serial)).collect::<Vec<_>>() {
                    let error = Error::new(kind, why).or_ambiguous(held.sent);
                    inner.report_held(held, Err(error));
                }
            }
            for work in &inner.work {
                work.notify_one();
            }
        });
        count
    }

    fn partition_of(&self, record: &Record) -> usize {
        usize::from(lane::of_key(&record.key, self.world.plan.partitions))
    }

    /// Whether what is sent now would go nowhere, as everybody knows.
    fn can_not_send(fault: Fault, partition: usize) -> bool {
        match fault {
            Fault::Cut | Fault::LockedOut => true,
            Fault::Leaderless(of) => usize::from(of) == partition,
            _ => false,
        }
    }

    fn is_unreachable(fault: Fault, partition: usize) -> bool {
        Self::can_not_send(fault, partition) || is_silent(fault)
    }

    /// Sends what is queued for a partition, a batch at a time: an idempotent client keeps its order.
    async fn send(self: Arc<Self>, partition: usize) {
        loop {
            while self.state().queues[partition].is_empty() {
                if self.is_over() {
                    return;
                }
                self.work[partition].notified().await;
            }
            let linger = self.state().rng.u64(0..5);
            sleep(Duration::from_millis(linger)).await;
            self.world.outlast(|fault| Self::can_not_send(fault, partition)).await;
            let batch = self.next_batch(partition);
            if batch.is_empty() {
                continue;
            }
            self.process.step().await;
            let (acknowledge, acknowledged) = oneshot::channel();
            self.world.spawn(Arc::clone(&self).arrive(partition, batch, acknowledge));
            let Ok(results) = acknowledged.await else { continue };
            for (serial, result) in results {
                if result.is_ok() {
                    self.state().acknowledged += 1;
                }
                self.report(serial, result);
            }
        }
    }

    fn next_batch(&self, partition: usize) -> Batch {
        let mut state = self.state();
        let count = state.rng.usize(1..=8);
        let count = count.min(state.queues[partition].len());
        let serials: Vec<_> = state.queues[partition].drain(..count).collect();
        let batch = serials.into_iter().filter_map(|serial| {
            let held = state.held.get_mut(&serial)?;
            held.sent = true;
            Some((serial, held.event, held.record.clone()))
        });
        batch.collect()
    }

    /// The way of a batch, which its client does not control any more.
    async fn arrive(
        self: Arc<Self>,
        partition: usize,
        batch: Batch,
        acknowledge: oneshot::Sender<Vec<(u64, Result<Delivery>)>>,
    ) {
        let (there, back, luck) = {
            let mut state = self.state();
            (state.rng.u64(0..6), state.rng.u64(0..6), state.rng.bool())
        };
        let slow = if self.world.has(|fault| fault == Fault::SlowBroker) { 40 } else { 1 };
        sleep(Duration::from_millis(there * slow)).await;
        let waited = self.world.outlast(|fault| Self::is_unreachable(fault, partition)).await;
        if waited && self.state().given_up && luck {
            // The connection on which it waited was closed, and nobody sends it again.
            return;
        }
        let results = self.append(partition, batch, waited);
        let loses = self.world.has(|fault| fault == Fault::LostAcks) && luck;
        if loses && !acknowledge.is_closed() {
            self.world.reach(Situation::LostAck);
            // It is asked again on another connection, and knows the batch.
            self.world.outlast(|fault| fault == Fault::LostAcks).await;
        }
        sleep(Duration::from_millis(back * slow)).await;
        self.world.outlast(|fault| Self::is_unreachable(fault, partition)).await;
        let _ = acknowledge.send(results);
    }

    /// The broker takes a batch. If that was two requests of a client that it knows nothing of, and it `has_taken_over` since the first
    /// one was sent, it may take the second alone.
    fn append(&self, partition: usize, mut batch: Batch, has_taken_over: bool) -> Vec<(u64, Result<Delivery>)> {
        let mut results = Vec::new();
        if self.state().known_to.insert(partition) && has_taken_over && batch.len() > 1 {
            let count = self.state().rng.usize(1..batch.len());
            for (serial, event, _) in batch.drain(..count) {
                self.world.reach(Situation::TakenAlone);
                self.world.tell(|| format!("{}: e{event} is not taken, and one behind it is", self.name()));
                if self.role == Role::Direct {
                    let state = self.state();
                    let Some(key) = state.held.get(&serial).map(|held| held.key) else { continue };
                    let behind = state.held.range(serial + 1..).filter(|(_, other)| other.key == key);
                    self.world.ledger().overtaken.extend(behind.map(|(_, other)| (event, other.event)));
                }
                results
                    .push((serial, Err(Error::new(ErrorKind::Timeout, "one behind it was taken").or_ambiguous(true))));
            }
        }
        for (serial, event, record) in batch {
            let key = key_of(&record);
            let is_dead_letter = record.topic.ends_with(".dlq");
            if !is_dead_letter && self.world.has(|fault| fault == Fault::Refused(key)) {
                results.push((serial, Err(Error::new(ErrorKind::RecordRejected, "refused for what it is"))));
                continue;
            }
            let (is_ghost, is_behind_expired) = {
                let state = self.state();
                (!state.held.contains_key(&serial), state.expired.contains(&key))
            };
            if is_ghost {
                self.world.reach(Situation::Ghost);
            } else if is_behind_expired {
                self.world.reach(Situation::ExpiredAhead);
            }
            assert!(is_dead_letter || DEFINITIONS.iter().any(|name| record.topic.contains(name)), "{}", record.topic);
            if self.role == Role::Relay && !is_dead_letter {
                let (lane, parked) = (self.world.lane_of(&record.key), self.world.database().parked_keys());
                if parked.iter().any(|(of, key)| *of == lane && *key != record.key) {
                    self.world.reach(Situation::PassedParked);
                }
            }
            let mut cluster = self.world.cluster();
            let before = cluster.log.iter().rev().find(|arrived| arrived.key == key);
            let is_shared = before.is_some_and(|before| {
                before.place != self.process.place && before.role == Role::Direct && self.role == Role::Direct
            });
            let (place, role, at) = (self.process.place, self.role, self.world.elapsed());
            cluster.log.push(Arrived { event: event_of(&record), key, is_dead_letter, place, role, at });
            let offset = i64::try_from(cluster.log.len()).unwrap();
            drop(cluster);
            if is_shared {
                self.world.reach(Situation::TwoProcesses);
            }
            if is_dead_letter && self.role == Role::Relay {
                self.world.reach(Situation::DeadLettered);
            }
            self.world.tell(|| {
                let dead = if is_dead_letter { " on its dead-letter topic" } else { "" };
                format!("e{event} of k{key} arrives{dead}, from the {}", self.name())
            });
            results.push((serial, Ok(Delivery { partition: i32::try_from(partition).unwrap(), offset })));
        }
        results
    }

    /// A relay sends an event, once more perhaps, for which there must be a cause. Yields which time it is.
    fn relays(&self, event: u64, record: &Record) -> Option<usize> {
        if record.topic.ends_with(".dlq") {
            return None;
        }
        let lane = self.world.lane_of(&record.key);
        let is_owner = self.world.is_owner(lane, self.process.place);
        let breaks = is_owner.then(|| self.world.breaks_of(lane));
        let mut ledger = self.world.ledger();
        let state = ledger.event(event);
        let before = state.relayed.iter().filter(|(_, what)| *what != Relayed::Failed).copied().collect::<Vec<_>>();
        let has_cause = |(then, what): &(Option<u64>, Relayed)| {
            // One that is not ours, or has been another's since, or of which nobody knows; or there are two rows of it.
            *what == Relayed::Ambiguous || breaks.is_none() || *then != breaks || state.rows > 1
        };
        let is_caused = before.iter().all(has_cause);
        state.relayed.push((breaks, Relayed::UnderWay));
        if !before.is_empty() && is_caused {
            state.licences.push("a relay could not know what became of it");
        }
        let time = state.relayed.len() - 1;
        drop(ledger);
        if !is_caused {
            self.world
                .violate(format!("repeated: e{event} is sent once more by a relay that knows better: {before:?}"));
        }
        Some(time)
    }

    /// Gives up direct records whose time is over, one by one.
    async fn expire(self: Arc<Self>) {
        loop {
            sleep(Duration::from_millis(100)).await;
            if self.is_over() {
                return;
            }
            let late: Vec<_> = {
                let mut state = self.state();
                let is_late = |held: &Held| held.since.elapsed() >= self.world.plan.delivery_timeout;
                let late: Vec<_> =
                    state.held.iter().filter(|(_, held)| is_late(held)).map(|(serial, _)| *serial).collect();
                let keys: Vec<_> =
                    late.iter().filter_map(|serial| state.held.get(serial)).map(|held| held.key).collect();
                state.expired.extend(keys);
                late
            };
            for serial in late {
                // Whether it was sent is not told.
                self.report(serial, Err(Error::new(ErrorKind::Timeout, "its time is over").or_ambiguous(true)));
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !self.0.process.is_dead() {
            self.0.give_up(ErrorKind::Timeout, "the client was dropped");
        }
    }
}

impl Transport for Client {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        let inner = &*self.0;
        if inner.process.is_dead() {
            return Ok(());
        }
        let refused = {
            let state = inner.state();
            if state.failed {
                Some(Error::new(ErrorKind::ClientFailed, "the client has failed"))
            } else if state.given_up {
                Some(Error::new(ErrorKind::BrokerUnavailable, "the client was given up"))
            } else if !state.held.is_empty() && inner.world.has(|fault| fault == Fault::LockedOut) {
                Some(Error::new(ErrorKind::Unauthenticated, "not let in"))
            } else {
                None
            }
        };
        if let Some(error) = refused {
            on_delivery.call(Err(error));
            return Ok(());
        }
        let event = event_of(record).expect("its payload is its number");
        let mut state = inner.state();
        if state.held.len() >= inner.world.plan.capacity {
            drop(state);
            inner.world.reach(Situation::QueueFull);
            return Err(QueueFull(on_delivery));
        }
        let partition = inner.partition_of(record);
        state.serial += 1;
        let serial = state.serial;
        let key = key_of(record);
        let time = match inner.role {
            Role::Direct => {
                let (mut ledger, now) = (inner.world.ledger(), inner.world.elapsed());
                let event = ledger.event(event);
                event.under_way += 1;
                event.direct_since.get_or_insert(now);
                None
            }
            Role::Relay => inner.relays(event, record),
        };
        let record = record.clone();
        let held = Held { record, event, key, on_delivery, since: Instant::now(), sent: false, time };
        state.held.insert(serial, held);
        state.queues[partition].push_back(serial);
        drop(state);
        inner.world.tell(|| format!("{}: e{event} is submitted", inner.name()));
        inner.process.count_step();
        inner.work[partition].notify_one();
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _ = timeout(Duration::from_millis(10), self.0.room.notified()).await;
        })
    }

    fn flush(&self, limit: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move {
            let idle = async {
                while !self.0.state().held.is_empty() {
                    sleep(Duration::from_millis(5)).await;
                }
            };
            timeout(limit, idle).await.is_ok()
        })
    }

    fn refusal(&self) -> Option<Error> {
        let locked = self.0.world.has(|fault| fault == Fault::LockedOut);
        if locked {
            self.0.world.reach(Situation::LockedOut);
        }
        locked.then(|| Error::new(ErrorKind::Unauthenticated, "not let in"))
    }

    fn vitals(&self) -> Option<Vitals> {
        if self.0.world.has(|fault| fault == Fault::LockedOut) {
            return None;
        }
        let state = self.0.state();
        #[allow(clippy::cast_precision_loss, reason = "it is a share")]
        let fullness = state.held.len() as f32 / self.0.world.plan.capacity as f32;
        let is_connected = !self.0.world.has(|fault| fault == Fault::Cut);
        let (unacknowledged, acknowledged) = (state.held.len(), state.acknowledged);
        Some(Vitals { unacknowledged, acknowledged, fullness, is_connected, round_trip: None })
    }

    fn retire(&self) {
        if self.0.process.is_dead() {
            return;
        }
        self.0.world.tell(|| format!("{} is given up", self.0.name()));
        let count = self.0.give_up(ErrorKind::Timeout, "the client is given up");
        if self.0.role == Role::Relay {
            return;
        }
        if count > 0 {
            self.0.world.reach(Situation::RetiredInFlight);
        }
        if self.0.world.has(is_silent) {
            self.0.world.reach(Situation::BreakerBySilence);
        } else if self.0.world.has(|fault| fault == Fault::Cut) {
            self.0.world.reach(Situation::BreakerByCut);
        }
    }

    fn probe(&self, limit: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let latency = self.0.state().rng.u64(0..10);
            sleep(Duration::from_millis(latency)).await;
            if self.0.world.has(is_silent) {
                sleep(limit).await;
                return Err(Error::new(ErrorKind::Timeout, "no answer"));
            }
            if self.0.world.has(|fault| fault == Fault::Cut) {
                return Err(Error::new(ErrorKind::BrokerUnavailable, "no broker"));
            }
            if self.0.world.has(|fault| fault == Fault::LockedOut) {
                return Err(Error::new(ErrorKind::Unauthenticated, "not let in"));
            }
            Ok(())
        })
    }
}
