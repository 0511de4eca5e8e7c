//! The outbox: an append-only log of events in the service's own database.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use rangemap::RangeSet;
use uuid::Uuid;

use crate::BoxFuture;
use crate::catalog::compiled::Resolved;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventId;
use crate::transport::Record;
use crate::tx::Tx;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod envelope;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod failure;
pub(crate) mod lane;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod migration;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod multirange;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
#[cfg(feature = "postgres")]
pub(crate) mod schema;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
#[cfg(test)]
mod statements;

/// A log of events in lanes, and the record of how far each lane has been relayed.
///
/// A *lane* holds the events of all keys with one hash; it is the unit of order and of ownership. Each lane counts its
/// events from 1. Rows are only ever added. What has been relayed is the set of *settled* numbers of each lane; its
/// holes are what is still to be read.
///
/// It may be implemented to wrap one, as a test does that counts or delays. What it yields can't be made elsewhere, so one for
/// another database can't be written outside of this crate yet.
pub trait Outbox: std::fmt::Debug + Send + Sync + 'static {
    /// How many lanes there are: the same for everyone who uses this outbox. Not older than what any append was refused for
    /// before this was called.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if the tables are missing or of another version,
    /// [`ErrorKind::Storage`] if the database fails.
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>>;

    /// Adds rows, durably, in one statement; all or none. Yields where they are, in the order of the rows. Each is in the lane
    /// of its key, of so many `lanes`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageConflict`] if these are not the [lanes](Self::lanes) that there are now: nothing was added.
    /// [`ErrorKind::Storage`] if the database fails. It may then hold the rows all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped while it runs, the rows may or may not be there.
    fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>>;

    /// Adds rows in the caller's transaction, and exists exactly if that commits. The number of lanes stays as it is until then.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::StorageConflict`] if these are not the [lanes](Self::lanes) that there are now,
    /// [`ErrorKind::UnsupportedTransaction`] if it is one of another database,
    /// [`ErrorKind::Storage`] if the database fails.
    fn append_in<'a>(&'a self, lanes: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>>;

    /// How far each lane has been written and relayed, lane 0 first; those that are in use no more, too.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>>;

    /// Extends the leases that `owner` has, and takes lanes that are free or whose lease has run out until it has its share
    /// of them, for `ttl` from now by the database's clock. Of what `owner` has [written](Progress::save) it waits for nothing any
    /// more: what arrives now, up to `saves`, counts for nothing.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn lease(&self, owner: Uuid, ttl: Duration, saves: i64) -> BoxFuture<'_, Result<Leases>>;

    /// Frees these lanes of `owner`, or, if it `leaves`, all it has.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>>;

    /// The parked keys of these lanes.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>>;

    /// Reads the first held rows of a parked key, in order, as `limits` allow.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>>;

    /// Reads the rows in these holes: of each hole the first, in order of their numbers, hole after hole, as `limits` allow.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>>;

    /// Names the transactions that may have drawn a number, and have not ended: none that draws one is missing. None, if this
    /// outbox can't tell.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        Box::pin(async { Ok(None) })
    }

    /// Drops the storage of events that are delivered, and older than this outbox is to keep them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn retain(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// Tells relays elsewhere that there are rows to relay. They find them without it, a little later.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn wake(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// How far behind the relays are, by a look that costs the same however long the log is. Defaults to asking for the
    /// [heads](Self::heads), and knowing nothing more than that the database answers.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn lag(&self) -> BoxFuture<'_, Result<Lag>> {
        Box::pin(async { self.heads().await.map(|_| Lag::default()) })
    }

    /// As [`heads`](Self::heads), but `last` is not below any number that was given out before this was called and whose
    /// transaction is open, or may commit. May wait for those transactions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn drawn(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        self.heads()
    }

    /// Completes when somebody elsewhere has called [`wake`](Self::wake) since this last completed; perhaps never.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    /// Writes progress down, for those leases that still hold; all or nothing of a lane. Without any, only takes a new mark.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>>;
}

/// Forwards to what a pointer points to.
macro_rules! forward {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        impl<O: Outbox + ?Sized> Outbox for $pointer<O> {
            fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
                (**self).lanes()
            }

            fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
                (**self).append(lanes, rows)
            }

            fn append_in<'a>(
                &'a self,
                lanes: Lanes,
                tx: Tx<'a>,
                rows: &'a [Row],
            ) -> BoxFuture<'a, Result<Vec<Appended>>> {
                (**self).append_in(lanes, tx, rows)
            }

            fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
                (**self).heads()
            }

            fn lease(&self, owner: Uuid, ttl: Duration, saves: i64) -> BoxFuture<'_, Result<Leases>> {
                (**self).lease(owner, ttl, saves)
            }

            fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>> {
                (**self).release(owner, lanes, leaves)
            }

            fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
                (**self).parked(lanes)
            }

            fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
                (**self).held(lane, key, limits)
            }

            fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
                (**self).page(holes, limits)
            }

            fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
                (**self).writers()
            }

            fn retain(&self) -> BoxFuture<'_, Result<()>> {
                (**self).retain()
            }

            fn wake(&self) -> BoxFuture<'_, Result<()>> {
                (**self).wake()
            }

            fn lag(&self) -> BoxFuture<'_, Result<Lag>> {
                (**self).lag()
            }

            fn drawn(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
                (**self).drawn()
            }

            fn woken(&self) -> BoxFuture<'_, ()> {
                (**self).woken()
            }

            fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
                (**self).settle(progress)
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// How long events are kept after they are delivered, by default.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
const RETENTION: Duration = Duration::from_secs(3 * 86_400);

