"""What schemas don't say of the manifests. Called by `manifests` beside it; prints what is wrong, and fails then."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request
from pathlib import Path

import yaml

DAEMONS = {"gateway", "scheduler", "cluster", "admin", "autoscaler"}
PODS = {"worker", "replica"}  # made by the cluster service
COMPONENT = "app.kubernetes.io/component"
IMAGE = "QUORATE_KUBERNETES_IMAGE"

# All that the cluster service may do, by group of the API and resource.
ROLE = {
    ("", "pods"): {"get", "list", "watch", "create", "delete"},
    ("", "secrets"): {"get", "create", "update"},
    ("", "services"): {"get", "list", "create", "patch", "delete"},
    ("policy", "poddisruptionbudgets"): {"create", "patch", "delete"},
}

wrong = []


def expect(what, holds):
    if not holds:
        wrong.append(what)


def objects(path):
    return [each for each in yaml.safe_load_all(Path(path).read_text()) if each]


def of_kind(all_of_them, *kinds):
    return [each for each in all_of_them if each["kind"] in kinds]


def name(thing):
    return thing["metadata"]["name"]


# --- Overlays ---------------------------------------------------------------------------------------------


def workload(each, accounts, maps):
    """One daemon: what it runs, as whom, and that it has no privilege."""
    its, pod = name(each), each["spec"]["template"]["spec"]
    labels = each["spec"]["template"]["metadata"]["labels"]
    expect(f"{its}: its pods are labelled otherwise", labels.get(COMPONENT) == its)
    expect(f"{its}: its account is another", pod.get("serviceAccountName") == its)
    expect(f"{its}: there is no such account", its in accounts)
    expect(f"{its}: Services' variables may look like ours", pod.get("enableServiceLinks") is False)
    token = accounts.get(its, {}).get("automountServiceAccountToken") is not False
    token = pod.get("automountServiceAccountToken", token)
    expect(f"{its}: a token is mounted, or is not and should be", token == (its == "cluster"))
    expect(f"{its}: one that must not be missed runs once", each["spec"]["replicas"] >= 2)
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        expect(f"{its}: {key}", not pod.get(key))
    whole = pod.get("securityContext", {})
    expect(f"{its}: may be root", whole.get("runAsNonRoot") is True and whole.get("runAsUser") == 65532)
    expect(f"{its}: seccomp", whole.get("seccompProfile") == {"type": "RuntimeDefault"})
    secrets = {volume["secret"]["secretName"] for volume in pod.get("volumes", []) if "secret" in volume}
    expect(f"{its}: has no certificate", "quorate-tls" in secrets)
    expect(f"{its}: has the authority's key, or lacks it", ("quorate-authority" in secrets) == (its == "cluster"))
    for volume in pod.get("volumes", []):
        kind = (set(volume) - {"name"}).pop()
        expect(f"{its}: volume of kind {kind}", kind in {"configMap", "emptyDir", "secret"})
        if kind == "configMap":
            expect(f"{its}: no such ConfigMap", volume["configMap"]["name"] in maps)
    containers = pod["containers"] + pod.get("initContainers", [])
    expect(f"{its}: more than one container", len(containers) == 1)
    for container in containers:
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container.get(probe, {}).get("httpGet", {}).get("port")
            expect(f"{its}: no {probe}", asked in {port["name"] for port in container.get("ports", [])})
        own, resources = container.get("securityContext", {}), container.get("resources", {})
        expect(f"{its}: runs another daemon", container["args"][0] == its)
        expect(f"{its}: can gain privilege", own.get("allowPrivilegeEscalation") is False)
        expect(f"{its}: can write to its image", own.get("readOnlyRootFilesystem") is True)
        expect(f"{its}: has capabilities", own.get("capabilities") == {"drop": ["ALL"]})
        expect(f"{its}: asks for nothing", {"cpu", "memory"} <= set(resources.get("requests", {})))
        expect(f"{its}: no limit of memory", "memory" in resources.get("limits", {}))
        expect(f"{its}: throttled", "cpu" not in resources.get("limits", {}))
        given = {entry["name"]: entry.get("value") for entry in container["env"]}
        expect(f"{its}: worker sets would run another image", given.get(IMAGE) == container["image"])
        expect(f"{its}: a variable twice", len(given) == len(container["env"]))


def role(all_of_them):
    expect("a role beyond the namespace", not of_kind(all_of_them, "ClusterRole", "ClusterRoleBinding"))
    for each in of_kind(all_of_them, "Role"):
        for rule in each["rules"]:
            expect(f"role {name(each)}: groups of the API", len(rule["apiGroups"]) == 1)
            expect(f"role {name(each)}: names of objects", set(rule) == {"apiGroups", "resources", "verbs"})
            for resource in rule["resources"]:
                beyond = set(rule["verbs"]) - ROLE.get((rule["apiGroups"][0], resource), set())
                expect(f"role {name(each)}: may {sorted(beyond)} {resource}", not beyond)
    for each in of_kind(all_of_them, "RoleBinding"):
        subjects = [(subject["kind"], subject["name"]) for subject in each["subjects"]]
        expect(f"binding {name(each)}: {subjects}", subjects == [("ServiceAccount", "cluster")])


def components(selector):
    """The components that a selector names; `None` when it names none."""
    if not selector:
        return None
    named = selector.get("matchLabels", {}).get(COMPONENT)
    found = {named} if named else set()
    for expression in selector.get("matchExpressions", []):
        if expression["key"] == COMPONENT and expression["operator"] == "In":
            found |= set(expression["values"])
    return found or None


def arrows(policies, direction, peer):
    """Who may speak to whom inside of the namespace: (from, to, port)."""
    found = set()
    for policy in policies:
        own = components(policy["spec"]["podSelector"]) or set()
        for rule in policy["spec"].get(direction, []):
            ports = [port["port"] for port in rule.get("ports", [{"port": None}])]
            for other in rule.get(peer, []):
                if "namespaceSelector" in other or "ipBlock" in other:
                    continue
                for it in components(other["podSelector"]):
                    for this in own:
                        for port in ports:
                            found.add((this, it, port) if direction == "egress" else (it, this, port))
    return found


def network(all_of_them):
    policies = of_kind(all_of_them, "NetworkPolicy")
    closed = [each for each in policies if each["spec"]["podSelector"] == {}]
    expect(
        "what no policy allows is not refused",
        [set(each["spec"]["policyTypes"]) for each in closed] == [{"Ingress", "Egress"}]
        and not any({"ingress", "egress"} & set(each["spec"]) for each in closed),
    )
    for each in policies:
        for direction in ("ingress", "egress"):
            said = direction.capitalize() in each["spec"]["policyTypes"]
            expect(f"policy {name(each)}: {direction} without rules", each in closed or said == (direction in each["spec"]))
    # Both ends must allow an arrow: one alone is a connection that is refused.
    out, into = arrows(policies, "egress", "to"), arrows(policies, "ingress", "from")
    for arrow in sorted(out ^ into, key=str):
        expect("%s → %s (port %s) is allowed at one end only" % arrow, False)
    expect("no arrow at all", out)
    for daemon in DAEMONS | PODS:
        expect(f"nobody speaks of {daemon} in a policy", any(daemon in arrow for arrow in out))


def budgets(all_of_them):
    found = {}
    for each in of_kind(all_of_them, "PodDisruptionBudget"):
        component = each["spec"]["selector"]["matchLabels"][COMPONENT]
        found[component] = {
            key: each["spec"][key] for key in ("minAvailable", "maxUnavailable") if key in each["spec"]
        }
        expect(f"budget {name(each)} is named for another", name(each) == component)
    # Those of the sets are the cluster service's.
    wanted = {daemon: {"maxUnavailable": 1} for daemon in DAEMONS}
    expect(f"budgets: {found.items() ^ wanted.items() if found.keys() == wanted.keys() else found.keys() ^ wanted.keys()}", found == wanted)


def overlay(which, path):
    all_of_them = objects(path)
    workloads = of_kind(all_of_them, "Deployment", "StatefulSet")
    accounts = {name(each): each for each in of_kind(all_of_them, "ServiceAccount")}
    maps = {name(each): each for each in of_kind(all_of_them, "ConfigMap")}
    expect(f"daemons: {sorted(map(name, workloads))}", {name(each) for each in workloads} == DAEMONS)
    expect("the gateway's name is not stable", [name(each) for each in of_kind(workloads, "StatefulSet")] == ["gateway"])
    for each in workloads:
        workload(each, accounts, maps)
    for each in all_of_them:
        namespaced = each["kind"] != "Namespace"
        expect(f"{each['kind']} {name(each)} is elsewhere", each["metadata"].get("namespace") == ("quorate" if namespaced else None))
    for each in of_kind(all_of_them, "Namespace"):
        enforced = each["metadata"]["labels"].get("pod-security.kubernetes.io/enforce")
        expect("the namespace takes pods with privileges", enforced == "restricted")
    for each in of_kind(all_of_them, "Service"):
        selected = components({"matchLabels": each["spec"]["selector"]})
        expect(f"service {name(each)} is of {selected}", selected and selected <= DAEMONS)
        for port in each["spec"]["ports"]:
            at = port.get("nodePort", 30000)
            expect(f"service {name(each)}: nodes have no port {at} for it", 30000 <= at <= 32767)
    for each in maps.values():
        tomllib.loads(each["data"]["quorate.toml"])
    role(all_of_them)
    if which == "eks":
        budgets(all_of_them)
        network(all_of_them)


def expand(text, given):
    return re.sub(r"\$\((\w+)\)", lambda found: given[found[1]], text)


def environment(container, fields):
    """A container's variables, in a pod with these fields."""
    given = {}
    for entry in container["env"]:
        value = entry.get("value")
        if value is None:
            value = fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        given[entry["name"]] = expand(value, given)
    return given


