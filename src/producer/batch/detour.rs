//! The ways of a batch's events other than the direct one.

use tracing::Instrument as _;

use super::patience::late;
use super::{Event, Shared};
use crate::catalog::compiled::Resolved;
use crate::emitter::{Receipt, StoredReason};
use crate::error::{Error, Result};
use crate::policy::OutboxMode;
use crate::producer::fallback::Fallback;
use crate::telemetry::Emit;

/// What came of a detour.
#[derive(Debug)]
pub(super) struct Detour {
    pub(super) chain: usize,
    pub(super) done: Vec<Done>,
    /// Events that may go the direct way after all.
    pub(super) returned: Vec<(usize, Event)>,
}

/// What became of an event.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) place: usize,
    pub(super) emit: Emit,
    pub(super) bytes: usize,
    pub(super) result: Result<Receipt>,
}

/// Stores the events of a chain, unless the lane turns out not to be spilled.
pub(super) async fn store(shared: &Shared, chain: usize, events: Vec<(usize, Event)>, reason: StoredReason) -> Detour {
    // A policy that stores is refused at start if there is no outbox.
    let (Some(fallback), Some((_, first))) = (&shared.fallback, events.first()) else {
        return Detour { chain, done: Vec::new(), returned: events };
    };
    if reason == StoredReason::LaneSpilled {
        // While the breaker is open, waiting for the lane is in vain.
        let wait_until = shared.breaker.state().is_closed().then(|| shared.direct_until(first.deadline));
        if !fallback.is_spilled(&first.resolved.record.key, events.len(), wait_until).await {
            return Detour { chain, done: Vec::new(), returned: events };
        }
    }
    let why = |event: &Event| match event.resolved.policy.outbox() {
        OutboxMode::Always => StoredReason::Policy,
        _ => reason,
    };
    Detour { chain, done: store_all(fallback, events, why).await, returned: Vec::new() }
}

/// Takes events the way of single emits, one after the other.
pub(super) async fn alone(shared: &Shared, chain: usize, events: Vec<(usize, Event)>) -> Detour {
    let mut done = Vec::with_capacity(events.len());
    for (place, event) in events {
        let result = shared.deliver(event.resolved, event.deadline).instrument(event.emit.span()).await;
        done.push(Done { place, emit: event.emit, bytes: event.bytes, result });
    }
    Detour { chain, done, returned: Vec::new() }
}

/// What becomes of events that did not land. If the broker does not serve, they are stored, as far as their policies allow, and
/// nothing behind them is on the topic already.
pub(super) async fn settle(shared: &Shared, chain: usize, (events, storable): (Vec<(usize, Event)>, bool)) -> Detour {
    let is_outage = |event: &Event| event.error.as_ref().is_some_and(|error| error.kind().is_outage());
    let may_be_stored = |event: &Event| event.resolved.policy.outbox() == OutboxMode::Fallback;
    let stores = storable && events.first().is_some_and(|(_, first)| is_outage(first));
    let count = events.iter().take_while(|(_, event)| stores && may_be_stored(event)).count();
    let mut events = events;
    let failed = events.split_off(count);
    let mut done = Vec::new();
    if let Some(fallback) = shared.fallback.as_ref().filter(|_| count > 0) {
        tracing::debug!(count, "the broker did not take events of a batch; they go to the outbox");
        done = store_all(fallback, events, |_| StoredReason::PublishFailed).await;
    }
    for (place, Event { resolved, emit, error, deadline, bytes, .. }) in failed {
        let error = error.unwrap_or_else(late);
        done.push(Done { place, emit, bytes, result: Err(shared.bury(resolved, error, deadline).await) });
    }
    Detour { chain, done, returned: Vec::new() }
}

/// Stores events by one statement. If one can't be, none is.
async fn store_all(
    fallback: &Fallback,
    events: Vec<(usize, Event)>,
    why: impl Fn(&Event) -> StoredReason,
) -> Vec<Done> {
    let Some(deadline) = events.iter().map(|(_, event)| event.deadline).min() else { return Vec::new() };
    let mut places = Vec::with_capacity(events.len());
    let mut rows: Vec<(Resolved, StoredReason)> = Vec::with_capacity(events.len());
    for (place, event) in events {
        let reason = why(&event);
        let is_ambiguous = event.error.as_ref().is_some_and(Error::is_ambiguous);
        places.push((place, event.emit, event.bytes, event.resolved.id.clone(), is_ambiguous));
        rows.push((event.resolved, reason));
    }
    match fallback.store_all(rows, deadline).await {
        Ok(receipts) => {
            let places = places.into_iter().zip(receipts);
            places.map(|((place, emit, bytes, ..), receipt)| Done { place, emit, bytes, result: Ok(receipt) }).collect()
        }
        Err(error) => {
            let done = |(place, emit, bytes, id, is_ambiguous)| {
                let error = error.retold().or_ambiguous(error.is_ambiguous() || is_ambiguous).with_event_id(id);
                Done { place, emit, bytes, result: Err(error) }
            };
            places.into_iter().map(done).collect()
        }
    }
}
