//! What an operator asks of a SQLite outbox.

use rangemap::RangeSet;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, Sqlite, SqliteConnection, Transaction};

use super::model::{Actor, AuditEntry, Fault, LogRow, ParkedKey, Place, RowState, Verification};
use super::store::{Change, DepthPart, Depths, Head, Scan, Scanned, Store, age, count, time_of_millis};
use crate::BoxFuture;
use crate::error::{ErrorKind, Result};
use crate::outbox::failure::failed;
use crate::outbox::sqlite::{SqliteOutbox, append, set_of};
use crate::outbox::{Command, Lanes, Row, time_of};

const LANES: &str = "
    select lane, paused, published,
           (select coalesce(max(seq), 0) from tidings_outbox o where o.lane = l.lane) as last
    from tidings_lane l order by lane";

const DEPTH_OF_HOLE: &str = "
    select ?1 as lane, false as held, definition_key, count(*) as events,
           max(unixepoch('subsec') - min(created_at) / 1000.0, 0.0) as age
    from tidings_outbox where lane = ?1 and seq >= ?2 and seq < ?3 group by definition_key";

const DEPTH_OF_HELD: &str = "
    select h.lane, true as held, o.definition_key, count(*) as events,
           max(unixepoch('subsec') - min(o.created_at) / 1000.0, 0.0) as age
    from tidings_held h join tidings_outbox o on o.lane = h.lane and o.seq = h.seq
    group by h.lane, o.definition_key";

const PARKED: &str = "
    select lane, record_key, head, error_kind, error, attempts, command, first_failure_at, next_attempt_at,
           (select count(*) from tidings_held h where h.lane = p.lane and h.record_key = p.record_key) as held
    from tidings_parked p
    where ?1 is null or (lane, record_key) > (?1, ?2)
    order by lane, record_key limit ?3";

/// See the PostgreSQL outbox.
const COMMAND: &str = "
    update tidings_parked as p set command = ?4
    where lane = ?1 and record_key = ?2 and head = ?3
      and head = (select min(seq) from tidings_held h where h.lane = p.lane and h.record_key = p.record_key)";

const SCAN: &str = "
    select * from (
      select o.lane, o.seq, o.created_at, o.event_id, o.definition_key, o.topic, o.record_key, o.envelope_version,
             length(o.headers) as header_bytes, length(o.payload) as payload_bytes,
             case when ?8 then o.headers end as headers, case when ?8 then o.payload end as payload,
             exists (select 1 from tidings_held h where h.lane = o.lane and h.seq = o.seq) as held,
             sum(length(o.headers) + coalesce(length(o.payload), 0)) over (order by o.seq) - length(o.headers)
             - coalesce(length(o.payload), 0) as before
      from (
        select * from tidings_outbox
        where lane = ?1 and seq >= ?2 and seq <= ?3
          and (?4 is null or created_at >= ?4) and (?5 is null or created_at < ?5)
          and (?6 is null or record_key = ?6) and (?7 is null or event_id = ?7)
          and (?9 is null or definition_key = ?9)
        order by seq limit ?10) o)
    where before < ?11 order by seq";

const REPLAY: &str = "
    select detail from tidings_audit where id in (
      select min(id) from tidings_audit where detail ->> 'replay' = ?1
      union all
      select max(id) from tidings_audit where detail ->> 'replay' = ?1) order by id";

const PASSED: &str = "select lane, seq, record_key from tidings_outbox where lane = ? and seq >= ? and seq < ?";

/// Each yields lane, number and key of the places where something is wrong.
const FAULTS: [(Fault, &str); 3] = [
    (
        Fault::HeldWithoutRow,
        "select h.lane, h.seq, h.record_key from tidings_held h
         where not exists (select 1 from tidings_outbox o where o.lane = h.lane and o.seq = h.seq)",
    ),
    (
        Fault::HeldWithoutParked,
        "select h.lane, h.seq, h.record_key from tidings_held h
         where not exists (select 1 from tidings_parked p where p.lane = h.lane and p.record_key = h.record_key)",
    ),
    (
        Fault::ParkedWithoutHeld,
        "select p.lane, p.head as seq, p.record_key from tidings_parked p
         where not exists (select 1 from tidings_held h where h.lane = p.lane and h.record_key = p.record_key)",
    ),
];

