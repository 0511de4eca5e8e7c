//! The trait that services hold.

use std::fmt;
use std::sync::Arc;

use crate::BoxFuture;
use crate::error::Result;
use crate::event::domain::DomainEvent;
use crate::event::{EmitRequest, EventId};
use crate::health::Health;
use crate::relay::Journaled;
use crate::tx::{AsTx, Tx};

pub(crate) mod noop;
pub(crate) mod switch;

/// Emits domain events. Services hold an `Arc<dyn Emitter>`: the [`Producer`](crate::Producer) in production, a
/// [`NoopEmitter`](crate::NoopEmitter) where streaming is off, a `MockEmitter` in unit tests.
///
/// *Accepted* is an event whose emit returned `Ok`, or whose transaction committed. Events of one partition key reach
/// the topic in the order in which they were accepted. The second event of a key comes after the first if its emit began
/// when that of the first had returned, if both are in one batch, or if their transactions serialise on the key (by a
/// row lock, say). Concurrent emits of one key have no order to keep.
///
/// To add something of your own, such as a quota, wrap an emitter, and hold the wrapper against the suite
/// `testing::conformance`.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tidings::{EmitRequest, Emitter};
///
/// struct Orders { emitter: Arc<dyn Emitter> }
///
/// impl Orders {
///     async fn place(&self, order: &str) -> tidings::Result<()> {
///         let request = EmitRequest::new("order.created").subject(order.to_owned()).json(&serde_json::json!({"order": order}))?;
///         self.emitter.emit(request).await?;
///         Ok(())
///     }
/// }
/// ```
pub trait Emitter: fmt::Debug + Send + Sync + 'static {
    /// Emits one event by its delivery policy.
    ///
    /// # Errors
    ///
    /// A [caller error](crate::Error::is_caller_error) if the request is at fault: then nothing was sent. Otherwise the
    /// event could be neither published nor stored. If the error is retryable, emit again
    /// [with the same id](EmitRequest::id).
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the event is not accepted, but may arrive all the same: it may be on its way to the topic, or
    /// stored. No accepted event is lost or overtaken by that.
    ///
    /// Poll it to its end, or drop it. One that is begun and then left alone, as by a `select!` that goes on with something else,
    /// keeps what it has, such as a connection of the outbox.
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>>;

    /// Emits several events; the results are in the order of the requests.
    ///
    /// They don't wait for one another. Events of one key keep their order all the same: once one of them fails, those behind it
    /// in the batch fail too, unless they have arrived by then.
    ///
    /// # Cancel safety
    ///
    /// As of [`emit`](Self::emit), for each event.
    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>>;

    /// Emits events in the caller's transaction, all or none: they exist exactly if it commits, and go by the outbox
    /// whatever their policy. Callers use [`EmitterExt::emit_in`].
    ///
    /// # Errors
    ///
    /// A [caller error](crate::Error::is_caller_error) if a request or the transaction is at fault: no statement was
    /// run, and the transaction can still be used. [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the database
    /// failed: roll back.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the statement may have run: roll back.
    fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>>;

    /// Says that the transaction of these receipts was committed: those of them whose policy is
    /// [`OutboxMode::Journaled`](crate::OutboxMode::Journaled) go to the relay from memory. Callers use
    /// [`EmitterExt::commit`], or call this after a commit of their own.
    ///
    /// Only after a commit that has succeeded, and not of events whose savepoint was rolled back: an event would be published
    /// that does not exist. Mind that sqlx calls the commit of a PostgreSQL transaction a success though a statement of it has failed
    /// before, and it was rolled back; [`EmitterExt::commit`] does not. If nobody knows what became of the commit, leave it: the relay
    /// finds out. What is not handed over is delivered all the same, some 100 ms later, or after a second if another process relays it.
    ///
    /// It does not wait, and can't fail. Lanes that another process relays are not sent from here; if a relay runs in
    /// this process, it wakes the others.
    fn committed(&self, receipts: Vec<Receipt>);

    /// Asks broker and database at once whether they serve, and yields what they said within some two seconds.
    ///
    /// [`health`](crate::health) says what is healthy, degraded and down. Asking costs each of them a request: who is asked
    /// often, by an orchestrator say, keeps the answer for a while, as the router of the feature `axum` does.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn health(&self) -> BoxFuture<'_, Health>;

    /// Refuses new emits, waits for those under way, and ends the relay that runs, within the close timeout
    /// (`STREAMING_CLOSE_TIMEOUT_S`).
    ///
    /// It may be called again, and by several tasks at once: each waits for the same end.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Timeout`](crate::ErrorKind::Timeout) if something was still under way after the close timeout; its
    /// [`source`](std::error::Error::source) is a [`Leftover`](crate::Leftover) that says what.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the emitter is closed, and nobody waits for what is in flight.
    fn close(&self) -> BoxFuture<'_, Result<()>>;
}

