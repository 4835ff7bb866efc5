//! Layers of configuration, the later over the earlier: defaults, file, environment, flags.

use super::{
    Config, ConfigError, ConfigErrors, Fault, Place, PodBackend, QueueEngine, RecordsEngine, Replication,
    StoreEngine,
    keys::{self, Given},
};
use crate::{excerpt::Excerpt, function::Operation};
use quorate_dag::Function;
use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
};
use toml::de::{DeTable, DeValue};

/// The file that is read when none is named and it exists.
pub const FILE: &str = "quorate.toml";

/// Variables that begin with `QUORATE_` and are no keys.
const OTHER_VARIABLES: [&str; 6] =
    ["QUORATE_CA", "QUORATE_CONFIG", "QUORATE_LOG", "QUORATE_TOKEN", "QUORATE_TOKEN_FILE", "QUORATE_URL"];

/// Where configuration comes from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// A file that must exist.
    pub file: Option<PathBuf>,
    /// A file that is read if it exists.
    pub file_if_there: Option<PathBuf>,
    /// Environment variables; those that do not begin with `QUORATE_` are passed over.
    pub environment: Vec<(String, String)>,
    /// Flags: as written, key, value.
    pub flags: Vec<(String, String, String)>,
}

/// A configuration, and where each of its values came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// What is in force.
    pub config: Config,
    /// The file that was read.
    pub file: Option<PathBuf>,
    places: BTreeMap<String, Place>,
}

/// One value in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The key in full.
    pub key: String,
    /// Its value as the file would have it.
    pub value: String,
    /// Where it came from.
    pub place: Place,
    /// What it means.
    pub about: &'static str,
}

impl Sources {
    /// What a process has: the file named by `file` or `QUORATE_CONFIG`, else `./quorate.toml` if it is
    /// there; the environment; the flags.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>, flags: Vec<(String, String, String)>) -> Self {
        Self {
            file: file.or_else(|| std::env::var_os("QUORATE_CONFIG").map(PathBuf::from)),
            file_if_there: Some(FILE.into()),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
                .filter(|(name, _)| name.starts_with("QUORATE_"))
                .collect(),
            flags,
        }
    }

    /// Layers everything over the defaults.
    ///
    /// # Errors
    /// Everything that is wrong, each with its place.
    pub fn load(&self) -> Result<Loaded, ConfigErrors> {
        let mut layers = Layers {
            loaded: Loaded { config: Config::default(), file: None, places: BTreeMap::new() },
            errors: Vec::new(),
        };
        let file = match (&self.file, &self.file_if_there) {
            (Some(file), _) => Some(file),
            (None, Some(file)) if file.exists() => Some(file),
            _ => None,
        };
        if let Some(path) = file {
            layers.loaded.file = Some(path.clone());
            let settings = layers.read_file(path);
            layers.apply(settings);
        }
        let settings = layers.read_environment(&self.environment);
        layers.apply(settings);
        let settings = layers.read_flags(&self.flags);
        layers.apply(settings);
        layers.check_together();
        if layers.errors.is_empty() { Ok(layers.loaded) } else { Err(ConfigErrors(layers.errors)) }
    }
}

impl Loaded {
    /// Every value in force. `functions.default` is not among them: what it said is in the four.
    #[must_use]
    pub fn in_force(&self) -> Vec<InForce> {
        let mut config = self.config.clone();
        keys::names()
            .filter_map(|(key, about)| {
                let value = keys::slot(&mut config, &key)?.show();
                Some(InForce { place: self.place(&key), key, value, about })
            })
            .collect()
    }

    fn place(&self, key: &str) -> Place {
        self.places.get(key).cloned().unwrap_or(Place::Default)
    }
}

/// A key with its value, as one layer has it.
struct Setting {
    key: String,
    given: Given,
    place: Place,
}

struct Layers {
    loaded: Loaded,
    errors: Vec<ConfigError>,
}

