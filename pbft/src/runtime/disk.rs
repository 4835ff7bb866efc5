//! The journal's thread: one sync for all that waits.

use std::{sync::mpsc, thread};

use tokio::sync::watch;

use crate::{
    journal::{Journal, JournalFailed},
    replica::{JournalPosition, Record},
};

enum Order {
    Append(Vec<(JournalPosition, Record)>),
    Truncate(JournalPosition),
}

/// What the journal's thread has done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Progress {
    /// All up to here is durable.
    pub(super) durable: JournalPosition,
    /// Bytes on the disk.
    pub(super) bytes: u64,
}

/// A journal that a thread of its own writes.
pub(super) struct Disk {
    orders: mpsc::Sender<Order>,
    progress: watch::Receiver<Progress>,
    thread: thread::JoinHandle<Result<(), JournalFailed>>,
}

impl Disk {
    pub(super) fn start(journal: Journal) -> std::io::Result<Self> {
        let durable = JournalPosition(journal.next().0 - 1);
        let (progress_out, progress) = watch::channel(Progress { durable, bytes: journal.bytes() });
        let (orders, orders_in) = mpsc::channel();
        let thread = thread::Builder::new()
            .name("pbft-journal".into())
            .spawn(move || keep(journal, &orders_in, &progress_out))?;
        Ok(Self { orders, progress, thread })
    }

    /// Hands records over. Never waits: the state machine bounds what isn't durable by its window.
    pub(super) fn append(&self, records: Vec<(JournalPosition, Record)>) {
        // A thread that ended has failed; the driver sees that by `progress`.
        let _ = self.orders.send(Order::Append(records));
    }

    pub(super) fn truncate(&self, before: JournalPosition) {
        let _ = self.orders.send(Order::Truncate(before));
    }

    /// Changes with every sync; closes when the disk has failed.
    pub(super) fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Writes what was handed over and ends the thread.
    pub(super) fn finish(self) -> Result<(), JournalFailed> {
        drop(self.orders);
        self.thread.join().expect("the journal's thread doesn't panic")
    }
}

fn keep(
    mut journal: Journal,
    orders: &mpsc::Receiver<Order>,
    progress: &watch::Sender<Progress>,
) -> Result<(), JournalFailed> {
    while let Ok(first) = orders.recv() {
        let mut truncate = None;
        for order in std::iter::once(first).chain(orders.try_iter()) {
            match order {
                Order::Append(records) => {
                    for (position, record) in records {
                        journal.append(position, &record);
                    }
                }
                Order::Truncate(before) => truncate = Some(before),
            }
        }
        let durable = journal.commit()?;
        if let Some(before) = truncate {
            journal.truncate(before)?;
        }
        progress.send_replace(Progress { durable, bytes: journal.bytes() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        crypto::Digest,
        group::{GroupId, ReplicaId, Sequence},
        journal::{JournalSetup, Owner, SyncPolicy},
    };

    const OWNER: Owner =
        Owner { group: GroupId([1; 16]), configuration: Digest([2; 32]), replica: ReplicaId(0) };

    #[tokio::test]
    async fn whatever_was_handed_over_becomes_durable_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("journal");
        let setup = JournalSetup { path, sync: SyncPolicy::Data, create: true };
        let (journal, ..) = Journal::open(&setup, OWNER).unwrap();
        let disk = Disk::start(journal).unwrap();
        let record = |number| Record::SnapshotBegin { sequence: Sequence(number), successions: Vec::new() };
        let records: Vec<_> = (1..=500).map(|number| (JournalPosition(number), record(number))).collect();
        let mut progress = disk.progress();
        for few in records.chunks(3) {
            disk.append(few.to_vec());
        }
        let (mut last, mut syncs) = (JournalPosition(0), 0);
        while last < JournalPosition(500) {
            progress.changed().await.unwrap();
            let durable = progress.borrow_and_update().durable;
            assert!(durable > last, "progress goes on");
            (last, syncs) = (durable, syncs + 1);
        }
        assert!(syncs <= records.len().div_ceil(3), "one sync serves many records");
        disk.append(vec![(JournalPosition(501), record(501))]);
        disk.finish().unwrap();
        let (_, first, kept) = Journal::open(&setup, OWNER).unwrap();
        assert_eq!(first, JournalPosition(1));
        assert_eq!(kept, (1..=501).map(record).collect::<Vec<_>>());
    }
}
