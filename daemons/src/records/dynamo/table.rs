//! The table itself: what it must look like, and making it.

use super::{
    index::{self, Index},
    item::{ID, TTL},
};
use crate::aws::{AwsError, Service};
use aws_sdk_dynamodb::{
    Client,
    types::{
        AttributeDefinition, BillingMode, GlobalSecondaryIndex, IndexStatus, KeySchemaElement, KeyType,
        Projection, ProjectionType, ScalarAttributeType, TableDescription, TableStatus,
        TimeToLiveSpecification, TimeToLiveStatus,
    },
};
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks at a table that is being made, at first; doubled up to the second.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Why a table can't be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none, and none is to be made.
    #[error("table {table} does not exist; make it, or allow that it is made")]
    Missing {
        /// The table.
        table: String,
    },
    /// There is none, and it can't be made.
    #[error("table {table} does not exist and can't be made: {source}")]
    NotMade {
        /// The table.
        table: String,
        /// What AWS said.
        source: Box<AwsError>,
    },
    /// It is another table than ours.
    #[error("table {table} is not as it must be: {differs}")]
    Differs {
        /// The table.
        table: String,
        /// What is, and what should be.
        differs: String,
    },
    /// It can't be used, and could not within the time that was given.
    #[error("table {table} can't be used after {waited:?}: {status}")]
    NotActive {
        /// The table.
        table: String,
        /// What it is instead of active.
        status: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// AWS failed.
    #[error("table {table}: {source}")]
    Failed {
        /// The table.
        table: String,
        /// What AWS said.
        source: Box<AwsError>,
    },
}

/// A table about to be used.
pub(super) struct Opening<'a> {
    pub(super) client: &'a Client,
    pub(super) service: &'a Service,
    pub(super) table: &'a str,
    pub(super) create: bool,
    pub(super) wait: Duration,
}

impl Opening<'_> {
    /// Makes the table when there is none and it may, waits until it can be used, and compares it with what
    /// it must be.
    pub(super) async fn open(&self) -> Result<(), OpenError> {
        if self.described().await?.is_none() {
            if !self.create {
                return Err(OpenError::Missing { table: self.table.to_owned() });
            }
            self.make().await?;
        }
        self.differs_not(&differences(&self.active().await?))?;
        self.removes_by_itself().await
    }

    async fn described(&self) -> Result<Option<TableDescription>, OpenError> {
        match self.client.describe_table().table_name(self.table).send().await {
            Ok(answer) => Ok(answer.table),
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_resource_not_found_exception()) =>
            {
                Ok(None)
            }
            Err(error) => Err(self.failed(self.service.explain("DescribeTable", &error))),
        }
    }

    /// Another process may be faster: as good.
    async fn make(&self) -> Result<(), OpenError> {
        let making = self
            .client
            .create_table()
            .table_name(self.table)
            .billing_mode(BillingMode::PayPerRequest)
            .set_attribute_definitions(Some(definitions()))
            .key_schema(key(ID, KeyType::Hash))
            .set_global_secondary_indexes(Some(index::ALL.iter().map(secondary).collect()));
        match making.send().await {
            Ok(_) => Ok(()),
            Err(error)
                if error.as_service_error().is_some_and(|error| error.is_resource_in_use_exception()) =>
            {
                Ok(())
            }
            Err(error) => {
                let source = Box::new(self.service.explain("CreateTable", &error));
                Err(OpenError::NotMade { table: self.table.to_owned(), source })
            }
        }
    }

    async fn active(&self) -> Result<TableDescription, OpenError> {
        let (until, mut pause) = (Instant::now() + self.wait, LOOK_AGAIN.0);
        loop {
            // What was just made may not be seen yet.
            let table = self.described().await?;
            let status = table.as_ref().map_or(Some("not seen yet".to_owned()), not_usable);
            match (table, status) {
                (Some(table), None) => return Ok(table),
                (_, status) if Instant::now() + pause > until => {
                    return Err(OpenError::NotActive {
                        table: self.table.to_owned(),
                        status: status.unwrap_or_default(),
                        waited: self.wait,
                    });
                }
                _ => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LOOK_AGAIN.1);
        }
    }

    /// Has DynamoDB remove items after their time. Without that tombstones would stay for ever.
    async fn removes_by_itself(&self) -> Result<(), OpenError> {
        let found = self.time_to_live().await?;
        if found.is_some() || !self.create {
            return self.differs_not(&of_time_to_live(found));
        }
        let wanted = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(TTL)
            .build()
            .expect("both fields are given");
        let asked =
            self.client.update_time_to_live().table_name(self.table).time_to_live_specification(wanted);
        if let Err(error) = asked.send().await {
            // Another process may have been faster; a second request is refused then.
            let found = self.time_to_live().await?;
            if found.is_none() {
                return Err(self.failed(self.service.explain("UpdateTimeToLive", &error)));
            }
            self.differs_not(&of_time_to_live(found))?;
        }
        Ok(())
    }

    /// The attribute that says when an item goes, when one does.
    async fn time_to_live(&self) -> Result<Option<String>, OpenError> {
        let answer = self.client.describe_time_to_live().table_name(self.table).send().await;
        let answer =
            answer.map_err(|error| self.failed(self.service.explain("DescribeTimeToLive", &error)))?;
        let Some(found) = answer.time_to_live_description else { return Ok(None) };
        let on =
            matches!(found.time_to_live_status, Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling));
        Ok(found.attribute_name.filter(|_| on))
    }

    fn differs_not(&self, differences: &[String]) -> Result<(), OpenError> {
        if differences.is_empty() {
            return Ok(());
        }
        Err(OpenError::Differs { table: self.table.to_owned(), differs: differences.join("; ") })
    }

    fn failed(&self, source: AwsError) -> OpenError {
        OpenError::Failed { table: self.table.to_owned(), source: source.into() }
    }
}

