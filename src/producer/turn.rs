//! What one caller does for all, now and then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::futures::Notified;
use tokio::time::Instant;

/// When something is to be done next.
#[derive(Debug)]
pub(super) struct Turns {
    next_at: Mutex<Instant>,
    ended: Notify,
}

/// The turn of the caller who does it.
///
/// Dropped before it is [done](Turn::done), it is the next caller's. Should its future be left alone, neither polled nor dropped, it
/// is the next caller's too, once its time is over; nobody waits for it.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    over_at: Instant,
    next_at: Instant,
}

impl Turns {
    pub(super) fn new(next_at: Instant) -> Self {
        Self { next_at: Mutex::new(next_at), ended: Notify::new() }
    }

    fn next_at(&self) -> MutexGuard<'_, Instant> {
        // Nothing panics while it holds this lock.
        self.next_at.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is nobody's turn now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        *self.next_at() <= now
    }

    /// Completes when a turn ends after this call.
    pub(super) fn ended(&self) -> Notified<'_> {
        self.ended.notified()
    }

    /// Takes the turn for as long as `limit`, if it is due and not somebody else's.
    pub(super) fn take(&self, now: Instant, limit: Duration) -> Option<Turn<'_>> {
        let mut next_at = self.next_at();
        (*next_at <= now).then(|| {
            *next_at = now + limit;
            Turn { turns: self, over_at: now + limit, next_at: now }
        })
    }
}

impl Turn<'_> {
    /// It is done, and is to be done again then.
    pub(super) fn done(mut self, next_at: Instant) {
        self.next_at = next_at;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut next_at = self.turns.next_at();
        // Else it is over, and others have their turns.
        if *next_at == self.over_at {
            *next_at = self.next_at;
        }
        drop(next_at);
        self.turns.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);
    const PAUSE: Duration = Duration::from_millis(100);

    #[test]
    fn one_has_the_turn_and_then_nobody_until_it_is_due_again() {
        let now = Instant::now();
        let turns = Turns::new(now + PAUSE);
        assert!(!turns.is_due(now) && turns.take(now, LIMIT).is_none());
        let now = now + PAUSE;
        assert!(turns.is_due(now));
        let turn = turns.take(now, LIMIT).unwrap();
        assert!(!turns.is_due(now) && turns.take(now, LIMIT).is_none());
        turn.done(now + PAUSE);
        assert!(!turns.is_due(now) && turns.take(now + PAUSE, LIMIT).is_some());
    }

    #[test]
    fn a_turn_that_is_dropped_is_the_next_callers() {
        let now = Instant::now();
        let turns = Turns::new(now);
        drop(turns.take(now, LIMIT));
        assert!(turns.take(now, LIMIT).is_some());
    }

    #[test]
    fn a_turn_that_is_left_alone_is_over_after_its_time_and_says_nothing_of_later_ones() {
        let now = Instant::now();
        let turns = Turns::new(now);
        let (left_alone, dropped) = (turns.take(now, LIMIT).unwrap(), now + LIMIT);
        let second = turns.take(dropped, LIMIT).unwrap();
        drop(left_alone);
        assert!(turns.take(dropped, LIMIT).is_none());
        second.done(dropped + PAUSE);
        let third = turns.take(dropped + LIMIT, LIMIT);
        assert!(third.is_some());
    }
}
