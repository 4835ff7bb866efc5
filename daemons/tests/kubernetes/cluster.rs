//! The cluster that the tests are given: an image of this program on its node, a namespace for each test.

use crate::api_server::{self, Stopped};
use futures::FutureExt;
use k8s_openapi::api::{
    core::v1::{Namespace, Pod, ServiceAccount},
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api, Client, Config,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
    runtime::{conditions, wait::await_condition},
};
use serde_json::json;
use std::{
    fs::File,
    hash::{DefaultHasher, Hash, Hasher},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) namespace: String,
    pub(crate) image: String,
    folder: PathBuf,
}

/// Runs a test in a namespace of its own, which goes with it however it ends.
pub(crate) async fn in_namespace(name: &str, test: impl AsyncFnOnce(&Cluster)) {
    run(name, false, test).await;
}

/// The same while no other test uses the cluster.
pub(crate) async fn alone_in_namespace(name: &str, test: impl AsyncFnOnce(&Cluster)) {
    run(name, true, test).await;
}

async fn run(name: &str, alone: bool, test: impl AsyncFnOnce(&Cluster)) {
    let kubeconfig = std::env::var_os("KUBECONFIG").map(PathBuf::from);
    let kubeconfig = kubeconfig.expect("KUBECONFIG names a cluster: tests/kubernetes/up brings one up");
    let folder = kubeconfig.parent().unwrap().to_owned();
    let image = image(&folder);
    let lock = File::create(folder.join("tests.lock")).unwrap();
    let locked = tokio::task::spawn_blocking(move || {
        if alone {
            lock.lock().unwrap()
        } else {
            lock.lock_shared().unwrap()
        }
        lock
    });
    let _lock = locked.await.unwrap();
    let client = Client::try_from(Config::infer().await.unwrap()).unwrap();
    let namespace = format!("quorate-test-{name}-{}", std::process::id());
    let cluster = Cluster { client, namespace, image, folder };
    cluster.open().await;
    let outcome = AssertUnwindSafe(test(&cluster)).catch_unwind().await;
    if outcome.is_err() {
        cluster.report();
    }
    cluster.close().await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

impl Cluster {
    async fn open(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let namespace = serde_json::from_value(json!({ "metadata": { "name": self.namespace } })).unwrap();
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        // Pods are refused until it is there.
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &self.namespace);
        let is_there = |account: Option<&ServiceAccount>| account.is_some();
        let waiting = await_condition(accounts, "default", is_there);
        tokio::time::timeout(PATIENCE, waiting).await.expect("a service account").unwrap();
    }

    async fn close(&self) {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        namespaces.delete(&self.namespace, &DeleteParams::default()).await.unwrap();
    }

    /// What the cluster says of a test that failed.
    fn report(&self) {
        for what in [
            &["get", "pods", "-o", "wide"][..],
            &["get", "events"],
            &["logs", "--tail=20", "-l", "quorate.io/pod"],
        ] {
            let _ = Command::new("kubectl").arg("-n").arg(&self.namespace).args(what).status();
        }
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The object of a pod that runs.
    pub(crate) async fn object(&self, pod: &str) -> String {
        let found = self.pods().list(&ListParams::default().labels(&format!("quorate.io/pod={pod}"))).await;
        let mut running =
            found.unwrap().items.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
        running.next().expect("it runs").metadata.name.unwrap()
    }

    /// Waits until no pod is left.
    pub(crate) async fn no_pods(&self) {
        for pod in self.pods().list(&ListParams::default()).await.unwrap() {
            let gone = conditions::is_deleted(pod.metadata.uid.as_deref().unwrap());
            let gone = await_condition(self.pods(), pod.metadata.name.as_deref().unwrap(), gone);
            tokio::time::timeout(PATIENCE, gone).await.expect("it goes").unwrap();
        }
        let left = self.pods().list(&ListParams::default()).await.unwrap().items;
        assert!(left.is_empty(), "{left:?}");
    }

    /// The version of evictions and budgets that the cluster has.
    async fn policy_version(&self) -> String {
        let groups = self.client.list_api_groups().await.unwrap().groups;
        let policy = groups.into_iter().find(|group| group.name == "policy").expect("it has policies");
        policy.preferred_version.expect("of some version").version
    }

    /// Has a pod evicted. The client asks again while a budget holds the pod (429).
    pub(crate) async fn evict(&self, object: &str) {
        let path = format!("/api/v1/namespaces/{}/pods/{object}/eviction", self.namespace);
        let version = format!("policy/{}", self.policy_version().await);
        let eviction = json!({ "apiVersion": version, "kind": "Eviction",
                               "metadata": { "name": object, "namespace": self.namespace } });
        let request = hyper::Request::post(&path).header("content-type", "application/json");
        let request = request.body(eviction.to_string().into_bytes()).unwrap();
        self.client.request_text(request).await.unwrap();
    }

    /// The budgets of this namespace.
    pub(crate) async fn budgets(&self) -> Api<DynamicObject> {
        let kind = GroupVersionKind::gvk("policy", &self.policy_version().await, "PodDisruptionBudget");
        let resource = ApiResource::from_gvk_with_plural(&kind, "poddisruptionbudgets");
        Api::namespaced_with(self.client.clone(), &self.namespace, &resource)
    }

    /// A service account with just these rights in the namespace.
    pub(crate) async fn role(&self, name: &str, rights: &[(&str, &[&str])]) {
        let rules: Vec<_> = rights
            .iter()
            .map(|(resource, verbs)| json!({ "apiGroups": [""], "resources": [resource], "verbs": verbs }))
            .collect();
        let metadata = json!({ "name": name });
        let account = serde_json::from_value(json!({ "metadata": metadata })).unwrap();
        let role = serde_json::from_value(json!({ "metadata": metadata, "rules": rules })).unwrap();
        let binding = serde_json::from_value(json!({
            "metadata": metadata,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name },
            "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": self.namespace }],
        }))
        .unwrap();
        let (client, namespace) = (|| self.client.clone(), &self.namespace);
        let parameters = PostParams::default();
        Api::<ServiceAccount>::namespaced(client(), namespace).create(&parameters, &account).await.unwrap();
        Api::<Role>::namespaced(client(), namespace).create(&parameters, &role).await.unwrap();
        Api::<RoleBinding>::namespaced(client(), namespace).create(&parameters, &binding).await.unwrap();
    }

    /// A client that is that service account.
    pub(crate) async fn client_as(&self, account: &str) -> Client {
        let mut config = Config::infer().await.unwrap();
        let user = format!("system:serviceaccount:{}:{account}", self.namespace);
        config.auth_info.impersonate = Some(user);
        Client::try_from(config).unwrap()
    }

    /// Stops the API server until the guard is dropped.
    pub(crate) fn stop_api_server(&self) -> Stopped {
        api_server::stop(&self.folder)
    }
}

