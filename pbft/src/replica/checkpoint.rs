//! Taking checkpoints, their stability, and dropping what is older (TOCS 4.4).

use std::collections::{BTreeMap, VecDeque};

use super::durable::Then;
use super::execution::Image;
use super::log::{Ballot, Vote};
use super::record::Record;
use super::{Ignored, Misbehaviour, Replica};
use crate::crypto::{Digest, Domain, Kind, Principal, Signature};
use crate::group::{Configuration, ReplicaId, Sequence, Voters};
use crate::message::{Checkpoint, Message, Page, PageCursor, Space, root_statement};
use crate::mutation::{self, Mutation};
use crate::service::Service;

/// This replica's checkpoints, and what others say of theirs.
#[derive(Debug)]
pub(super) struct Checkpoints {
    /// Own ones, oldest first: the last two that are stable, the others above them. At most
    /// L / K + 2.
    own: VecDeque<Own>,
    /// What replicas vouch for; of each at most `votes_max`, its highest.
    votes: BTreeMap<Sequence, Ballot>,
    /// L / K + 2: a correct replica vouches for no more that another one could still need.
    votes_max: usize,
    stable: Sequence,
    /// The state here is not the quorum's.
    diverged: bool,
    /// A fetched state that the journal does not hold yet.
    fetched: Option<Sequence>,
    /// The journal is being replayed: nothing is said and nothing is signed.
    replaying: bool,
}

#[derive(Debug)]
struct Own {
    image: Image,
    /// Made when it is first sent.
    signature: Option<Signature>,
    durable: bool,
}

/// Bytes of pages in one record or one DATA message.
pub(super) const PAGES_BYTES: usize = 1 << 18;

impl Checkpoints {
    pub(super) fn new(configuration: &Configuration) -> Self {
        let limits = &configuration.limits;
        let kept = limits.window / limits.checkpoint_period + 2;
        Self {
            own: VecDeque::new(),
            votes: BTreeMap::new(),
            votes_max: usize::try_from(kept).expect("L is at most 2^21"),
            stable: Sequence(0),
            diverged: false,
            fetched: None,
            replaying: false,
        }
    }

    pub(super) fn is_replaying(&self) -> bool {
        self.replaying
    }

    pub(super) fn set_replaying(&mut self, replaying: bool) {
        self.replaying = replaying;
    }

    pub(super) fn has_diverged(&self) -> bool {
        self.diverged
    }

    /// The state at one of the own checkpoints that are kept.
    pub(super) fn image(&self, sequence: Sequence) -> Option<&Image> {
        self.own.iter().map(|own| &own.image).find(|image| image.sequence == sequence)
    }

    /// Own checkpoints that may be vouched for, above a sequence number.
    fn sendable(&self, above: Sequence) -> Vec<Sequence> {
        let own = self.own.iter().filter(|own| own.durable && own.image.sequence > above);
        own.map(|own| own.image.sequence).collect()
    }

    fn push(&mut self, image: Image, durable: bool) {
        self.own.push_back(Own { image, signature: None, durable });
    }

    /// Takes the place of all own ones.
    pub(super) fn restart_from(&mut self, image: Image, durable: bool) {
        self.own.clear();
        self.stable = image.sequence;
        self.diverged = false;
        self.fetched = (!durable).then_some(image.sequence);
        self.push(image, durable);
        self.votes = self.votes.split_off(&self.stable);
    }

    /// Counts this replica's own vote for all that it may vouch for.
    pub(super) fn vote_again(&mut self, me: ReplicaId) {
        for index in 0..self.own.len() {
            let (sequence, state) = (self.own[index].image.sequence, self.own[index].image.digest);
            self.record(me, sequence, &state);
        }
    }

    fn own_mut(&mut self, sequence: Sequence) -> Option<&mut Own> {
        self.own.iter_mut().find(|own| own.image.sequence == sequence)
    }

    /// Counts a vote; a voter's lowest is forgotten when it has too many.
    fn record(&mut self, voter: ReplicaId, sequence: Sequence, state: &Digest) -> Vote {
        let vote = self.votes.entry(sequence).or_default().record(voter, state);
        if vote == Vote::Counted {
            let has = |ballot: &Ballot| ballot.has_voter(voter);
            if self.votes.values().filter(|ballot| has(ballot)).count() > self.votes_max
                && let Some(lowest) = self.votes.values_mut().find(|ballot| has(ballot))
            {
                lowest.withdraw(voter);
                self.votes.retain(|_, ballot| !ballot.is_empty());
            }
        }
        vote
    }

