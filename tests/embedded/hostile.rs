//! Input that means no good: texts, topics, sizes, credentials in the wrong place.

use std::error::Error as _;

use chrono::DateTime;
use rdkafka::types::RDKafkaRespErr;
use tidings::{
    BreakerState, Catalog, Config, EmitRequest, Emitter, ErrorKind, EventDefinition, Naming, OutboxMode,
    PolicyOverride, PostgresOutbox, Producer, SqliteOutbox,
};

use crate::support::events::{EVENT, Sequence, catalog, is_published};
use crate::support::hostile::{check_each, check_largest, emit_each, emit_largest};
use crate::support::relaying::RunningRelay;
use crate::support::topic::read_until;
use crate::support::waiting::eventually;
use crate::world::{World, config, logged};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_text_arrives_as_it_is_whichever_way_it_takes_or_is_refused_before_anything_is_done() {
    let world = World::new().await;
    let producer = world.producer().await;
    let _relay = RunningRelay::of(&producer);
    let taken = emit_each(&producer).await;
    let ids = taken.iter().map(|(id, ..)| id.clone()).collect();
    let records = read_until(&world.brokers, &world.topic, ids).await;
    check_each(&taken, &records);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_may_be_any_bytes_unless_its_content_type_says_otherwise() {
    let world = World::new().await;
    let binary = EventDefinition::new(EVENT, "order", "changed").with_content_type("application/octet-stream");
    let producer = world.producer_of(Catalog::new([binary]).unwrap(), &[]).await;
    let _relay = RunningRelay::of(&producer);
    let bytes: Vec<u8> = (0..=255).chain([0xff, 0xfe, 0xc0, 0x80, 0xed, 0xa0, 0x80]).collect();
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    let mut ids = Vec::new();
    for policy in [PolicyOverride::default(), always] {
        let request = EmitRequest::new(EVENT).tenant("t").payload(bytes.clone()).policy(policy);
        ids.push(producer.emit(request).await.unwrap().event_id.to_string());
    }
    let records = read_until(&world.brokers, &world.topic, ids.into_iter().collect()).await;
    assert_eq!(records.len(), 2);
    assert!(records.iter().all(|record| record.payload == bytes));

    let json = world.producer().await;
    for payload in [&b"\xff"[..], b"\"\xed\xa0\x80\"", b"{\"a\":\"\xc0\x80\"}", b"[1,]", b"{}{}", b""] {
        let error = json.emit(EmitRequest::new(EVENT).tenant("t").payload(payload.to_vec())).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidPayload, "{payload:?}");
    }
    // Neither does a payload end the process that reads it.
    let deep = "[".repeat(200_000);
    let error = json.emit(EmitRequest::new(EVENT).tenant("t").payload(deep)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
}

/// A megabyte that the limit takes to the byte, and not one byte more, whichever way it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_record_goes_either_way_and_one_that_is_a_byte_larger_neither() {
    const LIMIT: usize = 1024 * 1024;
    let world = World::new().await;
    let producer = world
        .producer_with(&[("STREAMING_MAX_RECORD_BYTES", &LIMIT.to_string()), ("STREAMING_DIRECT_TIMEOUT_MS", "20000")])
        .await;
    let _relay = RunningRelay::of(&producer);
    // A time has as many digits as it needs.
    let request = |bytes: usize| {
        let request = Sequence::of("tenant-1").next().request().time(DateTime::UNIX_EPOCH);
        request.payload(format!("\"{}\"", "x".repeat(bytes - 2)))
    };
    let (largest, ids) = emit_largest(&producer, LIMIT, request, async || logged(&world.pool()).await).await;
    check_largest(largest, &read_until(&world.brokers, &world.topic, ids.into_iter().collect()).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_kafka_does_not_take_is_refused_when_the_producer_is_built() {
    let long = "x".repeat(250);
    for name in ["", ".", "..", ".hidden", "a b", "a/b", "a\0b", "a\nb", "é", "a:b", "a'b", "日本", "\u{202e}a", &long]
    {
        let named = name.to_owned();
        let builder = Producer::builder(config("none:1", &[]), catalog());
        let built = builder.with_naming(Naming::custom(move |_| named.clone())).build().await;
        assert_eq!(built.unwrap_err().kind(), ErrorKind::InvalidDefinition, "{name:?}");
        if name.is_empty() || name == ".." {
            continue;
        }
        let naming = Naming::per_event(name);
        let built = Producer::builder(config("none:1", &[]), catalog()).with_naming(naming).build().await;
        assert!(
            matches!(built.unwrap_err().kind(), ErrorKind::InvalidDefinition | ErrorKind::InvalidConfig),
            "{name:?}"
        );
    }
}

/// The error, what it was made from, and how they look to who prints them carelessly.
fn shown(error: &tidings::Error) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!("{error} {error:?}");
        cause = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_in_a_url_is_in_no_error() {
    const SECRET: &str = "pl4nted";
    let mut errors = Vec::new();
    for url in [
        format!("postgres://shop:{SECRET}@host:notaport/shop"),
        format!("postgres://shop:{SECRET}@[::1/shop"),
        format!("mysql://shop:{SECRET}@host/shop?sslmode={SECRET}"),
        format!("shop:{SECRET}@host"),
    ] {
        errors.extend(PostgresOutbox::connect(&url).err());
    }
    assert!(errors.len() >= 2, "{errors:?}");
    let nobody = PostgresOutbox::connect(&format!("postgres://shop:{SECRET}@127.0.0.1:1/shop")).unwrap();
    assert!(!format!("{nobody:?}").contains(SECRET));
    errors.push(nobody.migrate().await.unwrap_err());
    errors.push(SqliteOutbox::open("/nowhere/shop.sqlite").migrate().await.unwrap_err());
    for brokers in [
        format!("kafka://shop:{SECRET}@kafka-1:9092"),
        format!("shop:{SECRET}@kafka-1:9092"),
        format!("SASL_SSL://shop:{SECRET}@kafka-1:9092,kafka-2:9092"),
    ] {
        let config = Config::from_vars([
            ("STREAMING_ENABLED", "true"),
            ("STREAMING_BROKERS", &*brokers),
            ("STREAMING_CLOUDEVENTS_SOURCE", &format!("https://shop:{SECRET}@host/orders")),
        ]);
        match config {
            Err(error) => errors.push(error),
            Ok(config) => {
                assert!(!format!("{config:?}").contains(SECRET), "{brokers}: {config:?}");
                match Producer::builder(config, catalog()).build().await {
                    Err(error) => errors.push(error),
                    Ok(producer) => {
                        let request = Sequence::of("t").next().request();
                        errors.push(producer.emit(request).await.unwrap_err());
                        assert!(!format!("{producer:?}").contains(SECRET));
                    }
                }
            }
        }
    }
    for error in errors {
        assert!(!shown(&error).contains(SECRET), "{}", shown(&error));
    }
}

/// A broker that says so when it is asked about the topic, before anything is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_that_is_not_there_or_not_for_this_client_fails_its_events_alone_until_it_is() {
    for (code, kind) in [
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART, ErrorKind::UnknownTopic),
        (RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED, ErrorKind::Unauthorized),
    ] {
        let world = World::new().await;
        let catalog = Catalog::new([
            EventDefinition::new(EVENT, "order", "changed"),
            EventDefinition::new("order.closed", "order", "closed"),
        ]);
        let soon = "topic.metadata.propagation.max.ms=100;topic.metadata.refresh.interval.ms=500";
        let settings = [("STREAMING_DIRECT_TIMEOUT_MS", "20000"), ("STREAMING_KAFKA_PROPERTIES", soon)];
        let producer = world.producer_of(catalog.unwrap(), &settings).await;
        world.cluster.topic_error(&world.topic, code).unwrap();
        for number in 0..20 {
            let error = producer.emit(Sequence::of(format!("t-{number}")).next().request()).await.unwrap_err();
            assert_eq!((error.kind(), error.is_ambiguous()), (kind, false), "{error:?}");
        }
        assert_eq!(producer.breaker_state(), BreakerState::Closed, "it says nothing of the broker's health");
        let other = EmitRequest::new("order.closed").tenant("t").payload("{}");
        assert!(is_published(&producer.emit(other).await.unwrap()));
        assert_eq!(logged(&world.pool()).await, 0);
        world.cluster.topic_error(&world.topic, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
        eventually("the topic takes events", async || {
            producer
                .emit(Sequence::of("t").next().request())
                .await
                .is_ok_and(|receipt| is_published(&receipt))
                .then_some(())
        })
        .await;
    }
}
