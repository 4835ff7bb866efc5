//! The store in the embedded engine.

use super::{Change, Entry, LeaseId, Revision, Store, StoreError, Watch};
use crate::sqlite::{Core, NewWatch, Order, Tx, Unavailable, ms};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};
use std::{sync::Arc, time::Duration};
use tokio::sync::oneshot;

/// The store in the embedded engine.
pub(crate) struct SqliteStore {
    pub(crate) core: Arc<Core>,
}

impl SqliteStore {
    async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.core.write(bytes, work).await.map_err(Unavailable::of_store)
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        self.core.read(work).await.map_err(Unavailable::of_store)
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_owned();
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT key, value, revision FROM entries WHERE key = ?1")?
                .query_row([key.as_bytes()], entry)
                .optional()
        })
        .await
    }

    async fn put(&self, key: &str, value: Bytes, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
        let key = key.to_owned();
        self.write(key.len() + value.len(), move |tx| {
            if let Some(gone) = gone_lease(tx, lease)? {
                return Ok(Err(StoreError::LeaseGone(gone)));
            }
            put(tx, &key, &value, lease).map(Ok)
        })
        .await?
    }

    async fn delete(&self, key: &str) -> Result<bool, StoreError> {
        let key = key.to_owned();
        self.write(0, move |tx| Ok(remove(tx, &key)?.is_some())).await
    }

    async fn list(&self, prefix: &str) -> Result<(Vec<Entry>, Revision), StoreError> {
        let prefix = prefix.to_owned();
        self.read(move |connection| {
            // One transaction, so that the revision is that of what was listed.
            let transaction = connection.unchecked_transaction()?;
            let entries = match after_all(prefix.as_bytes()) {
                Some(end) => transaction
                    .prepare_cached(
                        "SELECT key, value, revision FROM entries WHERE key >= ?1 AND key < ?2 ORDER BY key",
                    )?
                    .query_map([prefix.as_bytes(), &end], entry)?
                    .collect::<rusqlite::Result<_>>()?,
                None => transaction
                    .prepare_cached("SELECT key, value, revision FROM entries WHERE key >= ?1 ORDER BY key")?
                    .query_map([prefix.as_bytes()], entry)?
                    .collect::<rusqlite::Result<_>>()?,
            };
            Ok((entries, newest_revision(&transaction)?))
        })
        .await
    }

    async fn compare_and_swap(
        &self,
        key: &str,
        seen: Option<Revision>,
        value: Option<Bytes>,
        lease: Option<LeaseId>,
    ) -> Result<Revision, StoreError> {
        let key = key.to_owned();
        self.write(key.len() + value.as_ref().map_or(0, Bytes::len), move |tx| {
            let stands = tx
                .connection
                .prepare_cached("SELECT revision FROM entries WHERE key = ?1")?
                .query_row([key.as_bytes()], |row| row.get(0).map(revision))
                .optional()?;
            if stands != seen {
                return Ok(Err(StoreError::Conflict { key: key.clone() }));
            }
            if let Some(gone) = gone_lease(tx, lease)? {
                return Ok(Err(StoreError::LeaseGone(gone)));
            }
            match &value {
                Some(value) => put(tx, &key, value, lease).map(Ok),
                // Removing what is not there changes nothing: the revision stays.
                None => remove(tx, &key)?.map_or_else(|| newest_revision(tx.connection), Ok).map(Ok),
            }
        })
        .await?
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let ttl_ms = ms(ttl);
        self.write(0, move |tx| {
            tx.connection
                .prepare_cached("INSERT INTO leases (ttl_ms, expires_ms) VALUES (?1, ?2)")?
                .execute([ttl_ms, tx.now_ms.saturating_add(ttl_ms)])?;
            tx.effects.leases = true;
            Ok(LeaseId(unsigned(tx.connection.last_insert_rowid())))
        })
        .await
    }

    async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let renewed = self.write(0, move |tx| {
            // One that is over and not yet removed stays over: somebody may have seen that it is.
            tx.effects.leases = true;
            tx.connection
                .prepare_cached(
                    "UPDATE leases SET expires_ms = ?2 + ttl_ms WHERE id = ?1 AND expires_ms > ?2",
                )?
                .execute([signed(lease), tx.now_ms])
        });
        if renewed.await? == 0 { Err(StoreError::LeaseGone(lease)) } else { Ok(()) }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.write(0, move |tx| end_lease(tx, signed(lease))).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<Watch, StoreError> {
        let (to, watch) = oneshot::channel();
        let new = NewWatch { prefix: prefix.to_owned(), from, to };
        self.core.order(0, Order::Watch(new)).await.map_err(Unavailable::of_store)?;
        watch.await.unwrap_or(Err(Unavailable::Ended)).map_err(Unavailable::of_store)
    }
}

impl Unavailable {
    /// As the error of the store.
    pub(crate) fn of_store(self) -> StoreError {
        StoreError::Unavailable { source: Box::new(self) }
    }
}

/// The store's revision: that of the newest change.
pub(crate) fn newest_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let newest: Option<i64> =
        connection.prepare_cached("SELECT max(revision) FROM changes")?.query_row([], |row| row.get(0))?;
    Ok(revision(newest.unwrap_or(0)))
}

