//! Replicas as a model checker needs them: every state that one was found in, and where each thing that
//! can happen to it leads.
//!
//! A replica decides by itself, so what happens to it is worked out once for each of its own states, by the
//! real state machine, however many states of the group it is a part of. A replica is not copied: it is
//! made again from what happened to it, as after a crash.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_pbft::{
    Action, Configuration, Context, Instant, JournalPosition, Record, Replica, ReplicaId, Sequence, Service,
    Settings, State, View,
    crypto::{Digest, DigestAlgorithm, Keychain, Principal},
    membership::Chain,
    message::{Message, Unverified},
    mutation::{self, Mutation},
};

/// Longer than any time-out.
const LONG: Duration = Duration::from_secs(1 << 20);
/// Replicas that are kept as they are, because more may happen to them soon.
const LIVE_MAX: usize = 4096;

/// Writes each operation down on the page of its batch.
#[derive(Clone, Copy, Debug)]
struct Notebook;

impl Service for Notebook {
    fn execute(&self, context: &Context, operation: &[u8], state: &mut State) -> Bytes {
        state.write(context.sequence.0, operation);
        Bytes::copy_from_slice(operation)
    }
}

/// A state of one replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LocalId(u32);

/// A message that somebody sent, or may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MessageId(u32);

/// What can happen to a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Input {
    /// A message arrives.
    Hear(MessageId),
    /// All that it wrote is safe.
    Sync,
    /// Its timers run out.
    Timeout,
    /// It ends, and comes back with what was safe and so many of the records behind that.
    Crash(usize),
}

/// A set of messages, one bit for each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Messages(Vec<u64>);

impl Messages {
    pub(crate) fn insert(&mut self, MessageId(id): MessageId) {
        let (word, bit) = (id as usize / 64, id % 64);
        self.0.resize(self.0.len().max(word + 1), 0);
        self.0[word] |= 1 << bit;
    }

    pub(crate) fn extend(&mut self, others: &Self) {
        self.0.resize(self.0.len().max(others.0.len()), 0);
        self.0.iter_mut().zip(&others.0).for_each(|(word, other)| *word |= other);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = MessageId> {
        self.but(self, &Self(Vec::new())).collect::<Vec<_>>().into_iter()
    }

    /// Those that are in `these` too, and not in `others`.
    fn but(&self, these: &Self, others: &Self) -> impl Iterator<Item = MessageId> {
        let word = |set: &Self, index: usize| set.0.get(index).copied().unwrap_or(0);
        (0..).zip(&self.0).flat_map(move |(index, mine)| {
            let mut left = mine & word(these, index as usize) & !word(others, index as usize);
            std::iter::from_fn(move || {
                let bit = left.trailing_zeros();
                left &= left.wrapping_sub(1);
                (bit < 64).then_some(MessageId(index * 64 + bit))
            })
        })
    }
}

/// What a replica was ever seen doing; a crash takes none of it back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    /// The batches that it found committed in each place, and in which views; learned ones in none.
    pub(crate) committed: BTreeMap<Sequence, BTreeSet<(Option<View>, Digest)>>,
    /// What it executed in each place: nothing, when that was empty.
    pub(crate) executed: BTreeMap<Sequence, BTreeSet<Bytes>>,
    /// The batches that it found prepared, and in which views.
    pub(crate) prepared: BTreeSet<(Sequence, View, Digest)>,
    /// The batch that it said it holds, in each view and place, and whether it said that it prepared it.
    pub(crate) said: BTreeMap<(View, Sequence), (Digest, bool)>,
    /// Whether it has left its view for a later one that has not begun.
    pub(crate) is_changing: bool,
    /// Whom it accused.
    pub(crate) accused: BTreeSet<ReplicaId>,
    /// Answers that it gave to clients.
    pub(crate) answers: Vec<MessageId>,
    /// Messages that it sent to other replicas.
    pub(crate) sent: Messages,
    /// To whom it sent the batch that they lacked, as bits.
    pub(crate) helped: u32,
    /// How often its timers ran out.
    pub(crate) timeouts: u32,
    /// How often it crashed.
    pub(crate) crashes: u32,
    /// The view that it is in, or wants to enter.
    pub(crate) view: View,
    /// Records that are not safe yet.
    pub(crate) unsafe_records: usize,
}

