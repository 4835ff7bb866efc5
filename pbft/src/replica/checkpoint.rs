//! Taking checkpoints, their stability, and dropping what is older (TOCS 4.4).

use std::collections::{BTreeMap, VecDeque};

use super::durable::Then;
use super::execution::Image;
use super::log::{Ballot, Vote};
use super::record::Record;
use super::{Ignored, Misbehaviour, Replica};
use crate::crypto::{Digest, Domain, Kind, Principal, Signature};
use crate::evidence::{Lie, SignedState};
use crate::group::{Configuration, ReplicaId, Sequence, Voters};
use crate::message::{
    Certificate, Checkpoint, Message, Page, PageCursor, Space, root_statement, state_statement,
};
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
    /// Others' signatures under it.
    signatures: BTreeMap<(Sequence, ReplicaId), Signature>,
    /// L / K + 2: a correct replica vouches for no more that another one could still need.
    votes_max: usize,
    /// The certificate of the low watermark; none for the beginning.
    stable: Option<Certificate>,
    /// A certificate for a state that this replica has not reached.
    ahead: Option<Certificate>,
    /// The last checkpoint at which the state here was found to be another one than the quorum's, if no later
    /// one was the quorum's.
    diverged: Option<Sequence>,
    /// A fetched state that the journal does not hold yet.
    fetched: Option<Sequence>,
    /// The journal is being replayed: nothing is said and nothing is signed.
    replaying: bool,
}

#[derive(Debug)]
struct Own {
    image: Image,
    /// Made when they are first needed: under the history's root, and under the state.
    signatures: Option<(Signature, Signature)>,
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
            signatures: BTreeMap::new(),
            votes_max: usize::try_from(kept).expect("L is at most 2^21"),
            stable: None,
            ahead: None,
            diverged: None,
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

    /// The certificate of the low watermark; none for the beginning.
    pub(super) fn stable(&self) -> Option<&Certificate> {
        self.stable.as_ref()
    }

    /// A certificate for a state that was not reached when it came.
    pub(super) fn ahead(&self) -> Option<&Certificate> {
        self.ahead.as_ref()
    }

    pub(super) fn has_diverged(&self) -> bool {
        self.diverged.is_some()
    }

    /// Who vouches for which state after a batch.
    pub(super) fn standings(&self, sequence: Sequence) -> &[(Digest, Voters)] {
        self.votes.get(&sequence).map_or(&[], Ballot::standings)
    }

    /// A certificate for a state that is not here.
    fn note_ahead(&mut self, certificate: &Certificate) -> bool {
        let news = self.ahead.as_ref().is_none_or(|ahead| ahead.sequence < certificate.sequence);
        if news {
            self.ahead = Some(certificate.clone());
        }
        news
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
        self.own.push_back(Own { image, signatures: None, durable });
    }

    /// Takes the place of all own ones.
    pub(super) fn restart_from(&mut self, image: Image, certificate: Certificate, durable: bool) {
        self.own.clear();
        self.diverged = None;
        self.fetched = (!durable).then_some(image.sequence);
        self.push(image, durable);
        self.move_up(certificate);
    }

    fn move_up(&mut self, certificate: Certificate) {
        let stable = certificate.sequence;
        self.votes = self.votes.split_off(&stable);
        self.signatures = self.signatures.split_off(&(stable, ReplicaId(0)));
        self.ahead.take_if(|ahead| ahead.sequence <= stable);
        self.stable = Some(certificate);
    }

    /// Counts this replica's own vote for all that it may vouch for.
    pub(super) fn vote_again(&mut self, me: ReplicaId) {
        for index in 0..self.own.len() {
            let (sequence, state) = (self.own[index].image.sequence, self.own[index].image.digest);
            self.record(me, sequence, &state);
        }
    }

    /// Whether the state here would survive a crash: not while a fetched one is being written down.
    pub(super) fn is_durable(&self) -> bool {
        self.fetched.is_none()
    }

