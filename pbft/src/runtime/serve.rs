//! One replica on its own thread.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use tokio::{
    net::TcpListener,
    sync::{Notify, oneshot, watch},
    task::{LocalSet, spawn_local},
    time::{sleep, sleep_until},
};

use super::{
    AddressBook, Clock, TransportSettings,
    accept::accept,
    connection::Outgoing,
    dial::{Dialler, accept_key, dial, same_group},
    disk::Disk,
    frame::{self, Hello, Refusal},
    routes::{Route, Routes},
};
use crate::{
    crypto::{Identity, Keychain, NewKey, Principal, SeedRng},
    evidence::Evidence,
    group::{Configuration, InvalidConfiguration, ReplicaId, Sequence, View},
    journal::{Journal, JournalFailed, JournalSetup, Owner},
    membership::{Chain, InvalidSuccession, Succession},
    message::{Message, Unverified},
    replica::{
        Action, Ignored, JournalPosition, Misbehaviour, Readiness, Record, RecoveryFailed, Replica, Settings,
    },
    service::Service,
};

/// How often the status is published at most.
const STATUS_PERIOD: Duration = Duration::from_millis(5);
/// How many pieces of evidence the status keeps: the first. A replica gives one of each kind for each
/// culprit, so that more would be about more than a group bears.
const EVIDENCE_MAX: usize = 256;

/// All that a replica needs.
#[derive(Debug)]
pub struct ReplicaSetup {
    /// The group's genesis.
    pub configuration: Configuration,
    /// What led from the genesis to the configuration that made the replica a member, for ever the same;
    /// none for a member of the genesis. A [`Chain`] or a client's status has them.
    pub successions: Vec<Succession>,
    /// Which replica this is.
    pub index: ReplicaId,
    /// Its identity: the private half of its key in the configuration.
    pub identity: Identity,
    /// Where it keeps its journal. Without one it must not come back under the same key.
    pub journal: Option<JournalSetup>,
    /// Where peers and clients reach it.
    pub listener: TcpListener,
    /// Where the other replicas are reached.
    pub peers: watch::Receiver<AddressBook>,
    /// 32 secret random bytes, fresh for every start: session keys come from them.
    pub seed: [u8; 32],
    /// The state machine's settings. `journal` and `unix_at_zero` are set here.
    pub settings: Settings,
    /// Sizes and times of connections.
    pub transport: TransportSettings,
    /// What the replica says instead of what it means to: for tests with replicas that lie.
    #[cfg(feature = "sim")]
    pub twist: Option<Twist>,
}

/// Twists a message to a receiver, or holds it back. The keys are the replica's own.
#[cfg(feature = "sim")]
pub struct Twist(
    pub Box<dyn FnMut(&Keychain, Principal, Unverified<Message>) -> Option<Unverified<Message>> + Send>,
);

#[cfg(feature = "sim")]
impl std::fmt::Debug for Twist {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Twist")
    }
}

impl ReplicaSetup {
    /// The setup of a member of the genesis, without a journal and with default settings; all are fields
    /// to be changed.
    pub fn new(
        configuration: Configuration,
        index: ReplicaId,
        identity: Identity,
        listener: TcpListener,
        peers: watch::Receiver<AddressBook>,
        seed: [u8; 32],
    ) -> Self {
        let (settings, transport) = Default::default();
        let (successions, journal) = (Vec::new(), None);
        Self {
            configuration,
            successions,
            index,
            identity,
            journal,
            listener,
            peers,
            seed,
            settings,
            transport,
            #[cfg(feature = "sim")]
            twist: None,
        }
    }
}

