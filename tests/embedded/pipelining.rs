//! A batch's records follow one another unacknowledged, and no key's order suffers from it.

use std::sync::Arc;
use std::time::Duration;

use tidings::{Emitter, ErrorKind, OutboxMode, PolicyOverride, Producer, Receipt, Result, StoredReason};
use tokio::task::JoinHandle;

use crate::scripted::ScriptedTransport;
use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence, is_published, stored_at, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, producer_on};

/// Longer than a batch takes to submit what it may.
const MOMENT: Duration = Duration::from_millis(50);

const KEY: &str = "tenant-1";

/// A producer whose client has delivered the first event of [`KEY`], and holds the others from now on.
async fn holding(transport: &Arc<ScriptedTransport>) -> (Producer, tempfile::TempDir, Sequence) {
    let (producer, directory) = producer_on(Arc::clone(transport) as _).await;
    let mut sequence = Sequence::of(KEY);
    for result in producer.emit_batch(vec![sequence.next().request()]).await {
        result.unwrap();
    }
    transport.hold(KEY);
    (producer, directory, sequence)
}

fn emit(producer: &Producer, events: &[Numbered]) -> JoinHandle<Vec<Result<Receipt>>> {
    let (producer, requests) = (producer.clone(), events.iter().map(Numbered::request).collect());
    tokio::spawn(async move { producer.emit_batch(requests).await })
}

