//! What one end of a connection shows, and whom it believes.

use super::{Files, Name, Role, TlsError, read};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, CommonState, Error, RootCertStore, ServerConfig,
    client::{Resumption, verify_server_name},
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
    server::{ParsedCertificate, WebPkiClientVerifier},
    version::TLS13,
};
use std::{
    fmt, io,
    path::Path,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Whom a connection was made to lately, so that the next one needs no signatures: pods of a few sets.
const RESUMED: usize = 256;

/// ring's, with AES of 128 bits first: as good here as 256, and faster.
pub(super) fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        let mut provider = ring::default_provider();
        provider
            .cipher_suites
            .sort_by_key(|suite| suite.suite() != rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    Arc::clone(&PROVIDER)
}

/// What one end of a connection needs.
#[derive(Clone)]
pub struct Credentials {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    /// How long a handshake may take.
    pub(super) handshake: Duration,
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
    #[error("{error}{}", advice(error))]
    Tls {
        /// What is wrong.
        error: Error,
    },
    /// The connection broke.
    #[error("the connection ended during the handshake: {0}")]
    Broken(#[source] io::Error),
    /// It took too long.
    #[error("no handshake within {0:?}")]
    Slow(Duration),
    /// Its role has no business here.
    #[error("it shows a certificate of another role than {expected}")]
    Role {
        /// What it should have been.
        expected: String,
    },
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Tls { error }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => Self::Broken(error),
        }
    }
}

/// What to do about an error that is somebody's configuration.
fn advice(error: &Error) -> &'static str {
    use CertificateError as C;
    match error {
        Error::InvalidMessage(_) => {
            "; it speaks no TLS: `tls.inside` has to be the same for all of a platform"
        }
        Error::NoCertificatesPresented => "; it shows no certificate",
        Error::InvalidCertificate(C::UnknownIssuer | C::BadSignature)
        | Error::AlertReceived(AlertDescription::UnknownCA) => {
            "; all of a platform have one authority: `tls.ca`, or that in the data folder"
        }
        Error::InvalidCertificate(C::NotValidForName | C::NotValidForNameContext { .. }) => {
            "; somebody else is there now"
        }
        Error::InvalidCertificate(C::Expired | C::ExpiredContext { .. })
        | Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "; make new certificates (`quorate tls make`), or put the clock right"
        }
        _ => "",
    }
}

impl Credentials {
    /// Reads them.
    ///
    /// # Errors
    /// When files can't be read, hold something else, or do not go together.
    pub fn load(files: &Files) -> Result<Self, TlsError> {
        Self::parse(files, &read(&files.ca)?, &read(&files.cert)?, &read(&files.key)?)
    }

    /// What is in files of these names.
    pub(super) fn parse(names: &Files, ca: &[u8], cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let no_authority =
            |why: String| TlsError::Malformed { path: names.ca.clone(), what: "authority", why };
        let mut store = RootCertStore::empty();
        for root in certificates(&names.ca, ca)? {
            store.add(root).map_err(|error| no_authority(error.to_string()))?;
        }
        let store = Arc::new(store);
        let chain = certificates(&names.cert, cert)?;
        let key = private_key(&names.key, key)?;
        let pair = TlsError::pair(&names.cert, &names.key);
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&store), provider())
            .build()
            .map_err(|error| no_authority(error.to_string()))?;
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_root_certificates(store)
            .with_client_auth_cert(chain.clone(), key.clone_key())
            .map_err(pair)?;
        client.resumption = Resumption::in_memory_sessions(RESUMED);
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(pair)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(pair)?;
        // One is enough: whoever comes back is given another.
        server.send_tls13_tickets = 1;
        Ok(Self { client: Arc::new(client), server: Arc::new(server), handshake: HANDSHAKE })
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
        let connector = TlsConnector::from(Arc::clone(&self.client));
        let handshake = connector.connect(name.to_server_name(), stream);
        Ok(timeout(self.handshake, handshake).await.map_err(|_| Refused::Slow(self.handshake))??)
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
        let handshake = TlsAcceptor::from(Arc::clone(&self.server)).accept(stream);
        let stream =
            timeout(self.handshake, handshake).await.map_err(|_| Refused::Slow(self.handshake))??;
        check_role(stream.get_ref().1, roles)?;
        Ok(stream)
    }

    /// For connections that somebody else drives: who is dialled, and how.
    pub(crate) fn client(&self, name: &Name) -> (Arc<ClientConfig>, ServerName<'static>) {
        (Arc::clone(&self.client), name.to_server_name())
    }

    pub(crate) fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }
}

/// Whether the other end of a connection, whose certificate is one of the authority's, has one of these roles.
pub(crate) fn check_role(connection: &CommonState, roles: &[Role]) -> Result<(), Refused> {
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let shown = shown.and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
    let is_one = shown.is_some_and(|certificate| {
        roles.iter().any(|role| verify_server_name(&certificate, &role.name().to_server_name()).is_ok())
    });
    if is_one {
        return Ok(());
    }
    Err(Refused::Role { expected: roles.iter().map(|role| role.label()).collect::<Vec<_>>().join(" or ") })
}

pub(super) fn private_key(path: &Path, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let malformed = |why: String| TlsError::Malformed { path: path.into(), what: "key", why };
    PrivateKeyDer::from_pem_slice(pem).map_err(|error| malformed(error.to_string()))
}

pub(super) fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let malformed = |why: String| TlsError::Malformed { path: path.into(), what: "certificate", why };
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| malformed(error.to_string()))?;
    if all.is_empty() { Err(malformed("there is none in it".into())) } else { Ok(all) }
}
