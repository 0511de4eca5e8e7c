//! Which lanes have events in the outbox that a direct event could overtake. Pure state: no I/O, no clock.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use tokio::sync::Notify;

use crate::outbox::Head;

/// For each lane the highest number that this process knows to be given out, and the number below which all are settled.
///
/// A lane is *spilled* while the one is not below the other. Both only ever grow, so readers need no lock: whoever sees a
/// lane settled sees it after the events that were spilled had reached the topic.
#[derive(Debug)]
pub(crate) struct Spills {
    lanes: Box<[Lane]>,
    /// Told when a lane was spilled: there is, or will be, something to relay.
    spilled: Notify,
    /// Told when a floor rose.
    settled: Notify,
}

#[derive(Debug)]
struct Lane {
    last: AtomicI64,
    floor: AtomicI64,
    /// Whether a relay of this producer has the lane.
    relayed_here: AtomicBool,
}

impl Spills {
    pub(crate) fn new(lanes: u16) -> Self {
        let lane = || Lane { last: AtomicI64::new(0), floor: AtomicI64::new(1), relayed_here: AtomicBool::new(false) };
        Self { lanes: (0..lanes).map(|_| lane()).collect(), spilled: Notify::new(), settled: Notify::new() }
    }

    /// Whether a direct event of the lane could overtake one in the outbox.
    pub(crate) fn is_spilled(&self, lane: u16) -> bool {
        let lane = &self.lanes[usize::from(lane)];
        // Floor first: read the other way round, a number given out in between could be missed.
        let floor = lane.floor.load(Ordering::SeqCst);
        lane.last.load(Ordering::SeqCst) >= floor
    }

    /// Says that the lane has an event of this number, committed or to be.
    pub(crate) fn spill(&self, lane: u16, number: i64) {
        self.lanes[usize::from(lane)].last.fetch_max(number, Ordering::SeqCst);
        self.spilled.notify_one();
    }

    /// All numbers of the lane below this one are known to be settled. One that is drawn later is not below it, unless the
    /// database's numbers have gone back.
    pub(crate) fn floor(&self, lane: u16) -> i64 {
        self.lanes[usize::from(lane)].floor.load(Ordering::SeqCst)
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

    /// Says that all numbers of the lane below `floor` are settled.
    pub(crate) fn settle_below(&self, lane: u16, floor: i64) {
        if self.lanes[usize::from(lane)].floor.fetch_max(floor, Ordering::SeqCst) < floor {
            self.settled.notify_waiters();
        }
    }

    /// Takes over what the outbox says at start: events that an earlier process stored are spilled too.
    pub(crate) fn start_from(&self, heads: &[Head]) {
        for (lane, head) in self.lanes.iter().zip(heads) {
            lane.last.fetch_max(head.last, Ordering::SeqCst);
            lane.floor.fetch_max(head.floor, Ordering::SeqCst);
        }
    }

    /// Takes over the floors that the outbox says, which a relay elsewhere may have moved.
    pub(crate) fn refresh(&self, heads: &[Head]) {
        for (lane, head) in (0u16..).zip(heads.iter().take(self.lanes.len())) {
            self.settle_below(lane, head.floor);
        }
    }

    /// Completes when a lane is spilled, or was since it last did.
    pub(crate) async fn wait_for_spill(&self) {
        self.spilled.notified().await;
    }

    /// Completes when the floor of a lane rises after this call.
    pub(crate) fn wait_for_settlement(&self) -> tokio::sync::futures::Notified<'_> {
        self.settled.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_spilled_until_all_that_was_given_out_is_settled() {
        let spills = Spills::new(2);
        assert!(!spills.is_spilled(0));
        spills.spill(0, 7);
        spills.settle_below(0, 7);
        assert!(spills.is_spilled(0) && !spills.is_spilled(1));
        spills.settle_below(0, 8);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn an_older_number_or_floor_changes_nothing() {
        let spills = Spills::new(1);
        spills.spill(0, 7);
        spills.spill(0, 3);
        spills.settle_below(0, 5);
        spills.settle_below(0, 2);
        assert!(spills.is_spilled(0));
        spills.settle_below(0, 8);
        assert!(!spills.is_spilled(0));
    }

    #[test]
    fn what_an_earlier_process_left_in_the_outbox_is_spilled() {
        let spills = Spills::new(2);
        spills.start_from(&[Head { last: 9, floor: 4 }, Head { last: 9, floor: 10 }]);
        assert!(spills.is_spilled(0) && !spills.is_spilled(1));
        spills.refresh(&[Head { last: 12, floor: 10 }, Head { last: 9, floor: 10 }]);
        assert!(!spills.is_spilled(0));
    }
}
