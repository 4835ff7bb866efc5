//! Coming back from the journal with everything that was promised.

use super::Replica;
use super::log::{Proposal, Slot};
use super::record::{JournalPosition, Record};
use super::settings::Settings;
use crate::crypto::{Digest, Keychain};
use crate::group::{ReplicaId, Sequence, View};
use crate::membership::Chain;
use crate::message::{Certificate, PrePrepare, Space};
use crate::mutation::{self, Mutation};
use crate::service::{Service, State};

/// Why a journal cannot be replayed. A replica whose journal is damaged must not come back under
/// its old key: it could contradict what it promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryFailed {
    /// A record speaks of a batch that no earlier record holds.
    #[error("journal record {position} speaks of batch {sequence}, which is not there")]
    MissingBatch {
        /// The record.
        position: JournalPosition,
        /// The batch.
        sequence: Sequence,
    },
    /// Two records bind one place to two batches.
    #[error("journal record {position} contradicts an earlier one about batch {sequence}")]
    Contradiction {
        /// The record.
        position: JournalPosition,
        /// The batch.
        sequence: Sequence,
    },
    /// The pages of a copy of the state are not the state that was written.
    #[error("the copy of the state after batch {sequence} is damaged")]
    Snapshot {
        /// The last batch in the state.
        sequence: Sequence,
    },
    /// Executing again gave another state than before: the service is not deterministic, or not
    /// the one that wrote the journal.
    #[error("state after batch {sequence} is {now:?}, but was {before:?}: the service has changed")]
    Diverged {
        /// The last batch in the state.
        sequence: Sequence,
        /// What the journal says.
        before: Digest,
        /// What came out now.
        now: Digest,
    },
    /// A NEW-VIEW decides nothing.
    #[error("journal record {position} begins a view from too few view-changes")]
    View {
        /// The record.
        position: JournalPosition,
    },
    /// Records are not in order, or something is missing between them.
    #[error("journal record {position} does not follow {previous}")]
    Gap {
        /// The record.
        position: JournalPosition,
        /// The one before it.
        previous: JournalPosition,
    },
}

impl std::fmt::Display for JournalPosition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl<S: Service> Replica<S> {
    /// A replica that comes back with what its journal holds: all records from the last
    /// [`Action::Truncate`](super::Action::Truncate) on, or from the first, in order. `chain` is the one
    /// that it began with: of the genesis alone, or the one that it joined by. Without records it is a
    /// replica that has never run before.
    ///
    /// It holds every promise that it made before, and asks the others for what it missed, a later
    /// view among it. The primary of the view that it was in goes on as such.
    ///
    /// # Errors
    /// When the records cannot be what this replica wrote.
    ///
    /// # Panics
    /// When the chain's end has no replica `me`, or the keychain is another's.
    pub fn recover(
        chain: &Chain,
        me: ReplicaId,
        keychain: Keychain,
        service: S,
        settings: Settings,
        records: impl IntoIterator<Item = (JournalPosition, Record)>,
    ) -> Result<Self, RecoveryFailed> {
        let mut replica = Self::begin(chain, me, keychain, service, settings);
        let records: Vec<_> = records.into_iter().collect();
        for pair in records.windows(2) {
            let (previous, position) = (pair[0].0, pair[1].0);
            if previous.next() != position {
                return Err(RecoveryFailed::Gap { position, previous });
            }
        }
        replica.checkpoints.set_replaying(true);
        let copied = replica.install_last_snapshot(&records)?;
        replica.seek_beginning();
        let outdated = replica.outdated(&records);
        let mut last = JournalPosition(0);
        for (position, record) in records {
            last = position;
            replica.outbox.bytes_since_snapshot += record.weight();
            if position >= outdated {
                replica.replay(position, record, copied)?;
            }
        }
        replica.checkpoints.set_replaying(false);
        replica.outbox.resume(last);
        if mutation::is_on(Mutation::ForgetPromises) {
            replica.log.forget_uncommitted();
        }
        // What was executed was prepared, and that is durable; that it was committed may be lost.
        let prepared = replica.log.slots().filter(|(_, slot)| slot.past.is_prepared());
        replica.reads_from = prepared.map(|(sequence, _)| sequence).max().unwrap_or_default();
        replica.resume_view();
        replica.resume_proposing(None);
        replica.resume_checkpoints();
        replica.succeed_if_due();
        replica.assert_invariants();
        Ok(replica)
    }

    /// Starts from the last copy of the state that is complete, and says where it begins.
    fn install_last_snapshot(
        &mut self,
        records: &[(JournalPosition, Record)],
    ) -> Result<JournalPosition, RecoveryFailed> {
        let end = records.iter().rposition(|(_, record)| matches!(record, Record::SnapshotEnd(_)));
        let Some(end) = end else {
            // Records go only when a copy of the state supersedes them.
            return match records.first() {
                Some((position, _)) if *position > JournalPosition(1) => {
                    Err(RecoveryFailed::Gap { position: *position, previous: JournalPosition(0) })
                }
                _ => Ok(JournalPosition(0)),
            };
        };
        let Record::SnapshotEnd(certificate) = &records[end].1 else { unreachable!("found as one above") };
        let Certificate { sequence, state, .. } = *certificate;
        let damaged = RecoveryFailed::Snapshot { sequence };
        let begin = records[..end]
            .iter()
            .rposition(|(_, record)| matches!(record, Record::SnapshotBegin { .. }))
            .ok_or(damaged)?;
        if let Record::SnapshotBegin { successions, .. } = &records[begin].1 {
            successions.iter().cloned().for_each(|succession| self.replay_succession(succession));
        }
        let (mut protocol, mut service) = (State::default(), State::default());
        for (_, record) in &records[begin..end] {
            let Record::SnapshotPages { pages } = record else { continue };
            for page in pages {
                match page.at.space {
                    Space::Protocol => protocol.write(page.at.index, &page.bytes),
                    Space::Service => service.write(page.at.index, &page.bytes),
                }
            }
        }
        let goal = (sequence, state);
        let image = self.execution.install(&self.configuration, goal, protocol, service).ok_or(damaged)?;
        self.checkpoints.restart_from(image, certificate.clone(), true);
        self.checkpoints.vote_again(self.me);
        self.log.advance(sequence);
        self.close_log();
        Ok(records[begin].0)
    }

