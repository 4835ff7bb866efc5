//! How the cluster service is asked: gRPC, and the same as REST on the same port.

use super::reconcile::FUNCTIONS;
use crate::{
    backend::{Backend, BackendError},
    engine::Engine,
    proto::{
        self,
        cluster_server::{Cluster as ClusterApi, ClusterServer},
    },
    set::{Member, MemberState, SetRecord, SetState},
    shutdown::{self, Shutdown},
    store::StoreError,
    wires::Incoming,
};
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use quorate_dag::Function;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

/// How long a caller waits for the service's task.
const PATIENCE: Duration = Duration::from_secs(10);

/// Named services that may exist: a bound on what callers can make us keep.
const SERVICES_MAX: usize = 1024;

/// Where services lie in the store.
const SERVICES: &str = "services/";

/// What the service's task is asked.
pub enum Request {
    /// Have so many sets.
    Scale {
        /// Of which function.
        function: Function,
        /// How many.
        desired: u32,
        /// Only ever more.
        at_least: bool,
        /// Why, for the log.
        reason: String,
        /// How many it will be, within the configured bounds.
        answer: oneshot::Sender<u32>,
    },
    /// Have one more set.
    Create {
        /// Of which function.
        function: Function,
        /// Its name, unless it could not be begun.
        answer: oneshot::Sender<Option<String>>,
    },
    /// Have one less: this.
    DeleteSet {
        /// The set.
        name: String,
        /// Whether it was there.
        answer: oneshot::Sender<bool>,
    },
    /// End a pod. It is a member of a set, so it will be made again.
    DeletePod {
        /// The pod.
        name: String,
        /// Whether it was there.
        answer: oneshot::Sender<bool>,
    },
    /// All sets.
    Sets {
        /// Their records.
        answer: oneshot::Sender<Vec<SetRecord>>,
    },
}

/// Serves until shutdown.
pub(super) async fn serve(
    incoming: Incoming,
    ask: mpsc::Sender<Request>,
    engine: Arc<dyn Engine>,
    backend: Arc<dyn Backend>,
    mut shutdown: Shutdown,
) {
    let api = Api { ask, engine, backend };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<ClusterServer<Api>>().await;
    let rest = Router::new()
        .route("/healthz", get(async || "ok"))
        .route("/v1/pods", get(list_pods))
        .route("/v1/pods/{name}", get(get_pod).delete(delete_pod))
        .route("/v1/sets", get(list_sets))
        .route("/v1/sets/{name}", get(get_set).delete(delete_set))
        .route("/v1/functions/{function}/sets", axum::routing::post(create_set))
        .with_state(api.clone());
    let grpc = tonic::service::Routes::new(ClusterServer::new(api)).add_service(health_service);
    let ended = async move { shutdown::requested(&mut shutdown).await };
    if let Err(error) =
        axum::serve(incoming, grpc.into_axum_router().merge(rest)).with_graceful_shutdown(ended).await
    {
        tracing::error!(%error, "the cluster service's port failed");
    }
}

#[derive(Clone)]
struct Api {
    ask: mpsc::Sender<Request>,
    /// Services are `services/<name>` → function; endpoints are looked up when asked for.
    engine: Arc<dyn Engine>,
    /// What it has of names is made after ours, and removed before.
    backend: Arc<dyn Backend>,
}

