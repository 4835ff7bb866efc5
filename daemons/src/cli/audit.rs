//! `quorate audit`: two receipts compared without any platform.

use super::{
    Failure, Global, print, print_json,
    verify::{keys_in, read, say_trust},
};
use crate::receipt::{Audit, ExpressionReceipt};
use clap::Args;
use std::path::PathBuf;

const AFTER_HELP: &str = "\
Examples:
  quorate keys show --json > keys.json         once, from a machine that you trust
  quorate audit mine.json yours.json --keys keys.json

Each receipt has to be right by itself, as `quorate verify` checks it. When more than f replicas of
a set lie together, they can sign two histories, one for you and one for somebody else. Whoever
compares the two receipts finds out: one place holds two operations, one operation stands in two
places, or two histories of one length differ. At least f+1 replicas have signed both, and no
honest one does. Receipts that do not contradict each other may still be of two histories: they
show it only where they speak of the same.

Without --keys anybody could have made both files, and nobody is guilty of anything.

Exit codes: 0 whether or not somebody lied, 1 when a receipt is wrong by itself.";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct AuditCommand {
    /// A receipt, as `quorate eval --receipt` wrote it.
    first: PathBuf,
    /// Another one.
    second: PathBuf,
    /// The public keys of the replicas, as `quorate keys show --json` printed them.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl AuditCommand {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let keys = keys_in(self.keys.as_deref())?;
        let first = ExpressionReceipt::from_json(&read(&self.first)?)?;
        let second = ExpressionReceipt::from_json(&read(&self.second)?)?;
        let audit = first.audit(&second, keys.as_ref())?;
        if global.json {
            return print_json(&audit);
        }
        say_trust(audit.trusted);
        print(&text(&audit))
    }
}

fn text(audit: &Audit) -> String {
    if audit.sets.is_empty() {
        return "no set executed something for both: the receipts say nothing about each other\n".into();
    }
    if audit.contradictions.is_empty() {
        return format!("no contradiction in what {} signed\n", audit.sets.join(", "));
    }
    let line = |contradicted: &crate::receipt::Contradicted| {
        let replicas: Vec<_> = contradicted.replicas.iter().map(u32::to_string).collect();
        format!("replicas {} of {} lied: {}\n", replicas.join(", "), contradicted.set, contradicted.what)
    };
    audit.contradictions.iter().map(line).collect()
}
