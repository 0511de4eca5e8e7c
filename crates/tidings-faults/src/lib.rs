//! A bad network, for tests, benches and chaos: a proxy on loopback that slows down, falls silent, cuts and throttles.
#![allow(clippy::disallowed_methods, reason = "a proxy has a task for each connection")]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Network {
    /// It carries everything at once.
    #[default]
    Well,
    /// What goes to and fro arrives so much later.
    Slow(Duration),
    /// Nothing is carried, and nobody hears of it.
    Silent,
    /// Every connection is cut: those that are open at once, new ones when the client has sent so many bytes.
    Cut {
        /// How many.
        after_bytes: usize,
    },
    /// So much is carried in a second, each way.
    Throttled {
        /// How many.
        bytes_per_second: u32,
    },
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    network: Network,
    /// Connections of an older generation carry nothing any more, and are not closed either.
    generation: u64,
}

/// Carries connections to one address, as badly as it is told. They end when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens `at` an address, with port 0 on any free port, and carries `to` another.
    ///
    /// # Errors
    ///
    /// If the port is not free.
    pub async fn start(at: &str, to: &str) -> io::Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let address = listener.local_addr()?;
        let state = watch::Sender::new(State::default());
        let task = tokio::spawn(accept(listener, to.to_owned(), state.subscribe()));
        Ok(Self { address, state, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on the network is like this.
    pub fn set(&self, network: Network) {
        self.state.send_modify(|state| state.network = network);
    }

    /// From now on the connections that there are carry nothing. New ones do.
    pub fn silence_open(&self) {
        self.state.send_modify(|state| state.generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, to: String, state: watch::Receiver<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let (to, state) = (to.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(to).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let generation = state.borrow().generation;
            // When one direction ends, so does the other: both sides see the connection closed.
            tokio::select! {
                () = carry(from_client, to_server, state.clone(), generation, true) => {}
                () = carry(from_server, to_client, state, generation, false) => {}
            }
        });
    }
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut state: watch::Receiver<State>,
    generation: u64,
    is_request: bool,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        let mut buffer = vec![0; 64 * 1_024];
        let mut carried = 0;
        loop {
            let State { network, generation: newest } = *state.borrow_and_update();
            let silent = network == Network::Silent || newest != generation;
            let read = tokio::select! {
                biased;
                changed = state.changed() => {
                    // A connection that the fault finds is cut at once.
                    if changed.is_err() || matches!(state.borrow().network, Network::Cut { .. }) {
                        return;
                    }
                    continue;
                }
                read = from.read(&mut buffer), if !silent => read,
            };
            let Ok(read @ 1..) = read else { return };
            let mut due = Instant::now();
            match network {
                Network::Slow(delay) => due += delay,
                Network::Throttled { bytes_per_second } => {
                    sleep(Duration::from_secs_f64(read as f64 / f64::from(bytes_per_second))).await;
                }
                Network::Cut { after_bytes } if is_request => {
                    carried += read;
                    if carried > after_bytes {
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

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(200);

    /// A proxy before something that sends back what it gets.
    async fn echo() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start("127.0.0.1:0", &listener.local_addr().unwrap().to_string()).await.unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = client.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        proxy
    }

    async fn connect(proxy: &Proxy) -> TcpStream {
        TcpStream::connect(proxy.address()).await.unwrap()
    }

    /// Whether a byte comes back, or how the connection has ended.
    async fn answers(stream: &mut TcpStream) -> io::Result<bool> {
        stream.write_all(b"x").await?;
        Ok(stream.read(&mut [0; 1]).await? == 1)
    }

    #[tokio::test]
    async fn what_is_slow_arrives_late() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(answers(&mut stream).await.unwrap());
        proxy.set(Network::Slow(Duration::from_millis(100)));
        let begin = Instant::now();
        assert!(answers(&mut stream).await.unwrap());
        assert!(begin.elapsed() >= Duration::from_millis(200), "each way");
    }

    #[tokio::test]
    async fn a_silent_network_loses_nothing() {
        let proxy = echo().await;
        let mut stream = connect(&proxy).await;
        assert!(answers(&mut stream).await.unwrap());
        proxy.set(Network::Silent);
        assert!(timeout(NEVER, answers(&mut stream)).await.is_err());
        proxy.set(Network::Well);
        assert_eq!(timeout(SOON, stream.read(&mut [0; 1])).await.unwrap().unwrap(), 1);
    }

    #[tokio::test]
    async fn connections_that_are_silenced_stay_so_and_new_ones_are_well() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert!(answers(&mut old).await.unwrap());
        proxy.silence_open();
        assert!(timeout(NEVER, answers(&mut old)).await.is_err());
        assert!(timeout(SOON, answers(&mut connect(&proxy).await)).await.unwrap().unwrap());
    }

    #[tokio::test]
    async fn a_cut_ends_what_is_open_and_lets_new_ones_send_so_much() {
        let proxy = echo().await;
        let mut old = connect(&proxy).await;
        assert!(answers(&mut old).await.unwrap());
        proxy.set(Network::Cut { after_bytes: 1 });
        assert!(!matches!(timeout(SOON, old.read(&mut [0; 1])).await.unwrap(), Ok(1)));
        let mut new = connect(&proxy).await;
        assert!(timeout(SOON, answers(&mut new)).await.unwrap().unwrap());
        assert!(!matches!(timeout(SOON, answers(&mut new)).await.unwrap(), Ok(true)));
    }
}
