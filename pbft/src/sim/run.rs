//! A whole run with faults from one seed, to its verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::checker::Violation;
use super::{Cluster, Ledger, Random, Setup, Weather};
use crate::client::{ClientSettings, Options};
use crate::crypto::Principal;
use crate::group::{ClientId, Incarnation, Limits, Permutation, ReplicaId};
use crate::message::Ending;
use crate::replica::Settings;

/// What a run was like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The hash of every event.
    pub hash: u64,
    /// Operations that were submitted.
    pub submitted: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// Replicas that crashed.
    pub crashes: u64,
    /// Batches that were executed.
    pub batches: u64,
    /// The highest view that a replica ended in.
    pub views: u64,
    /// Receipts that were given.
    pub receipts: u64,
    /// Replicas that lied.
    pub liars: u64,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed}: {reason}; replay with\n    PBFT_SEED={seed} PBFT_OPERATIONS={operations} cargo test -p quorate-pbft --features sim --test seeds -- replay --nocapture"
)]
pub struct Failed {
    /// The seed.
    pub seed: u64,
    /// The operations that the run was to have.
    pub operations: u64,
    /// What went wrong.
    pub reason: Reason,
}

/// What can go wrong in a run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// A checker objected.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// Everything was healed, and still something was not answered, or somebody stayed behind.
    #[error(
        "liveness: {open} operations are not answered and replicas are at {places:?} a minute after all was healed"
    )]
    Stuck {
        /// Operations without an answer.
        open: usize,
        /// The batches that replicas have executed; `None` for one that is down.
        places: Vec<Option<u64>>,
    },
    /// A client was told that its operation was executed more than once, or not at all.
    #[error("exactly once: client {client} was told that operation {name} was executed {count} times")]
    Count {
        /// Who.
        client: u32,
        /// Which.
        name: u64,
        /// How often.
        count: u64,
    },
    /// An acknowledged operation is not in a replica's state.
    #[error("durability: operation {name} of client {client} is not in the state of replica {replica}")]
    Forgotten {
        /// Where it is missing.
        replica: u32,
        /// Whose it was.
        client: u32,
        /// Which.
        name: u64,
    },
    /// A receipt does not fit its operation.
    #[error("client {client} has a receipt for operation {name} that is for another one")]
    Receipt {
        /// Who.
        client: u32,
        /// Which.
        name: u64,
    },
}

/// Everything about a run follows from its seed.
fn setup(random: &mut Random, seed: u64) -> Setup {
    let f = if random.chance(100) { 2 } else { 1 };
    let mut setup = Setup::new(f, 1 + u32::try_from(random.below(3)).expect("small"));
    let period = 1 + random.below(8);
    setup.seed = seed;
    setup.through_wire = random.chance(125);
    setup.configuration.permutation =
        if random.chance(500) { Permutation::Seeded } else { Permutation::Identity };
    setup.configuration.history = random.chance(800);
    setup.configuration.limits = Limits {
        checkpoint_period: period,
        window: period * (2 + random.below(3)),
        batch_operations_max: 1 + u32::try_from(random.below(16)).expect("small"),
        client_window: 16,
        ..Limits::default()
    };
    setup.settings = Settings {
        batches_in_flight: 1 + random.below(4),
        snapshot_bytes_min: random.below(20_000),
        status_idle: Duration::from_millis(500),
        view_timeout: Duration::from_millis(60 + random.below(400)),
        fetch_timeout: Duration::from_millis(100),
        ..Settings::default()
    };
    setup.client_settings = ClientSettings {
        retry_max: Duration::from_secs(1),
        bundle_operations_max: 1 + u32::try_from(random.below(8)).expect("small"),
        ..ClientSettings::default()
    };
    setup.weather = Weather {
        delay_min: Duration::from_micros(100),
        delay_max: Duration::from_micros(200 + random.below(20_000)),
        loss: random.below(80),
        duplication: random.below(80),
    };
    let sync = Duration::from_micros(50 + random.below(5_000));
    setup.sync = (Duration::from_micros(20), sync);
    setup
}

/// Stands for a read among the names of operations.
const READ: u64 = u64::MAX;

/// The driver of a run: what clients want, and what goes wrong.
struct Run {
    cluster: Cluster<Ledger>,
    random: Random,
    /// Names of operations, so that no two are alike.
    next_name: u64,
    /// What each client waits for, by timestamp in its present life.
    waiting: Vec<BTreeMap<u64, u64>>,
    incarnations: Vec<u64>,
    /// Replicas that stay away in the end.
    away: BTreeSet<ReplicaId>,
    /// Acknowledged operations.
    done: Vec<(ClientId, u64)>,
    report: Report,
}

