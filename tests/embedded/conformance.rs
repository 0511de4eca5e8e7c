//! The suite for emitters: what passes, and what must not.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tidings::health::Health;
use tidings::outbox::Outbox;
use tidings::testing::conformance::{Arrived, Report, catalog, check};
use tidings::testing::{MemoryTransport, MockEmitter};
use tidings::{BoxFuture, Config, EmitRequest, Emitter, NoopEmitter, Producer, Receipt, Result, SqliteOutbox, Tx};

use crate::support::relaying::RunningRelay;
use crate::support::waiting::eventually;

fn of_mock(mock: &MockEmitter) -> Vec<Arrived> {
    mock.emissions().iter().map(|emission| Arrived::of(&emission.record)).collect()
}

fn of_transport(transport: &MemoryTransport) -> Vec<Arrived> {
    transport.records().iter().map(Arrived::of).collect()
}

#[tokio::test]
async fn the_mock_passes() {
    let mock = Arc::new(MockEmitter::new(catalog()));
    check(Arc::clone(&mock) as _, async || Some(of_mock(&mock))).await.assert_passed();
}

#[tokio::test]
async fn the_noop_emitter_passes_and_is_said_to_send_nothing() {
    let report = check(Arc::new(NoopEmitter::new(catalog())), async || None).await;
    report.assert_passed();
    let report = check(Arc::new(NoopEmitter::new(catalog())), async || Some(Vec::new())).await;
    assert_eq!(report.failed.len(), 2, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_passes_whichever_way_its_events_go() {
    for policy in ["fallback", "journaled", "always"] {
        let transport = Arc::new(MemoryTransport::default());
        let directory = tempfile::tempdir().unwrap();
        let outbox = SqliteOutbox::open(directory.path().join("shop.sqlite"));
        outbox.migrate().await.unwrap();
        // As a service has it that is told which database it has.
        let outbox: Box<dyn Outbox> = Box::new(outbox);
        let policies = format!("conformance.checked.outbox={policy}").parse().unwrap();
        let config = Config::new("//shop", ["none:1"]).unwrap().with_policies(policies);
        let builder = Producer::builder(config, catalog()).with_outbox(outbox);
        let producer = builder.with_transport(Arc::clone(&transport) as _).build().await.unwrap();
        let relay = RunningRelay::of(&producer);
        let watched = producer.clone();
        let arrived = async || {
            let is_drained = async || watched.health().await.outbox.unwrap().oldest_waiting.is_none().then_some(());
            eventually("the outbox is drained", is_drained).await;
            Some(of_transport(&transport))
        };
        check(Arc::new(producer), arrived).await.assert_passed();
        relay.stop().await;
    }
}

#[tokio::test]
async fn a_pointer_to_an_emitter_passes() {
    let mock = Arc::new(MockEmitter::new(catalog()));
    let pointer: Arc<dyn Emitter> = Arc::new(Box::new(Arc::clone(&mock)) as Box<dyn Emitter>);
    check(pointer, async || Some(of_mock(&mock))).await.assert_passed();
}

/// Does as a mock, but for one thing.
#[derive(Debug)]
struct Broken {
    mock: MockEmitter,
    fault: Fault,
    /// Where its events arrive.
    arrived: Mutex<Vec<Arrived>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    /// It accepts, and sends nothing.
    BlackHole,
    /// It accepts whatever it is given.
    AlwaysOk,
    /// What comes later of a key arrives first.
    BreaksOrder,
    /// It sends what nobody has asked for.
    Invents,
    /// It gives every event an id of its own.
    RenamesEvents,
    /// It forgets that it was closed.
    StaysOpen,
    /// The results of a batch are in another order.
    ShufflesResults,
    /// Its health can't be told.
    NeverTellsHealth,
}

impl Broken {
    fn deliver(&self) {
        let mut arrived = of_mock(&self.mock);
        match self.fault {
            Fault::BlackHole => arrived.clear(),
            Fault::BreaksOrder => arrived.reverse(),
            Fault::Invents => arrived.push(Arrived::new("t", "nobody-has-emitted-it")),
            _ => {}
        }
        *self.arrived.lock().unwrap() = arrived;
    }

    fn prepare(&self, request: EmitRequest) -> EmitRequest {
        match self.fault {
            Fault::RenamesEvents => request.id(tidings::EventId::new()),
            _ => request,
        }
    }
}

impl Emitter for Broken {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async move {
            let result = self.mock.emit(self.prepare(request)).await;
            match result {
                Err(_) if self.fault == Fault::AlwaysOk => self.mock.emit(fine()).await,
                result => result,
            }
        })
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        Box::pin(async move {
            let mut results = self.mock.emit_batch(requests.into_iter().map(|r| self.prepare(r)).collect()).await;
            if self.fault == Fault::ShufflesResults {
                results.reverse();
            }
            results
        })
    }

    fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.mock.append(tx, requests)
    }

    fn committed(&self, receipts: Vec<Receipt>) {
        self.mock.committed(receipts);
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        if self.fault == Fault::NeverTellsHealth {
            return Box::pin(std::future::pending());
        }
        self.mock.health()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        if self.fault == Fault::StaysOpen {
            return Box::pin(std::future::ready(Ok(())));
        }
        self.mock.close()
    }
}

fn fine() -> EmitRequest {
    EmitRequest::new("conformance.checked").tenant("t").payload("{}")
}

async fn report_on(fault: Fault) -> Report {
    let broken = Broken { mock: MockEmitter::new(catalog()), fault, arrived: Mutex::default() };
    let broken = Arc::new(broken);
    let arrived = async || {
        broken.deliver();
        Some(broken.arrived.lock().unwrap().clone())
    };
    check(Arc::clone(&broken) as _, arrived).await
}

#[tokio::test(start_paused = true)]
async fn an_emitter_that_breaks_a_rule_fails() {
    report_on(Fault::None).await.assert_passed();
    for (fault, rule) in [
        (Fault::BlackHole, "what was accepted arrives"),
        (Fault::AlwaysOk, "a request that is at fault is refused"),
        (Fault::BreaksOrder, "in the order of its key"),
        (Fault::Invents, "and nothing else"),
        (Fault::RenamesEvents, "an id that is given is kept"),
        (Fault::StaysOpen, "a closed emitter refuses"),
        (Fault::ShufflesResults, "a batch has a result for each request"),
        (Fault::NeverTellsHealth, "health is told"),
    ] {
        let report = report_on(fault).await;
        assert!(report.failed.keys().any(|what| what.contains(rule)), "{fault:?}: {report}");
    }
}

/// One that waits, as an emitter over a network does.
#[derive(Debug)]
struct Slow(MockEmitter);

impl Emitter for Slow {
    fn emit(&self, request: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        Box::pin(async {
            tokio::time::sleep(Duration::from_millis(5)).await;
            self.0.emit(request).await
        })
    }

    fn emit_batch(&self, requests: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        self.0.emit_batch(requests)
    }

    fn append<'a>(&'a self, tx: Tx<'a>, requests: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        self.0.append(tx, requests)
    }

    fn committed(&self, receipts: Vec<Receipt>) {
        self.0.committed(receipts);
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        self.0.health()
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        self.0.close()
    }
}

#[tokio::test(start_paused = true)]
async fn an_emitter_that_takes_its_time_passes() {
    let slow = Arc::new(Slow(MockEmitter::new(catalog())));
    check(Arc::clone(&slow) as _, async || Some(of_mock(&slow.0))).await.assert_passed();
}
