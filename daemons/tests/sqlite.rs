//! What the embedded engine promises beyond what every engine must: what a death, a bad file, a full disk
//! and a second process do to it.

use quorate::{
    clock::ManualClock,
    config::Durability,
    engine::{Conclusion, Engine, StepError},
    queue::{Queue, QueueError, QueueName},
    records::{Created, Finished, Lookup, NewRecord, Outcome, RecordsError, Request},
    sqlite::{OpenError, Options, SqliteEngine},
    store::{Change, Revision, StoreError},
};
use std::{
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tempfile::TempDir;
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(2);
const NOW_MS: u64 = 1_700_000_000_000;
const PATIENCE: Duration = Duration::from_secs(20);

/// A folder with an engine in it, on a clock of its own.
struct Place {
    folder: TempDir,
    clock: Arc<ManualClock>,
    options: Options,
}

impl Place {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(NOW_MS));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let options = Options { clock: clock.clone(), ..Options::new(Durability::Process) };
        Self { folder, clock, options }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("quorate.db")
    }

    fn open(&self) -> Arc<SqliteEngine> {
        SqliteEngine::open_with(&self.path(), self.options.clone()).expect("it opens")
    }

    /// The same folder as another process sees it that was started at another time.
    fn at(&mut self, now_ms: u64) {
        self.clock = Arc::new(ManualClock::at(now_ms));
        self.options.clock = self.clock.clone();
    }
}

async fn queue(engine: &dyn Engine, name: &str) -> Arc<dyn Queue> {
    engine.queue(&QueueName::named(name)).await.expect("the queue is there")
}

fn record(id: Uuid) -> NewRecord {
    let request = Request { expression: "3+5".into(), parameters: [].into(), digits: None, receipt: false };
    NewRecord { id, request, deadline_ms: NOW_MS + 60_000, expires_ms: NOW_MS * 2 }
}

fn outcome(result: &str) -> Outcome {
    Outcome { result: Ok(result.into()), nodes: 1, elapsed_ms: 1.5, timeline: Vec::new() }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it happens within PATIENCE")
}

// What a death leaves.

/// Not a test of its own: the process that `every_acknowledged_write_survives_kill` kills. It writes as
/// fast as it can and says so, a line for each write that was acknowledged.
#[test]
fn writer_process() {
    let Some(path) = std::env::var_os("QUORATE_TEST_WRITER") else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().worker_threads(2).build();
    runtime.expect("a runtime").block_on(async {
        let engine = SqliteEngine::open(Path::new(&path), Durability::Process).expect("it opens");
        let inbound = queue(&*engine, "inbound").await;
        let mut writers = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (engine, inbound) = (Arc::clone(&engine), Arc::clone(&inbound));
            writers.spawn(async move {
                loop {
                    let id = Uuid::now_v7();
                    let message = id.to_string().into();
                    let record = NewRecord { expires_ms: u64::MAX, ..record(id) };
                    engine.accept(record, &*inbound, message).await.expect("accepted");
                    engine.store().put(&id.to_string(), "1".into(), None).await.expect("put");
                    // One call: a line is written whole or not at all.
                    std::io::stdout().write_all(format!("\nacknowledged {id}\n").as_bytes()).expect("a pipe");
                }
            });
        }
        writers.join_all().await;
    });
}

#[tokio::test]
async fn every_acknowledged_write_survives_kill() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("quorate.db");
    let mut acknowledged = Vec::new();
    for _ in 0..3 {
        let mut child = Command::new(std::env::current_exe().expect("this test's binary"))
            .args(["--exact", "writer_process", "--nocapture"])
            .env("QUORATE_TEST_WRITER", &path)
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let before = acknowledged.len();
        for line in lines {
            let Ok(line) = line else { break };
            let id = line.strip_prefix("acknowledged ").and_then(|id| id.parse::<Uuid>().ok());
            acknowledged.extend(id);
            if acknowledged.len() == before + 200 {
                child.kill().expect("SIGKILL");
            }
        }
        child.wait().expect("it ended");
        assert!(acknowledged.len() >= before + 200, "it was killed while it wrote");
    }

    let engine = SqliteEngine::open(&path, Durability::Process).expect("it opens");
    let inbound = queue(&*engine, "inbound").await;
    let got = inbound.receive(1_000_000, LEASE, Duration::ZERO).await.expect("received");
    let messages: std::collections::BTreeSet<Uuid> =
        got.iter().map(|message| std::str::from_utf8(&message.body).unwrap().parse().unwrap()).collect();
    assert_eq!(messages.len(), got.len(), "no message is there twice");
    for id in &acknowledged {
        assert!(matches!(engine.records().get(*id).await.unwrap(), Lookup::Found(_)), "record {id}");
        assert!(messages.contains(id), "message {id}");
        assert!(engine.store().get(&id.to_string()).await.unwrap().is_some(), "key {id}");
    }
    // And record and message of one step are there both or neither.
    assert_eq!(engine.records().accepted().await.unwrap(), messages.len() as u64);
    for id in &messages {
        assert!(matches!(engine.records().get(*id).await.unwrap(), Lookup::Found(_)), "record {id}");
    }
}

