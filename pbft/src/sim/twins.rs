//! Twins (Bano et al., *Twins: BFT Systems Made Robust*, 2020): a faulty replica as two processes
//! under one identity, each of which does what the protocol says. Together they equivocate, vote
//! twice and forget, and that is most of what a liar that is believed can do.
//!
//! Scenarios are enumerated: which replica has a twin, and for each of four rounds which of the
//! processes are on which of at most two sides. Each replica leads one of the first four views, so
//! who leads when is the choice of who has the twin; correct replicas and the two twins have no names
//! of their own, so of scenarios that differ in those only one is run.
//!
//! A round is lived through in lock-step: a client on each side submits an operation, and what follows
//! from it happens. Then the primary of the view falls silent, the sides of the next round begin, and
//! with another operation in hand the others change the view. In the end all are together again.
//!
//! Checked at every step: agreement, validity, exactly-once, durability of answers, and that nobody
//! correct is accused or contradicts itself; in the end: that all was answered. With f faulty replicas all
//! of it holds; with more of them agreement breaks, and the checkers see it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::{BufMut as _, BytesMut};

use super::checker::Checkers;
use super::run::Reason;
use super::{Executed, Ledger, Setup, Witness};
use crate::client::{Client, ClientAction, ClientSettings, Options};
use crate::crypto::{Keychain, Principal};
use crate::group::{ClientId, Incarnation, ReplicaId, Sequence, View};
use crate::message::{Message, Unverified};
use crate::replica::{Action, Replica, Settings};
use crate::time::Instant;

/// The group of the enumeration.
const N: u32 = 4;
/// Rounds of a scenario: as many as there are views until everybody has led once.
const ROUNDS: usize = 4;
/// The first view time-out.
const VIEW_TIMEOUT: Duration = Duration::from_millis(50);
/// How long a round goes on before the primary falls silent.
const ROUND: Duration = Duration::from_millis(20);
/// How long all may take to be answered when they are together again.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who has a twin, and who hears whom in which round.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// Replicas with a twin.
    twins: Vec<ReplicaId>,
    /// For each round the processes on the second side, as bits: the four replicas, then the twins.
    sides: [u32; ROUNDS],
}

/// What a scenario was like, or many together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Scenarios.
    pub scenarios: u64,
    /// Messages that arrived.
    pub deliveries: u64,
    /// Views that correct replicas ended in.
    pub views: u64,
    /// Batches that correct replicas executed, the most of each scenario.
    pub batches: u64,
    /// Scenarios in which somebody correct found the twins out.
    pub found_out: u64,
}

impl std::ops::AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.scenarios += other.scenarios;
        self.deliveries += other.deliveries;
        self.views += other.views;
        self.batches += other.batches;
        self.found_out += other.found_out;
    }
}

impl Scenario {
    /// All scenarios with so many pairs of twins in a group of four, up to names.
    pub fn all(pairs: u32) -> impl Iterator<Item = Self> {
        let free = N + pairs - 1; // the first correct replica is on the first side
        let placements = (0..1u32 << N).filter(move |placed| placed.count_ones() == pairs);
        placements.flat_map(move |placed| {
            let twins: Vec<_> = (0..N).filter(|id| placed >> id & 1 == 1).map(ReplicaId).collect();
            (0..1u64 << (free as usize * ROUNDS)).filter_map(move |choice| {
                let mut rest = choice;
                let sides = std::array::from_fn(|_| {
                    let bits = u32::try_from(rest % (1 << free)).expect("few bits");
                    rest >>= free;
                    let anchor = (!placed).trailing_zeros();
                    let below = bits & ((1 << anchor) - 1);
                    below | (bits >> anchor) << (anchor + 1)
                });
                let scenario = Self { twins: twins.clone(), sides };
                scenario.is_first_of_its_like().then_some(scenario)
            })
        })
    }

