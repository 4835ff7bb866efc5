//! The embedded engine: queues, records and store of one platform in one SQLite file.
//!
//! One writer thread owns the connection that writes. Whoever wants something written hands it an order
//! and awaits the answer; the thread takes all orders that wait and commits them in **one** transaction
//! (group commit), then answers. An order that fails takes none of the others along. In the same
//! transaction the thread serves whoever waits at a queue that got something, so that sending and
//! receiving share one commit, and after it tells the watchers. Nobody polls, but for one thing: what
//! another process writes to the file is noticed within [`POLL`].
//!
//! Reads go to two threads with connections of their own, which see the last commit (WAL).
//!
//! What a request does is one transaction a step: [`Engine::accept`] writes the record and the message,
//! [`Engine::conclude`] the outcome, the announcement and the deletion.
//!
//! # Limits
//! SQLite itself takes values of up to 1 GB. A message may have 1 MiB, as on SQS; a record 8 MiB, its
//! outcome as much again (DynamoDB: 400 KB); a receipt 64 MiB, because a larger one would hold up every
//! other commit. The store keeps its last 10,000 changes, messages live for 4 days, dead letters for 14,
//! and the tombstone of an expired record for 30.

mod mailbox;
mod reader;
mod schema;
mod writer;

pub(crate) use writer::{Claim, NewWatch, Order, Taken, Tx};

use crate::{
    clock::{Clock, SystemClock},
    config::Durability,
    engine::{Assembled, Conclusion, Engine, StepError},
    queue::{
        Queue, QueueError, QueueName, Queues,
        sqlite::{SqliteQueue, put_message, remove_message},
    },
    records::{
        Created, Finished, NewRecord, Records,
        sqlite::{SqliteRecords, create_record, finish_record},
    },
    store::{Store, sqlite::SqliteStore},
};
use async_trait::async_trait;
use bytes::Bytes;
use mailbox::Mailbox;
use reader::Read;
use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

/// How late another process's writes may be noticed.
pub const POLL: Duration = Duration::from_millis(200);

/// Threads that read.
const READERS: usize = 2;

/// What an engine is opened with.
#[derive(Clone, Debug)]
pub struct Options {
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// The time by which leases end.
    pub clock: Arc<dyn Clock>,
    /// How often a message is received before it is put aside.
    pub max_receives: u32,
    /// The largest message.
    pub message_bytes_max: usize,
    /// The largest record, and the largest outcome.
    pub record_bytes_max: usize,
    /// The largest receipt.
    pub receipt_bytes_max: usize,
    /// How many changes of the store are kept for watches that begin in the past.
    pub changes_kept: u32,
    /// How far a watch may fall behind before it ends.
    pub watch_capacity: usize,
    /// How long a message lives that nobody deletes.
    pub message_retention: Duration,
    /// How long a dead letter lives.
    pub dead_letter_retention: Duration,
    /// How long an expired record's id is known to be gone.
    pub tombstone_retention: Duration,
    /// How long a commit waits for another process's, before it fails.
    pub busy_timeout: Duration,
    /// The largest database in pages of 4 KiB; past it what is written is refused as unavailable.
    pub file_pages_max: Option<u32>,
}

impl Options {
    /// The defaults, with this durability.
    #[must_use]
    pub fn new(durability: Durability) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self {
            durability,
            clock: Arc::new(SystemClock::default()),
            max_receives: 5,
            message_bytes_max: 1 << 20,
            record_bytes_max: 8 << 20,
            receipt_bytes_max: 64 << 20,
            changes_kept: 10_000,
            watch_capacity: 1024,
            message_retention: 4 * DAY,
            dead_letter_retention: 14 * DAY,
            tombstone_retention: 30 * DAY,
            busy_timeout: Duration::from_secs(5),
            file_pages_max: None,
        }
    }
}

/// The embedded engine.
///
/// ```
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use quorate::{config::Durability, engine::Engine, queue::QueueName, sqlite::SqliteEngine};
/// use std::time::Duration;
///
/// # let folder = tempfile::tempdir()?;
/// let engine = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process)?;
/// let inbound = engine.queue(&QueueName::inbound()).await?;
/// inbound.send(vec!["look".into()]).await?;
/// let got = inbound.receive(10, Duration::from_secs(2), Duration::from_secs(1)).await?;
/// assert_eq!(got[0].body, "look");
/// # Ok(())
/// # }
/// # tokio::runtime::Runtime::new().unwrap().block_on(example()).unwrap();
/// ```
pub struct SqliteEngine {
    core: Arc<Core>,
    records: SqliteRecords,
    store: SqliteStore,
    queues: Mutex<HashMap<QueueName, Arc<SqliteQueue>>>,
}

