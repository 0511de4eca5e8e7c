use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use rangemap::RangeSet;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::error::Error;
use crate::outbox::{Appended, Head, HeldRow, Lanes, Progress, Row, Settled};
use crate::policy::PoisonMode;
use crate::transport::Record;
use crate::transport::memory::MemoryTransport;
use crate::tx::Tx;
use crate::wire::dead_letter::{DeadLetter, DeadLetters};
use crate::wire::{DEAD_LETTER_PREFIX, HeaderStyle, Headers};

const ROW_BYTES: u32 = 10_000;

fn row(sequence: i64, key: Bytes) -> StoredRow {
    let payload = Some(Bytes::from(sequence.to_string()));
    let record = Record { topic: "t".into(), key: key.clone(), headers: Headers::default(), payload };
    StoredRow { lane: 0, sequence, key, record: Ok(record), bytes: ROW_BYTES.try_into().unwrap() }
}

/// A log of one lane in memory.
#[derive(Debug)]
struct FakeOutbox {
    rows: Mutex<BTreeMap<i64, String>>,
    settled: Mutex<RangeSet<i64>>,
    epoch: Mutex<i64>,
    held: Mutex<BTreeSet<(Bytes, i64)>>,
    parked: Mutex<BTreeMap<Bytes, Parked>>,
    poison: Mutex<PoisonMode>,
    woken: Notify,
    /// Whether another relay wants the lane.
    wanted_elsewhere: AtomicBool,
    refuses: AtomicBool,
    refuses_progress: AtomicBool,
}

impl FakeOutbox {
    fn new(numbers: impl IntoIterator<Item = i64>, settled: RangeSet<i64>) -> Arc<Self> {
        let rows = numbers.into_iter().map(|number| (number, "key".to_owned())).collect();
        Arc::new(Self {
            rows: Mutex::new(rows),
            settled: Mutex::new(settled),
            held: Mutex::default(),
            parked: Mutex::default(),
            poison: Mutex::new(PoisonMode::Block),
            epoch: Mutex::default(),
            woken: Notify::new(),
            wanted_elsewhere: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            refuses_progress: AtomicBool::new(false),
        })
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
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        self.answer(Lanes::new(1, 0).unwrap())
    }

    fn append<'a>(&'a self, _: Lanes, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        unreachable!("the relay appends nothing")
    }

    fn append_in<'a>(&'a self, _: Lanes, _: Tx<'a>, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        unreachable!("the relay appends nothing")
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        let last = self.rows.lock().unwrap().keys().last().copied().unwrap_or(0);
        self.answer(vec![Head { last, floor: 1, highest_settled: 0, life: 1 }])
    }

    fn lease(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Leases>> {
        let settled = self.settled.lock().unwrap().clone();
        let last = self.rows.lock().unwrap().keys().last().copied().unwrap_or(0);
        let keep = !self.wanted_elsewhere.load(Ordering::SeqCst);
        let lease = Lease { lane: 0, epoch: *self.epoch.lock().unwrap(), settled, last, keep };
        self.answer(Leases { leases: vec![lease], share: 1, life: 1 })
    }

    fn release<'a>(&'a self, _: Uuid, lanes: &'a [u16], _: bool) -> BoxFuture<'a, Result<()>> {
        if !lanes.is_empty() {
            *self.epoch.lock().unwrap() += 1;
            self.wanted_elsewhere.store(false, Ordering::SeqCst);
        }
        self.answer(())
    }

    fn parked<'a>(&'a self, _: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        self.answer(self.parked.lock().unwrap().values().map(|parked| (0, parked.clone())).collect())
    }

    fn held<'a>(&'a self, _: u16, key: &'a Bytes, limit: u32) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        let held = self.held.lock().unwrap();
        let of_key = held.iter().filter(|(held, _)| held == key).take(limit.try_into().unwrap());
        let row = |number: i64| HeldRow { row: row(number, key.clone()), definition_key: "d".into() };
        self.answer(of_key.map(|(_, number)| row(*number)).collect())
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        let rows = self.rows.lock().unwrap();
        let limit = limits.rows.min(limits.bytes.div_ceil(ROW_BYTES)).try_into().unwrap();
        let of_hole = |hole: &Hole| rows.range(hole.low..hole.high).take(limit).collect::<Vec<_>>();
        let found = holes.iter().flat_map(of_hole).map(|(number, key)| row(*number, Bytes::from(key.clone())));
        self.answer(Page { rows: found.collect(), horizon: u64::MAX, life: 1 })
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.woken.notified())
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
                self.held.lock().unwrap().extend(progress.held.iter().cloned());
                self.held.lock().unwrap().retain(|row| !progress.unheld.contains(row));
                let mut parked = self.parked.lock().unwrap();
                parked.extend(progress.parked.iter().map(|parked| (parked.key.clone(), parked.clone())));
                parked.retain(|key, _| !progress.freed.contains(key));
            }
        }
        self.answer(Settled { lanes: held.iter().map(|progress| progress.lane).collect(), mark: 1 })
    }
}

