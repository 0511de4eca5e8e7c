//! The programs that are killed: a service, and a relay.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use tidings::{Config, Emitter, Producer};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

use crate::Result;
use crate::describe;
use crate::events::catalog;
use crate::order::{Answer, Fate, Order, Way};
use crate::store::{AnyOutbox, Store};

/// The file in which a service writes down what it accepted outside of transactions, before it answers.
pub(crate) fn accepted_file(folder: &Path, name: &str) -> std::path::PathBuf {
    folder.join(format!("{name}.accepted"))
}

struct Service {
    emitter: Arc<dyn Emitter>,
    store: Store,
    /// What is written here survives the process.
    accepted: Mutex<File>,
}

/// Serves orders, and relays, until SIGTERM.
pub(crate) async fn service(name: &str, database: &str, folder: &Path, relays: bool) -> Result<()> {
    prepare()?;
    let (producer, store) = loop {
        match open(database).await {
            Ok(opened) => break opened,
            Err(error) => eprintln!("can't start yet: {}", describe(&*error)),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    if relays {
        tokio::spawn(run_relay(producer.clone()));
    }
    let accepted = OpenOptions::new().create(true).append(true).open(accepted_file(folder, name))?;
    let service = Arc::new(Service { emitter: Arc::new(producer.clone()), store, accepted: Mutex::new(accepted) });
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let router = Router::new().route(&format!("/{name}"), post(take)).with_state(service);
    tokio::select! {
        served = axum::serve(listener, router) => served?,
        terminated = terminated() => terminated?,
    }
    producer.close().await?;
    Ok(())
}

/// Relays until SIGTERM.
pub(crate) async fn relay(database: &str) -> Result<()> {
    prepare()?;
    let producer = loop {
        match open(database).await {
            Ok((producer, _)) => break producer,
            Err(error) => eprintln!("can't start yet: {}", describe(&*error)),
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    };
    println!("0");
    tokio::spawn(run_relay(producer.clone()));
    terminated().await?;
    producer.close().await?;
    Ok(())
}

/// A relay ends when its producer is closed. One that ends otherwise takes its process with it, which is noticed.
async fn run_relay(producer: Producer) {
    if let Err(error) = producer.relay(std::future::pending()).await {
        eprintln!("the relay has failed: {}", describe(&error));
        std::process::exit(1);
    }
}

/// Logs, lives on when a file may not grow, and ends the process when whoever started it is gone.
fn prepare() -> Result<()> {
    /// What a process gets whose file has reached its limit; without a handler it would die of it.
    const SIGXFSZ: i32 = 25;
    drop(signal(SignalKind::from_raw(SIGXFSZ))?);
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,sqlx=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(std::io::stderr).init();
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(1);
    });
    Ok(())
}

async fn terminated() -> Result<()> {
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

async fn open(database: &str) -> Result<(Producer, Store)> {
    let outbox = AnyOutbox::open(database)?;
    outbox.migrate().await?;
    let store = Store::open(database).await?;
    let builder = Producer::builder(Config::from_env()?, catalog()?);
    let builder = match outbox {
        AnyOutbox::Postgres(outbox) => builder.with_outbox(outbox),
        AnyOutbox::Sqlite(outbox) => builder.with_outbox(outbox),
    };
    Ok((builder.build().await?, store))
}

async fn take(State(service): State<Arc<Service>>, Json(order): Json<Order>) -> Json<Answer> {
    let requests: tidings::Result<Vec<_>> = order.ids.iter().map(|id| order.kind.request(&order.key, id)).collect();
    let requests = match requests {
        Ok(requests) => requests,
        Err(error) => panic!("the events are right: {}", describe(&error)),
    };
    let fates = match order.way {
        Way::Emit => {
            let mut results = Vec::new();
            for request in requests {
                results.push(service.emitter.emit(request).await);
            }
            service.conclude(&order, results)
        }
        Way::Batch => service.conclude(&order, service.emitter.emit_batch(requests).await),
        Way::Transaction { commits, open_ms } => {
            let open = Duration::from_millis(open_ms);
            let fate = service.store.transact(&*service.emitter, &order, requests, commits, open).await;
            let fate = fate.unwrap_or_else(|error| {
                eprintln!("a transaction failed: {}", describe(&*error));
                Fate::Refused
            });
            vec![fate; order.ids.len()]
        }
    };
    Json(Answer { fates })
}

impl Service {
    fn conclude(&self, order: &Order, results: Vec<tidings::Result<tidings::Receipt>>) -> Vec<Fate> {
        let mut lines = String::new();
        let mut fates = Vec::new();
        for (id, result) in order.ids.iter().zip(results) {
            fates.push(match result {
                Ok(_) => {
                    lines += &format!("{id}\n");
                    Fate::Accepted
                }
                Err(error) => {
                    eprintln!("{id} failed: {}", describe(&error));
                    if error.is_ambiguous() { Fate::Unknown } else { Fate::Refused }
                }
            });
        }
        let mut file = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        // A file that may not grow, as that of a full disk, has not even a line more; then the answer alone tells.
        if let Err(error) = file.write_all(lines.as_bytes()) {
            eprintln!("not written down: {error}");
        }
        fates
    }
}
