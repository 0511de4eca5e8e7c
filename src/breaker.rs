//! The breaker: stops asking a broker that does not serve.

use std::fmt;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use tokio::time::Instant;

mod machine;
pub(crate) mod pulse;

use crate::error::Result;
use crate::transport::Delivery;

pub(crate) use machine::BreakerConfig;
use machine::{Machine, Trial};

/// Whether events are published directly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BreakerState {
    /// They are.
    Closed,
    /// They are not: the broker does not serve. It is asked several times a second whether it does again.
    Open,
    /// The broker answers again, and a few are let through to see whether it takes them.
    HalfOpen,
    /// They are not: an operator says so.
    ForcedOpen,
    /// They are, whatever becomes of them: an operator says so.
    ForcedClosed,
}

/// What an operator wants of the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ForcedBreaker {
    /// Nothing is published directly.
    Open,
    /// Everything is, whatever becomes of it.
    Closed,
}

impl BreakerState {
    /// All states.
    pub(crate) const ALL: [Self; 5] = [Self::Closed, Self::Open, Self::HalfOpen, Self::ForcedOpen, Self::ForcedClosed];

    /// A stable name, in snake case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::ForcedOpen => "forced_open",
            Self::ForcedClosed => "forced_closed",
        }
    }

    /// Whether every event may be published directly.
    pub(crate) fn is_closed(self) -> bool {
        matches!(self, Self::Closed | Self::ForcedClosed)
    }
}

impl fmt::Display for BreakerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The [`Machine`], shared by callers. Only what tells of the broker's health may be reported to it.
///
/// As long as it is closed, a call takes no lock: one word has state and era, and successes are counted.
pub(crate) struct Breaker {
    word: AtomicU64,
    /// Calls that have succeeded since the machine was last told.
    successes: AtomicU32,
    machine: Mutex<Machine>,
    /// Told when it has opened.
    opened: Notify,
}

/// What is in the word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Word {
    state: BreakerState,
    era: u32,
}

impl Word {
    fn pack(self) -> u64 {
        u64::from(self.era) << 8 | self.state as u64
    }

    fn unpack(word: u64) -> Self {
        // Only `pack` makes them.
        let state = BreakerState::ALL[usize::from(word.to_le_bytes()[0])];
        let era = u32::try_from(word >> 8).expect("an era has 32 bits");
        Self { state, era }
    }
}

impl Breaker {
    pub(crate) fn new(config: &BreakerConfig) -> Self {
        Self {
            word: AtomicU64::new(Word { state: BreakerState::Closed, era: 0 }.pack()),
            successes: AtomicU32::new(0),
            machine: Mutex::new(Machine::new(*config)),
            opened: Notify::new(),
        }
    }

    /// Completes when it has opened, for the one who watches it.
    pub(crate) async fn opened(&self) {
        self.opened.notified().await;
    }

    fn word(&self) -> Word {
        Word::unpack(self.word.load(Ordering::SeqCst))
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.word().state
    }

    /// How often it has opened.
    pub(crate) fn era(&self) -> u32 {
        self.word().era
    }

    /// The right to make a call now.
    pub(crate) fn permit(self: &Arc<Self>) -> Option<Permit> {
        let Word { state, era } = self.word();
        let permit = |era, trial| Permit { breaker: Arc::clone(self), era, trial };
        match state {
            BreakerState::Closed | BreakerState::ForcedClosed => Some(permit(era, None)),
            BreakerState::ForcedOpen => None,
            BreakerState::Open | BreakerState::HalfOpen => {
                self.with(|machine| machine.try_out(now()).map(|trial| permit(machine.era(), Some(trial))))
            }
        }
    }

    /// A call that was permitted in this era has failed; what becomes of the call itself is told besides.
    pub(crate) fn failed(&self, era: u32) {
        self.with(|machine| machine.failed(era, now()));
    }

    /// Tells the machine of the successes since it was last told. Now and then, or those of hours would all count for the moment
    /// of the next failure, and hide its share.
    pub(crate) fn count_successes(&self) {
        if self.successes.load(Ordering::Relaxed) > 0 {
            self.with(|_| ());
        }
    }

    /// Nobody answers.
    pub(crate) fn fell_silent(&self) {
        self.with(|machine| machine.fell_silent(now()));
    }

    /// What a probe came to.
    pub(crate) fn probed(&self, answered: bool) {
        self.with(|machine| machine.probed(answered, now()));
    }

    /// Does what an operator wants, or again what calls and probes say.
    pub(crate) fn force(&self, forced: Option<ForcedBreaker>) {
        self.with(|machine| machine.force(forced));
    }

