//! A group of four replica processes and one client process on loopback, under load.
//!
//! `pbft [--quick] [--json] [--only NAME]` runs every scenario, or those whose names contain NAME,
//! and prints a table, or one JSON object a line. It starts itself again for each process, and ends them all before it ends. CPU is what the kernel
//! accounts to the five processes while the load runs.

use std::{
    error::Error,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::Ipv4Addr,
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use quorate_pbft::{
    ClientId, Configuration, Context, Group, GroupId, Incarnation, Limits, Permutation, ReplicaId, Sequence,
    Service, State, View,
    crypto::{Identity, SeedRng},
    runtime::{
        AddressBook, JournalSetup, Link, LinkSetup, ReplicaSetup, SyncPolicy, generate_identities, serve,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Keys that the clients of a scenario take turns with: what is measured doesn't depend on how many
/// different ones there are, and 256 take seconds to generate.
const CLIENT_KEYS: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    clients: usize,
    /// Of each client.
    outstanding: usize,
    request_bytes: usize,
    journal: Option<SyncPolicy>,
    history: bool,
    /// The primary is killed in the middle.
    kills_primary: bool,
}

const EMPTY: Scenario = Scenario {
    name: "empty, 256 clients",
    clients: 256,
    outstanding: 1,
    request_bytes: 0,
    journal: None,
    history: true,
    kills_primary: false,
};

const SCENARIOS: &[Scenario] = &[
    EMPTY,
    Scenario { name: "empty, one client", clients: 1, outstanding: 256, ..EMPTY },
    Scenario { name: "empty, no history", history: false, ..EMPTY },
    Scenario { name: "one at a time", clients: 1, ..EMPTY },
    Scenario { name: "4 KiB", request_bytes: 4096, ..EMPTY },
    Scenario { name: "journal, synced", journal: Some(SyncPolicy::Data), ..EMPTY },
    Scenario { name: "journal, not synced", journal: Some(SyncPolicy::Process), ..EMPTY },
    Scenario { name: "primary killed", journal: Some(SyncPolicy::Data), kills_primary: true, ..EMPTY },
];

/// One line of `--json`.
#[derive(Serialize)]
struct Row {
    name: &'static str,
    clients: usize,
    outstanding: usize,
    request_bytes: usize,
    ops_per_s: f64,
    /// None when a process took its account with it.
    cpu_us_per_op: Option<f64>,
    p50_us: u64,
    p99_us: u64,
    /// The longest time without a reply to anybody.
    gap_ms: f64,
    /// From the start of the processes to the first reply.
    setup_ms: f64,
}

/// What the client process tells at the end.
#[derive(Serialize, Deserialize)]
struct Measured {
    operations: u64,
    seconds: f64,
    p50_us: u64,
    p99_us: u64,
    gap_us: u64,
}

/// Takes any operation and answers nothing.
struct Empty;

impl Service for Empty {
    fn execute(&self, _: &Context, _: &[u8], _: &mut State) -> Bytes {
        Bytes::new()
    }
}

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["replica", directory, index, journal] => replica(Path::new(directory), index.parse()?, journal),
        ["client", directory, clients, outstanding, request_bytes, seconds] => {
            let load = Load {
                clients: clients.parse()?,
                outstanding: outstanding.parse()?,
                request_bytes: request_bytes.parse()?,
                seconds: seconds.parse()?,
            };
            client(Path::new(directory), &load)
        }
        _ => {
            let (mut quick, mut json, mut only) = (false, false, "");
            let mut rest = arguments.iter();
            while let Some(argument) = rest.next() {
                match *argument {
                    "--quick" => quick = true,
                    "--json" => json = true,
                    "--only" => only = rest.next().ok_or("--only is followed by a part of a name")?,
                    other => return Err(format!("{other} is not --quick, --json or --only").into()),
                }
            }
            measure(quick, json, only)
        }
    }
}

fn measure(quick: bool, json: bool, only: &str) -> Outcome<()> {
    let seconds = if quick { 2.0 } else { 8.0 };
    let began = Instant::now();
    let mut rng = SeedRng::new(seed()?);
    let identities = generate_identities(4 + CLIENT_KEYS, &mut rng)?;
    let each = began.elapsed().as_secs_f64() * 1e3 / identities.len() as f64;
    if !json {
        println!("{} RSA identities on all processors: {each:.0} ms each\n", identities.len());
        println!(
            "{:<22}{:>8}{:>13}{:>9}{:>10}{:>11}{:>9}{:>9}{:>8}{:>11}",
            "",
            "clients",
            "outstanding",
            "bytes",
            "ops/s",
            "CPU µs/op",
            "p50 µs",
            "p99 µs",
            "gap ms",
            "set-up ms"
        );
    }
    for scenario in SCENARIOS.iter().filter(|scenario| scenario.name.contains(only)) {
        let row = run(scenario, &identities, rng.next_seed(), seconds)?;
        if json {
            println!("{}", serde_json::to_string(&row)?);
        } else {
            println!(
                "{:<22}{:>8}{:>13}{:>9}{:>10.0}{:>11}{:>9}{:>9}{:>8.0}{:>11.0}",
                row.name,
                row.clients,
                row.outstanding,
                row.request_bytes,
                row.ops_per_s,
                row.cpu_us_per_op.map_or("-".into(), |cpu| format!("{cpu:.1}")),
                row.p50_us,
                row.p99_us,
                row.gap_ms,
                row.setup_ms
            );
        }
    }
    Ok(())
}

