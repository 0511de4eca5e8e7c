//! What every parser and decoder is held to, whatever it is given: more than that it does not panic.
//!
//! `fuzz/` has a target for each function here. `cargo test` runs each over the corpus of its target, without a fuzzer.
#![allow(clippy::unwrap_used, reason = "an unwrap is an assertion here: the fuzzer reports the input that breaks it")]

use std::str::from_utf8;
use std::sync::LazyLock;

use base64::Engine;
use bytes::Bytes;
use chrono::Datelike;

use crate::admin;
use crate::catalog::compiled::{CompiledCatalog, Settings};
use crate::event::attribute::{self, Source};
use crate::naming::{MAX_TOPIC_BYTES, is_topic};
use crate::outbox::schema::Schema;
use crate::outbox::{Lanes, envelope, multirange};
use crate::sanitize::{cut, sanitize as sanitized};
use crate::transport::Record;
use crate::wire::dead_letter::{DeadLetters, LIB_STREAMING_PREFIX};
use crate::wire::{self, CloudEvent, DEAD_LETTER_PREFIX, DeadLetter, HeaderStyle, Headers};
use crate::{
    AttributeValue, Catalog, Config, ContentMode, EmitRequest, Error, EventDefinition, EventId, Naming,
    PolicyOverrides, RateLimit,
};

/// What is held to something, whatever its input.
pub type Target = fn(&[u8]);

/// The targets by their names.
pub const TARGETS: [(&str, Target); 11] = [
    ("attributes", attributes),
    ("catalog", catalog),
    ("config", config),
    ("dead_letter", dead_letter),
    ("decode", decode),
    ("emit", emit),
    ("envelope", envelope),
    ("policies", policies),
    ("redrive", redrive),
    ("sanitize", sanitize),
    ("settled", settled),
];

/// A credential that must never be quoted.
const SECRET: &str = "pl4nted-s3cret";

/// Up to the first of this byte, and behind it.
fn split(data: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let index = data.iter().position(|byte| *byte == at)?;
    Some((&data[..index], &data[index + 1..]))
}

/// The next line as text, if it is one.
fn line<'a>(data: &mut &'a [u8]) -> Option<&'a str> {
    let (line, rest) = split(data, b'\n').unwrap_or((data, &[]));
    *data = rest;
    from_utf8(line).ok()
}

type Header<'a> = (&'a str, &'a [u8]);

/// Headers in lines `name:value`, and the value of a record behind an empty line. Without one it has no value.
fn record(mut data: &[u8]) -> (Vec<Header<'_>>, Option<&[u8]>) {
    let mut headers = Vec::new();
    while let Some((line, rest)) = split(data, b'\n') {
        data = rest;
        if line.is_empty() {
            return (headers, Some(data));
        }
        let (name, value) = split(line, b':').unwrap_or((line, &[]));
        headers.push((from_utf8(name).unwrap_or("content-type"), value));
    }
    (headers, None)
}

