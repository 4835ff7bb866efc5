//! Embedded Byzantine fault-tolerant consensus (PBFT) as a state machine without I/O.
#![forbid(unsafe_code)]

pub mod crypto;
pub mod group;
pub mod message;
pub mod replica;
pub mod service;
mod time;

pub use group::{
    ClientId, Configuration, Group, GroupId, Incarnation, InvalidConfiguration, Limits, Permutation,
    ReplicaId, Sequence, Timestamp, View, Voters,
};
pub use service::{Context, NotReadOnly, Service, State};
pub use time::Instant;
