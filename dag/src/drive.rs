//! Driving a run with tokio: bounded concurrency, a deadline, and nothing lost when it is dropped.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use crate::graph::NodeId;
use crate::run::{OnFailure, Progress, Run, RunError};
#[cfg(feature = "arithmetic")]
use crate::{Call, Evaluation, ExpressionError, NodeError, Value};

/// How a run is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// How many nodes are in flight at once; at least 1.
    pub slots: usize,
    /// When to give up; `None` leaves it to the operations to end.
    pub deadline: Option<Instant>,
    /// What becomes of the rest when a node fails.
    pub on_failure: OnFailure,
    /// How often a node is tried again under [`OnFailure::Retry`], before the rest goes on without it.
    pub retries: u32,
}

impl Default for Drive {
    fn default() -> Self {
        Self { slots: 64, deadline: None, on_failure: OnFailure::Continue, retries: 3 }
    }
}

/// Why a run was left before its end. It can be driven on: what was in flight has returned.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    /// The deadline passed.
    #[error("the deadline passed with {unfinished} nodes unfinished")]
    Deadline {
        /// Nodes that have not ended.
        unfinished: usize,
    },
    /// An operation panicked.
    #[error("the operation of node {node} panicked")]
    Panicked {
        /// The node.
        node: NodeId,
        /// The panic.
        #[source]
        source: JoinError,
    },
    /// The run has other nodes in flight, which it did not start.
    #[error("{count} nodes are in flight elsewhere: say first that they are lost")]
    InFlightElsewhere {
        /// How many.
        count: usize,
    },
}

/// Runs every node that can run, `slots` at a time, longest remaining path first.
///
/// `operation` is called when a node starts, and gives the future of its value, which is spawned on
/// the current runtime. A node that fails goes to [`Run::failures`].
///
/// Cancellation-safe: when this future is dropped, or ends with an error, operations in flight are
/// aborted and their nodes are ready again, so that the run can be driven on.
///
/// # Errors
/// [`DriveError`].
///
/// ```
/// use quorate_dag::{Costs, Dag, Drive, Run, run_async};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let mut dag = Dag::new();
/// let (left, right, sum) = (dag.add(2), dag.add(3), dag.add(0));
/// dag.edge(left, sum)?;
/// dag.edge(right, sum)?;
///
/// let mut run: Run<i32> = Run::new(dag.freeze()?, &Costs::default());
/// run_async(&mut run, &Drive::default(), |run, node| {
///     let value = if node == sum {
///         run.value(left).unwrap() + run.value(right).unwrap()
///     } else {
///         dag[node]
///     };
///     async move { Ok(value) }
/// })
/// .await?;
/// assert_eq!(run.value(sum), Some(&5));
/// # Ok(()) }
/// ```
pub async fn run_async<V, E, F, O>(
    run: &mut Run<V, E>,
    drive: &Drive,
    mut operation: F,
) -> Result<(), DriveError>
where
    V: Send + 'static,
    E: Send + 'static,
    F: FnMut(&Run<V, E>, NodeId) -> O,
    O: Future<Output = Result<V, E>> + Send + 'static,
{
    drive_to_end(run, drive, &mut operation).await
}

#[cfg(feature = "arithmetic")]
impl Evaluation {
    /// Computes the expression on the current runtime, `drive.slots` nodes at a time. `operation` is
    /// given each call as it starts. What failed decides the outcome as [`Evaluation::outcome`] says;
    /// `drive.on_failure` is not asked.
    ///
    /// As cancellation-safe as [`run_async`].
    ///
    /// # Errors
    /// [`DriveError`]; the error of the expression is inside.
    pub async fn run_async<F, O>(
        &mut self,
        drive: &Drive,
        mut operation: F,
    ) -> Result<Result<Value, ExpressionError>, DriveError>
    where
        F: FnMut(Call<'_>) -> O,
        O: Future<Output = Result<Value, NodeError>> + Send + 'static,
    {
        drive_to_end(self, drive, &mut |evaluation: &Self, node| {
            operation(evaluation.call(node).expect("a started node has its operands"))
        })
        .await?;
        Ok(self.outcome().expect("nothing is left to start or to wait for"))
    }
}

/// What a driver asks of a run.
trait Walk {
    type Value: Send + 'static;
    type Error: Send + 'static;

    fn progress(&self) -> Progress;
    fn start_next(&mut self) -> Option<NodeId>;
    fn complete(&mut self, node: NodeId, value: Self::Value) -> Result<(), RunError>;
    fn fail(&mut self, node: NodeId, error: Self::Error, drive: &Drive) -> Result<(), RunError>;
    fn lost(&mut self, node: NodeId) -> Result<u32, RunError>;
}

impl<V: Send + 'static, E: Send + 'static> Walk for Run<V, E> {
    type Value = V;
    type Error = E;

