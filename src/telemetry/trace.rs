//! Spans, and with the feature `otel` the trace context that goes with an event.

use tracing::field::Empty;
use tracing::{Level, Span, info_span};

use crate::catalog::compiled::Definition;
use crate::error::ErrorKind;
use crate::event::EventId;
use crate::transport::{Delivery, Record};

/// The name of the span in which an event comes about.
const EMIT: &str = "tidings.emit";

/// The span of an emit of this definition, if there is one. The event's id is not known yet.
pub(super) fn create(definition: Option<&Definition>) -> Span {
    let topic = definition.map(|definition| &*definition.topic);
    info_span!(
        target: "tidings",
        EMIT,
        otel.name = topic.map_or_else(|| "create".to_owned(), |topic| ["create ", topic].concat()),
        otel.kind = "producer",
        otel.status_code = Empty,
        messaging.system = "kafka",
        messaging.operation.name = "create",
        messaging.operation.type = "create",
        messaging.destination.name = topic,
        messaging.message.id = Empty,
        cloudevents.event_id = Empty,
        cloudevents.event_spec_version = "1.0",
        tidings.event = definition.map(|definition| &*definition.key),
        tidings.outcome = Empty,
        error.type = Empty,
    )
}

/// Asked first: where another crate has enabled the feature `log` of `tracing`, as sqlx does, the fields of a span are worked out
/// although there is no subscriber.
pub(super) fn is_anybody_interested() -> bool {
    tracing::span_enabled!(target: "tidings", Level::INFO)
}

/// The request has become the event of this id.
pub(super) fn created(span: &Span, id: &EventId) {
    if span.is_disabled() {
        return;
    }
    id.with_str(|id| {
        span.record("messaging.message.id", id);
        span.record("cloudevents.event_id", id);
    });
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
pub(super) fn failed(span: &Span, kind: ErrorKind) -> &Span {
    span.record("otel.status_code", "ERROR").record("error.type", kind.as_str())
}

#[cfg(feature = "otel")]
mod context {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
    use tracing::Span;
    use tracing_opentelemetry::OpenTelemetrySpanExt;

    use crate::catalog::compiled::Definition;
    use crate::event::EmitRequest;
    use crate::event::attribute::MAX_EXTENSION_BYTES;
    use crate::transport::Record;

    /// Has the event say in which trace it came about, unless its request or its definition does (the distributed-tracing
    /// extension).
    pub(in super::super) fn inject(span: &Span, definition: &Definition, request: &mut EmitRequest) {
        let says = |name| request.extensions.get(name).is_some();
        if span.is_disabled() || definition.is_traced || says("traceparent") || says("tracestate") {
            return;
        }
        let context = span.context();
        let context = context.span().span_context().clone();
        if !context.is_valid() {
            return;
        }
        let (trace, parent, flags) = (context.trace_id(), context.span_id(), context.trace_flags().to_u8());
        request.extensions.set("traceparent".into(), format!("00-{trace}-{parent}-{flags:02x}").into());
        // A service that this one was called by may have sent any state. It is of no use to others than its vendor.
        let state = context.trace_state().header();
        if !state.is_empty() && state.len() <= MAX_EXTENSION_BYTES {
            request.extensions.set("tracestate".into(), state.into());
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

    pub(in super::super) fn context(trace_parent: &str, trace_state: Option<&str>) -> Option<SpanContext> {
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
pub(super) fn inject(_: &Span, _: &Definition, _: &mut crate::event::EmitRequest) {}

#[cfg(not(feature = "otel"))]
fn link(_: &Span, _: &Record) {}

#[cfg(feature = "otel")]
#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState, TracerProvider};
    use opentelemetry_sdk::trace::SdkTracerProvider;
    use tracing_opentelemetry::OpenTelemetrySpanExt;
    use tracing_subscriber::layer::SubscriberExt;

    use super::context::context as read;
    use super::*;
    use crate::catalog::compiled::{CompiledCatalog, Settings};
    use crate::config::Config;
    use crate::naming::Naming;
    use crate::{AttributeValue, Catalog, EmitRequest, EventDefinition};

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const OTHER: &str = "00-11111111111111111111111111111111-2222222222222222-01";

    /// What a request says of its trace once it was injected into a span of [`TRACE`] with so many entries of state, of 253 bytes each.
    fn injected(definition: EventDefinition, mut request: EmitRequest, state: usize) -> [Option<AttributeValue>; 2] {
        let config = Config::new("//shop", ["unused:1"]).unwrap();
        let catalog = Catalog::new([definition]).unwrap();
        let naming = Naming::default();
        let catalog = CompiledCatalog::compile(catalog, &Settings::of(&config, &naming, false).unwrap()).unwrap();
        let definition = catalog.definition(&request.definition_key).unwrap();
        let traces = SdkTracerProvider::default();
        let layer = tracing_opentelemetry::layer().with_tracer(traces.tracer("test"));
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let span = info_span!("request");
            let state = (0..state).map(|n| (format!("v{n}"), "x".repeat(250)));
            let state = TraceState::from_key_value(state).unwrap();
            let (trace, parent) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex("00f067aa0ba902b7").unwrap());
            let parent = SpanContext::new(trace, parent, TraceFlags::SAMPLED, true, state);
            span.set_parent(opentelemetry::Context::new().with_remote_span_context(parent)).unwrap();
            inject(&span, definition, &mut request);
        });
        catalog.resolve(request.clone()).unwrap();
        ["traceparent", "tracestate"].map(|name| request.extension_value(name).cloned())
    }

    #[test]
    fn an_event_says_its_trace_unless_it_was_said_and_never_becomes_invalid_by_it() {
        let definition = || EventDefinition::new("order.created", "order", "created");
        let request = || EmitRequest::new("order.created").tenant("t").payload("{}");

        let [parent, state] = injected(definition(), request(), 8);
        let parent = parent.unwrap().to_text().into_owned();
        assert!(parent.starts_with(&format!("00-{TRACE}-")) && parent.ends_with("-01"), "{parent}");
        assert_eq!(state.unwrap().to_text().len(), 8 * 253 + 7);
        // Longer than an attribute may be.
        let [parent, state] = injected(definition(), request(), 9);
        assert!(parent.is_some() && state.is_none());

        let [parent, state] = injected(definition(), request().extension("traceparent", OTHER), 1);
        assert!(parent == Some(OTHER.into()) && state.is_none());
        assert_eq!(injected(definition().with_extension("traceparent", OTHER), request(), 1), [None, None]);
    }

    proptest::proptest! {
        /// Rows and records of others have whatever they like there.
        #[test]
        fn a_context_that_is_read_is_the_one_that_was_written(
            text in "\\PC*|[0-9a-f+-]{0,3}-[0-9a-f+é-]{0,34}-[0-9a-f+-]{0,18}-[0-9a-f+é]{0,3}",
            state in "\\PC*|[a-z]{1,3}=[a-z,=]{0,9}",
            (trace, parent, flags) in (1_u128.., 1_u64.., 0_u8..=255),
        ) {
            if let Some(context) = read(&text, Some(&state)) {
                let trace = text.split('-').nth(1).unwrap();
                proptest::prop_assert_eq!(context.trace_id(), TraceId::from_hex(trace).unwrap());
            }
            let (trace, parent) = (TraceId::from(trace), SpanId::from(parent));
            let read = read(&format!("00-{trace}-{parent}-{flags:02x}"), None).unwrap();
            proptest::prop_assert_eq!((read.trace_id(), read.span_id(), read.trace_flags().to_u8()), (trace, parent, flags));
        }
    }
}
