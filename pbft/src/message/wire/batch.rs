//! Batches as bytes: what a PRE-PREPARE carries, and the operations beside it.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;

use super::{ELEMENTS_MAX, Malformed, at_most, authenticator, pb, read, request_in, signature_in};
use crate::{
    crypto::Principal,
    group::ClientId,
    message::{Batch, Proof, Request, Unverified},
};

/// Bytes of a batch beside its requests, at most: the time and the seal flag.
pub(crate) const BATCH_FIELDS_BYTES: usize = 16;

/// Makes a batch and its bytes.
pub fn batch(time: u64, seal: bool, requests: Arc<[Unverified<Request>]>) -> Batch {
    let relayed = requests.iter().map(|request| pb::RelayedRequest {
        client: request.body.client.0,
        body: request.bytes.clone(),
        proof: match &request.proof {
            Proof::Authenticator(tags) => Some(pb::relayed_request::Proof::Authenticator(tags.0.clone())),
            Proof::Signature(signature) => Some(pb::relayed_request::Proof::Signature(signature.0.clone())),
            Proof::Tag(_) | Proof::Nothing => None, // void: requests carry one of the others
        },
    });
    let body = pb::Batch { time, seal, requests: relayed.collect() };
    Batch { bytes: body.encode_to_vec().into(), time, seal, requests }
}

/// Reads the bytes of a batch.
///
/// # Errors
/// When the bytes are no batch.
pub fn decode_batch(bytes: Bytes) -> Result<Batch, Malformed> {
    let body = read::<pb::Batch>("batch", bytes.clone())?;
    at_most("requests", body.requests.len(), ELEMENTS_MAX)?;
    let requests = body.requests.into_iter().map(|relayed| {
        let request = request_in(relayed.body.clone())?;
        // One client's tags must never stand for another's words.
        if request.client != ClientId(relayed.client) {
            return Err(Malformed::Unknown { field: "client of a batch's request", value: relayed.client });
        }
        let proof = match relayed.proof.ok_or(Malformed::Missing { field: "proof of a batch's request" })? {
            pb::relayed_request::Proof::Authenticator(tags) => Proof::Authenticator(authenticator(tags)?),
            pb::relayed_request::Proof::Signature(signed) => Proof::Signature(signature_in(signed)?),
        };
        let sender = Principal::Client(request.client);
        Ok(Unverified { sender, body: request, bytes: relayed.body, proof })
    });
    let requests = requests.collect::<Result<_, Malformed>>()?;
    Ok(Batch { bytes, time: body.time, seal: body.seal, requests })
}

/// The operations that a batch's requests name, in order.
pub(super) fn operations_out(batch: &Batch) -> Vec<Bytes> {
    batch.requests.iter().flat_map(|request| request.body.beside()).cloned().collect()
}

/// A batch with the operations that its requests name, in order.
pub(super) fn whole(batch: Batch, operations: Vec<Bytes>) -> Result<Batch, Malformed> {
    let (length, limit) = (operations.len(), batch.named());
    let field = "operations beside the batch";
    batch.with_operations(operations).ok_or(Malformed::Length { field, length, limit })
}
