//! What faulty peers and clients may send without harm, and what a crash may not take back.
#![cfg(feature = "sim")]

use std::time::Duration;

use bytes::Bytes;
use quorate_pbft::{
    Action, ClientId, Configuration, Context, Incarnation, Instant, JournalPosition, NotReadOnly, Options,
    Record, RecoveryFailed, Replica, ReplicaId, Sequence, Service, Settings, State, Timestamp, View,
    crypto::{Domain, Keychain, Kind, Principal},
    membership::Chain,
    message::{Busy, Message, PrePrepare, Proof, Request, Status, Unverified, wire},
    sim::{Cluster, Ledger, Setup},
};

fn keys(configuration: &Configuration, me: Principal) -> Keychain {
    Keychain::fast(configuration.scope(), configuration.public_keys(), me)
}

const fn replica(id: u32) -> Principal {
    Principal::Replica(ReplicaId(id))
}

const CLIENT: Principal = Principal::Client(ClientId(0));

/// A message of `from`'s own making, for all replicas.
fn to_all(
    configuration: &Configuration,
    from: Principal,
    body: Message,
    bytes: Bytes,
) -> Unverified<Message> {
    body.proven_as(bytes, &keys(configuration, from), from)
}

fn to_one(
    configuration: &Configuration,
    (from, to): (Principal, Principal),
    body: Message,
) -> Unverified<Message> {
    let bytes = wire::encode_body(&body);
    let tag = keys(configuration, from).tag(to, Domain::new(body.kind(), body.view().0), &bytes);
    Unverified { sender: from, body, bytes, proof: Proof::Tag(tag) }
}

fn request(operations: Vec<Bytes>, read_only: bool) -> Request {
    Request {
        client: ClientId(0),
        incarnation: Incarnation(1),
        floor: Timestamp::FIRST,
        first: Timestamp::FIRST,
        named: Vec::new(),
        operations,
        read_only,
        receipt: false,
        reconfigure: false,
        replier: ReplicaId(0),
    }
}

fn actions(replica: &mut Replica<impl Service>) -> Vec<Action> {
    std::iter::from_fn(|| replica.poll_action(Instant(0))).collect()
}

#[test]
fn status_with_any_numbers_does_no_harm() {
    let setup = Setup::new(1, 1);
    let configuration = setup.configuration.clone();
    let mut cluster = Cluster::new(setup, Ledger);
    for numbers in [u64::MAX, u64::MAX - 1, 1 << 40] {
        cluster.run_for(Duration::from_millis(500)); // not right after a STATUS of its own
        let (view, slots) = (View(0), Bytes::from_static(&[9; 300]));
        let status =
            Status { view, active: view, stable: Sequence(numbers), executed: Sequence(numbers), slots };
        let body = Message::Status(status);
        let bytes = wire::encode_body(&body);
        cluster.inject(replica(3), replica(0), to_all(&configuration, replica(3), body, bytes));
    }
    cluster.submit(ClientId(0), Bytes::from("12345678"), Options::default()).unwrap();
    cluster.run_for(Duration::from_secs(1));
    assert_eq!(cluster.take_outcomes().len(), 1);
}

#[test]
fn requests_that_fill_a_batch_to_the_last_byte_are_ordered() {
    // Two clients' requests wait while another batch is on its way; together they take about as
    // many bytes as a batch may have.
    for bytes in 19_880..19_920 {
        let mut setup = Setup::new(1, 3);
        setup.settings.batches_in_flight = 1;
        setup.settings.unix_at_zero = 1 << 60; // today's times take ten bytes
        setup.configuration.limits.batch_bytes_max = 40_000;
        setup.configuration.limits.operation_bytes_max = 40_000;
        let mut cluster = Cluster::new(setup, Ledger);
        cluster.run_for(Duration::from_millis(10));
        for (client, bytes) in [(0, 8), (1, bytes), (2, bytes)] {
            let operation = Bytes::from(vec![7; bytes]);
            cluster.submit(ClientId(client), operation, Options::default()).unwrap();
        }
        cluster.run_for(Duration::from_secs(1));
        assert_eq!(cluster.take_evidence(), [], "the primary did nothing wrong at {bytes} bytes");
        assert_eq!(cluster.take_outcomes().len(), 3, "at {bytes} bytes");
    }
}

#[test]
fn request_of_more_bytes_than_its_fields_need_is_put_aside() {
    let setup = Setup::new(1, 1);
    let configuration = setup.configuration.clone();
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.run_for(Duration::from_millis(10));
    let request = request(vec![Bytes::from("12345678")], false);
    let mut padded = wire::encode_request(&request).to_vec();
    padded.extend([0x7a, 100]); // a field that nobody knows, of 100 bytes
    padded.extend([0; 100]);
    let body = Message::Request(request);
    let bytes = Bytes::from(padded);
    assert_eq!(wire::decode_body(Kind::Request as u32, bytes.clone()), Ok(body.clone()));
    cluster.inject(CLIENT, replica(0), to_all(&configuration, CLIENT, body, bytes));
    cluster.settle();
    assert_eq!(cluster.replica(ReplicaId(0)).unwrap().executed(), Sequence(0));
    let ignored: Vec<_> = cluster.replica(ReplicaId(0)).unwrap().ignored().collect();
    assert_eq!(ignored, [(quorate_pbft::Ignored::Oversized, 1)]);
}

