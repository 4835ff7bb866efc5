//! What a platform stands on: its queues, records and store, and the two steps that touch more than one.

pub mod open;

use crate::{
    queue::{Handle, Queue, QueueError, QueueName, Queues},
    records::{Created, Finished, NewRecord, Outcome, Records, RecordsError},
    store::Store,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::sync::Arc;
use uuid::Uuid;

/// The engines of one platform.
#[async_trait]
pub trait Engine: Send + Sync + 'static {
    /// A queue by name, made when it is first asked for.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError>;

    /// The names of the queues that exist, in order.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn queues(&self) -> Result<Vec<QueueName>, QueueError>;

    /// The records.
    fn records(&self) -> &dyn Records;

    /// The store.
    fn store(&self) -> &dyn Store;

    /// Accepts a request: its record first, then the message that makes a scheduler look. A crash
    /// between the two leaves a record that a repeat or a sweep sends again.
    ///
    /// An engine that has both in one place does it in one transaction.
    ///
    /// # Errors
    /// When an engine can't be reached; then nothing was acknowledged.
    async fn accept(
        &self,
        record: NewRecord,
        inbound: &dyn Queue,
        message: Bytes,
    ) -> Result<Created, StepError> {
        inbound.check(&message)?;
        let created = self.records().create(record).await?;
        if created == Created::New {
            inbound.send(vec![message]).await?;
        }
        Ok(created)
    }

    /// Concludes a request: finish the record, announce it, delete the inbound message, in this order,
    /// so that a crash between any two ends in a redelivery that finds the record finished.
    ///
    /// # Errors
    /// When an engine can't be reached; the inbound message comes back then.
    async fn conclude(&self, end: Conclusion<'_>) -> Result<Finished, StepError> {
        end.outbound.check(&end.announcement)?;
        let finished = self.records().finish(end.id, end.outcome, end.receipt).await?;
        end.outbound.send(vec![end.announcement]).await?;
        end.inbound.delete(std::slice::from_ref(end.handle)).await?;
        Ok(finished)
    }
}

/// An engine of parts that know nothing of each other: each step is taken part by part, in the order
/// that a crash leaves harmless.
pub struct Assembled {
    /// The queues.
    pub queues: Box<dyn Queues>,
    /// The records.
    pub records: Box<dyn Records>,
    /// The store.
    pub store: Box<dyn Store>,
}

#[async_trait]
impl Engine for Assembled {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        self.queues.queue(name).await
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        self.queues.queues().await
    }

    fn records(&self) -> &dyn Records {
        &*self.records
    }

    fn store(&self) -> &dyn Store {
        &*self.store
    }
}

/// What [`Engine::conclude`] needs.
pub struct Conclusion<'a> {
    /// The request.
    pub id: Uuid,
    /// How it ended.
    pub outcome: Outcome,
    /// Its receipt, when it asked for one.
    pub receipt: Option<Bytes>,
    /// Where the gateway that waits is told.
    pub outbound: &'a dyn Queue,
    /// What it is told.
    pub announcement: Bytes,
    /// Where the request came from.
    pub inbound: &'a dyn Queue,
    /// The message that it came with.
    pub handle: &'a Handle,
}

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// The records refused.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A queue refused.
    #[error(transparent)]
    Queue(#[from] QueueError),
}
