//! What can be configured, with its defaults. `quorate.toml`, the environment and flags are layered over
//! them by [`Sources::load`], which says of every value where it came from.

mod engines;
mod error;
mod keys;
mod load;
mod pods;
#[cfg(test)]
mod tests;
mod tls;

pub use engines::{Aws, Dynamo, Engines, Etcd, QueueEngine, RecordsEngine, Sqs, StoreEngine};
pub use error::{ConfigError, ConfigErrors, Fault, Place};
pub use keys::parse_time;
pub use load::{FILE, InForce, Loaded, Sources};
pub use pods::{Kubernetes, PodBackend, Spread};
pub use tls::{Inside, Tls};

use quorate_dag::Function;
use quorate_scaler::policy::Name;
use serde::{Deserialize, Serialize};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

/// All that is in force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where state lies: identities, the database, journals.
    pub data: PathBuf,
    /// Where the gateway listens; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Under which address others reach the ports of daemons that run by themselves.
    pub advertise: IpAddr,
    /// Where a daemon that runs by itself tells its health and its metrics; `None`: nowhere.
    pub monitor: Option<SocketAddr>,
    /// Where pods run.
    pub backend: PodBackend,
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// Who may come to the gateway.
    pub gateway: GatewayConfig,
    /// How each function runs.
    pub functions: Functions,
    /// What a request may cost.
    pub limits: Limits,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// Where queues, records and metadata are.
    pub engines: Engines,
    /// What pods are in Kubernetes.
    pub kubernetes: Kubernetes,
    /// How connections inside the platform are protected.
    pub tls: Tls,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: default_data(),
            listen: SocketAddr::from(([127, 0, 0, 1], 7400)),
            advertise: Ipv4Addr::LOCALHOST.into(),
            monitor: None,
            backend: PodBackend::default(),
            durability: Durability::Disk,
            gateway: GatewayConfig::default(),
            functions: Functions::default(),
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            engines: Engines::default(),
            kubernetes: Kubernetes::default(),
            tls: Tls::default(),
        }
    }
}

impl Config {
    /// Where a daemon listens that is reached under `advertise`, at a port that is free.
    #[must_use]
    pub fn any_port(&self) -> SocketAddr {
        let host = match self.advertise {
            own if own.is_loopback() => own,
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        SocketAddr::new(host, 0)
    }

    /// Where the platform's own authority lies.
    #[must_use]
    pub fn tls_folder(&self) -> PathBuf {
        self.data.join("tls")
    }

    /// Where others reach what listens at `address`.
    #[must_use]
    pub fn reached_at(&self, address: SocketAddr) -> SocketAddr {
        if address.ip().is_unspecified() { SocketAddr::new(self.advertise, address.port()) } else { address }
    }
}

/// The user's state directory (XDG Base Directory Specification), else a folder beside the caller.
fn default_data() -> PathBuf {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map_or_else(|| PathBuf::from(".quorate"), |state| state.join("quorate"))
}

/// The name that was probably meant, when one is near enough.
fn nearest<'a>(written: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(written, name), name))
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .map(|(_, name)| name.to_owned())
}

/// What an acknowledged write survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// A power cut: every commit is synced.
    Disk,
    /// The end of any process, not a power cut.
    Process,
}

/// Who may come to the gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayConfig {
    /// Whether tokens are asked for.
    pub access: Access,
    /// The file of tokens; `None`: `tokens.json` in the data folder.
    pub tokens: Option<PathBuf>,
    /// Its certificate, as PEM, with what is between it and its authority; `None`: HTTP without TLS.
    pub tls_cert: Option<PathBuf>,
    /// The certificate's key.
    pub tls_key: Option<PathBuf>,
}

impl GatewayConfig {
    /// Where tokens lie.
    #[must_use]
    pub fn tokens(&self, data: &Path) -> PathBuf {
        self.tokens.clone().unwrap_or_else(|| data.join("tokens.json"))
    }
}

/// Whether the gateway asks for tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// As soon as there are some; without any, only this machine may come.
    #[default]
    Auto,
    /// Never: whoever reaches it may do everything.
    Open,
    /// Always.
    Tokens,
}

/// The four functions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Functions {
    /// `left + right`.
    pub add: FunctionConfig,
    /// `left - right`.
    pub sub: FunctionConfig,
    /// `left * right`.
    pub mul: FunctionConfig,
    /// `left / right`.
    pub div: FunctionConfig,
}

impl Functions {
    /// The configuration of one function.
    #[must_use]
    pub fn of(&self, function: Function) -> &FunctionConfig {
        match function {
            Function::Add => &self.add,
            Function::Sub => &self.sub,
            Function::Mul => &self.mul,
            Function::Div => &self.div,
        }
    }
}

