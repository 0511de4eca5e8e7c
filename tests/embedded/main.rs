//! The promises on librdkafka's mock cluster and a SQLite file: `cargo test` on a bare machine, no service needed.
#![allow(clippy::disallowed_methods, reason = "tests are the callers who own the tasks")]
#![allow(clippy::future_not_send, reason = "the mock cluster stays in the test's own task")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test an unwrap is an assertion, and its output is captured"
)]

#[path = "../support/support.rs"]
mod support;

mod api;
mod batches;
mod breaker;
mod client;
mod closing;
mod conformance;
mod direct;
mod dropping;
mod fenced;
mod health;
mod hostile;
mod journaled;
mod lib_streaming;
mod lifecycle;
mod load;
mod mocks;
mod operating;
mod order;
mod outage;
mod pipelining;
mod policy;
mod refusal;
mod refused_produce;
mod relay;
mod restart;
mod scripted;
mod sick_file;
mod tenants;
mod transactional;
mod world;
