//! The scheduler's heart: one task that owns the runs and the dispatcher, takes events in batches, and
//! hands effects to those who carry them out. Nothing in it waits but for the next event, so nothing in
//! it is locked.

use super::{
    ahead::{self, Due},
    dispatch::{Action, Answered, Dispatch, Item, Settings, Tag, Verdict, WorkerId, place},
    inbound::{self, Inbound, Room, Ticket, deadline_failure, failure},
    kept::{self, Keeping},
    layers::{LayerMessage, Layers, Taken},
    link::{Link, Operations, To, WorkerIds},
    meters::Meters,
    proof,
    work::{Evidence, Work},
};
use crate::{
    clock,
    config::Config,
    proto::{self, NodeOutcome, failure::Kind, outcome::Result as Said},
    records::{Failure, NodeRun, Outcome},
    set::{MemberState, SetRecord, SetState},
    tls::Name,
    wires::Wires,
};
use quorate_dag::{Costs, Function, NodeError, NodeId};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use uuid::Uuid;

/// Tries of one operation that may fail before its request does.
const FAILURES_MAX: u8 = 32;
/// How often the cluster service is asked for the first worker of a function.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How often learnt costs are handed to those who plan.
const COSTS_EVERY: Duration = Duration::from_secs(1);
/// Events that are handled before what they made possible is dispatched.
const EVENTS: usize = 512;

/// What the core is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// Requests that are planned.
    Start(Vec<Started>),
    /// A worker's connection lives.
    Up { set: Arc<str>, generation: u64, worker: WorkerId, operations: Operations },
    /// It ended.
    Down { worker: WorkerId },
    /// A worker answered.
    Outcomes { worker: WorkerId, outcomes: Vec<proto::Outcome> },
    /// All sets there are.
    Sets(Vec<SetRecord>),
    /// A set is new or has changed.
    Set(Box<SetRecord>),
    /// A set is gone.
    NoSet(String),
    /// Operations came from a layer queue.
    Taken { function: Function, taken: Vec<Taken> },
    /// Operations could not be put on their layer queue.
    NotSpilled(Vec<Item<Job>>),
    /// Another dispatcher executed nodes of our runs.
    Reported(Vec<NodeOutcome>),
    /// Requests that were accepted long ago.
    Overdue(Vec<Uuid>),
}

/// A request that is planned.
#[derive(Debug)]
pub(crate) struct Started {
    pub(super) ticket: Ticket,
    pub(super) work: Work,
    pub(super) accepted: Instant,
    pub(super) deadline: Instant,
    pub(super) deadline_ms: u64,
    pub(super) keeping: Keeping,
    pub(super) room: Room,
}

/// Who waits for an operation.
#[derive(Clone, Debug)]
pub(crate) enum Job {
    /// A run of ours.
    Own { run: Uuid, node: NodeId },
    /// The owner of a run, which is told by a report.
    Other(Box<Taken>),
}

/// A worker set as the store has it, and our connection to its worker.
#[derive(Debug)]
struct Set {
    name: Arc<str>,
    function: Function,
    /// The life of the worker that `link` leads to.
    address: Option<(String, u64)>,
    draining: bool,
    generation: u64,
    link: Option<Link>,
    worker: Option<WorkerId>,
}

/// A worker that is connected.
#[derive(Debug)]
struct Connected {
    set: Arc<str>,
    operations: Operations,
}

/// What the core needs of the rest of the scheduler.
pub(super) struct Surroundings {
    pub(super) config: Arc<Config>,
    pub(super) wires: Wires,
    /// Where this scheduler takes reports.
    pub(super) me: String,
    pub(super) inbound: Arc<Inbound>,
    pub(super) layers: Arc<Layers>,
    pub(super) meters: Arc<Meters>,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) costs: watch::Sender<Costs>,
    pub(super) credits: [watch::Sender<usize>; Function::ALL.len()],
    pub(super) scale: mpsc::UnboundedSender<Function>,
}

