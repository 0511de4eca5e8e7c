//! More at once than there is room for.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tidings::{Emitter, Error, ErrorKind};
use tokio::task::JoinSet;

use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::world::World;

const EMITS: usize = 10_000;

/// Few, so that their lanes and partitions are shared by many.
const KEYS: usize = 100;

/// A queue for one event in a hundred.
const SMALL_QUEUE: (&str, &str) = ("STREAMING_MAX_BUFFERED_RECORDS", "100");

/// Emits all at once, and says what those that failed have failed with, and what took longest.
async fn emit_all(
    emitter: &Arc<dyn Emitter>,
    ledger: &Arc<Ledger>,
    timeout: Duration,
) -> (Vec<(Numbered, Error)>, Duration) {
    let mut emits = JoinSet::new();
    for number in 0..EMITS {
        let (emitter, ledger) = (Arc::clone(emitter), Arc::clone(ledger));
        // All of one number: events of a key that are emitted at once have no order.
        let event = Sequence::of(format!("tenant-{}-{}", number % KEYS, number / KEYS)).next();
        emits.spawn(async move {
            let start = Instant::now();
            let result = emitter.emit(event.request().timeout(timeout)).await;
            ledger.enter(event.clone(), &result);
            (result.err().map(|error| (event, error)), start.elapsed())
        });
    }
    let results = emits.join_all().await;
    let longest = results.iter().map(|(_, took)| *took).max().unwrap();
    (results.into_iter().filter_map(|(failed, _)| failed).collect(), longest)
}

/// How many have failed with each kind, and whether they may be there all the same.
fn counted(failed: &[(Numbered, Error)]) -> BTreeMap<(&'static str, bool), usize> {
    let mut counts = BTreeMap::new();
    for (_, error) in failed {
        *counts.entry((error.kind().as_str(), error.is_ambiguous())).or_default() += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_emits_at_once_through_a_full_queue_all_arrive_once_if_there_is_time() {
    let world = World::new().await;
    let producer = world.producer_without_outbox(&[SMALL_QUEUE, ("STREAMING_DIRECT_TIMEOUT_MS", "60000")]).await;
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let ledger = Arc::new(Ledger::default());
    let (failed, longest) = emit_all(&emitter, &ledger, Duration::from_secs(60)).await;
    println!("{EMITS} emits, the longest took {longest:?}");
    assert!(failed.is_empty(), "{:?}", failed.first());
    let verdict = world.verdict(&ledger).await;
    verdict.assert_kept();
    assert_eq!(verdict.duplicates, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_emits_at_once_that_find_no_room_in_time_say_so_and_are_nowhere_unless_they_say_they_may_be() {
    const TIMEOUT: Duration = Duration::from_secs(3);
    let world = World::new().await;
    world.slow_broker(Duration::from_millis(300));
    let settings = [SMALL_QUEUE, ("STREAMING_DIRECT_TIMEOUT_MS", "2000"), ("STREAMING_CB_MIN_REQUESTS", "1000000")];
    let emitter: Arc<dyn Emitter> = Arc::new(world.producer_without_outbox(&settings).await);
    let ledger = Arc::new(Ledger::default());
    let (failed, longest) = emit_all(&emitter, &ledger, TIMEOUT).await;
    assert!(longest < TIMEOUT + Duration::from_secs(3), "an emit took {longest:?}");
    for (_, error) in &failed {
        let expected =
            [ErrorKind::Overloaded, ErrorKind::Timeout, ErrorKind::CircuitOpen, ErrorKind::BrokerUnavailable];
        assert!(expected.contains(&error.kind()) && error.is_retryable(), "{error:?}");
    }
    println!("{} accepted, {:?}, the longest took {longest:?}", ledger.accepted_count(), counted(&failed));
    assert!(!failed.is_empty(), "the queue was never full");
    world.slow_broker(Duration::ZERO);
    emitter.close().await.unwrap();
    world.verdict(&ledger).await.assert_kept();
    let there: HashSet<_> = world.records_now().await.iter().map(|record| record.id()).collect();
    let unsent = failed.iter().filter(|(_, error)| !error.is_ambiguous());
    assert_eq!(unsent.filter(|(event, _)| there.contains(&event.id)).count(), 0, "they were said not to be there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_emits_at_once_into_an_outage_are_stored_or_refused_and_what_was_accepted_arrives() {
    let world = World::new().await;
    let producer = world.producer_with(&[SMALL_QUEUE]).await;
    world.broker_down();
    let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
    let ledger = Arc::new(Ledger::default());
    let (failed, longest) = emit_all(&emitter, &ledger, Duration::from_secs(20)).await;
    println!("{} accepted, {:?}, the longest took {longest:?}", ledger.accepted_count(), counted(&failed));
    assert!(longest < Duration::from_secs(26), "an emit took {longest:?}");
    for (_, error) in &failed {
        let expected = [ErrorKind::Overloaded, ErrorKind::Timeout, ErrorKind::Storage];
        assert!(expected.contains(&error.kind()) && error.is_retryable(), "{error:?}");
    }
    world.broker_up();
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
}
