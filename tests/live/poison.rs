//! Events that the topic refuses for what they are.

use std::time::Duration;

use sqlx::PgPool;
use tidings::outbox::{Command, Outbox, Progress};
use tidings::wire::{DEAD_LETTER_PREFIX, DeadLetter};
use tidings::{Emitter, OutboxMode, PolicyOverride, Producer};

use crate::broker::{large, take_small_records_alone};
use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence};
use crate::support::murmur2::neighbour_of;
use crate::support::relaying::RunningRelay;
use crate::support::topic::{self, alter};
use crate::support::waiting::eventually;
use crate::world::{LANES, World, world};

/// The number of held events, of attempts, and the error of the one parked key, if there is one.
async fn parked(pool: &PgPool) -> Option<(i64, i32, String)> {
    let select = "select (select count(*) from tidings.held), attempts, error_kind from tidings.parked";
    sqlx::query_as(select).fetch_optional(pool).await.unwrap()
}

/// An event that the topic refuses, so many of its key behind it, and some of another key of its lane.
struct Scene {
    world: World,
    producer: Producer,
    refused: Numbered,
    behind: Ledger,
    other: Ledger,
}

impl Scene {
    async fn with(world: World, behind: usize, settings: &[(&str, &str)]) -> Self {
        // The limit that the topic is given is one of batches, too: one of many small events would be refused as a whole.
        let settings = [&[("STREAMING_BATCH_MAX_BYTES", "1024")], settings].concat();
        let producer = world.producer_with(&settings).await;
        take_small_records_alone(&world).await;
        let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
        let (mut stuck, mut free) = (Sequence::of("tenant-1"), Sequence::of(neighbour_of("tenant-1", LANES)));
        let refused = stuck.next();
        producer.emit(large(&refused).policy(always)).await.unwrap();
        let scene = Self { world, producer, refused, behind: Ledger::default(), other: Ledger::default() };
        let relay = RunningRelay::of(&scene.producer);
        let pool = scene.world.pool();
        eventually("the key is parked", async || parked(&pool).await.map(drop)).await;
        relay.stop().await;
        for events in stuck.take(behind).chunks(500) {
            let requests = events.iter().map(|event| event.request().policy(always)).collect();
            assert!(scene.producer.emit_batch(requests).await.iter().all(Result::is_ok));
            scene.behind.accept_all(events.iter().cloned());
        }
        for event in free.take(20) {
            scene.producer.emit(event.request().policy(always)).await.unwrap();
            scene.other.accept(event);
        }
        scene
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_key_blocks_no_other_however_many_events_it_has() {
    /// More than the relay keeps in memory.
    const BEHIND: usize = 8_000;
    let world = world!();
    let scene = Scene::with(world, BEHIND, &[]).await;
    let (world, pool) = (&scene.world, scene.world.pool());
    let relay = RunningRelay::of(&scene.producer);
    world.records_with(scene.other.ids()).await;
    eventually("all of the key are held", async || {
        (parked(&pool).await?.0 == i64::try_from(BEHIND).unwrap() + 1).then_some(())
    })
    .await;
    let ids: Vec<_> = world.records_now().await.iter().map(|record| record.id()).collect();
    assert_eq!(ids.len(), scene.other.accepted_count(), "nothing of the parked key is on the topic");
    // Its owner goes, and the next one has to know.
    relay.stop().await;
    let _relay = RunningRelay::of(&scene.producer);
    assert!(parked(&pool).await.unwrap().2 == "too_large");
    alter(&world.brokers, &world.topic, "max.message.bytes", "100000").await;
    world.arrived(&scene.refused.id).await;
    let records = world.records_with(scene.behind.ids()).await;
    // With the one that was refused, which came first.
    let all = Ledger::default();
    all.accept(scene.refused.clone());
    all.accept_all(scene.behind.accepted());
    let of_key: Vec<_> = records.into_iter().filter(|record| record.key == b"tenant-1").collect();
    all.check(&of_key).assert_kept();
    eventually("the key is free", async || parked(&pool).await.is_none().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_policy_sends_a_poisonous_event_to_its_dead_letter_topic_and_its_key_goes_on() {
    let world = world!();
    let dead_letters = format!("{}.dlq", world.topic);
    topic::create_with(&world.brokers, &dead_letters, 1, &[]).await;
    let settings = [("STREAMING_EVENT_POLICIES", "order.changed.poison=dead_letter")];
    let scene = Scene::with(world, 100, &settings).await;
    let _relay = RunningRelay::of(&scene.producer);
    let world = &scene.world;
    world.records_with(scene.behind.ids()).await;
    let dead = topic::read_until(&world.brokers, &dead_letters, [scene.refused.id.clone()].into()).await;
    assert_eq!(dead.len(), 1);
    let headers = dead[0].headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
    let letter = DeadLetter::read(headers, DEAD_LETTER_PREFIX).unwrap();
    assert_eq!((letter.source_topic, &*letter.error_class, letter.retry_count), (world.topic.clone(), "too_large", 2));
    let of_key = world.records_now().await.into_iter().filter(|record| record.key == b"tenant-1").collect::<Vec<_>>();
    scene.behind.check(&of_key).assert_kept();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_was_obeyed_in_vain_is_written_down_together_with_the_next_failure() {
    let Scene { world, .. } = Scene::with(world!(), 0, &[]).await;
    sqlx::query("update tidings.parked set command = 'resume'").execute(&world.pool()).await.unwrap();
    let outbox = world.outbox();
    let leased = outbox.lease(uuid::Uuid::now_v7(), Duration::from_secs(60), 0).await.unwrap();
    let (leases, life) = (leased.leases, leased.life);
    let lanes: Vec<_> = leases.iter().map(|lease| lease.lane).collect();
    let parked = async || outbox.parked(&lanes).await.unwrap().pop().unwrap();
    let (lane, mut key) = parked().await;
    assert_eq!((key.attempts, key.command), (1, Some(Command::Resume)));
    key.attempts = 2;
    let mut progress = Progress::default();
    progress.epoch = leases.iter().find(|lease| lease.lane == lane).unwrap().epoch;
    (progress.lane, progress.life, progress.save) = (lane, life, 1);
    progress.obeyed.push((key.key.clone(), Command::Resume));
    progress.parked.push(key);
    assert_eq!(outbox.settle(&[progress.clone()]).await.unwrap().lanes, [lane]);
    let (_, key) = parked().await;
    assert_eq!((key.attempts, key.command), (2, None));

    // One that was given since is not the one that was obeyed, whether or not the key is written down as well.
    for is_parked_again in [true, false] {
        sqlx::query("update tidings.parked set command = 'skip'").execute(&world.pool()).await.unwrap();
        if !is_parked_again {
            progress.parked.clear();
        }
        progress.save += 1;
        assert_eq!(outbox.settle(&[progress.clone()]).await.unwrap().lanes, [lane]);
        assert_eq!(parked().await.1.command, Some(Command::Skip));
    }
    progress.obeyed[0].1 = Command::Skip;
    progress.save += 1;
    outbox.settle(&[progress]).await.unwrap();
    assert_eq!(parked().await.1.command, None);
}
