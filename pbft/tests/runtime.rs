//! Replicas and clients over real sockets on loopback.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "runtime/protection.rs"]
mod protection;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::LazyLock,
    time::Duration,
};

use bytes::Bytes;
use quorate_pbft::{
    ClientId, ClientSettings, Configuration, Context, GroupId, Ignored, Incarnation, Limits, Permutation,
    Readiness, ReplicaId, Sequence, Service, State,
    crypto::{Identity, SeedRng},
    membership::{Chain, Reconfigure, Succession},
    runtime::{
        AddressBook, Client, ClientFailed, ClientSetup, JournalSetup, Link, LinkSetup, ReplicaHandle,
        ReplicaSetup, ReplicaStatus, SyncPolicy, TransportSettings, serve,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::timeout,
};

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(30);

/// Adds what it is given to a sum in page 0; panics on an empty operation.
struct Adder;

impl Service for Adder {
    fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
        let (first, _) = operation.split_first().expect("an operation has a byte");
        let sum = state.page(0).try_into().map_or(0, u64::from_be_bytes) + u64::from(*first);
        state.write(0, &sum.to_be_bytes());
        Bytes::copy_from_slice(&sum.to_be_bytes())
    }
}

struct Keys {
    replicas: Vec<Identity>,
    clients: Vec<Identity>,
    operator: Identity,
    newcomers: Vec<Identity>,
}

static KEYS: LazyLock<Keys> = LazyLock::new(|| {
    let mut rng = SeedRng::new([4; 32]);
    let mut identity = || Identity::generate(&mut rng).unwrap();
    Keys {
        replicas: (0..4).map(|_| identity()).collect(),
        clients: (0..2).map(|_| identity()).collect(),
        operator: identity(),
        newcomers: (0..4).map(|_| identity()).collect(),
    }
});

fn configuration() -> Configuration {
    let public =
        |identities: &[Identity]| identities.iter().map(|identity| identity.public_key().clone()).collect();
    Configuration {
        operator: Some(KEYS.operator.public_key().clone()),
        permutation: Permutation::Identity,
        limits: Limits { checkpoint_period: 16, window: 64, ..Limits::default() },
        ..Configuration::genesis(GroupId([7; 16]), public(&KEYS.replicas), public(&KEYS.clients))
    }
}

/// Four replicas, of which each may be stopped and started.
struct Cluster {
    book: watch::Sender<AddressBook>,
    journals: Option<tempfile::TempDir>,
    replicas: Vec<Option<ReplicaHandle>>,
    rng: SeedRng,
    transport: TransportSettings,
}

impl Cluster {
    async fn start(journals: bool) -> Self {
        Self::start_with(journals, TransportSettings::default()).await
    }

    async fn start_with(journals: bool, transport: TransportSettings) -> Self {
        let (book, _) = watch::channel(AddressBook::default());
        let journals = journals.then(|| tempfile::tempdir().unwrap());
        let rng = SeedRng::new([5; 32]);
        let mut cluster = Self { book, journals, replicas: vec![], rng, transport };
        for index in 0..4 {
            cluster.replicas.push(None);
            cluster.start_replica(index, true).await;
        }
        cluster
    }

    async fn start_replica(&mut self, index: u32, first: bool) {
        let identity = KEYS.replicas[index as usize].clone();
        self.start_member(index, identity, &[], first).await;
    }

