//! The commands beside `eval`: exit codes, plans, keys, status, configuration.

use quorate_tests::{BYZANTINE, Data, NONE, Platform};
use serde_json::Value;

#[tokio::test]
async fn wrong_usage_is_exit_code_2() {
    let data = Data::empty();
    for arguments in [
        &["eval"][..],
        &["no-such-command"],
        &["eval", "1", "--no-such-flag"],
        &["eval", "a", "-p", "a"],
        &[],
    ] {
        let output = data.run(arguments).await;
        assert_eq!(output.code, Some(2), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(
            output.stderr.contains("--help") || output.stderr.contains("Usage"),
            "{arguments:?}: {output:?}"
        );
    }
}

#[tokio::test]
async fn a_platform_that_is_not_there_is_exit_code_3() {
    let data = Data::empty();
    // Bound and released: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has ports");
    let url = format!("http://{}", free.local_addr().expect("is bound"));
    drop(free);
    for arguments in [&["eval", "1+1", "--url", &url][..], &["status", "--url", &url], &["status"]] {
        let output = data.run(arguments).await;
        assert_eq!(output.code, Some(3), "{arguments:?}: {output:?}");
        assert_eq!(output.stdout, "");
        assert!(!output.stderr.trim().is_empty(), "{arguments:?} says why");
    }
}

#[tokio::test]
async fn a_request_that_is_not_answered_in_time_is_exit_code_4() {
    // The platform's deadline passes before its function can be there.
    let platform = Platform::up(&format!("{BYZANTINE}[timeouts]\nrequest = \"1ms\"\n")).await;
    let output = platform.data.run(&["eval", "1+1"]).await;
    assert_eq!((output.code, output.stdout.as_str()), (Some(4), ""), "{output:?}");
    platform.stop().await;
}

#[tokio::test]
async fn a_plan_is_rendered_as_text_dot_mermaid_and_json() {
    let data = Data::empty();
    let expression = "((3+5)*(4/2))";
    let text = data.answer(&["plan", expression]).await;
    for word in ["wave", "critical path"] {
        assert!(text.to_lowercase().contains(word), "{word} is not in\n{text}");
    }
    assert!(data.answer(&["plan", expression, "--dot"]).await.starts_with("digraph"));
    let mermaid = data.answer(&["plan", expression, "--mermaid"]).await;
    assert!(mermaid.starts_with("flowchart") || mermaid.starts_with("graph"), "{mermaid}");
    let json = data.answer(&["plan", expression, "--json"]).await;
    let plan: Value = serde_json::from_str(&json).expect("is JSON");
    assert_eq!(plan["nodes"].as_array().map(Vec::len), Some(3), "{plan}");
    let wrong = data.run(&["plan", "1+"]).await;
    assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(1), ""), "{wrong:?}");
}

#[tokio::test]
async fn status_shows_every_process_and_who_leads() {
    let platform = Platform::up(&format!("{BYZANTINE}[functions.mul]\nreplication = \"none\"\n")).await;
    assert_eq!(platform.result("(1+2)*3").await, "9");
    platform.replicas("add").await;
    platform.worker("mul").await;
    let json = platform.data.answer(&["status", "--json"]).await;
    let all: Vec<Value> = serde_json::from_str(&json).expect("is an array");
    for status in &all {
        let keys = [
            "daemon",
            "function",
            "set",
            "index",
            "pid",
            "address",
            "state",
            "incarnation",
            "view",
            "primary",
        ];
        for key in keys {
            assert!(status.get(key).is_some(), "{key} is not in {status}");
        }
    }
    let of = |daemon: &str| all.iter().filter(|s| s["daemon"] == daemon).collect::<Vec<_>>();
    for daemon in ["gateway", "scheduler", "cluster", "admin", "autoscaler"] {
        assert_eq!(of(daemon).len(), 1, "{daemon}: {json}");
    }
    assert_eq!(of("worker").len(), 2, "{json}");
    let replicas = of("replica");
    assert_eq!(replicas.len(), 4, "{json}");
    assert_eq!(replicas.iter().filter(|r| r["primary"] == true).count(), 1, "{json}");
    assert!(
        replicas.iter().all(|r| r["set"] == "add-0" && r["view"] == 0 && r["state"] == "ready"),
        "{json}"
    );
    let mut pids: Vec<_> = of("worker").iter().chain(&replicas).map(|s| s["pid"].as_u64()).collect();
    pids.sort_unstable();
    pids.dedup();
    assert!(pids.len() == 6 && !pids.contains(&None), "each pod is a process: {json}");
    let text = platform.data.answer(&["status"]).await;
    assert!(text.contains("add-0") && text.contains("mul-0"), "{text}");
    platform.stop().await;
}

