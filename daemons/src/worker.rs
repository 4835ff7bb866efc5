//! The worker: it takes operations of one function as a stream and answers them, by itself or through
//! the replicas of its set.
//!
//! A plain worker (`replication = "none"`) executes. A replicated one is the PBFT client of its set and
//! executes nothing: every operation is ordered and executed by the replicas, and 2f+1 equal replies are
//! the answer. Both count what is in flight over all streams and answer BUSY above their slots.
//!
//! The gRPC health service says two things: the server as a whole (`""`) is serving as long as the
//! process works, `quorate.v1.Function` when it takes operations, which for a replicated worker means
//! that 2f+1 replicas can be reached.

mod invoke;
mod replicated;

use crate::{
    config::Replication,
    pod::{self, Attachment, PodSpec, Said, SpecError},
    proto::function_server::FunctionServer,
    tls::Role,
    witness,
};
use invoke::{Executor, Invoke};
use quorate_pbft::runtime::ClientFailed;
use replicated::Replicas;
use std::sync::Arc;
use tokio::{net::TcpListener, sync::watch};
use tonic::{server::NamedService, transport::Server};
use tonic_health::ServingStatus;

/// The largest message that is read: operands are bounded by the digit limit, batches by
/// [`BATCH_BYTES`].
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How many bytes of operations go into one message, unless one alone has more.
pub(crate) const BATCH_BYTES: usize = 1 << 20;

/// Runs a worker until its attachment ends. It needs no more than a current-thread runtime.
///
/// # Errors
/// When the spec makes no sense or no port can be had.
pub async fn run(spec: PodSpec, attachment: Attachment) -> Result<(), WorkerError> {
    let listener = pod::bind(&spec.listen).await?;
    let Attachment { say, peers, orders, ended } = attachment;
    serve_told(spec, listener, (peers, orders, ended), say).await
}

/// Serves on a listener until `ended` becomes true, and says what a pod says through `say`.
///
/// # Errors
/// When the spec makes no sense or the listener fails.
pub async fn serve(
    spec: PodSpec,
    listener: TcpListener,
    peers: watch::Receiver<Vec<Option<String>>>,
    ended: watch::Receiver<bool>,
    say: impl Fn(&Said),
) -> Result<(), WorkerError> {
    let (_, orders) = watch::channel(None);
    serve_told(spec, listener, (peers, orders, ended), say).await
}

/// Where the replicas are, the order to replace one, and whether the worker has to end.
type Told = (watch::Receiver<Vec<Option<String>>>, watch::Receiver<Option<String>>, watch::Receiver<bool>);

async fn serve_told(
    spec: PodSpec,
    listener: TcpListener,
    (peers, orders, mut ended): Told,
    say: impl Fn(&Said),
) -> Result<(), WorkerError> {
    let function = spec.function()?;
    let (address, wires) = (listener.local_addr()?, spec.wires()?);
    let executor = match spec.replication {
        Replication::None => Executor::Plain,
        Replication::Byzantine { .. } => Executor::Replicated(Replicas::connect(&spec, &wires, peers)?),
    };
    let executor = Arc::new(executor);
    let (health, health_server) = tonic_health::server::health_reporter();
    let service = <FunctionServer<Invoke> as NamedService>::NAME;
    health.set_service_status(service, ServingStatus::NotServing).await;
    let invoke = Invoke::new(function, Arc::clone(&executor), spec.slots, ended.clone());
    say(&Said::Listening { address: address.to_string(), transport: None });
    let server = Server::builder()
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .add_service(FunctionServer::new(invoke).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_optional_service(executor.witness().map(witness::server))
        .add_service(health_server)
        .serve_with_incoming(wires.listen(listener, "worker", &[Role::Control])?);
    let serving = async {
        executor.ready().await;
        say(&Said::Ready);
        loop {
            health.set_service_status(service, ServingStatus::Serving).await;
            executor.unready().await;
            tracing::warn!(pod = %spec.pod, "fewer than a quorum of replicas can be reached");
            health.set_service_status(service, ServingStatus::NotServing).await;
            executor.ready().await;
        }
    };
    tokio::select! {
        served = server => served.map_err(WorkerError::Server),
        () = serving => Ok(()),
        () = executor.succeed(orders, &say) => Ok(()),
        _ = ended.wait_for(|ended| *ended) => Ok(()),
    }
}

/// Why a worker does not run.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// What it is told to be makes no sense.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It can't be a client of its replicas.
    #[error("can't be the client of the set's replicas: {0}")]
    Client(#[from] ClientFailed),
    /// No port can be had.
    #[error("no port to listen on: {0}")]
    Listen(#[from] std::io::Error),
    /// The server ended.
    #[error("the server ended: {0}")]
    Server(#[source] tonic::transport::Error),
}
