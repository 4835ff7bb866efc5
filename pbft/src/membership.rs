//! Replacing members: the operator's order, the proof that the group followed it, and the chain that
//! such proofs make from the genesis on.
//!
//! A replica whose disk is lost could vote twice if it came back under its old key. So it does not:
//! the operator signs a [`Reconfigure`] that gives its index to another key, and any client has it
//! ordered like a request. It is in force from a *boundary* on: the first checkpoint that no correct
//! replica can have voted beyond before it executed the order, which is L batches later at most and
//! one checkpoint period. Nothing is ordered beyond the boundary under the old configuration; when the
//! checkpoint there is stable, its 2f+1 signers have proven the next configuration ([`Succession`]),
//! and views, watermarks and votes begin anew under it.
//!
//! The state at the boundary covers the next configuration's digest, so the signatures under the
//! state are signatures under the next members. A client, a verifier, or a replica that was away
//! follows the [`Chain`] from the genesis, trusting in nothing but the keys that it has already and the
//! operator's. The operator's signature is part of every step: 2f+1 keys that leaked long after their
//! replicas were replaced name no other members.
//!
//! Replacing a member that still works costs the group that member until the new one has fetched the
//! state: no more than f members are replaced at once, and the operator waits for one to be whole
//! before the next.
//!
//! The paper has no such thing; the rule about the boundary is that of Lamport, Malkhi & Zhou,
//! *Reconfiguring a State Machine*, SIGACT News 41(1), 2010 (there, R-alpha), with alpha = L.

use std::sync::Arc;

use bytes::{Buf as _, BufMut as _, Bytes};
use thiserror::Error;

use crate::{
    crypto::{Digest, Domain, Identity, Kind, PublicKey, SIGNATURE_BYTES_MAX, Signature},
    group::{Configuration, REPLICAS_MAX, ReplicaId, Sequence},
    message::{Certificate, Signatures},
    replica::boundary_digest,
};

/// RECONFIGURE: the operator wants other keys at some indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reconfigure {
    /// The number of the configuration that it makes.
    pub number: u64,
    /// The digest of the configuration that it replaces.
    pub replaces: Digest,
    /// The new members, in the order of their indices; from one to f of them.
    pub replacements: Vec<(ReplicaId, PublicKey)>,
    /// The operator's signature over all that.
    pub signature: Signature,
}

/// Why an order to reconfigure is not followed. The same at every correct replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[repr(u8)]
pub enum ReconfigureRefused {
    /// The bytes are no order.
    #[error("the bytes are not a RECONFIGURE")]
    Malformed = 1,
    /// The configuration names no operator: its members cannot be replaced.
    #[error("the configuration names no operator, so nobody may replace its members")]
    NoOperator = 2,
    /// It is not the operator's.
    #[error("the signature is not the operator's")]
    Signature = 3,
    /// It is for another configuration than the one in force: perhaps it was followed before.
    #[error("it replaces another configuration than the one in force: make it from the latest one")]
    OtherBase = 4,
    /// An index is not in the group, or stands twice or out of order.
    #[error("an index is not in the group, or the indices are not in ascending order")]
    Index = 5,
    /// It replaces none, or more than f.
    #[error("it replaces no member or more than f; replace at most f, wait until they caught up, go on")]
    Count = 6,
    /// A new key is in the configuration already.
    #[error("a new key is not new: a member, client or the operator has it")]
    KnownKey = 7,
    /// Another order is waiting for its boundary.
    #[error("another RECONFIGURE is on its way: wait until it is in force")]
    Pending = 8,
}

impl ReconfigureRefused {
    const ALL: [Self; 8] = [
        Self::Malformed,
        Self::NoOperator,
        Self::Signature,
        Self::OtherBase,
        Self::Index,
        Self::Count,
        Self::KnownKey,
        Self::Pending,
    ];
}

const DOMAIN: Domain = Domain { kind: Kind::Reconfigure, view: 0 };

impl Reconfigure {
    /// Orders these replacements in `configuration`, which must be the one in force.
    ///
    /// # Errors
    /// When the group would refuse it.
    pub fn sign(
        configuration: &Configuration,
        replacements: Vec<(ReplicaId, PublicKey)>,
        operator: &Identity,
    ) -> Result<Self, ReconfigureRefused> {
        let mut order = Self::unsigned(configuration, replacements);
        let statement = configuration.scope().operator_statement(DOMAIN, &order.signed_bytes());
        order.signature = operator.sign(&statement);
        order.check(configuration, configuration)?;
        Ok(order)
    }

    fn unsigned(configuration: &Configuration, replacements: Vec<(ReplicaId, PublicKey)>) -> Self {
        let signature = Signature(Bytes::new());
        let (number, replaces) = (configuration.number + 1, configuration.digest());
        Self { number, replaces, replacements, signature }
    }

