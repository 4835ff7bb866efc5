//! The cluster service from outside, over a backend whose pods are words.
#![expect(clippy::unwrap_used, reason = "a panic is how a test fails")]

#[path = "gateway/flaky.rs"]
mod flaky;

use async_trait::async_trait;
use bytes::Bytes;
use flaky::Flaky;
use hyper::{Method, StatusCode};
use quorate::{
    backend::{Backend, BackendError, PodDaemon, PodEvent, RunningPod, Stop},
    client::Client,
    cluster::{self, Setup},
    config::{Config, Durability, Replication},
    engine::Engine,
    fault::{Fault, How},
    pod::{PodSpec, Said, Told},
    queue::QueueName,
    set::{Member, MemberState, SETS, SetRecord, SetState},
    sqlite::SqliteEngine,
    wires::Wires,
};
use quorate_pbft::{ReplicaId, membership::Reconfigure};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// Pods that are ready as soon as they are ordered.
struct Words {
    pods: Mutex<BTreeMap<String, u64>>,
    /// Whether a pod that starts again finds its data.
    keeps_data: bool,
    /// Told that it was asked for its pods, when it never answers that.
    silent: Option<mpsc::UnboundedSender<()>>,
    events: mpsc::UnboundedSender<PodEvent>,
}

#[async_trait]
impl Backend for Words {
    async fn start(&self, _: PodDaemon, spec: &PodSpec) -> Result<(), BackendError> {
        let (pod, incarnation) = (spec.pod.clone(), spec.incarnation);
        self.pods.lock().unwrap().insert(pod.clone(), incarnation);
        let transport = spec.index.map(|_| "127.0.0.1:2".to_owned());
        let listening = Said::Listening { address: "127.0.0.1:1".into(), transport };
        self.events.send(PodEvent::Started { pod: pod.clone(), incarnation, pid: None }).unwrap();
        for said in [listening, Said::Ready] {
            self.events.send(PodEvent::Said { pod: pod.clone(), incarnation, said }).unwrap();
        }
        Ok(())
    }

    async fn stop(&self, pod: &str, _: Stop) -> Result<(), BackendError> {
        if let Some(incarnation) = self.pods.lock().unwrap().remove(pod) {
            let ended = PodEvent::Ended { pod: pod.into(), incarnation, status: "stopped".into() };
            self.events.send(ended).unwrap();
        }
        Ok(())
    }

    async fn tell(&self, _: &str, _: Told) -> Result<(), BackendError> {
        Ok(())
    }

    fn keeps_data(&self) -> bool {
        self.keeps_data
    }

