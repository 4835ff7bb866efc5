//! Records in DynamoDB do what all records must, and stand what goes wrong on the way there.

#![cfg(feature = "dynamo")]

#[path = "dynamo/failures.rs"]
mod failures;
#[path = "dynamo/front.rs"]
mod front;
#[allow(dead_code, unreachable_pub, reason = "other tests use the others")]
#[path = "servers/installed.rs"]
mod servers;
#[path = "dynamo/table.rs"]
mod table;

use aws_config::{SdkConfig, retry::RetryConfig};
use aws_sdk_dynamodb::{
    Client,
    config::{Credentials, SharedCredentialsProvider},
    types::AttributeValue,
};
use front::Front;
use quorate::{
    aws::{self, AwsOptions},
    clock::{Clock, ManualClock},
    config::Durability,
    conformance::Subject,
    engine::Assembled,
    records::{
        Created, NewRecord, Outcome, Records, Request,
        dynamo::{DynamoOptions, DynamoRecords},
    },
    sqlite::{Options, SqliteEngine},
};
use servers::moto::Moto;
use std::{collections::HashMap, sync::Arc, time::Duration};
use uuid::Uuid;

const TABLE: &str = "quorate-records";
const RECEIPT_BYTES_MAX: usize = 2 << 20;
const KEPT: Duration = Duration::from_secs(60);

/// A DynamoDB of its own, and the way there.
struct Place {
    front: Front,
    clock: Arc<ManualClock>,
    _moto: Moto,
}

impl Place {
    async fn new() -> Self {
        let moto = Moto::start();
        let front = Front::start(&moto.endpoint).await;
        Self { front, clock: Arc::new(ManualClock::at(1_700_000_000_000)), _moto: moto }
    }

    fn options(&self) -> DynamoOptions {
        DynamoOptions {
            clock: self.clock.clone(),
            receipt_bytes_max: RECEIPT_BYTES_MAX,
            create_timeout: Duration::from_secs(5),
            ..DynamoOptions::default()
        }
    }

    async fn records(&self) -> DynamoRecords {
        let config = config(&self.front.endpoint).await;
        DynamoRecords::open(&config, self.options()).await.expect("it opens")
    }

    async fn client(&self) -> Client {
        Client::new(&config(&self.front.endpoint).await)
    }

    /// All items of the table.
    async fn items(&self) -> Vec<HashMap<String, AttributeValue>> {
        let mut found = Vec::new();
        let client = self.client().await;
        let mut pages = client.scan().table_name(TABLE).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            found.push(item.expect("scanned"));
        }
        found
    }

    /// How many parts of receipts the table holds.
    async fn parts(&self) -> usize {
        self.items().await.iter().filter(|item| item.contains_key("part")).count()
    }

    fn record(&self) -> NewRecord {
        let request = Request {
            expression: "a + b".into(),
            parameters: [("a".into(), "2".into())].into(),
            digits: None,
            receipt: true,
        };
        let now_ms = self.clock.now_ms();
        let expires_ms = now_ms + u64::try_from(KEPT.as_millis()).expect("a minute");
        NewRecord { id: Uuid::now_v7(), request, deadline_ms: now_ms + 1000, expires_ms }
    }

    async fn created(&self, records: &DynamoRecords) -> Uuid {
        let record = self.record();
        let id = record.id;
        assert_eq!(records.create(record).await.expect("created"), Created::New);
        id
    }
}

/// As the daemons load it, but for credentials that are no secret and pauses that need not be long. Its region
/// is its own: the SDK retries less, for all of a process, the more fails in a region.
async fn config(endpoint: &str) -> SdkConfig {
    let region = format!("at-{}", Uuid::now_v7());
    let options = AwsOptions { region: Some(region), endpoint: Some(endpoint.into()) };
    let loaded = aws::load(&options).await;
    let retries = loaded.retry_config().cloned().unwrap_or_else(RetryConfig::standard);
    let credentials = Credentials::new("test", "test", None, None, "test");
    loaded
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(retries.with_initial_backoff(Duration::from_millis(1)))
        .build()
}

fn outcome(result: &str) -> Outcome {
    Outcome { result: Ok(result.into()), nodes: 3, elapsed_ms: 1.5, timeline: Vec::new() }
}

async fn subject() -> Subject {
    let place = Place::new().await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Options { clock: place.clock.clone(), ..Options::new(Durability::Process) };
    let rest = SqliteEngine::open_with(&folder.path().join("rest.db"), options).expect("it opens");
    Subject {
        engine: Arc::new(Assembled { records: Box::new(place.records().await), ..rest.in_parts() }),
        time: Box::new(place.clock.clone()),
        too_large: RECEIPT_BYTES_MAX + 1,
        changes_kept: 10_000,
        compact: None,
        keep: Box::new((place, folder)),
    }
}

mod records {
    quorate::records_conformance!(super::subject());
}
