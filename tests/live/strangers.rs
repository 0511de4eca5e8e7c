//! Other implementations of CloudEvents read what we publish, and we read what they publish; and records land where Apache
//! Kafka's own client would have put them.
//!
//! The strangers are the programs of `tests/strangers`. Where one gets something wrong, the test says so, and fails once it
//! does no more: nothing may be mended for a stranger's sake that the specification does not ask for.

mod cases;
mod partitions;
mod peer;
mod reading;
mod writing;
