//! Members that are replaced: the operator orders it through a client, and a newcomer with an empty disk
//! takes the place.

use super::keys::{self, Holder};
use super::{Cluster, Setup};
use crate::client::{RequestId, SubmitRefused};
use crate::crypto::{Principal, PublicKey};
use crate::group::{ClientId, ReplicaId};
use crate::membership::{Chain, Reconfigure};
use crate::service::Service;

impl Setup {
    /// Gives the group an operator, who may have members replaced.
    pub fn with_operator(&mut self) {
        let real = self.real_keys.then(|| keys::identity(Holder::Operator).public_key().clone());
        self.configuration.operator = Some(real.unwrap_or_else(|| PublicKey::fixture(9_999)));
    }
}

impl<S: Service + Clone> Cluster<S> {
    /// The operator orders, through a client, that replicas are replaced in the configuration that the
    /// client takes for the one in force.
    ///
    /// # Errors
    /// As [`Client::submit`](crate::Client::submit).
    ///
    /// # Panics
    /// When real keys are at stake, and the operator may not order that: more than f replicas, or none.
    pub fn order_replacement(
        &mut self,
        client: ClientId,
        replaced: &[ReplicaId],
    ) -> Result<RequestId, SubmitRefused> {
        let configuration = self.hosts[client.index()].client.configuration().clone();
        let number = configuration.number + 1;
        let order = if self.setup.real_keys {
            let newcomer = |id: ReplicaId| keys::identity(Holder::Member(Principal::Replica(id), number));
            let keys = replaced.iter().map(|id| (*id, newcomer(*id).public_key().clone())).collect();
            let order = Reconfigure::sign(&configuration, keys, keys::identity(Holder::Operator));
            order.expect("the operator replaces at most f")
        } else {
            let number = u32::try_from(number).expect("few");
            let key = |id: &ReplicaId| (*id, PublicKey::fixture(10_000 + 100 * number + id.0));
            Reconfigure::sign_fast(&configuration, replaced.iter().map(key).collect())
        };
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
        let known = self.nodes[id.index()].origin.latest().number;
        let origin = self.chain_beside(id);
        let given = origin.last().is_some_and(|succession| succession.reconfigure.replaces(id));
        if origin.latest().number <= known || !given {
            return false;
        }
        self.crash(id);
        self.liars.remove(id);
        self.nodes[id.index()].forget(origin);
        self.nodes[id.index()].strayed = false;
        self.start(id.index());
        self.note(&[5, id.0.into()]);
        self.drive(id.index());
        true
    }

    /// The longest chain that any correct replica but `id` can show.
    ///
    /// # Panics
    /// When what it shows is no chain.
    #[must_use]
    pub fn chain_beside(&self, id: ReplicaId) -> Chain {
        let correct = self.replica_ids().filter(|other| *other != id && self.is_correct(*other));
        let replicas = correct.filter_map(|other| self.nodes[other.index()].replica.as_ref());
        let latest = replicas.max_by_key(|replica| replica.configuration().number);
        let mut chain = Chain::new(self.setup.configuration.clone());
        for succession in latest.map_or(&[][..], |latest| latest.successions()) {
            let keys = keys::silent(self.setup.real_keys, chain.latest());
            chain.extend_by(succession.clone(), &keys).expect("whoever is correct proves all of it");
        }
        chain
    }

    /// A place's liar goes over to the next configuration with it. One that was replaced does not: it has
    /// none of the keys of whoever came in its place.
    pub(super) fn follow(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let number = node.configuration().number;
        if node.met != number
            && let Some(replica) = &mut node.replica
        {
            // Connections to whoever was replaced are gone, and new ones begin with NEW-KEY.
            node.met = number;
            self.keys.meet(replica.keychain_mut());
        }
        let node = &self.nodes[index];
        if node.replica.as_ref().is_none_or(|replica| !replica.is_retired()) {
            self.liars.follow(node.id, node.configuration());
        }
    }
}
