//! Exactly once: no operation has two places in the order. Operations of a run are all different.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::Executed;
use super::Violation;
use crate::group::{ClientId, Sequence};

/// Where each operation was executed.
#[derive(Debug, Default)]
pub(super) struct ExactlyOnce {
    places: BTreeMap<(ClientId, Bytes), Sequence>,
}

impl ExactlyOnce {
    /// Looks at a batch that nobody executed before.
    pub(super) fn check(&mut self, batch: &[Executed]) -> Result<(), Violation> {
        for Executed { sequence, client, operation, .. } in batch {
            if let Some(first) = self.places.insert((*client, operation.clone()), *sequence) {
                return Err(Violation::Twice { client: *client, first, second: *sequence });
            }
        }
        Ok(())
    }
}
