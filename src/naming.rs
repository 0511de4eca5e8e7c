//! The names of topics and event types.

use std::sync::Arc;

use crate::catalog::{EventClass, EventDefinition};
use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute::{self, Source};

/// What a dead-letter topic has behind the name that it is derived from.
const DLQ_SUFFIX: &str = ".dlq";

/// What the topic of commands has behind that of the application.
const COMMANDS_SUFFIX: &str = ".commands";

/// The longest topic name that Kafka takes (`org.apache.kafka.common.internals.Topic`).
pub(crate) const MAX_TOPIC_BYTES: usize = 249;

/// How topics and CloudEvents types are named.
///
/// | strategy | topic | dead letters | `ce_type` |
/// |---|---|---|---|
/// | [`per_event`](Self::per_event), the default | `{prefix}.{resource}.{event}`, and `.v{major}` from major schema version 2 on | `{topic}.dlq` | `{prefix}.{resource}.{event}` |
/// | [`per_application`](Self::per_application) | `{prefix}.{source}`, of commands `{prefix}.{source}.commands` | `{prefix}.{source}.dlq` | `{prefix}.{source}.{resource}.{event}` |
/// | [`custom`](Self::custom) | what a function says | `{topic}.dlq` | `{prefix}.{resource}.{event}` |
/// | [`lib_streaming_v0_2`](Self::lib_streaming_v0_2) | `lerian.streaming.{resource}.{event}`, and `.v{major}` | `{topic}.dlq` | `studio.lerian.{resource}.{event}` |
/// | [`lib_streaming_v3`](Self::lib_streaming_v3) | `lerian.streaming.{source}`, of commands with `.commands` | `lerian.streaming.{source}.dlq` | `studio.lerian.{source}.{resource}.{event}` |
///
/// # Examples
///
/// ```
/// use tidings::Naming;
///
/// let naming = Naming::per_event("shop").with_type_prefix("com.example.shop");
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct Naming {
    topics: Topics,
    type_prefix: String,
}

#[derive(Debug, Clone)]
enum Topics {
    PerEvent { prefix: String },
    PerApplication { prefix: String },
    Custom(CustomTopic),
}

#[derive(Clone)]
struct CustomTopic(Arc<dyn Fn(&EventDefinition) -> String + Send + Sync>);

impl std::fmt::Debug for CustomTopic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CustomTopic")
    }
}

/// The names of one definition.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) topic: String,
    pub(crate) dlq_topic: String,
    pub(crate) ce_type: String,
}

impl Default for Naming {
    /// A topic for each event; topics and types begin with `events`.
    fn default() -> Self {
        Self::per_event("events")
    }
}

impl Naming {
    /// A topic for each event.
    pub fn per_event(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self { type_prefix: prefix.clone(), topics: Topics::PerEvent { prefix } }
    }

    /// A topic for each application, named by its source, and one for its commands. The source must be one word of lower-case
    /// letters, digits, `_` and `-`.
    pub fn per_application(prefix: impl Into<String>) -> Self {
        let prefix = prefix.into();
        Self { type_prefix: prefix.clone(), topics: Topics::PerApplication { prefix } }
    }

    /// The topic that `topic` says. Types begin with `events` unless [set](Self::with_type_prefix).
    ///
    /// # Examples
    ///
    /// ```
    /// let naming = tidings::Naming::custom(|definition| format!("shop.{}", definition.key()));
    /// ```
    pub fn custom(topic: impl Fn(&EventDefinition) -> String + Send + Sync + 'static) -> Self {
        Self { topics: Topics::Custom(CustomTopic(Arc::new(topic))), type_prefix: "events".into() }
    }

    /// The names of lib-streaming v0.2.
    pub fn lib_streaming_v0_2() -> Self {
        Self::per_event("lerian.streaming").with_type_prefix("studio.lerian")
    }

    /// The names of lib-streaming v3.
    pub fn lib_streaming_v3() -> Self {
        Self::per_application("lerian.streaming").with_type_prefix("studio.lerian")
    }

