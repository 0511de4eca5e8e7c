use std::collections::{HashMap, HashSet, VecDeque};

use proptest::prelude::*;
use rangemap::RangeSet;

use super::*;
use crate::wire::Headers;

fn row(sequence: i64, key: &str) -> StoredRow {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let record = Record { topic: "t".into(), key: key.clone(), headers: Headers::default(), payload: None };
    StoredRow { lane: 0, sequence, key, record: Ok(record) }
}

/// A lane with these keys' rows added, all in flight.
fn lane(keys: &[&str]) -> Lane {
    let mut lane = Lane::new(1, Cursor::new(RangeSet::new()));
    for (number, key) in (1..).zip(keys) {
        assert!(lane.add(row(number, key)));
    }
    lane
}

#[tokio::test(start_paused = true)]
async fn a_failed_row_holds_its_key_and_no_other() {
    let mut lane = lane(&["a", "b"]);
    lane.failed(1, Instant::now());
    assert!(!lane.add(row(3, "a")), "behind the failed row");
    assert!(lane.add(row(4, "b")));
}

#[tokio::test(start_paused = true)]
async fn the_first_row_is_tried_alone_and_the_held_ones_follow_it() {
    let mut lane = lane(&["a"]);
    let now = Instant::now();
    lane.failed(1, now);
    lane.add(row(2, "a"));
    lane.add(row(3, "a"));
    assert_eq!(lane.due(now), [0i64; 0], "it waits first");
    let later = now + FIRST_BACKOFF;
    assert_eq!(lane.due(later), [1]);
    assert_eq!(lane.due(later), [0i64; 0], "it is in flight");
    assert_eq!(lane.delivered(1), [2, 3]);
    assert!(lane.add(row(4, "a")), "the key is free again");
}

#[tokio::test(start_paused = true)]
async fn rows_in_flight_behind_a_failed_one_are_waited_for() {
    let mut lane = lane(&["a", "a", "a"]);
    let now = Instant::now();
    lane.failed(1, now);
    let later = now + MAX_BACKOFF;
    assert_eq!(lane.due(later), [0i64; 0]);
    assert_eq!(lane.delivered(2), [0i64; 0], "that 2 landed does not free 1");
    assert_eq!(lane.due(later), [0i64; 0]);
    lane.failed(3, later);
    let later = later + MAX_BACKOFF;
    assert_eq!(lane.due(later), [1]);
    assert_eq!(lane.delivered(1), [3]);
    assert_eq!(lane.delivered(3), [0i64; 0]);
    assert_eq!((lane.cursor.floor(), lane.len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn each_failure_of_the_first_row_makes_the_key_wait_longer() {
    let mut lane = lane(&["a"]);
    let mut now = Instant::now();
    lane.failed(1, now);
    for wait in [100, 200, 400, 800] {
        assert_eq!(lane.next_due(), Some(now + Duration::from_millis(wait)));
        now += Duration::from_millis(wait);
        assert_eq!(lane.due(now), [1]);
        lane.failed(1, now);
    }
    assert_eq!(backoff(1000), MAX_BACKOFF);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_row_that_is_not_there_changes_nothing() {
    let mut lane = lane(&["a"]);
    assert_eq!(lane.delivered(7), [0i64; 0]);
    assert_eq!(lane.failed(7, Instant::now()), 0);
    assert_eq!((lane.len(), lane.next_due()), (1, None));
}

proptest! {
    /// A broker that takes what is submitted in order, but fails any attempt it likes, and lets a failed row's successors
    /// land if they were in flight with it. Everything arrives, once; and what was never in flight together with a failed
    /// row of its key arrives in order.
    #[test]
    fn everything_arrives_and_no_row_is_submitted_past_a_failed_one(
        keys in proptest::collection::vec(0u8..4, 1..60), verdicts in proptest::collection::vec(any::<bool>(), 0..80), window in 1usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let mut lane = Lane::new(1, Cursor::new(RangeSet::new()));
        let mut now = Instant::now();
        let mut verdicts = verdicts.into_iter();
        let mut unread: VecDeque<_> = (1i64..).zip(keys.iter().map(|key| format!("k{key}"))).collect();
        let key_of: HashMap<i64, String> = unread.iter().cloned().collect();
        let mut in_flight: VecDeque<i64> = VecDeque::new();
        let mut failed: HashSet<i64> = HashSet::new();
        let mut arrived: Vec<i64> = Vec::new();
        for _ in 0..100_000 {
            while in_flight.len() < window && let Some((number, key)) = unread.pop_front() {
                if lane.add(row(number, &key)) {
                    in_flight.push_back(number);
                }
            }
            in_flight.extend(lane.due(now));
            let Some(number) = in_flight.pop_front() else {
                match lane.next_due() {
                    Some(due) => { now = due; continue }
                    None => break,
                }
            };
            if verdicts.next().unwrap_or(true) {
                failed.remove(&number);
                arrived.push(number);
                for released in lane.delivered(number) {
                    let blocked = failed.iter().any(|other| *other < released && key_of[other] == key_of[&released]);
                    prop_assert!(!blocked, "{released} was submitted past a failed row of its key");
                    failed.remove(&released);
                    in_flight.push_back(released);
                }
            } else {
                failed.insert(number);
                lane.failed(number, now);
            }
        }
        prop_assert_eq!(lane.len(), 0);
        let mut sorted = arrived.clone();
        sorted.sort_unstable();
        prop_assert_eq!(sorted, (1..=i64::try_from(keys.len()).unwrap()).collect::<Vec<_>>());
        prop_assert_eq!(lane.cursor.floor(), i64::try_from(keys.len()).unwrap() + 1);
    }
}
