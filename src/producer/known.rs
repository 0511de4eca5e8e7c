//! Of which keys a client has delivered something. Pure: no I/O, no clock.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::transport::Record;

/// How many keys are remembered, and for how long. Brokers forget a client of which a partition has heard nothing for a day
/// (`producer.id.expiration.ms`).
pub(crate) const MOST_KEYS: usize = 65_536;
pub(crate) const REMEMBERED_FOR: Duration = Duration::from_secs(3_600);

/// The keys of one client. Nothing may follow the first record of a key before that is acknowledged.
///
/// A broker that knows nothing of a client takes any request of it. So when a partition gets another leader before it has replicated
/// the client's first request, that one may be refused, and one behind it be taken: a later record of the same key would come
/// first. Once a record was acknowledged, every leader to come knows which request is next.
#[derive(Debug)]
pub(crate) struct Known {
    keys: HashSet<Key>,
    forget_at: Instant,
}

/// A key of a topic, by its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Key(u64);

impl Key {
    pub(crate) fn of(record: &Record) -> Self {
        let mut hasher = DefaultHasher::new();
        (&record.topic, &record.key).hash(&mut hasher);
        Self(hasher.finish())
    }
}

impl Known {
    pub(crate) fn new(now: Instant) -> Self {
        Self { keys: HashSet::new(), forget_at: now + REMEMBERED_FOR }
    }

    /// Whether something of the key was delivered.
    pub(crate) fn has(&mut self, key: Key, now: Instant) -> bool {
        if now >= self.forget_at {
            self.keys.clear();
            self.forget_at = now + REMEMBERED_FOR;
        }
        self.keys.contains(&key)
    }

    /// Something of the key was delivered.
    pub(crate) fn add(&mut self, key: Key) {
        if self.keys.len() >= MOST_KEYS {
            self.keys.clear();
        }
        self.keys.insert(key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Headers;

    fn key(topic: &str, key: &str) -> Key {
        let key = key.to_owned().into();
        Key::of(&Record { topic: topic.into(), key, headers: Headers::default(), payload: None })
    }

    #[test]
    fn a_key_is_one_of_a_topic() {
        let now = Instant::now();
        let mut known = Known::new(now);
        known.add(key("t", "a"));
        assert!(known.has(key("t", "a"), now));
        assert!(!known.has(key("t", "b"), now) && !known.has(key("u", "a"), now));
    }

    #[test]
    fn a_key_is_forgotten_after_an_hour_or_when_there_are_too_many() {
        let now = Instant::now();
        let (mut known, a) = (Known::new(now), key("t", "a"));
        known.add(a);
        assert!(known.has(a, now + REMEMBERED_FOR - Duration::from_secs(1)));
        assert!(!known.has(a, now + REMEMBERED_FOR));
        known.add(a);
        known.add(key("t", "b"));
        assert!(known.has(a, now + REMEMBERED_FOR * 2 - Duration::from_secs(1)), "that of an hour ago was forgotten");
        (0..MOST_KEYS as u64).for_each(|key| known.add(Key(key)));
        assert!(!known.has(a, now + REMEMBERED_FOR) && known.keys.len() <= MOST_KEYS);
    }
}
