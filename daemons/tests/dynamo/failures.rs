//! What goes wrong on the way to DynamoDB, and what is made of it.

use super::{
    Place, RECEIPT_BYTES_MAX, TABLE, config,
    front::Wrong::{AnswerLost, Cut, FirstOnly, Held, Refused, Right},
    outcome,
};
use aws_sdk_dynamodb::types::AttributeValue;
use bytes::Bytes;
use quorate::{
    conformance::{refused, soon},
    records::{Created, Finished, Lookup, Records, RecordsError, dynamo::DynamoRecords},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

const THROTTLED: (u16, &str) = (400, "ProvisionedThroughputExceededException");

fn large(byte: u8) -> Bytes {
    vec![byte; RECEIPT_BYTES_MAX].into()
}

/// The text of an error that says that the records are not available.
fn unavailable<T: std::fmt::Debug>(result: Result<T, RecordsError>) -> String {
    let error = refused(result);
    assert!(matches!(error, RecordsError::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(!text.contains('\n') && text.contains(TABLE), "one line that names the table: {text}");
    text
}

#[tokio::test]
async fn what_is_throttled_is_asked_for_again() {
    let place = Place::new().await;
    let records = place.records().await;
    let throttled = || [Refused(THROTTLED.0, THROTTLED.1), Refused(400, "ThrottlingException"), Right];
    for operation in ["PutItem", "GetItem", "UpdateItem"] {
        place.front.next(operation, throttled());
    }
    let id = place.created(&records).await;
    assert!(matches!(records.get(id).await.expect("looked up"), Lookup::Found(_)));
    assert_eq!(records.finish(id, outcome("1"), None).await.expect("finished"), Finished::First);
    let seen = ["PutItem", "GetItem", "UpdateItem"].map(|operation| place.front.seen(operation));
    assert_eq!(seen, [3, 3, 3]);
}

#[tokio::test]
async fn a_service_that_keeps_failing_is_unavailable_soon() {
    let place = Place::new().await;
    let records = place.records().await;
    place.front.refuse("PutItem", 500, "InternalServerError");
    let text = unavailable(soon(records.create(place.record())).await);
    assert!(text.contains("PutItem") && text.contains("InternalServerError"), "{text}");
    place.front.refuse("Query", 503, "ServiceUnavailable");
    for text in [
        unavailable(soon(records.accepted()).await),
        unavailable(soon(records.overdue(Duration::ZERO, 10)).await),
        unavailable(soon(records.expire(10)).await),
    ] {
        assert!(text.contains("Query") && text.contains("ServiceUnavailable"), "{text}");
    }
    place.front.heal();
    assert_eq!(records.accepted().await.expect("counted"), 0);
}

#[tokio::test]
async fn lasting_throttling_of_a_receipt_is_unavailable() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.refuse("BatchWriteItem", THROTTLED.0, THROTTLED.1);
    let text = unavailable(soon(records.finish(id, outcome("1"), Some("receipt".into()))).await);
    assert!(text.contains("BatchWriteItem") && text.contains("throttles"), "{text}");
}

#[tokio::test]
async fn expired_credentials_are_named() {
    let place = Place::new().await;
    let records = place.records().await;
    place.front.refuse("PutItem", 400, "ExpiredTokenException");
    let text = unavailable(soon(records.create(place.record())).await);
    assert!(text.contains("ExpiredTokenException") && text.contains("renew"), "{text}");
}

#[tokio::test]
async fn a_refused_connection_is_named() {
    let place = Place::new().await;
    let (records, endpoint) = (place.records().await, place.front.endpoint.clone());
    let record = place.record();
    let options = place.options();
    drop(place);
    let text = unavailable(soon(records.create(record)).await);
    assert!(text.contains("can't be reached") && text.contains(&endpoint), "{text}");
    let error = DynamoRecords::open(&config(&endpoint).await, options).await.err().expect("nobody is there");
    assert!(error.to_string().contains("can't be reached"), "{error}");
}

#[tokio::test]
async fn a_creation_whose_answer_is_lost_is_new() {
    let place = Place::new().await;
    let records = place.records().await;
    place.front.next("PutItem", [AnswerLost, AnswerLost]);
    let record = place.record();
    assert_eq!(records.create(record.clone()).await.expect("created"), Created::New);
    assert_eq!(place.front.seen("PutItem"), 3);
    assert_eq!(records.accepted().await.expect("counted"), 1);
    assert!(matches!(records.create(record).await.expect("asked"), Created::Existing(_)));
    assert_eq!(place.items().await.len(), 1);
}

#[tokio::test]
async fn a_finish_whose_answer_is_lost_is_first() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.next("BatchWriteItem", [AnswerLost]);
    place.front.next("UpdateItem", [AnswerLost, AnswerLost]);
    let finished = records.finish(id, outcome("1"), Some("receipt".into())).await.expect("finished");
    assert_eq!(finished, Finished::First);
    assert_eq!(place.front.seen("UpdateItem"), 3);
    assert_eq!(records.accepted().await.expect("counted"), 0);
    assert_eq!(records.receipt(id).await.expect("read"), Some("receipt".into()));
    let later = records.finish(id, outcome("2"), None).await.expect("asked");
    assert_eq!(later, Finished::Before(outcome("1")));
}

#[tokio::test]
async fn a_finish_that_nobody_answers_keeps_its_receipt() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.next("UpdateItem", [AnswerLost, Cut, Cut, Cut, Cut]);
    unavailable(records.finish(id, outcome("1"), Some("receipt".into())).await);
    let again = records.finish(id, outcome("1"), Some("again".into())).await.expect("asked");
    assert_eq!(again, Finished::Before(outcome("1")));
    assert_eq!(records.receipt(id).await.expect("read"), Some("receipt".into()));
    assert_eq!(place.parts().await, 1, "a receipt for what has ended is not written");
}

