//! A key that lives as long as its holder: what locks, leaders and announcements are made of.

use super::{Change, LeaseId, Revision, StoreError, Watch};
use crate::engine::Engine;
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};

/// How often a lease is renewed within its time to live: two renewals may fail before it ends.
const RENEWALS: u32 = 3;

/// A key under a lease that a task renews. The task ends with it, and revokes the lease then.
pub(super) struct Held {
    revision: Revision,
    lost: watch::Receiver<bool>,
    /// Dropped: the task sees it, revokes and ends.
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Held {
    /// Takes the key unless it exists.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it exists.
    pub(super) async fn take(
        engine: &Arc<dyn Engine>,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        let store = engine.store();
        // By our own clock, from before the lease was asked for: at no moment does the holder believe in
        // it longer than the store does.
        let granted = Instant::now();
        let lease = store.grant(ttl).await?;
        let taken = match store.compare_and_swap(key, None, Some(value), Some(lease)).await {
            Ok(revision) => store.watch(key, revision.next()).await.map(|watch| (revision, watch)),
            Err(error) => Err(error),
        };
        let (revision, watch) = match taken {
            Ok(taken) => taken,
            Err(error) => {
                // Should this fail too, the lease ends by itself.
                let _ = store.revoke(lease).await;
                return Err(error);
            }
        };
        let (tell, lost) = watch::channel(false);
        let (stop, stopped) = oneshot::channel();
        let keeper = Keeper { engine: Arc::clone(engine), key: key.into(), revision, lease, ttl };
        let task = tokio::spawn(async move {
            tokio::select! {
                () = keeper.renew(granted) => {}
                () = keeper.watch(watch) => {}
                _ = stopped => {}
            }
            let _ = tell.send(true); // nobody has to listen
            let _ = keeper.engine.store().revoke(lease).await; // or it ends by itself
        });
        Ok(Self { revision, lost, stop: Some(stop), task })
    }

    /// Takes the key as soon as it is free. For those who wait: dropping the future gives up.
    pub(super) async fn take_when_free(
        engine: &Arc<dyn Engine>,
        key: &str,
        value: Bytes,
        ttl: Duration,
    ) -> Result<Self, StoreError> {
        loop {
            // The watch begins before the attempt, so that no release falls between the two.
            let (_, revision) = engine.store().list(key).await?;
            let mut watch = engine.store().watch(key, revision.next()).await?;
            match Self::take(engine, key, value.clone(), ttl).await {
                Err(StoreError::Conflict { .. }) => freed(key, &mut watch).await,
                taken => return taken,
            }
        }
    }

    /// The revision at which it was taken: greater than that of every holder before.
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn is_lost(&self) -> bool {
        *self.lost.borrow()
    }

    /// Returns once it is not held any more.
    pub(super) async fn lost(&self) {
        // An error: the task is gone, and with it whoever would renew.
        let _ = self.lost.clone().wait_for(|lost| *lost).await;
    }

    /// Gives the key up, and returns when it is gone or can't be reached.
    pub(super) async fn release(mut self) {
        self.stop = None;
        let _ = (&mut self.task).await;
    }
}

/// Returns when the key may be free: it was removed, or the watch has ended.
async fn freed(key: &str, watch: &mut Watch) {
    while let Some(Ok(change)) = watch.recv().await {
        if change.key() == key && matches!(change, Change::Deleted { .. }) {
            return;
        }
    }
}

struct Keeper {
    engine: Arc<dyn Engine>,
    key: String,
    revision: Revision,
    lease: LeaseId,
    ttl: Duration,
}

impl Keeper {
    /// Renews the lease, and returns when it has ended or may have.
    async fn renew(&self, granted: Instant) {
        let mut ends = granted + self.ttl;
        let mut ticks = interval(self.ttl / RENEWALS);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let asked = Instant::now();
            match timeout_at(ends, self.engine.store().renew(self.lease)).await {
                Ok(Ok(())) => ends = asked + self.ttl,
                Ok(Err(StoreError::LeaseGone(_))) | Err(_) => return,
                // The store is away: it may be back before the lease has ended.
                Ok(Err(_)) => {}
            }
            if Instant::now() >= ends {
                return;
            }
        }
    }

    /// Returns when the key is not ours any more. Without it the holder would learn of a revoked lease
    /// only when it renews.
    async fn watch(&self, mut watch: Watch) {
        loop {
            match watch.recv().await {
                Some(Ok(change)) if change.key() == self.key => return,
                Some(Ok(_)) => {} // a longer key with ours as its beginning
                Some(Err(_)) | None => break,
            }
        }
        // The watch ended, which says nothing of the key: look, and leave the rest to renewal.
        let ours = match self.engine.store().get(&self.key).await {
            Ok(Some(entry)) => entry.revision == self.revision,
            Ok(None) => false,
            Err(_) => true,
        };
        if ours {
            std::future::pending::<()>().await;
        }
    }
}
