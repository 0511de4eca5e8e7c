//! The catalog as a producer uses it: names, effective policies and constant headers worked out once.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::value::RawValue;

use super::{Catalog, EventDefinition};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute::Source;
use crate::event::extension::AttributeValue;
use crate::event::{EmitRequest, Event, EventId, RecordKey};
use crate::manifest;
use crate::naming::Naming;
use crate::policy::{DeliveryPolicy, EffectivePolicy, OutboxMode, PoisonMode, PolicyOverride, PolicyOverrides};
#[cfg(feature = "metrics")]
use crate::telemetry::metrics;
use crate::transport::Record;
use crate::wire::encode::{Encoder, HeaderStyle};

/// A catalog with everything that does not change from emit to emit.
#[derive(Debug)]
pub(crate) struct CompiledCatalog {
    catalog: Catalog,
    /// In the order of the catalog's definitions.
    compiled: Vec<Compiled>,
    source: String,
    has_outbox: bool,
}

#[derive(Debug)]
struct Compiled {
    definition: Arc<Definition>,
    ce_type: String,
    policy: EffectivePolicy,
    encoder: Encoder,
    max_record_bytes: usize,
}

/// What all events of a definition share.
#[derive(Debug)]
pub(crate) struct Definition {
    pub(crate) key: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) dlq_topic: Arc<str>,
    /// Whether it says itself in which trace its events are.
    #[cfg(feature = "otel")]
    pub(crate) is_traced: bool,
    #[cfg(feature = "metrics")]
    pub(crate) meters: metrics::Meters,
    /// Whether the topic has taken a record since the producer was built.
    proven: Arc<AtomicBool>,
}

impl Definition {
    pub(crate) fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }

    /// Says that the topic has taken a record.
    pub(crate) fn prove(&self) {
        // Read first: it is written once, and shared by all.
        if !self.is_proven() {
            self.proven.store(true, Ordering::Relaxed);
        }
    }
}

/// What a catalog is compiled for.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    pub(crate) source: &'a Source,
    pub(crate) naming: &'a Naming,
    pub(crate) style: HeaderStyle,
    pub(crate) overrides: &'a PolicyOverrides,
    pub(crate) has_outbox: bool,
    pub(crate) max_record_bytes: usize,
}

/// A request worked out: which definition, which policy, which record.
#[derive(Debug, Clone)]
pub(crate) struct Resolved {
    pub(crate) id: EventId,
    pub(crate) definition: Arc<Definition>,
    pub(crate) policy: DeliveryPolicy,
    tenant: Tenant,
    pub(crate) record: Record,
}

/// Where the tenant of an event is.
#[derive(Debug, Clone)]
enum Tenant {
    /// It is the record's key.
    Key,
    Own(Option<Cow<'static, str>>),
}

impl Resolved {
    /// A copy of the tenant, if the event has one.
    pub(crate) fn tenant(&self) -> Option<Cow<'static, str>> {
        match &self.tenant {
            Tenant::Key => Some(String::from_utf8_lossy(&self.record.key).into_owned().into()),
            Tenant::Own(tenant) => tenant.clone(),
        }
    }
}

impl<'a> Settings<'a> {
    /// What is configured, but for the names.
    pub(crate) fn of(config: &'a Config, naming: &'a Naming, has_outbox: bool) -> Result<Self> {
        Ok(Self {
            source: config.source()?,
            naming,
            style: config.header_style,
            overrides: &config.policies,
            has_outbox,
            max_record_bytes: config.max_record_bytes,
        })
    }
}

