//! The parent of a platform on one machine: one control-plane process and the pods it orders.
//!
//! The supervisor decides nothing about functions. It starts the control plane, starts it again when it
//! ends, and keeps the pods for it ([`Nursery`]), so that they live on while the control plane is away.
//! Everything it started ends with it: in order when it is asked to, and by itself when it is killed,
//! because each child holds the other end of a pipe and asks the kernel to be ended with its parent.

use crate::{
    backend::process::{Nursery, Order, Program, Report},
    config::Config,
};
use serde::{Deserialize, Serialize};
use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    sync::{oneshot, watch},
};

/// How long the control plane has to end by itself.
const GRACE: Duration = Duration::from_secs(3);

/// Between two starts of a control plane that ends at once; doubles with every start, up to the second.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));

/// A control plane that lived this long starts again without a pause.
const STEADY: Duration = Duration::from_secs(10);

/// What the control plane is told first: one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Brief {
    /// All that is in force.
    pub config: Config,
    /// Where the database, the specs and the journals lie. Identities lie in the configuration's data
    /// folder, which an ephemeral platform shares with others.
    pub state: PathBuf,
    /// How many times the control plane was started before.
    pub restarts: u64,
    /// The supervisor's process.
    pub supervisor: u32,
}

/// A line from the supervisor to the control plane, after the [`Brief`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToControl {
    /// About pods.
    Report(Report),
}

/// A line from the control plane to the supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromControl {
    /// It answers at this address.
    Serving {
        /// The gateway's URL.
        url: String,
    },
    /// It can't start. When it never served, trying again would not help.
    Refused {
        /// Why.
        reason: String,
    },
    /// About pods.
    Order(Order),
}

/// Why a platform did not start or did not go on.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// The binary can't be run.
    #[error("can't run {}: {source}", binary.display())]
    Binary {
        /// The binary.
        binary: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The control plane says that it can't start.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// The control plane ends whenever it is started.
    #[error("the control plane ended {times} times before it answered; its log is on standard error")]
    Failing {
        /// How often it was tried.
        times: u64,
    },
    /// The platform was asked to end before it answered.
    #[error("the platform was ended before it answered")]
    Ended,
}

/// A platform that runs under this process.
#[derive(Debug)]
pub struct Platform {
    url: watch::Receiver<Option<String>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<Result<(), SupervisorError>>>,
    ended: watch::Receiver<bool>,
}

impl Platform {
    /// Starts a platform and returns at once.
    ///
    /// The supervisor has a thread of its own, because on Linux children end with the thread that
    /// started them.
    #[must_use]
    pub fn start(program: Program, config: Config, state: &Path) -> Self {
        let (tell_url, url) = watch::channel(None);
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = watch::channel(false);
        let brief = Brief { config, state: state.into(), restarts: 0, supervisor: std::process::id() };
        let thread = std::thread::Builder::new().name("supervisor".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = match runtime {
                Ok(runtime) => runtime.block_on(supervise(&program, brief, &tell_url, stopped)),
                Err(source) => Err(SupervisorError::Binary { binary: program.binary, source }),
            };
            end.send_replace(true);
            outcome
        });
        Self { url, stop: Some(stop), thread: thread.ok(), ended }
    }

    /// Waits until the platform answers, and says where.
    ///
    /// # Errors
    /// When it can't start.
    pub async fn url(&mut self) -> Result<String, SupervisorError> {
        loop {
            if let Some(url) = self.url.borrow_and_update().clone() {
                return Ok(url);
            }
            if self.url.changed().await.is_err() {
                return Err(self.join().err().unwrap_or(SupervisorError::Ended));
            }
        }
    }

    /// Waits until the platform has ended by itself: it only does so when it can't go on.
    ///
    /// # Errors
    /// Why it could not go on.
    pub async fn ended(&mut self) -> Result<(), SupervisorError> {
        // The sender is dropped only after it said so.
        let _ = self.ended.wait_for(|ended| *ended).await;
        self.join()
    }

    /// Ends the platform in order, and returns when no process of it is left.
    ///
    /// # Errors
    /// When it had already failed.
    pub async fn stop(mut self) -> Result<(), SupervisorError> {
        drop(self.stop.take());
        self.ended().await
    }

    fn join(&mut self) -> Result<(), SupervisorError> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or(Err(SupervisorError::Ended)))
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.join();
    }
}

