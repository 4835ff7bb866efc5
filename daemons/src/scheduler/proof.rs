//! Puts the receipt of an expression together from those of its operations.

use super::{inbound::failure, work::Work};
use crate::{
    receipt::{Evidence, ExpressionReceipt},
    records::Failure,
};
use bytes::Bytes;
use quorate_dag::NodeId;
use std::collections::HashMap;

/// The receipt of a request that asked for one and has its result.
pub(super) fn receipt(work: &Work, result: &str) -> Result<Option<Bytes>, Failure> {
    let Some(evidence) = work.evidence() else { return Ok(None) };
    let unavailable = |detail| failure("receipt-unavailable", detail);
    let mut chains: HashMap<&str, &[u8]> = HashMap::new();
    for (node, proof) in evidence.iter().enumerate() {
        let Some(proof) = proof.as_ref().filter(|proof| !proof.receipt.is_empty()) else {
            return Err(unavailable(format!("node {node} has a value, but its set gave no receipt for it")));
        };
        // One begins with the other: members are replaced, and those of before stay on record.
        let known = chains.entry(&proof.set).or_insert(&proof.chain);
        let [shorter, longer] =
            if known.len() < proof.chain.len() { [*known, &proof.chain] } else { [&proof.chain, *known] };
        if !longer.starts_with(shorter) {
            let detail = format!("set {} was made anew meanwhile; ask again", proof.set);
            return Err(unavailable(detail));
        }
        *known = longer;
    }
    let of_node = |node: NodeId| {
        let proof = evidence.get(node.index())?.as_ref()?;
        let chain = chains.get(&*proof.set)?;
        Some(Evidence { value: work.value(node)?, set: &proof.set, chain, receipt: &proof.receipt })
    };
    ExpressionReceipt::assemble(work.request(), work.graph(), work.digits_max(), result, of_node)
        .map(|receipt| Some(receipt.to_json()))
        .ok_or_else(|| unavailable("an operation lacks its value".into()))
}
