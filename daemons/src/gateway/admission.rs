//! What the gateway takes on at once: requests that are not answered yet, and bytes that are being read.

use super::problem::OVERLOADED;
use crate::{api::Problem, records::Records};
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    sync::{Mutex, Semaphore, SemaphorePermit},
    time::Instant,
};

/// How long a count of the records is good for once the limit is reached.
const COUNT_AGAIN: Duration = Duration::from_millis(20);

/// Bounds the requests that are accepted and not answered.
///
/// The estimate only grows until it reaches the limit; then the records are counted again. A count for
/// each request would cost as much as the request.
pub(super) struct Admission {
    estimate: AtomicU64,
    counted: Mutex<Option<Instant>>,
}

impl Admission {
    pub(super) fn new(limit: usize) -> Self {
        // The first request finds out what was left by an earlier life.
        Self { estimate: AtomicU64::new(limit as u64), counted: Mutex::new(None) }
    }

    /// Takes one more, or says why not.
    pub(super) async fn admit(&self, records: &dyn Records, limit: usize) -> Result<(), Problem> {
        if self.take_one(limit) {
            return Ok(());
        }
        let mut counted = self.counted.lock().await;
        if counted.is_none_or(|at| at.elapsed() >= COUNT_AGAIN) {
            self.estimate.store(records.accepted().await?, Ordering::Relaxed);
            *counted = Some(Instant::now());
        }
        drop(counted);
        if self.take_one(limit) {
            return Ok(());
        }
        Err(OVERLOADED.with(format!("limits.accepted ({limit}) requests are not answered yet")))
    }

    fn take_one(&self, limit: usize) -> bool {
        let below = |estimate| (estimate < limit as u64).then_some(estimate + 1);
        self.estimate.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below).is_ok()
    }
}

/// Bytes of bodies that are in memory at once; parsing them may take a multiple of it.
const BODIES_BYTES: usize = 64 << 20;

/// Bounds the memory that bodies take while they are read and parsed.
pub(super) struct Bodies(Semaphore);

impl Bodies {
    /// At least one body of the largest size that is allowed.
    pub(super) fn new(body_bytes: usize) -> Self {
        Self(Semaphore::new(kibibytes(BODIES_BYTES.max(body_bytes)) as usize))
    }

    /// Reserves room for a body, before a byte of it is read.
    pub(super) fn reserve(&self, bytes: usize) -> Result<SemaphorePermit<'_>, Problem> {
        self.0
            .try_acquire_many(kibibytes(bytes))
            .map_err(|_| OVERLOADED.with("the gateway is reading as much as it takes"))
    }
}

/// Rounded up: an empty body takes room, too.
fn kibibytes(bytes: usize) -> u32 {
    u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_beyond_the_budget_are_refused_until_one_is_done() {
        let bodies = Bodies::new(1 << 20);
        let first = bodies.reserve(BODIES_BYTES - 1024).expect("there is room");
        assert_eq!(bodies.reserve(4096).expect_err("full").kind, "overloaded");
        drop(first);
        assert!(bodies.reserve(4096).is_ok());
    }

    #[test]
    fn the_largest_allowed_body_fits_an_empty_budget() {
        assert!(Bodies::new(BODIES_BYTES * 2).reserve(BODIES_BYTES * 2).is_ok());
    }
}