/// A replica that runs, and its disk.
struct Life {
    replica: Replica<Notebook>,
    now: Instant,
    journal: Vec<(JournalPosition, Record)>,
    durable: JournalPosition,
    facts: Facts,
}

struct Local {
    me: ReplicaId,
    /// How it came about.
    origin: Option<(LocalId, Input)>,
    facts: Facts,
    /// Where what can happen leads, as far as somebody asked: perhaps nowhere else.
    next: HashMap<Input, LocalId>,
    /// Messages of which nothing comes here.
    deaf: Messages,
    /// The replica itself, if it is at hand.
    live: Option<Box<Life>>,
}

/// All states of all replicas that were found so far, and all messages.
pub(crate) struct Locals {
    configuration: Configuration,
    settings: Settings,
    /// Replicas whose disks take their time, because they may crash.
    may_crash: u32,
    mutation: Option<Mutation>,
    locals: Vec<Local>,
    by_fingerprint: HashMap<Digest, LocalId>,
    live: VecDeque<LocalId>,
    posts: Vec<Unverified<Message>>,
    /// The messages for each replica.
    addressed: Vec<Messages>,
    by_text: HashMap<(u32, String), MessageId>,
}

impl Locals {
    pub(crate) fn new(
        configuration: Configuration,
        settings: Settings,
        may_crash: u32,
        mutation: Option<Mutation>,
    ) -> Self {
        Self {
            addressed: vec![Messages::default(); configuration.n() as usize],
            configuration,
            settings: Settings { status_period: LONG * 64, status_idle: LONG * 64, ..settings },
            may_crash,
            mutation,
            locals: Vec::new(),
            by_fingerprint: HashMap::new(),
            live: VecDeque::new(),
            posts: Vec::new(),
            by_text: HashMap::new(),
        }
    }

    /// How many states of replicas were found.
    pub(crate) fn len(&self) -> usize {
        self.locals.len()
    }

    pub(crate) fn facts(&self, local: LocalId) -> &Facts {
        &self.locals[local.0 as usize].facts
    }

    pub(crate) fn message(&self, message: MessageId) -> &Unverified<Message> {
        &self.posts[message.0 as usize]
    }

    /// A replica that has never run before.
    pub(crate) fn begin(&mut self, me: ReplicaId) -> LocalId {
        let mut life = self.born(me);
        self.drive(&mut life);
        self.found(me, None, Box::new(life))
    }

    /// The messages of a network that move a replica, of those that are `wanted`.
    pub(crate) fn hearable(
        &mut self,
        local: LocalId,
        network: &Messages,
        wanted: impl Fn(&Facts, &Unverified<Message>) -> bool,
    ) -> Vec<MessageId> {
        let Local { me, deaf, facts, .. } = &self.locals[local.0 as usize];
        let candidates = network.but(&self.addressed[me.index()], deaf);
        let wanted = candidates.filter(|id| wanted(facts, self.message(*id)));
        let mut wanted: Vec<_> = wanted.collect();
        wanted.retain(|id| self.step(local, Input::Hear(*id)) != local);
        wanted
    }

    /// Where something leads; the same state when nothing comes of it.
    pub(crate) fn step(&mut self, from: LocalId, input: Input) -> LocalId {
        if let Some(next) = self.locals[from.0 as usize].next.get(&input) {
            return *next;
        }
        let mut life = match self.locals[from.0 as usize].live.take() {
            Some(life) => life,
            None => Box::new(self.again(from)),
        };
        self.apply(&mut life, input);
        let me = self.locals[from.0 as usize].me;
        let next = self.found(me, Some((from, input)), life);
        let local = &mut self.locals[from.0 as usize];
        match input {
            Input::Hear(message) if next == from => local.deaf.insert(message),
            _ => _ = local.next.insert(input, next),
        }
        next
    }

