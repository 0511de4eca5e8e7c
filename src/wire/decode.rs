//! What a reader makes of a record.

use std::borrow::Cow;

use base64::Engine;
use bytes::Bytes;
use chrono::{DateTime, FixedOffset};
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::error::{Error, ErrorKind, Result};
use crate::event::attribute;
use crate::wire::encode::TRACE_CONTEXT;

/// A CloudEvent as it was read from a record, in either mode and either style of header names.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CloudEvent {
    /// `id`: the identity, together with the source.
    pub id: String,
    /// `source`.
    pub source: String,
    /// `type`.
    pub event_type: String,
    /// `time`.
    pub time: Option<DateTime<FixedOffset>>,
    /// `subject`.
    pub subject: Option<String>,
    /// `datacontenttype`.
    pub content_type: Option<String>,
    /// `dataschema`.
    pub data_schema: Option<String>,
    /// The extension attributes by their canonical texts, in order, duplicates kept.
    pub extensions: Vec<(String, String)>,
    /// The data. `None` if there is none: in binary mode, of a tombstone.
    pub data: Option<Bytes>,
}

impl CloudEvent {
    /// The text of the first extension attribute of that name.
    #[must_use]
    pub fn extension(&self, name: &str) -> Option<&str> {
        self.extensions.iter().find(|(other, _)| other == name).map(|(_, text)| text.as_str())
    }
}

/// Reads a record: structured mode if its `content-type` says so, in any case; otherwise binary mode.
///
/// In binary mode a record has one style: the binding's `ce_` headers, if `ce_id` or `ce_specversion` is among them; otherwise
/// `ce-` headers as lib-streaming writes them, with `traceparent` and `tracestate` without a prefix. Headers of the other style, and
/// those whose names are not of lower-case letters and digits behind the prefix, as the specification has the names of attributes,
/// are somebody else's, and left alone.
///
/// In structured mode a member that is null counts as one that is not there, but for `data`: alone it is the payload `null`.
///
/// # Errors
///
/// [`ErrorKind::InvalidEvent`] if it is not a CloudEvent 1.0; the text names the attribute.
///
/// # Examples
///
/// ```
/// let headers = [
///     ("ce_specversion", &b"1.0"[..]),
///     ("ce_id", b"17"),
///     ("ce_source", b"//shop/orders"),
///     ("ce_type", b"shop.order.created"),
///     ("content-type", b"application/json"),
/// ];
/// let event = tidings::wire::decode(headers, Some(b"{}"))?;
/// assert_eq!((&*event.id, event.data.as_deref()), ("17", Some(&b"{}"[..])));
/// # Ok::<(), tidings::Error>(())
/// ```
pub fn decode<'a>(headers: impl IntoIterator<Item = (&'a str, &'a [u8])>, value: Option<&[u8]>) -> Result<CloudEvent> {
    let headers: Vec<_> = headers.into_iter().collect();
    let content_type = headers.iter().rev().find(|(name, _)| name.eq_ignore_ascii_case("content-type"));
    let content_type = content_type.map(|(_, value)| text("content-type", value)).transpose()?;
    match content_type.map(|text| (media_type(text), text)) {
        Some((media_type, _)) if media_type == "application/cloudevents+json" => structured(value.unwrap_or_default()),
        Some((media_type, text)) if media_type.starts_with("application/cloudevents") => Err(fault(format!(
            "the content type `{}` is not supported; structured mode is application/cloudevents+json",
            printable(text)
        ))),
        content_type => binary(&headers, content_type.map(|(_, text)| text), value),
    }
}

fn binary(headers: &[(&str, &[u8])], content_type: Option<&str>, value: Option<&[u8]>) -> Result<CloudEvent> {
    let mut fields = Fields::default();
    let is_binding = headers.iter().any(|(name, _)| ["ce_id", "ce_specversion"].contains(name));
    let prefix = if is_binding { "ce_" } else { "ce-" };
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    for (name, value) in headers {
        let attribute = match *name {
            name if !is_binding && TRACE_CONTEXT.contains(&name) => Some(name),
            name => name.strip_prefix(prefix).filter(|name| is_name(name)),
        };
        if let Some(attribute) = attribute {
            fields.set(attribute, text(name, value)?.to_owned());
        }
    }
    if let Some(content_type) = content_type {
        fields.content_type = Some(content_type.to_owned());
    }
    fields.finish(value.map(Bytes::copy_from_slice))
}

