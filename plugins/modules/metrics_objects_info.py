#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics_objects_info
short_description: Show the objects around a metrics API, as a diagnosis needs them
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Reads what stands behind an APIService, and what depends on it - the Service, its workload and pods with the last
    lines of their logs, events, network policies, the rights of the server's account, other APIServices that are not
    available, namespaces that cannot be deleted, autoscalers, and what kubeadm would write.
  - Each part is read on its own. What the user of the kubeconfig may not read, or what fails, is named in RV(errors)
    and RV(denied), and the rest is there all the same.
  - Secrets in command lines, logs and messages are masked. Secrets are not read at all.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes.info
options:
  apiservice:
    description:
      - The APIService.
    type: str
    default: v1beta1.metrics.k8s.io
  namespace:
    description:
      - The namespace of the Service, where the APIService does not exist or names none.
    type: str
    default: kube-system
  name:
    description:
      - Its name there. Empty - without an APIService that names it, nothing is read of the Service and what is behind
        it.
    type: str
    default: metrics-server
  log_lines:
    description:
      - How many lines of each container's log to return, those that differ only in times and numbers once.
    type: int
    default: 40
  max_items:
    description:
      - How many pods, events, policies, autoscalers and nodes to return of each. What is left out is said in
        RV(truncated).
    type: int
    default: 500
  watch_seconds:
    description:
      - For how long the condition of the APIService is read over and over, to see whether it changes.
    type: float
    default: 1.5
seealso:
  - module: kubemetrics.aggregation.apiservice_info
  - module: kubemetrics.aggregation.metrics_provider_info
"""

EXAMPLES = r"""
- name: Read what stands behind the metrics API
  kubemetrics.aggregation.metrics_objects_info:
    kubeconfig: "{{ kubeconfig_path }}"
  delegate_to: localhost
  register: objects

- name: Show why its pods do not run
  ansible.builtin.debug:
    msg: "{{ objects.events | map(attribute='message') }}"
"""

RETURN = r"""
user:
  description: The user of the kubeconfig by RV(ignore:name) and RV(ignore:groups), or null where the API does not tell.
  returned: success
  type: dict
  sample: {name: kubernetes-admin, groups: ["kubeadm:cluster-admins", "system:authenticated"]}
denied:
  description:
    - The rights that this module, or others of the collection that read the API, would need and the user lacks, each
      with RV(ignore:verb), RV(ignore:group), RV(ignore:resource), RV(ignore:subresource), RV(ignore:namespace) and
      RV(ignore:path).
  returned: success
  type: list
  elements: dict
  sample: []
errors:
  description: Why a part is missing, by its name.
  returned: success
  type: dict
  sample: {}
truncated:
  description: What was left out, in sentences.
  returned: success
  type: list
  elements: str
  sample: []
service:
  description:
    - The Service with RV(ignore:name), RV(ignore:namespace), RV(ignore:type), RV(ignore:selector), RV(ignore:ports),
      RV(ignore:cluster_ip), RV(ignore:cluster_ips), RV(ignore:internal_traffic_policy), RV(ignore:owner),
      RV(ignore:labels) and RV(ignore:annotations), or null.
  returned: success
  type: dict
workloads:
  description:
    - Deployments, StatefulSets and DaemonSets that run the server, by what the Service selects or by their names, with
      RV(ignore:kind), RV(ignore:name), RV(ignore:replicas), RV(ignore:ready), RV(ignore:owner), labels, annotations,
      images, the service account and conditions.
  returned: success
  type: list
  elements: dict
pods:
  description:
    - The pods that the Service selects (RV(ignore:selected)) and those of RV(workloads) (RV(ignore:workload)), each
      with its node, addresses, conditions, containers (image, arguments, ports, resources, state, last state,
      restarts), and the last lines of the logs of its containers (RV(ignore:log), and RV(ignore:previous_log) of what
      ended before).
  returned: success
  type: list
  elements: dict
events:
  description: Warnings about these objects, the newest first.
  returned: success
  type: list
  elements: dict
network_policies:
  description: The network policies that select one of RV(pods), with their whole RV(ignore:spec).
  returned: success
  type: list
  elements: dict
