//! For the tests of services: an emitter that records, a transport in memory, and a check of the promises.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::BoxFuture;
use crate::catalog::Catalog;
use crate::emitter::noop::closed;
use crate::emitter::{Emitter, Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EmitRequest, EventId};
use crate::health::Health;
use crate::tx::Tx;

pub mod verify;

pub use crate::transport::memory::MemoryTransport;

/// Records what a service emits, and checks it against the catalog as production does.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use tidings::testing::MockEmitter;
/// use tidings::{Catalog, EmitRequest, Emitter, EventDefinition};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let mock = Arc::new(MockEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?));
/// let emitter: Arc<dyn Emitter> = mock.clone();
///
/// emitter.emit(EmitRequest::new("order.created").tenant("t-abc").payload("{}")).await?;
///
/// mock.assert_emitted("order.created");
/// mock.assert_count("order.created", 1);
/// mock.assert_tenant("order.created", "t-abc");
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MockEmitter {
    catalog: Catalog,
    state: Mutex<State>,
    /// Told when an event was recorded, or its commit.
    recorded: Notify,
}

#[derive(Debug, Default)]
struct State {
    emissions: Vec<Emission>,
    failure: Option<ErrorKind>,
    closed: bool,
}

/// An event that was emitted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Emission {
    /// The event's identity.
    pub event_id: EventId,
    /// What was asked for.
    pub request: EmitRequest,
    /// Whether it was emitted in a transaction. Whether that committed the mock does not know, unless it is told.
    pub in_transaction: bool,
    /// Whether its receipt was given to [`Emitter::committed`].
    pub is_committed: bool,
}

