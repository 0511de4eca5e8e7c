//! Several events at once.

use std::collections::{HashMap, HashSet, VecDeque};
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};

use super::client::Client;
use super::direct::{LOOK_EVERY, published};
use super::known::Key;
use super::{Producer, Shared};
use crate::BoxFuture;
use crate::breaker::Permit;
use crate::catalog::compiled::Resolved;
use crate::emitter::noop::closed;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::policy::OutboxMode;
use crate::telemetry::Emit;
use crate::transport::{OnDelivery, QueueFull, Record};

mod chain;
mod detour;
mod patience;
mod reports;
mod window;

use chain::{Chain, Loss};
use detour::{Detour, Done};
use reports::Reports;
use window::Window;

/// How many events of a batch are under way, and how many bytes they have. Enough to keep a client busy for longer than a broker
/// takes to answer; the rest of the batch is not even encoded.
const WINDOW_EVENTS: usize = 8_192;
const WINDOW_BYTES: usize = 16 << 20;

/// How many events are taken up before reports are looked at, and other tasks have their turn.
const TAKEN_AT_A_TIME: usize = 128;

/// How many ways other than the direct one are under way. The outbox has fewer connections.
const MAX_DETOURS: usize = 256;

/// How many events are stored by one statement.
const STORED_AT_A_TIME: usize = 512;

impl Producer {
    /// The keys side by side; of each key one event behind the other, without waiting for the first to arrive.
    pub(super) async fn emit_many(&self, mut requests: Vec<EmitRequest>) -> Vec<Result<Receipt>> {
        let Ok(_running) = self.0.enter() else {
            let emits = requests.iter_mut().map(|request| Emit::begin(&self.0.catalog, request));
            return emits.map(|emit| emit.fail(closed())).collect();
        };
        Batch::new(&self.0, requests).run().await
    }
}

/// An event that is under way.
#[derive(Debug)]
pub(super) struct Event {
    resolved: Resolved,
    emit: Emit,
    chain: usize,
    bytes: usize,
    /// When its emit is over.
    deadline: Instant,
    sent: Option<Sent>,
    /// Why it did not land.
    error: Option<Error>,
}

/// How an event was submitted.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Instant,
    /// Until when it is waited for.
    until: Instant,
    /// The era of the breaker.
    era: u32,
}

/// The client's queue has no room.
#[derive(Debug, Clone, Copy)]
struct Full {
    since: Instant,
    /// Until when that is waited for.
    until: Instant,
}

struct Batch<'a> {
    shared: &'a Shared,
    start: Instant,
    /// When this turn began.
    now: Instant,
    requests: std::iter::Enumerate<std::vec::IntoIter<EmitRequest>>,
    results: Vec<Option<Result<Receipt>>>,
    /// Those that wait or are in flight, by their place in the batch.
    events: Window<Event>,
    /// How many are under way, on a detour too, and their bytes.
    under_way: usize,
    bytes: usize,
    chains: Vec<Chain>,
    /// Why no more events of a chain are taken up, if so.
    stopped: Vec<Option<ErrorKind>>,
    by_key: HashMap<Bytes, usize>,
    /// Chains that may have something to do.
    ready: VecDeque<usize>,
    detours: FuturesUnordered<BoxFuture<'a, Detour>>,
    reports: Arc<Reports>,
    client: Client,
    /// Until when it is waited for room in the client's queue, while it is full.
    full: Option<Full>,
    /// Whether it was found full in this turn.
    has_filled_up: bool,
    /// When it is looked whether something takes too long.
    look_at: Instant,
    /// Chains whose client was given up, and until when its reports are waited for.
    given_up: HashMap<usize, Instant>,
    /// Chains of which some are given up, and the client may still deliver them.
    unsure: HashSet<usize>,
}

/// Where the next event of a chain goes.
enum Way {
    Nowhere,
    Publish(Permit),
    /// To the outbox, with those behind it that go there too.
    Store(StoredReason),
    /// As a single emit, which waits for its lane, or fails.
    Alone,
}

impl<'a> Batch<'a> {
    fn new(shared: &'a Shared, requests: Vec<EmitRequest>) -> Self {
        let start = Instant::now();
        Self {
            shared,
            start,
            now: start,
            results: std::iter::repeat_with(|| None).take(requests.len()).collect(),
            requests: requests.into_iter().enumerate(),
            events: Window::new(),
            under_way: 0,
            bytes: 0,
            chains: Vec::new(),
            stopped: Vec::new(),
            by_key: HashMap::new(),
            ready: VecDeque::new(),
            detours: FuturesUnordered::new(),
            reports: Arc::default(),
            client: shared.clients.current(),
            full: None,
            has_filled_up: false,
            look_at: start + LOOK_EVERY,
            given_up: HashMap::new(),
            unsure: HashSet::new(),
        }
    }

