use std::sync::atomic::{AtomicUsize, Ordering};

use axum::body::{Body, to_bytes};
use axum::http::{Method, Request};
use tower::ServiceExt;

use super::*;
use crate::BoxFuture;
use crate::emitter::Receipt;
use crate::error::Result;
use crate::event::EmitRequest;
use crate::tx::Tx;

/// An emitter that is as it is told to be, and says so after a while.
#[derive(Debug)]
struct Patient {
    health: Mutex<Health>,
    delay: Mutex<Duration>,
    looks: AtomicUsize,
}

impl Patient {
    fn new(health: Health) -> Arc<Self> {
        Arc::new(Self { health: health.into(), delay: Mutex::default(), looks: AtomicUsize::new(0) })
    }

    fn becomes(&self, health: Health, delay: Duration) {
        *self.health.lock().unwrap() = health;
        *self.delay.lock().unwrap() = delay;
    }

    fn looks(&self) -> usize {
        self.looks.load(Ordering::SeqCst)
    }
}

impl Emitter for Patient {
    fn emit(&self, _: EmitRequest) -> BoxFuture<'_, Result<Receipt>> {
        unimplemented!("nobody emits")
    }

    fn emit_batch(&self, _: Vec<EmitRequest>) -> BoxFuture<'_, Vec<Result<Receipt>>> {
        unimplemented!("nobody emits")
    }

    fn append<'a>(&'a self, _: Tx<'a>, _: Vec<EmitRequest>) -> BoxFuture<'a, Result<Vec<Receipt>>> {
        unimplemented!("nobody emits")
    }

    fn committed(&self, _: Vec<Receipt>) {
        unimplemented!("nobody commits")
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        self.looks.fetch_add(1, Ordering::SeqCst);
        let (health, delay) = (self.health.lock().unwrap().clone(), *self.delay.lock().unwrap());
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            health
        })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        unimplemented!("nobody closes")
    }
}

fn degraded() -> Health {
    let reasons = vec![Reason::new(ReasonKind::BrokerUnreachable, "no broker answers")];
    Health { status: Status::Degraded, reasons, ..Health::healthy() }
}

fn lost() -> Health {
    Health { live: false, ..degraded() }
}

async fn ask(router: &Router, method: Method, path: &str) -> (StatusCode, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
    let status = response.status();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

async fn get_status(router: &Router, path: &str) -> u16 {
    ask(router, Method::GET, path).await.0.as_u16()
}

#[tokio::test(start_paused = true)]
async fn each_route_tells_orchestrators_by_its_status_what_to_do() {
    for (health, live, ready) in
        [(Health::healthy(), 200, 200), (degraded(), 200, 200), (Health::closed(), 200, 503), (lost(), 503, 200)]
    {
        let router = router(Patient::new(health.clone()));
        assert_eq!(get_status(&router, "/ready").await, ready, "{health:?}");
        assert_eq!(get_status(&router, "/health").await, ready, "{health:?}");
        // What was seen is known by now.
        assert_eq!(get_status(&router, "/live").await, live, "{health:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_answers_are_json_that_says_why() {
    let router = router(Patient::new(degraded()));
    let json = async |path| -> Value { serde_json::from_str(&ask(&router, Method::GET, path).await.1).unwrap() };
    let ready = json!({ "ready": true, "status": "degraded", "reasons": ["broker_unreachable"] });
    assert_eq!(json("/ready").await, ready);
    assert_eq!(json("/live").await, json!({ "live": true }));
    assert_eq!(json("/health").await, json!(degraded()));
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_the_head_alone_gets_the_same_status_without_a_body() {
    let router = router(Patient::new(Health::closed()));
    for (path, status) in [("/ready", 503), ("/health", 503), ("/live", 200)] {
        assert_eq!(ask(&router, Method::HEAD, path).await, (StatusCode::from_u16(status).unwrap(), String::new()));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_share_a_look_and_for_a_second_what_was_seen() {
    let emitter = Patient::new(Health::healthy());
    emitter.becomes(Health::healthy(), Duration::from_millis(300));
    let router = router(Arc::clone(&emitter) as _);
    let paths = ["/ready", "/health"].into_iter().cycle().take(200);
    let statuses = futures_util::future::join_all(paths.map(|path| get_status(&router, path))).await;
    assert!(statuses.iter().all(|status| *status == 200) && emitter.looks() == 1, "{}", emitter.looks());
    tokio::time::advance(Duration::from_millis(900)).await;
    get_status(&router, "/ready").await;
    assert_eq!(emitter.looks(), 1);
    tokio::time::advance(Duration::from_millis(200)).await;
    get_status(&router, "/ready").await;
    assert_eq!(emitter.looks(), 2);
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_given_up_begin_no_further_look_and_end_none() {
    let emitter = Patient::new(Health::healthy());
    emitter.becomes(Health::healthy(), Duration::from_secs(2));
    let router = router(Arc::clone(&emitter) as _);
    for _ in 0..100 {
        assert!(timeout(Duration::from_millis(10), get_status(&router, "/ready")).await.is_err());
    }
    assert_eq!(emitter.looks(), 1);
    tokio::time::advance(Duration::from_millis(1_100)).await;
    assert_eq!((get_status(&router, "/ready").await, emitter.looks()), (200, 1));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_takes_long_holds_up_nobody_for_a_second() {
    let emitter = Patient::new(Health::healthy());
    let router = router(Arc::clone(&emitter) as _);
    let timed = async |path| {
        let begun = Instant::now();
        let status = get_status(&router, path).await;
        assert!(begun.elapsed() < Duration::from_secs(1), "{path}: {:?}", begun.elapsed());
        status
    };
    emitter.becomes(degraded(), Duration::from_secs(2));
    assert_eq!((timed("/live").await, timed("/ready").await), (200, 503), "nothing was seen yet");
    tokio::time::advance(Duration::from_secs(10)).await;
    emitter.becomes(Health::closed(), Duration::from_secs(2));
    assert_eq!(timed("/ready").await, 200, "it was degraded");
    tokio::time::advance(Duration::from_secs(10)).await;
    assert_eq!(timed("/ready").await, 503);
}

#[tokio::test(start_paused = true)]
async fn liveness_is_told_without_a_look_but_has_one_begun() {
    let emitter = Patient::new(lost());
    let router = router(Arc::clone(&emitter) as _);
    assert_eq!((get_status(&router, "/live").await, emitter.looks()), (200, 0));
    tokio::task::yield_now().await;
    assert_eq!((get_status(&router, "/live").await, emitter.looks()), (503, 1));
}

#[tokio::test(start_paused = true)]
async fn a_look_that_never_ends_is_begun_again_some_time() {
    let emitter = Patient::new(Health::healthy());
    emitter.becomes(Health::healthy(), Duration::from_secs(100_000));
    let router = router(Arc::clone(&emitter) as _);
    for expected in 1..=3 {
        assert_eq!((get_status(&router, "/ready").await, emitter.looks()), (503, expected));
        tokio::time::advance(LONGEST_LOOK).await;
    }
}
