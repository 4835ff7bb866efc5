//! TLS for the PBFT transport, which reads and writes its sockets itself.
//!
//! rustls' unbuffered connections decrypt where the bytes came in and encrypt to where they leave from.

use super::refusals::Refusals;
use crate::{
    pod,
    tls::{Credentials, Name, Refused, Role, check_role},
};
use bytes::{Buf, BytesMut};
use quorate_pbft::{
    ReplicaId,
    runtime::{Broken, Secure, Session},
};
use rustls::{
    CommonState, Error,
    client::UnbufferedClientConnection,
    server::UnbufferedServerConnection,
    unbuffered::{
        ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus, WriteTraffic,
    },
};
use std::{ops::Deref, sync::Arc};

/// Who comes to a replica's transport: the others, and their client.
const ROLES: &[Role] = &[Role::Replica, Role::Worker];

/// What rustls needs to say in one step of a handshake fits into this at first; it asks for more.
const ROOM: usize = 4 << 10;

/// Records carry this much at most (RFC 8446, section 5.1), each with a header, a type and a tag.
const RECORD_BYTES: usize = 16 << 10;
const RECORD_OVERHEAD: usize = 5 + 1 + 16;

/// The sessions of one pod.
#[derive(Debug)]
pub(super) struct Sessions {
    pub(super) credentials: Credentials,
    pub(super) set: String,
    pub(super) refusals: Arc<Refusals>,
}

impl Secure for Sessions {
    fn dial(&self, peer: ReplicaId) -> Box<dyn Session> {
        let peer = pod::name_of(&self.set, Some(peer.0));
        let (config, name) = self.credentials.client(&Name::of_pod(&peer));
        self.session(UnbufferedClientConnection::new(config, name), peer, None)
    }

    fn accept(&self) -> Box<dyn Session> {
        let connection = UnbufferedServerConnection::new(self.credentials.server());
        self.session(connection, "somebody who came in".into(), Some(ROLES))
    }
}

impl Sessions {
    fn session<C: Connection + 'static>(
        &self,
        connection: Result<C, Error>,
        peer: String,
        roles: Option<&'static [Role]>,
    ) -> Box<dyn Session> {
        let refusals = Arc::clone(&self.refusals);
        Box::new(Ends { connection, peer, roles, is_ready: false, incoming: BytesMut::new(), refusals })
    }
}

/// One end of a connection.
struct Ends<C> {
    /// None without randomness, and none any more once something was wrong.
    connection: Result<C, Error>,
    /// Who the other end is, for the log.
    peer: String,
    /// Whom to let in; who dials has said whom it means.
    roles: Option<&'static [Role]>,
    is_ready: bool,
    /// What came in and is not whole yet. rustls remembers places in it, so every step is given all of it.
    incoming: BytesMut,
    refusals: Arc<Refusals>,
}

/// Either kind of connection.
trait Connection: Deref<Target: Deref<Target = CommonState>> {
    type Data;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
}

impl Connection for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(wire)
    }
}

/// What one step came to.
enum Step {
    /// There may be more to do.
    Again,
    /// Nothing more without the other end.
    Done,
    /// What was to be sealed is.
    Sealed,
    /// The other end has closed.
    Closed,
}

/// Takes one step: what was in `wire` goes to `plain`, what the session says itself to `answer`, and `seal`
/// after it as soon as it may. Gives back how much of `wire` is done with.
fn step<C: Connection>(
    connection: &mut C,
    wire: &mut [u8],
    plain: &mut BytesMut,
    answer: &mut BytesMut,
    seal: Option<&[u8]>,
) -> (usize, Result<Step, Error>) {
    let UnbufferedStatus { mut discard, state, .. } = connection.process(wire);
    let step = match state {
        Ok(ConnectionState::ReadTraffic(mut traffic)) => loop {
            match traffic.next_record() {
                Some(Ok(record)) => {
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
                Some(Err(error)) => break Err(error),
                None => break Ok(Step::Again),
            }
        },
        Ok(ConnectionState::EncodeTlsData(mut data)) => append(answer, ROOM, |room| {
            data.encode(room).map_err(|error| match error {
                EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
                EncodeError::AlreadyEncoded => Err(Error::General(error.to_string())),
            })
        })
        .map(|()| Step::Again),
        Ok(ConnectionState::TransmitTlsData(data)) => {
            // What was encoded goes out with the answer.
            data.done();
            Ok(Step::Again)
        }
        Ok(ConnectionState::WriteTraffic(traffic)) => match seal {
            Some(bytes) => encrypt(traffic, bytes, answer).map(|()| Step::Sealed),
            None => Ok(Step::Done),
        },
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Done),
        Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => Ok(Step::Closed),
        Ok(_) => Err(Error::General("a state of TLS that this program does not ask for".into())),
        Err(error) => Err(error),
    };
    (discard, step)
}

