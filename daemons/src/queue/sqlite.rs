//! Queues in the embedded engine.

use super::{DeadLetter, Depth, Handle, Message, Queue, QueueError, QueueName};
use crate::sqlite::{Claim, Core, Taken, Tx, Unavailable, ms};
use async_trait::async_trait;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};
use std::{sync::Arc, time::Duration};

/// Names a message for ever.
pub(crate) type MessageId = i64;

/// A queue in the embedded engine.
pub(crate) struct SqliteQueue {
    pub(crate) id: i64,
    name: QueueName,
    core: Arc<Core>,
}

impl SqliteQueue {
    /// The queue of this name, made when there is none.
    pub(crate) async fn open(core: &Arc<Core>, name: &QueueName) -> Result<Self, QueueError> {
        let wanted = name.clone();
        let id = core.write(0, move |tx| queue_id(tx, wanted.as_str())).await;
        Ok(Self {
            id: id.map_err(|failed| failed.of_queue(name))?,
            name: name.clone(),
            core: Arc::clone(core),
        })
    }

    async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.core.write(bytes, work).await.map_err(|failed| failed.of_queue(&self.name))
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        self.core.read(work).await.map_err(|failed| failed.of_queue(&self.name))
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn name(&self) -> &QueueName {
        &self.name
    }

    fn message_bytes_max(&self) -> usize {
        self.core.options.message_bytes_max
    }

    async fn send(&self, bodies: Vec<Bytes>) -> Result<(), QueueError> {
        bodies.iter().try_for_each(|body| self.check(body))?;
        if bodies.is_empty() {
            return Ok(());
        }
        let (queue, bytes) = (self.id, bodies.iter().map(Bytes::len).sum());
        self.write(bytes, move |tx| bodies.iter().try_for_each(|body| put_message(tx, queue, body))).await
    }

    async fn receive(&self, max: usize, lease: Duration, wait: Duration) -> Result<Vec<Message>, QueueError> {
        if max == 0 {
            return Ok(Vec::new());
        }
        let received = async { Claim::park(&self.core, self.id, max, lease, wait).await?.taken(wait).await };
        let taken = received.await.map_err(|failed| failed.of_queue(&self.name))?;
        Ok(taken.into_iter().map(Message::from).collect())
    }

    async fn extend(&self, handles: &[Handle], lease: Duration) -> Result<(), QueueError> {
        let (queue, receipts, lease_ms) = (self.id, receipts(handles), ms(lease));
        self.write(0, move |tx| {
            let until = tx.now_ms.saturating_add(lease_ms);
            let mut extend = tx.connection.prepare_cached(
                "UPDATE messages SET visible_ms = ?1, lease_ms = ?2 WHERE id = ?3 AND receives = ?4 AND queue = ?5",
            )?;
            for (id, receives) in &receipts {
                extend.execute(params![until, lease_ms, id, receives, queue])?;
            }
            if lease_ms == 0 {
                tx.effects.queues.insert(queue);
            }
            Ok(())
        })
        .await
    }

    async fn delete(&self, handles: &[Handle]) -> Result<(), QueueError> {
        let (queue, handles) = (self.id, handles.to_vec());
        self.write(0, move |tx| handles.iter().try_for_each(|handle| remove_message(tx, queue, handle))).await
    }

    async fn depth(&self) -> Result<Depth, QueueError> {
        let (queue, now_ms) = (self.id, self.core.now_ms());
        self.read(move |connection| depth(connection, queue, now_ms)).await
    }

