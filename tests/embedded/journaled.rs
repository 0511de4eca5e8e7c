//! Events that go to the relay from memory once they are committed.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::Acquire;
use tidings::testing::MockEmitter;
use tidings::{Emitter, EmitterExt, Producer};

use crate::support::callers::Callers;
use crate::support::counting::Counting;
use crate::support::events::{Ledger, Sequence, catalog};
use crate::support::journaled::{Mixed, journaled};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, begin};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_is_not_read_from_the_database() {
    const EVENTS: usize = 60;
    let world = World::new().await;
    let (outbox, rows_read) = Counting::of(world.outbox());
    let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    // The relay has its lanes.
    let first = sequence.next();
    producer.emit(first.request().policy(journaled())).await.unwrap();
    ledger.accept(first);
    world.drained().await;
    let before = rows_read.load(Ordering::SeqCst);
    for event in sequence.take(EVENTS) {
        let mut tx = begin(&pool).await;
        let receipt = producer.emit_in(&mut tx, event.request().policy(journaled())).await.unwrap();
        producer.commit(tx, receipt).await.unwrap();
        ledger.accept(event);
    }
    for event in sequence.take(EVENTS) {
        producer.emit(event.request().policy(journaled())).await.unwrap();
        ledger.accept(event);
    }
    world.verdict(&ledger).await.assert_kept();
    world.drained().await;
    // A poll may find one between its commit and the word of it, often so on a busy machine; without the word it reads all.
    let read = rows_read.load(Ordering::SeqCst) - before;
    assert!(read < EVENTS * 3 / 2, "{read} of {} rows were read", 2 * EVENTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_nobody_hands_over_arrives_a_little_later_and_in_order() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let first = sequence.next();
    producer.emit(first.request().policy(journaled())).await.unwrap();
    ledger.accept(first);
    world.drained().await;
    let store = async |is_forgotten: bool, sequence: &mut Sequence| {
        let event = sequence.next();
        let mut tx = begin(&pool).await;
        let receipt = producer.emit_in(&mut tx, event.request().policy(journaled())).await.unwrap();
        tx.commit().await.unwrap();
        if !is_forgotten {
            producer.committed(vec![receipt]);
        }
        ledger.accept(event);
    };
    store(true, &mut sequence).await;
    let forgotten_at = Instant::now();
    world.drained().await;
    // A poll of an idle relay may be a second away; the machine may be slow.
    assert!(forgotten_at.elapsed() < Duration::from_secs(5));
    for number in 0..30 {
        store(number % 2 == 0, &mut sequence).await;
    }
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_by_callers_that_mix_all_ways_while_relays_come_and_go() {
    let world = World::new().await;
    let producer = world.producer().await;
    let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
    let mut callers = Callers::start(8, &emitter, Mixed { pool: world.pool(), begin: "begin immediate" });
    for round in 0..3 {
        let relay = RunningRelay::of(&producer);
        callers.store(60).await;
        if round == 1 {
            // The next one has to wait until the leases of this one have run out.
            relay.kill().await;
        } else {
            relay.stop().await;
        }
        callers.store(20).await;
    }
    let _relay = RunningRelay::of(&producer);
    callers.store(60).await;
    callers.stop().await;
    assert_eq!(callers.tally.failed.load(Ordering::SeqCst), 0);
    world.verdict(&callers.ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_hands_nothing_over_before_its_transaction_is_committed() {
    let world = World::new().await;
    let (pool, mock) = (world.pool(), MockEmitter::new(catalog()));
    let is_committed = || mock.emissions()[0].is_committed;
    let mut tx = begin(&pool).await;
    let mut savepoint = tx.begin().await.unwrap();
    let receipt = mock.emit_in(&mut savepoint, Sequence::of("tenant-1").next().request()).await.unwrap();
    mock.commit(savepoint, receipt.clone()).await.unwrap();
    assert!(!is_committed());
    mock.commit(tx, receipt).await.unwrap();
    assert!(is_committed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_handed_over_waits_for_the_others_of_its_key_in_the_outbox() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    // Before there is a relay, and while it begins.
    for event in sequence.take(20) {
        let mut tx = begin(&pool).await;
        let receipt = producer.emit_in(&mut tx, event.request().policy(journaled())).await.unwrap();
        producer.commit(tx, receipt).await.unwrap();
        ledger.accept(event);
    }
    let _relay = RunningRelay::of(&producer);
    for event in sequence.take(50) {
        producer.emit(event.request().policy(journaled())).await.unwrap();
        ledger.accept(event);
    }
    eventually("all is settled", async || (world.settled().await == 70).then_some(())).await;
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0);
}
