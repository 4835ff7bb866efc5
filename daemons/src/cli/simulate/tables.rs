//! What is printed: a table for each start delay, policies down and traces across.

use super::runs::{Plan, Recorded, Row};
use crate::cli::table::{columns, table};
use std::{fmt::Write as _, iter::once};

pub(super) fn text(recorded: &[Recorded], rows: &[Row], plan: &Plan) -> String {
    let mut text = introduction(recorded, plan);
    let header: Vec<_> = once("policy").chain(recorded.iter().map(|it| it.trace.as_str())).collect();
    for &delay in &plan.start_delays {
        let line_of = |name: &'static str| {
            let of_trace = |trace: &Recorded| {
                let wanted =
                    |row: &&Row| row.trace == trace.trace && row.policy == name && row.start_delay_s == delay;
                cell(&rows.iter().filter(wanted).collect::<Vec<_>>())
            };
            once(name.to_owned()).chain(recorded.iter().map(of_trace)).collect::<Vec<_>>()
        };
        let lines: Vec<_> = plan.subjects.iter().map(|subject| line_of(subject.name())).collect();
        let _ = write!(
            text,
            "\nstart delay {delay} s, {} service: cost/oracle · violations % · p99 wait s\n\n{}",
            plan.service,
            columns(&header, lines.iter().map(Vec::as_slice))
        );
    }
    text
}

/// The requests of each trace, with the sums by which two programs know that they replay the same ones;
/// for the first seed.
fn introduction(recorded: &[Recorded], plan: &Plan) -> String {
    let delays: Vec<_> = plan.start_delays.iter().map(ToString::to_string).collect();
    let oracle = format!("oracle pod-s, d = {}", delays.join(" / "));
    let rows: Vec<_> = recorded
        .iter()
        .map(|it| {
            let costs: Vec<_> = it.oracle.iter().map(|cost| format!("{cost:.0}")).collect();
            [
                it.trace.clone(),
                if it.scale < 0.01 { format!("{:.3e}", it.scale) } else { it.scale.to_string() },
                it.seconds.to_string(),
                it.requests.to_string(),
                it.arrival_sum_us.to_string(),
                it.service_sum_us.to_string(),
                it.start_pods.to_string(),
                costs.join(" / "),
            ]
        })
        .collect();
    let header =
        ["trace", "scale", "length s", "requests", "arrivals µs", "service µs", "start pods", &oracle];
    table(header, &rows)
}

/// The mean over seeds.
fn cell(rows: &[&Row]) -> String {
    let mean = |of: fn(&Row) -> f64| rows.iter().map(|row| of(row)).sum::<f64>() / rows.len().max(1) as f64;
    let cost = significant(mean(|row| row.cost_ratio));
    let violations = significant(100.0 * mean(|row| row.violations));
    format!("{cost} · {violations} · {:.2}", mean(|row| row.p99_wait_s))
}

/// Three digits, and no more than three places.
fn significant(value: f64) -> String {
    let places = match value {
        _ if value == 0.0 || value >= 100.0 => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

pub(super) fn csv(rows: &[Row]) -> String {
    let mut text = "trace,policy,start_delay_s,cost_ratio,service,seed,p50_wait_s,p99_wait_s,violations,\
                    actions,flips\n"
        .to_owned();
    for row in rows {
        // A name with a comma or a quote in it is quoted, as RFC 4180 has it.
        let trace = if row.trace.contains([',', '"', '\n']) {
            format!("\"{}\"", row.trace.replace('"', "\"\""))
        } else {
            row.trace.clone()
        };
        let _ = writeln!(
            text,
            "{trace},{},{},{:.6},{},{},{:.6},{:.6},{:.8},{},{}",
            row.policy,
            row.start_delay_s,
            row.cost_ratio,
            row.service,
            row.seed,
            row.p50_wait_s,
            row.p99_wait_s,
            row.violations,
            row.actions,
            row.flips
        );
    }
    text
}
