//! Whether requests are authentic, when not every replica can tell by itself.
//!
//! A client's authenticator holds a tag for each replica, and a replica can check its own tag only. A
//! faulty client makes some of them good and others bad (the "big MAC attack": Clement et al., *Making
//! Byzantine Fault Tolerant Systems Tolerate Byzantine Faults*, NSDI 2009). So replicas vouch for
//! requests to one another. The rules, as events:
//!
//! * *A request is authentic* when it is signed, when this replica's own tag is good, or when f+1
//!   replicas vouch for its bytes. The pre-prepare is its primary's word for all that it holds, a
//!   PREPARE its sender's, a DOUBT its sender's for all but what it doubts. A correct replica gives its
//!   word only for what is authentic, so of any f+1 who do, and of all correct ones, the first had
//!   nothing to go by but its own key.
//! * *upon a tagged request of a client that asks more than the primary*: send VOUCH.
//! * *upon f+1 VOUCHes*: send VOUCH, too. So once f+1 correct replicas vouch, all do.
//! * *upon 2f+1 VOUCHes, one's own among them*: the request may be waited for. f+1 of them are correct
//!   and told everybody, so every correct primary can order it. What fewer vouch for moves nobody.
//! * *upon such a request that is executed here*: send VOUCH all the same, now and then. Others may wait
//!   for it yet, and have lost this replica's word, or forgotten it in a crash.
//! * *upon a pre-prepare with requests that are not authentic here*: keep it back, and send DOUBT.
//!   Accept it once all of them are.
//!
//! A word is no promise: it is true for ever, and repeated or lost without harm. So it is not written
//! down, and a crash forgets it.

use std::collections::{BTreeMap, VecDeque};

use super::log::Slot;
use super::separate::lacks_operations;
use super::{Action, Ignored, Replica};
use crate::crypto::{Digest, Domain, Kind};
use crate::group::{ClientId, ReplicaId, Sequence, Voters};
use crate::message::{Batch, Doubt, Message, PrePrepare, Request, Unverified, Vouch};
use crate::mutation::{self, Mutation};
use crate::service::Service;
use crate::time::Instant;

/// Requests of one client that one replica's word is remembered for: the latest. A client's burst may
/// be longer; whoever waits for one of them waits for all.
const WORDS_PER_CLIENT_MAX: usize = 16;
/// Requests in one VOUCH.
const VOUCH_REQUESTS_MAX: usize = 256;
/// VOUCHes that one replica may send in a status period, counted by their requests.
const VOUCHED_PER_PERIOD_MAX: u32 = 4096;

/// Who vouches for which requests, whatever the view.
#[derive(Debug, Default)]
pub(super) struct Vouching {
    /// By client: requests in the order in which they were first vouched for. At most
    /// `WORDS_PER_CLIENT_MAX` of each replica.
    words: BTreeMap<ClientId, VecDeque<(Digest, Voters)>>,
    /// What the next VOUCH says.
    outgoing: Vec<(ClientId, Digest)>,
}

/// A pre-prepare that is kept back: requests of it are in doubt, or operations that it names are not here.
#[derive(Clone, Debug)]
pub(super) struct Doubted {
    pub(super) pre_prepare: PrePrepare,
    pub(super) digest: Digest,
    /// Its requests that are not authentic here yet, by index.
    requests: Vec<(u32, Digest)>,
    /// When it came.
    pub(super) since: Instant,
    /// Whether somebody was asked for its operations.
    pub(super) asked: bool,
}

impl Doubted {
    /// Its requests whose operations are not here.
    pub(super) fn lacking(&self) -> impl Iterator<Item = &Unverified<Request>> {
        self.pre_prepare.batch.requests.iter().filter(|request| !request.body.is_whole())
    }
}

impl Vouching {
    #[cfg(feature = "sim")]
    pub(super) fn footprint(&self, n: u64, clients: u64) -> Vec<super::footprint::Held> {
        use super::footprint::Held;
        let most = n * WORDS_PER_CLIENT_MAX as u64;
        let words = self.words.values().map(VecDeque::len).max().unwrap_or(0);
        vec![
            Held::new("clients that are vouched for", self.words.len(), clients),
            Held::new("words for one client", words, most),
        ]
    }