#[tokio::test]
async fn of_a_receipt_that_is_written_by_half_nothing_is_seen() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.next("BatchWriteItem", [Right, Refused(400, "ValidationException"), Cut]);
    place.front.refuse("BatchWriteItem", 500, "InternalServerError");
    unavailable(soon(records.finish(id, outcome("1"), Some(large(1)))).await);
    assert!(place.parts().await > 0, "half of it is there");
    assert_eq!(records.receipt(id).await.expect("read"), None);
    let Lookup::Found(record) = records.get(id).await.expect("looked up") else { panic!("it is there") };
    assert_eq!(record.outcome, None);

    place.front.heal();
    let finished = records.finish(id, outcome("1"), Some(large(2))).await.expect("finished");
    assert_eq!(finished, Finished::First);
    assert!(records.receipt(id).await.expect("read") == Some(large(2)));
}

#[tokio::test]
async fn a_receipt_that_could_not_be_written_is_removed() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.next("BatchWriteItem", [Right, Refused(400, "ValidationException")]);
    let text = unavailable(records.finish(id, outcome("1"), Some(large(1))).await);
    assert!(text.contains("ValidationException"), "{text}");
    assert_eq!(place.parts().await, 0);
}

#[tokio::test]
async fn what_a_batch_leaves_is_sent_again() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    place.front.next("BatchWriteItem", [FirstOnly, FirstOnly]);
    let finished = records.finish(id, outcome("1"), Some(large(3))).await.expect("finished");
    assert_eq!(finished, Finished::First);
    assert!(records.receipt(id).await.expect("read") == Some(large(3)));
    place.clock.advance(super::KEPT + Duration::from_millis(1));
    place.front.next("BatchWriteItem", [FirstOnly]);
    assert_eq!(records.expire(10).await.expect("expired"), 1);
    assert_eq!(place.parts().await, 0);
}

#[tokio::test]
async fn the_receipt_of_who_comes_second_is_removed() {
    let place = Place::new().await;
    let records = Arc::new(place.records().await);
    let id = place.created(&records).await;
    let ((came, comes), (go_on, goes_on)) = (oneshot::channel(), oneshot::channel());
    place.front.next("UpdateItem", [Held(came, goes_on)]);
    let second = tokio::spawn({
        let records = Arc::clone(&records);
        async move { records.finish(id, outcome("2"), Some(large(2))).await }
    });
    soon(comes).await.expect("its receipt is written");
    let first = records.finish(id, outcome("1"), Some("first".into())).await.expect("finished");
    assert_eq!(first, Finished::First);
    go_on.send(()).expect("it waits");
    let second = soon(second).await.expect("it did not panic").expect("asked");
    assert_eq!(second, Finished::Before(outcome("1")));
    assert_eq!(place.parts().await, 1);
    assert_eq!(records.receipt(id).await.expect("read"), Some("first".into()));
}

#[tokio::test]
async fn a_receipt_that_lacks_a_part_is_not_given_out() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    records.finish(id, outcome("1"), Some(large(1))).await.expect("finished");
    let parts = place.items().await.into_iter().filter(|item| item.contains_key("part"));
    let key: AttributeValue = parts.last().expect("eight of them")["id"].clone();
    let removal = place.client().await.delete_item().table_name(TABLE).key("id", key);
    removal.send().await.expect("removed");
    let text = unavailable(records.receipt(id).await);
    assert!(text.contains("part of the receipt"), "{text}");
    place.clock.advance(super::KEPT + Duration::from_millis(1));
    assert_eq!(records.receipt(id).await.expect("asked"), None);
}

#[tokio::test]
async fn a_removal_that_ends_halfway_is_taken_up_again() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    records.finish(id, outcome("1"), Some("receipt".into())).await.expect("finished");
    place.clock.advance(super::KEPT + Duration::from_millis(1));
    place.front.refuse("UpdateItem", 500, "InternalServerError");
    unavailable(soon(records.expire(10)).await);
    place.front.heal();
    place.front.next("UpdateItem", [Cut, Right]);
    assert_eq!(records.expire(10).await.expect("expired"), 1);
    assert_eq!(records.get(id).await.expect("looked up"), Lookup::Expired);
    assert_eq!(place.items().await.len(), 1);
}
