//! The caller's own transaction, as an emitter sees it.

use std::marker::PhantomData;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
use sqlx::TransactionManager as _;

/// An open transaction of the caller's, borrowed for one emit.
///
/// Opaque, so that another database breaks nobody. Callers rarely name it: `emit_in` takes anything that is [`AsTx`].
pub struct Tx<'a>(pub(crate) Inner<'a>);

pub(crate) enum Inner<'a> {
    #[cfg(feature = "postgres")]
    Postgres(&'a mut sqlx::PgConnection),
    #[cfg(feature = "sqlite")]
    Sqlite(&'a mut sqlx::SqliteConnection),
    Detached(PhantomData<&'a mut ()>),
    /// One of the simulation's database, by its number.
    #[cfg(test)]
    Simulated(u64),
}

impl Tx<'_> {
    /// A transaction of no database, for the unit tests of code that emits in one.
    ///
    /// The mock and the no-op emitter accept it; a producer refuses it.
    #[must_use]
    pub fn detached() -> Self {
        Self(Inner::Detached(PhantomData))
    }

    /// Whether its caller has yet to commit, as far as sqlx knows. It does not know of a `BEGIN` that was a statement like others.
    pub(crate) fn is_open(&self) -> bool {
        match &self.0 {
            #[cfg(feature = "postgres")]
            Inner::Postgres(connection) => sqlx::postgres::PgTransactionManager::get_transaction_depth(connection) > 0,
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(connection) => sqlx::sqlite::SqliteTransactionManager::get_transaction_depth(connection) > 0,
            Inner::Detached(_) => true,
            #[cfg(test)]
            Inner::Simulated(_) => true,
        }
    }

    /// What kind of connection it is, for error messages.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn describe(&self) -> &'static str {
        match self.0 {
            #[cfg(feature = "postgres")]
            Inner::Postgres(_) => "a PostgreSQL connection",
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(_) => "a SQLite connection",
            Inner::Detached(_) => "a detached transaction, which is for mocks only",
            #[cfg(test)]
            Inner::Simulated(_) => "a simulated transaction",
        }
    }
}

impl std::fmt::Debug for Tx<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0 {
            #[cfg(feature = "postgres")]
            Inner::Postgres(_) => "Tx(Postgres)",
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(_) => "Tx(Sqlite)",
            Inner::Detached(_) => "Tx(Detached)",
            #[cfg(test)]
            Inner::Simulated(_) => "Tx(Simulated)",
        })
    }
}

/// What an event can be emitted in: sqlx's transactions and connections, and a service's own unit of work.
///
/// A connection that is in no transaction is accepted: the event is then durable as soon as the emit returns,
/// and may be so if the emit fails: [`Error::is_ambiguous`](crate::Error::is_ambiguous) says whether.
///
/// # Examples
///
/// A unit of work of a service's own, with a fake for its unit tests:
///
/// ```
/// use tidings::{AsTx, Tx};
///
/// struct FakeUnitOfWork;
///
/// impl AsTx for FakeUnitOfWork {
///     fn as_tx(&mut self) -> Tx<'_> {
///         Tx::detached()
///     }
/// }
/// ```
pub trait AsTx: Send {
    /// Borrows the transaction.
    fn as_tx(&mut self) -> Tx<'_>;
}

impl AsTx for Tx<'_> {
    fn as_tx(&mut self) -> Tx<'_> {
        match &mut self.0 {
            #[cfg(feature = "postgres")]
            Inner::Postgres(connection) => Tx(Inner::Postgres(connection)),
            #[cfg(feature = "sqlite")]
            Inner::Sqlite(connection) => Tx(Inner::Sqlite(connection)),
            Inner::Detached(_) => Tx::detached(),
            #[cfg(test)]
            Inner::Simulated(transaction) => Tx(Inner::Simulated(*transaction)),
        }
    }
}

/// Implements [`AsTx`] for a database's connection, transaction and pooled connection.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
macro_rules! as_tx {
    ($database:ident, $connection:ident, $variant:ident) => {
        impl AsTx for sqlx::$connection {
            fn as_tx(&mut self) -> Tx<'_> {
                Tx(Inner::$variant(self))
            }
        }

        impl AsTx for sqlx::Transaction<'_, sqlx::$database> {
            fn as_tx(&mut self) -> Tx<'_> {
                Tx(Inner::$variant(self))
            }
        }

        impl AsTx for sqlx::pool::PoolConnection<sqlx::$database> {
            fn as_tx(&mut self) -> Tx<'_> {
                Tx(Inner::$variant(self))
            }
        }
    };
}

#[cfg(feature = "postgres")]
as_tx!(Postgres, PgConnection, Postgres);
#[cfg(feature = "sqlite")]
as_tx!(Sqlite, SqliteConnection, Sqlite);
