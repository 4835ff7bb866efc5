//! Faults under load: whatever dies, every request is answered, correctly, once, and what died is
//! replaced.

use quorate::tls::Role;
use quorate_tests::{BYZANTINE, Load, Mix, NONE, PATIENCE, Platform, Status, process};
use rustix::process::Signal;
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

/// Requests that are outstanding at any time.
const OUTSTANDING: usize = 16;

/// Answers before and after a fault, so that it strikes in the middle of work and work goes on.
const AROUND: u64 = 200;

/// A platform on which all four functions run.
async fn warm(config: &str) -> Platform {
    let platform = Platform::up(config).await;
    assert_eq!(platform.result("((3+5)*(4-2))/1").await, "16");
    platform
}

/// Lets a fault strike under load and says what became of the struck.
async fn strike(platform: &Platform, victim: &Status, signal: Signal) -> Status {
    let mut load = Load::start(platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    process::signal(victim.process(), signal);
    let successor = platform.replaced(victim).await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    successor
}

#[tokio::test]
async fn a_killed_worker_is_replaced_and_no_request_is_lost() {
    let platform = warm(BYZANTINE).await;
    let worker = platform.worker("mul").await;
    strike(&platform, &worker, Signal::KILL).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_killed_plain_worker_is_replaced_and_no_request_is_lost() {
    let platform = warm(NONE).await;
    let worker = platform.worker("add").await;
    strike(&platform, &worker, Signal::KILL).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_killed_backup_is_replaced_and_no_request_is_lost() {
    let platform = warm(BYZANTINE).await;
    let backup = platform.backup("mul").await;
    strike(&platform, &backup, Signal::KILL).await;
    // It takes part again: it can stand in for another.
    let other = platform
        .replicas("mul")
        .await
        .into_iter()
        .find(|r| r.primary == Some(false) && r.index != backup.index);
    strike(&platform, &other.expect("there are three backups"), Signal::KILL).await;
    platform.stop().await;
}

#[tokio::test]
async fn one_primary_after_another_is_killed_and_no_request_is_lost() {
    let platform = warm(BYZANTINE).await;
    for _ in 0..3 {
        let primary = platform.primary("add").await;
        let successor = strike(&platform, &primary, Signal::KILL).await;
        assert_eq!(successor.index, primary.index);
    }
    assert_eq!(platform.result("20+22").await, "42");
    platform.stop().await;
}

/// A platform whose control plane finds nothing that hangs for as long as a test takes.
async fn without_probes() -> Platform {
    warm(&format!("{BYZANTINE}[timeouts]\nprobe_every = \"1h\"\n")).await
}

#[tokio::test]
async fn a_stopped_primary_is_voted_out_without_the_control_plane() {
    let platform = without_probes().await;
    let stopped = platform.primary("mul").await;
    process::signal(stopped.process(), Signal::STOP);
    assert_eq!(platform.result("6*7").await, "42");
    let primary = platform
        .find("another primary", |s| s.set == stopped.set && s.primary == Some(true) && s.pid != stopped.pid)
        .await;
    assert!(primary.view > stopped.view, "{primary:?} leads after {stopped:?}");
    // It was not replaced, and when it goes on it follows.
    process::signal(stopped.process(), Signal::CONT);
    let follows = platform.find("the former primary in the new view", |s| {
        s.pid == stopped.pid && s.primary == Some(false) && s.view >= primary.view
    });
    assert_eq!(follows.await.incarnation, stopped.incarnation);
    assert_eq!(platform.result("2*21").await, "42");
    platform.stop().await;
}

#[tokio::test]
async fn a_stopped_primary_under_load_costs_no_request() {
    let platform = without_probes().await;
    let stopped = platform.primary("add").await;
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    process::signal(stopped.process(), Signal::STOP);
    load.answered(AROUND).await;
    process::signal(stopped.process(), Signal::CONT);
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_killed_control_plane_is_started_again_and_no_request_is_lost() {
    let platform = warm(BYZANTINE).await;
    let before = platform.status().await;
    let gateway = before.iter().find(|s| s.daemon == "gateway").expect("answered");
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    process::signal(gateway.process(), Signal::KILL);
    platform.find("another gateway", |s| s.daemon == "gateway" && s.pid != gateway.pid).await;
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    let pods = |all: &[Status]| {
        let mut pids: Vec<_> =
            all.iter().filter(|s| s.daemon == "worker" || s.daemon == "replica").map(|s| s.pid).collect();
        pids.sort_unstable();
        pids
    };
    assert_eq!(pods(&before), pods(&platform.status().await), "pods outlive the control plane");
    platform.stop().await;
}

#[tokio::test]
async fn a_set_whose_four_replicas_are_killed_at_once_comes_back_with_its_promises() {
    let platform = warm(BYZANTINE).await;
    let replicas = platform.replicas("sub").await;
    let mut load = Load::start(&platform, Mix::All, OUTSTANDING);
    load.answered(AROUND).await;
    for replica in &replicas {
        process::signal(replica.process(), Signal::KILL);
    }
    for replica in &replicas {
        platform.replaced(replica).await;
    }
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_stopped_backup_is_not_missed_by_requests_and_is_replaced() {
    let platform = warm(BYZANTINE).await;
    let backup = platform.backup("div").await;
    strike(&platform, &backup, Signal::STOP).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_stopped_worker_is_found_by_probes_and_replaced() {
    let platform = warm(BYZANTINE).await;
    let worker = platform.worker("add").await;
    strike(&platform, &worker, Signal::STOP).await;
    process::ended(worker.process()).await;
    platform.stop().await;
}

#[tokio::test]
async fn a_fault_of_one_function_is_not_felt_by_another() {
    let platform = warm(BYZANTINE).await;
    let worker = platform.worker("mul").await;
    let mut others = Load::start(&platform, Mix::Only("add"), 4);
    let mut struck = Load::start(&platform, Mix::Only("mul"), 4);
    others.answered(AROUND).await;
    struck.answered(AROUND).await;
    process::signal(worker.process(), Signal::KILL);
    platform.replaced(&worker).await;
    struck.answered(AROUND).await;
    others.answered(AROUND).await;
    struck.finish().await.assert_flawless();
    let others = others.finish().await;
    others.assert_flawless();
    // Far above a consensus round on a busy machine, far below the pause of a struck worker.
    assert!(others.slowest() < Duration::from_secs(2), "the slowest took {:?}", others.slowest());
    platform.stop().await;
}

#[tokio::test]
async fn a_fault_is_said_with_its_type() {
    let platform = warm(BYZANTINE).await;
    let victims = [
        (1, platform.worker("add").await),
        (2, platform.primary("sub").await),
        (3, platform.backup("mul").await),
    ];
    for (_, victim) in &victims {
        process::signal(victim.process(), Signal::KILL);
    }
    for (kind, victim) in &victims {
        platform.replaced(victim).await;
        let set = victim.set.as_deref().expect("is in a set");
        let member = victim.index.map_or("worker".into(), |index| format!("replica-{index}"));
        let said = format!("set={set} pod={set}-{member} kind={kind}");
        assert!(platform.log().iter().any(|line| line.contains(&said)), "{said} is not in the log");
    }
    platform.stop().await;
}

#[tokio::test]
async fn malformed_frames_close_their_connection_and_nothing_else() {
    let platform = warm(BYZANTINE).await;
    let victim = platform.backup("add").await;
    let ports = process::listening(victim.process());
    assert!(ports.len() >= 2, "its services and its transport: {ports:?}");
    let before = refused(&platform, &victim).await;
    let mut load = Load::start(&platform, Mix::All, 4);
    for port in ports {
        // From strangers, and from who belongs to the platform and has gone mad.
        let (role, name) = match victim.address.as_deref() == Some(&port.to_string()) {
            true => (Role::Control, "control"),
            false => (Role::Worker, "add-0-worker"),
        };
        let wires = platform.data.wires(role, name);
        for garbage in garbage() {
            let mad = wires.dial(port, &Role::Replica.name()).await.expect("is let in");
            is_closed(mad, &garbage).await.unwrap_or_else(|error| panic!("{port}: {error}"));
            let stranger = TcpStream::connect(port).await.expect("listens");
            is_closed(stranger, &garbage).await.unwrap_or_else(|error| panic!("{port}: {error}"));
        }
    }
    load.answered(AROUND).await;
    load.finish().await.assert_flawless();
    let after = platform.find("the same replica", |s| s.set == victim.set && s.index == victim.index).await;
    assert_eq!(
        (after.pid, after.incarnation, after.state.as_str()),
        (victim.pid, victim.incarnation, "ready")
    );
    assert!(refused(&platform, &victim).await > before, "what was refused is counted");
    platform.stop().await;
}

/// What a replica has refused so far, in all.
async fn refused(platform: &Platform, replica: &Status) -> u64 {
    use quorate::proto::{ReplicaStatusRequest, replica_client::ReplicaClient};
    let address = replica.address.as_deref().expect("listens");
    let wires = platform.data.wires(Role::Control, "control");
    let channel = wires.channel(address, Role::Replica.name(), PATIENCE).expect("an address");
    let mut client = ReplicaClient::new(channel);
    client.status(ReplicaStatusRequest {}).await.expect("answers").into_inner().refused.values().sum()
}

/// What no peer sends: noise of several lengths, a length that promises 4 GiB, another protocol.
fn garbage() -> Vec<Vec<u8>> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |length: usize| -> Vec<u8> {
        std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[0]
        })
        .take(length)
        .collect()
    };
    let mut all: Vec<_> = [1, 7, 64, 1000, 100_000].into_iter().map(&mut noise).collect();
    all.push(vec![0xff; 64]);
    all.push(vec![0; 4096]);
    all.push(b"GET / HTTP/1.1\r\nhost: replica\r\n\r\n".to_vec());
    all
}

/// Sends garbage and the end of it, and waits until the other side has closed too.
async fn is_closed(mut stream: impl AsyncRead + AsyncWrite + Unpin, garbage: &[u8]) -> std::io::Result<()> {
    // The other side may have closed before it has all.
    let _ = stream.write_all(garbage).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    match tokio::time::timeout(PATIENCE, stream.take(1 << 20).read_to_end(&mut answer)).await? {
        // However it ends, it ends.
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => Err(error),
        _ => Ok(()),
    }
}
