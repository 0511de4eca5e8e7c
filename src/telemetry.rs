//! What those who watch are told: spans and events of `tracing`, and metrics by the feature of that name.
//!
//! Names and units are those of OpenTelemetry's conventions where there are some
//! (<https://opentelemetry.io/docs/specs/semconv/messaging/>, 1.44, in development). No label of a metric has a tenant, a record key
//! or an id: all that a label can be is known when the catalog is. Payloads are told to nobody.

use tracing::Span;

use crate::catalog::compiled::{CompiledCatalog, Resolved};
use crate::emitter::{Outcome, Receipt};
use crate::error::{Error, Result};
use crate::event::EmitRequest;
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
    /// None, until the event is known to be one of the catalog's.
    meter: Option<EmitMeter>,
}

impl Emit {
    /// The emit of this request begins: the event comes about in its span, unless the request says in which.
    pub(crate) fn begin(catalog: &CompiledCatalog, request: &mut EmitRequest) -> Self {
        let span = trace::create(catalog, request);
        if span.is_disabled() && !metrics::ARE_TOLD {
            return Self(None);
        }
        trace::inject(&span, request);
        Self(Some(Box::new(Told { span, meter: None })))
    }

    /// The request is well, and has become this.
    pub(crate) fn resolved(&mut self, resolved: &Resolved) {
        if let Some(told) = &mut self.0 {
            trace::created(&told.span, resolved);
            told.meter = Some(EmitMeter::begin(&resolved.definition));
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

    /// It has come to this.
    pub(crate) fn end(self, result: Result<&Receipt, &Error>) {
        let Some(told) = self.0 else { return };
        match result.map(|receipt| &receipt.outcome) {
            Ok(Outcome::Stored { reason, .. }) => told.span.record("tidings.outcome", reason.as_str()),
            Ok(Outcome::Disabled) => told.span.record("tidings.outcome", "disabled"),
            Ok(Outcome::Published { .. }) => told.span.record("tidings.outcome", "published"),
            Err(error) => trace::failed(&told.span, error),
        };
        if let Some(meter) = told.meter {
            meter.end(result);
        }
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
    /// It has come to this.
    pub(crate) fn end(self, result: &Result<Delivery>) {
        match result {
            Ok(delivery) => trace::delivered(&self.span, delivery),
            Err(error) => drop(trace::failed(&self.span, error)),
        }
        self.meter.end(result);
    }
}