/// Runs a seed with `operations` operations to its end.
///
/// # Errors
/// Says what a checker objected to, and how to see it again.
pub fn seed(seed: u64, operations: u64) -> Result<Report, Failed> {
    let mut random = Random::new(seed ^ 0xa076_1d64_78bd_642f);
    let setup = setup(&mut random, seed);
    let clients = setup.configuration.clients.len();
    let run = Run {
        cluster: Cluster::new(setup, Ledger),
        random,
        next_name: 0,
        waiting: vec![BTreeMap::new(); clients],
        incarnations: vec![1; clients],
        away: BTreeSet::new(),
        done: Vec::new(),
        report: Report {
            hash: 0,
            submitted: 0,
            answered: 0,
            crashes: 0,
            batches: 0,
            views: 0,
            receipts: 0,
            liars: 0,
        },
    };
    run.whole(operations).map_err(|reason| Failed { seed, operations, reason })
}

impl Run {
    fn whole(mut self, operations: u64) -> Result<Report, Reason> {
        self.corrupt_some();
        while self.report.submitted < operations {
            self.work();
            self.harm();
            let pause = self.random.between(Duration::from_micros(100), Duration::from_millis(60));
            self.cluster.run_for(pause);
            self.collect()?;
        }
        self.heal();
        for tenth in 1..=600 {
            self.cluster.run_for(Duration::from_millis(100));
            self.collect()?;
            if self.open() == 0 && self.is_converged() {
                return self.finish();
            }
            // Without f replicas, whoever stayed behind may have to wait for the next request: nobody has
            // a reason to change the view for what no client asks for.
            let few = self.report.liars > 0 || !self.away.is_empty();
            if self.open() == 0 && few && tenth % 10 == 0 {
                self.submit(ClientId(0));
            }
        }
        let places = self.cluster.replica_ids().map(|id| Some(self.cluster.replica(id)?.executed().0));
        Err(Reason::Stuck { open: self.open(), places: places.collect() })
    }

    /// Up to f replicas lie, from the beginning.
    fn corrupt_some(&mut self) {
        let f = self.cluster.setup.configuration.f.into();
        if self.random.chance(500) {
            for _ in 0..=self.random.below(f) {
                let id = self.some_replica();
                self.report.liars += u64::from(self.cluster.is_correct(id));
                self.cluster.corrupt(id);
            }
        }
    }

    fn open(&self) -> usize {
        self.waiting.iter().map(BTreeMap::len).sum()
    }

    fn some_client(&mut self) -> ClientId {
        let clients = self.waiting.len() as u64;
        ClientId(u32::try_from(self.random.below(clients)).expect("few"))
    }

    fn some_replica(&mut self) -> ReplicaId {
        let count = self.cluster.replica_ids().count() as u64;
        ReplicaId(u32::try_from(self.random.below(count)).expect("few"))
    }

    /// Some client submits some operations.
    fn work(&mut self) {
        let client = self.some_client();
        for _ in 0..self.random.below(8) {
            if !self.submit(client) {
                return;
            }
        }
        if self.random.chance(100) {
            let options = Options { read_only: true, receipt: false };
            let mut operation = BytesMut::new();
            operation.put_u64(self.next_name);
            operation.put_slice(b"all?");
            self.next_name += 1;
            if let Ok(id) = self.cluster.submit(client, operation.freeze(), options) {
                self.waiting[client.index()].insert(id.0.0, READ);
            }
        }
    }

    /// A client submits an operation, if its window has room.
    fn submit(&mut self, client: ClientId) -> bool {
        let mut operation = BytesMut::new();
        operation.put_u64(self.next_name);
        let size = usize::try_from(self.random.below(100)).expect("small");
        operation.put_bytes(0x2e, size);
        let receipt = self.cluster.setup.configuration.history && self.random.chance(100);
        let options = Options { read_only: false, receipt };
        let Ok(id) = self.cluster.submit(client, operation.freeze(), options) else { return false };
        self.waiting[client.index()].insert(id.0.0, self.next_name);
        self.next_name += 1;
        self.report.submitted += 1;
        true
    }

