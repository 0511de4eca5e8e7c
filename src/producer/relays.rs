//! The relays of a producer: whether they run, are to stop, and get somewhere.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::in_flight::{Entered, InFlight};

/// The futures of [`Producer::relay`](super::Producer::relay).
#[derive(Debug, Default)]
pub(super) struct Relays {
    running: InFlight,
    /// Until when they may wait for what is in flight, once they are to stop.
    stop: watch::Sender<Option<Instant>>,
}

impl Relays {
    /// Counts a relay as running, unless they were told to stop.
    pub(super) fn enter(&self) -> Option<Entered<'_>> {
        // Entered first: who tells them to stop and then waits for them has seen this one, or this one sees it.
        let entered = self.running.enter();
        self.stop.borrow().is_none().then_some(entered)
    }

    pub(super) fn are_running(&self) -> bool {
        self.running.count() > 0
    }

    pub(super) fn count(&self) -> usize {
        self.running.count()
    }

    /// Tells them to stop, for good, and until when they may wait for what is in flight. The first word counts.
    pub(super) fn stop(&self, drain_until: Instant) {
        self.stop.send_if_modified(|stop| {
            let is_first = stop.is_none();
            stop.get_or_insert(drain_until);
            is_first
        });
    }

    /// Completes when they are told to stop, with what they are told.
    pub(super) async fn stopped(&self) -> Instant {
        let mut stop = self.stop.subscribe();
        // It is not closed as long as this is borrowed, and what was waited for is there.
        let told = stop.wait_for(Option::is_some).await.ok().and_then(|told| *told);
        told.unwrap_or_else(Instant::now)
    }

    /// Completes when none runs.
    pub(super) async fn ended(&self) {
        self.running.idle().await;
    }
}

/// When a relay of this producer last delivered an event, or had none left to deliver.
#[derive(Debug)]
pub(crate) struct Advance {
    born: Instant,
    /// Milliseconds after that, plus one; 0 if it never has.
    at_ms: AtomicU64,
}

impl Advance {
    pub(crate) fn new() -> Self {
        Self { born: Instant::now(), at_ms: AtomicU64::new(0) }
    }

    /// It is now.
    pub(crate) fn made(&self) {
        self.at_ms.store(1 + self.age_ms(), Ordering::Relaxed);
    }

    /// How long ago it was.
    pub(crate) fn ago(&self) -> Option<Duration> {
        let at_ms = self.at_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_millis(self.age_ms().saturating_sub(at_ms)))
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_advance_is_so_long_ago_as_its_last_one_and_never_is_none() {
        let advance = Advance::new();
        tokio::time::advance(Duration::from_secs(3)).await;
        assert_eq!(advance.ago(), None);
        advance.made();
        tokio::time::advance(Duration::from_millis(1_250)).await;
        assert_eq!(advance.ago(), Some(Duration::from_millis(1_250)));
    }

    #[tokio::test]
    async fn a_relay_that_begins_after_they_were_told_to_stop_does_not_run() {
        let relays = Relays::default();
        let running = relays.enter().unwrap();
        let until = Instant::now() + Duration::from_secs(1);
        relays.stop(until);
        relays.stop(until + Duration::from_secs(1));
        assert_eq!(relays.stopped().await, until);
        assert!(relays.enter().is_none() && relays.count() == 1);
        drop(running);
        relays.ended().await;
    }
}
