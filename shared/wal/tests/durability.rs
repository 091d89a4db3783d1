//! A local log acknowledges nothing that was not synced.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::process::{Command, Stdio};

use redkite_wal::{LocalLogStore, LocalOptions, LogStore as _};

/// Set for the process that is traced; names its directory.
const TRACED_DIR: &str = "REDKITE_TEST_TRACED_DIR";
const TRACED_WRITES: usize = 50;

/// Not a test of its own: what the process does whose system calls are counted.
#[tokio::test]
async fn traced_process() {
    let Some(dir) = std::env::var_os(TRACED_DIR) else {
        return;
    };
    let store = LocalLogStore::new(dir, LocalOptions::default());
    let log = store.open("traced", 1).await.unwrap();
    for number in 0..TRACED_WRITES {
        log.append(format!("record {number}").into()).await.unwrap();
    }
    log.close().await;
}

#[test]
fn the_kernel_sees_a_sync_for_every_acknowledged_append() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let traced = Command::new("strace")
        .args(["--follow-forks", "--trace=fdatasync", "--output"])
        .arg(&trace)
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "traced_process"])
        .env(TRACED_DIR, dir.path().join("logs"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    let Ok(status) = traced else {
        println!("skipped: there is no strace here");
        return;
    };
    if !status.success() {
        println!("skipped: strace may not trace here");
        return;
    }
    let trace = std::fs::read_to_string(&trace).unwrap();
    let syncs = trace
        .lines()
        .filter(|line| line.contains("fdatasync") && line.ends_with("= 0"))
        .count();
    assert!(
        syncs >= TRACED_WRITES,
        "{syncs} syncs for {TRACED_WRITES} appends"
    );
}
