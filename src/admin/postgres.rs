//! What an operator asks of a PostgreSQL outbox.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _};

use uuid::Uuid;

use super::model::{Actor, AuditEntry, Fault, Finding, LogRow, NAMED_PLACES, ParkedKey, Place, RowState, Verification};
use super::store::{Change, DepthPart, Depths, Head, Scan, Scanned, Store, age, count, time_of_micros};
use crate::BoxFuture;
use crate::error::{ErrorKind, Result};
use crate::event::EventId;
use crate::outbox::failure::failed;
use crate::outbox::postgres::rows::{append, lane_number, lane_of};
use crate::outbox::postgres::sql::APPEND;
use crate::outbox::postgres::{PostgresOutbox, READER_SETTINGS};
use crate::outbox::{Command, Lanes, Outbox as _, Row};

/// Those that are in use.
const LANES: &str = "select lane, paused from tidings.lane where lane < tidings.lanes() order by lane";

/// What waits is in the holes of what is settled: nothing else is read.
const DEPTH: &str = "
    select l.lane, false as held, w.definition_key, w.events,
           greatest(extract(epoch from clock_timestamp() - w.oldest), 0)::float8 as age
    from tidings.lane l
    cross join lateral unnest(int8multirange(int8range(1, null)) - l.published) as hole
    cross join lateral (
      select o.definition_key, count(*) as events, min(o.created_at) as oldest
      from tidings.outbox o
      where o.lane = l.lane and o.seq >= lower(hole) and o.seq < coalesce(upper(hole), 9223372036854775807)
      group by o.definition_key) w
    union all
    select h.lane, true, o.definition_key, count(*),
           greatest(extract(epoch from clock_timestamp() - min(o.created_at)), 0)::float8
    from tidings.held h
    cross join lateral (
      select o.definition_key, o.created_at from tidings.outbox o where o.lane = h.lane and o.seq = h.seq) o
    group by h.lane, o.definition_key";

const PARKED: &str = "
    select lane, record_key, head, error_kind, error, attempts, command,
           (extract(epoch from first_failure_at) * 1000000)::bigint as first_failure_at,
           (extract(epoch from next_attempt_at) * 1000000)::bigint as next_attempt_at,
           (select count(*) from tidings.held h where h.lane = p.lane and h.record_key = p.record_key) as held
    from tidings.parked p
    where $1::smallint is null or (lane, record_key) > ($1, $2)
    order by lane, record_key limit $3";

/// Of a key whose head is delivered or left out, `head` is still the old one until the key is free.
const COMMAND: &str = "
    update tidings.parked p set command = $4
    where lane = $1 and record_key = $2 and head = $3
      and head = (select min(seq) from tidings.held h where h.lane = p.lane and h.record_key = p.record_key)";

const FIRST_HELD: &str = "select min(seq) from tidings.held where lane = $1 and record_key = $2";

const PAUSE: &str = "
    update tidings.lane set paused = $1 where paused <> $1 and ($2::smallint is null or lane = $2) returning lane";

const SCAN: &str = "
    select * from (
      select o.lane, o.seq, (extract(epoch from o.created_at) * 1000000)::bigint as created_at, o.event_id,
             o.definition_key, o.topic, o.record_key, o.envelope_version,
             length(o.headers)::bigint as header_bytes, length(o.payload)::bigint as payload_bytes,
             case when $8 then o.headers end as headers, case when $8 then o.payload end as payload,
             l.published @> o.seq as handled,
             exists (select from tidings.held h where h.lane = o.lane and h.seq = o.seq) as held,
             sum(length(o.headers) + coalesce(length(o.payload), 0)) over (order by o.seq) - length(o.headers)
             - coalesce(length(o.payload), 0) as before
      from (
        select * from tidings.outbox
        where lane = $1 and seq >= $2 and seq <= $3
          and ($4::bigint is null or created_at >= timestamptz 'epoch' + $4 * interval '1 microsecond')
          and ($5::bigint is null or created_at < timestamptz 'epoch' + $5 * interval '1 microsecond')
          and ($6::text is null or record_key = $6)
          and ($7::text is null or event_id = $7)
          and ($9::text is null or definition_key = $9)
        order by seq limit $10) o
      join tidings.lane l on l.lane = o.lane) r
    where before < $11 order by seq";

