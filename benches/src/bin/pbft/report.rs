//! Rows as a table or as JSON.

use serde::Serialize;

use crate::Outcome;

/// One row, one line of `--json`.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) clients: usize,
    /// Of each client; none in an open loop.
    pub(crate) outstanding: Option<usize>,
    pub(crate) request_bytes: usize,
    pub(crate) ops_per_s: f64,
    /// None when a process took its account with it.
    pub(crate) cpu_us_per_op: Option<f64>,
    pub(crate) p50_us: u64,
    pub(crate) p99_us: u64,
    /// The longest time without a reply to anybody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) gap_ms: Option<f64>,
    /// From the start of the processes to the first reply.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) setup_ms: Option<f64>,
    /// Of an open loop, operations that came in a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) offered_per_s: Option<f64>,
    /// Of the rate without faults.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) share: Option<f64>,
    /// Of the CPU of all processes, what the faulty ones took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) faulty_cpu: Option<f64>,
}

/// Prints rows as they come.
pub(crate) struct Report {
    json: bool,
    begun: bool,
}

impl Report {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, begun: false }
    }

    pub(crate) fn print(&mut self, row: &Row) -> Outcome<()> {
        if self.json {
            println!("{}", serde_json::to_string(row)?);
            return Ok(());
        }
        if !std::mem::replace(&mut self.begun, true) {
            println!(
                "{:<46}{:>8}{:>13}{:>7}{:>11}{:>11}{:>9}{:>9}{:>8}{:>11}{:>7}{:>12}",
                "",
                "clients",
                "outstanding",
                "bytes",
                "ops/s",
                "CPU µs/op",
                "p50 µs",
                "p99 µs",
                "gap ms",
                "set-up ms",
                "share",
                "faulty CPU"
            );
        }
        let number =
            |value: Option<f64>, digits: usize| value.map_or("-".into(), |it| format!("{it:.digits$}"));
        let percent = |part: Option<f64>| part.map_or("-".into(), |part| format!("{:.0} %", 100.0 * part));
        println!(
            "{:<46}{:>8}{:>13}{:>7}{:>11.0}{:>11}{:>9}{:>9}{:>8}{:>11}{:>7}{:>12}",
            row.name,
            row.clients,
            row.outstanding.map_or("open".into(), |it| it.to_string()),
            row.request_bytes,
            row.ops_per_s,
            number(row.cpu_us_per_op, 1),
            row.p50_us,
            row.p99_us,
            number(row.gap_ms, 0),
            number(row.setup_ms, 0),
            percent(row.share),
            percent(row.faulty_cpu),
        );
        Ok(())
    }

    /// Says why a row is missing, beside the rows.
    pub(crate) fn skip(&self, name: &str, reason: &str) {
        eprintln!("{name}: skipped: {reason}");
    }
}
