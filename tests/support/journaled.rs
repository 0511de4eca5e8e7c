//! Callers that take every way an event can, those of journaled delivery above all.

use std::sync::Arc;

use sqlx::{Database, Pool, Transaction};
use tidings::{Emitter, EmitterExt, OutboxMode, PolicyOverride, Receipt, Result};

use super::callers::Way;
use super::checker::Numbered;
use super::events::Sequence;

/// The policy of an event that goes from memory.
pub(crate) fn journaled() -> PolicyOverride {
    PolicyOverride::default().with_outbox(OutboxMode::Journaled)
}

/// By a way that the event's id decides.
#[derive(Debug)]
pub(crate) struct Mixed<D: Database> {
    pub(crate) pool: Pool<D>,
    /// The statement that begins a transaction that writes.
    pub(crate) begin: &'static str,
}

impl<D: Database> Mixed<D> {
    async fn begin(&self) -> Transaction<'static, D> {
        self.pool.begin_with(self.begin).await.unwrap()
    }
}

/// For one database after the other: the compiler can't tell that a transaction of any is `Send`.
macro_rules! way {
    ($database:ident) => {
        impl Way for Mixed<sqlx::$database> {
            async fn emit(&self, emitter: &Arc<dyn Emitter>, event: &Numbered) -> Result<Receipt> {
                let request = || event.request().policy(journaled());
                let dice = event.id.chars().last().and_then(|digit| digit.to_digit(16)).unwrap();
                match dice {
                    0..3 => emitter.emit(event.request()).await,
                    3..6 => emitter.emit(request()).await,
                    6..8 => {
                        let mut tx = self.begin().await;
                        let receipt = emitter.emit_in(&mut tx, event.request()).await?;
                        tx.commit().await.unwrap();
                        Ok(receipt)
                    }
                    8..12 => {
                        let mut tx = self.begin().await;
                        let receipt = emitter.emit_in(&mut tx, request()).await?;
                        emitter.commit(tx, receipt.clone()).await?;
                        Ok(receipt)
                    }
                    // Nobody says that it was committed.
                    12..14 => {
                        let mut tx = self.begin().await;
                        let receipt = emitter.emit_in(&mut tx, request()).await?;
                        tx.commit().await.unwrap();
                        Ok(receipt)
                    }
                    // One that is rolled back would be an invented one; what comes then is said twice.
                    _ => {
                        let mut tx = self.begin().await;
                        let undone = Sequence::of(event.key.clone()).next();
                        emitter.emit_in(&mut tx, undone.request().policy(journaled())).await?;
                        tx.rollback().await.unwrap();
                        let mut tx = self.begin().await;
                        let receipt = emitter.emit_in(&mut tx, request()).await?;
                        emitter.commit(tx, receipt.clone()).await?;
                        emitter.committed(vec![receipt.clone()]);
                        Ok(receipt)
                    }
                }
            }
        }
    };
}

way!(Postgres);
way!(Sqlite);
