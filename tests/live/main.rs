//! The promises on a real Kafka and a real PostgreSQL, through kills, stops and cut connections.
//!
//! They want `KAFKA_BROKERS` and `DATABASE_URL`, and those of `security` some more, as `scripts/services env` prints them, and
//! what `scripts/strangers` prints; `scripts/test` sets everything up.
#![allow(clippy::disallowed_methods, reason = "tests are the callers who own the tasks and read the environment")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test an unwrap is an assertion, and its output is captured"
)]

#[path = "../support/support.rs"]
mod support;

mod broker;
mod direct;
mod dropping;
mod fencing;
mod from_sql;
mod gaps;
mod health;
mod history;
mod hostile;
mod idempotent;
mod instances;
mod java;
mod journaled;
mod lanes;
mod log;
mod migrating;
mod operating;
mod outage;
mod partitions;
mod poison;
mod pooler;
mod private;
mod privileges;
mod processes;
mod relay;
mod restarts;
mod retention;
#[cfg(any(feature = "tls", feature = "tls-vendored"))]
mod security;
mod sharing;
mod sick_database;
mod strangers;
mod transactional;
mod world;
