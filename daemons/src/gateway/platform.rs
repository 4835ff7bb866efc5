//! What the platform says of itself: processes, queues, dead letters, health, metrics; and scaling.

use super::{
    Gateway, Path,
    problem::{BODY_TOO_LARGE, MALFORMED_BODY, UNAVAILABLE, UNKNOWN_FUNCTION, UNKNOWN_QUEUE},
};
use crate::{
    api::{DeadMessage, Health, Problem, ProcessStatus, QueueStatus, Redriven, Scale, ScalingStatus},
    monitor,
    proto::{
        ReplicaStatusRequest, ReplicaStatusResponse, ScaleRequest, cluster_client::ClusterClient,
        replica_client::ReplicaClient,
    },
    queue::{Queue, QueueName},
    set::{DAEMONS, DaemonRecord, Member, MemberState, SCALING, SETS, SetRecord, SetState},
    store::Entry,
    tls::{Name, Role},
    wires::Wires,
};
use axum::{
    Json,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    http::StatusCode,
    response::Response,
};
use futures::future::join_all;
use quorate_dag::Function;
use std::{sync::Arc, time::Duration};
use tokio::time::timeout;

/// How long a replica has to say its view, and the engine to say that it is there.
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
const READY_TIMEOUT: Duration = Duration::from_secs(1);

/// How long the cluster service has to take a number; it brings it about later.
const SCALE_TIMEOUT: Duration = Duration::from_secs(5);

/// Dead letters that are shown at once.
const DEAD_LETTERS: usize = 100;

