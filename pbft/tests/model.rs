//! Model checking: every order in which messages may arrive, timers may run out and a replica may crash, as
//! far as a scope goes, played through breadth first with the real [`Replica`](quorate_pbft::Replica) and the
//! real [`Client`](quorate_pbft::Client). There is no second description of the protocol.
//!
//! Four replicas, one of which lies; one place in the order; one or two views. The network remembers all
//! that was ever said, and may deliver any of it at any time, or never, or twice: so what is on its way follows
//! from what the replicas did, and a state of the group is a state of each replica (`model/locals.rs`).
//! Of two states that are taken for one, all that decides what a replica does next is equal
//! ([`Replica::fingerprint`](quorate_pbft::Replica::fingerprint), compared by its SHA-256), and so is what it
//! did so far.
//!
//! What is left out because it changes nothing that is checked (`model/reduction.rs`, and `Scope::in_full`
//! leaves out nothing):
//!
//! * A vote arrives when it can count: PREPARE once its batch is held, COMMIT once that is prepared, or its
//!   view was left. Earlier it waits in a ballot, later it is put aside.
//! * Of equal votes the one of the lowest sender arrives first: they are only counted. A vote of the liar
//!   completes nothing without a correct one, which can be late instead: it arrives at once.
//! * A replica that can leave a view by its timer need not be talked into it, and whoever does not lead the
//!   next view only counts who wants it.
//! * What the first backup hears of is called A: both batches are one client's operation. Not where it crashes.
//!   (So of two batches with equal claims it is always the same one whose digest is lower.)
//! * A liar's Q claims all batches: what it leaves out of it only holds a view up.
//!
//! And what is not in it: checkpoints, transfer, members that change; a second place; batches that are heard
//! of after their view was left; slow disks of replicas that do not crash; STATUS, because nothing is lost
//! for good; liveness.
//!
//! The usual run takes seconds. `PBFT_STATES=n cargo test --release -p quorate-pbft --features sim --test model --
//! large_scopes --nocapture` goes through so many transitions of each large scope, or all there are.
#![cfg(feature = "sim")]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use quorate_pbft::{
    ClientAction, ClientId, Configuration, Instant, ReplicaId, Sequence, Settings, View,
    crypto::{Digest, Principal},
    message::{Message, Unverified, ViewChange},
    mutation::Mutation,
    sim::Setup,
};
use stateright::{Checker as _, Expectation, HasDiscoveries, Model, Property};

#[path = "model/locals.rs"]
mod locals;
#[path = "model/reduction.rs"]
mod reduction;
#[path = "model/words.rs"]
mod words;

use locals::{Facts, Input, LocalId, Locals, MessageId, Messages};
use reduction::Ear;
use words::{Liar, OPERATIONS, PLACE};

/// Replicas.
const N: u32 = 4;

/// What the liar says beside its part in what is asked for here: each more than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tongue {
    /// It proposes one batch to whom it likes, and falls silent.
    Silent,
    /// It votes for everything, towards whom it likes, and in VIEW-CHANGEs it prepared nothing.
    Forgetful,
    /// It also tells one backup of another batch than the next, and in VIEW-CHANGEs it prepared either.
    Forked,
}

/// What may happen.
#[derive(Clone, Copy, Debug)]
struct Scope {
    /// Who lies.
    liar: ReplicaId,
    tongue: Tongue,
    /// The last view that a replica leaves another one for.
    views: u64,
    /// Whose timers may run out, once each, as bits. Others leave a view when f+1 have left it.
    may_leave: u32,
    /// Who may crash, once each, as bits.
    may_crash: u32,
    /// A rule that is left out.
    mutation: Option<Mutation>,
    /// Nothing is left out of what could happen next.
    in_full: bool,
}

/// Every replica, as bits.
const ALL: u32 = (1 << N) - 1;

