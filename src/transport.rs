//! What carries records away: Kafka, or memory in tests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::BoxFuture;
use crate::breaker::Permit;
use crate::error::{Error, Result};
use crate::wire::Headers;

#[cfg(feature = "kafka")]
pub(crate) mod kafka;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod memory;

/// One record for a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The key, never empty: records of one key keep their order.
    pub key: Bytes,
    /// The headers.
    pub headers: Headers,
    /// The value; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl Record {
    /// What a record adds to a batch of its own, at most: the batch header (61 bytes) and the record's lengths, offsets
    /// and attributes (`org.apache.kafka.common.record`, `DefaultRecordBatch` and `DefaultRecord`).
    const OVERHEAD_BYTES: usize = 61 + 21 + 5 + 5 + 5;

    /// The length of a header's name or value takes at most five bytes.
    const HEADER_OVERHEAD_BYTES: usize = 10;

    /// The most that the record can take in a request to the broker, uncompressed, in a batch of its own.
    pub(crate) fn wire_bytes(&self) -> usize {
        // In the buffer of `Headers` each part has a length of four bytes, which stands for the five it may take here.
        let headers = self.headers.as_bytes().len() + self.headers.count() * (Self::HEADER_OVERHEAD_BYTES - 8);
        Self::OVERHEAD_BYTES + self.key.len() + self.payload.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Where a record ended up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivery {
    /// The partition.
    pub partition: i32,
    /// The offset in the partition.
    pub offset: i64,
}

impl Delivery {
    /// A record's place, for transports to tell.
    #[must_use]
    pub fn new(partition: i32, offset: i64) -> Self {
        Self { partition, offset }
    }
}

/// Is told what became of a record.
pub struct OnDelivery(Then);

enum Then {
    Call(Box<dyn FnOnce(Result<Delivery>) + Send + Sync>),
    /// Tells the breaker and the caller. Every direct emit has one, and it needs no allocation.
    Tell(Permit, oneshot::Sender<Result<Delivery>>),
}

impl OnDelivery {
    /// One that calls this function, on a thread of the transport's: it must not block.
    pub fn new(then: impl FnOnce(Result<Delivery>) + Send + Sync + 'static) -> Self {
        Self(Then::Call(Box::new(then)))
    }

    /// One that tells the breaker, and whoever waits for it.
    pub(crate) fn tell(permit: Permit, caller: oneshot::Sender<Result<Delivery>>) -> Self {
        Self(Then::Tell(permit, caller))
    }

    /// Says what became of the record. It does not block.
    pub fn call(self, result: Result<Delivery>) {
        match self.0 {
            Then::Call(then) => then(result),
            Then::Tell(permit, caller) => {
                permit.hear(&result);
                // Nobody waits any more if the emit was given up, or dropped.
                let _ = caller.send(result);
            }
        }
    }
}

impl std::fmt::Debug for OnDelivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OnDelivery")
    }
}

/// The transport's queue was full. Here is the callback, not called.
#[derive(Debug)]
pub struct QueueFull(pub OnDelivery);

/// How a transport is doing.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Vitals {
    /// How many records wait for an acknowledgement.
    pub unacknowledged: usize,
    /// How many were ever acknowledged.
    pub acknowledged: u64,
    /// How full the queue is; full is 1.
    pub fullness: f32,
    /// Whether there is a connection to the other side, as far as is known.
    pub is_connected: bool,
    /// How long requests have taken lately until they were answered: 99 of 100, by the slowest broker; if it is known.
    pub round_trip: Option<Duration>,
}

impl Vitals {
    /// A transport that is connected and holds nothing.
    #[must_use]
    pub fn new() -> Self {
        Self { unacknowledged: 0, acknowledged: 0, fullness: 0.0, is_connected: true, round_trip: None }
    }
}

