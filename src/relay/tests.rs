use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use proptest::prelude::*;
use rangemap::RangeSet;
use tokio::sync::{Notify, oneshot};

use super::cursor::Cursor;
use super::leases::{LEASE_TIME, RENEW_EVERY, is_sound};
use super::reading::{LANE_BYTES, LANE_ROWS, NEXT_WITHIN, PAGE_BYTES, PAGE_ROWS};
use super::*;
use crate::error::Error;
use crate::event::EventId;
use crate::outbox::{
    Appended, Head, HeldRow, Hole, Lanes, Lease, Leases, Limits, Page, Parked, Progress, Row, Settled, StoredRow,
};
use crate::policy::PoisonMode;
use crate::producer::fallback::Mark;
use crate::transport::memory::MemoryTransport;
use crate::transport::{OnDelivery, QueueFull, Record, Vitals};
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
    /// The highest number that was given out, if it is not that of a row.
    drawn: AtomicI64,
    settled: Mutex<RangeSet<i64>>,
    epoch: Mutex<i64>,
    life: AtomicI64,
    writers: Mutex<Option<Vec<String>>>,
    held: Mutex<BTreeSet<(Bytes, i64)>>,
    parked: Mutex<BTreeMap<Bytes, Parked>>,
    poison: Mutex<PoisonMode>,
    woken: Notify,
    horizon: AtomicU64,
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
            drawn: AtomicI64::new(0),
            settled: Mutex::new(settled),
            held: Mutex::default(),
            parked: Mutex::default(),
            poison: Mutex::new(PoisonMode::Block),
            epoch: Mutex::default(),
            life: AtomicI64::new(1),
            writers: Mutex::default(),
            woken: Notify::new(),
            horizon: AtomicU64::new(u64::MAX),
            wanted_elsewhere: AtomicBool::new(false),
            refuses: AtomicBool::new(false),
            refuses_progress: AtomicBool::new(false),
        })
    }

    fn last(&self) -> i64 {
        let of_rows = self.rows.lock().unwrap().keys().last().copied();
        of_rows.max(Some(self.drawn.load(Ordering::SeqCst))).unwrap_or(0)
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
        let last = self.last();
        let (life, lanes) = (self.life.load(Ordering::SeqCst), Lanes::new(1, 0).unwrap());
        self.answer(vec![Head { last, floor: 1, highest_settled: 0, life, lanes }])
    }

    fn lease(&self, _: Uuid, _: Duration, _: i64) -> BoxFuture<'_, Result<Leases>> {
        let settled = self.settled.lock().unwrap().clone();
        let last = self.last();
        let keep = !self.wanted_elsewhere.load(Ordering::SeqCst);
        let lease = Lease { lane: 0, epoch: *self.epoch.lock().unwrap(), settled, last, keep };
        self.answer(Leases { leases: vec![lease], share: 1, life: self.life.load(Ordering::SeqCst) })
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

    fn held<'a>(&'a self, _: u16, key: &'a Bytes, limits: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        let held = self.held.lock().unwrap();
        let of_key = held
            .iter()
            .filter(|(held, _)| held == key)
            .take(limits.rows.min(limits.bytes.div_ceil(ROW_BYTES)).try_into().unwrap());
        let row = |number: i64| HeldRow { row: row(number, key.clone()), definition_key: "d".into() };
        self.answer(of_key.map(|(_, number)| row(*number)).collect())
    }

    fn page<'a>(&'a self, holes: &'a [Hole], limits: Limits) -> BoxFuture<'a, Result<Page>> {
        let rows = self.rows.lock().unwrap();
        let limit = limits.rows.min(limits.bytes.div_ceil(ROW_BYTES)).try_into().unwrap();
        let of_hole = |hole: &Hole| rows.range(hole.low..hole.high).take(limit).collect::<Vec<_>>();
        let found = holes
            .iter()
            .flat_map(of_hole)
            .take(limits.in_all.try_into().unwrap())
            .map(|(number, key)| row(*number, Bytes::from(key.clone())));
        self.answer(Page {
            rows: found.collect(),
            horizon: self.horizon.load(Ordering::SeqCst),
            life: self.life.load(Ordering::SeqCst),
        })
    }

    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        self.answer(self.writers.lock().unwrap().clone())
    }

    fn woken(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.woken.notified())
    }

    fn settle<'a>(&'a self, progress: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        let lease = (*self.epoch.lock().unwrap(), self.life.load(Ordering::SeqCst));
        let held: Vec<_> = progress.iter().filter(|progress| (progress.epoch, progress.life) == lease).collect();
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

/// A relay that has not begun.
async fn relay_of(outbox: &Arc<FakeOutbox>, transport: Arc<dyn Transport>) -> Relay {
    let fallback = Arc::new(Fallback::open(Arc::clone(outbox) as Arc<dyn Outbox>).await.unwrap());
    let dead_letters = DeadLetters { prefix: DEAD_LETTER_PREFIX.into(), style: HeaderStyle::Binding, max_bytes: 1_000 };
    let poison = Poison {
        definitions: [("d".into(), (*outbox.poison.lock().unwrap(), "dead".into()))].into(),
        dead_letters: Arc::new(dead_letters),
        producer_id: "p".into(),
    };
    let outbox = Arc::clone(outbox) as Arc<dyn Outbox>;
    Relay::new(outbox, Transports::fixed(transport), fallback, Arc::new(poison)).unwrap()
}

