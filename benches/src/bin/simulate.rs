//! Simulated clusters under faults, one seed after another, on all cores.
//!
//! `simulate --help` says how. Exits with 1 when a seed failed, and then says how to see it again.

use std::{
    error::Error,
    fs,
    io::{IsTerminal as _, Read as _, Write as _},
    process::ExitCode,
    sync::{Mutex, mpsc},
    thread,
    time::{Duration, Instant},
};

use quorate_pbft::sim::{
    run::{self, Report},
    schedule::{Schedule, Scheme},
    shorten::shorten,
    twins::{self, Scenario},
};
use serde_json::{Value, json};

const HELP: &str = "\
Runs simulated clusters, each from a seed, and checks them at every step.

usage: simulate [--seeds N] [--from S] [--operations K] [--threads T] [--json]
       simulate --byzzfuzz …
       simulate --twins [--from S] [--seeds N] …
       simulate --schedule FILE

  --seeds N        so many seeds (1000); with --twins so many scenarios (all)
  --from S         the first one (0)
  --operations K   operations of the clients in each run (25)
  --threads T      so many at once (as many as there are cores)
  --json           one JSON object instead of the table
  --byzzfuzz       small changes to real messages, by the protocol's rounds, instead of crashes, cuts,
                   storms, clocks, disks and liars by the clock
  --twins          every way in which two processes under one identity can be kept apart for four
                   rounds in a group of four
  --schedule FILE  runs a schedule as a failure prints it; `-` reads it from standard input
  --help           this

A run is a schedule, drawn from its seed: what clients want, and what goes wrong, step by step. The
same seed gives the same run everywhere. When one fails, its replay command and a shortened schedule
that fails in the same way are printed, and the exit code is 1:

    simulate --from 4711 --seeds 1     runs the seed again
    simulate --schedule short.txt      runs the printed schedule, perhaps with a line changed

Exit codes: 0 all held, 1 something did not, 2 wrong usage.
";

/// What is asked for.
struct Arguments {
    what: What,
    from: u64,
    seeds: Option<u64>,
    operations: u64,
    threads: usize,
    json: bool,
}

enum What {
    Seeds(Scheme),
    Twins,
    Schedule(String),
    Help,
}

fn arguments() -> Result<Arguments, String> {
    let mut asked = Arguments {
        what: What::Seeds(Scheme::Faults),
        from: 0,
        seeds: None,
        operations: 25,
        threads: thread::available_parallelism().map_or(1, Into::into),
        json: false,
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} wants a value"));
        let number =
            |text: String| text.parse::<u64>().map_err(|_| format!("{word} wants a number, not {text}"));
        match word.as_str() {
            "--seeds" => asked.seeds = Some(number(value()?)?),
            "--from" => asked.from = number(value()?)?,
            "--operations" => asked.operations = number(value()?)?,
            "--threads" => {
                let threads = number(value()?)?;
                asked.threads = usize::try_from(threads)
                    .ok()
                    .filter(|threads| (1..=1024).contains(threads))
                    .ok_or(format!("--threads {threads} is not from 1 to 1024"))?;
            }
            "--json" => asked.json = true,
            "--byzzfuzz" => asked.what = What::Seeds(Scheme::ByzzFuzz),
            "--twins" => asked.what = What::Twins,
            "--schedule" => asked.what = What::Schedule(value()?),
            "--help" | "-h" => asked.what = What::Help,
            _ => return Err(format!("{word} is unknown; --help shows what there is")),
        }
    }
    if asked.from.checked_add(asked.seeds.unwrap_or(1000)).is_none() {
        return Err(format!("there are no seeds from {} on", asked.from));
    }
    Ok(asked)
}

fn main() -> ExitCode {
    let asked = match arguments() {
        Ok(asked) => asked,
        Err(wrong) => {
            eprintln!("simulate: {wrong}");
            return ExitCode::from(2);
        }
    };
    // An assertion that fails in a run is its verdict, and shortening makes it fail many times more.
    std::panic::set_hook(Box::new(|_| {}));
    let all_held = match &asked.what {
        What::Help => {
            print!("{HELP}");
            Ok(true)
        }
        What::Seeds(scheme) => seeds(&asked, *scheme),
        What::Twins => scenarios(&asked),
        What::Schedule(path) => schedule(path),
    };
    match all_held {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("simulate: {error}");
            ExitCode::from(2)
        }
    }
}

/// Runs `one` for every item on all threads and gives what came out to `collect`, in any order.
/// Says how long it took.
fn on_all_cores<I: Send, O: Send>(
    asked: &Arguments,
    total: u64,
    items: impl Iterator<Item = I> + Send,
    one: impl Fn(I) -> O + Sync,
    mut collect: impl FnMut(O),
) -> Spent {
    let start = Instant::now();
    let items = Mutex::new(items);
    let next = || items.lock().expect("nobody panics while holding it").next();
    let (send, receive) = mpsc::sync_channel(1024);
    let work = |send: mpsc::SyncSender<O>| {
        while let Some(item) = next() {
            send.send(one(item)).expect("it is received until all threads have ended");
        }
        on_processor()
    };
    let on_processors = thread::scope(|scope| {
        let work = &work;
        let begin = |send| scope.spawn(move || work(send));
        let threads: Vec<_> = (0..asked.threads).map(|_| begin(send.clone())).collect();
        drop(send);
        let mut shown = start;
        for (done, outcome) in (1u64..).zip(receive) {
            collect(outcome);
            if shown.elapsed() >= PROGRESS {
                shown = Instant::now();
                progress(&format!("{done} of {total}"));
            }
        }
        progress("");
        threads.into_iter().map(|thread| thread.join().expect("runs catch their panics")).sum()
    });
    Spent { wall: start.elapsed(), on_processors, threads: asked.threads }
}

