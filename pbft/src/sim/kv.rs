//! A linearizable key-value store: get, put, delete, compare-and-swap, list by prefix, time to live.
//!
//! | page | what |
//! | --- | --- |
//! | 0 | the version of the last write (8 bytes); empty before the first |
//! | from 1 on | a sorted map: a B+ tree, described in `kv/tree.rs` |
//!
//! The map has two kinds of keys, told apart by their first byte:
//!
//! * `k` and a key: the version of its value, when it expires (8 bytes each; the highest number for
//!   never), and the value.
//! * `t`, a time and a key, for each key that expires: nothing. So what is due is found first.
//!
//! Time is the agreed time of the batch, which every replica knows alike; no clock is read. Whatever is
//! due is gone for every reader, and each operation that is ordered also takes up to
//! [`EXPIRED_PER_OPERATION`] keys that are due out of the map. A key puts at most one entry of time in,
//! so this keeps up with any load. Between two batches no time passes: a key does not expire while
//! nobody orders anything.
//!
//! A get touches one page a level of the tree, a write one more and the pages of its time; a listing
//! those that hold what it shows, and what it steps over is bounded too ([`LISTED_MAX`]). When keys go,
//! their pages do.

use std::ops::ControlFlow;
use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};

use crate::service::{Context, NotReadOnly, Service, State};

mod operation;
pub mod run;
mod tree;

pub use operation::{Answer, Expected, Held, KEY_BYTES_MAX, NoAnswer, Operation, Refusal, VALUE_BYTES_MAX};

/// How many expired keys an operation takes out.
pub const EXPIRED_PER_OPERATION: usize = 4;
/// How many entries a listing looks at.
pub const LISTED_MAX: usize = 1024;
/// A listing ends once it has shown this many bytes.
pub const LISTED_BYTES_MAX: usize = 128 << 10;

/// The store. It answers an [`Operation`] with an [`Answer`], both as bytes; bytes that are no
/// operation are answered [`Refusal::Malformed`] and change nothing.
///
/// ```
/// use quorate_pbft::{ClientId, Options, sim::{Cluster, Setup, kv::{Answer, Kv, Operation}}};
///
/// let mut cluster = Cluster::new(Setup::new(1, 1), Kv);
/// let put = Operation::Put { key: "a".into(), value: "1".into(), ttl: None };
/// cluster.submit(ClientId(0), put.to_bytes(), Options::default())?;
/// cluster.settle();
/// let (_, outcome) = cluster.take_outcomes().remove(0);
/// assert_eq!(Answer::from_bytes(outcome.result().unwrap()), Ok(Answer::Written(1)));
/// # Ok::<(), quorate_pbft::SubmitRefused>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Kv;

impl Service for Kv {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        expire(state, context.time);
        let answer = match Operation::from_bytes(operation) {
            Ok(operation) => answer(state, context.time, operation),
            Err(refusal) => Answer::Refused(refusal),
        };
        answer.to_bytes()
    }

    fn read(&self, context: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        let answer = match Operation::from_bytes(operation) {
            Ok(Operation::Get { key }) => Answer::Held(get(state, context.time, &key)),
            Ok(Operation::List { prefix, after, limit }) => {
                list(state, context.time, &prefix, after.as_deref(), limit)
            }
            Ok(Operation::Put { .. } | Operation::Delete { .. } | Operation::Swap { .. }) => {
                return Err(NotReadOnly);
            }
            Err(refusal) => Answer::Refused(refusal),
        };
        Ok(answer.to_bytes())
    }
}

/// Stands for never.
const NEVER: u64 = u64::MAX;

/// What the map holds for a key.
struct Record<'a> {
    version: u64,
    expires: u64,
    value: &'a [u8],
}

impl<'a> Record<'a> {
    fn read(mut bytes: &'a [u8]) -> Self {
        Self { version: bytes.get_u64(), expires: bytes.get_u64(), value: bytes }
    }

    fn find(state: &'a State, key: &[u8]) -> Option<Self> {
        tree::get(state, &key_of(key)).map(Self::read)
    }

    fn is_there(&self, time: u64) -> bool {
        time < self.expires
    }

    fn held(&self) -> Held {
        Held { version: self.version, value: Bytes::copy_from_slice(self.value) }
    }
}

fn key_of(key: &[u8]) -> Vec<u8> {
    [b"k", key].concat()
}

fn time_of(expires: u64, key: &[u8]) -> Vec<u8> {
    [b"t", &expires.to_be_bytes()[..], key].concat()
}

