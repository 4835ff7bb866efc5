//! Watches the sets in the store and tells the core.

use super::core::Event;
use crate::{
    engine::Engine,
    set::{SETS, SetRecord},
    store::{Change, Entry, StoreError},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::mpsc;

/// How long a store that can't be reached is left alone.
const REST: Duration = Duration::from_millis(200);

/// The core has ended.
struct Ended;

/// Lists, then follows every change; lists again when changes were missed. For ever.
pub(super) async fn watch(engine: Arc<dyn Engine>, events: mpsc::Sender<Event>) {
    loop {
        match follow(&*engine, &events).await {
            Err(Ended) => return,
            Ok(StoreError::Compacted(_)) => {}
            Ok(error) => {
                tracing::warn!(%error, "the sets can't be watched");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

async fn follow(engine: &dyn Engine, events: &mpsc::Sender<Event>) -> Result<StoreError, Ended> {
    let (entries, revision) = match engine.store().list(SETS).await {
        Ok(listed) => listed,
        Err(error) => return Ok(error),
    };
    let records = entries.iter().filter_map(read).collect();
    events.send(Event::Sets(records)).await.map_err(|_| Ended)?;
    let mut changes = match engine.store().watch(SETS, revision.next()).await {
        Ok(changes) => changes,
        Err(error) => return Ok(error),
    };
    while let Some(change) = changes.recv().await {
        let event = match change {
            Ok(Change::Put(entry)) => read(&entry).map(|record| Event::Set(Box::new(record))),
            Ok(Change::Deleted { key, .. }) => {
                key.strip_prefix(SETS).map(|name| Event::NoSet(name.to_owned()))
            }
            Err(error) => return Ok(error),
        };
        if let Some(event) = event {
            events.send(event).await.map_err(|_| Ended)?;
        }
    }
    Ok(StoreError::Compacted(revision))
}

fn read(entry: &Entry) -> Option<SetRecord> {
    serde_json::from_slice(&entry.value)
        .inspect_err(|error| tracing::error!(key = %entry.key, %error, "a set's record can't be read"))
        .ok()
}
