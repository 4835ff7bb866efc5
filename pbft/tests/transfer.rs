//! What a transfer of a state moves, whom it asks, and what others do to it.
#![cfg(feature = "sim")]

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_pbft::{
    ClientId, Context, Evidence, Ignored, Misbehaviour, Options, Readiness, ReplicaId, Sequence, Service,
    State,
    crypto::{Keychain, Principal},
    message::{Fetch, Message, Proof, Space, Unverified, wire},
    sim::{Cluster, Sent, Setup, Weather},
};

const PAGE_BYTES: usize = 4096;
const LAGGARD: ReplicaId = ReplicaId(3);

/// An operation fills `count` pages from `first` on, `stride` apart, with bytes that `seed` decides; with
/// the seed 0 it empties them.
#[derive(Clone)]
struct Filler;

fn fill(seed: u64, first: u64, count: u64, stride: u64) -> Bytes {
    let mut operation = BytesMut::new();
    [seed, first, count, stride].into_iter().for_each(|number| operation.put_u64(number));
    operation.freeze()
}

impl Service for Filler {
    fn execute(&self, _: &Context, mut operation: &[u8], state: &mut State) -> Bytes {
        let [seed, first, count, stride] = std::array::from_fn(|_| operation.get_u64());
        let mut page = vec![0; PAGE_BYTES];
        for index in (0..count).map(|step| first + step * stride) {
            page[..8].copy_from_slice(&seed.to_be_bytes());
            page[8..16].copy_from_slice(&index.to_be_bytes());
            state.write(index, if seed == 0 { &[] } else { &page });
        }
        Bytes::new()
    }
}

fn setup() -> Setup {
    let mut setup = Setup::new(1, 1);
    setup.configuration.limits.checkpoint_period = 2;
    setup.configuration.limits.window = 4;
    setup
}

fn run(cluster: &mut Cluster<Filler>, operations: impl IntoIterator<Item = Bytes>) {
    for operation in operations {
        cluster.submit(ClientId(0), operation, Options::default()).expect("there is room");
        cluster.settle();
    }
}

/// Replica 3 has `before`, and misses `meanwhile` and what makes the others forget how it came about.
fn lag(setup: Setup, before: Vec<Bytes>, meanwhile: Vec<Bytes>) -> Cluster<Filler> {
    let mut cluster = Cluster::new(setup, Filler);
    run(&mut cluster, before);
    for id in 0..3 {
        cluster.cut(Principal::Replica(ReplicaId(id)), Principal::Replica(LAGGARD));
    }
    run(&mut cluster, meanwhile);
    run(&mut cluster, (0..5).map(|number| fill(0, number, 0, 1))); // each operation is another one
    cluster.take_sent();
    cluster.mend();
    cluster
}

/// Lets time pass until replica 3 has caught up; gives what was sent meanwhile.
fn catch_up(cluster: &mut Cluster<Filler>) -> Vec<Sent> {
    let goal = cluster.replica(ReplicaId(0)).expect("it is up").executed();
    let executed = |cluster: &Cluster<Filler>| cluster.replica(LAGGARD).expect("it is up").executed();
    for _ in 0..200 {
        if executed(cluster) == goal {
            break;
        }
        cluster.run_for(Duration::from_millis(50));
    }
    assert_eq!(cluster.violation(), None);
    assert_eq!(executed(cluster), goal);
    cluster.take_sent()
}

fn is_transfer(message: &Message) -> bool {
    matches!(message, Message::Fetch(_) | Message::MetaData(_) | Message::Data(_))
}

/// Bytes that a transfer put on the wire, those of the proofs and the framing of messages among them.
fn moved(sent: &[Sent]) -> usize {
    let framed = |message: &Message| {
        let proof = Proof::Tag(quorate_pbft::crypto::Tag([1; 16]));
        let (sender, bytes) = (Principal::Replica(LAGGARD), wire::encode_body(message));
        wire::encode(&Unverified { sender, body: message.clone(), bytes, proof }).len()
    };
    sent.iter().map(|sent| &sent.message).filter(|message| is_transfer(message)).map(framed).sum()
}

/// 64 MiB in pages of 4 KiB, of which 1 % change.
fn moved_of_64_mib(change: Bytes) -> f64 {
    const PAGES: u64 = 1 << 14;
    let mut setup = setup();
    setup.settings.journal = false;
    let before = (0..8).map(|part| fill(1, part * PAGES / 8, PAGES / 8, 1)).collect();
    let mut cluster = lag(setup, before, vec![change]);
    let moved = moved(&catch_up(&mut cluster));
    #[expect(clippy::cast_precision_loss, reason = "a share of 64 MiB")]
    let share = moved as f64 / (PAGES as f64 * PAGE_BYTES as f64);
    println!("{moved} bytes moved, {:.3} % of the state", share * 100.0);
    share
}

#[test]
fn one_percent_of_a_state_in_one_place_moves_hardly_more_than_that() {
    assert!(moved_of_64_mib(fill(2, 5000, 164, 1)) < 0.0105);
}

