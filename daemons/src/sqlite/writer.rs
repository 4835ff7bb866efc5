//! The thread that writes: orders in, one transaction for all that wait, then answers.

use super::{
    Core, OpenError, Options, POLL, Unavailable,
    mailbox::{AbandonOnExit, Mailbox},
    ms, schema,
};
use crate::{
    clock::Clock,
    queue::sqlite::{MessageId, due_ms, give_back, sweep_messages, take_messages},
    records::sqlite::count_accepted,
    store::{
        Change, Revision, StoreError, Watch,
        sqlite::{changes_from, end_leases, newest_revision, next_lease_ms, oldest_revision},
    },
};
use bytes::Bytes;
use rusqlite::Connection;
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tokio::sync::{mpsc, oneshot};

/// How often messages past their retention are removed.
const SWEEP: Duration = Duration::from_secs(3600);

/// What the writer is asked.
pub(crate) enum Order {
    /// Something to be written.
    Call(Box<dyn Command>),
    /// Somebody waits for messages.
    Receive(Parked),
    /// Messages were taken for somebody who did not wait for them.
    GiveBack {
        /// Their queue.
        queue: i64,
        /// Each with the count of its receipt.
        receipts: Vec<(MessageId, u32)>,
    },
    /// Somebody wants to be told of changes.
    Watch(NewWatch),
}

/// Something to be written.
pub(crate) trait Command: Send {
    /// Writes it. Again, when a transaction with it was undone.
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;

    /// Answers, after the commit.
    fn answer(self: Box<Self>, end: Result<(), Unavailable>);
}

/// The transaction, as an order sees it.
pub(crate) struct Tx<'a> {
    /// Inside the transaction.
    pub(crate) connection: &'a Connection,
    /// The time of the whole transaction.
    pub(crate) now_ms: i64,
    /// What is to be told after the commit.
    pub(crate) effects: &'a mut Effects,
    /// What the engine was opened with.
    pub(crate) options: &'a Options,
}

/// What a transaction changed that somebody may wait for.
#[derive(Default)]
pub(crate) struct Effects {
    /// Queues that have something to receive that they had not.
    pub(crate) queues: BTreeSet<i64>,
    /// Changes of the store, in order.
    pub(crate) changes: Vec<Change>,
    /// Records accepted less records finished.
    pub(crate) accepted: i64,
    /// Whether leases of the store were granted, renewed or ended.
    pub(crate) leases: bool,
}

/// A message taken for a receiver.
pub(crate) struct Taken {
    pub(crate) id: MessageId,
    pub(crate) receives: u32,
    pub(crate) body: Bytes,
}

/// Somebody who waits for messages.
pub(crate) struct Parked {
    pub(crate) queue: i64,
    pub(crate) max: usize,
    pub(crate) lease_ms: i64,
    /// Whether it waits when there is none.
    pub(crate) waits: bool,
    pub(crate) to: oneshot::Sender<Result<Vec<Taken>, Unavailable>>,
}

/// Somebody who wants to be told of changes.
pub(crate) struct NewWatch {
    pub(crate) prefix: String,
    pub(crate) from: Revision,
    pub(crate) to: oneshot::Sender<Result<Watch, Unavailable>>,
}

/// The waiting end of a [`Parked`]: what was taken for it and never looked at is given back, so that a
/// receive that is cancelled holds up nothing.
pub(crate) struct Claim<'a> {
    core: &'a Core,
    queue: i64,
    taken: oneshot::Receiver<Result<Vec<Taken>, Unavailable>>,
}

impl<'a> Claim<'a> {
    pub(crate) async fn park(
        core: &'a Core,
        queue: i64,
        max: usize,
        lease: Duration,
        wait: Duration,
    ) -> Result<Self, Unavailable> {
        let (to, taken) = oneshot::channel();
        let parked = Parked { queue, max, lease_ms: ms(lease), waits: !wait.is_zero(), to };
        core.order(0, Order::Receive(parked)).await?;
        Ok(Self { core, queue, taken })
    }

