//! The direct path and what is on the topic after it.

use tidings::{Catalog, EmitRequest, Emitter, EmitterExt, EventDefinition, Outcome, PartitionKey};

use crate::support::events::{EVENT, Ledger, Sequence, is_published};
use crate::support::murmur2::partition_of;
use crate::support::relaying::RunningRelay;
use crate::support::topic::{read_to_end, read_until};
use crate::world::{PARTITIONS, World, begin};

/// Every byte there is.
fn bytes() -> Vec<u8> {
    (0..=255).collect()
}

fn opaque_catalog() -> Catalog {
    let definition = EventDefinition::new(EVENT, "order", "changed")
        .with_content_type("application/octet-stream")
        .with_schema_version("1.4.2")
        .with_data_schema("https://schemas.example/order#v1");
    Catalog::new([definition]).unwrap()
}

fn full_request(id: &str) -> EmitRequest {
    EmitRequest::new(EVENT)
        .tenant("tenant-ü")
        .subject("order 17/ß")
        .id(id.parse().unwrap())
        .time("2026-11-21T08:15:30.123456+02:00".parse::<chrono::DateTime<chrono::FixedOffset>>().unwrap().into())
        .payload(bytes())
}

/// In order of their names.
fn full_headers(id: &str) -> Vec<(String, Vec<u8>)> {
    [
        ("ce_dataschema", "https://schemas.example/order#v1"),
        ("ce_eventtype", "changed"),
        ("ce_id", id),
        ("ce_resourcetype", "order"),
        ("ce_schemaversion", "1.4.2"),
        ("ce_source", "//shop/orders"),
        ("ce_specversion", "1.0"),
        ("ce_subject", "order 17/ß"),
        ("ce_tenantid", "tenant-ü"),
        ("ce_time", "2026-11-21T06:15:30.123456Z"),
        ("ce_type", "shop.order.changed"),
        ("content-type", "application/octet-stream"),
    ]
    .map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec()))
    .to_vec()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_direct_event_is_on_the_topic_byte_for_byte_with_all_its_headers() {
    let world = World::new().await;
    // The first emit waits for the client to connect.
    let producer = world.producer_of(opaque_catalog(), &[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    let receipt = producer.emit(full_request("order 17, ä")).await.unwrap();
    let Outcome::Published { topic, partition, offset, .. } = receipt.outcome else {
        panic!("not published: {receipt:?}");
    };
    assert_eq!((&*topic, partition), (&*world.topic, partition_of("tenant-ü", PARTITIONS)));
    let records = world.records_now().await;
    let [record] = &records[..] else { panic!("one record, not {records:?}") };
    assert_eq!((record.partition, record.offset), (partition, offset));
    assert_eq!(record.key, "tenant-ü".as_bytes());
    assert_eq!(record.payload, bytes());
    assert_eq!(record.headers, full_headers("order 17, ä"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_by_the_outbox_is_the_same_to_the_byte_as_a_direct_one() {
    let world = World::new().await;
    let producer = world.producer_of(opaque_catalog(), &[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    assert!(is_published(&producer.emit(full_request("id-1")).await.unwrap()));
    let mut tx = begin(&world.pool()).await;
    producer.emit_in(&mut tx, full_request("id-2")).await.unwrap();
    tx.commit().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    let records = read_until(&world.brokers, &world.topic, ["id-1".into(), "id-2".into()].into()).await;
    let [direct, relayed] = &records[..] else { panic!("two records, not {records:?}") };
    assert_eq!((&direct.key, &direct.payload), (&relayed.key, &relayed.payload));
    assert_eq!(direct.headers, full_headers("id-1"));
    assert_eq!(relayed.headers, full_headers("id-2"));
    assert_eq!(direct.partition, relayed.partition);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_tenant_subject_id_or_system_and_never_empty() {
    let world = World::new().await;
    for topic in ["shop.order.opened", "shop.order.closed", "shop.order.swept"] {
        world.cluster.create_topic(topic, 1, 1).unwrap();
    }
    let catalog = Catalog::new([
        EventDefinition::new("by-tenant", "order", "opened"),
        EventDefinition::new("by-subject", "order", "closed").with_partition_key(PartitionKey::Subject),
        EventDefinition::new("by-system", "order", "swept").with_system(true),
    ]);
    let producer = world.producer_of(catalog.unwrap(), &[("STREAMING_DIRECT_TIMEOUT_MS", "30000")]).await;
    let request = |key: &'static str| EmitRequest::new(key).payload("{}");
    for (topic, request, key) in [
        ("shop.order.opened", request("by-tenant").tenant("t").subject("s"), "t"),
        ("shop.order.opened", request("by-tenant").subject("s"), "s"),
        ("shop.order.opened", request("by-tenant").id("i".parse().unwrap()), "i"),
        ("shop.order.closed", request("by-subject").tenant("t").subject("s"), "s"),
        ("shop.order.swept", request("by-system").tenant("t"), "system:swept"),
    ] {
        producer.emit(request).await.unwrap();
        let records = read_to_end(&world.brokers, topic).await;
        assert_eq!(records.last().unwrap().key, key.as_bytes());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_outbox_events_go_direct_in_order() {
    let world = World::new().await;
    let producer = world.producer_without_outbox(&[]).await;
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    for _ in 0..50 {
        ledger.emit(&producer, sequence.next()).await.unwrap();
    }
    world.verdict(&ledger).await.assert_kept();
}
