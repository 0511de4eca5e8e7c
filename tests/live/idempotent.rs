//! The same event appended again, as after a commit whose outcome is not known.

use sqlx::PgPool;
use tidings::{EmitRequest, Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride, Producer, Receipt};

use crate::support::events::{EVENT, Ledger, Sequence, catalog, stored_at};
use crate::support::murmur2::stranger_to;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, logged, settled_at_least_to, settled_to, world};

/// The index of `docs/outbox-sql.md`.
const INDEX: &str = "create unique index on tidings.outbox (event_id, slot)";

async fn emit_in(producer: &Producer, pool: &PgPool, request: EmitRequest) -> Receipt {
    let mut tx = pool.begin().await.unwrap();
    let receipt = producer.emit_in(&mut tx, request).await.unwrap();
    tx.commit().await.unwrap();
    receipt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_index_an_event_that_is_emitted_again_is_the_row_that_is_there() {
    let world = world!();
    let pool = world.pool();
    sqlx::query(INDEX).execute(&pool).await.unwrap();
    let (producer, ledger, mut sequence) = (world.producer().await, Ledger::default(), Sequence::of("tenant-1"));
    let _relay = RunningRelay::of(&producer);
    let [first, second, third] = <[_; 3]>::try_from(sequence.take(3)).unwrap();
    let receipt = emit_in(&producer, &pool, first.request()).await;
    assert_eq!(emit_in(&producer, &pool, first.request()).await, receipt);
    let (lane, number) = stored_at(&receipt);
    settled_at_least_to(&pool, lane, number).await;

    // Long delivered, among new ones, twice in one statement, and by the other ways.
    let mut tx = pool.begin().await.unwrap();
    let requests = [&second, &first, &second, &third].map(|event| event.request()).to_vec();
    let receipts = producer.emit_all_in(&mut tx, requests).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((&receipts[1], &receipts[0]), (&receipt, &receipts[2]));
    assert!(stored_at(&receipts[0]) < stored_at(&receipts[3]));
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let again = producer.emit(first.request().policy(always)).await.unwrap();
    assert_eq!(stored_at(&again), (lane, number));
    let append = "select lane, seq from tidings.append($1, 'tenant-1', null, null, $2)";
    let again: (i16, i64) = sqlx::query_as(append).bind(&world.topic).bind(&first.id).fetch_one(&pool).await.unwrap();
    assert_eq!(again, (i16::try_from(lane).unwrap(), number));

    assert_eq!(logged(&pool).await, 3);
    // The numbers that were drawn in vain are proven dead.
    let last = emit_in(&producer, &pool, sequence.next().request()).await;
    settled_to(&pool, lane, stored_at(&last).1).await;
    ledger.accept_all([first, second, third]);
    let records = world.records_with(ledger.ids()).await;
    assert_eq!(records.len(), 4, "one record of each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_index_another_event_of_the_same_id_is_refused() {
    let world = world!();
    let pool = world.pool();
    sqlx::query(INDEX).execute(&pool).await.unwrap();
    let producer = world.producer().await;
    let event = Sequence::of("tenant-1").next();
    emit_in(&producer, &pool, event.request()).await;
    let stranger = stranger_to("tenant-1", LANES);
    let request = EmitRequest::new(EVENT).tenant(stranger).id(event.id.parse().unwrap()).payload("{}");
    let mut tx = pool.begin().await.unwrap();
    let error = producer.emit_in(&mut tx, request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::StorageRejected);
    drop(tx);
    let append = "select tidings.append('t', $1, null, null, $2)";
    let error =
        sqlx::query(append).bind(stranger_to("tenant-1", LANES)).bind(&event.id).execute(&pool).await.unwrap_err();
    assert_eq!(error.as_database_error().and_then(|error| error.code()).as_deref(), Some("23505"));
    assert_eq!(logged(&pool).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_the_index_a_batch_that_is_refused_for_one_of_its_ids_stores_nothing_or_is_ambiguous() {
    let world = world!();
    let pool = world.pool();
    sqlx::query(INDEX).execute(&pool).await.unwrap();
    let producer = world.producer().await;
    let event = Sequence::of("tenant-1").next();
    emit_in(&producer, &pool, event.request()).await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let stranger = stranger_to("tenant-1", LANES);
    let same_id = EmitRequest::new(EVENT).tenant(stranger.clone()).id(event.id.parse().unwrap()).payload("{}");
    let mut strangers = Sequence::of(stranger);
    let mut batch = || {
        let requests = strangers.take(2).iter().map(|event| event.request().policy(always)).collect::<Vec<_>>();
        [requests, vec![same_id.clone().policy(always)]].concat()
    };
    // The first is on its way when the others arrive, which are stored together then.
    let [first, others @ ..] = &producer.emit_batch(batch()).await[..] else { panic!("there is no answer") };
    assert!(first.is_ok(), "{first:?}");
    assert_eq!(others.len(), 2);
    for refused in others {
        let error = refused.as_ref().unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StorageRejected, false), "{error:?}");
    }
    assert_eq!(logged(&pool).await, 2);
    // In no transaction, what it has stored stays.
    let mut connection = pool.acquire().await.unwrap();
    let error = producer.emit_all_in(&mut connection, batch()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::StorageRejected, true), "{error:?}");
    assert_eq!(logged(&pool).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_index_an_event_that_is_emitted_again_has_the_same_id() {
    let world = world!();
    let (pool, producer) = (world.pool(), world.producer().await);
    let event = Sequence::of("tenant-1").next();
    let (first, again) =
        (emit_in(&producer, &pool, event.request()).await, emit_in(&producer, &pool, event.request()).await);
    assert!(stored_at(&first) < stored_at(&again));
    let _relay = RunningRelay::of(&producer);
    let (lane, number) = stored_at(&again);
    settled_to(&pool, lane, number).await;
    let ids: Vec<_> = world.records_now().await.iter().map(|record| record.id()).collect();
    assert_eq!(ids, [event.id.clone(), event.id]);
}

/// Some of its statements are carried out, and nobody comes to commit them: relays wait for every transaction that was begun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_whose_connection_falls_silent_in_its_midst_holds_relays_up_for_seconds_only() {
    let world = world!();
    let pool = world.pool();
    sqlx::query(INDEX).execute(&pool).await.unwrap();
    let (proxy, outbox) = world.outbox_behind_proxy().await;
    let silenced = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
    let other = world.producer().await;
    let _relay = RunningRelay::of(&other);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let events = sequence.take(3);

    // The last one waits, until the connection is silent.
    let waits = format!(
        "create function wait() returns trigger language plpgsql as
         'begin if new.event_id = ''{}'' then perform pg_advisory_xact_lock(1); end if; return new; end';
         create trigger wait before insert on tidings.outbox for each row execute function wait()",
        events[2].id
    );
    sqlx::raw_sql(&waits).execute(&pool).await.unwrap();
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("select pg_advisory_xact_lock(1)").execute(&mut *tx).await.unwrap();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let requests: Vec<_> = events.iter().map(|event| event.request().policy(always)).collect();
    let emits = tokio::spawn(async move { silenced.emit_batch(requests).await });
    eventually("the last event waits", async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and not granted
                       and database = (select oid from pg_database where datname = current_database())";
        let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&pool).await.unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    proxy.silence_open();
    drop(tx);
    for (event, result) in events.into_iter().zip(emits.await.unwrap()) {
        ledger.enter(event, &result);
    }
    let behind = sequence.next();
    let stored = other.emit(behind.request().policy(always)).await;
    ledger.enter(behind, &stored);
    let (lane, number) = stored_at(&stored.unwrap());
    settled_at_least_to(&pool, lane, number).await;
    world.verdict(&ledger).await.assert_kept();
}
