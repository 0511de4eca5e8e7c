//! The service's database: its own table, and the outbox beside it.
//!
//! PostgreSQL; the service's own tests have a SQLite file in its place, so that they need no server. The statements are the same.

use std::error::Error;

use sqlx::Pool;

#[cfg(not(test))]
pub(crate) use {sqlx::Postgres as Database, tidings::PostgresOutbox as Outbox};
#[cfg(test)]
pub(crate) use {sqlx::Sqlite as Database, tidings::SqliteOutbox as Outbox};

/// Connections of the service's own, and the outbox in the same database. Makes what is not there yet.
pub(crate) async fn open(url: &str) -> Result<(Pool<Database>, Outbox), Box<dyn Error>> {
    let (pool, outbox) = connect(url)?;
    // A real service has migrations.
    let table =
        "create table if not exists orders (id text primary key, customer text not null, total_cents bigint not null)";
    sqlx::query(table).execute(&pool).await?;
    outbox.migrate().await?;
    Ok((pool, outbox))
}

#[cfg(not(test))]
fn connect(url: &str) -> Result<(Pool<Database>, Outbox), Box<dyn Error>> {
    Ok((Pool::connect_lazy(url)?, Outbox::connect(url)?))
}

#[cfg(test)]
fn connect(file: &str) -> Result<(Pool<Database>, Outbox), Box<dyn Error>> {
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(file).create_if_missing(true);
    let pool = Outbox::guard(sqlx::sqlite::SqlitePoolOptions::new()).connect_lazy_with(options);
    Ok((pool, Outbox::open(file)))
}
