//! What the compatibility settings put on the topic, held against lib-streaming's rules byte for byte.
//!
//! The vectors were worked out by hand from those rules, not taken from this library's output.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use rdkafka::mocking::MockCluster;
use tidings::testing::MemoryTransport;
use tidings::transport::{OnDelivery, QueueFull, Record, Transport};
use tidings::{
    BoxFuture, Catalog, Config, EmitRequest, Emitter, ErrorKind, EventClass, EventDefinition, OutboxMode, PartitionKey,
    PolicyOverride, Producer, Result, SqliteOutbox,
};

use crate::support::relaying::RunningRelay;
use crate::support::topic::read_to_end;
use crate::support::waiting::until;

const TRACE_PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const KEY: &str = "e";

fn definition(resource: &str, event: &str) -> EventDefinition {
    EventDefinition::new(KEY, resource, event)
}

fn request() -> EmitRequest {
    EmitRequest::new(KEY)
        .id("018f6b1e-7c1a-7f00-8000-000000000001".parse().unwrap())
        .time(at("08:20:30.5"))
        .payload("{}")
}

/// A time on one day.
fn at(time: &str) -> DateTime<Utc> {
    format!("2026-03-01T{time}Z").parse().unwrap()
}

async fn producer(version: &str, source: &str, definition: EventDefinition, transport: Arc<dyn Transport>) -> Producer {
    let config = Config::from_vars([
        ("STREAMING_ENABLED", "true"),
        ("STREAMING_BROKERS", "none:1"),
        ("STREAMING_CLOUDEVENTS_SOURCE", source),
        ("STREAMING_COMPATIBILITY", version),
    ]);
    let catalog = Catalog::new([definition]).unwrap();
    Producer::builder(config.unwrap(), catalog).with_transport(transport).build().await.unwrap()
}

/// The record of a request.
async fn record(version: &str, source: &str, definition: EventDefinition, request: EmitRequest) -> Record {
    let transport = Arc::new(MemoryTransport::default());
    producer(version, source, definition, Arc::clone(&transport) as _).await.emit(request).await.unwrap();
    transport.records().remove(0)
}

/// The headers by their names, of which each may be there once.
fn headers(record: &Record) -> BTreeMap<&str, &str> {
    let texts = record.headers.iter().map(|(name, value)| (name, std::str::from_utf8(value).unwrap()));
    let by_name: BTreeMap<_, _> = texts.collect();
    assert_eq!(by_name.len(), record.headers.count(), "a header is there twice: {:?}", record.headers);
    by_name
}

/// A record as lib-streaming would have written it.
struct Vector {
    version: &'static str,
    source: &'static str,
    definition: EventDefinition,
    request: EmitRequest,
    topic: &'static str,
    key: &'static str,
    headers: &'static [(&'static str, &'static str)],
}

const V0_2: &str = "lib-streaming-v0.2";
const V3: &str = "lib-streaming-v3";

