//! What comes from clients: answered from the table, queued by the primary, relayed by backups.
//!
//! Everything here is forgotten in a crash; clients send again.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use super::table::{Known, Table};
use super::{Ignored, Replica, Settings};
use bytes::Bytes;

use crate::crypto::{Digest, Principal};
use crate::group::{ClientId, Configuration, Incarnation, Limits, Sequence, Timestamp, View};
use crate::message::{Answer, Batch, Busy, Content, Message, Reply, Request, Seal, Unverified};
use crate::mutation::{self, Mutation};
use crate::service::Service;
use crate::time::Instant;

/// Requests that wait for a place in the order, fairly: each client in turn.
#[derive(Debug)]
pub(super) struct Admission {
    clients: Vec<Lane>,
    /// Clients with waiting requests, each once, in the order of their turns.
    turns: VecDeque<ClientId>,
    /// How many of the waiting requests may be waited for.
    expected: usize,
    window: u64,
}

/// One client's requests.
#[derive(Debug, Default)]
struct Lane {
    /// At most `queue_requests_max`, and about `queue_bytes_max`.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// The incarnation that `taken` is about.
    incarnation: Incarnation,
    /// Timestamps that wait or were given a place: one bit for each, at `timestamp mod window`,
    /// from `floor` on.
    taken: Vec<u64>,
    floor: Timestamp,
    /// When a request that was passed on before may be passed on again.
    relay_due: Instant,
    /// Seals that were made for the client; the latest few, to be sent again.
    seals: VecDeque<Kept>,
}

/// A seal that may be asked for again.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    seal: Seal,
    /// Its signature is of the configuration in force; else it has to be made again before the seal is sent.
    signed: bool,
}

/// A request that waits, for a place or to be executed.
#[derive(Debug)]
struct Waiting {
    request: Unverified<Request>,
    /// Its digest while too few vouch for it: nobody is blamed yet for not ordering it.
    unvouched: Option<Digest>,
}

/// Bytes of waiting requests that a backup passes on when a view begins.
const RELAY_BYTES: usize = 1 << 20;
/// Seals remembered for each client.
const SEALS_MAX: usize = 16;

impl Admission {
    pub(super) fn new(clients: usize, limits: &Limits) -> Self {
        Self {
            clients: (0..clients).map(|_| Lane::default()).collect(),
            turns: VecDeque::new(),
            expected: 0,
            window: limits.client_window.into(),
        }
    }

    /// Another configuration is in force: all that waits or has a place is void. Seals stay, but for their
    /// signatures.
    pub(super) fn begin_anew(&mut self) {
        (self.turns, self.expected) = (VecDeque::new(), 0);
        for lane in &mut self.clients {
            let mut seals = std::mem::take(&mut lane.seals);
            seals.iter_mut().for_each(|kept| kept.signed = false);
            *lane = Lane { seals, ..Lane::default() };
        }
    }

    /// The history that they are of may be another one than the group's.
    pub(super) fn forget_seals(&mut self) {
        self.clients.iter_mut().for_each(|lane| lane.seals.clear());
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Whether an operation waits or was given a place.
    fn is_taken(&self, client: ClientId, incarnation: Incarnation, timestamp: Timestamp) -> bool {
        let lane = &self.clients[client.index()];
        if incarnation != lane.incarnation || timestamp < lane.floor {
            return false;
        }
        let bit = usize::try_from(timestamp.0 % self.window).expect("below the window");
        timestamp.0 - lane.floor.0 < self.window
            && lane.taken.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1)
    }

