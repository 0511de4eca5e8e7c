//! Which lanes have events in the outbox that a direct event could overtake. Pure state: no I/O, no clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::detours::{Detours, Wait};
use crate::outbox::{Head, Lanes};

/// For each lane the highest number that this process knows to be given out, and the number below which all are settled.
///
/// A lane is *spilled* while the one is not below the other. Both only grow, unless the database is set back, so readers need no
/// lock: whoever sees a lane settled sees it after the events that were spilled had reached the topic.
#[derive(Debug)]
pub(crate) struct Spills {
    /// As many as there can be, whatever the number of lanes is at the moment.
    lanes: Box<[Lane]>,
    /// Told when there is, or will be, something to relay.
    spilled: Notify,
    /// The same, of rows that are handed over once they are committed.
    announced: Notify,
    /// Told when a floor rose.
    settled: Notify,
}

#[derive(Debug)]
struct Lane {
    last: AtomicI64,
    floor: AtomicI64,
    /// The highest number of a row that the relay has to read, since nobody hands it over.
    unread: AtomicI64,
    /// The life of the database that the floor is of.
    life: AtomicI64,
    /// Counts the numbers that were given out; held while `last` changes.
    draws: Mutex<u64>,
    /// Whether a relay of this producer has the lane.
    relayed_here: AtomicBool,
    /// The events that took the detour since the lane was last settled.
    detours: Mutex<Detours>,
}

impl Lane {
    fn detours(&self) -> MutexGuard<'_, Detours> {
        self.detours.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was known of a lane at some time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    /// All numbers of the lane below this one were settled. One that is drawn later is not below it, unless the database's
    /// numbers have gone back.
    pub(crate) floor: i64,
    /// The life of the database in which that was so.
    pub(crate) life: i64,
    /// The highest number that was given out.
    pub(crate) last: i64,
    draws: u64,
}

impl Spills {
    pub(crate) fn new() -> Self {
        let lane = || Lane {
            last: AtomicI64::new(0),
            floor: AtomicI64::new(1),
            unread: AtomicI64::new(0),
            life: AtomicI64::new(0),
            draws: Mutex::default(),
            relayed_here: AtomicBool::new(false),
            detours: Mutex::default(),
        };
        Self {
            lanes: (0..Lanes::MAX).map(|_| lane()).collect(),
            spilled: Notify::new(),
            announced: Notify::new(),
            settled: Notify::new(),
        }
    }

    /// Whether a direct event of the lane could overtake one in the outbox.
    pub(crate) fn is_spilled(&self, lane: u16) -> bool {
        let lane = &self.lanes[usize::from(lane)];
        // Floor first: read the other way round, a number given out in between could be missed.
        let floor = lane.floor.load(Ordering::SeqCst);
        lane.last.load(Ordering::SeqCst) >= floor
    }

    /// In how many lanes that is so.
    pub(crate) fn spilled_count(&self) -> usize {
        (0..Lanes::MAX).filter(|lane| self.is_spilled(*lane)).count()
    }

    /// Says that the lane has an event of this number, committed or to be.
    pub(crate) fn spill(&self, lane: u16, number: i64) {
        let lane = &self.lanes[usize::from(lane)];
        let mut draws = lane.draws.lock().unwrap_or_else(PoisonError::into_inner);
        *draws += 1;
        lane.last.fetch_max(number, Ordering::SeqCst);
    }

    /// What is known of the lane now.
    pub(crate) fn known(&self, lane: u16) -> Known {
        let lane = &self.lanes[usize::from(lane)];
        let draws = lane.draws.lock().unwrap_or_else(PoisonError::into_inner);
        // Life first: `go_back` changes it last.
        let life = lane.life.load(Ordering::SeqCst);
        Known { floor: lane.floor.load(Ordering::SeqCst), life, last: lane.last.load(Ordering::SeqCst), draws: *draws }
    }

    /// What is known of all lanes now.
    pub(crate) fn all_known(&self) -> Vec<Known> {
        (0..Lanes::MAX).map(|lane| self.known(lane)).collect()
    }

