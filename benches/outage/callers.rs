//! Callers that emit at a steady rate, and what each emit was like.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidings::{BreakerState, Emitter, Producer};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::checks::checker::Numbered;
use crate::checks::events::{Ledger, Sequence, is_published};

/// One emit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Emit {
    pub(crate) caller: usize,
    pub(crate) begun: Instant,
    pub(crate) waited: Duration,
    /// Whether the breaker was open when it began.
    pub(crate) was_open: bool,
    pub(crate) outcome: Outcome,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Published,
    Stored,
    Failed,
}

#[derive(Debug)]
pub(crate) struct Callers {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<Vec<Emit>>,
}

impl Callers {
    /// Starts so many callers, each with a key of its own and an event in every `pause`.
    pub(crate) fn start(count: usize, pause: Duration, producer: &Producer, ledger: &Arc<Ledger>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        for caller in 0..count {
            let (producer, ledger, stop) = (producer.clone(), Arc::clone(ledger), Arc::clone(&stop));
            tasks.spawn(async move {
                let mut sequence = Sequence::of(format!("tenant-{caller}"));
                let mut emits = Vec::new();
                // Callers don't emit all at the same moment.
                tokio::time::sleep(pause * u32::try_from(caller).expect("they are few") / 16).await;
                let mut clock = tokio::time::interval(pause);
                clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
                while !stop.load(Ordering::SeqCst) {
                    clock.tick().await;
                    emits.push(emit(caller, &producer, &ledger, sequence.next()).await);
                }
                emits
            });
        }
        Self { stop, tasks }
    }

    /// Stops them, and yields what they did.
    pub(crate) async fn stop(self) -> Vec<Emit> {
        self.stop.store(true, Ordering::SeqCst);
        self.tasks.join_all().await.into_iter().flatten().collect()
    }
}

async fn emit(caller: usize, producer: &Producer, ledger: &Ledger, event: Numbered) -> Emit {
    let was_open = producer.breaker_state() == BreakerState::Open;
    let begun = Instant::now();
    let result = producer.emit(event.request()).await;
    let outcome = match &result {
        Ok(receipt) if is_published(receipt) => Outcome::Published,
        Ok(_) => Outcome::Stored,
        Err(error) => {
            eprintln!("an emit failed: {error}");
            Outcome::Failed
        }
    };
    ledger.enter(event, &result);
    Emit { caller, begun, waited: begun.elapsed(), was_open, outcome }
}
