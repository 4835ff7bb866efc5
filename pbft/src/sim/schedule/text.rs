//! Schedules as text, and back.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{Fault, Schedule, Step, Terms, Weather};
use crate::crypto::Principal;
use crate::group::{ClientId, ReplicaId};

/// The most replicas or clients that a schedule's text may ask for.
const PRINCIPALS_MAX: u32 = 64;

/// Why a text is no schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A line is not understood, or names somebody who is not there.
    #[error(
        "line {line}: cannot understand `{text}`; a schedule's form is told in quorate_pbft::sim::schedule"
    )]
    Line {
        /// Which, from 1.
        line: usize,
        /// What it says.
        text: Box<str>,
    },
    /// The first line that is no comment describes the group.
    #[error("a schedule begins with a line `group seed=…`")]
    NoGroup,
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.terms)?;
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let yes = |is: bool| if is { "yes" } else { "no" };
        write!(
            f,
            "group seed={} f={} clients={} keys={} wire={} primaries={} history={} k={} l={} batch={} \
             in-flight={} snapshot={} view-timeout={} bundle={}",
            self.seed,
            self.f,
            self.clients,
            if self.real_keys { "real" } else { "fast" },
            yes(self.through_wire),
            if self.seeded { "seeded" } else { "identity" },
            yes(self.history),
            self.checkpoint_period,
            self.window,
            self.batch,
            self.in_flight,
            self.snapshot,
            Micros(self.view_timeout),
            self.bundle,
        )
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Submit { client, name, size, receipt } => {
                let receipt = if *receipt { " receipt" } else { "" };
                write!(f, "submit c{client} {name} size={size}{receipt}")
            }
            Self::Read { client, name } => write!(f, "read c{client} {name}"),
            Self::Wait(duration) => write!(f, "wait {}", Micros(*duration)),
            Self::Crash(id) => write!(f, "crash {id}"),
            Self::Restart(id) => write!(f, "restart {id}"),
            Self::RestartClient(id) => write!(f, "restart c{id}"),
            Self::Cut(pairs) => {
                write!(f, "cut")?;
                pairs.iter().try_for_each(|(from, to)| write!(f, " {}>{}", Name(*from), Name(*to)))
            }
            Self::Mend => write!(f, "mend"),
            Self::Weather(Weather { delay_min, delay_max, loss, duplication }) => write!(
                f,
                "weather delay={}..{} loss={loss} duplication={duplication}",
                Micros(*delay_min),
                Micros(*delay_max)
            ),
            Self::Clock { replica, leap, ticks } => {
                write!(f, "clock {replica} leap={} ticks={ticks}", Micros(*leap))
            }
            Self::Disk { replica, least, most } => {
                write!(f, "disk {replica} {}..{}", Micros(*least), Micros(*most))
            }
            Self::Withhold { client, replicas } => write!(f, "withhold c{client} {}", List(replicas)),
            Self::Lie(id) => write!(f, "lie {id}"),
            Self::Refresh => write!(f, "refresh"),
            Self::Strike(Fault::Network { round, side }) => {
                write!(f, "strike network round={round} side={}", List(side))
            }
            Self::Strike(Fault::Process { round, replica, to, seed }) => {
                write!(f, "strike process round={round} replica={replica} to={} seed={seed}", List(to))
            }
            Self::Away(id) => write!(f, "away {id}"),
        }
    }
}

struct Micros(Duration);

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us", self.0.as_micros())
    }
}

/// `0` for a replica, `c0` for a client.
struct Name(Principal);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Principal::Replica(id) => write!(f, "{id}"),
            Principal::Client(id) => write!(f, "c{id}"),
        }
    }
}

struct List<'a>(&'a [ReplicaId]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.0.iter().map(ReplicaId::to_string).collect();
        write!(f, "{}", ids.join(","))
    }
}

impl FromStr for Schedule {
    type Err = ScheduleError;

    /// Empty lines and those that begin with `#` say nothing.
    fn from_str(text: &str) -> Result<Self, ScheduleError> {
        let lines = (1..).zip(text.lines().map(str::trim));
        let mut lines = lines.filter(|(_, text)| !text.is_empty() && !text.starts_with('#'));
        let wrong = |(line, text): (usize, &str)| ScheduleError::Line { line, text: text.into() };
        let first = lines.next().ok_or(ScheduleError::NoGroup)?;
        let words = first.1.strip_prefix("group ").ok_or(ScheduleError::NoGroup)?;
        let terms = terms(words).ok_or_else(|| wrong(first))?;
        let steps = lines.map(|line| step(&terms, line.1).ok_or_else(|| wrong(line)));
        let steps = steps.collect::<Result<_, _>>()?;
        Ok(Self { terms, steps })
    }
}

fn terms(words: &str) -> Option<Terms> {
    let words: Vec<_> = words.split_whitespace().collect();
    let yes = |key| Some(value(&words, key)? == "yes");
    let terms = Terms {
        seed: value(&words, "seed")?.parse().ok()?,
        f: value(&words, "f")?.parse().ok()?,
        clients: value(&words, "clients")?.parse().ok()?,
        real_keys: value(&words, "keys")? == "real",
        through_wire: yes("wire")?,
        seeded: value(&words, "primaries")? == "seeded",
        history: yes("history")?,
        checkpoint_period: value(&words, "k")?.parse().ok()?,
        window: value(&words, "l")?.parse().ok()?,
        batch: value(&words, "batch")?.parse().ok()?,
        in_flight: value(&words, "in-flight")?.parse().ok()?,
        snapshot: value(&words, "snapshot")?.parse().ok()?,
        view_timeout: micros(value(&words, "view-timeout")?)?,
        bundle: value(&words, "bundle")?.parse().ok()?,
    };
    let few = terms.f < PRINCIPALS_MAX / 3 && (1..=PRINCIPALS_MAX).contains(&terms.clients);
    let few_with_keys = !terms.real_keys || (terms.f <= 4 && terms.clients <= 16);
    (few && few_with_keys && terms.setup().configuration.validate().is_ok()).then_some(terms)
}

