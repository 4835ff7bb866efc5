//! How a platform begins and ends: one on a folder, none left behind, and the next one remembers.

use quorate_tests::{BYZANTINE, Data, Load, Mix, NONE, Platform, process};
use rustix::process::Signal;
use serde_json::json;
use std::{fs, time::Duration};
use tokio::io::{AsyncBufReadExt, BufReader};

/// How long processes may live on after the one that they serve was killed.
const ORPHANED: Duration = Duration::from_secs(5);

/// A platform with pods, and their processes.
async fn with_pods(config: &str) -> Platform {
    let platform = Platform::up(config).await;
    assert_eq!(platform.result("(1+2)*3").await, "9");
    assert!(platform.data.processes().len() >= 4, "supervisor, control plane, two workers at least");
    platform
}

#[tokio::test]
async fn an_interrupted_platform_leaves_no_process() {
    let platform = with_pods(BYZANTINE).await;
    process::signal(platform.supervisor(), Signal::INT);
    let (_, status) = platform.gone().await;
    assert!(status.success(), "Ctrl-C is how it is meant to end: {status}");
}

#[tokio::test]
async fn a_terminated_platform_leaves_no_process() {
    let platform = with_pods(BYZANTINE).await;
    process::signal(platform.supervisor(), Signal::TERM);
    platform.gone().await;
}

#[tokio::test]
async fn ctrl_c_in_a_terminal_leaves_no_process() {
    let config = BYZANTINE;
    let platform = Platform::up_in_a_group(config).await;
    assert_eq!(platform.result("(1+2)*3").await, "9");
    // A terminal signals the whole group, under load as well as not.
    let load = Load::start(&platform, Mix::All, 4);
    process::signal_group(platform.supervisor(), Signal::INT);
    platform.gone().await;
    drop(load);
}

#[tokio::test]
async fn a_killed_supervisor_leaves_no_process() {
    let platform = with_pods(BYZANTINE).await;
    process::kill(platform.supervisor());
    let left = platform.data.processes();
    tokio::time::timeout(ORPHANED, async {
        for orphan in left {
            process::ended(orphan.pid).await;
        }
    })
    .await
    .expect("they end by themselves");
    platform.gone().await;
}

#[tokio::test]
async fn a_killed_supervisor_leaves_not_even_a_stopped_pod() {
    let platform = with_pods(BYZANTINE).await;
    let worker = platform.worker("add").await;
    process::signal(worker.process(), Signal::STOP);
    process::kill(platform.supervisor());
    platform.gone().await;
}

#[tokio::test]
async fn an_interrupted_platform_leaves_not_even_a_stopped_pod() {
    // Probes that never come do not replace what is stopped.
    let platform = with_pods(&format!("{BYZANTINE}[timeouts]\nprobe_every = \"60s\"\n")).await;
    let worker = platform.worker("add").await;
    process::signal(worker.process(), Signal::STOP);
    platform.stop().await;
}

/// An expression of 20,000 different operations: whoever computes it is at work when it is struck.
fn long_sum() -> String {
    (1..=20_000).map(|n| n.to_string()).collect::<Vec<_>>().join("+")
}

#[tokio::test]
async fn a_killed_eval_leaves_no_process() {
    let data = Data::new();
    let sum = long_sum();
    let mut eval = data.command(&["eval", &sum]).spawn().expect("the binary was just built");
    let pid = eval.id().expect("was just started");
    quorate_tests::eventually("pods", || async { (data.processes().len() >= 4).then_some(()) }).await;
    process::kill(pid);
    let _ = eval.wait().await;
    data.deserted(ORPHANED).await;
}

#[tokio::test]
async fn an_interrupted_eval_leaves_no_process() {
    let data = Data::new();
    let sum = long_sum();
    let mut eval = data.command(&["eval", &sum]).spawn().expect("the binary was just built");
    let pid = eval.id().expect("was just started");
    quorate_tests::eventually("pods", || async { (data.processes().len() >= 4).then_some(()) }).await;
    process::signal(pid, Signal::INT);
    let _ = tokio::time::timeout(ORPHANED, eval.wait()).await.expect("it ends");
    data.deserted(ORPHANED).await;
}

#[tokio::test]
async fn an_eval_that_is_told_to_end_leaves_no_file() {
    for signal in [Signal::INT, Signal::TERM] {
        let data = Data::new();
        let temporary = data.path().join("temporary");
        fs::create_dir(&temporary).expect("the folder is ours");
        let sum = long_sum();
        let mut eval = data.command(&["eval", &sum]);
        let mut eval = eval.env("TMPDIR", &temporary).spawn().expect("the binary was just built");
        let left = || fs::read_dir(&temporary).expect("was just made").count();
        quorate_tests::eventually("its state", || async { (left() > 0).then_some(()) }).await;
        process::signal(eval.id().expect("was just started"), signal);
        let ended = tokio::time::timeout(ORPHANED, eval.wait()).await.expect("it ends");
        assert_eq!(ended.expect("is our child").code(), Some(4), "{signal:?}");
        data.deserted(ORPHANED).await;
        assert_eq!(left(), 0, "{signal:?}");
    }
}

#[tokio::test]
async fn a_second_platform_on_the_same_folder_is_refused() {
    let platform = Platform::up(NONE).await;
    let output = platform.data.run(&["up", "--listen", "127.0.0.1:0"]).await;
    assert!(matches!(output.code, Some(2 | 3)), "{output:?}");
    let folder = platform.data.path().to_str().expect("is UTF-8");
    assert!(output.stderr.contains(folder) || output.stderr.contains(&platform.url), "{output:?}");
    assert_eq!(platform.result("1+1").await, "2", "the first one does not mind");
    platform.stop().await;
}

