//! The messages that are being worked on: their leases are renewed together until they are let go.

use crate::queue::{Handle, Queue};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Messages of one queue whose leases are renewed.
pub(super) struct Leases {
    queue: Arc<dyn Queue>,
    lease: Duration,
    held: Mutex<HashSet<Handle>>,
}

impl Leases {
    pub(super) fn new(queue: Arc<dyn Queue>, lease: Duration) -> Self {
        Self { queue, lease, held: Mutex::default() }
    }

    pub(super) fn queue(&self) -> &Arc<dyn Queue> {
        &self.queue
    }

    pub(super) fn lease(&self) -> Duration {
        self.lease
    }

    /// From now on the message's lease is renewed.
    pub(super) fn hold(&self, handle: Handle) {
        self.lock().insert(handle);
    }

    /// From now on it is not: the message was deleted, or shall come back.
    pub(super) fn release(&self, handle: &Handle) {
        self.lock().remove(handle);
    }

    /// Renews what is held, three times per lease, for ever.
    pub(super) async fn renew(&self) {
        let mut ticks = tokio::time::interval(self.lease / 3);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick comes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            self.extend(self.lease).await;
        }
    }

    /// Gives back what is held, so that another takes it now and not when the leases lapse.
    pub(super) async fn give_back(&self) {
        self.extend(Duration::ZERO).await;
        self.lock().clear();
    }

    async fn extend(&self, lease: Duration) {
        let held: Vec<Handle> = self.lock().iter().cloned().collect();
        if held.is_empty() {
            return;
        }
        if let Err(error) = self.queue.extend(&held, lease).await {
            // The messages come back and are worked on twice, which is harmless.
            tracing::warn!(queue = %self.queue.name(), held = held.len(), %error, "leases were not renewed");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Handle>> {
        // Every change is one call on the set, so a panic cannot have left it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
