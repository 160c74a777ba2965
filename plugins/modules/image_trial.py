#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: image_trial
short_description: Start an image once on nodes, to see that they can pull and run it
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Runs a pod with O(image) on each of O(nodes), waits until it has ended, and removes it. The kubelet does for it what
    it would do for a Deployment - its runtime's mirrors, proxies and CAs, Secrets with logins, what admission makes of
    the pull policy - so that an image which cannot be pulled or started is known before anything is rolled out.
  - The pods have no token and no rights, do not touch the network, and run as nobody with a read-only file system.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes
options:
  image:
    description: Full name of the image.
    type: str
    required: true
  nodes:
    description: Names of the nodes, best one of each architecture and container runtime.
    type: list
    elements: str
    required: true
  namespace:
    description: Namespace of the pods, which has O(pull_secrets).
    type: str
    default: kube-system
  args:
    description: Arguments for the image's entry point, with which it ends by itself and successfully.
    type: list
    elements: str
    default: [--version]
  pull_policy:
    description: When the kubelet pulls the image.
    type: str
    choices: [Always, IfNotPresent, Never]
    default: IfNotPresent
  pull_secrets:
    description: Names of Secrets in O(namespace) with logins for the registry.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds in which the pods have to end.
    type: float
    default: 180
attributes:
  check_mode:
    support: none
    details: Only a pod that runs can show it.
  diff_mode:
    support: none
  idempotent:
    support: full
    details: The pods are removed in any case, so that nothing has changed afterwards.
seealso:
  - module: kubemetrics.aggregation.node_image
  - module: kubemetrics.aggregation.registry_image
"""

EXAMPLES = r"""
- name: See whether the worker can pull and start an image
  kubemetrics.aggregation.image_trial:
    kubeconfig: "{{ kubeconfig_file }}"
    image: registry.example.com/kubemetrics/metrics-server:0123456789ab
    nodes: [worker1]
    pull_secrets: [registry-login]
  delegate_to: localhost
"""

RETURN = r"""
nodes:
  description: What became of the image on each node - the last lines that it printed.
  returned: success
  type: dict
  sample: {worker1: v0.1.0}
"""

import hashlib
import re
import time
import typing as t
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import Observation, wait_until

NAME = "kubemetrics-image-trial"
SLEEP = 0.5
CONTAINER = "trial"
LABELS = {cluster_state.MANAGED_BY: cluster_state.MANAGER, "app.kubernetes.io/name": NAME}
#: States of a waiting container that do not pass by themselves. A pull that has failed is repeated once.
FINAL = frozenset(
    {
        "CreateContainerConfigError",
        "CreateContainerError",
        "ErrImageNeverPull",
        "ImageInspectError",
        "ImagePullBackOff",
        "InvalidImageName",
        "RunContainerError",
    }
)
ENDED = "it ended with"
#: What a message of a container that was started says, as regular expressions of whole words, and what to do about it;
#: the first that fits.
START_ADVICE = (
    (
        ("no match for platform", "exec format error", "no matching manifest"),
        "the image is for another architecture than the node's",
    ),
    (
        ("executable file .{0,80}not found", 'exec: "python3"'),
        "metrics_server_image_base has to bring Python as python3 in its PATH",
    ),
    (
        ("error loading shared library", "ld-linux", "ld-musl", r"GLIBC\w*"),
        "the server's wheels need glibc 2.28 or newer, and metrics_server_image_base has an older one, or musl (as "
        "Alpine has)",
    ),
    (
        ("ModuleNotFoundError", "ImportError", "No module named"),
        "metrics_server_image_python_version has to be the version of Python in metrics_server_image_base",
    ),
)
#: The same for an image that could not be had.
PULL_ADVICE = (
    (
        ("ErrImageNeverPull",),
        "run this again, so that the image is loaded into the node's runtime; if it is there, the kubelet wants to see "
        "a login for it (imagePullCredentialsVerificationPolicy): set metrics_server_image_source to push",
    ),
    (("x509", "certificates?"), "make the node's container runtime trust the registry's CA (containerd: hosts.toml)"),
    (
        ("unauthorized", "authorization", "authentication", "denied", "forbidden", "401", "403"),
        "name a Secret with a login for the registry in metrics_server_image_pull_secrets",
    ),
    (
        ("no such host", "timeout", "refused", "unreachable", "dial tcp", "deadline"),
        "let the node reach the registry, or set metrics_server_image_source to build, which needs none",
    ),
    (("not found", "manifest unknown"), "correct metrics_server_image_name and metrics_server_image_version"),
)


def pod_name(node: str) -> str:
    return "%s-%s" % (NAME, hashlib.sha256(node.encode()).hexdigest()[:8])


def pod_for(node: str, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    """A pod that starts the image once on a node, as restricted as the server's own."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": pod_name(node), "namespace": params["namespace"], "labels": LABELS},
        "spec": {
            "nodeName": node,
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
            "activeDeadlineSeconds": int(params["timeout"]) + 60,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "tolerations": [{"operator": "Exists"}],
            "imagePullSecrets": [{"name": name} for name in params["pull_secrets"]],
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65534,
                "runAsGroup": 65534,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": CONTAINER,
                    "image": params["image"],
                    "imagePullPolicy": params["pull_policy"],
                    "args": params["args"],
                    "resources": {
                        "requests": {"cpu": "10m", "memory": "64Mi"},
                        "limits": {"cpu": "1", "memory": "200Mi"},
                    },
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                }
            ],
        },
    }


