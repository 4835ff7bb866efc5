//! Going over to the next configuration, message by message: what must not happen on the way.
#![cfg(feature = "sim")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_pbft::{
    Action, Client, ClientAction, ClientId, ClientSettings, Configuration, Ignored, Incarnation, Instant,
    JournalPosition, Limits, Readiness, Record, Replica, ReplicaId, Sequence, Settings, Timestamp, View,
    crypto::{Digest, Domain, Keychain, Kind, Principal},
    membership::{Chain, Succession},
    message::{
        Answer, Certificate, Configured, Content, Ending, Message, NewView, PrePrepare, Prepare, Proof,
        Reply, Request, Unverified, ViewChange, wire,
    },
    sim::{Cluster, Ledger, Setup},
};

const CLIENT: Principal = Principal::Client(ClientId(0));
/// Where the order that is executed in batch 1 is in force.
const BOUNDARY: Sequence = Sequence(6);

const fn replica(id: u32) -> Principal {
    Principal::Replica(ReplicaId(id))
}

fn setup() -> Setup {
    let mut setup = Setup::new(1, 1);
    setup.with_operator();
    setup.configuration.limits = Limits { checkpoint_period: 2, window: 4, ..Limits::default() };
    setup
}

/// What replaces replica 3 after the boundary, and the configuration that it leads to.
fn genuine() -> (Succession, Configuration) {
    let chain = chain();
    let succession = chain.last().expect("the order was followed").clone();
    assert_eq!(succession.start, BOUNDARY);
    (succession, chain.latest().clone())
}

fn chain() -> Chain {
    let mut cluster = Cluster::new(setup(), Ledger);
    cluster.order_replacement(ClientId(0), &[ReplicaId(3)]).expect("there is room");
    cluster.run_for(Duration::from_secs(1));
    cluster.chain_beside(ReplicaId(3))
}

fn keys(configuration: &Configuration, me: Principal) -> Keychain {
    Keychain::fast(configuration.scope(), configuration.public_keys(), me)
}

fn to_all(
    configuration: &Configuration,
    from: Principal,
    body: Message,
    bytes: Bytes,
) -> Unverified<Message> {
    body.proven_as(bytes, &keys(configuration, from), from)
}

/// What nothing proves: a hint, or what proves itself.
fn bare(sender: Principal, body: Message) -> Unverified<Message> {
    let bytes = wire::encode_body(&body);
    Unverified { sender, body, bytes, proof: Proof::Nothing }
}

fn hint(sender: Principal, number: u64) -> Unverified<Message> {
    bare(sender, Message::Configured(Configured { number }))
}

fn request(operation: Bytes, first: u64, (reconfigure, read_only): (bool, bool)) -> Request {
    let (client, incarnation) = (ClientId(0), Incarnation(1));
    let (floor, first, replier) = (Timestamp(first), Timestamp(first), ReplicaId(0));
    let operations = vec![operation];
    Request {
        client,
        incarnation,
        floor,
        first,
        operations,
        named: Vec::new(),
        read_only,
        receipt: false,
        reconfigure,
        replier,
    }
}

/// Four replicas of the genesis whose messages arrive as a test wants it.
struct Net {
    genesis: Configuration,
    replicas: Vec<Replica<Ledger>>,
    queue: VecDeque<(Principal, Principal, Unverified<Message>)>,
    /// What was not let through.
    held: Vec<(Principal, Principal, Unverified<Message>)>,
    /// What clients got, and from whom.
    told: Vec<(Principal, Message)>,
    /// Whose disk takes its time, and what it was given.
    slow: Option<(usize, JournalPosition)>,
    /// What replica 2 wrote down.
    written: Vec<(JournalPosition, Record)>,
    now: Instant,
}

impl Net {
    fn new(journal: bool) -> Self {
        let genesis = setup().configuration;
        let replicas = (0..4).map(ReplicaId).map(|id| {
            let settings = Settings { journal, ..Settings::default() };
            Replica::new(genesis.clone(), id, keys(&genesis, Principal::Replica(id)), Ledger, settings)
        });
        let (queue, held, told, written) = Default::default();
        Self {
            replicas: replicas.collect(),
            genesis,
            queue,
            held,
            told,
            slow: None,
            written,
            now: Instant(1),
        }
    }

    /// The group orders to replace replica 3, while `pass` says what gets through.
    fn order(pass: impl Fn(u32, u32, &Message) -> bool) -> Self {
        let mut net = Self::new(false);
        net.submit(genuine().0.reconfigure.to_bytes());
        net.pump(pass);
        net
    }

