//! Services of the test's own, to be stopped and killed.

use std::collections::HashMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio::sync::{Mutex, MutexGuard};

/// One at a time: a broker takes half a gigabyte and, when it starts, all there is of the processor.
static TURN: Mutex<()> = Mutex::const_new(());

pub(crate) struct Private {
    service: &'static str,
    /// A variable of `scripts/services`.
    setting: Option<(&'static str, &'static str)>,
    variables: HashMap<String, String>,
    directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Private {
    pub(crate) async fn kafka() -> Self {
        Self::start("kafka", None).await
    }

    /// One that does not make a topic because somebody asks for it.
    pub(crate) async fn kafka_without_new_topics() -> Self {
        Self::start("kafka", Some(("TIDINGS_AUTO_CREATE_TOPICS", "false"))).await
    }

    pub(crate) async fn postgres() -> Self {
        Self::start("postgres", None).await
    }

    async fn start(service: &'static str, setting: Option<(&'static str, &'static str)>) -> Self {
        let turn = TURN.lock().await;
        let directory = tempfile::tempdir().unwrap();
        let mut service = Self { service, setting, variables: HashMap::new(), directory, _turn: turn };
        service.bring_up().await;
        service
    }

    /// Starts it, or starts it again: on the same port, with the same data.
    pub(crate) async fn bring_up(&mut self) {
        let mut start = self.services("start");
        let output = tokio::task::spawn_blocking(move || start.output()).await.unwrap().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let variables = text.lines().filter_map(|line| line.split_once('='));
        self.variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    }

    pub(crate) fn brokers(&self) -> &str {
        &self.variables["KAFKA_BROKERS"]
    }

    pub(crate) fn database_url(&self) -> &str {
        &self.variables["DATABASE_URL"]
    }

    /// Where PostgreSQL keeps its data.
    pub(crate) fn data(&self) -> PathBuf {
        std::fs::read_to_string(self.directory.path().join("postgres/data-path")).unwrap().trim().into()
    }

    /// What the service has written to its log.
    pub(crate) fn log(&self) -> PathBuf {
        self.directory.path().join(self.service).join("log")
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
        let pid = &self.variables[if self.service == "kafka" { "KAFKA_PID" } else { "POSTGRES_PID" }];
        let status = Command::new("kill").args([signal, pid]).status().unwrap();
        assert!(status.success(), "kill {signal} {pid}");
    }

    fn services(&self, what: &str) -> Command {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services"));
        command.env("TIDINGS_SERVICES_DIR", self.directory.path()).args([what, self.service]).envs(self.setting);
        command
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Nobody is left who could act on a failure.
        let _ = self.services("stop").output();
    }
}

/// Copies a folder with all that is in it, owners included.
pub(crate) fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").args(["-a", "--"]).args([from, to]).status().unwrap();
    assert!(status.success(), "cp -a {} {}", from.display(), to.display());
}

/// The brokers of the Kafka that runs for all tests, if the test's world has told that there is one.
pub(crate) fn shared_brokers() -> String {
    env::var("KAFKA_BROKERS").unwrap()
}

/// The URL of the PostgreSQL that runs for all tests, likewise.
pub(crate) fn shared_database_url() -> String {
    env::var("DATABASE_URL").unwrap()
}
