//! A whole worker set in one process: four replicas with journals, their worker, and a scheduler in front
//! of them, over loopback.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use quorate::{
    config::{Config, Durability, FunctionConfig, Functions, Replication},
    engine::Engine,
    hex,
    pod::{PodSpec, Said},
    proto::{ReplicaStatusRequest, replica_client::ReplicaClient},
    queue::QueueName,
    receipt::{ExpressionReceipt, Keys},
    records::{Lookup, NewRecord, Outcome, Request},
    replica, scheduler,
    set::{Member, MemberState, SETS, SetRecord, SetState},
    sqlite::SqliteEngine,
    wires::Wires,
    worker,
};
use quorate_dag::Function;
use quorate_pbft::{
    Configuration, GroupId,
    crypto::{Identity, SeedRng},
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    net::TcpListener,
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);
const REPLICATED: Replication = Replication::Byzantine { f: 1 };

/// Five identities, replicas first. Making them takes a second, so the tests of a process share them.
fn identities() -> &'static [Vec<u8>] {
    static IDENTITIES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    IDENTITIES.get_or_init(|| {
        let mut rng = SeedRng::new([7; 32]);
        let make = |_| Identity::generate_bits(&mut rng, 2048).unwrap().to_pkcs8().to_vec();
        (0..5).map(make).collect()
    })
}

/// A pod on a runtime of its own: killing it takes its tasks, threads and connections.
struct Pod {
    runtime: Option<Runtime>,
    said: mpsc::UnboundedReceiver<Said>,
    ended: watch::Sender<bool>,
}

impl Pod {
    async fn said(&mut self) -> Said {
        let said = tokio::time::timeout(PATIENCE, self.said.recv()).await;
        said.expect("the pod says something in time").expect("the pod has not ended")
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.ended.send_replace(true);
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A set of the function `add`.
struct Set {
    folder: PathBuf,
    genesis: Configuration,
    peers: watch::Sender<Vec<Option<String>>>,
    status: Vec<String>,
    replicas: Vec<Option<Pod>>,
    worker: Option<Pod>,
    worker_address: String,
}

impl Set {
    async fn start(folder: &Path, limits: quorate_pbft::Limits) -> Self {
        let keys: Vec<_> =
            identities().iter().map(|der| Identity::from_pkcs8(der).unwrap().public_key().clone()).collect();
        for (i, der) in identities().iter().enumerate() {
            std::fs::write(folder.join(format!("{i}.der")), der).unwrap();
        }
        let genesis = Configuration {
            limits,
            ..Configuration::genesis(
                GroupId(*Uuid::now_v7().as_bytes()),
                keys[..4].to_vec(),
                vec![keys[4].clone()],
            )
        };
        let mut set = Self {
            folder: folder.into(),
            genesis,
            peers: watch::channel(vec![None; 4]).0,
            status: vec![String::new(); 4],
            replicas: (0..4).map(|_| None).collect(),
            worker: None,
            worker_address: String::new(),
        };
        for index in 0..4 {
            set.start_replica(index, 1).await;
        }
        set.start_worker(1).await;
        set
    }

    fn spec(&self, pod: String, index: Option<u32>, incarnation: u64) -> PodSpec {
        PodSpec {
            data: self.folder.join(&pod),
            pod,
            set: "add-0".into(),
            function: "add".into(),
            index,
            incarnation,
            replication: REPLICATED,
            genesis: Some(hex::encode(&self.genesis.to_bytes())),
            successions: Vec::new(),
            identity: Some(self.folder.join(format!("{}.der", index.unwrap_or(4)))),
            listen: "127.0.0.1:0".into(),
            transport: index.map(|_| "127.0.0.1:0".into()),
            resumes: incarnation > 1,
            durability: Durability::Process,
            slots: 256,
            tls: None,
        }
    }

    fn pod<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(watch::Receiver<bool>, mpsc::UnboundedSender<Said>) -> F,
    ) -> Pod {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (say, said) = mpsc::unbounded_channel();
        let (ended, ending) = watch::channel(false);
        runtime.spawn(run(ending, say));
        Pod { runtime: Some(runtime), said, ended }
    }

    async fn start_replica(&mut self, index: usize, incarnation: u64) {
        let name = format!("add-0-replica-{index}");
        let spec = self.spec(name, Some(u32::try_from(index).unwrap()), incarnation);
        let peers = self.peers.subscribe();
        let mut pod = Self::pod(|ending, say| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let transport = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let say = move |said: &Said| drop(say.send(said.clone()));
            replica::serve(spec, listener, transport, peers, ending, say).await.unwrap();
        });
        let Said::Listening { address, transport } = pod.said().await else { panic!("not listening") };
        assert_eq!(pod.said().await, Said::Ready);
        self.status[index] = address;
        self.peers.send_modify(|peers| peers[index] = transport);
        self.replicas[index] = Some(pod);
    }

