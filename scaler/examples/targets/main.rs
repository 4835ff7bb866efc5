//! Measures the autoscaler against its targets and says of each whether it is met.
//!
//! ```text
//! cargo run --release -p quorate-scaler --features sim --example targets [-- T1 T4 …]
//! ```
//!
//! | target | what is measured |
//! | --- | --- |
//! | T1 | one of our presets costs no more and lets no more requests wait than each policy people use, on every load, with a start delay of 2 and of 10 s; means of five seeds |
//! | T2 | the same with a start delay of 60 s, and with service times that are all alike |
//! | T3 | how near one preset comes to the oracle |
//! | T4 | turns within a minute, as a share of Knative's |
//! | T5 | requests, sums and every figure of another simulator of the same model, within their tolerance |
//! | T6 | time and memory of a decision |
//! | T7 | as T1 against Knative, when what a policy was told is wrong |
//!
//! Costs are pod-seconds over the oracle's; violations are requests that waited over a second, in %. One policy
//! dominates another when neither is higher and one is lower; violations within 0.005 points are equal.

mod decisions;
#[path = "../../tests/sim/figures.rs"]
mod figures;
mod replays;

use std::path::PathBuf;
use std::process::ExitCode;

use figures::{FIGURES, REQUESTS, is_near, lines};
use quorate_scaler::Seconds;
use quorate_scaler::policy::Name;
use replays::{Case, Measured, Replays, Requests, SEEDS, Subject, TRACES};

/// What people use, each of which is to be dominated.
const PEERS: [Name; 7] =
    [Name::Hpa80, Name::Hpa50, Name::Keda5, Name::Keda1, Name::Kpa, Name::TargetTracking, Name::Threshold];

const PRESETS: [Name; 3] = [Name::Lean, Name::Balanced, Name::Strict];

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("targets: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let known = ["T1", "T2", "T3", "T4", "T5", "T6", "T7"];
    let mut asked: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = asked.iter().find(|word| !known.contains(&word.as_str())) {
        return Err(format!("there is no target {unknown:?}, only {}", known.join(", ")).into());
    }
    if asked.is_empty() {
        asked = known.map(str::to_owned).to_vec();
    }
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../benches/traces"));
    let requests = replays::requests(&folder)?;
    let mut board = Board { requests, replays: Replays::default(), verdicts: Vec::new() };
    for target in &asked {
        match target.as_str() {
            "T1" => board.dominate("T1", &[Case::new(2), Case::new(10)]),
            "T2" => board.dominate("T2", &[Case::new(60), Case { deterministic: true, ..Case::new(10) }]),
            "T3" => board.near_the_oracle(),
            "T4" => board.calm(),
            "T5" => board.rebuild(),
            "T6" => board.cost_of_deciding(),
            _ => board.robust(),
        }
    }
    println!();
    for verdict in board.verdicts {
        println!("{verdict}");
    }
    Ok(())
}

/// Everything that was measured so far.
struct Board {
    requests: Vec<Requests>,
    replays: Replays,
    verdicts: Vec<String>,
}

fn dominates(one: Measured, other: Measured) -> bool {
    let alike = (one.violations - other.violations).abs() <= 0.005;
    let fewer = !alike && one.violations < other.violations;
    one.cost <= other.cost && (alike || fewer) && (one.cost < other.cost || fewer)
}

fn policies(names: &[Name]) -> Vec<Subject> {
    names.iter().copied().map(Subject::Policy).collect()
}

fn figures(measured: Measured) -> String {
    format!("{:.3} · {:.3}", measured.cost, measured.violations)
}

impl Board {
    fn replay(&mut self, subjects: &[Subject], cases: &[Case], seeds: &[u64]) {
        self.replays.add(&self.requests, subjects, cases, seeds);
    }

    fn mean(&self, trace: usize, name: Name, case: Case) -> Measured {
        self.replays.mean(trace, Subject::Policy(name), case, &SEEDS)
    }

