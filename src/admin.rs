//! What an operator does to an outbox: looks how much is in it, decides what becomes of parked keys, pauses lanes, replays
//! and checks.
//!
//! Nothing here talks to a relay: what is changed is in the database, and the relay that owns the lane finds it there when it
//! next extends its leases, within some three seconds. Every change writes down, in its own transaction, who has made it and
//! why ([`Actor`]); [`Admin::audit`] reads it.
//!
//! # Examples
//!
//! ```
//! use tidings::admin::{Actor, Admin};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
//! outbox.migrate().await?;
//! let admin = Admin::of(&outbox);
//! assert_eq!(admin.depth().await?.total.waiting.events, 0);
//! for key in admin.parked(100, None).await? {
//!     admin.skip(key.lane, &key.key, key.head, &Actor::new("ana", "INC-1234: a test order")?).await?;
//! }
//! admin.pause_lanes(Some(3), &Actor::new("ana", "INC-1235: its consumers drown")?).await?;
//! assert_eq!(admin.audit(10, None).await?[0].action, "pause_lanes");
//! # Ok(()) }
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{EventId, attribute};
use crate::outbox::{Command, Lanes, Row, envelope, lane};
use crate::transport::Record;
use crate::wire::{DeadLetter, Headers, decode};

mod model;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod verifier;

pub use model::{
    Actor, AuditEntry, Backlog, DeadRecord, DefinitionDepth, Depth, Fault, Finding, FullRow, Gone, LaneDepth, LogRow,
    ParkedKey, Place, Redriven, Replay, Replayed, RowFilter, RowState, Undelivered, Verification,
};
pub use verifier::Verifier;

use store::{Change, Depths, Head, Scan, Scanned, Store};

/// The header of a row that was replayed: the id of the replay.
pub const REPLAY_HEADER: &str = "tidings-replay";

/// How many rows a replay reads and appends in one transaction.
const REPLAY_ROWS: u32 = 500;
/// The same in bytes of headers and payloads.
const REPLAY_BYTES: i64 = 8 << 20;
/// How many rows are read at a time without headers and payloads.
const LIGHT_ROWS: u32 = 5_000;

/// What an operator does to an outbox.
///
/// # Cancel safety
///
/// Of all that changes something: dropped while it runs, the change may or may not be made, and what is written down of it is
/// there exactly if it is.
#[derive(Debug, Clone)]
pub struct Admin {
    store: Arc<dyn Store>,
}

#[cfg(feature = "postgres")]
impl From<&crate::PostgresOutbox> for Admin {
    fn from(outbox: &crate::PostgresOutbox) -> Self {
        Self { store: Arc::new(outbox.clone()) }
    }
}

#[cfg(feature = "sqlite")]
impl From<&crate::SqliteOutbox> for Admin {
    fn from(outbox: &crate::SqliteOutbox) -> Self {
        Self { store: Arc::new(outbox.clone()) }
    }
}

impl Admin {
    /// The operator of this outbox: a `&PostgresOutbox` or a `&SqliteOutbox`.
    pub fn of(outbox: impl Into<Self>) -> Self {
        outbox.into()
    }

