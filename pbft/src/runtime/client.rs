//! Clients of a group, and the link that they share.

use std::{collections::BTreeMap, io, sync::Arc, thread, time::Duration};

use bytes::Bytes;
use thiserror::Error;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};

use super::{AddressBook, TransportSettings, link};
use crate::{
    client::{ClientSettings, Options, Outcome, SubmitRefused},
    crypto::Identity,
    group::{ClientId, Configuration, Incarnation, InvalidConfiguration, ReplicaId, Sequence, Voters},
    membership::{Reconfigure, ReconfigureRefused, Succession},
    message::{Content, Ending},
    receipt::Receipt,
};

/// How long an operation may take unless the setup says otherwise.
const DEADLINE: Duration = Duration::from_secs(30);

/// All that a client needs.
#[derive(Debug)]
pub struct ClientSetup {
    /// The group's genesis, or a later configuration of it.
    pub configuration: Configuration,
    /// Which of its registered clients this is.
    pub id: ClientId,
    /// Its identity: the private half of its key in the configuration.
    pub identity: Identity,
    /// Its life: higher than every one before.
    pub incarnation: Incarnation,
    /// Where the replicas are reached.
    pub peers: watch::Receiver<AddressBook>,
    /// 32 secret random bytes, fresh for every start.
    pub seed: [u8; 32],
    /// How long an operation may take by default.
    pub deadline: Duration,
    /// The state machine's settings; its seed is set here.
    pub settings: ClientSettings,
    /// Sizes and times of connections.
    pub transport: TransportSettings,
}

impl ClientSetup {
    /// A setup with default settings, which are fields to be changed.
    pub fn new(
        configuration: Configuration,
        id: ClientId,
        identity: Identity,
        incarnation: Incarnation,
        peers: watch::Receiver<AddressBook>,
        seed: [u8; 32],
    ) -> Self {
        let (settings, transport) = Default::default();
        let deadline = DEADLINE;
        Self { configuration, id, identity, incarnation, peers, seed, deadline, settings, transport }
    }
}

/// All that a link needs.
#[derive(Debug)]
pub struct LinkSetup {
    /// The group's genesis, or a later configuration of it.
    pub configuration: Configuration,
    /// Where the replicas are reached.
    pub peers: watch::Receiver<AddressBook>,
    /// 32 secret random bytes, fresh for every start.
    pub seed: [u8; 32],
    /// Sizes and times of connections.
    pub transport: TransportSettings,
}

/// What the group answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The service's result.
    pub result: Bytes,
    /// The replicas whose equal answers this rests on: 2f+1 at least.
    pub agreed: Voters,
    /// The replicas that answered something else: liars, for an ordered operation.
    pub disagreed: Voters,
    /// The batch that executed the operation; 0 for a read that was not ordered.
    pub sequence: Sequence,
}

