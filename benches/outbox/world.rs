//! A database and a topic of each measurement's own.

use std::env;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool};
use tidings::{Catalog, Config, EmitterExt, EventDefinition, Naming, PostgresOutbox, Producer, Result};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::events;
use crate::topic;

pub(crate) const PARTITIONS: i32 = 6;
pub(crate) const SOURCE: &str = "//bench/outbox";

/// After this time without what is waited for, the bench fails.
const PATIENCE: Duration = Duration::from_secs(300);

/// The broker and the database that run.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) brokers: String,
    pub(crate) database_url: String,
    /// The process to stop, if it may be.
    pub(crate) kafka_pid: Option<String>,
    /// Whether the database was started for this, so that its settings may be changed.
    pub(crate) owns_database: bool,
}

impl Services {
    pub(crate) fn from_env() -> Option<Self> {
        Some(Self {
            brokers: env::var("KAFKA_BROKERS").ok()?,
            database_url: env::var("DATABASE_URL").ok()?,
            kafka_pid: env::var("KAFKA_PID").ok(),
            owns_database: env::var("POSTGRES_PID").is_ok(),
        })
    }

    pub(crate) fn server(&self) -> PgConnectOptions {
        self.database_url.parse().expect("the database URL can be read")
    }

    /// A connection to the server that does not show in the statistics of a world's database.
    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.server()).await.expect("the database answers")
    }

    pub(crate) async fn postgres_version(&self) -> Option<String> {
        sqlx::query_scalar("show server_version").fetch_one(&mut self.connect().await).await.ok()
    }
}

/// A migrated database and an empty topic. They stay until [`close`](Self::close), or until the services end.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) brokers: String,
    /// The database's name, and what the topic begins with.
    pub(crate) name: String,
    pub(crate) topic: String,
    pub(crate) options: PgConnectOptions,
    server: PgConnectOptions,
}

impl World {
    pub(crate) async fn open(services: &Services) -> Self {
        let world = Self::named(services, format!("b{}", Uuid::now_v7().simple()));
        let create = format!("create database {}", world.name);
        sqlx::query(&create).execute(&mut services.connect().await).await.expect("a database can be made");
        world.outbox().migrate().await.expect("the database can be migrated");
        topic::create(&world.brokers, &world.topic).await;
        world
    }

    /// The world of this name, which another process has made.
    pub(crate) fn named(services: &Services, name: String) -> Self {
        Self {
            brokers: services.brokers.clone(),
            topic: format!("{name}.order.created"),
            options: services.server().database(&name),
            server: services.server(),
            name,
        }
    }

    pub(crate) fn outbox(&self) -> PostgresOutbox {
        PostgresOutbox::with_options(self.options.clone())
    }

    pub(crate) async fn producer(&self) -> Arc<Producer> {
        let config = Config::new(SOURCE, [&*self.brokers]).expect("the settings are right");
        let config = config.with_naming(Naming::per_event(&self.name));
        let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]);
        let builder = Producer::builder(config, catalog.expect("the catalog is right"));
        Arc::new(builder.with_outbox(self.outbox()).build().await.expect("the producer can be made"))
    }

    /// Connections of the service's own, all of them open.
    pub(crate) async fn pool(&self, connections: u32) -> PgPool {
        let pool = PgPoolOptions::new().min_connections(connections).max_connections(connections);
        pool.test_before_acquire(false).connect_with(self.options.clone()).await.expect("the database answers")
    }

    /// Stores these events, in transactions with many of them.
    pub(crate) async fn fill(&self, events: Range<usize>) {
        /// Two writers keep two cores busy; each has keys of its own, so that the events of one come in order.
        const WRITERS: usize = 2;
        const BATCH: usize = 500;
        let (producer, pool) = (self.producer().await, self.pool(2).await);
        let writers = (0..WRITERS).map(|writer| {
            let (producer, pool, events) = (Arc::clone(&producer), pool.clone(), events.clone());
            tokio::spawn(async move {
                let numbers: Vec<_> = events.filter(|number| number % WRITERS == writer).collect();
                for batch in numbers.chunks(BATCH) {
                    let requests = batch.iter().copied().map(events::request).collect();
                    let mut tx = pool.begin().await.expect("the database answers");
                    producer.emit_all_in(&mut tx, requests).await.expect("the outbox takes every event");
                    tx.commit().await.expect("the database answers");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("a writer does not panic");
        }
        pool.close().await;
    }

    /// Waits until so many events are settled, which the relay says after their acknowledgement.
    pub(crate) async fn settled(&self, connection: &mut PgConnection, count: usize) {
        /// Often enough for a drain that takes a second, and little work for the database.
        const LOOK_EVERY: Duration = Duration::from_millis(10);
        let select = "select coalesce(sum(upper(r) - lower(r)), 0)::bigint from tidings.lane, unnest(published) as r";
        let (start, count) = (Instant::now(), i64::try_from(count).expect("it is no astronomical number"));
        loop {
            let settled: i64 = sqlx::query_scalar(select).fetch_one(&mut *connection).await.expect("it answers");
            if settled >= count {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{settled} of {count} events are settled after {PATIENCE:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    /// Reads the topic from beginning to end, and fails unless these are the events from 0 to `count`, in order. Yields
    /// each and when the topic says that it is from, in milliseconds since 1970.
    pub(crate) async fn verify(&self, count: usize) -> Vec<(usize, i64)> {
        let (brokers, topic) = (self.brokers.clone(), self.topic.clone());
        let read = tokio::task::spawn_blocking(move || {
            let (mut ledger, mut arrived) = (events::Ledger::default(), Vec::new());
            topic::read(&brokers, &topic, |number, at| {
                if ledger.see(number) {
                    arrived.push((number, at));
                }
            });
            (ledger.duplicates(), arrived)
        });
        let (duplicates, arrived) = read.await.expect("the topic can be read, and is in order");
        assert_eq!(arrived.len(), count, "so many events are on the topic; the second is how many were stored");
        if duplicates > 0 {
            println!("  {duplicates} duplicates");
        }
        arrived
    }

    pub(crate) async fn close(self) {
        topic::delete(&self.brokers, &self.topic).await;
        let mut connection = PgConnection::connect_with(&self.server).await.expect("the database answers");
        let drop_it = format!("drop database {} with (force)", self.name);
        sqlx::query(&drop_it).execute(&mut connection).await.expect("the database can be dropped");
    }
}

/// A relay in a task.
#[derive(Debug)]
pub(crate) struct RunningRelay {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<()>>,
}

impl RunningRelay {
    pub(crate) fn of(producer: &Producer) -> Self {
        let (stop, stopped) = oneshot::channel();
        let relay = producer.relay(async {
            let _ = stopped.await;
        });
        Self { stop, task: tokio::spawn(relay) }
    }

    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.expect("the relay does not panic").expect("the relay ends well");
    }
}
