//! The configuration of a group and its arithmetic.
#![cfg(feature = "sim")]

use std::collections::BTreeSet;

use quorate_pbft::sim::Setup;
use quorate_pbft::{
    Configuration, Group, GroupId, InvalidConfiguration, Permutation, ReplicaId, View, Voters,
};

#[test]
fn configuration_is_read_back_as_it_was_written() {
    for f in [1, 2, 42] {
        let configuration = Setup::new(f, 3).configuration;
        let bytes = configuration.to_bytes();
        assert_eq!(Configuration::from_bytes(&bytes), Ok(configuration));
    }
    let bytes = Setup::new(1, 1).configuration.to_bytes();
    for length in (0..bytes.len()).step_by(7) {
        assert!(Configuration::from_bytes(&bytes[..length]).is_err(), "cut short at {length}");
    }
}

#[test]
fn configuration_names_the_limit_that_is_broken() {
    let mut configuration = Setup::new(1, 1).configuration;
    configuration.limits.reply_bytes_max = 1 << 28;
    configuration.validate().expect_err("a client's pages would run into the next one's");
    let mut configuration = Setup::new(1, 1).configuration;
    configuration.limits.window = configuration.limits.checkpoint_period;
    let refused = configuration.validate().expect_err("L must be twice K");
    assert_eq!(refused.to_string(), "window is 128, but must be from 256 to 16373");
    let mut configuration = Setup::new(1, 1).configuration;
    configuration.f = 2;
    assert_eq!(configuration.validate(), Err(InvalidConfiguration::ReplicaCount { f: 2, count: 4 }));
}

#[test]
fn every_replica_leads_once_in_n_views() {
    let mut configuration = Setup::new(2, 1).configuration;
    configuration.permutation = Permutation::Seeded;
    let mut first = BTreeSet::new();
    for name in 0..50 {
        configuration.group = GroupId([name; 16]);
        let group = Group::new(&configuration);
        for start in [0, 1, 1000] {
            let leaders: BTreeSet<_> = (start..start + 7).map(|view| group.primary(View(view))).collect();
            assert_eq!(leaders.len(), 7);
        }
        first.insert(group.primary(View(0)));
    }
    assert_eq!(first.len(), 7, "groups with other names have other first primaries");
}

#[test]
fn voter_counts_once() {
    let mut voters = Voters::default();
    assert!(voters.insert(ReplicaId(3)));
    assert!(!voters.insert(ReplicaId(3)));
    assert_eq!(voters.count(), 1);
    assert!(voters.has(ReplicaId(3)) && !voters.has(ReplicaId(2)));
}
