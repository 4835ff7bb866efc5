//! Schedules from seeds.

use std::time::Duration;

use super::{Random, Schedule, Step, Terms, Weather};
use crate::crypto::Principal;
use crate::group::{ClientId, ReplicaId};

/// A schedule that is being drawn.
#[derive(Debug)]
pub(in crate::sim) struct Draw {
    pub(in crate::sim) random: Random,
    pub(in crate::sim) terms: Terms,
    pub(in crate::sim) steps: Vec<Step>,
    /// Operations so far, reads not among them.
    pub(in crate::sim) operations: u64,
    /// Names so far, so that no two operations are alike.
    names: u64,
    /// Replicas that lie, whose clocks are hours off, or that will stay away: at most f.
    faulty: Vec<ReplicaId>,
}

/// Crashes, cuts, storms, clocks, disks and liars, by the clock.
pub(super) fn faults(seed: u64, operations: u64) -> Schedule {
    let mut draw = Draw::begin(seed);
    draw.terms.real_keys = draw.random.chance(10);
    draw.weather(80);
    draw.disks();
    draw.clocks();
    draw.liars();
    draw.withhold();
    while draw.operations < operations {
        if draw.random.chance(600) {
            draw.work();
        }
        draw.harm();
        if draw.terms.real_keys && draw.random.chance(100) {
            draw.steps.push(Step::Refresh);
        }
        draw.pause();
    }
    draw.away();
    draw.end()
}

impl Draw {
    /// Everything about a run follows from its seed.
    pub(in crate::sim) fn begin(seed: u64) -> Self {
        let mut random = Random::new(seed ^ 0xa076_1d64_78bd_642f);
        let period = 1 + random.below(8);
        let terms = Terms {
            seed,
            f: if random.chance(100) { 2 } else { 1 },
            clients: 1 + random.below_u32(3),
            real_keys: false,
            through_wire: random.chance(125),
            seeded: random.chance(500),
            history: random.chance(800),
            checkpoint_period: period,
            window: period * (2 + random.below(3)),
            batch: 1 + random.below_u32(16),
            in_flight: 1 + random.below(4),
            snapshot: random.below(20_000),
            view_timeout: Duration::from_millis(60 + random.below(400)),
            bundle: 1 + random.below_u32(8),
        };
        Self { random, terms, steps: Vec::new(), operations: 0, names: 0, faulty: Vec::new() }
    }

    pub(in crate::sim) fn end(self) -> Schedule {
        Schedule { terms: self.terms, steps: self.steps }
    }

    fn replicas(&self) -> impl Iterator<Item = ReplicaId> + use<> {
        (0..=3 * self.terms.f).map(ReplicaId)
    }

    pub(in crate::sim) fn some_replica(&mut self) -> ReplicaId {
        ReplicaId(self.random.below_u32(3 * self.terms.f + 1))
    }

    fn some_client(&mut self) -> ClientId {
        ClientId(self.random.below_u32(self.terms.clients))
    }

    /// Up to `most` more replicas that are faulty.
    fn some_faulty(&mut self, most: u64) -> Vec<ReplicaId> {
        let mut some = Vec::new();
        for _ in 0..most {
            let id = self.some_replica();
            if self.faulty.len() < self.terms.f as usize && !self.faulty.contains(&id) {
                self.faulty.push(id);
                some.push(id);
            }
        }
        some
    }

    fn weather(&mut self, bad: u64) {
        let least = Duration::from_micros(100);
        let most = Duration::from_micros(200 + self.random.below(20_000));
        let (loss, duplication) = (self.random.below(bad), self.random.below(bad));
        self.steps.push(Step::Weather(Weather { delay_min: least, delay_max: most, loss, duplication }));
    }

    fn disks(&mut self) {
        let most = Duration::from_micros(50 + self.random.below(5_000));
        for replica in self.replicas() {
            self.steps.push(Step::Disk { replica, least: Duration::from_micros(20), most });
        }
    }

    /// Clocks of correct replicas stay closer to one another than `time_ahead_max`, which is 10 s: at
    /// most 2 s from the beginning, and a twentieth of the time that passes either way. One that is
    /// an hour off counts as faulty.
    fn clocks(&mut self) {
        if self.random.chance(400) {
            for replica in self.replicas() {
                let leap = Duration::from_micros(self.random.below(2_000_000));
                let ticks = self.some_ticks();
                self.steps.push(Step::Clock { replica, leap, ticks });
            }
        }
        if self.random.chance(40) {
            let wild = self.some_faulty(1);
            let (leap, ticks) = (Duration::from_secs(3600), 1_000_000);
            let is_ahead = self.random.chance(500);
            for replica in self.replicas().filter(|id| !wild.is_empty() && wild.contains(id) == is_ahead) {
                self.steps.push(Step::Clock { replica, leap, ticks });
            }
        }
    }

