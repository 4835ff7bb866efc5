//! The platform on engines that are not its own: queues in SQS and records in DynamoDB, both played by moto,
//! and a real etcd. Nothing else about it may be different.

#![cfg(feature = "engines")]

use quorate_tests::{Fleet, Load, MIXED, Mix, NONE, Platform, cloud::Cloud, eventually};

#[tokio::test]
async fn a_platform_on_sqs_dynamo_and_etcd_answers_and_leaves_nothing_on_this_machine() {
    let cloud = Cloud::start(1);
    let platform = Platform::up_on(Cloud::data(), &cloud.config(MIXED)).await;
    assert_eq!(platform.result("((3+5)*(4/2))").await, "16");
    let queues = platform.data.answer(&["status"]).await;
    assert!(queues.contains("inbound") && queues.contains("layer-mul"), "{queues}");
    assert!(!platform.data.path().join("platform/quorate.db").exists(), "nothing is kept in a file here");
    let mut load = Load::start(&platform, Mix::All, 4);
    load.answered(40).await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn a_platform_that_is_killed_goes_on_where_it_was_from_what_the_engines_keep() {
    let cloud = Cloud::start(3);
    let platform = Platform::up_on(Cloud::data(), &cloud.config(NONE)).await;
    let answer = platform.post("/v1/expressions?wait=30", r#"{"expression": "2+3"}"#).await.json();
    let id = answer["id"].as_str().expect("has an id").to_owned();
    quorate_tests::process::kill(platform.supervisor());
    let (data, _) = platform.gone().await;
    // What it had announced is forgotten by itself, by time: nobody may clear a store that others use.
    let platform = Platform::up_on(data, &cloud.config(NONE)).await;
    let again = platform.get(&format!("/v1/expressions/{id}")).await.json();
    assert_eq!(again["result"], "5", "{again}");
    assert_eq!(platform.result("7*6").await, "42");
    platform.stop().await;
}

#[tokio::test]
async fn each_daemon_by_itself_may_be_killed_under_load_and_no_request_is_lost() {
    let mut cloud = Cloud::start(3);
    let mut fleet = Fleet::new(Cloud::data(), &cloud.config(MIXED));
    let daemons = [
        "cluster",
        "scheduler-a",
        "scheduler-b",
        "gateway",
        "admin-a",
        "admin-b",
        "autoscaler-a",
        "autoscaler-b",
    ];
    for daemon in daemons {
        fleet.start(daemon);
    }
    let (url, http) = (fleet.url.clone(), fleet.http.clone());
    eventually("the gateway to be ready", || async {
        let answer = http.get(format!("{url}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    let mut load = Load::at(&fleet.url, fleet.http.clone(), Mix::All, 6);
    load.answered(12).await;
    for daemon in daemons {
        fleet.kill(daemon).await;
        // Accepted before, during and after: all of it goes on without that one, or waits for it.
        if !matches!(daemon, "gateway" | "cluster") {
            load.answered(6).await;
        }
        fleet.start(daemon);
        load.answered(12).await;
    }
    // And a member of etcd, of which two of three go on.
    let leader = cloud.etcd.leader();
    cloud.etcd.kill(leader);
    load.answered(12).await;
    cloud.etcd.restart(leader);
    load.answered(6).await;
    let report = load.finish().await;
    println!("{} requests, the slowest in {:?}", report.sent, report.slowest());
    report.assert_flawless();
    fleet.stop().await;
}
