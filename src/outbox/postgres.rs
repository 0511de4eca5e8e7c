//! The outbox in PostgreSQL 14 or later.

#[cfg(feature = "admin")]
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgConnectOptions, PgListener, PgPoolOptions, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, Executor as _, PgConnection, PgExecutor, PgPool, Postgres, Row as _};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::failure::{failed, failed_again, failed_in_transaction};
use super::schema::Schema;
use super::{
    Appended, Command, Head, HeldRow, Hole, Lag, Lanes, Lease, Leases, Limits, Outbox, Page, Parked, Progress,
    RETENTION, Row, Settled, StoredRow, envelope, migration, multirange, seconds_of, time_of,
};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};

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

#[derive(Debug, Clone)]
struct Connections {
    pool: PgPool,
    /// Whether each transaction may have another session, and what is outside of one, any.
    leads_to_pooler: bool,
    /// What to set in each of those.
    settings: &'static str,
}

impl Connections {
    /// Does the work; behind a pooler in a transaction, since a statement is prepared in one step and executed in another.
    async fn session<T>(
        &self,
        connection: &mut PgConnection,
        work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
    ) -> sqlx::Result<T> {
        if !self.leads_to_pooler {
            return work(connection).await;
        }
        let mut tx = connection.begin().await?;
        if !self.settings.is_empty() {
            (&mut *tx).execute(self.settings).await?;
        }
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }
}

/// Enough for the appends of a service whose broker is down: each takes well below a millisecond.
const WRITER_CONNECTIONS: u32 = 8;

/// The ring has eight days: one is written, and the next one must be empty before its day.
const MAX_RETENTION: Duration = Duration::from_secs(6 * 86_400);

/// How long to wait before a connection to listen on is tried again. Without it the relay polls.
const LISTEN_AGAIN_AFTER: Duration = Duration::from_secs(10);

/// One reads pages, one writes progress and leases.
const READER_CONNECTIONS: u32 = 2;

/// An append that finds no connection in this time fails, rather than hold up its caller.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// A statement that takes longer has lost its connection: each takes some milliseconds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// The planner prefers a bitmap scan and a sort for the holes of a page as long as it has no statistics, which is 70
/// times slower; these settings leave it the index.
pub(crate) const READER_SETTINGS: [(&str, &str); 5] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_sort", "off"),
    ("jit", "off"),
    ("plan_cache_mode", "force_generic_plan"),
];

/// The same, where a session is had for one transaction only.
const READER_SETTINGS_OF_TRANSACTION: &str = "set local enable_seqscan = off; set local enable_bitmapscan = off; set local enable_sort = off; set local jit = off";

pub(crate) const APPEND: &str = "
    insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
    select lane, tidings.next_seq(lane, $9), id, definition, topic, key, headers, payload, $8
    from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
         with ordinality as e(lane, id, definition, topic, key, headers, payload, n)
    order by n
    returning seq, tidings.life()";

/// As [`APPEND`], but leaves out the rows of which there is one with the same event id already, and says so. Not for every
/// outbox: PostgreSQL writes an insert that may conflict in two steps.
const APPEND_NEW: &str = "
    with e as materialized (
      select lane, tidings.next_seq(lane, $9) as seq, id, definition, topic, key, headers, payload, n
      from (select * from unnest($1::smallint[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bytea[], $7::bytea[])
            with ordinality as e(lane, id, definition, topic, key, headers, payload, n) order by n) e),
    added as (
      insert into tidings.outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
      select lane, seq, id, definition, topic, key, headers, payload, $8 from e order by n
      on conflict do nothing
      returning lane, seq)
    select added.seq, tidings.life() from e left join added using (lane, seq) order by n";

/// The numbers of rows by their event ids. None of one in another lane: that is another event.
const FIND: &str = "
    select (select f.seq from tidings.find(e.id) f where f.lane = e.lane)
    from unnest($1::smallint[], $2::text[]) with ordinality as e(lane, id, n) order by n";

/// Without an index to keep them apart, there may be several rows with one event id.
const LANES: &str = "
    select tidings.layout() as layout,
           exists (select from pg_index where indrelid = 'tidings.outbox'::regclass and indisunique and indisvalid) as knows_ids";

const HEADS: &str = "
    select coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) as last,
           least(lower(int8multirange(int8range(1, null)) - published),
                 (select min(seq) from tidings.held h where h.lane = l.lane)) as floor,
           coalesce(upper(published) - 1, 0) as highest_settled, tidings.life() as life, tidings.layout() as layout
    from tidings.lane l order by lane";

