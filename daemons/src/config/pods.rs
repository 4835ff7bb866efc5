//! Where pods run, and how Kubernetes is asked for them.

use serde::{Deserialize, Serialize};

/// Where pods run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodBackend {
    /// As child processes of this machine.
    #[default]
    Process,
    /// In a Kubernetes cluster.
    Kubernetes,
}

/// What pods are in Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kubernetes {
    /// Their namespace; `None`: the one that this process runs in, or that its kubeconfig names.
    pub namespace: Option<String>,
    /// Their image, whose entry point is this program.
    pub image: Option<String>,
    /// What the names of their objects begin with: two platforms in one namespace have two.
    pub prefix: String,
    /// Whether two replicas of a set may share a node.
    pub spread: Spread,
    /// The processor time that each asks for.
    pub cpu: String,
    /// The memory that each asks for.
    pub memory: String,
    /// The most that a replica's journal may take of its node's disk.
    pub disk: String,
}

impl Default for Kubernetes {
    fn default() -> Self {
        Self {
            namespace: None,
            image: None,
            prefix: "quorate-".into(),
            spread: Spread::Hard,
            cpu: "100m".into(),
            memory: "128Mi".into(),
            disk: "1Gi".into(),
        }
    }
}

/// How the replicas of a set are spread over nodes: those that share one fail together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spread {
    /// One that finds no node of its own waits for one.
    #[default]
    Hard,
    /// As well as the nodes allow: for a cluster that has fewer than a set has replicas.
    Soft,
}