    /// A replica that was made a member by the last of these successions.
    async fn start_member(
        &mut self,
        index: u32,
        identity: Identity,
        successions: &[Succession],
        first: bool,
    ) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        self.book.send_modify(|book| book.set(ReplicaId(index), listener.local_addr().unwrap()));
        let (peers, seed) = (self.book.subscribe(), self.rng.next_seed());
        let id = ReplicaId(index);
        let mut setup = ReplicaSetup::new(configuration(), id, identity, listener, peers, seed);
        setup.successions = successions.to_vec();
        setup.transport = self.transport.clone();
        setup.journal = self.journals.as_ref().map(|directory| JournalSetup {
            path: journal_path(directory.path(), index),
            sync: SyncPolicy::Data,
            create: first,
        });
        self.replicas[index as usize] = Some(serve(setup, Adder).unwrap());
    }

    async fn stop(&mut self, index: usize) {
        self.replicas[index].take().unwrap().shutdown().await.unwrap();
    }

    fn client(&mut self, index: u32) -> Client {
        let identity = KEYS.clients[index as usize].clone();
        let (peers, seed) = (self.book.subscribe(), self.rng.next_seed());
        let id = ClientId(index);
        let mut setup = ClientSetup::new(configuration(), id, identity, Incarnation(1), peers, seed);
        setup.transport = self.transport.clone();
        Client::connect(setup).unwrap()
    }

    fn address(&self, index: u32) -> SocketAddr {
        self.book.borrow().get(ReplicaId(index)).unwrap().parse().unwrap()
    }

    fn status(&self, index: usize) -> watch::Receiver<ReplicaStatus> {
        self.replicas[index].as_ref().unwrap().status()
    }

    async fn until(&self, index: usize, what: impl FnMut(&ReplicaStatus) -> bool) -> ReplicaStatus {
        let mut status = self.status(index);
        let seen = timeout(PATIENCE, status.wait_for(what)).await;
        seen.expect("in time").expect("the replica runs").clone()
    }
}

fn journal_path(directory: &Path, index: u32) -> std::path::PathBuf {
    directory.join(index.to_string())
}

async fn add(client: &Client, number: u8) -> u64 {
    let reply = timeout(PATIENCE, client.invoke(vec![number].into())).await.unwrap().unwrap();
    assert!(reply.agreed.count() >= 3);
    u64::from_be_bytes(reply.result[..].try_into().unwrap())
}

#[tokio::test]
async fn group_answers_many_operations_in_flight_exactly_once() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let calls = (0..500).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { add(&client, 1).await })
    });
    let mut sums = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        sums.push(call.await.unwrap());
    }
    sums.sort_unstable();
    assert_eq!(sums, (1..=500).collect::<Vec<_>>());
}

#[tokio::test]
async fn two_clients_of_one_group_see_one_state() {
    let mut cluster = Cluster::start(false).await;
    let (first, second) = (cluster.client(0), cluster.client(1));
    assert_eq!(add(&first, 1).await, 1);
    assert_eq!(add(&second, 2).await, 3);
    assert_eq!(add(&first, 3).await, 6);
}

#[tokio::test]
async fn links_on_one_thread_have_connections_and_ends_of_their_own() {
    let mut cluster = Cluster::start(false).await;
    let mut setup = || LinkSetup {
        configuration: configuration(),
        peers: cluster.book.subscribe(),
        seed: cluster.rng.next_seed(),
        transport: cluster.transport.clone(),
    };
    let first = Link::connect(setup()).unwrap();
    let second = first.beside(setup()).unwrap();
    let client = |link: &Link, index: u32| {
        let identity = KEYS.clients[index as usize].clone();
        link.client(ClientId(index), identity, Incarnation(1), ClientSettings::default(), PATIENCE).unwrap()
    };
    let (one, other) = (client(&first, 0), client(&second, 1));
    assert_eq!(add(&one, 1).await, 1);
    assert_eq!(add(&other, 2).await, 3);
    // The thread was made for the first one, and goes on without it.
    drop((first, one));
    assert_eq!(add(&other, 3).await, 6);
    let mut status = cluster.status(0);
    let alone = status.wait_for(|status| status.clients == 1);
    timeout(PATIENCE, alone).await.unwrap().unwrap();
    assert_eq!(add(&other, 4).await, 10);
}

