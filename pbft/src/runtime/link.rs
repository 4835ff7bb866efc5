//! The thread of links: their connections and the state machines of their clients.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{JoinSet, LocalSet},
    time::{sleep, sleep_until},
};

use super::{
    AddressBook, Clock, TransportSettings,
    client::{Asks, ClientStatus, Order, Suspicion, Waiting},
    connection::Outgoing,
    dial::{Dialler, accept_key, dial, same_group},
    frame::{self, Hello, Refusal},
};
use crate::{
    client::{self, ClientAction, ClientSettings, RequestId, SubmitRefused},
    crypto::{Identity, Keychain, NewKey, Principal, SeedRng},
    group::{ClientId, Configuration, Group, Incarnation, ReplicaId},
    membership::Succession,
    message::{Message, Unverified},
    time::Instant,
};

/// How long the first operation waits for the last replicas once a quorum is connected.
const STRAGGLERS: Duration = Duration::from_millis(20);
/// How often the status is published at most.
const STATUS_PERIOD: Duration = Duration::from_millis(20);

/// All that a link needs.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) configuration: Arc<Configuration>,
    pub(super) seed: [u8; 32],
    pub(super) transport: TransportSettings,
    pub(super) peers: watch::Receiver<AddressBook>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) status: watch::Sender<ClientStatus>,
}

/// Runs links until nobody holds a handle of any.
pub(super) fn run(runtime: &tokio::runtime::Runtime, mut starts: mpsc::UnboundedReceiver<Start>) {
    LocalSet::new().block_on(runtime, async {
        let mut links = JoinSet::new();
        while let Some(start) = starts.recv().await {
            while links.try_join_next().is_some() {} // nothing is kept of those that ended
            links.spawn_local(run_one(start));
        }
        while links.join_next().await.is_some() {}
    });
}

/// Keeps a link's connections and drives its clients until nobody holds a handle.
async fn run_one(start: Start) {
    let Start { configuration, seed, transport, peers, orders, status } = start;
    let shared = Rc::new(Shared::new(configuration, seed, transport, status));
    let mut tasks = JoinSet::new(); // which end with it
    for replica in shared.group.replicas() {
        tasks.spawn_local(dial(Rc::clone(&shared), replica, peers.clone()));
    }
    tasks.spawn_local(renew_keys(Rc::clone(&shared)));
    drive(&shared, orders).await;
}

/// What the tasks of a link's thread share. They run in turns, and no borrow is held over an
/// `await`.
struct Shared {
    inner: RefCell<Inner>,
    /// Wakes the driver: something was taken in.
    fed: Notify,
    clock: Clock,
    /// When what is being read now came, once its first message asked: no clock is read for each.
    read_at: Cell<Option<Instant>>,
    group: Group,
    configuration: Arc<Configuration>,
    transport: TransportSettings,
}

struct Inner {
    rng: SeedRng,
    /// By index.
    clients: Vec<Option<Box<Member>>>,
    /// By index.
    replicas: Vec<Option<Connected>>,
    /// Since when a quorum has been connected; from then on little is waited for.
    quorum_since: Option<Instant>,
    /// Whether operations were submitted when the driver looked last.
    ready: bool,
    /// Clients that were fed and not polled yet.
    touched: Vec<ClientId>,
    /// When clients want to be woken.
    due: BTreeSet<(Instant, ClientId)>,
    dirty: Vec<Rc<Outgoing>>,
    in_flight: usize,
    suspects: BTreeMap<ReplicaId, Suspicion>,
    refused: BTreeMap<&'static str, u64>,
    /// What followed the configuration that the link began with.
    successions: Vec<Succession>,
    status: watch::Sender<ClientStatus>,
}

/// A client on the link.
struct Member {
    client: client::Client,
    /// Not submitted yet: the window is full, or no quorum is connected.
    queue: VecDeque<(Asks, Waiting)>,
    waiting: BTreeMap<RequestId, Waiting>,
    /// When it is woken: at the latest when it wants to be.
    due: Option<Instant>,
    touched: bool,
}

struct Connected {
    outgoing: Rc<Outgoing>,
    nonce: [u8; 32],
    new_key: NewKey,
}