    async fn start_worker(&mut self, incarnation: u64) {
        let spec = self.spec("add-0-worker".into(), None, incarnation);
        let peers = self.peers.subscribe();
        let mut pod = Self::pod(|ending, say| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let say = move |said: &Said| drop(say.send(said.clone()));
            worker::serve(spec, listener, peers, ending, say).await.unwrap();
        });
        let Said::Listening { address, .. } = pod.said().await else { panic!("not listening") };
        assert_eq!(pod.said().await, Said::Ready);
        self.worker_address = address;
        self.worker = Some(pod);
    }

    fn record(&self, incarnation: u64) -> SetRecord {
        SetRecord {
            name: "add-0".into(),
            function: Function::Add,
            replication: REPLICATED,
            state: SetState::Ready,
            worker: Member {
                pod: "add-0-worker".into(),
                state: MemberState::Ready,
                address: Some(self.worker_address.clone()),
                transport: None,
                pid: None,
                incarnation,
            },
            replicas: Vec::new(),
            genesis: Some(hex::encode(&self.genesis.to_bytes())),
            successions: Vec::new(),
            succession: None,
            ordered_ms: 0,
            start_ms: None,
        }
    }

    async fn primary(&self) -> usize {
        let mut client = ReplicaClient::connect(format!("http://{}", self.status[0])).await.unwrap();
        let status = client.status(ReplicaStatusRequest {}).await.unwrap().into_inner();
        status.primary as usize
    }
}

struct Platform {
    engine: Arc<dyn Engine>,
    _scheduler: Pod,
    set: Set,
    _folder: tempfile::TempDir,
}

impl Platform {
    async fn start() -> Self {
        Self::with(quorate_pbft::Limits::default()).await
    }

    async fn with(group: quorate_pbft::Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine: Arc<dyn Engine> =
            SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
        let config = Config {
            data: "unused".into(),
            listen: "127.0.0.1:0".parse().unwrap(),
            durability: Durability::Process,
            functions: Functions {
                add: FunctionConfig { replication: REPLICATED, ..FunctionConfig::default() },
                ..Functions::default()
            },
            ..Config::default()
        };
        let platform_engine = Arc::clone(&engine);
        let scheduler = Set::pod(|ending, _| async move {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            scheduler::run(Arc::new(config), platform_engine, Wires::plain(), listener, ending)
                .await
                .unwrap();
        });
        let set = Set::start(folder.path(), group).await;
        let platform = Self { engine, _scheduler: scheduler, set, _folder: folder };
        platform.register(1).await;
        platform
    }

    async fn register(&self, incarnation: u64) {
        let value = serde_json::to_vec(&self.set.record(incarnation)).unwrap();
        self.engine.store().put(&format!("{SETS}add-0"), value.into(), None).await.unwrap();
    }

    async fn submit(&self, expression: &str, receipt: bool) -> Uuid {
        let id = Uuid::now_v7();
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let request =
            Request { expression: expression.into(), parameters: BTreeMap::new(), digits: None, receipt };
        let record = NewRecord { id, request, deadline_ms: now + 60_000, expires_ms: now + 3_600_000 };
        let inbound = self.engine.queue(&QueueName::inbound()).await.unwrap();
        let message = serde_json::json!({ "id": id, "reply_to": format!("outbound-{id}") });
        self.engine.accept(record, &*inbound, message.to_string().into()).await.unwrap();
        id
    }

