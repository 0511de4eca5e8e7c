//! Statements and transactions, each within its time.

use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool, Postgres};

/// A statement that takes longer has lost its connection: each takes some milliseconds.
pub(super) const STATEMENT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whoever has vanished in the middle of a transaction must not keep the locks, and the numbers, that others wait for.
const NOT_FOR_EVER: &str = "set local idle_in_transaction_session_timeout = '10s'";

/// Begins a transaction, for which the same holds.
pub(super) const BEGIN: &str = "begin; set local idle_in_transaction_session_timeout = '10s'";

#[derive(Debug, Clone)]
pub(super) struct Connections {
    pub(super) pool: PgPool,
    /// Whether each transaction may have another session, and what is outside of one, any.
    pub(super) leads_to_pooler: bool,
    /// Begins each of those.
    pub(super) begin: &'static str,
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
        let mut tx = connection.begin_with(self.begin).await?;
        let done = work(&mut tx).await?;
        tx.commit().await?;
        Ok(done)
    }
}

/// Runs a statement, for [`STATEMENT_TIMEOUT`] at most.
pub(super) async fn fetch(pool: &Connections, statement: Query<'_, Postgres, PgArguments>) -> sqlx::Result<Vec<PgRow>> {
    fetch_within(STATEMENT_TIMEOUT, pool, statement).await
}

/// Runs a statement, for so long at most.
pub(super) async fn fetch_within(
    limit: Duration,
    pool: &Connections,
    statement: Query<'_, Postgres, PgArguments>,
) -> sqlx::Result<Vec<PgRow>> {
    let statement = statement.persistent(!pool.leads_to_pooler);
    within(limit, pool, Lent::of(&pool.pool).await?, async |connection| statement.fetch_all(connection).await).await
}

/// Works in a transaction that is begun so, on a connection that no one uses afterwards: sqlx gives one whose `begin` was dropped
/// back to its pool, and whoever has it next adds rows to a transaction that nobody commits.
pub(super) async fn transact<T>(
    pool: &PgPool,
    begin: &'static str,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let mut connection = pool.acquire().await?.detach();
    connection.execute(begin).await?;
    connection.execute(NOT_FOR_EVER).await?;
    let done = work(&mut connection).await?;
    connection.execute("commit").await?;
    // The transaction has ended; what becomes of the connection matters to nobody.
    let _ = connection.close().await;
    Ok(done)
}

/// Runs what takes some milliseconds, for [`STATEMENT_TIMEOUT`] at most.
pub(super) async fn run<T>(
    from: &Connections,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    within(STATEMENT_TIMEOUT, from, Lent::of(&from.pool).await?, work).await
}

/// The same once more, after a connection that turned out to be dead: all those of a database that was started anew are, and
/// each would fail somebody.
pub(super) async fn run_again<T>(
    from: &Connections,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    within(STATEMENT_TIMEOUT, from, alive(&from.pool).await?, work).await
}

/// The same on this connection, for so long at most. One that does not answer is not used again, nor one that leads to a standby:
/// the next may lead to where the primary is by now.
async fn within<T>(
    limit: Duration,
    from: &Connections,
    mut lent: Lent,
    work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>,
) -> sqlx::Result<T> {
    let done = tokio::time::timeout(limit, from.session(&mut lent.connection, work)).await.map_err(|_| timed_out())?;
    lent.is_usable = !done.as_ref().is_err_and(only_reads);
    done
}

/// A connection that is closed rather than given back, unless it is found to be usable: whoever waits for its answer may be dropped.
/// The pool would wait for that answer itself, for however long, and meanwhile nobody else had a connection in its place.
struct Lent {
    connection: PoolConnection<Postgres>,
    is_usable: bool,
}

impl Lent {
    async fn of(pool: &PgPool) -> sqlx::Result<Self> {
        Ok(Self { connection: pool.acquire().await?, is_usable: false })
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !self.is_usable {
            self.connection.close_on_drop();
        }
    }
}

fn timed_out() -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

/// Whether the connection was gone, be it before the statement or in its middle.
pub(super) fn was_cut_off(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() != std::io::ErrorKind::TimedOut,
        // The server's last words: class 57 is that of an operator, of which P01 to P03 are a shutdown, a crash and a start, and P05
        // is the end of a session that nobody has used for long.
        sqlx::Error::Database(error) => {
            error.code().is_some_and(|code| ["57P01", "57P02", "57P03", "57P05"].contains(&&*code))
        }
        _ => false,
    }
}

/// Whether the session can't write, as on a standby.
fn only_reads(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "25006")
}

/// A connection that answers. Dead ones are thrown away.
async fn alive(pool: &PgPool) -> sqlx::Result<Lent> {
    let look = async {
        loop {
            let mut lent = Lent::of(pool).await?;
            if lent.connection.ping().await.is_ok() {
                return Ok(lent);
            }
        }
    };
    tokio::time::timeout(STATEMENT_TIMEOUT, look).await.unwrap_or_else(|_| Err(timed_out()))
}
