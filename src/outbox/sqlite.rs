//! The outbox in a SQLite file.

use std::time::{Duration, Instant};

use bytes::Bytes;
use sqlx::TransactionManager as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous, SqliteTransactionManager,
};
use sqlx::{Executor as _, Row as _, SqliteConnection, SqliteExecutor, SqlitePool};
use uuid::Uuid;

use super::failure::{failed, failed_in};
use super::{
    Appended, Command, Head, HeldRow, Hole, Lag, Lanes, Lease, Leases, Limits, Outbox, Page, Parked, Progress,
    RETENTION, Row, Settled, StoredRow, envelope, floor, highest, migration, multirange, seconds_of, time_of,
};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};

mod sql;

use sql::{APPEND, HEADS, HELD, LEASE, LEASED, PAGE, PARK, PARKED, RELAYED, RELAYS, RETAIN, SEEN, SHARE, WAITS};

/// The outbox in tables `tidings_…` of a SQLite file, for services of one host.
///
/// SQLite has one writer at a time. An emit that needs the outbox waits for a transaction that is open elsewhere, for
/// four seconds at most. In a transaction use `emit_in`: an `emit` there would wait for its own transaction.
///
/// It has 32 lanes, and their number can't be changed: all who write take turns, so more would be of no use.
///
/// # Examples
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// # let folder = tempfile::tempdir().unwrap();
/// let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
/// outbox.migrate().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct SqliteOutbox {
    pool: SqlitePool,
    retention: Duration,
}

/// How long a statement waits for the other writer. An emit that waits in vain fails before it is given up, when nobody could tell whether it
/// was carried out.
const BUSY_TIMEOUT: Duration = Duration::from_secs(4);

/// One writes at a time; the others are for reading beside it.
const CONNECTIONS: u32 = 4;

/// A mark that no horizon reaches.
const NEVER_PASSED: u64 = u64::MAX;

/// How many rows are dropped at a time.
const RETAIN_ROWS: u32 = 1_000;

/// The relay waits for it. What is left is dropped next time.
const RETAIN_FOR: Duration = Duration::from_millis(500);

impl SqliteOutbox {
    /// An outbox in this file, which is created if it is not there. It is opened when it is needed.
    #[must_use]
    pub fn open(file: impl AsRef<std::path::Path>) -> Self {
        let options = SqliteConnectOptions::new()
            .filename(file)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // With WAL, NORMAL may lose the last commits when the power fails. An accepted event may not be lost.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT);
        let pool = Self::guard(SqlitePoolOptions::new().max_connections(CONNECTIONS));
        Self { pool: pool.connect_lazy_with(options), retention: RETENTION }
    }

    /// Has a pool close connections whose transaction is not over when they come back, or of which sqlx is in doubt. A service
    /// that [emits in transactions](crate::EmitterExt::emit_in) does this to its own pool; the outbox's has it.
    ///
    /// When a disk is full, or a statement fails in some other ways, SQLite itself may roll the transaction back. sqlx 0.8 does not hear
    /// of it, and takes later transactions of that connection for nested ones: one that is rolled back then stays open, with
    /// the file locked, and those that follow are said to be committed and are not. A future that is dropped while its
    /// transaction begins or ends may leave it open, too.
    ///
    /// It takes the place of an `after_release` that was set before.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use sqlx::sqlite::SqlitePoolOptions;
    /// use tidings::SqliteOutbox;
    ///
    /// # async fn example() -> sqlx::Result<()> {
    /// let pool = SqliteOutbox::guard(SqlitePoolOptions::new().max_connections(4)).connect("sqlite:shop.sqlite").await?;
    /// # Ok(()) }
    /// ```
    #[must_use]
    pub fn guard(pool: SqlitePoolOptions) -> SqlitePoolOptions {
        pool.after_release(|connection, _| {
            Box::pin(async {
                let rolled_back = sqlx::query("rollback").execute(&mut *connection).await.is_ok();
                Ok(!rolled_back && SqliteTransactionManager::get_transaction_depth(connection) == 0)
            })
        })
    }

