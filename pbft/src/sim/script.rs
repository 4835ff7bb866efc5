//! Stories in text files: commands, and what the cluster did.
//!
//! A file is made of blocks: comments that begin with `#`, commands, a line `----`, and the output
//! up to the next empty line. [`rewrite`] runs all blocks and gives the file back with the output
//! as it is now; a test compares the two.
//!
//! Commands (`R` is a replica's index, `*` all of them, `C` a client's):
//!
//! ```text
//! group f=1 clients=1 k=4 l=8 …   begins; further: in-flight, batch, window, history, snapshot,
//!                                 view-timeout, journal, operator
//! request C name…                 submits operations in one bundle; a read ends in `all?`, and `name*2000`
//!                                 has so many bytes
//! receipt C name                  submits an operation and asks for a receipt
//! settle                          what is under way happens; no timer fires
//! advance MS                      so much time passes, timers and all
//! quiet MS                        the same, without its output
//! cut A B / mend                  nothing gets from A to B (`cC` is a client) / all cuts are gone
//! crash R / restart R             R may be `*`
//! bundle C t=T name… [floor=F] [incarnation=I] [to=R] [spoil=R]   a request of the client's own
//!                                 making; `spoil` makes its tags for those replicas invalid, and `named`
//!                                 sends its operations beside it
//! lie A B n=N [page=P]            made-up digests, or a page, of the state at checkpoint N from A to B
//! fetch A B n=N                   A asks B for the digests of the state at checkpoint N
//! slow A B MS                     what gets from A to B takes so much longer
//! stray R                         the next operation that R executes goes wrong there
//! spoil C R…                      from now on the client's tags for those replicas are invalid
//! prepare|commit A B n=N [v=V]    a vote of A's own making to B, for the batch that was voted for last
//! vouch A B                       A's word to B for the requests that were vouched for last
//! propose A B n=N [v=V]           an empty batch of A's own making to B
//! replace C R                     the operator orders, through client C, to replace R
//! newcomer R                      a replica with an empty disk takes the place of R
//! places                          what each replica has executed, holds stable, and where it is
//! ignored                         what each replica put aside
//! ```

use std::fmt::Write as _;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::{Cluster, Ledger, Sent, Setup};
use crate::Readiness;
use crate::client::Options;
use crate::crypto::{Digest, Keychain, Principal};
use crate::group::{ClientId, Incarnation, ReplicaId, Sequence, Timestamp, View};
use crate::message::{
    Claim, Commit, Content, Data, Ending, Fetch, Message, MetaData, Page, PageCursor, PrePrepare, Prepare,
    Request, Space, Vouch, operation_digest, wire,
};
use crate::service::{Branch, LEVELS};

/// What is wrong with a script.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScriptError {
    /// There is no such command, or it lacks something.
    #[error("line {line}: cannot understand `{command}`")]
    Command {
        /// Where.
        line: usize,
        /// What it says.
        command: Box<str>,
    },
    /// A command comes before `group`.
    #[error("line {line}: there is no group yet")]
    NoGroup {
        /// Where.
        line: usize,
    },
}

/// Runs a script and gives it back with the output that it has now.
///
/// # Errors
/// When it is not a script.
pub fn rewrite(text: &str) -> Result<String, ScriptError> {
    let mut out = String::new();
    let mut stage: Option<Stage> = None;
    let mut output = String::new();
    let mut in_output = false;
    for (line, text) in (1..).zip(text.lines()) {
        if in_output {
            if text.is_empty() {
                in_output = false;
                out.push('\n');
            }
            continue;
        }
        out.push_str(text);
        out.push('\n');
        if text == "----" {
            out.push_str(&std::mem::take(&mut output));
            in_output = true;
        } else if !text.is_empty() && !text.starts_with('#') {
            run(&mut stage, line, text, &mut output)?;
        }
    }
    Ok(out)
}

/// A cluster, and what its story has come to.
struct Stage {
    cluster: Cluster<Ledger>,
    /// What was voted for last.
    digest: Digest,
    /// What was vouched for last.
    vouch: Vouch,
}

fn run(stage: &mut Option<Stage>, line: usize, command: &str, out: &mut String) -> Result<(), ScriptError> {
    let words: Vec<_> = command.split_whitespace().collect();
    let wrong = || ScriptError::Command { line, command: command.into() };
    let (name, rest) = words.split_first().ok_or_else(wrong)?;
    if *name == "group" {
        let cluster = group(rest).ok_or_else(wrong)?;
        let vouch = Vouch { requests: Vec::new() };
        *stage = Some(Stage { cluster, digest: Digest::ZERO, vouch });
        return Ok(());
    }
    let stage = stage.as_mut().ok_or(ScriptError::NoGroup { line })?;
    perform(stage, name, rest, out).ok_or_else(wrong)
}

