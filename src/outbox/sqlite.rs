//! The outbox in a SQLite file.

use std::time::Duration;

use sqlx::TransactionManager as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteRow, SqliteSynchronous, SqliteTransactionManager,
};
use sqlx::{Row as _, SqliteConnection, SqliteExecutor, SqlitePool};
use uuid::Uuid;

use super::failure::{failed, failed_in_transaction};
use super::{
    Head, Hole, Lease, Outbox, Page, Progress, Row, Settled, StoredRow, envelope, floor, migration, multirange,
};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::tx::{Inner, Tx};

/// The outbox in tables `tidings_…` of a SQLite file, for services of one host.
///
/// SQLite has one writer at a time. An emit that needs the outbox waits for a transaction that is open elsewhere, for
/// five seconds at most. In a transaction use `emit_in`: an `emit` there would wait for its own transaction.
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
}

/// How long a statement waits for the other writer.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// One writes at a time; the others are for reading beside it.
const CONNECTIONS: u32 = 4;

/// A mark that no horizon reaches.
const NEVER_PASSED: u64 = u64::MAX;

const APPEND: &str = "
    insert into tidings_outbox (lane, seq, event_id, definition_key, topic, record_key, headers, payload, envelope_version)
    values (?1, (select coalesce(max(seq), 0) + 1 from tidings_outbox where lane = ?1), ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    returning seq";

const HEADS: &str = "
    select (select coalesce(max(seq), 0) from tidings_outbox o where o.lane = l.lane) as last, published
    from tidings_lane l order by lane";

const LEASE: &str = "
    update tidings_lane
    set epoch = epoch + (owner is not ?1), owner = ?1, lease_until = unixepoch('subsec') + ?2
    where owner = ?1 or owner is null or lease_until < unixepoch('subsec')
    returning lane, epoch, published";

const PAGE: &str = "
    select seq, topic, record_key, headers, payload, envelope_version from tidings_outbox
    where lane = ?1 and seq >= ?2 and seq < ?3 order by seq limit ?4";

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
        let pool = SqlitePoolOptions::new().max_connections(CONNECTIONS).after_release(|connection, _| {
            // A future that is dropped while its transaction begins or ends may leave it open, and the file locked for ever, or
            // leave sqlx in doubt of it. Such a connection is closed.
            Box::pin(async {
                let rolled_back = sqlx::query("rollback").execute(&mut *connection).await.is_ok();
                Ok(!rolled_back && SqliteTransactionManager::get_transaction_depth(connection) == 0)
            })
        });
        Self { pool: pool.connect_lazy_with(options) }
    }

    /// Creates or updates the outbox's tables. Safe to call from several services at once.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn migrate(&self) -> Result<()> {
        let migrating = || failed("migrating the outbox's tables");
        let mut tx = self.pool.begin_with("begin immediate").await.map_err(migrating())?;
        sqlx::raw_sql(
            "create table if not exists tidings_migration (
               version integer primary key, applied_at integer not null default (unixepoch())) strict",
        )
        .execute(&mut *tx)
        .await
        .map_err(migrating())?;
        let applied = applied(&mut *tx).await.map_err(migrating())?;
        for step in migration::pending(&migration::SQLITE, &applied) {
            sqlx::raw_sql(step.sql).execute(&mut *tx).await.map_err(migrating())?;
            sqlx::query("insert into tidings_migration (version) values (?)")
                .bind(step.version)
                .execute(&mut *tx)
                .await
                .map_err(migrating())?;
        }
        tx.commit().await.map_err(migrating())
    }
}

async fn applied(executor: impl SqliteExecutor<'_>) -> sqlx::Result<Vec<i32>> {
    sqlx::query_scalar("select version from tidings_migration order by version").fetch_all(executor).await
}

/// One statement a row: it draws the number and writes the row at once, so that no other writer comes between.
async fn append(connection: &mut SqliteConnection, rows: &[Row]) -> sqlx::Result<Vec<i64>> {
    let mut numbers = Vec::with_capacity(rows.len());
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
        numbers.push(number);
    }
    Ok(numbers)
}

fn set_of(row: &SqliteRow, column: &str) -> sqlx::Result<rangemap::RangeSet<i64>> {
    multirange::from_text(row.try_get(column)?).ok_or_else(|| sqlx::Error::Decode("not a set of numbers".into()))
}