/// A lane as it is.
struct Lane {
    lane: u16,
    paused: bool,
    published: RangeSet<i64>,
    last: i64,
}

impl Lane {
    /// The highest number that is settled.
    fn highest(&self) -> i64 {
        self.published.last().map_or(0, |range| range.end - 1)
    }
}

async fn lanes(connection: &mut SqliteConnection) -> sqlx::Result<Vec<Lane>> {
    let rows = sqlx::query(LANES).fetch_all(connection).await?;
    let lane = |row: &SqliteRow| {
        Ok(Lane {
            lane: row.try_get("lane")?,
            paused: row.try_get("paused")?,
            published: set_of(row, "published")?,
            last: row.try_get("last")?,
        })
    };
    rows.iter().map(lane).collect()
}

async fn write_down(connection: &mut SqliteConnection, change: &Change<'_>) -> sqlx::Result<()> {
    sqlx::query("insert into tidings_audit (who, why, action, detail) values (?, ?, ?, ?)")
        .bind(&change.actor.who)
        .bind(&change.actor.why)
        .bind(change.action)
        .bind(&change.detail)
        .execute(connection)
        .await
        .map(drop)
}

impl SqliteOutbox {
    async fn begin_to_write(&self) -> sqlx::Result<Transaction<'static, Sqlite>> {
        self.pool().begin_with("begin immediate").await
    }
}

