use std::io::Write;
use std::pin::pin;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::*;
use crate::EventId;
use crate::outbox::{Row, lane};
use crate::producer::fallback::Fallback;
use crate::transport::Record;
use crate::wire::Headers;

/// Takes what the library logs into the story.
struct Log(Weak<World>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        if let Some(world) = self.0.upgrade() {
            world.log(&String::from_utf8_lossy(text));
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub(super) fn log_to(world: &Arc<World>) -> tracing::subscriber::DefaultGuard {
    let world = Arc::downgrade(world);
    let log = tracing_subscriber::fmt()
        .with_env_filter("tidings=debug")
        .with_ansi(false)
        .without_time()
        .with_target(false)
        .with_writer(move || Log(Weak::clone(&world)))
        .finish();
    tracing::subscriber::set_default(log)
}

/// A number of the environment.
#[expect(clippy::disallowed_methods, reason = "it says how long a test is to run, and configures nothing")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

#[test]
fn the_same_seed_is_the_same_history() {
    for seed in 0..20 {
        let [first, second] = [0, 1].map(|_| {
            let story = run(Plan::new(seed), true).story;
            // What is logged depends on what else runs in this process.
            story.into_iter().filter(|line| !line.contains(" log: ")).collect::<Vec<_>>()
        });
        let different = first.iter().zip(&second).position(|(first, second)| first != second);
        if let Some(line) = different {
            panic!("seed {seed}: `{}` and `{}`", first[line], second[line]);
        }
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// With `SIMULATE_SEED` that one is told and shrunk; else `SIMULATE_SEEDS` are run, from `SIMULATE_FROM` on.
#[test]
fn promises_are_kept_whatever_happens() {
    if let Some(seed) = number("SIMULATE_SEED") {
        let (fails, reached) = tell(seed);
        println!("seeds=1 violations={} situations={reached}/{}", u8::from(fails), Situation::ALL.len());
        assert!(!fails, "seed {seed} breaks promises");
        return;
    }
    let (from, count) = (number("SIMULATE_FROM").unwrap_or(0), number("SIMULATE_SEEDS").unwrap_or(100));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Summary { runs, failed, reached } = run_all(from..from + count, threads);
    if let Some(seed) = failed.first() {
        tell(*seed);
    }
    for situation in Situation::ALL {
        println!("{:>8}  {}", reached.get(situation).copied().unwrap_or(0), situation.what());
    }
    // More than one in two thousand runs, or the run does not show much.
    let least = count / 2_000;
    let enough = Situation::ALL.iter().filter(|situation| reached.get(situation).copied().unwrap_or(0) > least).count();
    println!("seeds={runs} violations={} situations={enough}/{}", failed.len(), Situation::ALL.len());
    assert!(failed.is_empty(), "promises were broken");
    assert!(enough == Situation::ALL.len() || count < 2_000, "situations were not reached");
}

/// Tells the history of a seed, or that of a smaller plan that fails as well; yields whether it fails, and how many situations it
/// has reached.
fn tell(seed: u64) -> (bool, usize) {
    let mut plan = Plan::new(seed);
    let fails = !run(plan.clone(), false).violations.is_empty();
    if fails && number("SIMULATE_WHOLE").is_none() {
        plan = shrink(plan);
    }
    println!("{plan:#?}");
    let outcome = run(plan, true);
    for line in &outcome.story {
        println!("{line}");
    }
    for violation in &outcome.violations {
        println!("VIOLATION: {violation}");
    }
    (fails, outcome.reached.len())
}

/// What others have stored is in other lanes since, and nobody refuses anything to whoever does not store.
#[tokio::test(start_paused = true)]
async fn a_producer_that_only_sends_directly_hears_that_the_number_of_lanes_was_changed() {
    let world = World::new(Plan { lanes: 1, is_sqlite: false, faults: Vec::new(), ..Plan::new(0) }, false);
    let session = session::Session::new(&world, &Process::new(&world, 0, 1));
    let fallback = Fallback::open(Arc::new(session)).await.unwrap();
    let key = Bytes::from((0..).map(|key| format!("k{key}")).find(|key| lane::of_key(key.as_bytes(), 2) == 1).unwrap());
    assert!(world.database().try_change(2));
    store_elsewhere(&world, 1, &key);
    sleep(Duration::from_millis(100)).await;
    assert!(fallback.is_spilled(&key, 1, None).await, "an event of the key waits in a lane that was not there before");
}

/// Another process stores an event of the key.
fn store_elsewhere(world: &World, lane: u16, key: &Bytes) {
    let record = Record { topic: "t".into(), key: key.clone(), headers: Headers::default(), payload: None };
    let row = Row { lane, event_id: EventId::new(), definition_key: "d".into(), record };
    let mut database = world.database();
    let transaction = database.begin(None);
    database.insert(transaction, &[row], |_| 0);
    assert!(database.commit(transaction));
}

#[tokio::test(start_paused = true)]
async fn lanes_whose_look_up_was_dropped_are_looked_up_by_the_next_emit() {
    let world = World::new(Plan { lanes: 1, is_sqlite: false, faults: Vec::new(), ..Plan::new(0) }, false);
    let session = session::Session::new(&world, &Process::new(&world, 0, 1));
    let fallback = Fallback::open(Arc::new(session)).await.unwrap();
    let key = Bytes::from("k0");
    store_elsewhere(&world, 0, &key);
    sleep(Duration::from_millis(100)).await;
    assert!(tokio::time::timeout(Duration::ZERO, fallback.look_up()).await.is_err(), "it is dropped before it ends");
    assert!(fallback.is_spilled(&key, 1, None).await);
}

/// A producer that has not emitted for long, while another process has stored an event of the key.
async fn idle_producer() -> (Fallback, Bytes) {
    let world = World::new(Plan { lanes: 1, is_sqlite: false, faults: Vec::new(), ..Plan::new(0) }, false);
    let session = session::Session::new(&world, &Process::new(&world, 0, 1));
    let fallback = Fallback::open(Arc::new(session)).await.unwrap();
    let key = Bytes::from("k0");
    assert!(fallback.is_clear(&key));
    store_elsewhere(&world, 0, &key);
    sleep(Duration::from_secs(60)).await;
    (fallback, key)
}

#[tokio::test(start_paused = true)]
async fn an_emit_waits_for_another_that_looks_the_lanes_up_if_what_is_known_is_old() {
    let (fallback, key) = idle_producer().await;
    let ((), is_clear, is_spilled) = tokio::join!(fallback.look_up(), async { fallback.is_clear(&key) }, async {
        fallback.is_spilled(&key, 1, None).await
    });
    assert!(!is_clear && is_spilled);
    sleep(Duration::from_millis(100)).await;
    let begun = tokio::time::Instant::now();
    let ((), elapsed) = tokio::join!(fallback.look_up(), async {
        fallback.look_up().await;
        begun.elapsed()
    });
    assert_eq!(elapsed, Duration::ZERO, "what is known is of a moment ago");
}

#[tokio::test(start_paused = true)]
async fn an_emit_that_waits_for_another_that_is_dropped_looks_the_lanes_up_itself() {
    let (fallback, key) = idle_producer().await;
    let mut dropped = Box::pin(fallback.look_up());
    assert!(tokio::time::timeout(Duration::ZERO, &mut dropped).await.is_err(), "it has begun");
    let (is_spilled, ()) = tokio::join!(fallback.is_spilled(&key, 1, None), async { drop(dropped) });
    assert!(is_spilled);
}

/// A `select!` that goes on with another branch, and keeps the emit.
#[tokio::test(start_paused = true)]
async fn lanes_whose_look_up_is_left_alone_are_looked_up_by_another_emit_a_second_later() {
    let world = World::new(Plan { lanes: 1, is_sqlite: false, faults: Vec::new(), ..Plan::new(0) }, false);
    let session = session::Session::new(&world, &Process::new(&world, 0, 1));
    let fallback = Fallback::open(Arc::new(session)).await.unwrap();
    let key = Bytes::from("k0");
    sleep(Duration::from_millis(100)).await;
    let mut left_alone = pin!(fallback.look_up());
    assert!(tokio::time::timeout(Duration::ZERO, &mut left_alone).await.is_err(), "it has begun");
    store_elsewhere(&world, 0, &key);
    sleep(Duration::from_millis(990)).await;
    assert!(!fallback.is_spilled(&key, 1, None).await, "it is the turn of the one that is left alone");
    sleep(Duration::from_millis(10)).await;
    assert!(fallback.is_spilled(&key, 1, None).await);
}
