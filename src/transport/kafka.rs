//! Kafka, through librdkafka.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::metadata::{MetadataPartition, MetadataTopic};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaErrorCode;
use tokio::sync::Notify;

use super::{Delivery, OnDelivery, QueueFull, Record, Transport, Vitals};
use crate::BoxFuture;
use crate::error::{Error, ErrorKind, Result};
use crate::in_flight::InFlight;
use crate::sanitize::sanitize;
use crate::telemetry::{Send, Sends};

pub(crate) mod config;
mod failure;
mod limits;
pub(crate) mod token;
pub(crate) mod topics;
mod trust;

use failure::{failure, inferred, stranded};
use token::Tokens;
use topics::Topics;
use trust::{Trust, is_refusal};

/// A Kafka producer: idempotent, `acks=all`, partitioned by `murmur2_random` as Java's and Go's clients are.
pub(crate) struct KafkaTransport {
    producer: ThreadedProducer<Context>,
    gauge: Arc<Gauge>,
    tokens: Option<Tokens>,
    config: rdkafka::ClientConfig,
    /// How many records the queue takes.
    capacity: usize,
    sends: Sends,
}

/// What the client holds, and who waits for that to change.
#[derive(Debug, Default)]
struct Gauge {
    in_flight: InFlight,
    trust: Mutex<Trust>,
    /// Whether there may be a refusal: as long as there is none, nobody takes the lock.
    is_refused: AtomicBool,
    /// Told once for each record that leaves the queue.
    room: Notify,
    acknowledged: AtomicU64,
    /// Whether the client has said that no broker is left, and nothing was heard of one since.
    cut: AtomicBool,
    /// Whether the client knows no broker any more: it will not find one.
    is_stranded: AtomicBool,
    retired: AtomicBool,
    /// In microseconds; 0, while nothing is known.
    round_trip: AtomicU64,
    topics: Arc<Topics>,
}

impl Gauge {
    fn leave(&self) {
        self.in_flight.remove();
        self.room.notify_one();
    }

    /// A broker has answered.
    fn heard(&self) {
        if self.is_refused.load(Ordering::SeqCst) {
            let mut trust = self.trust();
            trust.let_in();
            self.is_refused.store(false, Ordering::SeqCst);
        }
        if self.cut.load(Ordering::SeqCst) {
            self.cut.store(false, Ordering::SeqCst);
        }
    }

    /// A connection was refused.
    fn refused(&self, cause: KafkaError, reason: String) {
        let mut trust = self.trust();
        trust.refused(cause, reason, Instant::now());
        self.is_refused.store(true, Ordering::SeqCst);
    }

    /// Why one more record is not taken, if so.
    fn shuts_out(&self) -> Option<Error> {
        if !self.is_refused.load(Ordering::SeqCst) {
            return None;
        }
        let waiting = self.in_flight.count();
        self.trust().shuts_out(waiting, Instant::now())
    }

    fn is_stranded(&self) -> bool {
        self.is_stranded.load(Ordering::SeqCst)
    }

    fn trust(&self) -> MutexGuard<'_, Trust> {
        // Nothing panics while it holds this lock.
        self.trust.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a record or request that failed so tells its caller.
    fn explain(&self, failed: Error) -> Error {
        if failed.kind().is_dead_letter() {
            // It was a broker that said so.
            self.heard();
        }
        match failed.kind() {
            ErrorKind::Timeout | ErrorKind::BrokerUnavailable if self.is_stranded() => {
                stranded().or_ambiguous(failed.is_ambiguous())
            }
            // Time went by because nobody lets the client in. It may have been let in before, and the record be sent.
            ErrorKind::Timeout | ErrorKind::BrokerUnavailable => match self.trust().refusal(Instant::now()) {
                Some(refusal) => refusal.or_ambiguous(failed.is_ambiguous()),
                None => failed,
            },
            _ => failed,
        }
    }
}

struct Context {
    gauge: Arc<Gauge>,
    tokens: Option<Tokens>,
}

