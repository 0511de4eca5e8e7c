//! What a relay knows of the numbers of one lane. Pure: no I/O, no clock.

use rangemap::RangeSet;

use crate::outbox::{Hole, floor};

/// Which numbers of a lane are settled, which were read, and which are gaps.
///
/// A *gap* is a number that was not there when a higher one was: its transaction rolled back, or is still open and will
/// commit late. It is looked for in every page until it shows, or is proven dead. The proof: take a *mark*, an id of a
/// transaction that began after the gap was seen. The number was drawn before that, by a transaction with an older id.
/// When a page shows that every older transaction has ended, and still does not have the number, it never will.
///
/// A transaction that is open for long would delay that, though it never drew a number. The other proof: name the
/// *witnesses*, the transactions that write to the log after the gap was seen; one of them drew the number, or nobody. When
/// all have ended, and a page that was begun later still does not have the number, it never will.
#[derive(Debug)]
pub(crate) struct Cursor {
    settled: RangeSet<i64>,
    /// Settled, but not yet written to the outbox.
    unsaved: RangeSet<i64>,
    /// Every number below was read, is settled, or lies in a gap.
    read_to: i64,
    /// In order.
    gaps: Vec<Gap>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Gap {
    low: i64,
    high: i64,
    mark: Option<u64>,
    /// Which of the relay's sets of witnesses was named after the gap was seen.
    witnesses: Option<u64>,
}

/// What a page has shown of one hole.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Look<'a> {
    pub(crate) hole: Hole,
    /// The numbers that are there, in order.
    pub(crate) numbers: &'a [i64],
    /// Whether there may be more behind them: the page was cut at its limit.
    pub(crate) cut: bool,
    /// See [`Page::horizon`](crate::outbox::Page::horizon).
    pub(crate) horizon: u64,
    /// The last set of witnesses that had ended before the page was begun.
    pub(crate) ended: u64,
}

impl Cursor {
    pub(crate) fn new(settled: RangeSet<i64>) -> Self {
        let read_to = settled.last().map_or(1, |range| range.end);
        let gaps = settled
            .gaps(&(1..read_to))
            .map(|gap| Gap { low: gap.start, high: gap.end, mark: None, witnesses: None })
            .collect();
        Self { settled, unsaved: RangeSet::new(), read_to, gaps }
    }

    /// What is to be read: the gaps, and everything behind what was read.
    pub(crate) fn holes(&self, lane: u16) -> impl Iterator<Item = Hole> {
        let gaps = self.gaps.iter().map(move |gap| Hole { lane, low: gap.low, high: gap.high });
        gaps.chain(std::iter::once(Hole { lane, low: self.read_to, high: i64::MAX }))
    }

    /// The lowest number that is neither settled nor read.
    pub(crate) fn first_unknown(&self) -> i64 {
        self.gaps.first().map_or(self.read_to, |gap| gap.low)
    }

    /// Whether the number is settled or read.
    pub(crate) fn knows(&self, number: i64) -> bool {
        number < self.read_to && !self.gaps.iter().any(|gap| (gap.low..gap.high).contains(&number))
    }

    /// Takes in a number that is known to be there without a page. Only the [first unknown](Self::first_unknown) one: of what is
    /// missing before another, some may be of the same key, and it would overtake them.
    #[must_use]
    pub(crate) fn take(&mut self, number: i64) -> bool {
        if number != self.first_unknown() {
            return false;
        }
        match self.gaps.first_mut() {
            None => self.read_to += 1,
            Some(gap) => {
                gap.low += 1;
                if gap.low == gap.high {
                    self.gaps.remove(0);
                }
            }
        }
        true
    }

    /// Takes in what a page has shown of one of the [`holes`](Self::holes) that were listed last. Numbers that are proven
    /// dead by it are settled. Yields from which number on its rows are new: those before were [taken](Self::take) meanwhile.
    /// None if all are, or the hole is another one by now, since a number was [expected](Self::expect): then the next page
    /// shows its rows again.
    #[must_use]
    pub(crate) fn look(&mut self, look: &Look<'_>) -> Option<i64> {
        if look.hole.high == i64::MAX { self.read_head(look) } else { self.read_gap(look) }
    }