/// Every process of the platform: daemons, workers, replicas.
#[utoipa::path(
    get, path = "/v1/status", tag = "platform",
    responses(
        (status = 200, description = "One entry for each process", body = Vec<ProcessStatus>),
        (status = 503, description = "The store is not available", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn status(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<ProcessStatus>>, Problem> {
    let store = gateway.engine.store();
    let (daemons, sets) = tokio::try_join!(store.list(DAEMONS), store.list(SETS))?;
    let mut all: Vec<_> = parsed(&daemons.0).map(of_daemon).collect();
    let sets: Vec<SetRecord> = parsed(&sets.0).collect();
    let wires = &gateway.wires;
    // All replicas are asked at once: one that does not answer costs its own time-out, not the sum.
    let replicas = sets.iter().flat_map(|set| {
        set.replicas.iter().zip(0..).map(move |(replica, index)| async move {
            let view = view_of(wires, replica).await;
            of_replica(set, replica, index, view.as_ref())
        })
    });
    let mut replicas = join_all(replicas).await.into_iter();
    for set in &sets {
        all.push(of_worker(set));
        all.extend(replicas.by_ref().take(set.replicas.len()));
    }
    Ok(Json(all))
}

/// The entries that can be read; one that can't is of another version, and logged.
pub(super) fn parsed<T: serde::de::DeserializeOwned>(entries: &[Entry]) -> impl Iterator<Item = T> {
    entries.iter().filter_map(|entry| {
        serde_json::from_slice(&entry.value)
            .inspect_err(|error| tracing::warn!(key = entry.key, %error, "a record was not understood"))
            .ok()
    })
}

fn of_daemon(daemon: DaemonRecord) -> ProcessStatus {
    ProcessStatus {
        daemon: daemon.daemon,
        function: None,
        set: None,
        index: None,
        pid: Some(daemon.pid),
        pod: None,
        address: daemon.address,
        state: "ready".into(),
        incarnation: None,
        view: None,
        primary: None,
    }
}

fn of_member(daemon: &str, set: &SetRecord, member: &Member) -> ProcessStatus {
    ProcessStatus {
        daemon: daemon.into(),
        function: Some(set.function.name().into()),
        set: Some(set.name.clone()),
        index: None,
        pid: member.pid,
        pod: Some(member.pod.clone()),
        address: member.address.clone(),
        state: match member.state {
            MemberState::Starting => "starting",
            MemberState::Ready => "ready",
            MemberState::Down => "down",
        }
        .into(),
        incarnation: Some(member.incarnation),
        view: None,
        primary: None,
    }
}

/// A worker that is well is in the state of its set.
fn of_worker(set: &SetRecord) -> ProcessStatus {
    let mut status = of_member("worker", set, &set.worker);
    if set.worker.state == MemberState::Ready {
        status.state = match set.state {
            SetState::Starting => "starting",
            SetState::Ready => "ready",
            SetState::Paused => "paused",
            SetState::Draining => "draining",
        }
        .into();
    }
    status
}

fn of_replica(
    set: &SetRecord,
    replica: &Member,
    index: u32,
    view: Option<&ReplicaStatusResponse>,
) -> ProcessStatus {
    ProcessStatus {
        index: Some(index),
        view: view.map(|status| status.view),
        primary: view.map(|status| status.leads),
        ..of_member("replica", set, replica)
    }
}

async fn view_of(wires: &Wires, replica: &Member) -> Option<ReplicaStatusResponse> {
    let name = Name::of_pod(&replica.pod);
    let channel = wires.channel(replica.address.as_ref()?, name, STATUS_TIMEOUT).ok()?;
    let ask =
        async { Some(ReplicaClient::new(channel).status(ReplicaStatusRequest {}).await.ok()?.into_inner()) };
    timeout(STATUS_TIMEOUT, ask).await.ok()?
}

/// Every queue and how much is on it.
#[utoipa::path(
    get, path = "/v1/queues", tag = "platform",
    responses(
        (status = 200, description = "One entry for each queue", body = Vec<QueueStatus>),
        (status = 503, description = "The queues are not available", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn queues(State(gateway): State<Arc<Gateway>>) -> Result<Json<Vec<QueueStatus>>, Problem> {
    let mut all = Vec::new();
    for name in gateway.engine.queues().await? {
        let depth = gateway.engine.queue(&name).await?.depth().await?;
        all.push(QueueStatus {
            queue: name.to_string(),
            waiting: depth.waiting,
            in_flight: depth.in_flight,
            oldest_ms: depth.oldest.map(|oldest| u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX)),
            dead: depth.dead,
        });
    }
    Ok(Json(all))
}

/// What the autoscaler saw and decided last, for each function.
#[utoipa::path(
    get, path = "/v1/scaling", tag = "platform",
    responses(
        (status = 200, description = "One entry for each function that it has looked at", body = Vec<ScalingStatus>),
        (status = 503, description = "The store is not available", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn scaling(
    State(gateway): State<Arc<Gateway>>,
) -> Result<Json<Vec<ScalingStatus>>, Problem> {
    let (entries, _) = gateway.engine.store().list(SCALING).await?;
    Ok(Json(entries.iter().filter_map(|entry| serde_json::from_slice(&entry.value).ok()).collect()))
}

/// The oldest dead letters of a queue, up to a hundred.
#[utoipa::path(
    get, path = "/v1/queues/{queue}/dead-letters", tag = "platform",
    params(("queue" = String, Path, description = "The queue's name")),
    responses(
        (status = 200, description = "Messages that failed too often, oldest first", body = Vec<DeadMessage>),
        (status = 404, description = "No such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn dead_letters(
    State(gateway): State<Arc<Gateway>>,
    Path(queue): Path<String>,
) -> Result<Json<Vec<DeadMessage>>, Problem> {
    let letters = gateway.existing_queue(&queue).await?.dead_letters(DEAD_LETTERS).await?;
    let messages = letters.into_iter().map(|letter| DeadMessage {
        body: String::from_utf8_lossy(&letter.body).into_owned(),
        receives: letter.receives,
        age_ms: u64::try_from(letter.age.as_millis()).unwrap_or(u64::MAX),
    });
    Ok(Json(messages.collect()))
}

/// Puts all dead letters of a queue back on it.
#[utoipa::path(
    post, path = "/v1/queues/{queue}/redrive", tag = "platform",
    params(("queue" = String, Path, description = "The queue's name")),
    responses(
        (status = 200, description = "They are back", body = Redriven),
        (status = 404, description = "No such queue", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn redrive(
    State(gateway): State<Arc<Gateway>>,
    Path(queue): Path<String>,
) -> Result<Json<Redriven>, Problem> {
    let messages = gateway.existing_queue(&queue).await?.redrive().await?;
    Ok(Json(Redriven { messages }))
}

/// States how many worker sets a function shall have.
#[utoipa::path(
    put, path = "/v1/functions/{function}/scale", tag = "platform",
    params(("function" = String, Path, description = "`add`, `sub`, `mul` or `div`")),
    request_body = Scale,
    responses(
        (status = 200, description = "What is wanted now: the number, within pods_min and pods_max", body = Scale),
        (status = 400, description = "The body is malformed", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "No such function", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The cluster service is not available", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn scale(
    State(gateway): State<Arc<Gateway>>,
    Path(function): Path<String>,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Scale>, Problem> {
    let body = body.map_err(|refused| match refused.status() {
        StatusCode::PAYLOAD_TOO_LARGE => BODY_TOO_LARGE.with(refused.body_text()),
        _ => MALFORMED_BODY.with(refused.body_text()),
    })?;
    let function = Function::from_name(&function).ok_or_else(|| {
        UNKNOWN_FUNCTION.with(format!("there are add, sub, mul and div, not `{function:.80}`"))
    })?;
    let wanted: Scale = serde_json::from_slice(&body)
        .map_err(|error| MALFORMED_BODY.with(format!("{error}; expected {{\"desired\": 2}}")))?;
    let desired = timeout(SCALE_TIMEOUT, gateway.scale(function, wanted.desired))
        .await
        .map_err(|_| UNAVAILABLE.with("the cluster service did not answer in time"))??;
    Ok(Json(Scale { desired }))
}

impl Gateway {
    async fn existing_queue(&self, name: &str) -> Result<Arc<dyn Queue>, Problem> {
        let name = QueueName::named(name);
        // Asking an engine for a queue makes it: a misspelt name must not.
        if !self.engine.queues().await?.contains(&name) {
            return Err(UNKNOWN_QUEUE.with(format!("there is no queue `{:.80}`", name.as_str())));
        }
        Ok(self.engine.queue(&name).await?)
    }

    async fn scale(&self, function: Function, desired: u32) -> Result<u32, Problem> {
        let (clusters, _) = self.engine.store().list(&format!("{DAEMONS}cluster/")).await?;
        let address = parsed::<DaemonRecord>(&clusters).find_map(|cluster| cluster.address);
        let address = address.ok_or_else(|| UNAVAILABLE.with("no cluster service is running"))?;
        let refused = |error: &dyn std::error::Error| {
            tracing::warn!(%error, %address, "the cluster service refused");
            UNAVAILABLE.with("the cluster service is not available")
        };
        let channel = self
            .wires
            .channel(&address, Role::Control.name(), SCALE_TIMEOUT)
            .map_err(|error| refused(&error))?;
        let request = ScaleRequest {
            function: function.name().into(),
            desired,
            at_least: false,
            reason: "asked for at the gateway".into(),
        };
        let response = ClusterClient::new(channel).scale(request).await.map_err(|error| refused(&error))?;
        Ok(response.into_inner().desired)
    }

    /// Whether records and store answer.
    async fn engine_answers(&self) -> Result<(), Problem> {
        let ask = async {
            self.engine.records().accepted().await?;
            self.engine.store().get(SETS).await?;
            Ok(())
        };
        timeout(READY_TIMEOUT, ask)
            .await
            .unwrap_or_else(|_| Err(UNAVAILABLE.with(format!("no answer within {READY_TIMEOUT:?}"))))
    }
}

/// Whether the gateway's process answers.
#[utoipa::path(
    get, path = "/healthz", tag = "platform",
    responses((status = 200, description = "It does", body = Health)),
)]
pub(super) async fn healthz() -> Json<Health> {
    Json(Health { status: "ok".into() })
}

/// Whether the gateway can take requests: its engine answers, and it is not about to end.
#[utoipa::path(
    get, path = "/readyz", tag = "platform",
    responses(
        (status = 200, description = "It can", body = Health),
        (status = 503, description = "It can't now", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub(super) async fn readyz(State(gateway): State<Arc<Gateway>>) -> Result<Json<Health>, Problem> {
    if *gateway.shutdown.borrow() {
        return Err(UNAVAILABLE.with("the gateway is about to end"));
    }
    gateway.engine_answers().await?;
    Ok(healthz().await)
}

/// Metrics of this process in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "platform",
    responses((status = 200, description = "Metrics", body = String, content_type = "text/plain")),
)]
pub(super) async fn metrics(State(gateway): State<Arc<Gateway>>) -> Response {
    gateway.measure_queues().await;
    monitor::metrics().await
}

impl Gateway {
    /// Depths are read when somebody looks. Without an answer the last ones stand.
    async fn measure_queues(&self) {
        for function in Function::ALL {
            let Ok(layer) = self.engine.queue(&QueueName::layer(function)).await else { return };
            let Ok(depth) = layer.depth().await else { return };
            self.metrics.layer(function, depth);
        }
        if let Ok(depth) = self.inbound.depth().await {
            self.metrics.inbound(depth);
        }
        if let Ok(accepted) = self.engine.records().accepted().await {
            self.metrics.accepted(accepted);
        }
    }
}
