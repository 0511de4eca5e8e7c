//! What happens in one run, all of it chosen by the seed.

use std::time::Duration;

use fastrand::Rng;

/// One run. A plan is plain data, so that a smaller one can be tried when it fails.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// Whether the outbox is in SQLite, and not in PostgreSQL.
    pub(super) is_sqlite: bool,
    /// Of each process whether it runs a relay.
    pub(super) relays: Vec<bool>,
    pub(super) lanes: u16,
    pub(super) partitions: u16,
    pub(super) keys: usize,
    pub(super) callers: Vec<Caller>,
    pub(super) faults: Vec<Window>,
    /// What a row weighs in a page, whatever it has: so a few rows fill one.
    pub(super) row_bytes: usize,
    /// How many records a client takes.
    pub(super) capacity: usize,
    pub(super) direct_timeout: Duration,
    pub(super) delivery_timeout: Duration,
    /// The longest pause between two emits of a caller.
    pub(super) pause: Duration,
}

#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) process: usize,
    pub(super) emits: usize,
    pub(super) seed: u64,
}

/// A fault, and when it holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    pub(super) at: Duration,
    pub(super) lasts: Duration,
    pub(super) fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The brokers take connections and answer nothing.
    Silent,
    /// There is no broker.
    Cut,
    SlowBroker,
    /// The partition has no leader.
    Leaderless(u16),
    /// The brokers don't let the clients in.
    LockedOut,
    LostAcks,
    /// Records of this key are refused for what they are.
    Refused(usize),
    /// The clients of a process fail for good.
    ClientsFail(usize),
    Gone,
    Hangs,
    SlowDatabase,
    /// Statements fail now and then, before or after they are carried out.
    Flaky,
    /// The database crashes, and is gone for a while.
    Restart,
    /// The database becomes what it was at the window's start.
    SetBack,
    /// Its clock jumps by so many milliseconds.
    Clock(i64),
    /// Neither brokers nor database answer.
    Blackout,
    /// A transaction of somebody else's is open.
    Pinned,
    Crash(usize),
    /// A process crashes so many steps later.
    CrashAtStep(usize, u64),
    Stop(usize),
    Freeze(usize),
    /// An operator opens the breaker of a process.
    ForcedOpen(usize),
    /// An operator decides what becomes of parked keys.
    Operator,
    /// An operator changes the number of lanes, until it succeeds.
    ChangeLanes(u16),
}