    /// The highest checkpoint above `above` that `needed` replicas vouch for.
    pub(super) fn vouched(&self, above: Sequence, needed: u32) -> Option<(Sequence, Digest, Voters)> {
        self.votes.iter().rev().take_while(|(sequence, _)| **sequence > above).find_map(
            |(sequence, ballot)| {
                let (digest, voters) = ballot.winner(needed)?;
                Some((*sequence, digest, voters))
            },
        )
    }

    /// Moves up to a stable checkpoint; the one before stays, for whoever is fetching it.
    pub(super) fn settle(&mut self, stable: Sequence) {
        let before = self.stable;
        self.own.retain(|own| own.image.sequence >= before);
        self.stable = stable;
        self.votes = self.votes.split_off(&stable);
    }
}

impl<S: Service> Replica<S> {
    /// Takes a checkpoint of the state as it is. The CHECKPOINT is a promise that this state can be
    /// brought back from the disk, because others let go of the batches below once it is stable:
    /// so it leaves after its record, and with it every committed batch below, is durable.
    pub(super) fn take_checkpoint(&mut self) {
        let image = self.execution.image();
        let (sequence, state) = (image.sequence, image.digest);
        self.checkpoints.push(image, false);
        if !self.checkpoints.replaying {
            self.append(Record::Checkpoint { sequence, state }, Some(Then::SendCheckpoint(sequence)));
        }
    }

    /// The journal holds the record of an own checkpoint already.
    pub(super) fn replay_checkpoint(&mut self, sequence: Sequence, state: &Digest) {
        let me = self.me;
        if let Some(own) = self.checkpoints.own_mut(sequence) {
            own.durable = true;
            self.checkpoints.record(me, sequence, state);
        }
    }

    /// Writes down what was executed from the journal, but not vouched for before the crash.
    pub(super) fn resume_checkpoints(&mut self) {
        let own = self.checkpoints.own.iter().filter(|own| !own.durable);
        let unwritten: Vec<_> = own.map(|own| (own.image.sequence, own.image.digest)).collect();
        for (sequence, state) in unwritten {
            self.append(Record::Checkpoint { sequence, state }, Some(Then::SendCheckpoint(sequence)));
        }
    }

    /// Whether clients may be told what the state here says. A state that is not the group's
    /// answers nobody. Nor does one that a crash would take back: 2f+1 answers tell a client that
    /// every later quorum knows of its operation.
    pub(super) fn may_answer(&self) -> bool {
        !self.checkpoints.diverged && self.checkpoints.fetched.is_none()
    }

    pub(super) fn checkpoint_is_durable(&mut self, sequence: Sequence) {
        let me = self.me;
        if self.checkpoints.fetched == Some(sequence) {
            self.checkpoints.fetched = None;
        }
        let Some(own) = self.checkpoints.own_mut(sequence) else { return };
        own.durable = true;
        let state = own.image.digest;
        if let Some(message) = self.checkpoint_message(sequence) {
            self.broadcast(message);
        }
        self.checkpoints.record(me, sequence, &state);
        self.check_stable(sequence);
    }

    fn checkpoint_message(&mut self, sequence: Sequence) -> Option<Message> {
        let image = self.checkpoints.image(sequence)?;
        let (state, size, root) = (image.digest, image.size, image.root);
        let known = self.checkpoints.own_mut(sequence)?.signature.clone();
        let signature = known.unwrap_or_else(|| self.sign_root(sequence, size, &root));
        self.checkpoints.own_mut(sequence)?.signature = Some(signature.clone());
        Some(Message::Checkpoint(Checkpoint { sequence, state, size, root, signature }))
    }

    /// What receipts are made of. Without a history there is nothing to sign.
    pub(super) fn sign_root(&self, sequence: Sequence, size: u64, root: &Digest) -> Signature {
        if !self.configuration.history {
            return Signature(bytes::Bytes::new());
        }
        self.keychain.sign(Domain::new(Kind::Seal, 0), &root_statement(sequence, size, root))
    }

    /// Sends the own checkpoints above a sequence number to one replica again.
    pub(super) fn send_checkpoints(&mut self, to: ReplicaId, above: Sequence) {
        for sequence in self.checkpoints.sendable(above) {
            if let Some(message) = self.checkpoint_message(sequence) {
                self.send(Principal::Replica(to), message);
            }
        }
    }

