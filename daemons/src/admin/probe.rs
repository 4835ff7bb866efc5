//! Liveness probes: one task for each pod that should answer.

use crate::{
    config::Timeouts,
    proto::{ReplicaStatusRequest, replica_client::ReplicaClient},
    set::{MemberState, SetRecord},
    tls::Name,
    wires::Wires,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::transport::Channel;
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
    wires: Wires,
    running: HashMap<String, (u64, String, JoinHandle<()>)>,
    leaders: Leaders,
}

/// The pods that led their groups when they last answered. Once one of them is gone, its group has
/// another primary before long, and nobody left could tell that it led.
#[derive(Clone, Default)]
struct Leaders(Arc<Mutex<HashSet<String>>>);

impl Leaders {
    fn pods(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().expect("nobody panics with it")
    }
}

impl Probes {
    pub(super) fn new(timeouts: &Timeouts, wires: Wires, missed: mpsc::Sender<Miss>) -> Self {
        Self {
            every: timeouts.probe_every,
            misses_max: timeouts.probes_missed,
            missed,
            wires,
            running: HashMap::new(),
            leaders: Leaders::default(),
        }
    }

    /// Whether a replica led its group when it last answered a probe.
    pub(super) fn led(&self, pod: &str) -> bool {
        self.leaders.pods().contains(pod)
    }

    /// Probes exactly the members of these sets from now on: those of them that are ready.
    pub(super) fn follow<'a>(&mut self, sets: impl Iterator<Item = &'a SetRecord> + Clone) {
        self.leaders.pods().retain(|pod| sets.clone().any(|set| set.member(pod).is_some()));
        let members = sets.flat_map(|set| set.members().map(move |member| (set, member)));
        let mut wanted: HashMap<&str, (u64, &str)> = HashMap::new();
        let mut replicas = HashSet::new();
        for (set, member) in members.filter(|(_, member)| member.state == MemberState::Ready) {
            let Some(address) = member.address.as_deref() else { continue };
            wanted.insert(&member.pod, (member.incarnation, address));
            if set.index_of(&member.pod).is_some() {
                replicas.insert(&*member.pod);
            }
        }
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
                channel(&self.wires, pod, address),
                self.every,
                self.misses_max,
                self.missed.clone(),
                replicas.contains(pod).then(|| self.leaders.clone()),
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
    channel: Option<Channel>,
    every: Duration,
    misses_max: u32,
    missed: mpsc::Sender<Miss>,
    leaders: Option<Leaders>,
) {
    let Some(channel) = channel else { return };
    let mut client = HealthClient::new(channel.clone());
    let mut replica = leaders.map(|leaders| (ReplicaClient::new(channel), leaders));
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
        if alive && let Some((client, leaders)) = &mut replica {
            let asked = tokio::time::timeout(PROBE, client.status(ReplicaStatusRequest {})).await;
            if let Ok(Ok(status)) = asked {
                match status.get_ref().leads {
                    true => _ = leaders.pods().insert(pod.clone()),
                    false => _ = leaders.pods().remove(&pod),
                }
            }
        }
        if misses >= misses_max {
            let _ = missed.send(Miss { pod: pod.clone(), incarnation, probes: misses }).await;
            misses = 0;
        }
        tokio::time::sleep(every).await;
    }
}

/// Which replica leads, as the one at `address` sees it.
pub(super) async fn primary(wires: &Wires, pod: &str, address: &str) -> Option<u32> {
    let mut client = ReplicaClient::new(channel(wires, pod, address)?);
    let status = tokio::time::timeout(PROBE, client.status(ReplicaStatusRequest {})).await.ok()?.ok()?;
    Some(status.get_ref().primary)
}

pub(super) fn channel(wires: &Wires, pod: &str, address: &str) -> Option<Channel> {
    wires.channel(address, Name::of_pod(pod), PROBE).ok()
}
