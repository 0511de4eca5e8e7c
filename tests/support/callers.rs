//! Callers that emit numbered events side by side, through whatever happens to the broker meanwhile.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tidings::{Emitter, Receipt, Result};
use tokio::task::JoinSet;

use super::checker::Numbered;
use super::events::{Ledger, Sequence, is_published};
use super::waiting::until;

/// How a caller emits its next event.
pub(crate) trait Way: Send + Sync + 'static {
    /// Emits `event`; the ledger is kept by the caller.
    fn emit(&self, emitter: &Arc<dyn Emitter>, event: &Numbered) -> impl Future<Output = Result<Receipt>> + Send;
}

/// By `emit` alone.
#[derive(Debug)]
pub(crate) struct Plainly;

impl Way for Plainly {
    async fn emit(&self, emitter: &Arc<dyn Emitter>, event: &Numbered) -> Result<Receipt> {
        emitter.emit(event.request()).await
    }
}

/// Between two events of a caller: a service does something else, too; and a mock broker forgets what is more than a few
/// megabytes.
const PAUSE: Duration = Duration::from_millis(15);

/// What the callers have come to so far.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) stored: AtomicUsize,
    pub(crate) failed: AtomicUsize,
    longest_wait_us: AtomicU64,
    /// For each caller how many of its events went direct.
    published: Mutex<Vec<usize>>,
}

impl Tally {
    pub(crate) fn longest_wait(&self) -> Duration {
        Duration::from_micros(self.longest_wait_us.load(Ordering::SeqCst))
    }

    pub(crate) fn published(&self) -> Vec<usize> {
        self.published.lock().unwrap().clone()
    }
}

/// Callers with a key each.
#[derive(Debug)]
pub(crate) struct Callers {
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) tally: Arc<Tally>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
}

impl Callers {
    /// Starts so many callers; they emit until they are stopped.
    pub(crate) fn start(count: usize, emitter: &Arc<dyn Emitter>, way: impl Way) -> Self {
        Self::start_with("tenant", count, emitter, way)
    }

    /// As [`start`](Self::start), with keys that begin so.
    pub(crate) fn start_with(keys: &str, count: usize, emitter: &Arc<dyn Emitter>, way: impl Way) -> Self {
        let way = Arc::new(way);
        let (ledger, tally, stop) = <(Arc<Ledger>, Arc<Tally>, Arc<AtomicBool>)>::default();
        *tally.published.lock().unwrap() = vec![0; count];
        let mut tasks = JoinSet::new();
        for caller in 0..count {
            let (emitter, way) = (Arc::clone(emitter), Arc::clone(&way));
            let (ledger, tally, stop) = (Arc::clone(&ledger), Arc::clone(&tally), Arc::clone(&stop));
            let mut sequence = Sequence::of(format!("{keys}-{caller}"));
            tasks.spawn(async move {
                while !stop.load(Ordering::SeqCst) {
                    let event = sequence.next();
                    let start = Instant::now();
                    let result = way.emit(&emitter, &event).await;
                    let waited = u64::try_from(start.elapsed().as_micros()).unwrap();
                    tally.longest_wait_us.fetch_max(waited, Ordering::SeqCst);
                    match &result {
                        Ok(receipt) if is_published(receipt) => tally.published.lock().unwrap()[caller] += 1,
                        Ok(_) => drop(tally.stored.fetch_add(1, Ordering::SeqCst)),
                        Err(_) => drop(tally.failed.fetch_add(1, Ordering::SeqCst)),
                    }
                    ledger.enter(event, &result);
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Self { ledger, tally, stop, tasks }
    }

    /// Waits until each caller has published so many events more.
    pub(crate) async fn publish_each(&self, more: usize) {
        let before = self.tally.published();
        until("every caller publishes directly", || {
            self.tally.published().iter().zip(&before).all(|(now, before)| now - before >= more)
        })
        .await;
    }

    /// Waits until so many events more were stored.
    pub(crate) async fn store(&self, more: usize) {
        let before = self.tally.stored.load(Ordering::SeqCst);
        until("events are stored", || self.tally.stored.load(Ordering::SeqCst) - before >= more).await;
    }

    /// Stops them, and waits until their last emits have returned.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}