def without_names(message: str, names: t.Iterable[str]) -> str:
    """A message without the names of nodes and images in it, which may be called anything."""
    for name in sorted(names, key=len, reverse=True):
        message = re.sub(r"(?<![\w.-])%s(?![\w-])" % re.escape(name), " ", message)
    return message


def names_of(image: str) -> t.List[str]:
    """An image's name as a whole, and the parts in which runtimes write it."""
    name = image.partition("@")[0]
    plain = name[: name.rindex(":")] if ":" in name.rpartition("/")[2] else name
    host, slash, repository = plain.partition("/")
    parts = [image, name, plain, host, repository] if slash else [image, name, plain]
    # Runtimes complete what has no host.
    return [part for part in parts if part] + ["docker.io/" + part for part in (name, "library/" + name)]


def advice(message: str) -> str:
    """What to do about a message without names."""
    # What a program prints before it ends has nothing to do with its image's registry.
    for signs, what in START_ADVICE if message.startswith(ENDED) else START_ADVICE + PULL_ADVICE:
        if any(re.search(r"(?<!\w)(?:%s)(?!\w)" % sign, message, re.IGNORECASE) for sign in signs):
            return what
    return ""


class Trial:
    """The trial of one node."""

    def __init__(self, api: kube.Api, node: str, params: t.Mapping[str, t.Any]):
        self.api = api
        self.node = node
        self.params = params
        self.folder = "/api/v1/namespaces/%s/pods" % quote(params["namespace"], safe="")
        self.path = "%s/%s" % (self.folder, pod_name(node))
        #: The clause that says why a pull has failed; while the kubelet waits for the next one it says less.
        self.pulled = ""

    def begin(self) -> None:
        self.end()
        self.api.send("POST", self.folder, pod_for(self.node, self.params))

    def end(self) -> None:
        """Remove the pod, and wait until its name is free."""
        for _turn in range(40):
            try:
                self.api.send("DELETE", self.path, {"gracePeriodSeconds": 0, "propagationPolicy": "Background"})
            except kube.KubeError as exc:
                if exc.status == 404:
                    return
                raise
            time.sleep(SLEEP)

    def observe(self) -> Observation:
        pod = self.api.get(self.path)[0]
        phase = cluster_state.dig(pod, "status", "phase")
        statuses = cluster_state.dig(pod, "status", "containerStatuses") or ()
        if phase == "Succeeded":
            return Observation(True, "", "")
        if phase == "Failed":
            reason = cluster_state.dig(pod, "status", "message") or cluster_state.dig(pod, "status", "reason") or ""
            ended = [cluster_state.dig(status, "state", "terminated") or {} for status in statuses]
            codes = [ENDED + " %s (%s)" % (entry.get("exitCode"), entry.get("reason")) for entry in ended if entry]
            said = "; ".join([*codes, *([str(reason)] if reason else [])]) or "it failed"
            log = self.log()
            return Observation(True, said + (": " + " | ".join(log[-3:]) if log else ""), "")
        for status in statuses:
            waiting = cluster_state.dig(status, "state", "waiting") or {}
            reason = str(waiting.get("reason") or "")
            message = " ".join(str(waiting.get("message") or "").split())
            if reason == "ErrImagePull" and message:
                self.pulled = "%s: %s" % (reason, message)
            if reason in FINAL:
                return Observation(True, self.pulled or "%s: %s" % (reason, message), "")
        trouble = cluster_state.pod_view(pod)["trouble"]
        return Observation(
            False, "", self.pulled or trouble or "the pod is %s" % (phase or "not yet known to its node")
        )

    def log(self) -> t.List[str]:
        try:
            response = self.api.request("GET", self.path + "/log", query={"tailLines": 20, "limitBytes": 1 << 14})
        except kube.KubeError:
            return []
        if response.status != 200:
            return []
        return [line.strip() for line in response.body.decode("utf-8", "replace").splitlines() if line.strip()]


