//! Several events in one call.

use std::sync::Arc;

use tidings::{Emitter, ErrorKind, OutboxMode, PolicyOverride};

use crate::scripted::{ScriptedTransport, numbers_of};
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::world::{World, producer_on};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_results_of_a_batch_are_in_the_order_of_its_requests_and_each_key_in_its_own() {
    let world = World::new().await;
    let producer = world.producer().await;
    // On a busy machine some may take longer than the direct timeout, and go by the outbox.
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let mut sequences: Vec<_> = (0..40).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    let events: Vec<_> = (0..10).flat_map(|_| sequences.iter_mut().map(Sequence::next).collect::<Vec<_>>()).collect();
    let results = emitter.emit_batch(events.iter().map(|event| event.request()).collect()).await;
    assert_eq!(results.len(), events.len());
    let ledger = Ledger::default();
    for (event, result) in events.into_iter().zip(results) {
        assert!(result.is_ok(), "{result:?}");
        // Checks that the receipt is that of this event.
        ledger.enter(event, &result);
    }
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_stops_at_its_first_failure_and_the_others_go_on() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    let (mut bad, mut good) = (Sequence::of("bad"), Sequence::of("good"));
    let never = PolicyOverride::default().with_outbox(OutboxMode::Never);
    let first = bad.next();
    producer.emit(first.request()).await.unwrap();
    // The second of `bad` fails, the third would not.
    transport.fail_once("bad");
    let (bad, good) = (bad.take(3), good.take(3));
    let requests = bad.iter().zip(&good).flat_map(|(bad, good)| [bad.request(), good.request()]);
    let results = producer.emit_batch(requests.map(|request| request.policy(never)).collect()).await;
    for (index, result) in results.iter().enumerate() {
        if index % 2 == 0 {
            let error = result.as_ref().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::BrokerUnavailable);
            assert_eq!(error.event_id().unwrap().to_string(), bad[index / 2].id);
        } else {
            assert!(is_published(result.as_ref().unwrap()));
        }
    }
    assert_eq!(transport.numbers_of("bad"), [1]);
    assert_eq!(transport.numbers_of("good"), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_fault_fails_alone() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    let events = Sequence::of("tenant-1").take(2);
    let mut requests: Vec<_> = events.iter().map(|event| event.request()).collect();
    requests.insert(0, tidings::EmitRequest::new("no.such.event"));
    let results = producer.emit_batch(requests).await;
    assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::UnknownEvent);
    assert!(results[1].is_ok() && results[2].is_ok());
    assert_eq!(numbers_of(&transport.memory, "tenant-1"), [1, 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_batch_has_no_results() {
    let (producer, _directory) = producer_on(Arc::new(ScriptedTransport::default())).await;
    assert!(producer.emit_batch(Vec::new()).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_to_the_outbox_in_order_while_the_broker_is_down() {
    let world = World::new().await;
    let producer = world.producer().await;
    world.broker_down();
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let events = sequence.take(20);
    let results = producer.emit_batch(events.iter().map(|event| event.request()).collect()).await;
    for (event, result) in events.into_iter().zip(results) {
        assert!(result.is_ok_and(|receipt| !is_published(&receipt)));
        ledger.accept(event);
    }
    world.broker_up();
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}
