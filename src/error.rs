//! The one public error.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use crate::event::EventId;

/// What a fallible operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed.
///
/// The type is opaque: act on [`kind`](Self::kind) and on the two questions most callers have,
/// [`is_caller_error`](Self::is_caller_error) and [`is_retryable`](Self::is_retryable). The text names what was
/// wrong and what to do, and never carries credentials. The cause, if there is one, is in
/// [`source`](StdError::source).
///
/// # Examples
///
/// ```
/// use tidings::{Catalog, EmitRequest, Emitter, ErrorKind, EventDefinition, NoopEmitter};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> tidings::Result<()> {
/// let emitter = NoopEmitter::new(Catalog::new([EventDefinition::new("order.created", "order", "created")])?);
/// let error = emitter.emit(EmitRequest::new("order.creatd")).await.unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::UnknownEvent);
/// assert!(error.is_caller_error());
/// # Ok(()) }
/// ```
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: Cow<'static, str>,
    event_id: Option<EventId>,
    dead_lettered: bool,
    ambiguous: bool,
    retry_after: Option<Duration>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kinds of [`Error`]. Their names, from [`as_str`](Self::as_str), are stable and fit for a metric label.
///
/// # Examples
///
/// What a service answers over HTTP:
///
/// ```
/// use tidings::{Error, ErrorKind};
///
/// fn status(error: &Error) -> u16 {
///     match error.kind() {
///         ErrorKind::RateLimited => 429,
///         kind if kind.is_caller_error() => 422,
///         kind if kind.is_retryable() => 503,
///         _ => 500,
///     }
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A setting is missing, can't be read, or contradicts another.
    InvalidConfig,
    /// An event definition, or the catalog of them, breaks a rule.
    InvalidDefinition,
    /// A delivery policy can't be read, or leaves an event no way to be delivered.
    InvalidPolicy,
    /// The catalog has no event of that key.
    UnknownEvent,
    /// A field of the request is missing, too long, or has characters that it may not have.
    InvalidEvent,
    /// The payload is not what the content type of the event says.
    InvalidPayload,
    /// The record would be larger than the broker accepts.
    TooLarge,
    /// A transactional emit was given a connection that this emitter's outbox can't write to.
    UnsupportedTransaction,
    /// The emitter was closed.
    Closed,
    /// The breaker is open and the event may not, or can't, go to an outbox.
    CircuitOpen,
    /// An older event of the same lane waits in the outbox, and the policy of this one forbids to store it behind.
    LaneSpilled,
    /// No broker could be reached, or it answered that it can't serve now.
    BrokerUnavailable,
    /// The broker did not answer in time: the event may or may not be on the topic.
    Timeout,
    /// The broker throttles, or the client's queue stayed full.
    Overloaded,
    /// The event's tenant emits more than it may.
    RateLimited,
    /// The broker does not let this client do that.
    Unauthorized,
    /// The broker does not know this client, or the client does not trust the broker: a wrong password, certificate or
    /// token, say.
    Unauthenticated,
    /// The topic does not exist and was not created.
    UnknownTopic,
    /// The broker refused this record for what it is.
    RecordRejected,
    /// The client broke down in a way that it can't recover from; a new one is needed.
    ClientFailed,
    /// The outbox's database can't be reached, or can't serve now.
    Storage,
    /// The transaction can't go on, because of another one or of a failure before: roll back, and run it again from its start.
    StorageConflict,
    /// The outbox's database refused a statement for what it is: a privilege, a constraint, a read-only server.
    StorageRejected,
    /// What an operator asked of an outbox can't be done as it was asked: no such lane or row, no reason given.
    InvalidRequest,
    /// What an operator wanted to change is not as it was when it was looked at. Look again.
    MovedOn,
    /// The outbox's tables are missing, or those of another version of this library.
    Schema,
}

impl ErrorKind {
    /// All kinds.
    #[cfg(any(test, feature = "postgres", feature = "sqlite"))]
    const ALL: [Self; 26] = [
        Self::InvalidConfig,
        Self::InvalidDefinition,
        Self::InvalidPolicy,
        Self::UnknownEvent,
        Self::InvalidEvent,
        Self::InvalidPayload,
        Self::TooLarge,
        Self::UnsupportedTransaction,
        Self::Closed,
        Self::CircuitOpen,
        Self::LaneSpilled,
        Self::BrokerUnavailable,
        Self::Timeout,
        Self::Overloaded,
        Self::RateLimited,
        Self::Unauthorized,
        Self::Unauthenticated,
        Self::UnknownTopic,
        Self::RecordRejected,
        Self::ClientFailed,
        Self::Storage,
        Self::StorageConflict,
        Self::StorageRejected,
        Self::InvalidRequest,
        Self::MovedOn,
        Self::Schema,
    ];