fn stored(headers: &[Header<'_>]) -> Headers {
    let mut stored = Headers::default();
    for (name, value) in headers {
        stored.push(name, value);
    }
    stored
}

/// Whether a text can be quoted in an error: no terminal takes it for a command.
fn has_control(text: &str) -> bool {
    text.chars().any(|c| c.is_control() && c != '\n')
}

/// Records that others wrote. What was read can be written in either mode, and reads the same.
pub fn decode(data: &[u8]) {
    let (headers, value) = record(data);
    let event = match wire::decode(headers.iter().copied(), value) {
        Ok(event) => event,
        Err(error) => return assert!(error.is_caller_error() && !has_control(&error.to_string()), "{error:?}"),
    };
    assert!(!event.id.is_empty() && !event.source.is_empty() && !event.event_type.is_empty());
    if let Ok(theirs) = wire::to_cloudevent(&stored(&headers), value.unwrap_or_default())
        && headers.iter().filter(|(name, _)| *name == "ce_id").count() == 1
    {
        assert_eq!(cloudevents::AttributesReader::id(&theirs), event.id);
    }
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if event.extensions.iter().all(|(name, _)| is_name(name)) {
        assert_eq!(wire::decode(binary(&event).iter(), event.data.as_deref()).unwrap(), event);
    }
    if event.extension("data").is_none() {
        let again = wire::decode([("content-type", &b"application/cloudevents+json"[..])], Some(&structured(&event)));
        assert_eq!(again.unwrap(), event);
    }
}

/// The attributes of an event in the order of their names, extensions last.
fn attributes_of(event: &CloudEvent) -> Vec<(&str, String)> {
    let optional = |text: &Option<String>| text.clone();
    let attributes = [
        ("specversion", Some("1.0".to_owned())),
        ("id", Some(event.id.clone())),
        ("source", Some(event.source.clone())),
        ("type", Some(event.event_type.clone())),
        ("time", event.time.map(|time| time.to_rfc3339())),
        ("subject", optional(&event.subject)),
        ("datacontenttype", optional(&event.content_type)),
        ("dataschema", optional(&event.data_schema)),
    ];
    let own = attributes.into_iter().filter_map(|(name, text)| Some((name, text?)));
    own.chain(event.extensions.iter().map(|(name, text)| (name.as_str(), text.clone()))).collect()
}

fn binary(event: &CloudEvent) -> Headers {
    let mut headers = Headers::default();
    for (name, text) in attributes_of(event) {
        headers.push_prefixed("ce_", name, text.as_bytes());
    }
    headers
}

fn structured(event: &CloudEvent) -> Vec<u8> {
    let json = |text: &str| serde_json::Value::from(text).to_string();
    let mut members: Vec<_> =
        attributes_of(event).iter().map(|(name, text)| format!("{}:{}", json(name), json(text))).collect();
    if let Some(data) = &event.data {
        members.push(format!("\"data_base64\":\"{}\"", base64::prelude::BASE64_STANDARD.encode(data)));
    }
    format!("{{{}}}", members.join(",")).into_bytes()
}

/// The headers of dead letters, ours and lib-streaming's. What was read can be written, and reads the same.
pub fn dead_letter(data: &[u8]) {
    let (headers, _) = record(data);
    for prefix in [DEAD_LETTER_PREFIX, LIB_STREAMING_PREFIX] {
        let Ok(mut letter) = DeadLetter::read(headers.iter().copied(), prefix) else { continue };
        if !(0..=9999).contains(&letter.first_failure_at.year()) {
            continue;
        }
        let (read, bytes) = (letter.clone(), letter.omitted_payload_bytes);
        let how = DeadLetters { prefix: prefix.into(), style: HeaderStyle::Binding, max_bytes: usize::MAX };
        let payload = Bytes::from(vec![0; bytes.unwrap_or_default().min(1_000)]);
        let event = Record { topic: "t".into(), key: "k".into(), headers: Headers::default(), payload: Some(payload) };
        let dead = letter.record(&event, &"t.dlq".into(), &how);
        assert_eq!(DeadLetter::read(dead.headers.iter(), prefix).unwrap(), read);
    }
}

/// Dead letters on their way back into the outbox: whatever is not refused, a database takes, and it can be delivered.
pub fn redrive(mut data: &[u8]) {
    let (key, _) = split(data, b'\n').unwrap_or((data, &[]));
    let key = Bytes::copy_from_slice(key);
    let _ = line(&mut data);
    let (headers, value) = record(data);
    let dead = admin::DeadRecord::new(key, stored(&headers), value.map(Bytes::copy_from_slice));
    let Ok(row) = admin::revive(&dead, Lanes::new(32, 0).unwrap()) else { return };
    let key = from_utf8(&row.record.key).unwrap();
    for text in [key, &row.definition_key, &row.record.topic, &row.event_id.to_string()] {
        assert!(!text.is_empty() && !text.chars().any(attribute::is_refused), "{text:?}");
    }
    assert!(is_topic(&row.record.topic) && row.lane < 32);
    assert!(row.record.headers.iter().all(|(name, _)| !name.starts_with(DEAD_LETTER_PREFIX)));
    wire::decode(row.record.headers.iter(), row.record.payload.as_deref()).unwrap();
}

/// Rows of the outbox: version, topic, key, whether there is a payload, and the bytes of the headers.
pub fn envelope(mut data: &[u8]) {
    let Some((version, rest)) = data.split_first() else { return };
    data = rest;
    let (Some(topic), Some(key), Some(payload)) = (line(&mut data), line(&mut data), line(&mut data)) else { return };
    let key = Bytes::copy_from_slice(key.as_bytes());
    let payload = (!payload.is_empty()).then(|| payload.as_bytes().to_vec());
    let version = i16::from(version.wrapping_sub(b'0'));
    let Ok(record) = envelope::decode(version, topic, key.clone(), data.to_vec(), payload.clone()) else { return };
    assert_eq!((version, &*record.topic, &record.key), (envelope::VERSION, topic, &key));
    assert_eq!(record.payload.as_deref(), payload.as_deref());
    assert_eq!(record.headers.as_bytes(), data, "stored again it is the same row");
    let headers: Vec<_> = record.headers.iter().collect();
    assert_eq!(headers.len(), record.headers.count(), "no header is left out");
    assert_eq!(stored(&headers), record.headers, "there is one way to write headers");
    assert!(record.wire_bytes() > record.key.len() + data.len());
    let _ = wire::decode(headers, record.payload.as_deref());
}

/// Sets of settled numbers, and numbers of lanes, as the database has them.
pub fn settled(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if let Some(set) = multirange::from_text(text) {
        assert!(set.iter().all(|range| range.start < range.end));
        assert_eq!(multirange::from_text(&multirange::to_text(&set)), Some(set));
    }
    if let Ok(lanes) = text.parse().map_err(drop).and_then(|layout| Lanes::from_layout(layout).map_err(drop)) {
        assert!((1..=Lanes::MAX).contains(&lanes.count()));
        assert_eq!(Lanes::from_layout(lanes.layout()).unwrap(), lanes);
    }
}

/// `STREAMING_EVENT_POLICIES`: what is read does not hang on the order of its entries, nor on what parts them.
pub fn policies(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let Ok(overrides) = text.parse::<PolicyOverrides>() else { return };
    assert!(overrides.keys().all(|key| attribute::check("key", key, 256, crate::ErrorKind::InvalidPolicy).is_ok()));
    let entries: Vec<_> = text.split([',', ';', '\n']).rev().collect();
    assert_eq!(entries.join("\n").parse::<PolicyOverrides>().unwrap(), overrides);
}

/// Files of a catalog. What was read can be written, and reads the same; its topics are ones that Kafka takes.
pub fn catalog(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    for read in [Catalog::from_json(text), Catalog::from_toml(text)] {
        let Ok(catalog) = read else { continue };
        let json = catalog.to_json().unwrap();
        assert_eq!(Catalog::from_json(&json).unwrap().to_json().unwrap(), json);
        if let Ok(compiled) = CompiledCatalog::compile(catalog, &settings(HeaderStyle::Binding)) {
            assert!(compiled.topics().iter().all(|topic| is_topic(topic)));
        }
    }
}

/// Settings of the environment, one in a line. No credential among them is ever shown.
pub fn config(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    if text.contains(SECRET) {
        return;
    }
    let given: Vec<_> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let secret = format!("shop:{SECRET}");
    let properties = format!("ssl.key.password={SECRET}");
    let planted = [
        ("STREAMING_SASL_USERNAME", "shop"),
        ("STREAMING_SASL_PASSWORD", SECRET),
        ("STREAMING_TLS_CLIENT_KEY", &secret),
        ("STREAMING_KAFKA_PROPERTIES", &properties),
    ];
    let shown = match Config::from_vars(planted.into_iter().chain(given)) {
        Ok(config) => format!("{config:?} {:?}", config.warnings()),
        Err(error) => format!("{error:?} {error}"),
    };
    assert!(!shown.contains(SECRET), "{shown}");
}

/// Texts that end up in headers, topics, URLs and statements: they are taken as they are, or refused.
pub fn attributes(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let is_clean = |max: usize| (1..=max).contains(&text.len()) && !text.chars().any(attribute::is_refused);
    match text.parse::<EventId>() {
        Ok(id) => assert!(id.to_string() == text && is_clean(attribute::MAX_ID_BYTES)),
        Err(_) => assert!(!is_clean(attribute::MAX_ID_BYTES), "{text:?}"),
    }
    let source = text.parse::<Source>();
    if let Ok(source) = &source {
        assert!(source.as_str() == text && text.is_ascii() && is_clean(attribute::MAX_SOURCE_BYTES));
    }
    if let Ok(limit) = text.parse::<RateLimit>() {
        let again = format!("{}/{}", limit.per_second(), limit.burst());
        assert_eq!(again.parse::<RateLimit>().unwrap(), limit);
    }
    if attribute::schema_version(text).is_some() {
        assert!(text.is_ascii() && text.bytes().any(|b| b.is_ascii_digit()));
    }
    let is_json = attribute::is_media_type(text) && attribute::is_json(text);
    assert!(!is_json || text.to_ascii_lowercase().contains("json"));
    if Schema::named(text).is_ok() {
        assert!(text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{text}");
    }
    let definition = EventDefinition::new("k", "order", "created").with_schema_version(text);
    let source = source.unwrap_or_else(|_| "shop".parse().unwrap());
    for naming in [Naming::per_event(text), Naming::per_application(text), Naming::lib_streaming_v3()] {
        let Ok(names) = naming.names(&definition, &source) else { continue };
        for topic in [names.topic, names.dlq_topic] {
            let is_kafkas = topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
            assert!(is_kafkas && (1..=MAX_TOPIC_BYTES).contains(&topic.len()) && !topic.starts_with('.'), "{topic}");
        }
    }
}

/// Texts that are logged and dead-lettered: a credential in a place where one is known to be is taken out, whatever stands
/// around it.
pub fn sanitize(data: &[u8]) {
    let Ok(text) = from_utf8(data) else { return };
    let (before, after) = text.split_once('\n').unwrap_or((text, ""));
    if text.contains(SECRET) {
        return;
    }
    for text in [
        format!("{before} password={SECRET} {after}"),
        format!("{before} https://user:{SECRET}@host/{after}"),
        format!("{before} Authorization: Bearer {SECRET} {after}"),
    ] {
        assert!(!sanitized(&text).contains(SECRET), "{text:?}");
    }
    for max in [0, 60, 200] {
        let short = cut(text, max);
        assert!(short.len() <= max.max(60), "{short}");
    }
}

fn settings(style: HeaderStyle) -> Settings<'static> {
    static SOURCE: LazyLock<Source> = LazyLock::new(|| "//shop".parse().unwrap());
    static NAMING: LazyLock<Naming> = LazyLock::new(Naming::default);
    static OVERRIDES: LazyLock<PolicyOverrides> = LazyLock::new(PolicyOverrides::default);
    Settings {
        source: &SOURCE,
        naming: &NAMING,
        style,
        overrides: &OVERRIDES,
        has_outbox: true,
        max_record_bytes: 1_048_576,
    }
}

/// Requests of callers: each is refused, and nothing else than the caller is at fault, or its record is the event that was
/// asked for.
pub fn emit(mut data: &[u8]) {
    static CATALOGS: LazyLock<[CompiledCatalog; 2]> = LazyLock::new(|| {
        [HeaderStyle::Binding, HeaderStyle::Dash].map(|style| {
            let definition = |key: &str, mode, content_type: &str| {
                EventDefinition::new(key, "order", key).with_mode(mode).with_content_type(content_type)
            };
            let catalog = Catalog::new([
                definition("json", ContentMode::Binary, "application/json"),
                definition("text", ContentMode::Binary, "text/plain"),
                definition("structured-json", ContentMode::Structured, "application/json"),
                definition("structured-text", ContentMode::Structured, "text/plain"),
            ]);
            CompiledCatalog::compile(catalog.unwrap(), &settings(style)).unwrap()
        })
    });
    let Some((choice, rest)) = data.split_first() else { return };
    data = rest;
    let [Some(tenant), Some(subject), Some(id), Some(name), Some(value)] = std::array::from_fn(|_| line(&mut data))
    else {
        return;
    };
    let Ok(id) = id.parse::<EventId>() else { return };
    let key = ["json", "text", "structured-json", "structured-text"][usize::from(choice & 3)];
    let mut request = EmitRequest::new(key).id(id.clone()).subject(subject.to_owned()).payload(data.to_vec());
    if choice & 8 == 0 {
        request = request.tenant(tenant.to_owned());
    }
    if !name.is_empty() {
        request = request.extension(name.to_owned(), AttributeValue::from(value.to_owned()));
    }
    let style = usize::from(choice >> 2 & 1);
    let resolved = match CATALOGS[style].resolve(request) {
        Ok(resolved) => resolved,
        Err(error) => return is_of_the_caller(&error, &id),
    };
    let record = resolved.record;
    assert!(!record.key.is_empty() && is_topic(&record.topic) && record.wire_bytes() <= 1_048_576);
    let event = wire::decode(record.headers.iter(), record.payload.as_deref()).unwrap();
    assert_eq!(
        (event.id, event.source, event.subject.as_deref()),
        (id.to_string(), "//shop".to_owned(), Some(subject))
    );
    let extension = |name: &str| event.extensions.iter().find(|(other, _)| other == name).map(|(_, text)| &**text);
    assert_eq!(extension("tenantid"), (choice & 8 == 0).then_some(tenant));
    assert!(name.is_empty() || extension(name) == Some(value), "{name}");
    let read = event.data.unwrap_or_default();
    if key == "structured-json" {
        // Space around a payload is none of it, as its bytes are a member of an object.
        assert_eq!(read.trim_ascii(), data.trim_ascii());
    } else {
        assert_eq!(read, data);
    }
}

fn is_of_the_caller(error: &Error, id: &EventId) {
    assert!(error.is_caller_error() && !error.is_retryable() && !error.is_ambiguous(), "{error:?}");
    assert_eq!(error.event_id(), Some(id));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::Path;

    #[test]
    fn every_target_holds_for_its_corpus() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        for (name, target) in TARGETS {
            let inputs = fs::read_dir(fuzz.join("corpus").join(name)).unwrap();
            let inputs: Vec<_> = inputs.map(|entry| fs::read(entry.unwrap().path()).unwrap()).collect();
            assert!(inputs.len() >= 3, "{name}");
            for input in inputs {
                target(&input);
            }
        }
    }

    #[test]
    fn every_target_has_a_program_and_there_are_no_others() {
        let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
        let manifest: toml::Table = fs::read_to_string(fuzz.join("Cargo.toml")).unwrap().parse().unwrap();
        let bins = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
        let names: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(bins.collect::<BTreeSet<_>>(), names);
        for name in names {
            let program = fs::read_to_string(fuzz.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
            assert!(program.contains(&format!("tidings::fuzzing::{name}(data)")), "{name}");
        }
    }
}
