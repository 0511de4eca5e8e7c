//! The catalog as a file, in JSON or TOML: one schema, `schemas/catalog.schema.json`.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Catalog, ContentMode, EventClass, EventDefinition, PartitionKey};
use crate::error::{Error, ErrorKind, Result};
use crate::event::extension::{AttributeValue, Extensions};
use crate::policy::DeliveryPolicy;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "$schema", default, skip_serializing_if = "Option::is_none")]
    schema: Option<String>,
    events: Vec<Event>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    key: String,
    resource: String,
    event: String,
    schema_version: Option<String>,
    content_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_schema: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    system: Option<bool>,
    class: Option<Class>,
    partition_key: Option<Key>,
    mode: Option<Mode>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    extensions: BTreeMap<String, Value>,
    policy: Option<Policy>,
}

/// Names the variants of one of our enumerations as they stand in a file.
macro_rules! names {
    ($file:ident of $ours:ident { $($variant:ident),+ }) => {
        #[derive(Clone, Copy, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum $file { $($variant),+ }

        impl From<$file> for $ours {
            fn from(file: $file) -> Self {
                match file { $($file::$variant => Self::$variant),+ }
            }
        }
    };
}

names!(Class of EventClass { Fact, Command });
names!(Mode of ContentMode { Binary, Structured });
names!(Key of PartitionKey { Tenant, Subject, Attribute });

/// The modes are the texts that `STREAMING_EVENT_POLICIES` has too.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Policy {
    enabled: Option<bool>,
    direct: Option<String>,
    outbox: Option<String>,
    dlq: Option<String>,
    poison: Option<String>,
}

/// Text, a whole number and a truth value stand for themselves; the other types are named.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value {
    Boolean(bool),
    Integer(i32),
    String(String),
    Typed(TypedValue),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum TypedValue {
    Binary(String),
    Uri(String),
    UriReference(String),
    Timestamp(DateTime<Utc>),
}

impl Catalog {
    /// The catalog of a JSON file.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidDefinition`] or [`ErrorKind::InvalidPolicy`] if it is not one, or breaks a rule; the text says
    /// where.
    ///
    /// # Examples
    ///
    /// ```
    /// let catalog = tidings::Catalog::from_json(r#"{"events": [
    ///     {"key": "order.created", "resource": "order", "event": "created", "policy": {"outbox": "always"}}
    /// ]}"#)?;
    /// assert_eq!(catalog.definitions().len(), 1);
    /// # Ok::<(), tidings::Error>(())
    /// ```
    pub fn from_json(json: &str) -> Result<Self> {
        Self::from_file(
            serde_json::from_str(json).map_err(|source| fault(format!("the catalog can't be read: {source}")))?,
        )
    }

    /// The catalog of a TOML file.
    ///
    /// # Errors
    ///
    /// As of [`from_json`](Self::from_json).
    ///
    /// # Examples
    ///
    /// ```
    /// let catalog = tidings::Catalog::from_toml(r#"
    ///     [[events]]
    ///     key = "order.created"
    ///     resource = "order"
    ///     event = "created"
    ///     policy.outbox = "always"
    /// "#)?;
    /// # Ok::<(), tidings::Error>(())
    /// ```
    pub fn from_toml(toml: &str) -> Result<Self> {
        Self::from_file(toml::from_str(toml).map_err(|source| fault(format!("the catalog can't be read: {source}")))?)
    }

    /// The catalog as a JSON file that [`from_json`](Self::from_json) reads, with every default written out.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidDefinition`] if a definition has a [custom partition key](PartitionKey::custom): a function can't
    /// be written.
    pub fn to_json(&self) -> Result<String> {
        let events = self.definitions.iter().map(Event::write).collect::<Result<_>>()?;
        serde_json::to_string_pretty(&File { schema: None, events })
            .map_err(|source| fault("the catalog can't be written".into()).with_source(source))
    }

