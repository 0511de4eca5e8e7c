//! Holds topics, outboxes, the services' own tables and what the load knows against one another.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Headers, Message};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use tidings::admin::{Admin, Fault, RowFilter};
use tidings::testing::verify::{History, Seen};
use tidings::wire;

use crate::Result;
use crate::events::{Kind, Payload};
use crate::ledger::{Emitted, Entries};
use crate::monkey::Incident;
use crate::roles::accepted_file;
use crate::run::SERVICES;
use crate::store::{AnyOutbox, Store};

/// How long one call to the brokers may take, and how long reading may take without a record.
const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// So much later than it was first seen an event may still be in flight: until a relay has written down that it is not.
const WRITTEN_DOWN_MS: i64 = 1_000;
/// So long a fault is felt that is over: brokers that were stopped elect leaders, and take their partitions up again.
const FELT_MS: i64 = 10_000;

/// A relay that slept sends what it had begun with, and so does the one that took over from it.
const DUPLICATES_OF_A_FAULT: usize = 2;

/// A record of a topic.
#[derive(Debug)]
pub(crate) struct Record {
    partition: i32,
    offset: i64,
    key: String,
    id: String,
    /// When the broker has written it, in milliseconds of the epoch.
    at_ms: i64,
}

/// What the check has come to.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) accepted: usize,
    /// Of those, how many whose answer did not say so.
    pub(crate) known_later: usize,
    pub(crate) published: usize,
    pub(crate) lost: usize,
    pub(crate) invented: usize,
    pub(crate) inverted: usize,
    pub(crate) duplicated: usize,
    /// The most records of one event.
    pub(crate) most_copies: usize,
    pub(crate) longest_wait: Option<Wait>,
    /// What is wrong, a line each.
    pub(crate) faults: String,
}

/// The records of one event.
#[derive(Debug, Clone, Copy)]
struct Copies {
    count: usize,
    first_ms: i64,
    last_ms: i64,
}

impl Copies {
    fn see(&mut self, at_ms: i64) {
        self.count += 1;
        self.first_ms = self.first_ms.min(at_ms);
        self.last_ms = self.last_ms.max(at_ms);
    }
}

/// How long an event took from its order until it was seen for the first time; the longer, the greater.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Wait {
    pub(crate) lasted_ms: i64,
    pub(crate) began_ms: i64,
    pub(crate) id: String,
}

/// The databases of the services, behind no proxy.
pub(crate) struct Databases {
    pub(crate) postgres: String,
    pub(crate) sqlite: PathBuf,
}

impl Databases {
    fn all(&self) -> [String; 2] {
        [self.postgres.clone(), self.sqlite.display().to_string()]
    }

    fn admins(&self) -> Result<Vec<Admin>> {
        let admin = |database: String| match AnyOutbox::open(&database)? {
            AnyOutbox::Postgres(outbox) => Ok(Admin::of(&outbox)),
            AnyOutbox::Sqlite(outbox) => Ok(Admin::of(&outbox)),
        };
        self.all().into_iter().map(admin).collect()
    }