    /// Sets what a `ce_type` begins with, by custom a reversed domain name. Defaults to the prefix of the topics.
    pub fn with_type_prefix(mut self, type_prefix: impl Into<String>) -> Self {
        self.type_prefix = type_prefix.into();
        self
    }

    /// The names of a definition that the catalog has checked.
    pub(crate) fn names(&self, definition: &EventDefinition, source: &Source) -> Result<Names> {
        let (resource, event) = (&definition.resource, &definition.event);
        let per_event_type = || format!("{}.{resource}.{event}", self.type_prefix);
        let names = match &self.topics {
            Topics::PerEvent { prefix } => {
                let topic = match definition.major_version() {
                    major @ 2.. => format!("{prefix}.{resource}.{event}.v{major}"),
                    _ => format!("{prefix}.{resource}.{event}"),
                };
                Names { dlq_topic: format!("{topic}{DLQ_SUFFIX}"), topic, ce_type: per_event_type() }
            }
            Topics::PerApplication { prefix } => {
                let source = slug(source)?;
                let application = format!("{prefix}.{source}");
                let dlq_topic = format!("{application}{DLQ_SUFFIX}");
                // No application may have a name for which there is no room behind for its commands.
                check_topic(&format!("{application}{COMMANDS_SUFFIX}"))?;
                let topic = match definition.class {
                    EventClass::Fact => application,
                    EventClass::Command => format!("{application}{COMMANDS_SUFFIX}"),
                };
                Names { topic, dlq_topic, ce_type: format!("{}.{source}.{resource}.{event}", self.type_prefix) }
            }
            Topics::Custom(CustomTopic(custom)) => {
                let topic = custom(definition);
                Names { dlq_topic: format!("{topic}{DLQ_SUFFIX}"), topic, ce_type: per_event_type() }
            }
        };
        check_topic(&names.topic)?;
        check_topic(&names.dlq_topic)?;
        attribute::check("type prefix", &self.type_prefix, attribute::MAX_SOURCE_BYTES, ErrorKind::InvalidConfig)?;
        Ok(names)
    }
}

/// The source as part of a topic's name. Rejected rather than rewritten: two services might become one.
fn slug(source: &Source) -> Result<&str> {
    let text = source.as_str();
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_slug = text.bytes().all(|b| is_word(b) || b"_-".contains(&b)) && text.bytes().next().is_some_and(is_word);
    if is_slug {
        return Ok(text);
    }
    let message = format!(
        "topics are named by the source, and `{text}` can't be part of a name: it must be lower-case letters, digits, `_` and `-`, and \
         begin with a letter or digit"
    );
    Err(Error::new(ErrorKind::InvalidConfig, message))
}

/// Whether Kafka takes a topic of this name.
pub(crate) fn is_topic(text: &str) -> bool {
    check_topic(text).is_ok()
}