impl Api {
    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T, Status> {
        let (answer, answered) = oneshot::channel();
        let gone = || Status::unavailable("the cluster service is ending; try again");
        let asked = async {
            self.ask.send(request(answer)).await.map_err(|_| gone())?;
            answered.await.map_err(|_| gone())
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .map_err(|_| Status::deadline_exceeded("the cluster service is busy; try again"))?
    }

    async fn sets(&self) -> Result<Vec<SetRecord>, Status> {
        self.ask(|answer| Request::Sets { answer }).await
    }

    async fn pods(&self) -> Result<Vec<proto::Pod>, Status> {
        Ok(self.sets().await?.iter().flat_map(|set| set.members().map(|member| pod(set, member))).collect())
    }

    async fn create(&self, function: Function) -> Result<String, Status> {
        self.ask(|answer| Request::Create { function, answer }).await?.ok_or_else(|| {
            let function = function.name();
            Status::already_exists(format!(
                "no further set of {function} was begun: there are as many as functions.{function}.pods_max \
                 allows, or one is on its way already"
            ))
        })
    }

    async fn services(&self) -> Result<BTreeMap<String, Function>, Status> {
        let (entries, _) = self.engine.store().list(SERVICES).await.map_err(unavailable)?;
        let known = entries.into_iter().filter_map(|entry| {
            let function = Function::from_name(std::str::from_utf8(&entry.value).ok()?)?;
            Some((entry.key.strip_prefix(SERVICES)?.to_string(), function))
        });
        Ok(known.collect())
    }

    async fn endpoints(&self, name: String, function: Function) -> Result<proto::Service, Status> {
        let sets = self.sets().await?;
        let serving = sets.into_iter().filter(|set| set.function == function && set.state == SetState::Ready);
        let endpoints = serving.filter_map(|set| set.worker.address).collect();
        Ok(proto::Service { name, function: function.name().into(), endpoints })
    }
}

fn unavailable(error: StoreError) -> Status {
    Status::unavailable(error.to_string())
}

fn not_offered(error: BackendError) -> Status {
    match error {
        BackendError::Refused { reason } => Status::invalid_argument(reason),
        error => Status::unavailable(error.to_string()),
    }
}

fn function(name: &str) -> Result<Function, Status> {
    Function::from_name(name).ok_or_else(|| {
        let known: Vec<_> = FUNCTIONS.iter().map(|function| function.name()).collect();
        Status::invalid_argument(format!("there is no function `{name}`; there are {}", known.join(", ")))
    })
}

fn pod(set: &SetRecord, member: &Member) -> proto::Pod {
    let index = set.index_of(&member.pod);
    proto::Pod {
        name: member.pod.clone(),
        daemon: super::daemon_of(index).name().into(),
        function: set.function.name().into(),
        set: set.name.clone(),
        index,
        pid: member.pid,
        address: member.address.clone().unwrap_or_default(),
        state: match member.state {
            MemberState::Starting => "starting",
            MemberState::Ready => "ready",
            MemberState::Down => "down",
        }
        .into(),
        incarnation: member.incarnation,
    }
}

#[tonic::async_trait]
impl ClusterApi for Api {
    async fn create_pod(
        &self,
        request: tonic::Request<proto::CreatePodRequest>,
    ) -> Result<tonic::Response<proto::Pod>, Status> {
        let function = function(&request.get_ref().function)?;
        let set = self.create(function).await?;
        let name = format!("{set}-worker");
        let starting = proto::Pod {
            name,
            set,
            daemon: "worker".into(),
            function: function.name().into(),
            state: "starting".into(),
            incarnation: 1,
            ..proto::Pod::default()
        };
        Ok(tonic::Response::new(starting))
    }

    async fn get_pod(
        &self,
        request: tonic::Request<proto::PodName>,
    ) -> Result<tonic::Response<proto::Pod>, Status> {
        let name = &request.get_ref().name;
        let found = self.pods().await?.into_iter().find(|pod| pod.name == *name);
        found.map(tonic::Response::new).ok_or_else(|| Status::not_found(format!("there is no pod `{name}`")))
    }

    async fn list_pods(
        &self,
        request: tonic::Request<proto::ListPodsRequest>,
    ) -> Result<tonic::Response<proto::PodList>, Status> {
        let function = &request.get_ref().function;
        let mut pods = self.pods().await?;
        pods.retain(|pod| function.is_empty() || pod.function == *function);
        Ok(tonic::Response::new(proto::PodList { pods }))
    }

    async fn delete_pod(
        &self,
        request: tonic::Request<proto::PodName>,
    ) -> Result<tonic::Response<proto::Deleted>, Status> {
        let name = request.into_inner().name;
        let existed = self.ask(|answer| Request::DeletePod { name, answer }).await?;
        Ok(tonic::Response::new(proto::Deleted { existed }))
    }

    async fn create_service(
        &self,
        request: tonic::Request<proto::CreateServiceRequest>,
    ) -> Result<tonic::Response<proto::Service>, Status> {
        let request = request.into_inner();
        let function = function(&request.function)?;
        let known = self.services().await?;
        if known.len() >= SERVICES_MAX && !known.contains_key(&request.name) {
            return Err(Status::resource_exhausted(format!(
                "there are {SERVICES_MAX} services already; delete one first"
            )));
        }
        let key = format!("{SERVICES}{}", request.name);
        self.engine.store().put(&key, function.name().into(), None).await.map_err(unavailable)?;
        self.backend.offer(&request.name, function.name()).await.map_err(not_offered)?;
        Ok(tonic::Response::new(self.endpoints(request.name, function).await?))
    }

    async fn get_service(
        &self,
        request: tonic::Request<proto::ServiceName>,
    ) -> Result<tonic::Response<proto::Service>, Status> {
        let name = request.into_inner().name;
        let function = self.services().await?.remove(&name);
        let function = function.ok_or_else(|| Status::not_found(format!("there is no service `{name}`")))?;
        Ok(tonic::Response::new(self.endpoints(name, function).await?))
    }

