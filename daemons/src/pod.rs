//! A pod's side of the conversation with whoever started it.
//!
//! A pod is a process (or a Kubernetes pod) that runs `quorate worker` or `quorate replica`. It is told
//! what it is by a [`PodSpec`] file. On one machine it then speaks in lines of JSON: on its standard
//! output it says where it listens and that it is ready ([`Said`]), on its standard input it is told
//! where its peers are ([`Told`]). When the input ends, whoever started it is gone, and so is the pod:
//! nothing is left behind however the supervisor died.
//!
//! In Kubernetes nobody holds a pipe. The same lines then go over TCP, with whoever connects to the
//! pod's port for that ([`attach`]), and the pod outlives them.

pub mod attach;

use crate::{
    config::{Durability, Replication},
    hex,
    identity::{self, IdentityError},
    set::succession,
    tls::{Files, TlsError},
    wires::Wires,
};
use quorate_dag::Function;
use quorate_pbft::{
    Configuration, ReplicaId,
    crypto::{Identity, InvalidIdentity},
    membership::{Chain, Succession},
    runtime::AddressBook,
};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpListener,
    sync::watch,
};
use zeroize::Zeroizing;

/// What a pod is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    /// Its name: `add-0-worker`, `add-0-replica-2`.
    pub pod: String,
    /// Its set.
    pub set: String,
    /// The set's function, by name.
    pub function: String,
    /// Its index among the replicas; a worker has none.
    pub index: Option<u32>,
    /// How many times it was made anew, from 1.
    pub incarnation: u64,
    /// Whether replicas agree on the set's results.
    pub replication: Replication,
    /// The PBFT genesis (`quorate_pbft::Configuration`), hexadecimal; replicated sets only.
    pub genesis: Option<String>,
    /// What followed the genesis (`quorate_pbft::membership::Succession`), hexadecimal: for a worker all
    /// that is known, for a replica what made it a member.
    #[serde(default)]
    pub successions: Vec<String>,
    /// Its RSA identity (PKCS#8, PEM or DER as `identity` keeps it); replicated sets only.
    pub identity: Option<PathBuf>,
    /// Where its gRPC services shall listen: the address it had before, or port 0. When the address is
    /// taken, the pod takes another port and says so.
    pub listen: String,
    /// Where a replica's PBFT transport shall listen, in the same way.
    pub transport: Option<String>,
    /// Its own folder: a replica's journal lies there.
    pub data: PathBuf,
    /// Whether a replica said in a former life that it listens: then its journal must be there. One
    /// that lost its journal must not come back, because it could contradict what it promised.
    pub resumes: bool,
    /// What its journal survives.
    pub durability: Durability,
    /// How many operations a worker has in flight.
    pub slots: u32,
    /// What it shows to others, and whom it believes; whoever starts it says so. None where connections are
    /// not protected.
    #[serde(default)]
    pub tls: Option<Files>,
}

/// The name of a member's pod: a replica's by its index, or the worker's.
pub(crate) fn name_of(set: &str, index: Option<u32>) -> String {
    index.map_or_else(|| format!("{set}-worker"), |index| format!("{set}-replica-{index}"))
}

impl PodSpec {
    /// A plain worker of the first set of a function, on loopback, with one slot: tests and benchmarks say
    /// what is otherwise.
    #[doc(hidden)]
    #[must_use]
    pub fn plain(function: &str) -> Self {
        Self {
            pod: format!("{function}-0-worker"),
            set: format!("{function}-0"),
            function: function.into(),
            index: None,
            incarnation: 1,
            replication: Replication::None,
            genesis: None,
            successions: Vec::new(),
            identity: None,
            listen: "127.0.0.1:0".into(),
            transport: None,
            data: "unused".into(),
            resumes: false,
            durability: Durability::Process,
            slots: 1,
            tls: None,
        }
    }

    /// Reads a spec from its file.
    ///
    /// # Errors
    /// When the file can't be read or is not a spec.
    pub fn read(path: &Path) -> Result<Self, SpecError> {
        let text =
            std::fs::read(path).map_err(|source| SpecError::Unreadable { path: path.into(), source })?;
        serde_json::from_slice(&text).map_err(|source| SpecError::Malformed { path: path.into(), source })
    }

    /// The genesis of its set's group.
    ///
    /// # Errors
    /// When it has none, or that makes no sense.
    pub fn genesis(&self) -> Result<Configuration, SpecError> {
        let malformed = || SpecError::Genesis { pod: self.pod.clone() };
        let bytes = self.genesis.as_deref().and_then(hex::decode).ok_or_else(malformed)?;
        Configuration::from_bytes(&bytes).map_err(|_| malformed())
    }

