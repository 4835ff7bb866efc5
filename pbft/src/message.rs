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

use crate::crypto::{Digest, Domain, Keychain, Kind, Scope, Signature};
use crate::group::{ClientId, Incarnation, ReplicaId, Sequence, Timestamp, View, Voters};
use crate::membership::Succession;
use crate::service::Branch;

mod proof;
mod separate;
pub mod wire;

pub(crate) use proof::Signatures;
pub use proof::{Form, Proof, Refused, Unverified, Verified};
pub(crate) use separate::operation_digest;

/// Any message of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Client to replicas; also relayed by a backup to the primary, byte for byte.
    Request(Request),
    /// Primary to backups.
    PrePrepare(PrePrepare),
    /// Replica to all, when a client asked it and not only the primary.
    Vouch(Vouch),
    /// Backup to all, in place of a [`Prepare`] that it cannot give yet.
    Doubt(Doubt),
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
    /// The answer to a [`Fetch`] of partitions.
    MetaData(MetaData),
    /// The answer to a [`Fetch`] of pages.
    Data(Data),
    /// Replica to one that lags.
    Stable(Certificate),
    /// Replica to all; anyone may pass it on.
    ViewChange(ViewChange),
    /// The new primary to all; anyone may pass it on.
    NewView(NewView),
    /// Replica that lacks a batch of a new view to all.
    Want(Want),
    /// The answer to a [`Want`].
    Body(Body),
    /// Replica to one that lags.
    Committed(Committed),
    /// Anyone to a replica, or a replica to anyone; proves nothing.
    Configured(Configured),
    /// Replica to whoever is in an older configuration; proves itself.
    Succession(Succession),
}

impl Message {
    /// The kind of this message.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Request(_) => Kind::Request,
            Self::PrePrepare(_) => Kind::PrePrepare,
            Self::Vouch(_) => Kind::Vouch,
            Self::Doubt(_) => Kind::Doubt,
            Self::Prepare(_) => Kind::Prepare,
            Self::Commit(_) => Kind::Commit,
            Self::Reply(_) => Kind::Reply,
            Self::Busy(_) => Kind::Busy,
            Self::Checkpoint(_) => Kind::Checkpoint,
            Self::Seal(_) => Kind::Seal,
            Self::Status(_) => Kind::Status,
            Self::Fetch(_) => Kind::Fetch,
            Self::MetaData(_) => Kind::MetaData,
            Self::Data(_) => Kind::Data,
            Self::Stable(_) => Kind::Stable,
            Self::ViewChange(_) => Kind::ViewChange,
            Self::NewView(_) => Kind::NewView,
            Self::Want(_) => Kind::Want,
            Self::Body(_) => Kind::Body,
            Self::Committed(_) => Kind::Committed,
            Self::Configured(_) => Kind::Configured,
            Self::Succession(_) => Kind::Succession,
        }
    }

    /// The view that the message speaks of; 0 where it speaks of none.
    #[must_use]
    pub fn view(&self) -> View {
        match self {
            Self::PrePrepare(message) => message.view,
            Self::Doubt(message) => message.view,
            Self::Prepare(message) => message.view,
            Self::Commit(message) => message.view,
            Self::Reply(message) => message.view,
            Self::Status(message) => message.view,
            Self::ViewChange(message) => message.view,
            Self::NewView(message) => message.view,
            _ => View(0),
        }
    }
}

/// What tags on a PRE-PREPARE are made over, in the domain ([`Kind::PrePrepare`], view); on every other
/// message it is the bytes of its body. The digest stands for the batch in every vote, so it may
/// stand for it here, and a batch is hashed once and not twice.
pub(crate) fn placed(sequence: Sequence, digest: &Digest) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&sequence.0.to_be_bytes());
    bytes[8..].copy_from_slice(&digest.0);
    bytes
}

impl Batch {
    /// What stands for the batch in votes: the digest of its bytes.
    #[must_use]
    pub fn digest(&self, scope: &Scope) -> Digest {
        scope.digest(Domain::new(Kind::Batch, 0), &[&self.bytes])
    }
}

/// A bundle of operations of one client with consecutive timestamps under one authenticator, or one
/// signature once its client was asked for that. One operation is the common case; a retransmission
/// is the identical bundle.
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
    /// What to execute; at least one. Where they are named, all of them or none: a PRE-PREPARE comes
    /// without them.
    pub operations: Vec<Bytes>,
    /// The digests of the operations in [`Kind::Operation`], in the place of large ones, which travel
    /// beside the request's bytes and stay out of batches; empty when the operations are in its bytes.
    pub named: Vec<Digest>,
    /// Asks for an answer without ordering.
    pub read_only: bool,
    /// Asks for a [`Seal`] beside the reply.
    pub receipt: bool,
    /// Its one operation is a [`Reconfigure`](crate::membership::Reconfigure), not the service's.
    pub reconfigure: bool,
    /// The replica that sends full results; the others send digests of large ones (TOCS 5.1).
    pub replier: ReplicaId,
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

/// The sender knows these requests to be authentic: it checked them with its own keys, or f+1 others
/// vouch for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vouch {
    /// Each request's client, and the digest of its bytes in [`Kind::Request`].
    pub requests: Vec<(ClientId, Digest)>,
}

/// The sender has the primary's batch for this place and does not accept it yet: some of its requests
/// it cannot check. For the others it vouches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The view of the pre-prepare.
    pub view: View,
    /// Its sequence number.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
    /// A bit for each request of the batch, the lowest of the first byte first: set when the sender
    /// knows it to be authentic.
    pub checked: Bytes,
}

