use std::{fmt, sync::Arc};

use thiserror::Error;

use super::{
    Authenticator, Digest, DigestAlgorithm, Domain, Hasher, Identity, Kind, NewKey, PROTOCOL_VERSION,
    Principal, PublicKey, Signature, SignatureRefused, TAG_BYTES, Tag,
    session::{OwnKey, PairKeys, PeerKey, STATEMENT_BYTES_MAX, Statement, TagKey},
};
use crate::group::{ClientId, ReplicaId};
use crate::mutation::{self, Mutation};

/// What all statements of a group under one configuration have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Scope {
    /// The group's id, fresh for every genesis.
    pub group: [u8; 16],
    /// The configuration's number.
    pub configuration: u64,
    /// What the group digests with.
    pub algorithm: DigestAlgorithm,
}

/// Bytes of a scope's prefix.
const PREFIX_BYTES: usize = 25;

impl Scope {
    /// The digest of the concatenation of `parts` as a statement in `domain`.
    pub fn digest(&self, domain: Domain, parts: &[&[u8]]) -> Digest {
        let prefix = self.prefix_in(domain);
        Digest::of_all(self.algorithm, std::iter::once(&prefix[..]).chain(parts.iter().copied()))
    }

    /// As [`Scope::digest`], for bytes that come in pieces.
    pub fn hasher(&self, domain: Domain) -> Hasher {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(&self.prefix_in(domain));
        hasher
    }

    /// Checks `signer`'s signature over `bytes` in `domain`.
    ///
    /// # Errors
    /// When it is not `key`'s, or over something else.
    pub fn verify(
        &self,
        (signer, key): (Principal, &PublicKey),
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureRefused> {
        key.verify(&self.statement(signer, domain, bytes), signature)
    }

    /// Whether `key`, the operator's, signed `bytes`.
    pub(crate) fn is_by_operator(
        &self,
        key: &PublicKey,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> bool {
        key.verify(&self.operator_statement(domain, bytes), signature).is_ok()
    }

    /// What the operator's signature is made over. No principal's statement is like it: the operator
    /// takes part in nothing else.
    pub(crate) fn operator_statement(&self, domain: Domain, bytes: &[u8]) -> Vec<u8> {
        [&self.prefix_in(domain)[..], bytes].concat()
    }

    /// What a signature is made over.
    fn statement(&self, signer: Principal, domain: Domain, bytes: &[u8]) -> Vec<u8> {
        [&self.prefix_in(domain)[..], &signer.to_bytes(), bytes].concat()
    }

    pub(super) fn prefix(&self) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[0] = PROTOCOL_VERSION;
        prefix[1..17].copy_from_slice(&self.group);
        prefix[17..].copy_from_slice(&self.configuration.to_be_bytes());
        prefix
    }

    /// The scope of what outlives a configuration: that of the genesis.
    pub(super) fn lasting(&self) -> Self {
        Self { configuration: 0, ..*self }
    }

    fn prefix_in(&self, domain: Domain) -> [u8; PREFIX_BYTES + 9] {
        let scope = if domain.kind.is_lasting() { self.lasting() } else { *self };
        let mut prefix = [0; PREFIX_BYTES + 9];
        prefix[..PREFIX_BYTES].copy_from_slice(&scope.prefix());
        prefix[PREFIX_BYTES] = domain.kind as u8;
        prefix[PREFIX_BYTES + 1..].copy_from_slice(&domain.view.to_be_bytes());
        prefix
    }
}

/// The public keys of a configuration. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct PublicKeys {
    /// The replicas' keys, by index.
    pub replicas: Arc<[PublicKey]>,
    /// The registered clients' keys, by index.
    pub clients: Arc<[PublicKey]>,
    /// The key of whoever may replace members; without one nobody may.
    pub operator: Option<PublicKey>,
}

impl PublicKeys {
    /// The key of `principal`; none when the configuration has no such one.
    pub fn get(&self, principal: Principal) -> Option<&PublicKey> {
        match principal {
            Principal::Replica(ReplicaId(index)) => self.replicas.get(usize::try_from(index).ok()?),
            Principal::Client(ClientId(index)) => self.clients.get(usize::try_from(index).ok()?),
        }
    }
}

