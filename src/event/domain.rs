//! Events with a type of their own.

use std::borrow::Cow;

use serde::Serialize;

use super::EmitRequest;
use crate::catalog::EventDefinition;
use crate::error::Result;

/// A type whose values are the payloads of one event definition, so that no other payload goes out under its key.
///
/// # Examples
///
/// ```
/// use std::borrow::Cow;
/// use tidings::{Catalog, DomainEvent, EmitterExt, EventDefinition, NoopEmitter};
///
/// #[derive(serde::Serialize)]
/// struct OrderCreated { order: String, customer: String, total_cents: u64 }
///
/// impl DomainEvent for OrderCreated {
///     const KEY: &'static str = "order.created";
///     const RESOURCE: &'static str = "order";
///     const EVENT: &'static str = "created";
///
///     fn tenant(&self) -> Option<Cow<'static, str>> {
///         Some(self.customer.clone().into())
///     }
///
///     fn subject(&self) -> Option<Cow<'static, str>> {
///         Some(self.order.clone().into())
///     }
/// }
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let emitter = NoopEmitter::new(Catalog::new([EventDefinition::of::<OrderCreated>()])?);
/// let event = OrderCreated { order: "order-17".into(), customer: "c-3".into(), total_cents: 4200 };
/// emitter.emit_typed(&event).await?;
/// # Ok(()) }
/// ```
pub trait DomainEvent: Serialize {
    /// The key of the definition.
    const KEY: &'static str;
    /// What the event happens to.
    const RESOURCE: &'static str;
    /// What happens.
    const EVENT: &'static str;
    /// The version of the payload's schema.
    const SCHEMA_VERSION: &'static str = "1.0.0";

    /// The tenant of this event. Defaults to none.
    fn tenant(&self) -> Option<Cow<'static, str>> {
        None
    }

    /// The subject of this event. Defaults to none.
    fn subject(&self) -> Option<Cow<'static, str>> {
        None
    }
}

impl EventDefinition {
    /// The definition of a typed event. What its type does not say is the default, and can be set.
    pub fn of<T: DomainEvent>() -> Self {
        Self::new(T::KEY, T::RESOURCE, T::EVENT).with_schema_version(T::SCHEMA_VERSION)
    }
}

impl EmitRequest {
    /// A request to emit a typed event.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if it can't be written as JSON.
    pub fn of<T: DomainEvent>(event: &T) -> Result<Self> {
        let mut request = Self::new(T::KEY).json(event)?;
        request.tenant = event.tenant();
        request.subject = event.subject();
        Ok(request)
    }
}
