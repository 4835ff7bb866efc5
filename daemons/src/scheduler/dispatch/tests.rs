//! Whatever workers do, every operation is answered once or given up, and none is lost.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

const OPERATION: Duration = Duration::from_millis(100);

fn settings(hold: usize) -> Settings {
    Settings { operation: OPERATION, failures_max: 32, hold: [hold; 4] }
}

fn item(payload: u32, rank: u64, now: Instant) -> Item<u32> {
    Item { function: Function::Add, rank, ready: now, spillable: true, failures: 0, payload }
}

/// A dispatcher, its time, and what it asked for.
struct Bench {
    dispatch: Dispatch<u32>,
    now: Instant,
    /// Operations whose requests have ended.
    unwanted: BTreeSet<u32>,
}

impl Bench {
    fn new(hold: usize) -> Self {
        Self { dispatch: Dispatch::new(settings(hold)), now: Instant::now(), unwanted: BTreeSet::new() }
    }

    fn offer(&mut self, payloads: impl IntoIterator<Item = u32>) {
        for payload in payloads {
            self.dispatch.offer(item(payload, u64::from(payload), self.now));
        }
    }

    fn actions(&mut self) -> Vec<Action<u32>> {
        let mut actions = Vec::new();
        self.dispatch.poll_action(self.now, |payload| !self.unwanted.contains(payload), &mut actions);
        actions
    }

    /// What is sent now: worker and payloads.
    fn sent(&mut self) -> Vec<(u64, Vec<u32>)> {
        let actions = self.actions();
        let payloads = |tags: Vec<Tag>| {
            tags.into_iter().map(|tag| self.dispatch.in_flight(tag).unwrap().item.payload).collect()
        };
        actions
            .into_iter()
            .filter_map(|action| match action {
                Action::Send { worker, tags } => Some((worker.0, payloads(tags))),
                _ => None,
            })
            .collect()
    }

    fn tag_of(&self, payload: u32) -> (WorkerId, Tag) {
        let (tag, at) =
            self.dispatch.in_flight.iter().find(|(_, at)| at.item.payload == payload).expect("in flight");
        (at.worker, *tag)
    }

    fn outcome(&mut self, payload: u32, verdict: Verdict) -> Option<u32> {
        let (worker, tag) = self.tag_of(payload);
        self.dispatch.on_outcome(self.now, worker, tag, verdict).map(|answered| answered.item.payload)
    }
}

#[test]
fn the_longest_remaining_path_goes_first_and_a_round_is_one_batch() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 3);
    bench.offer([4, 9, 1, 7, 2]);
    assert_eq!(bench.sent(), [(1, vec![9, 7, 4])]);
    assert_eq!(bench.sent(), []);
}

#[test]
fn the_least_loaded_worker_gets_the_next() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 3);
    bench.offer([9, 8]);
    bench.sent();
    bench.dispatch.worker_up(WorkerId(2), Function::Add, 3);
    bench.offer([7, 6, 5]);
    assert_eq!(bench.sent(), [(1, vec![5]), (2, vec![7, 6])]);
}

#[test]
fn what_a_lost_worker_had_goes_to_another() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 3);
    bench.offer([1, 2]);
    bench.sent();
    bench.dispatch.worker_up(WorkerId(2), Function::Add, 3);
    let (old, tag) = bench.tag_of(1);
    bench.dispatch.worker_down(WorkerId(1));
    assert_eq!(bench.sent(), [(2, vec![2, 1])]);
    // A word of the old life changes nothing.
    assert_eq!(bench.dispatch.on_outcome(bench.now, old, tag, Verdict::Answered), None);
    assert_eq!(bench.dispatch.late(), 1);
    assert_eq!(bench.outcome(1, Verdict::Answered), Some(1));
}

#[test]
fn a_busy_worker_gets_nothing_for_a_moment() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 3);
    bench.offer([1]);
    bench.sent();
    assert_eq!(bench.outcome(1, Verdict::Busy), None);
    assert_eq!(bench.sent(), []);
    bench.now = bench.dispatch.poll_timeout().unwrap();
    assert_eq!(bench.sent(), [(1, vec![1])]);
}

#[test]
fn a_try_that_takes_too_long_is_repeated_elsewhere() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 3);
    bench.offer([1]);
    bench.sent();
    bench.dispatch.worker_up(WorkerId(2), Function::Add, 3);
    bench.now = bench.dispatch.poll_timeout().unwrap();
    bench.dispatch.handle_timeout(bench.now);
    assert_eq!(bench.sent(), [(2, vec![1])]);
}

#[test]
fn an_operation_that_always_fails_is_given_up() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 1);
    bench.offer([1]);
    for _ in 0..31 {
        bench.sent();
        bench.outcome(1, Verdict::Unavailable);
        bench.now += FAILURE_PAUSE_MAX;
    }
    bench.sent();
    bench.outcome(1, Verdict::Unavailable);
    assert!(matches!(&bench.actions()[..], [Action::GiveUp(item)] if item.payload == 1));
}

