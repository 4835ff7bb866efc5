//! Records in the embedded engine.

use super::{Created, Finished, Lookup, NewRecord, Outcome, Record, Records, RecordsError};
use crate::sqlite::{Core, Tx, Unavailable, ms};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params, types::FromSqlError};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use uuid::Uuid;

/// Records in the embedded engine.
pub(crate) struct SqliteRecords {
    pub(crate) core: Arc<Core>,
}

/// A record within its limit, as it is written.
pub(crate) struct Prepared {
    id: Uuid,
    request: String,
    deadline_ms: i64,
    expires_ms: i64,
}

/// The end of a record within its limits, as it is written.
pub(crate) struct Ending {
    id: Uuid,
    outcome: String,
    receipt: Option<Bytes>,
}

impl Prepared {
    /// About how much it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.request.len()
    }
}

impl Ending {
    /// About how much it holds.
    pub(crate) fn bytes(&self) -> usize {
        self.outcome.len() + self.receipt.as_ref().map_or(0, Bytes::len)
    }
}

impl SqliteRecords {
    /// Checks a record's size.
    pub(crate) fn prepare(&self, record: NewRecord) -> Result<Prepared, RecordsError> {
        Ok(Prepared {
            id: record.id,
            request: within(json(&record.request), self.core.options.record_bytes_max)?,
            deadline_ms: saturating(record.deadline_ms),
            expires_ms: saturating(record.expires_ms),
        })
    }

    /// Checks an end's sizes.
    pub(crate) fn prepare_end(
        &self,
        id: Uuid,
        outcome: &Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Ending, RecordsError> {
        let outcome = within(json(outcome), self.core.options.record_bytes_max)?;
        let receipt =
            receipt.map(|receipt| within(receipt, self.core.options.receipt_bytes_max)).transpose()?;
        Ok(Ending { id, outcome, receipt })
    }
}

#[async_trait]
impl Records for SqliteRecords {
    async fn create(&self, record: NewRecord) -> Result<Created, RecordsError> {
        let record = self.prepare(record)?;
        let created = self.core.write(record.bytes(), move |tx| create_record(tx, &record));
        created.await.map_err(Unavailable::of_records)
    }

    async fn get(&self, id: Uuid) -> Result<Lookup, RecordsError> {
        let now_ms = self.core.now_ms();
        let found = self.core.read(move |connection| find_record(connection, id, now_ms));
        found.await.map_err(Unavailable::of_records)
    }

    async fn finish(
        &self,
        id: Uuid,
        outcome: Outcome,
        receipt: Option<Bytes>,
    ) -> Result<Finished, RecordsError> {
        let ending = self.prepare_end(id, &outcome, receipt)?;
        let finished = self.core.write(ending.bytes(), move |tx| finish_record(tx, &ending));
        finished.await.map_err(Unavailable::of_records)
    }

    async fn receipt(&self, id: Uuid) -> Result<Option<Bytes>, RecordsError> {
        let receipt = self.core.read(move |connection| {
            connection
                .prepare_cached("SELECT body FROM receipts WHERE id = ?1")?
                .query_row([id.as_bytes()], |row| Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?)))
                .optional()
        });
        receipt.await.map_err(Unavailable::of_records)
    }

    async fn overdue(&self, age: Duration, max: usize) -> Result<Vec<Uuid>, RecordsError> {
        let now_ms = self.core.now_ms();
        let (before, max) = (now_ms.saturating_sub(ms(age)), i64::try_from(max).unwrap_or(i64::MAX));
        let overdue = self.core.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT id FROM records WHERE outcome IS NULL AND request IS NOT NULL
                     AND accepted_ms < ?1 AND expires_ms >= ?2 ORDER BY accepted_ms LIMIT ?3",
                )?
                .query_map([before, now_ms, max], |row| uuid(row, 0))?
                .collect()
        });
        overdue.await.map_err(Unavailable::of_records)
    }

    async fn accepted(&self) -> Result<u64, RecordsError> {
        Ok(self.core.accepted())
    }

    async fn expire(&self, max: usize) -> Result<u64, RecordsError> {
        let max = i64::try_from(max).unwrap_or(i64::MAX);
        let expired = self.core.write(0, move |tx| expire_records(tx, max));
        expired.await.map_err(Unavailable::of_records)
    }
}

impl Unavailable {
    /// As the error of the records.
    pub(crate) fn of_records(self) -> RecordsError {
        RecordsError::Unavailable { source: Box::new(self) }
    }
}

/// Writes a record unless there is one, or was.
pub(crate) fn create_record(tx: &mut Tx<'_>, record: &Prepared) -> rusqlite::Result<Created> {
    let written = tx
        .connection
        .prepare_cached(
            "INSERT INTO records (id, accepted_ms, deadline_ms, expires_ms, request)
             VALUES (?1, ?2, ?3, ?4, ?5) ON CONFLICT DO NOTHING",
        )?
        .execute(params![
            record.id.as_bytes(),
            tx.now_ms,
            record.deadline_ms,
            record.expires_ms,
            record.request
        ])?;
    if written == 1 {
        tx.effects.accepted += 1;
        return Ok(Created::New);
    }
    Ok(match find_record(tx.connection, record.id, tx.now_ms)? {
        Lookup::Found(record) => Created::Existing(record),
        Lookup::Expired | Lookup::Unknown => Created::Expired,
    })
}

