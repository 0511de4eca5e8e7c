//! What the benches share.

#![allow(dead_code, reason = "each bench uses its part of this")]

pub(crate) mod bare;
pub(crate) mod machine;
pub(crate) mod report;
