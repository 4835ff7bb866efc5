//! What a record is as an item of the table, and how large DynamoDB takes it to be.

use crate::records::{Lookup, NewRecord, Outcome, Record};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::HashMap, fmt, str::FromStr, time::Duration};
use uuid::Uuid;

/// The table's key: a record's id, or the name of a part of a receipt.
pub(super) const ID: &str = "id";
/// The request as JSON; an expired record has none.
pub(super) const REQUEST: &str = "request";
/// The outcome as JSON, once there is one.
pub(super) const OUTCOME: &str = "outcome";
/// When it was accepted, fails and expires, in milliseconds since 1970.
pub(super) const ACCEPTED: &str = "accepted_ms";
pub(super) const DEADLINE: &str = "deadline_ms";
pub(super) const EXPIRES: &str = "expires_ms";
/// The attempts that wrote the request and the outcome.
pub(super) const CREATED_BY: &str = "created_by";
pub(super) const FINISHED_BY: &str = "finished_by";
/// Which receipt it has, if any.
pub(super) const RECEIPT: &str = "receipt";
/// How large the item was when it was created, so that what may be added is known without reading it.
pub(super) const BYTES: &str = "item_bytes";
/// A part's bytes.
pub(super) const PART: &str = "part";
/// When DynamoDB removes the item by itself, in seconds since 1970.
pub(super) const TTL: &str = "ttl";

/// How long after its record's expiry DynamoDB may remove a receipt: longer than clocks differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(3600);

/// An item of the table, or of an index.
pub(super) type Item = HashMap<String, AttributeValue>;

/// One attempt to write something. A condition that fails can't tell who made it fail; the attempt that is
/// written beside what it wrote can: an answer may be lost, and the SDK then asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Attempt(u128);

impl Attempt {
    pub(super) fn new() -> Self {
        Self(rand::random())
    }

    /// One of `of` numbers, and not one that a client that chooses ids can choose.
    pub(super) fn pick(self, of: u8) -> u8 {
        u8::try_from(self.0 % u128::from(of)).expect("less than a u8")
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:032x}", self.0)
    }
}

impl FromStr for Attempt {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// Which receipt a record has: the attempt that wrote it, in how many parts, of how many bytes together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ReceiptName {
    pub(super) attempt: Attempt,
    pub(super) parts: usize,
    pub(super) bytes: usize,
}

impl ReceiptName {
    /// The keys of its parts, in order.
    pub(super) fn keys(self, id: Uuid) -> Vec<String> {
        (0..self.parts).map(|part| format!("{id}/{}/{part}", self.attempt)).collect()
    }
}

impl fmt::Display for ReceiptName {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{}/{}/{}", self.attempt, self.parts, self.bytes)
    }
}

impl FromStr for ReceiptName {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let mut pieces = text.split('/');
        let named = (|| {
            Some(Self {
                attempt: pieces.next()?.parse().ok()?,
                parts: pieces.next()?.parse().ok()?,
                bytes: pieces.next()?.parse().ok()?,
            })
        })();
        named.ok_or(Unreadable(RECEIPT))
    }
}

/// What is at an id.
pub(super) enum Standing {
    /// A record.
    There(Box<There>),
    /// One that has expired, removed already or not.
    Gone,
    /// Nothing.
    Missing,
}

/// A record with what belongs to its item.
pub(super) struct There {
    pub(super) record: Record,
    pub(super) created_by: Attempt,
    pub(super) finished_by: Option<Attempt>,
    pub(super) receipt: Option<ReceiptName>,
    pub(super) bytes: usize,
}

