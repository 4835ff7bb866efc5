use std::collections::VecDeque;

use super::Workload;
use crate::policy::Conditions;
use crate::{Decision, Observation, Policy, Seconds};

const SECOND: u64 = 1_000_000;

/// Most pods that a decision can give.
const PODS_MAX: u32 = 100;

/// How long after the trace's end a replay may go on to empty its queue.
const OVERTIME_S: u64 = 3600;

/// Actions against the direction of the last one count as flips within this time.
const FLIP_S: u64 = 60;

/// How a workload is replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replay {
    /// From the order of a pod to its first request.
    pub start_delay: Seconds,
    /// Requests that wait longer violate the objective.
    pub slo: Seconds,
    /// Mean service time becomes this many times as long for requests that arrive in the second half of the
    /// trace: what no policy was told.
    pub slowdown: u32,
}

impl Default for Replay {
    fn default() -> Self {
        Self { start_delay: Seconds::new(10), slo: Seconds::new(1), slowdown: 1 }
    }
}

/// What a replay has to say about one tick, after its decision.
#[derive(Clone, Copy, Debug)]
pub struct Tick<'a> {
    /// What the policy saw.
    pub observation: &'a Observation,
    /// What it decided.
    pub decision: &'a Decision,
}

/// What a policy cost and how requests fared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Requests that were served or still waited when the replay ended.
    pub requests: u64,
    /// Starting, ready and draining pods, integrated over time in µs.
    pub pod_time_us: u64,
    /// Requests that waited longer than the objective.
    pub violations: u64,
    /// Ticks whose decision was not what was there.
    pub actions: u64,
    /// Actions against the direction of the last one within 60 s.
    pub flips: u64,
    /// Waits over 0 in µs, in no order.
    waits: Vec<u64>,
}

impl Outcome {
    /// The cost.
    #[must_use]
    pub fn pod_seconds(&self) -> f64 {
        self.pod_time_us as f64 / 1e6
    }

    /// The share of requests that waited longer than the objective, 0 to 1.
    #[must_use]
    pub fn violation_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.violations as f64 / self.requests as f64 }
    }

    /// The wait at index `floor(share × requests)` of the sorted waits, in seconds.
    #[must_use]
    pub fn wait_percentile(&self, share: f64) -> f64 {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index, bounded below"
        )]
        let index = (share.clamp(0.0, 1.0) * self.requests as f64) as u64;
        let at_once = self.requests - self.waits.len() as u64;
        if index < at_once || self.waits.is_empty() {
            return 0.0;
        }
        let mut waits = self.waits.clone();
        let index = usize::try_from(index - at_once).unwrap_or(usize::MAX).min(waits.len() - 1);
        let (_, wait, _) = waits.select_nth_unstable(index);
        *wait as f64 / 1e6
    }
}

