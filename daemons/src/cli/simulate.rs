//! `quorate simulate`: recorded loads against policies, side by side.

mod chart;
mod runs;
mod tables;

use super::{Failure, Global, print, print_json};
use clap::{
    Args, ValueEnum,
    builder::{PossibleValuesParser, TypedValueParser},
};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressFinish, ProgressStyle};
use quorate_scaler::{
    policy::Name,
    sim::{Service, Trace, TraceError, Workload, WorkloadError},
};
use runs::Plan;
use std::{collections::HashSet, fs::File, io::Read, num::NonZeroUsize, path::PathBuf};

/// Longest file that is read as a trace: 92 days of seconds, with the longest counts there are, fit.
const TRACE_BYTES_MAX: u64 = 256 << 20;

/// Policies in a chart that names none.
const CHARTED: [Subject; 4] = [
    Subject::Policy(Name::Balanced),
    Subject::Policy(Name::Threshold),
    Subject::Policy(Name::Kpa),
    Subject::Policy(Name::Keda1),
];

const AFTER_HELP: &str = "\
Examples:
  quorate simulate benches/traces/*.csv                           every policy on every trace
  quorate simulate load.csv --policy balanced,kpa --chart charts  a picture, too
  quorate simulate load.csv --policy 'threshold>4' --start-delay 2,10,60 --seed 1,2,3 --json

A trace is a text: one count of requests a line, after an optional header of `# key: value` lines
of which `bin_width_s` is read. Its rate is scaled so that its 99.5th percentile is 64 requests a
second, 32 pods of 0.5 s each. Costs are pod-seconds as a multiple of what a plan pays that knows
every request beforehand; violations are requests that waited over a second, in the table as a
percentage and in JSON and CSV as a share from 0 to 1.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Simulate {
    /// The recorded loads.
    #[arg(required = true, value_name = "TRACE")]
    traces: Vec<PathBuf>,
    /// The policies to replay them against, as the table names them; all of them without this.
    #[arg(long, value_name = "NAME", value_delimiter = ',', value_parser = subjects())]
    policy: Vec<Subject>,
    /// Seconds from the order of a pod to its first request.
    #[arg(long, value_name = "SECONDS", value_delimiter = ',', default_value = "10")]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=600))]
    start_delay: Vec<u16>,
    /// Seeds of the requests; the table has means over them.
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "1")]
    seed: Vec<u64>,
    /// How long requests are served.
    #[arg(long, value_enum, value_name = "exponential|deterministic", default_value = "exponential")]
    #[arg(hide_possible_values = true)]
    service: ServiceTimes,
    /// Prints comma-separated values in place of tables.
    #[arg(long, conflicts_with = "json")]
    csv: bool,
    /// Draws load, pods and waits into DIR/TRACE.svg, for the first start delay and seed: of the policies
    /// named, at most 8, or of balanced, threshold>4, kpa and keda-1.
    #[arg(long, value_name = "DIR")]
    chart: Option<PathBuf>,
    /// Replays on N threads; without it, on one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
}

/// What a trace is replayed against: a policy, or the reference that knows the rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Policy(Name),
    Forecast,
}

impl Subject {
    fn all() -> impl Iterator<Item = Self> {
        Name::ALL.iter().copied().map(Self::Policy).chain([Self::Forecast])
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Policy(name) => name.as_str(),
            Self::Forecast => "forecast",
        }
    }
}

/// Reads a name, and knows which one was meant.
fn subjects() -> impl TypedValueParser<Value = Subject> {
    PossibleValuesParser::new(Subject::all().map(Subject::name))
        .try_map(|word| Subject::all().find(|subject| subject.name() == word).ok_or("no policy"))
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ServiceTimes {
    Exponential,
    Deterministic,
}

/// Why there is nothing to replay.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SimulateError {
    /// The file is no trace.
    #[error("{}: {source}", path.display())]
    Trace { path: PathBuf, source: TraceError },
    /// The file is longer than any trace.
    #[error("{} is longer than {} MiB, which no trace is", path.display(), TRACE_BYTES_MAX >> 20)]
    Large { path: PathBuf },
    /// The table could not tell them apart.
    #[error("two traces are called {name:?}: the table and the charts name them by it; rename {}", path.display())]
    SameName { name: String, path: PathBuf },
    /// More lines than can be told apart.
    #[error("a chart shows at most {} policies, not {given}: name fewer with --policy", chart::POLICIES_MAX)]
    Crowded { given: usize },
    /// The trace makes no requests.
    #[error("{}: {source}", path.display())]
    Workload { path: PathBuf, source: WorkloadError },
    /// The chart could not be drawn.
    #[error("can't draw {}: {detail}", path.display())]
    Chart { path: PathBuf, detail: String },
}

impl Simulate {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let plan = Plan {
            subjects: if self.policy.is_empty() { Subject::all().collect() } else { self.policy.clone() },
            start_delays: self.start_delay.clone(),
            service: match self.service {
                ServiceTimes::Exponential => Service::Exponential,
                ServiceTimes::Deterministic => Service::Deterministic,
            },
            threads: self
                .threads
                .or_else(|| std::thread::available_parallelism().ok())
                .unwrap_or(NonZeroUsize::MIN),
        };
        let charted = if self.policy.is_empty() { &CHARTED[..] } else { &self.policy };
        if self.chart.is_some() && charted.len() > chart::POLICIES_MAX {
            return Err(SimulateError::Crowded { given: charted.len() }.into());
        }
        // All of them are read before the first is replayed: an error after minutes is an unkind one.
        let traces: Vec<_> = self.traces.iter().map(trace).collect::<Result<_, _>>()?;
        let mut names = HashSet::new();
        if let Some((name, _, path)) = traces.iter().find(|(name, ..)| !names.insert(name)) {
            return Err(SimulateError::SameName { name: name.clone(), path: path.clone() }.into());
        }
        if let Some(folder) = &self.chart {
            std::fs::create_dir_all(folder)
                .map_err(|source| Failure::Write { path: folder.clone(), source })?;
        }
        let bar = progress(traces.len() * self.seed.len() * plan.jobs());
        let (mut recorded, mut rows) = (Vec::new(), Vec::new());
        for (name, trace, path) in &traces {
            for &seed in &self.seed {
                let workload = Workload::new(trace, seed, plan.service)
                    .map_err(|source| SimulateError::Workload { path: path.clone(), source })?;
                bar.set_message(name.clone());
                let (facts, done) = plan.replay(name, seed, &workload, &bar);
                if seed == self.seed[0] {
                    if let Some(folder) = &self.chart {
                        chart::draw(folder, name, &workload, &plan, charted)?;
                    }
                    recorded.push(facts);
                }
                rows.extend(done);
            }
        }
        bar.finish_and_clear();
        if global.json {
            return print_json(&rows);
        }
        if self.csv {
            return print(&tables::csv(&rows));
        }
        print(&tables::text(&recorded, &rows, &plan))
    }
}

/// A trace, its name and its file.
fn trace(path: &PathBuf) -> Result<(String, Trace, PathBuf), Failure> {
    let mut text = String::new();
    File::open(path)
        .and_then(|file| file.take(TRACE_BYTES_MAX + 1).read_to_string(&mut text))
        .map_err(|source| Failure::Read { path: path.clone(), source })?;
    if text.len() as u64 > TRACE_BYTES_MAX {
        return Err(SimulateError::Large { path: path.clone() }.into());
    }
    let trace = Trace::parse(&text).map_err(|source| SimulateError::Trace { path: path.clone(), source })?;
    let name = path.file_stem().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    Ok((name, trace, path.clone()))
}

/// A bar on a terminal; nothing in a pipe.
fn progress(jobs: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} replays  {msg}  {elapsed}, {eta} left")
        .expect("the template is right");
    let bar = ProgressBar::with_draw_target(Some(jobs as u64), ProgressDrawTarget::stderr())
        .with_finish(ProgressFinish::AndClear);
    bar.set_style(style);
    bar
}
