//! `Function.Invoke`: operations in, outcomes out in the order in which they are done.

use super::replicated::{Proof, Replicas};
use crate::{
    function::{Answer, Operation},
    pod::Said,
    proto::{self, InvokeRequest, InvokeResponse, failure::Kind, function_server::Function as Service},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use quorate_dag::Function;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// Operations that a plain worker executes before it sends what it has: a batch of long ones must keep
/// neither the first outcome nor the health probe waiting.
const STRETCH: usize = 64;

/// Messages of outcomes that wait for a slow reader; then nothing more is read from it.
const RESPONSES: usize = 16;

/// Who executes.
pub(super) enum Executor {
    /// This process.
    Plain,
    /// The replicas of its set.
    Replicated(Replicas),
}

impl Executor {
    /// Comes when operations can be answered.
    pub(super) async fn ready(&self) {
        match self {
            Self::Plain => {}
            Self::Replicated(replicas) => replicas.ready().await,
        }
    }

    /// What it has to say of those who execute.
    pub(super) fn witness(&self) -> Option<watch::Receiver<Arc<[proto::Accusation]>>> {
        match self {
            Self::Plain => None,
            Self::Replicated(replicas) => Some(replicas.wrong_answers()),
        }
    }

    /// Has members of its set replaced as it is told, and says so. Never comes.
    pub(super) async fn succeed(&self, orders: watch::Receiver<Option<String>>, say: impl Fn(&Said)) {
        match self {
            Self::Plain => std::future::pending().await,
            Self::Replicated(replicas) => replicas.succeed(orders, say).await,
        }
    }

    /// Comes when operations can no longer be answered.
    pub(super) async fn unready(&self) {
        match self {
            Self::Plain => std::future::pending().await,
            Self::Replicated(replicas) => replicas.unready().await,
        }
    }
}

/// The service.
pub(super) struct Invoke {
    function: Function,
    executor: Arc<Executor>,
    slots: Arc<Slots>,
    ended: watch::Receiver<bool>,
}

/// What is in flight, over all streams.
struct Slots {
    taken: AtomicUsize,
    max: usize,
}

/// One operation in flight; gives its slot back when it is dropped.
struct Slot(Arc<Slots>);

impl Slots {
    fn take(self: &Arc<Self>) -> Option<Slot> {
        let free = |taken| (taken < self.max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, free).ok()?;
        Some(Slot(Arc::clone(self)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Invoke {
    pub(super) fn new(
        function: Function,
        executor: Arc<Executor>,
        slots: u32,
        ended: watch::Receiver<bool>,
    ) -> Self {
        let max = usize::try_from(slots).unwrap_or(usize::MAX).max(1);
        Self { function, executor, slots: Arc::new(Slots { taken: AtomicUsize::new(0), max }), ended }
    }
}

#[tonic::async_trait]
impl Service for Invoke {
    type InvokeStream = ReceiverStream<Result<InvokeResponse, Status>>;

    async fn invoke(
        &self,
        request: Request<Streaming<InvokeRequest>>,
    ) -> Result<Response<Self::InvokeStream>, Status> {
        let (to, outcomes) = mpsc::channel(RESPONSES);
        let stream = Stream {
            function: self.function,
            executor: Arc::clone(&self.executor),
            slots: Arc::clone(&self.slots),
            to,
        };
        let mut ended = self.ended.clone();
        let requests = request.into_inner();
        tokio::spawn(async move {
            tokio::select! {
                () = stream.run(requests) => {}
                _ = ended.wait_for(|ended| *ended) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(outcomes)))
    }
}

/// One scheduler's stream.
struct Stream {
    function: Function,
    executor: Arc<Executor>,
    slots: Arc<Slots>,
    to: mpsc::Sender<Result<InvokeResponse, Status>>,
}

/// The reader is gone.
struct Gone;

impl Stream {
    async fn run(self, mut requests: Streaming<InvokeRequest>) {
        let mut running: FuturesUnordered<BoxFuture<'static, proto::Outcome>> = FuturesUnordered::new();
        loop {
            let mut done = Vec::new();
            tokio::select! {
                request = requests.next() => {
                    // An error is the end of the connection; who waits for outcomes knows it too.
                    let Some(Ok(request)) = request else { return };
                    match &*self.executor {
                        Executor::Plain => {
                            if self.execute(request).await.is_err() {
                                return;
                            }
                        }
                        Executor::Replicated(replicas) => {
                            for operation in request.operations {
                                match self.invoke(replicas, &operation) {
                                    Ok(invocation) => running.push(invocation),
                                    Err(refusal) => done.push(refusal),
                                }
                            }
                        }
                    }
                }
                Some(outcome) = running.next(), if !running.is_empty() => done.push(outcome),
            }
            // What is ready together leaves together.
            while let Some(Some(outcome)) = running.next().now_or_never() {
                done.push(outcome);
            }
            if !done.is_empty() && self.send(done).await.is_err() {
                return;
            }
        }
    }

    /// Has an operation executed by the replicas.
    fn invoke(
        &self,
        replicas: &Replicas,
        operation: &proto::Operation,
    ) -> Result<BoxFuture<'static, proto::Outcome>, proto::Outcome> {
        let tag = operation.tag;
        let known =
            operation_of(operation, self.function).ok_or_else(|| invalid(operation, self.function))?;
        let slot = self.slots.take().ok_or_else(|| busy(tag))?;
        let patience = Duration::from_millis(operation.patience_ms.into());
        let answer = replicas.invoke(known.to_bytes(), operation.receipt, patience);
        Ok(Box::pin(async move {
            let outcome = match answer.await {
                Ok((answer, proof)) => outcome_of(tag, answer, proof),
                Err((kind, detail)) => failure(tag, kind, detail),
            };
            drop(slot);
            outcome
        }))
    }

    /// Executes a batch here.
    async fn execute(&self, request: InvokeRequest) -> Result<(), Gone> {
        let mut operations = request.operations.into_iter();
        loop {
            let outcomes: Vec<_> = operations
                .by_ref()
                .take(STRETCH)
                .map(|operation| {
                    let Some(_slot) = self.slots.take() else { return busy(operation.tag) };
                    match operation_of(&operation, self.function) {
                        None => invalid(&operation, self.function),
                        Some(_) if operation.receipt => no_receipt(operation.tag),
                        Some(known) => outcome_of(operation.tag, known.execute(), None),
                    }
                })
                .collect();
            if outcomes.is_empty() {
                return Ok(());
            }
            self.send(outcomes).await?;
            tokio::task::yield_now().await;
        }
    }

    async fn send(&self, outcomes: Vec<proto::Outcome>) -> Result<(), Gone> {
        self.to.send(Ok(InvokeResponse { outcomes })).await.map_err(|_| Gone)
    }
}

/// The operation, when it is of this worker's function.
fn operation_of(operation: &proto::Operation, function: Function) -> Option<Operation<'_>> {
    (operation.function == function.name()).then(|| Operation {
        function,
        digits_max: operation.digits_max,
        left: &operation.left,
        right: &operation.right,
    })
}

fn outcome_of(tag: u64, answer: Answer, proof: Option<Proof>) -> proto::Outcome {
    use proto::outcome::Result;
    let failure = |kind: Kind| Result::Failure(proto::Failure { kind: kind.into(), detail: String::new() });
    let result = match answer {
        Answer::Value(value) => Result::Value(value),
        Answer::DivisionByZero => failure(Kind::DivisionByZero),
        Answer::Overflow => failure(Kind::Overflow),
        Answer::Invalid => failure(Kind::Invalid),
    };
    let (receipt, chain) = proof.map(|proof| (proof.receipt, proof.chain)).unwrap_or_default();
    proto::Outcome { tag, result: Some(result), receipt, chain }
}

fn failure(tag: u64, kind: Kind, detail: String) -> proto::Outcome {
    let failure = proto::Failure { kind: kind.into(), detail };
    let result = Some(proto::outcome::Result::Failure(failure));
    proto::Outcome { tag, result, ..proto::Outcome::default() }
}

fn busy(tag: u64) -> proto::Outcome {
    failure(tag, Kind::Busy, String::new())
}

fn no_receipt(tag: u64) -> proto::Outcome {
    failure(tag, Kind::Invalid, "a worker without replicas has no receipts to give".into())
}

fn invalid(operation: &proto::Operation, function: Function) -> proto::Outcome {
    let detail = format!("operation is of function `{}`, this worker of `{function}`", operation.function);
    failure(operation.tag, Kind::Invalid, detail)
}
