//! Bounded bytes ⇄ messages.
//!
//! Decoding takes any bytes and gives a message or a [`Malformed`]; it never panics and takes at
//! most a fixed multiple of the input's length in memory. Bodies, operations, results and pages
//! are slices of the input: nothing is copied.
//!
//! Encoding a decoded message may give other bytes than it came from (protobuf is not canonical),
//! but decoding those gives the same message; what is digested, tagged or signed always travels as
//! the bytes it was made over.

use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};
use thiserror::Error;

use super::{
    Answer, Body, Busy, Certificate, Checkpoint, Claim, Commit, Committed, Configured, Content, Data, Doubt,
    Ending, Fetch, LeafPath, Message, MetaData, NewView, Page, PageCursor, PrePrepare, Prepare, Proof, Reply,
    Request, Seal, Space, Status, Unverified, ViewChange, Vouch, Want,
};
use crate::{
    crypto::{
        Authenticator, Digest, Kind, NewKey, Principal, SIGNATURE_BYTES_MAX, Signature, TAG_BYTES, Tag,
    },
    group::{CLIENTS_MAX, ClientId, Incarnation, REPLICAS_MAX, ReplicaId, Sequence, Timestamp, View},
    service::{Branch, FAN_OUT},
};

#[rustfmt::skip]
#[allow(missing_docs, unreachable_pub, clippy::all, reason = "generated from proto/wire.proto")]
mod generated;
use generated as pb;
mod batch;
mod record;
mod succession;

pub(crate) use batch::BATCH_FIELDS_BYTES;
pub use batch::{batch, decode_batch};
use batch::{operations_out, whole};
pub use record::{decode_record, encode_record};
pub use succession::{decode_succession, encode_succession};
use succession::{succession_in, succession_out};

/// Elements that a repeated field may have. Every one takes two bytes of the input at least, so
/// that this bounds memory only beside the limit on the length of a frame.
pub const ELEMENTS_MAX: usize = 1 << 16;
/// Claims that a VIEW-CHANGE may make of either kind. Each takes 36 bytes of the input at least.
pub const CLAIMS_MAX: usize = 1 << 20;
/// Pages or partitions that one FETCH may ask for.
pub const FETCH_PLACES_MAX: usize = 64;
/// Digests on a leaf's path: its siblings and the other peaks of the history.
pub const PATH_DIGESTS_MAX: usize = 128;

/// Why bytes are not a message. The sender is broken or lies; nothing of it is used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The bytes are not protobuf of the expected type.
    #[error("{what} is not well-formed: {source}")]
    Protobuf {
        /// What was expected.
        what: &'static str,
        /// Where it broke.
        source: prost::DecodeError,
    },
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// The field.
        field: &'static str,
    },
    /// A number means nothing.
    #[error("{field} is {value}, which means nothing")]
    Unknown {
        /// The field.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// Something is too long, or of a length that it can't have.
    #[error("{field} of {length}: allowed are {limit}")]
    Length {
        /// The field.
        field: &'static str,
        /// Its bytes or elements.
        length: usize,
        /// The most or only that there may be.
        limit: usize,
    },
}

/// A message as it travels: who sent it, its body, and what proves it.
pub fn encode(message: &Unverified<Message>) -> Bytes {
    let mut out = BytesMut::new();
    encode_into(&mut out, message);
    out.freeze()
}

/// Appends what [`encode`] gives to `out`: an `Envelope`, field by field, because every message
/// passes here and the generated type would have to own what it encodes.
pub fn encode_into(out: &mut BytesMut, message: &Unverified<Message>) {
    let (from_client, sender) = principal_out(message.sender);
    let (field, proof) = match &message.proof {
        Proof::Tag(tag) => (5, &tag.0[..]),
        Proof::Authenticator(tags) => (6, &tags.0[..]),
        Proof::Signature(signature) => (7, &signature.0[..]),
        Proof::Nothing => (NOTHING, &[][..]),
    };
    let bytes = message.bytes.len() + message.body.beside_bytes();
    out.reserve(ENVELOPE_FIELDS_BYTES + bytes + proof.len());
    put_number(out, 1, u64::from(from_client));
    put_number(out, 2, u64::from(sender));
    put_number(out, 3, u64::from(message.body.kind() as u32));
    if !message.bytes.is_empty() {
        put_bytes(out, 4, &message.bytes);
    }
    if field == NOTHING {
        put_number(out, NOTHING, 1);
    } else {
        put_bytes(out, field, proof);
    }
    message.body.beside().iter().for_each(|operation| put_bytes(out, OPERATIONS, operation));
}