/// Of each lane the first event that waits, and the first that is held: two looks at the index, and one for each gap before
/// them. Holes come in order, and are looked into until one has a row.
const LAG: &str = "
    with waiting as (
      select l.owner is not null and l.lease_until > clock_timestamp() as relayed,
             least(first.created_at, held.created_at) as since,
             greatest(coalesce(pg_sequence_last_value(('tidings.lane_' || l.lane || '_seq')::regclass), 0) + 1
               - lower(int8multirange(int8range(1, null)) - l.published), 0) as unsettled
      from tidings.lane l
      left join lateral (
        select o.created_at from unnest(int8multirange(int8range(1, null)) - l.published) as hole
        cross join lateral (
          select o.created_at from tidings.outbox o
          where o.lane = l.lane and o.seq >= lower(hole) and o.seq < coalesce(upper(hole), 9223372036854775807)
          order by o.seq limit 1) o
        limit 1) first on true
      left join lateral (
        select o.created_at from (select min(seq) as seq from tidings.held h where h.lane = l.lane) h
        cross join lateral (
          select o.created_at from tidings.outbox o where o.lane = l.lane and o.seq = h.seq limit 1) o) held on true)
    select extract(epoch from clock_timestamp() - min(since))::float8 as oldest_waiting,
           count(*) filter (where since is not null and not relayed) as lanes_without_relay,
           sum(unsettled)::bigint as waiting,
           (select count(*) from tidings.relay where seen_until > clock_timestamp()) as relays
    from waiting";

/// The share of this relay, $1: each has as many lanes as the others, and those that come first one more if need be. What it
/// has too many of it may not keep. A lane that is not in use any more is as good as paused.
/// An epoch is a time, so that hardly any is given out again when the database is set back.
const LEASE: &str = "
    with me as (
      insert into tidings.relay (id, seen_until) values ($1, clock_timestamp() + $2 * interval '1 millisecond')
      on conflict (id) do update set seen_until = excluded.seen_until),
    gone as (delete from tidings.relay where id <> $1 and seen_until < clock_timestamp() - interval '1 hour'),
    share as (
      select (l.lanes / r.relays + (r.rank < l.lanes % r.relays)::int) as lanes
      from (select count(*) as lanes from tidings.lane where not paused and lane < tidings.lanes()) l,
           (select count(*) + 1 as relays, count(*) filter (where id < $1) as rank
            from tidings.relay where id <> $1 and seen_until > clock_timestamp()) r),
    mine as (
      select lane, not idle and row_number() over (order by idle, lane) <= (select lanes from share) as keep
      from (select lane, paused or lane >= tidings.lanes() as idle from tidings.lane where owner = $1) l),
    free as (
      select lane from tidings.lane
      where (owner is null or (owner <> $1 and lease_until < clock_timestamp())) and not paused and lane < tidings.lanes()
      order by lane limit greatest((select lanes from share) - (select count(*) from mine), 0)
      for update skip locked)
    update tidings.lane l
    set epoch = case when owner = $1 and life = tidings.life() then epoch
                else greatest(epoch + 1, (extract(epoch from clock_timestamp()) * 1000000)::bigint) end,
        owner = $1, life = tidings.life(),
        lease_until = clock_timestamp() + $2 * interval '1 millisecond'
    where owner = $1 or lane in (select lane from free)
    returning lane, epoch, published::text as published,
              coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) as last,
              coalesce((select keep from mine where mine.lane = l.lane), true) as keep, (select lanes from share) as share, life";

const RELEASE: &str = "
    with gone as (delete from tidings.relay where id = $1 and $3)
    update tidings.lane set owner = null, lease_until = null where owner = $1 and ($3 or lane = any($2))";

const PARKED: &str = "
    select lane, record_key, head, error_kind, error, attempts, command,
           extract(epoch from first_failure_at)::float8 as first_failure_at,
           greatest(extract(epoch from next_attempt_at - clock_timestamp()), 0)::float8 as retry_in
    from tidings.parked where lane = any($1)";

