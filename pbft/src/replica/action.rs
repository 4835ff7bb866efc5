//! What a replica wants done, and what it has to say about others.

use super::record::{JournalPosition, Record};
use crate::crypto::{Digest, Principal};
use crate::evidence::Evidence;
use crate::group::{ReplicaId, Sequence, View, Voters};
use crate::message::{Message, Unverified};

/// Something that a driver does for a replica.
///
/// The rule on order: carry actions out in the order in which they come. Sends may overtake one
/// another and may be lost, and an [`Action::Append`] may be written at leisure: whatever has to
/// wait for the disk is held back inside the replica until [`handle_durable`] says that the record
/// behind it is safe. So a driver that sends at once and syncs when it likes cannot go wrong.
///
/// [`handle_durable`]: super::Replica::handle_durable
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send to one principal. Nothing need be durable any more: a message that is a promise
    /// (PRE-PREPARE, PREPARE, COMMIT, CHECKPOINT, VIEW-CHANGE, NEW-VIEW) only comes out after its
    /// record was durable, and the others (REPLY, BUSY, SEAL, STATUS, FETCH, META-DATA, DATA, STABLE, WANT, BODY,
    /// VOUCH, DOUBT, a relayed REQUEST) promise nothing: a REPLY tells of a batch that 2f+1 replicas hold prepared
    /// on their disks.
    Send {
        /// The receiver.
        to: Principal,
        /// What to send.
        message: Unverified<Message>,
    },
    /// Send to all other replicas, under the same rule as [`Action::Send`].
    Broadcast {
        /// What to send.
        message: Unverified<Message>,
    },
    /// Append a record to the journal. Records are written in the order of their positions, without
    /// gaps. When this one and all before it would survive a crash, call `handle_durable`; one
    /// call, and one sync, may cover any number of records.
    Append {
        /// The record's place.
        position: JournalPosition,
        /// The record.
        record: Record,
    },
    /// Nothing before this position is needed any more. A hint: it comes after what supersedes
    /// those records was durable, and dropping them may be put off for any time, or forgotten.
    Truncate {
        /// The first position that is still needed.
        before: JournalPosition,
    },
    /// Somebody broke the protocol. For the user to keep and show; nothing depends on it. Of each
    /// kind it is said once about a replica: a second time would tell nothing new, and liars do not
    /// tire.
    Evidence(Evidence),
}

/// What somebody did wrong as far as it rests on MACs, which convince only the replica that checked
/// them. What can be proven is a [`Lie`](crate::evidence::Lie).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// The primary proposed two batches for one place.
    #[error("replica {primary} proposed both {first:?} and {second:?} for {sequence} in view {view}")]
    ConflictingPrePrepares {
        /// Who did.
        primary: ReplicaId,
        /// In which view.
        view: View,
        /// For which place.
        sequence: Sequence,
        /// The batch that came first, and that counts.
        first: Digest,
        /// The other one.
        second: Digest,
    },
    /// A replica voted for two batches in one place.
    #[error("replica {replica} voted for two batches at {sequence} in view {view}")]
    ConflictingVotes {
        /// Who did.
        replica: ReplicaId,
        /// In which view.
        view: View,
        /// At which place.
        sequence: Sequence,
    },
    /// The primary proposed a batch that breaks the configuration's limits.
    #[error("replica {primary} proposed a batch at {sequence} whose {field} is over its limit")]
    OversizedBatch {
        /// Who did.
        primary: ReplicaId,
        /// At which place.
        sequence: Sequence,
        /// Which limit.
        field: &'static str,
    },
    /// A replica sent pages or digests that are not those of the state that was asked for.
    #[error("replica {replica} sent a wrong state for checkpoint {sequence}")]
    WrongState {
        /// Who did.
        replica: ReplicaId,
        /// For which checkpoint.
        sequence: Sequence,
    },
    /// More than f replicas have states that differ from the rest: no state can get 2f+1 votes any more. This
    /// replica has halted: it orders and answers nothing until the operator begins the group anew.
    #[error("halted: no state after batch {sequence} can get 2f+1 votes any more, they are {states:?}")]
    Split {
        /// After which batch.
        sequence: Sequence,
        /// The states, and who vouches for each.
        states: std::sync::Arc<[(Digest, Voters)]>,
    },
    /// The group's state takes up more than this replica may fetch. It waits for a later one.
    #[error("the state after batch {sequence} takes up more than transfer_bytes_max ({bytes_max}): raise it")]
    StateTooLarge {
        /// After which batch.
        sequence: Sequence,
        /// The limit.
        bytes_max: u64,
    },
    /// The group's state is not one that this replica's program reads. It waits for a later one.
    #[error("the state after batch {sequence} cannot be read: another version of the program wrote it")]
    UnreadableState {
        /// After which batch.
        sequence: Sequence,
    },
    /// This replica's own state differs from what a quorum vouches for. It serves nobody and
    /// repairs itself by state transfer.
    #[error("own state {ours:?} after batch {sequence} differs from the quorum's {theirs:?}")]
    Diverged {
        /// After which batch.
        sequence: Sequence,
        /// The digest here.
        ours: Digest,
        /// The quorum's.
        theirs: Digest,
    },
}

