//! Pods as child processes of this machine.
//!
//! The [`Nursery`] owns them and lives in the supervisor, so that pods outlive a control plane that
//! dies. The control plane's [`ProcessBackend`] speaks to it in [`Order`]s and [`Report`]s: lines of
//! JSON over the pipes between the two processes, or a channel when both are one process.

use super::{Backend, BackendError, PodDaemon, PodEvent, RunningPod, Stop};
use crate::{
    pod::{PodSpec, Said, Told},
    tls::{Authority, Name, TlsError},
};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::{mpsc, oneshot, watch},
};

/// How long a pod has to end by itself after its lifeline closed.
const GRACE: Duration = Duration::from_secs(2);

/// A line of a pod longer than this is not one of ours; the rest of its output is ignored.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Lines to a pod that may wait to be written; one that does not read is told nothing more.
const TOLD_MAX: usize = 64;

/// How long the supervisor has to list the pods before it is asked again.
const ANSWER: Duration = Duration::from_secs(1);

/// What the control plane asks of the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// Start a pod, ending an earlier one of its name.
    Start {
        /// What it runs.
        daemon: PodDaemon,
        /// Its name.
        pod: String,
        /// Which of its lives.
        incarnation: u64,
        /// The file that tells it what it is.
        spec: PathBuf,
    },
    /// End a pod.
    Stop {
        /// The pod.
        pod: String,
        /// How.
        how: Stop,
    },
    /// Write a line to a pod's standard input.
    Tell {
        /// The pod.
        pod: String,
        /// What.
        told: Told,
    },
    /// Report all that run.
    List {
        /// Which question this is: its answer says it, so that a lost answer is not taken for the next.
        question: u64,
    },
}

/// What the supervisor tells the control plane.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Report {
    /// Something became of a pod.
    Event(PodEvent),
    /// The answer to [`Order::List`].
    Running {
        /// To which question.
        question: u64,
        /// All that run.
        pods: Vec<RunningPod>,
    },
}

/// The cluster service's side.
pub struct ProcessBackend {
    folder: PathBuf,
    /// Makes the pods' certificates, where connections are protected.
    authority: Option<Arc<Authority>>,
    orders: mpsc::UnboundedSender<Order>,
    /// For what is known without the supervisor. Weak, so that the events end with its reports.
    events: mpsc::WeakUnboundedSender<PodEvent>,
    /// The last question and what was answered to it.
    answered: watch::Receiver<(u64, Vec<RunningPod>)>,
    questions: AtomicU64,
}

impl ProcessBackend {
    /// A backend that writes specs under `folder`, has `authority` make certificates, sends `orders`, and is
    /// told `reports`; and the events among them. Orders are as many as the cluster service gives, each a few
    /// hundred bytes.
    #[must_use]
    pub fn new(
        folder: &Path,
        authority: Option<Arc<Authority>>,
        orders: mpsc::UnboundedSender<Order>,
        mut reports: mpsc::UnboundedReceiver<Report>,
    ) -> (Self, mpsc::UnboundedReceiver<PodEvent>) {
        let (answer, answered) = watch::channel((0, Vec::new()));
        let (events, event_list) = mpsc::unbounded_channel();
        let weak = events.downgrade();
        tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                match report {
                    Report::Event(event) => {
                        // Nobody listens any more: the daemon is ending.
                        let _ = events.send(event);
                    }
                    Report::Running { question, pods } => {
                        answer.send_replace((question, pods));
                    }
                }
            }
        });
        let questions = AtomicU64::new(0);
        (Self { folder: folder.into(), authority, orders, events: weak, answered, questions }, event_list)
    }

    /// Has a certificate made for this life of a pod, and writes what it is to its file.
    fn prepare(&self, daemon: PodDaemon, spec: &PodSpec) -> Result<PathBuf, String> {
        let certify = |authority: &Arc<Authority>| {
            authority.issue(daemon.role(), Some(&Name::of_pod(&spec.pod)))?.write(&spec.data)
        };
        let tls = self.authority.as_ref().map(certify).transpose();
        let tls = tls.map_err(|error: TlsError| format!("can't have its certificate: {error}"))?;
        let spec = PodSpec { tls, ..spec.clone() };
        self.write(&spec)
            .map_err(|error| format!("can't write its spec in {}: {error}", self.folder.display()))
    }

    /// Writes what a pod is to its file, whole or not at all.
    fn write(&self, spec: &PodSpec) -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join(format!("{}.json", spec.pod));
        let draft = path.with_extension("draft");
        std::fs::write(&draft, serde_json::to_vec_pretty(spec).expect("a spec is plain data"))?;
        std::fs::rename(&draft, &path)?;
        Ok(path)
    }

    fn order(&self, order: Order) -> Result<(), BackendError> {
        self.orders.send(order).map_err(|_| BackendError::Gone)
    }
}

