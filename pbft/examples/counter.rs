//! A replicated counter: the service in about 20 lines, and a group of four that runs it in this
//! process, without sockets, disks or threads.
//!
//! ```text
//! cargo run -p quorate-pbft --features sim --example counter
//! ```

use bytes::Bytes;
use quorate_pbft::sim::{Cluster, Setup};
use quorate_pbft::{ClientId, Context, NotReadOnly, Options, ReplicaId, Service, State};

/// Adds what each operation says to a sum in page 0.
#[derive(Clone)]
struct Counter;

fn number(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_be_bytes)
}

impl Service for Counter {
    fn execute(&self, _: &Context, operation: &[u8], state: &mut State) -> Bytes {
        let sum = number(state.page(0)).wrapping_add(number(operation)).to_be_bytes();
        state.write(0, &sum);
        Bytes::copy_from_slice(&sum)
    }

    fn read(&self, _: &Context, _: &[u8], state: &State) -> Result<Bytes, NotReadOnly> {
        Ok(Bytes::copy_from_slice(&number(state.page(0)).to_be_bytes()))
    }
}

fn main() {
    let mut cluster = Cluster::new(Setup::new(1, 1), Counter);
    let alice = ClientId(0);
    for amount in [3u64, 5, 8] {
        let operation = Bytes::copy_from_slice(&amount.to_be_bytes());
        cluster.submit(alice, operation, Options::default()).expect("three fit into the window");
    }
    cluster.settle();

    // One of four may be away: the others still make a quorum.
    cluster.crash(ReplicaId(3));
    let read = Options { read_only: true, receipt: false };
    cluster.submit(alice, Bytes::new(), read).expect("there is room");
    cluster.settle();

    let sums: Vec<_> = cluster
        .take_outcomes()
        .iter()
        .map(|(_, outcome)| number(outcome.result().expect("a counter does not fail")))
        .collect();
    println!("sums, and what was read at last: {sums:?}");
    assert_eq!(sums, [3, 8, 16, 16]);
}

#[cfg(test)]
mod tests {
    #[test]
    fn example_runs() {
        super::main();
    }
}
