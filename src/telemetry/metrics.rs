//! What the recorder of the crate `metrics` is told.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use metrics::{
    Counter, Histogram, Label, SharedString, Unit, counter, describe_counter, describe_gauge, describe_histogram,
    gauge, histogram,
};
use tokio::time::{sleep, timeout};

use crate::breaker::BreakerState;
use crate::catalog::compiled::Definition;
use crate::emitter::{Outcome, Receipt, StoredReason};
use crate::error::{Error, ErrorKind, Result};
use crate::outbox::{Lag, Outbox};
use crate::transport::{Delivery, Vitals};

/// Whether there is a recorder to tell.
pub(crate) const ARE_TOLD: bool = true;

const EMITS: &str = "tidings.emits";
const EMIT_DURATION: &str = "tidings.emit.duration";
const DEAD_LETTERS: &str = "tidings.dead_letters";
const BREAKER_STATE: &str = "tidings.breaker.state";
const SPILLED_LANES: &str = "tidings.lanes.spilled";
const IN_FLIGHT_BYTES: &str = "tidings.in_flight";
const QUEUE_RECORDS: &str = "tidings.client.queue";
const QUEUE_FULLNESS: &str = "tidings.client.queue.fullness";
const ROUND_TRIP: &str = "tidings.client.round_trip";
const OUTBOX_WAITING: &str = "tidings.outbox.waiting";
const OUTBOX_OLDEST: &str = "tidings.outbox.oldest.age";
const LANE_WAITING: &str = "tidings.lane.waiting";
const RELAYED_LANES: &str = "tidings.relay.lanes";
const GAPS: &str = "tidings.relay.gaps";
const PARKED_KEYS: &str = "tidings.relay.parked_keys";
const SENT_MESSAGES: &str = "messaging.client.sent.messages";
const SEND_DURATION: &str = "messaging.client.operation.duration";

