//! Members that are replaced: the operator orders it through a client, and a newcomer with an empty disk
//! takes the place.

use std::rc::Rc;

use super::{Cluster, Node, Setup, Witness};
use crate::client::{RequestId, SubmitRefused};
use crate::crypto::{Keychain, Principal, PublicKey};
use crate::group::{ClientId, Configuration, ReplicaId};
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
        self.liars.remove(id);
        let origin = Origin { configuration, succession: Some(succession) };
        let newcomer = self.fresh_node(id, origin);
        let node = &mut self.nodes[id.index()];
        *node = Node { life: node.life, impersonated: node.impersonated, ..newcomer };
        self.note(&[5, id.0.into()]);
        self.drive(id.index());
        true
    }

    /// A replica with nothing on its disk, to run in a place.
    pub(super) fn fresh(&self, node: &Node<S>) -> Replica<Witness<S>> {
        let Origin { configuration, succession } = node.origin.clone();
        let (id, keychain, service) = (node.id, node.origin_keys(), self.witness(node));
        let settings = self.setup.settings.clone();
        match succession {
            Some(succession) => Replica::join(configuration, succession, id, keychain, service, settings),
            None => Replica::new(configuration, id, keychain, service, settings),
        }
    }

    pub(super) fn witness(&self, node: &Node<S>) -> Witness<S> {
        let (seen, strays) = (Rc::clone(&node.seen), Rc::clone(&node.strays));
        Witness { service: self.service.clone(), seen, strays }
    }

    /// A place's liar goes over to the next configuration with it.
    pub(super) fn follow(&mut self, node: usize) {
        let node = &self.nodes[node];
        self.liars.follow(node.id, node.configuration());
    }
}

impl<S: Service> Node<S> {
    /// The keys that a replica begins with.
    pub(super) fn origin_keys(&self) -> Keychain {
        let configuration = &self.origin.configuration;
        Keychain::fast(configuration.scope(), configuration.public_keys(), Principal::Replica(self.id))
    }

    /// What a replica's statements are made in.
    pub(super) fn configuration(&self) -> &Configuration {
        self.replica.as_ref().map_or(&self.origin.configuration, Replica::configuration)
    }
}
