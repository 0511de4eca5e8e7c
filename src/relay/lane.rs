//! The rows of one lane on their way to the topic, in order for each key. Pure: no I/O, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::changes::Changes;
use super::cursor::Cursor;
use crate::error::{Error, ErrorKind};
use crate::outbox::{Command, Parked, Progress, StoredRow};
use crate::sanitize::{cut, sanitize};
use crate::transport::Record;

/// How long a key waits after its first failure; twice as long after each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(30);
/// The same for a parked key: somebody has to do something about it.
const FIRST_PARKED_BACKOFF: Duration = Duration::from_secs(1);
const MAX_PARKED_BACKOFF: Duration = Duration::from_secs(300);

/// How many keys of a lane may be parked. One more holds up the lane, until somebody looks at it.
const MAX_PARKED_KEYS: usize = 1_000;
/// How many rows of a lane that were handed over may wait for one before them: as many as there are transactions at once.
const MAX_EARLY: usize = 64;
/// How many held rows of a key are read at a time.
pub(crate) const HELD_ROWS: usize = 500;
/// The most that is kept of an error's text.
const MAX_ERROR_BYTES: usize = 4_096;

/// A lane that this relay owns.
///
/// Rows are submitted in order, without waiting for one another. When the row of a key fails, the key is *stuck*: its
/// later rows wait; those in flight are waited for; then its first row is tried alone, until it is delivered; then
/// the others follow. Other keys go on meanwhile. So it is with a key whose first row has to go alone.
///
/// When the row itself is at fault, the key is *parked* instead: what is left of it is noted down as held, which counts as
/// handled, and leaves the memory. So are its later rows. Now and then its first held row is read back and tried; once
/// that is delivered, or somebody decides what becomes of it, the other held ones follow, and then the key is free.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) epoch: i64,
    /// Told apart from every other time that this relay has had the lane: after its lease ran out it may get it back under the
    /// same epoch, if nobody else asked for it.
    pub(crate) tenure: u64,
    pub(crate) cursor: Cursor,
    /// Whether the lane goes to another relay, once nothing of it is in flight.
    pub(crate) leaving: bool,
    /// Whether numbers that this process knows of did not show at the end of the last page, though they might have.
    pub(crate) is_behind: bool,
    /// Which number behind the last one that was read is known of, and since when it does not show.
    missing: Option<(i64, Instant)>,
    /// How many rows the transport has.
    pub(crate) submitted: usize,
    /// Read and not settled, by number.
    rows: BTreeMap<i64, Row>,
    /// Handed over before one below them, which they wait for.
    early: BTreeMap<i64, StoredRow>,
    /// The bytes of all those rows.
    bytes: usize,
    stuck: BTreeMap<Bytes, Stuck>,
    parked: BTreeMap<Bytes, ParkedKey>,
    /// The first held numbers of the parked keys.
    heads: BTreeSet<i64>,
    changes: Changes,
}

#[derive(Debug)]
struct Row {
    key: Bytes,
    record: Result<Record, Error>,
    bytes: usize,
    /// Queued, or with the transport.
    in_flight: bool,
    /// Read back from the held ones.
    held: bool,
}

#[derive(Debug)]
struct Stuck {
    /// How often it has failed: not at all, if its rows are only held back.
    attempts: u32,
    retry_at: Instant,
    in_flight: usize,
    /// The first row that is at fault itself.
    fault: Option<Fault>,
}

#[derive(Debug, Clone)]
struct Fault {
    number: i64,
    kind: ErrorKind,
    text: String,
    at: DateTime<Utc>,
}

#[derive(Debug)]
struct ParkedKey {
    parked: Parked,
    state: State,
    /// The lowest number that was held since its held rows were last asked for: it may be below theirs.
    lowest_added: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its first held row is to be read at this time.
    Waiting(Instant),
    /// Held rows are being read. Whether there are none behind them: until one is added.
    Reading { complete: bool },
    /// So many held rows that were read are not delivered yet.
    Sending { left: usize, complete: bool },
}

/// What to do about the first held row of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    pub(crate) key: Bytes,
    /// How many held rows to read.
    pub(crate) limit: usize,
    pub(crate) parked: Parked,
}

