//! What is to be written down of the parked keys of a lane. Pure.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::outbox::{Command, Parked, Progress};

/// The last word on each held row and each parked key since they were last written down.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Whether a row is held now.
    held: BTreeMap<(Bytes, i64), bool>,
    /// How a key is parked now, unless it is free.
    parked: BTreeMap<Bytes, Option<Parked>>,
    /// Keys whose command was obeyed, and which.
    obeyed: BTreeMap<Bytes, Command>,
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

    pub(crate) fn obey(&mut self, key: Bytes, command: Command) {
        self.obeyed.insert(key, command);
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
        for (key, command) in progress.obeyed {
            self.obeyed.entry(key).or_insert(command);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::DateTime;
    use rangemap::RangeSet;

    use super::*;
    use crate::error::ErrorKind;

    fn nothing() -> Progress {
        Progress {
            lane: 0,
            epoch: 1,
            life: 1,
            save: 1,
            settled: RangeSet::new(),
            held: Vec::new(),
            unheld: Vec::new(),
            parked: Vec::new(),
            freed: Vec::new(),
            obeyed: Vec::new(),
        }
    }

    fn parked(key: &'static str, attempts: u32) -> Parked {
        Parked {
            key: key.into(),
            head: 1,
            error_kind: ErrorKind::RecordRejected,
            error: "told to refuse".into(),
            attempts,
            first_failure_at: DateTime::UNIX_EPOCH,
            retry_in: Duration::from_secs(1),
            command: None,
        }
    }

    #[test]
    fn each_kind_of_change_is_one() {
        let changes: [fn(&mut Changes); 5] = [
            |changes| changes.hold("a".into(), 1),
            |changes| changes.unhold("a".into(), 1),
            |changes| changes.park(parked("a", 1)),
            |changes| changes.free("a".into()),
            |changes| changes.obey("a".into(), Command::Resume),
        ];
        for change in changes {
            let mut all = Changes::default();
            assert!(all.is_empty());
            change(&mut all);
            assert!(!all.is_empty());
            all.take(nothing());
            assert!(all.is_empty());
        }
    }

    #[test]
    fn what_could_not_be_written_is_taken_back_unless_something_newer_was_said() {
        let mut changes = Changes::default();
        changes.hold("a".into(), 1);
        changes.hold("a".into(), 2);
        changes.park(parked("a", 1));
        changes.free("b".into());
        changes.obey("c".into(), Command::Resume);
        changes.obey("d".into(), Command::Resume);
        let unwritten = changes.take(nothing());
        changes.obey("d".into(), Command::Skip);
        changes.unhold("a".into(), 1);
        changes.park(parked("a", 2));
        changes.put_back(unwritten);

        let Progress { held, unheld, parked, freed, obeyed, .. } = changes.take(nothing());
        assert_eq!((held, unheld), (vec![("a".into(), 2)], vec![("a".into(), 1)]));
        assert_eq!(parked.iter().map(|parked| parked.attempts).collect::<Vec<_>>(), [2]);
        let still_obeyed = vec![("c".into(), Command::Resume), ("d".into(), Command::Skip)];
        assert_eq!((freed, obeyed), (vec![Bytes::from("b")], still_obeyed));
    }
}
