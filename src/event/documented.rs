//! The extensions that the CloudEvents specification documents
//! (<https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents/extensions>), and the two identities that event-driven
//! systems add to them.

use std::borrow::Cow;

use chrono::{DateTime, Utc};

use super::EmitRequest;
use super::extension::AttributeValue;

type Text = Cow<'static, str>;

impl EmitRequest {
    /// Sets `partitionkey`, which is also the record key if the definition says
    /// [`PartitionKey::Attribute`](crate::PartitionKey::Attribute).
    pub fn partition_key(self, key: impl Into<Text>) -> Self {
        self.extension("partitionkey", AttributeValue::String(key.into()))
    }

    /// Sets `sequence`: the place of this event among those of its source, compared as text.
    pub fn sequence(self, sequence: impl Into<Text>) -> Self {
        self.extension("sequence", AttributeValue::String(sequence.into()))
    }

    /// Sets `dataref`: where the payload is to be had, for one that is too large to be sent.
    pub fn data_ref(self, uri: impl Into<Text>) -> Self {
        self.extension("dataref", AttributeValue::UriReference(uri.into()))
    }

    /// Sets `expirytime`: from when on the event is of no use to anyone.
    pub fn expiry_time(self, time: DateTime<Utc>) -> Self {
        self.extension("expirytime", time)
    }

    /// Sets `recordedtime`: when the event was recorded, which may be long after it happened.
    pub fn recorded_time(self, time: DateTime<Utc>) -> Self {
        self.extension("recordedtime", time)
    }

    /// Sets `severitynumber`, as OpenTelemetry's log model numbers them; it is not negative.
    pub fn severity(self, number: i32) -> Self {
        self.extension("severitynumber", number)
    }

    /// Sets `severitytext`, such as `WARN`, beside [`severity`](Self::severity), which the extension requires.
    pub fn severity_text(self, text: impl Into<Text>) -> Self {
        self.extension("severitytext", AttributeValue::String(text.into()))
    }

    /// Sets `correlationid`: what this event belongs to, such as a request or a process.
    pub fn correlation_id(self, id: impl Into<Text>) -> Self {
        self.extension("correlationid", AttributeValue::String(id.into()))
    }

    /// Sets `causationid`: the id of the event or command that led to this one.
    pub fn causation_id(self, id: impl Into<Text>) -> Self {
        self.extension("causationid", AttributeValue::String(id.into()))
    }

    /// Sets `traceparent`: the W3C trace context in which the event came about, 55 characters. Behind it may come [`trace_state`](Self::trace_state).
    /// With [`HeaderStyle::Dash`](crate::wire::HeaderStyle::Dash) both are headers without a prefix.
    pub fn trace_parent(self, trace_parent: impl Into<Text>) -> Self {
        self.extension("traceparent", AttributeValue::String(trace_parent.into()))
    }

    /// Sets `tracestate`, the vendors' part of the trace context.
    pub fn trace_state(self, trace_state: impl Into<Text>) -> Self {
        self.extension("tracestate", AttributeValue::String(trace_state.into()))
    }
}
