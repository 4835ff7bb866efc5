//! The autoscaler on a real platform: out with a burst, back to none after it, and everybody can see why.

use quorate_tests::{Load, Mix, Platform, eventually, eventually_within};
use serde_json::Value;
use std::time::Duration;

/// One operation at a time, and none shall wait long: a burst on one machine is more than a worker can take.
/// `balanced` would stand ready for another one for five minutes.
const SMALL: &str = "[functions.default]\nreplication = \"none\"\nslots = 1\npods_max = 3\nkeep_alive = \"2s\"\n\
                     policy = \"lean\"\nwait = \"10ms\"\n";

/// Longer than the policy holds what it has, on a machine that does much else.
const FORGOTTEN: Duration = Duration::from_secs(170);

/// How `add` is scaled.
async fn scaling(platform: &Platform) -> Option<Value> {
    let all = platform.get("/v1/scaling").await.json();
    all.as_array().expect("is a list").iter().find(|one| one["function"] == "add").cloned()
}

async fn workers(platform: &Platform) -> usize {
    platform.status().await.iter().filter(|status| status.daemon == "worker").count()
}

/// The value of a metric of `add`.
async fn metric(platform: &Platform, name: &str) -> Option<f64> {
    let all = platform.get("/metrics").await.text;
    let line = all.lines().find(|line| line.starts_with(&format!("{name}{{function=\"add\"")))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[tokio::test]
async fn a_burst_scales_out_and_back_to_zero() {
    let platform = Platform::up_logging(SMALL, "quorate::autoscaler=info").await;
    assert_eq!(workers(&platform).await, 0, "nothing was asked for yet");
    let load = Load::start(&platform, Mix::Only("add"), 64);
    let burst = eventually("more than one worker, and why", || async {
        let now = scaling(&platform).await?;
        (now["ready"].as_u64()? > 1 && now["forecast"].is_f64() && now["observed"].as_f64()? > 0.0)
            .then_some(now)
    })
    .await;
    assert_eq!((&burst["policy"], &burst["valid"]), (&"lean".into(), &true.into()), "{burst}");
    assert!(workers(&platform).await > 1 && burst["wanted"].as_u64() > Some(1), "{burst}");
    for name in
        ["quorate_load_observed", "quorate_load_forecast", "quorate_pods_desired", "quorate_scaling_reason"]
    {
        assert!(metric(&platform, name).await.is_some(), "{name}");
    }
    load.finish().await.assert_flawless();
    eventually_within(FORGOTTEN, "no worker", || async {
        let now = scaling(&platform).await?;
        (now["desired"] == 0 && workers(&platform).await == 0).then_some(())
    })
    .await;
    // The order and the metric are one tick apart.
    eventually("that nothing is ordered", || async {
        (metric(&platform, "quorate_pods_desired").await? == 0.0).then_some(())
    })
    .await;
    let log = platform.log();
    let decisions: Vec<_> = log.iter().filter(|line| line.contains("scaling")).collect();
    for part in ["policy=\"lean\"", "observed=", "forecast=", "desired=", "reason="] {
        assert!(decisions.iter().any(|line| line.contains(part)), "{part}: {decisions:?}");
    }
    // From none at once, not at the next look.
    assert_eq!(platform.result("1+2").await, "3");
    platform.stop().await;
}

#[tokio::test]
async fn what_a_policy_remembers_outlives_its_platform() {
    let platform = Platform::up(SMALL).await;
    let load = Load::start(&platform, Mix::Only("add"), 16);
    let is_busy = || async { (scaling(&platform).await?["observed"].as_f64()? > 0.5).then_some(()) };
    eventually("a load", is_busy).await;
    load.finish().await.assert_flawless();
    let data = platform.stop().await;
    let platform = Platform::up_on(data, SMALL).await;
    // Nobody has asked for anything yet, and it expects what was there before.
    eventually("a forecast of what was", || async {
        (scaling(&platform).await?["forecast"].as_f64()? > 0.1).then_some(())
    })
    .await;
    platform.stop().await;
}

#[tokio::test]
async fn top_says_the_same_as_json_and_refuses_a_pipe() {
    let platform = Platform::up(SMALL).await;
    assert_eq!(platform.result("1+2").await, "3");
    let look = platform.data.answer(&["top", "--json", "--count", "2", "--every", "100ms"]).await;
    let looks: Vec<Value> = look.lines().map(|line| serde_json::from_str(line).expect("is JSON")).collect();
    assert_eq!(looks.len(), 2);
    assert!(
        looks[1]["processes"].as_array().expect("a list").iter().any(|one| one["set"] == "add-0"),
        "{look}"
    );
    assert!(
        looks[1]["queues"].as_array().expect("a list").iter().any(|one| one["queue"] == "inbound"),
        "{look}"
    );
    assert!(looks[1]["scaling"].is_array() && looks[1]["faults"].is_array(), "{look}");
    let refused = platform.data.run(&["top"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("--json") && refused.stderr.contains("quorate status"), "{refused:?}");
    platform.stop().await;
}
