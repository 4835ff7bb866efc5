//! What is drawn, as text.

use super::*;
use ratatui::{Terminal, backend::TestBackend};
use std::time::Duration;

const WIDTH: u16 = 118;

fn drawn(screen: &Screen, now: Instant, height: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(WIDTH, height)).expect("memory");
    terminal.draw(|frame| screen.draw(frame, now)).expect("memory");
    let buffer = terminal.backend().buffer();
    let line = |y| (0..WIDTH).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
    (0..height).map(line).collect::<Vec<_>>().join("\n").trim_end().to_owned() + "\n"
}

fn process(set: &str, daemon: &str, index: Option<u32>, state: &str) -> ProcessStatus {
    ProcessStatus {
        daemon: daemon.into(),
        function: Some("add".into()),
        set: Some(set.into()),
        index,
        pid: Some(7),
        pod: None,
        address: Some("127.0.0.1:4000".into()),
        state: state.into(),
        incarnation: Some(2),
        view: index.map(|_| 3),
        primary: index.map(|index| index == 3),
    }
}

fn scaling(function: &str, observed: f64) -> ScalingStatus {
    ScalingStatus {
        function: function.into(),
        policy: "balanced".into(),
        at_ms: 0,
        valid: true,
        waiting: 12,
        in_service: 8,
        arrivals: 100,
        observed,
        forecast: Some(12.5),
        ready: 1,
        starting: 2,
        draining: 0,
        wanted: 5,
        desired: 3,
        reason: "pods_max".into(),
    }
}

#[test]
fn an_empty_platform_says_so() {
    let start = Instant::now();
    let mut screen = Screen::new("http://127.0.0.1:7400".into());
    screen.see(Look::default(), start);
    assert_eq!(
        drawn(&screen, start, 20),
        "\
quorate http://127.0.0.1:7400   q ends it

FUNCTION
nothing was scaled yet

SET
none runs: the first request starts some

QUEUE
all are empty

FAULT
none so far
"
    );
}

#[test]
fn a_busy_platform_is_shown_with_its_reasons() {
    let start = Instant::now();
    let mut screen = Screen::new("http://127.0.0.1:7400".into());
    for load in [0.0, 4.0, 8.0] {
        let mut calm = scaling("div", 0.0);
        (calm.forecast, calm.waiting, calm.wanted, calm.reason) = (None, 0, 3, "first_request".into());
        let look = Look { scaling: vec![scaling("add", load), calm], ..Look::default() };
        screen.see(look, start);
    }
    let mut processes =
        vec![process("add-0", "worker", None, "ready"), process("add-1", "worker", None, "paused")];
    for (index, state) in [(0, "ready"), (1, "starting"), (2, "down"), (3, "ready")] {
        processes.push(process("add-0", "replica", Some(index), state));
    }
    let queue = |name: &str, waiting, dead| QueueStatus {
        queue: name.into(),
        waiting,
        in_flight: 0,
        oldest_ms: None,
        dead,
    };
    let fault = FaultStatus {
        id: uuid::Uuid::nil(),
        at_ms: 1_000,
        kind: 3,
        set: "add-0".into(),
        pod: "add-0-replica-2".into(),
        how: "killed".into(),
        seen: "its probe".into(),
        kinds: Vec::new(),
        accusers: Vec::new(),
        needed: None,
        proven_by: None,
        done: "replaced in 40 ms".into(),
        replaced_ms: Some(40),
    };
    screen.look.processes = processes;
    screen.look.queues = vec![queue("inbound", 0, 0), queue("layer-add", 12, 1)];
    screen.look.faults = vec![fault];
    screen.miss("the gateway does not answer".into());
    assert_eq!(
        drawn(&screen, start + Duration::from_secs(4), 24),
        "\
quorate http://127.0.0.1:7400   q ends it   as it was 4 s ago: the gateway does not answer

FUNCTION   PODS    WAITING  RUNNING  LOAD    FORECAST  POLICY       REASON                 LOAD SO FAR
add        1/3     12       8        8.00    12        balanced     pods max (of 5)        ▁▅█
div        1/3     0        8        0.00              balanced     first request          ▁▁▁

SET        STATE      REPLICAS  VIEW   INCARNATION  WORKER
add-0      ready      o.xP      3      2            127.0.0.1:4000
add-1      paused                      2            127.0.0.1:4000

QUEUE                            WAITING   IN FLIGHT   DEAD
layer-add                        12        0           1

FAULT                  TYPE  POD                  HOW       DONE
1970-01-01T00:00:01Z   3     add-0-replica-2      killed    replaced in 40 ms
"
    );
}

#[test]
fn a_long_past_and_a_small_screen_are_no_trouble() {
    let start = Instant::now();
    let mut screen = Screen::new("http://127.0.0.1:7400".into());
    for load in 0..200 {
        screen.see(Look { scaling: vec![scaling("add", f64::from(load))], ..Look::default() }, start);
    }
    assert_eq!(screen.loads["add"].len(), HISTORY);
    for height in [1, 3, 7] {
        assert!(drawn(&screen, start, height).starts_with("quorate"));
    }
    assert_eq!(spark(&VecDeque::from([0.0, 0.0])), "▁▁");
    assert_eq!(spark(&VecDeque::from([f64::NAN, f64::INFINITY])), "▁▁");
}