    /// Of two scenarios in which two twins have changed places, the one where the first of them is on
    /// the first side when they are apart for the first time.
    fn is_first_of_its_like(&self) -> bool {
        (N..).zip(&self.twins).all(|(second, first)| {
            let apart = self.sides.iter().find(|side| (**side >> first.0 ^ **side >> second) & 1 == 1);
            apart.is_none_or(|side| side >> first.0 & 1 == 0)
        })
    }

    /// Lives through it.
    ///
    /// # Errors
    /// Says what a checker objected to.
    pub fn run(&self) -> Result<Report, Reason> {
        let mut stage = Stage::new(self);
        for (round, side) in self.sides.iter().enumerate() {
            stage.second_side = *side;
            stage.submit();
            stage.pass(ROUND)?;
            if let Some(next) = self.sides.get(round + 1) {
                stage.second_side = *next;
                stage.silent = Some(stage.primary());
                stage.submit();
                stage.pass(VIEW_TIMEOUT + ROUND)?;
                stage.silent = None;
            }
        }
        stage.second_side = 0;
        let end = stage.now + PATIENCE;
        while stage.open > 0 {
            if stage.now >= end {
                let places = stage.correct().map(|process| Some(process.replica.executed().0));
                return Err(Reason::Stuck { open: stage.open, places: places.collect() });
            }
            stage.pass(ROUND)?;
        }
        Ok(Report {
            scenarios: 1,
            deliveries: stage.deliveries,
            views: stage.correct().map(|process| process.replica.view().0).max().unwrap_or(0),
            batches: stage.correct().map(|process| process.replica.executed().0).max().unwrap_or(0),
            found_out: u64::from(stage.found_out),
        })
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let twins: Vec<_> = self.twins.iter().map(ReplicaId::to_string).collect();
        write!(f, "twins of {}", twins.join(" and "))?;
        let name = |index: u32| match index.checked_sub(N) {
            Some(twin) => format!("{}'", self.twins[twin as usize]),
            None => index.to_string(),
        };
        for (round, side) in (1..).zip(self.sides) {
            let all = 0..N + u32::try_from(self.twins.len()).expect("few");
            let (second, first): (Vec<_>, Vec<_>) = all.partition(|index| side >> index & 1 == 1);
            let names = |side: Vec<u32>| side.into_iter().map(name).collect::<Vec<_>>().join(" ");
            write!(f, "; round {round}: {} | {}", names(first), names(second))?;
        }
        Ok(())
    }
}

/// One of the processes.
struct Process {
    /// Whom the others take it for.
    id: ReplicaId,
    replica: Replica<Witness<Ledger>>,
    seen: Rc<RefCell<Vec<Executed>>>,
    is_correct: bool,
}

/// Where a message comes from or goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Process(usize),
    Client(usize),
}

/// A scenario that is being lived through.
struct Stage {
    processes: Vec<Process>,
    /// One for each side.
    clients: Vec<Client>,
    /// The processes on the second side, as bits.
    second_side: u32,
    /// Nothing comes from it and nothing gets to it.
    silent: Option<ReplicaId>,
    now: Instant,
    on_their_way: VecDeque<(Place, Unverified<Message>)>,
    checkers: Checkers,
    /// Operations that are not answered.
    open: usize,
    names: u64,
    deliveries: u64,
    found_out: bool,
}