/// Why a NEW-KEY was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyRefused {
    /// The sender is not in the configuration, is oneself, or is a client at a client.
    #[error("no session is ever made with {0}")]
    Sender(Principal),
    /// A later one is known.
    #[error("epoch {epoch} of {sender} is older than the known {known}")]
    OldEpoch {
        /// Whose key it is.
        sender: Principal,
        /// Its epoch.
        epoch: u64,
        /// The latest known.
        known: u64,
    },
    /// The epoch is known with another ephemeral.
    #[error("epoch {epoch} of {sender} is known with another key")]
    Conflict {
        /// Whose key it is.
        sender: Principal,
        /// Its epoch.
        epoch: u64,
    },
    /// It is not signed by its sender.
    #[error("new key of {0}: signature does not verify")]
    Signature(Principal),
    /// The ephemeral is a point of low order.
    #[error("new key of {0} is a point of low order")]
    LowOrder(Principal),
}

/// Why a MAC was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TagRefused {
    /// There is no session with the sender: its NEW-KEY has not come yet, or is not wanted.
    #[error("no session with {0}")]
    NoSession(Principal),
    /// The authenticator has not one tag per replica.
    #[error("authenticator of {bytes} bytes instead of {expected}")]
    Length {
        /// Its length.
        bytes: usize,
        /// What it must be.
        expected: usize,
    },
    /// The tag is wrong: other bytes, another sender, domain or epoch.
    #[error("tag of {0} does not match")]
    Mismatch(Principal),
}

/// The keys of one principal: its own secrets and what it knows of its peers.
///
/// A session with a peer stands once [`Keychain::renew`] was called here and the peer's
/// [`NewKey`] was [accepted](Keychain::accept). Either side may start first; either may renew at
/// any time. Tags are made with the latest epochs and checked under the latest and the previous
/// one of each side, until [`Keychain::expire_old`] ends the grace.
///
/// ```
/// use quorate_pbft::crypto::{Domain, Identity, Keychain, Kind, Principal, PublicKeys, Scope, SeedRng};
/// use quorate_pbft::group::{ClientId, ReplicaId};
/// let mut rng = SeedRng::new([1; 32]);
/// let (alice, bob) = (Identity::generate(&mut rng)?, Identity::generate(&mut rng)?);
/// let keys = PublicKeys {
///     replicas: [bob.public_key().clone()].into(),
///     clients: [alice.public_key().clone()].into(),
///     operator: None,
/// };
/// let scope = Scope { group: [9; 16], configuration: 0, algorithm: Default::default() };
/// let (a, b) = (Principal::Client(ClientId(0)), Principal::Replica(ReplicaId(0)));
/// let mut at_alice = Keychain::new(scope, keys.clone(), a, alice);
/// let mut at_bob = Keychain::new(scope, keys, b, bob);
///
/// at_bob.accept(at_alice.renew(1, rng.next_seed()))?;
/// at_alice.accept(at_bob.renew(1, rng.next_seed()))?;
/// let domain = Domain::new(Kind::Request, 0);
/// let authenticator = at_alice.authenticator(domain, b"add(1,2)");
/// assert!(at_bob.check_authenticator(a, domain, b"add(1,2)", &authenticator).is_ok());
/// assert!(at_bob.check_authenticator(a, domain, b"add(1,3)", &authenticator).is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Keychain {
    scope: Scope,
    keys: PublicKeys,
    me: Principal,
    mode: Mode,
}

enum Mode {
    Real(Box<Sessions>),
    #[cfg(feature = "sim")]
    Fast,
}

/// Sessions with every peer.
struct Sessions {
    identity: Identity,
    /// One's own keys, the latest first; at most two.
    own: Vec<OwnKey>,
    announcement: Option<NewKey>,
    /// By index in the configuration.
    replicas: Vec<Option<Peer>>,
    /// By index in the configuration; empty at a client, which talks to replicas only.
    clients: Vec<Option<Peer>>,
}

