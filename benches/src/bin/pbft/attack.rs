//! Rows with faulty members: what is left of the rate of correct clients.
//!
//! A faulty replica is a real one whose words are twisted on their way out, proven again with its own
//! keys; a faulty client sends what it likes. They work on the same two processors as those they
//! trouble, so what they send is paced: what is measured is what it does to the others, not who gets
//! the processors.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use quorate_pbft::{
    Action, ClientId, Incarnation, Replica, ReplicaId, Sequence, Settings, Timestamp, View,
    crypto::{Authenticator, Digest, Identity, Keychain, Principal, SeedRng, TAG_BYTES},
    message::{Commit, Content, Message, PrePrepare, Prepare, Proof, Request, Unverified, ViewChange, wire},
    sim::prove,
};
use tokio::{
    sync::mpsc,
    time::{interval, sleep_until},
};

use crate::{
    Asked, Outcome, group,
    load::{Load, Measured},
    peer::{self, Peer},
    process::{Process, cpu, seed, wait_for_parent},
    report::{Report, Row},
    scenario::primary,
};

/// Correct clients.
const CLIENTS: usize = 256;
const SECONDS: f64 = 4.0;
/// Messages that one who floods sends in a second.
const FLOOD: u64 = 20_000;
/// How long a slow primary keeps a PRE-PREPARE: within every other's patience.
const SLOWNESS: Duration = Duration::from_millis(100);

/// Who is faulty in a row: a replica, and the faulty clients.
#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    /// How a replica is faulty, and whether it is the first primary.
    replica: Option<(&'static str, bool)>,
    clients: &'static [&'static str],
}

const NONE: Scenario = Scenario { name: "fault-free", replica: None, clients: &[] };
const SCENARIOS: &[Scenario] = &[
    Scenario { name: "under a client with tags for some (big MAC)", clients: &["big-mac"], ..NONE },
    Scenario { name: "under a client that repeats itself", clients: &["replay"], ..NONE },
    Scenario { name: "under a client that floods", clients: &["flood"], ..NONE },
    Scenario { name: "under a client that sends too much", clients: &["oversized"], ..NONE },
    Scenario { name: "under a silent primary", replica: Some(("silent", true)), ..NONE },
    Scenario { name: "under a slow primary", replica: Some(("slow", true)), ..NONE },
    Scenario { name: "under an equivocating primary", replica: Some(("equivocate", true)), ..NONE },
    Scenario { name: "under a flooding backup", replica: Some(("flood", false)), ..NONE },
    Scenario { name: "under a lying backup", replica: Some(("lie", false)), ..NONE },
    Scenario { name: "under a storm of view-changes", replica: Some(("storm", false)), ..NONE },
    Scenario {
        name: "under all of it, from a backup",
        replica: Some(("lie+storm+flood", false)),
        clients: &["big-mac", "replay", "flood", "oversized"],
    },
    Scenario {
        name: "under all of it, from a primary",
        replica: Some(("equivocate+lie+storm+flood", true)),
        clients: &["big-mac", "replay", "flood", "oversized"],
    },
];

pub(crate) fn names() -> impl Iterator<Item = String> {
    [NONE].iter().chain(SCENARIOS).map(|scenario| scenario.name.to_owned())
}

pub(crate) fn measure(
    asked: &Asked,
    identities: &[Identity],
    rng: &mut SeedRng,
    report: &mut Report,
) -> Outcome<()> {
    let wanted: Vec<_> = SCENARIOS.iter().filter(|scenario| asked.wants(scenario.name, false)).collect();
    if wanted.is_empty() && !asked.wants(NONE.name, false) {
        return Ok(());
    }
    let calm = run(&NONE, identities, rng.next_seed())?;
    report.print(&calm)?;
    for scenario in wanted {
        let row = run(scenario, identities, rng.next_seed())?;
        report.print(&Row { share: Some(row.ops_per_s / calm.ops_per_s), ..row })?;
    }
    Ok(())
}

