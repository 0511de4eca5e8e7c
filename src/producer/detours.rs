//! How many events of a spilled lane take the detour by the outbox before one waits for the lane. Pure: no I/O, no clock.

/// So many take the detour before one waits, at first and while the relay falls behind.
const LEAST: u32 = 8;
/// The most that do.
const MOST: u32 = 4_096;

/// The detours by one lane.
///
/// A stream whose every event is stored behind the one before it would keep its lane spilled for ever, and one that stores faster
/// than the relay sends would make what waits grow. So now and then an event waits for the lane, and with it those that come
/// after. While that does no good, because the relay stands still or gets to the end by itself, events wait ever less often.
#[derive(Debug)]
pub(super) struct Detours {
    /// How many events took the detour since one last waited.
    taken: u32,
    /// How many may do so before one waits.
    patience: u32,
    /// The least that was to be relayed when one had waited.
    least_behind: i64,
}

impl Default for Detours {
    fn default() -> Self {
        Self { taken: 0, patience: LEAST, least_behind: i64::MAX }
    }
}

impl Detours {
    /// So many more events come along. Whether so many have taken the detour that these had better wait.
    pub(super) fn is_long(&mut self, events: usize) -> bool {
        let is_long = self.taken >= self.patience;
        self.taken = self.taken.saturating_add(u32::try_from(events).unwrap_or(u32::MAX));
        is_long
    }

    /// An event has waited, and the lane is spilled still. `behind` is how much is to be relayed now; `gets_on` whether something
    /// was meanwhile. Of those that waited together the first counts.
    pub(super) fn waited_in_vain(&mut self, behind: i64, gets_on: bool) {
        if self.taken < self.patience {
            return;
        }
        let shrinks = behind < self.least_behind;
        // Otherwise it is measured against what was before it grew, lest it grow a little more each time.
        if shrinks || self.patience == LEAST {
            self.least_behind = behind;
        }
        self.patience = if shrinks || !gets_on { (self.patience * 2).min(MOST) } else { LEAST };
        self.taken = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(detours: &mut Detours) -> usize {
        (0..).take_while(|_| !detours.is_long(1)).count()
    }

    #[test]
    fn some_take_the_detour_and_then_all_wait() {
        let mut detours = Detours::default();
        assert_eq!(taken(&mut detours), 8);
        assert!(detours.is_long(1), "the next ones wait as well");
    }

    #[test]
    fn what_is_stored_together_counts_for_as_many() {
        let mut detours = Detours::default();
        assert!(!detours.is_long(25));
        assert!(detours.is_long(1));
    }

    #[test]
    fn events_wait_ever_less_while_the_relay_stands_still_or_gets_to_the_end_by_itself() {
        for (behind, gets_on) in [([100, 110, 120], false), ([120, 110, 100], true)] {
            let mut detours = Detours::default();
            for (behind, patience) in behind.into_iter().zip([8, 16, 32]) {
                assert_eq!(taken(&mut detours), patience);
                detours.waited_in_vain(behind, gets_on);
            }
        }
        let mut detours = Detours::default();
        for _ in 0..20 {
            taken(&mut detours);
            detours.waited_in_vain(1, false);
        }
        assert_eq!(taken(&mut detours), 4_096);
    }

    #[test]
    fn those_that_waited_together_count_once() {
        let mut detours = Detours::default();
        for patience in [8, 16, 32] {
            assert_eq!(taken(&mut detours), patience);
            (0..16).for_each(|_| detours.waited_in_vain(1_000 - i64::try_from(patience).unwrap(), true));
        }
    }

    #[test]
    fn a_stream_that_is_faster_than_the_relay_is_held_up_until_the_lane_is_free() {
        /// What the relay sends while one waits; while events are stored without waiting it does not get to run.
        const RELAYED: i64 = 50;
        for at_once in [1, 25] {
            let mut detours = Detours::default();
            let mut behind: i64 = 10_000;
            let rounds = (0..2_000).find(|_| {
                while !detours.is_long(at_once) {
                    behind += i64::try_from(at_once).unwrap();
                }
                behind -= RELAYED;
                detours.waited_in_vain(behind, true);
                behind <= 0
            });
            assert!(rounds.is_some(), "{behind} are still to be relayed");
        }
    }

    #[test]
    fn a_backlog_that_shrinks_on_its_own_hardly_holds_anybody_up() {
        let mut detours = Detours::default();
        let mut behind: i64 = 100_000;
        let mut waits = 0;
        while behind > 0 {
            // For each event that is stored, ten are relayed.
            while !detours.is_long(1) && behind > 0 {
                behind -= 9;
            }
            waits += 1;
            detours.waited_in_vain(behind, true);
        }
        assert!(waits < 15, "{waits} waited");
    }
}