    /// How much is not delivered, and how old it is, as of one moment. What is settled is not read, so the history costs
    /// nothing; what waits is counted row by row.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn depth(&self) -> Result<Depth> {
        Ok(sum(self.store.depth().await?))
    }

    /// The parked keys, in order of lane and key, up to `limit`, behind this one.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn parked(&self, limit: u32, after: Option<(u16, &str)>) -> Result<Vec<ParkedKey>> {
        self.store.parked_keys(limit, after).await
    }

    /// Has the first event of a parked key tried again now. It is `head` as [`parked`](Self::parked) says, or nothing
    /// happens. In a lane that is paused, or has no relay, the command waits.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::MovedOn`] if that is not the first event of the key any more, [`ErrorKind::Storage`] if the database
    /// fails.
    pub async fn resume(&self, lane: u16, key: &str, head: i64, actor: &Actor) -> Result<()> {
        self.command(Head { lane, key, number: head }, Command::Resume, actor).await
    }

    /// Leaves the first event of a parked key out for good, and lets the others follow. It stays in the log. See
    /// [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume).
    pub async fn skip(&self, lane: u16, key: &str, head: i64, actor: &Actor) -> Result<()> {
        self.command(Head { lane, key, number: head }, Command::Skip, actor).await
    }

    /// Sends the first event of a parked key to its dead-letter topic, and lets the others follow. If that fails too, the key
    /// stays parked. See [`resume`](Self::resume).
    ///
    /// # Errors
    ///
    /// As [`resume`](Self::resume).
    pub async fn dead_letter(&self, lane: u16, key: &str, head: i64, actor: &Actor) -> Result<()> {
        self.command(Head { lane, key, number: head }, Command::DeadLetter, actor).await
    }

    async fn command(&self, head: Head<'_>, command: Command, actor: &Actor) -> Result<()> {
        let detail = json!({ "lane": head.lane, "key": head.key, "head": head.number });
        let change = Change { actor, action: command.as_str(), detail: detail.to_string() };
        self.store.command(head, command, change).await?.map_err(|first| {
            let now = match first {
                None => "it has none any more".to_owned(),
                Some(first) if first == head.number => "it is on its way now".to_owned(),
                Some(first) => format!("now it is {first}"),
            };
            let Head { lane, key, number } = head;
            let message = format!("{number} is not the event that the key `{key}` of lane {lane} is parked for: {now}");
            Error::new(ErrorKind::MovedOn, message)
        })
    }

    /// Pauses one lane, or all: their relays finish what is in flight, and nobody takes them over. Events are appended as
    /// ever. Yields the lanes that were not paused before.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] if there is no such lane, [`ErrorKind::Storage`] if the database fails.
    pub async fn pause_lanes(&self, lane: Option<u16>, actor: &Actor) -> Result<Vec<u16>> {
        self.set_paused(lane, true, actor).await
    }

    /// Ends [`pause_lanes`](Self::pause_lanes). Yields the lanes that were paused.
    ///
    /// # Errors
    ///
    /// As [`pause_lanes`](Self::pause_lanes).
    pub async fn resume_lanes(&self, lane: Option<u16>, actor: &Actor) -> Result<Vec<u16>> {
        self.set_paused(lane, false, actor).await
    }

    async fn set_paused(&self, lane: Option<u16>, paused: bool, actor: &Actor) -> Result<Vec<u16>> {
        let lanes = self.store.lanes().await?.count();
        if let Some(lane) = lane.filter(|lane| *lane >= lanes) {
            let message = format!("there is no lane {lane}: they are numbered from 0 to {}", lanes.saturating_sub(1));
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        self.store.set_paused(lane, paused, actor).await
    }

    /// How many lanes the log has, those that are in use no more too.
    async fn logged_lanes(&self) -> Result<u16> {
        Ok(u16::try_from(self.store.heads().await?.len()).unwrap_or(Lanes::MAX))
    }

    async fn lanes_of(&self, filter: &RowFilter) -> Result<std::ops::Range<u16>> {
        Ok(lanes_of(filter, self.store.lanes().await?, self.logged_lanes().await?))
    }

    /// The rows of the log that the filter lets through, in order of lane and number, up to `limit`, behind this one.
    ///
    /// The log is ordered by lane and number alone: with a filter the lanes are read until there are enough. One of a key
    /// reads the lane of that key.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn rows(&self, filter: &RowFilter, limit: u32, after: Option<(u16, i64)>) -> Result<Vec<LogRow>> {
        let mut rows: Vec<LogRow> = Vec::new();
        let (first, number) = after.unwrap_or_default();
        for lane in self.lanes_of(filter).await?.filter(|lane| *lane >= first) {
            let left = limit.saturating_sub(u32::try_from(rows.len()).unwrap_or(u32::MAX));
            if left == 0 {
                break;
            }
            let low = if lane == first { number.saturating_add(1) } else { 1 };
            let scan = Scan { lane, low, high: i64::MAX, filter, rows: left, bytes: i64::MAX, whole: false };
            rows.extend(self.store.scan(scan).await?.into_iter().map(|scanned| scanned.row));
        }
        Ok(rows)
    }

    /// A row of the log, with its headers and payload. None, if there is no such row.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Schema`] if it can't be read, [`ErrorKind::InvalidRequest`] if there is no such lane,
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn row(&self, lane: u16, sequence: i64) -> Result<Option<FullRow>> {
        if lane >= self.logged_lanes().await? {
            return Err(Error::new(ErrorKind::InvalidRequest, format!("there is no lane {lane}")));
        }
        let filter = &RowFilter::default();
        let scan = Scan { lane, low: sequence, high: sequence, filter, rows: 1, bytes: i64::MAX, whole: true };
        self.store.scan(scan).await?.pop().map(full).transpose()
    }

    /// Appends rows of the log once more: the same event ids, keys and payloads, the same headers, and [`REPLAY_HEADER`]
    /// behind them. A relay sends them like any others.
    ///
    /// It covers the rows that were there when it began, and not the events that went to their topic directly: those never
    /// were in the log. For its own topic, a row that waits or is held is left out: it comes anyway. Rows that are replays
    /// themselves are left out unless [asked for](Replay::with_replays). Rows go in order of lane and number, 500 in a
    /// transaction: each key keeps its order, unless the number of lanes was changed in between. What its limits allow is not
    /// checked again: a row that has become too large by the header parks its key.
    ///
    /// Asked for again with the same id, it goes on behind the last page that was appended; one that has ended does nothing.
    /// Rows that were dropped since they were delivered can't be replayed; [`Replayed::gone`] says where that may be so.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidRequest`] if the topic is not one, or a replay of this id was begun with another filter or topic;
    /// [`ErrorKind::Schema`] if a row can't be read; [`ErrorKind::StorageRejected`] if somebody else runs it at the same time;
    /// [`ErrorKind::Storage`] if the database fails. Pages before that are appended; ask again to go on.
    ///
    /// # Cancel safety
    ///
    /// As with an error: pages that were appended stay.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::admin::{Actor, Admin, Replay, RowFilter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
    /// # outbox.migrate().await?;
    /// let since = chrono::Utc::now() - chrono::TimeDelta::hours(2);
    /// let replay = Replay::new("INC-1236", RowFilter::default().with_from(since).with_definition("order.created"))?;
    /// let done = Admin::of(&outbox).replay(&replay, &Actor::new("ana", "INC-1236: billing lost two hours")?).await?;
    /// println!("{} events again; not all was there: {:?}", done.events, done.gone);
    /// # Ok(()) }
    /// ```
    pub async fn replay(&self, replay: &Replay, actor: &Actor) -> Result<Replayed> {
        if let Some(topic) = &replay.topic {
            check_topic(topic)?;
        }
        let lanes = self.store.lanes().await?;
        let (lasts, mut lane, mut after) = self.begin_replay(replay, actor, lanes).await?;
        let logged = u16::try_from(lasts.len()).unwrap_or(u16::MAX);
        let of_filter = lanes_of(&replay.filter, lanes, logged);
        let mut replayed = Replayed::default();
        let written_down = |detail: serde_json::Value, action| Change { actor, action, detail: detail.to_string() };
        while lane < of_filter.end.min(logged) {
            let scan = Scan {
                lane,
                low: after + 1,
                high: lasts[usize::from(lane)],
                filter: &replay.filter,
                rows: REPLAY_ROWS,
                bytes: REPLAY_BYTES,
                whole: true,
            };
            let page = self.store.scan(scan).await?;
            let Some(to) = page.last().map(|scanned| scanned.row.sequence) else {
                // What was dropped meanwhile counts as well.
                replayed.gone.extend(self.gone(lane, lasts[usize::from(lane)], &replay.filter).await?);
                (lane, after) = (lane + 1, 0);
                continue;
            };
            let rows = page.into_iter().map(|scanned| again(full(scanned)?, replay, lanes));
            let rows: Vec<_> = rows.filter_map(Result::transpose).collect::<Result<_>>()?;
            if !rows.is_empty() {
                let detail = json!({ "replay": replay.id, "lane": lane, "after": after, "to": to, "rows": rows.len() });
                self.store.append_audited(lanes, &rows, written_down(detail, "replay_page")).await?;
                replayed.events += u64::try_from(rows.len()).unwrap_or_default();
                // Relays elsewhere find them without it, a little later.
                let _ = self.store.wake().await;
            }
            after = to;
        }
        if lane < u16::MAX {
            let detail = json!({ "replay": replay.id, "lane": u16::MAX, "to": 0 });
            self.store.append_audited(lanes, &[], written_down(detail, "replay_end")).await?;
        }
        Ok(replayed)
    }

    /// The last number of each lane when the replay began, and the lane and number behind which it goes on.
    async fn begin_replay(&self, replay: &Replay, actor: &Actor, lanes: Lanes) -> Result<(Vec<i64>, u16, i64)> {
        let start =
            |lasts: &[i64]| lanes_of(&replay.filter, lanes, u16::try_from(lasts.len()).unwrap_or(u16::MAX)).start;
        let mut detail = replay.detail();
        let Some((first, last)) = self.store.replay(&replay.id).await? else {
            let lasts: Vec<_> = self.store.heads().await?.into_iter().map(|head| head.last).collect();
            detail["lasts"] = json!(lasts);
            let change = Change { actor, action: "replay", detail: detail.to_string() };
            self.store.append_audited(lanes, &[], change).await?;
            let start = start(&lasts);
            return Ok((lasts, start, 0));
        };
        let unreadable =
            |source| Error::new(ErrorKind::Schema, "what was written down of the replay").with_source(source);
        let first: serde_json::Value = serde_json::from_str(&first).map_err(unreadable)?;
        let last: serde_json::Value = serde_json::from_str(&last).map_err(unreadable)?;
        detail["lasts"] = first["lasts"].clone();
        if detail != first {
            let message = format!("the replay `{}` was begun as {first}: it can't go on as another", replay.id);
            return Err(Error::new(ErrorKind::InvalidRequest, message));
        }
        let lasts: Vec<i64> = serde_json::from_value(detail["lasts"].take()).map_err(unreadable)?;
        let lane = last["lane"].as_u64().and_then(|lane| u16::try_from(lane).ok());
        let place = lane.map(|lane| (lane, last["to"].as_i64().unwrap_or_default()));
        let (lane, after) = place.unwrap_or((start(&lasts), 0));
        Ok((lasts, lane, after))
    }

    /// Whether rows that a filter may have let through are not there any more.
    async fn gone(&self, lane: u16, last: i64, filter: &RowFilter) -> Result<Option<Gone>> {
        let all = &RowFilter::default();
        let scan = Scan { lane, low: 1, high: i64::MAX, filter: all, rows: 1, bytes: i64::MAX, whole: false };
        let first = self.store.scan(scan).await?.pop().map(|scanned| scanned.row);
        let (below, oldest) = first.map_or((last + 1, None), |row| (row.sequence, Some(row.created_at)));
        let reaches = oldest.zip(filter.from).is_some_and(|(oldest, from)| oldest < from);
        Ok((below > 1 && !reaches).then_some(Gone { lane, below, oldest }))
    }

    /// Compares the log with what is written down of its progress, as of one moment. What is settled is not read: that a
    /// settled event is on its topic, once and in order, only the topic can tell ([`verifier`](Self::verifier)).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::admin::Admin;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
    /// # outbox.migrate().await?;
    /// for finding in Admin::of(&outbox).verify().await?.findings {
    ///     println!("{:?} in {} places, such as {:?}", finding.fault, finding.count, finding.first.first());
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn verify(&self) -> Result<Verification> {
        self.store.verify().await
    }

    /// Reads which rows that the filter lets through are settled, to be held against what is on their topics. The topics
    /// have to be read after this, each from before the oldest of those rows to its end. It reads the log page by page, and
    /// keeps the ids and keys of the rows in memory, some 300 bytes each.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::admin::{Admin, Fault, RowFilter};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
    /// # outbox.migrate().await?;
    /// # let records: [(&str, i32, &str); 0] = [];
    /// let mut verifier = Admin::of(&outbox).verifier(&RowFilter::default()).await?;
    /// for (topic, partition, event_id) in records {
    ///     verifier.see(topic, partition, event_id);
    /// }
    /// assert!(verifier.finish().finding(Fault::Lost).is_none());
    /// # Ok(()) }
    /// ```
    pub async fn verifier(&self, filter: &RowFilter) -> Result<Verifier> {
        let mut verifier = Verifier::default();
        for lane in self.lanes_of(filter).await? {
            let mut low = 1;
            loop {
                let (rows, bytes) = (LIGHT_ROWS, i64::MAX);
                let scan = Scan { lane, low, high: i64::MAX, filter, rows, bytes, whole: false };
                let page = self.store.scan(scan).await?;
                let Some(last) = page.last() else { break };
                low = last.row.sequence + 1;
                let settled = page.into_iter().map(|scanned| scanned.row).filter(|row| row.state == RowState::Settled);
                settled.for_each(|row| verifier.expect(row));
            }
        }
        Ok(verifier)
    }

    /// Appends dead letters for the topics that they were meant for, in this order, without the headers of the dead letter, in
    /// one transaction: pass some hundreds at a time. Those that can't be appended are left out, and named.
    ///
    /// What of its key was delivered meanwhile has overtaken an event that was dead: it comes behind. A letter that is
    /// redriven twice is on its topic twice, with one `ce_id`; nothing is remembered but what is [written down](Self::audit).
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails. Of a letter that is left out: [`ErrorKind::InvalidEvent`] if it is no
    /// dead letter, or not whole since its payload had to be left out, or its key is empty or not text.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::admin::{Actor, Admin, DeadRecord};
    /// use tidings::wire::Headers;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let outbox = tidings::SqliteOutbox::open(folder.path().join("shop.sqlite"));
    /// # outbox.migrate().await?;
    /// let mut headers = Headers::default(); // of a record of `shop.order.changed.dlq`
    /// for (name, value) in [
    ///     ("ce_specversion", "1.0"),
    ///     ("ce_id", "0197c2de-0000-7000-8000-000000000001"),
    ///     ("ce_source", "//shop/orders"),
    ///     ("ce_type", "order.changed"),
    ///     ("x-tidings-dlq-source-topic", "shop.order.changed"),
    ///     ("x-tidings-dlq-error-class", "too_large"),
    ///     ("x-tidings-dlq-error-message", "larger than the topic takes"),
    ///     ("x-tidings-dlq-retry-count", "2"),
    ///     ("x-tidings-dlq-first-failure-at", "2026-03-01T08:20:30Z"),
    ///     ("x-tidings-dlq-producer-id", "018f6b1e-7c1a-7f00-8000-000000000001"),
    /// ] {
    ///     headers.push(name, value.as_bytes());
    /// }
    /// let letters = [DeadRecord::new("tenant-1", headers, Some("{}".into())).with_definition("order.changed")];
    /// let redriven = Admin::of(&outbox).redrive(&letters, &Actor::new("ana", "INC-1237: it takes 2 MB now")?).await?;
    /// assert_eq!((redriven.events, redriven.refused.len()), (1, 0));
    /// # Ok(()) }
    /// ```
    pub async fn redrive(&self, letters: &[DeadRecord], actor: &Actor) -> Result<Redriven> {
        let lanes = self.store.lanes().await?;
        let (mut rows, mut redriven) = (Vec::new(), Redriven::default());
        for (index, letter) in letters.iter().enumerate() {
            match revive(letter, lanes) {
                Ok(row) => rows.push(row),
                Err(error) => redriven.refused.push((index, error)),
            }
        }
        if !rows.is_empty() {
            let ids: Vec<_> = rows.iter().map(|row| row.event_id.to_string()).collect();
            let detail = json!({ "rows": rows.len(), "ids": ids });
            self.store
                .append_audited(lanes, &rows, Change { actor, action: "redrive", detail: detail.to_string() })
                .await?;
            // Relays elsewhere find them without it, a little later.
            let _ = self.store.wake().await;
        }
        redriven.events = u64::try_from(rows.len()).unwrap_or_default();
        Ok(redriven)
    }

    /// What operators have changed, the last change first, up to `limit`, before the one of this id.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Storage`] if the database fails.
    pub async fn audit(&self, limit: u32, before: Option<i64>) -> Result<Vec<AuditEntry>> {
        self.store.audit(limit, before).await
    }
}

