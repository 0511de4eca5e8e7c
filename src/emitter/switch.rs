//! The right emitter for the settings.

use std::sync::Arc;

use super::Emitter;
use super::noop::NoopEmitter;
use crate::BoxFuture;
use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::Result;
use crate::outbox::Outbox;
use crate::producer::Producer;

/// The emitter that the settings ask for, and its relay: a [`Producer`] and its [`relay`](Producer::relay), or, with
/// `STREAMING_ENABLED=false`, a [`NoopEmitter`] and a future that just waits for `shutdown`
/// or [`close`](Emitter::close). For tokens instead of passwords,
/// see [`Config::with_token_provider`].
///
/// # Errors
///
/// See [`ProducerBuilder::build`](crate::ProducerBuilder::build). Enabled without brokers is an error, never a no-op.
///
/// # Examples
///
/// ```
/// use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition, Outcome, SqliteOutbox};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let config = Config::from_vars([("STREAMING_ENABLED", "false")])?;
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let outbox = SqliteOutbox::open("shop.sqlite");
/// let shutdown = async { /* such as SIGTERM */ };
///
/// let (emitter, relay) = tidings::emitter(config, catalog, outbox, shutdown).await?;
/// let relay = tokio::spawn(relay);
///
/// let receipt = emitter.emit(EmitRequest::new("order.created").payload("{}")).await?;
/// assert_eq!(receipt.outcome, Outcome::Disabled);
/// # relay.await.unwrap()?;
/// # Ok(()) }
/// ```
pub async fn emitter(
    config: Config,
    catalog: Catalog,
    outbox: impl Outbox,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(Arc<dyn Emitter>, BoxFuture<'static, Result<()>>)> {
    if !config.is_enabled() {
        let emitter = Arc::new(NoopEmitter::new(catalog));
        let closing = Arc::clone(&emitter);
        let relay = async move {
            tokio::select! {
                () = shutdown => {}
                () = closing.until_closed() => {}
            }
            Ok(())
        };
        return Ok((emitter, Box::pin(relay)));
    }
    let producer = Producer::builder(config, catalog).with_outbox(outbox).build().await?;
    let relay = producer.relay(shutdown);
    Ok((Arc::new(producer), relay))
}
