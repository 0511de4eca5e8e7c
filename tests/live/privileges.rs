//! What the roles of services and relays may do, and what not.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection, PgPool};
use tidings::outbox::Outbox;
use tidings::{Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride, PostgresOutbox, Producer};

use crate::support::events::{Ledger, Sequence, catalog, stored_at};
use crate::support::relaying::RunningRelay;
use crate::world::{World, logged, settled_to, world};

/// A login role that is a member of this one alone.
struct Login {
    name: String,
    server: PgPool,
    options: PgConnectOptions,
}

impl Login {
    async fn member_of(world: &World, role: &str) -> Self {
        let (name, server) = (format!("{}_{role}", world.prefix), world.pool());
        for statement in [format!("create role {name} login password 'secret'"), format!("grant {role} to {name}")] {
            sqlx::query(&statement).execute(&server).await.unwrap();
        }
        let options = world.options().username(&name).password("secret");
        Self { name, server, options }
    }

    fn outbox(&self) -> PostgresOutbox {
        PostgresOutbox::with_options(self.options.clone())
    }

    async fn producer(&self, world: &World) -> Producer {
        Producer::builder(world.config(&[]), catalog()).with_outbox(self.outbox()).build().await.unwrap()
    }

    /// Runs statements none of which it may.
    async fn is_refused(&self, statements: &[&str]) {
        let mut connection = PgConnection::connect_with(&self.options).await.unwrap();
        for statement in statements {
            let refused = sqlx::raw_sql(statement).execute(&mut connection).await;
            let error = refused.err().unwrap_or_else(|| panic!("{} may {statement}", self.name));
            let code = error.as_database_error().and_then(|error| error.code()).map(String::from);
            assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
        }
    }

    async fn drop(self) {
        drop_role(&self.server, &self.name).await;
    }
}

async fn drop_role(pool: &PgPool, role: &str) {
    sqlx::query(&format!("drop role {role}")).execute(pool).await.unwrap();
}

