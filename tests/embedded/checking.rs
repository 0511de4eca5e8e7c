//! The checker of the promises can fail.

use crate::support::checker::{Numbered, Seen, check};

fn event(key: &str, number: u64) -> Numbered {
    Numbered { key: key.into(), number, id: format!("{key}-{number}") }
}

/// The events of a topic with one partition.
fn seen(events: &[Numbered]) -> Vec<Seen> {
    (0..).zip(events).map(|(offset, event)| Seen { partition: 0, offset, event: event.clone() }).collect()
}

#[test]
fn every_event_once_and_in_the_order_of_its_key_keeps_the_promises() {
    let accepted = [event("a", 1), event("b", 1), event("a", 2), event("b", 2)];
    let topic = [event("b", 1), event("a", 1), event("a", 2), event("b", 2)];
    let verdict = check(&accepted, &[], &seen(&topic));
    assert!(verdict.is_kept() && verdict.duplicates == 0, "{verdict}");
}

#[test]
fn an_accepted_event_that_is_not_there_is_lost() {
    let verdict = check(&[event("a", 1), event("a", 2), event("a", 3)], &[], &seen(&[event("a", 1), event("a", 3)]));
    assert_eq!(verdict.lost, [event("a", 2)]);
    assert!(!verdict.is_kept());
}

#[test]
fn an_event_that_nobody_emitted_is_invented() {
    let verdict = check(&[event("a", 1)], &[], &seen(&[event("a", 1), event("a", 2)]));
    assert_eq!(verdict.invented.len(), 1);
    assert!(!verdict.is_kept());
}

#[test]
fn an_accepted_id_with_another_content_is_invented() {
    let other = Numbered { number: 2, ..event("a", 1) };
    let verdict = check(&[event("a", 1)], &[], &seen(&[event("a", 1), other]));
    assert_eq!(verdict.invented.len(), 1);
    assert!(!verdict.is_kept());
}

#[test]
fn a_duplicate_under_another_id_is_invented() {
    let other = Numbered { id: "other".into(), ..event("a", 1) };
    let verdict = check(&[event("a", 1)], &[], &seen(&[event("a", 1), other]));
    assert_eq!((verdict.invented.len(), verdict.duplicates), (1, 0));
}

#[test]
fn an_event_whose_emit_failed_may_be_there_or_not_and_has_no_place_in_the_order() {
    let (accepted, doubtful) = ([event("a", 1), event("a", 3)], [event("a", 2)]);
    assert!(check(&accepted, &doubtful, &seen(&[event("a", 1), event("a", 3)])).is_kept());
    assert!(check(&accepted, &doubtful, &seen(&[event("a", 1), event("a", 3), event("a", 2)])).is_kept());
}

#[test]
fn the_second_event_of_a_key_seen_before_the_first_is_inverted() {
    let accepted = [event("a", 1), event("b", 1), event("a", 2)];
    let verdict = check(&accepted, &[], &seen(&[event("a", 2), event("b", 1), event("a", 1)]));
    assert_eq!(verdict.inverted, [(event("a", 1), event("a", 2))]);
    assert!(!verdict.is_kept());
}

#[test]
fn order_is_judged_by_first_occurrences() {
    let accepted = [event("a", 1), event("a", 2), event("a", 3)];
    let again = [event("a", 1), event("a", 2), event("a", 1), event("a", 2), event("a", 3)];
    let verdict = check(&accepted, &[], &seen(&again));
    assert!(verdict.is_kept() && verdict.duplicates == 2, "{verdict}");
    let late = [event("a", 1), event("a", 3), event("a", 2), event("a", 3)];
    assert_eq!(check(&accepted, &[], &seen(&late)).inverted.len(), 1);
}

#[test]
fn one_late_event_is_inverted_with_the_ones_before_it_only() {
    let accepted = [event("a", 1), event("a", 2), event("a", 3), event("a", 4)];
    let verdict = check(&accepted, &[], &seen(&[event("a", 2), event("a", 3), event("a", 1), event("a", 4)]));
    assert_eq!(verdict.inverted, [(event("a", 1), event("a", 2)), (event("a", 1), event("a", 3))]);
}

#[test]
fn a_key_in_two_partitions_is_scattered() {
    let topic = [
        Seen { partition: 0, offset: 0, event: event("a", 1) },
        Seen { partition: 1, offset: 1, event: event("a", 2) },
    ];
    let verdict = check(&[event("a", 1), event("a", 2)], &[], &topic);
    assert_eq!(verdict.scattered, ["a"]);
    assert!(!verdict.is_kept());
}
