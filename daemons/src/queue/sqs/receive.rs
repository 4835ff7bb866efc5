//! Receiving.
//!
//! A request that SQS answers while nobody listens any more hides messages until their lease ends. So a
//! request is never given up: it runs in a task of its own, and what comes after its caller is gone is given
//! back at once. Such a message has been received once more than anyone saw.

use super::{BATCH, Message, POLL_MAX, SqsQueue, body, lease_seconds};
use crate::{
    aws::{self, AwsError},
    queue,
};
use aws_sdk_sqs::types::{self, MessageSystemAttributeName};
use std::{sync::Arc, time::Duration};
use tokio::{runtime::Handle, sync::oneshot, time::Instant};

/// What is left of a wait when it counts as over: no request is worth less.
const MOMENT: Duration = Duration::from_millis(100);

/// The longest wait; who waits longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(3600);

type Taken = Result<Vec<Message>, AwsError>;

/// What a request in a task of its own will bring.
struct Expected {
    queue: SqsQueue,
    told: oneshot::Receiver<Taken>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.told.close();
        if let Ok(Ok(messages)) = self.told.try_recv()
            && let Ok(runtime) = Handle::try_current()
        {
            let queue = self.queue.clone();
            runtime.spawn(async move { queue.give_back(messages).await });
        }
    }
}

impl SqsQueue {
    /// Takes up to `max` messages, waiting up to `wait` for the first.
    ///
    /// SQS waits for whole seconds. A wait is spent in as many of them as fit; what is left at the end, or a
    /// wait of less than a second, is slept through and followed by one look.
    pub(super) async fn take(&self, max: usize, lease: Duration, wait: Duration) -> Taken {
        if max == 0 {
            return Ok(Vec::new());
        }
        let (mut tell, told) = oneshot::channel();
        let mut expected = Expected { queue: self.clone(), told };
        let queue = self.clone();
        tokio::spawn(async move {
            let taken = queue.wait_for_some(max, lease, wait, &mut tell).await;
            if let Err(Ok(messages)) = tell.send(taken) {
                queue.give_back(messages).await;
            }
        });
        // The task ends without a word only with the runtime, and this one with it.
        (&mut expected.told).await.unwrap_or_else(|_| Ok(Vec::new()))
    }

    async fn wait_for_some(
        &self,
        max: usize,
        lease: Duration,
        wait: Duration,
        caller: &mut oneshot::Sender<Taken>,
    ) -> Taken {
        let until = Instant::now() + wait.min(WAIT_MAX);
        let mut last = false;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let poll = (left + MOMENT).min(POLL_MAX).as_secs();
            let got = self.poll(&self.url, max, lease, Duration::from_secs(poll)).await?;
            if !got.is_empty() {
                return Ok(self.take_more(got, max, lease).await);
            }
            let left = until.saturating_duration_since(Instant::now());
            if last || left < MOMENT || caller.is_closed() {
                return Ok(Vec::new());
            }
            if left + MOMENT < Duration::from_secs(1) {
                last = true;
                tokio::select! {
                    () = tokio::time::sleep(left) => {}
                    () = caller.closed() => return Ok(Vec::new()),
                }
            }
        }
    }

    /// What else is there at once, when the first request brought all that one can.
    async fn take_more(&self, got: Vec<types::Message>, max: usize, lease: Duration) -> Vec<Message> {
        let mut full = got.len() == BATCH;
        let mut taken: Vec<_> = got.into_iter().map(message).collect();
        // Without a lease they could be received again already.
        while full && taken.len() < max && !lease.is_zero() {
            let Ok(more) = self.poll(&self.url, max - taken.len(), lease, Duration::ZERO).await else {
                break;
            };
            full = more.len() == BATCH;
            taken.extend(more.into_iter().map(message));
        }
        taken
    }

    /// One request for messages of the queue of this URL, this one's or its dead-letter queue's. `wait` is
    /// whole seconds; without any, SQS asks only some of its servers and may miss what others have.
    pub(super) async fn poll(
        &self,
        url: &Arc<str>,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Vec<types::Message>, AwsError> {
        let config = aws_sdk_sqs::Config::builder().timeout_config(aws::timeouts(wait));
        let asked = self
            .sqs
            .client
            .receive_message()
            .queue_url(&**url)
            .max_number_of_messages(i32::try_from(max.min(BATCH)).expect("ten or less"))
            .visibility_timeout(lease_seconds(lease))
            .wait_time_seconds(i32::try_from(wait.as_secs()).expect("twenty or less"))
            .message_system_attribute_names(MessageSystemAttributeName::ApproximateReceiveCount)
            .message_system_attribute_names(MessageSystemAttributeName::SentTimestamp)
            .message_attribute_names(body::BYTES)
            .customize()
            .config_override(config);
        let received = asked.send().await.map_err(|error| self.sqs.explain("ReceiveMessage", &error))?;
        Ok(received.messages.unwrap_or_default())
    }

    async fn give_back(&self, messages: Vec<Message>) {
        let handles: Vec<_> = messages.into_iter().map(|message| message.handle).collect();
        self.give_back_to(&self.url, &handles).await;
    }

    /// Lets others receive messages at once. When that fails they wait until the lease ends.
    pub(super) async fn give_back_to(&self, url: &Arc<str>, handles: &[queue::Handle]) {
        if let Err(error) = self.change_leases(url, handles, Duration::ZERO).await {
            tracing::debug!(queue = %self.name, %error, "messages come back when their lease ends");
        }
    }
}

fn message(mut received: types::Message) -> Message {
    let receives = number(&received, &MessageSystemAttributeName::ApproximateReceiveCount).unwrap_or(1);
    Message {
        body: body::sent(&mut received),
        handle: handle(&received),
        receives: u32::try_from(receives).unwrap_or(u32::MAX),
    }
}

pub(super) fn handle(received: &types::Message) -> queue::Handle {
    queue::Handle(received.receipt_handle().unwrap_or_default().into())
}

/// An attribute that is a number.
pub(super) fn number(received: &types::Message, name: &MessageSystemAttributeName) -> Option<u64> {
    received.attributes()?.get(name)?.parse().ok()
}