#[tokio::test]
async fn keys_show_the_public_keys_of_every_set() {
    let data = Data::new();
    let keys: Value = serde_json::from_str(&data.answer(&["keys", "show", "--json"]).await).expect("is JSON");
    for set in ["add-0", "sub-0", "mul-0", "div-0"] {
        let keys = keys["sets"][set].as_array().unwrap_or_else(|| panic!("{set}: {keys}"));
        assert_eq!(keys.len(), 4, "{set}");
        assert!(keys.iter().all(|key| key.as_str().is_some_and(|key| key.len() > 500)), "{set}: hex DER");
    }
    let text = data.answer(&["keys", "show"]).await;
    assert!(text.contains("add-0"), "{text}");
}

#[tokio::test]
async fn a_wrong_configuration_names_file_line_key_and_what_was_meant() {
    let data = Data::empty();
    let wrong = data.file("wrong.toml", "listen = \"127.0.0.1:0\"\n\n[limits]\nnods = 10\n");
    let wrong = wrong.to_str().expect("is UTF-8");
    for arguments in [&["up", "--config", wrong][..], &["config", "check", "--config", wrong]] {
        let output = data.run(arguments).await;
        assert_eq!((output.code, output.stdout.as_str()), (Some(2), ""), "{arguments:?}: {output:?}");
        for said in [&format!("{wrong}:4"), "nods", "did you mean", "nodes"] {
            assert!(output.stderr.contains(said), "{said} is not in\n{}", output.stderr);
        }
    }
    let value = data.file("value.toml", "[functions.add]\nreplication = { f = 0 }\n");
    let output = data.run(&["up", "--config", value.to_str().expect("is UTF-8")]).await;
    assert_eq!(output.code, Some(2), "{output:?}");
    assert!(output.stderr.contains("value.toml:2") && output.stderr.contains("replication"), "{output:?}");
}

#[tokio::test]
async fn config_check_says_what_is_in_force_and_where_it_came_from() {
    let data = Data::empty();
    let file = data.file("right.toml", "[limits]\nnodes = 77\n");
    let mut command = data.command(&["config", "check", "--config", file.to_str().expect("is UTF-8")]);
    let output = command.env("QUORATE_LIMITS_NESTING", "88").output().await.expect("runs");
    let text = String::from_utf8(output.stdout).expect("is UTF-8");
    assert_eq!(output.status.code(), Some(0), "{text}");
    for said in ["77", "right.toml", "88", "QUORATE_LIMITS_NESTING"] {
        assert!(text.contains(said), "{said} is not in\n{text}");
    }
}

#[tokio::test]
async fn the_version_and_the_help_are_answers() {
    let data = Data::empty();
    assert!(data.answer(&["--version"]).await.starts_with("quorate "));
    let help = data.answer(&["--help"]).await;
    for command in ["eval", "up", "status", "plan", "verify", "keys", "config"] {
        assert!(help.contains(command), "{command} is not in\n{help}");
    }
}

#[tokio::test]
async fn a_function_can_be_scaled_by_hand() {
    let platform = Platform::up(NONE).await;
    platform.data.answer(&["scale", "add", "2"]).await;
    platform
        .find("a second worker of add", |s| s.set.as_deref() == Some("add-1") && s.state == "ready")
        .await;
    assert_eq!(platform.result("1+1").await, "2");
    platform.stop().await;
}

#[tokio::test]
async fn a_platform_with_tokens_lets_in_who_has_one() {
    let data = Data::new();
    let token = data.answer(&["tokens", "make", "ci", "--scope", "submit", "--rate", "50"]).await;
    assert!(token.starts_with("quorate_"), "{token}");
    let file = data.file("token", &format!("{token}\n")).display().to_string();
    let listed = data.answer(&["tokens", "list"]).await;
    assert!(listed.contains("ci") && listed.contains("submit") && listed.contains("50"), "{listed}");
    assert!(!listed.contains(&token["quorate_".len()..]), "it can't be shown again");
    let platform = Platform::up_on(data, NONE).await;
    let refused = platform.data.run(&["eval", "1+1"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(refused.stderr.contains("quorate tokens"), "{refused:?}");
    assert_eq!(platform.data.answer(&["eval", "1+1", "--token-file", &file]).await, "2");
    let refused = platform.data.run(&["status", "--token-file", &file]).await;
    assert!(refused.stderr.contains("token ci lacks scope read"), "{refused:?}");
    assert!(platform.log().iter().all(|line| !line.contains(&token)), "no token is logged");
    assert_eq!(platform.data.answer(&["tokens", "revoke", "ci"]).await, "ci is revoked");
    quorate_tests::eventually("the token to be unknown", || async {
        let refused = platform.data.run(&["eval", "1+1", "--token-file", &file]).await;
        (refused.code == Some(2)).then_some(())
    })
    .await;
    platform.stop().await;
}
