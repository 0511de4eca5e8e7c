use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use proptest::prelude::*;
use rangemap::RangeSet;

use super::super::cursor::Look;
use super::*;
use crate::wire::Headers;

fn row(sequence: i64, key: &str) -> StoredRow {
    let key = Bytes::copy_from_slice(key.as_bytes());
    let record = Record { topic: "t".into(), key: key.clone(), headers: Headers::default(), payload: None };
    StoredRow { lane: 0, sequence, key, record: Ok(record), bytes: 10 }
}

fn outage() -> Error {
    Error::new(ErrorKind::Timeout, "told to fail")
}

fn refusal() -> Error {
    Error::new(ErrorKind::RecordRejected, "told to refuse")
}

/// A lane without anything.
fn empty() -> Lane {
    Lane::new(1, 1, Cursor::new(RangeSet::new()), Vec::new(), Instant::now())
}

/// What is written down of a lane, and what is left of it when its relay is gone.
#[derive(Debug, Default)]
struct Written {
    settled: RangeSet<i64>,
    held: BTreeSet<(Bytes, i64)>,
    parked: BTreeMap<Bytes, Parked>,
}

impl Written {
    fn save(&mut self, lane: &mut Lane) {
        let progress = lane.take_progress(0, 1);
        self.settled.extend(progress.settled);
        self.held.extend(progress.held);
        for row in progress.unheld {
            assert!(self.held.remove(&row), "{row:?} was held");
        }
        for parked in progress.parked {
            self.parked.insert(parked.key.clone(), parked);
        }
        for key in progress.freed {
            assert!(self.parked.remove(&key).is_some(), "{key:?} was parked");
        }
    }

    fn held_rows(&self, key: &Bytes, limit: usize) -> Vec<StoredRow> {
        let of_key = self.held.iter().filter(|(held, _)| held == key).take(limit);
        of_key.map(|(key, number)| row(*number, std::str::from_utf8(key).unwrap())).collect()
    }

    fn lane(&self) -> Lane {
        let parked = self.parked.values().cloned().collect();
        Lane::new(1, 1, Cursor::new(self.settled.clone()), parked, Instant::now())
    }
}

/// A lane with these keys' rows added, all in flight.
fn lane(keys: &[&str]) -> Lane {
    let mut lane = empty();
    for (number, key) in (1..).zip(keys) {
        assert!(lane.add(row(number, key)));
    }
    lane
}

#[tokio::test(start_paused = true)]
async fn a_failed_row_holds_its_key_and_no_other() {
    let mut lane = lane(&["a", "b"]);
    assert_eq!(lane.record(1).unwrap().unwrap().key, "a");
    assert!(lane.record(3).is_none());
    lane.failed(1, &outage(), Instant::now(), Utc::now());
    assert!(!lane.add(row(3, "a")), "behind the failed row");
    assert!(lane.add(row(4, "b")));
}

#[tokio::test(start_paused = true)]
async fn the_first_row_is_tried_alone_and_the_held_ones_follow_it() {
    let mut lane = lane(&["a"]);
    let now = Instant::now();
    lane.failed(1, &outage(), now, Utc::now());
    lane.add(row(2, "a"));
    lane.add(row(3, "a"));
    assert_eq!(lane.due(now), [0i64; 0], "it waits first");
    let later = now + FIRST_BACKOFF;
    assert_eq!(lane.due(later), [1]);
    assert_eq!(lane.due(later), [0i64; 0], "it is in flight");
    assert_eq!(lane.delivered(1, Instant::now()), [2, 3]);
    assert!(lane.add(row(4, "a")), "the key is free again");
}

#[tokio::test(start_paused = true)]
async fn rows_in_flight_behind_a_failed_one_are_waited_for() {
    let mut lane = lane(&["a", "a", "a"]);
    let now = Instant::now();
    lane.failed(1, &outage(), now, Utc::now());
    let later = now + MAX_BACKOFF;
    assert_eq!(lane.due(later), [0i64; 0]);
    assert_eq!(lane.delivered(2, Instant::now()), [0i64; 0], "that 2 landed does not free 1");
    assert_eq!(lane.due(later), [0i64; 0]);
    lane.failed(3, &outage(), later, Utc::now());
    let later = later + MAX_BACKOFF;
    assert_eq!(lane.due(later), [1]);
    assert_eq!(lane.delivered(1, Instant::now()), [3]);
    assert_eq!(lane.delivered(3, Instant::now()), [0i64; 0]);
    assert_eq!((lane.cursor.floor(), lane.len()), (4, 0));
}

