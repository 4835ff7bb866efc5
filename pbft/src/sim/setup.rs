//! What a run begins with.

use std::time::Duration;

use super::Weather;
use super::keys::{self, Holder};
use crate::client::ClientSettings;
use crate::crypto::{Principal, PublicKey};
use crate::group::{ClientId, Configuration, GroupId, Permutation, ReplicaId};
use crate::replica::Settings;

/// What a simulated cluster is made of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Everything random comes from it.
    pub seed: u64,
    /// The group.
    pub configuration: Configuration,
    /// Every replica's settings.
    pub settings: Settings,
    /// Every client's settings.
    pub client_settings: ClientSettings,
    /// The network.
    pub weather: Weather,
    /// The shortest and the longest time that a sync of the disk takes.
    pub sync: (Duration, Duration),
    /// Whether every message is encoded and decoded on its way.
    pub through_wire: bool,
    /// Whether tags and signatures are the real ones; else they are fast ones that resist nobody.
    pub real_keys: bool,
}

impl Setup {
    /// A calm group of `3f + 1` replicas and some clients.
    #[must_use]
    pub fn new(f: u32, clients: u32) -> Self {
        let keys = |first: u32, count: u32| (first..first + count).map(PublicKey::fixture).collect();
        Self {
            seed: 0,
            configuration: Configuration {
                permutation: Permutation::Identity,
                ..Configuration::genesis(
                    GroupId(*b"simulated group."),
                    keys(0, 3 * f + 1),
                    keys(1000, clients),
                )
            },
            settings: Settings::default(),
            client_settings: ClientSettings::default(),
            weather: Weather::calm(),
            sync: (Duration::from_micros(100), Duration::from_micros(100)),
            through_wire: false,
            real_keys: false,
        }
    }

    /// The same with real keys: RSA identities that are generated once in a process.
    #[must_use]
    pub fn with_real_keys(mut self) -> Self {
        let configuration = &mut self.configuration;
        for (index, key) in (0..).zip(&mut configuration.replicas) {
            *key =
                keys::identity(Holder::Member(Principal::Replica(ReplicaId(index)), 0)).public_key().clone();
        }
        for (index, key) in (0..).zip(&mut configuration.clients) {
            *key = keys::identity(Holder::Member(Principal::Client(ClientId(index)), 0)).public_key().clone();
        }
        if let Some(key) = &mut configuration.operator {
            *key = keys::identity(Holder::Operator).public_key().clone();
        }
        self.real_keys = true;
        self
    }
}
