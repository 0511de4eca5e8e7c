//! What an operator does, on any outbox and a topic in memory.

use std::sync::Arc;
use std::time::Duration;

use tidings::admin::{Actor, Admin, DeadRecord, Fault, REPLAY_HEADER, Replay, RowFilter, RowState};
use tidings::testing::MemoryTransport;
use tidings::transport::Record;
use tidings::wire::Headers;
use tidings::{Config, Emitter, ErrorKind, OutboxMode, PolicyOverride, Producer, SqliteOutbox};

use super::events::{EVENT, Sequence, catalog, stored_at, topic};
use super::murmur2::{lane_of, neighbour_of, stranger_to};
use super::relaying::RunningRelay;
use super::waiting::{eventually, until};

const LANES: u32 = 32;
const KEY: &str = "tenant-1";

pub(crate) struct Stage {
    pub(crate) producer: Producer,
    pub(crate) transport: Arc<MemoryTransport>,
    pub(crate) admin: Admin,
    /// What is there as long as the stage is.
    _world: Box<dyn std::any::Any + Send + Sync>,
}

pub(crate) fn actor() -> Actor {
    Actor::new("ana", "INC-1").unwrap()
}

impl Stage {
    pub(crate) async fn of(
        outbox: impl tidings::outbox::Outbox,
        admin: Admin,
        world: impl std::any::Any + Send + Sync,
    ) -> Self {
        let settings = [
            ("STREAMING_ENABLED", "true"),
            ("STREAMING_BROKERS", "none:1"),
            ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
            ("STREAMING_TOPIC_PREFIX", "shop"),
        ];
        let transport = Arc::new(MemoryTransport::default());
        let builder = Producer::builder(Config::from_vars(settings).unwrap(), catalog()).with_outbox(outbox);
        let producer = builder.with_transport(Arc::clone(&transport) as _).build().await.unwrap();
        Self { producer, transport, admin, _world: Box::new(world) }
    }

    pub(crate) async fn on_sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let outbox = SqliteOutbox::open(folder.path().join("shop.sqlite"));
        outbox.migrate().await.unwrap();
        let admin = Admin::of(&outbox);
        Self::of(outbox, admin, folder).await
    }

    /// Stores the next so many events of the key, and yields the number of the first.
    pub(crate) async fn store(&self, sequence: &mut Sequence, count: usize) -> i64 {
        let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
        let requests = sequence.take(count).iter().map(|event| event.request().policy(always)).collect();
        let receipts = self.producer.emit_batch(requests).await;
        stored_at(receipts[0].as_ref().unwrap()).1
    }

    /// Waits until nothing waits.
    pub(crate) async fn drained(&self) {
        eventually("the outbox is drained", async || {
            (self.admin.depth().await.unwrap().total.waiting.events == 0).then_some(())
        })
        .await;
    }

    /// Relays all that is there.
    pub(crate) async fn relay_all(&self) {
        let relay = RunningRelay::of(&self.producer);
        self.drained().await;
        relay.stop().await;
    }

    fn records_of(&self, topic: &str, key: &str) -> Vec<Record> {
        let mut records = self.transport.records();
        records.retain(|record| &*record.topic == topic && record.key == key.as_bytes());
        records
    }

    /// The numbers of the events of a key that have arrived on this topic, in order.
    fn numbers_on(&self, topic: &str, key: &str) -> Vec<u64> {
        let number = |record: &Record| {
            let payload: serde_json::Value = serde_json::from_slice(record.payload.as_deref().unwrap()).unwrap();
            payload["number"].as_u64().unwrap()
        };
        self.records_of(topic, key).iter().map(number).collect()
    }

    fn numbers_of(&self, key: &str) -> Vec<u64> {
        self.numbers_on(&topic("shop"), key)
    }

    async fn arrived(&self, key: &str, numbers: &[u64]) {
        until("they have arrived", || self.numbers_of(key).len() >= numbers.len()).await;
        assert_eq!(self.numbers_of(key), numbers);
    }

    /// Waits until the key is parked for this number.
    async fn parked(&self, key: &str, head: i64) -> tidings::admin::ParkedKey {
        eventually("the key is parked", async || {
            let parked = self.admin.parked(10, None).await.unwrap();
            parked.into_iter().find(|parked| parked.key == key && parked.head == head)
        })
        .await
    }

    /// What was done, the first first.
    pub(crate) async fn actions(&self) -> Vec<String> {
        let mut audit = self.admin.audit(1_000, None).await.unwrap();
        audit.reverse();
        for entry in &audit {
            assert_eq!((&*entry.who, &*entry.why), ("ana", "INC-1"));
            assert!((chrono::Utc::now() - entry.at).num_seconds().abs() < 60, "{entry:?}");
            assert!(serde_json::from_str::<serde_json::Value>(&entry.detail).unwrap().is_object());
        }
        audit.into_iter().map(|entry| entry.action).collect()
    }

    async fn last_detail(&self) -> serde_json::Value {
        serde_json::from_str(&self.admin.audit(1, None).await.unwrap()[0].detail).unwrap()
    }
}

