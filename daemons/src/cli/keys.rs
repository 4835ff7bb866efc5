//! `quorate keys`: the identities of workers and replicas.

use super::{Failure, Global, Settings, platform::progress, print, print_json, table::table};
use crate::{config::Replication, hex, identity::Identities, receipt::Keys as PublicKeys};
use clap::{Args, Subcommand};
use quorate_dag::Function;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// Shows the public keys of every set's replicas; with --json, for `quorate verify --keys`.
    Show(Show),
    /// Makes the keys of each function's first set now, so that nothing has to wait for them later.
    Make(Make),
}

#[derive(Args, Debug)]
pub(crate) struct Show {
    #[command(flatten)]
    settings: Settings,
}

#[derive(Args, Debug)]
pub(crate) struct Make {
    #[command(flatten)]
    settings: Settings,
}

impl Keys {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        match self {
            Self::Show(show) => show.run(global),
            Self::Make(make) => make.run(global).await,
        }
    }
}

impl Show {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let sets = Identities::at(&self.settings.load(&[])?.config.data).sets()?;
        if global.json {
            let keys = sets.into_iter().map(|set| {
                let keys = set.replicas.iter().map(|replica| hex::encode(&replica.public.to_der())).collect();
                (set.set, keys)
            });
            return print_json(&PublicKeys { sets: keys.collect() });
        }
        if sets.is_empty() {
            return print(
                "no keys yet; they are made when a set is first started, or by `quorate keys make`",
            );
        }
        let rows: Vec<_> = sets
            .iter()
            .flat_map(|set| {
                let replicas = set.replicas.iter().zip(0..).map(|(replica, index): (_, u32)| {
                    [set.set.clone(), format!("replica {index}"), replica.public.fingerprint()]
                });
                std::iter::once([set.set.clone(), "worker".into(), set.worker.public.fingerprint()])
                    .chain(replicas)
            })
            .collect();
        print(&table(["SET", "MEMBER", "KEY"], &rows))
    }
}

impl Make {
    async fn run(self, global: &Global) -> Result<(), Failure> {
        let config = self.settings.load(&[])?.config;
        let identities = Identities::at(&config.data);
        let _progress = progress("making keys");
        let mut made = Vec::new();
        for function in Function::ALL {
            let replicas = match config.functions.of(function).replication {
                Replication::None => continue,
                replicated => replicated.replicas(),
            };
            let (identities, set) = (identities.clone(), format!("{}-0", function.name()));
            let keys = tokio::task::spawn_blocking(move || identities.obtain(&set, replicas))
                .await
                .map_err(|error| Failure::Runtime(error.into()))??;
            made.push(keys.set);
        }
        if global.json {
            return print_json(&made);
        }
        print(&format!("keys are there for {}", made.join(", ")))
    }
}
