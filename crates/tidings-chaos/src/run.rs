//! A run: starts everything, hurts it for a while, lets it recover, and checks.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use tidings_faults::Proxy;
use tokio::time::sleep;

use crate::Result;
use crate::brokers::Services;
use crate::check::{Databases, Report, Wait, check};
use crate::events::{Kind, POLICIES, PREFIX};
use crate::ledger::{Ledger, now_ms};
use crate::load::Load;
use crate::monkey::{Incident, World, carry_out, counts};
use crate::order::Fate;
use crate::plan::plan;
use crate::process::Process;

pub(crate) const BROKERS: usize = 3;
/// The first two share an outbox in PostgreSQL, and the first of them has a relay in it. The last one has its own in a SQLite file.
pub(crate) const SERVICES: [&str; 3] = ["orders-1", "orders-2", "kiosk"];
/// Relays that are processes of their own.
pub(crate) const RELAYS: usize = 2;

/// How long nothing is hurt at first, and how long the load goes on when the faults are over.
const BEFORE: Duration = Duration::from_secs(2);
const AFTER: Duration = Duration::from_secs(3);
/// How long events may wait in an outbox when the faults are over.
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
/// How long processes may take to start, and to end.
const PATIENCE: Duration = Duration::from_secs(40);

/// Runs, and says whether every promise was kept.
pub(crate) async fn run(seconds: &str, seed: &str, folder: &Path) -> Result<bool> {
    let (seconds, seed): (u64, u64) = (seconds.parse()?, seed.parse()?);
    let plan = plan(seconds, seed);
    println!("the plan of seed {seed}:");
    for step in &plan {
        println!("{step}");
    }
    let services = Services::from_env()?;
    make_topics(&services.brokers).await?;
    let world = Arc::new(world(services, folder).await?);
    let all: Vec<_> = world.processes.iter().chain(&world.relays).cloned().collect();
    for process in &all {
        process.start().await?;
    }
    await_start(&all).await?;
    let ledger = Arc::new(Ledger::new(folder)?);
    let (shared, alone) = (&world.processes[..2], &world.alone);
    let load = Load::start(shared, alone, &ledger, seed);
    let load_began_ms = now_ms();
    println!("the load has started");
    sleep(BEFORE).await;

    let began = Instant::now();
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let incidents = tokio::select! {
        incidents = carry_out(&world, plan, Duration::from_secs(seconds)) => incidents?,
        // What was started ends with this process.
        _ = terminated.recv() => return Err("terminated".into()),
        _ = tokio::signal::ctrl_c() => return Err("interrupted".into()),
    };
    println!("the faults are over after {:.1} s:{}", began.elapsed().as_secs_f64(), counts(&incidents));
    sleep(AFTER).await;
    load.stop().await;
    let databases = Databases { postgres: world.services.database.clone(), sqlite: world.file.clone() };
    let (drained, waiting) = (Instant::now(), databases.drained(DRAIN_PATIENCE).await?);
    println!("the outboxes were drained for {:.1} s, {waiting} events still wait", drained.elapsed().as_secs_f64());

    let mut report = Report::default();
    for process in &all {
        if process.has_died().await {
            report.faults += &format!("{} has ended by itself\n", process.name);
        }
        if !process.end(PATIENCE).await? {
            report.faults += &format!("{} did not end when it was told to\n", process.name);
        }
    }
    let mut entries = Arc::into_inner(ledger).ok_or("nobody has the ledger any more")?.into_entries();
    entries.flush()?;
    let answered = |fate| entries.answered.get(&fate).copied().unwrap_or_default();
    println!(
        "of the events {} were answered as accepted, {} as refused, {} as unknown, and {} not at all",
        answered(Some(Fate::Accepted)),
        answered(Some(Fate::Refused)),
        answered(Some(Fate::Unknown)),
        answered(None)
    );
    let of_processes = std::mem::take(&mut report.faults);
    let mut report = check(entries, &databases, &world.services.brokers, folder, &incidents).await?;
    report.faults.insert_str(0, &of_processes);
    if waiting > 0 {
        report.faults += &format!("{waiting} events still wait after {DRAIN_PATIENCE:?}\n");
    }
    print!("{}", report.faults);
    println!("of {} accepted events only a table or a file of a service knew", report.known_later);
    println!("no event is there more often than {} times", report.most_copies);
    let Report { accepted, published, lost, invented, inverted, duplicated, .. } = report;
    let Wait { lasted_ms: longest_wait_ms, began_ms, id } = report.longest_wait.unwrap_or_default();
    let of_run = |at_ms| Duration::from_millis(u64::try_from(at_ms - load_began_ms).unwrap_or_default()).as_secs_f64();
    println!(
        "the longest wait was that of {id}, ordered {:.1} s after the load had begun; meanwhile there was:",
        of_run(began_ms)
    );
    for Incident { fault, began_ms, ended_ms } in
        incidents.iter().filter(|i| i.overlaps(began_ms, began_ms + longest_wait_ms))
    {
        println!("  {} from {:.1} s to {:.1} s", fault.name(), of_run(*began_ms), of_run(*ended_ms));
    }
    println!(
        "chaos: seed={seed} seconds={seconds} faults={} accepted={accepted} published={published} lost={lost} invented={invented} \
         inverted={inverted} duplicated={duplicated} longest_wait_ms={longest_wait_ms}",
        incidents.len()
    );
    Ok(report.faults.is_empty() && lost + invented + inverted == 0)
}