def configuration(path, binary):
    """Each daemon's file and variables, as the program reads them."""
    all_of_them = objects(path)
    (file,) = [each["data"]["quorate.toml"] for each in of_kind(all_of_them, "ConfigMap")]
    fields = {"status.podIP": "10.0.0.7", "status.hostIP": "10.0.0.1"}
    for each in of_kind(all_of_them, "Deployment", "StatefulSet"):
        (container,) = each["spec"]["template"]["spec"]["containers"]
        given = environment(container, fields)
        with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
            config.write(file)
            config.flush()
            command = [binary, "config", "check", "--config", config.name]
            run = subprocess.run(command, env=given, capture_output=True, text=True, check=False)
        expect(f"{name(each)}: {run.stderr.strip()}", run.returncode == 0)


# --- etcd -------------------------------------------------------------------------------------------------


def etcd(path, certificates, *addresses):
    """Its members, started as the manifest says, with the machine's own `etcd`."""
    (workload,) = of_kind(objects(path), "StatefulSet")
    (container,) = workload["spec"]["template"]["spec"]["containers"]
    (mounted,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "tls"]
    (data,) = [each["mountPath"] for each in container["volumeMounts"] if each["name"] == "data"]
    expect("a member without an address, or the reverse", workload["spec"]["replicas"] == len(addresses))
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as members:
        running = []
        for at, address in enumerate(addresses):
            given = environment(container, {"metadata.name": f"{name(workload)}-{at}", "status.podIP": address})
            args = [expand(each, given) for each in container["args"]]
            args = [each.replace(f"={mounted}/", f"={certificates}/server/").replace(f"={data}/", f"={scratch}/{at}/") for each in args]
            log = members.enter_context(open(f"{scratch}/{at}.log", "w"))
            member = subprocess.Popen([*container["command"], *args], stdout=log, stderr=log)
            members.callback(lambda member=member: (member.kill(), member.wait()))
            running.append(member)

        def ask(*command, at="etcd.etcd.svc", who="client"):
            shown = [f"--cacert={certificates}/server/ca.crt"]
            shown += [f"--cert={certificates}/{who}/tls.crt", f"--key={certificates}/{who}/tls.key"] if who else []
            asked = ["etcdctl", f"--endpoints=https://{at}:2379", "--dial-timeout=2s", "--command-timeout=5s", *shown, *command]
            return subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, "ETCDCTL_API": "3"})

        def asked_until_it_does(*command, at):
            until = time.monotonic() + 60
            while (said := ask(*command, at=at)).returncode != 0 and time.monotonic() < until:
                time.sleep(0.2)  # it says nothing by itself
            return said

        said = asked_until_it_does("endpoint", "health", at="etcd.etcd.svc")
        logs = "".join(open(f"{scratch}/{at}.log").read()[-2000:] for at in range(len(addresses)))
        expect(f"it does not begin: {said.stderr}{logs}", said.returncode == 0)
        expect("it takes no value", ask("put", "a", "1", at="etcd-0.members.etcd.svc").returncode == 0)
        expect("another member does not have it", ask("get", "a", at="etcd-2.members.etcd.svc").stdout == "a\n1\n")
        for address in addresses:
            with urllib.request.urlopen(f"http://{address}:2381/health", timeout=5) as answer:
                expect("probes find no health", json.load(answer)["health"] == "true")
        expect("it takes a client without a certificate", ask("get", "a", who=None).returncode != 0)
        expect("it takes one of another authority", ask("get", "a", who="stranger").returncode != 0)
        running[0].kill()
        said = asked_until_it_does("put", "a", "2", at="etcd-1.members.etcd.svc")
        expect(f"two do not go on: {said.stderr}", said.returncode == 0)


