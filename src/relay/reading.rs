//! How rows come to the relay: by pages, and from memory.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::cursor::Look;
use super::lane::Lane;
use super::{Aside, Relay, Ticket};
use crate::error::Result;
use crate::outbox::{Hole, Limits, Page, StoredRow};

/// How many rows a page has at most. They are shared out evenly among its holes.
pub(super) const PAGE_ROWS: usize = 2_000;
/// But of each hole it may have this many, lest many holes make it crawl.
const MIN_ROWS_PER_HOLE: usize = 64;
/// How many bytes of headers and payloads a page has, shared out likewise; and of each hole at least.
pub(super) const PAGE_BYTES: usize = 8 << 20;
const MIN_BYTES_PER_HOLE: usize = 64 << 10;
/// By how much the page is smaller that follows one that could not be read, and larger that follows one that could.
const SMALLER: usize = 4;
const LARGER: usize = 2;
/// How many bytes of held rows are read at once.
pub(super) const HELD_BYTES: u32 = 1 << 20;
/// How many rows may be read and not settled. Two pages fly while the next is read.
const WINDOW_ROWS: usize = 3 * PAGE_ROWS;
/// How many rows of one lane may be. One that waits for stuck keys must not fill the window.
pub(super) const LANE_ROWS: usize = WINDOW_ROWS / 4;
/// The same in bytes. What is read beyond is one page, and a little of each lane.
const WINDOW_BYTES: usize = 3 * PAGE_BYTES;
pub(super) const LANE_BYTES: usize = WINDOW_BYTES / 4;
/// So much of a lane may be when the window is full: lanes that wait for a partition must not stop those that do not.
const FULL_LANE_ROWS: usize = 64;
const FULL_LANE_BYTES: usize = 64 << 10;
/// Rows that are to be handed over after their commit are looked for after this time: somebody has forgotten to, or died.
pub(super) const HANDED_WITHIN: Duration = Duration::from_millis(100);
/// So long a row that was handed over waits for one before it, of a transaction that is about to be committed.
pub(super) const NEXT_WITHIN: Duration = Duration::from_millis(5);

/// A page, and what it was asked for.
pub(super) struct Answer {
    holes: Vec<Hole>,
    /// Of each hole the tenure of its lane.
    tenures: Vec<u64>,
    /// How much of each hole.
    limits: Limits,
    /// The last set of witnesses that had ended when it was begun.
    ended: u64,
    pub(super) page: Result<Page>,
}

impl Relay {
    /// Whether there is no room for more rows.
    fn is_full(&self) -> bool {
        let rows: usize = self.lanes.values().map(Lane::len).sum();
        let bytes: usize = self.lanes.values().map(Lane::bytes).sum();
        rows >= WINDOW_ROWS || bytes >= WINDOW_BYTES
    }

    /// The lanes of which more rows may be read.
    pub(super) fn readable(&self) -> impl Iterator<Item = (u16, &Lane)> {
        let full = self.is_full();
        let lanes = self.lanes.iter().map(|(index, lane)| (*index, lane));
        lanes.filter(move |(_, lane)| may_read(lane, full))
    }

    /// Begins to read a page, if there is room for one.
    pub(super) fn read(&mut self) -> Aside<Answer> {
        let (mut holes, mut tenures) = (Vec::new(), Vec::new());
        let mut lanes: Vec<_> = self.readable().collect();
        let first = lanes.partition_point(|(index, _)| *index < self.next_lane);
        lanes.rotate_left(first);
        for (index, lane) in lanes {
            holes.extend(lane.cursor.holes(index));
            tenures.resize(holes.len(), lane.tenure);
        }
        if holes.is_empty() {
            return None;
        }
        let share = |whole: usize, least| u32::try_from((whole / holes.len()).max(least)).unwrap_or(u32::MAX);
        let limits = Limits {
            rows: share(PAGE_ROWS, MIN_ROWS_PER_HOLE),
            bytes: share(PAGE_BYTES, MIN_BYTES_PER_HOLE),
            in_all: u32::try_from(self.page_rows).unwrap_or(u32::MAX),
        };
        let (outbox, ended) = (Arc::clone(&self.outbox), self.witnesses.ended());
        Some(Box::pin(async move {
            let page = outbox.page(&holes, limits).await;
            Answer { holes, tenures, limits, ended, page }
        }))
    }

