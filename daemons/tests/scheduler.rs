//! The scheduler end to end: a real SQLite engine, real sockets, real plain workers.
//!
//! Schedulers and workers run on runtimes of their own, so that a test can kill one: its tasks and its
//! connections are gone at once, and nothing of it says good-bye.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use quorate::{
    config::{Config, Durability, FunctionConfig, Functions, Replication, Timeouts},
    engine::Engine,
    pod::PodSpec,
    proto::{
        self, InvokeRequest, InvokeResponse, SamplesRequest, cluster_server,
        function_server::{Function as FunctionService, FunctionServer},
        scheduler_client::SchedulerClient,
    },
    queue::QueueName,
    records::{Lookup, NewRecord, Outcome, Request},
    scheduler,
    set::{DAEMONS, DaemonRecord, Member, MemberState, SETS, SetRecord, SetState},
    sqlite::SqliteEngine,
    wires::Wires,
    worker,
};
use quorate_dag::Function;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    runtime::{Builder, Runtime},
    sync::{mpsc, watch},
};
use tonic::{Response, Status, Streaming, transport::server::TcpIncoming};
use uuid::Uuid;

/// Longer than anything here takes, and short enough to fail.
const PATIENCE: Duration = Duration::from_secs(30);

/// A part of the platform that can be killed.
struct Killable {
    runtime: Option<Runtime>,
    shutdown: watch::Sender<bool>,
    address: SocketAddr,
}

