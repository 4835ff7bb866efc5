//! Puts the receipt of an expression together from those of its operations.

use super::{inbound::failure, work::Work};
use crate::{
    receipt::{Evidence, ExpressionReceipt},
    records::Failure,
};
use bytes::Bytes;
use quorate_dag::NodeId;

/// The receipt of a request that asked for one and has its result, `text`.
pub(super) fn receipt(work: &Work, text: &str) -> Result<Option<Bytes>, Failure> {
    let Some(evidence) = work.evidence() else { return Ok(None) };
    let of_node = |node: NodeId| {
        let proof = evidence[node.index()].as_ref().filter(|proof| !proof.receipt.is_empty())?;
        Some(Evidence {
            value: work.value(node)?,
            set: &proof.set,
            genesis: proof.genesis.as_deref()?,
            receipt: &proof.receipt,
        })
    };
    let receipt = ExpressionReceipt::assemble(work.request(), work.graph(), work.digits_max(), text, of_node);
    receipt.map(|receipt| Some(receipt.to_json())).ok_or_else(|| {
        let detail = "a set gave a value without its receipt, or is gone by now; ask again";
        failure("receipt-unavailable", detail.to_owned())
    })
}
