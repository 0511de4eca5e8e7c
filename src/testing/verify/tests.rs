//! Every fault is found.

use super::{History, Inverted, Seen, Verdict};

type Event = (&'static str, u32);

/// A history of events that were accepted one after another.
fn accepted(events: &[Event]) -> History<Event> {
    let mut history = History::new();
    for event in events {
        history.began(event.0, *event);
        history.accepted(event);
    }
    history
}

/// The events of a topic with one partition.
fn seen(events: &[Event]) -> Vec<Seen<Event>> {
    (0..).zip(events).map(|(offset, event)| Seen::new(0, offset, event.0, *event)).collect()
}

fn pairs(verdict: &Verdict<Event>) -> Vec<(u32, u32)> {
    verdict.inverted.iter().map(|Inverted { overtaken, overtaking, .. }| (overtaken.1, overtaking.1)).collect()
}

#[test]
fn every_event_once_and_in_the_order_of_its_key_keeps_the_promises() {
    let history = accepted(&[("a", 1), ("b", 1), ("a", 2), ("b", 2)]);
    let verdict = history.verify(seen(&[("b", 1), ("a", 1), ("a", 2), ("b", 2)]));
    assert!(verdict.is_kept() && verdict.duplicates == 0, "{verdict}");
}

#[test]
fn an_accepted_event_that_is_not_there_is_lost() {
    let verdict = accepted(&[("a", 1), ("a", 2), ("a", 3)]).verify(seen(&[("a", 1), ("a", 3)]));
    assert_eq!(verdict.lost, [("a".to_owned(), ("a", 2))]);
    assert!(!verdict.is_kept());
}

#[test]
fn an_event_that_nobody_emitted_is_invented() {
    let verdict = accepted(&[("a", 1)]).verify(seen(&[("a", 1), ("a", 2)]));
    assert_eq!(verdict.invented, [Seen::new(0, 1, "a", ("a", 2))]);
    assert!(!verdict.is_kept());
}

#[test]
fn an_event_of_another_key_is_invented() {
    let verdict = accepted(&[("a", 1)]).verify([Seen::new(0, 0, "b", ("a", 1))]);
    assert_eq!((verdict.invented.len(), verdict.lost.len()), (1, 1));
}

#[test]
fn a_refused_event_that_is_there_is_invented() {
    let mut history = accepted(&[("a", 1)]);
    history.began("a", ("a", 2));
    history.refused(&("a", 2));
    assert!(history.verify(seen(&[("a", 1)])).is_kept());
    assert_eq!(history.verify(seen(&[("a", 1), ("a", 2)])).invented.len(), 1);
}

#[test]
fn an_event_without_an_answer_may_be_there_or_not_and_has_no_place_in_the_order() {
    let mut history = accepted(&[("a", 1)]);
    history.began("a", ("a", 2));
    history.began("a", ("a", 3));
    history.accepted(&("a", 3));
    for topic in [&[("a", 1), ("a", 3)][..], &[("a", 1), ("a", 3), ("a", 2)], &[("a", 2), ("a", 1), ("a", 3)]] {
        history.verify(seen(topic)).assert_kept();
    }
}

#[test]
fn an_event_that_is_known_to_be_accepted_only_in_the_end_must_be_there_and_overtakes_nothing_older() {
    let mut history = accepted(&[("a", 1)]);
    history.began("a", ("a", 2)); // killed before it answered
    history.began("a", ("a", 3));
    history.accepted(&("a", 3));
    history.accepted(&("a", 2)); // its row is in the table
    assert!(history.verify(seen(&[("a", 1), ("a", 2), ("a", 3)])).is_kept());
    assert!(history.verify(seen(&[("a", 1), ("a", 3), ("a", 2)])).is_kept());
    assert_eq!(history.verify(seen(&[("a", 1), ("a", 3)])).lost.len(), 1);
    assert_eq!(pairs(&history.verify(seen(&[("a", 2), ("a", 1), ("a", 3)]))), [(1, 2)]);
}

#[test]
fn emits_that_ran_at_the_same_time_have_no_order_to_keep() {
    let mut history = History::new();
    history.began("a", ("a", 1));
    history.began("a", ("a", 2));
    history.accepted(&("a", 1));
    history.accepted(&("a", 2));
    assert!(history.verify(seen(&[("a", 2), ("a", 1)])).is_kept());
    history.began("a", ("a", 3));
    history.accepted(&("a", 3));
    assert_eq!(pairs(&history.verify(seen(&[("a", 2), ("a", 3), ("a", 1)]))), [(1, 3)]);
}

#[test]
fn an_event_that_is_emitted_again_counts_from_its_first_attempt() {
    let mut history = History::new();
    history.began("a", ("a", 1));
    history.refused(&("a", 1));
    history.began("a", ("a", 2));
    history.accepted(&("a", 2));
    history.began("a", ("a", 1));
    history.accepted(&("a", 1));
    assert!(history.verify(seen(&[("a", 1), ("a", 2)])).is_kept());
    assert_eq!(history.verify(seen(&[("a", 2)])).lost.len(), 1);
}

#[test]
fn the_second_event_of_a_key_seen_before_the_first_is_inverted() {
    let verdict = accepted(&[("a", 1), ("b", 1), ("a", 2)]).verify(seen(&[("a", 2), ("b", 1), ("a", 1)]));
    assert_eq!(pairs(&verdict), [(1, 2)]);
    assert!(!verdict.is_kept());
}

#[test]
fn order_is_judged_by_first_occurrences() {
    let history = accepted(&[("a", 1), ("a", 2), ("a", 3)]);
    let again = history.verify(seen(&[("a", 1), ("a", 2), ("a", 1), ("a", 2), ("a", 3)]));
    assert!(again.is_kept() && again.duplicates == 2, "{again}");
    let late = history.verify(seen(&[("a", 1), ("a", 3), ("a", 2), ("a", 3)]));
    assert_eq!(pairs(&late), [(2, 3)]);
}

#[test]
fn one_late_event_is_inverted_with_those_that_overtook_it_only() {
    let history = accepted(&[("a", 1), ("a", 2), ("a", 3), ("a", 4)]);
    let verdict = history.verify(seen(&[("a", 2), ("a", 3), ("a", 1), ("a", 4)]));
    assert_eq!(pairs(&verdict), [(1, 2), (1, 3)]);
}

#[test]
fn a_key_in_two_partitions_is_scattered() {
    let history = accepted(&[("a", 1), ("a", 2)]);
    let verdict = history.verify([Seen::new(0, 0, "a", ("a", 1)), Seen::new(1, 1, "a", ("a", 2))]);
    assert_eq!(verdict.scattered, ["a"]);
    assert!(!verdict.is_kept());
}

#[test]
#[should_panic(expected = "1 lost")]
fn a_broken_promise_panics() {
    accepted(&[("a", 1)]).verify([]).assert_kept();
}