impl Default for Vitals {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes records in order and says what became of each.
///
/// Records of one topic and key reach the topic in the order in which they were submitted, unless one fails: what was
/// submitted behind it may still arrive.
///
/// # Examples
///
/// One that counts what it passes on:
///
/// ```
/// # #[cfg(feature = "testing")]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// use std::sync::Arc;
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use std::time::Duration;
/// use tidings::testing::MemoryTransport;
/// use tidings::transport::{OnDelivery, QueueFull, Record, Transport};
/// use tidings::{BoxFuture, Catalog, Config, EmitRequest, Emitter, EventDefinition, Producer, Result};
///
/// #[derive(Debug, Default)]
/// struct Counted {
///     inner: MemoryTransport,
///     submitted: AtomicUsize,
/// }
///
/// impl Transport for Counted {
///     fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
///         self.inner.submit(record, on_delivery).inspect(|()| {
///             self.submitted.fetch_add(1, Ordering::Relaxed);
///         })
///     }
///
///     fn room(&self) -> BoxFuture<'_, ()> {
///         self.inner.room()
///     }
///
///     fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool> {
///         self.inner.flush(timeout)
///     }
///
///     fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
///         self.inner.probe(timeout)
///     }
/// }
///
/// let transport = Arc::new(Counted::default());
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let builder = Producer::builder(Config::new("//shop", ["none:9092"])?, catalog);
/// let producer = builder.with_transport(transport.clone()).build().await?;
/// producer.emit(EmitRequest::new("order.created").tenant("t-abc").payload("{}")).await?;
/// assert_eq!(transport.submitted.load(Ordering::Relaxed), 1);
/// # Ok(()) }
/// # #[cfg(not(feature = "testing"))]
/// # fn main() {}
/// ```
pub trait Transport: std::fmt::Debug + Send + Sync + 'static {
    /// Queues `record`, without waiting, behind all that was submitted before.
    ///
    /// Once taken, `on_delivery` is called exactly once, also if the record fails at once, and whether or not anyone
    /// still waits for it.
    ///
    /// # Errors
    ///
    /// [`QueueFull`] gives the callback back: wait for [`room`](Self::room), and submit again.
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull>;

    /// Completes when the queue may have room again.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn room(&self) -> BoxFuture<'_, ()>;

    /// Waits until nothing is in flight, for `timeout` at most, and says whether that was reached.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool>;

    /// Why the other side does not let this client in, or the client does not trust it, if that is so: records wait, and
    /// fail only when their time is over. Asked on behalf of a caller that has waited in vain; records that are submitted
    /// later may then fail at once, unsent. Defaults to none.
    fn refusal(&self) -> Option<Error> {
        None
    }

    /// The largest record that each of these topics takes, in bytes, as far as the other side says so within `timeout`.
    ///
    /// # Cancel safety
    ///
    /// May be dropped at any time.
    fn max_record_bytes<'a>(
        &'a self,
        topics: &'a [Arc<str>],
        timeout: Duration,
    ) -> BoxFuture<'a, HashMap<Arc<str>, usize>> {
        let _ = (topics, timeout);
        Box::pin(std::future::ready(HashMap::new()))
    }

    /// How the transport is doing, looked at several times a second: who waits too long without a sign of life finds the
    /// breaker open. None, if it can't say, or if records wait for another reason than that nobody answers. Defaults to none.
    fn vitals(&self) -> Option<Vitals> {
        None
    }

    /// Gives up all that was not acknowledged: each record is reported on soon, as far as that was not done. It may be on its
    /// way all the same. Records that are submitted from now on fail at once. It may block for a while; it is called on a
    /// thread of its own. Defaults to nothing: the transport goes on until it is dropped.
    fn retire(&self) {}

    /// Asks the other side for a sign of life.
    ///
    /// # Errors
    ///
    /// What kept it from answering within `timeout`.
    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>>;
}

/// Submits `record`, for which there was no room, waiting for some as long as it takes.
///
/// Dropped while it waits, it has submitted nothing.
pub(crate) async fn submit_when_room(transport: &dyn Transport, record: &Record, mut on_delivery: OnDelivery) {
    loop {
        transport.room().await;
        match transport.submit(record, on_delivery) {
            Ok(()) => return,
            Err(QueueFull(refused)) => on_delivery = refused,
        }
    }
}
