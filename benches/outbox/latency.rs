//! From commit to topic, with a relay in this process, and a writer in it too or in another.
//!
//! It counts from the moment when the commit has returned to the writer until a consumer in this process has the event: what
//! a reader of the topic sees, without anything from inside the library. The broker answers a consumer that waits as soon
//! as there is a record, but the figure still has the way to the consumer in it, beside that of the acknowledgement. What a
//! bare client's records take, from send to consumer, is measured beside it: that much is broker, consumer and machine. The
//! writer holds to a timetable, in transactions with one event each. All clocks are the machine's.
//!
//! The same of events that are handed over after the commit, and of direct ones, which count from their emit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer};
use sqlx::PgPool;
use tidings::{Emitter, EmitterExt, EventId, OutboxMode, PolicyOverride, Producer};
use tokio::time::{Instant, sleep, sleep_until};

use crate::child::Process;
use crate::support::bare;
use crate::support::report::Report;
use crate::world::{RunningRelay, SOURCE, Services, World};
use crate::{Plan, events, topic};

const RATES: [usize; 2] = [50, 1_000];

/// Connections of the writer. Each has keys of its own, so that the events of one come in order.
const WRITERS: usize = 8;

/// The events of the first second are not counted: a relay that sleeps may take a second to see the first one.
const AWAKE: Duration = Duration::from_secs(1);
/// What it takes to see an event after this time without one is measured by itself.
const ASLEEP: Duration = Duration::from_millis(2_500);

/// How many records of the bare client are not counted.
const CONNECTING: usize = 6;

/// After this time without the last event the bench fails.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(services: &Services, plan: &Plan, report: &mut Report) {
    for round in 0..plan.latency_rounds {
        let world = World::open(services).await;
        let watcher = Watcher::start(&world);
        let writer = Writer::new(&world).await;
        let relay = RunningRelay::of(&writer.producer);
        let mut first = 0;
        // Connections and plans are made.
        writer.clone().write(Load { first, count: 100, rate: 200 }).await;
        first += 100;
        watcher.wait_for(first).await;
        let bare = send(&world, first, plan.latency_time).await;
        first += bare.len();
        watcher.wait_for(first).await;
        let latencies = watcher.latencies(&bare[CONNECTING..]);
        report.add("latency_bare_50_p50_ms", quantile(&latencies, 50));
        report.add("latency_bare_50_p99_ms", quantile(&latencies, 99));
        let mut turns: Vec<_> = RATES.into_iter().flat_map(|rate| [(rate, false), (rate, true)]).collect();
        if round % 2 == 1 {
            turns.reverse();
        }
        for (rate, remote) in turns {
            let time = plan.latency_time + AWAKE;
            let count = rate * usize::try_from(time.as_secs()).expect("it is some seconds");
            let load = Load { first, count, rate };
            first += count;
            let mut committed = store(&world, &writer, load, remote).await;
            watcher.wait_for(first).await;
            committed.retain(|(number, _)| *number >= load.first + rate);
            let latencies = watcher.latencies(&committed);
            assert_eq!(
                latencies.len(),
                count - rate,
                "so many events were seen; the second is how many were committed"
            );
            let suffix = if remote { "_remote" } else { "" };
            report.add(&format!("latency_{rate}_p50_ms{suffix}"), quantile(&latencies, 50));
            report.add(&format!("latency_{rate}_p99_ms{suffix}"), quantile(&latencies, 99));
        }
        // Direct ones last: they wait until the relay has settled all others.
        for way in [Way::Journaled, Way::Direct] {
            for rate in RATES {
                let time = plan.latency_time + AWAKE;
                let count = rate * usize::try_from(time.as_secs()).expect("it is some seconds");
                let load = Load { first, count, rate };
                first += count;
                let mut begun = writer.clone().emit(load, way).await;
                watcher.wait_for(first).await;
                begun.retain(|(number, _)| *number >= load.first + rate);
                let latencies = watcher.latencies(&begun);
                let name = if way == Way::Direct { "direct" } else { "journaled" };
                report.add(&format!("{name}_{rate}_p50_ms"), quantile(&latencies, 50));
                report.add(&format!("{name}_{rate}_p99_ms"), quantile(&latencies, 99));
            }
        }
        for remote in [false, true] {
            sleep(ASLEEP).await;
            let committed = store(&world, &writer, Load { first, count: 1, rate: 1 }, remote).await;
            first += 1;
            watcher.wait_for(first).await;
            let suffix = if remote { "_remote" } else { "" };
            report.add(&format!("latency_wake_ms{suffix}"), quantile(&watcher.latencies(&committed), 100));
        }
        watcher.stop();
        relay.stop().await;
        drop(writer);
        world.close().await;
    }
    for part in ["latency_", "journaled_", "direct_"] {
        report.print(part);
    }
}

