//! What became of the records of a batch.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use crate::error::Result;
use crate::transport::Delivery;

/// Reports that came in and were not looked at. A client reports on many records at once, and the batch is woken once.
#[derive(Debug, Default)]
pub(super) struct Reports {
    reports: Mutex<Vec<(usize, Result<Delivery>)>>,
    /// Whether there is a failure among them.
    failed: AtomicBool,
    arrived: Notify,
}

impl Reports {
    /// The event of this place was reported on.
    pub(super) fn push(&self, event: usize, result: Result<Delivery>) {
        if result.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        // Nothing panics while it holds this lock.
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = reports.is_empty();
        reports.push((event, result));
        drop(reports);
        if is_first {
            self.arrived.notify_one();
        }
    }

    /// Whether a failure waits to be looked at: then nothing more is submitted before.
    pub(super) fn has_failure(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    /// Takes all that there are.
    pub(super) fn take(&self) -> Vec<(usize, Result<Delivery>)> {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        self.failed.store(false, Ordering::SeqCst);
        std::mem::take(&mut *reports)
    }

    /// Completes when some have come in since this last completed.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }
}
