//! A SQLite file that somebody else keeps, or that has other tables than it had.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tidings::{Emitter, Error, ErrorKind, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{Ledger, Sequence, is_published};
use crate::support::murmur2::stranger_to;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, World, begin};

/// What a caller waits for the file at most, with room for a loaded machine.
const LONGEST_WAIT: Duration = Duration::from_secs(9);

/// A service whose events of one key are stored, and of another go direct.
struct Scene {
    world: World,
    producer: Producer,
    relay: RunningRelay,
    ledger: Ledger,
    stored: Sequence,
    direct: Sequence,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new().await;
        let producer = world.producer_with(&[("STREAMING_DIRECT_TIMEOUT_MS", "10000")]).await;
        let (relay, direct) = (RunningRelay::of(&producer), Sequence::of(stranger_to("tenant-1", LANES)));
        let (ledger, stored) = (Ledger::default(), Sequence::of("tenant-1"));
        let mut scene = Self { world, producer, relay, ledger, stored, direct };
        scene.store().await.unwrap();
        scene.publish().await;
        scene
    }

    /// Emits an event that has to be stored.
    async fn store(&mut self) -> Result<(), Error> {
        let event = self.stored.next();
        let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
        let result = self.producer.emit(event.request().policy(always)).await;
        self.ledger.enter(event, &result);
        result.map(drop)
    }

    /// Emits an event that goes direct, whatever the file does.
    async fn publish(&mut self) {
        let receipt = self.ledger.emit(&self.producer, self.direct.next()).await.unwrap();
        assert!(is_published(&receipt), "{receipt:?}");
    }

    /// While the file is sick: an event that needs it fails so, without a doubt and in time, and others go by.
    async fn fails(&mut self, kind: ErrorKind) {
        let start = Instant::now();
        let error = self.store().await.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (kind, false), "{error:?}");
        assert!(start.elapsed() < LONGEST_WAIT, "it took {:?}", start.elapsed());
        self.publish().await;
    }

    /// The file is well again, and nobody has done anything else about it.
    async fn recovers(mut self) {
        eventually("an event is stored", async || self.store().await.ok()).await;
        self.publish().await;
        self.world.verdict(&self.ledger).await.assert_kept();
        assert!(self.relay.is_running());
        self.relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_somebody_writes_for_long_costs_its_time_and_no_event() {
    let mut scene = Scene::new().await;
    let other = begin(&scene.world.pool()).await;
    scene.fails(ErrorKind::Storage).await;
    // More than there are connections.
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let events = (0..12).map(|key| Sequence::of(format!("other-{key}")).next());
    let emits = events.map(async |event| scene.producer.emit(event.request().policy(always)).await);
    for emitted in join_all(emits).await {
        let error = emitted.unwrap_err();
        assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Storage, false), "{error:?}");
    }
    drop(other);
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_turn_into_those_of_another_version_fail_as_such_until_they_are_ours_again() {
    for (break_it, mend_it) in [
        (
            "alter table tidings_outbox rename column definition_key to definition",
            "alter table tidings_outbox rename column definition to definition_key",
        ),
        ("alter table tidings_outbox rename to log", "alter table log rename to tidings_outbox"),
    ] {
        let mut scene = Scene::new().await;
        let pool = scene.world.pool();
        sqlx::query(break_it).execute(&pool).await.unwrap();
        scene.fails(ErrorKind::Schema).await;
        sqlx::query(mend_it).execute(&pool).await.unwrap();
        scene.recovers().await;
    }
}
