//! Members that are replaced: the operator orders it through a client, and a newcomer with an empty disk
//! takes the place.

use std::rc::Rc;

use super::{Cluster, Disk, Node, Setup, Witness};
use crate::client::{RequestId, SubmitRefused};
use crate::crypto::{Keychain, Principal, PublicKey, Scope};
use crate::group::{ClientId, Configuration, Group, ReplicaId};
use crate::membership::{Reconfigure, Succession};
use crate::replica::Replica;
use crate::service::Service;

/// What a replica's process was started with: it begins with the same for ever.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) configuration: Configuration,
    /// None for the genesis.
    pub(super) succession: Option<Succession>,
}

impl Setup {
    /// Gives the group an operator, who may have members replaced.
    pub fn with_operator(&mut self) {
        self.configuration.operator = Some(PublicKey::fixture(9_999));
    }
}

impl<S: Service + Clone> Cluster<S> {
    /// The operator orders, through a client, that replicas are replaced in the configuration that the
    /// client takes for the one in force.
    ///
    /// # Errors
    /// As [`Client::submit`](crate::Client::submit).
    pub fn order_replacement(
        &mut self,
        client: ClientId,
        replaced: &[ReplicaId],
    ) -> Result<RequestId, SubmitRefused> {
        let configuration = self.hosts[client.index()].client.configuration().clone();
        let number = u32::try_from(configuration.number + 1).expect("few");
        let key = |id: &ReplicaId| (*id, PublicKey::fixture(10_000 + 100 * number + id.0));
        let order = Reconfigure::sign_fast(&configuration, replaced.iter().map(key).collect());
        self.submit_reconfigure(client, &order)
    }

    /// A client has members replaced as somebody orders it, rightly or not.
    ///
    /// # Errors
    /// As [`Client::submit`](crate::Client::submit).
    pub fn submit_reconfigure(
        &mut self,
        client: ClientId,
        order: &Reconfigure,
    ) -> Result<RequestId, SubmitRefused> {
        let now = self.now;
        let host = &mut self.hosts[client.index()];
        let id = host.client.submit_reconfigure(now, order)?;
        host.orders.insert(id);
        self.drive_client(client);
        Ok(id)
    }

    /// Starts a newcomer, with an empty disk, in a place that was given away, once some replica knows of
    /// it. Whoever had the place is gone. Says whether there was a place to take.
    pub fn replace(&mut self, id: ReplicaId) -> bool {
        let known = self.nodes[id.index()].origin.configuration.number;
        let correct = self.replica_ids().filter(|other| *other != id && self.is_correct(*other));
        let replicas = correct.filter_map(|other| self.nodes[other.index()].replica.as_ref());
        let latest = replicas.max_by_key(|replica| replica.configuration().number);
        let Some((configuration, succession)) = latest
            .and_then(|latest| Some((latest.configuration().clone(), latest.successions().last()?.clone())))
        else {
            return false;
        };
        if configuration.number <= known || !succession.reconfigure.replaces(id) {
            return false;
        }
        self.crash(id);
        let origin = Origin { configuration, succession: Some(succession) };
        self.nodes[id.index()].disk = Disk::new(Group::new(&origin.configuration), &origin.configuration);
        self.nodes[id.index()].adversary = None;
        self.nodes[id.index()].strayed = false;
        self.nodes[id.index()].origin = origin;
        let replica = self.fresh(id);
        self.nodes[id.index()].replica = Some(replica);
        self.note(&[5, id.0.into()]);
        self.drive(id);
        true
    }

    /// A replica with nothing on its disk.
    pub(super) fn fresh(&self, id: ReplicaId) -> Replica<Witness<S>> {
        let node = &self.nodes[id.index()];
        let Origin { configuration, succession } = node.origin.clone();
        let keychain = self.origin_keys(id);
        let service = self.witness(id);
        let settings = self.setup.settings.clone();
        match succession {
            Some(succession) => Replica::join(configuration, succession, id, keychain, service, settings),
            None => Replica::new(configuration, id, keychain, service, settings),
        }
    }

    pub(super) fn witness(&self, id: ReplicaId) -> Witness<S> {
        let node = &self.nodes[id.index()];
        let (seen, strays) = (Rc::clone(&node.seen), Rc::clone(&node.strays));
        Witness { service: self.service.clone(), seen, strays }
    }

    /// The keys that a replica begins with.
    pub(super) fn origin_keys(&self, id: ReplicaId) -> Keychain {
        let configuration = &self.nodes[id.index()].origin.configuration;
        Keychain::fast(configuration.scope(), configuration.public_keys(), Principal::Replica(id))
    }

    /// What a replica's statements are made in.
    pub(super) fn scope_of(&self, id: ReplicaId) -> Scope {
        let node = &self.nodes[id.index()];
        let replica = node.replica.as_ref().map(Replica::configuration);
        replica.unwrap_or(&node.origin.configuration).scope()
    }

    /// A replica's liar goes over to the next configuration with it.
    pub(super) fn follow(&mut self, id: ReplicaId) {
        let Node { replica: Some(replica), adversary: Some(adversary), .. } = &mut self.nodes[id.index()]
        else {
            return;
        };
        adversary.follow(replica.configuration());
    }
}