    async fn run(mut self) -> Vec<Result<Receipt>> {
        while self.requests.len() > 0 || self.under_way > 0 {
            self.look_up().await;
            self.now = Instant::now();
            self.client = self.shared.clients.current();
            self.has_filled_up = false;
            if self.ready.is_empty() {
                self.full = None;
            }
            self.take_reports();
            self.advance();
            self.take_up();
            self.wait().await;
            self.look();
        }
        // Each request was refused, or was under way and is no more.
        self.results.into_iter().map(|result| result.expect("every request has a result")).collect()
    }

    /// Looks up the lanes, while the detours go on: one of them may have the connection that this waits for.
    async fn look_up(&mut self) {
        let Some(fallback) = &self.shared.fallback else { return };
        let mut look_up = pin!(fallback.look_up());
        loop {
            tokio::select! {
                biased;
                () = &mut look_up => return,
                Some(detour) = self.detours.next() => self.returned(detour),
            }
        }
    }

    /// Whether another event may be taken up.
    fn has_room(&self) -> bool {
        self.requests.len() > 0
            && self.ready.is_empty()
            && self.under_way < WINDOW_EVENTS
            && self.detours.len() < MAX_DETOURS
            && self.bytes < WINDOW_BYTES
            && !self.reports.has_failure()
    }

    fn take_up(&mut self) {
        for _ in 0..TAKEN_AT_A_TIME {
            if !self.has_room() {
                return;
            }
            let Some((place, mut request)) = self.requests.next() else { return };
            let deadline = self.start + self.shared.times.of(&request);
            let emit = Emit::begin(&self.shared.catalog, &mut request);
            match self.shared.catalog.resolve(request) {
                Ok(resolved) => {
                    emit.becomes(&resolved.id);
                    let chain = self.chain_of(&resolved.record.key);
                    if let Some(kind) = self.stopped[chain] {
                        self.answer(place, emit, Err(behind_a_failure(kind, resolved)));
                        continue;
                    }
                    if let Err(error) = self.shared.admit(&resolved) {
                        // Those before it go on.
                        self.stopped[chain] = Some(error.kind());
                        self.answer(place, emit, Err(error));
                        continue;
                    }
                    let bytes = resolved.record.wire_bytes();
                    self.bytes += bytes;
                    self.under_way += 1;
                    self.events
                        .insert(place, Event { resolved, emit, chain, bytes, deadline, sent: None, error: None });
                    self.chains[chain].push(place);
                    self.advance_chain(chain);
                }
                Err(error) => self.answer(place, emit, Err(error)),
            }
        }
    }

    /// Something of the chain's key was delivered.
    fn learn(&mut self, chain: usize, record: &Record) {
        let state = &mut self.chains[chain];
        if state.generation() == self.client.generation && !state.knows(&record.topic) {
            state.learn(&record.topic);
            self.shared.clients.learn(self.client.generation, Key::of(record), self.now);
        }
    }

    fn chain_of(&mut self, key: &Bytes) -> usize {
        if let Some(chain) = self.by_key.get(key) {
            return *chain;
        }
        let chain = self.chains.len();
        self.chains.push(Chain::default());
        self.stopped.push(None);
        self.by_key.insert(key.clone(), chain);
        chain
    }

    fn advance(&mut self) {
        for _ in 0..self.ready.len() {
            if let Some(chain) = self.ready.pop_front() {
                self.advance_chain(chain);
            }
        }
    }

