//! The admin: sees that a pod is down or does not answer, says which fault it is, and publishes it.
//!
//! It looks in two ways: at what the cluster service writes of a pod (that it ended), and by probes of
//! the gRPC health protocol (that it hangs). What it finds it looks up in the set's record: the worker
//! is fault 1, the primary fault 2, a backup fault 3. Dispatch to that worker pauses, the fault is kept
//! in the store, and the event bus tells the cluster service, which replaces the member.

mod probe;

use crate::{
    config::Config,
    engine::Engine,
    queue::{QueueError, QueueName},
    set::{FAULTS, Fault, Member, MemberState, SETS, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::{Change, StoreError},
    trouble::Trouble,
};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// A fault of a pod that is still down is published again after this: events may be lost with whoever
/// took them. The cluster service knows a repetition by the incarnation.
const REPEAT: Duration = Duration::from_secs(3);

/// Faults kept in the store for people to look at; the oldest go.
const HISTORY_MAX: usize = 1000;

/// What the admin could not do; it tries again.
#[derive(Debug, thiserror::Error)]
enum AdminError {
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The event bus refused.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Runs until shutdown.
pub async fn run(config: Arc<Config>, engine: Arc<dyn Engine>, mut shutdown: Shutdown) {
    let (missed, mut misses) = mpsc::channel(64);
    let mut admin = Admin {
        engine,
        sets: BTreeMap::new(),
        probes: probe::Probes::new(&config.timeouts, missed),
        published: HashMap::new(),
    };
    let mut trouble = Trouble::of("admin");
    while !*shutdown.borrow() {
        // What was missed meanwhile is seen by listing again.
        if let Err(error) = admin.follow(&mut misses, &mut trouble, &mut shutdown).await {
            trouble.pause(&error, &mut shutdown).await;
        }
    }
}

struct Admin {
    engine: Arc<dyn Engine>,
    sets: BTreeMap<String, SetRecord>,
    probes: probe::Probes,
    /// Faults of pods that are still down, and when they were last published.
    published: HashMap<(String, u64), (Instant, Fault)>,
}

impl Admin {
    /// Lists the sets and follows them, until shutdown or until changes were missed.
    async fn follow(
        &mut self,
        misses: &mut mpsc::Receiver<probe::Miss>,
        trouble: &mut Trouble,
        shutdown: &mut Shutdown,
    ) -> Result<(), AdminError> {
        let engine = Arc::clone(&self.engine);
        let (entries, revision) = engine.store().list(SETS).await?;
        let mut changes = engine.store().watch(SETS, revision.next()).await?;
        self.sets = entries
            .into_iter()
            .filter_map(|entry| Some((entry.key, serde_json::from_slice(&entry.value).ok()?)))
            .collect();
        let mut again = tokio::time::interval(REPEAT);
        loop {
            self.look().await?;
            tokio::select! {
                () = shutdown::requested(shutdown) => return Ok(()),
                change = changes.recv() => match change {
                    Some(Ok(Change::Put(entry))) => {
                        if let Ok(set) = serde_json::from_slice(&entry.value) {
                            self.sets.insert(entry.key, set);
                        }
                    }
                    Some(Ok(Change::Deleted { key, .. })) => {
                        self.sets.remove(&key);
                    }
                    Some(Err(StoreError::Compacted(_))) | None => return Ok(()),
                    Some(Err(error)) => return Err(error.into()),
                },
                Some(miss) = misses.recv() => self.on_miss(miss).await?,
                _ = again.tick() => {}
            }
            trouble.over();
        }
    }

    /// Probes those that should answer; publishes those that are down.
    async fn look(&mut self) -> Result<(), AdminError> {
        self.probes.follow(self.sets.values());
        let down: Vec<_> = self
            .sets
            .values()
            .filter(|set| set.state != SetState::Draining)
            .flat_map(|set| set.members().map(move |member| (set, member)))
            .filter(|(_, member)| member.state == MemberState::Down)
            .map(|(set, member)| (set.name.clone(), member.clone()))
            .collect();
        self.published.retain(|(pod, incarnation), _| {
            down.iter().any(|(_, member)| member.pod == *pod && member.incarnation == *incarnation)
        });
        for (set, member) in down {
            self.publish(&set, &member, "the process ended").await?;
        }
        Ok(())
    }

    /// A pod has missed its probes: it is down, whatever its process does.
    async fn on_miss(&mut self, miss: probe::Miss) -> Result<(), AdminError> {
        let found = self.sets.iter().find_map(|(key, set)| Some((key, set, set.member(&miss.pod)?)));
        let Some((key, set, member)) = found else { return Ok(()) };
        if member.incarnation != miss.incarnation || member.state != MemberState::Ready {
            return Ok(());
        }
        let (key, name, member) = (key.clone(), set.name.clone(), member.clone());
        tracing::warn!(set = %name, pod = %miss.pod, probes = miss.probes, "probes missed");
        self.mark_down(&key, &member).await?;
        self.publish(&name, &member, "probes missed").await
    }

    async fn mark_down(&mut self, key: &str, member: &Member) -> Result<(), AdminError> {
        let store = self.engine.store();
        loop {
            let Some(entry) = store.get(key).await? else { return Ok(()) };
            let Ok(mut set) = serde_json::from_slice::<SetRecord>(&entry.value) else { return Ok(()) };
            if set.worker.pod == member.pod && set.state == SetState::Ready {
                set.state = SetState::Paused;
            }
            match set.member_mut(&member.pod) {
                Some(known) if known.incarnation == member.incarnation => known.state = MemberState::Down,
                _ => return Ok(()),
            }
            let value = serde_json::to_vec(&set).expect("a record is plain data");
            match store.compare_and_swap(key, Some(entry.revision), Some(value.into()), None).await {
                Ok(_) => {
                    self.sets.insert(key.into(), set);
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn publish(&mut self, set: &str, member: &Member, seen: &str) -> Result<(), AdminError> {
        let key = (member.pod.clone(), member.incarnation);
        if self.published.get(&key).is_some_and(|(at, _)| at.elapsed() < REPEAT) {
            return Ok(());
        }
        let fault = match self.published.get(&key) {
            Some((_, fault)) => fault.clone(),
            None => Fault {
                id: uuid::Uuid::now_v7(),
                kind: self.classify(set, member).await,
                set: set.into(),
                pod: member.pod.clone(),
                incarnation: member.incarnation,
                seen: seen.into(),
            },
        };
        let value = bytes::Bytes::from(serde_json::to_vec(&fault).expect("a fault is plain data"));
        // Whoever repairs it first, then those who look at it later.
        self.engine.queue(&QueueName::events()).await?.send(vec![value]).await?;
        if !self.published.contains_key(&key) {
            tracing::warn!(%set, pod = %fault.pod, kind = fault.kind, %seen, "fault");
            keep(&*self.engine, &fault).await?;
        }
        self.published.insert(key, (Instant::now(), fault));
        Ok(())
    }

    /// 1 for the worker; 2 for the replica that led when it was lost, as itself said last or the
    /// others say still; else 3.
    async fn classify(&self, set: &str, member: &Member) -> u8 {
        let Some(set) = self.sets.values().find(|known| known.name == set) else { return 3 };
        let Some(index) = set.index_of(&member.pod) else { return 1 };
        if self.probes.led(&member.pod) {
            return 2;
        }
        let others =
            set.replicas.iter().filter(|other| other.pod != member.pod && other.state == MemberState::Ready);
        for address in others.filter_map(|other| other.address.as_deref()) {
            if let Some(primary) = probe::primary(address).await {
                return if primary == index { 2 } else { 3 };
            }
        }
        3
    }
}

/// Keeps a fault in the store for people to look at, and forgets the oldest.
///
/// # Errors
/// When the store is gone.
pub async fn keep(engine: &dyn Engine, fault: &Fault) -> Result<(), StoreError> {
    let value = serde_json::to_vec(fault).expect("a fault is plain data");
    engine.store().put(&format!("{FAULTS}{}", fault.id), value.into(), None).await?;
    let (kept, _) = engine.store().list(FAULTS).await?;
    for entry in kept.iter().take(kept.len().saturating_sub(HISTORY_MAX)) {
        engine.store().delete(&entry.key).await?;
    }
    Ok(())
}