/// An equivocating primary in view 0, and nothing else.
const ONE_VIEW: Scope = Scope {
    liar: ReplicaId(0),
    tongue: Tongue::Forked,
    views: 0,
    may_leave: 0,
    may_crash: 0,
    mutation: None,
    in_full: false,
};
/// The same, and one of the backups crashes.
const ONE_CRASH: Scope = Scope { may_crash: 0b0100, ..ONE_VIEW };
/// A primary that proposes one batch and leaves as if it had not, and backups that elect another one.
const TWO_VIEWS: Scope = Scope { tongue: Tongue::Forgetful, views: 1, may_leave: 0b1100, ..ONE_VIEW };

/// Transitions that the usual run looks at in each scope, at most.
const USUAL: usize = 200_000;

/// A state of the group: one of each replica. What the liar's is means nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Group([LocalId; N as usize]);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    replica: usize,
    input: Input,
}

struct Pbft {
    scope: Scope,
    configuration: Configuration,
    /// What the liar says whatever happens, and what the clients ask for.
    words: Messages,
    /// What batches are called.
    names: BTreeMap<Digest, &'static str>,
    table: Mutex<Table>,
}

struct Table {
    locals: Locals,
    /// NEW-VIEWs of the liar, by the VIEW-CHANGEs in them.
    forged: HashMap<Vec<MessageId>, Vec<MessageId>>,
    /// What clients accept from answers.
    accepted: HashMap<Vec<MessageId>, BTreeSet<(Sequence, Bytes)>>,
}

