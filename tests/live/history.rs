//! A log with ten million delivered events and five thousand gaps: no statement may read what is delivered.

use serde_json::Value;
use sqlx::{PgPool, raw_sql};
use tidings::{Emitter, OutboxMode, PolicyOverride};

use crate::private::{Private, shared_brokers};
use crate::support::events::{Ledger, Sequence};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{LANES, World, world};

/// Of each lane.
const ROWS: u32 = 10_000_000 / LANES;
/// Every so manieth number of a lane was drawn and never committed.
const GAP_EVERY: u32 = 1_990;

/// Fills the log of the last week, in two sessions.
async fn fill(pool: &PgPool) {
    let half = async |odd: u32| {
        let insert = format!(
            "insert into tidings.outbox (lane, seq, slot, created_at, event_id, definition_key, topic, record_key, headers,
               payload, envelope_version)
             select lane, seq, day % 8, timestamptz 'epoch' + day * interval '1 day', seq::text, 'order.changed', 't',
                    'k' || seq % 1000, '', '', 1
             from generate_series({odd}, {LANES} - 1, 2) lane, generate_series(1, {ROWS}) seq,
                  lateral (select extract(epoch from clock_timestamp())::bigint / 86400 - 6 + seq * 6 / {ROWS} as day) d
             where seq % {GAP_EVERY} <> 0"
        );
        raw_sql(&insert).execute(pool).await.unwrap();
    };
    tokio::join!(half(0), half(1));
    raw_sql(&format!(
        "select setval('tidings.lane_' || lane || '_seq', {ROWS}) from tidings.lane;
         update tidings.lane set published = (
           select range_agg(int8range({GAP_EVERY} * k + 1, least({GAP_EVERY} * (k + 1), {ROWS} + 1)))
           from generate_series(0, {ROWS} / {GAP_EVERY}) k)"
    ))
    .execute(pool)
    .await
    .unwrap();
}

/// The plans that were written to the server's log, with what became of them.
fn plans(log: &str) -> Vec<Value> {
    let mut plans = Vec::new();
    let mut lines = log.lines().peekable();
    while let Some(line) = lines.next() {
        if line.ends_with("plan:") {
            let mut json = String::new();
            // What belongs to a message begins with a tab.
            while let Some(line) = lines.next_if(|line| line.starts_with('\t')) {
                json.push_str(line);
            }
            let json = json.replace('\t', " ");
            plans.push(serde_json::from_str(&json).unwrap_or_else(|error| panic!("{error}: {line}\n{json}")));
        }
    }
    plans
}

/// The tables of the log that a plan has read without an index, but for a look whether there is any row.
fn scans(plan: &Value) -> Vec<&str> {
    let text = |name: &str| plan[name].as_str().unwrap_or_default();
    let rows = ["Actual Rows", "Rows Removed by Filter"].map(|name| plan[name].as_f64().unwrap_or_default());
    let is_scan = text("Node Type").contains("Seq Scan") && rows.iter().sum::<f64>() > 1.0;
    let own = (is_scan && text("Relation Name").starts_with("outbox_")).then(|| text("Relation Name"));
    let children = plan["Plans"].as_array().into_iter().flatten();
    own.into_iter().chain(children.flat_map(scans)).collect()
}

/// How many rows of the log were ever read. Sessions tell of it when they have been idle for a second, or end.
async fn rows_read(pool: &PgPool) -> i64 {
    let select =
        "select sum(seq_tup_read + idx_tup_fetch)::bigint from pg_stat_user_tables where relname like 'outbox_%'";
    sqlx::query_scalar(select).fetch_one(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_statement_reads_what_is_delivered_though_there_are_millions_and_thousands_of_gaps() {
    const KEYS: u32 = 200;
    const EACH: u32 = 10;
    let _services = world!();
    let postgres = Private::postgres().await;
    let world = World::on(shared_brokers(), postgres.database_url()).await;
    world.outbox().migrate().await.unwrap();
    let pool = world.pool();
    fill(&pool).await;
    let settled: i64 = ROWS.into();
    let before = rows_read(&pool).await;
    // It may have drawn any of the numbers that are missing.
    let mut open = pool.begin().await.unwrap();
    sqlx::query("select tidings.append('t', 'k', '{}', '', 'open')").execute(&mut *open).await.unwrap();

    let database = world.options().get_database().unwrap().to_owned();
    // All at once: a session that begins in between would write plans of another format.
    let settings = [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_nested_statements = on",
        "auto_explain.log_format = json",
    ];
    raw_sql(&settings.map(|setting| format!("alter database {database} set {setting};")).concat())
        .execute(&pool)
        .await
        .unwrap();
    let producer = world.producer().await;
    let relay = RunningRelay::of(&producer);
    let (ledger, always) = (Ledger::default(), PolicyOverride::default().with_outbox(OutboxMode::Always));
    let mut sequences: Vec<_> = (0..KEYS).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    for _ in 0..EACH {
        let events: Vec<_> = sequences.iter_mut().map(Sequence::next).collect();
        let requests = events.iter().map(|event| event.request().policy(always)).collect();
        assert!(producer.emit_batch(requests).await.iter().all(Result::is_ok));
        ledger.accept_all(events);
    }
    world.verdict(&ledger).await.assert_kept();
    open.rollback().await.unwrap();
    eventually("all gaps are closed", async || {
        let select = "select bool_and(published = int8multirange(int8range(1, upper(published)))) from tidings.lane";
        sqlx::query_scalar(select).fetch_one(&pool).await.unwrap_or(false).then_some(())
    })
    .await;
    relay.stop().await;
    // Another session than those of the pool, which do not write plans down.
    let own = world.pool();
    let mut dropped = 0;
    // A table that is being vacuumed waits for the next time.
    eventually("of the six days those are dropped that are old enough", async || {
        let select = "select tidings.drop_delivered('3 days')";
        dropped += sqlx::query_scalar::<_, i32>(select).fetch_one(&own).await.unwrap();
        (dropped >= 3).then_some(())
    })
    .await;
    own.close().await;
    producer.close().await.unwrap();
    drop(producer);
    let events = i64::from(KEYS * EACH);
    let read = eventually("the sessions tell what they have read", async || {
        let read = rows_read(&pool).await - before;
        (read >= events).then_some(read)
    })
    .await;
    let left: i64 = sqlx::query_scalar("select min(seq) from tidings.outbox").fetch_one(&pool).await.unwrap();
    assert!(left > settled / 4);

    let log = std::fs::read_to_string(postgres.log()).unwrap();
    let plans = plans(&log);
    let is_page = |plan: &&Value| plan["Query Text"].as_str().unwrap().contains("as hole(lane, low, high)");
    let pages = plans.iter().filter(is_page).count();
    println!("{} statements, {pages} of them pages: {read} rows of the log were read", plans.len());
    assert!(pages > 0, "the plans of the relay are not in the log");
    assert_eq!(plans.iter().flat_map(|plan| scans(&plan["Plan"])).collect::<Vec<_>>(), Vec::<&str>::new());
    // Each event once, and of each table and lane the last one, for whether it may be dropped.
    assert!(read <= 2 * events + 8 * i64::from(LANES), "{read} rows of the log were read for {events} events");
}
