//! What a pod is as a Kubernetes object: a pure function of its [`PodSpec`].
//!
//! The spec itself travels in an annotation that the pod reads as a file: so it is there when the pod is,
//! belongs to that life alone, and goes with it. Its private key lies in its set's Secret, of which it
//! mounts its own item only.

use super::secrets;
use crate::{
    backend::PodDaemon,
    config::{Durability, Kubernetes, Spread},
    pod::PodSpec,
    tls::{self, Files},
};
use k8s_openapi::{
    api::core::v1::{Pod, Service},
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, path::Path};

/// Who writes the objects, in their managed fields.
pub(super) const FIELD_MANAGER: &str = "quorate-cluster";

/// A pod's gRPC services, its PBFT transport, and the conversation with the cluster service.
pub(super) const PORTS: [(&str, u16); 3] = [("grpc", 7401), ("pbft", 7402), ("attach", ATTACH_PORT)];
pub(super) const ATTACH_PORT: u16 = 7403;

/// The name that the platform's objects share.
pub(super) const NAME: &str = "app.kubernetes.io/name";
/// Of which platform in the namespace an object is.
pub(super) const INSTANCE: &str = "app.kubernetes.io/instance";
/// The set's name.
pub(super) const SET: &str = "quorate.io/set";
/// The pod's name.
pub(super) const POD: &str = "quorate.io/pod";
/// Which of its lives.
pub(super) const INCARNATION: &str = "quorate.io/incarnation";
/// What it computes.
const FUNCTION: &str = "quorate.io/function";
/// `worker` or `replica`.
const COMPONENT: &str = "app.kubernetes.io/component";
/// The annotation with the spec.
const SPEC: &str = "quorate.io/spec";

/// Where the spec, the private key and the data are inside a pod.
const SPEC_FOLDER: &str = "/etc/quorate/pod";
const KEY_FOLDER: &str = "/etc/quorate/key";
const TLS_FOLDER: &str = "/etc/quorate/tls";
const DATA_FOLDER: &str = "/var/lib/quorate";

/// Nobody in particular, as the image's files expect it.
const USER: u32 = 65_532;

/// How long a pod has to end by itself.
const GRACE_SECONDS: u32 = 5;

/// The platform's value of [`INSTANCE`].
pub(super) fn instance(settings: &Kubernetes) -> &str {
    settings.prefix.trim_end_matches('-')
}

