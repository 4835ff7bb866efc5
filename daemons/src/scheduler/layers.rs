//! Layer queues: the burst buffer of each function. Operations that found no free slot wait there, and
//! come back, to this scheduler or another, when there are slots; whoever executes one reports to the
//! scheduler that owns the run.

use super::{
    core::{Event, Job},
    dispatch::{Item, place},
    leases::Leases,
    meters::Meters,
};
use crate::{
    engine::Engine,
    proto::{NodeOutcome, ReportRequest, scheduler_client::SchedulerClient},
    queue::{Handle, QueueError, QueueName},
    set::{DAEMONS, DaemonRecord},
    store::StoreError,
    tls::Role,
    wires::Wires,
};
use bytes::Bytes;
use quorate_dag::{Function, Limits, Value};
use serde::{Deserialize, Serialize};
use std::{sync::Arc, time::Duration};
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

/// The largest batch that SQS gives.
const BATCH: usize = 10;
/// A long poll, and how long a receiver that can't reach its queue rests.
const POLL: Duration = Duration::from_secs(20);
const REST: Duration = Duration::from_millis(500);
/// A report is repeated this often before its message is left to come back.
const REPORTS: u32 = 3;
const REPORT: Duration = Duration::from_secs(1);

/// An operation on its layer queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerMessage {
    /// Where the scheduler that owns the run takes reports.
    pub(super) owner: String,
    pub(super) request: Uuid,
    pub(super) node: u32,
    pub(super) function: String,
    pub(super) left: String,
    pub(super) right: String,
    pub(super) digits_max: u32,
    pub(super) receipt: bool,
    pub(super) rank: u64,
    /// Milliseconds since 1970 after which nobody waits for it.
    pub(super) deadline_ms: u64,
}

/// An operation that was taken from its layer queue.
#[derive(Clone, Debug)]
pub(super) struct Taken {
    pub(super) message: LayerMessage,
    /// The operands in canonical encoding.
    pub(super) left: Bytes,
    pub(super) right: Bytes,
    pub(super) handle: Handle,
}

/// The layer queues of this platform, as one scheduler uses them.
pub(super) struct Layers {
    engine: Arc<dyn Engine>,
    leases: [Leases; Function::ALL.len()],
    /// Where this scheduler takes reports: those to itself stay in the process.
    me: String,
    wires: Wires,
    meters: Arc<Meters>,
    events: mpsc::Sender<Event>,
}

impl Layers {
    pub(super) async fn open(
        engine: Arc<dyn Engine>,
        lease: Duration,
        (me, wires): (String, Wires),
        meters: Arc<Meters>,
        events: mpsc::Sender<Event>,
    ) -> Result<Self, QueueError> {
        let open = async |function| Ok(Leases::new(engine.queue(&QueueName::layer(function)).await?, lease));
        let leases = [
            open(Function::ALL[0]).await?,
            open(Function::ALL[1]).await?,
            open(Function::ALL[2]).await?,
            open(Function::ALL[3]).await?,
        ];
        Ok(Self { engine, leases, me, wires, meters, events })
    }

    /// Puts operations on their layer queue; when that fails they come back to the dispatcher.
    pub(super) async fn spill(&self, function: Function, items: Vec<(LayerMessage, Item<Job>)>) {
        let bodies = items
            .iter()
            .map(|(message, _)| serde_json::to_vec(message).expect("plain fields serialise").into())
            .collect();
        let queue = self.leases[place(function)].queue();
        match queue.send(bodies).await {
            Ok(()) => self.meters.spilled(function, items.len()),
            Err(error) => {
                tracing::warn!(%function, count = items.len(), %error, "operations stay here");
                let items = items.into_iter().map(|(_, item)| item).collect();
                // When the scheduler has ended, nobody waits for them.
                let _ = self.events.send(Event::NotSpilled(items)).await;
            }
        }
    }

    /// Takes operations back as long as there is `credit` for them.
    pub(super) async fn take(&self, function: Function, mut credit: watch::Receiver<usize>) {
        let leases = &self.leases[place(function)];
        loop {
            let Ok(room) = credit.wait_for(|room| *room > 0).await.map(|room| *room) else { return };
            // Once begun a receive is not given up: what it had taken would be nobody's for a lease.
            let received = leases.queue().receive(room.min(BATCH), leases.lease(), POLL).await;
            match received {
                Ok(messages) if messages.is_empty() => {}
                Ok(messages) => {
                    self.meters.taken(function, messages.len());
                    let mut taken = Vec::with_capacity(messages.len());
                    for message in messages {
                        match self.read(function, &message.body, message.handle) {
                            Ok(operation) => {
                                leases.hold(operation.handle.clone());
                                taken.push(operation);
                            }
                            Err(error) => {
                                // It stays under its lease, comes back, and ends as a dead letter.
                                tracing::error!(queue = %leases.queue().name(), %error, "not an operation");
                            }
                        }
                    }
                    if self.events.send(Event::Taken { function, taken }).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a layer can't be read");
                    tokio::time::sleep(REST).await;
                }
            }
        }
    }