/// What is known of a peer.
struct Peer {
    /// Its announced keys, the latest first; at most two.
    announced: Vec<PeerKey>,
    /// The session of the latest epochs. None before one's own first epoch. Here and not beside the others:
    /// with many peers the keys are in no cache, and each step of the way to them waits for memory.
    latest: Option<PairKeys>,
    /// What is received under the other sessions that are still accepted, the latest first; at most three.
    former: Vec<TagKey>,
}

/// How many epochs of each side are accepted at once: the latest and, in its grace, the previous.
const EPOCHS_KEPT: usize = 2;

impl Keychain {
    /// The keys of `me`, with no session yet.
    pub fn new(scope: Scope, keys: PublicKeys, me: Principal, identity: Identity) -> Self {
        let clients = match me {
            Principal::Replica(_) => keys.clients.len(),
            Principal::Client(_) => 0,
        };
        let sessions = Sessions {
            identity,
            own: Vec::new(),
            announcement: None,
            replicas: (0..keys.replicas.len()).map(|_| None).collect(),
            clients: (0..clients).map(|_| None).collect(),
        };
        Self { scope, keys, me, mode: Mode::Real(Box::new(sessions)) }
    }

    /// Keys without cryptography for simulated clusters: 64-bit keyed tags in place of MACs and
    /// signatures, sessions that always stand. Anybody can forge them who sets out to.
    #[cfg(feature = "sim")]
    pub fn fast(scope: Scope, keys: PublicKeys, me: Principal) -> Self {
        Self { scope, keys, me, mode: Mode::Fast }
    }

    /// Whose keys these are.
    pub fn me(&self) -> Principal {
        self.me
    }

    /// What every statement is made in.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The configuration's public keys.
    pub fn public_keys(&self) -> &PublicKeys {
        &self.keys
    }

    /// Takes a new ephemeral: `epoch` must be higher than every one used before, also by earlier
    /// processes, and `secret` 32 fresh random bytes. Returns what the peers must get to hear
    /// before the first message tagged under it.
    ///
    /// # Panics
    /// When `epoch` is not higher than the last one here.
    pub fn renew(&mut self, epoch: u64, secret: [u8; 32]) -> &NewKey {
        let own = OwnKey::new(epoch, secret);
        let public = own.public;
        let signed = NewKey::signed_bytes(epoch, &public);
        let signature = self.sign(Domain::new(Kind::NewKey, 0), &signed);
        let new_key = NewKey { sender: self.me, epoch, public, signature };
        let (scope, me) = (self.scope, self.me);
        let sessions = self.sessions_mut().expect("fast keys have no epochs to renew");
        if let Some(last) = sessions.own.first() {
            assert!(epoch > last.epoch, "epoch {epoch} does not follow {}", last.epoch);
        }
        sessions.own.insert(0, own);
        sessions.own.truncate(EPOCHS_KEPT);
        sessions.rederive_all(&scope, me);
        sessions.announcement.insert(new_key)
    }

    /// The latest NEW-KEY of one's own, for peers that have just connected.
    pub fn announcement(&self) -> Option<&NewKey> {
        match &self.mode {
            Mode::Real(sessions) => sessions.announcement.as_ref(),
            #[cfg(feature = "sim")]
            Mode::Fast => None,
        }
    }

    /// Takes a peer's NEW-KEY. Returns whether it was news.
    ///
    /// # Errors
    /// When it is not from a peer, not signed by it, or superseded.
    pub fn accept(&mut self, new_key: &NewKey) -> Result<bool, KeyRefused> {
        let sender = new_key.sender;
        let refused = KeyRefused::Sender(sender);
        let public_key = self.keys.get(sender).cloned().ok_or(refused)?;
        if sender == self.me {
            return Err(refused);
        }
        let (scope, me) = (self.scope, self.me);
        let Some(sessions) = self.sessions_mut() else {
            return Ok(false);
        };
        let NewKey { epoch, public, .. } = *new_key;
        let slot = sessions.slot_mut(sender).ok_or(refused)?;
        if let Some(latest) = slot.as_ref().and_then(|peer| peer.announced.first()) {
            if epoch < latest.epoch {
                return Err(KeyRefused::OldEpoch { sender, epoch, known: latest.epoch });
            }
            if epoch == latest.epoch {
                let same = public == latest.public;
                return if same { Ok(false) } else { Err(KeyRefused::Conflict { sender, epoch }) };
            }
        }
        let signed = NewKey::signed_bytes(epoch, &public);
        let domain = Domain::new(Kind::NewKey, 0);
        scope
            .verify((sender, &public_key), domain, &signed, &new_key.signature)
            .map_err(|_| KeyRefused::Signature(sender))?;
        let theirs = PeerKey { epoch, public };
        let mut announced = slot.take().map_or_else(Vec::new, |peer| peer.announced);
        announced.insert(0, theirs);
        announced.truncate(EPOCHS_KEPT);
        let peer = Peer::derive(&scope, (me, &sessions.own), sender, announced);
        *sessions.slot_mut(sender).expect("found above") = peer;
        if sessions.get(sender).is_some() { Ok(true) } else { Err(KeyRefused::LowOrder(sender)) }
    }