    /// A configuration begins after `start`: nobody of it has said anything yet.
    pub(super) fn begin_at(&mut self, start: Sequence) {
        self.own.retain(|own| own.image.sequence >= start);
        self.own.iter_mut().for_each(|own| own.signatures = None);
        self.votes.clear();
        self.signatures.clear();
        self.ahead = None;
    }

    /// A proven state that this replica has not reached.
    pub(super) fn look_ahead(&mut self, certificate: Certificate) {
        self.ahead = Some(certificate);
    }

    fn own_mut(&mut self, sequence: Sequence) -> Option<&mut Own> {
        self.own.iter_mut().find(|own| own.image.sequence == sequence)
    }

    /// Counts a vote; a voter's lowest is forgotten when it has too many.
    fn record(&mut self, voter: ReplicaId, sequence: Sequence, state: &Digest) -> Vote {
        let vote = self.votes.entry(sequence).or_default().record(voter, state);
        if vote == Vote::Counted && !mutation::is_on(Mutation::KeepEveryVote) {
            let theirs = self.votes.iter().filter(|(_, ballot)| ballot.has_voter(voter));
            let theirs: Vec<_> = theirs.map(|(sequence, _)| *sequence).collect();
            if theirs.len() > self.votes_max {
                self.votes.entry(theirs[0]).or_default().withdraw(voter);
                self.votes.retain(|_, ballot| !ballot.is_empty());
                self.signatures.remove(&(theirs[0], voter));
            }
        }
        vote
    }

    /// The state after a batch that another replica signed.
    fn signed_by(&self, voter: ReplicaId, sequence: Sequence) -> Option<SignedState> {
        let state = self.votes.get(&sequence)?.choice(voter)?;
        Some(SignedState { state, signature: self.signatures.get(&(sequence, voter))?.clone() })
    }

    /// Counts another's vote, and keeps the signature under it as long as it counts: whoever is among
    /// the voters has to be in the certificate too, else it convinces nobody.
    fn record_signed(&mut self, voter: ReplicaId, message: &Checkpoint) -> Vote {
        let place = (message.sequence, voter);
        self.signatures.entry(place).or_insert_with(|| message.vote.clone());
        self.record(voter, message.sequence, &message.state)
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
    pub(super) fn settle(&mut self, certificate: Certificate) {
        let before = self.stable.as_ref().map_or(Sequence(0), |stable| stable.sequence);
        let stable = certificate.sequence;
        self.own.retain(|own| own.image.sequence == before || own.image.sequence >= stable);
        self.move_up(certificate);
    }
}

impl<S: Service> Replica<S> {
    /// Takes a checkpoint of the state as it is. The CHECKPOINT is a promise that this state can be
    /// brought back from the disk, because others let go of the batches below once it is stable:
    /// so it leaves after its record, and with it every committed batch below, is durable.
    pub(super) fn take_checkpoint(&mut self) {
        if self.checkpoints.has_diverged() {
            return; // nobody is told of a state that is known to be wrong
        }
        let image = self.execution.image(&self.configuration);
        let (sequence, state) = (image.sequence, image.digest);
        self.checkpoints.push(image, false);
        if !self.checkpoints.replaying {
            self.write_checkpoint(sequence, state);
        }
    }

    /// Writes an own checkpoint down, to be sent once that is durable.
    pub(super) fn write_checkpoint(&mut self, sequence: Sequence, state: Digest) {
        self.append(Record::Checkpoint { sequence, state }, Some(Then::SendCheckpoint(sequence, state)));
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
        if self.checkpoints.has_diverged() {
            return;
        }
        let own = self.checkpoints.own.iter().filter(|own| !own.durable);
        let unwritten: Vec<_> = own.map(|own| (own.image.sequence, own.image.digest)).collect();
        for (sequence, state) in unwritten {
            self.write_checkpoint(sequence, state);
        }
    }

    /// Whether clients may be told what the state here says. A state that is not the group's
    /// answers nobody. Nor does one that a crash would take back: 2f+1 answers tell a client that
    /// every later quorum knows of its operation.
    ///
    /// Nor does one from before the configuration began: those who held what was acknowledged by then may
    /// have been replaced.
    pub(super) fn may_answer(&self) -> bool {
        !self.checkpoints.has_diverged() && self.checkpoints.is_durable() && !self.is_joining()
    }

