//! Each rule of the protocol is left out once: some story or some seed must notice.
#![cfg(feature = "sim")]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use quorate_pbft::mutation::{self, Mutation};
use quorate_pbft::sim::checker::linearizability::Objection;
use quorate_pbft::sim::kv::{self, run::Reason};
use quorate_pbft::sim::{run, script};

/// The story comes out otherwise, or an assertion stops it.
fn story_notices(mutation: Mutation, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name).with_extension("txt");
    let written = std::fs::read_to_string(path).expect("the script is there");
    assert_eq!(script::rewrite(&written).as_ref(), Ok(&written), "without a mistake it is as written");
    let told = catch_unwind(AssertUnwindSafe(|| mutation::with(mutation, || script::rewrite(&written))));
    assert!(told.is_err() || told.ok() != Some(Ok(written)), "{name} does not notice {mutation:?}");
}

/// One of the first seeds fails, or an assertion stops it.
fn seeds_notice(mutation: Mutation) {
    let notices = |seed| {
        let outcome = catch_unwind(AssertUnwindSafe(|| mutation::with(mutation, || run::seed(seed, 60))));
        outcome.map_or(true, |outcome| outcome.is_err())
    };
    assert!((0..200).any(notices), "200 seeds do not notice {mutation:?}");
}

/// One of the first histories of the key-value store is not linearizable.
fn histories_notice(mutation: Mutation) {
    let notices = |seed| {
        let failed = mutation::with(mutation, || kv::run::seed(seed, 100)).err();
        matches!(failed.map(|failed| failed.reason), Some(Reason::Objection(Objection::Inexplicable(_))))
    };
    assert!((0..200).any(notices), "200 histories do not notice {mutation:?}");
}

#[test]
fn commit_at_two_f_is_noticed() {
    story_notices(Mutation::CommitAtTwoF, "votes");
}

#[test]
fn counting_a_sender_twice_is_noticed() {
    story_notices(Mutation::CountSenderTwice, "votes");
}

#[test]
fn keeping_conflicts_to_oneself_is_noticed() {
    story_notices(Mutation::HideConflicts, "equivocating_primary");
}

#[test]
fn skipping_the_wait_for_the_journal_is_noticed() {
    seeds_notice(Mutation::SkipDurableWait);
    story_notices(Mutation::SkipDurableWait, "normal_case");
}

#[test]
fn executing_out_of_order_is_noticed() {
    seeds_notice(Mutation::ExecuteOutOfOrder);
}

#[test]
fn executing_twice_is_noticed() {
    story_notices(Mutation::DropDedupe, "client_window");
}

#[test]
fn collecting_garbage_too_early_is_noticed() {
    story_notices(Mutation::CollectTooEarly, "checkpoint");
}

#[test]
fn votes_of_another_view_are_noticed() {
    story_notices(Mutation::AcceptWrongView, "votes");
}

#[test]
fn sequence_numbers_outside_the_window_are_noticed() {
    story_notices(Mutation::AcceptOutsideWindow, "votes");
}

#[test]
fn forgetting_promises_in_a_crash_is_noticed() {
    seeds_notice(Mutation::ForgetPromises);
    story_notices(Mutation::ForgetPromises, "killed_primary");
}

#[test]
fn forgetting_what_was_prepared_is_noticed() {
    seeds_notice(Mutation::ForgetPrepared);
    story_notices(Mutation::ForgetPrepared, "view_change");
}

#[test]
fn hiding_what_was_prepared_is_noticed() {
    seeds_notice(Mutation::HidePrepared);
    story_notices(Mutation::HidePrepared, "view_change");
}

#[test]
fn hiding_what_was_pre_prepared_is_noticed() {
    story_notices(Mutation::HidePrePrepared, "view_change");
}

#[test]
fn following_one_view_change_is_noticed() {
    story_notices(Mutation::FollowOne, "view_change_alone");
}

#[test]
fn forgetting_that_a_view_was_left_is_noticed() {
    seeds_notice(Mutation::ForgetViewChange);
    story_notices(Mutation::ForgetViewChange, "view_change_crash");
}

#[test]
fn vouching_by_f_is_noticed() {
    story_notices(Mutation::VouchedByF, "doubted_requests");
}

#[test]
fn vouching_for_what_was_not_checked_is_noticed() {
    story_notices(Mutation::VouchUnchecked, "marked_client");
}

#[test]
fn waiting_for_what_nobody_vouches_for_is_noticed() {
    story_notices(Mutation::WaitForAnyRequest, "view_change_orphans");
}

#[test]
fn forgetting_marks_in_a_crash_is_noticed() {
    story_notices(Mutation::ForgetMarks, "marks_survive");
}

#[test]
fn taking_f_plus_one_answers_is_noticed() {
    story_notices(Mutation::AnswerAtWeakQuorum, "normal_case");
    histories_notice(Mutation::AnswerAtWeakQuorum);
}

#[test]
fn reading_too_early_after_a_crash_is_noticed() {
    histories_notice(Mutation::ReadTooEarly);
}

#[test]
fn trusting_fetched_pages_is_noticed() {
    story_notices(Mutation::TrustPages, "lying_transfer");
}

#[test]
fn trusting_fetched_digests_is_noticed() {
    story_notices(Mutation::TrustMetaData, "lying_transfer");
}

#[test]
fn keeping_vanished_pages_is_noticed() {
    story_notices(Mutation::KeepVanished, "diverged");
}

#[test]
fn serving_while_diverged_is_noticed() {
    story_notices(Mutation::ServeDiverged, "diverged");
}

#[test]
fn accepting_a_batch_without_its_operations_is_noticed() {
    story_notices(Mutation::AcceptWithoutOperations, "big_request_missing");
    seeds_notice(Mutation::AcceptWithoutOperations);
}

#[test]
fn forgetting_operations_in_a_crash_is_noticed() {
    story_notices(Mutation::ForgetOperations, "big_request_everybody_crashes");
    seeds_notice(Mutation::ForgetOperations);
}

/// The table in `MUTATIONS.md` has a line for each mistake, and each test that it names is there and makes it.
#[test]
fn every_mistake_has_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).expect("is there");
    let code = read("src/mutation.rs");
    let (_, listed) = code.split_once("pub enum Mutation {").expect("is declared there");
    let (listed, _) = listed.split_once("\n}\n").expect("ends");
    let mistakes: Vec<_> = listed.lines().filter_map(|line| line.trim().strip_suffix(',')).collect();
    let table = read("tests/MUTATIONS.md");
    let rows: Vec<_> = table.lines().filter(|line| line.starts_with("| `")).collect();
    assert!(mistakes.len() >= 25 && mistakes.len() == rows.len(), "{} and {}", mistakes.len(), rows.len());
    for (mistake, row) in mistakes.iter().zip(rows) {
        assert!(row.starts_with(&format!("| `{mistake}` |")), "{row} is not about {mistake}");
        let tests: Vec<_> = row.split('`').filter(|part| part.contains("::")).collect();
        assert!(!tests.is_empty(), "nothing notices {mistake}");
        for (file, test) in tests.iter().filter_map(|test| test.split_once("::")) {
            let code = read(&format!("tests/{file}.rs"));
            let (_, body) = code.split_once(&format!("fn {test}(")).expect("the test is there");
            let body = body.split("#[test]").next().unwrap_or_default();
            assert!(body.contains(&format!("Mutation::{mistake}")), "{file}::{test} does not make {mistake}");
        }
    }
}
