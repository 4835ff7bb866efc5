//! The key-value store in use: compare-and-swap, listing, time to live, and reads that are not
//! ordered, while one of four replicas is away.
//!
//! ```text
//! cargo run -p quorate-pbft --features sim --example kv
//! ```
//!
//! The store itself is `sim::kv`, a service of some size to learn from: how it lays a sorted map out in
//! pages stands at the head of `src/sim/kv.rs` and `src/sim/kv/tree.rs`, what can be asked in
//! `src/sim/kv/operation.rs`. That what its clients see is linearizable, whatever goes wrong, is
//! checked by `tests/linearizability.rs`.

use std::time::Duration;

use bytes::Bytes;
use quorate_pbft::sim::kv::{Answer, Expected, Kv, Operation};
use quorate_pbft::sim::{Cluster, Setup};
use quorate_pbft::{ClientId, Options, ReplicaId};

fn get(key: &'static str) -> Operation {
    Operation::Get { key: key.into() }
}

fn put(key: &'static str, value: &'static str, ttl: Option<Duration>) -> Operation {
    Operation::Put { key: key.into(), value: value.into(), ttl }
}

fn swap(key: &'static str, expected: Expected, value: &'static str) -> Operation {
    Operation::Swap { key: key.into(), expected, value: value.into(), ttl: None }
}

fn list(prefix: &'static str, after: Option<Bytes>, limit: u64) -> Operation {
    Operation::List { prefix: prefix.into(), after, limit }
}

/// Asks the group, and prints what at least three replicas agreed on.
fn ask(cluster: &mut Cluster<Kv>, operation: &Operation) -> Answer {
    let read_only = matches!(operation, Operation::Get { .. } | Operation::List { .. });
    let options = Options { read_only, receipt: false };
    cluster.submit(ClientId(0), operation.to_bytes(), options).expect("there is room for one");
    cluster.settle();
    let (_, outcome) = cluster.take_outcomes().pop().expect("it is answered");
    let result = outcome.result().expect("the store does not fail");
    let answer = Answer::from_bytes(result).expect("what the store says, we can read");
    println!("{:<40} {answer}", operation.to_string());
    answer
}

fn main() {
    let mut cluster = Cluster::new(Setup::new(1, 1), Kv);
    let cluster = &mut cluster;

    // A lock: whoever swaps nothing for its name has it, and no later swap of an old version takes it.
    assert_eq!(ask(cluster, &swap("lock", Expected::Absent, "alice")), Answer::Written(1));
    assert_eq!(ask(cluster, &swap("lock", Expected::Absent, "bob")), Answer::Differs(Some(1)));
    assert_eq!(ask(cluster, &swap("lock", Expected::Version(1), "alice, again")), Answer::Written(2));

    // A session that ends by itself: the agreed time of the batches decides, no replica's clock does.
    cluster.crash(ReplicaId(3));
    ask(cluster, &put("session/1", "carol", Some(Duration::from_millis(500))));
    ask(cluster, &put("session/2", "dave", None));
    ask(cluster, &put("session/3", "erin", None));
    assert_ne!(ask(cluster, &get("session/1")), Answer::Held(None));
    cluster.run_for(Duration::from_secs(1));
    ask(cluster, &put("tick", "time goes on with the batches", None));
    assert_eq!(ask(cluster, &get("session/1")), Answer::Held(None));

    // A listing in pieces: each answer says where to go on.
    let Answer::Listed { resume, .. } = ask(cluster, &list("session/", None, 1)) else { unreachable!() };
    let Answer::Listed { resume, .. } = ask(cluster, &list("session/", resume, 1)) else { unreachable!() };
    assert_eq!(resume, None);
    assert_eq!(ask(cluster, &Operation::Delete { key: "lock".into() }), Answer::Deleted(true));
}

#[cfg(test)]
mod tests {
    #[test]
    fn example_runs() {
        super::main();
    }
}
