#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod decision;
mod expected;
mod limits;
mod observation;
pub mod policy;
mod queueing;
mod seconds;
#[cfg(feature = "sim")]
pub mod sim;
mod window;

pub use decision::{Decision, Reason};
pub use expected::Expected;
pub use limits::{CHANGES_PER_MINUTE_LIMIT, Fallback, InvalidLimits, Limited, LimitedState, Limits, Ruling};
pub use observation::Observation;
pub use policy::Policy;
pub use seconds::{InvalidSeconds, Seconds};
