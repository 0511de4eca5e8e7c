//! A transport that keeps records in memory, for tests.

use std::collections::VecDeque;
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
    /// Those that wait to be released, and of each key those behind them, in order.
    held: VecDeque<(Held, OnDelivery)>,
    records: Vec<Record>,
}

/// A record with what becomes of it when it is its turn.
#[derive(Debug)]
struct Held {
    record: Record,
    fate: Fate,
}

impl Held {
    /// Whether it may not overtake the other one.
    fn is_behind(&self, other: &Self) -> bool {
        self.record.key == other.record.key && self.record.topic == other.record.topic
    }
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
    /// It arrives, as with [`Deliver`](Self::Deliver), and what is said is [`ErrorKind::Timeout`], which is ambiguous.
    LoseAcknowledgement,
    /// Nothing is said of it, and of what is submitted behind it with its key, until it is [released](MemoryTransport::release);
    /// then it arrives.
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

    /// Has what is held meet its fate, in order. What a script holds later stays.
    pub fn release(&self) {
        let mut count = self.held_count();
        loop {
            let mut state = self.lock();
            let Some((held, on_delivery)) = state.next(&mut count) else { return };
            let result = state.take(&held);
            drop(state);
            on_delivery.call(result);
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
}

impl State {
    /// What becomes of a record whose turn it is.
    fn take(&mut self, Held { record, fate }: &Held) -> Result<Delivery> {
        if let Fate::Fail(kind) = fate {
            return Err(Error::new(*kind, "the memory transport was told to fail"));
        }
        if self.down {
            return Err(Error::new(ErrorKind::BrokerUnavailable, "the memory transport is down"));
        }
        if self.refused_keys.iter().any(|key| key.as_bytes() == record.key) {
            return Err(Error::new(ErrorKind::RecordRejected, "the memory transport refuses this key"));
        }
        if self.refused_topics.iter().any(|topic| **topic == *record.topic) {
            return Err(Error::new(ErrorKind::RecordRejected, "the memory transport refuses this topic"));
        }
        self.records.push(record.clone());
        if *fate == Fate::LoseAcknowledgement {
            let message = "the memory transport was told to lose the acknowledgement";
            return Err(Error::new(ErrorKind::Timeout, message).or_ambiguous(true));
        }
        Ok(Delivery { partition: 0, offset: i64::try_from(self.records.len() - 1).unwrap_or(i64::MAX) })
    }

    /// The next of the first `count` that are held, and then those that wait for nothing but these.
    fn next(&mut self, count: &mut usize) -> Option<(Held, OnDelivery)> {
        let index = match count.checked_sub(1) {
            Some(left) => {
                *count = left;
                0
            }
            None => (0..self.held.len()).find(|index| {
                let held = &self.held[*index].0;
                held.fate != Fate::Hold && !self.held.range(..index).any(|(before, _)| held.is_behind(before))
            })?,
        };
        self.held.remove(index)
    }
}

impl Transport for MemoryTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        let held = Held { record: record.clone(), fate: self.fate(record) };
        let mut state = self.lock();
        if held.fate == Fate::Hold || state.held.iter().any(|(before, _)| held.is_behind(before)) {
            state.held.push_back((held, on_delivery));
            return Ok(());
        }
        let result = state.take(&held);
        drop(state);
        on_delivery.call(result);
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

    /// Submits a record, and as soon as it is told of those of `then`.
    fn submit(
        transport: &Arc<MemoryTransport>,
        said: &Arc<Mutex<Vec<u32>>>,
        number: u32,
        key: &str,
        then: &'static [(u32, &str)],
    ) {
        let (again, telling) = (Arc::clone(transport), Arc::clone(said));
        let on_delivery = OnDelivery::new(move |_: Result<Delivery>| {
            telling.lock().unwrap().push(number);
            then.iter().for_each(|(number, key)| submit(&again, &telling, *number, key, &[]));
        });
        assert!(transport.submit(&record(key), on_delivery).is_ok());
    }

    #[test]
    fn nothing_overtakes_a_held_record_of_its_key_also_while_it_is_released() {
        let transport = Arc::new(MemoryTransport::default());
        transport.script(|submission| match submission.number {
            1 | 5 => Fate::Hold,
            3 => Fate::Fail(ErrorKind::RecordRejected),
            _ => Fate::Deliver,
        });
        let said = Arc::new(Mutex::new(Vec::new()));
        // The first is told of while others wait: submitted then are one of another key that is held, and one behind each.
        for (number, key, then) in
            [(1, "a", &[(5, "b"), (6, "b"), (7, "a")][..]), (2, "a", &[]), (3, "a", &[]), (4, "b", &[])]
        {
            submit(&transport, &said, number, key, then);
        }
        assert_eq!(*said.lock().unwrap(), [4]);
        transport.release();
        assert_eq!(*said.lock().unwrap(), [4, 1, 2, 3, 7]);
        transport.release();
        assert_eq!(*said.lock().unwrap(), [4, 1, 2, 3, 7, 5, 6]);
        let arrived: Vec<_> = transport.records().into_iter().map(|record| record.key).collect();
        assert_eq!(arrived, ["b", "a", "a", "a", "b", "b"]);
    }
}
