use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cloudevents::event::SpecVersion;
use cloudevents::message::{BinaryDeserializer, BinarySerializer, MessageAttributeValue, Result as SdkResult};
use cloudevents::{AttributesReader, EventBuilder, EventBuilderV10};
use proptest::prelude::*;

use super::*;
use crate::event::{EmitRequest, EventId};
use crate::{Catalog, Naming, PolicyOverrides};

/// What a request becomes on the wire.
fn encode(definition: EventDefinition, request: EmitRequest) -> (Headers, Bytes) {
    let compiled = crate::catalog::compiled::CompiledCatalog::compile(
        Catalog::new([definition]).unwrap(),
        &"//shop/orders".parse().unwrap(),
        &Naming::new("shop").with_type_prefix("com.example.shop"),
        &PolicyOverrides::default(),
        false,
        1_000_000,
    )
    .unwrap();
    let record = compiled.resolve(request).unwrap().record;
    (record.headers, record.payload)
}

fn definition() -> EventDefinition {
    EventDefinition::new("order.created", "order", "created")
}

fn map(headers: &Headers) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_owned(), String::from_utf8(value.to_vec()).unwrap())).collect()
}

#[test]
fn the_headers_are_those_of_the_binding_to_the_letter() {
    let time = DateTime::parse_from_rfc3339("2026-03-01T10:20:30.5+02:00").unwrap().with_timezone(&Utc);
    let definition = definition().with_schema_version("1.4.0").with_data_schema("https://schemas.example/order.json");
    let request = EmitRequest::new("order.created")
        .id("018f6b1e-7c1a-7f00-8000-000000000001".parse().unwrap())
        .time(time)
        .tenant("t-é")
        .subject("order 17%")
        .payload(r#"{"a": 1}"#);
    let (headers, payload) = encode(definition, request);
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_source", "//shop/orders"),
        ("ce_type", "com.example.shop.order.created"),
        ("content-type", "application/json"),
        ("ce_dataschema", "https://schemas.example/order.json"),
        ("ce_resourcetype", "order"),
        ("ce_eventtype", "created"),
        ("ce_schemaversion", "1.4.0"),
        ("ce_id", "018f6b1e-7c1a-7f00-8000-000000000001"),
        ("ce_time", "2026-03-01T08:20:30.500Z"),
        ("ce_subject", "order 17%"),
        ("ce_tenantid", "t-é"),
    ];
    assert_eq!(headers.iter().collect::<Vec<_>>(), expected.map(|(name, value)| (name, value.as_bytes())));
    assert_eq!(payload, r#"{"a": 1}"#);
}

#[test]
fn a_system_event_says_so_and_has_no_tenant() {
    let (headers, _) =
        encode(definition().with_system(true), EmitRequest::new("order.created").tenant("t").payload("{}"));
    assert_eq!(headers.get("ce_systemevent"), Some(&b"true"[..]));
    assert_eq!(headers.get("ce_tenantid"), None);
}

#[test]
fn a_cloudevent_survives_the_way_through_a_request() {
    let event = EventBuilderV10::new()
        .id("e-1")
        .source("//elsewhere")
        .ty("t")
        .subject("s")
        .time("2026-03-01T08:20:30Z")
        .extension("tenantid", "acme")
        .data("application/json", serde_json::json!({"a": 1}))
        .build()
        .unwrap();
    let (headers, payload) = encode(definition(), EmitRequest::from_cloudevent("order.created", &event).unwrap());
    let back = to_cloudevent(&headers, &payload).unwrap();
    assert_eq!((back.id(), back.subject(), back.time()), (event.id(), event.subject(), event.time()));
    assert_eq!(back.extension("tenantid"), event.extension("tenantid"));
    assert_eq!(payload, r#"{"a":1}"#);
}

/// What the SDK itself writes for an event: its Kafka binding adds `ce_` to the names, but for the content type.
#[derive(Default)]
struct SdkHeaders(BTreeMap<String, String>);

impl BinarySerializer<BTreeMap<String, String>> for SdkHeaders {
    fn set_spec_version(mut self, version: SpecVersion) -> SdkResult<Self> {
        self.0.insert("ce_specversion".into(), version.to_string());
        Ok(self)
    }

    fn set_attribute(mut self, name: &str, value: MessageAttributeValue) -> SdkResult<Self> {
        let name = if name == "datacontenttype" { "content-type".into() } else { format!("ce_{name}") };
        self.0.insert(name, value.to_string());
        Ok(self)
    }

    fn set_extension(self, name: &str, value: MessageAttributeValue) -> SdkResult<Self> {
        self.set_attribute(name, value)
    }

    fn end_with_data(self, _: Vec<u8>) -> SdkResult<BTreeMap<String, String>> {
        Ok(self.0)
    }

    fn end(self) -> SdkResult<BTreeMap<String, String>> {
        Ok(self.0)
    }
}

fn text(max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(any::<char>().prop_filter("no controls", |c| !c.is_control()), 1..max)
        .prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn the_sdk_reads_what_was_emitted_and_would_have_written_the_same(
        id in text(40), tenant in proptest::option::of(text(40)), subject in proptest::option::of(text(80)),
        seconds in 0i64..4_000_000_000, nanos in 0u32..1_000_000_000, payload in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let time = DateTime::from_timestamp(seconds, nanos).unwrap();
        let id: EventId = id.parse().unwrap();
        let mut request = EmitRequest::new("order.created").id(id.clone()).time(time).payload(payload.clone());
        if let Some(tenant) = &tenant { request = request.tenant(tenant.clone()); }
        if let Some(subject) = &subject { request = request.subject(subject.clone()); }
        let definition = definition().with_content_type("application/octet-stream").with_data_schema("https://schemas.example/o");
        let (headers, sent) = encode(definition, request);

        let event = to_cloudevent(&headers, &sent).unwrap();
        prop_assert_eq!(event.id(), id.to_string());
        prop_assert_eq!(event.source(), "//shop/orders");
        prop_assert_eq!(event.ty(), "com.example.shop.order.created");
        prop_assert_eq!(event.time(), Some(&time));
        prop_assert_eq!(event.subject(), subject.as_deref());
        prop_assert_eq!(event.datacontenttype(), Some("application/octet-stream"));
        prop_assert_eq!(event.extension("tenantid").map(ToString::to_string), tenant);
        prop_assert_eq!(event.extension("schemaversion").map(ToString::to_string), Some("1.0.0".to_owned()));
        prop_assert_eq!(Vec::<u8>::try_from(event.data().unwrap().clone()).unwrap(), payload);

        let mut ours = map(&headers);
        let mut sdk = BinaryDeserializer::deserialize_binary(event, SdkHeaders::default()).unwrap();
        // Both are RFC 3339; the SDK writes the zone as +00:00.
        let times = [ours.remove("ce_time").unwrap(), sdk.remove("ce_time").unwrap()];
        prop_assert_eq!(times.map(|t| DateTime::parse_from_rfc3339(&t).unwrap()), [time.fixed_offset(); 2]);
        prop_assert_eq!(ours, sdk);
    }

    #[test]
    fn stored_headers_read_back_as_they_were(pairs in proptest::collection::vec((".{0,20}", proptest::collection::vec(any::<u8>(), 0..50)), 0..10)) {
        let mut headers = Headers::default();
        for (name, value) in &pairs { headers.push(name, value); }
        let back = Headers::from_bytes(Bytes::copy_from_slice(headers.as_bytes())).unwrap();
        prop_assert_eq!(back.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect::<Vec<_>>(), pairs);
    }

    #[test]
    fn reading_stored_headers_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
        let _ = Headers::from_bytes(bytes.into());
    }
}
