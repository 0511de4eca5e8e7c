//! Emits in the caller's own PostgreSQL transaction.

use std::sync::Arc;

use sqlx::{Acquire, PgPool, SqlitePool};
use tidings::{EmitRequest, Emitter, EmitterExt, ErrorKind, Producer, SqliteOutbox, Tx};

use crate::support::events::{Ledger, Sequence, catalog, stored_at};
use crate::support::murmur2::{lane_of, neighbour_of};
use crate::support::relaying::RunningRelay;
use crate::world::{LANES, emit_until_direct, logged, settled_to, world};

/// The service's own table.
async fn create_orders(pool: &PgPool) {
    sqlx::query("create table orders (id text primary key)").execute(pool).await.unwrap();
}

async fn order_count(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from orders").fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_exists_exactly_if_the_transaction_of_its_business_row_commits() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    create_orders(&pool).await;
    for number in 0..30 {
        let event = sequence.next();
        let mut tx = pool.begin().await.unwrap();
        let insert = "insert into orders (id) values ($1)";
        sqlx::query(insert).bind(format!("order-{number}")).execute(&mut *tx).await.unwrap();
        emitter.emit_in(&mut tx, event.request()).await.unwrap();
        match number % 3 {
            0 => tx.rollback().await.unwrap(),
            1 => drop(tx),
            _ => {
                tx.commit().await.unwrap();
                ledger.accept(event);
            }
        }
    }
    assert_eq!(order_count(&pool).await, 10);
    // Behind everything that was rolled back: had that been invented, it would be there by now.
    emit_until_direct(&emitter, &ledger, &mut sequence).await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_that_is_rolled_back_takes_only_its_own_events() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let (pool, ledger, mut sequence) = (world.pool(), Ledger::default(), Sequence::of("tenant-1"));
    let [first, undone, last] = <[_; 3]>::try_from(sequence.take(3)).unwrap();
    let mut tx = pool.begin().await.unwrap();
    emitter.emit_in(&mut tx, first.request()).await.unwrap();
    let mut savepoint = tx.begin().await.unwrap();
    emitter.emit_in(&mut savepoint, undone.request()).await.unwrap();
    savepoint.rollback().await.unwrap();
    let (lane, number) = stored_at(&emitter.emit_in(&mut tx, last.request()).await.unwrap());
    tx.commit().await.unwrap();
    ledger.accept_all([first, last]);
    world.verdict(&ledger).await.assert_kept();
    // The number of the one that was undone is proven dead.
    settled_to(&pool, lane, number).await;
    emit_until_direct(&emitter, &ledger, &mut sequence).await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_events_of_one_transaction_keep_their_order_also_in_one_statement() {
    let world = world!();
    let producer = world.producer().await;
    let (pool, ledger) = (world.pool(), Ledger::default());
    let neighbour = neighbour_of("tenant-1", LANES);
    let mut sequences = [Sequence::of("tenant-1"), Sequence::of(neighbour), Sequence::of("tenant-2")];
    let mut tx = pool.begin().await.unwrap();
    for _ in 0..5 {
        let events: Vec<_> =
            (0..100).flat_map(|_| sequences.iter_mut().map(Sequence::next).collect::<Vec<_>>()).collect();
        let requests = events.iter().map(|event| event.request()).collect();
        let receipts = producer.emit_all_in(&mut tx, requests).await.unwrap();
        let lane = lane_of("tenant-1", LANES);
        let numbers: Vec<_> =
            receipts.iter().map(stored_at).filter(|(other, _)| *other == lane).map(|(_, number)| number).collect();
        assert!(numbers.is_sorted() && numbers.len() == 200, "{numbers:?}");
        ledger.accept_all(events);
    }
    tx.commit().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_serialise_on_a_key_keep_its_order() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (pool, ledger) = (world.pool(), Arc::new(Ledger::default()));
    sqlx::query("create table account (id text primary key, version bigint not null)").execute(&pool).await.unwrap();
    sqlx::query("insert into account values ('tenant-1', 0)").execute(&pool).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    let sequence = Arc::new(std::sync::Mutex::new(Sequence::of("tenant-1")));
    for _ in 0..8 {
        let (pool, ledger, producer) = (pool.clone(), Arc::clone(&ledger), producer.clone());
        let sequence = Arc::clone(&sequence);
        tasks.spawn(async move {
            for _ in 0..25 {
                let mut tx = pool.begin().await.unwrap();
                // Whoever has the row is alone with the key until the commit.
                let lock = "update account set version = version + 1 where id = 'tenant-1'";
                sqlx::query(lock).execute(&mut *tx).await.unwrap();
                let event = sequence.lock().unwrap().next();
                producer.emit_in(&mut tx, event.request()).await.unwrap();
                // Before the commit, since behind it the next one may be quicker.
                ledger.accept(event);
                tx.commit().await.unwrap();
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_another_database_is_refused_before_any_statement() {
    let world = world!();
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    let (pool, mut sequence) = (world.pool(), Sequence::of("tenant-1"));
    let sqlite = SqlitePool::connect("sqlite::memory:").await.unwrap();
    let mut tx = sqlite.begin().await.unwrap();
    sqlx::query("create table orders (id text)").execute(&mut *tx).await.unwrap();
    let error = emitter.emit_in(&mut tx, sequence.next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
    sqlx::query("insert into orders (id) values ('order-1')").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let error = emitter.emit_in(&mut Tx::detached(), sequence.next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
    assert_eq!(logged(&pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sqlite_outbox_refuses_a_postgres_transaction_and_leaves_it_usable() {
    let world = world!();
    let directory = tempfile::tempdir().unwrap();
    let outbox = SqliteOutbox::open(directory.path().join("shop.sqlite"));
    outbox.migrate().await.unwrap();
    let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let pool = world.pool();
    create_orders(&pool).await;
    let mut tx = pool.begin().await.unwrap();
    let error = producer.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
    sqlx::query("insert into orders (id) values ('order-1')").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((order_count(&pool).await, logged(&pool).await), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_fault_leaves_the_transaction_usable() {
    let world = world!();
    let producer = world.producer().await;
    let (pool, mut sequence) = (world.pool(), Sequence::of("tenant-1"));
    let mut tx = pool.begin().await.unwrap();
    let requests = vec![sequence.next().request(), EmitRequest::new("no.such.event")];
    let error = producer.emit_all_in(&mut tx, requests).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownEvent);
    producer.emit_in(&mut tx, sequence.next().request()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(logged(&pool).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_on_a_connection_that_is_in_no_transaction_may_be_stored_all_the_same() {
    let world = world!();
    let producer = world.producer().await;
    let (pool, mut sequence) = (world.pool(), Sequence::of("tenant-1"));
    for is_open in [false, true] {
        let mut tx = pool.begin().await.unwrap();
        let process: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
        let mut connection = pool.acquire().await.unwrap();
        let alone: i32 = sqlx::query_scalar("select pg_backend_pid()").fetch_one(&mut *connection).await.unwrap();
        sqlx::query("select pg_terminate_backend(p) from unnest($1) as p")
            .bind([process, alone])
            .execute(&pool)
            .await
            .unwrap();
        let request = sequence.next().request();
        let emitted =
            if is_open { producer.emit_in(&mut tx, request) } else { producer.emit_in(&mut connection, request) };
        let error = emitted.await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Storage, !is_open), "{error:?}");
    }
}