/// What an object is labelled with: what all of the platform's are, and more.
pub(super) fn labels<'a>(
    settings: &'a Kubernetes,
    more: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> BTreeMap<String, String> {
    let of_all =
        [(NAME, "quorate"), (INSTANCE, instance(settings)), ("app.kubernetes.io/managed-by", FIELD_MANAGER)];
    of_all.into_iter().chain(more).map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Selects all pods of workers and replicas, and nothing else of the platform.
pub(super) fn selector(settings: &Kubernetes) -> String {
    format!("{NAME}=quorate,{INSTANCE}={},{POD}", instance(settings))
}

/// A pod's object. `unique` tells it from one of a former set that had its name; `arguments` come before
/// the subcommand; `owner` is what it shall go with.
pub(super) fn pod(
    settings: &Kubernetes,
    arguments: &[String],
    daemon: PodDaemon,
    spec: &PodSpec,
    unique: &str,
    owner: Option<&OwnerReference>,
) -> Pod {
    let value = value(settings, arguments, daemon, spec, unique, owner);
    serde_json::from_value(value).expect("the manifest is a pod's")
}

fn value(
    settings: &Kubernetes,
    arguments: &[String],
    daemon: PodDaemon,
    spec: &PodSpec,
    unique: &str,
    owner: Option<&OwnerReference>,
) -> Value {
    let inside = spec_inside(spec);
    let annotation = serde_json::to_string(&inside).expect("a spec is plain data");
    let (incarnation, index) = (spec.incarnation.to_string(), spec.index.map(|index| index.to_string()));
    let mut own = vec![
        (COMPONENT, daemon.name()),
        (SET, &spec.set),
        (POD, &spec.pod),
        (FUNCTION, &spec.function),
        (INCARNATION, &incarnation),
    ];
    own.extend(index.as_deref().map(|index| ("quorate.io/index", index)));
    let mut args = arguments.to_vec();
    args.extend([daemon.name().into(), "--spec".into(), format!("{SPEC_FOLDER}/spec.json")]);
    args.extend(["--attach".into(), format!("0.0.0.0:{ATTACH_PORT}")]);
    let ports: Vec<_> = PORTS
        .iter()
        .filter(|(name, _)| *name != "pbft" || spec.index.is_some())
        .map(|(name, port)| json!({ "name": name, "containerPort": port, "protocol": "TCP" }))
        .collect();
    let mut mounts = vec![json!({ "name": "pod", "mountPath": SPEC_FOLDER, "readOnly": true })];
    let spec_item = json!({
        "path": "spec.json",
        "fieldRef": { "apiVersion": "v1", "fieldPath": format!("metadata.annotations['{SPEC}']") },
    });
    let mut volumes =
        vec![json!({ "name": "pod", "downwardAPI": { "items": [spec_item], "defaultMode": 0o444 } })];
    let kept = |volume: &str, items: &[(String, &str)]| {
        let items: Vec<_> = items.iter().map(|(key, path)| json!({ "key": key, "path": path })).collect();
        let name = secrets::name(settings, &spec.set);
        // The group may read it: that is how the pod's user gets at it.
        json!({ "name": volume, "secret": { "secretName": name, "items": items, "defaultMode": 0o440 } })
    };
    if inside.identity.is_some() {
        mounts.push(json!({ "name": "key", "mountPath": KEY_FOLDER, "readOnly": true }));
        volumes.push(kept("key", &[(secrets::private(&spec.key()), "identity.der")]));
    }
    if inside.tls.is_some() {
        mounts.push(json!({ "name": "tls", "mountPath": TLS_FOLDER, "readOnly": true }));
        let items: Vec<_> = secrets::certificate(spec.index).into_iter().zip(tls::NAMES).collect();
        volumes.push(kept("tls", &items));
    }
    if spec.index.is_some() {
        mounts.push(json!({ "name": "data", "mountPath": DATA_FOLDER }));
        volumes.push(json!({ "name": "data", "emptyDir": { "sizeLimit": settings.disk } }));
    }
    let mut pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": format!("{}{}-{}-{unique}", settings.prefix, spec.pod, spec.incarnation),
            "labels": labels(settings, own),
            "annotations": {
                SPEC: annotation,
                // A replica that goes takes its journal along: only a fault may end one.
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
                "karpenter.sh/do-not-disrupt": "true",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": USER, "runAsGroup": USER, "fsGroup": USER,
                "seccompProfile": { "type": "RuntimeDefault" },
            },
            "containers": [{
                "name": "quorate",
                "image": settings.image.as_deref().unwrap_or_default(),
                "args": args,
                "ports": ports,
                // No limit of processor time: a replica that is held back looks like a faulty one.
                "resources": { "requests": { "cpu": settings.cpu, "memory": settings.memory } },
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": { "drop": ["ALL"] },
                },
                "volumeMounts": mounts,
            }],
            "volumes": volumes,
        },
    });
    if spec.index.is_some() {
        pod["spec"]["topologySpreadConstraints"] = spread(settings, spec);
    }
    if daemon == PodDaemon::Worker {
        // For Services alone: the platform knows better, and probes by itself. (gRPC probes are newer than
        // the oldest Kubernetes that this is for.)
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({ "tcpSocket": { "port": "grpc" }, "periodSeconds": 5 });
    }
    if let Some(owner) = owner {
        pod["metadata"]["ownerReferences"] = json!([owner]);
    }
    pod
}

/// The name of a Service, or of a set's budget.
pub(super) fn name(settings: &Kubernetes, name: &str) -> String {
    format!("{}{name}", settings.prefix)
}

/// A Service with all workers of a function that take connections. It has no address of its own: one
/// connection carries all calls of a gRPC client, so each client has to see all workers.
pub(super) fn service(settings: &Kubernetes, name: &str, function: &str) -> Service {
    let (_, port) = PORTS[0];
    let value = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": self::name(settings, name),
            "labels": labels(settings, [(FUNCTION, function)]),
        },
        "spec": {
            "clusterIP": "None",
            "selector": {
                NAME: "quorate",
                INSTANCE: instance(settings),
                COMPONENT: PodDaemon::Worker.name(),
                FUNCTION: function,
            },
            "ports": [{ "name": "grpc", "port": port, "targetPort": "grpc", "protocol": "TCP" }],
        },
    });
    serde_json::from_value(value).expect("the manifest is a Service's")
}

