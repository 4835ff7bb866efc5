//! A faulty member's own way onto the network: the runtime's frames and greeting, with nothing behind
//! them that keeps to the rules.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use quorate_pbft::{
    Configuration, ReplicaId,
    crypto::{Domain, Keychain, Kind, Principal, TAG_BYTES},
    message::{Message, Unverified, wire},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::sleep,
};

use crate::Outcome;

const HELLO: u8 = 1;
const JOIN: u8 = 2;
const NEW_KEY: u8 = 3;
const MESSAGE: u8 = 4;
/// Of the transport: another one refuses the greeting.
const VERSION: u8 = 2;
/// Frames that wait for a connection; beyond it they are lost.
const QUEUE: usize = 1 << 14;

/// What happens on the connections.
pub(crate) enum Event {
    Opened { connection: usize, dialled: Option<ReplicaId>, frames: mpsc::Sender<Bytes> },
    Frame { connection: usize, kind: u8, body: Bytes },
    Closed { connection: usize },
}

struct Connection {
    frames: mpsc::Sender<Bytes>,
    dialled: Option<ReplicaId>,
}

/// The connections of one principal, and who is at their other ends.
pub(crate) struct Peer {
    configuration: Configuration,
    connections: BTreeMap<usize, Connection>,
    routes: BTreeMap<Principal, usize>,
}

impl Peer {
    pub(crate) fn new(configuration: Configuration) -> Self {
        Self { configuration, connections: BTreeMap::new(), routes: BTreeMap::new() }
    }

    /// Whether somebody is reached.
    pub(crate) fn reaches(&self, principal: Principal) -> bool {
        self.routes.contains_key(&principal)
    }

    /// Takes an event in; gives the message that it brought, if it was one.
    pub(crate) fn handle(&mut self, keychain: &mut Keychain, event: Event) -> Option<Unverified<Message>> {
        match event {
            Event::Opened { connection, dialled, frames } => {
                let greeting = self.hello(keychain, dialled.is_some());
                let _ = frames.try_send(greeting);
                self.connections.insert(connection, Connection { frames, dialled });
                None
            }
            Event::Closed { connection } => {
                self.connections.remove(&connection);
                self.routes.retain(|_, other| *other != connection);
                None
            }
            Event::Frame { kind: MESSAGE, body, .. } => wire::decode(body).ok(),
            Event::Frame { connection, kind, body } => {
                self.greet(keychain, connection, kind, body);
                None
            }
        }
    }

    fn greet(&mut self, keychain: &mut Keychain, connection: usize, kind: u8, mut body: Bytes) -> Option<()> {
        let known = self.connections.get(&connection)?;
        match (kind, known.dialled) {
            (HELLO, Some(peer)) => {
                // Magic, version and group come before the nonce.
                let (mut before, mut nonce) = ([0; 4 + 1 + 16], [0; 32]);
                body.try_copy_to_slice(&mut before).ok()?;
                body.try_copy_to_slice(&mut nonce).ok()?;
                keychain.accept(&wire::decode_new_key(body).ok()?).ok()?;
                let peer = Principal::Replica(peer);
                let tag = keychain.tag(peer, Domain::new(Kind::NewKey, 0), &nonce);
                let new_key = wire::encode_new_key(keychain.announcement()?);
                let _ = known.frames.try_send(framed(JOIN, &[&tag.0, &new_key]));
                self.routes.insert(peer, connection);
            }
            (JOIN, None) => {
                body.try_copy_to_slice(&mut [0; TAG_BYTES]).ok()?; // whoever lies need not check
                let new_key = wire::decode_new_key(body).ok()?;
                let _ = keychain.accept(&new_key); // known already, when it dialled again
                self.routes.insert(new_key.sender, connection);
            }
            (NEW_KEY, _) => _ = keychain.accept(&wire::decode_new_key(body).ok()?),
            _ => {}
        }
        Some(())
    }