    /// Marks a request's operations, so that sending it again does not order it again. The caller
    /// has checked that they are within the window above the request's floor.
    pub(super) fn take(&mut self, request: &Request) {
        let window = self.window;
        let words = usize::try_from(window.div_ceil(64)).expect("client_window is a u32");
        let lane = &mut self.clients[request.client.index()];
        if request.incarnation < lane.incarnation {
            return;
        }
        if lane.taken.is_empty() || request.incarnation > lane.incarnation {
            lane.taken.clear();
            lane.taken.resize(words, 0);
            (lane.incarnation, lane.floor) = (request.incarnation, request.floor);
        }
        let passed = request.floor.0.saturating_sub(lane.floor.0).min(window);
        for offset in 0..passed {
            let bit = usize::try_from((lane.floor.0 + offset) % window).expect("below the window");
            lane.taken[bit / 64] &= !(1 << (bit % 64));
        }
        lane.floor = lane.floor.max(request.floor);
        for timestamp in request.timestamps() {
            if timestamp >= lane.floor && timestamp.0 - lane.floor.0 < window {
                let bit = usize::try_from(timestamp.0 % window).expect("below the window");
                lane.taken[bit / 64] |= 1 << (bit % 64);
            }
        }
    }

    /// Says whether it was taken: nothing that a client's later words overtook waits.
    fn enqueue(&mut self, request: Unverified<Request>, unvouched: Option<Digest>) -> bool {
        let Request { client, incarnation, .. } = request.body;
        self.take(&request.body);
        if !request.body.timestamps().all(|timestamp| self.is_taken(client, incarnation, timestamp)) {
            return false;
        }
        let lane = &mut self.clients[client.index()];
        if lane.waiting.is_empty() {
            self.turns.push_back(client);
        }
        lane.waiting_bytes += request.batched_bytes();
        self.expected += usize::from(unvouched.is_none());
        lane.waiting.push_back(Waiting { request, unvouched });
        true
    }

    /// The next request in turn, if it is no larger than `bytes` and `operations`.
    pub(super) fn next(&mut self, bytes: usize, operations: usize) -> Option<Unverified<Request>> {
        let client = *self.turns.front()?;
        let lane = &mut self.clients[client.index()];
        let first = lane.waiting.front().expect("whoever has a turn has a request");
        if first.request.batched_bytes() > bytes || first.request.body.count() > operations {
            return None;
        }
        self.turns.pop_front();
        let Waiting { request, unvouched } = lane.waiting.pop_front()?;
        lane.waiting_bytes -= request.batched_bytes();
        self.expected -= usize::from(unvouched.is_none());
        if !lane.waiting.is_empty() {
            self.turns.push_back(client);
        }
        Some(request)
    }

    /// A request that every correct primary can order, and that has waited about as long as any.
    pub(super) fn expected(&self) -> Option<&Unverified<Request>> {
        if self.expected == 0 {
            return None; // spares the search
        }
        let mut waiting = self.turns.iter().flat_map(|client| &self.clients[client.index()].waiting);
        waiting.find(|one| one.unvouched.is_none()).map(|one| &one.request)
    }

    /// Enough vouch for a request: from now on it may be waited for. Says whether it waits here.
    pub(super) fn wait_for(&mut self, client: ClientId, digest: &Digest) -> bool {
        let waiting = &mut self.clients[client.index()].waiting;
        let found = waiting.iter_mut().find(|one| one.unvouched.as_ref() == Some(digest));
        let Some(found) = found else { return false };
        found.unvouched = None;
        self.expected += 1;
        true
    }

    /// A request to be passed on again: one that may be waited for, if there is one.
    fn oldest(&self) -> Option<&Unverified<Request>> {
        let first = || self.clients[self.turns.front()?.index()].waiting.front();
        self.expected().or_else(|| Some(&first()?.request))
    }

    /// The operations that a request names, if it waits here with them.
    pub(super) fn operations_of(&self, request: &Unverified<Request>) -> Option<Vec<Bytes>> {
        Some(self.find(request)?.body.operations.clone())
    }

    /// Whether a request waits here with the operations that it names.
    pub(super) fn has_operations_of(&self, request: &Unverified<Request>) -> bool {
        self.find(request).is_some()
    }

    fn find(&self, request: &Unverified<Request>) -> Option<&Unverified<Request>> {
        let mut waiting = self.clients.get(request.body.client.index())?.waiting.iter();
        let is_it = |one: &&Waiting| {
            one.request.body.first == request.body.first && one.request.bytes == request.bytes
        };
        waiting.find(is_it).map(|one| &one.request)
    }

