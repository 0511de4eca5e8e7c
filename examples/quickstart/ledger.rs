//! What the service knows of the events that it emitted.

use std::fmt;
use std::time::Duration;

use tidings::{Outcome, Receipt, StoredReason};

use crate::orders::OrderChange;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// In the order in which they were accepted.
    pub(crate) accepted: Vec<Accepted>,
    /// The ids of the events whose transaction rolled back.
    pub(crate) rolled_back: Vec<String>,
    /// How many of both have been summed up.
    summed_up: (usize, usize),
}

#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) id: String,
    pub(crate) customer: String,
    pub(crate) path: Path,
    /// How long the emit took.
    latency: Duration,
}

/// The way that an event took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Path {
    Direct,
    Transaction,
    PublishFailed,
    CircuitOpen,
    LaneSpilled,
    Other,
}

impl Path {
    const ALL: [Self; 6] =
        [Self::Direct, Self::Transaction, Self::PublishFailed, Self::CircuitOpen, Self::LaneSpilled, Self::Other];

    fn of(outcome: &Outcome) -> Self {
        match outcome {
            Outcome::Published { .. } => Self::Direct,
            Outcome::Stored { reason: StoredReason::Transaction, .. } => Self::Transaction,
            Outcome::Stored { reason: StoredReason::PublishFailed, .. } => Self::PublishFailed,
            Outcome::Stored { reason: StoredReason::CircuitOpen, .. } => Self::CircuitOpen,
            Outcome::Stored { reason: StoredReason::LaneSpilled, .. } => Self::LaneSpilled,
            _ => Self::Other,
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "published directly",
            Self::Transaction => "stored with a transaction",
            Self::PublishFailed => "stored after waiting for the broker",
            Self::CircuitOpen => "stored at once, breaker open",
            Self::LaneSpilled => "stored behind older events",
            Self::Other => "on another way",
        })
    }
}

impl Ledger {
    pub(crate) fn accepted(&mut self, order: &OrderChange, receipt: &Receipt, latency: Duration) {
        let id = receipt.event_id.to_string();
        let path = Path::of(&receipt.outcome);
        self.accepted.push(Accepted { id, customer: order.customer.clone(), path, latency });
    }

    pub(crate) fn rolled_back(&mut self, receipt: &Receipt) {
        self.rolled_back.push(receipt.event_id.to_string());
    }

    /// What became of the events since the last summary.
    pub(crate) fn summary(&mut self) -> String {
        let (accepted, rolled_back) = self.summed_up;
        self.summed_up = (self.accepted.len(), self.rolled_back.len());
        let mut parts: Vec<_> = by_path(&self.accepted[accepted..])
            .map(|(path, latencies)| {
                let slowest = latencies.iter().copied().fold(0.0, f64::max);
                format!("{} {path} ({slowest:.1} ms at most)", latencies.len())
            })
            .collect();
        if self.rolled_back.len() > rolled_back {
            parts.push(format!("{} rolled back", self.rolled_back.len() - rolled_back));
        }
        parts.join("\n   ")
    }

    pub(crate) fn print_table(&self) {
        println!("{:<36} {:>6} {:>10} {:>10} {:>10}", "path taken", "events", "first ms", "last ms", "slowest ms");
        for (path, latencies) in by_path(&self.accepted) {
            let slowest = latencies.iter().copied().fold(0.0, f64::max);
            if let [first, .., last] | [first @ last] = latencies[..] {
                println!("{path:<36} {:>6} {first:>10.1} {last:>10.1} {slowest:>10.1}", latencies.len());
            }
        }
    }
}

/// The latencies in milliseconds on each path that was taken.
fn by_path(events: &[Accepted]) -> impl Iterator<Item = (Path, Vec<f64>)> {
    let latencies = |path| {
        let events = events.iter().filter(move |event| event.path == path);
        (path, events.map(|event| event.latency.as_secs_f64() * 1e3).collect::<Vec<_>>())
    };
    Path::ALL.into_iter().map(latencies).filter(|(_, latencies)| !latencies.is_empty())
}
