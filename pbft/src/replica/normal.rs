//! The normal case: pre-prepare, prepare, commit, execute in order (TOCS 4.3).

use super::durable::Then;
use super::execution::Fresh;
use super::log::{Learned, Proposal, Vote};
use super::record::Record;
use super::separate::lacks_operations;
use super::{Action, Ignored, Misbehaviour, Replica};
use crate::crypto::{Digest, Principal};
use crate::group::{ClientId, ReplicaId, Sequence, View};
use crate::message::{
    Answer, Batch, Commit, LeafPath, Message, PrePrepare, Prepare, Reply, Seal, Sequenced, Speaker,
    Unverified, wire,
};
use crate::mutation::{self, Mutation};
use crate::service::Service;

/// Bytes of results after which a reply is sent and another one begun, so that frames stay small.
const REPLY_BYTES: usize = 1 << 18;

impl<S: Service> Replica<S> {
    /// Takes the primary's word on what belongs to a place, if the place is free.
    pub(super) fn on_pre_prepare(
        &mut self,
        from: ReplicaId,
        message: PrePrepare,
        digest: Digest,
        doubts: Vec<u32>,
    ) {
        if !self.is_ours(from, &message) {
            return;
        }
        let PrePrepare { view, sequence, .. } = message;
        let slot = self.log.slot(sequence).expect("checked to be between the watermarks");
        if let Some(first) = slot.proposed().filter(|first| *first != digest) {
            let (primary, second) = (from, digest);
            let misbehaviour =
                Misbehaviour::ConflictingPrePrepares { primary, view, sequence, first, second };
            return self.accuse(misbehaviour);
        }
        if self.is_changing() {
            return self.overhear(message, digest);
        }
        if sequence <= self.views.decided() {
            return self.on_chosen(from, sequence, digest, self.with_operations(message).batch);
        }
        if !self.log.is_free(sequence) {
            return self.put_aside(Ignored::Repeated);
        }
        let Some(message) = self.filled(message) else { return };
        let batch = &message.batch;
        let bound = u64::try_from(self.settings.time_ahead_max.as_nanos()).unwrap_or(u64::MAX);
        if batch.time > self.unix_now().saturating_add(bound) {
            // Sent again when asked for; by then one of the two clocks may have caught up.
            return self.put_aside(Ignored::TimeAhead);
        }
        // A signature is good for all or for none: no correct primary holds a request under a wrong one, and
        // nobody's word makes it one that every primary can order.
        let request = |index: &u32| batch.requests.get(*index as usize);
        let is_signed = |index: &u32| request(index).is_some_and(|request| request.is_signed());
        if doubts.iter().any(is_signed) {
            return self.put_aside(Ignored::Unproven);
        }
        let doubts = self.unproven(batch, doubts);
        if !doubts.is_empty() || lacks_operations(batch) {
            return self.keep_back(message, digest, doubts);
        }
        self.accept(message, digest);
    }

    /// Whether a message is of this view, of whom may send it, and about a place that is open.
    ///
    /// Whoever has left a view and not entered the next one listens on: what 2f+1 others committed
    /// is committed, and this replica need not fall behind while it waits.
    pub(super) fn is_ours<M: Sequenced>(&mut self, from: ReplicaId, message: &M) -> bool {
        let view = self.views.active();
        let primary = self.group.primary(view);
        let may_speak = match M::SPEAKER {
            Speaker::Primary => from == primary,
            Speaker::Backup => {
                let chosen = message.sequence() <= self.views.decided();
                (from != primary || chosen) && !self.is_changing()
            }
            Speaker::Anyone => true,
        };
        let reason = if message.view() != view && !mutation::is_on(Mutation::AcceptWrongView) {
            Ignored::WrongView
        } else if !may_speak {
            Ignored::NotForUs
        } else if !self.log.has(message.sequence()) {
            Ignored::OutsideWindow // one of us lags: nobody's fault
        } else {
            return true;
        };
        self.put_aside(reason);
        false
    }

    pub(super) fn batch_digest(&self, batch: &Batch) -> Digest {
        batch.digest(self.keychain.scope())
    }

    /// A pre-prepare with all that is here of the operations that it names; none when it breaks a limit, of
    /// which its primary is accused.
    pub(super) fn filled(&mut self, message: PrePrepare) -> Option<PrePrepare> {
        let message = self.with_operations(message);
        let Err(field) = self.check_limits(&message.batch) else { return Some(message) };
        let (primary, sequence) = (self.group.primary(message.view), message.sequence);
        self.accuse(Misbehaviour::OversizedBatch { primary, sequence, field });
        None
    }

