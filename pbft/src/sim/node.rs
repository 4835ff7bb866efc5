//! Where replicas run: their disks and clocks, and how they start and stop.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::adversary::Adversary;
use super::clock::Clock;
use super::disk::Disk;
use super::{Cluster, Event, Executed, Witness, keys};
use crate::crypto::{Keychain, NewKey, Principal};
use crate::group::{Configuration, ReplicaId};
use crate::membership::Chain;
use crate::replica::Replica;
use crate::service::Service;
use crate::time::Instant;

/// A place where a replica runs. Those of the configuration come first, in the order of their
/// indices; twins of faulty ones come behind.
#[derive(Debug)]
pub(super) struct Node<S> {
    pub(super) id: ReplicaId,
    /// `None` while it is down.
    pub(super) replica: Option<Replica<Witness<S>>>,
    pub(super) disk: Disk,
    pub(super) clock: Clock,
    /// Counts restarts: events of an earlier life find nobody.
    pub(super) life: u64,
    pub(super) syncing: bool,
    pub(super) wake: Option<Instant>,
    pub(super) seen: Rc<RefCell<Vec<Executed>>>,
    /// The number of the configuration in which it heard all NEW-KEYs last.
    pub(super) met: u64,
    /// What its process was started with: it begins with the same for ever.
    pub(super) origin: Chain,
    /// The next operation goes wrong.
    pub(super) strays: Rc<Cell<bool>>,
    /// It went wrong, without lying.
    pub(super) strayed: bool,
    /// Somebody else spoke in its name, so that it may be accused.
    pub(super) impersonated: bool,
}

/// How long refreshed session keys are good for yet: longer than most messages are on their way.
const KEY_GRACE: Duration = Duration::from_millis(50);

impl<S: Service + Clone> Node<S> {
    /// A place with an empty disk, where nothing runs yet.
    pub(super) fn new(id: ReplicaId, origin: Chain, sync_time: (Duration, Duration)) -> Self {
        Self {
            id,
            replica: None,
            disk: Disk::new(origin.latest(), id, sync_time),
            clock: Clock::default(),
            life: 0,
            syncing: false,
            wake: None,
            seen: Rc::default(),
            met: origin.latest().number,
            origin,
            strays: Rc::default(),
            strayed: false,
            impersonated: false,
        }
    }

    /// What a replica's statements are made in.
    pub(super) fn configuration(&self) -> &Configuration {
        self.replica.as_ref().map_or(self.origin.latest(), Replica::configuration)
    }

    fn witness(&self, service: &S) -> Witness<S> {
        let (seen, strays) = (Rc::clone(&self.seen), Rc::clone(&self.strays));
        Witness { service: service.clone(), seen, strays }
    }

    /// Loses its disk and all memory; whoever starts there next has never run before.
    pub(super) fn forget(&mut self, origin: Chain) {
        *self = Self {
            life: self.life + 1,
            clock: self.clock,
            strayed: self.strayed,
            impersonated: self.impersonated,
            ..Self::new(self.id, origin, self.disk.sync_time)
        };
    }
}

impl<S: Service + Clone> Cluster<S> {
    /// The keys of a process that starts. Whoever is up hears its NEW-KEY, as when a connection comes up.
    pub(super) fn begin(&mut self, me: Principal, configuration: &Configuration) -> Keychain {
        let (keychain, new_key) = self.keys.begin(me, configuration);
        if let Some(new_key) = new_key {
            self.announce(&new_key);
        }
        keychain
    }

    /// Whoever is up hears a NEW-KEY.
    fn announce(&mut self, new_key: &NewKey) {
        for replica in self.nodes.iter_mut().filter_map(|node| node.replica.as_mut()) {
            keys::hear(replica.keychain_mut(), new_key);
        }
        for host in &mut self.hosts {
            keys::hear(host.client.keychain_mut(), new_key);
        }
    }

