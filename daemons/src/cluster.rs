//! The cluster service: makes, repairs and removes worker sets through a [`Backend`].
//!
//! One task owns all of it. Pods tell it how they are, callers tell it how many sets they want, the
//! event bus tells it of faults; it writes what is true into the sets' records, by compare-and-swap, and
//! everybody else reads that. What is wanted is `desired/<function>` in the store, so that a cluster
//! service that starts again goes on where the other one stopped.

mod api;
mod creation;
mod members;
pub mod reconcile;
mod succession;

pub use api::Request;

use crate::{
    backend::{Backend, BackendError, PodDaemon, PodEvent, Stop},
    clock,
    config::Config,
    engine::Engine,
    fault::Fault,
    identity::{Identities, IdentityError},
    pod::{Said, Told},
    queue::{Message, Queue, QueueError, QueueName},
    set::{CONDEMNED, DESIRED, LOST, MemberState, SETS, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::{Revision, StoreError},
    tls::Role,
    trouble::Trouble,
    wires::Wires,
};
use quorate_dag::Function;
use reconcile::{Change, FUNCTIONS};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use succession::apply_succession;
use tokio::{net::TcpListener, sync::mpsc};

/// How long a draining set's worker may finish what was dispatched to it before its record said so.
const DRAIN: Duration = Duration::from_millis(500);

/// Between looks at what only time changes: drains, write-offs, delayed restarts.
const TICK: Duration = Duration::from_millis(100);

/// Requests of callers that may wait.
const REQUESTS_MAX: usize = 256;

/// Between restarts of a member that does not stay up; doubles, and is forgotten once it has run without
/// a fault for as long as the upper bound.
const RESTART_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Identities kept in stock for the next sets, when the service has nothing else to do.
const SPARE_IDENTITIES: usize = 5;

/// Between comparisons of the records with what runs.
const COMPARE: Duration = Duration::from_secs(5);

/// A pod that was ordered this recently may not run yet.
const RECENT: Duration = Duration::from_secs(5);

/// How long after a set was made the stock is filled.
const QUIET: Duration = Duration::from_secs(3);

/// What the service works with.
pub struct Setup {
    /// All that is in force.
    pub config: Arc<Config>,
    /// Where pods keep their files.
    pub state: PathBuf,
    /// Whether no pods can be running from before: then those of known sets are started, and that they
    /// are not there is no fault.
    pub fresh: bool,
    /// Queues and store.
    pub engine: Arc<dyn Engine>,
    /// Where pods run.
    pub backend: Arc<dyn Backend>,
    /// What becomes of pods.
    pub pods: mpsc::UnboundedReceiver<PodEvent>,
    /// Connections inside the platform.
    pub wires: Wires,
    /// Where the service is asked.
    pub listener: TcpListener,
    /// Becomes true when it has to end.
    pub shutdown: Shutdown,
}

/// Why the cluster service ended.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A queue refused.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The backend refused.
    #[error(transparent)]
    Backend(#[from] BackendError),
    /// Identities can't be had.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A set's record is not what this version writes.
    #[error("the record of set {name} can't be read: {source}")]
    Record {
        /// The set.
        name: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The service can't listen.
    #[error("the cluster service can't listen: {0}")]
    Listen(#[source] std::io::Error),
}

impl ClusterError {
    /// Whether it may work when it is tried again. Nothing is lost by that: records say what is true,
    /// messages come back, and events that were missed are seen by comparing records with what runs.
    fn may_pass(&self) -> bool {
        matches!(self, Self::Store(_) | Self::Queue(_) | Self::Backend(BackendError::Unavailable { .. }))
    }
}

/// Runs the service until shutdown.
///
/// # Errors
/// When it can't start, the backend is gone, or a record can't be read.
pub async fn run(setup: Setup) -> Result<(), ClusterError> {
    let (ask, requests) = mpsc::channel(REQUESTS_MAX);
    let address = setup.listener.local_addr().map_err(ClusterError::Listen)?;
    let (engine, backend) = (setup.engine.clone(), setup.backend.clone());
    let incoming = setup.wires.listen(setup.listener, "cluster", &[Role::Control]);
    let incoming = incoming.map_err(ClusterError::Listen)?;
    let serving = api::serve(incoming, ask, engine, backend, setup.shutdown.clone());
    // One that no longer leads is dropped, and must not go on answering.
    let _server = AbortOnDrop(tokio::spawn(serving));
    let events = setup.engine.queue(&QueueName::events()).await?;
    let (made, making_done) = mpsc::unbounded_channel();
    let (made_orders, orders) = mpsc::unbounded_channel();
    let mut cluster = Cluster {
        identities: Identities::at(&setup.config.data),
        config: setup.config,
        state: setup.state,
        engine: setup.engine,
        backend: setup.backend,
        sets: BTreeMap::new(),
        replaced: BTreeSet::new(),
        desired: BTreeMap::new(),
        making: BTreeMap::new(),
        refused: BTreeMap::new(),
        made,
        succeeding: BTreeMap::new(),
        made_orders,
        since: HashMap::new(),
        restarts: HashMap::new(),
        due: Vec::new(),
        started: HashMap::new(),
        compared: Some(Instant::now()),
        stock_after: None,
        shutdown: setup.shutdown,
    };
    cluster.load(setup.fresh).await?;
    cluster.drive((setup.pods, requests, making_done, orders), events, address).await
}

/// What the service hears: of pods, of callers, of keys and of orders that were made beside.
type Inbox = (
    mpsc::UnboundedReceiver<PodEvent>,
    mpsc::Receiver<Request>,
    mpsc::UnboundedReceiver<(String, creation::Made)>,
    mpsc::UnboundedReceiver<succession::MadeOrder>,
);

struct Cluster {
    config: Arc<Config>,
    state: PathBuf,
    identities: Identities,
    engine: Arc<dyn Engine>,
    backend: Arc<dyn Backend>,
    /// The sets' records as this service last wrote or read them.
    sets: BTreeMap<String, SetRecord>,
    /// Sets that are to be replaced, those that are gone among them: a name, and with it its keys, is not
    /// used again.
    replaced: BTreeSet<String>,
    desired: BTreeMap<Function, u32>,
    /// Sets whose keys are being made.
    making: BTreeMap<String, Function>,
    made: mpsc::UnboundedSender<(String, creation::Made)>,
    /// Sets of which a replica's place is being given to another one, and since when.
    succeeding: BTreeMap<String, Instant>,
    made_orders: mpsc::UnboundedSender<succession::MadeOrder>,
    /// Functions whose last set could not be made.
    refused: BTreeMap<Function, creation::Refused>,
    /// Since when a set has its state, as far as this service has seen.
    since: HashMap<String, (SetState, Instant)>,
    /// Restarts of each pod that did not stay up, and when the last was or is due.
    restarts: HashMap<String, (u32, Instant)>,
    /// When each pod was last ordered, for a while.
    started: HashMap<String, Instant>,
    /// Pods to be started again, and when.
    due: Vec<(Instant, Fault)>,
    /// When a set was last made; `None` once the stock was filled after that.
    stock_after: Option<Instant>,
    /// Becomes true when the service has to end.
    shutdown: Shutdown,
    /// When records were last compared with what runs; `None` when that has to be done at once.
    compared: Option<Instant>,
}

impl Cluster {
    /// Reads what is there: records, desired counts, running pods.
    async fn load(&mut self, fresh: bool) -> Result<(), ClusterError> {
        let (desired, _) = self.engine.store().list(DESIRED).await?;
        for entry in desired {
            let function = entry.key.strip_prefix(DESIRED).and_then(Function::from_name);
            let count = std::str::from_utf8(&entry.value).ok().and_then(|text| text.parse().ok());
            if let (Some(function), Some(count)) = (function, count) {
                self.desired.insert(function, count);
            }
        }
        for function in FUNCTIONS {
            let (least, most) = self.bounds(function);
            let count = self.desired.entry(function).or_default();
            *count = (*count).clamp(least, most);
        }
        for prefix in [CONDEMNED, LOST] {
            let (entries, _) = self.engine.store().list(prefix).await?;
            self.replaced.extend(entries.iter().map(|entry| entry.key[prefix.len()..].to_string()));
        }
        let (records, _) = self.engine.store().list(SETS).await?;
        for entry in records {
            let name = entry.key[SETS.len()..].to_string();
            let record = serde_json::from_slice(&entry.value)
                .map_err(|source| ClusterError::Record { name: name.clone(), source })?;
            self.sets.insert(name, record);
        }
        let changed: Vec<_> = self
            .sets
            .values()
            .filter(|set| set.replication != self.config.functions.of(set.function).replication)
            .map(|set| set.name.clone())
            .collect();
        for name in changed {
            tracing::info!(set = %name, "the function's replication has changed; the set is drained");
            self.update(&name, |set| set.state = SetState::Draining).await?;
        }
        for (pod, incarnation) in self.compare(fresh).await? {
            self.start_again(&pod, incarnation).await?;
        }
        Ok(())
    }

    /// Compares the records with what runs: what was said is heard again, what ended unseen has ended.
    /// When nothing can be running, gives back the members to be started instead.
    async fn compare(&mut self, fresh: bool) -> Result<Vec<(String, u64)>, ClusterError> {
        let running = tokio::select! {
            running = self.backend.list() => running?,
            // Who keeps the pods may be ending too, and answer no more.
            () = shutdown::requested(&mut self.shutdown) => return Ok(Vec::new()),
        };
        for pod in &running {
            if self.member(&pod.pod).is_none() {
                self.backend.stop(&pod.pod, Stop::Now).await?;
            }
        }
        let now = Instant::now();
        self.started.retain(|_, at| now.duration_since(*at) < RECENT);
        let mut events = Vec::new();
        let mut missing = Vec::new();
        for member in self.sets.values().flat_map(SetRecord::members) {
            match running.iter().find(|r| r.pod == member.pod && r.incarnation == member.incarnation) {
                Some(there) => {
                    let (pod, incarnation) = (there.pod.clone(), there.incarnation);
                    events.push(PodEvent::Started { pod: pod.clone(), incarnation, pid: there.pid });
                    events.extend(there.said.iter().map(|said| PodEvent::Said {
                        pod: pod.clone(),
                        incarnation,
                        said: said.clone(),
                    }));
                }
                None if fresh => missing.push((member.pod.clone(), member.incarnation)),
                // That is known, and whoever can't come back is not missed anew each time.
                None if member.state == MemberState::Down => {}
                // Its order may still wait for its predecessor's end.
                None if self.started.contains_key(&member.pod) => {}
                None => events.push(PodEvent::Ended {
                    pod: member.pod.clone(),
                    incarnation: member.incarnation,
                    status: "not there any more".into(),
                }),
            }
        }
        self.on_pod_events(events).await?;
        Ok(missing)
    }

    /// Has a member's pod started as its record says.
    async fn start_pod(&mut self, set: &SetRecord, pod: &str) -> Result<(), ClusterError> {
        self.started.insert(pod.into(), Instant::now());
        Ok(self.backend.start(daemon_of(set.index_of(pod)), &self.spec(set, pod)).await?)
    }

    async fn drive(
        &mut self,
        (mut pods, mut requests, mut made, mut orders): Inbox,
        bus: Arc<dyn Queue>,
        address: SocketAddr,
    ) -> Result<(), ClusterError> {
        tracing::info!(%address, sets = self.sets.len(), "the cluster service serves");
        let (faults, mut fault_messages) = mpsc::channel(16);
        let _listening =
            AbortOnDrop(tokio::spawn(receive_faults(bus.clone(), faults, self.config.timeouts.lease)));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut trouble = Trouble::of("cluster");
        let mut shutdown = self.shutdown.clone();
        while !*shutdown.borrow() {
            let step = async {
                self.apply_desired().await?;
                tokio::select! {
                    biased;
                    () = shutdown::requested(&mut shutdown) => Ok(()),
                    event = pods.recv() => {
                        let mut events = vec![event.ok_or(BackendError::Gone)?];
                        while let Ok(event) = pods.try_recv() {
                            events.push(event);
                        }
                        self.on_pod_events(events).await
                    }
                    Some((name, keys)) = made.recv() => self.on_keys(&name, keys).await,
                    Some(order) = orders.recv() => self.on_order(order).await,
                    Some(request) = requests.recv() => self.on_request(request).await,
                    Some(message) = fault_messages.recv() => self.on_fault_message(&bus, message).await,
                    _ = tick.tick() => self.on_tick().await,
                }
            };
            match step.await {
                Ok(()) => trouble.over(),
                Err(error) if error.may_pass() => {
                    self.compared = None;
                    trouble.pause(&error, &mut shutdown).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    async fn apply_desired(&mut self) -> Result<(), ClusterError> {
        for change in reconcile::reconcile(&self.sets, &self.replaced, &self.making, &self.desired) {
            match change {
                Change::Create { function, name } => self.begin_creation(function, name),
                Change::Drain { name } => {
                    tracing::info!(set = %name, "set is drained");
                    self.update(&name, |set| set.state = SetState::Draining).await?;
                }
            }
        }
        Ok(())
    }

    async fn on_request(&mut self, request: Request) -> Result<(), ClusterError> {
        match request {
            Request::Scale { function, desired, at_least, reason, answer } => {
                let (least, most) = self.bounds(function);
                let now = self.desired.get(&function).copied().unwrap_or(0);
                let wanted = if at_least { desired.max(now) } else { desired }.clamp(least, most);
                if wanted != now {
                    tracing::info!(%function, from = now, to = wanted, %reason, "desired sets");
                    self.set_desired(function, wanted).await?;
                }
                let _ = answer.send(wanted);
            }
            Request::Create { function, answer } => {
                let now = self.desired.get(&function).copied().unwrap_or(0);
                let before: Vec<_> = self.making.keys().cloned().collect();
                let (_, most) = self.bounds(function);
                self.set_desired(function, now.saturating_add(1).min(most)).await?;
                self.apply_desired().await?;
                let name = self.making.keys().find(|name| !before.contains(name)).cloned();
                let _ = answer.send(name);
            }
            Request::DeleteSet { name, answer } => {
                let found = self.sets.get(&name).filter(|set| set.state != SetState::Draining);
                let function = found.map(|set| set.function);
                if let Some(function) = function {
                    let now = self.desired.get(&function).copied().unwrap_or(0);
                    self.set_desired(function, now.saturating_sub(1)).await?;
                    self.update(&name, |set| set.state = SetState::Draining).await?;
                }
                let _ = answer.send(function.is_some());
            }
            Request::DeletePod { name, answer } => {
                let existed = self.member(&name).is_some();
                self.backend.stop(&name, Stop::Gently).await?;
                let _ = answer.send(existed);
            }
            Request::Sets { answer } => {
                let _ = answer.send(self.sets.values().cloned().collect());
            }
        }
        Ok(())
    }

    /// The fewest and the most sets that the configuration allows.
    fn bounds(&self, function: Function) -> (u32, u32) {
        let function = self.config.functions.of(function);
        (function.pods_min, function.pods_max.max(function.pods_min))
    }

    async fn set_desired(&mut self, function: Function, count: u32) -> Result<(), ClusterError> {
        let key = format!("{DESIRED}{}", function.name());
        self.engine.store().put(&key, count.to_string().into(), None).await?;
        self.desired.insert(function, count);
        Ok(())
    }

    async fn on_fault_message(&mut self, bus: &Arc<dyn Queue>, message: Message) -> Result<(), ClusterError> {
        match serde_json::from_slice::<Fault>(&message.body) {
            Ok(fault) => self.on_fault(fault).await?,
            Err(error) => tracing::error!(%error, "an event on the bus can't be read; it is dropped"),
        }
        bus.delete(&[message.handle]).await?;
        Ok(())
    }

    async fn on_tick(&mut self) -> Result<(), ClusterError> {
        let now = Instant::now();
        let due: Vec<_> = self.due.extract_if(.., |(at, _)| *at <= now).map(|(_, fault)| fault).collect();
        for fault in due {
            self.start_again(&fault.pod, fault.incarnation).await?;
        }
        self.since.retain(|name, _| self.sets.contains_key(name));
        // One that is still due has run for no time at all.
        self.restarts.retain(|_, (_, last)| now.saturating_duration_since(*last) <= RESTART_PAUSE.1);
        for (name, set) in &self.sets {
            let since = self.since.entry(name.clone()).or_insert((set.state, now));
            if since.0 != set.state {
                *since = (set.state, now);
            }
        }
        let lasting: Vec<_> =
            self.since.iter().map(|(name, (state, since))| (name.clone(), *state, now - *since)).collect();
        for (name, state, lasted) in lasting {
            match state {
                SetState::Draining if lasted >= DRAIN => self.remove(&name).await?,
                SetState::Paused if lasted >= self.config.timeouts.fault_pause => {
                    tracing::warn!(set = %name, "the set did not come back in time; it is written off");
                    self.update(&name, |set| set.state = SetState::Draining).await?;
                }
                SetState::Starting if lasted >= self.config.timeouts.pod_start => {
                    tracing::warn!(set = %name, "the set did not start in time; it is written off");
                    self.update(&name, |set| set.state = SetState::Draining).await?;
                }
                _ => {}
            }
        }
        self.end_successions().await?;
        self.stock_identities();
        // Events may be lost on the way when this process does not keep up.
        if self.compared.is_none_or(|compared| compared.elapsed() >= COMPARE) {
            self.compared = Some(now);
            self.compare(false).await?;
        }
        Ok(())
    }

    /// Changes a set's record by compare-and-swap, whoever else changes it meanwhile. A set that is gone
    /// stays gone.
    async fn update(&mut self, name: &str, change: impl Fn(&mut SetRecord)) -> Result<(), ClusterError> {
        let key = format!("{SETS}{name}");
        loop {
            let Some(entry) = self.engine.store().get(&key).await? else {
                self.sets.remove(name);
                return Ok(());
            };
            let before: SetRecord = serde_json::from_slice(&entry.value)
                .map_err(|source| ClusterError::Record { name: name.into(), source })?;
            let mut after = before.clone();
            change(&mut after);
            if after != before {
                match self.write(&key, &after, Some(entry.revision)).await {
                    Ok(_) => {}
                    Err(StoreError::Conflict { .. }) => continue,
                    Err(error) => return Err(error.into()),
                }
            }
            self.sets.insert(name.into(), after);
            return Ok(());
        }
    }

    async fn write(
        &self,
        key: &str,
        set: &SetRecord,
        seen: Option<Revision>,
    ) -> Result<Revision, StoreError> {
        let value = serde_json::to_vec(set).expect("a record is plain data");
        self.engine.store().compare_and_swap(key, seen, Some(value.into()), None).await
    }

    /// Fills the stock of identities once things have been quiet for a while after a set was made: a
    /// platform that lives for one expression has better uses for its processors.
    fn stock_identities(&mut self) {
        if self.stock_after.is_none_or(|made| made.elapsed() < QUIET) || !self.making.is_empty() {
            return;
        }
        self.stock_after = None;
        let identities = self.identities.clone();
        std::thread::spawn(move || {
            if let Err(error) = identities.stock(SPARE_IDENTITIES) {
                tracing::warn!(%error, "spare identities can't be made");
            }
        });
    }
}

/// Takes faults off the bus.
async fn receive_faults(bus: Arc<dyn Queue>, faults: mpsc::Sender<Message>, lease: Duration) {
    loop {
        match bus.receive(10, lease, Duration::from_secs(20)).await {
            Ok(messages) => {
                for message in messages {
                    if faults.send(message).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the event bus can't be read");
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
    }
}

/// A task that ends with its owner.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The subcommand's name of what a member runs.
fn daemon_of(index: Option<u32>) -> PodDaemon {
    if index.is_some() { PodDaemon::Replica } else { PodDaemon::Worker }
}

/// What all members of a set are told when an address changes.
fn peers_of(set: &SetRecord) -> Told {
    Told::Peers { transports: set.replicas.iter().map(|replica| replica.transport.clone()).collect() }
}

/// Puts what a pod said into its record.
fn apply_said(set: &mut SetRecord, pod: &str, said: &Said) {
    let is_worker = set.worker.pod == pod;
    let Some(member) = set.member_mut(pod) else { return };
    // A life that was found down does not come back, whatever it said before and is heard again.
    if member.state == MemberState::Down {
        return;
    }
    match said {
        Said::Listening { address, transport } => {
            member.address = Some(address.clone());
            member.transport.clone_from(transport);
        }
        Said::Succeeded { succession } => apply_succession(set, succession),
        Said::Ready => {
            member.state = MemberState::Ready;
            if is_worker && matches!(set.state, SetState::Starting | SetState::Paused) {
                set.state = SetState::Ready;
                let took = clock::epoch_ms().saturating_sub(set.ordered_ms);
                set.start_ms.get_or_insert(took);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Replication, set::Member};

    fn plain(state: SetState, member: MemberState) -> SetRecord {
        SetRecord {
            name: "add-0".into(),
            function: Function::Add,
            replication: Replication::None,
            state,
            worker: Member {
                pod: "add-0-worker".into(),
                state: member,
                address: None,
                transport: None,
                pid: None,
                incarnation: 1,
            },
            replicas: Vec::new(),
            genesis: None,
            successions: Vec::new(),
            succession: None,
            ordered_ms: 0,
            start_ms: None,
        }
    }

    #[test]
    fn a_worker_that_starts_and_says_that_it_is_ready_makes_its_set_ready() {
        for state in [SetState::Starting, SetState::Paused] {
            let mut set = plain(state, MemberState::Starting);
            apply_said(&mut set, "add-0-worker", &Said::Ready);
            assert_eq!((set.state, set.worker.state), (SetState::Ready, MemberState::Ready));
        }
    }

    #[test]
    fn a_life_that_was_found_down_is_not_ready_again_when_its_words_are_heard_again() {
        let before = plain(SetState::Paused, MemberState::Down);
        let mut set = before.clone();
        let listening = Said::Listening { address: "127.0.0.1:1".into(), transport: None };
        for said in [listening, Said::Ready] {
            apply_said(&mut set, "add-0-worker", &said);
        }
        assert_eq!(set, before);
    }
}