    async fn list(&self) -> Result<Vec<RunningPod>, BackendError> {
        if let Some(asked) = &self.silent {
            asked.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        let pods = self.pods.lock().unwrap();
        let running = |(pod, incarnation): (&String, &u64)| RunningPod {
            pod: pod.clone(),
            incarnation: *incarnation,
            pid: None,
            said: Vec::new(),
        };
        Ok(pods.iter().map(running).collect())
    }
}

struct Service {
    client: Client,
    engine: Arc<dyn Engine>,
    words: Arc<Words>,
    /// Whether the engine is away.
    away: Arc<AtomicBool>,
    end: watch::Sender<bool>,
    service: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Service {
    /// Over a store in which so many sets of `add` were wanted before.
    async fn new(wanted_before: u32, change: impl FnOnce(&mut Config)) -> Self {
        Self::over(true, None, wanted_before, change).await
    }

    async fn over(
        keeps_data: bool,
        silent: Option<mpsc::UnboundedSender<()>>,
        wanted_before: u32,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config { data: folder.path().into(), ..Config::default() };
        config.functions.add.replication = Replication::None;
        change(&mut config);
        let away = Arc::new(AtomicBool::new(false));
        let engine = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
        let engine: Arc<dyn Engine> =
            Arc::new(Flaky { engine, away: away.clone(), refused: watch::channel(0).0 });
        engine.store().put("desired/add", wanted_before.to_string().into(), None).await.unwrap();
        let (events, pods) = mpsc::unbounded_channel();
        let (end, shutdown) = watch::channel(false);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = Client::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let words = Arc::new(Words { pods: Mutex::default(), keeps_data, silent, events });
        let setup = Setup {
            config: Arc::new(config),
            state: folder.path().into(),
            fresh: true,
            engine: engine.clone(),
            backend: words.clone(),
            pods,
            wires: Wires::plain(),
            listener,
            shutdown,
        };
        let service = tokio::spawn(async { cluster::run(setup).await.unwrap() });
        Self { client, engine, words, away, end, service, _folder: folder }
    }

    async fn send(&mut self, method: Method, path: &str) -> (StatusCode, String) {
        let (status, body) = self.client.send(method, path, &[], Bytes::new(), PATIENCE).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The names of the sets, once there are so many.
    async fn sets(&mut self, count: usize) -> Vec<String> {
        let sets = self.sets_when(|sets| sets.len() == count).await;
        sets.into_iter().map(|set| set.name).collect()
    }

    /// All sets, once they are as they should be.
    async fn sets_when(&mut self, are: impl Fn(&[SetRecord]) -> bool) -> Vec<SetRecord> {
        let engine = Arc::clone(&self.engine);
        let all = async {
            // What the service says has changed when its records have.
            let (_, seen) = engine.store().list(SETS).await.unwrap();
            let mut changes = engine.store().watch(SETS, seen.next()).await.unwrap();
            loop {
                let (_, text) = self.send(Method::GET, "/v1/sets").await;
                let sets: Vec<SetRecord> = serde_json::from_str(&text).unwrap();
                if are(&sets) {
                    return sets;
                }
                changes.recv().await.expect("the store is there").unwrap();
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("sets as they should be")
    }

    /// A pod ends, and the admin says so.
    async fn lose(&self, set: &SetRecord, member: &Member) {
        let incarnation = self.words.pods.lock().unwrap().remove(&member.pod).unwrap();
        let ended = PodEvent::Ended { pod: member.pod.clone(), incarnation, status: "gone".into() };
        self.words.events.send(ended).unwrap();
        let fault = Fault {
            id: uuid::Uuid::now_v7(),
            kind: 3,
            set: set.name.clone(),
            pod: member.pod.clone(),
            incarnation,
            seen: "the process ended".into(),
            how: How::Killed,
            lie: None,
            replaced_ms: None,
        };
        let bus = self.engine.queue(&QueueName::events()).await.unwrap();
        bus.send(vec![serde_json::to_vec(&fault).unwrap().into()]).await.unwrap();
    }

    async fn stop(self) {
        self.end.send_replace(true);
        self.service.await.unwrap();
    }
}

#[tokio::test]
async fn no_more_sets_are_made_than_pods_max_allows() {
    let mut service = Service::new(0, |config| config.functions.add.pods_max = 2).await;
    for name in ["add-0", "add-1"] {
        let (status, text) = service.send(Method::POST, "/v1/functions/add/sets").await;
        assert_eq!(status, StatusCode::ACCEPTED, "{text}");
        assert!(text.contains(name), "{text}");
    }
    let (status, text) = service.send(Method::POST, "/v1/functions/add/sets").await;
    assert_eq!(status, StatusCode::CONFLICT, "{text}");
    assert!(text.contains("functions.add.pods_max"), "{text}");
    assert_eq!(service.sets(2).await, ["add-0", "add-1"]);
    let wanted = service.engine.store().get("desired/add").await.unwrap().unwrap();
    assert_eq!(wanted.value, "2");
    service.stop().await;
}

#[tokio::test]
async fn what_was_wanted_before_is_kept_within_what_is_configured_now() {
    let mut service = Service::new(5, |config| config.functions.add.pods_max = 1).await;
    assert_eq!(service.sets(1).await, ["add-0"]);
    // A further one would be the next that is begun.
    let (status, _) = service.send(Method::POST, "/v1/functions/add/sets").await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_eq!(service.sets(1).await, ["add-0"]);
    service.stop().await;
}

#[tokio::test]
async fn a_service_whose_store_was_away_goes_on() {
    let mut service = Service::new(0, |_| ()).await;
    assert!(service.sets(0).await.is_empty(), "it serves");
    service.away.store(true, Ordering::SeqCst);
    let (status, text) = service.send(Method::POST, "/v1/functions/add/sets").await;
    assert!(status.is_server_error(), "{status}: {text}");
    service.away.store(false, Ordering::SeqCst);
    let (status, text) = service.send(Method::POST, "/v1/functions/add/sets").await;
    assert_eq!(status, StatusCode::ACCEPTED, "{text}");
    assert_eq!(service.sets(1).await, ["add-0"]);
    service.stop().await;
}

#[tokio::test]
async fn a_service_that_has_to_end_does_not_wait_for_a_list_of_pods() {
    let (asked, mut asking) = mpsc::unbounded_channel();
    let service = Service::over(true, Some(asked), 1, |_| ()).await;
    asking.recv().await.unwrap();
    tokio::time::timeout(PATIENCE, service.stop()).await.expect("it ends");
}

#[tokio::test]
async fn a_replica_whose_journal_is_gone_has_its_set_replaced_if_its_group_does_not_go_over() {
    let replicated = |config: &mut Config| {
        config.functions.add.replication = Replication::Byzantine { f: 1 };
        config.timeouts.pod_start = Duration::from_secs(2);
    };
    let mut service = Service::over(false, None, 1, replicated).await;
    let is_ready = |sets: &[SetRecord]| sets.iter().any(|set| set.state == SetState::Ready);
    let set = service.sets_when(is_ready).await.remove(0);
    service.lose(&set, &set.replicas[2]).await;
    // The group is ordered to, in words that its members will believe.
    let ordered = |sets: &[SetRecord]| sets.iter().any(|set| set.succession.is_some());
    let set = service.sets_when(ordered).await.remove(0);
    let ordered = set.succession.as_ref().unwrap();
    assert_eq!(ordered.pod, "add-0-replica-2");
    let order = Reconfigure::from_bytes(&quorate::hex::decode(&ordered.order).unwrap()).unwrap();
    assert!(order.replaces(ReplicaId(2)) && order.replacements.len() == 1);
    assert_eq!(order.number, 1);
    // It serves until another does.
    let replaced = |sets: &[SetRecord]| sets.iter().all(|set| set.name != "add-0") && is_ready(sets);
    let fresh = service.sets_when(replaced).await.remove(0);
    assert_eq!(fresh.name, "add-1");
    assert_ne!(fresh.group(), set.group());
    assert!(service.engine.store().get("lost/add-0").await.unwrap().is_some());
    // The name and its keys are not used again.
    service.send(Method::POST, "/v1/functions/add/sets").await;
    assert_eq!(service.sets(2).await, ["add-1", "add-2"]);
    service.stop().await;
}

#[tokio::test]
async fn a_worker_has_no_journal_to_lose() {
    let mut service = Service::over(false, None, 1, |_| ()).await;
    let ready = |incarnation| {
        move |sets: &[SetRecord]| {
            sets.iter()
                .any(|set| (set.worker.state, set.worker.incarnation) == (MemberState::Ready, incarnation))
        }
    };
    let set = service.sets_when(ready(1)).await.remove(0);
    service.lose(&set, &set.worker).await;
    assert_eq!(service.sets_when(ready(2)).await[0].name, "add-0");
    service.stop().await;
}
