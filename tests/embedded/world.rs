//! A mock broker and a SQLite file.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use sqlx::{Sqlite, SqlitePool, Transaction};
use tempfile::TempDir;
use tidings::transport::Transport;
use tidings::{Catalog, Config, Producer, SqliteOutbox};

use crate::support::checker::Verdict;
use crate::support::events::{Ledger, catalog, topic};
use crate::support::topic::{ReadBack, read_to_end, read_until};
use crate::support::waiting::eventually;

/// The topics' prefix.
pub(crate) const PREFIX: &str = "shop";

/// The partitions of the topic.
pub(crate) const PARTITIONS: u32 = 8;

/// The lanes of a SQLite outbox.
pub(crate) const LANES: u32 = 32;

/// Short, since many tests wait for it.
pub(crate) const DIRECT_TIMEOUT: Duration = Duration::from_millis(300);

/// What no emit may take longer than, whatever the broker does: the direct timeout, and room for an insert that stands
/// behind many others on a slow disk.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// The one broker of the cluster.
pub(crate) const BROKER: i32 = 1;

pub(crate) struct World {
    pub(crate) cluster: MockCluster<'static, DefaultProducerContext>,
    pub(crate) brokers: String,
    pub(crate) topic: String,
    file: PathBuf,
    _directory: TempDir,
}

impl World {
    /// A running broker with an empty topic, and a migrated outbox.
    pub(crate) async fn new() -> Self {
        let cluster = MockCluster::new(1).unwrap();
        let topic = topic(PREFIX);
        cluster.create_topic(&topic, i32::try_from(PARTITIONS).unwrap(), 1).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("shop.sqlite");
        let world = Self { brokers: cluster.bootstrap_servers(), cluster, topic, file, _directory: directory };
        world.outbox().migrate().await.unwrap();
        world
    }

    pub(crate) fn broker_down(&self) {
        self.cluster.broker_down(BROKER).unwrap();
    }

    pub(crate) fn broker_up(&self) {
        self.cluster.broker_up(BROKER).unwrap();
    }

    /// Makes each answer of the broker take so long.
    pub(crate) fn slow_broker(&self, delay: Duration) {
        self.cluster.broker_round_trip_time(BROKER, delay).unwrap();
    }

    /// The file of the outbox.
    pub(crate) fn file(&self) -> &Path {
        &self.file
    }

    pub(crate) fn outbox(&self) -> SqliteOutbox {
        SqliteOutbox::open(&self.file)
    }

    /// Connections of the service's own.
    pub(crate) fn pool(&self) -> SqlitePool {
        SqliteOutbox::guard(SqlitePoolOptions::new().max_connections(4)).connect_lazy_with(self.options())
    }

    /// How the service connects.
    pub(crate) fn options(&self) -> SqliteConnectOptions {
        SqliteConnectOptions::new().filename(&self.file).busy_timeout(Duration::from_secs(20))
    }

    pub(crate) fn config(&self, more: &[(&str, &str)]) -> Config {
        config(&self.brokers, more)
    }

    pub(crate) async fn producer(&self) -> Producer {
        self.producer_with(&[]).await
    }

    pub(crate) async fn producer_with(&self, settings: &[(&str, &str)]) -> Producer {
        self.producer_of(catalog(), settings).await
    }

    pub(crate) async fn producer_of(&self, catalog: Catalog, settings: &[(&str, &str)]) -> Producer {
        Producer::builder(self.config(settings), catalog).with_outbox(self.outbox()).build().await.unwrap()
    }

    /// A producer without an outbox.
    pub(crate) async fn producer_without_outbox(&self, settings: &[(&str, &str)]) -> Producer {
        Producer::builder(self.config(settings), catalog()).build().await.unwrap()
    }

    /// What is on the topic once everything that was accepted is, or after a long time.
    pub(crate) async fn records(&self, ledger: &Ledger) -> Vec<ReadBack> {
        read_until(&self.brokers, &self.topic, ledger.ids()).await
    }

    /// What is on the topic now.
    pub(crate) async fn records_now(&self) -> Vec<ReadBack> {
        read_to_end(&self.brokers, &self.topic).await
    }

    /// Holds the topic against the ledger, once everything that was accepted had its time to arrive.
    pub(crate) async fn verdict(&self, ledger: &Ledger) -> Verdict {
        ledger.check(&self.records(ledger).await)
    }

    /// How many numbers of the log's lanes are settled.
    pub(crate) async fn settled(&self) -> i64 {
        settled(&self.pool()).await
    }

    /// Waits until all that is in the log is settled.
    pub(crate) async fn drained(&self) {
        let pool = self.pool();
        eventually("the outbox is drained", async || (settled(&pool).await == logged(&pool).await).then_some(())).await;
    }
}

/// The settings of a service with this broker.
pub(crate) fn config(brokers: &str, more: &[(&str, &str)]) -> Config {
    let direct_timeout = DIRECT_TIMEOUT.as_millis().to_string();
    let settings = [
        ("STREAMING_ENABLED", "true"),
        ("STREAMING_BROKERS", brokers),
        ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
        ("STREAMING_TOPIC_PREFIX", PREFIX),
        ("STREAMING_DIRECT_TIMEOUT_MS", &direct_timeout),
        ("STREAMING_CB_TIMEOUT_S", "1"),
    ];
    // What comes later in the list counts.
    Config::from_vars(settings.into_iter().chain(more.iter().copied())).unwrap()
}

/// A producer on a transport of the test's, with an outbox in a file of its own.
pub(crate) async fn producer_on(transport: Arc<dyn Transport>) -> (Producer, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let outbox = SqliteOutbox::open(directory.path().join("shop.sqlite"));
    outbox.migrate().await.unwrap();
    let builder = Producer::builder(config("none:1", &[]), catalog()).with_outbox(outbox);
    (builder.with_transport(transport).build().await.unwrap(), directory)
}

/// Begins a transaction that writes. One that begins to read may be refused the right to write later.
pub(crate) async fn begin(pool: &SqlitePool) -> Transaction<'static, Sqlite> {
    pool.begin_with("begin immediate").await.unwrap()
}

pub(crate) async fn logged(pool: &SqlitePool) -> i64 {
    sqlx::query_scalar("select count(*) from tidings_outbox").fetch_one(pool).await.unwrap()
}

pub(crate) async fn settled(pool: &SqlitePool) -> i64 {
    let sets: Vec<String> = sqlx::query_scalar("select published from tidings_lane").fetch_all(pool).await.unwrap();
    sets.iter().map(|set| count_in(set)).sum()
}

/// How many numbers a set such as `{[1,5),[7,8)}` has.
fn count_in(set: &str) -> i64 {
    let numbers: Vec<i64> =
        set.split(|c: char| !c.is_ascii_digit()).filter(|text| !text.is_empty()).map(|n| n.parse().unwrap()).collect();
    numbers.chunks_exact(2).map(|range| range[1] - range[0]).sum()
}