/// The scheduler's state.
pub(super) struct Core {
    around: Surroundings,
    runs: HashMap<Uuid, Started>,
    /// When each run has failed at the latest.
    deadlines: BTreeSet<(Instant, Uuid)>,
    dispatch: Dispatch<Job>,
    sets: HashMap<Arc<str>, Set>,
    workers: HashMap<WorkerId, Connected>,
    ids: WorkerIds,
    next_generation: u64,
    /// What other schedulers are to be told at the end of this round.
    reports: HashMap<(Function, String), Vec<(NodeOutcome, crate::queue::Handle)>>,
    asked: [Option<Instant>; Function::ALL.len()],
    costs: Costs,
    costs_told: Instant,
    /// When runs were last kept.
    kept: Instant,
    /// When it was last told what comes, and whether that was anything.
    ahead_told: (Instant, bool),
    late_seen: u64,
    /// Conclusions, spills and reports on their way.
    tasks: JoinSet<()>,
}

impl Core {
    pub(super) fn new(around: Surroundings) -> Self {
        let hold = Function::ALL.map(|function| {
            let slots = slots(&around.config, function);
            // Enough to fill what frees up while a message comes back from the layer.
            (slots / 4).max(1)
        });
        let settings =
            Settings { operation: around.config.timeouts.operation, failures_max: FAILURES_MAX, hold };
        Self {
            around,
            runs: HashMap::new(),
            deadlines: BTreeSet::new(),
            dispatch: Dispatch::new(settings),
            sets: HashMap::new(),
            workers: HashMap::new(),
            ids: WorkerIds::default(),
            next_generation: 0,
            reports: HashMap::new(),
            asked: [None; Function::ALL.len()],
            costs: Costs::default(),
            costs_told: Instant::now(),
            kept: Instant::now(),
            ahead_told: (Instant::now(), false),
            late_seen: 0,
            tasks: JoinSet::new(),
        }
    }

