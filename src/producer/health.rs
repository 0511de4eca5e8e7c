//! Whether broker and database serve.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Producer, Shared};
use crate::error::{Error, ErrorKind, Result};
use crate::health::{Health, OutboxSight, RelayHealth, Sight, judge};
use crate::outbox::{Lag, Outbox};
use crate::transport::Transport;

/// How long broker and database have to answer a health check.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// A transport that keeps to the time by itself says more about what kept it than that it took too long.
const GRACE: Duration = Duration::from_millis(200);

impl Producer {
    pub(super) async fn check_health(&self) -> Health {
        let shared = &self.0;
        if shared.closed.load(Ordering::SeqCst) {
            return Health::closed();
        }
        let ((broker, client_lost), outbox) = tokio::join!(shared.ask_broker(), shared.ask_outbox());
        let (breaker, modes) = (shared.breaker.state(), shared.catalog.outbox_modes());
        judge(Sight { broker, client_lost, breaker, outbox, modes })
    }
}

impl Shared {
    /// Within what time the broker answers; and whether the client failed for good, and there is no other.
    async fn ask_broker(&self) -> (Result<Duration>, bool) {
        let client = self.clients.current();
        let answer = probe(&*client.transport, PROBE_TIMEOUT).await;
        if !answer.as_ref().is_err_and(|error| error.kind() == ErrorKind::ClientFailed) {
            return (answer, false);
        }
        self.clients.replace(client.generation);
        (answer, self.clients.current().generation == client.generation)
    }

    async fn ask_outbox(&self) -> Option<OutboxSight> {
        let fallback = self.fallback.as_ref()?;
        let answer = lag(&*fallback.outbox).await;
        let spilled_lanes = fallback.spills.spilled_count();
        let relay = RelayHealth { running: self.relays.are_running(), last_progress: fallback.advance.ago() };
        Some(OutboxSight { answer, spilled_lanes, relay })
    }
}

/// Asks the broker for a sign of life. Yields within what time it came.
pub(super) async fn probe(transport: &dyn Transport, within: Duration) -> Result<Duration> {
    let begun = Instant::now();
    match timeout(within + GRACE, transport.probe(within)).await {
        Ok(answer) => answer.map(|()| begun.elapsed()),
        Err(_) => Err(Error::new(ErrorKind::Timeout, "the broker did not answer in time")),
    }
}

async fn lag(outbox: &dyn Outbox) -> Result<(Duration, Lag)> {
    let begun = Instant::now();
    match timeout(PROBE_TIMEOUT, outbox.lag()).await {
        Ok(answer) => answer.map(|lag| (begun.elapsed(), lag)),
        Err(_) => Err(Error::new(ErrorKind::Storage, "the outbox's database did not answer in time")),
    }
}
