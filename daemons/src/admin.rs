//! The admin: sees that a pod is down or does not answer, says which fault it is, and publishes it.
//!
//! It looks in two ways: at what the cluster service writes of a pod (that it ended), and by probes of
//! the gRPC health protocol (that it hangs). What it finds it looks up in the set's record: the worker
//! is fault 1, the primary fault 2, a backup fault 3. Dispatch to that worker pauses, the fault is kept
//! in the store, and the event bus tells the cluster service, which replaces the member.
//!
//! That a replica lies it can't see: others say so ([`crate::witness`]), and it decides what is enough
//! (`cases`). A replica that is convicted is published as a fault too, and its set is replaced.

mod cases;
mod probe;
mod witnesses;

use crate::{
    config::Config,
    engine::Engine,
    fault::{Fault, How, keep},
    queue::{QueueError, QueueName},
    set::{LOST, Member, MemberState, SETS, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::{Change, Revision, StoreError},
    trouble::Trouble,
    wires::Wires,
};
use cases::Cases;
use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use witnesses::Said;

/// A fault of a pod that is still down is published again after this: events may be lost with whoever
/// took them. The cluster service knows a repetition by the incarnation.
const REPEAT: Duration = Duration::from_secs(3);

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
pub async fn run(config: Arc<Config>, engine: Arc<dyn Engine>, wires: Wires, mut shutdown: Shutdown) {
    let (missed, mut misses) = mpsc::channel(64);
    let (said, mut testimony) = mpsc::channel(64);
    let mut admin = Admin {
        engine,
        wires: wires.clone(),
        sets: BTreeMap::new(),
        revisions: HashMap::new(),
        probes: probe::Probes::new(&config.timeouts, wires.clone(), missed),
        witnesses: witnesses::Witnesses::new(wires, said),
        cases: None,
        published: HashMap::new(),
        open: Vec::new(),
    };
    let mut trouble = Trouble::of("admin");
    while !*shutdown.borrow() {
        // What was missed meanwhile is seen by listing again.
        let heard = (&mut misses, &mut testimony);
        if let Err(error) = admin.follow(heard, &mut trouble, &mut shutdown).await {
            trouble.pause(&error, &mut shutdown).await;
        }
    }
}

struct Admin {
    engine: Arc<dyn Engine>,
    wires: Wires,
    sets: BTreeMap<String, SetRecord>,
    /// The revisions of these records: the watch may still show what this admin has changed since.
    revisions: HashMap<String, Revision>,
    probes: probe::Probes,
    witnesses: witnesses::Witnesses,
    /// What speaks against replicas; none until the store has said what is known.
    cases: Option<Cases>,
    /// Faults of pods that are still down, and when they were last published.
    published: HashMap<(String, u64), (Instant, Fault)>,
    /// Faults whose end is waited for, since when; one at most for each pod that there is.
    open: Vec<(Instant, Fault)>,
}

impl Admin {
    /// Lists the sets and follows them, until shutdown or until changes were missed.
    async fn follow(
        &mut self,
        (misses, testimony): (&mut mpsc::Receiver<probe::Miss>, &mut mpsc::Receiver<Said>),
        trouble: &mut Trouble,
        shutdown: &mut Shutdown,
    ) -> Result<(), AdminError> {
        let engine = Arc::clone(&self.engine);
        if self.cases.is_none() {
            self.cases = Some(Cases::load(engine.store()).await?);
        }
        let (entries, revision) = engine.store().list(SETS).await?;
        let mut changes = engine.store().watch(SETS, revision.next()).await?;
        self.revisions = entries.iter().map(|entry| (entry.key.clone(), entry.revision)).collect();
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
                    Some(Ok(change)) if self.is_known(&change) => {}
                    Some(Ok(Change::Put(entry))) => {
                        self.revisions.insert(entry.key.clone(), entry.revision);
                        if let Ok(set) = serde_json::from_slice(&entry.value) {
                            self.sets.insert(entry.key, set);
                        }
                    }
                    Some(Ok(Change::Deleted { key, .. })) => {
                        self.revisions.remove(&key);
                        self.sets.remove(&key);
                    }
                    Some(Err(StoreError::Compacted(_))) | None => return Ok(()),
                    Some(Err(error)) => return Err(error.into()),
                },
                Some(miss) = misses.recv() => self.on_miss(miss).await?,
                Some(said) = testimony.recv() => self.on_testimony(said).await?,
                _ = again.tick() => {}
            }
            trouble.over();
        }
    }

    /// Whether a change is of before the record that is known.
    fn is_known(&self, change: &Change) -> bool {
        self.revisions.get(change.key()).is_some_and(|known| change.revision() <= *known)
    }

    /// Probes those that should answer; publishes those that are down.
    async fn look(&mut self) -> Result<(), AdminError> {
        self.probes.follow(self.sets.values());
        self.witnesses.follow(self.sets.values());
        self.close().await?;
        let down: Vec<_> = self
            .sets
            .values()
            .filter(|set| set.state != SetState::Draining)
            .flat_map(|set| set.members().map(move |member| (set, member)))
            .filter(|(_, member)| member.state == MemberState::Down)
            .map(|(set, member)| (set.name.clone(), member.clone()))
            .collect();
        self.published.retain(|(pod, incarnation), (_, fault)| {
            let is_down =
                down.iter().any(|(_, member)| member.pod == *pod && member.incarnation == *incarnation);
            is_down || (fault.how == How::Lying && self.sets.values().any(|set| set.name == fault.set))
        });
        for (set, member) in down {
            self.publish(&set, &member, How::Killed, "the process ended").await?;
        }
        self.press().await
    }

    /// Publishes convictions again whose sets are still there: events may be lost.
    async fn press(&mut self) -> Result<(), AdminError> {
        let groups: HashSet<_> = self.sets.values().filter_map(SetRecord::group).collect();
        if let Some(cases) = &mut self.cases {
            cases.retain(|group| groups.contains(group));
        }
        let convicted = self.cases.iter().flat_map(Cases::convicted);
        let due: Vec<_> = convicted.filter(|fault| self.is_due(fault)).cloned().collect();
        for fault in due {
            self.send(fault).await?;
        }
        Ok(())
    }

    fn is_due(&self, fault: &Fault) -> bool {
        let key = (fault.pod.clone(), fault.incarnation);
        self.published.get(&key).is_none_or(|(at, _)| at.elapsed() >= REPEAT)
    }

    /// A witness says that a replica lies.
    async fn on_testimony(&mut self, said: Said) -> Result<(), AdminError> {
        let set = self.sets.values().find(|set| set.name == said.set);
        let Some(set) = set.filter(|set| set.group().as_ref() == Some(&said.group)).cloned() else {
            return Ok(());
        };
        let Some(cases) = &mut self.cases else { return Ok(()) };
        let Some(heard) = cases.hear(&set, &said).filter(|heard| heard.news) else { return Ok(()) };
        let mut fault = heard.fault;
        tracing::warn!(
            set = %set.name, pod = %fault.pod, accuser = %said.pod, kind = said.accusation.kind,
            proven = heard.proof.is_some(), detail = said.accusation.detail, "a replica is accused"
        );
        if heard.convicts {
            let culprit = set.member(&fault.pod).expect("was accused as a member");
            if fault.kind == 3 {
                fault.kind = self.classify(&set.name, culprit).await;
            }
            tracing::warn!(set = %set.name, pod = %fault.pod, kind = fault.kind, seen = %fault.seen, "fault");
        }
        if let Some(proof) = &heard.proof {
            let text = serde_json::to_vec(proof).expect("a proof is plain data");
            self.engine.store().put(&cases::proof_key(&fault), text.into(), None).await?;
        }
        keep(&*self.engine, &fault).await?;
        if let Some(cases) = &mut self.cases {
            cases.update(&fault);
        }
        if heard.convicts {
            self.open.push((Instant::now(), fault.clone()));
            self.send(fault).await?;
        }
        Ok(())
    }

    /// Sees what was replaced, and notes how long it took.
    async fn close(&mut self) -> Result<(), AdminError> {
        let (mut replaced, mut still) = (Vec::new(), Vec::new());
        for (since, fault) in std::mem::take(&mut self.open) {
            let outcome = match self.outcome(&fault) {
                // A replica that forgot its promises does not come back: its whole set was replaced.
                None if fault.how != How::Lying => self.is_replaced_whole(&fault.set).await,
                outcome => outcome,
            };
            match outcome {
                Some(true) => replaced.push((since, fault)),
                Some(false) => still.push((since, fault)),
                None => {}
            }
        }
        self.open = still;
        for (since, fault) in replaced {
            let replaced_ms = u64::try_from(since.elapsed().as_millis()).ok();
            // Somebody may have said more of it meanwhile.
            let known = self.cases.as_ref().and_then(|cases| cases.get(&fault)).unwrap_or(&fault).clone();
            let fault = Fault { replaced_ms, ..known };
            keep(&*self.engine, &fault).await?;
            if let Some(cases) = &mut self.cases {
                cases.update(&fault);
            }
        }
        Ok(())
    }

    /// Whether a set that goes, or is gone, has been replaced by another; none when it has not.
    async fn is_replaced_whole(&self, set: &str) -> Option<bool> {
        match self.engine.store().get(&format!("{LOST}{set}")).await {
            Ok(lost) => lost.map(|_| true),
            // Looked for again.
            Err(_) => Some(false),
        }
    }

    /// Whether what was struck has been replaced; none when it went without being.
    fn outcome(&self, fault: &Fault) -> Option<bool> {
        let set = self.sets.values().find(|set| set.name == fault.set);
        if let (How::Lying, Some(group)) = (fault.how, fault.lie.as_ref().map(|lie| &lie.group)) {
            let function = fault.set.rsplit_once('-')?.0;
            let successors = self.sets.values().filter(|set| {
                set.function.name() == function
                    && set.state == SetState::Ready
                    && set.group().as_ref() != Some(group)
            });
            return Some(successors.count() > 0).filter(|replaced| *replaced || set.is_some());
        }
        let member = set.filter(|set| set.state != SetState::Draining)?.member(&fault.pod)?;
        Some(member.incarnation > fault.incarnation && member.state == MemberState::Ready)
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
        self.publish(&name, &member, How::Stopped, "probes missed").await
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
                Ok(revision) => {
                    self.revisions.insert(key.into(), revision);
                    self.sets.insert(key.into(), set);
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn publish(&mut self, set: &str, member: &Member, how: How, seen: &str) -> Result<(), AdminError> {
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
                how,
                lie: None,
                replaced_ms: None,
            },
        };
        let first = !self.published.contains_key(&key);
        // Whoever repairs it first, then those who look at it later.
        self.send(fault.clone()).await?;
        if first {
            tracing::warn!(%set, pod = %fault.pod, kind = fault.kind, %seen, "fault");
            keep(&*self.engine, &fault).await?;
            self.open.push((Instant::now(), fault));
        }
        Ok(())
    }

    /// Puts a fault on the event bus.
    async fn send(&mut self, fault: Fault) -> Result<(), AdminError> {
        let value = bytes::Bytes::from(serde_json::to_vec(&fault).expect("a fault is plain data"));
        self.engine.queue(&QueueName::events()).await?.send(vec![value]).await?;
        self.published.insert((fault.pod.clone(), fault.incarnation), (Instant::now(), fault));
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
        for (pod, address) in others.filter_map(|other| Some((&other.pod, other.address.as_deref()?))) {
            if let Some(primary) = probe::primary(&self.wires, pod, address).await {
                return if primary == index { 2 } else { 3 };
            }
        }
        3
    }
}
