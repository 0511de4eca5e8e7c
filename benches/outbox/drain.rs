//! How fast the relay drains an outbox that is full, beside a bare client that sends the same records.
//!
//! A drain is from the start of the relay, with a client that has no connection yet, until all events are acknowledged and
//! the progress is in the database. The bare client has a connection and all records in memory; it is measured from the
//! first record to the last acknowledgement. Both run in this process. The steady speeds of both are from the first to the
//! last record, as the broker dates them: a client needs up to half a second for its first record (librdkafka asks for its
//! producer id again after that time if it was too early), which is chance, and much of a short drain.
//!
//! The pinned drain is the same while a session elsewhere holds a snapshot that is older than the drain.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use sqlx::{Connection, PgConnection};
use tidings::EventId;
use tokio::time::{Instant, sleep};

use crate::support::bare::{self, Acknowledged};
use crate::support::machine;
use crate::support::report::Report;
use crate::world::{RunningRelay, SOURCE, Services, World};
use crate::{Plan, events};

/// How many records of the bare client are not counted: they find the broker, and connect.
const CONNECTING: usize = 6;

pub(crate) async fn run(services: &Services, plan: &Plan, report: &mut Report) {
    for round in 0..plan.drain_rounds {
        let (mut ours, mut pinned, mut theirs) = (None, None, None);
        for turn in 0..3 {
            match (round + turn) % 3 {
                0 => ours = Some(drain(services, plan.drain_rows, false).await),
                1 => theirs = Some(send(services, plan.drain_rows).await),
                _ => pinned = Some(drain(services, plan.drain_rows, true).await),
            }
        }
        let all = ours.zip(pinned).zip(theirs);
        let ((ours, pinned), theirs) = all.expect("three turns are one of each");
        report.add("drain_per_second", ours.speed.per_second);
        report.add("drain_vs_bare", ours.speed.per_second / theirs.per_second);
        report.add("drain_bare_per_second", theirs.per_second);
        report.add("drain_steady_per_second", ours.speed.steady);
        report.add("drain_steady_vs_bare", ours.speed.steady / theirs.steady);
        report.add("drain_steady_bare_per_second", theirs.steady);
        report.add("drain_cpu_us_per_event", ours.speed.cpu_us);
        report.add("drain_bare_cpu_us_per_event", theirs.cpu_us);
        report.add("pinned_slowdown", pinned.speed.steady / ours.speed.steady);
        report.add("pinned_steady_per_second", pinned.speed.steady);
        for dead in [ours.dead, pinned.dead] {
            report.add("dead_tuples", dead.in_log);
            report.add("dead_tuples_lanes", dead.in_lanes);
        }
    }
    for figures in ["drain_", "pinned_", "dead_"] {
        report.print(figures);
    }
}

#[derive(Debug, Clone, Copy)]
struct Speed {
    per_second: f64,
    /// From the first record to the last.
    steady: f64,
    /// Of this process alone, not of broker and database.
    cpu_us: f64,
}

impl Speed {
    fn of(count: usize, start: Instant, cpu_before: Duration) -> Self {
        let (time, cpu) = (start.elapsed(), machine::cpu_time("self") - cpu_before);
        let per_second = count as f64 / time.as_secs_f64();
        Self { per_second, steady: per_second, cpu_us: cpu.as_secs_f64() * 1e6 / count as f64 }
    }

    /// With the steady speed by when these records arrived.
    fn with_arrivals(self, arrived: &[(usize, i64)]) -> Self {
        let times = || arrived.iter().map(|(_, at)| *at);
        let took = times().max().zip(times().min()).map_or(0, |(last, first)| last - first);
        Self { steady: arrived.len() as f64 * 1e3 / took as f64, ..self }
    }
}

#[derive(Debug)]
struct Drained {
    speed: Speed,
    dead: Dead,
}

