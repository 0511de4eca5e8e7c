//! The names of topics and event types.

use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute;

/// What a dead-letter topic has behind the name of its source topic.
pub(crate) const DLQ_SUFFIX: &str = ".dlq";

/// The longest topic name that Kafka takes (`org.apache.kafka.common.internals.Topic`).
const MAX_TOPIC_BYTES: usize = 249;

/// How topics and CloudEvents types are named.
///
/// The topic of an event is `{prefix}.{resource}.{event}`, with `.v{major}` behind it from major schema version 2 on;
/// its dead-letter topic has `.dlq` behind that; its `ce_type` is `{type prefix}.{resource}.{event}`.
///
/// # Examples
///
/// ```
/// use tidings::Naming;
///
/// let naming = Naming::new("shop").with_type_prefix("com.example.shop");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Naming {
    topic_prefix: String,
    type_prefix: Option<String>,
}

impl Default for Naming {
    /// Topics and types that begin with `events`.
    fn default() -> Self {
        Self::new("events")
    }
}

impl Naming {
    /// Names that begin with `topic_prefix`.
    pub fn new(topic_prefix: impl Into<String>) -> Self {
        Self { topic_prefix: topic_prefix.into(), type_prefix: None }
    }

    /// Sets what a `ce_type` begins with, by custom a reversed domain name. Defaults to the prefix of the topics.
    pub fn with_type_prefix(mut self, type_prefix: impl Into<String>) -> Self {
        self.type_prefix = Some(type_prefix.into());
        self
    }

    /// The topic of an event, checked so that its dead-letter topic is a legal name too.
    pub(crate) fn topic(&self, resource: &str, event: &str, major: u64) -> Result<String> {
        let mut topic = format!("{}.{resource}.{event}", self.topic_prefix);
        if major >= 2 {
            topic.push_str(&format!(".v{major}"));
        }
        check_topic(&topic)?;
        Ok(topic)
    }

    pub(crate) fn ce_type(&self, resource: &str, event: &str) -> Result<String> {
        let prefix = self.type_prefix.as_deref().unwrap_or(&self.topic_prefix);
        attribute::check("type prefix", prefix, attribute::MAX_SOURCE_BYTES, ErrorKind::InvalidConfig)?;
        Ok(format!("{prefix}.{resource}.{event}"))
    }
}

fn check_topic(topic: &str) -> Result<()> {
    let fault = if topic.len() + DLQ_SUFFIX.len() > MAX_TOPIC_BYTES {
        format!("is longer than {} bytes, which leaves no room for `{DLQ_SUFFIX}`", MAX_TOPIC_BYTES - DLQ_SUFFIX.len())
    } else if !topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) {
        "has a character other than letters, digits, `.`, `_` and `-`".to_owned()
    } else if topic.starts_with('.') {
        "begins with a dot: set a topic prefix".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::InvalidDefinition, format!("the topic `{topic}` {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_has_its_major_version_from_two_on() {
        let naming = Naming::new("shop");
        assert_eq!(naming.topic("order", "created", 1).unwrap(), "shop.order.created");
        assert_eq!(naming.topic("order", "created", 0).unwrap(), "shop.order.created");
        assert_eq!(naming.topic("order", "created", 2).unwrap(), "shop.order.created.v2");
    }

    #[test]
    fn a_topic_that_kafka_would_refuse_is_refused() {
        for (prefix, resource) in [("", "order"), ("shop", "ordér"), ("shop", "order/x"), ("shop", &*"x".repeat(233))]
        {
            assert_eq!(
                Naming::new(prefix).topic(resource, "created", 1).unwrap_err().kind(),
                ErrorKind::InvalidDefinition
            );
        }
        assert!(Naming::new("shop").topic(&"x".repeat(232), "created", 1).is_ok());
    }

    #[test]
    fn the_type_prefix_is_that_of_the_topics_unless_set() {
        assert_eq!(Naming::new("shop").ce_type("order", "created").unwrap(), "shop.order.created");
        let naming = Naming::new("shop").with_type_prefix("com.example");
        assert_eq!(naming.ce_type("order", "created").unwrap(), "com.example.order.created");
    }
}
