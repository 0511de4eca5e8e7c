//! What an event looks like on the topic.

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};

use super::Headers;
use crate::catalog::{ContentMode, EventDefinition};
use crate::event::Event;
use crate::event::attribute::{self, Source};
use crate::event::extension::{time_text, with_time_text};

/// How the names of the headers are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderStyle {
    /// `ce_id`, `content-type`: the CloudEvents Kafka binding, which every SDK reads.
    #[default]
    Binding,
    /// `ce-id`, `ce-datacontenttype`: what lib-streaming writes and reads, byte for byte, in dead letters too. No
    /// CloudEvents SDK knows it.
    Dash,
}

impl HeaderStyle {
    /// A time as the headers have it.
    pub(super) fn time_text(self, time: &DateTime<Utc>) -> String {
        match self {
            Self::Binding => time_text(time),
            // Go's RFC3339Nano, without the zeros at the end of the fraction.
            Self::Dash => {
                let text = time.to_rfc3339_opts(SecondsFormat::Nanos, true);
                let text = text.trim_end_matches('Z').trim_end_matches('0').trim_end_matches('.');
                format!("{text}Z")
            }
        }
    }
}

/// The extension attributes that lib-streaming writes as headers of their own, without a prefix, behind all others and in
/// this order.
pub(super) const TRACE_CONTEXT: [&str; 2] = ["traceparent", "tracestate"];

/// The content type of a record in structured mode.
const STRUCTURED: &[u8] = b"application/cloudevents+json; charset=utf-8";

/// Writes the events of one definition; what they share is rendered once.
#[derive(Debug)]
pub(crate) struct Encoder {
    mode: ContentMode,
    style: HeaderStyle,
    /// The headers that all events share.
    constant: Headers,
    /// In structured mode the beginning of the value, up to the attributes that differ.
    opening: String,
    is_json: bool,
}

impl Encoder {
    pub(crate) fn new(definition: &EventDefinition, source: &Source, ce_type: &str, style: HeaderStyle) -> Self {
        let attributes = constant_attributes(definition, source, ce_type);
        let mut constant = Headers::default();
        let mut opening = String::new();
        match definition.mode {
            ContentMode::Binary => {
                for (name, value) in &attributes {
                    push(&mut constant, style, name, value);
                }
            }
            ContentMode::Structured => {
                constant.push("content-type", STRUCTURED);
                opening.push('{');
                for (name, value) in &attributes {
                    member(&mut opening, name, &json_text(value));
                }
            }
        }
        Self { mode: definition.mode, style, constant, opening, is_json: attribute::is_json(&definition.content_type) }
    }

    /// The headers and the value of an event's record. Without a value, it is a tombstone. In binary mode the value is the
    /// event's payload, taken out of it.
    pub(crate) fn encode(&self, event: &mut Event) -> (Headers, Option<Bytes>) {
        match self.mode {
            ContentMode::Binary => (self.headers(event), event.payload.take()),
            ContentMode::Structured => (self.constant.clone(), Some(self.structured(event).into())),
        }
    }

    fn headers(&self, event: &Event) -> Headers {
        // Room for what differs from event to event, with names and lengths, in one allocation.
        let texts = [event.tenant.as_deref(), event.subject.as_deref()];
        let room = 160 + texts.into_iter().flatten().map(str::len).sum::<usize>() + 64 * event.extensions.len();
        let mut headers = self.constant.with_room(room);
        event.id.with_str(|id| push(&mut headers, self.style, "id", id));
        match self.style {
            HeaderStyle::Binding => with_time_text(&event.time, |time| push(&mut headers, self.style, "time", time)),
            HeaderStyle::Dash => push(&mut headers, self.style, "time", &self.style.time_text(&event.time)),
        }
        for (name, text) in [("subject", event.subject.as_deref()), ("tenantid", event.tenant.as_deref())] {
            if let Some(text) = text {
                push(&mut headers, self.style, name, text);
            }
        }
        let is_last = |name: &str| self.style == HeaderStyle::Dash && TRACE_CONTEXT.contains(&name);
        for (name, value) in event.extensions.iter().filter(|(name, _)| !is_last(name)) {
            push(&mut headers, self.style, name, &value.to_text());
        }
        for name in TRACE_CONTEXT.into_iter().filter(|name| is_last(name)) {
            if let Some(value) = event.extensions.get(name) {
                push(&mut headers, self.style, name, &value.to_text());
            }
        }
        headers
    }

    /// The event in the JSON event format
    /// (<https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>). A JSON payload stands in it
    /// byte for byte.
    fn structured(&self, event: &Event) -> Vec<u8> {
        let mut text = self.opening.clone();
        event.id.with_str(|id| member(&mut text, "id", &json_text(id)));
        member(&mut text, "time", &json_text(&time_text(&event.time)));
        for (name, value) in [("subject", event.subject.as_deref()), ("tenantid", event.tenant.as_deref())] {
            if let Some(value) = value {
                member(&mut text, name, &json_text(value));
            }
        }
        for (name, value) in event.extensions.iter() {
            member(&mut text, name, &value.to_json());
        }
        let mut bytes = text.into_bytes();
        if let Some(payload) = event.payload.as_ref().filter(|payload| !payload.is_empty()) {
            if self.is_json {
                bytes.extend_from_slice(b",\"data\":");
                bytes.extend_from_slice(payload);
            } else {
                let base64 = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, payload);
                bytes.extend_from_slice(format!(",\"data_base64\":\"{base64}\"").as_bytes());
            }
        }
        bytes.push(b'}');
        bytes
    }
}

/// The attributes that all events of a definition share, in the order in which they are written.
fn constant_attributes(definition: &EventDefinition, source: &Source, ce_type: &str) -> Vec<(String, String)> {
    let mut attributes: Vec<(&str, &str)> = vec![
        ("specversion", "1.0"),
        ("source", source.as_str()),
        ("type", ce_type),
        ("datacontenttype", &definition.content_type),
    ];
    attributes.extend(definition.data_schema.as_deref().map(|schema| ("dataschema", schema)));
    attributes.extend([
        ("resourcetype", &*definition.resource),
        ("eventtype", &definition.event),
        ("schemaversion", &definition.schema_version),
    ]);
    if definition.system {
        attributes.push(("systemevent", "true"));
    }
    let own = attributes.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned()));
    own.chain(definition.extensions.iter().map(|(name, value)| (name.to_owned(), value.to_text().into_owned())))
        .collect()
}

/// Writes an attribute as the header that it is in binary mode.
fn push(headers: &mut Headers, style: HeaderStyle, attribute: &str, value: &str) {
    match (style, attribute) {
        (HeaderStyle::Binding, "datacontenttype") => headers.push("content-type", value.as_bytes()),
        (HeaderStyle::Binding, _) => headers.push_prefixed("ce_", attribute, value.as_bytes()),
        (HeaderStyle::Dash, _) if TRACE_CONTEXT.contains(&attribute) => headers.push(attribute, value.as_bytes()),
        (HeaderStyle::Dash, _) => headers.push_prefixed("ce-", attribute, value.as_bytes()),
    }
}

/// Appends a member to an object that was opened.
fn member(object: &mut String, name: &str, json: &str) {
    if !object.ends_with('{') {
        object.push(',');
    }
    // The names of attributes have nothing to escape.
    object.push('"');
    object.push_str(name);
    object.push_str("\":");
    object.push_str(json);
}

fn json_text(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