impl ClientContext for Context {
    /// Without the mechanism OAUTHBEARER nobody asks.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let tokens = self.tokens.as_ref().ok_or("there is no token provider")?;
        let token = tokens.next().inspect_err(|error| tracing::warn!(error, "there is no token for the brokers"))?;
        Ok(OAuthToken {
            token: token.value.expose().to_owned(),
            principal_name: token.principal,
            lifetime_ms: token.expires_at.timestamp_millis(),
        })
    }

    /// The client's own log, which quotes what brokers and libraries below it say.
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let line = sanitize(line);
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(target: "librdkafka", facility, "{line}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => {
                tracing::info!(target: "librdkafka", facility, "{line}");
            }
            RDKafkaLogLevel::Debug => tracing::debug!(target: "librdkafka", facility, "{line}"),
        }
    }

    /// What the client has seen of each broker, every so often.
    fn stats(&self, statistics: Statistics) {
        if statistics.brokers.is_empty() {
            self.gauge.is_stranded.store(true, Ordering::SeqCst);
        }
        let windows = statistics.brokers.values().filter_map(|broker| broker.rtt.as_ref());
        let slowest = windows.filter(|window| window.cnt > 0).map(|window| window.p99).max();
        // What was seen last is kept while nothing is asked of a broker.
        if let Some(micros) = slowest.and_then(|micros| u64::try_from(micros).ok()) {
            self.gauge.round_trip.store(micros, Ordering::Relaxed);
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let reason = sanitize(reason);
        tracing::warn!(%error, %reason, "the Kafka client reports an error");
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.gauge.cut.store(true, Ordering::SeqCst);
        }
        if error.rdkafka_error_code().is_some_and(|code| is_refusal(code, &reason)) {
            self.gauge.refused(error, reason.into_owned());
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Submitted>;

    fn delivery(&self, result: &DeliveryResult<'_>, submitted: Self::DeliveryOpaque) {
        submitted.end(match result {
            Ok(message) if message.offset() < 0 => Err(inferred()),
            Ok(message) => {
                self.gauge.heard();
                self.gauge.acknowledged.fetch_add(1, Ordering::SeqCst);
                self.gauge.topics.took(message.partition(), || message.topic());
                Ok(Delivery { partition: message.partition(), offset: message.offset() })
            }
            Err((error, message)) => Err(self.gauge.explain(failure(error, message.topic()))),
        });
        self.gauge.leave();
    }
}

/// A record that the client has.
struct Submitted {
    on_delivery: OnDelivery,
    send: Send,
}

impl Submitted {
    fn end(self, result: Result<Delivery>) {
        self.send.end(&result);
        self.on_delivery.call(result);
    }
}

impl KafkaTransport {
    /// A client with this configuration. It connects in the background; whether brokers answer shows later.
    pub(crate) fn new(config: &rdkafka::ClientConfig, tokens: Option<Tokens>, topics: Arc<Topics>) -> Result<Self> {
        let mut config = config.clone();
        config::limit_batches(&mut config, topics.max_batch_bytes());
        let gauge = Arc::new(Gauge { topics, ..Gauge::default() });
        let context = Context { gauge: Arc::clone(&gauge), tokens: tokens.clone() };
        let producer = config.create_with_context(context).map_err(|error| {
            let what = match &error {
                KafkaError::ClientConfig(_, _, property, _) => format!("the value of `{property}`"),
                _ => "its configuration".to_owned(),
            };
            let message = format!(
                "the Kafka client does not accept {what}, of which STREAMING_KAFKA_PROPERTIES may be the cause"
            );
            Error::new(ErrorKind::InvalidConfig, message).with_source(without_value(error))
        })?;
        let capacity =
            config.get("queue.buffering.max.messages").and_then(|max| max.parse().ok()).unwrap_or(usize::MAX);
        Ok(Self { producer, gauge, tokens, config, capacity, sends: Sends::default() })
    }
}

impl KafkaTransport {
    /// Without waiting for the client's threads, which may be in the middle of looking up a name.
    fn purge(&self) {
        self.producer.purge(PurgeConfig::default().queue().inflight().non_blocking());
    }
}

impl Drop for KafkaTransport {
    fn drop(&mut self) {
        // The client's thread, which is waited for, may itself wait for a task of the runtime that this one keeps busy.
        if let Some(tokens) = &self.tokens {
            tokens.close();
        }
    }
}

/// What is wrong with a configuration. The client's own error quotes the value, which may be a password.
fn without_value(error: KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, property, _) => format!("{property}: {why}"),
        KafkaError::Nul(_) => "a value has a null character".to_owned(),
        other => sanitize(&other.to_string()).into_owned(),
    }
}

impl std::fmt::Debug for KafkaTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaTransport").field("gauge", &self.gauge).finish_non_exhaustive()
    }
}

