//! The manifest over HTTP.

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderName, header};
use axum::response::IntoResponse;
use axum::routing::get;

use super::Manifest;

/// What every answer says of itself: it is JSON as it is now, and nothing to be shown in a frame.
const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_TYPE, "application/json"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// The route `/manifest`, to be merged into the service's own router: `GET` is answered with the manifest, `HEAD` without it, and
/// other methods with 405. Whoever may read it is the service's affair.
///
/// Available with the feature `axum`.
///
/// # Examples
///
/// ```
/// use axum::{body::Body, http::{Request, StatusCode}};
/// use tidings::manifest::{self, Manifest};
/// use tidings::{Catalog, Config, EventDefinition};
/// use tower::ServiceExt;
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")])?;
/// let manifest = Manifest::of(&Config::new("//shop/orders", ["kafka:9092"])?, &catalog)?;
/// let app = axum::Router::new().nest("/streaming", manifest::router(&manifest));
///
/// let response = app.oneshot(Request::get("/streaming/manifest").body(Body::empty())?).await?;
/// assert_eq!(response.status(), StatusCode::OK);
/// # Ok(()) }
/// ```
pub fn router(manifest: &Manifest) -> Router {
    // Written once.
    Router::new().route("/manifest", get(answer)).with_state(Bytes::from(manifest.to_json()))
}

async fn answer(State(json): State<Bytes>) -> impl IntoResponse {
    (HEADERS, json)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::{Method, Request, StatusCode};
    use tower::ServiceExt;

    use super::*;
    use crate::{Catalog, Config, EventDefinition};

    async fn ask(method: Method) -> (StatusCode, axum::http::HeaderMap, Bytes) {
        let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]).unwrap();
        let manifest = Manifest::of(&Config::new("//shop", ["kafka:9092"]).unwrap(), &catalog).unwrap();
        let request = Request::builder().method(method).uri("/manifest").body(Body::empty()).unwrap();
        let (parts, body) = router(&manifest).oneshot(request).await.unwrap().into_parts();
        (parts.status, parts.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
    }

    #[tokio::test]
    async fn it_is_read_whole_and_kept_by_nobody() {
        let (status, headers, body) = ask(Method::GET).await;
        assert_eq!(status, StatusCode::OK);
        for (name, value) in HEADERS {
            assert_eq!(headers[&name], value);
        }
        let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(json["events"][0]["key"], "order.created");
        let (status, head, body) = ask(Method::HEAD).await;
        assert_eq!((status, body.len()), (StatusCode::OK, 0));
        assert_eq!(head, headers);
    }

    #[tokio::test]
    async fn nobody_writes_it() {
        for method in [Method::POST, Method::PUT, Method::DELETE] {
            let (status, headers, _) = ask(method).await;
            assert_eq!(
                (status, headers[header::ALLOW].to_str().unwrap()),
                (StatusCode::METHOD_NOT_ALLOWED, "GET,HEAD")
            );
        }
    }
}
