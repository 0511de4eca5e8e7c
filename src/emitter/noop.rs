//! The emitter for where streaming is off.

use tokio::sync::watch;

use super::{Emitter, Outcome, Receipt};
use crate::BoxFuture;
use crate::catalog::Catalog;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EmitRequest;
use crate::health::Health;
use crate::tx::Tx;

/// Checks requests against the catalog, and emits nothing.
///
/// What a producer would refuse for the caller's fault it refuses too, so switching streaming on brings no surprise. Only the
/// size of a record and a request's change of policy it can't judge: they depend on settings.
///
/// # Examples
///
/// ```
/// use tidings::{Catalog, EmitRequest, Emitter, EventDefinition, NoopEmitter, Outcome};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let emitter = NoopEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?);
/// let receipt = emitter.emit(EmitRequest::new("order.created").payload("{}")).await?;
/// assert_eq!(receipt.outcome, Outcome::Disabled);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct NoopEmitter {
    catalog: Catalog,
    closed: watch::Sender<bool>,
}

impl NoopEmitter {
    /// An emitter for the events of this catalog.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, closed: watch::Sender::new(false) }
    }

    fn accept(&self, request: EmitRequest) -> Result<Receipt> {
        if *self.closed.borrow() {
            return Err(closed());
        }
        let event = self.catalog.accept(request)?;
        Ok(Receipt::new(event.id, Outcome::Disabled))
    }

    /// Completes when it is closed.
    pub(super) async fn until_closed(&self) {
        // The sender is ours, so there is no error.
        let _ = self.closed.subscribe().wait_for(|is_closed| *is_closed).await;
    }
}

/// The error of every emitter that was closed.
pub(crate) fn closed() -> Error {
    Error::new(ErrorKind::Closed, "the emitter was closed")
}

impl Emitter for NoopEmitter {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(std::future::ready(self.accept(request)))
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(std::future::ready(requests.into_iter().map(|request| self.accept(request)).collect()))
    }

    fn append<'a>(&'a self, _: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(std::future::ready(requests.into_iter().map(|request| self.accept(request)).collect()))
    }

    fn committed(&self, _: Vec<Receipt>) {}

    fn health(&self) -> BoxFuture<'_, Health> {
        let health = if *self.closed.borrow() { Health::closed() } else { Health::healthy() };
        Box::pin(std::future::ready(health))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.closed.send_replace(true);
        Box::pin(std::future::ready(Ok(())))
    }
}