/// Depth and rows say what waits, and since when; then that it is settled.
pub(crate) async fn depth_and_rows_follow_the_relay(stage: Stage) {
    let (mut key, mut other) = (Sequence::of(KEY), Sequence::of(stranger_to(KEY, LANES)));
    let first = stage.store(&mut key, 3).await;
    stage.store(&mut other, 2).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let depth = stage.admin.depth().await.unwrap();
    assert_eq!((depth.total.waiting.events, depth.total.held.events, depth.lanes.len()), (5, 0, 32));
    let lane = &depth.lanes[usize::from(lane_of(KEY, LANES))];
    assert_eq!((lane.undelivered.waiting.events, lane.paused), (3, false));
    let oldest = lane.undelivered.waiting.oldest.unwrap();
    assert!((Duration::from_millis(20)..Duration::from_secs(60)).contains(&oldest), "{oldest:?}");
    assert_eq!(depth.definitions.len(), 1);
    assert_eq!((&*depth.definitions[0].definition_key, depth.definitions[0].undelivered.waiting.events), (EVENT, 5));

    let of_key = RowFilter::default().with_key(KEY);
    let rows = stage.admin.rows(&of_key, 2, None).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), [first, first + 1]);
    assert!(rows.iter().all(|row| row.state == RowState::Waiting && row.key == KEY && row.definition_key == EVENT));
    let more = stage.admin.rows(&of_key, 10, Some((rows[1].lane, rows[1].sequence))).await.unwrap();
    assert_eq!(more.iter().map(|row| row.sequence).collect::<Vec<_>>(), [first + 2]);
    let all = stage.admin.rows(&RowFilter::default(), 100, None).await.unwrap();
    assert_eq!(all.len(), 5);
    for (filter, count) in [
        (RowFilter::default().with_id(&*rows[1].event_id), 1),
        (RowFilter::default().with_definition(EVENT), 5),
        (RowFilter::default().with_definition("other"), 0),
        (RowFilter::default().with_from(rows[0].created_at).with_key(KEY), 3),
        (RowFilter::default().with_until(rows[0].created_at).with_key(KEY), 0),
        (RowFilter::default().with_from(chrono::Utc::now() + chrono::TimeDelta::hours(1)), 0),
    ] {
        assert_eq!(stage.admin.rows(&filter, 100, None).await.unwrap().len(), count, "{filter:?}");
    }
    let full = stage.admin.row(rows[1].lane, rows[1].sequence).await.unwrap().unwrap();
    assert_eq!(full.row, rows[1]);
    assert_eq!(full.record.headers.get("ce_id").unwrap(), rows[1].event_id.as_bytes());
    assert_eq!(full.record.payload.unwrap().len() as u64, rows[1].payload_bytes.unwrap());
    assert!(stage.admin.row(rows[1].lane, 999).await.unwrap().is_none());
    assert_eq!(stage.admin.row(99, 1).await.unwrap_err().kind(), ErrorKind::InvalidRequest);

    stage.relay_all().await;
    assert_eq!(stage.admin.depth().await.unwrap().total, tidings::admin::Undelivered::default());
    let rows = stage.admin.rows(&RowFilter::default(), 100, None).await.unwrap();
    assert!(rows.iter().all(|row| row.state == RowState::Settled));
    assert!(stage.actions().await.is_empty(), "who looks changes nothing");
}

