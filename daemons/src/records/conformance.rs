//! What every engine's records must do, and the two steps that join them to the queues.

use super::{Created, Failure, Finished, Lookup, NewRecord, NodeRun, Outcome, Record, Records, Request};
use crate::{
    conformance::{Subject, refused, soon},
    engine::Conclusion,
    queue::{Handle, QueueError},
    records::RecordsError,
};
use bytes::Bytes;
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(2);
const KEPT: Duration = Duration::from_secs(60);

/// A test for each check.
#[doc(hidden)]
#[macro_export]
macro_rules! records_conformance {
    ($subject:expr) => {
        $crate::conformance_tests!(records, $subject;
            an_unknown_id_is_unknown,
            a_created_record_is_found_as_it_was_written,
            creating_again_says_what_stands,
            the_first_to_finish_wins,
            a_failure_is_kept_with_its_span,
            finishing_an_unknown_record_changes_nothing,
            a_receipt_is_kept_beside_its_record,
            the_receipt_of_a_later_finish_is_dropped,
            of_many_who_finish_one_is_first,
            of_many_who_create_one_is_new,
            an_expired_record_is_gone_and_not_unknown,
            a_record_past_its_expiry_is_gone_before_it_is_removed,
            an_expired_record_is_not_created_again,
            an_expired_record_is_not_finished,
            expiry_removes_no_more_than_asked,
            an_expired_record_takes_its_receipt_along,
            overdue_lists_what_is_accepted_for_long_oldest_first,
            accepted_counts_what_is_not_finished,
            a_record_over_the_limit_is_refused,
            accepting_writes_the_record_and_the_message,
            accepting_again_sends_nothing,
            accepting_an_oversized_message_writes_no_record,
            concluding_finishes_announces_and_deletes,
            concluding_again_announces_what_stands,
            a_message_whose_conclusion_is_refused_comes_back,
        );
    };
}

fn records(subject: &Subject) -> &dyn Records {
    subject.engine.records()
}

fn request() -> Request {
    Request {
        expression: "a*(b+1) ÷ \"'\u{0}".into(),
        parameters: [("a".into(), "2".into()), ("b".into(), "1/3".into())].into(),
        digits: Some(20),
        receipt: true,
    }
}

fn record(subject: &Subject) -> NewRecord {
    let kept_ms = u64::try_from(KEPT.as_millis()).expect("a minute");
    let now_ms = subject.time.now_ms();
    NewRecord {
        id: Uuid::now_v7(),
        request: request(),
        deadline_ms: now_ms + 1000,
        expires_ms: now_ms + kept_ms,
    }
}

/// Creates a record and says its id.
async fn created(subject: &Subject) -> Uuid {
    let record = record(subject);
    let id = record.id;
    assert_eq!(records(subject).create(record).await.expect("created"), Created::New);
    id
}

fn outcome(result: &str) -> Outcome {
    let timeline = vec![NodeRun { node: 0, set: "add-0".into(), start_ms: 0.5, end_ms: 1.25 }];
    Outcome { result: Ok(result.into()), nodes: 3, elapsed_ms: 1.5, timeline }
}

async fn found(subject: &Subject, id: Uuid) -> Record {
    match records(subject).get(id).await.expect("looked up") {
        Lookup::Found(record) => record,
        other => panic!("not found: {other:?}"),
    }
}

async fn expire(subject: &Subject) {
    subject.time.pass(KEPT + Duration::from_millis(1)).await;
    records(subject).expire(100).await.expect("expired");
}

pub async fn an_unknown_id_is_unknown(subject: &Subject) {
    assert_eq!(records(subject).get(Uuid::now_v7()).await.expect("looked up"), Lookup::Unknown);
    assert_eq!(records(subject).receipt(Uuid::now_v7()).await.expect("looked up"), None);
}

pub async fn a_created_record_is_found_as_it_was_written(subject: &Subject) {
    let new = record(subject);
    let accepted_ms = subject.time.now_ms();
    records(subject).create(new.clone()).await.expect("created");
    let found = found(subject, new.id).await;
    assert!(found.accepted_ms >= accepted_ms && found.accepted_ms <= subject.time.now_ms());
    assert_eq!((found.id, found.request), (new.id, new.request));
    assert_eq!((found.deadline_ms, found.expires_ms), (new.deadline_ms, new.expires_ms));
    assert_eq!(found.outcome, None);
}

