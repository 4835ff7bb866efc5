//! Embedded Byzantine fault-tolerant consensus (PBFT) as a state machine without I/O.
#![forbid(unsafe_code)]

pub mod client;
pub mod crypto;
pub mod group;
pub mod history;
pub mod journal;
pub mod message;
pub mod receipt;
pub mod replica;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod service;
mod time;

pub use client::{Client, ClientAction, ClientSettings, Options, Outcome, RequestId, SubmitRefused};
pub use group::{
    ClientId, Configuration, Group, GroupId, Incarnation, InvalidConfiguration, Limits, Permutation,
    ReplicaId, Sequence, Timestamp, View, Voters,
};
pub use replica::{
    Action, Ignored, JournalPosition, Misbehaviour, Record, RecoveryFailed, Replica, Settings,
};
pub use service::{Context, NotReadOnly, Service, State};
pub use time::Instant;