#[tokio::test(start_paused = true)]
async fn each_failure_of_the_first_row_makes_the_key_wait_longer() {
    let mut lane = lane(&["a"]);
    let mut now = Instant::now();
    lane.failed(1, &outage(), now, Utc::now());
    for wait in [100, 200, 400, 800] {
        assert_eq!(lane.next_due(now), Some(now + Duration::from_millis(wait)));
        now += Duration::from_millis(wait);
        assert_eq!(lane.due(now), [1]);
        lane.failed(1, &outage(), now, Utc::now());
    }
    assert_eq!(backoff(1000), MAX_BACKOFF);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_a_row_that_is_not_there_changes_nothing() {
    let mut lane = lane(&["a", "a"]);
    lane.delivered(2, Instant::now());
    assert!(lane.has_unsaved());
    lane.take_progress(0, 1);
    assert_eq!(lane.delivered(7, Instant::now()), [0i64; 0]);
    assert_eq!(lane.failed(7, &outage(), Instant::now(), Utc::now()), 0);
    assert_eq!((lane.len(), lane.next_due(Instant::now()), lane.has_unsaved()), (1, None, false));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_refused_parks_its_key_and_leaves_the_memory() {
    let mut lane = lane(&["a", "b", "a"]);
    let now = Instant::now();
    assert_eq!(lane.failed(1, &refusal(), now, Utc::now()), 1);
    assert!(!lane.has_parked(), "3 is in flight still");
    lane.delivered(3, now);
    assert!(lane.has_parked());
    assert!(!lane.add(row(4, "a")), "behind the parked one");
    assert_eq!((lane.len(), lane.floor(), lane.cursor.floor()), (1, 1, 2));
    let progress = lane.take_progress(7, 1);
    assert_eq!(progress.held, [("a".into(), 1), ("a".into(), 4)]);
    assert_eq!((progress.parked[0].head, progress.parked[0].attempts), (1, 1));
    assert_eq!(progress.parked[0].error, "told to refuse");
    lane.delivered(2, now);
    assert_eq!(lane.floor(), 1, "1 is not delivered");
}

#[tokio::test(start_paused = true)]
async fn the_first_held_row_is_tried_alone_then_the_others_and_then_the_key_is_free() {
    let mut lane = lane(&["a"]);
    let mut written = Written::default();
    let now = Instant::now();
    lane.failed(1, &refusal(), now, Utc::now());
    for number in 2..5 {
        lane.add(row(number, "a"));
    }
    written.save(&mut lane);
    assert_eq!(lane.trial(now), None, "it waits first");
    let later = now + FIRST_PARKED_BACKOFF;
    let trial = lane.trial(later).unwrap();
    assert_eq!((trial.limit, trial.parked.head), (1, 1));
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, later), [1]);
    lane.delivered(1, later);
    written.save(&mut lane);
    let trial = lane.trial(later).unwrap();
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, later), [2, 3, 4]);
    assert!(!lane.add(row(5, "a")), "behind the held ones");
    for number in 2..5 {
        lane.delivered(number, later);
    }
    written.save(&mut lane);
    let trial = lane.trial(later).unwrap();
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, later), [5]);
    lane.delivered(5, later);
    assert!(lane.add(row(6, "a")), "the key is free again");
    written.save(&mut lane);
    assert!(written.held.is_empty() && written.parked.is_empty());
    assert_eq!(lane.floor(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_refused_again_and_again_waits_longer_and_counts_its_attempts() {
    let mut lane = lane(&["a"]);
    let mut written = Written::default();
    let (mut now, first) = (Instant::now(), Utc::now());
    lane.failed(1, &refusal(), now, first);
    for attempts in 1..20 {
        written.save(&mut lane);
        let parked = &written.parked[&Bytes::from("a")];
        assert_eq!((parked.attempts, parked.first_failure_at), (attempts, first));
        assert!(parked.retry_in <= MAX_PARKED_BACKOFF && parked.retry_in >= FIRST_PARKED_BACKOFF / 2);
        now += parked.retry_in;
        let trial = lane.trial(now).unwrap();
        assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, 1), 1, now), [1]);
        lane.failed(1, &refusal(), now, Utc::now());
    }
}