fn run(scenario: &Scenario, identities: &[Identity], seed: [u8; 32]) -> Outcome<Row> {
    let configuration = group::configure(identities, seed, CLIENTS + scenario.clients.len(), true)?;
    let directory = group::prepare(&configuration, identities)?;
    let path = directory.path().to_str().ok_or("the temporary directory is not UTF-8")?;
    let primary = primary(&configuration);
    let faulty =
        scenario.replica.map(|(fault, leads)| (fault, if leads { primary } else { (primary + 1) % 4 }));
    let mut processes = Vec::new();
    for index in 0..4 {
        let number = index.to_string();
        processes.push(match faulty {
            Some((fault, which)) if which == index => Process::start(&["liar", path, &number, fault])?,
            _ => Process::start(&["replica", path, &number, "none"])?,
        });
    }
    let load = Load {
        clients: CLIENTS,
        outstanding: 1,
        request_bytes: 0,
        seconds: SECONDS,
        rate: None,
        connections: false,
        patient: true,
    };
    let client = processes.len();
    processes.push(Process::start(&["client", path, &serde_json::to_string(&load)?])?);
    for (index, fault) in (CLIENTS..).zip(scenario.clients) {
        processes.push(Process::start(&["pest", path, &index.to_string(), fault])?);
    }
    group::introduce(&mut processes)?;
    for (index, _) in (client + 1..).zip(scenario.clients) {
        processes[index].expect("joined")?; // else nobody would be under attack
    }
    if let Some((_, index)) = faulty {
        processes[index].expect("joined")?;
    }
    processes[client].expect("first reply")?;
    processes[client].expect("begin")?;
    // Of the faulty ones, and of all.
    let account = |processes: &[Process]| -> Outcome<[Duration; 2]> {
        let liar = faulty.map_or(Ok(Duration::ZERO), |(_, which)| processes[which].cpu())?;
        Ok([liar + cpu(&processes[client + 1..])?, cpu(processes)?])
    };
    let before = account(&processes)?;
    processes[client].expect("end")?;
    let after = account(&processes)?;
    let [taken, all] = [0, 1].map(|of| (after[of] - before[of]).as_secs_f64());
    let measured: Measured = serde_json::from_str(&processes[client].line()?)?;
    let faulty_cpu = Some(taken / all).filter(|_| taken > 0.0);
    Ok(Row { faulty_cpu, ..measured.row(scenario.name, &load) })
}

/// What a faulty replica does beside what a correct one does.
#[derive(Clone, Copy, Debug)]
struct Faults {
    silent: bool,
    slow: bool,
    equivocates: bool,
    lies: bool,
    storms: bool,
    floods: bool,
}

impl Faults {
    fn named(names: &str) -> Self {
        let has = |name| names.split('+').any(|one| one == name);
        Self {
            silent: has("silent"),
            slow: has("slow"),
            equivocates: has("equivocate"),
            lies: has("lie"),
            storms: has("storm"),
            floods: has("flood"),
        }
    }
}

/// Runs `work` until the parent closes our input.
fn until_told(
    work: impl Future<Output = Outcome<()>> + 'static,
    runtime: &tokio::runtime::Runtime,
) -> Outcome<()> {
    let (told, ends) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = wait_for_parent();
        let _ = told.send(());
    });
    runtime.block_on(async {
        tokio::select! {
            done = work => done,
            _ = ends => Ok(()),
        }
    })
}

fn addresses() -> Outcome<Vec<(ReplicaId, SocketAddr)>> {
    let book = group::read_book()?;
    book.iter().map(|(id, address)| Ok((id, address.parse()?))).collect()
}

