//! Direct emits beside bare rdkafka, on the same broker in the same run.
//!
//! `scripts/bench direct [--quick] [PART...]` starts a broker and runs this. What is compared takes turns; the figures are
//! medians of the rounds. docs/benchmarks.md says what each figure is.
//!
//! `--emits COUNT` only emits so many events through a transport that does nothing, for `scripts/instructions`.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(
    clippy::disallowed_methods,
    reason = "a bench spawns its callers, reads its environment and looks at the clock"
)]

mod awaiting;
mod batches;
mod overhead;
mod world;

#[path = "../support/support.rs"]
mod support;

use std::env;
use std::time::Duration;

use serde_json::{Value, json};
use support::report::Report;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    rounds: usize,
    /// How long callers emit, of which the first tenth is not counted.
    round_time: Duration,
    batch_events: usize,
    overhead_rounds: usize,
    overhead_emits: usize,
}

const FULL: Plan = Plan {
    rounds: 7,
    round_time: Duration::from_millis(1_500),
    batch_events: 200_000,
    overhead_rounds: 15,
    overhead_emits: 100_000,
};

const QUICK: Plan = Plan {
    rounds: 3,
    round_time: Duration::from_millis(800),
    batch_events: 50_000,
    overhead_rounds: 5,
    overhead_emits: 20_000,
};

const PARTS: [&str; 3] = ["awaiting", "batch", "overhead"];

/// On two cores that nothing else uses.
const GOALS: [(&str, &str); 11] = [
    ("ratio_1", ">= 1.0"),
    ("ratio_16", ">= 1.0"),
    ("ratio_64", ">= 1.0"),
    ("ratio_1000", ">= 1.0"),
    ("ratio_10000", ">= 1.0"),
    ("batch_ratio", ">= 0.9"),
    ("batch_one_key_ratio", ">= 0.9"),
    ("cpu_ratio", "<= 1.25"),
    ("emit_overhead_ns", "<= 500"),
    ("emit_allocations", "<= 3"),
    ("noop_ns", "<= 50"),
];

fn main() {
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--emits", count] => overhead::emit_only(count.parse().expect("a number of events")),
        ["--quick", ref parts @ ..] => measure(&QUICK, parts),
        ref parts => measure(&FULL, parts),
    }
}

fn measure(plan: &Plan, parts: &[&str]) {
    if let Some(unknown) = parts.iter().find(|part| !PARTS.contains(part)) {
        println!("there is no part `{unknown}`: {}", PARTS.join(", "));
        std::process::exit(2);
    }
    let all = parts.is_empty();
    let wants = |part| all || parts.contains(&part);
    let mut report = Report::new("direct", &GOALS);
    report.print_heading();
    if wants("overhead") {
        overhead::run(plan, &mut report);
    }
    if wants("awaiting") || wants("batch") {
        let Ok(brokers) = env::var("KAFKA_BROKERS") else {
            println!("set KAFKA_BROKERS, or run `scripts/bench direct`, which starts a broker");
            return;
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
        if wants("awaiting") {
            runtime.block_on(awaiting::run(&brokers, plan, &mut report));
        }
        if wants("batch") {
            runtime.block_on(batches::run(&brokers, plan, &mut report));
        }
    }
    let name = if all { "direct".to_owned() } else { format!("direct-{}", parts.join("-")) };
    println!("written to {}", report.write(&name, settings(plan), None).display());
}

fn settings(plan: &Plan) -> Value {
    json!({
        "callers": awaiting::CALLERS,
        "bare_linger_ms": world::LINGERS_MS,
        "payload_bytes": world::PAYLOAD_BYTES,
        "keys": world::KEYS,
        "rounds": plan.rounds,
        "round_ms": plan.round_time.as_millis(),
        "batch_events": plan.batch_events,
        "events_of_a_batch": batches::BATCH,
        "cpu_ratio_is_of": "emit_batch of many keys beside BaseProducer",
    })
}