/// Stores events, by a writer in this process or another. Yields when each was committed.
async fn store(world: &World, writer: &Writer, load: Load, remote: bool) -> Vec<(usize, i64)> {
    if !remote {
        return writer.clone().write(load).await;
    }
    let mut process = Process::writer(world, &load);
    process.ready().await;
    parse(&process.end().await)
}

/// The value below which so many percent of these are, in milliseconds.
fn quantile(sorted: &[i64], percent: usize) -> f64 {
    sorted[(sorted.len() * percent).div_ceil(100) - 1] as f64 / 1e6
}

/// Nanoseconds since 1970.
fn now() -> i64 {
    chrono::Utc::now().timestamp_nanos_opt().expect("it is not the year 2262 yet")
}

/// Sends events by a bare client, 50 a second. Yields when each was sent.
async fn send(world: &World, first: usize, time: Duration) -> Vec<(usize, i64)> {
    const PAUSE: Duration = Duration::from_millis(20);
    let producer: ThreadedProducer<DefaultProducerContext> =
        bare::client(&world.brokers, 0).create().expect("the client can be made");
    let (mut start, mut sent) = (Instant::now(), Vec::new());
    let mut ticks = tokio::time::interval(PAUSE);
    while start.elapsed() < time {
        ticks.tick().await;
        let number = first + sent.len();
        let (key, payload) = (events::key(number), events::payload(number));
        let headers = bare::headers(&world.topic, SOURCE, &key, &EventId::new().to_string(), &bare::time());
        sent.push((number, now()));
        let record = BaseRecord::to(&world.topic).key(&key).payload(&payload).headers(headers);
        producer.send(record).map_err(|(error, _)| error).expect("the queue has room");
        // The first ones find the brokers, and connect.
        if sent.len() == CONNECTING {
            producer.flush(PATIENCE).expect("the broker takes every record");
            start = Instant::now();
            ticks.reset();
        }
    }
    // Dropped, it would throw away what it has not sent.
    producer.flush(PATIENCE).expect("the broker takes every record");
    sent
}

/// Events to be stored: which, and how many a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) first: usize,
    pub(crate) count: usize,
    pub(crate) rate: usize,
}

impl Load {
    pub(crate) fn to_text(self) -> String {
        format!("{},{},{}", self.first, self.count, self.rate)
    }

    pub(crate) fn from_text(text: &str) -> Self {
        let numbers: Vec<usize> = text.split(',').map(|number| number.parse().expect("it is a number")).collect();
        Self { first: numbers[0], count: numbers[1], rate: numbers[2] }
    }
}

fn parse(lines: &str) -> Vec<(usize, i64)> {
    let line = |line: &str| {
        let (number, committed_at) = line.split_once(' ')?;
        Some((number.parse().ok()?, committed_at.parse().ok()?))
    };
    lines.lines().map(|text| line(text).expect("the child has written a number and a time")).collect()
}

