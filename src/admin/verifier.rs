//! Holds what is on the topics against the log. Pure.

use std::collections::HashMap;

use super::model::{Fault, LogRow, Place, Verification};

/// Compares the settled rows of a log with what a reader finds on their topics: what is lost, double or out of order.
/// [`Admin::verifier`](super::Admin::verifier) makes it.
///
/// Events that are not in the log, since they went direct or were settled later, are passed over.
#[derive(Debug, Default)]
pub struct Verifier {
    topics: HashMap<String, Topic>,
    out_of_order: Vec<Place>,
}

#[derive(Debug, Default)]
struct Topic {
    events: HashMap<String, Expected>,
    /// By partition, lane and key: the highest number of which the event was seen.
    highest: HashMap<(i32, u16, String), i64>,
}

/// An event that is settled.
#[derive(Debug)]
struct Expected {
    /// Its first row: replays have further ones.
    place: Place,
    rows: u64,
    seen: u64,
    dead: bool,
}

impl Verifier {
    /// Takes in a settled row. Those of a lane come in order.
    pub(super) fn expect(&mut self, row: LogRow) {
        let place = Place { lane: row.lane, sequence: row.sequence, key: Some(row.key) };
        let events = &mut self.topics.entry(row.topic).or_default().events;
        events.entry(row.event_id).or_insert(Expected { place, rows: 0, seen: 0, dead: false }).rows += 1;
    }

    /// Takes in a record of a topic. Those of a partition come in order of their offsets.
    pub fn see(&mut self, topic: &str, partition: i32, event_id: &str) {
        let Some(topic) = self.topics.get_mut(topic) else { return };
        let Some(event) = topic.events.get_mut(event_id) else { return };
        event.seen += 1;
        if event.seen > 1 {
            return;
        }
        let Place { lane, sequence, key } = &event.place;
        let highest = topic.highest.entry((partition, *lane, key.clone().unwrap_or_default())).or_default();
        if sequence < highest {
            self.out_of_order.push(event.place.clone());
        }
        *highest = (*highest).max(*sequence);
    }

    /// Takes in a dead letter that was meant for this topic: its event is not lost.
    pub fn see_dead(&mut self, source_topic: &str, event_id: &str) {
        let events = self.topics.get_mut(source_topic).map(|topic| &mut topic.events);
        if let Some(event) = events.and_then(|events| events.get_mut(event_id)) {
            event.dead = true;
        }
    }

    /// What is wrong: [`Fault::Lost`], [`Fault::Double`] and [`Fault::OutOfOrder`].
    #[must_use]
    pub fn finish(self) -> Verification {
        let (mut lost, mut double) = (Vec::new(), Vec::new());
        for event in self.topics.into_values().flat_map(|topic| topic.events.into_values()) {
            if event.seen == 0 && !event.dead {
                lost.push(event.place);
            } else if event.seen > event.rows {
                double.push(event.place);
            }
        }
        let mut found = Verification::default();
        found.add(Fault::Lost, lost);
        found.add(Fault::Double, double);
        found.add(Fault::OutOfOrder, self.out_of_order);
        found
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use proptest::prelude::*;

    use super::*;
    use crate::admin::RowState;

    fn row(sequence: i64, key: &str, event_id: &str) -> LogRow {
        LogRow {
            lane: 3,
            sequence,
            created_at: Utc::now(),
            event_id: event_id.into(),
            definition_key: "d".into(),
            topic: "t".into(),
            key: key.into(),
            header_bytes: 0,
            payload_bytes: None,
            state: RowState::Settled,
        }
    }

    /// What is found when these were logged, and these were seen.
    fn verify(rows: &[(&str, &str)], seen: &[&str]) -> Vec<(Fault, Vec<i64>)> {
        let mut verifier = Verifier::default();
        for ((key, id), number) in rows.iter().zip(1..) {
            verifier.expect(row(number, key, id));
        }
        seen.iter().for_each(|id| verifier.see("t", 0, id));
        let of_finding = |place: &Place| place.sequence;
        let findings = verifier.finish().findings.into_iter();
        findings.map(|finding| (finding.fault, finding.first.iter().map(of_finding).collect())).collect()
    }

    #[test]
    fn lost_double_and_out_of_order_are_told_apart() {
        let rows = [("k", "a"), ("k", "b"), ("l", "c")];
        assert_eq!(verify(&rows, &["c", "a", "direct", "b"]), []);
        assert_eq!(verify(&rows, &["a", "c"]), [(Fault::Lost, vec![2])]);
        assert_eq!(verify(&rows, &["a", "b", "a", "c"]), [(Fault::Double, vec![1])]);
        assert_eq!(verify(&rows, &["b", "a", "c"]), [(Fault::OutOfOrder, vec![1])]);
    }

    #[test]
    fn a_replay_is_not_double_and_a_dead_letter_not_lost() {
        assert_eq!(verify(&[("k", "a"), ("k", "b"), ("k", "a")], &["a", "b", "a"]), []);
        let mut verifier = Verifier::default();
        verifier.expect(row(1, "k", "a"));
        verifier.see_dead("t", "a");
        assert!(verifier.finish().is_sound());
    }

    #[test]
    fn no_more_than_ten_places_are_named_the_first_ones() {
        let mut verifier = Verifier::default();
        (1..=25).for_each(|number| verifier.expect(row(number, "k", &number.to_string())));
        let found = verifier.finish();
        let lost = found.finding(Fault::Lost).unwrap();
        assert_eq!((lost.count, lost.first.len(), lost.first[9].sequence), (25, 10, 10));
    }

    proptest! {
        /// Whatever is left out, moved or doubled of one key is found, and nothing else.
        #[test]
        fn the_findings_are_those_of_a_plain_comparison(seen in proptest::collection::vec(0usize..8, 0..16)) {
            let ids: Vec<String> = (0..8).map(|n| n.to_string()).collect();
            let rows: Vec<_> = ids.iter().map(|id| ("k", id.as_str())).collect();
            let found = verify(&rows, &seen.iter().map(|n| ids[*n].as_str()).collect::<Vec<_>>());
            let of = |fault| found.iter().find(|(other, _)| *other == fault).map_or(Vec::new(), |(_, n)| n.clone());
            let count = |n: usize| seen.iter().filter(|m| **m == n).count();
            let numbers = |is: &dyn Fn(usize) -> bool| (0..8).zip(1..).filter(|(n, _)| is(*n)).map(|(_, number)| number).collect::<Vec<i64>>();
            prop_assert_eq!(of(Fault::Lost), numbers(&|n| count(n) == 0));
            prop_assert_eq!(of(Fault::Double), numbers(&|n| count(n) > 1));
            let first = |n: usize| seen.iter().position(|m| *m == n);
            let overtaken = |n: usize| first(n).is_some_and(|at| seen[..at].iter().any(|m| *m > n));
            prop_assert_eq!(of(Fault::OutOfOrder), numbers(&overtaken));
        }
    }
}
