//! Processes that are started, stopped, killed and started again. Each is known by its id, and none outlives this one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::Duration;

use tokio::fs::OpenOptions;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use crate::Result;

/// A program in one of its roles, which runs or not.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) name: String,
    arguments: Vec<String>,
    variables: HashMap<&'static str, String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    /// Where it listens, when it does.
    port: AtomicU16,
    has_died: AtomicBool,
}

impl Process {
    pub(crate) fn new(
        name: &str,
        arguments: &[&str],
        variables: &HashMap<&'static str, String>,
        folder: &Path,
    ) -> Self {
        Self {
            name: name.to_owned(),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            variables: variables.clone(),
            log: folder.join(format!("{name}.log")),
            child: Mutex::default(),
            port: AtomicU16::new(0),
            has_died: AtomicBool::new(false),
        }
    }

    /// Where it listens; 0 if it never did.
    pub(crate) fn port(&self) -> u16 {
        self.port.load(Ordering::SeqCst)
    }

    /// Whether it has ever ended although nobody ended it.
    pub(crate) async fn has_died(&self) -> bool {
        self.notice(&mut *self.child.lock().await);
        self.has_died.load(Ordering::SeqCst)
    }

    fn notice(&self, child: &mut Option<Child>) {
        if let Some(running) = child
            && let Ok(Some(status)) = running.try_wait()
        {
            eprintln!("{} has ended by itself: {status}; see {}", self.name, self.log.display());
            self.has_died.store(true, Ordering::SeqCst);
            *child = None;
        }
    }

    /// Starts it, unless it runs, and does not wait until it is ready.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<()> {
        let mut child = self.child.lock().await;
        self.notice(&mut child);
        if child.is_some() {
            return Ok(());
        }
        // A group of its own, so that a ^C reaches this process alone, which then ends them.
        let mut started = Command::new(std::env::current_exe()?)
            .args(&self.arguments)
            .envs(&self.variables)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let (stdout, mut stderr) = started.stdout.take().zip(started.stderr.take()).ok_or("they are piped")?;
        let mut log = OpenOptions::new().create(true).append(true).open(&self.log).await?;
        log.write_all(b"--- started\n").await?;
        tokio::spawn(async move { tokio::io::copy(&mut stderr, &mut log).await });
        let this = Arc::clone(self);
        tokio::spawn(async move {
            if let Ok(Some(line)) = BufReader::new(stdout).lines().next_line().await {
                this.port.store(line.parse().unwrap_or_default(), Ordering::SeqCst);
            }
        });
        *child = Some(started);
        Ok(())
    }

    /// Kills it, and waits for its end.
    pub(crate) async fn kill(&self) -> Result<()> {
        let mut child = self.child.lock().await;
        self.notice(&mut child);
        if let Some(mut child) = child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Sends it a signal, if it runs.
    pub(crate) async fn signal(&self, name: &str) -> Result<()> {
        match self.pid().await {
            Some(pid) => signal(name, pid).await,
            None => Ok(()),
        }
    }

    pub(crate) async fn pid(&self) -> Option<u32> {
        self.child.lock().await.as_ref().and_then(Child::id)
    }

    /// Asks it to end. False if it does not in time, or fails.
    pub(crate) async fn end(&self, patience: Duration) -> Result<bool> {
        self.signal("-TERM").await?;
        let mut child = self.child.lock().await;
        self.notice(&mut child);
        let Some(mut child) = child.take() else { return Ok(true) };
        // `wait` closes its input, which would end it before it is done.
        let input = child.stdin.take();
        let ended = tokio::time::timeout(patience, child.wait()).await;
        drop(input);
        let well = matches!(ended, Ok(Ok(status)) if status.success());
        if !well {
            eprintln!("{} does not end as it is told: {ended:?}; see {}", self.name, self.log.display());
            child.kill().await?;
        }
        Ok(well)
    }
}

/// Sends a signal, or whatever `kill` calls one, to a process. One that has just ended is no error.
pub(crate) async fn signal(name: &str, pid: u32) -> Result<()> {
    Command::new("kill").args([name, &pid.to_string()]).stderr(Stdio::null()).status().await?;
    Ok(())
}

/// Whether a process runs, or is stopped.
pub(crate) fn is_alive(pid: u32) -> bool {
    state(pid).is_some_and(|(state, _)| !["Z", "X"].contains(&state.as_str()))
}

/// The state of a process, and its parent.
fn state(pid: u32) -> Option<(String, u32)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // What follows the name, which may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

/// The children of a process: PostgreSQL's have groups of their own.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|child| state(*child).is_some_and(|(_, parent)| parent == pid)).collect()
}
