//! What callers feel when the broker stops, dies, or is behind a bad network, and when it is back.
//!
//! `scripts/bench outage [--quick] [FAULT...]` starts the services and runs this. It fails if an event was lost, invented or
//! came out of order, and never because something was slow. docs/reliability.md says what each figure is.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench prints its table")]
#![allow(clippy::disallowed_methods, reason = "a bench spawns its tasks, reads its environment and looks at the clock")]
#![allow(clippy::unwrap_used, reason = "what the tests share does so")]

mod callers;
mod fault;

#[path = "../../tests/support/support.rs"]
mod checks;
#[path = "../support/support.rs"]
mod support;

use std::env;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use checks::events::{self, Ledger};
use checks::relaying::RunningRelay;
use checks::topic;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, PgConnection};
use support::bare::{self, Acknowledged};
use support::machine;
use support::report::Report;
use tidings::{Config, Emitter, Naming, PostgresOutbox, Producer};
use tidings_faults::{Network, Proxy};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use callers::{Callers, Emit, Outcome};
use fault::{Fault, signal, start_again};

const CALLERS: usize = 16;
/// Of all callers together.
const EMITS_PER_SECOND: u32 = 200;
const BEFORE: Duration = Duration::from_secs(2);
/// How long callers go on when the broker is back.
const AFTER: Duration = Duration::from_secs(6);
const OUTAGE: Duration = Duration::from_secs(10);
const QUICK_OUTAGE: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);

const GOALS: [(&str, &str); 6] = [
    ("longest_wait_ms", "<= 2500"),
    ("open_wait_p99_ms", "<= 50"),
    ("errors", "0"),
    ("lost", "0"),
    ("inverted", "0"),
    ("back_to_direct_ms", "<= 1000"),
];

#[derive(Debug)]
struct Services {
    brokers: String,
    behind_proxy: String,
    proxy: String,
    database: PgConnectOptions,
    kafka_pid: String,
}

impl Services {
    fn from_env() -> Option<Self> {
        Some(Self {
            brokers: env::var("KAFKA_BROKERS").ok()?,
            behind_proxy: env::var("KAFKA_BEHIND_PROXY").ok()?,
            proxy: env::var("KAFKA_PROXY").ok()?,
            database: env::var("DATABASE_URL").ok()?.parse().ok()?,
            kafka_pid: env::var("KAFKA_PID").ok()?,
        })
    }
}

fn main() {
    let Some(services) = Services::from_env() else {
        println!("run `scripts/bench outage`, which starts a broker that may be stopped and killed");
        return;
    };
    let arguments: Vec<String> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    runtime.block_on(run(services, &arguments));
}