/// The field that says that nothing proves a message.
const NOTHING: u32 = 8;
/// The field of operations that a request names.
const OPERATIONS: u32 = 9;
/// Bytes of an envelope beside its body and its proof, at most: keys, two numbers and two lengths.
const ENVELOPE_FIELDS_BYTES: usize = 32;

/// A number that protobuf leaves out when it is 0.
fn put_number(out: &mut BytesMut, field: u32, value: u64) {
    if value != 0 {
        encode_key(field, WireType::Varint, out);
        encode_varint(value, out);
    }
}

fn put_bytes(out: &mut BytesMut, field: u32, bytes: &[u8]) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

/// Reads what [`encode`] wrote.
///
/// # Errors
/// When the bytes are no message.
pub fn decode(bytes: Bytes) -> Result<Unverified<Message>, Malformed> {
    let envelope = read::<pb::Envelope>("envelope", bytes)?;
    let proof = match envelope.proof.ok_or(Malformed::Missing { field: "proof" })? {
        pb::envelope::Proof::Tag(tag) => Proof::Tag(Tag(exactly("tag", &tag)?)),
        pb::envelope::Proof::Authenticator(tags) => Proof::Authenticator(authenticator(tags)?),
        pb::envelope::Proof::Signature(signature) => Proof::Signature(signature_in(signature)?),
        pb::envelope::Proof::Nothing(_) => Proof::Nothing,
    };
    let mut body = decode_body(envelope.kind, envelope.body.clone())?;
    let (mut none, length) = (Vec::new(), envelope.operations.len());
    let (beside, limit) = match &mut body {
        Message::Request(Request { operations, named, .. }) if !named.is_empty() => (operations, named.len()),
        _ => (&mut none, 0),
    };
    if length != limit {
        return Err(Malformed::Length { field: "operations beside the body", length, limit });
    }
    *beside = envelope.operations;
    let sender = principal_in(envelope.from_client, envelope.sender);
    Ok(Unverified { sender, body, bytes: envelope.body, proof })
}

