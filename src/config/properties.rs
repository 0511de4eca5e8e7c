//! Further properties of the Kafka client: those that break no promise.

use std::collections::BTreeMap;

use super::security::Secret;
use crate::error::{Error, ErrorKind, Result};

/// Properties of librdkafka beside those that have a variable of their own. Their values may be secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Properties(BTreeMap<&'static str, Secret>);

/// What may be set (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>). What is not in this list
/// is refused, so that a property of a later version can't break a promise unseen.
pub(crate) const ALLOWED: [&str; 52] = [
    "allow.auto.create.topics",
    "api.version.fallback.ms",
    "api.version.request.timeout.ms",
    "batch.num.messages",
    "broker.address.family",
    "broker.address.ttl",
    "client.dns.lookup",
    "client.rack",
    "compression.level",
    "connections.max.idle.ms",
    "debug",
    "enable.metrics.push",
    "enable.random.seed",
    "log.connection.close",
    "log.thread.name",
    "log_level",
    "message.copy.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.rebootstrap.trigger.ms",
    "metadata.recovery.strategy",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "receive.message.max.bytes",
    "reconnect.backoff.jitter.ms",
    "reconnect.backoff.max.ms",
    "reconnect.backoff.ms",
    "request.timeout.ms",
    "retry.backoff.max.ms",
    "retry.backoff.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.max.fails",
    "socket.nagle.disable",
    "socket.receive.buffer.bytes",
    "socket.send.buffer.bytes",
    "socket.timeout.ms",
    "ssl.ca.certificate.stores",
    "ssl.ca.location",
    "ssl.certificate.location",
    "ssl.crl.location",
    "ssl.curves.list",
    "ssl.key.location",
    "ssl.key.password",
    "ssl.keystore.location",
    "ssl.keystore.password",
    "ssl.sigalgs.list",
    "statistics.interval.ms",
    "topic.metadata.propagation.max.ms",
    "topic.metadata.refresh.fast.cnt",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.sparse",
];

/// Why properties may not be set, or what sets them.
const REFUSED: &[(&[&str], &str)] = &[
    (&["acks", "request.required.acks"], "with less than all replicas in sync, an accepted event could be lost"),
    (
        &["enable.idempotence", "message.send.max.retries", "retries", "max.in.flight"],
        "a retry could double or reorder records",
    ),
    (&["max.in.flight.requests.per.connection", "queuing.strategy"], "records of a key could be reordered"),
    (&["partitioner"], "records of a key would go to another partition than those of other clients"),
    (
        &["message.timeout.ms", "delivery.timeout.ms"],
        "a record that is given up could be overtaken; see STREAMING_RECORD_DELIVERY_TIMEOUT_S",
    ),
    (&["delivery.report.only.error"], "no event would ever be confirmed"),
    (
        &["enable.gapless.guarantee", "transactional.id", "transaction.timeout.ms"],
        "the client would fail where it now recovers",
    ),
    (
        &["enable.ssl.certificate.verification", "ssl.endpoint.identification.algorithm"],
        "anybody could pose as the broker; see STREAMING_TLS_CA_CERT",
    ),
    (&["ssl.cipher.suites"], "it keeps TLS below 1.2 out"),
    (
        &["plugin.library.paths", "interceptors", "ssl.engine.location", "ssl.engine.id", "ssl.providers"],
        "it would load code into the service",
    ),
    (
        &["api.version.request", "broker.version.fallback"],
        "without what the broker says of itself, idempotence can't be had",
    ),
    (&["bootstrap.servers", "metadata.broker.list"], "set STREAMING_BROKERS"),
    (&["client.id"], "set STREAMING_CLIENT_ID"),
    (&["linger.ms", "queue.buffering.max.ms"], "set STREAMING_BATCH_LINGER_MS"),
    (&["batch.size"], "set STREAMING_BATCH_MAX_BYTES"),
    (&["queue.buffering.max.messages"], "set STREAMING_MAX_BUFFERED_RECORDS"),
    (&["message.max.bytes"], "set STREAMING_MAX_RECORD_BYTES"),
    (&["compression.type", "compression.codec"], "set STREAMING_COMPRESSION"),
    (&["security.protocol"], "set STREAMING_TLS_ENABLED and STREAMING_SASL_MECHANISM"),
    (&["ssl.ca.pem"], "set STREAMING_TLS_CA_CERT"),
    (&["ssl.certificate.pem"], "set STREAMING_TLS_CLIENT_CERT"),
    (&["ssl.key.pem"], "set STREAMING_TLS_CLIENT_KEY"),
    (&["sasl.mechanism", "sasl.mechanisms"], "set STREAMING_SASL_MECHANISM"),
    (&["sasl.username"], "set STREAMING_SASL_USERNAME"),
    (&["sasl.password"], "set STREAMING_SASL_PASSWORD"),
];

/// Why a property may not be set, or what sets it.
fn why_not(name: &str) -> &'static str {
    let found = REFUSED.iter().find(|(names, _)| names.contains(&name));
    found.map_or("it is not among those that are known to break no promise", |(_, why)| why)
}

