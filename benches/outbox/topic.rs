//! Topics, and what is on them: read by a consumer that knows nothing of the library.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::events;
use crate::world::PARTITIONS;

/// A busy machine was seen to take more than ten seconds for a topic.
const CALL_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes a topic whose records are from when they arrived, and waits until it can be read.
pub(crate) async fn create(brokers: &str, topic: &str) {
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let new = new.set("message.timestamp.type", "LogAppendTime");
    let created =
        admin(brokers).create_topics([&new], &AdminOptions::new().operation_timeout(Some(CALL_TIMEOUT))).await;
    for result in created.expect("the broker answers") {
        result.expect("the topic can be made");
    }
    let (brokers, topic) = (brokers.to_owned(), topic.to_owned());
    let read = tokio::task::spawn_blocking(move || read(&brokers, &topic, |_, _| ()));
    read.await.expect("an empty topic can be read");
}

/// Deletes a topic, as far as the broker lets us.
pub(crate) async fn delete(brokers: &str, topic: &str) {
    let _ = admin(brokers).delete_topics(&[topic], &AdminOptions::new()).await;
}

fn admin(brokers: &str) -> AdminClient<DefaultClientContext> {
    ClientConfig::new().set("bootstrap.servers", brokers).create().expect("a client can be made")
}

/// A consumer at the beginning of all partitions.
pub(crate) fn consumer(brokers: &str, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Needed to make a consumer; nothing is ever committed.
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        // The broker answers as soon as there is one record, and at the latest after this time.
        .set("fetch.min.bytes", "1")
        .set("fetch.wait.max.ms", "20")
        .create()
        .expect("a client can be made");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("the offset is valid");
    }
    consumer.assign(&list).expect("the partitions can be assigned");
    consumer
}

/// Reads a topic from its beginning to its present end. Tells the number of each event, and when it arrived,
/// in milliseconds since 1970.
pub(crate) fn read(brokers: &str, topic: &str, mut see: impl FnMut(usize, i64)) {
    let consumer = consumer(brokers, topic);
    let mut left: i64 = (0..PARTITIONS).map(|partition| end_of(&consumer, topic, partition)).sum();
    let mut last = Instant::now();
    while left > 0 {
        assert!(last.elapsed() < CALL_TIMEOUT, "{left} records of {topic} can't be read");
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
            see(number(&message), message.timestamp().to_millis().unwrap_or_default());
            left -= 1;
            last = Instant::now();
        }
    }
}

pub(crate) fn number(message: &BorrowedMessage<'_>) -> usize {
    events::number(message.payload().expect("no event is a tombstone"))
}

/// How many records a partition has: none is ever deleted, and none is a transaction's mark.
fn end_of(consumer: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let start = Instant::now();
    loop {
        match consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT) {
            Ok((begin, end)) => return end - begin,
            // Until a new partition has a leader.
            Err(error) => assert!(start.elapsed() < CALL_TIMEOUT, "{topic}/{partition}: {error}"),
        }
    }
}
