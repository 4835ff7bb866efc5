//! A replicated worker's way to its replicas.

use super::WorkerError;
use crate::{
    function::Answer,
    identity,
    pod::{self, PodSpec, SpecError},
    proto::{Accusation, failure::Kind},
    wires::Wires,
    witness::WrongAnswers,
};
use bytes::Bytes;
use quorate_pbft::{
    ClientId, Group, Incarnation, Options, SubmitRefused,
    runtime::{Client, ClientFailed, ClientSetup, ClientStatus},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

/// The worker of a set is the only client that its genesis registers.
const ME: ClientId = ClientId(0);

/// The replicas of a set.
pub(super) struct Replicas {
    client: Client,
    status: watch::Receiver<ClientStatus>,
    quorum: usize,
    wrong: Arc<WrongAnswers>,
}

impl Replicas {
    pub(super) fn connect(
        spec: &PodSpec,
        wires: &Wires,
        peers: watch::Receiver<Vec<Option<String>>>,
    ) -> Result<Self, WorkerError> {
        let genesis = spec.genesis()?;
        let quorum = usize::try_from(Group::new(&genesis).quorum()).unwrap_or(usize::MAX);
        let seed = identity::seed().map_err(SpecError::from)?;
        // The cluster service counts a worker's lives, and a client's must be told apart in that order.
        let life = Incarnation(spec.incarnation);
        let mut setup = ClientSetup::new(genesis, ME, spec.identity()?, life, pod::address_book(peers), seed);
        setup.transport.protection = wires.protection(&spec.set);
        let client = Client::connect(setup)?;
        Ok(Self { status: client.status(), client, quorum, wrong: Arc::default() })
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

    /// The answer of 2f+1 replicas and, when asked for, the bytes of a receipt; or why there is none, and
    /// whether it is worth another try.
    pub(super) fn invoke(
        &self,
        operation: Bytes,
        receipt: bool,
        patience: Duration,
    ) -> impl Future<Output = Result<(Answer, Bytes), (Kind, String)>> + Send + use<> {
        let (client, wrong) = (self.client.clone(), Arc::clone(&self.wrong));
        let options = Options { receipt, ..Options::default() };
        async move {
            let invoked = client.invoke_within(operation, options, patience).await;
            let (reply, receipt) = invoked.map_err(|error| (kind_of(&error), error.to_string()))?;
            for replica in reply.disagreed.iter() {
                wrong.note(replica, reply.sequence.0);
            }
            let answer =
                Answer::from_bytes(&reply.result).map_err(|error| (Kind::Unavailable, error.to_string()))?;
            Ok((answer, receipt.map(|receipt| receipt.to_bytes().into()).unwrap_or_default()))
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
