//! A pod as Kubernetes runs it: nobody holds a pipe, and who speaks with it comes and goes.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use quorate::pod::{PodSpec, Said};
use std::{net::SocketAddr, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
};

const PATIENCE: Duration = Duration::from_secs(20);

async fn free_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// What a pod says to whoever connects now.
async fn said(pod: SocketAddr) -> (Said, Said, BufReader<TcpStream>) {
    let connected = async {
        loop {
            match TcpStream::connect(pod).await {
                Ok(stream) => return BufReader::new(stream),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    let mut stream = tokio::time::timeout(PATIENCE, connected).await.expect("it listens");
    let mut next = async || {
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, stream.read_line(&mut line)).await.expect("in time").unwrap();
        serde_json::from_str(&line).unwrap()
    };
    (next().await, next().await, stream)
}

#[tokio::test]
async fn a_pod_outlives_who_speaks_with_it_and_ends_when_it_is_asked_to() {
    let folder = tempfile::tempdir().unwrap();
    let spec = PodSpec { data: folder.path().join("data"), ..PodSpec::plain("add") };
    let file = folder.path().join("spec.json");
    std::fs::write(&file, serde_json::to_vec(&spec).unwrap()).unwrap();
    let attach = free_port().await;
    let mut pod = Command::new(env!("CARGO_BIN_EXE_quorate"));
    pod.arg("worker").arg("--spec").arg(&file).arg("--attach").arg(attach.to_string());
    // As a container has it: at its end already.
    let mut pod = pod.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();

    let (listening, ready, first) = said(attach).await;
    assert!(matches!(listening, Said::Listening { .. }), "{listening:?}");
    assert_eq!(ready, Said::Ready);
    drop(first);
    let (again, _, mut second) = said(attach).await;
    assert_eq!(again, listening);

    let pid = pod.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().await.unwrap().success());
    let status = tokio::time::timeout(PATIENCE, pod.wait()).await.expect("it ends").unwrap();
    assert!(status.success(), "{status}");
    let mut rest = String::new();
    let read = tokio::time::timeout(PATIENCE, second.read_line(&mut rest)).await.expect("it is closed");
    assert_eq!(read.unwrap_or(0), 0);
    let mut printed = String::new();
    BufReader::new(pod.stdout.take().unwrap()).read_line(&mut printed).await.unwrap();
    assert_eq!(printed, "", "what it says goes to who connects");
}
