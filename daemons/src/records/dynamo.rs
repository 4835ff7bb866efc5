//! Records in a table of DynamoDB.
//!
//! # The table
//! One, billed by request, whose key is the record's id. An item holds the request and the outcome as JSON,
//! so a person can read it in the console. Receipts lie beside their records, in parts (`receipts.rs`). Two
//! global secondary indexes, `accepted` and `expiry`, hold what sweeps look for (`index.rs`). The attribute
//! `ttl` is the table's time to live: DynamoDB removes tombstones after their retention, and what was left
//! lying, days late perhaps; nothing relies on when.
//!
//! A role needs `GetItem`, `PutItem`, `UpdateItem`, `BatchGetItem`, `BatchWriteItem`, `DescribeTable` and
//! `DescribeTimeToLive` on the table, `Query` on its indexes, and, to make it, `CreateTable` and
//! `UpdateTimeToLive`.
//!
//! # What is exact and what is not
//! `create`, `get`, `finish` and `receipt` read and write items with strong consistency. `overdue`,
//! `accepted` and `expire` go by indexes, which lag: `overdue` may name a record that was finished a moment
//! ago, `expire` may find fewer than there are, and `accepted` is moreover a quarter of a second old, but for
//! what this process did. Of more than about 80,000 open records in one of eight shards no more is counted.
//!
//! # Answers that are lost
//! The SDK asks again when no answer comes, and the condition of what was written then fails against our own
//! write. Each write therefore carries an attempt: who finds its own in the item was first.

mod index;
mod item;
mod receipts;
mod table;

pub use table::OpenError;

use super::{Created, Finished, Lookup, NewRecord, Outcome, Records, RecordsError};
use crate::{
    aws::Service,
    clock::{Clock, SystemClock},
};
use async_trait::async_trait;
use aws_config::SdkConfig;
use aws_sdk_dynamodb::{
    Client,
    error::{ProvideErrorMetadata, SdkError},
    types::AttributeValue,
};
use bytes::Bytes;
use item::{Attempt, ReceiptName, Standing, There, Unreadable, numeral, text};
use std::{
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};
use uuid::Uuid;

/// What DynamoDB takes as one item: 400 KB, names of attributes included.
const ITEM_BYTES_MAX: usize = 400 << 10;

/// What a request leaves of its item, so that a failure can be written at least.
const OUTCOME_ROOM: usize = 16 << 10;

/// What records are opened with.
#[derive(Clone, Debug)]
pub struct DynamoOptions {
    /// The table.
    pub table: String,
    /// Whether to make the table when there is none, and to set its time to live.
    pub create: bool,
    /// How long to wait for a table that is being made.
    pub create_timeout: Duration,
    /// The time by which records expire.
    pub clock: Arc<dyn Clock>,
    /// The largest request in bytes with its outcome and what belongs to them. DynamoDB takes no more than
    /// the default; 16 KiB of it a request leaves free.
    pub item_bytes_max: usize,
    /// The largest receipt in bytes.
    pub receipt_bytes_max: usize,
    /// How long an expired record's id is known to be gone.
    pub tombstone_retention: Duration,
}

