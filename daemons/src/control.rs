//! Daemons as processes: the whole control plane in one, or each by itself.
//!
//! The control plane of a platform on one machine is one process: gateway, scheduler, cluster, admin and
//! autoscaler as tasks over one engine, the sole owner of the SQLite file. Its standard input and output
//! are its line to the supervisor: first the [`Brief`], then reports about pods; out go orders for pods
//! and the gateway's address. When the input ends, the platform ends.

mod pods;

use crate::{
    admin, autoscaler,
    backend::process::{Order, Program, Report},
    cluster,
    config::{Config, PodBackend, StoreEngine},
    engine::{Engine, open::open},
    fault::{self, Fault, How},
    gateway, hex, identity, monitor, pod, scheduler,
    set::{DAEMONS, DaemonRecord},
    shutdown::{self, Shutdown},
    store::{
        StoreError,
        announce::{Announcement, announce},
        election::{LEADERS, Leadership},
        lock::LOCKS,
    },
    supervisor::{Brief, FromControl, ToControl},
    telemetry,
    tls::Standing,
    trouble::Trouble,
    wires::Wires,
};
use pods::Kept;
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

/// How long a daemon stays announced, or leads, after it was last heard of.
const LEASE: Duration = Duration::from_secs(3);

/// How long the daemons have to finish what they are doing.
const GRACE: Duration = Duration::from_secs(2);

/// Why a daemon can't run; one line for a person.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A daemon of the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// HTTP.
    Gateway,
    /// Runs expressions.
    Scheduler,
    /// Makes and repairs worker sets.
    Cluster,
    /// Finds faults.
    Admin,
    /// Says how many worker sets there shall be.
    Autoscaler,
}

impl Daemon {
    /// All of them, in the order in which they start.
    pub const ALL: [Self; 5] = [Self::Cluster, Self::Scheduler, Self::Gateway, Self::Admin, Self::Autoscaler];

    /// The subcommand's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Scheduler => "scheduler",
            Self::Cluster => "cluster",
            Self::Admin => "admin",
            Self::Autoscaler => "autoscaler",
        }
    }
}

/// Where a platform that keeps its state keeps it.
#[must_use]
pub fn state_folder(data: &Path) -> PathBuf {
    data.join("platform")
}

/// Runs the control plane until its standard input ends.
///
/// # Errors
/// When it can't start, or a daemon failed: the supervisor starts it again.
pub async fn run() -> Result<(), Failure> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let Some(brief) = lines.next_line().await? else { return Ok(()) };
    let brief: Brief = serde_json::from_str(&brief)?;
    pod::end_with_parent();
    let (say, to_say) = mpsc::unbounded_channel();
    let saying = tokio::spawn(write_lines(to_say));
    let (reports, told) = mpsc::unbounded_channel();
    match start(&brief, &say, told).await {
        Ok(running) => serve(running, lines, reports).await,
        Err(error) => {
            // Said rather than only logged: the one who started the platform is told.
            let _ = say.send(FromControl::Refused { reason: error.to_string() });
            drop(say);
            let _ = saying.await;
            Err(error)
        }
    }
}

/// Runs one daemon by itself over the engines of the configuration, until the process is told to end.
///
/// # Errors
/// When it can't start, or failed.
pub async fn run_one(daemon: Daemon, config: Config, program: Program) -> Result<(), Failure> {
    let asked_to_end = shutdown::asked_to_end();
    let state = state_folder(&config.data);
    let engine = open(&config, &state).await?;
    let (end, ending) = watch::channel(false);
    let mut running = Running::new(Arc::new(config), engine, ending)?;
    running.start_monitor().await?;
    if daemon == Daemon::Cluster {
        running.start_cluster_alone(state, program);
    } else {
        running.start(daemon).await?;
    }
    let outcome = tokio::select! {
        () = asked_to_end => Ok(()),
        failed = running.failed() => Err(failed),
    };
    end.send_replace(true);
    // The pods that a cluster service keeps as children have a grace of their own.
    running.drain(2 * GRACE).await;
    outcome
}

/// Daemons that run in this process.
struct Running {
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    /// What it shows on connections inside the platform, and makes the pods' certificates with.
    standing: Option<Standing>,
    wires: Wires,
    ending: Shutdown,
    daemons: JoinSet<(&'static str, Result<(), Failure>)>,
    announced: Vec<Announcement>,
    /// Where the gateway listens, once it does.
    gateway: Option<SocketAddr>,
}

impl Running {
    fn new(config: Arc<Config>, engine: Arc<dyn Engine>, ending: Shutdown) -> Result<Self, Failure> {
        let standing = Standing::of(&config)?;
        let wires = Wires::of_daemon(standing.as_ref());
        let (daemons, announced) = Default::default();
        // Before anything that counts takes its handles.
        telemetry::metrics();
        Ok(Self { config, engine, standing, wires, ending, daemons, announced, gateway: None })
    }

