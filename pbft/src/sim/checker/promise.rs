//! Promises: nobody says what a crash could make it forget, and nobody contradicts what it said
//! before, in whatever life.

use std::collections::BTreeMap;

use super::super::disk::{Disk, Promise};
use super::Violation;
use crate::crypto::{Digest, Domain, Kind, Scope};
use crate::group::{ReplicaId, Sequence, View};
use crate::message::Message;

/// What each replica has said.
#[derive(Debug, Default)]
pub(super) struct Promises {
    said: BTreeMap<(u64, ReplicaId, Promise, View, Sequence), Digest>,
}

impl Promises {
    pub(super) fn check(
        &mut self,
        (replica, scope): (ReplicaId, Scope),
        message: &Message,
        bytes: &[u8],
        disk: Option<&Disk>,
    ) -> Result<(), Violation> {
        let (what, promise, view, sequence, digest) = match message {
            Message::PrePrepare(m) => {
                let digest = scope.digest(Domain::new(Kind::Batch, 0), &[&m.batch.bytes]);
                ("PRE-PREPARE", Promise::Proposal, m.view, m.sequence, digest)
            }
            Message::Prepare(m) => ("PREPARE", Promise::Proposal, m.view, m.sequence, m.digest),
            Message::Commit(m) => ("COMMIT", Promise::Prepared, m.view, m.sequence, m.digest),
            Message::Checkpoint(m) => ("CHECKPOINT", Promise::Checkpoint, View(0), m.sequence, m.state),
            Message::ViewChange(m) => {
                let digest = scope.digest(Domain::new(Kind::ViewChange, 0), &[bytes]);
                ("VIEW-CHANGE", Promise::ViewChange, m.view, Sequence(0), digest)
            }
            Message::NewView(m) => {
                let digest = scope.digest(Domain::new(Kind::NewView, 0), &[bytes]);
                ("NEW-VIEW", Promise::NewView, m.view, Sequence(0), digest)
            }
            _ => return Ok(()),
        };
        if disk.is_some_and(|disk| !disk.holds(scope.configuration, promise, view, sequence)) {
            return Err(Violation::Premature { replica, what, sequence });
        }
        let said = self.said.entry((scope.configuration, replica, promise, view, sequence)).or_insert(digest);
        if *said == digest { Ok(()) } else { Err(Violation::Contradiction { replica, what, sequence }) }
    }
}
