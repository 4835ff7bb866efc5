//! Daemons that fail end, though whoever started them still holds their standard input.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use bytes::Bytes;
use quorate::{
    config::{Config, Durability},
    engine::Engine,
    pod::PodSpec,
    sqlite::SqliteEngine,
    supervisor::Brief,
};
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{io::AsyncWriteExt, process::Command};

const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the binary with a line on its standard input, which stays open, and says how it ended.
async fn code(arguments: &[&str], line: &str) -> Option<i32> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("it ends").unwrap();
    drop(stdin);
    ended.code()
}

/// A record that no version has written: the cluster service can't go on.
async fn spoil(state: &Path) {
    let engine = SqliteEngine::open(&state.join("quorate.db"), Durability::Process).unwrap();
    engine.store().put("sets/add-0", Bytes::from_static(b"?"), None).await.unwrap();
}

#[tokio::test]
async fn a_control_plane_of_which_a_daemon_failed_ends() {
    let folder = tempfile::tempdir().unwrap();
    spoil(folder.path()).await;
    let config = Config {
        data: folder.path().into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        durability: Durability::Process,
        ..Config::default()
    };
    let brief = Brief { config, state: folder.path().into(), restarts: 0, supervisor: std::process::id() };
    assert_eq!(code(&["control"], &serde_json::to_string(&brief).unwrap()).await, Some(3));
}

#[tokio::test]
async fn a_pod_that_failed_ends() {
    let folder = tempfile::tempdir().unwrap();
    let spec = PodSpec {
        // No host has this name.
        listen: "nowhere.invalid:0".into(),
        data: folder.path().join("data"),
        ..PodSpec::plain("add")
    };
    let path = folder.path().join("spec.json");
    std::fs::write(&path, serde_json::to_vec(&spec).unwrap()).unwrap();
    assert_eq!(code(&["worker", "--spec", path.to_str().unwrap()], "").await, Some(3));
}
