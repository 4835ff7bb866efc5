//! What can be asked of the store, what it answers, and both as bytes.
//!
//! An operation is a byte that says which, and its fields: keys with their length before them (2
//! bytes), values with theirs (4 bytes), numbers in 8 bytes, all big-endian; what may be missing has
//! a byte before it, 1 when it is there.

use std::fmt;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest key.
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest value.
pub const VALUE_BYTES_MAX: usize = 32 << 10;

/// What a client can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// What does the key hold?
    Get {
        /// The key.
        key: Bytes,
    },
    /// Let the key hold a value, whatever it held.
    Put {
        /// The key.
        key: Bytes,
        /// What it is to hold.
        value: Bytes,
        /// How long; for ever if nothing is said.
        ttl: Option<Duration>,
    },
    /// Let the key hold nothing.
    Delete {
        /// The key.
        key: Bytes,
    },
    /// Let the key hold a value if it holds what is expected.
    Swap {
        /// The key.
        key: Bytes,
        /// What it must hold.
        expected: Expected,
        /// What it is to hold then.
        value: Bytes,
        /// How long; for ever if nothing is said.
        ttl: Option<Duration>,
    },
    /// Which keys begin so, and what do they hold?
    List {
        /// What keys begin with.
        prefix: Bytes,
        /// Only keys that come after this one: what the answer before gave as `resume`.
        after: Option<Bytes>,
        /// How many at most; 0 counts as 1.
        limit: u64,
    },
}

/// What a compare-and-swap compares with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// What was written under this version.
    Version(u64),
    /// This value, whenever it was written.
    Value(Bytes),
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Counts the writes to the store: the same value written again has a higher one.
    pub version: u64,
    /// The value.
    pub value: Bytes,
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To `Get`.
    Held(Option<Held>),
    /// To `Put`, and to `Swap` when it took place: the version of what was written.
    Written(u64),
    /// To `Swap` when the key held something else: the version of that.
    Differs(Option<u64>),
    /// To `Delete`: whether the key held something.
    Deleted(bool),
    /// To `List`, in the order of the keys.
    Listed {
        /// Keys and what they hold.
        entries: Vec<(Bytes, Held)>,
        /// Where to go on if there may be more.
        resume: Option<Bytes>,
    },
    /// To whatever cannot be done.
    Refused(Refusal),
}

/// Why an operation is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The bytes are no operation.
    #[error("the bytes are no operation")]
    Malformed,
    /// The key is too long.
    #[error("key of {0} bytes is over {KEY_BYTES_MAX}")]
    Key(u64),
    /// The value is too long.
    #[error("value of {0} bytes is over {VALUE_BYTES_MAX}")]
    Value(u64),
}

/// The bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no answer of the store")]
pub struct NoAnswer;

impl Operation {
    /// The operation as a client submits it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Get { key } => {
                out.put_u8(0);
                put_key(&mut out, key);
            }
            Self::Put { key, value, ttl } => {
                out.put_u8(1);
                put_key(&mut out, key);
                put_value(&mut out, value);
                put_option(&mut out, *ttl, put_ttl);
            }
            Self::Delete { key } => {
                out.put_u8(2);
                put_key(&mut out, key);
            }
            Self::Swap { key, expected, value, ttl } => {
                out.put_u8(3);
                put_key(&mut out, key);
                match expected {
                    Expected::Absent => out.put_u8(0),
                    Expected::Version(version) => {
                        out.put_u8(1);
                        out.put_u64(*version);
                    }
                    Expected::Value(value) => {
                        out.put_u8(2);
                        put_value(&mut out, value);
                    }
                }
                put_value(&mut out, value);
                put_option(&mut out, *ttl, put_ttl);
            }
            Self::List { prefix, after, limit } => {
                out.put_u8(4);
                put_key(&mut out, prefix);
                put_option(&mut out, after.as_ref(), |out, after| put_key(out, after));
                out.put_u64(*limit);
            }
        }
        out.freeze()
    }

    /// Reads an operation.
    ///
    /// # Errors
    /// When the bytes are none, or break a limit.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Refusal> {
        let operation = read_whole(bytes, read_operation).ok_or(Refusal::Malformed)?;
        let (keys, values): (Vec<&Bytes>, Vec<&Bytes>) = match &operation {
            Self::Get { key } | Self::Delete { key } => (vec![key], vec![]),
            Self::Put { key, value, .. } => (vec![key], vec![value]),
            Self::Swap { key, expected: Expected::Value(expected), value, .. } => {
                (vec![key], vec![expected, value])
            }
            Self::Swap { key, value, .. } => (vec![key], vec![value]),
            Self::List { prefix, after, .. } => ([prefix].into_iter().chain(after).collect(), vec![]),
        };
        if let Some(key) = keys.iter().find(|key| key.len() > KEY_BYTES_MAX) {
            return Err(Refusal::Key(key.len() as u64));
        }
        if let Some(value) = values.iter().find(|value| value.len() > VALUE_BYTES_MAX) {
            return Err(Refusal::Value(value.len() as u64));
        }
        Ok(operation)
    }
}

