//! What a service tells of itself through a whole scenario: every span and every metric, held against stored lists.
//! `UPDATE_DOCS=1 cargo test --all-features --test observed` writes these anew.
//!
//! It has a process to itself, since recorder and subscriber are those of the process.
#![allow(clippy::disallowed_methods, reason = "tests are the callers who own the tasks")]
#![allow(clippy::future_not_send, reason = "the mock cluster stays in the test's own task")]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::poll_fn;
use std::task::Poll;
use std::time::{Duration, Instant};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use rdkafka::mocking::MockCluster;
use rdkafka::types::RDKafkaRespErr;
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePoolOptions};
use tidings::{
    Catalog, Config, EmitRequest, Emitter, EmitterExt, ErrorKind, EventDefinition, ForcedBreaker, Outcome, Producer,
    SqliteOutbox,
};
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[path = "../support/support.rs"]
mod support;

use support::topic::{ReadBack, read_until};

const EVENT: &str = "order.changed";
const REFUSED: &str = "order.refused";
const TOPIC: &str = "shop.order.changed";
const REFUSING_TOPIC: &str = "shop.order.refused";

/// What no span and no metric may have.
const TENANT: &str = "tenant-that-nobody-may-see";
const PAYLOAD: &str = "payload-that-nobody-may-see";