    /// Takes in that this number was drawn: it shows, or is a gap to be proven dead, even if no higher one ever shows.
    pub(crate) fn expect(&mut self, number: i64) {
        if number >= self.read_to {
            self.gaps.push(Gap { low: self.read_to, high: number + 1, mark: None, witnesses: None });
            self.read_to = number + 1;
        }
    }

    fn read_head(&mut self, look: &Look<'_>) -> Option<i64> {
        if self.gaps.last().is_some_and(|gap| gap.high > look.hole.low) {
            return None;
        }
        let new = self.read_to;
        for number in look.numbers.iter().copied().filter(|number| *number >= new) {
            if number > self.read_to {
                self.gaps.push(Gap { low: self.read_to, high: number, mark: None, witnesses: None });
            }
            self.read_to = number + 1;
        }
        Some(new)
    }

    fn read_gap(&mut self, look: &Look<'_>) -> Option<i64> {
        // Its first numbers may have been taken meanwhile; its end stays where it is.
        let index = self.gaps.iter().position(|gap| gap.high == look.hole.high)?;
        let gap = self.gaps.remove(index);
        // Beyond this the page did not look.
        let looked_to = match look.numbers.last() {
            Some(last) if look.cut => gap.low.max(last + 1),
            _ => gap.high,
        };
        let dead = gap.mark.is_some_and(|mark| mark <= look.horizon)
            || gap.witnesses.is_some_and(|witnesses| witnesses <= look.ended);
        let mut missing = RangeSet::new();
        if gap.low < looked_to {
            missing.insert(gap.low..looked_to);
        }
        for number in look.numbers {
            missing.remove(*number..number + 1);
        }
        let mut left = Vec::new();
        for range in missing {
            if dead {
                self.settle(range);
            } else {
                left.push(Gap { low: range.start, high: range.end, ..gap });
            }
        }
        if looked_to < gap.high {
            left.push(Gap { low: looked_to, ..gap });
        }
        self.gaps.splice(index..index, left);
        Some(gap.low)
    }

    /// Settles the numbers of a range.
    pub(crate) fn settle(&mut self, numbers: std::ops::Range<i64>) {
        self.settled.insert(numbers.clone());
        self.unsaved.insert(numbers);
    }

    /// Gives the gaps that have none a mark, taken after they were seen.
    pub(crate) fn mark(&mut self, mark: u64) {
        for gap in &mut self.gaps {
            gap.mark.get_or_insert(mark);
        }
    }

    /// Gives the gaps that have none this set of witnesses, named after they were seen.
    pub(crate) fn name_witnesses(&mut self, witnesses: u64) {
        for gap in &mut self.gaps {
            gap.witnesses.get_or_insert(witnesses);
        }
    }

    pub(crate) fn gap_count(&self) -> usize {
        self.gaps.len()
    }

    pub(crate) fn has_gaps(&self) -> bool {
        !self.gaps.is_empty()
    }

    /// Whether a gap waits for a mark.
    pub(crate) fn wants_mark(&self) -> bool {
        self.gaps.iter().any(|gap| gap.mark.is_none())
    }

    /// Every number below is settled.
    pub(crate) fn floor(&self) -> i64 {
        floor(&self.settled)
    }

    /// What was settled since this was last asked.
    pub(crate) fn take_unsaved(&mut self) -> RangeSet<i64> {
        std::mem::take(&mut self.unsaved)
    }

    /// Gives back what could not be written.
    pub(crate) fn put_back(&mut self, unsaved: RangeSet<i64>) {
        self.unsaved.extend(unsaved);
    }