    /// Counts a replica's word on the state after a batch.
    pub(super) fn on_checkpoint(&mut self, from: ReplicaId, message: &Checkpoint) {
        let Checkpoint { sequence, state, .. } = *message;
        let period = self.configuration.limits.checkpoint_period;
        if sequence <= self.log.low() && !self.checkpoints.diverged {
            return self.put_aside(Ignored::OutsideWindow);
        }
        if !sequence.0.is_multiple_of(period) {
            return self.put_aside(Ignored::NotForUs);
        }
        match self.checkpoints.record(from, sequence, &state) {
            Vote::Counted => {
                self.retransmission.wake(self.now);
                self.check_stable(sequence);
            }
            Vote::Repeated => self.put_aside(Ignored::Repeated),
            Vote::Conflicting => {
                self.accuse(Misbehaviour::ConflictingCheckpoints { replica: from, sequence });
            }
        }
    }

    /// Upon 2f+1 equal ones, the own among them.
    fn check_stable(&mut self, sequence: Sequence) {
        let Some(ballot) = self.checkpoints.votes.get(&sequence) else { return };
        let alone = mutation::is_on(Mutation::CollectTooEarly);
        let needed = if alone { 1 } else { self.group.quorum() };
        let Some((theirs, voters)) = ballot.winner(needed) else { return };
        let Some(own) = self.checkpoints.own.iter().find(|own| own.image.sequence == sequence) else {
            return; // not there yet, or left behind: the status timer finds out
        };
        let (ours, durable) = (own.image.digest, own.durable);
        if ours != theirs {
            if !self.checkpoints.diverged {
                self.checkpoints.diverged = true;
                self.accuse(Misbehaviour::Diverged { sequence, ours, theirs });
                self.start_transfer(sequence, theirs, voters);
            }
            return;
        }
        if durable && sequence > self.log.low() {
            self.make_stable(sequence, theirs);
        }
    }

    /// Lets go of what lies at or below a checkpoint that 2f+1 replicas can bring back.
    fn make_stable(&mut self, sequence: Sequence, state: Digest) {
        self.append(Record::Stable { sequence, state }, None);
        self.checkpoints.settle(sequence);
        self.log.advance(sequence);
        self.retransmission.moved();
        let due = self.settings.snapshot_bytes_min.max(self.outbox.snapshot_bytes);
        if self.outbox.bytes_since_snapshot >= due {
            self.write_snapshot(sequence);
        }
    }

    /// Writes a copy of the state at the low watermark into the journal. Once it is durable, what
    /// stands before it can go, but for proposals above it: they lead on from the copy, and are
    /// promises still. Which ones is decided now: by then their slots may be empty.
    pub(super) fn write_snapshot(&mut self, sequence: Sequence) {
        if !self.outbox.has_journal() {
            return;
        }
        let image = self.checkpoints.image(sequence).expect("the stable checkpoint is kept").clone();
        self.outbox.bytes_since_snapshot = 0;
        let begin = self.append(Record::SnapshotBegin { sequence }, None);
        let above = self.log.proposals().map(|(_, slot, _)| slot.position);
        let before = above.min().map_or(begin, |first| first.min(begin));
        let mut cursor = Some(PageCursor::default());
        while let Some(from) = cursor {
            let (pages, next) = image.pages(from, PAGES_BYTES);
            self.append(Record::SnapshotPages { pages }, None);
            cursor = next;
        }
        self.outbox.snapshot_bytes = std::mem::take(&mut self.outbox.bytes_since_snapshot);
        let end = Record::SnapshotEnd { sequence, state: image.digest };
        self.append(end, Some(Then::Truncate(before)));
    }
}

impl Image {
    /// The pages from `from` on, about `bytes` of them, and where the next ones begin.
    pub(super) fn pages(&self, from: PageCursor, bytes: usize) -> (Vec<Page>, Option<PageCursor>) {
        let mut pages = Vec::new();
        let (mut at, mut taken) = (from, 0);
        loop {
            let space = match at.space {
                Space::Protocol => &self.protocol,
                Space::Service => &self.service,
            };
            match space.next_page(at.index) {
                Some((index, page)) => {
                    at.index = index;
                    if taken > 0 && taken + page.len() > bytes {
                        return (pages, Some(at));
                    }
                    taken += page.len();
                    pages.push(Page { at, bytes: page });
                    at.index += 1;
                }
                None if at.space == Space::Protocol => {
                    at = PageCursor { space: Space::Service, index: 0 };
                }
                None => return (pages, None),
            }
        }
    }
}