/// What neither may.
const NOBODYS: [&str; 11] = [
    "create table tidings.mine (id int)",
    "create function tidings.mine() returns int language sql return 1",
    "create schema mine",
    "update tidings.outbox set payload = null",
    "delete from tidings.outbox",
    "truncate tidings.outbox",
    "truncate tidings.outbox_0",
    "select setval('tidings.lane_0_seq', 1)",
    "insert into tidings.migration (version) values (2)",
    "select tidings.change_lanes(64)",
    "create or replace function tidings.layout() returns bigint language sql stable return 64::bigint",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_appends_and_can_do_nothing_else() {
    let world = world!();
    let writer = Login::member_of(&world, "tidings_writer").await;
    let relaying = world.producer().await;
    let _relay = RunningRelay::of(&relaying);
    writer.outbox().migrate().await.unwrap();
    let (producer, ledger, mut sequence) = (writer.producer(&world).await, Ledger::default(), Sequence::of("tenant-1"));
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let own = PgPool::connect_lazy_with(writer.options.clone());
    for number in 0..6 {
        let event = sequence.next();
        if number % 2 == 0 {
            producer.emit(event.request().policy(always)).await.unwrap();
        } else {
            let mut tx = own.begin().await.unwrap();
            producer.emit_in(&mut tx, event.request()).await.unwrap();
            tx.commit().await.unwrap();
        }
        ledger.accept(event);
    }
    world.verdict(&ledger).await.assert_kept();
    let health = producer.health().await;
    assert!(health.outbox.is_some_and(|outbox| outbox.relays == Some(1)), "it may ask how far the relays are");
    let function = "select tidings.append('t', 'tenant-2', array['a', 'b'], null, 'id')";
    sqlx::query(function).execute(&own).await.unwrap();
    writer.is_refused(&NOBODYS).await;
    writer
        .is_refused(&[
            "select payload from tidings.outbox",
            "select event_id from tidings.outbox",
            "select payload from tidings.outbox_0",
            "select id from tidings.relay",
            "select record_key from tidings.held",
            "select * from tidings.parked",
            "insert into tidings.outbox (lane, seq, slot, event_id, definition_key, topic, record_key, headers, envelope_version)
             values (0, 1, 0, '', '', '', '', '', 1)",
            "insert into tidings.outbox_0 (lane, seq, event_id, definition_key, topic, record_key, headers, envelope_version)
             values (0, 1, '', '', '', '', '', 1)",
            "update tidings.lane set published = '{[1,100)}'",
            "update tidings.lane set paused = true",
            "insert into tidings.relay values ('me', now())",
            "delete from tidings.held",
            "select tidings.drop_delivered('0 days')",
        ])
        .await;
    own.close().await;
    drop(producer);
    writer.drop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_reads_and_moves_cursors_and_appends_nothing() {
    let world = world!();
    let login = Login::member_of(&world, "tidings_relay").await;
    login.outbox().migrate().await.unwrap();
    let relaying = login.producer(&world).await;
    let relay = RunningRelay::of(&relaying);
    let (producer, ledger, mut sequence) = (world.producer().await, Ledger::default(), Sequence::of("tenant-1"));
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut last = (0, 0);
    for number in 0..5 {
        let event = sequence.next();
        let mut tx = world.pool().begin().await.unwrap();
        last = stored_at(&producer.emit_in(&mut tx, event.request()).await.unwrap());
        // A rollback leaves a gap, which only a proof closes.
        if number == 2 {
            tx.rollback().await.unwrap();
        } else {
            tx.commit().await.unwrap();
            ledger.accept(event);
        }
    }
    settled_to(&world.pool(), last.0, last.1).await;
    world.verdict(&ledger).await.assert_kept();
    // It drops what is delivered and old enough, and nothing else.
    let age = "update tidings.outbox set slot = (extract(epoch from clock_timestamp())::bigint / 86400 - 4) % 8";
    sqlx::query(age).execute(&world.pool()).await.unwrap();
    login.outbox().retain().await.unwrap();
    assert_eq!(logged(&world.pool()).await, 0);
    let refused = relaying.emit(sequence.next().request().policy(always)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::StorageRejected);
    relay.stop().await;
    login.is_refused(&NOBODYS).await;
    login
        .is_refused(&[
            "insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, envelope_version)
             values (0, 1, '', '', '', '', '', 1)",
            "select tidings.append('t', 'k', null, null, 'id')",
            "select nextval('tidings.lane_0_seq')",
            "update tidings.lane set paused = true",
            "insert into tidings.lane (lane) values (77)",
            "delete from tidings.lane",
        ])
        .await;
    drop((relaying, login.outbox()));
    login.drop().await;
}

/// The least of all: a service in another language.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_only_execute_the_function_appends_by_it() {
    let world = world!();
    let pool = world.pool();
    let role = format!("{}_caller", world.prefix);
    for statement in
        [format!("create role {role} login password 'secret'"), format!("grant usage on schema tidings to {role}")]
    {
        sqlx::query(&statement).execute(&pool).await.unwrap();
    }
    let options = world.options().username(&role).password("secret");
    let login = Login { name: role.clone(), server: pool.clone(), options };
    let append = "select tidings.append('t', 'k', null, null, 'id')";
    login.is_refused(&[append, "select tidings.find('id')"]).await;
    sqlx::query(&format!("grant execute on function tidings.append to {role}")).execute(&pool).await.unwrap();
    let mut connection = PgConnection::connect_with(&login.options).await.unwrap();
    // What it has in its way does not lead the function astray.
    let traps = "create temp table outbox (id int); set search_path = pg_temp, tidings";
    sqlx::raw_sql(traps).execute(&mut connection).await.unwrap();
    sqlx::query(append).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    login.is_refused(&NOBODYS).await;
    login.is_refused(&["select lane from tidings.outbox", "select nextval('tidings.lane_0_seq')"]).await;
    sqlx::query(&format!("drop owned by {role}")).execute(&pool).await.unwrap();
    login.drop().await;
}

/// Roles belong to the cluster: databases that are migrated at once make the same ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_of_one_cluster_may_be_migrated_at_once() {
    let mut worlds = Vec::new();
    for _ in 0..3 {
        worlds.push(world!(open_unmigrated));
    }
    // A name of its own, so that the roles are not there yet.
    let schema = format!("s{}", &worlds[0].prefix[..16]);
    let outboxes: Vec<_> = worlds.iter().map(|world| world.outbox().with_schema(&schema).unwrap()).collect();
    for migrated in futures_util::future::join_all(outboxes.iter().map(PostgresOutbox::migrate)).await {
        migrated.unwrap();
    }
    for world in &worlds {
        let granted = format!("select has_table_privilege('{schema}_relay', '{schema}.outbox', 'select')");
        assert!(sqlx::query_scalar::<_, bool>(&granted).fetch_one(&world.pool()).await.unwrap());
    }
    for role in ["writer", "relay"] {
        for world in &worlds {
            sqlx::query(&format!("drop owned by {schema}_{role}")).execute(&world.pool()).await.unwrap();
        }
        drop_role(&worlds[0].pool(), &format!("{schema}_{role}")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_create_roles_migrates_without_them() {
    let world = world!(open_unmigrated);
    let (pool, owner) = (world.pool(), format!("{}_owner", world.prefix));
    let database = format!("grant create on database {} to {owner}", world.prefix);
    for statement in [format!("create role {owner} login password 'secret'"), database] {
        sqlx::query(&statement).execute(&pool).await.unwrap();
    }
    let options = world.options().username(&owner).password("secret");
    let outbox = PostgresOutbox::with_options(options).with_schema(&owner).unwrap();
    outbox.migrate().await.unwrap();
    let roles = "select count(*) from pg_roles where rolname like $1 || '\\_%'";
    assert_eq!(sqlx::query_scalar::<_, i64>(roles).bind(&owner).fetch_one(&pool).await.unwrap(), 0);
    drop(outbox);
    sqlx::query(&format!("drop owned by {owner} cascade")).execute(&pool).await.unwrap();
    drop_role(&pool, &owner).await;
}