async fn drain(services: &Services, rows: usize, pinned: bool) -> Drained {
    let world = World::open(services).await;
    world.fill(0..rows).await;
    let producer = world.producer().await;
    let mut connection = PgConnection::connect_with(&world.options).await.expect("the database answers");
    let mut elsewhere = PgConnection::connect_with(&world.options).await.expect("the database answers");
    if pinned {
        let pin = "begin isolation level repeatable read; select count(*) from tidings.lane";
        sqlx::raw_sql(pin).execute(&mut elsewhere).await.expect("a snapshot can be taken");
    }
    let (start, cpu) = (Instant::now(), machine::cpu_time("self"));
    let relay = RunningRelay::of(&producer);
    world.settled(&mut connection, rows).await;
    let speed = Speed::of(rows, start, cpu);
    relay.stop().await;
    drop(producer);
    let dead = Dead::of(&world, &mut connection, rows).await;
    for connection in [connection, elsewhere] {
        connection.close().await.expect("the database answers");
    }
    let speed = speed.with_arrivals(&world.verify(rows).await);
    world.close().await;
    Drained { speed, dead }
}

/// Rows that wait to be vacuumed.
#[derive(Debug, Clone, Copy)]
struct Dead {
    in_log: f64,
    in_lanes: f64,
}

impl Dead {
    async fn of(world: &World, connection: &mut PgConnection, rows: usize) -> Self {
        /// Ended sessions have handed in their statistics long before.
        const PATIENCE: Duration = Duration::from_secs(5);
        // A row that was updated or deleted is dead, even if a vacuum has been there since.
        let select = "
            select coalesce(sum(n_tup_ins) filter (where relname like 'outbox%'), 0)::bigint,
                   coalesce(sum(greatest(n_dead_tup, n_tup_upd + n_tup_del)) filter (where relname like 'outbox%'), 0)::float8,
                   coalesce(sum(n_dead_tup) filter (where relname = 'lane'), 0)::float8,
                   (select count(*) from pg_stat_activity where datname = $1 and backend_type = 'client backend')
            from pg_stat_user_tables where schemaname = 'tidings'";
        let (start, rows) = (Instant::now(), i64::try_from(rows).expect("it is no astronomical number"));
        loop {
            let (inserted, in_log, in_lanes, sessions): (i64, f64, f64, i64) =
                sqlx::query_as(select).bind(&world.name).fetch_one(&mut *connection).await.expect("it answers");
            // Ours, and the one that holds the snapshot or would have.
            if inserted >= rows && sessions <= 2 {
                return Self { in_log, in_lanes };
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{inserted} inserts are known of {rows}, and {sessions} sessions are open"
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Sends as many records by a bare client.
async fn send(services: &Services, count: usize) -> Speed {
    let world = World::open(services).await;
    let (brokers, topic) = (world.brokers.clone(), world.topic.clone());
    let sent = tokio::task::spawn_blocking(move || {
        let time = bare::time();
        let records: Vec<_> =
            (0..count).map(|n| (events::key(n), EventId::new().to_string(), events::payload(n))).collect();
        let config = like_the_relay(&brokers);
        let acknowledged = Acknowledged::default();
        let producer: ThreadedProducer<_> =
            config.create_with_context(acknowledged.clone()).expect("the client can be made");
        let (mut start, mut cpu) = (Instant::now(), machine::cpu_time("self"));
        for (number, (key, id, payload)) in records.iter().enumerate() {
            if number == CONNECTING {
                producer.flush(Duration::from_secs(10)).expect("the broker takes every record");
                (start, cpu) = (Instant::now(), machine::cpu_time("self"));
            }
            let headers = bare::headers(&topic, SOURCE, key, id, &time);
            let mut record = BaseRecord::to(&topic).key(key).payload(payload).headers(headers);
            while let Err((error, refused)) = producer.send(record) {
                assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
                std::thread::sleep(Duration::from_millis(1));
                record = refused;
            }
        }
        while acknowledged.0.load(Ordering::Relaxed) < count {
            std::thread::sleep(Duration::from_millis(1));
        }
        Speed::of(count - CONNECTING, start, cpu)
    });
    let sent = sent.await.expect("the bare client does not fail");
    // By number, since a topic is read partition by partition.
    let mut arrived = world.verify(count).await;
    arrived.sort_unstable();
    let sent = sent.with_arrivals(&arrived[CONNECTING..]);
    world.close().await;
    sent
}

/// The settings of the relay's client.
fn like_the_relay(brokers: &str) -> ClientConfig {
    let mut config = bare::client(brokers, 0);
    config.set("batch.size", "1048576").set("queue.buffering.max.messages", "100000").set("message.timeout.ms", "0");
    config
}
