//! How many events a tenant may emit.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};

use crate::error::{Error, ErrorKind, Result};

/// So many events per second, and so many at once.
///
/// # Examples
///
/// ```
/// use tidings::RateLimit;
///
/// let limit: RateLimit = "100/500".parse()?;
/// assert_eq!((limit.per_second(), limit.burst()), (100, 500));
/// assert_eq!("100".parse::<RateLimit>()?.burst(), 100);
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    per_second: NonZeroU32,
    burst: NonZeroU32,
}

impl RateLimit {
    /// So many events per second, and as many at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if it is 0.
    pub fn new(per_second: u32) -> Result<Self> {
        let per_second = at_least_one(per_second)?;
        Ok(Self { per_second, burst: per_second })
    }

    /// Sets how many there may be at once, after a pause. Defaults to those of one second.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if it is 0.
    pub fn with_burst(self, burst: u32) -> Result<Self> {
        Ok(Self { burst: at_least_one(burst)?, ..self })
    }

    /// How many there may be per second in the long run.
    #[must_use]
    pub fn per_second(self) -> u32 {
        self.per_second.get()
    }

    /// How many there may be at once.
    #[must_use]
    pub fn burst(self) -> u32 {
        self.burst.get()
    }
}

fn at_least_one(events: u32) -> Result<NonZeroU32> {
    NonZeroU32::new(events).ok_or_else(|| Error::new(ErrorKind::InvalidConfig, "a rate limit lets an event through"))
}

/// `100`, or `100/500` with the burst.
impl FromStr for RateLimit {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let number = |text: &str| {
            let fault =
                |_| Error::new(ErrorKind::InvalidConfig, "a rate limit is such as 100, or 100/500 with the burst");
            text.trim().parse::<u32>().map_err(fault)
        };
        match text.split_once('/') {
            None => Self::new(number(text)?),
            Some((per_second, burst)) => Self::new(number(per_second)?)?.with_burst(number(burst)?),
        }
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.per_second, self.burst)
    }
}

/// A tenant, as the event has it.
type Tenant = Cow<'static, str>;

type Limiter<C> = RateLimiter<Tenant, HashMapStateStore<Tenant>, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// What each tenant has left of its limit. One that has all of it left is not remembered.
pub(crate) struct TenantLimits<C: Clock = DefaultClock> {
    limit: RateLimit,
    limiter: Limiter<C>,
    clock: C,
    checks: AtomicUsize,
    /// With so many tenants, those that have all left are looked for.
    forget_at: AtomicUsize,
}

/// Fewer tenants than this are not worth a look. Each takes some hundred bytes.
const FEW_TENANTS: usize = 1_024;

/// How often it is looked how many tenants are remembered.
const LOOK_EVERY: usize = 128;

impl TenantLimits {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self::with_clock(limit, DefaultClock::default())
    }
}

impl<C: Clock + Clone> TenantLimits<C> {
    fn with_clock(limit: RateLimit, clock: C) -> Self {
        let quota = Quota::per_second(limit.per_second).allow_burst(limit.burst);
        let limiter = RateLimiter::new(quota, HashMapStateStore::default(), clock.clone());
        Self { limit, limiter, clock, checks: AtomicUsize::new(0), forget_at: AtomicUsize::new(FEW_TENANTS) }
    }

    /// Counts an event of this tenant.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RateLimited`] if it is one too many.
    pub(crate) fn check(&self, tenant: &Tenant) -> Result<()> {
        self.check_many(tenant, NonZeroU32::MIN)
    }