    async fn dead_letters(&self, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let (queue, now_ms, max) = (self.id, self.core.now_ms(), rows(max));
        self.read(move |connection| {
            let mut letters = connection.prepare_cached(
                "SELECT body, receives, sent_ms FROM dead_letters WHERE queue = ?1 ORDER BY id LIMIT ?2",
            )?;
            letters
                .query_map([queue, max], |row| {
                    Ok(DeadLetter {
                        body: Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?),
                        receives: row.get(1)?,
                        age: since(row.get(2)?, now_ms),
                    })
                })?
                .collect()
        })
        .await
    }

    async fn redrive(&self) -> Result<u64, QueueError> {
        let queue = self.id;
        self.write(0, move |tx| {
            let mut back = tx.connection.prepare_cached(
                "INSERT INTO messages (queue, visible_ms, lease_ms, receives, sent_ms, body)
                 SELECT queue, ?2, 0, 0, ?2, body FROM dead_letters WHERE queue = ?1 ORDER BY id",
            )?;
            let count = back.execute([queue, tx.now_ms])?;
            tx.connection.prepare_cached("DELETE FROM dead_letters WHERE queue = ?1")?.execute([queue])?;
            tx.effects.queues.insert(queue);
            Ok(u64::try_from(count).unwrap_or(u64::MAX))
        })
        .await
    }
}

impl Unavailable {
    /// As the error of a queue.
    pub(crate) fn of_queue(self, queue: &QueueName) -> QueueError {
        QueueError::Unavailable { queue: queue.clone(), source: Box::new(self) }
    }
}

impl From<Taken> for Message {
    fn from(taken: Taken) -> Self {
        let handle = Handle(format!("{}-{}", taken.id, taken.receives).into());
        Self { body: taken.body, handle, receives: taken.receives }
    }
}

/// What a handle names: a message, and which of its receipts.
fn receipt(handle: &Handle) -> Option<(MessageId, u32)> {
    let (id, receives) = handle.0.split_once('-')?;
    let receives = receives.parse().ok().filter(|receives| *receives > 0)?; // 0: nobody has it
    Some((id.parse().ok()?, receives))
}

/// What handles name. One that this engine never gave names nothing.
fn receipts(handles: &[Handle]) -> Vec<(MessageId, u32)> {
    handles.iter().filter_map(receipt).collect()
}

