//! One worker's connection: a stream of operations there, a stream of outcomes back, made again whenever
//! it breaks for as long as the worker is wanted.

use super::{core::Event, dispatch::WorkerId};
use crate::{
    proto::{self, InvokeRequest, function_client::FunctionClient},
    tls::Name,
    wires::Wires,
    worker::{BATCH_BYTES, MESSAGE_BYTES_MAX},
};
use rand::RngExt;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// What goes to a worker's connection. Unbounded, because the dispatcher puts no more in flight than
/// the worker has slots.
pub(super) type Operations = mpsc::UnboundedSender<Vec<proto::Operation>>;

/// Messages of operations that HTTP/2 has not taken yet.
const REQUESTS: usize = 16;
const CONNECT: Duration = Duration::from_secs(1);
/// The pause before the first retry; doubles up to the next, jittered by half.
const BACKOFF: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_millis(500);

/// Gives every life of every connection its own number.
#[derive(Clone, Debug, Default)]
pub(super) struct WorkerIds(Arc<AtomicU64>);

impl WorkerIds {
    fn fresh(&self) -> WorkerId {
        WorkerId(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

/// Where a worker is, and who it is.
#[derive(Clone, Debug)]
pub(super) struct To {
    pub(super) wires: Wires,
    pub(super) pod: Name,
    pub(super) address: String,
}

impl To {
    fn channel(&self) -> Result<Channel, tonic::Status> {
        self.wires.channel(&self.address, self.pod.clone(), CONNECT)
    }
}

/// A wanted worker; when it is dropped, its connection ends.
#[derive(Debug)]
pub(super) struct Link(JoinHandle<()>);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Link {
    /// Connects to a set's worker and stays connected. The events carry `generation`, so that those of
    /// a link that was dropped can be told from its successor's.
    pub(super) fn open(
        set: Arc<str>,
        generation: u64,
        to: To,
        ids: WorkerIds,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self(tokio::spawn(async move {
            let mut pause = BACKOFF;
            loop {
                let (up, ended) = live(&set, generation, &to, &ids, &events).await;
                tracing::debug!(%set, address = to.address, up, "the connection to a worker ended: {ended}");
                pause = if up { BACKOFF } else { (pause * 2).min(BACKOFF_MAX) };
                let jitter = rand::rng().random_range(0.5..1.0);
                tokio::time::sleep(pause.mul_f64(jitter)).await;
            }
        }))
    }
}

/// One life: says whether it began, and why it ended.
async fn live(
    set: &Arc<str>,
    generation: u64,
    to: &To,
    ids: &WorkerIds,
    events: &mpsc::Sender<Event>,
) -> (bool, tonic::Status) {
    let (requests, stream) = mpsc::channel(REQUESTS);
    let mut outcomes = match connect(to, ReceiverStream::new(stream)).await {
        Ok(outcomes) => outcomes,
        Err(status) => return (false, status),
    };
    let worker = ids.fresh();
    let (operations, mut batches) = mpsc::unbounded_channel();
    let up = Event::Up { set: Arc::clone(set), generation, worker, operations };
    if events.send(up).await.is_err() {
        return (false, tonic::Status::cancelled("the scheduler ended"));
    }
    let send = async {
        while let Some(batch) = batches.recv().await {
            for request in split(batch) {
                if requests.send(request).await.is_err() {
                    return;
                }
            }
        }
    };
    let receive = async {
        loop {
            match outcomes.message().await {
                Ok(Some(response)) => {
                    let event = Event::Outcomes { worker, outcomes: response.outcomes };
                    if events.send(event).await.is_err() {
                        return tonic::Status::cancelled("the scheduler ended");
                    }
                }
                Ok(None) => return tonic::Status::unavailable("the worker ended the stream"),
                Err(status) => return status,
            }
        }
    };
    let ended = tokio::select! {
        ended = receive => ended,
        () = send => tonic::Status::cancelled("nothing more is sent"),
    };
    // When the scheduler has ended, nobody has to know.
    let _ = events.send(Event::Down { worker }).await;
    (true, ended)
}

async fn connect(
    to: &To,
    requests: ReceiverStream<InvokeRequest>,
) -> Result<tonic::Streaming<proto::InvokeResponse>, tonic::Status> {
    let invoke = async {
        let mut client = FunctionClient::new(to.channel()?).max_decoding_message_size(MESSAGE_BYTES_MAX);
        Ok(client.invoke(requests).await?.into_inner())
    };
    // A worker that takes connections and then says nothing must not hold us.
    tokio::time::timeout(CONNECT * 2, invoke)
        .await
        .unwrap_or_else(|_| Err(tonic::Status::deadline_exceeded("the worker did not take the stream")))
}

/// One message, or as many as keep each of them within [`BATCH_BYTES`].
fn split(batch: Vec<proto::Operation>) -> impl Iterator<Item = InvokeRequest> {
    let mut rest = batch.into_iter().peekable();
    std::iter::from_fn(move || {
        let mut operations = vec![rest.next()?];
        let mut bytes = operations[0].left.len() + operations[0].right.len();
        while let Some(next) = rest.next_if(|next| {
            bytes += next.left.len() + next.right.len();
            bytes <= BATCH_BYTES
        }) {
            operations.push(next);
        }
        Some(InvokeRequest { operations })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_split_by_its_bytes_and_nothing_is_lost() {
        let operation =
            |tag, bytes| proto::Operation { tag, left: vec![0; bytes].into(), ..Default::default() };
        let sizes = [10, BATCH_BYTES - 20, 20, BATCH_BYTES * 2, 1, 1];
        let batch: Vec<_> = (0..).zip(sizes).map(|(tag, bytes)| operation(tag, bytes)).collect();
        let tags: Vec<Vec<u64>> =
            split(batch).map(|request| request.operations.iter().map(|o| o.tag).collect()).collect();
        assert_eq!(tags, [vec![0, 1], vec![2], vec![3], vec![4, 5]]);
    }
}