#[tokio::test]
async fn leases_survive_a_restart() {
    let place = Place::new();
    let engine = place.open();
    let (q, store) = (queue(&*engine, "q").await, engine.store());
    q.send(vec!["a".into(), "b".into()]).await.unwrap();
    let got = q.receive(1, LEASE, Duration::ZERO).await.unwrap();
    let lease = store.grant(LEASE).await.unwrap();
    store.put("leased", "1".into(), Some(lease)).await.unwrap();
    drop((q, engine));

    place.clock.advance(LEASE / 2);
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let other = q.receive(10, LEASE * 10, Duration::ZERO).await.unwrap();
    assert_eq!(other.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"b"]);
    engine.store().renew(lease).await.unwrap();
    place.clock.advance(LEASE / 2);
    let again = q.receive(10, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!((&again[0].body[..], again[0].receives), (&b"a"[..], 2));
    q.delete(&[got[0].handle.clone()]).await.unwrap();
    q.delete(&[again[0].handle.clone(), other[0].handle.clone()]).await.unwrap();
    let depth = q.depth().await.unwrap();
    assert_eq!((depth.waiting, depth.in_flight, depth.dead), (0, 0, 0));
    assert!(engine.store().get("leased").await.unwrap().is_some());
}

#[tokio::test]
async fn a_lease_that_ended_while_the_engine_was_down_has_ended() {
    let place = Place::new();
    let engine = place.open();
    let lease = engine.store().grant(LEASE).await.unwrap();
    let put = engine.store().put("leased", "1".into(), Some(lease)).await.unwrap();
    drop(engine);
    place.clock.advance(LEASE * 2);
    let engine = place.open();
    let mut watch = engine.store().watch("leased", put.next()).await.unwrap();
    assert!(matches!(soon(watch.recv()).await, Some(Ok(Change::Deleted { .. }))));
}

