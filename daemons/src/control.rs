//! The control plane as one process: gateway, scheduler, cluster, admin and autoscaler as tasks over one
//! engine. It is the sole owner of the SQLite file.
//!
//! Its standard input and output are its line to the supervisor: first the [`Brief`], then reports about
//! pods; out go orders for pods and the gateway's address. When the input ends, the platform ends.

use crate::{
    admin, autoscaler,
    backend::process::{Order, ProcessBackend, Report},
    cluster,
    engine::Engine,
    gateway, scheduler,
    set::{DaemonRecord, Fault},
    sqlite::SqliteEngine,
    store::announce::{Announcement, announce},
    supervisor::{Brief, FromControl, ToControl},
};
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Stdin},
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

/// How long a daemon stays announced after it was last heard of.
const ANNOUNCED: Duration = Duration::from_secs(3);

/// How long the daemons have to finish what they are doing.
const GRACE: Duration = Duration::from_secs(2);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Runs the control plane until its standard input ends.
///
/// # Errors
/// When it can't start, or a daemon failed: the supervisor starts it again.
pub async fn run() -> Result<(), Failure> {
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let Some(brief) = lines.next_line().await? else { return Ok(()) };
    let brief: Brief = serde_json::from_str(&brief)?;
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Refused only where there is no such call; the closing pipe still ends us there.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
    let (say, to_say) = mpsc::unbounded_channel();
    let saying = tokio::spawn(write_lines(to_say));
    match start(&brief, say.clone()).await {
        Ok(control) => control.serve(lines).await,
        Err(error) => {
            // Said rather than only logged: the one who started the platform is told.
            let _ = say.send(FromControl::Refused { reason: error.to_string() });
            drop(say);
            let _ = saying.await;
            Err(error)
        }
    }
}

struct Control {
    daemons: JoinSet<(&'static str, Result<(), Failure>)>,
    announced: Vec<Announcement>,
    reports: mpsc::UnboundedSender<Report>,
    shutdown: watch::Sender<bool>,
}

async fn start(brief: &Brief, say: mpsc::UnboundedSender<FromControl>) -> Result<Control, Failure> {
    std::fs::create_dir_all(&brief.state)
        .map_err(|error| format!("can't make the state folder {}: {error}", brief.state.display()))?;
    let config = Arc::new(brief.config.clone());
    let engine: Arc<dyn Engine> = SqliteEngine::open(&brief.state.join("quorate.db"), config.durability)?;
    let (shutdown, ending) = watch::channel(false);
    let gateway_port = listen(config.listen).await?;
    let url = format!("http://{}", gateway_port.local_addr()?);
    let scheduler_port = listen(local()).await?;
    let cluster_port = listen(local()).await?;

    let (orders, mut given) = mpsc::unbounded_channel::<Order>();
    let (reports, told) = mpsc::unbounded_channel();
    let (backend, pods) = ProcessBackend::new(&brief.state.join("pods"), orders, told);
    let ordering = say.clone();
    tokio::spawn(async move {
        while let Some(order) = given.recv().await {
            if ordering.send(FromControl::Order(order)).is_err() {
                return;
            }
        }
    });

    let mut announced = Vec::new();
    let listening = [
        ("gateway", Some(gateway_port.local_addr()?.to_string())),
        ("scheduler", Some(scheduler_port.local_addr()?.to_string())),
        ("cluster", Some(cluster_port.local_addr()?.to_string())),
        ("admin", None),
        ("autoscaler", None),
    ];
    for (daemon, address) in listening {
        let pid = std::process::id();
        let record = DaemonRecord { daemon: daemon.into(), instance: format!("local-{pid}"), address, pid };
        announced.push(announce(&engine, &record, ANNOUNCED).await?);
    }
    if brief.restarts > 0 {
        let fault = Fault {
            id: uuid::Uuid::now_v7(),
            kind: 4,
            set: String::new(),
            pod: "control".into(),
            incarnation: brief.restarts,
            seen: "the process ended".into(),
        };
        admin::keep(&*engine, &fault).await?;
    }

    let mut daemons = JoinSet::new();
    let cluster = cluster::Setup {
        config: config.clone(),
        state: brief.state.clone(),
        fresh: brief.restarts == 0,
        engine: engine.clone(),
        backend: Arc::new(backend),
        pods,
        listener: cluster_port,
        shutdown: ending.clone(),
    };
    spawn(&mut daemons, "cluster", cluster::run(cluster));
    spawn(
        &mut daemons,
        "scheduler",
        scheduler::run(config.clone(), engine.clone(), scheduler_port, ending.clone()),
    );
    spawn(&mut daemons, "gateway", gateway::run(config.clone(), engine.clone(), gateway_port, ending.clone()));
    spawn(&mut daemons, "admin", admin::run(config.clone(), engine.clone(), ending.clone()));
    spawn(&mut daemons, "autoscaler", autoscaler::run(config, engine, ending));
    say.send(FromControl::Serving { url })?;
    Ok(Control { daemons, announced, reports, shutdown })
}

impl Control {
    /// Passes reports on until the input ends; ends early when a daemon does.
    async fn serve(mut self, mut lines: tokio::io::Lines<BufReader<Stdin>>) -> Result<(), Failure> {
        let outcome = loop {
            tokio::select! {
                line = lines.next_line() => match line {
                    Ok(Some(line)) => match serde_json::from_str(&line) {
                        Ok(ToControl::Report(report)) => {
                            // The backend's task lives as long as this process.
                            let _ = self.reports.send(report);
                        }
                        Err(error) => tracing::warn!(%error, "a line of the supervisor was not understood"),
                    },
                    Ok(None) | Err(_) => break Ok(()),
                },
                Some(ended) = self.daemons.join_next() => {
                    let (daemon, outcome) = ended?;
                    let error = outcome.err().unwrap_or_else(|| "it ended by itself".into());
                    tracing::error!(daemon, %error, "a daemon ended; the control plane starts again");
                    break Err(error);
                }
            }
        };
        self.shutdown.send_replace(true);
        let drained = async {
            while let Some(ended) = self.daemons.join_next().await {
                if let Ok((daemon, Err(error))) = ended {
                    tracing::warn!(daemon, %error, "a daemon failed while ending");
                }
            }
        };
        let _ = tokio::time::timeout(GRACE, drained).await;
        drop(self.announced);
        outcome
    }
}

fn spawn<E: Into<Failure>>(
    daemons: &mut JoinSet<(&'static str, Result<(), Failure>)>,
    name: &'static str,
    daemon: impl Future<Output = Result<(), E>> + Send + 'static,
) {
    daemons.spawn(async move { (name, daemon.await.map_err(Into::into)) });
}

async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("can't listen on {address}: {error}; choose another with --listen").into())
}

fn local() -> std::net::SocketAddr {
    std::net::SocketAddr::from(([127, 0, 0, 1], 0))
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

/// Where a platform that keeps its state keeps it.
#[must_use]
pub fn state_folder(data: &Path) -> std::path::PathBuf {
    data.join("platform")
}
