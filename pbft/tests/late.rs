//! Answers to what has its outcome already: who is slower than 2f+1 others is measured by them all the same.
#![cfg(feature = "sim")]

use bytes::Bytes;
use quorate_pbft::{
    Client, ClientAction, ClientId, ClientSettings, Configuration, Incarnation, Instant, Options, ReplicaId,
    Sequence, Timestamp, View,
    crypto::{Keychain, Principal},
    message::{Answer, Content, Ending, Message, Reply},
    sim::Setup,
};

const ME: ClientId = ClientId(0);

/// A client, and what its actions said of replicas.
struct Stage {
    client: Client,
    configuration: Configuration,
}

impl Stage {
    fn new() -> Self {
        let configuration = Setup::new(1, 1).configuration;
        let me = Principal::Client(ME);
        let keys = Keychain::fast(configuration.scope(), configuration.public_keys(), me);
        let client = Client::new(configuration.clone(), ME, Incarnation(1), keys, ClientSettings::default());
        Self { client, configuration }
    }

    fn submit(&mut self) {
        let submitted = self.client.submit(Instant(0), Bytes::from("12345678"), Options::default());
        submitted.expect("its window has room");
        self.said();
    }

    /// A replica answers the operation with this timestamp.
    fn answer(&mut self, from: u32, timestamp: u64, sequence: u64, result: &'static str) {
        let answer = Answer {
            timestamp: Timestamp(timestamp),
            sequence: Sequence(sequence),
            position: timestamp - 1,
            ending: Ending::Done,
            content: Content::Full(result.into()),
        };
        let reply = Reply { view: View(0), client: ME, incarnation: Incarnation(1), answers: vec![answer] };
        let from = Principal::Replica(ReplicaId(from));
        let keys = Keychain::fast(self.configuration.scope(), self.configuration.public_keys(), from);
        let message = Message::Reply(reply).proven_by(&keys, Principal::Client(ME));
        self.client.handle_message(Instant(1), message);
    }

    /// Who was said to disagree, and about which batch.
    fn said(&mut self) -> Vec<(u32, u64)> {
        let actions = std::iter::from_fn(|| self.client.poll_action(Instant(1)));
        let of_interest = actions.filter_map(|action| match action {
            ClientAction::Disagreed { replica, sequence } => Some((replica.0, sequence.0)),
            _ => None,
        });
        of_interest.collect()
    }
}

#[test]
fn who_answers_something_else_after_the_outcome_is_named() {
    let mut stage = Stage::new();
    stage.submit();
    for replica in 0..3 {
        stage.answer(replica, 1, 7, "right");
    }
    assert_eq!(stage.said(), []);
    for (result, sequence, named) in
        [("right", 7, vec![]), ("wrong", 7, vec![(3, 7)]), ("right", 8, vec![(3, 7)])]
    {
        stage.answer(3, 1, sequence, result);
        assert_eq!(stage.said(), named, "{result} in batch {sequence}");
    }
}

#[test]
fn what_is_not_known_any_more_or_was_not_ordered_names_nobody() {
    let mut stage = Stage::new();
    // The first outcome makes room for the one that is 64 later.
    for timestamp in 1..=65 {
        stage.submit();
        for replica in 0..3 {
            stage.answer(replica, timestamp, timestamp, "right");
        }
    }
    stage.answer(3, 1, 1, "wrong");
    stage.answer(3, 66, 66, "wrong");
    stage.answer(3, 65, 0, "wrong");
    assert_eq!(stage.said(), []);
    stage.answer(3, 65, 65, "wrong");
    assert_eq!(stage.said(), [(3, 65)]);
}