    /// Notes a replica's word; says whether it is news.
    fn record(&mut self, voter: ReplicaId, client: ClientId, request: &Digest) -> bool {
        let words = self.words.entry(client).or_default();
        match words.iter_mut().find(|(known, _)| known == request) {
            Some((_, voters)) => {
                if !voters.insert(voter) {
                    return false;
                }
            }
            None => words.push_back((*request, Voters::from_iter([voter]))),
        }
        let mut theirs = words.iter_mut().filter(|(_, voters)| voters.has(voter));
        let oldest = theirs.next().map(|(_, voters)| voters);
        if theirs.count() >= WORDS_PER_CLIENT_MAX
            && let Some(oldest) = oldest
        {
            oldest.remove(voter);
            words.retain(|(_, voters)| voters.count() > 0);
        }
        true
    }

    /// Who vouches for a request.
    fn voters(&self, client: ClientId, request: &Digest) -> Voters {
        let words = self.words.get(&client).into_iter().flatten();
        let known = words.into_iter().find(|(known, _)| known == request);
        known.map(|(_, voters)| *voters).unwrap_or_default()
    }

    /// A client's tags are worth nothing any more.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.words.remove(&client);
        self.outgoing.retain(|(other, _)| *other != client);
    }
}

impl<S: Service> Replica<S> {
    /// What a VOUCH calls a request.
    pub(super) fn request_digest(&self, request: &Unverified<Request>) -> Digest {
        self.keychain.digest(Domain::new(Kind::Request, 0), &[&request.bytes])
    }

    /// Whether so many vouch that one of them is correct.
    fn is_weak_quorum(&self, voters: Voters) -> bool {
        let needed = self.group.weak_quorum() - u32::from(mutation::is_on(Mutation::VouchedByF));
        voters.count() >= needed
    }

    /// Whether a request is authentic by others' words, or by an earlier look at it.
    pub(super) fn is_vouched_for(&self, request: &Unverified<Request>) -> bool {
        let client = request.body.client;
        if !self.vouching.words.contains_key(&client) {
            return false; // spares the digest
        }
        let voters = self.vouching.voters(client, &self.request_digest(request));
        voters.has(self.me) || self.is_weak_quorum(voters)
    }

    /// Whether every correct primary can be expected to order a request, as far as VOUCHes tell.
    pub(super) fn may_be_waited_for(&self, client: ClientId, request: &Digest) -> bool {
        let voters = self.vouching.voters(client, request);
        let enough = voters.has(self.me) && voters.count() >= self.group.quorum();
        enough || mutation::is_on(Mutation::WaitForAnyRequest)
    }

    /// Gives one's word for a request that is authentic here.
    pub(super) fn vouch(&mut self, client: ClientId, request: Digest) {
        self.vouching.record(self.me, client, &request);
        if !self.vouching.outgoing.contains(&(client, request)) {
            self.vouching.outgoing.push((client, request));
        }
        self.wait_if_vouched(client, &request);
    }

    /// Sends what was vouched for since the last call, before anything else that waits to be sent: a
    /// relayed request that comes after it finds its VOUCH there.
    pub(super) fn send_vouches(&mut self) {
        let outgoing = std::mem::take(&mut self.vouching.outgoing);
        for requests in outgoing.chunks(VOUCH_REQUESTS_MAX) {
            let message = self.for_all(Message::Vouch(Vouch { requests: requests.to_vec() }));
            self.actions.push_front(Action::Broadcast { message });
        }
    }

    /// Hears that a replica vouches for requests.
    pub(super) fn on_vouch(&mut self, from: ReplicaId, message: &Vouch) {
        let requests = &message.requests;
        if requests.len() > VOUCH_REQUESTS_MAX {
            return self.put_aside(Ignored::Oversized);
        }
        let weight = u32::try_from(requests.len()).expect("a few hundred");
        let period = self.settings.status_period;
        if !self.allowances[from.index()].vouch.take(self.now, period, weight, VOUCHED_PER_PERIOD_MAX) {
            return self.put_aside(Ignored::TooOften);
        }
        for (client, request) in requests {
            if !self.execution.table().has(*client) {
                self.put_aside(Ignored::NotForUs);
            } else if self.marks.binds(*client) {
                self.put_aside(Ignored::Unsigned);
            } else if self.vouching.record(from, *client, request) {
                let voters = self.vouching.voters(*client, request);
                if !voters.has(self.me) && self.is_weak_quorum(voters) {
                    self.vouch(*client, *request);
                }
                self.wait_if_vouched(*client, request);
            } else {
                self.put_aside(Ignored::Repeated);
            }
        }
        self.settle_all_doubts();
    }

