//! What is done, when, and to whom: pure, and the same for the same seed.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::run::{BROKERS, RELAYS, SERVICES};

/// How far apart faults begin, on average. A broker takes some seconds to start again.
const PAUSE: Duration = Duration::from_secs(4);

/// A fault by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// SIGKILL, and a start.
    KillBroker,
    /// SIGSTOP, and SIGCONT.
    StopBroker,
    /// SIGTERM, and a start.
    RestartBroker,
    KillPostgres,
    StopPostgres,
    KillService,
    StopService,
    KillRelay,
    StopRelay,
    /// Connections to a broker, or to the database, are cut.
    CutConnections,
    /// What goes to a broker, or to the database, and what comes from it is late.
    SlowConnections,
    /// The SQLite outbox can't grow.
    DiskFull,
    /// A transaction with an id stays open.
    PinnedHorizon,
}

impl Fault {
    pub(crate) const ALL: [Self; 13] = [
        Self::KillBroker,
        Self::StopBroker,
        Self::RestartBroker,
        Self::KillPostgres,
        Self::StopPostgres,
        Self::KillService,
        Self::StopService,
        Self::KillRelay,
        Self::StopRelay,
        Self::CutConnections,
        Self::SlowConnections,
        Self::DiskFull,
        Self::PinnedHorizon,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KillBroker => "kill-broker",
            Self::StopBroker => "stop-broker",
            Self::RestartBroker => "restart-broker",
            Self::KillPostgres => "kill-postgres",
            Self::StopPostgres => "stop-postgres",
            Self::KillService => "kill-service",
            Self::StopService => "stop-service",
            Self::KillRelay => "kill-relay",
            Self::StopRelay => "stop-relay",
            Self::CutConnections => "cut-connections",
            Self::SlowConnections => "slow-connections",
            Self::DiskFull => "disk-full",
            Self::PinnedHorizon => "pinned-horizon",
        }
    }

    /// Faults of one class wait for one another.
    pub(crate) fn class(self) -> Class {
        match self {
            Self::KillBroker | Self::StopBroker | Self::RestartBroker => Class::Broker,
            Self::KillPostgres | Self::StopPostgres => Class::Database,
            Self::KillService | Self::StopService => Class::Service,
            Self::KillRelay | Self::StopRelay => Class::Relay,
            Self::CutConnections | Self::SlowConnections => Class::Network,
            Self::DiskFull => Class::Disk,
            Self::PinnedHorizon => Class::Horizon,
        }
    }

    /// From how many milliseconds to how many it lasts; what is started again needs its time for that besides.
    fn lasts_ms(self) -> (u64, u64) {
        match self {
            Self::KillBroker | Self::RestartBroker => (0, 4_000),
            Self::StopBroker => (1_000, 9_000),
            Self::KillPostgres => (0, 3_000),
            Self::StopPostgres => (1_000, 7_000),
            Self::KillService | Self::KillRelay => (0, 3_000),
            Self::StopService => (500, 6_000),
            // Leases run out after ten seconds.
            Self::StopRelay => (1_000, 14_000),
            Self::CutConnections => (0, 2_500),
            Self::SlowConnections => (2_000, 6_000),
            Self::DiskFull => (1_000, 6_000),
            Self::PinnedHorizon => (8_000, 20_000),
        }
    }

    /// How many there are of what it is done to.
    fn targets(self) -> usize {
        match self.class() {
            Class::Broker => BROKERS,
            Class::Database | Class::Disk | Class::Horizon => 1,
            Class::Service => SERVICES.len(),
            Class::Relay => RELAYS,
            Class::Network => BROKERS + 1,
        }
    }
}

/// What faults have in common that can't be there at the same time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Broker,
    Database,
    Service,
    Relay,
    Network,
    Disk,
    Horizon,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) at: Duration,
    pub(crate) fault: Fault,
    /// Which ones, from 0. Two brokers at once are one more than the cluster can be without.
    pub(crate) targets: Vec<usize>,
    pub(crate) lasts: Duration,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, fault, targets, lasts } = self;
        write!(f, "{:7.1} s  {} {targets:?} for {:.1} s", at.as_secs_f64(), fault.name(), lasts.as_secs_f64())
    }
}

/// The faults of so many seconds: each once, in any order, then each once more, and so on.
pub(crate) fn plan(seconds: u64, seed: u64) -> Vec<Step> {
    let mut rng = Rng::with_seed(seed);
    let mut steps = Vec::new();
    let mut bag = Vec::new();
    for start in (0..seconds.saturating_sub(PAUSE.as_secs() / 2)).step_by(usize::try_from(PAUSE.as_secs()).unwrap_or(1))
    {
        if bag.is_empty() {
            bag = Fault::ALL.to_vec();
            rng.shuffle(&mut bag);
        }
        let Some(fault) = bag.pop() else { continue };
        let at = Duration::from_secs(start) + Duration::from_millis(rng.u64(0..3_000));
        let mut targets: Vec<usize> = (0..fault.targets()).collect();
        rng.shuffle(&mut targets);
        targets.truncate(if fault.class() == Class::Broker && rng.u8(0..3) == 0 { 2 } else { 1 });
        let (least, most) = fault.lasts_ms();
        // Not much beyond the end.
        let left = Duration::from_secs(seconds).saturating_sub(at).max(Duration::from_secs(2));
        steps.push(Step { at, fault, targets, lasts: Duration::from_millis(rng.u64(least..=most)).min(left) });
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::{Fault, plan};

    #[test]
    fn a_seed_has_one_plan_and_another_seed_another() {
        assert_eq!(plan(300, 7), plan(300, 7));
        assert_ne!(plan(300, 7), plan(300, 8));
    }

    #[test]
    fn a_minute_has_every_fault() {
        for seed in 0..100 {
            let plan = plan(60, seed);
            assert!(Fault::ALL.iter().all(|fault| plan.iter().any(|step| step.fault == *fault)), "seed {seed}");
        }
    }

    #[test]
    fn a_plan_is_in_order_and_begins_nothing_after_its_end() {
        let plan = plan(120, 3);
        assert!(plan.is_sorted_by_key(|step| step.at));
        assert!(plan.iter().all(|step| step.at.as_secs() < 120));
    }
}
