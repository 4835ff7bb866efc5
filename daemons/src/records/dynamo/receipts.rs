//! Receipts: larger than an item may be, so they lie in parts beside the record that names them.
//!
//! Each part has a key of its own, which spreads a large receipt over all partitions. They are written
//! before the record is finished with their name, under a name that nobody wrote before: a reader that finds
//! the name finds all of them, and what nobody names nobody reads. DynamoDB removes that by itself, some time
//! after the record's expiry.

use super::{
    Inner,
    item::{Attempt, ID, Item, PART, ReceiptName, TTL, receipt_ttl, text},
};
use crate::{
    aws::{ATTEMPTS, AwsError, back_off, throttling},
    records::RecordsError,
};
use aws_sdk_dynamodb::{
    primitives::Blob,
    types::{AttributeValue, DeleteRequest, KeysAndAttributes, PutRequest, WriteRequest},
};
use bytes::Bytes;
use futures::future::{join_all, try_join_all};
use std::collections::HashMap;
use uuid::Uuid;

/// Bytes of a part. An item may have 400 KB; this is a round number below that leaves room for the rest.
const PART_BYTES: usize = 256 << 10;

/// Parts of one request: 1 MiB of them, so that a slow line brings it over before the attempt times out.
/// (DynamoDB takes 16 MB.)
const BATCH_PARTS: usize = 4;

/// Deletions of one request: as many as DynamoDB takes.
const BATCH_DELETIONS: usize = 25;

/// Requests of one receipt at once.
const AT_ONCE: usize = 4;

impl Inner {
    /// Writes a receipt that is nobody's yet.
    pub(super) async fn write_receipt(
        &self,
        id: Uuid,
        attempt: Attempt,
        expires_ms: u64,
        receipt: &Bytes,
    ) -> Result<ReceiptName, RecordsError> {
        let name = ReceiptName { attempt, parts: receipt.len().div_ceil(PART_BYTES), bytes: receipt.len() };
        let parts: Vec<_> = name.keys(id).into_iter().zip(receipt.chunks(PART_BYTES)).collect();
        for some in parts.chunks(BATCH_PARTS * AT_ONCE) {
            let batches = some.chunks(BATCH_PARTS).map(|batch| {
                let puts = batch.iter().map(|(key, part)| {
                    let put = PutRequest::builder()
                        .item(ID, text(key))
                        .item(PART, AttributeValue::B(Blob::new(*part)))
                        .item(TTL, receipt_ttl(expires_ms));
                    let put = put.build().expect("the item is given");
                    WriteRequest::builder().put_request(put).build()
                });
                self.write_batch(puts.collect())
            });
            // All of them end before it is known that one failed: none comes after the removal.
            let ended: Result<Vec<()>, _> = join_all(batches).await.into_iter().collect();
            if let Err(error) = ended {
                self.drop_receipt(id, name).await;
                return Err(error);
            }
        }
        Ok(name)
    }

    /// The receipt, or nothing when a part of it is not there.
    pub(super) async fn read_receipt(
        &self,
        id: Uuid,
        name: ReceiptName,
    ) -> Result<Option<Bytes>, RecordsError> {
        let mut receipt = Vec::with_capacity(name.bytes.min(self.options.receipt_bytes_max));
        for some in name.keys(id).chunks(BATCH_PARTS * AT_ONCE) {
            for parts in try_join_all(some.chunks(BATCH_PARTS).map(|keys| self.read_batch(keys))).await? {
                for part in parts {
                    let Some(part) = part else { return Ok(None) };
                    receipt.extend_from_slice(part.as_ref());
                }
            }
        }
        Ok((receipt.len() == name.bytes).then(|| receipt.into()))
    }

    /// Removes a receipt.
    pub(super) async fn remove_receipt(&self, id: Uuid, name: ReceiptName) -> Result<(), RecordsError> {
        for some in name.keys(id).chunks(BATCH_DELETIONS) {
            let deletions = some.iter().map(|key| {
                let delete = DeleteRequest::builder().key(ID, text(key)).build().expect("the key is given");
                WriteRequest::builder().delete_request(delete).build()
            });
            self.write_batch(deletions.collect()).await?;
        }
        Ok(())
    }