impl Shared {
    fn new(
        configuration: Arc<Configuration>,
        seed: [u8; 32],
        transport: TransportSettings,
        status: watch::Sender<ClientStatus>,
    ) -> Self {
        let group = Group::new(&configuration);
        let inner = Inner {
            rng: SeedRng::new(seed),
            clients: configuration.clients.iter().map(|_| None).collect(),
            replicas: configuration.replicas.iter().map(|_| None).collect(),
            quorum_since: None,
            ready: false,
            touched: Vec::new(),
            due: BTreeSet::new(),
            dirty: Vec::new(),
            in_flight: 0,
            suspects: BTreeMap::new(),
            refused: BTreeMap::new(),
            successions: Vec::new(),
            status,
        };
        let (inner, fed, clock) = (inner.into(), Notify::new(), Clock::new());
        Self { inner, fed, clock, read_at: Cell::default(), group, configuration, transport }
    }

    fn add(&self, id: ClientId, identity: Identity, incarnation: Incarnation, mut settings: ClientSettings) {
        let inner = &mut *self.inner.borrow_mut();
        let Some(slot @ None) = inner.clients.get_mut(id.index()) else { return };
        let (scope, keys) = (self.configuration.scope(), self.configuration.public_keys());
        let mut keychain = Keychain::new(scope, keys, Principal::Client(id), identity);
        keychain.renew(self.clock.epoch(), inner.rng.next_seed());
        let seed = inner.rng.next_seed();
        settings.seed = u64::from_le_bytes(*seed.first_chunk().expect("32 bytes"));
        let configuration = Configuration::clone(&self.configuration);
        let mut client = client::Client::new(configuration, id, incarnation, keychain, settings);
        for succession in &inner.successions {
            client.handle_succession(self.clock.now(), succession);
        }
        for (replica, connected) in self.group.replicas().zip(&inner.replicas) {
            let Some(Connected { outgoing, nonce, new_key }) = connected else { continue };
            if accept_key(client.keychain_mut(), new_key).is_ok() {
                join(&client, replica, outgoing, nonce);
            } else {
                outgoing.close(); // dialled again, it shows the client the way
            }
        }
        let (queue, waiting) = Default::default();
        *slot = Some(Box::new(Member { client, queue, waiting, due: None, touched: false }));
    }
}

impl Shared {
    /// Something about the configuration is of interest to all clients of the link alike, and all are in
    /// the same one: the first asks for all of them, and what it finds proven goes to all.
    fn on_membership(&self, message: Unverified<Message>) {
        let (inner, now) = (&mut *self.inner.borrow_mut(), self.clock.now());
        let members = inner.clients.iter_mut().zip((0..).map(ClientId));
        let mut members = members.filter_map(|(member, id)| Some((member.as_mut()?, id)));
        let Some((first, id)) = members.next() else { return };
        let mut fed = vec![id];
        let before = first.client.configuration().number;
        first.client.handle_message(now, message.clone());
        if first.client.configuration().number > before
            && let Message::Succession(succession) = message.body
        {
            for (member, id) in members {
                member.client.handle_succession(now, &succession);
                fed.push(id);
            }
            inner.go_over(succession);
        }
        fed.into_iter().for_each(|id| inner.touch(id));
    }
}

fn join(client: &client::Client, replica: ReplicaId, outgoing: &Rc<Outgoing>, nonce: &[u8; 32]) {
    let join = frame::join(client.keychain(), Principal::Replica(replica), nonce);
    outgoing.put_bytes(&join.expect("a client's key is renewed before it joins"));
    if let Some(greeting) = client.greeting() {
        outgoing.put(|out| frame::put_message(out, &greeting));
    }
    outgoing.flush();
}

