//! What the platform has kept of faults.

use super::{
    Gateway, Path,
    platform::parsed,
    problem::{MALFORMED_ID, NO_PROOF, UNKNOWN_FAULT},
};
use crate::{
    api::{FaultStatus, Problem},
    fault::{FAULTS, Fault, How, PROOFS},
};
use axum::{
    Json,
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use std::sync::Arc;
use uuid::Uuid;

/// The latest faults, up to a thousand, oldest first.
#[utoipa::path(
    get, path = "/v1/faults", tag = "platform",
    responses(
        (status = 200, description = "One entry for each fault", body = Vec<FaultStatus>),
        (status = 503, description = "The store is not available", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn faults(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<FaultStatus>>, Problem> {
    let (kept, _) = gateway.engine.store().list(FAULTS).await?;
    Ok(Json(parsed(&kept).map(status).collect()))
}

/// The proof that a replica lied, to be checked with `quorate verify --fault`.
#[utoipa::path(
    get, path = "/v1/faults/{id}/proof", tag = "platform",
    params(("id" = Uuid, Path, description = "The fault's id")),
    responses(
        (status = 200, description = "The proof with its set's genesis", body = Object),
        (status = 404, description = "No such fault, or nothing proves it", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn proof(
    State(gateway): State<Arc<Gateway>>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let id: Uuid = id.parse().map_err(|_| MALFORMED_ID.with(format!("`{id:.80}` is not a UUID")))?;
    let store = gateway.engine.store();
    if let Some(proof) = store.get(&format!("{PROOFS}{id}")).await? {
        return Ok(([(header::CONTENT_TYPE, "application/json")], proof.value).into_response());
    }
    Err(match store.get(&format!("{FAULTS}{id}")).await? {
        Some(_) => NO_PROOF.with(format!("nothing that was signed proves fault {id}")),
        None => UNKNOWN_FAULT.with(format!("there is no fault {id}")),
    })
}

fn status(fault: Fault) -> FaultStatus {
    let Fault { id, kind, set, pod, seen, how, lie, replaced_ms, .. } = fault;
    let (seconds, nanos) = id.get_timestamp().map_or((0, 0), |time| time.to_unix());
    let convicted = lie.as_ref().is_some_and(|lie| lie.convicted);
    let (how, done) = match how {
        How::Killed => ("killed", "restarted"),
        How::Stopped => ("stopped", "restarted"),
        How::Lying if convicted => ("lying", "replaced"),
        How::Lying => ("lying", "noted"),
    };
    let needed = lie.as_ref().map(|lie| lie.needed);
    let (kinds, accusers, proven_by) =
        lie.map(|lie| (lie.kinds, lie.accusers, lie.proven_by)).unwrap_or_default();
    FaultStatus {
        id,
        at_ms: seconds * 1000 + u64::from(nanos / 1_000_000),
        kind,
        set,
        pod,
        how: how.into(),
        seen,
        kinds,
        accusers,
        needed,
        proven_by,
        done: done.into(),
        replaced_ms,
    }
}
