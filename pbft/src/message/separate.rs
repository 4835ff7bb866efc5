//! Operations that travel beside their requests (TOCS 5.1, "separate request transmission").
//!
//! A request may name its operations by their digests. Its bytes are then short, and so is whatever they
//! are part of: what its client tags or signs, what replicas vouch for, the batch and its digest. The
//! operations come from the client to all replicas; who lacks them asks another replica for the whole
//! batch. Each is hashed once, when it comes in: its digest proves it, and is what the history's leaf holds.

use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, Message, PrePrepare, Request, Unverified};
use crate::crypto::{Digest, Domain, Kind, Scope};
use crate::group::Timestamp;

/// Bytes for the key and the length of an operation, in a request or beside it, at most.
pub(super) const OPERATION_FRAMING: usize = 6;

/// The digest of an operation, in a request that names it and in the history alike.
pub(crate) fn operation_digest(scope: &Scope, operation: &[u8]) -> Digest {
    scope.digest(Domain::new(Kind::Operation, 0), &[operation])
}

impl Request {
    /// The number of operations, whether they are here or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.operations.len().max(self.named.len())
    }

    /// The timestamps with their operations, those that are here.
    pub fn iter(&self) -> impl Iterator<Item = (Timestamp, &Bytes)> {
        (0..).map(|offset| self.first.plus(offset)).zip(&self.operations)
    }

    /// The timestamps of the operations, whether they are here or not.
    pub fn timestamps(&self) -> impl Iterator<Item = Timestamp> + use<> {
        let first = self.first;
        (0..self.count() as u64).map(move |offset| first.plus(offset))
    }

    /// The timestamp after the last operation's.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.first.plus(self.count() as u64)
    }

    /// Whether all operations are here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.operations.len() == self.count()
    }

    /// The operations that are here and not in the request's bytes.
    pub(super) fn beside(&self) -> &[Bytes] {
        if self.named.is_empty() { &[] } else { &self.operations }
    }

    /// The bytes of those.
    pub(super) fn beside_bytes(&self) -> usize {
        self.beside().iter().map(|operation| operation.len() + OPERATION_FRAMING).sum()
    }

    /// Whether all operations are here, and are those that it names.
    pub(super) fn is_as_named(&self, scope: &Scope) -> bool {
        let mut pairs = self.named.iter().zip(&self.operations);
        self.is_whole() && pairs.all(|(named, operation)| *named == operation_digest(scope, operation))
    }
}

impl Message {
    /// The operations that travel beside its body.
    pub(super) fn beside(&self) -> &[Bytes] {
        match self {
            Self::Request(request) => request.beside(),
            _ => &[],
        }
    }

    /// The bytes of those.
    pub(crate) fn beside_bytes(&self) -> usize {
        match self {
            Self::Request(request) => request.beside_bytes(),
            _ => 0,
        }
    }
}

impl Batch {
    /// Whether all that it orders is here.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.requests.iter().all(|request| request.body.is_whole())
    }

    /// How many operations its requests name.
    pub(super) fn named(&self) -> usize {
        self.requests.iter().map(|request| request.body.named.len()).sum()
    }

    /// The bytes that it takes up, with the operations beside it that are here.
    pub(crate) fn weight(&self) -> usize {
        let beside: usize = self.requests.iter().map(|request| request.body.beside_bytes()).sum();
        self.bytes.len() + beside
    }

    /// Whether all that it orders is here, and what its requests name is that.
    pub(super) fn is_as_named(&self, scope: &Scope) -> bool {
        self.requests.iter().all(|request| request.body.is_as_named(scope))
    }

    /// The batch as a PRE-PREPARE carries it: without the operations that its requests name.
    #[must_use]
    pub fn in_brief(&self) -> Self {
        self.with(|request| (!request.body.beside().is_empty()).then(Vec::new))
    }

    /// The batch with operations that its requests name, where `find` has them.
    pub(crate) fn with(&self, mut find: impl FnMut(&Unverified<Request>) -> Option<Vec<Bytes>>) -> Self {
        if self.named() == 0 {
            return self.clone(); // nearly always
        }
        let found: Vec<_> = self
            .requests
            .iter()
            .map(|request| if request.body.named.is_empty() { None } else { find(request) })
            .collect();
        if found.iter().all(Option::is_none) {
            return self.clone();
        }
        let filled = found.into_iter().zip(self.requests.iter()).map(|(found, request)| {
            let mut request = request.clone();
            if let Some(operations) = found {
                request.body.operations = operations;
            }
            request
        });
        let Self { bytes, time, seal, .. } = self.clone();
        Self { bytes, time, seal, requests: filled.collect::<Arc<_>>() }
    }

    /// The batch with all operations that its requests name, in order; none when they are not as many.
    pub(super) fn with_operations(self, operations: Vec<Bytes>) -> Option<Self> {
        if operations.len() != self.named() {
            return None;
        }
        if operations.is_empty() {
            return Some(self);
        }
        let mut operations = operations.into_iter();
        Some(self.with(|request| Some(operations.by_ref().take(request.body.named.len()).collect())))
    }
}

impl PrePrepare {
    /// As it is sent: see [`Batch::in_brief`].
    #[must_use]
    pub fn in_brief(self) -> Self {
        Self { batch: self.batch.in_brief(), ..self }
    }
}
