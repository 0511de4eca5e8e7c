//! The number of lanes is changed while everything runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sqlx::{PgPool, Postgres, Transaction};
use tidings::admin::{Admin, RowFilter};
use tidings::outbox::Outbox;
use tidings::{Emitter, EmitterExt, ErrorKind, OutboxMode, PolicyOverride};
use tokio::task::JoinSet;

use crate::support::events::{Ledger, Sequence, is_published, stored_at};
use crate::support::murmur2::lane_of;
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, emit_until_direct, logged, settled_to, world};

fn always() -> PolicyOverride {
    PolicyOverride::default().with_outbox(OutboxMode::Always)
}

/// Changes the number of lanes. If that is refused, yields the code of the error.
async fn change(pool: &PgPool, lanes: i32) -> Result<i32, String> {
    let changed = sqlx::query_scalar("select tidings.change_lanes($1)").bind(lanes).fetch_one(pool).await;
    changed.map_err(|error: sqlx::Error| error.as_database_error().unwrap().code().unwrap().into_owned())
}

/// Calls it as often as an operator has to while others write.
async fn change_at_last(pool: &PgPool, lanes: i32) {
    eventually("the number of lanes is changed", async || match change(pool, lanes).await {
        Ok(_) => Some(()),
        Err(code) => {
            assert!(["55P03", "55006"].contains(&&*code), "{code}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    })
    .await;
}

/// How events are emitted.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// By emits, every other one direct if it may be.
    Alone,
    /// By an emit that stores it.
    Always,
    /// In transactions of this isolation level that have begun before.
    In(&'static str),
    /// By the function, in such transactions.
    FromSql(&'static str),
}

struct Writer {
    /// One event after the other.
    ways: &'static [Way],
    emitter: Arc<dyn Emitter>,
    pool: PgPool,
    topic: String,
    ledger: Arc<Ledger>,
    /// How many transactions were run again.
    conflicts: Arc<AtomicUsize>,
}

/// A transaction that has its snapshot, and has had it for a while.
async fn begin(pool: &PgPool, level: &str) -> Transaction<'static, Postgres> {
    let mut tx = pool.begin().await.unwrap();
    sqlx::query(&format!("set transaction isolation level {level}")).execute(&mut *tx).await.unwrap();
    sqlx::query("select count(*) from tidings.migration").execute(&mut *tx).await.unwrap();
    tokio::time::sleep(Duration::from_millis(30)).await;
    tx
}

/// The last ones have their keys stored by several hands, which must not differ about the lane.
const WAYS: [&[Way]; 6] = [
    &[Way::Alone],
    &[Way::In("read committed")],
    &[Way::In("repeatable read")],
    &[Way::FromSql("repeatable read")],
    &[Way::FromSql("read committed"), Way::Always],
    &[Way::FromSql("repeatable read"), Way::Always, Way::In("repeatable read")],
];

impl Writer {
    async fn run(self, mut sequence: Sequence, stop: Arc<AtomicBool>) {
        for way in self.ways.iter().cycle() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            let event = sequence.next();
            match *way {
                Way::Always => drop(self.emitter.emit(event.request().policy(always())).await.unwrap()),
                Way::Alone => {
                    let policy = if event.number.is_multiple_of(2) { always() } else { PolicyOverride::default() };
                    self.emitter.emit(event.request().policy(policy)).await.unwrap();
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Way::In(level) => loop {
                    let mut tx = begin(&self.pool, level).await;
                    match self.emitter.emit_in(&mut tx, event.request()).await {
                        Ok(_) => break tx.commit().await.unwrap(),
                        Err(error) => assert_eq!(error.kind(), ErrorKind::StorageConflict, "{error}"),
                    }
                    self.conflicts.fetch_add(1, Ordering::SeqCst);
                },
                Way::FromSql(level) => {
                    let mut tx = begin(&self.pool, level).await;
                    let payload = format!(r#"{{"key": "{}", "number": {}}}"#, event.key, event.number);
                    sqlx::query("select tidings.append($1, $2, array['ce_id', $3], $4, $3)")
                        .bind(&self.topic)
                        .bind(&event.key)
                        .bind(&event.id)
                        .bind(payload.into_bytes())
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                    tx.commit().await.unwrap();
                }
            }
            self.ledger.accept(event);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_number_of_lanes_is_changed_under_load_and_every_promise_is_kept() {
    let world = world!();
    let producers = [world.producer().await, world.producer().await];
    let relays: Vec<_> = producers.iter().map(RunningRelay::of).collect();
    let emitters = producers.map(|producer| Arc::new(producer) as Arc<dyn Emitter>);
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(24).connect_lazy_with(world.options());
    let (ledger, stop, conflicts) = <(Arc<Ledger>, Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
    let mut writers = JoinSet::new();
    for (number, ways) in WAYS.into_iter().cycle().take(18).enumerate() {
        let writer = Writer {
            ways,
            emitter: Arc::clone(&emitters[number % 2]),
            pool: pool.clone(),
            topic: world.topic.clone(),
            ledger: Arc::clone(&ledger),
            conflicts: Arc::clone(&conflicts),
        };
        writers.spawn(writer.run(Sequence::of(format!("tenant-{number}")), Arc::clone(&stop)));
    }
    for lanes in [64, 7, 32] {
        tokio::time::sleep(Duration::from_secs(1)).await;
        change_at_last(&pool, lanes).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = writers.join_next().await {
        ended.unwrap();
    }
    println!("{} events, {} transactions run again", ledger.accepted_count(), conflicts.load(Ordering::SeqCst));
    world.verdict(&ledger).await.assert_kept();

    let lanes = world.outbox().lanes().await.unwrap();
    assert!(lanes.count() == 32 && lanes.were_changed());
    // All lanes flow: what is stored is delivered, and then the next event is direct.
    let mut sequences: Vec<_> = (0..u16::try_from(LANES).unwrap())
        .map(|lane| (0..).map(|n| format!("key-{n}")).find(|key| lane_of(key, LANES) == lane).unwrap())
        .map(Sequence::of)
        .collect();
    for sequence in &mut sequences {
        let event = sequence.next();
        emitters[0].emit(event.request().policy(always())).await.unwrap();
        ledger.accept(event);
    }
    eventually("all lanes are direct", async || {
        let mut direct = 0;
        for sequence in &mut sequences {
            direct += usize::from(is_published(&ledger.emit(&emitters[0], sequence.next()).await.unwrap()));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        (direct == sequences.len()).then_some(())
    })
    .await;
    world.verdict(&ledger).await.assert_kept();
    for relay in relays {
        relay.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_of_no_change_is_refused_once_and_nothing_overtakes_what_it_stores() {
    let world = world!();
    let (pool, ledger, producer) = (world.pool(), Ledger::default(), world.producer().await);
    // A key that is in another lane, of more and of fewer.
    let key = (0..).map(|n| format!("key-{n}")).find(|key| {
        let lanes = [32, 64, 7].map(|lanes| lane_of(key, lanes));
        lanes[0] != lanes[1] && lanes[1] != lanes[2] && lanes[0] != lanes[2]
    });
    let (mut sequence, emitter) = (Sequence::of(key.unwrap()), Arc::new(producer.clone()) as Arc<dyn Emitter>);
    for (lanes, level) in [(64, "read committed"), (7, "repeatable read"), (32, "repeatable read")] {
        let mut before = begin(&pool, level).await;
        change(&pool, lanes).await.unwrap();
        let event = sequence.next();
        let refused = producer.emit_in(&mut before, event.request()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::StorageConflict);
        drop(before);
        let mut again = begin(&pool, level).await;
        let (lane, number) = stored_at(&producer.emit_in(&mut again, event.request()).await.unwrap());
        again.commit().await.unwrap();
        assert_eq!(lane, lane_of(&event.key, lanes.unsigned_abs()));
        ledger.accept(event);
        // The direct way looks at the same lane.
        let (direct, _) = stored_at(&ledger.emit(&emitter, sequence.next()).await.unwrap());
        assert_eq!(direct, lane);
        let relay = RunningRelay::of(&producer);
        settled_to(&pool, lane, number + 1).await;
        emit_until_direct(&emitter, &ledger, &mut sequence).await;
        relay.stop().await;
    }
    // An emit of its own hears nothing of it.
    change(&pool, 64).await.unwrap();
    let event = sequence.next();
    let (lane, _) = stored_at(&producer.emit(event.request().policy(always())).await.unwrap());
    assert_eq!(lane, lane_of(&event.key, 64));
    let event_key = event.key.clone();
    ledger.accept(event);
    let _relay = RunningRelay::of(&producer);
    world.verdict(&ledger).await.assert_kept();
    // An operator finds all that the log has of the key, whatever lane it was in.
    let of_key = RowFilter::default().with_key(event_key);
    let rows = Admin::of(&world.outbox()).rows(&of_key, 10_000, None).await.unwrap();
    assert_eq!(i64::try_from(rows.len()).unwrap(), logged(&pool).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_can_not_be_made_changes_nothing_and_holds_nobody_up_for_long() {
    let world = world!();
    let (pool, producer) = (world.pool(), world.producer().await);
    let before = world.outbox().lanes().await.unwrap();
    let mut sequence = Sequence::of("tenant-1");
    for lanes in [0, -1, 1025] {
        assert_eq!(change(&pool, lanes).await, Err("22023".into()));
    }

    // A transaction that has appended is open.
    let mut open = pool.begin().await.unwrap();
    producer.emit_in(&mut open, sequence.next().request()).await.unwrap();
    let start = Instant::now();
    let another = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        producer.emit(Sequence::of("tenant-2").next().request().policy(always())).await.unwrap();
        start.elapsed()
    };
    let (changed, waited) = tokio::join!(change(&pool, 64), another);
    assert_eq!(changed, Err("55P03".into()));
    assert!(waited < Duration::from_secs(2), "{waited:?}");
    open.rollback().await.unwrap();

    // An event is not delivered: a young one is waited for, an old one is not.
    producer.emit(sequence.next().request().policy(always())).await.unwrap();
    for _ in 0..2 {
        let start = Instant::now();
        let emit = producer.emit(sequence.next().request().policy(always()));
        let (changed, stored) = tokio::join!(change(&pool, 64), emit);
        assert_eq!(changed, Err("55006".into()));
        stored.unwrap();
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    // Nor one from the future, as there are when the clock is set back.
    sqlx::query("update tidings.outbox set created_at = created_at + interval '1 hour'").execute(&pool).await.unwrap();
    assert_eq!(change(&pool, 64).await, Err("55006".into()));
    assert_eq!(world.outbox().lanes().await.unwrap(), before);
    let lanes: i64 = sqlx::query_scalar("select count(*) from tidings.lane").fetch_one(&pool).await.unwrap();
    assert_eq!(lanes, i64::from(LANES));

    // One that is rolled back never was; not for who has the lanes in a prepared statement, either.
    let relay = RunningRelay::of(&producer);
    eventually("the lanes are drained", async || {
        let mut tx = pool.begin().await.unwrap();
        let changed = sqlx::query("select tidings.change_lanes(64)").execute(&mut *tx).await;
        tx.rollback().await.unwrap();
        changed.ok()
    })
    .await;
    assert_eq!(world.outbox().lanes().await.unwrap(), before);
    producer.emit(sequence.next().request().policy(always())).await.unwrap();
    change_at_last(&pool, 64).await;
    assert_eq!(world.outbox().lanes().await.unwrap().count(), 64);
    relay.stop().await;
}