    /// Ends the grace of every superseded epoch, one's own and the peers'.
    pub fn expire_old(&mut self) {
        let (scope, me) = (self.scope, self.me);
        if mutation::is_on(Mutation::AcceptOldEpoch) {
            return;
        }
        if let Some(sessions) = self.sessions_mut() {
            sessions.own.truncate(1);
            for peer in sessions.replicas.iter_mut().chain(&mut sessions.clients).flatten() {
                peer.announced.truncate(1);
            }
            sessions.rederive_all(&scope, me);
        }
    }

    /// Goes over to the next configuration: from here on its scope and its members count. Sessions
    /// with those who stay go on; whoever was replaced has none any more.
    pub fn succeed(&mut self, scope: Scope, keys: PublicKeys) {
        let former = std::mem::replace(&mut self.keys, keys.clone());
        self.scope = scope;
        let Some(sessions) = self.sessions_mut() else { return };
        for (index, slot) in sessions.replicas.iter_mut().enumerate() {
            slot.take_if(|_| former.replicas.get(index) != keys.replicas.get(index));
        }
    }

    /// Whether messages can be exchanged with `peer` under MACs.
    pub fn has_session(&self, peer: Principal) -> bool {
        match &self.mode {
            Mode::Real(sessions) => sessions.get(peer).is_some_and(|peer| peer.latest.is_some()),
            #[cfg(feature = "sim")]
            Mode::Fast => self.keys.get(peer).is_some(),
        }
    }

    /// The digest of the concatenation of `parts` as a statement in `domain`.
    pub fn digest(&self, domain: Domain, parts: &[&[u8]]) -> Digest {
        self.scope.digest(domain, parts)
    }

    /// One tag per replica over `bytes`. A replica with which there is no session, and oneself,
    /// gets [`Tag::ABSENT`].
    pub fn authenticator(&self, domain: Domain, bytes: &[u8]) -> Authenticator {
        let replicas = self.keys.replicas.len();
        let mut tags = Vec::with_capacity(replicas * TAG_BYTES);
        let payload = self.payload(domain, bytes);
        for index in 0..u32::try_from(replicas).expect("a group has few replicas") {
            let tag = self.tag_payload(Principal::Replica(ReplicaId(index)), &payload);
            tags.extend_from_slice(&tag.unwrap_or(Tag::ABSENT).0);
        }
        Authenticator(tags.into())
    }

    /// Checks one's own tag in the authenticator that `from` made over `bytes`.
    ///
    /// # Errors
    /// When it doesn't match, has another length than the group, or there is no session.
    pub fn check_authenticator(
        &self,
        from: Principal,
        domain: Domain,
        bytes: &[u8],
        authenticator: &Authenticator,
    ) -> Result<(), TagRefused> {
        let expected = self.keys.replicas.len() * TAG_BYTES;
        let wrong_length = TagRefused::Length { bytes: authenticator.0.len(), expected };
        let (Principal::Replica(me), true) = (self.me, authenticator.0.len() == expected) else {
            return Err(wrong_length);
        };
        let tag = authenticator.tag_for(me).ok_or(wrong_length)?;
        self.check_tag(from, domain, bytes, tag)
    }

