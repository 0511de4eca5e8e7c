//! What the service serves.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Deserialize;
use serde_json::{Value, json};
use sqlx::Pool;
use tidings::manifest::{self, Manifest};
use tidings::{Emitter, EmitterExt, ErrorKind, health};
use uuid::Uuid;

use crate::database::Database;
use crate::events::{OrderPlaced, QuoteGiven};

pub(crate) struct Shop {
    pub(crate) emitter: Arc<dyn Emitter>,
    pub(crate) pool: Pool<Database>,
}

/// What customers ask for.
pub(crate) fn api(shop: Shop) -> Router {
    Router::new().route("/orders", post(order)).route("/quotes", post(quote)).with_state(Arc::new(shop))
}

/// What those ask for who run the service. A real one serves it on another port, or behind a login.
pub(crate) fn operations(emitter: Arc<dyn Emitter>, manifest: &Manifest, metrics: PrometheusHandle) -> Router {
    Router::new()
        .nest("/streaming", health::router(emitter).merge(manifest::router(manifest)))
        .route("/metrics", get(move || std::future::ready(metrics.render())))
}

#[derive(Deserialize)]
struct Basket {
    customer: String,
    prices_cents: Vec<u32>,
}

impl Basket {
    fn total_cents(&self) -> i64 {
        self.prices_cents.iter().copied().map(i64::from).sum()
    }
}

async fn order(
    State(shop): State<Arc<Shop>>,
    Json(basket): Json<Basket>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let order = Uuid::now_v7().to_string();
    let placed = OrderPlaced { order, total_cents: basket.total_cents(), customer: basket.customer };

    let mut tx = shop.pool.begin().await?;
    sqlx::query("insert into orders (id, customer, total_cents) values ($1, $2, $3)")
        .bind(&placed.order)
        .bind(&placed.customer)
        .bind(placed.total_cents)
        .execute(&mut *tx)
        .await?;
    shop.emitter.emit_typed_in(&mut tx, &placed).await?;
    tx.commit().await?;

    Ok((StatusCode::CREATED, Json(json!({ "order": placed.order }))))
}

async fn quote(State(shop): State<Arc<Shop>>, Json(basket): Json<Basket>) -> Result<Json<Value>, Failure> {
    let given = QuoteGiven { total_cents: basket.total_cents(), customer: basket.customer };
    shop.emitter.emit_typed(&given).await?;
    Ok(Json(json!({ "total_cents": given.total_cents })))
}

/// Why a request was not served.
enum Failure {
    Database(sqlx::Error),
    Event(tidings::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error)
    }
}

impl From<tidings::Error> for Failure {
    fn from(error: tidings::Error) -> Self {
        Self::Event(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = match &self {
            Self::Event(error) if error.kind() == ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
            // What the customer sent made an event that can't be.
            Self::Event(error) if error.is_caller_error() => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Event(error) => {
                tracing::error!(%error, kind = error.kind().as_str(), "an event was not accepted");
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Database(error) => {
                tracing::error!(%error, "the database failed");
                StatusCode::SERVICE_UNAVAILABLE
            }
        };
        status.into_response()
    }
}