/// Feeds, polls and flushes the clients until nobody holds a handle.
async fn drive(shared: &Shared, mut orders: mpsc::UnboundedReceiver<Order>) {
    let mut taken = Vec::new();
    let mut published = tokio::time::Instant::now();
    let mut stale = true;
    loop {
        let wake = {
            let due = shared.inner.borrow().wake().map(|due| shared.clock.at(due));
            let status = stale.then_some(published + STATUS_PERIOD);
            due.into_iter().chain(status).min()
        };
        let timer = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            count = orders.recv_many(&mut taken, 1024) => if count == 0 {
                return;
            },
            () = shared.fed.notified() => {}
            () = timer => {}
        }
        for order in taken.drain(..) {
            match order {
                Order::Add { id, identity, incarnation, settings } => {
                    shared.add(id, *identity, incarnation, settings);
                }
                Order::Invoke { id, asks, waiting } => {
                    shared.inner.borrow_mut().invoke(id, asks, waiting);
                }
            }
        }
        let inner = &mut *shared.inner.borrow_mut();
        inner.step(shared.clock.now(), shared.group.n());
        stale = true;
        if published.elapsed() >= STATUS_PERIOD {
            inner.publish();
            published = tokio::time::Instant::now();
            stale = false;
        }
    }
}

impl Inner {
    fn invoke(&mut self, id: ClientId, asks: Asks, waiting: Waiting) {
        // A client that could not be added drops what it is asked: its callers see the link ended.
        let Some(member) = self.clients.get_mut(id.index()).and_then(Option::as_mut) else { return };
        member.queue.push_back((asks, waiting));
        self.in_flight += 1;
        self.touch(id);
    }

    fn touch(&mut self, id: ClientId) {
        if let Some(member) = self.clients.get_mut(id.index()).and_then(Option::as_mut)
            && !std::mem::replace(&mut member.touched, true)
        {
            self.touched.push(id);
        }
    }

    /// All clients are in the next configuration.
    fn go_over(&mut self, succession: Succession) {
        // Somebody else has their places: their connections mean nothing any more.
        for (index, _) in &succession.reconfigure.replacements {
            if let Some(gone) = self.replicas[index.index()].take() {
                gone.outgoing.close();
            }
            self.suspects.remove(index);
        }
        self.successions.push(succession);
    }

    /// When there is something to do, if nothing comes in.
    fn wake(&self) -> Option<Instant> {
        let due = self.due.first().map(|(due, _)| *due);
        // Also when it is over: it may have been the driver's last step that lasted until then.
        let ready = self.quorum_since.filter(|_| !self.ready).map(|since| since + STRAGGLERS);
        due.into_iter().chain(ready).min()
    }

    fn is_ready(&self, now: Instant, n: u32) -> bool {
        let all = self.replicas.iter().flatten().count() == n as usize;
        self.quorum_since.is_some_and(|since| all || since + STRAGGLERS <= now)
    }

    fn step(&mut self, now: Instant, n: u32) {
        self.ready = self.is_ready(now, n);
        while let Some((due, id)) = self.due.first().copied().filter(|(due, _)| *due <= now) {
            self.due.remove(&(due, id));
            if let Some(member) = self.clients.get_mut(id.index()).and_then(Option::as_mut) {
                member.due = None;
                member.client.handle_timeout(now);
            }
            self.touch(id);
        }
        let mut touched = std::mem::take(&mut self.touched);
        for id in touched.drain(..) {
            self.poll(now, id);
            if !self.ready {
                self.touch(id); // it may have something to submit
            }
        }
        if self.touched.is_empty() {
            self.touched = touched; // its room is used again
        }
        for outgoing in self.dirty.drain(..) {
            outgoing.flush();
        }
    }

