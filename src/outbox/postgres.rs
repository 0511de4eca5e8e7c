//! The outbox in PostgreSQL 14 or later.

#[cfg(feature = "admin")]
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions, PgRow};
use sqlx::{Connection as _, Executor as _, PgConnection, PgExecutor, PgPool, Row as _};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::failure::{failed, failed_again, failed_in};
use super::schema::Schema;
use super::{
    Appended, Head, HeldRow, Hole, Lag, Lanes, Leases, Limits, Outbox, Page, Parked, Progress, RETENTION, Row, Settled,
    migration,
};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};

mod connections;
pub(crate) mod rows;
pub(crate) mod sql;

use connections::{BEGIN, Connections, STATEMENT_TIMEOUT, fetch, fetch_within, run, run_again, transact, was_cut_off};
use rows::{append, count_of, lane_number, lane_numbers, leases, page, parked, settle, stored_row};
use sql::{APPEND, APPEND_NEW, FIND, HEADS, HELD, LAG, LANES, LEASE, PAGE, PARKED, RELEASE, SETTLE, WRITERS};

/// The outbox in a schema of its own, `tidings`, of a PostgreSQL database.
///
/// It has connections of its own, up to eleven, opened when needed: an emit that falls back to the outbox while the
/// service's pool is exhausted by open transactions would otherwise wait for the very transactions it belongs to.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> tidings::Result<()> {
/// let outbox = tidings::PostgresOutbox::connect("postgres://shop@localhost/shop")?;
/// outbox.migrate().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct PostgresOutbox {
    /// For services: appends, and a look at the lanes.
    writer: Connections,
    /// For the relay.
    reader: Connections,
    schema: Schema,
    /// Whether the log has a unique index on the event id.
    knows_ids: Arc<AtomicBool>,
    /// For the relay's wake-ups: a connection that only listens.
    listener: PgPool,
    listening: Arc<Mutex<Option<PgListener>>>,
    retention: Duration,
}

/// Enough for the appends of a service whose broker is down: each takes well below a millisecond.
const WRITER_CONNECTIONS: u32 = 8;

/// The ring has eight days: one is written, and the next one must be empty before its day.
const MAX_RETENTION: Duration = Duration::from_secs(6 * 86_400);

/// How long to wait before a connection to listen on is tried again. Without it the relay polls.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// How much longer a page may take for each of its holes: an empty one takes some 20 µs.
const HOLE_TIMEOUT: Duration = Duration::from_micros(200);

/// One reads pages, one writes progress and leases.
const READER_CONNECTIONS: u32 = 2;

/// An append that finds no connection in this time fails, rather than hold up its caller; and does so before its caller gives it up, who
/// could not tell whether it was carried out.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(3);

/// What is given up here waits on there: so long for a lock, and not for ever, while others do the same. Unless somebody has set
/// another time.
const LOCK_TIMEOUT: &str = "select set_config('lock_timeout', '5s', false) where current_setting('lock_timeout') = '0'";

/// The planner prefers a bitmap scan and a sort for the holes of a page as long as it has no statistics, which is 70
/// times slower; these settings leave it the index.
pub(crate) const READER_SETTINGS: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// Whoever waits for a lock must see what was committed meanwhile.
const READER_ISOLATION: (&str, &str) = ("default_transaction_isolation", "read\\ committed");

/// The same, where a session is had for one transaction only.
const BEGIN_OF_READER: &str = "
    begin isolation level read committed;
    set local idle_in_transaction_session_timeout = '10s'; set local lock_timeout = '5s';
    set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; set local jit = off";

impl PostgresOutbox {
    /// An outbox in the database of this URL. Connections are opened when they are needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if the URL can't be read.
    ///
    /// # Panics
    ///
    /// Outside of a Tokio runtime, as do the other ways to make one: sqlx looks after its pools in tasks.
    pub fn connect(url: &str) -> Result<Self> {
        // The text of sqlx's error may quote the URL, which may have a password: it is left out.
        let options = url.parse().map_err(|_| {
            let message = "the database URL can't be read; expected `postgres://user:password@host:port/database`";
            Error::new(ErrorKind::InvalidConfig, message)
        })?;
        Ok(Self::with_options(options))
    }

