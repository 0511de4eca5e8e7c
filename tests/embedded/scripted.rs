//! A transport in memory that answers when the test says so.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tidings::testing::MemoryTransport;
use tidings::transport::{OnDelivery, QueueFull, Record, Transport};
use tidings::{BoxFuture, Result};

/// Carries records as its [`MemoryTransport`] does, but can hold those of chosen keys, and fail some of them once.
#[derive(Debug, Default)]
pub(crate) struct ScriptedTransport {
    pub(crate) memory: MemoryTransport,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Records of these keys are kept back, in flight, until they are released.
    held_keys: Vec<String>,
    held: Vec<(Record, OnDelivery)>,
    /// How many more records of a key fail.
    failures: HashMap<String, usize>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("held_keys", &self.held_keys).finish_non_exhaustive()
    }
}

impl ScriptedTransport {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on records of this key stay in flight.
    pub(crate) fn hold(&self, key: &str) {
        self.lock().held_keys.push(key.to_owned());
    }

    /// Ends every [`hold`](Self::hold), and delivers what was held, in order.
    pub(crate) fn release(&self) {
        self.release_but(&[]);
    }

    /// As [`release`](Self::release), but those that were held at these places fail as if no broker could be reached.
    pub(crate) fn release_but(&self, lost: &[usize]) {
        // What is submitted meanwhile comes behind.
        let mut state = self.lock();
        state.held_keys.clear();
        let held = std::mem::take(&mut state.held);
        for (place, (record, on_delivery)) in held.into_iter().enumerate() {
            if lost.contains(&place) {
                self.lose(&record, on_delivery);
            } else {
                self.carry(&record, on_delivery);
            }
        }
    }

    /// Ends every [`hold`](Self::hold), and forgets what was held: the client that had it is gone.
    pub(crate) fn forget(&self) {
        let mut state = self.lock();
        state.held_keys.clear();
        state.held.clear();
    }

    /// How many records are held.
    pub(crate) fn held_count(&self) -> usize {
        self.lock().held.len()
    }

    /// The next record of this key fails as if no broker could be reached.
    pub(crate) fn fail_once(&self, key: &str) {
        *self.lock().failures.entry(key.to_owned()).or_default() += 1;
    }

    /// The numbers of a key that have arrived, in order.
    pub(crate) fn numbers_of(&self, key: &str) -> Vec<u64> {
        numbers_of(&self.memory, key)
    }

    fn carry(&self, record: &Record, on_delivery: OnDelivery) {
        assert!(self.memory.submit(record, on_delivery).is_ok(), "memory is never full");
    }

    /// The test's own records arrive between, so only this one may find the other side down.
    fn lose(&self, record: &Record, on_delivery: OnDelivery) {
        self.memory.take_down();
        self.carry(record, on_delivery);
        self.memory.bring_back();
    }

    fn fails(&self, record: &Record) -> bool {
        let mut state = self.lock();
        let left = state.failures.get_mut(std::str::from_utf8(&record.key).unwrap());
        left.filter(|left| **left > 0).map(|left| *left -= 1).is_some()
    }
}

/// The numbers of a key that have arrived, in order.
pub(crate) fn numbers_of(transport: &MemoryTransport, key: &str) -> Vec<u64> {
    let number = |record: &Record| {
        let payload: serde_json::Value = serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap();
        payload["number"].as_u64().unwrap()
    };
    transport.records().iter().filter(|record| record.key == key.as_bytes()).map(number).collect()
}

impl Transport for ScriptedTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        if self.fails(record) {
            self.lose(record, on_delivery);
            return Ok(());
        }
        let mut state = self.lock();
        if state.held_keys.iter().any(|key| key.as_bytes() == record.key) {
            state.held.push((record.clone(), on_delivery));
            return Ok(());
        }
        drop(state);
        self.carry(record, on_delivery);
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        self.memory.room()
    }

    fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool> {
        self.memory.flush(timeout)
    }

    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        self.memory.probe(timeout)
    }
}