    /// The stable name, in snake case.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidConfig => "invalid_config",
            Self::InvalidDefinition => "invalid_definition",
            Self::InvalidPolicy => "invalid_policy",
            Self::UnknownEvent => "unknown_event",
            Self::InvalidEvent => "invalid_event",
            Self::InvalidPayload => "invalid_payload",
            Self::TooLarge => "too_large",
            Self::UnsupportedTransaction => "unsupported_transaction",
            Self::Closed => "closed",
            Self::CircuitOpen => "circuit_open",
            Self::LaneSpilled => "lane_spilled",
            Self::BrokerUnavailable => "broker_unavailable",
            Self::Timeout => "timeout",
            Self::Overloaded => "overloaded",
            Self::RateLimited => "rate_limited",
            Self::Unauthorized => "unauthorized",
            Self::Unauthenticated => "unauthenticated",
            Self::UnknownTopic => "unknown_topic",
            Self::RecordRejected => "record_rejected",
            Self::ClientFailed => "client_failed",
            Self::Storage => "storage",
            Self::StorageConflict => "storage_conflict",
            Self::StorageRejected => "storage_rejected",
            Self::InvalidRequest => "invalid_request",
            Self::MovedOn => "moved_on",
            Self::Schema => "schema",
        }
    }

    /// The kind of that name.
    #[cfg(any(test, feature = "postgres", feature = "sqlite"))]
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether the fault lies in what the caller passed, so that the same call fails again.
    #[must_use]
    pub fn is_caller_error(self) -> bool {
        matches!(
            self,
            Self::InvalidConfig
                | Self::InvalidDefinition
                | Self::InvalidPolicy
                | Self::UnknownEvent
                | Self::InvalidEvent
                | Self::InvalidPayload
                | Self::TooLarge
                | Self::UnsupportedTransaction
                | Self::InvalidRequest
        )
    }

    /// Whether the same call may succeed later, unchanged; of an emit in a transaction, in a new transaction.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        self.is_outage()
            || matches!(
                self,
                Self::CircuitOpen | Self::LaneSpilled | Self::RateLimited | Self::Storage | Self::StorageConflict
            )
    }

    /// Whether an event that fails so may go to its dead-letter topic: the broker refused it, and is there.
    pub(crate) fn is_dead_letter(self) -> bool {
        matches!(self, Self::TooLarge | Self::Unauthorized | Self::UnknownTopic | Self::RecordRejected)
    }

    /// Whether nothing is wrong with the event, and the cluster takes none now: such an event goes to the outbox.
    pub(crate) fn is_outage(self) -> bool {
        self.is_broker_health() || self == Self::Unauthenticated
    }

    /// Whether the failure says something about the broker rather than about one event or this client.
    ///
    /// Only these failures count for the breaker.
    pub(crate) fn is_broker_health(self) -> bool {
        matches!(self, Self::BrokerUnavailable | Self::Timeout | Self::Overloaded | Self::ClientFailed)
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Error {
    /// The kind, to act upon.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// See [`ErrorKind::is_caller_error`].
    #[must_use]
    pub fn is_caller_error(&self) -> bool {
        self.0.kind.is_caller_error()
    }

    /// See [`ErrorKind::is_retryable`]. A retry should carry the same [`event_id`](Self::event_id): then a duplicate
    /// can be recognised.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_retryable()
    }

    /// The id of the event that failed, if the emit came so far that it had one.
    #[must_use]
    pub fn event_id(&self) -> Option<&EventId> {
        self.0.event_id.as_ref()
    }

    /// Whether the event is on its dead-letter topic.
    #[must_use]
    pub fn dead_lettered(&self) -> bool {
        self.0.dead_lettered
    }

    /// Whether the event may have been published or stored all the same: the answer to the last attempt is missing. A retry
    /// should carry the same [`event_id`](Self::event_id), so that consumers recognise the second copy.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        self.0.ambiguous
    }

    /// After what time the same call may succeed, if that is known: of [`ErrorKind::RateLimited`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    pub(crate) fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    pub(crate) fn into_dead_lettered(mut self) -> Self {
        self.0.dead_lettered = true;
        self
    }

    /// The same kind and text, without the cause.
    pub(crate) fn retold(&self) -> Self {
        Self::new(self.0.kind, self.to_string_with_causes())
    }

    /// The text, and those of its causes.
    pub(crate) fn to_string_with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = StdError::source(self);
        while let Some(error) = cause {
            text = format!("{text}: {error}");
            cause = error.source();
        }
        text
    }

    /// Says that the event may have been published or stored all the same, if `ambiguous`; what was said before stays.
    ///
    /// A transport says so of a record that it has sent and of which it has heard nothing more.
    #[must_use]
    pub fn or_ambiguous(mut self, ambiguous: bool) -> Self {
        self.0.ambiguous |= ambiguous;
        self
    }

    /// Says that something else decides what becomes of the event.
    pub(crate) fn decided(mut self) -> Self {
        self.0.ambiguous = false;
        self
    }

    /// An error of an emitter or a transport of your own, such as a wrapper that refuses some events. What becomes of an event
    /// that a transport fails with it goes by the kind; the text must not have credentials.
    ///
    /// # Examples
    ///
    /// ```
    /// use tidings::{Error, ErrorKind};
    ///
    /// let error = Error::new(ErrorKind::BrokerUnavailable, "the satellite is below the horizon").or_ambiguous(true);
    /// assert!(error.is_retryable() && error.is_ambiguous());
    /// ```
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        let message = message.into();
        Self(Box::new(Inner {
            kind,
            message,
            event_id: None,
            dead_lettered: false,
            ambiguous: false,
            retry_after: None,
            source: None,
        }))
    }

    /// All of these in one, of the first one's kind, each in a line of its own.
    pub(crate) fn all(errors: Vec<Self>) -> Result<()> {
        let Some(kind) = errors.first().map(Self::kind) else { return Ok(()) };
        let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
        Err(Self::new(kind, texts.join("\n")))
    }

    /// Sets the cause, for [`source`](StdError::source). Defaults to none.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    pub(crate) fn with_event_id(mut self, id: EventId) -> Self {
        self.0.event_id = Some(id);
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Error");
        out.field("kind", &self.0.kind).field("message", &self.0.message);
        if let Some(id) = &self.0.event_id {
            out.field("event_id", id);
        }
        if self.0.dead_lettered {
            out.field("dead_lettered", &true);
        }
        if self.0.ambiguous {
            out.field("ambiguous", &true);
        }
        if let Some(source) = &self.0.source {
            out.field("source", source);
        }
        out.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_ref().map(|source| &**source as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_kinds_is_complete() {
        let names = include_str!("error.rs").split_once("pub fn as_str").unwrap().1.split_once("fn named").unwrap().0;
        assert_eq!(names.matches(" => \"").count(), ErrorKind::ALL.len());
        for kind in ErrorKind::ALL {
            assert_eq!(ErrorKind::named(kind.as_str()), Some(kind));
        }
    }

    #[test]
    fn a_failure_is_the_callers_or_retryable_but_never_both() {
        for kind in ErrorKind::ALL {
            assert!(!(kind.is_caller_error() && kind.is_retryable()), "{kind}");
        }
    }

    #[test]
    fn what_opens_the_breaker_is_neither_the_callers_nor_the_events_fault() {
        for kind in ErrorKind::ALL.into_iter().filter(|kind| kind.is_broker_health()) {
            assert!(kind.is_retryable() && !kind.is_caller_error() && !kind.is_dead_letter(), "{kind}");
        }
    }

    #[test]
    fn the_documented_kinds_are_these() {
        let yes = |is: bool| if is { "yes" } else { "" };
        let line = |kind: ErrorKind| {
            let columns = [kind.is_caller_error(), kind.is_retryable(), kind.is_dead_letter(), kind.is_broker_health()];
            format!("| `{kind}` | {} |", columns.map(yes).join(" | "))
        };
        let table = [
            "| kind | caller's fault | retryable | dead letter | counts for the breaker |".to_owned(),
            "| --- | --- | --- | --- | --- |".into(),
        ];
        crate::documented::check("kinds", table.into_iter().chain(ErrorKind::ALL.into_iter().map(line)));
    }

    #[test]
    fn a_client_that_is_not_let_in_is_an_outage_that_says_nothing_of_the_brokers_health() {
        let kind = ErrorKind::Unauthenticated;
        assert!(kind.is_outage() && kind.is_retryable());
        assert!(!kind.is_broker_health() && !kind.is_dead_letter() && !kind.is_caller_error());
    }

    #[test]
    fn the_cause_is_in_source_and_not_in_the_text() {
        let error = Error::new(ErrorKind::Storage, "the insert failed").with_source(std::io::Error::other("disk full"));
        assert_eq!(error.to_string(), "the insert failed");
        assert_eq!(StdError::source(&error).unwrap().to_string(), "disk full");
    }
}
