//! Who holds which keys: fast ones that resist nobody in most runs, the real ones in some.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::Setup;
use crate::crypto::{Identity, Keychain, NewKey, Principal, PublicKey, PublicKeys, Scope, SeedRng};

/// The keys of everybody in a run.
#[derive(Debug)]
pub(super) struct Keys {
    scope: Scope,
    public: PublicKeys,
    real: bool,
    /// Everybody's latest NEW-KEY. Empty with fast keys.
    announced: BTreeMap<Principal, NewKey>,
}

impl Keys {
    pub(super) fn new(setup: &Setup) -> Self {
        let configuration = &setup.configuration;
        Self {
            scope: configuration.scope(),
            public: configuration.public_keys(),
            real: setup.real_keys,
            announced: BTreeMap::new(),
        }
    }

    /// The keys of a process of `me` that starts, and what the others must hear of them.
    pub(super) fn begin(&mut self, me: Principal) -> (Keychain, Option<NewKey>) {
        if !self.real {
            return (Keychain::fast(self.scope, self.public.clone(), me), None);
        }
        let epoch = self.announced.get(&me).map_or(1, |new_key| new_key.epoch + 1);
        let mut keychain = Keychain::new(self.scope, self.public.clone(), me, identity(me).clone());
        let new_key = keychain.renew(epoch, secret(me, epoch)).clone();
        for other in self.announced.values() {
            // It refuses its own one and, at a client, those of clients.
            _ = keychain.accept(other);
        }
        self.announced.insert(me, new_key.clone());
        (keychain, Some(new_key))
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

/// A well-formed public key that belongs to nobody; with fast keys it is never used.
pub(super) fn placeholder(index: u32) -> PublicKey {
    let mut der = vec![0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00, 0xc5];
    der.extend((0..255u32).map(|byte| u8::try_from((byte * 167 + 13) % 256).expect("below 256")));
    let end = der.len();
    der[end - 5..end - 1].copy_from_slice(&index.to_be_bytes());
    der[end - 1] |= 1; // a modulus is odd
    der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
    PublicKey::from_der(der.into()).expect("an odd modulus of 2048 bits")
}
