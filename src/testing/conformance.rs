//! What holds for every [`Emitter`], as a suite that any implementation can run: a wrapper of yours, a fake, another transport.
//!
//! # Examples
//!
//! ```
//! use std::sync::Arc;
//! use tidings::testing::{MockEmitter, conformance};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! let mock = Arc::new(MockEmitter::new(conformance::catalog()));
//! let emitted = async || {
//!     Some(mock.emissions().iter().map(|emission| conformance::Arrived::of(&emission.record)).collect())
//! };
//! conformance::check(mock.clone(), emitted).await.assert_passed();
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use super::verify::{History, Seen};
use crate::catalog::{Catalog, EventDefinition};
use crate::emitter::{Emitter, EmitterExt, Outcome, Receipt};
use crate::error::{ErrorKind, Result};
use crate::event::{EmitRequest, EventId};
use crate::health::{Health, Status};
use crate::transport::Record;
use crate::tx::Tx;

const EVENT: &str = "conformance.checked";

/// What [`Emitter::health`] may take: its producers look for some two seconds.
const HEALTH_TIME: Duration = Duration::from_secs(10);

/// The catalog that the emitter under test has to have.
#[must_use]
#[expect(clippy::missing_panics_doc, reason = "it has nothing that a catalog may not have")]
pub fn catalog() -> Catalog {
    Catalog::new([EventDefinition::new(EVENT, "conformance", "checked")]).expect("it is well")
}

/// An event that has arrived where the emitter sends events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    partition_key: String,
    event_id: String,
}

impl Arrived {
    /// An event of this partition key and id.
    #[must_use]
    pub fn new(partition_key: impl Into<String>, event_id: impl Into<String>) -> Self {
        Self { partition_key: partition_key.into(), event_id: event_id.into() }
    }

    /// The event of a record.
    #[must_use]
    pub fn of(record: &Record) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let id = record.headers.get("ce_id").or_else(|| record.headers.get("ce-id")).unwrap_or_default();
        Self::new(text(&record.key), text(id))
    }
}

/// What the suite has found.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct Report {
    /// What holds.
    pub passed: Vec<&'static str>,
    /// What does not hold, and how that was seen.
    pub failed: BTreeMap<&'static str, String>,
}

impl Report {
    /// Asserts that everything holds.
    ///
    /// # Panics
    ///
    /// If something does not; the text says what.
    #[track_caller]
    pub fn assert_passed(&self) {
        assert!(self.failed.is_empty(), "{self}");
    }

    fn enter(&mut self, what: &'static str, found: Result<(), String>) {
        match found {
            Ok(()) => self.passed.push(what),
            Err(how) => drop(self.failed.insert(what, how)),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} hold", self.passed.len(), self.passed.len() + self.failed.len())?;
        self.failed.iter().try_for_each(|(what, how)| write!(f, "\n  not: {what}: {how}"))
    }
}

/// Runs the suite on an emitter that nobody else uses, and closes it.
///
/// `arrived` yields all that has arrived, in order of its partition keys, once nothing more is to come: drain the outbox first. It
/// yields `None` of an emitter that sends nothing, as one for where streaming is off.
pub async fn check(emitter: Arc<dyn Emitter>, arrived: impl AsyncFnOnce() -> Option<Vec<Arrived>>) -> Report {
    let mut run = Run { emitter: &*emitter, history: History::new(), outcomes: Vec::new() };
    let mut report = Report::default();
    report.enter("a request that is at fault is refused as such", run.faults().await);
    report.enter("an id that is given is kept, and one that is not is new", run.ids().await);
    report.enter("an event is accepted, one after the other", run.one_by_one().await);
    report.enter("events are accepted side by side", run.side_by_side().await);
    report.enter("a batch has a result for each request, in order", run.batch().await);
    report.enter("a transaction is taken, or refused as unsupported", run.transaction().await);
    report.enter("an emit that is dropped stops no other", run.dropped().await);
    report.enter("health is told, and good", run.health().await);
    let arrived = arrived().await;
    report.enter("the outcome says whether the event goes anywhere", run.outcomes(arrived.is_some()));
    if let Some(arrived) = arrived {
        report.enter("what was accepted arrives, and nothing else, in the order of its key", run.arrived(arrived));
    }
    report.enter("a closed emitter refuses, and can be closed again", run.closed().await);
    report
}