    /// Removes a receipt that nobody reads; when that fails, DynamoDB will.
    pub(super) async fn drop_receipt(&self, id: Uuid, name: ReceiptName) {
        if let Err(error) = self.remove_receipt(id, name).await {
            tracing::warn!(request = %id, %error, "a receipt that nobody reads stays until its time is over");
        }
    }

    async fn write_batch(&self, mut left: Vec<WriteRequest>) -> Result<(), RecordsError> {
        let mut patience = Patience::default();
        while !left.is_empty() {
            let before = left.len();
            let request = self.client.batch_write_item().request_items(&self.options.table, left.clone());
            match request.send().await {
                Ok(answer) => left = only(answer.unprocessed_items),
                Err(error) => self.throttled(self.service.explain("BatchWriteItem", &error))?,
            }
            if !left.is_empty() && !patience.pause(left.len() < before).await {
                return Err(self.left_over("BatchWriteItem", left.len()));
            }
        }
        Ok(())
    }

    /// The parts of these keys, in their order.
    async fn read_batch(&self, keys: &[String]) -> Result<Vec<Option<Blob>>, RecordsError> {
        let wanted = keys.iter().fold(KeysAndAttributes::builder().consistent_read(true), |wanted, key| {
            wanted.keys(HashMap::from([(ID.to_owned(), text(key))]))
        });
        let mut left = Some(wanted.build().expect("the keys are given"));
        let mut found: HashMap<String, Blob> = HashMap::new();
        let mut patience = Patience::default();
        while let Some(wanted) = left {
            let before = found.len();
            let request = self.client.batch_get_item().request_items(&self.options.table, wanted.clone());
            match request.send().await {
                Ok(answer) => {
                    let items: Vec<Item> = only(answer.responses);
                    found.extend(items.into_iter().filter_map(part));
                    let unprocessed = answer.unprocessed_keys.unwrap_or_default().into_values().next();
                    left = unprocessed.filter(|left| !left.keys.is_empty());
                }
                Err(error) => {
                    self.throttled(self.service.explain("BatchGetItem", &error))?;
                    left = Some(wanted);
                }
            }
            if let Some(left) = &left
                && !patience.pause(found.len() > before).await
            {
                return Err(self.left_over("BatchGetItem", left.keys.len()));
            }
        }
        Ok(keys.iter().map(|key| found.remove(key)).collect())
    }

    /// Passes over that the table throttles: a batch has more patience than a single request.
    fn throttled(&self, error: AwsError) -> Result<(), RecordsError> {
        if error.code().is_some_and(throttling) { Ok(()) } else { Err(self.unavailable(error)) }
    }

    fn left_over(&self, operation: &'static str, items: usize) -> RecordsError {
        let what = format!("{items} items were not taken in {ATTEMPTS} attempts: the table throttles");
        self.unavailable(self.service.explain_entry(operation, "ThrottlingException", Some(&what)))
    }
}

/// How often in a row a batch was sent without anything of it being taken.
#[derive(Default)]
struct Patience {
    in_vain: u32,
}

impl Patience {
    /// Waits before what is left is sent again, unless that was in vain too often.
    async fn pause(&mut self, progress: bool) -> bool {
        self.in_vain = if progress { 0 } else { self.in_vain + 1 };
        let again = self.in_vain < ATTEMPTS;
        if again {
            back_off(self.in_vain).await;
        }
        again
    }
}

/// What an answer says of the one table that was asked for.
fn only<T>(by_table: Option<HashMap<String, Vec<T>>>) -> Vec<T> {
    by_table.unwrap_or_default().into_values().next().unwrap_or_default()
}

/// A part with its key; one that can't be read is as good as missing.
fn part(mut item: Item) -> Option<(String, Blob)> {
    match (item.remove(ID)?, item.remove(PART)?) {
        (AttributeValue::S(key), AttributeValue::B(part)) => Some((key, part)),
        _ => None,
    }
}