impl Lane {
    /// A lane as it was left: these keys are parked.
    pub(crate) fn new(epoch: i64, tenure: u64, cursor: Cursor, parked: Vec<Parked>, now: Instant) -> Self {
        let heads = parked.iter().map(|parked| parked.head).collect();
        let parked = parked.into_iter().map(|parked| {
            let state = State::Waiting(now + parked.retry_in);
            (parked.key.clone(), ParkedKey { parked, state, lowest_added: None })
        });
        Self {
            epoch,
            tenure,
            cursor,
            leaving: false,
            is_behind: false,
            missing: None,
            submitted: 0,
            rows: BTreeMap::new(),
            early: BTreeMap::new(),
            bytes: 0,
            stuck: BTreeMap::new(),
            parked: parked.collect(),
            heads,
            changes: Changes::default(),
        }
    }

    /// Takes in a row that was read. Says whether to submit it now.
    pub(crate) fn add(&mut self, row: StoredRow) -> bool {
        if self.parked.contains_key(&row.key) {
            self.add_held(row.key, row.sequence);
            return false;
        }
        let in_flight = !self.stuck.contains_key(&row.key);
        self.insert(row, in_flight, false);
        in_flight
    }

    /// Takes in a row that was handed over, for [`next_handed`](Self::next_handed). Says whether it is worth to wait for those
    /// before it: not if a page has not shown them either.
    #[must_use]
    pub(crate) fn hand(&mut self, row: StoredRow) -> bool {
        let number = row.sequence;
        if self.cursor.knows(number) || self.early.contains_key(&number) {
            return true;
        }
        if number != self.cursor.first_unknown() && (self.cursor.has_gaps() || self.early.len() >= MAX_EARLY) {
            return false;
        }
        self.bytes += row.bytes;
        self.early.insert(number, row);
        true
    }

    /// The next row that was handed over, unless one is missing before it. It is to be [added](Self::add).
    pub(crate) fn next_handed(&mut self) -> Option<StoredRow> {
        let (cursor, bytes) = (&self.cursor, &mut self.bytes);
        self.early.retain(|number, row| {
            let is_new = !cursor.knows(*number);
            *bytes -= if is_new { 0 } else { row.bytes };
            is_new
        });
        let first = self.early.first_entry()?;
        if !self.cursor.take(*first.key()) {
            return None;
        }
        let row = first.remove();
        self.bytes -= row.bytes;
        Some(row)
    }

    /// Takes in that this number is known of, and that no page has shown it. Says for how long.
    pub(crate) fn misses(&mut self, number: i64, now: Instant) -> Duration {
        let since = self.missing.filter(|(missing, _)| *missing == number).map_or(now, |(_, since)| since);
        self.missing = Some((number, since));
        now.saturating_duration_since(since)
    }

    /// Whether rows wait for one that was not handed over.
    pub(crate) fn has_early(&self) -> bool {
        !self.early.is_empty()
    }

    fn insert(&mut self, row: StoredRow, in_flight: bool, held: bool) {
        let StoredRow { sequence, key, record, bytes, .. } = row;
        self.bytes += bytes;
        self.rows.insert(sequence, Row { key, record, bytes, in_flight, held });
    }

    fn remove(&mut self, number: i64) -> Option<Row> {
        let row = self.rows.remove(&number)?;
        self.bytes -= row.bytes;
        Some(row)
    }

    /// Holds a row of a parked key.
    fn add_held(&mut self, key: Bytes, number: i64) {
        if let Some(ParkedKey { parked, state, lowest_added }) = self.parked.get_mut(&key) {
            if let State::Reading { complete } | State::Sending { complete, .. } = state {
                *complete = false;
                *lowest_added = Some(lowest_added.map_or(number, |lowest| lowest.min(number)));
            }
            // It has committed later than the head, and has not failed.
            if number < parked.head {
                self.heads.remove(&parked.head);
                self.heads.insert(number);
                (parked.head, parked.attempts, parked.command) = (number, 0, None);
                self.changes.park(parked.clone());
            }
        }
        self.hold(key, number);
    }

    /// Notes a row down as held, which counts as handled: else each would be a hole in what is settled.
    fn hold(&mut self, key: Bytes, number: i64) {
        self.cursor.settle(number..number + 1);
        self.changes.hold(key, number);
    }

