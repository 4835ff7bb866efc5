//! The simulation: its requests, its model, its oracle, and what policies do in it.
#![cfg(feature = "sim")]
#![allow(clippy::unwrap_used, reason = "a trace that is wrong shall stop the test")]

mod figures;
mod model;
mod oracle;
mod reference;
mod trace;
