//! Direct emits, and what is on the topic after them.

use tidings::{EmitRequest, Emitter, EmitterExt, Outcome};

use crate::support::events::{EVENT, Sequence, is_published};
use crate::support::murmur2::partition_of;
use crate::support::relaying::RunningRelay;
use crate::world::{PARTITIONS, world};

/// A caller that has all the time: the first emit waits for the client to connect.
const PATIENT: (&str, &str) = ("STREAMING_DIRECT_TIMEOUT_MS", "30000");

fn payload() -> Vec<u8> {
    "{ \"text\" : \"ä ß 漢字 \\u0000\",\n\t\"n\":1.50 }".as_bytes().to_vec()
}

fn full_request(id: &str) -> EmitRequest {
    EmitRequest::new(EVENT)
        .tenant("tenant-ü")
        .subject("order 17/ß")
        .id(id.parse().unwrap())
        .time("2026-11-21T06:15:30.123456Z".parse().unwrap())
        .payload(payload())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_is_on_the_topic_byte_for_byte_with_all_its_headers_by_either_path() {
    let world = world!();
    let producer = world.producer_with(&[PATIENT]).await;
    let receipt = producer.emit(full_request("id 1, ä")).await.unwrap();
    let Outcome::Published { topic, partition, offset, .. } = receipt.outcome else {
        panic!("not published: {receipt:?}");
    };
    assert_eq!(&*topic, world.topic);
    let mut tx = world.pool().begin().await.unwrap();
    producer.emit_in(&mut tx, full_request("id 2, ä")).await.unwrap();
    tx.commit().await.unwrap();
    let _relay = RunningRelay::of(&producer);
    let records = world.records_with(["id 1, ä".into(), "id 2, ä".into()].into()).await;
    let [direct, relayed] = &records[..] else { panic!("two records, not {records:?}") };
    assert_eq!((direct.partition, direct.offset), (partition, offset));
    for (record, id) in [(direct, "id 1, ä"), (relayed, "id 2, ä")] {
        assert_eq!(record.partition, partition);
        assert_eq!(record.key, "tenant-ü".as_bytes());
        assert_eq!(record.payload, payload());
        let ce_type = format!("{}.order.changed", world.prefix);
        let expected = [
            ("ce_eventtype", "changed"),
            ("ce_id", id),
            ("ce_resourcetype", "order"),
            ("ce_schemaversion", "1.0.0"),
            ("ce_source", "//shop/orders"),
            ("ce_specversion", "1.0"),
            ("ce_subject", "order 17/ß"),
            ("ce_tenantid", "tenant-ü"),
            ("ce_time", "2026-11-21T06:15:30.123456Z"),
            ("ce_type", &ce_type),
            ("content-type", "application/json"),
        ];
        assert_eq!(record.headers, expected.map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_has_the_partition_that_javas_client_gives_it() {
    let world = world!();
    let producer = world.producer_with(&[PATIENT]).await;
    // Worked out by hand from the hashes in Kafka's own test (UtilsTest.testMurmur2), for six partitions:
    // `(hash & 0x7fffffff) % 6`.
    for (key, partition) in
        [("21", 0), ("foobar", 0), ("a-little-bit-long-string", 2), ("a-little-bit-longer-string", 5), ("abc", 3)]
    {
        assert_eq!(partition_of(key, PARTITIONS), partition, "the test's own murmur2");
        let receipt = producer.emit(Sequence::of(key).next().request()).await.unwrap();
        assert!(is_published(&receipt));
        assert!(
            matches!(receipt.outcome, Outcome::Published { partition: found, .. } if found == partition),
            "{key}: {receipt:?}"
        );
    }
    for record in world.records_now().await {
        let key = std::str::from_utf8(&record.key).unwrap();
        assert_eq!(record.partition, partition_of(key, PARTITIONS), "{key}");
    }
}
