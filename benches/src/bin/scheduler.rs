//! How fast the scheduler runs expressions on plain workers: inbound to outbound, without HTTP.
//!
//! All of it is one process, so that the figures show what the scheduler costs and not what processes
//! cost: engine, scheduler, four plain workers on loopback, and the clients that submit and wait.

use clap::{Parser, value_parser};
use hdrhistogram::Histogram;
use quorate::{
    config::{Config, Durability, FunctionConfig, Functions, Replication},
    engine::Engine,
    pod::PodSpec,
    queue::QueueName,
    records::{NewRecord, Request},
    scheduler,
    set::{Member, MemberState, SETS, SetRecord, SetState},
    sqlite::SqliteEngine,
    wires::Wires,
    worker,
};
use quorate_dag::Function;
use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use uuid::Uuid;

/// How fast the scheduler runs expressions on plain workers: inbound to outbound, without HTTP
#[derive(Parser)]
struct Arguments {
    /// How long each row is measured
    #[arg(default_value_t = 3, value_parser = value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// What is evaluated; 1, 8, and 64 of it are under way at once
    #[arg(default_value = "((3+5)*(4/2))")]
    expression: String,
}

#[tokio::main]
async fn main() {
    let Arguments { seconds, expression } = Arguments::parse();
    let platform = Platform::start().await;
    println!("outstanding    per second   p10 µs   p50 µs   p99 µs   max µs   of {expression}");
    for outstanding in [1, 8, 64] {
        let figures = measure(&platform, &expression, outstanding, Duration::from_secs(seconds)).await;
        println!(
            "{outstanding:11} {:13.0} {:8} {:8} {:8} {:8}",
            figures.len() as f64 / Duration::from_secs(seconds).as_secs_f64(),
            figures.value_at_quantile(0.1),
            figures.value_at_quantile(0.5),
            figures.value_at_quantile(0.99),
            figures.max(),
        );
    }
}

struct Platform {
    engine: Arc<dyn Engine>,
    _shutdown: watch::Sender<bool>,
    _peers: watch::Sender<Vec<Option<String>>>,
    _folder: tempfile::TempDir,
}

impl Platform {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let engine: Arc<dyn Engine> =
            SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).expect("it opens");
        let (shutdown, ending) = watch::channel(false);
        let (peers, told) = watch::channel(Vec::new());
        for function in Function::ALL {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            let address = listener.local_addr().expect("it is bound").to_string();
            let spec = spec(function);
            let record = record(&spec, function, address);
            let key = format!("{SETS}{}", spec.set);
            let value = serde_json::to_vec(&record).expect("plain data");
            engine.store().put(&key, value.into(), None).await.expect("the store takes it");
            let (told, ending) = (told.clone(), ending.clone());
            tokio::spawn(async move { worker::serve(spec, listener, told, ending, |_| {}).await });
        }
        let plain = FunctionConfig { replication: Replication::None, ..FunctionConfig::default() };
        let functions = Functions { add: plain.clone(), sub: plain.clone(), mul: plain.clone(), div: plain };
        let config = Config {
            data: folder.path().into(),
            listen: "127.0.0.1:0".parse().expect("an address"),
            durability: Durability::Process,
            functions,
            ..Config::default()
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        tokio::spawn(scheduler::run(Arc::new(config), Arc::clone(&engine), Wires::plain(), listener, ending));
        Self { engine, _shutdown: shutdown, _peers: peers, _folder: folder }
    }
}

/// Each client submits a request and waits for its announcement, again and again.
async fn measure(platform: &Platform, text: &str, clients: u64, time: Duration) -> Histogram<u64> {
    let end = Instant::now() + time;
    let mut running = JoinSet::new();
    for _ in 0..clients {
        let (engine, text) = (Arc::clone(&platform.engine), text.to_owned());
        running.spawn(async move {
            let mut figures = Histogram::<u64>::new(3).expect("three digits");
            let reply_to = QueueName::outbound(&Uuid::now_v7().to_string());
            while Instant::now() < end {
                let start = Instant::now();
                request(&*engine, &text, &reply_to).await;
                figures
                    .record(u64::try_from(start.elapsed().as_micros()).expect("a short time"))
                    .expect("fits");
            }
            figures
        });
    }
    let mut all = Histogram::<u64>::new(3).expect("three digits");
    while let Some(figures) = running.join_next().await {
        all.add(figures.expect("a client does not panic")).expect("of one kind");
    }
    all
}

async fn request(engine: &dyn Engine, text: &str, reply_to: &QueueName) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis();
    let now = u64::try_from(now).expect("before the year 500 million");
    let id = Uuid::now_v7();
    let request =
        Request { expression: text.into(), parameters: Default::default(), digits: None, receipt: false };
    let record = NewRecord { id, request, deadline_ms: now + 60_000, expires_ms: now + 600_000 };
    let inbound = engine.queue(&QueueName::inbound()).await.expect("the engine answers");
    let message = serde_json::json!({ "id": id, "reply_to": reply_to.as_str() }).to_string();
    engine.accept(record, &*inbound, message.into()).await.expect("it is accepted");
    let outbound = engine.queue(reply_to).await.expect("the engine answers");
    let wait = Duration::from_secs(60);
    let hints = outbound.receive(1, wait, wait).await.expect("the engine answers");
    let handle = hints.first().expect("it is answered in time").handle.clone();
    outbound.delete(&[handle]).await.expect("the engine answers");
}

fn spec(function: Function) -> PodSpec {
    PodSpec { slots: FunctionConfig::default().slots, ..PodSpec::plain(function.name()) }
}

fn record(spec: &PodSpec, function: Function, address: String) -> SetRecord {
    SetRecord {
        name: spec.set.clone(),
        function,
        replication: Replication::None,
        state: SetState::Ready,
        worker: Member {
            pod: spec.pod.clone(),
            state: MemberState::Ready,
            address: Some(address),
            transport: None,
            pid: None,
            incarnation: 1,
        },
        replicas: Vec::new(),
        genesis: None,
        successions: Vec::new(),
        succession: None,
        ordered_ms: 0,
        start_ms: None,
    }
}
