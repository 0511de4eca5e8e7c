//! What the delivery policy makes of an emit.

use tidings::{
    Catalog, DeliveryPolicy, DirectMode, EmitRequest, Emitter, EmitterExt, ErrorKind, EventDefinition, OutboxMode,
    Outcome, PolicyOverride, Producer, StoredReason,
};

use crate::support::events::{EVENT, Ledger, Sequence, catalog, is_published, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, begin, logged};

fn catalog_with(policy: DeliveryPolicy) -> Catalog {
    Catalog::new([EventDefinition::new(EVENT, "order", "changed").with_policy(policy)]).unwrap()
}

fn with_outbox(mode: OutboxMode) -> PolicyOverride {
    PolicyOverride::default().with_outbox(mode)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_always_stored_is_stored_with_the_broker_up() {
    let world = World::new().await;
    for mode in [OutboxMode::Always, OutboxMode::Journaled] {
        let catalog = catalog_with(DeliveryPolicy::default().with_outbox(mode).with_direct(DirectMode::Skip));
        let producer = world.producer_of(catalog, &[]).await;
        let (ledger, mut sequence) = (Ledger::default(), Sequence::of(format!("tenant-{mode}")));
        for _ in 0..3 {
            let receipt = ledger.emit(&producer, sequence.next()).await.unwrap();
            assert_eq!(stored_reason(&receipt), Some(StoredReason::Policy));
        }
        let relay = RunningRelay::of(&producer);
        assert!(world.verdict(&ledger).await.lost.is_empty());
        relay.stop().await;
        // Drained or not, it is stored.
        let receipt = ledger.emit(&producer, sequence.next()).await.unwrap();
        assert_eq!(stored_reason(&receipt), Some(StoredReason::Policy));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_event_goes_nowhere_on_every_path() {
    let world = World::new().await;
    let setting = ("STREAMING_EVENT_POLICIES", "order.changed.enabled=false");
    let producer = world.producer_with(&[setting]).await;
    let request = || Sequence::of("tenant-1").next().request();
    assert_eq!(producer.emit(request()).await.unwrap().outcome, Outcome::Disabled);
    let enable = PolicyOverride::default().with_enabled(true);
    assert_eq!(producer.emit(request().policy(enable)).await.unwrap().outcome, Outcome::Disabled);
    let pool = world.pool();
    let mut tx = begin(&pool).await;
    assert_eq!(producer.emit_in(&mut tx, request()).await.unwrap().outcome, Outcome::Disabled);
    tx.commit().await.unwrap();
    assert_eq!(logged(&pool).await, 0);
    assert!(world.records_now().await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_transaction_only_the_enabled_events_are_stored() {
    let world = World::new().await;
    let producer = world.producer().await;
    let disable = PolicyOverride::default().with_enabled(false);
    let mut sequence = Sequence::of("tenant-1");
    let requests = vec![
        sequence.next().request().policy(disable),
        sequence.next().request(),
        sequence.next().request().policy(disable),
    ];
    let pool = world.pool();
    let mut tx = begin(&pool).await;
    let receipts = producer.emit_all_in(&mut tx, requests).await.unwrap();
    tx.commit().await.unwrap();
    let stored: Vec<_> = receipts.iter().map(|receipt| stored_reason(receipt).is_some()).collect();
    assert_eq!(stored, [false, true, false]);
    assert_eq!(logged(&pool).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_may_not_be_stored_waits_for_its_lane_and_is_refused_if_that_takes_too_long() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let stored = sequence.next();
    producer.emit(stored.request().policy(with_outbox(OutboxMode::Always))).await.unwrap();
    ledger.accept(stored);
    let never = || with_outbox(OutboxMode::Never);
    let error = producer.emit(sequence.next().request().policy(never())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LaneSpilled);
    assert!(error.is_retryable() && error.event_id().is_some());
    // With a relay the wait is worth it, at the latest when the client is connected.
    let _relay = RunningRelay::of(&producer);
    eventually("the lane is settled", async || {
        let event = sequence.next();
        let result = producer.emit(event.request().policy(never())).await;
        ledger.enter(event, &result);
        result.ok().filter(is_published)
    })
    .await;
    assert_eq!(logged(&world.pool()).await, 1, "none but the first was stored");
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_outbox_a_broker_that_is_down_is_an_error_and_the_breaker_opens() {
    let world = World::new().await;
    world.broker_down();
    let settings = [("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "1"), ("STREAMING_CB_TIMEOUT_S", "60")];
    let producer = world.producer_without_outbox(&settings).await;
    let results = futures_util::future::join_all((0..8).map(|n| {
        let request = Sequence::of(format!("tenant-{n}")).next().request();
        producer.emit(request)
    }))
    .await;
    for result in results {
        let error = result.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Timeout | ErrorKind::BrokerUnavailable), "{error:?}");
        assert!(error.is_retryable() && !error.is_caller_error() && error.event_id().is_some());
    }
    let error = producer.emit(Sequence::of("tenant-9").next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CircuitOpen);
    assert!(error.is_retryable());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_breaker_is_open_events_are_stored_at_once() {
    let world = World::new().await;
    world.broker_down();
    let producer = world.producer_with(&[("STREAMING_CB_TIMEOUT_S", "3600")]).await;
    let results = futures_util::future::join_all((0..8).map(|n| {
        let request = Sequence::of(format!("tenant-{n}")).next().request();
        producer.emit(request)
    }))
    .await;
    for result in results {
        assert_eq!(stored_reason(&result.unwrap()), Some(StoredReason::PublishFailed));
    }
    // A key whose lane has nothing in the outbox: only the breaker keeps it from the broker.
    let stranger = (0..).map(|n| format!("stranger-{n}")).find(|key| {
        use crate::support::murmur2::lane_of;
        (0..8).all(|n| lane_of(&format!("tenant-{n}"), crate::world::LANES) != lane_of(key, crate::world::LANES))
    });
    let receipt = producer.emit(Sequence::of(stranger.unwrap()).next().request()).await.unwrap();
    assert_eq!(stored_reason(&receipt), Some(StoredReason::CircuitOpen));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_needs_an_outbox_is_refused_at_start_without_one() {
    let world = World::new().await;
    let always = catalog_with(DeliveryPolicy::default().with_outbox(OutboxMode::Always));
    let error = Producer::builder(world.config(&[]), always).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    let producer = Producer::builder(world.config(&[]), catalog()).build().await.unwrap();
    let request = Sequence::of("tenant-1").next().request().policy(with_outbox(OutboxMode::Always));
    assert_eq!(producer.emit(request).await.unwrap_err().kind(), ErrorKind::InvalidPolicy);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_error_sends_nothing_and_carries_its_kind() {
    let world = World::new().await;
    let producer = world.producer_with(&[("STREAMING_MAX_RECORD_BYTES", "2000")]).await;
    let big = format!("\"{}\"", "x".repeat(2_000));
    for (request, kind) in [
        (EmitRequest::new("no.such.event"), ErrorKind::UnknownEvent),
        (EmitRequest::new(EVENT).payload("not json"), ErrorKind::InvalidPayload),
        (EmitRequest::new(EVENT).payload("{}").tenant("a\nb"), ErrorKind::InvalidEvent),
        (EmitRequest::new(EVENT).payload(big), ErrorKind::TooLarge),
    ] {
        let error = producer.emit(request).await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.is_caller_error() && !error.is_retryable());
    }
    assert!(world.records_now().await.is_empty());
    assert_eq!(logged(&world.pool()).await, 0);
}