#[async_trait]
impl Backend for ProcessBackend {
    async fn start(&self, daemon: PodDaemon, spec: &PodSpec) -> Result<(), BackendError> {
        let (pod, incarnation) = (spec.pod.clone(), spec.incarnation);
        match self.prepare(daemon, spec) {
            Ok(spec) => self.order(Order::Start { daemon, pod, incarnation, spec }),
            // A disk that is full now may have room later: a fault of this pod, and started again as any.
            Err(status) => {
                let events = self.events.upgrade().ok_or(BackendError::Gone)?;
                events.send(PodEvent::Ended { pod, incarnation, status }).map_err(|_| BackendError::Gone)
            }
        }
    }

    async fn stop(&self, pod: &str, how: Stop) -> Result<(), BackendError> {
        self.order(Order::Stop { pod: pod.into(), how })
    }

    async fn tell(&self, pod: &str, told: Told) -> Result<(), BackendError> {
        self.order(Order::Tell { pod: pod.into(), told })
    }

    async fn list(&self) -> Result<Vec<RunningPod>, BackendError> {
        let mut answered = self.answered.clone();
        loop {
            let question = self.questions.fetch_add(1, Ordering::Relaxed) + 1;
            self.order(Order::List { question })?;
            // Reports are dropped when this process does not keep up, and an answer is one of them.
            let answer = answered.wait_for(|(of, _)| *of >= question);
            match tokio::time::timeout(ANSWER, answer).await {
                Ok(Ok(answer)) => return Ok(answer.1.clone()),
                Ok(Err(_)) => return Err(BackendError::Gone),
                Err(_) => tracing::warn!("the supervisor did not list the pods within {ANSWER:?}"),
            }
        }
    }
}

/// The binary that children run, and what each of them is told first: how to log.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub binary: PathBuf,
    /// Arguments before the subcommand.
    pub arguments: Vec<String>,
}

impl Program {
    /// A child with both ends of its pipes here. Ctrl-C on the terminal is not for it: the supervisor
    /// ends its children in order.
    pub(crate) fn command(&self, subcommand: &str) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(&self.arguments).arg(subcommand);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        command
    }
}

/// The supervisor's side: the children.
pub struct Nursery {
    program: Program,
    pods: HashMap<String, Pod>,
    heard: mpsc::UnboundedSender<Heard>,
    hearing: mpsc::UnboundedReceiver<Heard>,
    /// A successor's start, to be told after its predecessor's end.
    next: Option<PodEvent>,
}

struct Pod {
    running: RunningPod,
    /// Lines for its standard input; closing it is the word to end.
    lines: Option<mpsc::Sender<String>>,
    /// Ends it by force.
    kill: Option<oneshot::Sender<()>>,
    /// Who takes its place once it has ended: two lives of one pod never share a journal or a port.
    successor: Option<Start>,
}

/// What is needed to start a pod.
struct Start {
    daemon: PodDaemon,
    pod: String,
    incarnation: u64,
    spec: PathBuf,
}

/// What the tasks beside a child hear of it.
enum Heard {
    Said { pod: String, incarnation: u64, said: Said },
    Ended { pod: String, incarnation: u64, status: String },
}

impl Nursery {
    /// An empty nursery whose pods run `program`.
    ///
    /// It must be driven on a thread that lives as long as the pods shall: on Linux a pod is ended with
    /// the thread that started it.
    #[must_use]
    pub fn new(program: Program) -> Self {
        let (heard, hearing) = mpsc::unbounded_channel();
        Self { program, pods: HashMap::new(), heard, hearing, next: None }
    }

    /// Carries out an order and says what came of it at once.
    pub fn carry_out(&mut self, order: Order) -> Vec<Report> {
        match order {
            Order::Start { daemon, pod, incarnation, spec } => {
                let start = Start { daemon, pod, incarnation, spec };
                if let Some(before) = self.pods.get_mut(&start.pod) {
                    let pod = start.pod.clone();
                    before.successor = Some(start);
                    self.stop(&pod, Stop::Now);
                    return Vec::new();
                }
                vec![Report::Event(self.start(start))]
            }
            Order::Stop { pod, how } => {
                self.stop(&pod, how);
                Vec::new()
            }
            Order::Tell { pod, told } => {
                let line = serde_json::to_string(&told).expect("plain data");
                if let Some(lines) = self.pods.get(&pod).and_then(|pod| pod.lines.as_ref())
                    && lines.try_send(line).is_err()
                {
                    tracing::warn!(%pod, "the pod does not read its standard input");
                }
                Vec::new()
            }
            Order::List { question } => {
                let mut running: Vec<_> = self.pods.values().map(|pod| pod.running.clone()).collect();
                running.sort_by(|a, b| a.pod.cmp(&b.pod));
                vec![Report::Running { question, pods: running }]
            }
        }
    }