    async fn list_services(
        &self,
        _request: tonic::Request<proto::ListServicesRequest>,
    ) -> Result<tonic::Response<proto::ServiceList>, Status> {
        let known = self.services().await?;
        let mut services = Vec::with_capacity(known.len());
        for (name, function) in known {
            services.push(self.endpoints(name, function).await?);
        }
        Ok(tonic::Response::new(proto::ServiceList { services }))
    }

    async fn delete_service(
        &self,
        request: tonic::Request<proto::ServiceName>,
    ) -> Result<tonic::Response<proto::Deleted>, Status> {
        let key = format!("{SERVICES}{}", request.get_ref().name);
        self.backend.withdraw(&request.get_ref().name).await.map_err(not_offered)?;
        let existed = self.engine.store().delete(&key).await.map_err(unavailable)?;
        Ok(tonic::Response::new(proto::Deleted { existed }))
    }

    async fn create_worker_set(
        &self,
        request: tonic::Request<proto::CreateWorkerSetRequest>,
    ) -> Result<tonic::Response<proto::WorkerSet>, Status> {
        let function = function(&request.get_ref().function)?;
        let name = self.create(function).await?;
        let set = proto::WorkerSet {
            name,
            function: function.name().into(),
            state: "starting".into(),
            ..proto::WorkerSet::default()
        };
        Ok(tonic::Response::new(set))
    }

    async fn delete_worker_set(
        &self,
        request: tonic::Request<proto::WorkerSetName>,
    ) -> Result<tonic::Response<proto::Deleted>, Status> {
        let name = request.into_inner().name;
        let existed = self.ask(|answer| Request::DeleteSet { name, answer }).await?;
        Ok(tonic::Response::new(proto::Deleted { existed }))
    }

    async fn scale(
        &self,
        request: tonic::Request<proto::ScaleRequest>,
    ) -> Result<tonic::Response<proto::ScaleResponse>, Status> {
        let proto::ScaleRequest { function: name, desired, at_least, reason } = request.into_inner();
        let function = function(&name)?;
        let desired =
            self.ask(|answer| Request::Scale { function, desired, at_least, reason, answer }).await?;
        Ok(tonic::Response::new(proto::ScaleResponse { desired }))
    }
}

/// A gRPC status as a problem document.
struct Problem(Status);

impl From<Status> for Problem {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self.0.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            tonic::Code::InvalidArgument => StatusCode::BAD_REQUEST,
            tonic::Code::AlreadyExists => StatusCode::CONFLICT,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        let body = json!({
            "type": "about:blank",
            "title": status.canonical_reason(),
            "status": status.as_u16(),
            "detail": self.0.message(),
        });
        (status, [("content-type", "application/problem+json")], body.to_string()).into_response()
    }
}

fn pod_json(pod: &proto::Pod) -> serde_json::Value {
    json!({
        "name": pod.name, "daemon": pod.daemon, "function": pod.function, "set": pod.set, "index": pod.index,
        "pid": pod.pid, "address": pod.address, "state": pod.state, "incarnation": pod.incarnation,
    })
}

fn set_json(set: &SetRecord) -> serde_json::Value {
    serde_json::to_value(set).expect("a record is plain data")
}

async fn list_pods(State(api): State<Api>) -> Result<Response, Problem> {
    Ok(Json(api.pods().await?.iter().map(pod_json).collect::<Vec<_>>()).into_response())
}

async fn get_pod(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let pods = api.pods().await?;
    let found = pods.iter().find(|pod| pod.name == name);
    let found = found.ok_or_else(|| Status::not_found(format!("there is no pod `{name}`")))?;
    Ok(Json(pod_json(found)).into_response())
}

async fn delete_pod(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let existed = api.ask(|answer| Request::DeletePod { name, answer }).await?;
    Ok(deleted(existed))
}

async fn list_sets(State(api): State<Api>) -> Result<Response, Problem> {
    Ok(Json(api.sets().await?.iter().map(set_json).collect::<Vec<_>>()).into_response())
}

async fn get_set(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let sets = api.sets().await?;
    let found = sets.iter().find(|set| set.name == name);
    let found = found.ok_or_else(|| Status::not_found(format!("there is no worker set `{name}`")))?;
    Ok(Json(set_json(found)).into_response())
}

async fn delete_set(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let existed = api.ask(|answer| Request::DeleteSet { name, answer }).await?;
    Ok(deleted(existed))
}

async fn create_set(State(api): State<Api>, Path(name): Path<String>) -> Result<Response, Problem> {
    let set = api.create(function(&name)?).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "name": set }))).into_response())
}

fn deleted(existed: bool) -> Response {
    if existed { StatusCode::ACCEPTED } else { StatusCode::NOT_FOUND }.into_response()
}
