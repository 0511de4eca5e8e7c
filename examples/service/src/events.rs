//! What the service tells others.

use std::borrow::Cow;

use serde::Serialize;
use tidings::{Catalog, DomainEvent, EventDefinition};

/// An order was placed. It exists exactly if the order does.
#[derive(Debug, Serialize)]
pub(crate) struct OrderPlaced {
    pub(crate) order: String,
    pub(crate) customer: String,
    pub(crate) total_cents: i64,
}

impl DomainEvent for OrderPlaced {
    const KEY: &'static str = "order.placed";
    const RESOURCE: &'static str = "order";
    const EVENT: &'static str = "placed";

    /// What is ordered by: the events of a customer reach consumers in the order in which they came about.
    fn tenant(&self) -> Option<Cow<'static, str>> {
        Some(self.customer.clone().into())
    }

    fn subject(&self) -> Option<Cow<'static, str>> {
        Some(self.order.clone().into())
    }
}

/// A customer has asked for a price. Nothing is written for it: it goes directly to the broker, and to the outbox if that is down.
#[derive(Debug, Serialize)]
pub(crate) struct QuoteGiven {
    pub(crate) customer: String,
    pub(crate) total_cents: i64,
}

impl DomainEvent for QuoteGiven {
    const KEY: &'static str = "quote.given";
    const RESOURCE: &'static str = "quote";
    const EVENT: &'static str = "given";

    fn tenant(&self) -> Option<Cow<'static, str>> {
        Some(self.customer.clone().into())
    }
}

pub(crate) fn catalog() -> tidings::Result<Catalog> {
    Catalog::new([EventDefinition::of::<OrderPlaced>(), EventDefinition::of::<QuoteGiven>()])
}
