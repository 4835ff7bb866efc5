//! What Kubernetes says of a pod, in the platform's words: a pure function and its cases.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStateWaiting, Pod, PodStatus};

/// How a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Condition {
    /// It does not run yet; why, as far as that is known.
    Waiting(String),
    /// It runs, and has this address.
    Runs(String),
    /// It has ended, or can't be started; why.
    Ended(String),
}

/// Why a container that waits will not start by itself soon: what Kubernetes calls it, and what it is.
const HOPELESS: [(&str, &str); 9] = [
    ("ErrImagePull", "can't be pulled"),
    ("ImagePullBackOff", "can't be pulled"),
    ("ErrImageNeverPull", "is not on the node, and is never pulled"),
    ("InvalidImageName", "has no name that makes sense"),
    ("ImageInspectError", "can't be inspected"),
    ("RegistryUnavailable", "has a registry that can't be reached"),
    ("CreateContainerConfigError", "can't be run as configured"),
    ("CreateContainerError", "can't be run"),
    ("RunContainerError", "can't be run"),
];

/// How a pod is, by its status.
pub(super) fn condition(pod: &Pod) -> Condition {
    let Some(status) = &pod.status else { return Condition::Waiting("it is not known to any node".into()) };
    let container = status.container_statuses.iter().flatten().next();
    let state = container.and_then(|container| container.state.as_ref());
    let terminated = state.and_then(|state| state.terminated.as_ref());
    if matches!(status.phase.as_deref(), Some("Failed" | "Succeeded")) {
        return Condition::Ended(ended(status, terminated));
    }
    if let Some(terminated) = terminated {
        return Condition::Ended(exit(terminated));
    }
    if let Some(waiting) = state.and_then(|state| state.waiting.as_ref()) {
        let image = container.map(|container| container.image.as_str()).unwrap_or_default();
        return waits(waiting, image);
    }
    let address = status.pod_ip.as_ref().filter(|address| !address.is_empty());
    match (state.is_some_and(|state| state.running.is_some()), address) {
        (true, Some(address)) => Condition::Runs(address.clone()),
        (true, None) => Condition::Waiting("it has no address".into()),
        (false, _) => Condition::Waiting(unscheduled(status)),
    }
}

/// Why a pod is being deleted, as far as Kubernetes says so.
pub(super) fn deletion(pod: &Pod) -> String {
    let mut conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let disrupted = conditions.find(|c| c.type_ == "DisruptionTarget" && c.status == "True");
    match disrupted {
        Some(why) => {
            format!("deleted: {}", said(why.reason.as_deref().unwrap_or("disrupted"), why.message.as_deref()))
        }
        None => "deleted".into(),
    }
}

fn ended(status: &PodStatus, terminated: Option<&ContainerStateTerminated>) -> String {
    match (status.reason.as_deref(), terminated) {
        // Why the node ended it says more than how its process did.
        (Some(reason), _) => match reason {
            "Evicted" => said("evicted", status.message.as_deref()),
            reason => said(reason, status.message.as_deref()),
        },
        (None, Some(terminated)) => exit(terminated),
        (None, None) => said(
            status.phase.as_deref().unwrap_or("ended").to_lowercase().as_str(),
            status.message.as_deref(),
        ),
    }
}

fn exit(terminated: &ContainerStateTerminated) -> String {
    let how = match (terminated.reason.as_deref(), terminated.signal, terminated.exit_code) {
        (Some("OOMKilled"), _, _) => "out of memory".into(),
        (_, Some(signal), _) if signal != 0 => format!("signal: {signal}"),
        // As a shell has it: the runtime tells a signal so.
        (_, _, code @ 129..=159) => format!("signal: {}", code - 128),
        (Some("ContainerCannotRun" | "StartError"), _, code) => format!("can't be run (exit status: {code})"),
        (_, _, code) => format!("exit status: {code}"),
    };
    said(&how, terminated.message.as_deref())
}

fn waits(waiting: &ContainerStateWaiting, image: &str) -> Condition {
    let reason = waiting.reason.as_deref().unwrap_or("waiting");
    match HOPELESS.iter().find(|(known, _)| *known == reason) {
        Some((_, what)) => {
            Condition::Ended(said(&format!("image {image} {what} ({reason})"), waiting.message.as_deref()))
        }
        None => Condition::Waiting(said(reason, waiting.message.as_deref())),
    }
}

fn unscheduled(status: &PodStatus) -> String {
    let scheduled = status.conditions.iter().flatten().find(|condition| condition.type_ == "PodScheduled");
    match scheduled.filter(|condition| condition.status == "False") {
        Some(why) => said(
            &format!("no node for it ({})", why.reason.as_deref().unwrap_or("unscheduled")),
            why.message.as_deref(),
        ),
        None => "its node has not started it".into(),
    }
}

