//! Callers each of which awaits the acknowledgement of its event before it emits the next.
//!
//! The bare callers write the same keys, headers and payloads through a `FutureProducer`, one for each linger. Which of
//! them is the best differs with the number of callers, and a service would have to know it beforehand.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rdkafka::producer::{FutureProducer, FutureRecord};
use tidings::{Emitter, EventId, Producer};
use tokio::time::Instant;

use crate::Plan;
use crate::support::bare;
use crate::support::machine::cpu_time;
use crate::support::report::{Report, median};
use crate::world::{self, BARE_TOPIC, LINGERS_MS, SOURCE};

pub(crate) const CALLERS: [usize; 5] = [1, 16, 64, 1_000, 10_000];

pub(crate) async fn run(brokers: &str, plan: &Plan, report: &mut Report) {
    let payload = Bytes::from(world::payload(17));
    let tidings = Arc::new(world::producer(brokers).await);
    let bare: Vec<Arc<FutureProducer>> = LINGERS_MS
        .iter()
        .map(|linger| Arc::new(bare::client(brokers, *linger).create().expect("the client can be made")))
        .collect();
    for callers in CALLERS {
        let (mut ours, mut theirs) = (Vec::new(), vec![Vec::new(); bare.len()]);
        for round in 0..plan.rounds {
            for turn in 0..=bare.len() {
                // Each comes first in some rounds.
                let turn = (turn + round) % (bare.len() + 1);
                let (payload, time) = (payload.clone(), plan.round_time);
                if let Some(client) = bare.get(turn) {
                    let client = Arc::clone(client);
                    theirs[turn].push(
                        self::round(callers, time, move |caller| send(Arc::clone(&client), caller, payload.clone()))
                            .await,
                    );
                } else {
                    let tidings = Arc::clone(&tidings);
                    ours.push(
                        self::round(callers, time, move |caller| emit(Arc::clone(&tidings), caller, payload.clone()))
                            .await,
                    );
                }
            }
        }
        let rates = |runs: &[Speed]| runs.iter().map(|run| run.per_second).collect::<Vec<_>>();
        let best =
            theirs.iter().max_by(|a, b| median(&rates(a)).total_cmp(&median(&rates(b)))).expect("there are some");
        for (ours, best) in ours.iter().zip(best) {
            report.add(&format!("ratio_{callers}"), ours.per_second / best.per_second);
        }
        for ours in &ours {
            report.add(&format!("emit_per_second_{callers}"), ours.per_second);
            report.add(&format!("emit_cpu_us_{callers}"), ours.cpu_us);
        }
        for (linger, theirs) in LINGERS_MS.iter().zip(&theirs) {
            for theirs in theirs {
                report.add(&format!("bare_per_second_{callers}_linger_{linger}"), theirs.per_second);
                report.add(&format!("bare_cpu_us_{callers}_linger_{linger}"), theirs.cpu_us);
            }
        }
        for figures in
            [format!("ratio_{callers}"), format!("emit_per_second_{callers}"), format!("bare_per_second_{callers}_")]
        {
            report.print(&figures);
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Speed {
    per_second: f64,
    /// CPU of this process for each event.
    cpu_us: f64,
}

/// So many callers at once, for so long.
async fn round<F: Future<Output = ()> + Send + 'static>(
    callers: usize,
    time: Duration,
    call: impl Fn(usize) -> F + Clone + Send + Sync + 'static,
) -> Speed {
    let count = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + time;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let (call, count) = (call.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                while Instant::now() < end {
                    call(caller).await;
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Until then connections that were idle are busy again, and all callers are under way.
    tokio::time::sleep_until(end - time * 9 / 10).await;
    let (start, cpu, before) = (Instant::now(), cpu_time("self"), count.load(Ordering::Relaxed));
    tokio::time::sleep_until(end).await;
    let (took, cpu, events) = (start.elapsed(), cpu_time("self") - cpu, count.load(Ordering::Relaxed) - before);
    for task in tasks {
        task.await.expect("a caller does not panic");
    }
    Speed { per_second: events as f64 / took.as_secs_f64(), cpu_us: cpu.as_secs_f64() * 1e6 / events as f64 }
}

async fn emit(producer: Arc<Producer>, caller: usize, payload: Bytes) {
    let request = world::request(&world::key(caller), payload);
    producer.emit(request).await.expect("the broker takes every event");
}

async fn send(producer: Arc<FutureProducer>, caller: usize, payload: Bytes) {
    let key = world::key(caller);
    let headers = bare::headers(BARE_TOPIC, SOURCE, &key, &EventId::new().to_string(), &bare::time());
    let record = FutureRecord::to(BARE_TOPIC).key(&key).payload(&payload[..]).headers(headers);
    let delivery = producer.send_result(record).map_err(|(error, _)| error).expect("the queue has room");
    delivery.await.expect("the producer lives").expect("the broker takes every event");
}
