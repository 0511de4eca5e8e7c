//! The beginning and end of producers: signals, runtimes, several in one process.

use std::env;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tidings::{Emitter, ErrorKind, ForcedBreaker, Leftover, OutboxMode, PolicyOverride, Producer, SqliteOutbox};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, JoinSet};

use crate::scripted::ScriptedTransport;
use crate::support::checker::Numbered;
use crate::support::events::{Ledger, Sequence, catalog, is_published};
use crate::support::waiting::{PATIENCE, eventually, until};
use crate::world::{World, config, producer_on};

/// No producer needs longer to be closed, or dropped, on a loaded machine.
const LONGEST_END: Duration = Duration::from_secs(10);

/// A relay that is told to stop by nobody but its producer.
fn relay_of(producer: &Producer) -> JoinHandle<tidings::Result<()>> {
    tokio::spawn(producer.relay(std::future::pending()))
}

async fn has_ended(relay: JoinHandle<tidings::Result<()>>) {
    tokio::time::timeout(PATIENCE, relay).await.expect("the relay has ended").unwrap().unwrap();
}

fn always(event: &Numbered) -> tidings::EmitRequest {
    event.request().policy(PolicyOverride::default().with_outbox(OutboxMode::Always))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_ends_a_relay_whose_shutdown_never_comes() {
    let world = World::new().await;
    for producer in [world.producer().await, world.producer_without_outbox(&[]).await] {
        let (running, never_polled) = (relay_of(&producer), producer.relay(std::future::pending()));
        producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap();
        producer.close().await.unwrap();
        // Its task has yet to notice.
        tokio::time::timeout(Duration::from_secs(2), has_ended(running)).await.expect("close has waited for it");
        // Not even one that begins afterwards.
        has_ended(tokio::spawn(never_polled)).await;
        has_ended(relay_of(&producer)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_close_wait_for_the_same_end() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    transport.hold("tenant-1");
    let emitting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.emit(Sequence::of("tenant-1").next().request()).await }
    });
    until("the emit is under way", || transport.held_count() == 1).await;
    let mut closing: JoinSet<_> = (0..3)
        .map(|_| {
            let producer = producer.clone();
            async move { producer.close().await }
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(closing.try_join_next().is_none(), "an emit is under way");
    transport.release();
    assert!(is_published(&emitting.await.unwrap().unwrap()));
    while let Some(closed) = closing.join_next().await {
        closed.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn close_keeps_to_its_time_and_says_what_is_left() {
    let transport = Arc::new(ScriptedTransport::default());
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    for event in Sequence::of("tenant-2").take(3) {
        producer.emit(always(&event)).await.unwrap();
    }
    transport.hold("tenant-1");
    let emitting = tokio::spawn({
        let producer = producer.clone();
        async move {
            let never = PolicyOverride::default().with_outbox(OutboxMode::Never);
            producer.emit(Sequence::of("tenant-1").next().request().policy(never)).await
        }
    });
    until("the emit is under way", || transport.held_count() == 1).await;
    let begun = Instant::now();
    let left = producer.close_within(Duration::from_millis(200)).await;
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert!(!left.is_nothing() && (left.emits, left.relays, left.stored) == (1, 0, 3), "{left:?}");
    // Nothing is given up for that: who closes again waits again.
    transport.release();
    assert!(is_published(&emitting.await.unwrap().unwrap()));
    assert!(producer.close_within(LONGEST_END).await.is_nothing());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_error_of_a_close_that_took_too_long_says_what_is_left() {
    let transport = Arc::new(ScriptedTransport::default());
    let builder = Producer::builder(config("none:1", &[("STREAMING_CLOSE_TIMEOUT_S", "1")]), catalog());
    let producer = builder.with_transport(Arc::clone(&transport) as _).build().await.unwrap();
    transport.hold("tenant-1");
    let emitting = tokio::spawn({
        let producer = producer.clone();
        async move { producer.emit(Sequence::of("tenant-1").next().request()).await }
    });
    until("the emit is under way", || transport.held_count() == 1).await;
    let error = producer.close().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let left: &Leftover = std::error::Error::source(&error).unwrap().downcast_ref().unwrap();
    assert_eq!(left.emits, 1);
    transport.release();
    emitting.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_broker_that_is_down_close_loses_nothing_and_keeps_to_its_time() {
    let world = World::new().await;
    let patient = [("STREAMING_DIRECT_TIMEOUT_MS", "600000"), ("STREAMING_EMIT_TIMEOUT_MS", "1200000")];
    let producer = world.producer_with(&patient).await;
    // Nothing but close gives up the client.
    producer.force_breaker(Some(ForcedBreaker::Closed));
    let relay = relay_of(&producer);
    world.broker_down();
    let (ledger, mut emits) = (Arc::new(Ledger::default()), JoinSet::new());
    for key in 0..20 {
        let (producer, ledger) = (producer.clone(), Arc::clone(&ledger));
        emits.spawn(async move {
            ledger.emit(&producer, Sequence::of(format!("tenant-{key}")).next()).await.unwrap();
        });
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    let left = producer.close_within(Duration::from_secs(6)).await;
    assert!(begun.elapsed() < LONGEST_END, "{:?}", begun.elapsed());
    assert!(left.is_nothing() && left.stored == 20, "{left:?}");
    while let Some(emitted) = emits.join_next().await {
        emitted.expect("an emit that waits for the broker is answered from the outbox");
    }
    drop(relay);
    world.broker_up();
    let after = world.producer().await;
    let relay = relay_of(&after);
    world.verdict(&ledger).await.assert_kept();
    after.close().await.unwrap();
    has_ended(relay).await;
}

#[test]
fn a_producer_lives_and_ends_on_a_current_thread_runtime() {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        let producer = world.producer().await;
        let relay = relay_of(&producer);
        let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
        for _ in 0..5 {
            ledger.emit(&producer, sequence.next()).await.unwrap();
            let event = sequence.next();
            producer.emit(always(&event)).await.unwrap();
            ledger.accept(event);
        }
        assert!(producer.health().await.is_ready());
        world.verdict(&ledger).await.assert_kept();
        producer.close().await.unwrap();
        has_ended(relay).await;
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_end_of_a_producer_is_nothing_to_another_of_the_same_process() {
    let world = World::new().await;
    let (first, second) = (world.producer().await, world.producer().await);
    let (ended, goes_on) = (relay_of(&first), relay_of(&second));
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    ledger.emit(&first, sequence.next()).await.unwrap();
    first.close().await.unwrap();
    has_ended(ended).await;
    for _ in 0..5 {
        let event = sequence.next();
        second.emit(always(&event)).await.unwrap();
        ledger.accept(event);
    }
    world.verdict(&ledger).await.assert_kept();
    assert!(!goes_on.is_finished() && second.health().await.is_ready());
    second.close().await.unwrap();
    has_ended(goes_on).await;
}

#[test]
fn a_producer_outlives_the_runtime_that_it_was_built_on() {
    let runtime = || Runtime::new().unwrap();
    let built_on = runtime();
    let ledger = Ledger::default();
    let mut sequence = Sequence::of("tenant-1");
    let (world, producer) = built_on.block_on(async {
        let world = World::new().await;
        let producer = world.producer().await;
        drop(relay_of(&producer));
        ledger.emit(&producer, sequence.next()).await.unwrap();
        let event = sequence.next();
        producer.emit(always(&event)).await.unwrap();
        ledger.accept(event);
        (world, producer)
    });
    // Its tasks are dropped wherever they are: the relay too.
    drop(built_on);
    let used_on = runtime();
    used_on.block_on(async {
        let relay = relay_of(&producer);
        for _ in 0..5 {
            ledger.emit(&producer, sequence.next()).await.unwrap();
        }
        world.verdict(&ledger).await.assert_kept();
        assert!(producer.health().await.is_ready());
        producer.close().await.unwrap();
        has_ended(relay).await;
    });
    // Dropped on none.
    drop(used_on);
    drop(producer);
}

/// What is written to the log while this is alive.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_producer_that_is_dropped_with_records_under_way_says_so_and_ends_soon() {
    let (log, runtime) = (Log::default(), Builder::new_current_thread().enable_all().build().unwrap());
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_env_filter("tidings=warn").with_writer(move || writer.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let text = || String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    runtime.block_on(async {
        let world = World::new().await;
        world.producer().await.close().await.unwrap();
        drop(world.producer().await);
        assert!(!text().contains("dropped"), "nothing was under way: {}", text());
        let producer = world.producer().await;
        world.broker_down();
        let emit = producer.emit(Sequence::of("tenant-1").next().request());
        assert!(tokio::time::timeout(Duration::from_millis(50), emit).await.is_err(), "it is given up");
        let begun = Instant::now();
        drop(producer);
        assert!(begun.elapsed() < LONGEST_END, "{:?}", begun.elapsed());
        assert!(text().contains("dropped"), "{}", text());
    });
}

/// Broker, database and report of a service that is a process.
const VARIABLES: [&str; 3] =
    ["TIDINGS_TEST_SERVICE_BROKERS", "TIDINGS_TEST_SERVICE_FILE", "TIDINGS_TEST_SERVICE_REPORT"];

/// Not a test, but what the processes of the others run: a service that emits until it gets SIGTERM, and then ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn service() {
    let Ok(variables) = VARIABLES.iter().map(env::var).collect::<Result<Vec<_>, _>>() else { return };
    let [brokers, file, report] = &variables[..] else { unreachable!("there are three") };
    let mut terminated = signal(SignalKind::terminate()).unwrap();
    let builder = Producer::builder(config(brokers, &[]), catalog()).with_outbox(SqliteOutbox::open(file));
    let producer = builder.build().await.unwrap();
    let relay = relay_of(&producer);
    let report = Arc::new(Mutex::new(OpenOptions::new().create(true).append(true).open(report).unwrap()));
    let mut callers: JoinSet<_> =
        (0..8).map(|caller| emit_until_refused(producer.clone(), Arc::clone(&report), caller)).collect();
    terminated.recv().await;
    let left = producer.close_within(LONGEST_END).await;
    assert!(left.is_nothing(), "{left:?}");
    has_ended(relay).await;
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
}

/// Emits events, and reports those that were accepted, until the producer is closed.
async fn emit_until_refused(producer: Producer, report: Arc<Mutex<File>>, caller: usize) {
    let mut sequence = Sequence::of(format!("tenant-{caller}"));
    loop {
        let event = sequence.next();
        match producer.emit(event.request()).await {
            Ok(_) => writeln!(report.lock().unwrap(), "{} {} {}", event.key, event.number, event.id).unwrap(),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
                return;
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What the service has reported so far. A line that it is writing has no end yet.
fn reported(report: &Path) -> Vec<Numbered> {
    let event = |line: &str| {
        let [key, number, id] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        Numbered { key: key.into(), number: number.parse().unwrap(), id: id.into() }
    };
    let text = std::fs::read_to_string(report).unwrap_or_default();
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')).map(event).collect()
}

/// A service that is a process, killed when it is dropped.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended by itself, unless the test has failed.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_service(world: &World, report: &Path) -> Service {
    let values = [world.brokers.clone(), world.file().display().to_string(), report.display().to_string()];
    let child = Command::new(env::current_exe().unwrap())
        .args(["lifecycle::service", "--exact", "--nocapture", "--test-threads=1"])
        .envs(VARIABLES.into_iter().zip(values))
        .stdout(Stdio::null())
        .spawn();
    Service(child.unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_gets_sigterm_ends_in_time_and_loses_nothing() {
    for has_outage in [false, true] {
        let world = World::new().await;
        let directory = tempfile::tempdir().unwrap();
        let report = directory.path().join("accepted");
        let mut service = start_service(&world, &report);
        until("the service emits", || reported(&report).len() > 100).await;
        if has_outage {
            world.broker_down();
            let before = reported(&report).len();
            until("events are stored", || reported(&report).len() > before + 100).await;
        }
        let terminated = Command::new("kill").args(["-TERM", &service.0.id().to_string()]).status().unwrap();
        assert!(terminated.success());
        let begun = Instant::now();
        let status = eventually("the service has ended", async || service.0.try_wait().unwrap()).await;
        assert!(status.success(), "it ended with {status}, with an outage: {has_outage}");
        assert!(begun.elapsed() < 2 * LONGEST_END, "{:?}", begun.elapsed());
        world.broker_up();
        let ledger = Ledger::default();
        ledger.accept_all(reported(&report));
        let after = world.producer().await;
        let relay = relay_of(&after);
        world.verdict(&ledger).await.assert_kept();
        after.close().await.unwrap();
        has_ended(relay).await;
    }
}
