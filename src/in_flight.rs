//! How many things are under way, and waiting until none is.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// A count that can be waited for.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    idle: Notify,
}

/// Counts as one until dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a InFlight);

impl InFlight {
    /// Counts one more, until the answer is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        self.add();
        Entered(self)
    }

    /// Counts one more, until [`remove`](Self::remove).
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
    }

    /// Counts one less.
    pub(crate) fn remove(&self) {
        if self.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.idle.notify_waiters();
        }
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    /// Completes when there is none.
    pub(crate) async fn idle(&self) {
        loop {
            let idle = self.idle.notified();
            if self.count() == 0 {
                return;
            }
            idle.await;
        }
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.remove();
    }
}
