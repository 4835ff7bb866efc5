//! What may stand between sockets and frames: TLS, say, where the network is not one's own.
//!
//! Consensus needs none of it. Every message proves who sent it, to all who have to believe it; what is
//! added here hides them from others on the way, and keeps strangers from connecting at all. So a
//! [`Session`] is a state machine over bytes, like everything else in this crate, and whoever wants TLS
//! makes one of a few lines around the library that they use.

use std::{fmt, sync::Arc};

use bytes::BytesMut;
use thiserror::Error;

use crate::group::ReplicaId;

/// Makes a session for each connection.
pub trait Secure: fmt::Debug + Send + Sync {
    /// For a connection to this replica, which this side has dialled.
    fn dial(&self, peer: ReplicaId) -> Box<dyn Session>;

    /// For a connection that somebody else has dialled. Who it is, nobody knows yet: it may be a member or a
    /// client, and frames will prove which.
    fn accept(&self) -> Box<dyn Session>;
}

/// One end of a protected connection.
///
/// The connection's task calls [`open`](Self::open) once with nothing when it begins, and then with all that
/// comes in. Nothing is sealed before [`is_ready`](Self::is_ready).
pub trait Session {
    /// Takes in `wire`, which came from the other end, and appends what was in it to `plain`. What is not
    /// whole yet may stay in `wire`, and comes again with more behind it. What the session itself has to say
    /// to the other end, a handshake's part above all, is appended to `answer`.
    ///
    /// # Errors
    /// When the other end is nobody to speak to. What is in `answer` is still sent.
    fn open(
        &mut self,
        wire: &mut BytesMut,
        plain: &mut BytesMut,
        answer: &mut BytesMut,
    ) -> Result<(), Broken>;

    /// Appends to `wire` what brings `plain` to the other end.
    ///
    /// # Errors
    /// When the session has ended.
    fn seal(&mut self, plain: &[u8], wire: &mut BytesMut) -> Result<(), Broken>;

    /// Whether both ends know who they speak to.
    fn is_ready(&self) -> bool;
}

/// A protected connection can't go on.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct Broken(pub String);

/// The sessions of a runtime, if it has any.
#[derive(Clone, Debug, Default)]
pub struct Protection(pub Option<Arc<dyn Secure>>);

impl Protection {
    pub(super) fn dial(&self, peer: ReplicaId) -> Option<Box<dyn Session>> {
        Some(self.0.as_ref()?.dial(peer))
    }

    pub(super) fn accept(&self) -> Option<Box<dyn Session>> {
        Some(self.0.as_ref()?.accept())
    }
}

/// The same sessions, or none at all.
impl PartialEq for Protection {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Protection {}
