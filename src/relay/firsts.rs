//! The first records of their keys that the relay's client delivers go alone. Pure: no I/O, no clock.

use std::collections::HashSet;

use tokio::time::Instant;

use crate::producer::known::{Key, Known};
use crate::transport::Record;

/// The keys of one client.
#[derive(Debug)]
pub(super) struct Firsts {
    known: Known,
    /// Whose first record is under way.
    under_way: HashSet<Key>,
}

/// How a record may be submitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Behind others.
    Pipelined,
    /// Alone, as the first of this key. [`Firsts::began`] and [`Firsts::ended`] are to be told of it.
    Alone(Key),
    /// Not yet: the first of its key is under way.
    Wait,
}

impl Firsts {
    pub(super) fn new(now: Instant) -> Self {
        Self { known: Known::new(now), under_way: HashSet::new() }
    }

    pub(super) fn turn(&mut self, record: &Record, now: Instant) -> Turn {
        let key = Key::of(record);
        match () {
            () if self.known.has(key, now) => Turn::Pipelined,
            () if self.under_way.contains(&key) => Turn::Wait,
            () => Turn::Alone(key),
        }
    }

    /// It was submitted.
    pub(super) fn began(&mut self, first: Key) {
        self.under_way.insert(first);
    }

    /// It was reported on.
    pub(super) fn ended(&mut self, first: Key, is_delivered: bool) {
        self.under_way.remove(&first);
        if is_delivered {
            self.known.add(first);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Headers;

    #[test]
    fn the_first_of_a_key_goes_alone_until_one_is_delivered() {
        let now = Instant::now();
        let record = |key: &'static str| Record {
            topic: "t".into(),
            key: key.into(),
            headers: Headers::default(),
            payload: None,
        };
        let (mut firsts, key) = (Firsts::new(now), Key::of(&record("a")));
        for is_delivered in [false, true] {
            assert_eq!(firsts.turn(&record("a"), now), Turn::Alone(key));
            assert_eq!(firsts.turn(&record("a"), now), Turn::Alone(key), "it was not submitted");
            firsts.began(key);
            assert_eq!(firsts.turn(&record("a"), now), Turn::Wait);
            firsts.ended(key, is_delivered);
        }
        assert_eq!(firsts.turn(&record("a"), now), Turn::Pipelined);
        assert!(matches!(firsts.turn(&record("b"), now), Turn::Alone(_)));
    }
}
