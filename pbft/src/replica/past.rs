//! What one place has held in all views so far: a replica's part of P and Q (TOCS 4.5).

use crate::crypto::Digest;
use crate::group::{Sequence, View};
use crate::message::{Batch, Claim};

/// Batches that are remembered for one place. Each view's primary can add one; a correct one
/// repeats what is there, or begins where nothing is.
///
/// When there are more, the one of the lowest view goes, but never the one that was prepared last.
/// That endangers nothing: Q only ever speaks for a batch. Nor does it hold a view up for ever: a
/// batch that has to be chosen was prepared by f+1 correct replicas, and they keep it.
pub(crate) const CLAIMS_PER_PLACE_MAX: usize = 16;

/// The batches of one place.
#[derive(Debug, Default)]
pub(super) struct Past {
    /// The last view in which a batch was prepared here, and that batch.
    prepared: Option<(View, Digest)>,
    /// Each batch that was pre-prepared here, with the last view in which it was.
    pre_prepared: Vec<(View, Digest, Batch)>,
}

impl Past {
    /// A batch is pre-prepared here in `view`.
    pub(super) fn pre_prepare(&mut self, view: View, digest: Digest, batch: &Batch) {
        if let Some(known) = self.pre_prepared.iter_mut().find(|(_, known, _)| *known == digest) {
            known.0 = known.0.max(view);
            return;
        }
        if self.pre_prepared.len() == CLAIMS_PER_PLACE_MAX {
            let kept = self.prepared.map(|(_, digest)| digest);
            let others = (0..).zip(&self.pre_prepared).filter(|(_, (_, digest, _))| Some(*digest) != kept);
            if let Some((lowest, _)) = others.min_by_key(|(_, (view, ..))| *view) {
                self.pre_prepared.swap_remove(lowest);
            }
        }
        self.pre_prepared.push((view, digest, batch.clone()));
    }

    /// A batch is prepared here in `view`.
    pub(super) fn prepare(&mut self, view: View, digest: Digest) {
        if self.prepared.is_none_or(|(before, _)| before < view) {
            self.prepared = Some((view, digest));
        }
    }

    /// All batches that are remembered.
    #[cfg(feature = "sim")]
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.pre_prepared.iter().map(|(.., batch)| batch)
    }

    pub(super) fn is_prepared(&self) -> bool {
        self.prepared.is_some()
    }

    /// The batch with this digest, if it was pre-prepared here.
    pub(super) fn batch(&self, digest: &Digest) -> Option<&Batch> {
        self.pre_prepared.iter().find(|(_, known, _)| known == digest).map(|(.., batch)| batch)
    }

    /// The batch that was pre-prepared here in `view`.
    pub(super) fn batch_of(&self, view: View) -> Option<&Batch> {
        self.pre_prepared.iter().find(|(known, ..)| *known == view).map(|(.., batch)| batch)
    }

    /// This place's entry in P.
    pub(super) fn prepared(&self, sequence: Sequence) -> Option<Claim> {
        self.prepared.map(|(view, digest)| Claim { sequence, view, digest })
    }

    /// This place's entries in Q.
    pub(super) fn pre_prepared(&self, sequence: Sequence) -> impl Iterator<Item = Claim> {
        self.pre_prepared.iter().map(move |(view, digest, _)| Claim {
            sequence,
            view: *view,
            digest: *digest,
        })
    }

    pub(super) fn clear(&mut self) {
        self.prepared = None;
        self.pre_prepared.clear();
    }
}