impl Layers {
    /// Puts one layer over those below. In a layer, a function's own section is over `default`,
    /// wherever they stand; a later layer's `default` is over an earlier one's own section.
    fn apply(&mut self, mut settings: Vec<Setting>) {
        settings.sort_by_key(|setting| !setting.key.starts_with("functions.default."));
        for Setting { key, given, place } in settings {
            let targets = match key.strip_prefix("functions.default.") {
                Some(field) => {
                    keys::FUNCTIONS[1..].iter().map(|name| format!("functions.{name}.{field}")).collect()
                }
                None => vec![key.clone()],
            };
            for target in targets {
                let Some(slot) = keys::slot(&mut self.loaded.config, &target) else {
                    self.errors.push(ConfigError { place, fault: unknown_key(&key) });
                    break;
                };
                if let Err(fault) = slot.set(&key, &given) {
                    self.errors.push(ConfigError { place, fault });
                    break;
                }
                self.loaded.places.insert(target, place.clone());
            }
        }
    }

    fn read_file(&mut self, path: &Path) -> Vec<Setting> {
        let whole = || Place::WholeFile { path: path.to_owned() };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(source) => {
                self.errors.push(ConfigError { place: whole(), fault: Fault::Unreadable(source) });
                return Vec::new();
            }
        };
        let file = File { path, text: &text };
        let table = match DeTable::parse(&text) {
            Ok(table) => table.into_inner(),
            Err(error) => {
                let place = error.span().map_or_else(whole, |span| file.place(span));
                self.errors.push(ConfigError { place, fault: Fault::Syntax(error) });
                return Vec::new();
            }
        };
        let mut settings = Vec::new();
        self.read_table(&file, "", table, &mut settings);
        settings
    }

    fn read_table(&mut self, file: &File<'_>, prefix: &str, table: DeTable<'_>, into: &mut Vec<Setting>) {
        for (name, value) in table {
            let key = format!("{prefix}{}", name.get_ref());
            let section = match key.as_str() {
                key if keys::SECTIONS.contains(&key) => true,
                _ => key.strip_prefix("functions.").is_some_and(|name| keys::FUNCTIONS.contains(&name)),
            };
            let (key_span, value_span) = (name.span(), value.span());
            match value.into_inner() {
                DeValue::Table(table) if section => {
                    self.read_table(file, &format!("{key}."), table, into);
                }
                other if section => {
                    let fault = Fault::NotASection { key, found: given(other).kind_name() };
                    self.errors.push(ConfigError { place: file.place(value_span), fault });
                }
                _ if !keys::names().any(|(known, _)| known == key) => {
                    let place = file.place(key_span);
                    self.errors.push(ConfigError { place, fault: unknown_key(&key) });
                }
                value => {
                    into.push(Setting { key, given: given(value), place: file.place(value_span) });
                }
            }
        }
    }

    fn read_environment(&mut self, environment: &[(String, String)]) -> Vec<Setting> {
        let known: BTreeMap<String, String> =
            keys::names().map(|(key, _)| (keys::variable(&key), key)).collect();
        let mut settings = Vec::new();
        for (name, value) in environment {
            let place = Place::Environment { name: name.clone() };
            if let Some(key) = known.get(name) {
                settings.push(Setting { key: key.clone(), given: Given::Word(value.clone()), place });
            } else if !OTHER_VARIABLES.contains(&name.as_str()) && !is_service_link(name) {
                let names = known.keys().map(String::as_str).chain(OTHER_VARIABLES);
                let fault =
                    Fault::UnknownVariable { name: name.clone(), suggestion: super::nearest(name, names) };
                self.errors.push(ConfigError { place, fault });
            }
        }
        settings
    }

    fn read_flags(&mut self, flags: &[(String, String, String)]) -> Vec<Setting> {
        let setting = |(name, key, value): &(String, String, String)| Setting {
            key: key.clone(),
            given: Given::Word(value.clone()),
            place: Place::Flag { name: name.clone() },
        };
        flags.iter().map(setting).collect()
    }

    /// What no value can say alone.
    fn check_together(&mut self) {
        for function in &keys::FUNCTIONS[1..] {
            let [low, high] = ["pods_min", "pods_max"].map(|key| format!("functions.{function}.{key}"));
            self.check_over(&low, &high);
        }
        self.check_over("limits.expression_bytes", "limits.body_bytes");
        self.check_digits();
        self.check_engines();
        self.check_pods();
        self.check_certificates();
    }

    /// A certificate has a key and an authority.
    fn check_certificates(&mut self) {
        let Config { tls, gateway, .. } = &self.loaded.config;
        let pairs = [
            ("tls.cert", &tls.cert, "tls.key", &tls.key),
            ("tls.key", &tls.key, "tls.cert", &tls.cert),
            ("tls.cert", &tls.cert, "tls.ca", &tls.ca),
            ("tls.ca_key", &tls.ca_key, "tls.ca", &tls.ca),
            ("gateway.tls_cert", &gateway.tls_cert, "gateway.tls_key", &gateway.tls_key),
            ("gateway.tls_key", &gateway.tls_key, "gateway.tls_cert", &gateway.tls_cert),
        ];
        let alone =
            pairs.map(|(key, given, needed, other)| (given.is_some() && other.is_none(), key, needed));
        for (_, key, needed) in alone.into_iter().filter(|(is_alone, ..)| *is_alone) {
            let fault = Fault::Alone { key: key.to_owned(), needed };
            self.errors.push(ConfigError { place: self.loaded.place(key), fault });
        }
    }

    /// What Kubernetes needs, and the time that it needs to start a pod.
    fn check_pods(&mut self) {
        const KEY: &str = "backend";
        if self.loaded.config.backend != PodBackend::Kubernetes {
            return;
        }
        let mut fault = |fault| self.errors.push(ConfigError { place: self.loaded.place(KEY), fault });
        if !cfg!(feature = "kubernetes") {
            fault(Fault::NotBuilt { key: KEY.to_owned(), feature: "kubernetes" });
        }
        if self.loaded.config.kubernetes.image.is_none() {
            fault(Fault::Alone { key: KEY.to_owned(), needed: "kubernetes.image" });
        }
        let is_default = |key: &str| self.loaded.place(key) == Place::Default;
        let (start, probe) = (is_default("timeouts.pod_start"), is_default("timeouts.probe_every"));
        let timeouts = &mut self.loaded.config.timeouts;
        if start {
            timeouts.pod_start = super::POD_START_ON_KUBERNETES;
        }
        if probe {
            timeouts.probe_every = super::PROBE_EVERY_ON_KUBERNETES;
        }
    }

    /// Engines that this program was built without; the lease that suits the queues.
    fn check_engines(&mut self) {
        let engines = self.loaded.config.engines.clone();
        let needs = [
            ("engines.queues", engines.queues == QueueEngine::Sqs, "sqs", cfg!(feature = "sqs")),
            ("engines.records", engines.records == RecordsEngine::Dynamo, "dynamo", cfg!(feature = "dynamo")),
            ("engines.store", engines.store == StoreEngine::Etcd, "etcd", cfg!(feature = "etcd")),
        ];
        for (key, is_chosen, feature, is_built) in needs {
            if is_chosen && !is_built {
                let fault = Fault::NotBuilt { key: key.to_owned(), feature };
                self.errors.push(ConfigError { place: self.loaded.place(key), fault });
            }
        }
        for (key, needed, given) in [
            ("etcd.cert", "etcd.key", (&engines.etcd.cert, &engines.etcd.key)),
            ("etcd.key", "etcd.cert", (&engines.etcd.key, &engines.etcd.cert)),
            (
                "etcd.password_file",
                "etcd.user",
                (&engines.etcd.password_file, &engines.etcd.user.map(Into::into)),
            ),
        ] {
            if let (Some(_), None) = given {
                let fault = Fault::Alone { key: key.to_owned(), needed };
                self.errors.push(ConfigError { place: self.loaded.place(key), fault });
            }
        }
        if engines.queues == QueueEngine::Sqs && self.loaded.place("timeouts.lease") == Place::Default {
            self.loaded.config.timeouts.lease = super::LEASE_ON_SQS;
        }
    }

    /// A set's group has the limits that consensus has by default.
    fn check_digits(&mut self) {
        const KEY: &str = "limits.digits";
        let config = &self.loaded.config;
        let bytes = quorate_pbft::Limits::default().operation_bytes_max;
        let (value, limit) = (config.limits.digits, Operation::digits_max(bytes));
        let replicated = |function| config.functions.of(function).replication != Replication::None;
        if value > limit && Function::ALL.into_iter().any(replicated) {
            let fault = Fault::OverOperation { key: KEY.to_owned(), value, limit, bytes };
            self.errors.push(ConfigError { place: self.loaded.place(KEY), fault });
        }
    }

    fn check_over(&mut self, key: &str, limit_key: &str) {
        let mut number = |key: &str| match keys::slot(&mut self.loaded.config, key) {
            Some(keys::Slot::Count(number, _)) => u64::from(*number),
            Some(keys::Slot::Size(number, _)) => *number as u64,
            _ => unreachable!("only numbers are compared"),
        };
        let (value, limit) = (number(key), number(limit_key));
        if value > limit {
            let place = match self.loaded.place(key) {
                Place::Default => self.loaded.place(limit_key),
                place => place,
            };
            let fault = Fault::Over {
                key: key.to_owned(),
                value: value.to_string(),
                limit_key: limit_key.to_owned(),
                limit: limit.to_string(),
            };
            self.errors.push(ConfigError { place, fault });
        }
    }
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
}

