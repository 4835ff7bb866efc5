//! Which connection leads to whom.

use std::rc::Rc;

use super::{connection::Outgoing, frame};
use crate::{
    crypto::Principal,
    message::{Message, Unverified},
};

/// Connections from one principal that are kept; the oldest is closed first.
const CONNECTIONS_PER_PEER: usize = 2;

/// The connections to each principal.
pub(super) struct Routes {
    /// By index: the one that was dialled here, if it stands, and those that came in.
    pub(super) replicas: Vec<Route>,
    /// By index.
    pub(super) clients: Vec<Route>,
    /// Connections with something to flush.
    pub(super) dirty: Vec<Rc<Outgoing>>,
}

#[derive(Default)]
pub(super) struct Route {
    pub(super) dialled: Option<Rc<Outgoing>>,
    /// The latest first, and none before any. No allocation of its own: with many clients it is in no
    /// cache.
    pub(super) came_in: [Option<Rc<Outgoing>>; CONNECTIONS_PER_PEER],
}

impl Route {
    pub(super) fn best(&self) -> Option<&Rc<Outgoing>> {
        self.dialled.as_ref().or(self.came_in[0].as_ref())
    }

    /// All that stand.
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Outgoing>> {
        self.dialled.iter().chain(self.came_in.iter().flatten())
    }
}

impl Routes {
    fn get_mut(&mut self, principal: Principal) -> Option<&mut Route> {
        match principal {
            Principal::Replica(id) => self.replicas.get_mut(id.index()),
            Principal::Client(id) => self.clients.get_mut(id.index()),
        }
    }

    /// A principal has joined over a connection that came in.
    pub(super) fn join(&mut self, principal: Principal, outgoing: &Rc<Outgoing>) {
        let Some(route) = self.get_mut(principal) else { return };
        if route.came_in.iter().flatten().any(|known| Rc::ptr_eq(known, outgoing)) {
            return;
        }
        route.came_in.rotate_right(1);
        if let Some(oldest) = route.came_in[0].replace(Rc::clone(outgoing)) {
            oldest.close(); // what one principal can make this replica hold is bounded
        }
    }

    /// A replica has joined with a key that nobody had heard of: it has begun another life. What
    /// was dialled to the one before may lead nowhere without a sign of it, when its machine went
    /// down without a word; TCP takes minutes to find out.
    pub(super) fn forget_dialled(&mut self, principal: Principal) {
        if let Some(dead) = self.get_mut(principal).and_then(|route| route.dialled.take()) {
            dead.close();
        }
    }

    pub(super) fn leave(&mut self, principal: Principal, outgoing: &Rc<Outgoing>) {
        let Some(route) = self.get_mut(principal) else { return };
        for slot in &mut route.came_in {
            slot.take_if(|known| Rc::ptr_eq(known, outgoing));
        }
        route.came_in.sort_by_key(Option::is_none); // which keeps the order of those that stand
        if route.dialled.as_ref().is_some_and(|known| Rc::ptr_eq(known, outgoing)) {
            route.dialled = None;
        }
    }

    pub(super) fn send(&mut self, to: Principal, message: &Unverified<Message>) {
        let Some(outgoing) = self.get_mut(to).and_then(|route| route.best().cloned()) else {
            return; // not connected: retransmission repairs it
        };
        outgoing.put(|out| frame::put_message(out, message));
        outgoing.note(&mut self.dirty);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::group::ReplicaId;

    #[tokio::test]
    async fn replica_in_another_life_is_answered_where_it_came_in() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let connect = || TcpStream::connect(listener.local_addr().unwrap());
        let (dialled, came_in) = (connect().await.unwrap(), connect().await.unwrap());
        let ((dialled, _), (came_in, _)) = (Outgoing::new(dialled, None, 1), Outgoing::new(came_in, None, 1));
        let peer = Principal::Replica(ReplicaId(0));
        let route = Route { dialled: Some(Rc::clone(&dialled)), ..Route::default() };
        let mut routes = Routes { replicas: vec![route], clients: Vec::new(), dirty: Vec::new() };
        routes.forget_dialled(peer);
        routes.join(peer, &came_in);
        assert!(dialled.is_closed(), "its task dials again");
        assert!(routes.replicas[0].best().is_some_and(|best| Rc::ptr_eq(best, &came_in)));
        assert!(!came_in.is_closed());
    }
}
