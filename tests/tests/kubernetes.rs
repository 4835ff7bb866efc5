//! The platform as `daemons/deploy/local` deploys it: on a real Kubernetes, with etcd and what plays SQS and
//! DynamoDB on the node beside it, and each of the four faults under load.

#![cfg(feature = "engines")]

#[allow(dead_code, unreachable_pub, reason = "the tests of each engine use the rest")]
#[path = "../../daemons/tests/servers/installed.rs"]
mod servers;

use quorate_tests::{Load, Mix, Status, binary, eventually_within};
use servers::{etcd::Etcd, moto::Moto, proxy::Proxy};
use std::{
    io::Write,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

/// Where the overlay has the gateways.
const GATEWAY: &str = "http://127.0.0.1:30740";

/// Longer than images, pods and elections take on a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(240);

/// One function on four replicas; the others as they are cheapest.
const FUNCTIONS: [(&str, &str); 2] =
    [("QUORATE_FUNCTIONS_DEFAULT_REPLICATION", "none"), ("QUORATE_FUNCTIONS_MUL_REPLICATION", "{ f = 1 }")];

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What a command answers; it has to succeed.
fn run(program: &str, arguments: &[&str], input: &str) -> String {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(repository()).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{program}: {error}"));
    child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

fn kubectl(arguments: &[&str]) -> String {
    run("kubectl", arguments, "")
}

/// The platform, which goes however the test ends.
struct Deployed;

impl Deployed {
    fn apply(etcd: u16, aws: u16) -> Self {
        let left = kubectl(&["get", "namespace", "quorate", "--ignore-not-found", "-o", "name"]);
        assert!(left.is_empty(), "the cluster has a namespace quorate already, which is somebody's");
        let rendered = kubectl(&["kustomize", "daemons/deploy/local"]);
        let functions =
            FUNCTIONS.map(|(name, value)| format!("        - name: {name}\n          value: '{value}'\n"));
        let region = "        - name: QUORATE_AWS_REGION\n          value: us-east-1\n";
        assert!(rendered.contains(region), "the overlay says in which region the queues are");
        let manifests = rendered
            .replace(":2379", &format!(":{etcd}"))
            .replace(":4566", &format!(":{aws}"))
            .replace(region, &format!("{region}{}", functions.concat()));
        let deployed = Self;
        kubectl(&["apply", "-f", "daemons/deploy/base/namespace.yaml"]);
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path().join("tls");
        let make = ["tls", "make", folder.to_str().expect("is UTF-8"), "--secrets"];
        let secrets = run(binary().to_str().expect("is UTF-8"), &make, "");
        run("kubectl", &["-n", "quorate", "create", "-f", "-"], &secrets);
        run("kubectl", &["apply", "-f", "-"], &manifests);
        deployed
    }
}

impl Drop for Deployed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for what in [&["get", "pods", "-o", "wide"][..], &["get", "events", "--sort-by=.lastTimestamp"]] {
                let _ = Command::new("kubectl").args(["-n", "quorate"]).args(what).status();
            }
        }
        let _ = Command::new("kubectl").args(["delete", "namespace", "quorate", "--wait=false"]).status();
    }
}

async fn get(http: &reqwest::Client, path: &str) -> Option<String> {
    let answer = http.get(format!("{GATEWAY}{path}")).send().await.ok()?;
    if answer.status().is_success() { answer.text().await.ok() } else { None }
}

/// A replica of `mul` that leads its set, or does not.
async fn replica(http: &reqwest::Client, leads: bool) -> String {
    eventually_within(PATIENCE, "a set of mul with a primary and backups", || async {
        let all: Vec<Status> = serde_json::from_str(&get(http, "/v1/status").await?).ok()?;
        let of_mul = |s: &&Status| s.daemon == "replica" && s.function.as_deref() == Some("mul");
        let found = all.iter().filter(of_mul).find(|s| s.state == "ready" && s.primary == Some(leads))?;
        Some(format!("{}-replica-{}", found.set.as_ref()?, found.index?))
    })
    .await
}

/// Deletes pods with no warning.
fn delete(selector: &str) {
    let pods = kubectl(&["-n", "quorate", "get", "pods", "-l", selector, "-o", "name"]);
    let pod = pods.lines().next().unwrap_or_else(|| panic!("no pod is {selector}"));
    kubectl(&["-n", "quorate", "delete", pod, "--grace-period=0", "--force", "--wait=false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_in_kubernetes_survives_the_four_faults_and_no_request_is_lost() {
    run("tests/kubernetes/image", &[binary().to_str().expect("is UTF-8")], "");
    let address = "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
    let node = kubectl(&["get", "nodes", "-o", &format!("jsonpath={address}")]);
    let (moto, etcd) = (Moto::start(), Etcd::start(1));
    // What listens on this machine's loopback has to be reached from pods.
    let (aws, store) = (Proxy::on(&node, &moto.endpoint).await, Proxy::on(&node, &etcd.endpoint(0)).await);
    let _deployed = Deployed::apply(store.port, aws.port);

    let http = reqwest::Client::builder().timeout(PATIENCE).build().expect("needs nothing");
    eventually_within(PATIENCE, "a gateway to be ready", || get(&http, "/readyz")).await;
    let body = r#"{"expression": "((3+5)*(4-2))/1"}"#;
    let answer = eventually_within(PATIENCE, "the first answer", || async {
        let sent = http.post(format!("{GATEWAY}/v1/expressions?wait=30")).body(body).send().await.ok()?;
        if sent.status().as_u16() == 200 { sent.text().await.ok() } else { None }
    })
    .await;
    assert!(answer.contains(r#""result":"16""#), "{answer}");

    let mut load = Load::at(GATEWAY, http.clone(), Mix::All, 4);
    load.answered(10).await;
    // 1: a worker; it comes back under a higher incarnation.
    delete("quorate.io/function=add,app.kubernetes.io/component=worker");
    load.answered(10).await;
    // 2 and 3: the primary and a backup; a fresh set takes the place of each one's.
    for leads in [true, false] {
        delete(&format!("quorate.io/pod={}", replica(&http, leads).await));
        load.answered(10).await;
    }
    // 4: every daemon of the control plane, one of each.
    for daemon in ["gateway", "scheduler", "cluster", "admin", "autoscaler"] {
        delete(&format!("app.kubernetes.io/component={daemon}"));
        load.answered(5).await;
    }
    let report = load.finish().await;
    println!("{} requests, the slowest in {:?}", report.sent, report.slowest());
    report.assert_flawless();
}
