//! Whole clusters in one thread on virtual time, from one seed.
//!
//! A [`Cluster`] holds real replicas and clients, a network, disks, and a clock that jumps from
//! event to event. Nothing in it reads a clock, starts a thread or draws a number that does not
//! come from the seed: the same seed gives the same run on every machine, down to a hash of every
//! event ([`Cluster::hash`]).
//!
//! Some replicas may lie: [`Cluster::corrupt_as`] makes one an [`Adversary`] of a kind. It stays a real
//! replica; what it says is twisted on its way out, and what it hears on its way in, and all liars of a
//! run know of each other.
//!
//! [`checker`]s look at every step of the others. [`run::seed`] is a whole run with faults, drawn as a
//! [`Schedule`](schedule::Schedule) that can be read, [shortened](shorten) and run again;
//! [`byzzfuzz`] draws another kind; [`twins`] goes through all that two processes under one identity
//! can do; [`script`] runs stories in text files.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::client::{Client, ClientAction, ClientSettings, Options, Outcome, RequestId, SubmitRefused};
use crate::crypto::{Authenticator, Domain, Kind, Principal, TAG_BYTES};
use crate::evidence::Evidence;
use crate::group::{ClientId, Incarnation, ReplicaId, Sequence, Timestamp};
use crate::membership::Chain;
use crate::message::{Message, Proof, Request, Unverified, wire};
use crate::replica::{Action, JournalPosition, Record, Replica};
use crate::service::{Context, NotReadOnly, Service, State};
use crate::time::Instant;

mod adversary;
pub mod byzzfuzz;
pub mod checker;
mod clock;
mod corruption;
mod disk;
mod keys;
pub mod kv;
mod ledger;
mod membership;
mod network;
mod node;
mod random;
pub mod run;
pub mod schedule;
pub mod script;
mod setup;
pub mod shorten;
pub mod twins;

pub use adversary::{Adversary, prove};
pub use ledger::Ledger;
pub use network::Weather;
pub use random::Random;
pub use setup::Setup;

use adversary::Liars;
use checker::{Checkers, Violation};
use keys::Keys;
use network::Network;
use node::Node;

/// Something that was executed, as a service saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// In which batch.
    pub sequence: Sequence,
    /// For whom.
    pub client: ClientId,
    /// What.
    pub operation: Bytes,
    /// What came out; none when the service panicked.
    pub result: Option<Bytes>,
}

/// A service that notes down what it executes.
#[derive(Debug)]
struct Witness<S> {
    service: S,
    seen: Rc<RefCell<Vec<Executed>>>,
    /// The next operation goes wrong.
    strays: Rc<Cell<bool>>,
}

/// A page that no operation writes, but for one that goes wrong.
const STRAY_PAGE: u64 = (1 << 30) - 1;

impl<S: Service> Service for Witness<S> {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        if self.strays.take() {
            state.write(STRAY_PAGE, &context.sequence.0.to_be_bytes());
        }
        let index = self.seen.borrow().len();
        self.seen.borrow_mut().push(Executed {
            sequence: context.sequence,
            client: context.client,
            operation: Bytes::copy_from_slice(operation),
            result: None,
        });
        let result = self.service.execute(context, operation, state);
        self.seen.borrow_mut()[index].result = Some(result.clone());
        result
    }

    fn read(&self, context: &Context, operation: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        self.service.read(context, operation, state)
    }
}

#[derive(Debug)]
struct Host {
    client: Client,
    /// The number of the configuration in which it heard all NEW-KEYs last.
    met: u64,
    /// Orders of the operator that it has in flight: no service sees them.
    orders: BTreeSet<RequestId>,
    life: u64,
    wake: Option<Instant>,
    /// Its tags for these replicas are wrong, whatever it sends.
    spoils: Vec<Principal>,
    /// It sends these replicas no request that names its operations before it asks once more: the latest
    /// such request.
    withholds: BTreeMap<Principal, (Incarnation, Timestamp)>,
}

