//! What an operator asks for, and is told. Plain data.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute;
use crate::outbox::Command;
use crate::transport::Record;
use crate::wire::{DEAD_LETTER_PREFIX, Headers};

/// How many places of a fault are named.
pub(super) const NAMED_PLACES: u8 = 10;

/// Enough for a name or a reason. They are kept for ever.
const MAX_ACTOR_BYTES: usize = 1_000;

/// Who changes something, and why. It is written down with the change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    pub(super) who: String,
    pub(super) why: String,
}

impl Actor {
    /// Somebody who has a reason.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] if either is blank, longer than 1,000 bytes, or has control characters.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::admin::Actor;
    ///
    /// assert!(Actor::new("ana", "INC-1234: the topic takes 2 MB now").is_ok());
    /// assert!(Actor::new("ana", " ").is_err());
    /// ```
    pub fn new(who: impl Into<String>, why: impl Into<String>) -> Result<Self> {
        let [who, why] = [who.into(), why.into()].map(|text| text.trim().to_owned());
        for (field, text) in [("who", &who), ("why", &why)] {
            attribute::check(field, text, MAX_ACTOR_BYTES, ErrorKind::InvalidRequest)?;
        }
        Ok(Self { who, why })
    }
}

/// Some events, and how old the oldest is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Backlog {
    /// How many there are.
    pub events: u64,
    /// For how long the oldest has been in the outbox, by the database's clock.
    pub oldest: Option<Duration>,
}

impl Backlog {
    /// These, and those.
    pub(super) fn add(&mut self, other: Self) {
        self.events += other.events;
        self.oldest = self.oldest.max(other.oldest);
    }
}

/// What is in the outbox and not delivered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Undelivered {
    /// The events that wait for a relay, or for its confirmation.
    pub waiting: Backlog,
    /// The events of parked keys, held by a relay. None of them is waiting.
    pub held: Backlog,
}

/// What of a lane is not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LaneDepth {
    /// The lane.
    pub lane: u16,
    /// Whether it is paused.
    pub paused: bool,
    /// Its events.
    pub undelivered: Undelivered,
}

/// What of a definition is not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DefinitionDepth {
    /// The key of the definition.
    pub definition_key: String,
    /// Its events.
    pub undelivered: Undelivered,
}

/// What of an outbox is not delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Depth {
    /// All lanes, lane 0 first.
    pub lanes: Vec<LaneDepth>,
    /// The definitions that have any, in order of their keys.
    pub definitions: Vec<DefinitionDepth>,
    /// All of it.
    pub total: Undelivered,
}

/// A key whose first event can't be delivered for what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedKey {
    /// The lane.
    pub lane: u16,
    /// The record key.
    pub key: String,
    /// The number of the event that failed: what a command has to name.
    pub head: i64,
    /// How many events of the key are held.
    pub held: u64,
    /// The kind of the error.
    pub error_kind: ErrorKind,
    /// The text of the error, without credentials.
    pub error: String,
    /// How often the head has failed.
    pub attempts: u32,
    /// When it first did.
    pub first_failure_at: DateTime<Utc>,
    /// When it is tried again.
    pub next_attempt_at: DateTime<Utc>,
    /// What somebody wants done about the head, as long as no relay has seen it.
    pub command: Option<Command>,
}

/// Which rows of the log. All, unless it says otherwise.
///
/// # Examples
///
/// ```
/// use tidings::admin::{Admin, RowFilter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// # let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
/// # outbox.migrate().await?;
/// let of_today = RowFilter::default().with_key("t-abc").with_from(chrono::Utc::now() - chrono::TimeDelta::hours(24));
/// for row in Admin::of(&outbox).rows(&of_today, 100, None).await? {
///     println!("{} {} {:?}", row.created_at, row.event_id, row.state);
/// }
/// # Ok(()) }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RowFilter {
    pub(super) from: Option<DateTime<Utc>>,
    pub(super) until: Option<DateTime<Utc>>,
    pub(super) key: Option<String>,
    pub(super) id: Option<String>,
    pub(super) definition: Option<String>,
}

impl RowFilter {
    /// Only those that were appended at this time or later. Defaults to any time.
    #[must_use]
    pub fn with_from(mut self, from: DateTime<Utc>) -> Self {
        self.from = Some(from);
        self
    }

    /// Only those that were appended before this time. Defaults to any time.
    #[must_use]
    pub fn with_until(mut self, until: DateTime<Utc>) -> Self {
        self.until = Some(until);
        self
    }

    /// Only those of this record key. Defaults to all keys.
    #[must_use]
    pub fn with_key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Only those of the event of this id. Defaults to all events.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = Some(id.into());
        self
    }

    /// Only those of the definition of this key. Defaults to all definitions.
    #[must_use]
    pub fn with_definition(mut self, definition_key: impl Into<String>) -> Self {
        self.definition = Some(definition_key.into());
        self
    }
}

/// How far a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RowState {
    /// No relay has said that it is delivered.
    Waiting,
    /// It belongs to a parked key.
    Held,
    /// It is delivered, or was left out for good.
    Settled,
}

/// A row of the log, without its headers and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LogRow {
    /// The lane.
    pub lane: u16,
    /// The number in the lane.
    pub sequence: i64,
    /// When it was appended.
    pub created_at: DateTime<Utc>,
    /// The identity of the event.
    pub event_id: String,
    /// The key of its definition.
    pub definition_key: String,
    /// The topic.
    pub topic: String,
    /// The record key.
    pub key: String,
    /// The bytes of its headers, as they are stored.
    pub header_bytes: u64,
    /// The bytes of its payload. `None` is a tombstone.
    pub payload_bytes: Option<u64>,
    /// How far it is.
    pub state: RowState,
}

