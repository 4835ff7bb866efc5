//! Who is who inside the platform: TLS 1.3 at both ends of every connection, with a private authority.
//!
//! A certificate names its owner twice, as DNS names that nobody resolves: by role
//! (`worker.quorate.internal`) and as itself (`add-0-worker.pod.quorate.internal`). Who connects asks for
//! the name of whom it means to reach, so an address that has gone to another pod leads to nobody; who
//! accepts looks at the role. What replicas say stays under PBFT's own keys on top: TLS convinces only the
//! two ends.
//!
//! The authority is made when there is none, and lies beside the identities. Whoever has certificates of
//! their own gives those.

use crate::hex;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::verify_server_name,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::{self, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use zeroize::Zeroizing;

/// The domain that names in certificates end with. `internal` is reserved for private use (ICANN, 2024).
const DOMAIN: &str = "quorate.internal";

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Certificates are valid from so long before they were made: clocks differ.
const BEFORE: Duration = Duration::from_secs(24 * 3600);

/// How long certificates of the platform's own authority are valid. They lie in one folder with the
/// authority's key, so a shorter time would only end platforms that nobody has looked at for long.
const VALID: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// What somebody is inside the platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A daemon of the control plane.
    Control,
    /// The worker of a set.
    Worker,
    /// A replica of a set.
    Replica,
}

impl Role {
    fn label(self) -> &'static str {
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
    /// The authority's certificate.
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
}

/// The platform's own authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    path: PathBuf,
}

impl Authority {
    /// The authority that lies in a folder, made when there is none.
    ///
    /// # Errors
    /// When files can't be read or written, or hold something else.
    pub fn at(folder: &Path) -> Result<Self, TlsError> {
        let (cert, key) = (folder.join("ca.pem"), folder.join("ca.key"));
        if !key.exists() {
            fs::create_dir_all(folder).map_err(file(folder))?;
            // Whoever is first makes it; all others find that one.
            write_new(&key, KeyPair::generate()?.serialize_pem().as_bytes())?;
        }
        let text = Zeroizing::new(fs::read_to_string(&key).map_err(file(&key))?);
        let pair = KeyPair::from_pem(&text).map_err(|error| TlsError::Malformed {
            path: key,
            what: "key",
            why: error.to_string(),
        })?;
        let params = authority_params(&pair);
        if !cert.exists() {
            write_new(&cert, params.self_signed(&pair)?.pem().as_bytes())?;
        }
        Ok(Self { issuer: Issuer::new(params, pair), path: cert })
    }

    /// A certificate, and its key, for who has this role and these names besides; written into a folder.
    ///
    /// # Errors
    /// When it can't be made or written.
    pub fn issue(&self, role: Role, own: Option<&Name>, folder: &Path) -> Result<Files, TlsError> {
        let names = std::iter::once(role.name()).chain(own.cloned()).map(|name| name.0);
        let mut params = CertificateParams::new(names.collect::<Vec<_>>())?;
        params.distinguished_name = named(own.map_or(role.label(), |own| &own.0));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let now = SystemTime::now();
        (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + VALID).into());
        let pair = KeyPair::generate()?;
        let certificate = params.signed_by(&pair, &self.issuer)?;
        fs::create_dir_all(folder).map_err(file(folder))?;
        let files =
            Files { ca: self.path.clone(), cert: folder.join("tls.pem"), key: folder.join("tls.key") };
        replace(&files.key, Zeroizing::new(pair.serialize_pem()).as_bytes())?;
        replace(&files.cert, certificate.pem().as_bytes())?;
        Ok(files)
    }
}

/// The same for the same key, so that what it issues goes with the certificate that lies there.
fn authority_params(pair: &KeyPair) -> CertificateParams {
    let mut params = CertificateParams::default();
    let print = digest(&SHA256, pair.public_key_raw());
    params.distinguished_name = named(&format!("Quorate authority {}", hex::encode(&print.as_ref()[..8])));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - BEFORE).into(), (now + VALID).into());
    params
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// What one end of a connection needs.
#[derive(Clone)]
pub struct Credentials {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("Credentials")
    }
}