/// Runs a relay until `done`.
async fn relay(outbox: &Arc<FakeOutbox>, transport: &Arc<MemoryTransport>, done: impl AsyncFnOnce()) {
    let fallback = Arc::new(Fallback::open(Arc::clone(outbox) as Arc<dyn Outbox>).await.unwrap());
    let transport = Arc::clone(transport) as Arc<dyn Transport>;
    let dead_letters = DeadLetters { prefix: DEAD_LETTER_PREFIX.into(), style: HeaderStyle::Binding, max_bytes: 1_000 };
    let poison = Poison {
        definitions: [("d".into(), (*outbox.poison.lock().unwrap(), "dead".into()))].into(),
        dead_letters: Arc::new(dead_letters),
        producer_id: "p".into(),
    };
    let outbox = Arc::clone(outbox) as Arc<dyn Outbox>;
    let relay = Relay::new(outbox, Transports::fixed(transport), fallback, Arc::new(poison)).unwrap();
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

#[tokio::test(start_paused = true)]
async fn rows_beyond_the_bytes_of_a_page_are_read_with_the_next_one() {
    // All of them in a gap, which is proven dead as far as a page has shown it.
    let outbox = FakeOutbox::new(1..2_001, RangeSet::from_iter([2_000..2_001]));
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        until(|| outbox.settled.lock().unwrap().iter().next() == Some(&(1..2_001))).await;
    })
    .await;
    assert_eq!(numbers(&transport), (1..2_000).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_refused_event_parks_its_key_for_good_and_other_keys_go_on() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let keys = (1..4_000).map(|number| (number, if number % 2 == 0 { "refused" } else { "key" }.to_owned()));
    outbox.rows.lock().unwrap().extend(keys);
    let transport = Arc::new(MemoryTransport::default());
    transport.refuse_key("refused");
    relay(&outbox, &transport, async || {
        until(|| transport.records().len() == 2_000).await;
        until(|| outbox.held.lock().unwrap().len() == 1_999).await;
        tokio::time::sleep(Duration::from_secs(600)).await;
        let parked = outbox.parked.lock().unwrap()[&Bytes::from("refused")].clone();
        assert!(parked.head == 2 && parked.attempts > 3, "{parked:?}");
    })
    .await;
    // Another relay, which has to know it.
    relay(&outbox, &transport, async || {
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(transport.records().len(), 2_000);
        transport.accept_all();
        until(|| transport.records().len() == 3_999).await;
        until(|| outbox.parked.lock().unwrap().is_empty() && outbox.held.lock().unwrap().is_empty()).await;
    })
    .await;
    let evens: Vec<_> = numbers(&transport).into_iter().filter(|number| number % 2 == 0).collect();
    assert_eq!(evens, (1..2_000).map(|half| 2 * half).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn after_three_attempts_the_policy_decides() {
    for (mode, expected) in [(PoisonMode::Skip, vec![]), (PoisonMode::DeadLetter, vec![1, 2, 3])] {
        let outbox = FakeOutbox::new([1, 2, 3], RangeSet::new());
        *outbox.poison.lock().unwrap() = mode;
        let transport = Arc::new(MemoryTransport::default());
        transport.refuse_topic("t");
        relay(&outbox, &transport, async || {
            until(|| outbox.settled.lock().unwrap().contains(&3) && outbox.parked.lock().unwrap().is_empty()).await;
        })
        .await;
        assert_eq!(numbers(&transport), expected);
        for record in transport.records().iter().filter(|record| &*record.topic == "dead") {
            let letter = DeadLetter::read(record.headers.iter(), DEAD_LETTER_PREFIX).unwrap();
            assert_eq!((&*letter.source_topic, &*letter.error_class, letter.retry_count), ("t", "record_rejected", 2));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_another_relay_is_to_have_is_handed_over_and_nothing_of_it_is_sent_twice() {
    let outbox = FakeOutbox::new(1..100, RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        until(|| transport.records().len() == 99).await;
        outbox.wanted_elsewhere.store(true, Ordering::SeqCst);
        until(|| *outbox.epoch.lock().unwrap() == 1).await;
        outbox.rows.lock().unwrap().extend((100..200).map(|number| (number, "key".to_owned())));
        until(|| transport.records().len() == 199).await;
    })
    .await;
    assert_eq!(numbers(&transport), (1..200).collect::<Vec<_>>());
}

#[test]
fn a_lane_whose_numbers_have_gone_back_is_not_sound() {
    let lease = |last| Lease { lane: 0, epoch: 1, settled: RangeSet::from_iter([1..50]), last, keep: true };
    assert!(is_sound(&lease(49)) && is_sound(&lease(80)) && !is_sound(&lease(48)));
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_woken_looks_at_once() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        for number in 1..5i64 {
            // By now it looks once a second.
            tokio::time::sleep(Duration::from_millis(10_300 + 170 * number.unsigned_abs())).await;
            outbox.rows.lock().unwrap().insert(number, "key".into());
            outbox.woken.notify_one();
            let woken_at = Instant::now();
            until(|| transport.records().len() == usize::try_from(number).unwrap()).await;
            assert!(woken_at.elapsed() <= Duration::from_millis(10));
        }
    })
    .await;
}
