//! How soon events flow again behind an outage of the broker.
//!
//! The broker's process is stopped (SIGSTOP) while a writer goes on, and told to continue later. It *answers again* when it
//! tells a new connection of a broker in service. When events arrive is what the topic says, by the broker's clock, which
//! is this machine's: a consumer would have to recover too.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep};

use crate::Plan;
use crate::latency::{Load, Writer};
use crate::support::report::Report;
use crate::world::{RunningRelay, Services, World};

/// Events a second, before, in and after the outage: a measure can't be finer than the time between two.
const RATE: usize = 200;
/// How long the writer goes on when the broker continues.
const AFTERWARDS: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) async fn run(services: &Services, plan: &Plan, report: &mut Report) {
    let Some(pid) = &services.kafka_pid else {
        println!("recovery is not measured: without KAFKA_PID there is no broker to stop");
        return;
    };
    for _ in 0..plan.recovery_rounds {
        round(services, plan, report, pid).await;
    }
    report.print("recovery_");
}

async fn round(services: &Services, plan: &Plan, report: &mut Report, pid: &str) {
    let world = World::open(services).await;
    let writer = Writer::new(&world).await;
    let mut connection = PgConnection::connect_with(&world.options).await.expect("the database answers");
    let relay = RunningRelay::of(&writer.producer);
    writer.clone().write(Load { first: 0, count: RATE, rate: RATE }).await;
    world.settled(&mut connection, RATE).await;

    let stopped = Stopped::now(pid);
    let seconds = usize::try_from((plan.outage + AFTERWARDS).as_secs()).expect("it is some seconds");
    let load = Load { first: RATE, count: seconds * RATE, rate: RATE };
    let writing = tokio::spawn(writer.clone().write(load));
    sleep(plan.outage).await;
    drop(stopped);
    let brokers = world.brokers.clone();
    let answer = tokio::task::spawn_blocking(move || await_answer(&brokers));
    answer.await.expect("the broker answers again");
    let answered_at = chrono::Utc::now().timestamp_millis();
    let committed = writing.await.expect("the writer does not panic");
    let count = load.first + load.count;
    world.settled(&mut connection, count).await;
    relay.stop().await;

    let arrived = world.verify(count).await;
    // What the broker had in its buffers when it was stopped arrives before it answers anybody: it does not count.
    let first = arrived.iter().map(|(_, at)| *at).filter(|at| *at > answered_at).min().expect("some come");
    let waited: Vec<_> =
        committed.iter().filter(|(_, at)| at / 1_000_000 < answered_at).map(|(number, _)| *number).collect();
    let last = arrived.iter().filter(|(number, _)| waited.contains(number)).map(|(_, at)| *at).max();
    report.add("recovery_ms", (first - answered_at) as f64);
    report.add("recovery_all_ms", (last.expect("some waited") - answered_at).max(0) as f64);
    connection.close().await.expect("the database answers");
    drop(writer);
    world.close().await;
}

/// A process that is stopped, until this is dropped.
#[derive(Debug)]
struct Stopped<'a>(&'a str);

impl<'a> Stopped<'a> {
    fn now(pid: &'a str) -> Self {
        signal("-STOP", pid);
        Self(pid)
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

fn signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status().expect("there is a `kill`");
    assert!(status.success(), "the broker's process can be sent a signal");
}

/// Waits until the broker tells of one in service.
fn await_answer(brokers: &str) {
    let start = Instant::now();
    while !answers(brokers).unwrap_or(false) {
        assert!(start.elapsed() < PATIENCE, "the broker does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Asks for the metadata (version 1, no topics). Bytes 8 to 11 of the answer count the brokers in service.
fn answers(brokers: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(brokers)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"\0\0\0\x0e\0\x03\0\x01\0\0\0\x01\xff\xff\0\0\0\0")?;
    let mut answer = [0; 12];
    stream.read_exact(&mut answer)?;
    Ok(answer[8..] != [0; 4])
}