    /// One tag over `bytes` for `to`; [`Tag::ABSENT`] when there is no session.
    pub fn tag(&self, to: Principal, domain: Domain, bytes: &[u8]) -> Tag {
        self.tag_payload(to, &self.payload(domain, bytes)).unwrap_or(Tag::ABSENT)
    }

    /// Checks the tag that `from` made over `bytes` for oneself.
    ///
    /// # Errors
    /// When it doesn't match, or there is no session.
    pub fn check_tag(
        &self,
        from: Principal,
        domain: Domain,
        bytes: &[u8],
        tag: Tag,
    ) -> Result<(), TagRefused> {
        let payload = self.payload(domain, bytes);
        let matches = match (&self.mode, payload) {
            (Mode::Real(sessions), Payload::Real(payload)) => {
                let session = sessions.get(from).and_then(|peer| Some((peer.latest.as_ref()?, &peer.former)));
                let (latest, former) = session.ok_or(TagRefused::NoSession(from))?;
                let mut keys = std::iter::once(&latest.receive).chain(former);
                keys.any(|key| key.tag(&payload).matches(tag))
            }
            #[cfg(feature = "sim")]
            (_, Payload::Fast(payload)) => {
                self.keys.get(from).ok_or(TagRefused::NoSession(from))?;
                let key = super::fast::key(&self.scope, from, Some(self.me));
                super::fast::tag(key, payload).matches(tag)
            }
            #[cfg(feature = "sim")]
            (Mode::Fast, Payload::Real(_)) => unreachable!("a payload is made by the same mode"),
        };
        if matches { Ok(()) } else { Err(TagRefused::Mismatch(from)) }
    }

    /// Signs `bytes` as oneself.
    pub fn sign(&self, domain: Domain, bytes: &[u8]) -> Signature {
        match &self.mode {
            Mode::Real(sessions) => sessions.identity.sign(&self.scope.statement(self.me, domain, bytes)),
            #[cfg(feature = "sim")]
            Mode::Fast => {
                let key = super::fast::key(&self.scope, self.me, None);
                let tag = super::fast::tag(key, super::fast::payload(domain, bytes));
                Signature(bytes::Bytes::copy_from_slice(&tag.0))
            }
        }
    }

    /// Checks that `from` signed `bytes`.
    ///
    /// # Errors
    /// When it didn't, or the configuration has no such principal.
    pub fn verify(
        &self,
        from: Principal,
        domain: Domain,
        bytes: &[u8],
        signature: &Signature,
    ) -> Result<(), SignatureRefused> {
        let key = self.keys.get(from).ok_or(SignatureRefused)?;
        match &self.mode {
            Mode::Real(_) => self.scope.verify((from, key), domain, bytes, signature),
            #[cfg(feature = "sim")]
            Mode::Fast => {
                let key = super::fast::key(&self.scope, from, None);
                let tag = super::fast::tag(key, super::fast::payload(domain, bytes));
                if tag.0 == *signature.0 { Ok(()) } else { Err(SignatureRefused) }
            }
        }
    }

    /// Whether the operator signed `bytes`; without one nobody did.
    pub(crate) fn is_by_operator(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let Some(key) = &self.keys.operator else { return false };
        match &self.mode {
            Mode::Real(_) => self.scope.is_by_operator(key, domain, bytes, signature),
            #[cfg(feature = "sim")]
            Mode::Fast => super::fast::operator_signature(&self.scope, domain, bytes) == *signature,
        }
    }

    /// None for fast keys, which have no sessions.
    fn sessions_mut(&mut self) -> Option<&mut Sessions> {
        match &mut self.mode {
            Mode::Real(sessions) => Some(sessions),
            #[cfg(feature = "sim")]
            Mode::Fast => None,
        }
    }