    /// The highest number of the lane that is known to be given out.
    pub(crate) fn last(&self, lane: u16) -> i64 {
        self.lanes[usize::from(lane)].last.load(Ordering::SeqCst)
    }

    /// Says which lanes a relay of this producer has.
    pub(crate) fn relay_here(&self, has: impl Fn(u16) -> bool) {
        for (index, lane) in (0u16..).zip(&self.lanes) {
            lane.relayed_here.store(has(index), Ordering::Relaxed);
        }
    }

    /// Whether a relay of this producer has the lane: the others need not be told of its rows.
    pub(crate) fn is_relayed_here(&self, lane: u16) -> bool {
        self.lanes[usize::from(lane)].relayed_here.load(Ordering::Relaxed)
    }

    /// Has the relay look for rows.
    pub(crate) fn wake(&self) {
        self.spilled.notify_one();
    }

    /// Has the relay look for the row of this number, until it shows.
    pub(crate) fn expect(&self, lane: u16, number: i64) {
        self.lanes[usize::from(lane)].unread.fetch_max(number, Ordering::SeqCst);
        self.spilled.notify_one();
    }

    /// The highest number that the relay is to look for until it shows.
    pub(crate) fn expected(&self, lane: u16) -> i64 {
        self.lanes[usize::from(lane)].unread.load(Ordering::SeqCst)
    }

    /// Has the relay look for rows a little later: they are handed over by then, or never.
    pub(crate) fn announce(&self) {
        self.announced.notify_one();
    }

    /// Says that all numbers of the lane below `floor` are settled in this life of the database. If that is not the one that is
    /// known, it says nothing: a relay may not have heard yet that numbers are given out again.
    pub(crate) fn settle_below(&self, lane: u16, floor: i64, life: i64) {
        let lane = &self.lanes[usize::from(lane)];
        // Held, so that the lane does not go back in between.
        let _draws = lane.draws.lock().unwrap_or_else(PoisonError::into_inner);
        if lane.life.load(Ordering::SeqCst) != life {
            return;
        }
        if lane.floor.fetch_max(floor, Ordering::SeqCst) < floor {
            if lane.last.load(Ordering::SeqCst) < floor {
                *lane.detours() = Detours::default();
            }
            self.settled.notify_waiters();
        }
    }

    /// Takes over what the outbox says of a lane of which more was `known` before it was asked: numbers were rolled back that
    /// will be given out again, or the database is an older one.
    pub(crate) fn go_back(&self, lane: u16, known: Known, head: &Head) {
        let lane = &self.lanes[usize::from(lane)];
        let draws = lane.draws.lock().unwrap_or_else(PoisonError::into_inner);
        // Otherwise a number was given out since, perhaps one that the answer does not know.
        if *draws == known.draws && head.last < known.last {
            lane.last.store(head.last, Ordering::SeqCst);
        }
        lane.floor.fetch_min(head.floor, Ordering::SeqCst);
        lane.life.store(head.life, Ordering::SeqCst);
        drop(draws);
        self.settled.notify_waiters();
    }

    /// Takes over what the outbox says at start: events that an earlier process stored are spilled too.
    pub(crate) fn start_from(&self, heads: &[Head]) {
        for (lane, head) in self.lanes.iter().zip(heads) {
            lane.last.fetch_max(head.last, Ordering::SeqCst);
            lane.floor.fetch_max(head.floor, Ordering::SeqCst);
            lane.life.store(head.life, Ordering::SeqCst);
        }
    }

    /// Takes over what the outbox says, of lanes of which this was `known` before it was asked: another process may have stored
    /// something, and a relay elsewhere may have delivered it.
    pub(crate) fn refresh(&self, known: &[Known], heads: &[Head]) {
        for ((lane, known), head) in (0u16..).zip(known).zip(heads) {
            if known.life != head.life {
                self.go_back(lane, *known, head);
            }
            let state = &self.lanes[usize::from(lane)];
            if state.life.load(Ordering::SeqCst) == head.life {
                state.last.fetch_max(head.last, Ordering::SeqCst);
                self.settle_below(lane, head.floor, head.life);
            }
        }
    }

