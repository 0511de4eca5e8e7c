//! Domain events, published in order, never lost.
//!
//! A service that changes its database and tells others about it makes two writes that can't be one. tidings is the one
//! dependency that keeps them together: services hold an [`Emitter`]; a [`Producer`] publishes events as CloudEvents on
//! Kafka, stores them in an outbox in the service's own database when it can't or must not, and relays them from there.
//!
//! ```no_run
//! use tidings::{Catalog, Config, EmitRequest, EmitterExt, EventDefinition, PostgresOutbox};
//!
//! # async fn example(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
//! let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
//! let outbox = PostgresOutbox::connect("postgres://shop@localhost/shop")?;
//! outbox.migrate().await?;
//! let shutdown = async { tokio::signal::ctrl_c().await.unwrap() };
//! let (emitter, relay) = tidings::emitter(Config::from_env()?, catalog, outbox, shutdown).await?;
//! tokio::spawn(relay);
//!
//! let request = |order: &'static str| EmitRequest::new("order.created").tenant("t-abc").subject(order).payload("{}");
//! emitter.emit(request("order-17")).await?;                  // on the topic, or in the outbox
//!
//! let mut tx = pool.begin().await?;                          // the service's own transaction
//! emitter.emit_in(&mut tx, request("order-18")).await?;      // exists exactly if it commits
//! tx.commit().await?;
//! # Ok(()) }
//! ```
//!
//! # The way of an event
//!
//! ```text
//!                    emit                               emit_in, in the caller's transaction
//!                      |                                  |
//!          checked against the catalog        checked against the catalog
//!                      |                                  |
//!         older events of its lane in the                 |
//!         outbox, or breaker open, or          yes        v
//!         policy `always`?   ------------------------> outbox ---- relay, lane by lane
//!                      | no                               ^                |
//!                      v                                  |                v
//!                 Kafka client ---- not confirmed --------+            Kafka topic
//!                      |                                                   ^
//!                      +------------------- confirmed ---------------------+
//! ```
//!
//! # Why an outbox?
//!
//! Published after the commit, an event is lost when the process dies in between. Published before it, an event is invented
//! when the transaction rolls back. A row in the same transaction is neither. And a broker that is down costs a caller the
//! time of one insert.
//!
//! # Promises
//!
//! * **Nothing lost**: an emit that returned `Ok` is on the topic, acknowledged by all replicas in sync, or durably in the
//!   outbox.
//! * **Nothing invented**: an event emitted in a transaction exists exactly if that commits.
//! * **One order per key**: events of one partition key reach the topic in the order in which they were accepted, whichever
//!   way each took, judged by the first occurrence of each. [`Emitter`] says what *accepted in order* means. It holds among
//!   all emits of one producer; between two processes that emit events of the same key directly there is a window when one
//!   of them falls back: [`OutboxMode::Always`] closes it.
//! * **Bounded latency**: a caller waits for a broker that is down for the direct timeout (two seconds) at most.
//! * **At least once**: a duplicate has the same `ce_id`. Duplicates come from a crash, or from a broker that did not answer
//!   in time, and there are at most as many as were in flight.
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `kafka` | yes | the Kafka transport, over librdkafka (built from source, needs a C compiler) |
//! | `postgres` | yes | [`PostgresOutbox`] |
//! | `sqlite` | | `SqliteOutbox` (built from source, needs a C compiler) |
//! | `tls`, `tls-vendored` | | TLS to the brokers, and SASL by SCRAM and OAUTHBEARER, over the system's OpenSSL or one built from source |
//! | `admin` | | the module `admin`: depth, parked keys, pauses, replays and checks of an outbox |
//! | `axum` | | [`health`] and [`manifest`]: routers with `/live`, `/ready`, `/health` and `/manifest` for axum 0.8 |
//! | `metrics` | | metrics for a recorder of the crate `metrics` |
//! | `otel` | | an event takes its trace along, by `tracing-opentelemetry` |
//! | `testing` | | the module `testing`: `MockEmitter`, a transport in memory, a check of the promises, and one of emitters |
//!
//! Connections and transactions are those of sqlx 0.8.
//!
//! There is a no-op emitter for where streaming is off, [`NoopEmitter`], and a mock for unit tests, `MockEmitter`. Both check
//! requests against the catalog as the producer does; the size of a record and a request's change of policy, which depend on
//! settings, the no-op emitter does not check.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(all(feature = "admin", any(feature = "postgres", feature = "sqlite")))]
pub mod admin;
mod breaker;
mod catalog;
mod config;
#[cfg(test)]
mod documented;
mod emitter;
mod error;
mod event;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
mod in_flight;
pub mod manifest;
mod naming;
pub mod outbox;
mod policy;
mod producer;
mod rate_limit;
#[cfg(test)]
mod reference;
mod relay;
mod sanitize;
#[cfg(test)]
mod simulation;
#[cfg_attr(not(feature = "kafka"), allow(dead_code, reason = "the Kafka client alone sends records"))]
mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod token;
pub mod transport;
mod tx;
pub mod wire;

pub use crate::breaker::{BreakerState, ForcedBreaker};
pub use crate::catalog::{Catalog, ContentMode, CustomKey, EventClass, EventDefinition, PartitionKey};
pub use crate::config::Config;
pub use crate::emitter::noop::NoopEmitter;
pub use crate::emitter::switch::emitter;
pub use crate::emitter::{Emitter, EmitterExt, Outcome, Receipt, StoredReason};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::event::domain::DomainEvent;
pub use crate::event::extension::AttributeValue;
pub use crate::event::{EmitRequest, EventId};
pub use crate::naming::Naming;
#[cfg(feature = "postgres")]
pub use crate::outbox::postgres::PostgresOutbox;
#[cfg(feature = "sqlite")]
pub use crate::outbox::sqlite::SqliteOutbox;
pub use crate::policy::{DeliveryPolicy, DirectMode, DlqMode, OutboxMode, PoisonMode, PolicyOverride, PolicyOverrides};
pub use crate::producer::Producer;
pub use crate::producer::builder::ProducerBuilder;
pub use crate::producer::closing::Leftover;
pub use crate::rate_limit::RateLimit;
pub use crate::token::{Token, TokenProvider};
pub use crate::tx::{AsTx, Tx};

/// The future that an object-safe asynchronous method returns.
pub type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