/// Runs a relay until `done`.
async fn relay(outbox: &Arc<FakeOutbox>, transport: &Arc<MemoryTransport>, done: impl AsyncFnOnce()) {
    run(relay_of(outbox, Arc::clone(transport) as Arc<dyn Transport>).await, done).await;
}

async fn run(relay: Relay, done: impl AsyncFnOnce()) {
    let (stop, stopped) = oneshot::channel::<()>();
    let run = relay.run(async {
        drop(stopped.await);
        DRAIN_TIME
    });
    let stop = async {
        done().await;
        drop(stop);
    };
    tokio::join!(run, stop);
}

/// Takes records, and says what became of them when it is told to.
#[derive(Default)]
struct SlowTransport {
    held: Mutex<Vec<OnDelivery>>,
    /// The numbers of all records that it ever took, in order.
    taken: Mutex<Vec<i64>>,
    delivered: AtomicU64,
    /// How often it was asked for a sign of life.
    probes: AtomicUsize,
    retired: AtomicBool,
}

impl std::fmt::Debug for SlowTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlowTransport")
    }
}

impl SlowTransport {
    fn take(&self, record: &Record, on_delivery: OnDelivery) {
        self.taken.lock().unwrap().push(number(record));
        self.held.lock().unwrap().push(on_delivery);
    }

    /// How many records it has.
    fn len(&self) -> usize {
        self.held.lock().unwrap().len()
    }

    fn taken(&self) -> Vec<i64> {
        self.taken.lock().unwrap().clone()
    }

    fn deliver_all(&self) {
        for on_delivery in std::mem::take(&mut *self.held.lock().unwrap()) {
            self.delivered.fetch_add(1, Ordering::SeqCst);
            on_delivery.call(Ok(Delivery { partition: 0, offset: 0 }));
        }
    }

    fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }
}

impl Transport for SlowTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        self.take(record, on_delivery);
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn vitals(&self) -> Option<Vitals> {
        let acknowledged = self.delivered.load(Ordering::SeqCst);
        Some(Vitals { unacknowledged: self.len(), acknowledged, ..Vitals::new() })
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::SeqCst);
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
        self.probes.fetch_add(1, Ordering::SeqCst);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// A relay that has leased the lane, and delivered something of the key, taken step by step.
async fn leased(outbox: &Arc<FakeOutbox>) -> (Relay, Arc<SlowTransport>) {
    let (mut relay, transport) = new_to_its_keys(outbox).await;
    let record = row(1, Bytes::from("key")).record.unwrap();
    let Turn::Alone(first) = relay.firsts.turn(&record, Instant::now()) else { panic!("it is the first") };
    relay.firsts.ended(first, true);
    (relay, transport)
}

/// A relay that has leased the lane, taken step by step.
async fn new_to_its_keys(outbox: &Arc<FakeOutbox>) -> (Relay, Arc<SlowTransport>) {
    let transport = Arc::new(SlowTransport::default());
    let mut relay = relay_of(outbox, Arc::clone(&transport) as Arc<dyn Transport>).await;
    relay.keep_leases().await;
    (relay, transport)
}

/// Has a relay read one page.
async fn read_page(relay: &mut Relay) {
    let answer = relay.read().unwrap().await;
    relay.look(answer);
}

/// Parks the key of all rows; it is due.
fn park_key(outbox: &FakeOutbox) {
    let parked = Parked {
        key: Bytes::from("key"),
        head: 1,
        error_kind: ErrorKind::RecordRejected,
        error: String::new(),
        attempts: 1,
        first_failure_at: Utc::now(),
        retry_in: Duration::ZERO,
        command: None,
    };
    outbox.parked.lock().unwrap().insert(parked.key.clone(), parked);
}

