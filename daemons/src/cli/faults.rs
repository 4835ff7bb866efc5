//! `quorate faults`: what failed or lied, what speaks for it, and what was done about it.

use super::{At, Failure, Global, Settings, platform::Platform, print, print_json, table::table};
use crate::api::FaultStatus;
use clap::Args;

const AFTER_HELP: &str = "\
Types:
  1  a worker        its nodes are retried elsewhere; it is started again
  2  the primary     the replicas elect another one by themselves; it is started again
  3  a backup        2f+1 go on without it; it is started again
  4  the control plane

A replica that lies is not started again: its whole set is replaced by a fresh one with other
keys. That is done when there is a proof, which anyone can check; when f+1 replicas accuse it, of
which one is honest; or when the set's worker does, which can crash but not lie. The word of one
replica alone is noted.

Examples:
  quorate faults
  quorate faults --proof 0198… > proof.json    what a replica signed that no correct one signs
  quorate verify --fault proof.json --keys keys.json";

#[derive(Args, Debug)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Faults {
    /// Prints the proof of the fault with this id instead, for `quorate verify --fault`.
    #[arg(long, value_name = "ID")]
    proof: Option<String>,
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    settings: Settings,
}

impl Faults {
    pub(super) async fn run(self, global: &Global) -> Result<(), Failure> {
        let mut platform = Platform::find(&self.at, &self.settings.load(&[])?.config).await?;
        let client = platform.client();
        if let Some(id) = &self.proof {
            let proof = client.proof(id).await?;
            return print(&String::from_utf8_lossy(&proof));
        }
        let faults = client.faults().await?;
        if global.json { print_json(&faults) } else { print(&text(&faults)) }
    }
}

fn text(faults: &[FaultStatus]) -> String {
    if faults.is_empty() {
        return "no faults so far\n".into();
    }
    let row = |fault: &FaultStatus| {
        [
            seen_at(fault),
            fault.kind.to_string(),
            fault.pod.clone(),
            fault.how.clone(),
            evidence(fault),
            done(fault),
            fault.id.to_string(),
        ]
    };
    table(
        ["TIME", "TYPE", "POD", "HOW", "EVIDENCE", "DONE", "ID"],
        &faults.iter().map(row).collect::<Vec<_>>(),
    )
}

/// When it was seen, to the second.
pub(super) fn seen_at(fault: &FaultStatus) -> String {
    let at = i64::try_from(fault.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    at.map(|at| format!("{at:.0}")).unwrap_or_default()
}

/// What speaks for it.
fn evidence(fault: &FaultStatus) -> String {
    let Some(needed) = fault.needed else { return fault.seen.clone() };
    let kinds = fault.kinds.join(", ");
    match &fault.proven_by {
        Some(pod) => format!("{kinds}: proven by {pod}"),
        None if fault.done == "noted" => {
            format!(
                "{kinds}: accused by {} of {needed} ({})",
                fault.accusers.len(),
                fault.accusers.join(", ")
            )
        }
        None => format!("{kinds}: accused by {}", fault.accusers.join(", ")),
    }
}

fn done(fault: &FaultStatus) -> String {
    let what = match fault.done.as_str() {
        "replaced" => "set replaced",
        other => other,
    };
    match (fault.done.as_str(), fault.replaced_ms) {
        ("noted", _) => "noted".into(),
        (_, Some(ms)) => format!("{what} in {ms} ms"),
        (_, None) if fault.kind == 4 => what.into(),
        (_, None) => format!("{what}, not ready yet"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_shown_with_what_speaks_for_them_and_what_was_done() {
        let fault = |kind, pod: &str, how: &str, done: &str, replaced_ms| FaultStatus {
            id: uuid::Uuid::nil(),
            at_ms: 1_700_000_000_123,
            kind,
            set: "add-0".into(),
            pod: pod.into(),
            how: how.into(),
            seen: "the process ended".into(),
            kinds: Vec::new(),
            accusers: Vec::new(),
            needed: None,
            proven_by: None,
            done: done.into(),
            replaced_ms,
        };
        let killed = fault(1, "add-0-worker", "killed", "restarted", Some(212));
        let lying = FaultStatus {
            needed: Some(2),
            kinds: vec!["conflicting-pre-prepares".into()],
            accusers: vec!["add-0-replica-1".into(), "add-0-replica-3".into()],
            ..fault(2, "add-0-replica-0", "lying", "replaced", None)
        };
        let noted =
            FaultStatus { accusers: vec!["add-0-replica-1".into()], done: "noted".into(), ..lying.clone() };
        let proven = FaultStatus {
            kinds: vec!["wrong-state".into()],
            proven_by: Some("add-0-replica-1".into()),
            replaced_ms: Some(900),
            ..lying.clone()
        };
        let told: Vec<_> = [killed, lying, noted, proven].iter().map(|f| (evidence(f), done(f))).collect();
        let expected = [
            ("the process ended", "restarted in 212 ms"),
            (
                "conflicting-pre-prepares: accused by add-0-replica-1, add-0-replica-3",
                "set replaced, not ready yet",
            ),
            ("conflicting-pre-prepares: accused by 1 of 2 (add-0-replica-1)", "noted"),
            ("wrong-state: proven by add-0-replica-1", "set replaced in 900 ms"),
        ];
        assert_eq!(told, expected.map(|(evidence, done)| (evidence.to_owned(), done.to_owned())));
        assert!(text(&[]).contains("no faults"));
    }
}
