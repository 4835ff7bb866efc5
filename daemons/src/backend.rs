//! Where pods run: made, listed, told and removed. Child processes of this machine, or Kubernetes.

pub mod process;

use crate::pod::{PodSpec, Said, Told};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// Makes and removes pods.
///
/// What became of a pod is told as [`PodEvent`]s on the channel that the implementation's constructor
/// returns; a pod that ended is not restarted: that is the cluster service's decision.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Starts a pod. An earlier pod of that name is ended first. One that can't be started is told as one
    /// that has ended.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn start(&self, daemon: PodDaemon, spec: &PodSpec) -> Result<(), BackendError>;

    /// Ends a pod: by closing its lifeline, then by force. One that is not there is no error.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn stop(&self, pod: &str, how: Stop) -> Result<(), BackendError>;

    /// Tells a running pod something; one that is not there is no error.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn tell(&self, pod: &str, told: Told) -> Result<(), BackendError>;

    /// The pods that run now.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn list(&self) -> Result<Vec<RunningPod>, BackendError>;
}

/// What a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodDaemon {
    /// `quorate worker`.
    Worker,
    /// `quorate replica`.
    Replica,
}

impl PodDaemon {
    /// The subcommand that runs it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Replica => "replica",
        }
    }
}

/// How a pod is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stop {
    /// It finishes what it has in flight; by force only when that takes too long.
    Gently,
    /// At once: it does not answer anyway.
    Now,
}

/// A pod as the backend sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunningPod {
    /// Its name.
    pub pod: String,
    /// Which of its lives this is.
    pub incarnation: u64,
    /// Its process, on this machine.
    pub pid: Option<u32>,
    /// What it has said, in order, each kind once and the latest.
    pub said: Vec<Said>,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodEvent {
    /// It runs.
    Started {
        /// The pod.
        pod: String,
        /// Which of its lives.
        incarnation: u64,
        /// Its process, on this machine.
        pid: Option<u32>,
    },
    /// It said something.
    Said {
        /// The pod.
        pod: String,
        /// Which of its lives.
        incarnation: u64,
        /// What.
        said: Said,
    },
    /// It ended, or could not be started.
    Ended {
        /// The pod.
        pod: String,
        /// Which of its lives.
        incarnation: u64,
        /// Exit status or reason, for a person.
        status: String,
    },
}

/// Why the backend did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Whoever keeps the pods does not answer.
    #[error("the supervisor of the pods is gone")]
    Gone,
}
