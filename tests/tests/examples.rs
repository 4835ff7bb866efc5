//! The report's two platforms, as the example configurations have them.

use quorate_tests::{Load, Mix, Platform, eventually, process};
use rustix::process::Signal;

const PLATFORM_1: &str = include_str!("../../daemons/examples/platform-1.toml");
const PLATFORM_2: &str = include_str!("../../daemons/examples/platform-2.toml");

#[tokio::test]
async fn platform_1_answers_a_burst_with_more_pods() {
    let platform = Platform::up(PLATFORM_1).await;
    assert_eq!(platform.result("((3+5)*(4/2))").await, "16");
    let workers = || async {
        let all = platform.status().await;
        let working = |s: &&quorate_tests::Status| {
            (s.daemon.as_str(), s.function.as_deref(), s.state.as_str()) == ("worker", Some("add"), "ready")
        };
        all.iter().filter(working).count()
    };
    assert_eq!(workers().await, 1, "one worker is enough for one request");
    let load = Load::start(&platform, Mix::Only("add"), 64);
    eventually("more workers of the layer that is too long", || async {
        (workers().await > 1).then_some(())
    })
    .await;
    load.finish().await.assert_flawless();
    platform.stop().await;
}

#[tokio::test]
async fn platform_2_survives_the_four_faults_under_load() {
    let platform = Platform::up(PLATFORM_2).await;
    assert_eq!(platform.result("((3+5)*(4/2))").await, "16");
    let mut load = Load::start(&platform, Mix::All, 8);
    load.answered(50).await;
    let control = platform.find("the control plane", |s| s.daemon == "scheduler").await;
    for victim in
        [platform.worker("mul").await, platform.primary("add").await, platform.backup("sub").await, control]
    {
        process::signal(victim.process(), Signal::KILL);
        load.answered(50).await;
        if victim.set.is_some() {
            platform.replaced(&victim).await;
        }
    }
    load.answered(50).await;
    load.finish().await.assert_flawless();
    let faults = platform.data.answer(&["faults", "--json"]).await;
    let faults: serde_json::Value = serde_json::from_str(&faults).expect("is JSON");
    let kinds: std::collections::BTreeSet<_> =
        faults.as_array().expect("a list").iter().filter_map(|fault| fault["type"].as_u64()).collect();
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4], "{faults}");
    platform.stop().await;
}
