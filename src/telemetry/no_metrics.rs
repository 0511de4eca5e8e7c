//! In place of `metrics`, without the feature of that name: nobody is told anything.

use std::convert::Infallible;
use std::sync::Arc;

use crate::breaker::BreakerState;
use crate::catalog::compiled::Definition;
use crate::emitter::Receipt;
use crate::error::{Error, Result};
use crate::outbox::Outbox;
use crate::transport::{Delivery, Vitals};

pub(crate) const ARE_TOLD: bool = false;

pub(crate) fn describe() {}

#[derive(Debug)]
pub(crate) struct EmitMeter;

impl EmitMeter {
    pub(crate) fn begin(_: Option<&Arc<Definition>>) -> Self {
        Self
    }

    pub(crate) fn end(self, _: Result<&Receipt, &Error>) {}
}

pub(crate) fn dead_lettered(_: &str) {}

#[derive(Debug, Default)]
pub(crate) struct SendMeters;

#[derive(Debug)]
pub(crate) struct SendMeter;

impl SendMeters {
    pub(crate) fn begin(&self, _: &Arc<str>) -> SendMeter {
        SendMeter
    }
}

impl SendMeter {
    pub(crate) fn end(self, _: &Result<Delivery>) {}
}

pub(crate) fn producer(_: BreakerState, _: usize, _: u32) {}

pub(crate) fn client(_: &str, _: &Vitals) {}

pub(crate) async fn tell_of(_: Arc<dyn Outbox>) -> Infallible {
    std::future::pending().await
}

pub(crate) fn lane(_: u16, _: usize) {}

pub(crate) fn relay(_: usize, _: usize, _: usize) {}