    /// What was taken, once there is something or `wait` is over.
    pub(crate) async fn taken(mut self, wait: Duration) -> Result<Vec<Taken>, Unavailable> {
        if wait.is_zero() {
            return (&mut self.taken).await.map_err(|_| Unavailable::Ended)?;
        }
        match tokio::time::timeout(wait, &mut self.taken).await {
            Ok(taken) => taken.map_err(|_| Unavailable::Ended)?,
            Err(_) => {
                // It may have been served in this very moment: then that is the answer.
                self.taken.close();
                self.taken.try_recv().unwrap_or_else(|_| Ok(Vec::new()))
            }
        }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.taken.close();
        if let Ok(Ok(taken)) = self.taken.try_recv() {
            self.core.give_back(self.queue, &taken);
        }
    }
}

/// A closure as a command.
pub(super) struct Call<F, T> {
    work: F,
    done: Option<T>,
    to: oneshot::Sender<Result<T, Unavailable>>,
}

impl<F, T> Call<F, T> {
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, Unavailable>>) {
        let (to, answer) = oneshot::channel();
        (Self { work, done: None, to }, answer)
    }
}

impl<F, T> Command for Call<F, T>
where
    F: FnMut(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        self.done = Some((self.work)(tx)?);
        Ok(())
    }

    fn answer(self: Box<Self>, end: Result<(), Unavailable>) {
        let Self { done, to, .. } = *self;
        let answer = end.map(|()| done.expect("what was committed was run"));
        let _ = to.send(answer); // whoever asked may be gone
    }
}

pub(super) fn spawn(
    path: &Path,
    options: &Options,
    mailbox: &Arc<Mailbox<Order>>,
    accepted: &Arc<AtomicI64>,
) -> Result<JoinHandle<()>, OpenError> {
    let connection = schema::open_writer(path, options, now_ms(&*options.clock))?;
    let failed = |source| OpenError::Failed { path: path.into(), source };
    let mut writer = Writer {
        version: Some(data_version(&connection).map_err(failed)?),
        told: newest_revision(&connection).map_err(failed)?,
        lease_ms: next_lease_ms(&connection).map_err(failed)?,
        sweep_ms: 0,
        rests: false,
        parked: BTreeMap::new(),
        watches: Vec::new(),
        unserved: BTreeSet::new(),
        given_back: Vec::new(),
        accepted: Arc::clone(accepted),
        options: options.clone(),
        connection,
    };
    accepted.store(count_accepted(&writer.connection).map_err(failed)?, Ordering::Relaxed);
    let mailbox = Arc::clone(mailbox);
    let writes = move || {
        let mailbox = AbandonOnExit(mailbox);
        while let Some(orders) = mailbox.0.take_all(writer.until_due()) {
            let (orders, room): (Vec<_>, Vec<_>) =
                orders.into_iter().map(|posted| posted.into_parts()).unzip();
            writer.carry_out(orders);
            drop(room);
        }
    };
    std::thread::Builder::new().name("sqlite-write".into()).spawn(writes).map_err(OpenError::Thread)
}

struct Writer {
    connection: Connection,
    options: Options,

    /// Changes when another process has committed something; `None` when it is to be looked at anew.
    version: Option<i64>,
    /// The newest revision that watches were told of.
    told: Revision,
    /// When the next lease of the store ends.
    lease_ms: Option<i64>,
    /// When messages past their retention are next removed.
    sweep_ms: i64,

    /// Whether the last transaction failed: what is due is then tried again at the next poll, not at once.
    rests: bool,

    /// Who waits at which queue, in order of arrival.
    parked: BTreeMap<i64, Waiters>,
    /// Who is told of changes.
    watches: Vec<Watcher>,
    /// Queues at which somebody waits who was not served since something came.
    unserved: BTreeSet<i64>,
    /// Messages that were taken for receivers that were gone: their queue, and each with its receipt.
    given_back: Vec<(i64, Vec<(MessageId, u32)>)>,

    /// Records accepted and not finished, for everybody to read.
    accepted: Arc<AtomicI64>,
}

