//! The bare client that the library is held against: rdkafka with the library's settings, keys, headers and payloads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{DeliveryResult, ProducerContext};
use rdkafka::{ClientConfig, ClientContext};

/// The settings of the library that matter here, and how long to wait for more records to send with one.
pub(crate) fn client(brokers: &str, linger_ms: u32) -> ClientConfig {
    let mut config = ClientConfig::new();
    for (property, value) in [
        ("bootstrap.servers", brokers),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("compression.type", "lz4"),
    ] {
        config.set(property, value);
    }
    config.set("queue.buffering.max.ms", linger_ms.to_string());
    config
}

/// Now, as the library writes it.
pub(crate) fn time() -> String {
    chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)
}

/// The headers that the library gives an event of the benches.
pub(crate) fn headers(ce_type: &str, source: &str, tenant: &str, id: &str, time: &str) -> OwnedHeaders {
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_source", source),
        ("ce_type", ce_type),
        ("content-type", "application/json"),
        ("ce_resourcetype", "order"),
        ("ce_eventtype", "created"),
        ("ce_schemaversion", "1.0.0"),
        ("ce_id", id),
        ("ce_time", time),
        ("ce_subject", "order-17"),
        ("ce_tenantid", tenant),
    ];
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
        all.insert(Header { key, value: Some(*value) })
    })
}

/// Counts what was acknowledged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Acknowledged(pub(crate) Arc<AtomicUsize>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        assert!(result.is_ok(), "the broker takes every record");
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
