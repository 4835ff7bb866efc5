//! Pods in a real Kubernetes cluster: the one of `KUBECONFIG`, whose node runs Docker beside that file's
//! `docker.sock`, as `tests/kubernetes/up` has it. Without one these tests fail.
#![cfg(feature = "kubernetes")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[allow(unreachable_pub, reason = "the end-to-end tests use it, too")]
#[path = "kubernetes/api_server.rs"]
mod api_server;
#[path = "kubernetes/cluster.rs"]
mod cluster;
#[path = "kubernetes/platform.rs"]
mod platform;

use cluster::{Cluster, in_namespace};
use k8s_openapi::api::core::v1::{Endpoints, Pod, Secret, Service};
use kube::{
    Api,
    api::{DeleteParams, DynamicObject, ListParams},
    runtime::wait::await_condition,
};
use platform::Platform;
use quorate::{
    backend::{
        Backend, BackendError, PodDaemon, PodEvent, Stop,
        kubernetes::{KubernetesBackend, Protected},
    },
    config::{Functions, Kubernetes, Replication, Spread},
    identity::{Identities, SetKeys},
    pod::{PodSpec, Said},
    set::{MemberState, SetRecord, SetState},
    tls::{Authority, Name, Role},
    wires::Wires,
};
use quorate_dag::Function;
use quorate_pbft::crypto::PublicKey;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{io::AsyncReadExt, sync::mpsc};

/// Another machine may do much else beside.
const PATIENCE: Duration = Duration::from_secs(120);

const BYZANTINE: Replication = Replication::Byzantine { f: 1 };

fn settings(cluster: &Cluster) -> Kubernetes {
    Kubernetes {
        namespace: Some(cluster.namespace.clone()),
        image: Some(cluster.image.clone()),
        spread: Spread::Soft,
        cpu: "10m".into(),
        memory: "16Mi".into(),
        ..Kubernetes::default()
    }
}

/// A plain worker of `add`.
fn worker(incarnation: u64) -> PodSpec {
    PodSpec { incarnation, slots: 8, ..PodSpec::plain("add") }
}

/// A backend, and what becomes of its pods.
struct Pods {
    backend: KubernetesBackend,
    events: mpsc::UnboundedReceiver<PodEvent>,
}

impl Pods {
    fn new(cluster: &Cluster, settings: Kubernetes) -> Self {
        Self::over(cluster.client.clone(), settings, PATIENCE)
    }

    fn over(client: kube::Client, settings: Kubernetes, pod_start: Duration) -> Self {
        Self::protected(client, settings, pod_start, (Wires::plain(), None))
    }

    fn protected(
        client: kube::Client,
        settings: Kubernetes,
        pod_start: Duration,
        protected: Protected,
    ) -> Self {
        let arguments = vec!["--log".into(), "info".into()];
        let (backend, events) = KubernetesBackend::over(client, settings, arguments, pod_start, protected);
        Self { backend, events }
    }

    async fn next(&mut self) -> PodEvent {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("something happens").unwrap()
    }

    /// Starts a worker, and waits until it is ready.
    async fn start(&mut self, incarnation: u64) {
        self.backend.start(PodDaemon::Worker, &worker(incarnation)).await.unwrap();
        loop {
            match self.next().await {
                PodEvent::Said { said: Said::Ready, incarnation: of, .. } if of == incarnation => return,
                PodEvent::Ended { incarnation: of, status, .. } if of == incarnation => panic!("{status}"),
                _ => {}
            }
        }
    }