    fn from_file(file: File) -> Result<Self> {
        let (mut definitions, mut faults) = (Vec::new(), Vec::new());
        for event in file.events {
            match event.read() {
                Ok(definition) => definitions.push(definition),
                Err(error) => faults.push(error),
            }
        }
        Error::all(faults)?;
        Self::new(definitions)
    }
}

impl Event {
    fn read(self) -> Result<EventDefinition> {
        let mut definition = EventDefinition::new(self.key, self.resource, self.event);
        let key = definition.key.clone();
        let of_event = |error: Error| Error::new(error.kind(), format!("event `{key}`: {error}"));
        definition.schema_version = self.schema_version.unwrap_or(definition.schema_version);
        definition.content_type = self.content_type.unwrap_or(definition.content_type);
        definition.data_schema = self.data_schema;
        definition.description = self.description;
        definition.system = self.system.unwrap_or_default();
        definition.class = self.class.map(Into::into).unwrap_or_default();
        definition.partition_key = self.partition_key.map(Into::into).unwrap_or_default();
        definition.mode = self.mode.map(Into::into).unwrap_or_default();
        for (name, value) in self.extensions {
            let value = value.read(&name).map_err(of_event)?;
            definition.extensions.set(name.into(), value);
        }
        if let Some(policy) = self.policy {
            definition.policy = policy.read().map_err(of_event)?;
        }
        Ok(definition)
    }

    fn write(definition: &EventDefinition) -> Result<Self> {
        let partition_key = match definition.partition_key {
            PartitionKey::Tenant => Key::Tenant,
            PartitionKey::Subject => Key::Subject,
            PartitionKey::Attribute => Key::Attribute,
            PartitionKey::Custom(_) => {
                let message = format!(
                    "event `{}` has a custom partition key, a function, which can't be written",
                    definition.key
                );
                return Err(fault(message));
            }
        };
        let class = match definition.class {
            EventClass::Fact => Class::Fact,
            EventClass::Command => Class::Command,
        };
        let mode = match definition.mode {
            ContentMode::Binary => Mode::Binary,
            ContentMode::Structured => Mode::Structured,
        };
        Ok(Self {
            key: definition.key.clone(),
            resource: definition.resource.clone(),
            event: definition.event.clone(),
            schema_version: Some(definition.schema_version.clone()),
            content_type: Some(definition.content_type.clone()),
            data_schema: definition.data_schema.clone(),
            description: definition.description.clone(),
            system: Some(definition.system),
            class: Some(class),
            partition_key: Some(partition_key),
            mode: Some(mode),
            extensions: Value::write_all(&definition.extensions),
            policy: Some(Policy::write(&definition.policy)),
        })
    }
}

impl Policy {
    fn read(self) -> Result<DeliveryPolicy> {
        let mut policy = DeliveryPolicy::default();
        policy.enabled = self.enabled.unwrap_or(policy.enabled);
        policy.direct = self.direct.map_or(Ok(policy.direct), |mode| mode.parse())?;
        policy.outbox = self.outbox.map_or(Ok(policy.outbox), |mode| mode.parse())?;
        policy.dlq = self.dlq.map_or(Ok(policy.dlq), |mode| mode.parse())?;
        policy.poison = self.poison.map_or(Ok(policy.poison), |mode| mode.parse())?;
        Ok(policy)
    }

    fn write(policy: &DeliveryPolicy) -> Self {
        Self {
            enabled: Some(policy.enabled),
            direct: Some(policy.direct.to_string()),
            outbox: Some(policy.outbox.to_string()),
            dlq: Some(policy.dlq.to_string()),
            poison: Some(policy.poison.to_string()),
        }
    }
}

impl Value {
    fn read(self, name: &str) -> Result<AttributeValue> {
        Ok(match self {
            Self::Boolean(value) => value.into(),
            Self::Integer(value) => value.into(),
            Self::String(text) => text.into(),
            Self::Typed(TypedValue::Uri(text)) => AttributeValue::Uri(text.into()),
            Self::Typed(TypedValue::UriReference(text)) => AttributeValue::UriReference(text.into()),
            Self::Typed(TypedValue::Timestamp(time)) => time.into(),
            Self::Typed(TypedValue::Binary(base64)) => {
                let bytes = BASE64_STANDARD.decode(base64);
                AttributeValue::Binary(bytes.map_err(|_| fault(format!("`{name}` is not base64")))?.into())
            }
        })
    }