    fn some_ticks(&mut self) -> u64 {
        950_000 + self.random.below(100_001)
    }

    /// Up to f replicas lie, from the beginning.
    fn liars(&mut self) {
        if self.random.chance(500) {
            let most = 1 + self.random.below(self.terms.f.into());
            let liars = self.some_faulty(most);
            self.steps.extend(liars.into_iter().map(Step::Lie));
        }
    }

    /// A client sends its large operations to some replicas only.
    fn withhold(&mut self) {
        if self.random.chance(200) {
            let (client, one, side) = (self.some_client(), self.some_replica(), self.random.number());
            let replicas = self.replicas().filter(|id| *id == one || side >> id.0 & 1 == 1).collect();
            self.steps.push(Step::Withhold { client, replicas });
        }
    }

    /// In the end the group has to do without f replicas: those that are faulty, and others.
    fn away(&mut self) {
        if self.random.chance(300) {
            let away = self.some_faulty(self.terms.f.into());
            self.steps.extend(away.into_iter().map(Step::Away));
        }
    }

    /// Some client wants something.
    pub(in crate::sim) fn work(&mut self) {
        let client = self.some_client();
        for _ in 0..self.random.below(8) {
            let name = self.name();
            // Some travel beside their requests.
            let most = if self.random.chance(200) { 3000 } else { 100 };
            let size = usize::try_from(self.random.below(most)).expect("small");
            let receipt = self.terms.history && self.random.chance(100);
            self.steps.push(Step::Submit { client, name, size, receipt });
            self.operations += 1;
        }
        if self.random.chance(100) {
            let name = self.name();
            self.steps.push(Step::Read { client, name });
        }
    }

    fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }

    pub(in crate::sim) fn pause(&mut self) {
        self.steps.push(Step::Wait(Duration::from_micros(100 + self.random.below(60_000))));
    }

    /// Something may go wrong, or get better.
    fn harm(&mut self) {
        if !self.random.chance(400) {
            return;
        }
        match self.random.below(16) {
            0..=2 => self.crash_some(1),
            3 => {
                let some = self.random.below(4);
                self.crash_some(some);
            }
            4 => self.steps.extend(self.replicas().map(Step::Crash)),
            5..=7 => self.steps.extend(self.replicas().map(Step::Restart)),
            8 | 9 => self.cut_some(),
            10 | 11 => self.steps.push(Step::Mend),
            12 => self.weather(300),
            13 => {
                let (replica, least) = (self.some_replica(), Duration::from_micros(20));
                let most = Duration::from_micros(50 + self.random.below(200_000));
                self.steps.push(Step::Disk { replica, least, most });
            }
            14 => {
                let (replica, ticks) = (self.some_replica(), self.some_ticks());
                self.steps.push(Step::Clock { replica, leap: Duration::ZERO, ticks });
            }
            _ if self.random.chance(200) => {
                let client = self.some_client();
                self.steps.push(Step::RestartClient(client));
            }
            _ => {}
        }
    }

    fn crash_some(&mut self, count: u64) {
        for _ in 0..count {
            let id = self.some_replica();
            self.steps.push(Step::Crash(id));
        }
    }

    /// Cuts one replica off, in one direction or both, or splits the group, or takes a client away
    /// from some.
    fn cut_some(&mut self) {
        let replicas: Vec<_> = self.replicas().collect();
        let (odd, side) = (self.some_replica(), self.random.number());
        let is_on_side = |id: &ReplicaId| side >> id.0 & 1 == 1;
        let mut cuts = Vec::new();
        if self.random.chance(150) {
            let client = Principal::Client(self.some_client());
            for replica in replicas.iter().filter(|id| is_on_side(id)) {
                let replica = Principal::Replica(*replica);
                cuts.push(if self.random.chance(500) { (client, replica) } else { (replica, client) });
            }
        } else {
            let split = self.random.chance(300);
            let (out, back) = (self.random.chance(700), self.random.chance(700));
            for a in &replicas {
                for b in replicas.iter().filter(|b| *b != a) {
                    let apart = if split {
                        is_on_side(a) && !is_on_side(b)
                    } else {
                        (*a == odd && out) || (*b == odd && back)
                    };
                    if apart {
                        cuts.push((Principal::Replica(*a), Principal::Replica(*b)));
                    }
                }
            }
        }
        if !cuts.is_empty() {
            self.steps.push(Step::Cut(cuts));
        }
    }
}
