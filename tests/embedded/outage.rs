//! The broker goes away and comes back while callers emit.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tidings::Emitter;

use crate::support::callers::{Callers, Plainly};
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LONGEST_WAIT, World};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_accepted_through_outages_arrives_in_order_and_no_caller_waits_long() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let mut callers = Callers::start(16, &emitter, Plainly);
    callers.publish_each(5).await;
    for _ in 0..2 {
        world.broker_down();
        callers.store(150).await;
        world.broker_up();
        callers.publish_each(5).await;
    }
    callers.stop().await;
    let longest = callers.tally.longest_wait();
    let verdict = world.verdict(&callers.ledger).await;
    let accepted = callers.ledger.accepted_count();
    println!("outages: {accepted} accepted, longest wait {longest:?}, {} duplicates", verdict.duplicates);
    assert_eq!(callers.tally.failed.load(Ordering::SeqCst), 0, "with an outbox no emit fails");
    assert!(longest < LONGEST_WAIT, "a caller waited {longest:?}");
    verdict.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_from_the_start_costs_nothing_but_the_way() {
    let world = World::new().await;
    world.broker_down();
    let producer = world.producer().await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    for _ in 0..20 {
        let start = Instant::now();
        let receipt = ledger.emit(&producer, sequence.next()).await.unwrap();
        assert!(!is_published(&receipt));
        assert!(start.elapsed() < LONGEST_WAIT);
    }
    let _relay = RunningRelay::of(&producer);
    world.broker_up();
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_too_slow_for_the_direct_timeout_causes_duplicates_with_the_same_id_and_no_loss() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    eventually("an emit is direct", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    // Each publish times out at the caller and arrives all the same.
    world.slow_broker(Duration::from_secs(1));
    for _ in 0..10 {
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    world.slow_broker(Duration::ZERO);
    eventually("an emit is direct again", async || {
        is_published(&ledger.emit(&producer, sequence.next()).await.unwrap()).then_some(())
    })
    .await;
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert!(verdict.duplicates > 0, "an event that was stored because it timed out arrived twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_client_queue_costs_a_caller_no_more_than_a_broker_that_is_down() {
    let world = World::new().await;
    world.broker_down();
    let producer = world.producer_with(&[("STREAMING_MAX_BUFFERED_RECORDS", "2")]).await;
    let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
    let mut emits = tokio::task::JoinSet::new();
    let ledger = Arc::new(Ledger::default());
    for caller in 0..8 {
        let (emitter, ledger) = (Arc::clone(&emitter), Arc::clone(&ledger));
        emits.spawn(async move {
            let start = Instant::now();
            ledger.emit(&emitter, Sequence::of(format!("tenant-{caller}")).next()).await.unwrap();
            start.elapsed()
        });
    }
    let longest = emits.join_all().await.into_iter().max().unwrap();
    assert!(longest < LONGEST_WAIT, "a caller waited {longest:?}");
    let _relay = RunningRelay::of(&producer);
    world.broker_up();
    world.verdict(&ledger).await.assert_kept();
}
