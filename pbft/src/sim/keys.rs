//! Who holds which keys: fast ones that resist nobody in most runs, the real ones in some.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Setup;
use crate::crypto::{Identity, KeyRefused, Keychain, NewKey, Principal, SeedRng};
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
        let mut keychain = Keychain::new(scope, public, me, identity(holder(me, configuration)).clone());
        let new_key = self.renew(&mut keychain);
        self.meet(&mut keychain);
        (keychain, new_key)
    }

    /// Renews the keys of a process. Gives what the others must hear of it; nothing of fast keys.
    pub(super) fn renew(&mut self, keychain: &mut Keychain) -> Option<NewKey> {
        if !self.real {
            return None;
        }
        let me = keychain.me();
        let epoch = self.announced.get(&me).map_or(1, |new_key| new_key.epoch + 1);
        let new_key = keychain.renew(epoch, secret(me, epoch)).clone();
        self.announced.insert(me, new_key.clone());
        Some(new_key)
    }

    /// Shows everybody's latest NEW-KEY to a process that starts, or whose configuration is another one.
    pub(super) fn meet(&self, keychain: &mut Keychain) {
        for other in self.announced.values() {
            hear(keychain, other);
        }
    }
}

/// A NEW-KEY reaches somebody.
pub(super) fn hear(keychain: &mut Keychain, new_key: &NewKey) {
    match keychain.accept(new_key) {
        // Its own one and, at a client, those of clients; and of whoever has another key in another
        // configuration.
        Ok(_) | Err(KeyRefused::Sender(_) | KeyRefused::Signature(_)) => {}
        Err(refused) => panic!("a NEW-KEY of its owner's is refused: {refused}"),
    }
}

/// Keys to check others' signatures with, by somebody who says nothing.
pub(super) fn silent(real: bool, configuration: &Configuration) -> Keychain {
    let (scope, public, me) =
        (configuration.scope(), configuration.public_keys(), Principal::Replica(ReplicaId(0)));
    if real {
        Keychain::new(scope, public, me, identity(Holder::Member(me, 0)).clone())
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

/// Somebody with an identity of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Holder {
    /// A client, or a replica by the number of the configuration that gave it its place.
    Member(Principal, u64),
    /// Whoever has members replaced.
    Operator,
}

/// Who a process of `me` is that began in a configuration.
fn holder(me: Principal, configuration: &Configuration) -> Holder {
    match me {
        Principal::Replica(_) => Holder::Member(me, configuration.number),
        Principal::Client(_) => Holder::Member(me, 0),
    }
}

/// Who this is, the same in all runs of a process, and in all processes: generating one takes long.
pub(super) fn identity(holder: Holder) -> &'static Identity {
    static KNOWN: Mutex<BTreeMap<Holder, &'static Identity>> = Mutex::new(BTreeMap::new());
    // Whoever panics in another run leaves no half an entry.
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    known.entry(holder).or_insert_with(|| {
        let mut seed = [0xa5; 32];
        match holder {
            Holder::Member(principal, number) => {
                seed[..5].copy_from_slice(&principal.to_bytes());
                seed[5..13].copy_from_slice(&number.to_be_bytes());
            }
            Holder::Operator => seed[0] = u8::MAX,
        }
        let identity = Identity::generate(&mut SeedRng::new(seed)).expect("2048 bits are in range");
        Box::leak(Box::new(identity)) // they are few, and kept to the end anyway
    })
}