pub async fn creating_again_says_what_stands(subject: &Subject) {
    let id = created(subject).await;
    let other = NewRecord { id, request: Request { expression: "1".into(), ..request() }, ..record(subject) };
    let stands = found(subject, id).await;
    assert_eq!(records(subject).create(other.clone()).await.expect("asked"), Created::Existing(stands));
    records(subject).finish(id, outcome("1"), None).await.expect("finished");
    let stands = found(subject, id).await;
    assert_eq!(stands.outcome, Some(outcome("1")));
    assert_eq!(records(subject).create(other).await.expect("asked"), Created::Existing(stands));
}

pub async fn the_first_to_finish_wins(subject: &Subject) {
    let id = created(subject).await;
    assert_eq!(records(subject).finish(id, outcome("1"), None).await.expect("finished"), Finished::First);
    let later = records(subject).finish(id, outcome("2"), None).await.expect("asked");
    assert_eq!(later, Finished::Before(outcome("1")));
    assert_eq!(found(subject, id).await.outcome, Some(outcome("1")));
}

pub async fn a_failure_is_kept_with_its_span(subject: &Subject) {
    let id = created(subject).await;
    let failure = Failure { kind: "division-by-zero".into(), detail: "8 / 0".into(), span: Some([12, 13]) };
    let failed = Outcome { result: Err(failure), nodes: 1, elapsed_ms: 0.25, timeline: Vec::new() };
    records(subject).finish(id, failed.clone(), None).await.expect("finished");
    assert_eq!(found(subject, id).await.outcome, Some(failed));
}

pub async fn finishing_an_unknown_record_changes_nothing(subject: &Subject) {
    let id = Uuid::now_v7();
    let receipt = Some(Bytes::from("r"));
    let finished = records(subject).finish(id, outcome("1"), receipt).await.expect("asked");
    assert_eq!(finished, Finished::Unknown);
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Unknown);
    assert_eq!(records(subject).receipt(id).await.expect("looked up"), None);
}

pub async fn a_receipt_is_kept_beside_its_record(subject: &Subject) {
    let id = created(subject).await;
    assert_eq!(records(subject).receipt(id).await.expect("looked up"), None);
    let receipt = Bytes::from(vec![9; 2 << 20]);
    records(subject).finish(id, outcome("1"), Some(receipt.clone())).await.expect("finished");
    assert!(records(subject).receipt(id).await.expect("looked up") == Some(receipt));
}

pub async fn the_receipt_of_a_later_finish_is_dropped(subject: &Subject) {
    let id = created(subject).await;
    records(subject).finish(id, outcome("1"), Some("first".into())).await.expect("finished");
    records(subject).finish(id, outcome("1"), Some("later".into())).await.expect("asked");
    assert_eq!(records(subject).receipt(id).await.expect("looked up"), Some("first".into()));
}

pub async fn of_many_who_finish_one_is_first(subject: &Subject) {
    let id = created(subject).await;
    let mut running = tokio::task::JoinSet::new();
    for number in 0..16 {
        let engine = Arc::clone(&subject.engine);
        running.spawn(async move {
            let mine = outcome(&number.to_string());
            match engine.records().finish(id, mine.clone(), None).await.expect("asked") {
                Finished::First => (1, mine),
                Finished::Before(outcome) => (0, outcome),
                Finished::Unknown => panic!("it is known"),
            }
        });
    }
    let all = soon(running.join_all()).await;
    assert_eq!(all.iter().map(|(first, _)| first).sum::<i32>(), 1);
    assert!(all.iter().all(|(_, stands)| *stands == all[0].1), "all were told the same: {all:?}");
}

pub async fn of_many_who_create_one_is_new(subject: &Subject) {
    let record = record(subject);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (engine, record) = (Arc::clone(&subject.engine), record.clone());
        running.spawn(async move { engine.records().create(record).await.expect("asked") });
    }
    let all = soon(running.join_all()).await;
    assert_eq!(all.iter().filter(|created| **created == Created::New).count(), 1);
    assert_eq!(records(subject).accepted().await.expect("counted"), 1);
}

pub async fn an_expired_record_is_gone_and_not_unknown(subject: &Subject) {
    let id = created(subject).await;
    records(subject).finish(id, outcome("1"), None).await.expect("finished");
    subject.time.pass(KEPT + Duration::from_millis(1)).await;
    assert_eq!(records(subject).expire(100).await.expect("expired"), 1);
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Expired);
    assert_eq!(records(subject).expire(100).await.expect("nothing left"), 0);
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Expired);
}

