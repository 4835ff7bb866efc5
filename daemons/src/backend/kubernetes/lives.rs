//! The lives of pods, as the watch and the conversations show them: what goes in is what Kubernetes and
//! the pods say, what comes out is [`PodEvent`]s and objects that have to go.

use super::{
    converse::{Heard, converse},
    manifest::{ATTACH_PORT, INCARNATION, POD},
    status::{self, Condition},
};
use crate::{
    backend::{PodEvent, RunningPod, Stop},
    pod::{Said, Told},
    tls::Name,
    wires::Wires,
};
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Between tries to remove the object of a pod that has ended.
const REMOVE_AGAIN: Duration = Duration::from_secs(5);

/// How much longer than its grace a pod that is being deleted is believed to be ending.
const OVERTIME: Duration = Duration::from_secs(3);

/// All lives that Kubernetes has an object of, by the object's name.
pub(super) struct Lives {
    lives: BTreeMap<String, Life>,
    /// How pods are spoken to.
    wires: Wires,
    /// From its order to its running.
    pod_start: Duration,
    events: mpsc::UnboundedSender<PodEvent>,
    /// Objects that have to go.
    remove: mpsc::UnboundedSender<String>,
    /// What pods say.
    heard: mpsc::Sender<(String, Heard)>,
}

struct Life {
    pod: String,
    incarnation: u64,
    state: State,
    /// Since when it is known.
    since: Instant,
    /// Whether the watch has shown it: one that was made just now may not be in a list yet.
    shown: bool,
    /// Why it does not run yet.
    why: String,
    said: Vec<Said>,
    /// The latest of each kind.
    told: watch::Sender<Vec<Told>>,
    /// Whether it answers.
    answers: bool,
    /// How this service has had it deleted.
    stopping: Option<Stop>,
    /// Why it is being deleted, and when it will have ended whatever is seen of it.
    leaving: Option<(String, Instant)>,
    /// Ends with the life.
    talk: JoinSet<()>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waits,
    Runs,
    /// It was told, and its object has to go; since when that was last tried.
    Ended(Instant),
}

impl Life {
    fn new(pod: &str, incarnation: u64, now: Instant) -> Self {
        Self {
            pod: pod.into(),
            incarnation,
            state: State::Waits,
            since: now,
            shown: false,
            why: "its node has not started it".into(),
            said: Vec::new(),
            told: watch::channel(Vec::new()).0,
            answers: false,
            stopping: None,
            leaving: None,
            talk: JoinSet::new(),
        }
    }

    fn is_over(&self) -> bool {
        matches!(self.state, State::Ended(_))
    }
}

impl Lives {
    pub(super) fn new(
        pod_start: Duration,
        wires: Wires,
        events: mpsc::UnboundedSender<PodEvent>,
        remove: mpsc::UnboundedSender<String>,
        heard: mpsc::Sender<(String, Heard)>,
    ) -> Self {
        Self { lives: BTreeMap::new(), wires, pod_start, events, remove, heard }
    }

    /// One was made, as this object.
    pub(super) fn made(&mut self, object: &str, pod: &str, incarnation: u64, now: Instant) {
        // The watch may have been quicker.
        self.lives.entry(object.into()).or_insert_with(|| Life::new(pod, incarnation, now));
    }

    /// An object is there, or has changed.
    pub(super) fn show(&mut self, object: &Pod, now: Instant) {
        let labels = object.metadata.labels.as_ref();
        let label = |name: &str| labels.and_then(|labels| labels.get(name));
        let incarnation = label(INCARNATION).and_then(|text| text.parse().ok());
        let (Some(name), Some(pod), Some(incarnation)) = (&object.metadata.name, label(POD), incarnation)
        else {
            return tracing::warn!(object = object.metadata.name, "not a pod of this platform");
        };
        if !self.lives.contains_key(name) {
            self.meet(name, pod, incarnation, now);
        }
        let life = self.lives.get_mut(name).expect("met above");
        life.shown = true;
        if life.is_over() {
            return;
        }
        if object.metadata.deletion_timestamp.is_some() && life.leaving.is_none() {
            let why = if life.stopping.is_some() { "stopped".into() } else { status::deletion(object) };
            let grace = object.metadata.deletion_grace_period_seconds.unwrap_or(0);
            let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
            life.leaving = Some((why, now + grace + OVERTIME));
        }
        match status::condition(object) {
            Condition::Ended(status) => return self.end(name, &status, now),
            Condition::Waiting(why) => life.why = why,
            Condition::Runs(address) if life.state == State::Waits => {
                let Ok(address) = address.parse::<IpAddr>() else {
                    return self.end(name, &format!("its address {address} makes no sense"), now);
                };
                life.state = State::Runs;
                let (pod, incarnation) = (life.pod.clone(), life.incarnation);
                let address = SocketAddr::new(address, ATTACH_PORT);
                let to = (self.wires.clone(), Name::of_pod(&life.pod));
                let told = life.told.subscribe();
                life.talk.spawn(converse(name.clone(), to, address, told, self.heard.clone()));
                self.tell_of(PodEvent::Started { pod, incarnation, pid: None });
            }
            Condition::Runs(_) => {}
        }
        // One that does not answer any more has ended already, however long its object stays.
        if self.lives[name].leaving.is_some() && !self.lives[name].answers {
            self.end(name, "", now);
        }
    }