    async fn start(&mut self, daemon: Daemon) -> Result<(), Failure> {
        let (config, engine, ending) = (self.config.clone(), self.engine.clone(), self.ending.clone());
        let wires = self.wires.clone();
        match daemon {
            Daemon::Gateway => {
                let port = listen("listen", config.listen).await?;
                self.gateway = Some(port.local_addr()?);
                self.announce(daemon, self.gateway).await?;
                self.spawn(daemon, gateway::run(config, engine, wires, port, ending));
            }
            Daemon::Scheduler => {
                let port = listen("advertise", config.any_port()).await?;
                self.announce(daemon, Some(port.local_addr()?)).await?;
                self.spawn(daemon, scheduler::run(config, engine, wires, port, ending));
            }
            Daemon::Cluster => unreachable!("it is started with its pods"),
            Daemon::Admin => {
                self.announce(daemon, None).await?;
                self.spawn(
                    daemon,
                    lead(engine.clone(), daemon, ending, move |ending| {
                        let (config, engine, wires) = (config.clone(), engine.clone(), wires.clone());
                        async move {
                            admin::run(config, engine, wires, ending).await;
                            Ok::<_, Failure>(())
                        }
                    }),
                );
            }
            Daemon::Autoscaler => {
                self.announce(daemon, None).await?;
                self.spawn(
                    daemon,
                    lead(engine.clone(), daemon, ending, move |ending| {
                        autoscaler::run(config.clone(), engine.clone(), wires.clone(), ending)
                    }),
                );
            }
        }
        Ok(())
    }

    /// Health and metrics for those who look after a daemon that runs by itself.
    async fn start_monitor(&mut self) -> Result<(), Failure> {
        if let Some(address) = self.config.monitor {
            let port = listen("monitor", address).await?;
            let monitor = monitor::run(port, self.engine.clone(), self.ending.clone());
            self.daemons.spawn(async move {
                monitor.await;
                ("monitor", Ok(()))
            });
        }
        Ok(())
    }

    /// The cluster service over pods that are kept elsewhere.
    async fn start_cluster(&mut self, state: &Path, kept: Kept) -> Result<(), Failure> {
        let port = listen("advertise", self.config.any_port()).await?;
        self.announce(Daemon::Cluster, Some(port.local_addr()?)).await?;
        let (config, engine, ending) = (self.config.clone(), self.engine.clone(), self.ending.clone());
        let setup = kept.setup(config, engine, self.wires.clone(), state.into(), port, ending);
        self.spawn(Daemon::Cluster, cluster::run(setup));
        Ok(())
    }

    /// The cluster service by itself, as the only one: with a store that others share, while it leads.
    fn start_cluster_alone(&mut self, state: PathBuf, program: Program) {
        let (config, engine, ending) = (self.config.clone(), self.engine.clone(), self.ending.clone());
        let is_shared = config.engines.store != StoreEngine::Sqlite;
        let (over, standing) = (engine.clone(), self.standing.clone());
        let work = move |ending| {
            let (over, standing) = (over.clone(), standing.clone());
            pods::run_alone(config.clone(), over, standing, state.clone(), program.clone(), ending)
        };
        if is_shared {
            self.spawn(Daemon::Cluster, lead(engine, Daemon::Cluster, ending, work));
        } else {
            self.spawn(Daemon::Cluster, work(ending));
        }
    }

    fn spawn<E: Into<Failure>>(
        &mut self,
        daemon: Daemon,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        self.daemons.spawn(async move { (daemon.name(), work.await.map_err(Into::into)) });
    }

    async fn announce(&mut self, daemon: Daemon, address: Option<SocketAddr>) -> Result<(), Failure> {
        let record = DaemonRecord {
            daemon: daemon.name().into(),
            instance: instance(),
            address: address.map(|address| self.config.reached_at(address).to_string()),
            pid: std::process::id(),
        };
        self.announced.push(announce(&self.engine, &record, LEASE).await?);
        Ok(())
    }

    /// Waits until a daemon ends that was not asked to.
    async fn failed(&mut self) -> Failure {
        match self.daemons.join_next().await {
            Some(Ok((daemon, outcome))) => {
                let error = outcome.err().unwrap_or_else(|| "it ended by itself".into());
                format!("the {daemon} ended: {error}").into()
            }
            Some(Err(panic)) => panic.into(),
            None => std::future::pending().await,
        }
    }