    fn read(&self, function: Function, body: &[u8], handle: Handle) -> Result<Taken, ReadError> {
        let message: LayerMessage = serde_json::from_slice(body)?;
        if message.function != function.name() {
            return Err(ReadError::Function(message.function));
        }
        let limits =
            Limits { digits: usize::try_from(message.digits_max).unwrap_or(usize::MAX), ..Limits::default() };
        let value = |text: &str| Value::parse(text, &limits).map(|value| Bytes::from(value.to_bytes()));
        let (left, right) = (value(&message.left)?, value(&message.right)?);
        Ok(Taken { message, left, right, handle })
    }

    /// The operation is done with: its message goes.
    pub(super) async fn discard(&self, function: Function, handles: Vec<Handle>) {
        let leases = &self.leases[place(function)];
        if let Err(error) = leases.queue().delete(&handles).await {
            // It comes back, is executed again, and reported to somebody who does not need it.
            tracing::warn!(%function, %error, "a message of a layer was not deleted");
        }
        handles.iter().for_each(|handle| leases.release(handle));
    }

    /// Lets a message come back when its lease lapses.
    pub(super) fn release(&self, function: Function, handle: &Handle) {
        self.leases[place(function)].release(handle);
    }

    /// Tells the owner of a run what became of its operations; then their messages go.
    pub(super) async fn report(&self, function: Function, owner: String, done: Vec<(NodeOutcome, Handle)>) {
        let (outcomes, handles): (Vec<_>, Vec<_>) = done.into_iter().unzip();
        let told = if owner == self.me {
            self.events.send(Event::Reported(outcomes)).await.is_ok()
        } else {
            self.tell(&owner, outcomes).await
        };
        if told {
            self.discard(function, handles).await;
        } else {
            // The messages come back when their leases lapse: the owner may live and wait for them.
            handles.iter().for_each(|handle| self.leases[place(function)].release(handle));
        }
    }

    /// Whether the messages may go: the owner knows, or there is no owner any more.
    async fn tell(&self, owner: &str, outcomes: Vec<NodeOutcome>) -> bool {
        for attempt in 1..=REPORTS {
            match tokio::time::timeout(REPORT, call(&self.wires, owner, outcomes.clone())).await {
                Ok(Ok(())) => return true,
                Ok(Err(error)) => tracing::debug!(owner, attempt, %error, "a report failed"),
                Err(_) => tracing::debug!(owner, attempt, "a report took too long"),
            }
            match self.lives(owner).await {
                // Gone: the request's message lapses, and its next owner runs it again.
                Ok(false) => return true,
                Ok(true) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => tracing::warn!(%error, "whether an owner lives is not known"),
            }
        }
        false
    }

    async fn lives(&self, owner: &str) -> Result<bool, StoreError> {
        let (schedulers, _) = self.engine.store().list(&format!("{DAEMONS}scheduler/")).await?;
        Ok(schedulers
            .iter()
            .filter_map(|entry| serde_json::from_slice::<DaemonRecord>(&entry.value).ok())
            .any(|record| record.address.as_deref() == Some(owner)))
    }

    /// Renews the leases of what was taken, for ever.
    pub(super) async fn renew(&self) {
        futures::future::join_all(self.leases.iter().map(Leases::renew)).await;
    }

    /// Gives back what was taken.
    pub(super) async fn give_back(&self) {
        futures::future::join_all(self.leases.iter().map(Leases::give_back)).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it is of function `{0}`")]
    Function(String),
    #[error(transparent)]
    Value(#[from] quorate_dag::ValueError),
}

async fn call(wires: &Wires, address: &str, outcomes: Vec<NodeOutcome>) -> Result<(), tonic::Status> {
    let channel = wires.channel(address, Role::Control.name(), REPORT)?;
    SchedulerClient::new(channel).report(ReportRequest { outcomes }).await.map(|_| ())
}
