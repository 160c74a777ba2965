#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: cluster_state_info
short_description: Show the nodes of a cluster and which of its API servers answer
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reads all nodes in one request, and asks each API server whether it is ready.
  - Fails with one sentence that says what to do when the cluster cannot be read with the kubeconfig at all. A
    single API server that does not answer is reported, not fatal.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes.info
options:
  servers:
    description:
      - The API servers of the cluster, as C(https://HOST:PORT). Without it the server of the kubeconfig.
    type: list
    elements: str
  ready_nodes:
    description:
      - With O(wait), the nodes that have to be Ready. Others may be as they are.
    type: list
    elements: str
    default: []
  wait:
    description: Whether to wait until every node of O(ready_nodes) is Ready, and to fail when that does not happen.
    type: bool
    default: false
  wait_sleep:
    description: Seconds between two checks.
    type: float
    default: 5
  wait_timeout:
    description: Seconds to wait at most. V(0) is a single check.
    type: int
    default: 120
seealso:
  - module: kubemetrics.aggregation.component_info
  - module: kubemetrics.aggregation.apiservice_info
"""

EXAMPLES = r"""
- name: Read the cluster through both of its API servers
  kubemetrics.aggregation.cluster_state_info:
    kubeconfig: /etc/kubernetes/admin.conf
    servers:
      - https://192.0.2.11:6443
      - https://192.0.2.12:6443
  register: cluster

- name: Wait for a node whose kubelet was restarted
  kubemetrics.aggregation.cluster_state_info:
    ready_nodes: [worker1]
    wait: true
    wait_sleep: 1
    wait_timeout: 60
"""

RETURN = r"""
nodes:
  description: Every node of the cluster, ordered by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the Node object.
      type: str
    created:
      description: When it joined the cluster (RFC 3339).
      type: str
    ready:
      description: Whether its Ready condition is True.
      type: bool
    ready_message:
      description: The message of that condition.
      type: str
    addresses:
      description: Its addresses, each with RV(ignore:type) and RV(ignore:address).
      type: list
      elements: dict
    kubelet_port:
      description: Where its kubelet listens.
      type: int
    kubelet_version:
      description: Version of its kubelet.
      type: str
    architecture:
      description: For example V(amd64).
      type: str
    operating_system:
      description: For example V(linux).
      type: str
    runtime:
      description: Container runtime, V(containerd), V(cri-o) or V(docker).
      type: str
    runtime_version:
      description: Version of the container runtime.
      type: str
    pod_cidrs:
      description: Address ranges of its pods.
      type: list
      elements: str
    hostname:
      description: Value of its label C(kubernetes.io/hostname).
      type: str
    image_labels:
      description: Its labels that say which images without a registry it holds.
      type: list
      elements: str
    unschedulable:
      description: Whether it is cordoned.
      type: bool
    control_plane:
      description: Whether it carries a control plane's role label.
      type: bool
servers:
  description: Every API server, with RV(ignore:server), whether it is RV(ignore:ready), a RV(ignore:message)
    when it is not, and its RV(ignore:version), which is empty when it did not say.
  returned: success
  type: list
  elements: dict
  sample:
    - server: https://192.0.2.11:6443
      ready: true
      message: ""
      version: v1.37.2
version:
  description: Version that the API server says it has.
  returned: success
  type: str
  sample: v1.36.3
pending_serving_requests:
  description: Number of requests of kubelets for serving certificates that nobody has decided on.
  returned: success
  type: int
  sample: 0
distribution:
  description:
    - Which distribution the cluster is by what the API says, where it is one that writes its configuration itself.
    - A version that is compiled into its binaries counts, and what several signs agree on. A single label does not.
  returned: success
  type: dict
  contains:
    key:
      description:
        - One of V(k3s), V(rke2), V(minikube), V(microk8s), V(k0s), V(openshift), V(eks), V(aks), V(gke); empty for
          another cluster.
      type: str
    because:
      description: What says so.
      type: str
  sample: {key: k3s, because: its API server says v1.36.3+k3s1}
elapsed:
  description: Seconds that the module waited.
  returned: success
  type: float
"""

import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.wait import (
    WAIT_ARGUMENTS,
    Observation,
    check_wait_arguments,
    wait_until,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.text import distributions

SERVER_KEYS = ("server", "ready", "message", "version")


def version_of(api: kube.Api, server: str) -> str:
    """What a server says of its version; empty where it does not."""
    try:
        return str(api.get("/version", server=server)[0].get("gitVersion") or "")
    except kube.KubeError:
        return ""


def look_at_server(api: kube.Api, server: str) -> t.Dict[str, t.Any]:
    try:
        response = api.request("GET", "/readyz", server=server)
    except kube.KubeError as exc:
        return {"server": server, "ready": False, "message": exc.message, "reason": exc.reason, "version": ""}
    message = (
        ""
        if response.status == 200
        else kube.http_error(response.status, response.body, server, "/readyz", None).message
    )
    version = version_of(api, server)
    return {"server": server, "ready": response.status == 200, "message": message, "reason": "", "version": version}


class Answer(t.NamedTuple):
    version: str
    nodes: t.List[t.Dict[str, t.Any]]
    pending: int
    distribution: distributions.Found


def distribution_of(api: kube.Api, server: str, nodes: t.Sequence[t.Any], version: str) -> distributions.Found:
    """Which distribution the API says it is; what may not be read is not there."""
    markers = []
    for path in distributions.questions(nodes):
        try:
            api.get(path, server=server)
        except kube.KubeError:
            continue
        markers.append(path)
    return distributions.of_cluster(nodes, version, markers)


def first_answer(api: kube.Api, servers: t.Sequence[str]) -> Answer:
    """What the first server that answers says. Raises the first server's error if none does."""
    first: t.Optional[kube.KubeError] = None
    for server in servers:
        try:
            items, unused = api.list("/api/v1/nodes", server=server)
            version, unused = api.get("/version", server=server)
            requests, unused = api.list(
                "/apis/certificates.k8s.io/v1/certificatesigningrequests",
                query={"fieldSelector": "spec.signerName=" + cluster_state.SERVING_SIGNER},
                server=server,
            )
            said = str(version.get("gitVersion") or "")
            return Answer(
                said,
                sorted((cluster_state.node_view(item) for item in items), key=lambda node: str(node["name"])),
                sum(1 for item in requests if cluster_state.awaits_approval(item)),
                distribution_of(api, server, items, said),
            )
        except kube.KubeError as exc:
            first = first or exc
    raise first or kube.KubeError("There is no API server to ask.")


def judge(nodes: t.Sequence[t.Mapping[str, t.Any]], wanted: t.Sequence[str]) -> Observation:
    by_name = {node["name"]: node for node in nodes}
    missing = [name for name in wanted if name not in by_name]
    trouble = ["%s does not exist" % name for name in missing]
    for name in wanted:
        node = by_name.get(name)
        if node and not node["ready"]:
            trouble.append("%s is not Ready (%s)" % (name, node["ready_message"] or "no condition yet"))
    return Observation(not trouble, nodes, "; ".join(trouble))


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=dict(
            kube.API_ARGUMENTS,
            servers={"type": "list", "elements": "str"},
            ready_nodes={"type": "list", "elements": "str", "default": []},
            **WAIT_ARGUMENTS,
        ),
        supports_check_mode=True,
    )
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    params = module.params
    wrong = check_wait_arguments(params)
    if wrong:
        module.fail_json(msg=wrong)
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        servers = [kube.normalize_server(server) for server in params["servers"] or [api.server]]
    except kube.KubeError as exc:
        module.fail_json(msg=exc.message)
    except ValueError as exc:
        module.fail_json(msg=str(exc))

    with ThreadPoolExecutor(max_workers=min(8, len(servers))) as pool:
        states = list(pool.map(lambda server: look_at_server(api, server), servers))
    # Other modules send some of their requests to the kubeconfig's own server, whatever the others answer.
    own = next((state for state in states if state["server"] == api.server), None) or look_at_server(api, api.server)
    if own["reason"] and any(state["ready"] for state in states):
        module.fail_json(
            msg="The server of the kubeconfig: %s %s" % (own["message"], cluster_state.advice(None, own["reason"]))
        )
    # A server that is up is asked first, so that a dead one costs its time-out once.
    ordered = [state["server"] for state in sorted(states, key=lambda state: not state["ready"])]
    if not any(state["ready"] for state in states):
        ordered = ordered[:1]
    answers: t.List[Answer] = []

    def observe() -> Observation:
        answers[:] = [first_answer(api, ordered)]
        return judge(answers[0].nodes, params["ready_nodes"])

    try:
        waited = wait_until(
            observe, timeout=params["wait_timeout"] if params["wait"] else 0, sleep=params["wait_sleep"]
        )
    except kube.KubeError as exc:
        module.fail_json(
            msg="%s %s" % (exc.message, cluster_state.advice(exc.status, exc.reason)),
            servers=[{key: state[key] for key in SERVER_KEYS} for state in states],
        )
    if params["wait"] and not waited.observation.done:
        module.fail_json(
            msg="Not every node is Ready after %d s: %s." % (waited.elapsed, waited.observation.summary.rstrip(".")),
            elapsed=waited.elapsed,
            nodes=waited.observation.state,
        )
    module.exit_json(
        changed=False,
        nodes=waited.observation.state,
        servers=[{key: state[key] for key in SERVER_KEYS} for state in states],
        version=answers[0].version,
        pending_serving_requests=answers[0].pending,
        distribution=answers[0].distribution._asdict(),
        elapsed=round(waited.elapsed, 2),
    )


if __name__ == "__main__":
    main()
