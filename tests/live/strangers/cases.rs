//! What is published for strangers to read.

use serde_json::{Map, Value, json};
use tidings::{
    AttributeValue, Catalog, ContentMode, EmitRequest, Emitter, ErrorKind, EventDefinition, Naming, Outcome,
    PartitionKey, PolicyOverride, Producer, ProducerBuilder,
};

use crate::world::World;

/// Definitions by what their payloads are, each in both modes.
const CONTENT_TYPES: [(&str, &str); 6] = [
    ("json", "application/json"),
    ("vendor", "application/vnd.acme.v2+json; charset=utf-8"),
    ("text", "text/plain; charset=utf-8"),
    ("bytes", "application/octet-stream"),
    ("keyed", "application/json"),
    ("system", "application/json"),
];

/// The modes, as the strangers call them.
const MODES: [(&str, ContentMode); 2] = [("binary", ContentMode::Binary), ("structured", ContentMode::Structured)];

/// What the topic takes, and the producer accepts: room for a MiB in base64 too.
const MAX_RECORD_BYTES: &str = "1500000";
pub(super) const LARGE_RECORDS: (&str, &str) = ("max.message.bytes", MAX_RECORD_BYTES);

const MIB: usize = 1 << 20;

const TIME: &str = "2026-11-21T06:15:30.123456Z";

/// An event, and what must be read of it.
#[derive(Debug)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) mode: &'static str,
    /// The key of the record.
    pub(super) key: String,
    pub(super) request: EmitRequest,
    /// Typed, as structured mode has them; binary mode has their texts.
    pub(super) attributes: Map<String, Value>,
    pub(super) is_json: bool,
    /// None of a tombstone.
    pub(super) payload: Option<Vec<u8>>,
}

