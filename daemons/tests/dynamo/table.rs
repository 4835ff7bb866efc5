//! The table, and what lies in it.

use super::{KEPT, Place, TABLE, config, outcome};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, AttributeValue, BillingMode, KeySchemaElement, KeyType, ScalarAttributeType,
    TimeToLiveSpecification,
};
use quorate::{
    clock::Clock,
    conformance::refused,
    records::{
        Created, Finished, Lookup, NewRecord, Records, RecordsError, Request,
        dynamo::{DynamoOptions, DynamoRecords, OpenError},
    },
};
use std::{collections::BTreeSet, time::Duration};

async fn open(place: &Place, options: DynamoOptions) -> Result<DynamoRecords, OpenError> {
    DynamoRecords::open(&config(&place.front.endpoint).await, options).await
}

/// The error of opening a table that is another's.
async fn differs(place: &Place) -> String {
    let error = open(place, place.options()).await.err().expect("it is another table");
    assert!(matches!(error, OpenError::Differs { .. }), "{error}");
    error.to_string()
}

#[tokio::test]
async fn a_missing_table_is_made_only_if_that_is_allowed() {
    let place = Place::new().await;
    let forbidden = || DynamoOptions { create: false, ..place.options() };
    let error = open(&place, forbidden()).await.err().expect("it is missing");
    assert!(matches!(error, OpenError::Missing { .. }), "{error}");
    place.front.next("CreateTable", [super::front::Wrong::Refused(400, "AccessDeniedException")]);
    let error = open(&place, place.options()).await.err().expect("AWS forbids it").to_string();
    assert!(error.contains(TABLE) && error.contains("CreateTable") && error.contains("policy"), "{error}");
    assert_eq!(place.front.seen("CreateTable"), 1);

    open(&place, place.options()).await.expect("it makes it");
    open(&place, forbidden()).await.expect("it is there");
    let described = place.client().await.describe_table().table_name(TABLE).send().await.expect("described");
    let billing = described.table.expect("it is there").billing_mode_summary.expect("it has one");
    assert_eq!(billing.billing_mode, Some(BillingMode::PayPerRequest));
}

#[tokio::test]
async fn of_many_who_make_the_table_all_can_use_it() {
    let place = Place::new().await;
    let all = (0..4).map(|_| open(&place, place.options()));
    let all = futures::future::join_all(all).await;
    for opened in &all {
        assert!(opened.is_ok(), "{:?}", opened.as_ref().err());
    }
}

#[tokio::test]
async fn another_table_is_not_used_and_the_error_says_what_differs() {
    let place = Place::new().await;
    let client = place.client().await;
    let definition =
        AttributeDefinition::builder().attribute_name("key").attribute_type(ScalarAttributeType::N);
    client
        .create_table()
        .table_name(TABLE)
        .billing_mode(BillingMode::PayPerRequest)
        .attribute_definitions(definition.build().expect("given"))
        .key_schema(
            KeySchemaElement::builder().attribute_name("key").key_type(KeyType::Hash).build().expect("given"),
        )
        .send()
        .await
        .expect("made");
    assert_eq!(
        differs(&place).await,
        "table quorate-records is not as it must be: its key is `key N`, not `id S`; \
         it has no index `accepted`; it has no index `expiry`"
    );
}

#[tokio::test]
async fn a_table_with_another_time_to_live_is_not_used() {
    let place = Place::new().await;
    open(&place, place.options()).await.expect("made");
    let client = place.client().await;
    for (on, attribute, says) in [
        (true, "expires_ms", "its time to live is `expires_ms`, not `ttl`"),
        (false, "ttl", "it has no time to live; it must be `ttl`"),
    ] {
        let wanted = TimeToLiveSpecification::builder().enabled(on).attribute_name(attribute).build();
        let update = client.update_time_to_live().table_name(TABLE);
        update.time_to_live_specification(wanted.expect("given")).send().await.expect("set");
        let options = DynamoOptions { create: false, ..place.options() };
        let error = open(&place, options).await.err().expect("it differs").to_string();
        assert!(error.ends_with(says), "{error}");
    }
    open(&place, place.options()).await.expect("it is set");
}