impl<'a> Change<'a> {
    /// That these lanes are paused now, or resumed.
    fn of_lanes(lanes: &[u16], paused: bool, actor: &'a Actor) -> Self {
        let action = if paused { "pause_lanes" } else { "resume_lanes" };
        Self { actor, action, detail: json!({ "lanes": lanes }).to_string() }
    }
}

impl Replay {
    /// What is written down of it.
    fn detail(&self) -> serde_json::Value {
        let RowFilter { from, until, key, id, definition } = &self.filter;
        let time = |time: &Option<DateTime<Utc>>| time.map(|time| time.to_rfc3339());
        json!({
            "replay": self.id, "topic": self.topic, "replays": self.replays, "from": time(from), "until": time(until),
            "key": key, "id": id, "definition": definition,
        })
    }
}

/// The lanes that have what the filter lets through, of so many that are in the log. A key that was in another lane, before
/// the number of lanes was changed, may be in any.
fn lanes_of(filter: &RowFilter, lanes: Lanes, logged: u16) -> std::ops::Range<u16> {
    match &filter.key {
        Some(key) if !lanes.were_changed() => {
            let lane = lane::of_key(key.as_bytes(), lanes.count());
            lane..lane + 1
        }
        _ => 0..logged,
    }
}

/// The parts, lane by lane and definition by definition.
fn sum(Depths { lanes, parts }: Depths) -> Depth {
    let mut total = Undelivered::default();
    let mut of_lanes: BTreeMap<u16, Undelivered> = BTreeMap::new();
    let mut definitions: BTreeMap<String, Undelivered> = BTreeMap::new();
    for part in parts {
        let backlog = Backlog { events: part.events, oldest: Some(part.age) };
        let sums =
            [&mut total, of_lanes.entry(part.lane).or_default(), definitions.entry(part.definition_key).or_default()];
        for sum in sums {
            if part.held { &mut sum.held } else { &mut sum.waiting }.add(backlog);
        }
    }
    let of_lane =
        |(lane, paused)| LaneDepth { lane, paused, undelivered: of_lanes.get(&lane).copied().unwrap_or_default() };
    let definition = |(definition_key, undelivered)| DefinitionDepth { definition_key, undelivered };
    Depth {
        lanes: lanes.into_iter().map(of_lane).collect(),
        definitions: definitions.into_iter().map(definition).collect(),
        total,
    }
}

