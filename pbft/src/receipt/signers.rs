use super::Receipt;
use crate::{
    crypto::{Domain, Identity, Keychain, Kind, Principal, SeedRng},
    group::{Configuration, GroupId, ReplicaId, Sequence},
    history::History,
    message::{Leaf, root_statement},
};

/// Four replicas with real keys that sign what they are told to: for tests of whoever checks receipts.
#[derive(Debug)]
pub struct Signers {
    /// Their group.
    pub configuration: Configuration,
    /// The keys of each.
    pub keychains: Vec<Keychain>,
}

impl Signers {
    /// Those of a seed, which names their group, too.
    ///
    /// # Panics
    /// When no keys can be made.
    #[must_use]
    pub fn new(seed: u8) -> Self {
        let mut rng = SeedRng::new([seed; 32]);
        let identities: Vec<_> = (0..4).map(|_| Identity::generate(&mut rng).expect("a key")).collect();
        let keys = identities.iter().map(|identity| identity.public_key().clone()).collect();
        let configuration = Configuration::genesis(GroupId([seed; 16]), keys, vec![]);
        let keychains = (0..).map(ReplicaId).zip(identities).map(|(id, identity)| {
            let (scope, keys) = (configuration.scope(), configuration.public_keys());
            Keychain::new(scope, keys, Principal::Replica(id), identity)
        });
        Self { keychains: keychains.collect(), configuration }
    }

    /// The receipt of the leaf at a position of a history, whose root these replicas sign after a batch.
    ///
    /// # Panics
    /// When the history has no such position, or there is no such replica.
    #[must_use]
    pub fn receipt(
        &self,
        (position, leaf): (u64, Leaf),
        history: &History,
        sequence: Sequence,
        signers: &[u32],
    ) -> Receipt {
        let statement = root_statement(sequence, history.size(), &history.root());
        let sign = |&index: &u32| {
            let keychain = &self.keychains[index as usize];
            (ReplicaId(index), keychain.sign(Domain::new(Kind::Seal, 0), &statement))
        };
        Receipt {
            group: self.configuration.group,
            configuration: self.configuration.number,
            leaf,
            position,
            size: history.size(),
            sequence,
            path: history.path(position).expect("it was appended"),
            signatures: signers.iter().map(sign).collect(),
        }
    }
}
