use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::{DeliveryPolicy, EventDefinition, Naming, OutboxMode, PartitionKey};

/// A catalog that has everything that a manifest can show.
fn manifest() -> Manifest {
    let catalog = Catalog::new([
        EventDefinition::new("order.created", "order", "created")
            .with_schema_version("2.1.0")
            .with_data_schema("https://schemas.example/order.json")
            .with_description("An order was placed and paid for.")
            .with_extension("region", "eu")
            .with_extension("severitynumber", 9)
            .with_partition_key(PartitionKey::Subject)
            .with_policy(DeliveryPolicy::default().with_outbox(OutboxMode::Journaled)),
        EventDefinition::new("invoice.print", "invoice", "print")
            .with_class(EventClass::Command)
            .with_mode(ContentMode::Structured),
        EventDefinition::new("shop.opened", "shop", "opened").with_system(true),
    ])
    .unwrap();
    let config = Config::from_vars([
        ("STREAMING_ENABLED", "true"),
        ("STREAMING_BROKERS", "kafka:9092"),
        ("STREAMING_CLOUDEVENTS_SOURCE", "//shop/orders"),
    ]);
    let config = config
        .unwrap()
        .with_naming(Naming::per_event("shop"))
        .with_policies("shop.opened.enabled=false".parse().unwrap());
    Manifest::of(&config, &catalog).unwrap().with_service("shop", "1.4.2")
}

fn json() -> Value {
    serde_json::from_str(&manifest().to_json()).unwrap()
}

#[test]
fn it_is_the_stored_example() {
    crate::documented::check_file(
        "docs/manifest.example.json",
        &(serde_json::to_string_pretty(&json()).unwrap() + "\n"),
    );
}

#[test]
fn the_schema_accepts_it_and_refuses_what_lacks_a_member_or_has_a_strange_value() {
    let schema: Value = serde_json::from_str(include_str!("../../schemas/manifest.schema.json")).unwrap();
    let mut compiler = boon::Compiler::new();
    compiler.add_resource("mem:///manifest.json", schema.clone()).unwrap();
    let mut schemas = boon::Schemas::new();
    let index = compiler.compile("mem:///manifest.json", &mut schemas).unwrap();
    let valid = |json: &Value| schemas.validate(json, index).is_ok();
    assert!(valid(&json()));

    let members = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let events = json()["events"].as_array().unwrap().clone();
    let written = events.iter().flat_map(&members).collect::<BTreeSet<_>>();
    assert_eq!(written, members(&schema["$defs"]["event"]["properties"]), "the schema knows every member");

    for (pointer, strange) in [
        ("/version", json!("2.0.0")),
        ("/events/0/class", json!("rumour")),
        ("/events/0/policy/outbox", json!("sometimes")),
        ("/publisher/enabled", json!("yes")),
    ] {
        let mut changed = json();
        *changed.pointer_mut(pointer).unwrap() = strange;
        assert!(!valid(&changed), "{pointer}");
    }
    let mut lacking = json();
    lacking["events"][0].as_object_mut().unwrap().remove("topic");
    assert!(!valid(&lacking));
}

#[test]
fn it_shows_what_a_service_declares_and_what_operators_made_of_it() {
    let opened = &json()["events"][2];
    assert_eq!((&opened["defaultPolicy"]["enabled"], &opened["policy"]["enabled"]), (&json!(true), &json!(false)));
    assert_eq!(opened["partitionKey"], "system");
}

#[test]
fn a_service_that_is_switched_off_has_one_though_it_has_no_name() {
    let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]).unwrap();
    let off = Config::from_vars([("STREAMING_ENABLED", "false")]).unwrap();
    let manifest = Manifest::of(&off, &catalog).unwrap();
    assert_eq!((manifest.publisher.source.as_str(), manifest.publisher.enabled), ("unnamed", false));

    let named = Config::from_vars([("STREAMING_CLOUDEVENTS_SOURCE", "//shop")]).unwrap();
    assert_eq!(Manifest::of(&named, &catalog).unwrap().publisher.source, "//shop");
}
