//! Expressions and graphs beside other crates, in one run.
//!
//!     cargo run --release -p quorate-benches --bin dag [-- --json] [-- --quick] [-- --dask]
//!
//! What one thread does is measured in its processor time, which other programs on the machine take
//! little from; medians over samples in which the peers take turns. `--json` prints one object a line:
//! `name`, `peer`, `value`, `unit`. `--quick` takes few samples, and leaves out exmex's 50 s for a megabyte.
//! `--dask` installs Dask from PyPI and measures it, too.

mod large;
mod memory;
mod report;
mod schedule;
mod small;

use report::{Effort, Report};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments == [memory::CHILD] {
        return memory::child();
    }
    let known = ["--json", "--quick", "--dask"];
    if let Some(unknown) = arguments.iter().find(|argument| !known.contains(&argument.as_str())) {
        eprintln!("unknown argument {unknown}; there are {}", known.join(", "));
        std::process::exit(2);
    }
    let is_asked = |what: &str| arguments.iter().any(|argument| argument == what);
    let effort = if is_asked("--quick") { Effort::QUICK } else { Effort::FULL };
    let mut report = Report::default();
    small::measure(&effort, &mut report);
    large::measure(&effort, &mut report);
    schedule::measure(&effort, &mut report);
    memory::measure(&mut report);
    let dask = if is_asked("--dask") { schedule::dask(&mut report) } else { Ok(()) };
    // What was measured before is not lost with it.
    report.print(is_asked("--json"));
    if let Err(error) = dask {
        eprintln!("Dask was not measured: {error}");
        std::process::exit(1);
    }
}
