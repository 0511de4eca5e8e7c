//! What an emit costs beside its transport: a current-thread runtime, one caller, and a transport that does nothing.

use std::time::Duration;

use bytes::Bytes;
use tidings::{EmitRequest, Emitter, NoopEmitter};
use tokio::runtime::Runtime;

use crate::Plan;
use crate::support::machine::thread_time;
use crate::support::report::Report;
use crate::world;

/// Requests are made beforehand, so few that they stay in the processor's cache.
const AT_A_TIME: usize = 500;

pub(crate) fn run(plan: &Plan, report: &mut Report) {
    let runtime = runtime();
    let producer = runtime.block_on(world::idle_producer());
    let noop = NoopEmitter::new(world::catalog());
    for round in 0..=plan.overhead_rounds {
        let emitted = emit(&runtime, &producer, plan.overhead_emits);
        let ignored = emit(&runtime, &noop, plan.overhead_emits);
        if round > 0 {
            report.add("emit_overhead_ns", emitted.ns);
            report.add("emit_allocations", emitted.allocations);
            report.add("noop_ns", ignored.ns);
            report.add("noop_allocations", ignored.allocations);
        }
    }
    for figures in ["emit_overhead", "emit_allocations", "noop_"] {
        report.print(figures);
    }
}

/// Emits so many events, and says nothing.
pub(crate) fn emit_only(count: usize) {
    let runtime = runtime();
    let producer = runtime.block_on(world::idle_producer());
    emit(&runtime, &producer, count);
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}

#[derive(Debug, Clone, Copy)]
struct Cost {
    ns: f64,
    allocations: f64,
}

fn emit(runtime: &Runtime, emitter: &dyn Emitter, count: usize) -> Cost {
    let (mut time, mut allocations) = (Duration::ZERO, 0);
    let payload = Bytes::from(world::payload(17));
    for first in (0..count).step_by(AT_A_TIME) {
        let requests: Vec<EmitRequest> = (first..count.min(first + AT_A_TIME))
            .map(|number| world::request(&world::key(number), payload.clone()))
            .collect();
        let counted = allocation_counter::measure(|| {
            runtime.block_on(async {
                let start = thread_time();
                for request in requests {
                    emitter.emit(request).await.expect("the request is right");
                }
                time += thread_time() - start;
            });
        });
        allocations += counted.count_total;
    }
    Cost { ns: time.as_secs_f64() * 1e9 / count as f64, allocations: allocations as f64 / count as f64 }
}
