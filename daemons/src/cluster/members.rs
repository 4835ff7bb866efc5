//! What becomes of members: they listen, are ready, end, and are started again after a fault.

use super::{Cluster, ClusterError, RESTART_PAUSE, apply_said, peers_of};
use crate::{
    backend::PodEvent,
    fault::{Fault, How},
    pod::Said,
    set::{CONDEMNED, Member, MemberState, SetRecord, SetState},
};
use std::{collections::BTreeMap, time::Instant};

impl SetRecord {
    /// All members, the worker first.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        std::iter::once(&self.worker).chain(&self.replicas)
    }

    /// A member by its pod.
    #[must_use]
    pub fn member(&self, pod: &str) -> Option<&Member> {
        self.members().find(|member| member.pod == pod)
    }

    /// A member by its pod, to be changed.
    pub fn member_mut(&mut self, pod: &str) -> Option<&mut Member> {
        std::iter::once(&mut self.worker).chain(&mut self.replicas).find(|member| member.pod == pod)
    }

    /// The index of a replica; the worker has none.
    #[must_use]
    pub fn index_of(&self, pod: &str) -> Option<u32> {
        (0u32..).zip(&self.replicas).find(|(_, replica)| replica.pod == pod).map(|(index, _)| index)
    }
}

impl Cluster {
    /// The member that runs as `pod`.
    pub(super) fn member(&self, pod: &str) -> Option<&Member> {
        self.sets.values().find_map(|set| set.member(pod))
    }

    fn set_of(&self, pod: &str) -> Option<&SetRecord> {
        self.sets.values().find(|set| set.member(pod).is_some())
    }

    /// Writes what happened into the records, one write for each set, and tells its members when an
    /// address changed.
    pub(super) async fn on_pod_events(&mut self, events: Vec<PodEvent>) -> Result<(), ClusterError> {
        let mut by_set: BTreeMap<String, Vec<PodEvent>> = BTreeMap::new();
        for event in events {
            let (pod, incarnation) = event.of();
            let current =
                self.set_of(pod).filter(|set| set.member(pod).is_some_and(|m| m.incarnation == incarnation));
            if let Some(name) = current.map(|set| set.name.clone()) {
                by_set.entry(name).or_default().push(event);
            }
        }
        for (name, events) in by_set {
            let before = self.sets[&name].clone();
            self.update(&name, |set| {
                for event in &events {
                    apply(set, event);
                }
            })
            .await?;
            let Some(after) = self.sets.get(&name) else { continue };
            for event in &events {
                log(&name, event, after.state);
            }
            let listened =
                events.iter().any(|e| matches!(e, PodEvent::Said { said: Said::Listening { .. }, .. }));
            if listened && !after.replicas.is_empty() {
                // To all when an address is new; to those who just came up in any case.
                let changed = peers_of(&before) != peers_of(after);
                let told = peers_of(after);
                let whom = after.members().filter(|m| changed || events.iter().any(|e| e.of().0 == m.pod));
                for member in whom {
                    self.backend.tell(&member.pod, told.clone()).await?;
                }
                self.tell_order(&name).await?;
            }
            self.start_newcomers(&before).await?;
        }
        Ok(())
    }

    /// A fault from the event bus: the member is started again, unless that has happened already.
    pub(super) async fn on_fault(&mut self, fault: Fault) -> Result<(), ClusterError> {
        if fault.how == How::Lying {
            return self.condemn(&fault).await;
        }
        let current = self.member(&fault.pod).is_some_and(|member| member.incarnation == fault.incarnation);
        if !current || self.due.iter().any(|(_, due)| due.pod == fault.pod) {
            return Ok(());
        }
        if self.set_of(&fault.pod).is_some_and(|set| self.has_forgotten(set, &fault.pod)) {
            // It stays down until another one has its place, and is published again until then.
            return self.replace_replica(&fault.set, &fault.pod).await;
        }
        tracing::info!(set = %fault.set, pod = %fault.pod, kind = fault.kind, seen = %fault.seen, "fault");
        let now = Instant::now();
        let (restarts, last) = self.restarts.entry(fault.pod.clone()).or_insert((0, now));
        *last = now;
        *restarts += 1;
        if *restarts == 1 {
            return self.start_again(&fault.pod, fault.incarnation).await;
        }
        let pause = RESTART_PAUSE.0.saturating_mul(2u32.saturating_pow(*restarts - 2)).min(RESTART_PAUSE.1);
        *last = now + pause;
        self.due.push((now + pause, fault));
        Ok(())
    }

