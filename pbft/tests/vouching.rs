//! Clients that tag their requests well for some replicas and badly for others: they hold up the others
//! once at most, and nobody else.
#![cfg(feature = "sim")]

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use quorate_pbft::{
    Action, Client, ClientAction, ClientId, ClientSettings, Configuration, Ignored, Incarnation, Instant,
    JournalPosition, Options, Record, Replica, ReplicaId, Sequence, Settings, Timestamp, View,
    crypto::{Digest, Domain, Identity, Keychain, Kind, Principal, PublicKeys, SeedRng, Tag},
    membership::Chain,
    message::{Busy, Message, PrePrepare, Proof, Refused, Request, Unverified, Vouch, Want, wire},
    sim::{Cluster, Ledger, Random, Setup, Weather},
};

const fn replica(id: u32) -> Principal {
    Principal::Replica(ReplicaId(id))
}

const CLIENT: Principal = Principal::Client(ClientId(0));

fn keys(configuration: &Configuration, me: Principal) -> Keychain {
    Keychain::fast(configuration.scope(), configuration.public_keys(), me)
}

/// A message of `from`'s own making: for all replicas, or for a client.
fn made(
    configuration: &Configuration,
    (from, to): (Principal, Principal),
    body: Message,
) -> Unverified<Message> {
    body.proven_by(&keys(configuration, from), to)
}

/// `PBFT_SEEDS=from..to` runs others than the usual ones.
fn seeds(default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("PBFT_SEEDS") else { return default };
    let (from, to) = text.split_once("..").expect("PBFT_SEEDS=from..to");
    from.parse().expect("a number")..to.parse().expect("a number")
}

/// What came out of a run.
#[derive(Default)]
struct Report {
    views: u64,
    liars: u64,
    crashes: u64,
    answered: usize,
    refused: u64,
}

/// Two clients that tell the truth and some that lie, the same replicas' tags wrong in all that they
/// send. Liars start again and again, and then know nothing of having been asked to sign.
struct Run {
    configuration: Configuration,
    cluster: Cluster<Ledger>,
    random: Random,
    names: u64,
    /// Operations of each client that are not answered.
    open: Vec<usize>,
    lives: Vec<u64>,
    /// How often everybody may crash at once.
    crashes_max: u64,
    /// Whether a replica lies.
    may_frame: bool,
}

/// The clients that tell the truth are the first ones.
const HONEST: u32 = 2;

fn below(random: &mut Random, end: u32) -> u32 {
    u32::try_from(random.below(end.into())).expect("below a u32")
}