#[tokio::test]
async fn receipt_verifies_offline() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    for number in 1..4 {
        let operation = Bytes::from(vec![number]);
        let (reply, receipt) =
            timeout(PATIENCE, client.invoke_with_receipt(operation.clone())).await.unwrap().unwrap();
        receipt.verify_contents(&configuration(), &operation, &reply.result).unwrap();
        receipt.verify_contents(&configuration(), b"other", &reply.result).unwrap_err();
    }
}

#[tokio::test]
async fn service_panic_is_an_answer_and_changes_nothing() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let failed = timeout(PATIENCE, client.invoke(Bytes::new())).await.unwrap();
    assert!(matches!(failed, Err(ClientFailed::Panicked)));
    assert_eq!(add(&client, 1).await, 1);
}

#[tokio::test]
async fn group_goes_on_without_a_backup_and_the_backup_catches_up() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    cluster.stop(2).await;
    for sum in 2..=40 {
        assert_eq!(add(&client, 1).await, sum);
    }
    cluster.start_replica(2, false).await;
    let executed = cluster.status(0).borrow().last_executed;
    cluster.until(2, |status| status.last_executed >= executed).await;
    assert_eq!(add(&client, 1).await, 41);
}

#[tokio::test]
async fn backup_that_lags_beyond_the_log_fetches_the_state() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    cluster.stop(3).await;
    for sum in 2..=200 {
        assert_eq!(add(&client, 1).await, sum);
    }
    cluster.until(0, |status| status.stable > Sequence(64)).await;
    cluster.start_replica(3, false).await;
    let executed = cluster.status(0).borrow().last_executed;
    cluster.until(3, |status| status.last_executed >= executed).await;
}

#[tokio::test]
async fn killed_primary_comes_back_on_another_port_and_the_group_goes_on() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    for sum in 1..=20 {
        assert_eq!(add(&client, 1).await, sum);
    }
    let before = cluster.address(0);
    cluster.stop(0).await;
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { add(&client, 1).await }
    });
    cluster.start_replica(0, false).await;
    assert_ne!(cluster.address(0), before);
    assert_eq!(waiting.await.unwrap(), 21);
    for sum in 22..=40 {
        assert_eq!(add(&client, 1).await, sum);
    }
}

#[tokio::test]
async fn group_comes_back_from_its_journals_after_all_were_stopped() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    for sum in 1..=50 {
        assert_eq!(add(&client, 1).await, sum);
    }
    for index in 0..4 {
        cluster.stop(index).await;
    }
    for index in 0..4 {
        cluster.start_replica(index, false).await;
    }
    assert_eq!(add(&client, 1).await, 51);
}

#[tokio::test]
async fn lost_journal_keeps_a_replica_from_starting() {
    let mut cluster = Cluster::start(true).await;
    cluster.stop(1).await;
    let directory = cluster.journals.as_ref().unwrap().path().to_owned();
    std::fs::remove_dir_all(journal_path(&directory, 1)).unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (identity, peers) = (KEYS.replicas[1].clone(), cluster.book.subscribe());
    let id = ReplicaId(1);
    let mut setup = ReplicaSetup::new(configuration(), id, identity, listener, peers, [6; 32]);
    let path = journal_path(&directory, 1);
    setup.journal = Some(JournalSetup { path, sync: SyncPolicy::Data, create: false });
    let refused = serve(setup, Adder).unwrap_err().to_string();
    assert!(refused.contains("must be replaced"), "{refused}");
}

/// Sends bytes to a replica and waits until it closes the connection.
async fn send_until_closed(address: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let _ = stream.write_all(bytes).await; // it may be closed before all is written
    let mut answer = Vec::new();
    // A reset counts as closed, too: what was sent was not read to its end.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("closed in time");
}