/// How one function runs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionConfig {
    /// Whether replicas agree on results.
    pub replication: Replication,
    /// Fewest and most worker sets (or plain workers).
    pub pods_min: u32,
    /// See `pods_min`.
    pub pods_max: u32,
    /// How many operations one worker has in flight.
    pub slots: u32,
    /// The policy that says how many worker sets there shall be.
    pub policy: Name,
    /// How long an operation may wait for a worker: what the policies with a model aim at.
    pub wait: Duration,
    /// Most worker sets that one decision adds and removes; 0 is any number.
    pub step_up: u32,
    /// See [`step_up`](Self::step_up).
    pub step_down: u32,
    /// Most changes in a minute; 0 is any number.
    pub changes_per_minute: u32,
    /// The policy `threshold>4` adds a pod at each tick at which more than this wait (the report: 4).
    pub threshold: u32,
    /// How long a pod stays that nothing needs.
    pub keep_alive: Duration,
}

/// Whether replicas agree on a function's results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// The worker executes by itself (the report's platform 1).
    None,
    /// 3f+1 replicas agree on every result, of which `f` may lie (platform 2).
    Byzantine {
        /// How many replicas may be faulty; at least 1.
        f: u32,
    },
}

impl Replication {
    /// How many replicas a set has.
    #[must_use]
    pub fn replicas(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Byzantine { f } => 3 * f + 1,
        }
    }

    /// How many of them may be faulty or away.
    #[must_use]
    pub fn faulty(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Byzantine { f } => f,
        }
    }
}

/// What a request may cost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// A request's body in bytes.
    pub body_bytes: usize,
    /// An expression's text in bytes.
    pub expression_bytes: usize,
    /// Operations of one expression.
    pub nodes: usize,
    /// Nested parentheses.
    pub nesting: usize,
    /// Digits of any value.
    pub digits: u32,
    /// Accepted requests that are not answered yet; more are refused with 503.
    pub accepted: usize,
    /// Requests a second of one token that says nothing else; more are refused with 429.
    pub requests_per_second: u32,
}

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// From acceptance to an answer; past it a request has failed.
    pub request: Duration,
    /// The longest `?wait=`.
    pub wait: Duration,
    /// How long a finished request can be read.
    pub keep: Duration,
    /// A scheduler's lease on an inbound message.
    pub lease: Duration,
    /// One operation at one worker, before another is tried.
    pub operation: Duration,
    /// Between probes of a pod.
    pub probe_every: Duration,
    /// Probes in a row that a pod may miss.
    pub probes_missed: u32,
    /// How long dispatch to a faulty worker pauses before the worker is written off (the report: 10 s).
    pub fault_pause: Duration,
    /// From ordering a pod to its being ready.
    pub pod_start: Duration,
}

impl Default for FunctionConfig {
    fn default() -> Self {
        Self {
            replication: Replication::Byzantine { f: 1 },
            pods_min: 0,
            pods_max: 4,
            slots: 256,
            policy: Name::Balanced,
            wait: Duration::from_secs(1),
            step_up: 0,
            step_down: 0,
            changes_per_minute: 0,
            threshold: 4,
            keep_alive: Duration::from_secs(300),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 2 << 20,
            expression_bytes: 1 << 20,
            nodes: 1_000_000,
            nesting: 100_000,
            digits: 10_000,
            accepted: 10_000,
            requests_per_second: 1000,
        }
    }
}

/// A scheduler's lease on an inbound message in SQS, whose every renewal is a request over the network.
pub(crate) const LEASE_ON_SQS: Duration = Duration::from_secs(10);

/// From ordering a pod in Kubernetes to its being ready: it finds a node, whose image may have to come first.
pub(crate) const POD_START_ON_KUBERNETES: Duration = Duration::from_secs(120);

/// Between probes of a pod in Kubernetes: over a network, and a replica that is taken for dead there costs
/// its whole set.
pub(crate) const PROBE_EVERY_ON_KUBERNETES: Duration = Duration::from_secs(1);

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            request: Duration::from_secs(60),
            wait: Duration::from_secs(60),
            keep: Duration::from_secs(24 * 3600),
            lease: Duration::from_secs(2),
            operation: Duration::from_secs(5),
            probe_every: Duration::from_millis(250),
            probes_missed: 3,
            fault_pause: Duration::from_secs(10),
            pod_start: Duration::from_secs(10),
        }
    }
}

/// `"none"` or `{ f = 1 }`, as in the configuration file.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum ReplicationText {
    Word(String),
    Group { f: u32 },
}

impl Serialize for Replication {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::None => ReplicationText::Word("none".into()),
            Self::Byzantine { f } => ReplicationText::Group { f },
        }
        .serialize(to)
    }
}

impl<'de> Deserialize<'de> for Replication {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match ReplicationText::deserialize(from)? {
            ReplicationText::Word(word) if word == "none" => Ok(Self::None),
            ReplicationText::Word(word) => {
                Err(D::Error::custom(format!("replication is \"none\" or {{ f = 1 }}, not \"{word}\"")))
            }
            ReplicationText::Group { f: 0 } => Err(D::Error::custom(
                "f = 0 tolerates no faulty replica; use at least 1, or replication = \"none\"",
            )),
            ReplicationText::Group { f } => Ok(Self::Byzantine { f }),
        }
    }
}
