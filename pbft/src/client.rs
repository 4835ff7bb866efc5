//! The client state machine.
//!
//! The rules, as events (TOCS 4.2, with many operations in flight):
//!
//! * *upon submitted operations*: give them the next timestamps, bundle them, send the bundle to
//!   the primary. Reads go to all replicas at once, and so do large operations, beside a request that
//!   names them (TOCS 5.1).
//! * *upon 2f+1 matching answers*, one of them with the result itself: that is the outcome.
//! * *when answers are late*: send the identical bundle, tagged anew, to all replicas; wait twice
//!   as long, with jitter.
//! * *when a read does not settle*: have it ordered.
//! * *upon BUSY*: wait longer than for an answer, with jitter. From the primary, or from f+1 replicas:
//!   fewer could all be faulty.
//! * *upon BUSY of f+1 replicas that ask for a signature*: sign this and all later requests of this
//!   incarnation. Tags in this client's name held a view up, whoever made them.
//! * *when the group follows an order to replace members*: ask now and then, until it is in force.
//! * *upon proof that members were replaced*: go over to the new ones; what they said before counts no
//!   more, and all that has no outcome is sent again.
//!
//! # Where this differs from the paper
//!
//! * 2f+1 answers, always. With the paper's f+1 for ordered requests, a read could miss a write
//!   that was acknowledged before.
//! * Timestamps are dense and each request carries the lowest one without an answer, so that many
//!   can be in flight and replicas know what they may forget.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::Bytes;

use crate::crypto::{Domain, Keychain, Kind, Principal, Signature};
use crate::group::{
    ClientId, Configuration, Group, Incarnation, ReplicaId, Sequence, Timestamp, View, Voters,
};
use crate::membership::{Reconfigure, Succession};
use crate::message::{
    Answer, Busy, Content, Ending, Message, Proof, Reply, Request, Unverified, operation_digest, wire,
};
use crate::mutation::{self, Mutation};
use crate::receipt::Receipt;
use crate::replica::outcome_digest;
use crate::time::Instant;

mod seals;
mod succession;
mod tally;

use tally::{Sealed, Tally, Verdict};

/// What a client may choose for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// How long an answer may take before all replicas are asked.
    pub retry_after: Duration,
    /// The longest wait between two tries; each is twice the one before, with jitter.
    pub retry_max: Duration,
    /// How long a read may take before it is ordered.
    pub read_timeout: Duration,
    /// Operations in one bundle.
    pub bundle_operations_max: u32,
    /// The longest operation, in bytes, that travels in its request and in the primary's batch. Longer
    /// ones are sent to all replicas, and the batch names them by their digests (TOCS 5.1).
    pub inline_bytes_max: usize,
    /// Seed of the jitter. Any value will do; different ones spread the load of many clients.
    pub seed: u64,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            retry_after: Duration::from_millis(150),
            retry_max: Duration::from_secs(2),
            read_timeout: Duration::from_millis(50),
            bundle_operations_max: 256,
            inline_bytes_max: 1024,
            seed: 0,
        }
    }
}

impl ClientSettings {
    /// How long the try with this number may take: twice as long as the one before.
    fn backoff(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(16);
        self.retry_after.saturating_mul(1 << doublings).min(self.retry_max)
    }
}

/// How an operation is to be done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Ask for an answer without ordering, in one round trip; ordered when that does not settle.
    pub read_only: bool,
    /// Ask for a [`Receipt`] too.
    pub receipt: bool,
}

/// Names a submitted operation: its timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub Timestamp);

/// Why an operation was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitRefused {
    /// Too many operations are in flight, counted from the oldest one without an answer.
    #[error(
        "{in_flight} operations since the oldest unanswered one fill client_window ({limit}); wait for outcomes"
    )]
    WindowFull {
        /// How many.
        in_flight: u64,
        /// The limit.
        limit: u32,
    },
    /// The operation is too large for the group.
    #[error("operation of {bytes} bytes is over operation_bytes_max ({limit})")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: u32,
    },
    /// The group keeps no history, so there are no receipts.
    #[error("the group keeps no history: it gives no receipts")]
    NoHistory,
}

