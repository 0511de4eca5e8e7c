//! What a bench ran on. Linux only, as `scripts/services` is.

use std::process::Command;

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

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// A number of a file of /proc that has one `name: number` a line.
pub(crate) fn field(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
}
