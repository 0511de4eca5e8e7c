//! Holds what a service emitted against what a topic holds: lost, invented, inverted, duplicated.
//!
//! A [`History`] is written while events are emitted, in the order in which things happen, and [`verify`](History::verify) is
//! asked when the outbox is drained and the topic was read to its end. It is pure: who reads the topic is up to the test.
//!
//! # Examples
//!
//! ```
//! use tidings::testing::verify::{History, Seen};
//!
//! let mut history = History::new();
//! history.began("t-abc", "order-1");
//! history.accepted(&"order-1");           // the emit returned `Ok`
//! history.began("t-abc", "order-2");      // it never returned: the event may be there, or not
//! history.began("t-abc", "order-3");
//! history.refused(&"order-3");            // its transaction was rolled back
//! history.began("t-abc", "order-4");
//! history.accepted(&"order-4");
//!
//! let seen = |offset, id| Seen::new(0, offset, "t-abc", id);
//! let good = history.verify([seen(0, "order-1"), seen(1, "order-4"), seen(2, "order-4")]);
//! assert!(good.is_kept() && good.duplicates == 1, "{good}");
//!
//! let bad = history.verify([seen(0, "order-4"), seen(1, "order-3"), seen(2, "order-1")]);
//! assert_eq!((bad.lost.len(), bad.invented.len(), bad.inverted.len()), (0, 1, 1));
//! ```

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

#[cfg(test)]
mod tests;

/// What was emitted to one topic, and what became of it, in the order in which it happened.
///
/// `E` tells events apart: their ids, or more than that, if the content of a record is to be what was emitted too. Order holds within
/// one topic, so each topic has a history of its own.
///
/// An event whose emit began after that of another had been accepted must come behind it, if both have the same key. Nothing
/// follows of emits that ran at the same time, and an event that was never accepted has no place in the order. Events of one batch
/// are in order: each of them begins when the one before it is accepted.
#[derive(Debug, Clone)]
pub struct History<E> {
    emits: HashMap<E, Emit>,
    /// How much has happened.
    now: u64,
}

#[derive(Debug, Clone)]
struct Emit {
    key: String,
    began: u64,
    fate: Fate,
}

#[derive(Debug, Clone, Copy)]
enum Fate {
    Unknown,
    Accepted { at: u64 },
    Refused,
}

impl<E> Default for History<E> {
    fn default() -> Self {
        Self { emits: HashMap::new(), now: 0 }
    }
}

impl<E: Clone + Eq + Hash> History<E> {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The emit of an event of this partition key begins. As long as nothing more is known, the event may be there, or not.
    ///
    /// It may begin again, under the same id, after it has failed: the earlier attempt then counts as its beginning.
    pub fn began(&mut self, key: impl Into<String>, event: E) {
        self.now += 1;
        let new = Emit { key: key.into(), began: self.now, fate: Fate::Unknown };
        let emit = self.emits.entry(event).or_insert(new);
        if matches!(emit.fate, Fate::Refused) {
            emit.fate = Fate::Unknown;
        }
    }

    /// The event was accepted: its emit returned `Ok`, or its transaction committed. It must be there.
    ///
    /// Of one whose answer was lost, but which is known to be accepted from elsewhere (a row of the service's own table,
    /// say), call this when all is over: it must be there then, and nothing has to come behind it.
    ///
    /// # Panics
    ///
    /// If it never began.
    #[track_caller]
    pub fn accepted(&mut self, event: &E) {
        self.now += 1;
        let at = self.now;
        let fate = self.fate_of(event);
        if !matches!(fate, Fate::Accepted { .. }) {
            *fate = Fate::Accepted { at };
        }
    }

    /// The event must not be there: its transaction rolled back, or its emit failed with an error that
    /// [is not ambiguous](crate::Error::is_ambiguous).
    ///
    /// # Panics
    ///
    /// If it never began.
    #[track_caller]
    pub fn refused(&mut self, event: &E) {
        *self.fate_of(event) = Fate::Refused;
    }

    #[track_caller]
    fn fate_of(&mut self, event: &E) -> &mut Fate {
        &mut self.emits.get_mut(event).expect("the emit of the event began").fate
    }

    /// How many events were accepted.
    #[must_use]
    pub fn accepted_count(&self) -> usize {
        self.emits.values().filter(|emit| matches!(emit.fate, Fate::Accepted { .. })).count()
    }

    /// Whether the event was accepted.
    #[must_use]
    pub fn is_accepted(&self, event: &E) -> bool {
        matches!(self.emits.get(event), Some(Emit { fate: Fate::Accepted { .. }, .. }))
    }