    /// Takes in that numbers up to this one were given out in this life of the database, by whomever.
    pub(crate) fn hear(&self, lane: u16, last: i64, life: i64) {
        let lane = &self.lanes[usize::from(lane)];
        if lane.life.load(Ordering::SeqCst) == life {
            lane.last.fetch_max(last, Ordering::SeqCst);
        }
    }

    /// So many more events of a spilled lane come along: they take the detour, unless so many did that these had better wait.
    pub(super) fn add_detours(&self, lane: u16, events: usize) -> Option<Wait> {
        self.lanes[usize::from(lane)].detours().add(events)
    }

    /// An event has waited for the lane since all below this floor were settled, and the lane is spilled still.
    pub(super) fn waited_in_vain(&self, lane: u16, wait: Wait, since: i64) {
        let lane = &self.lanes[usize::from(lane)];
        let floor = lane.floor.load(Ordering::SeqCst);
        let behind = lane.last.load(Ordering::SeqCst).saturating_sub(floor);
        lane.detours().waited_in_vain(wait, behind, floor > since);
    }

    /// Completes when the relay is [woken](Self::wake), or was since it last did.
    pub(crate) async fn wait_for_spill(&self) {
        self.spilled.notified().await;
    }

    /// Completes when rows are [announced](Self::announce), or were since it last did.
    pub(crate) async fn wait_for_announcement(&self) {
        self.announced.notified().await;
    }

    /// Completes when the floor of a lane rises after this call.
    pub(crate) fn wait_for_settlement(&self) -> tokio::sync::futures::Notified<'_> {
        self.settled.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(last: i64, floor: i64) -> Head {
        Head { last, floor, highest_settled: floor - 1, life: 1, lanes: Lanes::new(1, 0).unwrap() }
    }

