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

/// Something to be written, which is answered after the commit.
pub(crate) trait Command: Send {
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()>;
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
    work: Option<F>,
    done: Option<T>,
    to: oneshot::Sender<Result<T, Unavailable>>,
}

impl<F, T> Call<F, T> {
    pub(super) fn new(work: F) -> (Self, oneshot::Receiver<Result<T, Unavailable>>) {
        let (to, answer) = oneshot::channel();
        (Self { work: Some(work), done: None, to }, answer)
    }
}

impl<F, T> Command for Call<F, T>
where
    F: FnOnce(&mut Tx<'_>) -> rusqlite::Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &mut Tx<'_>) -> rusqlite::Result<()> {
        let work = self.work.take().expect("an order is run once");
        self.done = Some(work(tx)?);
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
        version: data_version(&connection).map_err(failed)?,
        told: newest_revision(&connection).map_err(failed)?,
        lease_ms: next_lease_ms(&connection).map_err(failed)?,
        sweep_ms: 0,
        rests: false,
        parked: BTreeMap::new(),
        watches: Vec::new(),
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
            if !orders.is_empty() || writer.is_due() {
                writer.commit(orders);
            }
            drop(room);
        }
    };
    std::thread::Builder::new().name("sqlite-write".into()).spawn(writes).map_err(OpenError::Thread)
}

struct Writer {
    connection: Connection,
    options: Options,

    /// Changes when another process has committed something.
    version: i64,
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
    /// Messages that were taken for receivers that were gone.
    given_back: Vec<Order>,

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

/// What is answered once a transaction has ended.
#[derive(Default)]
struct Answers {
    calls: Vec<Box<dyn Command>>,
    served: Vec<(Parked, Vec<Taken>)>,
    watches: Vec<NewWatch>,
}

impl Writer {
    /// Commits the orders in one transaction, with whatever else is due, and answers.
    fn commit(&mut self, orders: Vec<Order>) {
        let mut answers = Answers::default();
        let mut effects = Effects::default();
        let given_back = std::mem::take(&mut self.given_back);
        let orders = given_back.into_iter().chain(orders);
        let ended = self.transact(orders, &mut effects, &mut answers);
        match ended {
            Ok(foreign) => self.committed(foreign, effects, answers),
            Err(error) => self.failed(error, answers),
        }
    }

    /// Everything between BEGIN and COMMIT. Says whether another process has written since the last time.
    fn transact(
        &mut self,
        orders: impl Iterator<Item = Order>,
        effects: &mut Effects,
        answers: &mut Answers,
    ) -> Result<bool, Unavailable> {
        // Sort first: whatever happens, each order is answered.
        let mut given_back = Vec::new();
        for order in orders {
            match order {
                Order::Call(call) => answers.calls.push(call),
                Order::Receive(parked) => {
                    effects.queues.insert(parked.queue);
                    self.parked.entry(parked.queue).or_default().line.push_back(parked);
                }
                Order::GiveBack { queue, receipts } => given_back.push((queue, receipts)),
                Order::Watch(watch) => answers.watches.push(watch),
            }
        }
        execute(&self.connection, "BEGIN IMMEDIATE")?;
        let version = data_version(&self.connection)?;
        let foreign = std::mem::replace(&mut self.version, version) != version;
        if foreign {
            effects.queues.extend(self.parked.keys());
            effects.changes = changes_from(&self.connection, self.told.next())?;
            effects.leases = true;
        }
        let now_ms = now_ms(&*self.options.clock);
        let due = self.parked.iter().filter(|(_, waiters)| waiters.due_ms.is_some_and(|due| due <= now_ms));
        effects.queues.extend(due.map(|(queue, _)| *queue));

        let connection = &self.connection;
        let mut tx = Tx { connection, now_ms, effects, options: &self.options };
        // Upkeep that fails (the disk is full) is tried again later, and holds up nobody's order.
        let mut rests = false;
        if self.sweep_ms <= now_ms {
            self.sweep_ms = now_ms.saturating_add(ms(SWEEP));
            rests |= alone(&mut tx, sweep_messages).is_err();
        }
        if foreign || self.lease_ms.is_some_and(|ends| ends <= now_ms) {
            rests |= alone(&mut tx, end_leases).is_err();
        }
        for (queue, receipts) in given_back {
            rests |= alone(&mut tx, |tx| give_back(tx, queue, &receipts)).is_err();
        }
        self.rests = rests;
        let mut run = Vec::with_capacity(answers.calls.len());
        let mut waiting = std::mem::take(&mut answers.calls).into_iter();
        let mut broken = None;
        for mut call in waiting.by_ref() {
            match alone(&mut tx, |tx| call.run(tx)) {
                Ok(()) => run.push(call),
                Err(error) if connection.is_autocommit() => {
                    // SQLite ended the whole transaction (the disk is full, …): nothing of it stands.
                    run.push(call);
                    broken = Some(error);
                    break;
                }
                Err(error) => call.answer(Err(error.into())),
            }
        }
        answers.calls = run;
        answers.calls.extend(waiting);
        if let Some(error) = broken {
            return Err(error.into());
        }
        for queue in std::mem::take(&mut tx.effects.queues) {
            if let Some(waiters) = self.parked.get_mut(&queue) {
                waiters.serve(&mut tx, queue, &mut answers.served)?;
            }
        }
        self.parked.retain(|_, waiters| !waiters.line.is_empty());
        execute(connection, "COMMIT")?;
        Ok(foreign)
    }

