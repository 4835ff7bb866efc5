//! Liveness probes: one task for each pod that should answer.

use crate::{
    config::Timeouts,
    proto::{ReplicaStatusRequest, replica_client::ReplicaClient},
    set::{Member, MemberState},
};
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

/// How long one probe may take. Well over what a loaded machine needs, well under what a person notices.
const PROBE: Duration = Duration::from_millis(500);

/// A pod missed its probes.
pub(super) struct Miss {
    pub(super) pod: String,
    pub(super) incarnation: u64,
    /// How many in a row.
    pub(super) probes: u32,
}

/// The probes that run.
pub(super) struct Probes {
    every: Duration,
    misses_max: u32,
    missed: mpsc::Sender<Miss>,
    running: HashMap<String, (u64, String, JoinHandle<()>)>,
}

impl Probes {
    pub(super) fn new(timeouts: &Timeouts, missed: mpsc::Sender<Miss>) -> Self {
        Self {
            every: timeouts.probe_every,
            misses_max: timeouts.probes_missed,
            missed,
            running: HashMap::new(),
        }
    }

    /// Probes exactly these members from now on: those of them that are ready.
    pub(super) fn follow<'a>(&mut self, members: impl Iterator<Item = &'a Member>) {
        let mut wanted: HashMap<&str, (u64, &str)> = members
            .filter(|member| member.state == MemberState::Ready)
            .filter_map(|member| Some((&*member.pod, (member.incarnation, member.address.as_deref()?))))
            .collect();
        self.running.retain(|pod, (incarnation, address, task)| {
            let same = wanted.get(pod.as_str()) == Some(&(*incarnation, address.as_str()));
            if same {
                wanted.remove(pod.as_str());
            } else {
                task.abort();
            }
            same
        });
        for (pod, (incarnation, address)) in wanted {
            let task = tokio::spawn(probe(
                pod.to_string(),
                incarnation,
                address.to_string(),
                self.every,
                self.misses_max,
                self.missed.clone(),
            ));
            self.running.insert(pod.into(), (incarnation, address.into(), task));
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        for (_, _, task) in self.running.values() {
            task.abort();
        }
    }
}

async fn probe(
    pod: String,
    incarnation: u64,
    address: String,
    every: Duration,
    misses_max: u32,
    missed: mpsc::Sender<Miss>,
) {
    let Some(channel) = channel(&address) else { return };
    let mut client = HealthClient::new(channel);
    let mut misses = 0;
    // Not all at the same instant: each pod's own phase, from its name.
    let phase = pod.bytes().fold(0u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into())) % 100;
    tokio::time::sleep(every * u32::try_from(phase).unwrap_or(0) / 100).await;
    loop {
        // Whether it is whole is its own affair (a replica that catches up is not ready); a probe asks
        // whether it is alive.
        let answered = tokio::time::timeout(PROBE, client.check(HealthCheckRequest::default())).await;
        let alive = match answered {
            Ok(Ok(status)) => status.get_ref().status() != ServingStatus::Unknown,
            Ok(Err(_)) | Err(_) => false,
        };
        misses = if alive { 0 } else { misses + 1 };
        if misses >= misses_max {
            let _ = missed.send(Miss { pod: pod.clone(), incarnation, probes: misses }).await;
            misses = 0;
        }
        tokio::time::sleep(every).await;
    }
}

/// Which replica leads, as the one at `address` sees it.
pub(super) async fn primary(address: &str) -> Option<u32> {
    let mut client = ReplicaClient::new(channel(address)?);
    let status = tokio::time::timeout(PROBE, client.status(ReplicaStatusRequest {})).await.ok()?.ok()?;
    Some(status.get_ref().primary)
}

fn channel(address: &str) -> Option<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
    Some(endpoint.connect_timeout(PROBE).connect_lazy())
}
