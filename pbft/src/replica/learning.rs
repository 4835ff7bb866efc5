//! Learning what others committed, where one's own votes do not get there.
//!
//! A replica that was told of another batch than the rest, or that left a view alone, gets no prepared
//! certificate of its own. It need not wait for the next checkpoint:
//!
//! * *upon 2f+1 COMMITs of a view that it has left*, for a batch that it heard: the batch is committed.
//! * *upon f+1 COMMITTED for a place*: one of the senders is correct, so the batch is committed; ask for
//!   it if it is not here.
//! * *when that is written down*: execute it in its turn, and answer. Written down before executed: the
//!   promise behind an answer is that a crash does not take it back.
//!
//! What is learned is no vote: P and Q know nothing of it, and nobody is sent a PREPARE or COMMIT for
//! it. The paper has no such rule; there, such a replica waits for the next stable checkpoint.

use super::durable::Then;
use super::log::Learned;
use super::record::Record;
use super::{Ignored, Replica};
use crate::crypto::Digest;
use crate::group::{ReplicaId, Sequence};
use crate::message::{Batch, Committed, Message, Want};
use crate::service::Service;

impl<S: Service> Replica<S> {
    /// Hears that a batch is committed in some view.
    pub(super) fn on_committed(&mut self, from: ReplicaId, message: Committed) {
        let Committed { sequence, digest } = message;
        let executed = self.executed();
        let Some(slot) = self.log.slot_mut(sequence).filter(|slot| sequence > executed && !slot.is_settled())
        else {
            return self.put_aside(Ignored::Stale);
        };
        slot.attested.replace(from, &digest);
        self.check_attested(sequence);
    }

    /// Upon f+1 who say the same.
    fn check_attested(&mut self, sequence: Sequence) {
        let needed = self.group.weak_quorum();
        let Some(slot) = self.log.slot(sequence) else { return };
        let Some((digest, _)) = slot.attested.winner(needed) else { return };
        let heard = slot.proposal.as_ref().filter(|proposal| proposal.digest == digest);
        let heard = heard.map(|proposal| proposal.pre_prepare.batch.clone());
        match heard.or_else(|| self.known_batch(sequence, &digest)) {
            Some(batch) => self.learn_batch(sequence, digest, batch),
            None => self.broadcast(Message::Want(Want { sequence, digest })),
        }
    }

    /// Whether f+1 say that a place holds a batch which is not here.
    pub(super) fn is_attested(&self, sequence: Sequence, digest: &Digest) -> bool {
        self.log
            .slot(sequence)
            .is_some_and(|slot| !slot.is_settled() && slot.attested.count(digest) >= self.group.weak_quorum())
    }

    /// A place holds this batch for good.
    pub(super) fn learn_batch(&mut self, sequence: Sequence, digest: Digest, batch: Batch) {
        let executed = self.executed();
        let Some(slot) = self.log.slot_mut(sequence).filter(|slot| !slot.is_settled()) else { return };
        slot.known = Some(digest);
        if sequence <= executed {
            return;
        }
        slot.learned = Learned::Written(batch.clone());
        let position = self.append(Record::Learned { sequence, batch }, None);
        self.log.slot_mut(sequence).expect("found above").note_position(position);
        self.once_durable(Then::Execute(sequence));
    }

    pub(super) fn learned_is_durable(&mut self, sequence: Sequence) {
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        if let Learned::Written(batch) = std::mem::take(&mut slot.learned) {
            slot.learned = Learned::Durable(batch);
            self.execute_committed();
        }
    }

    /// The journal says what others committed.
    pub(super) fn replay_learned(
        &mut self,
        position: super::JournalPosition,
        sequence: Sequence,
        batch: Batch,
    ) {
        let digest = self.batch_digest(&batch);
        if let Some(slot) = self.log.slot_mut(sequence) {
            slot.note_position(position);
            slot.known = Some(digest);
            slot.learned = Learned::Durable(batch);
        }
    }
}
