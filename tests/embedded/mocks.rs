//! The emitters without a broker, as services hold them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use tidings::health::Health;
use tidings::testing::MockEmitter;
use tidings::{Config, EmitRequest, Emitter, EmitterExt, ErrorKind, NoopEmitter, Outcome, SqliteOutbox, Tx};

use crate::support::events::{EVENT, Sequence, catalog, is_published, stored_at};

fn request(tenant: &'static str) -> EmitRequest {
    EmitRequest::new(EVENT).tenant(tenant).subject("order-17").payload("{}")
}

fn mock() -> (Arc<MockEmitter>, Arc<dyn Emitter>) {
    let mock = Arc::new(MockEmitter::new(catalog()));
    (Arc::clone(&mock), mock)
}

/// The text with which an assertion fails.
fn failure(assertion: impl FnOnce()) -> String {
    let payload: Box<dyn Any + Send> = catch_unwind(AssertUnwindSafe(assertion)).unwrap_err();
    payload.downcast_ref::<String>().unwrap().clone()
}

#[tokio::test]
async fn a_noop_emitter_accepts_what_the_catalog_does_and_refuses_the_rest() {
    let emitter: Arc<dyn Emitter> = Arc::new(NoopEmitter::new(catalog()));
    assert_eq!(emitter.emit(request("t")).await.unwrap().outcome, Outcome::Disabled);
    assert_eq!(emitter.emit_in(&mut Tx::detached(), request("t")).await.unwrap().outcome, Outcome::Disabled);
    let results = emitter.emit_batch(vec![request("t"), EmitRequest::new("no.such.event")]).await;
    assert!(results[0].is_ok());
    assert_eq!(results[1].as_ref().unwrap_err().kind(), ErrorKind::UnknownEvent);
    let error = emitter.emit(request("t").payload("not json")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    assert_eq!(emitter.health().await, Health::healthy());
    emitter.close().await.unwrap();
    assert_eq!(emitter.emit(request("t")).await.unwrap_err().kind(), ErrorKind::Closed);
}

#[tokio::test]
async fn the_emitter_of_a_service_that_does_not_stream_is_a_noop_and_its_relay_waits_for_the_end() {
    let config = Config::from_vars([("STREAMING_ENABLED", "false")]).unwrap();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let shutdown = async {
        let _ = stopped.await;
    };
    let outbox = SqliteOutbox::open("/nowhere/shop.sqlite");
    let (emitter, relay) = tidings::emitter(config, catalog(), outbox, shutdown).await.unwrap();
    let relay = tokio::spawn(relay);
    assert_eq!(emitter.emit(request("t")).await.unwrap().outcome, Outcome::Disabled);
    assert!(!relay.is_finished());
    drop(stop);
    relay.await.unwrap().unwrap();
}

#[tokio::test]
async fn the_emitter_of_a_service_that_streams_needs_a_migrated_outbox() {
    let directory = tempfile::tempdir().unwrap();
    let outbox = SqliteOutbox::open(directory.path().join("shop.sqlite"));
    let config = Config::new("//shop/orders", ["localhost:1"]).unwrap();
    let error = tidings::emitter(config, catalog(), outbox, std::future::ready(())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Schema);
}

#[tokio::test]
async fn a_mock_records_what_was_emitted_and_how() {
    let (mock, emitter) = mock();
    assert!(is_published(&emitter.emit(request("t-1")).await.unwrap()));
    let stored = emitter.emit_in(&mut Tx::detached(), request("t-2")).await.unwrap();
    assert_eq!(stored_at(&stored).0, 0);
    assert!(emitter.emit_batch(vec![request("t-3"), request("t-3")]).await.iter().all(Result::is_ok));
    mock.assert_emitted(EVENT);
    mock.assert_count(EVENT, 4);
    mock.assert_tenant(EVENT, "t-2");
    let in_transaction: Vec<_> = mock.emissions().iter().map(|emission| emission.in_transaction).collect();
    assert_eq!(in_transaction, [false, true, false, false]);
    assert_eq!(mock.emissions()[1].event_id, stored.event_id);
    mock.clear();
    mock.assert_nothing_emitted();
}

#[tokio::test]
async fn a_mock_refuses_what_production_would() {
    let (mock, emitter) = mock();
    let error = emitter.emit(EmitRequest::new("no.such.event")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownEvent);
    let bad = vec![request("t"), request("t").payload("not json")];
    let error = emitter.emit_all_in(&mut Tx::detached(), bad).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPayload);
    mock.assert_nothing_emitted();
}

#[tokio::test]
async fn a_failed_assertion_of_a_mock_lists_what_was_emitted() {
    let (mock, emitter) = mock();
    let nothing = failure(|| mock.assert_emitted(EVENT));
    assert!(nothing.contains(EVENT) && nothing.contains("nothing was"), "{nothing}");
    emitter.emit(request("t-1")).await.unwrap();
    for text in [
        failure(|| mock.assert_emitted("other.event")),
        failure(|| mock.assert_count(EVENT, 2)),
        failure(|| mock.assert_tenant(EVENT, "t-2")),
        failure(|| mock.assert_nothing_emitted()),
    ] {
        for part in [EVENT, "t-1", "order-17"] {
            assert!(text.contains(part), "`{part}` is not in: {text}");
        }
    }
}

#[tokio::test]
async fn a_mock_fails_as_it_is_told_to_until_it_is_told_otherwise() {
    let (mock, emitter) = mock();
    mock.fail_with(Some(ErrorKind::BrokerUnavailable));
    let id: tidings::EventId = "order-1".parse().unwrap();
    let error = emitter.emit(request("t").id(id.clone())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokerUnavailable);
    assert!(error.is_retryable());
    assert_eq!(error.event_id(), Some(&id));
    assert_eq!(
        emitter.emit_in(&mut Tx::detached(), request("t")).await.unwrap_err().kind(),
        ErrorKind::BrokerUnavailable
    );
    // A caller's own fault is still told first.
    assert_eq!(emitter.emit(EmitRequest::new("no")).await.unwrap_err().kind(), ErrorKind::UnknownEvent);
    mock.assert_nothing_emitted();
    mock.fail_with(None);
    emitter.emit(request("t")).await.unwrap();
    mock.assert_count(EVENT, 1);
}

#[tokio::test]
async fn a_mock_can_be_waited_for() {
    let (mock, emitter) = mock();
    let waiting = tokio::spawn(async move {
        mock.wait_for(Duration::from_secs(30), |emission| emission.request.tenant_id() == Some("t-2")).await
    });
    tokio::task::yield_now().await;
    for tenant in ["t-1", "t-2", "t-3"] {
        emitter.emit(request(tenant)).await.unwrap();
    }
    assert_eq!(waiting.await.unwrap().request.tenant_id(), Some("t-2"));
}

#[tokio::test(start_paused = true)]
async fn a_mock_that_is_waited_for_in_vain_says_what_it_has() {
    let (mock, emitter) = mock();
    emitter.emit(request("t-1")).await.unwrap();
    let waiting = tokio::spawn(async move { mock.wait_for(Duration::from_secs(30), |_| false).await });
    let panic = waiting.await.unwrap_err().into_panic();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("30s") && text.contains("t-1"), "{text}");
}

#[tokio::test]
async fn a_closed_mock_refuses() {
    let (_, emitter) = mock();
    emitter.close().await.unwrap();
    assert_eq!(emitter.emit(Sequence::of("t").next().request()).await.unwrap_err().kind(), ErrorKind::Closed);
    assert_eq!(emitter.health().await, Health::closed());
}
