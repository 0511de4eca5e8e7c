//! What the topics take.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, OwnedResourceSpecifier, ResourceSpecifier};
use rdkafka::config::FromClientConfigAndContext as _;
use rdkafka::metadata::MetadataTopic;

use super::Context;
use super::topics::Topics;

/// The largest record of each topic, in bytes, as far as the broker says it within `timeout`: the topic may not exist yet,
/// and the client may not be allowed to ask.
pub(super) async fn max_record_bytes(
    config: &ClientConfig,
    context: Context,
    topics: &[Arc<str>],
    timeout: Duration,
) -> HashMap<Arc<str>, usize> {
    let known = Arc::clone(&context.gauge.topics);
    let admin = match AdminClient::from_config_and_context(config, context) {
        Ok(admin) => admin,
        Err(error) => {
            tracing::debug!(error = super::without_value(error), "the topics' limits are not known");
            return HashMap::new();
        }
    };
    let resources: Vec<_> = topics.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
    let options = AdminOptions::new().request_timeout(Some(timeout)).operation_timeout(Some(timeout));
    let answer = tokio::time::timeout(timeout, admin.describe_configs(&resources, &options)).await;
    let there = answer.as_ref().ok().and_then(|answer| answer.as_ref().ok());
    let there: Vec<_> = there.into_iter().flatten().filter_map(|topic| Some(limit(topic.as_ref().ok()?)?.0)).collect();
    // Nobody waits for this, nor for the client's thread.
    tokio::task::spawn_blocking(move || {
        for topic in there {
            let Ok(metadata) = admin.inner().fetch_metadata(Some(&topic), timeout) else { break };
            if let Some(found) = metadata.topics().first() {
                learn(&known, &topic, found);
            }
        }
        drop(admin);
    });
    let described = match answer {
        Ok(Ok(described)) => described,
        Ok(Err(error)) => {
            tracing::debug!(%error, "the topics' limits are not known");
            return HashMap::new();
        }
        Err(_) => {
            tracing::debug!("the topics' limits are not known: no broker has told them in time");
            return HashMap::new();
        }
    };
    described.iter().flatten().filter_map(limit).collect()
}

/// Takes in how many partitions a topic has, if the broker has said so.
pub(super) fn learn(topics: &Topics, topic: &str, found: &MetadataTopic) {
    let count = i32::try_from(found.partitions().len()).unwrap_or(i32::MAX);
    if found.error().is_none() && count > 0 {
        topics.learn(topic, count);
    }
}

fn limit(described: &ConfigResource) -> Option<(Arc<str>, usize)> {
    let OwnedResourceSpecifier::Topic(topic) = &described.specifier else { return None };
    let limit = described.get("max.message.bytes")?.value.as_deref()?.parse().ok()?;
    Some((topic.as_str().into(), limit))
}