/// How an event is emitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In a transaction; the relay reads it.
    Stored,
    /// In a transaction, and handed over after the commit.
    Journaled,
    /// Without the outbox.
    Direct,
}

/// Stores events by a timetable.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) producer: Arc<Producer>,
    pool: PgPool,
}

impl Writer {
    pub(crate) async fn new(world: &World) -> Self {
        let connections = u32::try_from(WRITERS).expect("they are few");
        Self { producer: world.producer().await, pool: world.pool(connections).await }
    }

    /// Yields when each event was committed.
    pub(crate) async fn write(self, load: Load) -> Vec<(usize, i64)> {
        self.emit(load, Way::Stored).await
    }

    /// Yields when each event was committed, or, if there is nothing to commit, when its emit began.
    async fn emit(self, load: Load, way: Way) -> Vec<(usize, i64)> {
        let start = Instant::now();
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let this = self.clone();
                tokio::spawn(async move {
                    let mut committed = Vec::new();
                    for number in (load.first..load.first + load.count).filter(|number| number % WRITERS == writer) {
                        let after = (number - load.first) as f64 / load.rate as f64;
                        sleep_until(start + Duration::from_secs_f64(after)).await;
                        committed.push((number, this.emit_one(number, way).await));
                    }
                    committed
                })
            })
            .collect();
        let mut committed = Vec::new();
        for writer in writers {
            committed.extend(writer.await.expect("a writer does not panic"));
        }
        committed
    }

    /// Emits an event, if it is stored in a transaction of its own. Yields when that was committed, or else when it began.
    async fn emit_one(&self, number: usize, way: Way) -> i64 {
        if way == Way::Direct {
            let begun = now();
            self.producer.emit(events::request(number)).await.expect("the broker takes every event");
            return begun;
        }
        let journaled = PolicyOverride::default().with_outbox(OutboxMode::Journaled);
        let request = events::request(number);
        let request = if way == Way::Journaled { request.policy(journaled) } else { request };
        let mut tx = self.pool.begin().await.expect("the database answers");
        let receipt = self.producer.emit_in(&mut tx, request).await.expect("the outbox takes every event");
        self.producer.commit(tx, receipt).await.expect("the database answers");
        now()
    }
}

/// Sees when events come.
#[derive(Debug)]
pub(crate) struct Watcher {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    ledger: events::Ledger,
    /// When each event was first seen.
    at: HashMap<usize, i64>,
}

impl Watcher {
    pub(crate) fn start(world: &World) -> Self {
        let (seen, stopped) = (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let consumer = topic::consumer(&world.brokers, &world.topic);
        let thread = std::thread::spawn({
            let (seen, stopped) = (Arc::clone(&seen), Arc::clone(&stopped));
            move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
                    let (at, number) = (now(), topic::number(&message));
                    let mut seen = seen.lock().expect("nobody panics with it");
                    if seen.ledger.see(number) {
                        seen.at.insert(number, at);
                    }
                }
            }
        });
        Self { seen, stopped, thread }
    }

    fn count(&self) -> usize {
        self.seen.lock().expect("the events come in order").ledger.count()
    }

    /// Waits until so many events were seen.
    pub(crate) async fn wait_for(&self, count: usize) {
        let start = Instant::now();
        while self.count() < count {
            assert!(start.elapsed() < PATIENCE, "{} of {count} events have come", self.count());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// From commit to sight, in nanoseconds, the shortest first. A commit may return after its event has come.
    fn latencies(&self, committed: &[(usize, i64)]) -> Vec<i64> {
        let seen = self.seen.lock().expect("the events come in order");
        let latency = |(number, committed_at): &(usize, i64)| Some((seen.at.get(number)? - committed_at).max(0));
        let mut latencies: Vec<_> = committed.iter().filter_map(latency).collect();
        latencies.sort_unstable();
        latencies
    }

    pub(crate) fn stop(self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.thread.join().expect("the events come in order");
    }
}
