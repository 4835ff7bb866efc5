//! What stands behind a message, and the step from a claim to what was checked.

use bytes::Bytes;

use super::separate::OPERATION_FRAMING;
use super::{
    Certificate, Checkpoint, Message, PrePrepare, Request, ViewChange, placed, state_statement, wire,
};
use crate::crypto::{Authenticator, Digest, Domain, Keychain, Kind, Principal, Signature, Tag, TagRefused};
use crate::group::{Configuration, ReplicaId, quorum_of};
use crate::mutation::{self, Mutation};

/// What stands behind a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// One tag per replica.
    Authenticator(Authenticator),
    /// One tag for one receiver.
    Tag(Tag),
    /// An RSA signature, which convinces everybody.
    Signature(Signature),
    /// Nothing: the message is a hint, or holds its proof in itself.
    Nothing,
}

/// A message as it travels: what somebody says before anybody checked it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unverified<M> {
    /// Who claims to have made it.
    pub sender: Principal,
    /// The fields; whoever makes the value sees to it that they are what `bytes` say.
    pub body: M,
    /// The exact bytes of the body.
    pub bytes: Bytes,
    /// What stands behind it.
    pub proof: Proof,
}

/// A message whose sender is proven. It can be made by [`Unverified::verify`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<M> {
    message: Unverified<M>,
    /// Requests of a pre-prepare, by index, that carry no valid tag for this replica; 0 for a request
    /// by itself that carries none. Others may vouch for them.
    doubts: Vec<u32>,
    /// Of a pre-prepare's batch.
    batch: Digest,
    /// The number of the configuration whose keys proved it.
    configuration: u64,
}

/// Why a message is not believed. Nobody is to blame: its sender may be somebody else altogether.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The kind needs another form of proof.
    #[error("{0:?} does not carry the form of proof it needs")]
    Form(Kind),
    /// Its sender may not send this kind.
    #[error("{kind:?} does not come from {sender}")]
    Sender {
        /// The kind.
        kind: Kind,
        /// The claimed sender.
        sender: Principal,
    },
    /// The tag is wrong, or its key is not known (any more).
    #[error("{kind:?} is not proven: {source}")]
    Proof {
        /// The kind.
        kind: Kind,
        /// What is wrong with the tag.
        source: TagRefused,
    },
    /// A signature on it or in it is wrong.
    #[error("{0:?} is not signed by whom it names")]
    Signature(Kind),
    /// Operations beside it are not those that it names.
    #[error("{0:?} does not come with the operations that it names")]
    Operations(Kind),
}

impl<M> Verified<M> {
    /// The sender.
    #[must_use]
    pub fn sender(&self) -> Principal {
        self.message.sender
    }

    /// The fields.
    #[must_use]
    pub fn body(&self) -> &M {
        &self.message.body
    }

    /// The message as it came, to be relayed.
    #[must_use]
    pub fn as_received(&self) -> &Unverified<M> {
        &self.message
    }

    /// Gives the parts back.
    #[must_use]
    pub fn into_received(self) -> Unverified<M> {
        self.message
    }

    /// The requests of a pre-prepare, by index, that this replica cannot check by itself: their
    /// client tagged them wrongly, or under a session that a restart ended. A request by itself has
    /// index 0.
    #[must_use]
    pub fn doubts(&self) -> &[u32] {
        &self.doubts
    }

    /// The digest of a pre-prepare's batch, which was needed to check the tag; zeros of anything else.
    #[must_use]
    pub(crate) fn batch(&self) -> Digest {
        self.batch
    }

    /// The number of the configuration whose keys proved it: it is void in every other one.
    #[must_use]
    pub fn configuration(&self) -> u64 {
        self.configuration
    }
}

