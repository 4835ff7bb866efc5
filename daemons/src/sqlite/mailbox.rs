//! What waits for the engine's threads: async tasks put in, threads take out.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How much may wait at once, in [`WEIGHT_BYTES`]: 64 MiB, or 4,096 small orders.
const ROOM: usize = 4096;

/// One unit of weight.
const WEIGHT_BYTES: usize = 16 << 10;

/// A bounded queue between tasks that wait without blocking and threads that block.
///
/// A channel would do but for three needs at once: whoever puts must not block its thread, whoever takes
/// wants all that waits in one go, and must wake when a moment comes though nothing was put in.
pub(super) struct Mailbox<T> {
    state: Mutex<State<T>>,
    stirred: Condvar,
    room: Arc<Semaphore>,
}

struct State<T> {
    waiting: VecDeque<Posted<T>>,
    rung: bool,
    closed: bool,
}

/// An item, and the room that it takes until it is dropped.
pub(super) struct Posted<T> {
    pub(super) item: T,
    room: Option<OwnedSemaphorePermit>,
}

impl<T> Posted<T> {
    /// The item, and the room that it takes until that is dropped.
    pub(super) fn into_parts(self) -> (T, Option<OwnedSemaphorePermit>) {
        (self.item, self.room)
    }
}

/// The threads behind the mailbox have ended.
#[derive(Debug)]
pub(super) struct Closed;

impl<T> Mailbox<T> {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State { waiting: VecDeque::new(), rung: false, closed: false }),
            stirred: Condvar::new(),
            room: Arc::new(Semaphore::new(ROOM)),
        }
    }

    /// Puts an item in as soon as there is room for its `bytes`.
    pub(super) async fn put(&self, bytes: usize, item: T) -> Result<(), Closed> {
        let weight = u32::try_from((1 + bytes / WEIGHT_BYTES).min(ROOM)).expect("at most ROOM");
        let room = Arc::clone(&self.room).acquire_many_owned(weight).await.map_err(|_| Closed)?;
        self.post(Posted { item, room: Some(room) })
    }

    /// Puts an item in whether there is room or not: for the few that a destructor must leave.
    pub(super) fn put_now(&self, item: T) -> Result<(), Closed> {
        self.post(Posted { item, room: None })
    }

    fn post(&self, posted: Posted<T>) -> Result<(), Closed> {
        let mut state = self.lock();
        if state.closed {
            return Err(Closed);
        }
        state.waiting.push_back(posted);
        drop(state);
        self.stirred.notify_one();
        Ok(())
    }

    /// Waits up to `wait` for an item or a ring, then takes all there is; `None` once it is closed and
    /// empty.
    pub(super) fn take_all(&self, wait: Duration) -> Option<VecDeque<Posted<T>>> {
        let quiet = |state: &mut State<T>| state.waiting.is_empty() && !state.rung && !state.closed;
        let (mut state, _) =
            self.stirred.wait_timeout_while(self.lock(), wait, quiet).unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
        if state.closed && state.waiting.is_empty() { None } else { Some(std::mem::take(&mut state.waiting)) }
    }

    /// Waits for one item; `None` once it is closed and empty.
    pub(super) fn take(&self) -> Option<Posted<T>> {
        let quiet = |state: &mut State<T>| state.waiting.is_empty() && !state.closed;
        let mut state = self.stirred.wait_while(self.lock(), quiet).unwrap_or_else(PoisonError::into_inner);
        state.waiting.pop_front()
    }

    /// Wakes the thread though nothing was put in.
    pub(super) fn ring(&self) {
        self.lock().rung = true;
        self.stirred.notify_one();
    }

    /// Takes nothing more in; what waits is still taken out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.room.close();
        self.stirred.notify_all();
    }

    /// Closes and drops what waits: nobody will take it.
    pub(super) fn abandon(&self) {
        self.close();
        let waiting = std::mem::take(&mut self.lock().waiting);
        drop(waiting);
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Abandons a mailbox when its thread ends, by a panic too, so that nobody waits for it for ever.
pub(super) struct AbandonOnExit<T>(pub(super) Arc<Mailbox<T>>);

impl<T> Drop for AbandonOnExit<T> {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