    /// Whether a client's request waits.
    pub(super) fn waits(&self, client: ClientId, first: Timestamp) -> bool {
        let mut waiting = self.clients[client.index()].waiting.iter();
        waiting.any(|one| one.request.body.first == first)
    }

    /// Forgets what was given a place, and hands out all that waits.
    fn take_all(&mut self) -> Vec<Unverified<Request>> {
        self.turns.clear();
        self.expected = 0;
        let mut waiting = Vec::new();
        for lane in &mut self.clients {
            lane.taken.clear();
            lane.waiting_bytes = 0;
            waiting.extend(lane.waiting.drain(..).map(|one| one.request));
        }
        waiting
    }

    /// Whether it is time to pass a request on again.
    fn may_relay(&mut self, client: ClientId, now: Instant, period: Duration) -> bool {
        let due = &mut self.clients[client.index()].relay_due;
        let is_due = *due <= now;
        if is_due {
            *due = now + period;
        }
        is_due
    }

    /// Drops waiting requests of these clients that are done with.
    fn prune(&mut self, clients: impl IntoIterator<Item = ClientId>, is_open: impl Fn(&Request) -> bool) {
        clients.into_iter().for_each(|client| self.prune_lane(client, &is_open));
        let lanes = &self.clients;
        self.turns.retain(|client| !lanes[client.index()].waiting.is_empty());
    }

    fn prune_lane(&mut self, client: ClientId, is_open: impl Fn(&Request) -> bool) {
        let Some(lane) = self.clients.get_mut(client.index()) else { return };
        if lane.waiting.is_empty() {
            return;
        }
        let expected = &mut self.expected;
        lane.waiting.retain(|one| {
            let stays = is_open(&one.request.body);
            *expected -= usize::from(!stays && one.unvouched.is_none());
            stays
        });
        lane.waiting_bytes = lane.waiting.iter().map(|one| one.request.batched_bytes()).sum();
    }

    pub(super) fn keep_seal(&mut self, seal: &Seal) {
        let seals = &mut self.clients[seal.client.index()].seals;
        if seals.len() == SEALS_MAX {
            seals.pop_front();
        }
        seals.push_back(Kept { seal: seal.clone(), signed: true });
    }

    /// The kept seal with a path for an operation.
    fn seal(&self, client: ClientId, incarnation: Incarnation, timestamp: Timestamp) -> Option<&Kept> {
        self.clients[client.index()].seals.iter().find(|Kept { seal, .. }| {
            seal.incarnation == incarnation && seal.paths.iter().any(|path| path.timestamp == timestamp)
        })
    }

    /// A kept seal is signed again.
    fn renew_seal(&mut self, signed: &Seal) {
        for Kept { seal, signed: is_signed } in &mut self.clients[signed.client.index()].seals {
            if seal.sequence == signed.sequence {
                (seal.signature, *is_signed) = (signed.signature.clone(), true); // one root, one signature
            }
        }
    }
}

/// Whether something that a request asks for can still be executed.
fn is_open(table: &Table, request: &Request) -> bool {
    let Request { client, incarnation, floor, .. } = *request;
    request.timestamps().any(|timestamp| table.look(client, incarnation, floor, timestamp) == Known::New)
}

/// How many bytes of one client's requests may wait. A primary's leave the queue when they get a place, a
/// backup's when they are executed: it has room for all that may be on the way in between, so that it does not
/// lack operations that the primary took.
fn queue_bytes_max(configuration: &Configuration, settings: &Settings, leads: bool) -> usize {
    let batches = usize::try_from(settings.batches_in_flight).unwrap_or(usize::MAX).saturating_add(1);
    let on_the_way = batches.saturating_mul(configuration.limits.batch_bytes_max as usize);
    settings.queue_bytes_max.saturating_add(if leads { 0 } else { on_the_way })
}