#[tokio::test]
async fn a_record_has_the_topic_key_headers_and_value_that_lib_streaming_gives_it() {
    let vectors = [
        // All that an event may have. The source of v0.2 is any URI reference.
        Vector {
            version: V0_2,
            source: "//lerian.midaz/tx-service",
            definition: definition("transaction", "created")
                .with_schema_version("1.4.0")
                .with_data_schema("https://schemas.example/transaction.json"),
            request: request().tenant("t-é").subject("tx 17%").payload("{\"b\": 1,  \"a\":\"é\"}"),
            topic: "lerian.streaming.transaction.created",
            key: "t-é",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "//lerian.midaz/tx-service"),
                ("ce-type", "studio.lerian.transaction.created"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "1.4.0"),
                ("ce-resourcetype", "transaction"),
                ("ce-eventtype", "created"),
                ("ce-subject", "tx 17%"),
                ("ce-datacontenttype", "application/json"),
                ("ce-dataschema", "https://schemas.example/transaction.json"),
                ("ce-tenantid", "t-é"),
            ],
        },
        // The least that an event has; a major version from 2 on is in the topic and not in the type, and is written as it
        // was set.
        Vector {
            version: V0_2,
            source: "midaz",
            definition: definition("account", "closed").with_schema_version("v2"),
            request: request().tenant("t-1"),
            topic: "lerian.streaming.account.closed.v2",
            key: "t-1",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "midaz"),
                ("ce-type", "studio.lerian.account.closed"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "v2"),
                ("ce-resourcetype", "account"),
                ("ce-eventtype", "closed"),
                ("ce-datacontenttype", "application/json"),
                ("ce-tenantid", "t-1"),
            ],
        },
        // A system event says so, is keyed by itself, and has no tenant.
        Vector {
            version: V0_2,
            source: "midaz",
            definition: definition("node", "restarted").with_system(true),
            request: request().tenant("t-1").subject("node-3"),
            topic: "lerian.streaming.node.restarted",
            key: "system:restarted",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "midaz"),
                ("ce-type", "studio.lerian.node.restarted"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "1.0.0"),
                ("ce-resourcetype", "node"),
                ("ce-eventtype", "restarted"),
                ("ce-subject", "node-3"),
                ("ce-datacontenttype", "application/json"),
                ("ce-systemevent", "true"),
            ],
        },
        // v3 has one topic for the application, whatever the version, and the source in the type. Without a tenant the
        // subject is the key. Opaque payloads stay as they are.
        Vector {
            version: V3,
            source: "tx-service",
            definition: definition("transaction", "created")
                .with_schema_version("2.0.0")
                .with_content_type("application/octet-stream"),
            request: request().subject("tx-17").payload("\u{1}\u{2}"),
            topic: "lerian.streaming.tx-service",
            key: "tx-17",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "tx-service"),
                ("ce-type", "studio.lerian.tx-service.transaction.created"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "2.0.0"),
                ("ce-resourcetype", "transaction"),
                ("ce-eventtype", "created"),
                ("ce-subject", "tx-17"),
                ("ce-datacontenttype", "application/octet-stream"),
            ],
        },
        // A command, which has a topic of its own; without tenant and subject the id is the key.
        Vector {
            version: V3,
            source: "0_tx",
            definition: definition("limit", "raise").with_class(EventClass::Command),
            request: request(),
            topic: "lerian.streaming.0_tx.commands",
            key: "018f6b1e-7c1a-7f00-8000-000000000001",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "0_tx"),
                ("ce-type", "studio.lerian.0_tx.limit.raise"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "1.0.0"),
                ("ce-resourcetype", "limit"),
                ("ce-eventtype", "raise"),
                ("ce-datacontenttype", "application/json"),
            ],
        },
        Vector {
            version: V3,
            source: "tx-service",
            definition: definition("node", "restarted").with_system(true),
            request: request().tenant("t-1"),
            topic: "lerian.streaming.tx-service",
            key: "system:restarted",
            headers: &[
                ("ce-specversion", "1.0"),
                ("ce-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
                ("ce-source", "tx-service"),
                ("ce-type", "studio.lerian.tx-service.node.restarted"),
                ("ce-time", "2026-03-01T08:20:30.5Z"),
                ("ce-schemaversion", "1.0.0"),
                ("ce-resourcetype", "node"),
                ("ce-eventtype", "restarted"),
                ("ce-datacontenttype", "application/json"),
                ("ce-systemevent", "true"),
            ],
        },
    ];
    for vector in vectors {
        let payload = vector.request.payload_bytes().cloned();
        let record = record(vector.version, vector.source, vector.definition, vector.request).await;
        assert_eq!((&*record.topic, &record.key[..]), (vector.topic, vector.key.as_bytes()));
        assert_eq!(headers(&record), vector.headers.iter().copied().collect());
        assert_eq!(record.payload, payload);
    }
}

