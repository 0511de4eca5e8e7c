//! The clients of a producer.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

use super::known::{Key, Known};
use crate::error::Result;
use crate::transport::Transport;

/// Makes the transports: one for the direct path, one for the relay. The direct one must not stand behind a backlog.
pub(crate) type Connect = dyn Fn(Role) -> Result<Arc<dyn Transport>> + Send + Sync;

/// Who a transport is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Records are given up after a time: the caller waits.
    Direct,
    /// Records are never given up: a later one of the same key could then arrive without them.
    Relay,
}

#[derive(Clone)]
pub(crate) struct Transports {
    connect: Arc<Connect>,
    retire: fn(Arc<dyn Transport>),
}

impl Transports {
    pub(super) fn new(connect: Arc<Connect>) -> Self {
        Self { connect, retire }
    }

    /// The same transport for every role.
    pub(crate) fn fixed(transport: Arc<dyn Transport>) -> Self {
        Self::new(Arc::new(move |_| Ok(Arc::clone(&transport))))
    }

    /// Transports that are given up on the spot, without a thread.
    #[cfg(test)]
    pub(crate) fn without_threads(connect: Arc<Connect>) -> Self {
        Self { connect, retire: |client| client.retire() }
    }

    pub(crate) fn connect(&self, role: Role) -> Result<Arc<dyn Transport>> {
        (self.connect)(role)
    }

    /// Gives up a client and what it holds: each record is reported on soon, so nobody waits for it any longer.
    pub(crate) fn give_up(&self, client: Arc<dyn Transport>) {
        (self.retire)(client);
    }
}

impl std::fmt::Debug for Transports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transports")
    }
}

/// The client of the direct path, and how many there were before: one that failed for good, or whose records are given up, is
/// replaced.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) generation: u32,
}

/// The client that the direct path has at the moment.
#[derive(Debug)]
pub(super) struct DirectClient {
    transports: Transports,
    current: RwLock<Client>,
    /// The keys of the client of this generation.
    known: Mutex<(u32, Known)>,
}

impl DirectClient {
    pub(super) fn connect(transports: Transports) -> Result<Self> {
        let transport = transports.connect(Role::Direct)?;
        let known = Mutex::new((0, Known::new(Instant::now())));
        Ok(Self { transports, current: RwLock::new(Client { transport, generation: 0 }), known })
    }

    pub(super) fn transports(&self) -> &Transports {
        &self.transports
    }

    pub(super) fn current(&self) -> Client {
        // Nothing panics while it holds this lock.
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether the client of this generation has delivered something of the key.
    pub(super) fn knows(&self, generation: u32, key: Key, now: Instant) -> bool {
        let (of, known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *of == generation && known.has(key, now)
    }

    /// The client of this generation has delivered something of the key.
    pub(super) fn learn(&self, generation: u32, key: Key, now: Instant) {
        let (of, known) = &mut *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if *of < generation {
            (*of, *known) = (generation, Known::new(now));
        }
        if *of == generation {
            known.add(key);
        }
    }

    /// Replaces the client of this generation, unless somebody else has. The old one is given up.
    pub(super) fn replace(&self, generation: u32) {
        let old = {
            let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
            if current.generation != generation {
                return;
            }
            let transport = match self.transports.connect(Role::Direct) {
                Ok(transport) => transport,
                Err(error) => {
                    tracing::error!(%error, "a new client can't be made; the old one goes on");
                    return;
                }
            };
            if Arc::ptr_eq(&transport, &current.transport) {
                return;
            }
            std::mem::replace(&mut *current, Client { transport, generation: generation + 1 }).transport
        };
        self.transports.give_up(old);
    }
}

/// How often it is looked whether a client that was given up is still used.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Gives up a client, on a thread of its own: it may take a while, and so may its end.
fn retire(client: Arc<dyn Transport>) {
    let retiring = std::thread::Builder::new().name("tidings-retire".to_owned()).spawn(move || {
        client.retire();
        while Arc::strong_count(&client) > 1 {
            std::thread::sleep(LOOK_EVERY);
        }
    });
    if let Err(error) = retiring {
        tracing::error!(%error, "no thread to give up a client on; its records wait until their time is over");
    }
}
