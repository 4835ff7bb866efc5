//! Samples and rows.

use std::hint::black_box;
use std::time::Instant;

use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

/// How often things are measured.
pub(crate) struct Effort {
    pub(crate) samples: usize,
    /// Calls of what takes nanoseconds, in one sample.
    pub(crate) calls: usize,
    pub(crate) nodes: usize,
    /// Whether peers are asked that need most of a minute for one sample.
    pub(crate) slow_peers: bool,
}

impl Effort {
    pub(crate) const FULL: Self = Self { samples: 21, calls: 2000, nodes: 1_000_000, slow_peers: true };
    pub(crate) const QUICK: Self = Self { samples: 3, calls: 200, nodes: 100_000, slow_peers: false };
}

/// What the design asks of a row.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

struct Row {
    name: String,
    peer: String,
    value: f64,
    unit: &'static str,
    target: Option<Target>,
}

#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    pub(crate) fn row(&mut self, name: &str, peer: &str, value: f64, unit: &'static str) -> &mut Self {
        eprintln!("{name} | {peer} | {value:.2} {unit}");
        self.0.push(Row { name: name.into(), peer: peer.into(), value, unit, target: None });
        self
    }

    /// Of the row before.
    pub(crate) fn target(&mut self, target: Target) {
        self.0.last_mut().expect("a row has its target").target = Some(target);
    }

    pub(crate) fn print(&self, json: bool) {
        if json {
            for Row { name, peer, value, unit, .. } in &self.0 {
                println!("{}", json!({ "name": name, "peer": peer, "value": value, "unit": unit }));
            }
            return;
        }
        println!("| what | who | measured | target | |\n| --- | --- | ---: | --- | --- |");
        for Row { name, peer, value, unit, target } in &self.0 {
            let (asked, is_met) = match target {
                None => (String::new(), ""),
                Some(Target::AtMost(most)) => (format!("≤ {most}"), met(value <= most)),
                Some(Target::AtLeast(least)) => (format!("≥ {least}"), met(value >= least)),
            };
            let places = if *value < 10.0 { 2 } else { usize::from(*value < 100.0) };
            println!("| {name} | {peer} | {value:.places$} {unit} | {asked} | {is_met} |");
        }
    }
}

fn met(is_met: bool) -> &'static str {
    if is_met { "met" } else { "missed" }
}

/// Something that is measured, under the name of who does it.
pub(crate) type Contender<'a> = (&'static str, Box<dyn FnMut() + 'a>);

pub(crate) fn contender<'a, T>(who: &'static str, mut does: impl FnMut() -> T + 'a) -> Contender<'a> {
    (who, Box::new(move || _ = black_box(does())))
}

/// Median processor time of this thread for one call of each, in nanoseconds. They take turns.
pub(crate) fn take_turns(samples: usize, calls: usize, contenders: &mut [Contender<'_>]) -> Vec<f64> {
    let mut taken = vec![Vec::with_capacity(samples); contenders.len()];
    for sample in 0..=samples {
        for ((_, does), taken) in contenders.iter_mut().zip(&mut taken) {
            let start = processor_ns();
            (0..calls).for_each(|_| does());
            // The first warms up.
            if sample > 0 {
                taken.push((processor_ns() - start) / calls as f64);
            }
        }
    }
    taken.into_iter().map(median).collect()
}

/// Median wall-clock time, for what several threads do.
pub(crate) fn wall_ns<T>(samples: usize, mut does: impl FnMut() -> T) -> f64 {
    let sample = |_| {
        let start = Instant::now();
        black_box(does());
        start.elapsed().as_secs_f64() * 1e9
    };
    median((0..samples).map(sample).collect())
}

pub(crate) fn processor_ns() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

pub(crate) fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}