    /// The record of an own checkpoint is durable. Another state may have taken its place meanwhile, whose own
    /// record is not.
    pub(super) fn checkpoint_is_durable(&mut self, sequence: Sequence, state: Digest) {
        let me = self.me;
        let own = self.checkpoints.own_mut(sequence).filter(|own| own.image.digest == state);
        let Some(own) = own else { return };
        own.durable = true;
        if self.checkpoints.fetched == Some(sequence) {
            self.checkpoints.fetched = None;
        }
        if !self.checkpoints.has_diverged() {
            if let Some(message) = self.checkpoint_message(sequence) {
                self.broadcast(message);
            }
            self.checkpoints.record(me, sequence, &state);
            self.check_split(sequence);
        }
        match self.checkpoints.ahead.take_if(|ahead| ahead.sequence == sequence) {
            Some(certificate) => self.learn(certificate),
            None => self.check_stable(sequence),
        }
    }

    fn checkpoint_message(&mut self, sequence: Sequence) -> Option<Message> {
        let image = self.checkpoints.image(sequence)?;
        let (state, size, root) = (image.digest, image.size, image.root);
        let known = self.checkpoints.own_mut(sequence)?.signatures.clone();
        let signatures = known
            .unwrap_or_else(|| (self.sign_root(sequence, size, &root), self.sign_state(sequence, &state)));
        self.checkpoints.own_mut(sequence)?.signatures = Some(signatures.clone());
        let (signature, vote) = signatures;
        Some(Message::Checkpoint(Checkpoint { sequence, state, size, root, signature, vote }))
    }

    /// What certificates are made of.
    fn sign_state(&self, sequence: Sequence, state: &Digest) -> Signature {
        self.keychain.sign(Domain::new(Kind::Checkpoint, 0), &state_statement(sequence, state))
    }

    /// The certificate that some replicas' votes make, this one's perhaps among them.
    fn certificate(&self, sequence: Sequence, state: Digest, voters: Voters) -> Certificate {
        let own = self.checkpoints.own.iter().find(|own| own.image.sequence == sequence);
        let signature = |voter: ReplicaId| {
            if voter != self.me {
                return self.checkpoints.signatures.get(&(sequence, voter)).cloned();
            }
            let made = own.and_then(|own| own.signatures.as_ref()).map(|(_, vote)| vote.clone());
            Some(made.unwrap_or_else(|| self.sign_state(sequence, &state)))
        };
        let missing = usize::from(mutation::is_on(Mutation::ShortCertificate));
        let votes = voters.iter().skip(missing).filter_map(|voter| Some((voter, signature(voter)?)));
        Certificate { sequence, state, votes: votes.collect() }
    }

    /// What receipts are made of. Without a history there is nothing to sign.
    pub(super) fn sign_root(&self, sequence: Sequence, size: u64, root: &Digest) -> Signature {
        if !self.configuration.history {
            return Signature(bytes::Bytes::new());
        }
        self.keychain.sign(Domain::new(Kind::Seal, 0), &root_statement(sequence, size, root))
    }

    /// Sends to one replica what it needs to follow: the certificate of the low watermark, and the
    /// own checkpoints above that.
    pub(super) fn send_checkpoints(&mut self, to: ReplicaId, above: Sequence) {
        let stable = self.log.low();
        if above < stable
            && let Some(certificate) = self.proven_stable().cloned()
        {
            self.send(Principal::Replica(to), Message::Stable(certificate));
        }
        for sequence in self.checkpoints.sendable(above.max(stable)) {
            if let Some(message) = self.checkpoint_message(sequence) {
                self.send(Principal::Replica(to), message);
            }
        }
    }