/// A metric, as the recorder is told of it and the reference lists it.
pub(crate) struct Metric {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: Unit,
    #[cfg_attr(not(test), expect(dead_code, reason = "the reference lists them"))]
    pub(crate) labels: &'static str,
    pub(crate) what: &'static str,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

const fn metric(name: &'static str, kind: Kind, unit: Unit, labels: &'static str, what: &'static str) -> Metric {
    Metric { name, kind, unit, labels, what }
}

/// All that is told.
pub(crate) const METRICS: [Metric; 17] = [
    metric(EMITS, Kind::Counter, Unit::Count, "event, outcome, reason", "emits that have ended"),
    metric(EMIT_DURATION, Kind::Histogram, Unit::Seconds, "event, outcome", "how long emits took"),
    metric(
        DEAD_LETTERS,
        Kind::Counter,
        Unit::Count,
        "event",
        "events that went to their dead-letter topic; of a relay, those that it began to send there",
    ),
    metric(
        SENT_MESSAGES,
        Kind::Counter,
        Unit::Count,
        SEND_LABELS,
        "records that a client has sent, directly or by a relay, dead letters too",
    ),
    metric(
        SEND_DURATION,
        Kind::Histogram,
        Unit::Seconds,
        SEND_LABELS,
        "how long it took until they were acknowledged, or had failed",
    ),
    metric(BREAKER_STATE, Kind::Gauge, Unit::Count, "state", "1 of the state that the breaker is in, 0 of the others"),
    metric(
        SPILLED_LANES,
        Kind::Gauge,
        Unit::Count,
        "",
        "lanes whose direct events go to the outbox, since older ones wait there",
    ),
    metric(IN_FLIGHT_BYTES, Kind::Gauge, Unit::Bytes, "", "what the events of running emits take"),
    metric(
        QUEUE_RECORDS,
        Kind::Gauge,
        Unit::Count,
        "client",
        "records that a client has, and that are not acknowledged",
    ),
    metric(QUEUE_FULLNESS, Kind::Gauge, Unit::Count, "client", "how full its queue is; full is 1"),
    metric(
        ROUND_TRIP,
        Kind::Gauge,
        Unit::Seconds,
        "client",
        "how long 99 of 100 requests of a client take until the slowest broker answers; once it is known",
    ),
    metric(
        OUTBOX_WAITING,
        Kind::Gauge,
        Unit::Count,
        "",
        "events of the whole outbox that wait, but for those of parked keys; at most",
    ),
    metric(
        OUTBOX_OLDEST,
        Kind::Gauge,
        Unit::Seconds,
        "",
        "how long the oldest event of the whole outbox waits, be it of a parked key; 0, if none does",
    ),
    metric(
        LANE_WAITING,
        Kind::Gauge,
        Unit::Count,
        "lane",
        "events that wait in a lane that a relay of this process has; 0 in the others",
    ),
    metric(RELAYED_LANES, Kind::Gauge, Unit::Count, "", "lanes that a relay of this process has"),
    metric(
        GAPS,
        Kind::Gauge,
        Unit::Count,
        "",
        "gaps in these lanes: transactions that are open, or were rolled back a moment ago",
    ),
    metric(PARKED_KEYS, Kind::Gauge, Unit::Count, "", "parked keys in these lanes: somebody has to look at them"),
];

const SEND_LABELS: &str =
    "messaging.system, messaging.operation.name, messaging.operation.type, messaging.destination.name, error.type";

/// Tells the recorder what there is.
pub(crate) fn describe() {
    for Metric { name, kind, unit, what, .. } in METRICS {
        match kind {
            Kind::Counter => describe_counter!(name, unit, what),
            Kind::Gauge => describe_gauge!(name, unit, what),
            Kind::Histogram => describe_histogram!(name, unit, what),
        }
    }
}

/// How often it is looked how far behind the relays of an outbox are, and how long its database has to say so.
const LOOK_EVERY: Duration = Duration::from_secs(5);
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// What an event's emits that go well are told to. Made when the first one ends, since the recorder has to be installed by then.
#[derive(Debug, Default)]
pub(crate) struct Meters(OnceLock<Handles>);

#[derive(Debug)]
struct Handles {
    published: Ended,
    /// In the order of [`StoredReason::ALL`].
    stored: [Ended; StoredReason::ALL.len()],
}

/// How many emits have ended so, and how long they took.
#[derive(Debug)]
struct Ended {
    count: Counter,
    duration: Histogram,
}

impl Ended {
    fn new(event: impl Into<SharedString>, outcome: &'static str, reason: Option<&'static str>) -> Self {
        let mut labels = vec![Label::new("event", event), Label::new("outcome", outcome)];
        let duration = histogram!(EMIT_DURATION, labels.clone());
        labels.extend(reason.map(|reason| Label::new("reason", reason)));
        Self { count: counter!(EMITS, labels), duration }
    }

    fn tell(&self, begun: Instant) {
        self.count.increment(1);
        self.duration.record(begun.elapsed());
    }
}

impl Handles {
    fn new(event: &Arc<str>) -> Self {
        let new = |outcome, reason| Ended::new(Arc::clone(event), outcome, reason);
        Self {
            published: new("published", None),
            stored: StoredReason::ALL.map(|reason| new("stored", Some(reason.as_str()))),
        }
    }
}

/// An emit that runs. Dropped before it has ended, it was given up by its caller.
#[derive(Debug)]
pub(crate) struct EmitMeter {
    definition: Option<Arc<Definition>>,
    begun: Instant,
    has_ended: bool,
}

impl EmitMeter {
    /// An emit begins, of an event of this definition, if the catalog has it.
    pub(crate) fn begin(definition: Option<&Arc<Definition>>) -> Self {
        Self { definition: definition.cloned(), begun: Instant::now(), has_ended: false }
    }

