//! A database and topics of the test's own, on the services that run.

use std::collections::HashSet;
use std::env;
use std::io::Write;
use std::sync::Arc;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tidings::{Config, Emitter, PostgresOutbox, Producer};
use tidings_faults::Proxy;
use uuid::Uuid;

use crate::support::checker::Verdict;
use crate::support::events::{Ledger, Sequence, catalog, is_published, topic};
use crate::support::topic::{self, ReadBack};
use crate::support::waiting::eventually;

/// The partitions of each test's topic.
pub(crate) const PARTITIONS: u32 = 6;

/// The lanes of a PostgreSQL outbox.
pub(crate) const LANES: u32 = 32;

/// The world of this test, or, loudly, the end of it.
macro_rules! world {
    () => {
        crate::world::world!(open)
    };
    ($open:ident $(, $argument:expr)?) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        let Some(world) = crate::world::World::$open(test $(, $argument)?).await else { return };
        world
    }};
}
pub(crate) use world;

/// The variable of a program of `tests/strangers`, or, loudly, the end of this test.
macro_rules! stranger {
    ($variable:literal) => {{
        fn here() {}
        let test = std::any::type_name_of_val(&here);
        let Some([value]) = crate::world::wanted(test, [$variable], "`scripts/strangers`") else { return };
        value
    }};
}
pub(crate) use stranger;

pub(crate) struct World {
    pub(crate) brokers: String,
    /// What the test's topics begin with.
    pub(crate) prefix: String,
    /// The topic of the event that most tests emit.
    pub(crate) topic: String,
    database: Database,
}

impl World {
    /// A migrated database and a topic of its own. None if there are no services; then it says so, or fails if it must not
    /// be so.
    pub(crate) async fn open(test: &str) -> Option<Self> {
        let world = Self::open_unmigrated(test).await?;
        world.outbox().migrate().await.unwrap();
        Some(world)
    }

    /// As [`open`](Self::open), but with an empty database.
    pub(crate) async fn open_unmigrated(test: &str) -> Option<Self> {
        let (brokers, url) = services(test)?;
        Some(Self::on(brokers, &url).await)
    }

    /// As [`open`](Self::open), but with a topic that has these settings.
    pub(crate) async fn open_with_topic(test: &str, settings: &[(&str, &str)]) -> Option<Self> {
        let (brokers, url) = services(test)?;
        let world = Self::with_topic(brokers, &url, settings).await;
        world.outbox().migrate().await.unwrap();
        Some(world)
    }

    /// A world on another broker.
    pub(crate) async fn on(brokers: String, url: &str) -> Self {
        Self::with_topic(brokers, url, &[]).await
    }

    /// A world whose topic has these settings.
    async fn with_topic(brokers: String, url: &str, settings: &[(&str, &str)]) -> Self {
        let name = format!("t{}", Uuid::new_v4().simple());
        let topic = topic(&name);
        topic::create_with(&brokers, &topic, i32::try_from(PARTITIONS).unwrap(), settings).await;
        Self { brokers, prefix: name.clone(), topic, database: Database::create(url, name).await }
    }

    /// The options of a connection to the test's database.
    pub(crate) fn options(&self) -> PgConnectOptions {
        self.database.options.clone()
    }

    pub(crate) fn outbox(&self) -> PostgresOutbox {
        PostgresOutbox::with_options(self.options())
    }

    /// The outbox, which has its connections through a proxy.
    pub(crate) async fn outbox_behind_proxy(&self) -> (Proxy, PostgresOutbox) {
        let options = self.options();
        let to = format!("{}:{}", options.get_host(), options.get_port());
        let proxy = Proxy::start("127.0.0.1:0", &to).await.unwrap();
        let outbox = PostgresOutbox::with_options(options.host("127.0.0.1").port(proxy.address().port()));
        (proxy, outbox)
    }

    /// Connections of the service's own.
    pub(crate) fn pool(&self) -> PgPool {
        PgPoolOptions::new().max_connections(16).connect_lazy_with(self.options())
    }

    pub(crate) fn config(&self, more: &[(&str, &str)]) -> Config {
        let settings = [
            ("STREAMING_ENABLED", "true"),
            ("STREAMING_BROKERS", &self.brokers),
            ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
            ("STREAMING_TOPIC_PREFIX", &self.prefix),
        ];
        // What comes later in the list counts.
        Config::from_vars(settings.into_iter().chain(more.iter().copied())).unwrap()
    }

    pub(crate) async fn producer(&self) -> Producer {
        self.producer_with(&[]).await
    }

    pub(crate) async fn producer_with(&self, settings: &[(&str, &str)]) -> Producer {
        Producer::builder(self.config(settings), catalog()).with_outbox(self.outbox()).build().await.unwrap()
    }

    /// What is on the topic once all of these are, or after a long time.
    pub(crate) async fn records_with(&self, ids: HashSet<String>) -> Vec<ReadBack> {
        topic::read_until(&self.brokers, &self.topic, ids).await
    }

    /// What is on the topic now.
    pub(crate) async fn records_now(&self) -> Vec<ReadBack> {
        topic::read_to_end(&self.brokers, &self.topic).await
    }

