//! Any bytes behind a header give records that would be written again, or damage.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use quorate_pbft::{
    GroupId, JournalPosition, ReplicaId,
    crypto::Digest,
    journal::{Owner, encode_header, encode_record, recover},
};

const OWNER: Owner = Owner { group: GroupId([1; 16]), configuration: Digest([2; 32]), replica: ReplicaId(3) };

fuzz_target!(|data: &[u8]| {
    let Some((mode, data)) = data.split_first() else { return };
    // Headers that check are rare among random bytes, so mostly there is one.
    let mut bytes = if mode & 1 == 0 { encode_header(&OWNER, JournalPosition(1)) } else { Vec::new() };
    bytes.extend_from_slice(data);
    let Ok(segment) = recover(&Bytes::from(bytes.clone()), &OWNER, mode & 2 == 0) else { return };
    assert!(segment.valid_bytes <= bytes.len());
    let mut again = encode_header(&OWNER, segment.first);
    for (position, record) in (segment.first.0..).map(JournalPosition).zip(&segment.records) {
        encode_record(&mut again, position, JournalPosition(position.0 - 1), record);
    }
    let again = recover(&again.into(), &OWNER, false).expect("what was written reads");
    assert_eq!((again.first, again.records), (segment.first, segment.records));
});
