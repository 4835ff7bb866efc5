//! What ordering costs: groups of real processes on loopback under load, the core alone in one
//! thread, liars among the members, and etcd beside them.
//!
//! `pbft --help` says how to use it. The program starts itself again for each process, and ends them
//! all before it ends.

mod attack;
mod core;
mod etcd;
mod group;
mod load;
mod peer;
mod process;
mod report;
mod scenario;

use std::{error::Error, path::Path};

use quorate_pbft::{
    crypto::{Identity, SeedRng},
    runtime::generate_identities,
};

use report::Report;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Keys that the clients of a scenario take turns with: what is measured doesn't depend on how many
/// different ones there are, and 256 take seconds to generate.
const CLIENT_KEYS: usize = 4;

const HELP: &str = "\
What ordering by PBFT costs on this machine, and etcd beside it.

    pbft [--quick] [--json] [--only NAME] [--operations N] [--list]

  --quick      the main rows only, 1.5 s each; ends within 45 s
  --json       one object a line instead of a table: name, clients, outstanding,
               request_bytes, ops_per_s, cpu_us_per_op, p50_us, p99_us, and what else a
               row has to say
  --only NAME  the rows whose names contain NAME, also those that --quick leaves out;
               of two such rows \"=NAME\" is the one that is called just so
  --operations N
               rows \"core\" end after N operations, so that a profiler can count the
               instructions of each
  --list       the names, and nothing else

A row is a group of four replica processes, f = 1, and a client process that loads it; in
a closed loop each client keeps `outstanding` operations under way, in an open loop they
come at a fixed rate, and a latency counts from when its operation was due. CPU is what the
kernel accounts to all processes of the row while the load runs, divided by the operations.
Rows \"core\" have no processes and no network: four replicas and the clients take turns in
one thread. Rows \"under\" have a faulty member or faulty clients; `share` is what is left of
the rate of the row \"fault-free\" of the same run. Rows \"etcd\" need its program
(Debian: etcd-server).

Rows of one run can be compared with one another; other work on the machine moves all of
them, rates more than CPU. `uptime` before and after says how much there was.
";

fn main() -> Outcome<()> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["replica", directory, index, journal] => {
            group::replica(Path::new(directory), index.parse()?, journal)
        }
        ["client", directory, load] => load::client(Path::new(directory), &serde_json::from_str(load)?),
        ["liar", directory, index, fault] => attack::replica(Path::new(directory), index.parse()?, fault),
        ["pest", directory, index, fault] => attack::client(Path::new(directory), index.parse()?, fault),
        ["etcd-client", load] => etcd::client(&serde_json::from_str(load)?),
        _ => {
            let mut asked = Asked::default();
            let mut rest = arguments.iter();
            while let Some(argument) = rest.next() {
                match *argument {
                    "--quick" => asked.quick = true,
                    "--json" => asked.json = true,
                    "--list" => asked.list = true,
                    "--operations" => {
                        let number = rest.next().ok_or("--operations is followed by a number")?;
                        asked.operations = Some(number.parse()?);
                    }
                    "--only" => asked.only = rest.next().ok_or("--only is followed by a part of a name")?,
                    "--help" | "-h" => {
                        print!("{HELP}");
                        return Ok(());
                    }
                    other => return Err(format!("{other} is not an option; --help names them").into()),
                }
            }
            measure(&asked)
        }
    }
}

/// What the command line asks for.
#[derive(Default)]
struct Asked<'a> {
    quick: bool,
    json: bool,
    list: bool,
    only: &'a str,
    /// After which a row without processes ends.
    operations: Option<usize>,
}

impl Asked<'_> {
    /// Whether a row is wanted; `main` rows are those of `--quick`.
    fn wants(&self, name: &str, main: bool) -> bool {
        let named = match self.only.strip_prefix('=') {
            Some(exactly) => name == exactly,
            None => name.contains(self.only),
        };
        named && (main || !self.quick || !self.only.is_empty())
    }

    /// How long each row is measured.
    fn seconds(&self) -> f64 {
        if self.quick { 1.5 } else { 8.0 }
    }
}

fn measure(asked: &Asked) -> Outcome<()> {
    if asked.list {
        let names = scenario::names().chain(core::names()).chain(attack::names()).chain(etcd::names());
        names.for_each(|name| println!("{name}"));
        return Ok(());
    }
    let mut rng = SeedRng::new(process::seed()?);
    let identities = generate_identities(4 + CLIENT_KEYS, &mut rng)?;
    let mut report = Report::new(asked.json);
    scenario::measure(asked, &identities, &mut rng, &mut report)?;
    core::measure(asked, &identities, &mut rng, &mut report)?;
    attack::measure(asked, &identities, &mut rng, &mut report)?;
    etcd::measure(asked, &mut report)
}

/// The replicas' identities and the clients'.
fn split(identities: &[Identity]) -> (&[Identity], &[Identity]) {
    identities.split_at(4)
}
