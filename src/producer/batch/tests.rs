use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Mutex, Notify};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::*;
use crate::outbox::{
    Appended, Head, HeldRow, Hole, Lanes, Leases, Limits, Outbox, Page, Parked, Progress, Row, Settled,
};
use crate::transport::memory::{Fate, MemoryTransport};
use crate::tx::Tx;
use crate::{Catalog, Config, Emitter as _, EventDefinition};

/// An outbox whose lanes are changed when something is appended, and which takes its time to count them, on its only connection.
#[derive(Debug, Default)]
struct Relaid {
    is_changed: AtomicBool,
    is_asked: Notify,
    may_answer: Notify,
    connection: Mutex<()>,
}

impl Relaid {
    fn now(&self) -> Lanes {
        if self.is_changed.load(Ordering::SeqCst) { Lanes::new(2, 1).unwrap() } else { Lanes::new(1, 0).unwrap() }
    }
}

impl Outbox for Relaid {
    fn lanes(&self) -> BoxFuture<'_, Result<Lanes>> {
        Box::pin(async {
            if self.is_changed.load(Ordering::SeqCst) {
                let _connection = self.connection.lock().await;
                self.is_asked.notify_one();
                self.may_answer.notified().await;
            }
            Ok(self.now())
        })
    }

    fn append<'a>(&'a self, lanes: Lanes, rows: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        self.is_changed.store(true, Ordering::SeqCst);
        Box::pin(async move {
            if lanes != self.now() {
                return Err(Error::new(ErrorKind::StorageConflict, "there are other lanes now"));
            }
            Ok(rows.iter().map(|_| Appended::new(1, 1)).collect())
        })
    }

    fn heads(&self) -> BoxFuture<'_, Result<Vec<Head>>> {
        Box::pin(async move {
            let _connection = self.connection.lock().await;
            let lanes = self.now();
            let head = Head { last: 0, floor: 1, highest_settled: 0, life: 1, lanes };
            Ok(vec![head; lanes.count().into()])
        })
    }

    fn append_in<'a>(&'a self, _: Lanes, _: Tx<'a>, _: &'a [Row]) -> BoxFuture<'a, Result<Vec<Appended>>> {
        unreachable!("nothing is emitted in a transaction")
    }

    fn lease(&self, _: Uuid, _: Duration, _: i64) -> BoxFuture<'_, Result<Leases>> {
        unreachable!("there is no relay")
    }

    fn release<'a>(&'a self, _: Uuid, _: &'a [u16], _: bool) -> BoxFuture<'a, Result<()>> {
        unreachable!("there is no relay")
    }

    fn parked<'a>(&'a self, _: &'a [u16]) -> BoxFuture<'a, Result<Vec<(u16, Parked)>>> {
        unreachable!("there is no relay")
    }

    fn held<'a>(&'a self, _: u16, _: &'a Bytes, _: Limits) -> BoxFuture<'a, Result<Vec<HeldRow>>> {
        unreachable!("there is no relay")
    }

    fn page<'a>(&'a self, _: &'a [Hole], _: Limits) -> BoxFuture<'a, Result<Page>> {
        unreachable!("there is no relay")
    }

    fn settle<'a>(&'a self, _: &'a [Progress]) -> BoxFuture<'a, Result<Settled>> {
        unreachable!("there is no relay")
    }
}

fn event(key: &'static str) -> EmitRequest {
    EmitRequest::new(key).tenant(key).payload("{}")
}

/// A producer that stores events of one definition, and sends those of the other.
async fn producer(outbox: &Arc<Relaid>, transport: &Arc<MemoryTransport>) -> Producer {
    let definition = |key| EventDefinition::new(key, key, "happened");
    let config = Config::new("//shop", ["unused:1"]).unwrap().with_policies("stored.outbox=always".parse().unwrap());
    let catalog = Catalog::new([definition("stored"), definition("sent")]).unwrap();
    let builder = Producer::builder(config, catalog).with_outbox(Arc::clone(outbox) as Arc<dyn Outbox>);
    builder.with_transport(Arc::clone(transport) as _).build().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_looks_the_lanes_up_goes_on_with_what_has_the_connection_for_that() {
    let (outbox, transport) = (Arc::new(Relaid::default()), Arc::new(MemoryTransport::default()));
    transport.script(|_| Fate::Hold);
    let producer = producer(&outbox, &transport).await;
    // Whoever waits for an answer gives up after half a second, and this is to be over before.
    let batch = timeout(Duration::from_millis(600), producer.emit_batch(vec![event("stored"), event("sent")]));
    let others = async {
        outbox.is_asked.notified().await;
        // Late enough for the batch to look the lanes up again once the other event is there.
        sleep(Duration::from_millis(200)).await;
        transport.release();
        sleep(Duration::from_millis(200)).await;
        outbox.may_answer.notify_one();
    };
    let (results, ()) = tokio::join!(batch, others);
    assert!(results.expect("the batch comes to an end").iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn an_emit_that_counts_the_lanes_and_is_left_alone_holds_nobody_up_for_ever() {
    let outbox = Arc::new(Relaid::default());
    let producer = producer(&outbox, &Arc::new(MemoryTransport::default())).await;
    let mut left_alone = pin!(producer.emit(event("stored")));
    assert!(timeout(Duration::from_millis(10), &mut left_alone).await.is_err(), "it waits for the answer");
    let other = timeout(Duration::from_secs(10), producer.emit(event("stored"))).await;
    assert_eq!(other.expect("it comes to an end").unwrap_err().kind(), ErrorKind::StorageConflict);
    outbox.may_answer.notify_one();
    left_alone.await.unwrap();
}

/// Else its next event would be given up after a second, though the client that it is with is well.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_what_a_client_that_was_given_up_says_of_a_chain_of_which_it_had_nothing() {
    let producer = producer(&Arc::new(Relaid::default()), &Arc::new(MemoryTransport::default())).await;
    let mut batch = Batch::new(&producer.0, Vec::new());
    let chain = batch.chain_of(&"key".into());
    batch.give_up_client(chain);
    assert!(batch.given_up.is_empty());
}