impl CompiledCatalog {
    /// Works everything out; the error tells of all names and policies that can't be, each in a line of its own.
    pub(crate) fn compile(catalog: Catalog, settings: &Settings<'_>) -> Result<Self> {
        let overrides = settings.overrides;
        let mut faults = Vec::new();
        let unknown: Vec<_> = overrides.keys().filter(|key| catalog.get(key).is_none()).collect();
        if !unknown.is_empty() {
            let known: Vec<_> = catalog.definitions().iter().map(EventDefinition::key).collect();
            faults.push(Error::new(
                ErrorKind::InvalidPolicy,
                format!(
                    "policies are set for events that the catalog does not have: {}; it has {}",
                    unknown.join(", "),
                    known.join(", ")
                ),
            ));
        }
        let mut compiled = Vec::new();
        // Definitions that share their topic share what is known of it.
        let mut proven = HashMap::new();
        for definition in catalog.definitions() {
            match Compiled::new(definition, settings, &mut proven) {
                Ok(definition) => compiled.push(definition),
                Err(error) => faults.push(error),
            }
        }
        Error::all(faults)?;
        Ok(Self { catalog, compiled, source: settings.source.as_str().to_owned(), has_outbox: settings.has_outbox })
    }

    /// The source of all events.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// Whether there is an outbox.
    pub(crate) fn has_outbox(&self) -> bool {
        self.has_outbox
    }

    /// What others may know of each event.
    pub(crate) fn entries(&self) -> impl Iterator<Item = manifest::Event> {
        self.catalog.definitions().iter().zip(&self.compiled).map(|(definition, compiled)| compiled.entry(definition))
    }

    /// What all events with this definition key share, if the catalog has it.
    pub(crate) fn definition(&self, key: &str) -> Option<&Arc<Definition>> {
        self.catalog.position(key).map(|index| &self.compiled[index].definition)
    }

    /// The topics of all events.
    pub(crate) fn topics(&self) -> Vec<Arc<str>> {
        let topics: BTreeSet<_> = self.compiled.iter().map(|compiled| Arc::clone(&compiled.definition.topic)).collect();
        topics.into_iter().collect()
    }

    /// Lowers the limits of records to what their topics take.
    pub(crate) fn limit_records(&mut self, max_bytes: &HashMap<Arc<str>, usize>) {
        for compiled in &mut self.compiled {
            if let Some(max_bytes) = max_bytes.get(&compiled.definition.topic) {
                compiled.max_record_bytes = compiled.max_record_bytes.min(*max_bytes);
            }
        }
    }

    /// When events of each enabled definition go to the outbox.
    pub(crate) fn outbox_modes(&self) -> Vec<OutboxMode> {
        self.compiled.iter().filter_map(|compiled| compiled.policy.outbox()).collect()
    }

    /// What becomes of poisonous events, by definition key, and where dead ones go.
    pub(crate) fn poison(&self) -> HashMap<Arc<str>, (PoisonMode, Arc<str>)> {
        let of = |compiled: &Compiled| {
            let Definition { key, dlq_topic, .. } = &*compiled.definition;
            (Arc::clone(key), (compiled.policy.poison(), Arc::clone(dlq_topic)))
        };
        self.compiled.iter().map(of).collect()
    }

    /// Checks a request and builds its record. Nothing is sent, whatever is wrong.
    pub(crate) fn resolve(&self, request: EmitRequest) -> Result<Resolved> {
        let policy_override = request.policy;
        let index = self.catalog.require(&request.definition_key)?;
        let event = self.catalog.accept_as(index, request)?;
        let id = event.id.clone();
        self.compiled[index].resolve(event, &policy_override).map_err(|error| error.with_event_id(id))
    }
}

impl Compiled {
    fn new(
        definition: &EventDefinition,
        settings: &Settings<'_>,
        proven: &mut HashMap<Arc<str>, Arc<AtomicBool>>,
    ) -> Result<Self> {
        let names = settings.naming.names(definition, settings.source)?;
        let operator = settings.overrides.get(&definition.key);
        let topic: Arc<str> = names.topic.into();
        let proven = Arc::clone(proven.entry(Arc::clone(&topic)).or_default());
        Ok(Self {
            definition: Arc::new(Definition {
                key: definition.key.as_str().into(),
                topic,
                #[cfg(feature = "otel")]
                is_traced: definition.extensions.get("traceparent").is_some(),
                dlq_topic: names.dlq_topic.into(),
                #[cfg(feature = "metrics")]
                meters: metrics::Meters::default(),
                proven,
            }),
            encoder: Encoder::new(definition, settings.source, &names.ce_type, settings.style),
            ce_type: names.ce_type,
            policy: EffectivePolicy::compile(&definition.key, definition.policy, &operator, settings.has_outbox)?,
            max_record_bytes: settings.max_record_bytes,
        })
    }