    /// Upon 2f+1 who vouch for a request.
    fn wait_if_vouched(&mut self, client: ClientId, request: &Digest) {
        if self.may_be_waited_for(client, request) && self.admission.wait_for(client, request) {
            self.start_view_timer();
        }
    }

    /// The requests of a batch that this replica's own keys do not prove: those that `doubts` names,
    /// and the tagged ones of marked clients.
    pub(super) fn unproven(&self, batch: &Batch, mut doubts: Vec<u32>) -> Vec<u32> {
        if self.marks.bind_anybody() {
            let is_void =
                |request: &Unverified<Request>| !request.is_signed() && self.marks.binds(request.body.client);
            let requests = (0..).zip(batch.requests.iter());
            doubts.extend(requests.filter(|(_, request)| is_void(request)).map(|(index, _)| index));
            doubts.sort_unstable();
            doubts.dedup();
        }
        doubts
    }

    /// Keeps a pre-prepare back because of requests that are not authentic here, or of operations that are
    /// not here.
    pub(super) fn keep_back(&mut self, pre_prepare: PrePrepare, digest: Digest, doubts: Vec<u32>) {
        let sequence = pre_prepare.sequence;
        let slot = self.log.slot(sequence).expect("between the watermarks");
        if slot.doubted.is_some() {
            return self.settle_doubts(sequence); // sent again
        }
        let batch = &pre_prepare.batch.requests;
        let request = |index: u32| Some((index, self.request_digest(batch.get(index as usize)?)));
        let requests = doubts.into_iter().filter_map(request).collect();
        let doubted = Doubted { pre_prepare, digest, requests, since: self.now, asked: false };
        self.log.slot_mut(sequence).expect("found above").doubted = Some(doubted);
        self.views.proposed(sequence);
        self.settle_doubts(sequence);
        if let Some(doubt) = self.own_doubt(sequence) {
            self.broadcast(Message::Doubt(doubt));
        }
        self.ask_if_late(sequence);
        self.start_view_timer();
    }

    /// What this replica says about a place whose pre-prepare it keeps back because of its requests.
    pub(super) fn own_doubt(&self, sequence: Sequence) -> Option<Doubt> {
        let doubted = self.log.kept_back(sequence).filter(|one| !one.requests.is_empty())?;
        let count = doubted.pre_prepare.batch.requests.len();
        let mut checked = vec![0xff; count.div_ceil(8)];
        for (index, _) in &doubted.requests {
            if !mutation::is_on(Mutation::VouchUnchecked) {
                checked[*index as usize / 8] &= !(1 << (index % 8));
            }
        }
        let PrePrepare { view, sequence, .. } = doubted.pre_prepare;
        Some(Doubt { view, sequence, digest: doubted.digest, checked: checked.into() })
    }

    /// Hears that a backup cannot check all of a batch, but the rest of it.
    pub(super) fn on_doubt(&mut self, from: ReplicaId, mut message: Doubt) {
        if !self.is_ours(from, &message) {
            return;
        }
        let most = self.configuration.limits.batch_operations_max.div_ceil(8) as usize;
        if message.checked.len() > most {
            return self.put_aside(Ignored::Oversized);
        }
        let sequence = message.sequence;
        let slot = self.log.slot_mut(sequence).expect("checked to be between the watermarks");
        if slot.doubts.contains_key(&from) {
            return self.put_aside(Ignored::Repeated);
        }
        message.checked = bytes::Bytes::copy_from_slice(&message.checked); // lets go of what it came in
        slot.doubts.insert(from, message);
        self.settle_doubts(sequence);
    }

    /// Whether others' words, or an earlier look at it, make a request of the batch that is proposed in
    /// a place authentic. `request` is its digest.
    fn is_settled(
        &self,
        slot: &Slot,
        (batch, digest): (&Batch, &Digest),
        (index, request): (u32, &Digest),
    ) -> bool {
        let client = batch.requests[index as usize].body.client;
        let mut voters = self.vouching.voters(client, request);
        if voters.has(self.me) {
            return true;
        }
        voters.insert(self.group.primary(self.views.active()));
        slot.prepares.voters_for(digest).iter().for_each(|voter| _ = voters.insert(voter));
        let doubts = slot.doubts.iter().filter(|(_, doubt)| doubt.digest == *digest);
        let vouching = doubts.filter(|(_, doubt)| doubt.has_checked(index));
        vouching.for_each(|(backup, _)| _ = voters.insert(*backup));
        self.is_weak_quorum(voters)
    }

