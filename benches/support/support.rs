//! What the benches share.

pub(crate) mod bare;
pub(crate) mod machine;
pub(crate) mod report;
