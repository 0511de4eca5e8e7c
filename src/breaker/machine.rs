//! When the breaker opens and closes. Pure: no I/O, no clock, no lock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::{BreakerState, ForcedBreaker};

/// What opens the breaker, and for how long.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct BreakerConfig {
    /// The share of failures, of 1, from which on it opens.
    pub(crate) failure_ratio: f64,
    /// How many calls there must be before the share counts.
    pub(crate) min_requests: u32,
    /// How long it stays open before a call is let through to try, if probes say nothing.
    pub(crate) open_time: Duration,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self { failure_ratio: 0.5, min_requests: 10, open_time: Duration::from_secs(5) }
    }
}

/// So many failures on end open the breaker whatever the share.
const CONSECUTIVE_FAILURES: u32 = 5;

/// How many calls are let through at a time while it is half open.
const MAX_TRIALS: usize = 3;

/// A trial that says nothing for so long makes room for another: what became of it may never be known.
const TRIAL_TIME: Duration = Duration::from_secs(5);

/// How many trials or probes must succeed before it closes.
const SUCCESSES: u32 = 2;

/// Who was closed for so long before it opened has recovered from the time before.
const STEADY: Duration = Duration::from_secs(10);

/// How long probes are not believed after it opened again soon: a broker that answers and takes no records must not make it
/// open and close in turns. Twice as long each time.
const FIRST_REST: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct Machine {
    config: BreakerConfig,
    state: State,
    forced: Option<ForcedBreaker>,
    /// How often it has opened. What was begun before it last opened tells nothing of the time since.
    era: u32,
    /// Failures on end.
    run: u32,
    window: Window,
    rest: Duration,
    closed_at: Option<Instant>,
    next_trial: u32,
}

#[derive(Debug)]
enum State {
    Closed,
    Open {
        /// When a call is let through though no probe has succeeded.
        trial_at: Instant,
        /// From when on a probe that succeeds counts.
        rest_until: Instant,
    },
    HalfOpen {
        trials: Vec<(Trial, Instant)>,
        successes: u32,
    },
}

/// A call that was let through while the breaker was half open.
pub(super) type Trial = u32;

impl Machine {
    pub(super) fn new(config: BreakerConfig) -> Self {
        Self {
            config,
            state: State::Closed,
            forced: None,
            era: 0,
            run: 0,
            window: Window::default(),
            rest: Duration::ZERO,
            closed_at: None,
            next_trial: 0,
        }
    }

    pub(super) fn era(&self) -> u32 {
        self.era
    }

    pub(super) fn state(&self) -> BreakerState {
        match (self.forced, &self.state) {
            (Some(ForcedBreaker::Open), _) => BreakerState::ForcedOpen,
            (Some(ForcedBreaker::Closed), _) => BreakerState::ForcedClosed,
            (None, State::Closed) => BreakerState::Closed,
            (None, State::Open { .. }) => BreakerState::Open,
            (None, State::HalfOpen { .. }) => BreakerState::HalfOpen,
        }
    }

    /// Does what an operator wants, whatever the calls say; or again what they say, from a closed breaker on.
    pub(super) fn force(&mut self, forced: Option<ForcedBreaker>) {
        if forced == Some(ForcedBreaker::Open) && self.forced != forced {
            self.era = self.era.wrapping_add(1);
        }
        self.forced = forced;
        self.state = State::Closed;
        self.forget();
    }

    /// Whether a call may be made now while the breaker is not closed; the call is a trial.
    pub(super) fn try_out(&mut self, now: Instant) -> Option<Trial> {
        if let State::Open { trial_at, .. } = self.state
            && now >= trial_at
        {
            self.state = State::HalfOpen { trials: Vec::new(), successes: 0 };
        }
        let State::HalfOpen { trials, .. } = &mut self.state else { return None };
        trials.retain(|(_, since)| now < *since + TRIAL_TIME);
        if self.forced.is_some() || trials.len() >= MAX_TRIALS {
            return None;
        }
        let trial = self.next_trial;
        self.next_trial = trial.wrapping_add(1);
        trials.push((trial, now));
        Some(trial)
    }