impl Answer {
    /// The answer as the service gives it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        match self {
            Self::Held(held) => {
                out.put_u8(0);
                put_option(&mut out, held.as_ref(), put_held);
            }
            Self::Written(version) => {
                out.put_u8(1);
                out.put_u64(*version);
            }
            Self::Differs(version) => {
                out.put_u8(2);
                put_option(&mut out, *version, BytesMut::put_u64);
            }
            Self::Deleted(was_there) => {
                out.put_u8(3);
                out.put_u8(u8::from(*was_there));
            }
            Self::Listed { entries, resume } => {
                out.put_u8(4);
                for (key, held) in entries {
                    out.put_u8(1);
                    put_key(&mut out, key);
                    put_held(&mut out, held);
                }
                out.put_u8(0);
                put_option(&mut out, resume.as_ref(), |out, resume| put_key(out, resume));
            }
            Self::Refused(refusal) => {
                out.put_u8(5);
                let (which, bytes) = match refusal {
                    Refusal::Malformed => (0, 0),
                    Refusal::Key(bytes) => (1, *bytes),
                    Refusal::Value(bytes) => (2, *bytes),
                };
                out.put_u8(which);
                out.put_u64(bytes);
            }
        }
        out.freeze()
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// When the bytes are none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NoAnswer> {
        read_whole(bytes, read_answer).ok_or(NoAnswer)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ttl = |ttl: &Option<Duration>| ttl.map(|ttl| format!(" for {ttl:?}")).unwrap_or_default();
        match self {
            Self::Get { key } => write!(f, "get {}", key.escape_ascii()),
            Self::Put { key, value, ttl: time } => {
                write!(f, "put {} = {}{}", key.escape_ascii(), value.escape_ascii(), ttl(time))
            }
            Self::Delete { key } => write!(f, "delete {}", key.escape_ascii()),
            Self::Swap { key, expected, value, ttl: time } => {
                let expected = match expected {
                    Expected::Absent => "nothing".into(),
                    Expected::Version(version) => format!("version {version}"),
                    Expected::Value(value) => value.escape_ascii().to_string(),
                };
                let (key, value) = (key.escape_ascii(), value.escape_ascii());
                write!(f, "swap {key} from {expected} to {value}{}", ttl(time))
            }
            Self::List { prefix, after, limit } => {
                write!(f, "list {}*", prefix.escape_ascii())?;
                after.as_ref().map_or(Ok(()), |after| write!(f, " after {}", after.escape_ascii()))?;
                write!(f, ", {limit} at most")
            }
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (version {})", self.value.escape_ascii(), self.version)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held(Some(held)) => held.fmt(f),
            Self::Held(None) => f.write_str("nothing"),
            Self::Written(version) => write!(f, "written as version {version}"),
            Self::Differs(Some(version)) => write!(f, "differs: version {version}"),
            Self::Differs(None) => f.write_str("differs: nothing"),
            Self::Deleted(true) => f.write_str("deleted"),
            Self::Deleted(false) => f.write_str("was not there"),
            Self::Listed { entries, resume } => {
                for (index, (key, held)) in entries.iter().enumerate() {
                    let comma = if index > 0 { ", " } else { "" };
                    write!(f, "{comma}{} = {held}", key.escape_ascii())?;
                }
                f.write_str(if entries.is_empty() { "no key" } else { "" })?;
                f.write_str(if resume.is_some() { ", and maybe more" } else { "" })
            }
            Self::Refused(refusal) => refusal.fmt(f),
        }
    }
}