struct Run<'a> {
    emitter: &'a dyn Emitter,
    history: History<String>,
    outcomes: Vec<Outcome>,
}

fn request(key: &str, id: &str) -> Result<EmitRequest> {
    Ok(EmitRequest::new(EVENT).tenant(key.to_owned()).subject("a subject").payload("{}").id(id.parse()?))
}

fn ensure(holds: bool, how: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(how()) }
}

impl Run<'_> {
    async fn faults(&self) -> Result<(), String> {
        let bad = [
            (EmitRequest::new("no.such.event"), ErrorKind::UnknownEvent),
            (EmitRequest::new(EVENT).tenant("t").payload("not JSON"), ErrorKind::InvalidPayload),
            (EmitRequest::new(EVENT).tenant("").payload("{}"), ErrorKind::InvalidEvent),
            (EmitRequest::new(EVENT).tenant("a\nb").payload("{}"), ErrorKind::InvalidEvent),
            (EmitRequest::new(EVENT).tenant("t".repeat(257)).payload("{}"), ErrorKind::InvalidEvent),
        ];
        for (request, kind) in bad {
            let text = format!("{request:?}");
            let mut results = vec![self.emitter.emit(request.clone()).await];
            results.extend(self.emitter.emit_batch(vec![request]).await);
            for result in results {
                let found = result.as_ref().map_err(crate::Error::kind).err();
                ensure(found == Some(kind), || format!("{text} is to be refused as {kind}, and is {result:?}"))?;
            }
        }
        Ok(())
    }

    async fn ids(&mut self) -> Result<(), String> {
        let new = || EmitRequest::new(EVENT).tenant("ids").payload("{}");
        let mut ids: Vec<EventId> = Vec::new();
        for request in [new(), new(), request("ids", "an-id").map_err(|error| error.to_string())?] {
            let receipt = self.emitter.emit(request).await.map_err(|error| format!("an emit has failed: {error}"))?;
            self.history.began("ids", receipt.event_id.to_string());
            self.history.accepted(&receipt.event_id.to_string());
            ids.push(receipt.event_id);
            self.outcomes.push(receipt.outcome);
        }
        ensure(ids[0] != ids[1] && ids[2].to_string() == "an-id", || format!("{ids:?}"))
    }

    async fn one_by_one(&mut self) -> Result<(), String> {
        for number in 0..20 {
            for key in ["one", "two"] {
                let id = format!("{key}-{number}");
                self.history.began(key, id.clone());
                let receipt = emit(self.emitter, key, &id).await?;
                self.accept(&id, receipt)?;
            }
        }
        Ok(())
    }

    async fn side_by_side(&mut self) -> Result<(), String> {
        let keys: Vec<_> = (0..16).map(|key| format!("side-{key}")).collect();
        for number in 0..8 {
            let ids: Vec<_> = keys.iter().map(|key| format!("{key}-{number}")).collect();
            for (key, id) in keys.iter().zip(&ids) {
                self.history.began(key.clone(), id.clone());
            }
            let emits = keys.iter().zip(&ids).map(|(key, id)| emit(self.emitter, key, id));
            for (id, receipt) in ids.iter().zip(join_all(emits).await) {
                self.accept(id, receipt?)?;
            }
        }
        Ok(())
    }

    async fn batch(&mut self) -> Result<(), String> {
        /// The place of one that is refused.
        const BAD: usize = 17;
        let ids: Vec<_> = (0..50).map(|number| format!("batch-{}-{number}", number % 5)).collect();
        let mut requests = Vec::new();
        for (place, id) in ids.iter().enumerate() {
            let good = request(&id[..7], id).map_err(|error| error.to_string())?;
            requests.push(if place == BAD { EmitRequest::new("no.such.event") } else { good });
        }
        let results = self.emitter.emit_batch(requests).await;
        ensure(results.len() == ids.len(), || format!("{} requests have {} results", ids.len(), results.len()))?;
        for (place, (id, result)) in ids.iter().zip(results).enumerate() {
            match result {
                Err(error) if place == BAD => {
                    ensure(error.kind() == ErrorKind::UnknownEvent, || format!("one of an unknown event: {error}"))?;
                }
                Ok(receipt) if place != BAD => {
                    self.history.began(&id[..7], id.clone());
                    self.accept(id, receipt)?;
                }
                result => return Err(format!("the result at {place} is {result:?}")),
            }
        }
        Ok(())
    }

    async fn transaction(&mut self) -> Result<(), String> {
        let request = request("transaction", "transaction-1").map_err(|error| error.to_string())?;
        match self.emitter.emit_in(&mut Tx::detached(), request).await {
            Err(error) => ensure(error.kind() == ErrorKind::UnsupportedTransaction, || error.to_string()),
            Ok(receipt) => {
                self.history.began("transaction", "transaction-1".into());
                self.emitter.committed(vec![receipt.clone()]);
                self.accept("transaction-1", receipt)
            }
        }
    }

    async fn dropped(&mut self) -> Result<(), String> {
        for polled in [false, true] {
            let id = format!("dropped-{polled}");
            // It may arrive, or not.
            self.history.began("dropped", id.clone());
            let emit = emit(self.emitter, "dropped", &id);
            if polled {
                let _ = emit.now_or_never();
            }
            let id = format!("behind-{id}");
            self.history.began("dropped", id.clone());
            let receipt = self::emit(self.emitter, "dropped", &id).await?;
            self.accept(&id, receipt)?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<Health, String> {
        let health = tokio::time::timeout(HEALTH_TIME, self.emitter.health()).await;
        health.map_err(|_| format!("health is not told within {HEALTH_TIME:?}"))
    }

    async fn health(&self) -> Result<(), String> {
        let health = self.look().await?;
        ensure(health.status != Status::Down && health.is_live(), || format!("{health:?}"))
    }

    fn outcomes(&self, is_sent: bool) -> Result<(), String> {
        let wrong = self.outcomes.iter().find(|outcome| (**outcome != Outcome::Disabled) != is_sent);
        wrong.map_or(Ok(()), |wrong| {
            Err(format!("an event of an emitter that sends {} is {wrong:?}", if is_sent { "some" } else { "none" }))
        })
    }

    fn arrived(&self, arrived: Vec<Arrived>) -> Result<(), String> {
        let seen = (0..).zip(arrived).map(|(offset, record)| {
            // Those of one key are on one partition.
            Seen::new(0, offset, record.partition_key, record.event_id)
        });
        let verdict = self.history.verify(seen);
        ensure(verdict.is_kept(), || verdict.to_string())
    }

    async fn closed(&self) -> Result<(), String> {
        for _ in 0..2 {
            self.emitter.close().await.map_err(|error| format!("it can't be closed: {error}"))?;
        }
        let request = || request("closed", "closed-1").map_err(|error| error.to_string());
        let mut results = vec![self.emitter.emit(request()?).await];
        results.extend(self.emitter.emit_batch(vec![request()?]).await);
        results.push(self.emitter.emit_in(&mut Tx::detached(), request()?).await);
        for result in results {
            let found = result.as_ref().map_err(crate::Error::kind).err();
            ensure(found == Some(ErrorKind::Closed), || format!("it answers {result:?}"))?;
        }
        let health = self.look().await?;
        ensure(health.status == Status::Down, || format!("its health is {health:?}"))
    }

    fn accept(&mut self, id: &str, receipt: Receipt) -> Result<(), String> {
        self.history.accepted(&id.to_owned());
        self.outcomes.push(receipt.outcome);
        ensure(receipt.event_id.to_string() == id, || format!("the receipt of `{id}` is of `{}`", receipt.event_id))
    }
}

async fn emit(emitter: &dyn Emitter, key: &str, id: &str) -> Result<Receipt, String> {
    let request = request(key, id).map_err(|error| error.to_string())?;
    emitter.emit(request).await.map_err(|error| format!("the emit of `{id}` has failed: {error}"))
}