fn said(what: &str, message: Option<&str>) -> String {
    match message.map(str::trim).filter(|message| !message.is_empty()) {
        Some(message) => format!("{what}: {message}"),
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(status: Value) -> Pod {
        serde_json::from_value(json!({ "metadata": { "name": "quorate-add-0-worker-1" }, "status": status }))
            .unwrap()
    }

    fn container(state: Value) -> Value {
        json!([{ "name": "quorate", "image": "quorate:1", "imageID": "", "ready": false, "restartCount": 0,
                 "state": state }])
    }

    #[test]
    fn a_status_is_told_in_words() {
        let waits = |text: &str| Condition::Waiting(text.into());
        let ended = |text: &str| Condition::Ended(text.into());
        let unschedulable = json!([{ "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                                     "message": "0/3 nodes are available: 3 Insufficient cpu." }]);
        let cases = [
            (json!({ "phase": "Pending" }), waits("its node has not started it")),
            (
                json!({ "phase": "Pending", "conditions": unschedulable }),
                waits("no node for it (Unschedulable): 0/3 nodes are available: 3 Insufficient cpu."),
            ),
            (
                json!({ "phase": "Pending", "containerStatuses":
                        container(json!({ "waiting": { "reason": "ContainerCreating" } })) }),
                waits("ContainerCreating"),
            ),
            (
                json!({ "phase": "Pending", "containerStatuses": container(json!({ "waiting": {
                        "reason": "ErrImagePull", "message": "manifest unknown" } })) }),
                ended("image quorate:1 can't be pulled (ErrImagePull): manifest unknown"),
            ),
            (
                json!({ "phase": "Pending", "containerStatuses": container(json!({ "waiting": {
                        "reason": "ImagePullBackOff", "message": "Back-off pulling image \"quorate:1\"" } })) }),
                ended(
                    "image quorate:1 can't be pulled (ImagePullBackOff): Back-off pulling image \"quorate:1\"",
                ),
            ),
            (
                json!({ "phase": "Pending", "containerStatuses":
                        container(json!({ "waiting": { "reason": "ErrImageNeverPull" } })) }),
                ended("image quorate:1 is not on the node, and is never pulled (ErrImageNeverPull)"),
            ),
            (
                json!({ "phase": "Pending", "containerStatuses": container(json!({ "waiting": {
                        "reason": "CreateContainerConfigError",
                        "message": "container has runAsNonRoot and image will run as root" } })) }),
                ended(
                    "image quorate:1 can't be run as configured (CreateContainerConfigError): container has \
                     runAsNonRoot and image will run as root",
                ),
            ),
            (
                json!({ "phase": "Running", "podIP": "10.0.0.4", "containerStatuses":
                        container(json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })) }),
                Condition::Runs("10.0.0.4".into()),
            ),
            (
                json!({ "phase": "Running", "containerStatuses":
                        container(json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })) }),
                waits("it has no address"),
            ),
            (
                json!({ "phase": "Running", "podIP": "10.0.0.4", "containerStatuses":
                        container(json!({ "terminated": { "exitCode": 137, "reason": "Error" } })) }),
                ended("signal: 9"),
            ),
            (
                json!({ "phase": "Failed", "containerStatuses":
                        container(json!({ "terminated": { "exitCode": 137, "reason": "OOMKilled" } })) }),
                ended("out of memory"),
            ),
            (
                json!({ "phase": "Failed", "containerStatuses": container(json!({ "terminated": {
                        "exitCode": 1, "reason": "Error", "message": "no port\n" } })) }),
                ended("exit status: 1: no port"),
            ),
            (
                json!({ "phase": "Failed", "containerStatuses": container(json!({ "terminated": {
                        "exitCode": 127, "reason": "ContainerCannotRun", "message": "no /quorate" } })) }),
                ended("can't be run (exit status: 127): no /quorate"),
            ),
            (
                json!({ "phase": "Succeeded", "containerStatuses":
                        container(json!({ "terminated": { "exitCode": 0, "reason": "Completed" } })) }),
                ended("exit status: 0"),
            ),
            (
                json!({ "phase": "Failed", "reason": "Evicted",
                        "message": "The node was low on resource: memory.", "containerStatuses":
                        container(json!({ "terminated": { "exitCode": 137, "reason": "Error" } })) }),
                ended("evicted: The node was low on resource: memory."),
            ),
            (
                json!({ "phase": "Failed", "reason": "OutOfcpu", "message": "Pod was rejected" }),
                ended("OutOfcpu: Pod was rejected"),
            ),
            (json!({ "phase": "Failed" }), ended("failed")),
        ];
        for (status, expected) in cases {
            assert_eq!(condition(&pod(status.clone())), expected, "{status}");
        }
        assert_eq!(condition(&Pod::default()), waits("it is not known to any node"));
    }

    #[test]
    fn why_a_pod_is_deleted_is_told_when_kubernetes_says_so() {
        assert_eq!(deletion(&Pod::default()), "deleted");
        let conditions = json!([{ "type": "DisruptionTarget", "status": "True",
                                  "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting" }]);
        let evicted = pod(json!({ "phase": "Running", "conditions": conditions }));
        assert_eq!(deletion(&evicted), "deleted: EvictionByEvictionAPI: Eviction API: evicting");
    }
}