fn full(scanned: Scanned) -> Result<FullRow> {
    let Scanned { row, version, headers, payload } = scanned;
    let record = envelope::decode(version, &row.topic, row.key.clone().into(), headers, payload)?;
    Ok(FullRow { row, record })
}

/// The row that is appended for this one, if one is.
fn again(FullRow { row, record }: FullRow, replay: &Replay, lanes: Lanes) -> Result<Option<Row>> {
    let topic = replay.topic.as_deref().unwrap_or(&record.topic);
    let comes_anyway = row.state != RowState::Settled && *topic == *record.topic;
    if comes_anyway || (!replay.replays && record.headers.get(REPLAY_HEADER).is_some()) {
        return Ok(None);
    }
    let mut headers = Headers::default();
    for (name, value) in record.headers.iter().filter(|(name, _)| *name != REPLAY_HEADER) {
        headers.push(name, value);
    }
    headers.push(REPLAY_HEADER, replay.id.as_bytes());
    Ok(Some(Row {
        lane: lane::of_key(&record.key, lanes.count()),
        event_id: row.event_id.parse()?,
        definition_key: row.definition_key.into(),
        record: Record { topic: topic.into(), headers, ..record },
    }))
}

/// The row of an event that was dead.
pub(crate) fn revive(dead: &DeadRecord, lanes: Lanes) -> Result<Row> {
    let fault = |why: &str| Error::new(ErrorKind::InvalidEvent, format!("the dead letter {why}"));
    let letter = DeadLetter::read(dead.headers.iter(), &dead.prefix)?;
    if letter.omitted_payload_bytes.is_some() {
        return Err(fault("has no payload: it was left out for its size"));
    }
    // What one letter has that no database takes must not fail the others beside it.
    let key =
        std::str::from_utf8(&dead.key).map_err(|source| fault("has a key that is not text").with_source(source))?;
    attribute::check("record key", key, attribute::MAX_SOURCE_BYTES, ErrorKind::InvalidEvent)?;
    check_topic(&letter.source_topic).map_err(|source| fault("names a source that is no topic").with_source(source))?;
    let mut headers = Headers::default();
    for (name, value) in dead.headers.iter().filter(|(name, _)| !name.starts_with(&dead.prefix)) {
        headers.push(name, value);
    }
    let event = decode(headers.iter(), dead.payload.as_deref())?;
    let definition_key = dead.definition_key.clone().unwrap_or(event.event_type);
    attribute::check("type", &definition_key, attribute::MAX_TYPE_BYTES, ErrorKind::InvalidEvent)?;
    Ok(Row {
        lane: lane::of_key(&dead.key, lanes.count()),
        event_id: event.id.parse::<EventId>()?,
        definition_key: definition_key.into(),
        record: Record {
            topic: letter.source_topic.into(),
            key: dead.key.clone(),
            headers,
            payload: dead.payload.clone(),
        },
    })
}

