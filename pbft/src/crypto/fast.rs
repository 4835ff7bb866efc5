//! Keyed 64-bit tags for the simulator: nothing in them resists an attacker, but one who only has
//! its own [`Keychain`](super::Keychain) makes none of another's, which is what a run needs.

use super::{Domain, Principal, Scope, Signature, TAG_BYTES, Tag};

/// The key with which `from` tags for `to`; `to` is none for signatures.
pub(super) fn key(scope: &Scope, from: Principal, to: Option<Principal>) -> u64 {
    let mut key = mix(0x51_75_6f_72_61_74_65, &scope.prefix());
    key = mix(key, &from.to_bytes());
    match to {
        Some(to) => mix(key, &to.to_bytes()),
        None => mix(key, b"signature"),
    }
}

/// The operator's signature, in a scope.
pub(crate) fn operator_signature(scope: &Scope, domain: Domain, bytes: &[u8]) -> Signature {
    let key = mix(mix(0x6f_70, &scope.prefix()), b"operator");
    Signature(bytes::Bytes::copy_from_slice(&tag(key, payload(domain, bytes)).0))
}

/// The hash of a statement that tags are made over.
pub(super) fn payload(domain: Domain, bytes: &[u8]) -> u64 {
    mix(domain.view.wrapping_add(u64::from(domain.kind as u8) << 56), bytes)
}

/// `payload` under `key`.
pub(super) fn tag(key: u64, payload: u64) -> Tag {
    let mut tag = [0; TAG_BYTES];
    tag[..8].copy_from_slice(&mix(key, &payload.to_le_bytes()).to_le_bytes());
    Tag(tag)
}

/// Folds `bytes` into `state`, eight at a time, with a multiplication of 64 × 64 → 128 bits.
fn mix(state: u64, bytes: &[u8]) -> u64 {
    let fold = |state: u64, word: u64| {
        let product = u128::from(state ^ word ^ 0x9e37_79b9_7f4a_7c15)
            * u128::from(state.rotate_left(32) | 0xa076_1d64_78bd_6421);
        #[expect(clippy::cast_possible_truncation, reason = "both halves are used")]
        let folded = (product >> 64) as u64 ^ product as u64;
        folded
    };
    let mut state = fold(state, bytes.len() as u64);
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        state = fold(state, u64::from_le_bytes(word));
    }
    state
}