impl<S: Service> Replica<S> {
    /// A client asks, or somebody relays what it asked; `doubted` when the tag is wrong here.
    pub(super) fn on_request(&mut self, client: ClientId, request: Unverified<Request>, doubted: bool) {
        if !self.execution.table().has(client) {
            return self.put_aside(Ignored::NotForUs);
        }
        if self.check_request(&request).is_err() {
            return self.put_aside(Ignored::Oversized);
        }
        if request.body.read_only {
            // Nobody has to be convinced but the client.
            return if doubted { self.put_aside(Ignored::Doubted) } else { self.on_read(&request.body) };
        }
        let Request { incarnation, floor, receipt, .. } = request.body;
        let is_void = !request.is_signed() && self.marks.binds(client);
        if (doubted || is_void) && !self.is_vouched_for(&request) {
            if doubted {
                return self.put_aside(Ignored::Doubted);
            }
            self.refuse(&request.body, true);
            return self.put_aside(Ignored::Unsigned);
        }
        let leads = self.is_leading();
        let (mut answers, mut open, mut fresh, mut seals) = (Vec::new(), false, false, Vec::new());
        for timestamp in request.body.timestamps() {
            match self.execution.table().look(client, incarnation, floor, timestamp) {
                Known::Closed => return self.put_aside(Ignored::OldIncarnation),
                Known::OutsideWindow => return self.put_aside(Ignored::OutsideClientWindow),
                // In full: whoever asks again may have lost what the designated replier sent.
                Known::Executed => {
                    answers.extend(self.execution.table().answer(client, timestamp, true));
                    if let Some(seal) = self.admission.seal(client, incarnation, timestamp)
                        && receipt
                        && !seals.contains(seal)
                    {
                        seals.push(seal.clone());
                    }
                }
                Known::Answered => {}
                Known::New => {
                    let taken = self.admission.is_taken(client, incarnation, timestamp);
                    fresh |= !taken;
                    open |= !leads || !taken;
                }
            }
        }
        let repeated = answers.is_empty() && !open;
        if !self.may_answer() {
            answers.clear();
            seals.clear();
        }
        self.send_answers(client, answers);
        for Kept { mut seal, signed } in seals {
            if !signed {
                // The root is the same, and it is of this replica's own history.
                seal.signature = self.sign_root(seal.sequence, seal.size, &seal.root);
                self.admission.renew_seal(&seal);
            }
            self.send_to_client(client, Message::Seal(seal));
        }
        if repeated {
            return self.put_aside(Ignored::Repeated);
        }
        if !open {
            // Whoever has not executed it yet may have forgotten in a crash what this replica said of it.
            let period = self.settings.status_period;
            if !request.is_signed()
                && self.admission.may_relay(client, self.now, period)
                && !mutation::is_on(Mutation::SilentOnceExecuted)
            {
                let digest = self.request_digest(&request);
                self.vouch(client, digest);
            }
            return;
        }
        self.retransmission.wake(self.now);
        if leads {
            self.enqueue(request);
            return;
        }
        let fresh = fresh && self.enqueue(request.clone());
        if fresh && !request.body.named.is_empty() {
            self.operations_came(client);
            // Its client sends it to all, and asks nobody for help yet.
            if !request.is_signed() {
                return;
            }
        }
        // What was passed on once is passed on again now and then: two replicas that take each other
        // for the primary would else send it round for ever.
        if fresh || self.admission.may_relay(client, self.now, self.settings.status_period) {
            self.relay(request);
        }
        self.start_view_timer();
    }

    /// Whether this replica orders what it is sent.
    pub(super) fn is_leading(&self) -> bool {
        self.is_primary() && !self.is_changing()
    }

