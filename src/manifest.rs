//! What a service publishes: its events, how each is delivered, and where to. For the people and programs that read them.
//!
//! The form has a JSON Schema, `schemas/manifest.schema.json`. Nothing in it is secret: neither brokers nor credentials.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;

use crate::catalog::compiled::{CompiledCatalog, Settings};
use crate::catalog::{Catalog, ContentMode, EventClass};
use crate::config::Config;
use crate::error::Result;
use crate::policy::DeliveryPolicy;

#[cfg(feature = "axum")]
mod router;

#[cfg(feature = "axum")]
pub use router::router;

/// The version of the form: a minor one adds members, a major one changes or removes some.
const VERSION: &str = "1.0.0";

/// What a service publishes; from [`Producer::manifest`](crate::Producer::manifest) or [`Manifest::of`].
///
/// # Examples
///
/// ```
/// use tidings::manifest::Manifest;
/// use tidings::{Catalog, Config, EventDefinition};
///
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let config = Config::new("//shop/orders", ["kafka:9092"])?;
///
/// let manifest = Manifest::of(&config, &catalog)?.with_service("shop", "1.4.2");
/// assert_eq!(manifest.events[0].topic, "events.order.created");
/// assert_eq!(manifest.events[0].policy.to_string(), "enabled:true,direct:direct,outbox:fallback,dlq:on_routable_failure,poison:block");
/// # Ok::<(), tidings::Error>(())
/// ```
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Manifest {
    /// The version of the manifest's form.
    pub version: String,
    /// Who publishes.
    pub publisher: Publisher,
    /// In order of their keys.
    pub events: Vec<Event>,
}

/// Who publishes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Publisher {
    /// What the service calls itself. Defaults to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_name: Option<String>,
    /// The service's version. Defaults to none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_version: Option<String>,
    /// The version of this library.
    pub lib_version: String,
    /// The `ce_source` of every event.
    pub source: String,
    /// The producer's name in dead letters; none of a manifest that was made without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub producer_id: Option<String>,
    /// Whether streaming is on: otherwise nothing is published.
    pub enabled: bool,
    /// Whether there is an outbox.
    pub outbox_supported: bool,
}

/// An event that is published.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Event {
    /// The name by which requests ask for it.
    pub key: String,
    /// What it happened to.
    pub resource_type: String,
    /// What happened.
    pub event_type: String,
    /// The two of them: `<resource>.<event>`.
    pub event_key: String,
    /// Its `ce_type`.
    pub ce_type: String,
    /// The version of the payload's schema.
    pub schema_version: String,
    /// The media type of the payload.
    pub data_content_type: String,
    /// The URI of the payload's schema.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data_schema: Option<String>,
    /// A sentence for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it is one of the system itself.
    pub system_event: bool,
    /// What kind of message it is.
    pub class: EventClass,
    /// How it becomes a record.
    pub content_mode: ContentMode,
    /// What its order is by: `tenant`, `subject`, `attribute`, `custom`, or `system`.
    pub partition_key: String,
    /// The extension attributes that all of them have, as they stand in the JSON event format.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extensions: BTreeMap<String, Box<RawValue>>,
    /// The topic that it goes to.
    pub topic: String,
    /// The topic that it goes to when it can't be delivered, if its policy says so.
    pub dlq_topic: String,
    /// No larger record is published, key and headers included; in bytes.
    pub max_record_bytes: usize,
    /// How it is delivered, by default, as the service declares it.
    pub default_policy: DeliveryPolicy,
    /// How it is delivered, with what operators have changed.
    pub policy: DeliveryPolicy,
}

impl Manifest {
    /// What a producer of this configuration, with an outbox, would publish. For a service that holds an `Arc<dyn Emitter>`, or
    /// whose streaming is off. Such a one need not have a source: without, it is called `unnamed`.
    ///
    /// # Errors
    ///
    /// As [`ProducerBuilder::build`](crate::ProducerBuilder::build): [`ErrorKind::InvalidConfig`](crate::ErrorKind::InvalidConfig)
    /// if topics can't be named by the source, [`ErrorKind::InvalidDefinition`](crate::ErrorKind::InvalidDefinition) or
    /// [`ErrorKind::InvalidPolicy`](crate::ErrorKind::InvalidPolicy) if a name or a policy can't be.
    pub fn of(config: &Config, catalog: &Catalog) -> Result<Self> {
        let config = config.clone().named_or("unnamed")?;
        let compiled = CompiledCatalog::compile(catalog.clone(), &Settings::of(&config, &config.naming, true)?)?;
        let mut manifest = Self::new(&compiled);
        manifest.publisher.enabled = config.is_enabled();
        Ok(manifest)
    }

    pub(crate) fn new(catalog: &CompiledCatalog) -> Self {
        let publisher = Publisher {
            service_name: None,
            app_version: None,
            lib_version: env!("CARGO_PKG_VERSION").to_owned(),
            source: catalog.source().to_owned(),
            producer_id: None,
            enabled: true,
            outbox_supported: catalog.has_outbox(),
        };
        Self { version: VERSION.to_owned(), publisher, events: catalog.entries().collect() }
    }

    /// Sets what the service calls itself, and its version. Defaults to neither.
    #[must_use]
    pub fn with_service(mut self, name: impl Into<String>, version: impl Into<String>) -> Self {
        self.publisher.service_name = Some(name.into());
        self.publisher.app_version = Some(version.into());
        self
    }

    /// The manifest as JSON.
    #[must_use]
    #[expect(clippy::missing_panics_doc, reason = "all keys are texts, and all values are of JSON")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("a manifest can be written")
    }
}

#[cfg(test)]
mod tests;