/// Why a replica does not start, or stopped by itself.
#[derive(Debug, Error)]
pub enum ServeFailed {
    /// The configuration can't be used.
    #[error("configuration: {0}")]
    Configuration(#[from] InvalidConfiguration),
    /// The configuration is a later one.
    #[error("configuration {0} is not a genesis: start from that, and what followed it")]
    Genesis(u64),
    /// What followed the genesis does not follow.
    #[error("successions: {0}")]
    Succession(#[from] InvalidSuccession),
    /// The last succession gave the replica's place to nobody: it was a member before.
    #[error(
        "configuration {number} did not make replica {replica} a member: \
         whoever was one before keeps the successions that it began with"
    )]
    Member {
        /// Where the successions lead.
        number: u64,
        /// The replica.
        replica: ReplicaId,
    },
    /// The identity is not the one in the configuration.
    #[error("identity is not that of replica {0} in the configuration")]
    Identity(ReplicaId),
    /// The journal can't be opened or written. The replica must not vote on.
    #[error("journal: {0}")]
    Journal(#[from] JournalFailed),
    /// The journal can't be replayed.
    #[error("journal: {0}")]
    Recovery(#[from] RecoveryFailed),
    /// The operating system refused a thread or a socket.
    #[error("replica's thread or socket: {0}")]
    Io(#[from] io::Error),
    /// The replica's thread panicked: a bug.
    #[error("replica's thread panicked")]
    Panicked,
}

/// What a running replica tells about itself.
#[derive(Clone, Debug, Default)]
pub struct ReplicaStatus {
    /// The configuration it is in.
    pub configuration: u64,
    /// Whether the operator gave its place to another key. It takes part no more, but shows whoever is left
    /// behind the way: stop it when the others are in that configuration.
    pub replaced: bool,
    /// The view it is in, or wants to enter.
    pub view: View,
    /// Whether it has left the view before and not entered that one yet.
    pub changing: bool,
    /// The primary of that view.
    pub primary: ReplicaId,
    /// The last batch it executed.
    pub last_executed: Sequence,
    /// The low watermark: the last stable checkpoint.
    pub stable: Sequence,
    /// Whether it is of use now, and if not, why.
    pub readiness: Readiness,
    /// The other replicas that it has a connection to.
    pub connected: Vec<ReplicaId>,
    /// How many clients are connected.
    pub clients: usize,
    /// Messages that the state machine put aside, by reason.
    pub ignored: BTreeMap<Ignored, u64>,
    /// Connections that were closed because of what came over them, by kind.
    pub refused: BTreeMap<&'static str, u64>,
    /// Times that something was dropped because a peer didn't take it.
    pub dropped: u64,
    /// Times that a connection was not read for a while, because most of what came over it came to nothing:
    /// somebody floods.
    pub restrained: u64,
    /// Bytes of the journal on the disk.
    pub journal_bytes: u64,
    /// What it has to say about others, in the order in which it was found, since it started.
    pub evidence: Arc<[Evidence]>,
}

/// A running replica. Dropping it stops the replica, as if it had crashed.
#[derive(Debug)]
pub struct ReplicaHandle {
    status: watch::Receiver<ReplicaStatus>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<Result<(), ServeFailed>>>,
    ended: watch::Receiver<()>,
}

impl ReplicaHandle {
    /// The replica's status, which changes while it runs, a few hundred times a second at most.
    pub fn status(&self) -> watch::Receiver<ReplicaStatus> {
        self.status.clone()
    }

    /// Waits until the replica stops by itself, which it does on a failed disk only.
    ///
    /// # Errors
    /// Says why it stopped.
    pub async fn stopped(&mut self) -> Result<(), ServeFailed> {
        // Nothing is ever sent: the channel closes when the thread ends.
        while self.ended.changed().await.is_ok() {}
        match self.thread.take() {
            Some(thread) => thread.join().map_err(|_| ServeFailed::Panicked)?,
            None => Ok(()),
        }
    }

    /// Stops the replica; what it promised is in the journal.
    ///
    /// # Errors
    /// When it had failed before, or the journal fails now.
    pub async fn shutdown(mut self) -> Result<(), ServeFailed> {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(()); // it may have stopped by itself
        }
        self.stopped().await
    }
}

/// Starts a replica on a thread of its own, from its journal if it has one.
///
/// # Errors
/// When the setup does not fit together, or the journal does not read. What fails later is told by
/// the handle.
///
/// # Panics
/// When called outside a tokio runtime, as every function that takes a tokio socket.
pub fn serve(
    setup: ReplicaSetup,
    service: impl Service + Send + 'static,
) -> Result<ReplicaHandle, ServeFailed> {
    let ReplicaSetup { configuration, successions, index, identity, journal, listener, peers, .. } = setup;
    configuration.validate()?;
    if configuration.number > 0 {
        return Err(ServeFailed::Genesis(configuration.number));
    }
    let chain = Chain::of(configuration, successions)?;
    let configuration = chain.latest();
    if chain.last().is_some_and(|succession| !succession.reconfigure.replaces(index)) {
        return Err(ServeFailed::Member { number: configuration.number, replica: index });
    }
    if configuration.replicas.get(index.index()) != Some(identity.public_key()) {
        return Err(ServeFailed::Identity(index));
    }
    let listener = listener.into_std()?;
    let owner = Owner { group: configuration.group, configuration: configuration.digest(), replica: index };
    let opened = journal.map(|setup| Journal::open(&setup, owner)).transpose()?;
    let (seed, mut settings, transport) = (setup.seed, setup.settings, setup.transport);
    #[cfg(feature = "sim")]
    let twist = setup.twist;

    let clock = Clock::new();
    let mut rng = SeedRng::new(seed);
    let me = Principal::Replica(index);
    let mut keychain = Keychain::new(configuration.scope(), configuration.public_keys(), me, identity);
    keychain.renew(clock.epoch(), rng.next_seed());
    settings.journal = opened.is_some();
    settings.unix_at_zero = clock.unix_at_start;

    let (status_out, status) = watch::channel(ReplicaStatus::default());
    let (stop, stopped) = oneshot::channel();
    let (alive, ended) = watch::channel(());
    // Recovery runs on the caller's time, so that its failure is this function's.
    let (journal, first, records) = match opened {
        Some((journal, first, records)) => (Some(journal), first, records),
        None => (None, JournalPosition::default(), Vec::new()),
    };
    let records = (first.0..).map(JournalPosition).zip(records);
    let replica = Replica::recover(&chain, index, keychain, service, settings, records)?;
    let disk = journal.map(Disk::start).transpose()?;
    let thread = thread::Builder::new().name(format!("pbft-replica-{index}")).spawn(move || {
        let _alive = alive;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let local = LocalSet::new();
        let shared = Rc::new(Shared::new(replica, clock, rng, transport, status_out, disk));
        #[cfg(feature = "sim")]
        {
            shared.inner.borrow_mut().twist = twist;
        }
        let ended = local.block_on(&runtime, async {
            let listener = TcpListener::from_std(listener)?;
            spawn_local(accept(Rc::clone(&shared), listener));
            for peer in shared.others() {
                spawn_local(dial(Rc::clone(&shared), peer, peers.clone()));
            }
            spawn_local(renew_keys(Rc::clone(&shared)));
            tokio::select! {
                ended = drive(&shared) => ended,
                _ = stopped => Ok(()), // told to, or the handle was dropped
            }
        });
        drop((local, runtime));
        let disk = shared.inner.borrow_mut().disk.take();
        let synced = disk.map_or(Ok(()), Disk::finish);
        ended.and(synced.map_err(ServeFailed::from))
    })?;
    Ok(ReplicaHandle { status, stop: Some(stop), thread: Some(thread), ended })
}

/// What the tasks of a replica's thread share. They run in turns, and no borrow is held over an
/// `await`.
pub(super) struct Shared<S> {
    pub(super) inner: RefCell<Inner<S>>,
    /// Wakes the driver: the state machine took something in.
    pub(super) fed: Notify,
    pub(super) clock: Clock,
    pub(super) transport: TransportSettings,
    pub(super) frame_bytes_max: usize,
}

pub(super) struct Inner<S> {
    pub(super) replica: Replica<S>,
    pub(super) rng: SeedRng,
    pub(super) routes: Routes,
    disk: Option<Disk>,
    /// Appended since the journal's thread was last given something.
    records: Vec<(JournalPosition, Record)>,
    pub(super) incoming: usize,
    refused: BTreeMap<&'static str, u64>,
    dropped: u64,
    restrained: u64,
    evidence: Arc<[Evidence]>,
    #[cfg(feature = "sim")]
    twist: Option<Twist>,
    status: watch::Sender<ReplicaStatus>,
}

impl<S: Service> Shared<S> {
    fn new(
        replica: Replica<S>,
        clock: Clock,
        rng: SeedRng,
        transport: TransportSettings,
        status: watch::Sender<ReplicaStatus>,
        disk: Option<Disk>,
    ) -> Self {
        let configuration = replica.configuration();
        let routes = |count| std::iter::repeat_with(Route::default).take(count).collect();
        let routes = Routes {
            replicas: routes(configuration.replicas.len()),
            clients: routes(configuration.clients.len()),
            dirty: Vec::new(),
        };
        let frame_bytes_max = transport.frame_bytes_max(configuration);
        let inner = Inner {
            replica,
            rng,
            routes,
            disk,
            records: Vec::new(),
            incoming: 0,
            refused: BTreeMap::new(),
            dropped: 0,
            restrained: 0,
            evidence: Arc::default(),
            #[cfg(feature = "sim")]
            twist: None,
            status,
        };
        Self { inner: inner.into(), fed: Notify::new(), clock, transport, frame_bytes_max }
    }

    fn others(&self) -> Vec<ReplicaId> {
        let inner = self.inner.borrow();
        let count = u32::try_from(inner.routes.replicas.len()).expect("a group has few replicas");
        (0..count).map(ReplicaId).filter(|id| *id != inner.replica.id()).collect()
    }
}

/// Feeds, polls and flushes the state machine until the disk fails.
async fn drive<S: Service>(shared: &Shared<S>) -> Result<(), ServeFailed> {
    let mut progress = shared.inner.borrow().disk.as_ref().map(Disk::progress);
    let mut published = tokio::time::Instant::now();
    let (mut stale, mut warned) = (true, false);
    loop {
        let due = shared.inner.borrow().replica.poll_timeout();
        let mut wake = shared.clock.at(due);
        if stale {
            wake = wake.min(published + STATUS_PERIOD);
        }
        let synced = async {
            match &mut progress {
                Some(progress) => progress.changed().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            synced = synced => if synced.is_err() {
                let disk = shared.inner.borrow_mut().disk.take();
                return Ok(disk.map_or(Ok(()), Disk::finish)?);
            },
            () = shared.fed.notified() => {}
            () = sleep_until(wake) => {}
        }
        let inner = &mut *shared.inner.borrow_mut();
        if let Some(progress) = &mut progress {
            inner.replica.handle_durable(shared.clock.now(), progress.borrow_and_update().durable);
        }
        inner.step(shared.clock.now());
        if inner.replica.is_retired() && !std::mem::replace(&mut warned, true) {
            let (index, configuration) = (inner.replica.id(), inner.replica.configuration().number);
            tracing::warn!(%index, configuration, "replaced: this replica takes part no more");
        }
        stale = true;
        if published.elapsed() >= STATUS_PERIOD {
            inner.publish(shared.clock.now());
            published = tokio::time::Instant::now();
            stale = false;
        }
    }
}

impl<S: Service> Inner<S> {
    pub(super) fn refuse(&mut self, refusal: Option<&Refusal>) {
        if let Some(refusal) = refusal {
            tracing::debug!(replica = %self.replica.id(), %refusal, "connection refused");
            *self.refused.entry(refusal.kind()).or_default() += 1;
        }
    }

    fn step(&mut self, now: crate::Instant) {
        if self.replica.poll_timeout() <= now {
            self.replica.handle_timeout(now);
        }
        let others = 0..u32::try_from(self.routes.replicas.len()).expect("a group has few replicas");
        while let Some(action) = self.replica.poll_action(now) {
            match action {
                Action::Send { to, message } => self.send(to, &message),
                Action::Broadcast { message } => {
                    for other in others.clone().map(ReplicaId) {
                        if other != self.replica.id() {
                            self.send(Principal::Replica(other), &message);
                        }
                    }
                }
                Action::Append { position, record } => self.records.push((position, record)),
                Action::Truncate { before } => {
                    if let Some(disk) = &self.disk {
                        disk.append(std::mem::take(&mut self.records));
                        disk.truncate(before);
                    }
                }
                Action::Evidence(evidence) => {
                    let replica = self.replica.id();
                    match &evidence {
                        Evidence::Local { misbehaviour: Misbehaviour::Split { .. }, .. } => {
                            tracing::error!(%replica, %evidence, "halted");
                        }
                        _ => tracing::warn!(%replica, %evidence, "evidence"),
                    }
                    if self.evidence.len() < EVIDENCE_MAX {
                        self.evidence = self.evidence.iter().cloned().chain([evidence]).collect();
                    }
                }
            }
        }
        // The disk first: it works while the messages are written.
        if let (Some(disk), false) = (&self.disk, self.records.is_empty()) {
            disk.append(std::mem::take(&mut self.records));
        }
        for outgoing in self.routes.dirty.drain(..) {
            outgoing.flush();
            self.dropped += outgoing.take_dropped();
        }
    }

    fn send(&mut self, to: Principal, message: &Unverified<Message>) {
        #[cfg(feature = "sim")]
        if let Some(Twist(twist)) = &mut self.twist {
            if let Some(lie) = twist(self.replica.keychain(), to, message.clone()) {
                self.routes.send(to, &lie);
            }
            return;
        }
        self.routes.send(to, message);
    }

    fn publish(&mut self, now: crate::Instant) {
        let replica = &self.replica;
        let connected = (0..).map(ReplicaId).zip(&self.routes.replicas);
        let status = ReplicaStatus {
            configuration: replica.configuration().number,
            replaced: replica.is_retired(),
            view: replica.view(),
            changing: replica.is_changing(),
            primary: replica.primary(),
            last_executed: replica.executed(),
            stable: replica.stable(),
            readiness: replica.readiness(now),
            connected: connected.filter(|(_, route)| route.best().is_some()).map(|(id, _)| id).collect(),
            clients: self.routes.clients.iter().filter(|route| route.best().is_some()).count(),
            ignored: replica.ignored().collect(),
            refused: self.refused.clone(),
            dropped: self.dropped,
            restrained: self.restrained,
            journal_bytes: self.disk.as_ref().map_or(0, |disk| disk.progress().borrow().bytes),
            evidence: Arc::clone(&self.evidence),
        };
        self.status.send_replace(status);
    }
}

impl<S: Service> Dialler for Shared<S> {
    fn transport(&self) -> &TransportSettings {
        &self.transport
    }

    fn frame_bytes_max(&self) -> usize {
        self.frame_bytes_max
    }

    fn random(&self) -> u64 {
        let seed = self.inner.borrow_mut().rng.next_seed();
        u64::from_le_bytes(*seed.first_chunk().expect("32 bytes"))
    }

    fn hello(&self) -> Bytes {
        frame::hello(self.inner.borrow().replica.configuration(), &[0; 32], None)
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        same_group(hello, self.inner.borrow().replica.configuration())
    }

    fn on_hello(
        &self,
        peer: ReplicaId,
        outgoing: &Rc<Outgoing>,
        nonce: [u8; 32],
        new_key: NewKey,
    ) -> Result<(), Refusal> {
        self.on_new_key(new_key)?;
        let inner = &mut *self.inner.borrow_mut();
        let join = frame::join(inner.replica.keychain(), Principal::Replica(peer), &nonce);
        outgoing.put_bytes(&join.expect("keys are renewed before anybody is dialled"));
        outgoing.flush();
        inner.routes.replicas[peer.index()].dialled = Some(Rc::clone(outgoing));
        Ok(())
    }

    fn on_new_key(&self, new_key: NewKey) -> Result<(), Refusal> {
        accept_key(self.inner.borrow_mut().replica.keychain_mut(), &new_key).map(drop)
    }

    fn on_message(&self, message: Unverified<Message>) -> bool {
        let replica = &mut self.inner.borrow_mut().replica;
        let before = replica.wasted();
        replica.handle_message(self.clock.now(), message);
        replica.wasted() == before
    }

    fn configuration(&self) -> u64 {
        self.inner.borrow().replica.configuration().number
    }

    fn configured(&self) -> Option<Unverified<Message>> {
        let replica = &self.inner.borrow().replica;
        replica.configuration().operator.is_some().then(|| replica.configured())
    }

    fn on_read(&self, restrained: bool) {
        self.inner.borrow_mut().restrained += u64::from(restrained);
        self.fed.notify_one();
    }

    fn on_end(&self, peer: ReplicaId, outgoing: &Rc<Outgoing>, refusal: Option<&Refusal>) {
        let inner = &mut *self.inner.borrow_mut();
        inner.refuse(refusal);
        inner.routes.leave(Principal::Replica(peer), outgoing);
        self.fed.notify_one();
    }
}

/// Renews the session keys on a period and ends the grace of the old ones.
async fn renew_keys<S: Service>(shared: Rc<Shared<S>>) {
    loop {
        sleep(shared.transport.key_period).await;
        {
            let inner = &mut *shared.inner.borrow_mut();
            let (epoch, secret) = (shared.clock.epoch(), inner.rng.next_seed());
            let new_key = frame::new_key(inner.replica.keychain_mut().renew(epoch, secret));
            let routes = inner.routes.replicas.iter().chain(&inner.routes.clients);
            for outgoing in routes.flat_map(Route::all) {
                outgoing.put_bytes(&new_key);
                outgoing.flush();
            }
        }
        sleep(shared.transport.key_grace).await;
        shared.inner.borrow_mut().replica.keychain_mut().expire_old();
    }
}
