//! Embedded Byzantine fault-tolerant consensus (PBFT) as a state machine without I/O.
#![forbid(unsafe_code)]