impl MockEmitter {
    /// An emitter that records the events of this catalog.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        Self { catalog, state: Mutex::default(), recorded: Notify::new() }
    }

    /// From now on every emit fails with an error of this kind, and is not recorded; with `None`, no more.
    pub fn fail_with(&self, kind: Option<ErrorKind>) {
        self.lock().failure = kind;
    }

    /// What was emitted, in order.
    #[must_use]
    pub fn emissions(&self) -> Vec<Emission> {
        self.lock().emissions.clone()
    }

    /// Forgets what was emitted.
    pub fn clear(&self) {
        self.lock().emissions.clear();
    }

    /// Asserts that an event of this key was emitted.
    ///
    /// # Panics
    ///
    /// If none was; the text lists what was.
    #[track_caller]
    pub fn assert_emitted(&self, key: &str) {
        assert!(self.count(key) > 0, "no `{key}` was emitted; {}", self.summary());
    }

    /// Asserts that so many events of this key were emitted.
    ///
    /// # Panics
    ///
    /// If it was another number; the text lists what was emitted.
    #[track_caller]
    pub fn assert_count(&self, key: &str, expected: usize) {
        let count = self.count(key);
        assert!(count == expected, "{count} of `{key}` were emitted, not {expected}; {}", self.summary());
    }

    /// Asserts that an event of this key was emitted for this tenant.
    ///
    /// # Panics
    ///
    /// If none was; the text lists what was emitted.
    #[track_caller]
    pub fn assert_tenant(&self, key: &str, tenant: &str) {
        let found =
            self.emissions().iter().any(|e| e.request.definition_key() == key && e.request.tenant_id() == Some(tenant));
        assert!(found, "no `{key}` was emitted for tenant `{tenant}`; {}", self.summary());
    }

    /// Asserts that nothing was emitted.
    ///
    /// # Panics
    ///
    /// If something was; the text lists it.
    #[track_caller]
    pub fn assert_nothing_emitted(&self) {
        assert!(self.emissions().is_empty(), "something was emitted; {}", self.summary());
    }

    /// Waits until an event that `matches` was emitted, and yields the first one.
    ///
    /// # Panics
    ///
    /// If there is none within `timeout`; the text lists what was emitted.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tidings::testing::MockEmitter;
    /// # use tidings::{Catalog, EmitRequest, Emitter, EventDefinition};
    /// use std::time::Duration;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let mock = MockEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?);
    /// # mock.emit(EmitRequest::new("order.created").subject("order-17").payload("{}")).await?;
    /// let emission = mock.wait_for(Duration::from_secs(5), |e| e.request.subject_name() == Some("order-17")).await;
    /// assert!(!emission.in_transaction);
    /// # Ok(()) }
    /// ```
    pub async fn wait_for(&self, timeout: Duration, matches: impl Fn(&Emission) -> bool + Send + Sync) -> Emission {
        let found = async {
            loop {
                let recorded = self.recorded.notified();
                let found = self.lock().emissions.iter().find(|emission| matches(emission)).cloned();
                if let Some(emission) = found {
                    return emission;
                }
                recorded.await;
            }
        };
        match tokio::time::timeout(timeout, found).await {
            Ok(emission) => emission,
            Err(_) => panic!("nothing that matches was emitted within {timeout:?}; {}", self.summary()),
        }
    }

    fn count(&self, key: &str) -> usize {
        self.lock().emissions.iter().filter(|emission| emission.request.definition_key() == key).count()
    }

    fn summary(&self) -> String {
        let state = self.lock();
        if state.emissions.is_empty() {
            return "nothing was".into();
        }
        let line = |emission: &Emission| {
            let tenant = emission.request.tenant_id().map(|tenant| format!(" tenant={tenant}")).unwrap_or_default();
            let subject =
                emission.request.subject_name().map(|subject| format!(" subject={subject}")).unwrap_or_default();
            let in_transaction = if emission.in_transaction { " in a transaction" } else { "" };
            format!("\n  {}{tenant}{subject}{in_transaction}", emission.request.definition_key())
        };
        format!("what was:{}", state.emissions.iter().map(line).collect::<String>())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An assertion that failed elsewhere has not left this half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records all of these, or none.
    fn record(&self, requests: Vec<EmitRequest>, in_transaction: bool) -> Result<Vec<Receipt>> {
        let mut state = self.lock();
        if state.closed {
            return Err(closed());
        }
        let accept = |request: EmitRequest| {
            let (_, event) = self.catalog.accept(request.clone())?;
            Ok(Emission { event_id: event.id, request, in_transaction, is_committed: false })
        };
        let emissions = requests.into_iter().map(accept).collect::<Result<Vec<_>>>()?;
        if let Some(kind) = state.failure {
            let error = Error::new(kind, "the mock was told to fail");
            return Err(match emissions.into_iter().next() {
                Some(emission) => error.with_event_id(emission.event_id),
                None => error,
            });
        }
        let receipts = (0i64..).zip(&emissions).map(|(index, emission)| {
            let number = index + i64::try_from(state.emissions.len()).unwrap_or(i64::MAX);
            let outcome = if in_transaction {
                Outcome::Stored { lane: 0, sequence: number + 1, reason: StoredReason::Transaction }
            } else {
                Outcome::Published { topic: "mock".into(), partition: 0, offset: number }
            };
            Receipt::new(emission.event_id.clone(), outcome)
        });
        let receipts = receipts.collect();
        state.emissions.extend(emissions);
        self.recorded.notify_waiters();
        Ok(receipts)
    }

    fn record_one(&self, request: EmitRequest) -> Result<Receipt> {
        let receipts = self.record(vec![request], false)?;
        // `record` yields a receipt for each request.
        Ok(receipts.into_iter().next().expect("one request, one receipt"))
    }
}

impl Emitter for MockEmitter {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(std::future::ready(self.record_one(request)))
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(std::future::ready(requests.into_iter().map(|request| self.record_one(request)).collect()))
    }

    fn append<'a>(&'a self, _: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(std::future::ready(self.record(requests, true)))
    }

    fn committed(&self, receipts: Vec<Receipt>) {
        for emission in &mut self.lock().emissions {
            emission.is_committed |= receipts.iter().any(|receipt| receipt.event_id == emission.event_id);
        }
        self.recorded.notify_waiters();
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        let health = if self.lock().closed { Health::closed() } else { Health::healthy() };
        Box::pin(std::future::ready(health))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.lock().closed = true;
        Box::pin(std::future::ready(Ok(())))
    }
}
