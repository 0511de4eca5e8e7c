//! Whether the other side still answers, judged by what the client holds. Pure: no I/O, no clock.

use std::time::{Duration, Instant};

use crate::transport::Vitals;

/// A client without a connection finds another within this time, or there is none.
const CUT_TIME: Duration = Duration::from_millis(500);

/// A client that holds more than this share of what it can is given half the time.
const FULL: f32 = 0.8;

/// What was last seen of a client.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// How long nothing may be acknowledged while records wait.
    limit: Duration,
    acknowledged: u64,
    /// Since when records wait and none was acknowledged.
    waiting_since: Option<Instant>,
    /// Since when there is no connection.
    cut_since: Option<Instant>,
}

impl Pulse {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, acknowledged: 0, waiting_since: None, cut_since: None }
    }

    /// Takes in how the client is now. Says whether nobody answers it.
    pub(crate) fn is_silent(&mut self, vitals: &Vitals, now: Instant) -> bool {
        if vitals.unacknowledged == 0 || vitals.acknowledged != self.acknowledged {
            self.waiting_since = None;
        }
        self.acknowledged = vitals.acknowledged;
        if vitals.unacknowledged > 0 {
            self.waiting_since.get_or_insert(now);
        }
        if vitals.is_connected {
            self.cut_since = None;
        } else {
            self.cut_since.get_or_insert(now);
        }
        let limit = match vitals {
            // Its first record waits for connections, logins, and the client's number.
            Vitals { acknowledged: 0, .. } => self.limit * 2,
            Vitals { fullness, .. } if *fullness > FULL => self.limit / 2,
            _ => self.limit,
        };
        self.waiting_since.is_some_and(|since| now >= since + limit)
            || self.cut_since.is_some_and(|since| now >= since + CUT_TIME.min(self.limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    fn vitals(unacknowledged: usize, acknowledged: u64) -> Vitals {
        Vitals { unacknowledged, acknowledged, ..Vitals::new() }
    }

    fn after(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_client_is_silent_once_records_have_waited_and_none_was_acknowledged() {
        let (start, mut pulse) = (Instant::now(), Pulse::new(LIMIT));
        assert!(!pulse.is_silent(&vitals(3, 7), start));
        assert!(!pulse.is_silent(&vitals(5, 7), after(start, 999)));
        assert!(pulse.is_silent(&vitals(5, 7), after(start, 1_000)));
    }

    #[test]
    fn a_client_that_has_not_delivered_anything_yet_has_twice_the_time() {
        let (start, mut pulse) = (Instant::now(), Pulse::new(LIMIT));
        assert!(!pulse.is_silent(&vitals(3, 0), start));
        assert!(!pulse.is_silent(&vitals(3, 0), after(start, 1_999)));
        assert!(pulse.is_silent(&vitals(3, 0), after(start, 2_000)));
    }

    #[test]
    fn an_acknowledgement_is_a_sign_of_life_and_so_is_nothing_to_wait_for() {
        let (start, mut pulse) = (Instant::now(), Pulse::new(LIMIT));
        pulse.is_silent(&vitals(3, 9), start);
        assert!(!pulse.is_silent(&vitals(3, 1), after(start, 1_000)));
        assert!(!pulse.is_silent(&vitals(3, 1), after(start, 1_999)));
        assert!(!pulse.is_silent(&vitals(0, 1), after(start, 2_500)));
        assert!(!pulse.is_silent(&vitals(1, 1), after(start, 9_000)));
        assert!(pulse.is_silent(&vitals(1, 1), after(start, 10_000)));
    }

    #[test]
    fn a_client_that_is_nearly_full_has_half_the_time() {
        let (start, mut pulse) = (Instant::now(), Pulse::new(LIMIT));
        let full = Vitals { fullness: 0.9, ..vitals(90, 7) };
        assert!(!pulse.is_silent(&full, start));
        assert!(!pulse.is_silent(&Vitals { fullness: FULL, ..full }, after(start, 500)));
        assert!(pulse.is_silent(&full, after(start, 500)));
    }

    #[test]
    fn a_client_without_a_connection_is_silent_soon_though_nothing_waits() {
        let (start, mut pulse) = (Instant::now(), Pulse::new(LIMIT));
        let cut = Vitals { is_connected: false, ..vitals(0, 7) };
        assert!(!pulse.is_silent(&cut, start));
        assert!(!pulse.is_silent(&vitals(0, 7), after(start, 400)));
        assert!(!pulse.is_silent(&cut, after(start, 500)));
        assert!(pulse.is_silent(&cut, after(start, 1_000)));
    }
}