/// Why there is no reply.
#[derive(Debug, Error)]
pub enum ClientFailed {
    /// The configuration can't be used.
    #[error("configuration: {0}")]
    Configuration(#[from] InvalidConfiguration),
    /// The identity is not the one in the configuration, or the client is on the link already.
    #[error("client {0} is not registered with this identity, or is on this link already")]
    Identity(ClientId),
    /// The operation was not taken; nothing was sent.
    #[error(transparent)]
    Refused(#[from] SubmitRefused),
    /// No quorum answered in time. The operation may have been executed, or may be yet.
    #[error("no quorum answered within {0:?}; the operation may still be executed")]
    Deadline(Duration),
    /// The service panicked on the operation; its writes were undone.
    #[error("the service panicked on the operation; nothing was changed")]
    Panicked,
    /// The operation was executed, and its result is gone: replicas keep results for a while only.
    #[error("the operation was executed at {0}, but its result is not kept any more")]
    ResultLost(Sequence),
    /// The operation was executed, and the group could not make a receipt for it any more.
    #[error("the operation was executed, but there is no receipt for it any more")]
    NoReceipt(Box<Reply>),
    /// The group does not follow the order to reconfigure.
    #[error("RECONFIGURE refused: {0}")]
    Reconfigure(#[from] ReconfigureRefused),
    /// The operating system refused a thread or a socket.
    #[error("client's thread: {0}")]
    Io(#[from] io::Error),
    /// The link's thread has ended: it panicked, or the runtime is shutting down.
    #[error("the link to the group has ended")]
    Ended,
}

/// How a replica answered differently from a quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Suspicion {
    /// How often.
    pub times: u64,
    /// The batch that executed the last operation that it answered so; 0 for a read that was not ordered.
    pub sequence: Sequence,
}

impl Suspicion {
    pub(super) fn again(&mut self, sequence: Sequence) {
        (self.times, self.sequence) = (self.times.saturating_add(1), sequence);
    }
}

/// What a link tells about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientStatus {
    /// The replicas that are connected.
    pub connected: Vec<ReplicaId>,
    /// The replicas that answered differently from a quorum, before it or after it. Those that did so before
    /// their place was given to another one are not among them.
    pub suspects: BTreeMap<ReplicaId, Suspicion>,
    /// Operations without an outcome.
    pub in_flight: usize,
    /// Connections that were closed because of what came over them, by kind.
    pub refused: BTreeMap<&'static str, u64>,
    /// What followed the configuration that the link began with: kept in a
    /// [`Chain`](crate::membership::Chain), it says who the members are now.
    pub successions: Vec<Succession>,
}

/// One connection to each replica, shared by any number of clients. It ends when the link and all
/// its clients are dropped.
#[derive(Clone, Debug)]
pub struct Link {
    /// To the thread that keeps the connections; it ends with its last link.
    thread: mpsc::UnboundedSender<link::Start>,
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<ClientStatus>,
    configuration: Arc<Configuration>,
}

impl Link {
    /// Starts a thread that keeps the connections.
    ///
    /// # Errors
    /// When the configuration can't be used, or there is no thread to be had.
    pub fn connect(setup: LinkSetup) -> Result<Self, ClientFailed> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (starts, starts_in) = mpsc::unbounded_channel();
        let link = Self::start(setup, starts)?;
        thread::Builder::new().name("pbft-link".into()).spawn(move || link::run(&runtime, starts_in))?;
        Ok(link)
    }

    /// Starts another link on this one's thread, with connections of its own, perhaps to another
    /// group: many of them cost no more threads.
    ///
    /// # Errors
    /// When the configuration can't be used, or this link's thread has ended.
    pub fn beside(&self, setup: LinkSetup) -> Result<Self, ClientFailed> {
        Self::start(setup, self.thread.clone())
    }

    fn start(setup: LinkSetup, thread: mpsc::UnboundedSender<link::Start>) -> Result<Self, ClientFailed> {
        let LinkSetup { configuration, peers, seed, transport } = setup;
        configuration.validate()?;
        let configuration = Arc::new(configuration);
        let (orders, orders_in) = mpsc::unbounded_channel();
        let (status_out, status) = watch::channel(ClientStatus::default());
        let genesis = Arc::clone(&configuration);
        let start = link::Start {
            configuration: genesis,
            seed,
            transport,
            peers,
            orders: orders_in,
            status: status_out,
        };
        thread.send(start).map_err(|_| ClientFailed::Ended)?;
        Ok(Self { thread, orders, status, configuration })
    }

    /// Puts a client on the link. `deadline` is how long its operations may take by default.
    ///
    /// # Errors
    /// When the identity is not the one in the configuration.
    pub fn client(
        &self,
        id: ClientId,
        identity: Identity,
        incarnation: Incarnation,
        settings: ClientSettings,
        deadline: Duration,
    ) -> Result<Client, ClientFailed> {
        if self.configuration.clients.get(id.index()) != Some(identity.public_key()) {
            return Err(ClientFailed::Identity(id));
        }
        let order = Order::Add { id, identity: Box::new(identity), incarnation, settings };
        self.orders.send(order).map_err(|_| ClientFailed::Ended)?;
        let window = self.configuration.limits.client_window as usize;
        let in_flight = Arc::new(Semaphore::new(window));
        Ok(Client { id, link: self.clone(), in_flight, deadline })
    }

    /// The link's status, which changes while it runs.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.status.clone()
    }
}

/// A client of a group. Cloning is cheap; clones share the window of operations in flight.
#[derive(Clone, Debug)]
pub struct Client {
    id: ClientId,
    link: Link,
    in_flight: Arc<Semaphore>,
    deadline: Duration,
}

impl Client {
    /// Connects to a group, with a link of one's own. Comes back at once: the first operation
    /// waits for a quorum.
    ///
    /// # Errors
    /// When the setup does not fit together.
    pub fn connect(setup: ClientSetup) -> Result<Self, ClientFailed> {
        let ClientSetup { configuration, peers, seed, transport, .. } = setup;
        let link = Link::connect(LinkSetup { configuration, peers, seed, transport })?;
        link.client(setup.id, setup.identity, setup.incarnation, setup.settings, setup.deadline)
    }

