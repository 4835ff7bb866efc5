//! What happens in a platform, in one order: what its daemons read, write, send and receive, the pods they
//! order, and what the replicas say to each other.
//!
//! Whoever does something says so before it takes effect, and whoever receives something says so after it came.
//! All of it goes to one socket of this machine, in which the kernel puts a datagram before it lets the sender
//! go on: what one event has caused is never before it, whichever processes they are of, and no clock is asked.

mod engine;
mod platform;
mod pods;

pub use engine::Traced;
pub use platform::TracedPlatform;
pub use pods::Pods;

use crate::PATIENCE;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tempfile::TempDir;
use tokio::sync::watch;

/// The largest event: that of a message of the largest batch that a test sends.
const EVENT_BYTES_MAX: usize = 128 << 10;

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// To whom: a daemon, a pod, or the client.
    pub who: String,
    /// What.
    pub what: What,
}

/// What happened to one of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// Looks up a key of the store.
    Reads {
        /// The key.
        key: String,
    },
    /// Gives a key a value.
    Writes {
        /// The key.
        key: String,
        /// The value.
        value: Value,
    },
    /// Takes a key away.
    Removes {
        /// The key.
        key: String,
    },
    /// Learns that its last write came too late: the key had changed.
    IsTooLate {
        /// The key.
        key: String,
    },
    /// Puts a message on a queue.
    Sends {
        /// The queue.
        queue: String,
        /// The message.
        body: Value,
    },
    /// Has taken a message from a queue.
    Received {
        /// The queue.
        queue: String,
        /// The message.
        body: Value,
    },
    /// Deletes a message: what it caused is done.
    Deletes {
        /// The queue.
        queue: String,
    },
    /// Has looked how many messages wait.
    Sampled {
        /// The queue.
        queue: String,
        /// How many.
        waiting: u64,
    },
    /// Writes the record of a request and puts it on inbound.
    Accepts {
        /// The request.
        id: String,
    },
    /// Finishes a record, announces it and deletes its message.
    Concludes {
        /// The request.
        id: String,
        /// Its result, or the kind of its failure.
        result: Result<String, String>,
        /// The sets that executed its operations, in the order in which they were done.
        sets: Vec<String>,
    },
    /// Has a pod made.
    Orders {
        /// The pod.
        pod: String,
        /// Which of its lives.
        incarnation: u64,
        /// Where its keys and its files are.
        keeps: [Option<PathBuf>; 2],
    },
    /// Has said something of itself as a pod: `started`, `listening`, `ready`, `ended`.
    Became {
        /// Which of its lives.
        incarnation: u64,
        /// What.
        word: String,
    },
    /// Says something to another member of its group.
    Says {
        /// To whom.
        to: String,
        /// The kind of message.
        kind: String,
        /// In which view.
        view: u64,
        /// About which batch, when it is about one.
        sequence: u64,
        /// The operations of the batch, where they are said.
        operations: Vec<String>,
    },
    /// Executes an operation.
    Executes {
        /// As in an expression.
        operation: String,
    },
    /// What the test itself does.
    Does(String),
    /// Nothing: what was told before this is known when this is.
    Marks(u64),
}

/// Tells what happens to one of them.
#[derive(Debug)]
pub struct Tracer {
    who: String,
    socket: UnixDatagram,
    path: PathBuf,
}

impl Tracer {
    /// For whoever has that name.
    ///
    /// # Panics
    /// When there can be no more sockets.
    #[must_use]
    pub fn new(who: &str, path: &Path) -> Self {
        let socket = UnixDatagram::unbound().expect("there can be one more socket");
        Self { who: who.into(), socket, path: path.into() }
    }

    /// Returns when it is told.
    pub fn tell(&self, what: What) {
        self.tell_of(&self.who, what);
    }

    /// Tells what happens to another.
    ///
    /// # Panics
    /// When it is larger than any event may be.
    pub fn tell_of(&self, who: &str, what: What) {
        let event = Event { who: who.into(), what };
        let text = serde_json::to_vec(&event).expect("is plain data");
        assert!(text.len() <= EVENT_BYTES_MAX, "an event of {} bytes", text.len());
        // When the test has ended, nobody is told.
        let _ = self.socket.send_to(&text, &self.path);
    }
}

/// All that has happened so far.
#[derive(Debug)]
pub struct Trace {
    heard: Arc<watch::Sender<Heard>>,
    path: PathBuf,
    tracer: Tracer,
    marks: AtomicU64,
    _folder: TempDir,
}

#[derive(Debug, Default)]
struct Heard {
    events: Vec<Event>,
    /// The last mark.
    marked: u64,
}

