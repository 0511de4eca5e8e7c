//! The rows of one lane on their way to the topic, in order for each key. Pure: no I/O, no clock.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::cursor::Cursor;
use crate::error::Error;
use crate::outbox::StoredRow;
use crate::transport::Record;

/// How long a key waits after its first failure; twice as long after each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);

/// A lane that this relay owns.
///
/// Rows are submitted in order, without waiting for one another. When the row of a key fails, the key is *stuck*: its
/// later rows are held; those in flight are waited for; then its first row is tried alone, until it is delivered; then
/// the held ones follow. Other keys go on meanwhile.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) epoch: i64,
    pub(crate) cursor: Cursor,
    /// Read and not settled, by number.
    rows: BTreeMap<i64, Row>,
    stuck: HashMap<Bytes, Stuck>,
}

#[derive(Debug)]
struct Row {
    key: Bytes,
    record: Result<Record, Error>,
    in_flight: bool,
}

#[derive(Debug)]
struct Stuck {
    attempts: u32,
    retry_at: Instant,
    in_flight: usize,
}

impl Lane {
    pub(crate) fn new(epoch: i64, cursor: Cursor) -> Self {
        Self { epoch, cursor, rows: BTreeMap::new(), stuck: HashMap::new() }
    }

    /// Takes in a row that was read. Says whether to submit it now.
    pub(crate) fn add(&mut self, row: StoredRow) -> bool {
        let in_flight = !self.stuck.contains_key(&row.key);
        self.rows.insert(row.sequence, Row { key: row.key, record: row.record, in_flight });
        in_flight
    }

    /// The record of a row that is to be submitted.
    pub(crate) fn record(&self, number: i64) -> Option<Result<&Record, &Error>> {
        self.rows.get(&number).map(|row| row.record.as_ref())
    }

    /// Whether a row that was queued may be submitted still. Not if one of its key before it has failed meanwhile: then it
    /// is held.
    pub(crate) fn may_submit(&mut self, number: i64) -> bool {
        if self.stuck.is_empty() {
            return true;
        }
        let Some(key) = self.rows.get(&number).map(|row| row.key.clone()) else {
            return false;
        };
        let Some(stuck) = self.stuck.get_mut(&key) else {
            return true;
        };
        if !self.rows.range(..number).any(|(_, before)| before.key == key && !before.in_flight) {
            return true;
        }
        if let Some(row) = self.rows.get_mut(&number) {
            row.in_flight = false;
            stuck.in_flight -= 1;
        }
        false
    }

    /// A row is on the topic. Yields the numbers that may be submitted now, in order.
    pub(crate) fn delivered(&mut self, number: i64) -> Vec<i64> {
        let Some(row) = self.rows.remove(&number) else {
            return Vec::new();
        };
        self.cursor.settle(number..number + 1);
        let Some(stuck) = self.stuck.get_mut(&row.key) else {
            return Vec::new();
        };
        stuck.in_flight -= 1;
        let held_behind = |(other, held): (&i64, &Row)| held.key == row.key && !held.in_flight && *other > number;
        let held_before = |(other, held): (&i64, &Row)| held.key == row.key && !held.in_flight && *other < number;
        // A row that was in flight behind the failed one says nothing of that one.
        if stuck.in_flight > 0 || self.rows.iter().any(held_before) {
            return Vec::new();
        }
        self.stuck.remove(&row.key);
        let released: Vec<_> = self.rows.iter().filter(|row| held_behind(*row)).map(|(number, _)| *number).collect();
        for number in &released {
            if let Some(row) = self.rows.get_mut(number) {
                row.in_flight = true;
            }
        }
        released
    }

    /// A row did not reach the topic, as far as is known. Yields how often its key has failed.
    pub(crate) fn failed(&mut self, number: i64, now: Instant) -> u32 {
        let Some(row) = self.rows.get_mut(&number) else {
            return 0;
        };
        row.in_flight = false;
        let key = row.key.clone();
        let others_in_flight = || self.rows.values().filter(|other| other.key == key && other.in_flight).count();
        match self.stuck.get_mut(&key) {
            Some(stuck) => {
                stuck.in_flight -= 1;
                // Of the rows that were in flight together only the first failure is one of the key.
                if stuck.in_flight == 0 && stuck.retry_at <= now {
                    stuck.attempts += 1;
                    stuck.retry_at = now + backoff(stuck.attempts);
                }
                stuck.attempts
            }
            None => {
                let stuck = Stuck { attempts: 1, retry_at: now + backoff(1), in_flight: others_in_flight() };
                self.stuck.insert(key, stuck);
                1
            }
        }
    }

    /// The first rows of the stuck keys whose time has come, to be submitted.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<i64> {
        let mut due = Vec::new();
        for (key, stuck) in self.stuck.iter_mut().filter(|(_, stuck)| stuck.in_flight == 0 && stuck.retry_at <= now) {
            if let Some((number, head)) = self.rows.iter_mut().find(|(_, row)| row.key == *key) {
                head.in_flight = true;
                stuck.in_flight = 1;
                due.push(*number);
            }
        }
        due
    }

    /// When a stuck key is next due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.stuck.values().filter(|stuck| stuck.in_flight == 0).map(|stuck| stuck.retry_at).min()
    }

    /// How many rows are read and not settled.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << (attempts - 1).min(16)).min(MAX_BACKOFF)
}

#[cfg(test)]
mod tests;
