//! Secrets that must not be seen.

use std::error::Error;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use chrono::{TimeDelta, Utc};
use tidings::{BoxFuture, Config, Emitter, ErrorKind, PostgresOutbox, Token, TokenProvider};

use super::tokens::unsigned;
use super::{PASSWORD, Secured, USER, secured};
use crate::log;
use crate::support::events::{EVENT, Sequence, catalog};
use crate::support::relaying::RunningRelay;
use crate::support::topic::{alter, read_until};

/// What every secret of the test's has in it, unless it is a real one.
const PLANTED: &str = "pl4nted";

/// Everything that can be seen from outside, with what is logged.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<u8>>>);

impl io::Write for Seen {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seen {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap() + &log::so_far()
    }

    fn note(&self, text: &str) {
        io::Write::write_all(&mut self.clone(), text.as_bytes()).unwrap();
    }

    fn debug(&self, value: &impl Debug) {
        self.note(&format!("{value:?} {value:#?}"));
    }

    /// An error of this kind, with all its causes.
    #[track_caller]
    fn error(&self, kind: ErrorKind, error: &tidings::Error) {
        assert_eq!(error.kind(), kind, "{error:?}");
        let mut cause: Option<&dyn Error> = Some(error);
        while let Some(error) = cause {
            self.note(&format!("{error} {error:?} {error:#?}"));
            cause = error.source();
        }
    }

    #[track_caller]
    fn lacks(&self, secret: &str) {
        let seen = self.text();
        assert!(!secret.is_empty());
        let line = seen.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "`{secret}` can be seen: {}", line.unwrap());
    }

    #[track_caller]
    fn has(&self, text: &str) {
        assert!(self.text().contains(text), "`{text}` was not seen");
    }
}

/// Fails in turn in every way it can, with a secret in each.
struct Leaky(Mutex<usize>);

impl TokenProvider for Leaky {
    fn token(&self) -> BoxFuture<'_, Result<Token, Box<dyn Error + Send + Sync>>> {
        let turn = {
            let mut turn = self.0.lock().unwrap();
            *turn += 1;
            *turn
        };
        Box::pin(async move {
            let in_an_hour = Utc::now() + TimeDelta::hours(1);
            match turn {
                1 => Ok(Token::new(format!("{PLANTED}\u{7f}"), USER, in_an_hour)),
                2 => Err(format!("https://orders:{PLANTED}@identity/token said no to token={PLANTED}").into()),
                _ => Ok(Token::new(PLANTED, USER, in_an_hour)),
            }
        })
    }
}

/// Has everything seen that a producer shows, and why it fails.
async fn try_in_vain(secured: &Secured, seen: &Seen, settings: &super::Settings) {
    let builder = secured.builder(settings).with_outbox(secured.world.outbox());
    seen.debug(&builder);
    let producer = builder.build().await.unwrap();
    seen.debug(&producer);
    let _relay = RunningRelay::of(&producer);
    seen.debug(&producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap());
    seen.debug(&producer.health().await);
    let producer = secured.builder(settings).build().await.unwrap();
    let error = producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap_err();
    seen.error(ErrorKind::Unauthenticated, &error);
    seen.debug(&producer);
}

/// Settings that can't be used.
async fn set_wrongly(secured: &Secured, seen: &Seen) {
    for (name, value) in [
        ("STREAMING_TLS_CLIENT_KEY", PLANTED.to_owned()),
        ("STREAMING_TLS_CA_CERT", PLANTED.to_owned()),
        ("STREAMING_TLS_CLIENT_KEY", format!("-----BEGIN PRIVATE KEY-----\n{PLANTED}\n-----END PRIVATE KEY-----\n")),
        ("STREAMING_KAFKA_PROPERTIES", format!("socket.timeout.ms={PLANTED}")),
        ("STREAMING_BROKERS", format!("orders:{PLANTED}@shop:9092")),
        ("STREAMING_CLOUDEVENTS_SOURCE", format!("https://orders:{PLANTED}@shop/ /")),
    ] {
        seen.error(ErrorKind::InvalidConfig, &Config::from_vars([(name, value)]).unwrap_err());
    }
    for (name, value) in [
        // The eighth sign makes it base64, though not a key.
        ("STREAMING_TLS_CLIENT_KEY", format!("-----BEGIN PRIVATE KEY-----\n{PLANTED}0\n-----END PRIVATE KEY-----\n")),
        ("STREAMING_SASL_PASSWORD", format!("{PLANTED}\0")),
    ] {
        let mut settings = secured.named("PLAIN", USER, PLANTED);
        settings.extend([("STREAMING_TLS_CLIENT_CERT", secured.pem("client.pem")), (name, value)]);
        settings.extend(
            [("STREAMING_TLS_CLIENT_KEY", secured.pem("client.key"))].into_iter().filter(|(key, _)| *key != name),
        );
        seen.error(ErrorKind::InvalidConfig, &secured.builder(&settings).build().await.unwrap_err());
    }
}

