//! Closing a producer, and emits that are given up.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use tidings::health::Health;
use tidings::{Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride, Tx};

use crate::scripted::ScriptedTransport;
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::until;
use crate::world::{World, begin, producer_on};

/// Polls a future once. Whether it is still pending.
async fn is_pending(mut future: std::pin::Pin<&mut impl Future>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_producer_refuses_every_emit_and_says_that_it_is_down() {
    let world = World::new().await;
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer().await);
    emitter.close().await.unwrap();
    emitter.close().await.unwrap();
    let request = || Sequence::of("tenant-1").next().request();
    assert_eq!(emitter.emit(request()).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(emitter.emit_in(&mut Tx::detached(), request()).await.unwrap_err().kind(), ErrorKind::Closed);
    let results = emitter.emit_batch(vec![request(), request()]).await;
    assert!(results.len() == 2 && results.iter().all(|r| r.as_ref().unwrap_err().kind() == ErrorKind::Closed));
    let health = emitter.health().await;
    assert_eq!(health, Health::closed());
    assert!(!health.is_ready() && health.is_live());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_the_emits_under_way() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold("tenant-1");
    let event = Sequence::of("tenant-1").next();
    let mut emit = pin!(producer.emit(event.request()));
    assert!(is_pending(emit.as_mut()).await);
    let mut close = pin!(producer.close());
    assert!(is_pending(close.as_mut()).await, "an emit is under way");
    transport.release();
    assert!(is_published(&emit.await.unwrap()));
    close.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_waits_for_an_emit_that_falls_back_to_the_outbox() {
    let world = World::new().await;
    let producer = world.producer().await;
    world.broker_down();
    let event = Sequence::of("tenant-1").next();
    let mut emit = pin!(producer.emit(event.request()));
    assert!(is_pending(emit.as_mut()).await);
    // What the client still holds does not count as lost, but close says that it could not be confirmed.
    let (receipt, closed) =
        tokio::join!(emit, async { world.producer_with(&[("STREAMING_CLOSE_TIMEOUT_S", "1")]).await.close().await });
    closed.unwrap();
    assert!(!is_published(&receipt.unwrap()));
    assert_eq!(crate::world::logged(&world.pool()).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_emit_that_is_given_up_in_flight_leaves_no_trace() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold("tenant-1");
    let mut sequence = Sequence::of("tenant-1");
    for event in sequence.take(5) {
        let mut emit = pin!(producer.emit(event.request()));
        assert!(is_pending(emit.as_mut()).await);
    }
    until("all are in flight", || transport.held_count() == 5).await;
    transport.release();
    for event in sequence.take(5) {
        assert!(is_published(&producer.emit(event.request()).await.unwrap()));
    }
    assert_eq!(transport.numbers_of("tenant-1"), (1..=10).collect::<Vec<_>>());
    // Were a given-up emit still counted, this would take the close timeout.
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_given_up_anywhere_break_no_later_ones() {
    let world = World::new().await;
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let relay = RunningRelay::of(&producer);
    for round in 0..30 {
        match round {
            8 => world.broker_down(),
            20 => world.broker_up(),
            _ => {}
        }
        // Given up after so many polls: before the send, in flight, in the insert.
        let event = sequence.next();
        {
            let mut emit = pin!(producer.emit(event.request()));
            for _ in 0..round % 4 {
                if !is_pending(emit.as_mut()).await {
                    break;
                }
                tokio::task::yield_now().await;
            }
        }
        ledger.doubt(event);
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    relay.stop().await;
    producer.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_given_up_at_any_point_leave_the_outbox_usable() {
    let world = World::new().await;
    let producer = world.producer().await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut sequence = Sequence::of("tenant-1");
    // More often than there are connections, so that one that was left unusable shows.
    for round in 0..80 {
        let event = sequence.next();
        {
            let mut emit = pin!(producer.emit(event.request().policy(always)));
            let mut polls = 0;
            // Polled at each of its wake-ups, and dropped after so many.
            poll_fn(|context| {
                polls += 1;
                let is_over = polls > round % 10 || emit.as_mut().poll(context).is_ready();
                if is_over { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
        let event = sequence.next();
        producer.emit(event.request().policy(always)).await.unwrap();
    }
    let ledger = Ledger::default();
    let event = sequence.next();
    let mut tx = begin(&world.pool()).await;
    producer.emit_in(&mut tx, event.request()).await.unwrap();
    tx.commit().await.unwrap();
    ledger.accept(event);
    let _relay = RunningRelay::of(&producer);
    assert!(world.verdict(&ledger).await.lost.is_empty());
}
