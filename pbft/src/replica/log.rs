//! The slots between the watermarks, and the votes that make certificates.

use std::collections::BTreeMap;

use super::past::Past;
use super::record::JournalPosition;
use super::vouching::Doubted;
use crate::crypto::Digest;
use crate::group::{ReplicaId, Sequence, Voters};
use crate::message::{Batch, Doubt, PrePrepare, Progress, Unverified};
use crate::mutation::{self, Mutation};

/// A ring of L slots: the one for `sequence` is at `sequence mod L`, so memory is bounded by L
/// whatever peers send, and a slot's buffers serve the next sequence number that falls on it.
#[derive(Debug)]
pub(super) struct Log {
    slots: Vec<Slot>,
    low: Sequence,
    /// The boundary of the configuration, once one is known: nothing is ordered beyond it.
    end: Option<Sequence>,
}

/// What is known about one sequence number in the current view.
#[derive(Debug, Default)]
pub(super) struct Slot {
    /// The batch that counts here; set once in a view.
    pub(super) proposal: Option<Proposal>,
    /// A pre-prepare that holds requests which are not authentic here, or names operations that are not
    /// here.
    pub(super) doubted: Option<Doubted>,
    /// What backups cannot check of the batch here: of each the first word.
    pub(super) doubts: BTreeMap<ReplicaId, Doubt>,
    /// The PRE-PREPARE behind the batch as it came, to be shown to whoever was told of another one.
    pub(super) word: Option<Unverified<PrePrepare>>,
    /// Votes of backups that the batch belongs here.
    pub(super) prepares: Ballot,
    /// Votes of replicas that hold a prepared certificate.
    pub(super) commits: Ballot,
    /// There is a prepared certificate: the pre-prepare and 2f matching prepares.
    pub(super) prepared: bool,
    /// 2f+1 matching commits, this replica's durable one among them, and a prepared certificate.
    pub(super) committed: bool,
    /// The record of the proposal is durable: PRE-PREPARE or PREPARE may be sent, and sent again.
    pub(super) proposal_durable: bool,
    /// The record of the prepared certificate is durable: COMMIT may be sent, and sent again.
    pub(super) prepared_durable: bool,
    /// What f+1 or 2f+1 others proved to be committed here, whatever was accepted here.
    pub(super) learned: Learned,
    /// What was committed or learned here, in whatever view.
    pub(super) known: Option<Digest>,
    /// Others' word on what is committed here, in whatever view.
    pub(super) attested: Ballot,
    /// What was accepted here in this view and in those before.
    pub(super) past: Past,
    /// The first record that speaks of this place, if there is one: it is needed as long as the
    /// place is above the low watermark.
    position: Option<JournalPosition>,
}

/// A committed batch that others told of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Learned {
    /// None.
    #[default]
    Nothing,
    /// It is being written down.
    Written(Batch),
    /// It survives a crash, and may be executed.
    Durable(Batch),
}

/// A batch in its place.
#[derive(Clone, Debug)]
pub(super) struct Proposal {
    pub(super) pre_prepare: PrePrepare,
    pub(super) digest: Digest,
}

impl Log {
    pub(super) fn new(window: u64, low: Sequence) -> Self {
        let window = usize::try_from(window).expect("L is at most 2^21");
        Self { slots: (0..window).map(|_| Slot::default()).collect(), low, end: None }
    }

    /// The low watermark: the last stable checkpoint.
    pub(super) fn low(&self) -> Sequence {
        self.low
    }

    /// The high watermark.
    pub(super) fn high(&self) -> Sequence {
        let high = Sequence(self.low.0 + self.slots.len() as u64);
        self.end.map_or(high, |end| high.min(end))
    }

    /// Nothing is ordered beyond `end` any more, if there is one.
    pub(super) fn close_at(&mut self, end: Option<Sequence>) {
        self.end = end;
    }

    /// Whether a sequence number is between the watermarks.
    pub(super) fn has(&self, sequence: Sequence) -> bool {
        let inside = sequence <= self.high() || mutation::is_on(Mutation::AcceptOutsideWindow);
        sequence > self.low && inside
    }

    fn index(&self, sequence: Sequence) -> Option<usize> {
        let index = sequence.0 % self.slots.len() as u64;
        self.has(sequence).then(|| usize::try_from(index).expect("below the number of slots"))
    }

    pub(super) fn slot(&self, sequence: Sequence) -> Option<&Slot> {
        self.index(sequence).map(|index| &self.slots[index])
    }

    pub(super) fn slot_mut(&mut self, sequence: Sequence) -> Option<&mut Slot> {
        self.index(sequence).map(|index| &mut self.slots[index])
    }

    /// Moves the low watermark up and empties the slots that fall out.
    pub(super) fn advance(&mut self, low: Sequence) {
        assert!(low >= self.low, "the low watermark never falls");
        let fallen = (low.0 - self.low.0).min(self.slots.len() as u64);
        for offset in 1..=fallen {
            let index = self.index(Sequence(self.low.0 + offset)).expect("in the old window");
            self.slots[index].clear();
        }
        self.low = low;
    }