def try_out(api: kube.Api, params: t.Mapping[str, t.Any]) -> t.Tuple[t.Dict[str, str], t.Dict[str, str]]:
    """What the image printed on each node, and what is wrong on each on which it failed."""
    trials = [Trial(api, node, params) for node in params["nodes"]]
    printed: t.Dict[str, str] = {}
    failed: t.Dict[str, str] = {}
    try:
        for trial in trials:
            trial.begin()
        deadline = time.monotonic() + params["timeout"]
        for trial in trials:
            left = max(0.0, deadline - time.monotonic())
            waited = wait_until(trial.observe, timeout=left, sleep=SLEEP)
            if waited.observation.done and not waited.observation.state:
                printed[trial.node] = " ".join(trial.log()[-1:])
                continue
            clause = waited.observation.state or "after %d seconds: %s" % (
                params["timeout"],
                waited.observation.summary,
            )
            failed[trial.node] = str(clause)[:500].rstrip(".")
    finally:
        for trial in trials:
            trial.end()
    return printed, failed


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=dict(
            kube.API_ARGUMENTS,
            image={"type": "str", "required": True},
            nodes={"type": "list", "elements": "str", "required": True},
            namespace={"type": "str", "default": "kube-system"},
            args={"type": "list", "elements": "str", "default": ["--version"]},
            pull_policy={"type": "str", "choices": ["Always", "IfNotPresent", "Never"], "default": "IfNotPresent"},
            # Names only.
            pull_secrets={"type": "list", "elements": "str", "default": [], "no_log": False},
            timeout={"type": "float", "default": 180},
        ),
        supports_check_mode=False,
    )
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    params = module.params
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        printed, failed = try_out(api, params)
    except kube.KubeError as exc:
        module.fail_json(msg="%s %s" % (exc.message, cluster_state.advice(exc.status, exc.reason)))
    if failed:
        names = [*names_of(params["image"]), *params["nodes"]]
        what = next(filter(None, (advice(without_names(clause, names)) for clause in failed.values())), "")
        clauses = "; ".join("%s (%s)" % pair for pair in failed.items())
        module.fail_json(
            msg="The image %s cannot be started on %s, and nothing was rolled out%s."
            % (params["image"], clauses, "; " + what if what else "")
        )
    module.exit_json(changed=False, nodes=printed)


if __name__ == "__main__":
    main()
