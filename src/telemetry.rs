//! What those who watch are told: spans and events of `tracing`, and metrics by the feature of that name.
//!
//! Names and units are those of OpenTelemetry's conventions where there are some
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/>, 1.44, in development). No label of a metric has a tenant, a record key
//! or an id: all that a label can be is known when the catalog is. Payloads are told to nobody.

use tracing::Span;

use crate::catalog::compiled::CompiledCatalog;
use crate::emitter::{Outcome, Receipt};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EmitRequest, EventId};
use crate::transport::{Delivery, Record};

#[cfg(feature = "metrics")]
pub(crate) mod metrics;
#[cfg(not(feature = "metrics"))]
#[path = "telemetry/no_metrics.rs"]
pub(crate) mod metrics;
mod trace;

use metrics::{EmitMeter, SendMeter, SendMeters};

/// An emit that runs. Dropped before it [ends](Self::end), it was given up by its caller.
///
/// There is one for every emit under way, so it is small, and nothing if nobody is to be told.
#[derive(Debug)]
pub(crate) struct Emit(Option<Box<Told>>);

#[derive(Debug)]
struct Told {
    span: Span,
    meter: EmitMeter,
}

impl Emit {
    /// The emit of this request begins: the event comes about in its span, unless the request says in which.
    pub(crate) fn begin(catalog: &CompiledCatalog, request: &mut EmitRequest) -> Self {
        let is_traced = trace::is_anybody_interested();
        if !is_traced && !metrics::ARE_TOLD {
            return Self(None);
        }
        let definition = catalog.definition(&request.definition_key);
        let span = if is_traced { trace::create(definition.map(|definition| &**definition)) } else { Span::none() };
        if let Some(definition) = definition {
            trace::inject(&span, definition, request);
        }
        Self(Some(Box::new(Told { span, meter: EmitMeter::begin(definition) })))
    }

    /// The request is well, and has become the event of this id.
    pub(crate) fn becomes(&self, id: &EventId) {
        if let Some(told) = &self.0 {
            trace::created(&told.span, id);
        }
    }

    /// The span in which everything is to be that happens to the event.
    pub(crate) fn span(&self) -> Span {
        self.0.as_ref().map_or_else(Span::none, |told| told.span.clone())
    }

    /// Whether it has one.
    pub(crate) fn has_span(&self) -> bool {
        self.0.as_ref().is_some_and(|told| !told.span.is_disabled())
    }

    /// It has failed before it could do anything.
    pub(crate) fn fail(self, error: Error) -> Result<Receipt> {
        self.end(Err(&error));
        Err(error)
    }

    /// It has come to this.
    pub(crate) fn end(self, result: Result<&Receipt, &Error>) {
        let Some(told) = self.0 else { return };
        match result.map(|receipt| &receipt.outcome) {
            Ok(Outcome::Stored { reason, .. }) => told.span.record("tidings.outcome", reason.as_str()),
            Ok(Outcome::Disabled) => told.span.record("tidings.outcome", "disabled"),
            Ok(Outcome::Published { .. }) => told.span.record("tidings.outcome", "published"),
            Err(error) => trace::failed(&told.span, error.kind()),
        };
        told.meter.end(result);
    }
}

/// Tells of the records that a client sends.
#[derive(Debug, Default)]
pub(crate) struct Sends(SendMeters);

/// A record on its way.
#[derive(Debug)]
pub(crate) struct Send {
    span: Span,
    meter: SendMeter,
}

impl Sends {
    /// A record is on its way.
    pub(crate) fn begin(&self, record: &Record) -> Send {
        Send { span: trace::send(record), meter: self.0.begin(&record.topic) }
    }
}

impl Send {
    /// The client has no room for it, and whoever sends it tries again: another record on its way then.
    pub(crate) fn refuse(self) {
        trace::failed(&self.span, ErrorKind::Overloaded);
    }

    /// It has come to this.
    pub(crate) fn end(self, result: &Result<Delivery>) {
        match result {
            Ok(delivery) => trace::delivered(&self.span, delivery),
            Err(error) => drop(trace::failed(&self.span, error.kind())),
        }
        self.meter.end(result);
    }
}