    fn entry(&self, definition: &EventDefinition) -> manifest::Event {
        let (resource, event) = (&definition.resource, &definition.event);
        let raw = |value: &AttributeValue| RawValue::from_string(value.to_json()).expect("an attribute is JSON");
        manifest::Event {
            event_key: format!("{resource}.{event}"),
            key: definition.key.clone(),
            resource_type: resource.clone(),
            event_type: event.clone(),
            ce_type: self.ce_type.clone(),
            schema_version: definition.schema_version.clone(),
            data_content_type: definition.content_type.clone(),
            data_schema: definition.data_schema.clone(),
            description: definition.description.clone(),
            system_event: definition.system,
            class: definition.class,
            content_mode: definition.mode,
            partition_key: definition.key_strategy().to_owned(),
            extensions: definition.extensions.iter().map(|(name, value)| (name.to_owned(), raw(value))).collect(),
            topic: self.definition.topic.to_string(),
            dlq_topic: self.definition.dlq_topic.to_string(),
            max_record_bytes: self.max_record_bytes,
            default_policy: definition.policy,
            policy: self.policy.of_most(),
        }
    }

    fn resolve(&self, mut event: Event, policy_override: &PolicyOverride) -> Result<Resolved> {
        let policy = self.policy.for_request(&self.definition.key, policy_override)?;
        let (headers, payload) = self.encoder.encode(&mut event);
        let id = event.id.clone();
        let is_key = matches!(event.record_key, RecordKey::Tenant);
        let (key, tenant) = event.into_key_and_tenant();
        let tenant = if is_key { Tenant::Key } else { Tenant::Own(tenant) };
        let record = Record { topic: Arc::clone(&self.definition.topic), key, headers, payload };
        let (size, max_record_bytes) = (record.wire_bytes(), self.max_record_bytes);
        if size > max_record_bytes {
            return Err(Error::new(
                ErrorKind::TooLarge,
                format!(
                    "the record of `{}` has {size} bytes with key and headers; at most {max_record_bytes} are allowed",
                    self.definition.key
                ),
            ));
        }
        Ok(Resolved { id, definition: Arc::clone(&self.definition), policy, tenant, record })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(max_record_bytes: usize) -> Result<Resolved> {
        let settings = Settings {
            source: &"//shop".parse()?,
            naming: &Naming::default(),
            style: HeaderStyle::Binding,
            overrides: &PolicyOverrides::default(),
            has_outbox: false,
            max_record_bytes,
        };
        let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
        let id = "order-17".parse()?;
        let request =
            EmitRequest::new("order.created").id(id).tenant("t").payload("{}").time(chrono::DateTime::UNIX_EPOCH);
        CompiledCatalog::compile(catalog, &settings)?.resolve(request)
    }

    #[test]
    fn all_policies_and_names_that_are_wrong_are_told_at_once() {
        let settings = Settings {
            source: &"//shop".parse().unwrap(),
            naming: &Naming::default(),
            style: HeaderStyle::Binding,
            overrides: &"unknown.dlq=never,a.outbox=always,b.direct=skip".parse().unwrap(),
            has_outbox: false,
            max_record_bytes: usize::MAX,
        };
        let definition = |key: &str, event: &str| EventDefinition::new(key, "order", event);
        let catalog =
            Catalog::new([definition("a", "a"), definition("b", "b"), definition("c", "c/d"), definition("d", "d")]);
        let error = CompiledCatalog::compile(catalog.unwrap(), &settings).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
        let text = error.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, part) in lines.iter().zip(["unknown", "policy of `a`", "policy of `b`", "events.order.c/d"]) {
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn a_record_may_be_so_large_with_key_and_headers_and_not_a_byte_larger() {
        let size = resolve(usize::MAX).unwrap().record.wire_bytes();
        assert!(resolve(size).is_ok());
        let error = resolve(size - 1).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TooLarge);
        assert_eq!(error.event_id().map(ToString::to_string).as_deref(), Some("order-17"));
        assert!(error.to_string().contains(&format!("{size} bytes")), "{error}");
    }
}