    /// Sets how long events are kept after they are delivered: so long they can be replayed. Defaults to three days. The last
    /// event of each lane is kept for ever.
    #[must_use]
    pub fn with_retention(mut self, retention: Duration) -> Self {
        self.retention = retention;
        self
    }

    /// Creates or updates the outbox's tables. Safe to call from several services at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn migrate(&self) -> Result<()> {
        let migrating = || failed("migrating the outbox's tables");
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(migrating())?;
        // By the connection's own `execute`: of the statement's the compiler can't tell that it may be awaited in a spawned task.
        let ledger = sqlx::raw_sql(
            "create table if not exists tidings_migration (
               version integer primary key, applied_at integer not null default (unixepoch())) strict",
        );
        tx.execute(ledger).await.map_err(migrating())?;
        let applied = applied(&mut *tx).await.map_err(migrating())?;
        for step in migration::pending(&migration::SQLITE, &applied) {
            tx.execute(sqlx::raw_sql(step.sql)).await.map_err(migrating())?;
            sqlx::query("insert into tidings_migration (version) values (?)")
                .bind(step.version)
                .execute(&mut *tx)
                .await
                .map_err(migrating())?;
        }
        tx.commit().await.map_err(migrating())
    }
}

#[cfg(feature = "admin")]
impl SqliteOutbox {
    /// For what an operator does.
    pub(crate) fn pool(&self) -> &SqlitePool {
        &self.pool
    }
}

async fn applied(executor: impl SqliteExecutor<'_>) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar("select version from tidings_migration order by version").fetch_all(executor).await
}

async fn heads(executor: impl SqliteExecutor<'_>) -> sqlx::Result<Vec<Head>> {
    let rows = sqlx::query(HEADS).fetch_all(executor).await?;
    let lanes = u16::try_from(rows.len()).ok().and_then(|count| Lanes::new(count, 0).ok());
    let lanes = lanes.ok_or_else(|| sqlx::Error::Decode("not a number of lanes that can be".into()))?;
    let head = |row: SqliteRow| {
        let settled = set_of(&row, "published")?;
        let (last, held) = (row.try_get("last")?, row.try_get::<Option<i64>, _>("held")?);
        let floor = floor(&settled);
        let floor = held.map_or(floor, |held| floor.min(held));
        Ok(Head { last, floor, highest_settled: highest(&settled), life: 0, lanes })
    };
    rows.into_iter().map(head).collect()
}

/// The floor of a lane where something waits is the number of what has waited longest.
async fn lag(connection: &mut SqliteConnection) -> sqlx::Result<Lag> {
    let relayed: Vec<bool> = sqlx::query_scalar(RELAYED).fetch_all(&mut *connection).await?;
    let relays = sqlx::query_scalar(RELAYS).fetch_one(&mut *connection).await?;
    let (mut oldest_waiting, mut lanes_without_relay, mut waiting) = (None, 0, 0);
    for ((lane, head), relayed) in (0u16..).zip(heads(&mut *connection).await?).zip(relayed) {
        if head.floor > head.last {
            continue;
        }
        waiting += head.last.abs_diff(head.floor) + 1;
        let waits = sqlx::query_scalar(WAITS).bind(lane).bind(head.floor).fetch_optional(&mut *connection).await?;
        let waits = waits.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
        oldest_waiting = oldest_waiting.max(waits);
        lanes_without_relay += u32::from(waits.is_some() && !relayed);
    }
    let (relays, lanes_without_relay) = (Some(relays), Some(lanes_without_relay));
    Ok(Lag { oldest_waiting, relays, lanes_without_relay, waiting: Some(waiting) })
}

