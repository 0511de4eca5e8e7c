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

use rdkafka::producer::{FutureProducer, FutureRecord};
use serde_json::json;
use tidings::{Catalog, Config, EmitRequest, Emitter, EventDefinition, EventId, Naming, Producer};
use tokio::time::Instant;

#[path = "support/support.rs"]
mod support;

use support::bare;
use support::report::Report;

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(2);
const CALLERS: [usize; 3] = [1, 64, 1_000];
const PAYLOAD_BYTES: usize = 300;
const SOURCE: &str = "//bench/direct";

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
    let tidings = Arc::new(tidings(brokers).await);
    let bare: Arc<FutureProducer> = Arc::new(bare::client(brokers).create().expect("the client can be made"));
    let text = payload.clone();
    let emit = move |caller| emit(Arc::clone(&tidings), caller, text.clone());
    let send = move |caller| send(Arc::clone(&bare), caller, payload.clone());
    let mut report = Report::new("direct", &[]);
    report.print_heading();
    for callers in CALLERS {
        for _ in 0..ROUNDS {
            let ours = round(callers, emit.clone()).await;
            let theirs = round(callers, send.clone()).await;
            report.add(&format!("emit_per_second_{callers}"), ours);
            report.add(&format!("emit_bare_per_second_{callers}"), theirs);
            report.add(&format!("emit_ratio_{callers}"), ours / theirs);
        }
    }
    report.print("");
    let settings = json!({ "callers": CALLERS, "payload_bytes": PAYLOAD_BYTES, "round_ms": ROUND.as_millis() });
    println!("written to {}", report.write("direct", settings, None).display());
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
    let headers = bare::headers("bare.order.created", SOURCE, &key, &EventId::new().to_string(), &bare::time());
    let record = FutureRecord::to("bare.order.created").key(&key).payload(&payload).headers(headers);
    let delivery = producer.send_result(record).map_err(|(error, _)| error).expect("the queue has room");
    delivery.await.expect("the producer lives").expect("the broker takes every event");
}

async fn tidings(brokers: &str) -> Producer {
    let config =
        Config::new(SOURCE, [brokers]).expect("the settings are right").with_naming(Naming::per_event("tidings"));
    let catalog =
        Catalog::new([EventDefinition::new("order.created", "order", "created")]).expect("the catalog is right");
    Producer::builder(config, catalog).build().await.expect("the producer can be made")
}