/// As Go's `time.RFC3339Nano`, whose fraction has no zeros at its end.
#[tokio::test]
async fn a_time_is_written_as_go_writes_it() {
    for (time, text) in [
        ("00:00:00", "00:00:00Z"),
        ("08:20:30", "08:20:30Z"),
        ("08:20:00.000000000", "08:20:00Z"),
        ("08:20:30.5", "08:20:30.5Z"),
        ("08:20:30.120", "08:20:30.12Z"),
        ("08:20:30.100200", "08:20:30.1002Z"),
        ("08:20:30.000000001", "08:20:30.000000001Z"),
        ("08:20:30.999999999", "08:20:30.999999999Z"),
    ] {
        let record = record(V3, "midaz", definition("r", "e"), request().time(at(time))).await;
        assert_eq!(headers(&record)["ce-time"], format!("2026-03-01T{text}"));
    }
}

#[tokio::test]
async fn the_trace_context_stands_behind_the_attributes_without_a_prefix_and_in_order() {
    let traced = request().trace_state("vendor=1").trace_parent(TRACE_PARENT).extension("region", "eu");
    let record = record(V3, "midaz", definition("r", "e"), traced).await;
    let names: Vec<_> = record.headers.iter().map(|(name, _)| name).collect();
    assert!(names.ends_with(&["ce-region", "traceparent", "tracestate"]), "{names:?}");
    assert!(names.iter().rev().skip(2).all(|name| name.starts_with("ce-")), "{names:?}");
    assert_eq!((headers(&record)["traceparent"], headers(&record)["tracestate"]), (TRACE_PARENT, "vendor=1"));
}

#[tokio::test]
async fn a_custom_key_that_is_empty_is_the_default_one() {
    for (custom, key) in [("region-1", "region-1"), ("", "t-1")] {
        let definition = definition("r", "e").with_partition_key(PartitionKey::custom(move |_| custom.into()));
        let record = record(V3, "midaz", definition, request().tenant("t-1").subject("s")).await;
        assert_eq!(record.key, key);
    }
}

#[tokio::test]
async fn only_v3_asks_for_a_source_that_can_be_part_of_a_topic() {
    let longest = "x".repeat(223);
    for (version, source, is_ok) in [
        (V0_2, "//lerian.midaz/tx-service", true),
        (V0_2, &*"x".repeat(2048), true),
        (V0_2, &"x".repeat(2049), false),
        (V3, "0", true),
        (V3, "tx_service-2", true),
        (V3, &longest, true),
        (V3, &format!("{longest}x"), false),
        (V3, "//lerian.midaz/tx-service", false),
        (V3, "Tx", false),
        (V3, "_tx", false),
        (V3, "-tx", false),
        (V3, "tx.service", false),
    ] {
        let build = async {
            let config = Config::new(source, ["none:1"])?;
            let config = if version == V3 { config.with_lib_streaming_v3() } else { config.with_lib_streaming_v0_2() };
            let catalog = Catalog::new([definition("r", "e")])?;
            Producer::builder(config, catalog).with_transport(Arc::new(MemoryTransport::default())).build().await
        };
        assert_eq!(build.await.is_ok(), is_ok, "{version} {source}");
    }
}

/// Refuses events, and takes dead letters.
#[derive(Debug, Default)]
struct Refusing {
    events: MemoryTransport,
    dead: MemoryTransport,
}

impl Transport for Refusing {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> std::result::Result<(), QueueFull> {
        let side = if record.topic.ends_with(".dlq") { &self.dead } else { &self.events };
        self.events.refuse_key(String::from_utf8_lossy(&record.key));
        side.submit(record, on_delivery)
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        self.dead.room()
    }

    fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool> {
        self.dead.flush(timeout)
    }

    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        self.dead.probe(timeout)
    }
}