    /// One that was not known: an earlier life of its pod gives way; of two of the same, the one that was
    /// known first stays.
    fn meet(&mut self, object: &str, pod: &str, incarnation: u64, now: Instant) {
        let others = self.lives.iter().filter(|(_, life)| life.pod == pod && !life.is_over());
        let others: Vec<_> = others.map(|(name, life)| (name.clone(), life.incarnation)).collect();
        let mut life = Life::new(pod, incarnation, now);
        if others.iter().any(|(_, other)| *other >= incarnation) {
            life.state = State::Ended(now);
            let _ = self.remove.send(object.into());
        }
        self.lives.insert(object.into(), life);
        for (earlier, _) in others.into_iter().filter(|(_, other)| *other < incarnation) {
            self.end(&earlier, "another life took its place", now);
        }
    }

    /// An object is gone.
    pub(super) fn gone(&mut self, object: &str) {
        let Some(life) = self.lives.remove(object).filter(|life| !life.is_over()) else { return };
        let status = match (life.stopping, life.leaving) {
            (Some(_), _) => "stopped".into(),
            (None, Some((why, _))) => why,
            (None, None) => "deleted".into(),
        };
        self.tell_of(PodEvent::Ended { pod: life.pod, incarnation: life.incarnation, status });
    }

    /// There is no such object: when the watch has not shown it, it never will.
    pub(super) fn missing(&mut self, object: &str) {
        if self.lives.get(object).is_some_and(|life| !life.shown) {
            self.gone(object);
        }
    }

    /// These are all that there are.
    pub(super) fn listed(&mut self, objects: &BTreeSet<String>) {
        let unseen = self.lives.iter().filter(|(object, life)| life.shown && !objects.contains(*object));
        let unseen: Vec<_> = unseen.map(|(object, _)| object.clone()).collect();
        for object in unseen {
            self.gone(&object);
        }
    }

    /// Something was heard of the pod itself.
    pub(super) fn hear(&mut self, object: &str, heard: Heard, now: Instant) {
        let Some(life) = self.lives.get_mut(object).filter(|life| !life.is_over()) else { return };
        match heard {
            Heard::Connected => life.answers = true,
            Heard::Lost => {
                life.answers = false;
                if life.leaving.is_some() {
                    self.end(object, "", now);
                }
            }
            Heard::Said(said) => {
                let kind = std::mem::discriminant(&said);
                life.said.retain(|before| std::mem::discriminant(before) != kind);
                life.said.push(said.clone());
                let (pod, incarnation) = (life.pod.clone(), life.incarnation);
                self.tell_of(PodEvent::Said { pod, incarnation, said });
            }
        }
    }

    /// What only time changes.
    pub(super) fn tick(&mut self, now: Instant) {
        let mut late = Vec::new();
        for (object, life) in &mut self.lives {
            match &mut life.state {
                State::Ended(tried) if now.duration_since(*tried) >= REMOVE_AGAIN => {
                    *tried = now;
                    let _ = self.remove.send(object.clone());
                }
                State::Ended(_) => {}
                State::Waits if now.duration_since(life.since) >= self.pod_start => {
                    late.push((
                        object.clone(),
                        format!("it did not start within {:?}: {}", self.pod_start, life.why),
                    ));
                }
                _ if life.leaving.as_ref().is_some_and(|(_, by)| now >= *by) => {
                    late.push((object.clone(), String::new()));
                }
                _ => {}
            }
        }
        for (object, status) in late {
            self.end(&object, &status, now);
        }
    }

    /// It has ended: says so, and has its object removed.
    fn end(&mut self, object: &str, status: &str, now: Instant) {
        let Some(life) = self.lives.get_mut(object) else { return };
        life.state = State::Ended(now);
        life.talk.abort_all();
        let status = match &life.leaving {
            Some((why, _)) if status.is_empty() => why.clone(),
            Some((why, _)) => format!("{why} ({status})"),
            None => status.to_owned(),
        };
        let (pod, incarnation) = (life.pod.clone(), life.incarnation);
        self.tell_of(PodEvent::Ended { pod, incarnation, status });
        let _ = self.remove.send(object.into());
    }

    /// The objects of a pod that have not been asked to end, or not as firmly.
    pub(super) fn to_stop(&self, pod: &str, how: Stop) -> Vec<String> {
        let asked = |life: &Life| life.stopping.is_some_and(|asked| asked == how || asked == Stop::Now);
        let of_pod = self.lives.iter().filter(|(_, life)| life.pod == pod && !life.is_over());
        of_pod.filter(|(_, life)| !asked(life)).map(|(object, _)| object.clone()).collect()
    }

    /// One is asked to end; gives back how it was before.
    pub(super) fn stopping(&mut self, object: &str, how: Option<Stop>) -> Option<Stop> {
        std::mem::replace(&mut self.lives.get_mut(object)?.stopping, how)
    }

    /// Has the latest life of a pod told something.
    pub(super) fn tell(&self, pod: &str, told: &Told) {
        let of_pod = self.lives.values().filter(|life| life.pod == pod && !life.is_over());
        if let Some(life) = of_pod.max_by_key(|life| life.incarnation) {
            let kind = std::mem::discriminant(told);
            life.told.send_modify(|all| {
                all.retain(|before| std::mem::discriminant(before) != kind);
                all.push(told.clone());
            });
        }
    }

    /// Those that have not ended.
    pub(super) fn running(&self) -> Vec<RunningPod> {
        let running = self.lives.values().filter(|life| !life.is_over());
        let running = running.map(|life| RunningPod {
            pod: life.pod.clone(),
            incarnation: life.incarnation,
            pid: None,
            said: life.said.clone(),
        });
        running.collect()
    }

    fn tell_of(&self, event: PodEvent) {
        // Nobody listens any more: the service is ending.
        let _ = self.events.send(event);
    }
}

#[cfg(test)]
mod tests;
