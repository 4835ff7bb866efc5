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
    let mut lives: HashMap<&str, &str> = HashMap::new();
    for (node, proof) in evidence.iter().enumerate() {
        let Some(proof) = proof.as_ref().filter(|proof| !proof.receipt.is_empty()) else {
            return Err(unavailable(format!("node {node} has a value, but its set gave no receipt for it")));
        };
        let Some(genesis) = &proof.genesis else {
            let detail = format!("set {} is gone, and with it what its receipts are checked with", proof.set);
            return Err(unavailable(detail));
        };
        if *lives.entry(&proof.set).or_insert(genesis) != &**genesis {
            let detail = format!("set {} was made anew meanwhile; ask again", proof.set);
            return Err(unavailable(detail));
        }
    }
    let of_node = |node: NodeId| {
        let proof = evidence.get(node.index())?.as_ref()?;
        let (value, genesis) = (work.value(node)?, proof.genesis.as_deref()?);
        Some(Evidence { value, set: &proof.set, genesis, receipt: &proof.receipt })
    };
    ExpressionReceipt::assemble(work.request(), work.graph(), work.digits_max(), result, of_node)
        .map(|receipt| Some(receipt.to_json()))
        .ok_or_else(|| unavailable("an operation lacks its value".into()))
}
