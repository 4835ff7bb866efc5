//! Evidence of misbehaviour: what a replica can show of what another one did.
//!
//! [`Evidence::Local`] rests on MACs. It convinces the replica that checked them and nobody else: who
//! hears of it believes f+1 different accusers, one of whom is correct. It names the configuration: an
//! index is somebody else's after it was given away. [`Evidence::Provable`] is a
//! [`MisbehaviourProof`]: statements with their author's RSA signatures, which no correct replica signs
//! together, or at all. It is a value with bytes, and the group's configuration is all that it takes to
//! check it: no network, no state, no trust in who hands it over.
//!
//! # What proves what, and why nobody correct is ever proven guilty
//!
//! A correct replica signs a promise only after its record is durable, and comes back from its journal
//! with the same bytes. So in all its lives it signs
//!
//! * one VIEW-CHANGE for a view, and one NEW-VIEW: any two that differ in a byte are two promises;
//! * a VIEW-CHANGE that is well-formed and whose checkpoint is certified, and a NEW-VIEW, as the view's
//!   primary, that follows from the VIEW-CHANGEs in it: both can be calculated again;
//! * one state after a batch, because execution is deterministic: another one, or one that differs from
//!   what 2f+1 signed, is wrong. (A replica whose disk or memory gave it a wrong state counts as faulty.
//!   For a state against a certificate to be no proof, all 2f+1 signers would have to lie together.)
//! * roots of one history, which only grows: two receipts that contradict each other
//!   ([`Receipt::audit`](crate::receipt::Receipt::audit)) have at least f+1 signers in common, and each
//!   of these lied.
//!
//! What is not provable: two PRE-PREPAREs, PREPAREs or COMMITs, wrong replies and wrong pages, because
//! MACs stand behind them.

use std::fmt;

use bytes::{Buf, BufMut as _, Bytes};
use thiserror::Error;

use crate::crypto::{Digest, Domain, Kind, Principal, SIGNATURE_BYTES_MAX, Signature};
use crate::group::{Configuration, Group, GroupId, ReplicaId, Sequence, View};
use crate::message::{
    Certificate, Message, NewView, Signatures, ViewChange, state_statement, wire,
    wire::Malformed as MalformedMessage,
};
use crate::receipt::{InvalidReceipt, Receipt};
use crate::replica::{Misbehaviour, follows, is_well_formed};

/// The encoding that this version writes and reads.
const FORMAT: u8 = 1;

/// What a replica has to say about another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// It convinces anyone who has the group's configuration.
    Provable(MisbehaviourProof),
    /// It convinces only whoever checked the MACs; f+1 who say so are to be believed.
    Local {
        /// The number of the configuration in which it happened: the culprit is who had the index then.
        configuration: u64,
        /// What happened.
        misbehaviour: Misbehaviour,
    },
}

impl Evidence {
    /// Who did wrong; none when it is the accuser's own state that is wrong.
    #[must_use]
    pub fn culprit(&self) -> Option<ReplicaId> {
        match self {
            Self::Provable(proof) => Some(proof.culprit),
            Self::Local { misbehaviour, .. } => misbehaviour.culprit(),
        }
    }

    /// The number of the configuration whose member did wrong.
    #[must_use]
    pub fn configuration(&self) -> u64 {
        match self {
            Self::Provable(proof) => proof.configuration,
            Self::Local { configuration, .. } => *configuration,
        }
    }

    /// What kind of wrong it was, as a name that does not change.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Provable(proof) => proof.lie.kind(),
            Self::Local { misbehaviour, .. } => misbehaviour.kind(),
        }
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Provable(proof) => proof.fmt(out),
            Self::Local { misbehaviour, .. } => misbehaviour.fmt(out),
        }
    }
}

/// Signed statements that no correct replica makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MisbehaviourProof {
    /// The group in which it happened.
    pub group: GroupId,
    /// The number of the configuration.
    pub configuration: u64,
    /// Who lied.
    pub culprit: ReplicaId,
    /// What it signed.
    pub lie: Lie,
}

/// The bytes of a message and its author's signature under them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The message's body.
    pub bytes: Bytes,
    /// The signature.
    pub signature: Signature,
}

