//! Frames on a connection, and the greeting that begins it.
//!
//! A frame is its length (u32, little-endian, of what follows), a kind (u8) and a body. Both sides
//! begin with HELLO. The acceptor's carries its NEW-KEY and a nonce; the dialer answers with a JOIN
//! for each principal that it speaks for: its NEW-KEY and a tag over the nonce, which nobody can
//! have recorded before. Then come protocol messages, and a NEW-KEY whenever keys are renewed.
//!
//! A dialer that has no such key for the acceptor may be of an earlier configuration, in which the place
//! was another's. Before it joins it says which one it is in (CONFIGURED), and is answered by the
//! SUCCESSION that follows, which proves itself; so on until it knows the key, or there is no more to be
//! shown. So whoever slept until all its peers were replaced needs no more than an address of one.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use thiserror::Error;

use super::secure::Broken;
use crate::{
    crypto::{Domain, Keychain, Kind, NewKey, Principal, SIGNATURE_BYTES_MAX, TAG_BYTES, Tag},
    group::{Configuration, GroupId, REPLICAS_MAX},
    message::{
        Message, Unverified,
        wire::{self, Malformed},
    },
};

const MAGIC: &[u8; 4] = b"QPBF";
/// The version of frames and of what tags are made over: neither outlives a connection, so it is not
/// the version that digests and signatures carry.
const TRANSPORT_VERSION: u8 = 2;
/// The longest frame before anybody has joined.
pub(super) const GREETING_BYTES_MAX: usize = 4096;
/// The longest SUCCESSION: a signature of every replica, and keys that are hardly longer for a third of them.
pub(super) const SUCCESSION_BYTES_MAX: usize = 2 * REPLICAS_MAX as usize * (SIGNATURE_BYTES_MAX + 64);

/// One frame.
#[derive(Debug)]
pub(super) enum Frame {
    Hello(Hello),
    Join(Join),
    NewKey(NewKey),
    Message(Unverified<Message>),
}

/// Who is there, and for which group.
#[derive(Debug)]
pub(super) struct Hello {
    pub(super) group: GroupId,
    pub(super) nonce: [u8; 32],
    /// The acceptor's.
    pub(super) new_key: Option<NewKey>,
}

/// One principal that the dialer speaks for.
#[derive(Debug)]
pub(super) struct Join {
    pub(super) new_key: NewKey,
    pub(super) tag: Tag,
}

/// Why a connection was closed. Counted by kind; the state machine never hears of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum Refusal {
    #[error("frame of {length} bytes is over the limit of {limit}")]
    Oversized { length: usize, limit: usize },
    #[error("frame is malformed: {0}")]
    Malformed(#[from] Malformed),
    #[error("frame kind {0} is unknown, or has no place here")]
    Kind(u8),
    #[error("greeting is of another protocol, version or group")]
    Greeting,
    #[error("nobody proved to be the sender")]
    Unproven,
    #[error("connection is not protected as it should be: {0}")]
    Unprotected(#[from] Broken),
}

impl Refusal {
    /// The kind under which it is counted.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Oversized { .. } => "oversized",
            Self::Malformed(_) => "malformed",
            Self::Kind(_) => "misplaced",
            Self::Greeting => "greeting",
            Self::Unproven => "unproven",
            Self::Unprotected(_) => "unprotected",
        }
    }
}

const HELLO: u8 = 1;
const JOIN: u8 = 2;
const NEW_KEY: u8 = 3;
const MESSAGE: u8 = 4;

/// Takes the next whole frame from what was read; none when more has to come first.
pub(super) fn take(read: &mut BytesMut, limit: usize) -> Result<Option<Frame>, Refusal> {
    let Some(header) = read.first_chunk::<4>() else { return Ok(None) };
    // Saturates on 16-bit targets only, and the limit is below that anyway.
    let length = usize::try_from(u32::from_le_bytes(*header)).unwrap_or(usize::MAX);
    if length > limit {
        return Err(Refusal::Oversized { length, limit });
    }
    if read.len() < 4 + length {
        read.reserve(4 + length - read.len());
        return Ok(None);
    }
    read.advance(4);
    decode(read.split_to(length).freeze()).map(Some)
}