    /// As [`Reconfigure::sign`], for a simulated group with fast keys.
    #[cfg(feature = "sim")]
    pub(crate) fn sign_fast(
        configuration: &Configuration,
        replacements: Vec<(ReplicaId, PublicKey)>,
    ) -> Self {
        let mut order = Self::unsigned(configuration, replacements);
        let scope = configuration.scope();
        order.signature = crate::crypto::operator_signature(&scope, DOMAIN, &order.signed_bytes());
        order
    }

    /// What the group said to it: the boundary after which it is in force, or why it is not followed.
    ///
    /// # Errors
    /// The group's refusal; [`ReconfigureRefused::Malformed`] when `result` is not the result of a
    /// RECONFIGURE.
    pub fn outcome(result: &[u8]) -> Result<Sequence, ReconfigureRefused> {
        let malformed = Err(ReconfigureRefused::Malformed);
        match result {
            [0, boundary @ ..] => {
                boundary.try_into().map_or(malformed, |bytes| Ok(Sequence(u64::from_be_bytes(bytes))))
            }
            [code] => {
                let refused = ReconfigureRefused::ALL.into_iter().find(|refused| *refused as u8 == *code);
                Err(refused.unwrap_or(ReconfigureRefused::Malformed))
            }
            _ => malformed,
        }
    }

    /// What [`Reconfigure::outcome`] reads.
    pub(crate) fn result(outcome: Result<Sequence, ReconfigureRefused>) -> Bytes {
        match outcome {
            Ok(boundary) => [&[0][..], &boundary.0.to_be_bytes()].concat().into(),
            Err(refused) => Bytes::copy_from_slice(&[refused as u8]),
        }
    }

    /// Whether it can be followed in `configuration`.
    pub(crate) fn check(
        &self,
        configuration: &Configuration,
        keys: &impl Signatures,
    ) -> Result<(), ReconfigureRefused> {
        use ReconfigureRefused as Refused;
        if configuration.operator.is_none() {
            return Err(Refused::NoOperator);
        }
        if configuration.number.checked_add(1) != Some(self.number) {
            return Err(Refused::OtherBase);
        }
        if self.replacements.is_empty() || self.replacements.len() as u64 > u64::from(configuration.f) {
            return Err(Refused::Count);
        }
        let ascending = self.replacements.is_sorted_by(|a, b| a.0 < b.0);
        if !ascending || self.replacements.iter().any(|(index, _)| index.0 >= configuration.n()) {
            return Err(Refused::Index);
        }
        // Before what costs more than a check of a signature: anybody may ask.
        if !keys.is_by_operator(DOMAIN, &self.signed_bytes(), &self.signature) {
            return Err(Refused::Signature);
        }
        if self.replaces != configuration.digest() {
            return Err(Refused::OtherBase);
        }
        let known =
            configuration.replicas.iter().chain(&configuration.clients).chain(&configuration.operator);
        let known: std::collections::HashSet<_> = known.collect();
        let mut fresh = std::collections::HashSet::new();
        if self.replacements.iter().any(|(_, key)| known.contains(key) || !fresh.insert(key)) {
            return Err(Refused::KnownKey);
        }
        Ok(())
    }

    /// The configuration that follows `configuration` when it is in force after batch `start`.
    pub(crate) fn apply(&self, configuration: &Configuration, start: Sequence) -> Configuration {
        let mut next = Configuration { number: self.number, start, ..configuration.clone() };
        for (index, key) in &self.replacements {
            if let Some(slot) = next.replicas.get_mut(index.index()) {
                *slot = key.clone();
            }
        }
        next
    }

    /// Whether it gives the index of a replica away.
    #[must_use]
    pub fn replaces(&self, replica: ReplicaId) -> bool {
        self.replacements.iter().any(|(index, _)| *index == replica)
    }

