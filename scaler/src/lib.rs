//! Autoscaling policies for workers on a queue, without I/O.
#![forbid(unsafe_code)]
