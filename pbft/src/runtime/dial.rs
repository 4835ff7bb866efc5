//! Keeping a connection to a replica.

use std::rc::Rc;

use bytes::Bytes;
use tokio::{
    net::TcpStream,
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};

use super::{
    AddressBook, Backoff, TransportSettings,
    connection::{self, Ended, Outgoing, Reader},
    frame::{self, Frame, GREETING_BYTES_MAX, Hello, Refusal, SUCCESSION_BYTES_MAX},
    patience::Patience,
};
use crate::{
    crypto::{KeyRefused, Keychain, NewKey, Principal},
    group::{Configuration, ReplicaId},
    message::{Message, Proof, Unverified},
};

/// Whoever keeps connections to replicas: another replica, or a link of clients.
pub(super) trait Dialler {
    fn transport(&self) -> &TransportSettings;
    fn frame_bytes_max(&self) -> usize;
    fn random(&self) -> u64;
    fn hello(&self) -> Bytes;

    /// The peer has greeted: take its key in, and join.
    fn on_hello(
        &self,
        peer: ReplicaId,
        outgoing: &Rc<Outgoing>,
        nonce: [u8; 32],
        new_key: NewKey,
    ) -> Result<(), Refusal>;

    fn on_new_key(&self, new_key: NewKey) -> Result<(), Refusal>;
    /// Takes a message, and says whether it was of use.
    fn on_message(&self, message: Unverified<Message>) -> bool;

    /// The number of the configuration here.
    fn configuration(&self) -> u64;

    /// What asks for the way to later ones; none where members can't be replaced.
    fn configured(&self) -> Option<Unverified<Message>>;

    /// All messages that one read brought were taken; whether nothing more is read for a while, because they
    /// came to nothing.
    fn on_read(&self, restrained: bool);

    fn check_hello(&self, hello: &Hello) -> Result<(), Refusal>;

    /// The connection has ended.
    fn on_end(&self, peer: ReplicaId, outgoing: &Rc<Outgoing>, refusal: Option<&Refusal>);
}

/// Keeps a connection to `peer`, for ever.
pub(super) async fn dial<D: Dialler>(
    dialler: Rc<D>,
    peer: ReplicaId,
    mut peers: watch::Receiver<AddressBook>,
) {
    let mut backoff = Backoff::new(dialler.transport());
    loop {
        let address = peers.borrow_and_update().get(peer).map(str::to_owned);
        if let Some(address) = &address
            && let Ok(Ok(stream)) =
                timeout(dialler.transport().greeting_timeout, TcpStream::connect(address)).await
            && serve(&*dialler, peer, stream).await
        {
            backoff.reset();
        }
        let wait = backoff.wait(dialler.random());
        let moved = peers.wait_for(|book| book.get(peer) != address.as_deref());
        tokio::select! {
            // Where it is now matters more than how often it wasn't there before.
            moved = moved => match moved {
                Ok(_) => backoff.reset(),
                Err(_) => sleep(wait).await, // nobody will change the book any more
            },
            () = sleep(wait), if address.is_some() => {}
        }
    }
}

/// Serves the connection until it ends; says whether the greeting went through.
async fn serve<D: Dialler>(dialler: &D, peer: ReplicaId, stream: TcpStream) -> bool {
    let session = dialler.transport().protection.dial(peer);
    let (outgoing, incoming) = Outgoing::new(stream, session, dialler.transport().queue_bytes_max);
    outgoing.put_bytes(&dialler.hello());
    outgoing.flush();
    let joined = Notify::new();
    let mut reader = Dialled {
        dialler,
        outgoing: &outgoing,
        peer,
        held: None,
        greeted: false,
        patience: Patience::new(Instant::now()),
        joined: &joined,
    };
    let late = async {
        let limit = dialler.transport().greeting_timeout;
        if timeout(limit, joined.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection::run(&outgoing, incoming, &mut reader) => ended,
        () = late => Ended::Closed,
    };
    let greeted = reader.greeted;
    outgoing.close();
    dialler.on_end(peer, &outgoing, ended.refusal());
    greeted
}

struct Dialled<'a, D> {
    dialler: &'a D,
    outgoing: &'a Rc<Outgoing>,
    peer: ReplicaId,
    held: Option<Held>,
    greeted: bool,
    patience: Patience,
    joined: &'a Notify,
}