/// What callers of an [`Emitter`] see beside its own methods.
pub trait EmitterExt: Emitter {
    /// Emits one event in the caller's transaction: it exists exactly if that commits.
    ///
    /// `tx` is a transaction or connection of sqlx's, of the database that has the outbox, or a unit of work of your own
    /// that is [`AsTx`].
    ///
    /// # Errors
    ///
    /// See [`Emitter::append`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tidings::{EmitRequest, Emitter, EmitterExt};
    ///
    /// # async fn example(emitter: &dyn Emitter, pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("insert into orders (id) values ('order-17')").execute(&mut *tx).await?;
    /// emitter.emit_in(&mut tx, EmitRequest::new("order.created").subject("order-17").payload("{}")).await?;
    /// tx.commit().await?;
    /// # Ok(()) }
    /// ```
    fn emit_in<'a>(&'a self, tx: &'a mut impl AsTx, request: EmitRequest) -> BoxFuture<'a, Result<Receipt>> {
        let appended = self.append(tx.as_tx(), vec![request]);
        Box::pin(async move {
            let receipts = appended.await?;
            // `append` has one receipt for each request.
            Ok(receipts.into_iter().next().expect("one request, one receipt"))
        })
    }

    /// Emits several events in the caller's transaction, all or none.
    ///
    /// # Errors
    ///
    /// See [`Emitter::append`].
    fn emit_all_in<'a>(
        &'a self,
        tx: &'a mut impl AsTx,
        requests: Vec<EmitRequest>,
    ) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.append(tx.as_tx(), requests)
    }

    /// Commits a transaction of sqlx's, and says so of the events that were emitted in it: those whose policy is
    /// [`OutboxMode::Journaled`](crate::OutboxMode::Journaled) are on their way to the topic when this returns, without a look
    /// at the database. One receipt or many. Of a savepoint it hands nothing over, since that is not committed yet.
    ///
    /// A statement before the commit asks whether there is something to commit: PostgreSQL rolls a transaction back of which a
    /// statement has failed, and calls that no error.
    ///
    /// # Errors
    ///
    /// What the database says of the commit. If [`Error::is_ambiguous`](crate::Error::is_ambiguous), it may have been carried out,
    /// and then the relay delivers the events. [`ErrorKind::StorageConflict`](crate::ErrorKind::StorageConflict) if a statement of
    /// the transaction has failed before.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, the transaction may be committed or not, as with sqlx's own commit.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tidings::{EmitRequest, Emitter, EmitterExt};
    ///
    /// # async fn example(emitter: &dyn Emitter, pool: &sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut tx = pool.begin().await?;
    /// sqlx::query("insert into orders (id) values ('order-17')").execute(&mut *tx).await?;
    /// let receipt = emitter.emit_in(&mut tx, EmitRequest::new("order.created").payload("{}")).await?;
    /// emitter.commit(tx, receipt).await?;
    /// # Ok(()) }
    /// ```
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    fn commit<'a, D: sqlx::Database>(
        &'a self,
        mut tx: sqlx::Transaction<'a, D>,
        receipts: impl Into<Vec<Receipt>>,
    ) -> BoxFuture<'a, Result<()>>
    where
        for<'c> &'c mut D::Connection: sqlx::Executor<'c, Database = D>,
    {
        use sqlx::{Executor as _, TransactionManager as _};

        let receipts = receipts.into();
        Box::pin(async move {
            let is_outermost = D::TransactionManager::get_transaction_depth(&tx) == 1;
            tx.execute("select 1").await.map_err(crate::outbox::failure::failed_in(true, "committing"))?;
            tx.commit().await.map_err(crate::outbox::failure::failed("committing"))?;
            if is_outermost {
                self.committed(receipts);
            }
            Ok(())
        })
    }

    /// Emits a typed event.
    ///
    /// # Errors
    ///
    /// See [`Emitter::emit`]; [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if it can't be written as JSON, or the
    /// catalog's definition is not of JSON; [`ErrorKind::InvalidEvent`](crate::ErrorKind::InvalidEvent) if that has another resource,
    /// event or schema version than the type.
    fn emit_typed<T: DomainEvent>(&self, event: &T) -> BoxFuture<'_, Result<Receipt>> {
        match EmitRequest::of(event) {
            Ok(request) => self.emit(request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }

    /// Emits a typed event in the caller's transaction.
    ///
    /// # Errors
    ///
    /// See [`emit_in`](Self::emit_in) and [`emit_typed`](Self::emit_typed).
    fn emit_typed_in<'a, T: DomainEvent>(&'a self, tx: &'a mut impl AsTx, event: &T) -> BoxFuture<'a, Result<Receipt>> {
        match EmitRequest::of(event) {
            Ok(request) => self.emit_in(tx, request),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
}

impl<E: Emitter + ?Sized> EmitterExt for E {}

/// Forwards to what a pointer points to.
macro_rules! forward {
    ($pointer:ident) => {
        #[deny(clippy::missing_trait_methods)]
        impl<E: Emitter + ?Sized> Emitter for $pointer<E> {
            fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
                (**self).emit(request)
            }

            fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
                (**self).emit_batch(requests)
            }

            fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
                (**self).append(tx, requests)
            }

            fn committed(&self, receipts: Vec<Receipt>) {
                (**self).committed(receipts);
            }

            fn health(&self) -> BoxFuture<'_, Health> {
                (**self).health()
            }

            fn close(&self) -> BoxFuture<'_, Result<()>> {
                (**self).close()
            }
        }
    };
}

