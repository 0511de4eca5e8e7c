//! The clients of a producer.

use std::sync::{Arc, PoisonError};

use super::Shared;
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
pub(crate) struct Transports(Arc<Connect>);

impl Transports {
    pub(super) fn new(connect: Arc<Connect>) -> Self {
        Self(connect)
    }

    /// The same transport for every role.
    pub(crate) fn fixed(transport: Arc<dyn Transport>) -> Self {
        Self(Arc::new(move |_| Ok(Arc::clone(&transport))))
    }
    pub(crate) fn connect(&self, role: Role) -> Result<Arc<dyn Transport>> {
        (self.0)(role)
    }
}

impl std::fmt::Debug for Transports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Transports")
    }
}

/// A client, and how many there were before: one that failed for good is replaced.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) transport: Arc<dyn Transport>,
    pub(super) generation: u32,
}

impl Shared {
    pub(super) fn client(&self) -> Client {
        // Nothing panics while it holds this lock.
        self.client.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the client of this generation, unless somebody else has.
    pub(super) fn replace_client(&self, generation: u32) {
        let mut client = self.client.write().unwrap_or_else(PoisonError::into_inner);
        if client.generation != generation {
            return;
        }
        match self.transports.connect(Role::Direct) {
            Ok(transport) => *client = Client { transport, generation: generation + 1 },
            Err(error) => tracing::error!(%error, "the client failed for good, and can't be replaced"),
        }
    }
}
