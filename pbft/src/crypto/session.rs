use std::fmt;

use bytes::Bytes;
use ring::hkdf;
use sha2::block_api::compress256;
use x25519_dalek::{PublicKey as Ephemeral, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::{
    Principal, Scope, Signature,
    digest::{BLOCK_BYTES, SHA256_INITIAL, state_bytes},
};
use crate::group::ReplicaId;

/// The length of a [`Tag`], in bytes: HMAC-SHA-256 cut to 128 bits (RFC 2104, section 5).
pub const TAG_BYTES: usize = 16;

/// A MAC from one principal to another.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag(pub [u8; TAG_BYTES]);

impl Tag {
    /// What stands in an authenticator for a replica with which there is no session. It is void
    /// but for one chance in 2^128.
    pub const ABSENT: Self = Self([0; TAG_BYTES]);

    /// Equality in a time that doesn't depend on where the tags differ.
    pub(super) fn matches(self, other: Self) -> bool {
        u128::from_ne_bytes(self.0) ^ u128::from_ne_bytes(other.0) == 0
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag")
    }
}

/// One [`Tag`] per replica, by index, over the same bytes (TOCS 3.2).
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Authenticator(pub Bytes);

impl Authenticator {
    /// The tag for `replica`; none when the authenticator is too short or not made of whole tags.
    pub fn tag_for(&self, replica: ReplicaId) -> Option<Tag> {
        let index = usize::try_from(replica.0).ok()?;
        let start = index.checked_mul(TAG_BYTES)?;
        let bytes = self.0.get(start..start.checked_add(TAG_BYTES)?)?;
        Some(Tag(bytes.try_into().ok()?))
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authenticator({} tags)", self.0.len() / TAG_BYTES)
    }
}

/// NEW-KEY (TOCS 4.3.1): a principal's ephemeral public key for one epoch, signed by its identity.
///
/// One signature serves every peer: a pair's keys are derived from both ephemerals together with
/// both ids and both epochs, so neither half can be paired with anything its owner didn't sign.
///
/// Epochs of a principal only rise. Whoever restarts must take a higher one than ever before; the
/// runtime takes the clock's microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// Whose key it is.
    pub sender: Principal,
    /// Which of the sender's keys: a later one supersedes it.
    pub epoch: u64,
    /// The X25519 public key.
    pub public: [u8; 32],
    /// By the sender's identity, over the three above and the group.
    pub signature: Signature,
}

impl NewKey {
    /// The bytes that the signature covers, beside the domain and the signer.
    pub(super) fn signed_bytes(epoch: u64, public: &[u8; 32]) -> [u8; 40] {
        let mut bytes = [0; 40];
        bytes[..8].copy_from_slice(&epoch.to_be_bytes());
        bytes[8..].copy_from_slice(public);
        bytes
    }
}

/// One's own secret of an epoch. Wiped when dropped.
pub(super) struct OwnKey {
    pub(super) epoch: u64,
    pub(super) secret: StaticSecret,
    pub(super) public: [u8; 32],
}

impl OwnKey {
    pub(super) fn new(epoch: u64, secret: [u8; 32]) -> Self {
        let secret = StaticSecret::from(secret);
        let public = Ephemeral::from(&secret).to_bytes();
        Self { epoch, secret, public }
    }
}

/// A peer's announced ephemeral, its signature checked.
#[derive(Clone, Copy)]
pub(super) struct PeerKey {
    pub(super) epoch: u64,
    pub(super) public: [u8; 32],
}

/// The longest message that fills one block of SHA-256 together with its padding.
pub(super) const STATEMENT_BYTES_MAX: usize = BLOCK_BYTES - 9;

/// The last block of a message that comes after one block of key, padded.
fn last_block(message: &[u8]) -> [u8; BLOCK_BYTES] {
    assert!(message.len() <= STATEMENT_BYTES_MAX, "longer messages are digested before they are tagged");
    let mut block = [0; BLOCK_BYTES];
    block[..message.len()].copy_from_slice(message);
    block[message.len()] = 0x80;
    let bits = 8 * (BLOCK_BYTES + message.len()) as u64;
    block[BLOCK_BYTES - 8..].copy_from_slice(&bits.to_be_bytes());
    block
}