    /// Takes in a page.
    pub(super) fn look(&mut self, answer: Answer) {
        let now = Instant::now();
        let Answer { holes, tenures, limits, ended, page } = answer;
        let Page { rows, horizon, life } = match page {
            Ok(page) => page,
            Err(error) => {
                tracing::warn!(%error, "a page could not be read; trying again");
                self.page_rows = (self.page_rows / SMALLER).max(1);
                self.poll.failed(now);
                return;
            }
        };
        if life != self.life {
            tracing::warn!("the database was started anew; its lanes are leased anew");
            self.renew_at = now;
            return;
        }
        self.page_rows = (self.page_rows * LARGER).min(PAGE_ROWS);
        let (is_empty, is_full) = (rows.is_empty(), limits.are_reached_in_all(rows.len()));
        let Some(found) = by_hole(&holes, rows) else {
            tracing::error!("the rows of a page are not in the order that was asked for");
            self.poll.failed(now);
            return;
        };
        self.poll.read(now, !is_empty);
        // Those behind it were not looked into.
        let last = if is_full { found.iter().rposition(|rows| !rows.is_empty()) } else { None };
        let looked_into = last.map_or(holes.len(), |last| last + 1);
        if let Some(last) = last {
            self.next_lane = holes[last].lane + 1;
        }
        let mut cut_lane = None;
        // Holes come lane by lane and in order, as `Cursor::holes` lists them.
        let looks = holes.into_iter().zip(tenures).zip(found).enumerate().take(looked_into);
        for (place, ((hole, tenure), found)) in looks {
            // Behind a hole that was cut there are rows, perhaps of the same keys, that this page does not have: what it
            // has of the lane's later holes would overtake them.
            let lane = self.lanes.get_mut(&hole.lane).filter(|lane| lane.tenure == tenure);
            let Some(lane) = lane.filter(|_| cut_lane != Some(hole.lane)) else { continue };
            let numbers: Vec<_> = found.iter().map(|row| row.sequence).collect();
            let cut = last == Some(place) || limits.are_reached(found.iter().map(|row| row.bytes));
            let new = lane.cursor.look(&Look { hole, numbers: &numbers, cut, horizon, ended });
            let Some(new) = new else { continue };
            if cut {
                cut_lane = Some(hole.lane);
            } else if hole.high == i64::MAX {
                let spills = &self.fallback.spills;
                let is_missing = numbers.is_empty() && spills.last(hole.lane) >= new;
                // One that is to be handed over has its time.
                let is_late = is_missing && lane.misses(new, now) >= HANDED_WITHIN;
                lane.is_behind = is_late || (is_missing && spills.expected(hole.lane) >= new);
                if is_missing {
                    self.poll.hint_within(now, HANDED_WITHIN);
                }
            }
            self.fallback.spills.settle_below(hole.lane, lane.floor(), self.life);
            for row in found.into_iter().filter(|row| row.sequence >= new) {
                let number = row.sequence;
                if lane.add(row) {
                    self.queue.push_back(Ticket { lane: hole.lane, tenure, number });
                }
            }
            if lane.has_early() {
                self.queue_handed(hole.lane);
            }
        }
        if self.lanes.values().all(|lane| lane.len() == 0) {
            self.fallback.advance.made();
        }
        self.poll.expect(self.lanes.values().any(|lane| lane.is_behind || lane.cursor.has_gaps()));
    }

    /// Takes in the rows that were handed over, as far as they can't overtake anything; the others are read. Says whether
    /// there are some of lanes that this relay does not have.
    pub(super) fn take_handed(&mut self) -> bool {
        let handed = self.fallback.handed.take();
        let (mut elsewhere, now) = (handed.elsewhere, Instant::now());
        for row in handed.rows {
            let (full, index) = (self.is_full(), row.lane);
            let Some(lane) = self.lanes.get_mut(&index) else {
                elsewhere = true;
                continue;
            };
            // In another life of the database its number may be that of another row.
            let may_take = may_read(lane, full) && row.life == self.life;
            if may_take && lane.hand(Arc::unwrap_or_clone(row).into_stored()) {
                self.queue_handed(index);
            } else {
                self.poll.hint(now);
            }
        }
        elsewhere
    }

    /// Queues the rows of a lane that were handed over and have nothing missing before them.
    fn queue_handed(&mut self, index: u16) {
        let Some(lane) = self.lanes.get_mut(&index) else { return };
        while let Some(row) = lane.next_handed() {
            let number = row.sequence;
            if lane.add(row) {
                self.queue.push_back(Ticket { lane: index, tenure: lane.tenure, number });
            }
        }
        lane.is_behind &= self.fallback.spills.last(index) >= lane.cursor.first_unknown();
        self.fallback.spills.settle_below(index, lane.floor(), self.life);
        if lane.has_early() {
            self.poll.hint_within(Instant::now(), NEXT_WITHIN);
        }
    }
}

/// Which rows are of which hole. None if they are of others, or in another order.
fn by_hole(holes: &[Hole], rows: Vec<StoredRow>) -> Option<Vec<Vec<StoredRow>>> {
    let mut rows = rows.into_iter().peekable();
    let of_hole = |hole: &Hole| {
        let is_of_hole = |row: &StoredRow| row.lane == hole.lane && (hole.low..hole.high).contains(&row.sequence);
        let mut found: Vec<StoredRow> = Vec::new();
        while let Some(row) = rows
            .next_if(|row| is_of_hole(row) && found.last().is_none_or(|last: &StoredRow| last.sequence < row.sequence))
        {
            found.push(row);
        }
        found
    };
    let found = holes.iter().map(of_hole).collect();
    rows.next().is_none().then_some(found)
}

/// Whether more rows of the lane may be read, if the window is full, or is not.
fn may_read(lane: &Lane, full: bool) -> bool {
    let (rows, bytes) = if full { (FULL_LANE_ROWS, FULL_LANE_BYTES) } else { (LANE_ROWS, LANE_BYTES) };
    !lane.leaving && lane.len() < rows && lane.bytes() < bytes
}
