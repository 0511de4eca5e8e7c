use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, PoisonError};

use mockall::mock;

use super::client::Transports;
use super::*;
use crate::emitter::Outcome;
use crate::error::{Error, ErrorKind};
use crate::transport::Transport;
use crate::transport::{Delivery, OnDelivery, QueueFull, Record};
use crate::wire::{DEAD_LETTER_PREFIX, DeadLetter};
use crate::{Catalog, Config, DlqMode, EventDefinition, EventId, PolicyOverride};

mock! {
    #[derive(Debug)]
    Broker {}

    impl Transport for Broker {
        fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull>;
        fn room<'a>(&'a self) -> BoxFuture<'a, ()>;
        fn flush<'a>(&'a self, timeout: Duration) -> BoxFuture<'a, bool>;
        fn probe<'a>(&'a self, timeout: Duration) -> BoxFuture<'a, Result<()>>;
    }
}

/// Takes every record and says no more of it, unless it answers; counts how often it was given up.
#[derive(Debug, Default, Clone)]
struct Silent {
    answers: Arc<AtomicBool>,
    held: Arc<Mutex<Vec<OnDelivery>>>,
    refusal: Option<ErrorKind>,
    retired: Arc<AtomicUsize>,
}

impl Silent {
    fn answering() -> Self {
        Self { answers: Arc::new(true.into()), ..Self::default() }
    }

    /// A producer whose every client is one of these.
    async fn producer(&self) -> Producer {
        let (config, catalog) = config_and_catalog();
        let client = self.clone();
        let connect = move |_| Ok(Arc::new(client.clone()) as Arc<dyn Transport>);
        let transports = Transports::without_threads(Arc::new(connect));
        Producer::builder(config, catalog).with_transports(transports).build().await.unwrap()
    }
}

impl Transport for Silent {
    fn submit(&self, _: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        if self.answers.load(Ordering::SeqCst) {
            on_delivery.call(delivered());
        } else {
            self.held.lock().unwrap_or_else(PoisonError::into_inner).push(on_delivery);
        }
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, _: Duration) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(true))
    }

    fn refusal(&self) -> Option<Error> {
        self.refusal.map(|kind| Error::new(kind, "told to refuse"))
    }

    fn retire(&self) {
        self.retired.fetch_add(1, Ordering::SeqCst);
    }

    fn probe(&self, _: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

fn delivered() -> Result<Delivery> {
    Ok(Delivery { partition: 3, offset: 7 })
}

fn config_and_catalog() -> (Config, Catalog) {
    let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]).unwrap();
    (Config::new("//shop", ["unused:1"]).unwrap(), catalog)
}

async fn producer(broker: MockBroker) -> Producer {
    let (config, catalog) = config_and_catalog();
    Producer::builder(config, catalog).with_transport(Arc::new(broker)).build().await.unwrap()
}

fn request() -> EmitRequest {
    EmitRequest::new("order.created").tenant("t").payload("{}")
}

#[tokio::test]
async fn an_acknowledged_event_is_published_where_the_broker_says() {
    let mut broker = MockBroker::new();
    broker.expect_submit().times(1).returning(|record, on_delivery| {
        assert_eq!((&*record.topic, &record.key[..]), ("events.order.created", &b"t"[..]));
        on_delivery.call(delivered());
        Ok(())
    });
    let id = EventId::new();
    let receipt = producer(broker).await.emit(request().id(id.clone())).await.unwrap();
    let outcome = Outcome::Published { topic: "events.order.created".into(), partition: 3, offset: 7 };
    assert_eq!(receipt, Receipt::new(id, outcome));
}

#[tokio::test]
async fn a_fault_of_the_callers_reaches_neither_broker_nor_breaker() {
    let mut broker = MockBroker::new();
    broker.expect_submit().never();
    let producer = producer(broker).await;
    let large = format!("\"{}\"", "x".repeat(1_048_588));
    for _ in 0..20 {
        for (bad, kind) in [
            (EmitRequest::new("unknown"), ErrorKind::UnknownEvent),
            (request().payload("{"), ErrorKind::InvalidPayload),
            (request().tenant(""), ErrorKind::InvalidEvent),
            (request().payload(large.clone()), ErrorKind::TooLarge),
        ] {
            let error = producer.emit(bad).await.unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.is_caller_error());
        }
    }
    assert_eq!(producer.breaker_state(), BreakerState::Closed);
}