pub async fn a_record_past_its_expiry_is_gone_before_it_is_removed(subject: &Subject) {
    let id = created(subject).await;
    subject.time.pass(KEPT + Duration::from_millis(1)).await;
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Expired);
    assert_eq!(records(subject).finish(id, outcome("1"), None).await.expect("asked"), Finished::Unknown);
}

pub async fn an_expired_record_is_not_created_again(subject: &Subject) {
    let new = record(subject);
    records(subject).create(new.clone()).await.expect("created");
    expire(subject).await;
    assert_eq!(records(subject).create(new).await.expect("asked"), Created::Expired);
}

pub async fn an_expired_record_is_not_finished(subject: &Subject) {
    let id = created(subject).await;
    expire(subject).await;
    assert_eq!(records(subject).finish(id, outcome("1"), None).await.expect("asked"), Finished::Unknown);
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Expired);
    assert_eq!(records(subject).accepted().await.expect("counted"), 0);
}

pub async fn expiry_removes_no_more_than_asked(subject: &Subject) {
    for _ in 0..3 {
        created(subject).await;
    }
    assert_eq!(records(subject).expire(100).await.expect("nothing is due"), 0);
    subject.time.pass(KEPT + Duration::from_millis(1)).await;
    assert_eq!(records(subject).expire(2).await.expect("expired"), 2);
    assert_eq!(records(subject).expire(2).await.expect("expired"), 1);
    assert_eq!(records(subject).expire(2).await.expect("expired"), 0);
}

pub async fn an_expired_record_takes_its_receipt_along(subject: &Subject) {
    let id = created(subject).await;
    records(subject).finish(id, outcome("1"), Some("receipt".into())).await.expect("finished");
    expire(subject).await;
    assert_eq!(records(subject).receipt(id).await.expect("looked up"), None);
}

pub async fn overdue_lists_what_is_accepted_for_long_oldest_first(subject: &Subject) {
    let age = Duration::from_secs(2);
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(created(subject).await);
        subject.time.pass(Duration::from_millis(20)).await;
    }
    records(subject).finish(ids[1], outcome("1"), None).await.expect("finished");
    assert!(records(subject).overdue(age, 10).await.expect("listed").is_empty());
    subject.time.pass(age).await;
    let young = created(subject).await;
    assert_eq!(records(subject).overdue(age, 10).await.expect("listed"), [ids[0], ids[2], ids[3]]);
    assert_eq!(records(subject).overdue(age, 2).await.expect("listed"), [ids[0], ids[2]]);
    assert!(found(subject, young).await.outcome.is_none());
}

pub async fn accepted_counts_what_is_not_finished(subject: &Subject) {
    let (first, _) = (created(subject).await, created(subject).await);
    assert_eq!(records(subject).accepted().await.expect("counted"), 2);
    records(subject).finish(first, outcome("1"), None).await.expect("finished");
    records(subject).finish(first, outcome("1"), None).await.expect("asked");
    assert_eq!(records(subject).accepted().await.expect("counted"), 1);
    expire(subject).await;
    assert_eq!(records(subject).accepted().await.expect("counted"), 0);
}

pub async fn a_record_over_the_limit_is_refused(subject: &Subject) {
    let large = NewRecord {
        request: Request { expression: "1".repeat(subject.too_large), ..request() },
        ..record(subject)
    };
    let id = large.id;
    let error = refused(records(subject).create(large).await);
    assert!(matches!(error, RecordsError::TooLarge { bytes, limit } if bytes > limit), "{error}");
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Unknown);

    let id = created(subject).await;
    let error = refused(records(subject).finish(id, outcome(&"1".repeat(subject.too_large)), None).await);
    assert!(matches!(error, RecordsError::TooLarge { bytes, limit } if bytes > limit), "{error}");
    let receipt = Some(Bytes::from(vec![1; subject.too_large]));
    let error = refused(records(subject).finish(id, outcome("1"), receipt).await);
    assert!(matches!(error, RecordsError::TooLarge { bytes, limit } if bytes > limit), "{error}");
    assert_eq!(found(subject, id).await.outcome, None);
}

pub async fn accepting_writes_the_record_and_the_message(subject: &Subject) {
    let (inbound, record) = (subject.queue("inbound").await, record(subject));
    let id = record.id;
    let created = subject.engine.accept(record, &*inbound, "look".into()).await.expect("accepted");
    assert_eq!(created, Created::New);
    found(subject, id).await;
    let got = inbound.receive(10, LEASE, Duration::ZERO).await.expect("received");
    assert_eq!(got.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"look"]);
}