    /// Keeps a request until it has a place; as backup, until it is executed: it is what the view
    /// timer waits for, once enough vouch for it, and the next primary may be this replica. Tells the
    /// client if there is no room.
    fn enqueue(&mut self, request: Unverified<Request>) -> bool {
        let client = request.body.client;
        let lane = &self.admission.clients[client.index()];
        let bytes_max = queue_bytes_max(&self.configuration, &self.settings, self.is_leading());
        let full = lane.waiting.len() >= self.settings.queue_requests_max || lane.waiting_bytes >= bytes_max;
        if full && !mutation::is_on(Mutation::QueueEverything) {
            self.refuse(&request.body, false);
            return false;
        }
        let needs_words = !request.is_signed() && !self.is_leading();
        let digest = needs_words.then(|| self.request_digest(&request));
        let unvouched = digest.filter(|digest| !self.may_be_waited_for(client, digest));
        self.admission.enqueue(request, unvouched)
    }

    /// Tells a client that its request is not taken, and whether a signature would help.
    fn refuse(&mut self, request: &Request, sign: bool) {
        let Request { client, incarnation, first, .. } = *request;
        self.send_to_client(client, Message::Busy(Busy { client, incarnation, first, sign }));
    }

    /// Passes on again what has waited longest here: it may have been lost on its way.
    pub(super) fn relay_oldest(&mut self) {
        let oldest = self.admission.oldest().filter(|_| !self.is_leading());
        let Some(request) = oldest.cloned() else { return };
        if self.admission.may_relay(request.body.client, self.now, self.settings.status_period) {
            self.relay(request);
        }
    }

    /// Drops waiting requests of the batch's clients that it, or one before, answered. What waits at
    /// the primary has no place yet.
    pub(super) fn prune_requests(&mut self, batch: &Batch) {
        if self.is_primary() || self.admission.is_empty() {
            return;
        }
        let table = self.execution.table();
        let clients = batch.requests.iter().map(|request| request.body.client);
        let clients: BTreeSet<_> = clients.collect();
        self.admission.prune(clients, |request| is_open(table, request));
    }

    /// Another state took the place of the own one: drops all that was answered in it.
    pub(super) fn prune_all_requests(&mut self) {
        let table = self.execution.table();
        let clients = (0..).map(ClientId).take(self.configuration.clients.len());
        self.admission.prune(clients, |request| is_open(table, request));
    }

    /// Begins a view's bookkeeping: what the view has a place for is taken, the rest waits. What the
    /// `former` view had a place for and this one has not, comes back. As backup, passes all of it on
    /// to the new primary, as far as `RELAY_BYTES` go: clients ask again by themselves.
    pub(super) fn sort_requests(&mut self, former: Option<View>) {
        let mut waiting = self.admission.take_all();
        for (sequence, slot) in self.log.slots() {
            if let Some(proposal) = &slot.proposal {
                let requests = proposal.pre_prepare.batch.requests.iter();
                requests.for_each(|request| self.admission.take(&request.body));
            }
            // What the view chose instead may be another batch, or none.
            if sequence > self.execution.executed() {
                let batch = former.and_then(|former| slot.past.batch_of(former));
                waiting.extend(batch.into_iter().flat_map(|batch| batch.requests.iter().cloned()));
            }
        }
        let mut bytes_left = RELAY_BYTES;
        for request in waiting {
            let Request { client, incarnation, .. } = request.body;
            let taken = |timestamp| self.admission.is_taken(client, incarnation, timestamp);
            let done =
                !is_open(self.execution.table(), &request.body) || request.body.timestamps().all(taken);
            let is_void = self.marks.binds(client) && !request.is_signed();
            if done || is_void || !self.enqueue(request.clone()) {
                continue;
            }
            let bytes = request.batched_bytes();
            if !self.is_leading() && bytes <= bytes_left {
                bytes_left -= bytes;
                self.pass_on(request);
            }
        }
    }

    /// Vouches for a client's request, unless anybody can check it, and sends it on to the primary.
    fn relay(&mut self, request: Unverified<Request>) {
        if !request.is_signed() {
            let digest = self.request_digest(&request);
            self.vouch(request.body.client, digest);
            self.settle_all_doubts();
        }
        self.pass_on(request);
    }