    /// A message, under the name that it has.
    pub(crate) fn name(&mut self, to: u32, message: Unverified<Message>) -> MessageId {
        let text = format!("{message:?}");
        let fresh = MessageId(u32::try_from(self.posts.len()).expect("few"));
        let id = *self.by_text.entry((to, text)).or_insert(fresh);
        if id == fresh {
            self.posts.push(message);
            for (_, addressed) in
                self.addressed.iter_mut().enumerate().filter(|(index, _)| to >> index & 1 == 1)
            {
                addressed.insert(id);
            }
        }
        id
    }

    /// The state that a replica is in, which may be known already.
    fn found(&mut self, me: ReplicaId, origin: Option<(LocalId, Input)>, life: Box<Life>) -> LocalId {
        // Of a disk that takes no time, nobody will ever see what is on it.
        let disk = self.is_slow(me, &life).then_some((&life.journal, life.durable));
        let text = format!("{me:?} {disk:?} {:?} {:?}", life.facts, life.replica.fingerprint());
        let digest = Digest::of(DigestAlgorithm::Sha256, &[text.as_bytes()]);
        let fresh = LocalId(u32::try_from(self.locals.len()).expect("few"));
        let id = *self.by_fingerprint.entry(digest).or_insert(fresh);
        if id == fresh {
            let facts = life.facts.clone();
            self.locals.push(Local {
                me,
                origin,
                facts,
                next: HashMap::new(),
                deaf: Messages::default(),
                live: None,
            });
        }
        let local = &mut self.locals[id.0 as usize];
        if local.live.replace(life).is_none() {
            self.live.push_back(id);
        }
        if self.live.len() > LIVE_MAX
            && let Some(oldest) = self.live.pop_front()
        {
            self.locals[oldest.0 as usize].live = None;
        }
        id
    }

    /// Makes a replica again from what happened to it.
    fn again(&mut self, local: LocalId) -> Life {
        let mut inputs = Vec::new();
        let mut at = local;
        while let Some((before, input)) = self.locals[at.0 as usize].origin {
            inputs.push(input);
            at = before;
        }
        let mut life = self.born(self.locals[local.0 as usize].me);
        self.drive(&mut life);
        inputs.into_iter().rev().for_each(|input| self.apply(&mut life, input));
        life
    }

    fn keys(&self, me: Principal) -> Keychain {
        Keychain::fast(self.configuration.scope(), self.configuration.public_keys(), me)
    }

    fn born(&self, me: ReplicaId) -> Life {
        let (configuration, keys) = (self.configuration.clone(), self.keys(Principal::Replica(me)));
        let mut replica = Replica::new(configuration, me, keys, Notebook, self.settings.clone());
        replica.handle_timeout(Instant(0)); // whoever starts asks what it missed
        Life {
            replica,
            now: Instant(0),
            journal: Vec::new(),
            durable: JournalPosition(0),
            facts: Facts::default(),
        }
    }

    fn is_slow(&self, me: ReplicaId, life: &Life) -> bool {
        self.may_crash >> me.0 & 1 == 1 && life.facts.crashes == 0
    }

    fn apply(&mut self, life: &mut Life, input: Input) {
        match input {
            Input::Hear(message) => {
                let message = self.message(message).clone();
                self.in_error(|| life.replica.handle_message(life.now, message));
            }
            Input::Sync => {
                life.durable = life.journal.last().map_or(life.durable, |(position, _)| *position);
                self.in_error(|| life.replica.handle_durable(life.now, life.durable));
            }
            Input::Timeout => {
                let (view, now) = (life.replica.view(), life.now + LONG);
                self.in_error(|| life.replica.handle_timeout(now));
                // A timer that moved nothing need not have run out.
                if life.replica.view() > view {
                    life.now = now;
                    life.facts.timeouts += 1;
                }
            }
            Input::Crash(kept) => {
                let me = life.replica.id();
                let safe = life.journal.iter().filter(|(position, _)| *position <= life.durable).count();
                life.journal.truncate(safe + kept);
                life.facts.crashes += 1;
                if life.journal.is_empty() {
                    life.replica = self.born(me).replica;
                } else {
                    let chain = Chain::new(self.configuration.clone());
                    let keys = self.keys(Principal::Replica(me));
                    let (settings, records) = (self.settings.clone(), life.journal.clone());
                    let recovered =
                        self.in_error(|| Replica::recover(&chain, me, keys, Notebook, settings, records));
                    life.replica = recovered.expect("a replica reads what it wrote");
                }
            }
        }
        self.drive(life);
    }

