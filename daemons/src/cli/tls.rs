//! `quorate tls`: certificates for connections inside a platform of several machines.

use super::{Failure, Global, print, print_json};
use crate::tls::{Authority, NAMES, Role, TlsError};
use clap::{Args, Subcommand};
use serde_json::json;
use std::{fs, path::PathBuf};

#[derive(Debug, Subcommand)]
pub(crate) enum Tls {
    /// Makes an authority, unless FOLDER has one, and a certificate for the control plane's daemons.
    Make(Make),
}

const AFTER_HELP: &str = "\
FOLDER then has
  ca.crt, ca.key      the authority; only the cluster service needs its key (tls.ca_key)
  tls.crt, tls.key    for every daemon of the control plane (tls.cert, tls.key, with tls.ca)
The cluster service makes the certificates of workers and replicas. `quorate up`, and daemons that share a
data folder, make all of this by themselves.

Examples:
  quorate tls make /etc/quorate/tls
  quorate tls make tls --secrets | kubectl -n quorate create -f -

Run again, it renews the certificate under the same authority.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Make {
    /// Where they lie; only their owner can read the keys.
    folder: PathBuf,
    /// Prints them as Kubernetes Secrets as well: quorate-tls, and quorate-authority with its key.
    #[arg(long)]
    secrets: bool,
}

impl Tls {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let Self::Make(make) = self;
        make.run(global)
    }
}

impl Make {
    fn run(self, global: &Global) -> Result<(), Failure> {
        let authority = Authority::at(&self.folder)?;
        let issued = authority.issue(Role::Control, None)?;
        let files = issued.write(&self.folder)?;
        let ca_key = self.folder.join(Authority::KEY);
        if self.secrets {
            let ca_key = fs::read_to_string(&ca_key).map_err(TlsError::file(&ca_key))?;
            return print_json(&json!({ "apiVersion": "v1", "kind": "List", "items": [
                secret("quorate-tls", NAMES.into_iter().zip([authority.pem(), &issued.cert, &issued.key])),
                secret("quorate-authority", [(Authority::KEY, ca_key.as_str())]),
            ] }));
        }
        let paths = [&files.ca, &ca_key, &files.cert, &files.key];
        if global.json {
            return print_json(&paths);
        }
        print(&paths.map(|path| path.display().to_string()).join("\n"))
    }
}

fn secret<'a>(name: &str, items: impl IntoIterator<Item = (&'a str, &'a str)>) -> serde_json::Value {
    let data: serde_json::Map<_, _> =
        items.into_iter().map(|(key, text)| (key.into(), json!(text))).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": name, "labels": { "app.kubernetes.io/name": "quorate" } },
        "type": "Opaque",
        "stringData": data,
    })
}