#[derive(Default)]
struct Waiters {
    line: VecDeque<Parked>,
    /// When the queue's next message becomes receivable.
    due_ms: Option<i64>,
}

struct Watcher {
    prefix: String,
    from: Revision,
    to: mpsc::Sender<Result<Change, StoreError>>,
}

/// What a transaction did, to be told now that it is committed.
struct Committed {
    effects: Effects,
    served: Vec<(Parked, Vec<Taken>)>,
    /// Whether another process has committed something since the last time.
    foreign: bool,
}

/// Why a transaction was undone.
enum Undone {
    /// What was asked of it failed.
    Work(Unavailable),
    /// It could not begin, serve or commit.
    Whole(Unavailable),
}

impl Writer {
    /// Does what was ordered and what is due.
    fn carry_out(&mut self, orders: Vec<Order>) {
        let (mut calls, mut watches) = (Vec::new(), Vec::new());
        for order in orders {
            match order {
                Order::Call(call) => calls.push(call),
                Order::Receive(parked) => {
                    self.unserved.insert(parked.queue);
                    self.parked.entry(parked.queue).or_default().line.push_back(parked);
                }
                Order::GiveBack { queue, receipts } => self.given_back.push((queue, receipts)),
                Order::Watch(watch) => watches.push(watch),
            }
        }
        self.rests = false;
        self.keep_up();
        if !calls.is_empty() {
            self.commit(calls);
        }
        if !self.unserved.is_empty() || !self.rests && self.foreign_writes() {
            self.commit(Vec::new());
        }
        for watch in watches {
            self.watch(watch);
        }
    }

    /// Does what is due by the clock. It has a transaction of its own: when it fails (the disk is full) it
    /// is tried again at the next poll, and holds up nobody's order.
    fn keep_up(&mut self) {
        let now_ms = now_ms(&*self.options.clock);
        let dues = self.parked.iter().filter(|(_, waiters)| waiters.due_ms.is_some_and(|due| due <= now_ms));
        self.unserved.extend(dues.map(|(queue, _)| *queue));
        let given_back = std::mem::take(&mut self.given_back);
        let sweeps = self.sweep_ms <= now_ms;
        if !sweeps && given_back.is_empty() && self.lease_ms.is_none_or(|ends| ends > now_ms) {
            return;
        }
        if sweeps {
            self.sweep_ms = now_ms.saturating_add(ms(SWEEP));
        }
        let kept_up = self.transact(|tx| {
            if sweeps {
                sweep_messages(tx)?;
            }
            end_leases(tx)?;
            given_back.iter().try_for_each(|(queue, receipts)| give_back(tx, *queue, receipts))
        });
        self.rests |= kept_up.is_err();
        match kept_up {
            Ok(committed) => self.committed(committed),
            // Messages that were not given back come back when their lease lapses.
            Err(Undone::Work(_)) => {}
            Err(Undone::Whole(error)) => self.failed(&error),
        }
    }

    /// Commits the calls in one transaction, and answers.
    ///
    /// When one fails, each is committed by itself, so that it takes none of its neighbours along. (A
    /// savepoint for each would cost every call for the sake of the few that fail, and would not do: a full
    /// disk makes SQLite undo the whole transaction.)
    fn commit(&mut self, mut calls: Vec<Box<dyn Command>>) {
        match self.transact(|tx| calls.iter_mut().try_for_each(|call| call.run(tx))) {
            Ok(committed) => {
                self.committed(committed);
                calls.into_iter().for_each(|call| call.answer(Ok(())));
            }
            Err(Undone::Work(error)) if calls.len() == 1 => {
                calls.into_iter().for_each(|call| call.answer(Err(error.clone())));
            }
            Err(Undone::Work(_)) => calls.into_iter().for_each(|call| self.commit(vec![call])),
            Err(Undone::Whole(error)) => {
                calls.into_iter().for_each(|call| call.answer(Err(error.clone())));
                self.failed(&error);
            }
        }
    }

