//! A transport that keeps records in memory, for tests.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Delivery, OnDelivery, QueueFull, Record, Transport};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

/// Topics in memory, for a [`Producer`](crate::Producer) in a service's own tests: it takes records in order, and fails as it is
/// told to.
///
/// # Examples
///
/// A service that goes on while the broker is down:
///
/// ```
/// # #[cfg(feature = "sqlite")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use tidings::testing::{Fate, MemoryTransport};
/// use tidings::{Catalog, Config, EmitRequest, Emitter, ErrorKind, EventDefinition, Outcome, Producer, SqliteOutbox};
///
/// let folder = tempfile::tempdir()?;
/// let outbox = SqliteOutbox::open(folder.path().join("outbox.sqlite"));
/// outbox.migrate().await?;
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let transport = Arc::new(MemoryTransport::default());
/// let producer = Producer::builder(Config::new("//shop", ["none:9092"])?, catalog)
///     .with_outbox(outbox)
///     .with_transport(transport.clone())
///     .build()
///     .await?;
///
/// // The first record arrives, and its acknowledgement is lost.
/// transport.script(|submission| match submission.number {
///     1 => Fate::LoseAcknowledgement,
///     _ => Fate::Deliver,
/// });
/// let receipt = producer.emit(EmitRequest::new("order.created").tenant("t-abc").payload("{}")).await?;
/// assert!(matches!(receipt.outcome, Outcome::Stored { .. }));
/// assert_eq!(transport.records().len(), 1); // the relay will send it again, under the same id
/// # Ok(()) }
/// # #[cfg(not(feature = "sqlite"))]
/// # fn main() {}
/// ```
#[derive(Debug, Default)]
pub struct MemoryTransport {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    down: bool,
    refused_keys: Vec<String>,
    refused_topics: Vec<String>,
    script: Option<Script>,
    /// How many records were submitted.
    submitted: usize,
    /// Those that wait to be released, in order.
    held: Vec<(Record, OnDelivery)>,
    records: Vec<Record>,
}

#[derive(Clone)]
struct Script(Arc<dyn Fn(&Submission<'_>) -> Fate + Send + Sync>);

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// A record that a [script](MemoryTransport::script) decides on.
#[derive(Debug)]
#[non_exhaustive]
pub struct Submission<'a> {
    /// The record.
    pub record: &'a Record,
    /// The how many-th record it is since the transport was made, from 1 on.
    pub number: usize,
}

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It arrives, unless the transport is down or refuses it, and that is said.
    Deliver,
    /// It does not arrive: an error of this kind.
    Fail(ErrorKind),
    /// It arrives, and what is said is [`ErrorKind::Timeout`], which is ambiguous.
    LoseAcknowledgement,
    /// Nothing is said of it until it is [released](MemoryTransport::release).
    Hold,
}

impl MemoryTransport {
    /// From now on every record fails as if no broker could be reached.
    pub fn take_down(&self) {
        self.lock().down = true;
    }

    /// Ends [`take_down`](Self::take_down).
    pub fn bring_back(&self) {
        self.lock().down = false;
    }

    /// From now on records of this key are refused for what they are.
    pub fn refuse_key(&self, key: impl Into<String>) {
        self.lock().refused_keys.push(key.into());
    }

    /// From now on records for this topic are refused for what they are.
    pub fn refuse_topic(&self, topic: impl Into<String>) {
        self.lock().refused_topics.push(topic.into());
    }

    /// Ends every [`refuse_key`](Self::refuse_key) and [`refuse_topic`](Self::refuse_topic).
    pub fn accept_all(&self) {
        let mut state = self.lock();
        state.refused_keys.clear();
        state.refused_topics.clear();
    }

