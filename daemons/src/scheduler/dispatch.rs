//! Which operation goes to which worker, as a state machine: no clock, no socket, no task.
//!
//! An operation is in exactly one place: *waiting* in the lane of its function, *in flight* at a worker
//! under a tag, or gone (answered, given up, or spilled to its layer queue). The rules, as events:
//!
//! - upon a free slot and a waiting operation: the one with the longest remaining path goes to the worker
//!   of its function that has the fewest in flight; what one round gives a worker leaves as one batch;
//! - upon an outcome with a value: the slot is free and the operation gone. An outcome whose tag is not
//!   in flight is late: somebody else answered, or will; it is counted and ignored;
//! - upon BUSY: the operation waits again, and the worker gets nothing until it answered something or a
//!   moment has passed;
//! - upon UNAVAILABLE after the request's own deadline: the slot is free and the operation gone;
//! - upon UNAVAILABLE before that, a time-out, or the end of the worker: the operation waits again and goes to
//!   another worker if there is one. A worker that keeps failing is tried at growing intervals;
//! - upon more waiting than the lane holds: those with the shortest remaining path are spilled.
//!
//! A [`WorkerId`] is one life of one connection: a worker that restarts is another one, so that a late
//! word of the old life is never taken for the new one's.

use quorate_dag::Function;
use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap, VecDeque},
    time::{Duration, Instant},
};

/// One life of the connection to one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct WorkerId(pub(crate) u64);

/// One try of one operation at one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Tag(pub(crate) u64);

/// An operation to be dispatched; `T` says what it is and who waits for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Item<T> {
    pub(crate) function: Function,
    /// Cost of the longest path that remains from here; the longest goes first.
    pub(crate) rank: u64,
    /// When its operands were known.
    pub(crate) ready: Instant,
    /// Whether it may be put on its layer queue.
    pub(crate) spillable: bool,
    /// Tries that failed for a reason that may lie in the operation.
    pub(crate) failures: u8,
    pub(crate) payload: T,
}

/// What has to be done outside.
#[derive(Debug, PartialEq)]
pub(crate) enum Action<T> {
    /// Send these to the worker in one message; [`Dispatch::in_flight`] has what they are.
    Send { worker: WorkerId, tags: Vec<Tag> },
    /// Put these on the layer queue of the function.
    Spill { function: Function, items: Vec<Item<T>> },
    /// Too many tries failed: whoever waits for it has to be told.
    GiveUp(Item<T>),
}

/// What a worker said of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The operation has been decided: by a value or by an error of its own.
    Answered,
    /// The worker has as much in flight as it takes.
    Busy,
    /// The worker could not get an answer in time.
    Unavailable,
    /// There is no answer, and by now nobody waits for one: that says nothing of the worker.
    Expired,
}

/// A try that ended with an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Answered<T> {
    pub(crate) item: Item<T>,
    pub(crate) sent: Instant,
}

/// A try that is at a worker.
#[derive(Debug)]
pub(crate) struct InFlight<T> {
    pub(crate) item: Item<T>,
    pub(crate) worker: WorkerId,
    pub(crate) sent: Instant,
}

/// How the dispatcher behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// One try at one worker.
    pub(crate) operation: Duration,
    /// Failed tries after which an operation is given up.
    pub(crate) failures_max: u8,
    /// Waiting operations that a lane keeps, by function; more are spilled.
    pub(crate) hold: [usize; Function::ALL.len()],
}

/// How long a worker that said BUSY gets nothing, unless it answers something earlier.
const BUSY_PAUSE: Duration = Duration::from_millis(5);
/// How long a worker that failed gets nothing; doubles with each failure in a row, up to the next.
const FAILURE_PAUSE: Duration = Duration::from_millis(25);
const FAILURE_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The dispatcher's state.
///
/// Tell it with `offer`, `worker_*` and `on_*`; then take what is to be done from
/// [`poll_action`](Self::poll_action) until there is nothing more, and call
/// [`handle_timeout`](Self::handle_timeout) when [`poll_timeout`](Self::poll_timeout) has come.
#[derive(Debug)]
pub(crate) struct Dispatch<T> {
    settings: Settings,
    lanes: [Lane<T>; Function::ALL.len()],
    workers: BTreeMap<WorkerId, Worker>,
    in_flight: HashMap<Tag, InFlight<T>>,
    /// Tries in order of their start, and so of their time-outs; those that ended are passed over.
    tries: VecDeque<(Instant, Tag)>,
    given_up: Vec<Item<T>>,
    next_tag: u64,
    next_turn: u64,
    /// Outcomes of tries that nobody waits for any more.
    late: u64,
}

/// What waits for workers of one function.
#[derive(Debug)]
struct Lane<T> {
    /// By rank, highest first; then in order of arrival.
    waiting: BTreeMap<(Reverse<u64>, u64), Item<T>>,
    /// How many of them may be spilled.
    spillable: usize,
    /// When a worker of this function may be tried again that is not now.
    blocked_until: Option<Instant>,
}