    fn submit(&mut self, order: Bytes) {
        let request = request(order, 1, (true, false));
        let bytes = wire::encode_request(&request);
        let message = to_all(&self.genesis, CLIENT, Message::Request(request), bytes);
        self.queue.push_back((CLIENT, replica(0), message));
    }

    /// Does all there is to do, and no timer.
    fn pump(&mut self, pass: impl Fn(u32, u32, &Message) -> bool) {
        loop {
            for id in 0..4 {
                self.poll(id);
            }
            let Some((from, to, message)) = self.queue.pop_front() else { return };
            match (from, to) {
                (_, Principal::Client(_)) => self.told.push((from, message.body)),
                (Principal::Replica(by), Principal::Replica(id)) if !pass(by.0, id.0, &message.body) => {
                    self.held.push((from, to, message));
                }
                (_, Principal::Replica(id)) => {
                    self.replicas[id.0 as usize].handle_message(self.now, message);
                }
            }
        }
    }

    fn poll(&mut self, id: usize) {
        let (me, mut last) = (replica(u32::try_from(id).expect("four")), None);
        while let Some(action) = self.replicas[id].poll_action(self.now) {
            match action {
                Action::Send { to, message } => self.queue.push_back((me, to, message)),
                Action::Broadcast { message } => {
                    let others = (0..4).map(replica).filter(|to| *to != me);
                    self.queue.extend(others.map(|to| (me, to, message.clone())));
                }
                Action::Append { position, record } => {
                    last = Some(position);
                    if id == 2 {
                        self.written.push((position, record));
                    }
                }
                Action::Truncate { .. } | Action::Evidence(_) => {}
            }
        }
        match (&mut self.slow, last) {
            (Some((slow, given)), Some(last)) if *slow == id => *given = last,
            (_, Some(last)) => {
                self.replicas[id].handle_durable(self.now, last);
                self.poll(id);
            }
            _ => {}
        }
    }

    /// Timers run for a while, of all but those that are down.
    fn wait(&mut self, rounds: u32, down: &[usize], pass: impl Fn(u32, u32, &Message) -> bool) {
        for _ in 0..rounds {
            self.now = self.now + Duration::from_millis(60);
            for id in (0..4).filter(|id| !down.contains(id)) {
                self.replicas[id].handle_timeout(self.now);
            }
            let up = |id: u32| !down.contains(&(id as usize));
            self.pump(|from, to, message| up(from) && up(to) && pass(from, to, message));
        }
    }

    /// What a replica answers to a read in some configuration.
    fn read(&mut self, id: usize, configuration: &Configuration) -> usize {
        self.told.clear();
        let request = request(Bytes::from_static(b"all?"), 9, (false, true));
        let bytes = wire::encode_request(&request);
        let message = to_all(configuration, CLIENT, Message::Request(request), bytes);
        self.replicas[id].handle_message(self.now, message);
        self.poll(id);
        let told = |(_, to, message): &(_, _, Unverified<_>)| {
            *to == CLIENT && matches!(message.body, Message::Reply(_))
        };
        let answers = self.queue.iter().filter(|sent| told(sent)).count();
        self.queue.retain(|sent| !told(sent));
        answers
    }

    fn number(&self, id: usize) -> u64 {
        self.replicas[id].configuration().number
    }
}

fn is_last_checkpoint(message: &Message) -> bool {
    matches!(message, Message::Checkpoint(checkpoint) if checkpoint.sequence == BOUNDARY)
}

/// Whether whoever waits at the boundary goes over by such messages.
fn shows_the_way(message: &Message) -> bool {
    is_last_checkpoint(message) || matches!(message, Message::Succession(_))
}

fn sign<M>(
    configuration: &Configuration,
    sender: Principal,
    (kind, view, body): (Kind, View, M),
    bytes: Bytes,
) -> Unverified<M> {
    let signature = keys(configuration, sender).sign(Domain::new(kind, view.0), &bytes);
    Unverified { sender, body, bytes, proof: Proof::Signature(signature) }
}