fn group(words: &[&str]) -> Option<Cluster<Ledger>> {
    let number = |key: &str, default: u64| -> Option<u64> {
        let found = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
        found.map_or(Some(default), |value| value.parse().ok())
    };
    let small = |key: &str, default: u32| u32::try_from(number(key, default.into())?).ok();
    let mut setup = Setup::new(small("f", 1)?, small("clients", 1)?);
    setup.configuration.history = number("history", 1)? == 1;
    let limits = &mut setup.configuration.limits;
    limits.checkpoint_period = number("k", 4)?;
    limits.window = number("l", 8)?;
    limits.batch_operations_max = small("batch", limits.batch_operations_max)?;
    limits.client_window = small("window", limits.client_window)?;
    setup.settings.batches_in_flight = number("in-flight", 4)?;
    setup.settings.snapshot_bytes_min = number("snapshot", 1 << 20)?;
    setup.settings.view_timeout = Duration::from_millis(number("view-timeout", 250)?);
    setup.settings.journal = number("journal", 1)? == 1;
    if number("operator", 0)? == 1 {
        setup.with_operator();
    }
    let mut cluster = Cluster::new(setup, Ledger);
    cluster.run_for(Duration::from_millis(10));
    cluster.take_sent();
    Some(cluster)
}

fn perform(stage: &mut Stage, name: &str, rest: &[&str], out: &mut String) -> Option<()> {
    let cluster = &mut stage.cluster;
    match (name, rest) {
        ("prepare" | "commit" | "propose" | "lie" | "fetch", [from, to, words @ ..]) => {
            vote(cluster, name, (from, to), words, stage.digest)?;
        }
        ("vouch", [from, to]) => say(cluster, (from, to), &Message::Vouch(stage.vouch.clone()))?,
        ("request", [client, names @ ..]) => submit(cluster, client, names, false)?,
        ("receipt", [client, names @ ..]) => submit(cluster, client, names, true)?,
        ("bundle", [client, words @ ..]) => bundle(cluster, client, words)?,
        ("spoil", [client, which @ ..]) => {
            let [Principal::Client(client)] = principals(cluster, &format!("c{client}"))?[..] else {
                return None;
            };
            let which = which.first().map_or(Some(Vec::new()), |which| principals(cluster, which))?;
            cluster.spoil_tags(client, &which);
        }
        ("settle", []) => cluster.settle(),
        ("advance", [ms]) => cluster.run_for(Duration::from_millis(ms.parse().ok()?)),
        ("quiet", [ms]) => {
            cluster.run_for(Duration::from_millis(ms.parse().ok()?));
            cluster.take_sent();
            cluster.take_outcomes();
        }
        ("cut", [from, to]) => {
            for from in principals(cluster, from)? {
                for to in principals(cluster, to)? {
                    cluster.cut(from, to);
                }
            }
        }
        ("replace", [client, replaced]) => {
            let replaced = principals(cluster, replaced)?.into_iter().map(|principal| match principal {
                Principal::Replica(id) => Some(id),
                Principal::Client(_) => None,
            });
            let replaced = replaced.collect::<Option<Vec<_>>>()?;
            cluster.order_replacement(ClientId(client.parse().ok()?), &replaced).ok()?;
        }
        ("newcomer", [id]) => {
            cluster.replace(ReplicaId(id.parse().ok()?)).then_some(())?;
        }
        ("slow", [from, to, ms]) => {
            let longer = Duration::from_millis(ms.parse().ok()?);
            for from in principals(cluster, from)? {
                for to in principals(cluster, to)? {
                    cluster.slow(from, to, longer);
                }
            }
        }
        ("stray", [which]) => {
            for principal in principals(cluster, which)? {
                let Principal::Replica(id) = principal else { return None };
                cluster.stray(id);
            }
        }
        ("mend", []) => cluster.mend(),
        ("crash" | "restart", [which]) => {
            for principal in principals(cluster, which)? {
                match (name, principal) {
                    ("crash", Principal::Replica(id)) => cluster.crash(id),
                    ("restart", Principal::Replica(id)) => cluster.restart(id),
                    _ => return None,
                }
            }
        }
        ("places", []) => places(cluster, out),
        ("ignored", []) => ignored(cluster, out),
        _ => return None,
    }
    tell(stage, out);
    Some(())
}