impl Run {
    fn new(seed: u64, with_liar: bool) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let f = if random.chance(250) { 2 } else { 1 };
        let clients = HONEST + 1 + below(&mut random, 3);
        let mut setup = Setup::new(f, clients);
        setup.seed = seed;
        setup.through_wire = random.chance(100);
        setup.configuration.limits.checkpoint_period = 4;
        setup.configuration.limits.window = 16;
        setup.settings.snapshot_bytes_min = random.below(20_000);
        setup.settings.batches_in_flight = 1 + random.below(4);
        let delay_max = Duration::from_micros(200 + random.below(5_000));
        setup.weather =
            Weather { delay_min: Duration::from_micros(100), delay_max, loss: 0, duplication: 20 };
        let configuration = setup.configuration.clone();
        let mut cluster = Cluster::new(setup, Ledger);
        let all: Vec<_> = cluster.replica_ids().map(Principal::Replica).collect();
        for liar in HONEST..clients {
            // Good for the first primary more often than for others: that is what holds a view up.
            let wrong = |replica: &&Principal| random.chance(if **replica == all[0] { 200 } else { 700 });
            let wrong: Vec<_> = all.iter().filter(wrong).copied().collect();
            cluster.spoil_tags(ClientId(liar), &wrong);
        }
        if with_liar {
            let replicas = if f == 1 { 4 } else { 7 };
            cluster.corrupt(ReplicaId(below(&mut random, replicas)));
        }
        let crashes_max = seed % 3;
        Self {
            configuration,
            cluster,
            random,
            names: 0,
            open: vec![0; clients as usize],
            lives: vec![1; clients as usize],
            crashes_max,
            may_frame: with_liar,
        }
    }

    fn submit(&mut self, client: ClientId) {
        let mut operation = BytesMut::new();
        operation.put_u64(self.names);
        self.names += 1;
        let receipt = self.random.chance(100);
        let options = Options { read_only: false, receipt };
        let taken = self.cluster.submit(client, operation.freeze(), options).is_ok();
        self.open[client.index()] += usize::from(taken);
    }

    fn restart(&mut self, client: ClientId) {
        self.lives[client.index()] += 1;
        self.open[client.index()] = 0;
        self.cluster.restart_client(client, Incarnation(self.lives[client.index()]));
    }

    fn collect(&mut self, report: &mut Report) {
        for (client, _) in self.cluster.take_outcomes() {
            report.answered += 1;
            self.open[client.index()] = self.open[client.index()].saturating_sub(1);
        }
        assert_eq!(self.cluster.violation(), None);
    }

    /// The last f replicas say to single others what somebody vouched for, whether or not they know.
    fn collude(&mut self) {
        let replicas = u32::try_from(self.cluster.replica_ids().count()).expect("a few");
        let mut vouches: Vec<_> = self.cluster.take_sent().into_iter().map(|sent| sent.message).collect();
        vouches.retain(|message| matches!(message, Message::Vouch(_)));
        for from in replicas - (replicas - 1) / 3..replicas {
            if let Some(vouch) = vouches.pop() {
                let to = replica(below(&mut self.random, replicas));
                let message = made(&self.configuration, (replica(from), to), vouch);
                self.cluster.inject(replica(from), to, message);
            }
        }
    }

    fn is_answered(&self) -> bool {
        self.open[..HONEST as usize].iter().all(|open| *open == 0)
    }

    fn whole(mut self, report: &mut Report) {
        let clients = u32::try_from(self.open.len()).expect("a few");
        for _ in 0..60 {
            let client = ClientId(below(&mut self.random, clients));
            if client.0 >= HONEST && self.random.chance(200) {
                self.restart(client);
            }
            self.submit(client);
            if report.crashes < self.crashes_max && self.random.chance(100) {
                report.crashes += 1;
                let all: Vec<_> = self.cluster.replica_ids().collect();
                all.iter().for_each(|id| self.cluster.crash(*id));
                all.iter().for_each(|id| self.cluster.restart(*id));
            }
            self.cluster.run_for(self.random.between(Duration::from_micros(100), Duration::from_millis(80)));
            self.collude();
            self.collect(report);
        }
        for second in 0..60 {
            self.cluster.run_for(Duration::from_secs(1));
            self.collect(report);
            if second > 5 && self.is_answered() {
                break;
            }
        }
        assert!(self.is_answered(), "clients that tell the truth are answered");
        report.liars += u64::from(clients - HONEST);
        let correct: Vec<_> = self.cluster.replica_ids().filter(|id| self.cluster.is_correct(*id)).collect();
        for id in correct {
            let replica = self.cluster.replica(id).expect("all are up");
            report.views = report.views.max(replica.view().0);
            let marked = (0..HONEST).any(|honest| replica.has_marked(ClientId(honest)));
            // A primary that lies can make a client's tags look wrong: that one signs, and goes on.
            assert!(!marked || self.may_frame, "replica {id} marked a client that tells the truth");
            let unsigned = replica.ignored().find(|(reason, _)| *reason == Ignored::Unsigned);
            report.refused += unsigned.map_or(0, |(_, count)| count);
        }
    }
}

/// After a crash of all, nobody is marked in that view: tags from before it are wrong, whoever made them.
#[test]
fn identity_that_lies_costs_one_view_at_most() {
    let (mut views, mut refused) = (0, 0);
    for seed in seeds(0..100) {
        let mut report = Report::default();
        Run::new(seed, false).whole(&mut report);
        let Report { liars, crashes, .. } = report;
        let most = liars + crashes;
        assert!(
            report.views <= most,
            "seed {seed}: {} views, {liars} liars, {crashes} crashes",
            report.views
        );
        views += report.views;
        refused += report.refused;
    }
    println!("{views} views, {refused} requests without a signature refused");
    assert!(views > 20 && refused > 20, "the runs did what they are for");
}

#[test]
fn lying_clients_and_a_lying_replica_together_stop_nobody() {
    for seed in seeds(1000..1060) {
        Run::new(seed, true).whole(&mut Report::default());
    }
}

