//! Queues with the semantics of SQS: at least once, received under a lease, deleted by receipt handle,
//! put aside as dead letters after too many receives.

#[doc(hidden)]
pub mod conformance;
pub(crate) mod sqlite;
#[cfg(feature = "sqs")]
pub mod sqs;

use async_trait::async_trait;
use bytes::Bytes;
use std::{fmt, sync::Arc, time::Duration};

/// One queue.
///
/// A message is a reason to look, never the truth: it may come twice, late, or out of order.
#[async_trait]
pub trait Queue: Send + Sync + 'static {
    /// Its name.
    fn name(&self) -> &QueueName;

    /// The largest message in bytes that it takes.
    fn message_bytes_max(&self) -> usize;

    /// Whether it takes a message of this size.
    ///
    /// # Errors
    /// [`QueueError::TooLarge`] when it does not.
    fn check(&self, body: &Bytes) -> Result<(), QueueError> {
        let limit = self.message_bytes_max();
        if body.len() > limit {
            return Err(QueueError::TooLarge { queue: self.name().clone(), bytes: body.len(), limit });
        }
        Ok(())
    }

    /// Puts the messages on the queue; they are durable when this returns.
    ///
    /// # Errors
    /// When the engine can't be reached or a message is over its limit. Some may have been sent then.
    async fn send(&self, bodies: Vec<Bytes>) -> Result<(), QueueError>;

    /// Takes up to `max` messages under a lease, waiting up to `wait` for the first.
    ///
    /// A message that was received `max_receives` times and not deleted goes to the dead letters instead.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn receive(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Message>, QueueError>;

    /// Renews leases: each message named stays hidden for `lease` from now on. Handles whose lease has
    /// lapsed, and whose message was received by another, are passed over.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn extend(&self, handles: &[Handle], lease: Duration) -> Result<(), QueueError>;

    /// Deletes messages. One that is already gone is no error.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn delete(&self, handles: &[Handle]) -> Result<(), QueueError>;

    /// Approximately how much is on it.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn depth(&self) -> Result<Depth, QueueError>;

    /// Up to `max` dead letters of this queue, oldest first.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Puts all dead letters back on the queue and says how many they were.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn redrive(&self) -> Result<u64, QueueError>;
}

/// Queues by name.
#[async_trait]
pub trait Queues: Send + Sync + 'static {
    /// A queue, made when it is first asked for.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError>;

    /// The names of those that exist, in order.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn queues(&self) -> Result<Vec<QueueName>, QueueError>;
}

/// A queue's name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Arc<str>);

impl QueueName {
    /// What gateways put in and schedulers take out.
    #[must_use]
    pub fn inbound() -> Self {
        Self("inbound".into())
    }

    /// The burst buffer of one function.
    #[must_use]
    pub fn layer(function: quorate_dag::Function) -> Self {
        Self(format!("layer-{}", function.name()).into())
    }

    /// Hints to one gateway that an answer is there.
    #[must_use]
    pub fn outbound(gateway: &str) -> Self {
        Self(format!("outbound-{gateway}").into())
    }

    /// Fault events.
    #[must_use]
    pub fn events() -> Self {
        Self("events".into())
    }

    /// A queue by the name it has, for commands and tests.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for QueueName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// A message under a lease.
#[derive(Clone, Debug)]
pub struct Message {
    /// What was sent.
    pub body: Bytes,
    /// Deletes it, or renews its lease.
    pub handle: Handle,
    /// How many times it was received, this time included.
    pub receives: u32,
}

/// Names one receipt of one message: the next receipt of the same message has another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub Arc<str>);

/// Approximately how much is on a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Messages that could be received now.
    pub waiting: u64,
    /// Messages under a lease.
    pub in_flight: u64,
    /// How long the oldest waiting message has been on the queue; `None` when the engine does not say.
    pub oldest: Option<Duration>,
    /// Messages put aside.
    pub dead: u64,
}

/// A message put aside after too many receives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// What was sent.
    pub body: Bytes,
    /// How many times it was received.
    pub receives: u32,
    /// How long ago it was sent.
    pub age: Duration,
}

/// Why a queue did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The engine can't be reached, or failed; try again later.
    #[error("queue {queue} is not available: {source}")]
    Unavailable {
        /// The queue.
        queue: QueueName,
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A message is larger than the engine takes.
    #[error("message of {bytes} bytes is over the limit of queue {queue} ({limit})")]
    TooLarge {
        /// The queue.
        queue: QueueName,
        /// The message's size.
        bytes: usize,
        /// The largest it takes.
        limit: usize,
    },
}
