//! The embedded engine against a model in memory that is simple enough to be right: random orders, the
//! passing of time and restarts, after each of which both must say the same.

use proptest::prelude::*;
use quorate::{
    clock::ManualClock,
    config::Durability,
    engine::Engine,
    queue::{Handle, Queue, QueueName},
    records::{Created, Finished, Lookup, NewRecord, Outcome, Request},
    sqlite::{Options, SqliteEngine},
    store::{Change, LeaseId, Revision, Store, StoreError},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tempfile::TempDir;
use uuid::Uuid;

const BEGIN_MS: u64 = 1_700_000_000_000;
const MAX_RECEIVES: u32 = 3;

/// The engine under test, and how it is opened again.
struct Subject {
    folder: TempDir,
    options: Options,
    clock: Arc<ManualClock>,
    now_ms: u64,
    engine: Option<Arc<SqliteEngine>>,
}

impl Subject {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at(BEGIN_MS));
        let options = Options {
            clock: clock.clone(),
            max_receives: MAX_RECEIVES,
            changes_kept: 1_000_000,
            ..Options::new(Durability::Process)
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut subject = Self { folder, options, clock, now_ms: BEGIN_MS, engine: None };
        subject.restart();
        subject
    }

    fn restart(&mut self) {
        self.engine = None;
        let path = self.folder.path().join("quorate.db");
        self.engine = Some(SqliteEngine::open_with(&path, self.options.clone()).expect("it opens"));
    }

    async fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.clock.advance(Duration::from_millis(ms));
        // An order goes after what was due before it: now it has happened.
        self.engine().store().delete("nothing").await.expect("in order");
    }

    fn engine(&self) -> &SqliteEngine {
        self.engine.as_deref().expect("open but while it restarts")
    }

    async fn queue(&self) -> Arc<dyn Queue> {
        self.engine().queue(&QueueName::inbound()).await.expect("the queue is there")
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test);
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

// Queues.

#[derive(Clone, Debug)]
enum QueueOrder {
    Send(usize),
    Receive { max: usize, lease_ms: u64 },
    Extend { which: usize, lease_ms: u64 },
    Delete(usize),
    Redrive,
    Pass(u64),
    Restart,
}

fn queue_order() -> impl Strategy<Value = QueueOrder> {
    let lease_ms = prop_oneof![Just(0), Just(10), Just(25), Just(1000)];
    prop_oneof![
        4 => (0..4_usize).prop_map(QueueOrder::Send),
        6 => (0..5_usize, lease_ms.clone()).prop_map(|(max, lease_ms)| QueueOrder::Receive { max, lease_ms }),
        3 => (any::<usize>(), lease_ms).prop_map(|(which, lease_ms)| QueueOrder::Extend { which, lease_ms }),
        3 => any::<usize>().prop_map(QueueOrder::Delete),
        1 => Just(QueueOrder::Redrive),
        4 => (0..40_u64).prop_map(QueueOrder::Pass),
        1 => Just(QueueOrder::Restart),
    ]
}

/// A message, in the order of their ids.
#[derive(Clone, Debug)]
struct Message {
    id: u64,
    body: String,
    visible_ms: u64,
    receives: u32,
}

#[derive(Default)]
struct QueueModel {
    last_id: u64,
    messages: Vec<Message>,
    dead: Vec<Message>,
    /// Every handle ever given, with the message and the receipt that it names.
    handles: Vec<(Handle, u64, u32)>,
}

impl QueueModel {
    fn send(&mut self, body: String, now_ms: u64) {
        self.last_id += 1;
        self.messages.push(Message { id: self.last_id, body, visible_ms: now_ms, receives: 0 });
    }

    fn receive(&mut self, max: usize, lease_ms: u64, now_ms: u64) -> Vec<Message> {
        let mut turns: Vec<_> = self.messages.iter().filter(|m| m.visible_ms <= now_ms).cloned().collect();
        turns.sort_by_key(|message| (message.visible_ms, message.id));
        let mut taken = Vec::new();
        // What is put aside makes room only within one look at the queue, unless its lease keeps what was
        // taken out of the next look.
        let mut looked = 0;
        while taken.len() < max && looked < turns.len() {
            let look = max - taken.len();
            for turn in turns.iter().skip(looked).take(look) {
                let place = self.messages.iter().position(|message| message.id == turn.id).expect("there");
                if turn.receives >= MAX_RECEIVES {
                    self.dead.push(self.messages.remove(place));
                } else {
                    let message = &mut self.messages[place];
                    message.receives += 1;
                    message.visible_ms = now_ms + lease_ms;
                    taken.push(message.clone());
                }
            }
            looked += look;
            if lease_ms == 0 {
                break;
            }
        }
        taken
    }