    fn write_all(extensions: &Extensions) -> BTreeMap<String, Self> {
        let write = |value: &AttributeValue| match value {
            AttributeValue::Boolean(value) => Self::Boolean(*value),
            AttributeValue::Integer(value) => Self::Integer(*value),
            AttributeValue::String(text) => Self::String(text.to_string()),
            AttributeValue::Binary(bytes) => Self::Typed(TypedValue::Binary(BASE64_STANDARD.encode(bytes))),
            AttributeValue::Uri(text) => Self::Typed(TypedValue::Uri(text.to_string())),
            AttributeValue::UriReference(text) => Self::Typed(TypedValue::UriReference(text.to_string())),
            AttributeValue::Timestamp(time) => Self::Typed(TypedValue::Timestamp(*time)),
        };
        extensions.iter().map(|(name, value)| (name.to_owned(), write(value))).collect()
    }
}

fn fault(why: String) -> Error {
    Error::new(ErrorKind::InvalidDefinition, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{DirectMode, DlqMode, OutboxMode, PoisonMode};

    fn full() -> Catalog {
        let policy = DeliveryPolicy::default()
            .with_enabled(false)
            .with_direct(DirectMode::Skip)
            .with_outbox(OutboxMode::Always)
            .with_dlq(DlqMode::Never)
            .with_poison(PoisonMode::Skip);
        let full = EventDefinition::new("order.created", "order", "created")
            .with_schema_version("2.1.0")
            .with_content_type("text/plain")
            .with_data_schema("https://schemas.example/order")
            .with_description("An order was placed.")
            .with_system(true)
            .with_class(EventClass::Command)
            .with_partition_key(PartitionKey::Attribute)
            .with_mode(ContentMode::Structured)
            .with_extension("flag", true)
            .with_extension("number", 7)
            .with_extension("words", "a b")
            .with_extension("bytes", AttributeValue::Binary(vec![1, 2].into()))
            .with_extension("uri", AttributeValue::Uri("https://example.com".into()))
            .with_extension("reference", AttributeValue::UriReference("a/b".into()))
            .with_extension("when", DateTime::from_timestamp(1_772_353_230, 0).unwrap())
            .with_policy(policy);
        Catalog::new([full, EventDefinition::new("plain", "plain", "happened")]).unwrap()
    }

    fn text(catalog: &Catalog) -> String {
        // The order of extensions is that of their names in a file.
        let sorted = catalog.definitions.iter().cloned().map(|mut definition| {
            let values: BTreeMap<_, _> = definition.extensions.iter().map(|(n, v)| (n.to_owned(), v.clone())).collect();
            definition.extensions = Extensions::default();
            for (name, value) in values {
                definition.extensions.set(name.into(), value);
            }
            definition
        });
        format!("{:#?}", sorted.collect::<Vec<_>>())
    }

    #[test]
    fn a_catalog_reads_back_as_it_was_written() {
        let json = full().to_json().unwrap();
        assert_eq!(text(&Catalog::from_json(&json).unwrap()), text(&full()));
    }

    #[test]
    fn toml_and_json_say_the_same() {
        let toml = r#"
            [[events]]
            key = "order.created"
            resource = "order"
            event = "created"
            class = "command"
            extensions = { region = "eu", retries = 3, home = { uri = "https://example.com" } }
            [events.policy]
            outbox = "fallback_on_circuit_open"
        "#;
        let json = r#"{"$schema": "catalog.schema.json", "events": [{"key": "order.created", "resource": "order", "event": "created",
            "class": "command", "extensions": {"region": "eu", "retries": 3, "home": {"uri": "https://example.com"}},
            "policy": {"outbox": "fallback"}}]}"#;
        assert_eq!(text(&Catalog::from_toml(toml).unwrap()), text(&Catalog::from_json(json).unwrap()));
    }

    #[test]
    fn what_is_not_a_catalog_is_refused_and_the_place_named() {
        for (json, part) in [
            ("{", "can't be read"),
            (r#"{"events": []}"#, "no event"),
            (r#"{"events": [{"key": "k", "resource": "r", "event": "e", "colour": "red"}]}"#, "colour"),
            (r#"{"events": [{"key": "k", "resource": "r", "event": "e", "class": "rumour"}]}"#, "rumour"),
            (
                r#"{"events": [{"key": "k", "resource": "r", "event": "e", "policy": {"outbox": "sometimes"}}]}"#,
                "event `k`",
            ),
            (
                r#"{"events": [{"key": "k", "resource": "r", "event": "e", "extensions": {"x": {"binary": "?"}}}]}"#,
                "event `k`",
            ),
            (r#"{"events": [{"key": "k", "resource": "r", "event": "e", "extensions": {"UP": 1}}]}"#, "event `k`"),
        ] {
            let error = Catalog::from_json(json).unwrap_err();
            assert!(error.to_string().contains(part), "{error}");
            assert!(error.is_caller_error());
        }
    }

    #[test]
    fn a_function_cannot_be_written() {
        let custom = EventDefinition::new("k", "r", "e").with_partition_key(PartitionKey::custom(|_| "k".into()));
        assert!(Catalog::new([custom]).unwrap().to_json().is_err());
    }

    #[test]
    fn the_schema_accepts_what_is_written_and_refuses_what_is_not_read() {
        let schema: serde_json::Value =
            serde_json::from_str(include_str!("../../schemas/catalog.schema.json")).unwrap();
        let mut compiler = boon::Compiler::new();
        compiler.add_resource("mem:///catalog.json", schema).unwrap();
        let mut schemas = boon::Schemas::new();
        let index = compiler.compile("mem:///catalog.json", &mut schemas).unwrap();
        let valid = |json: &str| schemas.validate(&serde_json::from_str(json).unwrap(), index).is_ok();
        assert!(valid(&full().to_json().unwrap()));
        for (version, content_type) in
            [("v1", "a/b"), ("1.2", "text/plain; charset=utf-8"), ("1.2.3-rc.1+b-2", "a/b+json")]
        {
            let good = format!(
                r#"{{"events": [{{"key": "k", "resource": "r", "event": "e", "schema_version": "{version}", "content_type": "{content_type}"}}]}}"#
            );
            assert!(valid(&good) && Catalog::from_json(&good).is_ok(), "{good}");
        }
        for bad in [
            r#"{}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "colour": "red"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "class": "rumour"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r.s", "event": "e"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "schema_version": "01"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "schema_version": "1.0.0-"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "content_type": "a/b/c"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "data_schema": "schemas/order.json"}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "extensions": {"UP": 1}}]}"#,
            r#"{"events": [{"key": "k", "resource": "r", "event": "e", "policy": {"outbox": "sometimes"}}]}"#,
        ] {
            assert!(!valid(bad) && Catalog::from_json(bad).is_err(), "{bad}");
        }
    }

    proptest::proptest! {
        #[test]
        fn reading_a_catalog_never_panics(
            text in ".{0,200}",
            members in proptest::collection::vec(("(key|resource|event|class|mode|policy|extensions|partition_key|[a-z]{3})", "[\\[\\]{}\":,a-z0-9]{0,12}"), 0..6),
        ) {
            let _ = (Catalog::from_toml(&text), Catalog::from_json(&text));
            let event = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(",");
            let _ = Catalog::from_json(&format!("{{\"events\":[{{{event}}}]}}"));
            let event = members.iter().map(|(name, value)| format!("{name} = {value}\n")).collect::<String>();
            let _ = Catalog::from_toml(&format!("[[events]]\n{event}"));
        }
    }
}
