//! What a service stores of its own, beside the outbox: the events of its transactions, each with its place.
//!
//! The first statement of a transaction takes the lock of its key, so the transactions of a key have an order.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};
use tidings::{EmitRequest, Emitter, EmitterExt, PostgresOutbox, SqliteOutbox};

use crate::Result;
use crate::describe;
use crate::order::{Fate, Order};

const TABLES: [&str; 2] = [
    "create table if not exists account (key text primary key, turns bigint not null)",
    "create table if not exists booking (id text primary key, key text not null, turn bigint not null, place bigint not null)",
];
const NEXT_TURN: &str = "insert into account (key, turns) values ($1, 1)
    on conflict (key) do update set turns = account.turns + 1 returning turns";
const BOOK: &str = "insert into booking (id, key, turn, place) values ($1, $2, $3, $4)";
const BOOKINGS: &str = "select id, key from booking order by key, turn, place";

/// The database of a service.
#[derive(Debug, Clone)]
pub(crate) enum Store {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// The outbox of a service is in the same database.
pub(crate) enum AnyOutbox {
    Postgres(PostgresOutbox),
    Sqlite(SqliteOutbox),
}

impl AnyOutbox {
    /// A URL of PostgreSQL, or the path of a SQLite file.
    pub(crate) fn open(database: &str) -> Result<Self> {
        if database.starts_with("postgres") {
            return Ok(Self::Postgres(PostgresOutbox::connect(database)?));
        }
        Ok(Self::Sqlite(SqliteOutbox::open(database)))
    }

    pub(crate) async fn migrate(&self) -> tidings::Result<()> {
        match self {
            Self::Postgres(outbox) => outbox.migrate().await,
            Self::Sqlite(outbox) => outbox.migrate().await,
        }
    }
}

/// The same for each database.
macro_rules! with_pool {
    ($store:expr, $pool:ident => $body:expr) => {
        match $store {
            Store::Postgres($pool) => $body,
            Store::Sqlite($pool) => $body,
        }
    };
}

/// Adds to the service's tables and emits in one transaction.
macro_rules! transact {
    ($pool:expr, $emitter:expr, $order:expr, $requests:expr, $commits:expr, $open:expr) => {{
        let mut tx = $pool.begin().await?;
        let turn: i64 = sqlx::query_scalar(NEXT_TURN).bind(&$order.key).fetch_one(&mut *tx).await?;
        for (place, id) in (0i64..).zip(&$order.ids) {
            sqlx::query(BOOK).bind(id).bind(&$order.key).bind(turn).bind(place).execute(&mut *tx).await?;
        }
        let receipts = $emitter.emit_all_in(&mut tx, $requests).await?;
        tokio::time::sleep($open).await;
        if !$commits {
            tx.rollback().await?;
            return Ok(Fate::Refused);
        }
        match $emitter.commit(tx, receipts).await {
            Ok(()) => Fate::Accepted,
            Err(error) => {
                eprintln!("a commit failed: {}", describe(&error));
                Fate::Unknown
            }
        }
    }};
}

impl Store {
    pub(crate) async fn open(database: &str) -> Result<Self> {
        let store = if database.starts_with("postgres") {
            let options = PgPoolOptions::new().max_connections(12).acquire_timeout(Duration::from_secs(5));
            Self::Postgres(options.connect(database).await?)
        } else {
            let options = SqliteConnectOptions::new()
                .filename(Path::new(database))
                .create_if_missing(true)
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(Duration::from_secs(5));
            let pool = SqliteOutbox::guard(SqlitePoolOptions::new().max_connections(4));
            Self::Sqlite(pool.connect_with(options).await?)
        };
        for table in TABLES {
            with_pool!(&store, pool => { sqlx::query(table).execute(pool).await?; });
        }
        Ok(store)
    }

    /// Does what is ordered in one transaction. If this fails, it was not committed.
    pub(crate) async fn transact(
        &self,
        emitter: &dyn Emitter,
        order: &Order,
        requests: Vec<EmitRequest>,
        commits: bool,
        open: Duration,
    ) -> Result<Fate> {
        Ok(with_pool!(self, pool => transact!(pool, emitter, order, requests, commits, open)))
    }

    /// Id and key of what was committed, of each key in order.
    pub(crate) async fn bookings(&self) -> Result<Vec<(String, String)>> {
        Ok(with_pool!(self, pool => sqlx::query_as(BOOKINGS).fetch_all(pool).await?))
    }
}