const REPLAY: &str = "
    select detail::text from tidings.audit where id in (
      select min(id) from tidings.audit where detail ->> 'replay' = $1
      union all
      select max(id) from tidings.audit where detail ->> 'replay' = $1) order by id";

const AUDIT: &str = "
    select id, (extract(epoch from at) * 1000000)::bigint as at, who, why, action, detail::text as detail
    from tidings.audit where $1::bigint is null or id < $1 order by id desc limit $2";

/// Of these places the first, and how many there are.
macro_rules! first_of {
    ($places:literal) => {
        concat!("select *, count(*) over () as total from (", $places, ") as place order by lane, seq limit $1")
    };
}

/// Each yields lane, number and key of the places where something is wrong.
const FAULTS: [(Fault, &str); 6] = [
    (
        Fault::Passed,
        first_of!(
            "select o.lane, o.seq, o.record_key
         from tidings.lane l
         cross join lateral unnest(int8multirange(int8range(1, upper(l.published))) - l.published) as hole
         cross join lateral (
           select o.lane, o.seq, o.record_key from tidings.outbox o
           where o.lane = l.lane and o.seq >= lower(hole) and o.seq < upper(hole)) o
         where l.published <> '{}'"
        ),
    ),
    (
        Fault::HeldWithoutRow,
        first_of!(
            "select h.lane, h.seq, h.record_key from tidings.held h
         where not exists (select from tidings.outbox o where o.lane = h.lane and o.seq = h.seq)"
        ),
    ),
    (
        Fault::HeldWithoutSettled,
        first_of!(
            "select h.lane, h.seq, h.record_key from tidings.held h
         join tidings.lane l on l.lane = h.lane where not l.published @> h.seq"
        ),
    ),
    (
        Fault::HeldWithoutParked,
        first_of!(
            "select h.lane, h.seq, h.record_key from tidings.held h
         where not exists (select from tidings.parked p where p.lane = h.lane and p.record_key = h.record_key)"
        ),
    ),
    (
        Fault::ParkedWithoutHeld,
        first_of!(
            "select p.lane, p.head as seq, p.record_key from tidings.parked p
         where not exists (select from tidings.held h where h.lane = p.lane and h.record_key = p.record_key)"
        ),
    ),
    (
        Fault::SequenceBehind,
        first_of!(
            "select l.lane, upper(l.published) - 1 as seq, null::text as record_key from tidings.lane l
         where coalesce(pg_sequence_last_value(('tidings.lane_' || lane || '_seq')::regclass), 0) < upper(l.published) - 1"
        ),
    ),
];

impl PostgresOutbox {
    /// Reads in a transaction that sees one moment, and whose plans are those of the relay.
    async fn read<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> sqlx::Result<T> {
        let settings = READER_SETTINGS.iter().filter(|(setting, _)| *setting != "plan_cache_mode");
        self.transact("begin isolation level repeatable read read only", async |tx| {
            for (setting, value) in settings {
                query("select set_config($1, $2, true)").bind(setting).bind(value).execute(&mut *tx).await?;
            }
            work(tx).await
        })
        .await
    }

    async fn write<T>(&self, work: impl AsyncFnOnce(&mut PgConnection) -> sqlx::Result<T>) -> sqlx::Result<T> {
        self.transact("begin", work).await
    }

    async fn write_down(&self, connection: &mut PgConnection, change: &Change<'_>) -> sqlx::Result<()> {
        query(&self.sql("insert into tidings.audit (who, why, action, detail) values ($1, $2, $3, $4::jsonb)"))
            .bind(&change.actor.who)
            .bind(&change.actor.why)
            .bind(change.action)
            .bind(&change.detail)
            .execute(connection)
            .await
            .map(drop)
    }
}

/// Not kept by the server: behind a pooler the next one may have another session.
fn query(sql: &str) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(sql).persistent(false)
}