    /// Names the limit that a batch breaks, as far as it is here.
    fn check_limits(&self, batch: &Batch) -> Result<(), &'static str> {
        let limits = &self.configuration.limits;
        let mut operations = 0;
        for request in batch.requests.iter() {
            operations += request.body.count();
            self.check_request(request)?;
        }
        if operations > limits.batch_operations_max as usize {
            return Err("number of operations");
        }
        // One request alone may take more than a batch; its own limits bound it.
        let alone = match &batch.requests[..] {
            [request] => wire::BATCH_FIELDS_BYTES + request.batched_bytes(),
            _ => 0,
        };
        if batch.weight() > alone.max(limits.batch_bytes_max as usize) {
            return Err("number of bytes");
        }
        Ok(())
    }

    /// Keeps a batch of the view that this replica has left, in case 2f+1 others commit it.
    fn overhear(&mut self, message: PrePrepare, digest: Digest) {
        let sequence = message.sequence;
        if !self.log.is_free(sequence) {
            return self.put_aside(Ignored::Repeated);
        }
        let Some(message) = self.filled(message) else { return };
        if !message.batch.is_whole() {
            return self.put_aside(Ignored::Incomplete);
        }
        let slot = self.log.slot_mut(sequence).expect("checked to be between the watermarks");
        slot.proposal = Some(Proposal { pre_prepare: message, digest });
        self.check_committed(sequence);
    }

    /// Binds a place to a batch. From here on this replica never takes another one there in this
    /// view, also after a crash: so the record comes before the word.
    pub(super) fn accept(&mut self, pre_prepare: PrePrepare, digest: Digest) {
        let PrePrepare { view, sequence, .. } = pre_prepare;
        self.bind(pre_prepare.clone(), digest);
        let forgets = mutation::is_on(Mutation::ForgetOperations);
        let record = if forgets { pre_prepare.in_brief() } else { pre_prepare };
        let position = self.append(Record::PrePrepared(record), None);
        self.log.slot_mut(sequence).expect("just bound").note_position(position);
        self.once_durable(Then::SendProposal(view, sequence));
        self.check_prepared(sequence);
    }

    /// What [`accept`](Self::accept) does, for a batch whose record the caller writes.
    pub(super) fn bind(&mut self, pre_prepare: PrePrepare, digest: Digest) {
        let PrePrepare { view, sequence, .. } = pre_prepare;
        let (me, votes) = (self.me, !self.is_primary() || sequence <= self.views.decided());
        assert!(view == self.view && !self.is_changing(), "nothing is promised in a view that was left");
        let slot = self.log.slot_mut(sequence).expect("between the watermarks");
        assert!(slot.proposal.is_none(), "a place is bound once in a view");
        slot.doubted = None;
        slot.past.pre_prepare(view, digest, &pre_prepare.batch);
        slot.proposal = Some(Proposal { pre_prepare, digest });
        if votes {
            // Counted already: whatever follows from it has its record after this one.
            slot.prepares.record(me, &digest);
        }
        self.views.proposed(sequence);
        self.start_view_timer();
    }

    /// The record of the proposal is durable.
    pub(super) fn proposal_is_durable(&mut self, view: View, sequence: Sequence) {
        if (self.view, self.views.active()) != (view, view) {
            return;
        }
        // What a NEW-VIEW chose, everybody prepares.
        let chosen = sequence <= self.views.decided();
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        let Some(Proposal { pre_prepare, digest }) = &slot.proposal else { return };
        slot.proposal_durable = true;
        let digest = *digest;
        if chosen || self.group.primary(view) != self.me {
            self.broadcast(Message::Prepare(Prepare { view, sequence, digest }));
        } else {
            let pre_prepare = pre_prepare.clone();
            self.broadcast_proposal(pre_prepare, &digest);
        }
    }

    /// Keeps a PRE-PREPARE as it came, if it is the first one that counts in its place.
    pub(super) fn keep_word(&mut self, word: Unverified<PrePrepare>, digest: Digest) {
        let (active, view, sequence) = (self.views.active(), word.body.view, word.body.sequence);
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        let counts = slot.proposed() == Some(digest);
        let of_primary = word.sender == Principal::Replica(self.group.primary(active));
        if view != active || !of_primary || !counts || slot.word.is_some() {
            return;
        }
        slot.word = Some(word);
        for other in self.group.replicas() {
            self.show_conflict(sequence, other);
        }
    }

    /// Shows the primary's word to a backup that prepared another batch. Its tags are for all, so the
    /// other one can check its own: if both were told what they say, both have the primary's two words,
    /// and f+1 that accuse it are found where otherwise only its odd victim would. Once for each vote.
    fn show_conflict(&mut self, sequence: Sequence, other: ReplicaId) {
        let Some(slot) = self.log.slot(sequence) else { return };
        let (Some(proposed), Some(word)) = (slot.proposed(), &slot.word) else { return };
        let differs = slot.prepares.choice(other).is_some_and(|choice| choice != proposed);
        let backup = other != self.me && Principal::Replica(other) != word.sender;
        if differs && backup && !mutation::is_on(Mutation::HideConflicts) {
            let message = word.clone().into_message(Message::PrePrepare);
            self.actions.push_back(Action::Send { to: Principal::Replica(other), message });
        }
    }

    /// Counts a backup's vote that a place holds a batch.
    pub(super) fn on_prepare(&mut self, from: ReplicaId, message: Prepare) {
        if !self.is_ours(from, &message) {
            return;
        }
        let Prepare { view, sequence, digest } = message;
        let slot = self.log.slot_mut(sequence).expect("checked to be between the watermarks");
        let vote = slot.prepares.record(from, &digest);
        if vote == Vote::Counted {
            self.show_conflict(sequence, from);
        }
        let slot = self.log.slot_mut(sequence).expect("checked to be between the watermarks");
        match vote {
            Vote::Counted if slot.doubted.is_some() => self.settle_doubts(sequence),
            Vote::Counted => self.check_prepared(sequence),
            Vote::Repeated => self.put_aside(Ignored::Repeated),
            Vote::Conflicting => {
                self.accuse(Misbehaviour::ConflictingVotes { replica: from, view, sequence });
            }
        }
    }

    /// Upon 2f matching prepares: the promise becomes durable before anyone hears of it. A replica
    /// that restarted without it could leave it out of a view change, and a new view could then
    /// drop a committed batch (TOCS 4.5).
    fn check_prepared(&mut self, sequence: Sequence) {
        // A NEW-VIEW is nobody's word that the batch is there: where it chose, 2f+1 have to say so, so that
        // f+1 correct ones can bring it into later views (condition A2).
        let chosen = sequence <= self.views.decided();
        let needed = if chosen { self.group.quorum() } else { self.group.prepare_quorum() };
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        if slot.prepared || !slot.has_prepare_quorum(needed) {
            return;
        }
        slot.prepared = true;
        let proposal = slot.proposal.as_ref().expect("a certificate has a proposal");
        let (view, digest) = (proposal.pre_prepare.view, proposal.digest);
        slot.past.prepare(view, digest);
        let record = Record::Prepared { view, sequence, digest };
        self.append(record, Some(Then::SendCommit(view, sequence)));
    }

    /// The record of the prepared certificate is durable. Only now may this replica's own commit
    /// count: a committed batch must be on the disks of f+1 correct replicas.
    pub(super) fn prepared_is_durable(&mut self, view: View, sequence: Sequence) {
        let me = self.me;
        if (self.view, self.views.active()) != (view, view) {
            return;
        }
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        let Some(proposal) = &slot.proposal else { return };
        slot.prepared_durable = true;
        let digest = proposal.digest;
        slot.commits.record(me, &digest);
        self.broadcast(Message::Commit(Commit { view, sequence, digest }));
        self.check_committed(sequence);
    }

    /// Counts a replica's word that it prepared a batch.
    pub(super) fn on_commit(&mut self, from: ReplicaId, message: Commit) {
        if !self.is_ours(from, &message) {
            return;
        }
        let Commit { view, sequence, digest } = message;
        let slot = self.log.slot_mut(sequence).expect("checked to be between the watermarks");
        match slot.commits.record(from, &digest) {
            Vote::Counted => self.check_committed(sequence),
            Vote::Repeated if mutation::is_on(Mutation::CountSenderTwice) => {
                slot.commits.record(ReplicaId(crate::group::REPLICAS_MAX), &digest);
                self.check_committed(sequence);
            }
            Vote::Repeated => self.put_aside(Ignored::Repeated),
            Vote::Conflicting => {
                self.accuse(Misbehaviour::ConflictingVotes { replica: from, view, sequence });
            }
        }
    }

    /// Upon 2f+1 matching commits and a prepared certificate: committed-local. Whoever has left the
    /// view has no vote of its own in it, and needs none.
    pub(super) fn check_committed(&mut self, sequence: Sequence) {
        let (mut needed, me) = (self.group.quorum(), self.me);
        if mutation::is_on(Mutation::CommitAtTwoF) {
            needed -= 1;
        }
        let changing = self.is_changing();
        let Some(slot) = self.log.slot_mut(sequence) else { return };
        if slot.committed || !slot.has_commit_quorum(needed) {
            return;
        }
        let proposal = slot.proposal.as_ref().expect("a certificate has a proposal");
        let (view, digest) = (proposal.pre_prepare.view, proposal.digest);
        if !slot.prepared_durable {
            if changing {
                let batch = proposal.pre_prepare.batch.clone();
                self.learn_batch(sequence, digest, batch);
            }
            return;
        }
        assert!(slot.commits.voters_for(&digest).has(me), "one's own commit is counted first");
        slot.committed = true;
        slot.known = Some(digest);
        // Nobody waits for it: whoever loses it asks again.
        self.append(Record::Committed { view, sequence, digest }, None);
        self.execute_committed();
    }

    /// Executes what is committed without a gap.
    pub(super) fn execute_committed(&mut self) {
        loop {
            let mut sequence = self.executed().next();
            if mutation::is_on(Mutation::ExecuteOutOfOrder) {
                let committed =
                    self.log.proposals().find(|(place, slot, _)| *place >= sequence && slot.committed);
                sequence = committed.map_or(sequence, |(place, ..)| place);
            }
            let Some(slot) = self.log.slot(sequence) else { return };
            let batch = match (&slot.learned, &slot.proposal) {
                (Learned::Durable(batch), _) => batch.clone(),
                (_, Some(proposal)) if slot.committed => proposal.pre_prepare.batch.clone(),
                _ => return,
            };
            let mut fresh = Vec::with_capacity(batch.requests.len());
            let members = (&self.configuration, &self.keychain);
            self.execution.execute(sequence, &batch, members, &mut fresh);
            self.close_log();
            self.retransmission.moved();
            self.on_progress(&batch);
            if !self.checkpoints.is_replaying() && self.may_answer() {
                self.reply(&batch, &fresh);
                if batch.seal {
                    self.seal(sequence, &batch, &fresh);
                }
            }
            if sequence.0.is_multiple_of(self.configuration.limits.checkpoint_period) {
                self.take_checkpoint();
            }
        }
    }

    /// Answers what a batch executed: one reply for neighbours of one client.
    fn reply(&mut self, batch: &Batch, fresh: &[Fresh]) {
        for group in fresh.chunk_by(|a, b| (a.client, a.incarnation) == (b.client, b.incarnation)) {
            let (client, incarnation) = (group[0].client, group[0].incarnation);
            if self.execution.table().incarnation(client) != incarnation {
                continue; // closed by a later request of the same batch
            }
            let mut answers = Vec::with_capacity(group.len());
            let mut bytes = 0;
            for operation in group {
                let full = batch.requests[operation.request].body.replier == self.me;
                let Some(answer) = self.execution.table().answer(client, operation.timestamp, full) else {
                    continue; // a later request of the same batch moved the floor past it
                };
                bytes += answer.weight();
                answers.push(answer);
                if bytes >= REPLY_BYTES {
                    bytes = 0;
                    self.send_answers(client, std::mem::take(&mut answers));
                }
            }
            self.send_answers(client, answers);
        }
    }

    /// Sends answers to a client's present incarnation.
    pub(super) fn send_answers(&mut self, client: ClientId, answers: Vec<Answer>) {
        if answers.is_empty() {
            return;
        }
        let incarnation = self.execution.table().incarnation(client);
        let reply = Reply { view: self.views.active(), client, incarnation, answers };
        self.send_to_client(client, Message::Reply(reply));
    }

    /// Signs the history's root after a sealed batch for the clients that asked for it.
    fn seal(&mut self, sequence: Sequence, batch: &Batch, fresh: &[Fresh]) {
        let asked: Vec<_> =
            fresh.iter().filter(|operation| batch.requests[operation.request].body.receipt).collect();
        if asked.is_empty() {
            return; // a primary that seals for nothing costs nobody a signature
        }
        let history = self.execution.history();
        let (size, root) = (history.size(), history.root());
        let signature = self.sign_root(sequence, size, &root);
        for group in asked.chunk_by(|a, b| (a.client, a.incarnation) == (b.client, b.incarnation)) {
            let (client, incarnation) = (group[0].client, group[0].incarnation);
            let paths = group
                .iter()
                .filter_map(|operation| {
                    let timestamp = operation.timestamp;
                    let position = self.execution.table().answer(client, timestamp, false)?.position;
                    let path = self.execution.history().path(position)?;
                    Some(LeafPath { timestamp, position, path })
                })
                .collect();
            let signature = signature.clone();
            let seal = Seal { client, incarnation, sequence, size, root, signature, paths };
            self.admission.keep_seal(&seal);
            self.send_to_client(client, Message::Seal(seal));
        }
    }
}
