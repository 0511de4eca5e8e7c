//! The direct way, and the choice between the two.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::client::Client;
use super::room::Entry;
use crate::catalog::compiled::Resolved;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::in_flight::Entered;
use crate::policy::{DlqMode, OutboxMode};
use crate::producer::fallback::Fallback;
use crate::telemetry::{Emit, metrics};
use crate::transport::{Delivery, OnDelivery, QueueFull, Record, Transport, submit_when_room};
use crate::wire::DeadLetter;

/// How long a caller waits before it asks whether the broker refuses this client. A client that is let in has a connection by
/// then: it tries again after half a second at most, and a broker takes a tenth to say no.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(1);

const BREAKER_OPEN: &str = "the breaker is open: the broker does not serve, and is left alone until it does";

/// What is to be done with an event.
enum Way {
    Direct(Resolved),
    /// It has gone, or will not.
    Taken(Receipt),
}

impl Shared {
    /// Counts an event against what its tenant may emit.
    pub(super) fn admit(&self, resolved: &Resolved) -> Result<()> {
        let Some(limits) = self.tenant_limits.as_ref().filter(|_| resolved.policy.enabled()) else { return Ok(()) };
        match resolved.tenant() {
            Some(tenant) => limits.check(&tenant).map_err(|error| error.with_event_id(resolved.id.clone())),
            None => Ok(()),
        }
    }

    /// What there is to do before an event may wait for anything: counts the emit as running, and takes the event's room.
    pub(super) fn begin(
        &self,
        request: EmitRequest,
        deadline: Instant,
        emit: &Emit,
    ) -> Result<(Entered<'_>, Resolved, Entry<'_>)> {
        let running = self.enter()?;
        let resolved = self.catalog.resolve(request)?;
        emit.becomes(&resolved.id);
        self.admit(&resolved)?;
        let room = self.room.enter(&resolved, || self.direct_until(deadline));
        Ok((running, resolved, room))
    }

    /// Takes an event the way that its policy, its lane and the broker allow.
    ///
    /// There is such a future for every emit under way, so what is rare is in a box of its own.
    #[allow(clippy::manual_async_fn, reason = "an async fn's future has room for its arguments twice")]
    pub(super) fn deliver(
        &self,
        mut resolved: Resolved,
        deadline: Instant,
    ) -> impl Future<Output = Result<Receipt>> + Send {
        async move {
            if !self.is_clear(&resolved) {
                match Box::pin(self.make_way(resolved, deadline)).await? {
                    Way::Direct(same) => resolved = same,
                    Way::Taken(receipt) => return Ok(receipt),
                }
            }
            let until = match self.fallback_of(&resolved) {
                Some(_) => self.direct_until(deadline),
                None => deadline.min(Instant::now() + self.times.delivery),
            };
            match self.publish(&resolved.record, until).await {
                Ok(delivery) => Ok(published(resolved, delivery)),
                Err(error) => Box::pin(self.rescue(resolved, error, deadline)).await,
            }
        }
    }

    /// Whether nothing but the breaker can keep an event from its direct way.
    fn is_clear(&self, resolved: &Resolved) -> bool {
        let policy = resolved.policy;
        policy.enabled()
            && !policy.always_stored()
            && self.fallback.as_ref().is_none_or(|fallback| fallback.is_clear(&resolved.record.key))
    }

    /// Where an event goes that may not be published, or not yet.
    async fn make_way(&self, resolved: Resolved, deadline: Instant) -> Result<Way> {
        let policy = resolved.policy;
        if !policy.enabled() {
            return Ok(Way::Taken(Receipt::new(resolved.id, Outcome::Disabled)));
        }
        // A policy that needs an outbox is refused at start if there is none.
        let Some(fallback) = &self.fallback else { return Ok(Way::Direct(resolved)) };
        if policy.always_stored() {
            return fallback.store(resolved, StoredReason::Policy, deadline).await.map(Way::Taken);
        }
        let key = &resolved.record.key;
        let direct_until = self.direct_until(deadline);
        match policy.outbox() {
            OutboxMode::Fallback => {
                // While the breaker is open, waiting for the lane is in vain.
                let wait_until = self.breaker.state().is_closed().then_some(direct_until);
                if fallback.is_spilled(key, 1, wait_until).await {
                    return fallback.store(resolved, StoredReason::LaneSpilled, deadline).await.map(Way::Taken);
                }
                Ok(Way::Direct(resolved))
            }
            // It may not be stored behind the events that it must not overtake, so it waits for them.
            _ if fallback.wait_until_settled(key, direct_until).await => Ok(Way::Direct(resolved)),
            _ => {
                let message =
                    "older events of the lane wait in the outbox, and the policy forbids to store this one behind them";
                Err(Error::new(ErrorKind::LaneSpilled, message).with_event_id(resolved.id))
            }
        }
    }

    /// The outbox that takes the event if the broker does not.
    fn fallback_of(&self, resolved: &Resolved) -> Option<&Arc<Fallback>> {
        self.fallback.as_ref().filter(|_| resolved.policy.outbox() == OutboxMode::Fallback)
    }

    /// Until when an event may be on its direct way that could still take another: half the time that is left is kept for that.
    pub(super) fn direct_until(&self, deadline: Instant) -> Instant {
        self.direct_until_from(Instant::now(), deadline)
    }

    pub(super) fn direct_until_from(&self, now: Instant, deadline: Instant) -> Instant {
        now + self.times.direct.min(deadline.saturating_duration_since(now) / 2)
    }

