//! A way to a server, perhaps from another address of this machine, that can be cut and can lose what is said.

use std::{net::SocketAddr, sync::Arc};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// The way; it is there until this is dropped.
pub struct Proxy {
    /// Where it begins.
    pub endpoint: String,
    /// At which port.
    pub port: u16,
    state: Arc<watch::Sender<State>>,
    accepts: tokio::task::JoinHandle<()>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// How often it was cut.
    cuts: u64,
    /// Whether what is asked is lost.
    deaf: bool,
    /// Whether what is answered is lost.
    mute: bool,
}

impl Proxy {
    /// A way to `http://ADDRESS` from loopback.
    pub async fn to(endpoint: &str) -> Self {
        Self::on("127.0.0.1", endpoint).await
    }

    /// A way to `http://ADDRESS` from a host that is this machine.
    pub async fn on(host: &str, endpoint: &str) -> Self {
        let to: SocketAddr = endpoint.trim_start_matches("http://").parse().expect("an address");
        let listener = TcpListener::bind((host, 0)).await.expect("a free port");
        let bound = listener.local_addr().expect("it is bound");
        let (endpoint, port) = (format!("http://{bound}"), bound.port());
        let state = Arc::new(watch::Sender::default());
        let states = Arc::clone(&state);
        let accepts = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                // Who has no member to go to is cut off at once.
                if let Ok(far) = TcpStream::connect(to).await {
                    tokio::spawn(carry(near, far, states.subscribe()));
                }
            }
        });
        Self { endpoint, port, state, accepts }
    }

    /// Breaks all connections; new ones are taken.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.cuts += 1);
    }

    /// Loses all that is asked from now on.
    pub fn deafen(&self, deaf: bool) {
        self.state.send_modify(|state| state.deaf = deaf);
    }

    /// Loses all that is answered from now on.
    pub fn mute(&self, mute: bool) {
        self.state.send_modify(|state| state.mute = mute);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepts.abort();
        self.cut();
    }
}

async fn carry(near: TcpStream, far: TcpStream, mut states: watch::Receiver<State>) {
    let cuts = states.borrow().cuts;
    let (asks, answers) = (states.clone(), states.clone());
    let ((mut near_reads, mut near_writes), (mut far_reads, mut far_writes)) =
        (near.into_split(), far.into_split());
    tokio::select! {
        () = copy(&mut near_reads, &mut far_writes, || asks.borrow().deaf) => {}
        () = copy(&mut far_reads, &mut near_writes, || answers.borrow().mute) => {}
        _ = states.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    lost: impl Fn() -> bool,
) {
    let mut bytes = vec![0; 1 << 14];
    while let Ok(read @ 1..) = from.read(&mut bytes).await {
        if !lost() && to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}
