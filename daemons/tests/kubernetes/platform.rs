//! Scheduler, cluster service and admin in this process, over pods in the cluster.

use super::PATIENCE;
use quorate::{
    admin,
    backend::kubernetes::KubernetesBackend,
    cluster::{self, Setup},
    config::{Config, Durability, Functions, Kubernetes, Timeouts},
    engine::Engine,
    proto::{CreateServiceRequest, ScaleRequest, ServiceName, cluster_client::ClusterClient},
    queue::QueueName,
    records::{Lookup, NewRecord, Request},
    scheduler,
    set::{SETS, SetRecord},
    sqlite::SqliteEngine,
    tls::{Role, Standing},
    wires::Wires,
};
use quorate_dag::Function;
use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use uuid::Uuid;

pub(crate) struct Platform {
    engine: Arc<dyn Engine>,
    /// Where the cluster service is asked, and how.
    cluster: String,
    wires: Wires,
    end: watch::Sender<bool>,
    daemons: JoinSet<()>,
    _folder: tempfile::TempDir,
}

impl Platform {
    pub(crate) async fn start(kube: kube::Client, settings: Kubernetes, functions: Functions) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let timeouts = Timeouts {
            // A machine that does much else beside starts no pod within ten seconds.
            fault_pause: PATIENCE,
            pod_start: PATIENCE,
            probe_every: Duration::from_secs(1),
            request: PATIENCE,
            operation: Duration::from_secs(10),
            ..Timeouts::default()
        };
        let config = Config { data: folder.path().into(), functions, timeouts, ..Config::default() };
        let config = Arc::new(config);
        let engine = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
        let engine: Arc<dyn Engine> = engine;
        let (end, shutdown) = watch::channel(false);
        let standing = Standing::of(&config).unwrap().expect("connections are protected by default");
        let wires = Wires::of_daemon(Some(&standing));
        let protected = (wires.clone(), Some(standing.authority().unwrap()));
        let (backend, pods) =
            KubernetesBackend::over(kube, settings, Vec::new(), config.timeouts.pod_start, protected);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let cluster = listener.local_addr().unwrap().to_string();
        let setup = Setup {
            config: config.clone(),
            state: folder.path().into(),
            fresh: false,
            engine: engine.clone(),
            backend: Arc::new(backend),
            pods,
            wires: wires.clone(),
            listener,
            shutdown: shutdown.clone(),
        };
        let mut daemons = JoinSet::new();
        daemons.spawn(async { cluster::run(setup).await.unwrap() });
        daemons.spawn(admin::run(config.clone(), engine.clone(), wires.clone(), shutdown.clone()));
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (over, to) = (engine.clone(), wires.clone());
        daemons.spawn(async { scheduler::run(config, over, to, port, shutdown).await.unwrap() });
        Self { engine, cluster, wires, end, daemons, _folder: folder }
    }

    /// All sets, once they are as they should be.
    pub(crate) async fn sets_when(&self, are: impl Fn(&[SetRecord]) -> bool) -> Vec<SetRecord> {
        let all = async {
            loop {
                let (entries, revision) = self.engine.store().list(SETS).await.unwrap();
                let sets: Vec<SetRecord> =
                    entries.iter().map(|entry| serde_json::from_slice(&entry.value).unwrap()).collect();
                if are(&sets) {
                    return sets;
                }
                let mut changes = self.engine.store().watch(SETS, revision.next()).await.unwrap();
                changes.recv().await;
            }
        };
        let Ok(sets) = tokio::time::timeout(PATIENCE, all).await else {
            panic!("sets are {:#?}", self.engine.store().list(SETS).await)
        };
        sets
    }

    /// The value of an expression.
    pub(crate) async fn answer(&self, expression: &str) -> String {
        let id = Uuid::now_v7();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let now = u64::try_from(now).unwrap();
        let patience = u64::try_from(PATIENCE.as_millis()).unwrap();
        let request = Request {
            expression: expression.into(),
            parameters: BTreeMap::new(),
            digits: None,
            receipt: false,
        };
        let record = NewRecord { id, request, deadline_ms: now + patience, expires_ms: now + 3_600_000 };
        let inbound = self.engine.queue(&QueueName::inbound()).await.unwrap();
        let message = serde_json::json!({ "id": id, "reply_to": format!("outbound-{id}") });
        self.engine.accept(record, &*inbound, message.to_string().into()).await.unwrap();
        let outbound = self.engine.queue(&QueueName::outbound(&id.to_string())).await.unwrap();
        assert_eq!(outbound.receive(1, PATIENCE, PATIENCE).await.unwrap().len(), 1, "{expression} in time");
        match self.engine.records().get(id).await.unwrap() {
            Lookup::Found(record) => record.outcome.unwrap().result.unwrap(),
            other => panic!("{expression}: {other:?}"),
        }
    }

    fn client(&self) -> ClusterClient<tonic::transport::Channel> {
        ClusterClient::new(self.wires.channel(&self.cluster, Role::Control.name(), PATIENCE).unwrap())
    }

    /// Wants so many sets of each function.
    pub(crate) async fn scale(&self, functions: &[Function], desired: u32) {
        let mut client = self.client();
        for function in functions {
            let function = function.name().into();
            let scale = ScaleRequest { function, desired, at_least: false, reason: "a test".into() };
            assert_eq!(client.scale(scale).await.unwrap().into_inner().desired, desired);
        }
    }

    /// Has a Service of a function's workers; gives back their addresses as the cluster service knows them.
    pub(crate) async fn offer(&self, name: &str, function: Function) -> Vec<String> {
        let mut client = self.client();
        let (name, function) = (name.into(), function.name().into());
        let made = client.create_service(CreateServiceRequest { name, function }).await;
        made.unwrap().into_inner().endpoints
    }

    pub(crate) async fn withdraw(&self, name: &str) {
        let mut client = self.client();
        let withdrawn = client.delete_service(ServiceName { name: name.into() }).await;
        assert!(withdrawn.unwrap().into_inner().existed);
    }

    pub(crate) async fn stop(mut self) {
        self.end.send_replace(true);
        while self.daemons.join_next().await.is_some() {}
    }
}
