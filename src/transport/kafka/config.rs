//! The client's configuration. Pure.

use rdkafka::ClientConfig;

use crate::config::Config;
use crate::config::security::{Sasl, Security, Tls};
use crate::producer::client::Role;

/// The relay's client holds a window of the relay's, so its queue is never what it waits for.
const RELAY_BUFFERED_RECORDS: u32 = 100_000;

/// How long a request may wait for its answer before the connection is given up. A connection that was cut without a word
/// costs the relay this time.
const SOCKET_TIMEOUT_MS: &str = "10000";

/// How often the client says how long brokers take to answer, and whether it knows any.
const STATISTICS_INTERVAL_MS: &str = "5000";

/// Lowers what a batch of a client may have to what its topics take: a broker refuses a larger one as a whole, though each of its
/// records would be taken. A record that is larger than that by itself is still sent.
pub(super) fn limit_batches(client: &mut ClientConfig, max_bytes: usize) {
    let set = client.get("batch.size").and_then(|bytes| bytes.parse().ok()).unwrap_or(usize::MAX);
    if max_bytes < set {
        client.set("batch.size", max_bytes.to_string());
    }
}

/// The properties of a client for this role
/// (<https://github.com/confluentinc/librdkafka/blob/v2.12.1/CONFIGURATION.md>).
pub(crate) fn client_config(config: &Config, role: Role) -> ClientConfig {
    let message_timeout = match role {
        Role::Direct => config.delivery_timeout.as_millis(),
        // 0 is never: were a record given up while a later one of its key is kept, the later one would overtake it.
        Role::Relay => 0,
    };
    let buffered = match role {
        Role::Direct => config.client.max_buffered_records,
        Role::Relay => RELAY_BUFFERED_RECORDS,
    };
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", config.client.brokers.join(","))
        .set("client.id", &config.client.client_id)
        // Nothing lost, nothing doubled by a retry, order kept within a partition.
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("message.send.max.retries", config.client.record_retries.to_string())
        .set("message.timeout.ms", message_timeout.to_string())
        // The partition that Java's and Go's clients choose for the same key.
        .set("partitioner", "murmur2_random")
        .set("queue.buffering.max.messages", buffered.to_string())
        .set("queue.buffering.max.ms", config.client.linger.as_millis().to_string())
        .set("batch.size", config.client.batch_max_bytes.to_string())
        .set("message.max.bytes", config.max_record_bytes.to_string())
        .set("compression.type", config.client.compression.as_str())
        // A broker that comes back is found within a second, not within ten.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "500")
        .set("socket.timeout.ms", SOCKET_TIMEOUT_MS)
        .set("request.timeout.ms", "5000")
        .set("socket.keepalive.enable", "true")
        .set("statistics.interval.ms", STATISTICS_INTERVAL_MS);
    secure(&mut client, &config.client.security);
    for (name, value) in config.client.properties.iter() {
        client.set(name, value);
    }
    client
}

fn secure(client: &mut ClientConfig, security: &Security) {
    let protocol = match (&security.tls, &security.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    client.set("security.protocol", protocol);
    if let Some(Tls { ca, identity }) = &security.tls {
        // That the host name is checked is librdkafka's default. It has no property for the least version, but no cipher is
        // left for one below TLS 1.2, whatever version and policy of OpenSSL there is.
        client.set("ssl.cipher.suites", "DEFAULT:!SSLv3:!TLSv1.0");
        if let Some(ca) = ca {
            client.set("ssl.ca.pem", ca);
        }
        if let Some((certificate, key)) = identity {
            client.set("ssl.certificate.pem", certificate.expose()).set("ssl.key.pem", key.expose());
        }
    }
    if let Some(Sasl { mechanism, login }) = &security.sasl {
        client.set("sasl.mechanism", *mechanism);
        if let Some((username, password)) = login {
            client.set("sasl.username", username).set("sasl.password", password.expose());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::KafkaTransport;
    use super::*;

    fn config() -> Config {
        let vars = [
            ("STREAMING_ENABLED", "true"),
            ("STREAMING_BROKERS", "a:1,b:2"),
            ("STREAMING_CLOUDEVENTS_SOURCE", "//shop"),
            ("STREAMING_CLIENT_ID", "orders-1"),
            ("STREAMING_BATCH_LINGER_MS", "7"),
            ("STREAMING_BATCH_MAX_BYTES", "2000"),
            ("STREAMING_MAX_BUFFERED_RECORDS", "11"),
            ("STREAMING_MAX_RECORD_BYTES", "5000"),
            ("STREAMING_COMPRESSION", "zstd"),
            ("STREAMING_RECORD_RETRIES", "3"),
            ("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "12"),
            ("STREAMING_KAFKA_PROPERTIES", "client.rack=a; socket.timeout.ms=4000"),
        ];
        Config::from_vars(vars).unwrap()
    }

    #[test]
    fn every_setting_reaches_the_client() {
        let client = client_config(&config(), Role::Direct);
        for (property, value) in [
            ("bootstrap.servers", "a:1,b:2"),
            ("client.id", "orders-1"),
            ("queue.buffering.max.ms", "7"),
            ("batch.size", "2000"),
            ("queue.buffering.max.messages", "11"),
            ("message.max.bytes", "5000"),
            ("compression.type", "zstd"),
            ("message.send.max.retries", "3"),
            ("message.timeout.ms", "12000"),
            ("client.rack", "a"),
            ("socket.timeout.ms", "4000"),
        ] {
            assert_eq!(client.get(property), Some(value), "{property}");
        }
    }

    #[test]
    fn what_the_promises_rest_on_is_set_for_both_roles_and_accepted_by_the_client() {
        for role in [Role::Direct, Role::Relay] {
            let client = client_config(&config(), role);
            assert_eq!(client.get("acks"), Some("all"));
            assert_eq!(client.get("enable.idempotence"), Some("true"));
            assert_eq!(client.get("partitioner"), Some("murmur2_random"));
            assert!(KafkaTransport::new(&client, None, Arc::default()).is_ok());
        }
    }

    #[test]
    #[cfg(any(feature = "tls", feature = "tls-vendored"))]
    fn tls_leaves_no_cipher_for_versions_below_1_2() {
        let config = Config::from_vars([("STREAMING_TLS_ENABLED", "true")]).unwrap();
        let client = client_config(&config, Role::Direct);
        assert_eq!(client.get("ssl.cipher.suites"), Some("DEFAULT:!SSLv3:!TLSv1.0"));
        assert!(KafkaTransport::new(&client, None, Arc::default()).is_ok(), "OpenSSL knows the names");
    }

    #[test]
    fn the_relays_records_never_time_out() {
        assert_eq!(client_config(&config(), Role::Relay).get("message.timeout.ms"), Some("0"));
    }
}