    fn committed(&mut self, foreign: bool, effects: Effects, answers: Answers) {
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
        for (parked, taken) in answers.served {
            let queue = parked.queue;
            if let Err(Ok(taken)) = parked.to.send(Ok(taken))
                && !taken.is_empty()
            {
                let receipts = taken.iter().map(|message| (message.id, message.receives)).collect();
                self.given_back.push(Order::GiveBack { queue, receipts });
            }
        }
        for call in answers.calls {
            call.answer(Ok(()));
        }
        for watch in answers.watches {
            self.watch(watch);
        }
    }

    /// Undoes the transaction and says so to everyone who had a part in it.
    fn failed(&mut self, error: Unavailable, answers: Answers) {
        if !self.connection.is_autocommit() {
            // Should even this fail, the next BEGIN fails too, and says so to those who ask then.
            let _ = execute(&self.connection, "ROLLBACK");
        }
        self.rests = true;
        // What was read from another process's commits was not told: read it again. So with all that was
        // to be due.
        self.version = i64::MIN;
        for (parked, _) in answers.served {
            let _ = parked.to.send(Err(error.clone()));
        }
        for call in answers.calls {
            call.answer(Err(error.clone()));
        }
        for watch in answers.watches {
            let _ = watch.to.send(Err(error.clone()));
        }
        for (_, waiters) in std::mem::take(&mut self.parked) {
            for parked in waiters.line {
                let _ = parked.to.send(Err(error.clone()));
            }
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

    /// Whether there is something to do without an order. An error is for the transaction to meet.
    fn is_due(&self) -> bool {
        let now_ms = now_ms(&*self.options.clock);
        let mut dues = self.parked.values().filter_map(|waiters| waiters.due_ms).chain(self.lease_ms);
        !self.given_back.is_empty()
            || self.sweep_ms <= now_ms
            || dues.any(|due| due <= now_ms)
            || !data_version(&self.connection).is_ok_and(|version| version == self.version)
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

/// Runs a part of the transaction such that its failure undoes that part and no other.
fn alone(tx: &mut Tx<'_>, part: impl FnOnce(&mut Tx<'_>) -> rusqlite::Result<()>) -> rusqlite::Result<()> {
    let (changes, accepted) = (tx.effects.changes.len(), tx.effects.accepted);
    execute(tx.connection, "SAVEPOINT part")?;
    if let Err(error) = part(tx) {
        // A queue that was touched and is not is looked at in vain, which harms nobody.
        tx.effects.changes.truncate(changes);
        tx.effects.accepted = accepted;
        if !tx.connection.is_autocommit() {
            execute(tx.connection, "ROLLBACK TO part")?;
            execute(tx.connection, "RELEASE part")?;
        }
        return Err(error);
    }
    execute(tx.connection, "RELEASE part")
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
