use proptest::prelude::*;

use super::*;

const OPEN_TIME: Duration = Duration::from_secs(60);

fn machine() -> Machine {
    Machine::new(BreakerConfig { failure_ratio: 0.5, min_requests: 10, open_time: OPEN_TIME })
}

fn fail(machine: &mut Machine, times: usize, now: Instant) {
    for _ in 0..times {
        machine.failed(machine.era(), now);
    }
}

fn opened(now: Instant) -> Machine {
    let mut machine = machine();
    fail(&mut machine, 5, now);
    assert_eq!(machine.state(), BreakerState::Open);
    machine
}

#[test]
fn five_failures_on_end_open_it() {
    let (now, mut machine) = (Instant::now(), machine());
    fail(&mut machine, 4, now);
    assert_eq!(machine.state(), BreakerState::Closed);
    fail(&mut machine, 1, now);
    assert_eq!(machine.state(), BreakerState::Open);
}

#[test]
fn half_of_ten_calls_failing_open_it_and_those_of_half_a_minute_ago_do_not_count() {
    let (start, mut machine) = (Instant::now(), machine());
    for _ in 0..4 {
        fail(&mut machine, 1, start);
        machine.succeeded(1, start);
    }
    let later = start + Duration::from_secs(31);
    for _ in 0..4 {
        fail(&mut machine, 1, later);
        machine.succeeded(1, later);
    }
    assert_eq!(machine.state(), BreakerState::Closed);
    machine.succeeded(1, later);
    fail(&mut machine, 1, later);
    assert_eq!(machine.state(), BreakerState::Open);
}

#[test]
fn what_it_remembers_does_not_grow_with_its_calls() {
    let (start, mut machine) = (Instant::now(), machine());
    for millis in (0..3_600_000).step_by(100) {
        machine.succeeded(1, start + Duration::from_millis(millis));
        assert!(machine.window.0.len() <= 10);
    }
}

#[test]
fn a_probe_that_succeeds_half_opens_it_and_the_next_closes_it() {
    let now = Instant::now();
    let mut machine = opened(now);
    machine.probed(false, now);
    assert_eq!(machine.state(), BreakerState::Open);
    machine.probed(true, now);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
    machine.probed(true, now);
    assert_eq!(machine.state(), BreakerState::Closed);
}

#[test]
fn without_probes_a_call_is_let_through_after_the_open_time_and_failed_probes_put_that_off() {
    let start = Instant::now();
    let mut machine = opened(start);
    assert_eq!(machine.try_out(start + OPEN_TIME / 2), None);
    machine.probed(false, start + OPEN_TIME / 2);
    assert_eq!(machine.try_out(start + OPEN_TIME), None);
    assert!(machine.try_out(start + OPEN_TIME / 2 + OPEN_TIME).is_some());
    assert_eq!(machine.state(), BreakerState::HalfOpen);
}

#[test]
fn a_trial_that_never_answers_gives_its_place_to_another() {
    let start = Instant::now();
    let mut machine = opened(start);
    machine.probed(true, start);
    for _ in 0..MAX_TRIALS {
        assert!(machine.try_out(start).is_some());
    }
    assert_eq!(machine.try_out(start), None);
    assert!(machine.try_out(start + TRIAL_TIME).is_some());
}

#[test]
fn half_open_a_failure_opens_it_again_and_probes_are_believed_ever_later() {
    let mut now = Instant::now();
    let mut machine = opened(now);
    let mut rests = Vec::new();
    for _ in 0..4 {
        let opened_at = now;
        while machine.state() != BreakerState::HalfOpen {
            machine.probed(true, now);
            now += Duration::from_millis(100);
        }
        rests.push(now.duration_since(opened_at).as_millis());
        let era = machine.era();
        machine.failed(era, now);
        assert_eq!(machine.state(), BreakerState::Open);
    }
    assert!(rests.windows(2).all(|pair| pair[0] < pair[1]), "{rests:?}");
}

