//! The Quorate platform: daemons around the three libraries.
//!
//! `ARCHITECTURE.md` in the repository says what is where and why. What may be depended on is the
//! binary and its HTTP interface; this library exists so that tests and benchmarks can reach inside.

pub mod admin;
pub mod api;
pub mod autoscaler;
#[cfg(any(feature = "sqs", feature = "dynamo"))]
pub mod aws;
pub mod backend;
#[cfg(any(feature = "sqs", feature = "dynamo", feature = "etcd", feature = "kubernetes"))]
mod causes;
pub mod cli;
pub mod client;
pub mod clock;
pub mod cluster;
pub mod config;
#[doc(hidden)]
pub mod conformance;
pub mod control;
mod draft;
pub mod engine;
pub mod excerpt;
pub mod expression;
pub mod fault;
pub mod function;
pub mod gateway;
pub mod hex;
pub mod hold;
pub mod identity;
mod monitor;
pub mod pod;
pub mod queue;
pub mod receipt;
pub mod records;
pub mod replica;
pub mod scheduler;
pub mod set;
pub mod shutdown;
pub mod sqlite;
pub mod store;
pub mod supervisor;
pub mod telemetry;
pub mod tls;
pub mod token;
mod trouble;
pub mod wires;
pub mod witness;
pub mod worker;

/// What the daemons say to each other, generated from `proto/quorate/v1/quorate.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated code")]
pub mod proto {
    include!("proto/quorate.v1.rs");
}