    /// Waits until the event of this id is on the topic.
    pub(crate) async fn arrived(&self, id: &str) {
        let records = self.records_with([id.to_owned()].into()).await;
        assert!(records.iter().any(|record| record.id() == id), "{id} has not arrived");
    }

    pub(crate) async fn has_arrived(&self, id: &str) -> bool {
        self.records_now().await.iter().any(|record| record.id() == id)
    }

    /// Holds the topic against the ledger, once everything that was accepted had its time to arrive.
    pub(crate) async fn verdict(&self, ledger: &Ledger) -> Verdict {
        ledger.check(&self.records_with(ledger.ids()).await)
    }
}

/// Emits until one goes direct: no event of the key's lane is left in the outbox.
pub(crate) async fn emit_until_direct(emitter: &Arc<dyn Emitter>, ledger: &Ledger, sequence: &mut Sequence) {
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(emitter, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
}

/// The set of settled numbers of a lane, as PostgreSQL writes it.
pub(crate) async fn published(pool: &PgPool, lane: u16) -> String {
    let select = "select published::text from tidings.lane where lane = $1";
    sqlx::query_scalar(select).bind(i16::try_from(lane).unwrap()).fetch_one(pool).await.unwrap()
}

/// Waits until all numbers up to this one are settled.
pub(crate) async fn settled_to(pool: &PgPool, lane: u16, number: i64) {
    let expected = format!("{{[1,{})}}", number + 1);
    eventually("the lane is settled", async || (published(pool, lane).await == expected).then_some(())).await;
}

/// The same, where the numbers behind it may be settled too by the time of the first look.
pub(crate) async fn settled_at_least_to(pool: &PgPool, lane: u16, number: i64) {
    let select = "select published @> int8range(1, $2 + 1) from tidings.lane where lane = $1";
    let is_settled = async || {
        let settled = sqlx::query_scalar::<_, bool>(select).bind(i16::try_from(lane).unwrap()).bind(number);
        settled.fetch_one(pool).await.unwrap()
    };
    eventually("the lane is settled", async || is_settled().await.then_some(())).await;
}

/// How many rows the log has.
pub(crate) async fn logged(pool: &PgPool) -> i64 {
    sqlx::query_scalar("select count(*) from tidings.outbox").fetch_one(pool).await.unwrap()
}

/// How many numbers are settled.
pub(crate) async fn settled(pool: &PgPool) -> i64 {
    let select = "select coalesce(sum(upper(r) - lower(r)), 0)::bigint from tidings.lane, unnest(published) as r";
    sqlx::query_scalar(select).fetch_one(pool).await.unwrap()
}

/// The brokers and the database's URL.
fn services(test: &str) -> Option<(String, String)> {
    let [brokers, url] = wanted(test, ["KAFKA_BROKERS", "DATABASE_URL"], "`scripts/services env`")?;
    Some((brokers, url))
}

/// The variables that a test can't do without. None if one is not set; then it says so, or fails if it must not be so.
pub(crate) fn wanted<const N: usize>(test: &str, names: [&str; N], printed_by: &str) -> Option<[String; N]> {
    let values: Vec<_> = names.iter().filter_map(|name| env::var(name).ok()).collect();
    if values.len() < N {
        skip(test, &format!("set {} (see {printed_by})", names.join(" and ")));
    }
    values.try_into().ok()
}

/// Says, past the test harness, that a test did not run; fails if that must not be.
fn skip(test: &str, remedy: &str) {
    let name = test.split("::").take_while(|part| *part != "{{closure}}").skip(1).collect::<Vec<_>>().join("::");
    let line = format!("SKIPPED LIVE TEST {name}: {remedy}\n");
    // Printing would be captured and thrown away.
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    for forbids in ["CI", "TIDINGS_REQUIRE_LIVE"] {
        assert!(env::var(forbids).is_err(), "{forbids} is set, and a test can't run: {line}");
    }
}

/// A database that is dropped with this.
struct Database {
    name: String,
    server: PgConnectOptions,
    options: PgConnectOptions,
}

impl Database {
    async fn create(url: &str, name: String) -> Self {
        let server: PgConnectOptions = url.parse().unwrap();
        let mut connection = PgConnection::connect_with(&server).await.unwrap();
        sqlx::query(&format!("create database {name}")).execute(&mut connection).await.unwrap();
        Self { options: server.clone().database(&name), server, name }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, own) = (self.server.clone(), self.options.clone());
        let statement = format!("drop database {} with (force)", self.name);
        let drop_it = async move {
            // One that a failed test has left would hold up the gaps of all other tests, and the drop.
            let mut connection = PgConnection::connect_with(&own).await?;
            let prepared = "select format('rollback prepared %L', gid) from pg_prepared_xacts
                            where database = current_database()";
            let rollbacks: Vec<String> = sqlx::query_scalar(prepared).fetch_all(&mut connection).await?;
            for rollback in rollbacks {
                sqlx::query(&rollback).execute(&mut connection).await?;
            }
            let mut connection = PgConnection::connect_with(&server).await?;
            sqlx::query(&statement).execute(&mut connection).await
        };
        // A runtime in a thread of its own: this one may be in the middle of a panic. A database that stays hurts nobody.
        let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let _ = std::thread::spawn(move || runtime().block_on(drop_it)).join();
    }
}