    /// Waits until nothing waits in an outbox any more, and yields how many events still do after that time.
    pub(crate) async fn drained(&self, patience: Duration) -> Result<u64> {
        let (admins, until) = (self.admins()?, Instant::now() + patience);
        loop {
            let mut waiting = 0;
            for admin in &admins {
                let total = admin.depth().await?.total;
                waiting += total.waiting.events + total.held.events;
            }
            if waiting == 0 || Instant::now() >= until {
                return Ok(waiting);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Checks everything, when nothing runs any more.
pub(crate) async fn check(
    mut entries: Entries,
    databases: &Databases,
    brokers: &str,
    folder: &Path,
    incidents: &[Incident],
) -> Result<Report> {
    let count = |entries: &Entries| entries.histories.values().map(History::accepted_count).sum::<usize>();
    let answered = count(&entries);
    let in_order = settle_what_is_known(&mut entries, databases, folder).await?;
    let mut verifiers = Vec::new();
    for admin in databases.admins()? {
        verifiers.push(admin.verifier(&RowFilter::default()).await?);
    }
    let accepted = count(&entries);
    let mut report = Report { accepted, known_later: accepted - answered, ..Report::default() };
    let mut copies: HashMap<String, Copies> = HashMap::new();
    for kind in Kind::ALL {
        let (topic, brokers) = (kind.topic(), brokers.to_owned());
        let read = topic.clone();
        let records = tokio::task::spawn_blocking(move || read_topic(&brokers, &read)).await??;
        for record in &records {
            verifiers.iter_mut().for_each(|verifier| verifier.see(&topic, record.partition, &record.id));
            let none = Copies { count: 0, first_ms: record.at_ms, last_ms: record.at_ms };
            copies.entry(record.id.clone()).or_insert(none).see(record.at_ms);
        }
        let seen = |record: &Record| Seen::new(record.partition, record.offset, record.key.clone(), record.id.clone());
        let history = entries.histories.remove(&kind).unwrap_or_default();
        let verdict = history.verify(records.iter().map(seen));
        // Transactions of one key have an order of their own: that of its lock, whatever the load was told.
        let locked = &in_order[&kind];
        let of_transactions = records.iter().filter(|record| locked.is_accepted(&record.id));
        let by_lock = locked.verify(of_transactions.map(seen));
        report.published += records.len();
        report.lost += verdict.lost.len();
        report.invented += verdict.invented.len();
        report.inverted += verdict.inverted.len() + verdict.scattered.len() + by_lock.inverted.len();
        report.duplicated += verdict.duplicates;
        if !verdict.is_kept() {
            report.faults += &format!("{topic}: {verdict}");
        }
        if !by_lock.is_kept() {
            report.faults += &format!("{topic}, in the order of the transactions: {by_lock}");
        }
        let waits = copies.iter().filter(|(id, _)| history.is_accepted(id));
        let wait = |(id, copies): (&String, &Copies)| {
            let began_ms = entries.emits.get(id)?.began_ms;
            Some(Wait { lasted_ms: copies.first_ms - began_ms, began_ms, id: id.clone() })
        };
        let waits = waits.filter_map(wait);
        report.longest_wait = waits.max().max(report.longest_wait.take());
    }
    for verifier in verifiers {
        // Of order, and of what nobody emitted, the histories know more than the log.
        if let Some(lost) = verifier.finish().finding(Fault::Lost) {
            report.faults += &format!("settled in an outbox, and not on the topic: {lost:?}\n");
            report.lost = report.lost.max(usize::try_from(lost.count).unwrap_or(usize::MAX));
        }
    }
    report.most_copies = copies.values().map(|copies| copies.count).max().unwrap_or(0);
    report.faults += &repeated(&entries.emits, &copies, incidents);
    Ok(report)
}

/// Enters what the services have written down, which their answers may not have told; yields what was committed, in the order of
/// the locks.
async fn settle_what_is_known(
    entries: &mut Entries,
    databases: &Databases,
    folder: &Path,
) -> Result<HashMap<Kind, History<String>>> {
    let mut in_order: HashMap<Kind, History<String>> = Kind::ALL.map(|kind| (kind, History::new())).into();
    let mut committed = HashSet::new();
    for database in databases.all() {
        for (id, key) in Store::open(&database).await?.bookings().await? {
            let kind = entries.emits.get(&id).ok_or_else(|| format!("nobody ordered {id}, which is in a table"))?.kind;
            let history = in_order.entry(kind).or_default();
            history.began(key, id.clone());
            history.accepted(&id);
            committed.insert(id);
        }
    }
    let mut written = HashSet::new();
    for service in SERVICES {
        let text = std::fs::read_to_string(accepted_file(folder, service))?;
        // The last line may be torn.
        written.extend(text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(str::to_owned));
    }
    for (id, emitted) in &entries.emits {
        let history = entries.histories.entry(emitted.kind).or_default();
        match emitted.in_transaction {
            true if committed.contains(id) => history.accepted(id),
            // One that was said to be committed, and is not there, stays accepted.
            true if !history.is_accepted(id) => history.refused(id),
            false if written.contains(id) => history.accepted(id),
            _ => {}
        }
    }
    Ok(in_order)
}

/// Events that are there again for no reason: a fault costs those that are in flight a duplicate or two. That is an event from its order
/// until a relay has written down that it was delivered.
fn repeated(emits: &HashMap<String, Emitted>, copies: &HashMap<String, Copies>, incidents: &[Incident]) -> String {
    let mut lines = String::new();
    // Nothing is known of the brokers then, and it shows as a fault does.
    let load_began_ms = emits.values().map(|emitted| emitted.began_ms).min().unwrap_or_default();
    for (id, Copies { count, last_ms, .. }) in copies.iter().filter(|(_, copies)| copies.count > 1) {
        let Some(emitted) = emits.get(id) else { continue };
        let from_ms = emitted.began_ms - FELT_MS;
        let life = |incident: &&Incident| incident.overlaps(from_ms, last_ms + WRITTEN_DOWN_MS);
        let faults = incidents.iter().filter(life).count() + usize::from(from_ms < load_began_ms);
        if *count > 1 + DUPLICATES_OF_A_FAULT * faults {
            lines += &format!("{id} is there {count} times, with {faults} faults in its life\n");
        }
    }
    lines
}

/// Reads a topic from its beginning to its present end.
fn read_topic(brokers: &str, topic: &str) -> Result<Vec<Record>> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        // Needed to make a consumer; nothing is ever committed.
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()?;
    let metadata = patiently(|| consumer.fetch_metadata(Some(topic), CALL_TIMEOUT))?;
    let partitions =
        metadata.topics().first().map(|topic| topic.partitions().iter().map(|p| p.id()).collect::<Vec<_>>());
    let (mut list, mut left) = (TopicPartitionList::new(), HashMap::new());
    for partition in partitions.unwrap_or_default() {
        list.add_partition_offset(topic, partition, Offset::Beginning)?;
        let (first, end) = patiently(|| consumer.fetch_watermarks(topic, partition, CALL_TIMEOUT))?;
        if end > first {
            left.insert(partition, end);
        }
    }
    consumer.assign(&list)?;
    let (mut records, mut last) = (Vec::new(), Instant::now());
    while !left.is_empty() {
        if let Some(Ok(message)) = consumer.poll(Duration::from_millis(200)) {
            let record = record(&message)?;
            if left.get(&record.partition).is_some_and(|end| record.offset + 1 >= *end) {
                left.remove(&record.partition);
            }
            records.push(record);
            last = Instant::now();
        } else if last.elapsed() > CALL_TIMEOUT {
            return Err(format!("{topic} can't be read to its end: {left:?}").into());
        }
    }
    Ok(records)
}

/// A leader that has just been elected does not know at first how far its partition is.
fn patiently<T>(ask: impl Fn() -> KafkaResult<T>) -> KafkaResult<T> {
    let until = Instant::now() + CALL_TIMEOUT;
    loop {
        match ask() {
            Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(200)),
            answer => return answer,
        }
    }
}

fn record(message: &rdkafka::message::BorrowedMessage<'_>) -> Result<Record> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    let headers: Vec<(&str, &[u8])> = headers.map(|header| (header.key, header.value.unwrap_or_default())).collect();
    let event = wire::decode(headers, message.payload())?;
    let payload: Payload = serde_json::from_slice(event.data.as_deref().unwrap_or_default())?;
    let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
    // Another payload is another event, and nobody has emitted that.
    let is_whole = payload.event == event.id && payload.account == key;
    let id = if is_whole { event.id } else { format!("{} with the payload {payload:?}", event.id) };
    let at_ms = message.timestamp().to_millis().ok_or("a record has a time")?;
    Ok(Record { partition: message.partition(), offset: message.offset(), key, id, at_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Fault;

    #[test]
    fn an_event_is_there_again_only_for_the_faults_in_its_life() {
        let event = |began_ms| Emitted { kind: Kind::ALL[0], began_ms, in_transaction: false };
        let emits: HashMap<_, _> = [("first".to_owned(), event(0)), ("late".to_owned(), event(100_000))].into();
        let there = |id: &str, count, last_ms| [(id.to_owned(), Copies { count, first_ms: last_ms, last_ms })].into();
        let fault = |began_ms, ended_ms| Incident { fault: Fault::ALL[0], began_ms, ended_ms };
        let none = [fault(20_000, 89_999), fault(103_000, 104_000)];
        assert_eq!(repeated(&emits, &there("late", 1, 101_000), &none), "");
        assert!(
            repeated(&emits, &there("late", 2, 101_000), &none).starts_with("late is there 2 times, with 0 faults")
        );
        // The second one lasts until it was seen for the last time.
        assert_eq!(repeated(&emits, &there("late", 3, 102_000), &none), "");
        assert!(
            repeated(&emits, &there("late", 4, 102_000), &none).starts_with("late is there 4 times, with 1 faults")
        );
        assert_eq!(repeated(&emits, &there("first", 3, 1_000), &none), "", "the load has just begun");
    }
}