/// The bytes of a message's body: what its proof is made over.
pub fn encode_body(message: &Message) -> Bytes {
    match message {
        Message::Request(body) => encode_request(body),
        Message::PrePrepare(body) => pre_prepare_out(body).encode_to_vec().into(),
        Message::Vouch(Vouch { requests }) => {
            let request = |(client, digest): &(ClientId, Digest)| pb::VouchedRequest {
                client: client.0,
                digest: digest_out(digest),
            };
            pb::Vouch { requests: requests.iter().map(request).collect() }.encode_to_vec().into()
        }
        Message::Doubt(Doubt { view, sequence, digest, checked }) => {
            let (digest, checked) = (digest_out(digest), checked.clone());
            pb::Doubt { view: view.0, sequence: sequence.0, digest, checked }.encode_to_vec().into()
        }
        Message::Prepare(Prepare { view, sequence, digest }) => {
            let digest = digest_out(digest);
            pb::Prepare { view: view.0, sequence: sequence.0, digest }.encode_to_vec().into()
        }
        Message::Commit(Commit { view, sequence, digest }) => {
            let digest = digest_out(digest);
            pb::Commit { view: view.0, sequence: sequence.0, digest }.encode_to_vec().into()
        }
        Message::Reply(body) => reply_out(body).encode_to_vec().into(),
        Message::Busy(Busy { client, incarnation, first, sign }) => {
            let (client, incarnation, first) = (client.0, incarnation.0, first.0);
            pb::Busy { client, incarnation, first, sign: *sign }.encode_to_vec().into()
        }
        Message::Checkpoint(body) => checkpoint_out(body).encode_to_vec().into(),
        Message::Seal(body) => seal_out(body).encode_to_vec().into(),
        Message::Status(Status { view, active, stable, executed, slots }) => {
            let (active, stable, executed, slots) = (active.0, stable.0, executed.0, slots.clone());
            pb::Status { view: view.0, stable, executed, slots, active }.encode_to_vec().into()
        }
        Message::Fetch(Fetch { sequence, space, level, indexes }) => {
            let (space, indexes) = (*space as u32, indexes.clone());
            pb::Fetch { sequence: sequence.0, space, level: *level, indexes }.encode_to_vec().into()
        }
        Message::MetaData(body) => meta_data_out(body).encode_to_vec().into(),
        Message::Data(body) => data_out(body).encode_to_vec().into(),
        Message::Stable(body) => certificate_out(body).encode_to_vec().into(),
        Message::ViewChange(body) => encode_view_change(body),
        Message::NewView(body) => encode_new_view(body),
        Message::Want(Want { sequence, digest }) => {
            pb::Want { sequence: sequence.0, digest: digest_out(digest) }.encode_to_vec().into()
        }
        Message::Committed(Committed { sequence, digest }) => {
            pb::Committed { sequence: sequence.0, digest: digest_out(digest) }.encode_to_vec().into()
        }
        Message::Configured(Configured { number }) => {
            pb::Configured { number: *number }.encode_to_vec().into()
        }
        Message::Succession(body) => encode_succession(body),
        Message::Body(Body { sequence, batch }) => {
            let operations = operations_out(batch);
            pb::Body { sequence: sequence.0, batch: batch.bytes.clone(), operations }.encode_to_vec().into()
        }
    }
}

/// The bytes of a VIEW-CHANGE's body: what its signature covers.
pub fn encode_view_change(body: &ViewChange) -> Bytes {
    let claim = |claim: &Claim| pb::Claim {
        sequence: claim.sequence.0,
        view: claim.view.0,
        digest: digest_out(&claim.digest),
    };
    let body = pb::ViewChange {
        view: body.view.0,
        stable: body.stable.as_ref().map(certificate_out),
        prepared: body.prepared.iter().map(claim).collect(),
        pre_prepared: body.pre_prepared.iter().map(claim).collect(),
        marks: clients_out(&body.marks),
    };
    body.encode_to_vec().into()
}

/// The bytes of a NEW-VIEW's body: what its signature covers.
pub fn encode_new_view(body: &NewView) -> Bytes {
    let view_changes = body.view_changes.iter().map(signed_view_change_out).collect();
    pb::NewView { view: body.view.0, view_changes }.encode_to_vec().into()
}

/// The bytes of a request's body. Operations that it names are not in them.
pub fn encode_request(request: &Request) -> Bytes {
    let body = pb::Request {
        client: request.client.0,
        incarnation: request.incarnation.0,
        floor: request.floor.0,
        first: request.first.0,
        operations: if request.named.is_empty() { request.operations.clone() } else { Vec::new() },
        read_only: request.read_only,
        receipt: request.receipt,
        replier: request.replier.0,
        reconfigure: request.reconfigure,
        named: request.named.iter().flat_map(|digest| digest.0).collect(),
    };
    body.encode_to_vec().into()
}

/// A NEW-KEY as it travels.
pub fn encode_new_key(new_key: &NewKey) -> Bytes {
    let (from_client, sender) = principal_out(new_key.sender);
    let public = Bytes::copy_from_slice(&new_key.public);
    let signature = new_key.signature.0.clone();
    pb::NewKey { from_client, sender, epoch: new_key.epoch, public, signature }.encode_to_vec().into()
}

/// Reads what [`encode_new_key`] wrote.
///
/// # Errors
/// When the bytes are no NEW-KEY.
pub fn decode_new_key(bytes: Bytes) -> Result<NewKey, Malformed> {
    let body = read::<pb::NewKey>("new key", bytes)?;
    Ok(NewKey {
        sender: principal_in(body.from_client, body.sender),
        epoch: body.epoch,
        public: exactly("public", &body.public)?,
        signature: signature_in(body.signature)?,
    })
}

