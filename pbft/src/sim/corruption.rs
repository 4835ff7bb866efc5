//! The part of a cluster that makes replicas lie.

use super::adversary::{Adversary, Spoken};
use super::{Cluster, Node};
use crate::crypto::{Keychain, Principal};
use crate::group::ReplicaId;
use crate::message::{Message, Unverified};
use crate::replica::{Ignored, Replica};
use crate::service::Service;

impl<S: Service + Clone> Cluster<S> {
    /// Makes a replica lie from now on, in a way that the seed decides. What it executes and says
    /// is no checker's business any more. With real keys it says again what others said: of its own lies
    /// nobody would believe one.
    pub fn corrupt(&mut self, id: ReplicaId) {
        if self.setup.real_keys {
            return self.corrupt_as(id, Adversary::OldEpochs);
        }
        let kinds = Adversary::ALL.len() as u64;
        let kind = usize::try_from(self.random.below(kinds)).expect("few kinds");
        self.corrupt_as(id, Adversary::ALL[kind]);
    }

    /// Makes a replica lie from now on, in one way. All that lie in a run know of each other, and
    /// have each other's keys. They have fast keys: with real ones, nobody believes their lies.
    pub fn corrupt_as(&mut self, id: ReplicaId, kind: Adversary) {
        let configuration = self.nodes[id.index()].origin.latest();
        let me = Principal::Replica(id);
        let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), me);
        let seed = self.random.number();
        let twins = self.liars.kind(id) == Some(Adversary::Twins);
        self.liars.add(kind, keys, seed, &self.setup);
        self.follow(id.index());
        if kind == Adversary::Twins && !twins {
            self.begin_twin(id);
        }
    }

    /// A second replica under one identity, with a copy of the first one's disk.
    fn begin_twin(&mut self, id: ReplicaId) {
        let first = &self.nodes[id.index()];
        let (mut disk, is_up) = (first.disk.clone(), first.replica.is_some());
        disk.sync(disk.last());
        let twin = Node { clock: first.clock, disk, ..Node::new(id, first.origin.clone(), self.setup.sync) };
        // Whoever had the place before may have left one.
        let place = self.twin(id).unwrap_or(self.nodes.len());
        match self.nodes.get_mut(place) {
            Some(node) => *node = Node { life: node.life + 1, ..twin },
            None => self.nodes.push(twin),
        }
        if is_up {
            self.start(place);
            self.drive(place);
        }
    }

    /// Whether a replica does not lie, and never went wrong.
    #[must_use]
    pub fn is_correct(&self, id: ReplicaId) -> bool {
        let is_liar = self.is_liar(Principal::Replica(id));
        !is_liar && !self.nodes[id.index()].strayed
    }

    /// How a replica lies, if it does.
    #[must_use]
    pub fn adversary(&self, id: ReplicaId) -> Option<Adversary> {
        self.liars.kind(id)
    }

    /// How often a replica has lied: by saying something else than a correct one, nothing or more,
    /// or by hearing something else.
    #[must_use]
    pub fn lies(&self, id: ReplicaId) -> u64 {
        self.liars.lies(id)
    }

    pub(super) fn is_liar(&self, who: Principal) -> bool {
        let Principal::Replica(id) = who else { return false };
        self.liars.kind(id).is_some() || self.network.fuzz.is_faulty(id)
    }

    /// Where a replica runs: in one place, but for twins.
    pub(super) fn places(&self, id: ReplicaId) -> Vec<usize> {
        let second = self.twin(id).filter(|_| self.liars.kind(id) == Some(Adversary::Twins));
        std::iter::once(id.index()).chain(second).collect()
    }

    /// Where the second of two twins runs, or ran once.
    fn twin(&self, id: ReplicaId) -> Option<usize> {
        (self.setup.configuration.n() as usize..self.nodes.len()).find(|node| self.nodes[*node].id == id)
    }

    /// Where a replica runs that `peer` deals with now.
    fn place_for(&self, id: ReplicaId, peer: Principal) -> usize {
        let side = self.liars.side(id, peer, self.now);
        let places = self.places(id);
        places[side.min(places.len() - 1)]
    }

    /// What runs in a place says something. Each of two twins deals with its own side only.
    pub(super) fn say(&mut self, node: usize, to: Principal, message: Unverified<Message>) {
        let id = self.nodes[node].id;
        if self.place_for(id, to) == node {
            if node != id.index() {
                self.liars.lied(id); // the other one said something else, or nothing
            }
            self.transmit(Principal::Replica(id), to, message);
        }
    }

    /// A message reaches a replica.
    pub(super) fn hear(&mut self, from: Principal, id: ReplicaId, message: Unverified<Message>) {
        let node = self.place_for(id, from);
        if self.nodes[node].replica.is_none() {
            return;
        }
        let correct = self.is_correct(id);
        let message = if correct { Some(message) } else { self.hear_falsely(id, message) };
        let place = &mut self.nodes[node];
        if let (Some(replica), Some(message)) = (&mut place.replica, message) {
            let is_void = correct && self.checkers.is_void(&message) && !replica.is_retired();
            let before = unproven(replica);
            replica.handle_message(place.clock.read(self.now), message);
            if is_void {
                self.checkers.heard_void(id, (before, unproven(replica)));
            }
        }
        self.check_memory(node);
        self.drive(node);
    }

    /// What a liar takes in instead of a message; it may speak up, or forget everything.
    fn hear_falsely(&mut self, id: ReplicaId, message: Unverified<Message>) -> Option<Unverified<Message>> {
        let heard = self.liars.hears(id, message, self.now, &self.setup);
        self.post_all(id, heard.spoken);
        if heard.forgets {
            self.forget(id);
        }
        heard.message
    }

    /// What a liar says instead of a message.
    pub(super) fn lie(&mut self, id: ReplicaId, to: Principal, message: Unverified<Message>) {
        let spoken = self.liars.says(id, to, message, self.now, &self.setup);
        self.post_all(id, spoken);
    }

    fn post_all(&mut self, id: ReplicaId, spoken: Vec<Spoken>) {
        for Spoken { to, message, held_back } in spoken {
            self.post(Principal::Replica(id), to, message, held_back);
        }
    }

    /// A replica begins again with an empty disk, as if it had never run.
    fn forget(&mut self, id: ReplicaId) {
        let node = &mut self.nodes[id.index()];
        node.forget(node.origin.clone());
        self.start(id.index());
        self.note(&[6, id.0.into()]);
    }
}

/// What a replica has put aside because its proof was missing or wrong.
fn unproven<S: Service>(replica: &Replica<S>) -> u64 {
    replica.ignored().find(|(reason, _)| *reason == Ignored::Unproven).map_or(0, |(_, count)| count)
}