/// How many lanes there are, as of which change of their number.
///
/// Two are equal if nobody has changed the number between them, be it there and back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lanes(i64);

impl Lanes {
    /// The most that there can be.
    pub const MAX: u16 = 1024;

    /// What the number of changes is multiplied by, so that one number says all.
    const CHANGE: i64 = 10_000;

    /// So many lanes, after so many changes of their number.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] unless there are 1 to 1,024 lanes, and a number of changes that can be.
    pub fn new(count: u16, changes: u32) -> Result<Self> {
        Self::from_layout(i64::from(changes) * Self::CHANGE + i64::from(count))
    }

    /// How many there are.
    #[must_use]
    pub fn count(self) -> u16 {
        u16::try_from(self.0 % Self::CHANGE).unwrap_or(Self::MAX)
    }

    /// Whether their number was ever changed.
    #[must_use]
    pub fn were_changed(self) -> bool {
        self.0 >= Self::CHANGE
    }

    /// Of one number, `changes * 10000 + lanes`.
    pub(crate) fn from_layout(layout: i64) -> Result<Self> {
        let count = layout % Self::CHANGE;
        if layout < 1 || !(1..=i64::from(Self::MAX)).contains(&count) {
            let message = format!("an outbox has 1 to {} lanes, and this one says {layout}", Self::MAX);
            return Err(Error::new(ErrorKind::Schema, message));
        }
        Ok(Self(layout))
    }

    /// As one number.
    pub(crate) fn layout(self) -> i64 {
        self.0
    }
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

/// Where a row is that was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// Its number in the lane.
    pub sequence: i64,
    /// False if an outbox that knows event ids had a row of this id already: then that is the one meant.
    pub is_new: bool,
    /// In which life of the database it was appended; see [`Page::life`].
    pub life: i64,
}

impl Appended {
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn new(sequence: i64, life: i64) -> Self {
        Self { sequence, is_new: true, life }
    }
}

fn reaches(limit: u32, count: usize) -> bool {
    u32::try_from(count).map_or(true, |count| count >= limit)
}

impl Limits {
    /// Whether there may be more in the hole, or of the key, than rows of these bytes.
    pub(crate) fn are_reached(self, rows: impl IntoIterator<Item = usize>) -> bool {
        let (count, bytes) = rows.into_iter().fold((0, 0), |(count, sum), bytes| (count + 1, sum + bytes));
        reaches(self.rows, count) || reaches(self.bytes, bytes)
    }

    /// Whether a page has as many rows as it may.
    pub(crate) fn are_reached_in_all(self, rows: usize) -> bool {
        reaches(self.in_all, rows)
    }
}

impl Command {
    /// Its name in the outbox.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Resume => "resume",
            Self::Skip => "skip",
            Self::DeadLetter => "dead_letter",
        }
    }

    /// The command of that name.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn named(name: &str) -> Option<Self> {
        [Self::Resume, Self::Skip, Self::DeadLetter].into_iter().find(|command| command.as_str() == name)
    }
}

impl Row {
    pub(crate) fn new(resolved: Resolved, lanes: Lanes) -> Self {
        Self {
            lane: lane::of_key(&resolved.record.key, lanes.count()),
            event_id: resolved.id,
            definition_key: Arc::clone(&resolved.definition.key),
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
    /// Every number below this one is delivered, or will never be.
    pub floor: i64,
    /// The highest number of which this is known; 0 if of none. Above `last` only if that was set back.
    pub highest_settled: i64,
    /// Which life of the database this is; see [`Page::life`].
    pub life: i64,
    /// How many lanes there were when this was read.
    pub lanes: Lanes,
}

impl Head {
    /// Whether no number that is yet to be given out counts as delivered already.
    pub(crate) fn is_sound(self) -> bool {
        self.highest_settled <= self.last
    }
}

/// How far behind the relays of an outbox are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Lag {
    /// How long the oldest event waits that is not delivered, be it of a parked key. None, if none waits, or that is not known.
    pub oldest_waiting: Option<Duration>,
    /// How many relays live. None, if that is not known.
    pub relays: Option<u32>,
    /// In how many lanes events wait that no living relay holds. None, if that is not known.
    pub lanes_without_relay: Option<u32>,
    /// How many events wait that are not delivered, those of parked keys left out; at most, since numbers that were rolled back
    /// a moment ago are among them. None, if that is not known.
    pub waiting: Option<u64>,
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
    /// The highest number that was ever given out; 0 if none was.
    pub last: i64,
    /// Whether the owner may keep the lane. If not, it finishes what is in flight, and releases it.
    pub keep: bool,
}

/// The lanes that a relay owns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leases {
    /// All of its leases.
    pub leases: Vec<Lease>,
    /// How many lanes are its share.
    pub share: usize,
    /// Which life of the database this is; see [`Page::life`].
    pub life: i64,
}