    /// Accepts a pre-prepare that was kept back as soon as all its requests are authentic, and all that it
    /// names is here.
    pub(super) fn settle_doubts(&mut self, sequence: Sequence) {
        if self.is_changing() {
            return; // nothing is promised in a view that was left
        }
        let Some(slot) = self.log.slot(sequence) else { return };
        let Some(doubted) = &slot.doubted else { return };
        let proposed = (&doubted.pre_prepare.batch, &doubted.digest);
        let is_open = |(index, request): &&(u32, Digest)| !self.is_settled(slot, proposed, (*index, request));
        let open: Vec<_> = doubted.requests.iter().filter(is_open).copied().collect();
        let pre_prepare = doubted.pre_prepare.clone();
        // What it names was not here when the rest of it was looked at.
        let Some(pre_prepare) = self.filled(pre_prepare) else {
            self.log.slot_mut(sequence).expect("found above").doubted = None;
            return;
        };
        let is_done = open.is_empty() && !lacks_operations(&pre_prepare.batch);
        let reason = if open.is_empty() { Ignored::Incomplete } else { Ignored::Doubted };
        let slot = self.log.slot_mut(sequence).expect("found above");
        let doubted = slot.doubted.as_mut().expect("found above");
        (doubted.requests, doubted.pre_prepare) = (open, pre_prepare);
        if !is_done {
            return self.count(reason);
        }
        let Doubted { pre_prepare, digest, .. } = slot.doubted.take().expect("found above");
        self.accept(pre_prepare, digest);
    }

    pub(super) fn settle_all_doubts(&mut self) {
        let doubted: Vec<_> = self.log.doubted().collect();
        for sequence in doubted {
            self.settle_doubts(sequence);
        }
    }

    /// The clients of tagged requests that keep a place of this view open: f+1 replicas doubt them, so
    /// a correct one does, and fewer than f+1 vouch for them. With a correct primary that is the client's
    /// work; a faulty primary can make it look so, and then the client has to sign.
    pub(super) fn disputed(&self) -> Vec<ClientId> {
        let mut clients = Vec::new();
        let is_open = |slot: &Slot| !slot.prepared && !slot.is_settled() && !slot.doubts.is_empty();
        for (_, slot) in self.log.slots().filter(|(_, slot)| is_open(slot)) {
            let (batch, digest, own) = match (&slot.doubted, &slot.proposal) {
                (Some(doubted), _) => (&doubted.pre_prepare.batch, &doubted.digest, &doubted.requests[..]),
                (None, Some(proposal)) => (&proposal.pre_prepare.batch, &proposal.digest, &[][..]),
                (None, None) => continue,
            };
            for (index, request) in (0..).zip(batch.requests.iter()) {
                let doubts = slot.doubts.values().filter(|doubt| doubt.digest == *digest);
                let others = doubts.filter(|doubt| !doubt.has_checked(index)).count();
                let own = usize::from(own.iter().any(|(doubted, _)| *doubted == index));
                let is_disputed = others + own >= self.group.weak_quorum() as usize;
                if is_disputed
                    && !request.is_signed()
                    && !self.is_settled(slot, (batch, digest), (index, &self.request_digest(request)))
                {
                    clients.push(request.body.client);
                }
            }
        }
        clients
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_one_replica_makes_up_push_out_its_own_only() {
        let (client, mut vouching) = (ClientId(0), Vouching::default());
        let request = |number: u8| Digest([number; 32]);
        for number in 0..4 {
            assert!(vouching.record(ReplicaId(1), client, &request(number)));
        }
        assert!(!vouching.record(ReplicaId(1), client, &request(0)), "said before");
        for number in 2..200 {
            assert!(vouching.record(ReplicaId(3), client, &request(number)));
        }
        assert_eq!(vouching.voters(client, &request(3)), Voters::from_iter([ReplicaId(1)]));
        assert_eq!(vouching.voters(client, &request(199)), Voters::from_iter([ReplicaId(3)]));
        assert_eq!(vouching.words[&client].len(), 4 + WORDS_PER_CLIENT_MAX);
    }
}