# --- Roles ------------------------------------------------------------------------------------------------


class Template(yaml.SafeLoader):
    """CloudFormation's short forms, as what they are given."""


Template.add_multi_constructor(
    "!", lambda loader, suffix, node: {suffix: getattr(loader, f"construct_{node.id}")(node)}
)


def roles(path, template):
    resources = yaml.load(Path(template).read_text(), Template)["Resources"]
    made = {
        each["Properties"]["RoleName"]["Sub"].replace("${Prefix}", "quorate-"): each["Properties"]["AssumeRolePolicyDocument"]["Sub"]
        for each in resources.values()
        if each["Type"] == "AWS::IAM::Role"
    }
    asked = {
        name(each): each["metadata"]["annotations"]["eks.amazonaws.com/role-arn"].rsplit("/", 1)[1]
        for each in of_kind(objects(path), "ServiceAccount")
        if "annotations" in each["metadata"]
    }
    expect(f"accounts with a role: {sorted(asked)}", set(asked) == DAEMONS)
    expect(f"roles: {sorted(made)}", set(made) == set(asked.values()))
    for account, wanted in asked.items():
        trust = json.loads(made.get(wanted, "{}") or "{}")
        expect(f"{wanted} trusts another account", f":{account}\"" in json.dumps(trust))
    queues = {
        each["Properties"]["QueueName"]["Sub"].removeprefix("${Prefix}")
        for each in resources.values()
        if each["Type"] == "AWS::SQS::Queue"
    }
    source = Path("daemons/src/queue.rs").read_text()
    wanted = set(re.findall(r'Self\("([a-z]+)"\.into\(\)\)', source))
    wanted |= {f"layer-{function}" for function in ("add", "sub", "mul", "div")}
    wanted |= {f"{queue}-dead" for queue in wanted}
    expect(f"queues that only one side has: {sorted(queues ^ wanted)}", queues == wanted)