/// One statement a row: it draws the number and writes the row at once, so that no other writer comes between.
pub(crate) async fn append(connection: &mut SqliteConnection, rows: &[Row]) -> sqlx::Result<Vec<Appended>> {
    let mut appended = Vec::with_capacity(rows.len());
    for row in rows {
        let number = sqlx::query_scalar(APPEND)
            .bind(row.lane)
            .bind(row.event_id.to_string())
            .bind(&*row.definition_key)
            .bind(&*row.record.topic)
            .bind(String::from_utf8_lossy(&row.record.key))
            .bind(row.record.headers.as_bytes())
            .bind(row.record.payload.as_deref())
            .bind(envelope::VERSION)
            .fetch_one(&mut *connection)
            .await?;
        appended.push(Appended::new(number, 0));
    }
    Ok(appended)
}

pub(crate) fn set_of(row: &SqliteRow, column: &str) -> sqlx::Result<rangemap::RangeSet<i64>> {
    multirange::from_text(row.try_get(column)?).ok_or_else(|| sqlx::Error::Decode("not a set of numbers".into()))
}

impl Outbox for SqliteOutbox {
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        Box::pin(async {
            let tables: i64 = sqlx::query_scalar("select count(*) from sqlite_master where name = 'tidings_migration'")
                .fetch_one(&self.pool)
                .await
                .map_err(failed("reading its version"))?;
            let applied = match tables {
                0 => Vec::new(),
                _ => applied(&self.pool).await.map_err(failed("reading its version"))?,
            };
            migration::check_applied(&migration::SQLITE, &applied)?;
            let count = sqlx::query_scalar("select count(*) from tidings_lane").fetch_one(&self.pool).await;
            Lanes::new(count.map_err(failed("counting the lanes"))?, 0)
        })
    }

    fn append<'a>(&'a self, _: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let append = async {
                // Others wait for the connections of the pool as well. Who has not begun has stored nothing.
                let begun = tokio::time::timeout(BUSY_TIMEOUT, self.pool.begin_with("begin immediate")).await;
                let mut tx = begun.unwrap_or(Err(sqlx::Error::PoolTimedOut))?;
                let appended = append(&mut tx, rows).await?;
                tx.commit().await?;
                Ok(appended)
            };
            append.await.map_err(failed("appending to the log"))
        })
    }

    fn append_in<'a>(&'a self, _: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        Box::pin(async move {
            let (is_open, other) = (tx.is_open(), tx.describe());
            let Inner::Sqlite(connection) = tx.0 else {
                let message = format!("this outbox needs a transaction of its SQLite database, and was given {other}");
                return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
            };
            // Whether or not the caller has a transaction open: all rows or none.
            let append = async {
                sqlx::query("savepoint tidings_append").execute(&mut *connection).await?;
                let appended = append(connection, rows).await;
                if appended.is_err() {
                    sqlx::query("rollback to tidings_append").execute(&mut *connection).await?;
                }
                sqlx::query("release tidings_append").execute(&mut *connection).await?;
                appended
            };
            append.await.map_err(failed_in(is_open, "appending to the log"))
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async { heads(&self.pool).await.map_err(failed("reading the lanes")) })
    }

    fn lag(&self) -> BoxFuture<'_, Result<Lag>> {
        Box::pin(async {
            let look = async {
                // One snapshot for all of it.
                let mut tx = self.pool.begin().await?;
                let lag = lag(&mut tx).await?;
                tx.rollback().await?;
                Ok(lag)
            };
            look.await.map_err(failed("reading how far behind the relays are"))
        })
    }

    /// With the writers' lock: no transaction is open then, and a number without a row is one that was rolled back.
    fn drawn(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async {
            let drawn = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                let heads = heads(&mut *tx).await?;
                tx.rollback().await?;
                Ok(heads)
            };
            drawn.await.map_err(failed("reading the lanes"))
        })
    }

    fn lease(&self, owner: Uuid, ttl: Duration, _: i64) -> BoxFuture<'_, Result<Leases>> {
        Box::pin(async move {
            let lease = |row: &SqliteRow| {
                Ok(Lease {
                    lane: row.try_get("lane")?,
                    epoch: row.try_get("epoch")?,
                    settled: set_of(row, "published")?,
                    last: row.try_get("last")?,
                    keep: row.try_get("keep")?,
                })
            };
            let (owner, ttl) = (owner.to_string(), ttl.as_secs_f64());
            let leases = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                sqlx::query(SEEN).bind(&owner).bind(ttl).execute(&mut *tx).await?;
                let share: i64 = sqlx::query_scalar(SHARE).bind(&owner).fetch_one(&mut *tx).await?;
                sqlx::query(LEASE).bind(&owner).bind(ttl).bind(share).execute(&mut *tx).await?;
                let rows = sqlx::query(LEASED).bind(&owner).bind(share).fetch_all(&mut *tx).await?;
                tx.commit().await?;
                let leases = rows.iter().map(lease).collect::<sqlx::Result<_>>()?;
                Ok(Leases { leases, share: usize::try_from(share).unwrap_or_default(), life: 0 })
            };
            leases.await.map_err(failed("leasing lanes"))
        })
    }

    fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let owner = owner.to_string();
            let release = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                if leaves {
                    sqlx::query("delete from tidings_relay where id = ?").bind(&owner).execute(&mut *tx).await?;
                    sqlx::query("update tidings_lane set owner = null, lease_until = null where owner = ?")
                        .bind(&owner)
                        .execute(&mut *tx)
                        .await?;
                }
                for lane in lanes {
                    sqlx::query(
                        "update tidings_lane set owner = null, lease_until = null where owner = ? and lane = ?",
                    )
                    .bind(&owner)
                    .bind(lane)
                    .execute(&mut *tx)
                    .await?;
                }
                tx.commit().await
            };
            release.await.map_err(failed("releasing lanes"))
        })
    }

    fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        Box::pin(async move {
            let mut parked = Vec::new();
            for lane in lanes {
                let rows = sqlx::query(PARKED).bind(lane).fetch_all(&self.pool).await;
                let of_lane: sqlx::Result<Vec<_>> = rows.and_then(|rows| rows.iter().map(parked_key).collect());
                let of_lane = of_lane.map_err(failed("reading the parked keys"))?;
                parked.extend(of_lane.into_iter().map(|parked| (*lane, parked)));
            }
            Ok(parked)
        })
    }

    fn held<'a>(&'a self, lane: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        Box::pin(async move {
            let statement =
                sqlx::query(HELD).bind(lane).bind(String::from_utf8_lossy(key)).bind(limits.rows).bind(limits.bytes);
            let held = |row: &SqliteRow| {
                Ok(HeldRow { row: stored_row(lane, row)?, definition_key: row.try_get("definition_key")? })
            };
            let rows = statement.fetch_all(&self.pool).await;
            rows.and_then(|rows| rows.iter().map(held).collect()).map_err(failed("reading held rows"))
        })
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            // Numbers have no gaps, and one that was drawn and rolled back is drawn again: none is ever proven dead.
            let mut page = Page { rows: Vec::new(), horizon: 0, life: 0 };
            let read = async {
                // One snapshot for all holes: else a row that is committed while they are read, one after another, could be
                // missed below one that was committed after it.
                let mut connection = self.pool.begin().await?;
                for hole in holes {
                    let left = usize::try_from(limits.in_all).unwrap_or(usize::MAX).saturating_sub(page.rows.len());
                    if left == 0 {
                        break;
                    }
                    let rows = sqlx::query(PAGE)
                        .bind(hole.lane)
                        .bind(hole.low)
                        .bind(hole.high)
                        .bind(limits.rows.min(u32::try_from(left).unwrap_or(u32::MAX)))
                        .bind(limits.bytes)
                        .fetch_all(&mut *connection)
                        .await?;
                    for row in rows {
                        page.rows.push(stored_row(hole.lane, &row)?);
                    }
                }
                Ok(page)
            };
            read.await.map_err(failed("reading a page"))
        })
    }

    fn retain(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async {
            let keep = i64::try_from(self.retention.as_millis()).unwrap_or(i64::MAX);
            let mut lanes: Vec<_> = (0u16..).zip(self.heads().await?).collect();
            let until = Instant::now() + RETAIN_FOR;
            // Round after round, so that each lane gets its share of the time.
            while !lanes.is_empty() && Instant::now() < until {
                let mut with_more = Vec::new();
                for (lane, head) in lanes {
                    let dropped = sqlx::query(RETAIN)
                        .bind(lane)
                        .bind(head.floor)
                        .bind(keep)
                        .bind(RETAIN_ROWS)
                        .execute(&self.pool)
                        .await
                        .map_err(failed("dropping what is delivered"))?;
                    if dropped.rows_affected() >= RETAIN_ROWS.into() {
                        with_more.push((lane, head));
                    }
                }
                lanes = with_more;
            }
            Ok(())
        })
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        Box::pin(async move {
            let mut lanes = Vec::with_capacity(progress.len());
            if progress.is_empty() {
                return Ok(Settled { lanes, mark: NEVER_PASSED });
            }
            let write = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                for progress in progress {
                    if settle(&mut tx, progress).await? {
                        lanes.push(progress.lane);
                    }
                }
                tx.commit().await?;
                Ok(Settled { lanes, mark: NEVER_PASSED })
            };
            write.await.map_err(failed("recording progress"))
        })
    }
}