/// A faulty replica's process.
pub(crate) fn replica(directory: &Path, index: u32, faults: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(peer::listen())?;
    let configuration = group::configuration(directory)?;
    let (id, me) = (ReplicaId(index), Principal::Replica(ReplicaId(index)));
    let identity = group::identity(directory, id.index())?;
    let (scope, keys) = (configuration.scope(), configuration.public_keys());
    let mut keychain = Keychain::new(scope, keys.clone(), me, identity.clone());
    keychain.renew(peer::epoch()?, seed()?);
    let others: Vec<_> = addresses()?.into_iter().filter(|(other, _)| *other != id).collect();
    let settings = Settings { journal: false, unix_at_zero: 1000 * peer::epoch()?, ..Settings::default() };
    let faults = Faults::named(faults);
    let storm = if faults.storms { storm(&keychain) } else { VecDeque::new() };
    let liar = Liar {
        peer: Peer::new(configuration.clone()),
        replica: Replica::new(configuration, id, keychain, group::Empty, settings),
        others: others.iter().map(|(other, _)| Principal::Replica(*other)).collect(),
        faults,
        other: BTreeMap::new(),
        late: VecDeque::new(),
        start: Instant::now(),
        storm,
    };
    let work = async move {
        let (events_in, events) = mpsc::unbounded_channel();
        tokio::spawn({
            let events = events_in.clone();
            async move { peer::accept(listener, events).await.map_err(|error| error.to_string()) }
        });
        for (other, address) in others {
            tokio::spawn(peer::dial(other, address, events_in.clone()));
        }
        liar.run(events).await
    };
    until_told(work, &runtime)
}

/// Enough VIEW-CHANGEs for one in each millisecond.
fn storm(keychain: &Keychain) -> VecDeque<Bytes> {
    let sign = |view| {
        let (prepared, pre_prepared) = Default::default();
        let body = ViewChange { view: View(view), stable: None, prepared, pre_prepared, marks: vec![] };
        peer::message_frame(&prove(keychain, keychain.me(), Message::ViewChange(body)))
    };
    (2..10_000).map(sign).collect()
}

struct Liar {
    peer: Peer,
    replica: Replica<group::Empty>,
    others: Vec<Principal>,
    faults: Faults,
    /// The batch that the odd replicas were told of.
    other: BTreeMap<(View, Sequence), Digest>,
    /// PRE-PREPAREs of a slow primary, and when they go out.
    late: VecDeque<(Instant, Principal, Unverified<Message>)>,
    start: Instant,
    /// VIEW-CHANGEs that are left, each for a higher view than those before. They were signed before the
    /// start: their maker's work is not what is measured.
    storm: VecDeque<Bytes>,
}

impl Liar {
    async fn run(mut self, mut events: mpsc::UnboundedReceiver<peer::Event>) -> Outcome<()> {
        let mut said = false;
        let mut tick = interval(Duration::from_millis(1));
        loop {
            let due = self.start + self.replica.poll_timeout().since(quorate_pbft::Instant::default());
            let late = self.late.front().map_or(due, |(due, ..)| *due);
            tokio::select! {
                event = events.recv() => {
                    let Some(event) = event else { return Ok(()) };
                    self.handle(event);
                    while let Ok(event) = events.try_recv() {
                        self.handle(event);
                    }
                }
                () = sleep_until(due.min(late).into()) => {}
                _ = tick.tick(), if self.faults.storms || self.faults.floods => self.trouble(),
            }
            self.step();
            if !said && self.others.iter().all(|other| self.peer.reaches(*other)) {
                said = true;
                println!("joined");
            }
        }
    }

    fn now(&self) -> quorate_pbft::Instant {
        quorate_pbft::Instant::default() + self.start.elapsed()
    }

    fn handle(&mut self, event: peer::Event) {
        if let Some(message) = self.peer.handle(self.replica.keychain_mut(), event) {
            self.replica.handle_message(self.now(), message);
        }
    }

