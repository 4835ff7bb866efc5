//! The two indexes: which records are open, and which expire when.
//!
//! Both are sparse: only records that have the attribute of their partition are in them, and lose it when
//! they are finished, or expired. What a query of one says is a little old (DynamoDB brings indexes up to
//! date within a second, usually, and promises nothing), so it may name a record that was just finished and
//! lack one that was just accepted. Whoever acts on it asks the record itself.

use super::{
    Inner,
    item::{
        ACCEPTED, BYTES, CREATED_BY, DEADLINE, EXPIRES, FINISHED_BY, ID, Item, OUTCOME, RECEIPT, REQUEST,
        ReceiptName, Unreadable, maybe, number, numeral, parsed, text,
    },
    refused_by_condition,
};
use crate::records::RecordsError;
use aws_sdk_dynamodb::{
    operation::query::builders::QueryFluentBuilder,
    types::{ReturnValue, Select},
};
use futures::future::{join_all, try_join_all};
use std::{sync::atomic::Ordering, time::Duration};
use uuid::Uuid;

/// Partitions of each index. One takes 1,000 writes a second, and a request costs two: its entry comes and
/// goes. Eight bear 4,000 requests a second, more than the table itself takes when it is new (4,000 writes,
/// two a request), and looking into all of them is still a handful of reads every few seconds. An index that
/// can't keep up holds up the table. Records know their shard, but readers look into those there are: fewer
/// would lose some.
const SHARDS: u8 = 8;

/// Entries that a query asks for at once; it stops at 1 MB in any case.
const PAGE: usize = 1000;

/// Pages of a shard that are looked through for what is wanted, and that are counted: some 80,000 entries.
const PAGES_MAX: usize = 8;

/// Records that are removed at once.
const AT_ONCE: usize = 16;

/// How long a count of the records is good for, corrected by what this process does. Counting reads all that
/// is open, about 100 bytes a record, so that 10,000 cost about 120 reads, and a gateway that is full asks
/// fifty times a second.
const COUNTED_FOR: Duration = Duration::from_millis(250);

/// A global secondary index.
pub(super) struct Index {
    pub(super) name: &'static str,
    /// The partition: one of [`SHARDS`].
    pub(super) shard: &'static str,
    /// The order within it.
    pub(super) sort: &'static str,
    /// What it holds besides keys.
    pub(super) beside: &'static str,
}

/// What is accepted and not finished, by when it was accepted.
const OPEN: Index = Index { name: "accepted", shard: "open_shard", sort: ACCEPTED, beside: EXPIRES };
/// What is not removed yet, by when it expires. It holds the receipt's name and not the outcome's attempt,
/// so that a finish without a receipt does not write it.
const EXPIRY: Index = Index { name: "expiry", shard: "expiry_shard", sort: EXPIRES, beside: RECEIPT };

pub(super) static ALL: [Index; 2] = [OPEN, EXPIRY];

/// What puts a new record into both.
pub(super) fn enter(item: &mut Item, pick: impl FnOnce(u8) -> u8) {
    let shard = numeral(pick(SHARDS).into());
    item.insert(OPEN.shard.to_owned(), shard.clone());
    item.insert(EXPIRY.shard.to_owned(), shard);
}

/// The attribute that a finished record has no more.
pub(super) const OPEN_SHARD: &str = OPEN.shard;

/// What an index says of a record.
#[derive(Debug)]
struct Entry {
    id: Uuid,
    sort: u64,
    expires_ms: u64,
    receipt: Option<ReceiptName>,
}

impl Entry {
    fn of(index: &Index, item: &Item) -> Result<Self, Unreadable> {
        Ok(Self {
            id: parsed(item, ID)?,
            sort: number(item, index.sort)?,
            expires_ms: number(item, EXPIRES)?,
            receipt: maybe(item, RECEIPT)?,
        })
    }
}

/// The last count of what is open.
#[derive(Default)]
pub(super) struct Counted {
    /// When it began, and what it said.
    last: Option<(u64, i64)>,
}

impl Inner {
    /// Up to `max` ids of open records that were accepted before `before_ms` and have not expired, the
    /// oldest first.
    pub(super) async fn open_before(&self, before_ms: u64, max: usize) -> Result<Vec<Uuid>, RecordsError> {
        let now_ms = self.now_ms();
        // The expired ones go with the next sweep.
        let found = self.first(&OPEN, before_ms, max, |entry| entry.expires_ms >= now_ms).await?;
        Ok(found.into_iter().map(|entry| entry.id).collect())
    }

    /// Up to `max` entries before `below`, in order, of all shards.
    async fn first(
        &self,
        index: &Index,
        below: u64,
        max: usize,
        wanted: impl Fn(&Entry) -> bool + Send + Sync,
    ) -> Result<Vec<Entry>, RecordsError> {
        let wanted = &wanted;
        let shards = (0..SHARDS).map(|shard| self.first_of(index, shard, below, max, wanted));
        let mut found: Vec<Entry> = try_join_all(shards).await?.into_iter().flatten().collect();
        found.sort_by_key(|entry| (entry.sort, entry.id));
        found.truncate(max);
        Ok(found)
    }