impl Unverified<Message> {
    /// Checks the form of the proof, that the sender may say such a thing, and the proof itself.
    ///
    /// Requests are the exception: those without a valid tag, in a pre-prepare or by themselves, pass
    /// as doubted ([`Verified::doubts`]). No reason to blame who sent them, for whom the tag may be
    /// good; and others may vouch for them.
    ///
    /// # Errors
    /// Says which of them failed.
    pub fn verify(mut self, keychain: &Keychain) -> Result<Verified<Message>, Refused> {
        let (kind, sender) = (self.body.kind(), self.sender);
        let domain = Domain::new(kind, self.body.view().0);
        match (&self.body, sender) {
            (Message::Request(request), Principal::Client(client)) if request.client == client => {}
            (Message::Request(_), _) | (_, Principal::Client(_)) => {
                return Err(Refused::Sender { kind, sender });
            }
            _ => {}
        }
        let is_request = matches!(self.body, Message::Request(_));
        let mut doubts = Vec::new();
        let (batch, place);
        let tagged = match &self.body {
            Message::PrePrepare(body) => {
                batch = body.batch.digest(keychain.scope());
                place = placed(body.sequence, &batch);
                &place[..]
            }
            _ => {
                batch = Digest::ZERO;
                &self.bytes[..]
            }
        };
        let proven = match (&self.proof, self.body.form()) {
            (Proof::Tag(tag), Form::Tag) => keychain.check_tag(sender, domain, tagged, *tag),
            (Proof::Authenticator(tags), Form::Authenticator) => {
                keychain.check_authenticator(sender, domain, tagged, tags)
            }
            (Proof::Signature(signature), form) if form == Form::Signature || is_request => {
                let checked = keychain.verify(sender, domain, &self.bytes, signature);
                checked.map_err(|_| Refused::Signature(kind))?;
                Ok(())
            }
            _ => return Err(Refused::Form(kind)),
        };
        match proven {
            Err(_) if is_request => doubts.push(0),
            proven => proven.map_err(|source| Refused::Proof { kind, source })?,
        }
        let signed = match &self.body {
            Message::Checkpoint(Checkpoint { sequence, state, vote, .. }) => {
                let (domain, statement) = (Domain::new(kind, 0), state_statement(*sequence, state));
                keychain.verify(sender, domain, &statement, vote).is_ok()
            }
            Message::Stable(certificate) => certificate.is_valid(keychain),
            Message::ViewChange(body) => body.is_certified(keychain),
            Message::NewView(body) => {
                let few = body.view_changes.len() <= keychain.public_keys().replicas.len();
                few && body.view_changes.iter().all(|one| one.is_signed(keychain))
            }
            _ => true,
        };
        if !signed {
            return Err(Refused::Signature(kind));
        }
        let as_named = match &self.body {
            Message::Request(request) => request.is_as_named(keychain.scope()),
            Message::Body(body) => body.batch.is_as_named(keychain.scope()),
            _ => true,
        };
        if !as_named && !mutation::is_on(Mutation::TrustOperations) {
            return Err(Refused::Operations(kind));
        }
        if let Message::PrePrepare(pre_prepare) = &mut self.body {
            // Nothing that comes with it is proven beside its bytes.
            pre_prepare.batch = pre_prepare.batch.in_brief();
            let requests = (0..).zip(pre_prepare.batch.requests.iter());
            let doubted = requests.filter(|(_, request)| !request.is_authentic(keychain));
            doubts.extend(doubted.map(|(index, _)| index));
        }
        Ok(Verified { message: self, doubts, batch, configuration: keychain.scope().configuration })
    }
}

/// Whoever can check what the members of a group signed: its public keys are enough.
pub(crate) trait Signatures {
    /// Whether `signer` signed these bytes.
    fn is_signed(&self, signer: Principal, domain: Domain, bytes: &[u8], signature: &Signature) -> bool;

    /// Whether the operator signed these bytes; without one nobody did.
    fn is_by_operator(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool;

    /// The number of replicas.
    fn replicas(&self) -> usize;
}

impl Signatures for Keychain {
    fn is_signed(&self, signer: Principal, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        self.verify(signer, domain, bytes, signature).is_ok()
    }

    fn is_by_operator(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        Self::is_by_operator(self, domain, bytes, signature)
    }

    fn replicas(&self) -> usize {
        self.public_keys().replicas.len()
    }
}

impl Signatures for Configuration {
    fn is_signed(&self, signer: Principal, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let Principal::Replica(id) = signer else { return false };
        let key = self.replicas.get(id.index());
        key.is_some_and(|key| self.scope().verify((signer, key), domain, bytes, signature).is_ok())
    }

    fn is_by_operator(&self, domain: Domain, bytes: &[u8], signature: &Signature) -> bool {
        let key = self.operator.as_ref();
        key.is_some_and(|key| self.scope().is_by_operator(key, domain, bytes, signature))
    }

    fn replicas(&self) -> usize {
        self.replicas.len()
    }
}

impl Certificate {
    /// Whether 2f+1 different replicas signed it.
    pub(crate) fn is_signed(&self, keys: &impl Signatures) -> bool {
        let statement = state_statement(self.sequence, &self.state);
        let domain = Domain::new(Kind::Checkpoint, 0);
        let ascending = self.votes.is_sorted_by(|a, b| a.0 < b.0);
        let signed = |(signer, signature): &(ReplicaId, Signature)| {
            keys.is_signed(Principal::Replica(*signer), domain, &statement, signature)
        };
        ascending && self.votes.len() >= quorum_of(keys.replicas()) && self.votes.iter().all(signed)
    }
}

impl ViewChange {
    /// Whether the checkpoint it begins from is proven.
    pub(crate) fn is_certified(&self, keys: &impl Signatures) -> bool {
        self.stable.as_ref().is_none_or(|certificate| certificate.is_signed(keys))
    }
}

impl Unverified<ViewChange> {
    /// Whether its sender signed it, and its certificate holds.
    pub(crate) fn is_signed(&self, keys: &impl Signatures) -> bool {
        let domain = Domain::new(Kind::ViewChange, self.body.view.0);
        let Proof::Signature(signature) = &self.proof else { return false };
        matches!(self.sender, Principal::Replica(_))
            && keys.is_signed(self.sender, domain, &self.bytes, signature)
            && self.body.is_certified(keys)
    }
}

impl<M> Unverified<M> {
    /// The same with its body as one of the protocol's messages.
    pub(crate) fn into_message(self, wrap: impl FnOnce(M) -> Message) -> Unverified<Message> {
        let Self { sender, body, bytes, proof } = self;
        Unverified { sender, body: wrap(body), bytes, proof }
    }
}

/// How a kind of message is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A tag for its one receiver.
    Tag,
    /// A tag for each replica; a request may carry a signature instead.
    Authenticator,
    /// A signature, because others must be able to judge it.
    Signature,
    /// Nothing. The state machines take such messages in by `handle_message`: they never become
    /// [`Verified`].
    Nothing,
}

