//! The replica state machine.
//!
//! The rules, as events (TOCS 4.3 and 4.4; `n` replicas, of which `f` may lie):
//!
//! * *upon a request*: answer it from the client table if it was executed; as primary, queue it;
//!   as backup, vouch for it and relay it to the primary (`vouching` says when it is authentic, and
//!   `marks` whose tags are not taken).
//! * *when fewer than `batches_in_flight` batches are unfinished and the next sequence number is
//!   between the watermarks*: as primary, order all that waits in one batch; write it down, then
//!   send PRE-PREPARE.
//! * *upon a PRE-PREPARE of the view's primary* for a free place between the watermarks: once all its
//!   requests are authentic, and all operations that they name are here (`separate` has the rules), write
//!   it down, then send PREPARE.
//! * *upon 2f matching PREPAREs of backups and the PRE-PREPARE*: write that down, then send COMMIT.
//! * *upon 2f+1 matching COMMITs*, one's own among them: execute in order, and reply.
//! * *upon executing a multiple of K*: write down the state's digest, then send CHECKPOINT.
//! * *upon 2f+1 matching CHECKPOINTs*, one's own among them: it is stable; move the low watermark
//!   there and drop what lies below.
//! * *upon the certificate of a checkpoint that cannot be reached any more*: fetch what differs in that state
//!   (`transfer` has its rules).
//! * *when nothing moves*: tell the others how far one is; they send again what is missing.
//! * *when a request waits that every correct primary can order, and the primary does nothing*: change
//!   the view (`view_change` has its rules).
//! * *when the operator replaces members*: go over to the next configuration (`succession` has its rules).
//!
//! "Write down, then send" is one rule: a promise leaves only after the journal holds it, so a
//! replica that restarts from its journal never contradicts what it said before.
//!
//! # Where this differs from the paper
//!
//! * Requests may carry tags that this replica cannot check, because a faulty client tagged them
//!   selectively or because a restart ended the session they were made under. Then f+1 replicas' word
//!   is as good as a tag, for each request by itself (`vouching`). The paper's view timers run
//!   for any request; here, for those that every correct primary can order.
//! * f+1 replicas' word that a batch is committed is enough to execute it (`learning`).
//! * Replies for consecutive requests of one client share a message.
//! * A backup counts its own PREPARE when it accepts a pre-prepare, not when the record is durable:
//!   whatever follows from it has a later record, which is durable no sooner.
//! * CHECKPOINTs carry a signature under the state, so that 2f+1 of them are a certificate that
//!   anyone can be shown.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::crypto::{Digest, Domain, Keychain, Kind, Principal};
use crate::evidence::{Evidence, Lie, MisbehaviourProof};
use crate::group::{ClientId, Configuration, Group, ReplicaId, Sequence, View};
use crate::message::{Form, Message, PrePrepare, Proof, Unverified, Verified, placed, wire};
use crate::service::{Service, State};
use crate::time::Instant;

mod action;
mod admission;
mod allowance;
mod batch;
mod checkpoint;
mod decision;
mod durable;
mod execution;
#[cfg(feature = "sim")]
mod fingerprint;
#[cfg(feature = "sim")]
mod footprint;
mod health;
mod learning;
mod log;
mod marks;
mod normal;
mod past;
mod record;
mod recovery;
mod separate;
mod settings;
mod status;
mod succession;
mod table;
mod transfer;
mod view_change;
mod vouching;

pub use action::{Action, Ignored, Misbehaviour};
#[cfg(feature = "sim")]
pub(crate) use decision::decide;
pub(crate) use decision::{follows, is_well_formed};
pub(crate) use execution::{boundary_digest, outcome_digest};
#[cfg(feature = "sim")]
pub use footprint::Held;
pub use health::Readiness;
pub(crate) use past::CLAIMS_PER_PLACE_MAX;
pub use record::{JournalPosition, Record};
pub use recovery::RecoveryFailed;
pub use settings::Settings;

