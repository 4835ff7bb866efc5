//! Listens to all who can tell that a replica lies: one task for each witness.

use crate::{
    proto::{Accusation, WatchRequest, witness_client::WitnessClient},
    set::{MemberState, SetRecord},
    wires::Wires,
    worker::MESSAGE_BYTES_MAX,
};
use std::{collections::HashMap, time::Duration};
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::transport::Channel;

/// Before a witness is asked again that did not answer, or whose stream ended.
const AGAIN: Duration = Duration::from_millis(500);

/// What a witness said.
#[derive(Clone, Debug)]
pub(super) struct Said {
    /// Of which set.
    pub(super) set: String,
    /// Its PBFT group, hexadecimal.
    pub(super) group: String,
    /// Who said it.
    pub(super) pod: String,
    pub(super) accusation: Accusation,
}

/// The witnesses that are listened to.
pub(super) struct Witnesses {
    wires: Wires,
    said: mpsc::Sender<Said>,
    /// By pod: its address, and the group that it speaks of.
    listening: HashMap<String, (String, String, JoinHandle<()>)>,
}

impl Witnesses {
    pub(super) fn new(wires: Wires, said: mpsc::Sender<Said>) -> Self {
        Self { wires, said, listening: HashMap::new() }
    }

    /// Listens to exactly the members of these sets' groups from now on: those of them that are ready.
    pub(super) fn follow<'a>(&mut self, sets: impl Iterator<Item = &'a SetRecord>) {
        let mut wanted: HashMap<&str, (&str, &str, String)> = HashMap::new();
        for set in sets.filter(|set| !set.replicas.is_empty()) {
            let Some(group) = set.group() else { continue };
            for member in set.members().filter(|member| member.state == MemberState::Ready) {
                if let Some(address) = member.address.as_deref() {
                    wanted.insert(&member.pod, (&set.name, address, group.clone()));
                }
            }
        }
        self.listening.retain(|pod, (address, group, task)| {
            let same = wanted
                .get(pod.as_str())
                .is_some_and(|(_, now, of)| (*now, of) == (address.as_str(), &*group));
            if same && !task.is_finished() {
                wanted.remove(pod.as_str());
                return true;
            }
            task.abort();
            false
        });
        for (pod, (set, address, group)) in wanted {
            let witness = (set.to_owned(), group.clone(), pod.to_owned());
            let channel = super::probe::channel(&self.wires, pod, address);
            let task = tokio::spawn(listen(channel, witness, self.said.clone()));
            self.listening.insert(pod.into(), (address.into(), group, task));
        }
    }
}

impl Drop for Witnesses {
    fn drop(&mut self) {
        for (_, _, task) in self.listening.values() {
            task.abort();
        }
    }
}

async fn listen(
    channel: Option<Channel>,
    (set, group, pod): (String, String, String),
    said: mpsc::Sender<Said>,
) {
    let Some(channel) = channel else { return };
    let mut client = WitnessClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    loop {
        if let Ok(stream) = client.watch(WatchRequest {}).await {
            let mut stream = stream.into_inner();
            // It begins with all that was said before: who hears it knows what it knows already.
            while let Ok(Some(accusation)) = stream.message().await {
                let (set, group, pod) = (set.clone(), group.clone(), pod.clone());
                if said.send(Said { set, group, pod, accusation }).await.is_err() {
                    return;
                }
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}