    fn with<T>(&self, act: impl FnOnce(&mut Machine) -> T) -> T {
        // Nothing panics while it holds this lock.
        let mut machine = self.machine.lock().unwrap_or_else(PoisonError::into_inner);
        machine.succeeded(self.successes.swap(0, Ordering::SeqCst), now());
        let answer = act(&mut machine);
        let (before, now) = (self.word(), Word { state: machine.state(), era: machine.era() });
        self.word.store(now.pack(), Ordering::SeqCst);
        drop(machine);
        if before.state != now.state {
            tracing::info!(from = %before.state, to = %now.state, "the breaker has changed");
        }
        if before.era != now.era {
            self.opened.notify_one();
        }
        answer
    }
}

/// The time, which tests may hold.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

impl fmt::Debug for Breaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Breaker").field(&self.word()).finish()
    }
}

/// The right to make one call. Dropped without a word, the call tells nothing of the broker.
#[derive(Debug)]
pub(crate) struct Permit {
    breaker: Arc<Breaker>,
    pub(crate) era: u32,
    trial: Option<Trial>,
}

impl Permit {
    /// What the call came to.
    pub(crate) fn hear(self, result: &Result<Delivery>) {
        match result {
            Ok(_) => self.succeeded(),
            Err(error) if error.kind().is_broker_health() => self.failed(),
            Err(_) => drop(self),
        }
    }

    /// The broker took what the call brought.
    pub(crate) fn succeeded(mut self) {
        if self.era != self.breaker.era() {
            return;
        }
        self.breaker.successes.fetch_add(1, Ordering::Relaxed);
        if let Some(trial) = self.trial.take() {
            self.breaker.with(|machine| machine.release(trial));
        }
    }

    /// The broker does not serve.
    pub(crate) fn failed(self) {
        self.breaker.failed(self.era);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(trial) = self.trial {
            self.breaker.with(|machine| machine.release(trial));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breaker() -> Arc<Breaker> {
        Arc::new(Breaker::new(&BreakerConfig::default()))
    }

    fn open(breaker: &Arc<Breaker>) {
        for _ in 0..5 {
            breaker.permit().unwrap().failed();
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn what_was_begun_before_it_opened_neither_closes_nor_opens_it() {
        let breaker = breaker();
        let early: Vec<_> = (0..20).map(|_| breaker.permit().unwrap()).collect();
        open(&breaker);
        breaker.probed(true);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        for (index, permit) in early.into_iter().enumerate() {
            if index % 2 == 0 { permit.succeeded() } else { permit.failed() }
        }
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn half_open_it_lets_a_few_through_and_a_permit_that_is_dropped_makes_room() {
        let breaker = breaker();
        open(&breaker);
        assert!(breaker.permit().is_none());
        breaker.probed(true);
        let mut permits: Vec<_> = std::iter::from_fn(|| breaker.permit()).take(10).collect();
        assert_eq!(permits.len(), 3);
        permits.pop();
        let last = breaker.permit().unwrap();
        assert!(breaker.permit().is_none());
        last.succeeded();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_success_between_failures_ends_their_run_though_it_took_no_lock() {
        let breaker = breaker();
        for _ in 0..9 {
            for _ in 0..4 {
                breaker.permit().unwrap().failed();
            }
            for _ in 0..10 {
                breaker.permit().unwrap().succeeded();
            }
        }
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn successes_of_long_ago_do_not_hide_the_share_of_failures() {
        let breaker = breaker();
        for _ in 0..1_000 {
            breaker.permit().unwrap().succeeded();
        }
        breaker.count_successes();
        tokio::time::advance(std::time::Duration::from_secs(60)).await;
        for _ in 0..5 {
            breaker.permit().unwrap().succeeded();
            breaker.permit().unwrap().failed();
        }
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn an_operators_word_stands_whatever_the_calls_say() {
        let breaker = breaker();
        breaker.force(Some(ForcedBreaker::Closed));
        for _ in 0..20 {
            breaker.permit().unwrap().failed();
        }
        breaker.fell_silent();
        assert_eq!(breaker.state(), BreakerState::ForcedClosed);
        breaker.force(Some(ForcedBreaker::Open));
        breaker.probed(true);
        assert!(breaker.permit().is_none());
        assert_eq!(breaker.state(), BreakerState::ForcedOpen);
        breaker.force(None);
        assert!(breaker.permit().is_some());
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test]
    async fn whoever_watches_it_is_told_when_it_opens() {
        let breaker = breaker();
        open(&breaker);
        // Returns at once, or the test hangs.
        breaker.opened().await;
    }
}
