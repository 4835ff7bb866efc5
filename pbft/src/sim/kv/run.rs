//! Clients that compete for few keys of the store while replicas crash, lie and lose one another: what
//! they saw must be linearizable.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};

use super::{Answer, Expected, Held, Kv, NoAnswer, Operation};
use crate::client::{ClientSettings, Options, Outcome};
use crate::crypto::Principal;
use crate::group::{ClientId, Incarnation, Limits, Permutation, ReplicaId, Sequence, Timestamp};
use crate::message::Ending;
use crate::replica::Settings;
use crate::service::{Context, NotReadOnly, Service, State};
use crate::sim::checker::Violation;
use crate::sim::checker::linearizability::{CallId, History, Objection};
use crate::sim::{Cluster, Random, Setup, Weather};

/// What a run was like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The hash of every event.
    pub hash: u64,
    /// Operations that clients called.
    pub calls: u64,
    /// Those that were answered.
    pub answers: u64,
    /// Reads that were answered without being ordered.
    pub reads: u64,
    /// Listings that were answered.
    pub listings: u64,
    /// Compare-and-swaps that took place.
    pub swaps: u64,
    /// Replicas that crashed.
    pub crashes: u64,
    /// Replicas that lied.
    pub liars: u64,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed}: {reason}; replay with\n    PBFT_SEED={seed} PBFT_OPERATIONS={operations} cargo test -p quorate-pbft --features sim --test linearizability -- replay --nocapture"
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
    /// Clients saw what no store does.
    #[error(transparent)]
    Objection(#[from] Objection),
    /// Another checker objected.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// The store gave bytes that are no answer.
    #[error(transparent)]
    NoAnswer(#[from] NoAnswer),
    /// The store panicked.
    #[error("the store panicked on an operation of client {client}")]
    Panicked {
        /// Whose operation it was.
        client: ClientId,
    },
    /// Everything was healed, and still something was not answered.
    #[error("liveness: {open} calls are not answered a minute after all was healed")]
    Stuck {
        /// Calls without an answer.
        open: usize,
    },
}

/// The store behind operations that have a name before them, 8 bytes: the checkers tell operations
/// apart by their bytes, and two gets of one key are alike.
#[derive(Clone, Debug)]
struct Named(Kv);

impl Service for Named {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        self.0.execute(context, operation.get(8..).unwrap_or_default(), state)
    }

    fn read(&self, context: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        self.0.read(context, operation.get(8..).unwrap_or_default(), state)
    }
}

/// The keys that clients compete for. Listings tie those together that begin with `l/`.
const KEYS: [&str; 5] = ["a", "b", "l/1", "l/2", "l/3"];

