//! The emitters without a broker, as services hold them.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tidings::health::Health;
use tidings::testing::{Answer, MockEmitter};
use tidings::{
    Config, EmitRequest, Emitter, EmitterExt, ErrorKind, NoopEmitter, Outcome, Producer, SqliteOutbox, StoredReason, Tx,
};

use crate::support::events::{EVENT, Sequence, catalog, is_published, stored_at, stored_reason};

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
async fn a_service_that_does_not_stream_gets_no_producer() {
    let config = Config::from_vars([("STREAMING_ENABLED", "false"), ("STREAMING_BROKERS", "localhost:1")]).unwrap();
    let error = Producer::builder(config, catalog()).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    assert!(error.to_string().contains("STREAMING_ENABLED"), "{error}");
}

#[tokio::test]
async fn the_relay_of_a_service_that_does_not_stream_ends_when_its_emitter_is_closed() {
    let config = Config::from_vars([("STREAMING_ENABLED", "false")]).unwrap();
    let outbox = SqliteOutbox::open("/nowhere/shop.sqlite");
    let (emitter, relay) = tidings::emitter(config, catalog(), outbox, std::future::pending()).await.unwrap();
    let relay = tokio::spawn(relay);
    tokio::task::yield_now().await;
    assert!(!relay.is_finished());
    emitter.close().await.unwrap();
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

#[tokio::test]
async fn a_mock_looks_into_payloads_and_says_what_they_have_instead() {
    let (mock, emitter) = mock();
    let order = json!({"order": "order-17", "total": {"cents": 4200, "currency": "EUR"}, "lines": [1, 2]});
    emitter.emit(request("t").json(&order).unwrap()).await.unwrap();
    mock.assert_payload(EVENT, &json!({"total": {"cents": 4200}, "lines": [1, 2]}));
    assert_eq!(mock.emissions()[0].json(), Some(order));
    let text = failure(|| mock.assert_payload(EVENT, &json!({"total": {"cents": 4300}})));
    assert!(text.contains("/total/cents is 4200, not 4300") && text.contains("order-17"), "{text}");
    let text = failure(|| mock.assert_payload("other.event", &json!({})));
    assert!(text.contains("other.event"), "{text}");
}

#[tokio::test]
async fn a_mock_knows_the_order_of_each_key() {
    let (mock, emitter) = mock();
    for tenant in ["t-1", "t-2", "t-1"] {
        emitter.emit(request(tenant)).await.unwrap();
    }
    mock.assert_sequence("t-1", &[EVENT, EVENT]);
    mock.assert_sequence("t-3", &[]);
    let text = failure(|| mock.assert_sequence("t-2", &[EVENT, EVENT]));
    assert!(text.contains("t-2") && text.contains("order-17"), "{text}");
}

#[tokio::test]
async fn a_mock_tells_what_was_emitted_in_a_transaction() {
    let (mock, emitter) = mock();
    assert!(failure(|| mock.assert_in_transaction(EVENT)).contains("nothing was"));
    emitter.emit_in(&mut Tx::detached(), request("t-1")).await.unwrap();
    mock.assert_in_transaction(EVENT);
    emitter.emit(request("t-2")).await.unwrap();
    assert!(failure(|| mock.assert_in_transaction(EVENT)).contains("t-2"));
}

#[tokio::test]
async fn a_script_answers_each_emit_by_what_it_is_and_how_often_it_came() {
    let (mock, emitter) = mock();
    mock.script(|attempt| match (attempt.request.tenant_id(), attempt.number) {
        (Some("t-1"), 1) => Answer::FailAmbiguously(ErrorKind::Timeout),
        (Some("t-1"), _) => Answer::Store(StoredReason::CircuitOpen),
        _ if attempt.in_transaction => Answer::Fail(ErrorKind::Storage),
        _ => Answer::Accept,
    });
    assert!(emitter.emit(request("t-1")).await.unwrap_err().is_ambiguous());
    assert_eq!(stored_reason(&emitter.emit(request("t-1")).await.unwrap()), Some(StoredReason::CircuitOpen));
    assert_eq!(emitter.emit_in(&mut Tx::detached(), request("t-2")).await.unwrap_err().kind(), ErrorKind::Storage);
    assert!(is_published(&emitter.emit(request("t-2")).await.unwrap()));
    mock.assert_count(EVENT, 2);
}

#[tokio::test]
async fn in_a_batch_of_a_mock_what_comes_behind_a_failure_of_its_key_fails_too() {
    let (mock, emitter) = mock();
    mock.script(|attempt| if attempt.number == 1 { Answer::Fail(ErrorKind::Timeout) } else { Answer::Accept });
    let batch = vec![request("t-1"), EmitRequest::new("no.such.event"), request("t-2"), request("t-1")];
    let results = emitter.emit_batch(batch).await;
    let kinds: Vec<_> = results.iter().map(|result| result.as_ref().err().map(tidings::Error::kind)).collect();
    assert_eq!(kinds, [Some(ErrorKind::Timeout), Some(ErrorKind::UnknownEvent), None, Some(ErrorKind::Timeout)]);
    mock.assert_sequence("t-2", &[EVENT]);
}

#[tokio::test]
async fn a_mock_with_the_services_settings_does_as_production_does() {
    let policies = format!("{EVENT}.outbox=always").parse().unwrap();
    let config = Config::new("//shop", ["none:1"]).unwrap();
    let mock = MockEmitter::with_config(&config.clone().with_policies(policies), catalog()).unwrap();
    assert_eq!(stored_reason(&mock.emit(request("t")).await.unwrap()), Some(StoredReason::Policy));
    let emission = mock.emissions().remove(0);
    assert_eq!((&*emission.record.topic, &emission.record.key[..]), ("events.order.changed", &b"t"[..]));
    assert_eq!(emission.record.headers.get("ce_source"), Some(&b"//shop"[..]));
    let too_large = mock.emit(request("t").payload(format!("\"{}\"", "a".repeat(2 << 20)))).await.unwrap_err();
    assert_eq!(too_large.kind(), ErrorKind::TooLarge);

    let off = config.with_policies(format!("{EVENT}.enabled=false").parse().unwrap());
    let mock = MockEmitter::with_config(&off, catalog()).unwrap();
    assert_eq!(mock.emit(request("t")).await.unwrap().outcome, Outcome::Disabled);
    mock.assert_nothing_emitted();
    assert!(failure(|| mock.assert_emitted(EVENT)).contains("which is disabled"));
}