/// Nothing goes wrong from then on.
pub(super) const QUIET_AT: Duration = Duration::from_secs(30);

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let processes = pick(&mut rng, &[1, 1, 2, 2, 3]);
        let mut relays: Vec<_> = (0..processes).map(|_| rng.u8(..5) > 0).collect();
        relays[0] = true;
        let keys = rng.usize(1..=6);
        let partitions = rng.u16(1..=3);
        let callers = (0..rng.usize(1..=4))
            .map(|_| Caller { process: rng.usize(..processes), emits: rng.usize(3..=25), seed: rng.u64(..) })
            .collect();
        let is_sqlite = rng.u8(..6) == 0;
        // Now and then nothing is wrong but some records, and others must not feel it.
        let is_calm = rng.u8(..8) == 0;
        let mut before = Duration::ZERO;
        let faults: Vec<_> = (0..rng.usize(0..=7))
            .map(|_| {
                let fault = match rng.u8(..5) {
                    _ if !is_calm => Fault::any(&mut rng, processes, keys, partitions),
                    0 => Fault::Operator,
                    _ => Fault::Refused(rng.usize(..keys)),
                };
                // What is wrong at once is worse than one thing after the other.
                let is_close = rng.u8(..3) == 0;
                let most = Duration::from_secs(20);
                let at = if is_close {
                    (before + Duration::from_millis(rng.u64(..800))).min(most)
                } else {
                    Duration::from_millis(rng.u64(..20_000))
                };
                before = at;
                let lasts = match rng.u8(..4) {
                    // Longer than leases hold.
                    0..=1 if matches!(fault, Fault::Freeze(_)) => rng.u64(9_000..16_000),
                    0 => rng.u64(50..1_000),
                    1 | 2 => rng.u64(500..5_000),
                    _ => rng.u64(2_000..18_000),
                };
                Window { at, lasts: Duration::from_millis(lasts).min(QUIET_AT - at), fault }
            })
            .filter(|window: &Window| !is_sqlite || window.fault.is_of_sqlite())
            .collect();
        Self {
            seed,
            is_sqlite,
            relays,
            lanes: pick(&mut rng, &[1, 1, 2, 3, 4]),
            partitions,
            keys,
            callers,
            faults,
            row_bytes: pick(&mut rng, &[100, 100, 100_000, 2_000_000]),
            capacity: pick(&mut rng, &[2, 10, 1_000]),
            direct_timeout: Duration::from_millis(pick(&mut rng, &[150, 500, 2_000, 2_000])),
            delivery_timeout: Duration::from_millis(pick(&mut rng, &[400, 1_000, 30_000])),
            pause: Duration::from_millis(pick(&mut rng, &[1, 50, 500, 2_000])),
        }
    }

    /// Whether something could keep an event of this key in this time.
    pub(super) fn keeps(&self, key: usize, from: Duration, to: Duration) -> bool {
        // SQLite's relay waits for whoever writes.
        self.is_sqlite
            || self.has_between(from, to, |fault| match fault {
                Fault::Refused(other) => other == key,
                Fault::Operator | Fault::Pinned => false,
                _ => true,
            })
    }

    /// Whether something could keep a process from looking up what others have stored.
    pub(super) fn disturbs_look_up(&self, from: Duration, to: Duration) -> bool {
        let is_felt = Duration::from_secs(4);
        self.is_sqlite
            || self.has_between(from.saturating_sub(is_felt), to, |fault| {
                use Fault::{Blackout, Flaky, Freeze, Gone, Hangs, Restart, SetBack, SlowDatabase};
                matches!(fault, Blackout | Flaky | Freeze(_) | Gone | Hangs | Restart | SetBack | SlowDatabase)
            })
    }

    /// Whether the number of lanes could be changed, which keeps writers out.
    pub(super) fn changes_lanes(&self, from: Duration, to: Duration) -> bool {
        self.has_between(from, to, |fault| matches!(fault, Fault::ChangeLanes(_)))
    }

    fn has_between(&self, from: Duration, to: Duration, is: impl Fn(Fault) -> bool) -> bool {
        let overlaps = |window: &&Window| window.at <= to && from <= window.at + window.lasts;
        self.faults.iter().filter(overlaps).any(|window| is(window.fault))
    }

    /// Smaller plans, the much smaller ones first.
    pub(super) fn smaller(&self) -> Vec<Self> {
        let mut plans = Vec::new();
        let mut change = |change: &dyn Fn(&mut Self)| {
            let mut plan = self.clone();
            change(&mut plan);
            plans.push(plan);
        };
        for index in 0..self.callers.len() {
            change(&|plan| {
                plan.callers.remove(index);
            });
        }
        for index in 0..self.faults.len() {
            change(&|plan| {
                plan.faults.remove(index);
            });
        }
        for index in 0..self.callers.len() {
            for emits in [self.callers[index].emits / 2, self.callers[index].emits.saturating_sub(1)] {
                if emits < self.callers[index].emits {
                    change(&|plan| plan.callers[index].emits = emits);
                }
            }
        }
        if self.relays.len() > 1 {
            change(&|plan| {
                plan.relays.pop();
                let left = plan.relays.len();
                plan.callers.retain(|caller| caller.process < left);
                plan.faults.retain(|window| window.fault.process().is_none_or(|process| process < left));
            });
        }
        for index in 0..self.faults.len() {
            if self.faults[index].lasts > Duration::from_millis(100) {
                change(&|plan| plan.faults[index].lasts /= 2);
            }
        }
        plans
    }
}

impl Fault {
    fn any(rng: &mut Rng, processes: usize, keys: usize, partitions: u16) -> Self {
        let process = rng.usize(..processes);
        match rng.u8(..41) {
            0 | 1 => Self::Silent,
            2 | 3 => Self::Cut,
            4 => Self::SlowBroker,
            5 => Self::Leaderless(rng.u16(..partitions)),
            6 => Self::LockedOut,
            7 | 8 => Self::LostAcks,
            9..=11 => Self::Refused(rng.usize(..keys)),
            12 => Self::ClientsFail(process),
            13 => Self::Gone,
            14 => Self::Hangs,
            15 => Self::SlowDatabase,
            16 | 17 => Self::Flaky,
            18 | 19 => Self::Restart,
            20 | 21 => Self::SetBack,
            22 => Self::Clock(rng.i64(-20_000..20_000)),
            23 => Self::Pinned,
            24 | 25 => Self::Crash(process),
            26..=28 => Self::CrashAtStep(process, rng.u64(..400)),
            29 | 30 => Self::Stop(process),
            31 | 32 => Self::Freeze(process),
            33 => Self::ForcedOpen(process),
            34 | 35 => Self::Operator,
            36..=38 => Self::ChangeLanes(rng.u16(1..=6)),
            _ => Self::Blackout,
        }
    }

    /// Whether it can happen to an outbox in SQLite: a file that is put back tells nobody, and its lanes are what they are.
    fn is_of_sqlite(self) -> bool {
        !matches!(self, Self::SetBack | Self::ChangeLanes(_))
    }

    fn process(self) -> Option<usize> {
        match self {
            Self::ClientsFail(process)
            | Self::Crash(process)
            | Self::CrashAtStep(process, _)
            | Self::Stop(process)
            | Self::Freeze(process)
            | Self::ForcedOpen(process) => Some(process),
            _ => None,
        }
    }
}

fn pick<T: Copy>(rng: &mut Rng, among: &[T]) -> T {
    among[rng.usize(..among.len())]
}
