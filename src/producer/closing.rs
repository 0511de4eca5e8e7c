//! The end of a producer.

use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::Producer;
use crate::error::{Error, ErrorKind, Result};

impl Producer {
    pub(super) async fn shut(&self) -> Result<()> {
        if self.0.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let deadline = Instant::now() + self.0.times.close;
        let finished = tokio::time::timeout_at(deadline, self.0.running.idle()).await.is_ok();
        let flushed =
            self.0.clients.current().transport.flush(deadline.saturating_duration_since(Instant::now())).await;
        if finished && flushed {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Timeout, "events were still in flight when the close timeout was over"))
        }
    }
}
