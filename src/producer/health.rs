//! Whether broker and database serve.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Producer;
use crate::emitter::Health;
use crate::emitter::noop::closed;
use crate::error::{Error, ErrorKind};

/// How long a health probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Producer {
    pub(super) async fn check_health(&self) -> Health {
        if self.0.closed.load(Ordering::SeqCst) {
            return Health::Down { reasons: vec![closed().to_string()] };
        }
        let outbox = async {
            match &self.0.fallback {
                None => Ok(false),
                Some(fallback) => match tokio::time::timeout(PROBE_TIMEOUT, fallback.outbox.heads()).await {
                    Ok(heads) => heads.map(|_| true),
                    Err(_) => Err(Error::new(ErrorKind::Timeout, "the outbox's database did not answer in time")),
                },
            }
        };
        let client = self.0.clients.current();
        match tokio::join!(client.transport.probe(PROBE_TIMEOUT), outbox) {
            (Ok(()), Ok(_)) => Health::Healthy,
            (Ok(()), Err(outbox)) => Health::Degraded { reasons: vec![outbox.to_string()] },
            (Err(broker), Ok(true)) => Health::Degraded { reasons: vec![broker.to_string()] },
            (Err(broker), Ok(false)) => Health::Down { reasons: vec![broker.to_string()] },
            (Err(broker), Err(outbox)) => Health::Down { reasons: vec![broker.to_string(), outbox.to_string()] },
        }
    }
}
