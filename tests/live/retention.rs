//! What becomes of events that are delivered.

use std::time::Duration;

use sqlx::PgPool;
use tidings::outbox::Outbox;
use tidings::{Emitter, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{Ledger, Sequence, stored_at};
use crate::support::relaying::RunningRelay;
use crate::world::{World, logged, settled_to, world};

/// Makes the events of the log as old as if they had been stored so many days ago.
async fn age(pool: &PgPool, days: i64) {
    let update = "update tidings.outbox set created_at = created_at - $1 * interval '1 day',
                  slot = (extract(epoch from clock_timestamp())::bigint / 86400 - $1) % 8";
    sqlx::query(update).bind(days).execute(pool).await.unwrap();
}

/// Stores so many events of a key.
async fn store(producer: &Producer, ledger: &Ledger, sequence: &mut Sequence, count: usize) -> (u16, i64) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut last = (0, 0);
    for event in sequence.take(count) {
        last = stored_at(&producer.emit(event.request().policy(always)).await.unwrap());
        ledger.accept(event);
    }
    last
}

/// An outbox with so many delivered events.
async fn delivered(world: &World, count: usize) -> (Producer, Ledger, Sequence) {
    let (producer, ledger, mut sequence) = (world.producer().await, Ledger::default(), Sequence::of("tenant-1"));
    let (lane, number) = store(&producer, &ledger, &mut sequence, count).await;
    let relay = RunningRelay::of(&producer);
    settled_to(&world.pool(), lane, number).await;
    relay.stop().await;
    (producer, ledger, sequence)
}

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delivered_events_are_dropped_when_they_are_old_enough() {
    let world = world!();
    let pool = world.pool();
    let (producer, ledger, mut sequence) = delivered(&world, 50).await;
    age(&pool, 4).await;
    let outbox = world.outbox().with_retention(4 * DAY);
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 50, "they are four days old at the most, and may be kept for as long");
    world.outbox().with_retention(3 * DAY).retain().await.unwrap();
    assert_eq!(logged(&pool).await, 0);
    // Numbers go on where they ended.
    let (lane, number) = store(&producer, &ledger, &mut sequence, 1).await;
    assert_eq!(number, 51);
    let _relay = RunningRelay::of(&producer);
    settled_to(&pool, lane, number).await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_waits_keeps_its_day() {
    let world = world!();
    let pool = world.pool();
    let (producer, ledger, mut sequence) = delivered(&world, 20).await;
    let (lane, number) = store(&producer, &ledger, &mut sequence, 1).await;
    age(&pool, 6).await;
    let outbox = world.outbox().with_retention(Duration::ZERO);
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 21, "the last one waits");
    let relay = RunningRelay::of(&producer);
    settled_to(&pool, lane, number).await;
    relay.stop().await;
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 0);
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_held_or_was_overtaken_keeps_its_day() {
    let world = world!();
    let pool = world.pool();
    delivered(&world, 20).await;
    age(&pool, 6).await;
    let outbox = world.outbox().with_retention(Duration::ZERO);
    // The fifth one, which counts as settled.
    for change in [
        "insert into tidings.held select lane, record_key, seq from tidings.outbox where seq = 5",
        "with freed as (delete from tidings.held returning lane, seq)
         update tidings.lane l set published = published - int8multirange(int8range(seq, seq + 1)) from freed where freed.lane = l.lane",
    ] {
        sqlx::query(change).execute(&pool).await.unwrap();
        outbox.retain().await.unwrap();
        assert_eq!(logged(&pool).await, 20, "{change}");
    }
    let settled =
        "update tidings.lane set published = int8multirange(range_merge(published)) where not isempty(published)";
    sqlx::query(settled).execute(&pool).await.unwrap();
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_what_a_transaction_of_days_holds() {
    let world = world!();
    let pool = world.pool();
    let (producer, ledger, mut sequence) = delivered(&world, 20).await;
    age(&pool, 6).await;
    // One that has been open since that day.
    let mut old = pool.begin().await.unwrap();
    let lock =
        "lock table only tidings.outbox_0, tidings.outbox_1, tidings.outbox_2, tidings.outbox_3, tidings.outbox_4,
                tidings.outbox_5, tidings.outbox_6, tidings.outbox_7 in row exclusive mode";
    sqlx::query(lock).execute(&mut *old).await.unwrap();
    let outbox = world.outbox().with_retention(Duration::ZERO);
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 20);
    store(&producer, &ledger, &mut sequence, 1).await;
    old.commit().await.unwrap();
    outbox.retain().await.unwrap();
    assert_eq!(logged(&pool).await, 1, "that of today");
}
