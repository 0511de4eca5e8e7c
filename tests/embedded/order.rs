//! One order for each key, whichever path each of its events takes.

use std::sync::Arc;

use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride};

use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, begin};

/// The ways an event can take.
#[derive(Debug, Clone, Copy)]
enum Way {
    Plain,
    Always,
    Journaled,
    Batch,
    Transaction,
    RolledBack,
    BatchInTransaction,
}

const WAYS: [Way; 7] =
    [Way::Plain, Way::Always, Way::Journaled, Way::Batch, Way::Transaction, Way::RolledBack, Way::BatchInTransaction];

/// Numbers that look random and are the same in every run (Knuth's linear congruential generator, MMIX).
struct Dice(u64);

impl Dice {
    fn below(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }
}

async fn emit_by(way: Way, emitter: &Arc<dyn Emitter>, world: &World, ledger: &Ledger, sequence: &mut Sequence) {
    let changed = |mode| PolicyOverride::default().with_outbox(mode);
    match way {
        Way::Plain => drop(ledger.emit(emitter, sequence.next()).await.unwrap()),
        Way::Always | Way::Journaled => {
            let mode = if matches!(way, Way::Always) { OutboxMode::Always } else { OutboxMode::Journaled };
            let event = sequence.next();
            emitter.emit(event.request().policy(changed(mode))).await.unwrap();
            ledger.accept(event);
        }
        Way::Batch => {
            let events = sequence.take(3);
            let results = emitter.emit_batch(events.iter().map(|event| event.request()).collect()).await;
            for (event, result) in events.into_iter().zip(results) {
                result.unwrap();
                ledger.accept(event);
            }
        }
        Way::Transaction | Way::RolledBack => {
            let event = sequence.next();
            let mut tx = begin(&world.pool()).await;
            emitter.emit_in(&mut tx, event.request()).await.unwrap();
            if matches!(way, Way::RolledBack) {
                tx.rollback().await.unwrap();
            } else {
                tx.commit().await.unwrap();
                ledger.accept(event);
            }
        }
        Way::BatchInTransaction => {
            let events = sequence.take(4);
            let mut tx = begin(&world.pool()).await;
            emitter.emit_all_in(&mut tx, events.iter().map(|event| event.request()).collect()).await.unwrap();
            tx.commit().await.unwrap();
            ledger.accept_all(events);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_keeps_its_order_over_all_paths_and_through_outages() {
    /// Long enough for the breaker to open and to close again.
    const ROUNDS: usize = 12;
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let (ledger, mut sequence, mut dice) = (Ledger::default(), Sequence::of("tenant-1"), Dice(1));
    for round in 0..ROUNDS {
        if round % 2 == 1 {
            world.broker_down();
        }
        for _ in 0..10 {
            emit_by(WAYS[dice.below(WAYS.len())], &emitter, &world, &ledger, &mut sequence).await;
        }
        if round % 2 == 1 {
            world.broker_up();
            // Every second time it goes on while the relay still drains.
            if round % 4 == 1 {
                eventually("an emit is direct again", async || {
                    is_published(&ledger.emit(&emitter, sequence.next()).await.unwrap()).then_some(())
                })
                .await;
            }
        }
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_direct_event_overtakes_a_stored_one() {
    let world = World::new().await;
    // The first emit waits for the client to connect: without a relay it must not end in the outbox.
    let producer = world.producer_with(&[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    // Direct, stored, and then direct if nothing held it back: there is no relay yet.
    assert!(is_published(&ledger.emit(&emitter, sequence.next()).await.unwrap()));
    let stored = sequence.next();
    emitter.emit(stored.request().policy(always)).await.unwrap();
    ledger.accept(stored);
    for _ in 0..10 {
        assert!(!is_published(&ledger.emit(&emitter, sequence.next()).await.unwrap()));
    }
    let _relay = RunningRelay::of(&producer);
    eventually("an emit is direct again", async || {
        is_published(&ledger.emit(&emitter, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}
