//! The outbox and its relay, beside bare rdkafka and a bare table, on the same broker and database in the same run.
//!
//! `scripts/bench outbox [--quick] [PART...]` starts the services and runs this. Parts that compare run them in turns;
//! the figures are medians of the rounds. It fails if an event was lost or came out of order, and never because something
//! was slow. docs/benchmarks.md says what each figure is.

#![allow(clippy::print_stdout, reason = "a bench prints its table")]
#![allow(clippy::disallowed_methods, reason = "a bench spawns its tasks, reads its environment and looks at the clock")]

mod append;
mod backlog;
mod child;
mod drain;
mod events;
mod latency;
mod recovery;
mod topic;
mod world;

#[path = "../support/support.rs"]
mod support;

use std::env;
use std::time::Duration;

use serde_json::{Value, json};
use support::machine;
use support::report::Report;
use world::Services;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
struct Plan {
    append_rounds: usize,
    append_time: Duration,
    drain_rounds: usize,
    drain_rows: usize,
    latency_rounds: usize,
    latency_time: Duration,
    backlog_rows: usize,
    idle_time: Duration,
    recovery_rounds: usize,
    outage: Duration,
}

/// Longer than the client waits for an answer (ten seconds): it gives up its connections, and makes new ones.
const LONG_OUTAGE: Duration = Duration::from_secs(11);

const FULL: Plan = Plan {
    append_rounds: 7,
    append_time: Duration::from_secs(3),
    drain_rounds: 5,
    drain_rows: 200_000,
    latency_rounds: 5,
    latency_time: Duration::from_secs(10),
    backlog_rows: 1_000_000,
    idle_time: Duration::from_secs(60),
    recovery_rounds: 5,
    outage: LONG_OUTAGE,
};

const QUICK: Plan = Plan {
    append_rounds: 3,
    append_time: Duration::from_secs(1),
    drain_rounds: 3,
    drain_rows: 50_000,
    latency_rounds: 2,
    latency_time: Duration::from_secs(3),
    backlog_rows: 200_000,
    idle_time: Duration::from_secs(12),
    recovery_rounds: 2,
    outage: LONG_OUTAGE,
};

const PARTS: [&str; 5] = ["append", "drain", "latency", "backlog", "recovery"];

/// On two cores that nothing else uses.
const GOALS: [(&str, &str); 6] = [
    ("append_ratio_1", ">= 0.85"),
    ("append_ratio_16", ">= 0.85"),
    ("drain_per_second", ">= 60000"),
    ("drain_vs_bare", ">= 0.6"),
    ("dead_tuples", "0"),
    ("pinned_slowdown", ">= 0.95"),
];

fn main() {
    let Some(services) = Services::from_env() else {
        println!("set KAFKA_BROKERS and DATABASE_URL, or run `scripts/bench outbox`, which starts the services");
        return;
    };
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [child::ARGUMENT, role, ref rest @ ..] => runtime.block_on(child::run(&services, role, rest)),
        ref arguments => runtime.block_on(run(&services, arguments)),
    }
}

async fn run(services: &Services, arguments: &[&str]) {
    let (flags, parts): (Vec<&str>, Vec<&str>) = arguments.iter().partition(|argument| argument.starts_with("--"));
    assert!(flags.iter().all(|flag| *flag == "--quick"), "the only flag is --quick: {flags:?}");
    assert!(parts.iter().all(|part| PARTS.contains(part)), "the parts are {PARTS:?}, not {parts:?}");
    let (quick, all) = (!flags.is_empty(), parts.is_empty());
    let plan = if quick { QUICK } else { FULL };
    let mut report = Report::new("outbox", &GOALS);
    println!("load {}; {}", machine::load(), machine::hardware());
    report.print_heading();
    for part in PARTS.into_iter().filter(|part| all || parts.contains(part)) {
        match part {
            "append" => append::run(services, &plan, &mut report).await,
            "drain" => drain::run(services, &plan, &mut report).await,
            "latency" => latency::run(services, &plan, &mut report).await,
            "backlog" => backlog::run(services, &plan, &mut report).await,
            _ => recovery::run(services, &plan, &mut report).await,
        }
    }
    println!("load {}", machine::load());
    // Some parts alone are for those who work on them: they don't replace a whole run.
    let name = if all { "outbox".to_owned() } else { format!("outbox-{}", parts.join("-")) };
    let path = report.write(&name, settings(&plan, quick), services.postgres_version().await);
    println!("written to {}", path.display());
}

fn settings(plan: &Plan, quick: bool) -> Value {
    json!({
        "quick": quick,
        "plan": format!("{plan:?}"),
        "keys": events::KEYS,
        "payload_bytes": events::PAYLOAD_BYTES,
        "headers": 11,
        "partitions": world::PARTITIONS,
        "client": "acks=all, idempotent, lz4, no linger",
        "synchronous_commit": "on",
    })
}
