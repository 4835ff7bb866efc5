//! Where pods run: made, listed, told and removed. Child processes of this machine, or Kubernetes.

#[cfg(feature = "kubernetes")]
pub mod kubernetes;
pub mod process;

use crate::{
    identity::{Identities, IdentityError, SetKeys},
    pod::{PodSpec, Said, Told},
    tls::Role,
};
use async_trait::async_trait;
use quorate_pbft::{Configuration, membership::Reconfigure};
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

    /// Makes the workers of a function reachable for programs of others, under a name as the backend has
    /// them; one that is there already is changed. Where the backend has no names, nothing is done.
    ///
    /// # Errors
    /// When the backend can't be reached, or does not take the name.
    async fn offer(&self, _name: &str, _function: &str) -> Result<(), BackendError> {
        Ok(())
    }

    /// Takes such a name back; one that is not there is no error.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn withdraw(&self, _name: &str) -> Result<(), BackendError> {
        Ok(())
    }

    /// A replicated set's pods have ended and none comes back: what there is of it beside them goes, too. Its
    /// keys stay.
    ///
    /// # Errors
    /// When the backend can't be reached.
    async fn forget(&self, _set: &str) -> Result<(), BackendError> {
        Ok(())
    }

    /// Whether a pod that is started again finds what its former life left in its data folder.
    fn keeps_data(&self) -> bool {
        true
    }

    /// The keys of a set with so many replicas, where its pods will find them; `identities` makes those
    /// that are missing.
    ///
    /// # Errors
    /// When they can't be had or kept.
    async fn keys(
        &self,
        identities: &Identities,
        set: &str,
        replicas: u32,
    ) -> Result<SetKeys, IdentityError> {
        let set = set.to_owned();
        identities.beside(move |identities| identities.obtain(&set, replicas)).await
    }

    /// The order that the replica with this index of a set with these members has its place given to
    /// another one, whose key lies where its pod will find it.
    ///
    /// # Errors
    /// When keys can't be had or kept, or the set's group would refuse the order.
    async fn order(
        &self,
        identities: &Identities,
        set: &str,
        members: &Configuration,
        index: u32,
    ) -> Result<Reconfigure, IdentityError> {
        let (set, members) = (set.to_owned(), members.clone());
        identities.beside(move |identities| identities.order(&set, &members, index)).await
    }
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

    /// Who it is on the platform's connections.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Worker => Role::Worker,
            Self::Replica => Role::Replica,
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
    /// What was asked makes no sense to whoever keeps the pods, or is not allowed: asking again changes
    /// nothing.
    #[error("{reason}")]
    Refused {
        /// Why.
        reason: String,
    },
    /// Whoever keeps the pods can't be reached, or does not do as asked; it may later.
    #[error("pods can't be {asked}: {source}")]
    Unavailable {
        /// What was asked, as a past participle.
        asked: &'static str,
        /// What stood in the way.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
