//! The events that a service may emit.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use chrono::Utc;
use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::event::extension::{AttributeValue, Extensions};
use crate::event::{EmitRequest, Event, EventId, RecordKey, attribute};
use crate::policy::DeliveryPolicy;

pub(crate) mod compiled;
mod file;

/// One kind of event: what it is called, what its payload is, and how it is delivered.
///
/// # Examples
///
/// ```
/// use tidings::{DeliveryPolicy, EventDefinition, OutboxMode};
///
/// let definition = EventDefinition::new("order.created", "order", "created")
///     .with_schema_version("2.1.0")
///     .with_description("An order was placed and paid for.")
///     .with_policy(DeliveryPolicy::default().with_outbox(OutboxMode::Always));
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct EventDefinition {
    key: String,
    pub(crate) resource: String,
    pub(crate) event: String,
    pub(crate) schema_version: String,
    pub(crate) content_type: String,
    pub(crate) data_schema: Option<String>,
    description: Option<String>,
    pub(crate) system: bool,
    pub(crate) class: EventClass,
    partition_key: PartitionKey,
    pub(crate) mode: ContentMode,
    pub(crate) extensions: Extensions,
    policy: DeliveryPolicy,
    /// The only type whose values may be payloads.
    pub(crate) payload_type: Option<&'static str>,
}

/// What kind of message an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventClass {
    /// Something that has happened, for whoever is interested.
    #[default]
    Fact,
    /// Something that is to be done, for one reader. With [`Naming::per_application`](crate::Naming::per_application) it goes
    /// to a topic of its own.
    Command,
}

/// How an event becomes a record (CloudEvents Kafka binding, section 3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ContentMode {
    /// The attributes are headers, the payload is the value.
    #[default]
    Binary,
    /// The value is a JSON object with the attributes and the payload.
    Structured,
}

/// What the events of a definition are ordered by: the Kafka record key, which is never empty.
///
/// A system event is always keyed by `system:<event>`.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum PartitionKey {
    /// The tenant; without one the subject; without that the id.
    #[default]
    Tenant,
    /// The subject; without one the id.
    Subject,
    /// The extension attribute `partitionkey`, of the request or else of the definition; without one as [`Tenant`](Self::Tenant). The attribute stays in the event.
    Attribute,
    /// What a function of the service's says; from [`PartitionKey::custom`].
    Custom(CustomKey),
}

impl PartitionKey {
    /// What `key` says; where that is empty, as [`Tenant`](Self::Tenant).
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::{EventDefinition, PartitionKey};
    ///
    /// let by_region = PartitionKey::custom(|request| {
    ///     request.extension_value("region").map(|region| region.to_text().into_owned()).unwrap_or_default()
    /// });
    /// let definition = EventDefinition::new("order.created", "order", "created").with_partition_key(by_region);
    /// ```
    pub fn custom(key: impl Fn(&EmitRequest) -> String + Send + Sync + 'static) -> Self {
        Self::Custom(CustomKey(Arc::new(key)))
    }
}

/// The extension attribute of [`PartitionKey::Attribute`].
const PARTITION_KEY: &str = "partitionkey";

/// A function from a request to its record key.
#[derive(Clone)]
pub struct CustomKey(Arc<dyn Fn(&EmitRequest) -> String + Send + Sync>);

impl std::fmt::Debug for CustomKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomKey")
    }
}