#[tokio::test]
async fn a_tombstone_holds_nothing_of_the_request_and_goes_by_itself() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    records.finish(id, outcome("1"), Some("receipt".into())).await.expect("finished");
    let expires = (place.clock.now_ms() + 60_000) / 1000;
    let month = 30 * 24 * 3600;
    for item in place.items().await {
        let after = if item.contains_key("part") { 3600 } else { month };
        assert_eq!(item["ttl"], AttributeValue::N((expires + after + 1).to_string()));
    }
    place.clock.advance(KEPT + Duration::from_millis(1));
    assert_eq!(records.expire(10).await.expect("expired"), 1);
    let items = place.items().await;
    assert_eq!(items.len(), 1, "{items:?}");
    let names: BTreeSet<_> = items[0].keys().map(String::as_str).collect();
    assert_eq!(names, BTreeSet::from(["expires_ms", "id", "ttl"]));
    assert_eq!(items[0]["ttl"], AttributeValue::N((expires + month + 1).to_string()));
}

#[tokio::test]
async fn a_request_leaves_room_for_a_failure() {
    let place = Place::new().await;
    let records = place.records().await;
    let sized = |bytes: usize| {
        let record = place.record();
        NewRecord { request: Request { expression: "1".repeat(bytes), ..record.request }, ..record }
    };
    let Err(RecordsError::TooLarge { bytes, limit }) = records.create(sized(400 << 10)).await else {
        panic!("it is too large");
    };
    assert_eq!(limit, (400 - 16) << 10);
    let beside = bytes - (400 << 10);
    assert!(beside < 1024, "{beside} bytes beside the expression");
    refused(records.create(sized(limit - beside + 1)).await);
    let largest = sized(limit - beside);
    let id = largest.id;
    assert_eq!(records.create(largest).await.expect("created"), Created::New);
    let finished = records.finish(id, outcome(&"1".repeat(8 << 10)), None).await.expect("finished");
    assert_eq!(finished, Finished::First);
}

#[tokio::test]
async fn an_outcome_that_does_not_fit_beside_its_request_is_refused_before_anything_is_written() {
    let place = Place::new().await;
    let records = place.records().await;
    let record = place.record();
    let id = record.id;
    let request = Request { expression: "1".repeat(200 << 10), ..record.request };
    records.create(NewRecord { request, ..record }).await.expect("created");
    for receipt in [None, Some("receipt".into())] {
        let large = outcome(&"1".repeat(250 << 10));
        let error = refused(records.finish(id, large, receipt).await);
        assert!(
            matches!(error, RecordsError::TooLarge { bytes, limit: 409_600 } if bytes > 450 << 10),
            "{error}"
        );
    }
    assert_eq!(place.front.seen("BatchWriteItem"), 0);
    let Lookup::Found(record) = records.get(id).await.expect("looked up") else { panic!("it is there") };
    assert_eq!(record.outcome, None);
    let finished = records.finish(id, outcome(&"1".repeat(190 << 10)), None).await.expect("finished");
    assert_eq!(finished, Finished::First);
}

#[tokio::test]
async fn an_empty_receipt_is_a_receipt() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.created(&records).await;
    records.finish(id, outcome("1"), Some("".into())).await.expect("finished");
    assert_eq!(records.receipt(id).await.expect("read"), Some("".into()));
}

#[tokio::test]
async fn accepted_is_counted_again_only_after_a_while() {
    let place = Place::new().await;
    let (gateway, scheduler) = (place.records().await, place.records().await);
    let id = place.created(&gateway).await;
    assert_eq!(gateway.accepted().await.expect("counted"), 1);
    let queries = place.front.seen("Query");
    scheduler.finish(id, outcome("1"), None).await.expect("finished");
    place.created(&gateway).await;
    assert_eq!(gateway.accepted().await.expect("known"), 2, "what others did is not known yet");
    assert_eq!(place.front.seen("Query"), queries);
    place.clock.advance(Duration::from_millis(250));
    assert_eq!(gateway.accepted().await.expect("counted"), 1);
    assert_eq!(place.front.seen("Query"), 2 * queries);
}

#[tokio::test]
async fn what_has_expired_does_not_hide_what_is_overdue() {
    let place = Place::new().await;
    let records = place.records().await;
    for _ in 0..10 {
        let record = place.record();
        let soon = NewRecord { expires_ms: place.clock.now_ms() + 1, ..record };
        records.create(soon).await.expect("created");
    }
    place.clock.advance(Duration::from_millis(10));
    let id = place.created(&records).await;
    place.clock.advance(Duration::from_millis(10));
    assert_eq!(records.overdue(Duration::from_millis(5), 1).await.expect("listed"), [id]);
}

#[tokio::test]
async fn an_item_that_is_not_ours_is_named() {
    let place = Place::new().await;
    let records = place.records().await;
    let id = place.record().id;
    let put = place.client().await.put_item().table_name(TABLE);
    put.item("id", AttributeValue::S(id.to_string())).send().await.expect("put");
    let error = refused(records.get(id).await).to_string();
    assert!(error.contains(&id.to_string()) && error.contains("`expires_ms`"), "{error}");
}