/// The control plane as a child.
struct Control {
    child: Child,
    /// Reports are dropped rather than queued without bound when it does not read.
    lines_out: tokio::sync::mpsc::Sender<String>,
    lines_in: Lines<BufReader<ChildStdout>>,
    since: Instant,
}

/// Lines to the control plane that may wait; it lists the pods again when it missed some.
const REPORTS_MAX: usize = 4096;

impl Control {
    fn start(program: &Program, brief: &Brief) -> io::Result<Self> {
        let mut child = program.command("control").spawn()?;
        let stdin = child.stdin.take().expect("piped above");
        let stdout = child.stdout.take().expect("piped above");
        let (lines_out, to_write) = tokio::sync::mpsc::channel(REPORTS_MAX);
        let brief = serde_json::to_string(brief).expect("a configuration is plain data");
        tokio::spawn(write_lines(stdin, brief, to_write));
        Ok(Self { child, lines_out, lines_in: BufReader::new(stdout).lines(), since: Instant::now() })
    }

    fn tell(&self, line: &ToControl) {
        let line = serde_json::to_string(line).expect("plain data");
        if self.lines_out.try_send(line).is_err() {
            tracing::warn!("the control plane does not read its standard input");
        }
    }
}

async fn write_lines(mut stdin: ChildStdin, first: String, mut lines: tokio::sync::mpsc::Receiver<String>) {
    let mut next = Some(first);
    while let Some(line) = next {
        if stdin.write_all(format!("{line}\n").as_bytes()).await.is_err() {
            return;
        }
        next = lines.recv().await;
    }
}

async fn supervise(
    program: &Program,
    mut brief: Brief,
    url: &watch::Sender<Option<String>>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<(), SupervisorError> {
    let mut nursery = Nursery::new(program.clone());
    let unrunnable = |source| SupervisorError::Binary { binary: program.binary.clone(), source };
    let mut control = Control::start(program, &brief).map_err(unrunnable)?;
    let mut pause = RESTART_PAUSE.0;
    let outcome = loop {
        tokio::select! {
            biased;
            _ = &mut stopped => break Ok(()),
            line = control.lines_in.next_line() => match line {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(FromControl::Order(order)) => {
                        for report in nursery.carry_out(order) {
                            control.tell(&ToControl::Report(report));
                        }
                    }
                    Ok(FromControl::Serving { url: at }) => {
                        // The next start listens where clients already look.
                        if let Some(address) = at.split_once("://").and_then(|(_, at)| at.parse().ok()) {
                            brief.config.listen = address;
                        }
                        url.send_replace(Some(at));
                    }
                    Ok(FromControl::Refused { reason }) if url.borrow().is_none() => {
                        break Err(SupervisorError::Refused { reason });
                    }
                    // It has served before: what is in its way now (a full disk, a taken port) may pass,
                    // and the pods live on meanwhile. It ends by itself, and is started again.
                    Ok(FromControl::Refused { reason }) => {
                        tracing::error!(%reason, "the control plane can't start; it is tried again");
                    }
                    Err(error) => tracing::warn!(%error, "a line of the control plane was not understood"),
                },
                // Its output has ended, and so has the process, or it is about to.
                Ok(None) | Err(_) => {
                    let _ = control.child.start_kill();
                    let status = control.child.wait().await;
                    tracing::warn!(?status, "the control plane ended; it is started again");
                    brief.restarts += 1;
                    if url.borrow().is_none() && brief.restarts >= 3 {
                        break Err(SupervisorError::Failing { times: brief.restarts });
                    }
                    if control.since.elapsed() > STEADY {
                        pause = RESTART_PAUSE.0;
                    }
                    tokio::select! {
                        _ = &mut stopped => break Ok(()),
                        () = tokio::time::sleep(pause) => {}
                    }
                    pause = (pause * 2).min(RESTART_PAUSE.1);
                    control = Control::start(program, &brief).map_err(unrunnable)?;
                }
            },
            event = nursery.next_event() => {
                control.tell(&ToControl::Report(Report::Event(event)));
            }
        }
    };
    // The control plane first, so that it does not take the pods' end for faults.
    let Control { mut child, lines_out, lines_in, .. } = control;
    drop(lines_out);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        let _ = child.start_kill();
        let _ = child.wait().await;
    }
    drop(lines_in);
    nursery.end_all().await;
    outcome
}
