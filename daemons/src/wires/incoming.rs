//! Those who come in.

use super::{Stream, refusals::Refusals};
use crate::tls::{Credentials, Refused, Role};
use futures::Stream as Items;
use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::{AbortHandle, JoinHandle, JoinSet},
};

/// Handshakes at once. When another one comes, the oldest is given up: who means it is through in
/// milliseconds, and who only holds a connection can't keep others out.
const HANDSHAKES_MAX: usize = 64;

/// Connections that nobody has taken yet.
const READY_MAX: usize = 64;

/// After an error of the listener: it has run out of file descriptors, mostly, and some will be free again.
const REST: Duration = Duration::from_millis(50);

/// Connections whose other ends have shown who they are, for `tonic` and `axum` alike. Nobody is listened to
/// any more once it is dropped.
#[derive(Debug)]
pub struct Incoming {
    ready: mpsc::Receiver<Stream>,
    address: SocketAddr,
    listening: JoinHandle<()>,
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

/// Who is let in, and how they show it; nothing on a network that sees to it.
type Checked = Option<(Credentials, &'static [Role])>;

impl Incoming {
    pub(super) fn new(listener: TcpListener, port: &'static str, checked: Checked) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let (tell, ready) = mpsc::channel(READY_MAX);
        let door =
            Door { listener, port, checked, tell, handshakes: JoinSet::new(), oldest: VecDeque::new() };
        Ok(Self { ready, address, listening: tokio::spawn(door.keep()) })
    }

    /// The next one; `None` when there will be no more.
    pub async fn next(&mut self) -> Option<Stream> {
        self.ready.recv().await
    }
}

impl Items for Incoming {
    type Item = io::Result<Stream>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.ready.poll_recv(context).map(|stream| stream.map(Ok))
    }
}

impl axum::serve::Listener for Incoming {
    type Io = Stream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Stream, SocketAddr) {
        match self.next().await {
            Some(stream) => (stream, self.address),
            // The door is kept for as long as this is there, or the runtime ends.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

struct Door {
    listener: TcpListener,
    port: &'static str,
    checked: Checked,
    tell: mpsc::Sender<Stream>,
    handshakes: JoinSet<Result<Stream, (SocketAddr, Refused)>>,
    /// Those that have not ended, and perhaps some that have.
    oldest: VecDeque<AbortHandle>,
}

impl Door {
    async fn keep(mut self) {
        let refusals = Refusals::default();
        let port = self.port;
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, peer)) => {
                        // What is written is gathered already, and somebody waits for it.
                        let _ = stream.set_nodelay(true);
                        if self.begin(stream, peer).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        refusals.note(|unsaid| {
                            tracing::warn!(port, %error, unsaid, "a connection was not accepted");
                        });
                        tokio::time::sleep(REST).await;
                    }
                },
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok(Ok(stream)) => {
                        if self.tell.send(stream).await.is_err() {
                            return;
                        }
                    }
                    // Who looks whether the port is open says nothing.
                    Ok(Err((peer, Refused::Broken(error)))) => {
                        tracing::debug!(port, %peer, %error, "a connection ended during its handshake");
                    }
                    Ok(Err((peer, refused))) => refusals.note(|unsaid| {
                        tracing::warn!(port, %peer, error = %refused, unsaid, "a connection was refused");
                    }),
                    Err(_) => refusals.note(|unsaid| {
                        tracing::warn!(
                            port, unsaid,
                            "more than {HANDSHAKES_MAX} connections are in their handshakes; the oldest was refused"
                        );
                    }),
                },
            }
        }
    }

    async fn begin(&mut self, stream: TcpStream, peer: SocketAddr) -> Result<(), ()> {
        let Some((credentials, roles)) = self.checked.clone() else {
            return self.tell.send(Stream::Plain(stream)).await.map_err(drop);
        };
        while self.oldest.front().is_some_and(AbortHandle::is_finished) {
            self.oldest.pop_front();
        }
        if self.oldest.len() >= HANDSHAKES_MAX {
            self.oldest.retain(|handshake| !handshake.is_finished());
        }
        if self.oldest.len() >= HANDSHAKES_MAX
            && let Some(handshake) = self.oldest.pop_front()
        {
            handshake.abort();
        }
        self.oldest.push_back(self.handshakes.spawn(async move {
            let stream = credentials.accept(stream, roles).await.map_err(|refused| (peer, refused))?;
            Ok(Stream::Protected(Box::new(stream.into())))
        }));
        Ok(())
    }
}
