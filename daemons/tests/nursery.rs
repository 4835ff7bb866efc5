//! The supervisor's children: shell scripts in the place of pods.
#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

use quorate::{
    backend::{
        Backend, PodDaemon, PodEvent, RunningPod, Stop,
        process::{Nursery, Order, ProcessBackend, Program, Report},
    },
    pod::{PodSpec, Said, Told},
};
use std::{os::unix::fs::PermissionsExt, path::PathBuf, time::Duration};

/// A pod that says that it listens, then repeats what it is told, and ends with its input.
const ECHO: &str = r#"#!/bin/sh
echo '{"listening":{"address":"127.0.0.1:1","transport":null}}'
while read -r line; do
  case "$line" in *peers*) echo '"ready"';; esac
done
"#;

/// A pod that does not end when its input does.
const STUBBORN: &str = "#!/bin/sh\ntrap '' TERM INT HUP\necho '\"ready\"'\nwhile :; do sleep 1; done\n";

struct Fixture {
    nursery: Nursery,
    _folder: tempfile::TempDir,
}

fn nursery(script: &str) -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("pod");
    std::fs::write(&binary, script).unwrap();
    std::fs::set_permissions(&binary, std::fs::Permissions::from_mode(0o755)).unwrap();
    Fixture { nursery: Nursery::new(Program { binary, arguments: Vec::new() }), _folder: folder }
}

fn start(pod: &str, incarnation: u64) -> Order {
    Order::Start { daemon: PodDaemon::Worker, pod: pod.into(), incarnation, spec: PathBuf::from("/dev/null") }
}

async fn next(nursery: &mut Nursery) -> PodEvent {
    tokio::time::timeout(Duration::from_secs(20), nursery.next_event()).await.expect("something happens")
}

fn alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_pod_says_where_it_listens_is_told_its_peers_and_ends_with_its_pipe() {
    let Fixture { mut nursery, _folder } = nursery(ECHO);
    let started = nursery.carry_out(start("add-0-worker", 1));
    let [Report::Event(PodEvent::Started { pid: Some(pid), incarnation: 1, .. })] = started[..] else {
        panic!("{started:?}")
    };
    assert!(matches!(next(&mut nursery).await, PodEvent::Said { said: Said::Listening { .. }, .. }));
    nursery.carry_out(Order::Tell {
        pod: "add-0-worker".into(),
        told: Told::Peers { transports: vec![Some("127.0.0.1:2".into())] },
    });
    assert!(matches!(next(&mut nursery).await, PodEvent::Said { said: Said::Ready, .. }));
    let listed = nursery.carry_out(Order::List { question: 7 });
    let [Report::Running { question: 7, pods: running }] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!(running[0].said.len(), 2);
    nursery.carry_out(Order::Stop { pod: "add-0-worker".into(), how: Stop::Gently });
    assert!(matches!(next(&mut nursery).await, PodEvent::Ended { incarnation: 1, .. }));
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_pod_is_started_again_only_when_its_former_life_has_ended() {
    let Fixture { mut nursery, _folder } = nursery(ECHO);
    nursery.carry_out(start("add-0-worker", 1));
    assert!(nursery.carry_out(start("add-0-worker", 2)).is_empty());
    let mut events = Vec::new();
    loop {
        let event = next(&mut nursery).await;
        let last = matches!(event, PodEvent::Started { incarnation: 2, .. });
        events.push(event);
        if last {
            break;
        }
    }
    let ended = events.iter().position(|event| matches!(event, PodEvent::Ended { incarnation: 1, .. }));
    assert_eq!(ended, Some(events.len() - 2), "{events:?}");
    nursery.end_all().await;
}

#[tokio::test]
async fn a_pod_that_is_killed_is_reported_with_its_status() {
    let Fixture { mut nursery, _folder } = nursery(STUBBORN);
    nursery.carry_out(start("add-0-worker", 7));
    assert!(matches!(next(&mut nursery).await, PodEvent::Said { .. }));
    nursery.carry_out(Order::Stop { pod: "add-0-worker".into(), how: Stop::Now });
    let PodEvent::Ended { status, incarnation: 7, .. } = next(&mut nursery).await else { panic!() };
    assert!(status.contains("signal: 9"), "{status}");
}

#[tokio::test]
async fn a_pod_that_does_not_end_is_ended_by_force() {
    let Fixture { mut nursery, _folder } = nursery(STUBBORN);
    let started = nursery.carry_out(start("add-0-worker", 1));
    let [Report::Event(PodEvent::Started { pid: Some(pid), .. })] = started[..] else {
        panic!("{started:?}")
    };
    assert!(matches!(next(&mut nursery).await, PodEvent::Said { said: Said::Ready, .. }));
    tokio::time::timeout(Duration::from_secs(20), nursery.end_all()).await.expect("it ends");
    assert!(!alive(pid));
}

#[tokio::test]
async fn a_binary_that_can_t_be_run_is_a_pod_that_ended() {
    let mut nursery = Nursery::new(Program { binary: "/nowhere/quorate".into(), arguments: Vec::new() });
    let reports = nursery.carry_out(start("add-0-worker", 1));
    let [Report::Event(PodEvent::Ended { status, .. })] = &reports[..] else { panic!("{reports:?}") };
    assert!(status.contains("/nowhere/quorate"), "{status}");
}

#[tokio::test]
async fn a_list_of_pods_that_got_lost_is_asked_for_again() {
    let (orders, mut given) = tokio::sync::mpsc::unbounded_channel();
    let (reports, told) = tokio::sync::mpsc::unbounded_channel();
    let (backend, _events) = ProcessBackend::new(&PathBuf::from("/nowhere"), None, orders, told);
    let answering = tokio::spawn(async move {
        let Some(Order::List { .. }) = given.recv().await else { panic!("asks") };
        // No answer to the first.
        let Some(Order::List { question }) = given.recv().await else { panic!("asks again") };
        let pod = RunningPod { pod: "add-0-worker".into(), incarnation: 1, pid: None, said: Vec::new() };
        reports.send(Report::Running { question, pods: vec![pod] }).unwrap();
    });
    let listed = backend.list();
    let pods = tokio::time::timeout(Duration::from_secs(60), listed).await.expect("in time").unwrap();
    assert_eq!(pods[0].pod, "add-0-worker");
    answering.await.unwrap();
}

#[tokio::test]
async fn a_pod_whose_spec_can_t_be_written_is_a_pod_that_ended() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pods");
    std::fs::write(&file, "no folder").unwrap();
    let (orders, mut given) = tokio::sync::mpsc::unbounded_channel();
    let (_reports, told) = tokio::sync::mpsc::unbounded_channel();
    let (backend, mut events) = ProcessBackend::new(&file, None, orders, told);
    let spec = PodSpec { incarnation: 3, data: folder.path().join("data"), ..PodSpec::plain("add") };
    backend.start(PodDaemon::Worker, &spec).await.unwrap();
    let Some(PodEvent::Ended { pod, incarnation: 3, status }) = events.recv().await else { panic!() };
    assert_eq!(pod, "add-0-worker");
    assert!(status.contains(file.to_str().unwrap()), "{status}");
    assert!(given.try_recv().is_err(), "nothing is ordered");
}