const HELD: &str = "
    select o.lane, o.seq, o.topic, o.record_key, o.headers, o.payload, o.envelope_version, o.definition_key
    from tidings.held h
    cross join lateral (select * from tidings.outbox o where o.lane = h.lane and o.seq = h.seq) o
    where h.lane = $1 and h.record_key = $2
    order by h.seq limit $3";

/// The holes and the horizon come from one snapshot, as the proof that a number is dead asks for. The sum of bytes is of
/// the rows before: the one that reaches the limit is the last.
const PAGE: &str = "
    with snapshot as materialized (select pg_snapshot_xmin(pg_current_snapshot())::text as horizon)
    select snapshot.horizon, tidings.life() as life, o.* from snapshot left join lateral (
      select r.lane, r.seq, r.topic, r.record_key, r.headers, r.payload, r.envelope_version
      from unnest($1::smallint[], $2::bigint[], $3::bigint[]) as hole(lane, low, high)
      cross join lateral (
        select o.*, sum(length(o.headers) + coalesce(length(o.payload), 0)) over (order by o.seq) - length(o.headers)
                    - coalesce(length(o.payload), 0) as before
        from (
          select o.lane, o.seq, o.topic, o.record_key, o.headers, o.payload, o.envelope_version
          from tidings.outbox o
          where o.lane = hole.lane and o.seq >= hole.low and o.seq < hole.high
          order by o.seq limit $4) o) r
      where r.before < $5
    ) o on true";

/// An insert into the log takes its lock before it draws a number, has a transaction id by then, and holds the locks of both
/// until its transaction has ended and can be seen. The id stays the same when the transaction is prepared; its process and
/// its virtual id do not. All locks are read at once.
const WRITERS: &str = "
    with locks as materialized (select * from pg_locks where granted)
    select distinct x.transactionid::text
    from locks l join locks x using (virtualtransaction)
    where l.locktype = 'relation' and l.relation = 'tidings.outbox'::regclass and l.mode = 'RowExclusiveLock'
      and l.database = (select oid from pg_database where datname = current_database())
      and x.locktype = 'transactionid' and x.mode = 'ExclusiveLock'";