    /// Which client this is.
    pub fn id(&self) -> ClientId {
        self.id
    }

    /// Has an operation ordered and executed, exactly once, and gives what 2f+1 replicas answered.
    /// Waits while the client's window is full, for the default deadline in all.
    ///
    /// # Errors
    /// When there is no such answer in time, or it is not a result.
    pub async fn invoke(&self, operation: Bytes) -> Result<Reply, ClientFailed> {
        self.invoke_within(operation, Options::default(), self.deadline).await.map(|(reply, _)| reply)
    }

    /// As [`Client::invoke`], and a receipt for it.
    ///
    /// # Errors
    /// As [`Client::invoke`], and when there is no receipt.
    pub async fn invoke_with_receipt(&self, operation: Bytes) -> Result<(Reply, Receipt), ClientFailed> {
        let options = Options { receipt: true, ..Options::default() };
        match self.invoke_within(operation, options, self.deadline).await? {
            (reply, Some(receipt)) => Ok((reply, receipt)),
            (reply, None) => Err(ClientFailed::NoReceipt(Box::new(reply))),
        }
    }

    /// As [`Client::invoke`], with options and a deadline.
    ///
    /// # Errors
    /// As [`Client::invoke`]. After a deadline the operation stays in the client's window until
    /// the group has answered it.
    pub async fn invoke_within(
        &self,
        operation: Bytes,
        options: Options,
        deadline: Duration,
    ) -> Result<(Reply, Option<Receipt>), ClientFailed> {
        let asks = Asks::Operation(operation, options);
        finish(self.ask(asks, deadline).await?)
    }

    /// Has members replaced, as the operator orders it; gives the batch after which that is in force.
    ///
    /// # Errors
    /// When there is no answer in time, or the group refuses the order.
    pub async fn reconfigure(&self, order: Reconfigure) -> Result<Sequence, ClientFailed> {
        let outcome = self.ask(Asks::Reconfigure(order.into()), self.deadline).await?;
        let (reply, _) = finish(outcome)?;
        Ok(Reconfigure::outcome(&reply.result)?)
    }

    async fn ask(&self, asks: Asks, deadline: Duration) -> Result<Outcome, ClientFailed> {
        let outcome = async {
            let permit = Arc::clone(&self.in_flight).acquire_owned().await;
            let permit = permit.expect("the semaphore is never closed");
            let (answer, answered) = oneshot::channel();
            let order = Order::Invoke { id: self.id, asks, waiting: Waiting { answer, _permit: permit } };
            self.link.orders.send(order).map_err(|_| ClientFailed::Ended)?;
            answered.await.map_err(|_| ClientFailed::Ended)?.map_err(ClientFailed::from)
        };
        let outcome = timeout(deadline, outcome).await;
        outcome.map_err(|_| ClientFailed::Deadline(deadline))?
    }

    /// The status of the client's link.
    pub fn status(&self) -> watch::Receiver<ClientStatus> {
        self.link.status()
    }
}

fn finish(outcome: Outcome) -> Result<(Reply, Option<Receipt>), ClientFailed> {
    let Outcome { ending, content, sequence, agreed, disagreed, receipt, .. } = outcome;
    match (ending, content) {
        (Ending::Done, Content::Full(result)) => {
            Ok((Reply { result, agreed, disagreed, sequence }, receipt.map(|receipt| *receipt)))
        }
        (Ending::Done, Content::Digest(_)) => Err(ClientFailed::ResultLost(sequence)),
        (Ending::Panicked | Ending::NotReadOnly, _) => Err(ClientFailed::Panicked),
    }
}

/// What handles ask of the link's thread.
#[derive(Debug)]
pub(super) enum Order {
    Add { id: ClientId, identity: Box<Identity>, incarnation: Incarnation, settings: ClientSettings },
    Invoke { id: ClientId, asks: Asks, waiting: Waiting },
}

/// What a client is to have done.
#[derive(Debug)]
pub(super) enum Asks {
    Operation(Bytes, Options),
    Reconfigure(Box<Reconfigure>),
}

/// Somebody waits for the outcome.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) answer: oneshot::Sender<Result<Outcome, SubmitRefused>>,
    /// Given back when the operation leaves the client's window, not when its caller gives up.
    _permit: OwnedSemaphorePermit,
}
