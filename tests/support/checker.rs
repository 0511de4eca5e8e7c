//! The promises of an emitter, checked against what is on the topic.

use std::collections::{HashMap, HashSet};
use std::fmt;

/// One event of a key, counted from 1 in the order in which its caller emitted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Numbered {
    pub(crate) key: String,
    pub(crate) number: u64,
    pub(crate) id: String,
}

/// Where an event was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) event: Numbered,
}

/// What the topic says of the promises.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// Accepted, and not there.
    pub(crate) lost: Vec<Numbered>,
    /// There, and never emitted so, or rolled back.
    pub(crate) invented: Vec<Seen>,
    /// Two accepted events of one key of which the second was seen first.
    pub(crate) inverted: Vec<(Numbered, Numbered)>,
    /// Keys that were seen in more than one partition, where nothing has an order.
    pub(crate) scattered: Vec<String>,
    /// How many more times than once events were seen.
    pub(crate) duplicates: usize,
}

/// Holds what was emitted against what is there.
///
/// `accepted` has the events of each key in the order of their acceptance. `doubtful` are those whose emit failed or was
/// given up: they may be there, or not. Each partition of `seen` is in order of offsets.
pub(crate) fn check(accepted: &[Numbered], doubtful: &[Numbered], seen: &[Seen]) -> Verdict {
    let emitted: HashMap<&str, &Numbered> =
        accepted.iter().chain(doubtful).map(|event| (event.id.as_str(), event)).collect();
    let mut verdict = Verdict::default();
    let mut first: HashMap<&str, i64> = HashMap::new();
    let mut partition_of: HashMap<&str, i32> = HashMap::new();
    for record in seen {
        let event = &record.event;
        if emitted.get(event.id.as_str()) != Some(&event) {
            verdict.invented.push(record.clone());
            continue;
        }
        if *partition_of.entry(&event.key).or_insert(record.partition) != record.partition {
            verdict.scattered.push(event.key.clone());
        }
        if first.contains_key(event.id.as_str()) {
            verdict.duplicates += 1;
        } else {
            first.insert(&event.id, record.offset);
        }
    }
    // Of each key the event that was seen furthest behind, so far.
    let mut furthest: HashMap<&str, (i64, &Numbered)> = HashMap::new();
    for event in accepted {
        let Some(&offset) = first.get(event.id.as_str()) else {
            verdict.lost.push(event.clone());
            continue;
        };
        match furthest.get(event.key.as_str()) {
            Some((behind, other)) if *behind > offset => verdict.inverted.push(((*other).clone(), event.clone())),
            _ => drop(furthest.insert(&event.key, (offset, event))),
        }
    }
    verdict
}

impl Verdict {
    /// Whether every promise was kept. Duplicates are allowed.
    pub(crate) fn is_kept(&self) -> bool {
        self.lost.is_empty() && self.invented.is_empty() && self.inverted.is_empty() && self.scattered.is_empty()
    }

    /// Fails the test unless every promise was kept.
    #[track_caller]
    pub(crate) fn assert_kept(&self) {
        assert!(self.is_kept(), "{self}");
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More would bury the first ones, which tell the most.
        const SHOWN: usize = 10;
        let Self { lost, invented, inverted, scattered, duplicates } = self;
        let counts = [lost.len(), invented.len(), inverted.len(), scattered.len()];
        let [lost_count, invented_count, inverted_count, scattered_count] = counts;
        writeln!(
            f,
            "{lost_count} lost, {invented_count} invented, {inverted_count} inverted, {scattered_count} scattered, {duplicates} duplicates"
        )?;
        for event in lost.iter().take(SHOWN) {
            writeln!(f, "  lost: {} {}", event.key, event.number)?;
        }
        for Seen { partition, offset, event } in invented.iter().take(SHOWN) {
            let Numbered { key, number, id } = event;
            writeln!(f, "  invented: {key} {number} ({id}) at {partition}/{offset}")?;
        }
        for (first, second) in inverted.iter().take(SHOWN) {
            writeln!(f, "  inverted: {} {} was seen behind {}", first.key, first.number, second.number)?;
        }
        let scattered: HashSet<_> = scattered.iter().collect();
        for key in scattered.into_iter().take(SHOWN) {
            writeln!(f, "  scattered: {key}")?;
        }
        Ok(())
    }
}