    #[test]
    fn a_lane_is_spilled_until_all_that_was_given_out_is_settled() {
        let spills = Spills::new();
        assert!(!spills.is_spilled(0));
        spills.spill(0, 7);
        spills.settle_below(0, 7, spills.known(0).life);
        assert!(spills.is_spilled(0) && !spills.is_spilled(1));
        spills.settle_below(0, 8, spills.known(0).life);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn a_lane_that_settles_has_its_detours_counted_anew() {
        let spills = Spills::new();
        spills.spill(0, 1);
        let detours = || (0..).find_map(|taken| spills.add_detours(0, 1).map(|wait| (taken, wait))).unwrap();
        let (taken, wait) = detours();
        assert_eq!(taken, 8);
        spills.waited_in_vain(0, wait, 1);
        let (taken, wait) = detours();
        assert_eq!(taken, 16, "the relay stood still");
        spills.waited_in_vain(0, wait, 1);
        let (taken, wait) = detours();
        assert_eq!(taken, 32, "it stands still, and nothing was stored meanwhile");
        spills.spill(0, 9);
        spills.settle_below(0, 3, spills.known(0).life);
        spills.waited_in_vain(0, wait, 1);
        let (taken, wait) = detours();
        assert_eq!(taken, 8, "it got on, and falls behind");
        spills.waited_in_vain(0, wait, 3);
        spills.settle_below(0, 10, spills.known(0).life);
        spills.spill(0, 10);
        assert_eq!(detours().0, 8, "it has settled meanwhile");
    }

    #[test]
    fn what_another_process_has_stored_spills_a_lane_until_it_is_settled() {
        let spills = Spills::new();
        spills.start_from(&[head(9, 10)]);
        spills.refresh(&spills.all_known(), &[head(12, 10)]);
        assert!(spills.is_spilled(0));
        spills.refresh(&spills.all_known(), &[head(12, 13)]);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn an_older_number_or_floor_changes_nothing() {
        let spills = Spills::new();
        spills.spill(0, 7);
        spills.spill(0, 3);
        spills.settle_below(0, 5, spills.known(0).life);
        spills.settle_below(0, 2, spills.known(0).life);
        assert!(spills.is_spilled(0));
        spills.settle_below(0, 8, spills.known(0).life);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn a_lane_that_has_gone_back_is_spilled_by_the_numbers_that_are_given_out_again() {
        let spills = Spills::new();
        spills.spill(0, 100);
        spills.settle_below(0, 101, spills.known(0).life);
        spills.spill(0, 12);
        assert!(!spills.is_spilled(0));
        let known = spills.known(0);
        spills.go_back(0, known, &head(12, 12));
        assert!(spills.is_spilled(0) && spills.last(0) == 12 && spills.known(0).life == 1);
        spills.settle_below(0, 13, spills.known(0).life);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn what_is_settled_in_another_life_of_the_database_counts_for_nothing() {
        let spills = Spills::new();
        spills.start_from(&[head(34, 31)]);
        spills.refresh(&spills.all_known(), &[Head { life: 2, ..head(33, 3) }]);
        spills.spill(0, 34);
        spills.settle_below(0, 35, 1);
        assert!(spills.is_spilled(0));
        spills.settle_below(0, 35, 2);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn a_number_that_was_rolled_back_is_forgotten_unless_it_was_given_out_again_meanwhile() {
        let spills = Spills::new();
        spills.settle_below(0, 7, spills.known(0).life);
        spills.spill(0, 7);
        let known = spills.known(0);
        spills.spill(0, 7);
        spills.go_back(0, known, &head(6, 7));
        assert!(spills.is_spilled(0), "the second 7 is one that the answer does not know");
        let known = spills.known(0);
        spills.go_back(0, known, &head(6, 7));
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn the_spilled_lanes_and_those_of_the_own_relay_are_told_apart() {
        let spills = Spills::new();
        assert_eq!(spills.spilled_count(), 0);
        spills.spill(0, 1);
        spills.spill(5, 1);
        assert_eq!(spills.spilled_count(), 2);
        spills.relay_here(|lane| lane == 5);
        assert!(spills.is_relayed_here(5) && !spills.is_relayed_here(0));
    }

    #[test]
    fn what_is_heard_counts_in_the_life_of_the_database_that_it_is_of() {
        let spills = Spills::new();
        spills.start_from(&[head(9, 10)]);
        spills.hear(0, 12, 2);
        assert_eq!(spills.last(0), 9);
        spills.hear(0, 12, 1);
        assert_eq!(spills.last(0), 12);
    }

    #[test]
    fn an_answer_of_the_same_life_takes_nothing_back_and_one_of_another_does() {
        let spills = Spills::new();
        spills.start_from(&[head(9, 10)]);
        spills.refresh(&spills.all_known(), &[head(6, 7)]);
        assert_eq!((spills.last(0), spills.known(0).floor), (9, 10));
        spills.refresh(&spills.all_known(), &[Head { life: 2, ..head(6, 7) }]);
        assert_eq!((spills.last(0), spills.known(0).floor, spills.known(0).life), (6, 7, 2));
    }

    #[tokio::test]
    async fn the_relay_is_told_of_what_it_is_to_look_for() {
        let spills = Spills::new();
        let told = async |completes: bool, wait: &mut (dyn Future<Output = ()> + Unpin)| {
            let moment = std::time::Duration::from_millis(if completes { 10_000 } else { 1 });
            assert_eq!(tokio::time::timeout(moment, wait).await.is_ok(), completes);
        };
        told(false, &mut std::pin::pin!(spills.wait_for_spill())).await;
        spills.expect(3, 7);
        spills.expect(3, 5);
        assert_eq!(spills.expected(3), 7);
        told(true, &mut std::pin::pin!(spills.wait_for_spill())).await;
        spills.wake();
        told(true, &mut std::pin::pin!(spills.wait_for_spill())).await;
        told(false, &mut std::pin::pin!(spills.wait_for_announcement())).await;
        spills.announce();
        told(true, &mut std::pin::pin!(spills.wait_for_announcement())).await;
    }

    #[test]
    fn what_an_earlier_process_left_in_the_outbox_is_spilled() {
        let spills = Spills::new();
        spills.start_from(&[head(9, 4), head(9, 10)]);
        assert!(spills.is_spilled(0) && !spills.is_spilled(1));
        spills.refresh(&spills.all_known(), &[head(9, 10), head(9, 10)]);
        assert!(!spills.is_spilled(0));
    }
}