/// What is wrong with a table or an index, unless it can be used. One that is being changed can.
fn not_usable(table: &TableDescription) -> Option<String> {
    match &table.table_status {
        Some(TableStatus::Active | TableStatus::Updating) => {}
        status => return Some(format!("it is {}", status.as_ref().map_or("nothing", TableStatus::as_str))),
    }
    table.global_secondary_indexes().iter().find_map(|index| match &index.index_status {
        Some(IndexStatus::Active | IndexStatus::Updating) => None,
        status => Some(format!(
            "index `{}` is {}",
            index.index_name().unwrap_or_default(),
            status.as_ref().map_or("nothing", IndexStatus::as_str)
        )),
    })
}

/// What of a table is not as it must be.
fn differences(table: &TableDescription) -> Vec<String> {
    let mut found = Vec::new();
    let definitions = table.attribute_definitions();
    let keys = schema(table.key_schema(), definitions);
    if keys != [format!("{ID} S")] {
        found.push(format!("its key is {}, not `{ID} S`", list(&keys)));
    }
    for wanted in &index::ALL {
        let index = table.global_secondary_indexes().iter();
        let Some(index) = index.clone().find(|index| index.index_name() == Some(wanted.name)) else {
            found.push(format!("it has no index `{}`", wanted.name));
            continue;
        };
        let keys = schema(index.key_schema(), definitions);
        let expected = [format!("{} N", wanted.shard), format!("{} N", wanted.sort)];
        if keys != expected {
            found.push(format!(
                "the key of index `{}` is {}, not {}",
                wanted.name,
                list(&keys),
                list(&expected)
            ));
        }
        let Some(projection) = &index.projection else { continue };
        let holds = projection.projection_type == Some(ProjectionType::All)
            || projection.non_key_attributes().iter().any(|name| name == wanted.beside);
        if !holds {
            found.push(format!("index `{}` does not hold `{}`", wanted.name, wanted.beside));
        }
    }
    found
}

fn of_time_to_live(found: Option<String>) -> Vec<String> {
    match found.as_deref() {
        Some(TTL) => Vec::new(),
        Some(other) => vec![format!("its time to live is `{other}`, not `{TTL}`")],
        None => vec![format!("it has no time to live; it must be `{TTL}`")],
    }
}

/// A key's attributes with their types, the partition's first.
fn schema(keys: &[KeySchemaElement], definitions: &[AttributeDefinition]) -> Vec<String> {
    let mut keys: Vec<_> = keys.iter().collect();
    keys.sort_by_key(|key| key.key_type != KeyType::Hash);
    let kind = |name: &str| {
        let definition = definitions.iter().find(|definition| definition.attribute_name == name);
        definition.map_or("?", |definition| definition.attribute_type.as_str()).to_owned()
    };
    keys.iter().map(|key| format!("{} {}", key.attribute_name, kind(&key.attribute_name))).collect()
}

fn list(keys: &[String]) -> String {
    format!("`{}`", keys.join(", "))
}

fn definitions() -> Vec<AttributeDefinition> {
    let numbers = index::ALL.iter().flat_map(|index| [index.shard, index.sort]);
    std::iter::once((ID, ScalarAttributeType::S))
        .chain(numbers.map(|name| (name, ScalarAttributeType::N)))
        .map(|(name, kind)| {
            let definition = AttributeDefinition::builder().attribute_name(name).attribute_type(kind);
            definition.build().expect("both fields are given")
        })
        .collect()
}

fn key(name: &str, kind: KeyType) -> KeySchemaElement {
    KeySchemaElement::builder().attribute_name(name).key_type(kind).build().expect("both fields are given")
}

fn secondary(index: &Index) -> GlobalSecondaryIndex {
    let projection =
        Projection::builder().projection_type(ProjectionType::Include).non_key_attributes(index.beside);
    GlobalSecondaryIndex::builder()
        .index_name(index.name)
        .key_schema(key(index.shard, KeyType::Hash))
        .key_schema(key(index.sort, KeyType::Range))
        .projection(projection.build())
        .build()
        .expect("name and keys are given")
}
