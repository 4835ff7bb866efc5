//! Work that is known to come: nodes of runs in flight whose operands are not there yet, by when they are due.
//! Of recorded loads nobody knows it; a scheduler does, as it has the graphs.

use super::dispatch::place;
use quorate_dag::{Costs, Function, NodeId, Plan};
use quorate_scaler::Expected;
use std::time::{Duration, Instant};

/// What is due within the same such time is told as one number.
pub(crate) const WIDTH: Duration = Duration::from_millis(250);

/// So many numbers are told, as policies take them: eight seconds.
pub(crate) const BINS: usize = Expected::BINS;

/// Numbers that are remembered of a run; what is due later is counted in the last one.
const BINS_OF_RUN: usize = 8 * BINS;

/// Runs of fewer nodes are over before anybody could make a worker for them.
const NODES_MIN: usize = 64;

/// Nodes that are due, for each function.
pub(super) type Due = [[u32; BINS]; Function::ALL.len()];

/// What is still to come of one run.
#[derive(Debug)]
pub(super) struct Ahead {
    begun: Instant,
    functions: [Coming; Function::ALL.len()],
}

/// Nodes of one function.
#[derive(Debug, Default)]
struct Coming {
    /// By when they would be ready if each operation took its usual time and none waited for a worker.
    due: Vec<u32>,
    /// How many of them have not become ready.
    left: u32,
}

impl Ahead {
    /// What is to come of a run that begins; `None` for a small one. What a scheduler that is gone has done does not
    /// come again.
    pub(super) fn of(
        plan: &Plan,
        is_done: impl Fn(NodeId) -> bool,
        costs: &Costs,
        begun: Instant,
    ) -> Option<Box<Self>> {
        if plan.len() < NODES_MIN {
            return None;
        }
        let mut functions: [Coming; Function::ALL.len()] = Default::default();
        let mut starts = vec![Duration::ZERO; plan.len()];
        for node in plan.nodes() {
            let (is_done, start) = (is_done(node), starts[node.index()]);
            let cost = if is_done { Duration::ZERO } else { costs.of(plan.graph().function(node)) };
            let end = start.saturating_add(cost);
            for next in plan.graph().dependants(node) {
                let start = &mut starts[next.index()];
                *start = end.max(*start);
            }
            if !is_done {
                functions[place(plan.function(node))].add(bins(start));
            }
        }
        Some(Box::new(Self { begun, functions }))
    }

    /// A node has become ready.
    pub(super) fn arrived(&mut self, function: Function) {
        let left = &mut self.functions[place(function)].left;
        *left = left.saturating_sub(1);
    }

    /// Adds what is due from now on. Those that have come are taken for those that were due first; what is late is
    /// due now.
    pub(super) fn add_to(&self, now: Instant, sums: &mut Due) {
        let passed = bins(now.saturating_duration_since(self.begun));
        for (coming, sums) in self.functions.iter().zip(sums) {
            let mut left = coming.left;
            for (bin, due) in coming.due.iter().enumerate().rev() {
                let due = left.min(*due);
                if let Some(sum) = sums.get_mut(bin.saturating_sub(passed)) {
                    *sum = sum.saturating_add(due);
                }
                left -= due;
            }
        }
    }
}

impl Coming {
    fn add(&mut self, bin: usize) {
        let bin = bin.min(BINS_OF_RUN - 1);
        if self.due.len() <= bin {
            self.due.resize(bin + 1, 0);
        }
        self.due[bin] += 1;
        self.left += 1;
    }
}

fn bins(time: Duration) -> usize {
    usize::try_from(time.as_millis() / WIDTH.as_millis()).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_dag::Expression;

    /// 63 additions in six waves, and the multiplication of their sum, each of which takes 300 ms.
    fn ahead(begun: Instant) -> Box<Ahead> {
        let sum: Vec<_> = (0..64).map(|n| n.to_string()).collect();
        let plan = Expression::parse(&format!("({})*2", sum.join("+"))).expect("is one").plan();
        let mut costs = Costs::default();
        for function in Function::ALL {
            for _ in 0..200 {
                costs.observe(function.id(), Duration::from_millis(300));
            }
        }
        Ahead::of(&plan, |_| false, &costs, begun).expect("is large enough")
    }

    fn due(ahead: &Ahead, now: Instant) -> [Vec<(usize, u32)>; 2] {
        let mut sums = Due::default();
        ahead.add_to(now, &mut sums);
        [Function::Add, Function::Mul].map(|function| {
            let bins = sums[place(function)].iter().copied().enumerate();
            bins.filter(|(_, count)| *count > 0).collect()
        })
    }

    #[test]
    fn waves_are_due_one_after_the_other_and_come_nearer() {
        let begun = Instant::now();
        let mut ahead = ahead(begun);
        assert_eq!(
            due(&ahead, begun),
            [vec![(0, 32), (1, 16), (2, 8), (3, 4), (4, 2), (6, 1)], vec![(7, 1)]]
        );
        // The first wave is ready at once.
        (0..32).for_each(|_| ahead.arrived(Function::Add));
        assert_eq!(due(&ahead, begun), [vec![(1, 16), (2, 8), (3, 4), (4, 2), (6, 1)], vec![(7, 1)]]);
        // The second one, which should have come by now, is due now.
        let later = begun + 2 * WIDTH;
        assert_eq!(due(&ahead, later), [vec![(0, 24), (1, 4), (2, 2), (4, 1)], vec![(5, 1)]]);
        (0..40).for_each(|_| ahead.arrived(Function::Add));
        assert_eq!(due(&ahead, later), [vec![], vec![(5, 1)]], "one that was ready twice is no debt");
    }

    #[test]
    fn small_runs_are_not_worth_it() {
        let plan = Expression::parse("1+2*3").expect("is one").plan();
        assert!(Ahead::of(&plan, |_| false, &Costs::default(), Instant::now()).is_none());
    }
}
