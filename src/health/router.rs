//! Health over HTTP.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::{Health, Reason, ReasonKind, Status};
use crate::emitter::Emitter;

/// What was seen is shown again for so long.
const KEEP: Duration = Duration::from_secs(1);

/// How long a request waits for what is being seen. Kubernetes waits for a second, by default, and takes silence for a no.
const PATIENCE: Duration = Duration::from_millis(700);

/// A look that takes longer has died. One at a producer takes some two seconds at most.
const LONGEST_LOOK: Duration = Duration::from_secs(10);

/// Three routes for an orchestrator, to be merged into the service's own router or served on a port of their own:
///
/// | route | 200 | 503 |
/// |---|---|---|
/// | `GET /live` | [live](Health::is_live) | restart the process |
/// | `GET /ready` | [ready](Health::is_ready): healthy or degraded | send it no work: it is down, or nothing is known yet |
/// | `GET /health` | the same, with all that was seen | the same |
///
/// The answers are JSON, and nobody may keep them (`cache-control: no-store`); `HEAD` is answered without them. They name
/// faults, though no credentials: `/health` is for those who run the service.
///
/// The emitter is asked once a second at most, however many requests come, and whether or not they wait for the answer. A
/// request waits for 0.7 s at most; if broker or database take longer to say nothing, it is answered with what was seen
/// before. `/live` does not wait.
///
/// Available with the feature `axum`. Needs a tokio runtime.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
/// use axum::{body::Body, http::{Request, StatusCode}};
/// use tidings::{Catalog, Emitter, EventDefinition, NoopEmitter};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let emitter: Arc<dyn Emitter> = Arc::new(NoopEmitter::new(catalog));
/// let app = axum::Router::new().nest("/streaming", tidings::health::router(emitter));
///
/// let response = app.oneshot(Request::get("/streaming/ready").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok(()) }
/// ```
pub fn router(emitter: Arc<dyn Emitter>) -> Router {
    let looker = Arc::new(Looker::new(emitter));
    Router::new().route("/live", get(live)).route("/ready", get(ready)).route("/health", get(health)).with_state(looker)
}

async fn live(State(looker): State<Arc<Looker>>) -> Response {
    // Silence would be taken for death.
    let health = looker.glance();
    answer(health.is_live(), json!({ "live": health.is_live() }))
}

async fn ready(State(looker): State<Arc<Looker>>) -> Response {
    let health = looker.look().await;
    let kinds: Vec<_> = health.reasons.iter().map(|reason| reason.kind).collect();
    answer(health.is_ready(), json!({ "ready": health.is_ready(), "status": health.status, "reasons": kinds }))
}

async fn health(State(looker): State<Arc<Looker>>) -> Response {
    let health = looker.look().await;
    answer(health.is_ready(), json!(*health))
}

fn answer(is_well: bool, body: Value) -> Response {
    let status = if is_well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (status, headers, body.to_string()).into_response()
}

/// Looks at an emitter for all who ask.
struct Looker {
    emitter: Arc<dyn Emitter>,
    begun: Mutex<Option<Instant>>,
    seen: watch::Sender<Seen>,
}

/// What was seen last, and by the look that was begun at which time.
#[derive(Clone)]
struct Seen {
    health: Arc<Health>,
    begun: Option<Instant>,
    at: Instant,
}

impl fmt::Debug for Looker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Looker")
    }
}

impl Looker {
    fn new(emitter: Arc<dyn Emitter>) -> Self {
        let reasons = vec![Reason::new(ReasonKind::Unknown, "nothing was seen yet")];
        let unknown = Health { status: Status::Down, reasons, ..Health::healthy() };
        let seen = Seen { health: Arc::new(unknown), begun: None, at: Instant::now() };
        Self { emitter, begun: Mutex::default(), seen: watch::Sender::new(seen) }
    }

    /// What was seen last; and has somebody look, unless that was a moment ago.
    fn glance(self: &Arc<Self>) -> Arc<Health> {
        self.begin();
        Arc::clone(&self.seen.borrow().health)
    }

    /// What is to be seen now, or, if that takes too long, what was seen last.
    async fn look(self: &Arc<Self>) -> Arc<Health> {
        let begun = self.begin();
        let mut seen = self.seen.subscribe();
        let fresh = seen.wait_for(|seen| seen.begun >= Some(begun));
        if let Ok(Ok(fresh)) = timeout(PATIENCE, fresh).await {
            return Arc::clone(&fresh.health);
        }
        Arc::clone(&self.seen.borrow().health)
    }

    /// Begins to look, unless somebody does or has a moment ago. Yields when the look was begun that counts.
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends by itself, and a request that is given up must not end it for others"
    )]
    fn begin(self: &Arc<Self>) -> Instant {
        // Nothing panics while it holds this lock.
        let mut last = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if let Some(begun) = *last {
            let seen = self.seen.borrow();
            let is_over = seen.begun >= Some(begun);
            if (is_over && now < seen.at + KEEP) || (!is_over && now < begun + LONGEST_LOOK) {
                return begun;
            }
        }
        *last = Some(now);
        drop(last);
        let looker = Arc::clone(self);
        tokio::spawn(async move {
            let health = Arc::new(looker.emitter.health().await);
            looker.seen.send_replace(Seen { health, begun: Some(now), at: Instant::now() });
        });
        now
    }
}

#[cfg(test)]
mod tests;
