//! Making a set: its keys, its genesis, its record, its pods; and removing it.

use super::{Cluster, ClusterError};
use crate::{
    backend::Stop,
    clock,
    config::Replication,
    hex,
    identity::{self, IdentityError, SetKeys},
    pod::{self, PodSpec},
    set::{Member, MemberState, SETS, SetRecord, SetState},
    store::StoreError,
};
use quorate_dag::Function;
use quorate_pbft::{Configuration, GroupId};
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

/// Before identities that could not be had are tried again; doubles each time, up to the second. A folder
/// that can't be written stays so until somebody mends it.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The keys of a set; a plain one has none.
pub(super) type Made = Result<Option<SetKeys>, IdentityError>;

/// Identities of a function's sets could not be had.
#[derive(Clone, Default)]
pub(super) struct Refused {
    /// In a row.
    times: u32,
    /// Why, as it was said last.
    why: String,
}

impl Refused {
    fn pause(&self) -> Duration {
        RETRY.0.saturating_mul(2u32.saturating_pow(self.times)).min(RETRY.1)
    }
}

impl Cluster {
    /// Has the keys made beside; [`Cluster::on_keys`] goes on. A plain worker needs none.
    pub(super) fn begin_creation(&mut self, function: Function, name: String) {
        let replicas = self.config.functions.of(function).replication.replicas();
        self.making.insert(name.clone(), function);
        let (identities, made) = (self.identities.clone(), self.made.clone());
        let backend = Arc::clone(&self.backend);
        tracing::info!(set = %name, replicas, "set is made");
        let refused = self.refused.get(&function).cloned().unwrap_or_default();
        tokio::spawn(async move {
            let keys = match replicas {
                0 => Ok(None),
                _ => backend.keys(&identities, &name, replicas).await.map(Some),
            };
            if let Err(error) = &keys {
                let pause = refused.pause();
                if refused.why != error.to_string() {
                    tracing::error!(set = %name, %error, "a set's identities can't be had; it is tried again");
                }
                tokio::time::sleep(pause).await;
            }
            // Nobody listens any more: the daemon is ending.
            let _ = made.send((name, keys));
        });
    }

