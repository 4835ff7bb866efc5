//! A whole run, from its schedule to its verdict.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::AddAssign;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::checker::Violation;
use super::schedule::{CLIENT_WINDOW, Schedule, Scheme, Step};
use super::{Cluster, Ledger, Weather};
use crate::client::Options;
use crate::group::{ClientId, Incarnation, ReplicaId};
use crate::message::Ending;

/// What a run was like, or many together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The hash of every event. Many together have the hashes' sum.
    pub hash: u64,
    /// Events.
    pub events: u64,
    /// Operations that were submitted, reads among them.
    pub submitted: u64,
    /// Operations that were answered.
    pub answered: u64,
    /// Batches that were executed.
    pub batches: u64,
    /// The highest view that a replica ended in.
    pub views: u64,
    /// Receipts that were given.
    pub receipts: u64,
    /// What went wrong.
    pub faults: Faults,
}

/// What went wrong in a run, by kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Faults(BTreeMap<&'static str, u64>);

impl Faults {
    /// How often each kind of fault came, in the order of their names; what never came is not there.
    pub fn by_kind(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.0.iter().map(|(kind, count)| (*kind, *count))
    }

    fn add(&mut self, kind: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry(kind).or_default() += count;
        }
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.hash = self.hash.wrapping_add(other.hash);
        self.events += other.events;
        self.submitted += other.submitted;
        self.answered += other.answered;
        self.batches += other.batches;
        self.views += other.views;
        self.receipts += other.receipts;
        other.faults.by_kind().for_each(|(kind, count)| self.faults.add(kind, count));
    }
}

/// Why a seed failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "seed {seed}: {reason}; replay it with\n    \
     cargo run --release -p quorate-benches --bin simulate -- {flag}--from {seed} --seeds 1 --operations {operations}",
    flag = match scheme { Scheme::Faults => "", Scheme::ByzzFuzz => "--byzzfuzz " }
)]
pub struct Failed {
    /// What was drawn from it.
    pub scheme: Scheme,
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
    /// An assertion stopped the run.
    #[error("assertion: {message}")]
    Panicked {
        /// What it said.
        message: Box<str>,
    },
}

impl Reason {
    /// Whether the same kind of thing went wrong, wherever and to whomever.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        use std::mem::discriminant;
        match (self, other) {
            (Self::Violation(one), Self::Violation(other)) => discriminant(one) == discriminant(other),
            // Figures in an assertion's message may differ.
            (Self::Panicked { message: one }, Self::Panicked { message: other }) => {
                let kind = |text: &str| text.split(|c: char| c.is_ascii_digit()).next().map(str::to_owned);
                kind(one) == kind(other)
            }
            _ => discriminant(self) == discriminant(other),
        }
    }
}

/// Runs a seed with `operations` operations to its end.
///
/// # Errors
/// Says what a checker objected to, and how to see it again.
pub fn seed(seed: u64, operations: u64) -> Result<Report, Failed> {
    under(Scheme::Faults, seed, operations)
}

/// Runs what a scheme draws from a seed.
///
/// # Errors
/// As [`seed`].
pub fn under(scheme: Scheme, seed: u64, operations: u64) -> Result<Report, Failed> {
    let report = run(&Schedule::draw(scheme, seed, operations));
    report.map_err(|reason| Failed { scheme, seed, operations, reason })
}

/// Runs a schedule to its end.
///
/// # Errors
/// Says what went wrong.
pub fn run(schedule: &Schedule) -> Result<Report, Reason> {
    // An assertion is a finding like others: it must not end a million other runs.
    catch_unwind(AssertUnwindSafe(|| Run::new(schedule).whole(schedule))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let message = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        Err(Reason::Panicked { message: message.into() })
    })
}

/// An operation that a client wants done.
#[derive(Debug)]
struct Wanted {
    name: u64,
    operation: Bytes,
    options: Options,
}

/// What a client wants, and waits for.
#[derive(Debug)]
struct Host {
    incarnation: u64,
    /// What its window had no room for yet, in order.
    backlog: VecDeque<Wanted>,
    /// What is on its way in its present life, by timestamp: the name, and whether it is a read.
    waiting: BTreeMap<u64, (u64, bool)>,
}

/// The driver of a run.
struct Run {
    cluster: Cluster<Ledger>,
    hosts: Vec<Host>,
    /// Replicas that stay away in the end.
    away: BTreeSet<ReplicaId>,
    /// Acknowledged operations.
    done: Vec<(ClientId, u64)>,
    report: Report,
}

/// The name of operations that a run adds by itself: above those that were drawn.
const OWN_NAMES: u64 = 1 << 32;

impl Run {
    fn new(schedule: &Schedule) -> Self {
        let terms = &schedule.terms;
        let host = || Host { incarnation: 1, backlog: VecDeque::new(), waiting: BTreeMap::new() };
        let mut report = Report::default();
        report.faults.add("runs on real keys", u64::from(terms.real_keys));
        Self {
            cluster: Cluster::new(terms.setup(), Ledger),
            hosts: (0..terms.clients).map(|_| host()).collect(),
            away: BTreeSet::new(),
            done: Vec::new(),
            report,
        }
    }

    fn whole(mut self, schedule: &Schedule) -> Result<Report, Reason> {
        let mut last = None;
        for step in &schedule.steps {
            let client = match step {
                Step::Submit { client, .. } | Step::Read { client, .. } => Some(*client),
                _ => None,
            };
            if last != client
                && let Some(last) = last
            {
                self.submit(last);
            }
            last = client;
            self.perform(step)?;
        }
        self.heal();
        for tenth in 1..=600 {
            self.submit_all();
            self.cluster.run_for(Duration::from_millis(100));
            self.collect()?;
            if self.open() == 0 && self.is_converged() {
                return self.finish();
            }
            // Without f replicas, whoever stayed behind may have to wait for the next request: nobody has
            // a reason to change the view for what no client asks for.
            let few = self.good().count() < self.cluster.replica_ids().count();
            if self.open() == 0 && few && tenth % 10 == 0 {
                self.want(ClientId(0), OWN_NAMES + tenth, 0, Options::default());
            }
        }
        let places = self.cluster.replica_ids().map(|id| Some(self.cluster.replica(id)?.executed().0));
        Err(Reason::Stuck { open: self.open(), places: places.collect() })
    }