/// A NEW-VIEW of the former configuration holds the proof that it is over. Whoever took it for a view of the
/// next one would vote there for what nobody chose.
#[test]
fn a_view_of_the_former_configuration_is_not_entered_in_the_next_one() {
    // Replica 2 has the state at the boundary, and does not know that others have it.
    let mut net = Net::order(|_, to, message| to != 2 || !shows_the_way(message));
    assert_eq!((net.number(1), net.number(2)), (1, 0));
    assert_eq!(net.replicas[2].executed(), BOUNDARY);
    let votes = net.held.iter().filter_map(|(from, _, message)| match (&message.body, from) {
        (Message::Checkpoint(checkpoint), Principal::Replica(from)) => {
            Some((checkpoint.state, (*from, checkpoint.vote.clone())))
        }
        _ => None,
    });
    let mut votes: Vec<_> = votes.collect();
    votes.sort_by_key(|(_, (from, _))| *from);
    let stable = Certificate {
        sequence: BOUNDARY,
        state: votes[0].0,
        votes: votes.iter().map(|(_, vote)| vote.clone()).collect(),
    };
    let view = View(1);
    let view_change = |from: u32, stable| {
        let body =
            ViewChange { view, stable, prepared: Vec::new(), pre_prepared: Vec::new(), marks: Vec::new() };
        let bytes = wire::encode_view_change(&body);
        sign(&net.genesis, replica(from), (Kind::ViewChange, view, body), bytes)
    };
    let view_changes = vec![view_change(0, None), view_change(1, Some(stable)), view_change(3, None)];
    let body = NewView { view, view_changes };
    let bytes = wire::encode_new_view(&body);
    let message = sign(&net.genesis, replica(1), (Kind::NewView, view, Message::NewView(body)), bytes);
    let now = net.now;
    net.replicas[2].handle_message(now, message);
    assert_eq!(net.number(2), 1, "the proof is good");
    assert_eq!((net.replicas[2].view(), net.replicas[2].is_changing()), (View(0), false));
}

/// Others may have gone over, and acknowledge what this replica will never hear of in the former
/// configuration: f liars, and those who are left behind or replaced, must not make 2f+1 equal answers.
#[test]
fn no_read_is_answered_in_a_configuration_that_may_be_over() {
    let mut net = Net::order(|_, to, message| to != 2 || !shows_the_way(message));
    let genesis = net.genesis.clone();
    assert_eq!((net.number(2), net.replicas[2].executed()), (0, BOUNDARY));
    assert_eq!(net.read(2, &genesis), 0);
}

#[test]
fn a_read_is_answered_up_to_the_boundary() {
    let mut net = Net::order(|_, to, message| {
        to != 2 || !matches!(message, Message::Commit(commit) if commit.sequence == BOUNDARY)
    });
    let genesis = net.genesis.clone();
    assert_eq!((net.number(2), net.replicas[2].executed()), (0, Sequence(5)));
    assert_eq!(net.read(2, &genesis), 1);
}

/// What an operator reads of a replica that stands still is why.
#[test]
fn whoever_waits_at_the_boundary_and_whoever_was_replaced_say_so() {
    let mut net = Net::order(|_, to, message| to != 2 || !shows_the_way(message));
    let readiness = |net: &Net, id: usize| net.replicas[id].readiness(net.now);
    assert_eq!(readiness(&net, 1), Readiness::Ready);
    assert_eq!(readiness(&net, 2), Readiness::Crossing);
    assert_eq!(readiness(&net, 3), Readiness::Retired);
    let held = std::mem::take(&mut net.held);
    net.queue.extend(held);
    net.pump(|_, _, _| true);
    assert_eq!(readiness(&net, 2), Readiness::Ready);
}

/// The state before the boundary misses what was acknowledged before it.
#[test]
fn no_read_is_answered_without_the_state_at_the_beginning() {
    let (succession, next) = genuine();
    let mut net = Net::new(false);
    let newcomer = Replica::join(
        &chain(),
        ReplicaId(3),
        keys(&next, replica(3)),
        Ledger,
        Settings { journal: false, ..Settings::default() },
    );
    net.replicas[3] = newcomer;
    assert_eq!(net.read(3, &next), 0);
    // And so it is with whoever was shown the way.
    let message = bare(replica(0), Message::Succession(succession));
    let now = net.now;
    net.replicas[2].handle_message(now, message);
    assert_eq!(net.number(2), 1);
    for _ in 0..20 {
        // Nobody serves the state: there are times when nobody is being asked.
        assert_eq!(net.read(2, &next), 0);
        net.now = net.now + Duration::from_millis(250);
        let now = net.now;
        net.replicas[2].handle_timeout(now);
        net.poll(2);
        net.queue.clear();
    }
}

