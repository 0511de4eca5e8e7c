//! Numbered events, and the ledger of what became of them.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tidings::{Catalog, EmitRequest, Emitter, Error, EventDefinition, EventId, Outcome, Receipt, StoredReason};

use super::checker::{self, Numbered, Seen, Verdict};
use super::topic::ReadBack;

/// The event that most tests emit.
pub(crate) const EVENT: &str = "order.changed";

/// A catalog with [`EVENT`] alone.
pub(crate) fn catalog() -> Catalog {
    Catalog::new([EventDefinition::new(EVENT, "order", "changed")]).unwrap()
}

/// The topic of [`EVENT`].
pub(crate) fn topic(prefix: &str) -> String {
    format!("{prefix}.order.changed")
}

/// The events of one key, counted from 1.
#[derive(Debug)]
pub(crate) struct Sequence {
    key: String,
    next: u64,
}

impl Sequence {
    pub(crate) fn of(key: impl Into<String>) -> Self {
        Self { key: key.into(), next: 1 }
    }

    pub(crate) fn next(&mut self) -> Numbered {
        let number = self.next;
        self.next += 1;
        Numbered { key: self.key.clone(), number, id: EventId::new().to_string() }
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<Numbered> {
        (0..count).map(|_| self.next()).collect()
    }
}

impl Numbered {
    /// The request for this event; its payload says what it is.
    pub(crate) fn request(&self) -> EmitRequest {
        let payload = serde_json::json!({ "key": self.key, "number": self.number });
        let request = EmitRequest::new(EVENT).tenant(self.key.clone()).id(self.id.parse().unwrap());
        request.json(&payload).unwrap()
    }
}

/// The event of a record that [`Numbered::request`] has made.
impl From<&ReadBack> for Seen {
    fn from(record: &ReadBack) -> Self {
        let payload: serde_json::Value = serde_json::from_slice(&record.payload).unwrap();
        let event = Numbered {
            key: payload["key"].as_str().unwrap().to_owned(),
            number: payload["number"].as_u64().unwrap(),
            id: record.id(),
        };
        assert_eq!(record.key, event.key.as_bytes(), "the record key is the tenant");
        Self::new(record.partition, record.offset, event.key.clone(), event)
    }
}

/// What was accepted, in order, what is doubtful, and what was refused.
#[derive(Debug, Default)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    accepted: Vec<Numbered>,
    doubtful: Vec<Numbered>,
    refused: Vec<Numbered>,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn accept(&self, event: Numbered) {
        self.lock().accepted.push(event);
    }

    pub(crate) fn accept_all(&self, events: impl IntoIterator<Item = Numbered>) {
        self.lock().accepted.extend(events);
    }

    /// The event may be there, or not.
    pub(crate) fn doubt(&self, event: Numbered) {
        self.lock().doubtful.push(event);
    }

    /// Enters what an emit of `event` has come to.
    pub(crate) fn enter(&self, event: Numbered, result: &Result<Receipt, Error>) {
        match result {
            Ok(receipt) => {
                assert_eq!(receipt.event_id.to_string(), event.id);
                self.accept(event);
            }
            Err(error) if error.is_ambiguous() => self.doubt(event),
            Err(_) => self.lock().refused.push(event),
        }
    }

    pub(crate) fn accepted(&self) -> Vec<Numbered> {
        self.lock().accepted.clone()
    }

    pub(crate) fn accepted_count(&self) -> usize {
        self.lock().accepted.len()
    }

    pub(crate) fn ids(&self) -> HashSet<String> {
        self.lock().accepted.iter().map(|event| event.id.clone()).collect()
    }

    /// Holds the ledger against what is on the topic.
    pub(crate) fn check(&self, records: &[ReadBack]) -> Verdict {
        let seen = records.iter().map(Seen::from).collect();
        let entries = self.lock();
        checker::check(&entries.accepted, &entries.doubtful, &entries.refused, seen)
    }

    /// Emits an event and enters what it has come to.
    pub(crate) async fn emit(&self, emitter: &dyn Emitter, event: Numbered) -> Result<Receipt, Error> {
        let result = emitter.emit(event.request()).await;
        self.enter(event, &result);
        result
    }
}

/// Why the event of this receipt is in the outbox.
pub(crate) fn stored_reason(receipt: &Receipt) -> Option<StoredReason> {
    match receipt.outcome {
        Outcome::Stored { reason, .. } => Some(reason),
        _ => None,
    }
}

/// Lane and number of a receipt for an event that is in the outbox.
#[track_caller]
pub(crate) fn stored_at(receipt: &Receipt) -> (u16, i64) {
    match receipt.outcome {
        Outcome::Stored { lane, sequence, .. } => (lane, sequence),
        ref other => panic!("the event is not in the outbox: {other:?}"),
    }
}

pub(crate) fn is_published(receipt: &Receipt) -> bool {
    matches!(receipt.outcome, Outcome::Published { .. })
}
