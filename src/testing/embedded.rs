//! A broker in the process, and a file for the database.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use uuid::Uuid;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::sqlite::SqliteOutbox;
use crate::producer::Producer;
use crate::transport::Record;
use crate::wire::Headers;

/// The one broker of the cluster.
const BROKER: i32 = 1;

/// How long a topic may take to have what is awaited.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one question to the broker may take.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is asked.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// A Kafka broker in this process, librdkafka's mock, and a SQLite file: what a real [`Producer`] and its relay need, in tests of
/// services that have neither Kafka nor a database server at hand.
///
/// Topics come about when they are written to, with four partitions. The broker keeps only the newest megabytes of a partition, and
/// knows no transactions, access rights or consumer groups that outlive it. The file goes with the value.
///
/// Available with the features `testing`, `kafka` and `sqlite`.
///
/// # Examples
///
/// ```
/// use tidings::testing::Embedded;
/// use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let embedded = Embedded::new()?;
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let producer = embedded.producer(Config::new("//shop", [embedded.brokers()])?, catalog).await?;
///
/// producer.emit(EmitRequest::new("order.created").tenant("t-abc").payload("{}")).await?;
///
/// let records = embedded.records("events.order.created", 1).await?;
/// assert_eq!(records[0].key, "t-abc");
/// # Ok(()) }
/// ```
pub struct Embedded {
    cluster: MockCluster<'static, DefaultProducerContext>,
    folder: PathBuf,
    database: PathBuf,
}

impl Embedded {
    /// A broker that runs, and a file that is not there yet.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BrokerUnavailable`] if the broker can't be started, [`ErrorKind::Storage`] if no file can be made.
    pub fn new() -> Result<Self> {
        let cluster = MockCluster::new(1).map_err(|error| failure("the broker does not start", &error))?;
        let folder = std::env::temp_dir().join(format!("tidings-{}", Uuid::now_v7()));
        std::fs::create_dir(&folder).map_err(|error| {
            Error::new(ErrorKind::Storage, format!("{} can't be made", folder.display())).with_source(error)
        })?;
        let database = folder.join("service.sqlite");
        Ok(Self { cluster, folder, database })
    }

    /// Where the broker is, as [`Config::new`] and `STREAMING_BROKERS` take it.
    #[must_use]
    pub fn brokers(&self) -> String {
        self.cluster.bootstrap_servers()
    }

    /// The SQLite file, for the service's own tables beside the outbox.
    #[must_use]
    pub fn database(&self) -> &Path {
        &self.database
    }

    /// A producer with its outbox in the file. Spawn its [`relay`](Producer::relay) to have what is stored published.
    ///
    /// # Errors
    ///
    /// As [`ProducerBuilder::build`](crate::ProducerBuilder::build) and [`SqliteOutbox::migrate`].
    #[expect(clippy::future_not_send, reason = "the broker is in one thread, and its test's task with it")]
    pub async fn producer(&self, config: Config, catalog: Catalog) -> Result<Producer> {
        let outbox = SqliteOutbox::open(&self.database);
        outbox.migrate().await?;
        Producer::builder(config, catalog).with_outbox(outbox).build().await
    }

    /// Takes the broker down: connections are cut, and new ones refused.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BrokerUnavailable`] if the broker does not take the command.
    pub fn stop_broker(&self) -> Result<()> {
        self.cluster.broker_down(BROKER).map_err(|error| failure("the broker does not stop", &error))
    }

    /// Ends [`stop_broker`](Self::stop_broker). What was on the topics is there still.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::BrokerUnavailable`] if the broker does not take the command.
    pub fn start_broker(&self) -> Result<()> {
        self.cluster.broker_up(BROKER).map_err(|error| failure("the broker does not start", &error))
    }

    /// Reads a topic from its beginning, once it has at least so many records. Those of one key are in order.
    /// [`wire::decode`](crate::wire::decode) makes events of them.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`] if there are fewer after 30 seconds; it says how many there are.
    #[expect(clippy::future_not_send, reason = "the broker is in one thread, and its test's task with it")]
    pub async fn records(&self, topic: &str, count: usize) -> Result<Vec<Record>> {
        let (brokers, topic) = (self.brokers(), topic.to_owned());
        let read = tokio::task::spawn_blocking(move || read(&brokers, &topic, count)).await;
        read.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
    }
}

impl fmt::Debug for Embedded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("brokers", &self.brokers()).field("database", &self.database).finish()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // What can't be deleted is left to whoever cleans up temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn read(brokers: &str, topic: &str, count: usize) -> Result<Vec<Record>> {
    let deadline = Instant::now() + PATIENCE;
    let unreadable = |error: KafkaError| failure("the topic can't be read", &error);
    let mut config = ClientConfig::new();
    // A consumer wants the name of a group, and joins none.
    config.set("bootstrap.servers", brokers).set("group.id", "tidings").set("enable.auto.commit", "false");
    let consumer: BaseConsumer = config.create().map_err(unreadable)?;
    let mut ends = loop {
        // A broker that is down is asked again.
        let ends = ends(&consumer, topic).unwrap_or_default();
        let there: i64 = ends.values().sum();
        if usize::try_from(there).is_ok_and(|there| there >= count) {
            break ends;
        }
        if Instant::now() > deadline {
            let message = format!("`{topic}` has {there} records after {PATIENCE:?}, and {count} were awaited");
            return Err(Error::new(ErrorKind::Timeout, message));
        }
        std::thread::sleep(POLL_EVERY);
    };
    let mut partitions = TopicPartitionList::new();
    for partition in ends.keys() {
        partitions.add_partition_offset(topic, *partition, Offset::Beginning).map_err(unreadable)?;
    }
    consumer.assign(&partitions).map_err(unreadable)?;
    let mut records = Vec::new();
    while !ends.is_empty() {
        // An error is of the connection, which is made anew.
        if let Some(Ok(message)) = consumer.poll(POLL_EVERY) {
            if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                ends.remove(&message.partition());
            }
            records.push(record(&message));
        } else if Instant::now() > deadline {
            let message = format!("{} records of `{topic}` could be read within {PATIENCE:?}", records.len());
            return Err(Error::new(ErrorKind::Timeout, message));
        }
    }
    Ok(records)
}

/// How many records each partition has that has any.
fn ends(consumer: &BaseConsumer, topic: &str) -> Result<HashMap<i32, i64>, KafkaError> {
    let metadata = consumer.fetch_metadata(Some(topic), ASK_TIMEOUT)?;
    let mut ends = HashMap::new();
    for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()).map(|partition| partition.id()) {
        let (_, end) = consumer.fetch_watermarks(topic, partition, ASK_TIMEOUT)?;
        if end > 0 {
            ends.insert(partition, end);
        }
    }
    Ok(ends)
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let mut headers = Headers::default();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        headers.push(header.key, header.value.unwrap_or_default());
    }
    Record {
        topic: message.topic().into(),
        key: message.key().unwrap_or_default().to_vec().into(),
        headers,
        payload: message.payload().map(|payload| payload.to_vec().into()),
    }
}

fn failure(what: &str, error: &KafkaError) -> Error {
    Error::new(ErrorKind::BrokerUnavailable, what.to_owned()).with_source(error.clone())
}