    pub(super) async fn on_keys(&mut self, name: &str, keys: Made) -> Result<(), ClusterError> {
        let Some(function) = self.making.remove(name) else { return Ok(()) };
        let keys = match keys {
            Ok(keys) => keys,
            // Said where it happened; the next reconciliation tries again.
            Err(error) => {
                let refused = self.refused.entry(function).or_default();
                *refused = Refused { times: refused.times.saturating_add(1), why: error.to_string() };
                return Ok(());
            }
        };
        self.refused.remove(&function);
        if keys.is_some() {
            self.stock_after = Some(Instant::now());
        }
        let record = self.new_record(function, name, keys.as_ref())?;
        match self.write(&format!("{SETS}{name}"), &record, None).await {
            Ok(_) => {}
            // Another cluster service was quicker with this name; the next reconciliation sees it.
            Err(StoreError::Conflict { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.sets.insert(name.into(), record.clone());
        // Replicas first: the worker waits for them.
        for member in record.replicas.iter().chain([&record.worker]) {
            self.start_pod(&record, &member.pod).await?;
        }
        Ok(())
    }

    fn new_record(
        &self,
        function: Function,
        set: &str,
        keys: Option<&SetKeys>,
    ) -> Result<SetRecord, ClusterError> {
        let replication = self.config.functions.of(function).replication;
        let genesis = match (replication, keys) {
            (Replication::None, _) | (_, None) => None,
            (Replication::Byzantine { f }, Some(keys)) => {
                // Fresh for every genesis: receipts of two lives of a set never contradict each other.
                let group = *identity::seed()?.first_chunk().expect("32 bytes hold 16");
                let replicas = keys.replicas.iter().map(|member| member.public.clone()).collect();
                let clients = vec![keys.worker.public.clone()];
                let genesis = Configuration {
                    f,
                    operator: Some(keys.operator.clone()),
                    ..Configuration::genesis(GroupId(group), replicas, clients)
                };
                Some(hex::encode(&genesis.to_bytes()))
            }
        };
        let member = |pod: String| Member {
            pod,
            state: MemberState::Starting,
            address: None,
            transport: None,
            pid: None,
            incarnation: 1,
        };
        Ok(SetRecord {
            name: set.into(),
            function,
            replication,
            state: SetState::Starting,
            worker: member(pod::name_of(set, None)),
            replicas: (0..replication.replicas()).map(|i| member(pod::name_of(set, Some(i)))).collect(),
            genesis,
            successions: Vec::new(),
            succession: None,
            ordered_ms: clock::epoch_ms(),
            start_ms: None,
        })
    }

    /// What a member is told when it starts.
    pub(super) fn spec(&self, set: &SetRecord, pod: &str) -> PodSpec {
        const ANY_PORT: &str = "127.0.0.1:0";
        let index = set.index_of(pod);
        let member = set.member(pod).expect("the caller found it in the set");
        let mut spec = PodSpec {
            pod: pod.into(),
            set: set.name.clone(),
            function: set.function.name().into(),
            index,
            incarnation: member.incarnation,
            replication: set.replication,
            genesis: set.genesis.clone(),
            successions: set.successions_of(index),
            identity: None,
            listen: member.address.clone().unwrap_or_else(|| ANY_PORT.into()),
            transport: index.map(|_| member.transport.clone().unwrap_or_else(|| ANY_PORT.into())),
            data: self.folder(set),
            resumes: member.transport.is_some(),
            durability: self.config.durability,
            slots: self.config.functions.of(set.function).slots,
            // Whoever starts it has certificates made.
            tls: None,
        };
        let key = spec.key();
        spec.data.push(format!("{}-{key}", set.name));
        spec.identity = set.genesis.as_ref().map(|_| self.identities.path(&set.name, &key));
        spec
    }

    /// Ends a drained set's pods; once they have ended, forgets the set.
    pub(super) async fn remove(&mut self, name: &str) -> Result<(), ClusterError> {
        let Some(set) = self.sets.get(name).cloned() else { return Ok(()) };
        let running: Vec<_> =
            set.members().filter(|member| member.state != MemberState::Down).map(|m| m.pod.clone()).collect();
        // The worker first, so that it can still finish with its replicas.
        if set.worker.state != MemberState::Down {
            return Ok(self.backend.stop(&set.worker.pod, Stop::Gently).await?);
        }
        if !running.is_empty() {
            for pod in running {
                self.backend.stop(&pod, Stop::Gently).await?;
            }
            return Ok(());
        }
        if set.replication != Replication::None {
            self.backend.forget(name).await?;
        }
        let folder = self.folder(&set);
        if let Err(error) = std::fs::remove_dir_all(&folder)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(folder = %folder.display(), %error, "a removed set's files are left behind");
        }
        self.engine.store().delete(&format!("{SETS}{name}")).await?;
        self.sets.remove(name);
        tracing::info!(set = %name, "set is gone");
        Ok(())
    }

    /// Where a set's members keep their files. A set that is made anew under the same name has another
    /// group, and so another folder: its replicas never meet the journals of the former.
    fn folder(&self, set: &SetRecord) -> PathBuf {
        let life = set.genesis.as_ref().map_or("plain".into(), |genesis| {
            let digest = ring::digest::digest(&ring::digest::SHA256, genesis.as_bytes());
            hex::encode(&digest.as_ref()[..8])
        });
        self.state.join("sets").join(&set.name).join(life)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identities_that_can_t_be_had_are_tried_again_at_longer_and_longer_intervals() {
        let pauses = (0..40).map(|times| Refused { times, ..Refused::default() }.pause().as_secs());
        let pauses: Vec<_> = pauses.collect();
        assert_eq!(pauses[..7], [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(pauses[7..], [60; 33]);
    }
}
