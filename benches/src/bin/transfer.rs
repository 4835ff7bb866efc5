//! What it takes to bring a replica up to date by state transfer when 1 % of a large state has changed.
//!
//! Four replicas and a client in one thread over a simulated network without loss; what is counted is what a
//! transport would carry, and what is timed is the work of all four from the laggard's first FETCH until it
//! has executed all that the others have.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use clap::{Parser, value_parser};
use quorate_pbft::{
    ClientId, Context, Options, ReplicaId, Service, State,
    crypto::{Principal, Tag},
    message::{Message, Proof, Unverified, wire},
    sim::{Cluster, Setup},
};
use std::time::{Duration, Instant};

/// What it takes to bring a replica up to date by state transfer when 1 % of a large state has changed
#[derive(Parser)]
struct Arguments {
    /// The state's size in MiB; four times as much memory is needed
    #[arg(default_value_t = 1024, value_parser = value_parser!(u64).range(1..=1 << 20))]
    mebibytes: u64,
    /// The size of its pages
    #[arg(default_value_t = 4096, value_parser = value_parser!(u64).range(16..=1 << 16))]
    page_bytes: u64,
}

const LAGGARD: ReplicaId = ReplicaId(3);

/// Fills pages of some bytes: an operation is a seed, the first page, their number and their distance.
#[derive(Clone)]
struct Filler {
    page_bytes: usize,
}

impl Service for Filler {
    fn execute(&self, _: &Context, mut operation: &[u8], state: &mut State) -> Bytes {
        let [seed, first, count, stride] = std::array::from_fn(|_| operation.get_u64());
        let mut page = vec![0x5a; self.page_bytes];
        for index in (0..count).map(|step| first + step * stride) {
            page[..8].copy_from_slice(&seed.to_be_bytes());
            page[8..16].copy_from_slice(&index.to_be_bytes());
            state.write(index, &page);
        }
        Bytes::new()
    }
}

fn main() {
    let Arguments { mebibytes, page_bytes } = Arguments::parse();
    let bytes = mebibytes << 20;
    let pages = bytes / page_bytes;
    println!("{} MiB in {pages} pages of {page_bytes} bytes, 1 % changed", bytes >> 20);
    println!("changed pages      pages moved   bytes moved   of the state    seconds   CPU seconds");
    for (name, stride) in [("side by side", 1), ("evenly scattered", 99)] {
        measure(name, pages, page_bytes, stride);
    }
}

fn measure(name: &str, pages: u64, page_bytes: u64, stride: u64) {
    let mut setup = Setup::new(1, 1);
    setup.settings.journal = false;
    setup.configuration.limits.checkpoint_period = 2;
    setup.configuration.limits.window = 4;
    let page_size = usize::try_from(page_bytes).expect("a page fits memory");
    let mut cluster = Cluster::new(setup, Filler { page_bytes: page_size });
    let run = |cluster: &mut Cluster<Filler>, numbers: [u64; 4]| {
        let mut operation = BytesMut::new();
        numbers.into_iter().for_each(|number| operation.put_u64(number));
        cluster.submit(ClientId(0), operation.freeze(), Options::default()).expect("there is room");
        cluster.settle();
    };
    for part in 0..8 {
        run(&mut cluster, [1, part * pages / 8, pages / 8, 1]);
    }
    for id in 0..3 {
        cluster.cut(Principal::Replica(ReplicaId(id)), Principal::Replica(LAGGARD));
    }
    run(&mut cluster, [2, 0, pages / 100, stride]);
    for number in 0..5 {
        run(&mut cluster, [0, number, 0, 1]); // the others let go of how it came about
    }
    cluster.mend();
    cluster.take_sent();
    let goal = cluster.replica(ReplicaId(0)).expect("it is up").executed();
    let laggard = |cluster: &Cluster<Filler>| {
        let replica = cluster.replica(LAGGARD).expect("it is up");
        (replica.is_transferring(), replica.executed())
    };
    while !laggard(&cluster).0 {
        assert!(cluster.now().since(quorate_pbft::Instant(0)) < Duration::from_secs(60), "it begins");
        cluster.step();
    }
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    while laggard(&cluster).1 < goal {
        assert!(cluster.violation().is_none() && cluster.step(), "it catches up");
    }
    let (wall, cpu) = (wall.elapsed(), cpu_seconds() - cpu);
    let (mut moved, mut count) = (0, 0);
    for message in cluster.take_sent().into_iter().map(|sent| sent.message) {
        match &message {
            Message::Data(data) => count += data.pages.len(),
            Message::Fetch(_) | Message::MetaData(_) => {}
            _ => continue,
        }
        moved += framed_bytes(message);
    }
    #[expect(clippy::cast_precision_loss, reason = "a share of some GiB")]
    let share = moved as f64 / (pages * page_bytes) as f64 * 100.0;
    let wall = wall.as_secs_f64();
    println!("{name:18} {count:11} {moved:13} {share:12.3} % {wall:10.3} {cpu:13.3}");
}

/// The bytes of a message with its tag, as a transport carries it.
fn framed_bytes(body: Message) -> usize {
    let (sender, bytes) = (Principal::Replica(LAGGARD), wire::encode_body(&body));
    wire::encode(&Unverified { sender, body, bytes, proof: Proof::Tag(Tag([0; 16])) }).len()
}

/// What this process, which has one thread, has used so far.
fn cpu_seconds() -> f64 {
    // Nanoseconds on a processor come first: proc(5), /proc/pid/schedstat.
    let stat = std::fs::read_to_string("/proc/self/schedstat").expect("Linux says what was used");
    let nanos = stat.split(' ').next().and_then(|nanos| nanos.parse().ok()).expect("a number comes first");
    Duration::from_nanos(nanos).as_secs_f64()
}
