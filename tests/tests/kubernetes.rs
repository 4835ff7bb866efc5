//! The report's two platforms, and a replica that lies, on a real Kubernetes, as the local overlay deploys them.

#![cfg(feature = "engines")]

use quorate_tests::{
    Data, Load, Mix, Status, eventually_within,
    kubernetes::{Deployed, GATEWAY, PATIENCE, Pods},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    path::Path,
    time::{Duration, Instant},
};

const PLATFORM_1: &str = include_str!("../../daemons/examples/platform-1.toml");
const PLATFORM_2: &str = include_str!("../../daemons/examples/platform-2.toml");

#[tokio::test(flavor = "multi_thread")]
async fn platform_1_in_kubernetes_answers_a_burst_with_more_pods() {
    let platform = Deployed::start(PLATFORM_1, None).await;
    let is_working = |status: &Status| {
        (status.daemon.as_str(), status.function.as_deref(), status.state.as_str())
            == ("worker", Some("add"), "ready")
    };
    let workers = async || Some(platform.status().await?.iter().filter(|s| is_working(s)).count());
    let one = eventually_within(PATIENCE, "what works", &workers).await;
    assert_eq!(one, 1, "one worker is enough for one request");
    assert!(platform.pods("app.kubernetes.io/component=replica").is_empty(), "pods are no sets");
    let load = Load::at(GATEWAY, platform.http.clone(), Mix::Only("add"), 64);
    eventually_within(PATIENCE, "more workers of the layer that is too long", || async {
        (workers().await? > 1).then_some(())
    })
    .await;
    assert!(platform.pods("quorate.io/function=add").len() > 1, "each is a pod");
    let report = load.finish().await;
    println!("{} requests, the slowest in {:?}", report.sent, report.slowest());
    report.assert_flawless();
}