pub async fn accepting_again_sends_nothing(subject: &Subject) {
    let (inbound, record) = (subject.queue("inbound").await, record(subject));
    subject.engine.accept(record.clone(), &*inbound, "look".into()).await.expect("accepted");
    let again = subject.engine.accept(record, &*inbound, "again".into()).await.expect("asked");
    assert!(matches!(again, Created::Existing(_)), "{again:?}");
    let got = inbound.receive(10, LEASE, Duration::ZERO).await.expect("received");
    assert_eq!(got.len(), 1);
}

pub async fn accepting_an_oversized_message_writes_no_record(subject: &Subject) {
    let (inbound, record) = (subject.queue("inbound").await, record(subject));
    let id = record.id;
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    let error = refused(subject.engine.accept(record, &*inbound, large).await);
    assert!(
        matches!(error, crate::engine::StepError::Queue(QueueError::TooLarge { .. })),
        "the queue refuses: {error}"
    );
    assert_eq!(records(subject).get(id).await.expect("looked up"), Lookup::Unknown);
    assert_eq!(records(subject).accepted().await.expect("counted"), 0);
}

/// Accepts a request, takes its message and concludes it.
async fn conclude(subject: &Subject, id: Uuid, handle: &Handle, announcement: Bytes) -> Finished {
    let (inbound, outbound) = (subject.queue("inbound").await, subject.queue("outbound").await);
    let end = Conclusion {
        id,
        outcome: outcome("16"),
        receipt: Some("receipt".into()),
        outbound: &*outbound,
        announcement,
        inbound: &*inbound,
        handle,
    };
    subject.engine.conclude(end).await.expect("concluded")
}

async fn accepted(subject: &Subject) -> (Uuid, Handle) {
    let (inbound, record) = (subject.queue("inbound").await, record(subject));
    let id = record.id;
    subject.engine.accept(record, &*inbound, "look".into()).await.expect("accepted");
    let mut got = inbound.receive(1, LEASE, Duration::ZERO).await.expect("received");
    (id, got.remove(0).handle)
}

pub async fn concluding_finishes_announces_and_deletes(subject: &Subject) {
    let (id, handle) = accepted(subject).await;
    assert_eq!(conclude(subject, id, &handle, "done".into()).await, Finished::First);
    assert_eq!(found(subject, id).await.outcome, Some(outcome("16")));
    assert_eq!(records(subject).receipt(id).await.expect("looked up"), Some("receipt".into()));
    let told = subject.queue("outbound").await.receive(10, LEASE, Duration::ZERO).await.expect("received");
    assert_eq!(told.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"done"]);
    subject.time.pass(LEASE).await;
    let again = subject.queue("inbound").await.receive(10, LEASE, Duration::ZERO).await.expect("received");
    assert!(again.is_empty());
}

pub async fn concluding_again_announces_what_stands(subject: &Subject) {
    let (id, handle) = accepted(subject).await;
    records(subject).finish(id, outcome("15"), None).await.expect("finished by another");
    assert_eq!(conclude(subject, id, &handle, "done".into()).await, Finished::Before(outcome("15")));
    assert_eq!(found(subject, id).await.outcome, Some(outcome("15")));
    assert_eq!(subject.queue("outbound").await.depth().await.expect("depth").waiting, 1);
    assert_eq!(subject.queue("inbound").await.depth().await.expect("depth").in_flight, 0);
}

pub async fn a_message_whose_conclusion_is_refused_comes_back(subject: &Subject) {
    let (id, handle) = accepted(subject).await;
    let (inbound, outbound) = (subject.queue("inbound").await, subject.queue("outbound").await);
    // An engine that is not one place finishes the record before it announces, and may: the message
    // comes back. That it does is what counts.
    let end = Conclusion {
        id,
        outcome: outcome("16"),
        receipt: None,
        outbound: &*outbound,
        announcement: Bytes::from(vec![0; (1 << 20) + 1]),
        inbound: &*inbound,
        handle: &handle,
    };
    refused(subject.engine.conclude(end).await);
    subject.time.pass(LEASE).await;
    let again = inbound.receive(10, LEASE, Duration::ZERO).await.expect("received");
    assert_eq!(again.len(), 1, "the message comes back");
}
