//! A recorded load replayed against policies: what would each have cost, and who would have waited?
//!
//! Everything is a function of the trace, the seed and the policy: integer microseconds, one random number a
//! request, no clock and no thread. The requests of a [`Workload`] are drawn once, so every policy meets the
//! same ones.
//!
//! ```
//! use quorate_scaler::Seconds;
//! use quorate_scaler::policy::{AnyPolicy, Name};
//! use quorate_scaler::sim::{Oracle, Replay, Service, Trace, Workload};
//!
//! let counts: String = (0..600).map(|second| if second % 200 < 20 { "40\n" } else { "4\n" }).collect();
//! let trace = Trace::parse(&counts)?; // one count a second; a header may say otherwise
//! let workload = Workload::new(&trace, 1, Service::Exponential)?;
//! let replay = Replay { start_delay: Seconds::new(10), ..Replay::default() };
//!
//! let mut balanced = AnyPolicy::new(Name::Balanced, &replay.conditions());
//! let outcome = replay.run(&workload, &mut balanced);
//! let oracle = Oracle::new(&workload, replay.slo).cost(replay.start_delay);
//! assert_eq!(outcome.requests, workload.requests());
//! assert!(outcome.pod_seconds() > oracle);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # The model
//!
//! One queue, first come, first served; pods are alike and serve one request at a time. Events happen in
//! order of time; at the same microsecond completions come first, then pods that become ready, then arrivals.
//! A tick is once a second, after everything up to and including that instant, and its decision holds at
//! once. A pod that is ordered is ready one start delay later. Of pods that are too many, starting ones go
//! first (newest first), then idle ones, then those that finish next; a pod that leaves is not called back.

mod forecast;
mod oracle;
mod random;
mod replay;
mod trace;
mod workload;

pub use forecast::forecast;
pub use oracle::Oracle;
pub use replay::{Outcome, Replay, Tick};
pub use trace::{Trace, TraceError};
pub use workload::{REQUESTS_MAX, Service, Workload, WorkloadError};
