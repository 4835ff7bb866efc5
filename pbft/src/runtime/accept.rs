//! Connections that others dialled.

use std::{collections::BTreeSet, rc::Rc, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::spawn_local,
    time::{Instant, sleep, timeout},
};

use super::{
    connection::{self, Ended, Outgoing, Reader},
    dial::{Dialler as _, accept_key},
    frame::{self, Frame, GREETING_BYTES_MAX, Refusal},
    patience::Patience,
    serve::Shared,
};
use crate::{
    crypto::Principal,
    message::{Message, Proof, Unverified},
    service::Service,
};

/// Accepts connections, for ever.
pub(super) async fn accept<S: Service + 'static>(shared: Rc<Shared<S>>, listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                if shared.inner.borrow().incoming < shared.transport.connections_max {
                    shared.inner.borrow_mut().incoming += 1;
                    spawn_local(came_in(Rc::clone(&shared), stream));
                }
            }
            Err(error) => {
                // Out of file descriptors, mostly: some will be free again.
                tracing::warn!(%error, "accepting a connection failed");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves a connection that somebody else dialled.
async fn came_in<S: Service>(shared: Rc<Shared<S>>, stream: TcpStream) {
    let session = shared.transport.protection.accept();
    let (outgoing, incoming) = Outgoing::new(stream, session, shared.transport.queue_bytes_max);
    let nonce = {
        let inner = &mut *shared.inner.borrow_mut();
        let nonce = inner.rng.next_seed();
        let new_key = inner.replica.keychain().announcement();
        outgoing.put_bytes(&frame::hello(inner.replica.configuration(), &nonce, new_key));
        nonce
    };
    outgoing.flush();
    let joined = Notify::new();
    let mut reader = CameIn {
        shared: &shared,
        outgoing: &outgoing,
        nonce,
        greeted: false,
        principals: BTreeSet::new(),
        patience: Patience::new(Instant::now()),
        shown: None,
        joined: &joined,
    };
    let late = async {
        if timeout(shared.transport.greeting_timeout, joined.notified()).await.is_ok() {
            std::future::pending::<()>().await;
        }
    };
    let ended = tokio::select! {
        ended = connection::run(&outgoing, incoming, &mut reader) => ended,
        () = late => Ended::Refused(Refusal::Unproven),
    };
    let principals = reader.principals;
    outgoing.close();
    let inner = &mut *shared.inner.borrow_mut();
    inner.refuse(ended.refusal());
    inner.incoming -= 1;
    for principal in principals {
        inner.routes.leave(principal, &outgoing);
    }
    shared.fed.notify_one();
}

struct CameIn<'a, S> {
    shared: &'a Shared<S>,
    outgoing: &'a Rc<Outgoing>,
    nonce: [u8; 32],
    greeted: bool,
    /// Who has joined: one replica, or any number of clients.
    principals: BTreeSet<Principal>,
    patience: Patience,
    /// What followed this configuration was shown.
    shown: Option<u64>,
    joined: &'a Notify,
}

impl<S: Service> CameIn<'_, S> {
    fn on_join(&mut self, join: &frame::Join) -> Result<(), Refusal> {
        let inner = &mut *self.shared.inner.borrow_mut();
        let principal = join.new_key.sender;
        let keychain = inner.replica.keychain_mut();
        let news = accept_key(keychain, &join.new_key)?;
        keychain
            .check_tag(principal, frame::JOINING, &self.nonce, join.tag)
            .map_err(|_| Refusal::Unproven)?;
        // One replica speaks for itself only; a link may carry many clients.
        let alone = matches!(principal, Principal::Replica(_));
        if !self.principals.is_empty()
            && (alone || matches!(self.principals.first(), Some(Principal::Replica(_))))
        {
            return Err(Refusal::Unproven);
        }
        if news {
            inner.routes.forget_dialled(principal);
        }
        self.principals.insert(principal);
        inner.routes.join(principal, self.outgoing);
        self.joined.notify_one();
        Ok(())
    }

    /// Somebody knows an earlier configuration: it is shown what followed, a step at a time. Anybody may
    /// ask, so one answer waits at most for whoever does not read, and each leads on.
    fn show_the_way(&mut self, message: &Unverified<Message>) -> Result<(), Refusal> {
        let Message::Configured(theirs) = &message.body else { return Err(Refusal::Unproven) };
        let inner = self.shared.inner.borrow();
        let climbs = self.shown.is_none_or(|shown| theirs.number > shown);
        if inner.replica.configuration().operator.is_none() || !self.outgoing.is_written() || !climbs {
            return Err(Refusal::Unproven);
        }
        self.shown = Some(theirs.number);
        let shown = inner.replica.way_from(theirs.number);
        self.outgoing.put(|out| frame::put_message(out, &shown));
        self.outgoing.flush();
        Ok(())
    }
}

impl<S: Service> Reader for CameIn<'_, S> {
    fn on_frame(&mut self, frame: Frame) -> Result<(), Refusal> {
        match frame {
            Frame::Hello(hello) if !self.greeted => {
                self.shared.check_hello(&hello)?;
                self.greeted = true;
                Ok(())
            }
            Frame::Join(join) if self.greeted => self.on_join(&join),
            Frame::NewKey(new_key) if self.principals.contains(&new_key.sender) => {
                self.shared.on_new_key(new_key)
            }
            Frame::Message(message) if self.greeted && self.principals.is_empty() => {
                self.show_the_way(&message)
            }
            Frame::Message(message) => {
                // A replica may relay what others proved; a client speaks for itself.
                let from_replica = matches!(self.principals.first(), Some(Principal::Replica(_)));
                let may_relay = from_replica && message.proof != Proof::Nothing;
                let own = self.principals.contains(&message.sender);
                if !may_relay && !own {
                    return Err(Refusal::Unproven);
                }
                self.patience.hand_on(message, own, |message| self.shared.on_message(message));
                Ok(())
            }
            Frame::Hello(_) => Err(Refusal::Greeting),
            Frame::Join(_) | Frame::NewKey(_) => Err(Refusal::Unproven),
        }
    }

    fn on_read(&mut self) -> Option<Instant> {
        let later = self.patience.pause(Instant::now());
        self.shared.on_read(later.is_some());
        later
    }

    fn frame_bytes_max(&self) -> usize {
        if self.principals.is_empty() { GREETING_BYTES_MAX } else { self.shared.frame_bytes_max }
    }
}
