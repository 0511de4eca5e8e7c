//! The breaker: stops asking a broker that does not serve.

use std::time::Duration;

use failsafe::StateMachine;
use failsafe::backoff::{self, Constant};
use failsafe::failure_policy::{self, ConsecutiveFailures, OrElse, SuccessRateOverTimeWindow};

/// What opens the breaker, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BreakerConfig {
    /// The share of failures, of 1, from which on it opens.
    pub(crate) failure_ratio: f64,
    /// How many calls there must be before the share counts.
    pub(crate) min_requests: u32,
    /// How long it stays open before a call is let through to try.
    pub(crate) open_time: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failure_ratio: 0.5, min_requests: 10, open_time: Duration::from_secs(5) }
    }
}

/// Over what time the share of failures is taken.
const WINDOW: Duration = Duration::from_secs(30);

/// So many failures on end open the breaker whatever the share.
const CONSECUTIVE_FAILURES: u32 = 5;

type Policy = OrElse<SuccessRateOverTimeWindow<Constant>, ConsecutiveFailures<Constant>>;

/// Decides by failsafe's state machine. Only failures that tell of the broker's health may be reported to it.
pub(crate) struct Breaker(StateMachine<Policy, ()>);

impl Breaker {
    pub(crate) fn new(config: &BreakerConfig) -> Self {
        let open_time = backoff::constant(config.open_time);
        let by_share = failure_policy::success_rate_over_time_window(
            1.0 - config.failure_ratio,
            config.min_requests,
            WINDOW,
            open_time.clone(),
        );
        let by_run = failure_policy::consecutive_failures(CONSECUTIVE_FAILURES, open_time);
        Self(StateMachine::new(failsafe::FailurePolicy::or_else(by_share, by_run), ()))
    }

    /// Whether a call may be made now. The first one after the open time is the trial.
    pub(crate) fn permits(&self) -> bool {
        self.0.is_call_permitted()
    }

    pub(crate) fn on_success(&self) {
        self.0.on_success();
    }

    pub(crate) fn on_failure(&self) {
        self.0.on_error();
    }
}

impl std::fmt::Debug for Breaker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker(open_time: Duration) -> Breaker {
        Breaker::new(&BreakerConfig { failure_ratio: 0.5, min_requests: 10, open_time })
    }

    #[test]
    fn five_failures_on_end_open_it() {
        let breaker = breaker(Duration::from_secs(60));
        for _ in 0..4 {
            breaker.on_failure();
        }
        assert!(breaker.permits());
        breaker.on_failure();
        assert!(!breaker.permits());
    }

    #[test]
    fn a_success_ends_a_run_of_failures() {
        let breaker = breaker(Duration::from_secs(60));
        for _ in 0..4 {
            breaker.on_failure();
        }
        breaker.on_success();
        breaker.on_failure();
        assert!(breaker.permits());
    }

    #[test]
    fn after_the_open_time_a_success_closes_it_and_a_failure_opens_it_again() {
        let breaker = breaker(Duration::ZERO);
        for _ in 0..5 {
            breaker.on_failure();
        }
        assert!(breaker.permits(), "the open time is over at once");
        breaker.on_success();
        assert!(breaker.permits());
    }
}