    /// Sends a client's request on to the primary, as it came: the client's authenticator holds a
    /// tag for the primary too.
    fn pass_on(&mut self, request: Unverified<Request>) {
        let primary = self.primary();
        if primary != self.me {
            let to = Principal::Replica(primary);
            self.actions
                .push_back(super::Action::Send { to, message: request.into_message(Message::Request) });
        }
    }

    /// Answers without ordering, from the state after the last executed batch. The client takes
    /// 2f+1 equal answers: they share a correct replica with every quorum that acknowledged a write.
    fn on_read(&mut self, request: &Request) {
        let client = request.client;
        let too_early = self.executed() < self.reads_from && !mutation::is_on(Mutation::ReadTooEarly);
        // At the boundary others may have gone over, and acknowledge what is never heard of here. One of any
        // 2f+1 has executed up to it by then.
        if self.transfer.is_active() || !self.may_answer() || too_early || self.is_at_boundary() {
            return self.put_aside(Ignored::Stale);
        }
        let mut room = self.configuration.limits.reply_bytes_max as usize;
        let mut answers = Vec::new();
        for (timestamp, operation) in request.iter() {
            let (ending, result) = self.execution.read(client, operation);
            // What a bundle asks for is bounded by what one operation may: its client has the rest
            // ordered.
            let Some(left) = room.checked_sub(result.len()) else { break };
            room = left;
            let (sequence, content) = (Sequence(0), Content::Full(result));
            answers.push(Answer { timestamp, sequence, position: 0, ending, content });
        }
        if answers.is_empty() {
            return;
        }
        let reply = Reply { view: self.views.active(), client, incarnation: request.incarnation, answers };
        self.send_to_client(client, Message::Reply(reply));
    }

    /// Names the limit that a request breaks.
    pub(super) fn check_request(&self, request: &Unverified<Request>) -> Result<(), &'static str> {
        let limits = &self.configuration.limits;
        if request.is_padded() {
            return Err("number of bytes of a request beside its operations");
        }
        let request = &request.body;
        let (operations, count) = (&request.operations, request.count());
        if request.client.index() >= self.configuration.clients.len() {
            return Err("client");
        }
        let most = limits.client_window.min(limits.batch_operations_max) as usize;
        if count == 0 || count > most {
            return Err("number of operations of a request");
        }
        if request.reconfigure && (count > 1 || request.read_only) {
            return Err("number of operations of a request to reconfigure");
        }
        if operations.iter().any(|operation| operation.len() > limits.operation_bytes_max as usize) {
            return Err("number of bytes of an operation");
        }
        let bytes: usize = operations.iter().map(Bytes::len).sum();
        if bytes > limits.batch_bytes_max as usize {
            return Err("number of bytes of a request");
        }
        let (first, floor) = (request.first, request.floor);
        if floor < Timestamp::FIRST || floor > first || first.0 > u64::MAX / 2 {
            return Err("first timestamp");
        }
        Ok(())
    }
}

#[cfg(feature = "sim")]
impl Admission {
    pub(super) fn footprint(
        &self,
        configuration: &crate::group::Configuration,
        settings: &super::Settings,
    ) -> Vec<super::footprint::Held> {
        use super::footprint::{Held, request_bytes_max};
        let most = |of: fn(&Lane) -> usize| self.clients.iter().map(of).max().unwrap_or(0);
        let bytes_max = queue_bytes_max(configuration, settings, false) as u64;
        let bytes_max = bytes_max + request_bytes_max(configuration);
        vec![
            Held::new("turns", self.turns.len(), self.clients.len() as u64),
            Held::new(
                "waiting requests of one client",
                most(|lane| lane.waiting.len()),
                settings.queue_requests_max as u64,
            ),
            Held::new(
                "bytes of waiting requests of one client",
                most(|lane| lane.waiting.iter().map(|one| one.request.batched_bytes()).sum()),
                bytes_max,
            ),
            Held::new("words of taken timestamps", most(|lane| lane.taken.len()), self.window.div_ceil(64)),
            Held::new("seals of one client", most(|lane| lane.seals.len()), SEALS_MAX as u64),
        ]
    }
}