    /// From now on `script` decides on every record.
    pub fn script(&self, script: impl Fn(&Submission<'_>) -> Fate + Send + Sync + 'static) {
        self.lock().script = Some(Script(Arc::new(script)));
    }

    /// How many records are held.
    #[must_use]
    pub fn held_count(&self) -> usize {
        self.lock().held.len()
    }

    /// Delivers what is held, in order. What a script holds later stays.
    pub fn release(&self) {
        let held = std::mem::take(&mut self.lock().held);
        for (record, on_delivery) in held {
            on_delivery.call(self.take(&record));
        }
    }

    /// What has arrived, in order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere has not left this half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fate(&self, record: &Record) -> Fate {
        let mut state = self.lock();
        state.submitted += 1;
        let (number, script) = (state.submitted, state.script.clone());
        // The script may look at the transport.
        drop(state);
        script.map_or(Fate::Deliver, |Script(script)| script(&Submission { record, number }))
    }

    fn take(&self, record: &Record) -> Result<Delivery> {
        let mut state = self.lock();
        if state.down {
            return Err(Error::new(ErrorKind::BrokerUnavailable, "the memory transport is down"));
        }
        if state.refused_keys.iter().any(|key| key.as_bytes() == record.key) {
            return Err(Error::new(ErrorKind::RecordRejected, "the memory transport refuses this key"));
        }
        if state.refused_topics.iter().any(|topic| **topic == *record.topic) {
            return Err(Error::new(ErrorKind::RecordRejected, "the memory transport refuses this topic"));
        }
        state.records.push(record.clone());
        Ok(Delivery { partition: 0, offset: i64::try_from(state.records.len() - 1).unwrap_or(i64::MAX) })
    }
}

impl Transport for MemoryTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        match self.fate(record) {
            Fate::Deliver => on_delivery.call(self.take(record)),
            Fate::Fail(kind) => on_delivery.call(Err(Error::new(kind, "the memory transport was told to fail"))),
            Fate::LoseAcknowledgement => on_delivery.call(self.take(record).and_then(|_| {
                let message = "the memory transport was told to lose the acknowledgement";
                Err(Error::new(ErrorKind::Timeout, message).or_ambiguous(true))
            })),
            Fate::Hold => self.lock().held.push((record.clone(), on_delivery)),
        }
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(self.held_count() == 0))
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
        let down = self.lock().down;
        let answer =
            if down { Err(Error::new(ErrorKind::BrokerUnavailable, "the memory transport is down")) } else { Ok(()) };
        Box::pin(std::future::ready(answer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str) -> Record {
        Record {
            topic: "t".into(),
            key: key.to_owned().into(),
            headers: crate::wire::Headers::default(),
            payload: None,
        }
    }

    #[tokio::test]
    async fn a_script_decides_on_every_record_by_its_number_and_content() {
        let transport = MemoryTransport::default();
        transport.script(|submission| match (submission.number, &submission.record.key[..]) {
            (_, b"held") => Fate::Hold,
            (2, _) => Fate::Fail(ErrorKind::Unauthorized),
            (3, _) => Fate::LoseAcknowledgement,
            _ => Fate::Deliver,
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        for key in ["a", "b", "c", "held", "d"] {
            let said = Arc::clone(&said);
            let on_delivery = OnDelivery::new(move |result: Result<Delivery>| {
                let error = result.err().map(|error| (error.kind(), error.is_ambiguous()));
                said.lock().unwrap().push((key, error));
            });
            assert!(transport.submit(&record(key), on_delivery).is_ok());
        }
        assert!(!transport.flush(Duration::ZERO).await && transport.held_count() == 1);
        transport.release();
        let (denied, late) = (Some((ErrorKind::Unauthorized, false)), Some((ErrorKind::Timeout, true)));
        let expected = [("a", None), ("b", denied), ("c", late), ("d", None), ("held", None)];
        assert_eq!(*said.lock().unwrap(), expected);
        let arrived: Vec<_> = transport.records().into_iter().map(|record| record.key).collect();
        assert_eq!(arrived, ["a", "c", "d", "held"]);
        assert!(transport.flush(Duration::ZERO).await);
    }
}