    /// Does with the events of a chain what can be done now.
    fn advance_chain(&mut self, chain: usize) {
        loop {
            if let Some(loss) = self.chains[chain].loss() {
                let lost = self.lost(chain, loss);
                self.detours.push(Box::pin(detour::settle(self.shared, chain, lost)));
                return;
            }
            if self.reports.has_failure() {
                // It may be one of this chain, which must not go on then.
                self.ready.push_back(chain);
                return;
            }
            let Some(place) = self.chains[chain].next() else { return };
            let Some(event) = self.events.get(place) else { return };
            let way = self.way(&event.resolved);
            match way {
                Way::Nowhere => {
                    if self.chains[chain].in_flight().len() > 0 {
                        return;
                    }
                    self.chains[chain].take_out(|other| other == place);
                    self.chains[chain].back(&[]);
                    if let Some(Event { resolved, emit, bytes, .. }) = self.events.remove(place) {
                        let receipt = Receipt::new(resolved.id, Outcome::Disabled);
                        self.finish(Done { place, emit, bytes, result: Ok(receipt) });
                    }
                }
                Way::Publish(permit) => {
                    let proven =
                        || event.resolved.definition.is_proven() && self.is_known(chain, &event.resolved.record);
                    if !self.chains[chain].may_submit(self.client.generation, proven) {
                        return;
                    }
                    if self.has_filled_up || !self.submit(place, chain, permit) {
                        self.ready.push_back(chain);
                        return;
                    }
                }
                Way::Store(reason) => return self.store(chain, reason),
                Way::Alone => return self.deliver(chain, place),
            }
        }
    }

    /// Whether the client has delivered something of the chain's key on the record's topic.
    fn is_known(&self, chain: usize, record: &Record) -> bool {
        self.chains[chain].knows(&record.topic)
            || self.shared.clients.knows(self.client.generation, Key::of(record), self.now)
    }

    fn way(&self, resolved: &Resolved) -> Way {
        if !resolved.policy.enabled() {
            return Way::Nowhere;
        }
        let permit = || self.shared.breaker.permit();
        let Some(fallback) = &self.shared.fallback else { return permit().map_or(Way::Alone, Way::Publish) };
        match resolved.policy.outbox() {
            OutboxMode::Always => Way::Store(StoredReason::Policy),
            OutboxMode::Fallback if fallback.is_known_spilled(&resolved.record.key) => {
                Way::Store(StoredReason::LaneSpilled)
            }
            OutboxMode::Fallback => permit().map_or(Way::Store(StoredReason::CircuitOpen), Way::Publish),
            OutboxMode::Never if !fallback.is_known_spilled(&resolved.record.key) => {
                permit().map_or(Way::Alone, Way::Publish)
            }
            _ => Way::Alone,
        }
    }

    /// Submits the next event of a chain. Says whether the client had room for it.
    fn submit(&mut self, place: usize, chain: usize, permit: Permit) -> bool {
        let Some(event) = self.events.get_mut(place) else { return true };
        let (now, era) = (self.now, permit.era);
        let until = match &self.shared.fallback {
            Some(_) if event.resolved.policy.outbox() == OutboxMode::Fallback => {
                self.shared.direct_until(event.deadline)
            }
            _ => event.deadline.min(now + self.shared.times.delivery),
        };
        let reports = Arc::clone(&self.reports);
        let on_delivery = OnDelivery::new(move |result| {
            permit.hear(&result);
            reports.push(place, result);
        });
        let submit = || self.client.transport.submit(&event.resolved.record, on_delivery);
        if let Err(QueueFull(_)) = event.emit.span().in_scope(submit) {
            self.has_filled_up = true;
            let full = *self.full.get_or_insert(Full { since: now, until });
            if now >= full.until {
                if self.shared.times.is_outage(now - full.since) {
                    self.shared.breaker.failed(era);
                }
                let message = "the client's queue stayed full; the event was not sent";
                event.error = Some(Error::new(ErrorKind::Overloaded, message));
                self.chains[chain].refused();
            }
            return false;
        }
        self.full = None;
        event.sent = Some(Sent { at: now, until, era });
        self.look_at = self.look_at.min(until);
        self.chains[chain].submitted(self.client.generation);
        true
    }

    /// Takes the next events of a chain to the outbox, unless some are in flight still: the relay could be faster.
    fn store(&mut self, chain: usize, reason: StoredReason) {
        let events = &self.events;
        let mut count = 0;
        let belongs = |place: usize| {
            count += 1;
            let belongs = events.get(place).is_some_and(|event| match event.resolved.policy.outbox() {
                _ if !event.resolved.policy.enabled() => false,
                OutboxMode::Always => true,
                OutboxMode::Fallback => reason != StoredReason::Policy,
                _ => false,
            });
            belongs && count <= STORED_AT_A_TIME
        };
        let places = self.chains[chain].take_out(belongs);
        if !places.is_empty() {
            let events = self.take(places);
            self.detours.push(Box::pin(detour::store(self.shared, chain, events, reason)));
        }
    }