impl Pbft {
    fn new(scope: Scope) -> Self {
        let mut configuration = Setup::new(1, 3).configuration;
        configuration.history = false;
        configuration.limits.checkpoint_period = 2;
        configuration.limits.window = 4;
        configuration.limits.client_window = 8;
        let mut locals =
            Locals::new(configuration.clone(), Settings::default(), scope.may_crash, scope.mutation);
        let batches = [0, 1, 2].map(|client| words::batch(&configuration, ClientId(client)));
        let [a, b, c] = batches.each_ref().map(|batch| batch.digest(&configuration.scope()));
        let null = words::null().digest(&configuration.scope());
        let proposed: Vec<_> =
            batches.iter().zip([a, b]).take(if scope.tongue == Tongue::Forked { 2 } else { 1 }).collect();
        let liar = Liar { configuration: &configuration, me: scope.liar };
        let mut words = Messages::default();
        let first = ReplicaId(u32::from(scope.liar == ReplicaId(0)));
        for to in (0..N).map(ReplicaId).filter(|to| *to != scope.liar) {
            let mut say = |message| words.insert(locals.name(1 << to.0, message));
            for view in (0..=scope.views).map(View) {
                for (batch, digest) in proposed.iter().copied() {
                    // Whatever the first one hears of is called A.
                    let in_full = scope.in_full || scope.may_crash >> first.0 & 1 == 1;
                    let in_order = in_full || view > View(0) || to != first || digest == a;
                    if reduction::primary(view) == scope.liar && in_order {
                        say(liar.proposes(view, batch, to));
                    }
                    if scope.tongue > Tongue::Silent {
                        say(liar.prepares(view, digest, to));
                        say(liar.commits(view, digest, to));
                    }
                }
                if view == View(0) || scope.tongue == Tongue::Silent {
                    continue;
                }
                say(liar.prepares(view, c, to));
                say(liar.commits(view, c, to));
                say(liar.leaves(view, None, &[a, b]));
                // Whoever does not lead the view only counts who left.
                if scope.tongue == Tongue::Forked && (scope.in_full || reduction::primary(view) == to) {
                    say(liar.leaves(view, Some((View(0), a)), &[a, b]));
                    say(liar.leaves(view, Some((View(0), b)), &[a, b]));
                }
            }
        }
        // Every correct primary has something to order: the first one what the liar, else, would propose.
        for view in (0..=scope.views).map(View) {
            let primary = reduction::primary(view);
            if primary != scope.liar {
                let client = ClientId(if view == View(0) { 0 } else { 2 });
                words.insert(locals.name(1 << primary.0, words::client(&configuration, client).1));
            }
        }
        let table = Table { locals, forged: HashMap::new(), accepted: HashMap::new() };
        let names = BTreeMap::from([(a, "A"), (b, "B"), (c, "C"), (null, "null")]);
        Self { scope, configuration, words, names, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().expect("nobody panicked")
    }

    fn correct(&self) -> impl Iterator<Item = usize> + use<> {
        let liar = self.scope.liar.index();
        (0..N as usize).filter(move |index| *index != liar)
    }

    /// All that was ever sent, and may arrive at any time, again and again.
    fn network(&self, table: &mut Table, state: &Group) -> Messages {
        let mut network = self.words.clone();
        for replica in self.correct() {
            network.extend(&table.locals.facts(state.0[replica]).sent);
        }
        for view in (1..=self.scope.views).map(View) {
            if reduction::primary(view) == self.scope.liar {
                self.forge(table, &mut network, view);
            }
        }
        network
    }

    /// The liar begins its view with any VIEW-CHANGEs that make a quorum.
    fn forge(&self, table: &mut Table, network: &mut Messages, view: View) {
        let Table { locals, forged, .. } = table;
        let mut of = vec![vec![None]; N as usize];
        for id in network.iter() {
            let message = locals.message(id);
            if let (Principal::Replica(sender), Message::ViewChange(it)) = (message.sender, &message.body)
                && it.view == view
                && !of[sender.index()].iter().flatten().any(|other| locals.message(*other) == message)
            {
                of[sender.index()].push(Some(id));
            }
        }
        let liar = Liar { configuration: &self.configuration, me: self.scope.liar };
        for choice in 0..of.iter().map(Vec::len).product::<usize>() {
            let mut rest = choice;
            let pick = of.iter().filter_map(|of| {
                let one = of[rest % of.len()];
                rest /= of.len();
                one
            });
            let set: Vec<MessageId> = pick.collect();
            if set.len() < 3 {
                continue;
            }
            let named = forged.entry(set).or_insert_with_key(|set| {
                let message =
                    liar.begins(view, set.iter().map(|id| view_change(locals.message(*id))).collect());
                let others = (0..N).filter(|to| *to != self.scope.liar.0);
                others.map(|to| locals.name(1 << to, message.clone())).collect()
            });
            named.iter().for_each(|id| network.insert(*id));
        }
    }

    /// What clients may have accepted: they hear all answers, and the liar agrees with whomever they like.
    fn accepted(&self, table: &mut Table, state: &Group) -> BTreeSet<(Sequence, Bytes)> {
        let mut answers = Vec::new();
        for replica in self.correct() {
            answers.extend(table.locals.facts(state.0[replica]).answers.iter().copied());
        }
        if answers.len() < 2 {
            return BTreeSet::new();
        }
        let Table { locals, accepted, .. } = table;
        let accepted = accepted.entry(answers).or_insert_with_key(|answers| {
            let messages = answers.iter().map(|id| locals.message(*id));
            self.answer(&messages.collect::<Vec<_>>())
        });
        accepted.clone()
    }

    fn answer(&self, answers: &[&Unverified<Message>]) -> BTreeSet<(Sequence, Bytes)> {
        let liar = Liar { configuration: &self.configuration, me: self.scope.liar };
        let mut accepted = BTreeSet::new();
        for answer in answers {
            let Message::Reply(reply) = &answer.body else { continue };
            let (mut client, _) = words::client(&self.configuration, reply.client);
            client.handle_message(Instant(0), liar.answers(reply.clone()));
            answers.iter().for_each(|answer| client.handle_message(Instant(0), (*answer).clone()));
            while let Some(action) = client.poll_action(Instant(0)) {
                if let ClientAction::Outcome(outcome) = action {
                    let result = outcome.result().cloned().unwrap_or_default();
                    accepted.insert((outcome.sequence, result));
                }
            }
        }
        accepted
    }

    /// What the correct replicas did.
    fn facts(&self, state: &Group) -> Vec<Facts> {
        let table = self.table();
        self.correct().map(|replica| table.locals.facts(state.0[replica]).clone()).collect()
    }

    fn any(&self, state: &Group, holds: impl Fn(&Facts) -> bool) -> bool {
        let table = self.table();
        self.correct().any(|replica| holds(table.locals.facts(state.0[replica])))
    }

    fn all(&self, state: &Group, holds: impl Fn(&Facts) -> bool) -> bool {
        !self.any(state, |facts| !holds(facts))
    }

    fn describe(&self, locals: &Locals, message: MessageId) -> String {
        let message = locals.message(message);
        let name = |digest: &Digest| self.names.get(digest).copied().unwrap_or("?");
        let what = match &message.body {
            Message::PrePrepare(it) => {
                let digest = it.batch.digest(&self.configuration.scope());
                format!("PRE-PREPARE v={} n={} {}", it.view, it.sequence, name(&digest))
            }
            Message::Prepare(it) => format!("PREPARE v={} n={} {}", it.view, it.sequence, name(&it.digest)),
            Message::Commit(it) => format!("COMMIT v={} n={} {}", it.view, it.sequence, name(&it.digest)),
            Message::ViewChange(it) => {
                let claims = |claims: &[quorate_pbft::message::Claim]| {
                    claims.iter().map(|claim| name(&claim.digest)).collect::<Vec<_>>().join(" ")
                };
                let (p, q) = (claims(&it.prepared), claims(&it.pre_prepared));
                format!("VIEW-CHANGE v={} P=[{p}] Q=[{q}]", it.view)
            }
            Message::NewView(it) => {
                let senders = it.view_changes.iter().map(|one| format!("{:?}", one.sender));
                format!("NEW-VIEW v={} of {}", it.view, senders.collect::<Vec<_>>().join(", "))
            }
            other => format!("{:?}", other.kind()),
        };
        format!("{what} from {:?}", message.sender)
    }
}

fn view_change(message: &Unverified<Message>) -> Unverified<ViewChange> {
    let Unverified { sender, body, bytes, proof } = message.clone();
    let Message::ViewChange(body) = body else { unreachable!("chosen as one") };
    Unverified { sender, body, bytes, proof }
}

impl Model for Pbft {
    type State = Group;
    type Action = Step;

