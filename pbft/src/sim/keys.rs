//! Who holds which keys: fast ones that resist nobody in most runs, the real ones in some.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::Setup;
use crate::crypto::{Identity, Keychain, NewKey, Principal, SeedRng};
use crate::group::{Configuration, ReplicaId};

/// The keys of everybody in a run.
#[derive(Debug)]
pub(super) struct Keys {
    real: bool,
    /// Everybody's latest NEW-KEY. Empty with fast keys.
    announced: BTreeMap<Principal, NewKey>,
}

impl Keys {
    pub(super) fn new(setup: &Setup) -> Self {
        Self { real: setup.real_keys, announced: BTreeMap::new() }
    }

    /// The keys of a process of `me` that starts in a configuration, and what the others must hear of them.
    pub(super) fn begin(
        &mut self,
        me: Principal,
        configuration: &Configuration,
    ) -> (Keychain, Option<NewKey>) {
        let (scope, public) = (configuration.scope(), configuration.public_keys());
        if !self.real {
            return (Keychain::fast(scope, public, me), None);
        }
        let epoch = self.announced.get(&me).map_or(1, |new_key| new_key.epoch + 1);
        let mut keychain = Keychain::new(scope, public, me, identity(me).clone());
        let new_key = keychain.renew(epoch, secret(me, epoch)).clone();
        for other in self.announced.values() {
            // It refuses its own one and, at a client, those of clients.
            _ = keychain.accept(other);
        }
        self.announced.insert(me, new_key.clone());
        (keychain, Some(new_key))
    }
}

/// Keys to check others' signatures with, by somebody who says nothing.
pub(super) fn silent(real: bool, configuration: &Configuration) -> Keychain {
    let (scope, public, me) =
        (configuration.scope(), configuration.public_keys(), Principal::Replica(ReplicaId(0)));
    if real {
        Keychain::new(scope, public, me, identity(me).clone())
    } else {
        Keychain::fast(scope, public, me)
    }
}

/// The secret of an epoch: it has to differ from others, and to be the same in every run.
fn secret(me: Principal, epoch: u64) -> [u8; 32] {
    let mut secret = [0x5a; 32];
    secret[..5].copy_from_slice(&me.to_bytes());
    secret[5..13].copy_from_slice(&epoch.to_be_bytes());
    secret
}

/// The most principals of a kind that have real keys.
const IDENTITIES_MAX: usize = 16;

/// Who this is, the same in all runs of a process, and in all processes: generating one takes long.
///
/// # Panics
/// When there are more principals than a run has.
pub(super) fn identity(principal: Principal) -> &'static Identity {
    static REPLICAS: [OnceLock<Identity>; IDENTITIES_MAX] = [const { OnceLock::new() }; IDENTITIES_MAX];
    static CLIENTS: [OnceLock<Identity>; IDENTITIES_MAX] = [const { OnceLock::new() }; IDENTITIES_MAX];
    let place = match principal {
        Principal::Replica(id) => &REPLICAS[id.index()],
        Principal::Client(id) => &CLIENTS[id.index()],
    };
    place.get_or_init(|| {
        let mut seed = [0xa5; 32];
        seed[..5].copy_from_slice(&principal.to_bytes());
        Identity::generate(&mut SeedRng::new(seed)).expect("2048 bits are in range")
    })
}
