//! Emits in the caller's own SQLite transaction.

use std::sync::Arc;

use sqlx::SqlitePool;
use sqlx::sqlite::SqlitePoolOptions;
use tidings::{Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride, SqliteOutbox, StoredReason, Tx};

use crate::support::events::{Ledger, Sequence, is_published, stored_at, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, begin, logged};

/// The service's own table.
async fn create_orders(pool: &SqlitePool) {
    sqlx::query("create table orders (id text primary key) strict").execute(pool).await.unwrap();
}

async fn order_count(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("select count(*) from orders").fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_exists_exactly_if_the_transaction_of_its_business_row_commits() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    create_orders(&pool).await;
    for number in 0..20 {
        let event = sequence.next();
        let mut tx = begin(&pool).await;
        let insert = "insert into orders (id) values (?)";
        sqlx::query(insert).bind(format!("order-{number}")).execute(&mut *tx).await.unwrap();
        let receipt = emitter.emit_in(&mut tx, event.request()).await.unwrap();
        assert_eq!(stored_reason(&receipt), Some(StoredReason::Transaction));
        if number % 3 == 0 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            ledger.accept(event);
        }
    }
    assert_eq!(order_count(&pool).await, 13);
    world.verdict(&ledger).await.assert_kept();
    assert_eq!(world.records_now().await.len(), 13);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dropped_transaction_takes_its_events_with_it() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let pool = world.pool();
    {
        let mut tx = begin(&pool).await;
        emitter.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap();
    }
    eventually("the transaction was rolled back", async || (logged(&pool).await == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_several_events_in_a_transaction_all_or_none_exist() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let (pool, mut sequence) = (world.pool(), Sequence::of("tenant-1"));
    let requests: Vec<_> = sequence.take(3).iter().map(|event| event.request()).collect();
    let mut tx = begin(&pool).await;
    let receipts = emitter.emit_all_in(&mut tx, requests.clone()).await.unwrap();
    assert_eq!(receipts.iter().map(|receipt| stored_at(receipt).1).collect::<Vec<_>>(), [1, 2, 3]);
    tx.rollback().await.unwrap();
    assert_eq!(logged(&pool).await, 0);

    // One that is at fault: none of them is stored, and the transaction can go on.
    let mut bad = requests.clone();
    bad[1] = tidings::EmitRequest::new("no.such.event");
    let mut tx = begin(&pool).await;
    let error = emitter.emit_all_in(&mut tx, bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownEvent);
    emitter.emit_all_in(&mut tx, requests).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(logged(&pool).await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_is_rolled_back_takes_only_its_own_events() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let [first, undone, last] = <[_; 3]>::try_from(sequence.take(3)).unwrap();
    let mut tx = begin(&pool).await;
    producer.emit_in(&mut tx, first.request()).await.unwrap();
    let mut savepoint = sqlx::Acquire::begin(&mut *tx).await.unwrap();
    producer.emit_in(&mut savepoint, undone.request()).await.unwrap();
    savepoint.rollback().await.unwrap();
    producer.emit_in(&mut tx, last.request()).await.unwrap();
    tx.commit().await.unwrap();
    ledger.accept_all([first, last]);
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_detached_transaction_is_refused_by_a_producer() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let request = Sequence::of("tenant-1").next().request();
    let error = emitter.emit_in(&mut Tx::detached(), request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
    assert!(error.is_caller_error());
    assert_eq!(logged(&world.pool()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_without_an_outbox_refuses_every_transaction_and_leaves_it_usable() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer_without_outbox(&[]).await);
    let pool = world.pool();
    create_orders(&pool).await;
    let mut tx = begin(&pool).await;
    let error = emitter.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
    sqlx::query("insert into orders (id) values ('order-1')").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(order_count(&pool).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn direct_events_wait_behind_those_of_a_transaction_that_is_open() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let mut tx = begin(&pool).await;
    let first = sequence.next();
    producer.emit_in(&mut tx, first.request()).await.unwrap();
    // The emit has to wait for the one writer of a SQLite file, so both run side by side.
    let second = sequence.next();
    let (committed, receipt) = tokio::join!(tx.commit(), producer.emit(second.request()));
    committed.unwrap();
    assert_eq!(stored_reason(&receipt.unwrap()), Some(StoredReason::LaneSpilled));
    ledger.accept_all([first, second]);
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rollback_the_lane_goes_back_to_direct_events() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let mut tx = begin(&pool).await;
    producer.emit_in(&mut tx, sequence.next().request()).await.unwrap();
    tx.rollback().await.unwrap();
    eventually("an emit is direct", async || {
        let receipt = ledger.emit(&producer, sequence.next()).await.unwrap();
        is_published(&receipt).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_rollback_the_lane_is_direct_again_though_nothing_more_is_stored() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let mut tx = begin(&pool).await;
    producer.emit_in(&mut tx, sequence.next().request()).await.unwrap();
    let never = PolicyOverride::default().with_outbox(OutboxMode::Never);
    let event = sequence.next();
    let refused = producer.emit(event.request().policy(never)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::LaneSpilled, "the transaction may commit still");
    tx.rollback().await.unwrap();
    eventually("an emit is direct", async || {
        let event = sequence.next();
        let result = producer.emit(event.request().policy(never)).await;
        ledger.enter(event, &result);
        result.ok()
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guarded_pool_says_is_committed_is_committed_even_after_sqlite_has_rolled_back_by_itself() {
    let world = World::new().await;
    let producer = world.producer().await;
    let pool = SqliteOutbox::guard(SqlitePoolOptions::new().max_connections(1));
    let pool = pool.connect_with(world.options()).await.unwrap();
    create_orders(&pool).await;
    sqlx::query("insert into orders (id) values ('order-1')").execute(&pool).await.unwrap();

    // As when the disk is full: SQLite rolls back, and sqlx does not hear of it.
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("insert or rollback into orders (id) values ('order-1')").execute(&mut *tx).await.unwrap_err();
    drop(tx);
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("insert into orders (id) values ('order-2')").execute(&mut *tx).await.unwrap();
    tx.rollback().await.unwrap();

    let mut tx = pool.begin().await.unwrap();
    sqlx::query("insert into orders (id) values ('order-3')").execute(&mut *tx).await.unwrap();
    let receipt = producer.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap();
    producer.commit(tx, receipt).await.unwrap();
    assert_eq!(order_count(&world.pool()).await, 2, "order-1 and order-3, whoever looks");
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    producer.emit(Sequence::of("tenant-2").next().request().policy(always)).await.unwrap();
}
