//! A daemon's entry in the store, for as long as it runs.

use super::{StoreError, held::Held};
use crate::{
    engine::Engine,
    set::{DAEMONS, DaemonRecord},
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// How long after a failure it is tried again, as a part of the time to live.
const RETRIES: u32 = 3;

/// Keeps a daemon's record in the store until it is dropped.
pub struct Announcement {
    stop: Option<oneshot::Sender<()>>,
    task: tokio::task::JoinHandle<()>,
}

impl Announcement {
    /// Removes the record, and returns when it is gone. Dropping does the same in the background.
    pub async fn withdraw(mut self) {
        self.stop = None;
        let _ = (&mut self.task).await;
    }
}

/// Writes the record under [`DAEMONS`], where it stays until the guard is dropped, or for `ttl` after the
/// daemon has ended without a word. If the store loses it (it was away for longer than that), it is
/// written again.
///
/// # Errors
/// When the engine can't be reached. [`StoreError::Conflict`] when there is an instance of this name.
pub async fn announce(
    engine: &Arc<dyn Engine>,
    record: &DaemonRecord,
    ttl: Duration,
) -> Result<Announcement, StoreError> {
    let key = format!("{DAEMONS}{}/{}", record.daemon, record.instance);
    let value = Bytes::from(serde_json::to_vec(record).expect("texts and numbers have a JSON form"));
    let held = Held::take(engine, &key, value.clone(), ttl).await?;
    let (stop, mut stopped) = oneshot::channel();
    let engine = Arc::clone(engine);
    let task = tokio::spawn(async move {
        let mut held = held;
        loop {
            tokio::select! {
                () = held.lost() => {}
                _ = &mut stopped => break held.release().await,
            }
            held = loop {
                tokio::select! {
                    taken = Held::take(&engine, &key, value.clone(), ttl) => match taken {
                        Ok(held) => break held,
                        Err(error) => tracing::warn!(key, %error, "could not announce again"),
                    },
                    _ = &mut stopped => return,
                }
                tokio::select! {
                    () = tokio::time::sleep(ttl / RETRIES) => {}
                    _ = &mut stopped => return,
                }
            };
        }
    });
    Ok(Announcement { stop: Some(stop), task })
}