/// Writes the progress of a lane down, if its lease still holds.
async fn settle(connection: &mut SqliteConnection, progress: &Progress) -> sqlx::Result<bool> {
    let Progress { lane, epoch, .. } = progress;
    let row = sqlx::query("select published from tidings_lane where lane = ? and epoch = ?")
        .bind(lane)
        .bind(epoch)
        .fetch_optional(&mut *connection)
        .await?;
    let Some(row) = row else { return Ok(false) };
    let mut published = set_of(&row, "published")?;
    published.extend(progress.settled.iter().cloned());
    sqlx::query("update tidings_lane set published = ? where lane = ?")
        .bind(multirange::to_text(&published))
        .bind(lane)
        .execute(&mut *connection)
        .await?;
    const HOLD: &str = "insert into tidings_held (lane, record_key, seq) values (?, ?, ?) on conflict do nothing";
    const UNHOLD: &str = "delete from tidings_held where lane = ? and record_key = ? and seq = ?";
    for (statement, rows) in [(HOLD, &progress.held), (UNHOLD, &progress.unheld)] {
        for (key, number) in rows {
            sqlx::query(statement)
                .bind(lane)
                .bind(String::from_utf8_lossy(key))
                .bind(number)
                .execute(&mut *connection)
                .await?;
        }
    }
    for parked in &progress.parked {
        sqlx::query(PARK)
            .bind(lane)
            .bind(String::from_utf8_lossy(&parked.key))
            .bind(parked.head)
            .bind(parked.error_kind.as_str())
            .bind(&parked.error)
            .bind(parked.attempts)
            .bind(seconds_of(parked.first_failure_at))
            .bind(parked.retry_in.as_secs_f64())
            .execute(&mut *connection)
            .await?;
    }
    const OBEYED: &str = "update tidings_parked set command = null where lane = ? and record_key = ? and command = ?";
    for (key, command) in &progress.obeyed {
        sqlx::query(OBEYED)
            .bind(lane)
            .bind(String::from_utf8_lossy(key))
            .bind(command.as_str())
            .execute(&mut *connection)
            .await?;
    }
    const FREED: &str = "delete from tidings_parked where lane = ? and record_key = ?";
    for key in &progress.freed {
        sqlx::query(FREED).bind(lane).bind(String::from_utf8_lossy(key)).execute(&mut *connection).await?;
    }
    Ok(true)
}

