//! What a database has to know for an operator.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::model::{Actor, AuditEntry, LogRow, ParkedKey, RowFilter, Verification};
use crate::BoxFuture;
use crate::error::Result;
use crate::outbox::{Command, Lanes, Outbox, Row};

pub(super) trait Store: Outbox {
    fn depth(&self) -> BoxFuture<'_, Result<Depths>>;

    fn parked_keys<'a>(&'a self, limit: u32, after: Option<(u16, &'a str)>) -> BoxFuture<'a, Result<Vec<ParkedKey>>>;

    /// Sets the command of a parked key, if its first held number is still this one. If not, yields which one is.
    fn command<'a>(
        &'a self,
        head: Head<'a>,
        command: Command,
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Result<(), Option<i64>>>>;

    /// Pauses a lane or all, or resumes them. Yields those that were not so before.
    fn set_paused<'a>(&'a self, lane: Option<u16>, paused: bool, actor: &'a Actor) -> BoxFuture<'a, Result<Vec<u16>>>;

    fn scan<'a>(&'a self, scan: Scan<'a>) -> BoxFuture<'a, Result<Vec<Scanned>>>;

    fn append_audited<'a>(&'a self, lanes: Lanes, rows: &'a [Row], change: Change<'a>) -> BoxFuture<'a, Result<()>>;

    fn verify(&self) -> BoxFuture<'_, Result<Verification>>;

    /// What was written down first and last of the replay of this id.
    fn replay<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>>>;

    fn audit(&self, limit: u32, before: Option<i64>) -> BoxFuture<'_, Result<Vec<AuditEntry>>>;
}

/// The first event of a parked key, as somebody saw it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head<'a> {
    pub(super) lane: u16,
    pub(super) key: &'a str,
    pub(super) number: i64,
}

/// What is written down of a change.
#[derive(Debug, Clone)]
pub(super) struct Change<'a> {
    pub(super) actor: &'a Actor,
    pub(super) action: &'static str,
    /// A JSON object.
    pub(super) detail: String,
}

/// The lanes and whether they are paused, and what of them is not delivered.
#[derive(Debug)]
pub(super) struct Depths {
    pub(super) lanes: Vec<(u16, bool)>,
    pub(super) parts: Vec<DepthPart>,
}

/// Events of one lane and definition that are not delivered.
#[derive(Debug)]
pub(super) struct DepthPart {
    pub(super) lane: u16,
    pub(super) definition_key: String,
    pub(super) held: bool,
    pub(super) events: u64,
    pub(super) age: Duration,
}

/// Which rows of a lane, and how many: those from `low` to `high`, both included, that the filter lets through.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    pub(super) lane: u16,
    pub(super) low: i64,
    pub(super) high: i64,
    pub(super) filter: &'a RowFilter,
    pub(super) rows: u32,
    /// The row that reaches so many bytes of headers and payloads is the last.
    pub(super) bytes: i64,
    /// Whether with headers and payload.
    pub(super) whole: bool,
}

#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) row: LogRow,
    pub(super) version: i16,
    /// Empty unless they were asked for.
    pub(super) headers: Vec<u8>,
    pub(super) payload: Option<Vec<u8>>,
}

/// A count of the database's.
pub(super) fn count(count: i64) -> u64 {
    u64::try_from(count).unwrap_or_default()
}

/// Of a list of one or two.
pub(super) fn first_and_last(mut details: Vec<String>) -> Option<(String, String)> {
    let last = details.pop()?;
    Some((details.pop().unwrap_or_else(|| last.clone()), last))
}

/// An age in seconds.
pub(super) fn age(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

/// A time in microseconds since 1970.
#[cfg(feature = "postgres")]
pub(super) fn time_of_micros(micros: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_micros(micros).unwrap_or_default()
}

/// A time in milliseconds since 1970.
#[cfg(feature = "sqlite")]
pub(super) fn time_of_millis(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(millis).unwrap_or_default()
}