    /// Waits for the daemons' end after they were told, for a while.
    async fn drain(mut self, grace: Duration) {
        let drained = async {
            while let Some(ended) = self.daemons.join_next().await {
                if let Ok((daemon, Err(error))) = ended {
                    tracing::warn!(daemon, %error, "a daemon failed while ending");
                }
            }
            for announcement in self.announced.drain(..) {
                announcement.withdraw().await;
            }
        };
        let _ = tokio::time::timeout(grace, drained).await;
    }
}

async fn start(
    brief: &Brief,
    say: &mpsc::UnboundedSender<FromControl>,
    told: mpsc::UnboundedReceiver<Report>,
) -> Result<(Running, watch::Sender<bool>), Failure> {
    let engine = open(&brief.config, &brief.state).await?;
    if brief.config.engines.store == StoreEngine::Sqlite {
        forget_former_life(&*engine).await?;
    }
    if brief.restarts > 0 {
        let fault = Fault {
            id: uuid::Uuid::now_v7(),
            kind: 4,
            set: String::new(),
            pod: "control".into(),
            incarnation: brief.restarts,
            seen: "the process ended".into(),
            how: How::Killed,
            lie: None,
            replaced_ms: None,
        };
        fault::keep(&*engine, &fault).await?;
    }
    let (orders, mut given) = mpsc::unbounded_channel::<Order>();
    let ordering = say.clone();
    tokio::spawn(async move {
        while let Some(order) = given.recv().await {
            if ordering.send(FromControl::Order(order)).is_err() {
                return;
            }
        }
    });
    let (end, ending) = watch::channel(false);
    let mut running = Running::new(Arc::new(brief.config.clone()), engine, ending)?;
    let standing = running.standing.as_ref();
    let kept = match brief.config.backend {
        PodBackend::Process => Kept::as_processes(&brief.state, brief.restarts == 0, standing, orders, told)?,
        PodBackend::Kubernetes => Kept::in_kubernetes(&brief.config, standing, Vec::new()).await?,
    };
    for daemon in Daemon::ALL {
        if daemon != Daemon::Cluster {
            running.start(daemon).await?;
        }
    }
    running.start_cluster(&brief.state, kept).await?;
    let gateway = running.gateway.expect("the gateway was started above");
    let scheme = if brief.config.gateway.tls_cert.is_some() { "https" } else { "http" };
    say.send(FromControl::Serving { url: format!("{scheme}://{gateway}") })?;
    Ok((running, end))
}

/// Passes reports on until the input ends; ends early when a daemon does.
async fn serve(
    (mut running, end): (Running, watch::Sender<bool>),
    mut lines: Lines<BufReader<Stdin>>,
    reports: mpsc::UnboundedSender<Report>,
) -> Result<(), Failure> {
    let outcome = loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(ToControl::Report(report)) => {
                        // The backend's task lives as long as this process.
                        let _ = reports.send(report);
                    }
                    Err(error) => tracing::warn!(%error, "a line of the supervisor was not understood"),
                },
                Ok(None) | Err(_) => break Ok(()),
            },
            error = running.failed() => {
                tracing::error!(%error, "the control plane starts again");
                break Err(error);
            }
        }
    };
    end.send_replace(true);
    running.drain(GRACE).await;
    outcome
}

/// This process is the sole owner of the engine: what others announced, led or locked is of a former
/// life of the platform, and nobody need wait for its leases to end.
async fn forget_former_life(engine: &dyn Engine) -> Result<(), StoreError> {
    for prefix in [DAEMONS, LEADERS, LOCKS] {
        let (entries, _) = engine.store().list(prefix).await?;
        for entry in entries {
            engine.store().delete(&entry.key).await?;
        }
    }
    Ok(())
}

/// Does the work while this instance leads, and again when it leads again.
async fn lead<E, F>(
    engine: Arc<dyn Engine>,
    daemon: Daemon,
    mut ending: Shutdown,
    work: impl Fn(Shutdown) -> F,
) -> Result<(), Failure>
where
    F: Future<Output = Result<(), E>>,
    E: Into<Failure>,
{
    let instance = instance();
    let mut trouble = Trouble::of(daemon.name());
    metrics::describe_gauge!("quorate_leads", "Whether this instance of a daemon is the one that leads");
    let leads = metrics::gauge!("quorate_leads", "daemon" => daemon.name());
    leads.set(0);
    loop {
        let campaign = Leadership::campaign(&engine, daemon.name(), &instance, LEASE);
        let leadership = tokio::select! {
            () = shutdown::requested(&mut ending) => return Ok(()),
            leadership = campaign => match leadership {
                Ok(leadership) => leadership,
                Err(error) => {
                    trouble.pause(&error, &mut ending).await;
                    continue;
                }
            },
        };
        trouble.over();
        leads.set(1);
        tracing::debug!(daemon = daemon.name(), term = leadership.term(), "leads");
        let outcome = tokio::select! {
            () = leadership.lost() => {
                leads.set(0);
                continue;
            }
            outcome = work(ending.clone()) => outcome,
        };
        leadership.resign().await;
        return outcome.map_err(Into::into);
    }
}

async fn listen(key: &str, address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; choose another with `{key}`").into())
}

/// Unique among the running ones, on whatever machine: where each daemon is a container, all have the same
/// process number, and one that starts again keeps its host's name, too.
fn instance() -> String {
    static INSTANCE: OnceLock<String> = OnceLock::new();
    let make = || {
        let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
        // Without randomness nothing else of a platform would start either.
        let life = identity::seed().map(|seed| hex::encode(&seed[..3])).unwrap_or_default();
        format!("{host}-{}-{life}", std::process::id())
    };
    INSTANCE.get_or_init(make).clone()
}

async fn write_lines(mut lines: mpsc::UnboundedReceiver<FromControl>) {
    let mut out = tokio::io::stdout();
    while let Some(line) = lines.recv().await {
        let line = serde_json::to_string(&line).expect("plain data");
        if out.write_all(format!("{line}\n").as_bytes()).await.is_err() || out.flush().await.is_err() {
            return;
        }
    }
}