/// An attribute that is not as we write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its attribute `{0}` is missing or can't be read")]
pub(super) struct Unreadable(pub(super) &'static str);

impl Standing {
    /// What was read at `id`.
    pub(super) fn of(id: Uuid, item: Option<&Item>, now_ms: u64) -> Result<Self, Unreadable> {
        let Some(item) = item else { return Ok(Self::Missing) };
        let expires_ms = number(item, EXPIRES)?;
        if expires_ms < now_ms || !item.contains_key(REQUEST) {
            return Ok(Self::Gone);
        }
        let record = Record {
            id,
            request: json_of(item, REQUEST)?,
            accepted_ms: number(item, ACCEPTED)?,
            deadline_ms: number(item, DEADLINE)?,
            expires_ms,
            outcome: item.contains_key(OUTCOME).then(|| json_of(item, OUTCOME)).transpose()?,
        };
        Ok(Self::There(Box::new(There {
            record,
            created_by: parsed(item, CREATED_BY)?,
            finished_by: maybe(item, FINISHED_BY)?,
            receipt: maybe(item, RECEIPT)?,
            bytes: parsed_number(item, BYTES)?,
        })))
    }

    pub(super) fn lookup(self) -> Lookup {
        match self {
            Self::There(there) => Lookup::Found(there.record),
            Self::Gone => Lookup::Expired,
            Self::Missing => Lookup::Unknown,
        }
    }
}

/// A new record's item without what only indexes need.
pub(super) fn of_record(
    record: &NewRecord,
    accepted_ms: u64,
    attempt: Attempt,
    tombstone_retention: Duration,
) -> Item {
    [
        (ID, text(record.id)),
        (REQUEST, text(json(&record.request))),
        (ACCEPTED, numeral(accepted_ms)),
        (DEADLINE, numeral(record.deadline_ms)),
        (EXPIRES, numeral(record.expires_ms)),
        (CREATED_BY, text(attempt)),
        (TTL, ttl(record.expires_ms, tombstone_retention)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// Writes the item's size into it, and says it. Nothing may be added after that.
pub(super) fn seal(item: &mut Item) -> usize {
    item.insert(BYTES.to_owned(), numeral(u64::MAX)); // as large as its size can be
    let bytes = item_bytes(item.iter().map(|(name, value)| (name.as_str(), value)));
    item.insert(BYTES.to_owned(), numeral(bytes as u64));
    bytes
}

/// When DynamoDB may remove the parts of a record's receipt.
pub(super) fn receipt_ttl(expires_ms: u64) -> AttributeValue {
    ttl(expires_ms, CLOCKS_DIFFER)
}

/// What a finish adds to an item.
pub(super) fn ending(
    outcome: &Outcome,
    attempt: Attempt,
    receipt: Option<ReceiptName>,
) -> Vec<(&'static str, AttributeValue)> {
    let mut added = vec![(OUTCOME, text(json(outcome))), (FINISHED_BY, text(attempt))];
    added.extend(receipt.map(|receipt| (RECEIPT, text(receipt))));
    added
}

/// How large DynamoDB takes attributes to be: their names and values. Of numbers it says only about how
/// large they are; this is never less.
pub(super) fn item_bytes<'a>(attributes: impl IntoIterator<Item = (&'a str, &'a AttributeValue)>) -> usize {
    let value = |value: &AttributeValue| match value {
        AttributeValue::S(text) => text.len(),
        AttributeValue::B(bytes) => bytes.as_ref().len(),
        AttributeValue::N(digits) => digits.len().div_ceil(2) + 2,
        other => unreachable!("we write texts, bytes and numbers: {other:?}"),
    };
    attributes.into_iter().map(|(name, of)| name.len() + value(of)).sum()
}

pub(super) fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

pub(super) fn numeral(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A text that can be parsed.
pub(super) fn parsed<T: FromStr>(item: &Item, name: &'static str) -> Result<T, Unreadable> {
    let text = item.get(name).and_then(|value| value.as_s().ok());
    text.and_then(|text| text.parse().ok()).ok_or(Unreadable(name))
}

/// A text that can be parsed, if it is there.
pub(super) fn maybe<T: FromStr>(item: &Item, name: &'static str) -> Result<Option<T>, Unreadable> {
    item.contains_key(name).then(|| parsed(item, name)).transpose()
}

pub(super) fn number(item: &Item, name: &'static str) -> Result<u64, Unreadable> {
    parsed_number(item, name)
}

fn parsed_number<T: FromStr>(item: &Item, name: &'static str) -> Result<T, Unreadable> {
    let digits = item.get(name).and_then(|value| value.as_n().ok());
    digits.and_then(|digits| digits.parse().ok()).ok_or(Unreadable(name))
}

fn json_of<T: DeserializeOwned>(item: &Item, name: &'static str) -> Result<T, Unreadable> {
    let text = item.get(name).and_then(|value| value.as_s().ok());
    text.and_then(|text| serde_json::from_str(text).ok()).ok_or(Unreadable(name))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of them have a JSON form")
}

/// Rounded up: never before its time.
fn ttl(expires_ms: u64, after: Duration) -> AttributeValue {
    numeral((expires_ms / 1000).saturating_add(after.as_secs()).saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::Request;

    fn record() -> NewRecord {
        let request = Request {
            expression: "a + ÷".into(),
            parameters: [("a".into(), "1/3".into())].into(),
            digits: None,
            receipt: false,
        };
        NewRecord { id: Uuid::from_u128(7), request, deadline_ms: 1500, expires_ms: 2500 }
    }

    #[test]
    fn an_item_is_as_large_as_its_names_and_values() {
        let attributes = [("id", text("ab÷")), ("n", numeral(1_700_000_000_000)), ("request", text(""))];
        let bytes = item_bytes(attributes.iter().map(|(name, value)| (*name, value)));
        assert_eq!(bytes, (2 + 4) + (1 + 7 + 2) + 7);
    }

    #[test]
    fn a_sealed_item_knows_its_size() {
        let mut item = of_record(&record(), 1000, Attempt::new(), Duration::from_secs(60));
        let bytes = seal(&mut item);
        assert_eq!(parsed_number(&item, BYTES), Ok(bytes));
        assert!(bytes >= item_bytes(item.iter().map(|(name, value)| (name.as_str(), value))));
    }

    #[test]
    fn what_is_written_is_read_until_it_expires() {
        let (attempt, written) = (Attempt::new(), record());
        let mut item = of_record(&written, 1000, attempt, Duration::from_secs(60));
        seal(&mut item);
        assert_eq!(number(&item, TTL), Ok(63), "no sooner than 62.5 s");
        let Ok(Standing::There(there)) = Standing::of(written.id, Some(&item), 2500) else {
            panic!("it is there");
        };
        assert_eq!((there.created_by, there.finished_by, there.receipt), (attempt, None, None));
        assert_eq!((there.record.request, there.record.accepted_ms), (written.request, 1000));
        assert!(matches!(Standing::of(written.id, Some(&item), 2501), Ok(Standing::Gone)));
        assert!(matches!(Standing::of(written.id, None, 0), Ok(Standing::Missing)));
        item.remove(CREATED_BY);
        let read = Standing::of(written.id, Some(&item), 0);
        assert_eq!(read.err(), Some(Unreadable(CREATED_BY)));
        item.remove(REQUEST);
        assert!(matches!(Standing::of(written.id, Some(&item), 0), Ok(Standing::Gone)));
    }

    #[test]
    fn a_receipt_is_named_by_its_attempt() {
        let name = ReceiptName { attempt: Attempt(0xab), parts: 2, bytes: 300 };
        let text = "000000000000000000000000000000ab/2/300";
        assert_eq!((name.to_string().as_str(), text.parse()), (text, Ok(name)));
        assert_eq!("ab/2".parse::<ReceiptName>(), Err(Unreadable(RECEIPT)));
        let keys = name.keys(Uuid::from_u128(7));
        assert_eq!(keys[1], "00000000-0000-0000-0000-000000000007/000000000000000000000000000000ab/1");
    }

    #[test]
    fn attempts_are_spread_over_all_numbers() {
        let mut seen = [0; 8];
        for _ in 0..1000 {
            seen[usize::from(Attempt::new().pick(8))] += 1;
        }
        assert!(seen.iter().all(|count| *count > 60), "{seen:?}");
    }
}
