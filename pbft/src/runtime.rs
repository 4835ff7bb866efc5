//! The ready-made driver: sockets, a journal thread, and a handle for clients, on tokio.
//!
//! [`serve`] runs one replica of a group until it is told to stop, and [`Client`] invokes operations
//! on a group. Both take addresses from an [`AddressBook`] in a watch channel: they are hints that
//! may change at any time, and prove nothing.
//!
//! Each replica has a thread of its own with a single-threaded tokio runtime in it: sockets, checks
//! and the state machine take turns there without locks or hand-overs, and a slow service blocks
//! nobody else's tasks. What one round of reading brings is handed to the state machine together,
//! and all that it says to one peer leaves by one system call. The journal has a second thread,
//! which syncs once for everything that came in while it synced. The clients of a [`Link`] share
//! one thread and one connection to each replica.
//!
//! Nothing here reads the environment, installs a signal handler, or outlives its handle.
//!
//! ```
//! use std::net::Ipv4Addr;
//! use bytes::Bytes;
//! use quorate_pbft::{
//!     ClientId, Configuration, Context, GroupId, Incarnation, ReplicaId, Service, State,
//!     crypto::{Identity, SeedRng},
//!     runtime::{AddressBook, Client, ClientSetup, ReplicaSetup, serve},
//! };
//! use tokio::{net::TcpListener, sync::watch};
//!
//! struct Echo;
//! impl Service for Echo {
//!     fn execute(&self, _: &Context, operation: &[u8], _: &mut State) -> Bytes {
//!         Bytes::copy_from_slice(operation)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut rng = SeedRng::new([1; 32]); // a real one comes from the operating system
//! let replicas: Vec<_> = (0..4).map(|_| Identity::generate(&mut rng)).collect::<Result<_, _>>()?;
//! let client = Identity::generate(&mut rng)?;
//! let keys = replicas.iter().map(|identity| identity.public_key().clone()).collect();
//! let clients = vec![client.public_key().clone()];
//! let configuration = Configuration::genesis(GroupId([7; 16]), keys, clients);
//!
//! // In real life the four are processes on four machines.
//! let (book, peers) = watch::channel(AddressBook::default());
//! let mut handles = Vec::new();
//! for (id, identity) in (0..).map(ReplicaId).zip(replicas) {
//!     let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
//!     let address = listener.local_addr()?;
//!     book.send_modify(|book| book.set(id, address));
//!     let (configuration, peers) = (configuration.clone(), peers.clone());
//!     let setup = ReplicaSetup::new(configuration, id, identity, listener, peers, rng.next_seed());
//!     handles.push(serve(setup, Echo)?);
//! }
//!
//! let seed = rng.next_seed();
//! let setup = ClientSetup::new(configuration, ClientId(0), client, Incarnation(1), peers, seed);
//! let client = Client::connect(setup)?;
//! let reply = client.invoke(Bytes::from_static(b"hello")).await?;
//! assert_eq!(reply.result, "hello");
//! assert!(reply.agreed.count() >= 3);
//! for handle in handles {
//!     handle.shutdown().await?;
//! }
//! # Ok(())
//! # }
//! ```

mod accept;
mod client;
mod connection;
mod dial;
mod disk;
mod frame;
mod identities;
mod link;
mod patience;
mod routes;
mod secure;
mod serve;

use std::{collections::BTreeMap, time::Duration};

#[cfg(feature = "sim")]
pub use self::serve::Twist;
pub use self::{
    client::{Client, ClientFailed, ClientSetup, ClientStatus, Link, LinkSetup, Reply, Suspicion},
    identities::generate_identities,
    secure::{Broken, Protection, Secure, Session},
    serve::{ReplicaHandle, ReplicaSetup, ReplicaStatus, ServeFailed, serve},
};
pub use crate::journal::{JournalFailed, JournalSetup, SyncPolicy};
use crate::{
    group::{Configuration, ReplicaId},
    time::Instant,
};

/// Where replicas listen, as far as known: `host:port` each. A hint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressBook(BTreeMap<ReplicaId, String>);

impl AddressBook {
    /// Notes where a replica listens.
    pub fn set(&mut self, replica: ReplicaId, address: impl ToString) {
        self.0.insert(replica, address.to_string());
    }

    /// Forgets where a replica listened.
    pub fn remove(&mut self, replica: ReplicaId) {
        self.0.remove(&replica);
    }

