//! `quorate eval`: an expression in, its answer out.

use super::{
    At, Failure, Global, Settings, explain,
    plan::text,
    platform::{self, Platform},
    print, print_json,
};
use crate::{
    api::{Parameter, Submission},
    config::parse_time,
    expression,
    shutdown::asked_to_end,
};
use clap::Args;
use quorate_dag::Expression;
use std::{
    collections::{BTreeMap, btree_map::Entry},
    path::PathBuf,
    pin::pin,
    time::Duration,
};

const AFTER_HELP: &str = "\
Examples:
  quorate eval '((3+5)*(4/2))'
  quorate eval 'a*(b+1)' -p a=2 -p b=1/3 --digits 20
  quorate eval '1/3+1/6' --receipt r.json && quorate verify r.json
  echo '2*3' | quorate eval -

A platform that runs on the same data is used; without one, what the expression needs is started
here and stopped again.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Eval {
    /// The expression: + - * /, parentheses, numbers of any size, names; - reads it from standard input.
    #[arg(allow_hyphen_values = true)]
    expression: String,
    /// The value of a name: a number or a fraction, such as a=2 or b=1/3.
    #[arg(short, long = "parameter", value_name = "NAME=VALUE", value_parser = parameter)]
    parameters: Vec<(String, String)>,
    /// Prints a decimal of N digits after the point, correctly rounded, in place of a fraction.
    #[arg(long, value_name = "N")]
    digits: Option<u32>,
    /// Writes a receipt that `quorate verify` can check without the platform.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Shows, on standard error, what ran where and when.
    #[arg(long)]
    explain: bool,
    /// Gives up after this time.
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = time)]
    timeout: Duration,
    /// Runs without replicas, when a platform has to be started for this.
    #[arg(long)]
    none: bool,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

fn parameter(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("usage: -p NAME=VALUE, such as -p a=2 -p b=1/3")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

/// The last of two values is no better than the first.
fn each_once(given: Vec<(String, String)>) -> Result<BTreeMap<String, Parameter>, Failure> {
    let mut parameters = BTreeMap::new();
    for (name, value) in given {
        match parameters.entry(name) {
            Entry::Vacant(place) => place.insert(Parameter(value)),
            Entry::Occupied(place) => return Err(Failure::ParameterTwice { name: place.key().clone() }),
        };
    }
    Ok(parameters)
}

pub(super) fn time(text: &str) -> Result<Duration, String> {
    parse_time(text).ok_or_else(|| "expected a time such as 250ms, 10s or 5m".to_owned())
}

impl Eval {
    pub(super) async fn run(self, global: Global) -> Result<(), Failure> {
        let flags = self.none.then(|| ("--none", "functions.default.replication", "none".to_owned()));
        let loaded = self.settings.load(flags.as_slice())?;
        let text = text(&self.expression, loaded.config.limits.expression_bytes)?;
        // What is wrong with the text is known here: nothing need be started for it.
        let bounds = expression::limits(&loaded.config.limits);
        let parsed = Expression::parse_within(&text, &bounds)
            .map_err(|error| Failure::of_expression(&error, &text))?;
        let submission = Submission {
            expression: text,
            parameters: each_once(self.parameters)?,
            digits: self.digits,
            receipt: self.receipt.is_some(),
        };

        // From before anything is made that would be left behind.
        let mut asked_to_end = pin!(asked_to_end());
        let started = Platform::find_or_start(&self.at, loaded.config, global.program()?);
        let mut platform = tokio::select! {
            started = started => started?,
            () = &mut asked_to_end => return Err(Failure::Interrupted),
        };
        let asked = async {
            let client = platform.client();
            let answer = {
                let _progress = platform::progress("computing");
                client.calculate(&submission, self.explain, self.timeout).await
            };
            let answer = answer.map_err(|error| Failure::of_client(error, &submission.expression))?;
            if let Some(path) = &self.receipt {
                let receipt = client.receipt(answer.id).await?;
                std::fs::write(path, &receipt)
                    .map_err(|source| Failure::Write { path: path.clone(), source })?;
            }
            Ok::<_, Failure>(answer)
        };
        // Whatever came of it, what was started is stopped.
        let asked = tokio::select! {
            asked = asked => asked,
            () = &mut asked_to_end => Err(Failure::Interrupted),
        };
        platform.stop().await;
        let answer = asked?;
        if self.explain {
            eprint!("{}", explain::timeline(&parsed, &answer));
        }
        if global.json {
            return print_json(&answer);
        }
        print(&answer.result.unwrap_or_default())
    }
}