impl Killable {
    fn new<F: Future<Output = ()> + Send + 'static>(
        run: impl FnOnce(TcpListener, watch::Receiver<bool>) -> F,
    ) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (shutdown, ending) = watch::channel(false);
        let listener = {
            let _guard = runtime.enter();
            TcpListener::from_std(listener).unwrap()
        };
        runtime.spawn(run(listener, ending));
        Self { runtime: Some(runtime), shutdown, address }
    }

    fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Killable {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

struct Platform {
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    _folder: tempfile::TempDir,
}

fn config(slots: u32) -> Config {
    let function = FunctionConfig { replication: Replication::None, slots, ..FunctionConfig::default() };
    Config {
        data: "unused".into(),
        listen: "127.0.0.1:0".parse().unwrap(),
        durability: Durability::Process,
        functions: Functions {
            add: function.clone(),
            sub: function.clone(),
            mul: function.clone(),
            div: function,
        },
        timeouts: Timeouts { lease: Duration::from_millis(500), ..Timeouts::default() },
        ..Config::default()
    }
}

impl Platform {
    fn new(config: Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let engine = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
        Self { config: Arc::new(config), engine, _folder: folder }
    }

    fn scheduler(&self) -> Killable {
        let (config, engine) = (Arc::clone(&self.config), Arc::clone(&self.engine));
        Killable::new(|listener, ending| async move {
            scheduler::run(config, engine, Wires::plain(), listener, ending).await.unwrap();
        })
    }

    /// A plain worker, in the store as incarnation `incarnation` of the first set of its function.
    async fn worker(&self, function: Function, incarnation: u64) -> Killable {
        let spec = PodSpec {
            incarnation,
            slots: self.config.functions.of(function).slots,
            ..PodSpec::plain(function.name())
        };
        let worker = Killable::new(|listener, ending| async move {
            let (_peers, peers) = watch::channel(Vec::new());
            worker::serve(spec, listener, peers, ending, |_| {}).await.unwrap();
        });
        self.register(function, worker.address, incarnation).await;
        worker
    }

    async fn workers(&self) -> Vec<Killable> {
        let mut workers = Vec::new();
        for function in Function::ALL {
            workers.push(self.worker(function, 1).await);
        }
        workers
    }

    /// A worker that takes operations and never answers; says what it took.
    async fn mute_worker(&self, function: Function) -> (Killable, mpsc::UnboundedReceiver<proto::Operation>) {
        let (took, taken) = mpsc::unbounded_channel();
        let mute = move |mut requests: Streaming<InvokeRequest>, answers: Answers| {
            let took = took.clone();
            async move {
                while let Ok(Some(request)) = requests.message().await {
                    for operation in request.operations {
                        let _ = took.send(operation);
                    }
                }
                drop(answers);
            }
        };
        (self.scripted_worker(function, Scripted(mute)).await, taken)
    }

    /// A worker that takes a quarter of a second for the operations of a message, and answers 1 to each.
    async fn slow_worker(&self, function: Function) -> Killable {
        let slow = |mut requests: Streaming<InvokeRequest>, answers: Answers| async move {
            while let Ok(Some(request)) = requests.message().await {
                tokio::time::sleep(Duration::from_millis(250)).await;
                let one = quorate_dag::Value::from(1).to_bytes();
                let outcomes = request.operations.iter().map(|operation| proto::Outcome {
                    tag: operation.tag,
                    result: Some(proto::outcome::Result::Value(one.clone().into())),
                    ..proto::Outcome::default()
                });
                let _ = answers.send(Ok(InvokeResponse { outcomes: outcomes.collect() })).await;
            }
        };
        self.scripted_worker(function, Scripted(slow)).await
    }

    async fn scripted_worker(&self, function: Function, service: impl FunctionService) -> Killable {
        let worker = Killable::new(|listener, _| async move {
            let server = tonic::transport::Server::builder().add_service(FunctionServer::new(service));
            server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap();
        });
        self.register(function, worker.address, 1).await;
        worker
    }

    async fn register(&self, function: Function, address: SocketAddr, incarnation: u64) {
        let name = format!("{}-0", function.name());
        let record = SetRecord {
            function,
            replication: Replication::None,
            state: SetState::Ready,
            worker: Member {
                pod: format!("{name}-worker"),
                state: MemberState::Ready,
                address: Some(address.to_string()),
                transport: None,
                pid: None,
                incarnation,
            },
            replicas: Vec::new(),
            genesis: None,
            successions: Vec::new(),
            succession: None,
            ordered_ms: 0,
            start_ms: None,
            name: name.clone(),
        };
        let value = serde_json::to_vec(&record).unwrap();
        self.engine.store().put(&format!("{SETS}{name}"), value.into(), None).await.unwrap();
    }

    /// Accepts a request as a gateway does. Its answer is announced on a queue of its own.
    async fn submit(&self, request: Request, deadline: Duration) -> Uuid {
        let id = Uuid::now_v7();
        let now = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap();
        let record = NewRecord {
            id,
            request,
            deadline_ms: now + u64::try_from(deadline.as_millis()).unwrap(),
            expires_ms: now + 3_600_000,
        };
        let inbound = self.engine.queue(&QueueName::inbound()).await.unwrap();
        let message = serde_json::json!({ "id": id, "reply_to": format!("outbound-{id}") });
        self.engine.accept(record, &*inbound, message.to_string().into()).await.unwrap();
        id
    }

    async fn outcome(&self, id: Uuid) -> Outcome {
        let outbound = self.engine.queue(&QueueName::outbound(&id.to_string())).await.unwrap();
        let hints = outbound.receive(1, PATIENCE, PATIENCE).await.unwrap();
        assert_eq!(hints.len(), 1, "the answer was not announced");
        let hint: serde_json::Value = serde_json::from_slice(&hints[0].body).unwrap();
        assert_eq!(hint["id"], id.to_string());
        match self.engine.records().get(id).await.unwrap() {
            Lookup::Found(record) => record.outcome.expect("what is announced is finished"),
            other => panic!("{other:?}"),
        }
    }

    async fn eval(&self, expression: &str) -> Outcome {
        let id = self.submit(request(expression), PATIENCE).await;
        self.outcome(id).await
    }
}

fn request(expression: &str) -> Request {
    Request { expression: expression.into(), parameters: BTreeMap::new(), digits: None, receipt: false }
}

fn sum(terms: u32) -> (String, String) {
    let text = (1..=terms).map(|term| term.to_string()).collect::<Vec<_>>().join("+");
    (text, (terms * (terms + 1) / 2).to_string())
}

/// A worker that does with the operations of a stream what a test says, and answers as it says, or not at all.
struct Scripted<F>(F);

type Answers = mpsc::Sender<Result<InvokeResponse, Status>>;

#[tonic::async_trait]
impl<F, Done> FunctionService for Scripted<F>
where
    F: Fn(Streaming<InvokeRequest>, Answers) -> Done + Send + Sync + 'static,
    Done: Future<Output = ()> + Send + 'static,
{
    type InvokeStream = tokio_stream::wrappers::ReceiverStream<Result<InvokeResponse, Status>>;

    async fn invoke(
        &self,
        request: tonic::Request<Streaming<InvokeRequest>>,
    ) -> Result<Response<Self::InvokeStream>, Status> {
        let (answers, answered) = mpsc::channel(1);
        tokio::spawn((self.0)(request.into_inner(), answers));
        Ok(Response::new(tokio_stream::wrappers::ReceiverStream::new(answered)))
    }
}

#[tokio::test]
async fn the_example_is_sixteen() {
    let platform = Platform::new(config(256));
    let (_workers, _scheduler) = (platform.workers().await, platform.scheduler());
    let outcome = platform.eval("((3+5)*(4/2))").await;
    assert_eq!(outcome.result, Ok("16".into()));
    assert_eq!(outcome.nodes, 3);
    let mut sets: Vec<_> = outcome.timeline.iter().map(|run| run.set.as_str()).collect();
    assert_eq!(sets.pop(), Some("mul-0"));
    sets.sort_unstable();
    assert_eq!(sets, ["add-0", "div-0"]);
    assert!(outcome.timeline.iter().all(|run| run.start_ms <= run.end_ms));
}

#[tokio::test]
async fn parameters_and_digits_are_honoured() {
    let platform = Platform::new(config(256));
    let (_workers, _scheduler) = (platform.workers().await, platform.scheduler());
    let parameters = BTreeMap::from([("a".into(), "2".into()), ("b".into(), "1/3".into())]);
    let exact = Request { parameters: parameters.clone(), ..request("a*(b+1)") };
    let id = platform.submit(exact, PATIENCE).await;
    assert_eq!(platform.outcome(id).await.result, Ok("8/3".into()));
    let rounded = Request { parameters, digits: Some(5), ..request("a*(b+1)") };
    let id = platform.submit(rounded, PATIENCE).await;
    assert_eq!(platform.outcome(id).await.result, Ok("2.66667".into()));
}

#[tokio::test]
async fn an_expression_without_operations_is_its_own_answer() {
    let platform = Platform::new(config(256));
    let _scheduler = platform.scheduler();
    assert_eq!(platform.eval("-(5)").await.result, Ok("-5".into()));
}

#[tokio::test]
async fn the_first_slash_of_the_source_with_a_zero_divisor_is_named() {
    let platform = Platform::new(config(256));
    let (_workers, _scheduler) = (platform.workers().await, platform.scheduler());
    // The second division fails a wave earlier than the first.
    let failure = platform.eval("1/((1+1)-2) + 1/0").await.result.unwrap_err();
    assert_eq!((failure.kind.as_str(), failure.span), ("division-by-zero", Some([1, 2])));
}

#[tokio::test]
async fn a_receipt_of_an_unreplicated_function_is_refused() {
    let platform = Platform::new(config(256));
    let (_workers, _scheduler) = (platform.workers().await, platform.scheduler());
    let id = platform.submit(Request { receipt: true, ..request("1+2") }, PATIENCE).await;
    let failure = platform.outcome(id).await.result.unwrap_err();
    assert_eq!(failure.kind, "receipt-unavailable");
    assert!(failure.detail.contains("`add`"), "{}", failure.detail);
}

#[tokio::test]
async fn what_a_killed_worker_had_in_flight_is_answered_by_its_successor() {
    let platform = Platform::new(config(256));
    let _scheduler = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let id = platform.submit(request("1+2"), PATIENCE).await;
    assert_eq!(taken.recv().await.unwrap().function, "add");
    worker.kill();
    let _successor = platform.worker(Function::Add, 2).await;
    assert_eq!(platform.outcome(id).await.result, Ok("3".into()));
}

#[tokio::test]
async fn an_operation_that_a_worker_keeps_too_long_is_tried_again() {
    let mut config = config(256);
    config.timeouts.operation = Duration::from_millis(50);
    let platform = Platform::new(config);
    let _scheduler = platform.scheduler();
    let (_worker, mut taken) = platform.mute_worker(Function::Add).await;
    platform.submit(request("1+2"), PATIENCE).await;
    let (first, second) = (taken.recv().await.unwrap(), taken.recv().await.unwrap());
    assert_ne!(first.tag, second.tag);
    assert_eq!((first.left, first.right), (second.left, second.right));
}

#[tokio::test]
async fn a_paused_set_gets_nothing_until_it_is_back() {
    let platform = Platform::new(config(256));
    let _scheduler = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let id = platform.submit(request("1+2"), PATIENCE).await;
    taken.recv().await.unwrap();
    // It hangs and does not die: its record says so, and the replacement takes over what it had.
    let key = format!("{SETS}add-0");
    let entry = platform.engine.store().get(&key).await.unwrap().unwrap();
    let mut record: SetRecord = serde_json::from_slice(&entry.value).unwrap();
    record.state = SetState::Paused;
    platform.engine.store().put(&key, serde_json::to_vec(&record).unwrap().into(), None).await.unwrap();
    let _successor = platform.worker(Function::Add, 2).await;
    assert_eq!(platform.outcome(id).await.result, Ok("3".into()));
    drop(worker);
}

#[tokio::test]
async fn a_deadline_ends_a_request() {
    let platform = Platform::new(config(256));
    let _scheduler = platform.scheduler();
    let (_worker, _taken) = platform.mute_worker(Function::Add).await;
    let id = platform.submit(request("1+2"), Duration::from_millis(200)).await;
    assert_eq!(platform.outcome(id).await.result.unwrap_err().kind, "deadline");
}

#[tokio::test]
async fn what_a_function_was_seen_to_take_decides_what_a_later_request_begins_with() {
    let platform = Platform::new(config(4096));
    let _scheduler = platform.scheduler();
    let (_sub, mut taken) = platform.mute_worker(Function::Sub).await;
    let _add = platform.worker(Function::Add, 1).await;
    let _mul = platform.slow_worker(Function::Mul).await;
    // Two paths of the same length, one over an addition and one over a multiplication: the first of their nodes
    // in the order in which they are sent.
    let mut begun = async || {
        platform.submit(request("((1-2)+3)/((4-5)*6)"), PATIENCE).await;
        [taken.recv().await.unwrap().node, taken.recv().await.unwrap().node]
    };
    // Nothing is known of either: as they are written.
    let [addition, multiplication] = begun().await;
    assert!(addition < multiplication);
    assert_eq!(platform.eval("2*3").await.result, Ok("1".into()), "the slow worker's answer");
    let learnt = async {
        while begun().await != [multiplication, addition] {
            assert_eq!(platform.eval("1+2").await.result, Ok("3".into()));
        }
    };
    tokio::time::timeout(PATIENCE, learnt).await.expect("the longer path goes first");
}

#[tokio::test]
async fn what_finds_no_slot_waits_on_its_layer_and_comes_back() {
    let platform = Platform::new(config(1));
    let _scheduler = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let (text, expected) = sum(64);
    let id = platform.submit(request(&text), PATIENCE).await;
    taken.recv().await.unwrap();
    // 32 are ready: one is at the worker, one is held, the others are on the layer.
    let layer = platform.engine.queue(&QueueName::layer(Function::Add)).await.unwrap();
    while layer.depth().await.unwrap().waiting < 30 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    worker.kill();
    let _successor = platform.worker(Function::Add, 2).await;
    let outcome = platform.outcome(id).await;
    assert_eq!(outcome.result, Ok(expected));
    assert_eq!(outcome.timeline.len(), 63);
}

#[tokio::test]
async fn a_layer_is_emptied_by_whichever_scheduler_has_slots() {
    let platform = Platform::new(config(1));
    let (first, second) = (platform.scheduler(), platform.scheduler());
    for scheduler in [&first, &second] {
        announce(&platform, "scheduler", scheduler.address).await;
    }
    let _workers = platform.workers().await;
    let (text, expected) = sum(200);
    for _ in 0..5 {
        assert_eq!(platform.eval(&text).await.result, Ok(expected.clone()));
    }
}

async fn announce(platform: &Platform, daemon: &str, address: SocketAddr) {
    let record = DaemonRecord {
        daemon: daemon.into(),
        instance: address.to_string(),
        address: Some(address.to_string()),
        pid: 0,
    };
    let key = format!("{DAEMONS}{daemon}/{address}");
    platform.engine.store().put(&key, serde_json::to_vec(&record).unwrap().into(), None).await.unwrap();
}

#[tokio::test]
async fn what_a_dead_scheduler_had_is_run_by_another() {
    let platform = Platform::new(config(256));
    let first = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let mut ids = Vec::new();
    for term in 0..60 {
        ids.push((platform.submit(request(&format!("{term}+1")), PATIENCE).await, term + 1));
    }
    for _ in 0..60 {
        taken.recv().await.unwrap();
    }
    let second = platform.scheduler();
    first.kill();
    worker.kill();
    let _successor = platform.worker(Function::Add, 2).await;
    for (id, expected) in ids {
        assert_eq!(platform.outcome(id).await.result, Ok(expected.to_string()));
    }
    drop(second);
}

#[tokio::test]
async fn what_a_dead_scheduler_had_computed_is_not_computed_again() {
    let platform = Platform::new(config(256));
    let (sums, scheduler) = (platform.worker(Function::Add, 1).await, platform.scheduler());
    let (products, mut multiplied) = platform.mute_worker(Function::Mul).await;
    let (_, from) = platform.engine.store().list("runs/").await.unwrap();
    let id = platform.submit(request("(1+2)*(3+4)"), PATIENCE).await;
    multiplied.recv().await.expect("both sums are known");
    let mut kept = platform.engine.store().watch("runs/", from.next()).await.unwrap();
    kept.recv().await.expect("a run that takes longer is kept").unwrap();
    for worker in [scheduler, sums, products] {
        worker.kill();
    }
    let (_silent, mut added) = platform.mute_worker(Function::Add).await;
    let _products = platform.worker(Function::Mul, 2).await;
    let _successor = platform.scheduler();
    let outcome = platform.outcome(id).await;
    assert_eq!(outcome.result, Ok("21".into()));
    assert!(added.try_recv().is_err(), "a sum was computed again");
    let mut nodes: Vec<_> = outcome.timeline.iter().map(|run| run.node).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [0, 1, 2]);
    let (left, _) = platform.engine.store().list("runs/").await.unwrap();
    assert_eq!(left, [], "what was kept goes with the request");
}

