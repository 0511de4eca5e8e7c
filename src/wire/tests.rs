use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use cloudevents::event::{ExtensionValue, SpecVersion};
use cloudevents::message::{BinaryDeserializer, BinarySerializer, MessageAttributeValue, Result as SdkResult};
use cloudevents::{AttributesReader, EventBuilder, EventBuilderV10};
use proptest::prelude::*;

use super::*;
use crate::catalog::EventDefinition;
use crate::catalog::compiled::{CompiledCatalog, Settings};
use crate::event::{EmitRequest, EventId};
use crate::{Catalog, ContentMode, Naming, PolicyOverrides};

/// What a request becomes on the wire.
fn encode(definition: EventDefinition, request: EmitRequest) -> (Headers, Bytes) {
    let settings = Settings {
        source: &"//shop/orders".parse().unwrap(),
        naming: &Naming::per_event("shop").with_type_prefix("com.example.shop"),
        style: HeaderStyle::Binding,
        overrides: &PolicyOverrides::default(),
        has_outbox: false,
        max_record_bytes: 1_000_000,
    };
    let compiled = CompiledCatalog::compile(Catalog::new([definition]).unwrap(), &settings).unwrap();
    let record = compiled.resolve(request).unwrap().record;
    (record.headers, record.payload.unwrap())
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

/// The record of a request whose definition, in this style, is `definition`.
fn styled(definition: EventDefinition, style: HeaderStyle, request: EmitRequest) -> (Headers, Option<Bytes>) {
    let encoder =
        encode::Encoder::new(&definition, &"//shop/orders".parse().unwrap(), "com.example.shop.order.created", style);
    let mut event = Catalog::new([definition.clone()]).unwrap().accept(request).unwrap();
    encoder.encode(&mut event)
}

fn full_request() -> EmitRequest {
    EmitRequest::new("order.created")
        .id("e-1".parse().unwrap())
        .time(DateTime::from_timestamp(1_772_353_230, 500_000_000).unwrap())
        .tenant("t-é")
        .subject("order 17%")
        .extension("region", "eu")
        .extension("retries", -3)
        .extension("fraudcheck", true)
        .extension("digest", crate::AttributeValue::Binary(vec![0xca, 0xfe].into()))
        .payload(r#"{"b": 1,  "a":"é"}"#)
}

#[test]
fn structured_mode_is_the_json_format_with_the_payload_byte_for_byte() {
    let definition = definition().with_mode(ContentMode::Structured).with_extension("stage", "test");
    let (headers, value) = styled(definition, HeaderStyle::Binding, full_request());
    assert_eq!(
        headers.iter().collect::<Vec<_>>(),
        [("content-type", &b"application/cloudevents+json; charset=utf-8"[..])]
    );
    let expected = concat!(
        r#"{"specversion":"1.0","source":"//shop/orders","type":"com.example.shop.order.created","#,
        r#""datacontenttype":"application/json","resourcetype":"order","eventtype":"created","schemaversion":"1.0.0","#,
        r#""stage":"test","id":"e-1","time":"2026-03-01T08:20:30.500Z","subject":"order 17%","tenantid":"t-é","#,
        r#""region":"eu","retries":-3,"fraudcheck":true,"digest":"yv4=","data":{"b": 1,  "a":"é"}}"#,
    );
    assert_eq!(std::str::from_utf8(&value.unwrap()).unwrap(), expected);
}

#[test]
fn structured_mode_has_other_payloads_in_base64_and_empty_ones_not_at_all() {
    let definition = definition().with_mode(ContentMode::Structured).with_content_type("application/octet-stream");
    let value = |payload: &'static [u8]| {
        let request = EmitRequest::new("order.created").payload(payload);
        let (headers, value) = styled(definition.clone(), HeaderStyle::Binding, request);
        decode(headers.iter(), value.as_deref()).unwrap().data
    };
    assert_eq!(value(b"\x00\xff").as_deref(), Some(&b"\x00\xff"[..]));
    assert_eq!(value(b""), None);
}

#[test]
fn the_dash_style_is_what_lib_streaming_writes() {
    let definition = definition().with_data_schema("https://schemas.example/order.json");
    let (headers, value) = styled(definition, HeaderStyle::Dash, full_request().extension("retries", 7));
    let expected = [
        ("ce-specversion", "1.0"),
        ("ce-source", "//shop/orders"),
        ("ce-type", "com.example.shop.order.created"),
        ("ce-datacontenttype", "application/json"),
        ("ce-dataschema", "https://schemas.example/order.json"),
        ("ce-resourcetype", "order"),
        ("ce-eventtype", "created"),
        ("ce-schemaversion", "1.0.0"),
        ("ce-id", "e-1"),
        ("ce-time", "2026-03-01T08:20:30.5Z"),
        ("ce-subject", "order 17%"),
        ("ce-tenantid", "t-é"),
        ("ce-region", "eu"),
        ("ce-retries", "7"),
        ("ce-fraudcheck", "true"),
        ("ce-digest", "yv4="),
    ];
    assert_eq!(headers.iter().collect::<Vec<_>>(), expected.map(|(name, value)| (name, value.as_bytes())));
    assert_eq!(value.unwrap(), r#"{"b": 1,  "a":"é"}"#);
}

#[test]
fn a_tombstone_has_headers_and_no_value() {
    let (headers, value) = styled(definition(), HeaderStyle::Binding, EmitRequest::new("order.created").tombstone());
    assert_eq!(value, None);
    assert_eq!(decode(headers.iter(), None).unwrap().data, None);
    let structured = definition().with_mode(ContentMode::Structured);
    let refused = Catalog::new([structured]).unwrap().accept(EmitRequest::new("order.created").tombstone());
    assert_eq!(refused.unwrap_err().kind(), crate::ErrorKind::InvalidEvent);
}

#[test]
fn a_record_has_one_style_and_foreign_headers_are_left_alone() {
    let foreign: [(&str, &[u8]); 8] = [
        ("ce-id", b"other"),
        ("ce-zeta", b"1"),
        ("traceparent", b"\xff"),
        ("ce_", b"1"),
        ("ce_UP", b"1"),
        ("ce_with_more", b"\xff"),
        ("ce_\u{e9}", b"1"),
        ("ce_zeta1", b"2"),
    ];
    let event = decode(foreign.into_iter().chain(MINIMAL), Some(b"")).unwrap();
    assert_eq!((&*event.id, event.extensions), ("1", vec![("zeta1".to_owned(), "2".to_owned())]));
    let dash: [(&str, &[u8]); 7] = [
        ("ce-specversion", b"1.0"),
        ("ce-id", b"1"),
        ("ce-source", b"s"),
        ("ce-type", b"t"),
        ("ce_zeta", b"1"),
        ("traceparent", b"p"),
        ("tracestate", b"s"),
    ];
    let event = decode(dash, Some(b"")).unwrap();
    assert_eq!((event.extension("traceparent"), event.extension("tracestate")), (Some("p"), Some("s")));
    assert_eq!(event.extension("zeta"), None);
}

#[test]
fn a_member_that_is_null_is_not_there_and_a_payload_null_is() {
    let data = |members: &str| {
        let value =
            format!(r#"{{"specversion":"1.0","id":"1","source":"s","type":"t","subject":null,"x":null{members}}}"#);
        let event = decode([("content-type", &b"application/cloudevents+json"[..])], Some(value.as_bytes())).unwrap();
        assert!(event.subject.is_none() && event.extensions.is_empty());
        event.data
    };
    assert_eq!(data(""), None);
    assert_eq!(data(r#","data_base64":null"#), None);
    assert_eq!(data(r#","data":1,"data_base64":null"#).as_deref(), Some(&b"1"[..]));
    assert_eq!(data(r#","data":null,"data_base64":"AA==""#).as_deref(), Some(&b"\0"[..]));
    assert_eq!(data(r#","data":null"#).as_deref(), Some(&b"null"[..]));
}

const MINIMAL: [(&str, &[u8]); 4] =
    [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"s"), ("ce_type", b"t")];

#[test]
fn decoding_keeps_unknown_extensions_their_duplicates_and_order_and_leaves_other_headers_alone() {
    let more: [(&str, &[u8]); 5] = [
        ("ce_zeta", b"1"),
        ("ce_alpha", b"2"),
        ("ce_zeta", b"3"),
        ("x-other", b"\xff"),
        ("Content-Type", b"text/plain"),
    ];
    let event = decode(MINIMAL.into_iter().chain(more), Some(b"")).unwrap();
    let extensions = [("zeta", "1"), ("alpha", "2"), ("zeta", "3")];
    assert_eq!(event.extensions, extensions.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(event.content_type.as_deref(), Some("text/plain"));
    assert_eq!(event.data, Some(Bytes::new()), "an empty value is not a tombstone");
}

#[test]
fn the_mode_is_told_by_the_content_type_in_any_case_and_with_parameters() {
    let value = br#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":[1]}"#;
    for content_type in ["application/cloudevents+json", "APPLICATION/CloudEvents+JSON ; charset=UTF-8"] {
        let event = decode([("content-type", content_type.as_bytes())], Some(value)).unwrap();
        assert_eq!(event.data.as_deref(), Some(&b"[1]"[..]), "{content_type}");
    }
    for unsupported in ["application/cloudevents-batch+json", "application/cloudevents+avro"] {
        assert!(decode([("content-type", unsupported.as_bytes())], Some(value)).is_err(), "{unsupported}");
    }
}

#[test]
fn text_that_is_not_json_may_stand_in_structured_data_as_a_string() {
    let value =
        br#"{"specversion":"1.0","id":"1","source":"s","type":"t","datacontenttype":"text/plain","data":"a\nb"}"#;
    let event = decode([("content-type", &b"application/cloudevents+json"[..])], Some(value)).unwrap();
    assert_eq!(event.data.as_deref(), Some(&b"a\nb"[..]));
}

/// Errors end up in logs and on terminals, and those who wrote the record are strangers.
#[test]
fn what_a_stranger_wrote_is_quoted_short_and_without_controls() {
    let control = "\u{1b}[2J\u{0}".repeat(1_000);
    let structured = ("content-type", &b"application/cloudevents+json"[..]);
    let refused = |headers: &[(&str, &[u8])], value: &str| {
        let error = decode(headers.iter().copied(), Some(value.as_bytes())).unwrap_err().to_string();
        assert!(error.len() < 1_000 && !error.chars().any(char::is_control), "{error:?}");
    };
    refused(&[("content-type", format!("application/cloudevents+{control}").as_bytes())], "");
    refused(&[("ce_id", b"17"), ("ce_specversion", control.as_bytes())], "");
    let name = serde_json::Value::from(control.as_str());
    refused(&[structured], &format!("{{{name}: []}}"));
    refused(&[structured], &format!("{{\"specversion\": {name}}}"));
}

#[test]
fn what_is_not_a_cloudevent_is_refused_and_the_attribute_named() {
    for missing in ["ce_specversion", "ce_id", "ce_source", "ce_type"] {
        let rest = MINIMAL.into_iter().filter(|(name, _)| *name != missing);
        let error = decode(rest, Some(b"")).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidEvent);
        assert!(error.to_string().contains(missing.trim_start_matches("ce_")), "{error}");
    }
    for (name, value) in [
        ("ce_specversion", &b"0.3"[..]),
        ("ce_time", b"yesterday"),
        ("ce_id", b"\xff"),
        ("content-type", b"\xff"),
        ("ce_id", b""),
    ] {
        assert!(decode(MINIMAL.into_iter().chain([(name, value)]), Some(b"")).is_err(), "{name}");
    }
    for value in [
        "",
        "[]",
        "{",
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data":1,"data_base64":"AA=="}"#,
        r#"{"specversion":"1.0","id":[],"source":"s","type":"t"}"#,
        r#"{"specversion":"1.0","id":"1","source":"s","type":"t","data_base64":"?"}"#,
    ] {
        let error =
            decode([("content-type", &b"application/cloudevents+json"[..])], Some(value.as_bytes())).unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::InvalidEvent, "{value}");
    }
}

/// The scenarios of the CloudEvents conformance suite, and the way back
/// (<https://github.com/cloudevents/conformance/blob/main/features/kafka-protocol-binding.feature>).
mod conformance {
    use super::*;

    const DATA: &str = r#"{"message": "Hello World!"}"#;

    /// "Then the attributes are: … And the data is equal to the following JSON: …"
    fn assert_is_the_event(event: &CloudEvent) {
        assert_eq!(event.id, "1234-1234-1234");
        assert_eq!(event.event_type, "com.example.someevent");
        assert_eq!(event.source, "/mycontext/subcontext");
        assert_eq!(event.time, Some(DateTime::parse_from_rfc3339("2018-04-05T03:56:24Z").unwrap()));
        assert_eq!(event.content_type.as_deref(), Some("application/json"));
        assert_eq!((&event.subject, &event.data_schema, &*event.extensions), (&None, &None, &[][..]));
        let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).unwrap();
        assert_eq!(json(event.data.as_deref().unwrap()), json(DATA.as_bytes()));
    }

    #[test]
    fn binary_content_mode() {
        let headers: [(&str, &[u8]); 6] = [
            ("ce_specversion", b"1.0"),
            ("ce_id", b"1234-1234-1234"),
            ("ce_type", b"com.example.someevent"),
            ("ce_source", b"/mycontext/subcontext"),
            ("ce_time", b"2018-04-05T03:56:24Z"),
            ("content-type", b"application/json"),
        ];
        assert_is_the_event(&decode(headers, Some(DATA.as_bytes())).unwrap());
    }

    #[test]
    fn structured_content_mode() {
        let value = r#"
        {
            "specversion": "1.0",
            "type": "com.example.someevent",
            "time": "2018-04-05T03:56:24Z",
            "id": "1234-1234-1234",
            "source": "/mycontext/subcontext",
            "datacontenttype": "application/json",
            "data": {
                "message": "Hello World!"
            }
        }
        "#;
        for content_type in ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"] {
            let headers = [("content-type", content_type.as_bytes())];
            assert_is_the_event(&decode(headers, Some(value.as_bytes())).unwrap());
        }
    }

    /// The scenarios' event, emitted: beside its attributes there are those that the library adds to each.
    #[test]
    fn the_event_of_the_scenarios_is_written_in_either_mode() {
        let request = EmitRequest::new("order.created")
            .id("1234-1234-1234".parse().unwrap())
            .time("2018-04-05T03:56:24Z".parse().unwrap())
            .payload(DATA);
        for mode in [ContentMode::Binary, ContentMode::Structured] {
            let definition = definition().with_mode(mode);
            let source = "/mycontext/subcontext".parse().unwrap();
            let encoder = encode::Encoder::new(&definition, &source, "com.example.someevent", HeaderStyle::Binding);
            let mut event = Catalog::new([definition]).unwrap().accept(request.clone()).unwrap();
            let (headers, value) = encoder.encode(&mut event);
            let mut event = decode(headers.iter(), value.as_deref()).unwrap();
            let added: Vec<_> = event.extensions.drain(..).map(|(name, _)| name).collect();
            assert_eq!(added, ["resourcetype", "eventtype", "schemaversion"]);
            assert_is_the_event(&event);
        }
    }
}

fn text(max: usize) -> impl Strategy<Value = String> {
    proptest::collection::vec(
        any::<char>().prop_filter("no controls", |c| !crate::event::attribute::is_refused(*c)),
        1..max,
    )
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
    fn the_sdk_reads_structured_mode_and_what_it_writes_is_decoded_to_the_same(
        id in text(40), tenant in text(40), subject in proptest::option::of(text(80)),
        flag in any::<bool>(), number in any::<i32>(), words in text(30), bytes in proptest::collection::vec(any::<u8>(), 1..40),
        seconds in 0i64..4_000_000_000, nanos in 0u32..1_000_000_000, json in any::<bool>(), payload in text(100),
    ) {
        let time = DateTime::from_timestamp(seconds, nanos).unwrap();
        let payload = if json { serde_json::json!({ "text": payload, "n": [1, null] }).to_string() } else { payload };
        let mut request = EmitRequest::new("order.created").id(id.parse().unwrap()).time(time).tenant(tenant.clone())
            .extension("flag", flag).extension("number", number).extension("words", words.clone())
            .extension("bytes", crate::AttributeValue::Binary(bytes.into())).extension("moment", time)
            .payload(payload.clone());
        if let Some(subject) = &subject { request = request.subject(subject.clone()); }
        let content_type = if json { "application/json" } else { "application/octet-stream" };
        let definition = definition().with_mode(ContentMode::Structured).with_content_type(content_type)
            .with_data_schema("https://schemas.example/o");
        let (headers, value) = styled(definition, HeaderStyle::Binding, request);
        let ours = decode(headers.iter(), value.as_deref()).unwrap();

        let event: cloudevents::Event = serde_json::from_slice(&value.unwrap()).unwrap();
        prop_assert_eq!((event.id(), event.source().as_str(), event.ty()), (&*id, "//shop/orders", "com.example.shop.order.created"));
        prop_assert_eq!(event.time(), Some(&time));
        prop_assert_eq!(event.subject(), subject.as_deref());
        prop_assert_eq!(event.datacontenttype(), Some(content_type));
        prop_assert_eq!(event.dataschema().map(|schema| schema.as_str()), Some("https://schemas.example/o"));
        prop_assert_eq!(event.extension("tenantid"), Some(&ExtensionValue::String(tenant)));
        prop_assert_eq!(event.extension("flag"), Some(&ExtensionValue::Boolean(flag)));
        prop_assert_eq!(event.extension("number"), Some(&ExtensionValue::Integer(number.into())));
        prop_assert_eq!(event.extension("words"), Some(&ExtensionValue::String(words)));
        match event.data().unwrap() {
            cloudevents::Data::Json(value) => prop_assert_eq!(value, &serde_json::from_str::<serde_json::Value>(&payload).unwrap()),
            cloudevents::Data::Binary(bytes) => prop_assert_eq!(bytes, payload.as_bytes()),
            cloudevents::Data::String(text) => prop_assert!(false, "neither JSON nor base64: {text}"),
        }

        let written = serde_json::to_vec(&event).unwrap();
        let mut theirs = decode(headers.iter(), Some(&written)).unwrap();
        // It has no order of extensions, nor the spaces of JSON.
        let sorted = |event: &CloudEvent| event.extensions.iter().cloned().collect::<BTreeMap<_, _>>();
        prop_assert_eq!(sorted(&theirs), sorted(&ours));
        theirs.extensions.clone_from(&ours.extensions);
        if json {
            let parsed = |event: &CloudEvent| serde_json::from_slice::<serde_json::Value>(event.data.as_deref().unwrap()).unwrap();
            prop_assert_eq!(parsed(&theirs), parsed(&ours));
            theirs.data.clone_from(&ours.data);
        }
        prop_assert_eq!(theirs, ours);
    }

    #[test]
    fn what_was_encoded_is_decoded_in_either_mode_and_style(
        id in text(40), tenant in proptest::option::of(text(40)), subject in proptest::option::of(text(80)),
        flag in any::<bool>(), number in any::<i32>(), words in text(30), bytes in proptest::collection::vec(any::<u8>(), 1..40),
        seconds in 0i64..4_000_000_000, nanos in 0u32..1_000_000_000, payload in proptest::collection::vec(any::<u8>(), 0..300),
        trace_parent in "[0-9a-e][0-9a-f]-[0-9a-f]{31}1-[0-9a-f]{15}1-[0-9a-f]{2}",
    ) {
        let time = DateTime::from_timestamp(seconds, nanos).unwrap();
        let mut request = EmitRequest::new("order.created").id(id.parse().unwrap()).time(time).payload(payload.clone())
            .extension("flag", flag).extension("number", number).extension("words", words.clone())
            .extension("bytes", crate::AttributeValue::Binary(bytes.into())).extension("when", time)
            .trace_parent(trace_parent.clone());
        if let Some(tenant) = &tenant { request = request.tenant(tenant.clone()); }
        if let Some(subject) = &subject { request = request.subject(subject.clone()); }
        let expected: Vec<_> = request.extensions.iter().map(|(name, value)| (name.to_owned(), value.to_text().into_owned())).collect();
        for (mode, style) in [
            (ContentMode::Binary, HeaderStyle::Binding),
            (ContentMode::Binary, HeaderStyle::Dash),
            (ContentMode::Structured, HeaderStyle::Binding),
        ] {
            let definition = definition().with_mode(mode).with_content_type("application/octet-stream");
            let (headers, value) = styled(definition, style, request.clone());
            let event = decode(headers.iter(), value.as_deref()).unwrap();
            prop_assert_eq!(&event.id, &id);
            prop_assert_eq!(event.source.as_str(), "//shop/orders");
            prop_assert_eq!(event.event_type.as_str(), "com.example.shop.order.created");
            prop_assert_eq!(event.time, Some(time.fixed_offset()));
            prop_assert_eq!(event.subject.as_ref(), subject.as_ref());
            prop_assert_eq!(event.content_type.as_deref(), Some("application/octet-stream"));
            prop_assert_eq!(event.extension("tenantid"), tenant.as_deref());
            prop_assert!(event.extensions.ends_with(&expected));
            prop_assert_eq!(event.extension("traceparent"), Some(&*trace_parent));
            prop_assert_eq!(event.data.unwrap_or_default(), &payload);
        }
    }

    #[test]
    fn decoding_never_panics(
        headers in proptest::collection::vec(
            (prop_oneof!["ce_[a-z]{0,6}", "ce-(id|time|type)", Just("content-type".to_owned()), ".{0,10}"],
             prop_oneof![proptest::collection::vec(any::<u8>(), 0..30), Just(b"application/cloudevents+json".to_vec()), Just(b"1.0".to_vec())]),
            0..8),
        value in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..200)),
    ) {
        let _ = decode(headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())), value.as_deref());
    }

    #[test]
    fn decoding_a_json_object_never_panics(members in proptest::collection::vec(("[a-z_0-9]{0,12}", "[\\[\\]{}\":,0-9a-z]{0,12}"), 0..6)) {
        let json = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(",");
        let _ = decode([("content-type", &b"application/cloudevents+json"[..])], Some(format!("{{{json}}}").as_bytes()));
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