#[tokio::test]
async fn a_clock_set_back_does_not_lengthen_leases() {
    let mut place = Place::new();
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    q.send(vec!["leased".into(), "waiting".into()]).await.unwrap();
    q.receive(1, LEASE, Duration::ZERO).await.unwrap();
    let lease = engine.store().grant(LEASE).await.unwrap();
    let put = engine.store().put("leased", "1".into(), Some(lease)).await.unwrap();
    drop((q, engine));

    place.at(NOW_MS - 3_600_000);
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let got = q.receive(10, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!(got.iter().map(|message| &message.body[..]).collect::<Vec<_>>(), [b"waiting"]);
    let mut watch = engine.store().watch("leased", put.next()).await.unwrap();
    place.clock.advance(LEASE);
    assert_eq!(q.receive(1, LEASE, Duration::ZERO).await.unwrap()[0].body, "leased");
    assert!(matches!(soon(watch.recv()).await, Some(Ok(Change::Deleted { .. }))));
}

#[tokio::test]
async fn revisions_and_history_survive_a_restart() {
    let place = Place::new();
    let engine = place.open();
    let first = engine.store().put("a", "1".into(), None).await.unwrap();
    engine.store().delete("a").await.unwrap();
    drop(engine);
    let engine = place.open();
    let third = engine.store().put("a", "2".into(), None).await.unwrap();
    assert_eq!(third, Revision(first.0 + 2));
    let mut watch = engine.store().watch("", first).await.unwrap();
    for expected in first.0..=third.0 {
        assert_eq!(soon(watch.recv()).await.unwrap().unwrap().revision().0, expected);
    }
}

#[tokio::test]
async fn the_count_of_accepted_records_survives_a_restart() {
    let place = Place::new();
    let engine = place.open();
    let ids = [Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7()];
    for id in ids {
        engine.records().create(record(id)).await.unwrap();
    }
    engine.records().finish(ids[0], outcome("8"), None).await.unwrap();
    drop(engine);
    assert_eq!(place.open().records().accepted().await.unwrap(), 2);
}

#[tokio::test]
async fn what_was_ordered_before_the_engine_is_dropped_is_written() {
    let place = Place::new();
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let mut sending = Box::pin(q.send(vec!["a".into()]));
    // Polled once, the order is with the writer; nobody waits for the answer any more.
    let _ = futures::poll!(&mut sending);
    drop(sending);
    drop((q, engine));
    let engine = place.open();
    let got = queue(&*engine, "q").await.receive(1, LEASE, Duration::ZERO).await.unwrap();
    assert_eq!(got.len(), 1);
}

// What a receiver leaves that goes away.

#[tokio::test]
async fn a_cancelled_receiver_takes_nothing() {
    let place = Place::new();
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let mut cancelled = Box::pin(q.receive(10, LEASE, PATIENCE));
    assert!(futures::poll!(&mut cancelled).is_pending());
    q.send(vec!["a".into()]).await.unwrap();
    // Served by now, and dropped before it looked.
    drop(cancelled);
    let got = soon(q.receive(10, LEASE, PATIENCE)).await.unwrap();
    assert_eq!((&got[0].body[..], got[0].receives), (&b"a"[..], 1));
}

#[tokio::test]
async fn a_receiver_that_is_cancelled_at_any_moment_takes_nothing() {
    let place = Place::new();
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    for _ in 0..100 {
        let receiver = Arc::clone(&q);
        let cancelled = tokio::spawn(async move { receiver.receive(1, LEASE, PATIENCE).await });
        tokio::task::yield_now().await;
        let sender = Arc::clone(&q);
        let sent = tokio::spawn(async move { sender.send(vec!["a".into()]).await });
        tokio::task::yield_now().await;
        cancelled.abort();
        sent.await.unwrap().unwrap();
        let mut got = match cancelled.await {
            Ok(got) => got.unwrap(), // it was quicker
            Err(_) => soon(q.receive(1, LEASE, PATIENCE)).await.unwrap(),
        };
        let got = got.remove(0);
        assert_eq!(got.receives, 1);
        q.delete(&[got.handle]).await.unwrap();
    }
}

// What time removes.

#[tokio::test]
async fn messages_and_dead_letters_go_after_their_retention() {
    let mut place = Place::new();
    place.options.max_receives = 1;
    place.options.message_retention = Duration::from_secs(4 * 3600);
    place.options.dead_letter_retention = Duration::from_secs(14 * 3600);
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    q.send(vec!["dead".into()]).await.unwrap();
    q.receive(1, LEASE, Duration::ZERO).await.unwrap();
    place.clock.advance(LEASE);
    assert!(q.receive(1, LEASE, Duration::ZERO).await.unwrap().is_empty());
    q.send(vec!["forgotten".into()]).await.unwrap();
    let counts = async || {
        q.send(vec!["new".into()]).await.unwrap(); // a commit, in which what is due is done
        let depth = q.depth().await.unwrap();
        (depth.waiting, depth.dead)
    };
    assert_eq!(counts().await, (2, 1));
    place.clock.advance(Duration::from_secs(5 * 3600));
    assert_eq!(counts().await, (1, 1));
    place.clock.advance(Duration::from_secs(10 * 3600));
    assert_eq!(counts().await, (1, 0));
}

#[tokio::test]
async fn a_tombstone_goes_after_its_retention() {
    let place = Place::new();
    let engine = place.open();
    let id = Uuid::now_v7();
    engine.records().create(NewRecord { expires_ms: NOW_MS + 10, ..record(id) }).await.unwrap();
    place.clock.advance(Duration::from_millis(11));
    assert_eq!(engine.records().expire(10).await.unwrap(), 1);
    place.clock.advance(place.options.tombstone_retention - Duration::from_secs(1));
    engine.records().expire(10).await.unwrap();
    assert_eq!(engine.records().get(id).await.unwrap(), Lookup::Expired);
    place.clock.advance(Duration::from_secs(2));
    engine.records().expire(10).await.unwrap();
    assert_eq!(engine.records().get(id).await.unwrap(), Lookup::Unknown);
}

// What a bad file is told.

fn refused(path: &Path) -> OpenError {
    match SqliteEngine::open(path, Durability::Disk) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => error,
    }
}

