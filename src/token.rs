//! Tokens that a client shows instead of a password (SASL OAUTHBEARER).

use std::fmt;

use chrono::{DateTime, Utc};

use crate::BoxFuture;
use crate::config::security::Secret;

/// Gets the tokens with which the clients show who they are: `STREAMING_SASL_MECHANISM=OAUTHBEARER`.
///
/// Give it to [`Config::with_token_provider`](crate::Config::with_token_provider) or
/// [`ProducerBuilder::with_token_provider`](crate::ProducerBuilder::with_token_provider). It is asked by two clients, that of
/// the direct path and that of the relay, each at start, and again when four fifths of the token's time are over.
///
/// The future runs on the runtime on which the producer was built, for five seconds at most. A failure is logged, without
/// credentials, and the provider is asked again ten seconds later; until there is a token, emits fail, or go to the outbox, as
/// [`ErrorKind::Unauthenticated`](crate::ErrorKind::Unauthenticated).
///
/// # Examples
///
/// ```
/// use std::error::Error;
///
/// use chrono::{TimeDelta, Utc};
/// use tidings::{BoxFuture, Config, Token, TokenProvider};
///
/// struct Metadata;
///
/// impl TokenProvider for Metadata {
///     fn token(&self) -> BoxFuture<'_, Result<Token, Box<dyn Error + Send + Sync>>> {
///         Box::pin(async {
///             let value = "eyJhbGciOiJSUzI1NiJ9.e30.c2ln"; // here you ask your identity service
///             Ok(Token::new(value, "orders", Utc::now() + TimeDelta::hours(1)))
///         })
///     }
/// }
///
/// let config = Config::from_env()?.with_token_provider(Metadata); // and then `Producer::builder`, or `tidings::emitter`
/// # Ok::<(), tidings::Error>(())
/// ```
pub trait TokenProvider: Send + Sync + 'static {
    /// A token that is valid now.
    ///
    /// # Errors
    ///
    /// Whatever keeps it from getting one. The text may end up in the log, with what looks like a credential taken out.
    ///
    /// # Cancel safety
    ///
    /// Dropped when it takes too long, and when the runtime ends.
    fn token(&self) -> BoxFuture<'_, Result<Token, Box<dyn std::error::Error + Send + Sync>>>;
}

/// A token, whose it is, and until when it is valid. Its `Debug` does not show it.
#[derive(Clone)]
pub struct Token {
    pub(crate) value: Secret,
    pub(crate) principal: String,
    pub(crate) expires_at: DateTime<Utc>,
}

impl Token {
    /// A token. The principal is a name for the broker's log; who the client is, the token itself says.
    pub fn new(value: impl Into<String>, principal: impl Into<String>, expires_at: DateTime<Utc>) -> Self {
        Self { value: Secret::new(value.into()), principal: principal.into(), expires_at }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, principal, expires_at } = self;
        let mut out = f.debug_struct("Token");
        out.field("value", value).field("principal", principal).field("expires_at", expires_at).finish()
    }
}
