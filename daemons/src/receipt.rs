//! The receipt of an expression: every operation that it came to, each with the proof that 2f+1 replicas
//! of a set executed it with this result.
//!
//! Whoever has the replicas' public keys needs nothing else to check it: the expression is planned again,
//! which must give the same nodes; a node's operands must be what the plan says, numbers of the text or
//! results of other nodes; and the PBFT receipt of each must be for the encoded
//! [`Operation`](crate::function::Operation) and [`Answer`](crate::function::Answer).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The form that this version writes and reads.
pub const VERSION: u32 = 1;

/// The receipt of an expression, as its JSON file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExpressionReceipt {
    /// [`VERSION`].
    pub version: u32,
    /// What was computed.
    pub expression: String,
    /// The parameters: name → the text of a number.
    #[serde(default)]
    pub parameters: BTreeMap<String, String>,
    /// `quorate_dag::Plan::VERSION` of the program that planned it.
    pub plan_version: u32,
    /// The digit limit of every operation.
    pub digits_max: u32,
    /// The exact result.
    pub result: String,
    /// The sets that executed it.
    pub sets: Vec<SetProof>,
    /// The operations by the number of their node: none for a lone number.
    pub nodes: Vec<NodeProof>,
}

/// A set that executed operations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetProof {
    /// Its name.
    pub name: String,
    /// Its group's genesis (`quorate_pbft::Configuration`), hexadecimal.
    pub genesis: String,
}

/// One operation and its proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeProof {
    /// The node of the plan.
    pub node: u32,
    /// Which of [`ExpressionReceipt::sets`] executed it.
    pub set: usize,
    /// What was computed: `add`, `sub`, `mul` or `div`.
    pub function: String,
    /// The operands.
    pub left: String,
    /// See `left`.
    pub right: String,
    /// The value.
    pub result: String,
    /// The `quorate_pbft::receipt::Receipt`, hexadecimal.
    pub receipt: String,
}
