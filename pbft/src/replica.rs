//! The replica state machine.

mod record;

pub use record::{JournalPosition, Record};
