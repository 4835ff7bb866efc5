//! Who is who inside the platform: TLS 1.3 at both ends of every connection, with a private authority.
//!
//! A certificate names its owner twice, as DNS names that nobody resolves: by role
//! (`worker.quorate.internal`) and as itself (`add-0-worker.pod.quorate.internal`). Who connects asks for
//! the name of whom it means to reach, so an address that has gone to another pod leads to nobody; who
//! accepts looks at the role. What replicas say stays under PBFT's own keys on top: TLS convinces only the
//! two ends.
//!
//! The platform makes its own authority when it is given none ([`Authority`]). [`crate::wires`] uses what is
//! here for every connection.

mod authority;
mod credentials;
pub(crate) mod public;

pub use authority::{Authority, Issued};
pub(crate) use credentials::check_role;
pub use credentials::{Credentials, Refused};

use crate::config::{Config, Inside};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use zeroize::Zeroizing;

/// The domain that names in certificates end with. `internal` is reserved for private use (ICANN, 2024).
const DOMAIN: &str = "quorate.internal";

/// What the files of an authority's certificate, of one's own and of its key are called in a folder.
pub(crate) const NAMES: [&str; 3] = ["ca.crt", "tls.crt", "tls.key"];

/// What somebody is inside the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A daemon of the control plane.
    Control,
    /// The worker of a set.
    Worker,
    /// A replica of a set.
    Replica,
}

impl Role {
    /// Its word.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Control => "control",
            Self::Worker => "worker",
            Self::Replica => "replica",
        }
    }

    /// The name by which anyone of this role is known.
    #[must_use]
    pub fn name(self) -> Name {
        Name(format!("{}.{DOMAIN}", self.label()))
    }
}

/// A name in a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Name(String);

impl Name {
    /// A pod's own name.
    #[must_use]
    pub fn of_pod(pod: &str) -> Self {
        Self(format!("{pod}.pod.{DOMAIN}"))
    }

    fn to_server_name(&self) -> ServerName<'static> {
        // Labels are function names and numbers; what is no DNS name leads to nobody.
        ServerName::try_from(self.0.clone()).unwrap_or_else(|_| {
            ServerName::try_from(format!("nobody.{DOMAIN}")).expect("letters, digits and points")
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.0)
    }
}

/// Where certificates and a key lie, all of them as PEM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// The authorities' certificates.
    pub ca: PathBuf,
    /// One's own, with what is between it and the authority.
    pub cert: PathBuf,
    /// One's own key.
    pub key: PathBuf,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds something else.
    #[error("{} holds no {what}: {why}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why it does not.
        why: String,
    },
    /// Certificate and key do not go together, or make no sense.
    #[error("{} and {} can't be used: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// A certificate could not be made.
    #[error("a certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
    /// Nobody can vouch for anybody.
    #[error("this machine knows no authorities that vouch for servers; name one with --ca FILE")]
    NoRoots,
    /// There is no TLS as this program speaks it.
    #[error("TLS can't be used: {0}")]
    Unusable(#[source] rustls::Error),
    /// A given authority's key is not here, and no certificate of one's own either.
    #[error(
        "`tls.ca` is given, and neither this daemon's certificate (`tls.cert` and `tls.key`) nor the authority's \
         key (`tls.ca_key`), to make one with; `quorate tls make` makes all of them"
    )]
    NoCertificate,
    /// Whoever starts pods can't give them certificates.
    #[error(
        "the cluster service makes the pods' certificates, and has no key of the authority {}: set `tls.ca_key`",
        ca.display()
    )]
    NoAuthority {
        /// The authority's certificate.
        ca: PathBuf,
    },
}

impl TlsError {
    /// Of a file that can't be read or written.
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        |source| Self::File { path: path.into(), source }
    }

    /// Of a certificate and a key.
    fn pair<'a>(cert: &'a Path, key: &'a Path) -> impl Fn(rustls::Error) -> Self + Copy + 'a {
        move |source| Self::Pair { cert: cert.into(), key: key.into(), source }
    }
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, TlsError> {
    fs::read(path).map(Zeroizing::new).map_err(TlsError::file(path))
}

/// What a daemon of the control plane shows, and what it makes certificates of pods with.
#[derive(Clone, Debug)]
pub struct Standing {
    /// For its own connections.
    pub credentials: Credentials,
    /// Where the authorities' certificates are.
    pub ca: PathBuf,
    authority: Option<Arc<Authority>>,
}

impl Standing {
    /// As configured; `None` when connections are not protected. What the platform lacks of its own authority is
    /// made.
    ///
    /// # Errors
    /// When files can't be read or written, hold something else, or do not go together.
    pub fn of(config: &Config) -> Result<Option<Self>, TlsError> {
        let tls = &config.tls;
        if tls.inside == Inside::Off {
            return Ok(None);
        }
        let authority = match (&tls.ca, &tls.ca_key) {
            (Some(ca), Some(key)) => Some(Authority::open(ca, key)?),
            (Some(_), None) => None,
            (None, _) => Some(Authority::at(&config.tls_folder())?),
        };
        let ca = tls.ca.clone().unwrap_or_else(|| config.tls_folder().join(NAMES[0]));
        let credentials = match (&tls.cert, &tls.key, &authority) {
            (Some(cert), Some(key), _) => {
                let files = Files { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
                Credentials::load(&files)?
            }
            (_, _, Some(authority)) => authority.issue(Role::Control, None)?.credentials()?,
            _ => return Err(TlsError::NoCertificate),
        };
        Ok(Some(Self { credentials, ca, authority: authority.map(Arc::new) }))
    }

    /// The authority, for whoever starts pods.
    ///
    /// # Errors
    /// When its key is not here.
    pub fn authority(&self) -> Result<Arc<Authority>, TlsError> {
        self.authority.clone().ok_or_else(|| TlsError::NoAuthority { ca: self.ca.clone() })
    }
}

#[cfg(test)]
mod tests;