#[tokio::test]
async fn malformed_frames_close_the_connection_and_leave_the_replica_untouched() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    let address = cluster.address(1);
    let before = cluster.status(1).borrow().clone();
    send_until_closed(address, &[0xff; 64]).await;
    send_until_closed(address, b"\x05\0\0\0\x01abcd").await;
    send_until_closed(address, b"\x01\0\0\0\x63").await;
    send_until_closed(address, b"\x03\0\0\0\x04\xff\xff").await;
    let expected = ["greeting", "malformed", "misplaced", "oversized"];
    let status =
        cluster.until(1, |status| expected.iter().all(|kind| status.refused.contains_key(kind))).await;
    assert_eq!(status.refused.values().sum::<u64>(), 4);
    // Nothing of it came to the state machine, which counts what nothing proves.
    let unproven = |status: &ReplicaStatus| status.ignored.get(&Ignored::Unproven).copied();
    assert_eq!(unproven(&status), unproven(&before));
    assert_eq!(add(&client, 1).await, 2);
}

#[tokio::test]
async fn message_before_anybody_joined_is_refused() {
    let cluster = Cluster::start(false).await;
    // An envelope whose body is a STATUS with a tag that nobody checks: no sender has joined.
    let body = b"\x04\x18\x0a\x22\x00\x32\x00";
    let frame = [&u32::try_from(body.len()).unwrap().to_le_bytes()[..], body].concat();
    send_until_closed(cluster.address(1), &frame).await;
    cluster.until(1, |status| status.refused.contains_key("unproven")).await;
}

#[tokio::test]
async fn peer_that_never_reads_holds_nobody_up() {
    let mut cluster = Cluster::start(false).await;
    let mut deaf = Vec::new();
    for index in 0..4 {
        deaf.push(TcpStream::connect(cluster.address(index)).await.unwrap());
    }
    // In place of replica 3 stands somebody who accepts everything and reads nothing.
    cluster.stop(3).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    cluster.book.send_modify(|book| book.set(ReplicaId(3), listener.local_addr().unwrap()));
    let client = cluster.client(0);
    for sum in 1..=50 {
        assert_eq!(add(&client, 1).await, sum);
    }
    drop((deaf, listener));
}

#[tokio::test]
async fn group_answers_while_everybody_renews_keys() {
    let period = Duration::from_millis(40);
    let transport =
        TransportSettings { key_period: period, key_grace: period / 2, ..TransportSettings::default() };
    let mut cluster = Cluster::start_with(false, transport).await;
    let client = cluster.client(0);
    let begun = std::time::Instant::now();
    let mut sum = 0;
    while begun.elapsed() < 10 * period {
        sum += 1;
        assert_eq!(add(&client, 1).await, sum);
    }
}

#[tokio::test]
async fn operation_without_a_quorum_ends_at_its_deadline() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    cluster.stop(2).await;
    cluster.stop(3).await;
    let deadline = Duration::from_millis(100);
    let late = client.invoke_within(vec![1].into(), Default::default(), deadline).await;
    assert!(matches!(late, Err(ClientFailed::Deadline(limit)) if limit == deadline));
}

#[tokio::test]
async fn oversized_operation_is_refused_before_it_is_sent() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let large = Bytes::from(vec![1; configuration().limits.operation_bytes_max as usize + 1]);
    let refused = timeout(PATIENCE, client.invoke(large)).await.unwrap();
    assert!(matches!(refused, Err(ClientFailed::Refused(_))));
}

