//! The command line: arguments, what each command prints, and how it ends.
//!
//! Answers go to standard output and everything else to standard error, so that a pipe gets answers and
//! nothing else. How a command ended is its exit code ([`Exit`]).

mod audit;
mod config;
mod daemon;
mod dlq;
mod eval;
mod explain;
mod failure;
mod faults;
mod generate;
mod keys;
mod plan;
mod platform;
mod scale;
mod simulate;
mod status;
mod table;
mod tls;
mod tokens;
mod top;
mod up;
mod verify;

use crate::{
    backend::process::Program,
    config::{Loaded, Sources},
    control::{self, Daemon},
    telemetry::{self, LogFormat},
};
use clap::{Args, Parser, Subcommand};
use failure::Failure;
pub use platform::Up;
use std::{path::PathBuf, process::ExitCode, time::Duration};
use zeroize::Zeroizing;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// With an answer.
    Answer = 0,
    /// The expression, or the receipt, is wrong.
    Expression = 1,
    /// The command was used wrongly.
    Usage = 2,
    /// No platform is available.
    Unavailable = 3,
    /// The time was up.
    TimedOut = 4,
}

const AFTER_HELP: &str = "\
Examples:
  quorate eval '((3+5)*(4/2))'                 16
  quorate eval 'a*(b+1)' -p a=2 -p b=1/3       8/3
  quorate plan '((3+5)*(4/2))'                 what would run, in which order
  quorate up                                   the whole platform here, until Ctrl-C
  quorate config check                         every setting in force and where it came from

Exit codes:
  0  an answer
  1  the expression (or the receipt, or the proof) is wrong: kind and place are on standard error
  2  wrong usage or configuration
  3  no platform is available
  4  the time was up

Answers go to standard output, everything else to standard error; --json makes both JSON.";

/// A serverless platform for arithmetic: every operation is agreed on by replicas of which some may lie.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = AFTER_HELP, max_term_width = 100)]
#[command(disable_help_subcommand = true, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Args, Debug)]
pub(crate) struct Global {
    /// Prints answers, and errors, as JSON.
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) json: bool,
    /// Logs to standard error: a level (error, warn, info, debug, trace), or quorate::gateway=debug,…
    #[arg(long, global = true, value_name = "FILTER", env = "QUORATE_LOG", help_heading = "Output")]
    #[arg(hide_env_values = true)]
    log: Option<String>,
    /// How log lines look.
    #[arg(long, global = true, value_enum, value_name = "text|json", default_value = "text")]
    #[arg(help_heading = "Output", hide_possible_values = true)]
    log_format: LogFormat,
}

/// Where settings come from.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Configuration")]
pub(crate) struct Settings {
    /// Reads settings from FILE; without it, ./quorate.toml is read if it is there.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    /// Keeps state (identities, the database, journals) in DIR.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Sets any key of the configuration, such as limits.nodes=1000; `quorate config check` lists them.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

/// Where the platform is that a command talks to.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Platform")]
pub(crate) struct At {
    /// The gateway of a running platform; without it, the one that `quorate up` runs on the same data.
    #[arg(long, value_name = "URL", env = "QUORATE_URL", hide_env_values = true)]
    pub(crate) url: Option<String>,
    /// Believes the authorities in FILE, for a gateway at https://; without it, those of this machine.
    #[arg(long, value_name = "FILE", env = "QUORATE_CA", hide_env_values = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Reads the token that the gateway asks for from FILE; without it, QUORATE_TOKEN is the token.
    #[arg(long, value_name = "FILE", env = "QUORATE_TOKEN_FILE", hide_env_values = true)]
    token_file: Option<PathBuf>,
}

impl At {
    /// The token to come with. It is no argument, because everybody on a machine sees those.
    fn token(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        if let Some(path) = &self.token_file {
            let text = std::fs::read_to_string(path)
                .map(Zeroizing::new)
                .map_err(|source| Failure::Read { path: path.clone(), source })?;
            return Ok(Some(Zeroizing::new(text.trim().to_owned())));
        }
        Ok(std::env::var("QUORATE_TOKEN").ok().filter(|token| !token.is_empty()).map(Zeroizing::new))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Computes an expression and prints the answer.
    Eval(eval::Eval),
    /// Runs the whole platform on this machine, until Ctrl-C.
    Up(up::UpCommand),
    /// Shows what an expression would run: waves, critical path, predicted time. Runs nothing.
    Plan(plan::Plan),
    /// Shows the processes of a platform and its queues.
    Status(status::Status),
    /// Shows a platform as it goes on: functions and how they are scaled, sets, queues, faults.
    Top(top::Top),
    /// Lists what failed or lied, what speaks for it, and what was done about it.
    Faults(faults::Faults),
    /// Checks a receipt, or the proof that a replica lied, without any platform.
    Verify(verify::Verify),
    /// Compares two receipts, and names the replicas that signed what cannot both be true.
    Audit(audit::AuditCommand),
    /// Shows and makes the keys that replicas sign with.
    #[command(subcommand)]
    Keys(keys::Keys),
    /// Makes, lists and revokes the tokens that the gateway asks for.
    #[command(subcommand)]
    Tokens(tokens::Tokens),
    /// Makes certificates for connections inside a platform of several machines.
    #[command(subcommand)]
    Tls(tls::Tls),
    /// Shows dead letters, and puts them back on their queue.
    #[command(subcommand)]
    Dlq(dlq::Dlq),
    /// States how many worker sets a function shall have.
    Scale(scale::Scale),
    /// Replays recorded loads against scaling policies: cost, waits, violations. Needs no platform.
    Simulate(simulate::Simulate),
    /// Explains the configuration.
    #[command(subcommand)]
    Config(config::Config),
    /// Prints a completion script for a shell.
    Completions(generate::Completions),
    /// Prints the manual page, or writes one for each command.
    Man(generate::Man),
    /// Daemon: HTTP, accepts expressions and answers.
    Gateway(daemon::ControlDaemon),
    /// Daemon: runs expressions on workers.
    Scheduler(daemon::ControlDaemon),
    /// Daemon: makes, repairs and removes worker sets.
    Cluster(daemon::ControlDaemon),
    /// Daemon: probes pods and publishes faults.
    Admin(daemon::ControlDaemon),
    /// Daemon: says how many worker sets there shall be.
    Autoscaler(daemon::ControlDaemon),
    /// Pod: a function's worker.
    Worker(daemon::Pod),
    /// Pod: one replica of a worker set.
    Replica(daemon::Pod),
    /// The control plane as `quorate up` starts it.
    #[command(hide = true)]
    Control,
}

/// The binary's `main`.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers; clap knows which stream is right.
            let _ = error.print();
            return code(if error.use_stderr() { Exit::Usage } else { Exit::Answer });
        }
    };
    let json = cli.global.json;
    match run(cli) {
        Ok(()) => code(Exit::Answer),
        Err(failure) => {
            if !failure.is_closed_pipe() {
                failure.print(json);
            }
            code(failure.exit())
        }
    }
}

