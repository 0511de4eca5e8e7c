//! Strangers read what we publish.

use chrono::{DateTime, SubsecRound};
use serde_json::{Map, Value};
use tidings::{Emitter, OutboxMode, Outcome, PolicyOverride};

use super::cases::{Case, LARGE_RECORDS, builder, cases};
use super::peer::{Kind, Peer, Read};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;
use crate::world::{World, settled, stranger, world};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_sdk_reads_what_is_published() {
    let python = Peer::new(Kind::Python, stranger!("TIDINGS_STRANGER_PYTHON"));
    let world = world!(open_with_topic, &[LARGE_RECORDS]);
    let cases = published(&world).await;
    check(&python, &world, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_older_interface_of_the_python_sdk_reads_what_is_published() {
    let python = Peer::new(Kind::PythonV1, stranger!("TIDINGS_STRANGER_PYTHON"));
    let world = world!(open_with_topic, &[LARGE_RECORDS]);
    let cases = published(&world).await;
    check(&python, &world, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_go_sdk_reads_what_is_published() {
    let go = Peer::new(Kind::Go, stranger!("TIDINGS_STRANGER_GO"));
    let world = world!(open_with_topic, &[LARGE_RECORDS]);
    let cases = published(&world).await;
    check(&go, &world, &cases).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sdks_read_what_the_relay_publishes() {
    let go = Peer::new(Kind::Go, stranger!("TIDINGS_STRANGER_GO"));
    let python = Peer::new(Kind::Python, stranger!("TIDINGS_STRANGER_PYTHON"));
    let world = world!(open_with_topic, &[LARGE_RECORDS]);
    let producer = builder(&world).with_outbox(world.outbox()).build().await.unwrap();
    let cases = cases(&producer).await;
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    for case in &cases {
        producer.emit(case.request.clone().policy(always)).await.unwrap();
    }
    let relay = RunningRelay::of(&producer);
    let (pool, all) = (world.pool(), i64::try_from(cases.len()).unwrap());
    eventually("all are relayed", async || (settled(&pool).await == all).then_some(())).await;
    relay.stop().await;
    check(&go, &world, &cases).await;
    check(&python, &world, &cases).await;
}

/// Publishes all cases, directly.
async fn published(world: &World) -> Vec<Case> {
    let producer = builder(world).build().await.unwrap();
    let cases = cases(&producer).await;
    for case in &cases {
        let receipt = producer.emit(case.request.clone()).await.unwrap_or_else(|error| panic!("{}: {error}", case.id));
        assert!(matches!(receipt.outcome, Outcome::Published { .. }), "{receipt:?}");
    }
    cases
}

/// Has the peer read the topic, and holds what it says against the cases.
async fn check(peer: &Peer, world: &World, cases: &[Case]) {
    let reads = peer.read(world).await;
    let (readable, unreadable): (Vec<_>, Vec<_>) = cases.iter().partition(|case| is_readable(peer.kind, case));
    let errors: Vec<_> = reads.iter().filter_map(|read| read.error.as_deref()).collect();
    assert_eq!(errors.is_empty(), unreadable.is_empty(), "{:?}: {errors:?}", peer.kind);
    for error in errors {
        assert!(error.starts_with("unexpected data payload for media type"), "{:?}: {error}", peer.kind);
    }
    for case in readable {
        let read = reads.iter().find(|read| read.id() == case.id).unwrap_or_else(|| panic!("{} is missing", case.id));
        assert_eq!(read.mode, case.mode);
        assert_eq!(
            normal(read.attributes.clone()),
            normal(expected(peer.kind, case, read, &world.topic)),
            "{}",
            case.id
        );
        match data(peer.kind, case) {
            // The largest would fill the screen.
            Some(payload) => assert!(read.has_data(payload, case.is_json), "{}: {:.500?}", case.id, read.data),
            None => assert_eq!(read.data, None, "{}", case.id),
        }
    }
}

/// Go's structured mode knows four JSON types by their names, and takes no `+json` for one: it wants the data of such an
/// event to be a string, though the JSON format (section 3.1) has it be JSON.
fn is_readable(peer: Kind, case: &Case) -> bool {
    let is_suffixed = case.attributes["datacontenttype"].as_str().unwrap().contains("+json");
    !(peer == Kind::Go && case.mode == "structured" && is_suffixed)
}

/// The attributes that a peer must find.
fn expected(peer: Kind, case: &Case, read: &Read, topic: &str) -> Map<String, Value> {
    let mut attributes = case.attributes.clone();
    if case.mode == "binary" {
        // There, everything is text.
        for (_, value) in &mut attributes {
            if !value.is_string() {
                *value = value.to_string().into();
            }
        }
    }
    match peer {
        // Either takes the key of the record for the attribute, and that in place of one that the event has.
        Kind::PythonV1 if case.mode == "structured" => {
            attributes.entry("partitionkey").or_insert_with(|| case.key.clone().into());
        }
        Kind::Python | Kind::PythonV1 => {
            attributes.insert("partitionkey".into(), case.key.clone().into());
        }
        Kind::Go if case.mode == "binary" => {
            // It adds where the record was.
            for (name, text) in [
                ("kafkatopic", topic.to_owned()),
                ("kafkapartition", read.partition.to_string()),
                ("kafkaoffset", read.offset.to_string()),
            ] {
                attributes.insert(name.into(), text.into());
            }
        }
        Kind::Go => {}
    }
    if peer == Kind::Python {
        // Python has no nanoseconds.
        let time = DateTime::parse_from_rfc3339(attributes["time"].as_str().unwrap()).unwrap();
        attributes.insert("time".into(), time.trunc_subsecs(6).to_rfc3339().into());
    }
    if peer == Kind::PythonV1 && case.mode == "structured" {
        // It takes the content type of the record for that of the data.
        attributes.insert("datacontenttype".into(), "application/cloudevents+json; charset=utf-8".into());
    }
    attributes
}

/// The payload that a peer must find.
fn data(peer: Kind, case: &Case) -> Option<&[u8]> {
    let payload = case.payload.as_deref()?;
    let is_absent = match peer {
        // To it, no bytes are no data, and JSON's null is none either.
        Kind::Python => payload.is_empty() || payload == b"null",
        // In structured mode what is empty is not written.
        Kind::PythonV1 => case.mode == "structured" && (payload.is_empty() || payload == b"null"),
        Kind::Go => payload.is_empty(),
    };
    (!is_absent).then_some(payload)
}

/// With the time written in one way.
fn normal(mut attributes: Map<String, Value>) -> Map<String, Value> {
    if let Some(time) = attributes.get("time").and_then(Value::as_str) {
        let time = DateTime::parse_from_rfc3339(time).unwrap_or_else(|error| panic!("{error}: {time}"));
        attributes.insert("time".into(), time.to_utc().to_rfc3339().into());
    }
    attributes
}
