//! What a platform stands on: one file, or the engines of a cluster.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Which engines, and how each is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Engines {
    /// Where queues are.
    pub queues: QueueEngine,
    /// Where records are.
    pub records: RecordsEngine,
    /// Where metadata is.
    pub store: StoreEngine,
    /// How SQS and DynamoDB are reached.
    pub aws: Aws,
    /// SQS.
    pub sqs: Sqs,
    /// DynamoDB.
    pub dynamo: Dynamo,
    /// etcd.
    pub etcd: Etcd,
}

impl Engines {
    /// Whether nothing is kept outside the data folder.
    #[must_use]
    pub fn are_embedded(&self) -> bool {
        let Self { queues, records, store, .. } = self;
        (*queues, *records, *store) == (QueueEngine::Sqlite, RecordsEngine::Sqlite, StoreEngine::Sqlite)
    }

    /// Whether something is kept in the data folder's file.
    #[must_use]
    pub fn need_file(&self) -> bool {
        self.queues == QueueEngine::Sqlite
            || self.records == RecordsEngine::Sqlite
            || self.store == StoreEngine::Sqlite
    }
}

/// Where queues are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QueueEngine {
    /// In the data folder.
    #[default]
    Sqlite,
    /// In Amazon SQS.
    Sqs,
}

/// Where records are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecordsEngine {
    /// In the data folder.
    #[default]
    Sqlite,
    /// In Amazon DynamoDB.
    Dynamo,
}

/// Where metadata is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoreEngine {
    /// In the data folder.
    #[default]
    Sqlite,
    /// In etcd.
    Etcd,
}

/// How AWS is reached. Credentials come from where the AWS command line has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Aws {
    /// The region; `None`: as the environment says.
    pub region: Option<String>,
    /// Another endpoint than the region's.
    pub endpoint: Option<String>,
}

/// Queues in SQS.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sqs {
    /// What the queues' names begin with.
    pub prefix: String,
}

impl Default for Sqs {
    fn default() -> Self {
        Self { prefix: "quorate-".into() }
    }
}

/// Records in DynamoDB.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dynamo {
    /// The table.
    pub table: String,
}

impl Default for Dynamo {
    fn default() -> Self {
        Self { table: "quorate-records".into() }
    }
}

/// Metadata in etcd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Etcd {
    /// Its members' addresses for clients.
    pub endpoints: Vec<String>,
    /// What keys begin with.
    pub prefix: String,
    /// The authority that vouches for the members, as PEM; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// This client's certificate, as PEM.
    pub cert: Option<PathBuf>,
    /// Its key, as PEM.
    pub key: Option<PathBuf>,
    /// The user, where etcd asks for one.
    pub user: Option<String>,
    /// A file with the user's password.
    pub password_file: Option<PathBuf>,
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".into()],
            prefix: "quorate/".into(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
        }
    }
}

/// A value that is one of a few words.
pub(super) trait Choice {
    /// What it takes, for a person.
    fn expected(&self) -> &'static str;
    /// The words.
    fn words(&self) -> &'static [&'static str];
    /// The word that is in force.
    fn word(&self) -> &'static str;
    /// Takes a word; `false` when it is none of them.
    fn choose(&mut self, word: &str) -> bool;
}

macro_rules! choice {
    ($of:ty, $expected:literal, $($word:literal => $value:path),+) => {
        impl Choice for $of {
            fn expected(&self) -> &'static str {
                $expected
            }
            fn words(&self) -> &'static [&'static str] {
                &[$($word),+]
            }
            fn word(&self) -> &'static str {
                match self {
                    $($value => $word,)+
                }
            }
            fn choose(&mut self, word: &str) -> bool {
                match word {
                    $($word => *self = $value,)+
                    _ => return false,
                }
                true
            }
        }
    };
}

choice!(QueueEngine, "\"sqlite\" or \"sqs\"", "sqlite" => QueueEngine::Sqlite, "sqs" => QueueEngine::Sqs);
choice!(
    RecordsEngine, "\"sqlite\" or \"dynamo\"",
    "sqlite" => RecordsEngine::Sqlite, "dynamo" => RecordsEngine::Dynamo
);
choice!(
    super::Access, "\"auto\", \"open\" or \"tokens\"",
    "auto" => super::Access::Auto, "open" => super::Access::Open, "tokens" => super::Access::Tokens
);
choice!(StoreEngine, "\"sqlite\" or \"etcd\"", "sqlite" => StoreEngine::Sqlite, "etcd" => StoreEngine::Etcd);
choice!(
    super::PodBackend, "\"process\" or \"kubernetes\"",
    "process" => super::PodBackend::Process, "kubernetes" => super::PodBackend::Kubernetes
);
choice!(super::Inside, "\"on\" or \"off\"", "on" => super::Inside::On, "off" => super::Inside::Off);
choice!(
    super::Spread, "\"hard\" or \"soft\"",
    "hard" => super::Spread::Hard, "soft" => super::Spread::Soft
);
choice!(
    super::Durability, "\"disk\" or \"process\"",
    "disk" => super::Durability::Disk, "process" => super::Durability::Process
);

impl Choice for quorate_scaler::policy::Name {
    fn expected(&self) -> &'static str {
        "a scaling policy such as \"balanced\", \"lean\", \"strict\" or \"threshold>4\""
    }

    fn words(&self) -> &'static [&'static str] {
        Self::WORDS
    }

    fn word(&self) -> &'static str {
        self.as_str()
    }

    fn choose(&mut self, word: &str) -> bool {
        word.parse().map(|name| *self = name).is_ok()
    }
}