/// The program and the libraries that it is linked with, as an image on the node: made once for each
/// binary.
fn image(folder: &Path) -> String {
    let binary = Path::new(env!("CARGO_BIN_EXE_quorate"));
    let about = std::fs::metadata(binary).unwrap();
    let mut hasher = DefaultHasher::new();
    (about.len(), about.modified().unwrap()).hash(&mut hasher);
    let image = format!("quorate:test-{:016x}", hasher.finish());
    let lock = File::create(folder.join("image.lock")).unwrap();
    lock.lock().unwrap();
    let socket = format!("unix://{}", folder.join("docker.sock").display());
    let docker = || {
        let mut docker = Command::new("docker");
        docker.args(["-H", &socket]);
        docker
    };
    if docker().args(["image", "inspect", &image]).stdout(Stdio::null()).status().unwrap().success() {
        return image;
    }
    let root = tempfile::tempdir().unwrap();
    std::fs::copy(binary, root.path().join("quorate")).unwrap();
    let linked = Command::new("ldd").arg(binary).output().unwrap();
    for word in String::from_utf8(linked.stdout).unwrap().split_whitespace().filter(|w| w.starts_with('/')) {
        let inside = root.path().join(&word[1..]);
        std::fs::create_dir_all(inside.parent().unwrap()).unwrap();
        std::fs::copy(word, inside).unwrap();
    }
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(root.path()).args(["-c", "."]).stdout(Stdio::piped());
    let mut tar = tar.spawn().unwrap();
    let imported = docker()
        .args(["import", "--change", "ENTRYPOINT [\"/quorate\"]", "-", &image])
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(imported.success() && tar.wait().unwrap().success());
    image
}
