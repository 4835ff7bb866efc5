//! Batches of SQS: up to ten entries, of which each succeeds or fails by itself.

use super::{BATCH, SqsQueue, lease_seconds};
use crate::{
    aws::{self, AwsError},
    queue::Handle,
};
use aws_sdk_sqs::types::{
    BatchResultErrorEntry, ChangeMessageVisibilityBatchRequestEntry, DeleteMessageBatchRequestEntry,
    SendMessageBatchRequestEntry,
};
use futures::future::BoxFuture;
use std::{collections::HashSet, sync::Arc, time::Duration};

impl SqsQueue {
    /// Carries entries of a batch through it: those that fail are tried again, without the rest.
    async fn settle<T: Clone>(
        &self,
        operation: &'static str,
        mut entries: Vec<T>,
        id: fn(&T) -> &str,
        call: impl Fn(Vec<T>) -> BoxFuture<'static, Result<Vec<BatchResultErrorEntry>, AwsError>> + Send,
    ) -> Result<(), AwsError> {
        for attempt in 1.. {
            let mut failed = call(entries.clone()).await?;
            failed.retain(|entry| !names_nothing(entry));
            let Some(first) = failed.first() else { break };
            // What the sender did wrong is wrong the next time, too.
            let lasting = failed.iter().find(|entry| entry.sender_fault && !aws::throttling(&entry.code));
            if lasting.is_some() || attempt == aws::ATTEMPTS {
                let said = lasting.unwrap_or(first);
                return Err(self.sqs.service.explain_entry(operation, &said.code, said.message()));
            }
            entries.retain(|entry| failed.iter().any(|failed| failed.id == id(entry)));
            aws::back_off(attempt).await;
        }
        Ok(())
    }

    /// The same for what handles name, in as many batches as that takes.
    async fn settle_each<T: Clone>(
        &self,
        operation: &'static str,
        handles: &[Handle],
        entry: impl Fn(String, &str) -> T + Send + Sync,
        id: fn(&T) -> &str,
        call: impl Fn(Vec<T>) -> BoxFuture<'static, Result<Vec<BatchResultErrorEntry>, AwsError>> + Send + Sync,
    ) -> Result<(), AwsError> {
        for batch in distinct(handles).chunks(BATCH) {
            let entries = batch.iter().enumerate().map(|(nth, handle)| entry(nth.to_string(), handle));
            self.settle(operation, entries.collect(), id, &call).await?;
        }
        Ok(())
    }

    pub(super) async fn send_batch(
        &self,
        entries: Vec<SendMessageBatchRequestEntry>,
    ) -> Result<(), AwsError> {
        const SEND: &str = "SendMessageBatch";
        let call = |entries| -> BoxFuture<'static, _> {
            let this = self.clone();
            Box::pin(async move {
                let batch = this.sqs.client.send_message_batch().queue_url(&*this.url);
                let sent = batch.set_entries(Some(entries)).send().await;
                sent.map(|sent| sent.failed).map_err(|error| this.sqs.explain(SEND, &error))
            })
        };
        self.settle(SEND, entries, |entry| &entry.id, call).await
    }

    /// Renews leases on the queue of this URL, this one's or its dead-letter queue's.
    pub(super) async fn change_leases(
        &self,
        url: &Arc<str>,
        handles: &[Handle],
        lease: Duration,
    ) -> Result<(), AwsError> {
        const CHANGE: &str = "ChangeMessageVisibilityBatch";
        let entry = |id, handle: &str| {
            ChangeMessageVisibilityBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(handle)
                .visibility_timeout(lease_seconds(lease))
                .build()
                .expect("it has an id and a handle")
        };
        let call = |entries| -> BoxFuture<'static, _> {
            let (sqs, url) = (Arc::clone(&self.sqs), Arc::clone(url));
            Box::pin(async move {
                let batch = sqs.client.change_message_visibility_batch().queue_url(&*url);
                let changed = batch.set_entries(Some(entries)).send().await;
                changed.map(|changed| changed.failed).map_err(|error| sqs.explain(CHANGE, &error))
            })
        };
        self.settle_each(CHANGE, handles, entry, |entry| &entry.id, call).await
    }

    /// Deletes messages from the queue of this URL, this one's or its dead-letter queue's.
    pub(super) async fn delete_from(&self, url: &Arc<str>, handles: &[Handle]) -> Result<(), AwsError> {
        const DELETE: &str = "DeleteMessageBatch";
        let entry = |id, handle: &str| {
            DeleteMessageBatchRequestEntry::builder()
                .id(id)
                .receipt_handle(handle)
                .build()
                .expect("it has an id and a handle")
        };
        let call = |entries| -> BoxFuture<'static, _> {
            let (sqs, url) = (Arc::clone(&self.sqs), Arc::clone(url));
            Box::pin(async move {
                let batch = sqs.client.delete_message_batch().queue_url(&*url);
                let deleted = batch.set_entries(Some(entries)).send().await;
                deleted.map(|deleted| deleted.failed).map_err(|error| sqs.explain(DELETE, &error))
            })
        };
        self.settle_each(DELETE, handles, entry, |entry| &entry.id, call).await
    }
}

/// Whether an entry failed because its handle names no message that could be deleted or extended any more.
/// SQS has one code for what it never gave and says the rest in words.
fn names_nothing(failed: &BatchResultErrorEntry) -> bool {
    let code = failed.code.rsplit('.').next().unwrap_or_default();
    match code {
        "ReceiptHandleIsInvalid" | "MessageNotInflight" => true,
        "InvalidParameterValue" => failed.message().is_some_and(|said| {
            said.contains("receipt handle has expired") || said.contains("Message does not exist")
        }),
        _ => false,
    }
}

/// Each handle once, for SQS refuses a batch that repeats one; without those that SQS can't have given, for
/// which it refuses a batch, too.
fn distinct(handles: &[Handle]) -> Vec<&str> {
    let mut seen = HashSet::new();
    let handles = handles.iter().map(|handle| &*handle.0);
    handles
        .filter(|handle| !handle.is_empty() && handle.bytes().all(|byte| byte.is_ascii_graphic()))
        .filter(|handle| seen.insert(*handle))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_that_names_nothing_any_more_is_told_from_what_went_wrong() {
        let failed = |code: &str, message: &str| {
            let entry = BatchResultErrorEntry::builder().id("0").sender_fault(true).code(code);
            names_nothing(&entry.message(message).build().expect("it has all fields"))
        };
        assert!(failed("ReceiptHandleIsInvalid", ""));
        assert!(failed("AWS.SimpleQueueService.MessageNotInflight", ""));
        let said = "Value AQEB for parameter ReceiptHandle is invalid. Reason: ";
        assert!(failed("InvalidParameterValue", &format!("{said}The receipt handle has expired.")));
        let gone = "Message does not exist or is not available for visibility timeout change.";
        assert!(failed("InvalidParameterValue", &format!("{said}{gone}")));
        assert!(!failed("InvalidParameterValue", "Total VisibilityTimeout is beyond the limit"));
        assert!(!failed("InternalError", ""));
    }

    #[test]
    fn handles_that_sqs_can_t_have_given_are_left_out_and_others_said_once() {
        let handles = ["", "a", "b c", "é", "a", "b"].map(|handle| Handle(handle.into()));
        assert_eq!(distinct(&handles), ["a", "b"]);
    }
}