/// A replica of `mul` that leads its set, or follows the one that does and would not be the next to lead.
async fn replica(platform: &Deployed, leads: bool) -> String {
    let found = eventually_within(PATIENCE, "a set of mul with a primary and backups", || async {
        let mut all = platform.status().await?;
        all.retain(|status| {
            (status.daemon.as_str(), status.function.as_deref(), status.state.as_str())
                == ("replica", Some("mul"), "ready")
        });
        let primary = all.iter().find(|status| status.primary == Some(true))?;
        let next = primary.index.map(|index| (index + 1) % 4);
        let follows = |status: &&Status| {
            (&status.set, status.view, status.primary) == (&primary.set, primary.view, Some(false))
                && status.index != next
        };
        if leads { Some(primary.clone()) } else { all.iter().find(follows).cloned() }
    })
    .await;
    format!("{}-replica-{}", found.set.expect("is in a set"), found.index.expect("has an index"))
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_2_in_kubernetes_survives_the_four_faults_and_no_request_is_lost() {
    let platform = Deployed::start(PLATFORM_2, None).await;
    let mut load = Load::at(GATEWAY, platform.http.clone(), Mix::All, 4);
    load.answered(10).await;
    // 1: a worker; it comes back under a higher incarnation.
    platform.kill_one("quorate.io/function=add,app.kubernetes.io/component=worker");
    load.answered(10).await;
    // 2 and 3: the primary and a backup; another replica takes the place of each.
    for leads in [true, false] {
        platform.kill_one(&format!("quorate.io/pod={}", replica(&platform, leads).await));
        load.answered(10).await;
    }
    // 4: every daemon of the control plane, one of each.
    for daemon in ["gateway", "scheduler", "cluster", "admin", "autoscaler"] {
        platform.kill_one(&format!("app.kubernetes.io/component={daemon}"));
        load.answered(5).await;
    }
    eventually_within(PATIENCE, "faults 1, 2 and 3 among those that are kept", || async {
        let kept: BTreeSet<_> =
            platform.faults().await?.iter().filter_map(|fault| fault["type"].as_u64()).collect();
        [1, 2, 3].iter().all(|kind| kept.contains(kind)).then_some(())
    })
    .await;
    let report = load.finish().await;
    println!("{} requests, the slowest in {:?}", report.sent, report.slowest());
    report.assert_flawless();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_in_kubernetes_that_lies_is_named_and_its_set_replaced_and_every_answer_is_right() {
    const CONFIG: &str =
        "[functions.default]\nreplication = \"none\"\n[functions.add]\nreplication = { f = 1 }\n";
    let program = Path::new(env!("CARGO_BIN_EXE_liar"));
    let pods = Pods { image: "quorate:lying", program, variable: "LIAR=add-0:results" };
    let platform = Deployed::start(CONFIG, Some(pods)).await;
    // It says so itself when it starts, as nobody else can.
    let said = platform.logs("quorate.io/set=add-0,app.kubernetes.io/component=replica");
    let liar = said.lines().find_map(|line| line.strip_suffix(" lies about results"));
    let liar = liar.unwrap_or_else(|| panic!("nobody lies: {said}"));
    let mut load = Load::at(GATEWAY, platform.http.clone(), Mix::Only("add"), 4);
    load.answered(20).await;
    let fault = eventually_within(PATIENCE, "a convicted liar whose set is replaced", || async {
        let faults = platform.faults().await?;
        faults.into_iter().find(|fault| fault["how"] == "lying" && fault["replaced_ms"].is_u64())
    })
    .await;
    assert_eq!((&fault["type"], &fault["pod"]), (&Value::from(3), &Value::from(liar)), "{fault}");
    let accusers = fault["accusers"].as_array().expect("is a list");
    assert!(accusers.iter().any(|pod| pod == "add-0-worker"), "{fault}");
    platform.find("a fresh set", |s| s.set.as_deref() == Some("add-1") && s.state == "ready").await;
    eventually_within(PATIENCE, "no pod of the liar's set", || async {
        platform.pods("quorate.io/set=add-0").is_empty().then_some(())
    })
    .await;
    load.answered(20).await;
    load.finish().await.assert_flawless();
    // For people, by the command.
    let said = Data::empty().answer(&["faults", "--url", GATEWAY]).await;
    assert!(said.contains(liar) && said.contains("lying"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_requests_are_answered_and_what_failed_is_repaired_after_it() {
    /// Longer than a watch lasts, and than the 30 seconds for which it may be gone.
    const AWAY: Duration = Duration::from_secs(35);
    // Two workers of each function, of which one goes on while nobody can be replaced.
    const CONFIG: &str = "[functions.default]\nreplication = \"none\"\npods_min = 2\npods_max = 2\n";
    let platform = Deployed::start_alone(CONFIG).await;
    let workers = async || {
        let mut workers = platform.status().await?;
        workers.retain(|status| {
            (status.daemon.as_str(), status.function.as_deref(), status.state.as_str())
                == ("worker", Some("add"), "ready")
        });
        (workers.len() == 2).then_some(workers)
    };
    let is_first = |status: &Status| status.set.as_deref() == Some("add-0");
    let before = eventually_within(PATIENCE, "two workers", &workers).await;
    let lost = before.into_iter().find(is_first).expect("sets are counted from 0");
    let mut load = Load::at(GATEWAY, platform.http.clone(), Mix::All, 4);
    load.answered(10).await;
    let objects = platform.pods("quorate.io/pod=add-0-worker");
    let object = objects.first().and_then(|object| object.strip_prefix("pod/")).expect("it runs");
    let away = platform.stop_api_server();
    let begun = Instant::now();
    platform.kill_process(object);
    while begun.elapsed() < AWAY {
        load.answered(10).await;
    }
    drop(away);
    // The set that lost its worker was written off meanwhile, or has another one.
    eventually_within(PATIENCE, "two workers, none of which is the lost one", async || {
        let now = workers().await?;
        let is_lost = |status: &Status| (&status.set, status.incarnation) == (&lost.set, lost.incarnation);
        (!now.iter().any(is_lost)).then_some(())
    })
    .await;
    load.answered(10).await;
    load.finish().await.assert_flawless();
    // What an operator reads.
    let said = platform.logs("app.kubernetes.io/component=cluster");
    assert!(said.contains("pods can't be started: the API server did not answer within"), "{said}");
}
