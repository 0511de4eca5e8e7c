//! The real services, by scripts/services: three brokers and PostgreSQL.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::process::Command;
use tokio::time::sleep;

use crate::Result;
use crate::process::{children, is_alive, signal};

/// How long a broker may take to end as it is told.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Where everything is that scripts/services has started.
#[derive(Debug, Clone)]
pub(crate) struct Services {
    folder: PathBuf,
    /// The cluster, for the check.
    pub(crate) brokers: String,
    /// Where each broker listens for its proxy, and where that has to be.
    pub(crate) behind: Vec<String>,
    pub(crate) proxies: Vec<String>,
    /// The database, for the check.
    pub(crate) database: String,
}

impl Services {
    pub(crate) fn from_env() -> Result<Self> {
        let variable = |name: &str| std::env::var(name).map_err(|_| format!("{name} is missing: run scripts/chaos"));
        let list = |name: &str| variable(name).map(|text| text.split(',').map(str::to_owned).collect());
        Ok(Self {
            folder: variable("TIDINGS_SERVICES_DIR")?.into(),
            brokers: variable("CLUSTER_BROKERS")?,
            behind: list("CLUSTER_BEHIND_PROXY")?,
            proxies: list("CLUSTER_PROXY")?,
            database: variable("DATABASE_URL")?,
        })
    }

    /// The process of a service, dead or alive.
    fn pid(&self, service: &str) -> Result<u32> {
        let text = std::fs::read_to_string(self.folder.join(service).join("pid"))?;
        Ok(text.split(' ').next().ok_or("a pid")?.parse()?)
    }

    /// Signals a service, and the processes that serve its clients.
    pub(crate) async fn signal(&self, service: &str, name: &str) -> Result<()> {
        let pid = self.pid(service)?;
        signal(name, pid).await?;
        for child in children(pid) {
            signal(name, child).await?;
        }
        Ok(())
    }

    /// Ends a service by this signal, and waits until its process is gone: one that still runs would not be started again.
    pub(crate) async fn end(&self, service: &str, name: &str) -> Result<()> {
        let pid = self.pid(service)?;
        signal(name, pid).await?;
        let until = Instant::now() + END_PATIENCE;
        while is_alive(pid) {
            sleep(Duration::from_millis(20)).await;
            if Instant::now() > until {
                signal("-KILL", pid).await?;
            }
        }
        Ok(())
    }

    /// Starts services again, on their ports and with their data, and waits until they answer.
    pub(crate) async fn start(&self, services: &[&str]) -> Result<()> {
        let output = Command::new("scripts/services").arg("start").args(services).stdin(Stdio::null()).output().await?;
        if !output.status.success() {
            return Err(format!("{services:?} do not start: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(())
    }
}