    /// Where the records of the configuration in force begin: those before were promises in another one.
    fn outdated(&self, records: &[(JournalPosition, Record)]) -> JournalPosition {
        let number = self.configuration.number;
        let entered = records.iter().rev().find(
            |(_, record)| matches!(record, Record::Succession(other) if other.reconfigure.number <= number),
        );
        entered.map_or(JournalPosition(0), |(position, _)| *position)
    }

    /// Does again what a record says was done.
    fn replay(
        &mut self,
        position: JournalPosition,
        record: Record,
        copied: JournalPosition,
    ) -> Result<(), RecoveryFailed> {
        match record {
            Record::PrePrepared(pre_prepare) => self.replay_proposal(position, pre_prepare)?,
            Record::Prepared { view, sequence, digest } => {
                let me = self.me;
                if let Some(slot) = self.replay_slot(position, view, sequence, &digest)? {
                    slot.past.prepare(view, digest);
                    slot.prepared = true;
                    slot.prepared_durable = true;
                    slot.commits.record(me, &digest);
                }
            }
            Record::Committed { view, sequence, digest } => {
                if let Some(slot) = self.replay_slot(position, view, sequence, &digest)? {
                    slot.committed = true;
                    slot.known = Some(digest);
                }
                self.execute_committed();
            }
            Record::Learned { sequence, batch } => {
                self.replay_learned(position, sequence, batch);
                self.execute_committed();
            }
            // From before the copy: of a state that was perhaps replaced because it was wrong.
            Record::Checkpoint { .. } if position < copied => {}
            Record::Checkpoint { sequence, state } => {
                self.compare_image(sequence, state)?;
                self.replay_checkpoint(sequence, &state);
            }
            Record::Stable(certificate) => {
                let sequence = certificate.sequence;
                if sequence > self.log.low() {
                    if sequence > self.executed() {
                        return Err(RecoveryFailed::MissingBatch { position, sequence });
                    }
                    self.compare_image(sequence, certificate.state)?;
                    self.checkpoints.settle(certificate);
                    self.log.advance(sequence);
                }
            }
            Record::ViewChange(own) => self.replay_view_change(own),
            Record::NewView(message) => {
                self.replay_new_view(position, message).ok_or(RecoveryFailed::View { position })?;
            }
            Record::Succession(_) if mutation::is_on(Mutation::ForgetSuccession) => {}
            Record::Succession(succession) => self.replay_succession(*succession),
            Record::Marks { bound, suspected } => self.replay_marks(&bound, &suspected),
            Record::SnapshotBegin { .. } | Record::SnapshotPages { .. } | Record::SnapshotEnd(_) => {}
        }
        Ok(())
    }

    /// What the journal says of a state has to be what comes out again.
    fn compare_image(&self, sequence: Sequence, before: Digest) -> Result<(), RecoveryFailed> {
        match self.checkpoints.image(sequence).map(|image| image.digest) {
            Some(now) if now != before => Err(RecoveryFailed::Diverged { sequence, before, now }),
            _ => Ok(()),
        }
    }

    fn replay_proposal(
        &mut self,
        position: JournalPosition,
        pre_prepare: PrePrepare,
    ) -> Result<(), RecoveryFailed> {
        let PrePrepare { view, sequence, .. } = pre_prepare;
        let digest = self.batch_digest(&pre_prepare.batch);
        self.replay_view(view);
        if sequence <= self.log.low() {
            return Ok(()); // in the copy of the state already
        }
        let slot = self.log.slot_mut(sequence).ok_or(RecoveryFailed::MissingBatch { position, sequence })?;
        slot.note_position(position);
        match &slot.proposal {
            Some(known) if known.digest != digest => {
                return Err(RecoveryFailed::Contradiction { position, sequence });
            }
            Some(_) => {}
            None => self.replay_bound(pre_prepare, digest),
        }
        Ok(())
    }

    /// Binds a place to a batch, as it was before.
    pub(super) fn replay_bound(&mut self, pre_prepare: PrePrepare, digest: Digest) {
        let PrePrepare { view, sequence, .. } = pre_prepare;
        let votes = self.group.primary(view) != self.me || sequence <= self.views.decided();
        let me = self.me;
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        slot.past.pre_prepare(view, digest, &pre_prepare.batch);
        slot.proposal = Some(Proposal { pre_prepare, digest });
        slot.proposal_durable = true;
        if votes {
            slot.prepares.record(me, &digest);
        }
    }

    /// The slot that a vote was about; none when a copy of the state has it already.
    fn replay_slot(
        &mut self,
        position: JournalPosition,
        view: View,
        sequence: Sequence,
        digest: &Digest,
    ) -> Result<Option<&mut Slot>, RecoveryFailed> {
        self.replay_view(view);
        if sequence <= self.log.low() {
            return Ok(None);
        }
        let missing = RecoveryFailed::MissingBatch { position, sequence };
        let slot = self.log.slot_mut(sequence).ok_or(missing)?;
        let proposal = slot.proposal.as_ref().ok_or(missing)?;
        if proposal.digest != *digest {
            return Err(RecoveryFailed::Contradiction { position, sequence });
        }
        Ok(Some(slot))
    }
}
