//! What the liars of a run share: whom they count among them, whose keys they have, and what they
//! tell whom.

use std::collections::BTreeMap;

use crate::crypto::{Digest, Domain, Keychain, Kind, Principal, Scope, Signature};
use crate::group::{Configuration, Group, ReplicaId, Sequence, View};
use crate::message::{Batch, state_statement};

/// What all liars of a run know.
#[derive(Debug)]
pub(super) struct Plot {
    /// The group in the latest configuration that one of them is in, and what it says is said in.
    pub(super) group: Group,
    scope: Scope,
    members: BTreeMap<ReplicaId, Keychain>,
    /// The batches that each half was told of by one of them as primary; the latest places.
    told: BTreeMap<(View, Sequence), [Digest; 2]>,
}

/// Places that a plot remembers.
const TOLD_MAX: usize = 1024;

impl Plot {
    pub(super) fn new(configuration: &Configuration) -> Self {
        let (group, scope) = (Group::new(configuration), configuration.scope());
        Self { group, scope, members: BTreeMap::new(), told: BTreeMap::new() }
    }

    pub(super) fn join(&mut self, id: ReplicaId, keychain: Keychain) {
        self.members.insert(id, keychain);
    }

    pub(super) fn leave(&mut self, id: ReplicaId) {
        self.members.remove(&id);
    }

    /// One of them is in a configuration now: a later one, or, if it forgot all, an earlier one.
    pub(super) fn follow(&mut self, id: ReplicaId, configuration: &Configuration) {
        let Some(keychain) = self.members.get_mut(&id) else { return };
        if keychain.scope().configuration != configuration.number {
            keychain.succeed(configuration.scope(), configuration.public_keys());
        }
        if self.scope.configuration < configuration.number {
            (self.group, self.scope) = (Group::new(configuration), configuration.scope());
            self.told.clear();
        }
    }

    /// The keys of one of them.
    pub(super) fn keys(&self, id: ReplicaId) -> &Keychain {
        &self.members[&id]
    }

    /// Whether somebody is one of them.
    pub(super) fn has(&self, who: Principal) -> bool {
        matches!(who, Principal::Replica(id) if self.members.contains_key(&id))
    }

    /// Which half somebody belongs to: the correct replicas, in the order of their indices, in turn.
    pub(super) fn half(&self, who: Principal) -> usize {
        let Principal::Replica(id) = who else { return 0 };
        let below = self.group.replicas().filter(|other| *other < id && !self.members.contains_key(other));
        below.count() % 2
    }

    /// One of them, as primary, tells each half of a batch of its own.
    pub(super) fn tell(&mut self, (view, sequence): (View, Sequence), batches: [&Batch; 2]) -> [Digest; 2] {
        let digests = batches.map(|batch| self.digest(batch));
        if self.told.len() == TOLD_MAX {
            self.told.pop_first();
        }
        self.told.insert((view, sequence), digests);
        digests
    }

    /// What somebody was told to be in a place, if one of them had its hand in that.
    pub(super) fn told(&self, to: Principal, view: View, sequence: Sequence) -> Option<Digest> {
        self.told.get(&(view, sequence)).map(|digests| digests[self.half(to)])
    }

    pub(super) fn digest(&self, batch: &Batch) -> Digest {
        self.scope.digest(Domain::new(Kind::Batch, 0), &[&batch.bytes])
    }

    /// The votes of all of them for a state.
    pub(super) fn vouch(&self, sequence: Sequence, state: &Digest) -> Vec<(ReplicaId, Signature)> {
        let statement = state_statement(sequence, state);
        let sign = |keys: &Keychain| keys.sign(Domain::new(Kind::Checkpoint, 0), &statement);
        self.members.iter().map(|(id, keys)| (*id, sign(keys))).collect()
    }
}
