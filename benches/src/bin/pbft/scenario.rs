//! The rows with a group of processes and no fault but a kill.

use std::time::{Duration, Instant};

use quorate_pbft::{
    Configuration, Group, View,
    crypto::{Identity, SeedRng},
    runtime::SyncPolicy,
};

use crate::{
    Asked, Outcome, group,
    load::{Load, Measured},
    process::{Process, cpu},
    report::{Report, Row},
};

#[derive(Clone, Copy, Debug)]
struct Scenario {
    name: &'static str,
    clients: usize,
    /// Of each client.
    outstanding: usize,
    request_bytes: usize,
    /// Each client has connections of its own; else they share one to each replica.
    connections: bool,
    journal: Option<SyncPolicy>,
    history: bool,
    /// The primary is killed in the middle.
    kills_primary: bool,
    /// The load is open, and this share of what the first row gave comes in.
    open: Option<f64>,
    /// Measured by `--quick`, too.
    main: bool,
}

const EMPTY: Scenario = Scenario {
    name: "empty, 256 clients",
    clients: 256,
    outstanding: 1,
    request_bytes: 0,
    connections: false,
    journal: None,
    history: true,
    kills_primary: false,
    open: None,
    main: true,
};

const SCENARIOS: &[Scenario] = &[
    EMPTY,
    Scenario { name: "empty, one client", clients: 1, outstanding: 256, ..EMPTY },
    Scenario { name: "empty, no history", history: false, main: false, ..EMPTY },
    Scenario { name: "empty, a connection for each client", connections: true, ..EMPTY },
    Scenario { name: "one at a time", clients: 1, ..EMPTY },
    Scenario { name: "4 KiB", request_bytes: 4096, ..EMPTY },
    Scenario { name: "journal, synced", journal: Some(SyncPolicy::Data), ..EMPTY },
    Scenario { name: "journal, not synced", journal: Some(SyncPolicy::Process), main: false, ..EMPTY },
    Scenario { name: "open, half of the closed loop's rate", open: Some(0.5), ..EMPTY },
    Scenario { name: "open, 80 % of the closed loop's rate", open: Some(0.8), main: false, ..EMPTY },
    Scenario { name: "primary killed", journal: Some(SyncPolicy::Data), kills_primary: true, ..EMPTY },
];

pub(crate) fn names() -> impl Iterator<Item = String> {
    SCENARIOS.iter().map(|scenario| scenario.name.to_owned())
}

pub(crate) fn measure(
    asked: &Asked,
    identities: &[Identity],
    rng: &mut SeedRng,
    report: &mut Report,
) -> Outcome<()> {
    let mut closed = None;
    for scenario in SCENARIOS.iter().filter(|scenario| asked.wants(scenario.name, scenario.main)) {
        let rate = match scenario.open {
            None => None,
            Some(share) => {
                if closed.is_none() {
                    closed = Some(run(&EMPTY, identities, rng.next_seed(), 2.0, None)?.ops_per_s);
                }
                closed.map(|rate| share * rate)
            }
        };
        let row = run(scenario, identities, rng.next_seed(), asked.seconds(), rate)?;
        if scenario.name == EMPTY.name {
            closed = Some(row.ops_per_s);
        }
        report.print(&row)?;
    }
    Ok(())
}

/// Runs one scenario in a group of its own.
fn run(
    scenario: &Scenario,
    identities: &[Identity],
    seed: [u8; 32],
    seconds: f64,
    rate: Option<f64>,
) -> Outcome<Row> {
    let configuration = group::configure(identities, seed, scenario.clients, scenario.history)?;
    let directory = group::prepare(&configuration, identities)?;
    let journal = match scenario.journal {
        None => "none",
        Some(SyncPolicy::Data) => "data",
        Some(SyncPolicy::Process) => "process",
    };
    let path = directory.path().to_str().ok_or("the temporary directory is not UTF-8")?;
    let began = Instant::now();
    let mut processes = Vec::new();
    for index in 0..4 {
        processes.push(Process::start(&["replica", path, &index.to_string(), journal])?);
    }
    let load = Load {
        clients: scenario.clients,
        outstanding: scenario.outstanding,
        request_bytes: scenario.request_bytes,
        seconds,
        rate,
        connections: scenario.connections,
        patient: false,
    };
    processes.push(Process::start(&["client", path, &serde_json::to_string(&load)?])?);
    group::introduce(&mut processes)?;
    processes[4].expect("first reply")?;
    let setup_ms = began.elapsed().as_secs_f64() * 1e3;
    processes[4].expect("begin")?;
    let before = cpu(&processes)?;
    if scenario.kills_primary {
        std::thread::sleep(Duration::from_secs_f64(seconds / 2.0));
        drop(processes.remove(primary(&configuration))); // and so kills it
    }
    let client = processes.len() - 1;
    processes[client].expect("end")?;
    let after = if scenario.kills_primary { None } else { Some(cpu(&processes)?) };
    let measured: Measured = serde_json::from_str(&processes[client].line()?)?;
    for process in processes {
        process.finish()?;
    }
    Ok(Row {
        cpu_us_per_op: after.map(|after| (after - before).as_secs_f64() * 1e6 / measured.operations as f64),
        setup_ms: Some(setup_ms),
        offered_per_s: rate,
        outstanding: rate.is_none().then_some(scenario.outstanding),
        ..measured.row(scenario.name, &load)
    })
}

/// The index of the replica that leads a group first.
pub(crate) fn primary(configuration: &Configuration) -> usize {
    Group::new(configuration).primary(View(0)).index()
}