impl Replay {
    /// What a policy is told about this replay beforehand.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        Conditions { start_delay: self.start_delay, wait_objective: self.slo, ..Conditions::default() }
    }

    /// Replays a workload against a policy.
    pub fn run(&self, workload: &Workload, policy: &mut impl Policy) -> Outcome {
        self.watch(workload, policy, |_| {})
    }

    /// Replays a workload against a policy and shows each tick.
    pub fn watch(
        &self,
        workload: &Workload,
        policy: &mut impl Policy,
        watch: impl FnMut(Tick<'_>),
    ) -> Outcome {
        self.decide(workload, |observation| policy.decide(observation), watch)
    }

    /// Replays a workload against any rule that decides.
    pub fn decide(
        &self,
        workload: &Workload,
        mut decide: impl FnMut(&Observation) -> Decision,
        mut watch: impl FnMut(Tick<'_>),
    ) -> Outcome {
        let mut layer = Layer::new(self, workload);
        let mut direction = None;
        let (mut actions, mut flips) = (0, 0);
        for second in 0..=workload.seconds() + OVERTIME_S {
            let observation = layer.advance(second);
            if second >= workload.seconds() && observation.waiting == 0 {
                break;
            }
            let decision = decide(&observation);
            let (desired, current) = (decision.desired.min(PODS_MAX), observation.current());
            if desired != current {
                actions += 1;
                let up = desired > current;
                flips += u64::from(direction.is_some_and(|(was, at)| was != up && second - at <= FLIP_S));
                direction = Some((up, second));
            }
            layer.obey(desired);
            watch(Tick { observation: &observation, decision: &decision });
        }
        layer.finish(actions, flips)
    }
}

/// A request in service.
#[derive(Clone, Copy, Debug)]
struct Served {
    /// When it will be answered.
    ends: u64,
    request: usize,
}

/// The queue and its pods at one instant.
struct Layer<'a> {
    workload: &'a Workload,
    start_delay: u64,
    slo: u64,
    /// The first request whose service takes longer, and how many times as long.
    slow: (usize, u32),
    /// The last tick.
    now: u64,
    /// The last event.
    clock: u64,
    /// The first request that was not served yet.
    head: usize,
    /// Latest end first: the next one is the last element.
    busy: Vec<Served>,
    idle: u32,
    /// Busy pods that leave with their request: the next ones to end.
    leaving: u32,
    /// When ordered pods are ready, soonest first.
    starting: VecDeque<u64>,
    pod_time: u64,
    violations: u64,
    waits: Vec<u64>,
    /// Sums since the last tick.
    tick: Sums,
}

/// What happened between two ticks. Integrals are kept as a difference to the next tick's instant, so that an
/// event costs an addition: what starts at `t` contributes `tick − t`, what ends at `t` takes as much away.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    completions: u64,
    busy: u64,
    served_ends: u64,
    pods_left: u64,
    service: u64,
    response: u64,
    started: u64,
}

impl<'a> Layer<'a> {
    fn new(replay: &Replay, workload: &'a Workload) -> Self {
        let half = workload.seconds() * SECOND / 2;
        Self {
            workload,
            start_delay: replay.start_delay.as_micros(),
            slo: replay.slo.as_micros(),
            slow: (workload.arrivals.partition_point(|at| *at < half), replay.slowdown.max(1)),
            now: 0,
            clock: 0,
            head: 0,
            busy: Vec::with_capacity(256),
            idle: workload.start_pods(),
            leaving: 0,
            starting: VecDeque::with_capacity(256),
            pod_time: 0,
            violations: 0,
            waits: Vec::new(),
            tick: Sums::default(),
        }
    }

    fn busy_pods(&self) -> u64 {
        self.busy.len() as u64
    }

    /// Pods that are up, and those of them that leave.
    fn up(&self) -> u64 {
        self.busy_pods() + u64::from(self.idle)
    }

    /// Everything up to and including a second, and what it looks like then.
    fn advance(&mut self, second: u64) -> Observation {
        let until = second * SECOND;
        let span = until - self.now;
        let (busy_before, up_before) = (self.busy_pods(), self.up());
        let (all_before, starting_before) = (up_before + self.starting.len() as u64, self.head);
        let arrived_before = self.arrived(self.now / SECOND);
        let waiting_before = (arrived_before.0 - starting_before) as u64;
        self.tick = Sums::default();

        self.serve(until);

        let arrived = self.arrived(second);
        let arrivals = (arrived.0 - arrived_before.0) as u64;
        let arrived_time = (arrivals * until).wrapping_sub(arrived.1.wrapping_sub(arrived_before.1));
        let tick = self.tick;
        self.now = until;
        self.pod_time += all_before * span - tick.pods_left;
        let leaving = u64::from(self.leaving);
        Observation {
            now: Seconds::from_micros(until),
            valid: true,
            arrivals,
            completions: tick.completions,
            waiting: (arrived.0 - self.head) as u64,
            oldest_wait: if arrived.0 > self.head {
                Seconds::from_micros(until - self.workload.arrivals[self.head])
            } else {
                Seconds::ZERO
            },
            in_service: self.busy_pods() - leaving,
            ready: count(self.up() - leaving),
            starting: count(self.starting.len() as u64),
            draining: self.leaving,
            busy_time: Seconds::from_micros(busy_before * span + tick.busy - tick.served_ends),
            in_system_time: Seconds::from_micros(
                (busy_before + waiting_before) * span + arrived_time - tick.served_ends,
            ),
            service_time: Seconds::from_micros(tick.service),
            response_time: Seconds::from_micros(tick.response),
            started: count(tick.started),
            start_time: Seconds::from_micros(tick.started * self.start_delay),
            ..Observation::default()
        }
    }