/// A state that was fetched is not answered from before it is durable, and is from then on.
#[test]
fn whoever_fetches_the_state_at_the_boundary_answers_in_the_next_configuration() {
    let mut net = Net::new(true);
    net.submit(genuine().0.reconfigure.to_bytes());
    // Replica 2 hears of the checkpoints alone, and others of all but the last ones.
    let pass = |_: u32, to: u32, message: &Message| match message {
        Message::Checkpoint(_) => to == 2 || !is_last_checkpoint(message),
        _ => to != 2,
    };
    net.pump(pass);
    assert_eq!(net.replicas[0].executed(), BOUNDARY);
    assert_eq!(net.replicas[2].executed(), Sequence(0));
    net.slow = Some((2, JournalPosition(0)));
    let fetches =
        |message: &Message| matches!(message, Message::Fetch(_) | Message::MetaData(_) | Message::Data(_));
    net.wait(3, &[0, 1, 3], |_, _, _| true); // it finds out that it is behind
    let held: Vec<_> = net.held.drain(..).filter(|(_, _, message)| fetches(&message.body)).collect();
    net.queue.extend(held);
    net.pump(|_, _, message| fetches(message));
    assert_eq!(net.replicas[2].executed(), BOUNDARY, "the state was fetched");
    let next = genuine().1;
    assert_eq!(net.read(2, &next), 0, "it could be lost yet");
    let (_, position) = net.slow.take().expect("it was slow");
    let now = net.now;
    net.replicas[2].handle_durable(now, position);
    net.poll(2);
    assert_eq!(net.number(2), 1);
    assert_eq!(net.read(2, &next), 1);
}

/// It may be the only one who has the proof.
#[test]
fn whoever_was_replaced_shows_others_the_way() {
    let mut net = Net::order(|_, to, message| to == 3 || !is_last_checkpoint(message));
    assert!(net.replicas[3].is_retired());
    assert_eq!((net.number(0), net.number(1)), (0, 0));
    // With replica 2 gone for good, no quorum of the former configuration is left.
    net.wait(20, &[2], |_, _, _| true);
    assert_eq!((net.number(0), net.number(1)), (1, 1));
}

/// A promise of the former configuration is kept by nobody in the next one. Said there, it would be one whose
/// record a crash can take.
#[test]
fn what_was_promised_in_the_former_configuration_is_not_said_in_the_next_one() {
    let (succession, next) = genuine();
    let mut net = Net::new(true);
    let genesis = net.genesis.clone();
    net.slow = Some((2, JournalPosition(0)));
    let view = View(1);
    // f+1 others leave the view, and so does replica 2.
    let leave = |net: &mut Net, configuration: &Configuration| {
        for from in [0, 1].map(replica) {
            let (prepared, pre_prepared, marks) = Default::default();
            let body = ViewChange { view, stable: None, prepared, pre_prepared, marks };
            let bytes = wire::encode_view_change(&body);
            let kind = (Kind::ViewChange, view, Message::ViewChange(body));
            let now = net.now;
            net.replicas[2].handle_message(now, sign(configuration, from, kind, bytes));
        }
        net.poll(2);
        assert!(net.replicas[2].is_changing());
        net.slow.expect("it is slow").1
    };
    let promised = leave(&mut net, &genesis);
    let now = net.now;
    let message = bare(replica(0), Message::Succession(succession));
    net.replicas[2].handle_message(now, message);
    assert_eq!((net.number(2), net.replicas[2].view()), (1, View(0)));
    let last = leave(&mut net, &next);
    net.queue.clear();
    let says = |net: &mut Net, position| {
        net.replicas[2].handle_durable(now, position);
        net.poll(2);
        net.queue.drain(..).filter(|(.., message)| matches!(message.body, Message::ViewChange(_))).count()
    };
    assert_eq!(says(&mut net, promised), 0, "a crash may take the record of this promise yet");
    assert_eq!(says(&mut net, last), 3);
}

