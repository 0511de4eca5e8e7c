//! What health tells of a PostgreSQL outbox.

use sqlx::PgPool;
use tidings::health::{Health, ReasonKind, Status};
use tidings::outbox::Outbox;
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{Sequence, stored_at};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, World, world};

async fn store(producer: &Producer, key: &str) -> (u16, i64) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    stored_at(&producer.emit(Sequence::of(key).next().request().policy(always)).await.unwrap())
}

async fn backdate(pool: &PgPool, (lane, number): (u16, i64), seconds: f64) {
    let update =
        "update tidings.outbox set created_at = created_at - $3 * interval '1 second' where lane = $1 and seq = $2";
    let statement = sqlx::query(update).bind(i16::try_from(lane).unwrap()).bind(number).bind(seconds);
    assert_eq!(statement.execute(pool).await.unwrap().rows_affected(), 1);
}

async fn settle(pool: &PgPool, lane: u16, numbers: &str) {
    let update = "update tidings.lane set published = $2::int8multirange where lane = $1";
    sqlx::query(update).bind(i16::try_from(lane).unwrap()).bind(numbers).execute(pool).await.unwrap();
}

async fn age(world: &World) -> Option<u64> {
    world.outbox().lag().await.unwrap().oldest_waiting.map(|age| age.as_secs())
}

async fn healthy(producer: &Producer) -> Health {
    eventually("all is well", async || Some(producer.health().await).filter(|health| health.status == Status::Healthy))
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_relays_degrade_and_a_relay_mends_that() {
    let world = world!();
    let producer = world.producer().await;
    assert_eq!(healthy(&producer).await.outbox.unwrap().relays, Some(0));
    store(&producer, "tenant-1").await;
    let health = producer.health().await;
    assert!(health.status == Status::Degraded && health.has(ReasonKind::NoRelay), "{health:?}");
    let outbox = health.outbox.unwrap();
    assert_eq!((outbox.lanes_without_relay, outbox.waiting), (Some(1), Some(1)));
    let relay = RunningRelay::of(&producer);
    let health = eventually("nothing waits any more", async || {
        Some(healthy(&producer).await).filter(|health| health.outbox.as_ref().unwrap().oldest_waiting.is_none())
    })
    .await;
    let outbox = health.outbox.unwrap();
    assert!(health.relay.unwrap().running && outbox.relays == Some(1));
    assert_eq!(outbox.waiting, Some(0));
    relay.kill().await;
    // It lives until its leases run out, as far as anybody knows.
    eventually("its leases have run out", async || {
        (world.outbox().lag().await.unwrap().relays == Some(0)).then_some(())
    })
    .await;
    let (lane, _) = store(&producer, "tenant-1").await;
    let lag = world.outbox().lag().await.unwrap();
    assert_eq!(lag.lanes_without_relay, Some(1), "of lane {lane}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_backlog_is_that_of_the_oldest_event_that_is_not_delivered() {
    let world = world!();
    let (producer, pool) = (world.producer().await, world.pool());
    let lag = world.outbox().lag().await.unwrap();
    assert_eq!(
        (lag.oldest_waiting, lag.waiting, lag.relays, lag.lanes_without_relay),
        (None, Some(0), Some(0), Some(0))
    );
    let mut places = Vec::new();
    for _ in 0..6 {
        places.push(store(&producer, "tenant-1").await);
    }
    let lane = places[0].0;
    for (place, seconds) in places.iter().zip([6_000.0, 5_000.0, 4_000.0, 3_000.0, 2_000.0, 1_000.0]) {
        backdate(&pool, *place, seconds).await;
    }
    let other = store(&producer, "another").await;
    assert!(other.0 != lane);
    assert_eq!(age(&world).await.unwrap() / 100, 60);
    settle(&pool, lane, "{[1,3)}").await;
    assert_eq!(age(&world).await.unwrap() / 100, 40);
    // Behind a gap, what is settled counts no more.
    settle(&pool, lane, "{[1,3),[4,6)}").await;
    assert_eq!(age(&world).await.unwrap() / 100, 40);
    sqlx::query("delete from tidings.outbox where lane = $1 and seq = 3")
        .bind(i16::try_from(lane).unwrap())
        .execute(&pool)
        .await
        .unwrap();
    assert_eq!(age(&world).await.unwrap() / 100, 10);
    settle(&pool, lane, "{[1,3),[4,7)}").await;
    assert!(age(&world).await.unwrap() < 100, "the other lane's is left");
    // A parked key's are settled in the cursor, and wait all the same.
    let hold = "insert into tidings.held (lane, record_key, seq) values ($1, 'tenant-1', 2), ($1, 'tenant-1', 5)";
    sqlx::query(hold).bind(i16::try_from(lane).unwrap()).execute(&pool).await.unwrap();
    assert_eq!(age(&world).await.unwrap() / 100, 50);
    assert!(producer.health().await.has(ReasonKind::OldBacklog));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_an_open_transaction_does_not_wait_and_hides_none_that_does() {
    let world = world!();
    let (producer, pool) = (world.producer().await, world.pool());
    let mut tx = pool.begin().await.unwrap();
    producer.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap();
    assert_eq!(age(&world).await, None);
    store(&producer, "tenant-1").await;
    assert!(age(&world).await.is_some());
    tx.rollback().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    eventually("it is delivered", async || age(&world).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_look_reads_as_much_of_a_long_log_as_of_a_short_one() {
    let world = world!();
    let pool = world.pool();
    let fill = "insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, envelope_version)
                select n % 32, tidings.next_seq((n % 32)::smallint, tidings.layout()), n, 'd', 't', 'k', '', 1 from generate_series(1, $1) n";
    let read = "select coalesce(sum(idx_tup_read), 0)::bigint from pg_stat_user_indexes where schemaname = 'tidings' and relname like 'outbox%'";
    let scanned = "select coalesce(sum(seq_tup_read), 0)::bigint from pg_stat_user_tables where schemaname = 'tidings' and relname like 'outbox%'";
    sqlx::query(fill).bind(20_000).execute(&pool).await.unwrap();
    // All but the last hundred of each lane are settled, of which each tenth is in flight.
    let settle =
        "update tidings.lane set published = int8multirange(int8range(1, 500)) + int8multirange(int8range(510, 520))";
    sqlx::query(settle).execute(&pool).await.unwrap();
    let counts = async || {
        // PostgreSQL 14 has no such function, and takes its time.
        let _ = sqlx::query("select pg_stat_force_next_flush()").execute(&pool).await;
        let count = async |select| sqlx::query_scalar::<_, i64>(select).fetch_one(&pool).await.unwrap();
        (count(read).await, count(scanned).await)
    };
    let outbox = world.outbox();
    outbox.lag().await.unwrap();
    drop(outbox);
    eventually("the statistics are there", async || (counts().await.0 > 0).then_some(())).await;
    let (read, scanned) = counts().await;
    assert!(read <= i64::from(LANES) * 9, "{read} index entries were read");
    assert_eq!(scanned, 0, "rows were read without an index");
}