    /// How many had arrived at a second, and the sum of their times.
    fn arrived(&self, second: u64) -> (usize, u64) {
        let arrived = &self.workload.arrived;
        arrived[usize::try_from(second).unwrap_or(usize::MAX).min(arrived.len() - 1)]
    }

    fn serve(&mut self, until: u64) {
        while let Some(&arrival) = self.workload.arrivals.get(self.head)
            && arrival <= until
        {
            self.free(arrival, until);
            if self.idle == 0 {
                // It waits for whatever makes a pod idle first.
                let ends = self.busy.last().map_or(u64::MAX, |served| served.ends);
                let at = ends.min(self.starting.front().copied().unwrap_or(u64::MAX));
                if at > until {
                    break;
                }
                self.free(at, until);
            }
            if self.idle > 0 {
                self.start(arrival, until);
            }
        }
        self.free(until, until);
    }

    /// Pods that end a request or become ready up to an instant.
    fn free(&mut self, at: u64, until: u64) {
        self.clock = self.clock.max(at);
        while let Some(&Served { ends, request }) = self.busy.last()
            && ends <= at
        {
            self.busy.pop();
            self.tick.completions += 1;
            self.tick.served_ends += until - ends;
            self.tick.service += self.service(request);
            self.tick.response += ends - self.workload.arrivals[request];
            if self.leaving > 0 {
                self.leaving -= 1;
                self.tick.pods_left += until - ends;
            } else {
                self.idle += 1;
            }
        }
        while let Some(&ready) = self.starting.front()
            && ready <= at
        {
            self.starting.pop_front();
            self.idle += 1;
            self.tick.started += 1;
        }
    }

    /// The head of the queue goes to an idle pod.
    fn start(&mut self, arrival: u64, until: u64) {
        let request = self.head;
        // The pod may have become idle after the request came.
        let at = arrival.max(self.clock);
        let wait = at - arrival;
        self.head += 1;
        self.idle -= 1;
        if wait > 0 {
            self.waits.push(wait);
            self.violations += u64::from(wait > self.slo);
        }
        self.tick.busy += until - at;
        let ends = at + self.service(request);
        let place = self.busy.iter().rposition(|served| served.ends >= ends).map_or(0, |last| last + 1);
        self.busy.insert(place, Served { ends, request });
    }

    fn service(&self, request: usize) -> u64 {
        let time = u64::from(self.workload.services[request]);
        if request >= self.slow.0 { time * u64::from(self.slow.1) } else { time }
    }

    fn obey(&mut self, desired: u32) {
        let current = count(self.up() + self.starting.len() as u64) - self.leaving;
        for _ in current..desired {
            self.starting.push_back(self.now + self.start_delay);
        }
        for _ in desired..current {
            if self.starting.pop_back().is_none() {
                if self.idle > 0 { self.idle -= 1 } else { self.leaving += 1 }
            }
        }
        // A start delay of nothing is up at once.
        self.serve(self.now);
    }

    fn finish(mut self, actions: u64, flips: u64) -> Outcome {
        // Who still waits has waited this long at least.
        let arrived = self.arrived(self.now / SECOND).0;
        for arrival in &self.workload.arrivals[self.head..arrived] {
            self.waits.push(self.now - arrival);
            self.violations += u64::from(self.now - arrival > self.slo);
        }
        Outcome {
            requests: self.workload.requests(),
            pod_time_us: self.pod_time,
            violations: self.violations,
            actions,
            flips,
            waits: self.waits,
        }
    }
}

fn count(pods: u64) -> u32 {
    u32::try_from(pods).unwrap_or(u32::MAX)
}