async fn make_topics(brokers: &str) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", brokers).create()?;
    let topics = Kind::ALL.map(Kind::topic);
    let topics = topics.each_ref().map(|topic| {
        // The broker's time, which tells how long an event took to arrive.
        NewTopic::new(topic, 6, TopicReplication::Fixed(3)).set("message.timestamp.type", "LogAppendTime")
    });
    let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(30)));
    for made in admin.create_topics(&topics, &options).await? {
        made.map_err(|(topic, error)| format!("{topic} can't be made: {error}"))?;
    }
    Ok(())
}

async fn world(services: Services, folder: &Path) -> Result<World> {
    let mut proxies = Vec::new();
    for (at, to) in services.proxies.iter().zip(&services.behind) {
        proxies.push(Proxy::start(at, to).await?);
    }
    let (_, address) = services.database.rsplit_once('@').ok_or("a URL with a password")?;
    let (address, _) = address.split_once('/').ok_or("a URL with a database")?;
    let proxy = Proxy::start("127.0.0.1:0", address).await?;
    let database = services.database.replace(address, &proxy.address().to_string());
    proxies.push(proxy);
    let variables = HashMap::from([
        ("STREAMING_ENABLED", "true".to_owned()),
        ("STREAMING_BROKERS", services.proxies.join(",")),
        ("STREAMING_CLOUDEVENTS_SOURCE", "//chaos/shop".to_owned()),
        ("STREAMING_TOPIC_PREFIX", PREFIX.to_owned()),
        ("STREAMING_EVENT_POLICIES", POLICIES.to_owned()),
    ]);
    let file = folder.join("kiosk.sqlite");
    let (path, folder_path) = (file.display().to_string(), folder.display().to_string());
    let service = |name: &str| {
        let (database, relays) = match name {
            "orders-1" => (&database, "relaying"),
            "orders-2" => (&database, "alone"),
            _ => (&path, "relaying"),
        };
        Arc::new(Process::new(name, &["service", name, database, &folder_path, relays], &variables, folder))
    };
    let relay =
        |n: usize| Arc::new(Process::new(&format!("relay-{}", n + 1), &["relay", &database], &variables, folder));
    let processes: Vec<_> = SERVICES.map(service).into();
    let relays = (0..RELAYS).map(relay).collect();
    let alone = Arc::clone(&processes[2]);
    Ok(World { services, proxies, processes, relays, alone, file })
}

async fn await_start(all: &[Arc<Process>]) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    for process in all {
        while process.port() == 0 && !process.name.starts_with("relay") {
            if Instant::now() > until {
                return Err(format!("{} does not start", process.name).into());
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
