//! What is done to the broker, or to the network before it.

use std::process::Command;
use std::time::Duration;

use tidings_faults::Network;

/// A fault, by the name that it has in the figures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The broker's process is stopped, and goes on later: connections stay open, nothing answers.
    Stopped,
    /// The broker's process is killed, and started again.
    Killed,
    /// What goes to and fro arrives four seconds late.
    Slow,
    /// Nothing is carried, and nobody hears of it.
    Silent,
    /// Every connection is cut after some bytes: in the middle of a request.
    Cut,
    /// Much less is carried than is sent.
    Throttled,
}

impl Fault {
    pub(crate) const ALL: [Self; 6] =
        [Self::Stopped, Self::Killed, Self::Slow, Self::Silent, Self::Cut, Self::Throttled];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Killed => "killed",
            Self::Slow => "slow",
            Self::Silent => "silent",
            Self::Cut => "cut",
            Self::Throttled => "throttled",
        }
    }

    /// How the network is, if the fault is the network's.
    pub(crate) fn network(self) -> Option<Network> {
        match self {
            Self::Stopped | Self::Killed => None,
            Self::Slow => Some(Network::Slow(Duration::from_secs(4))),
            Self::Silent => Some(Network::Silent),
            // The handshake, and a part of the first record.
            Self::Cut => Some(Network::Cut { after_bytes: 700 }),
            Self::Throttled => Some(Network::Throttled { bytes_per_second: 4_000 }),
        }
    }
}

pub(crate) fn signal(signal: &str, pid: &str) {
    let status = Command::new("kill").args([signal, pid]).status().expect("there is a `kill`");
    assert!(status.success(), "kill {signal} {pid}");
}

/// Starts the broker again, on its port and with its data. Yields its process.
pub(crate) async fn start_again() -> String {
    let start =
        || Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services")).args(["start", "kafka"]).output();
    let output = tokio::task::spawn_blocking(start).await.expect("it does not panic").expect("the script can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).expect("it is text");
    text.lines().find_map(|line| line.strip_prefix("KAFKA_PID=")).expect("it says which process it is").to_owned()
}