impl Default for DynamoOptions {
    fn default() -> Self {
        Self {
            table: "quorate-records".to_owned(),
            create: true,
            create_timeout: Duration::from_secs(120),
            clock: Arc::new(SystemClock::default()),
            item_bytes_max: ITEM_BYTES_MAX,
            receipt_bytes_max: 64 << 20,
            tombstone_retention: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

/// Records in a table of DynamoDB.
pub struct DynamoRecords {
    inner: Inner,
}

/// What all parts of it share.
struct Inner {
    client: Client,
    service: Service,
    options: DynamoOptions,
    counted: tokio::sync::Mutex<index::Counted>,
    /// Records that this process opened, less those that it closed, since the last count.
    opened: AtomicI64,
}

impl DynamoRecords {
    /// Opens the table, making it when there is none and the options allow that.
    ///
    /// # Errors
    /// When AWS can't be reached, or the table is missing, not usable in time, or another one than ours.
    pub async fn open(config: &SdkConfig, options: DynamoOptions) -> Result<Self, OpenError> {
        let (client, service) = (Client::new(config), Service::new("DynamoDB", config));
        let opening = table::Opening {
            client: &client,
            service: &service,
            table: &options.table,
            create: options.create,
            wait: options.create_timeout,
        };
        opening.open().await?;
        let (counted, opened) = Default::default();
        Ok(Self { inner: Inner { client, service, options, counted, opened } })
    }
}

#[async_trait]
impl Records for DynamoRecords {
    async fn create(&self, record: NewRecord) -> Result<Created, RecordsError> {
        self.inner.create(&record).await
    }

    async fn get(&self, id: Uuid) -> Result<Lookup, RecordsError> {
        Ok(self.inner.standing(id).await?.lookup())
    }

    async fn finish(
        &self,
        id: Uuid,
        outcome: Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError> {
        self.inner.finish(id, &outcome, receipt).await
    }

    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError> {
        self.inner.receipt(id).await
    }

    /// As of a moment ago: the index lags.
    async fn overdue(&self, age: Duration, max: usize) -> Result<Vec<Uuid>, RecordsError> {
        let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
        self.inner.open_before(self.inner.now_ms().saturating_sub(age_ms), max).await
    }

    async fn accepted(&self) -> Result<u64, RecordsError> {
        self.inner.open().await
    }

    async fn expire(&self, max: usize) -> Result<u64, RecordsError> {
        self.inner.bury(max).await
    }
}

impl Inner {
    async fn create(&self, record: &NewRecord) -> Result<Created, RecordsError> {
        let attempt = Attempt::new();
        let retention = self.options.tombstone_retention;
        let mut item = item::of_record(record, self.now_ms(), attempt, retention);
        index::enter(&mut item, |shards| attempt.pick(shards));
        let bytes = item::seal(&mut item);
        within(bytes, self.options.item_bytes_max.saturating_sub(OUTCOME_ROOM))?;
        let put = self
            .client
            .put_item()
            .table_name(&self.options.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(#id)")
            .expression_attribute_names("#id", item::ID);
        match put.send().await {
            Ok(_) => {}
            Err(error) if refused_by_condition(&error) => {
                match self.standing(record.id).await? {
                    Standing::There(there) if there.created_by == attempt => {}
                    Standing::There(there) => return Ok(Created::Existing(there.record)),
                    // Missing: DynamoDB has removed the tombstone since.
                    Standing::Gone | Standing::Missing => return Ok(Created::Expired),
                }
            }
            Err(error) => return Err(self.failed("PutItem", &error)),
        }
        self.opens(1);
        Ok(Created::New)
    }

    async fn finish(
        &self,
        id: Uuid,
        outcome: &Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError> {
        let attempt = Attempt::new();
        let limit = self.options.item_bytes_max;
        let added =
            item::item_bytes(item::ending(outcome, attempt, None).iter().map(|(name, value)| (*name, value)));
        within(added, limit)?;
        let receipt = match receipt {
            None => None,
            Some(receipt) => {
                within(receipt.len(), self.options.receipt_bytes_max)?;
                // What has ended needs no second receipt, and whoever is told of an outcome again has one.
                let expires_ms = match self.standing(id).await? {
                    Standing::There(there) => match there.record.outcome {
                        Some(outcome) => return Ok(Finished::Before(outcome)),
                        None => {
                            within(there.bytes + added + RECEIPT_NAME_BYTES, limit)?;
                            there.record.expires_ms
                        }
                    },
                    Standing::Gone | Standing::Missing => return Ok(Finished::Unknown),
                };
                Some(self.write_receipt(id, attempt, expires_ms, &receipt).await?)
            }
        };
        let ended = self.end(id, outcome, attempt, receipt).await;
        // After an error nobody knows whether the record names it.
        if let (
            Some(receipt),
            Ok(Finished::Before(_) | Finished::Unknown) | Err(RecordsError::TooLarge { .. }),
        ) = (receipt, &ended)
        {
            self.drop_receipt(id, receipt).await;
        }
        if let Ok(Finished::First) = ended {
            self.opens(-1);
        }
        ended
    }

    /// Finishes the record in one write, or says what stands instead.
    async fn end(
        &self,
        id: Uuid,
        outcome: &Outcome,
        attempt: Attempt,
        receipt: Option<ReceiptName>,
    ) -> Result<Finished, RecordsError> {
        let ending = item::ending(outcome, attempt, receipt);
        let added = item::item_bytes(ending.iter().map(|(name, value)| (*name, value)));
        let limit = self.options.item_bytes_max;
        let mut update = self
            .client
            .update_item()
            .table_name(&self.options.table)
            .key(item::ID, text(id))
            .condition_expression(
                "attribute_exists(#request) AND attribute_not_exists(#outcome) AND #expires >= :now AND \
                 #bytes <= :room",
            )
            .expression_attribute_names("#request", item::REQUEST)
            .expression_attribute_names("#expires", item::EXPIRES)
            .expression_attribute_names("#bytes", item::BYTES)
            .expression_attribute_names("#open", index::OPEN_SHARD)
            .expression_attribute_values(":now", numeral(self.now_ms()))
            .expression_attribute_values(":room", numeral(limit.saturating_sub(added) as u64));
        let mut set = Vec::new();
        for (name, value) in ending {
            set.push(format!("#{name} = :{name}"));
            update = update
                .expression_attribute_names(format!("#{name}"), name)
                .expression_attribute_values(format!(":{name}"), value);
        }
        match update.update_expression(format!("SET {} REMOVE #open", set.join(", "))).send().await {
            Ok(_) => return Ok(Finished::First),
            Err(error) if refused_by_condition(&error) => {}
            Err(error) => return Err(self.failed("UpdateItem", &error)),
        }
        match self.standing(id).await? {
            Standing::There(there) if there.finished_by == Some(attempt) => Ok(Finished::First),
            Standing::There(there) => {
                let There { record, bytes, .. } = *there;
                let Some(outcome) = record.outcome else {
                    within(bytes + added, limit)?;
                    return Err(self.trouble(format!("record {id} was not finished, and nothing says why")));
                };
                Ok(Finished::Before(outcome))
            }
            Standing::Gone | Standing::Missing => Ok(Finished::Unknown),
        }
    }

    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError> {
        let named = |standing| match standing {
            Standing::There(there) => there.receipt,
            Standing::Gone | Standing::Missing => None,
        };
        let Some(name) = named(self.standing(id).await?) else { return Ok(None) };
        if let Some(receipt) = self.read_receipt(id, name).await? {
            return Ok(Some(receipt));
        }
        // It went while it was read, with its record; otherwise something is wrong.
        match named(self.standing(id).await?) {
            None => Ok(None),
            Some(_) => Err(self.trouble(format!("a part of the receipt of record {id} is missing"))),
        }
    }

    /// What is at an id, read with strong consistency.
    async fn standing(&self, id: Uuid) -> Result<Standing, RecordsError> {
        let get = self.client.get_item().table_name(&self.options.table).key(item::ID, text(id));
        let answer = get.consistent_read(true).send().await;
        let found = answer.map_err(|error| self.failed("GetItem", &error))?.item;
        Standing::of(id, found.as_ref(), self.now_ms())
            .map_err(|error| self.unreadable(Some(&text(id)), error))
    }

    fn now_ms(&self) -> u64 {
        self.options.clock.now_ms()
    }

    fn failed<E>(&self, operation: &'static str, error: &SdkError<E>) -> RecordsError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        self.unavailable(self.service.explain(operation, error))
    }

    fn unreadable(&self, id: Option<&AttributeValue>, error: Unreadable) -> RecordsError {
        let id = id.and_then(|id| id.as_s().ok()).map_or("?", String::as_str);
        self.trouble(format!("item {id} is not ours: {error}"))
    }

    fn trouble(&self, what: String) -> RecordsError {
        self.unavailable(Trouble(what))
    }

    fn unavailable(&self, error: impl std::error::Error + Send + Sync + 'static) -> RecordsError {
        let (table, source) = (self.options.table.clone(), Box::new(error));
        RecordsError::Unavailable { source: Box::new(OfTable { table, source }) }
    }
}

/// What a receipt's name adds to an item, at most.
const RECEIPT_NAME_BYTES: usize = item::RECEIPT.len() + 32 + 2 * (1 + 20);

/// What happened at a table.
#[derive(Debug, thiserror::Error)]
#[error("table {table}: {source}")]
struct OfTable {
    table: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// The table holds something that it should not.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Trouble(String);

/// Whether DynamoDB refused to write because of what stands.
fn refused_by_condition<E: ProvideErrorMetadata>(error: &SdkError<E>) -> bool {
    error.code() == Some("ConditionalCheckFailedException")
}

fn within(bytes: usize, limit: usize) -> Result<(), RecordsError> {
    if bytes > limit { Err(RecordsError::TooLarge { bytes, limit }) } else { Ok(()) }
}
