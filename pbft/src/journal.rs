//! The journal: what a replica promised, as bytes that survive a crash.
//!
//! This module is the format and its recovery, from bytes to bytes; with the feature
//! `file-journal`, which `runtime` brings along, [`Journal`] keeps it in files.
//!
//! A journal is a row of segments. A segment is a header and then records, one after the other:
//!
//! ```text
//! header   "QRTJ" · format u8 · group [16] · configuration digest [32] · replica u32 · first position u64 · crc32 u32
//! record   length u32 · crc32 u32 · position u64 · durable u64 · the record's bytes
//! ```
//!
//! All numbers are little-endian. A record's checksum covers everything behind it. `durable` is the
//! last position that was known to be safe when the record was written.
//!
//! **Torn or damaged.** Upon a crash, records that were written and not yet synced may be there in
//! part, in any order, because a disk writes its pages as it likes. So a record that doesn't check
//! is a torn tail, to be cut, as long as nothing behind it shows that it had been durable: no
//! record whose `durable` is at or above its position. Else a promise may be lost; recovery refuses
//! the journal and names the offset, and the replica must be replaced (a lost disk is a membership
//! change). Segments but the last were durable as a whole before the next one began.

#[cfg(feature = "file-journal")]
mod file;

use bytes::{Buf as _, BufMut as _, Bytes};
use thiserror::Error;

#[cfg(feature = "file-journal")]
pub use self::file::{Journal, JournalFailed, JournalSetup, SyncPolicy};
use crate::{
    crypto::Digest,
    group::{GroupId, ReplicaId},
    message::wire::{self, Malformed},
    replica::{JournalPosition, Record},
};

const MAGIC: &[u8; 4] = b"QRTJ";
/// The format that this version writes and reads.
const FORMAT: u8 = 1;
/// Bytes of a segment's header.
pub const HEADER_BYTES: usize = 69;
/// Bytes before those of each record.
pub const RECORD_HEADER_BYTES: usize = 24;
/// The longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 1 << 27;

/// Whose journal it is. It is opened for nobody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The replica's group.
    pub group: GroupId,
    /// The digest of the group's configuration.
    pub configuration: Digest,
    /// The replica.
    pub replica: ReplicaId,
}

/// Why a segment is not taken. The replica must not run from what is left of its journal.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// The header is cut short or doesn't check.
    #[error("journal header is damaged")]
    Header,
    /// The segment is of a format that this version does not know.
    #[error("journal format {0} is unknown; this version reads {FORMAT}")]
    Format(u8),
    /// The segment belongs to another replica, group or configuration.
    #[error("journal belongs to {found:?}, not to {expected:?}")]
    Owner {
        /// Whose it is.
        found: Box<Owner>,
        /// Whose it should be.
        expected: Box<Owner>,
    },
    /// A record that was durable once doesn't check any more.
    #[error("record {} at byte {offset} is damaged; it was durable, so promises are lost", position.0)]
    Record {
        /// The record's position.
        position: JournalPosition,
        /// Where it begins in the segment.
        offset: usize,
    },
    /// A record checks and yet means nothing: it was written by something else.
    #[error("record {} at byte {offset} is unreadable: {source}", position.0)]
    Unreadable {
        /// The record's position.
        position: JournalPosition,
        /// Where it begins in the segment.
        offset: usize,
        /// What is wrong with it.
        source: Malformed,
    },
}

/// A segment that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The position of the first record, or of the next one when there is none.
    pub first: JournalPosition,
    /// The records.
    pub records: Vec<Record>,
    /// Bytes that hold them; what follows is a torn tail.
    pub valid_bytes: usize,
}

impl Segment {
    /// The position of the record after the last one.
    pub fn end(&self) -> JournalPosition {
        JournalPosition(self.first.0.saturating_add(self.records.len() as u64))
    }
}

/// The header of a segment that begins with the record at `first`.
pub fn encode_header(owner: &Owner, first: JournalPosition) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.put_slice(MAGIC);
    out.put_u8(FORMAT);
    out.put_slice(&owner.group.0);
    out.put_slice(&owner.configuration.0);
    out.put_u32_le(owner.replica.0);
    out.put_u64_le(first.0);
    out.put_u32_le(crc32fast::hash(&out));
    out
}

