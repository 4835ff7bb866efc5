//! The rules of policies and limits: tables computed by hand, and properties that hold for any input.
#![allow(clippy::unwrap_used, reason = "a generator or a table that is wrong shall stop the test")]

mod every;
mod layer;
mod limits;
mod lookahead;
mod properties;
mod published;
#[cfg(feature = "serde")]
mod stored;
mod table;
mod threshold;
mod values;