    /// Holds the history against all records of its topic, in any order.
    #[must_use]
    pub fn verify(&self, seen: impl IntoIterator<Item = Seen<E>>) -> Verdict<E> {
        let mut seen: Vec<_> = seen.into_iter().collect();
        seen.sort_by_key(|record| (record.partition, record.offset));
        let mut verdict = Verdict::default();
        let mut partition_of: HashMap<&str, i32> = HashMap::new();
        let mut first: HashSet<&E> = HashSet::new();
        let mut firsts: Vec<(&E, &Emit)> = Vec::new();
        for record in &seen {
            let emit = self.emits.get(&record.event);
            let Some(emit) = emit.filter(|emit| emit.key == record.key && !matches!(emit.fate, Fate::Refused)) else {
                verdict.invented.push(record.clone());
                continue;
            };
            if *partition_of.entry(&emit.key).or_insert(record.partition) != record.partition {
                verdict.scattered.push(emit.key.clone());
            }
            if first.insert(&record.event) {
                firsts.push((&record.event, emit));
            } else {
                verdict.duplicates += 1;
            }
        }
        verdict.scattered.sort();
        verdict.scattered.dedup();
        let mut lost: Vec<_> =
            self.emits.iter().filter(|(event, _)| self.is_accepted(event) && !first.contains(event)).collect();
        lost.sort_by_key(|(_, emit)| emit.began);
        verdict.lost = lost.into_iter().map(|(event, emit)| (emit.key.clone(), event.clone())).collect();
        verdict.inverted = inverted(&firsts);
        verdict
    }
}

/// Who overtook whom, of first occurrences in the order of the topic: from its end, of each key the event that was accepted
/// first, of those behind, must not have been accepted before this one began.
fn inverted<E: Clone>(firsts: &[(&E, &Emit)]) -> Vec<Inverted<E>> {
    let mut earliest: HashMap<&str, (u64, &E)> = HashMap::new();
    let mut inverted = Vec::new();
    for (event, emit) in firsts.iter().rev() {
        let Fate::Accepted { at } = emit.fate else { continue };
        match earliest.get(emit.key.as_str()) {
            Some((accepted, overtaken)) if *accepted < emit.began => inverted.push(Inverted {
                key: emit.key.clone(),
                overtaken: (*overtaken).clone(),
                overtaking: (*event).clone(),
            }),
            Some((accepted, _)) if *accepted < at => {}
            _ => drop(earliest.insert(&emit.key, (at, event))),
        }
    }
    inverted.reverse();
    inverted
}

/// A record of the topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen<E> {
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
    /// The record key.
    pub key: String,
    /// The event that it is.
    pub event: E,
}

impl<E> Seen<E> {
    /// What was read there.
    pub fn new(partition: i32, offset: i64, key: impl Into<String>, event: E) -> Self {
        Self { partition, offset, key: key.into(), event }
    }
}

/// Two accepted events of one key that are on the topic the wrong way round.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inverted<E> {
    /// Their key.
    pub key: String,
    /// The one that was accepted before the emit of the other began, and is behind it.
    pub overtaken: E,
    /// The other one.
    pub overtaking: E,
}

/// What the topic says of the promises.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verdict<E> {
    /// Accepted, and not there: key and event, in the order in which they began.
    pub lost: Vec<(String, E)>,
    /// There, and never emitted so, or refused.
    pub invented: Vec<Seen<E>>,
    /// Who overtook an older event of its key, judged by the first occurrence of each.
    pub inverted: Vec<Inverted<E>>,
    /// Keys that were seen in more than one partition, where nothing has an order.
    pub scattered: Vec<String>,
    /// How many more times than once events were seen.
    pub duplicates: usize,
}

impl<E> Default for Verdict<E> {
    fn default() -> Self {
        Self { lost: Vec::new(), invented: Vec::new(), inverted: Vec::new(), scattered: Vec::new(), duplicates: 0 }
    }
}

impl<E> Verdict<E> {
    /// Whether every promise was kept. Duplicates are allowed.
    #[must_use]
    pub fn is_kept(&self) -> bool {
        self.lost.is_empty() && self.invented.is_empty() && self.inverted.is_empty() && self.scattered.is_empty()
    }
}

impl<E: fmt::Debug> Verdict<E> {
    /// Asserts that every promise was kept.
    ///
    /// # Panics
    ///
    /// If one was not; the text counts what is wrong, and shows the first of each.
    #[track_caller]
    pub fn assert_kept(&self) {
        assert!(self.is_kept(), "{self}");
    }
}

impl<E: fmt::Debug> fmt::Display for Verdict<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More would bury the first ones, which tell the most.
        const SHOWN: usize = 10;
        let Self { lost, invented, inverted, scattered, duplicates } = self;
        let (lost_count, invented_count, inverted_count) = (lost.len(), invented.len(), inverted.len());
        let scattered_count = scattered.len();
        writeln!(
            f,
            "{lost_count} lost, {invented_count} invented, {inverted_count} inverted, {scattered_count} scattered, {duplicates} duplicates"
        )?;
        for (key, event) in lost.iter().take(SHOWN) {
            writeln!(f, "  lost: {event:?} of {key}")?;
        }
        for Seen { partition, offset, key, event } in invented.iter().take(SHOWN) {
            writeln!(f, "  invented: {event:?} of {key} at {partition}/{offset}")?;
        }
        for Inverted { key, overtaken, overtaking } in inverted.iter().take(SHOWN) {
            writeln!(f, "  inverted: {overtaking:?} of {key} overtook {overtaken:?}")?;
        }
        for key in scattered.iter().take(SHOWN) {
            writeln!(f, "  scattered: {key}")?;
        }
        Ok(())
    }
}
