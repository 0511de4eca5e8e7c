//! A broker of the test's own, to be stopped and killed.

use std::collections::HashMap;
use std::env;
use std::process::Command;

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// One at a time: each takes half a gigabyte and, when it starts, all there is of the processor.
static TURN: Mutex<()> = Mutex::const_new(());

pub(crate) struct PrivateKafka {
    pub(crate) brokers: String,
    pid: String,
    directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl PrivateKafka {
    pub(crate) async fn start() -> Self {
        let turn = TURN.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let mut kafka = Self { brokers: String::new(), pid: String::new(), directory, _turn: turn };
        kafka.bring_up().await;
        kafka
    }

    /// Starts it, or starts it again: on the same port, with the same data.
    pub(crate) async fn bring_up(&mut self) {
        let mut start = self.services();
        let output =
            tokio::task::spawn_blocking(move || start.args(["start", "kafka"]).output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let variables: HashMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
        self.brokers = variables["KAFKA_BROKERS"].to_owned();
        self.pid = variables["KAFKA_PID"].to_owned();
    }

    /// Stops it without a word: connections stay open, and nothing answers.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    /// Kills it without a warning.
    pub(crate) fn kill(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, signal: &str) {
        let status = Command::new("kill").args([signal, &self.pid]).status().unwrap();
        assert!(status.success(), "kill {signal} {}", self.pid);
    }

    fn services(&self) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.env("TIDINGS_SERVICES_DIR", self.directory.path());
        command
    }
}

impl Drop for PrivateKafka {
    fn drop(&mut self) {
        // Nobody is left who could act on a failure.
        let _ = self.services().args(["stop", "kafka"]).output();
    }
}

/// The URL of the PostgreSQL that runs beside it, if the test's world has told that there is one.
pub(crate) fn database_url() -> String {
    env::var("DATABASE_URL").unwrap()
}
