//! What is done to the broker, or to the network before it.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

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

    /// Whether it is the network's, so that the proxy makes it.
    pub(crate) fn is_of_network(self) -> bool {
        !matches!(self, Self::Stopped | Self::Killed)
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

const DELAY: Duration = Duration::from_secs(4);
/// A cut connection has carried so much of what the client sends: the handshake, and a part of the first record.
const CUT_AFTER_BYTES: usize = 700;
const THROTTLED_BYTES_PER_SECOND: f64 = 4_000.0;

/// Carries connections to the broker, as badly as it is told.
#[derive(Debug)]
pub(crate) struct Proxy {
    state: Arc<State>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    /// 0, or one more than the index of a fault.
    fault: AtomicU8,
    changed: Notify,
}

impl State {
    fn fault(&self) -> Option<Fault> {
        let code = usize::from(self.fault.load(Ordering::SeqCst));
        code.checked_sub(1).map(|index| Fault::ALL[index])
    }
}

impl Proxy {
    pub(crate) async fn start(at: &str, to: &str) -> Self {
        let (listener, to) = (TcpListener::bind(at).await.expect("the port is free"), to.to_owned());
        let state = Arc::new(State::default());
        let task = tokio::spawn(accept(listener, to, Arc::clone(&state)));
        Self { state, task }
    }

    /// From now on this is wrong with the network, or nothing.
    pub(crate) fn set(&self, fault: Option<Fault>) {
        let index = fault.map(|fault| Fault::ALL.iter().position(|other| *other == fault).expect("all are in there"));
        let code = index.map_or(0, |index| u8::try_from(index + 1).expect("they are few"));
        self.state.fault.store(code, Ordering::SeqCst);
        self.state.changed.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: String, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let (to, state) = (to.clone(), Arc::clone(&state));
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            // When one direction ends, so does the other: both sides see the connection closed.
            tokio::select! {
                () = carry(from_client, to_server, &state, true) => {}
                () = carry(from_server, to_client, &state, false) => {}
            }
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, is_request: bool) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        let mut buffer = vec![0; 64 * 1_024];
        let mut carried = 0;
        loop {
            let changed = state.changed.notified();
            let silent = state.fault() == Some(Fault::Silent);
            let read = tokio::select! {
                () = changed => {
                    // A connection that the fault finds is cut at once.
                    if state.fault() == Some(Fault::Cut) {
                        return;
                    }
                    continue;
                }
                read = from.read(&mut buffer), if !silent => read,
            };
            let Ok(read @ 1..) = read else { return };
            let mut due = Instant::now();
            match state.fault() {
                Some(Fault::Slow) => due += DELAY,
                Some(Fault::Throttled) => {
                    sleep(Duration::from_secs_f64(read as f64 / THROTTLED_BYTES_PER_SECOND)).await
                }
                Some(Fault::Cut) if is_request => {
                    carried += read;
                    if carried > CUT_AFTER_BYTES {
                        return;
                    }
                }
                _ => {}
            }
            if sender.send((due, buffer[..read].to_vec())).is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