#[tokio::test]
async fn a_full_queue_is_waited_for() {
    let mut broker = MockBroker::new();
    let attempts = AtomicUsize::new(0);
    broker.expect_submit().times(3).returning(move |_, on_delivery| {
        if attempts.fetch_add(1, Ordering::SeqCst) < 2 {
            return Err(QueueFull(on_delivery));
        }
        on_delivery.call(delivered());
        Ok(())
    });
    broker.expect_room().times(2).returning(|| Box::pin(std::future::ready(())));
    assert!(producer(broker).await.emit(request()).await.is_ok());
}

#[tokio::test]
async fn an_event_that_the_broker_refuses_is_dead_lettered_and_still_an_error() {
    let mut broker = MockBroker::new();
    let sent: Arc<Mutex<Vec<Record>>> = Arc::default();
    let keep = Arc::clone(&sent);
    broker.expect_submit().times(2).returning(move |record, on_delivery| {
        keep.lock().unwrap().push(record.clone());
        let refused = Error::new(ErrorKind::RecordRejected, "refused");
        on_delivery.call(if record.topic.ends_with(".dlq") { delivered() } else { Err(refused) });
        Ok(())
    });
    let error = producer(broker).await.emit(request()).await.unwrap_err();
    assert!(error.dead_lettered());
    assert_eq!(error.kind(), ErrorKind::RecordRejected);
    let sent = sent.lock().unwrap();
    let (event, dead) = (&sent[0], &sent[1]);
    assert_eq!((&*dead.topic, &dead.key, &dead.payload), ("events.order.created.dlq", &event.key, &event.payload));
    let letter = DeadLetter::read(dead.headers.iter(), DEAD_LETTER_PREFIX).unwrap();
    assert_eq!((&*letter.source_topic, &*letter.error_class), ("events.order.created", "record_rejected"));
    assert!(dead.headers.as_bytes().starts_with(event.headers.as_bytes()));
}

#[tokio::test]
async fn a_dead_letter_that_fails_too_leaves_the_first_error() {
    let mut broker = MockBroker::new();
    broker.expect_submit().times(2).returning(move |record, on_delivery| {
        let kind = if record.topic.ends_with(".dlq") { ErrorKind::UnknownTopic } else { ErrorKind::RecordRejected };
        on_delivery.call(Err(Error::new(kind, "refused")));
        Ok(())
    });
    let error = producer(broker).await.emit(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.dead_lettered()), (ErrorKind::RecordRejected, false));
}

#[tokio::test]
async fn a_dead_letter_that_its_topic_finds_too_large_is_sent_again_without_its_payload() {
    let mut broker = MockBroker::new();
    let sent: Arc<Mutex<Vec<Record>>> = Arc::default();
    let keep = Arc::clone(&sent);
    broker.expect_submit().times(3).returning(move |record, on_delivery| {
        keep.lock().unwrap().push(record.clone());
        let is_small = record.payload.as_ref().is_some_and(|payload| payload.is_empty());
        on_delivery.call(if is_small { delivered() } else { Err(Error::new(ErrorKind::TooLarge, "refused")) });
        Ok(())
    });
    let error = producer(broker).await.emit(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.dead_lettered()), (ErrorKind::TooLarge, true));
    let sent = sent.lock().unwrap();
    let topics: Vec<_> = sent.iter().map(|record| &*record.topic).collect();
    assert_eq!(topics, ["events.order.created", "events.order.created.dlq", "events.order.created.dlq"]);
    let letter = DeadLetter::read(sent[2].headers.iter(), DEAD_LETTER_PREFIX).unwrap();
    assert_eq!((letter.omitted_payload_bytes, sent[2].payload.as_deref()), (Some(2), Some(&b""[..])));
}

