//! Watches whose members and connections are lost.

use crate::servers::{
    etcd::{self, Etcd},
    proxy::Proxy,
};
use etcd_client::{Client, PutOptions, Txn, TxnOp};
use quorate::{
    conformance::soon,
    store::{
        Change, Revision, Store, StoreError, Watch,
        etcd::{EtcdOptions, EtcdStore},
    },
};
use rand::RngExt;
use std::time::Duration;

async fn store(endpoints: Vec<String>) -> EtcdStore {
    let options = EtcdOptions { watch_capacity: 100_000, ..EtcdOptions::new(endpoints) };
    EtcdStore::connect(options).await.expect("it answers")
}

async fn next(watch: &mut Watch) -> Change {
    soon(watch.recv()).await.expect("the watch lives").expect("a change")
}

/// The changes up to that of a key.
pub(crate) async fn until(watch: &mut Watch, last: &str) -> Vec<Change> {
    let mut told = Vec::new();
    loop {
        told.push(next(watch).await);
        if told.last().is_some_and(|change| change.key() == last) {
            return told;
        }
    }
}

/// A figure that a member tells of itself.
async fn figure(endpoint: &str, name: &str) -> f64 {
    let text =
        reqwest::get(format!("{endpoint}/metrics")).await.expect("it answers").text().await.expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("there is such a figure").parse().expect("a number")
}

const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total";

