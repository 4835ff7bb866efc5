//! Driving a run with tokio: bounded concurrency, a deadline, and nothing lost when it is dropped.

use std::collections::HashMap;
use std::future::Future;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::{Drive, DriveError, Flight, Walk, message};
use crate::graph::NodeId;
use crate::run::Run;
#[cfg(feature = "arithmetic")]
use crate::{Call, Evaluation, ExpressionError, NodeError, Value};

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
    /// ```
    /// use std::sync::Arc;
    /// use quorate_dag::{Costs, Drive, Evaluation, Expression, Limits, Parameters};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let plan = Arc::new(Expression::parse("1/3 + 1/6")?.plan());
    /// let mut evaluation = Evaluation::new(plan, &Parameters::new(), &Costs::default())?;
    /// let drive = Drive { slots: 2, ..Drive::default() };
    /// let outcome = evaluation.run_async(&drive, |call| {
    ///     // Here a call would be sent to a worker, and its answer awaited below.
    ///     let answer = call.apply(&Limits::default());
    ///     async move { answer }
    /// });
    /// assert_eq!(outcome.await??.to_string(), "0.5");
    /// # Ok(()) }
    /// ```
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

async fn drive_to_end<W: Walk, O>(
    walk: &mut W,
    drive: &Drive,
    operation: &mut impl FnMut(&W, NodeId) -> O,
) -> Result<(), DriveError>
where
    W::Value: Send + 'static,
    W::Error: Send + 'static,
    O: Future<Output = Result<W::Value, W::Error>> + Send + 'static,
{
    let mut flight = Flight::of(walk)?;
    let deadline = drive.deadline.map(Instant::from_std);
    let mut tasks: JoinSet<Result<W::Value, W::Error>> = JoinSet::new();
    // As many as there are tasks.
    let mut nodes: HashMap<Id, NodeId> = HashMap::new();
    let end = |flight: &mut Flight<'_, W>, nodes: &mut HashMap<Id, NodeId>, ended: Ended<_>| {
        let id = ended.as_ref().map_or_else(JoinError::id, |ended| ended.0);
        let node = nodes.remove(&id).expect("each task has its node");
        match ended {
            Ok((_, result)) => flight.end(node, result, drive),
            Err(error) => {
                let message =
                    error.try_into_panic().map_or_else(|error| error.to_string(), |panic| message(&*panic));
                return Err(flight.panicked(node, message));
            }
        }
        Ok(())
    };
    loop {
        while tasks.len() < drive.slots.max(1)
            && deadline.is_none_or(|deadline| Instant::now() < deadline)
            && let Some(node) = flight.0.start_next()
        {
            let task = tasks.spawn(operation(flight.0, node));
            nodes.insert(task.id(), node);
        }
        if tasks.is_empty() {
            return flight.is_over();
        }
        let next = tasks.join_next_with_id();
        let ended = match deadline {
            None => next.await,
            Some(deadline) => match timeout_at(deadline, next).await {
                Ok(ended) => ended,
                Err(_) => return Err(flight.deadline()),
            },
        };
        end(&mut flight, &mut nodes, ended.expect("a task is in flight"))?;
        // Whatever else has ended by now makes room at once.
        while let Some(ended) = tasks.try_join_next_with_id() {
            end(&mut flight, &mut nodes, ended)?;
        }
    }
}

type Ended<T> = Result<(Id, T), JoinError>;
