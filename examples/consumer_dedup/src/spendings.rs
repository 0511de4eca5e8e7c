//! What each customer has spent: each order counts once, however often its event arrives.

use serde::Deserialize;
use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode};
use tidings::wire::CloudEvent;

pub(crate) struct Spendings(SqlitePool);

#[derive(Deserialize)]
struct OrderPlaced {
    customer: String,
    total_cents: i64,
}

impl Spendings {
    pub(crate) async fn open(file: &str) -> sqlx::Result<Self> {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let pool = SqlitePool::connect_with(options.journal_mode(SqliteJournalMode::Wal)).await?;
        for table in [
            "create table if not exists spent (customer text primary key, cents integer not null)",
            // An event's identity is its source with its id. Rows may go when no copy can come any more: the outbox keeps what is
            // delivered for some days, and an operator may replay that.
            "create table if not exists taken (source text, id text, at text default current_timestamp, primary key (source, id))",
        ] {
            sqlx::query(table).execute(&pool).await?;
        }
        Ok(Self(pool))
    }

    /// Takes an event, and says whether it was new. What it does and that it was taken are one transaction: neither is there without
    /// the other, wherever this dies.
    pub(crate) async fn take(&self, event: &CloudEvent) -> Result<bool, Box<dyn std::error::Error>> {
        let order: OrderPlaced = serde_json::from_slice(event.data.as_deref().unwrap_or_default())?;
        let mut tx = self.0.begin().await?;
        let taken = sqlx::query("insert into taken (source, id) values ($1, $2) on conflict do nothing")
            .bind(&event.source)
            .bind(&event.id)
            .execute(&mut *tx)
            .await?;
        let is_new = taken.rows_affected() > 0;
        if is_new {
            let add =
                "insert into spent values ($1, $2) on conflict (customer) do update set cents = cents + excluded.cents";
            sqlx::query(add).bind(order.customer).bind(order.total_cents).execute(&mut *tx).await?;
        }
        tx.commit().await?;
        Ok(is_new)
    }

    #[cfg(test)]
    pub(crate) async fn of(&self, customer: &str) -> sqlx::Result<i64> {
        sqlx::query_scalar("select cents from spent where customer = $1").bind(customer).fetch_one(&self.0).await
    }
}
