//! Requests, locks and leaders whose members and answers are lost.

use crate::{
    on_etcd,
    servers::{etcd::Etcd, proxy::Proxy},
    watches::until,
};
use quorate::{
    conformance::{refused, soon},
    store::{
        LeaseId, Revision, Store, StoreError,
        election::Leadership,
        etcd::{EtcdOptions, EtcdStore, EtcdTls},
        lock::Lock,
    },
};
use std::{
    fmt::Debug,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// How long a request may take here.
const TIMEOUT: Duration = Duration::from_millis(1500);

/// Longer than an election.
const TTL: Duration = Duration::from_secs(5);

async fn store(endpoints: Vec<String>) -> EtcdStore {
    let options = EtcdOptions { request_timeout: TIMEOUT, ..EtcdOptions::new(endpoints) };
    EtcdStore::connect(options).await.expect("it answers")
}

/// Fails as it must when there is no quorum.
async fn unavailable<T: Debug>(etcd: &Etcd, what: impl Future<Output = Result<T, StoreError>>) -> String {
    let begun = Instant::now();
    let error = refused(soon(what).await);
    assert!(begun.elapsed() < TIMEOUT + Duration::from_millis(750), "{:?}", begun.elapsed());
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let text = error.to_string();
    assert!(text.starts_with("the store is not available: etcd "), "{text}");
    assert!(etcd.endpoints().iter().any(|endpoint| text.contains(endpoint)), "{text}");
    text
}

/// Tried again until it works.
async fn works<T, F: Future<Output = Result<T, StoreError>>>(what: impl Fn() -> F) -> T {
    let works = async {
        loop {
            if let Ok(done) = what().await {
                return done;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon(works).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_members_cost_watches_and_holders_nothing() {
    let mut etcd = Etcd::start(3);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = EtcdOptions {
        request_timeout: TIMEOUT,
        watch_capacity: 1_000_000,
        ..EtcdOptions::new(etcd.endpoints())
    };
    let engine = on_etcd(EtcdStore::connect(options).await.expect("it answers"), &folder);
    let lock = Lock::acquire(&engine, "l", "me", TTL, TTL).await.expect("free");
    let leadership = Leadership::campaign(&engine, "e", "me", TTL).await.expect("elected");
    let mut watch = engine.store().watch("k/", Revision(0)).await.expect("watching");
    let told = tokio::spawn(async move { until(&mut watch, "k/end").await });

    let stop = Arc::new(AtomicBool::new(false));
    let (wrote, mut written) = tokio::sync::watch::channel(0_u32);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (engine, stop, wrote) = (Arc::clone(&engine), Arc::clone(&stop), wrote.clone());
            tokio::spawn(async move {
                let mut done = Vec::new();
                for number in 0_u64.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("k/{writer}");
                    match engine.store().put(&key, number.to_string().into(), None).await {
                        Ok(revision) => {
                            done.push(revision);
                            wrote.send_modify(|many| *many += 1);
                        }
                        Err(StoreError::Unavailable { .. }) => {} // it may be done or not
                        Err(error) => panic!("{error}"),
                    }
                }
                done
            })
        })
        .collect();
    for _ in 0..3 {
        for whole in [true, false] {
            let more = *written.borrow_and_update() + 50;
            soon(written.wait_for(|many| *many >= more)).await.expect("writers write");
            let leader = tokio::task::block_in_place(|| etcd.leader());
            if whole {
                tokio::task::block_in_place(|| etcd.kill(leader));
                let more = *written.borrow_and_update() + 50;
                soon(written.wait_for(|many| *many >= more)).await.expect("two of three are a quorum");
                tokio::task::block_in_place(|| etcd.restart(leader));
            }
        }
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = Vec::new();
    for writer in writers {
        done.extend(soon(writer).await.expect("no panic"));
    }
    works(|| engine.store().put("k/end", "".into(), None)).await;

    let told = soon(told).await.expect("no panic");
    let truth = until(&mut engine.store().watch("k/", Revision(0)).await.expect("watching"), "k/end").await;
    assert_eq!(told, truth, "the watch misses nothing and doubles nothing");
    let told: std::collections::BTreeSet<_> = told.iter().map(quorate::store::Change::revision).collect();
    assert!(done.iter().all(|revision| told.contains(revision)), "what was acknowledged is there");
    assert!(!lock.is_lost() && !leadership.is_lost(), "a quorum lived all the time");
}

#[tokio::test]
async fn without_a_quorum_every_call_fails_in_time_and_works_again_after() {
    let mut etcd = Etcd::start(3);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = on_etcd(store(etcd.endpoints()).await, &folder);
    let store = engine.store();
    let lock = Lock::acquire(&engine, "l", "me", TTL, TTL).await.expect("free");
    let leadership = Leadership::campaign(&engine, "e", "me", TTL).await.expect("elected");
    let lease = store.grant(TTL).await.expect("granted");
    store.put("leased", "1".into(), Some(lease)).await.expect("put");
    let stands = store.put("a", "1".into(), None).await.expect("put");

    etcd.kill(0);
    etcd.freeze(1);
    // The third knows only after a while that nobody leads: until then it would begin a watch.
    soon(async {
        while !matches!(store.watch("a", Revision(0)).await, Err(StoreError::Unavailable { .. })) {}
    })
    .await;
    let (seen, value) = (Some(stands), "2".into());
    let said = tokio::join!(
        unavailable(&etcd, store.get("a")),
        unavailable(&etcd, store.list("")),
        unavailable(&etcd, store.watch("a", Revision(0))),
        unavailable(&etcd, store.put("a", "2".into(), None)),
        unavailable(&etcd, store.delete("a")),
        unavailable(&etcd, store.compare_and_swap("a", seen, Some(value), None)),
        unavailable(&etcd, store.grant(TTL)),
        unavailable(&etcd, store.renew(lease)),
        unavailable(&etcd, store.revoke(LeaseId(7))),
    );
    assert!(said.0.contains("no leader") || said.0.contains("no answer in time"), "{}", said.0);
    // Nobody renews for them, and they know it by their own clock.
    soon(async { tokio::join!(lock.lost(), leadership.lost()) }).await;
    assert!(lock.is_lost() && leadership.is_lost());

    etcd.thaw(1);
    etcd.restart(0);
    works(|| store.get("a")).await;
    works(|| store.put("a", "3".into(), None)).await;
    // The lease lasts for its time from when there is a leader again, and not for ever.
    soon(async { while works(|| store.get("leased")).await.is_some() {} }).await;
    assert!(matches!(refused(store.renew(lease).await), StoreError::LeaseGone(gone) if gone == lease));
    let again = Lock::acquire(&engine, "l", "another", TTL, Duration::from_secs(20)).await.expect("free");
    assert!(again.token() > lock.token());
}

#[tokio::test]
async fn a_lease_that_an_operator_revokes_is_lost_to_its_holder() {
    let etcd = Etcd::start(1);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engine = on_etcd(store(etcd.endpoints()).await, &folder);
    let hour = Duration::from_secs(3600);
    let lock = Lock::acquire(&engine, "l", "me", hour, TTL).await.expect("free");
    let leadership = Leadership::campaign(&engine, "e", "me", hour).await.expect("elected");
    let leases = etcd.ctl(&["lease", "list"]);
    let leases: Vec<_> = leases.lines().skip(1).collect(); // `found 2 leases`
    assert_eq!(leases.len(), 2);
    for lease in leases {
        etcd.ctl(&["lease", "revoke", lease]);
    }
    soon(async { tokio::join!(lock.lost(), leadership.lost()) }).await;
}

#[tokio::test]
async fn a_swap_whose_answer_is_lost_is_no_conflict_with_itself() {
    let etcd = Etcd::start(1);
    let proxy = Proxy::to(&etcd.endpoint(0)).await;
    let near = store(vec![proxy.endpoint.clone()]).await;
    let truth = store(etcd.endpoints()).await;
    let lease = near.grant(TTL * 10).await.expect("granted");

    // Done, and proven by the lease: at first nothing was there, then what was seen.
    let mut seen = None;
    for value in ["1", "2"] {
        proxy.mute(true);
        let swap = near.compare_and_swap("a", seen, Some(value.into()), Some(lease));
        let done = async {
            let stands = loop {
                match truth.get("a").await.expect("got") {
                    Some(entry) if entry.value == value => break entry.revision,
                    _ => {}
                }
            };
            proxy.mute(false);
            proxy.cut();
            stands
        };
        let (swapped, stands) = tokio::join!(soon(swap), soon(done));
        assert_eq!(swapped.expect("it was done"), stands);
        seen = Some(stands);
    }

    // Done, but without a lease it could as well be another's: what is not known is told so.
    proxy.mute(true);
    let swap = near.compare_and_swap("a", seen, Some("3".into()), None);
    let done = async {
        while truth.get("a").await.expect("got").is_none_or(|entry| entry.value != "3") {}
        proxy.mute(false);
        proxy.cut();
    };
    let (swapped, ()) = tokio::join!(soon(swap), soon(done));
    let text = refused(swapped).to_string();
    assert!(text.contains("etcd did not answer, and may have done what was asked"), "{text}");
    assert!(text.contains(&proxy.endpoint), "{text}");

    // Not done, because it was never heard: it is done now, and once.
    let stands = truth.put("b", "1".into(), None).await.expect("put");
    proxy.deafen(true);
    let swap = near.compare_and_swap("b", Some(stands), Some("2".into()), None);
    let lost = async {
        tokio::time::sleep(TIMEOUT / 4).await; // nobody tells that a request was lost
        proxy.deafen(false);
        proxy.cut();
    };
    let (swapped, ()) = tokio::join!(soon(swap), lost);
    assert_eq!(swapped.expect("done"), stands.next());

    // A conflict is one still.
    let error = refused(near.compare_and_swap("b", Some(stands), Some("3".into()), None).await);
    assert!(matches!(error, StoreError::Conflict { .. }), "{error}");
}

#[tokio::test]
async fn a_put_whose_answer_is_lost_is_not_repeated() {
    let etcd = Etcd::start(1);
    let proxy = Proxy::to(&etcd.endpoint(0)).await;
    let near = store(vec![proxy.endpoint.clone()]).await;
    let truth = store(etcd.endpoints()).await;
    proxy.mute(true);
    let done = async {
        let stands = loop {
            if let Some(entry) = truth.get("a").await.expect("got") {
                break entry.revision;
            }
        };
        proxy.mute(false);
        proxy.cut();
        stands
    };
    let (put, stands) = tokio::join!(soon(near.put("a", "1".into(), None)), soon(done));
    let text = refused(put).to_string();
    assert!(text.contains("may have done what was asked") && text.contains(&proxy.endpoint), "{text}");
    assert_eq!(near.get("a").await.expect("got").expect("put once").revision, stands);
}

#[tokio::test]
async fn a_lease_whose_answer_is_lost_is_granted_once() {
    let etcd = Etcd::start(1);
    let proxy = Proxy::to(&etcd.endpoint(0)).await;
    let near = store(vec![proxy.endpoint.clone()]).await;
    proxy.mute(true);
    let granted = async {
        while !etcd.ctl(&["lease", "list"]).starts_with("found 1 leases") {
            tokio::task::yield_now().await;
        }
        proxy.mute(false);
        proxy.cut();
    };
    let (lease, ()) = tokio::join!(soon(near.grant(TTL)), soon(granted));
    let lease = lease.expect("granted");
    assert_eq!(etcd.ctl(&["lease", "list"]), format!("found 1 leases\n{:016x}\n", lease.0));
    near.renew(lease).await.expect("renewed");
}

async fn told_at_once(options: EtcdOptions, what: &[&str]) {
    let endpoint = options.endpoints[0].clone();
    let text = refused(EtcdStore::connect(options).await.map(drop)).to_string();
    assert!(text.contains(&endpoint), "{text}");
    assert!(what.iter().any(|what| text.contains(what)), "{text}");
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_right_one_outlives_its_tokens() {
    let mut etcd = Etcd::start(1);
    etcd.ctl(&["user", "add", "root:r"]);
    etcd.ctl(&["user", "add", "quorate:right"]);
    etcd.ctl(&["role", "add", "quorate"]);
    etcd.ctl(&["role", "grant-permission", "quorate", "readwrite", "--prefix=true", "quorate/"]);
    etcd.ctl(&["user", "grant-role", "quorate", "quorate"]);
    etcd.ctl(&["user", "grant-role", "root", "root"]);
    etcd.ctl(&["auth", "enable"]);
    let with = |user: Option<(&str, &str)>| EtcdOptions {
        user: user.map(|(name, password)| (name.into(), password.into())),
        ..EtcdOptions::new(etcd.endpoints())
    };
    told_at_once(with(None), &["etcdserver: user name is empty"]).await;
    told_at_once(with(Some(("quorate", "wrong"))), &["authentication failed, invalid user ID or password"])
        .await;
    let other = EtcdOptions { prefix: "other/".into(), ..with(Some(("quorate", "right"))) };
    told_at_once(other, &["etcdserver: permission denied"]).await;

    let store = EtcdStore::connect(with(Some(("quorate", "right")))).await.expect("let in");
    let mut watch = store.watch("k/", Revision(0)).await.expect("watching");
    store.put("k/a", "1".into(), None).await.expect("put");
    // Tokens are in a member's memory only.
    etcd.kill(0);
    etcd.restart(0);
    works(|| store.put("k/end", "2".into(), None)).await;
    assert_eq!(until(&mut watch, "k/end").await.first().expect("one").key(), "k/a");
}

#[tokio::test]
async fn wrong_certificates_are_told() {
    let etcd = Etcd::start_with_tls();
    let [authorities, certificate, key] = etcd.certificates();
    let with = |tls| EtcdOptions { tls, request_timeout: TIMEOUT, ..EtcdOptions::new(etcd.endpoints()) };
    let client = Some((certificate, key));
    let right = EtcdTls { authorities: authorities.clone(), client: client.clone() };
    let store = EtcdStore::connect(with(Some(right.clone()))).await.expect("let in");
    store.put("a", "1".into(), None).await.expect("put");

    let other = tempfile::tempdir().expect("a temporary folder");
    crate::servers::etcd::certify(other.path());
    let strange = std::fs::read(other.path().join("ca.pem")).expect("made above");
    told_at_once(with(Some(EtcdTls { authorities: strange, client })), &["invalid peer certificate: "]).await;
    told_at_once(with(None), &["invalid peer certificate: "]).await;
    let unknown = EtcdTls { authorities, client: None };
    told_at_once(with(Some(unknown)), &["does it ask for a certificate? we have none"]).await;
    let plain = EtcdOptions { endpoints: vec![etcd.endpoint(0).replace("https", "http")], ..with(None) };
    told_at_once(plain, &["etcd did not answer"]).await;
    let nonsense = EtcdTls { authorities: b"nonsense".to_vec(), client: None };
    let text = refused(EtcdStore::connect(with(Some(nonsense))).await.map(drop)).to_string();
    assert!(text.contains("what members of etcd are checked against holds no certificate in PEM"), "{text}");
    let mixed =
        EtcdOptions { endpoints: vec![etcd.endpoint(0).replace("https", "http")], ..with(Some(right)) };
    told_at_once(mixed, &["TLS options are only supported with HTTPS URLs"]).await;
}

#[tokio::test]
async fn nobody_at_the_endpoints_is_told_in_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let silent = format!("http://{}", listener.local_addr().expect("it is bound"));
    for endpoints in [vec!["http://127.0.0.1:1".to_owned()], vec![silent]] {
        let options = EtcdOptions { request_timeout: TIMEOUT, ..EtcdOptions::new(endpoints) };
        let begun = Instant::now();
        told_at_once(options, &["Connection refused", "no answer in time"]).await;
        assert!(begun.elapsed() < TIMEOUT + Duration::from_millis(750));
    }
    let none = refused(EtcdStore::connect(EtcdOptions::new(Vec::new())).await.map(drop)).to_string();
    assert_eq!(none, "the store is not available: there is no endpoint of etcd to ask");
}
