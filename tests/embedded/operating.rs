//! What an operator does to a SQLite outbox.

use sqlx::SqlitePool;
use tempfile::TempDir;
use tidings::SqliteOutbox;
use tidings::admin::{Admin, Fault, Replay, RowFilter};

use crate::support::events::Sequence;
use crate::support::operating::{self, Stage, actor};

/// Runs what any outbox has to do.
macro_rules! on_sqlite {
    ($($name:ident)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            operating::$name(Stage::on_sqlite().await).await;
        }
    )*};
}

on_sqlite! {
    depth_and_rows_follow_the_relay
    commands_reach_the_relay_and_the_successors_flow_in_order
    a_paused_lane_waits_until_it_is_resumed
    a_replay_sends_copies_of_what_was_there_when_it_began
    a_replay_goes_on_where_it_was_broken_off
    a_verifier_compares_the_log_with_the_topic
}

/// A stage, connections of one's own to its file, and the file.
async fn stage() -> (Stage, SqlitePool, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.sqlite");
    let outbox = SqliteOutbox::open(&file);
    outbox.migrate().await.unwrap();
    let admin = Admin::of(&outbox);
    (Stage::of(outbox, admin, ()).await, SqlitePool::connect(file.to_str().unwrap()).await.unwrap(), folder)
}

async fn execute(pool: &SqlitePool, statement: &str) {
    sqlx::raw_sql(statement).execute(pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_not_be_written_down_is_not_done_and_what_is_not_done_is_not_written_down() {
    let (stage, pool, _folder) = stage().await;
    stage.store(&mut Sequence::of("tenant-1"), 2).await;
    stage.relay_all().await;
    execute(
        &pool,
        "create trigger t before insert on tidings_outbox begin select raise(abort, 'no') where new.topic = 'no'; end",
    )
    .await;
    let request = Replay::new("r", RowFilter::default()).unwrap().with_topic("no");
    stage.admin.replay(&request, &actor()).await.unwrap_err();
    assert_eq!(stage.actions().await, ["replay"], "it was begun");

    execute(&pool, "alter table tidings_audit rename to elsewhere").await;
    stage.admin.pause_lanes(None, &actor()).await.unwrap_err();
    assert!(stage.admin.depth().await.unwrap().lanes.iter().all(|lane| !lane.paused));
    execute(&pool, "alter table elsewhere rename to tidings_audit; drop trigger t").await;
    assert_eq!(stage.admin.replay(&request, &actor()).await.unwrap().events, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_finds_what_does_not_fit_together() {
    let (stage, pool, _folder) = stage().await;
    stage.store(&mut Sequence::of("tenant-1"), 5).await;
    stage.relay_all().await;
    assert!(stage.admin.verify().await.unwrap().is_sound());
    let lane: i64 = sqlx::query_scalar("select lane from tidings_outbox").fetch_one(&pool).await.unwrap();
    for (sabotage, fault, place) in [
        (format!("update tidings_lane set published = '{{[1,3),[4,6)}}' where lane = {lane}"), Fault::Passed, 3),
        (format!("insert into tidings_held values ({lane}, 'k', 77)"), Fault::HeldWithoutRow, 77),
        (format!("insert into tidings_held values ({lane}, 'k', 3)"), Fault::HeldWithoutSettled, 3),
        (format!("insert into tidings_held values ({lane}, 'k', 4)"), Fault::HeldWithoutParked, 4),
        (
            format!("insert into tidings_parked values ({lane}, 'l', 5, 'too_large', '', 1, 0, 0, null)"),
            Fault::ParkedWithoutHeld,
            5,
        ),
        (format!("update tidings_lane set published = '{{[1,9)}}' where lane = {lane}"), Fault::SequenceBehind, 8),
    ] {
        execute(&pool, &sabotage).await;
        let found = stage.admin.verify().await.unwrap();
        let finding = found.finding(fault).unwrap_or_else(|| panic!("{fault:?} is not in {found:?}"));
        assert!(finding.first.iter().any(|at| i64::from(at.lane) == lane && at.sequence == place), "{finding:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_says_what_is_not_there_any_more() {
    let (stage, pool, _folder) = stage().await;
    stage.store(&mut Sequence::of("tenant-1"), 5).await;
    stage.relay_all().await;
    execute(&pool, "delete from tidings_outbox where seq <= 3").await;
    let first = stage.admin.rows(&RowFilter::default(), 1, None).await.unwrap().remove(0);
    let all = Replay::new("all", RowFilter::default()).unwrap().with_topic("rebuilt");
    let done = stage.admin.replay(&all, &actor()).await.unwrap();
    assert_eq!((done.events, done.gone.len()), (2, 1));
    assert_eq!((done.gone[0].lane, done.gone[0].below, done.gone[0].oldest), (first.lane, 4, Some(first.created_at)));
    let later = RowFilter::default().with_from(first.created_at + chrono::TimeDelta::milliseconds(1));
    let later = Replay::new("later", later).unwrap().with_topic("rebuilt");
    assert!(stage.admin.replay(&later, &actor()).await.unwrap().gone.is_empty(), "so far back it was not to go");
}