    fn named(&mut self, which: usize) -> Option<(Handle, Option<usize>)> {
        let (handle, id, receives) = self.handles.get(which % self.handles.len().max(1))?.clone();
        Some((handle, self.messages.iter().position(|m| m.id == id && m.receives == receives)))
    }
}

async fn queue_agrees(orders: Vec<QueueOrder>) {
    let (mut subject, mut model) = (Subject::new(), QueueModel::default());
    for order in orders {
        let (queue, now_ms) = (subject.queue().await, subject.now_ms);
        match order {
            QueueOrder::Send(count) => {
                let first = model.last_id + 1;
                let bodies: Vec<String> = (0..count as u64).map(|n| (first + n).to_string()).collect();
                queue.send(bodies.iter().cloned().map(Into::into).collect()).await.expect("sent");
                bodies.into_iter().for_each(|body| model.send(body, now_ms));
            }
            QueueOrder::Receive { max, lease_ms } => {
                let got = queue.receive(max, ms(lease_ms), Duration::ZERO).await.expect("received");
                let expected = model.receive(max, lease_ms, now_ms);
                let bodies = |got: &[Message]| got.iter().map(|m| (m.body.clone(), m.receives)).collect();
                let expected_bodies: Vec<_> = bodies(&expected);
                let text = |body: &[u8]| String::from_utf8(body.to_vec()).expect("text");
                let got_bodies: Vec<_> = got.iter().map(|m| (text(&m.body), m.receives)).collect();
                assert_eq!(got_bodies, expected_bodies);
                model
                    .handles
                    .extend(got.into_iter().zip(expected).map(|(m, e)| (m.handle, e.id, e.receives)));
            }
            QueueOrder::Extend { which, lease_ms } => {
                let Some((handle, place)) = model.named(which) else { continue };
                queue.extend(&[handle], ms(lease_ms)).await.expect("extended");
                if let Some(place) = place {
                    model.messages[place].visible_ms = now_ms + lease_ms;
                }
            }
            QueueOrder::Delete(which) => {
                let Some((handle, place)) = model.named(which) else { continue };
                queue.delete(&[handle]).await.expect("deleted");
                if let Some(place) = place {
                    model.messages.remove(place);
                }
            }
            QueueOrder::Redrive => {
                let dead = std::mem::take(&mut model.dead);
                assert_eq!(queue.redrive().await.expect("redriven"), dead.len() as u64);
                dead.into_iter().for_each(|message| model.send(message.body, now_ms));
            }
            QueueOrder::Pass(ms) => subject.pass(ms).await,
            QueueOrder::Restart => {
                drop(queue);
                subject.restart();
            }
        }
        let (queue, now_ms) = (subject.queue().await, subject.now_ms);
        let depth = queue.depth().await.expect("depth");
        let waiting = model.messages.iter().filter(|message| message.visible_ms <= now_ms).count() as u64;
        assert_eq!((depth.waiting, depth.waiting + depth.in_flight), (waiting, model.messages.len() as u64));
        let letters = queue.dead_letters(1000).await.expect("listed");
        let letters: Vec<_> = letters.iter().map(|letter| (&letter.body[..], letter.receives)).collect();
        let dead: Vec<_> =
            model.dead.iter().map(|letter| (letter.body.as_bytes(), letter.receives)).collect();
        assert_eq!(letters, dead);
    }
}

// Records.

#[derive(Clone, Debug)]
enum RecordOrder {
    Create { id: u128, keep_ms: u64 },
    Finish { id: u128, result: u8, receipt: bool },
    Expire(usize),
    Pass(u64),
    Restart,
}

fn record_order() -> impl Strategy<Value = RecordOrder> {
    let id = 0..6_u128;
    prop_oneof![
        4 => (id.clone(), 0..100_u64).prop_map(|(id, keep_ms)| RecordOrder::Create { id, keep_ms }),
        4 => (id, any::<u8>(), any::<bool>())
            .prop_map(|(id, result, receipt)| RecordOrder::Finish { id, result, receipt }),
        2 => (0..4_usize).prop_map(RecordOrder::Expire),
        3 => (0..40_u64).prop_map(RecordOrder::Pass),
        1 => Just(RecordOrder::Restart),
    ]
}

