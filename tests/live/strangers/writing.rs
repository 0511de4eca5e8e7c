//! We read what strangers publish.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use tidings::ErrorKind;
use tidings::wire::{self, CloudEvent};

use super::peer::{Kind, Peer};
use crate::support::topic;
use crate::world::{World, stranger, world};

const TIME: &str = "2026-11-21T06:15:30.123456Z";

/// A MiB is more than a topic takes unasked.
const LARGE_RECORDS: (&str, &str) = ("max.message.bytes", "4000000");

/// An event that a peer is to write, and what must be read of it.
#[derive(Debug)]
struct Line {
    name: &'static str,
    content_type: &'static str,
    /// Beside those that all have: as the peer gets them, and their canonical texts.
    extensions: Vec<(&'static str, Value, &'static str)>,
    data: Value,
    payload: Option<Vec<u8>>,
}

/// What becomes of a line.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    /// It is read as it was meant.
    Read,
    /// The peer's library does not write it.
    Unwritten,
    /// It is no CloudEvent.
    Refused,
}

impl Line {
    fn new(name: &'static str, content_type: &'static str, data: Value, payload: Option<&[u8]>) -> Self {
        Self { name, content_type, extensions: Vec::new(), data, payload: payload.map(<[u8]>::to_vec) }
    }

    fn with(mut self, name: &'static str, value: Value, text: &'static str) -> Self {
        self.extensions.push((name, value, text));
        self
    }

    fn id(&self, mode: &str) -> String {
        format!("{mode}, {}, ü", self.name)
    }

    /// The line for the peer.
    fn to_json(&self, mode: &str) -> Value {
        let mut attributes = json!({
            "specversion": "1.0",
            "id": self.id(mode),
            "source": "//stranger/a?b=c#d",
            "type": "com.example.stränge",
            "time": { "timestamp": TIME },
            "subject": "order 17/ß %20+?&=\\\"",
            "datacontenttype": self.content_type,
            "dataschema": "https://schemas.example/order.json?v=1#top",
        });
        for (name, value, _) in &self.extensions {
            attributes[*name] = value.clone();
        }
        json!({ "mode": mode, "attributes": attributes, "data": self.data })
    }
}

