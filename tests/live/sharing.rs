//! Several relays on one outbox: who has which lanes.

use sqlx::PgPool;
use tidings::{Emitter, OutboxMode, PolicyOverride};

use crate::support::events::{Ledger, Sequence, stored_at};
use crate::support::murmur2::lane_of;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, settled_to, world};

/// How many lanes each relay has, the most first.
async fn shares(pool: &PgPool) -> Vec<i64> {
    let select = "select count(*) from tidings.lane where owner is not null and lease_until > now() group by owner order by 1 desc";
    sqlx::query_scalar(select).fetch_all(pool).await.unwrap()
}

async fn shared_out(pool: &PgPool, expected: &[i64]) {
    eventually("the lanes are shared out", async || (shares(pool).await == expected).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_are_shared_out_evenly_and_order_outlives_every_handover() {
    let world = world!();
    let (pool, ledger) = (world.pool(), Ledger::default());
    let producer = world.producer().await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut sequences: Vec<_> = (0..40).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    let mut emit = async || {
        for sequence in &mut sequences {
            let event = sequence.next();
            producer.emit(event.request().policy(always)).await.unwrap();
            ledger.accept(event);
        }
    };
    let mut relays = Vec::new();
    for expected in [&[32][..], &[16, 16], &[11, 11, 10]] {
        emit().await;
        relays.push(RunningRelay::of(&world.producer().await));
        emit().await;
        shared_out(&pool, expected).await;
    }
    relays.swap_remove(0).stop().await;
    emit().await;
    shared_out(&pool, &[16, 16]).await;
    // One that dies is taken over when its lease has run out.
    relays.swap_remove(0).kill().await;
    emit().await;
    shared_out(&pool, &[32]).await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_lane_waits_and_no_other_does() {
    let world = world!();
    let (pool, ledger) = (world.pool(), Ledger::default());
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (mut waits, mut flows) = (Sequence::of("tenant-1"), Sequence::of("tenant-2"));
    let lane = i16::try_from(lane_of("tenant-1", LANES)).unwrap();
    let pause = async |paused: bool| {
        let update = "update tidings.lane set paused = $1 where lane = $2";
        sqlx::query(update).bind(paused).bind(lane).execute(&pool).await.unwrap();
        eventually("the lane changes hands", async || {
            let owned = "select owner is not null from tidings.lane where lane = $1";
            let owned: bool = sqlx::query_scalar(owned).bind(lane).fetch_one(&pool).await.unwrap();
            (owned != paused).then_some(())
        })
        .await;
    };
    pause(true).await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let event = waits.next();
    let (_, number) = stored_at(&producer.emit(event.request().policy(always)).await.unwrap());
    for _ in 0..10 {
        let event = flows.next();
        let (lane, number) = stored_at(&producer.emit(event.request().policy(always)).await.unwrap());
        settled_to(&pool, lane, number).await;
        ledger.accept(event);
    }
    assert!(!world.has_arrived(&event.id).await);
    ledger.accept(event);
    pause(false).await;
    settled_to(&pool, lane_of("tenant-1", LANES), number).await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_that_have_gone_back_are_refused_loudly() {
    let world = world!();
    let pool = world.pool();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let mut sequence = Sequence::of("tenant-1");
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    for _ in 0..3 {
        let receipt = producer.emit(sequence.next().request().policy(always)).await.unwrap();
        let (lane, number) = stored_at(&receipt);
        settled_to(&pool, lane, number).await;
    }
    relay.stop().await;
    let sequence_name = format!("tidings.lane_{}_seq", lane_of("tenant-1", LANES));
    sqlx::query("select setval($1::regclass, 1)").bind(sequence_name).execute(&pool).await.unwrap();
    // Neither by who saw the numbers before nor by who comes anew is an event taken that the relay would not deliver.
    for producer in [producer, world.producer().await] {
        let error = producer.emit(sequence.next().request().policy(always)).await.unwrap_err();
        assert_eq!(error.kind(), tidings::ErrorKind::Schema);
    }
}