    pub(crate) fn has_unsaved(&self) -> bool {
        !self.unsaved.is_empty()
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn hole(low: i64, high: i64) -> Hole {
        Hole { lane: 0, low, high }
    }

    /// A page that shows of each hole what `there` has, up to the first one that is cut.
    fn read(cursor: &mut Cursor, there: &BTreeSet<i64>, limit: usize, horizon: u64, ended: u64) -> Vec<i64> {
        let holes: Vec<_> = cursor.holes(0).collect();
        let mut seen = Vec::new();
        for hole in holes {
            let numbers: Vec<_> = there.range(hole.low..hole.high).copied().take(limit).collect();
            let cut = numbers.len() == limit;
            assert_eq!(cursor.look(&Look { hole, numbers: &numbers, cut, horizon, ended }), Some(hole.low));
            seen.extend(numbers);
            if cut {
                break;
            }
        }
        seen
    }

    #[test]
    fn a_number_that_commits_late_is_read_when_it_shows() {
        let mut cursor = Cursor::new(RangeSet::new());
        assert_eq!(read(&mut cursor, &BTreeSet::from([1, 3]), 10, 0, 0), [1, 3]);
        cursor.settle(1..2);
        cursor.settle(3..4);
        assert_eq!(cursor.floor(), 2, "2 is not settled: it may still come");
        assert_eq!(read(&mut cursor, &BTreeSet::from([1, 2, 3]), 10, 0, 0), [2]);
        cursor.settle(2..3);
        assert_eq!((cursor.floor(), cursor.has_gaps()), (4, false));
    }

    #[test]
    fn a_gap_is_closed_once_every_transaction_older_than_its_mark_has_ended() {
        let mut cursor = Cursor::new(RangeSet::new());
        let there = BTreeSet::from([3]);
        read(&mut cursor, &there, 10, 100, 0);
        read(&mut cursor, &there, 10, 100, 0);
        assert!(cursor.has_gaps(), "without a mark nothing is proven");
        cursor.mark(105);
        read(&mut cursor, &there, 10, 104, 0);
        assert!(cursor.has_gaps(), "an older transaction is still open");
        read(&mut cursor, &there, 10, 105, 0);
        assert!(!cursor.has_gaps());
        cursor.settle(3..4);
        assert_eq!(cursor.floor(), 4);
    }

    #[test]
    fn a_gap_is_closed_once_the_witnesses_that_were_named_after_it_have_ended() {
        let mut cursor = Cursor::new(RangeSet::new());
        let there = BTreeSet::from([3]);
        read(&mut cursor, &there, 10, 0, 0);
        cursor.name_witnesses(4);
        cursor.name_witnesses(5);
        read(&mut cursor, &there, 10, 0, 3);
        assert!(cursor.has_gaps(), "one of them writes still");
        read(&mut cursor, &there, 10, 0, 4);
        assert!(!cursor.has_gaps());
    }

    #[test]
    fn a_mark_that_is_older_than_the_gap_does_not_count_for_it() {
        let mut cursor = Cursor::new(RangeSet::new());
        read(&mut cursor, &BTreeSet::from([2]), 10, 0, 0);
        cursor.mark(50);
        read(&mut cursor, &BTreeSet::from([2, 4]), 10, 60, 0);
        assert_eq!(cursor.holes(0).next(), Some(hole(3, 4)), "the gap at 3 was seen after the mark");
        read(&mut cursor, &BTreeSet::from([2, 4]), 10, 60, 0);
        assert!(cursor.has_gaps());
    }

    #[test]
    fn a_page_that_was_cut_proves_nothing_of_what_it_did_not_look_at() {
        let mut cursor = Cursor::new(RangeSet::from_iter([6..7]));
        cursor.mark(1);
        assert_eq!(read(&mut cursor, &BTreeSet::from([1, 2, 4]), 2, 1, 0), [1, 2]);
        assert_eq!(cursor.holes(0).next(), Some(hole(3, 6)));
        assert_eq!(read(&mut cursor, &BTreeSet::from([4]), 2, 1, 0), [4]);
        assert!(!cursor.has_gaps());
    }

    #[test]
    fn a_number_that_was_drawn_and_rolled_back_is_settled_though_no_higher_one_shows() {
        let mut cursor = Cursor::new(RangeSet::from_iter([1..3]));
        cursor.expect(4);
        assert_eq!(cursor.holes(0).collect::<Vec<_>>(), [hole(3, 5), hole(5, i64::MAX)]);
        cursor.mark(9);
        assert_eq!(read(&mut cursor, &BTreeSet::from([3]), 10, 9, 0), [3]);
        cursor.settle(3..4);
        assert_eq!(cursor.floor(), 5, "4 is dead");
        cursor.expect(4);
        assert!(!cursor.has_gaps());
    }

    #[test]
    fn a_number_that_is_waited_for_keeps_none_behind_it_from_being_read() {
        let mut cursor = Cursor::new(RangeSet::new());
        cursor.expect(1);
        assert_eq!(read(&mut cursor, &BTreeSet::from([2, 3]), 10, 0, 0), [2, 3]);
    }

    #[test]
    fn what_a_page_shows_behind_a_number_that_is_waited_for_since_it_was_asked_for_is_shown_again() {
        let mut cursor = Cursor::new(RangeSet::new());
        let head = hole(1, i64::MAX);
        assert_eq!(cursor.holes(0).collect::<Vec<_>>(), [head]);
        cursor.expect(3);
        let look = Look { hole: head, numbers: &[1, 4], cut: false, horizon: 0, ended: 0 };
        assert_eq!(cursor.look(&look), None, "4 may be of the key of 1");
        assert_eq!(read(&mut cursor, &BTreeSet::from([1, 4]), 10, 0, 0), [1, 4]);
    }

    #[test]
    fn what_shows_in_the_middle_of_a_gap_leaves_two() {
        let mut cursor = Cursor::new(RangeSet::new());
        read(&mut cursor, &BTreeSet::from([6]), 10, 0, 0);
        assert_eq!(read(&mut cursor, &BTreeSet::from([3, 6]), 10, 0, 0), [3]);
        assert_eq!(cursor.holes(0).collect::<Vec<_>>(), [hole(1, 3), hole(4, 6), hole(7, i64::MAX)]);
    }

    #[test]
    fn a_cursor_knows_what_was_read_and_what_it_has_to_ask_for() {
        let mut cursor = Cursor::new(RangeSet::new());
        assert!(!cursor.knows(1) && !cursor.wants_mark() && cursor.gap_count() == 0);
        read(&mut cursor, &BTreeSet::from([1, 3, 6]), 10, 0, 0);
        assert_eq!((1..9).filter(|number| cursor.knows(*number)).collect::<Vec<_>>(), [1, 3, 6]);
        assert_eq!(cursor.gap_count(), 2);
        assert!(cursor.wants_mark());
        cursor.mark(5);
        assert!(!cursor.wants_mark());
        assert!(!cursor.has_unsaved());
        cursor.settle(1..2);
        assert!(cursor.has_unsaved());
        cursor.take_unsaved();
        assert!(!cursor.has_unsaved());
    }

    #[test]
    fn a_new_owner_reads_what_its_predecessor_had_not_settled() {
        let cursor = Cursor::new(RangeSet::from_iter([1..4, 6..8]));
        assert_eq!(cursor.holes(0).collect::<Vec<_>>(), [hole(4, 6), hole(8, i64::MAX)]);
    }

    #[test]
    fn what_could_not_be_written_is_written_later() {
        let mut cursor = Cursor::new(RangeSet::new());
        cursor.settle(1..3);
        let unsaved = cursor.take_unsaved();
        cursor.settle(3..4);
        cursor.put_back(unsaved);
        assert_eq!(cursor.take_unsaved(), RangeSet::from_iter([1..4]));
        assert!(!cursor.has_unsaved());
    }
}