/// Whether the client takes a property with this value, as far as it can be told without its other properties.
#[cfg(feature = "kafka")]
fn is_taken(name: &str, value: &str) -> bool {
    // A value with a NUL is cut by no C string, but refused.
    !value.contains('\0') && rdkafka::ClientConfig::new().set(name, value).create_native_config().is_ok()
}

#[cfg(not(feature = "kafka"))]
fn is_taken(_: &str, _: &str) -> bool {
    true
}

impl Properties {
    /// Adds a property.
    pub(crate) fn set(&mut self, name: &str, value: String) -> Result<()> {
        let Some(allowed) = ALLOWED.into_iter().find(|allowed| *allowed == name) else {
            let message = format!("the property `{name}` of the Kafka client can't be set: {}", why_not(name));
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        };
        if !is_taken(name, &value) {
            // What the client says quotes the value.
            let message = format!("the property `{name}` of the Kafka client can't have this value");
            return Err(Error::new(ErrorKind::InvalidConfig, message));
        }
        self.0.insert(allowed, Secret::new(value));
        Ok(())
    }

    /// Properties from `name=value` entries, apart by semicolons or new lines; and what is wrong with the others.
    pub(super) fn parse(text: &str) -> (Self, Vec<String>) {
        let mut properties = Self::default();
        let mut faults = Vec::new();
        for entry in text.split([';', '\n']).map(str::trim).filter(|entry| !entry.is_empty()) {
            // An entry that can't be read is not quoted: its value may be secret.
            let added = match entry.split_once('=') {
                Some((name, value)) => properties.set(name.trim(), value.trim().to_owned()).map_err(|e| e.to_string()),
                None => Err("an entry is not `name=value`".to_owned()),
            };
            faults.extend(added.err());
        }
        (properties, faults)
    }

    /// The names and values, for the client alone.
    #[cfg_attr(not(feature = "kafka"), expect(dead_code, reason = "read by the Kafka client"))]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.expose()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_apart_by_semicolons_or_lines_and_may_have_commas_and_equals_signs() {
        let (properties, faults) = Properties::parse("client.rack = a=b,c ;\n\nsocket.timeout.ms=5000\n");
        assert_eq!(faults, Vec::<String>::new());
        assert_eq!(properties.iter().collect::<Vec<_>>(), [("client.rack", "a=b,c"), ("socket.timeout.ms", "5000")]);
    }

    #[test]
    fn what_would_break_a_promise_is_refused_with_the_reason() {
        for (name, reason) in [
            ("acks", "could be lost"),
            ("request.required.acks", "could be lost"),
            ("enable.idempotence", "double or reorder"),
            ("max.in.flight.requests.per.connection", "reordered"),
            ("queuing.strategy", "reordered"),
            ("partitioner", "another partition"),
            ("delivery.report.only.error", "confirmed"),
            ("enable.ssl.certificate.verification", "pose as the broker"),
            ("sasl.password", "STREAMING_SASL_PASSWORD"),
            ("ssl.engine.location", "load code"),
            ("ssl.engine.id", "load code"),
            ("ssl.providers", "load code"),
            ("api.version.request", "idempotence"),
            ("broker.version.fallback", "idempotence"),
            ("test.mock.num.brokers", "not among those"),
        ] {
            let error = Properties::default().set(name, "pl4nted".to_owned()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            let text = format!("{error:?}");
            assert!(text.contains(name) && text.contains(reason) && !text.contains("pl4nted"), "{text}");
            assert!(!ALLOWED.contains(&name));
        }
    }

    #[test]
    fn the_documented_properties_are_these() {
        let listed = |names: &[&str]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        crate::documented::check_in("reference", "allowed", [listed(&ALLOWED)]);
        let head = ["| property | why not, or what sets it |".to_owned(), "| --- | --- |".into()];
        let rows = REFUSED.iter().map(|(names, why)| format!("| {} | {why} |", listed(names)));
        crate::documented::check_in("reference", "refused", head.into_iter().chain(rows));
        assert!(REFUSED.iter().all(|(names, _)| names.iter().all(|name| !ALLOWED.contains(name))));
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn a_value_that_the_client_does_not_take_is_a_fault_that_names_the_property_and_not_the_value() {
        for name in ["socket.timeout.ms", "broker.address.family", "socket.keepalive.enable"] {
            let (properties, faults) = Properties::parse(&format!("{name}=pl4nted"));
            assert_eq!((properties.iter().count(), faults.len()), (0, 1));
            assert!(faults[0].contains(name) && !faults[0].contains("pl4nted"), "{faults:?}");
        }
    }

    #[test]
    fn no_value_is_seen() {
        let (properties, faults) = Properties::parse("client.rack=pl4nted;pl4nted");
        assert!(!format!("{properties:?}{faults:?}").contains("pl4nted"));
        assert_eq!(faults.len(), 1);
    }

    #[test]
    #[cfg(feature = "kafka")]
    fn every_property_that_may_be_set_is_one_of_the_clients() {
        for name in ALLOWED {
            let refused = rdkafka::ClientConfig::new().set(name, "no such value").create_native_config();
            // Unknown is something else than invalid.
            let Err(error) = refused else { continue };
            assert!(!error.to_string().contains("No such configuration property"), "{error}");
        }
    }
}