#[derive(Debug)]
struct Worker {
    function: Function,
    slots: usize,
    in_flight: usize,
    /// Takes no new operations.
    draining: bool,
    /// Gets nothing before this.
    paused_until: Option<Instant>,
    /// Failures since its last answer.
    failures: u32,
}

impl Worker {
    fn free(&self, now: Instant) -> usize {
        if self.draining || self.paused_until.is_some_and(|until| now < until) {
            return 0;
        }
        self.slots.saturating_sub(self.in_flight)
    }
}

/// The place of a function in an array of all.
pub(crate) fn place(function: Function) -> usize {
    match function {
        Function::Add => 0,
        Function::Sub => 1,
        Function::Mul => 2,
        Function::Div => 3,
    }
}

impl<T> Dispatch<T> {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            lanes: std::array::from_fn(|_| Lane {
                waiting: BTreeMap::new(),
                spillable: 0,
                blocked_until: None,
            }),
            workers: BTreeMap::new(),
            in_flight: HashMap::new(),
            tries: VecDeque::new(),
            given_up: Vec::new(),
            next_tag: 0,
            next_turn: 0,
            late: 0,
        }
    }

    /// An operation is ready.
    pub(crate) fn offer(&mut self, item: Item<T>) {
        let lane = &mut self.lanes[place(item.function)];
        lane.spillable += usize::from(item.spillable);
        lane.waiting.insert((Reverse(item.rank), self.next_turn), item);
        self.next_turn += 1;
    }

    /// A worker is connected.
    pub(crate) fn worker_up(&mut self, id: WorkerId, function: Function, slots: usize) {
        let worker =
            Worker { function, slots, in_flight: 0, draining: false, paused_until: None, failures: 0 };
        let before = self.workers.insert(id, worker);
        assert!(before.is_none(), "a worker's id names one life");
    }

    /// A worker takes no new operations; what it has in flight goes on.
    pub(crate) fn worker_drains(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.draining = true;
        }
    }

    /// A worker is gone, or is not to be relied upon: what it had in flight waits again.
    pub(crate) fn worker_down(&mut self, id: WorkerId) {
        if self.workers.remove(&id).is_none() {
            return;
        }
        let mut lost: Vec<Tag> =
            self.in_flight.iter().filter(|(_, at)| at.worker == id).map(|(tag, _)| *tag).collect();
        lost.sort_unstable();
        for tag in lost {
            let at = self.in_flight.remove(&tag).expect("its tag was just listed");
            self.failed(at.item);
        }
    }

    /// A worker said something of a try. Returns the operation when it is decided, or expired.
    pub(crate) fn on_outcome(
        &mut self,
        now: Instant,
        worker: WorkerId,
        tag: Tag,
        verdict: Verdict,
    ) -> Option<Answered<T>> {
        // A tag that is in flight elsewhere is not this worker's to answer.
        if self.in_flight.get(&tag).is_none_or(|at| at.worker != worker) {
            self.late += 1;
            return None;
        }
        let at = self.in_flight.remove(&tag).expect("it was just found");
        let worker = self.workers.get_mut(&worker).expect("a worker in flight is up");
        worker.in_flight -= 1;
        match verdict {
            Verdict::Answered => {
                worker.paused_until = None;
                worker.failures = 0;
                Some(Answered { item: at.item, sent: at.sent })
            }
            Verdict::Expired => Some(Answered { item: at.item, sent: at.sent }),
            Verdict::Busy => {
                worker.pause(now + BUSY_PAUSE);
                self.offer(at.item);
                None
            }
            Verdict::Unavailable => {
                worker.failed(now);
                self.failed(at.item);
                None
            }
        }
    }

    /// Ends the tries that took too long. Their workers may still be at it: what they say is late.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        while let Some(&(sent, tag)) = self.tries.front() {
            if self.in_flight.contains_key(&tag) && now < sent + self.settings.operation {
                return;
            }
            self.tries.pop_front();
            if let Some(at) = self.in_flight.remove(&tag) {
                let worker = self.workers.get_mut(&at.worker).expect("a worker in flight is up");
                worker.in_flight -= 1;
                worker.failed(now);
                self.failed(at.item);
            }
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll_action`](Self::poll_action) are to be
    /// called again if nothing happens before.
    pub(crate) fn poll_timeout(&mut self) -> Option<Instant> {
        while let Some((_, tag)) = self.tries.front()
            && !self.in_flight.contains_key(tag)
        {
            self.tries.pop_front();
        }
        let attempt = self.tries.front().map(|(sent, _)| *sent + self.settings.operation);
        let blocked = self.lanes.iter().filter_map(|lane| lane.blocked_until);
        attempt.into_iter().chain(blocked).min()
    }

    /// What is to be done now. Operations that are no longer `wanted` are dropped instead.
    pub(crate) fn poll_action(
        &mut self,
        now: Instant,
        wanted: impl Fn(&T) -> bool,
        actions: &mut Vec<Action<T>>,
    ) {
        actions.extend(self.given_up.drain(..).filter(|item| wanted(&item.payload)).map(Action::GiveUp));
        for function in Function::ALL {
            self.dispatch_lane(function, now, &wanted, actions);
        }
    }

    fn dispatch_lane(
        &mut self,
        function: Function,
        now: Instant,
        wanted: &impl Fn(&T) -> bool,
        actions: &mut Vec<Action<T>>,
    ) {
        let lane = &mut self.lanes[place(function)];
        lane.blocked_until = None;
        if lane.waiting.is_empty() {
            return;
        }
        let mut open: Vec<(WorkerId, usize, usize, Vec<Tag>)> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.function == function)
            .filter_map(|(id, worker)| match worker.free(now) {
                0 => None,
                free => Some((*id, worker.in_flight, free, Vec::new())),
            })
            .collect();
        while let Some((id, in_flight, free, tags)) =
            open.iter_mut().filter(|open| open.2 > 0).min_by_key(|open| open.1)
        {
            let Some((_, item)) = lane.waiting.pop_first() else { break };
            lane.spillable -= usize::from(item.spillable);
            if !wanted(&item.payload) {
                continue;
            }
            let tag = Tag(self.next_tag);
            self.next_tag += 1;
            *in_flight += 1;
            *free -= 1;
            tags.push(tag);
            self.in_flight.insert(tag, InFlight { item, worker: *id, sent: now });
            self.tries.push_back((now, tag));
        }
        for (id, in_flight, _, tags) in open {
            if !tags.is_empty() {
                self.workers.get_mut(&id).expect("it was just listed").in_flight = in_flight;
                actions.push(Action::Send { worker: id, tags });
            }
        }
        if lane.waiting.is_empty() {
            return;
        }
        let pauses = self.workers.values().filter(|worker| worker.function == function && !worker.draining);
        lane.blocked_until =
            pauses.filter_map(|worker| worker.paused_until).filter(|until| now < *until).min();
        let items = lane.spill(self.settings.hold[place(function)], wanted);
        if !items.is_empty() {
            actions.push(Action::Spill { function, items });
        }
    }

    /// Operations of this function that could leave at once if they were there.
    pub(crate) fn credit(&self, now: Instant, function: Function) -> usize {
        let free: usize =
            self.workers.values().filter(|worker| worker.function == function).map(|w| w.free(now)).sum();
        free.saturating_sub(self.lanes[place(function)].waiting.len())
    }

    /// Whether operations wait for a function of which no worker would take them.
    pub(crate) fn is_starving(&self, function: Function) -> bool {
        !self.lanes[place(function)].waiting.is_empty() && !self.has_worker(function)
    }

    /// Whether a worker of this function is connected that is there to stay.
    pub(crate) fn has_worker(&self, function: Function) -> bool {
        self.workers.values().any(|worker| worker.function == function && !worker.draining)
    }

    /// A try that is at a worker.
    pub(crate) fn in_flight(&self, tag: Tag) -> Option<&InFlight<T>> {
        self.in_flight.get(&tag)
    }

    /// How many operations of this function are at workers.
    pub(crate) fn in_service(&self, function: Function) -> usize {
        self.workers.values().filter(|worker| worker.function == function).map(|w| w.in_flight).sum()
    }

    /// Outcomes that came too late to matter.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// A try failed for a reason that may lie in the operation.
    fn failed(&mut self, mut item: Item<T>) {
        item.failures = item.failures.saturating_add(1);
        if item.failures >= self.settings.failures_max {
            self.given_up.push(item);
        } else {
            self.offer(item);
        }
    }
}

impl<T> Lane<T> {
    /// Takes out what is over `hold`, shortest remaining path first.
    fn spill(&mut self, hold: usize, wanted: &impl Fn(&T) -> bool) -> Vec<Item<T>> {
        let over = self.waiting.len().saturating_sub(hold).min(self.spillable);
        if over == 0 {
            return Vec::new();
        }
        let keys: Vec<_> = self
            .waiting
            .iter()
            .rev()
            .filter(|(_, item)| item.spillable)
            .map(|(key, _)| *key)
            .take(over)
            .collect();
        self.spillable -= keys.len();
        let taken = keys.into_iter().map(|key| self.waiting.remove(&key).expect("the key was just listed"));
        taken.filter(|item| wanted(&item.payload)).collect()
    }
}

impl Worker {
    fn pause(&mut self, until: Instant) {
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
    }

    fn failed(&mut self, now: Instant) {
        if self.paused_until.is_some_and(|until| now < until) {
            return; // one trouble, seen by many operations
        }
        let pause = FAILURE_PAUSE.saturating_mul(1 << self.failures.min(10)).min(FAILURE_PAUSE_MAX);
        self.failures += 1;
        self.pause(now + pause);
    }
}

#[cfg(test)]
mod tests;