    /// Counts events that are emitted together, of each tenant all or none. Of several tenants those that come before the one
    /// that has too many are counted.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::RateLimited`] if they are too many.
    pub(crate) fn check_all<'a>(&self, tenants: impl IntoIterator<Item = &'a Tenant>) -> Result<()> {
        let mut counts: BTreeMap<&Tenant, u32> = BTreeMap::new();
        for tenant in tenants {
            *counts.entry(tenant).or_default() += 1;
        }
        for (tenant, count) in counts {
            // Each was counted at least once.
            self.check_many(tenant, NonZeroU32::new(count).unwrap_or(NonZeroU32::MIN))?;
        }
        Ok(())
    }

    fn check_many(&self, tenant: &Tenant, count: NonZeroU32) -> Result<()> {
        self.forget_some();
        let limit = self.limit;
        let many = |what: &str| {
            let rate = format!("{} events per second, and {} at once", limit.per_second, limit.burst);
            Error::new(ErrorKind::RateLimited, format!("a tenant may emit {rate}: {what}; nothing was sent"))
        };
        match self.limiter.check_key_n(tenant, count) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(self.clock.now());
                Err(many(&format!("retry after {} ms", wait.as_millis() + 1)).with_retry_after(wait))
            }
            Err(_) => Err(many(&format!("{count} in one transaction are more than that, at any time"))),
        }
    }

    /// Keeps those who have emitted lately, whose number the rate of all events bounds.
    fn forget_some(&self) {
        if !self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(LOOK_EVERY)
            || self.limiter.len() < self.forget_at.load(Ordering::Relaxed)
        {
            return;
        }
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
        // A look at all of them pays if half may be gone.
        self.forget_at.store(FEW_TENANTS.max(2 * self.limiter.len()), Ordering::Relaxed);
    }
}

impl<C: Clock> fmt::Debug for TenantLimits<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TenantLimits").field(&self.limit).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use governor::clock::FakeRelativeClock;

    use super::*;

    fn limits(text: &str) -> (TenantLimits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (TenantLimits::with_clock(text.parse().unwrap(), clock.clone()), clock)
    }

    const NOISY: Tenant = Cow::Borrowed("noisy");
    const QUIET: Tenant = Cow::Borrowed("quiet");

    #[test]
    fn a_tenant_has_its_burst_and_then_its_rate_and_no_other_pays_for_it() {
        let (limits, clock) = limits("10/30");
        for _ in 0..30 {
            limits.check(&NOISY).unwrap();
        }
        let error = limits.check(&NOISY).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::RateLimited);
        let wait = error.retry_after().unwrap();
        assert!(wait > Duration::ZERO && wait <= Duration::from_millis(100), "{wait:?}");
        assert!(error.to_string().contains("10 events per second, and 30 at once"), "{error}");
        limits.check(&QUIET).unwrap();
        clock.advance(wait);
        limits.check(&NOISY).unwrap();
        assert!(limits.check(&NOISY).is_err());
        clock.advance(Duration::from_secs(1));
        assert_eq!((0..20).filter(|_| limits.check(&NOISY).is_ok()).count(), 10);
    }

    #[test]
    fn events_that_are_emitted_together_are_let_through_together() {
        let (limits, clock) = limits("10");
        let many = |count: usize| limits.check_all(std::iter::repeat_n(&NOISY, count));
        assert!(many(11).unwrap_err().retry_after().is_none(), "they never will be");
        many(6).unwrap();
        assert!(many(6).is_err());
        many(4).unwrap();
        clock.advance(Duration::from_millis(500));
        assert!(limits.check_all([&NOISY, &QUIET, &NOISY]).is_ok());
    }

    #[test]
    fn tenants_that_are_idle_are_forgotten() {
        let (limits, clock) = limits("10");
        for number in 0..100_000 {
            limits.check(&Cow::Owned(format!("tenant-{number}"))).unwrap();
            clock.advance(Duration::from_millis(1));
        }
        // A hundred milliseconds after its event each has all left again.
        assert!(limits.limiter.len() <= FEW_TENANTS + LOOK_EVERY, "{}", limits.limiter.len());
    }

    #[test]
    fn a_limit_reads_as_it_is_written() {
        for text in ["1/1", "100/500", "4294967295/1"] {
            assert_eq!(text.parse::<RateLimit>().unwrap().to_string(), text);
        }
        assert_eq!("7".parse::<RateLimit>().unwrap().to_string(), "7/7");
        for text in ["", "0", "1/0", "-1", "1/", "/1", "many", "1/2/3", "4294967296"] {
            assert_eq!(text.parse::<RateLimit>().unwrap_err().kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }
}
