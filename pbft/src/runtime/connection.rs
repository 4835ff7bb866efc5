//! One connection: bytes that wait to be written, and the loop that reads.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    io,
    rc::Rc,
};

use bytes::{Buf as _, BytesMut};
use tokio::{
    io::AsyncReadExt as _,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    frame::{self, Frame, GREETING_BYTES_MAX, Refusal},
    secure::{Broken, Session},
};

/// Frames are gathered into pieces of about this many bytes, each written by one system call.
const PIECE_BYTES: usize = 64 << 10;
/// How much is asked for by one read. Below what makes glibc tidy up its heap when it is freed.
const READ_BYTES: usize = 48 << 10;

/// The writing half. Whoever has something to say appends it; [`Outgoing::flush`] writes what the
/// socket takes at once, and the connection's own task the rest.
pub(super) struct Outgoing {
    stream: OwnedWriteHalf,
    /// What protects the connection, both ways.
    session: Option<RefCell<Box<dyn Session>>>,
    state: RefCell<Pending>,
    /// Whether its owner noted that it wants flushing.
    noted: Cell<bool>,
    /// Wakes the connection's task: something is left to write, or it shall end.
    wake: Notify,
    /// More than this many bytes never wait: the oldest whole piece is dropped.
    bytes_max: usize,
}

#[derive(Default)]
struct Pending {
    /// Whole frames each, but for the first one, of which a part may be written.
    pieces: VecDeque<BytesMut>,
    bytes: usize,
    /// What the session has made of pieces, or says for itself: it goes before them.
    sealed: BytesMut,
    /// An empty piece, so that a busy connection allocates none.
    spare: BytesMut,
    /// Whether the first piece was begun: dropping it would tear a frame.
    begun: bool,
    dropped: u64,
    closed: bool,
}

impl Outgoing {
    /// The writing half of a connection, and what its reading half is for [`run`].
    pub(super) fn new(
        stream: TcpStream,
        session: Option<Box<dyn Session>>,
        bytes_max: usize,
    ) -> (Rc<Self>, OwnedReadHalf) {
        let _ = stream.set_nodelay(true); // a hint: what is flushed is gathered already
        let (incoming, stream) = stream.into_split();
        let (state, noted, wake) = Default::default();
        let session = session.map(RefCell::new);
        (Rc::new(Self { stream, session, state, noted, wake, bytes_max }), incoming)
    }

    /// Notes this connection in `dirty`, once until it is flushed.
    pub(super) fn note(self: &Rc<Self>, dirty: &mut Vec<Rc<Self>>) {
        if !self.noted.replace(true) {
            dirty.push(Rc::clone(self));
        }
    }

    /// Appends a whole frame.
    pub(super) fn put_bytes(&self, frame: &[u8]) {
        self.put(|out| out.extend_from_slice(frame));
    }

    /// Appends the frames that `put` writes.
    pub(super) fn put(&self, put: impl FnOnce(&mut BytesMut)) {
        let mut state = self.state.borrow_mut();
        if state.closed {
            return;
        }
        if state.pieces.back().is_none_or(|piece| piece.len() >= PIECE_BYTES) {
            let mut piece = std::mem::take(&mut state.spare);
            piece.reserve(PIECE_BYTES / 4);
            state.pieces.push_back(piece);
        }
        let piece = state.pieces.back_mut().expect("pushed above");
        let before = piece.len();
        put(piece);
        state.bytes += state.pieces.back().expect("pushed above").len() - before;
        let kept = usize::from(state.begun);
        while state.bytes > self.bytes_max && state.pieces.len() > 1 + kept {
            let oldest = state.pieces.remove(kept).expect("there are more");
            state.bytes -= oldest.len();
            state.dropped += 1;
        }
    }

    /// Writes what the socket takes without waiting.
    pub(super) fn flush(&self) {
        self.noted.set(false);
        if !self.try_flush() {
            self.wake.notify_one();
        }
    }

    /// Whether nothing is left.
    fn try_flush(&self) -> bool {
        let state = &mut *self.state.borrow_mut();
        let written = match &self.session {
            None => state.write_pieces(&self.stream),
            Some(session) => state.write_sealed(&self.stream, &mut **session.borrow_mut()),
        };
        written.unwrap_or_else(|_| {
            state.close();
            false
        })
    }

    /// Takes in what came from the other end, when the connection is protected, and appends what was in it
    /// to `plain`. What is to be answered leaves.
    fn open(&self, wire: &mut BytesMut, plain: &mut BytesMut) -> Result<(), Broken> {
        let Some(session) = &self.session else { return Ok(()) };
        let opened = session.borrow_mut().open(wire, plain, &mut self.state.borrow_mut().sealed);
        // A handshake that ends lets go what has waited for it.
        self.flush();
        opened
    }

