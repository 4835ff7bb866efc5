//! Driving a run with the threads of a rayon pool, for operations that compute.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::{Drive, DriveError, Flight, STARTED, Walk, message};
use crate::graph::NodeId;
use crate::run::Run;
#[cfg(feature = "arithmetic")]
use crate::{Call, Evaluation, ExpressionError, NodeError, Value};

/// Runs every node that can run on the current rayon pool, longest remaining path first.
///
/// `operation` is called on this thread when a node starts, and gives what a thread of the pool then
/// does for it: worth it from some microseconds of work a node. It may borrow what outlives the
/// call. `drive.slots` beyond the pool's threads keep them supplied. A node that fails goes to
/// [`Run::failures`].
///
/// # Errors
/// [`DriveError`]. No thread can be stopped: after a deadline or a panic nothing is started, and what
/// was in flight is waited for and kept.
///
/// ```
/// use quorate_dag::{Costs, Dag, Drive, Run, run_parallel};
///
/// let texts = ["to be", "or not to be", ""];
/// let mut dag = Dag::new();
/// let [first, second, sum] = texts.map(|text| dag.add(text));
/// dag.edge(first, sum)?;
/// dag.edge(second, sum)?;
///
/// let mut run: Run<usize> = Run::new(dag.freeze()?, &Costs::default());
/// run_parallel(&mut run, &Drive::default(), |run, node| {
///     let text = dag[node];
///     let counted = run.value(first).zip(run.value(second)).map(|(first, second)| first + second);
///     move || Ok(counted.unwrap_or_else(|| text.split_whitespace().count()))
/// })?;
/// assert_eq!(run.value(sum), Some(&6));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn run_parallel<V, E, F, O>(
    run: &mut Run<V, E>,
    drive: &Drive,
    mut operation: F,
) -> Result<(), DriveError>
where
    V: Send,
    E: Send,
    F: FnMut(&Run<V, E>, NodeId) -> O,
    O: FnOnce() -> Result<V, E> + Send,
{
    drive_to_end(run, drive, &mut operation)
}

#[cfg(feature = "arithmetic")]
impl Evaluation {
    /// Computes the expression on the current rayon pool. `operation` is given each call as it
    /// starts, and gives what a thread then does for it; what failed decides the outcome as
    /// [`Evaluation::outcome`] says, and `drive.on_failure` is not asked. See [`run_parallel`].
    ///
    /// ```
    /// use std::sync::Arc;
    /// use quorate_dag::{Costs, Drive, Evaluation, Expression, Limits, Parameters, apply};
    ///
    /// let plan = Arc::new(Expression::parse("1/3 + 1/6")?.plan());
    /// let mut evaluation = Evaluation::new(plan, &Parameters::new(), &Costs::default())?;
    /// let outcome = evaluation.run_parallel(&Drive::default(), |call| {
    ///     let (function, left, right) = (call.function, call.left.clone(), call.right.clone());
    ///     move || apply(function, &left, &right, &Limits::default())
    /// });
    /// assert_eq!(outcome??.to_string(), "0.5");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`DriveError`]; the error of the expression is inside.
    pub fn run_parallel<F, O>(
        &mut self,
        drive: &Drive,
        mut operation: F,
    ) -> Result<Result<Value, ExpressionError>, DriveError>
    where
        F: FnMut(Call<'_>) -> O,
        O: FnOnce() -> Result<Value, NodeError> + Send,
    {
        drive_to_end(self, drive, &mut |evaluation: &Self, node| {
            operation(evaluation.call(node).expect("a started node has its operands"))
        })?;
        Ok(self.outcome().expect("nothing is left to start or to wait for"))
    }
}

fn drive_to_end<W: Walk, O>(
    walk: &mut W,
    drive: &Drive,
    operation: &mut impl FnMut(&W, NodeId) -> O,
) -> Result<(), DriveError>
where
    W::Value: Send,
    W::Error: Send,
    O: FnOnce() -> Result<W::Value, W::Error> + Send,
{
    let mut flight = Flight::of(walk)?;
    let (ends, ended) = channel();
    rayon::in_place_scope(|scope| {
        let mut stopped = None;
        loop {
            while stopped.is_none()
                && flight.0.progress().in_flight < drive.slots.max(1)
                && drive.deadline.is_none_or(|deadline| Instant::now() < deadline)
                && let Some(node) = flight.0.start_next()
            {
                let (work, ends) = (operation(flight.0, node), ends.clone());
                scope.spawn(move |_| {
                    let result = catch_unwind(AssertUnwindSafe(work));
                    ends.send((node, result)).expect("the driver waits for all it started");
                });
            }
            if flight.0.progress().in_flight == 0 {
                return stopped.map_or_else(|| flight.is_over(), Err);
            }
            let deadline = drive.deadline.filter(|_| stopped.is_none());
            match next(&ended, deadline) {
                None => stopped = Some(flight.deadline()),
                Some((node, Ok(result))) => flight.end(node, result, drive),
                Some((node, Err(panic))) => {
                    let panicked = flight.panicked(node, message(&*panic));
                    stopped.get_or_insert(panicked);
                }
            }
        }
    })
}

/// How long a thread of the pool waits before it looks again for other work to do meanwhile.
const IDLE: Duration = Duration::from_micros(100);

/// Waits for what ends next; `None` when the deadline comes first. A thread of the pool works
/// meanwhile: with a pool of one thread, nobody else would.
fn next<T>(ended: &Receiver<T>, deadline: Option<Instant>) -> Option<T> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) {
            return None;
        }
        if let Ok(end) = ended.try_recv() {
            return Some(end);
        }
        let patience = match rayon::yield_now() {
            Some(rayon::Yield::Executed) => continue,
            Some(rayon::Yield::Idle) => Some(left.map_or(IDLE, |left| left.min(IDLE))),
            None => left,
        };
        match patience {
            None => return Some(ended.recv().expect(STARTED)),
            Some(patience) => match ended.recv_timeout(patience) {
                Ok(end) => return Some(end),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("{STARTED}"),
            },
        }
    }
}
