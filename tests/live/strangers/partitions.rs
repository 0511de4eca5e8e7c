//! Records land where Apache Kafka's own client would have put them.

use std::collections::HashMap;

use tidings::{Catalog, EmitRequest, Emitter, EventDefinition, Naming, Outcome, PartitionKey, Producer};

use crate::java;
use crate::support::murmur2::partition_of;
use crate::support::topic;
use crate::world::{stranger, world};

/// What `scripts/strangers vectors` has written.
const VECTORS: &str = include_str!("../../vectors/murmur2.tsv");

/// So many partitions the topics have.
const COUNTS: [u16; 3] = [3, 7, 50];

/// The keys that are text, with their partitions of so many.
fn vectors(count: u16) -> HashMap<String, i32> {
    let names = VECTORS.lines().find_map(|line| line.strip_prefix("# ").filter(|line| line.contains('\t'))).unwrap();
    let column = names.split('\t').position(|name| name == count.to_string()).unwrap();
    let vector = |line: &str| {
        let fields: Vec<_> = line.split('\t').collect();
        let byte = |at: usize| u8::from_str_radix(&fields[0][at..at + 2], 16).unwrap();
        let key = String::from_utf8((0..fields[0].len()).step_by(2).map(byte).collect()).ok()?;
        Some((key, fields[column].parse().unwrap()))
    };
    VECTORS.lines().filter(|line| !line.starts_with('#')).filter_map(vector).collect()
}

#[tokio::test]
async fn the_stored_vectors_are_what_kafkas_java_client_says() {
    let jars = stranger!("TIDINGS_STRANGER_JAVA");
    assert!(
        java::run(&jars, "Partitions", &[]).await == VECTORS.as_bytes(),
        "`just vectors` writes tests/vectors/murmur2.tsv anew"
    );
}

#[test]
fn the_tests_own_murmur2_is_that_of_kafkas_java_client() {
    for count in COUNTS {
        for (key, partition) in vectors(count) {
            assert_eq!(partition_of(&key, count.into()), partition, "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_lands_on_the_partition_that_kafkas_java_client_chooses() {
    let world = world!();
    let name = {
        let prefix = world.prefix.clone();
        move |event: &str| format!("{prefix}.{event}")
    };
    let definitions = COUNTS.map(|count| {
        EventDefinition::new(format!("of{count}"), "partition", format!("of{count}"))
            .with_partition_key(PartitionKey::Attribute)
    });
    let naming = Naming::custom({
        let name = name.clone();
        move |definition| name(definition.key())
    });
    // However slow the machine.
    let config = world.config(&[("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "600")]);
    let producer =
        Producer::builder(config, Catalog::new(definitions).unwrap()).with_naming(naming).build().await.unwrap();
    for count in COUNTS {
        let (event, mut expected) = (format!("of{count}"), vectors(count));
        // What no event can have as its key.
        expected.retain(|key, _| !key.is_empty() && !key.contains(|c: char| c.is_ascii_control()));
        assert!(expected.len() > 700, "{}", expected.len());
        topic::create(&world.brokers, &name(&event), count.into()).await;
        let request = |key: &String| EmitRequest::new(event.clone()).partition_key(key.clone()).payload("{}");
        let receipts = producer.emit_batch(expected.keys().map(request).collect()).await;
        for (key, receipt) in expected.keys().zip(receipts) {
            let Outcome::Published { partition, .. } = receipt.unwrap().outcome else { panic!("{key} is stored") };
            assert_eq!(partition, expected[key], "{key} of {count}");
        }
        let records = topic::read_to_end(&world.brokers, &name(&event)).await;
        assert!(records.len() >= expected.len());
        for record in records {
            let key = String::from_utf8(record.key).unwrap();
            assert_eq!(record.partition, expected[&key], "{key} of {count}");
        }
    }
}
