//! What an append costs beside a bare INSERT.
//!
//! Ours is begin, `emit_in` of one event, commit: the library checks the event, draws its id, renders its headers and
//! inserts it. Bare is begin, one INSERT of a row that the library has written before, commit: the same columns, values,
//! indexes and driver, in a table that is not partitioned, its number by a sequence as default.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use tidings::{EmitRequest, EmitterExt, Producer};
use tokio::time::Instant;

use crate::support::report::Report;
use crate::world::{Services, World};
use crate::{Plan, events};

const CLIENTS: [usize; 2] = [1, 16];

pub(crate) async fn run(services: &Services, plan: &Plan, report: &mut Report) {
    let world = World::open(services).await;
    let (producer, pool) = (world.producer().await, world.pool(16).await);
    let payload = Bytes::from(events::payload(0));
    emit(Arc::clone(&producer), pool.clone(), 0, payload.clone()).await;
    let bare = Arc::new(Bare::new(&pool).await);
    for round in 0..plan.append_rounds {
        for clients in CLIENTS {
            let (mut ours, mut theirs) = (0.0, 0.0);
            // Whoever comes first finds the caches as the other has left them: they take turns.
            for turn in [round % 2, (round + 1) % 2] {
                if turn == 0 {
                    let call = |client| emit(Arc::clone(&producer), pool.clone(), client, payload.clone());
                    ours = per_second(plan.append_time, clients, call).await;
                } else {
                    let call = |_| insert(Arc::clone(&bare), pool.clone());
                    theirs = per_second(plan.append_time, clients, call).await;
                }
            }
            report.add(&format!("append_ratio_{clients}"), ours / theirs);
            report.add(&format!("append_per_second_{clients}"), ours);
            report.add(&format!("append_bare_per_second_{clients}"), theirs);
        }
    }
    report.print("append_");
    pool.close().await;
    world.close().await;
}

/// Calls a second, with so many clients each of which makes one after the other.
async fn per_second<F: Future<Output = ()> + Send>(
    time: Duration,
    clients: usize,
    call: impl Fn(usize) -> F + Send + Sync,
) -> f64 {
    let start = Instant::now();
    let client = |client| {
        let call = &call;
        async move {
            let mut calls = 0_u32;
            while start.elapsed() < time {
                call(client).await;
                calls += 1;
            }
            calls
        }
    };
    // In one task: the database's processes are what keeps the cores busy.
    let calls: u32 = join_all((0..clients).map(client)).await.into_iter().sum();
    f64::from(calls) / start.elapsed().as_secs_f64()
}

async fn emit(producer: Arc<Producer>, pool: PgPool, client: usize, payload: Bytes) {
    let request = EmitRequest::new("order.created").tenant(events::key(client)).subject("order-17").payload(payload);
    let mut tx = pool.begin().await.expect("the database answers");
    producer.emit_in(&mut tx, request).await.expect("the outbox takes every event");
    tx.commit().await.expect("the database answers");
}

async fn insert(bare: Arc<Bare>, pool: PgPool) {
    let mut tx = pool.begin().await.expect("the database answers");
    let mut insert = sqlx::query(&bare.insert);
    for value in &bare.values {
        insert = match value {
            Value::Small(value) => insert.bind(value),
            Value::Text(value) => insert.bind(value),
            Value::Bytes(value) => insert.bind(value),
        };
    }
    insert.execute(&mut *tx).await.expect("the table takes every row");
    tx.commit().await.expect("the database answers");
}

/// A plain table with the columns and indexes of the log, and a row for it.
#[derive(Debug)]
struct Bare {
    insert: String,
    values: Vec<Value>,
}

#[derive(Debug)]
enum Value {
    Small(Option<i16>),
    Bytes(Option<Vec<u8>>),
    Text(Option<String>),
}

impl Bare {
    /// Made of the first row of the log, whatever columns that has.
    async fn new(pool: &PgPool) -> Self {
        let make = "create schema bare;
                    create table bare.outbox (like tidings.outbox including defaults including indexes);
                    create sequence bare.seq;
                    alter table bare.outbox alter column seq set default nextval('bare.seq')";
        sqlx::raw_sql(make).execute(pool).await.expect("a table can be made");
        // What has a default is left to it, in both tables.
        let columns = "select attname::text, format_type(atttypid, null) from pg_attribute
                       where attrelid = 'bare.outbox'::regclass and attnum > 0 and not atthasdef order by attnum";
        let columns: Vec<(String, String)> = sqlx::query_as(columns).fetch_all(pool).await.expect("it has columns");
        let (mut names, mut places, mut values) = (Vec::new(), Vec::new(), Vec::new());
        for (name, kind) in columns {
            let place = format!("${}", names.len() + 1);
            let cast = if matches!(&*kind, "smallint" | "bytea") { "" } else { "::text" };
            let select = format!("select {name}{cast} from tidings.outbox limit 1");
            let row: PgRow = sqlx::query(&select).fetch_one(pool).await.expect("the library has written a row");
            values.push(match &*kind {
                "smallint" => Value::Small(row.get(0)),
                "bytea" => Value::Bytes(row.get(0)),
                _ => Value::Text(row.get(0)),
            });
            places.push(if matches!(&*kind, "smallint" | "bytea" | "text") {
                place
            } else {
                format!("{place}::text::{kind}")
            });
            names.push(name);
        }
        let insert = format!("insert into bare.outbox ({}) values ({})", names.join(", "), places.join(", "));
        Self { insert, values }
    }
}
