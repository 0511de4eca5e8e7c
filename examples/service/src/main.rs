//! A shop: it takes orders and gives quotes over HTTP, writes orders to its own table, and tells others of both.

use std::error::Error;
use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusBuilder;
use tidings::manifest::Manifest;
use tidings::{Config, Emitter};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

mod database;
mod events;
mod http;

#[cfg(test)]
mod tests;

use http::Shop;

/// Of histograms, in seconds: a round trip to a broker takes milliseconds, and what waits for one that is down a second.
const BUCKETS: [f64; 9] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.0, 10.0];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| "info,sqlx=warn".into());
    tracing_subscriber::fmt().with_env_filter(filter).init();
    // Before the producer is built, which tells it what there is.
    let metrics = PrometheusBuilder::new().set_buckets(&BUCKETS)?.install_recorder()?;

    let url = std::env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let (pool, outbox) = database::open(&url).await?;

    let (config, catalog) = (Config::from_env()?, events::catalog()?);
    let manifest = Manifest::of(&config, &catalog)?;
    // The relay ends when the emitter is closed.
    let (emitter, relay) = tidings::emitter(config, catalog, outbox, std::future::pending()).await?;
    let relay = tokio::spawn(relay);

    let app = http::api(Shop { emitter: Arc::clone(&emitter), pool }).merge(http::operations(
        Arc::clone(&emitter),
        &manifest,
        metrics,
    ));
    let address = std::env::var("LISTEN").unwrap_or_else(|_| "127.0.0.1:8080".into());
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "the shop is open");
    let mut terminated = signal(SignalKind::terminate())?;
    let shutdown = async move {
        terminated.recv().await;
    };
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await?;

    // Nobody asks any more. What runs ends, what is stored is left to the next relay, and the lanes are free for it.
    emitter.close().await?;
    relay.await??;
    tracing::info!("the shop is closed");
    Ok(())
}
