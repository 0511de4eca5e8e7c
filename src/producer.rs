//! The real emitter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use crate::BoxFuture;
use crate::breaker::Breaker;
use crate::catalog::compiled::CompiledCatalog;
use crate::emitter::noop::closed;
use crate::emitter::{Emitter, Health, Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::in_flight::{Entered, InFlight};
use crate::outbox::Row;
use crate::relay::{Poison, Relay};
use crate::transport::Transport;
use crate::tx::Tx;
use crate::wire::dead_letter::DeadLetters;

pub(crate) mod builder;
mod direct;
pub(crate) mod fallback;
pub(crate) mod spill;

use fallback::Fallback;

/// Publishes events to Kafka, and stores them in the outbox when it can't, or must not.
///
/// Cheap to clone; all clones are one producer. See [`Emitter`] for what it promises.
///
/// # Examples
///
/// ```no_run
/// use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition, PostgresOutbox, Producer};
///
/// # async fn example(shutdown: impl Future<Output = ()> + Send + 'static) -> tidings::Result<()> {
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let outbox = PostgresOutbox::connect("postgres://shop@localhost/shop")?;
/// outbox.migrate().await?;
/// let producer = Producer::builder(Config::from_env()?, catalog).with_outbox(outbox).build().await?;
/// tokio::spawn(producer.relay(shutdown));
///
/// producer.emit(EmitRequest::new("order.created").tenant("t-abc").payload("{}")).await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Producer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    catalog: CompiledCatalog,
    transports: Transports,
    /// The client of the direct path.
    client: RwLock<Client>,
    breaker: Arc<Breaker>,
    fallback: Option<Arc<Fallback>>,
    times: Times,
    /// Names this producer in dead letters.
    id: Uuid,
    dead_letters: Arc<DeadLetters>,
    closed: AtomicBool,
    running: InFlight,
}

/// Makes the transports: one for the direct path, one for the relay. The direct one must not stand behind a backlog.
pub(crate) type Connect = dyn Fn(Role) -> Result<Arc<dyn Transport>> + Send + Sync;

/// Who a transport is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Records are given up after a time: the caller waits.
    Direct,
    /// Records are never given up: a later one of the same key could then arrive without them.
    Relay,
}

#[derive(Clone)]
pub(crate) struct Transports(Arc<Connect>);

impl Transports {
    /// The same transport for every role.
    pub(crate) fn fixed(transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(move |_| Ok(Arc::clone(&transport))))
    }
    pub(crate) fn connect(&self, role: Role) -> Result<Arc<dyn Transport>> {
        (self.0)(role)
    }
}

impl std::fmt::Debug for Transports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transports")
    }
}

/// A client, and how many there were before: one that failed for good is replaced.
#[derive(Debug, Clone)]
struct Client {
    transport: Arc<dyn Transport>,
    generation: u32,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// A direct publish that could still go to the outbox.
    direct: Duration,
    /// A direct publish that can't.
    delivery: Duration,
    close: Duration,
}

/// How long a health probe may take.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Shared {
    fn client(&self) -> Client {
        // Nothing panics while it holds this lock.
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the client of this generation, unless somebody else has.
    fn replace_client(&self, generation: u32) {
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if client.generation != generation {
            return;
        }
        match self.transports.connect(Role::Direct) {
            Ok(transport) => *client = Client { transport, generation: generation + 1 },
            Err(error) => tracing::error!(%error, "the client failed for good, and can't be replaced"),
        }
    }
}

impl Producer {
    /// The relay: moves what is in the outbox to the topic, until `shutdown` completes; then it finishes what is in flight,
    /// frees its lanes, and completes.
    ///
    /// Run it beside the service's server, in a task of its own. Without an outbox it just waits for `shutdown`.
    ///
    /// It outlives failures of broker and database: it tries again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`] if its Kafka client can't be made.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, what was in flight may be sent again by the next relay, which has to wait for the
    /// leases of this one to run out (ten seconds).
    pub fn relay(&self, shutdown: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, Result<()>> {
        let Some(fallback) = self.0.fallback.clone() else {
            return Box::pin(async {
                shutdown.await;
                Ok(())
            });
        };
        let poison = Poison {
            definitions: self.0.catalog.poison(),
            dead_letters: Arc::clone(&self.0.dead_letters),
            producer_id: self.0.id.to_string(),
        };
        let outbox = Arc::clone(&fallback.outbox);
        let relay = Relay::new(outbox, self.0.transports.clone(), fallback, Arc::new(poison));
        Box::pin(async { relay?.run(shutdown).await })
    }

    /// Has every relay of the outbox, of whatever process, look for events now. Call it after the commit of a transaction with
    /// events, where the last milliseconds count: without, relays find them by polling, after 5 to 100 ms while there is
    /// something going on, and after one second at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the outbox's database fails. The events are delivered all the same.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    pub async fn wake(&self) -> Result<()> {
        match &self.0.fallback {
            Some(fallback) => fallback.wake().await,
            None => Ok(()),
        }
    }

