//! The outbox in PostgreSQL 14 or later.

use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{PgExecutor, PgPool, Postgres, Row as _};
use uuid::Uuid;

use super::failure::{failed, failed_in_transaction};
use super::{Head, Hole, Lease, Outbox, Page, Progress, Row, Settled, StoredRow, envelope, migration, multirange};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};

/// The outbox in the schema `tidings` of a PostgreSQL database.
///
/// It has connections of its own, up to ten, opened when needed: an emit that falls back to the outbox while the
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
    writer: PgPool,
    /// For the relay.
    reader: PgPool,
}

/// Enough for the appends of a service whose broker is down: each takes well below a millisecond.
const WRITER_CONNECTIONS: u32 = 8;

/// One reads pages, one writes progress and leases.
const READER_CONNECTIONS: u32 = 2;

/// An append that finds no connection in this time fails, rather than hold up its caller.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A statement that takes longer has lost its connection: each takes some milliseconds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The planner prefers a bitmap scan and a sort for the holes of a page as long as it has no statistics, which is 70
/// times slower; these settings leave it the index.
const READER_SETTINGS: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

const APPEND: &str = "
    insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
    select lane, tidings.next_seq(lane), id, definition, topic, key, headers, payload, $8
    from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
         with ordinality as e(lane, id, definition, topic, key, headers, payload, n)
    order by n
    returning seq";

const HEADS: &str = "
    select coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) as last,
           lower(int8multirange(int8range(1, null)) - published) as floor
    from tidings.lane order by lane";

const LEASE: &str = "
    update tidings.lane
    set epoch = epoch + (owner is distinct from $1)::int, owner = $1,
        lease_until = clock_timestamp() + $2 * interval '1 millisecond'
    where owner = $1 or owner is null or lease_until < clock_timestamp()
    returning lane, epoch, published::text as published";

const RELEASE: &str = "update tidings.lane set owner = null, lease_until = null where owner = $1";

/// The holes and the horizon come from one snapshot, as the proof that a number is dead asks for.
const PAGE: &str = "
    with snapshot as materialized (select pg_snapshot_xmin(pg_current_snapshot())::text as horizon)
    select snapshot.horizon, o.* from snapshot left join lateral (
      select r.* from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as hole(lane, low, high)
      cross join lateral (
        select o.lane, o.seq, o.topic, o.record_key, o.headers, o.payload, o.envelope_version
        from tidings.outbox o
        where o.lane = hole.lane and o.seq >= hole.low and o.seq < hole.high
        order by o.seq limit $4) r
    ) o on true";

/// The mark is this statement's own transaction id: it is allocated after every gap that the relay has seen.
const SETTLE: &str = "
    with mark as materialized (select pg_current_xact_id()::text as mark),
    updated as (
      update tidings.lane l set published = l.published + d.settled::int8multirange
      from unnest($1::smallint[], $2::bigint[], $3::text[]) as d(lane, epoch, settled)
      where l.lane = d.lane and l.epoch = d.epoch
      returning l.lane)
    select mark.mark, array(select lane from updated) as lanes from mark";

impl PostgresOutbox {
    /// An outbox in the database of this URL. Connections are opened when they are needed.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if the URL can't be read.
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
        let pool = |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        Self {
            // The ping before each use would double the round trips of an append; a broken connection shows soon enough.
            writer: pool(WRITER_CONNECTIONS).test_before_acquire(false).connect_lazy_with(options.clone()),
            reader: pool(READER_CONNECTIONS).connect_lazy_with(options.options(READER_SETTINGS)),
        }
    }

    /// Creates or updates the outbox's tables, in the schema `tidings`. Safe to call from several services at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails; [`ErrorKind::StorageRejected`] if it does not let the user in, or the user may
    /// not create the schema.
    pub async fn migrate(&self) -> Result<()> {
        let migrating = || failed("migrating the outbox's tables");
        let mut tx = self.writer.begin().await.map_err(migrating())?;
        // Any number will do, as long as it stays the same: it keeps two services from migrating at once.
        sqlx::raw_sql(
            "select pg_advisory_xact_lock(7421998310562);
             create schema if not exists tidings;
             create table if not exists tidings.migration (
               version int primary key, applied_at timestamptz not null default now())",
        )
        .execute(&mut *tx)
        .await
        .map_err(migrating())?;
        let applied = applied(&mut *tx).await.map_err(migrating())?;
        for step in migration::pending(&migration::POSTGRES, &applied) {
            sqlx::raw_sql(step.sql).execute(&mut *tx).await.map_err(migrating())?;
            sqlx::query("insert into tidings.migration (version) values ($1)")
                .bind(step.version)
                .execute(&mut *tx)
                .await
                .map_err(migrating())?;
        }
        tx.commit().await.map_err(migrating())
    }
}

async fn applied(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar("select version from tidings.migration order by version").fetch_all(executor).await
}

/// Runs a statement, for [`STATEMENT_TIMEOUT`] at most. A connection that does not answer is not used again.
async fn fetch(pool: &PgPool, statement: Query<'_, Postgres, PgArguments>) -> sqlx::Result<Vec<PgRow>> {
    let mut connection = pool.acquire().await?;
    match tokio::time::timeout(STATEMENT_TIMEOUT, statement.fetch_all(&mut *connection)).await {
        Ok(rows) => rows,
        Err(_) => {
            connection.close_on_drop();
            Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))
        }
    }
}

/// The statement that appends these rows, and yields their numbers in its first column.
fn append(rows: &[Row]) -> Query<'_, Postgres, PgArguments> {
    let keys = rows.iter().map(|row| String::from_utf8_lossy(&row.record.key)).collect::<Vec<_>>();
    sqlx::query(APPEND)
        .bind(rows.iter().map(|row| lane_number(row.lane)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_id.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.definition_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.record.topic).collect::<Vec<_>>())
        .bind(keys)
        .bind(rows.iter().map(|row| row.record.headers.as_bytes()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.record.payload.as_deref()).collect::<Vec<_>>())
        .bind(envelope::VERSION)
}