    /// A replica lied. To start it again would change nothing: it has its keys, and a journal that nobody
    /// can trust. Functions have no state, so a fresh set takes the place of the whole one, which serves
    /// on until then: with 2f+1 others its answers are right.
    async fn condemn(&mut self, fault: &Fault) -> Result<(), ClusterError> {
        let group = fault.lie.as_ref().map(|lie| &lie.group);
        let accused = self.sets.get(&fault.set).and_then(SetRecord::group);
        if accused.is_none() || accused.as_ref() != group || self.replaced.contains(&fault.set) {
            return Ok(());
        }
        self.replace_whole(CONDEMNED, &fault.set, &fault.pod, &fault.seen).await
    }

    /// Has a fresh set take the place of a whole one, which serves on until then.
    pub(super) async fn replace_whole(
        &mut self,
        kept: &str,
        set: &str,
        pod: &str,
        why: &str,
    ) -> Result<(), ClusterError> {
        tracing::warn!(set, pod, why, "the set is replaced");
        self.engine.store().put(&format!("{kept}{set}"), pod.to_owned().into(), None).await?;
        self.replaced.insert(set.into());
        Ok(())
    }

    /// Starts a member with the identity and the files it had, and a new incarnation.
    pub(super) async fn start_again(&mut self, pod: &str, incarnation: u64) -> Result<(), ClusterError> {
        let Some(name) =
            self.set_of(pod).filter(|set| set.state != SetState::Draining).map(|set| set.name.clone())
        else {
            return Ok(());
        };
        if self.has_forgotten(&self.sets[&name], pod) {
            return self.replace_replica(&name, pod).await;
        }
        self.update(&name, |set| {
            if set.worker.pod == pod && set.state == SetState::Ready {
                set.state = SetState::Paused;
            }
            if let Some(member) = set.member_mut(pod).filter(|member| member.incarnation == incarnation) {
                member.state = MemberState::Starting;
                member.incarnation += 1;
                member.pid = None;
            }
        })
        .await?;
        let Some(set) = self.sets.get(&name).cloned() else { return Ok(()) };
        if set.member(pod).is_some_and(|member| member.incarnation == incarnation + 1) {
            self.start_pod(&set, pod).await?;
        }
        Ok(())
    }
}

impl PodEvent {
    /// Which life of which pod it is about.
    fn of(&self) -> (&str, u64) {
        match self {
            Self::Started { pod, incarnation, .. }
            | Self::Said { pod, incarnation, .. }
            | Self::Ended { pod, incarnation, .. } => (pod, *incarnation),
        }
    }
}

fn apply(set: &mut SetRecord, event: &PodEvent) {
    match event {
        PodEvent::Started { pod, pid, .. } => {
            if let Some(member) = set.member_mut(pod) {
                member.pid = *pid;
            }
        }
        PodEvent::Said { pod, said, .. } => apply_said(set, pod, said),
        PodEvent::Ended { pod, .. } => {
            if let Some(member) = set.member_mut(pod) {
                member.state = MemberState::Down;
                member.pid = None;
            }
            // The admin says which fault it is; that nothing is dispatched to it need not wait for that.
            if set.worker.pod == *pod && set.state == SetState::Ready {
                set.state = SetState::Paused;
            }
        }
    }
}

fn log(set: &str, event: &PodEvent, state: SetState) {
    match event {
        PodEvent::Started { pod, incarnation, pid } => {
            tracing::debug!(set, pod, incarnation, pid, "pod runs")
        }
        PodEvent::Said { pod, said, .. } => tracing::debug!(set, pod, ?said, ?state, "pod says"),
        PodEvent::Ended { pod, status, .. } if state == SetState::Draining => {
            tracing::debug!(set, pod, status, "pod ended");
        }
        PodEvent::Ended { pod, status, .. } => tracing::warn!(set, pod, status, "pod ended"),
    }
}