/// The oldest change that is kept; 0 while there is none.
pub(crate) fn oldest_revision(connection: &Connection) -> rusqlite::Result<Revision> {
    let oldest: Option<i64> =
        connection.prepare_cached("SELECT min(revision) FROM changes")?.query_row([], |row| row.get(0))?;
    // Before the first change there is nothing to miss.
    Ok(revision(oldest.filter(|oldest| *oldest > 1).unwrap_or(0)))
}

/// The changes that are kept, from a revision on.
pub(crate) fn changes_from(connection: &Connection, from: Revision) -> rusqlite::Result<Vec<Change>> {
    connection
        .prepare_cached("SELECT key, value, revision FROM changes WHERE revision >= ?1 ORDER BY revision")?
        .query_map([i64::try_from(from.0).unwrap_or(i64::MAX)], |row| {
            let (key, revision) = (key(row, 0)?, revision(row.get(2)?));
            Ok(match row.get_ref(1)?.as_blob_or_null()? {
                Some(value) => Change::Put(Entry { key, value: Bytes::copy_from_slice(value), revision }),
                None => Change::Deleted { key, revision },
            })
        })?
        .collect()
}

/// When the next lease ends.
pub(crate) fn next_lease_ms(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT min(expires_ms) FROM leases")?.query_row([], |row| row.get(0))
}

/// Ends the leases that are over.
pub(crate) fn end_leases(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    let over: Vec<i64> = tx
        .connection
        .prepare_cached("SELECT id FROM leases WHERE expires_ms <= ?1 ORDER BY expires_ms")?
        .query_map([tx.now_ms], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    over.into_iter().try_for_each(|lease| end_lease(tx, lease))
}

fn end_lease(tx: &mut Tx<'_>, lease: i64) -> rusqlite::Result<()> {
    let keys: Vec<String> = tx
        .connection
        .prepare_cached("SELECT key FROM entries WHERE lease = ?1 ORDER BY key")?
        .query_map([lease], |row| key(row, 0))?
        .collect::<rusqlite::Result<_>>()?;
    for key in keys {
        remove(tx, &key)?;
    }
    tx.connection.prepare_cached("DELETE FROM leases WHERE id = ?1")?.execute([lease])?;
    tx.effects.leases = true;
    Ok(())
}

/// The lease, if it has ended.
fn gone_lease(tx: &Tx<'_>, lease: Option<LeaseId>) -> rusqlite::Result<Option<LeaseId>> {
    let Some(lease) = lease else { return Ok(None) };
    let lives = tx
        .connection
        .prepare_cached("SELECT 1 FROM leases WHERE id = ?1 AND expires_ms > ?2")?
        .exists([signed(lease), tx.now_ms])?;
    Ok((!lives).then_some(lease))
}

fn put(tx: &mut Tx<'_>, key: &str, value: &Bytes, lease: Option<LeaseId>) -> rusqlite::Result<Revision> {
    let revision = change(tx, key, Some(value))?;
    tx.connection
        .prepare_cached(
            "INSERT OR REPLACE INTO entries (key, value, revision, lease) VALUES (?1, ?2, ?3, ?4)",
        )?
        .execute(params![key.as_bytes(), &value[..], signed_revision(revision), lease.map(signed)])?;
    let entry = Entry { key: key.into(), value: value.clone(), revision };
    tx.effects.changes.push(Change::Put(entry));
    Ok(revision)
}

/// Removes a key, if it is there.
fn remove(tx: &mut Tx<'_>, key: &str) -> rusqlite::Result<Option<Revision>> {
    let removed =
        tx.connection.prepare_cached("DELETE FROM entries WHERE key = ?1")?.execute([key.as_bytes()])?;
    if removed == 0 {
        return Ok(None);
    }
    let revision = change(tx, key, None)?;
    tx.effects.changes.push(Change::Deleted { key: key.into(), revision });
    Ok(Some(revision))
}

/// Writes a change into the history, and drops the oldest past what is kept. The newest always stays: it
/// is the store's revision.
fn change(tx: &Tx<'_>, key: &str, value: Option<&Bytes>) -> rusqlite::Result<Revision> {
    let revision = newest_revision(tx.connection)?.next();
    let number = signed_revision(revision);
    tx.connection
        .prepare_cached("INSERT INTO changes (revision, key, value) VALUES (?1, ?2, ?3)")?
        .execute(params![number, key.as_bytes(), value.map(|value| &value[..])])?;
    tx.connection
        .prepare_cached("DELETE FROM changes WHERE revision <= ?1")?
        .execute([number - i64::from(tx.options.changes_kept.max(1))])?;
    Ok(revision)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    Ok(Entry {
        key: key(row, 0)?,
        value: Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?),
        revision: revision(row.get(2)?),
    })
}

fn key(row: &Row<'_>, column: usize) -> rusqlite::Result<String> {
    let bytes = row.get_ref(column)?.as_blob()?;
    std::str::from_utf8(bytes).map(str::to_owned).map_err(|error| rusqlite::Error::Utf8Error(column, error))
}

/// The first key after all that begin with the prefix, if there is one.
fn after_all(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

fn revision(number: i64) -> Revision {
    Revision(unsigned(number))
}

fn signed_revision(revision: Revision) -> i64 {
    i64::try_from(revision.0).expect("revisions count up from 1, one a change")
}

fn signed(lease: LeaseId) -> i64 {
    // A lease that this engine never gave is none.
    i64::try_from(lease.0).unwrap_or(-1)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