/// The number that `key` has among words like `key=7`.
fn value(words: &[&str], key: &str, default: Option<u64>) -> Option<u64> {
    let found = words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found.map_or(default, |value| value.parse().ok())
}

/// A message about a place in the order that its sender makes up.
fn vote(
    cluster: &mut Cluster<Ledger>,
    kind: &str,
    (from, to): (&str, &str),
    words: &[&str],
    digest: Digest,
) -> Option<()> {
    let sequence = Sequence(value(words, "n", None)?);
    let view = View(value(words, "v", Some(0))?);
    let body = match kind {
        "prepare" => Message::Prepare(Prepare { view, sequence, digest }),
        "commit" => Message::Commit(Commit { view, sequence, digest }),
        "lie" => {
            // Well formed, so that nothing but its digest tells it from the truth.
            if let Some(index) = value(words, "page", Some(u64::MAX)).filter(|index| *index < u64::MAX) {
                let at = PageCursor { space: Space::Service, index };
                let pages = vec![Page { at, bytes: Bytes::from_static(b"made up") }];
                return say(cluster, (from, to), &Message::Data(Data { sequence, pages }));
            }
            let level = LEVELS + 1;
            let branch = Branch { level, children: vec![(0, Digest([7; 32])), (1, Digest([8; 32]))] };
            let partitions = vec![(0, branch)];
            Message::MetaData(MetaData { sequence, space: Space::Protocol, level, partitions })
        }
        "fetch" => {
            let (space, level) = (Space::Protocol, LEVELS + 1);
            Message::Fetch(Fetch { sequence, space, level, indexes: vec![0] })
        }
        _ => {
            let batch = wire::batch(value(words, "time", Some(1))?, false, [].into());
            Message::PrePrepare(PrePrepare { view, sequence, batch })
        }
    };
    say(cluster, (from, to), &body)
}

/// Everybody `from` says the same to everybody `to`.
fn say(cluster: &mut Cluster<Ledger>, (from, to): (&str, &str), body: &Message) -> Option<()> {
    for from in principals(cluster, from)? {
        let configuration = &cluster.setup.configuration;
        let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), from);
        for to in principals(cluster, to)? {
            cluster.inject(from, to, body.clone().proven_by(&keys, to));
        }
    }
    Some(())
}

fn principals(cluster: &Cluster<Ledger>, word: &str) -> Option<Vec<Principal>> {
    if word == "*" {
        return Some(cluster.replica_ids().map(Principal::Replica).collect());
    }
    if let Some(client) = word.strip_prefix('c') {
        return Some(vec![Principal::Client(ClientId(client.parse().ok()?))]);
    }
    let ids = word.split(',').map(|id| id.parse().ok().map(|id| Principal::Replica(ReplicaId(id))));
    ids.collect()
}

/// An operation that the ledger takes: its name as a number, and then as text. `name*2000` has so many bytes.
fn operation(name: &str) -> Bytes {
    let (name, size) = name.split_once('*').unwrap_or((name, ""));
    let mut bytes = BytesMut::new();
    let number = name.bytes().fold(0u64, |number, byte| number.wrapping_mul(31) + u64::from(byte));
    bytes.put_u64(number);
    bytes.put_slice(name.as_bytes());
    bytes.resize(bytes.len().max(size.parse().unwrap_or(0)), b'.');
    bytes.freeze()
}

fn submit(cluster: &mut Cluster<Ledger>, client: &str, names: &[&str], receipt: bool) -> Option<()> {
    let client = ClientId(client.parse().ok()?);
    let submissions: Vec<_> = names
        .iter()
        .map(|name| match *name {
            name if name.ends_with("all?") => (operation(name), Options { read_only: true, receipt }),
            name => (operation(name), Options { read_only: false, receipt }),
        })
        .collect();
    (cluster.submit_all(client, &submissions).len() == names.len()).then_some(())
}

