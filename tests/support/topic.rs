//! What is on a topic, read with a consumer that knows nothing of the library.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::waiting::PATIENCE;

/// A record as anybody may have written it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AnyRecord {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) payload: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl AnyRecord {
    fn of(message: &BorrowedMessage<'_>) -> Self {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| {
            (header.key.to_owned(), header.value.expect("no header is null").to_vec())
        };
        Self {
            partition: message.partition(),
            offset: message.offset(),
            key: message.key().map(<[u8]>::to_vec),
            payload: message.payload().map(<[u8]>::to_vec),
            headers: message.headers().into_iter().flat_map(Headers::iter).map(header).collect(),
        }
    }

    fn id(&self) -> Option<&str> {
        let (_, id) = self.headers.iter().find(|(name, _)| name == "ce_id")?;
        std::str::from_utf8(id).ok()
    }
}

/// A record of ours as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ReadBack {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) key: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// In order of their names.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
}

impl From<AnyRecord> for ReadBack {
    fn from(record: AnyRecord) -> Self {
        let AnyRecord { partition, offset, key, payload, mut headers } = record;
        assert!(!headers.is_empty(), "a record without headers is none of ours");
        headers.sort();
        Self {
            partition,
            offset,
            key: key.expect("the key is never null"),
            payload: payload.expect("the value is never null"),
            headers,
        }
    }
}

impl ReadBack {
    /// The text of a header.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(candidate, _)| candidate == name);
        std::str::from_utf8(&found.unwrap_or_else(|| panic!("no header {name} in {self:?}")).1).unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.header("ce_id").to_owned()
    }
}

/// How long one call to the broker may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads the topic from its beginning until all of `ids` were there, then up to its present end; or, after a long time,
/// what is there.
///
/// The records of each partition are in order.
pub(crate) async fn read_until(brokers: &str, topic: &str, ids: HashSet<String>) -> Vec<ReadBack> {
    let records = read_any(brokers, topic, ids).await;
    records.into_iter().map(ReadBack::from).collect()
}

/// Reads the topic from its beginning to its present end.
pub(crate) async fn read_to_end(brokers: &str, topic: &str) -> Vec<ReadBack> {
    read_until(brokers, topic, HashSet::new()).await
}

/// As [`read_to_end`], of a topic on which others have written too.
pub(crate) async fn read_all_to_end(brokers: &str, topic: &str) -> Vec<AnyRecord> {
    read_any(brokers, topic, HashSet::new()).await
}

async fn read_any(brokers: &str, topic: &str, ids: HashSet<String>) -> Vec<AnyRecord> {
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&brokers, &topic, ids)).await.unwrap()
}

fn read(brokers: &str, topic: &str, mut awaited: HashSet<String>) -> Vec<AnyRecord> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Needed to make a consumer; nothing is ever committed.
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let partitions = partitions(&consumer, topic, deadline);
    let mut list = TopicPartitionList::new();
    for partition in &partitions {
        list.add_partition_offset(topic, *partition, Offset::Beginning).unwrap();
    }
    consumer.assign(&list).unwrap();
    let mut records: Vec<AnyRecord> = Vec::new();
    while !awaited.is_empty() && Instant::now() < deadline {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            let record = AnyRecord::of(&message);
            record.id().map(|id| awaited.remove(id));
            records.push(record);
        }
    }
    let ends: Vec<(i32, i64)> = partitions.iter().map(|p| (*p, end_of(&consumer, topic, *p, deadline))).collect();
    let read_to = |records: &[AnyRecord], partition: i32, end: i64| {
        end == 0 || records.iter().rev().any(|r| r.partition == partition && r.offset >= end - 1)
    };
    while !ends.iter().all(|(partition, end)| read_to(&records, *partition, *end)) {
        assert!(Instant::now() < deadline + PATIENCE, "the topic {topic} could not be read to its end");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            records.push(AnyRecord::of(&message));
        }
    }
    records
}

fn partitions(consumer: &BaseConsumer, topic: &str, deadline: Instant) -> Vec<i32> {
    loop {
        // A broker that has just come back may not answer at once.
        if let Ok(metadata) = consumer.fetch_metadata(Some(topic), CALL_TIMEOUT)
            && let Some(found) = metadata.topics().first()
            && !found.partitions().is_empty()
        {
            return found.partitions().iter().map(|partition| partition.id()).collect();
        }
        assert!(Instant::now() < deadline, "the topic {topic} has no partitions");
    }
}

fn end_of(consumer: &BaseConsumer, topic: &str, partition: i32, deadline: Instant) -> i64 {
    loop {
        match consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT) {
            Ok((begin, end)) => {
                assert_eq!(begin, 0, "{topic}/{partition} has forgotten its oldest records: the test emits too much");
                return end;
            }
            Err(error) => assert!(Instant::now() < deadline + PATIENCE, "{topic}/{partition}: {error}"),
        }
    }
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().unwrap()
}

/// Makes a topic, and waits until the broker knows it.
pub(crate) async fn create(brokers: &str, topic: &str, partitions: i32) {
    create_with(brokers, topic, partitions, &[]).await;
}

/// Makes a topic with these settings, and waits until the broker knows it.
pub(crate) async fn create_with(brokers: &str, topic: &str, partitions: i32, settings: &[(&str, &str)]) {
    let admin = admin(brokers);
    let options = AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT));
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in settings {
        new = new.set(name, value);
    }
    for result in admin.create_topics([&new], &options).await.unwrap() {
        result.unwrap();
    }
    // Until every partition has a leader, a consumer finds no end.
    read_to_end(brokers, topic).await;
}

/// Gives a topic this setting, and the others their defaults.
pub(crate) async fn alter(brokers: &str, topic: &str, name: &str, value: &str) {
    let change = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(name, value);
    for result in admin(brokers).alter_configs([&change], &AdminOptions::new()).await.unwrap() {
        result.unwrap();
    }
}

/// Gives a topic so many partitions altogether.
pub(crate) async fn grow(brokers: &str, topic: &str, partitions: usize) {
    let more = NewPartitions::new(topic, partitions);
    for result in admin(brokers).create_partitions([&more], &AdminOptions::new()).await.unwrap() {
        result.unwrap();
    }
}

/// Deletes topics, as far as the broker lets us.
pub(crate) async fn delete(brokers: &str, topics: &[&str]) {
    let _ = admin(brokers).delete_topics(topics, &AdminOptions::new()).await;
}

/// Whether the broker knows the topic.
pub(crate) async fn is_there(brokers: &str, topic: &str) -> bool {
    let (admin, topic) = (admin(brokers), topic.to_owned());
    let known = move || {
        let metadata = admin.inner().fetch_metadata(Some(&topic), CALL_TIMEOUT).unwrap();
        metadata.topics().iter().all(|topic| topic.error().is_none())
    };
    tokio::task::spawn_blocking(known).await.unwrap()
}
