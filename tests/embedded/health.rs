//! What health tells of broker, outbox and relays.

use std::sync::Arc;
use std::time::Duration;

use tidings::admin::{Actor, Admin};
use tidings::health::{Health, ReasonKind, Status};
use tidings::transport::{OnDelivery, QueueFull, Record, Transport};
use tidings::{BoxFuture, BreakerState, Config, Emitter, Error, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{EVENT, Sequence, catalog, stored_at};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::World;

/// Waits until the producer is well again.
async fn healthy(producer: &Producer) -> Health {
    eventually("all is well", async || Some(producer.health().await).filter(|health| health.status == Status::Healthy))
        .await
}

fn kinds(health: &Health) -> Vec<ReasonKind> {
    health.reasons.iter().map(|reason| reason.kind).collect()
}

async fn store(producer: &Producer, key: &str) -> (u16, i64) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    stored_at(&producer.emit(Sequence::of(key).next().request().policy(always)).await.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_down_degrades_who_has_an_outbox_and_takes_down_who_has_none() {
    let world = World::new().await;
    let (with, without) = (world.producer().await, world.producer_without_outbox(&[]).await);
    for producer in [&with, &without] {
        let health = healthy(producer).await;
        let broker = health.broker.unwrap();
        assert!(broker.answered_in.is_some() && broker.breaker == BreakerState::Closed);
    }
    world.broker_down();
    let health = with.health().await;
    assert!(health.status == Status::Degraded && health.has(ReasonKind::BrokerUnreachable), "{health:?}");
    assert!(health.is_ready() && health.is_live());
    let health = without.health().await;
    assert!(health.status == Status::Down && health.has(ReasonKind::BrokerUnreachable), "{health:?}");
    assert!(!health.is_ready() && health.is_live(), "no restart mends a broker");
    assert!(health.broker.unwrap().answered_in.is_none() && health.outbox.is_none());
    world.broker_up();
    healthy(&with).await;
    healthy(&without).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_nobody_relays_degrade_and_a_relay_mends_that() {
    let world = World::new().await;
    let producer = world.producer().await;
    let outbox = healthy(&producer).await.outbox.unwrap();
    assert_eq!((outbox.oldest_waiting, outbox.waiting), (None, Some(0)));
    assert_eq!((outbox.relays, outbox.spilled_lanes), (Some(0), 0));
    store(&producer, "tenant-1").await;
    let health = producer.health().await;
    assert_eq!((health.status, kinds(&health)), (Status::Degraded, vec![ReasonKind::NoRelay]));
    let outbox = health.outbox.unwrap();
    assert!(outbox.oldest_waiting.is_some() && outbox.waiting == Some(1));
    assert_eq!((outbox.lanes_without_relay, outbox.spilled_lanes), (Some(1), 1));
    let relay = health.relay.unwrap();
    assert!(!relay.running && relay.last_progress.is_none());

    let running = RunningRelay::of(&producer);
    let health = eventually("nothing waits any more", async || {
        Some(healthy(&producer).await).filter(|health| health.outbox.as_ref().unwrap().oldest_waiting.is_none())
    })
    .await;
    assert_eq!(health.outbox.unwrap().relays, Some(1));
    assert!(health.relay.unwrap().running);
    eventually("the relay has got somewhere", async || producer.health().await.relay.unwrap().last_progress).await;
    running.stop().await;
    assert!(!producer.health().await.relay.unwrap().running);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_in_a_lane_that_no_relay_holds_degrade() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let actor = Actor::new("ana", "a test").unwrap();
    Admin::of(&world.outbox()).pause_lanes(None, &actor).await.unwrap();
    // Paused and released, they are nobody's.
    let select = "select count(*) from tidings_lane where owner is not null";
    let pool = world.pool();
    let is_free = async || sqlx::query_scalar::<_, i64>(select).fetch_one(&pool).await.unwrap() == 0;
    eventually("the relay has released the lanes", async || is_free().await.then_some(())).await;
    assert_eq!(producer.health().await.status, Status::Healthy, "nothing waits there");
    store(&producer, "tenant-1").await;
    let health = producer.health().await;
    assert_eq!((health.status, kinds(&health)), (Status::Degraded, vec![ReasonKind::LanesWithoutRelay]));
    Admin::of(&world.outbox()).resume_lanes(None, &actor).await.unwrap();
    healthy(&producer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_age_of_a_backlog_is_that_of_the_oldest_event_that_is_not_delivered() {
    let world = World::new().await;
    let (producer, pool) = (world.producer().await, world.pool());
    let backdate = async |(lane, number): (u16, i64), seconds: i64| {
        let update = "update tidings_outbox set created_at = created_at - ? * 1000 where lane = ? and seq = ?";
        sqlx::query(update).bind(seconds).bind(lane).bind(number).execute(&pool).await.unwrap();
    };
    let oldest = async || producer.health().await.outbox.unwrap().oldest_waiting.unwrap().as_secs();
    // What is delivered counts no more, however old it is.
    let delivered = store(&producer, "tenant-1").await;
    let relay = RunningRelay::of(&producer);
    world.drained().await;
    relay.stop().await;
    backdate(delivered, 100_000).await;
    let waiting = store(&producer, "tenant-1").await;
    store(&producer, "tenant-1").await;
    backdate(waiting, 30).await;
    assert!((30..60).contains(&oldest().await));
    assert_eq!(kinds(&producer.health().await), [ReasonKind::NoRelay], "it is not old yet");
    backdate(store(&producer, "another").await, 1_000).await;
    assert!((1_000..1_060).contains(&oldest().await));
    assert_eq!(kinds(&producer.health().await), [ReasonKind::NoRelay, ReasonKind::OldBacklog]);
    // A parked key's are settled in the cursor, and wait all the same.
    let settle = "update tidings_lane set published = '{[1,3)}' where lane = ?";
    sqlx::query(settle).bind(waiting.0).execute(&pool).await.unwrap();
    let hold = "insert into tidings_held (lane, record_key, seq) values (?, 'tenant-1', ?)";
    sqlx::query(hold).bind(waiting.0).bind(waiting.1).execute(&pool).await.unwrap();
    backdate(waiting, 5_000).await;
    assert!((5_000..5_100).contains(&oldest().await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_fails_degrades_and_takes_down_who_must_store() {
    let world = World::new().await;
    let (producer, config) = (world.producer().await, |policy: &str| {
        let policies = format!("{EVENT}.outbox={policy}");
        world.config(&[("STREAMING_EVENT_POLICIES", &policies)])
    });
    let builder = |config: Config| Producer::builder(config, catalog()).with_outbox(world.outbox());
    let always = builder(config("always")).build().await.unwrap();
    let never = builder(config("never")).build().await.unwrap();
    sqlx::query("alter table tidings_lane rename to gone").execute(&world.pool()).await.unwrap();
    for (producer, status) in [(&producer, Status::Degraded), (&never, Status::Degraded), (&always, Status::Down)] {
        let health = producer.health().await;
        assert_eq!((health.status, kinds(&health)), (status, vec![ReasonKind::OutboxFailed]));
        assert!(health.is_live() && health.outbox.unwrap().answered_in.is_none());
    }
    world.broker_down();
    let health = producer.health().await;
    assert_eq!(health.status, Status::Down, "{health:?}");
    assert!(health.is_live());
}

/// A client that broke down, in a producer that can make no other.
#[derive(Debug)]
struct Broken;

impl Transport for Broken {
    fn submit(&self, _: &Record, _: OnDelivery) -> Result<(), QueueFull> {
        unimplemented!("nobody emits")
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<(), Error>> {
        // The only way from here to an error of this kind.
        let mock = tidings::testing::MockEmitter::new(catalog());
        mock.fail_with(Some(tidings::ErrorKind::ClientFailed));
        Box::pin(async move { mock.emit(Sequence::of("t").next().request()).await.map(drop) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_client_that_failed_for_good_and_can_not_be_replaced_asks_for_a_restart() {
    let (producer, _directory) = crate::world::producer_on(Arc::new(Broken)).await;
    let health = producer.health().await;
    assert!(!health.is_live() && health.has(ReasonKind::ClientFailed), "{health:?}");
    assert!(health.is_ready(), "events are stored meanwhile");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_and_database_are_asked_at_once_and_within_bounds() {
    let world = World::new().await;
    let producer = world.producer().await;
    world.broker_down();
    let mut lock = world.pool().acquire().await.unwrap();
    sqlx::query("begin immediate").execute(&mut *lock).await.unwrap();
    let begun = std::time::Instant::now();
    let health = producer.health().await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(health.status, Status::Degraded, "a writer keeps no one from looking: {health:?}");
}
