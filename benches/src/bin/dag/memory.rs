//! What a plan and a run of it take, in a process of its own that does nothing else.

use std::process::Command;

use quorate_dag::{Costs, Expression, Limits, PlanOptions, Run};

use crate::large::{Random, balanced};
use crate::report::{Report, Target};

/// The argument of that process.
pub(crate) const CHILD: &str = "--memory";

pub(crate) fn measure(report: &mut Report) {
    let output = Command::new(std::env::current_exe().expect("this program"))
        .arg(CHILD)
        // Everything large comes from the kernel and goes back to it: what is resident is in use.
        .env("MALLOC_MMAP_THRESHOLD_", "65536")
        .output()
        .expect("this program runs again");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let bytes: f64 = text.trim().parse().expect("a number of bytes");
    report
        .row("memory of a plan and its run, values apart", "quorate", bytes, "bytes a node")
        .target(Target::AtMost(48.0));
}

pub(crate) fn child() {
    let mut text = String::new();
    balanced(&mut text, 1_000_001, &mut Random::new());
    let limits = Limits { bytes: 1 << 30, nodes: 1 << 30, ..Limits::default() };
    let expression = Expression::parse_within(&text, &limits).expect("right");
    let before = resident();
    let plan = expression.plan_with(&PlanOptions { share: false, ..PlanOptions::default() });
    let run: Run<()> = Run::new(plan.graph().clone(), &Costs::default());
    let bytes = resident() - before;
    println!("{}", bytes / run.graph().len() as f64);
}

/// Bytes of this process in memory; pages are of 4 KiB.
fn resident() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let resident: f64 = pages.split(' ').nth(1).expect("a second field").parse().expect("a number");
    resident * 4096.0
}
