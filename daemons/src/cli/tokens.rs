//! `quorate tokens`: who may come to the gateway.

use super::{Failure, Global, Settings, print, print_json, table::table};
use crate::token::{Scope, Tokens as Known};
use clap::{Args, Subcommand};
use serde_json::json;

#[derive(Debug, Subcommand)]
pub(crate) enum Tokens {
    /// Makes a token and prints it: it can't be shown again.
    Make(Make),
    /// Lists tokens: name, scopes, requests a second, when made.
    List(List),
    /// Revokes a token; gateways refuse it a second later.
    Revoke(Revoke),
}

const AFTER_HELP: &str = "\
Examples:
  quorate tokens make ci --scope submit                 prints quorate_…
  QUORATE_TOKEN=quorate_… quorate eval '1+1' --url http://HOST:7400
  curl -H 'Authorization: Bearer quorate_…' http://HOST:7400/v1/status

As soon as there is one token, the gateway asks everybody for one.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Make {
    /// Whose it is: letters, digits, - _ and .
    name: String,
    /// What it allows: submit (submit expressions, read their answers), read (everything that can be
    /// looked at) or admin (everything); may be given several times.
    #[arg(long = "scope", value_enum, required = true, hide_possible_values = true)]
    #[arg(value_name = "submit|read|admin")]
    scopes: Vec<Scope>,
    /// Requests a second; without it, limits.requests_per_second.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct List {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Revoke {
    /// The token's name.
    name: String,
    #[command(flatten)]
    settings: Settings,
}

impl Tokens {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let settings = match &self {
            Self::Make(make) => &make.settings,
            Self::List(list) => &list.settings,
            Self::Revoke(revoke) => &revoke.settings,
        };
        let config = settings.load(&[])?.config;
        let path = config.gateway.tokens(&config.data);
        let mut known = Known::read(&path)?.unwrap_or_default();
        match self {
            Self::Make(Make { name, scopes, rate, .. }) => {
                let text = known.make(&name, scopes, rate)?;
                known.write(&path)?;
                if global.json { print_json(&json!({ "name": name, "token": *text })) } else { print(&text) }
            }
            Self::List(_) => {
                let all = known.all();
                if global.json {
                    let all = all.into_iter().map(|token| {
                        json!({
                            "name": token.name, "scopes": token.scopes,
                            "requests_per_second": token.requests_per_second, "made": token.made,
                        })
                    });
                    return print_json(&all.collect::<Vec<_>>());
                }
                if all.is_empty() {
                    return print("no tokens; `quorate tokens make NAME --scope submit` makes one");
                }
                let rows: Vec<_> = all
                    .into_iter()
                    .map(|token| {
                        let scopes: Vec<_> = token.scopes.iter().map(Scope::to_string).collect();
                        let rate =
                            token.requests_per_second.map_or("default".into(), |rate| rate.to_string());
                        [token.name.clone(), scopes.join(", "), rate, token.made.to_string()]
                    })
                    .collect();
                print(&table(["NAME", "SCOPES", "REQUESTS/S", "MADE"], &rows))
            }
            Self::Revoke(Revoke { name, .. }) => {
                known.revoke(&name)?;
                known.write(&path)?;
                if global.json {
                    print_json(&json!({ "revoked": name }))
                } else {
                    print(&format!("{name} is revoked"))
                }
            }
        }
    }
}