    /// What tags are made over: kind, configuration, view, and the bytes; or their digest, once for all
    /// tags, when they are long. The kind's highest bit tells which. Group and version need no place
    /// here: no two of them share a session key ([`PairKeys::derive`]). Configurations do, and so many
    /// that their lowest 32 bits are alike nobody lives to see.
    fn payload(&self, domain: Domain, bytes: &[u8]) -> Payload {
        match &self.mode {
            Mode::Real(_) => {
                let mut statement = [0; STATEMENT_BYTES_MAX];
                statement[0] = domain.kind as u8;
                let scope = if domain.kind.is_lasting() { self.scope.lasting() } else { self.scope };
                statement[1..5].copy_from_slice(&scope.configuration.to_be_bytes()[4..]);
                statement[5..SAID].copy_from_slice(&domain.view.to_be_bytes());
                let digest;
                let said = if SAID + bytes.len() <= STATEMENT_BYTES_MAX {
                    bytes
                } else {
                    statement[0] |= DIGESTED;
                    // SHA-256 whatever the group digests with: a tag must not be as weak as MD5.
                    digest = Digest::of(DigestAlgorithm::Sha256, &[bytes]);
                    digest.as_bytes()
                };
                statement[SAID..SAID + said.len()].copy_from_slice(said);
                Payload::Real(Statement::new(&statement[..SAID + said.len()]))
            }
            #[cfg(feature = "sim")]
            Mode::Fast => Payload::Fast(super::fast::payload(domain, bytes)),
        }
    }

    fn tag_payload(&self, to: Principal, payload: &Payload) -> Option<Tag> {
        match (&self.mode, payload) {
            (Mode::Real(sessions), Payload::Real(payload)) => {
                Some(sessions.get(to)?.latest.as_ref()?.send.tag(payload))
            }
            #[cfg(feature = "sim")]
            (_, Payload::Fast(payload)) => {
                let key = super::fast::key(&self.scope, self.me, Some(to));
                (to != self.me).then(|| super::fast::tag(key, *payload))
            }
            #[cfg(feature = "sim")]
            (Mode::Fast, Payload::Real(_)) => unreachable!("a payload is made by the same mode"),
        }
    }
}

impl fmt::Debug for Keychain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keychain").field("me", &self.me).finish_non_exhaustive()
    }
}

/// Where the bytes begin that are tagged, or their digest.
const SAID: usize = 13;
/// Marks that a digest stands for what is tagged. Kinds are below it.
const DIGESTED: u8 = 1 << 7;

#[derive(Clone, Copy)]
enum Payload {
    Real(Statement),
    #[cfg(feature = "sim")]
    Fast(u64),
}

impl Sessions {
    fn get(&self, principal: Principal) -> Option<&Peer> {
        match principal {
            Principal::Replica(id) => self.replicas.get(usize::try_from(id.0).ok()?)?.as_ref(),
            Principal::Client(id) => self.clients.get(usize::try_from(id.0).ok()?)?.as_ref(),
        }
    }

    fn slot_mut(&mut self, principal: Principal) -> Option<&mut Option<Peer>> {
        match principal {
            Principal::Replica(id) => self.replicas.get_mut(usize::try_from(id.0).ok()?),
            Principal::Client(id) => self.clients.get_mut(usize::try_from(id.0).ok()?),
        }
    }

    fn rederive_all(&mut self, scope: &Scope, me: Principal) {
        let rederive = |principal: Principal, slot: &mut Option<Peer>| {
            if let Some(peer) = slot.take() {
                *slot = Peer::derive(scope, (me, &self.own), principal, peer.announced);
            }
        };
        for (index, slot) in (0..).zip(&mut self.replicas) {
            rederive(Principal::Replica(ReplicaId(index)), slot);
        }
        for (index, slot) in (0..).zip(&mut self.clients) {
            rederive(Principal::Client(ClientId(index)), slot);
        }
    }
}