/// Runs one scenario in a group of its own.
fn run(scenario: &Scenario, identities: &[Identity], group: [u8; 32], seconds: f64) -> Outcome<Row> {
    let directory = tempfile::tempdir()?;
    let (replicas, clients) = identities.split_at(4);
    let configuration = Configuration {
        group: GroupId(*group.first_chunk().ok_or("a seed has 32 bytes")?),
        number: 0,
        start: Sequence(0),
        operator: None,
        f: 1,
        replicas: replicas.iter().map(|identity| identity.public_key().clone()).collect(),
        clients: (0..scenario.clients)
            .map(|index| clients[index % CLIENT_KEYS].public_key().clone())
            .collect(),
        digest: Default::default(),
        permutation: Permutation::Seeded,
        history: scenario.history,
        limits: Limits::default(),
    };
    fs::write(directory.path().join("configuration"), configuration.to_bytes())?;
    for (index, identity) in identities.iter().enumerate() {
        fs::write(key_path(directory.path(), index), identity.to_pkcs8().as_slice())?;
    }
    let journal = match scenario.journal {
        None => "none",
        Some(SyncPolicy::Data) => "data",
        Some(SyncPolicy::Process) => "process",
    };
    let path = directory.path().to_str().ok_or("the temporary directory is not UTF-8")?.to_owned();
    let began = Instant::now();
    let mut processes = Vec::new();
    for index in 0..4 {
        processes.push(Process::start(&["replica", &path, &index.to_string(), journal])?);
    }
    let [clients, outstanding, bytes] =
        [scenario.clients, scenario.outstanding, scenario.request_bytes].map(|n| n.to_string());
    let lasts = seconds.to_string();
    processes.push(Process::start(&["client", &path, &clients, &outstanding, &bytes, &lasts])?);
    let mut book = String::new();
    for replica in &mut processes[..4] {
        book.push_str(&replica.line()?);
        book.push('\n');
    }
    for process in &mut processes {
        process.tell(&book)?;
    }
    processes[4].expect("first reply")?;
    let setup_ms = began.elapsed().as_secs_f64() * 1e3;
    processes[4].expect("begin")?;
    let before = cpu(&processes)?;
    let primary = Group::new(&configuration).primary(View(0)).index();
    let killed = scenario.kills_primary.then(|| {
        std::thread::sleep(Duration::from_secs_f64(seconds / 2.0));
        processes.remove(primary) // which is dropped, and so killed
    });
    let replicas = processes.len() - 1;
    drop(killed);
    processes[replicas].expect("end")?;
    let after = if scenario.kills_primary { None } else { Some(cpu(&processes)?) };
    let measured: Measured = serde_json::from_str(&processes[replicas].line()?)?;
    for process in processes {
        process.finish()?;
    }
    Ok(Row {
        name: scenario.name,
        clients: scenario.clients,
        outstanding: scenario.outstanding,
        request_bytes: scenario.request_bytes,
        ops_per_s: measured.operations as f64 / measured.seconds,
        cpu_us_per_op: after.map(|after| (after - before).as_secs_f64() * 1e6 / measured.operations as f64),
        p50_us: measured.p50_us,
        p99_us: measured.p99_us,
        gap_ms: measured.gap_us as f64 / 1e3,
        setup_ms,
    })
}

/// A child that is told things line by line, and killed when it is dropped.
struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl Process {
    fn start(arguments: &[&str]) -> Outcome<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().ok_or("the child's output is piped")?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    fn line(&mut self) -> Outcome<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err("a process of the benchmark ended early".into());
        }
        Ok(line.trim_end().to_owned())
    }

    fn expect(&mut self, expected: &str) -> Outcome<()> {
        let line = self.line()?;
        if line == expected { Ok(()) } else { Err(format!("{line}, not {expected}").into()) }
    }

    fn tell(&mut self, text: &str) -> Outcome<()> {
        let stdin = self.stdin.as_mut().ok_or("already told to end")?;
        stdin.write_all(text.as_bytes())?;
        Ok(stdin.flush()?)
    }

    fn finish(mut self) -> Outcome<()> {
        drop(self.stdin.take());
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(format!("a process ended with {status}").into()) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended already, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the kernel accounts to the processes so far, all their threads included.
fn cpu(processes: &[Process]) -> Outcome<Duration> {
    let mut total = 0;
    for process in processes {
        for task in fs::read_dir(format!("/proc/{}/task", process.child.id()))? {
            // Nanoseconds on a processor come first: proc(5), /proc/pid/schedstat.
            let stat = fs::read_to_string(task?.path().join("schedstat"))?;
            total += stat.split(' ').next().ok_or("schedstat is empty")?.parse::<u64>()?;
        }
    }
    Ok(Duration::from_nanos(total))
}

fn key_path(directory: &Path, index: usize) -> std::path::PathBuf {
    directory.join(format!("key-{index}"))
}

fn identity(directory: &Path, index: usize) -> Outcome<Identity> {
    Ok(Identity::from_pkcs8(&fs::read(key_path(directory, index))?)?)
}

fn configuration(directory: &Path) -> Outcome<Configuration> {
    Ok(Configuration::from_bytes(&fs::read(directory.join("configuration"))?)?)
}

/// 32 bytes of the operating system's.
fn seed() -> Outcome<[u8; 32]> {
    let mut seed = [0; 32];
    std::io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut seed)?;
    Ok(seed)
}

