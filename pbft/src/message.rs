//! The protocol's messages, and the step from what somebody claims to what was checked.
//!
//! A message is three things: its fields, the exact bytes that carry them, and a proof over those
//! bytes. The bytes travel with the fields because protobuf is not canonical: digests, tags and
//! signatures are made over what was sent, never over a re-encoding.
//!
//! [`Unverified`] is what the wire gives and what a sender hands to its driver. Only
//! [`Unverified::verify`] turns it into a [`Verified`], and only that reaches a state machine.

use std::sync::Arc;

use bytes::Bytes;

use crate::crypto::{
    Authenticator, Digest, Domain, Keychain, Kind, Principal, Scope, Signature, Tag, TagRefused,
};
use crate::group::{ClientId, Incarnation, ReplicaId, Sequence, Timestamp, View};

pub mod wire;

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client to replicas; also relayed by a backup to the primary, byte for byte.
    Request(Request),
    /// Primary to backups.
    PrePrepare(PrePrepare),
    /// Backup to all.
    Prepare(Prepare),
    /// Replica to all.
    Commit(Commit),
    /// Replica to client.
    Reply(Reply),
    /// Replica to client.
    Busy(Busy),
    /// Replica to all.
    Checkpoint(Checkpoint),
    /// Replica to client.
    Seal(Seal),
    /// Replica to all.
    Status(Status),
    /// Lagging replica to one other.
    Fetch(Fetch),
    /// The answer to a [`Fetch`].
    Data(Data),
}

impl Message {
    /// The kind of this message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::PrePrepare(_) => Kind::PrePrepare,
            Self::Prepare(_) => Kind::Prepare,
            Self::Commit(_) => Kind::Commit,
            Self::Reply(_) => Kind::Reply,
            Self::Busy(_) => Kind::Busy,
            Self::Checkpoint(_) => Kind::Checkpoint,
            Self::Seal(_) => Kind::Seal,
            Self::Status(_) => Kind::Status,
            Self::Fetch(_) => Kind::Fetch,
            Self::Data(_) => Kind::Data,
        }
    }

    /// The view that the message speaks of; 0 where it speaks of none.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            Self::PrePrepare(message) => message.view,
            Self::Prepare(message) => message.view,
            Self::Commit(message) => message.view,
            Self::Reply(message) => message.view,
            Self::Status(message) => message.view,
            _ => View(0),
        }
    }
}

/// A bundle of operations of one client with consecutive timestamps under one authenticator. One
/// operation is the common case; a retransmission is the identical bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Who asks.
    pub client: ClientId,
    /// The client's life.
    pub incarnation: Incarnation,
    /// The lowest timestamp that the client has no answer for. Only it moves the client's window.
    pub floor: Timestamp,
    /// The timestamp of the first operation; the others follow densely.
    pub first: Timestamp,
    /// What to execute; at least one.
    pub operations: Vec<Bytes>,
    /// Asks for an answer without ordering.
    pub read_only: bool,
    /// Asks for a [`Seal`] beside the reply.
    pub receipt: bool,
    /// The replica that sends full results; the others send digests of large ones (TOCS 5.1).
    pub replier: ReplicaId,
}

impl Request {
    /// The timestamps with their operations.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, &Bytes)> {
        (0..).map(|offset| self.first.plus(offset)).zip(&self.operations)
    }

    /// The timestamp after the last operation's.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.first.plus(self.operations.len() as u64)
    }
}

/// The order of one batch, proposed by the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrePrepare {
    /// The view in which it is proposed.
    pub view: View,
    /// The place in the order.
    pub sequence: Sequence,
    /// What is ordered.
    pub batch: Batch,
}

/// What one sequence number orders. Its digest is made over `bytes` and does not cover the view, so
/// that a later view can propose the same batch again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The exact encoding of the fields below.
    pub bytes: Bytes,
    /// The agreed time, in nanoseconds since the Unix epoch.
    pub time: u64,
    /// Every replica signs the history's root after this batch, because a receipt was asked for.
    pub seal: bool,
    /// The requests in order, as their clients sent them. Shared: a batch is kept, sent and
    /// executed without copying it.
    pub requests: Arc<[Unverified<Request>]>,
}

/// A backup accepts the batch for this place in this view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prepare {
    /// The view of the pre-prepare.
    pub view: View,
    /// Its sequence number.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
}

/// A replica has a prepared certificate for this batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The view of the certificate.
    pub view: View,
    /// Its sequence number.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
}

/// Answers to operations of one client, under one tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The sender's view, so that the client knows whom to ask next.
    pub view: View,
    /// Who asked.
    pub client: ClientId,
    /// In which life.
    pub incarnation: Incarnation,
    /// One for each operation.
    pub answers: Vec<Answer>,
}

/// What became of one operation. Two answers match when all but the form of the content agrees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Which operation.
    pub timestamp: Timestamp,
    /// The batch it was executed in; 0 for a read that was not ordered.
    pub sequence: Sequence,
    /// Its leaf's position in the history; 0 when the group keeps none.
    pub position: u64,
    /// Whether the service completed it.
    pub ending: Ending,
    /// The result or its digest.
    pub content: Content,
}

