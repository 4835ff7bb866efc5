//! Any bytes give a proof of misbehaviour, an order to replace members, a chain of configurations, or an error.
//! A proof and an order have one encoding, and nobody is convicted by what nobody signed.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quorate_pbft::{
    Configuration, GroupId, MisbehaviourProof,
    crypto::{Identity, SeedRng},
    membership::{Chain, Reconfigure},
};

static CONFIGURATION: LazyLock<Configuration> = LazyLock::new(|| {
    let mut rng = SeedRng::new([1; 32]);
    let mut key = || Identity::generate(&mut rng).expect("2048 bits are in range").public_key().clone();
    let mut configuration = Configuration::genesis(GroupId([5; 16]), (0..4).map(|_| key()).collect(), vec![]);
    configuration.operator = Some(key());
    configuration
});

fuzz_target!(|data: &[u8]| {
    if let Ok(mut proof) = MisbehaviourProof::from_bytes(data) {
        assert_eq!(proof.to_bytes(), data, "a proof has one encoding");
        // Past the first checks, to what is signed.
        (proof.group, proof.configuration) = (CONFIGURATION.group, CONFIGURATION.number);
        proof.verify(&CONFIGURATION).expect_err("nobody signed this");
    }
    if let Ok(order) = Reconfigure::from_bytes(data) {
        assert_eq!(order.to_bytes(), data, "an order has one encoding");
    }
    if let Ok(chain) = Chain::from_bytes(data) {
        assert_eq!(Chain::from_bytes(&chain.to_bytes()), Ok(chain));
    }
});