    /// What followed the genesis.
    ///
    /// # Errors
    /// When it makes no sense. Whether it follows is not checked yet.
    pub fn successions(&self) -> Result<Vec<Succession>, SpecError> {
        let all = self.successions.iter().map(|text| succession(text)).collect::<Option<_>>();
        all.ok_or_else(|| SpecError::Successions { pod: self.pod.clone() })
    }

    /// The members of its set's group, from the genesis to the latest that it is told of.
    ///
    /// # Errors
    /// When there is no genesis, or something does not follow from it.
    pub fn chain(&self) -> Result<Chain, SpecError> {
        Chain::of(self.genesis()?, self.successions()?)
            .map_err(|_| SpecError::Successions { pod: self.pod.clone() })
    }

    /// Its RSA identity.
    ///
    /// # Errors
    /// When it has none, or the file can't be read.
    pub fn identity(&self) -> Result<Identity, SpecError> {
        let path = self.identity.as_deref().ok_or_else(|| SpecError::NoIdentity { pod: self.pod.clone() })?;
        let der = std::fs::read(path)
            .map(Zeroizing::new)
            .map_err(|source| SpecError::Unreadable { path: path.into(), source })?;
        Identity::from_pkcs8(&der).map_err(|source| SpecError::Identity { path: path.into(), source })
    }

    /// Its connections.
    ///
    /// # Errors
    /// When the certificate that it was given can't be used.
    pub fn wires(&self) -> Result<Wires, SpecError> {
        Wires::of_pod(self.tls.as_ref())
            .map_err(|source| SpecError::Tls { pod: self.pod.clone(), source: Box::new(source) })
    }

    /// Where a replica's journal lies.
    pub(crate) fn journal(&self) -> PathBuf {
        self.data.join("journal")
    }

    /// What its RSA identity is kept under, and its folder: whoever takes a lost replica's place has nothing
    /// of it.
    pub(crate) fn key(&self) -> String {
        match (self.index, self.successions.len()) {
            (Some(index), number @ 1..) => identity::successor(index, number as u64),
            (index, _) => identity::member(index),
        }
    }

    /// The function it computes.
    ///
    /// # Errors
    /// When the name is none of the built-in ones.
    pub fn function(&self) -> Result<Function, SpecError> {
        Function::from_name(&self.function)
            .ok_or_else(|| SpecError::Function { pod: self.pod.clone(), function: self.function.clone() })
    }
}

/// Why a pod does not know what it is.
#[derive(Debug, thiserror::Error)]
pub enum SpecError {
    /// The file can't be read.
    #[error("can't read the pod's spec {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not a spec.
    #[error("{} is not a pod's spec: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The function is not one that the platform has.
    #[error("pod {pod} has function `{function}`; there are add, sub, mul and div")]
    Function {
        /// The pod.
        pod: String,
        /// The name that was given.
        function: String,
    },
    /// It has no genesis, or one that makes no sense.
    #[error("pod {pod} has no PBFT genesis that makes sense, and its set is replicated")]
    Genesis {
        /// The pod.
        pod: String,
    },
    /// It is told of members that do not follow from its genesis.
    #[error("pod {pod} is told of replaced members, but not what proves that they were replaced")]
    Successions {
        /// The pod.
        pod: String,
    },
    /// It has no identity.
    #[error("pod {pod} has no identity, and its set is replicated")]
    NoIdentity {
        /// The pod.
        pod: String,
    },
    /// The file holds no identity.
    #[error("{} holds no identity: {source}", path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        source: InvalidIdentity,
    },
    /// It is told to be a replica without an index or without a transport.
    #[error("pod {pod} is told to be a replica, but not {missing}")]
    Replica {
        /// The pod.
        pod: String,
        /// What it was not told.
        missing: &'static str,
    },
    /// There is no randomness to make session keys from.
    #[error(transparent)]
    Seed(#[from] IdentityError),
    /// Its certificate can't be used.
    #[error("pod {pod} can't protect its connections: {source}")]
    Tls {
        /// The pod.
        pod: String,
        /// Why.
        source: Box<TlsError>,
    },
}

/// A line that a pod writes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Said {
    /// It has bound its ports.
    Listening {
        /// Its gRPC services.
        address: String,
        /// A replica's PBFT transport.
        transport: Option<String>,
    },
    /// It answers: a plain worker at once, a replica when it takes part, a replicated set's worker when
    /// it has reached a quorum of its replicas.
    Ready,
    /// A replicated set's worker has seen that its group replaced a member.
    Succeeded {
        /// What proves it (`quorate_pbft::membership::Succession`), hexadecimal.
        succession: String,
    },
}