    async fn first_of(
        &self,
        index: &Index,
        shard: u8,
        below: u64,
        max: usize,
        wanted: &(impl Fn(&Entry) -> bool + Send + Sync),
    ) -> Result<Vec<Entry>, RecordsError> {
        let limit = i32::try_from(max.clamp(1, PAGE)).expect("a page");
        let (mut found, mut from) = (Vec::new(), None);
        for _ in 0..PAGES_MAX {
            let page = self
                .query(index, shard)
                .key_condition_expression("#shard = :shard AND #sort < :below")
                .expression_attribute_names("#sort", index.sort)
                .expression_attribute_values(":below", numeral(below))
                .limit(limit)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|error| self.failed("Query", &error))?;
            for item in page.items() {
                let entry = Entry::of(index, item).map_err(|error| self.unreadable(item.get(ID), error))?;
                if wanted(&entry) {
                    found.push(entry);
                }
            }
            from = page.last_evaluated_key;
            if found.len() >= max || from.is_none() {
                break;
            }
        }
        Ok(found)
    }

    /// How many records are open, as of [`COUNTED_FOR`] ago at most.
    pub(super) async fn open(&self) -> Result<u64, RecordsError> {
        // Whoever comes while it is counted waits for that count.
        let mut counted = self.counted.lock().await;
        let (now_ms, good_for) = (self.now_ms(), u64::try_from(COUNTED_FOR.as_millis()).unwrap_or(u64::MAX));
        let fresh = counted.last.filter(|(at_ms, _)| now_ms < at_ms.saturating_add(good_for));
        let open = if let Some((_, open)) = fresh {
            open
        } else {
            let before = self.opened.load(Ordering::Relaxed);
            let shards = try_join_all((0..SHARDS).map(|shard| self.open_of(shard))).await?;
            let open = shards.into_iter().sum();
            self.opened.fetch_sub(before, Ordering::Relaxed);
            counted.last = Some((now_ms, open));
            open
        };
        Ok(u64::try_from(open.saturating_add(self.opened.load(Ordering::Relaxed))).unwrap_or(0))
    }

    async fn open_of(&self, shard: u8) -> Result<i64, RecordsError> {
        let (mut count, mut from) = (0, None);
        for _ in 0..PAGES_MAX {
            let page = self
                .query(&OPEN, shard)
                .key_condition_expression("#shard = :shard")
                .select(Select::Count)
                .set_exclusive_start_key(from)
                .send()
                .await
                .map_err(|error| self.failed("Query", &error))?;
            count += i64::from(page.count);
            from = page.last_evaluated_key;
            if from.is_none() {
                break;
            }
        }
        Ok(count)
    }

    /// Makes tombstones of up to `max` records past their expiry. DynamoDB removes those.
    pub(super) async fn bury(&self, max: usize) -> Result<u64, RecordsError> {
        let now_ms = self.now_ms();
        let due = self.first(&EXPIRY, now_ms, max, |_| true).await?;
        let mut buried = 0;
        for some in due.chunks(AT_ONCE) {
            for one in join_all(some.iter().map(|entry| self.bury_one(entry, now_ms))).await {
                buried += u64::from(one?);
            }
        }
        Ok(buried)
    }

    /// Whether it was there to be removed. Its receipt goes first: what is left when this ends halfway is
    /// still in the index, and nobody reads the receipt of an expired record.
    async fn bury_one(&self, entry: &Entry, now_ms: u64) -> Result<bool, RecordsError> {
        if let Some(receipt) = entry.receipt {
            self.remove_receipt(entry.id, receipt).await?;
        }
        let gone = [
            REQUEST,
            OUTCOME,
            ACCEPTED,
            DEADLINE,
            CREATED_BY,
            FINISHED_BY,
            RECEIPT,
            BYTES,
            OPEN.shard,
            EXPIRY.shard,
        ];
        let mut update = self
            .client
            .update_item()
            .table_name(&self.options.table)
            .key(ID, text(entry.id))
            .condition_expression("attribute_exists(#request) AND #expires < :now")
            .expression_attribute_names("#request", REQUEST)
            .expression_attribute_names("#expires", EXPIRES)
            .expression_attribute_values(":now", numeral(now_ms))
            .return_values(ReturnValue::AllOld);
        let mut names = Vec::new();
        for name in gone {
            update = update.expression_attribute_names(format!("#{name}"), name);
            names.push(format!("#{name}"));
        }
        let was = match update.update_expression(format!("REMOVE {}", names.join(", "))).send().await {
            Ok(answer) => answer.attributes.unwrap_or_default(),
            Err(error) if refused_by_condition(&error) => return Ok(false),
            Err(error) => return Err(self.failed("UpdateItem", &error)),
        };
        if !was.contains_key(OUTCOME) {
            self.opens(-1);
        }
        // Finished so shortly before that the index did not know it.
        let late = maybe::<ReceiptName>(&was, RECEIPT).ok().flatten();
        if let Some(receipt) = late.filter(|receipt| entry.receipt != Some(*receipt)) {
            self.drop_receipt(entry.id, receipt).await;
        }
        Ok(true)
    }

    /// Notes that this process opened or closed a record.
    pub(super) fn opens(&self, by: i64) {
        self.opened.fetch_add(by, Ordering::Relaxed);
    }

    fn query(&self, index: &Index, shard: u8) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.options.table)
            .index_name(index.name)
            .expression_attribute_names("#shard", index.shard)
            .expression_attribute_values(":shard", numeral(shard.into()))
    }
}