fn answer(state: &mut State, time: u64, operation: Operation) -> Answer {
    match operation {
        Operation::Get { key } => Answer::Held(get(state, time, &key)),
        Operation::Put { key, value, ttl } => Answer::Written(write(state, time, &key, &value, ttl)),
        Operation::Delete { key } => {
            let was_there = get(state, time, &key).is_some();
            clear(state, &key);
            Answer::Deleted(was_there)
        }
        Operation::Swap { key, expected, value, ttl } => {
            let held = get(state, time, &key);
            let fits = match (&expected, &held) {
                (Expected::Absent, None) => true,
                (Expected::Version(version), Some(held)) => held.version == *version,
                (Expected::Value(value), Some(held)) => held.value == *value,
                _ => false,
            };
            match fits {
                true => Answer::Written(write(state, time, &key, &value, ttl)),
                false => Answer::Differs(held.map(|held| held.version)),
            }
        }
        Operation::List { prefix, after, limit } => list(state, time, &prefix, after.as_deref(), limit),
    }
}

fn get(state: &State, time: u64, key: &[u8]) -> Option<Held> {
    Record::find(state, key).filter(|record| record.is_there(time)).map(|record| record.held())
}

fn list(state: &State, time: u64, prefix: &[u8], after: Option<&[u8]>, limit: u64) -> Answer {
    let prefix = key_of(prefix);
    // The key that follows another one at once is that one and a zero.
    let after = after.map(|after| [&key_of(after)[..], &[0]].concat());
    let from = after.map_or_else(|| prefix.clone(), |after| after.max(prefix.clone()));
    let (mut entries, mut resume) = (Vec::<(Bytes, Held)>::new(), None);
    let (mut looked_at, mut bytes) = (Bytes::new(), 0);
    let most = usize::try_from(limit).unwrap_or(LISTED_MAX).clamp(1, LISTED_MAX);
    let mut left = LISTED_MAX;
    tree::scan(state, &from, &mut |key, record| {
        if !key.starts_with(&prefix) {
            return ControlFlow::Break(());
        }
        if left == 0 {
            resume = Some(looked_at.clone());
            return ControlFlow::Break(());
        }
        left -= 1;
        looked_at = Bytes::copy_from_slice(&key[1..]);
        let record = Record::read(record);
        if !record.is_there(time) {
            return ControlFlow::Continue(());
        }
        if entries.len() == most || bytes >= LISTED_BYTES_MAX {
            resume = entries.last().map(|(key, _)| key.clone());
            return ControlFlow::Break(());
        }
        bytes += looked_at.len() + record.value.len();
        entries.push((looked_at.clone(), record.held()));
        ControlFlow::Continue(())
    });
    Answer::Listed { entries, resume }
}

/// Gives the key a value, and says under which version.
fn write(state: &mut State, time: u64, key: &[u8], value: &[u8], ttl: Option<Duration>) -> u64 {
    forget_time(state, key);
    let version = state.page(0).try_get_u64().unwrap_or(0) + 1;
    state.write(0, &version.to_be_bytes());
    let nanos = ttl.map(|ttl| u64::try_from(ttl.as_nanos()).unwrap_or(NEVER));
    let expires = nanos.map_or(NEVER, |nanos| time.saturating_add(nanos));
    let mut record = Vec::with_capacity(16 + value.len());
    record.put_u64(version);
    record.put_u64(expires);
    record.put_slice(value);
    tree::insert(state, &key_of(key), &record);
    if expires < NEVER {
        tree::insert(state, &time_of(expires, key), &[]);
    }
    version
}

/// Takes a key out, and the entry of its time.
fn clear(state: &mut State, key: &[u8]) {
    forget_time(state, key);
    tree::remove(state, &key_of(key));
}

fn forget_time(state: &mut State, key: &[u8]) {
    if let Some(Record { expires, .. }) = Record::find(state, key)
        && expires < NEVER
    {
        tree::remove(state, &time_of(expires, key));
    }
}

/// Takes out some of what is due.
fn expire(state: &mut State, time: u64) {
    let mut due = Vec::new();
    tree::scan(state, b"t", &mut |entry, _| {
        let (mut expires, key) = entry[1..].split_at(8);
        if due.len() == EXPIRED_PER_OPERATION || expires.get_u64() > time {
            return ControlFlow::Break(());
        }
        due.push(key.to_vec());
        ControlFlow::Continue(())
    });
    for key in due {
        clear(state, &key);
    }
}

#[cfg(test)]
mod tests;
