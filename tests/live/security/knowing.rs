//! Clients that are let in.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use tidings::{Emitter, ProducerBuilder};

use super::{PASSWORD, Secured, USER, secured};
use crate::support::events::{Sequence, is_published};

/// Emits an event directly, and waits until it is on the topic.
pub(super) async fn arrives(secured: &Secured, builder: ProducerBuilder) {
    let producer = builder.build().await.unwrap();
    let event = Sequence::of("tenant-1").next();
    assert!(is_published(&producer.emit(event.request()).await.unwrap()));
    secured.world.arrived(&event.id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_arrives_by_every_mechanism_that_asks_for_a_password() {
    let secured = secured!();
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        arrives(&secured, secured.builder(&secured.named(mechanism, USER, PASSWORD))).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_arrives_from_a_client_that_shows_a_certificate_given_as_it_is_or_in_base64() {
    let secured = secured!();
    let (certificate, key) = (secured.pem("client.pem"), secured.pem("client.key"));
    let mut settings = secured.trusting(&secured.mutual);
    settings.extend([("STREAMING_TLS_CLIENT_CERT", certificate), ("STREAMING_TLS_CLIENT_KEY", key)]);
    arrives(&secured, secured.builder(&settings)).await;
    for (name, value) in &mut settings {
        if name.ends_with("_CERT") || name.ends_with("_KEY") {
            *value = BASE64_STANDARD.encode(&*value);
        }
    }
    arrives(&secured, secured.builder(&settings)).await;
}