fn put_key(out: &mut BytesMut, key: &[u8]) {
    // A longer one is over the limit, and so is what is left of it.
    let length = key.len().min(usize::from(u16::MAX));
    out.put_u16(u16::try_from(length).expect("cut to it"));
    out.put_slice(&key[..length]);
}

fn put_value(out: &mut BytesMut, value: &[u8]) {
    let length = u32::try_from(value.len()).expect("no value has 4 GiB");
    out.put_u32(length);
    out.put_slice(value);
}

fn put_ttl(out: &mut BytesMut, ttl: Duration) {
    out.put_u64(u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX));
}

fn put_held(out: &mut BytesMut, held: &Held) {
    out.put_u64(held.version);
    put_value(out, &held.value);
}

fn put_option<T>(out: &mut BytesMut, field: Option<T>, put: impl FnOnce(&mut BytesMut, T)) {
    out.put_u8(u8::from(field.is_some()));
    if let Some(field) = field {
        put(out, field);
    }
}

/// Reads something that all bytes are needed for.
fn read_whole<T>(mut bytes: &[u8], read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<T> {
    let read = read(&mut bytes)?;
    bytes.is_empty().then_some(read)
}

fn read_operation(from: &mut &[u8]) -> Option<Operation> {
    Some(match from.try_get_u8().ok()? {
        0 => Operation::Get { key: read_key(from)? },
        1 => Operation::Put { key: read_key(from)?, value: read_value(from)?, ttl: read_ttl(from)? },
        2 => Operation::Delete { key: read_key(from)? },
        3 => {
            let key = read_key(from)?;
            let expected = match from.try_get_u8().ok()? {
                0 => Expected::Absent,
                1 => Expected::Version(from.try_get_u64().ok()?),
                2 => Expected::Value(read_value(from)?),
                _ => return None,
            };
            Operation::Swap { key, expected, value: read_value(from)?, ttl: read_ttl(from)? }
        }
        4 => {
            let (prefix, after) = (read_key(from)?, read_option(from, read_key)?);
            Operation::List { prefix, after, limit: from.try_get_u64().ok()? }
        }
        _ => return None,
    })
}

fn read_answer(from: &mut &[u8]) -> Option<Answer> {
    Some(match from.try_get_u8().ok()? {
        0 => Answer::Held(read_option(from, read_held)?),
        1 => Answer::Written(from.try_get_u64().ok()?),
        2 => Answer::Differs(read_option(from, |from| from.try_get_u64().ok())?),
        3 => Answer::Deleted(read_flag(from)?),
        4 => {
            let mut entries = Vec::new();
            while read_flag(from)? {
                entries.push((read_key(from)?, read_held(from)?));
            }
            Answer::Listed { entries, resume: read_option(from, read_key)? }
        }
        5 => Answer::Refused(match (from.try_get_u8().ok()?, from.try_get_u64().ok()?) {
            (0, 0) => Refusal::Malformed,
            (1, bytes) => Refusal::Key(bytes),
            (2, bytes) => Refusal::Value(bytes),
            _ => return None,
        }),
        _ => return None,
    })
}

fn read_flag(from: &mut &[u8]) -> Option<bool> {
    match from.try_get_u8().ok()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

fn read_option<T>(from: &mut &[u8], read: impl FnOnce(&mut &[u8]) -> Option<T>) -> Option<Option<T>> {
    if read_flag(from)? { read(from).map(Some) } else { Some(None) }
}

fn read_bytes(from: &mut &[u8], length: usize) -> Option<Bytes> {
    from.split_off(..length).map(Bytes::copy_from_slice)
}

fn read_key(from: &mut &[u8]) -> Option<Bytes> {
    let length = from.try_get_u16().ok()?.into();
    read_bytes(from, length)
}

fn read_value(from: &mut &[u8]) -> Option<Bytes> {
    let length = usize::try_from(from.try_get_u32().ok()?).ok()?;
    read_bytes(from, length)
}

fn read_ttl(from: &mut &[u8]) -> Option<Option<Duration>> {
    read_option(from, |from| Some(Duration::from_nanos(from.try_get_u64().ok()?)))
}

fn read_held(from: &mut &[u8]) -> Option<Held> {
    Some(Held { version: from.try_get_u64().ok()?, value: read_value(from)? })
}