impl EventDefinition {
    /// An event of `resource` (what it happened to), called `event` (what happened), that requests name by `key`.
    pub fn new(key: impl Into<String>, resource: impl Into<String>, event: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            resource: resource.into(),
            event: event.into(),
            schema_version: "1.0.0".into(),
            content_type: "application/json".into(),
            data_schema: None,
            description: None,
            system: false,
            class: EventClass::default(),
            partition_key: PartitionKey::default(),
            mode: ContentMode::default(),
            extensions: Extensions::default(),
            policy: DeliveryPolicy::default(),
            payload_type: None,
        }
    }

    /// Sets the version of the payload's schema: a semantic version, also with a leading `v`, or short as `2`. It is written
    /// as it is here. Defaults to `1.0.0`.
    pub fn with_schema_version(mut self, version: impl Into<String>) -> Self {
        self.schema_version = version.into();
        self
    }

    /// Sets the media type of the payload. Defaults to `application/json`; a JSON type makes emits check the payload.
    pub fn with_content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = content_type.into();
        self
    }

    /// Sets the URI of the payload's schema, the `ce_dataschema`: an absolute one, with a scheme. Defaults to none.
    pub fn with_data_schema(mut self, data_schema: impl Into<String>) -> Self {
        self.data_schema = Some(data_schema.into());
        self
    }

    /// Sets a sentence for the people who read the catalog. Defaults to none.
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// Makes this an event of the system itself: it has no tenant and is keyed by `system:<event>`. Defaults to false.
    pub fn with_system(mut self, system: bool) -> Self {
        self.system = system;
        self
    }

    /// Sets what kind of message these events are. Defaults to [`EventClass::Fact`].
    pub fn with_class(mut self, class: EventClass) -> Self {
        self.class = class;
        self
    }

    /// Sets what these events are ordered by. Defaults to [`PartitionKey::Tenant`].
    pub fn with_partition_key(mut self, partition_key: PartitionKey) -> Self {
        self.partition_key = partition_key;
        self
    }

    /// Sets how these events become records. Defaults to [`ContentMode::Binary`].
    pub fn with_mode(mut self, mode: ContentMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets an extension attribute that all these events have. See [`EmitRequest::extension`].
    pub fn with_extension(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<AttributeValue>) -> Self {
        self.extensions.set(name.into(), value.into());
        self
    }

    /// Sets how these events are delivered. Defaults to [`DeliveryPolicy::default`].
    pub fn with_policy(mut self, policy: DeliveryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// The name by which requests ask for this event.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The major number of the schema version, which the catalog has checked.
    pub(crate) fn major_version(&self) -> u64 {
        attribute::schema_version(&self.schema_version).map_or(0, |version| version.major)
    }

    fn check(&self) -> Result<()> {
        let field = |name: &str, text: &str, max: usize| {
            attribute::check(name, text, max, ErrorKind::InvalidDefinition)
                .map_err(|error| Error::new(ErrorKind::InvalidDefinition, format!("event `{}`: {error}", self.key)))
        };
        let fault = |why: String| Error::new(ErrorKind::InvalidDefinition, format!("event `{}`: {why}", self.key));
        field("key", &self.key, attribute::MAX_KEY_BYTES)?;
        field("resource", &self.resource, attribute::MAX_RESOURCE_BYTES)?;
        field("event", &self.event, attribute::MAX_EVENT_BYTES)?;
        field("schema version", &self.schema_version, attribute::MAX_SCHEMA_VERSION_BYTES)?;
        field("content type", &self.content_type, attribute::MAX_CONTENT_TYPE_BYTES)?;
        for (name, text, max) in [
            ("data schema", &self.data_schema, attribute::MAX_DATA_SCHEMA_BYTES),
            ("description", &self.description, attribute::MAX_DESCRIPTION_BYTES),
        ] {
            if let Some(text) = text {
                field(name, text, max)?;
            }
        }
        for (name, text) in [("resource", &self.resource), ("event", &self.event)] {
            if text.contains('.') {
                return Err(fault(format!("`{name}` may have no dot: dots part the names in topics and types")));
            }
        }
        if attribute::schema_version(&self.schema_version).is_none() {
            return Err(fault(format!("`{}` is not a semantic version such as 1.0.0", self.schema_version)));
        }
        self.extensions.check(ErrorKind::InvalidDefinition).map_err(|error| fault(error.to_string()))?;
        let is_uri = |text: &str| attribute::has_scheme(text) && attribute::is_uri_reference(text);
        if self.data_schema.as_deref().is_some_and(|schema| !is_uri(schema)) {
            return Err(fault(
                "`data schema` is not a URI with a scheme such as https://schemas.example/order.json".into(),
            ));
        }
        if !attribute::is_media_type(&self.content_type) {
            return Err(fault(format!("`{}` is not a media type such as application/json", self.content_type)));
        }
        Ok(())
    }

    /// What its events are ordered by, in a word.
    pub(crate) fn key_strategy(&self) -> &'static str {
        match &self.partition_key {
            _ if self.system => "system",
            PartitionKey::Tenant => "tenant",
            PartitionKey::Subject => "subject",
            PartitionKey::Attribute => "attribute",
            PartitionKey::Custom(_) => "custom",
        }
    }

    /// The record key of a request that was checked, and has this id; never empty.
    fn record_key(&self, request: &EmitRequest, id: &EventId) -> RecordKey {
        if self.system {
            return RecordKey::Own(format!("system:{}", self.event));
        }
        let chosen = match &self.partition_key {
            PartitionKey::Tenant | PartitionKey::Subject => None,
            PartitionKey::Attribute => {
                let key = request.extensions.get(PARTITION_KEY).or_else(|| self.extensions.get(PARTITION_KEY));
                key.map(|key| key.to_text().into_owned())
            }
            PartitionKey::Custom(CustomKey(key)) => Some(key(request)),
        };
        if let Some(key) = chosen.filter(|key| !key.is_empty()) {
            return RecordKey::Own(key);
        }
        let by_subject = matches!(self.partition_key, PartitionKey::Subject);
        if request.tenant.is_some() && !by_subject {
            RecordKey::Tenant
        } else if request.subject.is_some() {
            RecordKey::Subject
        } else {
            RecordKey::Own(id.to_string())
        }
    }
}