impl Peer {
    /// The sessions of every pair of epochs; none when the peer announced a point of low order.
    fn derive(
        scope: &Scope,
        (me, own): (Principal, &[OwnKey]),
        peer: Principal,
        announced: Vec<PeerKey>,
    ) -> Option<Self> {
        let (mut latest, mut former) = (None, Vec::new());
        for ours in own {
            for theirs in &announced {
                let pair = PairKeys::derive(scope, (me, ours), (peer, theirs))?;
                match latest {
                    None => latest = Some(pair),
                    Some(_) => former.push(pair.receive),
                }
            }
        }
        Some(Self { announced, latest, former })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PREPARE: Domain = Domain { kind: Kind::Prepare, view: 3 };

    fn scope() -> Scope {
        Scope { group: [7; 16], configuration: 0, algorithm: DigestAlgorithm::Sha256 }
    }

    fn replica(index: u32) -> Principal {
        Principal::Replica(ReplicaId(index))
    }

    /// Two replicas and a client, with no session yet.
    fn trio() -> [Keychain; 3] {
        let mut rng = crate::crypto::SeedRng::new([5; 32]);
        let identities: [_; 3] = std::array::from_fn(|_| Identity::generate(&mut rng).unwrap());
        let public = |index: usize| identities[index].public_key().clone();
        let keys = PublicKeys {
            replicas: [public(0), public(1)].into(),
            clients: [public(2)].into(),
            operator: None,
        };
        let mut principals = [replica(0), replica(1), Principal::Client(ClientId(0))].into_iter();
        identities.clone().map(|identity| {
            let me = principals.next().expect("three of them");
            Keychain::new(scope(), keys.clone(), me, identity)
        })
    }

    fn meet(a: &mut Keychain, b: &mut Keychain) {
        let (from_a, from_b) = (a.announcement().cloned(), b.announcement().cloned());
        from_a.map(|key| b.accept(&key).unwrap());
        from_b.map(|key| a.accept(&key).unwrap());
    }

    #[test]
    fn session_comes_up_from_either_side_and_is_directional() {
        let [mut a, mut b, _] = trio();
        a.renew(1, [1; 32]);
        meet(&mut a, &mut b);
        assert!(!b.has_session(replica(0)), "b has no epoch of its own yet");
        b.renew(1, [2; 32]);
        meet(&mut a, &mut b);
        let tag = a.tag(replica(1), PREPARE, b"x");
        assert_eq!(b.check_tag(replica(0), PREPARE, b"x", tag), Ok(()));
        // Sent back to its maker, a tag is void.
        assert_eq!(a.check_tag(replica(1), PREPARE, b"x", tag), Err(TagRefused::Mismatch(replica(1))));
        let tag = b.tag(replica(0), PREPARE, b"x");
        assert_eq!(a.check_tag(replica(1), PREPARE, b"x", tag), Ok(()));
    }

    #[test]
    fn tag_is_void_in_every_other_domain() {
        let [mut a, mut b, _] = trio();
        a.renew(1, [1; 32]);
        b.renew(1, [2; 32]);
        meet(&mut a, &mut b);
        let tag = a.tag(replica(1), PREPARE, b"x");
        for other in [Domain::new(Kind::Commit, 3), Domain::new(Kind::Prepare, 4)] {
            assert!(b.check_tag(replica(0), other, b"x", tag).is_err());
        }
    }

    #[test]
    fn old_epoch_is_accepted_in_its_grace_and_then_refused() {
        let [mut a, mut b, _] = trio();
        a.renew(1, [1; 32]);
        b.renew(1, [2; 32]);
        meet(&mut a, &mut b);
        let old = a.tag(replica(1), PREPARE, b"x");
        a.renew(2, [3; 32]);
        b.renew(2, [4; 32]);
        meet(&mut a, &mut b);
        let new = a.tag(replica(1), PREPARE, b"x");
        assert_eq!(b.check_tag(replica(0), PREPARE, b"x", old), Ok(()));
        assert_eq!(b.check_tag(replica(0), PREPARE, b"x", new), Ok(()));
        b.expire_old();
        assert!(b.check_tag(replica(0), PREPARE, b"x", old).is_err());
        assert_eq!(b.check_tag(replica(0), PREPARE, b"x", new), Ok(()));
    }

    #[test]
    fn session_survives_a_restart_of_either_side() {
        let [mut a, mut b, _] = trio();
        a.renew(1, [1; 32]);
        b.renew(1, [2; 32]);
        meet(&mut a, &mut b);
        let [mut a, ..] = trio();
        a.renew(2, [3; 32]);
        meet(&mut a, &mut b);
        let tag = a.tag(replica(1), PREPARE, b"x");
        assert_eq!(b.check_tag(replica(0), PREPARE, b"x", tag), Ok(()));
    }

    #[test]
    fn new_key_is_refused_when_old_forged_conflicting_or_of_low_order() {
        let [mut a, mut b, mut c] = trio();
        let old = a.renew(1, [1; 32]).clone();
        let new = a.renew(2, [2; 32]).clone();
        let mut forged = new.clone();
        forged.epoch = 3;
        assert_eq!(b.accept(&forged), Err(KeyRefused::Signature(replica(0))));
        assert_eq!(b.accept(&new), Ok(true));
        assert_eq!(b.accept(&new), Ok(false));
        let refused = KeyRefused::OldEpoch { sender: replica(0), epoch: 1, known: 2 };
        assert_eq!(b.accept(&old), Err(refused));
        let conflicting = NewKey { public: old.public, ..new.clone() };
        let refused = KeyRefused::Conflict { sender: replica(0), epoch: 2 };
        assert_eq!(b.accept(&conflicting), Err(refused));
        assert_eq!(a.accept(&new), Err(KeyRefused::Sender(replica(0))));
        let outsider = NewKey { sender: replica(9), ..new };
        assert_eq!(b.accept(&outsider), Err(KeyRefused::Sender(replica(9))));
        // The client signs a point of order one.
        b.renew(1, [8; 32]);
        let signed = NewKey::signed_bytes(1, &[0; 32]);
        let signature = c.sign(Domain::new(Kind::NewKey, 0), &signed);
        let low = NewKey { sender: c.me(), epoch: 1, public: [0; 32], signature };
        assert_eq!(b.accept(&low), Err(KeyRefused::LowOrder(c.me())));
        // A client makes sessions with replicas only.
        let from_client = c.renew(1, [9; 32]).clone();
        assert_eq!(b.accept(&from_client), Ok(true));
        assert_eq!(c.accept(&from_client), Err(KeyRefused::Sender(from_client.sender)));
    }

    #[test]
    fn authenticator_of_another_length_is_refused() {
        let [mut a, mut b, mut c] = trio();
        for (keychain, seed) in [(&mut a, 1), (&mut b, 2), (&mut c, 3)] {
            keychain.renew(1, [seed; 32]);
        }
        meet(&mut a, &mut c);
        meet(&mut b, &mut c);
        let whole = c.authenticator(PREPARE, b"x");
        assert_eq!(a.check_authenticator(c.me(), PREPARE, b"x", &whole), Ok(()));
        assert_eq!(b.check_authenticator(c.me(), PREPARE, b"x", &whole), Ok(()));
        let cut = Authenticator(whole.0.slice(..31));
        let refused = TagRefused::Length { bytes: 31, expected: 32 };
        assert_eq!(a.check_authenticator(c.me(), PREPARE, b"x", &cut), Err(refused));
    }

    #[test]
    fn signature_counts_for_its_signer_and_domain_only() {
        let [a, b, _] = trio();
        let signature = a.sign(PREPARE, b"x");
        assert_eq!(b.verify(replica(0), PREPARE, b"x", &signature), Ok(()));
        assert!(b.verify(replica(1), PREPARE, b"x", &signature).is_err());
        assert!(b.verify(replica(0), Domain::new(Kind::Commit, 3), b"x", &signature).is_err());
        assert!(b.verify(replica(0), PREPARE, b"y", &signature).is_err());
        assert!(b.verify(replica(7), PREPARE, b"x", &signature).is_err());
    }

    #[cfg(feature = "sim")]
    #[test]
    fn fast_keys_have_the_same_face() {
        let [real, ..] = trio();
        let chain = |me| Keychain::fast(scope(), real.public_keys().clone(), me);
        let (a, b) = (chain(replica(0)), chain(replica(1)));
        let authenticator = a.authenticator(PREPARE, b"x");
        assert_eq!(b.check_authenticator(replica(0), PREPARE, b"x", &authenticator), Ok(()));
        assert!(b.check_authenticator(replica(0), PREPARE, b"y", &authenticator).is_err());
        let signature = a.sign(PREPARE, b"x");
        assert_eq!(b.verify(replica(0), PREPARE, b"x", &signature), Ok(()));
        assert!(b.verify(replica(1), PREPARE, b"x", &signature).is_err());
    }
}
