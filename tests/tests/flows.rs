//! The report's flows (section 1.4.1), each with its steps in their order, as they are seen at the store, the
//! queues and the event bus, in the pods that are ordered, and in what replicas say to each other. Where
//! the platform's order is not the report's, the test checks the platform's and says so.

use quorate::{
    config::{Config, FunctionConfig, Functions, Replication},
    queue::QueueName,
};
use quorate_pbft::{Group, View};
use quorate_scaler::policy::Name;
use quorate_tests::{
    eventually, process,
    trace::{Event, Step, TracedPlatform, What, assert_in_order, before},
};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::{collections::BTreeSet, path::Path, time::Duration};

/// For probes that shall never come.
const NEVER: Duration = Duration::from_secs(3600);

/// Pods that tell what they do.
fn observed() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_observed"))
}

fn functions(function: FunctionConfig) -> Functions {
    Functions { add: function.clone(), sub: function.clone(), mul: function.clone(), div: function }
}

/// A platform on which four replicas agree on every result, and which has answered these.
async fn warm(change: impl FnOnce(&mut Config), expressions: &[&str]) -> TracedPlatform {
    warm_with(&[], change, expressions).await
}

async fn warm_with(
    arguments: &[&str],
    change: impl FnOnce(&mut Config),
    expressions: &[&str],
) -> TracedPlatform {
    let platform = TracedPlatform::start(observed(), arguments, change).await;
    for expression in expressions {
        platform.result(expression).await;
    }
    platform
}

// --- Which event a step is ------------------------------------------------------------------------------

fn does(what: &str) -> impl Fn(&Event) -> bool {
    let what = What::Does(what.to_owned());
    move |event| event.what == what
}

fn answered(id: &str) -> impl Fn(&Event) -> bool {
    let start = format!("is answered {id} ");
    move |event| matches!(&event.what, What::Does(what) if what.starts_with(&start))
}

fn reads(who: &'static str, key: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.who == who && event.what == What::Reads { key: key.into() }
}

fn writes(who: &'static str, key: &'static str, is: impl Fn(&Value) -> bool) -> impl Fn(&Event) -> bool {
    move |event| matches!(&event.what, What::Writes { key: of, value } if event.who == who && of == key && is(value))
}

fn sends(who: &'static str, queue: &str, is: impl Fn(&Value) -> bool) -> impl Fn(&Event) -> bool {
    let queue = queue.to_owned();
    move |event| matches!(&event.what, What::Sends { queue: of, body } if event.who == who && *of == queue && is(body))
}

fn received(who: &'static str, queue: &str, is: impl Fn(&Value) -> bool) -> impl Fn(&Event) -> bool {
    let queue = queue.to_owned();
    move |event| {
        matches!(&event.what,
            What::Received { queue: of, body } if event.who == who && of.starts_with(&queue) && is(body))
    }
}

fn deletes(who: &'static str, queue: &'static str) -> impl Fn(&Event) -> bool {
    move |event| event.who == who && event.what == What::Deletes { queue: queue.into() }
}

fn orders(pod: &str, incarnation: u64) -> impl Fn(&Event) -> bool {
    let pod = pod.to_owned();
    move |event| matches!(&event.what, What::Orders { pod: of, incarnation: life, .. } if *of == pod && *life == incarnation)
}

fn became(pod: &str, incarnation: u64, word: &'static str) -> impl Fn(&Event) -> bool {
    let pod = pod.to_owned();
    move |event| event.who == pod && event.what == What::Became { incarnation, word: word.into() }
}

fn concludes(id: &str) -> impl Fn(&Event) -> bool {
    let id = id.to_owned();
    move |event| {
        matches!(&event.what, What::Concludes { id: of, .. } if *of == id) && event.who == "scheduler"
    }
}

fn says(kind: &'static str, is: impl Fn(u64, u64) -> bool) -> impl Fn(&Event) -> bool {
    move |event| matches!(&event.what, What::Says { kind: of, view, sequence, .. } if of == kind && is(*view, *sequence))
}

/// The primary proposes an operation to its backups.
fn proposes(operation: &str) -> impl Fn(&Event) -> bool {
    let operation = operation.to_owned();
    move |event| {
        matches!(&event.what, What::Says { kind, operations, .. }
            if kind == "PrePrepare" && operations.contains(&operation))
    }
}

fn executes(operation: &str) -> impl Fn(&Event) -> bool {
    let operation = operation.to_owned();
    move |event| event.what == What::Executes { operation: operation.clone() }
}

