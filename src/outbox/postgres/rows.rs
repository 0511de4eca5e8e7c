//! What statements are given, and what their rows say.

use std::time::Duration;

use bytes::Bytes;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row as _};

use crate::error::ErrorKind;
use crate::outbox::{
    Command, Lanes, Lease, Leases, Page, Parked, Progress, Row, StoredRow, envelope, multirange, seconds_of, time_of,
};

/// The statement that appends these rows, and yields their numbers in its first column, and the life of the database.
pub(crate) fn append<'q>(statement: &'q str, lanes: Lanes, rows: &'q [Row]) -> Query<'q, Postgres, PgArguments> {
    let keys = rows.iter().map(|row| String::from_utf8_lossy(&row.record.key)).collect::<Vec<_>>();
    sqlx::query(statement)
        .bind(rows.iter().map(|row| lane_number(row.lane)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.event_id.to_string()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.definition_key).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| &*row.record.topic).collect::<Vec<_>>())
        .bind(keys)
        .bind(rows.iter().map(|row| row.record.headers.as_bytes()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.record.payload.as_deref()).collect::<Vec<_>>())
        .bind(envelope::VERSION)
        .bind(lanes.layout())
}

/// Lanes are few: PostgreSQL has no unsigned type, and a `smallint` holds them.
pub(crate) fn lane_number(lane: u16) -> i16 {
    i16::try_from(lane).unwrap_or(i16::MAX)
}

pub(super) fn lane_numbers(lanes: &[u16]) -> Vec<i16> {
    lanes.iter().map(|lane| lane_number(*lane)).collect()
}

pub(crate) fn lane_of(row: &PgRow, column: &str) -> sqlx::Result<u16> {
    u16::try_from(row.try_get::<i16, _>(column)?).map_err(|source| sqlx::Error::Decode(source.into()))
}

pub(super) fn count_of(row: &PgRow, column: &str) -> sqlx::Result<u32> {
    u32::try_from(row.try_get::<i64, _>(column)?).map_err(|source| sqlx::Error::Decode(source.into()))
}

/// The statement that writes progress down.
pub(super) fn settle<'q>(statement: &'q str, progress: &[Progress]) -> Query<'q, Postgres, PgArguments> {
    type Rows = fn(&Progress) -> &[(Bytes, i64)];
    let mut statement = sqlx::query(statement)
        .bind(progress.iter().map(|p| lane_number(p.lane)).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| p.epoch).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| multirange::to_text(&p.settled)).collect::<Vec<_>>());
    let held: [Rows; 2] = [|p| &p.held, |p| &p.unheld];
    for held in held {
        let rows = || progress.iter().flat_map(|p| held(p).iter().map(|row| (lane_number(p.lane), row)));
        statement = statement
            .bind(rows().map(|(lane, _)| lane).collect::<Vec<_>>())
            .bind(rows().map(|(_, (key, _))| text(key)).collect::<Vec<_>>())
            .bind(rows().map(|(_, (_, number))| *number).collect::<Vec<_>>());
    }
    let parked: Vec<_> =
        progress.iter().flat_map(|p| p.parked.iter().map(|parked| (lane_number(p.lane), parked))).collect();
    statement = statement
        .bind(parked.iter().map(|(lane, _)| *lane).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| text(&p.key)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.head).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.error_kind.as_str()).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.error.replace('\0', "")).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| i32::try_from(p.attempts).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| seconds_of(p.first_failure_at)).collect::<Vec<_>>())
        .bind(parked.iter().map(|(_, p)| p.retry_in.as_secs_f64()).collect::<Vec<_>>());
    let freed = || progress.iter().flat_map(|p| p.freed.iter().map(|key| (lane_number(p.lane), key)));
    let obeyed = || progress.iter().flat_map(|p| p.obeyed.iter().map(|obeyed| (lane_number(p.lane), obeyed)));
    statement
        .bind(freed().map(|(lane, _)| lane).collect::<Vec<_>>())
        .bind(freed().map(|(_, key)| text(key)).collect::<Vec<_>>())
        .bind(obeyed().map(|(lane, _)| lane).collect::<Vec<_>>())
        .bind(obeyed().map(|(_, (key, _))| text(key)).collect::<Vec<_>>())
        .bind(obeyed().map(|(_, (_, command))| command.as_str()).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| p.life).collect::<Vec<_>>())
        .bind(progress.iter().map(|p| p.save).collect::<Vec<_>>())
}

/// Record keys are text: they are made of it.
fn text(key: &Bytes) -> String {
    String::from_utf8_lossy(key).into_owned()
}

pub(super) fn leases(rows: &[PgRow]) -> sqlx::Result<Leases> {
    let mut leases = Leases::default();
    for row in rows {
        leases.life = row.try_get("life")?;
        leases.share = usize::try_from(row.try_get::<i64, _>("share")?).unwrap_or_default();
        // Without a lane there is one line that has the share alone.
        let Some(published) = row.try_get::<Option<&str>, _>("published")? else { continue };
        leases.leases.push(Lease {
            lane: lane_of(row, "lane")?,
            epoch: row.try_get("epoch")?,
            settled: multirange::from_text(published)
                .ok_or_else(|| sqlx::Error::Decode("not a set of numbers".into()))?,
            last: row.try_get("last")?,
            keep: row.try_get("keep")?,
        });
    }
    Ok(leases)
}

pub(super) fn parked(row: &PgRow) -> sqlx::Result<(u16, Parked)> {
    let first_failure_at: f64 = row.try_get("first_failure_at")?;
    let parked = Parked {
        key: row.try_get::<String, _>("record_key")?.into(),
        head: row.try_get("head")?,
        // One of a later version is as good as any.
        error_kind: ErrorKind::named(row.try_get("error_kind")?).unwrap_or(ErrorKind::RecordRejected),
        error: row.try_get("error")?,
        attempts: row.try_get::<i32, _>("attempts")?.unsigned_abs(),
        first_failure_at: time_of(first_failure_at),
        retry_in: Duration::try_from_secs_f64(row.try_get("retry_in")?).unwrap_or_default(),
        command: row.try_get::<Option<&str>, _>("command")?.and_then(Command::named),
    };
    Ok((lane_of(row, "lane")?, parked))
}

pub(super) fn page(rows: &[PgRow]) -> sqlx::Result<Page> {
    let mut page = Page { rows: Vec::with_capacity(rows.len()), horizon: 0, life: 0 };
    for row in rows {
        page.life = row.try_get("life")?;
        let horizon: &str = row.try_get("horizon")?;
        page.horizon = horizon.parse().map_err(|source: std::num::ParseIntError| sqlx::Error::Decode(source.into()))?;
        // Without a row in any hole there is one line that has the horizon alone.
        if row.try_get::<Option<i16>, _>("lane")?.is_some() {
            page.rows.push(stored_row(row)?);
        }
    }
    Ok(page)
}

pub(super) fn stored_row(row: &PgRow) -> sqlx::Result<StoredRow> {
    let key = Bytes::from(row.try_get::<String, _>("record_key")?);
    let (headers, payload): (Vec<u8>, Option<Vec<u8>>) = (row.try_get("headers")?, row.try_get("payload")?);
    Ok(StoredRow {
        lane: lane_of(row, "lane")?,
        sequence: row.try_get("seq")?,
        bytes: headers.len() + payload.as_ref().map_or(0, Vec::len),
        record: envelope::decode(
            row.try_get("envelope_version")?,
            row.try_get("topic")?,
            key.clone(),
            headers,
            payload,
        ),
        key,
    })
}