fn decode(mut bytes: Bytes) -> Result<Frame, Refusal> {
    let kind = bytes.try_get_u8().map_err(|_| Refusal::Kind(0))?;
    Ok(match kind {
        HELLO => Frame::Hello(decode_hello(bytes)?),
        JOIN => {
            let mut tag = Tag([0; TAG_BYTES]);
            bytes.try_copy_to_slice(&mut tag.0).map_err(|_| Refusal::Unproven)?;
            Frame::Join(Join { new_key: wire::decode_new_key(bytes)?, tag })
        }
        NEW_KEY => Frame::NewKey(wire::decode_new_key(bytes)?),
        MESSAGE => Frame::Message(wire::decode(bytes)?),
        kind => return Err(Refusal::Kind(kind)),
    })
}

fn decode_hello(mut bytes: Bytes) -> Result<Hello, Refusal> {
    let mut fixed = [0; 5 + 16 + 32];
    bytes.try_copy_to_slice(&mut fixed).map_err(|_| Refusal::Greeting)?;
    let mut read = &fixed[..];
    let mut hello = Hello { group: GroupId([0; 16]), nonce: [0; 32], new_key: None };
    let mut magic = [0; 4];
    read.copy_to_slice(&mut magic);
    if &magic != MAGIC || read.get_u8() != TRANSPORT_VERSION {
        return Err(Refusal::Greeting);
    }
    read.copy_to_slice(&mut hello.group.0);
    read.copy_to_slice(&mut hello.nonce);
    if !bytes.is_empty() {
        hello.new_key = Some(wire::decode_new_key(bytes)?);
    }
    Ok(hello)
}

/// The first frame of either side.
pub(super) fn hello(configuration: &Configuration, nonce: &[u8; 32], new_key: Option<&NewKey>) -> Bytes {
    framed(HELLO, |out| {
        out.put_slice(MAGIC);
        out.put_u8(TRANSPORT_VERSION);
        out.put_slice(&configuration.group.0);
        out.put_slice(nonce);
        if let Some(new_key) = new_key {
            out.put_slice(&wire::encode_new_key(new_key));
        }
    })
}

/// What proves to the `acceptor` that `keychain`'s owner is on this connection now.
pub(super) fn join(keychain: &Keychain, acceptor: Principal, nonce: &[u8; 32]) -> Option<Bytes> {
    let new_key = wire::encode_new_key(keychain.announcement()?);
    let tag = keychain.tag(acceptor, JOINING, nonce);
    Some(framed(JOIN, |out| {
        out.put_slice(&tag.0);
        out.put_slice(&new_key);
    }))
}

/// The domain of the tag in a JOIN.
pub(super) const JOINING: Domain = Domain { kind: Kind::NewKey, view: 0 };

/// A renewed key.
pub(super) fn new_key(new_key: &NewKey) -> Bytes {
    framed(NEW_KEY, |out| out.put_slice(&wire::encode_new_key(new_key)))
}

/// Appends a protocol message to `out`.
pub(super) fn put_message(out: &mut BytesMut, message: &Unverified<Message>) {
    put_framed(out, MESSAGE, |out| wire::encode_into(out, message));
}

fn framed(kind: u8, body: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut out = BytesMut::new();
    put_framed(&mut out, kind, body);
    out.freeze()
}

fn put_framed(out: &mut BytesMut, kind: u8, body: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind);
    body(out);
    let length = u32::try_from(out.len() - start - 4).expect("a frame is far below 4 GiB");
    out[start..start + 4].copy_from_slice(&length.to_le_bytes());
}
