//! This bench in a process of its own: one that only relays, or only writes.

use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::latency::{self, Load};
use crate::support::machine;
use crate::world::{RunningRelay, Services, World};

/// The first argument of a child.
pub(crate) const ARGUMENT: &str = "--child";

/// What a child says when it is ready.
const READY: &str = "ready";

/// A process of this bench. It ends with this.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// One that relays what is in this world's outbox, until it is stopped.
    pub(crate) fn relay(world: &World) -> Self {
        Self::start(&["relay", &world.name])
    }

    /// One that stores events, and then says when each was committed.
    pub(crate) fn writer(world: &World, load: &Load) -> Self {
        Self::start(&["writer", &world.name, &load.to_text()])
    }

    fn start(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("a bench knows where it is");
        let mut command = Command::new(program);
        command.arg(ARGUMENT).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("a process can be started");
        let output = child.stdout.take().expect("its output is ours");
        Self { child, output: BufReader::new(output) }
    }

    pub(crate) async fn ready(&mut self) {
        let mut line = String::new();
        self.output.read_line(&mut line).await.expect("its output can be read");
        assert_eq!(line.trim(), READY, "the child has failed");
    }

    pub(crate) fn id(&self) -> String {
        self.child.id().expect("it runs").to_string()
    }

    /// Lets it end, and yields what else it has said.
    pub(crate) async fn end(mut self) -> String {
        drop(self.child.stdin.take());
        let mut said = String::new();
        self.output.read_to_string(&mut said).await.expect("its output can be read");
        let status = self.child.wait().await.expect("it can be waited for");
        assert!(status.success(), "the child has failed: {status}");
        said
    }
}

/// The main function of a child.
pub(crate) async fn run(services: &Services, role: &str, arguments: &[&str]) {
    match (role, arguments) {
        ("relay", [world]) => relay(&World::named(services, (*world).to_owned())).await,
        ("writer", [world, load]) => {
            let (world, load) = (World::named(services, (*world).to_owned()), Load::from_text(load));
            let writer = latency::Writer::new(&world).await;
            println!("{READY}");
            for (number, committed_at) in writer.write(load).await {
                println!("{number} {committed_at}");
            }
        }
        _ => panic!("no child is called {role} {arguments:?}"),
    }
}

async fn relay(world: &World) {
    let producer = world.producer().await;
    println!("{READY}");
    let relay = RunningRelay::of(&producer);
    tokio::io::stdin().read_to_end(&mut Vec::new()).await.expect("the parent closes it");
    relay.stop().await;
}

/// The most memory that a process ever had, in megabytes.
pub(crate) fn peak_memory_mb(process: &str) -> f64 {
    let status = machine::read(&format!("/proc/{process}/status"));
    machine::field(&status, "VmHWM:").expect("Linux counts the memory of a process") / 1024.0
}
