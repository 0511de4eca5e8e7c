//! The end of a producer.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{Producer, Shared};
use crate::config::LONGEST_TIMEOUT;
use crate::error::{Error, ErrorKind, Result};

/// This part of the time is kept for what waits for the broker in vain to go to the outbox, and for the relay to drain: some
/// statements, and an answer of the broker.
const RESERVED: u32 = 4;

/// What was under way when a producer was closed and its time was over; from [`Producer::close_within`].
///
/// What is accepted is safe all the same: an event that waits in the outbox is delivered by the next relay, and an emit that
/// still runs has accepted nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
#[must_use = "it says whether all was done in time"]
pub struct Leftover {
    /// Emits that still run.
    pub emits: usize,
    /// Records that the Kafka client holds without an acknowledgement: of emits that still run, or were given up, or whose event
    /// is in the outbox by now.
    pub records: usize,
    /// Relays that still run.
    pub relays: usize,
    /// Events in the outbox that this producer knows of and that are not delivered, as far as it knows: at most so many. They
    /// are no reason to wait.
    pub stored: u64,
}

impl Leftover {
    /// Whether nothing is under way any more.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        self.emits == 0 && self.records == 0 && self.relays == 0
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { emits, records, relays, stored } = self;
        write!(
            f,
            "{emits} emits running, {records} records not acknowledged, {relays} relays running, \
             up to {stored} events in the outbox"
        )
    }
}

impl std::error::Error for Leftover {}

impl Producer {
    /// Closes the producer as [`Emitter::close`](crate::Emitter::close) does, within `timeout`, and says what is left.
    ///
    /// New emits are refused. Those that run are waited for, and so are the records that the client holds; then the
    /// [relay](Self::relay) stops as if its `shutdown` had completed. A quarter of the time is kept for that, and for the
    /// emits that still wait for the broker: with an outbox, their events are stored. An hour is the longest time.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the producer is closed; the relay may go on until it is closed again.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # async fn example(producer: tidings::Producer) {
    /// use std::time::Duration;
    ///
    /// // An orchestrator that sends SIGTERM kills after thirty seconds.
    /// let left = producer.close_within(Duration::from_secs(20)).await;
    /// if !left.is_nothing() {
    ///     eprintln!("not all was done in time: {left}");
    /// }
    /// # }
    /// ```
    pub async fn close_within(&self, timeout: Duration) -> Leftover {
        let shared = &self.0;
        let timeout = timeout.min(LONGEST_TIMEOUT);
        let deadline = Instant::now() + timeout;
        shared.closed.store(true, Ordering::SeqCst);
        // A relay goes on meanwhile: an emit may wait for older events of its lane.
        let quiet = timeout_at(deadline - timeout / RESERVED, shared.quiet(deadline)).await;
        // A record in flight may never be acknowledged, and what was has to be written down.
        shared.relays.stop(Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2);
        if quiet.is_err() && shared.fallback.is_some() {
            // Whoever waits for the broker is answered now, from the outbox.
            shared.clients.replace(shared.clients.current().generation);
        }
        let _ = timeout_at(deadline, async { tokio::join!(shared.quiet(deadline), shared.relays.ended()) }).await;
        shared.left().await
    }

    pub(super) async fn shut(&self) -> Result<()> {
        let left = self.close_within(self.0.times.close).await;
        if left.is_nothing() {
            return Ok(());
        }
        let message = "not everything was done when the close timeout was over";
        Err(Error::new(ErrorKind::Timeout, message).with_source(left))
    }
}

impl Shared {
    /// Completes when no emit runs, and the client holds nothing, or at the deadline.
    async fn quiet(&self, deadline: Instant) {
        self.running.idle().await;
        self.clients.current().transport.flush(deadline.saturating_duration_since(Instant::now())).await;
    }

    /// How many records the client holds; one, if it does not say and holds some.
    async fn records(&self) -> usize {
        let transport = self.clients.current().transport;
        if transport.flush(Duration::ZERO).await {
            return 0;
        }
        transport.vitals().map_or(1, |vitals| vitals.unacknowledged.max(1))
    }

    async fn left(&self) -> Leftover {
        let waiting = self.fallback.iter().flat_map(|fallback| fallback.spills.all_known());
        Leftover {
            emits: self.running.count(),
            records: self.records().await,
            relays: self.relays.count(),
            stored: waiting.map(|known| u64::try_from(known.last + 1 - known.floor).unwrap_or_default()).sum(),
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // No emit runs any more: each borrows the producer.
        let vitals = self.clients.current().transport.vitals();
        let records = vitals.map_or(0, |vitals| vitals.unacknowledged);
        if records > 0 && !self.closed.load(Ordering::SeqCst) {
            tracing::warn!(
                records,
                "a producer was dropped that was not closed: records that no broker has acknowledged are given up"
            );
        }
    }
}
