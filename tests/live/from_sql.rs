//! Appends by `tidings.append`, as services in other languages make them.

use chrono::DateTime;
use sqlx::{PgPool, Row};
use tidings::{EmitRequest, Emitter, EmitterExt, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{EVENT, Ledger, Sequence, stored_at};
use crate::support::relaying::RunningRelay;
use crate::world::{logged, world};

const APPEND: &str = "select lane, seq from tidings.append($1, $2, $3, $4, $5, $6)";

/// What a service hands to the function.
#[derive(Debug, Clone)]
struct Arguments {
    topic: String,
    key: String,
    headers: Vec<Option<String>>,
    payload: Option<Vec<u8>>,
    id: Option<String>,
    definition: Option<String>,
}

impl Arguments {
    /// Those that make the row which the library makes of this request.
    async fn of(producer: &Producer, pool: &PgPool, request: EmitRequest) -> Self {
        let mut tx = pool.begin().await.unwrap();
        let (lane, number) = stored_at(&producer.emit_in(&mut tx, request).await.unwrap());
        let select = "select topic, record_key, headers, payload, event_id, definition_key from tidings.outbox
                      where lane = $1 and seq = $2";
        let row =
            sqlx::query(select).bind(i16::try_from(lane).unwrap()).bind(number).fetch_one(&mut *tx).await.unwrap();
        tx.rollback().await.unwrap();
        let headers = tidings::wire::Headers::from_bytes(row.get::<Vec<u8>, _>("headers").into()).unwrap();
        let text = |value: &[u8]| String::from_utf8(value.to_vec()).unwrap();
        Self {
            topic: row.get("topic"),
            key: row.get("record_key"),
            headers: headers.iter().flat_map(|(name, value)| [Some(name.to_owned()), Some(text(value))]).collect(),
            payload: row.get("payload"),
            id: row.get("event_id"),
            definition: row.get("definition_key"),
        }
    }

    async fn append(&self, connection: &mut sqlx::PgConnection) -> sqlx::Result<(i16, i64)> {
        sqlx::query_as(APPEND)
            .bind(&self.topic)
            .bind(&self.key)
            .bind(&self.headers)
            .bind(&self.payload)
            .bind(&self.id)
            .bind(&self.definition)
            .fetch_one(connection)
            .await
    }
}

/// All that a row has from its writer.
async fn rows(pool: &PgPool) -> Vec<String> {
    let select = "select format('%s|%s|%s|%s|%s|%s|%s|%s', lane, event_id, definition_key, topic, record_key, headers,
                                coalesce(payload::text, 'null'), envelope_version)
                  from tidings.outbox order by lane, seq";
    sqlx::query_scalar(select).fetch_all(pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_of_the_function_is_that_of_the_library_byte_for_byte() {
    let world = world!();
    let (pool, producer) = (world.pool(), world.producer().await);
    for key in ["tenant-1", "üñî", "四つ", "a", "ab", "abc", "abcd"] {
        let request = || EmitRequest::new(EVENT).tenant(key).id("event-1".parse().unwrap()).time(DateTime::UNIX_EPOCH);
        for request in [request().subject("naïve ☃").payload(r#"{"ü": "\u0000"}"#), request().tombstone()] {
            let arguments = Arguments::of(&producer, &pool, request.clone()).await;
            let mut tx = pool.begin().await.unwrap();
            producer.emit_in(&mut tx, request.clone()).await.unwrap();
            tx.commit().await.unwrap();
            arguments.append(&mut pool.acquire().await.unwrap()).await.unwrap();
            let [by_library, by_function] = <[String; 2]>::try_from(rows(&pool).await).unwrap();
            assert_eq!(by_library, by_function);
            sqlx::query("truncate tidings.outbox").execute(&pool).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_rows_are_relayed_in_order_with_those_of_the_library() {
    let world = world!();
    let (pool, producer, ledger) = (world.pool(), world.producer().await, Ledger::default());
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut sequences: Vec<_> = (0..10).map(|n| Sequence::of(format!("tenant-{n}"))).collect();
    let _relay = RunningRelay::of(&producer);
    for round in 0..20 {
        for sequence in &mut sequences {
            let event = sequence.next();
            match round % 4 {
                0 | 1 => drop(producer.emit(event.request().policy(always)).await.unwrap()),
                _ => {
                    let arguments = Arguments::of(&producer, &pool, event.request()).await;
                    let mut tx = pool.begin().await.unwrap();
                    arguments.append(&mut tx).await.unwrap();
                    if round % 4 == 3 {
                        tx.rollback().await.unwrap();
                        continue;
                    }
                    tx.commit().await.unwrap();
                }
            }
            ledger.accept(event);
        }
    }
    world.verdict(&ledger).await.assert_kept();
    assert_eq!(logged(&pool).await, 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_hashes_and_lanes_are_those_of_kafkas_java_client() {
    let world = world!();
    let pool = world.pool();
    let mut lines = include_str!("../vectors/murmur2.tsv").lines();
    let counts = lines.find_map(|line| line.strip_prefix("# key\tmurmur2\t")).unwrap();
    let counts: Vec<i32> = counts.split('\t').map(|count| count.parse().unwrap()).collect();
    let mut keys = 0;
    for line in lines {
        let mut fields = line.split('\t');
        let (key, _hash) = (fields.next().unwrap(), fields.next().unwrap());
        let partitions: Vec<i16> = fields.map(|partition| partition.parse().unwrap()).collect();
        let bytes: Vec<u8> =
            (0..key.len()).step_by(2).map(|at| u8::from_str_radix(&key[at..at + 2], 16).unwrap()).collect();
        // A key of the outbox is text, and PostgreSQL's text has no zero.
        let Ok(key) = String::from_utf8(bytes) else { continue };
        if key.contains('\0') {
            continue;
        }
        let select =
            "select array(select tidings.lane_of($1, n) from unnest($2::int[]) with ordinality as c(n, i) order by i)";
        let lanes: Vec<i16> = sqlx::query_scalar(select).bind(&key).bind(&counts).fetch_one(&pool).await.unwrap();
        assert_eq!(lanes, partitions, "{key}");
        keys += 1;
    }
    assert!(keys > 500, "{keys}");
    let default = "select tidings.lane_of('tenant-1') = tidings.lane_of('tenant-1', count(*)::int) from tidings.lane";
    assert!(sqlx::query_scalar::<_, bool>(default).fetch_one(&pool).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_relay_could_not_publish_is_refused() {
    let world = world!();
    let (pool, producer) = (world.pool(), world.producer().await);
    let good = Arguments::of(&producer, &pool, Sequence::of("tenant-1").next().request()).await;
    let with = |change: fn(&mut Arguments)| {
        let mut changed = good.clone();
        change(&mut changed);
        changed
    };
    let faults = [
        with(|a| a.topic.clear()),
        with(|a| a.topic = "no topic".to_owned()),
        with(|a| a.topic = "t".repeat(250)),
        with(|a| a.key.clear()),
        with(|a| a.key = "k".repeat(2049)),
        with(|a| a.id = None),
        with(|a| a.id = Some(String::new())),
        with(|a| a.headers.push(Some("odd".to_owned()))),
        with(|a| a.headers.extend([Some("null".to_owned()), None])),
    ];
    for fault in faults {
        let error = fault.append(&mut pool.acquire().await.unwrap()).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).map(String::from);
        assert_eq!(code.as_deref(), Some("22023"), "{fault:?}: {error}");
    }
    assert_eq!(logged(&pool).await, 0);
    let least = with(|a| {
        a.headers.clear();
        a.definition = None;
    });
    least.append(&mut pool.acquire().await.unwrap()).await.unwrap();
}