    /// A transaction: the work, then serving those who wait for what is there now.
    fn transact(
        &mut self,
        work: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<()>,
    ) -> Result<Committed, Undone> {
        let mut committed = Committed { effects: Effects::default(), served: Vec::new(), foreign: false };
        let undone = match self.begin_to_commit(work, &mut committed) {
            Ok(()) => return Ok(committed),
            Err(undone) => undone,
        };
        if !self.connection.is_autocommit() {
            // Should even this fail, the next BEGIN fails too, and says so to those who ask then.
            let _ = execute(&self.connection, "ROLLBACK");
        }
        // What was read of another process's commits was not told: read it again.
        self.version = None;
        for (parked, _) in committed.served {
            let queue = parked.queue;
            self.parked.entry(queue).or_default().line.push_front(parked);
            self.unserved.insert(queue);
        }
        Err(undone)
    }

    fn begin_to_commit(
        &mut self,
        work: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<()>,
        committed: &mut Committed,
    ) -> Result<(), Undone> {
        let whole = |error: rusqlite::Error| Undone::Whole(error.into());
        let (connection, effects) = (&self.connection, &mut committed.effects);
        execute(connection, "BEGIN IMMEDIATE").map_err(whole)?;
        let version = Some(data_version(connection).map_err(whole)?);
        if self.version != version {
            self.version = version;
            committed.foreign = true;
            effects.changes = changes_from(connection, self.told.next()).map_err(whole)?;
            effects.leases = true;
            self.unserved.extend(self.parked.keys());
        }
        let now_ms = now_ms(&*self.options.clock);
        let mut tx = Tx { connection, now_ms, effects, options: &self.options };
        work(&mut tx).map_err(|error| Undone::Work(error.into()))?;
        self.unserved.append(&mut tx.effects.queues);
        for queue in std::mem::take(&mut self.unserved) {
            if let Some(waiters) = self.parked.get_mut(&queue) {
                waiters.serve(&mut tx, queue, &mut committed.served).map_err(whole)?;
            }
        }
        execute(connection, "COMMIT").map_err(whole)
    }

    fn committed(&mut self, committed: Committed) {
        let Committed { effects, served, foreign } = committed;
        self.parked.retain(|_, waiters| !waiters.line.is_empty());
        if foreign {
            if let Ok(accepted) = count_accepted(&self.connection) {
                self.accepted.store(accepted, Ordering::Relaxed);
            }
        } else if effects.accepted != 0 {
            self.accepted.fetch_add(effects.accepted, Ordering::Relaxed);
        }
        if effects.leases {
            // When it can't be read, the next poll looks again.
            self.lease_ms = next_lease_ms(&self.connection).unwrap_or(Some(0));
        }
        self.tell(effects.changes);
        for (parked, taken) in served {
            let queue = parked.queue;
            if let Err(Ok(taken)) = parked.to.send(Ok(taken))
                && !taken.is_empty()
            {
                let receipts = taken.iter().map(|message| (message.id, message.receives)).collect();
                self.given_back.push((queue, receipts));
            }
        }
    }

    /// Tells those who wait for messages that the engine is not available.
    fn failed(&mut self, error: &Unavailable) {
        self.rests = true;
        self.unserved.clear();
        for parked in std::mem::take(&mut self.parked).into_values().flat_map(|waiters| waiters.line) {
            let _ = parked.to.send(Err(error.clone()));
        }
    }

    /// Tells the watches what changed.
    fn tell(&mut self, changes: Vec<Change>) {
        let (Some(oldest), Some(newest)) = (changes.first(), changes.last()) else { return };
        if oldest.revision() > self.told.next() {
            // Another process changed more between two looks than is kept: watches missed something.
            for watch in self.watches.drain(..) {
                let _ = watch.to.try_send(Err(StoreError::Compacted(self.told.next())));
            }
        }
        let newest = newest.revision();
        self.watches.retain(|watch| watch.tell_all(&changes));
        self.told = newest;
    }

