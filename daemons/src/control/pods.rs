//! The cluster service with the pods that it keeps: as one of the daemons of a platform on one machine, or
//! by itself.

use super::{Daemon, Failure, LEASE, instance, listen};
use crate::{
    backend::{
        Backend, PodEvent,
        process::{Nursery, Order, ProcessBackend, Program, Report},
    },
    cluster,
    config::{Config, PodBackend},
    engine::Engine,
    set::DaemonRecord,
    shutdown::Shutdown,
    store::announce::announce,
    tls::Standing,
    wires::Wires,
};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};

/// Where pods are, and what becomes of them.
pub(super) struct Kept {
    backend: Arc<dyn Backend>,
    events: mpsc::UnboundedReceiver<PodEvent>,
    /// Whether none can be running from before.
    fresh: bool,
}

impl Kept {
    /// As child processes of whoever takes the orders.
    pub(super) fn as_processes(
        state: &Path,
        fresh: bool,
        standing: Option<&Standing>,
        orders: mpsc::UnboundedSender<Order>,
        told: mpsc::UnboundedReceiver<Report>,
    ) -> Result<Self, Failure> {
        let authority = standing.map(Standing::authority).transpose()?;
        let (backend, events) = ProcessBackend::new(&state.join("pods"), authority, orders, told);
        Ok(Self { backend: Arc::new(backend), events, fresh })
    }

    /// In Kubernetes, where they outlive this process. Their program is told `arguments` first.
    #[cfg(feature = "kubernetes")]
    pub(super) async fn in_kubernetes(
        config: &Config,
        standing: Option<&Standing>,
        arguments: Vec<String>,
    ) -> Result<Self, Failure> {
        use crate::backend::kubernetes::KubernetesBackend;
        let settings = config.kubernetes.clone();
        let protected = (Wires::of_daemon(standing), standing.map(Standing::authority).transpose()?);
        let (backend, events) =
            KubernetesBackend::connect(settings, arguments, config.timeouts.pod_start, protected).await?;
        Ok(Self { backend: Arc::new(backend), events, fresh: false })
    }

    #[cfg(not(feature = "kubernetes"))]
    pub(super) async fn in_kubernetes(
        _: &Config,
        _: Option<&Standing>,
        _: Vec<String>,
    ) -> Result<Self, Failure> {
        Err(crate::engine::open::not_built("kubernetes"))
    }

    /// What the cluster service works with.
    pub(super) fn setup(
        self,
        config: Arc<Config>,
        engine: Arc<dyn Engine>,
        wires: Wires,
        state: PathBuf,
        listener: TcpListener,
        shutdown: Shutdown,
    ) -> cluster::Setup {
        let Self { backend, events: pods, fresh } = self;
        cluster::Setup { config, state, fresh, engine, backend, pods, wires, listener, shutdown }
    }
}

/// The cluster service by itself, until it has to end: announced, and with the pods that it keeps. Dropping
/// it takes both away.
pub(super) async fn run_alone(
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    standing: Option<Standing>,
    state: PathBuf,
    program: Program,
    ending: Shutdown,
) -> Result<(), Failure> {
    // One that leads again may find what it announced before on its way out.
    static LIVES: AtomicU64 = AtomicU64::new(0);
    let life = LIVES.fetch_add(1, Ordering::Relaxed);
    let mut children = JoinSet::new();
    let standing = standing.as_ref();
    let kept = match config.backend {
        PodBackend::Process => {
            let (orders, given) = mpsc::unbounded_channel();
            let (reports, told) = mpsc::unbounded_channel();
            children.spawn(keep(Nursery::new(program), given, reports));
            Kept::as_processes(&state, true, standing, orders, told)?
        }
        PodBackend::Kubernetes => Kept::in_kubernetes(&config, standing, program.arguments).await?,
    };
    let listener = listen("advertise", config.any_port()).await?;
    let record = DaemonRecord {
        daemon: Daemon::Cluster.name().into(),
        instance: if life == 0 { instance() } else { format!("{}-{life}", instance()) },
        address: Some(config.reached_at(listener.local_addr()?).to_string()),
        pid: std::process::id(),
    };
    let announcement = announce(&engine, &record, LEASE).await?;
    let wires = Wires::of_daemon(standing);
    let outcome = cluster::run(kept.setup(config, engine, wires, state, listener, ending)).await;
    while children.join_next().await.is_some() {}
    announcement.withdraw().await;
    Ok(outcome?)
}

/// Keeps pods as children of this process until nobody orders any more: the service that does ends first,
/// so that it does not take their end for a fault.
async fn keep(
    mut nursery: Nursery,
    mut orders: mpsc::UnboundedReceiver<Order>,
    reports: mpsc::UnboundedSender<Report>,
) {
    loop {
        tokio::select! {
            order = orders.recv() => {
                let Some(order) = order else { break };
                for report in nursery.carry_out(order) {
                    let _ = reports.send(report);
                }
            }
            event = nursery.next_event() => {
                let _ = reports.send(Report::Event(event));
            }
        }
    }
    nursery.end_all().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::Durability,
        control::lead,
        set::DAEMONS,
        sqlite::SqliteEngine,
        store::{Change, Revision},
    };
    use std::time::Duration;
    use tokio::sync::watch;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// One of a pair, and the word for it to end.
    fn candidate(
        config: &Config,
        engine: &Arc<dyn Engine>,
    ) -> (tokio::task::JoinHandle<Result<(), Failure>>, watch::Sender<bool>) {
        let (end, ending) = watch::channel(false);
        let (config, engine) = (Arc::new(config.clone()), Arc::clone(engine));
        let program = Program { binary: "/nowhere/quorate".into(), arguments: Vec::new() };
        let over = Arc::clone(&engine);
        let work = move |ending| {
            run_alone(config.clone(), over.clone(), None, config.data.clone(), program.clone(), ending)
        };
        (tokio::spawn(lead(engine, Daemon::Cluster, ending, work)), end)
    }

    #[tokio::test]
    async fn of_a_pair_the_one_that_leads_serves_and_is_announced() {
        let folder = tempfile::tempdir().unwrap();
        let config = Config {
            data: folder.path().into(),
            advertise: "127.0.0.2".parse().unwrap(),
            ..Config::default()
        };
        let engine = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
        let engine: Arc<dyn Engine> = engine;
        let mut announced = engine.store().watch(&format!("{DAEMONS}cluster/"), Revision(1)).await.unwrap();
        let mut next = async || {
            let change = tokio::time::timeout(PATIENCE, announced.recv()).await.expect("in time");
            change.unwrap().unwrap()
        };
        let (first, end_first) = candidate(&config, &engine);
        let Change::Put(entry) = next().await else { panic!("the first is announced") };
        let record: DaemonRecord = serde_json::from_slice(&entry.value).unwrap();
        assert!(record.address.unwrap().starts_with("127.0.0.2:"));
        let (second, end_second) = candidate(&config, &engine);
        end_first.send_replace(true);
        // The second has not been announced before the first had gone.
        let Change::Deleted { key, .. } = next().await else { panic!("the first is withdrawn") };
        assert_eq!(key, entry.key);
        first.await.unwrap().unwrap();
        let Change::Put(successor) = next().await else { panic!("the second is announced") };
        assert_ne!(successor.key, entry.key);
        end_second.send_replace(true);
        assert!(matches!(next().await, Change::Deleted { .. }));
        second.await.unwrap().unwrap();
    }
}