/// A lane that has seen row 2 of a key, and not yet row 1, which was drawn before it.
fn lane_with_a_gap() -> Lane {
    let mut lane = empty();
    let hole = lane.cursor.holes(0).next().unwrap();
    assert_eq!(lane.cursor.look(&Look { hole, numbers: &[2], cut: false, horizon: 0, ended: 0 }), Some(1));
    assert!(lane.add(row(2, "a")));
    lane
}

/// Row 1 commits late.
fn fill_gap(lane: &mut Lane) {
    let hole = lane.cursor.holes(0).next().unwrap();
    assert_eq!(lane.cursor.look(&Look { hole, numbers: &[1], cut: false, horizon: 0, ended: 0 }), Some(1));
    assert!(!lane.add(row(1, "a")));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_commits_late_becomes_the_head_of_its_parked_key() {
    let (mut lane, now, mut written) = (lane_with_a_gap(), Instant::now(), Written::default());
    lane.failed(2, &refusal(), now, Utc::now());
    lane.command(&"a".into(), 2, Command::Skip, now);
    fill_gap(&mut lane);
    assert_eq!((lane.cursor.floor(), lane.floor()), (3, 1), "1 is held, and not delivered");
    written.save(&mut lane);
    let trial = lane.trial(now).unwrap();
    assert_eq!((trial.parked.head, trial.parked.attempts, trial.parked.command), (1, 0, None));
    assert_eq!(written.parked[&trial.key], trial.parked);
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, now), [1, 2]);
    lane.delivered(1, now);
    assert_eq!(lane.failed(2, &refusal(), now, Utc::now()), 1);
    assert_eq!(lane.floor(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_commits_while_the_head_of_its_parked_key_is_tried_becomes_the_head() {
    let (mut lane, now) = (lane_with_a_gap(), Instant::now());
    lane.failed(2, &refusal(), now, Utc::now());
    lane.take_progress(0, 1);
    let later = now + FIRST_PARKED_BACKOFF;
    let trial = lane.trial(later).unwrap();
    fill_gap(&mut lane);
    assert_eq!(lane.retry(&trial.key, vec![row(2, "a")], trial.limit, later), [2]);
    lane.failed(2, &refusal(), later, Utc::now());
    let Progress { parked, held, .. } = lane.take_progress(0, 1);
    assert_eq!((parked[0].head, parked[0].attempts, held), (1, 0, vec![("a".into(), 1)]));
    assert_eq!(lane.floor(), 1);
}

#[test]
fn keys_that_are_parked_together_are_tried_at_times_from_half_to_the_whole_of_the_pause() {
    for (attempts, whole) in [(0, 1), (1, 1), (2, 2), (5, 16), (100, 300)] {
        let pauses: Vec<_> = (0..100).map(|key| parked_backoff(format!("k{key}").as_bytes(), attempts)).collect();
        let (shortest, longest) = (pauses.iter().min().unwrap(), pauses.iter().max().unwrap());
        let whole = Duration::from_secs(whole);
        assert!(
            (whole / 2..whole * 6 / 10).contains(shortest) && (whole * 9 / 10..whole).contains(longest),
            "{pauses:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_held_rows_could_not_be_read_is_tried_later() {
    let (mut lane, now) = (lane(&["a"]), Instant::now());
    lane.failed(1, &refusal(), now, Utc::now());
    let later = now + FIRST_PARKED_BACKOFF;
    let trial = lane.trial(later).unwrap();
    assert_eq!(lane.trial(later), None, "its rows are being read");
    let again = later + FIRST_BACKOFF;
    lane.postpone(&trial.key, again);
    assert_eq!((lane.trial(later), lane.trial(again)), (None, Some(trial)));
}

#[tokio::test(start_paused = true)]
async fn what_could_not_be_written_down_is_written_down_later() {
    let now = Instant::now();
    let mut lane = Lane::new(3, 1, Cursor::new(RangeSet::new()), Vec::new(), now);
    assert!(lane.add(row(1, "a")) && lane.add(row(2, "b")));
    lane.failed(1, &refusal(), now, Utc::now());
    lane.delivered(2, now);
    let progress = lane.take_progress(7, 9);
    assert_eq!((progress.lane, progress.epoch, progress.life), (7, 3, 9));
    assert!(!lane.has_unsaved());
    lane.put_back(progress);
    assert!(lane.has_unsaved());
    let Progress { settled, held, parked, .. } = lane.take_progress(7, 9);
    assert_eq!((settled, held, parked.len()), (RangeSet::from_iter([1..3]), vec![("a".into(), 1)], 1));
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_no_attempt_of_a_parked_key() {
    let mut lane = lane(&["a"]);
    let mut written = Written::default();
    let now = Instant::now();
    lane.failed(1, &refusal(), now, Utc::now());
    written.save(&mut lane);
    let later = now + FIRST_PARKED_BACKOFF;
    let trial = lane.trial(later).unwrap();
    lane.retry(&trial.key, written.held_rows(&trial.key, 1), 1, later);
    lane.failed(1, &outage(), later, Utc::now());
    assert_eq!(lane.due(later + FIRST_BACKOFF), [1], "it is tried again from memory");
    written.save(&mut lane);
    assert_eq!(written.parked[&Bytes::from("a")].attempts, 1);
    assert_eq!(lane.failed(1, &refusal(), later + FIRST_BACKOFF, Utc::now()), 2, "the outage did not count");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_left_out_frees_those_behind_it() {
    let mut lane = lane(&["a", "a"]);
    let mut written = Written::default();
    let now = Instant::now();
    lane.failed(1, &refusal(), now, Utc::now());
    lane.failed(2, &refusal(), now, Utc::now());
    written.save(&mut lane);
    lane.command(&"a".into(), 9, Command::Skip, now);
    assert_eq!(lane.trial(now), None, "the command is for another row");
    lane.command(&"a".into(), 1, Command::Skip, now);
    let trial = lane.trial(now).unwrap();
    assert_eq!(trial.parked.command, Some(Command::Skip));
    assert!(!lane.has_unsaved());
    lane.skip(&trial.key, 1, now);
    assert!(lane.has_unsaved());
    written.save(&mut lane);
    let trial = lane.trial(now).unwrap();
    assert_eq!(trial.parked.command, None);
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, now), [2]);
}

/// Takes the numbers that were handed over as far as none is missing before them.
fn take_handed(lane: &mut Lane) -> Vec<i64> {
    std::iter::from_fn(|| lane.next_handed()).map(|row| row.sequence).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_handed_over_come_in_order_and_wait_for_one_that_is_missing() {
    let mut lane = empty();
    assert!(!lane.has_early());
    assert!(lane.hand(row(3, "a")) && lane.hand(row(2, "a")) && lane.hand(row(2, "a")));
    assert!(lane.has_early());
    assert_eq!((take_handed(&mut lane), lane.len(), lane.bytes()), (Vec::new(), 2, 20));
    assert!(lane.hand(row(1, "a")));
    assert_eq!((lane.len(), lane.bytes()), (3, 30));
    assert_eq!(take_handed(&mut lane), [1, 2, 3]);
    assert_eq!((lane.has_early(), lane.len(), lane.bytes()), (false, 0, 0));
    assert!(lane.hand(row(3, "a")), "it is known");
    assert_eq!((lane.has_early(), lane.bytes()), (false, 0));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_was_handed_over_early_is_forgotten_once_a_page_has_shown_it() {
    let mut lane = empty();
    assert!(lane.hand(row(2, "a")) && lane.hand(row(4, "a")));
    let hole = lane.cursor.holes(0).next().unwrap();
    let look = Look { hole, numbers: &[1, 2], cut: false, horizon: 0, ended: 0 };
    assert_eq!(lane.cursor.look(&look), Some(1));
    assert_eq!((take_handed(&mut lane), lane.len(), lane.bytes()), (Vec::new(), 1, 10));
    assert!(lane.cursor.take(3));
    assert_eq!((take_handed(&mut lane), lane.bytes()), (vec![4], 0));
}

#[tokio::test(start_paused = true)]
async fn early_rows_wait_for_pages_while_a_gap_or_too_many_are_before_them() {
    let mut lane = empty();
    let most = i64::try_from(MAX_EARLY).unwrap();
    assert!((2..most + 2).all(|number| lane.hand(row(number, "a"))));
    assert!(!lane.hand(row(most + 2, "a")), "as many wait as may");
    assert!(lane.hand(row(most + 1, "a")), "it waits already");
    assert!(lane.hand(row(1, "a")), "the one that they wait for");
    let mut lane = empty();
    lane.cursor.expect(1);
    assert!(!lane.hand(row(2, "a")), "a page has not shown 1");
    assert!(!lane.has_early() && lane.bytes() == 0);
    assert!(lane.hand(row(1, "a")));
    assert_eq!(take_handed(&mut lane), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_number_is_missing_since_it_was_first_missed() {
    let (mut lane, now, later) = (empty(), Instant::now(), Instant::now() + Duration::from_secs(1));
    assert_eq!(lane.misses(5, now), Duration::ZERO);
    assert_eq!(lane.misses(5, later), Duration::from_secs(1));
    assert_eq!(lane.misses(6, later), Duration::ZERO, "another one");
    assert_eq!(lane.misses(5, later), Duration::ZERO, "it was not missed meanwhile");
}

#[tokio::test(start_paused = true)]
async fn a_queued_row_is_submitted_unless_one_of_its_key_before_it_waits() {
    let (mut lane, now) = (lane(&["a", "a", "b", "a"]), Instant::now());
    assert!(lane.may_submit(1, now) && lane.may_submit(2, now));
    lane.failed(2, &outage(), now, Utc::now());
    assert!(!lane.may_submit(9, now), "it is not there");
    assert!(lane.may_submit(1, now), "it is before the one that waits");
    assert!(lane.may_submit(3, now), "it is of another key");
    assert!(!lane.may_submit(4, now), "it is behind it");
    assert_eq!(lane.delivered(1, now), [2, 4], "what was before them has landed");
    assert!(lane.may_submit(4, now), "nothing waits any more");
}

#[tokio::test(start_paused = true)]
async fn a_queued_row_that_may_not_be_submitted_is_not_waited_for_before_its_key_is_parked() {
    let (mut lane, now) = (lane(&["a", "a"]), Instant::now());
    lane.failed(1, &refusal(), now, Utc::now());
    assert!(!lane.has_parked(), "2 is in flight still");
    assert!(!lane.may_submit(2, now));
    assert_eq!((lane.parked_count(), lane.len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn nothing_more_is_submitted_of_a_lane_that_goes_to_another_relay() {
    let (mut lane, now) = (lane(&["a"]), Instant::now());
    lane.leaving = true;
    assert!(!lane.may_submit(1, now));
    assert_eq!((lane.len(), lane.bytes(), lane.floor()), (0, 0, 1), "whoever has it next reads it");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_free_only_when_nothing_of_it_is_in_flight_or_waits_before() {
    let (mut lane, now) = (lane(&["a", "b", "a", "b", "a"]), Instant::now());
    lane.failed(3, &outage(), now, Utc::now());
    assert_eq!(lane.delivered(1, now), [0_i64; 0], "5 is in flight");
    assert_eq!(lane.delivered(5, now), [0_i64; 0], "3 waits before it");
    lane.add(row(6, "a"));
    assert_eq!(lane.due(now + MAX_BACKOFF), [3]);
    assert_eq!(lane.delivered(3, now), [6], "and none of another key");
    assert_eq!((lane.floor(), lane.delivered(2, now), lane.floor()), (2, Vec::new(), 4));
}

#[tokio::test(start_paused = true)]
async fn rows_that_are_held_back_follow_the_one_before_them_once_it_is_delivered() {
    let (mut lane, now) = (lane(&["a", "a", "b", "a"]), Instant::now());
    lane.hold_back(2, now);
    assert!(lane.may_submit(3, now) && !lane.may_submit(4, now), "those of its key wait behind it");
    assert!(!lane.add(row(5, "a")));
    assert_eq!((lane.due(now + MAX_BACKOFF), lane.next_due(now)), (Vec::new(), None), "1 is in flight");
    assert_eq!(lane.delivered(1, now), [2, 4, 5]);
    assert!(lane.add(row(6, "a")), "the key is free again");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_held_back_is_tried_alone_if_those_behind_it_were_queued_when_the_first_one_arrived() {
    let (mut lane, now) = (lane(&["a", "a", "a"]), Instant::now());
    lane.hold_back(2, now);
    assert_eq!(lane.delivered(1, now), [0_i64; 0], "3 is queued still");
    assert!(!lane.may_submit(3, now));
    assert_eq!((lane.next_due(now), lane.due(now)), (Some(now), vec![2]));
    lane.hold_back(2, now);
    assert_eq!(
        (lane.due(now), lane.next_due(now)),
        (Vec::new(), Some(now + FIRST_BACKOFF)),
        "it does not try for ever"
    );
    assert_eq!(lane.due(now + FIRST_BACKOFF), [2]);
    assert_eq!(lane.delivered(2, now), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_key_whose_rows_are_held_back_waits_as_any_other_when_its_first_row_fails() {
    let (mut lane, now) = (lane(&["a", "a"]), Instant::now());
    lane.hold_back(2, now);
    assert_eq!(lane.failed(1, &outage(), now, Utc::now()), 1);
    assert_eq!((lane.due(now), lane.next_due(now)), (Vec::new(), Some(now + FIRST_BACKOFF)));
    assert_eq!(lane.due(now + FIRST_BACKOFF), [1]);
    assert_eq!(lane.failed(1, &outage(), now + FIRST_BACKOFF, Utc::now()), 2);
}

#[tokio::test(start_paused = true)]
async fn of_rows_that_were_in_flight_together_only_the_first_failure_is_one_of_the_key() {
    let now = Instant::now();
    let mut together = lane(&["a", "a", "a"]);
    assert_eq!([1, 2, 3].map(|number| together.failed(number, &outage(), now, Utc::now())), [1, 1, 1]);
    let mut held_back = lane(&["a", "a", "a"]);
    held_back.hold_back(3, now);
    assert_eq!([1, 2].map(|number| held_back.failed(number, &outage(), now, Utc::now())), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn of_rows_that_are_refused_together_the_first_says_why_the_key_is_parked() {
    for order in [[1, 2], [2, 1]] {
        let (mut lane, now) = (lane(&["a", "a"]), Instant::now());
        for number in order {
            let error = Error::new(ErrorKind::RecordRejected, format!("row {number} is refused"));
            lane.failed(number, &error, now, Utc::now());
        }
        let progress = lane.take_progress(0, 1);
        let Parked { head, attempts, error, .. } = &progress.parked[0];
        assert_eq!((*head, *attempts, error.as_str()), (1, 1, "row 1 is refused"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_was_not_refused_itself_has_not_failed_yet() {
    let (mut lane, now, mut written) = (lane(&["a", "a"]), Instant::now(), Written::default());
    lane.failed(2, &refusal(), now, DateTime::UNIX_EPOCH);
    lane.failed(1, &outage(), now, DateTime::UNIX_EPOCH);
    written.save(&mut lane);
    assert_eq!((written.parked[&Bytes::from("a")].head, written.parked[&Bytes::from("a")].attempts), (1, 0));
    let (later, failed_at) = (now + FIRST_PARKED_BACKOFF, Utc::now());
    let trial = lane.trial(later).unwrap();
    assert_eq!(lane.retry(&trial.key, written.held_rows(&trial.key, trial.limit), trial.limit, later), [1, 2]);
    lane.delivered(2, later);
    lane.failed(1, &refusal(), later, failed_at);
    written.save(&mut lane);
    let parked = &written.parked[&Bytes::from("a")];
    assert_eq!((parked.head, parked.attempts, parked.first_failure_at), (1, 1, failed_at));
}

#[tokio::test(start_paused = true)]
async fn a_lane_of_which_too_many_keys_are_parked_waits_for_the_next_one() {
    let (mut lane, now) = (empty(), Instant::now());
    let refuse = |lane: &mut Lane, number: i64, now| lane.failed(number, &refusal(), now, Utc::now());
    for number in 1..=1_001 {
        assert!(lane.add(row(number, &number.to_string())));
        refuse(&mut lane, number, now);
    }
    assert_eq!((lane.parked_count(), lane.len()), (1_000, 1), "the last one waits in memory");
    let later = now + FIRST_PARKED_BACKOFF;
    assert_eq!(lane.due(later), [1_001]);
    let retry = |lane: &mut Lane| {
        let trial = lane.trial(later).unwrap();
        let number = trial.parked.head;
        assert_eq!(lane.retry(&trial.key, vec![row(number, &number.to_string())], trial.limit, later), [number]);
        number
    };
    let number = retry(&mut lane);
    assert_eq!(refuse(&mut lane, number, later), 2, "one that is parked already may be parked again");
    assert_eq!((lane.parked_count(), lane.len()), (1_000, 1));
    let number = retry(&mut lane);
    lane.delivered(number, later);
    let trial = lane.trial(later).unwrap();
    lane.retry(&trial.key, Vec::new(), trial.limit, later);
    assert_eq!(lane.parked_count(), 999, "one is free again");
    refuse(&mut lane, 1_001, later);
    assert_eq!((lane.parked_count(), lane.len()), (1_000, 0));
}

proptest! {
    /// A broker that takes what is submitted in order, but fails or refuses any attempt it likes, and lets a failed row's
    /// successors land if they were in flight with it; and relays that die. Everything arrives; and what was never in flight
    /// together with a failed row of its key arrives in order.
    #[test]
    fn everything_arrives_and_no_row_is_submitted_past_a_failed_one(
        keys in proptest::collection::vec(0u8..4, 1..60), verdicts in proptest::collection::vec(0u8..12, 0..120), window in 1usize..8,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let _guard = runtime.enter();
        let all: BTreeMap<_, _> = (1i64..).zip(keys.iter().map(|key| format!("k{key}"))).collect();
        let (mut lane, mut written) = (empty(), Written::default());
        let mut now = Instant::now();
        let mut verdicts = verdicts.into_iter();
        let mut unread: VecDeque<_> = all.keys().copied().collect();
        let mut in_flight: VecDeque<i64> = VecDeque::new();
        let mut failed: HashSet<i64> = HashSet::new();
        let mut arrived: Vec<i64> = Vec::new();
        for _ in 0..100_000 {
            while in_flight.len() < window && let Some(number) = unread.pop_front() {
                if lane.add(row(number, &all[&number])) {
                    in_flight.push_back(number);
                }
            }
            in_flight.extend(lane.due(now));
            if lane.next_trial(now).is_some_and(|due| due <= now) {
                written.save(&mut lane);
                let Trial { key, limit, .. } = lane.trial(now).unwrap();
                in_flight.extend(lane.retry(&key, written.held_rows(&key, limit), limit, now));
            }
            let Some(number) = in_flight.pop_front() else {
                match lane.next_due(now) {
                    Some(due) => { now = now.max(due); continue }
                    None => break,
                }
            };
            if !lane.may_submit(number, now) {
                continue;
            }
            match verdicts.next() {
                Some(0..3) => {
                    failed.insert(number);
                    lane.failed(number, &outage(), now, Utc::now());
                }
                Some(3..6) => {
                    failed.insert(number);
                    lane.failed(number, &refusal(), now, Utc::now());
                }
                Some(6) => {
                    // The relay dies. What it has not written down is done again.
                    written.save(&mut lane);
                    lane = written.lane();
                    in_flight.clear();
                    failed.clear();
                    unread = all.keys().copied().filter(|number| !written.settled.contains(number)).collect();
                }
                _ => {
                    failed.remove(&number);
                    arrived.push(number);
                    for released in lane.delivered(number, now) {
                        let blocked = failed.iter().any(|other| *other < released && all[other] == all[&released]);
                        prop_assert!(!blocked, "{released} was submitted past a failed row of its key");
                        failed.remove(&released);
                        in_flight.push_back(released);
                    }
                }
            }
        }
        prop_assert_eq!(lane.len(), 0);
        written.save(&mut lane);
        prop_assert!(written.held.is_empty() && written.parked.is_empty(), "{written:?}");
        let arrived: BTreeSet<_> = arrived.into_iter().collect();
        prop_assert_eq!(arrived.into_iter().collect::<Vec<_>>(), all.keys().copied().collect::<Vec<_>>());
        prop_assert_eq!(lane.floor(), i64::try_from(all.len()).unwrap() + 1);
    }
}
