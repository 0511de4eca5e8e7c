//! A network between the service and its services that can stop carrying without a word.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Carries connections to one address.
pub(crate) struct Proxy {
    pub(crate) port: u16,
    /// Connections of an older generation carry nothing any more, and are not closed either.
    generation: Arc<watch::Sender<u64>>,
    task: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn to(host: &str, port: u16) -> Self {
        Self::at("127.0.0.1", host, port).await
    }

    /// One that listens on this address.
    pub(crate) async fn at(address: &str, host: &str, port: u16) -> Self {
        let target = tokio::net::lookup_host((host, port)).await.unwrap().next().unwrap();
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let generation = Arc::new(watch::Sender::new(0));
        let task = tokio::spawn(accept(listener, target, Arc::clone(&generation)));
        Self { port, generation, task }
    }

    /// From now on the connections that there are carry nothing. New ones do.
    pub(crate) fn silence(&self) {
        self.generation.send_modify(|generation| *generation += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, generation: Arc<watch::Sender<u64>>) {
    while let Ok((client, _)) = listener.accept().await {
        let generation = generation.subscribe();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            let back = carry(from_server, to_client, generation.clone());
            tokio::join!(carry(from_client, to_server, generation), back);
        });
    }
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut generation: watch::Receiver<u64>) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            biased;
            // Silent for ever, with both ends open.
            _ = generation.changed() => std::future::pending().await,
            read = from.read(&mut buffer) => read,
        };
        match read {
            Ok(read) if read > 0 => {
                if to.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
            _ => return,
        }
    }
}