#[tokio::test]
async fn a_scheduler_that_is_told_to_end_gives_its_requests_back_at_once() {
    let mut config = config(256);
    // If they were not given back, nobody would have them before this.
    config.timeouts.lease = Duration::from_secs(3600);
    let platform = Platform::new(config);
    let first = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let id = platform.submit(request("1+2"), PATIENCE).await;
    taken.recv().await.unwrap();
    first.shutdown.send_replace(true);
    worker.kill();
    let (_successor, _second) = (platform.worker(Function::Add, 2).await, platform.scheduler());
    assert_eq!(platform.outcome(id).await.result, Ok("3".into()));
}

/// A cluster service that only says what it was asked for.
struct Cluster(mpsc::UnboundedSender<proto::ScaleRequest>);

macro_rules! refuse {
    ($($method:ident($request:ident) -> $answer:ident;)*) => {
        #[tonic::async_trait]
        impl cluster_server::Cluster for Cluster {
            $(async fn $method(
                &self,
                _: tonic::Request<proto::$request>,
            ) -> Result<Response<proto::$answer>, Status> {
                Err(Status::unimplemented("not here"))
            })*

            async fn scale(
                &self,
                request: tonic::Request<proto::ScaleRequest>,
            ) -> Result<Response<proto::ScaleResponse>, Status> {
                let request = request.into_inner();
                let desired = request.desired;
                let _ = self.0.send(request);
                Ok(Response::new(proto::ScaleResponse { desired }))
            }
        }
    };
}

