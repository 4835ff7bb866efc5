//! The platform as `daemons/deploy/local` deploys it: on the Kubernetes of `KUBECONFIG`, with etcd and what plays SQS
//! and DynamoDB on the node beside it.

#[path = "../../daemons/tests/kubernetes/api_server.rs"]
pub mod api_server;

use crate::{
    Status, binary, data, process,
    servers::{etcd::Etcd, moto::Moto, proxy::Proxy},
};
use api_server::Stopped;
use serde_json::Value;
use std::{
    env,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Where the overlay has the gateways: a NodePort, on loopback.
pub const GATEWAY: &str = "http://127.0.0.1:30740";

/// Longer than images, pods and elections take on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// How long a client waits for a connection, and for an answer: more than the longest wait that it asks for.
const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(20);

/// The image of the real binary.
const IMAGE: &str = "quorate:local";

/// A platform, which goes however the test ends.
pub struct Deployed {
    /// Keeps connections, as a client that sends much does.
    pub http: reqwest::Client,
    _servers: (Moto, Etcd, Proxy, Proxy),
    /// Where the cluster keeps what is about itself.
    folder: PathBuf,
    /// There is one namespace and one NodePort; and whoever stops the API server is alone.
    _locks: [File; 2],
}

/// What is otherwise about the pods of worker sets: another program in their image, and its environment.
#[derive(Clone, Copy, Debug)]
pub struct Pods<'a> {
    /// The image's name.
    pub image: &'a str,
    /// Its program.
    pub program: &'a Path,
    /// `NAME=VALUE`.
    pub variable: &'a str,
}

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

/// What `kubectl` answers; it has to succeed.
///
/// # Panics
/// When it does not.
pub fn kubectl(arguments: &[&str]) -> String {
    run("kubectl", arguments, "")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("is UTF-8")
}

/// The overlay, over a base that is configured further.
fn rendered(config: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder in /tmp");
    for part in ["base", "local"] {
        let to = folder.path().join(part);
        fs::create_dir(&to).expect("the folder is ours");
        for entry in fs::read_dir(repository().join("daemons/deploy").join(part)).expect("is there") {
            let entry = entry.expect("stays while we read");
            fs::copy(entry.path(), to.join(entry.file_name())).expect("the folder is ours");
        }
    }
    let file = folder.path().join("base/quorate.toml");
    let read = |text: &str| -> toml::Table { text.parse().expect("is TOML") };
    let mut all = read(&fs::read_to_string(&file).expect("is in the base"));
    all.extend(read(config));
    fs::write(&file, all.to_string()).expect("the folder is ours");
    kubectl(&["kustomize", text(&folder.path().join("local"))])
}

