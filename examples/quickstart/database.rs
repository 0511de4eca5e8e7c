//! The service's database: its orders, and the outbox beside them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::PgPoolOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions};
use sqlx::{PgPool, Postgres, Sqlite, SqlitePool};
use tidings::{AsTx, PostgresOutbox, ProducerBuilder, SqliteOutbox, Tx};

use crate::Result;
use crate::orders::OrderChange;

const CREATE: &str = "create table {orders} (customer text, number bigint, id text, status text, total_cents bigint)";
const INSERT: &str = "insert into {orders} values ($1, $2, $3, $4, $5)";
const COUNT: &str = "select count(*) from {orders}";
const DROP: &str = "drop table {orders}";

/// How long PostgreSQL may take to answer at first.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

pub(crate) struct Database {
    pool: Pool,
    /// The name of the table of orders.
    table: String,
}

enum Pool {
    Sqlite(SqlitePool, PathBuf),
    Postgres(PgPool, String),
}

impl Database {
    pub(crate) async fn sqlite(file: PathBuf) -> Result<Self> {
        let options = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let pool = SqliteOutbox::guard(SqlitePoolOptions::new());
        let pool = pool.connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
        Ok(Self { pool: Pool::Sqlite(pool, file), table: "orders".into() })
    }

    pub(crate) async fn postgres(url: String, table: String) -> Result<Self> {
        let pool = PgPoolOptions::new().acquire_timeout(CONNECT_TIMEOUT).connect(&url).await?;
        Ok(Self { pool: Pool::Postgres(pool, url), table })
    }

    pub(crate) async fn create_orders(&self) -> Result<()> {
        self.run(CREATE).await
    }

    /// Gives the producer the outbox of this database.
    pub(crate) async fn add_outbox(&self, builder: ProducerBuilder) -> Result<ProducerBuilder> {
        match &self.pool {
            Pool::Sqlite(_, file) => {
                let outbox = SqliteOutbox::open(file);
                outbox.migrate().await?;
                Ok(builder.with_outbox(outbox))
            }
            Pool::Postgres(_, url) => {
                let outbox = PostgresOutbox::connect(url)?;
                outbox.migrate().await?;
                Ok(builder.with_outbox(outbox))
            }
        }
    }

    pub(crate) async fn begin(&self) -> Result<UnitOfWork> {
        let insert = self.sql(INSERT);
        Ok(match &self.pool {
            Pool::Sqlite(pool, _) => UnitOfWork::Sqlite(pool.begin().await?, insert),
            Pool::Postgres(pool, _) => UnitOfWork::Postgres(pool.begin().await?, insert),
        })
    }

    pub(crate) async fn count_orders(&self) -> Result<usize> {
        let count = self.sql(COUNT);
        let count: i64 = match &self.pool {
            Pool::Sqlite(pool, _) => sqlx::query_scalar(&count).fetch_one(pool).await?,
            Pool::Postgres(pool, _) => sqlx::query_scalar(&count).fetch_one(pool).await?,
        };
        Ok(usize::try_from(count)?)
    }

    pub(crate) async fn drop_orders(&self) -> Result<()> {
        self.run(DROP).await
    }

    async fn run(&self, statement: &str) -> Result<()> {
        let statement = self.sql(statement);
        match &self.pool {
            Pool::Sqlite(pool, _) => sqlx::query(&statement).execute(pool).await.map(drop)?,
            Pool::Postgres(pool, _) => sqlx::query(&statement).execute(pool).await.map(drop)?,
        }
        Ok(())
    }

    fn sql(&self, statement: &str) -> String {
        statement.replace("{orders}", &self.table)
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.pool {
            Pool::Sqlite(_, file) => write!(f, "the SQLite file {}", file.display()),
            Pool::Postgres(..) => f.write_str("the PostgreSQL of DATABASE_URL"),
        }
    }
}

/// The service's own transaction. It has one database; this example has two to choose from.
pub(crate) enum UnitOfWork {
    Sqlite(sqlx::Transaction<'static, Sqlite>, String),
    Postgres(sqlx::Transaction<'static, Postgres>, String),
}

impl UnitOfWork {
    pub(crate) async fn write_order(&mut self, order: &OrderChange) -> Result<()> {
        macro_rules! insert {
            ($tx:ident, $insert:ident) => {
                sqlx::query($insert)
                    .bind(&order.customer)
                    .bind(i64::from(order.number))
                    .bind(&order.order)
                    .bind(&order.status)
                    .bind(order.total_cents)
                    .execute(&mut **$tx)
                    .await
                    .map(drop)?
            };
        }
        match self {
            Self::Sqlite(tx, insert) => insert!(tx, insert),
            Self::Postgres(tx, insert) => insert!(tx, insert),
        }
        Ok(())
    }

    pub(crate) async fn commit(self) -> Result<()> {
        match self {
            Self::Sqlite(tx, _) => Ok(tx.commit().await?),
            Self::Postgres(tx, _) => Ok(tx.commit().await?),
        }
    }

    pub(crate) async fn rollback(self) -> Result<()> {
        match self {
            Self::Sqlite(tx, _) => Ok(tx.rollback().await?),
            Self::Postgres(tx, _) => Ok(tx.rollback().await?),
        }
    }
}

/// This is all that it takes to emit in it.
impl AsTx for UnitOfWork {
    fn as_tx(&mut self) -> Tx<'_> {
        match self {
            Self::Sqlite(tx, _) => tx.as_tx(),
            Self::Postgres(tx, _) => tx.as_tx(),
        }
    }
}
