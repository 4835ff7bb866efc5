use super::*;
use serde_json::{Value, json};

const POD_START: Duration = Duration::from_secs(120);

struct Stage {
    lives: Lives,
    now: Instant,
    events: mpsc::UnboundedReceiver<PodEvent>,
    removed: mpsc::UnboundedReceiver<String>,
    _hearing: mpsc::Receiver<(String, Heard)>,
}

impl Stage {
    fn new() -> Self {
        let (tell, events) = mpsc::unbounded_channel();
        let (remove, removed) = mpsc::unbounded_channel();
        let (heard, hearing) = mpsc::channel(16);
        let lives = Lives::new(POD_START, Wires::plain(), tell, remove, heard);
        Self { lives, now: Instant::now(), events, removed, _hearing: hearing }
    }

    fn show(&mut self, object: &Value) -> String {
        self.lives.show(&serde_json::from_value(object.clone()).unwrap(), self.now);
        self.outcome()
    }

    fn gone(&mut self, object: &str) -> String {
        self.lives.gone(object);
        self.outcome()
    }

    fn hear(&mut self, object: &str, heard: Heard) -> String {
        self.lives.hear(object, heard, self.now);
        self.outcome()
    }

    fn after(&mut self, time: Duration) -> String {
        self.now += time;
        self.lives.tick(self.now);
        self.outcome()
    }

    /// What came out, in order: events, then objects that are removed.
    fn outcome(&mut self) -> String {
        let mut all = Vec::new();
        while let Ok(event) = self.events.try_recv() {
            all.push(match event {
                PodEvent::Started { incarnation, .. } => format!("{incarnation} runs"),
                PodEvent::Said { incarnation, said, .. } => format!("{incarnation} says {said:?}"),
                PodEvent::Ended { incarnation, status, .. } => format!("{incarnation} ended: {status}"),
            });
        }
        while let Ok(object) = self.removed.try_recv() {
            all.push(format!("-{object}"));
        }
        all.join("; ")
    }
}

fn object(name: &str, incarnation: u64, status: Value) -> Value {
    json!({
        "metadata": { "name": name, "labels": {
            "quorate.io/pod": "add-0-worker", "quorate.io/incarnation": incarnation.to_string() } },
        "status": status,
    })
}

fn state(state: Value) -> Value {
    json!({ "phase": "Running", "podIP": "127.0.0.1", "containerStatuses": [{
        "name": "quorate", "image": "quorate:1", "imageID": "", "ready": false, "restartCount": 0, "state": state }] })
}

fn running(name: &str, incarnation: u64) -> Value {
    object(name, incarnation, state(json!({ "running": {} })))
}

fn deleting(mut object: Value) -> Value {
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    object["metadata"]["deletionGracePeriodSeconds"] = json!(5);
    object
}

#[tokio::test]
async fn a_pod_runs_says_something_and_ends() {
    let mut stage = Stage::new();
    assert_eq!(stage.show(&object("a", 1, json!({ "phase": "Pending" }))), "");
    assert_eq!(stage.show(&running("a", 1)), "1 runs");
    assert_eq!(stage.show(&running("a", 1)), "");
    assert_eq!(stage.hear("a", Heard::Connected), "");
    assert_eq!(stage.hear("a", Heard::Said(Said::Ready)), "1 says Ready");
    assert_eq!(stage.lives.running()[0].said, [Said::Ready]);
    let crashed = object("a", 1, state(json!({ "terminated": { "exitCode": 139 } })));
    assert_eq!(stage.show(&crashed), "1 ended: signal: 11; -a");
    assert!(stage.lives.running().is_empty());
    assert_eq!(stage.show(&crashed), "");
    assert_eq!(stage.gone("a"), "");
}