    fn init_states(&self) -> Vec<Group> {
        let mut table = self.table();
        vec![Group(std::array::from_fn(|index| {
            table.locals.begin(ReplicaId(u32::try_from(index).expect("few")))
        }))]
    }

    fn actions(&self, state: &Group, actions: &mut Vec<Step>) {
        let table = &mut *self.table();
        let network = self.network(table, state);
        let locals = &mut table.locals;
        for replica in self.correct() {
            let (me, local) = (ReplicaId(u32::try_from(replica).expect("few")), state.0[replica]);
            let facts = locals.facts(local);
            let (crashes, unsafe_records) = (facts.crashes, facts.unsafe_records);
            let in_time = self.scope.may_leave >> replica & 1 == 1
                && facts.timeouts == 0
                && facts.view.0 < self.scope.views;
            let may_leave = in_time && locals.step(local, Input::Timeout) != local;
            let heard = locals.hearable(local, &network, |facts, message| {
                self.scope.in_full || Ear { me, facts, may_leave }.wants(message)
            });
            let with_message = |id: &MessageId| (*id, locals.message(*id));
            // Whoever crashed may not hold what it said, so a vote of the liar may be wasted there.
            if !self.scope.in_full && crashes == 0 {
                let of_liar =
                    |id: &&MessageId| reduction::is_vote_of(self.scope.liar, me, with_message(id).1);
                if let Some(vote) = heard.iter().find(of_liar) {
                    actions.clear();
                    return actions.push(Step { replica, input: Input::Hear(*vote) });
                }
            }
            let heard = match self.scope.in_full {
                true => heard,
                false => reduction::first_votes(heard.iter().map(with_message)),
            };
            actions.extend(heard.into_iter().map(|id| Step { replica, input: Input::Hear(id) }));
            if unsafe_records > 0 {
                actions.push(Step { replica, input: Input::Sync });
            }
            if may_leave {
                actions.push(Step { replica, input: Input::Timeout });
            }
            if self.scope.may_crash >> replica & 1 == 1 && crashes == 0 {
                let kept = 0..=unsafe_records;
                actions.extend(kept.map(|kept| Step { replica, input: Input::Crash(kept) }));
            }
        }
    }

