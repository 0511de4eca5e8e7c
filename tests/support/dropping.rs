//! Callers that drop their emits at any point.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use tidings::{AsTx, Emitter, EmitterExt, OutboxMode, PolicyOverride, Producer};
use tokio::task::JoinSet;

use super::checker::Numbered;
use super::events::{Ledger, Sequence};

/// Where a service's transactions come from.
pub(crate) trait Database: Clone + Send + Sync + 'static {
    type Tx: AsTx + Send;

    fn begin(&self) -> impl Future<Output = Self::Tx> + Send;

    /// Commits, or rolls back.
    fn end(&self, tx: Self::Tx, commits: bool) -> impl Future<Output = ()> + Send;
}

/// Callers with a key each.
#[derive(Debug)]
pub(crate) struct DroppingCallers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<usize>,
}

impl DroppingCallers {
    pub(crate) fn start(count: u64, producer: &Producer, database: &impl Database, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for caller in 0..count {
            tasks.spawn(emit(producer.clone(), database.clone(), Arc::clone(ledger), caller, Arc::clone(&stop)));
        }
        Self { stop, tasks }
    }

    /// Stops them. Yields how many emits were dropped.
    pub(crate) async fn stop(self) -> usize {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await.into_iter().sum()
    }
}

/// Emits until it is told to stop, each by a way of chance, and drops one in two at some point.
async fn emit(
    producer: Producer,
    database: impl Database,
    ledger: Arc<Ledger>,
    caller: u64,
    stop: Arc<AtomicBool>,
) -> usize {
    let mut chance = Rng::with_seed(caller);
    let mut sequence = Sequence::of(format!("tenant-{caller}"));
    let mut dropped = 0;
    while !stop.load(Ordering::SeqCst) {
        // Most points are passed within the first milliseconds; some only when the broker is down.
        let patience = match chance.u64(0..6) {
            0 => Duration::ZERO,
            1 => Duration::from_micros(chance.u64(0..2_000)),
            2 => Duration::from_millis(chance.u64(0..500)),
            _ => Duration::from_secs(60),
        };
        match chance.u64(0..10) {
            0 => {
                let events = sequence.take(5);
                let requests = events.iter().map(Numbered::request).collect();
                match tokio::time::timeout(patience, producer.emit_batch(requests)).await {
                    Ok(results) => {
                        events.into_iter().zip(&results).for_each(|(event, result)| ledger.enter(event, result))
                    }
                    Err(_) => {
                        dropped += 1;
                        events.into_iter().for_each(|event| ledger.doubt(event));
                    }
                }
            }
            1 => {
                let event = sequence.next();
                let outbox = if chance.bool() { OutboxMode::Journaled } else { OutboxMode::Always };
                let request = event.request().policy(PolicyOverride::default().with_outbox(outbox));
                let mut tx = database.begin().await;
                match tokio::time::timeout(patience, producer.emit_in(&mut tx, request)).await {
                    Ok(result) => {
                        database.end(tx, true).await;
                        ledger.enter(event, &result);
                        // One in two is forgotten.
                        if chance.bool() {
                            producer.committed(result.into_iter().collect());
                        }
                    }
                    // Nobody may ever see it.
                    Err(_) => {
                        dropped += 1;
                        database.end(tx, false).await;
                    }
                }
            }
            way => {
                let event = sequence.next();
                let outbox = if way == 2 { OutboxMode::Always } else { OutboxMode::Fallback };
                let request = event.request().policy(PolicyOverride::default().with_outbox(outbox));
                match tokio::time::timeout(patience, producer.emit(request)).await {
                    Ok(result) => ledger.enter(event, &result),
                    Err(_) => {
                        dropped += 1;
                        ledger.doubt(event);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(chance.u64(0..10))).await;
    }
    dropped
}
