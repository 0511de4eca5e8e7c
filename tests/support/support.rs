//! What the test binaries of all levels share.
#![allow(dead_code, reason = "each test binary uses its part of this")]

pub(crate) mod callers;
pub(crate) mod checker;
pub(crate) mod counting;
pub(crate) mod dropping;
pub(crate) mod events;
pub(crate) mod hostile;
pub(crate) mod journaled;
pub(crate) mod murmur2;
pub(crate) mod operating;
pub(crate) mod relaying;
pub(crate) mod topic;
pub(crate) mod waiting;