#[tokio::test]
async fn what_is_deleted_has_ended_when_it_answers_no_more() {
    let mut stage = Stage::new();
    stage.show(&running("a", 1));
    stage.hear("a", Heard::Connected);
    assert_eq!(stage.show(&deleting(running("a", 1))), "");
    assert_eq!(stage.hear("a", Heard::Lost), "1 ended: deleted; -a");
    // One that never answered.
    stage.show(&running("b", 2));
    assert_eq!(stage.show(&deleting(running("b", 2))), "2 ended: deleted; -b");
    // One that goes on answering, on a node that does not know.
    stage.show(&running("c", 3));
    stage.hear("c", Heard::Connected);
    stage.show(&deleting(running("c", 3)));
    assert_eq!(stage.after(Duration::from_secs(5)), "-a; -b");
    assert_eq!(stage.after(Duration::from_secs(3)), "3 ended: deleted; -c");
    // One that goes with its object.
    stage.show(&running("d", 4));
    assert_eq!(stage.gone("d"), "4 ended: deleted");
}

#[tokio::test]
async fn what_was_asked_to_end_has_stopped() {
    let mut stage = Stage::new();
    stage.show(&running("a", 1));
    assert_eq!(stage.lives.to_stop("add-0-worker", Stop::Gently), ["a"]);
    stage.lives.stopping("a", Some(Stop::Gently));
    assert!(stage.lives.to_stop("add-0-worker", Stop::Gently).is_empty(), "once is enough");
    assert_eq!(stage.lives.to_stop("add-0-worker", Stop::Now), ["a"]);
    stage.lives.stopping("a", Some(Stop::Now));
    assert!(stage.lives.to_stop("add-0-worker", Stop::Gently).is_empty());
    assert_eq!(stage.gone("a"), "1 ended: stopped");
}

#[tokio::test]
async fn what_does_not_start_in_time_has_ended_with_the_reason() {
    let mut stage = Stage::new();
    let unschedulable = json!({ "phase": "Pending", "conditions": [{ "type": "PodScheduled", "status": "False",
        "reason": "Unschedulable", "message": "0/1 nodes are available." }] });
    stage.show(&object("a", 1, unschedulable));
    assert_eq!(stage.after(POD_START - Duration::from_secs(1)), "");
    assert_eq!(
        stage.after(Duration::from_secs(1)),
        "1 ended: it did not start within 120s: no node for it (Unschedulable): 0/1 nodes are available.; -a"
    );
    assert_eq!(stage.after(Duration::from_secs(4)), "");
    assert_eq!(stage.after(Duration::from_secs(1)), "-a", "until it is gone");
}

#[tokio::test]
async fn what_a_list_lacks_is_gone_unless_it_was_made_just_now() {
    let mut stage = Stage::new();
    stage.show(&running("a", 1));
    stage.now += Duration::from_secs(1);
    stage.lives.made("b", "mul-0-worker", 1, stage.now);
    stage.lives.listed(&BTreeSet::new());
    assert_eq!(stage.outcome(), "1 ended: deleted");
    assert_eq!(stage.lives.running()[0].pod, "mul-0-worker");
    // Deleted before the watch could show it.
    assert!(stage.after(POD_START).starts_with("1 ended: it did not start"));
    stage.lives.missing("b");
    assert_eq!(stage.after(REMOVE_AGAIN), "");
}

#[tokio::test]
async fn of_two_lives_the_later_one_stays() {
    let mut stage = Stage::new();
    stage.show(&running("a", 1));
    assert_eq!(stage.show(&running("b", 2)), "1 ended: another life took its place; 2 runs; -a");
    assert_eq!(stage.show(&running("c", 2)), "-c", "one that was made twice");
    assert_eq!(stage.show(&running("d", 1)), "-d");
    let running: Vec<_> = stage.lives.running().iter().map(|pod| pod.incarnation).collect();
    assert_eq!(running, [2]);
}

#[tokio::test]
async fn the_latest_life_is_told() {
    let mut stage = Stage::new();
    stage.show(&running("a", 1));
    let peers = |port: u16| Told::Peers { transports: vec![Some(format!("10.0.0.1:{port}"))] };
    let order = Told::Reconfigure { order: "00".into() };
    for told in [&peers(1), &order, &peers(2)] {
        stage.lives.tell("add-0-worker", told);
        stage.lives.tell("nobody", told);
    }
    assert_eq!(*stage.lives.lives["a"].told.borrow(), [order, peers(2)], "the latest of each kind");
}
