//! What becomes of an event that can't be delivered for what it is. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::outbox::{Command, HeldRow, Parked};
use crate::policy::PoisonMode;
use crate::transport::Record;
use crate::wire::dead_letter::{DeadLetter, DeadLetters, error_class};

/// How often an event is tried before its policy decides what becomes of it: a topic may be on its way, or a permission.
const ATTEMPTS: u32 = 3;

/// The policies of the definitions, and how dead letters are written.
#[derive(Debug)]
pub(crate) struct Poison {
    /// By definition key. An event of another definition waits for an operator.
    pub(crate) definitions: HashMap<Arc<str>, (PoisonMode, Arc<str>)>,
    pub(crate) dead_letters: Arc<DeadLetters>,
    pub(crate) producer_id: String,
}

/// What is done about the first held event of a key.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Verdict {
    Deliver,
    /// This is sent in its place.
    DeadLetter(Record),
    Skip,
}

impl Poison {
    pub(crate) fn judge(&self, parked: &Parked, row: &HeldRow) -> Verdict {
        // What is known is of another event.
        if parked.head != row.row.sequence {
            return Verdict::Deliver;
        }
        let definition = self.definitions.get(row.definition_key.as_str());
        let mode = match parked.command {
            Some(Command::Resume) => PoisonMode::Block,
            Some(Command::Skip) => PoisonMode::Skip,
            Some(Command::DeadLetter) => PoisonMode::DeadLetter,
            None if parked.attempts < ATTEMPTS => PoisonMode::Block,
            None => definition.map_or(PoisonMode::Block, |(mode, _)| *mode),
        };
        match (mode, &row.row.record) {
            (PoisonMode::Skip, _) => Verdict::Skip,
            (PoisonMode::DeadLetter, Ok(record)) => {
                let topic =
                    definition.map_or_else(|| format!("{}.dlq", record.topic).into(), |(_, topic)| Arc::clone(topic));
                Verdict::DeadLetter(self.letter(parked, record).record(record, &topic, &self.dead_letters))
            }
            _ => Verdict::Deliver,
        }
    }

    fn letter(&self, parked: &Parked, record: &Record) -> DeadLetter {
        DeadLetter {
            source_topic: record.topic.to_string(),
            error_class: error_class(parked.error_kind, self.dead_letters.style).to_owned(),
            error_message: parked.error.clone(),
            retry_count: parked.attempts.saturating_sub(1),
            first_failure_at: parked.first_failure_at,
            producer_id: self.producer_id.clone(),
            omitted_payload_bytes: None,
        }
    }
}
