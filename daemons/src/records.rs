//! A request's truth: its record, written when it is accepted and once more when it is finished.

#[doc(hidden)]
pub mod conformance;
#[cfg(feature = "dynamo")]
pub mod dynamo;
pub(crate) mod sqlite;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;

/// Where records are kept.
#[async_trait]
pub trait Records: Send + Sync + 'static {
    /// Writes the record unless one with its id exists; then says what that one is.
    ///
    /// # Errors
    /// When the engine can't be reached or the record is over its limit.
    async fn create(&self, record: NewRecord) -> Result<Created, RecordsError>;

    /// The record by its id.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn get(&self, id: Uuid) -> Result<Lookup, RecordsError>;

    /// Finishes an accepted record. The first to finish wins: a later call changes nothing and is told
    /// what stands.
    ///
    /// # Errors
    /// When the engine can't be reached or the outcome is over its limit.
    async fn finish(
        &self,
        id: Uuid,
        outcome: Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError>;

    /// The receipt of a finished record that asked for one.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError>;

    /// Up to `max` ids that were accepted longer than `age` ago and are not finished.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn overdue(&self, age: Duration, max: usize) -> Result<Vec<Uuid>, RecordsError>;

    /// How many records are accepted and not finished, approximately.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn accepted(&self) -> Result<u64, RecordsError>;

    /// Removes what is past its expiry, leaving its id behind so that it is gone and not unknown; up to
    /// `max` records. Says how many.
    ///
    /// # Errors
    /// When the engine can't be reached.
    async fn expire(&self, max: usize) -> Result<u64, RecordsError>;
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewRecord {
    /// Its id.
    pub id: Uuid,
    /// What was asked.
    pub request: Request,
    /// Milliseconds since 1970 after which it has failed.
    pub deadline_ms: u64,
    /// Milliseconds since 1970 after which it is removed.
    pub expires_ms: u64,
}

/// What was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The expression's text.
    pub expression: String,
    /// Parameters: name → the text of a number.
    #[serde(default)]
    pub parameters: std::collections::BTreeMap<String, String>,
    /// Decimal digits of the result, when it is wanted as a rounded decimal.
    #[serde(default)]
    pub digits: Option<u32>,
    /// Whether a receipt is wanted.
    #[serde(default)]
    pub receipt: bool,
}

/// A record as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its id.
    pub id: Uuid,
    /// What was asked.
    pub request: Request,
    /// Milliseconds since 1970 at which it was accepted.
    pub accepted_ms: u64,
    /// Milliseconds since 1970 after which it has failed.
    pub deadline_ms: u64,
    /// Milliseconds since 1970 after which it is removed.
    pub expires_ms: u64,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// The result's text, or what was wrong.
    pub result: Result<String, Failure>,
    /// Operations that its plan has.
    pub nodes: u32,
    /// From acceptance to the end.
    pub elapsed_ms: f64,
    /// What happened to each node, when it was small enough to keep: for `--explain`.
    #[serde(default)]
    pub timeline: Vec<NodeRun>,
}

/// When and where one node ran.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct NodeRun {
    /// The node of the plan.
    pub node: u32,
    /// The set that executed it.
    pub set: String,
    /// Milliseconds since acceptance at which it was dispatched.
    pub start_ms: f64,
    /// Milliseconds since acceptance at which its value came.
    pub end_ms: f64,
}

/// Why a request has no result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `division-by-zero`, `overflow`, `deadline`, …
    pub kind: String,
    /// One line for a person.
    pub detail: String,
    /// Bytes of the expression that are to blame.
    pub span: Option<[usize; 2]>,
}

/// What became of [`Records::create`].
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "moved once, from an engine to its caller")]
pub enum Created {
    /// It was written.
    New,
    /// There was one already, as it stands now.
    Existing(Record),
    /// There was one, and it has expired.
    Expired,
}

/// What is known of an id.
#[derive(Clone, Debug, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "moved once, from an engine to its caller")]
pub enum Lookup {
    /// The record.
    Found(Record),
    /// There was one, and it has expired.
    Expired,
    /// There never was one.
    Unknown,
}

/// What became of [`Records::finish`].
#[derive(Clone, Debug, PartialEq)]
pub enum Finished {
    /// This call finished it.
    First,
    /// It was finished before, with this.
    Before(Outcome),
    /// There is no such record (any more).
    Unknown,
}

/// Why the records did not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum RecordsError {
    /// The engine can't be reached, or failed; try again later.
    #[error("records are not available: {source}")]
    Unavailable {
        /// What the engine said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The record is larger than the engine takes.
    #[error("record of {bytes} bytes is over the limit ({limit})")]
    TooLarge {
        /// The record's size.
        bytes: usize,
        /// The largest it takes.
        limit: usize,
    },
}