service_account:
  description: The account of the server's pods, as NAMESPACE/NAME.
  returned: success
  type: str
  sample: kube-system/metrics-server
reviews:
  description:
    - What the authorizer says of the server's account, each with RV(ignore:what) (V(server_nodes_metrics),
      V(server_nodes_stats), V(server_nodes), V(server_pods), V(server_tokenreviews), V(server_subjectaccessreviews),
      V(server_authentication_configmap)), RV(ignore:user), RV(ignore:verb), RV(ignore:group), RV(ignore:resource),
      RV(ignore:subresource), RV(ignore:namespace), RV(ignore:name), RV(ignore:allowed) and RV(ignore:reason).
  returned: success
  type: list
  elements: dict
roles:
  description:
    - Whether the roles of a metrics server are there and bound - RV(ignore:aggregated_reader) and
      to what it is aggregated, whether the role C(view) reads metrics with it, RV(ignore:auth_delegator),
      RV(ignore:auth_reader), and RV(ignore:server_role_rules), the rules of all cluster roles that are bound to its
      account. Null where they could not be read.
  returned: success
  type: dict
namespaces:
  description: The namespaces that are being deleted, with their conditions.
  returned: success
  type: list
  elements: dict
apiservices_unavailable:
  description: All APIServices that are not available, with reason, message, Service, whether that exists, and owner.
  returned: success
  type: list
  elements: dict
discovery:
  description:
    - What a request for all API groups answers - RV(ignore:status), RV(ignore:seconds), RV(ignore:message), and
      RV(ignore:stale), the group versions whose server does not answer. Null where it could not be asked for.
  returned: success
  type: dict
  sample: {status: 200, seconds: 0.01, stale: [], message: ""}
autoscalers:
  description: HorizontalPodAutoscalers with their target, conditions and RV(ignore:containers_without_requests).
  returned: success
  type: list
  elements: dict
node_annotations:
  description: Annotations of nodes in the group C(metrics.k8s.io), by node.
  returned: success
  type: dict
  sample: {}
kubeadm:
  description: What kubeadm's ClusterConfiguration says, with RV(ignore:api_server_extra_args), or null without one.
  returned: success
  type: dict
ca_bundles:
  description:
    - The C(caBundle) of each APIService of the metrics groups as PEM text, by its name. Certificates are public.
  returned: success
  type: dict
cluster_ips:
  description: The ClusterIP of the Services behind these APIServices, by NAMESPACE/NAME.
  returned: success
  type: dict
  sample: {kube-system/metrics-server: 10.233.12.7}
kubernetes:
  description: The API's own Service, with RV(ignore:cluster_ip) and RV(ignore:endpoints), each as HOST:PORT.
  returned: success
  type: dict
  sample: {cluster_ip: 10.233.0.1, endpoints: ["192.0.2.11:6443"]}
flips:
  description:
    - How often the condition of the APIService changed while it was read, with RV(ignore:seconds), RV(ignore:reads),
      RV(ignore:changes) and the RV(ignore:statuses) that were seen.
  returned: success
  type: dict
  sample: {seconds: 1.5, reads: 15, changes: 0, statuses: ["True"]}
elapsed:
  description: Seconds spent.
  returned: success
  type: float