    fn hello(&self, keychain: &Keychain, dialled: bool) -> Bytes {
        let mut body = BytesMut::new();
        body.put_slice(b"QPBF");
        body.put_u8(VERSION);
        body.put_slice(&self.configuration.group.0);
        body.put_slice(&[0; 32]);
        if let (false, Some(new_key)) = (dialled, keychain.announcement()) {
            body.put_slice(&wire::encode_new_key(new_key));
        }
        framed(HELLO, &[&body])
    }

    pub(crate) fn send(&self, to: Principal, message: &Unverified<Message>) {
        self.send_frame(to, message_frame(message));
    }

    /// Sends a frame, whatever it holds; it is lost when nobody takes it.
    pub(crate) fn send_frame(&self, to: Principal, frame: Bytes) {
        let connection = self.routes.get(&to).and_then(|connection| self.connections.get(connection));
        if let Some(connection) = connection {
            let _ = connection.frames.try_send(frame);
        }
    }
}

pub(crate) fn message_frame(message: &Unverified<Message>) -> Bytes {
    framed(MESSAGE, &[&wire::encode(message)])
}

/// A frame that says that it is longer than any that is taken.
pub(crate) fn oversized_frame() -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u32_le(u32::MAX);
    frame.put_u8(MESSAGE);
    frame.freeze()
}

fn framed(kind: u8, parts: &[&[u8]]) -> Bytes {
    let length = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    let mut frame = BytesMut::with_capacity(4 + length);
    frame.put_u32_le(u32::try_from(length).expect("frames are short"));
    frame.put_u8(kind);
    parts.iter().for_each(|part| frame.put_slice(part));
    frame.freeze()
}

/// An epoch for keys that begins now.
pub(crate) fn epoch() -> Outcome<u64> {
    Ok(u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros())?)
}

/// Accepts connections, for ever.
pub(crate) async fn accept(listener: TcpListener, events: mpsc::UnboundedSender<Event>) -> Outcome<()> {
    // Odd numbers are for those that came in, even ones for those that were dialled.
    for connection in (1..).step_by(2) {
        let (stream, _) = listener.accept().await?;
        tokio::spawn(serve(connection, None, stream, events.clone()));
    }
    Ok(())
}

/// Keeps a connection to a replica, for ever.
pub(crate) async fn dial(replica: ReplicaId, address: SocketAddr, events: mpsc::UnboundedSender<Event>) {
    for round in 0.. {
        if let Ok(stream) = TcpStream::connect(address).await {
            let connection = 2 * (replica.index() + 8 * round);
            serve(connection, Some(replica), stream, events.clone()).await;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

async fn serve(
    connection: usize,
    dialled: Option<ReplicaId>,
    stream: TcpStream,
    events: mpsc::UnboundedSender<Event>,
) {
    let _ = stream.set_nodelay(true);
    let (mut incoming, mut outgoing) = stream.into_split();
    let (frames, mut waiting) = mpsc::channel::<Bytes>(QUEUE);
    if events.send(Event::Opened { connection, dialled, frames }).is_err() {
        return;
    }
    let write = async {
        let mut taken = Vec::new();
        while waiting.recv_many(&mut taken, 256).await > 0 {
            let piece = taken.drain(..).fold(BytesMut::new(), |mut piece, frame| {
                piece.extend_from_slice(&frame);
                piece
            });
            if outgoing.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    let read = async {
        let mut read = BytesMut::new();
        while incoming.read_buf(&mut read).await.is_ok_and(|count| count > 0) {
            while let Some(frame) = take(&mut read) {
                let (kind, body) = frame;
                if events.send(Event::Frame { connection, kind, body }).is_err() {
                    return;
                }
            }
        }
    };
    tokio::select! {
        () = write => {}
        () = read => {}
    }
    let _ = events.send(Event::Closed { connection });
}

/// The next whole frame of a correct peer.
fn take(read: &mut BytesMut) -> Option<(u8, Bytes)> {
    let length = u32::from_le_bytes(*read.first_chunk()?) as usize;
    if length == 0 || read.len() < 4 + length {
        return None;
    }
    read.advance(4);
    let mut body = read.split_to(length).freeze();
    Some((body.get_u8(), body))
}

/// Where nobody is reached before the book is read.
pub(crate) async fn listen() -> Outcome<TcpListener> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    Ok(listener)
}
