//! What a user waits for: whole processes and requests over HTTP, client included, on one machine.
//!
//!     cargo run --release -p quorate-benches --bin eval [-- --json] [-- --quick]

use hdrhistogram::Histogram;
use quorate_tests::{Data, Load, Mix, Platform, keys};
use serde_json::json;
use std::time::{Duration, Instant};

const EXAMPLE: &str = "((3+5)*(4/2))";

/// How often each thing is measured, and for how long.
struct Effort {
    cold: usize,
    warm: usize,
    requests: usize,
    load: Duration,
}

const FULL: Effort = Effort { cold: 5, warm: 15, requests: 2000, load: Duration::from_secs(6) };
const QUICK: Effort = Effort { cold: 1, warm: 3, requests: 200, load: Duration::from_secs(1) };

/// Requests that are outstanding when throughput is measured.
const OUTSTANDING: usize = 64;

/// One line of the table.
struct Row {
    what: String,
    /// What it shall be: milliseconds at most, or requests per second at least.
    target: Option<f64>,
    unit: &'static str,
    /// The median, or the rate.
    measured: f64,
    /// The 99th percentile, or the slowest of a few.
    tail: Option<f64>,
    runs: u64,
}

impl Row {
    fn is_met(&self) -> Option<bool> {
        let target = self.target?;
        Some(if self.unit == "ms" { self.measured <= target } else { self.measured >= target })
    }
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(unknown) = arguments.iter().find(|a| *a != "--json" && *a != "--quick") {
        eprintln!("unknown argument {unknown}; there are --json and --quick");
        std::process::exit(2);
    }
    let effort = if arguments.iter().any(|a| a == "--quick") { QUICK } else { FULL };
    // Made before anything is measured.
    let _ = keys();
    let mut rows = whole_processes(&effort).await;
    for (durability, extra_ms, share) in [("process", 0.0, 1.0), ("disk", 1.5, 0.7)] {
        for (name, replication, latency_ms, rate) in
            [("f = 1", "{ f = 1 }", 3.0, 3000.0), ("none", "\"none\"", 1.0, 8000.0)]
        {
            let config = format!(
                "durability = \"{durability}\"\n[functions.default]\nreplication = {replication}\npods_min = 1\n"
            );
            let mode = format!("{name}, {durability}");
            let platform = Platform::up(&config).await;
            rows.push(latency(&platform, &mode, Some(latency_ms + extra_ms), effort.requests).await);
            rows.push(throughput(&platform, &mode, Some(rate * share), effort.load).await);
            platform.stop().await;
            if durability == "process" {
                // What certificates at both ends of every connection cost.
                let platform = Platform::up(&format!("{config}[tls]\ninside = \"off\"\n")).await;
                let mode = format!("{mode}, plain text");
                rows.push(latency(&platform, &mode, None, effort.requests).await);
                rows.push(throughput(&platform, &mode, None, effort.load).await);
                platform.stop().await;
            }
        }
    }
    if arguments.iter().any(|a| a == "--json") {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({
                    "what": row.what, "target": row.target, "unit": row.unit, "measured": row.measured,
                    "tail": row.tail, "runs": row.runs, "met": row.is_met(),
                })
            })
            .collect();
        println!("{}", serde_json::Value::from(rows));
    } else {
        table(&rows);
    }
}

fn table(rows: &[Row]) {
    println!("| what | target | measured | p99 or slowest | runs | |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for row in rows {
        let bound = if row.unit == "ms" { "≤" } else { "≥" };
        let target = row.target.map_or(String::new(), |target| format!("{bound} {target} {}", row.unit));
        let tail = row.tail.map_or(String::new(), |tail| format!("{tail:.2} {}", row.unit));
        let met = row.is_met().map_or("", |met| if met { "met" } else { "missed" });
        let digits = if row.unit == "ms" { 2 } else { 0 };
        println!(
            "| {} | {target} | {:.digits$} {} | {tail} | {} | {met} |",
            row.what, row.measured, row.unit, row.runs
        );
    }
}

/// `quorate eval` from its start to its end, as a shell sees it.
async fn whole_processes(effort: &Effort) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut cold = times();
    for _ in 0..effort.cold {
        let data = Data::empty();
        cold += eval(&data, &[]).await;
    }
    rows.push(row("eval on an empty data folder", Some(3000.0), &cold));

    let data = Data::new();
    for (what, target, flags) in [
        ("eval with identities, f = 1", Some(300.0), &[][..]),
        ("eval with identities, f = 1, plain text", None, &["--set", "tls.inside=off"]),
        ("eval with identities, none", None, &["--none"]),
        ("eval with identities, none, plain text", None, &["--none", "--set", "tls.inside=off"]),
    ] {
        let mut warm = times();
        for _ in 0..effort.warm {
            warm += eval(&data, flags).await;
        }
        rows.push(row(what, target, &warm));
    }

    let platform = Platform::up_on(data, "").await;
    eval(&platform.data, &[]).await;
    let mut running = times();
    for _ in 0..effort.warm * 4 {
        running += eval(&platform.data, &[]).await;
    }
    rows.push(row("eval against a running platform, f = 1, disk", Some(10.0), &running));
    platform.stop().await;
    rows
}

/// Microseconds that one `eval` took.
async fn eval(data: &Data, flags: &[&str]) -> u64 {
    let mut arguments = vec!["eval", EXAMPLE];
    arguments.extend_from_slice(flags);
    let since = Instant::now();
    let output = data.run(&arguments).await;
    let took = micros(since.elapsed());
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "16\n"), "{output:?}");
    took
}

/// One request after the other, each waiting for its answer.
async fn latency(platform: &Platform, mode: &str, target_ms: Option<f64>, requests: usize) -> Row {
    let mut times = times();
    for n in 0..requests + requests / 10 {
        let since = Instant::now();
        assert_eq!(platform.result(EXAMPLE).await, "16");
        // The first ones warm connections and caches.
        if n >= requests / 10 {
            times += micros(since.elapsed());
        }
    }
    row(&format!("request with wait, {mode}"), target_ms, &times)
}

/// As many as are answered while 64 are outstanding.
async fn throughput(platform: &Platform, mode: &str, target: Option<f64>, during: Duration) -> Row {
    let load = Load::start(platform, Mix::Example, OUTSTANDING);
    tokio::time::sleep(during / 6).await;
    let (before, since) = (load.count(), Instant::now());
    tokio::time::sleep(during).await;
    let (answered, took) = (load.count() - before, since.elapsed());
    load.finish().await.assert_flawless();
    #[expect(clippy::cast_precision_loss, reason = "a count far below 2^52")]
    let measured = answered as f64 / took.as_secs_f64();
    let what = format!("{OUTSTANDING} outstanding, {mode}");
    Row { what, target, unit: "/s", measured, tail: None, runs: answered }
}

fn times() -> Histogram<u64> {
    Histogram::new(3).expect("three digits are allowed")
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).expect("took less than an age")
}

fn row(what: &str, target_ms: Option<f64>, times: &Histogram<u64>) -> Row {
    #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^52")]
    let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
    Row {
        what: what.into(),
        target: target_ms,
        unit: "ms",
        measured: at(0.5),
        tail: Some(at(0.99)),
        runs: times.len(),
    }
}