refuse! {
    create_pod(CreatePodRequest) -> Pod;
    get_pod(PodName) -> Pod;
    list_pods(ListPodsRequest) -> PodList;
    delete_pod(PodName) -> Deleted;
    create_service(CreateServiceRequest) -> Service;
    get_service(ServiceName) -> Service;
    list_services(ListServicesRequest) -> ServiceList;
    delete_service(ServiceName) -> Deleted;
    create_worker_set(CreateWorkerSetRequest) -> WorkerSet;
    delete_worker_set(WorkerSetName) -> Deleted;
}

#[tokio::test]
async fn functions_without_a_worker_are_asked_for_together_and_waited_for() {
    let platform = Platform::new(config(256));
    let (ask, mut asked) = mpsc::unbounded_channel();
    let cluster = Killable::new(|listener, _| async move {
        tonic::transport::Server::builder()
            .add_service(cluster_server::ClusterServer::new(Cluster(ask)))
            .serve_with_incoming(TcpIncoming::from(listener))
            .await
            .unwrap();
    });
    announce(&platform, "cluster", cluster.address).await;
    let _scheduler = platform.scheduler();
    let id = platform.submit(request("((3+5)*(4/2))"), PATIENCE).await;
    let mut functions = Vec::new();
    for _ in 0..3 {
        let request = asked.recv().await.unwrap();
        assert!(request.at_least && request.desired == 1);
        functions.push(request.function);
    }
    functions.sort_unstable();
    assert_eq!(functions, ["add", "div", "mul"]);
    let _workers = platform.workers().await;
    assert_eq!(platform.outcome(id).await.result, Ok("16".into()));
}