    /// Ends the connection, and lets go of what waits.
    pub(super) fn close(&self) {
        self.state.borrow_mut().close();
        self.wake.notify_one();
    }

    /// Whether the socket took all that was written.
    pub(super) fn is_written(&self) -> bool {
        let state = self.state.borrow();
        state.bytes == 0 && state.sealed.is_empty()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state.borrow().closed
    }

    /// Pieces that were dropped since this was last asked.
    pub(super) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.state.borrow_mut().dropped)
    }

    /// Writes whenever something is left over, until the connection is closed.
    async fn keep_writing(&self) {
        loop {
            self.wake.notified().await;
            while !self.try_flush() {
                if self.is_closed() {
                    return;
                }
                tokio::select! {
                    ready = self.stream.writable() => if ready.is_err() {
                        return;
                    },
                    // A peer that does not read must not keep what was closed.
                    () = self.wake.notified() => {}
                }
            }
            if self.is_closed() {
                return;
            }
        }
    }
}

impl Pending {
    /// Whether the socket took all of it.
    fn write_pieces(&mut self, stream: &OwnedWriteHalf) -> io::Result<bool> {
        while let Some(piece) = self.pieces.front_mut() {
            let Some(count) = try_write(stream, piece)? else { return Ok(false) };
            piece.advance(count);
            self.bytes -= count;
            self.begun = !piece.is_empty();
            if !self.begun {
                self.take_piece();
            }
        }
        Ok(true)
    }

    /// Whether the socket took all that can be sealed by now.
    fn write_sealed(&mut self, stream: &OwnedWriteHalf, session: &mut dyn Session) -> io::Result<bool> {
        loop {
            while !self.sealed.is_empty() {
                let Some(count) = try_write(stream, &self.sealed)? else { return Ok(false) };
                self.sealed.advance(count);
            }
            let Some(piece) = self.pieces.front().filter(|_| session.is_ready()) else { return Ok(true) };
            session.seal(piece, &mut self.sealed).map_err(io::Error::other)?;
            self.bytes -= piece.len();
            self.take_piece();
        }
    }

    /// The first piece is done with.
    fn take_piece(&mut self) {
        if let Some(mut piece) = self.pieces.pop_front() {
            piece.clear();
            // A long frame's room is not kept.
            self.spare = if piece.capacity() <= PIECE_BYTES { piece } else { BytesMut::new() };
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.pieces.clear();
        self.sealed.clear();
        self.bytes = 0;
    }
}

/// How much the socket took; `None` when it has no room.
fn try_write(stream: &OwnedWriteHalf, bytes: &[u8]) -> io::Result<Option<usize>> {
    match stream.try_write(bytes) {
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The other side closed it, or the network did.
    Closed,
    /// The other side broke the rules.
    Refused(Refusal),
}

impl Ended {
    pub(super) fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Closed => None,
            Self::Refused(refusal) => Some(refusal),
        }
    }
}

/// What a connection's owner makes of the frames.
pub(super) trait Reader {
    /// Takes a frame.
    fn on_frame(&mut self, frame: Frame) -> Result<(), Refusal>;

    /// All frames that one read brought were taken. Nothing more is read until the time that it gives.
    fn on_read(&mut self) -> Option<Instant>;

    /// The longest frame that is taken now.
    fn frame_bytes_max(&self) -> usize {
        GREETING_BYTES_MAX
    }
}

/// Reads frames and writes what is left over, until the connection ends.
pub(super) async fn run(outgoing: &Outgoing, incoming: OwnedReadHalf, reader: &mut impl Reader) -> Ended {
    tokio::select! {
        () = outgoing.keep_writing() => Ended::Closed,
        ended = keep_reading(outgoing, incoming, reader) => ended,
    }
}