use admission::Admission;
use allowance::Allowances;
use checkpoint::Checkpoints;
use durable::Outbox;
use execution::Execution;
use health::Health;
use log::Log;
use marks::Marks;
use separate::Late;
use status::Retransmission;
use succession::Succeeding;
use transfer::Transfer;
use view_change::Views;
use vouching::Vouching;

/// One replica of a group, without I/O, clock, threads or randomness of its own.
///
/// * Ask: [`view`](Self::view), [`primary`](Self::primary), [`executed`](Self::executed),
///   [`stable`](Self::stable), [`state`](Self::state), [`ignored`](Self::ignored) …
/// * Feed: [`handle_message`](Self::handle_message) or [`handle_verified`](Self::handle_verified),
///   [`handle_durable`](Self::handle_durable), [`handle_timeout`](Self::handle_timeout).
/// * Take: [`poll_action`](Self::poll_action) until it returns `None`, then sleep until something
///   comes in or [`poll_timeout`](Self::poll_timeout) is due.
///
/// The one rule on order: feed all that is at hand, then poll until nothing is left. The primary
/// makes its batches while it is polled, so what was fed together is ordered together.
///
/// ```text
/// loop {
///     while let Some(input) = inputs.try_next() { replica.handle_…(now, input) }
///     while let Some(action) = replica.poll_action(now) { carry_out(action) }
///     wait for an input, or until replica.poll_timeout(), then replica.handle_timeout(now)
/// }
/// ```
#[derive(Debug)]
pub struct Replica<S> {
    // Who takes part; changes at boundaries only.
    configuration: Configuration,
    group: Group,
    /// How this replica came into the configuration, and who was shown the way.
    succeeding: Succeeding,
    me: ReplicaId,
    settings: Settings,

    /// Sessions with everybody else.
    keychain: Keychain,

    // The order: what is promised and voted for between the watermarks.
    /// The view this replica is in, or wants to enter.
    view: View,
    views: Views,
    log: Log,
    /// As primary: requests that wait for a place; as backup: those that wait to be executed.
    admission: Admission,
    /// Which requests are authentic, as others say.
    vouching: Vouching,
    /// Clients that have to sign.
    marks: Marks,
    /// Clients whose operations did not come in time.
    late: Late,
    /// As primary: the last sequence number that was given to a batch.
    last_proposed: Sequence,

    // The replicated state, its checkpoints, and the way back when others are far ahead.
    execution: Execution<S>,
    checkpoints: Checkpoints,
    transfer: Transfer,
    health: Health,
    /// Answers up to this batch may have been given before a crash: no read is answered before it
    /// is executed again, else 2f+1 replicas that came back could deny an acknowledged write.
    reads_from: Sequence,

    /// Promises that wait for the journal.
    outbox: Outbox,
    retransmission: Retransmission,
    /// What each replica may do for now.
    allowances: Vec<Allowances>,

    /// What is to be done, in order.
    actions: VecDeque<Action>,
    /// The time of the call that is being handled.
    now: Instant,
    /// How often a message was put aside, and why.
    ignored: BTreeMap<Ignored, u64>,
    /// How often nothing came of a message, whatever the reason.
    wasted: u64,
    /// Who was accused of what: at most as many as there are replicas and kinds.
    accused: BTreeSet<(ReplicaId, &'static str)>,
}

impl<S: Service> Replica<S> {
    /// A replica that has never run before: nothing is promised, nothing is executed.
    ///
    /// Whoever has run before with this identity must come back by [`Replica::recover`]; a replica
    /// that forgot its promises could make others that contradict them.
    ///
    /// # Panics
    /// When the configuration is not valid or no genesis, or has no replica `me`, or the keychain is
    /// another's.
    #[must_use]
    pub fn new(
        configuration: Configuration,
        me: ReplicaId,
        keychain: Keychain,
        service: S,
        settings: Settings,
    ) -> Self {
        assert_eq!(configuration.number, 0, "whoever comes later joins");
        Self::empty(configuration, me, keychain, service, settings)
    }