"""

import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube, rights
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects as views
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_objects import (
    APISERVICES,
    ClusterObjects,
)
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import dig
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.parts import Parts
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.server_objects import ServerObjects


def examine(api: kube.Api, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    parts = Parts(api, params["max_items"])
    cluster = ClusterObjects(parts, params["apiservice"])
    apiservice = None
    try:
        apiservice = parts.get("%s/%s" % (APISERVICES, quote(params["apiservice"], safe="")))
    except kube.KubeError as exc:
        # Where the API server itself does not answer, every other part would wait for its timeout, too.
        if exc.status is None:
            raise
        parts.errors["apiservice"] = exc.message
    namespace = str(dig(apiservice, "spec", "service", "namespace") or params["namespace"])
    name = str(dig(apiservice, "spec", "service", "name") or params["name"])
    objects = ServerObjects(parts, namespace, params["log_lines"])
    result: t.Dict[str, t.Any] = {}
    apart: t.Dict[str, t.Tuple[t.Callable[[], t.Any], t.Any]] = {
        "flips": (lambda: cluster.flips(params["watch_seconds"]), None),
        "user": (lambda: rights.user_of(api), None),
        "denied": (lambda: rights.denied(api, namespace, cluster.group), []),
        "namespaces": (cluster.namespaces, []),
        "apiservices_unavailable": (cluster.apiservices_unavailable, []),
        "discovery": (cluster.discovery, None),
        "autoscalers": (cluster.autoscalers, []),
        "node_annotations": (cluster.node_annotations, {}),
        "kubeadm": (cluster.kubeadm, None),
        "kubernetes": (cluster.kubernetes, None),
        "ca_bundles": (cluster.ca_bundles, {}),
        "cluster_ips": (cluster.cluster_ips, {}),
    }

    def server() -> None:
        """What depends on each other: the Service, its pods, and the rights of their account."""
        if not name:
            # The API is not registered, and nothing says where its server would be.
            result.update(service=None, workloads=[], pods=[], service_account="")
            result.update(events=[], network_policies=[], reviews=[], roles=None)
            return
        path = "/api/v1/namespaces/%s/services/%s" % (quote(namespace, safe=""), quote(name, safe=""))
        result["service"] = views.service_view(parts.part("service", lambda: parts.get(path), None))
        selector = (result["service"] or {}).get("selector") or {}
        workloads = parts.part("workloads", lambda: objects.workloads(name, selector), [])
        result["workloads"] = workloads
        pods = parts.part("pods", lambda: objects.pods(selector, workloads), [])
        result["pods"] = pods
        accounts = [pod["service_account"] for pod in pods] + [entry["service_account"] for entry in workloads] + [name]
        account = accounts[0]
        result["service_account"] = "%s/%s" % (namespace, account)
        names = {name} | {entry["name"] for entry in workloads} | {pod["name"] for pod in pods}
        below: t.Dict[str, t.Tuple[t.Callable[[], t.Any], t.Any]] = {
            "logs": (lambda: objects.logs(pods), None),
            "events": (lambda: objects.events(names), []),
            "network_policies": (lambda: objects.network_policies(pods), []),
            "reviews": (lambda: rights.reviews(api, namespace, account), []),
            "roles": (lambda: objects.roles(account), None),
        }
        read(below)
        result.pop("logs")

    def read(wanted: t.Mapping[str, t.Tuple[t.Callable[[], t.Any], t.Any]]) -> None:
        with ThreadPoolExecutor(max_workers=len(wanted)) as pool:
            started = {key: pool.submit(parts.part, key, call, other) for key, (call, other) in wanted.items()}
            result.update({key: future.result() for key, future in started.items()})

    with ThreadPoolExecutor(max_workers=1) as pool:
        beside = pool.submit(server)
        read(apart)
        beside.result()
    result["errors"] = dict(sorted(parts.errors.items()))
    result["truncated"] = sorted(parts.truncated)
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=dict(
            kube.API_ARGUMENTS,
            apiservice={"type": "str", "default": "v1beta1.metrics.k8s.io"},
            namespace={"type": "str", "default": "kube-system"},
            name={"type": "str", "default": "metrics-server"},
            log_lines={"type": "int", "default": 40},
            max_items={"type": "int", "default": 500},
            watch_seconds={"type": "float", "default": 1.5},
        ),
        supports_check_mode=True,
    )
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    params = module.params
    for name in ("log_lines", "max_items", "watch_seconds"):
        if params[name] < 0:
            module.fail_json(msg="%s is %g; give 0 or more." % (name, params[name]))
    started = time.monotonic()
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        result = examine(api, params)
    except kube.KubeError as exc:
        module.fail_json(msg="%s %s" % (exc.message, cluster_state.advice(exc.status, exc.reason)))
    module.exit_json(changed=False, elapsed=round(time.monotonic() - started, 2), **result)


if __name__ == "__main__":
    main()
