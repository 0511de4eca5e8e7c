//! Numbers that are drawn and not there: transactions that commit late, or never.

use std::sync::Arc;
use std::time::Duration;

use tidings::outbox::Outbox;
use tidings::{Emitter, EmitterExt, Producer};
use uuid::Uuid;

use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence, stored_at};
use crate::support::murmur2::neighbour_of;
use crate::support::relaying::RunningRelay;
use crate::world::{LANES, World, emit_until_direct, published, settled_to, world};

/// The proof of a gap's end rests on both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_is_drawn_alone_and_by_a_transaction_that_has_its_id() {
    let world = world!();
    let mut tx = world.pool().begin().await.unwrap();
    // The first one writes to PostgreSQL's log, and has an id for that alone; the next 31 do not.
    sqlx::query("select tidings.next_seq(0::smallint, tidings.layout())").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = world.pool().begin().await.unwrap();
    sqlx::query("select tidings.next_seq(0::smallint, tidings.layout())").execute(&mut *tx).await.unwrap();
    let has_id = "select pg_current_xact_id_if_assigned() is not null";
    assert!(sqlx::query_scalar::<_, bool>(has_id).fetch_one(&mut *tx).await.unwrap());
    let hoarding = "select count(*) from pg_sequences where schemaname = 'tidings' and cache_size > 1";
    assert_eq!(sqlx::query_scalar::<_, i64>(hoarding).fetch_one(&mut *tx).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_is_known_by_its_id_which_stays_when_it_is_prepared() {
    let world = world!();
    let (pool, outbox, gid) = (world.pool(), world.outbox(), Uuid::new_v4());
    let producer = world.producer().await;
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("begin").execute(&mut *connection).await.unwrap();
    producer.emit_in(&mut connection, Sequence::of("tenant-1").next().request()).await.unwrap();
    let id: String =
        sqlx::query_scalar("select pg_current_xact_id()::xid::text").fetch_one(&mut *connection).await.unwrap();
    let writers = Some(vec![id]);
    assert_eq!(outbox.writers().await.unwrap(), writers);
    sqlx::query(&format!("prepare transaction '{gid}'")).execute(&mut *connection).await.unwrap();
    assert_eq!(outbox.writers().await.unwrap(), writers);
    sqlx::query(&format!("rollback prepared '{gid}'")).execute(&mut *connection).await.unwrap();
    assert_eq!(outbox.writers().await.unwrap(), Some(Vec::new()));
}

/// Two keys of one lane, and a producer with a relay.
struct Scene {
    world: World,
    emitter: Arc<dyn Emitter>,
    /// One without a relay, as in another process: of the numbers that it draws the relay is not told.
    elsewhere: Arc<dyn Emitter>,
    _relay: RunningRelay,
    ledger: Ledger,
    late: Sequence,
    other: Sequence,
}

impl Scene {
    async fn on(world: World) -> Self {
        let producer: Producer = world.producer().await;
        let relay = RunningRelay::of(&producer);
        let (late, other) = (Sequence::of("tenant-1"), Sequence::of(neighbour_of("tenant-1", LANES)));
        let elsewhere = Arc::new(world.producer().await);
        let emitter = Arc::new(producer);
        Self { emitter, elsewhere, _relay: relay, world, ledger: Ledger::default(), late, other }
    }

    /// Emits an event of the other key in a transaction, and waits until it has arrived: the relay has read a page that
    /// has it.
    async fn emit_other(&mut self) -> (u16, i64) {
        let event = self.other.next();
        let mut tx = self.world.pool().begin().await.unwrap();
        let at = stored_at(&self.emitter.emit_in(&mut tx, event.request()).await.unwrap());
        tx.commit().await.unwrap();
        self.world.arrived(&event.id).await;
        self.ledger.accept(event);
        at
    }

    /// Has the relay read so many pages with the gap in sight that it would have closed it by mistake.
    async fn many_pages(&mut self) {
        for _ in 0..8 {
            self.emit_other().await;
        }
    }

    async fn assert_not_arrived(&self, event: &Numbered) {
        assert!(!self.world.has_arrived(&event.id).await, "it is not committed");
    }
}

/// Has `late` draw a number and commit after higher ones were delivered.
async fn commit_late(mut scene: Scene, late: Arc<dyn Emitter>) {
    let event = scene.late.next();
    let mut tx = scene.world.pool().begin().await.unwrap();
    let (lane, number) = stored_at(&late.emit_in(&mut tx, event.request()).await.unwrap());
    assert_eq!(scene.emit_other().await, (lane, number + 1), "the next number of the lane is delivered first");
    scene.many_pages().await;
    scene.assert_not_arrived(&event).await;
    let pool = scene.world.pool();
    let settled = published(&pool, lane).await;
    assert!(!settled.starts_with("{[1,"), "{settled}");
    tx.commit().await.unwrap();
    scene.ledger.accept(event);
    scene.world.verdict(&scene.ledger).await.assert_kept();
    emit_until_direct(&late, &scene.ledger, &mut scene.late).await;
    scene.world.verdict(&scene.ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_holds_nobody_up_and_is_not_lost() {
    let scene = Scene::on(world!()).await;
    let late = Arc::clone(&scene.emitter);
    commit_late(scene, late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_commit_of_another_process_holds_nobody_up_and_is_not_lost() {
    let scene = Scene::on(world!()).await;
    let late = Arc::clone(&scene.elsewhere);
    commit_late(scene, late).await;
}

/// Has `undone` draw a number and roll back after a higher one was delivered.
async fn roll_back(mut scene: Scene, undone: Arc<dyn Emitter>) {
    let mut tx = scene.world.pool().begin().await.unwrap();
    let event = scene.late.next();
    let (lane, number) = stored_at(&undone.emit_in(&mut tx, event.request()).await.unwrap());
    let (_, last) = scene.emit_other().await;
    assert_eq!(last, number + 1);
    tx.rollback().await.unwrap();
    settled_to(&scene.world.pool(), lane, last).await;
    emit_until_direct(&undone, &scene.ledger, &mut scene.late).await;
    scene.world.verdict(&scene.ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gap_of_a_rolled_back_number_is_closed_and_the_lane_is_direct_again() {
    let scene = Scene::on(world!()).await;
    let undone = Arc::clone(&scene.emitter);
    roll_back(scene, undone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gap_of_a_number_that_another_process_rolled_back_is_closed_too() {
    let scene = Scene::on(world!()).await;
    let undone = Arc::clone(&scene.elsewhere);
    roll_back(scene, undone).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_gap_of_a_rolled_back_number_is_closed_though_no_higher_one_is_drawn() {
    let mut scene = Scene::on(world!()).await;
    let mut tx = scene.world.pool().begin().await.unwrap();
    let undone = scene.late.next();
    let (lane, number) = stored_at(&scene.emitter.emit_in(&mut tx, undone.request()).await.unwrap());
    tx.rollback().await.unwrap();
    settled_to(&scene.world.pool(), lane, number).await;
    // Not one event more goes by the outbox.
    let event = scene.late.next();
    let receipt = scene.ledger.emit(&scene.emitter, event).await.unwrap();
    assert!(crate::support::events::is_published(&receipt), "{receipt:?}");
    scene.world.verdict(&scene.ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unrelated_transaction_that_stays_open_delays_neither_an_event_nor_the_end_of_a_gap() {
    let mut scene = Scene::on(world!()).await;
    let pool = scene.world.pool();
    sqlx::query("create table unrelated (id int)").execute(&pool).await.unwrap();
    let mut unrelated = pool.begin().await.unwrap();
    sqlx::query("insert into unrelated values (1)").execute(&mut *unrelated).await.unwrap();

    let (mut undone, mut late) = (pool.begin().await.unwrap(), pool.begin().await.unwrap());
    let event = scene.late.next();
    scene.emitter.emit_in(&mut undone, scene.late.next().request()).await.unwrap();
    let (lane, _) = stored_at(&scene.emitter.emit_in(&mut late, event.request()).await.unwrap());
    undone.rollback().await.unwrap();
    scene.many_pages().await;
    late.commit().await.unwrap();
    scene.world.arrived(&event.id).await;
    scene.ledger.accept(event);
    let (_, last) = scene.emit_other().await;

    // The gap is closed though, for all the other proof knows, the transaction could have drawn its number.
    settled_to(&pool, lane, last).await;
    unrelated.commit().await.unwrap();
    scene.world.verdict(&scene.ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_prepared_transaction_is_not_lost() {
    a_prepared_transaction_commits(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_of_a_transaction_that_is_prepared_after_its_gap_was_seen_is_not_lost() {
    a_prepared_transaction_commits(Duration::from_secs(2)).await;
}

/// The transaction is open for this time before it is prepared.
async fn a_prepared_transaction_commits(open_for: Duration) {
    let mut scene = Scene::on(world!()).await;
    let pool = scene.world.pool();
    let event = scene.late.next();
    let gid = Uuid::new_v4();
    let mut connection = pool.acquire().await.unwrap();
    sqlx::query("begin").execute(&mut *connection).await.unwrap();
    let (lane, _) = stored_at(&scene.emitter.emit_in(&mut connection, event.request()).await.unwrap());
    scene.emit_other().await;
    tokio::time::sleep(open_for).await;
    sqlx::query(&format!("prepare transaction '{gid}'")).execute(&mut *connection).await.unwrap();
    scene.many_pages().await;
    tokio::time::sleep(open_for).await;
    scene.assert_not_arrived(&event).await;
    sqlx::query(&format!("commit prepared '{gid}'")).execute(&mut *connection).await.unwrap();
    scene.ledger.accept(event);
    scene.world.verdict(&scene.ledger).await.assert_kept();
    let (_, last) = scene.emit_other().await;
    settled_to(&pool, lane, last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_transaction_that_commits_late_is_not_overtaken_by_the_next_event_of_its_key() {
    /// Many pages of the relay.
    const EVENTS: usize = 3_000;
    let mut scene = Scene::on(world!()).await;
    let events = scene.late.take(EVENTS);
    let mut tx = scene.world.pool().begin().await.unwrap();
    scene.emitter.emit_all_in(&mut tx, events.iter().map(|event| event.request()).collect()).await.unwrap();
    // From here on the numbers of the open transaction are a gap.
    scene.emit_other().await;
    tx.commit().await.unwrap();
    scene.ledger.accept_all(events);
    for _ in 0..20 {
        let event = scene.late.next();
        scene.ledger.emit(&scene.emitter, event).await.unwrap();
    }
    scene.world.verdict(&scene.ledger).await.assert_kept();
}

/// As when an import commits that others have emitted beside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_leaves_hundreds_of_gaps_full_of_rows_is_relayed_in_order() {
    const GAPS: usize = 250;
    let mut scene = Scene::on(world!()).await;
    let mut tx = scene.world.pool().begin().await.unwrap();
    for _ in 0..GAPS {
        let events = scene.late.take(20);
        let requests = events.iter().map(Numbered::request).collect();
        scene.emitter.emit_all_in(&mut tx, requests).await.unwrap();
        scene.ledger.accept_all(events);
        let beside = scene.other.next();
        let mut other = scene.world.pool().begin().await.unwrap();
        scene.emitter.emit_in(&mut other, beside.request()).await.unwrap();
        other.commit().await.unwrap();
        scene.ledger.accept(beside);
    }
    // The gaps have been seen.
    scene.emit_other().await;
    tx.commit().await.unwrap();
    scene.world.verdict(&scene.ledger).await.assert_kept();
    emit_until_direct(&scene.emitter, &scene.ledger, &mut scene.late).await;
    scene.world.verdict(&scene.ledger).await.assert_kept();
}
