//! A deterministic simulation: producers and relays as they are, on models of brokers, database, clocks and crashes, in virtual
//! time, everything else chosen by a seed. At the end of each run it is checked whether the promises were kept.
//!
//! `scripts/simulate` runs many seeds, or one that is told and shrunk.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::{sleep, sleep_until};

mod broker;
mod callers;
mod database;
mod faults;
mod ledger;
mod plan;
mod process;
mod session;
mod situation;
mod tests;
mod world;

use callers::Caller;
use plan::{Plan, QUIET_AT};
use process::Process;
use situation::Situation;
use world::World;

/// How long callers may take to finish once nothing goes wrong any more.
const CALLERS_FINISH_WITHIN: Duration = Duration::from_secs(120);

/// How long it may take until everything accepted is there. A parked key is tried again after five minutes at the latest.
const RESTS_WITHIN: Duration = Duration::from_secs(900);

/// What became of a run.
#[derive(Debug)]
struct Outcome {
    violations: Vec<String>,
    story: Vec<String>,
    reached: BTreeMap<Situation, u64>,
}

/// Runs a plan.
fn run(plan: Plan, told: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(plan, told);
        let log = told.then(|| tests::log_to(&world));
        for place in 0..world.plan.relays.len() {
            world.spawn(process::keep_alive(Arc::clone(&world), place));
        }
        faults::schedule(&world);
        sleep_until(world.at(QUIET_AT)).await;
        world.tell(|| "from now on nothing goes wrong".to_owned());
        finish(&world).await;
        let (violations, story, reached) = world.end();
        drop(log);
        Outcome { violations, story, reached }
    })
}

/// Waits until everything has come to rest, and checks what is there.
async fn finish(world: &Arc<World>) {
    if !within(CALLERS_FINISH_WITHIN, || world.callers_are_done()).await {
        return world.violate("callers wait for ever".to_owned());
    }
    let is_done = || world.database().is_at_rest() && judge(world).missing.is_empty();
    let rests = within(RESTS_WITHIN, is_done).await;
    if !rests {
        let missing = judge(world).missing;
        world.violate(format!(
            "not at rest: {missing:?} were accepted and are not there; lanes {:?}",
            world.database().heads()
        ));
    } else if let Some((place, key)) = find_stored(world).await {
        world.violate(format!("events of k{key} do not go direct again from the process in place {place}"));
    }
    let verdict = judge(world);
    for situation in verdict.situations {
        world.reach(situation);
    }
    for violation in verdict.violations {
        world.violate(violation);
    }
}

fn judge(world: &World) -> ledger::Verdict {
    let cluster = world.cluster();
    ledger::judge(&world.ledger(), &cluster.log, &world.plan)
}

/// A process and a key whose events are still stored though nothing is wrong.
async fn find_stored(world: &Arc<World>) -> Option<(usize, usize)> {
    for place in 0..world.plan.relays.len() {
        if let Some(key) = first_stored(world, place).await {
            return Some((place, key));
        }
    }
    None
}

/// The first key whose events are still stored by the process in this place.
async fn first_stored(world: &Arc<World>, place: usize) -> Option<usize> {
    let is_ending = |process: &Process| process.is_dead() || process.stopping.load(Ordering::SeqCst);
    'process: loop {
        let (process, producer) = loop {
            let process = world.processes()[place].clone().filter(|process| !is_ending(process));
            let producer = process.as_ref().and_then(|process| process.producer.lock().unwrap().clone());
            if let Some(alive) = process.zip(producer) {
                break alive;
            }
            sleep(Duration::from_millis(100)).await;
        };
        let mut caller = Caller::new(world, &process, producer, world.step());
        for key in 0..world.plan.keys {
            let mut tries = 0;
            while !caller.goes_direct(key).await {
                // It was asked to before, and makes room for another.
                if is_ending(&process) {
                    continue 'process;
                }
                tries += 1;
                if tries == 60 {
                    return Some(key);
                }
                sleep(Duration::from_millis(500)).await;
            }
        }
        return None;
    }
}

/// Whether the condition is met in this time.
async fn within(limit: Duration, condition: impl Fn() -> bool + Send + Sync) -> bool {
    let met = async {
        while !condition() {
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(limit, met).await.is_ok()
}

/// The smallest plan that is found to fail as well.
fn shrink(mut plan: Plan) -> Plan {
    let mut tries = 300;
    'smaller: loop {
        for smaller in plan.smaller() {
            if tries == 0 {
                return plan;
            }
            tries -= 1;
            if !run(smaller.clone(), false).violations.is_empty() {
                plan = smaller;
                continue 'smaller;
            }
        }
        return plan;
    }
}

/// Of many runs.
#[derive(Debug, Default)]
struct Summary {
    runs: u64,
    failed: BTreeSet<u64>,
    reached: BTreeMap<Situation, u64>,
}

/// Runs these seeds on so many threads, until too many have failed.
fn run_all(seeds: std::ops::Range<u64>, threads: usize) -> Summary {
    let next = AtomicU64::new(seeds.start);
    let work = || {
        let mut summary = Summary::default();
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end || summary.failed.len() >= 5 {
                return summary;
            }
            let outcome = run(Plan::new(seed), false);
            summary.runs += 1;
            // In how many runs, not how often.
            for situation in outcome.reached.into_keys() {
                *summary.reached.entry(situation).or_default() += 1;
            }
            if !outcome.violations.is_empty() {
                // At once: a million takes its time.
                println!("seed {seed}: {}\n    scripts/simulate --seed {seed}", outcome.violations[0]);
                summary.failed.insert(seed);
            }
        }
    };
    let mut all = Summary::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let summary = worker.join().unwrap();
            all.runs += summary.runs;
            all.failed.extend(summary.failed);
            for (situation, count) in summary.reached {
                *all.reached.entry(situation).or_default() += count;
            }
        }
    });
    all
}
