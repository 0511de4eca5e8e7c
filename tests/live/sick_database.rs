//! A database that answers late, only lets itself be read, has no connections left, or has other tables than it had.

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection, PgPool, Postgres, Transaction};
use tidings::{Emitter, EmitterExt, Error, ErrorKind, OutboxMode, PolicyOverride, PostgresOutbox, Producer};

use crate::support::events::{Ledger, Sequence, catalog, is_published};
use crate::support::murmur2::stranger_to;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, World, world};

/// What a caller waits for a database at most: three seconds for a connection, two for a statement, and room for a loaded
/// machine.
const LONGEST_WAIT: Duration = Duration::from_secs(9);

/// A service whose events of one key are stored, and of another go direct.
struct Scene {
    world: World,
    producer: Producer,
    relay: RunningRelay,
    ledger: Ledger,
    stored: Sequence,
    direct: Sequence,
}

impl Scene {
    async fn of(world: World, outbox: PostgresOutbox) -> Self {
        let producer = Producer::builder(world.config(&[]), catalog()).with_outbox(outbox).build().await.unwrap();
        let relay = RunningRelay::of(&producer);
        let direct = Sequence::of(stranger_to("tenant-1", LANES));
        let (ledger, stored) = (Ledger::default(), Sequence::of("tenant-1"));
        let mut scene = Self { world, producer, relay, ledger, stored, direct };
        for _ in 0..3 {
            scene.store(Duration::from_secs(30)).await.unwrap();
            scene.publish().await;
        }
        scene
    }

    /// Emits an event that has to be stored.
    async fn store(&mut self, timeout: Duration) -> Result<(), Error> {
        let event = self.stored.next();
        let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
        let result = self.producer.emit(event.request().policy(always).timeout(timeout)).await;
        self.ledger.enter(event, &result);
        result.map(drop)
    }

    /// Emits an event that goes direct, whatever the database does.
    async fn publish(&mut self) {
        let receipt = self.ledger.emit(&self.producer, self.direct.next()).await.unwrap();
        assert!(is_published(&receipt), "{receipt:?}");
    }

    /// While the database is sick: an event that needs it fails so and in time, and others go by.
    async fn fails(&mut self, kind: ErrorKind, is_ambiguous: bool) {
        let start = Instant::now();
        let error = self.store(Duration::from_secs(30)).await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (kind, is_ambiguous), "{error:?}");
        assert_eq!(error.is_retryable(), kind == ErrorKind::Storage);
        assert!(start.elapsed() < LONGEST_WAIT, "it took {:?}", start.elapsed());
        self.publish().await;
        let start = Instant::now();
        self.store(Duration::from_millis(300)).await.unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(2), "the deadline of 300 ms took {:?}", start.elapsed());
    }

    /// The database is well again, and nobody has done anything else about it.
    async fn recovers(mut self) {
        eventually("an event is stored", async || self.store(Duration::from_secs(5)).await.ok()).await;
        self.publish().await;
        self.world.verdict(&self.ledger).await.assert_kept();
        assert!(self.relay.is_running());
        self.relay.stop().await;
    }
}

