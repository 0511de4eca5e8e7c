//! An order service that publishes every change of an order, goes on while its broker is down, and proves at the end
//! that nothing was lost, nothing invented, and every customer's events are in order.
//!
//! ```text
//! cargo run --example quickstart
//! ```
//!
//! Broker (librdkafka's mock cluster) and outbox (a SQLite file) are embedded, unless `STREAMING_BROKERS` and
//! `DATABASE_URL` are both set: then the same program runs on that Kafka and that PostgreSQL.

#![allow(clippy::print_stdout, reason = "an example tells what it does")]
#![allow(clippy::future_not_send, reason = "the mock cluster can't leave its thread, so neither can what holds it")]

use std::collections::HashSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tidings::{Catalog, EmitRequest, Emitter, EmitterExt, EventDefinition, Producer};

use crate::ledger::Ledger;
use crate::orders::OrderChange;
use crate::services::Services;

mod database;
mod ledger;
mod orders;
mod proof;
mod services;
mod topic;

type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

/// How long the relay may take to drain the outbox.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> ExitCode {
    // Silent unless RUST_LOG is set, for example to `tidings=debug`.
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_default_env() {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    match run().await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("quickstart: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Runs the service, and says whether it kept all promises.
async fn run() -> Result<bool> {
    let services = Services::from_env().await?;
    let mut orders = orders::read()?.into_iter();
    println!("{} changes of orders, from examples/data/orders.ndjson", orders.len());
    println!("broker: {}; outbox: {}", services.broker, services.database);

    // The catalog has every kind of event that the service emits. Here it is one: its topic has all changes of a
    // customer's orders, and the customer is the partition key, so that they stay in order.
    let catalog = Catalog::new([EventDefinition::new("order.changed", "order", "changed")])?;
    let builder = Producer::builder(services.config()?, catalog);
    let producer = services.database.add_outbox(builder).await?.build().await?;

    // The relay moves events from the outbox to the topic. The service runs it, and says when to stop.
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let relay = producer.relay(async {
        let _ = stopped.await;
    });
    #[expect(clippy::disallowed_methods, reason = "the library never spawns; a service does")]
    let relay = tokio::spawn(relay);

    println!("emitter: {:?}\n", producer.health().await);
    // Kafka's client needs up to half a second from its first contact with a broker until it publishes.
    tokio::time::sleep(Duration::from_millis(600)).await;
    let mut ledger = Ledger::default();

    println!("1. Emit 150 events. The broker is up, so they go straight to the topic.");
    for order in orders.by_ref().take(150) {
        emit(&producer, &order, &mut ledger).await?;
    }
    println!("   {}", ledger.summary());

    println!("2. Emit 80 events, each in the transaction that writes its order. Every fourth one rolls back.");
    for (index, order) in (1..).zip(orders.by_ref().take(80)) {
        let mut tx = services.database.begin().await?;
        tx.write_order(&order).await?;
        let asked_at = Instant::now();
        let receipt = producer.emit_in(&mut tx, request(&order)?).await?;
        let latency = asked_at.elapsed();
        if index % 4 == 0 {
            tx.rollback().await?;
            ledger.rolled_back(&receipt);
        } else {
            tx.commit().await?;
            ledger.accepted(&order, &receipt, latency);
        }
    }
    println!("   {}", ledger.summary());

    if services.broker.stop()? {
        println!("3. Take the broker down and emit 110 events. The first ones wait for it, until the breaker opens.");
        for order in orders.by_ref().take(110) {
            emit(&producer, &order, &mut ledger).await?;
        }
        println!("   {}", ledger.summary());

        println!("4. Bring the broker back. The relay moves what is in the outbox to the topic, in order.");
        services.broker.start()?;
        if let Some(time) = wait_for_relay(&services, &ledger).await? {
            println!("   all there after {:.1} s", time.as_secs_f64());
        }
        // The breaker opened longer ago than this: the next emit is its trial, and closes it.
        tokio::time::sleep(services::BREAKER_OPEN_TIME).await;
    } else {
        println!("3. and 4., an outage, are left out: this Kafka is not ours to take down.");
    }

    println!("5. Emit the other {}: straight to the topic again.", orders.len());
    for order in orders {
        emit(&producer, &order, &mut ledger).await?;
    }
    println!("   {}", ledger.summary());

    println!("6. Shut down, read the topic from its beginning to its end, and count.\n");
    wait_for_relay(&services, &ledger).await?;
    producer.close().await?;
    let _ = stop.send(());
    relay.await??;
    let records = topic::read(&services).await?;
    let written = services.database.count_orders().await?;
    let proven = proof::check(&ledger, &records, written);
    println!();
    ledger.print_table();
    if proven {
        services.clean_up().await?;
    }
    Ok(proven)
}

/// What the service says when an order changes.
fn request(order: &OrderChange) -> tidings::Result<EmitRequest> {
    EmitRequest::new("order.changed")
        .tenant(order.customer.clone())
        .subject(order.order.clone())
        .time(order.changed_at)
        .json(order)
}

/// Emits a change, and notes where it went and how long that took.
async fn emit(emitter: &dyn Emitter, order: &OrderChange, ledger: &mut Ledger) -> Result<()> {
    let asked_at = Instant::now();
    let receipt = emitter.emit(request(order)?).await?;
    ledger.accepted(order, &receipt, asked_at.elapsed());
    Ok(())
}

/// Waits until every accepted event is on the topic, and says how long that took; `None` if it took too long.
async fn wait_for_relay(services: &Services, ledger: &Ledger) -> Result<Option<Duration>> {
    let started_at = Instant::now();
    while started_at.elapsed() < DRAIN_TIMEOUT {
        let records = topic::read(services).await?;
        let ids: HashSet<_> = records.iter().map(|record| &record.id).collect();
        if ledger.accepted.iter().all(|event| ids.contains(&event.id)) {
            return Ok(Some(started_at.elapsed()));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // The proof will tell what is missing.
    println!("   The relay is not done after {DRAIN_TIMEOUT:?}.");
    Ok(None)
}