    /// Handles events until the shutdown, then lets what is being concluded end.
    pub(super) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut batch = Vec::with_capacity(EVENTS);
        loop {
            let wake = self.wake();
            tokio::select! {
                _ = events.recv_many(&mut batch, EVENTS) => {}
                () = tokio::time::sleep_until(wake.into()) => {}
                _ = shutdown.wait_for(|end| *end) => break,
            }
            let now = Instant::now();
            for event in batch.drain(..) {
                self.on_event(now, event);
            }
            self.on_time(now);
            self.flush(now);
            while self.tasks.try_join_next().is_some() {}
        }
        drop(events);
        let rest = async { while self.tasks.join_next().await.is_some() {} };
        // What is not concluded by then comes back to another scheduler.
        let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
    }

    /// When there is something to do if nothing happens before.
    fn wake(&mut self) -> Instant {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let starving = Function::ALL.into_iter().filter(|function| self.dispatch.is_starving(*function));
        let ask = starving.filter_map(|f| self.asked[place(f)].map(|at| at + ASK_AGAIN)).min();
        let keep = (!self.runs.is_empty()).then(|| self.kept + kept::EVERY);
        let tell = self.tells_ahead().then(|| self.ahead_told.0 + ahead::WIDTH);
        let far = Instant::now() + Duration::from_secs(3600);
        deadline
            .into_iter()
            .chain(keep)
            .chain(tell)
            .chain(self.dispatch.poll_timeout())
            .chain(ask)
            .min()
            .unwrap_or(far)
    }

    fn on_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Start(started) => started.into_iter().for_each(|started| self.on_start(now, started)),
            Event::Up { set, generation, worker, operations } => {
                self.on_up(&set, generation, worker, operations);
            }
            Event::Down { worker } => self.on_down(worker),
            Event::Outcomes { worker, outcomes } => {
                for outcome in outcomes {
                    self.on_outcome(now, worker, outcome);
                }
            }
            Event::Sets(records) => self.on_sets(records),
            Event::Set(record) => self.on_set(*record),
            Event::NoSet(name) => self.on_no_set(&name),
            Event::Taken { function, taken } => self.on_taken(now, function, taken),
            Event::NotSpilled(items) => {
                for item in items {
                    self.dispatch.offer(Item { spillable: false, ..item });
                }
            }
            Event::Reported(outcomes) => outcomes.into_iter().for_each(|o| self.on_reported(now, o)),
            Event::Overdue(ids) => self.on_overdue(ids),
        }
    }

    fn on_start(&mut self, now: Instant, started: Started) {
        let id = started.ticket.id;
        if let Some(running) = self.runs.get_mut(&id) {
            // Our lease had lapsed and the message came back to us, or a repeat sent another: the run goes
            // on under the new one. The old receipt names nothing any more in the first case; in the
            // second its message would come back, again and again, until it is a dead letter.
            let old = std::mem::replace(&mut running.ticket.handle, started.ticket.handle);
            if started.ticket.reply_to.is_some() {
                running.ticket.reply_to = started.ticket.reply_to;
            }
            if old != running.ticket.handle {
                let inbound = Arc::clone(&self.around.inbound);
                self.tasks.spawn(async move { inbound.discard(&old).await });
            }
            return;
        }
        // All of them at once: the later waves' workers start while the first wave runs.
        for function in started.work.functions() {
            if !self.dispatch.has_worker(function) {
                self.ask(now, function);
            }
        }
        self.deadlines.insert((started.deadline, id));
        self.runs.insert(id, started);
        self.advance(now, id);
    }

    /// Offers what is ready of a run, or concludes it.
    fn advance(&mut self, now: Instant, id: Uuid) {
        let Some(running) = self.runs.get_mut(&id) else { return };
        while let Some(node) = running.work.start_next() {
            let function = running.work.function(node);
            self.around.meters.arrived(function);
            self.dispatch.offer(Item {
                function,
                rank: running.work.rank(node),
                ready: now,
                spillable: true,
                failures: 0,
                payload: Job::Own { run: id, node },
            });
        }
        if let Some(outcome) = running.work.outcome() {
            let running = self.end(id).expect("it was just found");
            self.conclude(now, running, outcome.map(Some));
        }
    }

    /// A run leaves; what it has at workers and in lanes is nobody's from now on.
    fn end(&mut self, id: Uuid) -> Option<Started> {
        let running = self.runs.remove(&id)?;
        self.deadlines.remove(&(running.deadline, id));
        Some(running)
    }

    fn abort(&mut self, now: Instant, id: Uuid, failure: Failure) {
        if let Some(running) = self.end(id) {
            self.conclude(now, running, Err(failure));
        }
    }

    fn conclude(
        &mut self,
        now: Instant,
        mut running: Started,
        result: Result<Option<quorate_dag::Value>, Failure>,
    ) {
        let elapsed = now.saturating_duration_since(running.accepted);
        let inbound = Arc::clone(&self.around.inbound);
        self.tasks.spawn(async move {
            // Printing a big number and a big receipt is work that must not keep the core.
            let (result, receipt) = match result {
                Ok(value) => {
                    let value = value.expect("a run that did not fail has its value");
                    let text = running.work.text(&value);
                    match proof::receipt(&running.work, &text) {
                        Ok(receipt) => (Ok(text), receipt),
                        Err(failure) => (Err(failure), None),
                    }
                }
                Err(failure) => (Err(failure), None),
            };
            let outcome = Outcome {
                result,
                nodes: u32::try_from(running.work.nodes()).unwrap_or(u32::MAX),
                elapsed_ms: elapsed.as_secs_f64() * 1e3,
                timeline: running.work.take_timeline(),
            };
            running.keeping.end(inbound.engine().store(), running.ticket.id).await;
            inbound.conclude(&running.ticket, outcome, receipt).await;
            // Only now is there room for another.
            drop(running.room);
        });
    }

    fn on_outcome(&mut self, now: Instant, worker: WorkerId, outcome: proto::Outcome) {
        let verdict = match &outcome.result {
            Some(Said::Value(_)) => Verdict::Answered,
            Some(Said::Failure(failure)) => match failure.kind() {
                Kind::DivisionByZero | Kind::Overflow | Kind::Invalid => Verdict::Answered,
                Kind::Busy => Verdict::Busy,
                // It had as long as the request had left.
                Kind::Unavailable if self.is_over(now, Tag(outcome.tag)) => Verdict::Expired,
                Kind::Unavailable | Kind::Unspecified => Verdict::Unavailable,
            },
            None => Verdict::Unavailable,
        };
        let answered = self.dispatch.on_outcome(now, worker, Tag(outcome.tag), verdict);
        if matches!(verdict, Verdict::Busy | Verdict::Unavailable) {
            self.around.meters.retried(1);
        }
        let Some(Answered { item, sent }) = answered else { return };
        if verdict == Verdict::Expired {
            if let Job::Other(taken) = item.payload {
                let layers = Arc::clone(&self.around.layers);
                self.tasks.spawn(async move { layers.discard(item.function, vec![taken.handle]).await });
            }
            return;
        }
        let set = match self.workers.get(&worker) {
            Some(connected) => Arc::clone(&connected.set),
            None => return,
        };
        let function = item.function;
        let service = now.saturating_duration_since(sent);
        self.around.meters.answered(function, service, now.saturating_duration_since(item.ready));
        self.costs.observe(function.id(), service);
        match item.payload {
            Job::Own { run, node } => self.on_node(now, run, node, sent, &set, outcome),
            Job::Other(taken) => {
                let report = NodeOutcome {
                    request: taken.message.request.to_string(),
                    node: taken.message.node,
                    outcome: Some(outcome),
                    set: set.to_string(),
                };
                let owner = taken.message.owner;
                self.reports.entry((function, owner)).or_default().push((report, taken.handle));
            }
        }
    }

    /// Whether nobody waits any more for what is in flight under this tag, or only for as long as was cut
    /// off when a worker was told in milliseconds how long it has.
    fn is_over(&self, now: Instant, tag: Tag) -> bool {
        let soon = Duration::from_millis(1);
        match self.dispatch.in_flight(tag).map(|at| &at.item.payload) {
            Some(Job::Own { run, .. }) => self.runs.get(run).is_none_or(|run| run.deadline <= now + soon),
            Some(Job::Other(taken)) => taken.message.deadline_ms <= clock::epoch_ms() + 1,
            None => false,
        }
    }

    /// A node of a run of ours is decided.
    fn on_node(
        &mut self,
        now: Instant,
        id: Uuid,
        node: NodeId,
        sent: Instant,
        set: &Arc<str>,
        outcome: proto::Outcome,
    ) {
        let Some(running) = self.runs.get_mut(&id) else { return };
        let since = |at: Instant| at.saturating_duration_since(running.accepted).as_secs_f64() * 1e3;
        let ran =
            NodeRun { node: node.get(), set: set.to_string(), start_ms: since(sent), end_ms: since(now) };
        match outcome.result {
            Some(Said::Value(value)) => {
                if running.work.value(node).is_some() {
                    return; // the first answer counts
                }
                if !running.work.complete(node, &value) {
                    let detail = format!("set {set} answered node {node} with what is no value");
                    return self.abort(now, id, failure("internal", detail));
                }
                if running.work.wants_receipt() {
                    let (receipt, chain) = (outcome.receipt, outcome.chain);
                    let evidence = Evidence { set: Arc::clone(set), receipt, chain };
                    running.work.proven(node, evidence);
                }
            }
            Some(Said::Failure(said)) => match said.kind() {
                Kind::DivisionByZero => running.work.fail(node, NodeError::DivisionByZero),
                Kind::Overflow => running.work.fail(node, running.work.overflow()),
                _ => {
                    let detail = format!("set {set} refused node {node}: {}", said.detail);
                    return self.abort(now, id, failure("internal", detail));
                }
            },
            None => return,
        }
        running.work.ran(ran);
        self.advance(now, id);
    }

    fn on_reported(&mut self, now: Instant, reported: NodeOutcome) {
        let Ok(id) = Uuid::parse_str(&reported.request) else {
            tracing::warn!(request = %reported.request, "a report names no request");
            return;
        };
        // A run that has ended, or that a scheduler before us owned: the report is dropped.
        let Some(running) = self.runs.get(&id) else { return };
        let (Some(outcome), true) = (reported.outcome, (reported.node as usize) < running.work.nodes())
        else {
            tracing::warn!(request = %id, node = reported.node, "a report makes no sense");
            return;
        };
        let set: Arc<str> = reported.set.into();
        self.on_node(now, id, NodeId::new(reported.node), now, &set, outcome);
    }

    fn on_taken(&mut self, now: Instant, function: Function, taken: Vec<Taken>) {
        let now_ms = clock::epoch_ms();
        let mut stale = Vec::new();
        for operation in taken {
            let ours_is_over = operation.message.owner == self.around.me
                && !self.runs.contains_key(&operation.message.request);
            if operation.message.deadline_ms <= now_ms || ours_is_over {
                stale.push(operation.handle);
                continue;
            }
            self.dispatch.offer(Item {
                function,
                rank: operation.message.rank,
                ready: now,
                spillable: false,
                failures: 0,
                payload: Job::Other(Box::new(operation)),
            });
        }
        if !stale.is_empty() {
            let layers = Arc::clone(&self.around.layers);
            self.tasks.spawn(async move { layers.discard(function, stale).await });
        }
    }

    /// Requests that have been accepted for long and that nobody here works on are sent again.
    fn on_overdue(&mut self, mut ids: Vec<Uuid>) {
        ids.retain(|id| !self.runs.contains_key(id));
        if !ids.is_empty() {
            let inbound = Arc::clone(&self.around.inbound);
            self.tasks.spawn(async move { inbound.send_again(ids).await });
        }
    }

    fn on_up(&mut self, name: &Arc<str>, generation: u64, worker: WorkerId, operations: Operations) {
        // A link that was dropped may have had this on its way.
        let Some(set) = self.sets.get_mut(name).filter(|set| set.generation == generation) else { return };
        self.dispatch.worker_up(worker, set.function, slots(&self.around.config, set.function));
        if set.draining {
            self.dispatch.worker_drains(worker);
        }
        set.worker = Some(worker);
        self.asked[place(set.function)] = None;
        self.workers.insert(worker, Connected { set: Arc::clone(name), operations });
        tracing::info!(set = %name, "dispatching to this set");
    }

    fn on_down(&mut self, worker: WorkerId) {
        self.dispatch.worker_down(worker);
        let Some(connected) = self.workers.remove(&worker) else { return };
        if let Some(set) = self.sets.get_mut(&connected.set)
            && set.worker == Some(worker)
        {
            set.worker = None;
        }
        tracing::info!(set = %connected.set, "the connection to this set's worker ended");
    }

    fn on_sets(&mut self, records: Vec<SetRecord>) {
        let names: BTreeSet<&str> = records.iter().map(|record| &*record.name).collect();
        let gone: Vec<Arc<str>> =
            self.sets.keys().filter(|name| !names.contains(&***name)).cloned().collect();
        gone.iter().for_each(|name| self.on_no_set(name));
        records.into_iter().for_each(|record| self.on_set(record));
    }

    /// Dispatches to the set as its record says: to a worker that is ready, or not at all.
    fn on_set(&mut self, record: SetRecord) {
        let is_wanted = matches!(record.state, SetState::Ready | SetState::Draining)
            && record.worker.state == MemberState::Ready;
        let incarnation = record.worker.incarnation;
        let address = record.worker.address.filter(|_| is_wanted).map(|address| (address, incarnation));
        let name: Arc<str> = record.name.into();
        let set = self.sets.entry(Arc::clone(&name)).or_insert_with(|| Set {
            name,
            function: record.function,
            address: None,
            draining: false,
            generation: 0,
            link: None,
            worker: None,
        });
        set.draining = record.state == SetState::Draining;
        if set.address != address {
            let lost = set.unlink();
            if let Some((to, _)) = &address {
                self.next_generation += 1;
                set.generation = self.next_generation;
                let (ids, events) = (self.ids.clone(), self.around.events.clone());
                let wires = self.around.wires.clone();
                let to = To { wires, pod: Name::of_pod(&record.worker.pod), address: to.clone() };
                set.link = Some(Link::open(Arc::clone(&set.name), set.generation, to, ids, events));
            }
            set.address = address;
            if let Some(worker) = lost {
                self.dispatch.worker_down(worker);
                self.workers.remove(&worker);
            }
        } else if let (true, Some(worker)) = (set.draining, set.worker) {
            self.dispatch.worker_drains(worker);
        }
    }

    fn on_no_set(&mut self, name: &str) {
        if let Some(mut set) = self.sets.remove(name)
            && let Some(worker) = set.unlink()
        {
            self.dispatch.worker_down(worker);
            self.workers.remove(&worker);
        }
    }

    fn on_time(&mut self, now: Instant) {
        self.dispatch.handle_timeout(now);
        while let Some(&(at, id)) = self.deadlines.first()
            && at <= now
        {
            self.abort(now, id, deadline_failure());
            self.deadlines.remove(&(at, id));
        }
        if now.saturating_duration_since(self.costs_told) >= COSTS_EVERY {
            self.costs_told = now;
            self.around.costs.send_replace(self.costs.clone());
        }
        if now.saturating_duration_since(self.kept) >= kept::EVERY {
            self.kept = now;
            self.keep_runs();
        }
        if self.tells_ahead() && now.saturating_duration_since(self.ahead_told.0) >= ahead::WIDTH {
            self.tell_ahead(now);
        }
    }

    /// Whether there is something to tell of what comes, or to take back.
    fn tells_ahead(&self) -> bool {
        self.ahead_told.1 || !self.runs.is_empty()
    }

    fn tell_ahead(&mut self, now: Instant) {
        let mut due = Due::default();
        for ahead in self.runs.values().filter_map(|running| running.work.ahead()) {
            ahead.add_to(now, &mut due);
        }
        self.ahead_told = (now, due != Due::default());
        self.around.meters.ahead(due);
    }

    /// Writes down how far those runs are that take longer and have come on.
    fn keep_runs(&mut self) {
        for (id, running) in &mut self.runs {
            if running.keeping.is_due()
                && let Some(state) = running.work.keep()
            {
                running.keeping.keep(self.around.inbound.engine(), *id, &state);
            }
        }
    }

    /// Carries out what the round has made possible.
    fn flush(&mut self, now: Instant) {
        let mut actions = Vec::new();
        let runs = &self.runs;
        let wanted = |job: &Job| match job {
            Job::Own { run, .. } => runs.contains_key(run),
            Job::Other(_) => true,
        };
        self.dispatch.poll_action(now, wanted, &mut actions);
        for action in actions {
            match action {
                Action::Send { worker, tags } => self.send(now, worker, &tags),
                Action::Spill { function, items } => self.spill(function, items),
                Action::GiveUp(item) => self.give_up(now, item),
            }
        }
        for ((function, owner), done) in self.reports.drain() {
            let layers = Arc::clone(&self.around.layers);
            self.tasks.spawn(async move { layers.report(function, owner, done).await });
        }
        for function in Function::ALL {
            let credit = self.dispatch.credit(now, function);
            self.around.credits[place(function)].send_if_modified(|before| {
                let changed = *before != credit;
                *before = credit;
                changed
            });
            self.around.meters.in_service(function, self.dispatch.in_service(function));
            if self.dispatch.is_starving(function) {
                self.ask(now, function);
            }
        }
        let late = self.dispatch.late();
        if late > self.late_seen {
            tracing::debug!(count = late - self.late_seen, "outcomes came too late");
            self.late_seen = late;
        }
    }

    /// Asks the cluster service for a first worker, unless that was done just now.
    fn ask(&mut self, now: Instant, function: Function) {
        let asked = &mut self.asked[place(function)];
        if asked.is_some_and(|at| now < at + ASK_AGAIN) {
            return;
        }
        *asked = Some(now);
        // The task that asks lives as long as the scheduler.
        let _ = self.around.scale.send(function);
    }

    fn send(&mut self, now: Instant, worker: WorkerId, tags: &[Tag]) {
        let operations: Vec<_> = tags.iter().filter_map(|tag| self.operation(now, *tag)).collect();
        let connected = self.workers.get(&worker).expect("the dispatcher knows connected workers only");
        // When the connection just ended, its `Down` is on the way and makes these wait again.
        let _ = connected.operations.send(operations);
    }

    fn operation(&self, now: Instant, tag: Tag) -> Option<proto::Operation> {
        let item = &self.dispatch.in_flight(tag)?.item;
        let operation = match &item.payload {
            Job::Own { run, node } => {
                let running = self.runs.get(run)?;
                let call = running.work.call(*node);
                let left = running.deadline.saturating_duration_since(now);
                proto::Operation {
                    tag: tag.0,
                    request: run.to_string(),
                    node: node.get(),
                    function: call.function.name().into(),
                    left: call.left.to_bytes().into(),
                    right: call.right.to_bytes().into(),
                    digits_max: running.work.digits_max(),
                    receipt: running.work.wants_receipt(),
                    traceparent: String::new(),
                    patience_ms: self.patience(left),
                }
            }
            Job::Other(taken) => {
                let message = &taken.message;
                let left = Duration::from_millis(message.deadline_ms.saturating_sub(clock::epoch_ms()));
                proto::Operation {
                    tag: tag.0,
                    request: message.request.to_string(),
                    node: message.node,
                    function: message.function.clone(),
                    left: taken.left.clone(),
                    right: taken.right.clone(),
                    digits_max: message.digits_max,
                    receipt: message.receipt,
                    traceparent: String::new(),
                    patience_ms: self.patience(left),
                }
            }
        };
        Some(operation)
    }

    /// How long a worker has: as long as we wait for it, and no longer than the request does.
    fn patience(&self, left: Duration) -> u32 {
        let wait = left.min(self.around.config.timeouts.operation);
        u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1)
    }

    fn spill(&mut self, function: Function, items: Vec<Item<Job>>) {
        let messages: Vec<_> = items
            .into_iter()
            .filter_map(|item| {
                let Job::Own { run, node } = &item.payload else { return None };
                let running = self.runs.get(run)?;
                let call = running.work.call(*node);
                let message = LayerMessage {
                    owner: self.around.me.clone(),
                    request: *run,
                    node: node.get(),
                    function: function.name().into(),
                    left: call.left.to_string(),
                    right: call.right.to_string(),
                    digits_max: running.work.digits_max(),
                    receipt: running.work.wants_receipt(),
                    rank: item.rank,
                    deadline_ms: running.deadline_ms,
                };
                Some((message, item))
            })
            .collect();
        let layers = Arc::clone(&self.around.layers);
        self.tasks.spawn(async move { layers.spill(function, messages).await });
    }

    fn give_up(&mut self, now: Instant, item: Item<Job>) {
        match item.payload {
            Job::Own { run, node } => {
                let detail = format!(
                    "node {node} was tried {} times, and no worker of function `{}` answered",
                    item.failures, item.function
                );
                self.abort(now, run, inbound::failure("function-unavailable", detail));
            }
            // It comes back when its lease lapses, to whoever can do it.
            Job::Other(taken) => self.around.layers.release(item.function, &taken.handle),
        }
    }
}

impl Set {
    fn unlink(&mut self) -> Option<WorkerId> {
        self.link = None;
        self.generation = 0;
        self.worker.take()
    }
}

fn slots(config: &Config, function: Function) -> usize {
    usize::try_from(config.functions.of(function).slots).unwrap_or(usize::MAX).max(1)
}