#[test]
fn what_is_over_the_hold_is_spilled_shortest_path_first() {
    let mut bench = Bench::new(2);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 1);
    bench.offer([1, 2, 3, 4, 5]);
    let actions = bench.actions();
    let spilled = actions.iter().find_map(|action| match action {
        Action::Spill { items, .. } => Some(items.iter().map(|item| item.payload).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(spilled.as_deref(), Some(&[1, 2][..]));
    assert_eq!(bench.dispatch.credit(bench.now, Function::Add), 0);
}

#[test]
fn what_nobody_waits_for_any_more_is_dropped_wherever_it_is() {
    let mut bench = Bench::new(2);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 1);
    bench.offer(1..=7);
    bench.unwanted = BTreeSet::from([1, 3, 5, 7]);
    // 7 is not sent, and of those over the hold 1 and 3 are not spilled.
    let actions = bench.actions();
    let [Action::Send { tags, .. }, Action::Spill { items, .. }] = &actions[..] else {
        panic!("{actions:?}");
    };
    assert_eq!(
        tags.iter().map(|tag| bench.dispatch.in_flight(*tag).unwrap().item.payload).collect::<Vec<_>>(),
        [6]
    );
    assert_eq!(items.iter().map(|item| item.payload).collect::<Vec<_>>(), [2]);
    // What is at a worker is answered, and 5 is passed over.
    bench.unwanted.insert(6);
    assert_eq!(bench.outcome(6, Verdict::Answered), Some(6));
    assert_eq!(bench.sent(), [(1, vec![4])]);
    // Nobody is told of what is given up when nobody waits.
    for _ in 0..31 {
        bench.outcome(4, Verdict::Unavailable);
        bench.now += FAILURE_PAUSE_MAX;
        bench.sent();
    }
    bench.outcome(4, Verdict::Unavailable);
    bench.unwanted.insert(4);
    assert_eq!(bench.actions(), []);
    assert_eq!(bench.dispatch.in_service(Function::Add), 0);
}

#[test]
fn a_draining_worker_finishes_what_it_has() {
    let mut bench = Bench::new(10);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 2);
    bench.offer([1]);
    bench.sent();
    bench.dispatch.worker_drains(WorkerId(1));
    bench.offer([2]);
    assert_eq!(bench.sent(), []);
    assert_eq!(bench.outcome(1, Verdict::Answered), Some(1));
}

#[derive(Clone, Debug)]
enum Step {
    Offer(u8),
    Up(u8),
    Down(prop::sample::Index),
    Drain(prop::sample::Index),
    Outcome(prop::sample::Index, Verdict),
    /// An outcome of a try that may have ended long ago, from any worker.
    Stray(u64, u64),
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    use prop::sample::Index;
    let verdict = prop_oneof![
        4 => Just(Verdict::Answered),
        1 => Just(Verdict::Busy),
        1 => Just(Verdict::Unavailable)
    ];
    prop_oneof![
        3 => (1u8..20).prop_map(Step::Offer),
        1 => (1u8..8).prop_map(Step::Up),
        1 => any::<Index>().prop_map(Step::Down),
        1 => any::<Index>().prop_map(Step::Drain),
        8 => (any::<Index>(), verdict).prop_map(|(at, verdict)| Step::Outcome(at, verdict)),
        1 => (0u64..200, 0u64..20).prop_map(|(tag, worker)| Step::Stray(tag, worker)),
        1 => (0u16..200).prop_map(Step::Pass),
    ]
}

/// The world around a dispatcher: it remembers who was offered, and who got an answer.
struct World {
    bench: Bench,
    workers: Vec<(WorkerId, usize)>,
    next_worker: u64,
    offered: u32,
    answered: BTreeSet<u32>,
    given_up: BTreeSet<u32>,
    layer: Vec<Item<u32>>,
}

impl World {
    fn answered(&mut self, payload: u32) {
        assert!(self.answered.insert(payload), "operation {payload} was answered twice");
        assert!(!self.given_up.contains(&payload), "operation {payload} was given up before");
    }

    fn up(&mut self, slots: usize) {
        let id = WorkerId(self.next_worker);
        self.next_worker += 1;
        self.bench.dispatch.worker_up(id, Function::Add, slots);
        self.workers.push((id, slots));
    }