    /// Takes an event the way of a single emit, unless events of its key are in flight.
    fn deliver(&mut self, chain: usize, place: usize) {
        let places = self.chains[chain].take_out(|other| other == place);
        if !places.is_empty() {
            let events = self.take(places);
            self.detours.push(Box::pin(detour::alone(self.shared, chain, events)));
        }
    }

    fn take(&mut self, places: Vec<usize>) -> Vec<(usize, Event)> {
        places.into_iter().filter_map(|place| self.events.remove(place).map(|event| (place, event))).collect()
    }

    /// The events of a loss, and whether they may still be stored.
    fn lost(&mut self, chain: usize, loss: Loss) -> (Vec<(usize, Event)>, bool) {
        let storable = !loss.overtaken && !self.unsure.remove(&chain);
        (self.take(loss.events), storable)
    }

    fn finish(&mut self, done: Done) {
        self.under_way -= 1;
        self.bytes -= done.bytes;
        self.answer(done.place, done.emit, done.result);
    }

    fn answer(&mut self, place: usize, emit: Emit, result: Result<Receipt>) {
        emit.end(result.as_ref());
        self.results[place] = Some(result);
    }

    /// Waits until there is something to do.
    async fn wait(&mut self) {
        let (goes_on, is_full) = (self.has_room(), self.full.is_some());
        if self.under_way == 0 {
            return;
        }
        let (transport, look_at) =
            (Arc::clone(&self.client.transport), self.full.map_or(self.look_at, |full| full.until.min(self.look_at)));
        tokio::select! {
            biased;
            Some(detour) = self.detours.next() => self.returned(detour),
            () = self.reports.arrived() => {}
            () = tokio::task::yield_now(), if goes_on => {}
            () = transport.room(), if is_full => {}
            () = sleep_until(look_at), if !goes_on => {}
        }
    }

    fn returned(&mut self, detour: Detour) {
        let Detour { chain, done, returned } = detour;
        let places: Vec<_> = returned.iter().map(|(place, _)| *place).collect();
        self.chains[chain].back(&places);
        for (place, event) in returned {
            self.events.insert(place, event);
        }
        let failure = done.iter().find_map(|done| done.result.as_ref().err().map(Error::kind));
        done.into_iter().for_each(|done| self.finish(done));
        let Some(kind) = failure else {
            self.ready.push_back(chain);
            return;
        };
        self.stopped[chain] = Some(kind);
        for place in self.chains[chain].stop() {
            if let Some(Event { resolved, emit, bytes, .. }) = self.events.remove(place) {
                self.finish(Done { place, emit, bytes, result: Err(behind_a_failure(kind, resolved)) });
            }
        }
    }

    fn take_reports(&mut self) {
        for (place, result) in self.reports.take() {
            // One that is on its way elsewhere is no concern any more.
            let Some(chain) = self.events.get(place).map(|event| event.chain) else { continue };
            if !self.chains[chain].reported(place, result.is_ok()) {
                continue;
            }
            if self.chains[chain].in_flight().len() == 0 {
                self.given_up.remove(&chain);
            }
            if !self.chains[chain].has_lost() {
                self.unsure.remove(&chain);
            }
            match result {
                Ok(delivery) => {
                    if let Some(Event { resolved, emit, bytes, .. }) = self.events.remove(place) {
                        self.learn(chain, &resolved.record);
                        self.finish(Done { place, emit, bytes, result: Ok(published(resolved, delivery)) });
                    }
                }
                Err(error) => self.failed(chain, place, error),
            }
            if self.chains[chain].has_more() {
                self.ready.push_back(chain);
            }
        }
    }

    /// An event failed. If the broker does not serve, what is in flight behind it must not be delivered while it is stored.
    fn failed(&mut self, chain: usize, place: usize, error: Error) {
        let kind = error.kind();
        if kind == ErrorKind::ClientFailed {
            tracing::error!(%error, "the client failed for good, and is replaced");
        }
        if let Some(event) = self.events.get_mut(place) {
            event.error = Some(error);
        }
        let is_alone = self.chains[chain].in_flight().all(|other| other < place);
        if kind == ErrorKind::ClientFailed || (kind.is_outage() && !is_alone) {
            self.give_up_client(chain);
        }
    }
}

fn behind_a_failure(kind: ErrorKind, resolved: Resolved) -> Error {
    let message = "an earlier event of the same key in the batch failed, and this one must not overtake it";
    Error::new(kind, message).with_event_id(resolved.id)
}

#[cfg(test)]
mod tests;