    fn verdict(&mut self, target: &str, met: usize, of: usize, what: &str) {
        let verdict = if met == of { "met" } else { "missed" };
        self.verdicts.push(format!("{target}  {verdict:6}  {met} of {of} {what}"));
    }

    /// Prints a peer's row with the preset that dominates it, or all of them, and tells whether one does.
    fn dominated(&self, trace: usize, peer: (Name, Case), presets: Case, said: &str) -> bool {
        let theirs = self.mean(trace, peer.0, peer.1);
        let ours = PRESETS.map(|preset| (preset, self.mean(trace, preset, presets)));
        let by = ours.iter().find(|(_, ours)| dominates(*ours, theirs));
        let shown = |(preset, ours): &(Name, Measured)| format!("{preset} {}", figures(*ours));
        let answer = match by {
            Some(by) => format!("met     {}", shown(by)),
            None => format!("missed  {}", ours.iter().map(shown).collect::<Vec<_>>().join(", ")),
        };
        println!("{said:24}  {:11}  {:11}  {:15}  {answer}", TRACES[trace], peer.0, figures(theirs));
        by.is_some()
    }

    fn dominate(&mut self, target: &str, cases: &[Case]) {
        println!("\n{target}: every peer dominated; cost/oracle · violations %, means of five seeds");
        self.replay(&policies(&[&PEERS[..], &PRESETS].concat()), cases, &SEEDS);
        let mut met = 0;
        for case in cases {
            let service = if case.deterministic { "deterministic" } else { "exponential" };
            let said = format!("d = {} s, {service}", case.start_delay);
            for trace in 0..TRACES.len() {
                met +=
                    PEERS.iter().filter(|peer| self.dominated(trace, (**peer, *case), *case, &said)).count();
            }
        }
        self.verdict(target, met, cases.len() * TRACES.len() * PEERS.len(), "rows dominated");
    }

    /// Cost and violations that one preset is to reach on each trace with a start delay of 10 s.
    fn near_the_oracle(&mut self) {
        const LIMITS: [(f64, f64); 5] = [(4.3, 10.0), (1.35, 0.6), (1.25, 0.1), (1.25, 0.1), (1.25, 0.1)];
        println!("\nT3: near the oracle, d = 10 s; cost/oracle · violations %, means of five seeds");
        let case = Case::new(10);
        self.replay(&policies(&PRESETS), &[case], &SEEDS);
        let mut best = 0;
        for preset in PRESETS {
            let mut met = 0;
            for (trace, (cost, violations)) in LIMITS.iter().enumerate() {
                let ours = self.mean(trace, preset, case);
                let within = ours.cost <= *cost && ours.violations <= *violations;
                met += usize::from(within);
                let word = if within { "met" } else { "missed" };
                println!(
                    "{preset:9}  {:11}  {:15}  limit {cost} · {violations}  {word}",
                    TRACES[trace],
                    figures(ours)
                );
            }
            best = best.max(met);
        }
        self.verdict("T3", best, LIMITS.len(), "traces within their limits with one preset");
    }

    fn calm(&mut self) {
        println!("\nT4: flips as a share of kpa's, at most 25 %; d = 10 s, means of five seeds");
        let case = Case::new(10);
        self.replay(&policies(&[&PRESETS[..], &[Name::Kpa]].concat()), &[case], &SEEDS);
        let mut met = 0;
        for (trace, name) in TRACES.iter().enumerate().skip(1) {
            let kpa = self.mean(trace, Name::Kpa, case).flips;
            let shares = PRESETS.map(|preset| self.mean(trace, preset, case).flips / kpa);
            met += shares.iter().filter(|share| **share <= 0.25).count();
            let shown: Vec<_> = PRESETS
                .iter()
                .zip(shares)
                .map(|(preset, share)| format!("{preset} {:.1} %", 100.0 * share))
                .collect();
            println!("{name:11}  kpa {kpa:.0}, {}", shown.join(", "));
        }
        self.verdict("T4", met, 4 * PRESETS.len(), "presets and traces calm enough");
    }

