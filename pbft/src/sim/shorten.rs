//! A failing schedule, made as short as it goes.
//!
//! Delta debugging (Zeller and Hildebrandt, *Simplifying and Isolating Failure-Inducing Input*, TSE
//! 2002): steps are left out in ever smaller portions as long as the run still fails in the same way.
//! Then what is left is made plainer: shorter waits, smaller operations, fast keys, no history. A run
//! without a step draws its delays otherwise, so a step may be needed only because it happened to be
//! there: portions are left out under some other seeds, too. The result is a schedule from which
//! nothing more can be taken alone.
//!
//! The same schedule is shortened to the same one every time, in a bounded number of runs.

use std::fmt;
use std::time::Duration;

use super::run::{self, Failed, Reason};
use super::schedule::{Schedule, Step, Terms};

/// The most runs that are made to shorten one schedule.
const RUNS_MAX: u32 = 5000;

/// Other seeds that steps are left out under.
const OTHER_SEEDS: u64 = 8;

/// A schedule that fails, and less of which does not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortened {
    /// The schedule.
    pub schedule: Schedule,
    /// How it fails.
    pub reason: Reason,
    /// How many steps there were before.
    pub steps_before: usize,
    /// How many runs it took.
    pub runs: u32,
}

impl fmt::Display for Shortened {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { schedule, reason, steps_before, runs } = self;
        let steps = schedule.steps.len();
        writeln!(f, "# {steps} of {steps_before} steps, found in {runs} runs, end the same way:")?;
        writeln!(f, "# {reason}")?;
        writeln!(f, "# cargo run --release -p quorate-benches --bin simulate -- --schedule FILE")?;
        write!(f, "{schedule}")
    }
}

impl Failed {
    /// The failure with its replay command, and a shorter schedule that fails in the same way.
    #[must_use]
    pub fn in_full(&self) -> String {
        let schedule = Schedule::draw(self.scheme, self.seed, self.operations);
        format!("{self}\n\n{}", shorten(schedule, &self.reason))
    }
}

/// Shortens a schedule that fails for this reason.
#[must_use]
pub fn shorten(schedule: Schedule, reason: &Reason) -> Shortened {
    let steps_before = schedule.steps.len();
    let mut search = Search { best: schedule, reason: reason.clone(), runs: 0 };
    loop {
        let before = search.best.clone();
        search.leave_out();
        search.make_plainer();
        search.leave_out_otherwise();
        if search.best == before || search.runs >= RUNS_MAX {
            break;
        }
    }
    let Search { best, reason, runs } = search;
    Shortened { schedule: best, reason, steps_before, runs }
}

struct Search {
    /// The shortest so far.
    best: Schedule,
    /// How it fails.
    reason: Reason,
    runs: u32,
}

impl Search {
    /// Takes another schedule instead if it fails in the same way.
    fn take(&mut self, other: Schedule) -> bool {
        if self.runs >= RUNS_MAX || other == self.best {
            return false;
        }
        self.runs += 1;
        match run::run(&other) {
            Err(reason) if reason.is_like(&self.reason) => {
                (self.best, self.reason) = (other, reason);
                true
            }
            _ => false,
        }
    }

    /// Takes another schedule instead, or the same steps under one of some other seeds.
    fn take_under_some_seed(&mut self, other: &Schedule, seeds: u64) -> bool {
        self.take(other.clone())
            || (0..seeds).any(|seed| {
                let terms = Terms { seed, ..other.terms.clone() };
                self.take(Schedule { terms, steps: other.steps.clone() })
            })
    }

    /// Leaves steps out: first halves, in the end single ones.
    fn leave_out(&mut self) {
        let mut portion = self.best.steps.len().div_ceil(2);
        while portion > 0 && self.runs < RUNS_MAX {
            let mut start = 0;
            let mut found = false;
            while start < self.best.steps.len() {
                let mut other = self.best.clone();
                let end = (start + portion).min(other.steps.len());
                other.steps.drain(start..end);
                if self.take_under_some_seed(&other, if portion > 1 { OTHER_SEEDS } else { 0 }) {
                    found = true; // what follows is at `start` now
                } else {
                    start = end;
                }
            }
            if !found {
                portion /= 2;
            } else {
                portion = portion.min(self.best.steps.len().div_ceil(2));
            }
        }
    }

    /// Leaves single steps out, with other delays.
    fn leave_out_otherwise(&mut self) {
        let mut index = 0;
        while index < self.best.steps.len() {
            let mut other = self.best.clone();
            other.steps.remove(index);
            let found = self.take_under_some_seed(&other, OTHER_SEEDS);
            index += usize::from(!found); // what follows is there now
        }
    }

    /// Makes one wait of those that follow one another.
    fn join_waits(&mut self) {
        let mut index = 1;
        while index < self.best.steps.len() {
            let mut other = self.best.clone();
            if let (Step::Wait(first), Step::Wait(second)) = (&other.steps[index - 1], &other.steps[index]) {
                other.steps[index - 1] = Step::Wait(*first + *second);
                other.steps.remove(index);
                if self.take(other) {
                    continue;
                }
            }
            index += 1;
        }
    }

    fn make_plainer(&mut self) {
        let terms = &self.best.terms;
        let fewer = [
            Terms { real_keys: false, ..terms.clone() },
            Terms { through_wire: false, ..terms.clone() },
            Terms { history: false, ..terms.clone() },
            Terms { seeded: false, ..terms.clone() },
        ];
        for terms in fewer {
            let steps = self.best.steps.clone();
            self.take(Schedule { terms, steps });
        }
        self.join_waits();
        for index in 0..self.best.steps.len() {
            while let Some(plainer) = plainer(&self.best.steps[index]) {
                let mut other = self.best.clone();
                other.steps[index] = plainer;
                if !self.take(other) {
                    break;
                }
            }
        }
    }
}

/// Less of the same step, if there is less of it.
fn plainer(step: &Step) -> Option<Step> {
    match step {
        Step::Submit { client, name, size, receipt } if *size > 0 || *receipt => {
            Some(Step::Submit { client: *client, name: *name, size: 0, receipt: false })
        }
        // To whole milliseconds first, then to half of them.
        Step::Wait(wait) if !wait.subsec_nanos().is_multiple_of(1_000_000) => {
            Some(Step::Wait(Duration::from_millis(u64::try_from(wait.as_millis()).ok()? + 1)))
        }
        Step::Wait(wait) if *wait > Duration::from_millis(1) => {
            Some(Step::Wait(Duration::from_millis(u64::try_from(wait.as_millis()).ok()? / 2)))
        }
        Step::Cut(pairs) if pairs.len() > 1 => Some(Step::Cut(pairs[1..].to_vec())),
        _ => None,
    }
}