/// Something that a driver does for a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAction {
    /// Send to one replica. May be lost.
    Send {
        /// The receiver.
        to: ReplicaId,
        /// What to send.
        message: Unverified<Message>,
    },
    /// Send to all replicas. May be lost.
    Broadcast {
        /// What to send.
        message: Unverified<Message>,
    },
    /// An operation has its answer; there is exactly one for each submitted operation.
    Outcome(Outcome),
    /// A replica answered an ordered operation, after it had its outcome, otherwise than the 2f+1 replicas on
    /// which that rests. A correct replica never does.
    Disagreed {
        /// The replica.
        replica: ReplicaId,
        /// The batch that executed the operation.
        sequence: Sequence,
    },
    /// Members were replaced: the client goes on under the next configuration. Kept in a
    /// [`Chain`](crate::membership::Chain), it spares the next client the way there.
    Succession(Box<Succession>),
}

/// What became of an operation, and who says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which operation.
    pub request: RequestId,
    /// Whether the service completed it.
    pub ending: Ending,
    /// The result; only its digest when the group had dropped the result before it was fetched.
    pub content: Content,
    /// The batch that executed it; 0 for a read that was not ordered.
    pub sequence: Sequence,
    /// The replicas whose matching answers this rests on; at least 2f+1.
    pub agreed: Voters,
    /// The replicas that answered something else. A correct replica never does to an ordered
    /// operation.
    pub disagreed: Voters,
    /// The receipt that was asked for; `None` when the group could not make it any more.
    pub receipt: Option<Box<Receipt>>,
}

impl Outcome {
    /// The result, when the service completed the operation and the result is at hand.
    #[must_use]
    pub fn result(&self) -> Option<&Bytes> {
        match (&self.content, self.ending) {
            (Content::Full(result), Ending::Done) => Some(result),
            _ => None,
        }
    }
}

/// A client of a group, without I/O, clock, threads or randomness of its own.
///
/// It is driven like a [`Replica`](crate::Replica): feed all that is at hand, poll until nothing is
/// left. Operations that were submitted between two polls travel in one bundle. Each is executed
/// exactly once; no order is promised between operations in flight together.
#[derive(Debug)]
pub struct Client {
    // Who takes part; changes with a SUCCESSION only.
    configuration: Configuration,
    group: Group,
    me: ClientId,
    incarnation: Incarnation,
    settings: ClientSettings,
    keychain: Keychain,

    /// The operations from the lowest one without an answer on; at most `client_window`.
    operations: VecDeque<Option<Operation>>,
    /// How many of them have no answer.
    open: usize,
    floor: Timestamp,
    /// Operations that no bundle carries yet, by timestamp.
    unsent: VecDeque<Timestamp>,
    /// What was sent and is not answered in full, by first timestamp.
    /// Boxed: a node of the map has room for eleven.
    bundles: BTreeMap<Timestamp, Box<Bundle>>,
    /// When bundles are to be sent again.
    due: BTreeSet<(Instant, Timestamp)>,

    /// What 2f+1 agreed on for the last ordered operations, by timestamp modulo [`DECIDED`]: those who are
    /// slower are measured by it, too.
    decided: Vec<Option<(Timestamp, Verdict)>>,

    /// The view each replica last spoke of.
    views: Vec<View>,
    /// When each replica was told last which configuration this client is in.
    told: Vec<Option<Instant>>,
    /// An order was followed: when to ask again whether it is in force, and how long to wait after that.
    seeking: Option<(Instant, Duration)>,
    /// Replicas that do not take this client's tags any more.
    unconvinced: Voters,
    jitter: u64,
    actions: VecDeque<ClientAction>,
    now: Instant,
    /// Messages that were put aside because nothing proves them or nobody waits for them.
    ignored: u64,
}

#[derive(Debug)]
struct Operation {
    bytes: Bytes,
    options: Options,
    /// Whether it is an order of the operator.
    reconfigure: bool,
    /// Whether it is on its way as a read without order.
    reading: bool,
    tally: Tally,
    /// Of each signer the latest one.
    seals: Vec<Sealed>,
    /// The bundle that carries it.
    bundle: Timestamp,
}

#[derive(Debug)]
struct Bundle {
    request: Request,
    bytes: Bytes,
    /// Operations in it without an answer.
    open: usize,
    attempts: u32,
    /// Replicas that said since the last try that they are busy. It may be put off once by that: else
    /// a primary could keep a client from asking all replicas for ever.
    busy: Voters,
    put_off: bool,
    /// Made once: it is over the same bytes whenever they are sent.
    signature: Option<Signature>,
    due: Instant,
}

/// Outcomes by which late answers are measured.
const DECIDED: usize = 64;

/// Where an outcome is among them.
fn place(timestamp: Timestamp) -> usize {
    usize::try_from(timestamp.0 % DECIDED as u64).expect("is below it")
}