#[test]
fn half_open_a_probe_that_fails_opens_it_again() {
    let now = Instant::now();
    let mut machine = opened(now);
    machine.probed(true, now);
    machine.probed(false, now);
    assert_eq!(machine.state(), BreakerState::Open);
}

#[test]
fn a_trial_that_is_given_back_makes_room_for_one() {
    let now = Instant::now();
    let mut machine = opened(now);
    machine.probed(true, now);
    let trials: Vec<_> = std::iter::from_fn(|| machine.try_out(now)).take(MAX_TRIALS).collect();
    machine.release(trials[0]);
    assert!(machine.try_out(now).is_some());
    assert_eq!(machine.try_out(now), None);
}

#[test]
fn one_that_was_closed_for_long_believes_the_first_probe_again() {
    let start = Instant::now();
    let mut machine = opened(start);
    machine.probed(true, start);
    machine.probed(true, start);
    let soon = start + Duration::from_secs(1);
    machine.fell_silent(soon);
    machine.probed(true, soon);
    assert_eq!(machine.state(), BreakerState::Open, "it has opened twice within a second");
    let rested = soon + FIRST_REST;
    machine.probed(true, rested);
    machine.probed(true, rested);
    assert_eq!(machine.state(), BreakerState::Closed);
    let later = rested + STEADY;
    machine.fell_silent(later);
    machine.probed(true, later);
    assert_eq!(machine.state(), BreakerState::HalfOpen);
}

#[test]
fn an_operator_who_opens_it_begins_an_era_once_and_one_who_closes_it_none() {
    let (now, mut machine) = (Instant::now(), machine());
    fail(&mut machine, 4, now);
    machine.force(Some(ForcedBreaker::Closed));
    fail(&mut machine, 5, now);
    machine.force(None);
    fail(&mut machine, 4, now);
    assert_eq!((machine.state(), machine.era()), (BreakerState::Closed, 0));
    for _ in 0..2 {
        machine.force(Some(ForcedBreaker::Open));
        assert_eq!((machine.state(), machine.era()), (BreakerState::ForcedOpen, 1));
    }
    machine.force(None);
    assert_eq!((machine.state(), machine.era()), (BreakerState::Closed, 1));
}

#[derive(Debug, Clone)]
enum Step {
    Succeed(u32),
    Fail,
    FailOfBefore,
    Silent,
    Probe(bool),
    TryOut,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4u32).prop_map(Step::Succeed),
        Just(Step::Fail),
        Just(Step::FailOfBefore),
        Just(Step::Silent),
        any::<bool>().prop_map(Step::Probe),
        Just(Step::TryOut),
        (1..70_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn whatever_happens_it_is_never_stuck_and_never_lets_a_crowd_through(steps in prop::collection::vec(step(), 0..200)) {
        let (mut now, mut machine) = (Instant::now(), machine());
        for step in steps {
            let (before, era) = (machine.state(), machine.era());
            match step {
                Step::Succeed(count) => machine.succeeded(count, now),
                Step::Fail => machine.failed(era, now),
                Step::FailOfBefore => machine.failed(era.wrapping_sub(1), now),
                Step::Silent => machine.fell_silent(now),
                Step::Probe(answered) => machine.probed(answered, now),
                Step::TryOut => {
                    let trials = std::iter::from_fn(|| machine.try_out(now)).take(MAX_TRIALS + 1).count();
                    prop_assert!(trials <= MAX_TRIALS);
                }
                Step::Wait(millis) => now += Duration::from_millis(millis),
            }
            let after = machine.state();
            // It does not close without having been half open, and every opening begins an era.
            prop_assert!(!(before == BreakerState::Open && after == BreakerState::Closed));
            prop_assert!(machine.window.0.len() <= 11, "it counts by slices of three seconds, for thirty");
            prop_assert_eq!(after == BreakerState::Open && before != BreakerState::Open, machine.era() != era);
        }
        // Once the broker is well, a while of probes closes it.
        for _ in 0..3 {
            now += OPEN_TIME;
            machine.probed(true, now);
        }
        prop_assert_eq!(machine.state(), BreakerState::Closed);
    }
}
