//! Clients that are not let in, or do not trust the broker.

use std::error::Error as _;
use std::time::{Duration, Instant};

use tidings::health::{ReasonKind, Status};
use tidings::{Emitter, ErrorKind, StoredReason};
use tidings_faults::Proxy;

use super::{PASSWORD, Secured, Settings, USER, secured};
use crate::support::events::{Ledger, Sequence, stored_reason};
use crate::support::relaying::RunningRelay;
use crate::support::waiting::{PATIENCE, eventually};
use crate::world::logged;

/// What no emit of a client that is not let in may take longer than: it does not wait for the delivery timeout of 30 s.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// More than enough failures to open a breaker that counts them.
const EMITS: usize = 12;

/// Emits without an outbox, and sees why that fails.
async fn is_refused(secured: &Secured, why: &str, settings: &Settings) {
    let producer = secured.builder(settings).build().await.unwrap();
    let mut sequence = Sequence::of("tenant-1");
    for _ in 0..EMITS {
        let start = Instant::now();
        let error = producer.emit(sequence.next().request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{why}: {error:?}");
        assert!(error.is_retryable() && !error.dead_lettered());
        assert!(error.source().is_some(), "{why}");
        assert!(start.elapsed() < LONGEST_WAIT, "{why}: {:?}", start.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_broker_does_not_know_hears_so_and_the_breaker_never_opens() {
    let secured = secured!();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        is_refused(&secured, mechanism, &secured.named(mechanism, USER, "wrong")).await;
    }
    is_refused(&secured, "unknown user", &secured.named("SCRAM-SHA-256", "nobody", PASSWORD)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_trust_the_broker_says_so() {
    let secured = secured!();
    let mut other_ca = secured.named("PLAIN", USER, PASSWORD);
    other_ca.push(("STREAMING_TLS_CA_CERT", secured.pem("other-ca.pem")));
    is_refused(&secured, "another authority", &other_ca).await;
    is_refused(&secured, "expired", &secured.trusting(&secured.expired)).await;
    let proxy = Proxy::start("127.0.0.2:0", &secured.sasl).await.unwrap();
    let mut elsewhere = secured.named("PLAIN", USER, PASSWORD);
    elsewhere.push(("STREAMING_BROKERS", proxy.address().to_string()));
    is_refused(&secured, "another host name", &elsewhere).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_shows_no_certificate_is_not_let_in() {
    let secured = secured!();
    is_refused(&secured, "no certificate", &secured.trusting(&secured.mutual)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_whose_time_is_over_while_the_client_is_not_let_in_do_not_open_the_breaker() {
    let secured = secured!();
    let mut settings = secured.named("PLAIN", USER, "wrong");
    settings.push(("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "2".into()));
    let producer = secured.builder(&settings).build().await.unwrap();
    let emit = async |key: String| {
        let start = Instant::now();
        let error = producer.emit(Sequence::of(key).next().request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
        start.elapsed()
    };
    futures_util::future::join_all((0..EMITS).map(|number| emit(format!("tenant-{number}")))).await;
    // As long as the client has these records it takes no more. One that it takes again waits.
    eventually("their time is over", async || (emit("tenant".into()).await > Duration::from_millis(500)).then_some(()))
        .await;
    emit("tenant".into()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_says_that_the_client_is_not_let_in() {
    let secured = secured!();
    let producer = secured.builder(&secured.named("PLAIN", USER, "wrong")).build().await.unwrap();
    let health = producer.health().await;
    assert!(health.status == Status::Down && health.has(ReasonKind::BrokerRefusesClient), "{health:?}");
    assert!(health.is_live(), "no restart makes a password right");
    assert!(health.reasons[0].text.contains("does not know this client"), "{health:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_of_a_client_that_is_not_let_in_are_stored_before_the_direct_timeout_and_relayed_once_it_is() {
    let secured = secured!();
    let world = &secured.world;
    let mut settings = secured.named("SCRAM-SHA-256", USER, "wrong");
    // Longer than the test's patience.
    settings.push(("STREAMING_DIRECT_TIMEOUT_MS", "3600000".into()));
    settings.push(("STREAMING_RECORD_DELIVERY_TIMEOUT_S", "3600".into()));
    let outside = secured.builder(&settings).with_outbox(world.outbox()).build().await.unwrap();
    let (ledger, mut sequence) = (Ledger::default(), Sequence::of("tenant-1"));
    let first = tokio::time::timeout(PATIENCE, ledger.emit(&outside, sequence.next())).await.unwrap().unwrap();
    assert_eq!(stored_reason(&first), Some(StoredReason::PublishFailed));
    let second = ledger.emit(&outside, sequence.next()).await.unwrap();
    assert_eq!(stored_reason(&second), Some(StoredReason::LaneSpilled));
    for number in 0..EMITS {
        let event = Sequence::of(format!("other-{number}")).next();
        let receipt = ledger.emit(&outside, event).await.unwrap();
        assert_ne!(stored_reason(&receipt), Some(StoredReason::CircuitOpen));
    }
    // A relay with the same password keeps what there is.
    let relay = RunningRelay::of(&outside);
    assert_eq!(logged(&world.pool()).await, i64::try_from(ledger.accepted_count()).unwrap());
    relay.stop().await;
    assert!(world.records_now().await.is_empty());
    let inside = secured.builder(&secured.named("SCRAM-SHA-256", USER, PASSWORD)).with_outbox(world.outbox());
    let _relay = RunningRelay::of(&inside.build().await.unwrap());
    world.verdict(&ledger).await.assert_kept();
}
