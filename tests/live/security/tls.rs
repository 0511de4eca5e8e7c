//! Old versions of TLS.

use std::path::Path;
use std::process::Stdio;

use tidings::{Emitter, ErrorKind};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::secured;
use crate::support::events::Sequence;

/// A server that speaks nothing newer than TLS 1.1, and where.
async fn old_server(certificates: &Path) -> (Child, String) {
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", "127.0.0.1:0", "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"])
        .args(["-cert", "server.pem", "-key", "server.key"])
        .current_dir(certificates)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    loop {
        let line = lines.next_line().await.unwrap().expect("the server says where it listens");
        if let Some(address) = line.strip_prefix("ACCEPT ") {
            let address = address.to_owned();
            // It stops when nobody listens to it.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return (server, address);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_speaks_nothing_newer_than_tls_1_1_is_not_trusted() {
    let secured = secured!();
    let (_server, address) = old_server(&secured.certificates).await;
    let args = ["s_client", "-connect", &address, "-tls1_1", "-cipher", "DEFAULT:@SECLEVEL=0"];
    let client = Command::new("openssl").args(args).stdin(Stdio::null()).output().await.unwrap();
    let spoken = String::from_utf8_lossy(&client.stdout);
    assert!(spoken.contains("New, TLSv1.0, Cipher is ECDHE"), "an old client is served: {spoken}");
    let producer = secured.builder(&secured.trusting(&address)).build().await.unwrap();
    let error = producer.emit(Sequence::of("tenant-1").next().request()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
}