    fn settle(&mut self) {
        for action in self.bench.actions() {
            match action {
                Action::Send { worker, tags } => {
                    assert!(self.workers.iter().any(|(id, _)| *id == worker), "{worker:?} is gone");
                    assert!(!tags.is_empty());
                }
                Action::Spill { items, .. } => self.layer.extend(items),
                Action::GiveUp(item) => assert!(self.given_up.insert(item.payload)),
            }
        }
        for (id, slots) in &self.workers {
            let taken = self.bench.dispatch.in_flight.values().filter(|at| at.worker == *id).count();
            assert!(taken <= *slots, "{taken} operations at {id:?}, which takes {slots}");
            assert_eq!(taken, self.bench.dispatch.workers[id].in_flight);
        }
        let lane = &self.bench.dispatch.lanes[0];
        assert_eq!(lane.spillable, lane.waiting.values().filter(|item| item.spillable).count());
        // Each operation is in one place.
        let waiting = lane.waiting.len() + self.bench.dispatch.in_flight.len() + self.layer.len();
        let ended = self.answered.len() + self.given_up.len();
        assert_eq!(waiting + ended, usize::try_from(self.offered).unwrap());
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Offer(count) => {
                for _ in 0..count {
                    self.bench.offer([self.offered]);
                    self.offered += 1;
                }
            }
            Step::Up(slots) => self.up(slots.into()),
            Step::Down(at) if !self.workers.is_empty() => {
                let (id, _) = self.workers.remove(at.index(self.workers.len()));
                self.bench.dispatch.worker_down(id);
            }
            Step::Drain(at) if !self.workers.is_empty() => {
                let (id, _) = self.workers[at.index(self.workers.len())];
                self.bench.dispatch.worker_drains(id);
            }
            Step::Outcome(at, verdict) if !self.bench.dispatch.in_flight.is_empty() => {
                let mut tags: Vec<_> = self.bench.dispatch.in_flight.keys().copied().collect();
                tags.sort_unstable();
                let tag = tags[at.index(tags.len())];
                let worker = self.bench.dispatch.in_flight[&tag].worker;
                let now = self.bench.now;
                if let Some(done) = self.bench.dispatch.on_outcome(now, worker, tag, verdict) {
                    self.answered(done.item.payload);
                }
            }
            Step::Stray(tag, worker) => {
                let (now, worker, tag) = (self.bench.now, WorkerId(worker), Tag(tag));
                if let Some(done) = self.bench.dispatch.on_outcome(now, worker, tag, Verdict::Answered) {
                    self.answered(done.item.payload);
                }
            }
            Step::Pass(ms) => {
                self.bench.now += Duration::from_millis(ms.into());
                self.bench.dispatch.handle_timeout(self.bench.now);
            }
            Step::Down(_) | Step::Drain(_) | Step::Outcome(..) => {}
        }
        self.settle();
    }
}

proptest! {
    #[test]
    fn every_operation_is_answered_once_and_none_is_lost(
        hold in 0usize..20,
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let mut world = World {
            bench: Bench::new(hold),
            workers: Vec::new(),
            next_worker: 0,
            offered: 0,
            answered: BTreeSet::new(),
            given_up: BTreeSet::new(),
            layer: Vec::new(),
        };
        for step in steps {
            world.apply(step);
        }
        // From here on all is well: a fresh worker answers what it gets, and the layer comes back.
        world.up(16);
        let fresh = world.workers.last().unwrap().0;
        for _ in 0..10_000 {
            for mut item in std::mem::take(&mut world.layer) {
                item.spillable = false;
                world.bench.dispatch.offer(item);
            }
            world.settle();
            let tags: Vec<(Tag, WorkerId)> =
                world.bench.dispatch.in_flight.iter().map(|(tag, at)| (*tag, at.worker)).collect();
            for (tag, worker) in tags {
                if worker == fresh {
                    let now = world.bench.now;
                    let done = world.bench.dispatch.on_outcome(now, worker, tag, Verdict::Answered).unwrap();
                    world.answered(done.item.payload);
                }
            }
            match world.bench.dispatch.poll_timeout() {
                Some(at) => world.bench.now = world.bench.now.max(at),
                None if world.bench.dispatch.lanes[0].waiting.is_empty() => break,
                None => {}
            }
            world.bench.dispatch.handle_timeout(world.bench.now);
        }
        prop_assert_eq!(
            world.answered.len() + world.given_up.len(),
            usize::try_from(world.offered).unwrap()
        );
    }
}

#[test]
fn a_function_whose_only_worker_drains_is_starving() {
    let mut bench = Bench::new(8);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 4);
    bench.dispatch.worker_drains(WorkerId(1));
    bench.offer([1]);
    assert_eq!(bench.sent(), []);
    assert!(bench.dispatch.is_starving(Function::Add));
    bench.dispatch.worker_up(WorkerId(2), Function::Add, 4);
    assert!(!bench.dispatch.is_starving(Function::Add));
    assert_eq!(bench.sent(), [(2, vec![1])]);
}

#[test]
fn what_expired_at_a_worker_is_gone_and_not_held_against_the_worker() {
    let mut bench = Bench::new(8);
    bench.dispatch.worker_up(WorkerId(1), Function::Add, 1);
    bench.offer([1]);
    assert_eq!(bench.sent(), [(1, vec![1])]);
    let (worker, tag) = bench.tag_of(1);
    let gone = bench.dispatch.on_outcome(bench.now, worker, tag, Verdict::Expired);
    assert_eq!(gone.map(|gone| gone.item.payload), Some(1));
    bench.offer([2]);
    assert_eq!(bench.sent(), [(1, vec![2])]);
    // A failure, on the other hand, is.
    let (worker, tag) = bench.tag_of(2);
    assert_eq!(bench.dispatch.on_outcome(bench.now, worker, tag, Verdict::Unavailable), None);
    assert_eq!(bench.sent(), []);
}
