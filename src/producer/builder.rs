//! Making a producer.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::fallback::Fallback;
use uuid::Uuid;

use super::client::{Connect, DirectClient, Transports};
use super::room::Room;
use super::watch::Watch;
use super::{Producer, Shared, Times};
use crate::breaker::Breaker;
use crate::catalog::Catalog;
use crate::catalog::compiled::{CompiledCatalog, Settings};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::InFlight;
use crate::naming::Naming;
use crate::outbox::Outbox;
use crate::rate_limit::{RateLimit, TenantLimits};
use crate::telemetry::metrics;
use crate::token::TokenProvider;
use crate::transport::Transport;
use crate::wire::dead_letter::DeadLetters;

/// How long a start may wait for the topics' limits. A broker that is down must not keep a service from starting.
const LIMITS_TIMEOUT: Duration = Duration::from_secs(1);

/// Makes a [`Producer`]; from [`Producer::builder`].
///
/// # Examples
///
/// ```
/// # #[cfg(all(feature = "kafka", feature = "sqlite"))]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// use tidings::{Catalog, Config, EventDefinition, Naming, Producer, SqliteOutbox};
///
/// # let folder = tempfile::tempdir().unwrap();
/// # let file = folder.path().join("shop.sqlite");
/// let outbox = SqliteOutbox::open(file);
/// outbox.migrate().await?;
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let producer = Producer::builder(Config::new("//shop/orders", ["kafka:9092"])?, catalog)
///     .with_outbox(outbox)
///     .with_naming(Naming::per_event("shop"))
///     .with_tenant_rate_limit("100/500".parse()?)
///     .build()
///     .await?;
/// assert_eq!(producer.manifest().events[0].topic, "shop.order.created");
/// # Ok(()) }
/// # #[cfg(not(all(feature = "kafka", feature = "sqlite")))]
/// # fn main() {}
/// ```
#[derive(Debug)]
#[must_use = "a builder makes nothing until it is built"]
pub struct ProducerBuilder {
    config: Config,
    catalog: Catalog,
    outbox: Option<Arc<dyn Outbox>>,
    transports: Option<Transports>,
    naming: Option<Naming>,
}

impl Producer {
    /// Begins to make a producer for the events of `catalog`.
    pub fn builder(config: Config, catalog: Catalog) -> ProducerBuilder {
        ProducerBuilder { config, catalog, outbox: None, transports: None, naming: None }
    }
}

impl ProducerBuilder {
    /// Sets the outbox: where events go that can't be published now, and those emitted in a transaction. Defaults to none.
    pub fn with_outbox(mut self, outbox: impl Outbox) -> Self {
        self.outbox = Some(Arc::new(outbox));
        self
    }

    /// Sets the transport of both the direct path and the relay. Defaults to Kafka clients as configured.
    pub fn with_transport(mut self, transport: Arc<dyn Transport>) -> Self {
        self.transports = Some(Transports::fixed(transport));
        self
    }

    /// Sets the transports of each role.
    #[cfg(test)]
    pub(crate) fn with_transports(mut self, transports: Transports) -> Self {
        self.transports = Some(transports);
        self
    }

    /// Sets where the clients get their tokens, as [`Config::with_token_provider`] does. Defaults to none.
    pub fn with_token_provider(mut self, provider: impl TokenProvider) -> Self {
        self.config = self.config.with_token_provider(provider);
        self
    }

    /// Sets how topics and types are named. Defaults to what the configuration says.
    pub fn with_naming(mut self, naming: Naming) -> Self {
        self.naming = Some(naming);
        self
    }

    /// Sets how many events each tenant may emit, by any way: [`ErrorKind::RateLimited`] is the answer to those beyond. Events
    /// without a tenant are not counted, nor are those that are refused or disabled. Defaults to what the configuration says.
    ///
    /// Each producer counts for itself.
    pub fn with_tenant_rate_limit(mut self, limit: RateLimit) -> Self {
        self.config.tenant_rate_limit = Some(limit);
        self
    }

    /// Compiles the catalog, makes the client, and looks up how far the outbox is, and how large a record each topic takes.
    ///
    /// The broker need not answer yet: it is asked for one second at most, and what it does not say is not known until the next
    /// start. Then it is the broker that refuses a record that its topic does not take. The outbox's database must answer.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidConfig`], [`ErrorKind::InvalidDefinition`] or [`ErrorKind::InvalidPolicy`] if something is set
    /// wrongly, or streaming is [switched off](Config::is_enabled); [`ErrorKind::Schema`] if the outbox was not migrated;
    /// [`ErrorKind::Storage`] if its database fails.
    pub async fn build(self) -> Result<Producer> {
        let (producer, watch) = self.build_unwatched().await?;
        watch.start();
        Ok(producer)
    }