fn code(exit: Exit) -> ExitCode {
    ExitCode::from(exit as u8)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    telemetry::log(global.log.as_deref().unwrap_or("warn"), global.log_format)?;
    match command {
        Command::Eval(eval) => wait_for(eval.run(global)),
        Command::Plan(plan) => plan.run(&global),
        Command::Status(status) => wait_for(status.run(&global)),
        Command::Top(top) => wait_for(top.run(&global)),
        Command::Faults(faults) => wait_for(faults.run(&global)),
        Command::Dlq(dlq) => wait_for(dlq.run(&global)),
        Command::Scale(scale) => wait_for(scale.run(&global)),
        Command::Simulate(simulate) => simulate.run(&global),
        Command::Config(config) => config.run(&global),
        Command::Completions(completions) => completions.run(),
        Command::Man(man) => man.run(),
        Command::Verify(verify) => verify.run(&global),
        Command::Audit(audit) => audit.run(&global),
        Command::Keys(keys) => wait_for(keys.run(&global)),
        Command::Tokens(tokens) => tokens.run(&global),
        Command::Tls(tls) => tls.run(&global),
        Command::Up(up) => wait_for(up.run(global)),
        Command::Gateway(daemon) => serve(daemon.run(Daemon::Gateway, global)),
        Command::Scheduler(daemon) => serve(daemon.run(Daemon::Scheduler, global)),
        Command::Cluster(daemon) => serve(daemon.run(Daemon::Cluster, global)),
        Command::Admin(daemon) => serve(daemon.run(Daemon::Admin, global)),
        Command::Autoscaler(daemon) => serve(daemon.run(Daemon::Autoscaler, global)),
        Command::Worker(pod) => wait_for(pod.run_worker()),
        Command::Replica(pod) => wait_for(pod.run_replica()),
        Command::Control => serve(async { control::run().await.map_err(Failure::Daemon) }),
    }
}

/// How long what a command has left running may take to end with it.
const REMAINS: Duration = Duration::from_millis(250);

/// Runs a command that waits for one thing at a time: threads would only make it start later.
fn wait_for(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    run_on(tokio::runtime::Builder::new_current_thread(), command)
}

/// Runs daemons that have much to do at once.
fn serve(daemon: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    run_on(tokio::runtime::Builder::new_multi_thread(), daemon)
}

fn run_on(
    mut builder: tokio::runtime::Builder,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let runtime = builder.enable_all().build().map_err(Failure::Runtime)?;
    let outcome = runtime.block_on(command);
    // A read of standard input lasts until whoever holds the other end closes it. A daemon that has failed
    // can't wait for that: it is started again only when it has ended.
    runtime.shutdown_timeout(REMAINS);
    outcome
}

impl Global {
    /// This binary, as children run it: they log as this process does.
    pub(crate) fn program(&self) -> Result<Program, Failure> {
        let binary = std::env::current_exe().map_err(Failure::Runtime)?;
        let log = self.log.iter().flat_map(|filter| ["--log".to_owned(), filter.clone()]);
        let format = ["--log-format".to_owned(), self.log_format.to_string()];
        Ok(Program { binary, arguments: log.chain(format).collect() })
    }
}

impl Settings {
    /// What is in force, with `flags` (as written, key, value) over everything else.
    pub(crate) fn load(&self, flags: &[(&str, &str, String)]) -> Result<Loaded, Failure> {
        let mut all = Vec::new();
        for set in &self.set {
            let (key, value) = set.split_once('=').ok_or_else(|| Failure::Set { given: set.clone() })?;
            all.push((format!("--set {key}"), key.trim().to_owned(), value.trim().to_owned()));
        }
        if let Some(data) = &self.data {
            all.push(("--data".to_owned(), "data".to_owned(), data.display().to_string()));
        }
        all.extend(flags.iter().map(|(flag, key, value)| ((*flag).into(), (*key).into(), value.clone())));
        Ok(Sources::of_process(self.config.clone(), all).load()?)
    }
}

/// Prints an answer. Who closed the pipe has seen enough, which is no error.
pub(crate) fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") })
        .and_then(|()| out.flush())
        .map_err(Failure::Output)
}

/// Prints an answer as JSON.
pub(crate) fn print_json(value: &impl serde::Serialize) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value).expect("answers are plain data"))
}