    /// It has come to this.
    pub(crate) fn end(mut self, result: Result<&Receipt, &Error>) {
        self.has_ended = true;
        let receipt = match result {
            Ok(receipt) => receipt,
            Err(error) => return self.tell("failed", Some(error.kind().as_str())),
        };
        // There are receipts of the catalog's events alone.
        let Some(definition) = &self.definition else { return };
        let handles = definition.meters.0.get_or_init(|| Handles::new(&definition.key));
        match &receipt.outcome {
            Outcome::Published { .. } => handles.published.tell(self.begun),
            Outcome::Stored { reason, .. } => handles.stored[*reason as usize].tell(self.begun),
            Outcome::Disabled => self.tell("disabled", None),
        }
    }

    /// What is rare is asked of the recorder anew each time.
    fn tell(&self, outcome: &'static str, reason: Option<&'static str>) {
        let key = self.definition.as_ref().map(|definition| Arc::clone(&definition.key));
        // What a request calls an event that the catalog does not have may be anything.
        let event = key.map_or(SharedString::const_str("unknown"), SharedString::from_shared);
        Ended::new(event, outcome, reason).tell(self.begun);
    }
}

impl Drop for EmitMeter {
    fn drop(&mut self) {
        if !self.has_ended {
            self.tell("dropped", None);
        }
    }
}

/// An event is on its dead-letter topic.
pub(crate) fn dead_lettered(event: &str) {
    counter!(DEAD_LETTERS, "event" => event.to_owned()).increment(1);
}

/// What is told of the records of each topic.
#[derive(Debug, Default)]
pub(crate) struct SendMeters(Mutex<HashMap<Arc<str>, Arc<Topic>>>);

#[derive(Debug)]
struct Topic {
    name: Arc<str>,
    count: Counter,
    duration: Histogram,
}

/// A record on its way.
#[derive(Debug)]
pub(crate) struct SendMeter {
    topic: Arc<Topic>,
    begun: Instant,
}

fn labels(topic: &Arc<str>, error: Option<ErrorKind>) -> Vec<Label> {
    let mut labels = vec![
        Label::new("messaging.system", "kafka"),
        Label::new("messaging.operation.name", "send"),
        Label::new("messaging.operation.type", "send"),
        Label::new("messaging.destination.name", SharedString::from_shared(Arc::clone(topic))),
    ];
    labels.extend(error.map(|kind| Label::new("error.type", kind.as_str())));
    labels
}

impl SendMeters {
    /// A record for this topic is on its way.
    pub(crate) fn begin(&self, topic: &Arc<str>) -> SendMeter {
        // Nothing panics while it holds this lock.
        let mut topics = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || {
            let labels = labels(topic, None);
            let (count, duration) = (counter!(SENT_MESSAGES, labels.clone()), histogram!(SEND_DURATION, labels));
            Arc::new(Topic { name: Arc::clone(topic), count, duration })
        };
        let topic = Arc::clone(topics.entry(Arc::clone(topic)).or_insert_with(new));
        SendMeter { topic, begun: Instant::now() }
    }
}

impl SendMeter {
    /// It has come to this.
    pub(crate) fn end(self, result: &Result<Delivery>) {
        let Self { topic, begun } = self;
        match result {
            Ok(_) => {
                topic.count.increment(1);
                topic.duration.record(begun.elapsed());
            }
            Err(error) => {
                let labels = labels(&topic.name, Some(error.kind()));
                counter!(SENT_MESSAGES, labels.clone()).increment(1);
                histogram!(SEND_DURATION, labels).record(begun.elapsed());
            }
        }
    }
}

/// How a producer is.
pub(crate) fn producer(breaker: BreakerState, spilled_lanes: usize, in_flight_bytes: u32) {
    for state in BreakerState::ALL {
        gauge!(BREAKER_STATE, "state" => state.as_str()).set(f64::from(u8::from(state == breaker)));
    }
    gauge!(SPILLED_LANES).set(count(spilled_lanes));
    gauge!(IN_FLIGHT_BYTES).set(f64::from(in_flight_bytes));
}

/// How a client is: that of direct events, or a relay's.
pub(crate) fn client(role: &'static str, vitals: &Vitals) {
    gauge!(QUEUE_RECORDS, "client" => role).set(count(vitals.unacknowledged));
    gauge!(QUEUE_FULLNESS, "client" => role).set(f64::from(vitals.fullness));
    if let Some(round_trip) = vitals.round_trip {
        gauge!(ROUND_TRIP, "client" => role).set(round_trip.as_secs_f64());
    }
}

/// Says again and again how far behind the relays of an outbox are.
pub(crate) async fn tell_of(outbox: Arc<dyn Outbox>) -> Infallible {
    loop {
        match timeout(LOOK_TIMEOUT, outbox.lag()).await {
            Ok(Ok(lag)) => behind(&lag),
            Ok(Err(error)) => tracing::debug!(%error, "how far behind the relays are could not be looked up"),
            Err(_) => tracing::debug!("the outbox's database did not say in time how far behind the relays are"),
        }
        sleep(LOOK_EVERY).await;
    }
}

fn behind(lag: &Lag) {
    gauge!(OUTBOX_WAITING)
        .set(lag.waiting.map_or(f64::NAN, |waiting| count(usize::try_from(waiting).unwrap_or(usize::MAX))));
    gauge!(OUTBOX_OLDEST).set(lag.oldest_waiting.unwrap_or_default().as_secs_f64());
}

/// How many events of a lane wait that this relay has, and none of a lane that it has not.
pub(crate) fn lane(lane: u16, waiting: usize) {
    gauge!(LANE_WAITING, "lane" => lane.to_string()).set(count(waiting));
}

/// What a relay has.
pub(crate) fn relay(lanes: usize, gaps: usize, parked_keys: usize) {
    gauge!(RELAYED_LANES).set(count(lanes));
    gauge!(GAPS).set(count(gaps));
    gauge!(PARKED_KEYS).set(count(parked_keys));
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is a float, and exact far beyond what there can be")]
fn count(number: usize) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn alerts_and_dashboard_ask_for_metrics_that_are_told_and_for_all_of_them() {
        // As exporters for Prometheus write them. A histogram is asked for by its buckets.
        let name = |metric: &Metric| match metric.kind {
            Kind::Histogram => metric.name.replace('.', "_") + "_bucket",
            _ => metric.name.replace('.', "_"),
        };
        let told: BTreeSet<_> = METRICS.iter().map(name).collect();
        let pattern = regex_lite::Regex::new(r"\b(tidings|messaging_client)_[a-z_]+").unwrap();
        let asked =
            |file: &str| pattern.find_iter(file).map(|found| found.as_str().to_owned()).collect::<BTreeSet<_>>();
        let dashboard = asked(include_str!("../../ops/grafana/tidings.json"));
        assert_eq!(dashboard, told);
        let alerts = asked(include_str!("../../ops/prometheus/alerts.yml"));
        assert!(alerts.is_subset(&told), "{:?}", alerts.difference(&told));
    }

    #[test]
    fn the_reference_lists_every_metric() {
        let line = |Metric { name, kind, unit, labels, what }: Metric| {
            let labels = labels.split(", ").filter(|label| !label.is_empty()).map(|label| format!("`{label}`"));
            let labels = labels.collect::<Vec<_>>().join(", ");
            let kind = format!("{kind:?}").to_lowercase();
            format!("| `{name}` | {kind} | {} | {labels} | {what} |", unit.as_str())
        };
        let head = ["| metric | kind | unit | labels | what |".to_owned(), "|---|---|---|---|---|".to_owned()];
        crate::documented::check_in("reference", "metrics", head.into_iter().chain(METRICS.map(line)));
    }
}