impl Outbox for SqliteOutbox {
    fn lanes(&self) -> BoxFuture<'_, Result<u16>> {
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
            sqlx::query_scalar("select count(*) from tidings_lane")
                .fetch_one(&self.pool)
                .await
                .map_err(failed("counting the lanes"))
        })
    }

    fn append<'a>(&'a self, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        Box::pin(async move {
            let append = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                let numbers = append(&mut tx, rows).await?;
                tx.commit().await?;
                Ok(numbers)
            };
            append.await.map_err(failed("appending to the log"))
        })
    }

    fn append_in<'a>(&'a self, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        Box::pin(async move {
            let other = tx.describe();
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
            append.await.map_err(failed_in_transaction("appending to the log"))
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async {
            let head =
                |row: SqliteRow| Ok(Head { last: row.try_get("last")?, floor: floor(&set_of(&row, "published")?) });
            let rows = sqlx::query(HEADS).fetch_all(&self.pool).await;
            rows.and_then(|rows| rows.into_iter().map(head).collect()).map_err(failed("reading the lanes"))
        })
    }

    fn lease(&self, owner: Uuid, ttl: Duration) -> BoxFuture<'_, Result<Vec<Lease>>> {
        Box::pin(async move {
            let lease = |row: SqliteRow| {
                Ok(Lease {
                    lane: row.try_get("lane")?,
                    epoch: row.try_get("epoch")?,
                    settled: set_of(&row, "published")?,
                })
            };
            let rows = sqlx::query(LEASE).bind(owner.to_string()).bind(ttl.as_secs_f64()).fetch_all(&self.pool).await;
            rows.and_then(|rows| rows.into_iter().map(lease).collect()).map_err(failed("leasing lanes"))
        })
    }

    fn release(&self, owner: Uuid) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let released = sqlx::query("update tidings_lane set owner = null, lease_until = null where owner = ?")
                .bind(owner.to_string())
                .execute(&self.pool)
                .await;
            released.map(drop).map_err(failed("releasing lanes"))
        })
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limit: u32) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            // Numbers have no gaps, and one that was drawn and rolled back is drawn again: none is ever proven dead.
            let mut page = Page { rows: Vec::new(), horizon: 0 };
            let read = async {
                // One snapshot for all holes: else a row that is committed while they are read, one after another, could be
                // missed below one that was committed after it.
                let mut connection = self.pool.begin().await?;
                for hole in holes {
                    let rows = sqlx::query(PAGE)
                        .bind(hole.lane)
                        .bind(hole.low)
                        .bind(hole.high)
                        .bind(limit)
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

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        Box::pin(async move {
            let mut lanes = Vec::with_capacity(progress.len());
            if progress.is_empty() {
                return Ok(Settled { lanes, mark: NEVER_PASSED });
            }
            let write = async {
                let mut tx = self.pool.begin_with("begin immediate").await?;
                for Progress { lane, epoch, settled } in progress {
                    let row = sqlx::query("select published from tidings_lane where lane = ? and epoch = ?")
                        .bind(lane)
                        .bind(epoch)
                        .fetch_optional(&mut *tx)
                        .await?;
                    let Some(row) = row else { continue };
                    let mut published = set_of(&row, "published")?;
                    published.extend(settled.iter().cloned());
                    sqlx::query("update tidings_lane set published = ? where lane = ?")
                        .bind(multirange::to_text(&published))
                        .bind(lane)
                        .execute(&mut *tx)
                        .await?;
                    lanes.push(*lane);
                }
                tx.commit().await?;
                Ok(Settled { lanes, mark: NEVER_PASSED })
            };
            write.await.map_err(failed("recording progress"))
        })
    }
}

fn stored_row(lane: u16, row: &SqliteRow) -> sqlx::Result<StoredRow> {
    let key = bytes::Bytes::from(row.try_get::<String, _>("record_key")?);
    let record = envelope::decode(
        row.try_get("envelope_version")?,
        row.try_get("topic")?,
        key.clone(),
        row.try_get("headers")?,
        row.try_get("payload")?,
    );
    Ok(StoredRow { lane, sequence: row.try_get("seq")?, key, record })
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_page_shows_all_its_holes_as_of_one_moment() {
        let folder = tempfile::tempdir().unwrap();
        let outbox = SqliteOutbox::open(folder.path().join("outbox.sqlite"));
        outbox.migrate().await.unwrap();
        let done = AtomicBool::new(false);
        let write = async {
            while !done.load(Ordering::SeqCst) {
                outbox.append(&[row()]).await.unwrap();
            }
        };
        let read = async {
            let mut next = 1;
            while next < 1_500 {
                // Many holes that show nothing, so that reading them takes a while.
                let single = |number| Hole { lane: 0, low: number, high: number + 1 };
                let holes: Vec<_> = (0..40).map(|ahead| single(next + ahead)).collect();
                let page = outbox.page(&holes, 10).await.unwrap();
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