fn structured(value: &[u8]) -> Result<CloudEvent> {
    let members: Members<'_> = serde_json::from_slice(value)
        .map_err(|source| fault("the record in structured mode is not a JSON object".into()).with_source(source))?;
    let (mut fields, mut data, mut data_base64) = (Fields::default(), None, None);
    for (name, json) in members.0 {
        match &*name {
            "data" => data = Some(json.get()),
            "data_base64" if json.get() != "null" => data_base64 = Some(scalar(&name, json)?),
            // A member that is null counts as one that is not there.
            _ if json.get() == "null" => {}
            _ => fields.set(&name, scalar(&name, json)?),
        }
    }
    let data = match (data, data_base64) {
        (Some(json), Some(_)) if json != "null" => {
            return Err(fault("the event has both `data` and `data_base64`".into()));
        }
        (_, Some(base64)) => {
            let decoded = base64::prelude::BASE64_STANDARD.decode(base64);
            Some(decoded.map_err(|source| fault("`data_base64` is not base64".into()).with_source(source))?.into())
        }
        (Some(json), None) => Some(data_bytes(json, fields.content_type.as_deref())),
        (None, None) => None,
    };
    fields.finish(data)
}

/// A payload that is not JSON stands in the event as a JSON string of it.
fn data_bytes(json: &str, content_type: Option<&str>) -> Bytes {
    if content_type.is_some_and(|content_type| !attribute::is_json(content_type))
        && let Ok(text) = serde_json::from_str::<String>(json)
    {
        return text.into();
    }
    Bytes::copy_from_slice(json.as_bytes())
}

/// The canonical text of an attribute in the JSON format: a string, a number or a truth value.
fn scalar(name: &str, json: &RawValue) -> Result<String> {
    match serde_json::from_str(json.get()) {
        Ok(serde_json::Value::String(text)) => Ok(text),
        Ok(value @ (serde_json::Value::Bool(_) | serde_json::Value::Number(_))) => Ok(value.to_string()),
        _ => Err(fault(format!("`{}` is neither text, number nor truth value", printable(name)))),
    }
}

/// The members of an object, in order, duplicates kept.
struct Members<'a>(Vec<(Cow<'a, str>, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    members.push((name, map.next_value()?));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Collect)
    }
}

#[derive(Default)]
struct Fields {
    spec_version: Option<String>,
    id: Option<String>,
    source: Option<String>,
    event_type: Option<String>,
    time: Option<String>,
    subject: Option<String>,
    content_type: Option<String>,
    data_schema: Option<String>,
    extensions: Vec<(String, String)>,
}

impl Fields {
    /// Of an attribute that is there twice the last one counts.
    fn set(&mut self, attribute: &str, text: String) {
        let field = match attribute {
            "specversion" => &mut self.spec_version,
            "id" => &mut self.id,
            "source" => &mut self.source,
            "type" => &mut self.event_type,
            "time" => &mut self.time,
            "subject" => &mut self.subject,
            "datacontenttype" => &mut self.content_type,
            "dataschema" => &mut self.data_schema,
            extension => return self.extensions.push((extension.to_owned(), text)),
        };
        *field = Some(text);
    }

    fn finish(self, data: Option<Bytes>) -> Result<CloudEvent> {
        let required = |name: &str, field: Option<String>| {
            field.filter(|text| !text.is_empty()).ok_or_else(|| fault(format!("the attribute `{name}` is missing")))
        };
        let version = required("specversion", self.spec_version)?;
        if version != "1.0" {
            return Err(fault(format!("`specversion` is `{}`; only 1.0 is supported", printable(&version))));
        }
        let time = self.time.map(|text| {
            DateTime::parse_from_rfc3339(&text).map_err(|source| {
                fault(format!("`time` is `{}`, which is not RFC 3339", printable(&text))).with_source(source)
            })
        });
        Ok(CloudEvent {
            id: required("id", self.id)?,
            source: required("source", self.source)?,
            event_type: required("type", self.event_type)?,
            time: time.transpose()?,
            subject: self.subject,
            content_type: self.content_type,
            data_schema: self.data_schema,
            extensions: self.extensions,
            data,
        })
    }
}

fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn text<'a>(name: &str, value: &'a [u8]) -> Result<&'a str> {
    std::str::from_utf8(value)
        .map_err(|source| fault(format!("the header `{}` is not UTF-8", printable(name))).with_source(source))
}

/// What a stranger wrote, cut and without controls, to be quoted.
fn printable(text: &str) -> String {
    text.chars().take(100).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn fault(why: String) -> Error {
    Error::new(ErrorKind::InvalidEvent, why)
}
