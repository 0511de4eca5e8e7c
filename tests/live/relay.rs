//! Relays that come and go, and databases that cut their connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{PgPool, Postgres, Transaction};
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, Producer};
use tokio::task::JoinSet;

use crate::support::events::{Ledger, Sequence, catalog};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, emit_until_direct, logged, settled, world};

/// Stores events of so many keys, in transactions with one event of each.
async fn fill(world: &World, producer: &Producer, keys: usize, rounds: usize) -> (Ledger, Vec<Sequence>) {
    let ledger = Ledger::default();
    let mut sequences: Vec<_> = (0..keys).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    let pool = world.pool();
    for _ in 0..rounds {
        let events: Vec<_> = sequences.iter_mut().map(Sequence::next).collect();
        let mut tx = pool.begin().await.unwrap();
        producer.emit_all_in(&mut tx, events.iter().map(|event| event.request()).collect()).await.unwrap();
        tx.commit().await.unwrap();
        ledger.accept_all(events);
    }
    (ledger, sequences)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_that_stop_and_die_in_mid_drain_lose_nothing_and_keep_order() {
    /// Several times what a relay reads ahead, so that a stop leaves some.
    const ROUNDS: usize = 60;
    let world = world!();
    let producer = world.producer().await;
    let (ledger, mut sequences) = fill(&world, &producer, 500, ROUNDS).await;
    let (pool, total) = (world.pool(), i64::try_from(ledger.accepted_count()).unwrap());
    let moves = async || {
        let before = settled(&pool).await;
        eventually("the relay moves", async || (settled(&pool).await > before).then_some(())).await;
    };
    let first = RunningRelay::of(&producer);
    moves().await;
    first.stop().await;
    assert!(settled(&pool).await < total, "all was drained before the first relay stopped");
    let second = RunningRelay::of(&producer);
    moves().await;
    second.kill().await;
    assert!(settled(&pool).await < total, "all was drained before the second relay died");
    let third = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    for sequence in &mut sequences {
        ledger.emit(&emitter, sequence.next()).await.unwrap();
    }
    // It has to wait until the leases of the dead one have run out.
    let verdict = world.verdict(&ledger).await;
    println!("{total} rows over three relays: {} duplicates", verdict.duplicates);
    verdict.assert_kept();
    let whole = logged(&pool).await;
    eventually("the progress is saved", async || (settled(&pool).await == whole).then_some(())).await;
    emit_until_direct(&emitter, &ledger, &mut sequences[0]).await;
    third.stop().await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_outlives_cuts_of_its_database_connections() {
    let world = world!();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let cut = "select count(pg_terminate_backend(pid)) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid() and query like '%tidings.%'";
    for _ in 0..10 {
        for _ in 0..20 {
            let event = sequence.next();
            let mut tx = pool.begin().await.unwrap();
            let appended = producer.emit_in(&mut tx, event.request()).await;
            // The service's own connection may be among the cut ones.
            match (appended, tx.commit().await) {
                (Ok(_), Ok(())) => ledger.accept(event),
                _ => ledger.doubt(event),
            }
        }
        let mut connection = pool.acquire().await.unwrap();
        sqlx::query(cut).execute(&mut *connection).await.unwrap();
    }
    assert!(ledger.accepted_count() > 0);
    world.verdict(&ledger).await.assert_kept();
    assert!(relay.is_running());
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn producer_and_relay_outlive_database_connections_that_fall_silent() {
    silence_connections(async |_| None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_outlives_a_connection_that_falls_silent_while_it_reads_a_page() {
    silence_connections(async |pool| {
        let mut tx = pool.begin().await.unwrap();
        sqlx::query("lock table tidings.outbox in access exclusive mode").execute(&mut *tx).await.unwrap();
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock' and query like '%horizon%'";
        eventually("the relay waits for a page", async || {
            let waiting: i64 = sqlx::query_scalar(waits).fetch_one(pool).await.unwrap();
            (waiting > 0).then_some(())
        })
        .await;
        Some(tx)
    })
    .await;
}

/// Lets the connections that producer and relay have fall silent, at a moment that the test `prepares`.
async fn silence_connections(prepares: impl AsyncFnOnce(&PgPool) -> Option<Transaction<'static, Postgres>>) {
    let world = world!();
    let (proxy, outbox) = world.outbox_behind_proxy().await;
    let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let relay = RunningRelay::of(&producer);
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let mut store = async |count: usize| {
        for event in sequence.take(count) {
            let result = producer.emit(event.request().policy(always)).await;
            let failed = result.is_err();
            ledger.enter(event, &result);
            if failed {
                return false;
            }
        }
        true
    };
    assert!(store(20).await);
    let held = prepares(&world.pool()).await;
    proxy.silence_open();
    drop(held);
    // Some may fail, each after its timeout, until the pool has new connections.
    eventually("events are stored again", async || store(20).await.then_some(())).await;
    world.verdict(&ledger).await.assert_kept();
    assert!(relay.is_running());
}

/// Emits that look the lanes up wait for the database half a second. What they have given up must not use its connections up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lookups_on_connections_that_fell_silent_leave_some_for_those_who_store() {
    let world = world!();
    let (proxy, outbox) = world.outbox_behind_proxy().await;
    let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    // As many at once as there are connections: each has one of its own from then on.
    let mut storing = JoinSet::new();
    for key in 0..16 {
        let producer = producer.clone();
        let event = Sequence::of(format!("stored-{key}")).next();
        storing.spawn(async move { producer.emit(event.request().policy(always)).await });
    }
    assert!(storing.join_all().await.iter().all(Result::is_ok));
    proxy.silence_open();
    let mut direct = Sequence::of("direct");
    let until = Instant::now() + Duration::from_secs(12);
    while Instant::now() < until {
        let _ = producer.emit(direct.next().request()).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    producer.emit(Sequence::of("stored").next().request().policy(always)).await.unwrap();
}
