//! Emits whose futures are dropped at any point, while a real broker hangs and dies.

use std::sync::Arc;
use std::time::Duration;

use sqlx::{PgPool, Postgres, Transaction};

use crate::private::{Private, shared_database_url};
use crate::support::dropping::{Database, DroppingCallers};
use crate::support::events::Ledger;
use crate::support::relaying::RunningRelay;
use crate::world::{World, world};

impl Database for PgPool {
    type Tx = Transaction<'static, Postgres>;

    async fn begin(&self) -> Self::Tx {
        self.begin().await.unwrap()
    }

    async fn end(&self, tx: Self::Tx, commits: bool) {
        if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn emits_that_are_dropped_anywhere_lose_nothing_while_the_broker_hangs_and_dies() {
    const CALLERS: u64 = 12;
    let _services = world!();
    let mut kafka = Private::kafka().await;
    let world = World::on(kafka.brokers().to_owned(), &shared_database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let ledger = Arc::new(Ledger::default());
    let callers = DroppingCallers::start(CALLERS, &producer, &world.pool(), &ledger);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.freeze();
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.thaw();
    }
    kafka.kill();
    tokio::time::sleep(Duration::from_secs(1)).await;
    kafka.bring_up().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let dropped = callers.stop().await;
    let verdict = world.verdict(&ledger).await;
    println!("{} accepted, {dropped} dropped, {} duplicates", ledger.accepted_count(), verdict.duplicates);
    assert!(dropped > 100, "{dropped} were dropped");
    verdict.assert_kept();
    relay.stop().await;
}