/// A copy of the state may hold an order that no record behind it tells of.
#[test]
fn whoever_comes_back_from_a_copy_knows_the_boundary_in_it() {
    let mut net = Net::new(true);
    net.submit(genuine().0.reconfigure.to_bytes());
    // Replica 2 hears of checkpoints alone, and nobody of the last one. It fetches the second, with the order.
    net.pump(|_, to, message| match message {
        Message::Checkpoint(_) => !is_last_checkpoint(message),
        _ => to != 2,
    });
    let fetches =
        |message: &Message| matches!(message, Message::Fetch(_) | Message::MetaData(_) | Message::Data(_));
    net.wait(3, &[0, 1, 3], |_, _, _| true);
    let held: Vec<_> = net.held.drain(..).filter(|(_, _, message)| fetches(&message.body)).collect();
    net.queue.extend(held);
    net.pump(|_, _, message| fetches(message));
    assert_eq!((net.replicas[2].executed(), net.replicas[2].stable()), (Sequence(4), Sequence(4)));
    let (genesis, now) = (net.genesis.clone(), net.now);
    let keychain = keys(&genesis, replica(2));
    let written = std::mem::take(&mut net.written);
    let chain = Chain::new(genesis.clone());
    let back = Replica::recover(&chain, ReplicaId(2), keychain, Ledger, Settings::default(), written);
    net.replicas[2] = back.expect("it reads what it wrote");
    assert_eq!(net.replicas[2].boundary(), Some(BOUNDARY));
    // A primary that lies orders beyond it.
    let batch = wire::batch(now.0, false, Vec::new().into());
    let body = Message::PrePrepare(PrePrepare { view: View(0), sequence: BOUNDARY.next(), batch });
    let message = body.proven_by(&keys(&genesis, replica(0)), replica(2));
    net.replicas[2].handle_message(now, message);
    let outside = net.replicas[2].ignored().find(|(reason, _)| *reason == Ignored::OutsideWindow);
    assert_eq!(outside, Some((Ignored::OutsideWindow, 1)));
    net.queue.clear();
    net.poll(2);
    let votes = net.queue.iter().filter(|(.., message)| matches!(message.body, Message::Prepare(_)));
    assert_eq!(votes.count(), 0);
}

/// The old key's tags are void wherever they were checked.
#[test]
fn what_was_checked_in_the_former_configuration_is_void_in_the_next_one() {
    let mut net = Net::order(|_, to, message| to != 2 || !shows_the_way(message));
    let request = request(Bytes::from_static(b"12345678"), 2, (false, false));
    let bytes = wire::encode_request(&request);
    let message = to_all(&net.genesis, CLIENT, Message::Request(request), bytes);
    let checked = message.verify(net.replicas[2].keychain()).expect("it is of the former configuration");
    let held = std::mem::take(&mut net.held);
    net.queue.extend(held);
    net.pump(|_, _, _| true);
    assert_eq!(net.number(2), 1);
    let now = net.now;
    net.replicas[2].handle_verified(now, checked);
    net.poll(2);
    assert!(net.queue.is_empty(), "nothing is made of it: {:?}", net.queue);
}

/// To find out that one proves nothing takes digests of all keys. Whoever is shown many by one replica is
/// not kept from learning the way by another one, nor by the same one later.
#[test]
fn wrong_successions_of_one_replica_are_looked_at_so_many_times_in_a_period() {
    let (genuine, _) = genuine();
    let forged = Succession { votes: genuine.votes[..2].into(), ..genuine.clone() };
    let (now, later) = (Instant(1), Instant(1) + Settings::default().status_period);
    for (last, by, number) in [(now, 1, 0), (now, 0, 1), (later, 1, 1)] {
        let mut net = Net::new(false);
        let mut show = |now, from, succession: &Succession| {
            let message = bare(replica(from), Message::Succession(succession.clone()));
            net.replicas[2].handle_message(now, message);
        };
        (0..100).for_each(|_| show(now, 1, &forged));
        show(last, by, &genuine);
        assert_eq!(net.number(2), number, "shown by {by}");
        let ignored: BTreeMap<_, _> = net.replicas[2].ignored().collect();
        assert_eq!(ignored[&Ignored::Unproven], 8);
    }
}

/// The index is another's by the time that the driver hears of it.
#[test]
fn whoever_is_blamed_late_is_named_by_the_configuration() {
    let mut net = Net::new(true);
    let genesis = net.genesis.clone();
    let now = net.now;
    for byte in [1, 2] {
        let digest = Digest([byte; 32]);
        let vote = Message::Prepare(Prepare { view: View(0), sequence: Sequence(1), digest });
        let message = vote.proven_by(&keys(&genesis, replica(3)), replica(2));
        net.replicas[2].handle_message(now, message);
    }
    let message = bare(replica(0), Message::Succession(genuine().0));
    net.replicas[2].handle_message(now, message);
    assert_eq!(net.number(2), 1, "replica 3 was replaced");
    let mut said =
        std::iter::from_fn(|| net.replicas[2].poll_action(now)).filter_map(|action| match action {
            Action::Evidence(evidence) => {
                Some((evidence.configuration(), evidence.culprit(), evidence.kind()))
            }
            _ => None,
        });
    assert_eq!(said.next(), Some((0, Some(ReplicaId(3)), "conflicting-votes")));
}