/// Appends a record to `out`. `durable` is the last position known to be safe.
///
/// # Panics
/// When the record is longer than [`RECORD_BYTES_MAX`].
pub fn encode_record(
    out: &mut Vec<u8>,
    position: JournalPosition,
    durable: JournalPosition,
    record: &Record,
) {
    let bytes = wire::encode_record(record);
    assert!(bytes.len() <= RECORD_BYTES_MAX, "a record of {} bytes", bytes.len());
    let start = out.len();
    out.put_u32_le(u32::try_from(bytes.len()).expect("checked above"));
    out.put_u32_le(0);
    out.put_u64_le(position.0);
    out.put_u64_le(durable.0);
    out.put_slice(&bytes);
    let crc = checksum(&out[start..]);
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Reads a segment. Only the `last` one of a journal may have a torn tail.
///
/// # Errors
/// When it is damaged, or somebody else's.
pub fn recover(bytes: &Bytes, owner: &Owner, last: bool) -> Result<Segment, Damage> {
    let first = read_header(bytes, owner)?;
    let mut segment = Segment { first, records: Vec::new(), valid_bytes: HEADER_BYTES };
    while let Some(frame) = frame_at(bytes, segment.valid_bytes) {
        let (position, offset) = (segment.end(), segment.valid_bytes);
        if frame.position != position {
            break;
        }
        let source = match wire::decode_record(bytes.slice(frame.start..frame.end)) {
            Ok(record) => {
                segment.records.push(record);
                segment.valid_bytes = frame.end;
                continue;
            }
            Err(source) => source,
        };
        return Err(Damage::Unreadable { position, offset, source });
    }
    let (position, offset) = (segment.end(), segment.valid_bytes);
    if offset < bytes.len() && (!last || was_durable(bytes, offset, position)) {
        return Err(Damage::Record { position, offset });
    }
    Ok(segment)
}

fn read_header(bytes: &Bytes, owner: &Owner) -> Result<JournalPosition, Damage> {
    let (header, crc) = match bytes.get(..HEADER_BYTES) {
        Some(header) => header.split_at(HEADER_BYTES - 4),
        None => return Err(Damage::Header),
    };
    if !header.starts_with(MAGIC) || crc32fast::hash(header).to_le_bytes() != *crc {
        return Err(Damage::Header);
    }
    let mut read = &header[MAGIC.len()..];
    let format = read.get_u8();
    if format != FORMAT {
        return Err(Damage::Format(format));
    }
    let mut found = Owner { group: GroupId([0; 16]), ..*owner };
    read.copy_to_slice(&mut found.group.0);
    read.copy_to_slice(&mut found.configuration.0);
    found.replica = ReplicaId(read.get_u32_le());
    if found != *owner {
        return Err(Damage::Owner { found: Box::new(found), expected: Box::new(*owner) });
    }
    Ok(JournalPosition(read.get_u64_le()))
}

/// A record whose checksum is right.
struct Frame {
    position: JournalPosition,
    durable: JournalPosition,
    start: usize,
    end: usize,
}

fn frame_at(bytes: &[u8], offset: usize) -> Option<Frame> {
    let frame = unchecked_frame_at(bytes, offset)?;
    let crc = u32::from_le_bytes(bytes[offset + 4..offset + 8].try_into().ok()?);
    (checksum(&bytes[offset..frame.end]) == crc).then_some(frame)
}

fn unchecked_frame_at(bytes: &[u8], offset: usize) -> Option<Frame> {
    let start = offset.checked_add(RECORD_HEADER_BYTES)?;
    let mut header = bytes.get(offset..start)?;
    let length = usize::try_from(header.get_u32_le()).ok()?;
    header.advance(4);
    let (position, durable) = (JournalPosition(header.get_u64_le()), JournalPosition(header.get_u64_le()));
    let end = start.checked_add(length).filter(|end| *end <= bytes.len())?;
    (length <= RECORD_BYTES_MAX).then_some(Frame { position, durable, start, end })
}

/// Whether anything behind `offset` shows that the record at `position`, which should begin there,
/// had been durable.
fn was_durable(bytes: &[u8], offset: usize, position: JournalPosition) -> bool {
    // The length may be what is damaged, so every byte may begin the next good record. Few pass
    // the test on their positions, so few checksums are made.
    let room = (bytes.len() - offset) as u64;
    let later = position.0..=position.0.saturating_add(room);
    (offset..bytes.len()).any(|offset| {
        let Some(frame) = unchecked_frame_at(bytes, offset) else { return false };
        later.contains(&frame.position.0)
            && (position..=frame.position).contains(&frame.durable)
            && frame_at(bytes, offset).is_some()
    })
}

/// Over a record without its checksum.
fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::group::{Sequence, View};

    pub(super) const OWNER: Owner =
        Owner { group: GroupId([1; 16]), configuration: Digest([2; 32]), replica: ReplicaId(3) };

    pub(super) fn record(number: u64) -> Record {
        let digest = Digest([u8::try_from(number % 256).expect("below 256"); 32]);
        Record::Prepared { view: View(number), sequence: Sequence(number), digest }
    }

    /// A segment of `count` records that were written and synced `group` at a time, and where each
    /// record begins.
    fn segment(count: u64, group: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = encode_header(&OWNER, JournalPosition(1));
        let mut offsets = Vec::new();
        for number in 1..=count {
            offsets.push(bytes.len());
            let durable = JournalPosition((number - 1) / group * group);
            encode_record(&mut bytes, JournalPosition(number), durable, &record(number));
        }
        (bytes, offsets)
    }

    fn count(bytes: &[u8]) -> Result<usize, Damage> {
        let segment = recover(&Bytes::copy_from_slice(bytes), &OWNER, true)?;
        let expected: Vec<_> = (1..).take(segment.records.len()).map(record).collect();
        assert_eq!(segment.records, expected, "a record came back changed");
        Ok(segment.records.len())
    }

    #[test]
    fn whole_segment_comes_back() {
        let (bytes, _) = segment(10, 1);
        assert_eq!(count(&bytes), Ok(10));
        assert_eq!(count(&bytes[..HEADER_BYTES]), Ok(0));
    }

    #[test]
    fn torn_tail_is_cut_at_every_byte() {
        let (bytes, offsets) = segment(5, 1);
        for end in HEADER_BYTES..bytes.len() {
            let whole = offsets[1..].iter().filter(|offset| **offset <= end).count();
            assert_eq!(count(&bytes[..end]), Ok(whole), "cut at {end}");
        }
        let mut zeros = bytes.clone();
        zeros.resize(bytes.len() + 100, 0);
        assert_eq!(count(&zeros), Ok(5));
    }

    #[test]
    fn damage_before_a_synced_record_is_refused_with_its_offset() {
        let (bytes, offsets) = segment(5, 1);
        for at in offsets[0]..offsets[4] {
            let mut wrong = bytes.clone();
            wrong[at] ^= 0x40;
            let hit = offsets.iter().filter(|offset| **offset <= at).count();
            let (position, offset) = (JournalPosition(hit as u64), offsets[hit - 1]);
            assert_eq!(count(&wrong), Err(Damage::Record { position, offset }), "byte {at}");
            wrong.resize(bytes.len() + 100, 0); // as they are written ahead
            assert_eq!(count(&wrong), Err(Damage::Record { position, offset }), "byte {at} before zeros");
        }
    }

    #[test]
    fn hole_in_what_was_never_synced_is_a_torn_tail() {
        // Records 5 to 8 were written together; the disk kept 7 and 8, but not 6.
        let (mut bytes, offsets) = segment(8, 4);
        bytes[offsets[5]..offsets[6]].fill(0);
        assert_eq!(count(&bytes), Ok(5));
        // Record 4 was synced before 5 was written.
        let (mut bytes, offsets) = segment(8, 4);
        bytes[offsets[3]..offsets[4]].fill(0);
        let (position, offset) = (JournalPosition(4), offsets[3]);
        assert_eq!(count(&bytes), Err(Damage::Record { position, offset }));
    }

    #[test]
    fn only_the_last_segment_may_be_torn() {
        let (bytes, offsets) = segment(3, 1);
        let cut = Bytes::copy_from_slice(&bytes[..bytes.len() - 1]);
        let damage = Damage::Record { position: JournalPosition(3), offset: offsets[2] };
        assert_eq!(recover(&cut, &OWNER, false), Err(damage));
    }

    #[test]
    fn journal_of_another_owner_is_refused() {
        let (bytes, _) = segment(1, 1);
        let other = Owner { replica: ReplicaId(4), ..OWNER };
        let refused = recover(&bytes.into(), &other, true);
        assert!(matches!(refused, Err(Damage::Owner { .. })));
    }

    proptest! {
        #[test]
        fn any_bytes_behind_a_header_give_records_or_damage(
            tail in prop::collection::vec(any::<u8>(), 0..300), records in 0..4u64,
        ) {
            let (mut bytes, _) = segment(records, 1);
            bytes.extend(tail);
            let _ = recover(&bytes.into(), &OWNER, true);
        }
    }
}