impl Transport for KafkaTransport {
    fn submit(&self, record: &Record, on_delivery: OnDelivery) -> Result<(), QueueFull> {
        if let Some(refusal) = self.gauge.shuts_out() {
            on_delivery.call(Err(refusal));
            return Ok(());
        }
        if self.gauge.is_stranded() {
            self.purge();
            on_delivery.call(Err(stranded()));
            return Ok(());
        }
        if self.gauge.retired.load(Ordering::SeqCst) {
            on_delivery
                .call(Err(Error::new(ErrorKind::BrokerUnavailable, "the client was given up; the event was not sent")));
            return Ok(());
        }
        let mut headers = OwnedHeaders::new_with_capacity(record.headers.count());
        for (key, value) in record.headers.iter() {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let submitted = Box::new(Submitted { on_delivery, send: self.sends.begin(record) });
        let message = BaseRecord::with_opaque_to(&record.topic, submitted).key(&record.key[..]).headers(headers);
        let message = match &record.payload {
            Some(payload) => message.payload(&payload[..]),
            None => message,
        };
        self.gauge.in_flight.add();
        let Err((error, refused)) = self.producer.send(message) else {
            if self.gauge.retired.load(Ordering::SeqCst) {
                // Whoever retired it may not have seen this one.
                self.purge();
            }
            return Ok(());
        };
        let submitted = *refused.delivery_opaque;
        // Nothing left the queue, so nobody is told of room: this caller would be, and try again at once, for ever.
        self.gauge.in_flight.remove();
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull) {
            submitted.send.refuse();
            return Err(QueueFull(submitted.on_delivery));
        }
        submitted.end(Err(failure(&error, &record.topic)));
        Ok(())
    }

    fn room(&self) -> BoxFuture<'_, ()> {
        // The wake-up for this waiter may have been taken by a newcomer that found room at once.
        const SECOND_LOOK: Duration = Duration::from_millis(10);
        Box::pin(async {
            let _ = tokio::time::timeout(SECOND_LOOK, self.gauge.room.notified()).await;
        })
    }

    fn flush(&self, timeout: Duration) -> BoxFuture<'_, bool> {
        Box::pin(async move { tokio::time::timeout(timeout, self.gauge.in_flight.idle()).await.is_ok() })
    }

    fn refusal(&self) -> Option<Error> {
        self.gauge.trust().give_up(Instant::now())
    }

    fn vitals(&self) -> Option<Vitals> {
        if self.gauge.trust().refusal(Instant::now()).is_some() {
            return None;
        }
        let unacknowledged = self.gauge.in_flight.count();
        #[allow(clippy::cast_precision_loss, reason = "it is a share")]
        let fullness = unacknowledged as f32 / self.capacity as f32;
        let acknowledged = self.gauge.acknowledged.load(Ordering::SeqCst);
        let is_connected = !self.gauge.cut.load(Ordering::SeqCst);
        let micros = self.gauge.round_trip.load(Ordering::Relaxed);
        let round_trip = (micros > 0).then_some(Duration::from_micros(micros));
        Some(Vitals { unacknowledged, acknowledged, fullness, is_connected, round_trip })
    }

    fn retire(&self) {
        self.gauge.retired.store(true, Ordering::SeqCst);
        self.purge();
    }

    fn max_record_bytes<'a>(
        &'a self,
        topics: &'a [Arc<str>],
        timeout: Duration,
    ) -> BoxFuture<'a, HashMap<Arc<str>, usize>> {
        let context = Context { gauge: Arc::clone(&self.gauge), tokens: self.tokens.clone() };
        Box::pin(async move {
            let limits = limits::max_record_bytes(&self.config, context, topics, timeout).await;
            // What a topic takes at most is said of batches; a record is one at least.
            limits.values().for_each(|max_bytes| self.gauge.topics.limit_batches(*max_bytes));
            limits
        })
    }

    fn probe(&self, timeout: Duration) -> BoxFuture<'_, Result<()>> {
        let (producer, gauge) = (self.producer.clone(), Arc::clone(&self.gauge));
        Box::pin(async move {
            // Brokers may answer it all the same.
            if let Some((code, reason)) = producer.client().fatal_error() {
                let message = format!("the Kafka client failed for good ({code:?}): {}", sanitize(&reason));
                return Err(Error::new(ErrorKind::ClientFailed, message));
            }
            if gauge.is_stranded() {
                self.purge();
                return Err(stranded());
            }
            let (topic, topics) = (gauge.topics.to_ask_about(), Arc::clone(&gauge.topics));
            // librdkafka has no asynchronous metadata request.
            let answer = tokio::task::spawn_blocking(move || {
                let metadata = producer.client().fetch_metadata(topic.as_deref(), timeout)?;
                let of = |topic: &MetadataTopic| {
                    let leaders = topic.partitions().iter().map(MetadataPartition::leader);
                    is_leaderless(topic.error().map(RDKafkaErrorCode::from), leaders)
                };
                // It answers, and can't take a record yet.
                let leaderless = topic.is_some() && metadata.topics().iter().all(of);
                if let Some((topic, found)) = topic.as_deref().zip(metadata.topics().first()) {
                    limits::learn(&topics, topic, found);
                }
                if leaderless { Err(KafkaError::MetadataFetch(RDKafkaErrorCode::LeaderNotAvailable)) } else { Ok(()) }
            })
            .await;
            match answer {
                Ok(Ok(())) => {
                    gauge.heard();
                    Ok(())
                }
                Ok(Err(error)) => Err(gauge.explain(failure(&error, ""))),
                Err(cancelled) => {
                    Err(Error::new(ErrorKind::ClientFailed, "the probe was cancelled").with_source(cancelled))
                }
            }
        })
    }
}