/// A fault event of this type that names that pod.
fn fault(kind: u64, pod: &str, seen: &'static str) -> impl Fn(&Value) -> bool + Clone {
    let pod = pod.to_owned();
    move |event| event["type"] == kind && event["pod"] == pod.as_str() && event["seen"] == seen
}

/// A member of a set's record: the worker, or a replica.
fn member(set: &Value, index: Option<usize>) -> &Value {
    index.map_or(&set["worker"], |index| &set["replicas"][index])
}

/// A record in which the set is so, and a member too.
fn set_is(
    state: &'static str,
    index: Option<usize>,
    member_state: &'static str,
    incarnation: u64,
) -> impl Fn(&Value) -> bool {
    move |set| {
        let member = member(set, index);
        set["state"] == state && member["state"] == member_state && member["incarnation"] == incarnation
    }
}

fn assert_flow(events: &[Event], steps: &[Step<'_>]) {
    assert_in_order(events, steps);
}

// --- The flows ------------------------------------------------------------------------------------------

/// The report's dispatcher sleeps for 10 s; here only dispatch to the worker that is down pauses, and other
/// functions' requests go on. The report's scheduler polls the event bus and calls the cluster's interface;
/// here the cluster service takes the event itself.
#[tokio::test(flavor = "multi_thread")]
async fn flow_1_the_admin_s_solution_to_fault_type_1() {
    let platform = warm(|_| {}, &["1+2", "2*3"]).await;
    let (trace, worker) = (&platform.trace, platform.set("add-0").await.worker);
    platform.pods.hold(&worker.pod);
    let mark = trace.mark().await;
    trace.does("stops the worker");
    process::signal(worker.pid.expect("is a process"), Signal::STOP);
    trace.until(mark, "the order for the worker's next life", orders(&worker.pod, 2)).await;
    let waits = platform.submit("20+22").await;
    let (result, other) = platform.result("6*7").await;
    assert_eq!(result, "42");
    assert!(!platform.is_concluded(mark, &waits).await, "nobody is there to execute it");
    trace.does("has the pod made");
    platform.pods.release(&worker.pod);
    assert_eq!(platform.answer(&waits).await, "42");
    let f1 = fault(1, "add-0-worker", "probes missed");
    let events = trace.since(mark).await;
    assert_flow(
        &events,
        &[
            ("the worker is down", &does("stops the worker")),
            ("(a), (b) the admin, which missed probes, looks up whose", &reads("admin", "sets/add-0")),
            ("(c) dispatch to it pauses", &writes("admin", "sets/add-0", set_is("paused", None, "down", 1))),
            ("(d) the admin puts the fault on the event bus", &sends("admin", "events", f1.clone())),
            ("(e) the cluster service takes it", &received("cluster", "events", f1)),
            (
                "(f) a new life is written down",
                &writes("cluster", "sets/add-0", set_is("paused", None, "starting", 2)),
            ),
            ("(g) its pod is ordered", &orders("add-0-worker", 2)),
            ("another function's request is answered meanwhile", &answered(&other)),
            ("the pod may be made", &does("has the pod made")),
            ("the event is deleted: the bus is empty", &deletes("cluster", "events")),
            ("(g) the pod is ready", &became("add-0-worker", 2, "ready")),
            ("dispatch may go on", &writes("cluster", "sets/add-0", set_is("ready", None, "ready", 2))),
            ("(h) the request that waited is dispatched", &proposes("20+22")),
            ("and answered", &concludes(&waits)),
            ("the user has it", &answered(&waits)),
        ],
    );
    // It is the worker that it was.
    let keeps = async |life| {
        let all = trace.since(0).await;
        let order = all.into_iter().find(orders("add-0-worker", life)).expect("was ordered");
        match order.what {
            What::Orders { keeps: [identity, _], .. } => identity.expect("it has keys"),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(keeps(1).await, keeps(2).await);
    platform.stop().await;
}

/// The report replaces view changes by the admin. Here the group changes its view by itself, while the control
/// plane has not made anything yet; dispatch does not pause, because the set answers.
#[tokio::test(flavor = "multi_thread")]
async fn flow_2_the_admin_s_solution_to_fault_type_2() {
    let platform = warm(|_| {}, &["1+2"]).await;
    let primary = platform.primary("add-0").await;
    let (trace, replica) = (&platform.trace, platform.set("add-0").await.replicas[primary].clone());
    platform.pods.hold(&replica.pod);
    let mark = trace.mark().await;
    trace.does("stops the primary");
    process::signal(replica.pid.expect("is a process"), Signal::STOP);
    trace.until(mark, "the order for the replica's next life", orders(&replica.pod, 2)).await;
    let (result, id) = platform.result("20+22").await;
    assert_eq!(result, "42");
    trace.does("has the pod made");
    platform.pods.release(&replica.pod);
    let is_back = set_is("ready", Some(primary), "ready", 2);
    trace.until(mark, "the replica's return", writes("cluster", "sets/add-0", is_back)).await;
    let f2 = fault(2, &replica.pod, "probes missed");
    let events = trace.since(mark).await;
    let at = Some(primary);
    assert_flow(
        &events,
        &[
            ("the primary is down", &does("stops the primary")),
            ("(a), (b) the admin, which missed probes, looks up whose", &reads("admin", "sets/add-0")),
            ("(c) dispatch goes on", &writes("admin", "sets/add-0", set_is("ready", at, "down", 1))),
            ("(d) the admin puts the fault on the event bus", &sends("admin", "events", f2.clone())),
            ("(e) the cluster service takes it", &received("cluster", "events", f2)),
            (
                "(f) a new life is written down",
                &writes("cluster", "sets/add-0", set_is("ready", at, "starting", 2)),
            ),
            ("(g) its pod is ordered", &orders(&replica.pod, 2)),
            ("a request comes", &does("submits 20+22")),
            ("backups ask for another view", &says("ViewChange", |view, _| view > 0)),
            ("its primary begins it", &says("NewView", |view, _| view > 0)),
            ("the request is executed in it", &executes("20+22")),
            ("and answered", &concludes(&id)),
            ("the user has it", &answered(&id)),
            ("the pod may be made", &does("has the pod made")),
            ("the event is deleted: the bus is empty", &deletes("cluster", "events")),
            ("(g) the pod is ready", &became(&replica.pod, 2, "ready")),
            ("(h) and a member again", &writes("cluster", "sets/add-0", set_is("ready", at, "ready", 2))),
        ],
    );
    let asked = before(&events, says("ViewChange", |view, _| view > 0), says("NewView", |view, _| view > 0));
    assert!(asked.len() >= 3, "2f+1 replicas ask for a view: {asked:?}");
    // It is the replica that it was, with the journal that it had.
    let order = events.iter().find(|event| orders(&replica.pod, 2)(event)).expect("was ordered");
    let What::Orders { keeps: [identity, journal], .. } = &order.what else { panic!("{order:?}") };
    assert!(identity.is_some() && journal.is_some(), "{order:?}");
    platform.stop().await;
}

/// The batch in which an operation was proposed, and its view.
fn batch_of(events: &[Event], operation: &str) -> (u64, u64) {
    let proposal = events.iter().find(|event| proposes(operation)(event)).expect("was proposed");
    match &proposal.what {
        What::Says { view, sequence, .. } => (*view, *sequence),
        other => panic!("{other:?}"),
    }
}

/// The report's primary collects the quorum and replies to the worker. Here every replica sees the quorum for
/// itself and replies, and the worker waits for 2f+1 equal replies: a primary that lies is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn flow_3_quorum_certificate_normal_execution() {
    let platform = warm(|_| {}, &["1+2"]).await;
    let (trace, mark) = (&platform.trace, platform.trace.mark().await);
    let primary = format!("add-0-replica-{}", platform.primary("add-0").await);
    let (result, id) = platform.result("20+22").await;
    assert_eq!(result, "42");
    let events = trace.since(mark).await;
    let (view, sequence) = batch_of(&events, "20+22");
    let of = |kind| says(kind, move |in_view, about| (in_view, about) == (view, sequence));
    assert_flow(
        &events,
        &[
            ("a request comes", &does("submits 20+22")),
            ("the scheduler takes it", &received("scheduler", "inbound", |body| body["id"] == id.as_str())),
            ("(a), (b), (c) i. of the worker the primary has it, and broadcasts it", &proposes("20+22")),
            ("(c) i. backups prepare", &of("Prepare")),
            ("(c) ii. replicas commit", &of("Commit")),
            ("replicas execute", &executes("20+22")),
            ("(c) iii. replicas reply", &of("Reply")),
            ("(e) the scheduler has the worker's reply", &concludes(&id)),
            ("the user has it", &answered(&id)),
        ],
    );
    let proposed: BTreeSet<_> =
        events.iter().filter(|event| proposes("20+22")(event)).map(|event| event.who.clone()).collect();
    assert_eq!(proposed, [primary.clone()].into(), "one leads");
    let prepared = before(&events, of("Prepare"), of("Commit"));
    assert!(prepared.len() >= 2 && !prepared.contains(&*primary), "2f backups prepare first: {prepared:?}");
    let mut committed = before(&events, of("Commit"), executes("20+22"));
    // Its own COMMIT counts, which leaves it with its reply.
    committed.extend(events.iter().find(|event| executes("20+22")(event)).map(|event| &*event.who));
    assert!(committed.len() >= 3, "(c) iv. nobody executes before 2f+1 commit: {committed:?}");
    let replied = before(&events, of("Reply"), concludes(&id));
    assert!(replied.len() >= 3, "(d) no answer before 2f+1 reply: {replied:?}");
    for replica in &replied {
        let of_it: Vec<_> = events.iter().filter(|event| event.who == **replica).cloned().collect();
        assert_flow(&of_it, &[("executes", &executes("20+22")), ("replies", &of("Reply"))]);
    }
    platform.stop().await;
}

/// The report's worker puts the fault on the event bus. Here pods reach no queue: the admin, which probes them, puts
/// it there.
#[tokio::test(flavor = "multi_thread")]
async fn flow_3_quorum_certificate_event_of_faults_at_replicas() {
    // Slow probes: the request is on its way before they are missed.
    let probes = |config: &mut Config| config.timeouts.probe_every = Duration::from_millis(500);
    let platform = warm(probes, &["1+2"]).await;
    let primary = platform.primary("add-0").await;
    let replicas = platform.set("add-0").await.replicas;
    let struck: Vec<_> =
        (0..4).filter(|index| *index != primary).take(2).map(|index| (index, &replicas[index])).collect();
    let (trace, mark) = (&platform.trace, platform.trace.mark().await);
    trace.does("stops two backups");
    for (_, replica) in &struck {
        platform.pods.hold(&replica.pod);
        process::signal(replica.pid.expect("is a process"), Signal::STOP);
    }
    let id = platform.submit("20+22").await;
    // While one is held back, the cluster service has not come to the next.
    let is_ordered = |event: &Event| struck.iter().any(|(_, one)| orders(&one.pod, 2)(event));
    trace.until(mark, "an order for a replica's next life", is_ordered).await;
    let early = trace.since(mark).await;
    assert!(!early.iter().any(executes("20+22")), "without a quorum nobody executes");
    trace.does("has the pods made");
    for (_, replica) in &struck {
        platform.pods.release(&replica.pod);
    }
    assert_eq!(platform.answer(&id).await, "42");
    for (index, replica) in &struck {
        let is_back = set_is("ready", Some(*index), "ready", 2);
        trace.until(mark, "a replica's return", writes("cluster", "sets/add-0", is_back)).await;
        // Without a quorum a change of views does not end: who is to lead the next one is as good as the primary.
        let [f2, f3] = [2, 3].map(|kind| fault(kind, &replica.pod, "probes missed"));
        let of_it = move |event: &Value| f2(event) || f3(event);
        assert_flow(
            &trace.since(mark).await,
            &[
                ("two backups are down", &does("stops two backups")),
                ("(a) the worker's request goes to the others", &proposes("20+22")),
                ("(b) the fault is put on the event bus", &sends("admin", "events", of_it.clone())),
                ("(c), (d) it is taken", &received("cluster", "events", of_it)),
                ("(e) a pod is ordered", &orders(&replica.pod, 2)),
                ("it is ready", &became(&replica.pod, 2, "ready")),
                (
                    "it is a member again",
                    &writes("cluster", "sets/add-0", set_is("ready", Some(*index), "ready", 2)),
                ),
            ],
        );
    }
    let is_back = |event: &Event| struck.iter().any(|(_, one)| became(&one.pod, 2, "ready")(event));
    let events = trace.since(mark).await;
    let ids: BTreeSet<_> = events
        .iter()
        .filter_map(|event| match &event.what {
            What::Sends { queue, body } if queue == "events" => body["id"].as_str(),
            _ => None,
        })
        .collect();
    assert_eq!(ids.len(), struck.len(), "each fault is one: {ids:?}");
    assert_flow(
        &events,
        &[
            ("the pods may be made", &does("has the pods made")),
            ("one of them is back", &is_back),
            ("(g) the operation is executed, as in normal execution", &executes("20+22")),
            ("the scheduler has the worker's reply", &concludes(&id)),
            ("the user has it", &answered(&id)),
        ],
    );
    // What is said before is about operations that are done.
    let executed = events.iter().position(executes("20+22")).expect("was just found");
    let replied = before(&events[executed..], says("Reply", |_, _| true), concludes(&id));
    assert!(replied.len() >= 3, "(f) sufficient replicas inform the worker: {replied:?}");
    platform.stop().await;
}

/// The same event where the faulty replica answers, but wrongly. To start it again would change nothing, so a
/// fresh set takes its set's place; until then the set goes on with its 2f+1 others.
#[tokio::test(flavor = "multi_thread")]
async fn flow_3_quorum_certificate_event_of_a_fault_that_the_worker_names() {
    let no_probes = |config: &mut Config| config.timeouts.probe_every = NEVER;
    let platform = warm_with(&["--liar", "add-0"], no_probes, &[]).await;
    let (trace, mark) = (&platform.trace, platform.trace.mark().await);
    let (result, id) = platform.result("20+22").await;
    assert_eq!(result, "42");
    let group = Group::new(&platform.set("add-0").await.genesis().expect("has replicas"));
    // The last backup in line for the primary's place.
    let liar = format!("add-0-replica-{}", group.primary(View(3)).0);
    let is_named = |event: &Value| {
        event["type"] == 3
            && event["pod"] == liar.as_str()
            && event["how"] == "lying"
            && event["lie"]["accusers"]
                .as_array()
                .is_some_and(|all| all.iter().any(|one| one == "add-0-worker"))
    };
    // Whether it is among the first 2f+1 replies is the network's affair: once it is, it is named.
    eventually("the liar's name on the event bus", || async {
        if trace.since(mark).await.iter().any(sends("admin", "events", is_named)) {
            return Some(());
        }
        assert_eq!(platform.result("1+2").await.0, "3");
        None
    })
    .await;
    let gone =
        |event: &Event| event.who == "cluster" && event.what == What::Removes { key: "sets/add-0".into() };
    trace.until(mark, "the end of the liar's set", gone).await;
    let (result, again) = platform.result("21+21").await;
    assert_eq!(result, "42");
    assert_flow(
        &trace.since(mark).await,
        &[
            ("replicas reply", &says("Reply", |_, _| true)),
            ("the answer is right", &concludes(&id)),
            (
                "(b) the worker names the liar; the fault is put on the event bus",
                &sends("admin", "events", is_named),
            ),
            ("(c), (d) it is taken", &received("cluster", "events", is_named)),
            ("its set is to be replaced", &writes("cluster", "condemned/add-0", |_| true)),
            ("the event is deleted", &deletes("cluster", "events")),
            ("(e) a set is made", &writes("cluster", "sets/add-1", |set| set["state"] == "starting")),
            ("its pods are ordered", &orders("add-1-worker", 1)),
            ("it is ready", &writes("cluster", "sets/add-1", |set| set["state"] == "ready")),
            (
                "and not before that the liar's goes",
                &writes("cluster", "sets/add-0", |set| set["state"] == "draining"),
            ),
            ("it is gone", &gone),
            ("(g) normal execution goes on", &executes("21+21")),
            ("and is answered", &concludes(&again)),
        ],
    );
    platform.stop().await;
}

/// The report leaves faults of the control plane open. Here whoever makes a pod may be killed in the middle of it:
/// what was wanted is in the store, and the next one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn flow_4_pod_creation_and_the_control_plane() {
    let mut platform = warm(|_| {}, &[]).await;
    let mark = platform.trace.mark().await;
    platform.pods.hold("add-0-replica-2");
    let id = platform.submit("20+22").await;
    platform.trace.until(mark, "the creation's middle", orders("add-0-replica-2", 1)).await;
    platform.trace.does("kills the cluster service");
    platform.kill("cluster").await;
    platform.pods.release("add-0-replica-2");
    platform.trace.does("starts another");
    platform.start_cluster(false).await;
    assert_eq!(platform.answer(&id).await, "42");
    let events = platform.trace.since(mark).await;
    let is_second =
        |event: &Event| orders("add-0-replica-2", 2)(event) || orders("add-0-replica-2", 1)(event);
    assert_flow(
        &events,
        &[
            ("a request comes", &does("submits 20+22")),
            ("the scheduler takes it", &received("scheduler", "inbound", |body| body["id"] == id.as_str())),
            ("a set of its function is wanted", &writes("cluster", "desired/add", |count| *count == 1)),
            ("it is written down", &writes("cluster", "sets/add-0", |set| set["state"] == "starting")),
            ("its first pods are ordered", &orders("add-0-replica-0", 1)),
            ("others are not", &orders("add-0-replica-2", 1)),
            ("the cluster service is killed", &does("kills the cluster service")),
            (
                "the worker's pod is ordered by its successor",
                &|event| matches!(&event.what, What::Orders { pod, .. } if pod == "add-0-worker"),
            ),
            ("the set is ready", &writes("cluster", "sets/add-0", |set| set["state"] == "ready")),
            ("the request is executed", &executes("20+22")),
            ("and answered", &concludes(&id)),
            ("the user has it", &answered(&id)),
        ],
    );
    let after: Vec<_> = events.iter().skip_while(|event| !does("starts another")(event)).cloned().collect();
    assert!(after.iter().any(is_second), "what was not made is ordered again");
    let made = |event: &Event| matches!(&event.what, What::Orders { pod, .. } if pod == "add-0-replica-0");
    assert!(!after.iter().any(made), "what was made is kept");
    platform.stop().await;
}

/// The report puts all sub-expressions on their layers, and polls for dependent ones. Here what is ready goes out
/// at once, and a dependent operation the moment that its operands are known.
#[tokio::test(flavor = "multi_thread")]
async fn flow_5_dag_solution_to_dependent_operations() {
    let no_probes = |config: &mut Config| config.timeouts.probe_every = NEVER;
    let platform = warm(no_probes, &["1+2", "8/4", "2*3"]).await;
    let body = json!({ "expression": "((30+5)*(42/2))" });
    let parsed: Value = reqwest::Client::new()
        .post(format!("http://{}/v1/parse", platform.address("scheduler")))
        .json(&body)
        .send()
        .await
        .expect("the scheduler answers")
        .json()
        .await
        .expect("in JSON");
    let graph = parsed["graph"].as_array().expect("a list of operations");
    let node = |function: &str| {
        graph
            .iter()
            .find(|node| node["function"] == function)
            .unwrap_or_else(|| panic!("no {function}: {parsed}"))
    };
    assert_eq!((graph.len(), &parsed["depth"]), (3, &json!(2)), "{parsed}");
    assert_eq!(
        (&node("add")["left"], &node("add")["right"]),
        (&json!({ "value": "30" }), &json!({ "value": "5" }))
    );
    assert_eq!(node("mul")["left"]["node"], node("add")["node"], "{parsed}");
    assert_eq!(node("mul")["right"]["node"], node("div")["node"], "{parsed}");

    let (trace, mark) = (&platform.trace, platform.trace.mark().await);
    let adds = platform.set("add-0").await.worker.pid.expect("is a process");
    trace.does("stops the worker of add");
    process::signal(adds, Signal::STOP);
    let id = platform.submit("((30+5)*(42/2))").await;
    trace.until(mark, "the quotient", says("Reply", |_, _| true)).await;
    trace.does("lets the worker of add go on");
    process::signal(adds, Signal::CONT);
    assert_eq!(platform.answer(&id).await, "735");
    let events = trace.since(mark).await;
    assert_flow(
        &events,
        &[
            ("a request comes", &does("submits ((30+5)*(42/2))")),
            (
                "the scheduler takes and parses it",
                &received("scheduler", "inbound", |body| body["id"] == id.as_str()),
            ),
            ("an independent operation waits for no other", &executes("42/2")),
            ("the other may go on", &does("lets the worker of add go on")),
            ("it is proposed", &proposes("30+5")),
            ("and executed", &executes("30+5")),
            ("the operation that depends on both goes out with their results", &proposes("35*21")),
            ("it is executed", &executes("35*21")),
            ("the results are consolidated", &concludes(&id)),
            ("the user has it", &answered(&id)),
        ],
    );
    platform.stop().await;
}

/// The report's scheduler scales; here the autoscaler does.
#[tokio::test(flavor = "multi_thread")]
async fn flow_6_multi_layered_queue_for_a_burst() {
    const BURST: usize = 24;
    const SLOTS: u32 = 4;
    let platform = |config: &mut Config| {
        config.functions = functions(FunctionConfig {
            replication: Replication::None,
            slots: SLOTS,
            policy: Name::Threshold,
            threshold: 4,
            pods_max: 2,
            ..FunctionConfig::default()
        });
        config.timeouts.probe_every = NEVER;
        config.timeouts.operation = NEVER;
    };
    let platform = warm(platform, &["1+2"]).await;
    let queues = platform.engine.queues().await.expect("the engine is there");
    for function in ["add", "sub", "mul", "div"] {
        let layer = QueueName::named(&format!("layer-{function}"));
        assert!(queues.contains(&layer), "(a) {layer} is not among {queues:?}");
    }
    assert!(platform.set("add-0").await.replicas.is_empty(), "(b) pods are no sets");

    let (trace, mark) = (&platform.trace, platform.trace.mark().await);
    // The only worker is as busy as it can be, for as long as the burst lasts.
    let only = platform.set("add-0").await.worker.pid.expect("is a process");
    process::signal(only, Signal::STOP);
    trace.does("begins");
    let mut ids = Vec::new();
    for n in 0..BURST {
        ids.push(platform.submit(&format!("{n}+1000")).await);
    }
    // While the first pod is busy, what waits in the layer is the second one's.
    let by_the_second = |event: &Event| matches!(&event.what, What::Concludes { sets, .. } if sets.iter().any(|set| set == "add-1"));
    trace.until(mark, "a result of the second pod", by_the_second).await;
    process::signal(only, Signal::CONT);
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(platform.answer(id).await, (n + 1000).to_string());
        // Who asks when it is done already reads the record, and the hint may come later.
        let hinted = received("gateway", "outbound-", |body| body["id"] == id.as_str());
        trace.until(mark, "the hint at the gateway", hinted).await;
    }
    let events = trace.since(mark).await;
    let is_long = |event: &Event| {
        matches!(&event.what, What::Sampled { queue, waiting } if event.who == "autoscaler"
            && queue == "layer-add" && *waiting > 4)
    };
    assert_flow(
        &events,
        &[
            ("(c) a burst comes", &does("begins")),
            ("(d) requests go to inbound", &|event| matches!(event.what, What::Accepts { .. })),
            ("(e) the scheduler takes them", &received("scheduler", "inbound", |_| true)),
            (
                "(f) operations that find no slot go to their layer",
                &sends("scheduler", "layer-add", |_| true),
            ),
            ("(g), (h) the layer is longer than 4", &is_long),
            ("(h) a pod more is wanted", &writes("cluster", "desired/add", |count| *count == 2)),
            (
                "(h) its set is written down",
                &writes("cluster", "sets/add-1", |set| set["state"] == "starting"),
            ),
            ("(h) it is ordered", &orders("add-1-worker", 1)),
            ("it is ready", &became("add-1-worker", 1, "ready")),
            ("(i) schedulers see it", &writes("cluster", "sets/add-1", |set| set["state"] == "ready")),
            ("(k), (l), (m), (n) the new pod's results are consolidated", &by_the_second),
        ],
    );
    let mut layered = 0;
    for id in &ids {
        let id = id.as_str();
        let is_its = |body: &Value| body["id"] == id || body["request"] == id;
        assert_flow(
            &events,
            &[
                ("(d) it is accepted", &|event| event.what == What::Accepts { id: id.into() }),
                ("(e) it is taken from inbound", &received("scheduler", "inbound", is_its)),
                ("(m), (n) its result is consolidated and put on outbound", &concludes(id)),
                ("(o) the gateway takes it from there", &received("gateway", "outbound-", is_its)),
            ],
        );
        assert_flow(
            &events,
            &[
                ("(m), (n) its result is consolidated", &concludes(id)),
                ("(o) the user has it", &answered(id)),
            ],
        );
        if events.iter().any(sends("scheduler", "layer-add", is_its)) {
            layered += 1;
            assert_flow(
                &events,
                &[
                    ("(e) it is taken from inbound", &received("scheduler", "inbound", is_its)),
                    ("(f) its operation goes to the layer", &sends("scheduler", "layer-add", is_its)),
                    ("(j) and is taken from there", &received("scheduler", "layer-add", is_its)),
                    ("(l), (m) its result is back", &concludes(id)),
                ],
            );
        }
    }
    assert!(layered > 4, "{layered} of {BURST} went through the layer");
    platform.stop().await;
}
