use super::Workload;
use crate::Seconds;

const SECOND: u64 = 1_000_000;

/// Lengths of the blocks with a constant number of pods, in seconds. The cheapest plan counts.
const BLOCKS_S: [u64; 8] = [1, 2, 3, 5, 10, 20, 30, 60];

/// What a clairvoyant would pay: a plan that knows every request beforehand and lets none wait too long.
///
/// For each length of block: in each block the smallest constant number of pods with which every request that
/// arrives in it starts in time, given the state that the block before left. Level `j` of the plan is a pod
/// that runs in the blocks that need at least `j`; it pays the start delay at its first start, in each gap
/// the gap or a new start, whichever is less, and one mean service time when it goes. The last block is paid
/// for in full, also where the trace ends within it.
///
/// It is an upper bound of the optimum. The work itself is a lower one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Oracle {
    plans: Vec<Plan>,
    /// All time in service, in µs, and the requests it is of.
    service_sum_us: u64,
    requests: u64,
}

/// The pods of each block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Plan {
    block_s: u64,
    seconds: u64,
    pods: Vec<u32>,
}

impl Oracle {
    /// Plans for a workload. The plans serve for every start delay.
    #[must_use]
    pub fn new(workload: &Workload, slo: Seconds) -> Self {
        let plan = |&block_s| Plan::new(workload, slo.as_micros(), block_s);
        Self {
            plans: BLOCKS_S.iter().map(plan).collect(),
            service_sum_us: workload.service_sum_us(),
            requests: workload.requests(),
        }
    }

    /// Pod-seconds of the cheapest plan.
    #[must_use]
    pub fn cost(&self, start_delay: Seconds) -> f64 {
        let mean_service = self.service_sum_us as f64 / 1e6 / self.requests.max(1) as f64;
        let costs = self.plans.iter().map(|plan| plan.cost(start_delay.as_f64(), mean_service));
        costs.fold(f64::INFINITY, f64::min)
    }
}

impl Plan {
    fn new(workload: &Workload, slo: u64, block_s: u64) -> Self {
        let seconds = workload.seconds();
        let mut pods = Vec::new();
        let (mut state, mut trial) = (State::default(), State::default());
        for start in starts(seconds, block_s) {
            let (start, end) = (start * SECOND, (start + block_s).min(seconds) * SECOND);
            let mut fits = |count| {
                trial.clone_from(&state);
                trial.resize(count);
                trial.serve(workload, start, end, None, slo)
            };
            let mut count = pods.last().copied().unwrap_or(0);
            if fits(count) {
                while count > 0 && fits(count - 1) {
                    count -= 1;
                }
            } else {
                count += 1;
                while !fits(count) {
                    count += 1;
                }
            }
            state.resize(count);
            state.serve(workload, start, end, Some(end), slo);
            pods.push(count);
        }
        Self { block_s, seconds, pods }
    }

    fn cost(&self, start_delay: f64, mean_service: f64) -> f64 {
        let mut cost = 0.0;
        for level in 1..=self.pods.iter().copied().max().unwrap_or(0) {
            let mut last_end = None;
            for (start, pods) in starts(self.seconds, self.block_s).zip(&self.pods) {
                if *pods < level {
                    continue;
                }
                let end = start + self.block_s;
                cost += (end - start) as f64;
                cost += match last_end {
                    None => start_delay + mean_service,
                    Some(last) if last == start => 0.0,
                    Some(last) => start_delay.min((start - last) as f64) + mean_service,
                };
                last_end = Some(end);
            }
        }
        cost
    }
}

fn starts(seconds: u64, block_s: u64) -> impl Iterator<Item = u64> {
    (0..seconds).step_by(usize::try_from(block_s).unwrap_or(usize::MAX))
}

/// The pods at one instant of a plan.
#[derive(Debug, Default)]
struct State {
    /// When the requests in service end, latest first.
    ends: Vec<u64>,
    idle: u32,
    /// Pods that leave: the next ones to end.
    leaving: u32,
    /// The first request that has not started.
    head: usize,
}

/// A copy keeps the room of what it replaces: one is made for each trial.
impl Clone for State {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        copy.clone_from(self);
        copy
    }

    fn clone_from(&mut self, other: &Self) {
        self.ends.clone_from(&other.ends);
        (self.idle, self.leaving, self.head) = (other.idle, other.leaving, other.head);
    }
}

impl State {
    fn count(&self) -> u32 {
        self.idle + u32::try_from(self.ends.len()).unwrap_or(u32::MAX) - self.leaving
    }

    /// More pods are idle at once; of those that are too many, idle ones go first, then those that end next.
    fn resize(&mut self, count: u32) {
        let current = self.count();
        self.idle += count.saturating_sub(current);
        let fewer = current.saturating_sub(count);
        let idle = fewer.min(self.idle);
        self.idle -= idle;
        self.leaving += fewer - idle;
    }

    /// The next request in service ends, which is at this instant or before it.
    fn end_by(&mut self, at: u64) -> bool {
        if self.ends.last().is_none_or(|ends| *ends > at) {
            return false;
        }
        self.ends.pop();
        if self.leaving > 0 {
            self.leaving -= 1
        } else {
            self.idle += 1
        }
        true
    }

    /// Serves what has arrived before `end`, from `start` on, and tells whether all of it starts in time; with
    /// `until`, only as far as that instant.
    fn serve(&mut self, workload: &Workload, start: u64, end: u64, until: Option<u64>, slo: u64) -> bool {
        let mut clock = start;
        while let Some(&arrival) = workload.arrivals.get(self.head)
            && arrival < end
        {
            clock = clock.max(arrival);
            while self.end_by(clock) {}
            while self.idle == 0 {
                let Some(&ends) = self.ends.last() else { return false };
                if until.is_some_and(|until| ends > until) {
                    return true;
                }
                clock = ends;
                self.end_by(clock);
            }
            if clock - arrival > slo {
                return false;
            }
            self.idle -= 1;
            let ends = clock + u64::from(workload.services[self.head]);
            self.head += 1;
            let place = self.ends.iter().rposition(|at| *at >= ends).map_or(0, |last| last + 1);
            self.ends.insert(place, ends);
        }
        while until.is_some_and(|until| self.end_by(until)) {}
        true
    }
}