impl Store for PostgresOutbox {
    fn depth(&self) -> BoxFuture<'_, Result<Depths>> {
        Box::pin(async {
            let read = self.read(async |tx| {
                let lanes = query(&self.sql(LANES)).fetch_all(&mut *tx).await?;
                let parts = query(&self.sql(DEPTH)).fetch_all(&mut *tx).await?;
                Ok(Depths {
                    lanes: lanes
                        .iter()
                        .map(|row| Ok((lane_of(row, "lane")?, row.try_get("paused")?)))
                        .collect::<sqlx::Result<_>>()?,
                    parts: parts.iter().map(depth_part).collect::<sqlx::Result<_>>()?,
                })
            });
            read.await.map_err(failed("reading what is not delivered"))
        })
    }

    fn parked_keys<'a>(&'a self, limit: u32, after: Option<(u16, &'a str)>) -> BoxFuture<'a, Result<Vec<ParkedKey>>> {
        Box::pin(async move {
            let read = self.read(async |tx| {
                let rows = query(&self.sql(PARKED))
                    .bind(after.map(|(lane, _)| lane_number(lane)))
                    .bind(after.map(|(_, key)| key))
                    .bind(i64::from(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                rows.iter().map(parked_key).collect::<sqlx::Result<_>>()
            });
            read.await.map_err(failed("reading the parked keys"))
        })
    }

    fn command<'a>(
        &'a self,
        head: Head<'a>,
        command: Command,
        change: Change<'a>,
    ) -> BoxFuture<'a, Result<Result<(), Option<i64>>>> {
        Box::pin(async move {
            let write = self.write(async |tx| {
                let written = query(&self.sql(COMMAND))
                    .bind(lane_number(head.lane))
                    .bind(head.key)
                    .bind(head.number)
                    .bind(command.as_str())
                    .execute(&mut *tx)
                    .await?;
                if written.rows_affected() == 0 {
                    let first = query(&self.sql(FIRST_HELD))
                        .bind(lane_number(head.lane))
                        .bind(head.key)
                        .fetch_one(&mut *tx)
                        .await?;
                    return Ok(Err(first.try_get(0)?));
                }
                self.write_down(tx, &change).await?;
                Ok(Ok(()))
            });
            write.await.map_err(failed("commanding a relay"))
        })
    }

    fn set_paused<'a>(&'a self, lane: Option<u16>, paused: bool, actor: &'a Actor) -> BoxFuture<'a, Result<Vec<u16>>> {
        Box::pin(async move {
            let write = self.write(async |tx| {
                let sql = self.sql(PAUSE);
                let rows = query(&sql).bind(paused).bind(lane.map(lane_number)).fetch_all(&mut *tx).await?;
                let mut lanes = rows.iter().map(|row| lane_of(row, "lane")).collect::<sqlx::Result<Vec<_>>>()?;
                lanes.sort_unstable();
                if !lanes.is_empty() {
                    self.write_down(tx, &Change::of_lanes(&lanes, paused, actor)).await?;
                }
                Ok(lanes)
            });
            write.await.map_err(failed("pausing or resuming lanes"))
        })
    }

    fn scan<'a>(&'a self, scan: Scan<'a>) -> BoxFuture<'a, Result<Vec<Scanned>>> {
        Box::pin(async move {
            let read = self.read(async |tx| {
                let rows = query(&self.sql(SCAN))
                    .bind(lane_number(scan.lane))
                    .bind(scan.low)
                    .bind(scan.high)
                    .bind(scan.filter.from.map(|time| time.timestamp_micros()))
                    .bind(scan.filter.until.map(|time| time.timestamp_micros()))
                    .bind(scan.filter.key.as_deref())
                    .bind(scan.filter.id.as_deref())
                    .bind(scan.whole)
                    .bind(scan.filter.definition.as_deref())
                    .bind(i64::from(scan.rows))
                    .bind(scan.bytes)
                    .fetch_all(&mut *tx)
                    .await?;
                rows.iter().map(scanned).collect::<sqlx::Result<_>>()
            });
            read.await.map_err(failed("reading the log"))
        })
    }

    fn append_audited<'a>(&'a self, lanes: Lanes, rows: &'a [Row], change: Change<'a>) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            // It finds out whether event ids are unique.
            self.lanes().await?;
            let write = self.write(async |tx| {
                let copies;
                let rows = if self.knows_ids() {
                    copies = copies_of(rows);
                    &copies
                } else {
                    rows
                };
                append(&self.sql(APPEND), lanes, rows).persistent(false).execute(&mut *tx).await?;
                self.write_down(tx, &change).await
            });
            write.await.map_err(failed("appending to the log"))
        })
    }

    fn verify(&self) -> BoxFuture<'_, Result<Verification>> {
        Box::pin(async {
            let read = self.read(async |tx| {
                let mut found = Verification::default();
                for (fault, places) in FAULTS {
                    let rows = query(&self.sql(places)).bind(i64::from(NAMED_PLACES)).fetch_all(&mut *tx).await?;
                    if let Some(row) = rows.first() {
                        let first = rows.iter().map(place).collect::<sqlx::Result<_>>()?;
                        found.findings.push(Finding { fault, count: count(row.try_get("total")?), first });
                    }
                }
                Ok(found)
            });
            read.await.map_err(failed("verifying the log"))
        })
    }

    fn replay<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<(String, String)>>> {
        Box::pin(async move {
            let read = self.read(async |tx| {
                let rows = query(&self.sql(REPLAY)).bind(id).fetch_all(&mut *tx).await?;
                let rows = rows.iter().map(|row| row.try_get(0)).collect::<sqlx::Result<_>>()?;
                Ok(super::store::first_and_last(rows))
            });
            read.await.map_err(failed("reading how far a replay is"))
        })
    }

    fn audit(&self, limit: u32, before: Option<i64>) -> BoxFuture<'_, Result<Vec<AuditEntry>>> {
        Box::pin(async move {
            let read = self.read(async |tx| {
                let sql = self.sql(AUDIT);
                let rows = query(&sql).bind(before).bind(i64::from(limit)).fetch_all(&mut *tx).await?;
                rows.iter().map(audit_entry).collect::<sqlx::Result<_>>()
            });
            read.await.map_err(failed("reading what was changed"))
        })
    }
}