/// A parked key is resumed, its head skipped or dead-lettered, while a relay runs; the others follow in order.
pub(crate) async fn commands_reach_the_relay_and_the_successors_flow_in_order(stage: Stage) {
    let (mut stuck, mut other) = (Sequence::of(KEY), Sequence::of(neighbour_of(KEY, LANES)));
    stage.transport.refuse_topic(topic("shop"));
    let first = stage.store(&mut stuck, 5).await;
    let _relay = RunningRelay::of(&stage.producer);
    let parked = stage.parked(KEY, first).await;
    assert_eq!((parked.lane, parked.held, parked.error_kind), (lane_of(KEY, LANES), 5, ErrorKind::RecordRejected));
    assert!(parked.attempts >= 1 && parked.error.contains("refuses") && parked.command.is_none(), "{parked:?}");
    let depth = stage.admin.depth().await.unwrap();
    assert_eq!((depth.total.waiting.events, depth.total.held.events), (0, 5));
    assert!(depth.total.held.oldest.is_some());
    let rows = stage.admin.rows(&RowFilter::default().with_key(KEY), 10, None).await.unwrap();
    assert!(rows.iter().all(|row| row.state == RowState::Held));

    // What moved on, or never was, is left alone, and nothing is written down.
    for (lane, key, head) in
        [(parked.lane, KEY, first + 1), (parked.lane, "nobody", first), (31 - parked.lane, KEY, first)]
    {
        let error = stage.admin.skip(lane, key, head, &actor()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MovedOn);
    }
    assert!(stage.actions().await.is_empty());

    stage.admin.skip(parked.lane, KEY, first, &actor()).await.unwrap();
    stage.parked(KEY, first + 1).await;
    assert_eq!(stage.last_detail().await, serde_json::json!({ "lane": parked.lane, "key": KEY, "head": first }));
    stage.admin.dead_letter(parked.lane, KEY, first + 1, &actor()).await.unwrap();
    let parked = stage.parked(KEY, first + 2).await;
    assert_eq!(parked.held, 3);
    let dead = stage.records_of("shop.order.changed.dlq", KEY);
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].headers.get("ce_id").unwrap(), rows[1].event_id.as_bytes());

    stage.transport.accept_all();
    stage.admin.resume(parked.lane, KEY, first + 2, &actor()).await.unwrap();
    stage.arrived(KEY, &[3, 4, 5]).await;
    stage.drained().await;
    eventually("the key is free", async || stage.admin.parked(10, None).await.unwrap().is_empty().then_some(())).await;
    stage.store(&mut stuck, 1).await;
    stage.store(&mut other, 1).await;
    stage.arrived(KEY, &[3, 4, 5, 6]).await;
    assert_eq!(stage.actions().await, ["skip", "dead_letter", "resume"]);

    // The dead letter is redriven: it comes behind, as it was.
    let whole = DeadRecord::new(dead[0].key.clone(), dead[0].headers.clone(), dead[0].payload.clone());
    let mut cut = dead[0].headers.clone();
    cut.push("x-tidings-dlq-payload-omitted", b"true");
    cut.push("x-tidings-dlq-payload-bytes", b"9");
    let letters =
        [DeadRecord::new(KEY, cut, None), whole.with_definition(EVENT), DeadRecord::new(KEY, Headers::default(), None)];
    let redriven = stage.admin.redrive(&letters, &actor()).await.unwrap();
    assert_eq!(redriven.events, 1);
    let refused: Vec<_> = redriven.refused.iter().map(|(index, error)| (*index, error.kind())).collect();
    assert_eq!(refused, [(0, ErrorKind::InvalidEvent), (2, ErrorKind::InvalidEvent)]);
    stage.arrived(KEY, &[3, 4, 5, 6, 2]).await;
    let revived = stage.records_of(&topic("shop"), KEY).pop().unwrap();
    assert_eq!(revived.headers.get("ce_id"), dead[0].headers.get("ce_id"));
    assert!(revived.headers.iter().all(|(name, _)| !name.starts_with("x-tidings-")));
    assert_eq!(stage.last_detail().await["ids"], serde_json::json!([rows[1].event_id]));

    // Nothing to append, nothing to write down.
    stage.drained().await;
    let count = stage.actions().await.len();
    assert_eq!(stage.admin.redrive(&letters[..1], &actor()).await.unwrap().events, 0);
    assert_eq!(stage.actions().await.len(), count);
}

