//! The gateway's client: what the commands use, and tests and load generators too.
//!
//! It is `hyper` itself on one kept connection: a command is over in milliseconds, and a client with
//! pools, redirects and proxies would take longer to set up than the answer takes.

use crate::{
    api::{
        Answer, DeadMessage, FaultStatus, Problem, ProcessStatus, QueueStatus, Redriven, Scale,
        ScalingStatus, Status, Submission,
    },
    tls::{TlsError, public},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{
    Method, Request, StatusCode, Uri,
    client::conn::http1::{SendRequest, handshake},
    header::{AUTHORIZATION, CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde::de::DeserializeOwned;
use std::{path::Path, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;
use uuid::Uuid;
use zeroize::Zeroizing;

/// The largest body that is read: a receipt of a big expression is over a megabyte.
const BODY_BYTES: usize = 1 << 30;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(3);

/// How long a platform that was there may be away: its control plane restarts within this.
const AWAY: Duration = Duration::from_secs(10);

/// Between tries while it is away.
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// Time beyond a `?wait=` until its answer counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("`{url}` is not the address of a platform: expected http://HOST:PORT or https://HOST:PORT")]
    Url {
        /// What was given.
        url: String,
    },
    /// Nobody answers there.
    #[error("no platform answers at {url}: {source}")]
    Unreachable {
        /// Where.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// Who answers there can't show that it is who it should be.
    #[error("{url} can't be trusted: {source}; --ca FILE names the authority of its certificate")]
    Untrusted {
        /// Where.
        url: String,
        /// Why.
        source: std::io::Error,
    },
    /// Nobody can vouch for a gateway.
    #[error(transparent)]
    Ca(#[from] TlsError),
    /// The connection broke.
    #[error("the connection to {url} broke: {source}")]
    Broken {
        /// Where.
        url: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is no answer.
    #[error("{url} gave an answer that is not a platform's: {why}")]
    Foreign {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// The platform said what is wrong.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The time was up; the platform goes on.
    #[error("no answer in time{}", .id.map(|id| format!("; request {id} goes on")).unwrap_or_default())]
    TimedOut {
        /// The request, when it was accepted.
        id: Option<Uuid>,
    },
}

/// A connection to a gateway, made when it is first needed and again when it broke.
pub struct Client {
    url: String,
    authority: String,
    /// Who the gateway has to be, at `https://`.
    name: Option<ServerName<'static>>,
    /// Whom it believes about that.
    tls: Option<TlsConnector>,
    /// What it shows: `Bearer …`.
    credentials: Option<Zeroizing<String>>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// A client of the gateway at `http://HOST:PORT` or `https://HOST:PORT`, where it believes the authorities
    /// of this machine. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ClientError::Url`].
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let refused = || ClientError::Url { url: url.to_owned() };
        let uri: Uri = url.parse().map_err(|_| refused())?;
        let authority = uri.authority().ok_or_else(refused)?;
        let (scheme, port) = match uri.scheme_str() {
            Some("http") => ("http", 80),
            Some("https") => ("https", 443),
            _ => return Err(refused()),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(refused());
        }
        let (host, port) = (authority.host(), authority.port_u16().unwrap_or(port));
        let name = match scheme {
            "https" => {
                let name = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                Some(ServerName::try_from(name).map_err(|_| refused())?)
            }
            _ => None,
        };
        Ok(Self {
            url: format!("{scheme}://{authority}"),
            authority: format!("{host}:{port}"),
            name,
            tls: None,
            credentials: None,
            connection: None,
        })
    }

    /// Believes the authorities in a file in place of this machine's.
    ///
    /// # Errors
    /// [`ClientError::Ca`].
    pub fn with_ca(mut self, ca: Option<&Path>) -> Result<Self, ClientError> {
        if let (Some(_), Some(ca)) = (&self.name, ca) {
            self.tls = Some(public::client(Some(ca))?);
        }
        Ok(self)
    }

    /// Shows this token with every request.
    #[must_use]
    pub fn with_token(mut self, token: Option<&str>) -> Self {
        self.credentials = token.map(|token| Zeroizing::new(format!("Bearer {token}")));
        self
    }

    /// Where the gateway is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Connects now, to find out whether anybody is there.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`], and at `https://` [`ClientError::Untrusted`] or [`ClientError::Ca`].
    pub async fn connect(&mut self) -> Result<(), ClientError> {
        self.connection().await.map(|_| ())
    }

    async fn connection(&mut self) -> Result<&mut SendRequest<Full<Bytes>>, ClientError> {
        if self.connection.as_ref().is_none_or(SendRequest::is_closed) {
            let unreachable = |source| ClientError::Unreachable { url: self.url.clone(), source };
            let stream = timeout(CONNECT, TcpStream::connect(&self.authority))
                .await
                .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
                .map_err(unreachable)?;
            stream.set_nodelay(true).map_err(unreachable)?;
            self.connection = Some(match self.name.clone() {
                None => self.converse(stream).await?,
                Some(name) => {
                    let tls = match &self.tls {
                        Some(tls) => tls.clone(),
                        None => self.tls.insert(public::client(None)?).clone(),
                    };
                    let shaken = timeout(CONNECT, tls.connect(name, stream)).await;
                    let shaken = shaken.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()));
                    let untrusted = |source| ClientError::Untrusted { url: self.url.clone(), source };
                    self.converse(shaken.map_err(untrusted)?).await?
                }
            });
        }
        Ok(self.connection.as_mut().expect("it was made just now"))
    }

    async fn converse(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<SendRequest<Full<Bytes>>, ClientError> {
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|source| self.broken(source))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    fn broken(&self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ClientError {
        ClientError::Broken { url: self.url.clone(), source: source.into() }
    }

    /// One request and its whole answer, whatever the status.
    ///
    /// # Errors
    /// When there is none within `patience`.
    pub async fn send(
        &mut self,
        method: Method,
        path: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
        patience: Duration,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let mut request = Request::builder().method(method).uri(path).header(HOST, &self.authority);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(credentials) = &self.credentials {
            request = request.header(AUTHORIZATION, credentials.as_str());
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| ClientError::Foreign { url: path.to_owned(), why: error.to_string() })?;
        let exchange = async {
            let sender = self.connection().await?;
            let sent = match sender.ready().await {
                Ok(()) => sender.send_request(request).await,
                Err(error) => Err(error),
            };
            let response = sent.map_err(|error| self.broken(error))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), BODY_BYTES).collect().await;
            Ok((status, body.map_err(|error| self.broken(error))?.to_bytes()))
        };
        let result = timeout(patience, exchange).await.unwrap_or(Err(ClientError::TimedOut { id: None }));
        if result.is_err() {
            // What is left of the exchange must not be taken for the next one's answer.
            self.connection = None;
        }
        result
    }

    /// One request whose answer is a `T`.
    async fn call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Bytes,
        patience: Duration,
    ) -> Result<T, ClientError> {
        let (status, body) = self.send(method, path, &[], body, patience).await?;
        self.understand(status, &body)
    }

    fn understand<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
        let foreign = |error: serde_json::Error| ClientError::Foreign {
            url: self.url.clone(),
            why: format!("{status}: {error}"),
        };
        if status.is_success() {
            return serde_json::from_slice(body).map_err(foreign);
        }
        Err(ClientError::Problem(serde_json::from_slice(body).map_err(foreign)?))
    }

    /// Submits an expression and waits for its end.
    ///
    /// A connection that breaks, or a 503, is no end: the request is sent again under the same
    /// `Idempotency-Key`, so that it is accepted once however often it is sent, for as long as a
    /// platform takes to restart.
    ///
    /// # Errors
    /// What the platform says is wrong, [`ClientError::TimedOut`] with the id, or why there is no platform.
    pub async fn calculate(
        &mut self,
        submission: &Submission,
        timeline: bool,
        patience: Duration,
    ) -> Result<Answer, ClientError> {
        let started = Instant::now();
        let key = ("idempotency-key", Uuid::now_v7().to_string());
        let body = Bytes::from(serde_json::to_vec(submission).expect("plain strings and numbers serialise"));
        let mut id: Option<Uuid> = None;
        let mut away_since: Option<Instant> = None;
        loop {
            let left = patience.saturating_sub(started.elapsed());
            let options = format!("?wait={}&timeline={timeline}", left.as_secs_f64());
            let answered = match id {
                None => {
                    let path = format!("/v1/expressions{options}");
                    let key = std::slice::from_ref(&key);
                    self.send(Method::POST, &path, key, body.clone(), left + GRACE).await
                }
                Some(id) => {
                    let path = format!("/v1/expressions/{id}{options}");
                    self.send(Method::GET, &path, &[], Bytes::new(), left + GRACE).await
                }
            };
            let answer = answered.and_then(|(status, body)| self.understand::<Answer>(status, &body));
            match answer {
                Ok(Answer { status: Status::Accepted, id: accepted, .. }) => {
                    id = Some(accepted);
                    if started.elapsed() >= patience {
                        return Err(ClientError::TimedOut { id });
                    }
                    // A gateway that ends answers early; its successor is there soon.
                    if left > RETRY_EVERY {
                        sleep(RETRY_EVERY.min(Duration::from_millis(5))).await;
                    }
                    away_since = None;
                }
                Ok(Answer { error: Some(problem), id, .. }) => {
                    return Err(ClientError::Problem(Box::new(Problem { id: Some(id), ..problem })));
                }
                Ok(answer) => return Ok(answer),
                Err(ClientError::TimedOut { .. }) => return Err(ClientError::TimedOut { id }),
                Err(error) if error.is_passing() => {
                    let since = *away_since.get_or_insert_with(Instant::now);
                    if since.elapsed() >= AWAY || started.elapsed() >= patience {
                        return Err(error);
                    }
                    sleep(RETRY_EVERY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A receipt, as the bytes that the platform keeps.
    ///
    /// # Errors
    /// When there is none.
    pub async fn receipt(&mut self, id: Uuid) -> Result<Bytes, ClientError> {
        self.text(&format!("/v1/receipts/{id}")).await
    }

    /// What a path answers, as it is.
    async fn text(&mut self, path: &str) -> Result<Bytes, ClientError> {
        let (status, body) = self.send(Method::GET, path, &[], Bytes::new(), GRACE).await?;
        if status.is_success() {
            return Ok(body);
        }
        Err(self.understand::<serde::de::IgnoredAny>(status, &body).expect_err("the status is no success"))
    }

    /// Every process of the platform.
    ///
    /// # Errors
    /// When the platform does not say.
    pub async fn status(&mut self) -> Result<Vec<ProcessStatus>, ClientError> {
        self.call(Method::GET, "/v1/status", Bytes::new(), GRACE).await
    }

    /// The latest faults, oldest first.
    ///
    /// # Errors
    /// When the platform does not say.
    pub async fn faults(&mut self) -> Result<Vec<FaultStatus>, ClientError> {
        self.call(Method::GET, "/v1/faults", Bytes::new(), GRACE).await
    }

    /// The proof of a fault, as the bytes that the platform keeps.
    ///
    /// # Errors
    /// When there is none.
    pub async fn proof(&mut self, fault: &str) -> Result<Bytes, ClientError> {
        self.text(&format!("/v1/faults/{}/proof", escaped(fault))).await
    }

    /// Every queue.
    ///
    /// # Errors
    /// When the platform does not say.
    pub async fn queues(&mut self) -> Result<Vec<QueueStatus>, ClientError> {
        self.call(Method::GET, "/v1/queues", Bytes::new(), GRACE).await
    }

    /// How each function is scaled.
    ///
    /// # Errors
    /// When the platform does not say.
    pub async fn scaling(&mut self) -> Result<Vec<ScalingStatus>, ClientError> {
        self.call(Method::GET, "/v1/scaling", Bytes::new(), GRACE).await
    }

    /// The oldest dead letters of a queue.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn dead_letters(&mut self, queue: &str) -> Result<Vec<DeadMessage>, ClientError> {
        let path = format!("/v1/queues/{}/dead-letters", escaped(queue));
        self.call(Method::GET, &path, Bytes::new(), GRACE).await
    }

    /// Puts all dead letters of a queue back on it.
    ///
    /// # Errors
    /// When there is no such queue.
    pub async fn redrive(&mut self, queue: &str) -> Result<Redriven, ClientError> {
        let path = format!("/v1/queues/{}/redrive", escaped(queue));
        self.call(Method::POST, &path, Bytes::new(), GRACE).await
    }

    /// States how many worker sets a function shall have.
    ///
    /// # Errors
    /// When there is no such function or nobody to scale it.
    pub async fn scale(&mut self, function: &str, desired: u32) -> Result<Scale, ClientError> {
        let body = serde_json::to_vec(&Scale { desired }).expect("a number serialises");
        let path = format!("/v1/functions/{}/scale", escaped(function));
        self.call(Method::PUT, &path, body.into(), GRACE * 2).await
    }
}

impl ClientError {
    /// Whether the same request may well succeed in a moment.
    fn is_passing(&self) -> bool {
        match self {
            Self::Broken { .. } | Self::Unreachable { .. } => true,
            Self::Problem(problem) => problem.status == 503,
            _ => false,
        }
    }
}

/// A path segment: everything but unreserved characters in percent form (RFC 3986, 2.3).
fn escaped(segment: &str) -> String {
    let mut to = String::with_capacity(segment.len());
    for byte in segment.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => to.push(char::from(byte)),
            _ => to.push_str(&format!("%{byte:02X}")),
        }
    }
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_addresses_are_platforms() {
        for good in [
            "http://127.0.0.1:7400",
            "http://localhost:1/",
            "http://[::1]:7400",
            "http://gateway",
            "https://[::1]:1",
        ] {
            assert!(Client::new(good).is_ok(), "{good}");
        }
        for bad in ["", "127.0.0.1:7400", "https://a b", "http://", "http://a/b", "http://a?b", "ftp://a"] {
            assert!(matches!(Client::new(bad), Err(ClientError::Url { .. })), "{bad}");
        }
    }

    #[test]
    fn path_segments_are_escaped() {
        assert_eq!(escaped("layer-add"), "layer-add");
        assert_eq!(escaped("a/b ü"), "a%2Fb%20%C3%BC");
    }

    #[tokio::test]
    async fn nobody_there_is_unreachable() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        drop(listener);
        let mut client = Client::new(&url).expect("an address");
        assert!(matches!(client.connect().await, Err(ClientError::Unreachable { .. })));
    }
}