/// The mark is this statement's own transaction id: it is allocated after every gap that the relay has seen. What is said
/// of a lane whose lease was lost is left out altogether. A key whose command was obeyed, in vain, is parked again at once: no
/// statement may change a row twice.
const SETTLE: &str = "
    with mark as materialized (select pg_current_xact_id()::text as mark),
    updated as (
      update tidings.lane l set published = l.published + d.settled::int8multirange
      from unnest($1::smallint[], $2::bigint[], $3::text[], $22::bigint[]) as d(lane, epoch, settled, life)
      where l.lane = d.lane and l.epoch = d.epoch and l.life = d.life and d.life = tidings.life()
      returning l.lane),
    held as (
      insert into tidings.held (lane, record_key, seq)
      select h.lane, h.record_key, h.seq from unnest($4::smallint[], $5::text[], $6::bigint[]) as h(lane, record_key, seq)
      join updated using (lane)
      on conflict do nothing),
    unheld as (
      delete from tidings.held h
      using unnest($7::smallint[], $8::text[], $9::bigint[]) as u(lane, record_key, seq), updated
      where h.lane = u.lane and h.record_key = u.record_key and h.seq = u.seq and updated.lane = u.lane),
    parked as (
      insert into tidings.parked (lane, record_key, head, error_kind, error, attempts, first_failure_at, next_attempt_at)
      select p.lane, p.record_key, p.head, p.error_kind, p.error, p.attempts, to_timestamp(p.first_failure_at),
             clock_timestamp() + p.retry_in * interval '1 second'
      from unnest($10::smallint[], $11::text[], $12::bigint[], $13::text[], $14::text[], $15::int[], $16::float8[], $17::float8[])
           as p(lane, record_key, head, error_kind, error, attempts, first_failure_at, retry_in)
      join updated using (lane)
      on conflict (lane, record_key) do update
      set head = excluded.head, error_kind = excluded.error_kind, error = excluded.error, attempts = excluded.attempts,
          first_failure_at = excluded.first_failure_at, next_attempt_at = excluded.next_attempt_at,
          command = case when parked.head = excluded.head and not exists (
              select from unnest($20::smallint[], $21::text[]) as f(lane, record_key)
              where f.lane = excluded.lane and f.record_key = excluded.record_key)
            then parked.command end),
    obeyed as (
      update tidings.parked p set command = null
      from unnest($20::smallint[], $21::text[]) as f(lane, record_key), updated
      where p.lane = f.lane and p.record_key = f.record_key and updated.lane = f.lane
        and not exists (
          select from unnest($10::smallint[], $11::text[]) as n(lane, record_key)
          where n.lane = f.lane and n.record_key = f.record_key)),
    freed as (
      delete from tidings.parked p using unnest($18::smallint[], $19::text[]) as f(lane, record_key), updated
      where p.lane = f.lane and p.record_key = f.record_key and updated.lane = f.lane)
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
        let reader = options.clone().options(READER_SETTINGS);
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
        let pool = |connections| PgPoolOptions::new().max_connections(connections).acquire_timeout(ACQUIRE_TIMEOUT);
        let connections = |pool, settings| Connections { pool, leads_to_pooler, settings };
        Self {
            listener: pool(1).connect_lazy_with(options.clone()),
            listening: Arc::default(),
            retention: RETENTION,
            // The ping before each use would double the round trips of an append; a broken connection shows soon enough.
            writer: connections(pool(WRITER_CONNECTIONS).test_before_acquire(false).connect_lazy_with(options), ""),
            reader: connections(pool(READER_CONNECTIONS).connect_lazy_with(reader), READER_SETTINGS_OF_TRANSACTION),
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
        let migrate = transact(&self.writer.pool, "begin", async |tx| {
            // Any number will do, as long as it stays the same: it keeps two services from migrating at once.
            let ledger = self.schema.sql(
                "select pg_advisory_xact_lock(7421998310562);
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
    ) -> sqlx::Result<Vec<Appended>> {
        let persistent = !self.writer.leads_to_pooler;
        if !self.knows_ids.load(Ordering::Relaxed) {
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

/// Runs a statement, for [`STATEMENT_TIMEOUT`] at most.
async fn fetch(pool: &Connections, statement: Query<'_, Postgres, PgArguments>) -> sqlx::Result<Vec<PgRow>> {
    let statement = statement.persistent(!pool.leads_to_pooler);
    run(pool, async |connection| statement.fetch_all(connection).await).await
}

/// Works in a transaction that is begun so, on a connection that no one uses afterwards: sqlx gives one whose `begin` was dropped
/// back to its pool, and whoever has it next adds rows to a transaction that nobody commits.
async fn transact<T>(
    pool: &PgPool,
    begin: &'static str,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let mut connection = pool.acquire().await?.detach();
    connection.execute(begin).await?;
    let done = work(&mut connection).await?;
    connection.execute("commit").await?;
    // The transaction has ended; what becomes of the connection matters to nobody.
    let _ = connection.close().await;
    Ok(done)
}

/// Runs what takes some milliseconds, for [`STATEMENT_TIMEOUT`] at most.
async fn run<T>(from: &Connections, work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> sqlx::Result<T> {
    within(from, from.pool.acquire().await?, work).await
}

/// The same on this connection. One that does not answer is not used again, nor one that leads to a standby: the next may lead to
/// where the primary is by now.
async fn within<T>(
    from: &Connections,
    mut connection: PoolConnection<Postgres>,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    match tokio::time::timeout(STATEMENT_TIMEOUT, from.session(&mut connection, work)).await {
        Ok(done) => {
            if done.as_ref().is_err_and(only_reads) {
                connection.close_on_drop();
            }
            done
        }
        Err(_) => {
            connection.close_on_drop();
            Err(timed_out())
        }
    }
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Whether the connection was gone, be it before the statement or in its middle.
fn was_cut_off(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        // The server's last words: class 57 is that of an operator, of which P01 to P03 are a shutdown, a crash and a start.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| ["57P01", "57P02", "57P03"].contains(&&*code)),
        _ => false,
    }
}

/// Whether the session can't write, as on a standby.
fn only_reads(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "25006")
}

/// A connection that answers. Dead ones are thrown away.
async fn alive(pool: &PgPool) -> sqlx::Result<PoolConnection<Postgres>> {
    let look = async {
        loop {
            let mut connection = pool.acquire().await?;
            if connection.ping().await.is_ok() {
                return Ok(connection);
            }
            connection.close_on_drop();
        }
    };
    tokio::time::timeout(STATEMENT_TIMEOUT, look).await.unwrap_or_else(|_| Err(timed_out()))
}

/// The statement that appends these rows, and yields their numbers in its first column, and the life of the database.
pub(crate) fn append<'q>(statement: &'q str, lanes: Lanes, rows: &'q [Row]) -> Query<'q, Postgres, PgArguments> {
    let keys = rows.iter().map(|row| String::from_utf8_lossy(&row.record.key)).collect::<Vec<_>>();
    sqlx::query(statement)
        .bind(rows.iter().map(|row| lane_number(row.lane)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_id.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.definition_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.record.topic).collect::<Vec<_>>())
        .bind(keys)
        .bind(rows.iter().map(|row| row.record.headers.as_bytes()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.record.payload.as_deref()).collect::<Vec<_>>())
        .bind(envelope::VERSION)
        .bind(lanes.layout())
}

/// Lanes are few: PostgreSQL has no unsigned type, and a `smallint` holds them.
pub(crate) fn lane_number(lane: u16) -> i16 {
    i16::try_from(lane).unwrap_or(i16::MAX)
}

fn lane_numbers(lanes: &[u16]) -> Vec<i16> {
    lanes.iter().map(|lane| lane_number(*lane)).collect()
}

pub(crate) fn lane_of(row: &PgRow, column: &str) -> sqlx::Result<u16> {
    u16::try_from(row.try_get::<i16, _>(column)?).map_err(|source| sqlx::Error::Decode(source.into()))
}

fn count_of(row: &PgRow, column: &str) -> sqlx::Result<u32> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|source| sqlx::Error::Decode(source.into()))
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
            let append = async |connection: &mut PgConnection| self.append_to(connection, lanes, rows).await;
            const DOING: &str = "appending to the log";
            match run(&self.writer, append).await {
                Err(error) if was_cut_off(&error) => {
                    // All connections of a database that was started anew are dead, and each would fail an emit. If it was carried
                    // out after all, there are two rows with one event id, the second a duplicate like any other.
                    let again = async { within(&self.writer, alive(&self.writer.pool).await?, append).await };
                    again.await.map_err(failed_again(DOING, error))
                }
                appended => appended.map_err(failed(DOING)),
            }
        })
    }

    fn append_in<'a>(&'a self, lanes: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let other = tx.describe();
            let Inner::Postgres(connection) = tx.0 else {
                let message =
                    format!("this outbox needs a transaction of its PostgreSQL database, and was given {other}");
                return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
            };
            let appended = self.append_to(connection, lanes, rows).await;
            appended.map_err(failed_in_transaction("appending to the log"))
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
            let rows = fetch(&self.writer, sqlx::query(&self.schema.sql(HEADS))).await;
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

    fn lease(&self, owner: Uuid, ttl: Duration) -> BoxFuture<'_, Result<Leases>> {
        Box::pin(async move {
            let ttl = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
            let rows =
                fetch(&self.reader, sqlx::query(&self.schema.sql(LEASE)).bind(owner.to_string()).bind(ttl)).await;
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

    fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limit: u32) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        Box::pin(async move {
            let sql = self.schema.sql(HELD);
            let statement =
                sqlx::query(&sql).bind(lane_number(lane)).bind(String::from_utf8_lossy(key)).bind(i64::from(limit));
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
                .bind(i64::from(limits.bytes));
            fetch(&self.reader, statement).await.and_then(|rows| page(&rows)).map_err(failed("reading a page"))
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
                let woken = async {
                    let listener = match &mut *listening {
                        Some(listener) => listener,
                        None => {
                            let mut listener = PgListener::connect_with(&self.listener).await?;
                            listener.listen(self.schema.name()).await?;
                            listening.insert(listener)
                        }
                    };
                    listener.recv().await
                };
                match woken.await {
                    Ok(_) => return,
                    Err(error) => {
                        tracing::debug!(%error, "no wake-ups from other processes; the relay polls");
                        *listening = None;
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

/// The statement that writes progress down.
fn settle<'q>(statement: &'q str, progress: &[Progress]) -> Query<'q, Postgres, PgArguments> {
    type Rows = fn(&Progress) -> &[(Bytes, i64)];
    let mut statement = sqlx::query(statement)
        .bind(progress.iter().map(|p| lane_number(p.lane)).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| p.epoch).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| multirange::to_text(&p.settled)).collect::<Vec<_>>());
    let held: [Rows; 2] = [|p| &p.held, |p| &p.unheld];
    for held in held {
        let rows = || progress.iter().flat_map(|p| held(p).iter().map(|row| (lane_number(p.lane), row)));
        statement = statement
            .bind(rows().map(|(lane, _)| lane).collect::<Vec<_>>())
            .bind(rows().map(|(_, (key, _))| text(key)).collect::<Vec<_>>())
            .bind(rows().map(|(_, (_, number))| *number).collect::<Vec<_>>());
    }
    let parked: Vec<_> =
        progress.iter().flat_map(|p| p.parked.iter().map(|parked| (lane_number(p.lane), parked))).collect();
    statement = statement
        .bind(parked.iter().map(|(lane, _)| *lane).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| text(&p.key)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.head).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.error_kind.as_str()).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.error.replace('\0', "")).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| i32::try_from(p.attempts).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| seconds_of(p.first_failure_at)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.retry_in.as_secs_f64()).collect::<Vec<_>>());
    let keys: [fn(&Progress) -> &Vec<Bytes>; 2] = [|p| &p.freed, |p| &p.obeyed];
    for keys in keys {
        let rows = || progress.iter().flat_map(|p| keys(p).iter().map(|key| (lane_number(p.lane), key)));
        statement = statement
            .bind(rows().map(|(lane, _)| lane).collect::<Vec<_>>())
            .bind(rows().map(|(_, key)| text(key)).collect::<Vec<_>>());
    }
    statement.bind(progress.iter().map(|p| p.life).collect::<Vec<_>>())
}