/// How the execution of an operation ended, the same at every correct replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Ending {
    /// The service returned a result.
    Done = 0,
    /// The service panicked; its writes were undone and the result is empty.
    Panicked = 1,
    /// The service cannot answer it without ordering ([`Request::read_only`] only).
    NotReadOnly = 2,
}

/// A result, or the digest that stands for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The result itself.
    Full(Bytes),
    /// The digest of a result that somebody else sends.
    Digest(Digest),
}

/// The primary has no room for a request now: ask again later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Who asked.
    pub client: ClientId,
    /// In which life.
    pub incarnation: Incarnation,
    /// The first timestamp of the request that was refused.
    pub first: Timestamp,
}

/// The sender's state after a batch, and its signature under the history's root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The batch after which it was taken.
    pub sequence: Sequence,
    /// The digest of the whole replicated state.
    pub state: Digest,
    /// The number of leaves in the history.
    pub size: u64,
    /// The history's root.
    pub root: Digest,
    /// The RSA signature over group, configuration, sequence, size and root.
    pub signature: Signature,
}

/// The sender's signature under the history's root after a sealed batch, with the paths of the
/// client's own leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seal {
    /// Whose leaves.
    pub client: ClientId,
    /// In which life.
    pub incarnation: Incarnation,
    /// The sealed batch.
    pub sequence: Sequence,
    /// The number of leaves in the history.
    pub size: u64,
    /// The history's root.
    pub root: Digest,
    /// The RSA signature over group, configuration, sequence, size and root.
    pub signature: Signature,
    /// One for each operation of the client in the batch.
    pub paths: Vec<LeafPath>,
}

/// Where a leaf stands in the history, and how to get from it to the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafPath {
    /// The operation.
    pub timestamp: Timestamp,
    /// The leaf's position.
    pub position: u64,
    /// The digests that lead from the leaf to the root.
    pub path: Vec<Digest>,
}

/// How far the sender is: others send again what it lacks (TOCS 5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The sender's view.
    pub view: View,
    /// Its low watermark.
    pub stable: Sequence,
    /// The last batch it executed.
    pub executed: Sequence,
    /// What it has for the slots `executed + 1`, `executed + 2`, … as [`Progress`] numbers; slots
    /// beyond the end have nothing. At most L bytes.
    pub slots: Bytes,
}

/// How far a slot has come, as a [`Status`] tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Progress {
    /// No pre-prepare yet.
    Empty = 0,
    /// A pre-prepare, but no prepared certificate.
    PrePrepared = 1,
    /// A prepared certificate.
    Prepared = 2,
    /// Committed, but not yet executed.
    Committed = 3,
}

/// Asks for a stretch of the state at a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The checkpoint.
    pub sequence: Sequence,
    /// Where to begin.
    pub from: PageCursor,
}

/// A stretch of the state at a checkpoint. It carries no authority: the whole is checked against
/// the checkpoint's digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The checkpoint.
    pub sequence: Sequence,
    /// Where this stretch begins, as it was asked for.
    pub from: PageCursor,
    /// The pages that are not empty, in order.
    pub pages: Vec<Page>,
    /// Where the next stretch begins; `None` when this was the last.
    pub next: Option<PageCursor>,
}

/// Where a page is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct PageCursor {
    /// Which array of pages.
    pub space: Space,
    /// The index in it.
    pub index: u64,
}

/// The two arrays of pages that make up the replicated state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Space {
    /// The protocol's own: page 0 is agreed time and history, page `1 + c` is client `c`.
    #[default]
    Protocol = 0,
    /// The service's.
    Service = 1,
}

/// One page on its way to another replica or into a journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Where it belongs.
    pub at: PageCursor,
    /// What is in it.
    pub bytes: Bytes,
}

/// What a leaf of the history says: that this operation was executed here and had this result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The batch.
    pub sequence: Sequence,
    /// Who asked.
    pub client: ClientId,
    /// In which life.
    pub incarnation: Incarnation,
    /// Which operation.
    pub timestamp: Timestamp,
    /// How it ended.
    pub ending: Ending,
    /// The digest of the operation in [`Kind::Operation`].
    pub operation: Digest,
    /// The digest of the result in [`Kind::Outcome`].
    pub result: Digest,
}

impl Leaf {
    /// The bytes that the leaf's digest covers.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 93] {
        let mut bytes = [0; 93];
        bytes[..8].copy_from_slice(&self.sequence.0.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.client.0.to_be_bytes());
        bytes[12..20].copy_from_slice(&self.incarnation.0.to_be_bytes());
        bytes[20..28].copy_from_slice(&self.timestamp.0.to_be_bytes());
        bytes[28] = self.ending as u8;
        bytes[29..61].copy_from_slice(&self.operation.0);
        bytes[61..].copy_from_slice(&self.result.0);
        bytes
    }

    /// What is appended to the history.
    #[must_use]
    pub fn digest(&self, scope: &Scope) -> Digest {
        scope.digest(Domain::new(Kind::Leaf, 0), &[&self.to_bytes()])
    }
}