/// A disk is lost. The operator gives the place to another key; nothing that was acknowledged is lost, and
/// the newcomer is soon as good as anyone.
#[tokio::test]
async fn a_replica_whose_disk_is_lost_is_replaced() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    let with_receipt = |operation: u8| client.invoke_with_receipt(vec![operation].into());
    let (_, before) = timeout(PATIENCE, with_receipt(2)).await.unwrap().unwrap();
    cluster.stop(3).await;
    let directory = cluster.journals.as_ref().unwrap().path().to_owned();
    std::fs::remove_dir_all(journal_path(&directory, 3)).unwrap();

    let replacements = vec![(ReplicaId(3), KEYS.newcomers[0].public_key().clone())];
    let order = Reconfigure::sign(&configuration(), replacements, &KEYS.operator).unwrap();
    let start = timeout(PATIENCE, client.reconfigure(order.clone())).await.unwrap().unwrap();
    assert_eq!(add(&client, 3).await, 6);

    // The client was shown the way, and whoever keeps it can show it to others.
    let mut status = client.status();
    let seen = timeout(PATIENCE, status.wait_for(|status| !status.successions.is_empty())).await;
    let succession = seen.unwrap().unwrap().successions[0].clone();
    let mut chain = Chain::new(configuration());
    assert_eq!(chain.extend(succession).unwrap().start, start);
    cluster.start_member(3, KEYS.newcomers[0].clone(), chain.successions(), true).await;
    cluster.until(3, |status| status.last_executed >= start && status.readiness == Readiness::Ready).await;

    // Its vote counts from now on, also after a restart.
    cluster.stop(1).await;
    let (reply, after) = timeout(PATIENCE, with_receipt(4)).await.unwrap().unwrap();
    assert!(reply.agreed.has(ReplicaId(3)));
    cluster.start_replica(1, false).await;
    cluster.until(1, |status| status.configuration == 1).await;
    cluster.stop(3).await;
    cluster.start_member(3, KEYS.newcomers[0].clone(), chain.successions(), false).await;
    cluster.stop(0).await; // a primary
    assert_eq!(add(&client, 5).await, 15);
    assert_eq!(cluster.until(3, |status| status.configuration == 1).await.configuration, 1);

    // A client that knows the genesis only finds its way, and an order is followed once.
    let late = cluster.client(1);
    assert_eq!(add(&late, 6).await, 21);
    let refused = timeout(PATIENCE, late.reconfigure(order)).await.unwrap();
    assert!(matches!(refused, Err(ClientFailed::Reconfigure(_))));

    // Receipts are of the configuration that they name.
    for (receipt, number) in [(before, 0), (after, 1)] {
        assert_eq!(receipt.configuration, number);
        receipt.verify(chain.get(number).unwrap()).unwrap();
        receipt.verify(chain.get(1 - number).unwrap()).unwrap_err();
    }
}

#[tokio::test]
async fn a_replica_that_is_replaced_while_it_runs_says_so() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let replacements = vec![(ReplicaId(2), KEYS.newcomers[0].public_key().clone())];
    let order = Reconfigure::sign(&configuration(), replacements, &KEYS.operator).unwrap();
    timeout(PATIENCE, client.reconfigure(order)).await.unwrap().unwrap();
    assert_eq!(cluster.until(2, |status| status.replaced).await.configuration, 1);
    cluster.stop(2).await;
    assert_eq!(add(&client, 7).await, 7);
}

/// The operator gives a place to a newcomer; the chain is extended by what the client is shown.
async fn give_away(client: &Client, chain: &mut Chain, index: u32, newcomer: &Identity) -> Sequence {
    let replacements = vec![(ReplicaId(index), newcomer.public_key().clone())];
    let order = Reconfigure::sign(chain.latest(), replacements, &KEYS.operator).unwrap();
    let start = timeout(PATIENCE, client.reconfigure(order)).await.unwrap().unwrap();
    let (mut status, step) = (client.status(), chain.successions().len() + 1);
    let seen = timeout(PATIENCE, status.wait_for(|status| status.successions.len() == step)).await;
    chain.extend(seen.unwrap().unwrap().successions[step - 1].clone()).unwrap();
    start
}

impl Cluster {
    /// A newcomer starts in its place, with an empty journal, and is soon whole.
    async fn start_newcomer(&mut self, index: u32, newcomer: &Identity, chain: &Chain, start: Sequence) {
        self.start_member(index, newcomer.clone(), chain.successions(), true).await;
        let whole =
            |status: &ReplicaStatus| status.last_executed >= start && status.readiness == Readiness::Ready;
        self.until(index as usize, whole).await;
    }

