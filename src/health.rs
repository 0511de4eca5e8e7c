//! How an emitter is, for those who watch it: people, metrics and orchestrators.
//!
//! *Ready* is an emitter that accepts events; *live* is one whose process need not be restarted. A broker or a database that
//! is down is mended by no restart, so an emitter stays live through any outage.
//!
//! | reason | what is wrong | with it, events are |
//! |---|---|---|
//! | `closed` | the emitter was closed | not accepted; it is live |
//! | `client_failed` | the Kafka client failed for good, and no new one can be made | accepted if they can be stored; it is **not** live |
//! | `broker_unreachable` | no broker answers | accepted if they can be stored |
//! | `broker_refuses_client` | the brokers do not let the client in, or it does not trust them | accepted if they can be stored |
//! | `breaker_open` | the breaker is open, by itself or by an operator | accepted if they can be stored |
//! | `outbox_failed` | the outbox's database does not answer, or refuses | accepted if they can be published directly |
//! | `no_relay` | events wait in the outbox, and no relay is alive | accepted |
//! | `lanes_without_relay` | events wait in lanes that no living relay holds; an operator has paused them, perhaps | accepted |
//! | `old_backlog` | the oldest event in the outbox waits for longer than [`OLD_BACKLOG`] | accepted |
//! | `unknown` | nothing was seen yet | perhaps accepted |
//!
//! Without a reason the emitter is [healthy](Status::Healthy). With one it is [degraded](Status::Degraded) as long as the
//! events of any enabled definition are accepted, and [down](Status::Down) otherwise. *Can be stored* are the events whose
//! policy allows the outbox while its database answers; *can be published directly* are those whose policy does not demand
//! the outbox while the broker answers and the breaker is not open.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::breaker::BreakerState;

mod judge;
#[cfg(feature = "axum")]
mod router;

pub(crate) use judge::{OutboxSight, Sight, judge};
#[cfg(feature = "axum")]
pub use router::router;

/// A backlog whose oldest event is older than this is a reason. Relays that keep up deliver within a second, and one that
/// takes over from another that died needs ten.
pub const OLD_BACKLOG: Duration = Duration::from_secs(60);

/// How an emitter is; from [`Emitter::health`](crate::Emitter::health). Written as JSON it has times in milliseconds.
///
/// # Examples
///
/// ```
/// use tidings::health::{Health, Status};
///
/// let health = Health::healthy();
/// assert_eq!(health.status, Status::Healthy);
/// assert!(health.is_ready() && health.is_live());
/// assert!(serde_json::to_string(&health).unwrap().contains(r#""status":"healthy""#));
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Health {
    /// Whether events are accepted, and all is well.
    pub status: Status,
    live: bool,
    /// What is not well, in words without credentials.
    pub reasons: Vec<Reason>,
    /// What was seen of the broker. None, if the emitter has none.
    pub broker: Option<BrokerHealth>,
    /// What was seen of the outbox. None, if the emitter has none.
    pub outbox: Option<OutboxHealth>,
    /// The relays of this emitter. None, if it has no outbox.
    pub relay: Option<RelayHealth>,
}

/// Whether events are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Status {
    /// They are, and all is well.
    Healthy,
    /// They are, or those of some definitions are, but not all is well.
    Degraded,
    /// They are not.
    Down,
}

/// Something that is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reason {
    /// What it is, to act upon.
    pub kind: ReasonKind,
    /// The same in words.
    pub text: String,
}

/// The kinds of [`Reason`]; [the module](self) says what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ReasonKind {
    /// The emitter was closed.
    Closed,
    /// The Kafka client failed for good, and no new one can be made.
    ClientFailed,
    /// No broker answers.
    BrokerUnreachable,
    /// The brokers do not let the client in, or it does not trust them.
    BrokerRefusesClient,
    /// The breaker is open.
    BreakerOpen,
    /// The outbox's database does not answer, or refuses.
    OutboxFailed,
    /// Events wait in the outbox, and no relay is alive.
    NoRelay,
    /// Events wait in lanes that no living relay holds.
    LanesWithoutRelay,
    /// The oldest event in the outbox waits for longer than [`OLD_BACKLOG`].
    OldBacklog,
    /// Nothing was seen yet.
    Unknown,
}

/// What was seen of the broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct BrokerHealth {
    /// Within what time it answered. None, if it did not.
    #[serde(rename = "answered_in_ms", serialize_with = "millis")]
    pub answered_in: Option<Duration>,
    /// Whether events are published directly.
    #[serde(serialize_with = "name")]
    pub breaker: BreakerState,
}

/// What was seen of the outbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct OutboxHealth {
    /// Within what time it answered. None, if it did not.
    #[serde(rename = "answered_in_ms", serialize_with = "millis")]
    pub answered_in: Option<Duration>,
    /// How long the oldest event waits that is not delivered. None, if none waits, or that is not known.
    #[serde(rename = "oldest_waiting_ms", serialize_with = "millis")]
    pub oldest_waiting: Option<Duration>,
    /// How many events wait that are not delivered, those of parked keys left out; at most, since numbers that were rolled back
    /// a moment ago are among them. None, if that is not known.
    pub waiting: Option<u64>,
    /// How many relays live, of all processes. None, if that is not known.
    pub relays: Option<u32>,
    /// In how many lanes events wait and no living relay holds them. None, if that is not known.
    pub lanes_without_relay: Option<u32>,
    /// In how many lanes direct events of this emitter go to the outbox, as far as it has looked: older ones wait there.
    pub spilled_lanes: usize,
}

/// The relays of this emitter: the futures of [`Producer::relay`](crate::Producer::relay).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RelayHealth {
    /// Whether one runs.
    pub running: bool,
    /// How long ago one delivered an event, or had none left to deliver. None, if none ever has.
    #[serde(rename = "last_progress_ms", serialize_with = "millis")]
    pub last_progress: Option<Duration>,
}

impl Health {
    /// All is well.
    #[must_use]
    pub fn healthy() -> Self {
        Self { status: Status::Healthy, live: true, reasons: Vec::new(), broker: None, outbox: None, relay: None }
    }

    /// The emitter was closed.
    #[must_use]
    pub fn closed() -> Self {
        let reason = Reason::new(ReasonKind::Closed, "the emitter was closed");
        Self { status: Status::Down, reasons: vec![reason], ..Self::healthy() }
    }

    /// Whether the emitter accepts events: it is healthy or degraded.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.status != Status::Down
    }

    /// Whether the process need not be restarted.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Whether this is among the reasons.
    #[must_use]
    pub fn has(&self, kind: ReasonKind) -> bool {
        self.reasons.iter().any(|reason| reason.kind == kind)
    }
}

impl Status {
    /// Its name in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Reason {
    pub(crate) fn new(kind: ReasonKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

fn millis<S: Serializer>(duration: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    duration.map(|duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

fn name<S: Serializer>(state: &BreakerState, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state.as_str())
}
