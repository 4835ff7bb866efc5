//! Queues in Amazon SQS: standard queues, each with a dead-letter queue beside it.
//!
//! Two things are weaker there than [`Queue`] says, and harm nobody who takes a message as a reason to look:
//! the handle of an earlier receipt may still delete or extend a message that another has received since, and
//! a lease that has lapsed may not be renewable. Messages keep the order in which they were sent only roughly.

mod batch;
mod body;
mod dead;
mod open;
mod receive;

use super::{DeadLetter, Depth, Handle, Message, Queue, QueueError, QueueName, Queues};
use crate::aws::{AwsError, Service};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_sqs::{Client, error::ProvideErrorMetadata, types::QueueAttributeName};
use bytes::Bytes;
use std::{
    collections::HashMap,
    error::Error,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// Entries of a batch.
const BATCH: usize = 10;

/// Bytes of a message and of a batch, attributes counted.
const BYTES_MAX: usize = 1 << 20;

/// The longest lease that SQS gives.
const LEASE_MAX: Duration = Duration::from_secs(12 * 3600);

/// The longest poll of anyone who does not say how long.
const POLL_MAX: Duration = Duration::from_secs(20);

/// How queues are made. One that exists is used as it is.
#[derive(Clone, Debug)]
pub struct SqsOptions {
    /// What the names of queues begin with, in front of the platform's own name of each.
    pub prefix: String,
    /// How many times a message is received before it is put aside.
    pub max_receives: u32,
    /// How long SQS keeps a message, in whole seconds, from one minute to 14 days.
    pub message_retention: Duration,
    /// How long SQS keeps a dead letter, counted from when it was first sent: not less than the above.
    pub dead_letter_retention: Duration,
    /// How long a queue that was just made is left alone: SQS asks for a second.
    pub settle: Duration,
}

impl Default for SqsOptions {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            prefix: "quorate-".to_owned(),
            max_receives: 5,
            message_retention: 4 * DAY,
            dead_letter_retention: 14 * DAY,
            settle: Duration::from_secs(1),
        }
    }
}

/// All queues whose names begin with a prefix.
pub struct SqsQueues {
    sqs: Arc<Sqs>,
    queues: Mutex<HashMap<QueueName, Arc<SqsQueue>>>,
}

/// SQS as it is reached.
struct Sqs {
    client: Client,
    service: Service,
    options: SqsOptions,
}

/// A queue in SQS.
#[derive(Clone)]
struct SqsQueue {
    sqs: Arc<Sqs>,
    name: QueueName,
    url: Arc<str>,
    dead_url: Arc<str>,
    /// Bytes of a message, attributes counted.
    bytes_max: usize,
    /// How many times a message is received before SQS puts it aside.
    max_receives: u32,
}

type Cause = Box<dyn Error + Send + Sync>;

impl SqsQueues {
    /// The queues of this account and region; nothing is asked of SQS yet.
    #[must_use]
    pub fn new(config: &SdkConfig, options: SqsOptions) -> Self {
        let sqs = Sqs { client: Client::new(config), service: Service::new("SQS", config), options };
        Self { sqs: Arc::new(sqs), queues: Mutex::default() }
    }

    fn known(&self, name: &QueueName) -> Option<Arc<SqsQueue>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(name).map(Arc::clone)
    }
}

#[async_trait]
impl Queues for SqsQueues {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        if let Some(known) = self.known(name) {
            return Ok(known);
        }
        let opened = self.sqs.open(name).await.map_err(|cause| unavailable(name, cause))?;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        // Who opened it meanwhile opened the same.
        let queue: &Arc<SqsQueue> = queues.entry(name.clone()).or_insert_with(|| Arc::new(opened));
        Ok(Arc::clone(queue) as Arc<dyn Queue>)
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        self.sqs.list().await.map_err(|cause| unavailable(&QueueName::named("*"), cause))
    }
}

fn unavailable(queue: &QueueName, source: impl Into<Cause>) -> QueueError {
    QueueError::Unavailable { queue: queue.clone(), source: source.into() }
}

impl Sqs {
    fn explain<E>(&self, operation: &'static str, error: &aws_sdk_sqs::error::SdkError<E>) -> AwsError
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        self.service.explain(operation, error)
    }
}

/// Whole seconds, rounded up.
fn seconds(time: Duration) -> i32 {
    let whole = time.as_secs().saturating_add(u64::from(time.subsec_nanos() > 0));
    i32::try_from(whole).unwrap_or(i32::MAX)
}

/// A lease as SQS counts it: in whole seconds, rounded up so that it never ends before its holder thinks.
fn lease_seconds(lease: Duration) -> i32 {
    seconds(lease.min(LEASE_MAX))
}

impl SqsQueue {
    fn unavailable(&self, error: AwsError) -> QueueError {
        unavailable(&self.name, error)
    }

    /// Messages that can be received, and those under a lease, on the queue of this URL.
    async fn count(&self, url: &str) -> Result<(u64, u64), AwsError> {
        const COUNTS: [QueueAttributeName; 2] = [
            QueueAttributeName::ApproximateNumberOfMessages,
            QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
        ];
        let told = self.sqs.attributes(url, &COUNTS).await?;
        let count = |name| told.get(name).and_then(|count| count.parse().ok()).unwrap_or(0);
        Ok((count(&COUNTS[0]), count(&COUNTS[1])))
    }
}

#[async_trait]
impl Queue for SqsQueue {
    fn name(&self) -> &QueueName {
        &self.name
    }

    fn message_bytes_max(&self) -> usize {
        self.bytes_max
    }

    fn check(&self, body: &Bytes) -> Result<(), QueueError> {
        let limit = self.bytes_max.saturating_sub(body::overhead(body));
        if body.len() > limit {
            return Err(QueueError::TooLarge { queue: self.name.clone(), bytes: body.len(), limit });
        }
        Ok(())
    }

    async fn send(&self, bodies: Vec<Bytes>) -> Result<(), QueueError> {
        bodies.iter().try_for_each(|body| self.check(body))?;
        for batch in body::batches(&bodies) {
            self.send_batch(batch).await.map_err(|error| self.unavailable(error))?;
        }
        Ok(())
    }

    async fn receive(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Message>, QueueError> {
        self.take(max, lease, wait).await.map_err(|error| self.unavailable(error))
    }

    async fn extend(&self, handles: &[Handle], lease: Duration) -> Result<(), QueueError> {
        self.change_leases(&self.url, handles, lease).await.map_err(|error| self.unavailable(error))
    }

    async fn delete(&self, handles: &[Handle]) -> Result<(), QueueError> {
        self.delete_from(&self.url, handles).await.map_err(|error| self.unavailable(error))
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let counts = tokio::try_join!(self.count(&self.url), self.count(&self.dead_url));
        let ((waiting, in_flight), (dead, looked_at)) = counts.map_err(|error| self.unavailable(error))?;
        // SQS says only through CloudWatch how long the oldest has waited.
        Ok(Depth { waiting, in_flight, oldest: None, dead: dead + looked_at })
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.look(max).await.map_err(|error| self.unavailable(error))
    }

    async fn redrive(&self) -> Result<u64, QueueError> {
        self.put_back().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_rounded_up_and_has_a_limit() {
        let ms = Duration::from_millis;
        let leases = [ms(0), ms(1), ms(1000), ms(1001), ms(100_000_000)];
        assert_eq!(leases.map(lease_seconds), [0, 1, 1, 2, 43_200]);
    }
}
