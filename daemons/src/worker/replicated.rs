//! A replicated worker's way to its replicas.

use super::WorkerError;
use crate::{
    function::Answer,
    hex, identity,
    pod::{self, PodSpec, Said, SpecError},
    proto::{Accusation, failure::Kind},
    wires::Wires,
    witness::WrongAnswers,
};
use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use quorate_pbft::{
    ClientId, Group, Incarnation, Options, Sequence, SubmitRefused,
    membership::{Chain, Reconfigure},
    runtime::{Client, ClientFailed, ClientSetup, ClientStatus},
};
use std::{
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

/// The worker of a set is the only client that its genesis registers.
const ME: ClientId = ClientId(0);

/// The replicas of a set.
pub(super) struct Replicas {
    client: Client,
    status: watch::Receiver<ClientStatus>,
    quorum: usize,
    members: Arc<Mutex<Members>>,
    wrong: WrongAnswers,
}

/// The group's members in the course of time.
struct Members {
    chain: Chain,
    /// The same as bytes: each receipt goes with them.
    bytes: Bytes,
}

impl Members {
    fn new(chain: Chain) -> Self {
        Self { bytes: chain.to_bytes(), chain }
    }

    fn number(&self) -> u64 {
        self.chain.latest().number
    }

    /// Takes over what the client has seen.
    fn follow(&mut self, status: &ClientStatus) {
        let known = self.number();
        let new = status.successions.iter().filter(|succession| succession.reconfigure.number > known);
        for succession in new {
            // The client has verified it with the same configurations.
            self.chain.extend(succession.clone()).expect("a client goes over to what follows only");
        }
        if self.number() > known {
            self.bytes = self.chain.to_bytes();
        }
    }
}

fn locked(members: &Mutex<Members>) -> MutexGuard<'_, Members> {
    members.lock().expect("nothing panics while it is held")
}

/// What proves an answer.
pub(super) struct Proof {
    /// A `quorate_pbft::Receipt`.
    pub(super) receipt: Bytes,
    /// The [`Chain`] that it is checked with.
    pub(super) chain: Bytes,
}

impl Replicas {
    pub(super) fn connect(
        spec: &PodSpec,
        wires: &Wires,
        peers: watch::Receiver<Vec<Option<String>>>,
    ) -> Result<Self, WorkerError> {
        let members = Members::new(spec.chain()?);
        let latest = members.chain.latest().clone();
        let quorum = usize::try_from(Group::new(&latest).quorum()).unwrap_or(usize::MAX);
        let seed = identity::seed().map_err(SpecError::from)?;
        // The cluster service counts a worker's lives, and a client's must be told apart in that order.
        let life = Incarnation(spec.incarnation);
        let mut setup = ClientSetup::new(latest, ME, spec.identity()?, life, pod::address_book(peers), seed);
        setup.transport.protection = wires.protection(&spec.set);
        let client = Client::connect(setup)?;
        let members = Arc::new(Mutex::new(members));
        Ok(Self { status: client.status(), client, quorum, members, wrong: WrongAnswers::default() })
    }

    /// Which replicas answered otherwise than 2f+1 others.
    pub(super) fn wrong_answers(&self) -> watch::Receiver<Arc<[Accusation]>> {
        self.wrong.said()
    }

    /// Comes when 2f+1 replicas are connected.
    pub(super) async fn ready(&self) {
        self.when(|connected| connected >= self.quorum).await;
    }

    /// Comes when fewer are.
    pub(super) async fn unready(&self) {
        self.when(|connected| connected < self.quorum).await;
    }

    async fn when(&self, is: impl Fn(usize) -> bool) {
        let mut status = self.status.clone();
        if status.wait_for(|status| is(status.connected.len())).await.is_err() {
            // The link's thread has ended, which it does with this process.
            std::future::pending::<()>().await;
        }
    }

    /// Has members replaced as it is told, and says when that has happened. Never comes.
    pub(super) async fn succeed(&self, mut orders: watch::Receiver<Option<String>>, say: impl Fn(&Said)) {
        let mut status = self.status.clone();
        let mut said = locked(&self.members).chain.successions().len();
        let mut asked: Option<BoxFuture<'_, Result<Sequence, ClientFailed>>> = None;
        loop {
            let is_asked = asked.is_some();
            tokio::select! {
                Ok(()) = status.changed() => {
                    let mut members = locked(&self.members);
                    let status = status.borrow_and_update();
                    members.follow(&status);
                    // Also by those who were slower than 2f+1 others.
                    for (replica, suspicion) in &status.suspects {
                        self.wrong.note(*replica, suspicion.sequence, members.number());
                    }
                    for succession in members.chain.successions().iter().skip(said) {
                        said += 1;
                        tracing::info!(number = said, "the group goes on with other members");
                        say(&Said::Succeeded { succession: hex::encode(&succession.to_bytes()) });
                    }
                }
                // Whoever wants it tells it again and again, until it has happened.
                Ok(()) = orders.changed(), if !is_asked => {
                    let order = orders.borrow_and_update().as_deref().and_then(hex::decode);
                    match order.map(|bytes| Reconfigure::from_bytes(&bytes)) {
                        Some(Ok(order)) if order.number <= said as u64 => {}
                        Some(Ok(order)) => asked = Some(self.client.reconfigure(order).boxed()),
                        _ => tracing::warn!("an order to replace a member makes no sense"),
                    }
                }
                outcome = async { asked.as_mut().expect("it is asked").await }, if is_asked => {
                    asked = None;
                    match outcome {
                        Ok(boundary) => tracing::info!(%boundary, "a member will be replaced"),
                        Err(error) => tracing::warn!(%error, "a member is not replaced"),
                    }
                }
                // The link's thread has ended, which it does with this process, and nobody tells any more.
                else => std::future::pending().await,
            }
        }
    }

    /// The answer of 2f+1 replicas and, when asked for, what proves it; or why there is none, and whether it
    /// is worth another try.
    pub(super) fn invoke(
        &self,
        operation: Bytes,
        receipt: bool,
        patience: Duration,
    ) -> impl Future<Output = Result<(Answer, Option<Proof>), (Kind, String)>> + Send + use<> {
        let (client, members) = (self.client.clone(), Arc::clone(&self.members));
        let mut status = self.status.clone();
        let options = Options { receipt, ..Options::default() };
        async move {
            let invoked = client.invoke_within(operation, options, patience).await;
            let (reply, receipt) = invoked.map_err(|error| (kind_of(&error), error.to_string()))?;
            let answer =
                Answer::from_bytes(&reply.result).map_err(|error| (Kind::Unavailable, error.to_string()))?;
            let Some(receipt) = receipt else { return Ok((answer, None)) };
            let is_known = |status: &ClientStatus| {
                let mut members = locked(&members);
                members.follow(status);
                members.number() >= receipt.configuration
            };
            // Its signers may be members that the client has told nobody of yet, which it does in a moment.
            let known = tokio::time::timeout(patience, status.wait_for(is_known)).await;
            if !matches!(known, Ok(Ok(_))) {
                return Err((Kind::Unavailable, "a receipt by members that are not known".into()));
            }
            let chain = locked(&members).bytes.clone();
            Ok((answer, Some(Proof { receipt: receipt.to_bytes().into(), chain })))
        }
    }
}

/// An operation that the group does not take now is tried again; one that it never takes fails at once.
fn kind_of(error: &ClientFailed) -> Kind {
    match error {
        ClientFailed::Refused(SubmitRefused::TooLarge { .. } | SubmitRefused::NoHistory) => Kind::Invalid,
        _ => Kind::Unavailable,
    }
}