#[derive(Clone)]
struct RecordModel {
    accepted_ms: u64,
    expires_ms: u64,
    outcome: Option<Outcome>,
    receipt: bool,
    buried: bool,
}

async fn records_agree(orders: Vec<RecordOrder>) {
    let mut subject = Subject::new();
    let mut model = BTreeMap::<u128, RecordModel>::new();
    for order in orders {
        let now_ms = subject.now_ms;
        let records = subject.engine().records();
        match order {
            RecordOrder::Create { id, keep_ms } => {
                let request = Request {
                    expression: format!("{id}+1"),
                    parameters: [].into(),
                    digits: None,
                    receipt: false,
                };
                let expires_ms = now_ms + keep_ms;
                let new = NewRecord { id: Uuid::from_u128(id), request, deadline_ms: 7, expires_ms };
                let created = records.create(new).await.expect("created");
                match model.get(&id) {
                    None => {
                        assert_eq!(created, Created::New);
                        let (outcome, receipt, buried) = (None, false, false);
                        let new = RecordModel { accepted_ms: now_ms, expires_ms, outcome, receipt, buried };
                        model.insert(id, new);
                    }
                    Some(known) if known.buried || known.expires_ms < now_ms => {
                        assert_eq!(created, Created::Expired);
                    }
                    Some(known) => {
                        let Created::Existing(record) = created else { panic!("{created:?}") };
                        assert_eq!(record.outcome, known.outcome);
                    }
                }
            }
            RecordOrder::Finish { id, result, receipt } => {
                let outcome = Outcome {
                    result: Ok(result.to_string()),
                    nodes: 1,
                    elapsed_ms: 0.5,
                    timeline: Vec::new(),
                };
                let finished = records
                    .finish(Uuid::from_u128(id), outcome.clone(), receipt.then(|| "receipt".into()))
                    .await
                    .expect("finished");
                let expected = match model.get_mut(&id) {
                    Some(known) if !known.buried && known.expires_ms >= now_ms => match &known.outcome {
                        Some(before) => Finished::Before(before.clone()),
                        None => {
                            (known.outcome, known.receipt) = (Some(outcome), receipt);
                            Finished::First
                        }
                    },
                    _ => Finished::Unknown,
                };
                assert_eq!(finished, expected);
            }
            RecordOrder::Expire(max) => {
                let count = records.expire(max).await.expect("expired");
                let mut due: Vec<_> = model
                    .iter_mut()
                    .filter(|(_, known)| !known.buried && known.expires_ms < now_ms)
                    .collect();
                due.sort_by_key(|(id, known)| (known.expires_ms, **id));
                let buried = due.into_iter().take(max).map(|(_, known)| known.buried = true).count();
                assert_eq!(count, buried as u64);
            }
            RecordOrder::Pass(ms) => subject.pass(ms).await,
            RecordOrder::Restart => subject.restart(),
        }
        records_are(&subject, &model).await;
    }
}

async fn records_are(subject: &Subject, model: &BTreeMap<u128, RecordModel>) {
    let (records, now_ms) = (subject.engine().records(), subject.now_ms);
    for id in 0..6_u128 {
        let found = records.get(Uuid::from_u128(id)).await.expect("looked up");
        match model.get(&id) {
            None => assert_eq!(found, Lookup::Unknown),
            Some(known) if known.buried || known.expires_ms < now_ms => assert_eq!(found, Lookup::Expired),
            Some(known) => {
                let Lookup::Found(record) = found else { panic!("{found:?}") };
                assert_eq!(record.request.expression, format!("{id}+1"));
                assert_eq!((record.accepted_ms, record.expires_ms), (known.accepted_ms, known.expires_ms));
                assert_eq!(record.outcome, known.outcome);
            }
        }
        let receipt = records.receipt(Uuid::from_u128(id)).await.expect("looked up").is_some();
        assert_eq!(receipt, model.get(&id).is_some_and(|known| known.receipt && !known.buried));
    }
    let open: Vec<_> = model.iter().filter(|(_, known)| !known.buried && known.outcome.is_none()).collect();
    assert_eq!(records.accepted().await.expect("counted"), open.len() as u64);
    let overdue = records.overdue(ms(20), 100).await.expect("listed").into_iter().map(|id| id.as_u128());
    let late = open.into_iter().filter(|(_, known)| known.accepted_ms + 20 < now_ms);
    let mut late: Vec<_> = late.filter(|(_, known)| known.expires_ms >= now_ms).collect();
    late.sort_by_key(|(id, known)| (known.accepted_ms, **id));
    assert_eq!(overdue.collect::<Vec<_>>(), late.into_iter().map(|(id, _)| *id).collect::<Vec<_>>());
}