/// Record keys are text: they are made of it.
fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

fn leases(rows: &[PgRow]) -> sqlx::Result<Leases> {
    let mut leases = Leases::default();
    for row in rows {
        let published: &str = row.try_get("published")?;
        leases.life = row.try_get("life")?;
        leases.share = usize::try_from(row.try_get::<i64, _>("share")?).unwrap_or_default();
        leases.leases.push(Lease {
            lane: lane_of(row, "lane")?,
            epoch: row.try_get("epoch")?,
            settled: multirange::from_text(published)
                .ok_or_else(|| sqlx::Error::Decode("not a set of numbers".into()))?,
            last: row.try_get("last")?,
            keep: row.try_get("keep")?,
        });
    }
    Ok(leases)
}

fn parked(row: &PgRow) -> sqlx::Result<(u16, Parked)> {
    let first_failure_at: f64 = row.try_get("first_failure_at")?;
    let parked = Parked {
        key: row.try_get::<String, _>("record_key")?.into(),
        head: row.try_get("head")?,
        // One of a later version is as good as any.
        error_kind: ErrorKind::named(row.try_get("error_kind")?).unwrap_or(ErrorKind::RecordRejected),
        error: row.try_get("error")?,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        first_failure_at: time_of(first_failure_at),
        retry_in: Duration::try_from_secs_f64(row.try_get("retry_in")?).unwrap_or_default(),
        command: row.try_get::<Option<&str>, _>("command")?.and_then(Command::named),
    };
    Ok((lane_of(row, "lane")?, parked))
}