    /// What the operator signs, beside the domain.
    fn signed_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_u64(self.number);
        out.put_slice(&self.replaces.0);
        out.put_u8(u8::try_from(self.replacements.len()).unwrap_or(u8::MAX));
        for (index, key) in &self.replacements {
            let der = key.to_der();
            out.put_u32(index.0);
            out.put_u16(u16::try_from(der.len()).expect("a public key is a few hundred bytes"));
            out.put_slice(&der);
        }
        out
    }

    /// The operation that has it ordered.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = self.signed_bytes();
        out.put_slice(self.signature.as_bytes());
        out.into()
    }

    /// Reads what [`Reconfigure::to_bytes`] wrote. It is not checked yet.
    ///
    /// # Errors
    /// When the bytes are no order.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, ReconfigureRefused> {
        let read = &mut bytes;
        let short = |_| ReconfigureRefused::Malformed;
        let number = read.try_get_u64().map_err(short)?;
        let mut replaces = Digest::ZERO;
        read.try_copy_to_slice(&mut replaces.0).map_err(short)?;
        let count = read.try_get_u8().map_err(short)?;
        if u32::from(count) > REPLICAS_MAX {
            return Err(ReconfigureRefused::Malformed);
        }
        let mut replacements = Vec::new();
        for _ in 0..count {
            let index = ReplicaId(read.try_get_u32().map_err(short)?);
            let length = usize::from(read.try_get_u16().map_err(short)?);
            let (der, rest) = read.split_at_checked(length).ok_or(ReconfigureRefused::Malformed)?;
            let key = PublicKey::from_der(Bytes::copy_from_slice(der));
            replacements.push((index, key.map_err(|_| ReconfigureRefused::Malformed)?));
            *read = rest;
        }
        if read.len() > SIGNATURE_BYTES_MAX {
            return Err(ReconfigureRefused::Malformed);
        }
        let signature = Signature(Bytes::copy_from_slice(read));
        Ok(Self { number, replaces, replacements, signature })
    }
}

/// SUCCESSION: proof that one configuration follows another. It convinces whoever has the former.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Succession {
    /// The order that was followed.
    pub reconfigure: Reconfigure,
    /// The boundary: the checkpoint after which the next configuration is in force.
    pub start: Sequence,
    /// The digest of the protocol's pages there.
    pub protocol: Digest,
    /// The digest of the service's pages there.
    pub service: Digest,
    /// Signatures of the former members under the state that these and the next configuration make.
    pub votes: Arc<[(ReplicaId, Signature)]>,
}

/// Why a [`Succession`] or a [`Chain`] proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidSuccession {
    /// It does not follow the configuration that it is checked with.
    #[error("configuration {found} does not follow configuration {known}")]
    Number {
        /// The one it makes.
        found: u64,
        /// The one it is checked with.
        known: u64,
    },
    /// Its order is void.
    #[error("order for configuration {number}: {source}")]
    Order {
        /// The one it makes.
        number: u64,
        /// What is wrong with the order.
        source: ReconfigureRefused,
    },
    /// Too few of the former members signed it.
    #[error("configuration {number} is not signed by 2f+1 members of the one before")]
    Votes {
        /// The one it makes.
        number: u64,
    },
    /// It begins where no checkpoint is, or before the one it follows.
    #[error("configuration {number} begins at batch {start}, which is no checkpoint after the one before")]
    Start {
        /// The one it makes.
        number: u64,
        /// Where it begins.
        start: Sequence,
    },
    /// The bytes are not a chain.
    #[error("bytes are not a chain of configurations: {field} is cut short, too long or unknown")]
    Malformed {
        /// Where reading stopped.
        field: &'static str,
    },
}

impl Succession {
    /// The stable encoding; a [`Chain`]'s has the same in it.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        crate::message::wire::encode_succession(self)
    }

    /// Reads what [`Succession::to_bytes`] wrote. It is not verified yet.
    ///
    /// # Errors
    /// When the bytes are no succession.
    pub fn from_bytes(bytes: Bytes) -> Result<Self, InvalidSuccession> {
        let malformed = |_| InvalidSuccession::Malformed { field: "succession" };
        crate::message::wire::decode_succession(bytes).map_err(malformed)
    }

    /// The configuration that follows `former`, if this proves one.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub fn verify(&self, former: &Configuration) -> Result<Configuration, InvalidSuccession> {
        self.verify_by(former, former)
    }

    pub(crate) fn verify_by(
        &self,
        former: &Configuration,
        keys: &impl Signatures,
    ) -> Result<Configuration, InvalidSuccession> {
        let (number, start) = (self.reconfigure.number, self.start);
        if former.number.checked_add(1) != Some(number) {
            return Err(InvalidSuccession::Number { found: number, known: former.number });
        }
        let order = self.reconfigure.check(former, keys);
        order.map_err(|source| InvalidSuccession::Order { number, source })?;
        if start <= former.start || !start.0.is_multiple_of(former.limits.checkpoint_period) {
            return Err(InvalidSuccession::Start { number, start });
        }
        let next = self.reconfigure.apply(former, start);
        if !self.certificate(&next).is_signed(keys) {
            return Err(InvalidSuccession::Votes { number });
        }
        Ok(next)
    }

    /// The digest of the whole state at the boundary before `next`.
    fn state(&self, next: &Configuration) -> Digest {
        boundary_digest(&next.scope(), &self.protocol, &self.service, &next.digest())
    }

    /// The certificate of the boundary's state: it is the former members'.
    pub(crate) fn certificate(&self, next: &Configuration) -> Certificate {
        Certificate { sequence: self.start, state: self.state(next), votes: Arc::clone(&self.votes) }
    }
}