/// Evenly is the worst that can be: no two of the pages have a partition of the lowest level in common.
#[test]
fn one_percent_of_a_state_all_over_it_moves_no_more_than_1_2_percent() {
    assert!(moved_of_64_mib(fill(2, 7, 163, 100)) < 0.012);
}

/// Each answer takes longer than the time that the first ones are waited for.
#[test]
fn state_comes_over_a_slow_way() {
    let mut setup = setup();
    setup.settings.fetch_timeout = Duration::from_millis(100);
    let mut cluster = lag(setup, vec![], vec![fill(1, 0, 100, 3)]);
    let (delay_min, delay_max) = (Duration::from_millis(400), Duration::from_millis(450));
    cluster.set_weather(Weather { delay_min, delay_max, ..Weather::calm() });
    cluster.run_for(Duration::from_secs(30));
    catch_up(&mut cluster);
}

#[test]
fn all_sources_are_asked_and_none_for_too_much_at_once() {
    let setup = setup();
    let (all_max, each_max) = (setup.settings.fetches_max, setup.settings.fetches_per_source_max);
    let mut cluster = lag(setup, vec![], vec![fill(1, 0, 4000, 3)]);
    let sent = catch_up(&mut cluster);
    let mut open = [0; 3];
    let mut most = 0;
    for Sent { from, to, message, .. } in sent {
        match (message, from, to) {
            (Message::Fetch(_), _, Principal::Replica(source)) => open[source.index()] += 1,
            // Answers that are under way count as open still: an upper bound.
            (Message::MetaData(_) | Message::Data(_), Principal::Replica(source), _) => {
                open[source.index()] -= 1;
            }
            _ => continue,
        }
        assert!(open.iter().all(|open| *open <= each_max));
        assert!(open.iter().sum::<usize>() <= all_max);
        most = most.max(open.iter().sum());
    }
    assert_eq!(most, 3 * each_max, "all three were busy at once");
}

#[test]
fn what_one_source_gives_in_a_second_is_bounded() {
    let mut setup = setup();
    setup.settings.fetch_bytes_per_second = 1 << 20;
    let mut cluster = lag(setup, vec![], vec![fill(1, 0, 1500, 1)]);
    cluster.run_for(Duration::from_secs(1));
    let given = |cluster: &mut Cluster<Filler>| moved(&cluster.take_sent());
    let first = given(&mut cluster);
    // A burst, two answers that were under way, and a second's worth, from each of three.
    assert!((1 << 20..3 * (1_100_000 + (1 << 20) / 10 + (1 << 19))).contains(&first), "{first}");
    assert_eq!(cluster.replica(LAGGARD).expect("up").readiness(cluster.now()), Readiness::Transferring);
    catch_up(&mut cluster);
    let ignored = |id| cluster.replica(ReplicaId(id)).expect("up").ignored().collect::<Vec<_>>();
    let too_often = |id| ignored(id).iter().any(|(reason, _)| *reason == Ignored::TooOften);
    assert!(!(0..3).any(too_often), "who keeps to the pace is never refused");
}

fn fetch_from(cluster: &mut Cluster<Filler>, setup: &Setup, from: ReplicaId, to: ReplicaId) {
    let (from, to) = (Principal::Replica(from), Principal::Replica(to));
    let sequence = Sequence(2);
    let body = Message::Fetch(Fetch { sequence, space: Space::Service, level: 0, indexes: vec![0; 64] });
    let configuration = &setup.configuration;
    let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), from);
    cluster.inject(from, to, body.proven_by(&keys, to));
}

#[test]
fn flood_of_one_peer_is_put_aside_and_others_are_served() {
    let mut setup = setup();
    setup.settings.fetch_bytes_per_second = 1 << 20;
    let mut cluster = Cluster::new(setup.clone(), Filler);
    run(&mut cluster, [fill(1, 0, 64, 1), fill(1, 64, 1, 1)]);
    cluster.take_sent();
    for _ in 0..1000 {
        fetch_from(&mut cluster, &setup, ReplicaId(3), ReplicaId(0));
    }
    fetch_from(&mut cluster, &setup, ReplicaId(2), ReplicaId(0));
    cluster.settle();
    let sent = cluster.take_sent();
    let answers = |to| {
        let to = Principal::Replica(ReplicaId(to));
        sent.iter().filter(|sent| sent.to == to && matches!(sent.message, Message::Data(_))).count()
    };
    // 64 pages are 256 KiB, so that four answers use up what a second allows, and one more may begin it.
    assert_eq!((answers(3), answers(2)), (5, 1));
    let ignored: Vec<_> = cluster.replica(ReplicaId(0)).expect("up").ignored().collect();
    assert!(ignored.contains(&(Ignored::TooOften, 995)), "{ignored:?}");
}

