//! Embedded Byzantine fault-tolerant consensus (PBFT) as a state machine without I/O.
//!
//! A group of `3f + 1` replicas runs a [`Service`]; it gives right answers while up to `f` of them
//! crash, lie or collude, and while the network loses, delays, repeats and reorders what it likes.
//! The protocol is Castro and Liskov's (*Practical Byzantine Fault Tolerance and Proactive
//! Recovery*, TOCS 20(4), 2002).
//!
//! The core has no runtime, clock, socket, disk, thread or random source of its own. A [`Replica`]
//! and a [`Client`] take in messages and time, and give out [`Action`]s and [`ClientAction`]s:
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use bytes::Bytes;
//! use quorate_pbft::{ClientId, Context, Options, Service, State, sim::{Cluster, Setup}};
//!
//! #[derive(Clone)]
//! struct Echo;
//! impl Service for Echo {
//!     fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
//!         state.write(0, operation); // whatever a service keeps, it keeps in pages
//!         Bytes::copy_from_slice(operation)
//!     }
//! }
//!
//! let mut cluster = Cluster::new(Setup::new(1, 1), Echo); // four replicas and a client
//! cluster.submit(ClientId(0), Bytes::from("hello"), Options::default())?;
//! cluster.settle();
//! let (_, outcome) = cluster.take_outcomes().remove(0);
//! assert_eq!(outcome.result(), Some(&Bytes::from("hello")));
//! assert!(outcome.agreed.count() >= 3);
//! # }
//! # Ok::<(), quorate_pbft::SubmitRefused>(())
//! ```
//!
//! # Where to look
//!
//! | you want to | look at |
//! | --- | --- |
//! | write a service | [`Service`], [`State`] |
//! | run a group over TCP with tokio | `runtime` (feature `runtime`, on by default) |
//! | drive the state machines yourself | [`Replica`], [`Client`], [`Action`] |
//! | describe a group | [`Configuration`], [`Limits`] |
//! | replace a member whose disk is lost | [`membership`] |
//! | check a receipt offline | [`receipt`] |
//! | show others that a replica lied | [`evidence`] |
//! | test a service under faults | `sim` (feature `sim`) |
//!
//! # What it promises
//!
//! * **Safety** never depends on time: correct replicas execute the same operations in the same
//!   order, each exactly once, and only what a registered client sent.
//! * **Durability**: with a journal, a promise leaves a replica only after its record is durable
//!   ([`Action::Append`]). What a client was told survives a crash of all replicas at once. Whose disk is
//!   lost does not come back: the operator gives its place to another key ([`membership`]).
//! * **Liveness** once the network is timely: a primary that dies, hangs or lies is voted out by the
//!   others, and what was committed or prepared under it goes on under the next. A client that tags its
//!   requests for some replicas only costs the group one view at most.
//! * **Bounds**: memory is bounded by the [`Limits`], whatever peers and clients send.
//!
//! # What it does not do yet
//!
//! A primary that is slow, but not so slow that a request waits for eight time-outs, is not voted out.
//! A group cannot grow or shrink.
#![forbid(unsafe_code)]

pub mod client;
pub mod crypto;
pub mod evidence;
pub mod group;
pub mod history;
pub mod journal;
pub mod membership;
pub mod message;
#[cfg(feature = "sim")]
pub mod mutation;
#[cfg(not(feature = "sim"))]
mod mutation;
pub mod receipt;
pub mod replica;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod service;
#[cfg(feature = "sim")]
pub mod sim;
mod time;

pub use client::{Client, ClientAction, ClientSettings, Options, Outcome, RequestId, SubmitRefused};
pub use evidence::{Evidence, MisbehaviourProof};
pub use group::{
    ClientId, Configuration, Group, GroupId, Incarnation, InvalidConfiguration, Limits, Permutation,
    ReplicaId, Sequence, Timestamp, View, Voters,
};
#[cfg(feature = "sim")]
pub use replica::Held;
pub use replica::{
    Action, Ignored, JournalPosition, Misbehaviour, Readiness, Record, RecoveryFailed, Replica, Settings,
};
pub use service::{Context, NotReadOnly, Service, State};
pub use time::Instant;

/// The README's example is compiled and run.
#[cfg(all(doctest, feature = "runtime"))]
#[doc = include_str!("../README.md")]
struct Readme;