async fn held(transport: &ScriptedTransport, count: usize) {
    eventually("they are in flight", async || (transport.held_count() >= count).then_some(())).await;
    tokio::time::sleep(MOMENT).await;
    assert_eq!(transport.held_count(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_record_of_a_topic_goes_alone() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold(KEY);
    let batch = emit(&producer, &Sequence::of(KEY).take(5));
    held(&transport, 1).await;
    transport.release();
    assert!(batch.await.unwrap().iter().all(|result| is_published(result.as_ref().unwrap())));
    assert_eq!(transport.numbers_of(KEY), [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_others_do_not_wait_for_one_another() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(5));
    held(&transport, 5).await;
    transport.release();
    assert!(batch.await.unwrap().iter().all(|result| is_published(result.as_ref().unwrap())));
    assert_eq!(transport.numbers_of(KEY), [1, 2, 3, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_broker_does_not_take_is_stored_in_order_behind_what_it_took() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(4));
    held(&transport, 4).await;
    transport.release_but(&[1, 2, 3]);
    let results = batch.await.unwrap();
    let receipts: Vec<_> = results.iter().map(|result| result.as_ref().unwrap()).collect();
    assert!(is_published(receipts[0]));
    for pair in receipts[1..].windows(2) {
        assert_eq!(stored_reason(pair[0]), Some(StoredReason::PublishFailed));
        assert!(stored_at(pair[0]) < stored_at(pair[1]));
    }
    let _relay = RunningRelay::of(&producer);
    eventually("all are there", async || (transport.numbers_of(KEY).len() == 5).then_some(())).await;
    assert_eq!(transport.numbers_of(KEY), [1, 2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_was_overtaken_fails_instead_of_coming_late() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(4));
    held(&transport, 4).await;
    transport.release_but(&[1]);
    let results = batch.await.unwrap();
    let error = results[1].as_ref().unwrap_err();
    assert!(error.kind() == ErrorKind::BrokerUnavailable && error.event_id().is_some());
    for place in [0, 2, 3] {
        assert!(is_published(results[place].as_ref().unwrap()));
    }
    // Behind nothing in the outbox the next one goes directly.
    let next = producer.emit(sequence.next().request()).await.unwrap();
    assert!(is_published(&next));
    assert_eq!(transport.numbers_of(KEY), [1, 2, 4, 5, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_stored_while_an_event_of_its_key_is_in_flight() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let _relay = RunningRelay::of(&producer);
    let events = sequence.take(3);
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut requests: Vec<_> = events.iter().map(Numbered::request).collect();
    requests[1] = events[1].request().policy(always);
    let emitter = producer.clone();
    let batch = tokio::spawn(async move { emitter.emit_batch(requests).await });
    // Stored, the second would be delivered at once; the relay's transport is the same, and holds it.
    held(&transport, 1).await;
    transport.release();
    let results = batch.await.unwrap();
    let receipts: Vec<_> = results.iter().map(|result| result.as_ref().unwrap()).collect();
    assert!(is_published(receipts[0]));
    assert_eq!(stored_reason(receipts[1]), Some(StoredReason::Policy));
    eventually("all are there", async || (transport.numbers_of(KEY).len() == 4).then_some(())).await;
    assert_eq!(transport.numbers_of(KEY), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_event_that_is_late_is_stored_as_that_of_a_single_emit() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(1));
    let results = batch.await.unwrap();
    assert_eq!(stored_reason(results[0].as_ref().unwrap()), Some(StoredReason::PublishFailed));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_that_are_late_are_not_stored_while_a_client_that_is_not_given_up_may_deliver_some() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(3));
    for result in batch.await.unwrap() {
        let error = result.unwrap_err();
        assert!(error.kind() == ErrorKind::Timeout && error.is_ambiguous() && error.is_retryable());
    }
    transport.release();
    assert_eq!(transport.numbers_of(KEY), [1, 2, 3, 4]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_of_any_size_has_so_many_records_in_flight_and_no_more() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory, mut sequence) = holding(&transport).await;
    let batch = emit(&producer, &sequence.take(9_000));
    held(&transport, 8_192).await;
    transport.release();
    assert!(batch.await.unwrap().iter().all(|result| is_published(result.as_ref().unwrap())));
    assert!(transport.numbers_of(KEY).into_iter().eq(1..=9_001));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_that_is_dropped_submits_nothing_more() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold(KEY);
    let batch = emit(&producer, &Sequence::of(KEY).take(5));
    held(&transport, 1).await;
    batch.abort();
    assert!(batch.await.unwrap_err().is_cancelled());
    transport.release();
    tokio::time::sleep(MOMENT).await;
    assert_eq!(transport.numbers_of(KEY), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_keep_their_order_through_outages_and_slow_answers() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let ledger = Ledger::default();
    let mut sequences: Vec<_> = (0..8).map(|key| Sequence::of(format!("tenant-{key}"))).collect();
    for round in 0..9 {
        let trouble = async {
            tokio::time::sleep(Duration::from_millis(2)).await;
            match round % 3 {
                0 => world.broker_down(),
                1 => world.slow_broker(Duration::from_millis(600)),
                _ => {}
            }
        };
        let events: Vec<_> =
            (0..100).flat_map(|_| sequences.iter_mut().map(Sequence::next).collect::<Vec<_>>()).collect();
        let requests = events.iter().map(Numbered::request).collect();
        let (results, ()) = tokio::join!(producer.emit_batch(requests), trouble);
        for (event, result) in events.into_iter().zip(results) {
            assert!(result.is_ok(), "with an outbox no emit fails: {result:?}");
            ledger.enter(event, &result);
        }
        world.broker_up();
        world.slow_broker(Duration::ZERO);
        if round % 3 == 2 {
            world.drained().await;
        }
    }
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_waits_for_room_in_the_clients_queue() {
    let world = World::new().await;
    let producer =
        world.producer_with(&[("STREAMING_MAX_BUFFERED_RECORDS", "3"), ("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    let ledger = Ledger::default();
    let events = Sequence::of(KEY).take(60);
    let results = producer.emit_batch(events.iter().map(Numbered::request).collect()).await;
    for (event, result) in events.into_iter().zip(results) {
        assert!(is_published(result.as_ref().unwrap()));
        ledger.enter(event, &result);
    }
    world.verdict(&ledger).await.assert_kept();
}
