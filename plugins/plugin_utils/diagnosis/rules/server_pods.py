# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Rules about the pods of the server behind the API (POD). Each is a pure function from evidence to observations."""

from __future__ import annotations

import re
import shlex
import typing as t

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import masking
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.evidence import Evidence, Mapping, get
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.families import joined
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.model import (
    Elsewhere,
    Observation,
    Repair,
    Row,
    Severity,
)
from ansible_collections.kubemetrics.aggregation.plugins.plugin_utils.diagnosis.rules.connections import (
    failed,
    kind_of,
    said_of,
)

#: Most lines of a log or of events that a finding quotes.
_MOST = 3

_PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "ImageInspectError",
    "InvalidImageName",
    "RegistryUnavailable",
)
_PULL = re.compile(
    r"failed to (?:pull|do request|resolve|copy|fetch|get sandbox image)|pull policy of Never|pull access denied", re.I
)
_UNREACHED = re.compile(
    r"i/o timeout|deadline exceeded|refused|no such host|no route|unreachable|EOF|server misbehaving"
)
_NOT_LISTENING = re.compile(
    r"address already in use|:\d+: bind: permission denied|Permission denied.*(?:port|bind)", re.I
)
_NO_AUTHENTICATION_CONFIG = re.compile(r"extension-apiserver-authentication\W.*is forbidden", re.I)
_NO_REVIEWS = re.compile(r"(?:subjectaccessreviews|tokenreviews)\.\S+ is forbidden")
#: What upstream's server and ours end with when flags cannot be meant. Upstream's prints all its flags between the two
#: lines that say so, and words of all kinds are among these.
_FLAGS = re.compile(
    r"^(?:Error|panic|[\w-]*(?:server|adapter)): (?!failed to ).*(?:should be|cannot use both|need both"
    r"|unknown (?:shorthand )?flag"
    r"|flag needs an argument|invalid argument .* for .* flag|bad flag syntax|cannot be used|must (?:not )?be "
    r"|must name|can ?not be negative|is not a label selector)"
)
_OUT_OF_MEMORY = re.compile(r"OOM", re.I)


def quoted(pod: Mapping, text: str) -> str:
    """A line with its source."""
    return f"pod {pod.get('namespace')}/{pod.get('name')}: {text}"


def severity_of(evidence: Evidence) -> Severity:
    """A pod that does not start beside one that serves is a rollout that is stuck, and no outage."""
    return "warning" if evidence.server_serves else "error"


def foreign(evidence: Evidence, text: str, *commands: str, **words: str) -> Repair | None:
    """Advice for a server of somebody else; None for this collection's own, which the row's repair is for.

    What comes from the cluster goes into the commands by name ({name}, and those of words), quoted for the shell.
    """
    if evidence.server_managed:
        return None
    workload = evidence.server_workload
    owner = workload.get("owner") or "somebody else"
    names = {
        "namespace": workload.get("namespace")
        or get(evidence.server_pods, 0, "namespace", default=evidence.subject.namespace),
        "name": workload.get("name") or evidence.subject.name,
        "account": str(evidence.get("api", "objects", "service_account", default="")).partition("/")[2]
        or evidence.subject.name,
        **words,
    }
    quoted_words = {key: shlex.quote(str(value)) for key, value in names.items()}
    return Repair(
        "advice",
        f"{evidence.subject.Server} is managed by {owner}. {text}",
        commands=tuple(command.format(**quoted_words) for command in commands),
    )


def logged(evidence: Evidence, pattern: re.Pattern[str]) -> list[str]:
    """What the logs of pods that are not ready say of it, the newest last."""
    found: list[str] = []
    for pod in evidence.unready_pods:
        lines = [*get(pod, "previous_log", default=[]), *get(pod, "log", default=[])]
        found += [quoted(pod, excerpt(line, pattern)) for line in lines if pattern.search(line)]
    return list(dict.fromkeys(found))[-_MOST:]


