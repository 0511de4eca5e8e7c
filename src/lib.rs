//! Domain events, published in order, never lost.
//!
//! TODO crate docs
#![cfg_attr(docsrs, feature(doc_cfg))]

mod breaker;
mod catalog;
mod config;
mod emitter;
mod error;
mod event;
mod in_flight;
mod naming;
pub mod outbox;
mod policy;
mod producer;
mod relay;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;
mod tx;
pub mod wire;

pub use crate::catalog::{Catalog, EventDefinition, PartitionKey};
pub use crate::config::Config;
pub use crate::emitter::noop::NoopEmitter;
pub use crate::emitter::switch::emitter;
pub use crate::emitter::{Emitter, EmitterExt, Health, Outcome, Receipt, StoredReason};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::event::{EmitRequest, EventId};
pub use crate::naming::Naming;
#[cfg(feature = "postgres")]
pub use crate::outbox::postgres::PostgresOutbox;
#[cfg(feature = "sqlite")]
pub use crate::outbox::sqlite::SqliteOutbox;
pub use crate::policy::{DeliveryPolicy, DirectMode, DlqMode, OutboxMode, PolicyOverride, PolicyOverrides};
pub use crate::producer::Producer;
pub use crate::producer::builder::ProducerBuilder;
pub use crate::tx::{AsTx, Tx};

/// The future that an object-safe asynchronous method returns.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