/// Paused lanes wait, the others don't; then they flow in order.
pub(crate) async fn a_paused_lane_waits_until_it_is_resumed(stage: Stage) {
    let (mut key, mut other) = (Sequence::of(KEY), Sequence::of(stranger_to(KEY, LANES)));
    let lane = lane_of(KEY, LANES);
    stage.store(&mut key, 2).await;
    assert_eq!(stage.admin.pause_lanes(Some(lane), &actor()).await.unwrap(), [lane]);
    assert_eq!(stage.last_detail().await, serde_json::json!({ "lanes": [lane] }));
    assert_eq!(stage.admin.pause_lanes(Some(lane), &actor()).await.unwrap(), [0; 0]);
    let error = stage.admin.pause_lanes(Some(32), &actor()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(stage.actions().await, ["pause_lanes"], "the other two changed nothing");
    assert!(stage.admin.depth().await.unwrap().lanes[usize::from(lane)].paused);

    let _relay = RunningRelay::of(&stage.producer);
    stage.store(&mut other, 1).await;
    stage.arrived(&stranger_to(KEY, LANES), &[1]).await;
    assert_eq!(stage.numbers_of(KEY), [0; 0]);
    assert_eq!(stage.admin.resume_lanes(Some(lane), &actor()).await.unwrap(), [lane]);
    stage.arrived(KEY, &[1, 2]).await;

    // All of them, under a relay that has them.
    assert_eq!(stage.admin.pause_lanes(None, &actor()).await.unwrap().len(), 32);
    // Longer than it takes until the relay looks.
    tokio::time::sleep(Duration::from_secs(4)).await;
    stage.store(&mut key, 3).await;
    stage.store(&mut other, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(stage.admin.depth().await.unwrap().total.waiting.events, 4);
    stage.admin.resume_lanes(None, &actor()).await.unwrap();
    stage.arrived(KEY, &[1, 2, 3, 4, 5]).await;
    stage.arrived(&stranger_to(KEY, LANES), &[1, 2]).await;
    assert_eq!(stage.actions().await, ["pause_lanes", "resume_lanes", "pause_lanes", "resume_lanes"]);
}

fn replay(id: &str, filter: RowFilter) -> Replay {
    Replay::new(id, filter).unwrap()
}

/// What is replayed comes again with its id, in order, once; to its topic or another.
pub(crate) async fn a_replay_sends_copies_of_what_was_there_when_it_began(stage: Stage) {
    let other_key = stranger_to(KEY, LANES);
    let (mut key, mut other) = (Sequence::of(KEY), Sequence::of(&*other_key));
    stage.store(&mut key, 3).await;
    stage.store(&mut other, 2).await;
    stage.relay_all().await;
    // It waits: for its own topic it comes anyway.
    stage.store(&mut key, 1).await;

    let of_key = replay("of-key", RowFilter::default().with_key(KEY));
    let done = stage.admin.replay(&of_key, &actor()).await.unwrap();
    assert_eq!((done.events, &*done.gone), (3, &[][..]));
    assert_eq!(stage.actions().await, ["replay", "replay_page", "replay_end"]);
    assert_eq!(stage.admin.replay(&of_key, &actor()).await.unwrap().events, 0, "it has ended");
    assert_eq!(stage.actions().await.len(), 3);
    let error = stage.admin.replay(&replay("of-key", RowFilter::default()), &actor()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    let error = stage.admin.replay(&replay("x", RowFilter::default()).with_topic("a b"), &actor()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest);
    assert_eq!(stage.actions().await.len(), 3);
    stage.relay_all().await;
    stage.arrived(KEY, &[1, 2, 3, 4, 1, 2, 3]).await;
    let records = stage.records_of(&topic("shop"), KEY);
    for (original, copy) in records[..3].iter().zip(&records[4..]) {
        assert_eq!(copy.payload, original.payload);
        assert!(original.headers.get(REPLAY_HEADER).is_none());
        let headers: Vec<_> = copy.headers.iter().collect();
        let expected: Vec<_> = original.headers.iter().chain([(REPLAY_HEADER, &b"of-key"[..])]).collect();
        assert_eq!(headers, expected);
    }

    // Replays are not replayed, unless that is asked for.
    let all = stage.admin.replay(&replay("all", RowFilter::default()), &actor()).await.unwrap();
    assert_eq!(all.events, 6);
    stage.relay_all().await;
    let all = replay("with-replays", RowFilter::default().with_key(&*other_key)).with_replays(true);
    assert_eq!(stage.admin.replay(&all, &actor()).await.unwrap().events, 4);
    let copy = RowFilter::default().with_key(&*other_key);
    let rows = stage.admin.rows(&copy, 100, None).await.unwrap();
    let last = stage.admin.row(rows[7].lane, rows[7].sequence).await.unwrap().unwrap();
    let marks = last.record.headers.iter().filter(|(name, _)| *name == REPLAY_HEADER).map(|(_, id)| id.to_vec());
    assert_eq!(marks.collect::<Vec<_>>(), [b"with-replays"], "the last one says it");

    // For another topic, what waits goes too.
    let elsewhere = replay("elsewhere", RowFilter::default().with_key(KEY)).with_topic("rebuilt");
    stage.store(&mut key, 1).await;
    assert_eq!(stage.admin.replay(&elsewhere, &actor()).await.unwrap().events, 5);
    stage.relay_all().await;
    assert_eq!(stage.numbers_on("rebuilt", KEY), [1, 2, 3, 4, 5]);
    assert!(stage.admin.verify().await.unwrap().is_sound());
    // Several rows of one id: the verifier counts them.
    assert!(seen(&stage, RowFilter::default(), |_| true).await.is_empty());
}

/// A replay that was broken off goes on where it was; two at a time append nothing twice.
pub(crate) async fn a_replay_goes_on_where_it_was_broken_off(stage: Stage) {
    const EVENTS: usize = 1_700;
    let mut key = Sequence::of(KEY);
    stage.store(&mut key, EVENTS).await;
    stage.relay_all().await;
    let request = replay("r", RowFilter::default()).with_topic("rebuilt");
    let first_page = eventually("the first page is appended", async || {
        stage.actions().await.contains(&"replay_page".to_owned()).then_some(())
    });
    let actor = actor();
    tokio::select! {
        biased;
        () = first_page => {}
        done = stage.admin.replay(&request, &actor) => panic!("it came to its end: {done:?}"),
    }
    // What comes after its beginning is not of it.
    stage.store(&mut key, 10).await;
    stage.relay_all().await;
    let ends = tokio::join!(stage.admin.replay(&request, &actor), stage.admin.replay(&request, &actor));
    for error in [ends.0, ends.1].into_iter().filter_map(Result::err) {
        assert!([ErrorKind::StorageRejected, ErrorKind::StorageConflict].contains(&error.kind()), "{error:?}");
    }
    stage.admin.replay(&request, &actor).await.unwrap();
    stage.relay_all().await;
    assert_eq!(stage.numbers_on("rebuilt", KEY), (1..=EVENTS as u64).collect::<Vec<_>>());
    let actions = stage.actions().await;
    assert_eq!(actions.iter().filter(|action| *action == "replay_page").count(), 4);
    assert_eq!(actions.last().unwrap(), "replay_end");
}

/// What a verifier finds that is shown these records.
async fn seen(stage: &Stage, filter: RowFilter, shown: impl Fn(&Record) -> bool) -> Vec<(Fault, u64)> {
    let mut verifier = stage.admin.verifier(&filter).await.unwrap();
    for record in stage.transport.records().iter().filter(|record| shown(record)) {
        let id = std::str::from_utf8(record.headers.get("ce_id").unwrap()).unwrap();
        match record.topic.strip_suffix(".dlq") {
            Some(topic) => verifier.see_dead(topic, id),
            None => verifier.see(&record.topic, 0, id),
        }
    }
    verifier.finish().findings.iter().map(|finding| (finding.fault, finding.count)).collect()
}

/// A verifier that is shown the topic tells what is lost or double.
pub(crate) async fn a_verifier_compares_the_log_with_the_topic(stage: Stage) {
    let (mut key, mut other) = (Sequence::of(KEY), Sequence::of(neighbour_of(KEY, LANES)));
    stage.store(&mut key, 4).await;
    stage.store(&mut other, 4).await;
    stage.relay_all().await;
    stage.store(&mut key, 1).await;
    assert_eq!(seen(&stage, RowFilter::default(), |_| true).await, [], "what waits is not expected");
    assert_eq!(seen(&stage, RowFilter::default(), |record| record.key != KEY).await, [(Fault::Lost, 4)]);
    let of_other = RowFilter::default().with_key(neighbour_of(KEY, LANES));
    assert_eq!(seen(&stage, of_other, |record| record.key != KEY).await, []);
}