/// Has the relay lose the lane, and win it back.
async fn lose_and_win(relay: &mut Relay, outbox: &FakeOutbox) {
    *outbox.epoch.lock().unwrap() += 1;
    relay.renew_at = Instant::now();
    relay.keep_leases().await;
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

fn number(record: &Record) -> i64 {
    std::str::from_utf8(record.payload.as_deref().unwrap()).unwrap().parse().unwrap()
}

fn numbers(transport: &MemoryTransport) -> Vec<i64> {
    transport.records().iter().map(number).collect()
}

/// Has a process store and commit a row, and hand it over to the relay, which takes it.
fn hand(relay: &mut Relay, outbox: &FakeOutbox, numbers: impl IntoIterator<Item = i64>) {
    for number in numbers {
        let key = outbox.rows.lock().unwrap().entry(number).or_insert_with(|| "key".to_owned()).clone();
        hand_of_life(relay, number, key, 1);
    }
    relay.take_handed();
}

fn hand_of_life(relay: &Relay, number: i64, key: String, life: i64) {
    let record = row(number, Bytes::from(key)).record.unwrap();
    let row = Row { lane: 0, event_id: EventId::new(), definition_key: "d".into(), record };
    relay.fallback.handed.push(Journaled::new(row, Appended::new(number, life)).unwrap());
}

/// Has the relay submit what it may, and says what it has ever submitted.
fn submit(relay: &mut Relay, transport: &SlowTransport) -> Vec<i64> {
    relay.submit();
    transport.taken()
}

#[tokio::test(start_paused = true)]
async fn a_client_whose_records_wait_is_asked_whether_anybody_answers() {
    let outbox = FakeOutbox::new(1..2, RangeSet::new());
    let [first, second] = [(); 2].map(|()| Arc::new(SlowTransport::default()));
    let mut relay = relay_of(&outbox, Arc::clone(&first) as Arc<dyn Transport>).await;
    relay.transports = Transports::fixed(Arc::clone(&second) as Arc<dyn Transport>);
    run(relay, async || {
        until(|| first.probes() > 1).await;
        let failed = Error::new(ErrorKind::ClientFailed, "told to fail");
        first.held.lock().unwrap().pop().unwrap().call(Err(failed));
        // So is the one that takes its place.
        until(|| second.probes() > 1).await;
        second.deliver_all();
        let asked = second.probes();
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(second.probes(), asked, "nothing waits any more");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_for_which_no_new_client_can_be_made_goes_on_and_tries_again_a_while_later() {
    let outbox = FakeOutbox::new(1..2, RangeSet::new());
    let [first, second] = [(); 2].map(|()| Arc::new(SlowTransport::default()));
    let mut relay = relay_of(&outbox, Arc::clone(&first) as Arc<dyn Transport>).await;
    let (asked, client) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&second));
    let counted = Arc::clone(&asked);
    relay.transports = Transports::without_threads(Arc::new(move |_| match counted.fetch_add(1, Ordering::SeqCst) {
        0 => Err(Error::new(ErrorKind::InvalidConfig, "told to fail")),
        _ => Ok(Arc::clone(&client) as Arc<dyn Transport>),
    }));
    run(relay, async || {
        let fail = async || {
            until(|| !first.held.lock().unwrap().is_empty()).await;
            let failed = Error::new(ErrorKind::ClientFailed, "told to fail");
            first.held.lock().unwrap().pop().unwrap().call(Err(failed));
            until(|| !first.held.lock().unwrap().is_empty() || second.len() > 0).await;
        };
        fail().await;
        fail().await;
        assert_eq!(asked.load(Ordering::SeqCst), 1, "a record that fails at once asks for none");
        tokio::time::sleep(RETRY_AFTER).await;
        fail().await;
        assert!(first.retired.load(Ordering::SeqCst), "its end may take a while");
        second.deliver_all();
        until(|| outbox.settled.lock().unwrap().contains(&1)).await;
    })
    .await;
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
async fn a_page_has_no_more_rows_than_it_may_however_many_gaps_are_full_and_what_it_has_no_room_for_is_not_dead() {
    // The last row that there is room for is in the middle of a gap.
    let (gaps, end): (i64, i64) = (500, 500 * 7 + 2);
    let settled = (1..=gaps).map(|gap| gap * 7..gap * 7 + 1).collect::<RangeSet<_>>();
    let there = (1..end).filter(|number| number % 7 != 0).collect::<Vec<_>>();
    let outbox = FakeOutbox::new(there.clone(), settled);
    let (mut relay, _) = leased(&outbox).await;
    let behind = Lane::new(0, 1, Cursor::new(RangeSet::from_iter([5..6])), Vec::new(), Instant::now());
    relay.lanes.insert(1, behind);
    relay.lanes.values_mut().for_each(|lane| lane.cursor.mark(1));
    let answer = relay.read().unwrap().await;
    assert_eq!(answer.page.as_ref().unwrap().rows.len(), PAGE_ROWS);
    relay.look(answer);
    assert_eq!(relay.lanes[&0].cursor.first_unknown(), there[PAGE_ROWS]);
    assert_eq!(relay.lanes[&1].cursor.first_unknown(), 1, "nobody has looked there");
    // The next one begins with the lane that had no room in this one.
    assert_eq!(relay.next_lane, 1);

    let transport = Arc::new(MemoryTransport::default());
    self::relay(&outbox, &transport, async || {
        until(|| outbox.settled.lock().unwrap().iter().next() == Some(&(1..end))).await
    })
    .await;
    assert_eq!(numbers(&transport), there);
}

#[tokio::test(start_paused = true)]
async fn a_page_that_could_not_be_read_is_followed_by_smaller_ones_until_one_can() {
    let outbox = FakeOutbox::new(1..2_000, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    let page = async |relay: &mut Relay| {
        let answer = relay.read().unwrap().await;
        relay.look(answer);
        relay.page_rows
    };
    outbox.refuses.store(true, Ordering::SeqCst);
    assert_eq!(page(&mut relay).await, PAGE_ROWS / 4);
    for _ in 0..20 {
        assert!(page(&mut relay).await >= 1);
    }
    outbox.refuses.store(false, Ordering::SeqCst);
    assert_eq!((page(&mut relay).await, relay.lanes[&0].len()), (2, 1));
    assert_eq!((page(&mut relay).await, relay.lanes[&0].len()), (4, 3));
}

#[tokio::test(start_paused = true)]
async fn lanes_of_which_nothing_is_delivered_leave_room_for_the_others() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    for index in 1..=4 {
        let mut lane = Lane::new(0, 1, Cursor::new(RangeSet::new()), Vec::new(), Instant::now());
        for number in 1..=i64::try_from(LANE_ROWS).unwrap() {
            lane.add(StoredRow { bytes: 1, ..row(number, "key".into()) });
        }
        relay.lanes.insert(index, lane);
    }
    assert_eq!(relay.readable().map(|(index, _)| index).collect::<Vec<_>>(), [0]);
    let lane = relay.lanes.get_mut(&0).unwrap();
    for number in 1..=64 {
        lane.add(StoredRow { bytes: 1, ..row(number, "key".into()) });
    }
    assert_eq!(relay.readable().count(), 0, "but no more than a little");
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

#[tokio::test]
async fn what_is_known_of_one_event_says_nothing_of_the_next_of_its_key() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    *outbox.poison.lock().unwrap() = PoisonMode::Skip;
    park_key(&outbox);
    let mut parked = outbox.parked.lock().unwrap().values().next().unwrap().clone();
    parked.attempts = 3;
    let relay = relay_of(&outbox, Arc::new(SlowTransport::default())).await;
    let judge = |number| {
        relay.poison.judge(&parked, &HeldRow { row: row(number, parked.key.clone()), definition_key: "d".into() })
    };
    assert_eq!([1, 2].map(judge), [Verdict::Skip, Verdict::Deliver]);
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

#[tokio::test(start_paused = true)]
async fn what_is_queued_when_the_leases_run_out_is_not_sent() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    tokio::time::advance(LEASE_TIME).await;
    relay.submit();
    assert_eq!(transport.len(), 0);
    relay.keep_leases().await;
    relay.submit();
    assert_eq!(transport.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_known_of_a_lane_whose_lease_ran_out_while_the_database_was_away() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    read_page(&mut relay).await;
    outbox.refuses.store(true, Ordering::SeqCst);
    tokio::time::advance(LEASE_TIME - Duration::from_millis(1)).await;
    relay.keep_leases().await;
    assert_eq!(relay.lanes.len(), 1, "it is ours still");
    tokio::time::advance(RETRY_AFTER).await;
    relay.keep_leases().await;
    assert!(relay.lanes.is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_was_queued_under_a_lease_that_was_lost_is_sent_only_once_it_is_read_again() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    // Somebody else has delivered the first one meanwhile.
    outbox.settled.lock().unwrap().insert(1..2);
    lose_and_win(&mut relay, &outbox).await;
    read_page(&mut relay).await;
    relay.submit();
    assert_eq!(transport.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_row_of_a_lost_lease_says_nothing_of_the_new_one() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    relay.submit();
    lose_and_win(&mut relay, &outbox).await;
    read_page(&mut relay).await;
    transport.deliver_all();
    relay.take_reports();
    assert_eq!((relay.lanes[&0].len(), relay.submitted), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_row_of_a_lease_that_ran_out_says_nothing_of_the_next_one_though_nobody_else_had_the_lane() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    relay.submit();
    let answer = relay.read().unwrap().await;
    outbox.refuses.store(true, Ordering::SeqCst);
    tokio::time::advance(LEASE_TIME).await;
    relay.keep_leases().await;
    assert!(relay.lanes.is_empty());
    outbox.refuses.store(false, Ordering::SeqCst);
    tokio::time::advance(RETRY_AFTER).await;
    // Under the same epoch.
    relay.keep_leases().await;
    relay.look(answer);
    transport.deliver_all();
    relay.take_reports();
    assert_eq!((relay.lanes[&0].len(), relay.lanes[&0].submitted, relay.submitted), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_page_that_was_begun_under_a_lease_that_was_lost_is_thrown_away() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    let answer = relay.read().unwrap().await;
    lose_and_win(&mut relay, &outbox).await;
    relay.look(answer);
    assert_eq!((relay.lanes[&0].len(), relay.queue.len()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_page_of_another_life_of_the_database_is_thrown_away_and_the_lanes_are_leased_anew() {
    let outbox = FakeOutbox::new(1..4, RangeSet::from_iter([1..3]));
    let (mut relay, _) = leased(&outbox).await;
    outbox.life.store(2, Ordering::SeqCst);
    read_page(&mut relay).await;
    assert_eq!((relay.lanes[&0].len(), relay.queue.len()), (0, 0));
    // What was settled in the other life was undone.
    *outbox.settled.lock().unwrap() = RangeSet::new();
    *outbox.epoch.lock().unwrap() += 1;
    relay.keep_leases().await;
    read_page(&mut relay).await;
    assert_eq!(relay.lanes[&0].len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_not_handed_over_before_what_is_in_flight_is_delivered_and_written_down() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    relay.submit();
    outbox.wanted_elsewhere.store(true, Ordering::SeqCst);
    relay.renew_at = Instant::now();
    relay.keep_leases().await;
    let is_ours = || *outbox.epoch.lock().unwrap() == 0;
    relay.hand_over().await;
    assert!(is_ours(), "it is in flight");
    transport.deliver_all();
    relay.take_reports();
    relay.hand_over().await;
    assert!(is_ours(), "it is not written down");
    relay.save(true).await;
    relay.hand_over().await;
    assert!(!is_ours());
    assert_eq!(*outbox.settled.lock().unwrap(), RangeSet::from_iter([1..4]));
}

#[tokio::test(start_paused = true)]
async fn numbers_that_the_database_never_gave_out_are_not_taken_for_dead() {
    let outbox = FakeOutbox::new(1..3, RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    let relay = relay_of(&outbox, Arc::clone(&transport) as Arc<dyn Transport>).await;
    // Drawn in an earlier life of the database, or by a transaction that rolled back and took the number with it.
    let fallback = Arc::clone(&relay.fallback);
    fallback.spills.spill(0, 5);
    run(relay, async || {
        until(|| outbox.settled.lock().unwrap().contains(&2)).await;
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(fallback.spills.last(0), 2);
        outbox.rows.lock().unwrap().extend((3..8).map(|number| (number, "key".to_owned())));
        until(|| transport.records().len() == 7).await;
    })
    .await;
    assert_eq!(numbers(&transport), (1..8).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_number_that_another_process_drew_and_rolled_back_is_found_out_though_nothing_is_stored_behind_it() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    relay(&outbox, &transport, async || {
        tokio::time::sleep(Duration::from_secs(1)).await;
        outbox.drawn.store(3, Ordering::SeqCst);
        until(|| outbox.settled.lock().unwrap().contains(&3)).await;
        // Nor does it matter in which life of the database that is.
        outbox.life.store(2, Ordering::SeqCst);
        outbox.drawn.store(5, Ordering::SeqCst);
        until(|| outbox.settled.lock().unwrap().contains(&5)).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_is_known_of_a_lane_is_forgotten_in_another_life_of_the_database_though_its_epoch_is_the_same() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    read_page(&mut relay).await;
    outbox.life.store(2, Ordering::SeqCst);
    relay.renew_at = Instant::now();
    relay.keep_leases().await;
    assert_eq!(relay.lanes[&0].len(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_settled_in_another_life_of_the_database_is_not_written_down_though_the_epoch_is_the_same() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    for (number, life) in [(1, 1), (2, 2)] {
        relay.lanes.get_mut(&0).unwrap().cursor.settle(number..number + 1);
        outbox.life.store(life, Ordering::SeqCst);
        relay.save(true).await;
    }
    assert_eq!(*outbox.settled.lock().unwrap(), RangeSet::from_iter([1..2]));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_it_has_and_must_not_keep_is_released_though_it_knows_nothing_of_it() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    // Handed over before, and that could not be written down.
    outbox.wanted_elsewhere.store(true, Ordering::SeqCst);
    let (relay, _) = leased(&outbox).await;
    assert!(relay.lanes.is_empty());
    assert_eq!(*outbox.epoch.lock().unwrap(), 1, "it is released");
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_whose_held_rows_can_not_be_written_down_waits_like_everything_else() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    park_key(&outbox);
    let (mut relay, _) = leased(&outbox).await;
    read_page(&mut relay).await;
    outbox.refuses_progress.store(true, Ordering::SeqCst);
    relay.retry_parked().await;
    relay.renew_at = Instant::now() + Duration::from_secs(1);
    assert!(relay.wake_at(true) > Instant::now(), "it would try again at once, for ever");
    outbox.refuses_progress.store(false, Ordering::SeqCst);
    tokio::time::advance(RETRY_AFTER).await;
    relay.retry_parked().await;
    assert!(!relay.queue.is_empty(), "it is tried once its rows are written down");
}

#[tokio::test(start_paused = true)]
async fn a_parked_key_that_is_due_does_not_keep_it_busy_once_its_leases_have_run_out() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    park_key(&outbox);
    let (mut relay, _) = leased(&outbox).await;
    let now = Instant::now();
    assert_eq!(relay.wake_at(true), now, "it is due");
    relay.leased_until = now;
    relay.renew_at = now + Duration::from_secs(1);
    assert!(relay.wake_at(true) > now);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_of_large_events_is_not_read_into_memory_whole() {
    let outbox = FakeOutbox::new(1..20_000, RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    while let Some(page) = relay.read() {
        let answer = page.await;
        relay.look(answer);
    }
    let bytes = relay.lanes[&0].bytes();
    assert!(bytes >= LANE_BYTES && bytes <= LANE_BYTES + PAGE_BYTES + usize::try_from(ROW_BYTES).unwrap(), "{bytes}");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_a_page_shows_while_its_number_is_asked_for_is_sent_once() {
    let outbox = FakeOutbox::new(1..3, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    relay.fallback.spills.spill(0, 3);
    relay.fallback.spills.expect(0, 3);
    read_page(&mut relay).await;
    read_page(&mut relay).await;
    assert!(relay.lanes[&0].is_behind, "3 is drawn and not committed");
    outbox.rows.lock().unwrap().insert(3, "key".into());
    let answer = relay.read().unwrap().await;
    relay.ask_drawn().await;
    relay.look(answer);
    read_page(&mut relay).await;
    relay.submit();
    assert_eq!(transport.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_page_proves_nothing_by_witnesses_that_ended_after_it_was_begun() {
    let outbox = FakeOutbox::new([2], RangeSet::new());
    let (mut relay, _) = leased(&outbox).await;
    read_page(&mut relay).await;
    *outbox.writers.lock().unwrap() = Some(vec!["writer of 1".to_owned()]);
    relay.ask_witnesses().await;
    let answer = relay.read().unwrap().await;
    outbox.rows.lock().unwrap().insert(1, "key".into());
    *outbox.writers.lock().unwrap() = Some(Vec::new());
    tokio::time::advance(ASK_WITNESSES_EVERY).await;
    relay.ask_witnesses().await;
    relay.look(answer);
    read_page(&mut relay).await;
    assert_eq!(relay.lanes[&0].len(), 2, "1 was committed when the page was on its way");
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_progress_is_refused_is_dropped() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    relay.submit();
    transport.deliver_all();
    relay.take_reports();
    *outbox.epoch.lock().unwrap() += 1;
    relay.save(true).await;
    assert!(relay.lanes.is_empty() && outbox.settled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_number_that_is_given_out_again_in_an_older_database_spills_its_lane() {
    let outbox = FakeOutbox::new(1..10, RangeSet::new());
    let fallback = Fallback::open(Arc::clone(&outbox) as Arc<dyn Outbox>).await.unwrap();
    fallback.spills.settle_below(0, 10, 1);
    let known = fallback.spills.known(0);
    outbox.rows.lock().unwrap().retain(|number, _| *number <= 3);
    outbox.life.store(2, Ordering::SeqCst);
    fallback.spill(&[Mark { lane: 0, appended: Appended::new(3, 2), known, is_journaled: false }]).await.unwrap();
    assert!(fallback.spills.is_spilled(0));
}

#[tokio::test]
async fn one_number_that_was_set_back_leaves_no_other_event_unspilled_and_in_doubt() {
    let outbox = FakeOutbox::new(1..10, RangeSet::new());
    let fallback = Fallback::open(Arc::clone(&outbox) as Arc<dyn Outbox>).await.unwrap();
    fallback.spills.settle_below(0, 10, 1);
    let known = fallback.spills.known(0);
    let mark = |number| Mark { lane: 0, appended: Appended::new(number, 1), known, is_journaled: false };
    let error = fallback.spill(&[mark(9)]).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Schema, false));
    let error = fallback.spill(&[mark(9), mark(10)]).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Schema, true), "the relay delivers the second");
    assert!(fallback.spills.is_spilled(0));
}

#[tokio::test]
async fn a_number_of_an_older_database_spills_its_lane_though_a_relay_has_settled_more_since_it_was_asked_for() {
    let outbox = FakeOutbox::new(1..10, RangeSet::new());
    let fallback = Fallback::open(Arc::clone(&outbox) as Arc<dyn Outbox>).await.unwrap();
    fallback.spills.settle_below(0, 4, 1);
    let known = fallback.spills.known(0);
    fallback.spills.settle_below(0, 10, 1);
    outbox.rows.lock().unwrap().retain(|number, _| *number <= 3);
    outbox.life.store(2, Ordering::SeqCst);
    fallback.spill(&[Mark { lane: 0, appended: Appended::new(4, 2), known, is_journaled: false }]).await.unwrap();
    assert!(fallback.spills.is_spilled(0));
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_handed_over_is_sent_without_being_read_and_then_settled() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    hand(&mut relay, &outbox, 1..4);
    assert_eq!(submit(&mut relay, &transport), [1, 2, 3]);
    transport.deliver_all();
    relay.take_reports();
    relay.save(true).await;
    assert_eq!(*outbox.settled.lock().unwrap(), RangeSet::from_iter([1..4]));
    hand(&mut relay, &outbox, 1..4);
    read_page(&mut relay).await;
    assert_eq!(submit(&mut relay, &transport), [1, 2, 3], "nothing is sent twice");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_handed_over_while_a_page_that_shows_it_is_read_is_sent_once() {
    let outbox = FakeOutbox::new([1, 2, 4], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    outbox.rows.lock().unwrap().extend([3, 5, 6].map(|number| (number, "key".to_owned())));
    let answer = relay.read().unwrap().await;
    hand(&mut relay, &outbox, [3, 5]);
    relay.look(answer);
    assert_eq!(submit(&mut relay, &transport), [1, 2, 4, 3, 5, 6]);
}

/// A hole that was cut shows the first rows only; all of those are handed over meanwhile.
#[tokio::test(start_paused = true)]
async fn what_a_cut_page_did_not_show_is_not_dead_though_all_that_it_shows_was_handed_over() {
    let left = 2 * i64::try_from(PAGE_ROWS).unwrap();
    let outbox = FakeOutbox::new(1..left + 1, RangeSet::from_iter([left..left + 1]));
    let (mut relay, _) = leased(&outbox).await;
    relay.lanes.get_mut(&0).unwrap().cursor.mark(1);
    let answer = relay.read().unwrap().await;
    let shown: Vec<_> = answer.page.as_ref().unwrap().rows.iter().map(|row| row.sequence).collect();
    assert!(!shown.is_empty() && shown.len() < usize::try_from(left).unwrap() / 2);
    hand(&mut relay, &outbox, shown.clone());
    relay.look(answer);
    assert_eq!(relay.lanes[&0].cursor.first_unknown(), shown.last().unwrap() + 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_is_handed_over_waits_for_the_one_before_it() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    hand(&mut relay, &outbox, [3, 2]);
    assert_eq!(submit(&mut relay, &transport), [0i64; 0]);
    assert!(relay.poll.due_at() <= Instant::now() + NEXT_WITHIN);
    hand(&mut relay, &outbox, [1]);
    assert_eq!(submit(&mut relay, &transport), [1, 2, 3]);
    // One that is not handed over is read.
    hand(&mut relay, &outbox, [5]);
    outbox.rows.lock().unwrap().insert(4, "key".into());
    read_page(&mut relay).await;
    assert_eq!(submit(&mut relay, &transport), [1, 2, 3, 4, 5]);
    assert_eq!((relay.lanes[&0].len(), relay.lanes[&0].has_early()), (5, false));
}

#[tokio::test(start_paused = true)]
async fn behind_a_gap_what_is_handed_over_is_read_at_once() {
    let outbox = FakeOutbox::new([1, 3], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    read_page(&mut relay).await;
    assert_eq!(submit(&mut relay, &transport), [1, 3]);
    hand(&mut relay, &outbox, [4]);
    assert_eq!(submit(&mut relay, &transport), [1, 3], "2 may be of the same key");
    assert!(relay.poll.is_due(Instant::now()));
    hand(&mut relay, &outbox, [2, 4]);
    assert_eq!(submit(&mut relay, &transport), [1, 3, 2, 4]);
}

#[tokio::test(start_paused = true)]
async fn a_clients_first_row_of_a_key_goes_alone_and_the_others_without_waiting_for_one_another() {
    let outbox = FakeOutbox::new(1..6, RangeSet::new());
    outbox.rows.lock().unwrap().insert(3, "other".into());
    let (mut relay, transport) = new_to_its_keys(&outbox).await;
    read_page(&mut relay).await;
    assert_eq!(submit(&mut relay, &transport), [1, 3]);
    transport.deliver_all();
    relay.take_reports();
    assert_eq!(submit(&mut relay, &transport), [1, 3, 2, 4, 5]);
    // Another client is as new to its keys as the first one was.
    let record = row(1, Bytes::from("key")).record.unwrap();
    assert_eq!(relay.firsts.turn(&record, Instant::now()), Turn::Pipelined);
    for on_delivery in std::mem::take(&mut *transport.held.lock().unwrap()) {
        on_delivery.call(Err(Error::new(ErrorKind::ClientFailed, "told to fail")));
    }
    relay.take_reports();
    assert!(matches!(relay.firsts.turn(&record, Instant::now()), Turn::Alone(_)));
}

#[tokio::test(start_paused = true)]
async fn what_a_client_has_that_was_given_up_is_reported_on_before_another_has_anything() {
    let outbox = FakeOutbox::new(1..3, RangeSet::new());
    outbox.rows.lock().unwrap().insert(2, "other".into());
    let (mut relay, first) = new_to_its_keys(&outbox).await;
    let second = Arc::new(SlowTransport::default());
    let client = Arc::clone(&second) as Arc<dyn Transport>;
    relay.transports = Transports::without_threads(Arc::new(move |_| Ok(Arc::clone(&client))));
    read_page(&mut relay).await;
    assert_eq!(submit(&mut relay, &first), [1, 2]);
    let fail = |relay: &mut Relay| {
        first.held.lock().unwrap().pop().unwrap().call(Err(Error::new(ErrorKind::ClientFailed, "told to fail")));
        relay.take_reports();
    };
    fail(&mut relay);
    hand(&mut relay, &outbox, [3]);
    assert_eq!(submit(&mut relay, &second), [0i64; 0], "3 would overtake 1, should that fail as well");
    fail(&mut relay);
    assert_eq!(submit(&mut relay, &second), [0i64; 0]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    relay.retry_stuck();
    assert_eq!(submit(&mut relay, &second), [1, 2]);
    second.deliver_all();
    relay.take_reports();
    assert_eq!(submit(&mut relay, &second), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_row_of_another_life_of_the_database_is_not_taken() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    hand_of_life(&relay, 1, "key".into(), 0);
    relay.take_handed();
    assert_eq!(submit(&mut relay, &transport), [0i64; 0]);
    assert!(relay.poll.is_due(Instant::now()));
}

#[tokio::test(start_paused = true)]
async fn for_rows_of_a_lane_that_is_not_ours_the_others_are_woken() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    assert!(!relay.take_handed());
    relay.fallback.handed.tell_others();
    assert!(relay.take_handed() && !relay.take_handed());
    relay.lanes.clear();
    hand_of_life(&relay, 1, "key".into(), 1);
    assert!(relay.take_handed());
    assert_eq!(submit(&mut relay, &transport), [0i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn of_a_lane_that_goes_to_another_relay_nothing_is_taken() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    relay.lanes.get_mut(&0).unwrap().leaving = true;
    hand(&mut relay, &outbox, [1]);
    assert_eq!(submit(&mut relay, &transport), [0i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn more_than_there_is_room_for_is_not_taken_into_memory() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    let all = i64::try_from(LANE_ROWS).unwrap() + 500;
    for number in 1..all {
        hand(&mut relay, &outbox, [number]);
    }
    let row_bytes = usize::try_from(ROW_BYTES).unwrap();
    let lane = &relay.lanes[&0];
    assert!(lane.len() <= LANE_ROWS && lane.bytes() <= LANE_BYTES + row_bytes);
    // What waits for the relay is bounded too.
    for number in 1..all {
        hand_of_life(&relay, number, "key".into(), 1);
    }
    assert!(relay.fallback.handed.take().rows.len() < 2_500);
    while relay.lanes[&0].cursor.floor() < all {
        submit(&mut relay, &transport);
        transport.deliver_all();
        relay.take_reports();
        read_page(&mut relay).await;
    }
    assert_eq!(transport.taken(), (1..all).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_row_that_nobody_hands_over_is_sent_a_little_later() {
    let outbox = FakeOutbox::new([], RangeSet::new());
    let transport = Arc::new(MemoryTransport::default());
    let relay = relay_of(&outbox, Arc::clone(&transport) as Arc<dyn Transport>).await;
    let fallback = Arc::clone(&relay.fallback);
    run(relay, async || {
        // By now it looks once a second.
        tokio::time::sleep(Duration::from_millis(10_300)).await;
        let known = fallback.spills.known(0);
        fallback.spill(&[Mark { lane: 0, appended: Appended::new(1, 1), known, is_journaled: true }]).await.unwrap();
        outbox.rows.lock().unwrap().insert(1, "key".into());
        let stored_at = Instant::now();
        until(|| transport.records().len() == 1).await;
        assert!(stored_at.elapsed() <= HANDED_WITHIN + Duration::from_millis(20), "{:?}", stored_at.elapsed());
    })
    .await;
}

/// A service's transactions on one lane, each with a row of a key that it has locked, and a relay that is taken step by step.
#[derive(Debug, Default)]
struct Mixture {
    next: i64,
    open: Vec<(i64, usize)>,
    committed: Vec<(i64, usize)>,
}

impl Mixture {
    fn draw(&mut self, key: usize) {
        if self.open.iter().all(|(_, locked)| *locked != key) {
            self.next += 1;
            self.open.push((self.next, key));
        }
    }

    fn commit(&mut self, pick: usize, outbox: &FakeOutbox) {
        if !self.open.is_empty() {
            let (number, key) = self.open.swap_remove(pick % self.open.len());
            outbox.rows.lock().unwrap().insert(number, format!("k{key}"));
            self.committed.push((number, key));
        }
    }

    /// What was submitted is what was committed, and of each key in order, by first occurrences.
    fn check(&self, taken: &[i64]) -> Result<(), TestCaseError> {
        let keys: BTreeMap<_, _> = self.committed.iter().copied().collect();
        let mut last = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for number in taken.iter().filter(|number| seen.insert(**number)) {
            let before = last.insert(keys[number], *number);
            prop_assert!(before.is_none_or(|before| before < *number), "{number} came behind {before:?}: {taken:?}");
        }
        prop_assert_eq!(seen, keys.keys().copied().collect::<BTreeSet<_>>());
        Ok(())
    }
}

proptest! {
    #[test]
    fn all_rows_arrive_in_order_whichever_are_handed_over_and_whenever(
        steps in proptest::collection::vec((0u8..40, any::<usize>()), 1..200),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let outbox = FakeOutbox::new([], RangeSet::new());
            let (mut relay, transport) = leased(&outbox).await;
            let (mut mixture, mut answer, mut lives) = (Mixture::default(), None, 0);
            // As long as transactions are open, no gap is dead.
            outbox.horizon.store(0, Ordering::SeqCst);
            for (step, pick) in steps {
                match step {
                    0..8 => mixture.draw(pick % 4),
                    8..14 => mixture.commit(pick, &outbox),
                    // Rolled back: never to be seen.
                    14 => drop((!mixture.open.is_empty()).then(|| mixture.open.swap_remove(pick % mixture.open.len()))),
                    15..25 => if let Some((number, key)) = mixture.committed.get(pick % mixture.committed.len().max(1)) {
                        hand_of_life(&relay, *number, format!("k{key}"), 1);
                    },
                    25..28 => drop(relay.take_handed()),
                    28..30 => answer = match relay.read() {
                        Some(page) => Some(page.await),
                        None => None,
                    },
                    30..33 => if let Some(answer) = answer.take() {
                        relay.look(answer);
                    },
                    33..36 => {
                        relay.retry_stuck();
                        relay.submit();
                    }
                    36..38 => {
                        transport.deliver_all();
                        relay.take_reports();
                    }
                    38 => relay.save(true).await,
                    _ => {
                        lives += 1;
                        lose_and_win(&mut relay, &outbox).await;
                    }
                }
            }
            while !mixture.open.is_empty() {
                mixture.commit(0, &outbox);
            }
            outbox.horizon.store(u64::MAX, Ordering::SeqCst);
            for _ in 0..10 {
                // Rows that were held back behind some of a former lease are tried again after a moment.
                tokio::time::sleep(Duration::from_millis(100)).await;
                relay.save(true).await;
                read_page(&mut relay).await;
                relay.retry_stuck();
                relay.submit();
                transport.deliver_all();
                relay.take_reports();
            }
            mixture.check(&transport.taken())?;
            let sent = transport.taken().len();
            prop_assert!(lives > 0 || sent == mixture.committed.len(), "sent twice without a lost lease");
            let highest = mixture.committed.iter().map(|(number, _)| *number).max().unwrap_or(0);
            prop_assert_eq!(relay.lanes[&0].cursor.floor(), highest + 1);
            Ok(())
        })?;
    }
}