#[test]
fn marks_in_the_journal_are_found_again() {
    let configuration = Setup::new(1, 3).configuration;
    let marks = Record::Marks { bound: vec![ClientId(1)], suspected: vec![ClientId(2)] };
    let records = [(JournalPosition(1), marks)];
    let keychain = keys(&configuration, replica(2));
    let settings = Settings::default();
    let chain = Chain::new(configuration);
    let back = Replica::recover(&chain, ReplicaId(2), keychain, Ledger, settings, records).unwrap();
    assert_eq!([0, 1, 2].map(|client| back.has_marked(ClientId(client))), [false, true, false]);
}

/// What client 0 asks, under this proof.
fn request(proof: impl FnOnce(&[u8]) -> Proof) -> Unverified<Request> {
    let body = Request {
        client: ClientId(0),
        incarnation: Incarnation(1),
        floor: Timestamp::FIRST,
        first: Timestamp::FIRST,
        named: Vec::new(),
        operations: vec![Bytes::from("12345678")],
        read_only: false,
        receipt: false,
        reconfigure: false,
        replier: ReplicaId(0),
    };
    let bytes = wire::encode_request(&body);
    let proof = proof(&bytes);
    Unverified { sender: CLIENT, body, bytes, proof }
}

const REQUEST: Domain = Domain { kind: Kind::Request, view: 0 };

#[test]
fn signed_request_convinces_a_replica_that_has_no_session_with_its_client() {
    let mut rng = SeedRng::new([1; 32]);
    let identity = Identity::generate(&mut rng).unwrap();
    let key = identity.public_key();
    let public =
        PublicKeys { replicas: vec![key.clone(); 4].into(), clients: [key.clone()].into(), operator: None };
    let scope = Setup::new(1, 1).configuration.scope();
    let [client, replica] = [CLIENT, replica(2)]
        .map(|principal| Keychain::new(scope, public.clone(), principal, identity.clone()));
    let sent = |proof: Proof| {
        let Unverified { sender, body, bytes, .. } = request(|_| proof.clone());
        Unverified { sender, body: Message::Request(body), bytes, proof }
    };
    let bytes = request(|_| Proof::Tag(Tag::ABSENT)).bytes;
    let signed = sent(Proof::Signature(client.sign(REQUEST, &bytes)));
    assert_eq!(signed.verify(&replica).unwrap().doubts(), []);
    let tagged = sent(Proof::Authenticator(client.authenticator(REQUEST, &bytes)));
    assert_eq!(tagged.verify(&replica).unwrap().doubts(), [0], "others may vouch for it");
    let forged = sent(Proof::Signature(client.sign(REQUEST, b"something else")));
    assert_eq!(forged.verify(&replica), Err(Refused::Signature(Kind::Request)), "nobody can vouch for it");
}

#[test]
fn backup_takes_no_forged_signature_and_doubts_tags_of_marked_clients() {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, CLIENT);
    let says = |mut backup: Replica<Ledger>, request| {
        let batch = wire::batch(1, false, [request].into());
        let body = Message::PrePrepare(PrePrepare { view: View(0), sequence: Sequence(1), batch });
        backup.handle_message(Instant(1), made(&configuration, (replica(0), replica(2)), body));
        let kinds = actions(&mut backup).into_iter().filter_map(|action| match action {
            Action::Broadcast { message } => Some(message.body.kind()),
            _ => None,
        });
        kinds.filter(|kind| *kind != Kind::Status).collect::<Vec<_>>()
    };
    let signed = || request(|bytes| Proof::Signature(keychain.sign(REQUEST, bytes)));
    assert_eq!(says(backup(&configuration), signed()), [Kind::Prepare]);
    let forged = request(|_| Proof::Signature(keychain.sign(REQUEST, b"other")));
    assert_eq!(says(backup(&configuration), forged), [], "no correct primary holds such a request");
    // A tag is as good, but for a client that is marked.
    let tagged = || request(|bytes| Proof::Authenticator(keychain.authenticator(REQUEST, bytes)));
    assert_eq!(says(backup(&configuration), tagged()), [Kind::Prepare]);
    let marking = || {
        let marks = Record::Marks { bound: vec![ClientId(0)], suspected: Vec::new() };
        let settings = Settings { journal: false, ..Settings::default() };
        let (keychain, records) = (keys(&configuration, replica(2)), [(JournalPosition(1), marks)]);
        let chain = Chain::new(configuration.clone());
        Replica::recover(&chain, ReplicaId(2), keychain, Ledger, settings, records).unwrap()
    };
    assert_eq!(says(marking(), tagged()), [Kind::Doubt]);
    assert_eq!(says(marking(), signed()), [Kind::Prepare]);
}

