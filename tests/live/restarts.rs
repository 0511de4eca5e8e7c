//! The database is killed, or set back to what it was, while a relay works.

use futures_util::future::join_all;
use tidings::outbox::Outbox;
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, PostgresOutbox, Producer};

use crate::private::{Private, copy, shared_brokers};
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, emit_until_direct, settled, world};

const KEYS: usize = 20;

/// Has each key store so many events.
async fn store(producer: &Producer, ledger: &Ledger, sequences: &mut [Sequence], each: usize) {
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    for sequence in sequences {
        let events = sequence.take(each);
        let requests = events.iter().map(|event| event.request().policy(always)).collect();
        let results = producer.emit_batch(requests).await;
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        ledger.accept_all(events);
    }
}

fn sequences() -> Vec<Sequence> {
    (0..KEYS).map(|n| Sequence::of(format!("tenant-{n}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_while_the_relay_drains_loses_and_reorders_nothing() {
    let _services = world!();
    let mut postgres = Private::postgres().await;
    let world = World::on(shared_brokers(), postgres.database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let (ledger, mut sequences) = (Ledger::default(), sequences());
    store(&producer, &ledger, &mut sequences, 1_000).await;
    // One that never commits draws a number, too.
    let undone = sequences[0].next();
    let mut tx = world.pool().begin().await.unwrap();
    producer.emit_in(&mut tx, undone.request()).await.unwrap();
    let relay = RunningRelay::of(&producer);
    for killed in 1..=2 {
        let pool = world.pool();
        eventually("the relay has begun to drain", async || (settled(&pool).await > killed * 4_000).then_some(()))
            .await;
        postgres.kill();
        postgres.bring_up().await;
    }
    drop(tx);
    world.verdict(&ledger).await.assert_kept();
    store(&producer, &ledger, &mut sequences, 1).await;
    world.verdict(&ledger).await.assert_kept();
    relay.stop().await;
}

/// Its postmaster goes on, and starts all others anew; what was not flushed is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_of_one_of_its_processes_is_another_life_of_the_database() {
    let _services = world!();
    let postgres = Private::postgres().await;
    let world = World::on(shared_brokers(), postgres.database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let (ledger, mut sequences) = (Ledger::default(), sequences());
    store(&producer, &ledger, &mut sequences, 10).await;
    let outbox = world.outbox();
    let life = async |outbox: PostgresOutbox| outbox.heads().await.map(|heads| heads[0].life);
    let before = life(outbox.clone()).await.unwrap();
    // All its connections are used.
    for same in join_all((0..8).map(|_| life(outbox.clone()))).await {
        assert_eq!(same.unwrap(), before);
    }
    // Held, or the process would end by itself before it can be killed.
    let mut connection = world.pool().acquire().await.unwrap();
    let asked =
        "select pg_backend_pid(), current_setting('server_version_num')::int, stats_reset::text from pg_stat_bgwriter";
    let (process, version, since): (i32, i32, String) =
        sqlx::query_as(asked).fetch_one(&mut *connection).await.unwrap();
    let killed = std::process::Command::new("kill").args(["-9", &process.to_string()]).status().unwrap();
    assert!(killed.success());
    eventually("it is there again", async || {
        let (_, _, now): (i32, i32, String) = sqlx::query_as(asked).fetch_one(&world.pool()).await.ok()?;
        (now != since).then_some(())
    })
    .await;
    // Whatever connections there were are dead, and nobody may feel it. PostgreSQL 14 does not tell.
    assert_eq!(life(outbox).await.unwrap() == before, version < 150_000);
    let events: Vec<_> = sequences.iter_mut().map(Sequence::next).collect();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    for event in events {
        // A database that has just started may take its time with the first one.
        eventually("it is stored", async || producer.emit(event.request().policy(always)).await.ok()).await;
        ledger.accept(event);
    }
    world.verdict(&ledger).await.assert_kept();
}

/// As a backup that is restored, or a standby that had not received everything: numbers are given out again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_database_that_was_set_back_are_relayed_though_their_numbers_were_before() {
    let _services = world!();
    let mut postgres = Private::postgres().await;
    let world = World::on(shared_brokers(), postgres.database_url()).await;
    world.outbox().migrate().await.unwrap();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let (ledger, mut sequences) = (Ledger::default(), sequences());
    store(&producer, &ledger, &mut sequences, 5).await;
    world.verdict(&ledger).await.assert_kept();
    // Killed, not stopped: the log of the cluster is replayed when it starts from the copy.
    postgres.kill();
    let (data, backup) = (postgres.data(), tempfile::tempdir().unwrap());
    copy(&data, &backup.path().join("data"));
    postgres.bring_up().await;

    store(&producer, &ledger, &mut sequences, 20).await;
    world.verdict(&ledger).await.assert_kept();
    postgres.kill();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup.path().join("data"), &data);
    postgres.bring_up().await;

    store(&producer, &ledger, &mut sequences, 10).await;
    world.verdict(&ledger).await.assert_kept();
    let emitter: std::sync::Arc<dyn Emitter> = std::sync::Arc::new(producer);
    for sequence in &mut sequences {
        emit_until_direct(&emitter, &ledger, sequence).await;
    }
    world.verdict(&ledger).await.assert_kept();
    relay.stop().await;
}