/// Finishes a record unless it is finished, or gone.
pub(crate) fn finish_record(tx: &mut Tx<'_>, ending: &Ending) -> rusqlite::Result<Finished> {
    let finished = tx
        .connection
        .prepare_cached(
            "UPDATE records SET outcome = ?2
             WHERE id = ?1 AND outcome IS NULL AND request IS NOT NULL AND expires_ms >= ?3",
        )?
        .execute(params![ending.id.as_bytes(), ending.outcome, tx.now_ms])?;
    if finished == 0 {
        return Ok(match find_record(tx.connection, ending.id, tx.now_ms)? {
            Lookup::Found(Record { outcome: Some(outcome), .. }) => Finished::Before(outcome),
            _ => Finished::Unknown,
        });
    }
    if let Some(receipt) = &ending.receipt {
        tx.connection
            .prepare_cached("INSERT INTO receipts (id, body) VALUES (?1, ?2)")?
            .execute(params![ending.id.as_bytes(), &receipt[..]])?;
    }
    tx.effects.accepted -= 1;
    Ok(Finished::First)
}

/// How many records are accepted and not finished.
pub(crate) fn count_accepted(connection: &Connection) -> rusqlite::Result<i64> {
    connection
        .prepare_cached("SELECT count(*) FROM records WHERE outcome IS NULL AND request IS NOT NULL")?
        .query_row([], |row| row.get(0))
}

/// A record past its expiry is gone, whether it was removed by then or not.
fn find_record(connection: &Connection, id: Uuid, now_ms: i64) -> rusqlite::Result<Lookup> {
    let found = connection
        .prepare_cached(
            "SELECT accepted_ms, deadline_ms, expires_ms, request, outcome FROM records WHERE id = ?1",
        )?
        .query_row([id.as_bytes()], |row| {
            let expires_ms: i64 = row.get(2)?;
            let Some(request) = parsed(row, 3)? else { return Ok(Lookup::Expired) };
            if expires_ms < now_ms {
                return Ok(Lookup::Expired);
            }
            Ok(Lookup::Found(Record {
                id,
                request,
                accepted_ms: unsigned(row.get(0)?),
                deadline_ms: unsigned(row.get(1)?),
                expires_ms: unsigned(expires_ms),
                outcome: parsed(row, 4)?,
            }))
        })
        .optional()?;
    Ok(found.unwrap_or(Lookup::Unknown))
}

/// Makes tombstones of up to `max` records past their expiry, and removes as many old tombstones.
fn expire_records(tx: &mut Tx<'_>, max: i64) -> rusqlite::Result<u64> {
    let connection = tx.connection;
    let buried_before = tx.now_ms.saturating_sub(ms(tx.options.tombstone_retention));
    connection
        .prepare_cached(
            "DELETE FROM records WHERE id IN (SELECT id FROM records
             WHERE expires_ms < ?1 AND request IS NULL ORDER BY expires_ms LIMIT ?2)",
        )?
        .execute([buried_before, max])?;
    let expired: Vec<(Uuid, bool)> = connection
        .prepare_cached(
            "SELECT id, outcome IS NULL FROM records
             WHERE expires_ms < ?1 AND request IS NOT NULL ORDER BY expires_ms LIMIT ?2",
        )?
        .query_map([tx.now_ms, max], |row| Ok((uuid(row, 0)?, row.get(1)?)))?
        .collect::<rusqlite::Result<_>>()?;
    let mut bury =
        connection.prepare_cached("UPDATE records SET request = NULL, outcome = NULL WHERE id = ?1")?;
    let mut forget = connection.prepare_cached("DELETE FROM receipts WHERE id = ?1")?;
    for (id, unfinished) in &expired {
        bury.execute([id.as_bytes()])?;
        forget.execute([id.as_bytes()])?;
        tx.effects.accepted -= i64::from(*unfinished);
    }
    Ok(u64::try_from(expired.len()).unwrap_or(u64::MAX))
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("texts, numbers and lists of them have a JSON form")
}

fn within<T: AsRef<[u8]>>(value: T, limit: usize) -> Result<T, RecordsError> {
    let bytes = value.as_ref().len();
    if bytes > limit { Err(RecordsError::TooLarge { bytes, limit }) } else { Ok(value) }
}

/// A column of JSON. What can't be read was not written by us: the file is damaged.
fn parsed<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let Some(text) = row.get_ref(column)?.as_str_or_null()? else { return Ok(None) };
    serde_json::from_str(text).map(Some).map_err(|error| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}

fn uuid(row: &Row<'_>, column: usize) -> rusqlite::Result<Uuid> {
    let bytes = row.get_ref(column)?.as_blob()?;
    Uuid::from_slice(bytes).map_err(|error| FromSqlError::Other(Box::new(error)).into())
}

fn saturating(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}