    /// Counts an emit as running, unless the producer was closed.
    fn enter(&self) -> Result<Entered<'_>> {
        // Entered first: a close that comes in between waits for this emit, which then sees that it was closed.
        let entered = self.0.running.enter();
        if self.0.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(entered) }
    }

    async fn emit_one(&self, request: EmitRequest) -> Result<Receipt> {
        let _running = self.enter()?;
        let resolved = self.0.catalog.resolve(request)?;
        self.0.deliver(resolved).await
    }

    async fn append_all(&self, tx: Tx<'_>, requests: Vec<EmitRequest>) -> Result<Vec<Receipt>> {
        let _running = self.enter()?;
        let Some(fallback) = &self.0.fallback else {
            let message = "an emit in a transaction needs an outbox, and this producer has none";
            return Err(Error::new(ErrorKind::UnsupportedTransaction, message));
        };
        // All are checked before the first statement: a refused request leaves the transaction usable.
        let resolved =
            requests.into_iter().map(|request| self.0.catalog.resolve(request)).collect::<Result<Vec<_>>>()?;
        let ids: Vec<_> = resolved.iter().map(|resolved| (resolved.id.clone(), resolved.policy.enabled())).collect();
        let enabled = resolved.into_iter().filter(|resolved| resolved.policy.enabled());
        let lanes = fallback.lanes();
        let rows: Vec<_> = enabled.map(|resolved| Row::new(resolved, lanes)).collect();
        let known: Vec<_> = rows.iter().map(|row| fallback.spills.known(row.lane)).collect();
        let appended = match &rows[..] {
            [] => Vec::new(),
            rows => match fallback.outbox.append_in(lanes, tx, rows).await {
                Err(error) if error.kind() == ErrorKind::StorageConflict => {
                    // It may be the number of lanes. The transaction is lost anyway; run again, it finds the new one.
                    if let Err(error) = fallback.recount(lanes).await {
                        tracing::debug!(%error, "the lanes could not be counted anew");
                    }
                    return Err(error);
                }
                appended => appended?,
            },
        };
        for ((row, appended), known) in rows.iter().zip(&appended).zip(known) {
            // Spilled already before the commit: no direct event of the key may come in between.
            fallback.spill(row.lane, *appended, known).await?;
        }
        let mut stored = rows.iter().zip(appended);
        let receipt = |(event_id, enabled)| {
            let row = if enabled { stored.next() } else { None };
            let outcome = row.map_or(Outcome::Disabled, |(row, appended)| Outcome::Stored {
                lane: row.lane,
                sequence: appended.sequence,
                reason: StoredReason::Transaction,
            });
            Receipt { event_id, outcome }
        };
        Ok(ids.into_iter().map(receipt).collect())
    }

    async fn check_health(&self) -> Health {
        if self.0.closed.load(Ordering::SeqCst) {
            return Health::Down { reasons: vec![closed().to_string()] };
        }
        let outbox = async {
            match &self.0.fallback {
                None => Ok(false),
                Some(fallback) => match tokio::time::timeout(PROBE_TIMEOUT, fallback.outbox.heads()).await {
                    Ok(heads) => heads.map(|_| true),
                    Err(_) => Err(Error::new(ErrorKind::Timeout, "the outbox's database did not answer in time")),
                },
            }
        };
        let client = self.0.client();
        match tokio::join!(client.transport.probe(PROBE_TIMEOUT), outbox) {
            (Ok(()), Ok(_)) => Health::Healthy,
            (Ok(()), Err(outbox)) => Health::Degraded { reasons: vec![outbox.to_string()] },
            (Err(broker), Ok(true)) => Health::Degraded { reasons: vec![broker.to_string()] },
            (Err(broker), Ok(false)) => Health::Down { reasons: vec![broker.to_string()] },
            (Err(broker), Err(outbox)) => Health::Down { reasons: vec![broker.to_string(), outbox.to_string()] },
        }
    }

    async fn shut(&self) -> Result<()> {
        if self.0.closed.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        let deadline = Instant::now() + self.0.times.close;
        let finished = tokio::time::timeout_at(deadline, self.0.running.idle()).await.is_ok();
        let flushed = self.0.client().transport.flush(deadline.saturating_duration_since(Instant::now())).await;
        if finished && flushed {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Timeout, "events were still in flight when the close timeout was over"))
        }
    }
}

impl Emitter for Producer {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(self.emit_one(request))
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(self.emit_many(requests))
    }

    fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.append_all(tx, requests))
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        Box::pin(self.check_health())
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.shut())
    }
}

#[cfg(test)]
mod tests;
