//! An outbox that counts what its relay reads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tidings::outbox::{
    Appended, Head, HeldRow, Hole, Lag, Lanes, Leases, Limits, Outbox, Page, Parked, Progress, Row, Settled,
};
use tidings::{BoxFuture, Result, Tx};
use uuid::Uuid;

/// Passes everything on, and counts the rows that pages show.
#[derive(Debug)]
pub(crate) struct Counting<O> {
    outbox: O,
    rows: Arc<AtomicUsize>,
}

impl<O: Outbox> Counting<O> {
    /// The outbox, and its count.
    pub(crate) fn of(outbox: O) -> (Self, Arc<AtomicUsize>) {
        let rows = Arc::<AtomicUsize>::default();
        (Self { outbox, rows: Arc::clone(&rows) }, rows)
    }
}

#[deny(clippy::missing_trait_methods)]
impl<O: Outbox> Outbox for Counting<O> {
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        self.outbox.lanes()
    }

    fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        self.outbox.append(lanes, rows)
    }

    fn append_in<'a>(&'a self, lanes: Lanes, tx: Tx<'a>, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        self.outbox.append_in(lanes, tx, rows)
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        self.outbox.heads()
    }

    fn lag(&self) -> BoxFuture<'_, Result<Lag>> {
        self.outbox.lag()
    }

    fn lease(&self, owner: Uuid, ttl: Duration, saves: i64) -> BoxFuture<'_, Result<Leases>> {
        self.outbox.lease(owner, ttl, saves)
    }

    fn release<'a>(&'a self, owner: Uuid, lanes: &'a [u16], leaves: bool) -> BoxFuture<'a, Result<()>> {
        self.outbox.release(owner, lanes, leaves)
    }

    fn parked<'a>(&'a self, lanes: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        self.outbox.parked(lanes)
    }

    fn held<'a>(&'a self, lane: u16, key: &'a bytes::Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        self.outbox.held(lane, key, limits)
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        Box::pin(async move {
            let page = self.outbox.page(holes, limits).await?;
            self.rows.fetch_add(page.rows.len(), Ordering::SeqCst);
            Ok(page)
        })
    }

    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        self.outbox.writers()
    }

    fn retain(&self) -> BoxFuture<'_, Result<()>> {
        self.outbox.retain()
    }

    fn wake(&self) -> BoxFuture<'_, Result<()>> {
        self.outbox.wake()
    }

    fn drawn(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        self.outbox.drawn()
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        self.outbox.woken()
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        self.outbox.settle(progress)
    }
}
