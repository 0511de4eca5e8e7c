//! Kafka, through librdkafka.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::{Delivery, OnDelivery, QueueFull, Record, Transport};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::InFlight;
use crate::sanitize::sanitize;

pub(crate) mod config;
mod failure;

use failure::failure;

/// A Kafka producer: idempotent, `acks=all`, partitioned by `murmur2_random` as Java's and Go's clients are.
pub(crate) struct KafkaTransport {
    producer: ThreadedProducer<Context>,
    gauge: Arc<Gauge>,
}

/// What the client holds, and who waits for that to change.
#[derive(Debug, Default)]
struct Gauge {
    in_flight: InFlight,
    /// Told once for each record that leaves the queue.
    room: Notify,
}

impl Gauge {
    fn leave(&self) {
        self.in_flight.remove();
        self.room.notify_one();
    }
}

struct Context {
    gauge: Arc<Gauge>,
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::warn!(%error, reason, "the Kafka client reports an error");
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<OnDelivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, on_delivery: Self::DeliveryOpaque) {
        on_delivery(match result {
            Ok(message) => Ok(Delivery { partition: message.partition(), offset: message.offset() }),
            Err((error, message)) => Err(failure(error, message.topic())),
        });
        self.gauge.leave();
    }
}

impl KafkaTransport {
    /// A client with this configuration. It connects in the background; whether brokers answer shows later.
    pub(crate) fn new(config: &rdkafka::ClientConfig) -> Result<Self> {
        let gauge = Arc::new(Gauge::default());
        let producer =
            config.create_with_context(Context { gauge: Arc::clone(&gauge) }).map_err(|error| refused(&error))?;
        Ok(Self { producer, gauge })
    }
}

/// Without the client's own error, which quotes the value: it may be secret.
fn refused(error: &KafkaError) -> Error {
    let why = match error {
        KafkaError::ClientConfig(_, _, name, _) => format!("its property `{name}`"),
        KafkaError::ClientCreation(why) => sanitize(why).into_owned(),
        _ => "its configuration".to_owned(),
    };
    Error::new(ErrorKind::InvalidConfig, format!("the Kafka client does not accept {why}"))
}

impl std::fmt::Debug for KafkaTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaTransport").field("gauge", &self.gauge).finish_non_exhaustive()
    }
}

impl Transport for KafkaTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.count());
        for (key, value) in record.headers.iter() {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let message =
            BaseRecord::with_opaque_to(&record.topic, Box::new(on_delivery)).key(&record.key[..]).headers(headers);
        let message = match &record.payload {
            Some(payload) => message.payload(&payload[..]),
            None => message,
        };
        self.gauge.in_flight.add();
        let Err((error, refused)) = self.producer.send(message) else {
            return Ok(());
        };
        let on_delivery = *refused.delivery_opaque;
        // Nothing left the queue, so nobody is told of room: this caller would be, and try again at once, for ever.
        self.gauge.in_flight.remove();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            return Err(QueueFull(on_delivery));
        }
        on_delivery(Err(failure(&error, &record.topic)));
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        // The wake-up for this waiter may have been taken by a newcomer that found room at once.
        const SECOND_LOOK: Duration = Duration::from_millis(10);
        Box::pin(async {
            let _ = tokio::time::timeout(SECOND_LOOK, self.gauge.room.notified()).await;
        })
    }

    fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move { tokio::time::timeout(timeout, self.gauge.in_flight.idle()).await.is_ok() })
    }

    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        let producer = self.producer.clone();
        Box::pin(async move {
            // librdkafka has no asynchronous metadata request.
            let answer =
                tokio::task::spawn_blocking(move || producer.client().fetch_metadata(None, timeout).map(drop)).await;
            match answer {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(failure(&error, "")),
                Err(cancelled) => {
                    Err(Error::new(ErrorKind::ClientFailed, "the probe was cancelled").with_source(cancelled))
                }
            }
        })
    }
}