/// The addresses of the four replicas, as the parent tells them.
fn read_book() -> Outcome<AddressBook> {
    let lines = std::io::stdin().lines().take(4).collect::<Result<Vec<_>, _>>()?;
    Ok((0..).map(ReplicaId).zip(lines).collect())
}

fn replica(directory: &Path, index: u32, journal: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (book, peers) = watch::channel(AddressBook::default());
    let handle = runtime.block_on(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        println!("{}", listener.local_addr()?);
        let (configuration, id) = (configuration(directory)?, ReplicaId(index));
        let identity = identity(directory, id.index())?;
        let mut setup = ReplicaSetup::new(configuration, id, identity, listener, peers, seed()?);
        let sync = match journal {
            "data" => Some(SyncPolicy::Data),
            "process" => Some(SyncPolicy::Process),
            _ => None,
        };
        let path = directory.join(format!("journal-{index}"));
        setup.journal = sync.map(|sync| JournalSetup { path, sync, create: true });
        Outcome::Ok(serve(setup, Empty)?)
    })?;
    book.send_replace(read_book()?);
    // The parent closes our input when it is done, or when it dies.
    while std::io::stdin().read_line(&mut String::new())? > 0 {}
    runtime.block_on(handle.shutdown())?;
    Ok(())
}

struct Load {
    clients: usize,
    outstanding: usize,
    request_bytes: usize,
    seconds: f64,
}

fn client(directory: &Path, load: &Load) -> Outcome<()> {
    let configuration = configuration(directory)?;
    let identities =
        (0..CLIENT_KEYS).map(|index| identity(directory, 4 + index)).collect::<Outcome<Vec<_>>>()?;
    let (_book, peers) = watch::channel(read_book()?);
    let (transport, seed) = (Default::default(), seed()?);
    let link = Link::connect(LinkSetup { configuration, peers, seed, transport })?;
    let clients = (0..load.clients).map(|index| {
        let id = ClientId(u32::try_from(index)?);
        let identity = identities[index % CLIENT_KEYS].clone();
        let deadline = Duration::from_secs(30);
        Ok(link.client(id, identity, Incarnation(1), Default::default(), deadline)?)
    });
    let clients = clients.collect::<Outcome<Vec<_>>>()?;
    let operation = Bytes::from(vec![7; load.request_bytes]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        clients[0].invoke(operation.clone()).await?;
        println!("first reply");
        let measured = Duration::from_secs_f64(load.seconds);
        let begin = Instant::now() + measured.min(Duration::from_secs(1));
        let end = begin + measured;
        let mut loops = JoinSet::new();
        // When anybody had a reply last, and the longest time between two, in microseconds.
        let replied = Arc::new([const { AtomicU64::new(0) }; 2]);
        for client in clients.iter().flat_map(|client| std::iter::repeat_n(client, load.outstanding)) {
            let (client, operation, replied) = (client.clone(), operation.clone(), Arc::clone(&replied));
            loops.spawn(async move {
                let mut latencies = Vec::new();
                let mut now = Instant::now();
                while now < end {
                    client.invoke(operation.clone()).await?;
                    let done = Instant::now();
                    if now >= begin && done <= end {
                        latencies.push(done - now);
                        let at = u64::try_from((done - begin).as_micros()).unwrap_or(u64::MAX);
                        let [last, gap] = &*replied;
                        gap.fetch_max(at.saturating_sub(last.swap(at, Relaxed)), Relaxed);
                    }
                    now = done;
                }
                Ok::<_, quorate_pbft::runtime::ClientFailed>(latencies)
            });
        }
        tokio::time::sleep_until(begin.into()).await;
        println!("begin");
        tokio::time::sleep_until(end.into()).await;
        println!("end");
        let mut histogram = Histogram::<u64>::new(3)?;
        while let Some(latencies) = loops.join_next().await {
            for latency in latencies?? {
                histogram.record(u64::try_from(latency.as_micros())?)?;
            }
        }
        let measured = Measured {
            operations: histogram.len(),
            seconds: load.seconds,
            p50_us: histogram.value_at_quantile(0.5),
            p99_us: histogram.value_at_quantile(0.99),
            gap_us: replied[1].load(Relaxed),
        };
        println!("{}", serde_json::to_string(&measured)?);
        Ok(())
    })
}
