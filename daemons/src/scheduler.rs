//! The scheduler: takes requests from inbound, runs their graphs on the workers, concludes them.
//!
//! ```text
//! inbound ──▶ Inbound ──planned requests──▶ Core ──batches──▶ Link ──gRPC──▶ worker
//!    ▲           ▲                          │ ▲ ◀──outcomes── Link ◀───────── worker
//!    └─conclude──┴──────────ended runs──────┘ └─◀──▶ Layers ◀──▶ layer queues, other schedulers
//! ```
//!
//! One task, the core, owns all that changes: the runs and the dispatcher. Everything else
//! waits for something (a queue, a connection, the store) and tells the core in an event. So no lock is
//! held on the way of an operation, and nothing on that way polls.
//!
//! A request belongs to whichever scheduler received it until its lease on the message lapses. Two
//! schedulers may run one request at the same time; functions are pure, so they come to the same end,
//! and the first to finish the record wins. How far a long request is, is kept in the store (`kept`).

pub(crate) mod ahead;
mod api;
mod core;
mod dispatch;
mod inbound;
mod kept;
mod layers;
mod leases;
mod link;
mod meters;
mod proof;
mod scale;
mod sets;
mod sweep;
mod work;

use self::{
    core::{Core, Surroundings},
    inbound::Inbound,
    layers::Layers,
    meters::Meters,
};
use crate::{
    config::Config,
    engine::Engine,
    queue::QueueError,
    shutdown::{self, Shutdown},
    tls::Role,
    wires::Wires,
};
use quorate_dag::{Costs, Function};
use std::sync::Arc;
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    task::JoinSet,
};

/// Receivers on inbound: while one batch is on its way, another is taken.
const RECEIVERS: usize = 2;
/// Events that wait for the core; then whoever has more waits.
const EVENTS: usize = 4096;

/// Runs a scheduler until `shutdown` becomes true; then it gives back what it has not finished.
///
/// # Errors
/// When the engine can't be reached at the start, or the listener fails.
pub async fn run(
    config: Arc<Config>,
    engine: Arc<dyn Engine>,
    wires: Wires,
    listener: TcpListener,
    mut shutdown: Shutdown,
) -> Result<(), SchedulerError> {
    let me = config.reached_at(listener.local_addr()?).to_string();
    let meters = Arc::new(Meters::new());
    let (events, core_events) = mpsc::channel(EVENTS);
    let (costs, costs_learnt) = watch::channel(Costs::default());
    let inbound = Inbound::open(
        Arc::clone(&config),
        Arc::clone(&engine),
        costs_learnt,
        Arc::clone(&meters),
        events.clone(),
    );
    let inbound = Arc::new(inbound.await?);
    let layers = Layers::open(
        Arc::clone(&engine),
        config.timeouts.lease,
        (me.clone(), wires.clone()),
        Arc::clone(&meters),
        events.clone(),
    );
    let layers = Arc::new(layers.await?);
    let (scale, functions_wanted) = mpsc::unbounded_channel();
    let credits = Function::ALL.map(|_| watch::channel(0).0);

    // What ends with this function, whichever way it ends.
    let mut tasks = JoinSet::new();
    for (function, credit) in Function::ALL.into_iter().zip(&credits) {
        let (layers, credit) = (Arc::clone(&layers), credit.subscribe());
        tasks.spawn(async move { layers.take(function, credit).await });
    }
    for _ in 0..RECEIVERS {
        tasks.spawn(Arc::clone(&inbound).receive());
    }
    tasks.spawn({
        let inbound = Arc::clone(&inbound);
        async move { inbound.leases().renew().await }
    });
    tasks.spawn({
        let layers = Arc::clone(&layers);
        async move { layers.renew().await }
    });
    tasks.spawn(scale::run(Arc::clone(&engine), wires.clone(), functions_wanted));
    tasks.spawn(sets::watch(Arc::clone(&engine), events.clone()));
    tasks.spawn(sweep::run(Arc::clone(&engine), config.timeouts.clone(), events.clone()));

    let incoming = wires.listen(listener, "scheduler", &[Role::Control])?;
    let server = api::serve(Arc::clone(&config), Arc::clone(&meters), events.clone(), incoming);
    let around = Surroundings {
        config,
        wires,
        me,
        inbound: Arc::clone(&inbound),
        layers: Arc::clone(&layers),
        meters,
        events,
        costs,
        credits,
        scale,
    };
    // A set of one: what it gave is taken once, by whoever asks first, and then it is empty. The core is told to
    // end by the same signal as this function, so either may see the other's end first.
    let mut core = JoinSet::new();
    core.spawn(Core::new(around).run(core_events, shutdown.clone()));
    let mut served = tokio::select! {
        served = server => served.map_err(SchedulerError::Server),
        () = shutdown::requested(&mut shutdown) => Ok(()),
        // A scheduler without its core, or without one of those who wait for it, would take requests and
        // let them lie: it ends, and another runs them.
        Some(Err(panic)) = core.join_next() => Err(SchedulerError::Part(panic)),
        Some(Err(panic)) = tasks.join_next() => Err(SchedulerError::Part(panic)),
    };
    tasks.abort_all();
    if served.is_ok()
        && let Some(Err(panic)) = core.join_next().await
    {
        served = Err(SchedulerError::Part(panic));
    }
    core.abort_all();
    inbound.leases().give_back().await;
    layers.give_back().await;
    served
}

/// Why a scheduler does not run.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The queues can't be reached.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The listener has no address.
    #[error("the listener failed: {0}")]
    Listen(#[from] std::io::Error),
    /// The server ended.
    #[error("the server ended: {0}")]
    Server(#[source] tonic::transport::Error),
    /// One of its tasks panicked.
    #[error("a part of the scheduler ended: {0}")]
    Part(#[source] tokio::task::JoinError),
}