/// A message of at most [`STATEMENT_BYTES_MAX`] bytes, padded once for all its tags.
#[derive(Clone, Copy)]
pub(super) struct Statement([u8; BLOCK_BYTES]);

impl Statement {
    pub(super) fn new(message: &[u8]) -> Self {
        Self(last_block(message))
    }
}

/// A key of HMAC-SHA-256 (RFC 2104) for short messages: the two states that its two padded forms
/// lead to, so that a tag takes two blocks of SHA-256 and not four. Most of what a replica computes
/// is tags. Wiped when dropped.
pub(super) struct TagKey {
    inner: [u32; 8],
    outer: [u32; 8],
}

impl TagKey {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        let keyed = |pad: u8| {
            let mut block = Zeroizing::new([pad; BLOCK_BYTES]);
            block.iter_mut().zip(key).for_each(|(byte, key)| *byte ^= key);
            let mut state = SHA256_INITIAL;
            compress256(&mut state, std::slice::from_ref(&block));
            state
        };
        Self { inner: keyed(0x36), outer: keyed(0x5c) }
    }

    pub(super) fn tag(&self, statement: &Statement) -> Tag {
        let mut state = self.inner;
        compress256(&mut state, std::slice::from_ref(&statement.0));
        let block = last_block(&state_bytes(state));
        state = self.outer;
        compress256(&mut state, &[block]);
        Tag(*state_bytes(state).first_chunk().expect("HMAC-SHA-256 has 32 bytes"))
    }
}

impl Drop for TagKey {
    fn drop(&mut self) {
        self.inner.zeroize();
        self.outer.zeroize();
    }
}

/// The keys of a pair, one for each direction.
pub(super) struct PairKeys {
    pub(super) send: TagKey,
    pub(super) receive: TagKey,
}

impl PairKeys {
    /// Derives the keys between `me` and `peer`. None when the peer's ephemeral is a point of low
    /// order, which would make the secret known to everybody (RFC 7748, section 6.1).
    pub(super) fn derive(
        scope: &Scope,
        (me, own): (Principal, &OwnKey),
        (peer, theirs): (Principal, &PeerKey),
    ) -> Option<Self> {
        let shared = own.secret.diffie_hellman(&Ephemeral::from(theirs.public));
        if !shared.was_contributory() {
            return None;
        }
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, &scope.lasting().prefix()).extract(shared.as_bytes());
        let ours = End { principal: me, epoch: own.epoch, public: own.public };
        let far = End { principal: peer, epoch: theirs.epoch, public: theirs.public };
        Some(Self { send: directed(&secret, &ours, &far), receive: directed(&secret, &far, &ours) })
    }
}

struct End {
    principal: Principal,
    epoch: u64,
    public: [u8; 32],
}

fn directed(secret: &hkdf::Prk, from: &End, to: &End) -> TagKey {
    let ids = (from.principal.to_bytes(), to.principal.to_bytes());
    let epochs = (from.epoch.to_be_bytes(), to.epoch.to_be_bytes());
    let info: [&[u8]; 7] =
        [b"quorate session key", &ids.0, &ids.1, &epochs.0, &epochs.1, &from.public, &to.public];
    let mut key = Zeroizing::new([0; 32]);
    secret
        .expand(&info, hkdf::HKDF_SHA256)
        .and_then(|expanded| expanded.fill(&mut *key))
        .expect("HKDF gives up to 255 blocks, and a key is one");
    TagKey::new(&key)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::hmac;

    use super::*;

    /// RFC 4231, test case 1 with its key of 20 bytes, which HMAC pads with zeros.
    #[test]
    fn tag_matches_published_vector() {
        let mut key = [0; 32];
        key[..20].fill(0x0b);
        let tag = TagKey::new(&key).tag(&Statement::new(b"Hi There"));
        assert_eq!(u128::from_be_bytes(tag.0), 0xb034_4c61_d8db_3853_5ca8_afce_af0b_f12b);
    }

    proptest! {
        #[test]
        fn tag_is_hmac_sha_256(
            key in any::<[u8; 32]>(),
            message in prop::collection::vec(any::<u8>(), 0..=STATEMENT_BYTES_MAX),
        ) {
            let tag = TagKey::new(&key).tag(&Statement::new(&message));
            let whole = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &message);
            prop_assert_eq!(&tag.0[..], &whole.as_ref()[..TAG_BYTES]);
        }
    }
}
