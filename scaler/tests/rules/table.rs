//! Decision tables. A row is one tick, or several with `30x` in front:
//!
//! ```text
//! ready=2 waiting=5 busy=2 | 3 layer_long
//! ```
//!
//! Left stands what the policy sees, zero where it is not named, one second after the row above unless `t=`
//! gives another time in seconds. Right stands what it decides at each of these ticks.

use std::num::NonZeroU32;

use quorate_scaler::{Observation, Seconds};

/// Runs a table and fails at the first row that decides otherwise.
#[track_caller]
pub(crate) fn check(table: &str, mut decide: impl FnMut(&Observation) -> String) {
    let mut next = Seconds::ZERO;
    let mut rows = 0;
    for line in table.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (seen, expected) = line.split_once('|').expect("a row has a |");
        let (times, row) = parse(seen);
        for tick in 1..=times {
            let now = row.now.unwrap_or(next);
            let decided = decide(&Observation { now, ..row.observation });
            assert_eq!(decided, expected.trim(), "tick {tick} of {line:?}, at {now}");
            next = now.saturating_add(Seconds::new(1));
        }
        rows += 1;
    }
    assert!(rows > 0, "a table without rows proves nothing");
}

struct Row {
    now: Option<Seconds>,
    observation: Observation,
}

fn parse(seen: &str) -> (u32, Row) {
    let mut times = 1;
    let mut row = Row { now: None, observation: Observation::default() };
    let observation = &mut row.observation;
    for word in seen.split_whitespace() {
        if let Some(count) = word.strip_suffix('x') {
            times = count.parse().unwrap();
            continue;
        }
        if word == "invalid" {
            observation.valid = false;
            continue;
        }
        let (name, value) = word.split_once('=').unwrap_or_else(|| panic!("{word:?} is not name=value"));
        let count: u32 = value.parse().unwrap();
        match name {
            "t" => row.now = Some(Seconds::new(count.into())),
            "ready" => observation.ready = count,
            "starting" => observation.starting = count,
            "draining" => observation.draining = count,
            "slots" => observation.slots_per_pod = NonZeroU32::new(count).unwrap(),
            "waiting" => observation.waiting = count.into(),
            "busy" => observation.in_service = count.into(),
            "arrived" => observation.arrivals = count.into(),
            "answered" => observation.completions = count.into(),
            other => panic!("no column {other:?}"),
        }
    }
    (times, row)
}