/// A line that a pod reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// Where the replicas' transports listen, by index; `None` where that is not known yet.
    Peers {
        /// The addresses.
        transports: Vec<Option<String>>,
    },
    /// For a replicated set's worker: that its group shall replace a member.
    Reconfigure {
        /// The order (`quorate_pbft::membership::Reconfigure`), hexadecimal.
        order: String,
    },
}

/// Asks the kernel to end this process with its parent, so that even a stopped one does not outlive it.
pub(crate) fn end_with_parent() {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Signal, set_parent_process_death_signal};
        // Refused only where there is no such call; the closing pipe still ends us there.
        let _ = set_parent_process_death_signal(Some(Signal::KILL));
    }
}

/// The conversation, from inside the pod.
pub struct Attachment {
    /// Says something to whoever started the pod.
    pub say: Say,
    /// Where the replicas' transports listen, as last told.
    pub peers: watch::Receiver<Vec<Option<String>>>,
    /// The order to replace a member, as last told; hexadecimal.
    pub orders: watch::Receiver<Option<String>>,
    /// Becomes true when the pod has to end.
    pub ended: watch::Receiver<bool>,
}

impl Attachment {
    /// Takes over standard input and output, and asks the kernel to end this process with its parent, so that even
    /// a stopped pod does not outlive the supervisor.
    #[must_use]
    pub fn new(replicas: u32) -> Self {
        end_with_parent();
        let (told, peers, orders) = Ears::new(replicas);
        let (end, ended) = watch::channel(false);
        tokio::spawn(async move {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                match serde_json::from_str(&line) {
                    Ok(word) => told.hear(word),
                    Err(error) => tracing::warn!(%error, "a line on standard input was not understood"),
                }
            }
            end.send_replace(true);
        });
        Self { say: Box::new(print), peers, orders, ended }
    }
}

/// What the pod is told, as last told.
struct Ears {
    peers: watch::Sender<Vec<Option<String>>>,
    orders: watch::Sender<Option<String>>,
}

impl Ears {
    #[expect(clippy::type_complexity, reason = "one sender and its two receivers")]
    fn new(replicas: u32) -> (Self, watch::Receiver<Vec<Option<String>>>, watch::Receiver<Option<String>>) {
        let replicas = usize::try_from(replicas).unwrap_or(usize::MAX);
        let (peers, peers_heard) = watch::channel(vec![None; replicas]);
        let (orders, orders_heard) = watch::channel(None);
        (Self { peers, orders }, peers_heard, orders_heard)
    }

    fn hear(&self, told: Told) {
        match told {
            Told::Peers { transports } => drop(self.peers.send_replace(transports)),
            Told::Reconfigure { order } => drop(self.orders.send_replace(Some(order))),
        }
    }
}

/// How a pod says something.
pub type Say = Box<dyn Fn(&Said) + Send + Sync>;

fn print(said: &Said) {
    use std::io::Write;
    let line = serde_json::to_string(said).expect("plain strings serialise");
    let mut out = std::io::stdout().lock();
    // A closed pipe means that the pod is about to be told to end.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// Follows what is told about peers as the PBFT runtime wants it, until nobody tells any more.
#[must_use]
pub fn address_book(mut peers: watch::Receiver<Vec<Option<String>>>) -> watch::Receiver<AddressBook> {
    let book = |transports: &[Option<String>]| -> AddressBook {
        let known = (0..).map(ReplicaId).zip(transports);
        known.filter_map(|(replica, address)| Some((replica, address.as_deref()?))).collect()
    };
    let (tell, books) = watch::channel(book(&peers.borrow_and_update()));
    tokio::spawn(async move {
        while peers.changed().await.is_ok() {
            tell.send_replace(book(&peers.borrow_and_update()));
        }
        // The last word stands.
        tell.closed().await;
    });
    books
}

/// A listener at the wished address, or at another port of the same host when that one is taken: a pod
/// that can be found by a new address is better than none.
///
/// # Errors
/// When the host is not this machine's, or no port can be had.
pub async fn bind(wished: &str) -> std::io::Result<TcpListener> {
    match TcpListener::bind(wished).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
            let host = wished.rsplit_once(':').map_or(wished, |(host, _)| host);
            TcpListener::bind(format!("{host}:0")).await
        }
        Err(error) => Err(error),
    }
}
