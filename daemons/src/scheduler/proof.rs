//! Puts the receipt of an expression together from those of its operations.

use super::{inbound::failure, work::Work};
use crate::{
    hex,
    receipt::{ExpressionReceipt, NodeProof, SetProof, VERSION},
    records::Failure,
};
use bytes::Bytes;
use quorate_dag::{Plan, Value};
use std::collections::HashMap;

/// The receipt of a request that asked for one and has its result.
pub(super) fn receipt(work: &Work, result: &Value) -> Result<Option<Bytes>, Failure> {
    let Some(evidence) = work.evidence() else { return Ok(None) };
    let mut sets: Vec<SetProof> = Vec::new();
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    let mut nodes = Vec::with_capacity(evidence.len());
    for (node, evidence) in work.graph().nodes().zip(evidence) {
        let proof = evidence.as_ref().filter(|evidence| !evidence.receipt.is_empty());
        let (Some(proof), Some(value)) = (proof, work.value(node)) else {
            let detail = format!("node {node} has a value, but its set gave no receipt for it");
            return Err(failure("receipt-unavailable", detail));
        };
        let Some(genesis) = &proof.genesis else {
            let detail = format!("set {} is gone, and with it what its receipts are checked with", proof.set);
            return Err(failure("receipt-unavailable", detail));
        };
        let set = *places.entry((&proof.set, genesis)).or_insert_with(|| {
            sets.push(SetProof { name: proof.set.to_string(), genesis: genesis.to_string() });
            sets.len() - 1
        });
        let call = work.call(node);
        nodes.push(NodeProof {
            node: node.get(),
            set,
            function: call.function.name().into(),
            left: call.left.to_string(),
            right: call.right.to_string(),
            result: value.to_string(),
            receipt: hex::encode(&proof.receipt),
        });
    }
    let receipt = ExpressionReceipt {
        version: VERSION,
        expression: work.request().expression.clone(),
        parameters: work.request().parameters.clone(),
        plan_version: Plan::VERSION,
        digits_max: work.digits_max(),
        result: result.to_string(),
        sets,
        nodes,
    };
    Ok(Some(serde_json::to_vec(&receipt).expect("texts and numbers have a JSON form").into()))
}