// The store.

#[derive(Clone, Debug)]
enum StoreOrder {
    Put { key: &'static str, lease: Option<usize> },
    Delete(&'static str),
    Swap { key: &'static str, seen: Seen, put: bool, lease: Option<usize> },
    Grant(u64),
    Renew(usize),
    Revoke(usize),
    Pass(u64),
    Restart,
}

#[derive(Clone, Copy, Debug)]
enum Seen {
    Nothing,
    What,
    Something(u64),
}

fn store_order() -> impl Strategy<Value = StoreOrder> {
    let key = prop::sample::select(vec!["a", "a/", "a/b", "b", "é"]);
    let lease = prop::option::of(0..8_usize);
    let seen = prop_oneof![Just(Seen::Nothing), Just(Seen::What), (0..20_u64).prop_map(Seen::Something)];
    prop_oneof![
        4 => (key.clone(), lease.clone()).prop_map(|(key, lease)| StoreOrder::Put { key, lease }),
        2 => key.clone().prop_map(StoreOrder::Delete),
        4 => (key, seen, any::<bool>(), lease)
            .prop_map(|(key, seen, put, lease)| StoreOrder::Swap { key, seen, put, lease }),
        2 => (1..60_u64).prop_map(StoreOrder::Grant),
        2 => (0..8_usize).prop_map(StoreOrder::Renew),
        1 => (0..8_usize).prop_map(StoreOrder::Revoke),
        3 => (0..40_u64).prop_map(StoreOrder::Pass),
        1 => Just(StoreOrder::Restart),
    ]
}

#[derive(Default)]
struct StoreModel {
    revision: u64,
    /// Key → value, revision, lease.
    entries: BTreeMap<String, (String, u64, Option<usize>)>,
    /// Every lease ever granted: what the engine calls it, its time to live, and its end.
    leases: Vec<(LeaseId, u64, Option<u64>)>,
    changes: Vec<(u64, String, Option<String>)>,
}

impl StoreModel {
    fn put(&mut self, key: &str, value: String, lease: Option<usize>) -> u64 {
        self.revision += 1;
        self.changes.push((self.revision, key.into(), Some(value.clone())));
        self.entries.insert(key.into(), (value, self.revision, lease));
        self.revision
    }

    fn remove(&mut self, key: &str) -> bool {
        let was_there = self.entries.remove(key).is_some();
        if was_there {
            self.revision += 1;
            self.changes.push((self.revision, key.into(), None));
        }
        was_there
    }

    fn end(&mut self, lease: usize) {
        self.leases[lease].2 = None;
        let leased =
            |(key, (_, _, of)): (&String, &(_, _, Option<usize>))| (*of == Some(lease)).then(|| key.clone());
        for key in self.entries.iter().filter_map(leased).collect::<Vec<_>>() {
            self.remove(&key);
        }
    }

    fn pass(&mut self, now_ms: u64) {
        let mut over: Vec<_> = (0..self.leases.len())
            .filter_map(|lease| self.leases[lease].2.filter(|end| *end <= now_ms).map(|end| (end, lease)))
            .collect();
        over.sort_unstable();
        over.into_iter().for_each(|(_, lease)| self.end(lease));
    }

    /// A lease by its place, and whether it lives. One never granted is none that the engine knows.
    fn lease(&self, which: usize) -> (LeaseId, bool) {
        self.leases.get(which).map_or((LeaseId(999), false), |lease| (lease.0, lease.2.is_some()))
    }
}

async fn store_agrees(orders: Vec<StoreOrder>) {
    let (mut subject, mut model) = (Subject::new(), StoreModel::default());
    for (number, order) in orders.into_iter().enumerate() {
        let (now_ms, value) = (subject.now_ms, number.to_string());
        let store = subject.engine().store();
        match order {
            StoreOrder::Put { key, lease } => {
                let known = lease.map(|lease| model.lease(lease));
                let put = store.put(key, value.clone().into(), known.map(|(id, _)| id)).await;
                match known {
                    Some((id, false)) => {
                        assert!(matches!(put, Err(StoreError::LeaseGone(gone)) if gone == id), "{put:?}");
                    }
                    _ => assert_eq!(put.expect("put").0, model.put(key, value, lease)),
                }
            }
            StoreOrder::Delete(key) => {
                assert_eq!(store.delete(key).await.expect("deleted"), model.remove(key));
            }
            StoreOrder::Swap { key, seen, put, lease } => {
                let stands = model.entries.get(key).map(|entry| entry.1);
                let seen = match seen {
                    Seen::Nothing => None,
                    Seen::What => stands,
                    Seen::Something(revision) => Some(revision),
                };
                let known = lease.map(|lease| model.lease(lease));
                let swapped = store
                    .compare_and_swap(
                        key,
                        seen.map(Revision),
                        put.then(|| value.clone().into()),
                        known.map(|(id, _)| id),
                    )
                    .await;
                if seen != stands {
                    assert!(matches!(swapped, Err(StoreError::Conflict { .. })), "{swapped:?}");
                } else if matches!(known, Some((_, false))) {
                    assert!(matches!(swapped, Err(StoreError::LeaseGone(_))), "{swapped:?}");
                } else {
                    if put {
                        model.put(key, value, lease);
                    } else {
                        model.remove(key);
                    }
                    assert_eq!(swapped.expect("swapped").0, model.revision);
                }
            }
            StoreOrder::Grant(ttl_ms) => {
                let lease = store.grant(ms(ttl_ms)).await.expect("granted");
                model.leases.push((lease, ttl_ms, Some(now_ms + ttl_ms)));
            }
            StoreOrder::Renew(which) => {
                let (id, lives) = model.lease(which);
                assert_eq!(store.renew(id).await.is_ok(), lives);
                if lives {
                    let (_, ttl_ms, end_ms) = &mut model.leases[which];
                    *end_ms = Some(now_ms + *ttl_ms);
                }
            }
            StoreOrder::Revoke(which) => {
                store.revoke(model.lease(which).0).await.expect("revoked");
                if which < model.leases.len() {
                    model.end(which);
                }
            }
            StoreOrder::Pass(ms) => {
                subject.pass(ms).await;
                model.pass(subject.now_ms);
            }
            StoreOrder::Restart => subject.restart(),
        }
        store_is(subject.engine().store(), &model).await;
    }
    // Whoever watched from the beginning was told all of it.
    let mut watch = subject.engine().store().watch("", Revision(0)).await.expect("watching");
    for (revision, key, value) in model.changes {
        let change = tokio::time::timeout(Duration::from_secs(20), watch.recv()).await.expect("it comes");
        let change = change.expect("it goes on").expect("a change");
        assert_eq!((change.revision().0, change.key()), (revision, key.as_str()));
        let told = if let Change::Put(entry) = &change { Some(entry.value.clone()) } else { None };
        assert_eq!(told, value.map(Into::into));
    }
    assert!(watch.try_recv().is_err());
}

async fn store_is(store: &dyn Store, model: &StoreModel) {
    for prefix in ["", "a", "a/", "é", "z"] {
        let (entries, revision) = store.list(prefix).await.expect("listed");
        assert_eq!(revision.0, model.revision);
        let stands = entries.into_iter().map(|entry| {
            let value = String::from_utf8(entry.value.to_vec()).expect("text");
            (entry.key, value, entry.revision.0)
        });
        let expected = model.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let expected = expected.map(|(key, (value, revision, _))| (key.clone(), value.clone(), *revision));
        assert_eq!(stands.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn queues_do_as_the_model(orders in prop::collection::vec(queue_order(), 1..60)) {
        run(queue_agrees(orders));
    }

    #[test]
    fn records_do_as_the_model(orders in prop::collection::vec(record_order(), 1..60)) {
        run(records_agree(orders));
    }

    #[test]
    fn the_store_does_as_the_model(orders in prop::collection::vec(store_order(), 1..60)) {
        run(store_agrees(orders));
    }
}