    async fn outcome(&self, id: Uuid) -> Outcome {
        let outbound = self.engine.queue(&QueueName::outbound(&id.to_string())).await.unwrap();
        assert_eq!(outbound.receive(1, PATIENCE, PATIENCE).await.unwrap().len(), 1);
        match self.engine.records().get(id).await.unwrap() {
            Lookup::Found(record) => record.outcome.expect("what is announced is finished"),
            other => panic!("{other:?}"),
        }
    }

    async fn eval(&self, expression: &str) -> Result<String, String> {
        let id = self.submit(expression, false).await;
        self.outcome(id).await.result.map_err(|failure| failure.kind)
    }
}

#[tokio::test]
async fn replicas_agree_on_results_and_one_may_be_killed_and_come_back() {
    let mut platform = Platform::start().await;
    assert_eq!(platform.eval("1+2").await, Ok("3".into()));
    // A backup: service continues without it.
    let backup = (platform.set.primary().await + 1) % 4;
    platform.set.replicas[backup].take().unwrap().kill();
    assert_eq!(platform.eval("1+2+3+4").await, Ok("10".into()));
    // It comes back with its journal and takes part again.
    platform.set.start_replica(backup, 2).await;
    assert_eq!(platform.eval("1+2+3").await, Ok("6".into()));
}

#[tokio::test]
async fn a_killed_primary_comes_back_from_its_journal_and_the_set_goes_on() {
    let mut platform = Platform::start().await;
    assert_eq!(platform.eval("1+2").await, Ok("3".into()));
    let primary = platform.set.primary().await;
    platform.set.replicas[primary].take().unwrap().kill();
    let id = platform.submit("4+5", false).await;
    platform.set.start_replica(primary, 2).await;
    assert_eq!(platform.outcome(id).await.result, Ok("9".into()));
}

#[tokio::test]
async fn a_killed_worker_is_replaced_by_its_next_incarnation() {
    let mut platform = Platform::start().await;
    assert_eq!(platform.eval("1+2").await, Ok("3".into()));
    platform.set.worker.take().unwrap().kill();
    let id = platform.submit("4+5", false).await;
    platform.set.start_worker(2).await;
    platform.register(2).await;
    assert_eq!(platform.outcome(id).await.result, Ok("9".into()));
}

#[tokio::test]
async fn a_receipt_proves_every_operation() {
    let platform = Platform::start().await;
    let id = platform.submit("1+4+(2+3)", true).await;
    assert_eq!(platform.outcome(id).await.result, Ok("10".into()));
    let bytes = platform.engine.records().receipt(id).await.unwrap().expect("it was asked for");
    let receipt = ExpressionReceipt::from_json(&bytes).unwrap();
    let replicas = platform.set.genesis.replicas.iter().map(|key| hex::encode(&key.to_der())).collect();
    let keys = Keys { sets: BTreeMap::from([("add-0".into(), replicas)]) };
    let verified = receipt.verify(Some(&keys)).unwrap();
    assert_eq!((verified.operations, verified.result.as_str(), verified.trusted), (3, "10", true));
}

#[tokio::test]
async fn many_operations_are_in_flight_at_once() {
    let platform = Platform::start().await;
    let text = (1..=1024).map(|term| term.to_string()).collect::<Vec<_>>().join("+");
    assert_eq!(platform.eval(&text).await, Ok((1024 * 1025 / 2).to_string()));
}

#[tokio::test]
async fn an_operation_that_the_group_never_takes_fails_at_once_and_says_why() {
    let limits = quorate_pbft::Limits { operation_bytes_max: 64, ..Default::default() };
    let platform = Platform::with(limits).await;
    assert_eq!(platform.eval("1+2").await, Ok("3".into()));
    let id = platform.submit(&format!("1{}+1", "0".repeat(200)), false).await;
    let failure = platform.outcome(id).await.result.unwrap_err();
    assert_eq!(failure.kind, "internal", "{}", failure.detail);
    assert!(failure.detail.contains("operation_bytes_max (64)"), "{}", failure.detail);
}
