//! Pods that see what the replicas of their set do, and say so when one lies: each replica says what its
//! PBFT core has evidence of, and the worker who answered it otherwise than 2f+1 others.
//!
//! Who watches is told at once and need not ask: the admin finds a liar without probing for it.

use crate::proto::{
    Accusation, WatchRequest,
    witness_server::{Witness, WitnessServer},
};
use quorate_pbft::{Evidence, ReplicaId, Sequence, runtime::ReplicaStatus};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// What a worker says of a replica that answered an operation otherwise than 2f+1 others.
pub const WRONG_ANSWER: &str = "wrong-answer";

/// Accusations that wait for a slow reader.
const WAITING: usize = 16;

/// The service.
pub type Server = WitnessServer<Watched>;

/// Serves what is said, in the order in which it is said. It only grows, and is bounded by whoever says
/// it: one accusation for each culprit and kind.
#[must_use]
pub fn server(said: watch::Receiver<Arc<[Accusation]>>) -> Server {
    WitnessServer::new(Watched(said))
}

/// What is said.
#[derive(Debug)]
pub struct Watched(watch::Receiver<Arc<[Accusation]>>);

#[tonic::async_trait]
impl Witness for Watched {
    type WatchStream = ReceiverStream<Result<Accusation, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (to, accusations) = mpsc::channel(WAITING);
        let mut said = self.0.clone();
        tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let all = Arc::clone(&said.borrow_and_update());
                for accusation in &all[sent..] {
                    if to.send(Ok(accusation.clone())).await.is_err() {
                        return;
                    }
                }
                sent = all.len();
                tokio::select! {
                    changed = said.changed() => if changed.is_err() { return },
                    () = to.closed() => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(accusations)))
    }
}

/// Follows what a replica has evidence of.
#[must_use]
pub fn of_replica(mut status: watch::Receiver<ReplicaStatus>) -> watch::Receiver<Arc<[Accusation]>> {
    let (tell, said) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let mut known = 0;
        loop {
            let evidence = Arc::clone(&status.borrow_and_update().evidence);
            if evidence.len() > known {
                known = evidence.len();
                tell.send_replace(evidence.iter().filter_map(accusation).collect());
            }
            if status.changed().await.is_err() {
                return;
            }
        }
    });
    said
}

/// What a replica says of another one; that its own state is wrong accuses nobody.
fn accusation(evidence: &Evidence) -> Option<Accusation> {
    Some(Accusation {
        culprit: evidence.culprit()?.0,
        kind: evidence.kind().into(),
        detail: evidence.to_string(),
        proof: match evidence {
            Evidence::Provable(proof) => proof.to_bytes(),
            Evidence::Local { .. } => bytes::Bytes::new(),
        },
        configuration: evidence.configuration(),
    })
}

/// What a worker says of its replicas: once of each.
#[derive(Debug)]
pub struct WrongAnswers(watch::Sender<Arc<[Accusation]>>);

impl Default for WrongAnswers {
    fn default() -> Self {
        Self(watch::Sender::new(Arc::default()))
    }
}

impl WrongAnswers {
    /// What is said.
    #[must_use]
    pub fn said(&self) -> watch::Receiver<Arc<[Accusation]>> {
        self.0.subscribe()
    }

    /// Notes which member of a configuration answered an operation of batch `sequence` otherwise than 2f+1
    /// others.
    pub fn note(&self, replica: ReplicaId, sequence: Sequence, configuration: u64) {
        self.0.send_if_modified(|said| {
            let is_it = |said: &&Accusation| (said.culprit, said.configuration) == (replica.0, configuration);
            if said.iter().any(|known| is_it(&known)) {
                return false;
            }
            let detail = format!(
                "replica {replica} answered an operation of batch {sequence} otherwise than 2f+1 others"
            );
            let kind = WRONG_ANSWER.into();
            let (culprit, proof) = (replica.0, bytes::Bytes::new());
            let accusation = Accusation { culprit, kind, detail, proof, configuration };
            *said = said.iter().cloned().chain([accusation]).collect();
            true
        });
    }
}
