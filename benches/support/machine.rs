//! What a bench ran on. Linux only, as `scripts/services` is.

use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

/// Cores, CPU and memory.
pub(crate) fn hardware() -> Value {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let processors = read("/proc/cpuinfo");
    let model = processors.lines().find_map(|line| Some(line.strip_prefix("model name")?.split_once(": ")?.1));
    let memory = field(&read("/proc/meminfo"), "MemTotal:").map(|kilobytes| (kilobytes / 1024.0).round());
    json!({ "cores": cores, "cpu": model, "memory_mb": memory })
}

/// What this was built of. Brokers don't tell their version: `scripts/bench` does.
#[expect(clippy::disallowed_methods, reason = "a bench is told what it runs beside")]
pub(crate) fn versions() -> Value {
    let commit = output("git", &["rev-parse", "--short", "HEAD"]).map(|commit| {
        let changed =
            output("git", &["status", "--porcelain", "--untracked-files=no"]).is_some_and(|it| !it.is_empty());
        if changed { commit + " with changes" } else { commit }
    });
    json!({
        "tidings": env!("CARGO_PKG_VERSION"),
        "commit": commit,
        "rustc": output("rustc", &["--version"]),
        "librdkafka": rdkafka::util::get_rdkafka_version().1,
        "kafka": std::env::var("KAFKA_VERSION").ok(),
    })
}

/// How busy the machine is: the average numbers of running processes over one, five and 15 minutes.
pub(crate) fn load() -> String {
    read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" ")
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The CPU time that a process has taken, by its id or `self`.
pub(crate) fn cpu_time(process: &str) -> Duration {
    /// A hundredth of a second on every Linux there is: `getconf CLK_TCK`.
    const TICK: Duration = Duration::from_millis(10);
    let stat = read(&format!("/proc/{process}/stat"));
    // Behind the command's name, which may have spaces, come the fields from the third on; these are 14 and 15.
    let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    TICK * fields.filter_map(|ticks| ticks.parse::<u32>().ok()).sum::<u32>()
}

/// The CPU time that this thread has taken, to the nanosecond.
pub(crate) fn thread_time() -> Duration {
    let taken = read("/proc/thread-self/schedstat").split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(taken.expect("Linux counts the time of a thread"))
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A number of a file of /proc that has one `name: number` a line.
pub(crate) fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
