//! What the store says of worker sets: who belongs to one, where they listen, how they are.
//!
//! The cluster service writes these records, by compare-and-swap; schedulers, admin and gateway read
//! and watch them. A set's state is its record and nothing else.

use crate::{config::Replication, hex};
use quorate_dag::Function;
use quorate_pbft::{
    Configuration, ReplicaId,
    membership::{Chain, Succession},
};
use serde::{Deserialize, Serialize};

/// Where set records lie in the store; a record's key is this and the set's name.
pub const SETS: &str = "sets/";

/// Where sets lie that hold a replica which lied: this and the set's name. They are replaced, and their
/// names, and with them their keys, are not used again.
pub const CONDEMNED: &str = "condemned/";

/// Where sets lie that have a replica which lost its journal, and with it what it promised, and whose
/// group could not give its place to another: this and the set's name. A replica that does not know its
/// promises could contradict them, so they are replaced as condemned ones are, and their names and keys are
/// not used again either.
pub const LOST: &str = "lost/";

/// Where running daemons announce themselves: this, the daemon's name, `/`, its instance.
pub const DAEMONS: &str = "daemons/";

/// Where the wanted number of sets of a function lies: this and the function's name.
pub const DESIRED: &str = "desired/";
/// What the autoscaler saw and decided last (`api::ScalingStatus`), by function.
pub const SCALING: &str = "scaling/";
/// What the next autoscaler to lead goes on with, by function.
pub const SCALING_STATES: &str = "scaling-states/";

/// One worker and, for a replicated function, its replicas.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRecord {
    /// `add-0`: the function and the smallest free number. Identities are kept by this name, so a set
    /// that comes back has the keys it had.
    pub name: String,
    /// What it computes.
    #[serde(with = "function_name")]
    pub function: Function,
    /// Whether replicas agree on its results.
    pub replication: Replication,
    /// How the set is, as a whole.
    pub state: SetState,
    /// The worker: the only member of an unreplicated set.
    pub worker: Member,
    /// The 3f+1 replicas in order of their index; empty when unreplicated.
    pub replicas: Vec<Member>,
    /// The PBFT genesis of a replicated set (`quorate_pbft::Configuration`), hexadecimal.
    pub genesis: Option<String>,
    /// What proves that members were replaced since then (`quorate_pbft::membership::Succession`), in
    /// order, hexadecimal.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub successions: Vec<String>,
    /// The replacement that its group has been ordered to make and has not made yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub succession: Option<Ordered>,
    /// When its pods were ordered, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub ordered_ms: u64,
    /// From then until it took operations for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_ms: Option<u64>,
}

/// An order to replace a replica.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ordered {
    /// The replica's pod.
    pub pod: String,
    /// The order (`quorate_pbft::membership::Reconfigure`), hexadecimal.
    pub order: String,
}

impl SetRecord {
    /// The PBFT genesis of a replicated set.
    #[must_use]
    pub fn genesis(&self) -> Option<Configuration> {
        Configuration::from_bytes(&hex::decode(self.genesis.as_deref()?)?).ok()
    }

    /// Who has belonged to the PBFT group of a replicated set, and who belongs to it now.
    #[must_use]
    pub fn chain(&self) -> Option<Chain> {
        let successions = self.successions.iter().map(|text| succession(text));
        Chain::of(self.genesis()?, successions.collect::<Option<Vec<_>>>()?).ok()
    }

    /// The successions that the member with this index is started with: a replica with those that made it
    /// a member, for ever the same; a worker, which has no index, with all.
    pub(crate) fn successions_of(&self, index: Option<u32>) -> Vec<String> {
        let Some(index) = index else { return self.successions.clone() };
        let of_it =
            |text: &String| succession(text).is_some_and(|it| it.reconfigure.replaces(ReplicaId(index)));
        let count = self.successions.iter().rposition(of_it).map_or(0, |last| last + 1);
        self.successions[..count].to_vec()
    }

    /// The name of that group, hexadecimal: another one in each life of the set.
    #[must_use]
    pub fn group(&self) -> Option<String> {
        Some(hex::encode(&self.genesis()?.group.0))
    }
}

/// Reads a succession as records, specs and pods have it. It is not verified yet.
pub(crate) fn succession(text: &str) -> Option<Succession> {
    Succession::from_bytes(hex::decode(text)?.into()).ok()
}

/// How a set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SetState {
    /// Its pods were ordered and have not all said that they are ready.
    Starting,
    /// Its worker takes operations.
    Ready,
    /// Its worker is down: nothing is dispatched to it until it is back.
    Paused,
    /// It takes no new operations and goes when those in flight are done.
    Draining,
}

/// A pod of a set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// `add-0-worker`, `add-0-replica-2`.
    pub pod: String,
    /// How it is.
    pub state: MemberState,
    /// Where its gRPC services (function or replica status, and health) listen.
    pub address: Option<String>,
    /// Where a replica's PBFT transport listens.
    pub transport: Option<String>,
    /// The process, when the pod is one on this machine.
    pub pid: Option<u32>,
    /// How many times it was made anew, from 1.
    pub incarnation: u64,
}

/// How a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MemberState {
    /// Ordered, not yet ready.
    Starting,
    /// Answers.
    Ready,
    /// Ended, or missed its probes.
    Down,
}

/// A daemon that runs, as it announces itself under [`DAEMONS`] with a lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonRecord {
    /// `gateway`, `scheduler`, …
    pub daemon: String,
    /// Unique among the running ones.
    pub instance: String,
    /// Where it listens, when it does.
    pub address: Option<String>,
    /// Its process.
    pub pid: u32,
}

mod function_name {
    use quorate_dag::Function;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(function: &Function, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(function.name())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Function, D::Error> {
        let name = String::deserialize(from)?;
        Function::from_name(&name).ok_or_else(|| D::Error::custom(format!("unknown function `{name}`")))
    }
}
