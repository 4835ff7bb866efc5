//! Logs to standard error and metrics for `/metrics`.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::{io::IsTerminal, sync::OnceLock};
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For a person: coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

impl std::fmt::Display for LogFormat {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// A filter that is not one.
#[derive(Debug, thiserror::Error)]
#[error(
    "log filter `{filter}` is malformed ({source}); write a level such as `info`, or `quorate=debug,h2=warn`"
)]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Sends logs to standard error. `filter` is `warn`, `info`, `quorate::gateway=debug`, …
///
/// # Errors
/// When the filter is malformed. A second call changes nothing.
pub fn log(filter: &str, format: LogFormat) -> Result<(), FilterError> {
    let parsed =
        EnvFilter::try_new(filter).map_err(|source| FilterError { filter: filter.to_owned(), source })?;
    let lines = fmt().with_env_filter(parsed).with_writer(std::io::stderr);
    // Only a first call can set the process's subscriber.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Seconds: from half of the fastest path's target to beyond the longest wait.
const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// The process's metrics; the first call makes their recorder.
pub fn metrics() -> &'static PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &BUCKETS)
            .expect("there are buckets")
            .build_recorder();
        let handle = recorder.handle();
        // Another recorder can only have been set by a program that embeds this one; then it has them.
        let _ = metrics::set_global_recorder(recorder);
        handle
    })
}