    /// Operations wait until the link is ready; the way to those who are members by now does not.
    fn poll(&mut self, now: Instant, id: ClientId) {
        let Some(member) = self.clients.get_mut(id.index()).and_then(Option::as_mut) else { return };
        member.touched = false;
        loop {
            if self.ready {
                member.submit(now, &mut self.in_flight);
            }
            let Some(action) = member.client.poll_action(now) else { break };
            match action {
                ClientAction::Send { to, message } => {
                    if let Some(Some(connected)) = self.replicas.get(to.index()) {
                        connected.send(&message, &mut self.dirty);
                    }
                }
                ClientAction::Broadcast { message } => {
                    // The primary last: large operations are with the backups before it orders them.
                    let primary = member.client.primary().index();
                    let (before, from) = self.replicas.split_at(primary.min(self.replicas.len()));
                    for connected in from.iter().skip(1).chain(before).chain(from.first()).flatten() {
                        connected.send(&message, &mut self.dirty);
                    }
                }
                ClientAction::Succession(_) => {} // all clients go over at once
                ClientAction::Disagreed { replica, sequence } => {
                    self.suspects.entry(replica).or_default().again(sequence);
                }
                ClientAction::Outcome(outcome) => {
                    for replica in outcome.disagreed.iter() {
                        self.suspects.entry(replica).or_default().again(outcome.sequence);
                    }
                    self.in_flight -= 1;
                    if let Some(waiting) = member.waiting.remove(&outcome.request) {
                        let _ = waiting.answer.send(Ok(outcome)); // its caller may have given up
                    }
                }
            }
        }
        // Each operation puts it off, and nearly all are answered in time: being woken now and then for
        // nothing is cheaper.
        if let Some(due) = member.client.poll_timeout()
            && member.due.is_none_or(|before| due < before)
        {
            if let Some(before) = member.due.replace(due) {
                self.due.remove(&(before, id));
            }
            self.due.insert((due, id));
        }
    }

    fn publish(&mut self) {
        let connected = (0..).map(ReplicaId).zip(&self.replicas);
        let status = ClientStatus {
            connected: connected.filter(|(_, slot)| slot.is_some()).map(|(id, _)| id).collect(),
            suspects: self.suspects.clone(),
            in_flight: self.in_flight,
            refused: self.refused.clone(),
            successions: self.successions.clone(),
        };
        self.status.send_if_modified(|known| {
            let changed = *known != status;
            *known = status;
            changed
        });
    }
}

impl Member {
    fn submit(&mut self, now: Instant, in_flight: &mut usize) {
        while let Some((asks, waiting)) = self.queue.pop_front() {
            let submitted = match &asks {
                Asks::Operation(operation, options) => self.client.submit(now, operation.clone(), *options),
                Asks::Reconfigure(order) => self.client.submit_reconfigure(now, order),
            };
            match submitted {
                Ok(request) => _ = self.waiting.insert(request, waiting),
                Err(SubmitRefused::WindowFull { .. }) => {
                    self.queue.push_front((asks, waiting)); // until an outcome makes room
                    return;
                }
                Err(refused) => {
                    *in_flight -= 1;
                    let _ = waiting.answer.send(Err(refused)); // its caller may have given up
                }
            }
        }
    }
}

impl Connected {
    fn send(&self, message: &Unverified<Message>, dirty: &mut Vec<Rc<Outgoing>>) {
        self.outgoing.put(|out| frame::put_message(out, message));
        self.outgoing.note(dirty);
    }
}

impl Dialler for Shared {
    fn transport(&self) -> &TransportSettings {
        &self.transport
    }

    fn frame_bytes_max(&self) -> usize {
        self.transport.frame_bytes_max(&self.configuration)
    }

    fn random(&self) -> u64 {
        let seed = self.inner.borrow_mut().rng.next_seed();
        u64::from_le_bytes(*seed.first_chunk().expect("32 bytes"))
    }

    fn hello(&self) -> Bytes {
        frame::hello(&self.configuration, &[0; 32], None)
    }

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal> {
        same_group(hello, &self.configuration)
    }

    fn on_hello(
        &self,
        peer: ReplicaId,
        outgoing: &Rc<Outgoing>,
        nonce: [u8; 32],
        new_key: NewKey,
    ) -> Result<(), Refusal> {
        self.on_new_key(new_key.clone())?;
        let inner = &mut *self.inner.borrow_mut();
        for member in inner.clients.iter().flatten() {
            join(&member.client, peer, outgoing, &nonce);
        }
        let outgoing = Rc::clone(outgoing);
        inner.replicas[peer.index()] = Some(Connected { outgoing, nonce, new_key });
        let connected = inner.replicas.iter().flatten().count();
        if connected >= self.group.quorum() as usize {
            inner.quorum_since.get_or_insert(self.clock.now());
        }
        Ok(())
    }