    /// The status with which a life ends.
    async fn ended(&mut self, incarnation: u64) -> String {
        loop {
            match self.next().await {
                PodEvent::Ended { incarnation: of, status, .. } if of == incarnation => return status,
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn plain_and_replicated_sets_answer_and_what_is_deleted_comes_back() {
    in_namespace("sets", async |cluster| {
        let mut functions = Functions::default();
        for function in [&mut functions.add, &mut functions.mul, &mut functions.sub, &mut functions.div] {
            function.replication = Replication::None;
        }
        functions.mul.replication = BYZANTINE;
        let platform = Platform::start(cluster.client.clone(), settings(cluster), functions).await;
        platform.scale(&[Function::Add, Function::Mul], 1).await;
        let ready =
            platform.sets_when(|sets| sets.iter().filter(|s| s.state == SetState::Ready).count() == 2);
        let sets = ready.await;
        assert_eq!(platform.answer("4*(3+5)").await, "32");

        let offered = platform.offer("sums", Function::Add).await;
        let endpoints = Api::<Endpoints>::namespaced(cluster.client.clone(), &cluster.namespace);
        let has_all = |endpoints: Option<&Endpoints>| {
            let subsets = endpoints.and_then(|endpoints| endpoints.subsets.as_ref()).into_iter().flatten();
            let addresses = subsets.flat_map(|subset| subset.addresses.iter().flatten());
            addresses.map(|address| format!("{}:7401", address.ip)).collect::<Vec<_>>() == offered
        };
        let listed = await_condition(endpoints, "quorate-sums", has_all);
        tokio::time::timeout(PATIENCE, listed).await.expect("the worker is offered").unwrap();
        platform.withdraw("sums").await;
        let services = Api::<Service>::namespaced(cluster.client.clone(), &cluster.namespace);
        assert!(services.get_opt("quorate-sums").await.unwrap().is_none());

        // The worker: the same set, another life.
        let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let object = cluster.object("add-0-worker").await;
        pods.delete(&object, &DeleteParams::default()).await.unwrap();
        platform
            .sets_when(|sets| {
                let add = sets.iter().find(|set| set.name == "add-0").unwrap();
                add.state == SetState::Ready
                    && (add.worker.incarnation, add.worker.state) == (2, MemberState::Ready)
            })
            .await;
        assert_eq!(platform.answer("3+5").await, "8");

        // Replicas: their journals went with them, so others take their places in the set, under fresh keys.
        let members = |sets: &[SetRecord]| {
            let set = sets.iter().find(|set| set.name == "mul-0").unwrap();
            set.chain().unwrap().latest().replicas.clone()
        };
        let mut before = members(&sets);
        for index in [2, 0] {
            let object = cluster.object(&format!("mul-0-replica-{index}")).await;
            pods.delete(&object, &DeleteParams::default()).await.unwrap();
            let replaced = platform.sets_when(|sets| {
                let set = sets.iter().find(|set| set.name == "mul-0").unwrap();
                (set.worker.incarnation, set.worker.state) == (1, MemberState::Ready)
                    && (set.replicas[index].incarnation, set.replicas[index].state) == (2, MemberState::Ready)
            });
            let after = members(&replaced.await);
            let fresh: Vec<_> = (0..4).filter(|at| before[*at] != after[*at]).collect();
            assert_eq!(fresh, [index]);
            assert_eq!(platform.answer("4*(3+5)").await, "32");
            before = after;
        }

        // On purpose no more than f are taken at a time: the second has to stay until the first is replaced.
        let budgets = cluster.budgets().await;
        let allows_one = |budget: Option<&DynamicObject>| {
            budget.is_some_and(|budget| budget.data["status"]["disruptionsAllowed"] == 1)
        };
        let allowed = await_condition(budgets.clone(), "quorate-mul-0", allows_one);
        tokio::time::timeout(PATIENCE, allowed).await.expect("one may go").unwrap();
        let objects = [cluster.object("mul-0-replica-1").await, cluster.object("mul-0-replica-3").await];
        cluster.evict(&objects[0]).await;
        cluster.evict(&objects[1]).await;
        let successor = pods.get(&cluster.object("mul-0-replica-1").await).await.unwrap();
        assert_ne!(successor.metadata.name.as_ref(), Some(&objects[0]));
        assert_eq!(successor.status.unwrap().phase.as_deref(), Some("Running"));
        let both = |set: &SetRecord| [1, 3].iter().all(|index| set.replicas[*index].incarnation == 2);
        let is_whole = |set: &SetRecord| set.name == "mul-0" && set.state == SetState::Ready && both(set);
        platform.sets_when(|sets| sets.iter().any(is_whole)).await;
        assert_eq!(platform.answer("4*(3+5)").await, "32");

        // Nothing runs that nobody wants; identities stay for the sets that come back.
        platform.scale(&[Function::Add, Function::Mul], 0).await;
        platform.sets_when(|sets| sets.is_empty()).await;
        cluster.no_pods().await;
        assert!(budgets.list(&ListParams::default()).await.unwrap().items.is_empty());
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let kept =
            secrets.list(&ListParams::default().labels("app.kubernetes.io/name=quorate")).await.unwrap();
        let kept: Vec<_> = kept.items.into_iter().map(|secret| secret.metadata.name.unwrap()).collect();
        assert_eq!(
            kept,
            ["add-0-identities", "mul-0-identities", "operator-identities"]
                .map(|kept| format!("quorate-{kept}"))
        );
        platform.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pod_is_found_again_by_another_backend_and_stopped() {
    in_namespace("again", async |cluster| {
        let mut first = Pods::new(cluster, settings(cluster));
        first.start(1).await;
        drop(first);
        let mut second = Pods::new(cluster, settings(cluster));
        let running = second.backend.list().await.unwrap();
        assert_eq!((running[0].pod.as_str(), running[0].incarnation), ("add-0-worker", 1));
        assert!(matches!(second.next().await, PodEvent::Started { incarnation: 1, .. }));
        let Said::Listening { address, .. } = said(second.next().await) else { panic!("listens") };
        assert!(address.ends_with(":7401") && !address.starts_with("0.0.0.0"), "{address}");
        assert_eq!(said(second.next().await), Said::Ready);
        second.backend.stop("add-0-worker", Stop::Gently).await.unwrap();
        assert_eq!(second.ended(1).await, "stopped");
        cluster.no_pods().await;
        assert!(second.backend.list().await.unwrap().is_empty());
    })
    .await;
}

fn said(event: PodEvent) -> Said {
    match event {
        PodEvent::Said { said, .. } => said,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_later_life_takes_the_place_of_an_earlier_one() {
    in_namespace("lives", async |cluster| {
        let mut pods = Pods::new(cluster, settings(cluster));
        pods.start(1).await;
        pods.backend.start(PodDaemon::Worker, &worker(2)).await.unwrap();
        assert_eq!(pods.ended(1).await, "stopped");
        assert!(matches!(pods.next().await, PodEvent::Started { incarnation: 2, .. }));
        pods.backend.stop("add-0-worker", Stop::Now).await.unwrap();
        assert_eq!(pods.ended(2).await, "stopped");
        cluster.no_pods().await;
    })
    .await;
}

#[tokio::test]
async fn why_a_pod_does_not_start_is_told() {
    in_namespace("refused", async |cluster| {
        let image = Some("127.0.0.1:1/quorate:none".into());
        let mut pods = Pods::new(cluster, Kubernetes { image, ..settings(cluster) });
        pods.backend.start(PodDaemon::Worker, &worker(1)).await.unwrap();
        let status = pods.ended(1).await;
        assert!(
            status.starts_with("image 127.0.0.1:1/quorate:none can't be pulled (ErrImagePull)"),
            "{status}"
        );

        let huge = Kubernetes { cpu: "1000".into(), ..settings(cluster) };
        let mut pods = Pods::over(cluster.client.clone(), huge, Duration::from_secs(5));
        pods.backend.start(PodDaemon::Worker, &worker(2)).await.unwrap();
        let status = pods.ended(2).await;
        assert!(status.contains("no node for it (Unschedulable)"), "{status}");
        assert!(status.contains("Insufficient cpu"), "{status}");

        // One that Kubernetes does not take at all.
        let wrong = Kubernetes { image: Some(String::new()), ..settings(cluster) };
        let mut pods = Pods::new(cluster, wrong);
        pods.backend.start(PodDaemon::Worker, &worker(3)).await.unwrap();
        let status = pods.ended(3).await;
        assert!(status.contains("refuses to create pods") && status.contains("image"), "{status}");

        // One whose program does not take its arguments.
        let mut pods = Pods::new(cluster, settings(cluster));
        let lost = PodSpec { function: "pow".into(), incarnation: 4, ..worker(4) };
        pods.backend.start(PodDaemon::Worker, &lost).await.unwrap();
        let status = pods.ended(4).await;
        assert!(status.starts_with("exit status: "), "{status}");
        cluster.no_pods().await;
    })
    .await;
}

#[tokio::test]
async fn what_a_role_forbids_is_said() {
    in_namespace("roles", async |cluster| {
        cluster.role("reader", &[("pods", &["get", "list", "watch"])]).await;
        let reader = Pods::over(cluster.client_as("reader").await, settings(cluster), PATIENCE);
        assert!(reader.backend.list().await.unwrap().is_empty());
        let error = reader.backend.start(PodDaemon::Worker, &worker(1)).await.unwrap_err();
        assert!(matches!(error, BackendError::Unavailable { .. }), "it is tried again: {error}");
        let expected = format!("may not create pods in namespace {}", cluster.namespace);
        assert!(error.to_string().contains(&expected), "{error}");

        cluster.role("nobody", &[]).await;
        let nobody = Pods::over(cluster.client_as("nobody").await, settings(cluster), PATIENCE);
        let error = nobody.backend.list().await.unwrap_err();
        let expected = format!("may not list pods in namespace {}", cluster.namespace);
        assert!(error.to_string().contains(&expected), "{error}");

        // What the service needs, and no more.
        let role = [
            ("pods", &["create", "delete", "list", "watch"][..]),
            ("secrets", &["create", "get", "update"][..]),
            ("services", &["create", "delete", "patch"][..]),
        ];
        cluster.role("cluster", &role).await;
        let client = cluster.client_as("cluster").await;
        let platform = Platform::start(client, settings(cluster), Functions::default()).await;
        platform.scale(&[Function::Add], 1).await;
        platform.sets_when(|sets| sets.iter().any(|set| set.state == SetState::Ready)).await;
        assert_eq!(platform.answer("3+5").await, "8");
        platform.offer("sums", Function::Add).await;
        platform.withdraw("sums").await;
        platform.scale(&[Function::Add], 0).await;
        platform.sets_when(|sets| sets.is_empty()).await;
        platform.stop().await;
    })
    .await;
}

#[tokio::test]
async fn identities_are_kept_in_the_cluster_whoever_makes_them() {
    in_namespace("keys", async |cluster| {
        let pods = [(); 2].map(|()| Pods::new(cluster, settings(cluster)));
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let made = pods.iter().zip(&folders).map(async |(pods, folder)| {
            pods.backend.keys(&Identities::at(folder.path()), "add-0", 1).await.unwrap()
        });
        let made = futures::future::join_all(made).await;
        assert_eq!(public(&made[0]), public(&made[1]));
        // Nothing private stays in the folders.
        for folder in &folders {
            let left = std::fs::read_dir(folder.path().join("identities")).unwrap().count();
            assert_eq!(left, 0);
        }
        // A set that is made anew with more replicas keeps those it had.
        let folder = tempfile::tempdir().unwrap();
        let identities = Identities::at(folder.path());
        let more = pods[0].backend.keys(&identities, "add-0", 2).await.unwrap();
        assert_eq!(public(&more)[..2], public(&made[0]));
        assert_eq!(public(&more).len(), 3);
    })
    .await;
}

/// The keys of the worker and of the replicas.
fn public(keys: &SetKeys) -> Vec<PublicKey> {
    std::iter::once(&keys.worker).chain(&keys.replicas).map(|member| member.public.clone()).collect()
}

#[tokio::test]
async fn a_pod_has_a_certificate_of_its_own_and_speaks_with_the_control_plane_alone() {
    in_namespace("certificates", async |cluster| {
        let folders = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let authorities = folders.each_ref().map(|folder| Arc::new(Authority::at(folder.path()).unwrap()));
        let wires = |authority: &Authority, role| {
            Wires::with(authority.issue(role, None).unwrap().credentials().unwrap())
        };
        let backend = |authority: &Arc<Authority>| {
            let protected = (wires(authority, Role::Control), Some(Arc::clone(authority)));
            Pods::protected(cluster.client.clone(), settings(cluster), PATIENCE, protected)
        };
        let mut pods = backend(&authorities[0]);
        pods.start(1).await;
        let running = pods.backend.list().await.unwrap();
        let [Said::Listening { address, .. }, ..] = &running[0].said[..] else { panic!("{running:?}") };
        let attach: SocketAddr = address.replace(":7401", ":7403").parse().unwrap();
        let (worker_1, worker_2) = (Name::of_pod("add-0-worker"), Name::of_pod("add-1-worker"));
        assert!(hears(&wires(&authorities[0], Role::Control), attach, &worker_1).await);
        for (stranger, name) in [
            (wires(&authorities[0], Role::Control), &worker_2),
            (wires(&authorities[0], Role::Worker), &worker_1),
            (wires(&authorities[0], Role::Replica), &worker_1),
            (wires(&authorities[1], Role::Control), &worker_1),
            (Wires::plain(), &worker_1),
        ] {
            assert!(!hears(&stranger, attach, name).await);
        }
        let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        let secret = secrets.get("quorate-add-0-identities").await.unwrap();
        let items: Vec<_> = secret.data.unwrap().into_keys().collect();
        assert_eq!(items, ["ca.crt", "worker.crt", "worker.key"]);
        // Whose authority is another one certifies it anew.
        drop(pods);
        let mut pods = backend(&authorities[1]);
        pods.start(2).await;
        assert!(hears(&wires(&authorities[1], Role::Control), pod_of(&mut pods).await, &worker_1).await);
        pods.backend.stop("add-0-worker", Stop::Now).await.unwrap();
        assert_eq!(pods.ended(2).await, "stopped");
        cluster.no_pods().await;
    })
    .await;
}

/// Where the only pod that runs converses.
async fn pod_of(pods: &mut Pods) -> SocketAddr {
    let running = pods.backend.list().await.unwrap();
    let running = running.iter().find(|pod| pod.incarnation == 2).expect("it runs");
    let said = running.said.iter().find_map(|said| match said {
        Said::Listening { address, .. } => Some(address.replace(":7401", ":7403")),
        Said::Ready | Said::Succeeded { .. } => None,
    });
    said.expect("it listens").parse().unwrap()
}

/// Whether the pod says anything.
async fn hears(wires: &Wires, pod: SocketAddr, name: &Name) -> bool {
    let Ok(mut stream) = wires.dial(pod, name).await else { return false };
    tokio::time::timeout(PATIENCE, stream.read_u8()).await.expect("it speaks or closes").is_ok()
}

#[tokio::test]
async fn an_evicted_pod_has_ended() {
    in_namespace("evicted", async |cluster| {
        let mut pods = Pods::new(cluster, settings(cluster));
        pods.start(1).await;
        cluster.evict(&cluster.object("add-0-worker").await).await;
        let status = pods.ended(1).await;
        assert!(status.starts_with("deleted"), "{status}");
        cluster.no_pods().await;
    })
    .await;
}

#[tokio::test]
async fn nothing_has_ended_while_the_api_server_is_away() {
    cluster::alone_in_namespace("away", async |cluster| {
        let mut pods = Pods::new(cluster, settings(cluster));
        pods.start(1).await;
        let away = cluster.stop_api_server();
        let error = pods.backend.start(PodDaemon::Worker, &worker(2)).await.unwrap_err();
        assert!(matches!(error, BackendError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains("did not answer within 5s"), "{error}");
        assert_eq!(pods.backend.list().await.unwrap().len(), 1, "what was seen last");
        // Longer than a watch lasts.
        let silence = tokio::time::timeout(Duration::from_secs(35), pods.events.recv()).await;
        assert!(silence.is_err(), "{silence:?}");
        drop(away);
        // The watch goes on.
        let object = cluster.object("add-0-worker").await;
        let api: Api<Pod> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
        api.delete(&object, &DeleteParams::default()).await.unwrap();
        assert_eq!(pods.ended(1).await, "deleted");
        cluster.no_pods().await;
    })
    .await;
}