/// Keeps everybody else from the log.
async fn lock(pool: &PgPool) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query("lock table tidings.outbox in access exclusive mode").execute(&mut *tx).await.unwrap();
    tx
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_answers_late_costs_its_time_and_no_event() {
    let world = world!();
    let (pool, outbox) = (world.pool(), world.outbox());
    let mut scene = Scene::of(world, outbox).await;
    let locked = lock(&pool).await;
    // Nobody knows whether the statement was carried out.
    scene.fails(ErrorKind::Storage, true).await;
    locked.rollback().await.unwrap();
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_only_lets_itself_be_read_is_found_out_when_it_takes_writes_again() {
    let world = world!();
    let (pool, outbox) = (world.pool(), world.outbox());
    let mut scene = Scene::of(world, outbox).await;
    // As after a failover by name: whoever connects is led to a standby.
    let name: String = sqlx::query_scalar("select current_database()").fetch_one(&pool).await.unwrap();
    let read_only = format!("alter database {name} set default_transaction_read_only = on");
    sqlx::query(&read_only).execute(&pool).await.unwrap();
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()";
    sqlx::query(cut).execute(&pool).await.unwrap();
    // Of a connection that was cut nobody knows in the midst of what.
    eventually("no connection is left that was cut", async || {
        let error = scene.store(Duration::from_secs(30)).await.unwrap_err();
        (!error.is_ambiguous()).then_some(())
    })
    .await;
    scene.fails(ErrorKind::Storage, false).await;
    let mut connection = pool.acquire().await.unwrap();
    for statement in [
        "set default_transaction_read_only = off",
        &format!("alter database {name} reset default_transaction_read_only"),
    ] {
        sqlx::query(statement).execute(&mut *connection).await.unwrap();
    }
    // Connections that were made meanwhile lead to the standby for ever.
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_the_service_that_only_reads_takes_no_event() {
    let world = world!();
    let producer = world.producer().await;
    let mut tx = world.pool().begin().await.unwrap();
    sqlx::query("set transaction read only").execute(&mut *tx).await.unwrap();
    let error = producer.emit_in(&mut tx, Sequence::of("tenant-1").next().request()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Storage, false), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_without_a_connection_left_fails_what_needs_one_and_serves_as_soon_as_it_has() {
    /// So many the role may have, which is enough for a service and its relay.
    const LIMIT: usize = 14;
    let world = world!();
    let (pool, role) = (world.pool(), format!("{}_few", world.prefix));
    // The role outlives the test's database by a moment.
    let server = PgPool::connect_lazy_with(world.options().database("postgres"));
    for statement in [
        format!("create role {role} login password 'secret' connection limit {LIMIT}"),
        format!("grant tidings_writer, tidings_relay to {role}"),
    ] {
        sqlx::query(&statement).execute(&pool).await.unwrap();
    }
    let options = world.options().username(&role).password("secret");
    let outbox = PostgresOutbox::with_options(options.clone());
    let mut scene = Scene::of(world, outbox).await;
    // Others of that role take the place of ours as these are cut.
    let mut others = Vec::new();
    let cut = format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}' and application_name = ''"
    );
    eventually("nothing is left", async || {
        if let Ok(other) = PgConnection::connect_with(&options.clone().application_name("other")).await {
            others.push(other);
        }
        sqlx::query(&cut).execute(&pool).await.unwrap();
        (others.len() == LIMIT).then_some(())
    })
    .await;
    // Of a connection that was cut nobody knows in the midst of what.
    scene.store(Duration::from_secs(30)).await.unwrap_err();
    scene.fails(ErrorKind::Storage, false).await;
    drop(others);
    scene.recovers().await;
    let gone = "select count(*) from pg_stat_activity where usename = $1";
    eventually("its connections are gone", async || {
        let left: i64 = sqlx::query_scalar(gone).bind(&role).fetch_one(&server).await.unwrap();
        (left == 0).then_some(())
    })
    .await;
    sqlx::query(&format!("drop role {role}")).execute(&server).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_turn_into_those_of_another_version_fail_as_such_until_they_are_ours_again() {
    for (break_it, mend_it) in [
        (
            "alter table tidings.outbox rename column definition_key to definition",
            "alter table tidings.outbox rename column definition to definition_key",
        ),
        ("alter table tidings.outbox rename to log", "alter table tidings.log rename to outbox"),
        ("alter function tidings.life() rename to era", "alter function tidings.era() rename to life"),
    ] {
        let world = world!();
        let (pool, outbox) = (world.pool(), world.outbox());
        let mut scene = Scene::of(world, outbox).await;
        sqlx::query(break_it).execute(&pool).await.unwrap();
        scene.fails(ErrorKind::Schema, false).await;
        sqlx::query(mend_it).execute(&pool).await.unwrap();
        scene.recovers().await;
    }
}