/// Why a connection was not made.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The other end can't show that it is who it should be, or did not accept this one.
    #[error("not accepted: {0}")]
    Handshake(#[source] io::Error),
    /// It took too long.
    #[error("no handshake within {HANDSHAKE:?}")]
    Slow,
    /// Its role has no business here.
    #[error("a certificate of another role than {expected}")]
    Role {
        /// What it should have been.
        expected: String,
    },
}

impl Credentials {
    /// Reads them.
    ///
    /// # Errors
    /// When files can't be read, hold something else, or do not go together.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        let roots = certificates(&files.ca)?;
        let mut store = RootCertStore::empty();
        for root in roots {
            store.add(root).map_err(|error| TlsError::Malformed {
                path: files.ca.clone(),
                what: "authority",
                why: error.to_string(),
            })?;
        }
        let store = Arc::new(store);
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| TlsError::Malformed {
            path: files.key.clone(),
            what: "key",
            why: error.to_string(),
        })?;
        let pair = |source| TlsError::Pair { cert: files.cert.clone(), key: files.key.clone(), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), Arc::clone(&provider))
            .build()
            .map_err(|error| TlsError::Malformed {
                path: files.ca.clone(),
                what: "authority",
                why: error.to_string(),
            })?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_root_certificates(store)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        let server = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(pair)?;
        let (client, server) = (Arc::new(with_h2(client)), Arc::new(with_h2_server(server)));
        Ok(Self { connector: client.into(), acceptor: server.into() })
    }

    /// Makes sure that who is at the other end is `name`, and shows who this is.
    ///
    /// # Errors
    /// When it is not, does not believe it, or takes too long.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        name: &Name,
    ) -> Result<client::TlsStream<S>, Refused> {
        let handshake = self.connector.connect(name.to_server_name(), stream);
        timeout(HANDSHAKE, handshake).await.map_err(|_| Refused::Slow)?.map_err(Refused::Handshake)
    }

    /// Makes sure that who is at the other end has one of these roles.
    ///
    /// # Errors
    /// When it has not, or takes too long.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        roles: &[Role],
    ) -> Result<server::TlsStream<S>, Refused> {
        let handshake = self.acceptor.accept(stream);
        let stream =
            timeout(HANDSHAKE, handshake).await.map_err(|_| Refused::Slow)?.map_err(Refused::Handshake)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let shown = shown.and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
        let is_one = shown.is_some_and(|certificate| {
            roles.iter().any(|role| verify_server_name(&certificate, &role.name().to_server_name()).is_ok())
        });
        if is_one {
            return Ok(stream);
        }
        let expected = roles.iter().map(|role| role.label()).collect::<Vec<_>>().join(" or ");
        Err(Refused::Role { expected })
    }
}

fn with_h2(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn with_h2_server(mut config: ServerConfig) -> ServerConfig {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |why: String| TlsError::Malformed { path: path.into(), what: "certificate", why };
    let text = fs::read(path).map_err(file(path))?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let all = all.map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() { Err(malformed("there is none in it".into())) } else { Ok(all) }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> TlsError + '_ {
    |source| TlsError::File { path: path.into(), source }
}

/// A whole file that the owner alone can read, or nothing.
fn draft(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut draft = tempfile::NamedTempFile::new_in(folder)?;
    draft.write_all(bytes)?;
    draft.as_file().sync_all()?;
    Ok(draft)
}

/// Writes a file unless there is one.
fn write_new(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    match draft(path, bytes).map_err(file(path))?.persist_noclobber(path) {
        Ok(_) => Ok(()),
        Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(file(path)(error.error)),
    }
}

fn replace(path: &Path, bytes: &[u8]) -> Result<(), TlsError> {
    draft(path, bytes).and_then(|draft| Ok(draft.persist(path).map(drop)?)).map_err(file(path))
}

#[cfg(test)]
mod tests;
