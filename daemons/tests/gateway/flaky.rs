//! An engine that can be away.

use async_trait::async_trait;
use bytes::Bytes;
use quorate::{
    engine::Engine,
    queue::{DeadLetter, Depth, Handle, Message, Queue, QueueError, QueueName},
    records::{Created, Finished, Lookup, NewRecord, Outcome, Records, RecordsError},
    sqlite::SqliteEngine,
    store::{Entry, LeaseId, Revision, Store, StoreError, Watch},
};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// When it is away, each of its parts says so, and nothing changes.
pub(crate) struct Flaky {
    pub(crate) engine: Arc<SqliteEngine>,
    pub(crate) away: Arc<AtomicBool>,
    /// Reads of records that were refused.
    pub(crate) refused: watch::Sender<u32>,
}

/// A part of it.
struct FlakyQueue {
    queue: Arc<dyn Queue>,
    away: Arc<AtomicBool>,
}

fn source() -> Box<dyn std::error::Error + Send + Sync> {
    "it is away".into()
}

impl Flaky {
    fn records_are_there(&self) -> Result<&dyn Records, RecordsError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(RecordsError::Unavailable { source: source() }) } else { Ok(self.engine.records()) }
    }

    fn store_is_there(&self) -> Result<&dyn Store, StoreError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(StoreError::Unavailable { source: source() }) } else { Ok(self.engine.store()) }
    }

    fn queue_is_there(&self, name: &QueueName) -> Result<(), QueueError> {
        let away = self.away.load(Ordering::SeqCst);
        if away { Err(QueueError::Unavailable { queue: name.clone(), source: source() }) } else { Ok(()) }
    }
}

impl FlakyQueue {
    fn is_there(&self) -> Result<&dyn Queue, QueueError> {
        if self.away.load(Ordering::SeqCst) {
            return Err(QueueError::Unavailable { queue: self.queue.name().clone(), source: source() });
        }
        Ok(&*self.queue)
    }
}

#[async_trait]
impl Engine for Flaky {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        self.queue_is_there(name)?;
        let queue = self.engine.queue(name).await?;
        Ok(Arc::new(FlakyQueue { queue, away: self.away.clone() }))
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        self.queue_is_there(&QueueName::inbound())?;
        self.engine.queues().await
    }

    fn records(&self) -> &dyn Records {
        self
    }

    fn store(&self) -> &dyn Store {
        self
    }
}

#[async_trait]
impl Records for Flaky {
    async fn create(&self, record: NewRecord) -> Result<Created, RecordsError> {
        self.records_are_there()?.create(record).await
    }
    async fn get(&self, id: Uuid) -> Result<Lookup, RecordsError> {
        let records =
            self.records_are_there().inspect_err(|_| self.refused.send_modify(|count| *count += 1))?;
        records.get(id).await
    }
    async fn finish(
        &self,
        id: Uuid,
        outcome: Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError> {
        self.records_are_there()?.finish(id, outcome, receipt).await
    }
    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError> {
        self.records_are_there()?.receipt(id).await
    }
    async fn overdue(&self, age: Duration, max: usize) -> Result<Vec<Uuid>, RecordsError> {
        self.records_are_there()?.overdue(age, max).await
    }
    async fn accepted(&self) -> Result<u64, RecordsError> {
        self.records_are_there()?.accepted().await
    }
    async fn expire(&self, max: usize) -> Result<u64, RecordsError> {
        self.records_are_there()?.expire(max).await
    }
}

#[async_trait]
impl Store for Flaky {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.store_is_there()?.get(key).await
    }
    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        self.store_is_there()?.put(key, value, lease).await
    }
    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.store_is_there()?.delete(key).await
    }
    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        self.store_is_there()?.list(prefix).await
    }
    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        self.store_is_there()?.compare_and_swap(key, seen, value, lease).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.store_is_there()?.grant(ttl).await
    }
    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store_is_there()?.renew(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store_is_there()?.revoke(lease).await
    }
    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.store_is_there()?.watch(prefix, from).await
    }
}

#[async_trait]
impl Queue for FlakyQueue {
    fn name(&self) -> &QueueName {
        self.queue.name()
    }
    fn message_bytes_max(&self) -> usize {
        self.queue.message_bytes_max()
    }
    async fn send(&self, bodies: Vec<Bytes>) -> Result<(), QueueError> {
        self.is_there()?.send(bodies).await
    }
    async fn receive(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Message>, QueueError> {
        self.is_there()?.receive(max, lease, wait).await
    }
    async fn extend(&self, handles: &[Handle], lease: Duration) -> Result<(), QueueError> {
        self.is_there()?.extend(handles, lease).await
    }
    async fn delete(&self, handles: &[Handle]) -> Result<(), QueueError> {
        self.is_there()?.delete(handles).await
    }
    async fn depth(&self) -> Result<Depth, QueueError> {
        self.is_there()?.depth().await
    }
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.is_there()?.dead_letters(max).await
    }
    async fn redrive(&self) -> Result<u64, QueueError> {
        self.is_there()?.redrive().await
    }
}