    /// Everybody who is up takes new session keys and hears those of the others. The former ones are good for
    /// a grace yet. Fast keys have no epochs.
    pub fn refresh_keys(&mut self) {
        if !self.setup.real_keys {
            return;
        }
        for node in 0..self.nodes.len() {
            let replica = self.nodes[node].replica.as_mut();
            if let Some(new_key) = replica.and_then(|replica| self.keys.renew(replica.keychain_mut())) {
                self.announce(&new_key);
            }
        }
        for host in 0..self.hosts.len() {
            if let Some(new_key) = self.keys.renew(self.hosts[host].client.keychain_mut()) {
                self.announce(&new_key);
            }
        }
        self.checkers.keys_refreshed();
        self.schedule(self.now + KEY_GRACE, Event::ExpireKeys);
        self.note(&[7]);
    }

    /// The grace of all session keys but the latest ends.
    pub(super) fn expire_keys(&mut self) {
        for replica in self.nodes.iter_mut().filter_map(|node| node.replica.as_mut()) {
            replica.keychain_mut().expire_old();
        }
        for host in &mut self.hosts {
            host.client.keychain_mut().expire_old();
        }
        self.checkers.keys_expired();
    }

    /// A replica starts in a place, from its disk or, if that is empty, anew.
    ///
    /// # Panics
    /// When its journal cannot be replayed: it wrote it itself.
    pub(super) fn start(&mut self, node: usize) {
        let id = self.nodes[node].id;
        let origin = self.nodes[node].origin.clone();
        let keys = self.begin(Principal::Replica(id), origin.latest());
        self.nodes[node].met = origin.latest().number;
        let (settings, place) = (self.setup.settings.clone(), &mut self.nodes[node]);
        let witness = place.witness(&self.service);
        place.replica = Some(if !place.disk.is_empty() {
            Replica::recover(&origin, id, keys, witness, settings, place.disk.records())
                .expect("a replica reads what it wrote")
        } else if origin.last().is_some() {
            Replica::join(&origin, id, keys, witness, settings)
        } else {
            Replica::new(origin.latest().clone(), id, keys, witness, settings)
        });
    }

    /// Stops a replica at once. Its disk keeps what was durable, and maybe more.
    pub fn crash(&mut self, id: ReplicaId) {
        for node in self.places(id) {
            let node = &mut self.nodes[node];
            if node.replica.take().is_some() {
                node.life += 1;
                node.syncing = false;
                node.wake = None;
                self.counts.torn += u64::from(node.disk.crash(&mut self.random));
                if self.liars.kind(id) == Some(Adversary::Amnesia) {
                    node.forget(node.origin.clone());
                }
                self.note(&[1, id.0.into()]);
            }
        }
    }

    /// Starts a replica again from its disk.
    pub fn restart(&mut self, id: ReplicaId) {
        for node in self.places(id) {
            if self.nodes[node].replica.is_none() {
                self.start(node);
                self.note(&[2, id.0.into()]);
                self.drive(node);
            }
        }
    }

    /// The next operation that a replica executes goes wrong there, as on a faulty machine. What it executes
    /// and says is no checker's business any more.
    pub fn stray(&mut self, id: ReplicaId) {
        let node = &mut self.nodes[id.index()];
        node.strays.set(true);
        node.strayed = true;
    }

    /// A replica's clock leaps ahead, and from now on counts so many ticks in a million real ones.
    pub fn set_clock(&mut self, id: ReplicaId, leap: Duration, ticks: u64) {
        for node in self.places(id) {
            self.nodes[node].clock.set(self.now, leap, ticks);
            self.set_alarm(node);
        }
    }

    /// The shortest and the longest time that a sync of a replica's disk takes from now on.
    pub fn set_disk(&mut self, id: ReplicaId, sync: (Duration, Duration)) {
        for node in self.places(id) {
            self.nodes[node].disk.sync_time = sync;
        }
    }
}
