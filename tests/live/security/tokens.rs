//! Tokens instead of passwords.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{TimeDelta, Utc};
use tidings::{BoxFuture, Emitter, ErrorKind, Token, TokenProvider};

use super::knowing::arrives;
use super::{PASSWORD, USER, secured};
use crate::support::events::{Sequence, is_published};
use crate::support::waiting::eventually;

/// A token that a broker for tests accepts: one that nobody has signed.
pub(super) fn unsigned(valid: TimeDelta) -> Token {
    let (now, expires_at) = (Utc::now(), Utc::now() + valid);
    let claims = serde_json::json!({ "sub": USER, "iat": now.timestamp(), "exp": expires_at.timestamp() });
    let part = |json: &str| BASE64_URL_SAFE_NO_PAD.encode(json);
    let value = format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims.to_string()));
    Token::new(value, USER, expires_at)
}

/// Has tokens when it is told so, and counts how often it is asked.
#[derive(Default)]
struct Provider {
    works: AtomicBool,
    asked: AtomicUsize,
}

struct Shared(Arc<Provider>);

impl TokenProvider for Shared {
    fn token(&self) -> BoxFuture<'_, Result<Token, Box<dyn Error + Send + Sync>>> {
        Box::pin(async {
            // An answer from elsewhere: the runtime has to run meanwhile.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            self.0.asked.fetch_add(1, Ordering::SeqCst);
            if self.0.works.load(Ordering::SeqCst) {
                Ok(unsigned(TimeDelta::seconds(15)))
            } else {
                Err("the identity service is away".into())
            }
        })
    }
}

/// On a runtime of one thread, which a callback that blocked it would hold up for ever.
#[tokio::test]
async fn an_event_arrives_from_a_client_that_shows_a_token() {
    let secured = secured!();
    let provider = Arc::new(Provider { works: true.into(), ..Provider::default() });
    let builder = secured.builder(&secured.with_tokens()).with_token_provider(Shared(Arc::clone(&provider)));
    arrives(&secured, builder).await;
    assert_eq!(provider.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_expires() {
    let secured = secured!();
    let provider = Arc::new(Provider { works: true.into(), ..Provider::default() });
    let builder = secured.builder(&secured.with_tokens()).with_token_provider(Shared(Arc::clone(&provider)));
    let producer = builder.build().await.unwrap();
    let mut sequence = Sequence::of("tenant-1");
    eventually("a second token is asked for", async || {
        assert!(is_published(&producer.emit(sequence.next().request()).await.unwrap()));
        (provider.asked.load(Ordering::SeqCst) >= 2).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_a_token_emits_fail_and_with_one_they_do_not() {
    let secured = secured!();
    let provider = Arc::new(Provider::default());
    let builder = secured.builder(&secured.with_tokens()).with_token_provider(Shared(Arc::clone(&provider)));
    let producer = builder.build().await.unwrap();
    let mut sequence = Sequence::of("tenant-1");
    for _ in 0..8 {
        let error = producer.emit(sequence.next().request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.source().unwrap().to_string().contains("identity service is away"), "{error:?}");
    }
    provider.works.store(true, Ordering::SeqCst);
    eventually("an emit is direct", async || producer.emit(sequence.next().request()).await.ok()).await;
}

/// A token that the broker does not accept: it is that of a client whose time is over.
struct Expired;

impl TokenProvider for Expired {
    fn token(&self) -> BoxFuture<'_, Result<Token, Box<dyn Error + Send + Sync>>> {
        Box::pin(async { Ok(Token::new("bm90.YQ.", USER, Utc::now() + TimeDelta::hours(1))) })
    }
}

#[tokio::test]
async fn a_token_that_the_broker_refuses_is_no_way_in() {
    let secured = secured!();
    let builder = secured.builder(&secured.with_tokens()).with_token_provider(Expired);
    let producer = builder.build().await.unwrap();
    for _ in 0..8 {
        let error = producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    }
}

#[tokio::test]
async fn the_mechanism_and_the_provider_need_each_other() {
    let secured = secured!();
    let error = secured.builder(&secured.with_tokens()).build().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let builder = secured.builder(&secured.named("PLAIN", USER, PASSWORD)).with_token_provider(Expired);
    assert_eq!(builder.build().await.unwrap_err().kind(), ErrorKind::InvalidConfig);
}