    fn empty(
        configuration: Configuration,
        me: ReplicaId,
        keychain: Keychain,
        service: S,
        settings: Settings,
    ) -> Self {
        configuration.validate().expect("the caller validates its configuration");
        let group = Group::new(&configuration);
        assert!(group.has(me), "replica {me} is not in a group of {}", group.n());
        assert_eq!(keychain.me(), Principal::Replica(me), "the keychain is this replica's");
        Self {
            view: View(0),
            views: Views::new(&configuration.scope()),
            succeeding: Succeeding::default(),
            log: Log::new(configuration.limits.window, configuration.start),
            admission: Admission::new(configuration.clients.len(), &configuration.limits),
            last_proposed: configuration.start,
            vouching: Vouching::default(),
            marks: Marks::default(),
            late: Late::default(),
            execution: Execution::new(&configuration, service),
            checkpoints: Checkpoints::new(&configuration),
            transfer: Transfer::default(),
            health: Health::default(),
            reads_from: Sequence(0),
            outbox: Outbox::new(settings.journal),
            retransmission: Retransmission::new(&group, &settings),
            allowances: vec![Allowances::default(); group.n() as usize],
            actions: VecDeque::new(),
            now: Instant::default(),
            ignored: BTreeMap::new(),
            wasted: 0,
            accused: BTreeSet::new(),
            configuration,
            group,
            me,
            settings,
            keychain,
        }
    }

    /// The view this replica is in, or wants to enter: [`is_changing`](Self::is_changing) tells.
    #[must_use]
    pub fn view(&self) -> View {
        self.view
    }

    /// The primary of that view.
    #[must_use]
    pub fn primary(&self) -> ReplicaId {
        self.group.primary(self.view)
    }

    /// Whether this replica is the primary.
    #[must_use]
    pub fn is_primary(&self) -> bool {
        self.primary() == self.me
    }

    /// Which replica this is.
    #[must_use]
    pub fn id(&self) -> ReplicaId {
        self.me
    }

    /// The last batch that was executed.
    #[must_use]
    pub fn executed(&self) -> Sequence {
        self.execution.executed()
    }

    /// The low watermark: the last stable checkpoint.
    #[must_use]
    pub fn stable(&self) -> Sequence {
        self.log.low()
    }

    /// Whether this replica is fetching a state because it cannot follow from its own.
    #[must_use]
    pub fn is_transferring(&self) -> bool {
        self.transfer.is_active()
    }

    /// The service's state after the last executed batch.
    #[must_use]
    pub fn state(&self) -> &State {
        self.execution.state()
    }

    /// The number of operations in the history.
    #[must_use]
    pub fn history_size(&self) -> u64 {
        self.execution.history().size()
    }

    /// How often messages were put aside, by reason.
    pub fn ignored(&self) -> impl Iterator<Item = (Ignored, u64)> {
        self.ignored.iter().map(|(reason, count)| (*reason, *count))
    }

    /// How often nothing came of a message: it was put aside, whatever the reason, or told once more of
    /// somebody what is known. A driver that sees it grow with each message of a peer may read less from it.
    #[must_use]
    pub fn wasted(&self) -> u64 {
        self.wasted
    }

    /// The group's configuration.
    #[must_use]
    pub fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// The keys, to check messages with on another thread's behalf.
    #[must_use]
    pub fn keychain(&self) -> &Keychain {
        &self.keychain
    }

    /// The keys, to take in others' NEW-KEY and to renew one's own.
    pub fn keychain_mut(&mut self) -> &mut Keychain {
        &mut self.keychain
    }

