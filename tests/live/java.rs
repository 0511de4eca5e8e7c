//! What only Apache Kafka's own client can do: programs in Java, of `tests/strangers/java`.

use std::path::Path;

use tokio::process::Command;

/// Runs the program of this name with the jars of this folder, and yields what it has printed.
pub(crate) async fn run(jars: &str, program: &str, arguments: &[&str]) -> Vec<u8> {
    let source =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/strangers/java").join(program).with_extension("java");
    let mut command = Command::new("java");
    let output = command.args(["-cp", jars]).arg(source).args(arguments).kill_on_drop(true).output().await.unwrap();
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