pub(crate) fn check_topic(topic: &str) -> Result<()> {
    let fault = if topic.len() > MAX_TOPIC_BYTES {
        format!("is {} bytes long; Kafka takes {MAX_TOPIC_BYTES} at most", topic.len())
    } else if !topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        "has a character other than letters, digits, `.`, `_` and `-`".to_owned()
    } else if topic.is_empty() || topic.starts_with('.') {
        "begins with a dot or is empty: set a topic prefix".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidDefinition, format!("the topic `{topic}` {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(version: &str) -> EventDefinition {
        EventDefinition::new("k", "order", "created").with_schema_version(version)
    }

    fn names(naming: &Naming, definition: &EventDefinition, source: &str) -> Result<(String, String, String)> {
        naming.names(definition, &source.parse()?).map(|names| (names.topic, names.dlq_topic, names.ce_type))
    }

    /// What lib-streaming v0.2 and v3 name things, by their rules (reference sections 2.1 and 2.2).
    #[test]
    fn the_presets_name_things_as_lib_streaming_does() {
        let (v0_2, v3) = (Naming::lib_streaming_v0_2(), Naming::lib_streaming_v3());
        let command = || definition("1.0.0").with_class(EventClass::Command);
        let table = [
            (
                &v0_2,
                definition("1.0.0"),
                "//lerian.midaz/tx-service",
                ["lerian.streaming.order.created", "lerian.streaming.order.created.dlq", "studio.lerian.order.created"],
            ),
            (
                &v0_2,
                definition("v2.1.0"),
                "//lerian.midaz/tx-service",
                [
                    "lerian.streaming.order.created.v2",
                    "lerian.streaming.order.created.v2.dlq",
                    "studio.lerian.order.created",
                ],
            ),
            (
                &v0_2,
                definition("0.9.0"),
                "//lerian.midaz/tx-service",
                ["lerian.streaming.order.created", "lerian.streaming.order.created.dlq", "studio.lerian.order.created"],
            ),
            (
                &v3,
                definition("2.0.0"),
                "tx-service",
                [
                    "lerian.streaming.tx-service",
                    "lerian.streaming.tx-service.dlq",
                    "studio.lerian.tx-service.order.created",
                ],
            ),
            (
                &v3,
                command(),
                "0_tx",
                ["lerian.streaming.0_tx.commands", "lerian.streaming.0_tx.dlq", "studio.lerian.0_tx.order.created"],
            ),
        ];
        for (naming, definition, source, [topic, dlq, ce_type]) in table {
            let named = names(naming, &definition, source).unwrap();
            assert_eq!((&*named.0, &*named.1, &*named.2), (topic, dlq, ce_type));
        }
    }

    #[test]
    fn a_source_that_cannot_be_part_of_a_topic_is_refused_and_not_rewritten() {
        let v3 = Naming::lib_streaming_v3();
        for bad in ["//shop/orders", "Shop", "_shop", "-shop", "shop.orders", "café", &"x".repeat(224)] {
            assert!(names(&v3, &definition("1.0.0"), bad).is_err(), "{bad}");
        }
        assert!(names(&v3, &definition("1.0.0"), &"x".repeat(223)).is_ok(), "249 bytes with `.commands`");
    }

    #[test]
    fn a_topic_that_kafka_would_refuse_is_refused() {
        for (prefix, resource) in [("", "order"), ("shop", "ordér"), ("shop", "order/x"), ("shop", &*"x".repeat(233))]
        {
            let definition = EventDefinition::new("k", resource, "created");
            let error = names(&Naming::per_event(prefix), &definition, "//s").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidDefinition);
        }
        let longest = EventDefinition::new("k", "x".repeat(232), "created");
        assert!(names(&Naming::per_event("shop"), &longest, "//s").is_ok());
    }

    #[test]
    fn a_function_may_name_topics() {
        let naming = Naming::custom(|definition| format!("all-{}", definition.key())).with_type_prefix("com.example");
        let named = names(&naming, &definition("3.0.0"), "//s").unwrap();
        assert_eq!(named, ("all-k".into(), "all-k.dlq".into(), "com.example.order.created".into()));
        let bad = Naming::custom(|_| "not a topic".into());
        assert!(names(&bad, &definition("1.0.0"), "//s").is_err());
    }

    proptest::proptest! {
        #[test]
        fn a_topic_is_one_that_kafka_takes_or_is_refused(
            prefix in ".{0,20}", resource in ".{0,20}", event in ".{0,20}", source in ".{0,20}", version in "v?[0-9]{0,3}(\\.[0-9]){0,2}",
        ) {
            let definition = EventDefinition::new("k", resource, event).with_schema_version(version);
            let Ok(source) = source.parse::<Source>() else { return Ok(()) };
            for naming in [Naming::per_event(&prefix), Naming::per_application(&prefix), Naming::lib_streaming_v0_2(), Naming::lib_streaming_v3()] {
                let Ok(Names { topic, dlq_topic, .. }) = naming.names(&definition, &source) else { continue };
                for topic in [topic, dlq_topic] {
                    let fits = topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
                    proptest::prop_assert!(fits && (1..=249).contains(&topic.len()) && topic != "." && topic != "..", "{}", topic);
                }
            }
        }
    }
}
