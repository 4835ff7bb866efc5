//! The Quorate platform: daemons around the three libraries.
//!
//! `ARCHITECTURE.md` in the repository says what is where and why. What may be depended on is the
//! binary and its HTTP interface; this library exists so that tests and benchmarks can reach inside.

pub mod api;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
#[doc(hidden)]
pub mod conformance;
pub mod engine;
pub mod excerpt;
pub mod expression;
pub mod gateway;
pub mod pod;
pub mod queue;
pub mod records;
pub mod set;
pub mod sqlite;
pub mod store;
pub mod telemetry;

/// Becomes true when a daemon has to end: it drains what is in flight and returns.
pub type Shutdown = tokio::sync::watch::Receiver<bool>;

/// What the daemons say to each other, generated from `proto/quorate/v1/quorate.proto`.
#[allow(missing_docs, clippy::all, unreachable_pub, reason = "generated code")]
pub mod proto {
    include!("proto/quorate.v1.rs");
}
