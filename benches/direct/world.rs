//! What both sides send, and the producer that is measured.

use std::io::Write as _;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tidings::transport::{Delivery, OnDelivery, QueueFull, Record, Transport};
use tidings::{BoxFuture, Catalog, Config, EmitRequest, EventDefinition, Naming, Producer, Result};

pub(crate) const KEYS: usize = 1_000;
pub(crate) const PAYLOAD_BYTES: usize = 300;
pub(crate) const SOURCE: &str = "//bench/direct";

/// What bare clients wait to fill a batch: the best of these is what the library is held against.
pub(crate) const LINGERS_MS: [u32; 3] = [0, 1, 5];

/// The topic of the bare clients. It has as many partitions as the library's.
pub(crate) const BARE_TOPIC: &str = "bare.order.created";

pub(crate) fn key(number: usize) -> String {
    format!("t-{}", number % KEYS)
}

/// JSON that has the number, and then what a compression can't do much about.
pub(crate) fn payload(number: usize) -> Vec<u8> {
    static DIGITS: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut state = 17_u64;
        let mut digit = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            b"0123456789abcdef"[usize::from(state.to_be_bytes()[0] >> 4)]
        };
        (0..PAYLOAD_BYTES + STRIDES).map(|_| digit()).collect()
    });
    /// Events that follow one another begin elsewhere in the digits.
    const STRIDES: usize = 4_096;
    let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
    let _ = write!(payload, "{{\"number\":{number},\"text\":\"");
    let from = number * 61 % STRIDES;
    payload.extend_from_slice(&DIGITS[from..from + PAYLOAD_BYTES - 2 - payload.len()]);
    payload.extend_from_slice(b"\"}");
    payload
}

pub(crate) fn request(key: &str, payload: bytes::Bytes) -> EmitRequest {
    EmitRequest::new("order.created").tenant(key.to_owned()).subject("order-17").payload(payload)
}

pub(crate) fn catalog() -> Catalog {
    Catalog::new([EventDefinition::new("order.created", "order", "created")]).expect("the catalog is right")
}

fn config(brokers: &str) -> Config {
    Config::new(SOURCE, [brokers]).expect("the settings are right").with_naming(Naming::per_event("tidings"))
}

/// A producer with the library's own settings.
pub(crate) async fn producer(brokers: &str) -> Producer {
    Producer::builder(config(brokers), catalog()).build().await.expect("the producer can be made")
}

/// A producer whose events go nowhere.
pub(crate) async fn idle_producer() -> Producer {
    let builder = Producer::builder(config("none:1"), catalog()).with_transport(Arc::new(Nowhere));
    builder.build().await.expect("the producer can be made")
}

/// Says at once that a record was delivered, and does nothing else.
#[derive(Debug)]
struct Nowhere;

impl Transport for Nowhere {
    fn submit(&self, _: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        on_delivery.call(Ok(Delivery::new(0, 0)));
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