/// Reads what [`encode_body`] wrote; `kind` is the number of its [`Kind`]. A request that names its
/// operations is without them.
///
/// # Errors
/// When the bytes are no such body.
pub fn decode_body(kind: u32, bytes: Bytes) -> Result<Message, Malformed> {
    const REQUEST: u32 = Kind::Request as u32;
    const PRE_PREPARE: u32 = Kind::PrePrepare as u32;
    const VOUCH: u32 = Kind::Vouch as u32;
    const DOUBT: u32 = Kind::Doubt as u32;
    const PREPARE: u32 = Kind::Prepare as u32;
    const COMMIT: u32 = Kind::Commit as u32;
    const REPLY: u32 = Kind::Reply as u32;
    const BUSY: u32 = Kind::Busy as u32;
    const CHECKPOINT: u32 = Kind::Checkpoint as u32;
    const SEAL: u32 = Kind::Seal as u32;
    const STATUS: u32 = Kind::Status as u32;
    const FETCH: u32 = Kind::Fetch as u32;
    const META_DATA: u32 = Kind::MetaData as u32;
    const DATA: u32 = Kind::Data as u32;
    const STABLE: u32 = Kind::Stable as u32;
    const VIEW_CHANGE: u32 = Kind::ViewChange as u32;
    const NEW_VIEW: u32 = Kind::NewView as u32;
    const WANT: u32 = Kind::Want as u32;
    const BODY: u32 = Kind::Body as u32;
    const COMMITTED: u32 = Kind::Committed as u32;
    const CONFIGURED: u32 = Kind::Configured as u32;
    const SUCCESSION: u32 = Kind::Succession as u32;
    Ok(match kind {
        REQUEST => Message::Request(request_in(bytes)?),
        PRE_PREPARE => Message::PrePrepare(pre_prepare_in(read("pre-prepare", bytes)?)?),
        VOUCH => {
            let pb::Vouch { requests } = read("vouch", bytes)?;
            at_most("requests", requests.len(), ELEMENTS_MAX)?;
            let request = |request: pb::VouchedRequest| {
                Ok((ClientId(request.client), digest_in("digest", &request.digest)?))
            };
            let requests = requests.into_iter().map(request).collect::<Result<_, Malformed>>()?;
            Message::Vouch(Vouch { requests })
        }
        DOUBT => {
            let pb::Doubt { view, sequence, digest, checked } = read("doubt", bytes)?;
            at_most("checked", checked.len(), ELEMENTS_MAX / 8)?;
            let (view, sequence) = (View(view), Sequence(sequence));
            Message::Doubt(Doubt { view, sequence, digest: digest_in("digest", &digest)?, checked })
        }
        PREPARE => {
            let pb::Prepare { view, sequence, digest } = read("prepare", bytes)?;
            let digest = digest_in("digest", &digest)?;
            Message::Prepare(Prepare { view: View(view), sequence: Sequence(sequence), digest })
        }
        COMMIT => {
            let pb::Commit { view, sequence, digest } = read("commit", bytes)?;
            let digest = digest_in("digest", &digest)?;
            Message::Commit(Commit { view: View(view), sequence: Sequence(sequence), digest })
        }
        REPLY => Message::Reply(reply_in(read("reply", bytes)?)?),
        BUSY => {
            let pb::Busy { client, incarnation, first, sign } = read("busy", bytes)?;
            let (client, incarnation) = (ClientId(client), Incarnation(incarnation));
            Message::Busy(Busy { client, incarnation, first: Timestamp(first), sign })
        }
        CHECKPOINT => Message::Checkpoint(checkpoint_in(read("checkpoint", bytes)?)?),
        SEAL => Message::Seal(seal_in(read("seal", bytes)?)?),
        STATUS => {
            let pb::Status { view, stable, executed, slots, active } = read("status", bytes)?;
            let (stable, executed) = (Sequence(stable), Sequence(executed));
            Message::Status(Status { view: View(view), active: View(active), stable, executed, slots })
        }
        FETCH => {
            let pb::Fetch { sequence, space, level, indexes } = read("fetch", bytes)?;
            at_most("indexes", indexes.len(), FETCH_PLACES_MAX)?;
            let (sequence, space) = (Sequence(sequence), space_in(space)?);
            Message::Fetch(Fetch { sequence, space, level, indexes })
        }
        META_DATA => Message::MetaData(meta_data_in(read("meta-data", bytes)?)?),
        DATA => Message::Data(data_in(read("data", bytes)?)?),
        STABLE => Message::Stable(certificate_in(read("certificate", bytes)?)?),
        VIEW_CHANGE => Message::ViewChange(view_change_in(read("view-change", bytes)?)?),
        NEW_VIEW => Message::NewView(new_view_in(read("new-view", bytes)?)?),
        WANT => {
            let pb::Want { sequence, digest } = read("want", bytes)?;
            Message::Want(Want { sequence: Sequence(sequence), digest: digest_in("digest", &digest)? })
        }
        COMMITTED => {
            let pb::Committed { sequence, digest } = read("committed", bytes)?;
            let digest = digest_in("digest", &digest)?;
            Message::Committed(Committed { sequence: Sequence(sequence), digest })
        }
        CONFIGURED => {
            let pb::Configured { number } = read("configured", bytes)?;
            Message::Configured(Configured { number })
        }
        SUCCESSION => Message::Succession(decode_succession(bytes)?),
        BODY => {
            let pb::Body { sequence, batch, operations } = read("body", bytes)?;
            let batch = whole(decode_batch(batch)?, operations)?;
            Message::Body(Body { sequence: Sequence(sequence), batch })
        }
        value => return Err(Malformed::Unknown { field: "kind", value }),
    })
}

