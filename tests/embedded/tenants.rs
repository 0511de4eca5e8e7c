//! A tenant that is noisy, or sends what can't be taken, costs the others nothing.

use std::sync::Arc;
use std::time::Duration;

use tidings::testing::MemoryTransport;
use tidings::{BreakerState, EmitRequest, Emitter, EmitterExt, Error, ErrorKind, OutboxMode, PolicyOverride, Producer};

use crate::support::events::{EVENT, Sequence, catalog, is_published};
use crate::world::{World, begin, config, logged, producer_on};

/// So slow that no test waits for the next event.
const LIMIT: &str = "1/5";

async fn limited(world: &World) -> Producer {
    let builder = Producer::builder(world.config(&[]), catalog()).with_outbox(world.outbox());
    builder.with_tenant_rate_limit(LIMIT.parse().unwrap()).build().await.unwrap()
}

fn request(tenant: &'static str) -> EmitRequest {
    Sequence::of(tenant).next().request()
}

/// How many were taken. The others were limited.
fn taken<T>(results: impl IntoIterator<Item = Result<T, Error>>) -> usize {
    let is_taken = |result: Result<T, Error>| match result {
        Ok(_) => true,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::RateLimited, "{error:?}");
            assert!(error.is_retryable() && !error.is_caller_error() && error.event_id().is_some());
            assert!(error.retry_after().is_some_and(|wait| wait <= Duration::from_secs(1)));
            false
        }
    };
    results.into_iter().map(is_taken).filter(|is_taken| *is_taken).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_emits_too_much_is_refused_and_others_are_served_meanwhile() {
    let world = World::new().await;
    let producer = limited(&world).await;
    let mut results = Vec::new();
    for tenant in ["quiet-1", "quiet-2", "quiet-3", "quiet-4"] {
        for _ in 0..50 {
            results.push(producer.emit(request("noisy")).await);
        }
        for _ in 0..5 {
            assert!(is_published(&producer.emit(request(tenant)).await.unwrap()));
        }
    }
    let taken = taken(results);
    assert!((5..20).contains(&taken), "{taken}");
    assert_eq!(producer.breaker_state(), BreakerState::Closed);
    let records = world.records_now().await;
    assert_eq!(records.iter().filter(|record| record.key == b"noisy").count(), taken, "what is refused is not sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_emit_counts_and_events_that_go_nowhere_do_not() {
    let world = World::new().await;
    let producer = limited(&world).await;
    let mut tx = begin(&world.pool()).await;
    for _ in 0..2 {
        producer.emit_in(&mut tx, request("noisy")).await.unwrap();
    }
    // All or none, and the transaction goes on.
    let error = producer.emit_all_in(&mut tx, (0..4).map(|_| request("noisy")).collect()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RateLimited);
    producer.emit_in(&mut tx, request("quiet")).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(logged(&world.pool()).await, 3);
    for _ in 0..20 {
        let disabled = PolicyOverride::default().with_enabled(false);
        producer.emit(request("noisy").policy(disabled)).await.unwrap();
        assert!(producer.emit(request("noisy").payload("{")).await.unwrap_err().is_caller_error());
        producer.emit(EmitRequest::new(EVENT).subject("without a tenant").payload("{}")).await.unwrap();
    }
    let always = PolicyOverride::default().with_outbox(OutboxMode::Always);
    producer.emit(request("noisy").policy(always)).await.unwrap();
    let results = producer.emit_batch((0..10).map(|_| request("noisy")).collect()).await;
    assert!(results[..2].iter().all(Result::is_ok), "{results:?}");
    // A second may have passed; but no event overtakes one that was refused.
    let first_refused = results.iter().position(Result::is_err).unwrap();
    assert!(results[first_refused..].iter().all(Result::is_err));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_limit_none_is_refused() {
    let world = World::new().await;
    let producer = world.producer().await;
    let requests = (0..300).map(|_| request("noisy")).collect();
    assert_eq!(taken(producer.emit_batch(requests).await), 300);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_limit_of_the_environment_holds() {
    let world = World::new().await;
    let producer = world.producer_with(&[("STREAMING_TENANT_RATE_LIMIT", LIMIT)]).await;
    let results = futures_util::future::join_all((0..50).map(|_| producer.emit(request("noisy")))).await;
    assert!((5..20).contains(&taken(results)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_events_of_a_tenant_is_nothing_to_breaker_and_others() {
    let transport = Arc::new(MemoryTransport::default());
    transport.refuse_key("faulty");
    let (producer, _directory) = producer_on(Arc::clone(&transport) as _).await;
    let large = format!("\"{}\"", "x".repeat(2_000_000));
    for _ in 0..20 {
        for (bad, kind) in [
            (request("faulty"), ErrorKind::RecordRejected),
            (request("faulty").payload(large.clone()), ErrorKind::TooLarge),
            (request("faulty").payload("{"), ErrorKind::InvalidPayload),
        ] {
            assert_eq!(producer.emit(bad).await.unwrap_err().kind(), kind);
            assert!(is_published(&producer.emit(request("well")).await.unwrap()));
        }
    }
    assert_eq!(producer.breaker_state(), BreakerState::Closed);
}

#[test]
fn a_limit_that_lets_nothing_through_is_refused() {
    for value in ["0", "10/0", "many"] {
        let vars = [("STREAMING_TENANT_RATE_LIMIT", value)];
        let error = tidings::Config::from_vars(vars).unwrap_err();
        assert!(error.to_string().contains("STREAMING_TENANT_RATE_LIMIT"), "{error}");
    }
    assert!(config("none:1", &[("STREAMING_TENANT_RATE_LIMIT", "10")]).warnings().is_empty());
}
