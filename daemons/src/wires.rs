//! Connections inside the platform: how processes reach each other, and whom they let in.
//!
//! Every one of them is made here, so that none is made otherwise: [`Wires`] are either protected, and then
//! both ends prove who they are ([`crate::tls`]), or plain, for a network that sees to it itself. Who accepts
//! says which roles may come; handshakes go on beside each other, each within its time, and no more than a
//! few are unfinished ([`Incoming`]). Who dials says whom it means.

mod incoming;
mod refusals;
mod session;
mod stream;

pub use incoming::Incoming;
pub use stream::Stream;

use crate::tls::{Credentials, Files, Name, Refused, Role, Standing, TlsError};
use hyper_util::rt::TokioIo;
use quorate_pbft::runtime::Protection;
use refusals::Refusals;
use session::Sessions;
use std::{io, sync::Arc, time::Duration};
use tokio::net::{TcpListener, TcpStream, ToSocketAddrs};
use tonic::{
    Status,
    transport::{Channel, Endpoint},
};

/// What one process needs for its connections inside the platform.
#[derive(Clone, Debug)]
pub struct Wires {
    /// None on a network that protects what is on it.
    credentials: Option<Credentials>,
    /// What did not become a connection, for the log.
    refusals: Arc<Refusals>,
}

impl Wires {
    /// Unprotected ones.
    #[must_use]
    pub fn plain() -> Self {
        Self { credentials: None, refusals: Arc::default() }
    }

    /// Protected by these.
    #[must_use]
    pub fn with(credentials: Credentials) -> Self {
        Self { credentials: Some(credentials), ..Self::plain() }
    }

    /// A pod's, which was given these files or none.
    ///
    /// # Errors
    /// When they can't be used.
    pub fn of_pod(files: Option<&Files>) -> Result<Self, TlsError> {
        Ok(files.map(Credentials::load).transpose()?.map_or_else(Self::plain, Self::with))
    }

    /// A daemon's of the control plane.
    #[must_use]
    pub fn of_daemon(standing: Option<&Standing>) -> Self {
        standing.map_or_else(Self::plain, |standing| Self::with(standing.credentials.clone()))
    }

    /// A connection to who listens at an address.
    ///
    /// # Errors
    /// When nobody does, or it is somebody else.
    pub async fn dial(&self, address: impl ToSocketAddrs, whom: &Name) -> io::Result<Stream> {
        let stream = TcpStream::connect(address).await?;
        // What is written is gathered already, and somebody waits for it.
        stream.set_nodelay(true)?;
        let Some(credentials) = &self.credentials else { return Ok(Stream::Plain(stream)) };
        match credentials.connect(stream, whom).await {
            Ok(stream) => Ok(Stream::Protected(Box::new(stream.into()))),
            Err(refused) => {
                // Who listened there may have ended just now; that is told otherwise.
                if !matches!(refused, Refused::Broken(_)) {
                    self.refusals.note(|unsaid| {
                        tracing::warn!(%whom, error = %refused, unsaid, "a connection was not made");
                    });
                }
                Err(io::Error::other(refused))
            }
        }
    }

    /// A channel to who serves gRPC at an address: connected when it is first used, and again when it broke.
    ///
    /// # Errors
    /// When the address is none.
    pub fn channel(&self, address: &str, whom: Name, patience: Duration) -> Result<Channel, Status> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| Status::invalid_argument(format!("`{address}` is no address: {error}")))?
            .connect_timeout(patience)
            .initial_stream_window_size(4 << 20)
            .initial_connection_window_size(8 << 20);
        let (wires, address) = (self.clone(), address.to_owned());
        Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
            let (wires, address, whom) = (wires.clone(), address.clone(), whom.clone());
            async move { wires.dial(address, &whom).await.map(TokioIo::new) }
        })))
    }

    /// Lets these roles in at a port, of which `port` says for the log what it is.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn listen(
        &self,
        listener: TcpListener,
        port: &'static str,
        roles: &'static [Role],
    ) -> io::Result<Incoming> {
        Incoming::new(listener, port, self.credentials.clone().map(|credentials| (credentials, roles)))
    }

    /// What protects the PBFT transport of a set's replicas and of their client.
    #[must_use]
    pub fn protection(&self, set: &str) -> Protection {
        let sessions = self.credentials.clone().map(|credentials| Sessions {
            credentials,
            set: set.to_owned(),
            refusals: Arc::clone(&self.refusals),
        });
        Protection(sessions.map(|sessions| Arc::new(sessions) as _))
    }
}

#[cfg(test)]
mod tests;
