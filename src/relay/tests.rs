use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rangemap::RangeSet;
use tokio::sync::oneshot;

use super::*;
use crate::error::Error;
use crate::outbox::{Head, Row, Settled};
use crate::transport::Record;
use crate::transport::memory::MemoryTransport;
use crate::tx::Tx;
use crate::wire::Headers;

/// A log of one lane in memory.
#[derive(Debug, Default)]
struct FakeOutbox {
    rows: Mutex<BTreeMap<i64, String>>,
    settled: Mutex<RangeSet<i64>>,
    epoch: Mutex<i64>,
    refuses: AtomicBool,
    refuses_progress: AtomicBool,
}

impl FakeOutbox {
    fn new(numbers: impl IntoIterator<Item = i64>, settled: RangeSet<i64>) -> Arc<Self> {
        let rows = numbers.into_iter().map(|number| (number, "key".to_owned())).collect();
        Arc::new(Self { rows: Mutex::new(rows), settled: Mutex::new(settled), ..Self::default() })
    }

    fn answer<T: Send + 'static>(&self, answer: T) -> BoxFuture<'static, Result<T>> {
        let refused = Err(Error::new(ErrorKind::Storage, "told to refuse"));
        let answer = if self.refuses.load(Ordering::SeqCst) { refused } else { Ok(answer) };
        Box::pin(async {
            tokio::task::yield_now().await;
            answer
        })
    }
}

impl Outbox for FakeOutbox {
    fn lanes(&self) -> BoxFuture<'_, Result<u16>> {
        self.answer(1)
    }

    fn append<'a>(&'a self, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        unreachable!("the relay appends nothing")
    }

    fn append_in<'a>(&'a self, _: Tx<'a>, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<i64>>> {
        unreachable!("the relay appends nothing")
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        let last = self.rows.lock().unwrap().keys().last().copied().unwrap_or(0);
        self.answer(vec![Head { last, floor: 1 }])
    }

    fn lease(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Vec<Lease>>> {
        let settled = self.settled.lock().unwrap().clone();
        self.answer(vec![Lease { lane: 0, epoch: *self.epoch.lock().unwrap(), settled }])
    }

    fn release(&self, _: Uuid) -> BoxFuture<'_, Result<()>> {
        self.answer(())
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limit: u32) -> BoxFuture<'a, Result<Page>> {
        let rows = self.rows.lock().unwrap();
        let of_hole = |hole: &Hole| rows.range(hole.low..hole.high).take(limit.try_into().unwrap()).collect::<Vec<_>>();
        let found = holes.iter().flat_map(of_hole).map(|(number, key)| {
            let (key, payload) = (Bytes::from(key.clone()), Some(Bytes::from(number.to_string())));
            let record = Record { topic: "t".into(), key: key.clone(), headers: Headers::default(), payload };
            StoredRow { lane: 0, sequence: *number, key, record: Ok(record) }
        });
        self.answer(Page { rows: found.collect(), horizon: u64::MAX })
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        let epoch = *self.epoch.lock().unwrap();
        let held: Vec<_> = progress.iter().filter(|progress| progress.epoch == epoch).collect();
        if self.refuses_progress.load(Ordering::SeqCst) {
            return Box::pin(async { Err(Error::new(ErrorKind::Storage, "told to refuse")) });
        }
        if !self.refuses.load(Ordering::SeqCst) {
            for progress in &held {
                self.settled.lock().unwrap().extend(progress.settled.iter().cloned());
            }
        }
        self.answer(Settled { lanes: held.iter().map(|progress| progress.lane).collect(), mark: 1 })
    }
}

/// Runs a relay until `done`.
async fn relay(outbox: &Arc<FakeOutbox>, transport: &Arc<MemoryTransport>, done: impl AsyncFnOnce()) {
    let fallback = Arc::new(Fallback::open(Arc::clone(outbox) as Arc<dyn Outbox>).await.unwrap());
    let transport = Arc::clone(transport) as Arc<dyn Transport>;
    let relay = Relay::new(Arc::clone(outbox) as Arc<dyn Outbox>, Transports::fixed(transport), fallback).unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let run = relay.run(async { drop(stopped.await) });
    let stop = async {
        done().await;
        drop(stop);
    };
    let (result, ()) = tokio::join!(run, stop);
    result.unwrap();
}

/// Waits for the condition; virtual time, so a long wait costs nothing.
async fn until(condition: impl Fn() -> bool + Send + Sync) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(600), met).await.expect("the condition is met in ten minutes");
}

fn numbers(transport: &MemoryTransport) -> Vec<i64> {
    let number = |record: Record| std::str::from_utf8(record.payload.as_deref().unwrap()).unwrap().parse().unwrap();
    transport.records().into_iter().map(number).collect()
}

#[tokio::test(start_paused = true)]
async fn rows_behind_a_hole_that_a_page_could_not_show_whole_do_not_overtake_the_rest_of_it() {
    // More rows below the settled ones than a page has room for, and some above them.
    let left = 3 * i64::try_from(PAGE_ROWS).unwrap();
    let (settled_to, end) = (left + 100, left + 200);
    let outbox = FakeOutbox::new((1..left).chain(settled_to..end), RangeSet::from_iter([left..settled_to]));
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        until(|| outbox.settled.lock().unwrap().iter().next() == Some(&(1..end))).await
    })
    .await;
    assert_eq!(numbers(&transport), (1..left).chain(settled_to..end).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn progress_that_could_not_be_written_is_written_when_the_database_is_back() {
    let outbox = FakeOutbox::new(1..5, RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    outbox.refuses_progress.store(true, Ordering::SeqCst);
    relay(&outbox, &transport, async || {
        until(|| transport.records().len() == 4).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(outbox.settled.lock().unwrap().is_empty());
        outbox.refuses_progress.store(false, Ordering::SeqCst);
        until(|| outbox.settled.lock().unwrap().iter().next() == Some(&(1..5))).await;
    })
    .await;
    assert_eq!(numbers(&transport), [1, 2, 3, 4], "nothing was sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_relay_whose_leases_ran_out_sends_nothing_until_it_has_them_again() {
    let outbox = FakeOutbox::new(1..3, RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        until(|| outbox.settled.lock().unwrap().iter().next() == Some(&(1..3))).await;
        outbox.refuses.store(true, Ordering::SeqCst);
        tokio::time::sleep(LEASE_TIME + RENEW_EVERY).await;
        // Somebody else had the lane meanwhile, and sent the next event.
        *outbox.epoch.lock().unwrap() += 1;
        outbox.rows.lock().unwrap().extend([(3, "key".to_owned()), (4, "key".to_owned())]);
        outbox.settled.lock().unwrap().insert(3..4);
        outbox.refuses.store(false, Ordering::SeqCst);
        until(|| transport.records().len() == 3).await;
    })
    .await;
    assert_eq!(numbers(&transport), [1, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_idle_relay_stops_as_soon_as_it_is_told_to() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {}).await;
}

#[tokio::test(start_paused = true)]
async fn a_transport_that_is_down_holds_everything_and_loses_nothing() {
    let outbox = FakeOutbox::new(1..50, RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    transport.take_down();
    relay(&outbox, &transport, async || {
        tokio::time::sleep(Duration::from_secs(60)).await;
        transport.bring_back();
        until(|| transport.records().len() == 49).await;
    })
    .await;
    assert_eq!(numbers(&transport), (1..50).collect::<Vec<_>>());
}