/// The rows with ids of their own in the log, where the unique index would refuse those of the rows that they are copies of. In
/// their headers the id stays what it was.
fn copies_of(rows: &[Row]) -> Vec<Row> {
    let copy = |row: &Row| {
        let id = format!("{}#{}", row.event_id, Uuid::now_v7()).parse().unwrap_or_else(|_| EventId::new());
        Row { event_id: id, ..row.clone() }
    };
    rows.iter().map(copy).collect()
}

fn depth_part(row: &PgRow) -> sqlx::Result<DepthPart> {
    Ok(DepthPart {
        lane: lane_of(row, "lane")?,
        definition_key: row.try_get("definition_key")?,
        held: row.try_get("held")?,
        events: count(row.try_get("events")?),
        age: age(row.try_get("age")?),
    })
}

fn parked_key(row: &PgRow) -> sqlx::Result<ParkedKey> {
    Ok(ParkedKey {
        lane: lane_of(row, "lane")?,
        key: row.try_get("record_key")?,
        head: row.try_get("head")?,
        held: count(row.try_get("held")?),
        // One of a later version is as good as any.
        error_kind: ErrorKind::named(row.try_get("error_kind")?).unwrap_or(ErrorKind::RecordRejected),
        error: row.try_get("error")?,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        first_failure_at: time_of_micros(row.try_get("first_failure_at")?),
        next_attempt_at: time_of_micros(row.try_get("next_attempt_at")?),
        command: row.try_get::<Option<&str>, _>("command")?.and_then(Command::named),
    })
}

fn scanned(row: &PgRow) -> sqlx::Result<Scanned> {
    let state = match (row.try_get("held")?, row.try_get("handled")?) {
        (true, _) => RowState::Held,
        (false, true) => RowState::Settled,
        (false, false) => RowState::Waiting,
    };
    Ok(Scanned {
        row: LogRow {
            lane: lane_of(row, "lane")?,
            sequence: row.try_get("seq")?,
            created_at: time_of_micros(row.try_get("created_at")?),
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

fn place(row: &PgRow) -> sqlx::Result<Place> {
    Ok(Place { lane: lane_of(row, "lane")?, sequence: row.try_get("seq")?, key: row.try_get("record_key")? })
}

fn audit_entry(row: &PgRow) -> sqlx::Result<AuditEntry> {
    Ok(AuditEntry {
        id: row.try_get("id")?,
        at: time_of_micros(row.try_get("at")?),
        who: row.try_get("who")?,
        why: row.try_get("why")?,
        action: row.try_get("action")?,
        detail: row.try_get("detail")?,
    })
}
