//! Twins (Bano et al., 2020): two replicas under one identity, each with its own disk, and both correct
//! but for that. Every other principal deals with one of them at a time; who deals with which
//! changes as time passes.

use std::time::Duration;

use super::Lie;
use crate::crypto::Principal;
use crate::group::splitmix;
use crate::time::Instant;

use super::super::random::Random;

#[derive(Debug)]
pub(super) struct Twins {
    seed: u64,
    /// How long everybody stays on a side.
    period: Duration,
}

impl Twins {
    /// All twins of a run see the same sides.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let period = random.between(Duration::from_millis(50), Duration::from_secs(1));
        Self { seed: random.number(), period }
    }
}

impl Lie for Twins {
    fn side(&self, peer: Principal, now: Instant) -> usize {
        let turn = now.since(Instant(0)).as_nanos() / self.period.as_nanos();
        let [.., a, b, c, d] = peer.to_bytes();
        let mut state = self.seed ^ u64::from(u32::from_be_bytes([a, b, c, d]));
        state ^= u64::try_from(turn).expect("a run is shorter than centuries") << 32;
        usize::from(splitmix(&mut state) & 1 == 1)
    }
}
