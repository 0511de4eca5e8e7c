//! How many events of a spilled lane take the detour by the outbox before one waits for the lane, and for how long. Pure: no I/O,
//! no clock.

use std::time::Duration;

/// So many take the detour before one waits, at first and while the relay falls behind.
const LEAST: u32 = 8;
/// The most that do.
const MOST: u32 = 4_096;

/// How long one waits for a lane to settle, at first. A relay elsewhere writes its progress down every 50 ms.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest that one does.
const LONGEST: Duration = Duration::from_secs(2);

/// The detours by one lane.
///
/// A stream whose every event is stored behind the one before it would keep its lane spilled for ever, and one that stores faster
/// than the relay sends would make what waits grow. So now and then an event waits for the lane, and with it those that come
/// after. While that does no good, because the relay stands still or gets to the end by itself, events wait ever less often. While
/// the relay falls behind all the same they wait ever longer: nobody knows how fast it is, and how much is stored at once.
#[derive(Debug)]
pub(super) struct Detours {
    /// How many events took the detour since some last waited.
    taken: u32,
    /// How many may do so before some wait.
    patience: u32,
    /// How long those wait.
    limit: Duration,
    /// How often some waited.
    round: u32,
    /// The least that was to be relayed when some had waited.
    least_behind: i64,
}

/// An event is to wait for the lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wait {
    /// No longer than so.
    pub(super) limit: Duration,
    round: u32,
}

impl Default for Detours {
    fn default() -> Self {
        Self { taken: 0, patience: LEAST, limit: SHORTEST, round: 0, least_behind: i64::MAX }
    }
}

impl Detours {
    /// So many more events come along: they take the detour, unless so many did that these had better wait.
    pub(super) fn add(&mut self, events: usize) -> Option<Wait> {
        let wait = (self.taken >= self.patience).then_some(Wait { limit: self.limit, round: self.round });
        self.taken = self.taken.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        wait
    }

    /// An event has waited, and the lane is spilled still. `behind` is how much is to be relayed now; `gets_on` whether something
    /// was meanwhile. Of those that waited together the first counts.
    pub(super) fn waited_in_vain(&mut self, wait: Wait, behind: i64, gets_on: bool) {
        if wait.round != self.round {
            return;
        }
        let shrinks = behind < self.least_behind;
        // Otherwise it is measured against what was before it grew, lest it grow a little more each time.
        if shrinks || self.patience == LEAST {
            self.least_behind = behind;
        }
        if shrinks || !gets_on {
            self.patience = (self.patience * 2).min(MOST);
        } else {
            self.patience = LEAST;
            self.limit = (self.limit * 2).min(LONGEST);
        }
        self.taken = 0;
        self.round += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many take the detour, one by one, and then the wait of the next one.
    fn until_one_waits(detours: &mut Detours) -> (usize, Wait) {
        (0..).find_map(|taken| detours.add(1).map(|wait| (taken, wait))).unwrap()
    }

    #[test]
    fn some_take_the_detour_and_then_all_wait() {
        let mut detours = Detours::default();
        let (taken, wait) = until_one_waits(&mut detours);
        assert_eq!((taken, wait.limit), (8, SHORTEST));
        assert_eq!(detours.add(1), Some(wait), "the next ones wait as well");
    }

    #[test]
    fn what_is_stored_together_counts_for_as_many() {
        let mut detours = Detours::default();
        assert_eq!(detours.add(25), None);
        assert!(detours.add(1).is_some());
    }

    #[test]
    fn events_wait_ever_less_while_the_relay_stands_still_or_gets_to_the_end_by_itself() {
        for (behind, gets_on) in [([100, 110, 120], false), ([120, 110, 100], true)] {
            let mut detours = Detours::default();
            for (behind, patience) in behind.into_iter().zip([8, 16, 32]) {
                let (taken, wait) = until_one_waits(&mut detours);
                assert_eq!((taken, wait.limit), (patience, SHORTEST));
                detours.waited_in_vain(wait, behind, gets_on);
            }
        }
        let mut detours = Detours::default();
        for _ in 0..20 {
            let (_, wait) = until_one_waits(&mut detours);
            detours.waited_in_vain(wait, 1, false);
        }
        assert_eq!(until_one_waits(&mut detours).0, 4_096);
    }

    #[test]
    fn events_wait_ever_longer_while_the_relay_falls_behind() {
        let mut detours = Detours::default();
        for (behind, limit) in [(100, 250), (110, 250), (120, 500), (130, 1_000), (140, 2_000), (150, 2_000)] {
            let wait = (0..9).filter_map(|_| detours.add(100)).last().unwrap();
            assert_eq!(wait.limit, Duration::from_millis(limit));
            detours.waited_in_vain(wait, behind, true);
        }
    }

    #[test]
    fn what_is_behind_is_measured_against_the_time_before_it_grew() {
        for behind in [[100, 110, 105, 103], [100, 100, 105, 103]] {
            let mut detours = Detours::default();
            for (behind, limit) in behind.into_iter().zip([250, 250, 500, 1_000]) {
                let wait = (0..9).filter_map(|_| detours.add(100)).last().unwrap();
                assert_eq!(wait.limit, Duration::from_millis(limit));
                detours.waited_in_vain(wait, behind, true);
            }
            assert_eq!(until_one_waits(&mut detours).0, 16, "the last is less than the one before");
        }
    }

    #[test]
    fn those_that_waited_together_count_once() {
        let mut detours = Detours::default();
        for patience in [8, 16, 32] {
            let (taken, wait) = until_one_waits(&mut detours);
            assert_eq!(taken, patience);
            detours.waited_in_vain(wait, 1_000 - i64::try_from(patience).unwrap(), true);
            // Some come along before the last ones of those have had their turn.
            (0..40).for_each(|_| detours.waited_in_vain(wait, 2_000, true));
        }
    }

    #[test]
    fn a_stream_that_is_faster_than_the_relay_is_held_up_until_the_lane_is_free() {
        /// What the relay sends in a second in which events wait. While they don't, it does not get to run.
        const RELAYED: u64 = 400;
        for at_once in [1, 25, 200] {
            let mut detours = Detours::default();
            let mut behind: u64 = 10_000;
            let rounds = (0..2_000).find(|_| {
                let wait = loop {
                    // Those that wait are stored afterwards.
                    behind += at_once;
                    if let Some(wait) = detours.add(usize::try_from(at_once).unwrap()) {
                        break wait;
                    }
                };
                let relayed = RELAYED * u64::try_from(wait.limit.as_millis()).unwrap() / 1_000;
                behind = behind.saturating_sub(relayed);
                detours.waited_in_vain(wait, i64::try_from(behind).unwrap(), true);
                behind == 0
            });
            assert!(rounds.is_some(), "{behind} are still to be relayed, with {at_once} at once");
        }
    }

    #[test]
    fn a_backlog_that_shrinks_on_its_own_hardly_holds_anybody_up() {
        let mut detours = Detours::default();
        let mut behind: i64 = 100_000;
        let mut waits = 0;
        while behind > 0 {
            // For each event that is stored, ten are relayed.
            behind -= 9;
            if let Some(wait) = detours.add(1) {
                waits += 1;
                assert_eq!(wait.limit, SHORTEST);
                detours.waited_in_vain(wait, behind, true);
            }
        }
        assert!(waits < 15, "{waits} waited");
    }
}