/// The first word counts, whether or not it can be checked here: the second one accuses its primary.
#[test]
fn primary_that_proposes_something_else_where_it_is_doubted_is_accused() {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, CLIENT);
    let says = |backup: &mut Replica<Ledger>, time, proof: Proof| {
        let batch = wire::batch(time, false, [request(|_| proof)].into());
        let body = Message::PrePrepare(PrePrepare { view: View(0), sequence: Sequence(1), batch });
        backup.handle_message(Instant(1), made(&configuration, (replica(0), replica(2)), body));
        actions(backup)
    };
    let accuses = |actions: &[Action]| {
        actions.iter().any(|action| match action {
            Action::Evidence(evidence) => {
                (evidence.culprit(), evidence.kind()) == (Some(ReplicaId(0)), "conflicting-pre-prepares")
            }
            _ => false,
        })
    };
    let doubtful = || Proof::Authenticator(keychain.authenticator(REQUEST, b"something else"));
    let tagged = || {
        let bytes = request(|_| Proof::Nothing).bytes;
        Proof::Authenticator(keychain.authenticator(REQUEST, &bytes))
    };
    for second in [doubtful(), tagged()] {
        let mut backup = backup(&configuration);
        assert!(!accuses(&says(&mut backup, 1, doubtful())));
        assert!(!accuses(&says(&mut backup, 1, doubtful())), "it may be sent again");
        let said = says(&mut backup, 2, second);
        assert!(accuses(&said), "{said:?}");
        let prepares = |action: &Action| match action {
            Action::Broadcast { message } => message.body.kind() == Kind::Prepare,
            _ => false,
        };
        assert!(!said.iter().any(prepares), "the first one counts");
    }
}

fn actions(replica: &mut Replica<Ledger>) -> Vec<Action> {
    std::iter::from_fn(|| replica.poll_action(Instant(1))).collect()
}

fn count(replica: &Replica<Ledger>, reason: Ignored) -> u64 {
    replica.ignored().find(|(known, _)| *known == reason).map_or(0, |(_, count)| count)
}

fn backup(configuration: &Configuration) -> Replica<Ledger> {
    let settings = Settings { journal: false, ..Settings::default() };
    Replica::new(configuration.clone(), ReplicaId(2), keys(configuration, replica(2)), Ledger, settings)
}

#[test]
fn wants_of_one_replica_are_answered_so_many_times_in_a_period() {
    let configuration = Setup::new(1, 1).configuration;
    let mut flooded = backup(&configuration);
    // The null batch is always at hand.
    let null = wire::batch(0, false, [].into());
    let digest = configuration.scope().digest(Domain::new(Kind::Batch, 0), &[&null.bytes]);
    let want = Message::Want(Want { sequence: Sequence(1), digest });
    for _ in 0..1000 {
        flooded.handle_message(Instant(1), made(&configuration, (replica(3), replica(2)), want.clone()));
    }
    flooded.handle_message(Instant(1), made(&configuration, (replica(1), replica(2)), want));
    let told = actions(&mut flooded).into_iter().filter_map(|action| match action {
        Action::Send { to, message: Unverified { body: Message::Body(_), .. } } => Some(to),
        _ => None,
    });
    let told: Vec<_> = told.collect();
    let answers = |to| told.iter().filter(|receiver| **receiver == to).count();
    assert_eq!((answers(replica(3)), answers(replica(1))), (256, 1));
    assert_eq!(count(&flooded, Ignored::TooOften), 744);
}

