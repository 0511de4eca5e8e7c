//! Spans, and with the feature `otel` the trace context that goes with an event.

use tracing::field::Empty;
use tracing::{Level, Span, info_span};

use crate::catalog::compiled::{CompiledCatalog, Resolved};
use crate::error::Error;
use crate::event::EmitRequest;
use crate::transport::{Delivery, Record};

/// The name of the span in which an event comes about.
const EMIT: &str = "tidings.emit";

/// The span of an emit. Its id is not known yet, and whether all is well with it. Tracers want the name now.
pub(super) fn create(catalog: &CompiledCatalog, request: &EmitRequest) -> Span {
    if !is_anybody_interested() {
        return Span::none();
    }
    let name = || ["create"].into_iter().chain(catalog.topic_of(request)).collect::<Vec<_>>().join(" ");
    info_span!(
        target: "tidings",
        EMIT,
        otel.name = name(),
        otel.kind = "producer",
        otel.status_code = Empty,
        messaging.system = "kafka",
        messaging.operation.name = "create",
        messaging.operation.type = "create",
        messaging.destination.name = Empty,
        messaging.message.id = Empty,
        cloudevents.event_id = Empty,
        cloudevents.event_spec_version = "1.0",
        tidings.event = Empty,
        tidings.outcome = Empty,
        error.type = Empty,
    )
}

/// Asked first: where another crate has enabled the feature `log` of `tracing`, as sqlx does, the fields of a span are worked out
/// although there is no subscriber.
fn is_anybody_interested() -> bool {
    tracing::span_enabled!(target: "tidings", Level::INFO)
}

/// The request has become this.
pub(super) fn created(span: &Span, resolved: &Resolved) {
    if span.is_disabled() {
        return;
    }
    let topic = &*resolved.record.topic;
    resolved.id.with_str(|id| {
        span.record("messaging.message.id", id);
        span.record("cloudevents.event_id", id);
    });
    span.record("messaging.destination.name", topic);
    span.record("tidings.event", &*resolved.definition.key);
}

/// The span of a record that is sent: a part of the emit if that sends it itself, and otherwise one of its own, linked to it.
pub(super) fn send(record: &Record) -> Span {
    macro_rules! span {
        ($($parent:tt)*) => {
            info_span!(
                target: "tidings",
                $($parent)*
                "tidings.send",
                otel.name = format!("send {}", record.topic),
                otel.kind = "client",
                otel.status_code = Empty,
                messaging.system = "kafka",
                messaging.operation.name = "send",
                messaging.operation.type = "send",
                messaging.destination.name = &*record.topic,
                messaging.destination.partition.id = Empty,
                messaging.kafka.offset = Empty,
                messaging.message.id = Empty,
                error.type = Empty,
            )
        };
    }
    if !is_anybody_interested() {
        return Span::none();
    }
    let is_emitting = Span::current().metadata().is_some_and(|metadata| metadata.name() == EMIT);
    let span = if is_emitting { span!() } else { span!(parent: None,) };
    if span.is_disabled() {
        return span;
    }
    let id = record.headers.get("ce_id").or_else(|| record.headers.get("ce-id"));
    if let Some(id) = id.and_then(|id| std::str::from_utf8(id).ok()) {
        span.record("messaging.message.id", id);
    }
    if !is_emitting {
        link(&span, record);
    }
    span
}

/// The record has arrived.
pub(super) fn delivered(span: &Span, delivery: &Delivery) {
    span.record("messaging.destination.partition.id", delivery.partition);
    span.record("messaging.kafka.offset", delivery.offset);
}

/// It has failed. What the error says is in the log, and not here: it may quote the brokers.
pub(super) fn failed<'a>(span: &'a Span, error: &Error) -> &'a Span {
    span.record("otel.status_code", "ERROR").record("error.type", error.kind().as_str())
}

#[cfg(feature = "otel")]
mod context {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::event::EmitRequest;
    use crate::transport::Record;

    /// Has the event say in which trace it came about, unless the request does (the distributed-tracing extension).
    pub(in super::super) fn inject(span: &Span, request: &mut EmitRequest) {
        if span.is_disabled() || request.extension_value("traceparent").is_some() {
            return;
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        if !context.is_valid() {
            return;
        }
        let (trace, parent, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        request.set_extension("traceparent", format!("00-{trace}-{parent}-{flags:02x}"));
        let state = context.trace_state().header();
        if !state.is_empty() && request.extension_value("tracestate").is_none() {
            request.set_extension("tracestate", state);
        }
    }

    /// Links a span to the trace in which the event of a record came about.
    pub(in super::super) fn link(span: &Span, record: &Record) {
        let header = |name: &str| {
            let value = record.headers.get(&format!("ce_{name}")).or_else(|| record.headers.get(name));
            std::str::from_utf8(value?).ok()
        };
        if let Some(parent) = header("traceparent").and_then(|text| context(text, header("tracestate"))) {
            span.add_link(parent);
        }
    }

    fn context(trace_parent: &str, trace_state: Option<&str>) -> Option<SpanContext> {
        let [_, trace, parent, flags] = trace_parent.splitn(4, '-').collect::<Vec<_>>()[..] else { return None };
        let flags = u8::from_str_radix(flags.get(..2)?, 16).ok()?;
        let state = trace_state.and_then(|text| text.parse::<TraceState>().ok()).unwrap_or_default();
        let (trace, parent) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(parent).ok()?);
        Some(SpanContext::new(trace, parent, TraceFlags::new(flags), true, state))
    }
}

#[cfg(feature = "otel")]
pub(super) use context::inject;
#[cfg(feature = "otel")]
use context::link;

#[cfg(not(feature = "otel"))]
pub(super) fn inject(_: &Span, _: &mut EmitRequest) {}

#[cfg(not(feature = "otel"))]
fn link(_: &Span, _: &Record) {}
