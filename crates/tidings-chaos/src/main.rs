//! Several processes of a small service, relays and load, what kills them, and a check of what is left. `scripts/chaos` runs it;
//! docs/chaos.md says what it does.
#![allow(clippy::disallowed_methods, reason = "a program owns its tasks, reads its environment and looks at the clock")]
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program prints")]

mod brokers;
mod check;
mod events;
mod ledger;
mod load;
mod monkey;
mod order;
mod plan;
mod process;
mod roles;
mod run;
mod store;

use std::process::ExitCode;

const USAGE: &str =
    "usage: tidings-chaos run SECONDS SEED FOLDER | service NAME DATABASE FOLDER alone|relaying | relay DATABASE";

/// Ends a program with a word on why.
pub(crate) type Result<T, E = Box<dyn std::error::Error + Send + Sync>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ended = match arguments[..] {
        ["run", seconds, seed, folder] => run::run(seconds, seed, folder.as_ref()).await,
        ["service", name, database, folder, relays] => {
            roles::service(name, database, folder.as_ref(), relays == "relaying").await.map(|()| true)
        }
        ["relay", database] => roles::relay(database).await.map(|()| true),
        _ => Err(USAGE.into()),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}

/// An error and what it came from.
pub(crate) fn describe(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