async fn keep_reading(outgoing: &Outgoing, mut incoming: OwnedReadHalf, reader: &mut impl Reader) -> Ended {
    let (mut read, mut wire) = (BytesMut::new(), BytesMut::new());
    if let Err(broken) = outgoing.open(&mut wire, &mut read) {
        return Ended::Refused(broken.into());
    }
    loop {
        let into = if outgoing.session.is_some() { &mut wire } else { &mut read };
        // A quarter of a buffer left is not worth another system call for.
        if into.capacity() - into.len() < READ_BYTES / 4 {
            into.reserve(READ_BYTES);
        }
        match incoming.read_buf(into).await {
            Ok(0) | Err(_) => return Ended::Closed,
            Ok(_) => {}
        }
        if let Err(broken) = outgoing.open(&mut wire, &mut read) {
            return Ended::Refused(broken.into());
        }
        loop {
            match frame::take(&mut read, reader.frame_bytes_max()) {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(refusal) = reader.on_frame(frame) {
                        return Ended::Refused(refusal);
                    }
                }
                Err(refusal) => return Ended::Refused(refusal),
            }
        }
        if let Some(later) = reader.on_read() {
            sleep_until(later).await;
        }
        // Other tasks of this thread, above all the state machine's, get their turn.
        tokio::task::yield_now().await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
    };

    use super::*;
    use crate::{
        crypto::PublicKey,
        group::{Configuration, GroupId},
    };

    const FRAME_BYTES: usize = 1000;

    /// Reads to the end; whole frames have their number in every byte.
    async fn read_frames(stream: &mut TcpStream) -> Vec<u8> {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all.len() % FRAME_BYTES, 0, "a frame was torn");
        all.chunks(FRAME_BYTES)
            .map(|frame| {
                assert!(frame.iter().all(|byte| *byte == frame[0]), "two frames were mixed");
                frame[0]
            })
            .collect()
    }

    struct Ignores;

    impl Reader for Ignores {
        fn on_frame(&mut self, _: Frame) -> Result<(), Refusal> {
            Ok(())
        }

        fn on_read(&mut self) -> Option<Instant> {
            None
        }
    }

    #[tokio::test]
    async fn closed_connection_to_a_deaf_peer_ends_and_keeps_nothing() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_deaf, _) = listener.accept().await.unwrap();
        let (outgoing, incoming) = Outgoing::new(stream, None, 10 * PIECE_BYTES);
        while outgoing.take_dropped() == 0 {
            outgoing.put_bytes(&[1; FRAME_BYTES]);
            outgoing.flush();
        }
        let closing = async {
            tokio::task::yield_now().await; // the connection waits for its peer by now
            outgoing.close();
            std::future::pending::<()>().await;
        };
        let mut reader = Ignores;
        let ended = async {
            tokio::select! {
                ended = run(&outgoing, incoming, &mut reader) => ended,
                () = closing => unreachable!("it never ends"),
            }
        };
        let limit = std::time::Duration::from_secs(10);
        assert!(matches!(tokio::time::timeout(limit, ended).await, Ok(Ended::Closed)));
        assert_eq!(outgoing.state.borrow().bytes, 0);
        assert!(outgoing.state.borrow().pieces.is_empty());
    }

    /// Pauses after each read, and has had enough after a few.
    struct Impatient {
        later: Instant,
        reads: u32,
    }

    impl Reader for Impatient {
        fn on_frame(&mut self, _: Frame) -> Result<(), Refusal> {
            assert!(Instant::now() >= self.later, "read in spite of the pause");
            if self.reads < 5 { Ok(()) } else { Err(Refusal::Greeting) }
        }

        fn on_read(&mut self) -> Option<Instant> {
            self.reads += 1;
            self.later = Instant::now() + std::time::Duration::from_millis(20);
            Some(self.later)
        }
    }

    #[tokio::test]
    async fn nothing_is_read_during_a_pause() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut flood = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (outgoing, incoming) = Outgoing::new(stream, None, 10 * PIECE_BYTES);
        let mut reader = Impatient { later: Instant::now(), reads: 0 };
        let replicas = (0..4).map(PublicKey::fixture).collect();
        let configuration = Configuration::genesis(GroupId([1; 16]), replicas, vec![]);
        let hello = frame::hello(&configuration, &[0; 32], None);
        let flooding = async { while flood.write_all(&hello).await.is_ok() {} };
        let ended = async {
            tokio::select! {
                ended = run(&outgoing, incoming, &mut reader) => ended,
                () = flooding => unreachable!("the connection outlives its reader"),
            }
        };
        let limit = std::time::Duration::from_secs(10);
        let ended = tokio::time::timeout(limit, ended).await;
        assert!(matches!(ended, Ok(Ended::Refused(Refusal::Greeting))), "{ended:?}");
        assert_eq!(reader.reads, 5);
    }

    #[tokio::test]
    async fn what_a_deaf_peer_does_not_take_is_bounded_and_frames_stay_whole() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut deaf, _) = listener.accept().await.unwrap();
        let limit = 10 * PIECE_BYTES;
        let (outgoing, incoming) = Outgoing::new(stream, None, limit);
        let mut dropped = 0;
        // More than sockets hold: until pieces are dropped again and again.
        let mut number = 0u8;
        while dropped < 100 {
            outgoing.put_bytes(&[number; FRAME_BYTES]);
            number = number.wrapping_add(1);
            outgoing.flush();
            dropped += outgoing.take_dropped();
            let bytes = outgoing.state.borrow().bytes;
            assert!(bytes <= limit + PIECE_BYTES + FRAME_BYTES, "{bytes} bytes wait");
        }
        // It listens after all: what is left comes whole, the last frame last.
        let reading = tokio::spawn(async move { read_frames(&mut deaf).await });
        while !outgoing.try_flush() {
            outgoing.stream.writable().await.unwrap();
        }
        drop((outgoing, incoming));
        assert_eq!(reading.await.unwrap().last(), Some(&number.wrapping_sub(1)));
    }
}