    fn next_state(&self, last: &Group, Step { replica, input }: Step) -> Option<Group> {
        let mut next = *last;
        next.0[replica] = self.table().locals.step(last.0[replica], input);
        (next != *last).then_some(next)
    }

    fn format_action(&self, Step { replica, input }: &Step) -> String {
        match input {
            Input::Hear(message) => {
                format!("{replica} hears {}", self.describe(&self.table().locals, *message))
            }
            Input::Sync => format!("{replica}'s disk has synced"),
            Input::Timeout => format!("{replica}'s timer runs out"),
            Input::Crash(kept) => format!("{replica} crashes and comes back, {kept} records more than safe"),
        }
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut properties = vec![
            Property::always("correct replicas agree", |model: &Self, state| {
                let facts = model.facts(state);
                let mut committed: BTreeMap<_, BTreeSet<&Digest>> = BTreeMap::new();
                let mut executed: BTreeMap<_, BTreeSet<&Bytes>> = BTreeMap::new();
                for facts in &facts {
                    for (place, batches) in &facts.committed {
                        committed.entry(place).or_default().extend(batches.iter().map(|(_, batch)| batch));
                    }
                    for (place, operations) in &facts.executed {
                        executed.entry(place).or_default().extend(operations);
                    }
                }
                committed.values().all(|batches| batches.len() == 1)
                    && executed.values().all(|operations| operations.len() == 1)
            }),
            Property::always("only what a client wanted is executed", |model, state| {
                model.all(state, |facts| {
                    let wanted = |operation: &Bytes| {
                        operation.is_empty() || OPERATIONS.iter().any(|wanted| wanted.as_bytes() == operation)
                    };
                    facts.executed.values().flatten().all(wanted)
                })
            }),
            Property::always("what a client accepted stays", |model, state| {
                let accepted = model.accepted(&mut model.table(), state);
                accepted.iter().all(|(place, result)| {
                    let agrees = |facts: &Facts| {
                        facts
                            .executed
                            .get(place)
                            .is_none_or(|here| here.iter().all(|operation| operation == result))
                    };
                    model.all(state, agrees)
                })
            }),
            Property::always("nobody correct is accused", |model, state| {
                model.all(state, |facts| facts.accused.iter().all(|culprit| *culprit == model.scope.liar))
            }),
            Property::sometimes("a batch is committed", |model, state| {
                model.any(state, |facts| facts.committed.contains_key(&PLACE))
            }),
            Property::sometimes("a client accepts an answer", |model, state| {
                !model.accepted(&mut model.table(), state).is_empty()
            }),
        ];
        if self.scope.views > 0 {
            properties.push(Property::sometimes("what was prepared is kept", |model, state| {
                model.any(state, |facts| {
                    facts.committed.get(&PLACE).into_iter().flatten().any(|(view, batch)| {
                        let before = (PLACE, View(0), *batch);
                        *view == Some(View(1)) && facts.prepared.contains(&before)
                    })
                })
            }));
            properties.push(Property::sometimes("the next primary orders something else", |model, state| {
                let of = |batch: &Digest| model.names.get(batch).copied();
                model.any(state, |facts| {
                    facts.committed.values().flatten().any(|(_, batch)| of(batch) == Some("C"))
                })
            }));
        }
        if self.scope.may_crash > 0 {
            properties.push(Property::sometimes("who crashed commits", |model, state| {
                model.any(state, |facts| facts.crashes > 0 && facts.committed.contains_key(&PLACE))
            }));
        }
        properties
    }
}

/// Looks at everything in a scope, or at so many transitions, breadth first; with `until_shown` only until there
/// is an example of everything that should be possible. Gives the counterexample, if there is one.
fn explore(scope: Scope, transitions_max: usize, until_shown: bool) -> Option<String> {
    let model = Pbft::new(scope);
    let possible = |one: &Property<Pbft>| one.expectation == Expectation::Sometimes;
    let possible: BTreeSet<_> =
        model.properties().iter().filter(|one| possible(one)).map(|one| one.name).collect();
    let end = match (scope.mutation, until_shown) {
        (None, false) => HasDiscoveries::All,
        (None, true) => HasDiscoveries::AllOf(possible.clone()),
        (Some(_), _) => HasDiscoveries::AnyFailures,
    };
    let checker = model.checker().finish_when(end).target_state_count(transitions_max).spawn_bfs().join();
    println!(
        "{scope:?}: {} transitions, {} states, {} states of replicas, {} steps deep",
        checker.state_count(),
        checker.unique_state_count(),
        checker.model().table().locals.len(),
        checker.max_depth(),
    );
    let found = checker.discoveries();
    let wrong = found.iter().find(|(name, _)| !possible.contains(*name));
    if let Some((name, path)) = wrong {
        let steps = path.clone().into_actions().into_iter();
        let steps: Vec<_> = steps.map(|step| checker.model().format_action(&step)).collect();
        return Some(format!("not so: {name}\n{}", steps.join("\n")));
    }
    // A large scope that is cut short need not have come that far.
    if scope.mutation.is_none() && (until_shown || checker.state_count() < transitions_max) {
        let missing: Vec<_> = possible.iter().filter(|name| !found.contains_key(*name)).collect();
        assert!(missing.is_empty(), "{missing:?} never happened: the scope shows nothing");
    }
    None
}

/// Nothing in a scope goes wrong.
fn holds(scope: Scope, transitions_max: usize, until_shown: bool) {
    if let Some(counterexample) = explore(scope, transitions_max, until_shown) {
        panic!("{scope:?} {counterexample}");
    }
}

/// With a rule left out, the model shows how the group comes to disagree.
fn notices(scope: Scope, mutation: Mutation) {
    let counterexample = explore(Scope { mutation: Some(mutation), ..scope }, USUAL, false);
    let counterexample = counterexample.unwrap_or_else(|| panic!("the model does not notice {mutation:?}"));
    println!("{mutation:?} {counterexample}");
    assert!(counterexample.starts_with("not so: correct replicas agree"), "{counterexample}");
}

#[test]
fn equivocating_primary_divides_nobody() {
    holds(ONE_VIEW, USUAL, false);
}

#[test]
fn replica_that_comes_back_from_its_journal_contradicts_nothing() {
    holds(ONE_CRASH, USUAL, false);
}

#[test]
fn what_was_prepared_is_kept_when_the_primary_falls_silent() {
    holds(TWO_VIEWS, USUAL, true);
}

/// Their beginnings, unless more is asked for.
#[test]
fn large_scopes() {
    let given = std::env::var("PBFT_STATES").ok().and_then(|given| given.parse().ok());
    let transitions_max = given.unwrap_or(2_000);
    for scope in [
        Scope { in_full: true, ..ONE_VIEW },
        Scope { tongue: Tongue::Silent, may_leave: ALL, ..TWO_VIEWS },
        Scope { may_leave: ALL, ..TWO_VIEWS },
        Scope { tongue: Tongue::Forked, may_leave: ALL, ..TWO_VIEWS },
        Scope { tongue: Tongue::Forked, may_leave: ALL, liar: ReplicaId(1), ..TWO_VIEWS },
    ] {
        holds(scope, transitions_max, false);
    }
}

#[test]
fn committing_at_two_f_is_noticed() {
    notices(TWO_VIEWS, Mutation::CommitAtTwoF);
}

#[test]
fn counting_a_sender_twice_is_noticed() {
    notices(TWO_VIEWS, Mutation::CountSenderTwice);
}

#[test]
fn forgetting_what_was_prepared_is_noticed() {
    notices(TWO_VIEWS, Mutation::ForgetPrepared);
}

#[test]
fn hiding_what_was_prepared_is_noticed() {
    notices(TWO_VIEWS, Mutation::HidePrepared);
}

#[test]
fn skipping_the_wait_for_the_journal_is_noticed() {
    notices(ONE_CRASH, Mutation::SkipDurableWait);
}

#[test]
fn forgetting_promises_in_a_crash_is_noticed() {
    notices(ONE_CRASH, Mutation::ForgetPromises);
}