forward!(Arc);
forward!(Box);

/// What became of an accepted event.
///
/// That of an event that was emitted in a transaction, and whose policy is [`OutboxMode::Journaled`](crate::OutboxMode::Journaled),
/// has the event with it, for [`Emitter::committed`]. Two are equal if what they say is.
///
/// # Examples
///
/// ```
/// use tidings::{Outcome, Receipt};
///
/// fn describe(receipt: &Receipt) -> String {
///     let place = match &receipt.outcome {
///         Outcome::Published { topic, partition, offset, .. } => format!("{topic}/{partition} at {offset}"),
///         Outcome::Stored { reason, .. } => format!("the outbox: {}", reason.as_str()),
///         _ => "nowhere".to_owned(),
///     };
///     format!("{} is in {place}", receipt.event_id)
/// }
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Receipt {
    /// The event's identity, its `ce_id`.
    pub event_id: EventId,
    /// Where the event is.
    pub outcome: Outcome,
    row: Option<Arc<Journaled>>,
}

impl Receipt {
    /// The receipt of an emitter of your own: for an event that it keeps from the one that it wraps, [`Outcome::Disabled`].
    #[must_use]
    pub fn new(event_id: EventId, outcome: Outcome) -> Self {
        Self { event_id, outcome, row: None }
    }

    /// With the row to hand over after the commit.
    pub(crate) fn with_row(self, row: Option<Arc<Journaled>>) -> Self {
        Self { row, ..self }
    }

    /// The row to hand over after the commit.
    pub(crate) fn into_row(self) -> Option<Arc<Journaled>> {
        self.row
    }
}

impl PartialEq for Receipt {
    fn eq(&self, other: &Self) -> bool {
        (&self.event_id, &self.outcome) == (&other.event_id, &other.outcome)
    }
}

impl Eq for Receipt {}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { event_id, outcome, .. } = self;
        f.debug_struct("Receipt").field("event_id", event_id).field("outcome", outcome).finish_non_exhaustive()
    }
}

impl From<Receipt> for Vec<Receipt> {
    fn from(receipt: Receipt) -> Self {
        vec![receipt]
    }
}

/// Where an accepted event is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// On the topic, acknowledged by all replicas in sync.
    #[non_exhaustive]
    Published {
        /// The topic.
        topic: Arc<str>,
        /// The partition.
        partition: i32,
        /// The offset in the partition.
        offset: i64,
    },
    /// In the outbox; the relay will publish it. An event emitted in a transaction is there only if that commits.
    #[non_exhaustive]
    Stored {
        /// The lane of its key.
        lane: u16,
        /// Its number in the lane.
        sequence: i64,
        /// Why it is there.
        reason: StoredReason,
    },
    /// Nowhere: its policy, or all of streaming, is disabled.
    Disabled,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Published { topic, partition, offset } => write!(f, "published to {topic}/{partition} at {offset}"),
            Self::Stored { lane, sequence, reason } => write!(f, "stored in lane {lane} at {sequence}: {reason}"),
            Self::Disabled => f.write_str("disabled"),
        }
    }
}

/// Why an event went to the outbox. Their names, from [`as_str`](Self::as_str), are stable and fit for a metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoredReason {
    /// Its policy says so.
    Policy,
    /// It was emitted in a transaction.
    Transaction,
    /// An older event of its lane is in the outbox, and it must not overtake it.
    LaneSpilled,
    /// The breaker is open.
    CircuitOpen,
    /// The broker did not take it, or did not say so in time.
    PublishFailed,
}

impl StoredReason {
    /// All reasons, in the order in which they are declared.
    #[cfg(feature = "metrics")]
    pub(crate) const ALL: [Self; 5] =
        [Self::Policy, Self::Transaction, Self::LaneSpilled, Self::CircuitOpen, Self::PublishFailed];

    /// The stable name, in snake case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Transaction => "transaction",
            Self::LaneSpilled => "lane_spilled",
            Self::CircuitOpen => "circuit_open",
            Self::PublishFailed => "publish_failed",
        }
    }
}

impl fmt::Display for StoredReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
