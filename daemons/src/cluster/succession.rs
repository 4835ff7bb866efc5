//! Replacing one replica of a set: one that lost its journal, and with it what it promised.
//!
//! It must not come back under its key, because it could contradict itself. So its group is ordered to
//! give its place to another one under a fresh key (`quorate_pbft::membership`): the key is made, the
//! order is signed and kept in the set's record, the set's worker is told it, again and again, and has it
//! ordered as the client that it is. When the worker says that the group has gone over, what proves it is
//! kept in the record, and the newcomer is started. All of that goes on where it was when another cluster
//! service takes over.
//!
//! The group can do that while 2f+1 others work and their worker can be reached. Where it does not come
//! to pass in the time that a pod has to start, a fresh set takes the place of the whole one, which serves
//! on until then.

use super::{Cluster, ClusterError};
use crate::{
    hex,
    identity::IdentityError,
    pod::Told,
    set::{LOST, MemberState, Ordered, SetRecord, SetState, succession},
};
use quorate_pbft::membership::Reconfigure;
use std::{sync::Arc, time::Instant};

/// Replacements that a set sees before a fresh one takes its place: its record, its pods' specs and its
/// receipts carry what proves each of them.
const SUCCESSIONS_MAX: usize = 8;

/// An order that was made beside.
pub(super) struct MadeOrder {
    set: String,
    pod: String,
    order: Result<Reconfigure, IdentityError>,
}

impl Cluster {
    /// Whether a replica has promised something and does not know what any more: its data folder went
    /// with the life that ended.
    pub(super) fn has_forgotten(&self, set: &SetRecord, pod: &str) -> bool {
        // A worker has no transport.
        let has_listened = set.member(pod).is_some_and(|member| member.transport.is_some());
        has_listened && !(self.backend.keeps_data() && self.spec(set, pod).journal().exists())
    }

    /// Has the place of a replica that can't come back given to another one. Is called again and again
    /// until that has happened.
    pub(super) async fn replace_replica(&mut self, set: &str, pod: &str) -> Result<(), ClusterError> {
        let (Some(record), false) = (self.sets.get(set), self.replaced.contains(set)) else { return Ok(()) };
        if record.state == SetState::Draining || self.succeeding.contains_key(set) {
            // Of this one, or of another one before it.
            return Ok(());
        }
        let (Some(chain), Some(index)) = (record.chain(), record.index_of(pod)) else { return Ok(()) };
        let members = chain.latest().clone();
        if members.operator.is_none() || chain.successions().len() >= SUCCESSIONS_MAX {
            return self
                .give_up(set, pod, "a replica's journal is gone, and its place can't be given away")
                .await;
        }
        tracing::warn!(set, pod, "the replica's journal is gone; another one takes its place");
        self.succeeding.insert(set.into(), Instant::now());
        let (backend, identities) = (Arc::clone(&self.backend), self.identities.clone());
        let (set, pod, made) = (set.to_owned(), pod.to_owned(), self.made_orders.clone());
        tokio::spawn(async move {
            let order = backend.order(&identities, &set, &members, index).await;
            // Nobody listens any more: the daemon is ending.
            let _ = made.send(MadeOrder { set, pod, order });
        });
        Ok(())
    }

    /// Keeps an order, and has the set's worker told.
    pub(super) async fn on_order(&mut self, made: MadeOrder) -> Result<(), ClusterError> {
        let MadeOrder { set, pod, order } = made;
        let order = match order {
            Ok(order) => hex::encode(&order.to_bytes()),
            Err(error) => return self.give_up(&set, &pod, &error.to_string()).await,
        };
        let ordered = Ordered { pod, order };
        self.update(&set, |set| set.succession = Some(ordered.clone())).await?;
        self.tell_order(&set).await
    }

    /// Tells the worker of a set what its group is to do, if there is something.
    pub(super) async fn tell_order(&self, set: &str) -> Result<(), ClusterError> {
        let Some(set) = self.sets.get(set) else { return Ok(()) };
        let Some(ordered) = &set.succession else { return Ok(()) };
        let told = Told::Reconfigure { order: ordered.order.clone() };
        Ok(self.backend.tell(&set.worker.pod, told).await?)
    }

    /// Starts who was given a place, once its set's record says so.
    pub(super) async fn start_newcomers(&mut self, before: &SetRecord) -> Result<(), ClusterError> {
        let Some(after) = self.sets.get(&before.name).cloned() else { return Ok(()) };
        if after.successions.len() == before.successions.len() {
            return Ok(());
        }
        self.succeeding.remove(&after.name);
        for (old, new) in before.replicas.iter().zip(&after.replicas) {
            if old.incarnation != new.incarnation {
                tracing::info!(set = %after.name, pod = %new.pod, "another replica takes its place");
                self.due.retain(|(_, fault)| fault.pod != new.pod);
                self.restarts.remove(&new.pod);
                self.start_pod(&after, &new.pod).await?;
            }
        }
        Ok(())
    }

    /// Gives up on groups that don't go over.
    pub(super) async fn end_successions(&mut self) -> Result<(), ClusterError> {
        // An order that another cluster service gave is waited for as long as one's own.
        for set in self.sets.values().filter(|set| set.succession.is_some()) {
            self.succeeding.entry(set.name.clone()).or_insert_with(Instant::now);
        }
        let (sets, replaced) = (&self.sets, &self.replaced);
        let stays = |set: &SetRecord| set.state != SetState::Draining && !replaced.contains(&set.name);
        self.succeeding.retain(|name, _| sets.get(name).is_some_and(stays));
        let patience = self.config.timeouts.pod_start;
        let late: Vec<_> = self.succeeding.extract_if(.., |_, since| since.elapsed() >= patience).collect();
        for (set, _) in late {
            let pod = self.sets.get(&set).and_then(|set| Some(set.succession.as_ref()?.pod.clone()));
            let why = "its group has not replaced its member in time";
            self.give_up(&set, &pod.unwrap_or_default(), why).await?;
        }
        Ok(())
    }

    /// A fresh set takes the place of one that can't go over.
    async fn give_up(&mut self, set: &str, pod: &str, why: &str) -> Result<(), ClusterError> {
        self.succeeding.remove(set);
        if !self.sets.contains_key(set) || self.replaced.contains(set) {
            return Ok(());
        }
        self.replace_whole(LOST, set, pod, why).await
    }
}

/// Puts into a set's record that its group has gone over, if it has: who was replaced is another one from
/// now on, that has not listened yet.
pub(super) fn apply_succession(set: &mut SetRecord, text: &str) {
    if set.successions.iter().any(|known| known == text) {
        return; // it was said before, and is heard again with each comparison
    }
    let (Some(succession), Some(mut chain)) = (succession(text), set.chain()) else {
        return tracing::warn!(set = %set.name, "a succession of its group makes no sense");
    };
    if succession.reconfigure.number <= chain.latest().number {
        return;
    }
    if let Err(error) = chain.extend(succession.clone()) {
        return tracing::warn!(set = %set.name, %error, "a succession of its group proves nothing");
    }
    set.successions.push(text.to_owned());
    set.succession = None;
    for (index, _) in &succession.reconfigure.replacements {
        let Some(member) = set.replicas.get_mut(index.index()) else { continue };
        member.state = MemberState::Starting;
        member.incarnation += 1;
        (member.address, member.transport, member.pid) = (None, None, None);
    }
}
