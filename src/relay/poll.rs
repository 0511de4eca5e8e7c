//! When the relay looks for new rows. Pure: no I/O, no clock.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after a page without rows: first the short one, then twice as long each time, up to the long one.
const SHORTEST: Duration = Duration::from_millis(5);
const LONGEST: Duration = Duration::from_secs(1);
/// While a row is known to be on its way: a quarter of the time since that was learnt, within these bounds.
const EXPECTED_SHORTEST: Duration = Duration::from_millis(1);
const EXPECTED_LONGEST: Duration = Duration::from_millis(100);
/// The pause after a page that could not be read.
const AFTER_FAILURE: Duration = Duration::from_millis(500);

/// Reads on at once while there are rows, often while one is expected, and ever more seldom while there is none.
#[derive(Debug)]
pub(crate) struct Poll {
    due_at: Instant,
    pause: Duration,
    read_at: Instant,
    hinted_at: Instant,
}

impl Poll {
    pub(crate) fn new(now: Instant) -> Self {
        Self { due_at: now, pause: SHORTEST, read_at: now, hinted_at: now }
    }

    pub(crate) fn is_due(&self, now: Instant) -> bool {
        now >= self.due_at
    }

    pub(crate) fn due_at(&self) -> Instant {
        self.due_at
    }

    /// There is, or will be, a row.
    pub(crate) fn hint(&mut self, now: Instant) {
        self.hinted_at = now;
        self.due_at = now;
        self.pause = SHORTEST;
    }

    /// There is, or will be, a row that is handed over within this time, or never.
    pub(crate) fn hint_within(&mut self, now: Instant, time: Duration) {
        self.due_at = self.due_at.min(now + time);
    }

    /// A page was read.
    pub(crate) fn read(&mut self, now: Instant, had_rows: bool) {
        self.read_at = now;
        if had_rows {
            self.pause = SHORTEST;
            self.due_at = now;
        } else {
            self.due_at = now + self.pause;
            self.pause = (self.pause * 2).min(LONGEST);
        }
    }

    /// Behind a page: whether a row is expected that it did not have.
    pub(crate) fn expect(&mut self, expected: bool) {
        if expected {
            let since = self.read_at.saturating_duration_since(self.hinted_at);
            let pause = (since / 4).clamp(EXPECTED_SHORTEST, EXPECTED_LONGEST);
            self.due_at = self.due_at.min(self.read_at + pause);
        }
    }

    /// A page could not be read.
    pub(crate) fn failed(&mut self, now: Instant) {
        self.due_at = now + AFTER_FAILURE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_while_nothing_comes_and_a_row_or_a_hint_ends_them() {
        let mut now = Instant::now();
        let mut poll = Poll::new(now);
        for expected in [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000] {
            poll.read(now, false);
            assert_eq!(poll.due_at() - now, Duration::from_millis(expected));
            assert!(!poll.is_due(now));
            now = poll.due_at();
        }
        poll.read(now, true);
        assert!(poll.is_due(now));
        poll.read(now, false);
        assert_eq!(poll.due_at() - now, SHORTEST);
        poll.hint(now);
        assert!(poll.is_due(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_row_that_is_handed_over_by_then_is_looked_for_then_and_no_later_than_without_it() {
        let now = Instant::now();
        let mut poll = Poll::new(now);
        poll.failed(now);
        assert_eq!(poll.due_at(), now + AFTER_FAILURE);
        poll.hint_within(now, SHORTEST);
        assert_eq!(poll.due_at(), now + SHORTEST);
        poll.hint_within(now, LONGEST);
        assert_eq!(poll.due_at(), now + SHORTEST);
    }

    #[tokio::test(start_paused = true)]
    async fn an_expected_row_is_looked_for_often_and_less_so_with_time() {
        let start = Instant::now();
        let mut poll = Poll::new(start);
        for (after, pause) in [(0, 1), (40, 10), (4000, 100)] {
            poll.hint(start);
            let now = start + Duration::from_millis(after);
            poll.pause = LONGEST;
            poll.read(now, false);
            poll.expect(true);
            assert_eq!(poll.due_at() - now, Duration::from_millis(pause), "{after}");
        }
    }
}
