//! The events of this bench: numbered, of many keys, each with the same number of bytes.

use serde::Deserialize;
use tidings::EmitRequest;

pub(crate) const KEYS: usize = 1_000;
pub(crate) const PAYLOAD_BYTES: usize = 300;

/// The key of the event of this number. Events of one key are `KEYS` apart.
pub(crate) fn key(number: usize) -> String {
    format!("t-{}", number % KEYS)
}

pub(crate) fn request(number: usize) -> EmitRequest {
    EmitRequest::new("order.created").tenant(key(number)).subject("order-17").payload(payload(number))
}

/// Digits that a compression can't do much about, behind the event's number.
pub(crate) fn payload(number: usize) -> String {
    let mut payload = format!("{{\"number\":{number},\"text\":\"");
    let mut state = number as u64;
    while payload.len() < PAYLOAD_BYTES - 2 {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        payload += &format!("{:08x}", state >> 32);
    }
    payload.truncate(PAYLOAD_BYTES - 2);
    payload + "\"}"
}

/// The number of an event, from its payload.
pub(crate) fn number(payload: &[u8]) -> usize {
    #[derive(Deserialize)]
    struct Numbered {
        number: usize,
    }
    serde_json::from_slice::<Numbered>(payload).expect("the topic has events of this bench only").number
}

/// Holds what arrives against what was emitted: the events from 0 on.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    seen: Vec<bool>,
    count: usize,
    duplicates: usize,
}

impl Ledger {
    /// Takes in an event. Says whether it is the first time that it was seen.
    ///
    /// # Panics
    ///
    /// If it comes before an older one of its key.
    pub(crate) fn see(&mut self, number: usize) -> bool {
        if self.seen.len() <= number {
            self.seen.resize(number + 1, false);
        }
        if std::mem::replace(&mut self.seen[number], true) {
            self.duplicates += 1;
            return false;
        }
        let before = number.checked_sub(KEYS);
        assert!(before.is_none_or(|before| self.seen[before]), "event {number} came before an older one of its key");
        self.count += 1;
        true
    }

    pub(crate) fn count(&self) -> usize {
        self.count
    }

    pub(crate) fn duplicates(&self) -> usize {
        self.duplicates
    }
}