/// After this many tries, the result or the receipt that is still missing is taken for lost.
const ATTEMPTS_FOR_EXTRAS: u32 = 6;

impl Client {
    /// A client in a new incarnation, which must be higher than every one it had before.
    ///
    /// # Panics
    /// When the configuration is not valid, or the keychain is not this client's.
    #[must_use]
    pub fn new(
        configuration: Configuration,
        me: ClientId,
        incarnation: Incarnation,
        keychain: Keychain,
        settings: ClientSettings,
    ) -> Self {
        configuration.validate().expect("the caller validates its configuration");
        assert_eq!(keychain.me(), Principal::Client(me), "the keychain is this client's");
        let group = Group::new(&configuration);
        Self {
            decided: Vec::new(),
            views: vec![View(0); group.n() as usize],
            told: vec![None; group.n() as usize],
            seeking: None,
            unconvinced: Voters::default(),
            jitter: settings.seed,
            configuration,
            group,
            me,
            incarnation,
            settings,
            keychain,
            operations: VecDeque::new(),
            open: 0,
            floor: Timestamp::FIRST,
            unsent: VecDeque::new(),
            bundles: BTreeMap::new(),
            due: BTreeSet::new(),
            actions: VecDeque::new(),
            now: Instant::default(),
            ignored: 0,
        }
    }