    fn perform(&mut self, step: &Step) -> Result<(), Reason> {
        let faults = &mut self.report.faults;
        match step {
            Step::Submit { client, name, size, receipt } => {
                let options = Options { read_only: false, receipt: *receipt };
                self.want(*client, *name, *size, options);
            }
            Step::Read { client, name } => {
                let options = Options { read_only: true, receipt: false };
                self.want(*client, *name, 0, options);
            }
            Step::Wait(duration) => {
                self.cluster.run_for(*duration);
                self.collect()?;
                self.submit_all();
            }
            Step::Crash(id) => {
                faults.add("crashes", u64::from(self.cluster.replica(*id).is_some()));
                self.cluster.crash(*id);
            }
            Step::Restart(id) => {
                faults.add("restarts", u64::from(self.cluster.replica(*id).is_none()));
                self.cluster.restart(*id);
            }
            Step::RestartClient(id) => {
                faults.add("restarts of clients", 1);
                let host = &mut self.hosts[id.index()];
                host.incarnation += 1;
                host.waiting.clear();
                self.cluster.restart_client(*id, Incarnation(host.incarnation));
            }
            Step::Cut(pairs) => {
                faults.add("cuts", 1);
                pairs.iter().for_each(|(from, to)| self.cluster.cut(*from, *to));
            }
            Step::Mend => self.cluster.mend(),
            Step::Weather(weather) => {
                faults.add("changes of the weather", 1);
                self.cluster.set_weather(weather.clone());
            }
            Step::Clock { replica, leap, ticks } => {
                faults.add("skewed clocks", 1);
                self.cluster.set_clock(*replica, *leap, *ticks);
            }
            Step::Disk { replica, least, most } => {
                faults.add("slow disks", u64::from(*most > SLOW));
                self.cluster.set_disk(*replica, (*least, *most));
            }
            Step::Withhold { client, replicas } => {
                faults.add("clients that withhold operations", 1);
                self.cluster.withhold(*client, replicas.iter().copied());
            }
            Step::Lie(id) => {
                faults.add("liars", u64::from(self.cluster.is_correct(*id)));
                self.cluster.corrupt(*id);
            }
            Step::Refresh => {
                faults.add("refreshed keys", u64::from(self.cluster.setup.real_keys));
                self.cluster.refresh_keys();
            }
            Step::Strike(fault) => self.cluster.strike(fault.clone()),
            Step::Away(id) => _ = self.away.insert(*id),
        }
        Ok(())
    }

    /// A client wants something done.
    fn want(&mut self, client: ClientId, name: u64, size: usize, options: Options) {
        let mut operation = BytesMut::with_capacity(8 + size);
        operation.put_u64(name);
        if options.read_only {
            operation.put_slice(b"all?");
        } else {
            operation.put_bytes(b'.', size);
        }
        let wanted = Wanted { name, operation: operation.freeze(), options };
        self.hosts[client.index()].backlog.push_back(wanted);
    }

    fn submit_all(&mut self) {
        for index in 0..self.hosts.len() {
            self.submit(ClientId(u32::try_from(index).expect("few")));
        }
    }

    /// A client submits what it wants, as far as its window has room.
    fn submit(&mut self, client: ClientId) {
        let host = &mut self.hosts[client.index()];
        if host.backlog.is_empty() {
            return;
        }
        let first = host.backlog.iter().take(CLIENT_WINDOW as usize);
        let operations: Vec<_> = first.map(|wanted| (wanted.operation.clone(), wanted.options)).collect();
        for id in self.cluster.submit_all(client, &operations) {
            let Wanted { name, options, .. } = host.backlog.pop_front().expect("it was taken from there");
            host.waiting.insert(id.0.0, (name, options.read_only));
            self.report.submitted += 1;
        }
    }

    fn open(&self) -> usize {
        self.hosts.iter().map(|host| host.waiting.len() + host.backlog.len()).sum()
    }

    /// The network is calm and whole, disks are fast, and all are up but for those that stay away.
    /// Clocks stay as they are, and liars lie on.
    fn heal(&mut self) {
        self.cluster.mend();
        self.cluster.set_weather(Weather::calm());
        for id in self.cluster.replica_ids() {
            self.cluster.set_disk(id, self.cluster.setup.sync);
            if self.away.contains(&id) {
                self.cluster.crash(id);
            } else {
                self.cluster.restart(id);
            }
        }
        self.report.faults.add("replicas that stay away", self.away.len() as u64);
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
            let host = &mut self.hosts[client.index()];
            let Some((name, is_read)) = host.waiting.remove(&outcome.request.0.0) else { continue };
            self.report.answered += 1;
            if is_read {
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
        let counts = self.cluster.counts();
        self.report.hash = self.cluster.hash();
        self.report.events = counts.events;
        for (kind, count) in [
            ("lost messages", counts.lost),
            ("duplicated messages", counts.duplicated),
            ("torn writes", counts.torn),
            ("fuzzed messages", counts.fuzzed),
        ] {
            self.report.faults.add(kind, count);
        }
        Ok(self.report)
    }
}

/// A disk that takes longer than this for a sync is slow.
const SLOW: Duration = Duration::from_millis(10);
