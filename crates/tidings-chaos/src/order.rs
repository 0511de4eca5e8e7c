//! What the load asks a service to do, and what it answers.

use serde::{Deserialize, Serialize};

use crate::events::Kind;

/// Emit these events of a key.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Order {
    pub(crate) kind: Kind,
    pub(crate) key: String,
    pub(crate) ids: Vec<String>,
    pub(crate) way: Way,
}

/// How.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Way {
    /// One by one.
    Emit,
    Batch,
    /// In a transaction of the service's own, which stays open for a while.
    Transaction {
        commits: bool,
        open_ms: u64,
    },
}

/// What the service knows of each event, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) fates: Vec<Fate>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) enum Fate {
    Accepted,
    /// Failed, and it may be there all the same.
    Unknown,
    /// Failed, and it must not be there.
    Refused,
}
