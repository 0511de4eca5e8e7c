//! A transport that keeps records in memory, for tests.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Delivery, OnDelivery, QueueFull, Record, Transport};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};

/// A topic in memory: takes records in order, can be taken down, and can refuse chosen keys.
///
/// # Examples
///
/// ```
/// use tidings::testing::MemoryTransport;
///
/// let transport = MemoryTransport::default();
/// transport.take_down();
/// assert!(transport.records().is_empty());
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
    records: Vec<Record>,
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

    /// What has arrived, in order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        self.lock().records.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked elsewhere has not left this half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        on_delivery.call(self.take(record));
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
        let down = self.lock().down;
        let answer =
            if down { Err(Error::new(ErrorKind::BrokerUnavailable, "the memory transport is down")) } else { Ok(()) };
        Box::pin(std::future::ready(answer))
    }
}