/// The budget of a pod's set, in one of the versions of its group: f replicas may be missing, and the others
/// go on. A set's replicas have no controller with a number of pods, so it can't say how many those are.
pub(super) fn budget(
    settings: &Kubernetes,
    version: &str,
    spec: &PodSpec,
    owner: Option<&OwnerReference>,
) -> Value {
    let mut budget = json!({
        "apiVersion": format!("policy/{version}"),
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": name(settings, &spec.set),
            "labels": labels(settings, [(SET, &*spec.set), (FUNCTION, &spec.function)]),
        },
        "spec": {
            "minAvailable": spec.replication.replicas() - spec.replication.faulty(),
            "selector": { "matchLabels": replicas_of(settings, spec) },
        },
    });
    if let Some(owner) = owner {
        budget["metadata"]["ownerReferences"] = json!([owner]);
    }
    budget
}

/// What the replicas of a pod's set are labelled with, and nothing else.
fn replicas_of(settings: &Kubernetes, spec: &PodSpec) -> Value {
    json!({ INSTANCE: instance(settings), SET: spec.set, COMPONENT: PodDaemon::Replica.name() })
}

/// Where a pod's certificate is inside of it.
pub(super) fn files() -> Files {
    let [ca, cert, key] = tls::NAMES.map(|name| Path::new(TLS_FOLDER).join(name));
    Files { ca, cert, key }
}

/// What the pod is told: the same, with the places as they are inside.
fn spec_inside(spec: &PodSpec) -> PodSpec {
    let at = |wanted: &str| {
        let (_, port) = PORTS.iter().find(|(name, _)| *name == wanted).expect("one of the three");
        format!("0.0.0.0:{port}")
    };
    PodSpec {
        identity: spec.identity.as_ref().map(|_| format!("{KEY_FOLDER}/identity.der").into()),
        listen: at("grpc"),
        transport: spec.transport.as_ref().map(|_| at("pbft")),
        data: DATA_FOLDER.into(),
        // The folder goes with the pod, and a pod ends with its process: nothing is gained by a sync.
        durability: Durability::Process,
        tls: spec.tls.as_ref().map(|_| files()),
        ..spec.clone()
    }
}