    /// What [`Mutation::ForgetPromises`] does.
    pub(super) fn forget_uncommitted(&mut self) {
        self.slots.iter_mut().filter(|slot| !slot.committed).for_each(Slot::clear);
    }

    /// The pre-prepare that is kept back at a place.
    pub(super) fn kept_back(&self, sequence: Sequence) -> Option<&Doubted> {
        self.slot(sequence)?.doubted.as_ref()
    }

    pub(super) fn kept_back_mut(&mut self, sequence: Sequence) -> Option<&mut Doubted> {
        self.slot_mut(sequence)?.doubted.as_mut()
    }

    /// The places whose pre-prepare is kept back.
    pub(super) fn doubted(&self) -> impl Iterator<Item = Sequence> {
        let places = (self.low.0 + 1..=self.high().0).map(Sequence);
        places.filter(|place| self.kept_back(*place).is_some())
    }

    /// A view begins: nobody has said anything in it. What places held in earlier ones stays.
    pub(super) fn begin_view(&mut self) {
        self.slots.iter_mut().for_each(Slot::begin_view);
    }

    /// Whether a place between the watermarks has no batch in this view.
    pub(super) fn is_free(&self, sequence: Sequence) -> bool {
        self.slot(sequence).is_some_and(|slot| slot.proposal.is_none())
    }

    /// The slots between the watermarks, lowest first.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Sequence, &Slot)> {
        (self.low.0 + 1..=self.high().0).map(Sequence).filter_map(|place| Some((place, self.slot(place)?)))
    }

    /// The first record that is still needed.
    pub(super) fn first_position(&self) -> Option<JournalPosition> {
        self.slots().filter_map(|(_, slot)| slot.position).min()
    }

    /// The slots that have a proposal, lowest first.
    pub(super) fn proposals(&self) -> impl Iterator<Item = (Sequence, &Slot, &Proposal)> {
        (self.low.0 + 1..=self.high().0).filter_map(|sequence| {
            let slot = self.slot(Sequence(sequence))?;
            Some((Sequence(sequence), slot, slot.proposal.as_ref()?))
        })
    }
}

impl Slot {
    fn clear(&mut self) {
        self.begin_view();
        self.past.clear();
        self.position = None;
        self.learned = Learned::Nothing;
        self.known = None;
        self.attested = Ballot::default();
    }

    fn begin_view(&mut self) {
        let mut old = std::mem::take(self);
        self.prepares.reuse(&mut old.prepares);
        self.commits.reuse(&mut old.commits);
        (self.past, self.position) = (old.past, old.position);
        (self.learned, self.known, self.attested) = (old.learned, old.known, old.attested);
    }

    /// The batch that the view's primary proposed here first: the one that counts, or will count once
    /// its requests are authentic.
    pub(super) fn proposed(&self) -> Option<Digest> {
        let bound = self.proposal.as_ref().map(|proposal| proposal.digest);
        bound.or(self.doubted.as_ref().map(|doubted| doubted.digest))
    }

    /// Whether the batch of this place is known to be committed.
    pub(super) fn is_settled(&self) -> bool {
        self.committed || self.learned != Learned::Nothing
    }

    /// Whether nothing is left to do here in this view. What was learned elsewhere has to be agreed on
    /// again where the view has the same batch: others may need this replica's votes.
    pub(super) fn is_done(&self) -> bool {
        let bound = self.proposal.as_ref().map(|proposal| proposal.digest);
        self.committed || (self.learned != Learned::Nothing && bound != self.known)
    }

    /// A record at `position` speaks of this place.
    pub(super) fn note_position(&mut self, position: JournalPosition) {
        self.position.get_or_insert(position);
    }

    /// Whether 2f backups' votes stand behind the proposal.
    pub(super) fn has_prepare_quorum(&self, needed: u32) -> bool {
        let digest = self.proposal.as_ref().map(|proposal| &proposal.digest);
        digest.is_some_and(|digest| self.prepares.count(digest) >= needed)
    }

    /// Whether 2f+1 replicas say that they prepared the proposal.
    pub(super) fn has_commit_quorum(&self, needed: u32) -> bool {
        let digest = self.proposal.as_ref().map(|proposal| &proposal.digest);
        digest.is_some_and(|digest| self.commits.count(digest) >= needed)
    }

    /// How far the slot has come.
    pub(super) fn progress(&self) -> Progress {
        match (self.proposal.is_some(), self.prepared, self.is_done()) {
            (_, _, true) => Progress::Committed,
            (_, true, _) => Progress::Prepared,
            (true, ..) => Progress::PrePrepared,
            _ => Progress::Empty,
        }
    }

    /// Whether anything was heard about this sequence number.
    pub(super) fn is_touched(&self) -> bool {
        self.proposal.is_some()
            || self.doubted.is_some()
            || !self.doubts.is_empty()
            || self.attested.voters.count() > 0
            || self.prepares.voters.count() > 0
            || self.commits.voters.count() > 0
    }
}

