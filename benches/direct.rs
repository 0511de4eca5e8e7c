//! Direct emits beside bare rdkafka, on the same broker in the same run.
//!
//! `scripts/bench direct` starts the services and runs this. Every caller awaits the acknowledgement of its event before
//! it emits the next. The bare loop writes the same key, headers and payload through a `FutureProducer` with the same
//! settings. Rounds alternate between the two; the figures are medians.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(clippy::disallowed_methods, reason = "a bench spawns its callers and reads where the broker is")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition, EventId, Naming, Producer};
use tokio::time::Instant;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CALLERS: [usize; 3] = [1, 64, 1_000];
const PAYLOAD_BYTES: usize = 300;

fn main() {
    let Ok(brokers) = std::env::var("KAFKA_BROKERS") else {
        println!("set KAFKA_BROKERS, or run `scripts/bench direct`, which starts a broker");
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(run(&brokers));
}

async fn run(brokers: &str) {
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(PAYLOAD_BYTES - 11));
    let (tidings, bare) = (Arc::new(tidings(brokers).await), Arc::new(bare(brokers)));
    let text = payload.clone();
    let emit = move |caller| emit(Arc::clone(&tidings), caller, text.clone());
    let send = move |caller| send(Arc::clone(&bare), caller, payload.clone());
    println!("{:>8} {:>14} {:>14} {:>7}", "callers", "tidings /s", "rdkafka /s", "ratio");
    for callers in CALLERS {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            ours.push(round(callers, emit.clone()).await);
            theirs.push(round(callers, send.clone()).await);
        }
        let (ours, theirs) = (median(ours), median(theirs));
        println!("{callers:>8} {ours:>14.0} {theirs:>14.0} {:>7.2}", ours / theirs);
    }
}

/// Events a second, with so many callers at once.
async fn round<F: Future<Output = ()> + Send + 'static>(
    callers: usize,
    call: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> f64 {
    let count = Arc::new(AtomicU64::new(0));
    let start = Instant::now();
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (call, count) = (call.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                while start.elapsed() < ROUND {
                    call(caller).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("a caller does not panic");
    }
    count.load(Ordering::Relaxed) as f64 / start.elapsed().as_secs_f64()
}

async fn emit(producer: Arc<Producer>, caller: usize, payload: String) {
    let request = EmitRequest::new("order.created").tenant(format!("t-{caller}")).subject("order-17").payload(payload);
    producer.emit(request).await.expect("the broker takes every event");
}

async fn send(producer: Arc<FutureProducer>, caller: usize, payload: String) {
    let key = format!("t-{caller}");
    let (id, time) =
        (EventId::new().to_string(), chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true));
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_source", "//bench/direct"),
        ("ce_type", "bare.order.created"),
        ("content-type", "application/json"),
        ("ce_resourcetype", "order"),
        ("ce_eventtype", "created"),
        ("ce_schemaversion", "1.0.0"),
        ("ce_id", &id),
        ("ce_time", &time),
        ("ce_subject", "order-17"),
        ("ce_tenantid", &key),
    ];
    let headers = headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (key, value)| {
        all.insert(Header { key, value: Some(*value) })
    });
    let record = FutureRecord::to("bare.order.created").key(&key).payload(&payload).headers(headers);
    let delivery = producer.send_result(record).map_err(|(error, _)| error).expect("the queue has room");
    delivery.await.expect("the producer lives").expect("the broker takes every event");
}

async fn tidings(brokers: &str) -> Producer {
    let config = Config::new("//bench/direct", [brokers])
        .expect("the settings are right")
        .with_naming(Naming::per_event("tidings"));
    let catalog =
        Catalog::new([EventDefinition::new("order.created", "order", "created")]).expect("the catalog is right");
    Producer::builder(config, catalog).build().await.expect("the producer can be made")
}

fn bare(brokers: &str) -> FutureProducer {
    let mut config = ClientConfig::new();
    for (property, value) in [
        ("bootstrap.servers", brokers),
        ("acks", "all"),
        ("enable.idempotence", "true"),
        ("partitioner", "murmur2_random"),
        ("compression.type", "lz4"),
        ("queue.buffering.max.ms", "0"),
    ] {
        config.set(property, value);
    }
    config.create().expect("the client can be made")
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
