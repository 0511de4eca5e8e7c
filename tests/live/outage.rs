//! The broker is stopped, or killed, while callers emit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::PgPool;
use tidings::{Emitter, EmitterExt, Receipt, Result};

use crate::private::{Private, shared_database_url};
use crate::support::callers::{Callers, Way};
use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::PATIENCE;
use crate::world::{World, world};

/// What no emit may take longer than, whatever the broker does: the direct timeout of two seconds, an insert into the
/// outbox, and room for a loaded machine.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

const CALLERS: usize = 16;

/// Most events by `emit`, some in a transaction, and some in one that is rolled back.
struct Mixed(PgPool);

impl Way for Mixed {
    async fn emit(&self, emitter: &Arc<dyn Emitter>, event: &Numbered) -> Result<Receipt> {
        match event.number % 10 {
            3 => {
                let mut tx = self.0.begin().await.unwrap();
                let receipt = emitter.emit_in(&mut tx, event.request()).await?;
                tx.commit().await.unwrap();
                Ok(receipt)
            }
            7 => {
                // An event that nobody may ever see, of the same key and number under another id.
                let undone = Numbered { id: uuid::Uuid::new_v4().to_string(), ..event.clone() };
                let mut tx = self.0.begin().await.unwrap();
                emitter.emit_in(&mut tx, undone.request()).await?;
                tx.rollback().await.unwrap();
                emitter.emit(event.request()).await
            }
            _ => emitter.emit(event.request()).await,
        }
    }
}

/// Has callers emit through an outage, and checks every promise afterwards.
async fn survive(name: &str, kafka: &mut Private, outage: impl AsyncFnOnce(&mut Private, &Callers)) {
    let world = World::on(kafka.brokers().to_owned(), &shared_database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer);
    let mut callers = Callers::start(CALLERS, &emitter, Mixed(world.pool()));
    callers.publish_each(5).await;
    outage(kafka, &callers).await;
    let back = Instant::now();
    // All lanes are drained, and direct again.
    callers.publish_each(5).await;
    let direct_after = back.elapsed();
    callers.stop().await;
    let longest = callers.tally.longest_wait();
    let verdict = world.verdict(&callers.ledger).await;
    let stored = callers.tally.stored.load(Ordering::SeqCst);
    let accepted = callers.ledger.accepted_count();
    println!(
        "{name}: {accepted} accepted, {stored} of them stored; longest wait {longest:?}; direct again {direct_after:?} after \
         the broker; {} duplicates",
        verdict.duplicates
    );
    assert_eq!(callers.tally.failed.load(Ordering::SeqCst), 0, "with an outbox no emit fails");
    verdict.assert_kept();
    assert!(longest < LONGEST_WAIT, "a caller waited {longest:?}");
    relay.stop().await;
    emitter.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_promises_hold_while_the_broker_hangs() {
    /// Three times the direct timeout. How long it hangs decides nothing.
    const HANGS: Duration = Duration::from_secs(6);
    let _services = world!();
    let mut kafka = Private::kafka().await;
    survive("a broker that hangs", &mut kafka, async |kafka, callers| {
        kafka.freeze();
        callers.store(CALLERS * 5).await;
        tokio::time::sleep(HANGS).await;
        kafka.thaw();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_promises_hold_while_the_broker_is_killed_and_started_again() {
    let _services = world!();
    let mut kafka = Private::kafka().await;
    survive("a broker that is killed", &mut kafka, async |kafka, callers| {
        kafka.kill();
        callers.store(CALLERS * 5).await;
        kafka.bring_up().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_keep_their_order_while_the_broker_hangs_and_while_it_is_killed() {
    /// Twice the direct timeout.
    const HANGS: Duration = Duration::from_secs(4);
    const KEYS: usize = 20;
    const OF_EACH_KEY: usize = 25;
    let _services = world!();
    let mut kafka = Private::kafka().await;
    let world = World::on(kafka.brokers().to_owned(), &shared_database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let watched = producer.clone();
    let relay = RunningRelay::of(&producer);
    let (ledger, stop, published) =
        (Arc::new(Ledger::default()), Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let emitting = tokio::spawn({
        let (ledger, stop, published) = (Arc::clone(&ledger), Arc::clone(&stop), Arc::clone(&published));
        let mut sequences: Vec<_> = (0..KEYS).map(|key| Sequence::of(format!("tenant-{key}"))).collect();
        async move {
            while !stop.load(Ordering::SeqCst) {
                let events: Vec<_> = (0..OF_EACH_KEY)
                    .flat_map(|_| sequences.iter_mut().map(Sequence::next).collect::<Vec<_>>())
                    .collect();
                let results = producer.emit_batch(events.iter().map(Numbered::request).collect()).await;
                for (event, result) in events.into_iter().zip(results) {
                    assert!(result.is_ok(), "with an outbox no emit fails: {result:?}");
                    if is_published(result.as_ref().unwrap()) {
                        published.fetch_add(1, Ordering::SeqCst);
                    }
                    ledger.enter(event, &result);
                }
            }
        }
    });
    let more = async || {
        let (before, start) = (published.load(Ordering::SeqCst), Instant::now());
        while published.load(Ordering::SeqCst) <= before + 1_000 {
            assert!(start.elapsed() < PATIENCE, "batches do not go direct: {:?}", watched.health().await);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    more().await;
    kafka.freeze();
    tokio::time::sleep(HANGS).await;
    kafka.thaw();
    more().await;
    kafka.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    kafka.bring_up().await;
    more().await;
    stop.store(true, Ordering::SeqCst);
    emitting.await.unwrap();
    let verdict = world.verdict(&ledger).await;
    println!("batches through outages: {} accepted, {} duplicates", ledger.accepted_count(), verdict.duplicates);
    verdict.assert_kept();
    relay.stop().await;
}