async fn run(mut services: Services, arguments: &[String]) {
    let (flags, names): (Vec<&String>, Vec<&String>) =
        arguments.iter().partition(|argument| argument.starts_with("--"));
    assert!(flags.iter().all(|flag| *flag == "--quick"), "the only flag is --quick: {flags:?}");
    let outage = if flags.is_empty() { OUTAGE } else { QUICK_OUTAGE };
    let known = Fault::ALL.map(Fault::name);
    assert!(names.iter().all(|name| known.contains(&name.as_str())), "the faults are {known:?}, not {names:?}");
    let proxy = Proxy::start(&services.proxy, &services.behind_proxy).await.expect("the port is free");
    let mut report = Report::new("outage", &GOALS);
    println!("load {}; {}", machine::load(), machine::hardware());
    report.print_heading();
    let mut all = Vec::new();
    for fault in
        Fault::ALL.into_iter().filter(|fault| names.is_empty() || names.iter().any(|name| *name == fault.name()))
    {
        let figures = suffer(&mut services, &proxy, fault, outage).await;
        // One that never opened the breaker has no time at which it did.
        for (name, value) in figures.named().into_iter().filter(|(_, value)| value.is_finite()) {
            report.add(&format!("{}_{name}", fault.name()), value);
        }
        report.print(fault.name());
        all.push((fault, figures));
    }
    // The broker's own faults are the ones that are aimed at; nothing may ever be lost or inverted.
    let of_broker = || all.iter().filter(|(fault, _)| fault.network().is_none()).map(|(_, figures)| figures);
    if of_broker().next().is_some() {
        let worst = |figure: fn(&Figures) -> f64| of_broker().map(figure).fold(0.0, f64::max);
        report.add("longest_wait_ms", worst(|figures| figures.longest_wait_ms));
        report.add("open_wait_p99_ms", worst(|figures| figures.open_wait_p99_ms));
        report.add("back_to_direct_ms", worst(|figures| figures.back_to_direct_ms));
    }
    let sum = |figure: fn(&Figures) -> f64| all.iter().map(|(_, figures)| figure(figures)).sum::<f64>();
    report.add("errors", sum(|figures| figures.errors));
    report.add("lost", sum(|figures| figures.lost));
    report.add("inverted", sum(|figures| figures.inverted));
    report.add("duplicates", sum(|figures| figures.duplicates));
    for (name, _) in GOALS {
        report.print(name);
    }
    report.print("duplicates");
    let settings = json!({
        "callers": CALLERS, "emits_per_second": EMITS_PER_SECOND, "outage_ms": outage.as_millis(),
        "faults": all.iter().map(|(fault, _)| fault.name()).collect::<Vec<_>>(),
    });
    let postgres =
        sqlx::query_scalar("show server_version").fetch_one(&mut connect(&services.database).await).await.ok();
    println!("written to {}", report.write("outage", settings, postgres).display());
    let kept = all.iter().all(|(_, figures)| figures.lost == 0.0 && figures.inverted == 0.0 && figures.invented == 0.0);
    assert!(kept, "a promise was broken");
}

async fn connect(options: &PgConnectOptions) -> PgConnection {
    PgConnection::connect_with(options).await.expect("the database answers")
}

/// What a fault has come to.
#[derive(Debug)]
struct Figures {
    emits: f64,
    stored: f64,
    longest_wait_ms: f64,
    open_after_ms: f64,
    open_wait_p99_ms: f64,
    back_to_direct_ms: f64,
    errors: f64,
    lost: f64,
    invented: f64,
    inverted: f64,
    duplicates: f64,
}