/// Waits until a member has that many watches.
async fn watchers(endpoint: &str, many: f64) {
    let reached = async {
        while figure(endpoint, WATCHERS).await != many {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(reached).await;
}

/// Changes several keys at one revision, as transactions and ending leases do, and single ones.
async fn write(endpoint: String) {
    let mut client = Client::connect([endpoint], None).await.expect("connected");
    let key = |name: &str, number: u32| format!("quorate/k/{name}{}", number % 7);
    for number in 0..150_u32 {
        let value = number.to_string();
        let put = |name| TxnOp::put(key(name, number), value.clone(), None);
        client.txn(Txn::new().and_then([put("a"), put("b"), put("c")])).await.expect("done");
        let lease = client.lease_grant(60, None).await.expect("granted").id();
        for name in ["d", "e", "f"] {
            let leased = PutOptions::new().with_lease(lease);
            client.put(key(name, number), value.clone(), Some(leased)).await.expect("put");
        }
        client.lease_revoke(lease).await.expect("revoked");
        client.delete(key("a", number), None).await.expect("deleted");
    }
    client.put("quorate/k/end", "", None).await.expect("put");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_is_cut_again_and_again_misses_nothing_and_doubles_nothing() {
    let etcd = Etcd::start(1);
    let proxy = Proxy::to(&etcd.endpoint(0)).await;
    let cut = store(vec![proxy.endpoint.clone()]).await;
    let mut watch = cut.watch("k/", Revision(0)).await.expect("watching");
    let writer = tokio::spawn(write(etcd.endpoint(0)));
    let (mut told, mut cuts) = (Vec::new(), 0);
    let mut whole = rand::rng().random_range(1..40);
    loop {
        let change = next(&mut watch).await;
        let last = change.key() == "k/end";
        told.push(change);
        if last {
            break;
        }
        whole -= 1;
        if whole == 0 {
            proxy.cut();
            cuts += 1;
            whole = rand::rng().random_range(1..40);
        }
    }
    soon(writer).await.expect("no panic");
    let whole = store(etcd.endpoints()).await;
    let truth = until(&mut whole.watch("k/", Revision(0)).await.expect("watching"), "k/end").await;
    assert_eq!(truth.len(), 150 * 10 + 1, "each change is one");
    assert!(cuts > 10, "it was cut");
    assert_eq!(told, truth, "after {cuts} cuts");
}

#[tokio::test]
async fn a_watch_that_was_away_for_longer_than_changes_are_kept_is_compacted() {
    let mut etcd = Etcd::start(3);
    let one = store(vec![etcd.endpoint(0)]).await;
    let others = store(etcd.endpoints()[1..].to_vec()).await;
    let mut watch = one.watch("k/", Revision(0)).await.expect("watching");
    let seen = others.put("k/a", "1".into(), None).await.expect("put");
    assert_eq!(next(&mut watch).await.revision(), seen);
    etcd.kill(0);
    others.get("k/a").await.expect("two of three are a quorum");
    others.put("k/a", "2".into(), None).await.expect("put");
    let last = others.put("k/a", "3".into(), None).await.expect("put");
    etcd.compact(last.0);
    etcd.restart(0);
    let end = soon(watch.recv()).await.expect("it is told why it ends").expect_err("it has missed a change");
    assert!(matches!(end, StoreError::Compacted(from) if from == seen.next()), "{end}");
    assert_eq!(end.to_string(), format!("changes since revision {} are no longer kept", seen.next().0));
    assert!(soon(watch.recv()).await.is_none());
    let (entries, revision) = one.list("k/").await.expect("listed");
    assert_eq!((entries[0].value.as_ref(), entries[0].revision), (&b"3"[..], last));
    let mut watch = one.watch("k/", revision.next()).await.expect("watching");
    let fourth = others.put("k/a", "4".into(), None).await.expect("put");
    assert_eq!(next(&mut watch).await.revision(), fourth);
}

#[tokio::test]
async fn an_idle_watch_outlives_compaction() {
    let mut etcd = Etcd::start(1);
    let store = store(etcd.endpoints()).await;
    let mut watch = store.watch("idle/", Revision(0)).await.expect("watching");
    for _ in 0..10 {
        store.put("busy", "1".into(), None).await.expect("put");
    }
    // How far the store is, it is told twice in a row, of which the second is of a later moment than the puts.
    let told = "grpc_server_msg_sent_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    let before = figure(&etcd.endpoint(0), told).await;
    soon(async {
        while figure(&etcd.endpoint(0), told).await < before + 2.0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    etcd.compact(etcd.revision());
    etcd.kill(0);
    etcd.restart(0);
    let revision = soon(async {
        loop {
            // The connection to the former process may still be found broken by this.
            if let Ok(revision) = store.put("idle/a", "1".into(), None).await {
                break revision;
            }
        }
    })
    .await;
    assert_eq!(next(&mut watch).await.revision(), revision);
}

#[tokio::test]
async fn a_watch_leaves_a_member_that_is_stopped() {
    let etcd = Etcd::start(3);
    let store = store(etcd.endpoints()).await;
    let mut watch = store.watch("k/", Revision(0)).await.expect("watching");
    let mut serves = None;
    for nth in 0..3 {
        if figure(&etcd.endpoint(nth), WATCHERS).await > 0.0 {
            serves = Some(nth);
        }
    }
    etcd.freeze(serves.expect("one of them serves it"));
    let begun = std::time::Instant::now();
    store.get("k/a").await.expect("a read is asked of another member");
    assert!(begun.elapsed() < Duration::from_secs(5), "within the time of one request");
    let put = soon(async {
        loop {
            // One that the stopped member would have passed on, or led, may have to be given up.
            if let Ok(put) = store.put("k/a", "1".into(), None).await {
                break put;
            }
        }
    })
    .await;
    loop {
        if next(&mut watch).await.revision() == put {
            break;
        }
    }
}

#[tokio::test]
async fn a_dropped_watch_is_cancelled_at_its_member() {
    let etcd = Etcd::start(1);
    let store = store(etcd.endpoints()).await;
    let kept = store.watch("k/", Revision(0)).await.expect("watching");
    let dropped = store.watch("k/", Revision(0)).await.expect("watching");
    watchers(&etcd.endpoint(0), 2.0).await;
    drop(dropped);
    watchers(&etcd.endpoint(0), 1.0).await;
    drop(kept);
    watchers(&etcd.endpoint(0), 0.0).await;
}

#[tokio::test]
async fn a_watch_of_more_history_than_it_may_fall_behind_is_told_all_of_it() {
    let etcd = Etcd::start(1);
    let options = EtcdOptions { watch_capacity: 10, ..EtcdOptions::new(etcd.endpoints()) };
    let store = EtcdStore::connect(options).await.expect("it answers");
    for number in 0..2500_u32 {
        store.put("k/a", number.to_string().into(), None).await.expect("put");
    }
    store.put("k/end", "".into(), None).await.expect("put");
    let mut watch = store.watch("k/", Revision(0)).await.expect("watching");
    let told = until(&mut watch, "k/end").await;
    assert_eq!(told.len(), 2501);
    assert!(told.is_sorted_by(|a, b| a.revision().next() == b.revision()), "nothing is left out");
}

#[tokio::test]
async fn keys_of_others_are_not_seen() {
    let etcd = Etcd::start(1);
    let store = store(etcd.endpoints()).await;
    let mut watch = store.watch("", Revision(0)).await.expect("watching");
    etcd::ctl(&etcd.endpoint(0), &["put", "quorat", "1"]);
    etcd::ctl(&etcd.endpoint(0), &["put", "quorate0", "1"]);
    let put = store.put("a", "1".into(), None).await.expect("put");
    assert_eq!(next(&mut watch).await.revision(), put);
    let (entries, _) = store.list("").await.expect("listed");
    assert_eq!(entries.iter().map(|entry| entry.key.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(etcd.ctl(&["get", "quorate/a", "--print-value-only"]).trim(), "1", "under the prefix in etcd");
}
