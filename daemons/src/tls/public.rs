//! TLS in front of the gateway, where anybody may come: one end shows a certificate, as everywhere on the web.

use super::{TlsError, credentials, read};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::{path::Path, sync::Arc};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What is spoken over it.
const HTTP_1: &[u8] = b"http/1.1";

/// What a gateway shows.
///
/// # Errors
/// When files can't be read, hold something else, or do not go together.
pub(crate) fn server(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pair = TlsError::pair(cert, key);
    let chain = credentials::certificates(cert, &read(cert)?)?;
    let private = credentials::private_key(key, &read(key)?)?;
    let mut config = ServerConfig::builder_with_provider(credentials::provider())
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    Ok(Arc::new(config).into())
}

/// Whom a client believes: the authorities in a file, or those that this machine knows.
///
/// # Errors
/// When there are none.
pub(crate) fn client(ca: Option<&Path>) -> Result<TlsConnector, TlsError> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(path) => {
            for root in credentials::certificates(path, &read(path)?)? {
                store.add(root).map_err(|error| TlsError::Malformed {
                    path: path.to_owned(),
                    what: "authority",
                    why: error.to_string(),
                })?;
            }
        }
        None => {
            let found = rustls_native_certs::load_native_certs();
            store.add_parsable_certificates(found.certs);
            if store.is_empty() {
                return Err(TlsError::NoRoots);
            }
        }
    }
    let mut config = ClientConfig::builder_with_provider(credentials::provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Unusable)?
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = vec![HTTP_1.to_vec()];
    Ok(Arc::new(config).into())
}
