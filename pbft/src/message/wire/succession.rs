//! SUCCESSION as bytes.

use bytes::Bytes;
use prost::Message as _;

use super::{Malformed, at_most, digest_in, digest_out, pb, read, signature_in};
use crate::{
    crypto::Signature,
    group::{REPLICAS_MAX, ReplicaId, Sequence},
    membership::{Reconfigure, Succession},
};

/// The bytes of a SUCCESSION.
pub fn encode_succession(body: &Succession) -> Bytes {
    succession_out(body).encode_to_vec().into()
}

/// Reads what [`encode_succession`] wrote.
///
/// # Errors
/// When the bytes are no SUCCESSION.
pub fn decode_succession(bytes: Bytes) -> Result<Succession, Malformed> {
    succession_in(read("succession", bytes)?)
}

pub(super) fn succession_out(body: &Succession) -> pb::Succession {
    let vote = |(voter, signature): &(ReplicaId, Signature)| pb::Vote {
        replica: voter.0,
        signature: signature.0.clone(),
    };
    pb::Succession {
        reconfigure: body.reconfigure.to_bytes(),
        start: body.start.0,
        protocol: digest_out(&body.protocol),
        service: digest_out(&body.service),
        votes: body.votes.iter().map(vote).collect(),
    }
}

pub(super) fn succession_in(body: pb::Succession) -> Result<Succession, Malformed> {
    at_most("votes", body.votes.len(), REPLICAS_MAX as usize)?;
    let vote = |vote: pb::Vote| Ok((ReplicaId(vote.replica), signature_in(vote.signature)?));
    let length = body.reconfigure.len();
    let reconfigure = Reconfigure::from_bytes(&body.reconfigure);
    Ok(Succession {
        reconfigure: reconfigure.map_err(|_| Malformed::Length {
            field: "reconfigure",
            length,
            limit: length,
        })?,
        start: Sequence(body.start),
        protocol: digest_in("protocol", &body.protocol)?,
        service: digest_in("service", &body.service)?,
        votes: body.votes.into_iter().map(vote).collect::<Result<_, Malformed>>()?,
    })
}