impl Figures {
    fn named(&self) -> [(&'static str, f64); 10] {
        [
            ("emits", self.emits),
            ("stored", self.stored),
            ("longest_wait_ms", self.longest_wait_ms),
            ("open_after_ms", self.open_after_ms),
            ("open_wait_p99_ms", self.open_wait_p99_ms),
            ("back_to_direct_ms", self.back_to_direct_ms),
            ("errors", self.errors),
            ("lost", self.lost),
            ("inverted", self.inverted),
            ("duplicates", self.duplicates),
        ]
    }
}

/// Has callers emit through a fault, and holds what was accepted against the topic.
async fn suffer(services: &mut Services, proxy: &Proxy, fault: Fault, outage: Duration) -> Figures {
    let name = format!("o{}", Uuid::now_v7().simple());
    sqlx::query(&format!("create database {name}"))
        .execute(&mut connect(&services.database).await)
        .await
        .expect("a database can be made");
    let topic = events::topic(&name);
    let bare_topic = format!("{name}.bare");
    topic::create(&services.brokers, &topic, 6).await;
    topic::create(&services.brokers, &bare_topic, 1).await;
    let producer = producer(services, fault, &name).await;
    let relay = RunningRelay::of(&producer);
    let ledger = Arc::new(Ledger::default());
    let callers = Callers::start(
        CALLERS,
        Duration::from_secs(1) * u32::try_from(CALLERS).expect("they are few") / EMITS_PER_SECOND,
        &producer,
        &ledger,
    );
    sleep(BEFORE).await;

    let begun = Instant::now();
    match fault {
        Fault::Stopped => signal("-STOP", &services.kafka_pid),
        Fault::Killed => signal("-KILL", &services.kafka_pid),
        fault => proxy.set(fault.network().unwrap_or_default()),
    }
    sleep(outage).await;
    match fault {
        Fault::Stopped => signal("-CONT", &services.kafka_pid),
        Fault::Killed => services.kafka_pid = start_again().await,
        _ => proxy.set(Network::Well),
    }
    await_acknowledgement(&services.brokers, &bare_topic).await;
    let back = Instant::now();
    sleep(AFTER).await;

    let emits = callers.stop().await;
    let verdict = ledger.check(&topic::read_until(&services.brokers, &topic, ledger.ids()).await);
    if !verdict.is_kept() {
        eprintln!("{}: {verdict}", fault.name());
    }
    relay.stop().await;
    producer.close().await.expect("nothing is in flight");
    topic::delete(&services.brokers, &[&topic, &bare_topic]).await;
    let count = |outcome| emits.iter().filter(|emit| emit.outcome == outcome).count() as f64;
    let during: Vec<_> = emits.iter().filter(|emit| emit.begun + emit.waited >= begun && emit.begun < back).collect();
    let open: Vec<_> = during.iter().filter(|emit| emit.was_open).map(|emit| millis(emit.waited)).collect();
    let opened = during.iter().filter(|emit| emit.was_open).map(|emit| emit.begun).min();
    Figures {
        emits: emits.len() as f64,
        stored: count(Outcome::Stored),
        longest_wait_ms: during.iter().map(|emit| millis(emit.waited)).fold(0.0, f64::max),
        open_after_ms: opened.map_or(f64::NAN, |at| millis(at.saturating_duration_since(begun))),
        open_wait_p99_ms: quantile(open, 99),
        back_to_direct_ms: millis(direct_again(&emits, back).saturating_duration_since(back)),
        errors: count(Outcome::Failed),
        lost: verdict.lost.len() as f64,
        invented: verdict.invented.len() as f64,
        inverted: verdict.inverted.len() as f64,
        duplicates: verdict.duplicates as f64,
    }
}

/// When every caller had published directly again.
fn direct_again(emits: &[Emit], back: Instant) -> Instant {
    let of = |caller| {
        let published = emits.iter().filter(|emit| emit.caller == caller && emit.outcome == Outcome::Published);
        published.map(|emit| emit.begun + emit.waited).filter(|at| *at >= back).min()
    };
    let all: Option<Vec<_>> = (0..CALLERS).map(of).collect();
    all.and_then(|all| all.into_iter().max()).expect("every caller publishes directly once the broker is back")
}

async fn producer(services: &Services, fault: Fault, name: &str) -> Producer {
    let brokers = if fault.network().is_some() { &services.proxy } else { &services.brokers };
    let config = Config::new("//bench/outage", [&**brokers]).expect("the settings are right");
    let outbox = PostgresOutbox::with_options(services.database.clone().database(name));
    outbox.migrate().await.expect("the database can be migrated");
    let builder = Producer::builder(config.with_naming(Naming::per_event(name)), events::catalog());
    builder.with_outbox(outbox).build().await.expect("the producer can be made")
}

/// Waits until the broker has acknowledged a record of a new, bare client. One that was stopped for long answers earlier, but
/// leads no partition until the controller has let it in again.
async fn await_acknowledgement(brokers: &str, topic: &str) {
    let acknowledged = Acknowledged::default();
    let mut client = bare::client(brokers, 0);
    // It tries as often as it can, and needs no producer id first.
    for (property, value) in [
        ("enable.idempotence", "false"),
        ("retry.backoff.ms", "5"),
        ("reconnect.backoff.ms", "5"),
        ("reconnect.backoff.max.ms", "20"),
    ] {
        client.set(property, value);
    }
    let client: BaseProducer<Acknowledged> =
        client.create_with_context(acknowledged.clone()).expect("the client can be made");
    client.send(BaseRecord::<(), _>::to(topic).payload("{}")).map_err(|(error, _)| error).expect("the queue has room");
    tokio::task::spawn_blocking(move || client.flush(PATIENCE))
        .await
        .expect("it does not panic")
        .expect("the broker is back in time");
    assert_eq!(acknowledged.0.load(Ordering::Relaxed), 1);
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// The value below which so many percent of these are; 0 if there are none.
fn quantile(mut values: Vec<f64>, percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    (values.len() * percent).div_ceil(100).checked_sub(1).map_or(0.0, |index| values[index])
}