fn request(key: &'static str) -> EmitRequest {
    EmitRequest::new(key).tenant(TENANT).json(&json!({ "secret": PAYLOAD })).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scenario_is_told_as_the_lists_say() {
    let metrics = DebuggingRecorder::new();
    let snapshotter = metrics.snapshotter();
    metrics.install().unwrap();
    let spans = InMemorySpanExporter::default();
    let traces = SdkTracerProvider::builder().with_simple_exporter(spans.clone()).build();
    let layer = tracing_opentelemetry::layer()
        .with_tracer(traces.tracer("test"))
        .with_location(false)
        .with_threads(false)
        .with_tracked_inactivity(false);
    tracing_subscriber::registry().with(tracing_subscriber::filter::LevelFilter::INFO).with(layer).init();

    let records = scenario().await;

    let spans = spans.get_finished_spans().unwrap();
    check("tests/observed/spans.txt", &span_lines(&spans));
    check("tests/observed/metrics.txt", &metric_lines(snapshotter));
    let told = format!("{spans:?}");
    assert!(!told.contains(TENANT) && !told.contains(PAYLOAD), "a span has what nobody may see");
    traces_go_with_events(&spans, &records);
}

/// Everything that a service may live through. Yields what is on the topic then.
async fn scenario() -> Vec<ReadBack> {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic(TOPIC, 1, 1).unwrap();
    cluster.create_topic(REFUSING_TOPIC, 1, 1).unwrap();
    cluster.topic_error(REFUSING_TOPIC, RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("shop.sqlite");
    let outbox = SqliteOutbox::open(&file);
    outbox.migrate().await.unwrap();
    let pool = SqliteOutbox::guard(SqlitePoolOptions::new())
        .connect_lazy_with(SqliteConnectOptions::new().filename(&file).busy_timeout(Duration::from_secs(20)));
    let catalog = Catalog::new([
        EventDefinition::new(EVENT, "order", "changed"),
        EventDefinition::new(REFUSED, "order", "refused"),
    ]);
    let config =
        Config::new("//shop", [cluster.bootstrap_servers()]).unwrap().with_naming(tidings::Naming::per_event("shop"));
    // Otherwise it may be told of round trips only after the end.
    let config = config.with_kafka_property("statistics.interval.ms", "200").unwrap();
    let producer = Producer::builder(config, catalog.unwrap()).with_outbox(outbox).build().await.unwrap();

    // Published within a request of the service's own.
    let receipt = producer.emit(request(EVENT)).instrument(info_span!("request")).await.unwrap();
    assert!(matches!(receipt.outcome, Outcome::Published { .. }), "{receipt:?}");
    let mut ids = HashSet::from([receipt.event_id.to_string()]);
    let batch = producer.emit_batch(vec![request(EVENT), request(EVENT)]).await;
    ids.extend(batch.into_iter().map(|result| result.unwrap().event_id.to_string()));
    // Stored, in a transaction and while the breaker is open, and relayed.
    let mut tx = pool.begin().await.unwrap();
    let receipt = producer.emit_in(&mut tx, request(EVENT)).instrument(info_span!("request")).await.unwrap();
    ids.insert(receipt.event_id.to_string());
    tx.commit().await.unwrap();
    producer.force_breaker(Some(ForcedBreaker::Open));
    let receipt = producer.emit(EmitRequest::new(EVENT).tenant("another").payload("{}")).await.unwrap();
    ids.insert(receipt.event_id.to_string());
    producer.force_breaker(None);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let relay = tokio::spawn(producer.relay(async {
        let _ = stopped.await;
    }));
    let start = Instant::now();
    while producer.health().await.outbox.unwrap().waiting != Some(0) {
        assert!(start.elapsed() < Duration::from_secs(60), "it is not relayed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Refused, by the catalog and by the broker.
    let error = producer.emit(request(EVENT).payload("not JSON")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert_eq!(producer.emit(request("no.such.event")).await.unwrap_err().kind(), ErrorKind::UnknownEvent);
    let error = producer.emit(request(REFUSED)).await.unwrap_err();
    assert!(error.dead_lettered(), "{error:?}");
    // Given up by its caller.
    cluster.broker_round_trip_time(1, Duration::from_millis(300)).unwrap();
    let mut emit = producer.emit(request(EVENT));
    assert!(
        poll_fn(|context| Poll::Ready(emit.as_mut().poll(context).is_pending())).await,
        "the broker takes its time"
    );
    drop(emit);
    // Long enough for everything that is told once a second.
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(stop);
    relay.await.unwrap().unwrap();
    producer.close().await.unwrap();
    assert_eq!(producer.emit(request(EVENT)).await.unwrap_err().kind(), ErrorKind::Closed);
    read_until(&cluster.bootstrap_servers(), TOPIC, ids).await
}

/// Each kind of span once: its name, kind and status, where it belongs, and what it says.
fn span_lines(spans: &[SpanData]) -> Vec<String> {
    let names: HashMap<_, _> = spans.iter().map(|span| (span.span_context.span_id(), &span.name)).collect();
    let line = |span: &SpanData| {
        let parent = names.get(&span.parent_span_id).map(|name| format!(" in `{name}`")).unwrap_or_default();
        let links: BTreeSet<_> =
            span.links.iter().map(|link| format!(" to `{}`", names[&link.span_context.span_id()])).collect();
        let attributes: BTreeSet<_> = span
            .attributes
            .iter()
            .map(|attribute| {
                let key = attribute.key.as_str();
                // What differs from run to run, or from event to event.
                let varies = ["id", "offset"].iter().any(|end| key.ends_with(end));
                if varies { format!("{key}=*") } else { format!("{key}={}", attribute.value) }
            })
            .collect();
        let attributes: Vec<_> = attributes.into_iter().collect();
        let links = links.into_iter().collect::<String>();
        format!(
            "{} ({:?}, {:?}){parent}{links}\n    {}",
            span.name,
            span.span_kind,
            span.status,
            attributes.join("\n    ")
        )
    };
    let lines: BTreeSet<_> = spans.iter().filter(|span| span.name != "request").map(line).collect();
    lines.into_iter().collect()
}

/// Each metric once, with its unit and labels.
fn metric_lines(snapshotter: Snapshotter) -> Vec<String> {
    let mut lines = BTreeSet::new();
    for (key, unit, description, value) in snapshotter.snapshot().into_vec() {
        assert!(description.is_some(), "{key:?} is described");
        let labels: BTreeSet<_> = key
            .key()
            .labels()
            .map(|label| {
                assert!(!label.value().contains(TENANT), "{label:?}");
                let value = if label.key() == "lane" { "*" } else { label.value() };
                format!("{}={value}", label.key())
            })
            .collect();
        let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
        let kind = match value {
            DebugValue::Counter(_) => "counter",
            DebugValue::Gauge(value) => {
                // The relay has ended.
                assert!(key.key().name() != "tidings.relay.lanes" || value == 0.0, "{value}");
                "gauge"
            }
            DebugValue::Histogram(_) => "histogram",
        };
        let unit = unit.map(|unit| unit.as_str()).unwrap_or_default();
        lines.insert(format!("{} ({kind}, {unit}) {labels}", key.key().name()).trim_end().to_owned());
    }
    lines.into_iter().collect()
}

/// One trace shows the request, the emit and what was sent at once; what was relayed is linked to the emit. Every record says
/// in which emit it came about.
fn traces_go_with_events(spans: &[SpanData], records: &[ReadBack]) {
    assert!(records.len() >= 5);
    for record in records {
        let is_its = |attribute: &KeyValue| {
            attribute.key.as_str() == "cloudevents.event_id" && attribute.value.as_str() == record.id()
        };
        let emit = spans.iter().find(|span| span.attributes.iter().any(is_its)).unwrap();
        let (trace, span) = (emit.span_context.trace_id(), emit.span_context.span_id());
        assert_eq!(record.header("ce_traceparent"), format!("00-{trace}-{span}-01"));
    }
    let by_id: HashMap<_, _> = spans.iter().map(|span| (span.span_context.span_id(), span)).collect();
    let requests: Vec<_> = spans.iter().filter(|span| span.name == "request").collect();
    let [direct, transactional] = &requests[..] else { panic!("{requests:?}") };
    let emit_of =
        |request: &SpanData| spans.iter().find(|span| span.parent_span_id == request.span_context.span_id()).unwrap();
    let send = spans.iter().find(|span| span.parent_span_id == emit_of(direct).span_context.span_id()).unwrap();
    assert_eq!(send.span_context.trace_id(), direct.span_context.trace_id());
    let emit = emit_of(transactional).span_context.span_id();
    let relayed = spans.iter().find(|span| span.links.iter().any(|link| link.span_context.span_id() == emit)).unwrap();
    assert_ne!(relayed.span_context.trace_id(), by_id[&emit].span_context.trace_id());
}

fn check(file: &str, lines: &[String]) {
    let path = format!("{}/{file}", env!("CARGO_MANIFEST_DIR"));
    let expected = lines.join("\n") + "\n";
    if std::env::var("UPDATE_DOCS").is_ok() {
        return std::fs::write(path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(expected, found, "`UPDATE_DOCS=1 cargo test --all-features --test observed` writes {file} anew");
}