/// A greeting with a key that is nobody's in the configuration here: perhaps in a later one.
struct Held {
    nonce: [u8; 32],
    new_key: NewKey,
    /// What followed the configuration with this number was asked for.
    asked: u64,
}

impl<D: Dialler> Dialled<'_, D> {
    /// Joins if the peer's key is known to be a member's, and asks for the way otherwise.
    fn greet(&mut self, nonce: [u8; 32], new_key: NewKey) -> Result<(), Refusal> {
        match self.dialler.on_hello(self.peer, self.outgoing, nonce, new_key.clone()) {
            Ok(()) => {
                self.greeted = true;
                self.joined.notify_one();
                Ok(())
            }
            Err(refusal) => {
                let configured = self.dialler.configured().filter(|_| matches!(refusal, Refusal::Unproven));
                let configured = configured.ok_or(refusal)?;
                self.outgoing.put(|out| frame::put_message(out, &configured));
                self.outgoing.flush();
                self.held = Some(Held { nonce, new_key, asked: self.dialler.configuration() });
                Ok(())
            }
        }
    }

    /// Nobody has joined: all that is taken is what leads on.
    fn follow(&mut self, message: Unverified<Message>) -> Result<(), Refusal> {
        let Held { nonce, new_key, asked } = self.held.take().ok_or(Refusal::Greeting)?;
        if message.sender == Principal::Replica(self.peer) && matches!(message.body, Message::Succession(_)) {
            self.dialler.on_message(message);
        }
        // Another connection may have been faster.
        if self.dialler.configuration() > asked { self.greet(nonce, new_key) } else { Err(Refusal::Unproven) }
    }
}

impl<D: Dialler> Reader for Dialled<'_, D> {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Refusal> {
        let peer = Principal::Replica(self.peer);
        match frame {
            Frame::Hello(hello) if !self.greeted && self.held.is_none() => {
                self.dialler.check_hello(&hello)?;
                // The address may be another's by now.
                let new_key = hello.new_key.filter(|new_key| new_key.sender == peer);
                self.greet(hello.nonce, new_key.ok_or(Refusal::Greeting)?)
            }
            Frame::NewKey(new_key) if self.greeted && new_key.sender == peer => {
                self.dialler.on_new_key(new_key)
            }
            Frame::Message(message) if self.greeted => {
                let own = message.sender == peer;
                if message.proof == Proof::Nothing && !own {
                    return Err(Refusal::Unproven);
                }
                self.patience.hand_on(message, own, |message| self.dialler.on_message(message));
                Ok(())
            }
            Frame::Message(message) => self.follow(message),
            _ => Err(Refusal::Greeting),
        }
    }

    fn on_read(&mut self) -> Option<Instant> {
        let later = self.patience.pause(Instant::now());
        self.dialler.on_read(later.is_some());
        later
    }

    fn frame_bytes_max(&self) -> usize {
        match self.held {
            _ if self.greeted => self.dialler.frame_bytes_max(),
            Some(_) => SUCCESSION_BYTES_MAX,
            None => GREETING_BYTES_MAX,
        }
    }
}

/// Takes a key in, and says whether it was news; one that is superseded or repeated does no harm.
pub(super) fn accept_key(keychain: &mut Keychain, new_key: &NewKey) -> Result<bool, Refusal> {
    match keychain.accept(new_key) {
        Ok(news) => Ok(news),
        Err(KeyRefused::OldEpoch { .. }) => Ok(false),
        Err(_) => Err(Refusal::Unproven),
    }
}

/// Whether the other side speaks for the same group. It may be in another configuration: the state
/// machines show each other the way.
pub(super) fn same_group(hello: &Hello, configuration: &Configuration) -> Result<(), Refusal> {
    if hello.group == configuration.group { Ok(()) } else { Err(Refusal::Greeting) }
}
