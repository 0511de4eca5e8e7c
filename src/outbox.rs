//! The outbox: an append-only log of events in the service's own database.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rangemap::RangeSet;
use uuid::Uuid;

use crate::BoxFuture;
use crate::catalog::compiled::Resolved;
use crate::error::{Error, Result};
use crate::event::EventId;
use crate::transport::Record;
use crate::tx::Tx;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod envelope;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod failure;
pub(crate) mod lane;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migration;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod multirange;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;

/// A log of events in lanes, and the record of how far each lane has been relayed.
///
/// A *lane* holds the events of all keys with one hash; it is the unit of order and of ownership. Each lane counts its
/// events from 1. Rows are only ever added. What has been relayed is the set of *settled* numbers of each lane; its
/// holes are what is still to be read.
pub trait Outbox: std::fmt::Debug + Send + Sync + 'static {
    /// How many lanes there are: the same for everyone who uses this outbox.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`](crate::ErrorKind::Schema) if the tables are missing or of another version,
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn lanes(&self) -> BoxFuture<'_, Result<u16>>;

    /// Adds rows, durably, in one statement; all or none. Yields their numbers, in the order of the rows.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails. It may then hold the rows all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it runs, the rows may or may not be there.
    fn append<'a>(&'a self, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>>;

    /// Adds rows in the caller's transaction, and exists exactly if that commits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnsupportedTransaction`](crate::ErrorKind::UnsupportedTransaction) if it is one of another database,
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn append_in<'a>(&'a self, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>>;

    /// How far each lane has been written and relayed, lane 0 first.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>>;

    /// Leases to `owner` every lane that is free or whose lease has run out, and extends the leases it has, for `ttl`
    /// from now by the database's clock. Yields all of its leases.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn lease(&self, owner: Uuid, ttl: Duration) -> BoxFuture<'_, Result<Vec<Lease>>>;

    /// Frees the lanes of `owner`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn release(&self, owner: Uuid) -> BoxFuture<'_, Result<()>>;

    /// Reads the rows in these holes: of each hole the first `limit`, in order of their numbers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn page<'a>(&'a self, holes: &'a [Hole], limit: u32) -> BoxFuture<'a, Result<Page>>;

    /// Records numbers as settled, for those leases that still hold. Without any, only takes a new mark.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database fails.
    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>>;
}

/// An event to append.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Row {
    /// The lane: the hash of the record key.
    pub lane: u16,
    /// The identity of the event.
    pub event_id: EventId,
    /// The key of its definition.
    pub definition_key: Arc<str>,
    /// What goes to the topic.
    pub record: Record,
}

impl Row {
    pub(crate) fn new(resolved: Resolved, lanes: u16) -> Self {
        Self {
            lane: lane::of_key(&resolved.record.key, lanes),
            event_id: resolved.id,
            definition_key: resolved.definition_key,
            record: resolved.record,
        }
    }
}

/// How far a lane has been written and relayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Head {
    /// The highest number that was ever given out; 0 if none was. Its row may be missing: rolled back, or not committed.
    pub last: i64,
    /// Every number below this one is settled.
    pub floor: i64,
}

/// A lane that a relay owns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lease {
    /// The lane.
    pub lane: u16,
    /// Counts the owners of the lane: the fence for everything that this one writes.
    pub epoch: i64,
    /// The numbers that are settled.
    pub settled: RangeSet<i64>,
}

/// Numbers of a lane that a relay has not seen: from `low`, inclusive, to `high`, exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hole {
    /// The lane.
    pub lane: u16,
    /// The first number.
    pub low: i64,
    /// The number behind the last one.
    pub high: i64,
}

/// What a look at some holes has shown.
#[derive(Debug)]
#[non_exhaustive]
pub struct Page {
    /// The rows, of each lane in order.
    pub rows: Vec<StoredRow>,
    /// Every transaction that got its id before a mark that is at most this high has ended, and what it committed is in
    /// sight of this page.
    pub horizon: u64,
}

/// A row as it was read.
#[derive(Debug)]
#[non_exhaustive]
pub struct StoredRow {
    /// The lane.
    pub lane: u16,
    /// The number in the lane.
    pub sequence: i64,
    /// The record key: what the row is ordered by.
    pub key: Bytes,
    /// The record, or why the row can't be read.
    pub record: Result<Record, Error>,
}

/// Numbers that a relay has settled since it last said so.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Progress {
    /// The lane.
    pub lane: u16,
    /// The epoch of the lease.
    pub epoch: i64,
    /// The numbers.
    pub settled: RangeSet<i64>,
}

/// What became of a write of progress.
#[derive(Debug)]
#[non_exhaustive]
pub struct Settled {
    /// The lanes whose lease still held. What was said of the others was not written.
    pub lanes: Vec<u16>,
    /// A mark that is higher than the id of every transaction that had drawn a number before.
    pub mark: u64,
}

/// The first number from 1 on that a set lacks.
pub(crate) fn floor(set: &RangeSet<i64>) -> i64 {
    set.first().filter(|range| range.start <= 1).map_or(1, |range| range.end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_the_first_number_that_is_missing() {
        assert_eq!(floor(&RangeSet::new()), 1);
        assert_eq!(floor(&RangeSet::from_iter([2..5])), 1);
        assert_eq!(floor(&RangeSet::from_iter([1..5, 7..9])), 5);
    }
}
