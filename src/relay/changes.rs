//! What is to be written down of the parked keys of a lane. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::outbox::{Parked, Progress};

/// The last word on each held row and each parked key since they were last written down.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether a row is held now.
    held: BTreeMap<(Bytes, i64), bool>,
    /// How a key is parked now, unless it is free.
    parked: BTreeMap<Bytes, Option<Parked>>,
    /// Keys whose command was obeyed.
    obeyed: BTreeSet<Bytes>,
}

impl Changes {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty() && self.parked.is_empty() && self.obeyed.is_empty()
    }

    pub(crate) fn hold(&mut self, key: Bytes, number: i64) {
        self.held.insert((key, number), true);
    }

    pub(crate) fn unhold(&mut self, key: Bytes, number: i64) {
        self.held.insert((key, number), false);
    }

    pub(crate) fn park(&mut self, parked: Parked) {
        self.parked.insert(parked.key.clone(), Some(parked));
    }

    pub(crate) fn free(&mut self, key: Bytes) {
        self.parked.insert(key, None);
    }

    pub(crate) fn obey(&mut self, key: Bytes) {
        self.obeyed.insert(key);
    }

    /// Fills in what is to be written down, and forgets it.
    pub(crate) fn take(&mut self, mut progress: Progress) -> Progress {
        for ((key, number), held) in std::mem::take(&mut self.held) {
            if held { &mut progress.held } else { &mut progress.unheld }.push((key, number));
        }
        for (key, parked) in std::mem::take(&mut self.parked) {
            match parked {
                Some(parked) => progress.parked.push(parked),
                None => progress.freed.push(key),
            }
        }
        progress.obeyed = std::mem::take(&mut self.obeyed).into_iter().collect();
        progress
    }

    /// Takes back what could not be written. What has been said since is newer.
    pub(crate) fn put_back(&mut self, progress: Progress) {
        let held = progress.held.into_iter().map(|row| (row, true));
        for (row, is_held) in held.chain(progress.unheld.into_iter().map(|row| (row, false))) {
            self.held.entry(row).or_insert(is_held);
        }
        let parked = progress.parked.into_iter().map(|parked| (parked.key.clone(), Some(parked)));
        for (key, parked) in parked.chain(progress.freed.into_iter().map(|key| (key, None))) {
            self.parked.entry(key).or_insert(parked);
        }
        self.obeyed.extend(progress.obeyed);
    }
}