/// Whether no partition of a topic can take a record yet. A topic that was deleted tells nothing of the broker.
fn is_leaderless(error: Option<RDKafkaErrorCode>, mut leaders: impl Iterator<Item = i32>) -> bool {
    error != Some(RDKafkaErrorCode::UnknownTopicOrPartition) && leaders.all(|leader| leader < 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Headers;

    #[test]
    fn a_broker_without_leaders_takes_no_records_and_one_that_has_lost_a_topic_does() {
        let of = |leaders: &[i32]| is_leaderless(None, leaders.iter().copied());
        assert!(of(&[-1, -1]) && !of(&[-1, 1]));
        assert!(is_leaderless(Some(RDKafkaErrorCode::LeaderNotAvailable), std::iter::empty()));
        assert!(!is_leaderless(Some(RDKafkaErrorCode::UnknownTopicOrPartition), std::iter::empty()));
    }

    #[test]
    fn what_is_wrong_with_a_setting_does_not_quote_it() {
        let mut config = rdkafka::ClientConfig::new();
        // Read when it is set, as no secret is today.
        config.set("socket.timeout.ms", "pl4nted");
        let error = KafkaTransport::new(&config, None, Arc::default()).unwrap_err();
        assert!(format!("{error:?}").contains("socket.timeout.ms"), "{error:?}");
        assert!(!format!("{error:?}").contains("pl4nted"), "{error:?}");
    }

    #[tokio::test]
    async fn a_client_without_brokers_is_given_up_with_all_it_has() {
        let mut config = rdkafka::ClientConfig::new();
        config.set("bootstrap.servers", "127.0.0.1:1");
        let client = KafkaTransport::new(&config, None, Arc::default()).unwrap();
        let record = Record { topic: "t".into(), key: "a".into(), headers: Headers::default(), payload: None };
        let submit = || {
            let (sender, outcome) = tokio::sync::oneshot::channel();
            let on_delivery = OnDelivery::new(move |result| {
                let _ = sender.send(result.map_err(|error| error.kind()));
            });
            client.submit(&record, on_delivery).unwrap();
            outcome
        };
        let waiting = submit();
        client.producer.context().stats(Statistics::default());
        let probed = client.probe(Duration::from_secs(1)).await;
        assert_eq!(probed.unwrap_err().kind(), ErrorKind::ClientFailed);
        assert_eq!(waiting.await.unwrap(), Err(ErrorKind::ClientFailed));
        assert_eq!(submit().await.unwrap(), Err(ErrorKind::ClientFailed));
    }

    /// What was written to a log.
    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Written {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// What is logged meanwhile, by the library and its client.
    pub(super) fn logged(act: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let log = tracing_subscriber::fmt()
            .with_env_filter("librdkafka=trace,tidings=trace")
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(log, act);
        String::from_utf8(written.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }

    #[test]
    fn the_clients_log_is_ours_at_its_levels_and_without_credentials() {
        let context = Context { gauge: Arc::default(), tokens: None };
        let text = logged(|| {
            for (level, name) in [
                (RDKafkaLogLevel::Emerg, "emergency"),
                (RDKafkaLogLevel::Warning, "warning"),
                (RDKafkaLogLevel::Notice, "notice"),
                (RDKafkaLogLevel::Debug, "debugging"),
            ] {
                context.log(
                    level,
                    "SASL",
                    &format!("{name}: sasl.password=pl4nted of sasl://shop:pl4nted@kafka-1:9092"),
                );
            }
        });
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        for (line, parts) in
            lines.iter().zip([["ERROR", "emergency"], ["WARN", "warning"], ["INFO", "notice"], ["DEBUG", "debugging"]])
        {
            assert!(parts.iter().all(|part| line.contains(part)) && line.contains("kafka-1:9092"), "{line}");
        }
        assert!(!text.contains("pl4nted"), "{text}");
    }
}