/// A row of the log, with its headers and payload.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FullRow {
    /// All but those.
    pub row: LogRow,
    /// What goes to the topic.
    pub record: Record,
}

/// What is wrong with an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fault {
    /// Rows that are neither settled nor held, though a later one of their lane is settled. While a relay works there are some
    /// for a moment, and those of a key that it tries again; one that stays while the relay is idle was passed over.
    Passed,
    /// Numbers that are held, and have no row: nothing can be delivered for them.
    HeldWithoutRow,
    /// Numbers that are held, and not settled: their rows are read twice.
    HeldWithoutSettled,
    /// Numbers that are held, of a key that is not parked: nobody delivers them.
    HeldWithoutParked,
    /// Keys that are parked, and have nothing held.
    ParkedWithoutHeld,
    /// Lanes in which the next number is one that is settled already: nothing of the lane is relayed until its sequence is set
    /// to the number that is named here, or above.
    SequenceBehind,
    /// Rows that are settled, and whose event was not seen on its topic: skipped, dead letters that were not shown, dropped by
    /// the topic's own retention, or lost.
    Lost,
    /// Events that were seen more often than the log has rows of them. That is allowed, after a crash or a timeout.
    Double,
    /// Events that were first seen behind a later one of their key. So are those that were redriven.
    OutOfOrder,
}

/// A place where something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The lane.
    pub lane: u16,
    /// The number in the lane.
    pub sequence: i64,
    /// The record key, if it is known.
    pub key: Option<String>,
}

/// A fault, where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The fault.
    pub fault: Fault,
    /// In how many places.
    pub count: u64,
    /// The first ten of them, in order.
    pub first: Vec<Place>,
}

/// What a check of an outbox has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verification {
    /// The faults that it has.
    pub findings: Vec<Finding>,
}

impl Verification {
    /// That this fault was found in these places, if there are any.
    pub(super) fn add(&mut self, fault: Fault, mut places: Vec<Place>) {
        if !places.is_empty() {
            places.sort_unstable_by_key(|place| (place.lane, place.sequence));
            let count = places.len() as u64;
            places.truncate(NAMED_PLACES.into());
            self.findings.push(Finding { fault, count, first: places });
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// What was found of this fault.
    #[must_use]
    pub fn finding(&self, fault: Fault) -> Option<&Finding> {
        self.findings.iter().find(|finding| finding.fault == fault)
    }
}

/// What is appended once more, and for which topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replay {
    pub(super) id: String,
    pub(super) filter: RowFilter,
    pub(super) topic: Option<String>,
    pub(super) replays: bool,
}

impl Replay {
    /// A replay of the rows that the filter lets through. The id is what it is known by: the copies carry it, and a replay
    /// that did not come to its end goes on when it is asked for again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] if the id is empty, longer than 100 bytes, or has other characters than letters, digits,
    /// `-`, `_` and `.`.
    pub fn new(id: impl Into<String>, filter: RowFilter) -> Result<Self> {
        let id = id.into();
        let fits = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        if !(1..=100).contains(&id.len()) || !id.bytes().all(fits) {
            let message = format!("`{id}` is no id of a replay: it wants 1 to 100 letters, digits, `-`, `_` or `.`");
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        Ok(Self { id, filter, topic: None, replays: false })
    }

    /// Sends the copies to this topic. Defaults to the topic of each row.
    #[must_use]
    pub fn with_topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Whether rows that are replays themselves are replayed too. Defaults to false: their originals are in the log, or the
    /// event would be sent twice.
    #[must_use]
    pub fn with_replays(mut self, replays: bool) -> Self {
        self.replays = replays;
        self
    }
}

/// What a replay has done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replayed {
    /// How many rows were appended, by this call.
    pub events: u64,
    /// Where the log does not go back as far as was asked for. What was there is not replayed.
    pub gone: Vec<Gone>,
}

/// The beginning of a lane that is not in the log any more.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Gone {
    /// The lane.
    pub lane: u16,
    /// No row of the lane is below this number.
    pub below: i64,
    /// When the row of this number was appended. None, if the lane is empty.
    pub oldest: Option<DateTime<Utc>>,
}

/// What became of dead letters.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Redriven {
    /// How many were appended.
    pub events: u64,
    /// Those that can't be, by their place in the list, and why.
    pub refused: Vec<(usize, Error)>,
}

/// A record of a dead-letter topic, as it was read.
#[derive(Debug, Clone)]
pub struct DeadRecord {
    pub(super) key: Bytes,
    pub(super) headers: Headers,
    pub(super) payload: Option<Bytes>,
    pub(super) definition_key: Option<String>,
    pub(super) prefix: String,
}

impl DeadRecord {
    /// The record of this key, with these headers and this value; `None` is a tombstone.
    #[must_use]
    pub fn new(key: impl Into<Bytes>, headers: Headers, payload: Option<Bytes>) -> Self {
        Self { key: key.into(), headers, payload, definition_key: None, prefix: DEAD_LETTER_PREFIX.into() }
    }

    /// Says of which definition the event is, which decides what becomes of it if it can't be delivered again. Defaults to
    /// the type of the event: then it waits for an operator, unless a definition has that for its key.
    #[must_use]
    pub fn with_definition(mut self, definition_key: impl Into<String>) -> Self {
        self.definition_key = Some(definition_key.into());
        self
    }

    /// Says how the headers of the dead letter begin. Defaults to [`DEAD_LETTER_PREFIX`].
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }
}

/// A change that an operator has made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Counts them.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// Who.
    pub who: String,
    /// Why.
    pub why: String,
    /// The name of the operation.
    pub action: String,
    /// What it was done to, as a JSON object.
    pub detail: String,
}