/// A state and its author's signature under it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedState {
    /// The digest of the whole replicated state.
    pub state: Digest,
    /// The signature.
    pub signature: Signature,
}

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Two VIEW-CHANGEs for one view.
    ConflictingViewChanges {
        /// The view.
        view: View,
        /// Both of them.
        both: [Signed; 2],
    },
    /// A VIEW-CHANGE that no correct replica sends.
    WrongViewChange {
        /// Its view.
        view: View,
        /// The message.
        message: Signed,
    },
    /// Two NEW-VIEWs for one view.
    ConflictingNewViews {
        /// The view.
        view: View,
        /// Both of them.
        both: [Signed; 2],
    },
    /// A NEW-VIEW that does not follow from the VIEW-CHANGEs in it, or is not of the view's primary.
    WrongNewView {
        /// Its view.
        view: View,
        /// The message.
        message: Signed,
    },
    /// Two states after one batch.
    ConflictingStates {
        /// The batch.
        sequence: Sequence,
        /// Both of them.
        both: [SignedState; 2],
    },
    /// A state after a batch for which 2f+1 replicas signed another one.
    WrongState {
        /// The one state.
        said: SignedState,
        /// The other one.
        certificate: Certificate,
    },
    /// Two receipts that contradict each other.
    ConflictingReceipts(Box<[Receipt; 2]>),
}

impl Lie {
    /// A name that does not change.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConflictingViewChanges { .. } => "conflicting-view-changes",
            Self::WrongViewChange { .. } => "wrong-view-change",
            Self::ConflictingNewViews { .. } => "conflicting-new-views",
            Self::WrongNewView { .. } => "wrong-new-view",
            Self::ConflictingStates { .. } => "conflicting-states",
            Self::WrongState { .. } => "wrong-state",
            Self::ConflictingReceipts(_) => "conflicting-receipts",
        }
    }
}