#[tokio::test]
async fn no_dead_letter_is_sent_for_the_brokers_health_or_against_the_policy() {
    for (kind, dlq) in [
        (ErrorKind::BrokerUnavailable, DlqMode::OnRoutableFailure),
        (ErrorKind::Timeout, DlqMode::OnRoutableFailure),
        (ErrorKind::Overloaded, DlqMode::OnRoutableFailure),
        (ErrorKind::RecordRejected, DlqMode::Never),
    ] {
        let mut broker = MockBroker::new();
        broker.expect_submit().times(1).returning(move |_, on_delivery| {
            on_delivery.call(Err(Error::new(kind, "told to fail")));
            Ok(())
        });
        let request = request().policy(PolicyOverride::default().with_dlq(dlq));
        assert!(!producer(broker).await.emit(request).await.unwrap_err().dead_lettered());
    }
}

#[tokio::test]
async fn only_failures_of_the_brokers_health_open_the_breaker() {
    for (kind, opens) in [
        (ErrorKind::BrokerUnavailable, true),
        (ErrorKind::Timeout, true),
        (ErrorKind::Overloaded, true),
        (ErrorKind::Unauthorized, false),
        (ErrorKind::UnknownTopic, false),
        (ErrorKind::RecordRejected, false),
        (ErrorKind::TooLarge, false),
    ] {
        let mut broker = MockBroker::new();
        broker.expect_submit().returning(move |_, on_delivery| {
            on_delivery.call(Err(Error::new(kind, "told to fail")));
            Ok(())
        });
        let producer = producer(broker).await;
        for _ in 0..5 {
            assert_eq!(producer.emit(request()).await.unwrap_err().kind(), kind);
        }
        let next = producer.emit(request()).await.unwrap_err().kind();
        assert_eq!(next, if opens { ErrorKind::CircuitOpen } else { kind });
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_that_is_not_confirmed_in_time_fails_with_its_id() {
    let mut broker = MockBroker::new();
    let held = Mutex::new(Vec::new());
    broker.expect_submit().returning(move |_, on_delivery| {
        held.lock().unwrap().push(on_delivery);
        Ok(())
    });
    let id = EventId::new();
    let error = producer(broker).await.emit(request().id(id.clone())).await.unwrap_err();
    assert_eq!((error.kind(), error.event_id()), (ErrorKind::Timeout, Some(&id)));
    assert!(error.is_retryable() && error.is_ambiguous());
}

#[tokio::test(start_paused = true)]
async fn an_event_that_the_client_has_when_it_is_not_let_in_may_arrive_once_it_is() {
    let transport = Silent { refusal: Some(ErrorKind::Unauthenticated), ..Silent::default() };
    let error = transport.producer().await.emit(request()).await.unwrap_err();
    assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Unauthenticated, true));
}

#[tokio::test(start_paused = true)]
async fn emits_that_have_little_time_of_their_own_say_nothing_of_the_brokers_health() {
    let transport = Silent::answering();
    let producer = transport.producer().await;
    // Nothing follows the first record of a key before that is acknowledged.
    producer.emit_batch(vec![request()]).await.pop().unwrap().unwrap();
    transport.answers.store(false, Ordering::SeqCst);
    let hurried = || request().timeout(Duration::from_millis(20));
    for _ in 0..20 {
        assert_eq!(producer.emit(hurried()).await.unwrap_err().kind(), ErrorKind::Timeout);
        for result in producer.emit_batch(vec![hurried(), hurried()]).await {
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.is_ambiguous()), (ErrorKind::Timeout, true), "{error:?}");
        }
        transport.held.lock().unwrap().clear();
    }
    assert_eq!((producer.breaker_state(), transport.retired.load(Ordering::SeqCst)), (BreakerState::Closed, 0));
}

#[tokio::test(start_paused = true)]
async fn one_event_of_a_batch_that_has_little_time_does_not_fail_those_of_its_key_that_have_more() {
    let transport = Silent::answering();
    let producer = transport.producer().await;
    producer.emit_batch(vec![request()]).await.pop().unwrap().unwrap();
    transport.answers.store(false, Ordering::SeqCst);
    let answer = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        let held = std::mem::take(&mut *transport.held.lock().unwrap());
        assert_eq!(held.len(), 2);
        held.into_iter().for_each(|on_delivery| on_delivery.call(delivered()));
    };
    let batch = vec![request(), request().timeout(Duration::from_millis(20))];
    let (results, ()) = tokio::join!(producer.emit_batch(batch), answer);
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