    /// Takes in a message from the network. Whatever it is, nothing worse happens than that it is
    /// put aside and counted.
    pub fn handle_message(&mut self, now: Instant, message: Unverified<Message>) {
        self.now = now;
        let sender = message.sender;
        match message.body {
            Message::Configured(theirs) => self.on_configured(sender, theirs),
            // It may be the only one who has the proof that the former configuration is over.
            _ if self.succeeding.is_retired() => self.tell_configuration(sender),
            Message::Succession(succession) => self.on_succession(sender, &succession),
            _ => match message.verify(&self.keychain) {
                Ok(message) => return self.handle_verified(now, message),
                Err(_) => {
                    self.put_aside(Ignored::Unproven);
                    self.tell_configuration(sender);
                }
            },
        }
        self.conclude();
    }

    /// Takes in a message that was checked with this replica's keys. What does not pass the check, and
    /// what has [`Form::Nothing`], belongs to [`handle_message`](Self::handle_message) all the same: it
    /// is how replicas in different configurations find to each other.
    pub fn handle_verified(&mut self, now: Instant, message: Verified<Message>) {
        self.now = now;
        if self.succeeding.is_retired() {
            return;
        }
        // Checked before this replica went over: perhaps with the key of somebody who was replaced.
        if message.configuration() != self.configuration.number {
            return self.put_aside(Ignored::Unproven);
        }
        let (doubts, batch) = (message.doubts().to_vec(), message.batch());
        let message = message.into_received();
        let Unverified { sender, body, bytes, proof } = message;
        if self.is_halted() && !matches!(body, Message::Status(_)) {
            return self.put_aside(Ignored::Halted);
        }
        match (sender, body) {
            (Principal::Client(client), Message::Request(body)) => {
                let doubted = !doubts.is_empty();
                if doubted {
                    self.tell_configuration(sender); // it may be tagged for another one
                }
                self.on_request(client, Unverified { sender, body, bytes, proof }, doubted);
            }
            (Principal::Replica(from), body) if self.group.has(from) && from != self.me => match body {
                Message::PrePrepare(message) => {
                    let word = Unverified { sender, body: message.clone(), bytes, proof };
                    self.on_pre_prepare(from, message, batch, doubts);
                    self.keep_word(word, batch);
                }
                Message::Vouch(message) => self.on_vouch(from, &message),
                Message::Doubt(message) => self.on_doubt(from, message),
                Message::Prepare(message) => self.on_prepare(from, message),
                Message::Commit(message) => self.on_commit(from, message),
                Message::Checkpoint(message) => self.on_checkpoint(from, &message),
                Message::Status(message) => self.on_status(from, &message),
                Message::Fetch(message) => self.on_fetch(from, &message),
                Message::MetaData(message) => self.on_meta_data(from, message),
                Message::Data(message) => self.on_data(from, message),
                Message::Stable(certificate) => self.on_stable(certificate),
                Message::ViewChange(body) => {
                    self.on_view_change(from, Unverified { sender, body, bytes, proof });
                }
                Message::NewView(body) => {
                    self.on_new_view(from, Unverified { sender, body, bytes, proof });
                }
                Message::Want(message) => self.on_want(from, message),
                Message::Body(message) => self.on_body(message),
                Message::Committed(message) => self.on_committed(from, message),
                Message::Request(_) | Message::Reply(_) | Message::Busy(_) | Message::Seal(_) => {
                    self.put_aside(Ignored::NotForUs);
                }
                Message::Configured(_) | Message::Succession(_) => self.put_aside(Ignored::NotForUs),
            },
            _ => self.put_aside(Ignored::NotForUs),
        }
        self.watch_progress();
        self.conclude();
    }

    /// The driver has made every record up to `position` safe from a crash.
    pub fn handle_durable(&mut self, now: Instant, position: JournalPosition) {
        self.now = now;
        self.on_durable(position);
        self.conclude();
    }