/// A database that does not like the password, and URLs that are none.
async fn ask_the_database(secured: &Secured, seen: &Seen) {
    let options = secured.world.options();
    let url = format!(
        "postgres://{}:{PLANTED}@{}:{}/tidings",
        options.get_username(),
        options.get_host(),
        options.get_port()
    );
    let outbox = PostgresOutbox::connect(&url).unwrap();
    seen.debug(&outbox);
    let refused = outbox.migrate().await.unwrap_err();
    assert!(refused.to_string().contains("check user and password"), "{refused}");
    seen.error(ErrorKind::StorageRejected, &refused);
    let builder = secured.builder(&secured.trusting(&secured.sasl)).with_outbox(outbox);
    seen.debug(&builder);
    seen.error(ErrorKind::StorageRejected, &builder.build().await.unwrap_err());
    for url in [
        format!("postgres://tidings:{PLANTED}@127.0.0.1:port/tidings"),
        format!("postgres://tidings:{PLANTED}@[::1/tidings"),
        format!("postgres://tidings@127.0.0.1/tidings?password={PLANTED}&sslmode={PLANTED}"),
        PLANTED.to_owned(),
    ] {
        seen.error(ErrorKind::InvalidConfig, &PostgresOutbox::connect(&url).unwrap_err());
    }
}

/// The dead letter of an event that the topic refuses, from a client with the true password.
async fn send_a_dead_letter(secured: &Secured, seen: &Seen) {
    let world = &secured.world;
    let producer = secured.builder(&secured.named("PLAIN", USER, PASSWORD)).build().await.unwrap();
    // Before that the producer would have known of it, and sent nothing.
    alter(&world.brokers, &world.topic, "max.message.bytes", "100").await;
    let event = Sequence::of("tenant-1").next();
    let error = producer.emit(event.request()).await.unwrap_err();
    assert!(error.dead_lettered(), "{error:?}");
    seen.error(ErrorKind::TooLarge, &error);
    let letters = read_until(&world.brokers, &format!("{}.dlq", world.topic), [event.id].into()).await;
    for (name, value) in &letters[0].headers {
        seen.note(&format!("{name}={}", String::from_utf8_lossy(value)));
    }
    seen.debug(&producer);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_the_log_an_error_a_dead_letter_or_what_debug_shows() {
    let secured = secured!();
    let seen = Seen::default();
    log::watch();
    let (key, certificate) = (secured.pem("client.key"), secured.pem("client.pem"));

    let mut settings = secured.named("SCRAM-SHA-256", USER, PLANTED);
    settings.extend([("STREAMING_TLS_CLIENT_CERT", certificate), ("STREAMING_TLS_CLIENT_KEY", key.clone())]);
    try_in_vain(&secured, &seen, &settings).await;

    let token = unsigned(TimeDelta::hours(1));
    seen.debug(&token);
    for turn in 0..3 {
        let builder = secured.builder(&secured.with_tokens()).with_token_provider(Leaky(Mutex::new(turn)));
        seen.debug(&builder);
        let producer = builder.build().await.unwrap();
        let error = producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap_err();
        seen.error(ErrorKind::Unauthenticated, &error);
    }
    set_wrongly(&secured, &seen).await;
    ask_the_database(&secured, &seen).await;
    send_a_dead_letter(&secured, &seen).await;

    for there in [
        "librdkafka",
        "the Kafka client reports an error",
        "there is no token for the brokers",
        "error-message=",
        EVENT,
    ] {
        seen.has(there);
    }
    seen.debug(&catalog());
    // As text, and as the numbers of its bytes.
    for secret in [PLANTED, "112, 108, 52, 110", PASSWORD, key.lines().nth(1).unwrap()] {
        seen.lacks(secret);
    }
}