fn queue_id(tx: &Tx<'_>, name: &str) -> rusqlite::Result<i64> {
    let mut known = tx.connection.prepare_cached("SELECT id FROM queues WHERE name = ?1")?;
    if let Some(id) = known.query_row([name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    tx.connection.execute("INSERT INTO queues (name) VALUES (?1)", [name])?;
    Ok(tx.connection.last_insert_rowid())
}

/// Puts a message on a queue.
pub(crate) fn put_message(tx: &mut Tx<'_>, queue: i64, body: &Bytes) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "INSERT INTO messages (queue, visible_ms, lease_ms, receives, sent_ms, body)
             VALUES (?1, ?2, 0, 0, ?2, ?3)",
        )?
        .execute(params![queue, tx.now_ms, &body[..]])?;
    tx.effects.queues.insert(queue);
    Ok(())
}

/// Deletes the message whose newest receipt the handle names.
pub(crate) fn remove_message(tx: &mut Tx<'_>, queue: i64, handle: &Handle) -> rusqlite::Result<()> {
    let Some((id, receives)) = receipt(handle) else { return Ok(()) };
    tx.connection
        .prepare_cached("DELETE FROM messages WHERE id = ?1 AND receives = ?2 AND queue = ?3")?
        .execute(params![id, receives, queue])?;
    Ok(())
}

/// Takes up to `max` messages under a lease, oldest turn first, and puts aside those that were taken too
/// often.
pub(crate) fn take_messages(
    tx: &mut Tx<'_>,
    queue: i64,
    max: usize,
    lease_ms: i64,
) -> rusqlite::Result<Vec<Taken>> {
    let mut taken = Vec::new();
    while taken.len() < max {
        let next = next_messages(tx, queue, max - taken.len())?;
        if next.is_empty() {
            break;
        }
        for mut message in next {
            if message.receives >= tx.options.max_receives {
                put_aside(tx, message.id)?;
                continue;
            }
            message.receives += 1;
            tx.connection
                .prepare_cached(
                    "UPDATE messages SET visible_ms = ?1, lease_ms = ?2, receives = ?3 WHERE id = ?4",
                )?
                .execute(params![
                    tx.now_ms.saturating_add(lease_ms),
                    lease_ms,
                    message.receives,
                    message.id
                ])?;
            taken.push(message);
        }
        if lease_ms == 0 {
            break; // they are receivable again already
        }
    }
    Ok(taken)
}

fn next_messages(tx: &Tx<'_>, queue: i64, max: usize) -> rusqlite::Result<Vec<Taken>> {
    tx.connection
        .prepare_cached(
            "SELECT id, receives, body FROM messages WHERE queue = ?1 AND visible_ms <= ?2
             ORDER BY visible_ms, id LIMIT ?3",
        )?
        .query_map([queue, tx.now_ms, rows(max)], |row| {
            Ok(Taken {
                id: row.get(0)?,
                receives: row.get(1)?,
                body: Bytes::copy_from_slice(row.get_ref(2)?.as_blob()?),
            })
        })?
        .collect()
}

fn put_aside(tx: &Tx<'_>, id: MessageId) -> rusqlite::Result<()> {
    tx.connection
        .prepare_cached(
            "INSERT INTO dead_letters (queue, receives, sent_ms, body)
             SELECT queue, receives, sent_ms, body FROM messages WHERE id = ?1",
        )?
        .execute([id])?;
    tx.connection.prepare_cached("DELETE FROM messages WHERE id = ?1")?.execute([id])?;
    Ok(())
}

/// Undoes receipts that reached nobody, as if they had not been.
pub(crate) fn give_back(tx: &mut Tx<'_>, queue: i64, receipts: &[(MessageId, u32)]) -> rusqlite::Result<()> {
    for &(id, receives) in receipts {
        tx.connection
            .prepare_cached(
                "UPDATE messages SET visible_ms = sent_ms, lease_ms = 0, receives = receives - 1
                 WHERE id = ?1 AND receives = ?2 AND queue = ?3",
            )?
            .execute(params![id, receives, queue])?;
    }
    tx.effects.queues.insert(queue);
    Ok(())
}

/// When the next message of a queue becomes receivable.
pub(crate) fn due_ms(connection: &Connection, queue: i64) -> rusqlite::Result<Option<i64>> {
    connection
        .prepare_cached("SELECT min(visible_ms) FROM messages WHERE queue = ?1")?
        .query_row([queue], |row| row.get(0))
}

/// Removes what nobody deleted in time: a gateway that is gone leaves its outbound queue behind.
pub(crate) fn sweep_messages(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    let before = |retention| tx.now_ms.saturating_sub(ms(retention));
    let (messages, letters) =
        (before(tx.options.message_retention), before(tx.options.dead_letter_retention));
    tx.connection.execute("DELETE FROM messages WHERE sent_ms < ?1", [messages])?;
    tx.connection.execute("DELETE FROM dead_letters WHERE sent_ms < ?1", [letters])?;
    Ok(())
}

fn depth(connection: &Connection, queue: i64, now_ms: i64) -> rusqlite::Result<Depth> {
    let count = |sql: &str, now_ms: Option<i64>| -> rusqlite::Result<u64> {
        let mut count = connection.prepare_cached(sql)?;
        let count: i64 = match now_ms {
            Some(now_ms) => count.query_row([queue, now_ms], |row| row.get(0))?,
            None => count.query_row([queue], |row| row.get(0))?,
        };
        Ok(u64::try_from(count).unwrap_or(0))
    };
    let oldest = connection
        .prepare_cached(
            "SELECT sent_ms FROM messages WHERE queue = ?1 AND visible_ms <= ?2 ORDER BY visible_ms LIMIT 1",
        )?
        .query_row([queue, now_ms], |row| row.get(0))
        .optional()?;
    Ok(Depth {
        waiting: count("SELECT count(*) FROM messages WHERE queue = ?1 AND visible_ms <= ?2", Some(now_ms))?,
        in_flight: count("SELECT count(*) FROM messages WHERE queue = ?1 AND visible_ms > ?2", Some(now_ms))?,
        oldest: Some(oldest.map_or(Duration::ZERO, |sent_ms| since(sent_ms, now_ms))),
        dead: count("SELECT count(*) FROM dead_letters WHERE queue = ?1", None)?,
    })
}

fn since(then_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms - then_ms).unwrap_or(0))
}

fn rows(max: usize) -> i64 {
    i64::try_from(max).unwrap_or(i64::MAX)
}