/// Votes for digests; each voter counts once, for what it said first.
#[derive(Debug, Default)]
pub(super) struct Ballot {
    voters: Voters,
    /// At most one entry for each voter; nearly always a single one.
    votes: Vec<(Digest, Voters)>,
}

/// What became of a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vote {
    /// It counts.
    Counted,
    /// The voter has said so before.
    Repeated,
    /// The voter has said something else before; that counts, and this does not.
    Conflicting,
}

impl Ballot {
    pub(super) fn record(&mut self, voter: ReplicaId, digest: &Digest) -> Vote {
        if !self.voters.insert(voter) {
            let same = self.votes.iter().any(|(said, by)| said == digest && by.has(voter))
                && !mutation::is_on(Mutation::BlameRepeated);
            return if same { Vote::Repeated } else { Vote::Conflicting };
        }
        match self.votes.iter_mut().find(|(said, _)| said == digest) {
            Some((_, by)) => {
                by.insert(voter);
            }
            None => self.votes.push((*digest, Voters::from_iter([voter]))),
        }
        Vote::Counted
    }

    /// What a voter voted for.
    pub(super) fn choice(&self, voter: ReplicaId) -> Option<Digest> {
        self.votes.iter().find(|(_, by)| by.has(voter)).map(|(digest, _)| *digest)
    }

    /// How many voted for `digest`.
    pub(super) fn count(&self, digest: &Digest) -> u32 {
        self.voters_for(digest).count()
    }

    /// Who voted for `digest`.
    pub(super) fn voters_for(&self, digest: &Digest) -> Voters {
        let found = self.votes.iter().find(|(said, _)| said == digest);
        found.map(|(_, by)| *by).unwrap_or_default()
    }

    /// The digest with at least `needed` votes, and who gave them.
    pub(super) fn winner(&self, needed: u32) -> Option<(Digest, Voters)> {
        self.votes.iter().find(|(_, by)| by.count() >= needed).copied()
    }

    /// Who voted for what.
    pub(super) fn standings(&self) -> &[(Digest, Voters)] {
        &self.votes
    }

    /// Takes a voter's vote back.
    pub(super) fn withdraw(&mut self, voter: ReplicaId) {
        let keep = |voters: Voters| voters.iter().filter(|other| *other != voter).collect();
        self.voters = keep(self.voters);
        for (_, by) in &mut self.votes {
            *by = keep(*by);
        }
        self.votes.retain(|(_, by)| by.count() > 0);
    }

    /// Who has voted.
    #[cfg(feature = "sim")]
    pub(super) fn voters(&self) -> Voters {
        self.voters
    }

    /// Whether the replica has voted.
    pub(super) fn has_voter(&self, voter: ReplicaId) -> bool {
        self.voters.has(voter)
    }

    /// Counts what a voter says last: where only one thing can be true, it may correct itself.
    pub(super) fn replace(&mut self, voter: ReplicaId, digest: &Digest) {
        self.withdraw(voter);
        self.record(voter, digest);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.votes.is_empty()
    }

    /// Takes over the allocation of a ballot that is done with.
    fn reuse(&mut self, old: &mut Self) {
        self.votes = std::mem::take(&mut old.votes);
        self.votes.clear();
    }
}

#[cfg(feature = "sim")]
impl Log {
    /// Votes are at most one of each replica for each ballot of a slot; batches are those of all views,
    /// and one more each that is doubted, learned, overheard or kept as it came.
    pub(super) fn footprint(
        &self,
        configuration: &crate::group::Configuration,
    ) -> Vec<super::footprint::Held> {
        use super::footprint::{Held, batch_bytes_max};
        let (n, window) = (u64::from(configuration.n()), configuration.limits.window);
        let ballots = self.slots.iter().flat_map(|slot| [&slot.prepares, &slot.commits, &slot.attested]);
        let votes = ballots.map(|ballot| ballot.votes.len()).sum();
        let mut batches = Vec::new();
        for slot in &self.slots {
            batches.extend(slot.past.batches());
            batches.extend(slot.proposal.as_ref().map(|proposal| &proposal.pre_prepare.batch));
            batches.extend(slot.doubted.as_ref().map(|doubted| &doubted.pre_prepare.batch));
            batches.extend(slot.word.as_ref().map(|word| &word.body.batch));
            match &slot.learned {
                Learned::Written(batch) | Learned::Durable(batch) => batches.push(batch),
                Learned::Nothing => {}
            }
        }
        let batches_max = window * (super::CLAIMS_PER_PLACE_MAX as u64 + 4);
        let doubts = self.slots.iter().map(|slot| slot.doubts.len()).sum();
        let bytes = batches.iter().map(|batch| batch.weight()).sum();
        vec![
            Held::new("slots", self.slots.len(), window),
            Held::new("votes in slots", votes, 3 * n * window),
            Held::new("doubts in slots", doubts, n * window),
            Held::new("batches", batches.len(), batches_max),
            Held::new("bytes of batches", bytes, batches_max * batch_bytes_max(configuration)),
        ]
    }
}
