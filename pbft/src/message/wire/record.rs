//! The journal's records as bytes.

use bytes::Bytes;
use prost::Message as _;

use super::{
    Malformed, certificate_in, certificate_out, clients_in, clients_out, decode_batch, digest_in, digest_out,
    new_view_in, operations_out, page_out, pages_in, pb, read, signature_in, signed_out,
    signed_view_change_in, signed_view_change_out, succession_in, succession_out, whole,
};
use crate::{
    crypto::{Digest, Principal},
    group::{ReplicaId, Sequence, View},
    message::{PrePrepare, Proof, Unverified},
    replica::Record,
};

/// A journal's record.
pub fn encode_record(record: &Record) -> Bytes {
    use pb::record::Record as Kind;
    let state_at =
        |sequence: Sequence, state: &Digest| pb::StateAt { sequence: sequence.0, state: digest_out(state) };
    let kind = match record {
        Record::PrePrepared(PrePrepare { view, sequence, batch }) => Kind::PrePrepared(pb::PrePrepared {
            view: view.0,
            sequence: sequence.0,
            batch: batch.bytes.clone(),
            operations: operations_out(batch),
        }),
        Record::Prepared { view, sequence, digest } => {
            let digest = digest_out(digest);
            Kind::Prepared(pb::Prepare { view: view.0, sequence: sequence.0, digest })
        }
        Record::Committed { view, sequence, digest } => {
            let digest = digest_out(digest);
            Kind::Committed(pb::Commit { view: view.0, sequence: sequence.0, digest })
        }
        Record::Checkpoint { sequence, state } => Kind::Checkpoint(state_at(*sequence, state)),
        Record::Stable(certificate) => Kind::Stable(certificate_out(certificate)),
        Record::Learned { sequence, batch } => {
            let operations = operations_out(batch);
            Kind::Learned(pb::Body { sequence: sequence.0, batch: batch.bytes.clone(), operations })
        }
        Record::ViewChange(own) => Kind::ViewChange(signed_view_change_out(own)),
        Record::NewView(message) => {
            let (replica, signature) = signed_out(message);
            Kind::NewView(pb::SignedNewView { replica, body: message.bytes.clone(), signature })
        }
        Record::Marks { bound, suspected } => {
            let (bound, suspected) = (clients_out(bound), clients_out(suspected));
            Kind::Marks(pb::Marks { bound, suspected })
        }
        Record::Succession(succession) => Kind::Succession(succession_out(succession)),
        Record::SnapshotBegin { sequence, successions } => {
            let successions = successions.iter().map(succession_out).collect();
            Kind::SnapshotBegin(pb::SnapshotBegin { sequence: sequence.0, successions })
        }
        Record::SnapshotPages { pages } => {
            Kind::SnapshotPages(pb::Pages { pages: pages.iter().map(page_out).collect() })
        }
        Record::SnapshotEnd(certificate) => Kind::SnapshotEnd(certificate_out(certificate)),
    };
    pb::Record { record: Some(kind) }.encode_to_vec().into()
}

/// Reads what [`encode_record`] wrote.
///
/// # Errors
/// When the bytes are no record.
pub fn decode_record(bytes: Bytes) -> Result<Record, Malformed> {
    use pb::record::Record as Kind;
    let body = read::<pb::Record>("record", bytes)?;
    Ok(match body.record.ok_or(Malformed::Missing { field: "record" })? {
        Kind::PrePrepared(body) => Record::PrePrepared(PrePrepare {
            view: View(body.view),
            sequence: Sequence(body.sequence),
            batch: whole(decode_batch(body.batch)?, body.operations)?,
        }),
        Kind::Prepared(body) => Record::Prepared {
            view: View(body.view),
            sequence: Sequence(body.sequence),
            digest: digest_in("digest", &body.digest)?,
        },
        Kind::Committed(body) => Record::Committed {
            view: View(body.view),
            sequence: Sequence(body.sequence),
            digest: digest_in("digest", &body.digest)?,
        },
        Kind::Checkpoint(body) => {
            Record::Checkpoint { sequence: Sequence(body.sequence), state: digest_in("state", &body.state)? }
        }
        Kind::Stable(body) => Record::Stable(certificate_in(body)?),
        Kind::Learned(body) => {
            let batch = whole(decode_batch(body.batch)?, body.operations)?;
            Record::Learned { sequence: Sequence(body.sequence), batch }
        }
        Kind::ViewChange(body) => Record::ViewChange(signed_view_change_in(body)?),
        Kind::NewView(body) => Record::NewView(Unverified {
            sender: Principal::Replica(ReplicaId(body.replica)),
            body: new_view_in(read("new-view", body.body.clone())?)?,
            bytes: body.body,
            proof: Proof::Signature(signature_in(body.signature)?),
        }),
        Kind::Marks(body) => Record::Marks {
            bound: clients_in("bound", &body.bound)?,
            suspected: clients_in("suspected", &body.suspected)?,
        },
        Kind::Succession(body) => Record::Succession(succession_in(body)?.into()),
        Kind::SnapshotBegin(body) => Record::SnapshotBegin {
            sequence: Sequence(body.sequence),
            successions: body.successions.into_iter().map(succession_in).collect::<Result<_, _>>()?,
        },
        Kind::SnapshotPages(body) => Record::SnapshotPages { pages: pages_in(body.pages)? },
        Kind::SnapshotEnd(body) => Record::SnapshotEnd(certificate_in(body)?),
    })
}