impl File<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        Place::File { path: self.path.to_owned(), excerpt: Excerpt::new(self.text, span) }
    }
}

fn given(value: DeValue<'_>) -> Given {
    match value {
        DeValue::String(text) => Given::Text(text.into_owned()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Given::Other("number that big"), Given::Integer),
        DeValue::Table(table) => Given::Group(
            table
                .into_iter()
                .map(|(name, value)| (name.into_inner().into_owned(), given(value.into_inner())))
                .collect(),
        ),
        DeValue::Float(_) => Given::Other("number with a fraction"),
        DeValue::Boolean(_) => Given::Other("boolean"),
        DeValue::Datetime(_) => Given::Other("date"),
        DeValue::Array(_) => Given::Other("list"),
    }
}

fn unknown_key(key: &str) -> Fault {
    let names: Vec<String> = keys::names()
        .map(|(name, _)| name)
        .chain(keys::SECTIONS.map(str::to_owned))
        .chain(keys::FUNCTIONS.map(|name| format!("functions.{name}")))
        .collect();
    // A key that stands in the wrong section, else one that is spelt nearly so.
    let last = key.rsplit('.').next().unwrap_or(key);
    let misplaced = names.iter().find(|name| name.rsplit('.').next() == Some(last) && name.contains('.'));
    let suggestion = misplaced.cloned().or_else(|| super::nearest(key, names.iter().map(String::as_str)));
    Fault::UnknownKey { key: key.to_owned(), suggestion }
}

/// Whether Kubernetes set this variable for a service whose name begins with `quorate`: nobody's
/// configuration. (Kubernetes documentation, "Service", environment variables.)
fn is_service_link(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || ["_TCP", "_TCP_ADDR", "_TCP_PORT", "_TCP_PROTO"]
            .iter()
            .any(|end| name.strip_suffix(end).is_some_and(|rest| rest.contains("_PORT_")))
}
