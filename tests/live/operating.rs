//! What an operator does to a PostgreSQL outbox.

use sqlx::PgPool;
use tidings::admin::{Admin, Fault, Replay, RowFilter};

use crate::support::events::Sequence;
use crate::support::operating::{self, Stage, actor};
use crate::support::waiting::eventually;
use crate::world::{World, world};

/// Runs what any outbox has to do.
macro_rules! on_postgres {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            operating::$name(stage(world!()).await.0).await;
        }
    )*};
}

on_postgres! {
    depth_and_rows_follow_the_relay
    commands_reach_the_relay_and_the_successors_flow_in_order
    a_paused_lane_waits_until_it_is_resumed
    a_replay_sends_copies_of_what_was_there_when_it_began
    a_replay_goes_on_where_it_was_broken_off
    a_verifier_compares_the_log_with_the_topic
}

async fn stage(world: World) -> (Stage, PgPool) {
    let (outbox, pool) = (world.outbox(), world.pool());
    let admin = Admin::of(&outbox);
    (Stage::of(outbox, admin, world).await, pool)
}

async fn execute(pool: &PgPool, statement: &str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_written_down_is_not_done_and_what_is_not_done_is_not_written_down() {
    let (stage, pool) = stage(world!()).await;
    stage.store(&mut Sequence::of("tenant-1"), 2).await;
    stage.relay_all().await;
    execute(&pool, "alter table tidings.outbox add constraint no check (topic <> 'no')").await;
    let request = Replay::new("r", RowFilter::default()).unwrap().with_topic("no");
    stage.admin.replay(&request, &actor()).await.unwrap_err();
    assert_eq!(stage.actions().await, ["replay"], "it was begun");

    execute(&pool, "alter table tidings.audit rename to elsewhere").await;
    stage.admin.pause_lanes(None, &actor()).await.unwrap_err();
    assert!(stage.admin.depth().await.unwrap().lanes.iter().all(|lane| !lane.paused));
    execute(&pool, "alter table tidings.elsewhere rename to audit; alter table tidings.outbox drop constraint no")
        .await;
    assert_eq!(stage.admin.replay(&request, &actor()).await.unwrap().events, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_does_not_fit_together() {
    let (stage, pool) = stage(world!()).await;
    stage.store(&mut Sequence::of("tenant-1"), 5).await;
    stage.relay_all().await;
    assert!(stage.admin.verify().await.unwrap().is_sound());
    let lane: i16 = sqlx::query_scalar("select lane from tidings.outbox").fetch_one(&pool).await.unwrap();
    for (sabotage, fault, place) in [
        (format!("update tidings.lane set published = '{{[1,3),[4,6)}}' where lane = {lane}"), Fault::Passed, 3),
        (format!("insert into tidings.held values ({lane}, 'k', 77)"), Fault::HeldWithoutRow, 77),
        (format!("insert into tidings.held values ({lane}, 'k', 3)"), Fault::HeldWithoutSettled, 3),
        (format!("insert into tidings.held values ({lane}, 'k', 4)"), Fault::HeldWithoutParked, 4),
        (
            format!("insert into tidings.parked values ({lane}, 'l', 5, 'too_large', '', 1, now(), now(), null)"),
            Fault::ParkedWithoutHeld,
            5,
        ),
        (format!("update tidings.lane set published = '{{[1,9)}}' where lane = {lane}"), Fault::SequenceBehind, 8),
    ] {
        execute(&pool, &sabotage).await;
        let found = stage.admin.verify().await.unwrap();
        let finding = found.finding(fault).unwrap_or_else(|| panic!("{fault:?} is not in {found:?}"));
        let lane = lane.unsigned_abs();
        assert!(finding.first.iter().any(|at| at.lane == lane && at.sequence == place), "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_says_what_is_not_there_any_more() {
    let (stage, pool) = stage(world!()).await;
    stage.store(&mut Sequence::of("tenant-1"), 5).await;
    stage.relay_all().await;
    execute(&pool, "delete from tidings.outbox where seq <= 3").await;
    let first = stage.admin.rows(&RowFilter::default(), 1, None).await.unwrap().remove(0);
    let all = Replay::new("all", RowFilter::default()).unwrap().with_topic("rebuilt");
    let done = stage.admin.replay(&all, &actor()).await.unwrap();
    assert_eq!((done.events, done.gone.len()), (2, 1));
    assert_eq!((done.gone[0].lane, done.gone[0].below, done.gone[0].oldest), (first.lane, 4, Some(first.created_at)));
    execute(&pool, "truncate tidings.outbox").await;
    let done = stage.admin.replay(&Replay::new("none", RowFilter::default()).unwrap(), &actor()).await.unwrap();
    assert_eq!((done.events, done.gone[0].oldest), (0, None));
    assert_eq!(done.gone[0].below, 8, "five, and two copies");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_depth_of_a_large_log_costs_what_waits_and_not_what_is_settled() {
    const WAITS: i64 = 40;
    let world = world!();
    let pool = world.pool();
    // 2,000 settled ones in each lane but for some holes, and 40 that wait in one.
    execute(
        &pool,
        "insert into tidings.outbox (lane, seq, slot, event_id, definition_key, topic, record_key, headers, envelope_version)
         select lane, n, n % 8, gen_random_uuid(), 'd', 't', 'k', '', 1
         from generate_series(0, 31) as lane, generate_series(1, 2000) as n where n % 500 <> 0;
         insert into tidings.outbox (lane, seq, slot, event_id, definition_key, topic, record_key, headers, envelope_version)
         select 7, n, 3, gen_random_uuid(), 'd', 't', 'k', '', 1 from generate_series(2001, 2040) as n;
         update tidings.lane set published = int8multirange(int8range(1, 500), int8range(501, 1000),
           int8range(1001, 1500), int8range(1501, 2000), int8range(2000, 2001));
         analyze tidings.outbox",
    )
    .await;
    let read = async || -> (i64, i64) {
        let select = "select (select sum(seq_tup_read)::bigint from pg_stat_user_tables where relname like 'outbox_%')
                           + (select sum(idx_tup_read)::bigint from pg_stat_user_indexes where relname like 'outbox_%'),
                             (select sum(idx_scan)::bigint from pg_stat_user_indexes where relname like 'outbox_%')";
        sqlx::query_as(select).fetch_one(&pool).await.unwrap()
    };
    let before = eventually("the statistics are quiet", async || {
        let before = read().await;
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        (read().await == before).then_some(before)
    })
    .await;
    let depth = Admin::of(&world.outbox()).depth().await.unwrap();
    assert_eq!(depth.total.waiting.events, WAITS.unsigned_abs());
    let after = eventually("the statistics know of it", async || {
        let after = read().await;
        (after.1 > before.1).then_some(after)
    })
    .await;
    assert!(after.0 - before.0 <= 2 * WAITS, "it has read {} rows", after.0 - before.0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_another_schema_and_with_unique_event_ids_events_are_replayed_too() {
    let world = world!();
    let pool = world.pool();
    let outbox = world.outbox().with_schema("shop_events").unwrap();
    outbox.migrate().await.unwrap();
    execute(&pool, "create unique index on shop_events.outbox (event_id, slot)").await;
    let admin = Admin::of(&outbox);
    let stage = Stage::of(outbox, admin, world).await;
    stage.store(&mut Sequence::of("tenant-1"), 2).await;
    stage.relay_all().await;
    let all = Replay::new("all", RowFilter::default()).unwrap();
    assert_eq!(stage.admin.replay(&all, &actor()).await.unwrap().events, 2);
    stage.relay_all().await;
    let ids: Vec<_> =
        stage.transport.records().iter().map(|record| record.headers.get("ce_id").map(<[u8]>::to_vec)).collect();
    assert_eq!(ids[..2], ids[2..], "copies have the ids of what they are copies of");
    assert!(stage.admin.verify().await.unwrap().is_sound());
    assert_eq!(stage.actions().await, ["replay", "replay_page", "replay_end"]);
}