/// The replicas of a set on nodes of their own, and if possible in zones of their own.
fn spread(settings: &Kubernetes, spec: &PodSpec) -> Value {
    let of_set = json!({ "matchLabels": replicas_of(settings, spec) });
    let over = |key: &str, otherwise: &str| json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": otherwise, "labelSelector": of_set });
    let otherwise = match settings.spread {
        Spread::Hard => "DoNotSchedule",
        Spread::Soft => "ScheduleAnyway",
    };
    json!([over("kubernetes.io/hostname", otherwise), over("topology.kubernetes.io/zone", "ScheduleAnyway")])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Replication;

    fn settings() -> Kubernetes {
        Kubernetes { image: Some("quorate:1".into()), ..Kubernetes::default() }
    }

    fn spec(index: Option<u32>, replication: Replication) -> PodSpec {
        let is_replicated = replication != Replication::None;
        PodSpec {
            pod: index.map_or("add-0-worker".into(), |index| format!("add-0-replica-{index}")),
            set: "add-0".into(),
            function: "add".into(),
            index,
            incarnation: 3,
            replication,
            genesis: is_replicated.then(|| "00ff".into()),
            successions: Vec::new(),
            identity: is_replicated.then(|| "/data/identities/add-0/x.der".into()),
            listen: "127.0.0.1:0".into(),
            transport: index.map(|_| "10.0.0.9:1".into()),
            data: "/data/sets/add-0".into(),
            resumes: false,
            durability: Durability::Disk,
            slots: 8,
            tls: Some(files()),
        }
    }

    const BYZANTINE: Replication = Replication::Byzantine { f: 1 };

    fn made(settings: &Kubernetes, spec: &PodSpec) -> Value {
        let daemon = if spec.index.is_some() { PodDaemon::Replica } else { PodDaemon::Worker };
        let owner = OwnerReference {
            api_version: "v1".into(),
            kind: "Secret".into(),
            name: "quorate-add-0-identities".into(),
            uid: "u-1".into(),
            ..OwnerReference::default()
        };
        let owner = spec.identity.is_some().then_some(&owner);
        let arguments = ["--log".to_owned(), "info".to_owned()];
        let written = value(settings, &arguments, daemon, spec, "x7k2p", owner);
        // A field that Kubernetes does not know would be dropped on the way.
        let read = serde_json::to_value(pod(settings, &arguments, daemon, spec, "x7k2p", owner)).unwrap();
        assert_eq!(read, written);
        written
    }

    #[test]
    fn a_pod_has_what_the_restricted_profile_wants_and_nothing_of_others() {
        for spec in [spec(None, Replication::None), spec(None, BYZANTINE), spec(Some(2), BYZANTINE)] {
            let pod = made(&settings(), &spec);
            let (whole, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
            assert_eq!(whole["securityContext"]["runAsNonRoot"], true);
            assert_eq!(whole["securityContext"]["runAsUser"], 65_532);
            assert_eq!(whole["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(container["securityContext"]["allowPrivilegeEscalation"], false);
            assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
            assert_eq!(container["securityContext"]["capabilities"], json!({ "drop": ["ALL"] }));
            assert_eq!(whole["automountServiceAccountToken"], false);
            assert_eq!(whole["restartPolicy"], "Never");
            assert_eq!(whole["containers"].as_array().unwrap().len(), 1);
            let items =
                whole["volumes"].as_array().unwrap().iter().filter_map(|v| v["secret"]["items"].as_array());
            let keys: Vec<_> = items.flatten().map(|item| item["key"].as_str().unwrap()).collect();
            let own = crate::identity::member(spec.index);
            let mut expected = vec!["ca.crt".to_owned(), format!("{own}.crt"), format!("{own}.key")];
            if spec.identity.is_some() {
                expected.insert(0, format!("{own}.der"));
            }
            assert_eq!(keys, expected, "{whole}");
        }
    }

    #[test]
    fn each_member_has_what_it_needs() {
        let cases = [
            (spec(None, Replication::None), "worker", vec!["pod", "tls"], vec![7401, 7403], "", false),
            (
                spec(None, BYZANTINE),
                "worker",
                vec!["pod", "key", "tls"],
                vec![7401, 7403],
                "worker.der",
                false,
            ),
            (
                spec(Some(2), BYZANTINE),
                "replica",
                vec!["pod", "key", "tls", "data"],
                vec![7401, 7402, 7403],
                "replica-2.der",
                true,
            ),
        ];
        for (spec, daemon, volumes, ports, key, is_spread) in cases {
            let pod = made(&settings(), &spec);
            let (whole, container) = (&pod["spec"], &pod["spec"]["containers"][0]);
            assert_eq!(pod["metadata"]["name"], format!("quorate-{}-3-x7k2p", spec.pod));
            let args: Vec<_> =
                container["args"].as_array().unwrap().iter().map(|a| a.as_str().unwrap()).collect();
            assert_eq!(args[..4], ["--log", "info", daemon, "--spec"]);
            assert_eq!(args[5..], ["--attach", "0.0.0.0:7403"]);
            for list in [&whole["volumes"], &container["volumeMounts"]] {
                let names: Vec<_> =
                    list.as_array().unwrap().iter().map(|v| v["name"].as_str().unwrap()).collect();
                assert_eq!(names, volumes);
            }
            let opened = container["ports"].as_array().unwrap();
            let opened: Vec<_> = opened.iter().map(|port| port["containerPort"].as_u64().unwrap()).collect();
            assert_eq!(opened, ports);
            if !key.is_empty() {
                let secret = &whole["volumes"][1]["secret"];
                assert_eq!(secret["secretName"], "quorate-add-0-identities");
                assert_eq!(secret["items"], json!([{ "key": key, "path": "identity.der" }]));
                assert_eq!(pod["metadata"]["ownerReferences"][0]["uid"], "u-1");
            }
            assert_eq!(whole["topologySpreadConstraints"].is_array(), is_spread);
        }
    }

    #[test]
    fn the_spec_says_where_things_are_inside_the_pod() {
        let pod = made(&settings(), &spec(Some(2), BYZANTINE));
        let annotation = pod["metadata"]["annotations"]["quorate.io/spec"].as_str().unwrap();
        let inside: PodSpec = serde_json::from_str(annotation).unwrap();
        let expected = PodSpec {
            identity: Some("/etc/quorate/key/identity.der".into()),
            listen: "0.0.0.0:7401".into(),
            transport: Some("0.0.0.0:7402".into()),
            data: "/var/lib/quorate".into(),
            durability: Durability::Process,
            tls: Some(Files {
                ca: "/etc/quorate/tls/ca.crt".into(),
                cert: "/etc/quorate/tls/tls.crt".into(),
                key: "/etc/quorate/tls/tls.key".into(),
            }),
            ..spec(Some(2), BYZANTINE)
        };
        assert_eq!(inside, expected);
    }

    #[test]
    fn what_is_configured_is_what_is_asked_for() {
        let chosen = Kubernetes {
            namespace: None,
            image: Some("registry.example/q:2".into()),
            prefix: "q-".into(),
            spread: Spread::Soft,
            cpu: "2".into(),
            memory: "1Gi".into(),
            disk: "5Gi".into(),
        };
        let pod = made(&chosen, &spec(Some(0), BYZANTINE));
        let whole = &pod["spec"];
        assert_eq!(pod["metadata"]["labels"]["app.kubernetes.io/instance"], "q");
        assert_eq!(whole["containers"][0]["image"], "registry.example/q:2");
        let requests = &whole["containers"][0]["resources"]["requests"];
        assert_eq!(*requests, json!({ "cpu": "2", "memory": "1Gi" }));
        assert_eq!(whole["volumes"][3]["emptyDir"]["sizeLimit"], "5Gi");
        let spreads = whole["topologySpreadConstraints"].as_array().unwrap();
        let spreads: Vec<_> = spreads.iter().map(|s| (&s["topologyKey"], &s["whenUnsatisfiable"])).collect();
        let anyway = json!("ScheduleAnyway");
        let (node, zone) = (json!("kubernetes.io/hostname"), json!("topology.kubernetes.io/zone"));
        assert_eq!(spreads, [(&node, &anyway), (&zone, &anyway)]);
        let hard = made(&settings(), &spec(Some(0), BYZANTINE));
        assert_eq!(hard["spec"]["topologySpreadConstraints"][0]["whenUnsatisfiable"], "DoNotSchedule");
        assert_eq!(
            selector(&chosen),
            "app.kubernetes.io/name=quorate,app.kubernetes.io/instance=q,quorate.io/pod"
        );
    }

    #[test]
    fn a_budget_lets_f_replicas_go_and_counts_nobody_else() {
        for (f, available) in [(1, 3), (2, 5)] {
            let replication = Replication::Byzantine { f };
            let budget = budget(&settings(), "v1", &spec(None, replication), None);
            assert_eq!(budget["metadata"]["name"], "quorate-add-0");
            assert_eq!(budget["spec"]["minAvailable"], available);
            let replica = made(&settings(), &spec(Some(0), replication));
            let worker = made(&settings(), &spec(None, replication));
            let selected = budget["spec"]["selector"]["matchLabels"].as_object().unwrap();
            let has = |pod: &Value| {
                selected.iter().filter(|(label, value)| pod["metadata"]["labels"][label] == **value).count()
            };
            assert_eq!((has(&replica), has(&worker)), (selected.len(), selected.len() - 1));
            // Its selector must not change, which Kubernetes would refuse: what belongs to one life is not in.
            assert!(!selected.contains_key(INCARNATION) && !selected.contains_key(POD));
        }
    }

    #[test]
    fn a_service_has_the_workers_of_a_function() {
        let service = serde_json::to_value(service(&settings(), "sums", "add")).unwrap();
        assert_eq!(service["metadata"]["name"], "quorate-sums");
        let worker = made(&settings(), &spec(None, Replication::None));
        for (label, value) in service["spec"]["selector"].as_object().unwrap() {
            assert_eq!(worker["metadata"]["labels"][label], *value, "{label}");
        }
        let replica = made(&settings(), &spec(Some(0), BYZANTINE));
        assert_ne!(replica["metadata"]["labels"][COMPONENT], service["spec"]["selector"][COMPONENT]);
    }
}
