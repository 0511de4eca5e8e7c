//! Everything that outlives a process, and the time.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use uuid::Uuid;

use super::broker::Cluster;
use super::database::Database;
use super::ledger::Ledger;
use super::plan::{Fault, Plan};
use super::process::Process;
use super::situation::Situation;
use crate::BoxFuture;
use crate::outbox::lane;

#[derive(Debug)]
pub(super) struct World {
    pub(super) plan: Plan,
    start: Instant,
    steps: AtomicU64,
    /// What happens, if somebody wants to read it.
    story: Option<Mutex<Vec<String>>>,
    reached: Mutex<BTreeMap<Situation, u64>>,
    database: Mutex<Database>,
    cluster: Mutex<Cluster>,
    ledger: Mutex<Ledger>,
    violations: Mutex<Vec<String>>,
    /// The process that lives in each place.
    processes: Mutex<Vec<Option<Arc<Process>>>>,
    /// How many emits each caller has begun, and whether it is at one.
    callers: Mutex<Vec<(usize, bool)>>,
    /// The highest number of each lane that a page has shown.
    pub(super) shown: Mutex<BTreeMap<u16, i64>>,
    /// Numbers that were rolled back, and in which life of the database.
    pub(super) dead: Mutex<Vec<(u16, i64, i64)>>,
    /// The relays, in the order in which they came, and the places of their processes.
    relays: Mutex<Vec<(Uuid, usize)>>,
    /// Lanes that were leased anew, and whose relay has not heard of it.
    pub(super) unheard: Mutex<BTreeSet<u16>>,
    /// The places whose processes have slept.
    slept: Mutex<BTreeSet<usize>>,
    /// How many lanes are in use.
    pub(super) lanes: AtomicU16,
    /// How often whoever relays a lane could not know what was delivered of it.
    breaks: Mutex<BTreeMap<u16, u64>>,
    /// Whether the last event of each key of each place went directly.
    went: Mutex<BTreeMap<(usize, usize), bool>>,
    /// Told when somebody wakes the relays.
    pub(super) wake: Notify,
    pub(super) over: AtomicBool,
}

impl World {
    pub(super) fn new(plan: Plan, told: bool) -> Arc<Self> {
        Arc::new(Self {
            start: Instant::now(),
            steps: AtomicU64::new(0),
            story: told.then(Mutex::default),
            reached: Mutex::default(),
            database: Mutex::new(Database::new(plan.lanes, plan.is_sqlite)),
            cluster: Mutex::default(),
            ledger: Mutex::default(),
            violations: Mutex::default(),
            processes: Mutex::new(plan.relays.iter().map(|_| None).collect()),
            callers: Mutex::new(plan.callers.iter().map(|_| (0, false)).collect()),
            shown: Mutex::default(),
            dead: Mutex::default(),
            relays: Mutex::default(),
            unheard: Mutex::default(),
            slept: Mutex::default(),
            lanes: AtomicU16::new(plan.lanes),
            breaks: Mutex::default(),
            went: Mutex::default(),
            wake: Notify::new(),
            over: AtomicBool::new(false),
            plan,
        })
    }

    /// A stream of random numbers for one purpose, whatever else happens.
    pub(super) fn rng(&self, purpose: u64, index: u64) -> Rng {
        let mut rng = Rng::with_seed(self.plan.seed ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Rng::with_seed(rng.u64(..) ^ index.wrapping_mul(0xd1b5_4a32_d192_ed03))
    }

    /// Counts what happens, to say what came before what.
    pub(super) fn step(&self) -> u64 {
        self.steps.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    pub(super) fn at(&self, since_start: Duration) -> Instant {
        self.start + since_start
    }

    pub(super) fn tell(&self, what: impl FnOnce() -> String) {
        if let Some(story) = &self.story {
            let line = format!("{:>9.3} {}", self.elapsed().as_secs_f64(), what());
            story.lock().unwrap().push(line);
        }
    }

    pub(super) fn reach(&self, situation: Situation) {
        *self.reached.lock().unwrap().entry(situation).or_default() += 1;
        self.tell(|| format!("                                                        ({})", situation.what()));
    }

    pub(super) fn violate(&self, what: String) {
        self.tell(|| format!("VIOLATION: {what}"));
        self.violations.lock().unwrap().push(what);
    }

    pub(super) fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }

    pub(super) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap()
    }

