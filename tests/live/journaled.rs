//! Events that go to the relay from memory once they are committed, in PostgreSQL.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidings::{Emitter, EmitterExt, ErrorKind, Producer};

use crate::support::callers::Callers;
use crate::support::counting::Counting;
use crate::support::events::{Ledger, Sequence, catalog};
use crate::support::journaled::{Mixed, journaled};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{logged, settled, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_promise_is_kept_by_callers_that_mix_all_ways_while_relays_come_and_go() {
    let world = world!();
    let producers = [world.producer().await, world.producer().await];
    let mut callers: Vec<_> = producers
        .iter()
        .enumerate()
        .map(|(index, producer)| {
            let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
            let way = Mixed { pool: world.pool(), begin: "begin" };
            Callers::start_with(&format!("p{index}"), 8, &emitter, way)
        })
        .collect();
    for round in 0..3 {
        // The lanes are shared between the two, so that half of what each hands over is relayed by the other.
        let relays = producers.each_ref().map(RunningRelay::of);
        callers[0].store(150).await;
        let [first, second] = relays;
        first.stop().await;
        callers[1].store(150).await;
        if round == 1 {
            // The next ones have to wait until the leases of this one have run out.
            second.kill().await;
        } else {
            second.stop().await;
        }
        callers[0].store(30).await;
    }
    let _relays = producers.each_ref().map(RunningRelay::of);
    for callers in &mut callers {
        callers.store(150).await;
        callers.stop().await;
        assert_eq!(callers.tally.failed.load(Ordering::SeqCst), 0);
    }
    let ledger = Ledger::default();
    for callers in &callers {
        ledger.accept_all(callers.ledger.accepted());
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_handed_over_is_not_read_from_the_database() {
    const EVENTS: usize = 200;
    let world = world!();
    let (outbox, rows_read) = Counting::of(world.outbox());
    let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let drained = async || {
        eventually("the outbox is drained", async || (settled(&pool).await == logged(&pool).await).then_some(())).await;
    };
    // The relay has its lanes.
    let first = sequence.next();
    producer.emit(first.request().policy(journaled())).await.unwrap();
    ledger.accept(first);
    drained().await;
    let before = rows_read.load(Ordering::SeqCst);
    for event in sequence.take(EVENTS) {
        let mut tx = pool.begin().await.unwrap();
        let receipt = producer.emit_in(&mut tx, event.request().policy(journaled())).await.unwrap();
        producer.commit(tx, receipt).await.unwrap();
        ledger.accept(event);
    }
    world.verdict(&ledger).await.assert_kept();
    drained().await;
    // A poll may find one between its commit and the word of it, often so on a busy machine; without the word it reads all.
    let read = rows_read.load(Ordering::SeqCst) - before;
    assert!(read < EVENTS * 3 / 4, "{read} of {EVENTS} rows were read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_failed_before_its_commit_hands_nothing_over_and_is_not_called_committed() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let [first, undone, last] = <[_; 3]>::try_from(sequence.take(3)).unwrap();
    // The relay has its lanes.
    producer.emit(first.request().policy(journaled())).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    let receipt = producer.emit_in(&mut tx, undone.request().policy(journaled())).await.unwrap();
    // PostgreSQL answers the commit of such a transaction with a rollback, and no error.
    sqlx::query("select 1 / 0").execute(&mut *tx).await.unwrap_err();
    let error = producer.commit(tx, receipt).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StorageConflict, false), "{error:?}");
    producer.emit(last.request().policy(journaled())).await.unwrap();
    ledger.accept_all([first, last]);
    world.verdict(&ledger).await.assert_kept();
}
