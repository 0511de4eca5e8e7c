//! How much of the memory the events under way may take.

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::BoxFuture;
use crate::catalog::compiled::Resolved;
use crate::error::{Error, ErrorKind, Result};

/// What an event takes beside its record: its place in queues, and the emit itself.
const EVENT_OVERHEAD_BYTES: usize = 1_024;

/// Room in bytes. Whoever finds none waits, and who came first is first.
#[derive(Debug)]
pub(super) struct Room {
    bytes: Semaphore,
    all: u32,
}

/// An event's room, until it is dropped; or, where there is none or others wait already, what waits for it.
pub(super) type Entry<'a> = Result<SemaphorePermit<'a>, BoxFuture<'a, Result<SemaphorePermit<'a>>>>;

impl Room {
    pub(super) fn new(bytes: u32) -> Self {
        // A semaphore holds more than 32 bits on every platform that has 64, and enough on others.
        let permits = usize::try_from(bytes).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS);
        Self { bytes: Semaphore::new(permits), all: u32::try_from(permits).unwrap_or(u32::MAX) }
    }

    /// Takes the room of an event, or begins to wait for it, until then.
    pub(super) fn enter(&self, resolved: &Resolved, until: impl FnOnce() -> Instant) -> Entry<'_> {
        let bytes = self.bytes_of(resolved);
        self.bytes.try_acquire_many(bytes).map_err(|_| -> BoxFuture<'_, _> {
            let (id, until) = (resolved.id.clone(), until());
            Box::pin(async move {
                match timeout_at(until, self.bytes.acquire_many(bytes)).await {
                    // It is never closed.
                    Ok(room) => Ok(room.expect("the semaphore is open")),
                    Err(_) => {
                        let message = format!(
                            "events under way take all of the {} bytes that they may (STREAMING_MAX_IN_FLIGHT_BYTES); this one was not sent",
                            self.all
                        );
                        Err(Error::new(ErrorKind::Overloaded, message).with_event_id(id))
                    }
                }
            })
        })
    }

    /// How much is taken.
    pub(super) fn taken(&self) -> u32 {
        self.all.saturating_sub(u32::try_from(self.bytes.available_permits()).unwrap_or(u32::MAX))
    }

    fn bytes_of(&self, resolved: &Resolved) -> u32 {
        let bytes = resolved.record.wire_bytes() + EVENT_OVERHEAD_BYTES;
        // One that is larger than all the room goes alone.
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.all)
    }
}