impl Trace {
    /// One in which nothing has happened yet.
    ///
    /// # Panics
    /// When there is no place for its socket.
    #[must_use]
    pub fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder in /tmp");
        let path = folder.path().join("trace");
        let socket = UnixDatagram::bind(&path).expect("the folder is ours");
        let heard = Arc::new(watch::Sender::new(Heard::default()));
        let to = Arc::downgrade(&heard);
        std::thread::spawn(move || {
            let mut buffer = vec![0; EVENT_BYTES_MAX];
            while let Ok(length) = socket.recv(&mut buffer) {
                let event: Event = serde_json::from_slice(&buffer[..length]).expect("of a tracer");
                let Some(to) = to.upgrade() else { return };
                to.send_modify(|heard| match event.what {
                    What::Marks(nth) => heard.marked = nth,
                    _ => heard.events.push(event),
                });
            }
        });
        let tracer = Tracer::new("client", &path);
        Self { heard, path, tracer, marks: AtomicU64::new(0), _folder: folder }
    }

    /// Where tracers tell.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the test does.
    pub fn does(&self, what: &str) {
        self.tracer.tell(What::Does(what.into()));
    }

    /// Waits until all is known that was told by now.
    async fn settle(&self) {
        let nth = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        self.tracer.tell(What::Marks(nth));
        let mut heard = self.heard.subscribe();
        heard.wait_for(|heard| heard.marked >= nth).await.expect("this trace is still here");
    }

    /// How many events there are: what happens from now on begins here.
    pub async fn mark(&self) -> usize {
        self.settle().await;
        self.heard.borrow().events.len()
    }

    /// What has happened since.
    pub async fn since(&self, mark: usize) -> Vec<Event> {
        self.settle().await;
        self.heard.borrow().events[mark..].to_vec()
    }

    /// Waits until something has happened since.
    ///
    /// # Panics
    /// When it has not within [`PATIENCE`].
    pub async fn until(&self, mark: usize, what: &str, is: impl Fn(&Event) -> bool) -> Event {
        let mut heard = self.heard.subscribe();
        let happened = heard.wait_for(|heard| heard.events[mark..].iter().any(&is));
        let Ok(happened) = tokio::time::timeout(PATIENCE, happened).await else {
            panic!(
                "waited {PATIENCE:?} in vain: {what}; what happened:\n{}",
                listed(&self.since(mark).await)
            );
        };
        let happened = happened.expect("this trace is still here");
        happened.events[mark..].iter().find(|event| is(event)).expect("was just found").clone()
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Wakes whoever reads, so that it ends.
        self.does("end");
    }
}

/// One step of a flow: its name, and which event it is.
pub type Step<'a> = (&'a str, &'a dyn Fn(&Event) -> bool);

/// Each step happened, and for the first time after the step before it had.
///
/// # Panics
/// When one did not.
pub fn assert_in_order(events: &[Event], steps: &[Step<'_>]) {
    let mut before: Option<(usize, &str)> = None;
    for (name, is) in steps {
        let Some(at) = events.iter().position(is) else {
            panic!("`{name}` has not happened; what has:\n{}", listed(events));
        };
        if let Some((earlier, step)) = before {
            assert!(earlier < at, "`{name}` came before `{step}`:\n{}", listed(&events[..=earlier]));
        }
        before = Some((at, name));
    }
}

/// Those to whom something happened before something else did.
///
/// # Panics
/// When that has not happened.
#[must_use]
pub fn before(
    events: &[Event],
    what: impl Fn(&Event) -> bool,
    end: impl Fn(&Event) -> bool,
) -> BTreeSet<&str> {
    let Some(end) = events.iter().position(end) else {
        panic!("the end has not come:\n{}", listed(events));
    };
    events[..end].iter().filter(|event| what(event)).map(|event| event.who.as_str()).collect()
}

fn listed(events: &[Event]) -> String {
    let lines: Vec<_> =
        events.iter().map(|event| format!("{:>16} {}", event.who, shown(&event.what))).collect();
    lines.join("\n")
}

fn shown(what: &What) -> String {
    let mut text = serde_json::to_string(what).expect("is plain data");
    if let Some((cut, _)) = text.char_indices().nth(300) {
        text.truncate(cut);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn does(what: &'static str) -> impl Fn(&Event) -> bool {
        move |event| event.what == What::Does(what.into())
    }

    fn events(all: &[&str]) -> Vec<Event> {
        all.iter().map(|what| Event { who: "client".into(), what: What::Does((*what).into()) }).collect()
    }

    fn are_in_order(events: &[Event], steps: &[&'static str]) -> bool {
        let steps: Vec<_> = steps.iter().map(|step| (*step, does(step))).collect();
        let steps: Vec<Step<'_>> =
            steps.iter().map(|(name, is)| (*name, is as &dyn Fn(&Event) -> bool)).collect();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| assert_in_order(events, &steps))).is_ok()
    }

    #[test]
    fn steps_that_are_swapped_repeated_too_early_or_missing_are_found() {
        let happened = events(&["a", "x", "b", "c", "b"]);
        assert!(are_in_order(&happened, &["a", "b", "c"]));
        assert!(!are_in_order(&happened, &["b", "a", "c"]));
        assert!(!are_in_order(&happened, &["a", "c", "b"]), "the first b came before c");
        assert!(!are_in_order(&happened, &["a", "b", "d"]));
        assert_eq!(before(&happened, does("b"), does("c")).len(), 1);
        assert!(before(&happened, does("c"), does("b")).is_empty());
    }

    #[tokio::test]
    async fn what_one_event_caused_is_after_it_whoever_tells() {
        let trace = Trace::start();
        let (first, second) = (Tracer::new("first", trace.path()), Tracer::new("second", trace.path()));
        for round in 0..100 {
            let (say, said) = std::sync::mpsc::channel();
            std::thread::scope(|threads| {
                threads.spawn(|| {
                    first.tell(What::Does(format!("cause {round}")));
                    say.send(()).expect("is heard");
                });
                said.recv().expect("is said");
                second.tell(What::Does(format!("effect {round}")));
            });
        }
        let events = trace.since(0).await;
        assert_eq!(events.len(), 200);
        for (round, pair) in events.chunks(2).enumerate() {
            assert_eq!(pair[0].what, What::Does(format!("cause {round}")));
            assert_eq!(pair[1].what, What::Does(format!("effect {round}")));
        }
    }
}