fn parked_key(row: &SqliteRow) -> sqlx::Result<Parked> {
    Ok(Parked {
        key: row.try_get::<String, _>("record_key")?.into(),
        head: row.try_get("head")?,
        // One of a later version is as good as any.
        error_kind: ErrorKind::named(row.try_get("error_kind")?).unwrap_or(ErrorKind::RecordRejected),
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        first_failure_at: time_of(row.try_get("first_failure_at")?),
        retry_in: Duration::try_from_secs_f64(row.try_get("retry_in")?).unwrap_or_default(),
        command: row.try_get::<Option<&str>, _>("command")?.and_then(Command::named),
    })
}

fn stored_row(lane: u16, row: &SqliteRow) -> sqlx::Result<StoredRow> {
    let key = Bytes::from(row.try_get::<String, _>("record_key")?);
    let (headers, payload): (Vec<u8>, Option<Vec<u8>>) = (row.try_get("headers")?, row.try_get("payload")?);
    Ok(StoredRow {
        lane,
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::EventId;
    use crate::transport::Record;
    use crate::wire::Headers;

    fn row() -> Row {
        let record = Record { topic: "t".into(), key: "k".into(), headers: Headers::default(), payload: None };
        Row { lane: 0, event_id: EventId::new(), definition_key: "d".into(), record }
    }

    async fn outbox(folder: &tempfile::TempDir) -> SqliteOutbox {
        let outbox = SqliteOutbox::open(folder.path().join("outbox.sqlite"));
        outbox.migrate().await.unwrap();
        outbox
    }

    #[tokio::test]
    async fn all_that_is_delivered_and_old_enough_is_dropped_at_once_however_much_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(&folder).await.with_retention(Duration::ZERO);
        let rows: Vec<_> = (0..2_500).map(|_| row()).collect();
        outbox.append(Lanes::new(32, 0).unwrap(), &rows).await.unwrap();
        sqlx::query("update tidings_lane set published = '{[1,2501)}' where lane = 0")
            .execute(&outbox.pool)
            .await
            .unwrap();
        sqlx::query("update tidings_outbox set created_at = created_at - 1000").execute(&outbox.pool).await.unwrap();
        // Once is enough, if the machine is not too busy.
        for _ in 0..2 {
            outbox.retain().await.unwrap();
        }
        let left: i64 =
            sqlx::query_scalar("select count(*) from tidings_outbox").fetch_one(&outbox.pool).await.unwrap();
        assert_eq!(left, 1, "the last one of a lane stays");
    }

    #[tokio::test]
    async fn a_command_that_is_given_while_another_is_obeyed_stands() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(&folder).await;
        sqlx::query(
            "insert into tidings_parked (lane, record_key, head, error_kind, error, attempts, command, first_failure_at, next_attempt_at)
             values (0, 'k', 1, 'too_large', '', 1, 'skip', 0, 0)",
        )
        .execute(&outbox.pool)
        .await
        .unwrap();
        let leased = outbox.lease(Uuid::now_v7(), Duration::from_secs(60), 0).await.unwrap();
        let mut progress = Progress { lane: 0, epoch: leased.leases[0].epoch, ..Progress::default() };
        for (obeyed, left) in [(Command::Resume, Some(Command::Skip)), (Command::Skip, None)] {
            progress.obeyed = vec![("k".into(), obeyed)];
            assert_eq!(outbox.settle(&[progress.clone()]).await.unwrap().lanes, [0]);
            assert_eq!(outbox.parked(&[0]).await.unwrap()[0].1.command, left);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_page_shows_all_its_holes_as_of_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = outbox(&folder).await;
        let done = AtomicBool::new(false);
        let write = async {
            while !done.load(Ordering::SeqCst) {
                outbox.append(Lanes::new(32, 0).unwrap(), &[row()]).await.unwrap();
            }
        };
        let read = async {
            let mut next = 1;
            while next < 1_500 {
                // Many holes that show nothing, so that reading them takes a while.
                let single = |number| Hole { lane: 0, low: number, high: number + 1 };
                let holes: Vec<_> = (0..40).map(|ahead| single(next + ahead)).collect();
                let page = outbox.page(&holes, Limits { rows: 10, bytes: u32::MAX, in_all: u32::MAX }).await.unwrap();
                let numbers: Vec<_> = page.rows.iter().map(|row| row.sequence).collect();
                let count = i64::try_from(numbers.len()).unwrap();
                assert_eq!(
                    numbers,
                    (next..next + count).collect::<Vec<_>>(),
                    "a number is missing below one that is there"
                );
                next += count;
            }
            done.store(true, Ordering::SeqCst);
        };
        tokio::join!(write, read);
    }
}
