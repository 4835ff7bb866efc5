//! What a replica must find again after a crash.

use crate::crypto::Digest;
use crate::group::{ClientId, Sequence, View};
use crate::membership::Succession;
use crate::message::{Batch, Certificate, NewView, Page, PrePrepare, Unverified, ViewChange};

/// The place of a record in the journal: records are counted from 1, and 0 is before all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalPosition(pub u64);

impl JournalPosition {
    /// The next position.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// One record of the journal. Order is meaning: a record is durable only when all before it are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// The primary proposed, or a backup accepted, this batch. It holds every operation, those too that
    /// requests name, and the word of whoever accepted it that the requests are authentic.
    PrePrepared(PrePrepare),
    /// There was a prepared certificate: the promise behind a COMMIT.
    Prepared {
        /// The certificate's view.
        view: View,
        /// Its sequence number.
        sequence: Sequence,
        /// The batch's digest.
        digest: Digest,
    },
    /// The batch is committed-local and may be executed. No promise: it spares asking again.
    Committed {
        /// The view in which it committed.
        view: View,
        /// Its sequence number.
        sequence: Sequence,
        /// The batch's digest.
        digest: Digest,
    },
    /// Others committed this batch: it may be executed. No promise.
    Learned {
        /// The sequence number.
        sequence: Sequence,
        /// The batch.
        batch: Batch,
    },
    /// The state after this batch had this digest: the promise behind a CHECKPOINT, that the state
    /// can be brought back from what stands before in the journal.
    Checkpoint {
        /// The last batch in the state.
        sequence: Sequence,
        /// The digest of the whole replicated state.
        state: Digest,
    },
    /// 2f+1 replicas vouch for this state: the low watermark.
    Stable(Certificate),
    /// This replica left the views below: the promise behind a VIEW-CHANGE, to vote in them no more
    /// and to say nothing else about them.
    ViewChange(Unverified<ViewChange>),
    /// This replica entered the view: all that the NEW-VIEW chose is pre-prepared here as far as
    /// its batches are known.
    NewView(Unverified<NewView>),
    /// The next configuration is in force: what stands before is of the former one, and none of its
    /// promises binds any more.
    Succession(Box<Succession>),
    /// Clients whose tags are not taken, as the records say that a copy of the state supersedes.
    Marks {
        /// Those that f+1 replicas marked.
        bound: Vec<ClientId>,
        /// Those that this replica marked itself.
        suspected: Vec<ClientId>,
    },
    /// A copy of the whole state begins.
    SnapshotBegin {
        /// The last batch in the state.
        sequence: Sequence,
        /// What led to the configuration that the copy is made in.
        successions: Vec<Succession>,
    },
    /// A part of the copy.
    SnapshotPages {
        /// Pages that are not empty.
        pages: Vec<Page>,
    },
    /// The copy is complete, and proven to be stable; when this is durable, nothing before its
    /// beginning is needed for it.
    SnapshotEnd(Certificate),
}

/// Of a [`Succession`], about.
const SUCCESSION_BYTES: u64 = 2048;

impl Record {
    /// The bytes that the record takes up in a journal, about.
    pub(super) fn weight(&self) -> u64 {
        64 + match self {
            Self::PrePrepared(pre_prepare) => pre_prepare.batch.weight() as u64,
            Self::Learned { batch, .. } => batch.weight() as u64,
            Self::ViewChange(message) => message.bytes.len() as u64,
            Self::NewView(message) => message.bytes.len() as u64,
            Self::Succession(_) => SUCCESSION_BYTES,
            Self::SnapshotBegin { successions, .. } => successions.len() as u64 * SUCCESSION_BYTES,
            Self::Marks { bound, suspected } => 4 * (bound.len() + suspected.len()) as u64,
            Self::SnapshotPages { pages } => pages.iter().map(|page| page.bytes.len() as u64 + 16).sum(),
            _ => 0,
        }
    }
}