impl SqliteEngine {
    /// Opens the file, making it when there is none.
    ///
    /// # Errors
    /// When the file can't be opened, or is not one of ours.
    pub fn open(path: &Path, durability: Durability) -> Result<Arc<Self>, OpenError> {
        Self::open_with(path, Options::new(durability))
    }

    /// Opens the file with other options than the defaults.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_with(path: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        let core = Core::start(path, options)?;
        Ok(Arc::new(Self {
            records: SqliteRecords { core: Arc::clone(&core) },
            store: SqliteStore { core: Arc::clone(&core) },
            queues: Mutex::default(),
            core,
        }))
    }

    /// The same in parts, for an engine that has some of them elsewhere.
    #[must_use]
    pub fn in_parts(self: &Arc<Self>) -> Assembled {
        Assembled {
            queues: Box::new(Arc::clone(self)),
            records: Box::new(SqliteRecords { core: Arc::clone(&self.core) }),
            store: Box::new(SqliteStore { core: Arc::clone(&self.core) }),
        }
    }

    async fn queue_of(&self, name: &QueueName) -> Result<Arc<SqliteQueue>, QueueError> {
        if let Some(known) = self.queues.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(known));
        }
        let queue = SqliteQueue::open(&self.core, name).await?;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Arc::clone(queues.entry(name.clone()).or_insert_with(|| Arc::new(queue))))
    }
}

#[async_trait]
impl Queues for Arc<SqliteEngine> {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        Ok(self.queue_of(name).await?)
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        Engine::queues(&**self).await
    }
}

#[async_trait]
impl Engine for SqliteEngine {
    async fn queue(&self, name: &QueueName) -> Result<Arc<dyn Queue>, QueueError> {
        Ok(self.queue_of(name).await?)
    }

    async fn queues(&self) -> Result<Vec<QueueName>, QueueError> {
        let names = self.core.read(|connection| {
            let mut names = connection.prepare_cached("SELECT name FROM queues ORDER BY name")?;
            names.query_map([], |row| Ok(QueueName::named(row.get_ref(0)?.as_str()?)))?.collect()
        });
        names.await.map_err(|failed| failed.of_queue(&QueueName::named("*")))
    }

    fn records(&self) -> &dyn Records {
        &self.records
    }

    fn store(&self) -> &dyn Store {
        &self.store
    }

    async fn accept(
        &self,
        record: NewRecord,
        inbound: &dyn Queue,
        message: Bytes,
    ) -> Result<Created, StepError> {
        let inbound = self.queue_of(inbound.name()).await?;
        inbound.check(&message)?;
        let record = self.records.prepare(record)?;
        let queue = inbound.id;
        let step = self.core.write(record.bytes() + message.len(), move |tx| {
            let created = create_record(tx, &record)?;
            if created == Created::New {
                put_message(tx, queue, &message)?;
            }
            Ok(created)
        });
        Ok(step.await.map_err(Unavailable::of_records)?)
    }

    async fn conclude(&self, end: Conclusion<'_>) -> Result<Finished, StepError> {
        let inbound = self.queue_of(end.inbound.name()).await?;
        let outbound = self.queue_of(end.outbound.name()).await?;
        outbound.check(&end.announcement)?;
        let ending = self.records.prepare_end(end.id, &end.outcome, end.receipt)?;
        let (announcement, handle) = (end.announcement, end.handle.clone());
        let (inbound, outbound) = (inbound.id, outbound.id);
        let step = self.core.write(ending.bytes() + announcement.len(), move |tx| {
            let finished = finish_record(tx, &ending)?;
            put_message(tx, outbound, &announcement)?;
            remove_message(tx, inbound, &handle)?;
            Ok(finished)
        });
        Ok(step.await.map_err(Unavailable::of_records)?)
    }
}

