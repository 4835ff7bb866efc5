//! What a faulty replica may say.

use bytes::Bytes;
use quorate_pbft::{
    Client, ClientAction, ClientId, ClientSettings, Configuration, Incarnation, Instant, Options, ReplicaId,
    Sequence, View,
    crypto::{Digest, Domain, Keychain, Kind, Principal},
    message::{
        Batch, Claim, Commit, Message, NewView, PrePrepare, Prepare, Proof, Reply, Unverified, ViewChange,
        wire,
    },
};

/// The one place that batches are proposed for.
pub(crate) const PLACE: Sequence = Sequence(1);
/// What the clients want done, each one thing.
pub(crate) const OPERATIONS: [&str; 3] = ["a", "b", "c"];

fn keys(configuration: &Configuration, me: Principal) -> Keychain {
    Keychain::fast(configuration.scope(), configuration.public_keys(), me)
}

/// A client that has asked for its operation, and the request.
pub(crate) fn client(configuration: &Configuration, id: ClientId) -> (Client, Unverified<Message>) {
    let keys = keys(configuration, Principal::Client(id));
    let settings = ClientSettings::default();
    let mut client = Client::new(configuration.clone(), id, Incarnation(1), keys, settings);
    let operation = Bytes::from_static(OPERATIONS[id.index()].as_bytes());
    client.submit(Instant(0), operation, Options::default()).expect("its window is empty");
    match client.poll_action(Instant(0)) {
        Some(ClientAction::Send { message, .. } | ClientAction::Broadcast { message }) => (client, message),
        other => panic!("it sends its request, not {other:?}"),
    }
}

/// The batch of a client's operation alone.
pub(crate) fn batch(configuration: &Configuration, id: ClientId) -> Batch {
    let Unverified { sender, body, bytes, proof } = client(configuration, id).1;
    let Message::Request(body) = body else { panic!("a request") };
    wire::batch(1, false, [Unverified { sender, body, bytes, proof }].into())
}

/// The batch of a place in which nothing was ordered.
pub(crate) fn null() -> Batch {
    wire::batch(0, false, [].into())
}

/// A liar and its keys.
pub(crate) struct Liar<'a> {
    pub(crate) configuration: &'a Configuration,
    pub(crate) me: ReplicaId,
}

impl Liar<'_> {
    fn says(&self, body: Message, to: ReplicaId) -> Unverified<Message> {
        body.proven_by(&keys(self.configuration, Principal::Replica(self.me)), Principal::Replica(to))
    }

    /// As primary of a view: this batch belongs into the place.
    pub(crate) fn proposes(&self, view: View, batch: &Batch, to: ReplicaId) -> Unverified<Message> {
        self.says(Message::PrePrepare(PrePrepare { view, sequence: PLACE, batch: batch.clone() }), to)
    }

    pub(crate) fn prepares(&self, view: View, digest: Digest, to: ReplicaId) -> Unverified<Message> {
        self.says(Message::Prepare(Prepare { view, sequence: PLACE, digest }), to)
    }

    pub(crate) fn commits(&self, view: View, digest: Digest, to: ReplicaId) -> Unverified<Message> {
        self.says(Message::Commit(Commit { view, sequence: PLACE, digest }), to)
    }

    /// To a client, as if it were its own: what somebody else answered.
    pub(crate) fn answers(&self, reply: Reply) -> Unverified<Message> {
        let keys = keys(self.configuration, Principal::Replica(self.me));
        let to = Principal::Client(reply.client);
        Message::Reply(reply).proven_by(&keys, to)
    }

    /// It leaves for `view`, having prepared this batch or none, and having heard of all of them.
    pub(crate) fn leaves(
        &self,
        view: View,
        prepared: Option<(View, Digest)>,
        heard: &[Digest],
    ) -> Unverified<Message> {
        let claim = |view, digest| Claim { sequence: PLACE, view, digest };
        let before = View(view.0 - 1);
        let body = ViewChange {
            view,
            stable: None,
            prepared: prepared.map(|(view, digest)| claim(view, digest)).into_iter().collect(),
            pre_prepared: heard.iter().map(|digest| claim(before, *digest)).collect(),
            marks: Vec::new(),
        };
        let bytes = wire::encode_view_change(&body);
        self.signs(Kind::ViewChange, view, bytes, Message::ViewChange(body))
    }

    /// It begins a view with these view-changes.
    pub(crate) fn begins(
        &self,
        view: View,
        view_changes: Vec<Unverified<ViewChange>>,
    ) -> Unverified<Message> {
        let body = NewView { view, view_changes };
        let bytes = wire::encode_new_view(&body);
        self.signs(Kind::NewView, view, bytes, Message::NewView(body))
    }

    fn signs(&self, kind: Kind, view: View, bytes: Bytes, body: Message) -> Unverified<Message> {
        let sender = Principal::Replica(self.me);
        let signature = keys(self.configuration, sender).sign(Domain::new(kind, view.0), &bytes);
        Unverified { sender, body, bytes, proof: Proof::Signature(signature) }
    }
}
