//! Who waits for which request, and how they are woken: by the hints on this gateway's outbound queue.

use crate::{queue::Queue, shutdown::Shutdown};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// Hints taken at once. SQS gives ten; an engine that can gives more.
const BATCH: usize = 64;

/// How long one receive waits for a hint.
const LONG_POLL: Duration = Duration::from_secs(10);

/// How long a hint stays hidden while it is handed on.
const LEASE: Duration = Duration::from_secs(30);

/// The requests that somebody waits for. An entry lives as long as a [`Waiter`] of it.
#[derive(Default)]
pub(super) struct Waiters(Mutex<HashMap<Uuid, watch::Sender<()>>>);

/// One who waits. A hint that comes between two waits is not missed.
pub(super) struct Waiter {
    id: Uuid,
    hints: watch::Receiver<()>,
    all: Arc<Waiters>,
}

impl Waiters {
    fn lock(&self) -> MutexGuard<'_, HashMap<Uuid, watch::Sender<()>>> {
        // Nothing that is done under the lock can leave the map half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on, hints about `id` are seen.
    pub(super) fn register(self: &Arc<Self>, id: Uuid) -> Waiter {
        let hints = self.lock().entry(id).or_insert_with(|| watch::channel(()).0).subscribe();
        Waiter { id, hints, all: Arc::clone(self) }
    }

    fn wake(&self, id: Uuid) {
        if let Some(waiting) = self.lock().get(&id) {
            waiting.send_replace(());
        }
    }

    /// How many requests are waited for.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }
}

impl Waiter {
    /// Returns when there was a hint since the last call.
    pub(super) async fn hint(&mut self) {
        // The sender lives in the map for as long as this waiter does.
        let _ = self.hints.changed().await;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        // This receiver is still counted.
        if all.get(&self.id).is_some_and(|waiting| waiting.receiver_count() <= 1) {
            all.remove(&self.id);
        }
    }
}

#[derive(Deserialize)]
struct Announcement {
    id: Uuid,
}

/// Hands on what comes on the outbound queue until the end.
///
/// A hint is deleted after it was handed on, and nobody waits for that: a hint that comes twice wakes
/// nobody or harms nobody, and the record is the truth.
pub(super) async fn hand_on(waiters: Arc<Waiters>, outbound: Arc<dyn Queue>, mut shutdown: Shutdown) {
    loop {
        let received = tokio::select! {
            received = outbound.receive(BATCH, LEASE, LONG_POLL) => received,
            _ = shutdown.wait_for(|ending| *ending) => return,
        };
        match received {
            Ok(messages) if messages.is_empty() => {}
            Ok(messages) => {
                for message in &messages {
                    match serde_json::from_slice::<Announcement>(&message.body) {
                        Ok(announcement) => waiters.wake(announcement.id),
                        Err(error) => tracing::warn!(%error, "an announcement was not understood"),
                    }
                }
                let handles: Vec<_> = messages.into_iter().map(|message| message.handle).collect();
                let outbound = Arc::clone(&outbound);
                tokio::spawn(async move {
                    if let Err(error) = outbound.delete(&handles).await {
                        tracing::debug!(%error, "announcements will come again");
                    }
                });
            }
            Err(error) => {
                // Those who wait read their records again meanwhile.
                tracing::warn!(%error, "no announcements; trying again");
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(250)) => {}
                    _ = shutdown.wait_for(|ending| *ending) => return,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_waiter_of_a_request_is_woken_and_the_last_clears_up() {
        let waiters = Arc::new(Waiters::default());
        let (id, other) = (Uuid::now_v7(), Uuid::now_v7());
        let (mut first, mut second) = (waiters.register(id), waiters.register(id));
        let third = waiters.register(other);
        waiters.wake(id);
        waiters.wake(Uuid::now_v7());
        first.hint().await;
        second.hint().await;
        drop(first);
        assert_eq!(waiters.len(), 2);
        drop((second, third));
        assert_eq!(waiters.len(), 0);
    }

    #[tokio::test]
    async fn a_hint_before_the_wait_is_not_missed() {
        let waiters = Arc::new(Waiters::default());
        let id = Uuid::now_v7();
        let mut waiter = waiters.register(id);
        waiters.wake(id);
        waiter.hint().await;
    }
}