    /// Counts a replica's word on the state after a batch.
    pub(super) fn on_checkpoint(&mut self, from: ReplicaId, message: &Checkpoint) {
        let sequence = message.sequence;
        let period = self.configuration.limits.checkpoint_period;
        let said = SignedState { state: message.state, signature: message.vote.clone() };
        if let Some(stable) = self.proven_stable().cloned() {
            self.compare_with(&stable, from, sequence, &said);
        }
        if sequence <= self.log.low() && !self.checkpoints.has_diverged() {
            return self.put_aside(Ignored::OutsideWindow);
        }
        if !sequence.0.is_multiple_of(period) {
            return self.put_aside(Ignored::NotForUs);
        }
        match self.checkpoints.record_signed(from, message) {
            Vote::Counted => {
                self.retransmission.wake(self.now);
                self.check_split(sequence);
                self.check_stable(sequence);
            }
            Vote::Repeated => self.put_aside(Ignored::Repeated),
            Vote::Conflicting => {
                if let Some(first) = self.checkpoints.signed_by(from, sequence) {
                    self.prove(from, Lie::ConflictingStates { sequence, both: [first, said] });
                }
            }
        }
    }

    /// Compares a state that a replica signed with the one that 2f+1 signed after the same batch.
    fn compare_with(
        &mut self,
        certificate: &Certificate,
        by: ReplicaId,
        after: Sequence,
        said: &SignedState,
    ) {
        let differs = certificate.sequence == after && certificate.state != said.state;
        if differs && !mutation::is_on(Mutation::TolerateWrongStates) {
            let (said, certificate) = (said.clone(), certificate.clone());
            self.prove(by, Lie::WrongState { said, certificate });
        }
    }

    /// Upon 2f+1 equal ones, the own among them.
    fn check_stable(&mut self, sequence: Sequence) {
        let Some(ballot) = self.checkpoints.votes.get(&sequence) else { return };
        let alone = mutation::is_on(Mutation::CollectTooEarly);
        let needed = if alone { 1 } else { self.group.quorum() };
        let Some((state, voters)) = ballot.winner(needed) else { return };
        if self.checkpoints.own.iter().any(|own| own.image.sequence == sequence) {
            let certificate = self.certificate(sequence, state, voters);
            self.learn(certificate);
        }
        // Else not there yet, or left behind: the status timer finds out.
    }

    /// Takes in the proof that 2f+1 replicas hold a state.
    pub(super) fn on_stable(&mut self, certificate: Certificate) {
        if certificate.sequence <= self.log.low() && !self.checkpoints.has_diverged() {
            return self.put_aside(Ignored::Stale);
        }
        self.learn(certificate);
    }

    /// Makes a state stable that is here too; else remembers where the others are.
    pub(super) fn learn(&mut self, certificate: Certificate) {
        let sequence = certificate.sequence;
        for voter in self.group.replicas() {
            if let Some(said) = self.checkpoints.signed_by(voter, sequence) {
                self.compare_with(&certificate, voter, sequence, &said);
            }
        }
        let Some(own) = self.checkpoints.own.iter().find(|own| own.image.sequence == sequence) else {
            let needed = sequence > self.executed() || self.checkpoints.has_diverged();
            if needed && self.checkpoints.note_ahead(&certificate) {
                self.retransmission.wake(self.now);
            }
            if needed && self.transfer.is_active() {
                self.start_transfer(certificate); // what is being fetched may be gone soon
            }
            return;
        };
        let (ours, theirs, durable) = (own.image.digest, certificate.state, own.durable);
        if ours != theirs {
            if self.checkpoints.diverged < Some(sequence) {
                self.diverge(&certificate, ours);
                self.start_transfer(certificate);
            }
            return;
        }
        if self.checkpoints.diverged.is_some_and(|wrong| wrong < sequence) {
            // What was wrong has been overwritten.
            self.checkpoints.diverged = None;
            self.transfer.stop();
        }
        if durable && sequence > self.log.low() {
            self.make_stable(certificate);
        }
    }

