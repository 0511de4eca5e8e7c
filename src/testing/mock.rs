//! An emitter that records.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::Notify;

use crate::BoxFuture;
use crate::catalog::Catalog;
use crate::catalog::compiled::{CompiledCatalog, Resolved, Settings};
use crate::config::Config;
use crate::emitter::noop::closed;
use crate::emitter::{Emitter, Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{EmitRequest, EventId};
use crate::health::Health;
use crate::transport::Record;
use crate::tx::Tx;

mod pattern;

/// Records what a service emits, and refuses what production refuses.
///
/// An event goes where its policy says, as if broker and outbox were well, unless a [script](Self::script) says otherwise. What was
/// refused or failed is not recorded. An assertion that fails lists what was emitted.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use serde_json::json;
/// use tidings::testing::MockEmitter;
/// use tidings::{Catalog, EmitRequest, Emitter, EventDefinition};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let mock = Arc::new(MockEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?));
/// let emitter: Arc<dyn Emitter> = mock.clone();
///
/// let order = json!({"order": "order-17", "total": {"cents": 4200, "currency": "EUR"}});
/// emitter.emit(EmitRequest::new("order.created").tenant("t-abc").json(&order)?).await?;
///
/// mock.assert_count("order.created", 1);
/// mock.assert_tenant("order.created", "t-abc");
/// mock.assert_payload("order.created", &json!({"total": {"cents": 4200}}));
/// assert_eq!(mock.emissions()[0].record.headers.get("ce_type"), Some(&b"events.order.created"[..]));
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct MockEmitter {
    catalog: CompiledCatalog,
    state: Mutex<State>,
    /// Told when an event was recorded, or its commit.
    recorded: Notify,
}

#[derive(Debug, Default)]
struct State {
    emissions: Vec<Emission>,
    script: Option<Script>,
    /// How often each event was asked for, by its key.
    attempts: HashMap<String, usize>,
    /// How many records each topic has.
    offsets: HashMap<Arc<str>, i64>,
    /// How many rows the outbox has.
    rows: i64,
    closed: bool,
}

#[derive(Clone)]
struct Script(Arc<dyn Fn(&Attempt<'_>) -> Answer + Send + Sync>);

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Script")
    }
}

/// An event that was emitted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Emission {
    /// The event's identity.
    pub event_id: EventId,
    /// What was asked for.
    pub request: EmitRequest,
    /// What reaches Kafka: topic, key, headers and value.
    pub record: Record,
    /// What the emit returned.
    pub outcome: Outcome,
    /// Whether it was emitted in a transaction. Whether that committed the mock does not know, unless it is told.
    pub in_transaction: bool,
    /// Whether its receipt was given to [`Emitter::committed`].
    pub is_committed: bool,
}

impl Emission {
    /// The key of the definition.
    #[must_use]
    pub fn definition_key(&self) -> &str {
        self.request.definition_key()
    }

    /// The payload, if it is JSON.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(self.request.payload_bytes()?).ok()
    }
}

/// An emit that a [script](MockEmitter::script) has to answer. The event was checked, and is well.
#[derive(Debug)]
#[non_exhaustive]
pub struct Attempt<'a> {
    /// What is asked for.
    pub request: &'a EmitRequest,
    /// Whether it is emitted in a transaction.
    pub in_transaction: bool,
    /// How often this event was asked for, this time included; whatever the answers were.
    pub number: usize,
}

/// What a [script](MockEmitter::script) says to an emit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Answer {
    /// It goes where its policy says.
    Accept,
    /// It is stored, for this reason, as while the broker is down.
    Store(StoredReason),
    /// It fails with an error of this kind, and is nowhere.
    Fail(ErrorKind),
    /// It fails with an [ambiguous](Error::is_ambiguous) error of this kind. It is not recorded.
    FailAmbiguously(ErrorKind),
}

impl MockEmitter {
    /// An emitter that records the events of this catalog, as a producer does that has an outbox, and defaults for all settings.
    ///
    /// # Panics
    ///
    /// If a name of the catalog is too long for a topic. [`with_config`](Self::with_config) says so by an error.
    #[must_use]
    pub fn new(catalog: Catalog) -> Self {
        let config = Config::new("//mock", ["mock:9092"]).expect("it is well");
        Self::with_config(&config, catalog).unwrap_or_else(|error| panic!("the catalog can't be used: {error}"))
    }

    /// An emitter that records the events of this catalog, with the service's own source, names, policies and limits.
    ///
    /// # Errors
    ///
    /// As of [`ProducerBuilder::build`](crate::ProducerBuilder::build).
    pub fn with_config(config: &Config, catalog: Catalog) -> Result<Self> {
        let catalog = CompiledCatalog::compile(catalog, &Settings::of(config, &config.naming, true)?)?;
        Ok(Self { catalog, state: Mutex::default(), recorded: Notify::new() })
    }