fn request_in(bytes: Bytes) -> Result<Request, Malformed> {
    let body = read::<pb::Request>("request", bytes)?;
    // In its bytes or beside them, but not both.
    if body.operations.is_empty() == body.named.is_empty() {
        return Err(Malformed::Missing { field: "operations" });
    }
    at_most("operations", body.operations.len(), ELEMENTS_MAX)?;
    at_most("named", body.named.len(), ELEMENTS_MAX * 32)?;
    let named = body.named.chunks(32).map(|digest| digest_in("named", digest));
    Ok(Request {
        named: named.collect::<Result<_, _>>()?,
        client: ClientId(body.client),
        incarnation: Incarnation(body.incarnation),
        floor: Timestamp(body.floor),
        first: Timestamp(body.first),
        operations: body.operations,
        read_only: body.read_only,
        receipt: body.receipt,
        replier: ReplicaId(body.replier),
        reconfigure: body.reconfigure,
    })
}

fn pre_prepare_out(body: &PrePrepare) -> pb::PrePrepare {
    let (view, sequence) = (body.view.0, body.sequence.0);
    pb::PrePrepare { view, sequence, batch: body.batch.bytes.clone() }
}

fn pre_prepare_in(body: pb::PrePrepare) -> Result<PrePrepare, Malformed> {
    let batch = decode_batch(body.batch)?;
    Ok(PrePrepare { view: View(body.view), sequence: Sequence(body.sequence), batch })
}

fn reply_out(body: &Reply) -> pb::Reply {
    let answer = |answer: &Answer| pb::Answer {
        timestamp: answer.timestamp.0,
        sequence: answer.sequence.0,
        position: answer.position,
        ending: answer.ending as u32,
        content: Some(match &answer.content {
            Content::Full(result) => pb::answer::Content::Full(result.clone()),
            Content::Digest(digest) => pb::answer::Content::Digest(digest_out(digest)),
        }),
    };
    pb::Reply {
        view: body.view.0,
        client: body.client.0,
        incarnation: body.incarnation.0,
        answers: body.answers.iter().map(answer).collect(),
    }
}

