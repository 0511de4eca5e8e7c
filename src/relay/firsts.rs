//! Of which keys the relay's client has delivered something. Pure: no I/O, no clock.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Record;

/// How many keys are remembered, and for how long. Brokers forget a client of which a partition has heard nothing for a day
/// (`producer.id.expiration.ms`).
const MOST_KEYS: usize = 65_536;
const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// The keys of one client. The first record of each goes alone.
///
/// A broker that knows nothing of a client takes any request of it. So when a partition gets another leader before it has replicated
/// the client's first request, that one may be refused, and one behind it be taken: a later record of the same key would come
/// first. Once a record was acknowledged, every leader to come knows which request is next.
#[derive(Debug)]
pub(super) struct Firsts {
    /// Of which something was delivered.
    known: HashSet<u64>,
    /// Whose first record is under way.
    under_way: HashSet<u64>,
    forget_at: Instant,
}

/// A key of a topic, whose first record this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct First(u64);

/// How a record may be submitted.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Behind others.
    Pipelined,
    /// Alone. [`Firsts::began`] and [`Firsts::ended`] are to be told of it.
    Alone(First),
    /// Not yet: the first of its key is under way.
    Wait,
}

impl Firsts {
    pub(super) fn new(now: Instant) -> Self {
        Self { known: HashSet::new(), under_way: HashSet::new(), forget_at: now + REMEMBERED_FOR }
    }

    pub(super) fn turn(&mut self, record: &Record, now: Instant) -> Turn {
        if now >= self.forget_at {
            self.known.clear();
            self.forget_at = now + REMEMBERED_FOR;
        }
        let mut hasher = DefaultHasher::new();
        (&record.topic, &record.key).hash(&mut hasher);
        let key = hasher.finish();
        match () {
            () if self.known.contains(&key) => Turn::Pipelined,
            () if self.under_way.contains(&key) => Turn::Wait,
            () => Turn::Alone(First(key)),
        }
    }

    /// It was submitted.
    pub(super) fn began(&mut self, First(key): First) {
        self.under_way.insert(key);
    }

    /// It was reported on.
    pub(super) fn ended(&mut self, First(key): First, is_delivered: bool) {
        self.under_way.remove(&key);
        if is_delivered {
            if self.known.len() >= MOST_KEYS {
                self.known.clear();
            }
            self.known.insert(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Headers;

    fn record(topic: &str, key: &str) -> Record {
        Record { topic: topic.into(), key: key.to_owned().into(), headers: Headers::default(), payload: None }
    }

    fn first(firsts: &mut Firsts, record: &Record, now: Instant) -> First {
        let Turn::Alone(first) = firsts.turn(record, now) else { panic!("it is the first") };
        first
    }

    #[test]
    fn the_first_of_a_key_goes_alone_until_one_is_delivered() {
        let now = Instant::now();
        let (mut firsts, a) = (Firsts::new(now), record("t", "a"));
        for is_delivered in [false, true] {
            let alone = first(&mut firsts, &a, now);
            assert_eq!(first(&mut firsts, &a, now), alone, "it was not submitted");
            firsts.began(alone);
            assert_eq!(firsts.turn(&a, now), Turn::Wait);
            firsts.ended(alone, is_delivered);
        }
        assert_eq!(firsts.turn(&a, now), Turn::Pipelined);
        first(&mut firsts, &record("t", "b"), now);
        first(&mut firsts, &record("u", "a"), now);
    }

    #[test]
    fn a_key_is_forgotten_after_an_hour_or_when_there_are_too_many() {
        let now = Instant::now();
        let (mut firsts, a) = (Firsts::new(now), record("t", "a"));
        let alone = first(&mut firsts, &a, now);
        firsts.ended(alone, true);
        assert_eq!(firsts.turn(&a, now + REMEMBERED_FOR - Duration::from_secs(1)), Turn::Pipelined);
        assert_eq!(first(&mut firsts, &a, now + REMEMBERED_FOR), alone);
        firsts.ended(alone, true);
        for key in 0..MOST_KEYS as u64 {
            firsts.ended(First(key), true);
        }
        assert_eq!(first(&mut firsts, &a, now + REMEMBERED_FOR), alone);
        assert!(firsts.known.len() <= MOST_KEYS);
    }
}