    fn step(&mut self) {
        let now = self.now();
        if self.replica.poll_timeout() <= now {
            self.replica.handle_timeout(now);
        }
        while let Some(action) = self.replica.poll_action(now) {
            match action {
                Action::Send { to, message } => self.say(to, message),
                Action::Broadcast { message } => {
                    self.others.clone().into_iter().for_each(|to| self.say(to, message.clone()));
                }
                Action::Append { .. } | Action::Truncate { .. } | Action::Evidence(_) => {}
            }
        }
        while let Some((due, to, message)) = self.late.pop_front() {
            if due > Instant::now() {
                self.late.push_front((due, to, message));
                break;
            }
            self.peer.send(to, &message);
        }
    }

    fn say(&mut self, to: Principal, message: Unverified<Message>) {
        if self.faults.silent {
            return;
        }
        if self.faults.slow && matches!(message.body, Message::PrePrepare(_)) {
            return self.late.push_back((Instant::now() + SLOWNESS, to, message));
        }
        let own = message.sender == self.replica.keychain().me();
        let lie = if own { self.instead(to, &message.body) } else { None };
        match lie {
            Some(body) => self.peer.send(to, &self.prove(to, body)),
            None => self.peer.send(to, &message),
        }
    }

    /// What it says instead of the truth.
    fn instead(&mut self, to: Principal, message: &Message) -> Option<Message> {
        let is_odd = matches!(to, Principal::Replica(id) if id.0 % 2 == 1);
        let faults = self.faults;
        match message {
            Message::PrePrepare(PrePrepare { view, sequence, batch }) if faults.equivocates && is_odd => {
                let batch = wire::batch(batch.time + 1, batch.seal, batch.requests.clone());
                self.other.insert((*view, *sequence), batch.digest(self.replica.keychain().scope()));
                Some(Message::PrePrepare(PrePrepare { view: *view, sequence: *sequence, batch }))
            }
            Message::Commit(Commit { view, sequence, .. }) if faults.equivocates && is_odd => {
                let digest = *self.other.get(&(*view, *sequence))?;
                Some(Message::Commit(Commit { view: *view, sequence: *sequence, digest }))
            }
            Message::Prepare(vote) if faults.lies => {
                Some(Message::Prepare(Prepare { digest: Digest([7; 32]), ..*vote }))
            }
            Message::Commit(vote) if faults.lies => {
                Some(Message::Commit(Commit { digest: Digest([7; 32]), ..*vote }))
            }
            Message::Reply(reply) if faults.lies => {
                let mut reply = reply.clone();
                let wrong = |_| Content::Full(Bytes::from_static(&[0x55; 16]));
                reply.answers.iter_mut().for_each(|answer| answer.content = wrong(()));
                Some(Message::Reply(reply))
            }
            Message::Checkpoint(checkpoint) if faults.lies => {
                let mut checkpoint = checkpoint.clone();
                checkpoint.state.0[0] ^= 1;
                Some(Message::Checkpoint(checkpoint))
            }
            _ => None,
        }
    }

    fn prove(&self, to: Principal, body: Message) -> Unverified<Message> {
        prove(self.replica.keychain(), to, body)
    }

    /// What is sent unasked, once in a millisecond.
    fn trouble(&mut self) {
        if let Some(frame) = self.storm.pop_front() {
            self.others.iter().for_each(|to| self.peer.send_frame(*to, frame.clone()));
        }
        if self.faults.floods {
            let vote = Prepare { view: View(0), sequence: Sequence(1), digest: Digest([9; 32]) };
            let mut message = self.prove(self.others[0], Message::Prepare(vote));
            message.proof = Proof::Authenticator(Authenticator(vec![0; 4 * TAG_BYTES].into()));
            let frame = peer::message_frame(&message);
            for _ in 0..FLOOD / 1000 {
                self.others.iter().for_each(|to| self.peer.send_frame(*to, frame.clone()));
            }
        }
    }
}

