//! The CloudEvents 1.0 Kafka binding, binary mode: what an event looks like on the topic. Pure.
//!
//! <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md>

use chrono::SecondsFormat;

use crate::catalog::EventDefinition;
use crate::event::Event;
use crate::event::attribute::Source;

mod cloudevent;
mod headers;

pub use cloudevent::to_cloudevent;
pub use headers::{Headers, MalformedHeaders};

/// The headers that all events of a definition share.
pub(crate) fn constant_headers(definition: &EventDefinition, source: &Source, ce_type: &str) -> Headers {
    let mut headers = Headers::default();
    headers.push("ce_specversion", b"1.0");
    headers.push("ce_source", source.as_str().as_bytes());
    headers.push("ce_type", ce_type.as_bytes());
    headers.push("content-type", definition.content_type.as_bytes());
    if let Some(data_schema) = &definition.data_schema {
        headers.push("ce_dataschema", data_schema.as_bytes());
    }
    headers.push("ce_resourcetype", definition.resource.as_bytes());
    headers.push("ce_eventtype", definition.event.as_bytes());
    headers.push("ce_schemaversion", definition.schema_version.as_bytes());
    if definition.system {
        headers.push("ce_systemevent", b"true");
    }
    headers
}

/// All headers of one event, behind the constant ones of its definition.
pub(crate) fn headers(constant: &Headers, event: &Event) -> Headers {
    // Room for the id, the time, the tenant and the subject with their names and lengths, in one allocation.
    let tenant = event.tenant.as_deref().unwrap_or_default();
    let subject = event.subject.as_deref().unwrap_or_default();
    let mut headers = constant.with_room(128 + tenant.len() + subject.len());
    event.id.with_str(|id| headers.push("ce_id", id.as_bytes()));
    headers.push("ce_time", event.time.to_rfc3339_opts(SecondsFormat::AutoSi, true).as_bytes());
    if event.subject.is_some() {
        headers.push("ce_subject", subject.as_bytes());
    }
    if event.tenant.is_some() {
        headers.push("ce_tenantid", tenant.as_bytes());
    }
    headers
}

#[cfg(test)]
mod tests;