    fn progress(&self) -> Progress {
        Self::progress(self)
    }

    fn start_next(&mut self) -> Option<NodeId> {
        Self::start_next(self)
    }

    fn complete(&mut self, node: NodeId, value: V) -> Result<(), RunError> {
        Self::complete(self, node, value).map(drop)
    }

    fn fail(&mut self, node: NodeId, error: E, drive: &Drive) -> Result<(), RunError> {
        let then = match drive.on_failure {
            OnFailure::Retry if self.returns(node) >= drive.retries => OnFailure::Continue,
            then => then,
        };
        Self::fail(self, node, error, then).map(drop)
    }

    fn lost(&mut self, node: NodeId) -> Result<u32, RunError> {
        Self::lost(self, node)
    }
}

#[cfg(feature = "arithmetic")]
impl Walk for Evaluation {
    type Value = Value;
    type Error = NodeError;

    fn progress(&self) -> Progress {
        self.run().progress()
    }

    fn start_next(&mut self) -> Option<NodeId> {
        Self::start_next(self)
    }

    fn complete(&mut self, node: NodeId, value: Value) -> Result<(), RunError> {
        Self::complete(self, node, value).map(drop)
    }

    fn fail(&mut self, node: NodeId, error: NodeError, _: &Drive) -> Result<(), RunError> {
        Self::fail(self, node, error)
    }

    fn lost(&mut self, node: NodeId) -> Result<u32, RunError> {
        Self::lost(self, node)
    }
}

async fn drive_to_end<W: Walk, O>(
    walk: &mut W,
    drive: &Drive,
    operation: &mut impl FnMut(&W, NodeId) -> O,
) -> Result<(), DriveError>
where
    O: Future<Output = Result<W::Value, W::Error>> + Send + 'static,
{
    let count = walk.progress().in_flight;
    if count > 0 {
        return Err(DriveError::InFlightElsewhere { count });
    }
    let mut flight = Flight { walk, tasks: JoinSet::new(), nodes: HashMap::new() };
    loop {
        while flight.tasks.len() < drive.slots.max(1)
            && let Some(node) = flight.walk.start_next()
        {
            let value = operation(flight.walk, node);
            let task = flight.tasks.spawn(value);
            flight.nodes.insert(task.id(), node);
        }
        if flight.tasks.is_empty() {
            return Ok(());
        }
        let next = flight.tasks.join_next_with_id();
        let ended = match drive.deadline {
            None => next.await,
            Some(deadline) => match timeout_at(deadline, next).await {
                Ok(ended) => ended,
                Err(_) => return Err(flight.deadline()),
            },
        };
        flight.end(ended.expect("a task is in flight"), drive)?;
        // Whatever else has ended by now makes room at once.
        while let Some(ended) = flight.tasks.try_join_next_with_id() {
            flight.end(ended, drive)?;
        }
    }
}

const STARTED: &str = "this driver started the node";

/// Nodes in flight, and the tasks that compute them. Dropped, it gives the nodes back.
struct Flight<'a, W: Walk> {
    walk: &'a mut W,
    tasks: JoinSet<Result<W::Value, W::Error>>,
    /// As many as there are tasks.
    nodes: HashMap<Id, NodeId>,
}

impl<W: Walk> Flight<'_, W> {
    fn end(
        &mut self,
        ended: Result<(Id, Result<W::Value, W::Error>), JoinError>,
        drive: &Drive,
    ) -> Result<(), DriveError> {
        let id = match &ended {
            Ok((id, _)) => *id,
            Err(error) => error.id(),
        };
        let node = self.nodes.remove(&id).expect("each task has its node");
        match ended {
            Ok((_, Ok(value))) => self.walk.complete(node, value).expect(STARTED),
            Ok((_, Err(error))) => self.walk.fail(node, error, drive).expect(STARTED),
            Err(source) => {
                self.walk.lost(node).expect(STARTED);
                return Err(DriveError::Panicked { node, source });
            }
        }
        Ok(())
    }

    fn deadline(&self) -> DriveError {
        let progress = self.walk.progress();
        let unfinished = progress.waiting + progress.ready + progress.in_flight;
        DriveError::Deadline { unfinished }
    }
}

impl<W: Walk> Drop for Flight<'_, W> {
    fn drop(&mut self) {
        for node in self.nodes.values() {
            self.walk.lost(*node).expect(STARTED);
        }
    }
}