#[tokio::test]
async fn a_daemon_by_itself_beside_a_platform_is_refused() {
    let platform = Platform::up(NONE).await;
    let folder = platform.data.path().to_str().expect("is UTF-8");
    for daemon in ["cluster", "gateway", "scheduler", "admin", "autoscaler"] {
        let output = platform.data.run(&[daemon, "--set", "listen=127.0.0.1:0"]).await;
        assert_eq!(output.code, Some(3), "{daemon}: {output:?}");
        let said = output.stderr.trim_end();
        assert!(said.contains(folder) && said.contains("quorate up (process "), "{daemon}: {said}");
        assert_eq!(said.lines().count(), 1, "{daemon}: {said}");
    }
    platform.stop().await;
}

#[tokio::test]
async fn five_daemons_by_themselves_are_a_platform_with_one_cluster_service() {
    let data = Data::new();
    data.file("quorate.toml", NONE);
    let arguments = ["--set", "listen=127.0.0.1:0", "--log", "quorate::gateway=info"];
    let mut daemons = Vec::new();
    for daemon in ["cluster", "scheduler", "admin", "autoscaler", "gateway"] {
        daemons.push(data.command(&[&[daemon], &arguments[..]].concat()).spawn().expect("starts"));
    }
    let stderr = daemons[4].stderr.take().expect("is piped");
    let mut lines = BufReader::new(stderr).lines();
    let url = loop {
        let line = lines.next_line().await.expect("speaks UTF-8").expect("says where it listens");
        if let Some((_, address)) = line.split_once("address=") {
            break format!("http://{}", address.split_whitespace().next().expect("an address"));
        }
    };
    assert_eq!(data.answer(&["eval", "1+2", "--url", &url]).await, "3");
    for command in ["cluster", "up"] {
        let second = data.run(&[&[command], &arguments[..2]].concat()).await;
        assert_eq!(second.code, Some(3), "{command}: {second:?}");
        assert!(second.stderr.contains(data.path().to_str().expect("is UTF-8")), "{second:?}");
    }
    assert_eq!(data.answer(&["eval", "2+2", "--url", &url]).await, "4");
    for daemon in &daemons {
        process::signal(daemon.id().expect("runs"), Signal::TERM);
    }
    for mut daemon in daemons {
        assert!(daemon.wait().await.expect("is our child").success());
    }
    data.deserted(ORPHANED).await;
}

#[tokio::test]
async fn a_folder_in_which_no_pod_can_be_started_ends_no_daemon() {
    let platform = Platform::up(NONE).await;
    assert_eq!(platform.result("1+2").await, "3");
    let gateway = platform.find("the gateway", |s| s.daemon == "gateway").await.process();
    let pods = platform.data.path().join("platform/pods");
    let aside = pods.with_extension("aside");
    fs::rename(&pods, &aside).expect("specs lie there");
    fs::write(&pods, "in the way").expect("the folder is ours");
    let accepted = platform.post("/v1/expressions", r#"{"expression": "3*4"}"#).await;
    assert_eq!(accepted.status, 202, "{accepted:?}");
    quorate_tests::eventually("a start that failed", || async {
        platform.log().iter().any(|line| line.contains("can't write its spec")).then_some(())
    })
    .await;
    fs::remove_file(&pods).expect("was written above");
    fs::rename(&aside, &pods).expect("was put there");
    assert_eq!(platform.result("3*4").await, "12", "it is started once there is room");
    let after = platform.find("the gateway", |s| s.daemon == "gateway").await.process();
    assert_eq!(after, gateway, "and nothing else has ended");
    platform.stop().await;
}

#[tokio::test]
async fn the_next_platform_on_a_folder_answers_for_the_former() {
    let platform = Platform::up(BYZANTINE).await;
    let done =
        platform.post("/v1/expressions?wait=30", r#"{"expression": "6*7", "receipt": true}"#).await.json();
    assert_eq!(done["result"], "42", "{done}");
    let id = done["id"].as_str().expect("has an id").to_owned();
    let data = platform.stop().await;

    let platform = Platform::up_on(data, BYZANTINE).await;
    let record = platform.get(&format!("/v1/expressions/{id}")).await;
    assert_eq!((record.status, &record.json()["result"]), (200, &json!("42")), "{record:?}");
    assert_eq!(platform.get(&format!("/v1/receipts/{id}")).await.status, 200);
    assert_eq!(platform.result("6*7").await, "42", "and computes");
    platform.stop().await;
}

#[tokio::test]
async fn what_a_killed_platform_had_accepted_the_next_one_answers() {
    let platform = Platform::up(BYZANTINE).await;
    let mut ids = Vec::new();
    for n in 0..20 {
        let body = json!({ "expression": format!("({n}+1)*2") }).to_string();
        let accepted = platform.post("/v1/expressions", &body).await;
        assert_eq!(accepted.status, 202, "{accepted:?}");
        ids.push(accepted.json()["id"].as_str().expect("has an id").to_owned());
    }
    process::kill(platform.supervisor());
    let (data, _) = platform.gone().await;

    let platform = Platform::up_on(data, BYZANTINE).await;
    for (n, id) in ids.iter().enumerate() {
        let done = quorate_tests::eventually("an answer of the former life", || async {
            let answer = platform.get(&format!("/v1/expressions/{id}")).await;
            assert_eq!(answer.status, 200, "an id that was answered is never unknown: {answer:?}");
            (answer.json()["status"] != "accepted").then(|| answer.json())
        })
        .await;
        assert_eq!(done["result"], ((n + 1) * 2).to_string(), "{done}");
    }
    platform.stop().await;
}
