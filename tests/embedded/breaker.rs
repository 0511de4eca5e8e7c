//! The breaker opens and closes by itself, and whoever waits is answered.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings::{BreakerState, Emitter, ErrorKind, ForcedBreaker, Producer, StoredReason};

use crate::scripted::ScriptedTransport;
use crate::support::events::{Ledger, Sequence, is_published, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::{PATIENCE, eventually, until};
use crate::world::{World, config, producer_on};

/// Callers whom only the breaker can help.
const PATIENT: (&str, &str) = ("STREAMING_DIRECT_TIMEOUT_MS", "60000");

async fn becomes(producer: &Producer, state: BreakerState) {
    until(&format!("the breaker is {state}"), || producer.breaker_state() == state).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_opens_when_the_broker_is_gone_and_closes_when_it_is_back_though_nobody_emits() {
    let world = World::new().await;
    let producer = world.producer().await;
    producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap();
    for _ in 0..2 {
        world.broker_down();
        becomes(&producer, BreakerState::Open).await;
        world.broker_up();
        becomes(&producer, BreakerState::Closed).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_wait_when_it_opens_are_answered_from_the_outbox_at_once() {
    let world = World::new().await;
    let producer = world.producer_with(&[PATIENT]).await;
    let ledger = Arc::new(Ledger::default());
    ledger.emit(&producer, Sequence::of("tenant-0").next()).await.unwrap();
    world.slow_broker(Duration::from_secs(20));
    let start = Instant::now();
    let mut emits = tokio::task::JoinSet::new();
    for caller in 1..=20 {
        let (producer, ledger) = (producer.clone(), Arc::clone(&ledger));
        emits.spawn(
            async move { ledger.emit(&producer, Sequence::of(format!("tenant-{caller}")).next()).await.unwrap() },
        );
    }
    for receipt in emits.join_all().await {
        assert!(!is_published(&receipt), "{receipt:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(15), "they waited {:?}", start.elapsed());
    world.slow_broker(Duration::ZERO);
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_an_outbox_hears_at_once_that_the_broker_is_gone() {
    let world = World::new().await;
    let producer = world.producer_without_outbox(&[PATIENT]).await;
    let mut sequence = Sequence::of("tenant-1");
    producer.emit(sequence.next().request()).await.unwrap();
    world.broker_down();
    let start = Instant::now();
    let error = producer.emit(sequence.next().request()).await.unwrap_err();
    assert!(error.is_retryable() && error.is_ambiguous(), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "it waited {:?}", start.elapsed());
    let error = producer.emit(sequence.next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CircuitOpen);
    world.broker_up();
    eventually("an emit is direct again", async || producer.emit(sequence.next().request()).await.ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_sent_when_it_opened_arrives_once() {
    let world = World::new().await;
    let producer = world.producer_with(&[PATIENT]).await;
    let _relay = RunningRelay::of(&producer);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    ledger.emit(&producer, sequence.next()).await.unwrap();
    world.broker_down();
    for _ in 0..20 {
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    world.broker_up();
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    // Longer than the client's own pauses: what it still had would be there by now.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_keeps_events_from_a_broker_that_is_well_and_lets_them_go_again() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    ledger.emit(&producer, sequence.next()).await.unwrap();
    producer.force_breaker(Some(ForcedBreaker::Open));
    let receipt = ledger.emit(&producer, sequence.next()).await.unwrap();
    assert_eq!(stored_reason(&receipt), Some(StoredReason::CircuitOpen));
    producer.force_breaker(None);
    let _relay = RunningRelay::of(&producer);
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emit_is_over_when_the_time_of_its_request_is() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold("tenant-1");
    let start = Instant::now();
    let request = Sequence::of("tenant-1").next().request().timeout(Duration::from_secs(3_600));
    let receipt = producer.emit(request).await.unwrap();
    assert_eq!(stored_reason(&receipt), Some(StoredReason::PublishFailed), "the direct timeout still counts");
    let without_outbox = Producer::builder(config("none:1", &[]), crate::support::events::catalog());
    let without_outbox = without_outbox.with_transport(Arc::clone(&transport) as _).build().await.unwrap();
    let request = Sequence::of("tenant-1").next().request().timeout(Duration::from_millis(100));
    let error = without_outbox.emit(request).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Timeout, true));
    assert!(start.elapsed() < Duration::from_secs(15), "it took {:?}", start.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_without_room_wait_their_turn_and_then_fail_unsent() {
    let transport = Arc::new(ScriptedTransport::default());
    let config = config("none:1", &[("STREAMING_MAX_IN_FLIGHT_BYTES", "1048576"), PATIENT]);
    let builder = Producer::builder(config, crate::support::events::catalog());
    let producer = builder.with_transport(Arc::clone(&transport) as _).build().await.unwrap();
    transport.hold("large");
    let large = |key: &str| {
        let payload = serde_json::json!({ "number": 1, "text": "x".repeat(600_000) });
        Sequence::of(key).next().request().json(&payload).unwrap()
    };
    let first = tokio::spawn({
        let (producer, request) = (producer.clone(), large("large"));
        async move { producer.emit(request).await }
    });
    until("the first is in flight", || transport.held_count() == 1).await;
    let error = producer.emit(large("other").timeout(Duration::from_millis(100))).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Overloaded, false));
    let second = tokio::spawn({
        let (producer, request) = (producer.clone(), large("other"));
        async move { producer.emit(request).await }
    });
    // A small one has room, and does not push in before the one that waits.
    let small = tokio::spawn({
        let (producer, request) = (producer.clone(), Sequence::of("small").next().request());
        async move { producer.emit(request).await }
    });
    transport.release();
    for emit in [first, second, small] {
        assert!(is_published(&emit.await.unwrap().unwrap()));
    }
    assert_eq!(transport.numbers_of("other"), [1], "the one that failed was not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_producer_learns_that_a_lane_is_spilled_and_when_it_is_drained() {
    let world = World::new().await;
    let (here, elsewhere) = (world.producer().await, world.producer().await);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    ledger.emit(&elsewhere, sequence.next()).await.unwrap();
    here.force_breaker(Some(ForcedBreaker::Open));
    ledger.emit(&here, sequence.next()).await.unwrap();
    // Longer than between two looks.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let receipt = ledger.emit(&elsewhere, sequence.next()).await.unwrap();
    assert_eq!(stored_reason(&receipt), Some(StoredReason::LaneSpilled));
    let _relay = RunningRelay::of(&here);
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&elsewhere, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_a_pause_goes_direct_again_though_the_relay_is_elsewhere() {
    let world = World::new().await;
    let (here, elsewhere) = (world.producer().await, world.producer().await);
    let _relay = RunningRelay::of(&elsewhere);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    here.force_breaker(Some(ForcedBreaker::Open));
    ledger.emit(&here, sequence.next()).await.unwrap();
    here.force_breaker(None);
    let stream = async { while !is_published(&ledger.emit(&here, sequence.next()).await.unwrap()) {} };
    tokio::time::timeout(PATIENCE, stream).await.expect("the lane settles");
    world.verdict(&ledger).await.assert_kept();
}