    fn on_new_key(&self, new_key: NewKey) -> Result<(), Refusal> {
        let inner = &mut *self.inner.borrow_mut();
        let mut members = inner.clients.iter_mut().flatten();
        members.try_for_each(|member| accept_key(member.client.keychain_mut(), &new_key).map(drop))?;
        // Clients that are put on the link later need it, too.
        if let Principal::Replica(id) = new_key.sender
            && let Some(Some(connected)) = inner.replicas.get_mut(id.index())
        {
            connected.new_key = new_key;
        }
        Ok(())
    }

    fn on_message(&self, message: Unverified<Message>) -> bool {
        let client = match &message.body {
            Message::Reply(reply) => reply.client,
            Message::Busy(busy) => busy.client,
            Message::Seal(seal) => seal.client,
            Message::Configured(_) | Message::Succession(_) => {
                self.on_membership(message);
                return true;
            }
            _ => return false,
        };
        let inner = &mut *self.inner.borrow_mut();
        if let Some(Some(member)) = inner.clients.get_mut(client.index()) {
            let now = self.read_at.get().unwrap_or_else(|| self.clock.now());
            self.read_at.set(Some(now));
            member.client.handle_message(now, message);
            inner.touch(client);
        }
        true // one reply in four comes late, and nobody can tell which
    }

    fn configuration(&self) -> u64 {
        self.configuration.number + self.inner.borrow().successions.len() as u64
    }

    fn configured(&self) -> Option<Unverified<Message>> {
        // All are in the same one.
        self.inner.borrow().clients.iter().flatten().next()?.client.greeting()
    }

    fn on_read(&self, _: bool) {
        self.read_at.set(None);
        self.fed.notify_one();
    }

    fn on_end(&self, peer: ReplicaId, outgoing: &Rc<Outgoing>, refusal: Option<&Refusal>) {
        self.read_at.set(None);
        let inner = &mut *self.inner.borrow_mut();
        if let Some(refusal) = refusal {
            tracing::debug!(%peer, %refusal, "connection refused");
            *inner.refused.entry(refusal.kind()).or_default() += 1;
        }
        let slot = &mut inner.replicas[peer.index()];
        if slot.as_ref().is_some_and(|known| Rc::ptr_eq(&known.outgoing, outgoing)) {
            *slot = None;
        }
        self.fed.notify_one();
    }
}

/// Renews the clients' session keys on a period and ends the grace of the old ones.
async fn renew_keys(shared: Rc<Shared>) {
    loop {
        sleep(shared.transport.key_period).await;
        {
            let inner = &mut *shared.inner.borrow_mut();
            for member in inner.clients.iter_mut().flatten() {
                let (epoch, secret) = (shared.clock.epoch(), inner.rng.next_seed());
                let new_key = frame::new_key(member.client.keychain_mut().renew(epoch, secret));
                for connected in inner.replicas.iter().flatten() {
                    connected.outgoing.put_bytes(&new_key);
                    connected.outgoing.note(&mut inner.dirty);
                }
            }
        }
        shared.fed.notify_one();
        sleep(shared.transport.key_grace).await;
        for member in shared.inner.borrow_mut().clients.iter_mut().flatten() {
            member.client.keychain_mut().expire_old();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{crypto::PublicKey, group::GroupId};

    /// Nothing else may come in: with one replica away, no more connect.
    #[test]
    fn stragglers_whose_time_ran_out_during_a_step_are_not_waited_for_longer() {
        let replicas = (0..4).map(PublicKey::fixture).collect();
        let configuration = Arc::new(Configuration::genesis(GroupId([1; 16]), replicas, Vec::new()));
        let status = watch::channel(ClientStatus::default()).0;
        let shared = Shared::new(configuration, [1; 32], TransportSettings::default(), status);
        let inner = &mut *shared.inner.borrow_mut();
        assert_eq!(inner.wake(), None);
        let since = Instant(1);
        inner.quorum_since = Some(since);
        inner.step(since, 4);
        // However late it is when the driver asks.
        assert_eq!(inner.wake(), Some(since + STRAGGLERS));
        inner.step(since + STRAGGLERS, 4);
        assert!(inner.ready);
        assert_eq!(inner.wake(), None);
    }
}