/// All events of a service, checked: what is not in here can't be emitted.
///
/// # Examples
///
/// ```
/// use tidings::{Catalog, ErrorKind, EventDefinition};
///
/// let twice = [
///     EventDefinition::new("order.created", "order", "created"),
///     EventDefinition::new("order.created", "order", "placed"),
/// ];
/// assert_eq!(Catalog::new(twice).unwrap_err().kind(), ErrorKind::InvalidDefinition);
/// ```
#[derive(Debug, Clone)]
pub struct Catalog {
    /// In order of their keys.
    definitions: Vec<EventDefinition>,
    by_key: HashMap<String, usize>,
}

impl Catalog {
    /// A catalog of these definitions.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidDefinition`] if there is none, if one breaks a rule, or if two share their key, or their
    /// resource, event and schema version. The text tells of every such definition, each in a line of its own.
    pub fn new(definitions: impl IntoIterator<Item = EventDefinition>) -> Result<Self> {
        let mut definitions: Vec<_> = definitions.into_iter().collect();
        definitions.sort_by(|a, b| a.key.cmp(&b.key));
        if definitions.is_empty() {
            return Err(Error::new(ErrorKind::InvalidDefinition, "the catalog has no event"));
        }
        let mut by_key = HashMap::new();
        let mut names = HashSet::new();
        let mut faults = Vec::new();
        let fault = |why: String| Error::new(ErrorKind::InvalidDefinition, why);
        for (index, definition) in definitions.iter().enumerate() {
            faults.extend(definition.check().err());
            if by_key.insert(definition.key.clone(), index).is_some() {
                faults.push(fault(format!("two events have the key `{}`", definition.key)));
            }
            // What is no version was told of already.
            let version = attribute::schema_version(&definition.schema_version);
            if version.is_some() && !names.insert((&definition.resource, &definition.event, version)) {
                faults.push(fault(format!(
                    "`{}` is the second event with resource `{}`, event `{}` and schema version `{}`",
                    definition.key, definition.resource, definition.event, definition.schema_version
                )));
            }
        }
        Error::all(faults)?;
        Ok(Self { definitions, by_key })
    }

    /// The definitions, in order of their keys.
    pub fn definitions(&self) -> &[EventDefinition] {
        &self.definitions
    }

    /// The definition that requests name by `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&EventDefinition> {
        self.position(key).map(|index| &self.definitions[index])
    }

    pub(crate) fn position(&self, key: &str) -> Option<usize> {
        self.by_key.get(key).copied()
    }

    /// The position of the definition that requests name by `key`.
    pub(crate) fn require(&self, key: &str) -> Result<usize> {
        self.position(key).ok_or_else(|| {
            let known = self.definitions.iter().map(|d| d.key.as_str()).take(20).collect::<Vec<_>>().join(", ");
            let shown: String = key.chars().take(100).collect();
            Error::new(ErrorKind::UnknownEvent, format!("the catalog has no event `{shown}`; it has {known}"))
        })
    }

    /// Checks a request against its definition, and fills in what it leaves out.
    pub(crate) fn accept(&self, request: EmitRequest) -> Result<Event> {
        self.accept_as(self.require(&request.definition_key)?, request)
    }

    /// The same, of a request whose definition is known by its position.
    pub(crate) fn accept_as(&self, index: usize, request: EmitRequest) -> Result<Event> {
        let definition = &self.definitions[index];
        let id = request.id.clone().unwrap_or_else(EventId::new);
        if let Err(error) = check_request(definition, &request) {
            return Err(error.with_event_id(id));
        }
        let event = Event {
            record_key: definition.record_key(&request, &id),
            id,
            time: request.time.unwrap_or_else(Utc::now),
            tenant: request.tenant.filter(|_| !definition.system),
            subject: request.subject,
            payload: request.payload,
            extensions: request.extensions,
        };
        // Only a function of the service's, or an attribute, can have made one that is not.
        if let RecordKey::Own(key) = &event.record_key
            && let Err(error) =
                attribute::check("record key", key, attribute::MAX_SOURCE_BYTES, ErrorKind::InvalidEvent)
        {
            return Err(error.with_event_id(event.id));
        }
        Ok(event)
    }
}