/// The configurations of a group, from its genesis to the latest that is known.
///
/// It is verified when it is made, and stays so: each configuration follows from the one before. It is as
/// long as the operator gave orders: nobody else makes it longer, and each step takes a few kilobytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// At least the genesis; the number of each is its index.
    configurations: Vec<Configuration>,
    successions: Vec<Succession>,
}

/// The encoding of a [`Chain`] that this version writes and reads.
const CHAIN_FORMAT: u8 = 1;

impl Chain {
    /// A chain of the genesis alone.
    ///
    /// # Panics
    /// When `genesis` is not valid, or not a genesis.
    #[must_use]
    pub fn new(genesis: Configuration) -> Self {
        genesis.validate().expect("the caller validates its configuration");
        assert_eq!(genesis.number, 0, "a chain begins with the genesis");
        Self { configurations: vec![genesis], successions: Vec::new() }
    }

    /// A chain of a genesis and what follows it, in order.
    ///
    /// # Errors
    /// When something does not follow.
    ///
    /// # Panics
    /// As [`Chain::new`].
    pub fn of(
        genesis: Configuration,
        successions: impl IntoIterator<Item = Succession>,
    ) -> Result<Self, InvalidSuccession> {
        let mut chain = Self::new(genesis);
        for succession in successions {
            chain.extend(succession)?;
        }
        Ok(chain)
    }

    /// Adds what follows the latest configuration.
    ///
    /// # Errors
    /// When it does not follow.
    pub fn extend(&mut self, succession: Succession) -> Result<&Configuration, InvalidSuccession> {
        let next = succession.verify(self.latest())?;
        Ok(self.push(next, succession))
    }

    /// As [`Chain::extend`], with the latest configuration's signatures in a form that `keys` can check.
    #[cfg(feature = "sim")]
    pub(crate) fn extend_by(
        &mut self,
        succession: Succession,
        keys: &impl Signatures,
    ) -> Result<&Configuration, InvalidSuccession> {
        let next = succession.verify_by(self.latest(), keys)?;
        Ok(self.push(next, succession))
    }

    fn push(&mut self, next: Configuration, succession: Succession) -> &Configuration {
        self.configurations.push(next);
        self.successions.push(succession);
        self.latest()
    }

    /// The configuration that it begins with.
    #[must_use]
    pub fn genesis(&self) -> &Configuration {
        &self.configurations[0]
    }

    /// The latest configuration that is known.
    #[must_use]
    pub fn latest(&self) -> &Configuration {
        self.configurations.last().expect("a chain has the genesis at least")
    }

    /// The configuration with this number, if it is known: what a receipt of it is verified with.
    #[must_use]
    pub fn get(&self, number: u64) -> Option<&Configuration> {
        self.configurations.get(usize::try_from(number).ok()?)
    }

    /// The proof of the latest configuration; none for the genesis.
    #[must_use]
    pub fn last(&self) -> Option<&Succession> {
        self.successions.last()
    }

    /// The proofs, in order.
    #[must_use]
    pub fn successions(&self) -> &[Succession] {
        &self.successions
    }

    /// The stable encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let mut out = vec![CHAIN_FORMAT];
        let genesis = self.configurations[0].to_bytes();
        let parts = self.successions.iter().map(Succession::to_bytes);
        for part in std::iter::once(genesis).chain(parts) {
            out.put_u32(u32::try_from(part.len()).expect("a configuration is far below 4 GiB"));
            out.put_slice(&part);
        }
        out.into()
    }

    /// Reads and verifies what [`Chain::to_bytes`] wrote. The genesis in it is whatever the bytes say:
    /// compare it with the one that is trusted.
    ///
    /// # Errors
    /// When the bytes are no chain, or a configuration does not follow from the one before.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, InvalidSuccession> {
        let malformed = |field| InvalidSuccession::Malformed { field };
        if bytes.try_get_u8() != Ok(CHAIN_FORMAT) {
            return Err(malformed("format"));
        }
        let mut parts = Vec::new();
        while !bytes.is_empty() {
            let length = bytes.try_get_u32().map_err(|_| malformed("length"))?;
            let length = usize::try_from(length).map_err(|_| malformed("length"))?;
            let (part, rest) = bytes.split_at_checked(length).ok_or_else(|| malformed("part"))?;
            parts.push(part);
            bytes = rest;
        }
        let mut parts = parts.into_iter();
        let genesis = parts.next().and_then(|part| Configuration::from_bytes(part).ok());
        let genesis = genesis.filter(|genesis| genesis.number == 0).ok_or_else(|| malformed("genesis"))?;
        let mut chain = Self::new(genesis);
        for part in parts {
            chain.extend(Succession::from_bytes(Bytes::copy_from_slice(part))?)?;
        }
        Ok(chain)
    }
}

#[cfg(test)]
mod tests;
