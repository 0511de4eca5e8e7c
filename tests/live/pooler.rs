//! Services and relays behind PgBouncer in transaction mode, with fewer sessions than they have connections.

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, PostgresOutbox, Producer};

use crate::support::events::{Ledger, Sequence, catalog};
use crate::support::relaying::RunningRelay;
use crate::world::{logged, wanted, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_that_shares_sessions_all_is_as_without() {
    let world = world!(open_unmigrated);
    let Some([url]) = wanted("live::pooler", ["PGBOUNCER_URL"], "`scripts/services env`") else { return };
    let options = url.parse::<PgConnectOptions>().unwrap().database(&world.prefix);
    let outbox = || PostgresOutbox::with_pooler_options(options.clone());
    for migrated in futures_util::future::join_all((0..4).map(|_| async { outbox().migrate().await })).await {
        migrated.unwrap();
    }
    let build = async || Producer::builder(world.config(&[]), catalog()).with_outbox(outbox()).build().await.unwrap();
    let producers = [build().await, build().await, build().await];
    let _relays = producers.each_ref().map(RunningRelay::of);
    let own = PgPoolOptions::new().max_connections(8).connect_lazy_with(options.extra_float_digits(None));
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let ledger = Ledger::default();
    let emit = async |mut sequence: Sequence, number: usize| {
        for round in 0..20 {
            let (event, producer) = (sequence.next(), &producers[(number + round) % producers.len()]);
            if round % 2 == 0 {
                producer.emit(event.request().policy(always)).await.unwrap();
            } else {
                let mut tx = own.begin().await.unwrap();
                producer.emit_in(&mut tx, event.request()).await.unwrap();
                if round % 4 == 3 {
                    tx.rollback().await.unwrap();
                    continue;
                }
                tx.commit().await.unwrap();
            }
            ledger.accept(event);
        }
    };
    let emits = (0..8).map(|number| emit(Sequence::of(format!("tenant-{number}")), number));
    futures_util::future::join_all(emits).await;
    world.verdict(&ledger).await.assert_kept();
    assert_eq!(logged(&world.pool()).await, 8 * 15);
    let left = "select count(*) from pg_prepared_statements";
    assert_eq!(sqlx::raw_sql(left).fetch_one(&own).await.map(|row| sqlx::Row::get::<i64, _>(&row, 0)).unwrap(), 0);
}