/// A request that no correct client need ever send.
fn bundle(cluster: &mut Cluster<Ledger>, client: &str, words: &[&str]) -> Option<()> {
    let client = ClientId(client.parse().ok()?);
    let value = |key: &str| words.iter().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    let is_named = words.contains(&"named");
    let names: Vec<_> = words.iter().filter(|word| !word.contains('=') && **word != "named").collect();
    let first = Timestamp(value("t")?.parse().ok()?);
    let floor = value("floor").map_or(Some(1), |floor| floor.parse().ok())?;
    let incarnation = value("incarnation").map_or(Some(1), |number| number.parse().ok())?;
    let scope = cluster.setup.configuration.scope();
    let operations: Vec<_> = names.iter().map(|name| operation(name)).collect();
    let request = Request {
        client,
        incarnation: Incarnation(incarnation),
        floor: Timestamp(floor),
        first,
        named: operations.iter().filter(|_| is_named).map(|one| operation_digest(&scope, one)).collect(),
        operations,
        read_only: false,
        receipt: false,
        replier: ReplicaId(0),
        reconfigure: false,
    };
    for operation in &request.operations {
        cluster.checkers.submitted(client, operation);
    }
    let configuration = &cluster.setup.configuration;
    let me = Principal::Client(client);
    let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), me);
    let mut message = Message::Request(request).proven_by(&keys, me);
    let wrong = principals(cluster, value("spoil").unwrap_or("none")).unwrap_or_default();
    message.proof = super::spoiled(message.proof, &wrong);
    for to in principals(cluster, value("to").unwrap_or("0"))? {
        cluster.inject(me, to, message.clone());
    }
    Some(())
}

fn places(cluster: &Cluster<Ledger>, out: &mut String) {
    for id in cluster.replica_ids() {
        let _ = match cluster.replica(id) {
            None => writeln!(out, "{id}  down"),
            Some(replica) => {
                let (executed, stable) = (replica.executed(), replica.stable());
                let leaves = replica.history_size();
                let view = match replica.view() {
                    View(0) => String::new(),
                    view if replica.is_changing() => format!(" wants view={view}"),
                    view => format!(" view={view}"),
                };
                let mark = match replica.readiness(cluster.now()) {
                    Readiness::Ready | Readiness::Changing => String::new(),
                    other => format!("  {other:?}").to_lowercase(),
                };
                let view = match replica.configuration().number {
                    0 => view,
                    number => format!(" configuration={number}{view}"),
                };
                writeln!(out, "{id}  executed={executed} stable={stable} leaves={leaves}{view}{mark}")
            }
        };
    }
}

fn ignored(cluster: &Cluster<Ledger>, out: &mut String) {
    for id in cluster.replica_ids() {
        let Some(replica) = cluster.replica(id) else { continue };
        let reasons: Vec<_> =
            replica.ignored().map(|(reason, count)| format!("{reason:?}={count}")).collect();
        let _ = writeln!(out, "{id}  {}", reasons.join(" "));
    }
}

/// One sender's message with all its receivers, or several senders' to all others.
struct Line {
    from: Vec<Principal>,
    to: Vec<Principal>,
    cut: bool,
    text: String,
}

/// Writes what was sent and what came out since the last command.
fn tell(stage: &mut Stage, out: &mut String) {
    let cluster = &mut stage.cluster;
    let others = cluster.replica_ids().count() - 1;
    let mut lines: Vec<Line> = Vec::new();
    for Sent { from, to, cut, message, signed, .. } in cluster.take_sent() {
        if let Message::Prepare(Prepare { digest, .. }) | Message::Commit(Commit { digest, .. }) = &message {
            stage.digest = *digest;
        }
        if let Message::Vouch(vouch) = &message {
            stage.vouch = vouch.clone();
        }
        let text = format!("{}{}", describe(&message), if signed { " signed" } else { "" });
        match lines.iter_mut().find(|line| line.from == [from] && line.cut == cut && line.text == text) {
            Some(line) if !line.to.contains(&to) => line.to.push(to),
            _ => lines.push(Line { from: vec![from], to: vec![to], cut, text }),
        }
    }
    let mut merged: Vec<Line> = Vec::new();
    for line in lines {
        let to_all = |line: &Line| line.to.len() == others && matches!(line.from[0], Principal::Replica(_));
        let alike = merged.iter_mut().find(|known| {
            known.text == line.text
                && known.cut == line.cut
                && ((to_all(known) && to_all(&line)) || known.to == line.to)
        });
        match alike {
            Some(known) if !known.from.contains(&line.from[0]) => known.from.extend(line.from),
            _ => merged.push(line),
        }
    }
    for Line { mut from, mut to, cut, text } in merged {
        from.sort();
        to.sort();
        let replicas = to.iter().filter(|to| matches!(to, Principal::Replica(_))).count();
        let all = replicas == others && matches!(from[0], Principal::Replica(_)) || replicas == others + 1;
        let to = if all { "*".to_owned() } else { names(&to) };
        let arrow = if cut { "-x" } else { "->" };
        let _ = writeln!(out, "{:<14} {text}", format!("{} {arrow} {to}", names(&from)));
    }
    for (client, outcome) in cluster.take_outcomes() {
        let what = match (&outcome.content, outcome.ending) {
            (Content::Full(result), Ending::Done) => show(result),
            (_, ending) => format!("{ending:?}"),
        };
        let (t, n) = (outcome.request.0, outcome.sequence);
        let receipt = outcome.receipt.map(|receipt| {
            format!(" receipt position={} size={} by {:?}", receipt.position, receipt.size, receipt.signers())
        });
        let _ = writeln!(
            out,
            "c{client}             outcome t={t} n={n} {what} by {:?}{}",
            outcome.agreed,
            receipt.unwrap_or_default()
        );
    }
    for (accuser, misbehaviour) in cluster.take_evidence() {
        let _ = writeln!(out, "{accuser}              evidence: {misbehaviour}");
    }
    if let Some(violation) = cluster.violation() {
        let _ = writeln!(out, "VIOLATION {violation}");
    }
}