/// What a replica signs under a history's root, in a [`Checkpoint`] and in a [`Seal`] alike: it is
/// the body of a statement in the domain ([`Kind::Seal`], view 0).
#[must_use]
pub fn root_statement(sequence: Sequence, size: u64, root: &Digest) -> [u8; 48] {
    let mut bytes = [0; 48];
    bytes[..8].copy_from_slice(&sequence.0.to_be_bytes());
    bytes[8..16].copy_from_slice(&size.to_be_bytes());
    bytes[16..].copy_from_slice(&root.0);
    bytes
}

/// A message about one place in the order.
pub(crate) trait Sequenced {
    fn view(&self) -> View;
    fn sequence(&self) -> Sequence;
    /// Who may say it.
    const SPEAKER: Speaker;
}

/// Who may say something about a place in the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    Primary,
    Backup,
    Anyone,
}

macro_rules! sequenced {
    ($($message:ty: $speaker:ident),*) => {$(
        impl Sequenced for $message {
            const SPEAKER: Speaker = Speaker::$speaker;

            fn view(&self) -> View {
                self.view
            }

            fn sequence(&self) -> Sequence {
                self.sequence
            }
        }
    )*};
}

sequenced!(PrePrepare: Primary, Prepare: Backup, Commit: Anyone);

impl Answer {
    /// The bytes that the answer takes up in a message, about.
    pub(crate) fn weight(&self) -> usize {
        40 + match &self.content {
            Content::Full(result) => result.len(),
            Content::Digest(_) => 32,
        }
    }
}

/// What stands behind a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Proof {
    /// One tag per replica.
    Authenticator(Authenticator),
    /// One tag for one receiver.
    Tag(Tag),
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
    /// Requests of a pre-prepare, by index, that carry no valid tag for this replica. The primary
    /// vouches for them and its word alone does not count.
    doubts: Vec<u32>,
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
    /// client tagged them wrongly, or under a session that a restart ended.
    #[must_use]
    pub fn doubts(&self) -> &[u32] {
        &self.doubts
    }
}

impl Unverified<Message> {
    /// Checks the form of the proof, that the sender may say such a thing, and the proof itself.
    /// Of a pre-prepare's requests it finds out which ones carry no valid tag of their clients
    /// ([`Verified::doubts`]): no reason to blame the primary, for whom the tag may be good.
    ///
    /// # Errors
    /// Says which of them failed.
    pub fn verify(self, keychain: &Keychain) -> Result<Verified<Message>, Refused> {
        let (kind, sender) = (self.body.kind(), self.sender);
        let domain = Domain::new(kind, self.body.view().0);
        match (&self.body, sender) {
            (Message::Request(request), Principal::Client(client)) if request.client == client => {}
            (Message::Request(_), _) | (_, Principal::Client(_)) => {
                return Err(Refused::Sender { kind, sender });
            }
            _ => {}
        }
        let one_receiver = matches!(kind, Kind::Reply | Kind::Busy | Kind::Seal | Kind::Fetch | Kind::Data);
        match &self.proof {
            Proof::Tag(tag) if one_receiver => keychain.check_tag(sender, domain, &self.bytes, *tag),
            Proof::Authenticator(tags) if !one_receiver => {
                keychain.check_authenticator(sender, domain, &self.bytes, tags)
            }
            _ => return Err(Refused::Form(kind)),
        }
        .map_err(|source| Refused::Proof { kind, source })?;
        let doubts = match &self.body {
            Message::PrePrepare(pre_prepare) => (0..)
                .zip(pre_prepare.batch.requests.iter())
                .filter(|(_, request)| !request.is_authentic(keychain))
                .map(|(index, _)| index)
                .collect(),
            _ => Vec::new(),
        };
        Ok(Verified { message: self, doubts })
    }
}

impl Unverified<Request> {
    /// The bytes that the request takes up in a batch, at most. The primary fills batches by it and
    /// backups measure their bytes: a bound that were too low would set them at odds for good.
    pub(crate) fn batched_bytes(&self) -> usize {
        // Four tags with three lengths and a client's index.
        const FRAMING: usize = 24;
        let tags = match &self.proof {
            Proof::Authenticator(tags) => tags.0.len(),
            Proof::Tag(_) => 0,
        };
        self.bytes.len() + tags + FRAMING
    }

    /// Whether the bytes are more than the fields need. Protobuf skips what it does not know, so
    /// that a request could be made larger than its operations, and a batch than a frame.
    pub(crate) fn is_padded(&self) -> bool {
        const FIELDS: usize = 64;
        const FRAMING: usize = 6;
        let operations: usize = self.body.operations.iter().map(|operation| operation.len() + FRAMING).sum();
        self.bytes.len() > FIELDS + operations
    }

    /// Whether a request that came inside a batch carries a valid tag of its client.
    fn is_authentic(&self, keychain: &Keychain) -> bool {
        let (domain, sender) = (Domain::new(Kind::Request, 0), Principal::Client(self.body.client));
        let Proof::Authenticator(tags) = &self.proof else { return false };
        sender == self.sender && keychain.check_authenticator(sender, domain, &self.bytes, tags).is_ok()
    }
}