    /// A trial came to nothing that tells of the broker.
    pub(super) fn release(&mut self, trial: Trial) {
        if let State::HalfOpen { trials, .. } = &mut self.state {
            trials.retain(|(other, _)| *other != trial);
        }
    }

    /// So many calls have succeeded since this was last told.
    pub(super) fn succeeded(&mut self, count: u32, now: Instant) {
        if count == 0 {
            return;
        }
        match &mut self.state {
            State::Closed => {
                self.run = 0;
                self.window.add(now, count, 0);
            }
            State::HalfOpen { successes, .. } => {
                *successes += count;
                if *successes >= SUCCESSES {
                    self.close(now);
                }
            }
            State::Open { .. } => {}
        }
    }

    /// A call has failed that was begun in this era.
    pub(super) fn failed(&mut self, era: u32, now: Instant) {
        if era != self.era || self.forced.is_some() {
            return;
        }
        match self.state {
            State::Closed => {
                self.run += 1;
                self.window.add(now, 0, 1);
                let (calls, failures) = self.window.sums();
                let by_share = calls >= self.config.min_requests
                    && f64::from(failures) >= f64::from(calls) * self.config.failure_ratio;
                if by_share || self.run >= CONSECUTIVE_FAILURES {
                    self.open(now);
                }
            }
            State::HalfOpen { .. } => self.open(now),
            State::Open { .. } => {}
        }
    }

    /// Nobody answers, though nothing has failed yet.
    pub(super) fn fell_silent(&mut self, now: Instant) {
        if self.forced.is_none() && !matches!(self.state, State::Open { .. }) {
            self.open(now);
        }
    }

    /// What a probe came to.
    pub(super) fn probed(&mut self, answered: bool, now: Instant) {
        match (&mut self.state, answered) {
            (State::Open { trial_at, .. }, false) => *trial_at = now + self.config.open_time,
            (State::Open { rest_until, .. }, true) if now >= *rest_until => {
                self.state = State::HalfOpen { trials: Vec::new(), successes: 1 };
            }
            (State::HalfOpen { .. }, true) => self.succeeded(1, now),
            (State::HalfOpen { .. }, false) => self.fell_silent(now),
            _ => {}
        }
    }

    fn open(&mut self, now: Instant) {
        let was_steady = self.closed_at.is_none_or(|at| now >= at + STEADY);
        let half_open = matches!(self.state, State::HalfOpen { .. });
        self.rest = if was_steady && !half_open {
            Duration::ZERO
        } else {
            (self.rest * 2).max(FIRST_REST).min(self.config.open_time)
        };
        self.state = State::Open { trial_at: now + self.config.open_time, rest_until: now + self.rest };
        self.era = self.era.wrapping_add(1);
        self.forget();
    }

    fn close(&mut self, now: Instant) {
        self.state = State::Closed;
        self.closed_at = Some(now);
        self.forget();
    }

    fn forget(&mut self) {
        self.run = 0;
        self.window = Window::default();
    }
}

/// Calls and failures of the last while.
#[derive(Debug, Default)]
struct Window(VecDeque<(Instant, u32, u32)>);

impl Window {
    /// Over what time the share of failures is taken.
    const LENGTH: Duration = Duration::from_secs(30);
    /// Calls of so long are counted together.
    const SLICE: Duration = Duration::from_secs(3);

    fn add(&mut self, now: Instant, succeeded: u32, failed: u32) {
        while self.0.front().is_some_and(|(start, ..)| now >= *start + Self::LENGTH) {
            self.0.pop_front();
        }
        let calls = succeeded.saturating_add(failed);
        match self.0.back_mut().filter(|(start, ..)| now < *start + Self::SLICE) {
            Some((_, all, bad)) => {
                *all = all.saturating_add(calls);
                *bad = bad.saturating_add(failed);
            }
            None => self.0.push_back((now, calls, failed)),
        }
    }

    /// How many calls there were, and how many of them failed.
    fn sums(&self) -> (u32, u32) {
        self.0.iter().fold((0, 0), |(all, bad): (u32, u32), (_, calls, failed)| {
            (all.saturating_add(*calls), bad.saturating_add(*failed))
        })
    }
}

#[cfg(test)]
mod tests;
