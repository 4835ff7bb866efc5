use std::fmt;

use bytes::Bytes;
use ring::{hkdf, hmac};
use x25519_dalek::{PublicKey as Ephemeral, StaticSecret};

use super::{Principal, Scope, Signature};
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

/// The keys of a pair, one for each direction.
pub(super) struct PairKeys {
    pub(super) send: hmac::Key,
    pub(super) receive: hmac::Key,
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

fn directed(secret: &hkdf::Prk, from: &End, to: &End) -> hmac::Key {
    let ids = (from.principal.to_bytes(), to.principal.to_bytes());
    let epochs = (from.epoch.to_be_bytes(), to.epoch.to_be_bytes());
    let info: [&[u8]; 7] =
        [b"quorate session key", &ids.0, &ids.1, &epochs.0, &epochs.1, &from.public, &to.public];
    secret.expand(&info, hmac::HMAC_SHA256).expect("HKDF gives up to 255 blocks, and a key is one").into()
}