#[test]
#[should_panic(expected = "gives the place")]
fn whoever_was_a_member_before_does_not_join() {
    let keychain = keys(&genuine().1, replica(2));
    drop(Replica::join(&chain(), ReplicaId(2), keychain, Ledger, Settings::default()));
}

fn client(configuration: &Configuration) -> Client {
    let keychain = keys(configuration, CLIENT);
    Client::new(configuration.clone(), ClientId(0), Incarnation(1), keychain, ClientSettings::default())
}

fn actions(client: &mut Client, now: Instant) -> Vec<ClientAction> {
    std::iter::from_fn(|| client.poll_action(now)).collect()
}

/// Its order may have its outcome after the client knows that it is in force.
#[test]
fn a_client_that_is_there_already_asks_no_more() {
    let (succession, next) = genuine();
    let (genesis, now) = (setup().configuration, Instant(1));
    let mut client = client(&genesis);
    client.submit_reconfigure(now, &succession.reconfigure).expect("there is room");
    actions(&mut client, now);
    client.handle_succession(now, &succession);
    actions(&mut client, now);
    for from in 0..3 {
        let result = Bytes::from([&[0][..], &BOUNDARY.0.to_be_bytes()].concat());
        let (ending, content, timestamp) = (Ending::Done, Content::Full(result), Timestamp::FIRST);
        let answer = Answer { timestamp, sequence: Sequence(1), position: 0, ending, content };
        let answers = vec![answer];
        let body = Message::Reply(Reply {
            view: View(0),
            client: ClientId(0),
            incarnation: Incarnation(1),
            answers,
        });
        client.handle_message(now, body.proven_by(&keys(&next, replica(from)), CLIENT));
    }
    let done = actions(&mut client, now);
    assert!(done.iter().any(|action| matches!(action, ClientAction::Outcome(_))), "{done:?}");
    assert_eq!(client.poll_timeout(), None);
}

/// There may be more to be shown than one configuration.
#[test]
fn a_client_that_was_shown_the_way_asks_for_more() {
    let (succession, _) = genuine();
    let mut client = client(&setup().configuration);
    let now = Instant(1);
    client.handle_message(now, hint(replica(0), 5));
    let asked = |client: &mut Client, number: u64| {
        let asks = |action: &ClientAction| match action {
            ClientAction::Send { to: ReplicaId(0), message } => {
                message.body == Message::Configured(Configured { number })
            }
            _ => false,
        };
        actions(client, now).iter().any(asks)
    };
    assert!(asked(&mut client, 0));
    client.handle_message(now, bare(replica(0), Message::Succession(succession)));
    assert!(asked(&mut client, 1));
}

/// Anybody may ask in anybody's name, for something else: that must not keep the proof from who needs it.
#[test]
fn nobody_is_kept_back_by_hints_in_its_name() {
    let mut cluster = Cluster::new(setup(), Ledger);
    let all = |cluster: &mut Cluster<Ledger>, cut: bool| {
        for other in [0, 2, 3].map(replica).into_iter().chain([CLIENT]) {
            match cut {
                true => (cluster.cut(other, replica(1)), cluster.cut(replica(1), other)),
                false => (cluster.mend(), ()),
            };
        }
    };
    all(&mut cluster, true);
    for id in [3, 2].map(ReplicaId) {
        cluster.order_replacement(ClientId(0), &[id]).expect("there is room");
        cluster.run_for(Duration::from_secs(2));
        assert!(cluster.replace(id));
        cluster.run_for(Duration::from_secs(2));
    }
    assert_eq!(cluster.replica(ReplicaId(0)).unwrap().configuration().number, 2);
    assert_eq!(cluster.replica(ReplicaId(1)).unwrap().configuration().number, 0);
    all(&mut cluster, false);
    for _ in 0..5000 {
        for to in [0, 3] {
            cluster.inject(replica(1), replica(to), hint(replica(1), 1));
        }
        cluster.run_for(Duration::from_millis(1));
    }
    assert_eq!(cluster.replica(ReplicaId(1)).unwrap().configuration().number, 2);
}