#[test]
fn a_file_that_is_no_database_is_refused_and_left_alone() {
    let place = Place::new();
    let text = "not a database, but long enough to look at ".repeat(200);
    std::fs::write(place.path(), &text).unwrap();
    let error = refused(&place.path());
    assert!(matches!(error, OpenError::NotADatabase { .. }), "{error}");
    assert!(error.to_string().contains("is not a database"), "{error}");
    assert_eq!(std::fs::read_to_string(place.path()).unwrap(), text);
}

#[test]
fn a_damaged_database_is_refused() {
    let place = Place::new();
    drop(place.open());
    let mut bytes = std::fs::read(place.path()).unwrap();
    bytes[100..4000].fill(0x5a); // the first page, after its header: the schema
    std::fs::write(place.path(), bytes).unwrap();
    let error = refused(&place.path());
    assert!(matches!(error, OpenError::Corrupt { .. }), "{error}");
}

#[test]
fn a_database_of_another_program_is_refused_and_left_alone() {
    let place = Place::new();
    let theirs = rusqlite::Connection::open(place.path()).unwrap();
    theirs.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(theirs);
    let error = refused(&place.path());
    assert!(matches!(error, OpenError::Foreign { .. }), "{error}");
    let theirs = rusqlite::Connection::open(place.path()).unwrap();
    let tables: i64 = theirs.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).unwrap();
    assert_eq!(tables, 1);
}

#[test]
fn a_database_of_a_newer_version_is_refused() {
    let place = Place::new();
    drop(place.open());
    rusqlite::Connection::open(place.path()).unwrap().pragma_update(None, "user_version", 99).unwrap();
    let error = refused(&place.path());
    assert!(matches!(error, OpenError::Version { version: 99, .. }), "{error}");
}

#[test]
fn a_path_that_cannot_be_written_is_refused_by_name() {
    let place = Place::new();
    std::fs::write(place.path(), "").unwrap();
    for path in
        [place.folder.path().to_owned(), place.path().join("inside-a-file"), "/no/such/folder/x".into()]
    {
        let error = refused(&path);
        assert!(matches!(error, OpenError::Failed { .. }), "{error}");
        assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    }
}

// What a failing disk leaves.

