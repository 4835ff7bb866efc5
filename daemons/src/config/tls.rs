//! How connections inside the platform are protected.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Whether connections inside the platform are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Inside {
    /// Both ends of each prove who they are.
    #[default]
    On,
    /// The network sees to it.
    Off,
}

/// Certificates inside the platform.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tls {
    /// Whether there are any.
    pub inside: Inside,
    /// The authority's certificate; `None`: the platform makes its own authority in the data folder.
    pub ca: Option<PathBuf>,
    /// The authority's key, which the cluster service makes certificates of pods with.
    pub ca_key: Option<PathBuf>,
    /// A daemon's own certificate; `None`: it is made at each start.
    pub cert: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
}
