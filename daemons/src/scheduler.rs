//! The scheduler.
mod dispatch;