/// How often it is shown how far the runs are.
const PROGRESS: Duration = Duration::from_secs(1);

/// Shows how far the runs are, in place on a terminal and nowhere else.
fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K{text}");
    }
}

/// How long this thread was on a processor, as the kernel accounts it; none where it doesn't tell.
fn on_processor() -> Option<Duration> {
    // Nanoseconds on a processor come first: proc(5), /proc/pid/schedstat.
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

fn seeds(asked: &Arguments, scheme: Scheme) -> Result<bool, Box<dyn Error>> {
    let total = asked.seeds.unwrap_or(1000);
    let (mut sum, mut violations) = (Report::default(), Vec::new());
    let spent = on_all_cores(
        asked,
        total,
        asked.from..asked.from + total,
        |seed| run::under(scheme, seed, asked.operations),
        |outcome| match outcome {
            Ok(report) => sum += report,
            Err(failed) => violations.push(failed),
        },
    );
    violations.sort_by_key(|failed| failed.seed);
    let mut rows = vec![
        ("seeds", json!(total)),
        ("events", json!(sum.events)),
        ("operations", json!(sum.submitted)),
        ("answered", json!(sum.answered)),
        ("batches", json!(sum.batches)),
        ("views", json!(sum.views)),
        ("receipts", json!(sum.receipts)),
    ];
    rows.extend(sum.faults.by_kind().map(|(kind, count)| (kind, json!(count))));
    rows.extend(spent.rows(total, "seeds per core-second"));
    rows.push(("violations", json!(violations.len())));
    show(asked, rows)?;
    // The first few are told in full: to shorten one takes many runs.
    for failed in violations.iter().take(3) {
        eprintln!("\n{}", failed.in_full());
    }
    for failed in violations.iter().skip(3) {
        eprintln!("\n{failed}");
    }
    Ok(violations.is_empty())
}

fn scenarios(asked: &Arguments) -> Result<bool, Box<dyn Error>> {
    let from = usize::try_from(asked.from)?;
    let most = asked.seeds.map_or(Ok(usize::MAX), usize::try_from)?;
    let total = Scenario::all(1).skip(from).take(most).count() as u64;
    let (mut sum, mut violations) = (twins::Report::default(), Vec::new());
    let spent = on_all_cores(
        asked,
        total,
        Scenario::all(1).enumerate().skip(from).take(most),
        |(number, scenario)| scenario.run().map_err(|reason| (number, scenario, reason)),
        |outcome| match outcome {
            Ok(report) => sum += report,
            Err(failed) => violations.push(failed),
        },
    );
    violations.sort_by_key(|(number, ..)| *number);
    let mut rows = vec![
        ("scenarios", json!(total)),
        ("deliveries", json!(sum.deliveries)),
        ("batches", json!(sum.batches)),
        ("views", json!(sum.views)),
        ("twins found out", json!(sum.found_out)),
    ];
    rows.extend(spent.rows(total, "scenarios per core-second"));
    rows.push(("violations", json!(violations.len())));
    show(asked, rows)?;
    for (number, scenario, reason) in &violations {
        eprintln!("\n{scenario}: {reason}; replay it with");
        eprintln!(
            "    cargo run --release -p quorate-benches --bin simulate -- --twins --from {number} --seeds 1"
        );
    }
    Ok(violations.is_empty())
}

fn schedule(path: &str) -> Result<bool, Box<dyn Error>> {
    let mut text = String::new();
    match path {
        "-" => _ = std::io::stdin().read_to_string(&mut text)?,
        path => text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?,
    }
    let schedule: Schedule = text.parse().map_err(|error| format!("{path}: {error}"))?;
    match run::run(&schedule) {
        Ok(report) => {
            println!("all held: {report:?}");
            Ok(true)
        }
        Err(reason) => {
            eprintln!("{reason}\n\n{}", shorten(schedule, &reason));
            Ok(false)
        }
    }
}

/// The time that runs took.
struct Spent {
    wall: Duration,
    on_processors: Option<Duration>,
    threads: usize,
}

impl Spent {
    fn rows(&self, total: u64, rate: &'static str) -> [(&'static str, Value); 4] {
        let rounded = |value: f64| json!((value * 100.0).round() / 100.0);
        let core_seconds = self.on_processors.map(|time| time.as_secs_f64());
        [
            ("threads", json!(self.threads)),
            ("seconds", rounded(self.wall.as_secs_f64())),
            ("core seconds", core_seconds.map_or(Value::Null, rounded)),
            (rate, core_seconds.map_or(Value::Null, |seconds| rounded(total as f64 / seconds))),
        ]
    }
}

fn show(asked: &Arguments, rows: Vec<(&'static str, Value)>) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    if asked.json {
        let object: serde_json::Map<_, _> =
            rows.into_iter().map(|(name, value)| (name.replace([' ', '-'], "_"), value)).collect();
        writeln!(out, "{}", Value::Object(object))?;
    } else {
        for (name, value) in rows {
            writeln!(out, "{name:28} {value:>14}")?;
        }
    }
    Ok(())
}