#[tokio::test]
async fn a_full_disk_is_unavailable_and_leaves_nothing_half_done() {
    let mut place = Place::new();
    place.options.file_pages_max = Some(64);
    let engine = place.open();
    let (inbound, outbound) = (queue(&*engine, "inbound").await, queue(&*engine, "outbound").await);
    let last = Uuid::now_v7();
    engine.accept(record(last), &*inbound, "last".into()).await.unwrap();
    let got = inbound.receive(1, LEASE, Duration::ZERO).await.unwrap();

    // The record fits and its message does not: neither is there.
    let large = vec![7_u8; 600_000];
    let id = Uuid::now_v7();
    let error = engine.accept(record(id), &*inbound, large.clone().into()).await.unwrap_err();
    assert!(matches!(error, StepError::Records(RecordsError::Unavailable { .. })), "{error}");
    assert_eq!(engine.records().get(id).await.unwrap(), Lookup::Unknown);
    assert_eq!(engine.records().accepted().await.unwrap(), 1);

    // The outcome fits and its announcement does not: the record is as it was.
    let conclusion = |announcement: Vec<u8>| Conclusion {
        id: last,
        outcome: outcome("8"),
        receipt: None,
        outbound: &*outbound,
        announcement: announcement.into(),
        inbound: &*inbound,
        handle: &got[0].handle,
    };
    engine.conclude(conclusion(large.clone())).await.unwrap_err();
    let Lookup::Found(stands) = engine.records().get(last).await.unwrap() else { panic!("it is there") };
    assert_eq!(stands.outcome, None);
    assert!(outbound.receive(1, LEASE, Duration::ZERO).await.unwrap().is_empty());

    let error = engine.store().put("k", large.into(), None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert_eq!(engine.store().list("").await.unwrap(), (Vec::new(), Revision(0)));

    // What is small enough still goes.
    assert_eq!(engine.conclude(conclusion(b"done".to_vec())).await.unwrap(), Finished::First);
    assert_eq!(engine.records().accepted().await.unwrap(), 0);
}

#[tokio::test]
async fn one_order_that_fails_takes_none_of_its_neighbours_along() {
    let mut place = Place::new();
    place.options.file_pages_max = Some(64);
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let (small, large) = (vec!["small".into()], vec![vec![7_u8; 600_000].into()]);
    for _ in 0..20 {
        // Polled in one go, they are committed in one transaction or nearly.
        let (before, failing, after) =
            tokio::join!(q.send(small.clone()), q.send(large.clone()), q.send(small.clone()));
        before.unwrap();
        assert!(matches!(failing.unwrap_err(), QueueError::Unavailable { .. }));
        after.unwrap();
        let got = q.receive(10, LEASE, Duration::ZERO).await.unwrap();
        assert_eq!(got.len(), 2);
        q.delete(&got.into_iter().map(|message| message.handle).collect::<Vec<_>>()).await.unwrap();
    }
}

#[tokio::test]
async fn a_database_that_another_holds_is_unavailable_until_it_lets_go() {
    let mut place = Place::new();
    place.options.busy_timeout = Duration::from_millis(10);
    let engine = place.open();
    let q = queue(&*engine, "q").await;
    let holder = rusqlite::Connection::open(place.path()).unwrap();
    holder.execute_batch("BEGIN IMMEDIATE").unwrap();
    let id = Uuid::now_v7();
    let error = engine.accept(record(id), &*q, "look".into()).await.unwrap_err();
    assert!(matches!(error, StepError::Records(RecordsError::Unavailable { .. })), "{error}");
    assert!(matches!(q.receive(1, LEASE, PATIENCE).await.unwrap_err(), QueueError::Unavailable { .. }));
    assert_eq!(engine.records().get(id).await.unwrap(), Lookup::Unknown, "reads go on");
    holder.execute_batch("ROLLBACK").unwrap();
    assert_eq!(engine.accept(record(id), &*q, "look".into()).await.unwrap(), Created::New);
    assert_eq!(q.receive(10, LEASE, Duration::ZERO).await.unwrap().len(), 1);
}

// What a second process does is seen.

#[tokio::test]
async fn what_another_process_writes_is_seen_without_being_told() {
    let place = Place::new();
    let (mine, other) = (place.open(), place.open());
    let q = queue(&*mine, "q").await;
    let waiter = tokio::spawn(async move { q.receive(1, LEASE, PATIENCE).await });
    let mut watch = mine.store().watch("", Revision(0)).await.unwrap();

    other.accept(record(Uuid::now_v7()), &*queue(&*other, "q").await, "look".into()).await.unwrap();
    let put = other.store().put("k", "1".into(), None).await.unwrap();
    assert_eq!(soon(waiter).await.unwrap().unwrap()[0].body, "look");
    assert_eq!(soon(watch.recv()).await.unwrap().unwrap().revision(), put);
    // The count came with the same commit that the watch told of.
    assert_eq!(mine.records().accepted().await.unwrap(), 1);
}

#[tokio::test]
async fn two_processes_share_messages_and_revisions() {
    const EACH: usize = 50;
    let place = Place::new();
    let engines = [place.open(), place.open()];
    let mut running = tokio::task::JoinSet::new();
    for engine in &engines {
        let engine = Arc::clone(engine);
        running.spawn(async move {
            let q = queue(&*engine, "q").await;
            for _ in 0..EACH {
                q.send(vec!["m".into()]).await.unwrap();
                engine.store().put("k", "v".into(), None).await.unwrap();
            }
            let mut got = 0;
            for _ in 0..EACH {
                got += q.receive(1, LEASE, Duration::ZERO).await.unwrap().len();
            }
            got
        });
    }
    let got: usize = soon(running.join_all()).await.into_iter().sum();
    let left = queue(&*engines[0], "q").await.depth().await.unwrap();
    assert_eq!((got as u64 + left.waiting, left.in_flight), (2 * EACH as u64, got as u64));
    assert_eq!(engines[1].store().list("").await.unwrap().1, Revision(2 * EACH as u64));
}