# --- Metrics ----------------------------------------------------------------------------------------------


def exported():
    macro = re.compile(r'(?:counter|gauge|histogram)!\(\s*"(quorate_[a-z_]+)"')
    return {found for file in Path("daemons/src").rglob("*.rs") for found in macro.findall(file.read_text())}


def used(query):
    found = set(re.findall(r"\bquorate_[a-z_]+", query))
    return {re.sub(r"_(bucket|count|sum)$", "", each) if "duration" in each else each for each in found}


def dashboard(path, rules):
    board = json.loads(Path(path).read_text())
    panels, queries, taken = board["panels"], [], set()
    ids = [panel["id"] for panel in panels]
    expect("two panels have one id", len(ids) == len(set(ids)))
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        expect(f"panel {panel['title']} lies over another, or beyond the edge", not cells & taken and place["x"] + place["w"] <= 24)
        taken |= cells
        if panel["type"] == "row":
            continue
        expect(f"panel {panel['title']} shows nothing", panel["targets"])
        for target in panel["targets"]:
            expect(f"panel {panel['title']} asks another source", target["datasource"]["uid"] == "${datasource}")
            queries.append(target["expr"])
    known, shown = exported(), set().union(*map(used, queries))
    expect(f"metrics that nothing exports: {sorted(shown - known)}", shown <= known)
    # As rules, which promtool reads.
    rules_of = [{"record": f"query_{at}", "expr": query.replace("$__rate_interval", "5m")} for at, query in enumerate(queries)]
    Path(rules).write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules_of}]}))


def alerts(path):
    named = set()
    for group in yaml.safe_load(Path(path).read_text())["groups"]:
        for rule in group["rules"]:
            unknown = used(rule["expr"]) - exported()
            expect(f"{rule['alert']}: metrics that nothing exports: {sorted(unknown)}", not unknown)
            expect(f"{rule['alert']}: no severity", rule["labels"]["severity"] in {"warning", "critical"})
            expect(f"{rule['alert']} is there twice", rule["alert"] not in named)
            named.add(rule["alert"])
    tested = Path(path).with_name("alerts.test.yaml").read_text()
    for each in sorted(named):
        expect(f"{each} is not tested", f"alertname: {each}" in tested)


CHECKS = {check.__name__: check for check in (overlay, configuration, etcd, roles, dashboard, alerts)}

if __name__ == "__main__":
    CHECKS[sys.argv[1]](*sys.argv[2:])
    print("\n".join(wrong))
    sys.exit(bool(wrong))
