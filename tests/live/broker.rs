//! A broker that answers, and does not take what it is sent.

use tidings::{EmitRequest, Emitter, ErrorKind, OutboxMode, PolicyOverride};

use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::topic::alter;
use crate::world::{World, logged, world};

/// What the topic takes at most, in bytes.
const SMALL_RECORDS: (&str, &str) = ("max.message.bytes", "3000");

/// From now on the topic refuses larger records. A producer that was built before does not know it.
pub(crate) async fn take_small_records_alone(world: &World) {
    let (name, value) = SMALL_RECORDS;
    alter(&world.brokers, &world.topic, name, value).await;
}

/// So many letters that hardly anything compresses, others for each seed.
fn noise(seed: u64, letters: usize) -> String {
    let mut state = seed;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    (0..letters).map(|_| letter()).collect()
}

/// A request whose record is larger than that, compressed or not.
pub(crate) fn large(event: &Numbered) -> EmitRequest {
    let payload = serde_json::json!({ "key": event.key, "number": event.number, "padding": noise(1, 20_000) });
    event.request().json(&payload).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_its_topic_does_not_take_is_refused_before_anything_is_sent_or_stored() {
    let world = world!(open_with_topic, &[SMALL_RECORDS]);
    let producer = world.producer().await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let event = Sequence::of("tenant-1").next();
    for request in [large(&event), large(&event).policy(always)] {
        let error = producer.emit(request).await.unwrap_err();
        assert_eq!((error.kind(), error.is_caller_error(), error.dead_lettered()), (ErrorKind::TooLarge, true, false));
        assert!(error.to_string().contains("3000"), "{error}");
    }
    assert_eq!(logged(&world.pool()).await, 0);
}

/// A broker refuses a batch that is larger than its topic takes, though each of the records would be taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_no_larger_than_what_the_topic_takes_on_either_way() {
    let world = world!(open_with_topic, &[SMALL_RECORDS]);
    // Long enough for all of them to be in one batch.
    let settings = [("STREAMING_BATCH_LINGER_MS", "200"), ("STREAMING_DIRECT_TIMEOUT_MS", "20000")];
    let producer = world.producer_with(&settings).await;
    let ledger = Ledger::default();
    for (tenant, mode) in [("tenant-1", OutboxMode::Never), ("tenant-2", OutboxMode::Always)] {
        let events = Sequence::of(tenant).take(60);
        let policy = PolicyOverride::default().with_outbox(mode);
        let requests = events
            .iter()
            .map(|event| event.request().extension("note", noise(event.number, 400)).policy(policy))
            .collect();
        for result in producer.emit_batch(requests).await {
            result.unwrap();
        }
        ledger.accept_all(events);
    }
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
    let parked: i64 = sqlx::query_scalar("select count(*) from tidings.parked").fetch_one(&world.pool()).await.unwrap();
    assert_eq!(parked, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_record_that_the_topic_refuses_is_an_error_and_is_not_stored() {
    let world = world!();
    let producer = world.producer_with(&[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    take_small_records_alone(&world).await;
    let error = producer.emit(large(&Sequence::of("tenant-1").next())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooLarge);
    assert_eq!(logged(&world.pool()).await, 0);
}

/// Stores events of a key one of which the topic refuses, has the relay find out, and then has the topic take it.
async fn relay_past_a_refusal(world: &World, ledger: &Ledger) {
    /// Which one is refused, and how many there are.
    const REFUSED: u64 = 10;
    const EVENTS: usize = 60;
    // In batches of two or three, so that many are in flight behind the one that is refused.
    let producer = world.producer_with(&[("STREAMING_BATCH_MAX_BYTES", "1024")]).await;
    take_small_records_alone(world).await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let (mut sequence, mut other) = (Sequence::of("tenant-1"), Sequence::of("tenant-2"));
    for event in sequence.take(EVENTS) {
        let request = if event.number == REFUSED { large(&event) } else { event.request() };
        producer.emit(request.policy(always)).await.unwrap();
        ledger.accept(event);
    }
    let relay = RunningRelay::of(&producer);
    for _ in 0..10 {
        let event = other.next();
        producer.emit(event.request().policy(always)).await.unwrap();
        world.arrived(&event.id).await;
        ledger.accept(event);
    }
    alter(&world.brokers, &world.topic, "max.message.bytes", "100000").await;
    world.records_with(ledger.ids()).await;
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_topic_refuses_is_not_lost_and_other_keys_go_by() {
    let world = world!();
    let ledger = Ledger::default();
    relay_past_a_refusal(&world, &ledger).await;
    let verdict = world.verdict(&ledger).await;
    assert!(verdict.lost.is_empty() && verdict.invented.is_empty(), "{verdict}");
}
