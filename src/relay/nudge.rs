//! Has the relay's client look for its brokers while records wait.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use crate::transport::Transport;

/// How often it is looked whether anything was acknowledged.
const EVERY: Duration = Duration::from_millis(250);

/// How long the brokers have to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Asks the brokers for a sign of life, again and again, while records wait and none is acknowledged.
///
/// By itself librdkafka (2.12) looks once a second for the leader of a partition that had none, as when a broker comes back, and
/// needs two such rounds if it has dropped the connection meanwhile. Whoever asks has it connect and look at once.
pub(super) async fn nudge(transport: Arc<dyn Transport>) -> Infallible {
    let mut acknowledged = 0;
    loop {
        sleep(EVERY).await;
        let Some(vitals) = transport.vitals() else { continue };
        let is_stuck = vitals.unacknowledged > 0 && vitals.acknowledged == acknowledged;
        acknowledged = vitals.acknowledged;
        if is_stuck && let Err(error) = transport.probe(TIMEOUT).await {
            tracing::debug!(%error, "the brokers do not answer the relay yet");
        }
    }
}
