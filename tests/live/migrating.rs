//! The outbox's tables.

use tidings::{Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride, PostgresOutbox, Producer};

use crate::support::events::{Ledger, Sequence, catalog, stored_at};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_services_may_migrate_at_once() {
    let world = world!(open_unmigrated);
    let outboxes: Vec<_> = (0..8).map(|_| world.outbox()).collect();
    for migrated in futures_util::future::join_all(outboxes.iter().map(PostgresOutbox::migrate)).await {
        migrated.unwrap();
    }
    world.outbox().migrate().await.unwrap();
    let applied: Vec<i32> =
        sqlx::query_scalar("select version from tidings.migration").fetch_all(&world.pool()).await.unwrap();
    assert_eq!(applied, [1]);
    world.producer().await;
}

/// Eight of each of two, in one database. The name of one is a word of SQL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outboxes_in_schemas_of_their_own_live_side_by_side() {
    let world = world!(open_unmigrated);
    let pool = world.pool();
    let outbox = |schema: &str| world.outbox().with_schema(schema).unwrap();
    let outboxes: Vec<_> = (0..8).flat_map(|_| [outbox("order"), outbox("shop_2")]).collect();
    for migrated in futures_util::future::join_all(outboxes.iter().map(PostgresOutbox::migrate)).await {
        migrated.unwrap();
    }
    let is_there = "select to_regnamespace('tidings') is not null";
    assert!(!sqlx::query_scalar::<_, bool>(is_there).fetch_one(&pool).await.unwrap());

    let ledger = Ledger::default();
    let mut relays = Vec::new();
    for (schema, key) in [("order", "tenant-1"), ("shop_2", "tenant-2")] {
        let producer =
            Producer::builder(world.config(&[]), catalog()).with_outbox(outbox(schema)).build().await.unwrap();
        relays.push(RunningRelay::of(&producer));
        let mut sequence = Sequence::of(key);
        // Gaps too, which take every statement that a relay has.
        for number in 0..9 {
            let event = sequence.next();
            let mut tx = pool.begin().await.unwrap();
            let (lane, number) = match number {
                0 => producer.emit(event.request().policy(always())).await.map(|receipt| stored_at(&receipt)).unwrap(),
                _ => producer.emit_in(&mut tx, event.request()).await.map(|receipt| stored_at(&receipt)).unwrap(),
            };
            if number % 3 == 2 {
                tx.rollback().await.unwrap();
                continue;
            }
            tx.commit().await.unwrap();
            ledger.accept(event);
            let select = format!("select published @> {number}::bigint from \"{schema}\".lane where lane = {lane}");
            eventually("the event is settled", async || {
                sqlx::query_scalar::<_, bool>(&select).fetch_one(&pool).await.unwrap().then_some(())
            })
            .await;
        }
        let rows = format!("select count(*) from \"{schema}\".outbox");
        assert_eq!(sqlx::query_scalar::<_, i64>(&rows).fetch_one(&pool).await.unwrap(), 6);
    }
    world.verdict(&ledger).await.assert_kept();
    for relay in relays {
        relay.stop().await;
    }
}

fn always() -> PolicyOverride {
    PolicyOverride::default().with_outbox(OutboxMode::Always)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_not_migrated_is_refused_at_start() {
    let world = world!(open_unmigrated);
    let built = Producer::builder(world.config(&[]), catalog()).with_outbox(world.outbox()).build().await;
    assert_eq!(built.unwrap_err().kind(), ErrorKind::Schema);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_of_a_newer_version_are_refused_at_start() {
    let world = world!();
    sqlx::query("insert into tidings.migration (version) values (999)").execute(&world.pool()).await.unwrap();
    let built = Producer::builder(world.config(&[]), catalog()).with_outbox(world.outbox()).build().await;
    assert_eq!(built.unwrap_err().kind(), ErrorKind::Schema);
}
