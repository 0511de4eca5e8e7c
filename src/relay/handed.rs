//! Rows that this process has stored and committed, on their way to its relay.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::outbox::{Appended, Row, StoredRow};
use crate::transport::Record;

/// How much may wait, about what a page has. A relay that is behind reads the rest from the database.
const MAX_ROWS: usize = 2_000;
const MAX_BYTES: usize = 8 << 20;

/// A row that was stored, as the log has it if its transaction commits.
#[derive(Debug, Clone)]
pub(crate) struct Journaled {
    pub(crate) lane: u16,
    pub(crate) sequence: i64,
    /// In which life of the database the number was drawn. In another one it is perhaps that of another row.
    pub(crate) life: i64,
    record: Record,
}

impl Journaled {
    /// Nothing if the row was there before: it may have been delivered long ago.
    pub(crate) fn new(row: Row, appended: Appended) -> Option<Arc<Self>> {
        let Appended { sequence, is_new, life } = appended;
        is_new.then(|| Arc::new(Self { lane: row.lane, sequence, life, record: row.record }))
    }

    fn bytes(&self) -> usize {
        self.record.headers.as_bytes().len() + self.record.payload.as_ref().map_or(0, bytes::Bytes::len)
    }

    /// As a page would show it.
    pub(crate) fn into_stored(self) -> StoredRow {
        StoredRow {
            lane: self.lane,
            sequence: self.sequence,
            key: self.record.key.clone(),
            bytes: self.bytes(),
            record: Ok(self.record),
        }
    }
}

/// What was handed over, and the relay has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Handed {
    waiting: Mutex<Waiting>,
    /// Told when something waits.
    handed: Notify,
}

/// What waits for the relay.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub(crate) rows: Vec<Arc<Journaled>>,
    bytes: usize,
    /// Whether there are rows of lanes that are relayed elsewhere.
    pub(crate) elsewhere: bool,
}

impl Handed {
    /// Hands a committed row over. If too much waits already, it is left out: the relay reads it.
    pub(crate) fn push(&self, row: Arc<Journaled>) {
        let mut waiting = self.lock();
        if waiting.rows.len() < MAX_ROWS && waiting.bytes < MAX_BYTES {
            waiting.bytes += row.bytes();
            waiting.rows.push(row);
        }
        drop(waiting);
        self.handed.notify_one();
    }

    /// Has the relay tell those elsewhere that there are rows for them.
    pub(crate) fn tell_others(&self) {
        self.lock().elsewhere = true;
        self.handed.notify_one();
    }

    /// Takes all that waits.
    pub(crate) fn take(&self) -> Waiting {
        std::mem::take(&mut *self.lock())
    }

    /// Completes when something was handed over since this last did.
    pub(crate) async fn wait(&self) {
        self.handed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing that is done with it can panic half-way.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventId;
    use crate::wire::Headers;

    fn row(payload: usize) -> Row {
        let payload = Some(vec![0; payload].into());
        let record = Record { topic: "t".into(), key: "k".into(), headers: Headers::default(), payload };
        Row { lane: 0, event_id: EventId::new(), definition_key: "d".into(), record }
    }

    #[test]
    fn no_more_waits_for_the_relay_than_a_page_has() {
        let handed = Handed::default();
        let taken_of = |rows: usize, payload| {
            let row = Journaled::new(row(payload), Appended::new(1, 1)).unwrap();
            (0..rows).for_each(|_| handed.push(Arc::clone(&row)));
            handed.take().rows.len()
        };
        assert_eq!(taken_of(MAX_ROWS + 1, 1), 2_000);
        // The one that reaches the limit is the last.
        assert_eq!(taken_of(10, 3 << 20), 3);
        assert_eq!(taken_of(10, 8 << 20), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_relay_is_told_of_rows_and_of_those_that_are_for_others() {
        let handed = Handed::default();
        let is_told = async || tokio::time::timeout(std::time::Duration::from_secs(1), handed.wait()).await.is_ok();
        assert!(!is_told().await);
        handed.push(Journaled::new(row(0), Appended::new(1, 1)).unwrap());
        assert!(is_told().await && !is_told().await && !handed.take().elsewhere);
        handed.tell_others();
        assert!(is_told().await);
        let Waiting { rows, elsewhere, .. } = handed.take();
        assert!(elsewhere && rows.is_empty());
    }

    #[test]
    fn a_row_that_was_there_before_is_not_handed_over() {
        let row = row(0);
        assert!(Journaled::new(row.clone(), Appended::new(1, 1)).is_some());
        assert!(Journaled::new(row, Appended { is_new: false, ..Appended::new(1, 1) }).is_none());
    }
}
