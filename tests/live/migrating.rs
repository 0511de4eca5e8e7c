//! The outbox's tables.

use tidings::{ErrorKind, PostgresOutbox, Producer};

use crate::support::events::catalog;
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