#[derive(Debug)]
enum Event {
    Deliver { from: Principal, to: Principal, message: Box<Unverified<Message>> },
    Synced { node: usize, life: u64, position: JournalPosition },
    WakeReplica { node: usize, life: u64 },
    WakeClient { client: ClientId, life: u64 },
    ExpireKeys,
}

impl Event {
    /// Whether it happens because time passes, and not because of something that was done.
    fn is_timer(&self) -> bool {
        matches!(self, Self::WakeReplica { .. } | Self::WakeClient { .. } | Self::ExpireKeys)
    }
}

#[derive(Debug)]
struct Scheduled {
    at: Instant,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// The earliest is the greatest, as a heap wants it; equal times go by number.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.number).cmp(&(self.at, self.number))
    }
}

/// A message that somebody sent, whether or not it arrives.
#[derive(Clone, Debug)]
pub struct Sent {
    /// When.
    pub at: Instant,
    /// By whom.
    pub from: Principal,
    /// To whom.
    pub to: Principal,
    /// Whether the link is cut.
    pub cut: bool,
    /// What.
    pub message: Message,
    /// Whether it is a request with a signature instead of tags.
    pub signed: bool,
}

/// What a cluster has been through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events.
    pub events: u64,
    /// Messages that were lost.
    pub lost: u64,
    /// Messages that arrived twice.
    pub duplicated: u64,
    /// Crashes that left a record half-written.
    pub torn: u64,
    /// Messages that the fuzzer changed or kept.
    pub fuzzed: u64,
}

/// A simulated group and its clients.
#[derive(Debug)]
pub struct Cluster<S> {
    setup: Setup,
    service: S,
    keys: Keys,
    nodes: Vec<Node<S>>,
    liars: Liars,
    hosts: Vec<Host>,
    network: Network,
    queue: BinaryHeap<Scheduled>,
    scheduled: u64,
    /// Events in the queue that are no timers.
    busy: usize,
    now: Instant,
    random: Random,
    hash: u64,
    counts: Counts,
    /// What was sent, if somebody wants to know.
    sent: Option<Vec<Sent>>,
    outcomes: Vec<(ClientId, Outcome)>,
    evidence: Vec<(ReplicaId, Evidence)>,
    checkers: Checkers,
}

impl<S: Service + Clone> Cluster<S> {
    /// All replicas and clients, started at time zero.
    ///
    /// # Panics
    /// When the configuration is not valid.
    #[must_use]
    pub fn new(setup: Setup, service: S) -> Self {
        let random = Random::new(setup.seed);
        let mut cluster = Self {
            network: Network::new(setup.weather.clone()),
            checkers: Checkers::new(&setup),
            keys: Keys::new(&setup),
            nodes: Vec::new(),
            liars: Liars::new(&setup.configuration),
            hosts: Vec::new(),
            queue: BinaryHeap::new(),
            scheduled: 0,
            busy: 0,
            now: Instant(0),
            random,
            hash: 0xcbf2_9ce4_8422_2325,
            counts: Counts::default(),
            sent: None,
            outcomes: Vec::new(),
            evidence: Vec::new(),
            service,
            setup,
        };
        for id in cluster.replica_ids() {
            let origin = Chain::new(cluster.setup.configuration.clone());
            cluster.nodes.push(Node::new(id, origin, cluster.setup.sync));
            cluster.start(id.index());
        }
        for index in 0..u32::try_from(cluster.setup.configuration.clients.len()).expect("few") {
            let client = cluster.fresh_client(ClientId(index), Incarnation(1));
            let (orders, spoils, withholds) = Default::default();
            cluster.hosts.push(Host { client, met: 0, orders, life: 0, wake: None, spoils, withholds });
        }
        for node in 0..cluster.nodes.len() {
            cluster.drive(node);
        }
        cluster
    }

    fn fresh_client(&mut self, id: ClientId, incarnation: Incarnation) -> Client {
        // Whoever keeps the chain begins with its end.
        let known = self.hosts.get(id.index()).map(|host| host.client.configuration());
        let configuration = known.unwrap_or(&self.setup.configuration).clone();
        let keys = self.begin(Principal::Client(id), &configuration);
        let settings = ClientSettings {
            seed: self.setup.seed ^ u64::from(id.0) << 32 ^ incarnation.0,
            ..self.setup.client_settings.clone()
        };
        Client::new(configuration, id, incarnation, keys, settings)
    }

