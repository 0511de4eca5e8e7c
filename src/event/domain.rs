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

/// What a type says of its events.
#[derive(Debug, Clone)]
pub(crate) struct Typed {
    pub(crate) name: &'static str,
    pub(crate) resource: &'static str,
    pub(crate) event: &'static str,
    pub(crate) schema_version: &'static str,
}

impl EventDefinition {
    /// The definition of a typed event. What its type does not say is the default, and can be set.
    ///
    /// Requests for its key must be made from values of `T`: another payload is an
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload). A [tombstone](EmitRequest::tombstone) has none.
    pub fn of<T: DomainEvent>() -> Self {
        let mut definition = Self::new(T::KEY, T::RESOURCE, T::EVENT).with_schema_version(T::SCHEMA_VERSION);
        definition.payload_type = Some(std::any::type_name::<T>());
        definition
    }
}

impl EmitRequest {
    /// A request to emit a typed event. The emitter checks that the catalog's definition of its key is one of this resource, event
    /// and schema version, and of JSON. A payload that is set afterwards is no longer the type's.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidPayload`](crate::ErrorKind::InvalidPayload) if it can't be written as JSON.
    pub fn of<T: DomainEvent>(event: &T) -> Result<Self> {
        let mut request = Self::new(T::KEY).json(event)?;
        request.typed = Some(Typed {
            name: std::any::type_name::<T>(),
            resource: T::RESOURCE,
            event: T::EVENT,
            schema_version: T::SCHEMA_VERSION,
        });
        request.tenant = event.tenant();
        request.subject = event.subject();
        Ok(request)
    }
}