#[test]
fn vouches_of_one_replica_are_heard_so_many_times_in_a_period() {
    let configuration = Setup::new(1, 1).configuration;
    let mut flooded = backup(&configuration);
    let vouch = |round: u8, requests: u8| {
        let digests = (0..requests).map(|byte| (ClientId(0), Digest([byte ^ round; 32])));
        let message = Message::Vouch(Vouch { requests: digests.collect() });
        made(&configuration, (replica(3), replica(2)), message)
    };
    for round in 0..100 {
        flooded.handle_message(Instant(1), vouch(round, 128));
    }
    assert_eq!(count(&flooded, Ignored::TooOften), 68, "4096 requests in a period");
    let requests = vec![(ClientId(0), Digest::ZERO); 257];
    let long = made(&configuration, (replica(1), replica(2)), Message::Vouch(Vouch { requests }));
    flooded.handle_message(Instant(1), long);
    assert_eq!(count(&flooded, Ignored::Oversized), 1);
    let stranger = Message::Vouch(Vouch { requests: vec![(ClientId(9), Digest::ZERO)] });
    flooded.handle_message(Instant(1), made(&configuration, (replica(1), replica(2)), stranger));
    assert_eq!(count(&flooded, Ignored::NotForUs), 1);
    assert!(actions(&mut flooded).is_empty(), "one replica's word makes nobody say anything");
}

/// Client 0 with one operation on its way.
fn client() -> (Client, Configuration) {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, CLIENT);
    let settings = ClientSettings::default();
    let mut client = Client::new(configuration.clone(), ClientId(0), Incarnation(1), keychain, settings);
    let submitted = client.submit(Instant(0), Bytes::from("12345678"), Options::default());
    submitted.expect("its window is empty");
    (client, configuration)
}

fn busy(configuration: &Configuration, from: u32, sign: bool) -> Unverified<Message> {
    let body = Busy { client: ClientId(0), incarnation: Incarnation(1), first: Timestamp::FIRST, sign };
    made(configuration, (replica(from), CLIENT), Message::Busy(body))
}

/// Whether it sent something, and whether that was signed.
fn sends(client: &mut Client) -> (bool, bool) {
    let actions: Vec<_> = std::iter::from_fn(|| client.poll_action(Instant(1))).collect();
    let signed = actions.iter().any(|action| match action {
        ClientAction::Send { message, .. } | ClientAction::Broadcast { message } => {
            matches!(message.proof, Proof::Signature(_))
        }
        _ => false,
    });
    (!actions.is_empty(), signed)
}

#[test]
fn client_signs_when_two_replicas_ask_for_it() {
    let (mut client, configuration) = client();
    assert_eq!(sends(&mut client), (true, false));
    for _ in 0..3 {
        client.handle_message(Instant(1), busy(&configuration, 3, true));
        assert_eq!(sends(&mut client), (false, false), "one alone may lie");
    }
    client.handle_message(Instant(1), busy(&configuration, 2, true));
    assert_eq!(sends(&mut client), (true, true), "at once");
    client.submit(Instant(1), Bytes::from("12345679"), Options::default()).unwrap();
    assert_eq!(sends(&mut client), (true, true), "and from then on");
}

#[test]
fn backups_that_are_full_put_a_request_off_when_two_of_them_say_so() {
    let (mut client, configuration) = client();
    sends(&mut client);
    let due = client.poll_timeout().unwrap();
    client.handle_message(Instant(1), busy(&configuration, 3, false));
    client.handle_message(Instant(1), busy(&configuration, 3, false));
    assert_eq!(client.poll_timeout(), Some(due), "one alone may lie");
    client.handle_message(Instant(1), busy(&configuration, 2, false));
    assert!(client.poll_timeout().unwrap() > due);
}

#[test]
fn backup_without_room_tells_the_client() {
    let mut setup = Setup::new(1, 1);
    setup.settings.queue_requests_max = 1;
    setup.client_settings.bundle_operations_max = 1;
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.run_for(Duration::from_millis(10));
    cluster.crash(ReplicaId(0));
    cluster.take_sent();
    for name in ["1234567a", "1234567b"] {
        cluster.submit(ClientId(0), Bytes::from(name), Options::default()).unwrap();
    }
    cluster.run_for(Duration::from_millis(250));
    let sent = cluster.take_sent();
    let told = |id| sent.iter().any(|one| one.from == replica(id) && matches!(one.message, Message::Busy(_)));
    assert_eq!([1, 2, 3].map(told), [true; 3]);
    cluster.run_for(Duration::from_secs(5));
    assert_eq!(cluster.take_outcomes().len(), 2);
}