    /// How many operations have no outcome yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.open
    }

    /// Messages that were put aside because nothing proves them or nobody waits for them.
    #[must_use]
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    /// The replica that this client takes for the primary.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.group.primary(self.view())
    }

    /// The keys, to take in replicas' NEW-KEY and to renew one's own.
    pub fn keychain_mut(&mut self) -> &mut Keychain {
        &mut self.keychain
    }

    /// The keys.
    #[must_use]
    pub fn keychain(&self) -> &Keychain {
        &self.keychain
    }

    /// Takes an operation on.
    ///
    /// # Errors
    /// When too many are in flight, it is too large, or it asks for what the group does not give.
    pub fn submit(
        &mut self,
        now: Instant,
        operation: Bytes,
        options: Options,
    ) -> Result<RequestId, SubmitRefused> {
        self.take(now, operation, options, false)
    }

    fn take(
        &mut self,
        now: Instant,
        operation: Bytes,
        options: Options,
        reconfigure: bool,
    ) -> Result<RequestId, SubmitRefused> {
        self.now = now;
        let limits = &self.configuration.limits;
        if operation.len() > limits.operation_bytes_max as usize {
            let limit = limits.operation_bytes_max;
            return Err(SubmitRefused::TooLarge { bytes: operation.len(), limit });
        }
        if options.receipt && !self.configuration.history {
            return Err(SubmitRefused::NoHistory);
        }
        let in_flight = self.operations.len() as u64;
        if in_flight >= u64::from(limits.client_window) {
            return Err(SubmitRefused::WindowFull { in_flight, limit: limits.client_window });
        }
        let timestamp = self.floor.plus(in_flight);
        self.operations.push_back(Some(Operation {
            bytes: operation,
            options,
            reconfigure,
            reading: options.read_only,
            tally: Tally::default(),
            seals: Vec::new(),
            bundle: timestamp,
        }));
        self.unsent.push_back(timestamp);
        self.open += 1;
        Ok(RequestId(timestamp))
    }

    /// Takes in a message from the network.
    pub fn handle_message(&mut self, now: Instant, message: Unverified<Message>) {
        self.now = now;
        let sender = message.sender;
        match message.body {
            Message::Configured(theirs) => return self.on_configured(sender, theirs),
            Message::Succession(succession) => return self.on_succession(sender, &succession),
            _ => {}
        }
        let Ok(message) = message.verify(&self.keychain) else {
            self.ignored += 1;
            return self.tell_configuration(sender);
        };
        let message = message.into_received();
        match (message.sender, message.body) {
            (Principal::Replica(from), Message::Reply(reply)) if self.is_ours(reply.client) => {
                self.on_reply(from, reply);
            }
            (Principal::Replica(from), Message::Busy(busy)) if self.is_ours(busy.client) => {
                self.on_busy(from, &busy);
            }
            (Principal::Replica(from), Message::Seal(seal)) if self.is_ours(seal.client) => {
                self.on_seal(from, seal);
            }
            _ => self.ignored += 1,
        }
    }

    fn is_ours(&self, client: ClientId) -> bool {
        client == self.me
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        while let Some((due, first)) = self.due.first().copied() {
            if due > now {
                break;
            }
            self.due.remove(&(due, first));
            self.on_late(first);
        }
        if let Some((_, wait)) = self.seeking.filter(|(due, _)| *due <= now) {
            self.seeking = Some((now + wait, (wait * 2).min(self.settings.retry_max)));
            let message = self.configured();
            self.actions.push_back(ClientAction::Broadcast { message });
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called, if at all.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let seeking = self.seeking.map(|(due, _)| due);
        self.due.first().map(|(due, _)| *due).into_iter().chain(seeking).min()
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self, now: Instant) -> Option<ClientAction> {
        self.now = now;
        if self.actions.is_empty() {
            self.send_unsent();
        }
        self.actions.pop_front()
    }

    fn operation_mut(&mut self, timestamp: Timestamp) -> Option<&mut Operation> {
        let offset = usize::try_from(timestamp.0.checked_sub(self.floor.0)?).ok()?;
        self.operations.get_mut(offset)?.as_mut()
    }

    /// Bundles neighbours that want the same.
    fn send_unsent(&mut self) {
        let limits = self.configuration.limits.clone();
        let most = self.settings.bundle_operations_max.min(limits.batch_operations_max) as usize;
        let inline = self.settings.inline_bytes_max;
        while let Some(first) = self.unsent.pop_front() {
            let operation = self.operation_mut(first).expect("what is unsent has no answer");
            let (options, reading, alone) = (operation.options, operation.reading, operation.reconfigure);
            let mut bytes = operation.bytes.len();
            let is_large = bytes > inline;
            operation.bundle = first;
            let mut operations = vec![operation.bytes.clone()];
            while let Some(next) = self.unsent.front().copied() {
                let follows = next == first.plus(operations.len() as u64) && operations.len() < most;
                let operation = self.operation_mut(next).expect("what is unsent has no answer");
                let alike = operation.options == options
                    && operation.reading == reading
                    && (operation.bytes.len() > inline) == is_large
                    && !(alone || operation.reconfigure);
                bytes += operation.bytes.len();
                if !follows || !alike || bytes > limits.batch_bytes_max as usize {
                    break;
                }
                operation.bundle = first;
                operations.push(operation.bytes.clone());
                self.unsent.pop_front();
            }
            let named = is_large && !reading;
            self.send_bundle(first, (operations, named), options, (reading, alone));
        }
    }

    fn send_bundle(
        &mut self,
        first: Timestamp,
        (operations, named): (Vec<Bytes>, bool),
        options: Options,
        (reading, reconfigure): (bool, bool),
    ) {
        // Replicas take turns at sending full results, so none carries the load of all.
        let replier = ReplicaId(u32::try_from(first.0 % u64::from(self.group.n())).expect("below n"));
        let scope = self.keychain.scope();
        let request = Request {
            client: self.me,
            incarnation: self.incarnation,
            floor: self.floor,
            first,
            named: operations.iter().filter(|_| named).map(|one| operation_digest(scope, one)).collect(),
            operations,
            read_only: reading,
            receipt: options.receipt && !reading,
            replier,
            reconfigure,
        };
        let bytes = wire::encode_request(&request);
        let wait = if reading { self.settings.read_timeout } else { self.settings.retry_after };
        let due = self.now + self.jittered(wait);
        let open = request.operations.len();
        self.due.insert((due, first));
        let (attempts, busy, put_off, signature) = (1, Voters::default(), false, None);
        let bundle = Bundle { request, bytes, open, attempts, busy, put_off, signature, due };
        self.bundles.insert(first, Box::new(bundle));
        self.transmit(first, reading);
    }

    /// Tags a bundle for the sessions of now, or signs it, and sends it.
    fn transmit(&mut self, first: Timestamp, to_all: bool) {
        let (signs, domain) = (self.has_to_sign(), Domain::new(Kind::Request, 0));
        let bundle = self.bundles.get_mut(&first).expect("who sends a bundle has it");
        let bytes = bundle.bytes.clone();
        let proof = if signs && !bundle.request.read_only {
            let signature = bundle.signature.get_or_insert_with(|| self.keychain.sign(domain, &bytes));
            Proof::Signature(signature.clone())
        } else {
            Proof::Authenticator(self.keychain.authenticator(domain, &bytes))
        };
        let named = !bundle.request.named.is_empty();
        let body = Message::Request(bundle.request.clone());
        let message = Unverified { sender: Principal::Client(self.me), body, bytes, proof };
        let to = self.primary();
        self.actions.push_back(match to_all || named {
            true => ClientAction::Broadcast { message },
            false => ClientAction::Send { to, message },
        });
    }

    /// Whether a correct replica asks for signatures.
    fn has_to_sign(&self) -> bool {
        self.unconvinced.count() >= self.group.weak_quorum()
    }

    /// From three quarters of a duration to five quarters of it.
    fn jittered(&mut self, duration: Duration) -> Duration {
        let dice = u32::try_from(crate::group::splitmix(&mut self.jitter) % 512).expect("below 512");
        duration * (768 + dice) / 1024
    }

    fn on_late(&mut self, first: Timestamp) {
        let Some(bundle) = self.bundles.get_mut(&first) else { return };
        if bundle.request.read_only {
            return self.order_reads(first);
        }
        bundle.attempts += 1;
        (bundle.busy, bundle.put_off) = (Voters::default(), false);
        let wait = self.settings.backoff(bundle.attempts);
        self.reschedule(first, wait);
        let timestamps: Vec<_> =
            self.bundles[&first].request.iter().map(|(timestamp, _)| timestamp).collect();
        for timestamp in timestamps {
            self.settle(timestamp); // without what is taken for lost by now
        }
        if self.bundles.contains_key(&first) {
            self.transmit(first, true);
        }
    }

    fn reschedule(&mut self, first: Timestamp, wait: Duration) {
        let due = self.now + self.jittered(wait);
        let Some(bundle) = self.bundles.get_mut(&first) else { return };
        self.due.remove(&(bundle.due, first));
        bundle.due = due;
        self.due.insert((due, first));
    }

    /// Has the reads of a bundle ordered that did not settle.
    fn order_reads(&mut self, first: Timestamp) {
        let Some(bundle) = self.bundles.remove(&first) else { return };
        self.due.remove(&(bundle.due, first));
        for (timestamp, _) in bundle.request.iter() {
            if let Some(operation) = self.operation_mut(timestamp) {
                operation.reading = false;
                operation.tally = Tally::default();
                self.unsent.push_back(timestamp);
            }
        }
    }

    fn on_reply(&mut self, from: ReplicaId, reply: Reply) {
        if reply.incarnation != self.incarnation {
            self.ignored += 1;
            return;
        }
        self.views[from.index()] = reply.view;
        for answer in reply.answers {
            self.on_answer(from, answer);
        }
    }

    fn on_answer(&mut self, from: ReplicaId, answer: Answer) {
        let scope = *self.keychain.scope();
        let Some(operation) = self.operation_mut(answer.timestamp) else {
            return self.on_late_answer(from, &answer);
        };
        let Answer { timestamp, sequence, position, ending, content } = answer;
        if operation.reading != (sequence == Sequence(0)) {
            self.ignored += 1;
            return; // of the read that was given up
        }
        let (digest, result) = match content {
            Content::Full(result) => {
                let known = operation.tally.digest_of(&result);
                (known.unwrap_or_else(|| outcome_digest(&scope, &result)), Some(result))
            }
            Content::Digest(digest) => (digest, None),
        };
        operation.tally.record(from, Verdict { sequence, position, ending, digest }, result);
        self.settle(timestamp);
    }

    /// An answer to what has its outcome already.
    fn on_late_answer(&mut self, from: ReplicaId, answer: &Answer) {
        self.ignored += 1;
        let Some(Some((timestamp, verdict))) = self.decided.get(place(answer.timestamp)) else { return };
        if *timestamp != answer.timestamp || answer.sequence == Sequence(0) {
            return;
        }
        let digest = match &answer.content {
            Content::Full(result) => outcome_digest(self.keychain.scope(), result),
            Content::Digest(digest) => *digest,
        };
        let Answer { sequence, position, ending, .. } = *answer;
        if *verdict != (Verdict { sequence, position, ending, digest }) {
            let sequence = verdict.sequence;
            self.actions.push_back(ClientAction::Disagreed { replica: from, sequence });
        }
    }

    /// Gives an outcome once 2f+1 agree and all that was asked for is there.
    fn settle(&mut self, timestamp: Timestamp) {
        let (mut quorum, n) = (self.group.quorum(), self.group.n());
        if mutation::is_on(Mutation::AnswerAtWeakQuorum) {
            quorum = self.group.weak_quorum();
        }
        let attempts = self.attempts(timestamp);
        let Some(operation) = self.operation_mut(timestamp) else { return };
        let bundle = operation.bundle;
        if operation.reading {
            let (best, all) = operation.tally.best();
            if best + (n - all) < quorum || operation.tally.not_read_only() > 0 {
                return self.order_reads(bundle);
            }
        }
        let Some(entry) = operation.tally.winner(quorum) else { return };
        let patient = attempts < ATTEMPTS_FOR_EXTRAS;
        let (verdict, agreed) = (entry.verdict, entry.voters);
        let content = match &entry.result {
            Some(result) => Content::Full(result.clone()),
            None if patient => return,
            None => Content::Digest(verdict.digest),
        };
        let disagreed = operation.tally.disagreed(&verdict);
        let (wants_receipt, is_order) =
            (operation.options.receipt && !operation.reading, operation.reconfigure);
        let receipt = wants_receipt.then(|| self.receipt(timestamp, &verdict)).flatten().map(Box::new);
        if wants_receipt && receipt.is_none() && patient {
            return;
        }
        let Verdict { sequence, ending, .. } = verdict;
        let request = RequestId(timestamp);
        if is_order
            && let Content::Full(result) = &content
            && Reconfigure::outcome(result).is_ok_and(|boundary| boundary > self.configuration.start)
        {
            self.seeking = Some((self.now + self.settings.retry_after, self.settings.retry_after));
        }
        if sequence != Sequence(0) {
            let place = place(timestamp);
            if self.decided.len() <= place {
                self.decided.resize_with(place + 1, || None);
            }
            self.decided[place] = Some((timestamp, verdict));
        }
        self.close(timestamp);
        self.actions.push_back(ClientAction::Outcome(Outcome {
            request,
            ending,
            content,
            sequence,
            agreed,
            disagreed,
            receipt,
        }));
    }

    fn attempts(&mut self, timestamp: Timestamp) -> u32 {
        let bundle = self.operation_mut(timestamp).map(|operation| operation.bundle);
        bundle.and_then(|first| self.bundles.get(&first)).map_or(0, |bundle| bundle.attempts)
    }

    /// Forgets an operation that has its outcome, and moves the floor.
    fn close(&mut self, timestamp: Timestamp) {
        let offset = usize::try_from(timestamp.0 - self.floor.0).expect("in the window");
        let Some(operation) = self.operations[offset].take() else { return };
        self.open -= 1;
        if let Some(bundle) = self.bundles.get_mut(&operation.bundle) {
            bundle.open -= 1;
            if bundle.open == 0 {
                self.due.remove(&(bundle.due, operation.bundle));
                self.bundles.remove(&operation.bundle);
            }
        }
        while self.operations.front().is_some_and(Option::is_none) {
            self.operations.pop_front();
            self.floor = self.floor.plus(1);
        }
    }

    /// A replica does not take a request now: ask again later, or with a signature.
    fn on_busy(&mut self, from: ReplicaId, busy: &Busy) {
        if busy.incarnation != self.incarnation || !self.bundles.contains_key(&busy.first) {
            self.ignored += 1;
        } else if busy.sign {
            self.on_unconvinced(from);
        } else {
            self.on_full(from, busy.first);
        }
    }

    /// The primary has no room, or f+1 replicas have none.
    fn on_full(&mut self, from: ReplicaId, first: Timestamp) {
        let (primary, needed) = (self.primary(), self.group.weak_quorum());
        let Some(bundle) = self.bundles.get_mut(&first) else { return };
        bundle.busy.insert(from);
        let counts = from == primary || bundle.busy.count() >= needed;
        if !counts || bundle.put_off {
            self.ignored += 1;
            return;
        }
        bundle.put_off = true;
        let wait = self.settings.backoff(bundle.attempts + 1);
        self.reschedule(first, wait);
    }

    /// A replica asks for signatures. Once f+1 do, all that waits goes out again, signed.
    fn on_unconvinced(&mut self, from: ReplicaId) {
        let signed_before = self.has_to_sign();
        self.unconvinced.insert(from);
        if !signed_before && self.has_to_sign() {
            let waiting = self.bundles.iter().filter(|(_, bundle)| !bundle.request.read_only);
            let waiting: Vec<_> = waiting.map(|(first, _)| *first).collect();
            waiting.into_iter().for_each(|first| self.transmit(first, true));
        }
    }

    /// The highest view that f+1 replicas speak of, or a later one: one of them is correct.
    fn view(&self) -> View {
        let first = self.views[0];
        if self.views.iter().all(|view| *view == first) {
            return first; // nearly always
        }
        let mut views = self.views.clone();
        views.sort_unstable_by(|a, b| b.cmp(a));
        views[self.group.f() as usize]
    }
}