/// The threads, and what leads to them. It ends when the engine and all its queues are dropped: what was
/// ordered by then is still committed.
pub(crate) struct Core {
    pub(crate) options: Options,
    writer: Arc<Mailbox<Order>>,
    readers: Arc<Mailbox<Read>>,
    accepted: Arc<AtomicI64>,
    threads: Vec<JoinHandle<()>>,
}

impl Core {
    fn start(path: &Path, options: Options) -> Result<Arc<Self>, OpenError> {
        let accepted = Arc::default();
        let (writer, readers) = (Arc::new(Mailbox::new()), Arc::new(Mailbox::new()));
        let mut core = Self { options, writer, readers, accepted, threads: Vec::new() };
        core.threads.push(writer::spawn(path, &core.options, &core.writer, &core.accepted)?);
        for _ in 0..READERS {
            core.threads.push(reader::spawn(path, &core.options, &core.readers)?);
        }
        let bell = Arc::downgrade(&core.writer);
        core.options.clock.on_jump(Box::new(move || {
            if let Some(writer) = bell.upgrade() {
                writer.ring();
            }
        }));
        Ok(Arc::new(core))
    }

    /// Has something written; the answer comes once it is durable. `bytes` is about how much it holds.
    ///
    /// If `work` fails, none of it is written; it may be run again, so it must not depend on how often. A
    /// future that is dropped takes nothing back.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (call, answer) = writer::Call::new(work);
        self.order(bytes, Order::Call(Box::new(call))).await?;
        answer.await.map_err(|_| Unavailable::Ended)?
    }

    /// Has something read from the last commit.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&rusqlite::Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Unavailable> {
        let (to, answer) = tokio::sync::oneshot::channel();
        let read: Read = Box::new(move |connection| {
            let _ = to.send(work(connection)); // whoever asked may be gone
        });
        self.readers.put(0, read).await.map_err(|_| Unavailable::Ended)?;
        answer.await.map_err(|_| Unavailable::Ended)?.map_err(Unavailable::from)
    }

    /// Hands the writer an order.
    pub(crate) async fn order(&self, bytes: usize, order: Order) -> Result<(), Unavailable> {
        self.writer.put(bytes, order).await.map_err(|_| Unavailable::Ended)
    }

    /// Gives back messages that were taken for a receiver that went away.
    pub(crate) fn give_back(&self, queue: i64, taken: &[Taken]) {
        let receipts = taken.iter().map(|message| (message.id, message.receives)).collect();
        // When the writer has ended, their lease lapses: as good.
        let _ = self.writer.put_now(Order::GiveBack { queue, receipts });
    }

    /// How many records are accepted and not finished.
    pub(crate) fn accepted(&self) -> u64 {
        u64::try_from(self.accepted.load(Ordering::Relaxed)).unwrap_or(0)
    }

    /// The time.
    pub(crate) fn now_ms(&self) -> i64 {
        i64::try_from(self.options.clock.now_ms()).unwrap_or(i64::MAX)
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.writer.close();
        self.readers.close();
        for thread in self.threads.drain(..) {
            // One that panicked has said so on stderr, and its mailbox is closed.
            let _ = thread.join();
        }
    }
}

/// A duration as the file holds it: milliseconds, and no more than adding it to a time can bear.
pub(crate) fn ms(duration: Duration) -> i64 {
    const MAX: i64 = 1 << 50; // 35,000 years
    i64::try_from(duration.as_millis()).unwrap_or(MAX).min(MAX)
}

/// Why an engine could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The file is not a SQLite database.
    #[error("{} is not a database; move it away, or choose another data directory", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// The file is damaged.
    #[error("database {} is damaged; restore it, or move it away to begin anew", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
    },
    /// Another program's database.
    #[error("{} is a database of another program; choose another data directory", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// Written by another version of this program.
    #[error("database {} has version {version}, and this program knows {known}; use the program that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// Ours.
        known: i32,
    },
    /// It can't be opened.
    #[error("database {} can't be opened: {source}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The system gave no thread.
    #[error("the database's thread can't be started: {0}")]
    Thread(std::io::Error),
}

/// The engine did not do it, and nothing of it is written.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Unavailable {
    /// SQLite failed: the disk is full, the file can't be written, another process holds it.
    #[error("{0}")]
    Failed(Arc<rusqlite::Error>),
    /// The engine's threads have ended.
    #[error("the engine has ended")]
    Ended,
}

impl From<rusqlite::Error> for Unavailable {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(Arc::new(error))
    }
}
