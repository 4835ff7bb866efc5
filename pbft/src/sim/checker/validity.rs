//! Validity: only what a client sent is executed, in its name.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::super::Executed;
use super::Violation;
use crate::group::{ClientId, ReplicaId};

/// What clients sent.
#[derive(Debug, Default)]
pub(super) struct Validity {
    submitted: BTreeSet<(ClientId, Bytes)>,
}

impl Validity {
    pub(super) fn submitted(&mut self, client: ClientId, operation: &Bytes) {
        self.submitted.insert((client, operation.clone()));
    }

    pub(super) fn check(&self, replica: ReplicaId, batch: &[Executed]) -> Result<(), Violation> {
        for Executed { sequence, client, operation, .. } in batch {
            if !self.submitted.contains(&(*client, operation.clone())) {
                return Err(Violation::Unasked { replica, sequence: *sequence, client: *client });
            }
        }
        Ok(())
    }
}