    /// From now on every emit is answered as `script` says.
    ///
    /// # Examples
    ///
    /// ```
    /// # use tidings::testing::MockEmitter;
    /// # use tidings::{Catalog, EmitRequest, Emitter, EventDefinition};
    /// use tidings::ErrorKind;
    /// use tidings::testing::Answer;
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
    /// # let mock = MockEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?);
    /// mock.script(|attempt| match (attempt.request.definition_key(), attempt.number) {
    ///     ("order.created", 1) => Answer::FailAmbiguously(ErrorKind::Timeout),
    ///     _ => Answer::Accept,
    /// });
    ///
    /// let request = EmitRequest::new("order.created").payload("{}");
    /// assert!(mock.emit(request.clone()).await.unwrap_err().is_ambiguous());
    /// mock.emit(request).await?;
    /// # Ok(()) }
    /// ```
    pub fn script(&self, script: impl Fn(&Attempt<'_>) -> Answer + Send + Sync + 'static) {
        self.lock().script = Some(Script(Arc::new(script)));
    }

    /// From now on every emit fails with an error of this kind; with `None`, no more, and no [script](Self::script) holds either.
    pub fn fail_with(&self, kind: Option<ErrorKind>) {
        match kind {
            Some(kind) => self.script(move |_| Answer::Fail(kind)),
            None => self.lock().script = None,
        }
    }

    /// What was emitted, in order.
    #[must_use]
    pub fn emissions(&self) -> Vec<Emission> {
        self.lock().emissions.clone()
    }

    /// Forgets what was emitted, and how often each event was asked for.
    pub fn clear(&self) {
        let mut state = self.lock();
        state.emissions.clear();
        state.attempts.clear();
    }

    /// Asserts that an event of this key was emitted.
    ///
    /// # Panics
    ///
    /// If none was; the text lists what was.
    #[track_caller]
    pub fn assert_emitted(&self, key: &str) {
        assert!(!self.of(key).is_empty(), "no `{key}` was emitted; {}", self.summary());
    }

    /// Asserts that so many events of this key were emitted.
    ///
    /// # Panics
    ///
    /// If it was another number; the text lists what was emitted.
    #[track_caller]
    pub fn assert_count(&self, key: &str, expected: usize) {
        let count = self.of(key).len();
        assert!(count == expected, "{count} of `{key}` were emitted, not {expected}; {}", self.summary());
    }

    /// Asserts that an event of this key was emitted for this tenant.
    ///
    /// # Panics
    ///
    /// If none was; the text lists what was emitted.
    #[track_caller]
    pub fn assert_tenant(&self, key: &str, tenant: &str) {
        let found = self.of(key).iter().any(|emission| emission.request.tenant_id() == Some(tenant));
        assert!(found, "no `{key}` was emitted for tenant `{tenant}`; {}", self.summary());
    }

    /// Asserts that an event of this key was emitted whose payload has what `pattern` has: of an object the members that are
    /// named, at any depth; everything else must be equal.
    ///
    /// # Panics
    ///
    /// If none was; the text lists what was emitted, and what it had instead.
    #[track_caller]
    pub fn assert_payload(&self, key: &str, pattern: &Value) {
        let misses: Vec<_> = self
            .of(key)
            .iter()
            .map(|emission| match emission.json() {
                Some(json) => pattern::mismatch(pattern, &json),
                None => Some("the payload is not JSON".to_owned()),
            })
            .collect();
        let found = misses.iter().any(Option::is_none);
        let misses = misses.iter().flatten().map(|miss| format!("\n  {miss}")).collect::<String>();
        assert!(found, "no `{key}` with the payload {pattern} was emitted:{misses}\n{}", self.summary());
    }

    /// Asserts that the events of this partition key were these, by the keys of their definitions, in this order.
    ///
    /// # Panics
    ///
    /// If they were others, or in another order; the text lists what was emitted.
    #[track_caller]
    pub fn assert_sequence(&self, partition_key: &str, expected: &[&str]) {
        let emissions = self.delivered();
        let of_key = emissions.iter().filter(|emission| emission.record.key == partition_key.as_bytes());
        let found: Vec<_> = of_key.map(Emission::definition_key).collect();
        assert!(found == expected, "of `{partition_key}` were emitted {found:?}, not {expected:?}; {}", self.summary());
    }

    /// Asserts that events of this key were emitted, and each of them in a transaction.
    ///
    /// # Panics
    ///
    /// If there was none, or one outside of a transaction; the text lists what was emitted.
    #[track_caller]
    pub fn assert_in_transaction(&self, key: &str) {
        self.assert_emitted(key);
        let outside = self.of(key).iter().filter(|emission| !emission.in_transaction).count();
        assert!(outside == 0, "{outside} of `{key}` were emitted outside of a transaction; {}", self.summary());
    }

    /// Asserts that nothing was emitted.
    ///
    /// # Panics
    ///
    /// If something was; the text lists it.
    #[track_caller]
    pub fn assert_nothing_emitted(&self) {
        assert!(self.delivered().is_empty(), "something was emitted; {}", self.summary());
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

    /// What was emitted and is delivered: what is disabled is not.
    fn delivered(&self) -> Vec<Emission> {
        let mut emissions = self.emissions();
        emissions.retain(|emission| emission.outcome != Outcome::Disabled);
        emissions
    }

    fn of(&self, key: &str) -> Vec<Emission> {
        let mut emissions = self.delivered();
        emissions.retain(|emission| emission.definition_key() == key);
        emissions
    }

    fn summary(&self) -> String {
        let state = self.lock();
        if state.emissions.is_empty() {
            return "nothing was".into();
        }
        let line = |emission: &Emission| {
            let of = |name: &str, text: Option<&str>| text.map(|text| format!(" {name}={text}")).unwrap_or_default();
            let tenant = of("tenant", emission.request.tenant_id());
            let subject = of("subject", emission.request.subject_name());
            let how = match emission.outcome {
                Outcome::Disabled => ", which is disabled",
                _ if emission.in_transaction => " in a transaction",
                _ => "",
            };
            format!("\n  {}{tenant}{subject}{how}", emission.definition_key())
        };
        format!("what was:{}", state.emissions.iter().map(line).collect::<String>())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // An assertion that failed elsewhere has not left this half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a request, and asks the script what becomes of it.
    fn attempt(&self, request: EmitRequest, in_transaction: bool) -> Result<(EmitRequest, Resolved, Answer)> {
        let resolved = self.catalog.resolve(request.clone())?;
        let mut state = self.lock();
        let number = state.attempts.entry(request.definition_key().to_owned()).or_default();
        *number += 1;
        let attempt = Attempt { request: &request, in_transaction, number: *number };
        let script = state.script.clone();
        // The script may look at the mock.
        drop(state);
        let answer = script.map_or(Answer::Accept, |Script(script)| script(&attempt));
        let fail = |kind, is_ambiguous| {
            let error = Error::new(kind, "the mock was told to fail").or_ambiguous(is_ambiguous);
            Err(error.with_event_id(resolved.id.clone()))
        };
        match answer {
            Answer::Fail(kind) => fail(kind, false),
            Answer::FailAmbiguously(kind) => fail(kind, true),
            answer => Ok((request, resolved, answer)),
        }
    }

    /// Records all of these, or none.
    fn record(&self, requests: Vec<EmitRequest>, in_transaction: bool) -> Result<Vec<Receipt>> {
        if self.lock().closed {
            return Err(closed());
        }
        let attempts = requests.into_iter().map(|request| self.attempt(request, in_transaction));
        let attempts = attempts.collect::<Result<Vec<_>>>()?;
        let mut state = self.lock();
        let mut receipts = Vec::with_capacity(attempts.len());
        for (request, resolved, answer) in attempts {
            let outcome = state.outcome(&resolved, answer, in_transaction);
            let Resolved { id: event_id, record, .. } = resolved;
            receipts.push(Receipt::new(event_id.clone(), outcome.clone()));
            state.emissions.push(Emission { event_id, request, record, outcome, in_transaction, is_committed: false });
        }
        drop(state);
        self.recorded.notify_waiters();
        Ok(receipts)
    }

    fn record_one(&self, request: EmitRequest) -> Result<Receipt> {
        let receipts = self.record(vec![request], false)?;
        // `record` yields a receipt for each request.
        Ok(receipts.into_iter().next().expect("one request, one receipt"))
    }

    /// Once one has failed, those behind it of the same key fail too.
    fn record_batch(&self, requests: Vec<EmitRequest>) -> Vec<Result<Receipt>> {
        let mut failed = HashMap::<Bytes, ErrorKind>::new();
        let record = |request: EmitRequest| {
            // A request that is at fault has no key, and stops nobody.
            let key = self.catalog.resolve(request.clone())?.record.key;
            if let Some(kind) = failed.get(&key) {
                return Err(Error::new(*kind, "an earlier event of the same key in the batch failed"));
            }
            let recorded = self.record_one(request);
            if let Err(error) = &recorded {
                failed.insert(key, error.kind());
            }
            recorded
        };
        requests.into_iter().map(record).collect()
    }
}

impl State {
    fn outcome(&mut self, resolved: &Resolved, answer: Answer, in_transaction: bool) -> Outcome {
        let reason = match answer {
            _ if !resolved.policy.enabled() => return Outcome::Disabled,
            _ if in_transaction => Some(StoredReason::Transaction),
            Answer::Store(reason) => Some(reason),
            _ => resolved.policy.always_stored().then_some(StoredReason::Policy),
        };
        if let Some(reason) = reason {
            self.rows += 1;
            return Outcome::Stored { lane: 0, sequence: self.rows, reason };
        }
        let topic = Arc::clone(&resolved.record.topic);
        let next = self.offsets.entry(Arc::clone(&topic)).or_default();
        let offset = *next;
        *next += 1;
        Outcome::Published { topic, partition: 0, offset }
    }
}

impl Emitter for MockEmitter {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async { self.record_one(request) })
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(async { self.record_batch(requests) })
    }

    fn append<'a>(&'a self, _: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        Box::pin(async { self.record(requests, true) })
    }

    fn committed(&self, receipts: Vec<Receipt>) {
        let committed: HashSet<_> = receipts.iter().map(|receipt| &receipt.event_id).collect();
        for emission in &mut self.lock().emissions {
            emission.is_committed |= committed.contains(&emission.event_id);
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