impl fmt::Display for MisbehaviourProof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let replica = self.culprit;
        match &self.lie {
            Lie::ConflictingViewChanges { view, .. } => {
                write!(out, "replica {replica} signed two view-changes for view {view}")
            }
            Lie::WrongViewChange { view, .. } => {
                write!(out, "replica {replica} signed a view-change for view {view} that contradicts itself")
            }
            Lie::ConflictingNewViews { view, .. } => {
                write!(out, "replica {replica} began view {view} in two ways")
            }
            Lie::WrongNewView { view, .. } => write!(
                out,
                "replica {replica} began view {view} with too few view-changes, or with wrong ones"
            ),
            Lie::ConflictingStates { sequence, .. } => {
                write!(out, "replica {replica} signed two states after batch {sequence}")
            }
            Lie::WrongState { certificate, .. } => write!(
                out,
                "replica {replica} signed another state after batch {} than {} others",
                certificate.sequence,
                certificate.votes.len()
            ),
            Lie::ConflictingReceipts(_) => {
                write!(out, "replica {replica} signed two receipts that contradict each other")
            }
        }
    }
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum InvalidProof {
    /// It is of another group, or another life of the same set.
    #[error("proof is about another group")]
    Group,
    /// It is of another configuration of the group.
    #[error("proof is about configuration {found}, not {expected}")]
    Configuration {
        /// The proof's.
        found: u64,
        /// The one it is checked with.
        expected: u64,
    },
    /// The group has no such replica.
    #[error("the group has no replica {0}")]
    Culprit(ReplicaId),
    /// The culprit did not sign what it is accused of.
    #[error("replica {0} did not sign what it is accused of")]
    Signature(ReplicaId),
    /// What was signed does not contradict anything.
    #[error("nothing is wrong with what replica {0} signed")]
    Innocent(ReplicaId),
    /// 2f+1 signatures are missing under the other state.
    #[error("too few replicas vouch for the other state")]
    Certificate,
    /// A receipt in it proves nothing.
    #[error(transparent)]
    Receipt(#[from] InvalidReceipt),
    /// A message in it can't be read: it may be of another version, which is no crime.
    #[error("what was signed can't be read: {0}")]
    Message(#[from] MalformedMessage),
    /// The bytes are of an unknown format.
    #[error("proof format {0} is unknown; this version reads {FORMAT}")]
    Format(u8),
    /// The bytes are not a proof.
    #[error("bytes are not a proof: {field} is cut short, too long or unknown")]
    Malformed {
        /// Where reading stopped.
        field: &'static str,
    },
}

impl MisbehaviourProof {
    /// Checks the proof against the configuration of the group that it names, and says who is guilty.
    ///
    /// # Errors
    /// Says why it proves nothing.
    pub fn verify(&self, configuration: &Configuration) -> Result<ReplicaId, InvalidProof> {
        self.verify_by(configuration, configuration)
    }

    /// As [`verify`](Self::verify), with signatures that `keys` can check.
    pub(crate) fn verify_by(
        &self,
        configuration: &Configuration,
        keys: &impl Signatures,
    ) -> Result<ReplicaId, InvalidProof> {
        if self.group != configuration.group {
            return Err(InvalidProof::Group);
        }
        if self.configuration != configuration.number {
            let (found, expected) = (self.configuration, configuration.number);
            return Err(InvalidProof::Configuration { found, expected });
        }
        let group = Group::new(configuration);
        let culprit = self.culprit;
        if !group.has(culprit) {
            return Err(InvalidProof::Culprit(culprit));
        }
        let signed = |domain: Domain, bytes: &[u8], signature: &Signature| {
            let signed = keys.is_signed(Principal::Replica(culprit), domain, bytes, signature);
            signed.then_some(()).ok_or(InvalidProof::Signature(culprit))
        };
        let signed_state = |sequence: Sequence, said: &SignedState| {
            let statement = state_statement(sequence, &said.state);
            signed(Domain::new(Kind::Checkpoint, 0), &statement, &said.signature)
        };
        let window = configuration.limits.window;
        let wrong = match &self.lie {
            Lie::ConflictingViewChanges { view, both: [first, second] } => {
                let domain = Domain::new(Kind::ViewChange, view.0);
                signed(domain, &first.bytes, &first.signature)?;
                signed(domain, &second.bytes, &second.signature)?;
                first.bytes != second.bytes
            }
            Lie::ConflictingNewViews { view, both: [first, second] } => {
                let domain = Domain::new(Kind::NewView, view.0);
                signed(domain, &first.bytes, &first.signature)?;
                signed(domain, &second.bytes, &second.signature)?;
                first.bytes != second.bytes
            }
            Lie::WrongViewChange { view, message } => {
                signed(Domain::new(Kind::ViewChange, view.0), &message.bytes, &message.signature)?;
                let body = view_change(&message.bytes)?;
                body.view != *view
                    || !is_well_formed(&body, configuration.start, window)
                    || !body.is_certified(keys)
            }
            Lie::WrongNewView { view, message } => {
                signed(Domain::new(Kind::NewView, view.0), &message.bytes, &message.signature)?;
                let body = new_view(&message.bytes)?;
                body.view != *view
                    || culprit != group.primary(*view)
                    || !body.view_changes.iter().all(|one| one.is_signed(keys))
                    || follows(&group, configuration, &body).is_none()
            }
            Lie::ConflictingStates { sequence, both: [first, second] } => {
                signed_state(*sequence, first)?;
                signed_state(*sequence, second)?;
                first.state != second.state
            }
            Lie::WrongState { said, certificate } => {
                signed_state(certificate.sequence, said)?;
                if !certificate.is_signed(keys) {
                    return Err(InvalidProof::Certificate);
                }
                said.state != certificate.state
            }
            Lie::ConflictingReceipts(both) => {
                let [first, second] = &**both;
                let contradiction = first.audit(second, configuration)?;
                contradiction.is_some_and(|contradiction| contradiction.liars.has(culprit))
            }
        };
        if wrong { Ok(culprit) } else { Err(InvalidProof::Innocent(culprit)) }
    }

    /// The stable encoding: every proof has one, and all numbers are big-endian.
    ///
    /// # Panics
    /// When a part of it is longer than 4 GiB.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        let Parts { kind, number, blobs } = self.lie.parts();
        let mut out = vec![FORMAT];
        out.put_slice(&self.group.0);
        out.put_u64(self.configuration);
        out.put_u32(self.culprit.0);
        out.put_u8(kind);
        out.put_u64(number);
        for blob in blobs {
            out.put_u32(u32::try_from(blob.len()).expect("a message is shorter than 4 GiB"));
            out.put_slice(&blob);
        }
        out.into()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote. It is not verified yet. It takes no more memory
    /// than a fixed multiple of the bytes.
    ///
    /// # Errors
    /// When the bytes are cut short, too long or of another version.
    pub fn from_bytes(mut bytes: &[u8]) -> Result<Self, InvalidProof> {
        let read = &mut bytes;
        match take(read, "format").map(|[format]| format)? {
            FORMAT => {}
            other => return Err(InvalidProof::Format(other)),
        }
        let group = GroupId(take(read, "group")?);
        let configuration = u64::from_be_bytes(take(read, "configuration")?);
        let culprit = ReplicaId(u32::from_be_bytes(take(read, "culprit")?));
        let [kind] = take(read, "kind")?;
        let number = u64::from_be_bytes(take(read, "number")?);
        let mut blobs = Vec::new();
        while !read.is_empty() && blobs.len() < BLOBS_MAX {
            let length = u32::from_be_bytes(take(read, "part")?) as usize;
            if length > read.len() {
                return Err(InvalidProof::Malformed { field: "part" });
            }
            blobs.push(read.copy_to_bytes(length));
        }
        if !read.is_empty() {
            return Err(InvalidProof::Malformed { field: "end" });
        }
        let lie = Lie::from_parts(Parts { kind, number, blobs })?;
        Ok(Self { group, configuration, culprit, lie })
    }
}

/// A lie as it is written: what it is about, and what was signed.
struct Parts {
    kind: u8,
    /// The view or the sequence number; 0 where the parts say it.
    number: u64,
    blobs: Vec<Bytes>,
}

/// The most parts that a lie has.
const BLOBS_MAX: usize = 4;

impl Lie {
    fn parts(&self) -> Parts {
        let messages = |all: &[Signed]| {
            all.iter().flat_map(|one| [one.bytes.clone(), one.signature.0.clone()]).collect::<Vec<_>>()
        };
        let state = |one: &SignedState| [Bytes::copy_from_slice(&one.state.0), one.signature.0.clone()];
        let (kind, number, blobs) = match self {
            Self::ConflictingViewChanges { view, both } => (1, view.0, messages(both)),
            Self::WrongViewChange { view, message } => (2, view.0, messages(std::slice::from_ref(message))),
            Self::ConflictingNewViews { view, both } => (3, view.0, messages(both)),
            Self::WrongNewView { view, message } => (4, view.0, messages(std::slice::from_ref(message))),
            Self::ConflictingStates { sequence, both } => {
                (5, sequence.0, both.iter().flat_map(state).collect())
            }
            Self::WrongState { said, certificate } => {
                let certificate = wire::encode_body(&Message::Stable(certificate.clone()));
                (6, 0, state(said).into_iter().chain([certificate]).collect())
            }
            Self::ConflictingReceipts(both) => {
                (7, 0, both.iter().map(|receipt| receipt.to_bytes().into()).collect())
            }
        };
        Parts { kind, number, blobs }
    }

    fn from_parts(parts: Parts) -> Result<Self, InvalidProof> {
        let Parts { kind, number, blobs } = parts;
        let view = View(number);
        Ok(match (kind, &blobs[..]) {
            (1, [a, s, b, t]) => {
                Self::ConflictingViewChanges { view, both: [message(a, s)?, message(b, t)?] }
            }
            (2, [a, s]) => Self::WrongViewChange { view, message: message(a, s)? },
            (3, [a, s, b, t]) => Self::ConflictingNewViews { view, both: [message(a, s)?, message(b, t)?] },
            (4, [a, s]) => Self::WrongNewView { view, message: message(a, s)? },
            (5, [a, s, b, t]) => {
                Self::ConflictingStates { sequence: Sequence(number), both: [state(a, s)?, state(b, t)?] }
            }
            (6, [a, s, certificate]) if number == 0 => {
                let Message::Stable(certificate) =
                    wire::decode_body(Kind::Stable as u32, certificate.clone())?
                else {
                    return Err(InvalidProof::Malformed { field: "certificate" });
                };
                Self::WrongState { said: state(a, s)?, certificate }
            }
            (7, [a, b]) if number == 0 => {
                Self::ConflictingReceipts(Box::new([Receipt::from_bytes(a)?, Receipt::from_bytes(b)?]))
            }
            _ => return Err(InvalidProof::Malformed { field: "kind" }),
        })
    }
}

fn message(bytes: &Bytes, signature: &Bytes) -> Result<Signed, InvalidProof> {
    Ok(Signed { bytes: bytes.clone(), signature: signature_of(signature)? })
}

fn state(state: &Bytes, signature: &Bytes) -> Result<SignedState, InvalidProof> {
    let state = state[..].try_into().map_err(|_| InvalidProof::Malformed { field: "state" })?;
    Ok(SignedState { state: Digest(state), signature: signature_of(signature)? })
}

fn signature_of(bytes: &Bytes) -> Result<Signature, InvalidProof> {
    if bytes.len() > SIGNATURE_BYTES_MAX {
        return Err(InvalidProof::Malformed { field: "signature" });
    }
    Ok(Signature(bytes.clone()))
}

fn view_change(bytes: &Bytes) -> Result<ViewChange, InvalidProof> {
    match wire::decode_body(Kind::ViewChange as u32, bytes.clone())? {
        Message::ViewChange(body) => Ok(body),
        _ => unreachable!("a kind has one body"),
    }
}

fn new_view(bytes: &Bytes) -> Result<NewView, InvalidProof> {
    match wire::decode_body(Kind::NewView as u32, bytes.clone())? {
        Message::NewView(body) => Ok(body),
        _ => unreachable!("a kind has one body"),
    }
}

fn take<const N: usize>(read: &mut &[u8], field: &'static str) -> Result<[u8; N], InvalidProof> {
    let (bytes, rest) = read.split_first_chunk().ok_or(InvalidProof::Malformed { field })?;
    *read = rest;
    Ok(*bytes)
}