fn page(rows: &[PgRow]) -> sqlx::Result<Page> {
    let mut page = Page { rows: Vec::with_capacity(rows.len()), horizon: 0, life: 0 };
    for row in rows {
        page.life = row.try_get("life")?;
        let horizon: &str = row.try_get("horizon")?;
        page.horizon = horizon.parse().map_err(|source: std::num::ParseIntError| sqlx::Error::Decode(source.into()))?;
        // Without a row in any hole there is one line that has the horizon alone.
        if row.try_get::<Option<i16>, _>("lane")?.is_some() {
            page.rows.push(stored_row(row)?);
        }
    }
    Ok(page)
}

fn stored_row(row: &PgRow) -> sqlx::Result<StoredRow> {
    let key = Bytes::from(row.try_get::<String, _>("record_key")?);
    let (headers, payload): (Vec<u8>, Option<Vec<u8>>) = (row.try_get("headers")?, row.try_get("payload")?);
    Ok(StoredRow {
        lane: lane_of(row, "lane")?,
        sequence: row.try_get("seq")?,
        bytes: headers.len() + payload.as_ref().map_or(0, Vec::len),
        record: envelope::decode(
            row.try_get("envelope_version")?,
            row.try_get("topic")?,
            key.clone(),
            headers,
            payload,
        ),
        key,
    })
}

/// Undefined table or schema (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
fn is_missing_table(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}