fn lines() -> Vec<Line> {
    let words = "ä 漢字 😀 a,b=c;\"q\" \\ %41";
    let large: Vec<u8> = (0..1_048_576_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect();
    let in_base64 = |bytes: &[u8]| json!({ "base64": BASE64_STANDARD.encode(bytes) });
    let text = "Grüße, 漢字 😀\n\t\"quoted\" {not json";
    let object = json!({ "text": "ä 😀 \0 </a>&", "n": 1.5, "list": [null, true, -7] });
    let bytes = [0, 255, 1, 254, b'"'];
    vec![
        Line::new("json", "application/json", json!({ "json": object }), Some(object.to_string().as_bytes()))
            .with("words", json!(words), words)
            .with(
                "traceparent",
                json!("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
                "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            ),
        Line::new("text", "text/plain; charset=utf-8", json!({ "text": text }), Some(text.as_bytes())),
        Line::new("bytes", "application/octet-stream", in_base64(&bytes), Some(&bytes)),
        Line::new("json bytes", "application/json", in_base64(b"{ \"a\" : 1.50 }"), Some(b"{ \"a\" : 1.50 }")),
        Line::new("large", "application/octet-stream", in_base64(&large), Some(&large)),
        Line::new("empty", "application/octet-stream", in_base64(b""), Some(b"")),
        Line::new("nothing", "application/octet-stream", Value::Null, None),
        Line::new("integers", "text/plain", json!({ "text": "a" }), Some(b"a"))
            .with("count", json!(-3), "-3")
            .with("least", json!(i32::MIN), "-2147483648")
            .with("most", json!(i32::MAX), "2147483647"),
        Line::new("truth", "text/plain", json!({ "text": "a" }), Some(b"a")).with("yes", json!(true), "true").with(
            "no",
            json!(false),
            "false",
        ),
        Line::new("moment", "text/plain", json!({ "text": "a" }), Some(b"a")).with(
            "moment",
            json!({ "timestamp": TIME }),
            TIME,
        ),
        Line::new("digest", "text/plain", json!({ "text": "a" }), Some(b"a")).with(
            "digest",
            json!({ "binary": "AP/K/g==" }),
            "AP/K/g==",
        ),
        Line::new("links", "text/plain", json!({ "text": "a" }), Some(b"a"))
            .with("link", json!({ "uri": "https://example.com/a?b=c#d" }), "https://example.com/a?b=c#d")
            .with("refers", json!({ "uriref": "../a/b?c" }), "../a/b?c"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_python_sdk_publishes_is_decoded() {
    let peer = Peer::new(Kind::Python, stranger!("TIDINGS_STRANGER_PYTHON"));
    check(&peer, &world!(open_with_topic, &[LARGE_RECORDS])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_older_interface_of_the_python_sdk_publishes_is_decoded() {
    let peer = Peer::new(Kind::PythonV1, stranger!("TIDINGS_STRANGER_PYTHON"));
    check(&peer, &world!(open_with_topic, &[LARGE_RECORDS])).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_go_sdk_publishes_is_decoded() {
    let peer = Peer::new(Kind::Go, stranger!("TIDINGS_STRANGER_GO"));
    check(&peer, &world!(open_with_topic, &[LARGE_RECORDS])).await;
}

/// Has the peer write the lines, and reads them.
async fn check(peer: &Peer, world: &World) {
    let lines: Vec<_> = ["binary", "structured"]
        .into_iter()
        .flat_map(|mode| lines().into_iter().map(move |line| (mode, line)))
        .collect();
    let input: Vec<_> = lines.iter().map(|(mode, line)| line.to_json(mode)).collect();
    let written = peer.write(world, &input).await;
    let records = topic::read_all_to_end(&world.brokers, &world.topic).await;
    let decode = |record: &topic::AnyRecord| {
        let headers = record.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        wire::decode(headers, record.payload.as_deref())
    };
    let (events, refusals): (Vec<_>, Vec<_>) = records.iter().map(decode).partition(Result::is_ok);
    let events: Vec<_> = events.into_iter().map(Result::unwrap).collect();
    for refusal in &refusals {
        assert_eq!(refusal.as_ref().unwrap_err().kind(), ErrorKind::InvalidEvent);
    }
    for ((mode, line), unwritten) in lines.iter().zip(&written) {
        let event = events.iter().find(|event| event.id == line.id(mode));
        let fate = match (event, unwritten) {
            (Some(_), None) => Fate::Read,
            (None, Some(_)) => Fate::Unwritten,
            (None, None) => Fate::Refused,
            (Some(_), Some(_)) => panic!("{line:?} was not written, and is there"),
        };
        assert_eq!(fate, expected_fate(peer.kind, mode, line.name), "{mode}, {}: {unwritten:?}", line.name);
        if let Some(event) = event {
            compare(peer.kind, mode, line, event);
        }
    }
    // Every line that should be there was found, so there are no others.
    let refused = lines.iter().any(|(mode, line)| expected_fate(peer.kind, mode, line.name) == Fate::Refused);
    assert_eq!(!refusals.is_empty(), refused);
}

fn expected_fate(peer: Kind, mode: &str, name: &str) -> Fate {
    match (peer, mode, name) {
        // It knows no bytes as attributes, and leaves them to JSON, which knows none either.
        (Kind::Python | Kind::PythonV1, "structured", "digest") => Fate::Unwritten,
        // Its attributes are texts.
        (Kind::PythonV1, "binary", "integers" | "truth" | "digest") => Fate::Unwritten,
        // It gives the record the content type of the data, so that nothing says that the record is in structured mode.
        (Kind::PythonV1, "structured", _) => Fate::Refused,
        _ => Fate::Read,
    }
}

/// The payload that is read.
fn expected_payload<'a>(peer: Kind, mode: &str, line: &'a Line) -> Option<&'a [u8]> {
    match (peer, mode, line.name) {
        // It writes no bytes as no value at all.
        (Kind::Go, "binary", "empty") => None,
        // It writes no data as an empty value, ...
        (Kind::Python, "binary", "nothing") => Some(b""),
        // ... and its older interface as JSON.
        (Kind::PythonV1, "binary", "nothing") => Some(b"null"),
        _ => line.payload.as_deref(),
    }
}

/// The text of an extension attribute that is read.
fn expected_text(peer: Kind, mode: &str, name: &str, text: &'static str) -> &'static str {
    match (peer, mode, name) {
        // It writes what Python calls the value, not what the specification does (section 3.1, "Type System").
        (Kind::Python, "binary", "yes") => "True",
        (Kind::Python, "binary", "no") => "False",
        (Kind::Python, "binary", "digest") => r"b'\x00\xff\xca\xfe'",
        _ => text,
    }
}

fn compare(peer: Kind, mode: &str, line: &Line, event: &CloudEvent) {
    let what = format!("{peer:?}, {mode}, {}", line.name);
    assert_eq!(event.source, "//stranger/a?b=c#d", "{what}");
    assert_eq!(event.event_type, "com.example.stränge", "{what}");
    assert_eq!(event.time.unwrap().to_utc().to_rfc3339_opts(chrono::SecondsFormat::Micros, true), TIME, "{what}");
    assert_eq!(event.subject.as_deref(), Some("order 17/ß %20+?&=\\\""), "{what}");
    assert_eq!(event.content_type.as_deref(), Some(line.content_type), "{what}");
    assert_eq!(event.data_schema.as_deref(), Some("https://schemas.example/order.json?v=1#top"), "{what}");
    let found: BTreeMap<_, _> = event.extensions.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let expected: BTreeMap<_, _> =
        line.extensions.iter().map(|(name, _, text)| (*name, expected_text(peer, mode, name, text))).collect();
    assert_eq!(found, expected, "{what}");
    let (data, payload) = (event.data.as_deref(), expected_payload(peer, mode, line));
    if line.data.get("json").is_some() {
        // Written by the peer from what it has parsed.
        let parsed = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).unwrap();
        assert_eq!(data.map(parsed), payload.map(parsed), "{what}");
    } else {
        assert!(data == payload, "{what}: {:?}", data.map(|data| &data[..data.len().min(500)]));
    }
}