fn reply_in(body: pb::Reply) -> Result<Reply, Malformed> {
    at_most("answers", body.answers.len(), ELEMENTS_MAX)?;
    let answer = |answer: pb::Answer| {
        let content = match answer.content.ok_or(Malformed::Missing { field: "content" })? {
            pb::answer::Content::Full(result) => Content::Full(result),
            pb::answer::Content::Digest(digest) => Content::Digest(digest_in("digest", &digest)?),
        };
        let ending = match answer.ending {
            0 => Ending::Done,
            1 => Ending::Panicked,
            2 => Ending::NotReadOnly,
            value => return Err(Malformed::Unknown { field: "ending", value }),
        };
        Ok(Answer {
            timestamp: Timestamp(answer.timestamp),
            sequence: Sequence(answer.sequence),
            position: answer.position,
            ending,
            content,
        })
    };
    Ok(Reply {
        view: View(body.view),
        client: ClientId(body.client),
        incarnation: Incarnation(body.incarnation),
        answers: body.answers.into_iter().map(answer).collect::<Result<_, _>>()?,
    })
}

fn checkpoint_out(body: &Checkpoint) -> pb::Checkpoint {
    pb::Checkpoint {
        sequence: body.sequence.0,
        state: digest_out(&body.state),
        size: body.size,
        root: digest_out(&body.root),
        signature: body.signature.0.clone(),
        vote: body.vote.0.clone(),
    }
}

fn checkpoint_in(body: pb::Checkpoint) -> Result<Checkpoint, Malformed> {
    Ok(Checkpoint {
        sequence: Sequence(body.sequence),
        state: digest_in("state", &body.state)?,
        size: body.size,
        root: digest_in("root", &body.root)?,
        signature: signature_in(body.signature)?,
        vote: signature_in(body.vote)?,
    })
}

fn certificate_out(body: &Certificate) -> pb::Certificate {
    let vote = |(voter, signature): &(ReplicaId, Signature)| pb::Vote {
        replica: voter.0,
        signature: signature.0.clone(),
    };
    pb::Certificate {
        sequence: body.sequence.0,
        state: digest_out(&body.state),
        votes: body.votes.iter().map(vote).collect(),
    }
}

fn certificate_in(body: pb::Certificate) -> Result<Certificate, Malformed> {
    at_most("votes", body.votes.len(), REPLICAS_MAX as usize)?;
    let vote = |vote: pb::Vote| Ok((ReplicaId(vote.replica), signature_in(vote.signature)?));
    Ok(Certificate {
        sequence: Sequence(body.sequence),
        state: digest_in("state", &body.state)?,
        votes: body.votes.into_iter().map(vote).collect::<Result<_, Malformed>>()?,
    })
}

fn view_change_in(body: pb::ViewChange) -> Result<ViewChange, Malformed> {
    let claims = |field, claims: Vec<pb::Claim>| {
        at_most(field, claims.len(), CLAIMS_MAX)?;
        let claim = |claim: pb::Claim| {
            Ok(Claim {
                sequence: Sequence(claim.sequence),
                view: View(claim.view),
                digest: digest_in("digest", &claim.digest)?,
            })
        };
        claims.into_iter().map(claim).collect::<Result<_, Malformed>>()
    };
    Ok(ViewChange {
        view: View(body.view),
        stable: body.stable.map(certificate_in).transpose()?,
        prepared: claims("prepared", body.prepared)?,
        pre_prepared: claims("pre_prepared", body.pre_prepared)?,
        marks: clients_in("marks", &body.marks)?,
    })
}

/// A bit for each client that is in the set.
fn clients_out(clients: &[ClientId]) -> Bytes {
    let bytes = clients.iter().map(|client| client.index() / 8 + 1).max().unwrap_or(0);
    let mut bits = vec![0; bytes];
    clients.iter().for_each(|client| bits[client.index() / 8] |= 1 << (client.index() % 8));
    bits.into()
}

