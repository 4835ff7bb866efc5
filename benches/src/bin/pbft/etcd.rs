//! What a user would pick without Byzantine faults: etcd with three members, loaded by `put`.

use std::{
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde::{Deserialize, Serialize};
use tonic::{client::Grpc, codegen::http::uri::PathAndQuery, transport::Channel};
use tonic_prost::ProstCodec;

use crate::{
    Asked, Outcome,
    load::{Load, Measured, Meter, signal},
    process::{Process, cpu},
    report::{Report, Row},
};

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `etcdserverpb.PutResponse`; nothing in it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {}

/// What the client process is to do: to put, a key of its own for each that is outstanding.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Puts {
    endpoints: Vec<String>,
    outstanding: usize,
    value_bytes: usize,
    seconds: f64,
}

#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    outstanding: usize,
    value_bytes: usize,
    /// Its data are on a disk; else in memory (tmpfs), where a sync costs nothing.
    synced: bool,
    main: bool,
}

const SYNCED: Scenario =
    Scenario { name: "etcd, synced", outstanding: 256, value_bytes: 0, synced: true, main: true };
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "etcd, in memory", synced: false, ..SYNCED },
    SYNCED,
    Scenario { name: "etcd, in memory, one at a time", outstanding: 1, synced: false, main: false, ..SYNCED },
    Scenario { name: "etcd, in memory, 4 KiB", value_bytes: 4096, synced: false, main: false, ..SYNCED },
];
const MEMORY: &str = "/dev/shm";

pub(crate) fn names() -> impl Iterator<Item = String> {
    SCENARIOS.iter().map(|scenario| scenario.name.to_owned())
}

pub(crate) fn measure(asked: &Asked, report: &mut Report) -> Outcome<()> {
    for scenario in SCENARIOS.iter().filter(|scenario| asked.wants(scenario.name, scenario.main)) {
        if Command::new("etcd").arg("--version").stdout(Stdio::null()).status().is_err() {
            report.skip(scenario.name, "there is no program `etcd` (Debian: apt-get install etcd-server)");
        } else if !scenario.synced && !Path::new(MEMORY).is_dir() {
            report.skip(scenario.name, "there is no /dev/shm to keep its data in");
        } else {
            report.print(&run(scenario, asked.seconds())?)?;
        }
    }
    Ok(())
}

fn run(scenario: &Scenario, seconds: f64) -> Outcome<Row> {
    let place = if scenario.synced { std::env::temp_dir() } else { PathBuf::from(MEMORY) };
    let directory = tempfile::tempdir_in(place)?;
    let (mut processes, endpoints) = start(directory.path())?;
    let puts =
        Puts { endpoints, outstanding: scenario.outstanding, value_bytes: scenario.value_bytes, seconds };
    processes.push(Process::start(&["etcd-client", &serde_json::to_string(&puts)?])?);
    processes[3].expect("begin")?;
    let before = cpu(&processes)?;
    processes[3].expect("end")?;
    let after = cpu(&processes)?;
    let measured: Measured = serde_json::from_str(&processes[3].line()?)?;
    let client = processes.pop().ok_or("pushed above")?;
    client.finish()?;
    let load = Load {
        clients: scenario.outstanding,
        outstanding: 1,
        request_bytes: scenario.value_bytes,
        seconds,
        rate: None,
        connections: false,
        patient: false,
    };
    Ok(Row {
        cpu_us_per_op: Some((after - before).as_secs_f64() * 1e6 / measured.operations as f64),
        ..measured.row(scenario.name, &load)
    })
}

/// Starts three members, and says where clients reach them.
fn start(directory: &Path) -> Outcome<(Vec<Process>, Vec<String>)> {
    // Free a moment ago; etcd can't be handed a socket.
    let held = (0..6).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    let url = |socket: &TcpListener| Outcome::Ok(format!("http://{}", socket.local_addr()?));
    let urls = held.iter().map(url).collect::<Outcome<Vec<_>>>()?;
    drop(held);
    let (clients, peers) = urls.split_at(3);
    let members: Vec<_> = peers.iter().enumerate().map(|(index, url)| format!("m{index}={url}")).collect();
    let mut processes = Vec::new();
    for (index, (client, peer)) in clients.iter().zip(peers).enumerate() {
        let data = directory.join(format!("m{index}"));
        fs::create_dir(&data)?;
        let mut command = Command::new("etcd");
        command.args([
            "--name",
            &format!("m{index}"),
            "--log-level",
            "error",
            "--initial-cluster-state",
            "new",
        ]);
        command.args(["--initial-cluster", &members.join(",")]);
        command.args(["--listen-client-urls", client, "--advertise-client-urls", client]);
        command.args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]);
        command.arg("--data-dir").arg(data).stderr(Stdio::null());
        processes.push(Process::spawn(&mut command)?);
    }
    Ok((processes, clients.to_vec()))
}

/// The client process: one connection to each member, and puts that take turns with them.
pub(crate) fn client(puts: &Puts) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut members = Vec::new();
        for endpoint in &puts.endpoints {
            members.push(connect(endpoint).await?);
        }
        let begin = Instant::now() + Duration::from_secs(1);
        let end = begin + Duration::from_secs_f64(puts.seconds);
        let mut meter = Meter::new(begin, end)?;
        let value = Bytes::from(vec![7; puts.value_bytes]);
        let work = async {
            let invoke = |index: usize, due: Instant| {
                let (member, value) = (members[index % members.len()].clone(), value.clone());
                async move { put(member, index, value).await.map(|()| (index, due)) }
            };
            let now = Instant::now();
            let mut under_way: FuturesUnordered<_> =
                (0..puts.outstanding).map(|index| invoke(index, now)).collect();
            while let Some(answered) = under_way.next().await {
                let (index, due) = answered?;
                let now = meter.record(due);
                if now < end {
                    under_way.push(invoke(index, now));
                }
            }
            Outcome::Ok(())
        };
        let ((), done) = tokio::join!(signal(begin, end), work);
        done?;
        println!("{}", serde_json::to_string(&meter.measured())?);
        Ok(())
    })
}

/// Waits until a member takes a put: then the three have elected a leader.
async fn connect(endpoint: &str) -> Outcome<Grpc<Channel>> {
    let late = Instant::now() + Duration::from_secs(20);
    loop {
        let tried = async {
            let channel = Channel::from_shared(endpoint.to_owned())?.connect().await?;
            let member = Grpc::new(channel);
            put(member.clone(), 0, Bytes::new()).await?;
            Outcome::Ok(member)
        };
        match tried.await {
            Ok(member) => return Ok(member),
            Err(error) if Instant::now() > late => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn put(mut member: Grpc<Channel>, key: usize, value: Bytes) -> Outcome<()> {
    member.ready().await?;
    let request = tonic::Request::new(PutRequest { key: format!("key-{key}").into(), value });
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
    let codec = ProstCodec::<PutRequest, PutResponse>::default();
    member.unary(request, path, codec).await?;
    Ok(())
}
