//! The programs that read and write events, and the line of JSON that is an event to them.

use std::io::{Seek, Write};
use std::process::Stdio;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::process::Command;

use crate::world::World;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The Python SDK.
    Python,
    /// The interface of the Python SDK's releases 1.x, which it still has.
    PythonV1,
    /// The Go SDK.
    Go,
}

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) kind: Kind,
    program: String,
}

/// A record as a peer has read it.
#[derive(Debug, Deserialize)]
pub(super) struct Read {
    pub(super) partition: i32,
    pub(super) offset: i64,
    /// Why it is not a CloudEvent; then there is nothing else.
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) mode: String,
    #[serde(default)]
    pub(super) attributes: Map<String, Value>,
    pub(super) data: Option<Value>,
}

impl Read {
    pub(super) fn id(&self) -> &str {
        self.attributes.get("id").and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether the data is this payload: to the byte, unless the peer has parsed it.
    pub(super) fn has_data(&self, payload: &[u8], is_json: bool) -> bool {
        let Some(data) = &self.data else { return false };
        if let Some(bytes) = data.get("base64") {
            return BASE64_STANDARD.decode(bytes.as_str().unwrap()).unwrap() == payload;
        }
        let parsed = data.get("json").or(data.get("text")).unwrap();
        if is_json {
            serde_json::from_slice::<Value>(payload).unwrap() == *parsed
        } else {
            parsed.as_str().unwrap().as_bytes() == payload
        }
    }
}

impl Peer {
    pub(super) fn new(kind: Kind, program: String) -> Self {
        Self { kind, program }
    }

    /// What is on the topic now, as the peer reads it.
    pub(super) async fn read(&self, world: &World) -> Vec<Read> {
        self.run("read", world, &[]).await
    }

    /// Has the peer write these lines to the topic. For each that its library does not write: why.
    pub(super) async fn write(&self, world: &World, lines: &[Value]) -> Vec<Option<String>> {
        #[derive(Deserialize)]
        struct Written {
            error: Option<String>,
        }
        let written: Vec<Written> = self.run("write", world, lines).await;
        assert_eq!(written.len(), lines.len());
        written.into_iter().map(|written| written.error).collect()
    }

    async fn run<T: for<'de> Deserialize<'de>>(&self, command: &str, world: &World, input: &[Value]) -> Vec<T> {
        const PYTHON: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/strangers/python/stranger.py");
        let before: &[&str] = match self.kind {
            Kind::Python => &[PYTHON],
            Kind::PythonV1 => &[PYTHON, "--v1"],
            Kind::Go => &[],
        };
        // A file, not a pipe: nobody has to write and read at a time.
        let mut file = tempfile::tempfile().unwrap();
        for line in input {
            writeln!(file, "{line}").unwrap();
        }
        file.rewind().unwrap();
        let output = Command::new(&self.program)
            .args(before)
            .args([command, &world.brokers, &world.topic])
            .stdin(Stdio::from(file))
            .kill_on_drop(true)
            .output()
            .await
            .unwrap();
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
        let lines = std::str::from_utf8(&output.stdout).unwrap().lines();
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }
}