/// A producer's builder, with a catalog for all cases, whose events all go to the topic of the world.
pub(super) fn builder(world: &World) -> ProducerBuilder {
    let definitions = MODES.into_iter().flat_map(|(name, mode)| {
        CONTENT_TYPES.into_iter().map(move |(kind, content_type)| {
            EventDefinition::new(format!("{kind}.{name}"), kind, name)
                .with_mode(mode)
                .with_content_type(content_type)
                .with_schema_version("1.4.0")
                .with_data_schema(format!("https://schemas.example/{kind}.json?v=1#top"))
                .with_extension("stage", "test")
                .with_partition_key(if kind == "keyed" { PartitionKey::Attribute } else { PartitionKey::Tenant })
                .with_system(kind == "system")
        })
    });
    // However slow the machine: nothing fails for that, and nothing goes another way.
    let patient = [
        ("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "600"),
        ("STREAMING_DIRECT_TIMEOUT_MS", "600000"),
        ("STREAMING_MAX_RECORD_BYTES", MAX_RECORD_BYTES),
    ];
    let topic = world.topic.clone();
    Producer::builder(world.config(&patient), Catalog::new(definitions).unwrap())
        .with_naming(Naming::custom(move |_| topic.clone()).with_type_prefix("com.example"))
}

pub(super) async fn cases(producer: &Producer) -> Vec<Case> {
    let mut cases = Vec::new();
    for (mode, _) in MODES {
        let case = |name: &str, kind: &str| Case::new(name, kind, mode);
        cases.extend([
            case("bare", "json"),
            case("full", "json").full(),
            case("vendor", "vendor").payload(r#"{"a":[1.50,-7e3,null,true,"ä\n\u0000😀"]}"#),
            case("scalar text", "json").payload(r#""ä \"quoted\"""#),
            case("scalar number", "json").payload("17"),
            case("scalar truth", "json").payload("false"),
            case("scalar null", "json").payload("null"),
            case("text", "text").payload("Grüße, 漢字 😀\n\t\"quoted\" {not json"),
            case("bytes", "bytes").payload((0..=255).rev().collect::<Vec<u8>>()),
            case("empty bytes", "bytes").payload(""),
            case("empty text", "text").payload(""),
            case("keyed", "keyed").key("kéy 1").with("partitionkey", "kéy 1".to_owned(), json!("kéy 1")),
            case("not keyed", "json").with("partitionkey", "other".to_owned(), json!("other")),
            case("system", "system").key(&format!("system:{mode}")),
            case("nanoseconds", "json").time("1999-12-31T23:59:59.123456789Z"),
            case("whole seconds", "json").time("2026-11-21T06:15:30Z"),
            case("a MiB", "bytes").payload(noise(MIB)),
            case("largest", "bytes").largest(producer).await,
        ]);
        if mode == "binary" {
            cases.push(case("tombstone", "json").tombstone());
        }
    }
    cases
}

impl Case {
    fn new(name: &str, kind: &str, mode: &'static str) -> Self {
        let id = format!("{mode}, {name}, ü");
        let tenant = "tenant-ü";
        let (_, content_type) = CONTENT_TYPES.into_iter().find(|(other, _)| *other == kind).unwrap();
        let attributes = json!({
            "specversion": "1.0",
            "id": id,
            "source": "//shop/orders",
            "type": format!("com.example.{kind}.{mode}"),
            "time": TIME,
            "datacontenttype": content_type,
            "dataschema": format!("https://schemas.example/{kind}.json?v=1#top"),
            "resourcetype": kind,
            "eventtype": mode,
            "schemaversion": "1.4.0",
            "stage": "test",
        });
        let Value::Object(mut attributes) = attributes else { unreachable!("it is written above") };
        // A system event has none. Truth values are extensions of the library's own, and so they are texts.
        let (name, value) = if kind == "system" { ("systemevent", "true") } else { ("tenantid", tenant) };
        attributes.insert(name.to_owned(), value.into());
        let request = EmitRequest::new(format!("{kind}.{mode}")).tenant(tenant).id(id.parse().unwrap());
        let case = Self { id, mode, key: tenant.into(), request, attributes, is_json: false, payload: None };
        Self { is_json: content_type.contains("json"), ..case }.time(TIME).payload("{}")
    }

    fn payload(mut self, payload: impl Into<Vec<u8>>) -> Self {
        let payload = payload.into();
        self.request = self.request.payload(payload.clone());
        self.payload = Some(payload);
        self
    }

    fn tombstone(mut self) -> Self {
        self.request = self.request.tombstone();
        self.payload = None;
        self
    }

    fn key(mut self, key: &str) -> Self {
        self.key = key.to_owned();
        self
    }

    fn time(mut self, time: &str) -> Self {
        self.request = self.request.time(time.parse().unwrap());
        self.attributes.insert("time".to_owned(), time.into());
        self
    }

    fn with(mut self, name: &'static str, value: impl Into<AttributeValue>, expected: Value) -> Self {
        self.request = self.request.extension(name, value);
        self.attributes.insert(name.to_owned(), expected);
        self
    }

    /// Everything that can be set: the types of the specification, and the extensions that it documents.
    fn full(mut self) -> Self {
        let time = TIME.parse().unwrap();
        self.request = self
            .request
            .subject("order 17/ß %20+?&=\\\"")
            .sequence("00000042")
            .data_ref("../blobs/17?x=%C3%A4#y")
            .expiry_time(time)
            .recorded_time(time)
            .severity(13)
            .severity_text("WARN")
            .correlation_id("corr-é")
            .causation_id("cause 1")
            .trace_parent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .trace_state("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
        let expected = json!({
            "subject": "order 17/ß %20+?&=\\\"",
            "sequence": "00000042",
            "dataref": "../blobs/17?x=%C3%A4#y",
            "expirytime": TIME,
            "recordedtime": TIME,
            "severitytext": "WARN",
            "severitynumber": 13,
            "correlationid": "corr-é",
            "causationid": "cause 1",
            "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "tracestate": "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
        });
        self.attributes.extend(expected.as_object().unwrap().clone());
        self.with("yes", true, json!(true))
            .with("no", false, json!(false))
            .with("negative", -3, json!(-3))
            .with("least", i32::MIN, json!(i32::MIN))
            .with("most", i32::MAX, json!(i32::MAX))
            .with("words", "ä 漢字 😀 a,b=c;\"q\" \\ %41", json!("ä 漢字 😀 a,b=c;\"q\" \\ %41"))
            .with("digest", AttributeValue::Binary(vec![0, 255, 0xca, 0xfe].into()), json!("AP/K/g=="))
            .with(
                "link",
                AttributeValue::Uri("https://example.com/a?b=c#d".into()),
                json!("https://example.com/a?b=c#d"),
            )
            .with("refers", AttributeValue::UriReference("../a/b?c".into()), json!("../a/b?c"))
            .with("moment", time, json!(TIME))
            .with("comexampleextension1", "the longest name", json!("the longest name"))
            .payload(
                "{ \"text\" : \"ä ß 漢字 😀 \\u0000 \\u00e4 </a>&\",\n\t\"n\":1.50, \"big\": 12345678901234567890 }",
            )
    }

    /// A payload of as many bytes as are accepted, which no compression makes smaller.
    async fn largest(self, producer: &Producer) -> Self {
        let noise = noise(2 * MIB);
        let (mut accepted, mut refused) = (0, noise.len());
        while accepted + 1 < refused {
            let middle = usize::midpoint(accepted, refused);
            // It is checked as any other, and then not sent.
            let disabled = PolicyOverride::default().with_enabled(false);
            let request = self.request.clone().payload(noise[..middle].to_vec()).policy(disabled);
            match producer.emit(request).await {
                Ok(receipt) => {
                    assert_eq!(receipt.outcome, Outcome::Disabled);
                    accepted = middle;
                }
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::TooLarge);
                    refused = middle;
                }
            }
        }
        assert!(accepted > MIB, "{accepted}");
        self.payload(&noise[..accepted])
    }
}

fn noise(len: usize) -> Vec<u8> {
    let mut state: u64 = 1;
    let mut byte = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    (0..len).map(|_| byte()).collect()
}