    /// Somebody else gets a place. Whoever had it runs until the others are in the next configuration.
    async fn replace(&mut self, client: &Client, chain: &mut Chain, index: u32, others: &[usize]) {
        let newcomer = &KEYS.newcomers[index as usize];
        let start = give_away(client, chain, index, newcomer).await;
        for other in others {
            self.until(*other, |status| status.configuration == chain.latest().number).await;
        }
        self.stop(index as usize).await;
        let journals = self.journals.as_ref().unwrap().path();
        std::fs::remove_dir_all(journal_path(journals, index)).unwrap();
        self.start_newcomer(index, newcomer, chain, start).await;
    }
}

/// A client that knows the genesis only has no quorum to talk to, and finds its way all the same.
#[tokio::test]
async fn a_client_follows_one_configuration_after_the_other() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let mut chain = Chain::new(configuration());
    for (index, newcomer) in [3, 2, 3].into_iter().zip(&KEYS.newcomers) {
        let start = give_away(&client, &mut chain, index, newcomer).await;
        cluster.start_newcomer(index, newcomer, &chain, start).await;
    }
    assert_eq!(add(&client, 1).await, 1);
    let late = cluster.client(1);
    assert_eq!(add(&late, 2).await, 3);
    let mut status = late.status();
    timeout(PATIENCE, status.wait_for(|status| status.successions.len() == 3)).await.unwrap().unwrap();
}

/// One replica sleeps while all others are replaced, one after the other: nobody that it knows is left. All
/// that it needs is their addresses, and so it is with a client when it has been replaced, too.
#[tokio::test]
async fn a_laggard_finds_its_way_to_a_group_in_which_it_knows_nobody() {
    let mut cluster = Cluster::start(true).await;
    let client = cluster.client(0);
    assert_eq!(add(&client, 1).await, 1);
    cluster.stop(3).await;
    let mut chain = Chain::new(configuration());
    for index in 0..3 {
        cluster.replace(&client, &mut chain, index, &[0, 1, 2]).await;
        assert_eq!(add(&client, 1).await, 2 + u64::from(index));
    }
    cluster.start_replica(3, false).await;
    let whole = |status: &ReplicaStatus| status.configuration == 3 && status.readiness == Readiness::Ready;
    cluster.until(3, whole).await;
    cluster.stop(0).await;
    assert_eq!(add(&client, 1).await, 5, "it is needed");
    cluster.start_member(0, KEYS.newcomers[0].clone(), &chain.successions()[..1], false).await;

    cluster.replace(&client, &mut chain, 3, &[0, 1, 2, 3]).await;
    let late = cluster.client(1);
    assert_eq!(add(&late, 1).await, 6);
    let mut status = late.status();
    let seen = timeout(PATIENCE, status.wait_for(|status| status.successions.len() == 4)).await;
    assert_eq!(seen.unwrap().unwrap().successions, chain.successions());
}

#[tokio::test]
async fn a_setup_that_does_not_make_the_replica_a_member_is_refused() {
    let mut cluster = Cluster::start(false).await;
    let client = cluster.client(0);
    let mut chain = Chain::new(configuration());
    give_away(&client, &mut chain, 2, &KEYS.newcomers[0]).await;
    let succession = chain.last().unwrap().clone();
    let forged = Succession { votes: succession.votes[..2].into(), ..succession.clone() };
    for (genesis, successions, index, why) in [
        (chain.latest().clone(), vec![], 2, "not a genesis"),
        (configuration(), vec![forged], 2, "not signed by 2f+1"),
        (configuration(), vec![succession.clone()], 1, "did not make replica 1 a member"),
        (configuration(), vec![], 2, "identity"),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (identity, peers) = (KEYS.newcomers[0].clone(), cluster.book.subscribe());
        let mut setup = ReplicaSetup::new(genesis, ReplicaId(index), identity, listener, peers, [6; 32]);
        setup.successions = successions;
        let refused = serve(setup, Adder).unwrap_err().to_string();
        assert!(refused.contains(why), "{refused}");
    }
}
