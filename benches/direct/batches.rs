//! Batches beside rdkafka's lowest producer, which nobody awaits: it is given records as fast as it takes them.
//!
//! Both make their payloads, keys and ids as they go. The batches come one after another: at the end of each the broker is
//! waited for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tidings::{Emitter, EventId, Producer};

use crate::Plan;
use crate::support::bare::{self, Acknowledged};
use crate::support::machine::cpu_time;
use crate::support::report::{Report, median};
use crate::world::{self, BARE_TOPIC, LINGERS_MS, SOURCE};

pub(crate) const BATCH: usize = 10_000;

/// How the keys of a run are chosen.
#[derive(Debug, Clone, Copy)]
enum Keys {
    Many,
    One,
}

impl Keys {
    fn key(self, number: usize) -> String {
        match self {
            Self::Many => world::key(number),
            Self::One => world::key(0),
        }
    }
}

pub(crate) async fn run(brokers: &str, plan: &Plan, report: &mut Report) {
    let tidings = world::producer(brokers).await;
    let bare: Vec<_> = LINGERS_MS.iter().map(|linger| Arc::new(Bare::new(brokers, *linger))).collect();
    for (keys, name) in [(Keys::Many, "batch"), (Keys::One, "batch_one_key")] {
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); bare.len()]);
        // A first round finds the broker.
        for round in 0..=plan.rounds {
            for turn in 0..=bare.len() {
                let turn = (turn + round) % (bare.len() + 1);
                let (speeds, speed) = match bare.get(turn) {
                    Some(client) => (&mut theirs[turn], send(Arc::clone(client), plan.batch_events, keys).await),
                    None => (&mut ours, emit(&tidings, plan.batch_events, keys).await),
                };
                if round > 0 {
                    speeds.push(speed);
                }
            }
        }
        let rates = |runs: &[Speed]| runs.iter().map(|run| run.per_second).collect::<Vec<_>>();
        let best =
            theirs.iter().max_by(|a, b| median(&rates(a)).total_cmp(&median(&rates(b)))).expect("there are some");
        for (ours, best) in ours.iter().zip(best) {
            report.add(&format!("{name}_ratio"), ours.per_second / best.per_second);
            if matches!(keys, Keys::Many) {
                report.add("cpu_ratio", ours.cpu_us / best.cpu_us);
            }
        }
        for ours in &ours {
            report.add(&format!("{name}_per_second"), ours.per_second);
            report.add(&format!("{name}_cpu_us"), ours.cpu_us);
        }
        for (linger, theirs) in LINGERS_MS.iter().zip(&theirs) {
            for theirs in theirs {
                report.add(&format!("{name}_bare_per_second_linger_{linger}"), theirs.per_second);
                report.add(&format!("{name}_bare_cpu_us_linger_{linger}"), theirs.cpu_us);
            }
        }
    }
    report.print("batch_");
    report.print("cpu_ratio");
}

#[derive(Debug, Clone, Copy)]
struct Speed {
    per_second: f64,
    /// CPU of this process for each event.
    cpu_us: f64,
}

impl Speed {
    fn since(start: Instant, cpu: Duration, events: usize) -> Self {
        let (took, cpu) = (start.elapsed(), cpu_time("self") - cpu);
        Self { per_second: events as f64 / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / events as f64 }
    }
}

async fn emit(producer: &Producer, events: usize, keys: Keys) -> Speed {
    let (start, cpu) = (Instant::now(), cpu_time("self"));
    for first in (0..events).step_by(BATCH) {
        let requests = (first..events.min(first + BATCH))
            .map(|number| world::request(&keys.key(number), world::payload(number).into()));
        for result in producer.emit_batch(requests.collect()).await {
            result.expect("the broker takes every event");
        }
    }
    Speed::since(start, cpu, events)
}

async fn send(bare: Arc<Bare>, events: usize, keys: Keys) -> Speed {
    tokio::task::spawn_blocking(move || bare.send(events, keys)).await.expect("the bare client does not fail")
}

struct Bare {
    producer: BaseProducer<Acknowledged>,
    acknowledged: Acknowledged,
}

impl Bare {
    fn new(brokers: &str, linger_ms: u32) -> Self {
        let acknowledged = Acknowledged::default();
        let producer = bare::client(brokers, linger_ms).create_with_context(acknowledged.clone());
        Self { producer: producer.expect("the client can be made"), acknowledged }
    }

    fn send(&self, events: usize, keys: Keys) -> Speed {
        let (start, cpu) = (Instant::now(), cpu_time("self"));
        let before = self.acknowledged.0.load(Ordering::Relaxed);
        for number in 0..events {
            let (key, payload) = (keys.key(number), world::payload(number));
            let headers = bare::headers(BARE_TOPIC, SOURCE, &key, &EventId::new().to_string(), &bare::time());
            let mut record = BaseRecord::to(BARE_TOPIC).key(&key).payload(&payload).headers(headers);
            while let Err((error, refused)) = self.producer.send(record) {
                assert!(matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull)), "{error}");
                self.producer.poll(Duration::from_millis(1));
                record = refused;
            }
            self.producer.poll(Duration::ZERO);
        }
        self.producer.flush(Duration::from_secs(60)).expect("the broker takes every record");
        assert_eq!(self.acknowledged.0.load(Ordering::Relaxed) - before, events);
        Speed::since(start, cpu, events)
    }
}