    pub(super) fn processes(&self) -> MutexGuard<'_, Vec<Option<Arc<Process>>>> {
        self.processes.lock().unwrap()
    }

    /// A caller goes about its next emit. False if it has none.
    pub(super) fn next_emit(&self, caller: usize) -> bool {
        let (begun, is_busy) = &mut self.callers.lock().unwrap()[caller];
        *is_busy = *begun < self.plan.callers[caller].emits;
        *begun += usize::from(*is_busy);
        *is_busy
    }

    /// A caller has heard what became of its emit.
    pub(super) fn emitted(&self, caller: usize) {
        self.callers.lock().unwrap()[caller].1 = false;
    }

    /// The callers of a place are gone.
    pub(super) fn forget_callers(&self, place: usize) {
        let mut callers = self.callers.lock().unwrap();
        for ((_, is_busy), _) in callers.iter_mut().zip(&self.plan.callers).filter(|(_, plan)| plan.process == place) {
            *is_busy = false;
        }
    }

    /// Whether every caller has emitted what it wanted to, and has heard of all of it.
    pub(super) fn callers_are_done(&self) -> bool {
        let callers = self.callers.lock().unwrap();
        callers.iter().zip(&self.plan.callers).all(|((begun, is_busy), plan)| *begun >= plan.emits && !is_busy)
    }

    /// The lane of a key.
    pub(super) fn lane_of(&self, key: &[u8]) -> u16 {
        lane::of_key(key, self.lanes.load(Ordering::SeqCst))
    }

    /// Whoever relays the lane from now on may not know what was delivered of it.
    pub(super) fn breaks(&self, lane: u16) {
        *self.breaks.lock().unwrap().entry(lane).or_default() += 1;
    }

    /// How often that was so.
    pub(super) fn breaks_of(&self, lane: u16) -> u64 {
        self.breaks.lock().unwrap().get(&lane).copied().unwrap_or(0)
    }

    /// The number of a relay, in the order in which they came.
    pub(super) fn relay_of(&self, owner: Uuid, place: usize) -> usize {
        let mut relays = self.relays.lock().unwrap();
        relays.iter().position(|(id, _)| *id == owner).unwrap_or_else(|| {
            relays.push((owner, place));
            relays.len() - 1
        })
    }

    /// The relays of a place, dead or alive.
    pub(super) fn relays_of(&self, place: usize) -> Vec<usize> {
        let relays = self.relays.lock().unwrap();
        relays.iter().enumerate().filter(|(_, (_, of))| *of == place).map(|(index, _)| index).collect()
    }

    /// Whether the database has the lane down as one of this place, and its relay knows the lease.
    pub(super) fn is_owner(&self, lane: u16, place: usize) -> bool {
        if self.unheard.lock().unwrap().contains(&lane) {
            return false;
        }
        let owner = self.database().owners()[usize::from(lane)].1;
        owner.is_some_and(|owner| self.relays.lock().unwrap()[owner].1 == place)
    }

    /// A lane was leased anew, and was that of another relay before.
    pub(super) fn lane_is_lost(&self, lane: u16, before: Option<usize>, has_run_out: bool) {
        let Some(before) = before else { return };
        if has_run_out {
            self.reach(Situation::TakenOver);
            let place = self.relays.lock().unwrap()[before].1;
            let process = self.processes()[place].clone();
            if let Some(process) = process {
                process.lost(lane);
            }
        }
    }

    /// Whether numbers that were rolled back are settled by now.
    pub(super) fn look_at_the_dead(&self, database: &Database) {
        let pinned = self.has(|fault| fault == Fault::Pinned);
        self.dead.lock().unwrap().retain(|(lane, number, life)| {
            if *life != database.life {
                return false;
            }
            if database.is_sqlite {
                if database.last(*lane) >= *number {
                    self.reach(Situation::NumberDrawnAgain);
                    return false;
                }
                return true;
            }
            if !database.is_settled(*lane, *number) {
                return true;
            }
            let is_top = database.last(*lane) == *number;
            self.reach(if is_top { Situation::DeadTop } else { Situation::DeadNumber });
            if pinned {
                self.reach(Situation::ClosedUnderPin);
            }
            false
        });
    }

    /// Whether such a fault holds now.
    pub(super) fn has(&self, is: impl Fn(Fault) -> bool) -> bool {
        self.until(is).is_some()
    }

    /// Until when such a fault holds.
    fn until(&self, is: impl Fn(Fault) -> bool) -> Option<Duration> {
        let now = self.elapsed();
        let holding = self.plan.faults.iter().filter(|window| window.at <= now && now < window.at + window.lasts);
        holding.filter(|window| is(window.fault)).map(|window| window.at + window.lasts).max()
    }

    /// Waits until no such fault holds, and says whether one did.
    pub(super) async fn outlast(&self, is: impl Fn(Fault) -> bool + Send + Sync) -> bool {
        let mut waited = false;
        while let Some(until) = self.until(&is) {
            waited = true;
            sleep_until(self.at(until)).await;
        }
        waited
    }

    /// Runs something outside of all processes.
    pub(super) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        Handle::current().spawn(Caught::new(self, task));
    }

    /// A process sleeps now.
    pub(super) fn sleeps(&self, place: usize) {
        self.slept.lock().unwrap().insert(place);
    }

    /// Whether a process of this place has ever slept.
    pub(super) fn has_slept(&self, place: usize) -> bool {
        self.slept.lock().unwrap().contains(&place)
    }

    /// An event of the key went directly, or not.
    pub(super) fn went(&self, place: usize, key: usize, directly: bool) {
        let before = self.went.lock().unwrap().insert((place, key), directly);
        if directly && before == Some(false) {
            self.reach(Situation::DirectAgain);
        }
    }

    /// Does something a little later.
    pub(super) fn spawn_later(self: &Arc<Self>, pause: Duration, task: impl FnOnce() + Send + 'static) {
        self.spawn(async move {
            sleep(pause).await;
            task();
        });
    }

    /// Ends everything.
    pub(super) fn end(&self) -> (Vec<String>, Vec<String>, BTreeMap<Situation, u64>) {
        self.over.store(true, Ordering::SeqCst);
        // They keep the world, and it does not keep them: a million runs have no room for what is left of each.
        for process in std::mem::take(&mut *self.processes()).into_iter().flatten() {
            process.end();
            process.producer.lock().unwrap().take();
        }
        let story = self.story.as_ref().map(|story| std::mem::take(&mut *story.lock().unwrap()));
        let violations = std::mem::take(&mut *self.violations.lock().unwrap());
        (violations, story.unwrap_or_default(), std::mem::take(&mut *self.reached.lock().unwrap()))
    }

    /// Takes a line of the log into the story.
    pub(super) fn log(&self, line: &str) {
        self.tell(|| format!("    log: {}", line.trim()));
    }
}

/// A task whose panic is a violation.
pub(super) struct Caught {
    world: Arc<World>,
    task: BoxFuture<'static, ()>,
}

impl Caught {
    pub(super) fn new(world: &Arc<World>, task: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { world: Arc::clone(world), task: Box::pin(task) }
    }
}

impl Future for Caught {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let task = self.task.as_mut();
        match std::panic::catch_unwind(AssertUnwindSafe(|| task.poll(context))) {
            Ok(poll) => poll,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                self.world.violate(format!("a task panicked: {}", text.unwrap_or_default()));
                // What it leaves behind may be poisoned: it is not dropped here.
                self.task = Box::pin(std::future::pending());
                Poll::Ready(())
            }
        }
    }
}
