//! Every key of the configuration: its name, what it means, what it takes.

use super::{Config, Fault, FunctionConfig, Replication, engines::Choice};
use std::{
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

/// The keys outside `[functions.…]`, with what each means.
pub(super) const KEYS: [(&str, &str); 52] = [
    ("data", "where identities, the database and journals lie"),
    ("listen", "address of the gateway; port 0 takes a free one"),
    (
        "durability",
        "what an acknowledged write survives: disk (a power cut) or process (the end of a process)",
    ),
    ("advertise", "address under which others reach daemons that run by themselves"),
    ("monitor", "where such a daemon tells its health and metrics (plain HTTP); empty: nowhere"),
    ("backend", "where pods run: process (on this machine) or kubernetes"),
    (
        "gateway.access",
        "whether tokens are asked for: auto (when there are some, or others can come), open or tokens",
    ),
    ("gateway.tokens", "file of tokens; empty: tokens.json in the data folder"),
    ("gateway.tls_cert", "PEM file of the gateway's certificate and those above it; empty: no TLS"),
    ("gateway.tls_key", "PEM file of that certificate's key"),
    (
        "tls.inside",
        "whether both ends of each connection inside the platform prove who they are: on, or off (the network \
         sees to it)",
    ),
    ("tls.ca", "PEM file of the authority inside the platform; empty: its own, made in the data folder"),
    (
        "tls.ca_key",
        "PEM file of that authority's key; the cluster service makes the pods' certificates with it",
    ),
    ("tls.cert", "PEM file of this daemon's certificate; empty: made at each start"),
    ("tls.key", "PEM file of that certificate's key"),
    ("limits.body_bytes", "a request's body"),
    ("limits.expression_bytes", "an expression's text"),
    ("limits.nodes", "operations of one expression"),
    ("limits.nesting", "nested parentheses"),
    ("limits.digits", "digits of any value"),
    ("limits.accepted", "requests accepted and not answered yet; more are refused with 503"),
    ("limits.requests_per_second", "requests of one token; more are refused with 429"),
    ("timeouts.request", "from acceptance to an answer"),
    ("timeouts.wait", "the longest ?wait="),
    ("timeouts.keep", "how long a finished request can be read"),
    ("timeouts.lease", "a scheduler's lease on an inbound message"),
    ("timeouts.operation", "one operation at one worker, before another is tried"),
    ("timeouts.probe_every", "between probes of a pod"),
    ("timeouts.probes_missed", "probes in a row that a pod may miss"),
    ("timeouts.fault_pause", "pause of dispatch to a faulty worker before it is written off"),
    ("timeouts.pod_start", "from ordering a pod to its being ready"),
    ("engines.queues", "where queues are: sqlite (in the data folder) or sqs"),
    ("engines.records", "where records are: sqlite (in the data folder) or dynamo"),
    ("engines.store", "where metadata is: sqlite (in the data folder) or etcd"),
    ("aws.region", "region of SQS and DynamoDB; empty: as the AWS environment says"),
    ("aws.endpoint", "their endpoint; empty: the region's"),
    ("sqs.prefix", "what the names of queues begin with"),
    ("dynamo.table", "the table of records"),
    ("etcd.endpoints", "the members' addresses for clients, with commas between"),
    ("etcd.prefix", "what keys begin with"),
    ("etcd.ca", "PEM file of the authority that vouches for the members; empty: the system's"),
    ("etcd.cert", "PEM file of this client's certificate; empty: none"),
    ("etcd.key", "PEM file of that certificate's key"),
    ("etcd.user", "user, where etcd asks for one"),
    ("etcd.password_file", "file with that user's password"),
    ("kubernetes.namespace", "namespace of the pods; empty: the own one, or the kubeconfig's"),
    ("kubernetes.image", "their image, whose entry point is this program"),
    ("kubernetes.prefix", "what the names of their objects begin with"),
    ("kubernetes.spread", "replicas of a set on a node each: hard (they wait for one) or soft"),
    ("kubernetes.cpu", "processor time that each pod asks for"),
    ("kubernetes.memory", "memory that each pod asks for"),
    ("kubernetes.disk", "the most that a replica's journal may take of its node's disk"),
];

/// Sections that keys lie in, beside those of functions.
pub(super) const SECTIONS: [&str; 11] = [
    "gateway",
    "tls",
    "limits",
    "timeouts",
    "functions",
    "engines",
    "aws",
    "sqs",
    "dynamo",
    "etcd",
    "kubernetes",
];

/// The keys of each `[functions.NAME]`.
pub(super) const FUNCTION_KEYS: [(&str, &str); 11] = [
    ("replication", "\"none\", or { f = 1 }: 3f+1 replicas agree, of which f may lie"),
    ("pods_min", "fewest worker sets"),
    ("pods_max", "most worker sets"),
    ("slots", "operations that one worker has in flight"),
    ("policy", "what scales: balanced, lean, strict, threshold>4, kpa, …; `quorate simulate` compares them"),
    ("wait", "how long an operation may wait for a worker, which the policies aim at"),
    ("step_up", "most worker sets that one decision adds; 0: any number"),
    ("step_down", "most worker sets that one decision removes; 0: any number"),
    ("changes_per_minute", "most changes in a minute; 0: any number"),
    ("threshold", "policy threshold>4: a layer longer than this gets one more pod"),
    ("keep_alive", "how long a pod stays that nothing needs"),
];

/// The functions' sections; `default` stands for all four.
pub(super) const FUNCTIONS: [&str; 5] = ["default", "add", "sub", "mul", "div"];

/// All keys in full, in the order in which they are shown.
pub(super) fn names() -> impl Iterator<Item = (String, &'static str)> {
    let functions = FUNCTIONS.iter().flat_map(|function| {
        FUNCTION_KEYS.iter().map(move |(key, about)| (format!("functions.{function}.{key}"), *about))
    });
    let (top, rest) = KEYS.split_at(6);
    let plain = |(key, about): &(&str, &'static str)| ((*key).to_owned(), *about);
    top.iter().map(plain).chain(functions).chain(rest.iter().map(plain))
}

/// The environment variable of a key.
pub(super) fn variable(key: &str) -> String {
    format!("QUORATE_{}", key.replace('.', "_").to_uppercase())
}

/// A value as it was given.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Given {
    /// Text of the environment or of a flag: the key decides what it is.
    Word(String),
    /// A TOML string.
    Text(String),
    /// A TOML integer.
    Integer(i128),
    /// A TOML inline table.
    Group(Vec<(String, Given)>),
    /// Anything else, by the name of its type.
    Other(&'static str),
}

impl Given {
    pub(super) fn kind_name(&self) -> &'static str {
        match self {
            Self::Word(_) | Self::Text(_) => "string",
            Self::Integer(_) => "number",
            Self::Group(_) => "table",
            Self::Other(kind) => kind,
        }
    }

    fn integer(&self) -> Option<i128> {
        match self {
            Self::Integer(number) => Some(*number),
            Self::Word(word) => word.replace('_', "").parse().ok(),
            _ => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Word(text) | Self::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// Where a key's value goes, and what it may be.
pub(super) enum Slot<'a> {
    Path(&'a mut PathBuf),
    Address(&'a mut SocketAddr),
    Port(&'a mut Option<SocketAddr>),
    Host(&'a mut IpAddr),
    Choice(&'a mut dyn Choice),
    Name(&'a mut String, Naming),
    Word(&'a mut Option<String>),
    Label(&'a mut Option<String>),
    Url(&'a mut Option<String>),
    Urls(&'a mut Vec<String>),
    File(&'a mut Option<PathBuf>),
    Replication(&'a mut Replication),
    Count(&'a mut u32, RangeInclusive<u32>),
    Size(&'a mut usize, RangeInclusive<usize>),
    Time(&'a mut Duration, RangeInclusive<Duration>),
}

/// What a name may be made of.
#[derive(Clone, Copy)]
pub(super) enum Naming {
    /// Letters that SQS takes in a queue's name, at most 40 of the 80.
    Queue,
    /// Letters that DynamoDB takes in a table's name: 3 to 255.
    Table,
    /// Anything printable without spaces, up to 255 bytes.
    Key,
    /// What the names of Kubernetes objects may begin with, at most 30 of the 63 characters.
    Object,
    /// An amount as Kubernetes writes it.
    Quantity,
}

impl Naming {
    fn takes(self, name: &str) -> bool {
        let (length, dots) = match self {
            Self::Queue => (0..=40, false),
            Self::Table => (3..=255, true),
            Self::Key => return name.len() <= 255 && name.bytes().all(|byte| byte.is_ascii_graphic()),
            Self::Object => return is_label(name.trim_end_matches('-'), 30) && name.len() <= 30,
            Self::Quantity => return is_quantity(name),
        };
        let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        length.contains(&name.len()) && name.bytes().all(|byte| letter(byte) || dots && byte == b'.')
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Queue => "up to 40 letters, digits, `-` and `_`, such as \"quorate-\"",
            Self::Table => "3 to 255 letters, digits, `-`, `_` and `.`, such as \"quorate-records\"",
            Self::Key => "up to 255 printable characters without spaces, such as \"quorate/\"",
            Self::Object => "up to 30 small letters, digits and `-`, such as \"quorate-\"",
            Self::Quantity => "an amount such as \"100m\", \"0.5\", \"128Mi\" or \"1Gi\"",
        }
    }
}

/// Whether a text is a label as RFC 1123 has it, such as the name of a namespace.
fn is_label(text: &str, length_max: usize) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=length_max).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// Whether a text is an amount of more than nothing: a number, perhaps with a fraction, and its unit.
fn is_quantity(text: &str) -> bool {
    let number = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let unit = &text[number.len()..];
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    ["", "m", "k", "M", "G", "T", "Ki", "Mi", "Gi", "Ti"].contains(&unit)
        && !whole.is_empty()
        && whole.len() + fraction.len() <= 20
        && digits(whole)
        && digits(fraction)
        && number.bytes().any(|byte| matches!(byte, b'1'..=b'9'))
}

/// Whether a text is the address of an HTTP server: `http://host` or `https://host`, perhaps with a port.
fn is_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    let host = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@,".contains(&byte))
    })
}

const fn seconds(low: u64, high: u64) -> RangeInclusive<Duration> {
    Duration::from_secs(low)..=Duration::from_secs(high)
}

const fn from_ms(low_ms: u64, high_s: u64) -> RangeInclusive<Duration> {
    Duration::from_millis(low_ms)..=Duration::from_secs(high_s)
}

const HOUR: u64 = 3600;
const DAY: u64 = 24 * HOUR;
const MIB: usize = 1 << 20;

/// Where the value of `key` goes; `None` when there is no such key. Keys of `functions.default` have
/// four places and none here.
pub(super) fn slot<'a>(config: &'a mut Config, key: &str) -> Option<Slot<'a>> {
    if let Some(rest) = key.strip_prefix("functions.") {
        let (function, field) = rest.split_once('.')?;
        let function = match function {
            "add" => &mut config.functions.add,
            "sub" => &mut config.functions.sub,
            "mul" => &mut config.functions.mul,
            "div" => &mut config.functions.div,
            _ => return None,
        };
        return function_slot(function, field);
    }
    let limits = &mut config.limits;
    let timeouts = &mut config.timeouts;
    let engines = &mut config.engines;
    let kubernetes = &mut config.kubernetes;
    Some(match key {
        "data" => Slot::Path(&mut config.data),
        "listen" => Slot::Address(&mut config.listen),
        "advertise" => Slot::Host(&mut config.advertise),
        "monitor" => Slot::Port(&mut config.monitor),
        "backend" => Slot::Choice(&mut config.backend),
        "durability" => Slot::Choice(&mut config.durability),
        "gateway.access" => Slot::Choice(&mut config.gateway.access),
        "gateway.tokens" => Slot::File(&mut config.gateway.tokens),
        "gateway.tls_cert" => Slot::File(&mut config.gateway.tls_cert),
        "gateway.tls_key" => Slot::File(&mut config.gateway.tls_key),
        "tls.inside" => Slot::Choice(&mut config.tls.inside),
        "tls.ca" => Slot::File(&mut config.tls.ca),
        "tls.ca_key" => Slot::File(&mut config.tls.ca_key),
        "tls.cert" => Slot::File(&mut config.tls.cert),
        "tls.key" => Slot::File(&mut config.tls.key),
        "limits.body_bytes" => Slot::Size(&mut limits.body_bytes, 1024..=64 * MIB),
        "limits.expression_bytes" => Slot::Size(&mut limits.expression_bytes, 1..=64 * MIB),
        "limits.nodes" => Slot::Size(&mut limits.nodes, 1..=10_000_000),
        "limits.nesting" => Slot::Size(&mut limits.nesting, 1..=10_000_000),
        "limits.digits" => Slot::Count(&mut limits.digits, 1..=1_000_000),
        "limits.accepted" => Slot::Size(&mut limits.accepted, 1..=10_000_000),
        "limits.requests_per_second" => Slot::Count(&mut limits.requests_per_second, 1..=1_000_000),
        "timeouts.request" => Slot::Time(&mut timeouts.request, from_ms(1, DAY)),
        "timeouts.wait" => Slot::Time(&mut timeouts.wait, from_ms(1, HOUR)),
        "timeouts.keep" => Slot::Time(&mut timeouts.keep, seconds(1, 365 * DAY)),
        "timeouts.lease" => Slot::Time(&mut timeouts.lease, from_ms(100, 12 * HOUR)),
        "timeouts.operation" => Slot::Time(&mut timeouts.operation, from_ms(10, HOUR)),
        "timeouts.probe_every" => Slot::Time(&mut timeouts.probe_every, from_ms(10, HOUR)),
        "timeouts.probes_missed" => Slot::Count(&mut timeouts.probes_missed, 1..=100),
        "timeouts.fault_pause" => Slot::Time(&mut timeouts.fault_pause, seconds(0, HOUR)),
        "timeouts.pod_start" => Slot::Time(&mut timeouts.pod_start, from_ms(100, HOUR)),
        "engines.queues" => Slot::Choice(&mut engines.queues),
        "engines.records" => Slot::Choice(&mut engines.records),
        "engines.store" => Slot::Choice(&mut engines.store),
        "aws.region" => Slot::Word(&mut engines.aws.region),
        "aws.endpoint" => Slot::Url(&mut engines.aws.endpoint),
        "sqs.prefix" => Slot::Name(&mut engines.sqs.prefix, Naming::Queue),
        "dynamo.table" => Slot::Name(&mut engines.dynamo.table, Naming::Table),
        "etcd.endpoints" => Slot::Urls(&mut engines.etcd.endpoints),
        "etcd.prefix" => Slot::Name(&mut engines.etcd.prefix, Naming::Key),
        "etcd.ca" => Slot::File(&mut engines.etcd.ca),
        "etcd.cert" => Slot::File(&mut engines.etcd.cert),
        "etcd.key" => Slot::File(&mut engines.etcd.key),
        "etcd.user" => Slot::Word(&mut engines.etcd.user),
        "etcd.password_file" => Slot::File(&mut engines.etcd.password_file),
        "kubernetes.namespace" => Slot::Label(&mut kubernetes.namespace),
        "kubernetes.image" => Slot::Word(&mut kubernetes.image),
        "kubernetes.prefix" => Slot::Name(&mut kubernetes.prefix, Naming::Object),
        "kubernetes.spread" => Slot::Choice(&mut kubernetes.spread),
        "kubernetes.cpu" => Slot::Name(&mut kubernetes.cpu, Naming::Quantity),
        "kubernetes.memory" => Slot::Name(&mut kubernetes.memory, Naming::Quantity),
        "kubernetes.disk" => Slot::Name(&mut kubernetes.disk, Naming::Quantity),
        _ => return None,
    })
}

fn function_slot<'a>(function: &'a mut FunctionConfig, field: &str) -> Option<Slot<'a>> {
    Some(match field {
        "replication" => Slot::Replication(&mut function.replication),
        "pods_min" => Slot::Count(&mut function.pods_min, 0..=1000),
        "pods_max" => Slot::Count(&mut function.pods_max, 1..=1000),
        "slots" => Slot::Count(&mut function.slots, 1..=65_536),
        "policy" => Slot::Choice(&mut function.policy),
        "wait" => Slot::Time(&mut function.wait, from_ms(1, HOUR)),
        "step_up" => Slot::Count(&mut function.step_up, 0..=1000),
        "step_down" => Slot::Count(&mut function.step_down, 0..=1000),
        "changes_per_minute" => Slot::Count(&mut function.changes_per_minute, 0..=600),
        "threshold" => Slot::Count(&mut function.threshold, 1..=1_000_000),
        "keep_alive" => Slot::Time(&mut function.keep_alive, seconds(0, 7 * DAY)),
        _ => return None,
    })
}

/// The most replicas that may lie: a group of 100.
const F_MAX: i128 = 33;

impl Slot<'_> {
    /// Puts a value in its place.
    pub(super) fn set(self, key: &str, given: &Given) -> Result<(), Fault> {
        let expected = self.expected();
        let wrong = |suggestion: Option<String>| match given.text() {
            Some(value) => {
                Fault::Malformed { key: key.to_owned(), value: value.to_owned(), expected, suggestion }
            }
            None => Fault::WrongType { key: key.to_owned(), expected, found: given.kind_name(), suggestion },
        };
        let unlike = || wrong(None);
        match self {
            Self::Path(to) => *to = given.text().filter(|text| !text.is_empty()).ok_or_else(unlike)?.into(),
            Self::Address(to) => {
                *to = given.text().and_then(|text| text.parse().ok()).ok_or_else(unlike)?;
            }
            Self::Port(to) => {
                let text = given.text().ok_or_else(unlike)?;
                let address = (!text.is_empty()).then(|| text.parse().map_err(|_| unlike()));
                *to = address.transpose()?;
            }
            Self::Host(to) => {
                let host = given.text().and_then(|text| text.parse().ok());
                *to = host.filter(|host: &IpAddr| !host.is_unspecified()).ok_or_else(unlike)?;
            }
            Self::Choice(to) => {
                let text = given.text().ok_or_else(unlike)?;
                if !to.choose(text) {
                    return Err(wrong(super::nearest(text, to.words().iter().copied())));
                }
            }
            Self::Name(to, naming) => {
                *to = given.text().filter(|text| naming.takes(text)).ok_or_else(unlike)?.to_owned();
            }
            Self::Word(to) => {
                let text = given.text().filter(|text| Naming::Key.takes(text)).ok_or_else(unlike)?;
                *to = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            Self::Label(to) => {
                let text =
                    given.text().filter(|text| text.is_empty() || is_label(text, 63)).ok_or_else(unlike)?;
                *to = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            Self::Url(to) => {
                let text = given.text().filter(|text| text.is_empty() || is_url(text)).ok_or_else(unlike)?;
                *to = Some(text.to_owned()).filter(|text| !text.is_empty());
            }
            Self::Urls(to) => {
                let text = given.text().ok_or_else(unlike)?;
                let urls: Vec<_> = text.split(',').map(str::trim).map(str::to_owned).collect();
                if !urls.iter().all(|url| is_url(url)) {
                    return Err(unlike());
                }
                *to = urls;
            }
            Self::File(to) => {
                let text = given.text().ok_or_else(unlike)?;
                *to = Some(PathBuf::from(text)).filter(|_| !text.is_empty());
            }
            Self::Replication(to) => *to = replication(key, given, expected)?,
            Self::Count(to, range) => {
                let number = given.integer().ok_or_else(unlike)?;
                *to = u32::try_from(number)
                    .ok()
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| out_of_range(key, number, range.start(), range.end()))?;
            }
            Self::Size(to, range) => {
                let number = given.integer().ok_or_else(unlike)?;
                *to = usize::try_from(number)
                    .ok()
                    .filter(|number| range.contains(number))
                    .ok_or_else(|| out_of_range(key, number, range.start(), range.end()))?;
            }
            Self::Time(to, range) => {
                let guess = given.integer().map(|number| format!("\"{number}s\""));
                let time = given.text().and_then(parse_time).ok_or_else(|| wrong(guess))?;
                if !range.contains(&time) {
                    let [low, high] = [range.start(), range.end()].map(|bound| show_time(*bound));
                    return Err(out_of_range(key, show_time(time), low, high));
                }
                *to = time;
            }
        }
        Ok(())
    }

    /// What it takes, with an example.
    fn expected(&self) -> &'static str {
        match self {
            Self::Path(_) => "a folder such as \"/var/lib/quorate\"",
            Self::Address(_) => "an address with a port, such as \"127.0.0.1:7400\"",
            Self::Port(_) => "an address with a port, such as \"0.0.0.0:7404\", or empty",
            Self::Host(_) => "an address without a port, such as \"10.0.0.7\"",
            Self::Choice(to) => to.expected(),
            Self::Name(_, naming) => naming.expected(),
            Self::Word(_) => "up to 255 printable characters without spaces, or empty",
            Self::Label(_) => "up to 63 small letters, digits and `-`, or empty",
            Self::Url(_) => "an address such as \"http://127.0.0.1:4566\", or empty",
            Self::Urls(_) => "addresses such as \"http://a:2379,http://b:2379\"",
            Self::File(_) => "a file such as \"/etc/quorate/ca.pem\", or empty",
            Self::Replication(_) => "\"none\" or { f = 1 }",
            Self::Count(..) | Self::Size(..) => "a whole number",
            Self::Time(..) => "a time such as \"250ms\", \"10s\", \"5m\", \"2h\" or \"1d\"",
        }
    }

    /// The value as the file would have it.
    pub(super) fn show(&self) -> String {
        match self {
            Self::Path(path) => format!("\"{}\"", path.display()),
            Self::Address(address) => format!("\"{address}\""),
            Self::Port(address) => {
                format!("\"{}\"", address.map(|address| address.to_string()).unwrap_or_default())
            }
            Self::Host(host) => format!("\"{host}\""),
            Self::Choice(choice) => format!("\"{}\"", choice.word()),
            Self::Name(name, _) => format!("\"{name}\""),
            Self::Word(text) | Self::Url(text) | Self::Label(text) => {
                format!("\"{}\"", text.as_deref().unwrap_or_default())
            }
            Self::Urls(urls) => format!("\"{}\"", urls.join(",")),
            Self::File(path) => {
                format!("\"{}\"", path.as_deref().unwrap_or(std::path::Path::new("")).display())
            }
            Self::Replication(Replication::None) => "\"none\"".into(),
            Self::Replication(Replication::Byzantine { f }) => format!("{{ f = {f} }}"),
            Self::Count(number, _) => number.to_string(),
            Self::Size(number, _) => number.to_string(),
            Self::Time(time, _) => format!("\"{}\"", show_time(**time)),
        }
    }
}

fn out_of_range(key: &str, value: impl ToString, low: impl ToString, high: impl ToString) -> Fault {
    Fault::OutOfRange {
        key: key.to_owned(),
        value: value.to_string(),
        low: low.to_string(),
        high: high.to_string(),
    }
}

fn replication(key: &str, given: &Given, expected: &'static str) -> Result<Replication, Fault> {
    let f = match given {
        Given::Text(text) | Given::Word(text) if text == "none" => return Ok(Replication::None),
        // `{ f = 1 }` in the environment; a shell's user may leave the braces out.
        Given::Word(text) => {
            let inner = text.trim().trim_start_matches('{').trim_end_matches('}');
            let (name, value) = inner.split_once('=').unwrap_or(("", ""));
            value.trim().parse().ok().filter(|_| name.trim() == "f")
        }
        Given::Group(fields) => match fields.as_slice() {
            [(name, Given::Integer(f))] if name == "f" => Some(*f),
            _ => None,
        },
        _ => None,
    };
    match f {
        Some(f @ 1..=F_MAX) => {
            Ok(Replication::Byzantine { f: u32::try_from(f).expect("just compared with 33") })
        }
        Some(f) => Err(out_of_range(&format!("{key}.f"), f, 1, F_MAX)),
        None => Err(match given.text() {
            Some(value) => Fault::Malformed {
                key: key.to_owned(),
                value: value.to_owned(),
                expected,
                suggestion: super::nearest(value, ["none"]),
            },
            None => Fault::WrongType {
                key: key.to_owned(),
                expected,
                found: given.kind_name(),
                suggestion: given.integer().map(|f| format!("{{ f = {f} }}")),
            },
        }),
    }
}

/// A time: a whole number and its unit.
///
/// ```
/// use std::time::Duration;
/// assert_eq!(quorate::config::parse_time("250ms"), Some(Duration::from_millis(250)));
/// assert_eq!(quorate::config::parse_time("5m"), Some(Duration::from_secs(300)));
/// assert_eq!(quorate::config::parse_time("5"), None);
/// ```
#[must_use]
pub fn parse_time(text: &str) -> Option<Duration> {
    let unit_at = text.find(|character: char| !character.is_ascii_digit())?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().ok()?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => HOUR * 1000,
        "d" => DAY * 1000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(ms)?))
}

/// A time in the largest unit that divides it.
pub(super) fn show_time(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [(u128::from(DAY) * 1000, "d"), (u128::from(HOUR) * 1000, "h"), (60_000, "m"), (1000, "s")];
    let (size, unit) =
        units.into_iter().find(|(size, _)| ms >= *size && ms.is_multiple_of(*size)).unwrap_or((1, "ms"));
    format!("{}{unit}", ms / size)
}