fn check_request(definition: &EventDefinition, request: &EmitRequest) -> Result<()> {
    for (field, text, max) in [
        ("tenant", &request.tenant, attribute::MAX_TENANT_BYTES),
        ("subject", &request.subject, attribute::MAX_SUBJECT_BYTES),
    ] {
        if let Some(text) = text {
            attribute::check(field, text, max, ErrorKind::InvalidEvent)?;
        }
    }
    if let Some(time) = &request.time {
        attribute::check_time("time", time, ErrorKind::InvalidEvent)?;
    }
    request.extensions.check(ErrorKind::InvalidEvent)?;
    let has = |name: &str| request.extensions.get(name).is_some() || definition.extensions.get(name).is_some();
    if has("severitytext") && !has("severitynumber") {
        let message = "`severitytext` is set without `severitynumber`, which its extension requires";
        return Err(Error::new(ErrorKind::InvalidEvent, message));
    }
    check_type(definition, request)?;
    if let Some((name, _)) = request.extensions.iter().find(|(name, _)| definition.extensions.get(name).is_some()) {
        let message = format!("the extension attribute `{name}` is set by the definition of `{}`", definition.key);
        return Err(Error::new(ErrorKind::InvalidEvent, message));
    }
    let Some(payload) = &request.payload else {
        if definition.mode == ContentMode::Structured {
            let message = format!("`{}` is in structured mode, which has no tombstones", definition.key);
            return Err(Error::new(ErrorKind::InvalidEvent, message));
        }
        return Ok(());
    };
    if !request.is_json && attribute::is_json(&definition.content_type) {
        let fault = || {
            let message = format!("the payload of `{}` is not JSON, as its content type says", definition.key);
            Error::new(ErrorKind::InvalidPayload, message)
        };
        // What the parser skips it does not look at: in a text there may be bytes that are none.
        let text = std::str::from_utf8(payload).map_err(|source| fault().with_source(source))?;
        serde_json::from_str::<serde::de::IgnoredAny>(text).map_err(|source| fault().with_source(source))?;
    }
    Ok(())
}

/// Whether the request is one of the definition's type, and the definition one of the request's.
fn check_type(definition: &EventDefinition, request: &EmitRequest) -> Result<()> {
    let key = &definition.key;
    let mismatch = |kind, name: &str, what: &str, theirs: &str, ours: &str| {
        let message = format!("`{name}` has the {what} `{theirs}`, and the catalog's `{key}` has `{ours}`");
        Err(Error::new(kind, message))
    };
    if let Some(of) = &request.typed {
        for (what, theirs, ours) in
            [("resource", of.resource, &definition.resource), ("event", of.event, &definition.event)]
        {
            if theirs != ours {
                return mismatch(ErrorKind::InvalidEvent, of.name, what, theirs, ours);
            }
        }
        let (theirs, ours) = (of.schema_version, &*definition.schema_version);
        if attribute::schema_version(theirs) != attribute::schema_version(ours) {
            return mismatch(ErrorKind::InvalidEvent, of.name, "schema version", theirs, ours);
        }
        if !attribute::is_json(&definition.content_type) {
            let (theirs, ours) = ("application/json", &definition.content_type);
            return mismatch(ErrorKind::InvalidPayload, of.name, "content type", theirs, ours);
        }
    }
    // A tombstone has no payload that could be of another type.
    if let (Some(expected), Some(_)) = (definition.payload_type, &request.payload) {
        let found = request.typed.as_ref().map(|of| of.name);
        if found != Some(expected) {
            let found = found.map_or_else(|| "bytes".to_owned(), |name| format!("a `{name}`"));
            let message =
                format!("the payload of `{key}` must be a `{expected}`, and is {found}: emit it with `emit_typed`");
            return Err(Error::new(ErrorKind::InvalidPayload, message));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