    /// What becomes of an event that was not published.
    async fn rescue(&self, resolved: Resolved, error: Error, deadline: Instant) -> Result<Receipt> {
        let Some(fallback) = self.fallback_of(&resolved) else {
            return Err(self.bury(resolved, error, deadline).await);
        };
        if error.kind() == ErrorKind::CircuitOpen {
            return fallback.store(resolved, StoredReason::CircuitOpen, deadline).await;
        }
        if error.kind().is_outage() {
            // It may have arrived all the same. It is stored under the same id: a possible duplicate, never a loss.
            tracing::debug!(%error, event_id = %resolved.id, "the broker did not take the event; it goes to the outbox");
            let stored = fallback.store(resolved, StoredReason::PublishFailed, deadline).await;
            return stored.map_err(|failed| failed.or_ambiguous(error.is_ambiguous()));
        }
        Err(self.bury(resolved, error, deadline).await)
    }

    /// Sends an event that the broker refused to its dead-letter topic, if its policy says so. The error says whether that
    /// was done.
    pub(super) async fn bury(&self, resolved: Resolved, error: Error, deadline: Instant) -> Error {
        if resolved.policy.dlq() == DlqMode::OnRoutableFailure && error.kind().is_dead_letter() {
            let (record, topic, how) = (&resolved.record, &resolved.definition.dlq_topic, &self.dead_letters);
            let until = deadline.min(Instant::now() + self.times.direct);
            let mut letter = DeadLetter::new(record, &error, 0, Utc::now(), self.id.to_string(), how.style);
            let mut sent = self.publish(&letter.record(record, topic, how), until).await;
            let too_large = sent.as_ref().is_err_and(|dead| dead.kind() == ErrorKind::TooLarge);
            if too_large && letter.omitted_payload_bytes.is_none() {
                // The dead-letter topic may take less than the settings allow.
                sent = self.publish(&letter.record_without_payload(record, topic, how), until).await;
            }
            match sent {
                Ok(_) => {
                    metrics::dead_lettered(&resolved.definition.key);
                    return error.with_event_id(resolved.id).into_dead_lettered();
                }
                Err(dead) => {
                    tracing::error!(error = %dead, %topic, event_id = %resolved.id, "a dead letter was not sent");
                }
            }
        }
        error.with_event_id(resolved.id)
    }

    /// Publishes a record, and waits for its acknowledgement until `deadline`, or until it is known that the broker does not
    /// let this client in.
    ///
    /// The breaker hears of every outcome, whether or not anyone still waits for it, and of waiting in vain, if that was long. When
    /// it opens, the client is given up, and with it the record.
    async fn publish(&self, record: &Record, deadline: Instant) -> Result<Delivery> {
        let Some(permit) = self.breaker.permit() else { return Err(Error::new(ErrorKind::CircuitOpen, BREAKER_OPEN)) };
        let Client { transport, generation } = self.clients.current();
        let (era, began) = (permit.era, Instant::now());
        let in_vain = || {
            if self.times.is_outage(began.elapsed()) {
                self.breaker.failed(era);
            }
        };
        let (sender, delivery) = oneshot::channel();
        if let Err(QueueFull(on_delivery)) = transport.submit(record, OnDelivery::tell(permit, sender)) {
            let submitted = submit_when_room(&*transport, record, on_delivery);
            if let Err(refusal) = Box::pin(wait(&*transport, deadline, submitted)).await {
                return Err(refusal.unwrap_or_else(|| {
                    in_vain();
                    Error::new(ErrorKind::Overloaded, "the client's queue stayed full; the event was not sent")
                }));
            }
        }
        match wait(&*transport, deadline, delivery).await {
            Ok(Ok(Err(error))) if error.kind() == ErrorKind::ClientFailed => {
                tracing::error!(%error, "the client failed for good, and is replaced");
                self.clients.replace(generation);
                Err(error)
            }
            Ok(Ok(result)) => result,
            Ok(Err(_)) => {
                let message = "the transport was dropped while the event was in flight";
                Err(Error::new(ErrorKind::ClientFailed, message).or_ambiguous(true))
            }
            // The client keeps the record, and may deliver it once it is let in: as ambiguous as one that is late.
            Err(Some(refusal)) => Err(refusal.or_ambiguous(true)),
            Err(None) => {
                in_vain();
                let message = "the broker did not confirm the event in time; it may or may not have it";
                Err(Error::new(ErrorKind::Timeout, message).or_ambiguous(true))
            }
        }
    }
}

/// Waits for `outcome` until `deadline`, or until the transport says why it will not come.
async fn wait<T>(
    transport: &dyn Transport,
    deadline: Instant,
    outcome: impl Future<Output = T>,
) -> Result<T, Option<Error>> {
    let mut outcome = pin!(outcome);
    loop {
        let look_at = deadline.min(Instant::now() + LOOK_EVERY);
        match timeout_at(look_at, &mut outcome).await {
            Ok(outcome) => return Ok(outcome),
            Err(_) => match transport.refusal() {
                Some(refusal) => return Err(Some(refusal)),
                None if look_at >= deadline => return Err(None),
                None => {}
            },
        }
    }
}

pub(super) fn published(resolved: Resolved, delivery: Delivery) -> Receipt {
    let Delivery { partition, offset } = delivery;
    resolved.definition.prove();
    Receipt::new(resolved.id, Outcome::Published { topic: resolved.record.topic, partition, offset })
}