/// Appends what `write` puts into the room that it is given; when it says how much more it needs, it gets that.
fn append(
    to: &mut BytesMut,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Result<usize, Error>>,
) -> Result<(), Error> {
    let before = to.len();
    loop {
        to.resize(before + room, 0);
        let written = write(&mut to[before..]);
        to.truncate(before + *written.as_ref().unwrap_or(&0));
        match written {
            Ok(_) => return Ok(()),
            Err(Ok(required)) if required > room => room = required,
            Err(Ok(_)) => return Err(Error::General("there is room enough".into())),
            Err(Err(error)) => return Err(error),
        }
    }
}

fn encrypt<Data>(
    mut traffic: WriteTraffic<'_, Data>,
    plain: &[u8],
    wire: &mut BytesMut,
) -> Result<(), Error> {
    let records = plain.len() / RECORD_BYTES + 1;
    append(wire, plain.len() + records * RECORD_OVERHEAD, |room| {
        traffic.encrypt(plain, room).map_err(|error| match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => Ok(required_size),
            EncryptError::EncryptExhausted => Err(Error::EncryptError),
        })
    })
}

impl<C: Connection> Ends<C> {
    /// Something is wrong with the other end: nothing more is taken from it, nor sent to it.
    fn refuse(&mut self, refused: Refused) -> Broken {
        self.is_ready = false;
        self.connection = Err(Error::General("it has ended".into()));
        self.refusals.note(|unsaid| {
            let (peer, error) = (&self.peer, &refused);
            tracing::warn!(port = "pbft", peer, %error, unsaid, "a connection was refused");
        });
        Broken(format!("{}: {refused}", self.peer))
    }

    /// Takes steps as long as there are some.
    fn go_on(
        &mut self,
        plain: &mut BytesMut,
        answer: &mut BytesMut,
        seal: Option<&[u8]>,
    ) -> Result<Step, Error> {
        let connection = self.connection.as_mut().map_err(|error| error.clone())?;
        let wire = &mut self.incoming;
        loop {
            let (discard, step) = step(connection, wire, plain, answer, seal);
            wire.advance(discard);
            match step {
                Ok(Step::Again) => {}
                Ok(over) => return Ok(over),
                Err(error) => {
                    // Why is still said to the other end.
                    let _ = self::step(connection, wire, plain, answer, None);
                    return Err(error);
                }
            }
        }
    }
}

impl<C: Connection> Session for Ends<C> {
    fn open(
        &mut self,
        wire: &mut BytesMut,
        plain: &mut BytesMut,
        answer: &mut BytesMut,
    ) -> Result<(), Broken> {
        if self.incoming.is_empty() {
            std::mem::swap(wire, &mut self.incoming);
        } else {
            self.incoming.extend_from_slice(wire);
            wire.clear();
        }
        let step = self.go_on(plain, answer, None).map_err(|error| self.refuse(error.into()))?;
        if self.incoming.is_empty() {
            // Its room is used again.
            std::mem::swap(wire, &mut self.incoming);
        }
        let Ok(connection) = &self.connection else { return Ok(()) };
        if !self.is_ready && !connection.is_handshaking() {
            if let Some(roles) = self.roles {
                // What came in with the last part of the handshake is not looked at unless this is right.
                check_role(connection, roles).map_err(|refused| self.refuse(refused))?;
            }
            self.is_ready = true;
        }
        match step {
            Step::Closed => Err(Broken(format!("{} has closed the connection", self.peer))),
            _ => Ok(()),
        }
    }

    fn seal(&mut self, plain: &[u8], wire: &mut BytesMut) -> Result<(), Broken> {
        // All that was whole has been taken in already.
        match self.go_on(&mut BytesMut::new(), wire, Some(plain)) {
            Ok(Step::Sealed) => Ok(()),
            Ok(_) => Err(Broken(format!("{} can't be written to", self.peer))),
            Err(error) => Err(Broken(format!("{}: {error}", self.peer))),
        }
    }

    fn is_ready(&self) -> bool {
        self.is_ready
    }
}
