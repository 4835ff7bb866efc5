//! Driving a run to its end: with the tasks of tokio, or the threads of rayon.

#[cfg(feature = "tokio")]
mod tasks;
#[cfg(feature = "parallel")]
mod threads;

use std::any::Any;
use std::time::Instant;

use crate::graph::NodeId;
use crate::run::{NodeState, OnFailure, Progress, Run, RunError};
#[cfg(feature = "arithmetic")]
use crate::{Evaluation, NodeError, Value};

#[cfg(feature = "tokio")]
pub use tasks::run_async;
#[cfg(feature = "parallel")]
pub use threads::run_parallel;

/// How a run is driven.
///
/// ```
/// # #[cfg(feature = "parallel")] {
/// use std::time::{Duration, Instant};
/// use quorate_dag::{Costs, Dag, Drive, OnFailure, Run, run_parallel};
///
/// let drive = Drive {
///     slots: 8,
///     deadline: Some(Instant::now() + Duration::from_secs(60)),
///     on_failure: OnFailure::Retry,
///     retries: 2,
/// };
/// let mut dag = Dag::new();
/// let (fetch, build) = (dag.add("fetch"), dag.add("build"));
/// dag.edge(fetch, build)?;
///
/// // The network is back at the second try.
/// let mut run: Run<u32, &str> = Run::new(dag.freeze()?, &Costs::default());
/// run_parallel(&mut run, &drive, |run, node| {
///     let tries = run.returns(node);
///     move || if node == fetch && tries == 0 { Err("no network") } else { Ok(tries) }
/// })?;
/// assert_eq!((run.value(fetch), run.value(build)), (Some(&1), Some(&0)));
/// assert_eq!(run.failures(), []);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drive {
    /// How many nodes are in flight at once; at least 1.
    pub slots: usize,
    /// When to give up: nothing starts from then on. `None` leaves it to the operations to end.
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

/// Why a run was left before its end. It can be driven on: what was in flight has ended or returned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DriveError {
    /// The deadline passed.
    #[error("the deadline passed with {unfinished} nodes unfinished")]
    Deadline {
        /// Nodes that have not ended.
        unfinished: usize,
    },
    /// An operation panicked.
    #[error("the operation of node {node} panicked: {message}")]
    Panicked {
        /// The node.
        node: NodeId,
        /// What the panic said, when it was text.
        message: String,
    },
    /// The run has other nodes in flight, which it did not start.
    #[error("{count} nodes are in flight elsewhere: say first that they are lost")]
    InFlightElsewhere {
        /// How many.
        count: usize,
    },
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or_default().to_owned()
}

/// What a driver asks of a run.
trait Walk {
    type Value;
    type Error;

    fn progress(&self) -> Progress;
    fn in_flight(&self) -> Vec<NodeId>;
    fn start_next(&mut self) -> Option<NodeId>;
    fn complete(&mut self, node: NodeId, value: Self::Value) -> Result<(), RunError>;
    fn fail(&mut self, node: NodeId, error: Self::Error, drive: &Drive) -> Result<(), RunError>;
    fn lost(&mut self, node: NodeId) -> Result<u32, RunError>;
}

impl<V, E> Walk for Run<V, E> {
    type Value = V;
    type Error = E;

    fn progress(&self) -> Progress {
        Self::progress(self)
    }

    fn in_flight(&self) -> Vec<NodeId> {
        let is_in_flight = |node: &NodeId| self.state(*node) == Some(NodeState::InFlight);
        self.graph().nodes().filter(is_in_flight).collect()
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

    fn in_flight(&self) -> Vec<NodeId> {
        self.run().in_flight()
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

const STARTED: &str = "this driver started the node";

/// A walk in a driver's hands. Let go of, it takes the nodes in flight back: they are ready again.
struct Flight<'a, W: Walk>(&'a mut W);

impl<'a, W: Walk> Flight<'a, W> {
    fn of(walk: &'a mut W) -> Result<Self, DriveError> {
        match walk.progress().in_flight {
            0 => Ok(Self(walk)),
            count => Err(DriveError::InFlightElsewhere { count }),
        }
    }

    /// Keeps what came of a node.
    fn end(&mut self, node: NodeId, result: Result<W::Value, W::Error>, drive: &Drive) {
        let ended = match result {
            Ok(value) => self.0.complete(node, value),
            Err(error) => self.0.fail(node, error, drive),
        };
        ended.expect(STARTED);
    }

    fn panicked(&mut self, node: NodeId, message: String) -> DriveError {
        self.0.lost(node).expect(STARTED);
        DriveError::Panicked { node, message }
    }

    fn deadline(&self) -> DriveError {
        let progress = self.0.progress();
        DriveError::Deadline { unfinished: progress.waiting + progress.ready + progress.in_flight }
    }

    /// When nothing is in flight any more: what is ready would have been started before the deadline.
    fn is_over(&self) -> Result<(), DriveError> {
        if self.0.progress().ready == 0 { Ok(()) } else { Err(self.deadline()) }
    }
}

impl<W: Walk> Drop for Flight<'_, W> {
    fn drop(&mut self) {
        if self.0.progress().in_flight > 0 {
            for node in self.0.in_flight() {
                self.0.lost(node).expect(STARTED);
            }
        }
    }
}