impl Stage {
    fn new(scenario: &Scenario) -> Self {
        let mut setup = Setup::new(1, 2);
        setup.configuration.history = false;
        setup.configuration.limits.checkpoint_period = 4;
        setup.configuration.limits.window = 8;
        setup.settings = Settings {
            journal: false,
            status_period: ROUND / 2,
            status_idle: VIEW_TIMEOUT,
            view_timeout: VIEW_TIMEOUT,
            fetch_timeout: ROUND / 2,
            ..Settings::default()
        };
        let keys = |me| Keychain::fast(setup.configuration.scope(), setup.configuration.public_keys(), me);
        let process = |id: ReplicaId| {
            let seen = Rc::default();
            let witness = Witness { service: Ledger, seen: Rc::clone(&seen), strays: Rc::default() };
            let (configuration, keys) = (setup.configuration.clone(), keys(Principal::Replica(id)));
            let replica = Replica::new(configuration, id, keys, witness, setup.settings.clone());
            Process { id, replica, seen, is_correct: !scenario.twins.contains(&id) }
        };
        let client = |index: u32| {
            let id = ClientId(index);
            let settings =
                ClientSettings { retry_after: ROUND / 2, retry_max: ROUND * 2, ..Default::default() };
            let keys = keys(Principal::Client(id));
            Client::new(setup.configuration.clone(), id, Incarnation(1), keys, settings)
        };
        let mut stage = Self {
            processes: (0..N).map(ReplicaId).chain(scenario.twins.iter().copied()).map(process).collect(),
            clients: (0..2).map(client).collect(),
            second_side: 0,
            silent: None,
            now: Instant(0),
            on_their_way: VecDeque::new(),
            checkers: Checkers::new(&setup),
            open: 0,
            names: 0,
            deliveries: 0,
            found_out: false,
        };
        (0..stage.processes.len()).for_each(|index| stage.drive(index));
        stage
    }