    /// Begins a watch: first what is past, then it is told with the others.
    fn watch(&mut self, new: NewWatch) {
        self.watches.retain(|watch| !watch.to.is_closed());
        let past = match self.past(new.from) {
            Ok(past) => past,
            Err(error) => {
                let _ = new.to.send(Err(error.into()));
                return;
            }
        };
        let held = past.as_ref().map_or(0, Vec::len);
        // One more than it may fall behind: the last place is for saying that it did.
        let (to, watch) = mpsc::channel(held + self.options.watch_capacity + 1);
        let watcher = Watcher { prefix: new.prefix, from: new.from, to };
        let live = match past {
            Some(past) => watcher.tell_all(&past),
            None => {
                let _ = watcher.to.try_send(Err(StoreError::Compacted(watcher.from)));
                false
            }
        };
        if new.to.send(Ok(watch)).is_ok() && live {
            self.watches.push(watcher);
        }
    }

    /// The changes from a revision on that watches were already told of; `None` when they are not kept.
    fn past(&self, from: Revision) -> rusqlite::Result<Option<Vec<Change>>> {
        if from > self.told {
            return Ok(Some(Vec::new()));
        }
        if from < oldest_revision(&self.connection)? {
            return Ok(None);
        }
        let mut past = changes_from(&self.connection, from)?;
        past.retain(|change| change.revision() <= self.told);
        Ok(Some(past))
    }

    /// How long there is nothing to do without an order.
    fn until_due(&self) -> Duration {
        if self.rests {
            return POLL;
        }
        if !self.given_back.is_empty() {
            return Duration::ZERO;
        }
        let now_ms = now_ms(&*self.options.clock);
        let dues = self.parked.values().filter_map(|waiters| waiters.due_ms).chain(self.lease_ms);
        let next = dues.map(|due| Duration::from_millis(u64::try_from(due - now_ms).unwrap_or(0))).min();
        next.map_or(POLL, |next| next.min(POLL))
    }

    /// Whether another process has committed something. An error is for the transaction to meet.
    fn foreign_writes(&self) -> bool {
        data_version(&self.connection).ok() != self.version
    }
}

impl Waiters {
    /// Gives what there is to those who wait, in order of arrival.
    fn serve(
        &mut self,
        tx: &mut Tx<'_>,
        queue: i64,
        served: &mut Vec<(Parked, Vec<Taken>)>,
    ) -> rusqlite::Result<()> {
        self.line.retain(|parked| !parked.to.is_closed());
        while let Some(first) = self.line.front() {
            let taken = take_messages(tx, queue, first.max, first.lease_ms)?;
            if taken.is_empty() {
                break;
            }
            served.extend(self.line.pop_front().map(|first| (first, taken)));
        }
        let line = std::mem::take(&mut self.line);
        let (waiting, done): (VecDeque<_>, VecDeque<_>) = line.into_iter().partition(|parked| parked.waits);
        self.line = waiting;
        served.extend(done.into_iter().map(|parked| (parked, Vec::new())));
        self.due_ms = if self.line.is_empty() { None } else { due_ms(tx.connection, queue)? };
        Ok(())
    }
}

impl Watcher {
    /// Tells what it asked for; says whether it still listens.
    fn tell_all(&self, changes: &[Change]) -> bool {
        let mine = |change: &&Change| {
            change.revision() >= self.from && change.key().starts_with(self.prefix.as_str())
        };
        changes.iter().filter(mine).all(|change| self.tell(change))
    }

    fn tell(&self, change: &Change) -> bool {
        if self.to.capacity() > 1 {
            return self.to.try_send(Ok(change.clone())).is_ok();
        }
        // It has the last place free, for this. Only we send, so there never is less room than was seen.
        let _ = self.to.try_send(Err(StoreError::Compacted(change.revision())));
        false
    }
}

fn execute(connection: &Connection, sql: &str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(drop)
}

fn data_version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.prepare_cached("PRAGMA data_version")?.query_row([], |row| row.get(0))
}

fn now_ms(clock: &dyn Clock) -> i64 {
    i64::try_from(clock.now_ms()).unwrap_or(i64::MAX)
}
