//! Several producers on one outbox, as in several processes of a service.

use std::sync::Arc;

use sqlx::postgres::PgListener;
use tidings::{Emitter, OutboxMode, PolicyOverride, StoredReason};

use crate::support::events::{Ledger, Sequence, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::world::{emit_until_direct, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_without_a_relay_goes_back_to_direct_when_anothers_relay_has_drained_its_lanes() {
    let world = world!();
    let (with_relay, without) = (world.producer().await, world.producer().await);
    let without: Arc<dyn Emitter> = Arc::new(without);
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let ledger = Ledger::default();
    let mut sequences: Vec<_> = (0..20).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    for sequence in &mut sequences {
        let event = sequence.next();
        without.emit(event.request().policy(always)).await.unwrap();
        ledger.accept(event);
        let receipt = ledger.emit(&without, sequence.next()).await.unwrap();
        assert_eq!(stored_reason(&receipt), Some(StoredReason::LaneSpilled), "nobody has drained it yet");
    }
    let _relay = RunningRelay::of(&with_relay);
    for sequence in &mut sequences {
        emit_until_direct(&without, &ledger, sequence).await;
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_producers_with_a_relay_each_keep_the_order_of_their_keys() {
    let world = world!();
    let producers = [world.producer().await, world.producer().await];
    let mut relays: Vec<_> = producers.iter().map(RunningRelay::of).collect();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let ledger = Ledger::default();
    // All keys by both producers: only what is always stored has an order across processes.
    let mut sequences: Vec<_> = (0..10).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    for round in 0..40 {
        for sequence in &mut sequences {
            let event = sequence.next();
            producers[round % 2].emit(event.request().policy(always)).await.unwrap();
            ledger.accept(event);
        }
        if round == 20 {
            // The lanes of the one that stops go to the other.
            relays.swap_remove(0).stop().await;
        }
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relays_elsewhere_are_told_of_stored_events_and_woken_by_a_call() {
    let world = world!();
    let producer = world.producer().await;
    let mut listener = PgListener::connect_with(&world.pool()).await.unwrap();
    listener.listen("tidings").await.unwrap();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut sequence = Sequence::of("tenant-1");
    producer.emit(sequence.next().request().policy(always)).await.unwrap();
    listener.recv().await.unwrap();
    producer.wake().await.unwrap();
    listener.recv().await.unwrap();
}
