//! Agreement: all replicas execute the same operations in the same batches, in every life, and
//! have the same state after each.

use std::collections::BTreeMap;

use super::super::Executed;
use super::Violation;
use crate::crypto::Digest;
use crate::group::{ReplicaId, Sequence};

/// The order as the first replica to execute a batch saw it.
#[derive(Debug, Default)]
pub(super) struct Agreement {
    order: BTreeMap<Sequence, Vec<Executed>>,
    states: BTreeMap<Sequence, Digest>,
    /// Batches, those in which nothing was executed among them.
    batches: BTreeMap<Sequence, Digest>,
}

impl Agreement {
    /// Says whether the batch is seen for the first time.
    pub(super) fn check(
        &mut self,
        replica: ReplicaId,
        sequence: Sequence,
        batch: &[Executed],
    ) -> Result<bool, Violation> {
        match self.order.get(&sequence) {
            None => {
                self.order.insert(sequence, batch.to_vec());
                Ok(true)
            }
            Some(known) if known == batch => Ok(false),
            Some(_) => Err(Violation::Order { replica, sequence }),
        }
    }

    pub(super) fn check_state(
        &mut self,
        replica: ReplicaId,
        sequence: Sequence,
        state: &Digest,
    ) -> Result<(), Violation> {
        if self.states.entry(sequence).or_insert(*state) == state {
            return Ok(());
        }
        Err(Violation::State { replica, sequence })
    }

    pub(super) fn check_batch(
        &mut self,
        replica: ReplicaId,
        sequence: Sequence,
        digest: &Digest,
    ) -> Result<(), Violation> {
        if self.batches.entry(sequence).or_insert(*digest) == digest {
            return Ok(());
        }
        Err(Violation::Order { replica, sequence })
    }

    /// What a batch executed.
    pub(super) fn batch(&self, sequence: Sequence) -> &[Executed] {
        self.order.get(&sequence).map_or(&[], Vec::as_slice)
    }
}
