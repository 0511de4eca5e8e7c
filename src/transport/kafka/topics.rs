//! What all clients of a producer know of the topics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// What is known of topics, by each client of a producer or one before it.
#[derive(Debug)]
pub(crate) struct Topics {
    /// One that has taken a record: the one to ask about when probing. Asked about a topic that does not exist, a broker might
    /// create it; about all topics, it might have to tell of thousands.
    proven: OnceLock<Arc<str>>,
    /// How many partitions they have. None of one that was seen to have more, and was not asked about since.
    partitions: Mutex<HashMap<Arc<str>, Option<i32>>>,
    /// The least of these: a record in a lower partition says nothing new, and takes no lock.
    least: AtomicI32,
    /// The largest batch that all of them take, in bytes.
    max_batch_bytes: AtomicUsize,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            proven: OnceLock::new(),
            partitions: Mutex::default(),
            least: AtomicI32::new(i32::MAX),
            max_batch_bytes: AtomicUsize::new(usize::MAX),
        }
    }
}

impl Topics {
    /// The broker has said how many partitions a topic has.
    pub(super) fn learn(&self, topic: &str, now: i32) {
        let mut partitions = self.lock();
        let before = partitions.insert(topic.into(), Some(now)).flatten();
        self.note_least(&partitions);
        drop(partitions);
        if let Some(before) = before.filter(|before| *before != now) {
            warn(topic, before, now);
        }
    }

    /// A topic takes no larger batches than this. Clients that are made from now on send none.
    pub(super) fn limit_batches(&self, max_bytes: usize) {
        self.max_batch_bytes.fetch_min(max_bytes, Ordering::SeqCst);
    }

    pub(super) fn max_batch_bytes(&self) -> usize {
        self.max_batch_bytes.load(Ordering::SeqCst)
    }

    /// A record of a topic was taken by this partition.
    pub(super) fn took<'a>(&self, partition: i32, topic: impl FnOnce() -> &'a str) {
        if self.proven.get().is_some() && partition < self.least.load(Ordering::Relaxed) {
            return;
        }
        let topic = topic();
        self.proven.get_or_init(|| topic.into());
        let mut partitions = self.lock();
        let Some(known) = partitions.get_mut(topic) else { return };
        let Some(before) = known.take_if(|known| *known <= partition) else { return };
        self.note_least(&partitions);
        drop(partitions);
        warn(topic, before, partition.saturating_add(1));
    }

    /// The topic to ask the broker about: one whose partitions are not known any more, or else one that it has.
    pub(super) fn to_ask_about(&self) -> Option<Arc<str>> {
        let doubtful = self.lock().iter().find(|(_, known)| known.is_none()).map(|(topic, _)| Arc::clone(topic));
        doubtful.or_else(|| self.proven.get().cloned())
    }

    fn note_least(&self, partitions: &HashMap<Arc<str>, Option<i32>>) {
        self.least.store(partitions.values().flatten().copied().min().unwrap_or(i32::MAX), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Option<i32>>> {
        // Nothing panics while it holds this lock.
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn warn(topic: &str, before: i32, at_least: i32) {
    tracing::warn!(
        topic,
        before,
        at_least,
        "the topic has another number of partitions than before: keys move to other partitions, and readers see no order between \
         a key's events before and after that"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::kafka::tests::logged;

    #[test]
    fn a_change_of_partitions_is_told_once_whoever_notices_it_first() {
        let topics = Topics::default();
        let told = |look: &dyn Fn()| logged(look).lines().count();
        assert_eq!(told(&|| topics.took(5, || "a")), 0, "nothing is known yet");
        assert_eq!(told(&|| topics.learn("a", 3)), 0);
        assert_eq!(told(&|| topics.learn("b", 6)), 0);
        assert_eq!(told(&|| (0..3).for_each(|partition| topics.took(partition, || "a"))), 0);
        assert_eq!(told(&|| topics.took(5, || "b")), 0, "that of another topic");
        let text = logged(|| topics.took(3, || "a"));
        assert!(text.contains("topic=\"a\" before=3 at_least=4"), "{text}");
        assert_eq!(told(&|| (0..9).for_each(|partition| topics.took(partition, || "a"))), 0, "once for each change");
        assert_eq!(topics.to_ask_about().as_deref(), Some("a"));
        assert_eq!(told(&|| topics.learn("a", 9)), 0);
        assert_eq!(told(&|| topics.took(8, || "a")), 0);
        assert_eq!(told(&|| topics.took(9, || "a")), 1, "the next change");
        let text = logged(|| topics.learn("b", 2));
        assert!(text.contains("topic=\"b\" before=6 at_least=2"), "{text}");
    }

    #[test]
    fn a_topic_that_has_taken_a_record_is_the_one_to_ask_about() {
        let topics = Topics::default();
        topics.learn("a", 3);
        assert_eq!(topics.to_ask_about(), None, "nobody knows whether it takes records");
        topics.took(0, || "b");
        topics.took(0, || "c");
        assert_eq!(topics.to_ask_about().as_deref(), Some("b"));
    }
}