    /// The state here after a batch is not the one that 2f+1 replicas hold.
    fn diverge(&mut self, certificate: &Certificate, ours: Digest) {
        let (sequence, theirs) = (certificate.sequence, certificate.state);
        self.checkpoints.diverged = Some(sequence);
        self.checkpoints.note_ahead(certificate);
        self.admission.forget_seals(); // of a history that is perhaps another one
        self.accuse(Misbehaviour::Diverged { sequence, ours, theirs });
    }

    /// Compares the state here at the boundary with the certified one. Whoever went over with a state that was
    /// known to be wrong, and crashed before it was repaired, finds the same one in its journal.
    pub(super) fn compare_boundary(&mut self, certificate: &Certificate) {
        let ours = self.checkpoints.image(certificate.sequence).map(|image| image.digest);
        if let Some(ours) = ours.filter(|ours| *ours != certificate.state && !self.checkpoints.has_diverged())
        {
            self.diverge(certificate, ours);
        }
    }

    /// The highest state above the own one that 2f+1 replicas hold; when the own one is wrong, the highest from
    /// there on.
    pub(super) fn left_behind(&self) -> Option<Certificate> {
        let wrong = self.checkpoints.diverged.map(|wrong| Sequence(wrong.0.saturating_sub(1)));
        let right = wrong.unwrap_or_else(|| self.executed());
        let vouched = self.checkpoints.vouched(right, self.group.quorum());
        let vouched = vouched.map(|(sequence, state, voters)| self.certificate(sequence, state, voters));
        let known = self.checkpoints.ahead.clone().filter(|ahead| ahead.sequence > right);
        vouched.into_iter().chain(known).max_by_key(|certificate| certificate.sequence)
    }

    /// Lets go of what lies at or below a checkpoint that 2f+1 replicas can bring back.
    fn make_stable(&mut self, certificate: Certificate) {
        let sequence = certificate.sequence;
        self.append(Record::Stable(certificate.clone()), None);
        self.checkpoints.settle(certificate);
        self.log.advance(sequence);
        self.retransmission.moved();
        let due = self.settings.snapshot_bytes_min.max(self.outbox.snapshot_bytes);
        if self.outbox.bytes_since_snapshot >= due {
            self.write_snapshot();
        }
        self.adopt_chosen();
    }

    /// Writes a copy of the state at the low watermark into the journal, with the proof that it is
    /// stable, and of the view. Once it is durable, what stands before it can go, but for records of
    /// places above: they lead on from the copy, and are promises still. Which ones is decided now:
    /// by then their slots may be empty.
    pub(super) fn write_snapshot(&mut self) {
        if !self.outbox.has_journal() {
            return;
        }
        let certificate = self.checkpoints.stable.clone().expect("what is copied is stable");
        let sequence = certificate.sequence;
        let image = self.checkpoints.image(sequence).expect("the stable checkpoint is kept").clone();
        self.outbox.bytes_since_snapshot = 0;
        let successions = self.succeeding.successions().to_vec();
        let begin = self.append(Record::SnapshotBegin { sequence, successions }, None);
        let before = self.log.first_position().map_or(begin, |first| first.min(begin));
        for record in self.marks.record().into_iter().chain(self.views.record()) {
            self.append(record, None);
        }
        let mut cursor = Some(PageCursor::default());
        while let Some(from) = cursor {
            let (pages, next) = image.pages(from, PAGES_BYTES);
            self.append(Record::SnapshotPages { pages }, None);
            cursor = next;
        }
        self.outbox.snapshot_bytes = std::mem::take(&mut self.outbox.bytes_since_snapshot);
        self.append(Record::SnapshotEnd(certificate), Some(Then::Truncate(before)));
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

#[cfg(feature = "sim")]
impl Checkpoints {
    pub(super) fn footprint(&self, n: u64) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        let votes: u32 = self.votes.values().map(|ballot| ballot.voters().count()).sum();
        let most = self.votes_max as u64;
        vec![
            Held::new("own checkpoints", self.own.len(), most),
            Held::new("votes for checkpoints", votes as usize, n * most),
            Held::new("signatures under checkpoints", self.signatures.len(), n * most),
        ]
    }
}