fn names(principals: &[Principal]) -> String {
    let names: Vec<_> = principals
        .iter()
        .map(|principal| match principal {
            Principal::Replica(id) => id.to_string(),
            Principal::Client(id) => format!("c{id}"),
        })
        .collect();
    names.join(",")
}

/// A ledger's result: how often this operation, and how many in all.
fn show(result: &[u8]) -> String {
    let (numbers, _) = result.as_chunks::<8>();
    let numbers: Vec<_> = numbers.iter().map(|number| u64::from_be_bytes(*number).to_string()).collect();
    numbers.join("/")
}

fn short(digest: &Digest) -> String {
    digest.0[..2].iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Which part of a state is meant.
fn part(space: Space, level: u32) -> String {
    match level {
        0 => format!("{space:?} pages"),
        1..=LEVELS => format!("{space:?} level {level}"),
        _ => "State".to_owned(),
    }
}

fn list(indexes: &[u64]) -> String {
    indexes.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

fn describe(message: &Message) -> String {
    let kind = match message {
        Message::Request(_) => "REQUEST",
        Message::PrePrepare(_) => "PRE-PREPARE",
        Message::Vouch(_) => "VOUCH",
        Message::Doubt(_) => "DOUBT",
        Message::Prepare(_) => "PREPARE",
        Message::Commit(_) => "COMMIT",
        Message::Reply(_) => "REPLY",
        Message::Busy(_) => "BUSY",
        Message::Checkpoint(_) => "CHECKPOINT",
        Message::Seal(_) => "SEAL",
        Message::Status(_) => "STATUS",
        Message::Fetch(_) => "FETCH",
        Message::MetaData(_) => "META-DATA",
        Message::Data(_) => "DATA",
        Message::Stable(_) => "STABLE",
        Message::ViewChange(_) => "VIEW-CHANGE",
        Message::NewView(_) => "NEW-VIEW",
        Message::Want(_) => "WANT",
        Message::Body(_) => "BODY",
        Message::Committed(_) => "COMMITTED",
        Message::Configured(_) => "CONFIGURED",
        Message::Succession(_) => "SUCCESSION",
    };
    let fields = match message {
        Message::Request(m) => {
            let last = m.end().0 - 1;
            let t = if last == m.first.0 { m.first.to_string() } else { format!("{}-{last}", m.first) };
            {
                let how = if m.read_only {
                    " read-only"
                } else if m.reconfigure {
                    " reconfigure"
                } else {
                    ""
                };
                let beside: usize = m.operations.iter().filter(|_| !m.named.is_empty()).map(Bytes::len).sum();
                let beside = if beside > 0 { format!(" beside it {beside} bytes") } else { String::new() };
                format!("t={t} floor={}{how}{beside}", m.floor)
            }
        }
        Message::PrePrepare(m) => {
            let requests = m.batch.requests.iter().map(|request| {
                let last = request.body.end().0 - 1;
                let named = if request.body.named.is_empty() { "" } else { " named" };
                format!("c{}:{}-{last}{named}", request.body.client, request.body.first)
            });
            let requests: Vec<_> = requests.collect();
            let seal = if m.batch.seal { " seal" } else { "" };
            format!("v={} n={} [{}]{seal}", m.view, m.sequence, requests.join(" "))
        }
        Message::Vouch(m) => {
            let requests = m.requests.iter().map(|(client, digest)| format!("c{client}:{}", short(digest)));
            format!("[{}]", requests.collect::<Vec<_>>().join(" "))
        }
        Message::Doubt(m) => {
            let bits = (0..8 * u32::try_from(m.checked.len()).unwrap_or(0)).map(|index| m.has_checked(index));
            let doubted = (0..).zip(bits).filter(|(_, checked)| !checked);
            let doubted: Vec<_> = doubted.map(|(index, _): (u32, _)| index.to_string()).collect();
            format!("v={} n={} d={} requests {}", m.view, m.sequence, short(&m.digest), doubted.join(","))
        }
        Message::Prepare(m) => format!("v={} n={} d={}", m.view, m.sequence, short(&m.digest)),
        Message::Commit(m) => format!("v={} n={} d={}", m.view, m.sequence, short(&m.digest)),
        Message::Reply(m) => {
            let answers = m.answers.iter().map(|answer| match &answer.content {
                Content::Full(result) => {
                    format!("t={} n={} {}", answer.timestamp, answer.sequence, show(result))
                }
                Content::Digest(_) => format!("t={} n={} digest", answer.timestamp, answer.sequence),
            });
            answers.collect::<Vec<_>>().join(", ")
        }
        Message::Busy(m) => format!("t={}{}", m.first, if m.sign { " sign" } else { "" }),
        Message::Checkpoint(m) => format!("n={} d={}", m.sequence, short(&m.state)),
        Message::Seal(m) => format!("n={} size={}", m.sequence, m.size),
        Message::Status(m) => {
            let slots: String =
                m.slots.iter().map(|slot| ["-", "p", "P", "C"][usize::from(*slot & 3)]).collect();
            let view = match (m.view, m.active) {
                (View(0), _) => String::new(),
                (view, active) if view == active => format!("v={view} "),
                (view, active) => format!("v={active}→{view} "),
            };
            format!("{view}stable={} executed={} {slots}", m.stable, m.executed)
        }
        Message::Fetch(m) => format!("n={} {} {}", m.sequence, part(m.space, m.level), list(&m.indexes)),
        Message::MetaData(m) => {
            let indexes: Vec<_> = m.partitions.iter().map(|(index, _)| *index).collect();
            format!("n={} {} {}", m.sequence, part(m.space, m.level), list(&indexes))
        }
        Message::Data(m) => {
            let indexes: Vec<_> = m.pages.iter().map(|page| page.at.index).collect();
            let space = m.pages.first().map(|page| page.at.space).unwrap_or_default();
            format!("n={} {} {}", m.sequence, part(space, 0), list(&indexes))
        }
        Message::Stable(m) => format!("n={} d={}", m.sequence, short(&m.state)),
        Message::ViewChange(m) => {
            let stable = m.stable.as_ref().map_or(Sequence(0), |stable| stable.sequence);
            let claims = |claims: &[Claim]| {
                let claim =
                    |claim: &Claim| format!("{}={}@{}", claim.sequence, short(&claim.digest), claim.view);
                claims.iter().map(claim).collect::<Vec<_>>().join(" ")
            };
            let (p, q) = (claims(&m.prepared), claims(&m.pre_prepared));
            let marks: String = m.marks.iter().map(|client| format!(" marks c{client}")).collect();
            format!("v={} stable={stable} P[{p}] Q[{q}]{marks}", m.view)
        }
        Message::NewView(m) => {
            let senders: Vec<_> = m.view_changes.iter().map(|one| one.sender).collect();
            format!("v={} by {}", m.view, names(&senders))
        }
        Message::Want(m) => format!("n={} d={}", m.sequence, short(&m.digest)),
        Message::Committed(m) => format!("n={} d={}", m.sequence, short(&m.digest)),
        Message::Configured(m) => format!("configuration={}", m.number),
        Message::Succession(m) => {
            let replaced: Vec<_> =
                m.reconfigure.replacements.iter().map(|(index, _)| index.0.to_string()).collect();
            format!(
                "configuration={} start={} replaces {}",
                m.reconfigure.number,
                m.start,
                replaced.join(",")
            )
        }
        Message::Body(m) => format!("n={} of {} bytes", m.sequence, m.batch.weight()),
    };
    format!("{kind} {fields}").trim_end().to_owned()
}
