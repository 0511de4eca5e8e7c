//! What the load knows: what it asked for, what it was answered, and when.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::Utc;
use tidings::testing::verify::History;

use crate::Result;
use crate::events::Kind;
use crate::order::{Fate, Order, Way};

/// Everything that was emitted.
#[derive(Debug)]
pub(crate) struct Ledger(Mutex<Entries>);

#[derive(Debug)]
pub(crate) struct Entries {
    /// Of each topic.
    pub(crate) histories: HashMap<Kind, History<String>>,
    pub(crate) emits: HashMap<String, Emitted>,
    /// How many events were answered so, and how many were not answered.
    pub(crate) answered: HashMap<Option<Fate>, usize>,
    /// For whoever looks into a run that failed.
    file: BufWriter<File>,
}

#[derive(Debug, Clone)]
pub(crate) struct Emitted {
    pub(crate) kind: Kind,
    /// In milliseconds of the epoch.
    pub(crate) began_ms: i64,
    pub(crate) in_transaction: bool,
}

pub(crate) fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

impl Ledger {
    pub(crate) fn new(folder: &Path) -> Result<Self> {
        let file = BufWriter::new(File::create(folder.join("history.jsonl"))?);
        let histories = Kind::ALL.map(|kind| (kind, History::new())).into();
        Ok(Self(Mutex::new(Entries { histories, emits: HashMap::new(), answered: HashMap::new(), file })))
    }

    /// Enters what became of an order. Orders of one key come one after another, so what was answered began when the one
    /// before it was answered; what was not may still be under way.
    pub(crate) fn enter(&self, order: &Order, began_ms: i64, fates: Option<&[Fate]>) {
        let line = serde_json::json!({ "began_ms": began_ms, "ended_ms": now_ms(), "order": order, "fates": fates });
        let entries = &mut *self.lock();
        if let Err(error) = writeln!(entries.file, "{line}") {
            eprintln!("the history can't be written: {error}");
        }
        let in_transaction = matches!(order.way, Way::Transaction { .. });
        for (place, id) in order.ids.iter().enumerate() {
            entries.emits.insert(id.clone(), Emitted { kind: order.kind, began_ms, in_transaction });
            let history = entries.histories.entry(order.kind).or_default();
            history.began(&order.key, id.clone());
            let fate = fates.and_then(|fates| fates.get(place)).copied();
            match fate {
                Some(Fate::Accepted) => history.accepted(id),
                Some(Fate::Refused) => history.refused(id),
                Some(Fate::Unknown) | None => {}
            }
            *entries.answered.entry(fate).or_default() += 1;
        }
    }

    pub(crate) fn into_entries(self) -> Entries {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    pub(crate) fn flush(&mut self) -> Result<()> {
        Ok(self.file.flush()?)
    }
}