/// The set in order, each client once.
fn clients_in(field: &'static str, bits: &[u8]) -> Result<Vec<ClientId>, Malformed> {
    at_most(field, bits.len(), CLIENTS_MAX / 8)?;
    let bit = |index: &u32| bits[*index as usize / 8] >> (index % 8) & 1 == 1;
    let count = u32::try_from(bits.len() * 8).expect("at most CLIENTS_MAX");
    Ok((0..count).filter(bit).map(ClientId).collect())
}

fn new_view_in(body: pb::NewView) -> Result<NewView, Malformed> {
    at_most("view_changes", body.view_changes.len(), REPLICAS_MAX as usize)?;
    let view_changes = body.view_changes.into_iter().map(signed_view_change_in);
    Ok(NewView { view: View(body.view), view_changes: view_changes.collect::<Result<_, _>>()? })
}

fn signed_view_change_out(message: &Unverified<ViewChange>) -> pb::SignedViewChange {
    let (replica, signature) = signed_out(message);
    pb::SignedViewChange { replica, body: message.bytes.clone(), signature }
}

fn signed_view_change_in(body: pb::SignedViewChange) -> Result<Unverified<ViewChange>, Malformed> {
    Ok(Unverified {
        sender: Principal::Replica(ReplicaId(body.replica)),
        body: view_change_in(read("view-change", body.body.clone())?)?,
        bytes: body.body,
        proof: Proof::Signature(signature_in(body.signature)?),
    })
}

/// The signer, by index, and the signature.
fn signed_out<M>(message: &Unverified<M>) -> (u32, Bytes) {
    let (_, replica) = principal_out(message.sender);
    let signature = match &message.proof {
        Proof::Signature(signature) => signature.0.clone(),
        Proof::Tag(_) | Proof::Authenticator(_) | Proof::Nothing => Bytes::new(), // void: these are signed
    };
    (replica, signature)
}

fn seal_out(body: &Seal) -> pb::Seal {
    let path = |path: &LeafPath| pb::LeafPath {
        timestamp: path.timestamp.0,
        position: path.position,
        path: path.path.iter().flat_map(|digest| digest.0).collect(),
    };
    pb::Seal {
        client: body.client.0,
        incarnation: body.incarnation.0,
        sequence: body.sequence.0,
        size: body.size,
        root: digest_out(&body.root),
        signature: body.signature.0.clone(),
        paths: body.paths.iter().map(path).collect(),
    }
}

fn seal_in(body: pb::Seal) -> Result<Seal, Malformed> {
    at_most("paths", body.paths.len(), ELEMENTS_MAX)?;
    let path = |path: pb::LeafPath| {
        at_most("path", path.path.len(), PATH_DIGESTS_MAX * 32)?;
        let digests = path.path.chunks(32).map(|digest| digest_in("path", digest));
        Ok(LeafPath {
            timestamp: Timestamp(path.timestamp),
            position: path.position,
            path: digests.collect::<Result<_, Malformed>>()?,
        })
    };
    Ok(Seal {
        client: ClientId(body.client),
        incarnation: Incarnation(body.incarnation),
        sequence: Sequence(body.sequence),
        size: body.size,
        root: digest_in("root", &body.root)?,
        signature: signature_in(body.signature)?,
        paths: body.paths.into_iter().map(path).collect::<Result<_, Malformed>>()?,
    })
}

fn meta_data_out(body: &MetaData) -> pb::MetaData {
    let partition = |(index, branch): &(u64, Branch)| pb::Partition {
        index: *index,
        level: branch.level,
        present: branch.children.iter().fold(0, |present, (child, _)| present | 1 << (child % 32)),
        digests: branch.children.iter().flat_map(|(_, digest)| digest.0).collect(),
    };
    pb::MetaData {
        sequence: body.sequence.0,
        space: body.space as u32,
        level: body.level,
        partitions: body.partitions.iter().map(partition).collect(),
    }
}

