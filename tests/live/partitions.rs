//! A topic that gets more partitions while events go to it.

use std::sync::Arc;

use tidings::{Emitter, OutboxMode, Outcome, PolicyOverride};

use crate::log;
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::topic::grow;
use crate::support::waiting::eventually;
use crate::world::{PARTITIONS, World, world};

/// The warnings about the partitions of this world's topic.
fn warnings(world: &World) -> Vec<String> {
    let text = log::so_far();
    let of_topic = format!("topic=\"{}\"", world.topic);
    let warned = text.lines().filter(|line| line.contains("WARN") && line.contains("number of partitions"));
    warned.filter(|line| line.contains(&of_topic)).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_partitions_lose_no_event_and_are_warned_of_once_as_they_part_a_key_in_two() {
    log::watch();
    let world = world!();
    // Else the client hears of them within five minutes.
    let soon = ("STREAMING_KAFKA_PROPERTIES", "topic.metadata.refresh.interval.ms=500");
    let producer = world.producer_with(&[soon]).await;
    let _relay = RunningRelay::of(&producer);
    let emitter: Arc<dyn Emitter> = Arc::new(producer.clone());
    let ledger = Ledger::default();
    let mut sequences: Vec<_> = (0..60).map(|key| Sequence::of(format!("tenant-{key}"))).collect();
    let mut emit_all = async || {
        let mut partitions = Vec::new();
        for sequence in &mut sequences {
            if let Outcome::Published { partition, .. } = ledger.emit(&emitter, sequence.next()).await.unwrap().outcome
            {
                partitions.push(partition.unsigned_abs());
            }
        }
        partitions
    };
    assert!(emit_all().await.iter().all(|partition| *partition < PARTITIONS));
    assert_eq!(warnings(&world), [""; 0]);
    grow(&world.brokers, &world.topic, 2 * usize::try_from(PARTITIONS).unwrap()).await;
    eventually("the new partitions are used", async || {
        emit_all().await.into_iter().any(|partition| partition >= PARTITIONS).then_some(())
    })
    .await;
    assert_eq!(warnings(&world).len(), 1, "{:?}", warnings(&world));
    // What looks at the topic later finds nothing new.
    emitter.health().await;
    emit_all().await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let stored = Sequence::of("tenant-100").next();
    emitter.emit(stored.request().policy(always)).await.unwrap();
    ledger.accept(stored);
    let verdict = world.verdict(&ledger).await;
    // A key's events are in two partitions now, and nobody can say in which order across them.
    assert!(verdict.lost.is_empty() && verdict.invented.is_empty(), "{verdict}");
    assert_eq!(warnings(&world).len(), 1, "{:?}", warnings(&world));
}