    /// Where a replica listens.
    pub fn get(&self, replica: ReplicaId) -> Option<&str> {
        self.0.get(&replica).map(String::as_str)
    }

    /// All that are known, by index.
    pub fn iter(&self) -> impl Iterator<Item = (ReplicaId, &str)> {
        self.0.iter().map(|(replica, address)| (*replica, address.as_str()))
    }
}

impl<A: ToString> FromIterator<(ReplicaId, A)> for AddressBook {
    fn from_iter<I: IntoIterator<Item = (ReplicaId, A)>>(addresses: I) -> Self {
        Self(addresses.into_iter().map(|(id, address)| (id, address.to_string())).collect())
    }
}

/// Sizes and times of connections, and what protects them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransportSettings {
    /// The longest frame that is taken; none means what the configuration's batches need.
    pub frame_bytes_max: Option<usize>,
    /// What waits for a connection that doesn't take it, in bytes; beyond it the oldest is
    /// dropped, and retransmission repairs it.
    pub queue_bytes_max: usize,
    /// How many connections may come in; more are closed at once.
    pub connections_max: usize,
    /// How long a connection may take until its greeting is through.
    pub greeting_timeout: Duration,
    /// The wait after a connection failed. It doubles from one failure to the next, with jitter.
    pub redial_min: Duration,
    /// The longest such wait.
    pub redial_max: Duration,
    /// How often session keys are renewed.
    pub key_period: Duration,
    /// How long keys of before are accepted after that.
    pub key_grace: Duration,
    /// What stands between sockets and frames. All members and clients of a group have it, or none.
    pub protection: Protection,
}

impl Default for TransportSettings {
    fn default() -> Self {
        Self {
            frame_bytes_max: None,
            queue_bytes_max: 32 << 20,
            connections_max: 1024,
            greeting_timeout: Duration::from_secs(5),
            redial_min: Duration::from_millis(10),
            redial_max: Duration::from_secs(1),
            key_period: Duration::from_secs(3600),
            key_grace: Duration::from_secs(60),
            protection: Protection(None),
        }
    }
}

impl TransportSettings {
    fn frame_bytes_max(&self, configuration: &Configuration) -> usize {
        // A batch of the longest requests in one frame, each with its authenticator, all results
        // that are kept for a client, a stretch of the state, or a NEW-VIEW; twice a batch, and what
        // is added, leave room for what protobuf adds.
        let limits = &configuration.limits;
        let new_view = usize::try_from(configuration.new_view_bytes_max()).unwrap_or(usize::MAX / 2);
        let most = (2 * limits.batch_bytes_max as usize).max(limits.reply_bytes_max as usize).max(new_view);
        self.frame_bytes_max.unwrap_or(most + (4 << 20))
    }
}

/// This process's clock as the state machines see it.
#[derive(Clone, Copy, Debug)]
struct Clock {
    start: tokio::time::Instant,
    unix_at_start: u64,
}

impl Clock {
    fn new() -> Self {
        let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let unix = unix.unwrap_or_default().as_nanos();
        Self { start: tokio::time::Instant::now(), unix_at_start: u64::try_from(unix).unwrap_or(u64::MAX) }
    }

    fn now(&self) -> Instant {
        Instant::default() + self.start.elapsed()
    }

    fn at(&self, instant: Instant) -> tokio::time::Instant {
        self.start + instant.since(Instant::default())
    }

    /// An epoch for keys made now: later processes get higher ones, unless the clock is set back.
    fn epoch(&self) -> u64 {
        (self.unix_at_start + self.now().0) / 1000
    }
}

/// The waits between tries to reach a peer.
#[derive(Debug)]
struct Backoff {
    next: Duration,
    min: Duration,
    max: Duration,
}

impl Backoff {
    fn new(settings: &TransportSettings) -> Self {
        Self { next: settings.redial_min, min: settings.redial_min, max: settings.redial_max }
    }

    fn reset(&mut self) {
        self.next = self.min;
    }

    /// The wait before the next try: between half of it and the whole, so that many don't come
    /// back at once.
    fn wait(&mut self, random: u64) -> Duration {
        let whole = self.next;
        self.next = (whole * 2).min(self.max);
        whole / 2 + whole / 2 * u32::try_from(random % 1024).expect("below 1024") / 1024
    }
}