    /// A producer, and the watch on its client, to be run by the caller.
    pub(crate) async fn build_unwatched(self) -> Result<(Producer, Watch)> {
        metrics::describe();
        let config = self.config;
        if !config.is_enabled() {
            let message = "streaming is off, since STREAMING_ENABLED is not `true`: `tidings::emitter` gives what takes the place \
                           of a producer";
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        for warning in config.warnings() {
            tracing::warn!("{warning}");
        }
        let naming = self.naming.unwrap_or_else(|| config.naming.clone());
        let settings = Settings::of(&config, &naming, self.outbox.is_some())?;
        let mut catalog = CompiledCatalog::compile(self.catalog, &settings)?;
        let transports = match self.transports {
            Some(transports) => transports,
            None => {
                config.client.security.check_provider()?;
                Transports::new(kafka(&config)?)
            }
        };
        let clients = Arc::new(DirectClient::connect(transports)?);
        let client = clients.current();
        let limits = client.transport.max_record_bytes(&catalog.topics(), LIMITS_TIMEOUT).await;
        catalog.limit_records(&limits);
        let batch_max_bytes = usize::try_from(config.client.batch_max_bytes).unwrap_or(usize::MAX);
        if limits.values().any(|max_bytes| *max_bytes < batch_max_bytes) {
            // The next one knows what they take, and makes smaller batches.
            clients.replace(client.generation);
        }
        let fallback = match self.outbox {
            Some(outbox) => Some(Arc::new(Fallback::open(outbox).await?)),
            None => None,
        };
        let times = Times {
            emit: config.emit_timeout,
            direct: config.direct_timeout,
            delivery: config.delivery_timeout,
            close: config.close_timeout,
        };
        let breaker = Arc::new(Breaker::new(&config.breaker));
        let room = Arc::new(Room::new(config.max_in_flight_bytes));
        let watch = Watch::new(&clients, &breaker, times.direct, fallback.as_ref(), &room);
        let producer = Producer(Arc::new(Shared {
            catalog,
            clients,
            breaker,
            fallback,
            times,
            id: Uuid::now_v7(),
            dead_letters: Arc::new(DeadLetters {
                prefix: config.dead_letter_prefix().to_owned(),
                style: config.header_style,
                max_bytes: config.max_record_bytes,
            }),
            closed: AtomicBool::new(false),
            running: InFlight::default(),
            room,
            relays: Arc::default(),
            tenant_limits: config.tenant_rate_limit.map(TenantLimits::new),
        }));
        Ok((producer, watch))
    }
}

#[cfg(feature = "kafka")]
fn kafka(config: &Config) -> Result<Arc<Connect>> {
    use super::client::Role;
    use crate::transport::kafka::{KafkaTransport, config::client_config, token::Tokens, topics::Topics};

    if config.client.brokers.is_empty() {
        let message =
            "streaming is enabled and there are no brokers: set STREAMING_BROKERS, or STREAMING_ENABLED=false";
        return Err(Error::new(ErrorKind::InvalidConfig, message));
    }
    let provider = config.client.security.provider.as_ref().map(|provider| Arc::clone(&provider.0));
    // `build` is asynchronous, and so on the runtime; the relay's client may be made elsewhere.
    let runtime = tokio::runtime::Handle::try_current().map_err(|source| {
        Error::new(ErrorKind::InvalidConfig, "a producer is built on a tokio runtime").with_source(source)
    })?;
    let (direct, relay) = (client_config(config, Role::Direct), client_config(config, Role::Relay));
    let topics = Arc::new(Topics::default());
    Ok(Arc::new(move |role| {
        let config = match role {
            Role::Direct => &direct,
            Role::Relay => &relay,
        };
        let tokens = provider.as_ref().map(|provider| Tokens::new(Arc::clone(provider), runtime.clone()));
        Ok(Arc::new(KafkaTransport::new(config, tokens, Arc::clone(&topics))?) as Arc<dyn Transport>)
    }))
}

#[cfg(not(feature = "kafka"))]
fn kafka(_: &Config) -> Result<Arc<Connect>> {
    let message = "this build has no Kafka client: enable the feature `kafka`, or give the producer a transport";
    Err(Error::new(ErrorKind::InvalidConfig, message))
}
