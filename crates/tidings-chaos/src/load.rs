//! The load: for each key somebody who asks a service for one thing after another, over HTTP.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use fastrand::Rng;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::Result;
use crate::events::Kind;
use crate::ledger::{Ledger, now_ms};
use crate::order::{Answer, Order, Way};
use crate::process::Process;

/// After this time nobody waits for an answer any more.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest pause of a key between two orders, in milliseconds.
const PAUSE_MS: u64 = 500;

/// Who asks for one thing after another, for one key.
struct Caller {
    kind: Kind,
    key: String,
    /// Any of these takes the next order.
    services: Vec<Arc<Process>>,
    /// For how long a transaction stays open at most, in milliseconds. SQLite has one writer at a time.
    open_ms: u64,
}

/// Runs until it is stopped.
pub(crate) struct Load {
    callers: JoinSet<()>,
    stopped: Arc<AtomicBool>,
}

impl Load {
    /// Keys of sales and stock belong to one service, those of the ledger to all that share an outbox: `shared`. `alone` has
    /// an outbox of its own.
    pub(crate) fn start(shared: &[Arc<Process>], alone: &Arc<Process>, ledger: &Arc<Ledger>, seed: u64) -> Self {
        let mut all = Vec::new();
        let mut add = |kind, name: &str, services: &[Arc<Process>], keys: usize, open_ms| {
            all.extend((0..keys).map(|n| Caller {
                kind,
                key: format!("{name}-{n}"),
                services: services.to_vec(),
                open_ms,
            }));
        };
        for service in shared {
            add(Kind::Sale, &format!("sale-{}", service.name), std::slice::from_ref(service), 6, 2_000);
            add(Kind::Stock, &format!("stock-{}", service.name), std::slice::from_ref(service), 4, 2_000);
        }
        add(Kind::Ledger, "ledger", shared, 10, 2_000);
        for (kind, name) in [(Kind::Sale, "sale"), (Kind::Stock, "stock"), (Kind::Ledger, "ledger")] {
            add(kind, &format!("{name}-{}", alone.name), std::slice::from_ref(alone), 3, 20);
        }
        let stopped = Arc::new(AtomicBool::new(false));
        let mut callers = JoinSet::new();
        for (n, caller) in (0..).zip(all) {
            let rng = Rng::with_seed(seed.wrapping_mul(1_000).wrapping_add(n));
            callers.spawn(caller.call(rng, Arc::clone(ledger), Arc::clone(&stopped)));
        }
        Self { callers, stopped }
    }

    /// Has everybody finish what is under way.
    pub(crate) async fn stop(mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        while self.callers.join_next().await.is_some() {}
    }
}

impl Caller {
    async fn call(self, mut rng: Rng, ledger: Arc<Ledger>, stopped: Arc<AtomicBool>) {
        let mut number = 0;
        while !stopped.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(rng.u64(0..PAUSE_MS))).await;
            let (way, count) = self.way(&mut rng);
            let ids = (number..number + count).map(|number| format!("{}-{number}", self.key)).collect();
            number += count;
            let order = Order { kind: self.kind, key: self.key.clone(), ids, way };
            let Some(service) = rng.choice(&self.services) else { return };
            let began_ms = now_ms();
            // Whatever fails here: an order without an answer may have been carried out.
            let answer = timeout(PATIENCE, ask(service, &order)).await.ok().and_then(Result::ok);
            ledger.enter(&order, began_ms, answer.as_ref().map(|answer| &*answer.fates));
            if answer.is_none() {
                sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// How the next order is to be carried out, and of how many events it is.
    fn way(&self, rng: &mut Rng) -> (Way, u64) {
        let open_ms = if rng.u8(0..20) == 0 { rng.u64(0..=self.open_ms) } else { rng.u64(0..20) };
        match rng.u8(0..100) {
            0..40 => (Way::Emit, 1),
            40..60 => (Way::Batch, rng.u64(2..7)),
            60..90 => (Way::Transaction { commits: true, open_ms }, rng.u64(1..4)),
            _ => (Way::Transaction { commits: false, open_ms }, rng.u64(1..4)),
        }
    }
}

async fn ask(service: &Process, order: &Order) -> Result<Answer> {
    let stream = TcpStream::connect(("127.0.0.1", service.port())).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // Ended with this call, even if nobody waits for that any more.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    // By its name, since another service may listen there by now.
    let request = Request::post(format!("/{}", service.name))
        .header("host", "127.0.0.1")
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from(serde_json::to_vec(order)?)))?;
    let response = sender.send_request(request).await?;
    if !response.status().is_success() {
        return Err(format!("answered {}", response.status()).into());
    }
    Ok(serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?)
}