    /// Lets time pass.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.now = now;
        if self.succeeding.is_retired() {
            return;
        }
        self.on_status_tick();
        if !self.is_halted() {
            self.on_transfer_tick();
            self.on_view_tick();
        }
        self.watch_progress();
        self.conclude();
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        if self.succeeding.is_retired() {
            return Instant(u64::MAX);
        }
        let others = self.transfer.due(self.now).into_iter().chain(self.view_due());
        let others = others.filter(|_| !self.is_halted());
        others.fold(self.status_due(), Instant::min)
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        self.send_vouches();
        if self.actions.is_empty() && !self.is_halted() {
            self.now = now;
            self.propose();
        }
        self.actions.pop_front()
    }

    fn send(&mut self, to: Principal, body: Message) {
        let message = body.proven_by(&self.keychain, to);
        self.actions.push_back(Action::Send { to, message });
    }

    fn send_to_client(&mut self, to: ClientId, body: Message) {
        self.send(Principal::Client(to), body);
    }

    fn broadcast(&mut self, body: Message) {
        let message = self.for_all(body);
        self.actions.push_back(Action::Broadcast { message });
    }

    /// A message that every replica can check.
    fn for_all(&self, body: Message) -> Unverified<Message> {
        debug_assert_ne!(body.form(), Form::Tag, "nobody else could check it");
        body.proven_by(&self.keychain, Principal::Replica(self.me))
    }

    /// Sends a PRE-PREPARE to all, whose batch has this digest.
    fn broadcast_proposal(&mut self, pre_prepare: PrePrepare, digest: &Digest) {
        let pre_prepare = pre_prepare.in_brief();
        let domain = Domain::new(Kind::PrePrepare, pre_prepare.view.0);
        let tags = self.keychain.authenticator(domain, &placed(pre_prepare.sequence, digest));
        let body = Message::PrePrepare(pre_prepare);
        let bytes = wire::encode_body(&body);
        let (sender, proof) = (Principal::Replica(self.me), Proof::Authenticator(tags));
        self.actions.push_back(Action::Broadcast { message: Unverified { sender, body, bytes, proof } });
    }

    /// Says what somebody did who cannot be convicted of it.
    fn accuse(&mut self, misbehaviour: Misbehaviour) {
        let configuration = self.configuration.number;
        self.testify(Evidence::Local { configuration, misbehaviour });
    }

    /// Says what somebody signed that no correct replica signs.
    fn prove(&mut self, culprit: ReplicaId, lie: Lie) {
        let Configuration { group, number: configuration, .. } = self.configuration;
        self.testify(Evidence::Provable(MisbehaviourProof { group, configuration, culprit, lie }));
    }

    fn testify(&mut self, evidence: Evidence) {
        if evidence.culprit().is_none_or(|culprit| self.accused.insert((culprit, evidence.kind()))) {
            self.actions.push_back(Action::Evidence(evidence));
        } else {
            self.wasted += 1;
        }
    }

    fn put_aside(&mut self, reason: Ignored) {
        self.count(reason);
        self.wasted += u64::from(reason.is_waste());
    }

    /// Counts what came to nothing so far, and may come to something yet.
    fn count(&mut self, reason: Ignored) {
        *self.ignored.entry(reason).or_default() += 1;
    }

    /// Ends every step. Here a replica goes over to the next configuration, and nowhere within a step: what
    /// came in under one configuration must not go on under another.
    fn conclude(&mut self) {
        self.succeed_if_due();
        self.assert_invariants();
    }

    /// What must hold after every step, whatever others sent.
    fn assert_invariants(&self) {
        let (low, high) = (self.log.low(), self.log.high());
        assert!(self.executed() >= low || self.is_joining(), "what is stable was executed here, or fetched");
        assert!(self.executed() <= high, "nothing is executed above the high watermark");
        let way = self.succeeding.successions().len() as u64;
        assert_eq!(way, self.configuration.number, "all of the way from the genesis is known");
        let decided = self.views.decided();
        assert!(self.last_proposed <= high.max(decided), "nothing is proposed above the high watermark");
        assert!(self.view >= self.views.active(), "no view is entered that was left");
    }
}
