//! Records that don't go through while others do.

use std::sync::Arc;

use tidings::testing::MemoryTransport;
use tidings::{Emitter, ErrorKind, OutboxMode, PolicyOverride, Producer};

use crate::scripted::{ScriptedTransport, numbers_of};
use crate::support::events::{Sequence, is_published};
use crate::support::murmur2::{neighbour_of, stranger_to};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::{eventually, until};
use crate::world::{LANES, producer_on};

/// Stores so many events of a key.
async fn store(producer: &Producer, sequence: &mut Sequence, count: usize) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let requests: Vec<_> = sequence.take(count).iter().map(|event| event.request().policy(always)).collect();
    for result in producer.emit_batch(requests).await {
        result.unwrap();
    }
}

fn first(count: u64) -> Vec<u64> {
    (1..=count).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_the_broker_refuses_is_an_error_of_its_emit_alone() {
    let transport = Arc::new(MemoryTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.refuse_key("bad");
    let error = producer.emit(Sequence::of("bad").next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RecordRejected);
    assert!(!error.is_retryable());
    assert!(is_published(&producer.emit(Sequence::of("good").next().request()).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_records_say_nothing_of_the_brokers_health() {
    let transport = Arc::new(MemoryTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.refuse_key("bad");
    let mut bad = Sequence::of("bad");
    for _ in 0..20 {
        assert_eq!(producer.emit(bad.next().request()).await.unwrap_err().kind(), ErrorKind::RecordRejected);
    }
    assert!(is_published(&producer.emit(Sequence::of("good").next().request()).await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_the_broker_refuses_holds_only_itself_and_drains_in_order_when_it_is_accepted() {
    let transport = Arc::new(MemoryTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.refuse_key("bad");
    let (neighbour, stranger) = (neighbour_of("bad", LANES), stranger_to("bad", LANES));
    let mut sequences = [Sequence::of("bad"), Sequence::of(&*neighbour), Sequence::of(&*stranger)];
    let _relay = RunningRelay::of(&producer);
    for _ in 0..10 {
        for sequence in &mut sequences {
            store(&producer, sequence, 2).await;
        }
    }
    for key in [&neighbour, &stranger] {
        until("the others have arrived", || numbers_of(&transport, key).len() == 20).await;
        assert_eq!(numbers_of(&transport, key), first(20));
    }
    assert!(numbers_of(&transport, "bad").is_empty());
    transport.accept_all();
    until("the held key has arrived", || numbers_of(&transport, "bad").len() == 20).await;
    assert_eq!(numbers_of(&transport, "bad"), first(20));
    let [mut bad, ..] = sequences;
    eventually("its lane is direct again", async || {
        is_published(&producer.emit(bad.next().request()).await.unwrap()).then_some(())
    })
    .await;
    let numbers = numbers_of(&transport, "bad");
    assert!(numbers.is_sorted(), "{numbers:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_fail_in_flight_are_sent_again_in_order() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    let mut sequence = Sequence::of("tenant-1");
    let _relay = RunningRelay::of(&producer);
    // Nothing follows the first record of a key before that has arrived.
    store(&producer, &mut sequence, 1).await;
    until("the first one has arrived", || transport.numbers_of("tenant-1").len() == 1).await;
    transport.hold("tenant-1");
    store(&producer, &mut sequence, 30).await;
    until("all others are in flight", || transport.held_count() == 30).await;
    transport.memory.take_down();
    transport.release();
    store(&producer, &mut sequence, 10).await;
    transport.memory.bring_back();
    until("all have arrived", || transport.numbers_of("tenant-1").len() == 41).await;
    assert_eq!(transport.numbers_of("tenant-1"), first(41));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_is_submitted_behind_one_of_its_key_that_failed_at_once() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    store(&producer, &mut Sequence::of("tenant-1"), 10).await;
    transport.fail_once("tenant-1");
    let _relay = RunningRelay::of(&producer);
    until("all have arrived", || transport.numbers_of("tenant-1").len() == 10).await;
    assert_eq!(transport.numbers_of("tenant-1"), first(10));
}