/// A key whose first event can't be delivered for what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parked {
    /// The record key.
    pub key: Bytes,
    /// No event of the key that has a lower number is held.
    pub head: i64,
    /// The kind of the error.
    pub error_kind: ErrorKind,
    /// The text of the error, without credentials.
    pub error: String,
    /// How often the head has failed. 0: it is not the head that did.
    pub attempts: u32,
    /// When the head first failed.
    pub first_failure_at: DateTime<Utc>,
    /// After what time it is tried again.
    pub retry_in: Duration,
    /// What somebody wants done about the head.
    pub command: Option<Command>,
}

/// What is done about the first event of a parked key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// It is tried again now.
    Resume,
    /// It is left out for good.
    Skip,
    /// It goes to its dead-letter topic.
    DeadLetter,
}

/// How much may be read at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The rows of each hole, or of the key.
    pub rows: u32,
    /// Their bytes, headers and payloads: the row that reaches them is the last.
    pub bytes: u32,
    /// The rows of all holes: there may be more in the hole of the one that reaches them, and those behind it are not looked into.
    pub in_all: u32,
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
    /// Which life of the database the page is from. A database that was started anew may be an older one, restored or
    /// promoted, that gives numbers out again: what was leased in another life counts no more.
    pub life: i64,
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
    /// The bytes of its headers and payload.
    pub bytes: usize,
}

/// A row of a parked key, read back.
#[derive(Debug)]
#[non_exhaustive]
pub struct HeldRow {
    /// The row.
    pub row: StoredRow,
    /// The key of its definition.
    pub definition_key: String,
}

/// What a relay has achieved in a lane since it last said so.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Progress {
    /// The lane.
    pub lane: u16,
    /// The epoch of the lease.
    pub epoch: i64,
    /// In which life of the database it was leased; see [`Page::life`]. One that was set back may give the same epoch out again.
    pub life: i64,
    /// Which of the relay's writes this is, from 1 on. One that arrives behind a later one of the same epoch counts for nothing.
    pub save: i64,
    /// The numbers that are settled: delivered, dead, or held.
    pub settled: RangeSet<i64>,
    /// Rows of parked keys that are held.
    pub held: Vec<(Bytes, i64)>,
    /// Rows that were held, and are delivered or left out.
    pub unheld: Vec<(Bytes, i64)>,
    /// Keys that are parked, as they are now.
    pub parked: Vec<Parked>,
    /// Keys that were parked, and are free.
    pub freed: Vec<Bytes>,
    /// Keys whose command was obeyed, and which. One that was given since is another, and stands.
    pub obeyed: Vec<(Bytes, Command)>,
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

/// The highest number of a set; 0 if it is empty.
pub(crate) fn highest(set: &RangeSet<i64>) -> i64 {
    set.last().map_or(0, |range| range.end - 1)
}

/// The first number from 1 on that a set lacks.
pub(crate) fn floor(set: &RangeSet<i64>) -> i64 {
    set.first().filter(|range| range.start <= 1).map_or(1, |range| range.end)
}

/// The time of so many seconds since 1970.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) fn time_of(seconds: f64) -> DateTime<Utc> {
    let since = Duration::try_from_secs_f64(seconds).unwrap_or_default();
    DateTime::UNIX_EPOCH + chrono::TimeDelta::from_std(since).unwrap_or_default()
}

/// The seconds from 1970 to this time.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
fn seconds_of(time: DateTime<Utc>) -> f64 {
    (time - DateTime::UNIX_EPOCH).to_std().unwrap_or_default().as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_that_were_changed_there_and_back_are_others() {
        let [first, again] = [0, 2].map(|changes| Lanes::new(32, changes).unwrap());
        assert!(first != again && first.count() == again.count() && again.were_changed() && !first.were_changed());
        assert_eq!(Lanes::from_layout(again.layout()).unwrap(), again);
        for layout in [0, -1, 10_000, 11_025, -9_968] {
            assert_eq!(Lanes::from_layout(layout).unwrap_err().kind(), ErrorKind::Schema, "{layout}");
        }
    }

    #[test]
    fn the_floor_is_the_first_number_that_is_missing() {
        assert_eq!(floor(&RangeSet::new()), 1);
        assert_eq!(floor(&RangeSet::from_iter([2..5])), 1);
        assert_eq!(floor(&RangeSet::from_iter([1..5, 7..9])), 5);
    }
}
