//! Relays that come and go.

use std::sync::Arc;
use std::time::Duration;

use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, Producer};

use crate::scripted::ScriptedTransport;
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::murmur2::neighbour_of;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::{eventually, until};
use crate::world::{LANES, World, begin, settled};

/// Batches of some twenty records: with a slow broker a drain takes some seconds, in which there is time to intervene.
const SMALL_BATCHES: (&str, &str) = ("STREAMING_BATCH_MAX_BYTES", "10000");

/// Stores so many events of each of these keys, in one transaction for each round of the keys.
async fn fill(world: &World, producer: &Producer, keys: usize, rounds: usize) -> (Ledger, Vec<Sequence>) {
    let ledger = Ledger::default();
    let mut sequences: Vec<_> = (0..keys).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    let pool = world.pool();
    for _ in 0..rounds {
        let events: Vec<_> = sequences.iter_mut().map(Sequence::next).collect();
        let mut tx = begin(&pool).await;
        producer.emit_all_in(&mut tx, events.iter().map(|event| event.request()).collect()).await.unwrap();
        tx.commit().await.unwrap();
        ledger.accept_all(events);
    }
    (ledger, sequences)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_stopped_and_started_in_mid_drain_loses_nothing_and_keeps_order() {
    /// More than a relay reads ahead, so that it stops with rows left.
    const ROUNDS: usize = 80;
    let world = World::new().await;
    let producer = world.producer_with(&[SMALL_BATCHES]).await;
    let (ledger, _) = fill(&world, &producer, 100, ROUNDS).await;
    let total = i64::try_from(ledger.accepted_count()).unwrap();
    world.slow_broker(Duration::from_millis(50));
    let (pool, mut stops) = (world.pool(), 0);
    loop {
        let before = settled(&pool).await;
        let relay = RunningRelay::of(&producer);
        eventually("the relay moves", async || (settled(&pool).await > before).then_some(())).await;
        relay.stop().await;
        if settled(&pool).await == total {
            break;
        }
        stops += 1;
    }
    assert!(stops > 0, "all was drained before the first stop");
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0, "a relay that stops has told what it sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_dies_in_mid_drain_is_taken_over_and_order_is_kept() {
    let world = World::new().await;
    let producer = world.producer_with(&[SMALL_BATCHES]).await;
    let (ledger, mut sequences) = fill(&world, &producer, 100, 60).await;
    let total = i64::try_from(ledger.accepted_count()).unwrap();
    world.slow_broker(Duration::from_millis(50));
    let pool = world.pool();
    let first = RunningRelay::of(&producer);
    eventually("the first relay moves", async || (settled(&pool).await > 0).then_some(())).await;
    let second = RunningRelay::of(&producer);
    first.kill().await;
    assert!(settled(&pool).await < total, "all was drained before the first relay died");
    world.slow_broker(Duration::ZERO);
    for sequence in sequences.iter_mut().take(10) {
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    // It has to wait until the leases have run out.
    world.drained().await;
    world.verdict(&ledger).await.assert_kept();
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_stopped_frees_its_lanes_at_once() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, _) = fill(&world, &producer, 5, 1).await;
    let relay = RunningRelay::of(&producer);
    world.drained().await;
    relay.stop().await;
    let owned = "select count(*) from tidings_lane where owner is not null";
    assert_eq!(sqlx::query_scalar::<_, i64>(owned).fetch_one(&world.pool()).await.unwrap(), 0);
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_relay_stops_as_soon_as_it_is_told_to() {
    let world = World::new().await;
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    tokio::task::yield_now().await;
    relay.stop().await;
    // Told before it began.
    producer.relay(std::future::ready(())).await.unwrap();
    world.producer_without_outbox(&[]).await.relay(std::future::ready(())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_starts_while_the_broker_is_down_and_drains_when_it_is_back() {
    let world = World::new().await;
    world.broker_down();
    let producer = world.producer().await;
    let (ledger, mut sequences) = fill(&world, &producer, 20, 3).await;
    let relay = RunningRelay::of(&producer);
    for sequence in &mut sequences {
        assert!(!is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()));
    }
    assert_eq!(world.settled().await, 0);
    assert!(relay.is_running());
    world.broker_up();
    world.drained().await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_takes_over_reads_a_key_in_order_behind_many_unsettled_rows() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, directory) = crate::world::producer_on(Arc::clone(&transport) as _).await;
    let pool = sqlx::SqlitePool::connect(directory.path().join("shop.sqlite").to_str().unwrap()).await.unwrap();
    let neighbour = neighbour_of("slow", LANES);
    let mut slow = Sequence::of("slow");
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let first = RunningRelay::of(&producer);
    // Nothing follows the first record of a key before that has arrived.
    producer.emit(slow.next().request().policy(always)).await.unwrap();
    until("the first one has arrived", || transport.numbers_of("slow").len() == 1).await;
    let mut events = slow.take(200);
    events.push(Sequence::of(neighbour).next());
    events.extend(slow.take(100));
    // The first relay has all of them in flight, and sees one arrive, in the middle.
    transport.hold("slow");
    for event in events {
        producer.emit(event.request().policy(always)).await.unwrap();
    }
    until("all are in flight", || transport.held_count() == 300).await;
    eventually("the progress is saved", async || (settled(&pool).await == 2).then_some(())).await;
    first.kill().await;
    transport.forget();
    // As if its leases had run out.
    sqlx::query("update tidings_lane set owner = null").execute(&pool).await.unwrap();
    let _second = RunningRelay::of(&producer);
    until("all have arrived", || transport.numbers_of("slow").len() == 301).await;
    assert_eq!(transport.numbers_of("slow"), (1..=301).collect::<Vec<_>>());
}