    /// Carries out what the replica wants done.
    fn drive(&mut self, life: &mut Life) {
        let me = life.replica.id();
        loop {
            while let Some(action) = self.in_error(|| life.replica.poll_action(life.now)) {
                self.carry_out(me, life, action);
            }
            let written = life.journal.last().map_or(life.durable, |(position, _)| *position);
            if self.is_slow(me, life) || written == life.durable {
                break;
            }
            life.durable = written;
            self.in_error(|| life.replica.handle_durable(life.now, written));
        }
        let executed = life.facts.executed.last_key_value().map_or(0, |(last, _)| last.0);
        for sequence in executed + 1..=life.replica.executed().0 {
            let operation = Bytes::copy_from_slice(life.replica.state().page(sequence));
            life.facts.executed.entry(Sequence(sequence)).or_default().insert(operation);
        }
        // Whatever was executed before a crash may be executed otherwise after it.
        for (sequence, operations) in &mut life.facts.executed {
            if *sequence <= life.replica.executed() {
                operations.insert(Bytes::copy_from_slice(life.replica.state().page(sequence.0)));
            }
        }
        life.facts.view = life.replica.view();
        life.facts.is_changing = life.replica.is_changing();
        life.facts.unsafe_records =
            life.journal.iter().filter(|(position, _)| *position > life.durable).count();
    }

    fn carry_out(&mut self, me: ReplicaId, life: &mut Life, action: Action) {
        match action {
            Action::Send { to, message } => match to {
                Principal::Replica(to) => self.send(life, 1 << to.0, message),
                Principal::Client(_) => {
                    let answer = self.name(0, message);
                    if !life.facts.answers.contains(&answer) {
                        life.facts.answers.push(answer);
                    }
                }
            },
            Action::Broadcast { message } => {
                self.send(life, ((1 << self.configuration.n()) - 1) & !(1 << me.0), message);
            }
            Action::Append { position, record } => {
                match &record {
                    Record::Prepared { view, sequence, digest } => {
                        life.facts.prepared.insert((*sequence, *view, *digest));
                    }
                    Record::Committed { view, sequence, digest } => {
                        life.facts.committed.entry(*sequence).or_default().insert((Some(*view), *digest));
                    }
                    Record::Learned { sequence, batch } => {
                        let digest = batch.digest(&self.configuration.scope());
                        life.facts.committed.entry(*sequence).or_default().insert((None, digest));
                    }
                    _ => {}
                }
                life.journal.push((position, record));
            }
            Action::Evidence(evidence) => life.facts.accused.extend(evidence.culprit()),
            Action::Truncate { .. } => {} // a hint
        }
    }

    fn send(&mut self, life: &mut Life, to: u32, message: Unverified<Message>) {
        match &message.body {
            Message::PrePrepare(it) if message.sender == Principal::Replica(life.replica.id()) => {
                let digest = it.batch.digest(&self.configuration.scope());
                life.facts.said.entry((it.view, it.sequence)).or_insert((digest, false));
            }
            Message::Prepare(it) => {
                life.facts.said.entry((it.view, it.sequence)).or_insert((it.digest, false));
            }
            Message::Body(_) => life.facts.helped |= to,
            Message::Commit(it) => {
                life.facts.said.insert((it.view, it.sequence), (it.digest, true));
            }
            _ => {}
        }
        // Lost, always: what it asks for is on its way already, and stays there.
        if !matches!(message.body, Message::Status(_)) {
            let id = self.name(to, message);
            life.facts.sent.insert(id);
        }
    }

    /// Does something with the rule left out that this model leaves out.
    fn in_error<T>(&self, run: impl FnOnce() -> T) -> T {
        match self.mutation {
            Some(mutation) => mutation::with(mutation, run),
            None => run(),
        }
    }
}