    /// Something may go wrong, or get better.
    fn harm(&mut self) {
        if !self.random.chance(300) {
            return;
        }
        match self.random.below(12) {
            0..=2 => self.crash_some(1),
            3 => {
                let some = self.random.below(4);
                self.crash_some(some);
            }
            4 => self.crash_some(u64::MAX),
            5..=7 => self.restart_all(),
            8 => self.cut_some(),
            9 | 10 => self.cluster.mend(),
            _ if self.random.chance(200) => self.restart_client(),
            _ => {}
        }
    }

    fn crash_some(&mut self, count: u64) {
        let all: Vec<_> = self.cluster.replica_ids().collect();
        let chosen: Vec<_> = match count {
            u64::MAX => all,
            count => (0..count).map(|_| self.some_replica()).collect(),
        };
        for id in chosen {
            self.report.crashes += u64::from(self.cluster.replica(id).is_some());
            self.cluster.crash(id);
        }
    }

    fn restart_all(&mut self) {
        for id in self.cluster.replica_ids() {
            self.cluster.restart(id);
        }
    }

    /// Cuts one replica off, in one direction or both, or splits the group.
    fn cut_some(&mut self) {
        let odd = self.some_replica();
        let split = self.random.chance(300);
        let (out, back) = (self.random.chance(700), self.random.chance(700));
        let side = self.random.number();
        let others: Vec<_> = self.cluster.replica_ids().collect();
        for a in &others {
            for b in &others {
                let apart = if split {
                    side >> a.0 & 1 == 1 && side >> b.0 & 1 == 0
                } else {
                    (*a == odd && out && *b != odd) || (*b == odd && back && *a != odd)
                };
                if apart {
                    self.cluster.cut(Principal::Replica(*a), Principal::Replica(*b));
                }
            }
        }
    }

    fn restart_client(&mut self) {
        let client = self.some_client();
        self.incarnations[client.index()] += 1;
        let incarnation = Incarnation(self.incarnations[client.index()]);
        self.waiting[client.index()].clear();
        self.cluster.restart_client(client, incarnation);
    }

    fn heal(&mut self) {
        self.cluster.mend();
        self.cluster.set_weather(Weather::calm());
        self.restart_all();
        // The group has to do without f replicas: those that lie, and others that stay away.
        let away = u64::from(self.cluster.setup.configuration.f) - self.report.liars;
        if self.random.chance(300) {
            for _ in 0..away {
                let id = self.some_replica();
                self.cluster.crash(id);
                self.away.insert(id);
            }
        }
    }

    /// Those that are neither away nor lie.
    fn good(&self) -> impl Iterator<Item = ReplicaId> {
        let all = self.cluster.replica_ids();
        all.filter(|id| self.cluster.is_correct(*id) && !self.away.contains(id))
    }

    /// Whether they have executed the same batches.
    fn is_converged(&self) -> bool {
        let place = |id| {
            let replica = self.cluster.replica(id).expect("all others are up");
            (replica.executed(), replica.history_size())
        };
        self.good().map(place).collect::<BTreeSet<_>>().len() == 1
    }

    /// Looks at what came out.
    fn collect(&mut self) -> Result<(), Reason> {
        for (client, outcome) in self.cluster.take_outcomes() {
            let Some(name) = self.waiting[client.index()].remove(&outcome.request.0.0) else { continue };
            self.report.answered += 1;
            if name == READ {
                continue;
            }
            self.done.push((client, name));
            let count = outcome.result().and_then(|result| result.get(..8)?.try_into().ok());
            let count = count.map_or(0, u64::from_be_bytes);
            if outcome.ending == Ending::Done && count != 1 {
                return Err(Reason::Count { client: client.0, name, count });
            }
            if let Some(receipt) = &outcome.receipt {
                self.report.receipts += 1;
                let leaf = &receipt.leaf;
                if (leaf.client, leaf.timestamp) != (client, outcome.request.0) {
                    return Err(Reason::Receipt { client: client.0, name });
                }
            }
        }
        match self.cluster.violation() {
            Some(violation) => Err(violation.clone().into()),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Report, Reason> {
        for id in self.good().collect::<Vec<_>>() {
            let replica = self.cluster.replica(id).expect("all others are up");
            self.report.batches = replica.executed().0;
            self.report.views = self.report.views.max(replica.view().0);
            for (client, name) in &self.done {
                if Ledger::count(replica.state(), *client, *name) != 1 {
                    return Err(Reason::Forgotten { replica: id.0, client: client.0, name: *name });
                }
            }
        }
        self.report.hash = self.cluster.hash();
        Ok(self.report)
    }
}
