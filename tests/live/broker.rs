//! A broker that answers, and does not take what it is sent.

use std::time::{Duration, Instant};

use tidings::{EmitRequest, Emitter, ErrorKind, OutboxMode, PolicyOverride};

use crate::java;
use crate::private::{Private, shared_database_url};
use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::topic::{alter, create, delete, is_there};
use crate::support::waiting::eventually;
use crate::world::{World, logged, stranger, world};

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_throttles_a_client_holds_it_up_and_nothing_is_lost_or_reordered() {
    /// What the broker lets through in a second, on an average of eleven.
    const BYTES_PER_SECOND: usize = 20_000;
    const BYTES: usize = 300_000;
    const LETTERS: usize = 5_000;
    let jars = stranger!("TIDINGS_STRANGER_JAVA");
    let world = world!();
    let (client, quota) = (world.prefix.clone(), BYTES_PER_SECOND.to_string());
    java::run(&jars, "Operator", &[&world.brokers, "quota", &client, &quota]).await;
    let producer = world.producer_with(&[("STREAMING_CLIENT_ID", &client)]).await;
    let (ledger, mut sequences) = (Ledger::default(), ["tenant-1", "tenant-2", "tenant-3"].map(Sequence::of));
    let relay = RunningRelay::of(&producer);
    let start = Instant::now();
    for round in 0..BYTES / LETTERS / sequences.len() {
        for sequence in &mut sequences {
            let event = sequence.next();
            let padding = noise(u64::try_from(round).unwrap() * 10 + event.number, LETTERS);
            let payload = serde_json::json!({ "key": event.key, "number": event.number, "padding": padding });
            let request = event.request().json(&payload).unwrap();
            ledger.enter(event, &producer.emit(request).await);
        }
    }
    assert_eq!(ledger.accepted_count(), BYTES / LETTERS, "each is accepted, one way or the other");
    world.verdict(&ledger).await.assert_kept();
    let (took, least) = (start.elapsed(), Duration::from_secs(2));
    assert!(took > least, "the broker has not throttled: {took:?}");
    relay.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_whose_topic_is_not_there_are_errors_or_wait_until_it_is() {
    let _services = world!();
    let kafka = Private::kafka_without_new_topics().await;
    let world = World::on(kafka.brokers().to_owned(), &shared_database_url()).await;
    world.outbox().migrate().await.unwrap();
    delete(&world.brokers, &[&world.topic]).await;
    eventually("it is gone", async || (!is_there(&world.brokers, &world.topic).await).then_some(())).await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let never = PolicyOverride::default().with_outbox(OutboxMode::Never);
    let alone = Sequence::of("tenant-2").next();
    // The client waits for it: a topic that was just made is not known everywhere.
    let refused = producer.emit(alone.request().policy(never)).await;
    assert_eq!(refused.as_ref().unwrap_err().kind(), ErrorKind::Timeout, "{refused:?}");
    ledger.enter(alone, &refused);
    let relay = RunningRelay::of(&producer);
    for _ in 0..3 {
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    create(&world.brokers, &world.topic, 6).await;
    world.verdict(&ledger).await.assert_kept();
    assert_eq!(ledger.accepted_count(), 3);
    relay.stop().await;
}
