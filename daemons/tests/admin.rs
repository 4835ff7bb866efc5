//! The admin over an engine that can be away.

#[path = "gateway/flaky.rs"]
mod flaky;

use flaky::Flaky;
use quorate::{
    admin,
    config::{Config, Durability, Replication},
    engine::Engine,
    fault::{FAULTS, Fault},
    set::{Member, MemberState, SetRecord, SetState},
    sqlite::SqliteEngine,
    store::{Change, Revision},
    wires::Wires,
};
use quorate_dag::Function;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn an_admin_whose_store_was_away_publishes_what_it_finds_then() {
    let folder = tempfile::tempdir().unwrap();
    let away = Arc::new(AtomicBool::new(true));
    let (refused, _) = watch::channel(0);
    let sqlite = SqliteEngine::open(&folder.path().join("quorate.db"), Durability::Process).unwrap();
    let mut faults = sqlite.store().watch(FAULTS, Revision(1)).await.unwrap();
    let worker = Member {
        pod: "add-0-worker".into(),
        state: MemberState::Down,
        address: None,
        transport: None,
        pid: None,
        incarnation: 1,
    };
    let set = SetRecord {
        name: "add-0".into(),
        function: Function::Add,
        replication: Replication::None,
        state: SetState::Paused,
        worker,
        replicas: Vec::new(),
        genesis: None,
        successions: Vec::new(),
        succession: None,
        ordered_ms: 0,
        start_ms: None,
    };
    sqlite.store().put("sets/add-0", serde_json::to_vec(&set).unwrap().into(), None).await.unwrap();

    let engine = Arc::new(Flaky { engine: sqlite, away: away.clone(), refused });
    let (end, shutdown) = watch::channel(false);
    // On one thread it fails before it is given the store back.
    let running = tokio::spawn(admin::run(Arc::new(Config::default()), engine, Wires::plain(), shutdown));
    tokio::task::yield_now().await;
    away.store(false, Ordering::SeqCst);
    let change = tokio::time::timeout(PATIENCE, faults.recv()).await.expect("in time").unwrap().unwrap();
    let Change::Put(entry) = change else { panic!("{change:?}") };
    let fault: Fault = serde_json::from_slice(&entry.value).unwrap();
    assert_eq!((fault.kind, fault.pod.as_str()), (1, "add-0-worker"));
    end.send_replace(true);
    running.await.unwrap();
}