#[test]
fn tag_of_a_pre_prepare_stands_for_its_place_and_its_batch() {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, replica(1));
    let proposal = |sequence, time| {
        let (view, sequence, batch) = (View(0), Sequence(sequence), wire::batch(time, false, [].into()));
        let body = Message::PrePrepare(PrePrepare { view, sequence, batch });
        (wire::encode_body(&body), body)
    };
    let (bytes, body) = proposal(1, 1);
    let said = to_all(&configuration, replica(0), body, bytes);
    assert!(said.clone().verify(&keychain).is_ok());
    for (bytes, body) in [proposal(2, 1), proposal(1, 2)] {
        let moved = Unverified { body, bytes, ..said.clone() };
        assert!(moved.verify(&keychain).is_err());
    }
}

/// What a replica says to a read after it came back from these records.
fn read_after(records: Vec<Record>) -> bool {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, replica(1));
    let settings = Settings { journal: true, ..Settings::default() };
    let records = (1..).map(JournalPosition).zip(records);
    let chain = Chain::new(configuration.clone());
    let mut back = Replica::recover(&chain, ReplicaId(1), keychain, Ledger, settings, records)
        .expect("they follow one another");
    let body = Message::Request(request(vec![Bytes::from("12345678all?")], true));
    let bytes = wire::encode_body(&body);
    back.handle_message(Instant(0), to_all(&configuration, CLIENT, body, bytes));
    let replied = |action: &Action| matches!(action, Action::Send { message, .. } if matches!(message.body, Message::Reply(_)));
    actions(&mut back).iter().any(replied)
}

#[test]
fn read_waits_for_what_may_have_been_answered_before_a_crash() {
    let configuration = Setup::new(1, 1).configuration;
    let batch = wire::batch(1, false, [].into());
    let digest = configuration.scope().digest(Domain::new(Kind::Batch, 0), &[&batch.bytes]);
    let (view, sequence) = (View(0), Sequence(1));
    let accepted = Record::PrePrepared(PrePrepare { view, sequence, batch });
    let prepared = Record::Prepared { view, sequence, digest };
    let committed = Record::Committed { view, sequence, digest };
    assert!(read_after(vec![]));
    assert!(read_after(vec![accepted.clone()]), "nobody had it answered");
    // It may have been committed, executed and answered: only the last record of it is lost.
    assert!(!read_after(vec![accepted.clone(), prepared.clone()]));
    assert!(read_after(vec![accepted, prepared, committed]));
}

#[test]
fn journal_whose_beginning_is_lost_is_refused() {
    let configuration = Setup::new(1, 1).configuration;
    let keychain = keys(&configuration, replica(1));
    let batch = wire::batch(1, false, [].into());
    let accepted = Record::PrePrepared(PrePrepare { view: View(0), sequence: Sequence(9), batch });
    let records = [(JournalPosition(40), accepted)];
    let settings = Settings::default();
    let refused =
        Replica::recover(&Chain::new(configuration), ReplicaId(1), keychain, Ledger, settings, records);
    let expected = RecoveryFailed::Gap { position: JournalPosition(40), previous: JournalPosition(0) };
    assert_eq!(refused.err(), Some(expected));
}

#[test]
fn busy_puts_a_request_off_once_for_each_try() {
    use quorate_pbft::{Client, ClientAction, ClientSettings};
    let configuration = Setup::new(1, 1).configuration;
    let settings = ClientSettings::default();
    let keychain = keys(&configuration, CLIENT);
    let mut client = Client::new(configuration.clone(), ClientId(0), Incarnation(1), keychain, settings);
    client.submit(Instant(0), Bytes::from("12345678"), Options::default()).unwrap();
    let busy =
        Busy { client: ClientId(0), incarnation: Incarnation(1), first: Timestamp::FIRST, sign: false };
    let busy = Message::Busy(busy);
    let busy = to_one(&configuration, (replica(0), CLIENT), busy);
    let mut asked_all = false;
    for millisecond in (0..2000).step_by(10) {
        let now = Instant(0) + Duration::from_millis(millisecond);
        client.handle_message(now, busy.clone());
        client.handle_timeout(now);
        while let Some(action) = client.poll_action(now) {
            asked_all |= matches!(action, ClientAction::Broadcast { .. });
        }
    }
    assert!(asked_all, "the primary kept the client from asking others");
}

/// Every read of it gives 600 bytes.
struct Verbose;

impl Service for Verbose {
    fn execute(&self, _: &Context, _: &[u8], _: &mut State) -> Bytes {
        Bytes::new()
    }

    fn read(&self, _: &Context, _: &[u8], _: &State) -> Result<Bytes, NotReadOnly> {
        Ok(Bytes::from_static(&[1; 600]))
    }
}

#[test]
fn bundle_of_reads_is_answered_with_no_more_than_one_operation_may_give() {
    let mut configuration = Setup::new(1, 1).configuration;
    configuration.limits.reply_bytes_max = 1024;
    let keychain = keys(&configuration, replica(1));
    let mut replica =
        Replica::new(configuration.clone(), ReplicaId(1), keychain, Verbose, Settings::default());
    let body = Message::Request(request(vec![Bytes::new(); 100], true));
    let bytes = wire::encode_body(&body);
    replica.handle_message(Instant(0), to_all(&configuration, CLIENT, body, bytes));
    let answers = |action: Action| match action {
        Action::Send { message: Unverified { body: Message::Reply(reply), .. }, .. } => reply.answers.len(),
        _ => 0,
    };
    assert_eq!(actions(&mut replica).into_iter().map(answers).sum::<usize>(), 1);
}
