//! `quorate verify`: a receipt, or the proof that a replica lied, checked without any platform.

use super::{Failure, Global, print, print_json};
use crate::{
    fault::FaultProof,
    receipt::{ExpressionReceipt, Keys, Verified},
};
use clap::Args;
use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

const AFTER_HELP: &str = "\
Examples:
  quorate keys show --json > keys.json         once, from a machine that you trust
  quorate verify r.json --keys keys.json
  quorate verify --fault proof.json --keys keys.json     written by `quorate faults --proof ID`

Without --keys the file is checked against the keys that it names itself. That shows that it is
consistent, not who signed it.";

/// The most that is read of a file: a receipt of a million operations.
const BYTES_MAX: u64 = 8 << 30;

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Verify {
    /// The receipt, as `quorate eval --receipt` wrote it.
    #[arg(required_unless_present = "fault", conflicts_with = "fault")]
    receipt: Option<PathBuf>,
    /// Checks the proof that a replica lied, as `quorate faults --proof` wrote it.
    #[arg(long, value_name = "FILE")]
    fault: Option<PathBuf>,
    /// The public keys of the replicas, as `quorate keys show --json` printed them.
    #[arg(long, value_name = "FILE")]
    keys: Option<PathBuf>,
}

impl Verify {
    pub(super) fn run(self, global: &Global) -> Result<(), Failure> {
        let keys = keys_in(self.keys.as_deref())?;
        if let Some(path) = &self.fault {
            return fault(&FaultProof::from_json(&read(path)?)?, keys.as_ref(), global);
        }
        let Some(path) = &self.receipt else { unreachable!("one of the two is required") };
        let verified = ExpressionReceipt::from_json(&read(path)?)?.verify(keys.as_ref())?;
        if global.json {
            return print_json(&verified);
        }
        say_trust(verified.trusted);
        print(&text(&verified))
    }
}

fn fault(proof: &FaultProof, keys: Option<&Keys>, global: &Global) -> Result<(), Failure> {
    let guilty = proof.verify(keys)?;
    if global.json {
        return print_json(&guilty);
    }
    say_trust(guilty.trusted);
    print(&format!("replica {} of {} lied\n{}\n", guilty.replica, guilty.set, guilty.what))
}

/// The keys in a file, if one is named.
pub(super) fn keys_in(path: Option<&Path>) -> Result<Option<Keys>, Failure> {
    let Some(path) = path else { return Ok(None) };
    let keys = Keys::from_json(&read(path)?);
    keys.map(Some).map_err(|source| Failure::Keys { path: path.to_owned(), source })
}

pub(super) fn say_trust(trusted: bool) {
    if !trusted {
        eprintln!("consistent in itself only: without --keys, nothing says who the signers are");
    }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|source| Failure::Read { path: path.to_owned(), source })?;
    Ok(bytes)
}

/// What is longer than this is not repeated.
const SHOWN: usize = 200;

fn text(verified: &Verified) -> String {
    let short = |text: &str| text.chars().count() <= SHOWN;
    let shown = if short(&verified.expression) { verified.expression.as_str() } else { "…" };
    let how = match (verified.operations, verified.trusted) {
        (0, _) => "nothing was executed: there is nothing to sign".to_owned(),
        (1, true) => format!("1 operation, signed by the replicas of {}", verified.sets.join(", ")),
        (n, true) => format!("{n} operations, each signed by the replicas of {}", verified.sets.join(", ")),
        (n, false) => format!("{n} operations, signed by keys that the receipt itself brings"),
    };
    // Without its parameters the claim is another one.
    let values: Vec<_> =
        verified.parameters.iter().map(|(name, value)| format!("{name} = {value}")).collect();
    let with = match (values.len(), values.join(", ")) {
        (0, _) => String::new(),
        (_, values) if short(&values) => format!(" with {values}"),
        (1, _) => " with the parameter that the receipt names".to_owned(),
        (n, _) => format!(" with the {n} parameters that the receipt names"),
    };
    format!("{shown} = {}{with}\n{how}\n", verified.result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn claims(parameters: &[(&str, &str)], claim: &str) {
        let verified = Verified {
            expression: "a*(b+1)".into(),
            parameters: parameters.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            result: "8/3".into(),
            operations: 2,
            sets: vec!["add-0".into(), "mul-0".into()],
            trusted: true,
        };
        let signed = "2 operations, each signed by the replicas of add-0, mul-0\n";
        assert_eq!(text(&verified), format!("{claim}\n{signed}"));
    }

    #[test]
    fn a_claim_is_made_with_its_parameters() {
        claims(&[], "a*(b+1) = 8/3");
        claims(&[("a", "2")], "a*(b+1) = 8/3 with a = 2");
        claims(&[("a", "2"), ("b", "1/3")], "a*(b+1) = 8/3 with a = 2, b = 1/3");
        let long = "1".repeat(SHOWN);
        claims(&[("a", &long)], "a*(b+1) = 8/3 with the parameter that the receipt names");
        claims(&[("a", &long), ("b", "1")], "a*(b+1) = 8/3 with the 2 parameters that the receipt names");
    }
}
