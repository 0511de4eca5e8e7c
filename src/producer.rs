//! The real emitter.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::BoxFuture;
use crate::breaker::{Breaker, BreakerState, ForcedBreaker};
use crate::catalog::compiled::CompiledCatalog;
use crate::emitter::noop::closed;
use crate::emitter::{Emitter, Receipt};
use crate::error::Result;
use crate::event::EmitRequest;
use crate::health::Health;
use crate::in_flight::{Entered, InFlight};
use crate::manifest::Manifest;
use crate::rate_limit::TenantLimits;
use crate::relay::{DRAIN_TIME, Poison, Relay};
use crate::telemetry::{Emit, metrics};
use crate::tx::Tx;
use crate::wire::dead_letter::DeadLetters;

mod append;
mod batch;
pub(crate) mod builder;
pub(crate) mod client;
pub(crate) mod closing;
mod detours;
mod direct;
pub(crate) mod fallback;
mod health;
pub(crate) mod known;
pub(crate) mod relays;
mod room;
pub(crate) mod spill;
mod turn;
pub(crate) mod watch;

use client::DirectClient;
use fallback::Fallback;
use relays::Relays;
use room::Room;

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
    clients: Arc<DirectClient>,
    breaker: Arc<Breaker>,
    fallback: Option<Arc<Fallback>>,
    times: Times,
    /// Names this producer in dead letters.
    id: Uuid,
    dead_letters: Arc<DeadLetters>,
    closed: AtomicBool,
    running: InFlight,
    room: Arc<Room>,
    relays: Arc<Relays>,
    tenant_limits: Option<TenantLimits>,
}

/// How long things may take.
#[derive(Debug, Clone, Copy)]
struct Times {
    /// An emit altogether, unless its request says otherwise.
    emit: Duration,
    /// A direct publish that could still go to the outbox.
    direct: Duration,
    /// A direct publish that can't.
    delivery: Duration,
    close: Duration,
}

impl Times {
    /// How long the emit of this request may take.
    fn of(&self, request: &EmitRequest) -> Duration {
        request.timeout.unwrap_or(self.emit)
    }

    /// Whether having waited so long for the broker in vain says something of its health: half as long as an ordinary emit does. One
    /// that has less time of its own only says how little that was.
    fn is_outage(&self, waited: Duration) -> bool {
        waited >= self.direct.min(self.emit / 2) / 2
    }
}

impl Producer {
    /// The relay: moves what is in the outbox to the topic, until `shutdown` completes or the producer is closed; then it
    /// finishes what is in flight, frees its lanes, and completes.
    ///
    /// Run it beside the service's server, in a task of its own. Without an outbox it just waits for that.
    ///
    /// It outlives failures of broker and database: it tries again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig) if its Kafka client can't be made.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it completes, what was in flight may be sent again by the next relay, which has to wait for the
    /// leases of this one to run out (ten seconds).
    pub fn relay(&self, shutdown: impl Future<Output = ()> + Send + 'static) -> BoxFuture<'static, Result<()>> {
        let relays = Arc::clone(&self.0.relays);
        let relay = self.0.fallback.clone().map(|fallback| {
            let poison = Poison {
                definitions: self.0.catalog.poison(),
                dead_letters: Arc::clone(&self.0.dead_letters),
                producer_id: self.0.id.to_string(),
            };
            let outbox = Arc::clone(&fallback.outbox);
            let relay =
                Relay::new(Arc::clone(&outbox), self.0.clients.transports().clone(), fallback, Arc::new(poison));
            (relay, outbox)
        });
        Box::pin(async move {
            let Some(_running) = relays.enter() else { return Ok(()) };
            let shutdown = async {
                tokio::select! {
                    () = shutdown => DRAIN_TIME,
                    drain_until = relays.stopped() => drain_until.saturating_duration_since(Instant::now()),
                }
            };
            let Some((relay, outbox)) = relay else {
                let _ = shutdown.await;
                return Ok(());
            };
            tokio::select! {
                biased;
                () = relay?.run(shutdown) => Ok(()),
                // Beside the relay, not in its loop: a question that is not waited for holds a connection all the same.
                never = metrics::tell_of(outbox) => match never {},
            }
        })
    }

    /// Has every relay of the outbox, of whatever process, look for events now. Call it after the commit of a transaction with
    /// events, where the last milliseconds count: without, relays find them by polling, after 5 to 100 ms while there is
    /// something going on, and after one second at most.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`](crate::ErrorKind::Storage) if the outbox's database fails. The events are delivered all the same.
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

    /// What this producer publishes, how and where to.
    #[must_use]
    pub fn manifest(&self) -> Manifest {
        let mut manifest = Manifest::new(&self.0.catalog);
        manifest.publisher.producer_id = Some(self.0.id.to_string());
        manifest
    }

    /// Whether events are published directly at the moment.
    #[must_use]
    pub fn breaker_state(&self) -> BreakerState {
        self.0.breaker.state()
    }

    /// Opens or closes the breaker by hand, whatever the broker does, until this is called with `None`: then it is closed, and
    /// goes by the broker again.
    ///
    /// Open it before a broker is taken down for maintenance, and no caller waits for it: events go to the outbox. Emits that wait
    /// for the broker now do so, too.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use tidings::{BreakerState, ForcedBreaker, Producer};
    ///
    /// # fn example(producer: &Producer) {
    /// producer.force_breaker(Some(ForcedBreaker::Open));
    /// assert_eq!(producer.breaker_state(), BreakerState::ForcedOpen);
    /// # }
    /// ```
    pub fn force_breaker(&self, forced: Option<ForcedBreaker>) {
        self.0.breaker.force(forced);
    }
}

impl Shared {
    /// Counts an emit as running, unless the producer was closed.
    fn enter(&self) -> Result<Entered<'_>> {
        // Entered first: a close that comes in between waits for this emit, which then sees that it was closed.
        let entered = self.running.enter();
        if self.closed.load(Ordering::SeqCst) { Err(closed()) } else { Ok(entered) }
    }
}

impl Emitter for Producer {
    fn emit(&self, mut request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let emit = Emit::begin(&self.0.catalog, &mut request);
            let deadline = Instant::now() + self.0.times.of(&request);
            let (_running, resolved, room) = match self.0.begin(request, deadline, &emit) {
                Ok(begun) => begun,
                Err(error) => return emit.fail(error),
            };
            // Made before anything is waited for, so that the event has its place once.
            let delivery = pin!(self.0.deliver(resolved, deadline));
            let _room = match room {
                Ok(room) => room,
                Err(wait) => match wait.await {
                    Ok(room) => room,
                    Err(error) => return emit.fail(error),
                },
            };
            let result =
                if emit.has_span() { Box::pin(delivery.instrument(emit.span())).await } else { delivery.await };
            emit.end(result.as_ref());
            result
        })
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(self.emit_many(requests))
    }

    fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(self.append_all(tx, requests))
    }

    fn committed(&self, receipts: Vec<Receipt>) {
        self.hand_over(receipts);
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