    /// The record of a row that is to be submitted.
    pub(crate) fn record(&self, number: i64) -> Option<Result<&Record, &Error>> {
        self.rows.get(&number).map(|row| row.record.as_ref())
    }

    /// Whether a row that was queued may be submitted still. Not if one of its key before it has failed meanwhile: then it
    /// waits.
    pub(crate) fn may_submit(&mut self, number: i64, now: Instant) -> bool {
        if self.leaving {
            self.remove(number);
            return false;
        }
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
        self.park_if_done(&key, now);
        false
    }

    /// A row that was queued may not be submitted before the one of its key that is in flight is reported on.
    pub(crate) fn hold_back(&mut self, number: i64, now: Instant) {
        let Some(row) = self.rows.get_mut(&number) else { return };
        row.in_flight = false;
        let key = row.key.clone();
        if let Some(stuck) = self.stuck.get_mut(&key) {
            // It is tried alone, and something of an earlier tenure is in flight still.
            stuck.in_flight -= 1;
            stuck.retry_at = stuck.retry_at.max(now + FIRST_BACKOFF);
        } else {
            let in_flight = self.in_flight_of(&key);
            self.stuck.insert(key, Stuck { attempts: 0, retry_at: now, in_flight, fault: None });
        }
    }

    fn in_flight_of(&self, key: &Bytes) -> usize {
        self.rows.values().filter(|row| row.key == *key && row.in_flight).count()
    }

    /// A row is on the topic. Yields the numbers that may be submitted now, in order.
    pub(crate) fn delivered(&mut self, number: i64, now: Instant) -> Vec<i64> {
        let Some(row) = self.remove(number) else {
            return Vec::new();
        };
        if row.held {
            self.unhold(&row.key, number, now);
        } else {
            self.cursor.settle(number..number + 1);
        }
        let Some(stuck) = self.stuck.get_mut(&row.key) else {
            return Vec::new();
        };
        stuck.in_flight -= 1;
        if self.park_if_done(&row.key, now) {
            return Vec::new();
        }
        let waits_behind = |(other, held): (&i64, &Row)| held.key == row.key && !held.in_flight && *other > number;
        let waits_before = |(other, held): (&i64, &Row)| held.key == row.key && !held.in_flight && *other < number;
        // A row that was in flight behind the failed one says nothing of that one.
        if self.stuck.get(&row.key).is_some_and(|stuck| stuck.in_flight > 0) || self.rows.iter().any(waits_before) {
            return Vec::new();
        }
        self.stuck.remove(&row.key);
        let released: Vec<_> = self.rows.iter().filter(|row| waits_behind(*row)).map(|(number, _)| *number).collect();
        for number in &released {
            if let Some(row) = self.rows.get_mut(number) {
                row.in_flight = true;
            }
        }
        released
    }

    /// A row did not reach the topic, as far as is known. Yields how often its key has failed.
    pub(crate) fn failed(&mut self, number: i64, error: &Error, now: Instant, at: DateTime<Utc>) -> u32 {
        let Some(row) = self.rows.get_mut(&number) else {
            return 0;
        };
        row.in_flight = false;
        let key = row.key.clone();
        let in_flight = if self.stuck.contains_key(&key) { 0 } else { self.in_flight_of(&key) };
        let stuck = match self.stuck.get_mut(&key) {
            Some(stuck) => {
                stuck.in_flight -= 1;
                // Of the rows that were in flight together only the first failure is one of the key.
                if stuck.attempts == 0 || (stuck.in_flight == 0 && stuck.retry_at <= now) {
                    stuck.attempts += 1;
                    stuck.retry_at = now + backoff(stuck.attempts);
                }
                stuck
            }
            None => {
                let stuck = Stuck { attempts: 1, retry_at: now + backoff(1), in_flight, fault: None };
                self.stuck.entry(key.clone()).or_insert(stuck)
            }
        };
        if is_events_fault(error.kind()) && stuck.fault.as_ref().is_none_or(|fault| number < fault.number) {
            let text = cut(&sanitize(&error.to_string_with_causes()), MAX_ERROR_BYTES).into_owned();
            stuck.fault = Some(Fault { number, kind: error.kind(), text, at });
        }
        let attempts = stuck.attempts;
        if self.park_if_done(&key, now) {
            return self.parked.get(&key).map_or(attempts, |key| key.parked.attempts);
        }
        attempts
    }