impl Message {
    /// How messages of this kind are proven.
    #[must_use]
    pub fn form(&self) -> Form {
        match self {
            Self::Reply(_) | Self::Busy(_) | Self::Seal(_) => Form::Tag,
            Self::Fetch(_) | Self::MetaData(_) | Self::Data(_) | Self::Stable(_) => Form::Tag,
            Self::Body(_) | Self::Committed(_) => Form::Tag,
            Self::ViewChange(_) | Self::NewView(_) => Form::Signature,
            Self::Configured(_) | Self::Succession(_) => Form::Nothing,
            Self::Request(_) | Self::PrePrepare(_) | Self::Prepare(_) | Self::Commit(_) => {
                Form::Authenticator
            }
            Self::Vouch(_) | Self::Doubt(_) => Form::Authenticator,
            Self::Checkpoint(_) | Self::Status(_) | Self::Want(_) => Form::Authenticator,
        }
    }
}

impl Message {
    /// The message as the keychain's owner sends it to `to`, with the proof that its kind needs.
    ///
    /// Whom it is for counts where each receiver has a tag of its own ([`Form::Tag`]); everything else
    /// may be sent to all. Signatures inside the message are the caller's.
    #[must_use]
    pub fn proven_by(self, keychain: &Keychain, to: Principal) -> Unverified<Self> {
        let bytes = wire::encode_body(&self);
        self.proven_as(bytes, keychain, to)
    }

    /// The same of a message that is encoded already: `bytes` are those of its body.
    #[must_use]
    pub fn proven_as(self, bytes: Bytes, keychain: &Keychain, to: Principal) -> Unverified<Self> {
        let domain = Domain::new(self.kind(), self.view().0);
        let proof = match self.form() {
            Form::Tag => Proof::Tag(keychain.tag(to, domain, &bytes)),
            Form::Authenticator => Proof::Authenticator(match &self {
                Self::PrePrepare(PrePrepare { sequence, batch, .. }) => {
                    let place = placed(*sequence, &batch.digest(keychain.scope()));
                    keychain.authenticator(domain, &place)
                }
                _ => keychain.authenticator(domain, &bytes),
            }),
            Form::Signature => Proof::Signature(keychain.sign(domain, &bytes)),
            Form::Nothing => Proof::Nothing,
        };
        Unverified { sender: keychain.me(), body: self, bytes, proof }
    }
}

impl Unverified<Request> {
    /// The bytes that the request takes up in a batch and beside it, at most. The primary fills batches by
    /// it and backups measure their bytes: a bound that were too low would set them at odds for good.
    pub(crate) fn batched_bytes(&self) -> usize {
        // Four tags with three lengths and a client's index.
        const FRAMING: usize = 24;
        let proof = match &self.proof {
            Proof::Authenticator(tags) => tags.0.len(),
            Proof::Signature(signature) => signature.0.len(),
            Proof::Tag(_) | Proof::Nothing => 0,
        };
        self.bytes.len() + self.body.beside_bytes() + proof + FRAMING
    }

    /// Whether everybody can check it, so that nobody has to vouch for it.
    pub(crate) fn is_signed(&self) -> bool {
        matches!(self.proof, Proof::Signature(_))
    }

    /// Whether the bytes are more than the fields need. Protobuf skips what it does not know, so
    /// that a request could be made larger than its operations, and a batch than a frame.
    pub(crate) fn is_padded(&self) -> bool {
        const FIELDS: usize = 64;
        let Request { named, operations, .. } = &self.body;
        let within: usize = if named.is_empty() {
            operations.iter().map(|operation| operation.len() + OPERATION_FRAMING).sum()
        } else {
            32 * named.len() + OPERATION_FRAMING
        };
        self.bytes.len() > FIELDS + within
    }

    /// Whether a request that came inside a batch carries a valid tag or signature of its client.
    fn is_authentic(&self, keychain: &Keychain) -> bool {
        let (domain, sender) = (Domain::new(Kind::Request, 0), Principal::Client(self.body.client));
        let proven = match &self.proof {
            Proof::Authenticator(tags) => {
                keychain.check_authenticator(sender, domain, &self.bytes, tags).is_ok()
            }
            Proof::Signature(signature) => keychain.verify(sender, domain, &self.bytes, signature).is_ok(),
            Proof::Tag(_) | Proof::Nothing => false,
        };
        sender == self.sender && proven
    }
}