#[tokio::test(start_paused = true)]
async fn no_time_is_too_long_to_be_reckoned_with() {
    let (ever, (config, catalog)) = (Duration::MAX, config_and_catalog());
    let config = config.with_direct_timeout(ever).with_emit_timeout(ever).with_close_timeout(ever);
    let transport = Arc::new(Silent::answering());
    let producer = Producer::builder(config, catalog).with_transport(transport).build().await.unwrap();
    producer.emit(request()).await.unwrap();
    producer.emit_batch(vec![request().timeout(ever)]).await.pop().unwrap().unwrap();
    assert!(producer.close_within(ever).await.is_nothing());
    producer.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_breaker_hears_of_events_whose_callers_have_gone() {
    let mut broker = MockBroker::new();
    let held: Arc<Mutex<Vec<OnDelivery>>> = Arc::default();
    let keep = Arc::clone(&held);
    broker.expect_submit().returning(move |_, on_delivery| {
        keep.lock().unwrap().push(on_delivery);
        Ok(())
    });
    let producer = producer(broker).await;
    for _ in 0..5 {
        let gone = tokio::time::timeout(Duration::from_millis(1), producer.emit(request())).await;
        assert!(gone.is_err(), "the caller gave up");
    }
    assert_eq!(producer.breaker_state(), BreakerState::Closed);
    for on_delivery in held.lock().unwrap().drain(..) {
        on_delivery.call(Err(Error::new(ErrorKind::BrokerUnavailable, "told to fail")));
    }
    assert_eq!(producer.breaker_state(), BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_the_emits_under_way_and_refuses_new_ones() {
    let mut broker = MockBroker::new();
    let held: Arc<Mutex<Vec<OnDelivery>>> = Arc::default();
    let keep = Arc::clone(&held);
    broker.expect_submit().times(1).returning(move |_, on_delivery| {
        keep.lock().unwrap().push(on_delivery);
        Ok(())
    });
    broker.expect_flush().returning(|_| Box::pin(std::future::ready(true)));
    let producer = producer(broker).await;
    let finish = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(producer.emit(request()).await.unwrap_err().kind(), ErrorKind::Closed);
        held.lock().unwrap().pop().unwrap().call(delivered());
    };
    let (emitted, closed, ()) = tokio::join!(producer.emit(request()), producer.close(), finish);
    assert!(emitted.is_ok() && closed.is_ok());
    assert!(producer.close().await.is_ok(), "closing again does nothing");
}

#[tokio::test]
async fn without_an_outbox_an_emit_in_a_transaction_is_refused() {
    let producer = producer(MockBroker::new()).await;
    let error = producer.append(Tx::detached(), vec![request()]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnsupportedTransaction);
}

#[tokio::test]
async fn a_policy_that_needs_an_outbox_is_refused_without_one() {
    let config =
        Config::new("//shop", ["unused:1"]).unwrap().with_policies("order.created.outbox=always".parse().unwrap());
    let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]).unwrap();
    let built = Producer::builder(config, catalog).with_transport(Arc::new(MockBroker::new())).build().await;
    assert_eq!(built.unwrap_err().kind(), ErrorKind::InvalidPolicy);
}

#[tokio::test]
async fn policies_for_unknown_events_are_refused_and_the_known_ones_listed() {
    let config =
        Config::new("//shop", ["unused:1"]).unwrap().with_policies("order.creatd.outbox=never".parse().unwrap());
    let catalog = Catalog::new([EventDefinition::new("order.created", "order", "created")]).unwrap();
    let built = Producer::builder(config, catalog).with_transport(Arc::new(MockBroker::new())).build().await;
    let error = built.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidPolicy);
    assert!(error.to_string().contains("order.creatd") && error.to_string().contains("order.created"), "{error}");
}

#[tokio::test]
async fn a_running_emit_takes_less_than_a_kilobyte() {
    // glibc keeps blocks of up to 1,032 bytes at hand for each thread; larger ones are looked for under a lock.
    let producer = producer(MockBroker::new()).await;
    let emit = producer.emit(EmitRequest::new("order.created"));
    assert!(size_of_val(&*emit) <= 1_024, "{} bytes", size_of_val(&*emit));
}