    /// Parks a key that is stuck by a fault of a row, once nothing of it is in flight.
    fn park_if_done(&mut self, key: &Bytes, now: Instant) -> bool {
        let full = self.parked.len() >= MAX_PARKED_KEYS && !self.parked.contains_key(key);
        let Some(stuck) = self.stuck.get_mut(key).filter(|stuck| stuck.in_flight == 0) else { return false };
        let Some(fault) = stuck.fault.take() else { return false };
        let numbers: Vec<_> = self.rows.iter().filter(|(_, row)| row.key == *key).map(|(number, _)| *number).collect();
        let Some(&head) = numbers.first() else { return false };
        if full {
            tracing::error!(keys = MAX_PARKED_KEYS, "too many keys of the lane are parked; it waits for this one");
            return false;
        }
        self.stuck.remove(key);
        for number in numbers {
            if self.remove(number).is_some_and(|row| !row.held) {
                self.hold(key.clone(), number);
            }
        }
        let before = self.parked.get(key);
        let head = before.and_then(|before| before.lowest_added).map_or(head, |added| added.min(head));
        let before = before.map(|before| &before.parked);
        let same = before.filter(|before| before.head == head && before.attempts > 0);
        let attempts = match same {
            _ if fault.number != head => 0,
            Some(before) => before.attempts + 1,
            None => 1,
        };
        let retry_in = parked_backoff(key, attempts);
        let parked = Parked {
            key: key.clone(),
            head,
            error_kind: fault.kind,
            error: fault.text,
            attempts,
            first_failure_at: same.map_or(fault.at, |before| before.first_failure_at),
            retry_in,
            command: None,
        };
        if let Some(before) = before {
            self.heads.remove(&before.head);
        }
        self.heads.insert(head);
        self.changes.park(parked.clone());
        let state = State::Waiting(now + retry_in);
        self.parked.insert(key.clone(), ParkedKey { parked, state, lowest_added: None });
        true
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

    /// When a stuck or parked key is next due.
    pub(crate) fn next_due(&self, save_at: Instant) -> Option<Instant> {
        let stuck = self.stuck.values().filter(|stuck| stuck.in_flight == 0).map(|stuck| stuck.retry_at);
        stuck.chain(self.next_trial(save_at)).min()
    }

    /// When a parked key is next due: not before what is held was written down, which is tried at `save_at`.
    pub(crate) fn next_trial(&self, save_at: Instant) -> Option<Instant> {
        let waiting = self.parked.values().filter_map(|key| match key.state {
            State::Waiting(until) => Some(until),
            _ => None,
        });
        let due = waiting.min()?;
        Some(if self.has_unsaved() { due.max(save_at) } else { due })
    }

    /// A parked key whose time has come. Its held rows are to be read, and to be given to [`retry`](Self::retry).
    pub(crate) fn trial(&mut self, now: Instant) -> Option<Trial> {
        let due = |key: &&mut ParkedKey| matches!(key.state, State::Waiting(until) if until <= now);
        let key = self.parked.values_mut().filter(due).min_by_key(|key| key.parked.head)?;
        (key.state, key.lowest_added) = (State::Reading { complete: true }, None);
        // One that has failed is tried alone.
        let limit = if key.parked.attempts > 0 || key.parked.command.is_some() { 1 } else { HELD_ROWS };
        Some(Trial { key: key.parked.key.clone(), limit, parked: key.parked.clone() })
    }

    /// The held rows of a trial could not be read: tried again at this time.
    pub(crate) fn postpone(&mut self, key: &Bytes, until: Instant) {
        if let Some(key) = self.parked.get_mut(key) {
            key.state = State::Waiting(until);
        }
    }

    /// Takes in the first held rows of a trial. Yields the numbers to submit.
    pub(crate) fn retry(&mut self, key: &Bytes, rows: Vec<StoredRow>, limit: usize, now: Instant) -> Vec<i64> {
        let Some(parked) = self.parked.get_mut(key) else {
            return Vec::new();
        };
        let State::Reading { complete } = parked.state else {
            return Vec::new();
        };
        let complete = complete && rows.len() < limit;
        parked.state = State::Sending { left: rows.len(), complete };
        if let Some(command) = parked.parked.command.take() {
            self.changes.obey(key.clone(), command);
        }
        let numbers: Vec<_> = rows.iter().map(|row| row.sequence).collect();
        for row in rows {
            self.insert(row, true, true);
        }
        if numbers.is_empty() {
            self.finish(key, now);
        }
        numbers
    }

    /// The first held row of a key is left out for good.
    pub(crate) fn skip(&mut self, key: &Bytes, number: i64, now: Instant) {
        if let Some(parked) = self.parked.get_mut(key) {
            parked.state = State::Sending { left: 1, complete: false };
            if let Some(command) = parked.parked.command.take() {
                self.changes.obey(key.clone(), command);
            }
            self.unhold(key, number, now);
        }
    }

    /// A held row is delivered, or left out.
    fn unhold(&mut self, key: &Bytes, number: i64, now: Instant) {
        self.changes.unhold(key.clone(), number);
        let Some(parked) = self.parked.get_mut(key) else { return };
        // The one that failed is past: what comes next has not failed yet.
        parked.parked.attempts = 0;
        if let State::Sending { left, .. } = &mut parked.state {
            *left -= 1;
            if *left == 0 {
                self.finish(key, now);
            }
        }
    }

    /// All rows that were read are delivered: reads on, or frees the key.
    fn finish(&mut self, key: &Bytes, now: Instant) {
        let Some(parked) = self.parked.get_mut(key) else { return };
        if !matches!(parked.state, State::Sending { complete: true, .. }) {
            parked.state = State::Waiting(now);
            return;
        }
        self.heads.remove(&parked.parked.head);
        self.parked.remove(key);
        self.changes.free(key.clone());
    }

    /// Takes over what somebody wants done about a parked key.
    pub(crate) fn command(&mut self, key: &Bytes, head: i64, command: Command, now: Instant) {
        if let Some(parked) = self.parked.get_mut(key)
            && parked.parked.head == head
            && matches!(parked.state, State::Waiting(_))
        {
            parked.parked.command = Some(command);
            parked.state = State::Waiting(now);
        }
    }

    /// How many keys are parked.
    pub(crate) fn parked_count(&self) -> usize {
        self.parked.len()
    }

    /// Whether keys are parked.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Every number below is delivered.
    pub(crate) fn floor(&self) -> i64 {
        let floor = self.cursor.floor();
        self.heads.first().map_or(floor, |head| floor.min(*head))
    }

    /// How many rows are read and not settled.
    pub(crate) fn len(&self) -> usize {
        self.rows.len() + self.early.len()
    }

    /// The bytes of those rows.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is anything to write down.
    pub(crate) fn has_unsaved(&self) -> bool {
        self.cursor.has_unsaved() || !self.changes.is_empty()
    }

    /// What is to be written down, in this life of the database.
    pub(crate) fn take_progress(&mut self, lane: u16, life: i64) -> Progress {
        let settled = self.cursor.take_unsaved();
        self.changes.take(Progress { lane, epoch: self.epoch, life, settled, ..Progress::default() })
    }

    /// Gives back what could not be written.
    pub(crate) fn put_back(&mut self, progress: Progress) {
        self.cursor.put_back(progress.settled.clone());
        self.changes.put_back(progress);
    }
}

/// Whether a failure is one of the event rather than of the broker: waiting alone does not help.
fn is_events_fault(kind: ErrorKind) -> bool {
    kind.is_dead_letter() || kind == ErrorKind::Schema
}

fn backoff(attempts: u32) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << (attempts - 1).min(16)).min(MAX_BACKOFF)
}

/// Keys that were parked together are not tried together: each has a time of its own, from half to the whole of it.
fn parked_backoff(key: &[u8], attempts: u32) -> Duration {
    let whole = FIRST_PARKED_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(MAX_PARKED_BACKOFF);
    whole / 2 + whole / 2 * (crate::outbox::lane::murmur2(key) % 1_000) / 1_000
}

#[cfg(test)]
mod tests;
