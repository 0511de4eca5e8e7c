//! Relays in processes of their own, which are paused and killed by signals.

use std::env;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{ConnectOptions, PgPool};
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, PostgresOutbox};
use tokio::task::JoinSet;

use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, settled, world};

/// Brokers, prefix of the topics, and database of a relay that is a process.
const VARIABLES: [&str; 3] = ["TIDINGS_TEST_RELAY_BROKERS", "TIDINGS_TEST_RELAY_PREFIX", "TIDINGS_TEST_RELAY_DATABASE"];

/// Not a test, but what the processes of the others run: a relay, until it is killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Ok(variables) = VARIABLES.iter().map(env::var).collect::<Result<Vec<_>, _>>() else { return };
    let [brokers, prefix, database] = &variables[..] else { unreachable!("there are three") };
    let settings = [
        ("STREAMING_ENABLED", "true"),
        ("STREAMING_BROKERS", brokers),
        ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
        ("STREAMING_TOPIC_PREFIX", prefix),
    ];
    let config = tidings::Config::from_vars(settings).unwrap();
    let outbox = PostgresOutbox::connect(database).unwrap();
    let producer = tidings::Producer::builder(config, crate::support::events::catalog())
        .with_outbox(outbox)
        .build()
        .await
        .unwrap();
    producer.relay(std::future::pending()).await.unwrap();
}

/// A relay that is a process, killed when it is dropped.
struct Process(Child);

impl Process {
    fn start(world: &World) -> Self {
        let values = [&world.brokers, &world.prefix, world.options().to_url_lossy().as_str()].map(str::to_owned);
        let child = Command::new(env::current_exe().unwrap())
            .args(["processes::process", "--exact", "--test-threads=1"])
            .envs(VARIABLES.into_iter().zip(values))
            .stdout(std::process::Stdio::null())
            .spawn();
        Self(child.unwrap())
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.0.id().to_string()]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// The owners of lanes, each with how many it has.
async fn owners(pool: &PgPool) -> Vec<(String, i64)> {
    let select = "select owner, count(*) from tidings.lane where owner is not null and lease_until > clock_timestamp()
                  group by owner order by owner";
    sqlx::query_as(select).fetch_all(pool).await.unwrap()
}

/// Epochs and settled numbers of all lanes.
async fn lanes(pool: &PgPool) -> Vec<(i64, String)> {
    sqlx::query_as("select epoch, published::text from tidings.lane order by lane").fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_was_paused_beyond_its_leases_writes_nothing_and_reorders_nothing() {
    let world = world!();
    let (pool, ledger, producer) = (world.pool(), Ledger::default(), world.producer().await);
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut stored = 0;
    for n in 0..60 {
        let events = Sequence::of(format!("tenant-{n}")).take(1_000);
        let requests = events.iter().map(|event| event.request().policy(always)).collect();
        assert!(producer.emit_batch(requests).await.iter().all(Result::is_ok));
        stored += i64::try_from(events.len()).unwrap();
        ledger.accept_all(events);
    }
    let paused = Process::start(&world);
    eventually("the relay has begun to drain", async || (settled(&pool).await > 0).then_some(())).await;
    paused.signal("-STOP");
    let before = settled(&pool).await;
    assert!(before < stored, "it was too fast to be paused in the middle");
    let [(owner, 32)] = &owners(&pool).await[..] else { panic!("the paused relay has all lanes") };
    let relay = RunningRelay::of(&producer);
    eventually("the other relay has drained", async || (settled(&pool).await == stored).then_some(())).await;
    let lanes_before = lanes(&pool).await;
    paused.signal("-CONT");
    // What its client holds it may deliver still. It asks for lanes, gets its share, and has nothing to do.
    eventually("it is back", async || {
        let owners = owners(&pool).await;
        (owners.len() == 2 && owners.iter().any(|(other, lanes)| other == owner && *lanes == 16)).then_some(())
    })
    .await;
    for ((epoch_before, settled_before), (epoch, settled)) in lanes_before.iter().zip(lanes(&pool).await) {
        assert!(*settled_before == settled && epoch >= *epoch_before);
    }
    world.verdict(&ledger).await.assert_kept();
    relay.stop().await;
}

/// Uniform enough for a test, and the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// Emits in transactions of all lengths, with savepoints, some rolled back, until the time is over.
async fn transact(caller: u64, emitter: Arc<dyn Emitter>, pool: PgPool, ledger: Arc<Ledger>, until: Instant) {
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (caller + 1));
    let mut sequence = Sequence::of(format!("tenant-{caller}"));
    while Instant::now() < until {
        let mut tx = pool.begin().await.unwrap();
        let mut events = Vec::new();
        for _ in 0..=dice.below(3) {
            if dice.below(3) == 0 {
                let undone = Sequence::of(format!("undone-{caller}")).next();
                sqlx::query("savepoint s").execute(&mut *tx).await.unwrap();
                emitter.emit_in(&mut tx, undone.request()).await.unwrap();
                let end = ["release s", "rollback to s"][usize::from(dice.below(2) == 0)];
                if end == "release s" {
                    events.push(undone);
                }
                sqlx::query(end).execute(&mut *tx).await.unwrap();
            }
            let event = sequence.next();
            emitter.emit_in(&mut tx, event.request()).await.unwrap();
            events.push(event);
        }
        let open_ms = if dice.below(10) == 0 { dice.below(3_000) } else { dice.below(40) };
        tokio::time::sleep(Duration::from_millis(open_ms)).await;
        if dice.below(4) == 0 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            ledger.accept_all(events);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_transactions_keep_their_promises_while_relays_come_go_and_are_killed() {
    let world = world!();
    let ledger = Arc::new(Ledger::default());
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(32).connect_lazy_with(world.options());
    let until = Instant::now() + Duration::from_secs(25);
    let mut callers = JoinSet::new();
    for caller in 0..24 {
        callers.spawn(transact(caller, Arc::clone(&emitter), pool.clone(), Arc::clone(&ledger), until));
    }
    let another = world.producer().await;
    let mut processes = vec![Process::start(&world), Process::start(&world)];
    tokio::time::sleep(Duration::from_secs(5)).await;
    let here = RunningRelay::of(&another);
    tokio::time::sleep(Duration::from_secs(3)).await;
    drop(processes.remove(0)); // SIGKILL
    tokio::time::sleep(Duration::from_secs(3)).await;
    here.stop().await;
    processes.push(Process::start(&world));
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let verdict = world.verdict(&ledger).await;
    println!("{} accepted, {} duplicates", ledger.accepted_count(), verdict.duplicates);
    verdict.assert_kept();
}