#[test]
fn whoever_fetches_serves_nobody() {
    let setup = setup();
    let mut cluster =
        lag(setup.clone(), vec![fill(1, 0, 64, 1), fill(1, 64, 1, 1)], vec![fill(2, 0, 4000, 1)]);
    while !cluster.replica(LAGGARD).expect("up").is_transferring() {
        assert!(cluster.step());
    }
    cluster.take_sent();
    fetch_from(&mut cluster, &setup, ReplicaId(2), LAGGARD);
    let sent = catch_up(&mut cluster);
    let served = |sent: &Sent| sent.from == Principal::Replica(LAGGARD) && is_transfer(&sent.message);
    assert!(!sent.iter().any(|sent| served(sent) && !matches!(sent.message, Message::Fetch(_))));
}

#[test]
fn pages_that_are_here_or_gone_are_not_moved() {
    let before = vec![fill(1, 0, 3000, 1)];
    let meanwhile = vec![fill(2, 100, 7, 1), fill(0, 500, 2000, 1)];
    let mut cluster = lag(setup(), before, meanwhile);
    let sent = catch_up(&mut cluster);
    let pages = sent.iter().filter_map(|sent| match &sent.message {
        Message::Data(data) => Some(data.pages.iter().filter(|page| page.at.space == Space::Service)),
        _ => None,
    });
    let mut pages: Vec<_> = pages.flatten().map(|page| page.at.index).collect();
    pages.sort_unstable();
    assert_eq!(pages, [100, 101, 102, 103, 104, 105, 106]);
    let state = cluster.replica(LAGGARD).expect("up").state();
    assert!((500..2500).all(|page| state.page(page).is_empty()));
}

#[test]
fn crash_in_the_middle_begins_again_from_the_disk() {
    let mut cluster = lag(setup(), vec![fill(1, 0, 100, 1)], vec![fill(2, 0, 4000, 1)]);
    let data = |cluster: &mut Cluster<Filler>| {
        let sent = cluster.take_sent();
        sent.iter().filter(|sent| matches!(sent.message, Message::Data(_))).count()
    };
    let mut count = 0;
    while count < 20 {
        assert!(cluster.step());
        count += data(&mut cluster);
    }
    cluster.crash(LAGGARD);
    cluster.restart(LAGGARD);
    assert_eq!(cluster.replica(LAGGARD).expect("up").executed(), Sequence(1));
    catch_up(&mut cluster);
    cluster.crash(LAGGARD);
    cluster.restart(LAGGARD);
    assert_eq!(cluster.replica(LAGGARD).expect("up").state().page(3999).len(), PAGE_BYTES);
}

#[test]
fn state_over_the_limit_is_not_fetched_and_that_is_said() {
    let mut setup = setup();
    setup.settings.transfer_bytes_max = 1 << 20;
    let mut cluster = lag(setup, vec![], vec![fill(1, 0, 1000, 1)]);
    cluster.run_for(Duration::from_secs(5));
    let (sequence, bytes_max) = (Sequence(6), 1 << 20);
    let misbehaviour = Misbehaviour::StateTooLarge { sequence, bytes_max };
    let said = Evidence::Local { configuration: 0, misbehaviour };
    assert_eq!(cluster.take_evidence(), [(LAGGARD, said)]);
    let before = moved(&cluster.take_sent());
    assert!(before < 3 << 20, "it went on to fetch {before} bytes");
    // A later state may be smaller.
    run(&mut cluster, [fill(0, 0, 1000, 1), fill(1, 0, 1, 1), fill(1, 1, 1, 1), fill(1, 2, 1, 1)]);
    catch_up(&mut cluster);
    assert_eq!(cluster.replica(LAGGARD).expect("up").readiness(cluster.now()), Readiness::Ready);
}

#[test]
fn group_that_stands_still_is_not_ready() {
    let mut setup = setup();
    setup.settings.view_timeout_max = Duration::from_secs(2);
    let mut cluster = Cluster::new(setup, Filler);
    run(&mut cluster, [fill(1, 0, 1, 1)]);
    let readiness = |cluster: &Cluster<Filler>| {
        (0..2)
            .map(|id| cluster.replica(ReplicaId(id)).expect("up").readiness(cluster.now()))
            .collect::<Vec<_>>()
    };
    cluster.run_for(Duration::from_secs(10));
    assert_eq!(readiness(&cluster), [Readiness::Ready; 2], "nobody asks for anything");
    cluster.crash(ReplicaId(2));
    cluster.crash(ReplicaId(3));
    run(&mut cluster, [fill(1, 1, 1, 1)]);
    assert_eq!(readiness(&cluster), [Readiness::Ready; 2], "it has only begun");
    cluster.run_for(Duration::from_secs(3));
    assert_eq!(readiness(&cluster), [Readiness::Stalled; 2]);
    cluster.restart(ReplicaId(2));
    cluster.run_for(Duration::from_secs(20));
    assert_eq!(readiness(&cluster), [Readiness::Ready; 2], "three of four are enough");
}
