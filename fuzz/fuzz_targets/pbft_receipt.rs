//! Any bytes give a receipt or an error; a receipt has one encoding, and nobody but the group's
//! replicas makes one that verifies.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use quorate_pbft::{
    Configuration, GroupId, Permutation,
    crypto::{Identity, SeedRng},
    receipt::Receipt,
};

static CONFIGURATION: LazyLock<Configuration> = LazyLock::new(|| {
    let mut rng = SeedRng::new([1; 32]);
    let replicas = (0..4).map(|_| Identity::generate(&mut rng).expect("2048 bits are in range"));
    Configuration {
        permutation: Permutation::Identity,
        ..Configuration::genesis(
            GroupId([5; 16]),
            replicas.map(|identity| identity.public_key().clone()).collect(),
            vec![],
        )
    }
});

fuzz_target!(|data: &[u8]| {
    let Ok(mut receipt) = Receipt::from_bytes(data) else { return };
    assert_eq!(receipt.to_bytes(), data, "a receipt has one encoding");
    let _ = receipt.signers();
    // Past the first checks, to the path and the signatures.
    receipt.group = CONFIGURATION.group;
    receipt.configuration = CONFIGURATION.number;
    receipt.verify(&CONFIGURATION).expect_err("nobody signed this");
});