fn step(terms: &Terms, line: &str) -> Option<Step> {
    let words: Vec<_> = line.split_whitespace().collect();
    let replica = |text: &str| Some(ReplicaId(text.parse().ok().filter(|id| *id <= 3 * terms.f)?));
    let client = |text: &str| {
        let id = text.strip_prefix('c')?.parse().ok()?;
        (id < terms.clients).then_some(ClientId(id))
    };
    let principal = |text: &str| match client(text) {
        Some(id) => Some(Principal::Client(id)),
        None => replica(text).map(Principal::Replica),
    };
    let list =
        |text: &str| -> Option<Vec<_>> { text.split(',').filter(|id| !id.is_empty()).map(replica).collect() };
    let (verb, rest) = words.split_first()?;
    let step = match (*verb, rest) {
        ("submit", [who, name, size, receipt @ ..]) if matches!(receipt, [] | ["receipt"]) => Step::Submit {
            client: client(who)?,
            name: name.parse().ok()?,
            size: size.strip_prefix("size=")?.parse().ok().filter(|size| *size <= 1 << 16)?,
            receipt: !receipt.is_empty(),
        },
        ("read", [who, name]) => Step::Read { client: client(who)?, name: name.parse().ok()? },
        ("wait", [duration]) => Step::Wait(micros(duration)?),
        ("crash", [id]) => Step::Crash(replica(id)?),
        ("restart", [id]) => match client(id) {
            Some(client) => Step::RestartClient(client),
            None => Step::Restart(replica(id)?),
        },
        ("cut", pairs) => {
            let pair = |pair: &&str| {
                let (from, to) = pair.split_once('>')?;
                Some((principal(from)?, principal(to)?))
            };
            Step::Cut(pairs.iter().map(pair).collect::<Option<_>>()?)
        }
        ("mend", []) => Step::Mend,
        ("weather", words) => {
            let (delay_min, delay_max) = range(value(words, "delay")?)?;
            Step::Weather(Weather {
                delay_min,
                delay_max,
                loss: value(words, "loss")?.parse().ok()?,
                duplication: value(words, "duplication")?.parse().ok()?,
            })
        }
        ("clock", [id, words @ ..]) => Step::Clock {
            replica: replica(id)?,
            leap: micros(value(words, "leap")?)?,
            ticks: value(words, "ticks")?.parse().ok().filter(|ticks| *ticks > 0)?,
        },
        ("disk", [id, time]) => {
            let (least, most) = range(time)?;
            Step::Disk { replica: replica(id)?, least, most }
        }
        ("withhold", [who, from]) => Step::Withhold { client: client(who)?, replicas: list(from)? },
        ("lie", [id]) => Step::Lie(replica(id)?),
        ("refresh", []) => Step::Refresh,
        ("strike", ["network", words @ ..]) => Step::Strike(Fault::Network {
            round: value(words, "round")?.parse().ok()?,
            side: list(value(words, "side")?)?,
        }),
        ("strike", ["process", words @ ..]) => Step::Strike(Fault::Process {
            round: value(words, "round")?.parse().ok()?,
            replica: replica(value(words, "replica")?)?,
            to: list(value(words, "to")?)?,
            seed: value(words, "seed")?.parse().ok()?,
        }),
        ("away", [id]) => Step::Away(replica(id)?),
        _ => return None,
    };
    Some(step)
}

/// What `key` is among words like `key=7`.
fn value<'a>(words: &[&'a str], key: &str) -> Option<&'a str> {
    words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
}

fn micros(text: &str) -> Option<Duration> {
    text.strip_suffix("us")?.parse().ok().map(Duration::from_micros)
}

/// From a shortest to a longest time.
fn range(text: &str) -> Option<(Duration, Duration)> {
    let (least, most) = text.split_once("..")?;
    let (least, most) = (micros(least)?, micros(most)?);
    (least <= most).then_some((least, most))
}

#[cfg(test)]
mod tests {
    use super::super::Scheme;
    use super::*;

    #[test]
    fn every_schedule_is_read_as_it_was_written() {
        for seed in 0..300 {
            for scheme in [Scheme::Faults, Scheme::ByzzFuzz] {
                let schedule = Schedule::draw(scheme, seed, 40);
                assert_eq!(schedule.to_string().parse(), Ok(schedule), "seed {seed}, {scheme:?}");
            }
        }
    }

    #[test]
    fn wrong_line_is_named() {
        let group = Schedule::draw(Scheme::Faults, 1, 0).terms.to_string();
        let refused = |line: &str| format!("# a story\n\n{group}\nmend\n{line}\n").parse::<Schedule>();
        for line in
            ["crash 99", "submit c0 1", "cut 0>", "wait 3", "lie", "clock 0 leap=1us ticks=0", "dance"]
        {
            let error = ScheduleError::Line { line: 5, text: line.into() };
            assert_eq!(refused(line), Err(error));
        }
        assert_eq!("mend".parse::<Schedule>(), Err(ScheduleError::NoGroup));
        let large = group.replace("f=1", "f=4000000000").replace("f=2", "f=4000000000");
        let error = ScheduleError::Line { line: 1, text: large.as_str().into() };
        assert_eq!(large.parse::<Schedule>(), Err(error));
    }
}