fn meta_data_in(body: pb::MetaData) -> Result<MetaData, Malformed> {
    at_most("partitions", body.partitions.len(), FETCH_PLACES_MAX)?;
    let partition = |partition: pb::Partition| {
        let pb::Partition { index, level, present, digests } = partition;
        if present >> FAN_OUT != 0 {
            return Err(Malformed::Unknown { field: "present", value: present });
        }
        let (limit, length) = (present.count_ones() as usize * 32, digests.len());
        if length != limit {
            return Err(Malformed::Length { field: "digests", length, limit });
        }
        let children = (0u8..).take(FAN_OUT).filter(|child| present >> child & 1 == 1);
        let digests = digests.chunks(32).map(|digest| digest_in("digests", digest));
        let children = children.zip(digests).map(|(child, digest)| Ok((child, digest?)));
        Ok((index, Branch { level, children: children.collect::<Result<_, Malformed>>()? }))
    };
    Ok(MetaData {
        sequence: Sequence(body.sequence),
        space: space_in(body.space)?,
        level: body.level,
        partitions: body.partitions.into_iter().map(partition).collect::<Result<_, _>>()?,
    })
}

fn data_out(body: &Data) -> pb::Data {
    pb::Data { sequence: body.sequence.0, pages: body.pages.iter().map(page_out).collect() }
}

fn data_in(body: pb::Data) -> Result<Data, Malformed> {
    Ok(Data { sequence: Sequence(body.sequence), pages: pages_in(body.pages)? })
}

fn page_out(page: &Page) -> pb::Page {
    pb::Page { at: Some(cursor_out(page.at)), bytes: page.bytes.clone() }
}

fn pages_in(pages: Vec<pb::Page>) -> Result<Vec<Page>, Malformed> {
    at_most("pages", pages.len(), ELEMENTS_MAX)?;
    let page = |page: pb::Page| Ok(Page { at: cursor_in(page.at)?, bytes: page.bytes });
    pages.into_iter().map(page).collect()
}

fn cursor_out(cursor: PageCursor) -> pb::PageCursor {
    pb::PageCursor { space: cursor.space as u32, index: cursor.index }
}

fn cursor_in(cursor: Option<pb::PageCursor>) -> Result<PageCursor, Malformed> {
    let cursor = cursor.ok_or(Malformed::Missing { field: "at" })?;
    Ok(PageCursor { space: space_in(cursor.space)?, index: cursor.index })
}

fn space_in(space: u32) -> Result<Space, Malformed> {
    match space {
        0 => Ok(Space::Protocol),
        1 => Ok(Space::Service),
        value => Err(Malformed::Unknown { field: "space", value }),
    }
}

fn principal_out(principal: Principal) -> (bool, u32) {
    match principal {
        Principal::Replica(id) => (false, id.0),
        Principal::Client(id) => (true, id.0),
    }
}

fn principal_in(from_client: bool, index: u32) -> Principal {
    if from_client { Principal::Client(ClientId(index)) } else { Principal::Replica(ReplicaId(index)) }
}

fn authenticator(tags: Bytes) -> Result<Authenticator, Malformed> {
    at_most("authenticator", tags.len(), REPLICAS_MAX as usize * TAG_BYTES)?;
    Ok(Authenticator(tags))
}

fn signature_in(signature: Bytes) -> Result<Signature, Malformed> {
    at_most("signature", signature.len(), SIGNATURE_BYTES_MAX)?;
    Ok(Signature(signature))
}

fn digest_out(digest: &Digest) -> Bytes {
    Bytes::copy_from_slice(&digest.0)
}

fn digest_in(field: &'static str, bytes: &[u8]) -> Result<Digest, Malformed> {
    exactly(field, bytes).map(Digest)
}

fn exactly<const N: usize>(field: &'static str, bytes: &[u8]) -> Result<[u8; N], Malformed> {
    bytes.try_into().map_err(|_| Malformed::Length { field, length: bytes.len(), limit: N })
}

fn at_most(field: &'static str, length: usize, limit: usize) -> Result<(), Malformed> {
    if length > limit { Err(Malformed::Length { field, length, limit }) } else { Ok(()) }
}

fn read<M: prost::Message + Default>(what: &'static str, bytes: Bytes) -> Result<M, Malformed> {
    M::decode(bytes).map_err(|source| Malformed::Protobuf { what, source })
}

#[cfg(test)]
mod tests;