    /// An outbox in the database of these options, such as those of the service's own pool.
    #[must_use]
    pub fn with_options(options: PgConnectOptions) -> Self {
        let reader = options.clone().options(READER_SETTINGS).options([READER_ISOLATION]);
        Self::through(options, reader, false)
    }

    /// As [`with_options`](Self::with_options), for options that lead to a pooler such as PgBouncer in transaction mode.
    ///
    /// Nothing is left in a session then: no prepared statements, no settings, no `LISTEN`. An append takes two round trips
    /// more, and a relay hears of rows that other processes store by polling alone. Events may also be emitted in
    /// transactions that were begun through the pooler; the service's own statements are its own affair.
    #[must_use]
    pub fn with_pooler_options(options: PgConnectOptions) -> Self {
        let options = options.extra_float_digits(None).statement_cache_capacity(0);
        Self::through(options.clone(), options, true)
    }

    fn through(options: PgConnectOptions, reader: PgConnectOptions, leads_to_pooler: bool) -> Self {
        let pool = |connections| {
            let pool = PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
            if leads_to_pooler {
                return pool;
            }
            // By a statement: a pooler may refuse what it does not know of at the start of a session.
            pool.after_connect(|connection, _| {
                Box::pin(async move { connection.execute(LOCK_TIMEOUT).await.map(drop) })
            })
        };
        let connections = |pool, begin| Connections { pool, leads_to_pooler, begin };
        Self {
            listener: pool(1).connect_lazy_with(options.clone()),
            listening: Arc::default(),
            retention: RETENTION,
            // The ping before each use would double the round trips of an append; a broken connection shows soon enough.
            writer: connections(pool(WRITER_CONNECTIONS).test_before_acquire(false).connect_lazy_with(options), BEGIN),
            reader: connections(pool(READER_CONNECTIONS).connect_lazy_with(reader), BEGIN_OF_READER),
            schema: Schema::DEFAULT,
            knows_ids: Arc::default(),
        }
    }