#[tokio::test]
async fn a_dead_letter_is_the_record_with_the_headers_that_lib_streaming_adds() {
    for (version, class, source_topic, topic) in [
        (V0_2, EventClass::Fact, "lerian.streaming.order.created", "lerian.streaming.order.created.dlq"),
        (V3, EventClass::Fact, "lerian.streaming.midaz", "lerian.streaming.midaz.dlq"),
        // Those of commands go where those of facts go.
        (V3, EventClass::Command, "lerian.streaming.midaz.commands", "lerian.streaming.midaz.dlq"),
    ] {
        let definition = || definition("order", "created").with_class(class);
        let alive = record(version, "midaz", definition(), request().tenant("t-1")).await;
        let transport = Arc::new(Refusing::default());
        let producer = producer(version, "midaz", definition(), Arc::clone(&transport) as _).await;
        let error = producer.emit(request().tenant("t-1")).await.unwrap_err();
        assert_eq!((error.kind(), error.dead_lettered()), (ErrorKind::RecordRejected, true));
        let dead = transport.dead.records().remove(0);
        assert_eq!((&*dead.topic, &dead.key, &dead.payload), (topic, &alive.key, &alive.payload));
        let mut added = headers(&dead);
        for (name, value) in headers(&alive) {
            assert_eq!(added.remove(name), Some(value), "{name}");
        }
        let failed_at = added.remove("x-lerian-dlq-first-failure-at").unwrap();
        assert!((Utc::now() - failed_at.parse::<DateTime<Utc>>().unwrap()).num_seconds() < 60);
        let producer_id = added.remove("x-lerian-dlq-producer-id").unwrap();
        assert_eq!(producer_id.split('-').map(str::len).collect::<Vec<_>>(), [8, 4, 4, 4, 12]);
        let expected = [
            ("x-lerian-dlq-source-topic", source_topic),
            ("x-lerian-dlq-error-class", "serialization_error"),
            ("x-lerian-dlq-error-message", "the memory transport refuses this key"),
            ("x-lerian-dlq-retry-count", "0"),
        ];
        assert_eq!(added, expected.into());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_of_the_topic_gets_the_same_bytes() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("lerian.streaming.midaz", 8, 1).unwrap();
    let config = Config::new("midaz", [cluster.bootstrap_servers()]).unwrap().with_lib_streaming_v3();
    let catalog = Catalog::new([definition("order", "created")]).unwrap();
    let producer = Producer::builder(config, catalog).build().await.unwrap();
    let request = || request().tenant("t-é").trace_parent(TRACE_PARENT);
    producer.emit(request()).await.unwrap();
    let read = read_to_end(&cluster.bootstrap_servers(), "lerian.streaming.midaz").await.remove(0);
    let record = record(V3, "midaz", definition("order", "created"), request()).await;
    assert_eq!((&read.key[..], Some(&read.payload[..])), (&record.key[..], record.payload.as_deref()));
    let mut headers: Vec<_> = record.headers.iter().map(|(name, value)| (name.to_owned(), value.to_vec())).collect();
    headers.sort();
    assert_eq!(read.headers, headers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_the_outbox_comes_the_same_record() {
    let transport = Arc::new(MemoryTransport::default());
    let directory = tempfile::tempdir().unwrap();
    let outbox = SqliteOutbox::open(directory.path().join("shop.sqlite"));
    outbox.migrate().await.unwrap();
    let config = Config::new("midaz", ["none:1"]).unwrap().with_lib_streaming_v3();
    let builder = Producer::builder(config, Catalog::new([definition("order", "created")]).unwrap());
    let producer = builder.with_outbox(outbox).with_transport(Arc::clone(&transport) as _).build().await.unwrap();
    let request = || request().tenant("t-1").payload("{\"b\": 1,  \"b\":\"\\u0000\"}").trace_parent(TRACE_PARENT);
    producer.emit(request()).await.unwrap();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    producer.emit(request().policy(always)).await.unwrap();
    let _relay = RunningRelay::of(&producer);
    until("the stored one has arrived", || transport.records().len() == 2).await;
    let records = transport.records();
    assert_eq!(records[0], records[1]);
}