impl Store for SqliteOutbox {
    fn depth(&self) -> BoxFuture<'_, Result<Depths>> {
        Box::pin(async {
            let read = async {
                let mut tx = self.pool().begin().await?;
                let lanes = lanes(&mut tx).await?;
                let mut rows = sqlx::query(DEPTH_OF_HELD).fetch_all(&mut *tx).await?;
                for lane in &lanes {
                    for hole in lane.published.gaps(&(1..i64::MAX)) {
                        let statement = sqlx::query(DEPTH_OF_HOLE).bind(lane.lane).bind(hole.start).bind(hole.end);
                        rows.extend(statement.fetch_all(&mut *tx).await?);
                    }
                }
                Ok(Depths {
                    lanes: lanes.iter().map(|lane| (lane.lane, lane.paused)).collect(),
                    parts: rows.iter().map(depth_part).collect::<sqlx::Result<_>>()?,
                })
            };
            read.await.map_err(failed("reading what is not delivered"))
        })
    }

    fn parked_keys<'a>(&'a self, limit: u32, after: Option<(u16, &'a str)>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let rows = sqlx::query(PARKED)
                .bind(after.map(|(lane, _)| lane))
                .bind(after.map(|(_, key)| key))
                .bind(limit)
                .fetch_all(self.pool())
                .await;
            rows.and_then(|rows| rows.iter().map(parked_key).collect()).map_err(failed("reading the parked keys"))
        })
    }

    fn command<'a>(
        &'a self,
        head: Head<'a>,
        command: Command,
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Result<(), Option<i64>>>> {
        Box::pin(async move {
            let write = async {
                let mut tx = self.begin_to_write().await?;
                let written = sqlx::query(COMMAND)
                    .bind(head.lane)
                    .bind(head.key)
                    .bind(head.number)
                    .bind(command.as_str())
                    .execute(&mut *tx)
                    .await?;
                if written.rows_affected() == 0 {
                    let first =
                        sqlx::query_scalar("select min(seq) from tidings_held where lane = ? and record_key = ?")
                            .bind(head.lane)
                            .bind(head.key)
                            .fetch_one(&mut *tx)
                            .await?;
                    return Ok(Err(first));
                }
                write_down(&mut tx, &change).await?;
                tx.commit().await?;
                Ok(Ok(()))
            };
            write.await.map_err(failed("commanding a relay"))
        })
    }

    fn set_paused<'a>(&'a self, lane: Option<u16>, paused: bool, actor: &'a Actor) -> BoxFuture<'a, Result<Vec<u16>>> {
        Box::pin(async move {
            let write = async {
                let mut tx = self.begin_to_write().await?;
                let mut lanes: Vec<u16> = sqlx::query_scalar(
                    "update tidings_lane set paused = ?1 where paused <> ?1 and (?2 is null or lane = ?2) returning lane",
                )
                .bind(paused)
                .bind(lane)
                .fetch_all(&mut *tx)
                .await?;
                lanes.sort_unstable();
                if !lanes.is_empty() {
                    write_down(&mut tx, &Change::of_lanes(&lanes, paused, actor)).await?;
                }
                tx.commit().await?;
                Ok(lanes)
            };
            write.await.map_err(failed("pausing or resuming lanes"))
        })
    }

    fn scan<'a>(&'a self, scan: Scan<'a>) -> BoxFuture<'a, Result<Vec<Scanned>>> {
        Box::pin(async move {
            let read = async {
                let mut tx = self.pool().begin().await?;
                let lane = sqlx::query("select published from tidings_lane where lane = ?")
                    .bind(scan.lane)
                    .fetch_one(&mut *tx)
                    .await?;
                let published = set_of(&lane, "published")?;
                let rows = sqlx::query(SCAN)
                    .bind(scan.lane)
                    .bind(scan.low)
                    .bind(scan.high)
                    .bind(scan.filter.from.map(|time| time.timestamp_millis()))
                    .bind(scan.filter.until.map(|time| time.timestamp_millis()))
                    .bind(scan.filter.key.as_deref())
                    .bind(scan.filter.id.as_deref())
                    .bind(scan.whole)
                    .bind(scan.filter.definition.as_deref())
                    .bind(scan.rows)
                    .bind(scan.bytes)
                    .fetch_all(&mut *tx)
                    .await?;
                rows.iter().map(|row| scanned(row, &published)).collect::<sqlx::Result<_>>()
            };
            read.await.map_err(failed("reading the log"))
        })
    }

    fn append_audited<'a>(&'a self, _: Lanes, rows: &'a [Row], change: Change<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let write = async {
                let mut tx = self.begin_to_write().await?;
                append(&mut tx, rows).await?;
                write_down(&mut tx, &change).await?;
                tx.commit().await
            };
            write.await.map_err(failed("appending to the log"))
        })
    }

    fn verify(&self) -> BoxFuture<'_, Result<Verification>> {
        Box::pin(async {
            let read = async {
                let mut tx = self.pool().begin().await?;
                let lanes = lanes(&mut tx).await?;
                let (mut found, mut passed) = (Verification::default(), Vec::new());
                for lane in &lanes {
                    for hole in lane.published.gaps(&(1..lane.highest().max(1))) {
                        let statement = sqlx::query(PASSED).bind(lane.lane).bind(hole.start).bind(hole.end);
                        passed.extend(places(&statement.fetch_all(&mut *tx).await?)?);
                    }
                }
                found.add(Fault::Passed, passed);
                for (fault, select) in FAULTS {
                    found.add(fault, places(&sqlx::query(select).fetch_all(&mut *tx).await?)?);
                }
                let held = sqlx::query("select lane, seq, record_key from tidings_held").fetch_all(&mut *tx).await?;
                let mut unsettled = places(&held)?;
                unsettled.retain(|place| {
                    let mut lanes = lanes.iter().filter(|lane| lane.lane == place.lane);
                    !lanes.any(|lane| lane.published.contains(&place.sequence))
                });
                found.add(Fault::HeldWithoutSettled, unsettled);
                let behind = lanes.iter().filter(|lane| lane.last < lane.highest());
                let behind = behind.map(|lane| Place { lane: lane.lane, sequence: lane.highest(), key: None });
                found.add(Fault::SequenceBehind, behind.collect());
                Ok(found)
            };
            read.await.map_err(failed("verifying the log"))
        })
    }

    fn replay<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        Box::pin(async move {
            let rows = sqlx::query_scalar(REPLAY).bind(id).fetch_all(self.pool()).await;
            rows.map(super::store::first_and_last).map_err(failed("reading how far a replay is"))
        })
    }

    fn audit(&self, limit: u32, before: Option<i64>) -> BoxFuture<'_, Result<Vec<AuditEntry>>> {
        Box::pin(async move {
            let select = "select id, at, who, why, action, detail from tidings_audit
                          where ?1 is null or id < ?1 order by id desc limit ?2";
            let rows = sqlx::query(select).bind(before).bind(limit).fetch_all(self.pool()).await;
            rows.and_then(|rows| rows.iter().map(audit_entry).collect()).map_err(failed("reading what was changed"))
        })
    }
}

