//! A platform of one machine that is traced: its daemons are tasks of the test, each over the same SQLite file, and
//! its pods processes.

use super::{Event, Pods, Trace, Traced, Tracer, What};
use crate::{Data, PATIENCE};
use quorate::{
    admin, autoscaler,
    backend::process::Program,
    cluster,
    config::{Config, Durability},
    engine::Engine,
    gateway, scheduler,
    set::{DaemonRecord, SETS, SetRecord},
    sqlite::SqliteEngine,
    store::announce::{Announcement, announce},
    wires::Wires,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

/// How long a daemon stays announced that was killed.
const LEASE: Duration = Duration::from_secs(3);

/// The platform.
pub struct TracedPlatform {
    daemons: BTreeMap<&'static str, Running>,
    /// Its pods.
    pub pods: Pods,
    /// Its folder.
    pub data: Data,
    /// What happens in it.
    pub trace: Trace,
    /// Its engine, by which nothing is traced.
    pub engine: Arc<dyn Engine>,
    config: Arc<Config>,
    url: String,
    http: reqwest::Client,
}

struct Running {
    task: JoinHandle<()>,
    end: watch::Sender<bool>,
    announced: Option<Announcement>,
    /// Where it listens.
    address: String,
}

impl TracedPlatform {
    /// Starts one whose pods run `program`, which is told `arguments` and where to tell.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start(program: &Path, arguments: &[&str], change: impl FnOnce(&mut Config)) -> Self {
        let (data, trace) = (Data::new(), Trace::start());
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let mut config =
            Config { data: data.path().into(), listen, durability: Durability::Process, ..Config::default() };
        change(&mut config);
        let engine =
            SqliteEngine::open(&data.path().join("quorate.db"), config.durability).expect("a new file");
        let mut told = vec!["--trace".to_owned(), trace.path().to_str().expect("is UTF-8").to_owned()];
        told.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let program = Program { binary: program.into(), arguments: told };
        let pods = Pods::keep(program, &data.path().join("pods"), trace.path());
        let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("needs nothing");
        let mut platform = Self {
            daemons: BTreeMap::new(),
            pods,
            data,
            trace,
            engine,
            config: Arc::new(config),
            url: String::new(),
            http,
        };
        platform.start_cluster(true).await;
        for daemon in ["scheduler", "gateway", "admin", "autoscaler"] {
            platform.start_daemon(daemon).await;
        }
        platform.url = format!("http://{}", platform.address("gateway"));
        platform
    }

    /// Where a daemon listens.
    #[must_use]
    pub fn address(&self, daemon: &str) -> &str {
        &self.daemons[daemon].address
    }

    fn traced(&self, daemon: &'static str) -> Arc<dyn Engine> {
        Arc::new(Traced::new(Arc::clone(&self.engine), Tracer::new(daemon, self.trace.path())))
    }

    async fn listen(&self) -> (TcpListener, String) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("there is a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        (listener, address)
    }

    async fn start_daemon(&mut self, daemon: &'static str) {
        let (listener, address) = self.listen().await;
        let (end, ending) = watch::channel(false);
        let (config, engine, wires) = (Arc::clone(&self.config), self.traced(daemon), Wires::plain());
        let task = tokio::spawn(async move {
            match daemon {
                "scheduler" => {
                    scheduler::run(config, engine, wires, listener, ending).await.expect("it schedules")
                }
                "gateway" => gateway::run(config, engine, wires, listener, ending).await.expect("it serves"),
                "admin" => admin::run(config, engine, wires, ending).await,
                "autoscaler" => autoscaler::run(config, engine, wires, ending).await.expect("it scales"),
                other => panic!("there is no daemon {other}"),
            }
        });
        self.run(daemon, task, end, address).await;
    }

    /// Starts the cluster service: the first one, or after another was killed.
    pub async fn start_cluster(&mut self, first: bool) {
        let (listener, address) = self.listen().await;
        let (end, shutdown) = watch::channel(false);
        let (backend, pods) = self.pods.attach();
        let setup = cluster::Setup {
            config: Arc::clone(&self.config),
            state: self.data.path().into(),
            fresh: first,
            engine: self.traced("cluster"),
            backend,
            pods,
            wires: Wires::plain(),
            listener,
            shutdown,
        };
        let task = tokio::spawn(async move { cluster::run(setup).await.expect("it keeps sets") });
        self.run("cluster", task, end, address).await;
    }

    async fn run(
        &mut self,
        daemon: &'static str,
        task: JoinHandle<()>,
        end: watch::Sender<bool>,
        address: String,
    ) {
        let record = DaemonRecord {
            daemon: daemon.into(),
            instance: address.clone(),
            address: Some(address.clone()),
            pid: std::process::id(),
        };
        let announced = announce(&self.engine, &record, LEASE).await.expect("the engine is there");
        self.daemons.insert(daemon, Running { task, end, announced: Some(announced), address });
    }

    /// Ends a daemon in the middle of whatever it does.
    ///
    /// # Panics
    /// When it has ended by itself.
    pub async fn kill(&mut self, daemon: &str) {
        let running = self.daemons.remove(daemon).expect("it was started");
        running.task.abort();
        let ended = running.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "{daemon} had ended by itself");
    }

    /// A set's record, once there is one.
    ///
    /// # Panics
    /// When it can't be read.
    pub async fn set(&self, name: &str) -> SetRecord {
        let key = format!("{SETS}{name}");
        let entry = self.engine.store().get(&key).await.expect("the engine is there").expect("it is there");
        serde_json::from_slice(&entry.value).expect("is a set's record")
    }

    /// The primary's index in a set.
    pub async fn primary(&self, set: &str) -> usize {
        crate::eventually("a primary", || async {
            let all: Value = self.get("/v1/status").await;
            let leads =
                all.as_array()?.iter().find(|one| one["set"] == set && one["primary"] == Value::Bool(true));
            usize::try_from(leads?["index"].as_u64()?).ok()
        })
        .await
    }

    /// What the gateway says.
    ///
    /// # Panics
    /// When it says nothing.
    pub async fn get(&self, path: &str) -> Value {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.expect("the gateway answers");
        answer.json().await.expect("in JSON")
    }

    /// Has a request accepted, and says its id.
    ///
    /// # Panics
    /// When it is not.
    pub async fn submit(&self, expression: &str) -> String {
        self.trace.does(&format!("submits {expression}"));
        let accepted: Value = self
            .http
            .post(format!("{}/v1/expressions", self.url))
            .json(&json!({ "expression": expression }))
            .send()
            .await
            .expect("the gateway answers")
            .json()
            .await
            .expect("in JSON");
        accepted["id"].as_str().unwrap_or_else(|| panic!("was not accepted: {accepted}")).to_owned()
    }

    /// The result of a request that was accepted, from the events that a client is sent.
    ///
    /// # Panics
    /// When it has none.
    pub async fn answer(&self, id: &str) -> String {
        let events = self.http.get(format!("{}/v1/expressions/{id}/events", self.url)).send();
        let events = events.await.expect("the gateway answers").text().await.expect("until the end");
        let names: Vec<_> = events.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(names, ["accepted", "done"], "{events}");
        let last = events.lines().rev().find_map(|line| line.strip_prefix("data: ")).expect("has data");
        let last: Value = serde_json::from_str(last).expect("is JSON");
        let result = last["result"].as_str().unwrap_or_else(|| panic!("no result: {last}")).to_owned();
        self.trace.does(&format!("is answered {id} {result}"));
        result
    }

    /// Both: the result and the id.
    pub async fn result(&self, expression: &str) -> (String, String) {
        let id = self.submit(expression).await;
        (self.answer(&id).await, id)
    }

    /// Whether a request was concluded since.
    pub async fn is_concluded(&self, mark: usize, id: &str) -> bool {
        let is = |event: &Event| matches!(&event.what, What::Concludes { id: of, .. } if of == id);
        self.trace.since(mark).await.iter().any(is)
    }

    /// Ends all of it, and checks that no process is left.
    ///
    /// # Panics
    /// When a daemon had ended by itself, or does not end.
    pub async fn stop(self) {
        for running in self.daemons.values() {
            running.end.send_replace(true);
        }
        for (daemon, running) in self.daemons {
            let ended = tokio::time::timeout(PATIENCE, running.task).await;
            ended.unwrap_or_else(|_| panic!("the {daemon} does not end")).expect("it has not failed");
            drop(running.announced);
        }
        self.pods.end().await;
        self.data.deserted(PATIENCE).await;
    }
}
