//! Does what is planned, and undoes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tidings_faults::{Network, Proxy};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::Result;
use crate::brokers::Services;
use crate::ledger::now_ms;
use crate::plan::{Class, Fault, Step};
use crate::process::Process;

/// Everything that can be hurt.
pub(crate) struct World {
    pub(crate) services: Services,
    /// One before each broker, and the last before the database.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) processes: Vec<Arc<Process>>,
    pub(crate) relays: Vec<Arc<Process>>,
    /// The service with an outbox in a SQLite file, and the file.
    pub(crate) alone: Arc<Process>,
    pub(crate) file: PathBuf,
}

/// A fault that was, from its beginning until it was undone, in milliseconds of the epoch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incident {
    pub(crate) fault: Fault,
    pub(crate) began_ms: i64,
    pub(crate) ended_ms: i64,
}

impl Incident {
    /// Whether it was there at some time between these.
    pub(crate) fn overlaps(&self, from_ms: i64, to_ms: i64) -> bool {
        self.began_ms <= to_ms && self.ended_ms >= from_ms
    }
}

/// Carries out a plan. Faults of one class come one after another; those of others go on meanwhile. What could only begin after the
/// plan's time is left out.
pub(crate) async fn carry_out(world: &Arc<World>, plan: Vec<Step>, lasts: Duration) -> Result<Vec<Incident>> {
    let begin = Instant::now();
    let mut by_class: Vec<(Class, Vec<Step>)> = Vec::new();
    for step in plan {
        match by_class.iter_mut().find(|(class, _)| *class == step.fault.class()) {
            Some((_, steps)) => steps.push(step),
            None => by_class.push((step.fault.class(), vec![step])),
        }
    }
    let mut classes = JoinSet::new();
    for (_, steps) in by_class {
        let world = Arc::clone(world);
        classes.spawn(async move {
            let mut incidents = Vec::new();
            for step in steps {
                sleep_until(begin + step.at).await;
                if begin.elapsed() > lasts {
                    println!("{:7.1} s  {} is left out", begin.elapsed().as_secs_f64(), step.fault.name());
                    continue;
                }
                let began_ms = now_ms();
                println!("{:7.1} s  {} {:?}", begin.elapsed().as_secs_f64(), step.fault.name(), step.targets);
                let done = world.inflict(&step).await;
                done.map_err(|error| format!("{}: {error}", step.fault.name()))?;
                println!("{:7.1} s  {} {:?} is over", begin.elapsed().as_secs_f64(), step.fault.name(), step.targets);
                incidents.push(Incident { fault: step.fault, began_ms, ended_ms: now_ms() });
            }
            Ok::<_, String>(incidents)
        });
    }
    let mut incidents = Vec::new();
    while let Some(class) = classes.join_next().await {
        incidents.extend(class??);
    }
    Ok(incidents)
}

/// How often each fault was.
pub(crate) fn counts(incidents: &[Incident]) -> String {
    let mut counts: BTreeMap<&str, usize> = Fault::ALL.map(|fault| (fault.name(), 0)).into();
    for incident in incidents {
        *counts.entry(incident.fault.name()).or_default() += 1;
    }
    counts.into_iter().map(|(name, count)| format!(" {name}={count}")).collect()
}

impl World {
    async fn inflict(&self, Step { fault, targets, lasts, .. }: &Step) -> Result<()> {
        let target = targets.first().copied().unwrap_or_default();
        let brokers: Vec<String> = targets.iter().map(|target| format!("broker{}", target + 1)).collect();
        let brokers: Vec<&str> = brokers.iter().map(String::as_str).collect();
        match fault {
            Fault::KillBroker => self.restart(&brokers, "-KILL", *lasts).await,
            Fault::RestartBroker => self.restart(&brokers, "-TERM", *lasts).await,
            Fault::StopBroker => self.halt(&brokers, *lasts).await,
            Fault::KillPostgres => self.restart(&["postgres"], "-KILL", *lasts).await,
            Fault::StopPostgres => self.halt(&["postgres"], *lasts).await,
            Fault::KillService => kill(&self.processes[target], *lasts).await,
            Fault::StopService => halt(&self.processes[target], *lasts).await,
            Fault::KillRelay => kill(&self.relays[target], *lasts).await,
            Fault::StopRelay => halt(&self.relays[target], *lasts).await,
            Fault::CutConnections => self.disturb(target, Network::Cut { after_bytes: 700 }, *lasts).await,
            // From half a second to one and a half, each way.
            Fault::SlowConnections => self.disturb(target, Network::Slow(*lasts / 4), *lasts).await,
            Fault::DiskFull => self.fill_disk(*lasts).await,
            Fault::PinnedHorizon => self.pin_horizon(*lasts).await,
        }
    }

    async fn restart(&self, services: &[&str], signal: &str, lasts: Duration) -> Result<()> {
        for service in services {
            self.services.end(service, signal).await?;
        }
        sleep(lasts).await;
        self.services.start(services).await
    }

    async fn halt(&self, services: &[&str], lasts: Duration) -> Result<()> {
        for service in services {
            self.services.signal(service, "-STOP").await?;
        }
        sleep(lasts).await;
        for service in services {
            self.services.signal(service, "-CONT").await?;
        }
        Ok(())
    }

    async fn disturb(&self, target: usize, network: Network, lasts: Duration) -> Result<()> {
        self.proxies[target].set(network);
        sleep(lasts).await;
        self.proxies[target].set(Network::Well);
        Ok(())
    }

    /// A file of the service with SQLite can't grow beyond what its largest is: the database, its log, or anything else. The
    /// service gets the error of a disk that is full, without a file system of its own, for which one has to be root.
    async fn fill_disk(&self, lasts: Duration) -> Result<()> {
        let Some(pid) = self.alone.pid().await else { return Ok(()) };
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let log = self.file.with_extension("sqlite-wal");
        limit_files(pid, &size(&self.file).max(size(&log)).to_string()).await?;
        sleep(lasts).await;
        // If it was killed meanwhile, there is nothing to lift.
        drop(limit_files(pid, "unlimited").await);
        Ok(())
    }

    /// An open transaction with an id, which has a snapshot: nothing that is younger is over for whoever asks for the
    /// oldest one.
    async fn pin_horizon(&self, lasts: Duration) -> Result<()> {
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            // The database may be down just now, or go down meanwhile: then once more.
            let pinned = async {
                let mut connection = PgConnection::connect(&self.services.database).await?;
                let mut tx = connection.begin().await?;
                sqlx::query("set transaction isolation level repeatable read").execute(&mut *tx).await?;
                sqlx::query("select pg_current_xact_id()").execute(&mut *tx).await?;
                while Instant::now() < until {
                    sleep(Duration::from_millis(500)).await;
                    sqlx::query("select 1").execute(&mut *tx).await?;
                }
                tx.rollback().await
            };
            if pinned.await.is_err() {
                sleep(Duration::from_millis(500)).await;
            }
        }
        Ok(())
    }
}

/// Sets how large files of a process may become; who is not root may raise it again, too.
async fn limit_files(pid: u32, bytes: &str) -> Result<()> {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]).stderr(Stdio::null());
    let status = command.status().await?;
    if status.success() { Ok(()) } else { Err(format!("prlimit: {status}").into()) }
}

async fn kill(process: &Arc<Process>, lasts: Duration) -> Result<()> {
    process.kill().await?;
    sleep(lasts).await;
    process.start().await
}

async fn halt(process: &Process, lasts: Duration) -> Result<()> {
    process.signal("-STOP").await?;
    sleep(lasts).await;
    process.signal("-CONT").await
}
