//! The replica: one PBFT replica around the state machine of its function.
//!
//! It listens at two places: the PBFT transport, where its peers and the set's worker reach it, and gRPC
//! for `Replica.Status` and the health service, which says whether the replica is of use to its group. It needs nobody but its peers: a control plane that is
//! gone changes nothing for a replica that runs.

use crate::{
    config::Durability,
    function::FunctionService,
    identity,
    pod::{self, Attachment, PodSpec, Said, SpecError},
    proto::{
        ReplicaStatusRequest, ReplicaStatusResponse,
        replica_server::{Replica, ReplicaServer},
    },
    tls::Role,
    witness,
};
use quorate_pbft::{
    Readiness, ReplicaId, Service,
    runtime::{self, JournalSetup, ReplicaSetup, ReplicaStatus, ServeFailed, SyncPolicy},
};
use tokio::{net::TcpListener, sync::watch};
use tonic::{Request, Response, Status, transport::Server};
use tonic_health::{ServingStatus, server::HealthReporter};

/// Runs a replica until its attachment ends. It needs no more than a current-thread runtime; the state
/// machine has a thread of its own.
///
/// # Errors
/// When the spec makes no sense, the journal can't be used, or no port can be had.
pub async fn run(spec: PodSpec, attachment: Attachment) -> Result<(), ReplicaError> {
    let service = FunctionService(spec.function()?);
    run_as(spec, attachment, service, |_| ()).await
}

/// Runs a replica around another service, with a setup that `adjust` has changed: for tests of what the
/// platform does about a replica that lies.
///
/// # Errors
/// As [`run`].
pub async fn run_as(
    spec: PodSpec,
    attachment: Attachment,
    service: impl Service + Send + 'static,
    adjust: impl FnOnce(&mut ReplicaSetup),
) -> Result<(), ReplicaError> {
    let transport = spec.transport.as_deref().ok_or_else(|| SpecError::Replica {
        pod: spec.pod.clone(),
        missing: "where its transport listens",
    })?;
    let (listener, transport) = (pod::bind(&spec.listen).await?, pod::bind(transport).await?);
    let ports = (listener, transport, attachment.peers, attachment.ended);
    serve_as(spec, ports, attachment.say, service, adjust).await
}

/// Serves on two listeners until `ended` becomes true, and says what a pod says through `say`.
///
/// When it says that it listens, its journal exists: from then on it must not be started without one.
///
/// # Errors
/// When the spec makes no sense, the journal can't be used, or a listener fails.
pub async fn serve(
    spec: PodSpec,
    listener: TcpListener,
    transport: TcpListener,
    peers: watch::Receiver<Vec<Option<String>>>,
    ended: watch::Receiver<bool>,
    say: impl Fn(&Said),
) -> Result<(), ReplicaError> {
    let service = FunctionService(spec.function()?);
    serve_as(spec, (listener, transport, peers, ended), say, service, |_| ()).await
}

/// Where a replica listens, where its peers are, and when it has to end.
type Ports = (TcpListener, TcpListener, watch::Receiver<Vec<Option<String>>>, watch::Receiver<bool>);

async fn serve_as(
    spec: PodSpec,
    (listener, transport, peers, mut ended): Ports,
    say: impl Fn(&Said),
    service: impl Service + Send + 'static,
    adjust: impl FnOnce(&mut ReplicaSetup),
) -> Result<(), ReplicaError> {
    let index =
        spec.index.ok_or_else(|| SpecError::Replica { pod: spec.pod.clone(), missing: "its index" })?;
    let listening = Said::Listening {
        address: listener.local_addr()?.to_string(),
        transport: Some(transport.local_addr()?.to_string()),
    };
    let path = spec.journal();
    std::fs::create_dir_all(&path)?;
    let sync = match spec.durability {
        Durability::Disk => SyncPolicy::Data,
        Durability::Process => SyncPolicy::Process,
    };
    let seed = identity::seed().map_err(SpecError::from)?;
    let peers = pod::address_book(peers);
    let (genesis, identity) = (spec.genesis()?, spec.identity()?);
    let mut setup = ReplicaSetup::new(genesis, ReplicaId(index), identity, transport, peers, seed);
    setup.successions = spec.successions()?;
    let wires = spec.wires()?;
    setup.transport.protection = wires.protection(&spec.set);
    setup.journal = Some(JournalSetup { path, sync, create: !spec.resumes });
    adjust(&mut setup);
    let mut handle = runtime::serve(setup, service)?;
    let (reporter, health) = tonic_health::server::health_reporter();
    say(&listening);
    // It takes part from here on: the worker's readiness is what tells whether enough do.
    say(&Said::Ready);
    let server = Server::builder()
        .add_service(ReplicaServer::new(StatusOf { index: ReplicaId(index), status: handle.status() }))
        .add_service(witness::server(witness::of_replica(handle.status())))
        .add_service(health)
        .serve_with_incoming(wires.listen(listener, "replica", &[Role::Control])?);
    let health_of = handle.status();
    tokio::select! {
        served = server => served.map_err(ReplicaError::Server),
        stopped = handle.stopped() => stopped.map_err(ReplicaError::Served),
        () = report(reporter, health_of) => Ok(()),
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    }?;
    handle.shutdown().await.map_err(ReplicaError::Served)
}

/// Says through the health service whether the replica is of use, until it stops.
async fn report(reporter: HealthReporter, mut status: watch::Receiver<ReplicaStatus>) {
    let mut said = None;
    // Without a replica nobody is left to be told.
    while let Ok(now) =
        status.wait_for(|status| Some(status.readiness) != said).await.map(|now| now.readiness)
    {
        if let Some(before) = said {
            tracing::info!(%before, %now, "readiness");
        }
        said = Some(now);
        reporter.set_service_status("", serving(now)).await;
    }
    std::future::pending().await
}

fn serving(readiness: Readiness) -> ServingStatus {
    match readiness {
        Readiness::Ready => ServingStatus::Serving,
        _ => ServingStatus::NotServing,
    }
}

struct StatusOf {
    index: ReplicaId,
    status: watch::Receiver<ReplicaStatus>,
}

#[tonic::async_trait]
impl Replica for StatusOf {
    async fn status(
        &self,
        _: Request<ReplicaStatusRequest>,
    ) -> Result<Response<ReplicaStatusResponse>, Status> {
        let status = self.status.borrow().clone();
        let ignored = status.ignored.into_iter().map(|(kind, count)| (format!("{kind:?}"), count));
        let refused = status.refused.into_iter().map(|(kind, count)| (kind.to_owned(), count));
        Ok(Response::new(ReplicaStatusResponse {
            view: status.view.0,
            leads: status.primary == self.index && !status.changing,
            primary: status.primary.0,
            last_executed: status.last_executed.0,
            stable: status.stable.0,
            connected_peers: u32::try_from(status.connected.len()).unwrap_or(u32::MAX),
            refused: ignored.chain(refused).collect(),
            readiness: status.readiness.to_string(),
        }))
    }
}

/// Why a replica does not run.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// What it is told to be makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// The PBFT replica did not start, or stopped.
    #[error(transparent)]
    Served(#[from] ServeFailed),
    /// No port can be had, or its folder can't be made.
    #[error("no port to listen on, or no folder: {0}")]
    Io(#[from] std::io::Error),
    /// The server ended.
    #[error("the server ended: {0}")]
    Server(#[source] tonic::transport::Error),
}
