//! What the gateway's HTTP interface says: the bodies, for both ends. The OpenAPI document is generated
//! from these types.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;
use uuid::Uuid;

pub use crate::records::NodeRun;

/// An expression to be computed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Submission {
    /// The expression: `+ - * /`, parentheses, numbers of any size, names of parameters.
    #[schema(example = "a*(b+1)")]
    pub expression: String,
    /// The value of each name: a number, or the text of one, or of a fraction.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, Object>, example = json!({"a": 2, "b": "1/3"}))]
    pub parameters: BTreeMap<String, Parameter>,
    /// Asks for the result as a decimal rounded to this many digits after the point, half to even.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digits: Option<u32>,
    /// Asks for a receipt that can be verified without the platform.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub receipt: bool,
}

/// A parameter's value: the text of a number. JSON numbers are taken digit for digit, not through a
/// binary fraction, so that `0.1` is a tenth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter(pub String);

impl Serialize for Parameter {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Parameter {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let raw = <&serde_json::value::RawValue>::deserialize(from)?.get();
        match raw.as_bytes().first() {
            Some(b'"') => serde_json::from_str(raw).map(Self).map_err(D::Error::custom),
            Some(b'-' | b'0'..=b'9') => Ok(Self(raw.to_owned())),
            _ => Err(D::Error::custom(format!("a parameter is a number or its text, not `{raw:.40}`"))),
        }
    }
}

/// How a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// It will end in `done` or `failed`, by its deadline.
    Accepted,
    /// It has a result.
    Done,
    /// It has an error.
    Failed,
}

/// A request as it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Answer {
    /// Its id.
    pub id: Uuid,
    /// How it stands.
    pub status: Status,
    /// The result: an integer, a decimal, or `p/q` in lowest terms.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = "8/3")]
    pub result: Option<String>,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Problem>,
    /// Operations that were run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<u32>,
    /// From acceptance to the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<f64>,
    /// When and where each node ran; only with `?timeline=true`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<NodeRun>,
}

/// A problem document (RFC 9457) with a kind for programs and, for an error of an expression, a span.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// `/problems/` and the kind.
    #[serde(rename = "type")]
    pub kind_uri: String,
    /// The kind in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong this time, with the value and the limit.
    pub detail: String,
    /// What is wrong, for a program.
    #[schema(example = "division-by-zero")]
    pub kind: String,
    /// The bytes of the expression that are to blame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(example = json!([12, 13]))]
    pub span: Option<[usize; 2]>,
    /// The request, when it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Uuid>,
}

/// One process of the platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProcessStatus {
    /// `gateway`, `scheduler`, …, `worker`, `replica`.
    pub daemon: String,
    /// What it computes.
    pub function: Option<String>,
    /// The worker set that it belongs to.
    pub set: Option<String>,
    /// A replica's index.
    pub index: Option<u32>,
    /// The process, when it is one on this machine.
    pub pid: Option<u32>,
    /// The pod's name.
    pub pod: Option<String>,
    /// Where it listens.
    pub address: Option<String>,
    /// `starting`, `ready`, `paused`, `draining` or `down`.
    pub state: String,
    /// How many times it was made anew, from 1.
    pub incarnation: Option<u64>,
    /// A replica's view.
    pub view: Option<u64>,
    /// Whether a replica is the primary of its view.
    pub primary: Option<bool>,
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct QueueStatus {
    /// Its name.
    pub queue: String,
    /// Messages that could be received now, approximately.
    pub waiting: u64,
    /// Messages under a lease.
    pub in_flight: u64,
    /// How long the oldest waiting message has waited; absent when the engine does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_ms: Option<u64>,
    /// Messages put aside.
    pub dead: u64,
}

/// What the autoscaler saw of a function's layer when it last looked, and what it decided.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ScalingStatus {
    /// The function.
    pub function: String,
    /// Its policy.
    #[schema(example = "balanced")]
    pub policy: String,
    /// When it looked and there was something new, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Whether it could see the layer; when not, nothing is taken away.
    pub valid: bool,
    /// Operations that wait for a worker.
    pub waiting: u64,
    /// Operations at workers.
    pub in_service: u64,
    /// Operations that arrived since the look before.
    pub arrivals: u64,
    /// Mean number of busy slots since the look before.
    pub observed: f64,
    /// Busy slots that are expected when a pod ordered now would be up; absent when the policy forecasts none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<f64>,
    /// Pods (worker sets, or plain workers) that take operations.
    pub ready: u32,
    /// Pods that were ordered and are not up.
    pub starting: u32,
    /// Pods that take nothing more.
    pub draining: u32,
    /// Pods that the policy asks for.
    pub wanted: u32,
    /// Pods that are ordered: what the policy asks for, within the function's limits.
    pub desired: u32,
    /// The rule that decided, of the policy or of the limits.
    #[schema(example = "forecast")]
    pub reason: String,
}

impl ScalingStatus {
    /// Whether it says the same at another time.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        *self == Self { at_ms: self.at_ms, ..other.clone() }
    }
}

/// A message that failed too often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DeadMessage {
    /// What was sent, as text.
    pub body: String,
    /// How many times it was received.
    pub receives: u32,
    /// How long ago it was sent.
    pub age_ms: u64,
}

/// What a redrive did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Redriven {
    /// Messages that are back on the queue.
    pub messages: u64,
}

/// A fault: what struck whom, what speaks for it, and what was done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FaultStatus {
    /// Its id.
    pub id: Uuid,
    /// When it was seen, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// 1: a worker; 2: the primary; 3: a backup; 4: the control plane.
    #[serde(rename = "type")]
    pub kind: u8,
    /// The set it struck; empty for type 4.
    pub set: String,
    /// The pod it struck.
    pub pod: String,
    /// `killed`, `stopped` or `lying`.
    pub how: String,
    /// What was seen.
    pub seen: String,
    /// What a liar did, by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kinds: Vec<String>,
    /// The pods that accuse a liar.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub accusers: Vec<String>,
    /// How many replicas have to accuse it when there is no proof.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needed: Option<u32>,
    /// The pod that proved it; the proof is at `/v1/faults/{id}/proof`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proven_by: Option<String>,
    /// `restarted`: the pod was made anew; `replaced`: its set was; `noted`: what speaks for it is not
    /// enough to act on.
    pub done: String,
    /// How long it took until what took its place was ready; absent while it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_ms: Option<u64>,
}

/// How many worker sets a function has, or shall have.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// Worker sets; plain workers for an unreplicated function.
    pub desired: u32,
}

/// Whether something is well.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Health {
    /// `ok`.
    pub status: String,
}
