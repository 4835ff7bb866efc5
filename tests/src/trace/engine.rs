//! The engine of one daemon, which tells what the daemon asks of it.

use super::{Tracer, What};
use async_trait::async_trait;
use bytes::Bytes;
use quorate::{
    engine::{Conclusion, Engine, StepError},
    queue::{DeadLetter, Depth, Handle, Message, Queue, QueueError, QueueName},
    records::{Created, Finished, Lookup, NewRecord, Outcome, Records, RecordsError},
    store::{Entry, LeaseId, Revision, Store, StoreError, Watch},
};
use serde_json::Value;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// An engine, as one daemon uses it.
pub struct Traced {
    engine: Arc<dyn Engine>,
    tracer: Arc<Tracer>,
}

impl Traced {
    /// The same engine for a daemon.
    #[must_use]
    pub fn new(engine: Arc<dyn Engine>, tracer: Tracer) -> Self {
        Self { engine, tracer: Arc::new(tracer) }
    }

    fn concludes(&self, id: Uuid, outcome: &Outcome) {
        let result = outcome.result.clone().map_err(|failure| failure.kind);
        let sets = outcome.timeline.iter().map(|run| run.set.clone()).collect();
        self.tracer.tell(What::Concludes { id: id.to_string(), result, sets });
    }
}

/// As JSON where it is some, else as text.
fn read(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap_or_else(|_| String::from_utf8_lossy(bytes).into())
}

#[async_trait]
impl Engine for Traced {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        let queue = self.engine.queue(name).await?;
        Ok(Arc::new(TracedQueue { queue, tracer: Arc::clone(&self.tracer) }))
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        self.engine.queues().await
    }

    fn records(&self) -> &dyn Records {
        self
    }

    fn store(&self) -> &dyn Store {
        self
    }

    // The engine takes each of these steps as a whole.
    async fn accept(
        &self,
        record: NewRecord,
        inbound: &dyn Queue,
        message: Bytes,
    ) -> Result<Created, StepError> {
        self.tracer.tell(What::Accepts { id: record.id.to_string() });
        self.engine.accept(record, inbound, message).await
    }

    async fn conclude(&self, end: Conclusion<'_>) -> Result<Finished, StepError> {
        self.concludes(end.id, &end.outcome);
        self.engine.conclude(end).await
    }
}

#[async_trait]
impl Records for Traced {
    async fn create(&self, record: NewRecord) -> Result<Created, RecordsError> {
        self.engine.records().create(record).await
    }

    async fn get(&self, id: Uuid) -> Result<Lookup, RecordsError> {
        self.engine.records().get(id).await
    }

    async fn finish(
        &self,
        id: Uuid,
        outcome: Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError> {
        self.concludes(id, &outcome);
        self.engine.records().finish(id, outcome, receipt).await
    }

    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError> {
        self.engine.records().receipt(id).await
    }

    async fn overdue(&self, age: Duration, max: usize) -> Result<Vec<Uuid>, RecordsError> {
        self.engine.records().overdue(age, max).await
    }

    async fn accepted(&self) -> Result<u64, RecordsError> {
        self.engine.records().accepted().await
    }

    async fn expire(&self, max: usize) -> Result<u64, RecordsError> {
        self.engine.records().expire(max).await
    }
}

#[async_trait]
impl Store for Traced {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.tracer.tell(What::Reads { key: key.into() });
        self.engine.store().get(key).await
    }

    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        self.tracer.tell(What::Writes { key: key.into(), value: read(&value) });
        self.engine.store().put(key, value, lease).await
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        self.tracer.tell(What::Removes { key: key.into() });
        self.engine.store().delete(key).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        self.engine.store().list(prefix).await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        self.tracer.tell(match &value {
            Some(value) => What::Writes { key: key.into(), value: read(value) },
            None => What::Removes { key: key.into() },
        });
        let swapped = self.engine.store().compare_and_swap(key, seen, value, lease).await;
        if let Err(StoreError::Conflict { .. }) = &swapped {
            self.tracer.tell(What::IsTooLate { key: key.into() });
        }
        swapped
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.engine.store().grant(ttl).await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.store().renew(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.engine.store().revoke(lease).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        self.engine.store().watch(prefix, from).await
    }
}

struct TracedQueue {
    queue: Arc<dyn Queue>,
    tracer: Arc<Tracer>,
}

#[async_trait]
impl Queue for TracedQueue {
    fn name(&self) -> &QueueName {
        self.queue.name()
    }

    fn message_bytes_max(&self) -> usize {
        self.queue.message_bytes_max()
    }

    async fn send(&self, bodies: Vec<Bytes>) -> Result<(), QueueError> {
        for body in &bodies {
            self.tracer.tell(What::Sends { queue: self.name().to_string(), body: read(body) });
        }
        self.queue.send(bodies).await
    }

    async fn receive(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Message>, QueueError> {
        let received = self.queue.receive(max, lease, wait).await?;
        for message in &received {
            self.tracer.tell(What::Received { queue: self.name().to_string(), body: read(&message.body) });
        }
        Ok(received)
    }

    async fn extend(&self, handles: &[Handle], lease: Duration) -> Result<(), QueueError> {
        self.queue.extend(handles, lease).await
    }

    async fn delete(&self, handles: &[Handle]) -> Result<(), QueueError> {
        for _ in handles {
            self.tracer.tell(What::Deletes { queue: self.name().to_string() });
        }
        self.queue.delete(handles).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let depth = self.queue.depth().await?;
        self.tracer.tell(What::Sampled { queue: self.name().to_string(), waiting: depth.waiting });
        Ok(depth)
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.queue.dead_letters(max).await
    }

    async fn redrive(&self) -> Result<u64, QueueError> {
        self.queue.redrive().await
    }
}