    fn rebuild(&mut self) {
        println!("\nT5: requests and figures of the reference, seed 1");
        let mut right = 0;
        for cells in lines(REQUESTS) {
            let Some(given) = self.requests.iter().find(|it| TRACES[it.trace] == cells[0] && it.seed == 1)
            else {
                continue;
            };
            let workload = &given.workload;
            let sums =
                [workload.requests().into(), workload.arrival_sum_us(), workload.service_sum_us().into()];
            let same = sums.iter().zip(&cells[1..4]).all(|(ours, theirs)| ours.to_string() == **theirs);
            right += usize::from(same);
            let oracle = [2, 10, 60].map(|delay| format!("{:.0}", given.oracle.cost(Seconds::new(delay))));
            println!(
                "{:11}  {} requests and both sums {}; oracle {}, the reference {}",
                cells[0],
                cells[1],
                if same { "equal" } else { "differ" },
                oracle.join(" / "),
                cells[4..].join(" / ")
            );
        }
        let subjects: Vec<_> = policies(Name::ALL).into_iter().chain([Subject::Forecast]).collect();
        self.replay(&subjects, &[2, 10, 60].map(Case::new), &[1]);
        let (mut met, mut all) = (0, 0);
        for cells in lines(FIGURES) {
            let [delay, name, trace, cost, violations] = cells[..5] else { continue };
            let at = TRACES.iter().position(|it| *it == trace);
            let (Some(trace), Some(subject), Ok(delay)) = (at, Subject::named(name), delay.parse()) else {
                continue;
            };
            let ours = self.replays.mean(trace, subject, Case::new(delay), &[1]);
            let near =
                is_near(ours.cost, cost, 0.005, 0.0) && is_near(ours.violations, violations, 0.0, 0.02);
            (met, all) = (met + usize::from(near), all + 1);
            if !near {
                println!(
                    "d = {delay:2} s  {:11}  {name:18}  {}, the reference {cost} · {violations}",
                    TRACES[trace],
                    figures(ours)
                );
            }
        }
        self.verdict("T5", right, TRACES.len(), "traces with the same requests and sums");
        self.verdict("T5", met, all, "figures within 0.5 % of the cost and 0.02 points of the violations");
    }

    fn cost_of_deciding(&mut self) {
        println!("\nT6: a decision; at most 10 µs and 128 KiB, no allocation");
        let twitter = self.requests.iter().find(|it| it.trace == 1 && it.seed == 1);
        let workload = &twitter.expect("the trace was read").workload;
        let met = decisions::table(workload);
        self.verdict("T6", met, Name::ALL.len(), "policies within time and memory");
    }

    fn robust(&mut self) {
        println!(
            "\nT7: kpa dominated though what was told is wrong; cost/oracle · violations %, means of five seeds"
        );
        let mut cases = Vec::new();
        for delay in [2, 10] {
            let right = Case::new(delay);
            cases.push(("d told is half", right, Case { told: delay / 2, ..right }));
            cases.push(("d told is twice", right, Case { told: delay * 2, ..right }));
            let slow = Case { slowdown: 3, ..right };
            cases.push(("S trebles", slow, slow));
        }
        let mut met = 0;
        for (said, theirs, ours) in &cases {
            self.replay(&policies(&[Name::Kpa]), &[*theirs], &SEEDS);
            self.replay(&policies(&PRESETS), &[*ours], &SEEDS);
            let said = format!("d = {} s, {said}", theirs.start_delay);
            met += (0..TRACES.len())
                .filter(|trace| self.dominated(*trace, (Name::Kpa, *theirs), *ours, &said))
                .count();
        }
        self.verdict("T7", met, cases.len() * TRACES.len(), "rows dominated");
    }
}
