//! The events of the services: three definitions, each with another policy and a topic of its own.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use tidings::{Catalog, DomainEvent, EmitRequest, EventDefinition};

/// Which event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Kind {
    /// `outbox=fallback`.
    Sale,
    /// `outbox=journaled`.
    Stock,
    /// `outbox=always`, so that several processes may emit events of one key.
    Ledger,
}

/// The policies of the definitions: the value of `STREAMING_EVENT_POLICIES`.
pub(crate) const POLICIES: &str = "stock.moved.outbox=journaled,ledger.booked.outbox=always";
/// The value of `STREAMING_TOPIC_PREFIX`.
pub(crate) const PREFIX: &str = "chaos";

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Sale, Self::Stock, Self::Ledger];

    pub(crate) fn topic(self) -> String {
        let event = match self {
            Self::Sale => "sale.made",
            Self::Stock => "stock.moved",
            Self::Ledger => "ledger.booked",
        };
        format!("{PREFIX}.{event}")
    }

    /// The request for an event of this key.
    pub(crate) fn request(self, key: &str, id: &str) -> tidings::Result<EmitRequest> {
        let (account, event) = (key.to_owned(), id.to_owned());
        let request = match self {
            Self::Sale => EmitRequest::of(&SaleMade { account, event }),
            Self::Stock => EmitRequest::of(&StockMoved { account, event }),
            Self::Ledger => EmitRequest::of(&LedgerBooked { account, event }),
        };
        Ok(request?.id(id.parse()?))
    }
}

pub(crate) fn catalog() -> tidings::Result<Catalog> {
    Catalog::new([
        EventDefinition::of::<SaleMade>(),
        EventDefinition::of::<StockMoved>(),
        EventDefinition::of::<LedgerBooked>(),
    ])
}

/// What every payload says: whose event it is, and which.
#[derive(Debug, Deserialize)]
pub(crate) struct Payload {
    pub(crate) account: String,
    pub(crate) event: String,
}

macro_rules! event {
    ($name:ident, $resource:literal, $event:literal) => {
        #[derive(Debug, Serialize)]
        struct $name {
            account: String,
            event: String,
        }

        impl DomainEvent for $name {
            const KEY: &'static str = concat!($resource, ".", $event);
            const RESOURCE: &'static str = $resource;
            const EVENT: &'static str = $event;

            fn tenant(&self) -> Option<Cow<'static, str>> {
                Some(self.account.clone().into())
            }
        }
    };
}

event!(SaleMade, "sale", "made");
event!(StockMoved, "stock", "moved");
event!(LedgerBooked, "ledger", "booked");
