//! Input that means no good, on a real broker and a real database.

use chrono::DateTime;
use tidings::{EmitRequest, Emitter, OutboxMode, PolicyOverride};

use crate::support::events::{EVENT, Sequence};
use crate::support::hostile::{check_each, check_largest, emit_each, emit_largest};
use crate::support::relaying::RunningRelay;
use crate::world::{World, logged, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_arrives_as_it_is_whichever_way_it_takes_or_is_refused_before_anything_is_done() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let taken = emit_each(&producer).await;
    let records = world.records_with(taken.iter().map(|(id, ..)| id.clone()).collect()).await;
    check_each(&taken, &records);
    // The tables are there, and nobody has moved a cursor.
    let numbers = "select count(*) from tidings.lane l where exists (
        select from tidings.outbox o where o.lane = l.lane and not l.published @> o.seq)";
    crate::support::waiting::eventually("all is settled", async || {
        let unsettled: i64 = sqlx::query_scalar(numbers).fetch_one(&world.pool()).await.unwrap();
        (unsettled == 0).then_some(())
    })
    .await;
}

/// A payload of so many bytes of JSON that no compression makes smaller.
fn noise(bytes: usize) -> String {
    let mut state: u64 = 1;
    let mut letter = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        char::from(b'a' + u8::try_from((state >> 33) % 26).unwrap())
    };
    let text: String = (0..bytes - 2).map(|_| letter()).collect();
    format!("\"{text}\"")
}

/// What the library takes for the size of a record is never less than what the broker does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_record_that_passes_the_checks_is_taken_by_a_topic_of_the_brokers_default_limit() {
    /// `message.max.bytes` of a broker that nobody has configured.
    const LIMIT: usize = 1_048_588;
    let world = world!(open_with_topic, &[("max.message.bytes", "1048588")]);
    let producer = world.producer_with(&[("STREAMING_DIRECT_TIMEOUT_MS", "20000")]).await;
    let _relay = RunningRelay::of(&producer);
    // A time has as many digits as it needs.
    let request = |bytes| {
        let id = Sequence::of("tenant-1").next().id.parse().unwrap();
        EmitRequest::new(EVENT)
            .tenant("tenant-1")
            .subject("é".repeat(512))
            .id(id)
            .time(DateTime::UNIX_EPOCH)
            .payload(noise(bytes))
    };
    let (largest, ids) = emit_largest(&producer, LIMIT, request, async || logged(&world.pool()).await).await;
    check_largest(largest, &world.records_with(ids.into_iter().collect()).await);
}

/// Of services in other languages, by the function that they call.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_function_takes_from_strangers_is_delivered_or_parked_and_holds_up_nobody() {
    let world = world!();
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let append = "select tidings.append($1, $2, $3, $4, $5)";
    let (pool, topic) = (world.pool(), world.topic.as_str());
    let long = "k".repeat(2049);
    for (topic, key, headers) in [
        ("a b", "k", vec![]),
        ("'; drop table tidings.outbox; --", "k", vec![]),
        ("", "k", vec![]),
        ("..", "k", vec![]),
        (topic, "", vec![]),
        (topic, &*long, vec![]),
        (topic, "k", vec!["name without a value"]),
    ] {
        let refused = sqlx::query(append).bind(topic).bind(key).bind(&headers).bind(&b"x"[..]).bind("id");
        let error = refused.execute(&pool).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code()).map(String::from);
        assert_eq!(code.as_deref(), Some("22023"), "{topic:?} {key:.20?} {headers:?}: {error}");
    }
    let event = Sequence::of("tenant-1").next();
    for (key, headers) in [
        ("'); delete from tidings.outbox; --", vec!["", ""]),
        ("\u{202e}k\n\t", vec!["ce_id", "not\nan\u{1b}id", "\u{1}", "\u{feff}"]),
        ("k", vec!["ce_id", "x", "ce_id", "y"]),
        // The same lane and key as one of ours.
        ("tenant-1", vec!["ce_specversion", "9"]),
    ] {
        let taken = sqlx::query(append).bind(topic).bind(key).bind(&headers).bind(&b"\xff\x00"[..]).bind(key);
        taken.execute(&pool).await.unwrap();
    }
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    producer.emit(event.request().policy(always)).await.unwrap();
    wait_for(&world, 5).await;
}

/// Waits until so many records are on the topic, whatever they are.
async fn wait_for(world: &World, count: usize) {
    crate::support::waiting::eventually("all have arrived", async || {
        let there = crate::support::topic::read_all_to_end(&world.brokers, &world.topic).await;
        assert!(there.len() <= count, "{there:?}");
        (there.len() == count).then_some(())
    })
    .await;
}
