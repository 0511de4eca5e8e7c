//! Reads the events of the shop in `examples/service`, and adds up what each customer has spent.

use std::error::Error;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{CommitMode, Consumer, StreamConsumer};
use rdkafka::message::{BorrowedMessage, Headers, Message};
use tidings::wire::{self, CloudEvent};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};

mod spendings;

#[cfg(test)]
mod tests;

use spendings::Spendings;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().init();
    let setting = |name, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
    let spendings = Spendings::open(&setting("SPENDINGS", "spendings.sqlite")).await?;
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", setting("KAFKA_BROKERS", "127.0.0.1:9092"))
        .set("group.id", setting("GROUP", "spendings"))
        .set("auto.offset.reset", "earliest")
        // An offset is committed when its event is taken, and not before.
        .set("enable.auto.commit", "false")
        .create()?;
    consumer.subscribe(&[&setting("TOPIC", "events.order.placed")])?;
    let mut terminated = signal(SignalKind::terminate())?;
    loop {
        tokio::select! {
            _ = terminated.recv() => return Ok(()),
            message = consumer.recv() => match message {
                Ok(message) => take(&spendings, &consumer, &message).await?,
                // Of the connection, which is made anew.
                Err(error) => warn!(%error, "nothing can be read"),
            }
        }
    }
}

/// Takes a record, however long that takes: skipped, its event would be lost here.
async fn take(
    spendings: &Spendings,
    consumer: &StreamConsumer,
    message: &BorrowedMessage<'_>,
) -> Result<(), Box<dyn Error>> {
    match event(message) {
        Ok(event) => loop {
            match spendings.take(&event).await {
                Ok(is_new) => break info!(id = event.id, is_new, "taken"),
                // Its payload is none that this program knows. A real one would put it aside.
                Err(error) if error.is::<serde_json::Error>() => break error!(id = event.id, %error, "left out"),
                Err(error) => warn!(id = event.id, %error, "tried again"),
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        },
        Err(error) => error!(offset = message.offset(), %error, "a record that is no event was left out"),
    }
    // If this is lost, the event comes again.
    Ok(consumer.commit_message(message, CommitMode::Async)?)
}

fn event(message: &BorrowedMessage<'_>) -> tidings::Result<CloudEvent> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    wire::decode(headers.map(|header| (header.key, header.value.unwrap_or_default())), message.payload())
}