    /// Waits for the next thing that becomes of a pod. Cancellation loses nothing.
    pub async fn next_event(&mut self) -> PodEvent {
        if let Some(event) = self.next.take() {
            return event;
        }
        loop {
            let heard = self.hearing.recv().await.expect("the nursery holds a sender itself");
            match heard {
                Heard::Said { pod, incarnation, said } => {
                    let Some(known) =
                        self.pods.get_mut(&pod).filter(|p| p.running.incarnation == incarnation)
                    else {
                        continue;
                    };
                    let same_kind =
                        |other: &Said| std::mem::discriminant(other) == std::mem::discriminant(&said);
                    known.running.said.retain(|other| !same_kind(other));
                    known.running.said.push(said.clone());
                    return PodEvent::Said { pod, incarnation, said };
                }
                Heard::Ended { pod, incarnation, status } => {
                    if let Some(successor) = self.pods.remove(&pod).and_then(|ended| ended.successor) {
                        self.next = Some(self.start(successor));
                    }
                    return PodEvent::Ended { pod, incarnation, status };
                }
            }
        }
    }

    /// Ends all pods and waits until they have ended, by force after a grace.
    pub async fn end_all(&mut self) {
        let names: Vec<_> = self.pods.keys().cloned().collect();
        for name in &names {
            self.stop(name, Stop::Gently);
        }
        for pod in self.pods.values_mut() {
            pod.successor = None;
        }
        while !self.pods.is_empty() {
            self.next_event().await;
        }
    }

    fn start(&mut self, Start { daemon, pod, incarnation, spec }: Start) -> PodEvent {
        let mut command = self.program.command(daemon.name());
        command.arg("--spec").arg(spec);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => {
                let status = format!("can't run {}: {error}", self.program.binary.display());
                return PodEvent::Ended { pod, incarnation, status };
            }
        };
        let pid = child.id();
        let stdin = child.stdin.take().expect("piped above");
        let stdout = child.stdout.take().expect("piped above");
        let (lines, to_write) = mpsc::channel(TOLD_MAX);
        let (kill, killed) = oneshot::channel();
        tokio::spawn(listen(stdout, pod.clone(), incarnation, self.heard.clone()));
        tokio::spawn(write_lines(stdin, to_write));
        tokio::spawn(wait(child, killed, pod.clone(), incarnation, self.heard.clone()));
        let running = RunningPod { pod: pod.clone(), incarnation, pid, said: Vec::new() };
        self.pods.insert(pod.clone(), Pod { running, lines: Some(lines), kill: Some(kill), successor: None });
        PodEvent::Started { pod, incarnation, pid }
    }

    /// Begins to end a pod; [`PodEvent::Ended`] follows.
    fn stop(&mut self, pod: &str, how: Stop) {
        let Some(pod) = self.pods.get_mut(pod) else { return };
        pod.lines = None;
        if let Some(kill) = pod.kill.take() {
            match how {
                Stop::Now => {
                    // The task beside it may have seen its end already.
                    let _ = kill.send(());
                }
                Stop::Gently => {
                    tokio::spawn(async move {
                        tokio::time::sleep(GRACE).await;
                        let _ = kill.send(());
                    });
                }
            }
        }
    }
}

/// Reads what a pod says.
async fn listen(stdout: ChildStdout, pod: String, incarnation: u64, heard: mpsc::UnboundedSender<Heard>) {
    let mut reader = BufReader::new(stdout);
    let mut line = Vec::new();
    loop {
        line.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        match serde_json::from_slice(&line) {
            Ok(said) => {
                let _ = heard.send(Heard::Said { pod: pod.clone(), incarnation, said });
            }
            Err(error) => tracing::warn!(%pod, %error, "a line of the pod was not understood"),
        }
    }
}

/// Writes lines until the channel closes; then the pipe closes, which tells the pod to end.
async fn write_lines(mut stdin: ChildStdin, mut lines: mpsc::Receiver<String>) {
    while let Some(line) = lines.recv().await {
        if stdin.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
    }
}

/// Waits for a child's end, and reaps it.
async fn wait(
    mut child: Child,
    killed: oneshot::Receiver<()>,
    pod: String,
    incarnation: u64,
    heard: mpsc::UnboundedSender<Heard>,
) {
    let status = tokio::select! {
        status = child.wait() => status,
        Ok(()) = killed => {
            // It may have ended in this moment; waiting below tells how.
            let _ = child.start_kill();
            child.wait().await
        }
    };
    let status = match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("can't be waited for: {error}"),
    };
    let _ = heard.send(Heard::Ended { pod, incarnation, status });
}