    fn correct(&self) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(|process| process.is_correct)
    }

    /// Who leads the highest view that a correct replica is in.
    fn primary(&self) -> ReplicaId {
        let view = self.correct().map(|process| process.replica.view()).max().unwrap_or(View(0));
        let highest = self.correct().find(|process| process.replica.view() == view);
        highest.expect("one of the four is correct").replica.primary()
    }

    fn is_on_second_side(&self, place: Place) -> bool {
        match place {
            Place::Process(index) => self.second_side >> index & 1 == 1,
            Place::Client(index) => self.second_side != 0 && index == 1,
        }
    }

    fn is_silent(&self, place: Place) -> bool {
        matches!(place, Place::Process(index) if self.silent == Some(self.processes[index].id))
    }

    /// Each client submits an operation.
    fn submit(&mut self) {
        for index in 0..self.clients.len() {
            self.names += 1;
            let mut operation = BytesMut::new();
            operation.put_u64(self.names);
            let operation = operation.freeze();
            let id = ClientId(u32::try_from(index).expect("two"));
            self.checkers.submitted(id, &operation);
            let submitted = self.clients[index].submit(self.now, operation, Options::default());
            submitted.expect("a window holds all operations of a scenario");
            self.open += 1;
            self.drive_client(index);
        }
    }

    /// Time passes, and with it what is due.
    fn pass(&mut self, duration: Duration) -> Result<(), Reason> {
        let end = self.now + duration;
        loop {
            while let Some((to, message)) = self.on_their_way.pop_front() {
                self.deliver(to, message);
            }
            if let Some(violation) = self.checkers.violation() {
                return Err(violation.clone().into());
            }
            let replicas = self.processes.iter().map(|process| process.replica.poll_timeout());
            let clients = self.clients.iter().filter_map(Client::poll_timeout);
            let due = replicas.chain(clients).min().unwrap_or(end).max(self.now);
            if due > end {
                self.now = end;
                return Ok(());
            }
            self.now = due;
            for index in 0..self.processes.len() {
                if self.processes[index].replica.poll_timeout() <= due {
                    self.processes[index].replica.handle_timeout(due);
                    self.drive(index);
                }
            }
            for index in 0..self.clients.len() {
                if self.clients[index].poll_timeout().is_some_and(|at| at <= due) {
                    self.clients[index].handle_timeout(due);
                    self.drive_client(index);
                }
            }
        }
    }

    fn deliver(&mut self, to: Place, message: Unverified<Message>) {
        self.deliveries += 1;
        match to {
            Place::Process(index) => {
                self.processes[index].replica.handle_message(self.now, message);
                self.drive(index);
            }
            Place::Client(index) => {
                self.clients[index].handle_message(self.now, message);
                self.drive_client(index);
            }
        }
    }

    /// Puts a message on its way to whoever goes by that name on the sender's side.
    fn send(&mut self, from: Place, to: Principal, message: &Unverified<Message>) {
        let places: Vec<_> = match to {
            Principal::Client(id) => vec![Place::Client(id.index())],
            Principal::Replica(id) => {
                let named = self.processes.iter().enumerate().filter(|(_, process)| process.id == id);
                named.map(|(index, _)| Place::Process(index)).collect()
            }
        };
        for to in places {
            let apart = self.is_on_second_side(from) != self.is_on_second_side(to);
            if !apart && !self.is_silent(from) && !self.is_silent(to) {
                self.on_their_way.push_back((to, message.clone()));
            }
        }
    }

    fn drive(&mut self, index: usize) {
        let from = Place::Process(index);
        let Process { id, is_correct, .. } = self.processes[index];
        while let Some(action) = self.processes[index].replica.poll_action(self.now) {
            match action {
                Action::Send { to, message } => {
                    self.check(index, &message);
                    self.send(from, to, &message);
                }
                Action::Broadcast { message } => {
                    self.check(index, &message);
                    for other in (0..N).map(ReplicaId).filter(|other| *other != id) {
                        self.send(from, Principal::Replica(other), &message);
                    }
                }
                Action::Evidence(evidence) => {
                    if let Some(culprit) = evidence.culprit()
                        && is_correct
                    {
                        let is_innocent = self.processes[culprit.index()].is_correct;
                        let configuration = self.processes[index].replica.configuration();
                        self.checkers.accused((id, configuration), &evidence, is_innocent);
                        self.found_out |= !is_innocent;
                    }
                }
                Action::Append { .. } | Action::Truncate { .. } => {}
            }
        }
        let seen: Vec<_> = self.processes[index].seen.borrow_mut().drain(..).collect();
        if is_correct {
            self.checkers.executed(id, seen);
        }
    }

    fn check(&mut self, index: usize, message: &Unverified<Message>) {
        let Process { id, is_correct, .. } = self.processes[index];
        if is_correct && message.sender == Principal::Replica(id) {
            let configuration = self.processes[index].replica.configuration();
            self.checkers.says((id, configuration), message, None);
        }
    }

    fn drive_client(&mut self, index: usize) {
        let from = Place::Client(index);
        while let Some(action) = self.clients[index].poll_action(self.now) {
            match action {
                ClientAction::Send { to, message } => self.send(from, Principal::Replica(to), &message),
                ClientAction::Broadcast { message } => {
                    for to in (0..N).map(ReplicaId) {
                        self.send(from, Principal::Replica(to), &message);
                    }
                }
                ClientAction::Succession(_) | ClientAction::Disagreed { .. } => {}
                ClientAction::Outcome(outcome) => {
                    self.open -= 1;
                    let id = ClientId(u32::try_from(index).expect("two"));
                    let ordered = outcome.sequence != Sequence(0);
                    let is_correct = |id: &ReplicaId| self.processes[id.index()].is_correct;
                    let blameless = outcome.disagreed.iter().find(|id| ordered && is_correct(id));
                    self.checkers.answered(id, &outcome, blameless);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_there_once_up_to_names() {
        // Four places for the twin; 16 ways to split five processes in each of four rounds, of which
        // 8 keep the twins together; when they are ever apart, either may be the first of them.
        let apart = 16u64.pow(4) - 8u64.pow(4);
        let all: Vec<_> = Scenario::all(1).collect();
        assert_eq!(all.len() as u64, 4 * (apart / 2 + 8u64.pow(4)));
        let different: std::collections::BTreeSet<_> = all.iter().map(Scenario::to_string).collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn scenario_reads_as_who_hears_whom() {
        let scenario = Scenario { twins: vec![ReplicaId(0)], sides: [0b10001, 0, 0b01000, 0b00110] };
        let told = "twins of 0; round 1: 1 2 3 | 0 0'; round 2: 0 1 2 3 0' | ; \
                    round 3: 0 1 2 0' | 3; round 4: 0 3 0' | 1 2";
        assert_eq!(scenario.to_string(), told);
    }
}