impl Misbehaviour {
    /// Who did wrong; none when it is this replica's own state that is wrong.
    #[must_use]
    pub fn culprit(&self) -> Option<ReplicaId> {
        match self {
            Self::ConflictingPrePrepares { primary, .. } | Self::OversizedBatch { primary, .. } => {
                Some(*primary)
            }
            Self::ConflictingVotes { replica, .. } | Self::WrongState { replica, .. } => Some(*replica),
            Self::StateTooLarge { .. }
            | Self::UnreadableState { .. }
            | Self::Split { .. }
            | Self::Diverged { .. } => None,
        }
    }

    /// A name that does not change.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ConflictingPrePrepares { .. } => "conflicting-pre-prepares",
            Self::OversizedBatch { .. } => "oversized-batch",
            Self::ConflictingVotes { .. } => "conflicting-votes",
            Self::WrongState { .. } => "wrong-pages",
            Self::Diverged { .. } => "diverged",
            Self::Split { .. } => "split",
            Self::StateTooLarge { .. } => "state-too-large",
            Self::UnreadableState { .. } => "unreadable-state",
        }
    }
}

/// Why a message was put aside; counted, and nobody's fault unless it grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ignored {
    /// The proof was missing or wrong.
    Unproven,
    /// The sender may not send this to us.
    NotForUs,
    /// It speaks of another view.
    WrongView,
    /// Its sequence number is outside the watermarks: one of us lags.
    OutsideWindow,
    /// It was known already.
    Repeated,
    /// The agreed time of a batch is too far ahead of the clock here.
    TimeAhead,
    /// A request, alone or in a pre-prepare, cannot be checked here, and too few others vouch for it.
    Doubted,
    /// A request, or a word about one, of a client that has to sign and did not.
    Unsigned,
    /// A request's shape breaks the limits.
    Oversized,
    /// A request is outside its client's window.
    OutsideClientWindow,
    /// A request is of an incarnation that a higher one closed.
    OldIncarnation,
    /// More came from one sender than it may send in that time.
    TooOften,
    /// A batch names operations that are not here.
    Incomplete,
    /// It asks for, or answers to, something that is not (any more) here.
    Stale,
    /// This replica has halted ([`Misbehaviour::Split`]).
    Halted,
}

impl Ignored {
    /// Whether nothing good can come of a message that is put aside for this reason, however far behind this
    /// replica is: who lags is sent a great deal that it cannot use yet, between what brings it up.
    pub(crate) fn is_waste(self) -> bool {
        match self {
            Self::Unproven
            | Self::Repeated
            | Self::Doubted
            | Self::Unsigned
            | Self::Oversized
            | Self::OutsideClientWindow
            | Self::OldIncarnation
            | Self::TooOften => true,
            Self::NotForUs
            | Self::WrongView
            | Self::OutsideWindow
            | Self::TimeAhead
            | Self::Incomplete
            | Self::Stale
            | Self::Halted => false,
        }
    }

    /// Every reason.
    pub const ALL: [Self; 15] = [
        Self::Unproven,
        Self::NotForUs,
        Self::WrongView,
        Self::OutsideWindow,
        Self::Repeated,
        Self::TimeAhead,
        Self::Doubted,
        Self::Unsigned,
        Self::Oversized,
        Self::OutsideClientWindow,
        Self::OldIncarnation,
        Self::TooOften,
        Self::Incomplete,
        Self::Stale,
        Self::Halted,
    ];
}