fn check_topic(topic: &str) -> Result<()> {
    crate::naming::check_topic(topic).map_err(|error| {
        Error::new(ErrorKind::InvalidRequest, format!("`{topic}` can't be the name of a topic")).with_source(error)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::store::DepthPart;
    use super::*;

    fn part(lane: u16, definition: &str, held: bool, events: u64, age: u64) -> DepthPart {
        let age = Duration::from_secs(age);
        DepthPart { lane, definition_key: definition.into(), held, events, age }
    }

    #[test]
    fn who_changes_something_and_why_is_a_line_that_every_database_takes() {
        let long = "x".repeat(1_001);
        for (who, why, field) in [
            (" ", "why", "who"),
            ("ana", "\n", "why"),
            ("a\0na", "why", "who"),
            ("ana", "a\u{1b}[2J", "why"),
            (&long, "why", "who"),
        ] {
            let error = Actor::new(who, why).unwrap_err();
            assert!(
                error.kind() == ErrorKind::InvalidRequest && error.to_string().contains(&format!("`{field}`")),
                "{error}"
            );
        }
        assert_eq!(Actor::new("ana", "INC-1\n").unwrap(), Actor::new("ana", "INC-1").unwrap());
    }

    #[test]
    fn what_is_held_is_counted_apart_and_the_oldest_is_the_oldest_of_all() {
        let parts = vec![part(1, "b", false, 2, 5), part(1, "a", false, 1, 9), part(0, "a", true, 4, 60)];
        let depth = sum(Depths { lanes: vec![(0, false), (1, true), (2, false)], parts });
        let backlog = |events, age| Backlog { events, oldest: Some(Duration::from_secs(age)) };
        assert_eq!(depth.total, Undelivered { waiting: backlog(3, 9), held: backlog(4, 60) });
        let of_lanes: Vec<_> = depth.lanes.iter().map(|lane| (lane.lane, lane.paused, lane.undelivered)).collect();
        let held = Undelivered { held: backlog(4, 60), ..Undelivered::default() };
        let waiting = Undelivered { waiting: backlog(3, 9), ..Undelivered::default() };
        assert_eq!(of_lanes, [(0, false, held), (1, true, waiting), (2, false, Undelivered::default())]);
        let keys: Vec<_> = depth.definitions.iter().map(|depth| &*depth.definition_key).collect();
        assert_eq!(keys, ["a", "b"]);
        assert_eq!(depth.definitions[0].undelivered, Undelivered { waiting: backlog(1, 9), held: backlog(4, 60) });
    }

    #[test]
    fn nobody_changes_anything_without_a_name_and_a_reason() {
        for (who, why) in [("", "why"), ("who", ""), (" ", "why"), ("who", "\t")] {
            assert_eq!(Actor::new(who, why).unwrap_err().kind(), ErrorKind::InvalidRequest);
        }
        assert!(Actor::new("who", "why").is_ok());
    }

    /// Of an event of this type.
    fn dead_headers(event_type: &str) -> Headers {
        let mut headers = Headers::default();
        for (name, value) in
            [("ce_specversion", "1.0"), ("ce_id", "e-1"), ("ce_source", "//s"), ("ce_type", event_type)]
        {
            headers.push(name, value.as_bytes());
        }
        for (name, value) in [
            ("source-topic", "shop.order"),
            ("error-class", "too_large"),
            ("error-message", "no"),
            ("retry-count", "0"),
            ("first-failure-at", "2026-03-01T08:20:30Z"),
            ("producer-id", "p"),
        ] {
            headers.push_prefixed("x-dlq-", name, value.as_bytes());
        }
        headers
    }

    /// PostgreSQL has no text with a NUL, and the one letter would fail all that are redriven with it.
    #[test]
    fn a_dead_letter_that_a_database_would_not_take_is_refused_alone() {
        let lanes = Lanes::new(32, 0).unwrap();
        let long = "k".repeat(2049);
        let letter = |key: &str, event_type: &str| {
            DeadRecord::new(key.to_owned(), dead_headers(event_type), None).with_prefix("x-dlq-")
        };
        assert!(revive(&letter("k", "t"), lanes).is_ok());
        for (key, event_type) in [("a\0b", "t"), ("", "t"), (&*long, "t"), ("k", "a\0b"), ("k", &"t".repeat(3000))] {
            let error = revive(&letter(key, event_type), lanes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidEvent, "{key:?} {event_type:?}");
        }
        assert!(revive(&letter("k", "t").with_definition("a\0b"), lanes).is_err());
    }

    #[test]
    fn a_dead_letter_without_its_payload_is_not_revived() {
        let mut headers = dead_headers("t");
        let letter = |headers: &Headers| DeadRecord::new("k", headers.clone(), None).with_prefix("x-dlq-");
        let lanes = Lanes::new(32, 0).unwrap();
        let row = revive(&letter(&headers), lanes).unwrap();
        assert_eq!(
            (row.event_id.to_string(), &*row.definition_key, &*row.record.topic),
            ("e-1".into(), "t", "shop.order")
        );
        assert_eq!(row.record.headers.count(), 4);
        assert!(revive(&DeadRecord { key: "".into(), ..letter(&headers) }, lanes).is_err());
        headers.push_prefixed("x-dlq-", "payload-omitted", b"true");
        headers.push_prefixed("x-dlq-", "payload-bytes", b"9");
        assert_eq!(revive(&letter(&headers), lanes).unwrap_err().kind(), ErrorKind::InvalidEvent);
    }
}