    /// Sets how long events are kept after they are delivered: so long they can be replayed. Defaults to three days.
    ///
    /// Storage is dropped by the day. The log is a ring of eight days: of longer times than six days the rest is not kept.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention.min(MAX_RETENTION);
        self
    }

    /// Puts the outbox in another schema, so that several can share a database; up to 40 of `a-z`, `0-9` and `_`. Its roles
    /// begin with its name. Defaults to `tidings`.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if that can't be a schema's name, or is one that PostgreSQL has itself.
    pub fn with_schema(self, name: &str) -> Result<Self> {
        Ok(Self { schema: Schema::named(name)?, knows_ids: Arc::default(), listening: Arc::default(), ..self })
    }

    /// Creates or updates the outbox's tables, in a schema of their own. Safe to call from several services at once.
    ///
    /// If there is nothing to do, it needs no right to create anything: services whose role is `tidings_writer` may call it.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails; [`ErrorKind::StorageRejected`] if it does not let the user in, or the user may
    /// not create the schema.
    pub async fn migrate(&self) -> Result<()> {
        let migrating = || failed("migrating the outbox's tables");
        let applied = self.applied(&self.writer.pool).await.map_err(migrating())?;
        if migration::pending(&migration::POSTGRES, &applied).next().is_none() {
            return Ok(());
        }
        let migrate = transact(&self.writer.pool, "begin isolation level read committed", async |tx| {
            // Any number will do, as long as it stays the same: it keeps two services from migrating at once.
            let ledger = self.schema.sql(
                "set local lock_timeout = 0;
                 select pg_advisory_xact_lock(7421998310562);
                 create schema if not exists tidings;
                 create table if not exists tidings.migration (
                   version int primary key, applied_at timestamptz not null default now())",
            );
            tx.execute(sqlx::raw_sql(&ledger)).await?;
            let applied = self.applied(&mut *tx).await?;
            for step in migration::pending(&migration::POSTGRES, &applied) {
                tx.execute(sqlx::raw_sql(&self.schema.sql(step.sql))).await?;
                sqlx::query(&self.schema.sql("insert into tidings.migration (version) values ($1)"))
                    .bind(step.version)
                    .persistent(false)
                    .execute(&mut *tx)
                    .await?;
            }
            Ok(())
        });
        migrate.await.map_err(migrating())
    }

    /// The versions that were migrated to; none if there are no tables yet.
    async fn applied(&self, executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<i32>> {
        let select = self.schema.sql("select version from tidings.migration order by version");
        // Without parameters, and so without being prepared.
        match executor.fetch_all(&*select).await {
            Err(error) if is_missing_table(&error) => Ok(Vec::new()),
            rows => rows?.iter().map(|row| row.try_get(0)).collect(),
        }
    }

    /// Appends, and finds the rows that were there already, if there can be any.
    async fn append_to(
        &self,
        connection: &mut PgConnection,
        lanes: Lanes,
        rows: &[Row],
        knows_ids: bool,
    ) -> sqlx::Result<Vec<Appended>> {
        let persistent = !self.writer.leads_to_pooler;
        if !knows_ids {
            let appended =
                append(&self.schema.sql(APPEND), lanes, rows).persistent(persistent).fetch_all(connection).await?;
            return appended.iter().map(|row| Ok(Appended::new(row.try_get(0)?, row.try_get(1)?))).collect();
        }
        let sql = self.schema.sql(APPEND_NEW);
        let appended = append(&sql, lanes, rows).persistent(persistent).fetch_all(&mut *connection).await?;
        let numbers: Vec<(Option<i64>, i64)> =
            appended.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect::<sqlx::Result<_>>()?;
        let there = rows.iter().zip(&numbers).filter(|(_, (number, _))| number.is_none()).map(|(row, _)| row);
        let (lanes, ids): (Vec<_>, Vec<_>) = there.map(|row| (lane_number(row.lane), row.event_id.to_string())).unzip();
        let mut found = Vec::new().into_iter();
        if !ids.is_empty() {
            let find = self.schema.sql(FIND);
            let rows: Vec<Option<i64>> = sqlx::query_scalar(&find)
                .bind(lanes)
                .bind(ids)
                .persistent(persistent)
                .fetch_all(&mut *connection)
                .await?;
            found = rows.into_iter();
        }
        let another = || sqlx::Error::InvalidArgument("another event of this id is in the outbox".to_owned());
        let mut find = || found.next().flatten().ok_or_else(another);
        let appended = |(number, life): (Option<i64>, i64)| match number {
            Some(number) => Ok(Appended::new(number, life)),
            None => find().map(|sequence| Appended { sequence, is_new: false, life }),
        };
        numbers.into_iter().map(appended).collect()
    }
}

/// Whether the rows take two statements, of which the second may fail after the first has stored some of them.
fn is_in_two(rows: &[Row], knows_ids: bool) -> bool {
    knows_ids && rows.len() > 1
}

#[cfg(feature = "admin")]
impl PostgresOutbox {
    /// Works in a transaction that is begun so.
    pub(crate) async fn transact<T>(
        &self,
        begin: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        transact(&self.writer.pool, begin, work).await
    }

    /// A statement for the outbox's schema.
    pub(crate) fn sql(&self, statement: &'static str) -> Cow<'static, str> {
        self.schema.sql(statement)
    }

    /// Whether the log has a unique index on the event id.
    pub(crate) fn knows_ids(&self) -> bool {
        self.knows_ids.load(Ordering::Relaxed)
    }
}

impl Outbox for PostgresOutbox {
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        Box::pin(async {
            let applied = self.applied(&self.writer.pool).await.map_err(failed("reading its version"))?;
            migration::check_applied(&migration::POSTGRES, &applied)?;
            let counting = || failed("counting the lanes");
            let row = self.writer.pool.fetch_one(&*self.schema.sql(LANES)).await.map_err(counting())?;
            self.knows_ids.store(row.try_get("knows_ids").map_err(counting())?, Ordering::Relaxed);
            Lanes::from_layout(row.try_get("layout").map_err(counting())?)
        })
    }

    fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let knows_ids = self.knows_ids.load(Ordering::Relaxed);
            let append = async |connection: &mut PgConnection| {
                if self.writer.leads_to_pooler || !is_in_two(rows, knows_ids) {
                    return self.append_to(connection, lanes, rows, knows_ids).await;
                }
                let mut tx = connection.begin_with(BEGIN).await?;
                let appended = self.append_to(&mut tx, lanes, rows, knows_ids).await?;
                tx.commit().await?;
                Ok(appended)
            };
            const DOING: &str = "appending to the log";
            match run(&self.writer, append).await {
                Err(error) if was_cut_off(&error) => {
                    // If it was carried out after all, there are two rows with one event id, the second a duplicate like any other.
                    run_again(&self.writer, append).await.map_err(failed_again(DOING, error))
                }
                appended => appended.map_err(failed(DOING)),
            }
        })
    }

    fn append_in<'a>(&'a self, lanes: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let (is_open, other) = (tx.is_open(), tx.describe());
            let Inner::Postgres(connection) = tx.0 else {
                let message =
                    format!("this outbox needs a transaction of its PostgreSQL database, and was given {other}");
                return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
            };
            let knows_ids = self.knows_ids.load(Ordering::Relaxed);
            let appended = self.append_to(connection, lanes, rows, knows_ids).await;
            let stays_in_part = !is_open && is_in_two(rows, knows_ids);
            appended.map_err(|error| failed_in(is_open, "appending to the log")(error).or_ambiguous(stays_in_part))
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async {
            let head = |row: PgRow| {
                let (last, floor) = (row.try_get("last")?, row.try_get("floor")?);
                let (highest_settled, life) = (row.try_get("highest_settled")?, row.try_get("life")?);
                let lanes =
                    Lanes::from_layout(row.try_get("layout")?).map_err(|error| sqlx::Error::Decode(error.into()))?;
                Ok(Head { last, floor, highest_settled, life, lanes })
            };
            let (sql, persistent) = (self.schema.sql(HEADS), !self.writer.leads_to_pooler);
            let look = async |connection: &mut PgConnection| {
                sqlx::query(&sql).persistent(persistent).fetch_all(connection).await
            };
            let rows = match run(&self.writer, look).await {
                Err(error) if was_cut_off(&error) => run_again(&self.writer, look).await,
                rows => rows,
            };
            rows.and_then(|rows| rows.into_iter().map(head).collect()).map_err(failed("reading the lanes"))
        })
    }

    fn lag(&self) -> BoxFuture<'_, Result<Lag>> {
        Box::pin(async {
            let lag = |row: &PgRow| {
                let oldest: Option<f64> = row.try_get("oldest_waiting")?;
                Ok(Lag {
                    // A clock that was set back makes it younger than nothing.
                    oldest_waiting: oldest.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()),
                    relays: Some(count_of(row, "relays")?),
                    lanes_without_relay: Some(count_of(row, "lanes_without_relay")?),
                    waiting: row.try_get::<Option<i64>, _>("waiting")?.and_then(|waiting| u64::try_from(waiting).ok()),
                })
            };
            let rows = fetch(&self.reader, sqlx::query(&self.schema.sql(LAG))).await;
            rows.and_then(|rows| rows.first().ok_or(sqlx::Error::RowNotFound).and_then(lag))
                .map_err(failed("reading how far behind the relays are"))
        })
    }

    fn lease(&self, owner: Uuid, ttl: Duration, saves: i64) -> BoxFuture<'_, Result<Leases>> {
        Box::pin(async move {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            let sql = self.schema.sql(LEASE);
            let statement = sqlx::query(&sql).bind(owner.to_string()).bind(ttl).bind(saves);
            let rows = fetch(&self.reader, statement).await;
            rows.and_then(|rows| leases(&rows)).map_err(failed("leasing lanes"))
        })
    }

    fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let sql = self.schema.sql(RELEASE);
            let statement = sqlx::query(&sql).bind(owner.to_string()).bind(lane_numbers(lanes)).bind(leaves);
            fetch(&self.reader, statement).await.map(drop).map_err(failed("releasing lanes"))
        })
    }

    fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        Box::pin(async move {
            let rows = fetch(&self.reader, sqlx::query(&self.schema.sql(PARKED)).bind(lane_numbers(lanes))).await;
            rows.and_then(|rows| rows.iter().map(parked).collect()).map_err(failed("reading the parked keys"))
        })
    }

    fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        Box::pin(async move {
            let sql = self.schema.sql(HELD);
            let statement = sqlx::query(&sql)
                .bind(lane_number(lane))
                .bind(String::from_utf8_lossy(key))
                .bind(i64::from(limits.rows))
                .bind(i64::from(limits.bytes));
            let held =
                |row: PgRow| Ok(HeldRow { row: stored_row(&row)?, definition_key: row.try_get("definition_key")? });
            let rows = fetch(&self.reader, statement).await;
            rows.and_then(|rows| rows.into_iter().map(held).collect()).map_err(failed("reading held rows"))
        })
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let sql = self.schema.sql(PAGE);
            let statement = sqlx::query(&sql)
                .bind(holes.iter().map(|hole| lane_number(hole.lane)).collect::<Vec<_>>())
                .bind(holes.iter().map(|hole| hole.low).collect::<Vec<_>>())
                .bind(holes.iter().map(|hole| hole.high).collect::<Vec<_>>())
                .bind(i64::from(limits.rows))
                .bind(i64::from(limits.bytes))
                .bind(i64::from(limits.in_all));
            let limit = STATEMENT_TIMEOUT + HOLE_TIMEOUT * u32::try_from(holes.len()).unwrap_or(u32::MAX);
            let rows = fetch_within(limit, &self.reader, statement).await;
            rows.and_then(|rows| page(&rows)).map_err(failed("reading a page"))
        })
    }

    fn retain(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let sql = self.schema.sql("select tidings.drop_delivered($1 * interval '1 second')");
            let dropped = fetch(&self.reader, sqlx::query(&sql).bind(self.retention.as_secs_f64())).await;
            dropped.map(drop).map_err(failed("dropping what is delivered"))
        })
    }

    fn wake(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let woken = fetch(&self.writer, sqlx::query("select pg_notify($1, '')").bind(self.schema.name())).await;
            woken.map(drop).map_err(failed("waking the relays"))
        })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        if self.writer.leads_to_pooler {
            return Box::pin(std::future::pending());
        }
        Box::pin(async {
            let mut listening = self.listening.lock().await;
            loop {
                // Taken out meanwhile: one that nobody waits for any more must not go on listening.
                let listener = listening.take();
                let woken = async {
                    let mut listener = match listener {
                        Some(listener) => listener,
                        None => {
                            let mut listener = PgListener::connect_with(&self.listener).await?;
                            listener.listen(self.schema.name()).await?;
                            listener
                        }
                    };
                    listener.recv().await?;
                    Ok::<_, sqlx::Error>(listener)
                };
                match woken.await {
                    Ok(listener) => {
                        *listening = Some(listener);
                        return;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "no wake-ups from other processes; the relay polls");
                        tokio::time::sleep(LISTEN_AGAIN_AFTER).await;
                    }
                }
            }
        })
    }

    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        Box::pin(async {
            let rows = fetch(&self.reader, sqlx::query(&self.schema.sql(WRITERS))).await;
            let names = rows.and_then(|rows| rows.iter().map(|row| row.try_get(0)).collect());
            names.map(Some).map_err(failed("reading who writes"))
        })
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        Box::pin(async move {
            let settled = |row: PgRow| {
                let lanes: Vec<i16> = row.try_get("lanes")?;
                let lanes = lanes.into_iter().map(u16::try_from).collect::<Result<_, _>>();
                let mark: &str = row.try_get("mark")?;
                Ok(Settled {
                    lanes: lanes.map_err(|source| sqlx::Error::Decode(source.into()))?,
                    mark: mark.parse().map_err(|source: std::num::ParseIntError| sqlx::Error::Decode(source.into()))?,
                })
            };
            let rows = fetch(&self.reader, settle(&self.schema.sql(SETTLE), progress)).await;
            rows.and_then(|rows| rows.into_iter().next().ok_or(sqlx::Error::RowNotFound))
                .and_then(settled)
                .map_err(failed("recording progress"))
        })
    }
}

/// Undefined table or schema (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn is_missing_table(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}