impl Deployed {
    /// Deploys it, configured further than the overlay does, and waits until it has answered a request that needs
    /// all functions.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start(config: &str, pods: Option<Pods<'_>>) -> Self {
        Self::deploy(config, pods, File::lock_shared).await
    }

    /// The same while no other test uses the cluster.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn start_alone(config: &str) -> Self {
        Self::deploy(config, None, File::lock).await
    }

    async fn deploy(
        config: &str,
        pods: Option<Pods<'_>>,
        lock: impl FnOnce(&File) -> std::io::Result<()>,
    ) -> Self {
        let alone = data::lock(&crate::binary::target().0.join("tmp/kubernetes.lock"));
        let kubeconfig =
            env::var_os("KUBECONFIG").expect("names a cluster: tests/kubernetes/up brings one up");
        let folder = Path::new(&kubeconfig).parent().expect("lies in a folder").to_owned();
        let users = File::create(folder.join("tests.lock")).expect("lies beside it");
        lock(&users).expect("the file system has locks");
        kubectl(&["wait", "--for=delete", "namespace/quorate", "--timeout=180s"]);
        run("tests/kubernetes/image", &[text(binary())], "");
        if let Some(pods) = pods {
            run("tests/kubernetes/image", &[text(pods.program), pods.image, pods.variable], "");
        }
        let address = "{.items[0].status.addresses[?(@.type==\"InternalIP\")].address}";
        let node = kubectl(&["get", "nodes", "-o", &format!("jsonpath={address}")]);
        let (moto, etcd) = (Moto::start(), Etcd::start(1));
        // What listens on this machine's loopback has to be reached from pods.
        let aws = Proxy::on(&node, &moto.endpoint).await;
        let store = Proxy::on(&node, &etcd.endpoint(0)).await;
        let image = pods.map_or(IMAGE, |pods| pods.image);
        let of_pods = format!("value: {IMAGE}");
        let rendered = rendered(config);
        assert!(rendered.contains(&of_pods), "the base says which image pods have");
        let manifests = rendered
            .replace(":2379", &format!(":{}", store.port))
            .replace(":4566", &format!(":{}", aws.port))
            .replace(&of_pods, &format!("value: {image}"));
        // Whoever a connection led to may be gone without a word: a careful client gives up and asks again.
        let http = reqwest::Client::builder().connect_timeout(CONNECT).timeout(ANSWER).build();
        let http = http.expect("needs nothing");
        let deployed = Self { http, _servers: (moto, etcd, aws, store), folder, _locks: [alone, users] };
        kubectl(&["apply", "-f", "daemons/deploy/base/namespace.yaml"]);
        let folder = tempfile::tempdir().expect("a folder");
        let certificates = folder.path().join("tls");
        let secrets = run(text(binary()), &["tls", "make", text(&certificates), "--secrets"], "");
        run("kubectl", &["-n", "quorate", "create", "-f", "-"], &secrets);
        run("kubectl", &["apply", "-f", "-"], &manifests);
        crate::eventually_within(PATIENCE, "a gateway to be ready", || deployed.get("/readyz")).await;
        let answer = crate::eventually_within(PATIENCE, "the first answer", || async {
            let body = r#"{"expression": "((3+5)*(4-2))/1"}"#;
            let url = format!("{GATEWAY}/v1/expressions?wait=10");
            let sent = deployed.http.post(url).body(body).send().await.ok()?;
            if sent.status().as_u16() == 200 { sent.text().await.ok() } else { None }
        })
        .await;
        assert!(answer.contains(r#""result":"16""#), "{answer}");
        deployed
    }

    /// What the gateways answer, when they do.
    pub async fn get(&self, path: &str) -> Option<String> {
        let answer = self.http.get(format!("{GATEWAY}{path}")).send().await.ok()?;
        if answer.status().is_success() { answer.text().await.ok() } else { None }
    }

    /// All processes, as a gateway knows them.
    pub async fn status(&self) -> Option<Vec<Status>> {
        serde_json::from_str(&self.get("/v1/status").await?).ok()
    }

    /// The faults that are kept.
    pub async fn faults(&self) -> Option<Vec<Value>> {
        serde_json::from_str(&self.get("/v1/faults").await?).ok()
    }

    /// The one process that `which` describes, once it is there.
    pub async fn find(&self, what: &str, which: impl Fn(&Status) -> bool) -> Status {
        let look = || async { self.status().await?.into_iter().find(&which) };
        crate::eventually_within(PATIENCE, what, look).await
    }

    /// The objects that a selector finds.
    #[must_use]
    pub fn pods(&self, selector: &str) -> Vec<String> {
        let pods = kubectl(&["-n", "quorate", "get", "pods", "-l", selector, "-o", "name"]);
        pods.lines().map(str::to_owned).collect()
    }

    /// All that run and were not told to end: each one's component, and the object.
    #[must_use]
    pub fn running(&self) -> Vec<(String, String)> {
        let each = "{.metadata.labels.app\\.kubernetes\\.io/component} pod/{.metadata.name} \
                    {.metadata.deletionTimestamp}{\"\\n\"}";
        let running = "@.status.phase==\"Running\"";
        let template = format!("jsonpath={{range .items[?({running})]}}{each}{{end}}");
        let all = kubectl(&["-n", "quorate", "get", "pods", "-o", &template]);
        let parts = all.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        parts
            .filter_map(|parts| match parts[..] {
                [component, pod] => Some((component.to_owned(), pod.to_owned())),
                _ => None,
            })
            .collect()
    }

    /// What pods have written.
    #[must_use]
    pub fn logs(&self, selector: &str) -> String {
        kubectl(&["-n", "quorate", "logs", "-l", selector, "--tail=-1"])
    }

    /// Ends a pod with no warning.
    pub fn kill(&self, pod: &str) {
        kubectl(&["-n", "quorate", "delete", pod, "--grace-period=0", "--force", "--wait=false"]);
    }

    /// Ends the process of a pod with no warning, whether or not the API server is there.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_process(&self, object: &str) {
        let found = process::of(&format!("HOSTNAME={object}"), object);
        let found = found.iter().find(|process| process.command.contains("--spec"));
        process::kill(found.unwrap_or_else(|| panic!("no process is {object}")).pid);
    }

    /// Stops the API server until what this gives is dropped; only who is alone may.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn stop_api_server(&self) -> Stopped {
        api_server::stop(&self.folder)
    }

    /// Ends the first that a selector finds.
    ///
    /// # Panics
    /// When it finds none.
    pub fn kill_one(&self, selector: &str) {
        let pods = self.pods(selector);
        self.kill(pods.first().unwrap_or_else(|| panic!("no pod is {selector}")));
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