fn depth_part(row: &SqliteRow) -> sqlx::Result<DepthPart> {
    Ok(DepthPart {
        lane: row.try_get("lane")?,
        definition_key: row.try_get("definition_key")?,
        held: row.try_get("held")?,
        events: count(row.try_get("events")?),
        age: age(row.try_get("age")?),
    })
}

fn parked_key(row: &SqliteRow) -> sqlx::Result<ParkedKey> {
    Ok(ParkedKey {
        lane: row.try_get("lane")?,
        key: row.try_get("record_key")?,
        head: row.try_get("head")?,
        held: count(row.try_get("held")?),
        // One of a later version is as good as any.
        error_kind: ErrorKind::named(row.try_get("error_kind")?).unwrap_or(ErrorKind::RecordRejected),
        error: row.try_get("error")?,
        attempts: row.try_get("attempts")?,
        first_failure_at: time_of(row.try_get("first_failure_at")?),
        next_attempt_at: time_of(row.try_get("next_attempt_at")?),
        command: row.try_get::<Option<&str>, _>("command")?.and_then(Command::named),
    })
}

fn scanned(row: &SqliteRow, published: &RangeSet<i64>) -> sqlx::Result<Scanned> {
    let sequence = row.try_get("seq")?;
    let state = match (row.try_get("held")?, published.contains(&sequence)) {
        (true, _) => RowState::Held,
        (false, true) => RowState::Settled,
        (false, false) => RowState::Waiting,
    };
    Ok(Scanned {
        row: LogRow {
            lane: row.try_get("lane")?,
            sequence,
            created_at: time_of_millis(row.try_get("created_at")?),
            event_id: row.try_get("event_id")?,
            definition_key: row.try_get("definition_key")?,
            topic: row.try_get("topic")?,
            key: row.try_get("record_key")?,
            header_bytes: count(row.try_get("header_bytes")?),
            payload_bytes: row.try_get::<Option<i64>, _>("payload_bytes")?.map(count),
            state,
        },
        version: row.try_get("envelope_version")?,
        headers: row.try_get::<Option<_>, _>("headers")?.unwrap_or_default(),
        payload: row.try_get("payload")?,
    })
}

fn places(rows: &[SqliteRow]) -> sqlx::Result<Vec<Place>> {
    let place = |row: &SqliteRow| {
        Ok(Place { lane: row.try_get("lane")?, sequence: row.try_get("seq")?, key: row.try_get("record_key")? })
    };
    rows.iter().map(place).collect()
}

fn audit_entry(row: &SqliteRow) -> sqlx::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.try_get("id")?,
        at: time_of_millis(row.try_get("at")?),
        who: row.try_get("who")?,
        why: row.try_get("why")?,
        action: row.try_get("action")?,
        detail: row.try_get("detail")?,
    })
}