    /// All replicas.
    pub fn replica_ids(&self) -> impl Iterator<Item = ReplicaId> + use<S> {
        (0..self.setup.configuration.n()).map(ReplicaId)
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { fuzzed: self.network.fuzz.struck(), ..self.counts }
    }

    /// A fault that strikes when its round comes.
    pub fn strike(&mut self, fault: byzzfuzz::Fault) {
        self.network.fuzz.add(fault, &self.setup);
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// A replica, unless it is down.
    pub fn replica(&self, id: ReplicaId) -> Option<&Replica<impl Service + use<S>>> {
        self.nodes[id.index()].replica.as_ref()
    }

    /// A client.
    #[must_use]
    pub fn client(&self, id: ClientId) -> &Client {
        &self.hosts[id.index()].client
    }

    /// A hash of every event so far: equal for equal seeds, on every machine.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The first thing that a checker objected to.
    #[must_use]
    pub fn violation(&self) -> Option<&Violation> {
        self.checkers.violation()
    }

    /// What came out since the last call.
    pub fn take_outcomes(&mut self) -> Vec<(ClientId, Outcome)> {
        std::mem::take(&mut self.outcomes)
    }

    /// Who accused whom since the last call.
    pub fn take_evidence(&mut self) -> Vec<(ReplicaId, Evidence)> {
        std::mem::take(&mut self.evidence)
    }

    /// What was sent since the last call; keeps it from now on.
    pub fn take_sent(&mut self) -> Vec<Sent> {
        self.sent.replace(Vec::new()).unwrap_or_default()
    }

    /// The weather from now on.
    pub fn set_weather(&mut self, weather: Weather) {
        self.network.weather = weather;
    }

    /// Nothing gets from one to the other any more.
    pub fn cut(&mut self, from: Principal, to: Principal) {
        self.network.cut(from, to);
    }

    /// What gets from one to the other takes so much longer from now on.
    pub fn slow(&mut self, from: Principal, to: Principal, longer: Duration) {
        self.network.slow(from, to, longer);
    }

    /// Takes all cuts back, and what was slow is as fast as the rest.
    pub fn mend(&mut self) {
        self.network.mend();
    }

    /// A client has something to do.
    ///
    /// # Errors
    /// As [`Client::submit`].
    pub fn submit(
        &mut self,
        client: ClientId,
        operation: Bytes,
        options: Options,
    ) -> Result<RequestId, SubmitRefused> {
        let now = self.now;
        let id = self.hosts[client.index()].client.submit(now, operation.clone(), options)?;
        self.checkers.submitted(client, &operation);
        self.drive_client(client);
        Ok(id)
    }

    /// A client has several things to do at once. Gives the names of those that it took: the rest found
    /// its window full.
    pub fn submit_all(&mut self, client: ClientId, operations: &[(Bytes, Options)]) -> Vec<RequestId> {
        let now = self.now;
        let mut taken = Vec::new();
        for (operation, options) in operations {
            let host = &mut self.hosts[client.index()];
            let Ok(id) = host.client.submit(now, operation.clone(), *options) else { break };
            self.checkers.submitted(client, operation);
            taken.push(id);
        }
        self.drive_client(client);
        taken
    }

    /// Makes a client lie from now on: its tags for these replicas are wrong. Its signatures are right.
    pub fn spoil_tags(&mut self, client: ClientId, replicas: &[Principal]) {
        self.hosts[client.index()].spoils = replicas.to_vec();
    }

    /// Makes a client lie from now on: it sends its large operations to all but these replicas, until it has
    /// to ask once more.
    pub fn withhold(&mut self, client: ClientId, replicas: impl IntoIterator<Item = ReplicaId>) {
        let before_all = |id| (Principal::Replica(id), (Incarnation(0), Timestamp(0)));
        self.hosts[client.index()].withholds = replicas.into_iter().map(before_all).collect();
    }

    /// Sends a message of somebody's own making, as a faulty client or replica might.
    pub fn inject(&mut self, from: Principal, to: Principal, message: Unverified<Message>) {
        if let Principal::Replica(id) = from {
            self.nodes[id.index()].impersonated = true;
        }
        self.transmit(from, to, message);
    }

    /// A client's process ends and another one takes its place, in a higher incarnation. What was
    /// in flight may or may not be executed, but never twice.
    pub fn restart_client(&mut self, id: ClientId, incarnation: Incarnation) {
        let client = self.fresh_client(id, incarnation);
        let host = &mut self.hosts[id.index()];
        let (spoils, withholds) = (std::mem::take(&mut host.spoils), std::mem::take(&mut host.withholds));
        let (met, orders, life) = (client.configuration().number, BTreeSet::new(), host.life + 1);
        *host = Host { client, met, orders, life, wake: None, spoils, withholds };
        self.note(&[3, id.0.into(), incarnation.0]);
    }

    /// Lets time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        while self.queue.peek().is_some_and(|next| next.at <= end) && self.violation().is_none() {
            self.step();
        }
        self.now = end;
    }

    /// Lets happen what is under way, and no timer besides, until nothing is under way.
    pub fn settle(&mut self) {
        let mut timers = Vec::new();
        while self.busy > 0 && self.violation().is_none() {
            let next = self.queue.pop().expect("something is under way");
            if next.event.is_timer() {
                timers.push(next);
            } else {
                self.queue.push(next);
                self.step();
            }
        }
        self.queue.extend(timers);
    }

    /// The next event happens. Says whether there was one.
    pub fn step(&mut self) -> bool {
        let Some(Scheduled { at, event, .. }) = self.queue.pop() else { return false };
        self.busy -= usize::from(!event.is_timer());
        self.counts.events += 1;
        self.now = self.now.max(at);
        match event {
            Event::Deliver { from, to, message } => self.deliver(from, to, *message),
            Event::Synced { node, life, position } => self.synced(node, life, position),
            Event::ExpireKeys => self.expire_keys(),
            Event::WakeReplica { node: index, life } => {
                let node = &mut self.nodes[index];
                let now = node.clock.read(self.now);
                if node.life == life
                    && let Some(awake) = &mut node.replica
                {
                    node.wake = None;
                    if awake.poll_timeout() <= now {
                        awake.handle_timeout(now);
                    }
                    self.drive(index);
                }
            }
            Event::WakeClient { client, life } => {
                let (now, host) = (self.now, &mut self.hosts[client.index()]);
                if host.life == life {
                    host.wake = None;
                    host.client.handle_timeout(now);
                    self.drive_client(client);
                }
            }
        }
        true
    }

    fn schedule(&mut self, at: Instant, event: Event) {
        self.scheduled += 1;
        self.busy += usize::from(!event.is_timer());
        self.queue.push(Scheduled { at, number: self.scheduled, event });
    }

    fn deliver(&mut self, from: Principal, to: Principal, message: Unverified<Message>) {
        self.note(&[4, number(from), number(to), self.now.0]);
        self.note_bytes(&message.bytes);
        let message = if self.setup.through_wire {
            match wire::decode(wire::encode(&message)) {
                Ok(message) => message,
                Err(_) if self.is_liar(from) => return,
                Err(error) => panic!("what we encoded, we decode: {error}"),
            }
        } else {
            message
        };
        match to {
            Principal::Replica(id) => self.hear(from, id, message),
            Principal::Client(id) => {
                self.hosts[id.index()].client.handle_message(self.now, message);
                self.drive_client(id);
            }
        }
    }

    fn synced(&mut self, index: usize, life: u64, position: JournalPosition) {
        let node = &mut self.nodes[index];
        if node.life != life {
            return;
        }
        node.syncing = false;
        node.disk.sync(position);
        if let Some(replica) = &mut node.replica {
            replica.handle_durable(node.clock.read(self.now), position);
        }
        self.drive(index);
    }

    /// Does what a replica wants done.
    fn drive(&mut self, node: usize) {
        let Node { id, ref clock, .. } = self.nodes[node];
        let now = clock.read(self.now);
        while let Some(action) =
            self.nodes[node].replica.as_mut().and_then(|replica| replica.poll_action(now))
        {
            match action {
                Action::Send { to, message } => {
                    self.check_promise(id, &message);
                    self.say(node, to, message);
                }
                Action::Broadcast { message } => {
                    self.check_promise(id, &message);
                    for to in self.replica_ids().filter(|to| *to != id) {
                        self.say(node, Principal::Replica(to), message.clone());
                    }
                }
                Action::Append { position, record } => {
                    self.check_committed(id, &record);
                    self.nodes[node].disk.append(position, record);
                }
                Action::Truncate { before } => self.nodes[node].disk.truncate(before),
                Action::Evidence(evidence) => self.accused(id, evidence),
            }
        }
        self.follow(node);
        self.begin_sync(node);
        let seen: Vec<_> = self.nodes[node].seen.borrow_mut().drain(..).collect();
        if self.is_correct(id) {
            self.checkers.executed(id, seen);
        }
        self.set_alarm(node);
    }

    fn check_memory(&mut self, node: usize) {
        let Node { id, ref replica, .. } = self.nodes[node];
        if let Some(replica) = replica.as_ref().filter(|_| self.is_correct(id)) {
            self.checkers.holds(replica);
        }
    }

    fn check_committed(&mut self, id: ReplicaId, record: &Record) {
        let scope = self.nodes[id.index()].configuration().scope();
        let (sequence, digest) = match record {
            Record::Committed { sequence, digest, .. } => (*sequence, *digest),
            Record::Learned { sequence, batch } => {
                (*sequence, scope.digest(Domain::new(Kind::Batch, 0), &[&batch.bytes]))
            }
            _ => return,
        };
        if self.is_correct(id) {
            self.checkers.committed(id, sequence, &digest);
        }
    }

    /// Nobody correct is ever accused by somebody correct, and what is provable convinces others.
    fn accused(&mut self, accuser: ReplicaId, evidence: Evidence) {
        if let Some(culprit) = evidence.culprit()
            && self.is_correct(accuser)
        {
            let known = self.nodes[accuser.index()].configuration().clone();
            // It may be about the one who had the place before.
            let same = self.nodes[culprit.index()].origin.latest().number <= evidence.configuration();
            let blameless = same && self.is_blameless(culprit);
            self.checkers.accused((accuser, &known), &evidence, blameless);
        }
        self.evidence.push((accuser, evidence));
    }

    /// Whether a replica neither lies nor had its name used by somebody who does.
    fn is_blameless(&self, id: ReplicaId) -> bool {
        self.is_correct(id) && !self.nodes[id.index()].impersonated
    }

    fn check_promise(&mut self, id: ReplicaId, message: &Unverified<Message>) {
        if message.sender != Principal::Replica(id) || !self.is_correct(id) {
            return; // passed on, or of somebody who may say anything
        }
        let node = &self.nodes[id.index()];
        let journal = self.setup.settings.journal.then_some(&node.disk);
        self.checkers.says((id, node.configuration()), message, journal);
    }

    /// One sync at a time; the next one covers all that came meanwhile.
    fn begin_sync(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let (least, most) = node.disk.sync_time;
        if node.syncing || node.disk.last() == node.disk.durable() || node.replica.is_none() {
            return;
        }
        node.syncing = true;
        let (life, position) = (node.life, node.disk.last());
        let at = self.now + self.random.between(least, most);
        self.schedule(at, Event::Synced { node: index, life, position });
    }

    fn set_alarm(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some(replica) = &node.replica else { return };
        let at = node.clock.when(replica.poll_timeout()).max(self.now);
        if node.wake.is_none_or(|wake| at < wake) {
            node.wake = Some(at);
            let life = node.life;
            self.schedule(at, Event::WakeReplica { node: index, life });
        }
    }

    fn drive_client(&mut self, id: ClientId) {
        let (now, me) = (self.now, Principal::Client(id));
        while let Some(action) = self.hosts[id.index()].client.poll_action(now) {
            match action {
                ClientAction::Send { to, message } => {
                    self.transmit(me, Principal::Replica(to), message);
                }
                ClientAction::Broadcast { message } => {
                    for to in self.replica_ids() {
                        self.transmit(me, Principal::Replica(to), message.clone());
                    }
                }
                ClientAction::Succession(_) => {}
                ClientAction::Disagreed { replica, .. } => {
                    if self.is_blameless(replica) {
                        self.checkers.disagreed(id, replica);
                    }
                }
                ClientAction::Outcome(outcome) => {
                    let ordered = outcome.sequence != Sequence(0);
                    let blameless = outcome.disagreed.iter().find(|id| ordered && self.is_blameless(*id));
                    if !self.hosts[id.index()].orders.remove(&outcome.request) {
                        self.checkers.answered(id, &outcome, blameless);
                    }
                    self.outcomes.push((id, outcome));
                }
            }
        }
        let host = &mut self.hosts[id.index()];
        let number = host.client.configuration().number;
        if host.met != number {
            host.met = number;
            self.keys.meet(host.client.keychain_mut());
        }
        if let Some(at) = host.client.poll_timeout()
            && host.wake.is_none_or(|wake| at < wake)
        {
            host.wake = Some(at);
            let life = host.life;
            self.schedule(at, Event::WakeClient { client: id, life });
        }
    }

    /// Puts a message on the network, or what a liar makes of it.
    fn transmit(&mut self, from: Principal, to: Principal, message: Unverified<Message>) {
        match from {
            Principal::Replica(id) if self.is_liar(from) => self.lie(id, to, message),
            Principal::Client(id) => {
                let Host { spoils, withholds, .. } = &mut self.hosts[id.index()];
                if let Message::Request(Request { incarnation, first, named, .. }) = &message.body
                    && !named.is_empty()
                    && let Some(latest) = withholds.get_mut(&to)
                    && *latest < (*incarnation, *first)
                {
                    *latest = (*incarnation, *first);
                    return;
                }
                let proof = spoiled(message.proof, spoils);
                self.post(from, to, Unverified { proof, ..message }, Duration::ZERO);
            }
            Principal::Replica(_) => self.post(from, to, message, Duration::ZERO),
        }
    }

    fn post(&mut self, from: Principal, to: Principal, message: Unverified<Message>, held_back: Duration) {
        let Some(message) = self.network.fuzz.fate(from, to, message) else { return };
        self.checkers.sent(&message);
        if let Some(sent) = &mut self.sent {
            let cut = self.network.is_cut(from, to);
            let is_request = matches!(message.body, Message::Request(_));
            let signed = is_request && matches!(message.proof, Proof::Signature(_));
            sent.push(Sent { at: self.now, from, to, cut, message: message.body.clone(), signed });
        }
        let [first, second] = self.network.fate(&mut self.random, from, to);
        let now = self.now + held_back;
        self.counts.lost += u64::from(first.is_none());
        if let Some(delay) = second {
            self.counts.duplicated += 1;
            self.schedule(now + delay, Event::Deliver { from, to, message: Box::new(message.clone()) });
        }
        if let Some(delay) = first {
            self.schedule(now + delay, Event::Deliver { from, to, message: Box::new(message) });
        }
    }

    fn note(&mut self, words: &[u64]) {
        for word in words {
            self.hash = (self.hash ^ word).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
        }
    }

    fn note_bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.note(&[u64::from_le_bytes(*word)]);
        }
        for byte in rest {
            self.note(&[u64::from(*byte)]);
        }
    }
}

/// A proof whose tags for some replicas are wrong.
fn spoiled(proof: Proof, replicas: &[Principal]) -> Proof {
    let Proof::Authenticator(tags) = proof else { return proof };
    let mut tags = tags.0.to_vec();
    for replica in replicas {
        if let Principal::Replica(id) = replica {
            tags[id.index() * TAG_BYTES] ^= 1;
        }
    }
    Proof::Authenticator(Authenticator(tags.into()))
}

fn number(principal: Principal) -> u64 {
    match principal {
        Principal::Replica(id) => id.0.into(),
        Principal::Client(id) => u64::from(id.0) + (1 << 32),
    }
}