/// The numbers that an append yields.
fn numbers(rows: &[PgRow]) -> sqlx::Result<Vec<i64>> {
    rows.iter().map(|row| row.try_get(0)).collect()
}

/// Lanes are few: PostgreSQL has no unsigned type, and a `smallint` holds them.
fn lane_number(lane: u16) -> i16 {
    i16::try_from(lane).unwrap_or(i16::MAX)
}

fn lane_of(row: &PgRow, column: &str) -> sqlx::Result<u16> {
    u16::try_from(row.try_get::<i16, _>(column)?).map_err(|source| sqlx::Error::Decode(source.into()))
}

impl Outbox for PostgresOutbox {
    fn lanes(&self) -> BoxFuture<'_, Result<u16>> {
        Box::pin(async {
            let applied = match applied(&self.writer).await {
                Err(error) if is_missing_table(&error) => Vec::new(),
                applied => applied.map_err(failed("reading its version"))?,
            };
            migration::check_applied(&migration::POSTGRES, &applied)?;
            let lanes: i64 = sqlx::query_scalar("select count(*) from tidings.lane")
                .fetch_one(&self.writer)
                .await
                .map_err(failed("counting the lanes"))?;
            u16::try_from(lanes)
                .map_err(|source| Error::new(ErrorKind::Schema, "there are too many lanes").with_source(source))
        })
    }

    fn append<'a>(&'a self, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        Box::pin(async {
            let appended = fetch(&self.writer, append(rows)).await.and_then(|rows| numbers(&rows));
            appended.map_err(failed("appending to the log"))
        })
    }

    fn append_in<'a>(&'a self, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        Box::pin(async move {
            let other = tx.describe();
            let Inner::Postgres(connection) = tx.0 else {
                let message =
                    format!("this outbox needs a transaction of its PostgreSQL database, and was given {other}");
                return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
            };
            let appended = append(rows).fetch_all(connection).await.and_then(|rows| numbers(&rows));
            appended.map_err(failed_in_transaction("appending to the log"))
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async {
            let head = |row: PgRow| Ok(Head { last: row.try_get("last")?, floor: row.try_get("floor")? });
            let rows = fetch(&self.writer, sqlx::query(HEADS)).await;
            rows.and_then(|rows| rows.into_iter().map(head).collect()).map_err(failed("reading the lanes"))
        })
    }

    fn lease(&self, owner: Uuid, ttl: Duration) -> BoxFuture<'_, Result<Vec<Lease>>> {
        Box::pin(async move {
            let lease = |row: PgRow| {
                let published: &str = row.try_get("published")?;
                let settled = multirange::from_text(published)
                    .ok_or_else(|| sqlx::Error::Decode("not a set of numbers".into()))?;
                Ok(Lease { lane: lane_of(&row, "lane")?, epoch: row.try_get("epoch")?, settled })
            };
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            let rows = fetch(&self.reader, sqlx::query(LEASE).bind(owner.to_string()).bind(ttl)).await;
            rows.and_then(|rows| rows.into_iter().map(lease).collect()).map_err(failed("leasing lanes"))
        })
    }

    fn release(&self, owner: Uuid) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let released = fetch(&self.reader, sqlx::query(RELEASE).bind(owner.to_string())).await;
            released.map(drop).map_err(failed("releasing lanes"))
        })
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limit: u32) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let statement = sqlx::query(PAGE)
                .bind(holes.iter().map(|hole| lane_number(hole.lane)).collect::<Vec<_>>())
                .bind(holes.iter().map(|hole| hole.low).collect::<Vec<_>>())
                .bind(holes.iter().map(|hole| hole.high).collect::<Vec<_>>())
                .bind(i64::from(limit));
            fetch(&self.reader, statement).await.and_then(|rows| page(&rows)).map_err(failed("reading a page"))
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
            let statement = sqlx::query(SETTLE)
                .bind(progress.iter().map(|p| lane_number(p.lane)).collect::<Vec<_>>())
                .bind(progress.iter().map(|p| p.epoch).collect::<Vec<_>>())
                .bind(progress.iter().map(|p| multirange::to_text(&p.settled)).collect::<Vec<_>>());
            let rows = fetch(&self.reader, statement).await;
            rows.and_then(|rows| rows.into_iter().next().ok_or(sqlx::Error::RowNotFound))
                .and_then(settled)
                .map_err(failed("recording progress"))
        })
    }
}

fn page(rows: &[PgRow]) -> sqlx::Result<Page> {
    let mut page = Page { rows: Vec::with_capacity(rows.len()), horizon: 0 };
    for row in rows {
        let horizon: &str = row.try_get("horizon")?;
        page.horizon = horizon.parse().map_err(|source: std::num::ParseIntError| sqlx::Error::Decode(source.into()))?;
        // Without a row in any hole there is one line that has the horizon alone.
        if row.try_get::<Option<i16>, _>("lane")?.is_none() {
            continue;
        }
        let key = bytes::Bytes::from(row.try_get::<String, _>("record_key")?);
        page.rows.push(StoredRow {
            lane: lane_of(row, "lane")?,
            sequence: row.try_get("seq")?,
            record: envelope::decode(
                row.try_get("envelope_version")?,
                row.try_get("topic")?,
                key.clone(),
                row.try_get("headers")?,
                row.try_get("payload")?,
            ),
            key,
        });
    }
    Ok(page)
}

/// Undefined table or schema (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn is_missing_table(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}
