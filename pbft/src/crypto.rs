//! Digests, authenticators, signatures and the keys behind them.
//!
//! Everything that the protocol tags, checks, signs or verifies goes through a [`Keychain`].
//! Normal-case messages carry MAC authenticators (TOCS 3.2: one tag per replica); statements that
//! others must be able to judge (checkpoints, seals, view changes, NEW-KEY) carry RSA signatures.
//!
//! * [`Digest`]: SHA-256, or the report's MD5.
//! * [`Identity`], [`PublicKey`], [`Signature`]: RSA, PKCS#1 v1.5 over SHA-256. Only signatures: no
//!   RSA decryption exists here, so that timing of it cannot leak a key (RUSTSEC-2023-0071).
//! * [`NewKey`]: a principal's signed X25519 ephemeral for one epoch. Two principals that hold each
//!   other's derive a key per direction, with HKDF over both ids, both ephemerals, both epochs
//!   and the group. A session lasts as long as both identities do, across configurations; what is
//!   tagged under it names the configuration.
//! * [`Authenticator`], [`Tag`]: HMAC-SHA-256 under those keys, cut to 128 bits.
//!
//! Nothing here draws random numbers: identities are generated from a generator that the caller
//! hands in, ephemerals from 32 bytes that the caller hands in.
//!
//! **Where this differs from the paper.** TOCS 4.3.1 sends session keys encrypted under the
//! receiver's public key; here they are agreed by Diffie-Hellman and signed, so past traffic stays
//! secret when an identity leaks. Tags are HMAC-SHA-256 instead of UMAC32.

mod digest;
#[cfg(feature = "sim")]
mod fast;
mod identity;
mod keychain;
mod session;

use std::fmt;

#[cfg(feature = "sim")]
pub(crate) use self::fast::operator_signature;
pub use self::{
    digest::{Digest, DigestAlgorithm, Hasher},
    identity::{
        Identity, InvalidIdentity, InvalidPublicKey, PublicKey, RSA_BITS_MAX, RSA_BITS_MIN,
        SIGNATURE_BYTES_MAX, SeedRng, Signature, SignatureRefused,
    },
    keychain::{KeyRefused, Keychain, PublicKeys, Scope, TagRefused},
    session::{Authenticator, NewKey, TAG_BYTES, Tag},
};
use crate::group::{ClientId, ReplicaId};

/// The protocol's version, part of every digest, session key and signature.
pub const PROTOCOL_VERSION: u8 = 1;

/// Whoever may send: a replica of the group or one of its registered clients.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A replica, by its index in the configuration.
    Replica(ReplicaId),
    /// A client, by its index in the configuration's list of registered clients.
    Client(ClientId),
}

impl Principal {
    /// Five bytes that no other principal of the configuration has.
    pub(crate) fn to_bytes(self) -> [u8; 5] {
        let (kind, index) = match self {
            Self::Replica(id) => (0, id.0),
            Self::Client(id) => (1, id.0),
        };
        let [a, b, c, d] = index.to_be_bytes();
        [kind, a, b, c, d]
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replica(id) => write!(f, "replica {}", id.0),
            Self::Client(id) => write!(f, "client {}", id.0),
        }
    }
}

impl fmt::Debug for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of statement is digested, tagged or signed.
///
/// Two kinds never share a meaning, so bytes of one can't be passed off as another's. The numbers
/// are frozen: they are part of what signatures in kept receipts cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// REQUEST.
    Request = 1,
    /// PRE-PREPARE.
    PrePrepare = 2,
    /// PREPARE.
    Prepare = 3,
    /// COMMIT.
    Commit = 4,
    /// REPLY.
    Reply = 5,
    /// CHECKPOINT.
    Checkpoint = 6,
    /// SEAL: a signed history root between checkpoints.
    Seal = 7,
    /// VIEW-CHANGE.
    ViewChange = 8,
    /// NEW-VIEW.
    NewView = 9,
    /// STATUS.
    Status = 10,
    /// FETCH.
    Fetch = 11,
    /// DATA: pages of the state.
    Data = 12,
    /// NEW-KEY.
    NewKey = 13,
    /// VOUCH: requests that others may not be able to check.
    Vouch = 14,
    /// META-DATA: digests of partitions of the state.
    MetaData = 15,
    /// BUSY: a request refused by admission.
    Busy = 16,
    /// STABLE: a certificate for a checkpoint.
    Stable = 17,
    /// WANT: asks for a batch of a new view.
    Want = 18,
    /// BODY: a batch that was asked for.
    Body = 19,
    /// COMMITTED: what a place holds for good.
    Committed = 20,
    /// CONFIGURED: which configuration its sender is in.
    Configured = 21,
    /// SUCCESSION: the proof that one configuration follows another.
    Succession = 22,
    /// DOUBT: a pre-prepare with requests that cannot be checked.
    Doubt = 23,
    /// An ordered batch, in a PRE-PREPARE or the journal.
    Batch = 32,
    /// One operation.
    Operation = 33,
    /// One operation's result.
    Outcome = 34,
    /// A page of the state.
    Page = 35,
    /// A partition of pages.
    Partition = 36,
    /// The whole checkpointed state.
    State = 37,
    /// A leaf of the history.
    Leaf = 38,
    /// An inner node of the history.
    Branch = 39,
    /// A root of the history: its peaks and their number of leaves.
    Root = 40,
    /// A configuration.
    Configuration = 41,
    /// RECONFIGURE: the operator's word on the next configuration.
    Reconfigure = 42,
}

impl Kind {
    /// Whether statements of this kind outlive the configuration that they are made under: the state
    /// and its history, and the sessions of those who stay. All others are void under the next one.
    fn is_lasting(self) -> bool {
        let state = matches!(self, Self::Page | Self::Partition | Self::State);
        let history =
            matches!(self, Self::Leaf | Self::Branch | Self::Root | Self::Operation | Self::Outcome);
        state || history || self == Self::NewKey
    }
}

/// Separates statements: a digest, tag or signature made in one domain is void in every other.
///
/// The group, its configuration number and the protocol's version come from the [`Scope`]; epochs
/// are part of the session keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Domain {
    /// What is being said.
    pub kind: Kind,
    /// The view it is said in; 0 where views have no say.
    pub view: u64,
}

impl Domain {
    /// The domain of statements of `kind` in `view`.
    pub fn new(kind: Kind, view: u64) -> Self {
        Self { kind, view }
    }
}
