//! Replays of the recorded loads on all cores, each once, and the means over the seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use quorate_scaler::Seconds;
use quorate_scaler::policy::{AnyPolicy, Name};
use quorate_scaler::sim::{Oracle, Outcome, Replay, Service, Trace, Workload, forecast};

/// The recorded loads, in the order of the tables.
pub(crate) const TRACES: [&str; 5] = ["azure-code", "twitter", "nasa-jul", "worldcup-22", "elb"];

/// Seeds that a mean is taken over: what one seed decides is noise.
pub(crate) const SEEDS: [u64; 5] = [1, 2, 3, 4, 5];

/// What is replayed: a policy, or the reference that knows the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Policy(Name),
    Forecast,
}

impl Subject {
    pub(crate) fn named(word: &str) -> Option<Self> {
        if word == "forecast" { Some(Self::Forecast) } else { word.parse().ok().map(Self::Policy) }
    }
}

/// The conditions of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Case {
    /// Seconds from the order of a pod to its first request.
    pub(crate) start_delay: u64,
    /// The same, as the policy is told it.
    pub(crate) told: u64,
    pub(crate) deterministic: bool,
    /// How many times as long service takes from the middle of the trace on.
    pub(crate) slowdown: u32,
}

impl Case {
    pub(crate) const fn new(start_delay: u64) -> Self {
        Self { start_delay, told: start_delay, deterministic: false, slowdown: 1 }
    }

    fn replay(self) -> Replay {
        let start_delay = Seconds::new(self.start_delay);
        Replay { start_delay, slowdown: self.slowdown, ..Replay::default() }
    }

    fn outcome(self, subject: Subject, workload: &Workload) -> Outcome {
        let replay = self.replay();
        let told = Replay { start_delay: Seconds::new(self.told), ..replay };
        match subject {
            Subject::Policy(name) => replay.run(workload, &mut AnyPolicy::new(name, &told.conditions())),
            Subject::Forecast => forecast(&replay, workload),
        }
    }
}

/// What a replay gave, or the mean of several.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Measured {
    /// Pod-seconds over those of the oracle.
    pub(crate) cost: f64,
    /// Requests that waited over a second, in %.
    pub(crate) violations: f64,
    /// 99th percentile of the waits, in seconds.
    pub(crate) p99: f64,
    pub(crate) flips: f64,
}

/// The requests of one trace and seed, and what the oracle pays for them.
pub(crate) struct Requests {
    pub(crate) trace: usize,
    pub(crate) seed: u64,
    deterministic: bool,
    pub(crate) workload: Workload,
    pub(crate) oracle: Oracle,
}

/// Every trace with every seed and both kinds of service times.
pub(crate) fn requests(folder: &Path) -> Result<Vec<Requests>, Box<dyn std::error::Error>> {
    let mut wanted = Vec::new();
    for (trace, name) in TRACES.iter().enumerate() {
        let path = folder.join(format!("{name}.csv"));
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let parsed = Trace::parse(&text)?;
        for seed in SEEDS {
            wanted.extend([false, true].map(|deterministic| (trace, parsed.clone(), seed, deterministic)));
        }
    }
    on_all_cores(&wanted, |(trace, parsed, seed, deterministic)| {
        let service = if *deterministic { Service::Deterministic } else { Service::Exponential };
        let workload = Workload::new(parsed, *seed, service).map_err(|error| error.to_string())?;
        let oracle = Oracle::new(&workload, Replay::default().slo);
        Ok(Requests { trace: *trace, seed: *seed, deterministic: *deterministic, workload, oracle })
    })
    .into_iter()
    .collect::<Result<_, String>>()
    .map_err(Into::into)
}

type Key = (usize, Subject, Case, u64);

/// What was replayed, by trace, subject, case and seed.
#[derive(Default)]
pub(crate) struct Replays(BTreeMap<Key, Measured>);

impl Replays {
    /// Replays what is wanted and not there yet.
    pub(crate) fn add(&mut self, requests: &[Requests], subjects: &[Subject], cases: &[Case], seeds: &[u64]) {
        let mut wanted = BTreeSet::new();
        for (at, given) in requests.iter().enumerate().filter(|(_, given)| seeds.contains(&given.seed)) {
            for case in cases.iter().filter(|case| case.deterministic == given.deterministic) {
                for subject in subjects {
                    let key = (given.trace, *subject, *case, given.seed);
                    if !self.0.contains_key(&key) {
                        wanted.insert((std::cmp::Reverse(given.workload.requests()), at, key));
                    }
                }
            }
        }
        let wanted: Vec<_> = wanted.into_iter().collect();
        let done = on_all_cores(&wanted, |(_, at, (trace, subject, case, seed))| {
            let Requests { workload, oracle, .. } = &requests[*at];
            let outcome = case.outcome(*subject, workload);
            let measured = Measured {
                cost: outcome.pod_seconds() / oracle.cost(case.replay().start_delay),
                violations: 100.0 * outcome.violation_share(),
                p99: outcome.wait_percentile(0.99),
                flips: outcome.flips as f64,
            };
            ((*trace, *subject, *case, *seed), measured)
        });
        self.0.extend(done);
    }

    /// The mean over these seeds, all of which were replayed.
    pub(crate) fn mean(&self, trace: usize, subject: Subject, case: Case, seeds: &[u64]) -> Measured {
        let mut sum = Measured::default();
        for seed in seeds {
            let one = self.0[&(trace, subject, case, *seed)];
            sum.cost += one.cost / seeds.len() as f64;
            sum.violations += one.violations / seeds.len() as f64;
            sum.p99 += one.p99 / seeds.len() as f64;
            sum.flips += one.flips / seeds.len() as f64;
        }
        sum
    }
}

/// Does the same to every item and keeps their order.
fn on_all_cores<I: Sync, O: Send>(items: &[I], one: impl Fn(&I) -> O + Sync) -> Vec<O> {
    let next = AtomicUsize::new(0);
    let done = Mutex::new(Vec::new());
    let work = || {
        while let Some((at, item)) =
            Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, items.get(at)?)))
        {
            let result = one(item);
            done.lock().expect("nobody panics while holding it").push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, Into::into) {
            scope.spawn(work);
        }
    });
    let mut done = done.into_inner().expect("nobody panicked while holding it");
    done.sort_by_key(|(at, _)| *at);
    done.into_iter().map(|(_, result)| result).collect()
}