/// A faulty client's process.
pub(crate) fn client(directory: &Path, index: u32, fault: &str) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let configuration = group::configuration(directory)?;
    let id = ClientId(index);
    let identity = group::client_identity(directory, id.index())?;
    let (scope, keys) = (configuration.scope(), configuration.public_keys());
    let mut keychain = Keychain::new(scope, keys, Principal::Client(id), identity);
    keychain.renew(peer::epoch()?, seed()?);
    let replicas = addresses()?;
    let (fault, primary) = (fault.to_owned(), primary(&configuration));
    let work = async move {
        let (events_in, mut events) = mpsc::unbounded_channel();
        for (replica, address) in replicas {
            tokio::spawn(peer::dial(replica, address, events_in.clone()));
        }
        let mut pest =
            Pest { peer: Peer::new(configuration), keychain, id, primary, next: 1, oversized: Bytes::new() };
        let mut tick = interval(Duration::from_millis(1));
        let mut said = false;
        loop {
            tokio::select! {
                biased;
                event = events.recv() => match event {
                    Some(event) => _ = pest.peer.handle(&mut pest.keychain, event),
                    None => return Ok(()),
                },
                _ = tick.tick() => {
                    let all = (0..4).map(|id| Principal::Replica(ReplicaId(id)));
                    if said {
                        pest.trouble(&fault);
                    } else if all.clone().all(|replica| pest.peer.reaches(replica)) {
                        said = true;
                        println!("joined");
                    }
                }
            }
        }
    };
    until_told(work, &runtime)
}

struct Pest {
    peer: Peer,
    keychain: Keychain,
    id: ClientId,
    /// The index of the first primary.
    primary: usize,
    /// The timestamp of the next request.
    next: u64,
    /// A request that is too long, made once: its maker's work is not what is measured.
    oversized: Bytes,
}

impl Pest {
    /// What is sent in a millisecond.
    fn trouble(&mut self, fault: &str) {
        let all = (0..4).map(|id| Principal::Replica(ReplicaId(id)));
        match fault {
            // Once in a millisecond, a request that the first primary can check and nobody else.
            "big-mac" => {
                let mut message = self.request(Bytes::new());
                if let Proof::Authenticator(tags) = &mut message.proof {
                    let mut spoilt = vec![0; tags.0.len()];
                    let own = self.primary * TAG_BYTES..(self.primary + 1) * TAG_BYTES;
                    spoilt[own.clone()].copy_from_slice(&tags.0[own]);
                    tags.0 = spoilt.into();
                }
                all.for_each(|to| self.peer.send(to, &message));
            }
            // One request, over and over.
            "replay" => {
                self.next = 1;
                let frame = peer::message_frame(&self.request(Bytes::new()));
                for _ in 0..FLOOD / 1000 {
                    all.clone().for_each(|to| self.peer.send_frame(to, frame.clone()));
                }
            }
            // Requests that are good, each of them new, and waits for no answer.
            "flood" => {
                for _ in 0..FLOOD / 1000 {
                    let frame = peer::message_frame(&self.request(Bytes::new()));
                    all.clone().for_each(|to| self.peer.send_frame(to, frame.clone()));
                }
            }
            // An operation over the limit, and now and then a frame over it, which ends the connection.
            _ => {
                if self.oversized.is_empty() {
                    let message = self.request(Bytes::from(vec![7; (1 << 18) + 1]));
                    self.oversized = peer::message_frame(&message);
                }
                self.next += 1;
                all.clone().for_each(|to| self.peer.send_frame(to, self.oversized.clone()));
                if self.next.is_multiple_of(64) {
                    all.for_each(|to| self.peer.send_frame(to, peer::oversized_frame()));
                }
            }
        }
    }

    /// The next request, which claims that all before it are answered.
    fn request(&mut self, operation: Bytes) -> Unverified<Message> {
        let first = Timestamp(self.next);
        self.next += 1;
        let body = Request {
            client: self.id,
            incarnation: Incarnation(1),
            floor: first,
            first,
            named: Vec::new(),
            operations: vec![operation],
            read_only: false,
            receipt: false,
            reconfigure: false,
            replier: ReplicaId(0),
        };
        Message::Request(body).proven_by(&self.keychain, Principal::Replica(ReplicaId(0)))
    }
}
