//! What the store in etcd is reached with.

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use std::{fmt, time::Duration};

/// How long a connection may be silent before its other end is asked for a sign of life. etcd cuts those off
/// that ask more often than every 5 s.
const SILENCE: Duration = Duration::from_secs(6);

/// How etcd is reached.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Where its members listen for clients, as `https://HOST:PORT` or `http://HOST:PORT`. One is asked at a
    /// time, and the next when it does not answer.
    pub endpoints: Vec<String>,
    /// What all keys begin with in etcd, such as `quorate/`, so that others may use it too.
    pub prefix: String,
    /// How members prove who they are, and we to them; needed for `https`, and wrong for `http`.
    pub tls: Option<EtcdTls>,
    /// A user of etcd with its password, when etcd asks for one.
    pub user: Option<(String, String)>,
    /// How long it may take to connect to a member.
    pub connect_timeout: Duration,
    /// How long a request may take, other members that are asked after the first included.
    pub request_timeout: Duration,
    /// How many changes a watch may fall behind before it ends.
    pub watch_capacity: usize,
}

/// Certificates and keys, each as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authorities that members' certificates are checked against.
    pub authorities: Vec<u8>,
    /// Our own certificate and its key, when members ask for one.
    pub client: Option<(Vec<u8>, Vec<u8>)>,
}

impl EtcdOptions {
    /// The defaults, with these endpoints: keys under `quorate/`, no TLS, no user, 2 s to connect, 5 s for a
    /// request, 1024 changes that a watch may fall behind.
    #[must_use]
    pub fn new(endpoints: Vec<String>) -> Self {
        Self {
            endpoints,
            prefix: "quorate/".into(),
            tls: None,
            user: None,
            connect_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(5),
            watch_capacity: 1024,
        }
    }

    /// What is wrong with them that the client library would take, and fail later for another reason.
    pub(super) fn fault(&self) -> Option<&'static str> {
        const BEGIN: &[u8] = b"-----BEGIN CERTIFICATE-----";
        let holds_one = |pem: &[u8]| pem.windows(BEGIN.len()).any(|window| window == BEGIN);
        let tls = self.tls.as_ref()?;
        if !holds_one(&tls.authorities) {
            return Some("what members of etcd are checked against holds no certificate in PEM");
        }
        let (certificate, _) = tls.client.as_ref()?;
        (!holds_one(certificate)).then_some("our certificate for etcd is not PEM")
    }

    /// The same for the client library.
    pub(super) fn connect(&self) -> ConnectOptions {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            // A member that is stopped, or was cut off without a word, breaks its streams within this.
            .with_keep_alive(SILENCE, self.connect_timeout)
            // One that has lost the others says so at once, and another is asked.
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((name, password)) = &self.user {
            options = options.with_user(name, password);
        }
        if let Some(tls) = &self.tls {
            let mut with = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.authorities));
            if let Some((certificate, key)) = &tls.client {
                with = with.identity(Identity::from_pem(certificate, key));
            }
            options = options.with_tls(with);
        }
        options
    }
}

impl fmt::Debug for EtcdOptions {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("tls", &self.tls)
            .field("user", &self.user.as_ref().map(|(name, _)| name)) // its password stays here
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("watch_capacity", &self.watch_capacity)
            .finish()
    }
}

impl fmt::Debug for EtcdTls {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("EtcdTls").field("client", &self.client.is_some()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let mut options = EtcdOptions::new(vec!["https://a:2379".into()]);
        options.user = Some(("quorate".into(), "hush".into()));
        let key = b"hush".to_vec();
        options.tls = Some(EtcdTls { authorities: Vec::new(), client: Some((Vec::new(), key.clone())) });
        let shown = format!("{options:?}");
        assert!(shown.contains("https://a:2379") && shown.contains("\"quorate\""), "{shown}");
        assert!(!shown.contains("hush") && !shown.contains(&format!("{key:?}")), "{shown}");
    }
}