impl Doubt {
    /// Whether the sender vouches for a request of the batch.
    #[must_use]
    pub fn has_checked(&self, index: u32) -> bool {
        let byte = self.checked.get(index as usize / 8);
        byte.is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
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

/// A replica does not take a request now: it has no room for it, and the client should ask again
/// later; or it does not take the client's tags any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy {
    /// Who asked.
    pub client: ClientId,
    /// In which life.
    pub incarnation: Incarnation,
    /// The first timestamp of the request that was refused.
    pub first: Timestamp,
    /// The client should sign its requests.
    pub sign: bool,
}

/// The sender's state after a batch, its signature under that, and one under the history's root.
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
    /// The RSA signature over group, configuration, sequence, size and root; empty without a history.
    pub signature: Signature,
    /// The RSA signature over group, configuration, sequence and state: 2f+1 of them are a
    /// [`Certificate`].
    pub vote: Signature,
}

/// Proof that 2f+1 replicas hold one state after a batch, so that at least f+1 correct ones can
/// bring it back. It convinces anyone who has the replicas' keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The batch.
    pub sequence: Sequence,
    /// The digest of the whole replicated state after it.
    pub state: Digest,
    /// Whose word it rests on, in the order of their indices.
    pub votes: Arc<[(ReplicaId, Signature)]>,
}

impl Certificate {
    /// Whether 2f+1 different replicas signed it.
    #[must_use]
    pub fn is_valid(&self, keychain: &Keychain) -> bool {
        self.is_signed(keychain)
    }

    /// The replicas that signed it.
    #[must_use]
    pub fn voters(&self) -> Voters {
        self.votes.iter().map(|(voter, _)| *voter).collect()
    }
}

/// What a replica takes into a later view (TOCS 4.5): what it held when it left the earlier ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// The view that its sender wants to enter. It votes in no lower one any more.
    pub view: View,
    /// Its stable checkpoint; none when that is the beginning.
    pub stable: Option<Certificate>,
    /// P: for each place above, the batch that was prepared there last, and in which view.
    pub prepared: Vec<Claim>,
    /// Q: for each place above and each batch that was pre-prepared there, in which view last.
    pub pre_prepared: Vec<Claim>,
    /// Clients that its sender marks: their tags hold views up. In order, each once.
    pub marks: Vec<ClientId>,
}

/// A batch that was prepared or pre-prepared in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The place.
    pub sequence: Sequence,
    /// In which view.
    pub view: View,
    /// The batch.
    pub digest: Digest,
}

/// The beginning of a view: what was said about the views before. What belongs to which place
/// follows from it by one calculation that everybody makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewView {
    /// The view.
    pub view: View,
    /// VIEW-CHANGEs of 2f+1 replicas or more, as they came.
    pub view_changes: Vec<Unverified<ViewChange>>,
}

/// Asks for a batch that a new view has in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The place.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
}

/// Which configuration the sender is in, so that whoever is ahead shows it the way. A hint: anybody
/// may say anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Configured {
    /// The configuration's number.
    pub number: u64,
}

/// The sender knows that a place holds a batch for good, whatever the view. f+1 who say so are
/// enough: one of them is correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The place.
    pub sequence: Sequence,
    /// The batch's digest.
    pub digest: Digest,
}

/// A batch that was asked for. It carries no authority: it is compared with the digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// The place.
    pub sequence: Sequence,
    /// What was ordered there.
    pub batch: Batch,
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
    /// The view that the sender is in, or wants to enter.
    pub view: View,
    /// The last view that it entered, or knows to have begun: it learns from what is said there.
    pub active: View,
    /// Its low watermark.
    pub stable: Sequence,
    /// The last batch up to which it lacks nothing: it executed them, and in its view, as far as
    /// that has places for them, they are committed.
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

/// Asks for parts of the state at a checkpoint, all of one level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The checkpoint.
    pub sequence: Sequence,
    /// In which array of pages; the whole state has none, and says the first.
    pub space: Space,
    /// 0 asks for pages, higher levels ask for the digests of a partition's children, and one above the
    /// highest asks for the digests of both arrays.
    pub level: u32,
    /// The pages or partitions; at most [`FETCH_PLACES_MAX`](wire::FETCH_PLACES_MAX).
    pub indexes: Vec<u64>,
}

/// Digests in the tree of a checkpoint's state: for the first of the partitions that were asked for, in their
/// order. Each is checked against the digest that is known of its partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetaData {
    /// The checkpoint.
    pub sequence: Sequence,
    /// As it was asked for.
    pub space: Space,
    /// As it was asked for.
    pub level: u32,
    /// Partitions, by index, and what their digests are made over.
    pub partitions: Vec<(u64, Branch)>,
}

/// Pages of a checkpoint's state: the first of those that were asked for, in their order. Each is checked
/// against the digest that is known of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    /// The checkpoint.
    pub sequence: Sequence,
    /// The pages.
    pub pages: Vec<Page>,
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

/// What a replica signs under its state, in a [`Checkpoint`]: the body of a statement in the domain
/// ([`Kind::Checkpoint`], view 0).
#[must_use]
pub fn state_statement(sequence: Sequence, state: &Digest) -> [u8; 40] {
    let mut bytes = [0; 40];
    bytes[..8].copy_from_slice(&sequence.0.to_be_bytes());
    bytes[8..].copy_from_slice(&state.0);
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

sequenced!(PrePrepare: Primary, Doubt: Backup, Prepare: Backup, Commit: Anyone);

impl Answer {
    /// The bytes that the answer takes up in a message, about.
    pub(crate) fn weight(&self) -> usize {
        40 + match &self.content {
            Content::Full(result) => result.len(),
            Content::Digest(_) => 32,
        }
    }
}