def excerpt(line: str, pattern: re.Pattern[str], most: int = 300) -> str:
    """Of a long line what is around the match."""
    match = pattern.search(line)
    if match is None or len(line) <= most:
        return line
    start = max(0, min(match.start() - most // 3, len(line) - most))
    return ("..." if start else "") + line[start : start + most] + ("..." if start + most < len(line) else "")


def hosts_of(evidence: Evidence, pods: t.Iterable[Mapping]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(evidence.host_of_node(str(pod["node"])) for pod in pods if pod.get("node")))


# --- POD-01 ----------------------------------------------------------------------------------------------------------


def image_not_pulled(evidence: Evidence) -> t.Iterator[Observation]:
    for pod in evidence.unready_pods:
        waiting = [
            quoted(pod, f"container {container.get('name')}: {container['state']['reason']}: {container.get('image')}")
            for container in pod.get("containers") or ()
            if get(container, "state", "reason") in _PULL_REASONS
        ]
        said = list(
            dict.fromkeys(
                str(event.get("message"))
                for event in get(evidence.objects, "events", default=[])
                if event.get("name") == pod.get("name") and _PULL.search(str(event.get("message")))
            )
        )
        sandbox = [message for message in said if "sandbox image" in message]
        if not waiting and not sandbox:
            continue
        text = " ".join([*waiting, *said])
        yield Observation(
            evidence=(*waiting, *(quoted(pod, message) for message in said[:_MOST])),
            hosts=hosts_of(evidence, [pod]),
            cause=_why_not_pulled(text, pod, sandbox=bool(sandbox)),
            severity=severity_of(evidence),
            repair=_another_image(evidence) if "InvalidImageName" in text else _available_image(evidence, pod),
        )


def _another_image(evidence: Evidence) -> Repair | None:
    return foreign(
        evidence,
        "Correct the name of its image, where its manifest or its chart's values have it.",
        "kubectl --namespace {namespace} edit deployment {name}",
    )


def _available_image(evidence: Evidence, pod: Mapping) -> Repair | None:
    return foreign(
        evidence,
        "Make its image available to the node, by a mirror in containerd's hosts.toml or by its digest.",
        "crictl pull {image}  # on {node}",
        "kubectl --namespace {namespace} rollout restart deployment {name}",
        image=next((str(one["image"]) for one in pod.get("containers") or () if one.get("image")), "IMAGE"),
        node=str(pod.get("node")),
    )


def _why_not_pulled(text: str, pod: Mapping, *, sandbox: bool) -> str:
    node = pod.get("node")
    what = "the image of the pod's sandbox (pause)" if sandbox else "the image"
    if "InvalidImageName" in text:
        return (
            "The name of the image is none that a runtime can read, as where a variable in it was not replaced, or it "
            "has capital letters or a space."
        )
    if "Never" in text:
        return (
            f"Node {node} does not have {what}, and its pull policy is Never: it was removed from the node, by the "
            "kubelet when the disk was full or by hand. If it is there, the kubelet wants to see a login for it "
            "(imagePullCredentialsVerificationPolicy)."
        )
    if _UNREACHED.search(text):
        return f"Node {node} does not reach the registry of {what}: a firewall, a proxy or DNS is in the way."
    if re.search(r"x509|certificate", text):
        return f"Node {node} does not trust the certificate of the registry of {what}."
    if re.search(r"not found|manifest unknown", text):
        return f"The registry does not have {what}: its name or tag is wrong."
    if re.search(r"denied|unauthorized|authorization|\b40[13]\b", text, re.I):
        return f"The registry refuses {what} to node {node}: a pull secret is missing, or the name is wrong."
    return f"Node {node} cannot get {what}."


# --- POD-02 ----------------------------------------------------------------------------------------------------------


def port_in_use(evidence: Evidence) -> t.Iterator[Observation]:
    lines = logged(evidence, _NOT_LISTENING)
    clashing = [pod for pod in evidence.unready_pods if pod.get("host_network") and _port(pod) == 10250]
    if not lines and not clashing:
        return
    denied = any("permission denied" in line.lower() for line in lines)
    cause = (
        f"{evidence.subject.Server} runs as a user that may not listen on a port below 1024."
        if denied
        else f"{evidence.subject.Server} is in the network of its node and is told to listen on port 10250, which "
        "the kubelet has."
        if clashing
        else f"Another process has the port that {evidence.subject.server} is told to listen on."
    )
    structure = [quoted(pod, f"hostNetwork: true, --secure-port={_port(pod)}") for pod in clashing]
    yield Observation(
        evidence=(*lines, *structure),
        hosts=hosts_of(evidence, clashing or evidence.unready_pods),
        cause=cause,
        severity=severity_of(evidence),
        repair=foreign(
            evidence,
            "Change --secure-port, containerPort and the probes together, or leave the network of the node.",
            "kubectl --namespace {namespace} edit deployment {name}  "
            "# --secure-port=4443, containerPort: 4443 (the Service's targetPort is its name, https)",
        ),
    )


def _port(pod: Mapping) -> int | None:
    for container in pod.get("containers") or ():
        for argument in container.get("args") or ():
            if str(argument).startswith("--secure-port="):
                value = str(argument).partition("=")[2]
                return int(value) if value.isdigit() else None
    return None


# --- POD-03: the pod does not reach the API -------------------------------------------------------------------------

#: What upstream's server and this project's log while they cannot read whom to trust.
_NO_API = re.compile(
    r"(extension-apiserver-authentication|configmap based request-header-client-ca-file|https://\S+:443/)"
    r".*(i/o timeout|timed out|deadline exceeded|no route to host|connection refused|unreachable|cannot connect)",
    re.IGNORECASE,
)


def pod_does_not_reach_api(evidence: Evidence) -> t.Iterator[Observation]:
    measured = False
    for name in evidence.server_hosts:
        host = evidence.host(name)
        services = host.pod_targets("cluster_ip") if host else []
        measured = measured or bool(services)
        broken = [target for target in services if failed(target) or target.get("answers") is False]
        if not broken:
            continue
        servers = host.pod_targets("api_server") if host else []
        reached = [target for target in servers if not failed(target)]
        if servers and all(kind_of(target) == "refused" for target in [*broken, *servers]):
            # Packets get there and back: no API server listens, as while the only one restarts.
            continue
        if reached and evidence.api_servers_started_just_now and all(kind_of(target) == "refused" for target in broken):
            # kube-proxy refuses for the only API server until it has learned that it is back.
            continue
        lines = [said_of(f"pod on {name}", target) for target in [*broken, *servers[:2]]]
        lines += _log_lines(evidence)[:1]
        endpoints = [str(address) for address in get(evidence.objects, "kubernetes", "endpoints", default=[])]
        known = {joined(target.get("host"), target.get("port")) for target in servers}
        odd = [address for address in endpoints if known and address not in known]
        if odd:
            lines.append(f"Service default/kubernetes leads to {', '.join(odd)}, which is no API server that is known")
        yield Observation(
            tuple(lines), (name,), cause=_cause(name, bool(reached), odd), repair=_repair(name, bool(reached))
        )
    # Without a look from the host, what the server says has to do.
    logged = _log_lines(evidence)
    if not measured and logged and not any(pod.get("ready") for pod in evidence.server_pods):
        yield Observation(tuple(logged[:2]), evidence.server_hosts)


def _log_lines(evidence: Evidence) -> list[str]:
    return [
        f"{evidence.subject.server.removeprefix('the ')}: {line}"
        for line in evidence.server_log()
        if _NO_API.search(line)
    ][-2:]


def _cause(name: str, reached: bool, odd: t.Sequence[str]) -> str:
    if odd:
        return (
            "The Service kubernetes leads to an address at which pods find no API server: an API server advertises "
            "an address that others cannot reach (--advertise-address)."
        )
    if reached:
        return (
            f"Pods on {name} reach the API servers themselves and not their ClusterIP: nothing on that node "
            "translates ClusterIPs (kube-proxy, or the CNI plugin in its place)."
        )
    return ""


def _repair(name: str, reached: bool) -> Repair | None:
    if not reached:
        return None
    return Repair(
        "advice",
        f"Start kube-proxy on {name}; the server connects by itself then.",
        risk="none",
        commands=(
            f"kubectl --namespace kube-system get pods --output wide --field-selector spec.nodeName={name} "
            "--selector k8s-app=kube-proxy",
            f"systemctl status kube-proxy   # on {name}, where it is a service",
        ),
    )


POD_03 = Row(
    id="POD-03",
    title="${Server}'s pod does not reach the API",
    layer="server",
    symptom=(
        'unable to load configmap based request-header-client-ca-file: Get "https://10.96.0.1:443/...": dial tcp '
        "10.96.0.1:443: i/o timeout"
    ),
    cause=(
        "Nothing that the pod sends to the API comes back, so that the server never learns whom to trust, and "
        "never becomes ready. The network of "
        "pods on its node does not work."
    ),
    repair=Repair(
        "advice",
        "Mend the network of pods on that node: its CNI plugin, kube-proxy, and what the host's firewall forwards.",
        risk="none",
        commands=("kubectl --namespace kube-system get pods --output wide", "iptables -S FORWARD", "ip route"),
    ),
    avoid="Do not add rights: that the log goes on about RBAC misleads, the request never got as far.",
    rule=pod_does_not_reach_api,
    # A server that has not read its certificate from the API shows one of its own.
    explains=("AGG-07", "AGG-12"),
    covers_everywhere=("request", "server_pod", "autoscaler", "namespace", "discovery", "node_metrics", "pod_metrics"),
)


# --- POD-04 and POD-05: rights ----------------------------------------------------------------------------------------


def _denied(evidence: Evidence, what: str, lines: t.Sequence[str]) -> str:
    """What a SubjectAccessReview says, where it says no. lines: what the log says of it."""
    review = evidence.review(what)
    if not review or review.get("allowed") or not evidence.server_deployed:
        return ""
    if not lines and not evidence.subject.resource_metrics:
        # A metrics server needs these rights. What another one needs, only its log tells.
        return ""
    resource = "/".join(part for part in (review.get("resource"), review.get("subresource")) if part)
    return f"SubjectAccessReview: {review.get('user')} may not {review.get('verb')} {resource}" + (
        f" {review['namespace']}/{review.get('name')}" if review.get("namespace") else ""
    )


def authentication_config_denied(evidence: Evidence) -> t.Iterator[Observation]:
    lines = logged(evidence, _NO_AUTHENTICATION_CONFIG)
    denied = _denied(evidence, "server_authentication_configmap", lines)
    # Where the review was asked it is right: a log may be older.
    if not denied and (not lines or evidence.review("server_authentication_configmap")):
        return
    yield Observation(
        evidence=tuple(filter(None, [denied, *lines])),
        severity=severity_of(evidence),
        cause=""
        if not evidence.server_serves
        else f"{evidence.subject.told(_NO_READER)} The server that runs has read it before; the next one does not "
        "start.",
        repair=foreign(
            evidence,
            "Bind its account to the Role that every cluster has for this.",
            "kubectl --namespace kube-system create rolebinding {name}-auth-reader "
            "--role=extension-apiserver-authentication-reader --serviceaccount={namespace}:{account}",
            "kubectl --namespace {namespace} rollout restart deployment {name}",
        ),
    )


_NO_READER = (
    "The account of $server may not read the ConfigMap extension-apiserver-authentication, which holds the "
    "front proxy's CA: the RoleBinding to the Role extension-apiserver-authentication-reader is missing, or is in "
    "another namespace than kube-system."
)


def reviews_denied(evidence: Evidence) -> t.Iterator[Observation]:
    reviews = {what: evidence.review(what) for what in ("server_tokenreviews", "server_subjectaccessreviews")}
    lines = [excerpt(line, _NO_REVIEWS) for line in evidence.server_log() if _NO_REVIEWS.search(line)][-1:]
    denied = tuple(filter(None, (_denied(evidence, what, lines) for what in reviews)))
    if denied or (lines and not any(reviews.values())):
        yield Observation(
            evidence=(*denied, *(f"log of {evidence.subject.server}: {line}" for line in lines)),
            repair=foreign(
                evidence,
                "Bind its account to the ClusterRole system:auth-delegator.",
                "kubectl create clusterrolebinding {name}:system:auth-delegator "
                "--clusterrole=system:auth-delegator --serviceaccount={namespace}:{account}",
            ),
        )
    roles = get(evidence.objects, "roles", default={})
    if evidence.subject.resource_metrics and evidence.server_deployed and roles.get("view_reads_metrics") is False:
        missing = (
            "" if roles.get("aggregated_reader") else "ClusterRole system:aggregated-metrics-reader does not exist"
        )
        yield Observation(
            evidence=(missing or "ClusterRole view has no rule for metrics.k8s.io",),
            severity="warning",
            cause="Users with the ClusterRole view, edit or admin get `nodes.metrics.k8s.io is forbidden`: the "
            "ClusterRole system:aggregated-metrics-reader is missing, or is not aggregated to view.",
            repair=foreign(
                evidence,
                "Apply upstream's ClusterRole system:aggregated-metrics-reader.",
                "kubectl create clusterrole system:aggregated-metrics-reader --verb=get,list,watch "
                "--resource=nodes.metrics.k8s.io,pods.metrics.k8s.io",
                "kubectl label clusterrole system:aggregated-metrics-reader "
                "rbac.authorization.k8s.io/aggregate-to-{{view,edit,admin}}=true",
            ),
        )


# --- POD-06 ----------------------------------------------------------------------------------------------------------


def flags_refused(evidence: Evidence) -> t.Iterator[Observation]:
    for pod in evidence.unready_pods:
        for container in pod.get("containers") or ():
            codes = {get(container, state, "exit_code") for state in ("state", "last_state")} - {None, 0}
            lines = [*get(pod, "previous_log", default=[]), *get(pod, "log", default=[])]
            said = [quoted(pod, line) for line in lines if _FLAGS.search(line)][-_MOST:]
            # A server that runs has been content with its flags: whatever its log says is of something else.
            if not codes or not said:
                continue
            yield Observation(
                evidence=(
                    *dict.fromkeys(said),
                    # Evidence that an older version has saved may hold more than is shown now.
                    quoted(pod, f"args: {' '.join(masking.mask_argv(list(map(str, container.get('args') or ()))))}"),
                ),
                severity=severity_of(evidence),
                repair=foreign(
                    evidence,
                    "Correct the flags that its log names, where its manifest or its chart's values have them.",
                    "kubectl --namespace {namespace} edit deployment {name}",
                ),
            )


# --- POD-07 ----------------------------------------------------------------------------------------------------------


def out_of_memory(evidence: Evidence) -> t.Iterator[Observation]:
    for pod in evidence.server_pods:
        for container in pod.get("containers") or ():
            states = [container.get("state") or {}, container.get("last_state") or {}]
            ended = next((state for state in states if _ended_for_memory(state)), None)
            # A server that has been ended once, long ago, and serves since then has found its size.
            if ended is None or (pod.get("ready") and not _again(evidence, container, ended)):
                continue
            limit = get(container, "resources", "limits", "memory", default="none")
            nanny = any(other.get("name") in ("nanny", "metrics-server-nanny") for other in pod.get("containers") or ())
            yield Observation(
                evidence=(
                    quoted(
                        pod,
                        f"container {container.get('name')}: {ended.get('reason')}, {container.get('restarts')} "
                        f"restarts, "
                        f"limits.memory {limit}",
                    ),
                ),
                hosts=hosts_of(evidence, [pod]),
                cause=_too_small(evidence, str(limit))
                + (" The nanny beside it sets the limit anew, whatever the Deployment says." if nanny else ""),
                severity="error" if not pod.get("ready") and not evidence.server_serves else "warning",
                repair=foreign(
                    evidence,
                    "Raise the limit where its owner sets it: only one may own the resources.",
                    _with_more_memory(evidence),
                ),
            )


def _too_small(evidence: Evidence, limit: str) -> str:
    if not evidence.subject.resource_metrics:
        return f"The limit of {limit} is too small for what it holds."
    return (
        f"The limit of {limit} is too small for a cluster of {len(evidence.nodes)} nodes: 200Mi suffice up to 100 "
        "nodes, and each further one takes 2Mi (and 1m of CPU beyond 100m)."
    )


def _with_more_memory(evidence: Evidence) -> str:
    resources = "kubectl --namespace {namespace} set resources deployment {name} "
    if not evidence.subject.resource_metrics:
        return f"{resources}--limits=memory=MORE"
    nodes = len(evidence.nodes)
    memory = f"memory={max(200, 2 * nodes)}Mi"
    return f"{resources}--requests=cpu={max(100, nodes)}m,{memory} --limits={memory}"


def _ended_for_memory(state: Mapping) -> bool:
    return state.get("reason") == "OOMKilled" or bool(_OUT_OF_MEMORY.search(str(state.get("message") or "")))


def _again(evidence: Evidence, container: Mapping, ended: Mapping) -> bool:
    """Whether it was ended within the last hour, or more than twice."""
    age = evidence.age(ended.get("finished"))
    return int(container.get("restarts") or 0) > 2 or (age is not None and age < 3600)


_UNAVAILABLE = "Error from server (ServiceUnavailable): the server is currently unable to handle the request"
_ROLLOUT = "none: the pod that serves is replaced when the new one is ready"

ROWS: tuple[Row, ...] = (
    Row(
        id="POD-01",
        title="The image of $server cannot be pulled",
        layer="server",
        symptom=f"{_UNAVAILABLE}$get; the pod of $server is ImagePullBackOff",
        cause="A node has no copy of the image, and does not get one.",
        repair=Repair(
            "automatic",
            "Deploy $server as site.yml would, with its image: built and loaded into nodes, or pulled "
            "from the registry that metrics_server_image_name names.",
            downtime=_ROLLOUT,
            steps=("metrics_server",),
        ),
        avoid="Do not set skip_verify for the registry, and do not take a rebuild of somebody else without its digest.",
        rule=image_not_pulled,
        explains=("AGG-12",),
        covers=("server_pod",),
        covers_everywhere=("server_pod", "request"),
    ),
    Row(
        id="POD-02",
        title="$Server cannot listen on its port",
        layer="server",
        symptom="failed to listen on 0.0.0.0:10250: address already in use (or: bind: permission denied); the pod "
        "restarts",
        cause="The port belongs to another process, or needs more rights than $server has.",
        repair=Repair(
            "automatic",
            "Deploy $server as site.yml would: in the network of pods, or in that of its node with the port "
            "that metrics_server_container_port names.",
            downtime=_ROLLOUT,
            steps=("metrics_server",),
        ),
        avoid="Do not run $server as root for the sake of a port, and do not move the kubelet.",
        rule=port_in_use,
        # What answers on the port is the kubelet, with its own certificate.
        explains=("AGG-12", "AGG-07"),
        covers=("server_pod",),
        covers_everywhere=("server_pod", "request"),
    ),
    POD_03,
    Row(
        id="POD-04",
        title="$Server may not read the front proxy's CA",
        layer="server",
        symptom='configmaps "extension-apiserver-authentication" is forbidden: User '
        '"system:serviceaccount:$namespace:$name" cannot get resource "configmaps"',
        cause=_NO_READER,
        repair=Repair(
            "automatic",
            "Restore the RoleBinding metrics-server-auth-reader in kube-system.",
            steps=("metrics_server",),
        ),
        avoid="Do not bind the account to cluster-admin, and do not set --authentication-skip-lookup.",
        rule=authentication_config_denied,
        explains=("AGG-12",),
        covers=("server_pod", "request"),
    ),
    Row(
        id="POD-05",
        title="$Server may not ask who may see what",
        layer="server",
        symptom="subjectaccessreviews.authorization.k8s.io is forbidden; $requests answers 500 or "
        "$resource is forbidden",
        cause="The account of $server may not create TokenReviews and SubjectAccessReviews: the "
        "ClusterRoleBinding to system:auth-delegator is missing. Only members of system:masters are served.",
        repair=Repair(
            "automatic",
            "Restore the ClusterRoleBinding metrics-server:system:auth-delegator and the ClusterRole "
            "system:aggregated-metrics-reader.",
            steps=("metrics_server",),
        ),
        avoid="Do not bind the account to cluster-admin, and do not set --authorization-always-allow-paths for the "
        "API.",
        rule=reviews_denied,
        explains=("AGG-12",),
        covers=("request", "server_pod"),
    ),
    Row(
        id="POD-06",
        title="$Server refuses its flags",
        layer="server",
        symptom="metric-resolution should be larger than kubelet-request-timeout; unknown flag; cannot use both; the "
        "pod is CrashLoopBackOff",
        cause="Its flags contradict each other, or its version does not know them: the server ends at its start.",
        repair=Repair(
            "automatic",
            "Deploy $server with the flags that site.yml gives it.",
            downtime=_ROLLOUT,
            steps=("metrics_server",),
        ),
        avoid="Do not carry flags from one version to the next unread; do not remove a check of certificates to make "
        "two flags fit.",
        rule=flags_refused,
        elsewhere=Elsewhere(
            symptom="unknown flag; invalid argument ... for ... flag; cannot use both; the pod is CrashLoopBackOff"
        ),
        explains=("AGG-12",),
        covers=("server_pod",),
        covers_everywhere=("server_pod", "request"),
    ),
    Row(
        id="POD-07",
        title="$Server is ended for its use of memory",
        layer="server",
        symptom="OOMKilled; the pod of $server restarts over and over",
        cause="The limit of memory is too small for the cluster.",
        repair=Repair(
            "automatic",
            "Deploy $server with metrics_server_requests_memory and metrics_server_limits_memory; raise "
            "these first where the cluster has outgrown them.",
            downtime=_ROLLOUT,
            steps=("metrics_server",),
        ),
        avoid="Do not change by hand what a nanny or a vertical autoscaler sets: it changes it back.",
        rule=out_of_memory,
        explains=("AGG-12",),
        covers=("server_pod",),
        covers_everywhere=("server_pod", "request"),
    ),
)
