//! A relay in a task.

use tidings::{Producer, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A relay that runs until it is stopped, killed or dropped.
#[derive(Debug)]
pub(crate) struct RunningRelay {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<()>>,
}

impl RunningRelay {
    pub(crate) fn of(producer: &Producer) -> Self {
        let (stop, stopped) = oneshot::channel();
        let relay = producer.relay(async {
            let _ = stopped.await;
        });
        Self { stop: Some(stop), task: tokio::spawn(relay) }
    }

    /// Tells it to stop, and waits until it has drained.
    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        (&mut self.task).await.unwrap().unwrap();
    }

    /// Drops its future wherever it is, as a crash would.
    pub(crate) async fn kill(mut self) {
        self.task.abort();
        let ended = (&mut self.task).await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "the relay ended by itself");
    }

    pub(crate) fn is_running(&self) -> bool {
        !self.task.is_finished()
    }
}

impl Drop for RunningRelay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
