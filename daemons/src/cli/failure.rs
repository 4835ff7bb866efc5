//! Why a command has no answer, in a line or a few, and the exit code that says so.

use super::{Exit, simulate::SimulateError};
use crate::{
    api::Problem,
    client::ClientError,
    config::ConfigErrors,
    control,
    excerpt::Excerpt,
    fault::Unproven,
    hold::HoldError,
    identity::IdentityError,
    receipt::{UnprovenAudit, UnprovenReceipt},
    supervisor::SupervisorError,
    telemetry::FilterError,
    tls::TlsError,
    token::TokenError,
};
use quorate_dag::ExpressionError;
use std::{io, path::PathBuf};

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The expression is wrong: how it is written, or what came out of it.
    #[error("{detail}")]
    Expression { kind: String, detail: String, span: Option<[usize; 2]>, text: String },
    #[error("{0}")]
    Config(#[from] ConfigErrors),
    #[error(transparent)]
    Filter(#[from] FilterError),
    #[error("`--set {given}`: expected KEY=VALUE, such as limits.nodes=1000")]
    Set { given: String },
    #[error("the parameter `{name}` is given twice; a name has one value")]
    ParameterTwice { name: String },
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("no platform runs on the data in {}; start one with `quorate up`, or name one with --url", data.display())]
    NoPlatform { data: PathBuf },
    #[error("can't read the expression from standard input: {0}")]
    Input(#[source] io::Error),
    #[error("can't write the answer: {0}")]
    Output(#[source] io::Error),
    #[error("can't write {}: {source}", path.display())]
    Write { path: PathBuf, source: io::Error },
    #[error("can't read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no keys: {source}", path.display())]
    Keys { path: PathBuf, source: serde_json::Error },
    #[error("the receipt proves nothing: {0}")]
    Receipt(#[from] UnprovenReceipt),
    #[error("nobody can be accused with a receipt that proves nothing; the {0}")]
    Audit(#[from] UnprovenAudit),
    #[error("the proof proves nothing: {0}")]
    Fault(#[from] Unproven),
    #[error(transparent)]
    Identity(#[from] IdentityError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Simulate(#[from] SimulateError),
    #[error("`quorate top` draws on a terminal; in a pipe there is --json, or `quorate status`")]
    NoTerminal,
    #[error("interrupted")]
    Interrupted,
    #[error("can't start: {0}")]
    Runtime(#[source] io::Error),
    #[error(transparent)]
    Hold(#[from] HoldError),
    #[error(transparent)]
    Platform(#[from] SupervisorError),
    #[error("{0}")]
    Daemon(control::Failure),
}

impl Failure {
    /// An error of the expression as the language says it.
    pub(crate) fn of_expression(error: &ExpressionError, text: &str) -> Self {
        Self::Expression {
            kind: error.kind.as_str().to_owned(),
            detail: error.kind.to_string(),
            span: Some([error.span.start, error.span.end]),
            text: text.to_owned(),
        }
    }

    /// What a platform says of the expression `text`.
    pub(crate) fn of_client(error: ClientError, text: &str) -> Self {
        match error {
            ClientError::Problem(problem) if is_of_expression(&problem) => {
                let Problem { kind, detail, span, .. } = *problem;
                Self::Expression { kind, detail, span, text: text.to_owned() }
            }
            error => Self::Client(error),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Expression { .. } | Self::Receipt(_) | Self::Audit(_) | Self::Fault(_) => Exit::Expression,
            Self::Client(ClientError::TimedOut { .. }) | Self::Interrupted => Exit::TimedOut,
            Self::Client(ClientError::Url { .. } | ClientError::Ca(_)) => Exit::Usage,
            Self::Client(ClientError::Problem(problem)) => match problem.status {
                504 => Exit::TimedOut,
                400..500 => Exit::Usage,
                _ => Exit::Unavailable,
            },
            Self::Client(_) | Self::NoPlatform { .. } | Self::Runtime(_) => Exit::Unavailable,
            Self::Hold(HoldError::Held { .. }) | Self::Platform(_) | Self::Daemon(_) | Self::Identity(_) => {
                Exit::Unavailable
            }
            Self::Config(_) | Self::Filter(_) | Self::Set { .. } | Self::ParameterTwice { .. } => Exit::Usage,
            Self::Hold(HoldError::Unusable { .. }) => Exit::Usage,
            Self::Input(_) | Self::Output(_) | Self::Write { .. } | Self::NoTerminal => Exit::Usage,
            Self::Read { .. } | Self::Keys { .. } | Self::Token(_) | Self::Tls(_) | Self::Simulate(_) => {
                Exit::Usage
            }
        }
    }

    /// Whether whoever read the answer stopped reading it.
    pub(crate) fn is_closed_pipe(&self) -> bool {
        matches!(self, Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe)
    }

    fn kind(&self) -> &str {
        match self {
            Self::Expression { kind, .. } => kind,
            Self::Client(ClientError::Problem(problem)) => &problem.kind,
            Self::Receipt(_) | Self::Audit(_) => "unproven-receipt",
            Self::Fault(_) => "unproven-fault",
            _ => match self.exit() {
                Exit::TimedOut => "timed-out",
                Exit::Unavailable => "platform-unavailable",
                _ => "usage",
            },
        }
    }

    /// Prints it to standard error.
    pub(crate) fn print(&self, json: bool) {
        if json {
            let mut error = serde_json::json!({ "kind": self.kind(), "detail": self.to_string() });
            if let Self::Expression { span: Some(span), .. } = self {
                error["span"] = serde_json::json!(span);
            }
            eprintln!("{error}");
            return;
        }
        match self {
            Self::Config(errors) => eprintln!("{errors}"),
            Self::Expression { kind, detail, span, text } => {
                eprintln!("error: {detail} ({kind})");
                if let Some([start, end]) = *span {
                    let excerpt = Excerpt::new(text, start..end);
                    eprintln!("{excerpt}");
                }
            }
            other => eprintln!("error: {other}"),
        }
    }
}

/// Whether the platform blames what was submitted, and not how or when.
fn is_of_expression(problem: &Problem) -> bool {
    matches!(problem.status, 413 | 422)
}