#[tokio::test]
async fn a_finished_request_that_comes_again_is_only_announced_again() {
    let platform = Platform::new(config(256));
    let (_workers, _scheduler) = (platform.workers().await, platform.scheduler());
    let id = platform.submit(request("1+2"), PATIENCE).await;
    let first = platform.outcome(id).await;
    let inbound = platform.engine.queue(&QueueName::inbound()).await.unwrap();
    let reply_to = format!("outbound-again-{id}");
    let message = serde_json::json!({ "id": id, "reply_to": &reply_to }).to_string();
    inbound.send(vec![message.into()]).await.unwrap();
    let outbound = platform.engine.queue(&QueueName::named(&reply_to)).await.unwrap();
    assert_eq!(outbound.receive(1, PATIENCE, PATIENCE).await.unwrap().len(), 1);
    let Lookup::Found(record) = platform.engine.records().get(id).await.unwrap() else { panic!() };
    assert_eq!(record.outcome, Some(first));
}

#[tokio::test]
async fn repeats_of_a_request_that_runs_leave_one_message_and_the_last_is_told() {
    let platform = Platform::new(config(256));
    let _scheduler = platform.scheduler();
    let (worker, mut taken) = platform.mute_worker(Function::Add).await;
    let id = platform.submit(request("1+2"), PATIENCE).await;
    taken.recv().await.unwrap();
    let inbound = platform.engine.queue(&QueueName::inbound()).await.unwrap();
    let reply_to = format!("outbound-again-{id}");
    for reply_to in [Some("outbound-gone"), None, Some(&*reply_to)] {
        let message = serde_json::json!({ "id": id, "reply_to": reply_to }).to_string();
        inbound.send(vec![message.into()]).await.unwrap();
        let left = async {
            loop {
                let depth = inbound.depth().await.unwrap();
                if (depth.waiting, depth.in_flight) == (0, 1) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, left).await.expect("one message is left");
    }
    worker.kill();
    let _successor = platform.worker(Function::Add, 2).await;
    let outbound = platform.engine.queue(&QueueName::named(&reply_to)).await.unwrap();
    assert_eq!(outbound.receive(1, PATIENCE, PATIENCE).await.unwrap().len(), 1);
    let Lookup::Found(record) = platform.engine.records().get(id).await.unwrap() else { panic!() };
    assert_eq!(record.outcome.unwrap().result, Ok("3".into()));
}

#[tokio::test]
async fn samples_count_what_arrived_and_what_was_answered() {
    let platform = Platform::new(config(256));
    let (_workers, scheduler) = (platform.workers().await, platform.scheduler());
    platform.eval("1+2+3+4+5").await;
    let mut client = SchedulerClient::connect(format!("http://{}", scheduler.address)).await.unwrap();
    let samples = client.samples(SamplesRequest {}).await.unwrap().into_inner().functions;
    let add = samples.iter().find(|sample| sample.function == "add").unwrap();
    assert_eq!((add.arrivals, add.completions, add.in_service), (4, 4, 0));
    assert!(add.response_us >= add.service_us);
}

#[tokio::test]
async fn parse_gives_the_graph_or_a_problem_document() {
    let platform = Platform::new(config(256));
    let scheduler = platform.scheduler();
    let parse = async |body: serde_json::Value| {
        let body = body.to_string();
        let mut stream = TcpStream::connect(scheduler.address).await.unwrap();
        let head = format!(
            "POST /v1/parse HTTP/1.1\r\nhost: scheduler\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str::<serde_json::Value>(body).unwrap())
    };
    let (status, graph) = parse(serde_json::json!({ "expression": "((3+5)*(4/2))" })).await;
    assert_eq!((status, &graph["nodes"], &graph["depth"]), (200, &3.into(), &2.into()));
    assert_eq!(graph["graph"][2]["left"], serde_json::json!({ "node": 0 }));
    let (status, problem) = parse(serde_json::json!({ "expression": "3+" })).await;
    assert_eq!((status, &problem["kind"]), (422, &"unexpected-end".into()));
}
