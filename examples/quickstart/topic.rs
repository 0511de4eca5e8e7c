//! Reads the topic back, as any consumer would.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use cloudevents::AttributesReader;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers as _, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidings::wire::{Headers, to_cloudevent};

use crate::Result;
use crate::orders::OrderChange;
use crate::services::Services;

const TIMEOUT: Duration = Duration::from_secs(15);

/// An event on the topic.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: String,
    /// The event's id, its `ce_id`.
    pub(crate) id: String,
    /// The running number in the payload.
    pub(crate) number: u32,
}

/// All that is on the topic now. The records of a partition are in its order.
pub(crate) async fn read(services: &Services) -> Result<Vec<Record>> {
    let (servers, topic) = (services.broker.servers(), services.topic.clone());
    tokio::task::spawn_blocking(move || read_blocking(&servers, &topic)).await?
}

fn read_blocking(servers: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", servers)
        // No consumer group is joined and nothing committed, but the client wants a name.
        .set("group.id", "quickstart")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(topic), TIMEOUT)?;
    let partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
    let mut ends = HashMap::new();
    let mut assignment = TopicPartitionList::new();
    for partition in partitions.map(|partition| partition.id()) {
        let (begin, end) = consumer.fetch_watermarks(topic, partition, TIMEOUT)?;
        if begin < end {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
            ends.insert(partition, end);
        }
    }
    consumer.assign(&assignment)?;
    let deadline = Instant::now() + TIMEOUT;
    let mut records = Vec::new();
    while !ends.is_empty() {
        if Instant::now() > deadline {
            return Err("the topic could not be read to its end in time".into());
        }
        // An error is of the connection, and the client connects again.
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        if ends.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
            ends.remove(&message.partition());
        }
        records.push(record(&message)?);
    }
    Ok(records)
}

fn record(message: &impl Message) -> Result<Record> {
    let mut headers = Headers::default();
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        headers.push(header.key, header.value.unwrap_or_default());
    }
    let payload = message.payload().unwrap_or_default();
    let event = to_cloudevent(&headers, payload)?;
    let order: OrderChange = serde_json::from_slice(payload)?;
    let key = String::from_utf8(message.key().unwrap_or_default().to_vec())?;
    Ok(Record { partition: message.partition(), key, id: event.id().to_owned(), number: order.number })
}
