//! Emits whose futures are dropped at any point, while the broker comes and goes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::support::dropping::{Database, DroppingCallers};
use crate::support::events::Ledger;
use crate::support::relaying::RunningRelay;
use crate::world::{World, begin};

const FOR: Duration = Duration::from_secs(30);
const CALLERS: u64 = 12;

impl Database for SqlitePool {
    type Tx = Transaction<'static, Sqlite>;

    async fn begin(&self) -> Self::Tx {
        begin(self).await
    }

    async fn end(&self, tx: Self::Tx, commits: bool) {
        if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
}

/// Goes from fault to fault for a while, and then lets the broker be.
///
/// No errors of single requests: the mock broker does not check the sequence numbers of an idempotent client, which takes a
/// request for written when a later one is.
async fn disturb(world: &World) {
    let (mut chance, end) = (Rng::with_seed(99), Instant::now() + FOR);
    let pause = |chance: &mut Rng, most| Duration::from_millis(chance.u64(100..most));
    while Instant::now() < end {
        if chance.bool() {
            world.broker_down();
            tokio::time::sleep(pause(&mut chance, 2_000)).await;
            world.broker_up();
        } else {
            world.slow_broker(pause(&mut chance, 800));
            tokio::time::sleep(pause(&mut chance, 1_500)).await;
            world.slow_broker(Duration::ZERO);
        }
        tokio::time::sleep(pause(&mut chance, 1_500)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_that_are_dropped_anywhere_lose_nothing_that_was_accepted_and_reorder_nothing() {
    let world = World::new().await;
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let ledger = Arc::new(Ledger::default());
    let callers = DroppingCallers::start(CALLERS, &producer, &world.pool(), &ledger);
    disturb(&world).await;
    let dropped = callers.stop().await;
    let verdict = world.verdict(&ledger).await;
    println!("{} accepted, {dropped} dropped, {} duplicates", ledger.accepted_count(), verdict.duplicates);
    assert!(dropped > 100, "{dropped} were dropped");
    verdict.assert_kept();
    relay.stop().await;
}