/// Everything about a run follows from its seed.
fn setup(random: &mut Random, seed: u64) -> Setup {
    let f = if random.chance(50) { 2 } else { 1 };
    let mut setup = Setup::new(f, 2 + u32::try_from(random.below(4)).expect("small"));
    let period = 1 + random.below(8);
    setup.seed = seed;
    setup.configuration.permutation =
        if random.chance(500) { Permutation::Seeded } else { Permutation::Identity };
    setup.configuration.history = false;
    setup.configuration.limits = Limits {
        checkpoint_period: period,
        window: period * (2 + random.below(3)),
        batch_operations_max: 1 + u32::try_from(random.below(4)).expect("small"),
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
    setup.client_settings = ClientSettings { retry_max: Duration::from_secs(1), ..ClientSettings::default() };
    setup.weather = Weather {
        delay_min: Duration::from_micros(100),
        delay_max: Duration::from_micros(200 + random.below(20_000)),
        loss: random.below(80),
        duplication: random.below(80),
    };
    let sync_max = if random.chance(300) { 50_000 } else { 5_000 };
    setup.sync = (Duration::from_micros(20), Duration::from_micros(50 + random.below(sync_max)));
    setup
}

/// The driver of a run.
struct Run {
    cluster: Cluster<Named>,
    random: Random,
    history: History,
    /// What each client waits for in its present life.
    waiting: Vec<BTreeMap<Timestamp, (CallId, Operation)>>,
    incarnations: Vec<u64>,
    /// What somebody saw a key hold at last, for others to compare with.
    seen: BTreeMap<Bytes, Held>,
    report: Report,
}

/// Runs a seed with `operations` operations to its end.
///
/// # Errors
/// Says what went wrong, and how to see it again.
pub fn seed(seed: u64, operations: u64) -> Result<Report, Failed> {
    let mut random = Random::new(seed ^ 0xe703_7ed1_a0b4_28db);
    let setup = setup(&mut random, seed);
    let clients = setup.configuration.clients.len();
    let run = Run {
        cluster: Cluster::new(setup, Named(Kv)),
        random,
        history: History::default(),
        waiting: vec![BTreeMap::new(); clients],
        incarnations: vec![1; clients],
        seen: BTreeMap::new(),
        report: Report::default(),
    };
    run.whole(operations).map_err(|reason| Failed { seed, operations, reason })
}

impl Run {
    fn whole(mut self, operations: u64) -> Result<Report, Reason> {
        if self.random.chance(300) {
            let liar = self.some_replica();
            self.cluster.corrupt(liar);
            self.report.liars += 1;
        }
        while self.report.calls < operations {
            self.harm();
            let pause = self.random.between(Duration::from_micros(100), Duration::from_millis(30));
            self.go_on_for(pause, true)?;
        }
        self.cluster.mend();
        self.cluster.set_weather(Weather::calm());
        self.restart_all();
        for _ in 0..600 {
            if self.waiting.iter().all(BTreeMap::is_empty) {
                self.history.check()?;
                self.report.hash = self.cluster.hash();
                return Ok(self.report);
            }
            self.go_on_for(Duration::from_millis(100), false)?;
        }
        Err(Reason::Stuck { open: self.waiting.iter().map(BTreeMap::len).sum() })
    }

    /// Lets time pass. Answers are noted when they come; whoever waits for nothing calls again soon.
    fn go_on_for(&mut self, pause: Duration, calling: bool) -> Result<(), Reason> {
        let end = self.cluster.now() + pause;
        while self.cluster.now() < end {
            if calling && self.random.chance(150) {
                self.call();
            }
            self.cluster.step();
            for (client, outcome) in self.cluster.take_outcomes() {
                self.answered(client, &outcome)?;
                if calling && self.random.chance(40) {
                    self.crash_all();
                }
            }
            if let Some(violation) = self.cluster.violation() {
                return Err(violation.clone().into());
            }
        }
        Ok(())
    }

    /// Some client calls, unless it has two calls open.
    fn call(&mut self) {
        let client = self.some_client();
        if self.waiting[client.index()].len() >= 2 {
            return;
        }
        let operation = self.some_operation();
        let read_only = matches!(operation, Operation::Get { .. } | Operation::List { .. });
        let options = Options { read_only: read_only && self.random.chance(900), receipt: false };
        let mut bytes = BytesMut::new();
        bytes.put_u64(self.report.calls);
        bytes.put_slice(&operation.to_bytes());
        self.report.calls += 1;
        let now = self.cluster.now();
        let request = self.cluster.submit(client, bytes.freeze(), options).expect("two fit into a window");
        let call = self.history.call(client, now, operation.clone());
        self.waiting[client.index()].insert(request.0, (call, operation));
    }

    /// Values are all different, so that a read says which write it saw.
    fn some_operation(&mut self) -> Operation {
        let key = KEYS[usize::try_from(self.random.below(KEYS.len() as u64)).expect("few")];
        let key = Bytes::from_static(key.as_bytes());
        let value = Bytes::from(format!("{}", self.report.calls));
        let ttl = self.random.between(Duration::from_millis(5), Duration::from_millis(80));
        let ttl = self.random.chance(150).then_some(ttl);
        match self.random.below(20) {
            0..=7 => Operation::Get { key },
            8..=12 => Operation::Put { key, value, ttl },
            13 => Operation::Delete { key },
            14..=16 => {
                let expected = match self.seen.get(&key) {
                    Some(held) if self.random.chance(400) => Expected::Version(held.version),
                    Some(held) if self.random.chance(700) => Expected::Value(held.value.clone()),
                    _ => Expected::Absent,
                };
                Operation::Swap { key, expected, value, ttl }
            }
            _ => {
                let after = self.random.chance(200).then(|| "l/1".into());
                Operation::List { prefix: "l/".into(), after, limit: 1 + self.random.below(4) }
            }
        }
    }

    fn answered(&mut self, client: ClientId, outcome: &Outcome) -> Result<(), Reason> {
        let waiting = self.waiting[client.index()].remove(&outcome.request.0);
        let Some((call, operation)) = waiting else { return Ok(()) };
        if outcome.ending == Ending::Panicked {
            return Err(Reason::Panicked { client });
        }
        let Some(result) = outcome.result() else { return Ok(()) }; // replicas keep results for a while
        let answer = Answer::from_bytes(result)?;
        self.note(&operation, &answer, outcome.sequence == Sequence(0));
        self.history.answer(call, self.cluster.now(), answer);
        Ok(())
    }

    /// Counts an answer, and remembers what it shows.
    fn note(&mut self, operation: &Operation, answer: &Answer, at_once: bool) {
        self.report.answers += 1;
        self.report.reads += u64::from(at_once);
        match (operation, answer) {
            (Operation::Get { key }, Answer::Held(Some(held))) => {
                self.seen.insert(key.clone(), held.clone());
            }
            (
                Operation::Put { key, value, .. } | Operation::Swap { key, value, .. },
                Answer::Written(version),
            ) => {
                self.report.swaps += u64::from(matches!(operation, Operation::Swap { .. }));
                self.seen.insert(key.clone(), Held { version: *version, value: value.clone() });
            }
            (_, Answer::Listed { entries, .. }) => {
                self.report.listings += 1;
                self.seen.extend(entries.iter().cloned());
            }
            _ => {}
        }
    }

    /// Something may go wrong, or get better.
    fn harm(&mut self) {
        match self.random.below(50) {
            0 | 1 => {
                let id = self.some_replica();
                self.crash(id);
            }
            2..=6 => self.restart_all(),
            7 => {
                let (from, to) = (self.some_replica(), self.some_replica());
                self.cluster.cut(Principal::Replica(from), Principal::Replica(to));
            }
            8 => {
                let id = self.some_replica();
                for other in self.cluster.replica_ids() {
                    self.cluster.cut(Principal::Replica(other), Principal::Replica(id));
                }
            }
            9..=12 => self.cluster.mend(),
            13 if self.random.chance(200) => self.restart_client(),
            _ => {}
        }
    }

    /// The worst moment for a crash is right after an answer: all replicas lose what they had not made
    /// durable yet, come back at once, and are asked for what they had said.
    fn crash_all(&mut self) {
        for id in self.cluster.replica_ids() {
            self.crash(id);
        }
        self.restart_all();
        for _ in 0..self.waiting.len() {
            self.call();
        }
    }

    fn crash(&mut self, id: ReplicaId) {
        self.report.crashes += u64::from(self.cluster.replica(id).is_some());
        self.cluster.crash(id);
    }

    fn restart_all(&mut self) {
        for id in self.cluster.replica_ids() {
            self.cluster.restart(id);
        }
    }

    /// What it waited for may have taken place, or may yet: its calls stay without an answer.
    fn restart_client(&mut self) {
        let client = self.some_client();
        self.incarnations[client.index()] += 1;
        self.waiting[client.index()].clear();
        let incarnation = Incarnation(self.incarnations[client.index()]);
        self.cluster.restart_client(client, incarnation);
    }

    fn some_client(&mut self) -> ClientId {
        let clients = self.waiting.len() as u64;
        ClientId(u32::try_from(self.random.below(clients)).expect("few"))
    }

    fn some_replica(&mut self) -> ReplicaId {
        let count = self.cluster.replica_ids().count() as u64;
        ReplicaId(u32::try_from(self.random.below(count)).expect("few"))
    }
}
