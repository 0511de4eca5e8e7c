use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use bytes::Bytes;
use rangemap::RangeSet;
use tokio::sync::{Notify, oneshot};

use super::*;
use crate::error::Error;
use crate::outbox::{Appended, Head, HeldRow, Lanes, Progress, Row, Settled};
use crate::policy::PoisonMode;
use crate::transport::memory::MemoryTransport;
use crate::transport::{OnDelivery, QueueFull, Record};
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
    life: AtomicI64,
    writers: Mutex<Option<Vec<String>>>,
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
            life: AtomicI64::new(1),
            writers: Mutex::default(),
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
        self.answer(vec![Head { last, floor: 1, highest_settled: 0, life: self.life.load(Ordering::SeqCst) }])
    }

    fn lease(&self, _: Uuid, _: Duration) -> BoxFuture<'_, Result<Leases>> {
        let settled = self.settled.lock().unwrap().clone();
        let last = self.rows.lock().unwrap().keys().last().copied().unwrap_or(0);
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
        self.answer(Page { rows: found.collect(), horizon: u64::MAX, life: self.life.load(Ordering::SeqCst) })
    }

    fn writers(&self) -> BoxFuture<'_, Result<Option<Vec<String>>>> {
        self.answer(self.writers.lock().unwrap().clone())
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
    let (result, ()) = tokio::join!(run, stop);
    result.unwrap();
}

/// Takes records, and says what became of them when it is told to.
#[derive(Default)]
struct SlowTransport(Mutex<Vec<OnDelivery>>);

impl std::fmt::Debug for SlowTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SlowTransport")
    }
}

impl SlowTransport {
    fn take(&self, on_delivery: OnDelivery) {
        self.0.lock().unwrap().push(on_delivery);
    }

    /// How many records it has.
    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    fn deliver_all(&self) {
        for on_delivery in std::mem::take(&mut *self.0.lock().unwrap()) {
            on_delivery(Ok(Delivery { partition: 0, offset: 0 }));
        }
    }
}

impl Transport for SlowTransport {
    fn submit(&self, _: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        self.take(on_delivery);
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

/// A relay that has leased the lane, taken step by step.
async fn leased(outbox: &Arc<FakeOutbox>) -> (Relay, Arc<SlowTransport>) {
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

#[tokio::test(start_paused = true)]
async fn what_is_queued_when_the_leases_run_out_is_not_sent() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    tokio::time::advance(LEASE_TIME).await;
    relay.submit().unwrap();
    assert_eq!(transport.len(), 0);
    relay.keep_leases().await;
    relay.submit().unwrap();
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
    relay.submit().unwrap();
    assert_eq!(transport.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_a_row_of_a_lost_lease_says_nothing_of_the_new_one() {
    let outbox = FakeOutbox::new(1..4, RangeSet::new());
    let (mut relay, transport) = leased(&outbox).await;
    read_page(&mut relay).await;
    relay.submit().unwrap();
    lose_and_win(&mut relay, &outbox).await;
    read_page(&mut relay).await;
    transport.deliver_all();
    relay.take_reports().unwrap();
    assert_eq!((relay.lanes[&0].len(), relay.submitted), (3, 0));
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
    relay.submit().unwrap();
    outbox.wanted_elsewhere.store(true, Ordering::SeqCst);
    relay.renew_at = Instant::now();
    relay.keep_leases().await;
    let is_ours = || *outbox.epoch.lock().unwrap() == 0;
    relay.hand_over().await;
    assert!(is_ours(), "it is in flight");
    transport.deliver_all();
    relay.take_reports().unwrap();
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
    read_page(&mut relay).await;
    read_page(&mut relay).await;
    assert!(relay.lanes[&0].is_behind, "3 is drawn and not committed");
    outbox.rows.lock().unwrap().insert(3, "key".into());
    let answer = relay.read().unwrap().await;
    relay.ask_drawn().await;
    relay.look(answer);
    read_page(&mut relay).await;
    relay.submit().unwrap();
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
    relay.submit().unwrap();
    transport.deliver_all();
    relay.take_reports().unwrap();
    *outbox.epoch.lock().unwrap() += 1;
    relay.save(true).await;
    assert!(relay.lanes.is_empty() && outbox.settled.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_number_that_is_given_out_again_in_an_older_database_spills_its_lane() {
    let outbox = FakeOutbox::new(1..10, RangeSet::new());
    let fallback = Fallback::open(Arc::clone(&outbox) as Arc<dyn Outbox>).await.unwrap();
    fallback.spills.settle_below(0, 10);
    let known = fallback.spills.known(0);
    outbox.rows.lock().unwrap().retain(|number, _| *number <= 3);
    outbox.life.store(2, Ordering::SeqCst);
    fallback.spill(0, Appended::new(3), known).await.unwrap();
    assert!(fallback.spills.is_spilled(0));
}
