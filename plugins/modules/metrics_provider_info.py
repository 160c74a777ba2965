#!/usr/bin/python
# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: metrics_provider_info
short_description: Show who serves the resource metrics API of a cluster
version_added: 0.1.0
author:
  - The kubemetrics.aggregation maintainers (@kubemetrics)
description:
  - Lists the APIServices of the group C(metrics.k8s.io), and the Deployment and the Service that this collection's
    metrics server has or would have, each with its owner.
  - Tells this collection's own objects from those of another provider (upstream's manifests, a Helm release, a
    distribution's add-on), so that nothing is taken over by accident, and says since when that provider is there and
    whether it would put its objects back.
  - Where another provider's objects have this collection's names, its own objects have or get the name
    C(metrics-server-kubemetrics). RV(name) is the one that counts.
extends_documentation_fragment:
  - kubemetrics.aggregation.api
  - kubemetrics.aggregation.attributes.info
options:
  namespace:
    description: Namespace of the metrics server.
    type: str
    default: kube-system
  pods:
    description: Whether to report the Deployment's pods too, with what holds back those that are not ready.
    type: bool
    default: false
  nodes:
    description: Whether to report the nodes too, with their labels and taints.
    type: bool
    default: false
  priority_class:
    description: Name of a PriorityClass that has to exist.
    type: str
    default: ""
  secrets:
    description: Names of Secrets that have to exist in O(namespace).
    type: list
    elements: str
    default: []
  log_lines:
    description: With O(pods), the number of log lines to fetch from pods that are not ready.
    type: int
    default: 5
  connection:
    description:
      - Whether to report what a client needs to reach the metrics server of this collection by its Service
        (RV(connection)).
    type: bool
    default: false
seealso:
  - module: kubemetrics.aggregation.apiservice_info
  - module: kubemetrics.aggregation.resource_metrics_info
"""

EXAMPLES = r"""
- name: See who serves metrics.k8s.io
  kubemetrics.aggregation.metrics_provider_info:
  register: provider

- name: Leave another provider alone
  ansible.builtin.assert:
    that: provider.foreign | length == 0
    fail_msg: "{{ provider.foreign | join('; ') }}"
"""

RETURN = r"""
name:
  description: What this collection's Deployment and Service are called, or would be called.
  returned: success
  type: str
  sample: metrics-server
owners:
  description: Who made each APIService of the group that is not this collection's, by its name.
  returned: success
  type: dict
  contains:
    kind:
      description:
        - One of V(manifest), V(helm), V(kubespray), V(minikube), V(addon-manager), V(k3s), V(rke2), V(k0s),
          V(openshift), V(aks), V(gke), V(eks), V(argocd), V(flux), V(prometheus-adapter), V(other).
      type: str
    owner:
      description: The same in words, with a release or the tools that wrote it.
      type: str
    since:
      description: When it was made, and when it was written last if that was later.
      type: str
    switch_off:
      description: How to switch it off where its owner would put it back, else empty.
      type: str
  sample:
    v1beta1.metrics.k8s.io:
      kind: helm
      owner: the Helm release metrics-server in namespace monitoring
      since: "2026-03-01T10:05:00Z"
      switch_off: ""
registrations:
  description: The paths of the APIServices in RV(owners), by their names.
  returned: success
  type: dict
  sample: {v1beta1.metrics.k8s.io: /apis/apiregistration.k8s.io/v1/apiservices/v1beta1.metrics.k8s.io}
removable:
  description:
    - The paths of the other metrics server's Deployment, Service and PodDisruptionBudget, in the order in which they
      can be removed once nobody asks it. What serves other APIs as well is left out.
  returned: success
  type: list
  elements: str
  sample: [/apis/apps/v1/namespaces/monitoring/deployments/metrics-server]
unfinished:
  description:
    - Those of RV(removable) that a takeover has switched the API from, and was interrupted before it removed them. It
      has kept them for a rollback already.
  returned: success
  type: list
  elements: str
uids:
  description: The UIDs of the objects in RV(removable), by their paths.
  returned: success
  type: dict
connection:
  description: How to reach this collection's metrics server, null where its Service or its certificate is missing.
  returned: success and O(connection) is true
  type: dict
  contains:
    server_name:
      description: The name that its certificate is for.
      type: str
    cluster_ip:
      description: The address of its Service.
      type: str
    endpoints:
      description: The ready endpoints, each with RV(ignore:ip) and RV(ignore:port).
      type: list
      elements: dict
    ca_data:
      description: The CA of its certificate, PEM.
      type: str
apiservices:
  description: The APIServices of the group, ordered by name.
  returned: success
  type: list
  elements: dict
  sample:
    - name: v1beta1.metrics.k8s.io
      version: v1beta1
      managed: true
      owner: kubemetrics
      service: {namespace: kube-system, name: metrics-server}
      available: true
      reason: Passed
      message: all checks passed
deployment:
  description: The Deployment of that name, or null.
  returned: success
  type: dict
  sample:
    name: metrics-server
    namespace: kube-system
    managed: true
    owner: kubemetrics
    replicas: 1
    updated: 1
    available: 1
    match_labels: {k8s-app: metrics-server}
    images: ["localhost/kubemetrics/metrics-server:0123456789ab"]
    progress: ReplicaSet "metrics-server-5d9c" has successfully progressed.
    digest: 0123456789abcdef
namespace:
  description: The namespace, or null.
  returned: success
  type: dict
  contains:
    terminating:
      description: Whether it is being deleted.
      type: bool
    pod_security:
      description: The level of the Pod Security Standards that it enforces, or an empty text.
      type: str
  sample: {terminating: false, pod_security: ""}
missing:
  description: One clause for each of O(priority_class) and O(secrets) that does not exist.
  returned: success
  type: list
  elements: str
  sample: []
nodes:
  description:
    - The nodes by name, as M(kubemetrics.aggregation.cluster_state_info) returns them, each with its
      RV(ignore:labels) and RV(ignore:taints).
  returned: success and O(nodes) is true
  type: dict
server_nodes:
  description: The nodes that pods of the metrics server, of its approver and of its nanny are on.
  returned: success and O(nodes) is true
  type: list
  elements: str
  sample: [worker1]
service:
  description: The Service of that name, or null.
  returned: success
  type: dict
foreign:
  description: One sentence for each of these objects that is not this collection's.
  returned: success
  type: list
  elements: str
pods:
  description: The Deployment's pods, when O(pods) is set.
  returned: success and O(pods) is true
  type: list
  elements: dict
  sample:
    - name: metrics-server-5d9c-abcde
      node: worker1
      phase: Pending
      ready: false
      terminating: false
      trouble: "container metrics-server waits: ErrImageNeverPull"
      log: []
"""

import base64
import typing as t
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube, providers


def get_or_none(api: kube.Api, path: str) -> t.Optional[t.Dict[str, t.Any]]:
    try:
        return api.get(path)[0]
    except kube.KubeError as exc:
        if exc.status == 404:
            return None
        raise


def foreign_sentences(
    apiservices: t.Sequence[t.Mapping[str, t.Any]],
    deployment: t.Optional[t.Mapping[str, t.Any]],
    service: t.Optional[t.Mapping[str, t.Any]],
) -> t.List[str]:
    found = []
    for item in apiservices:
        if not item["managed"]:
            backend = item["service"]
            behind = "Service %(namespace)s/%(name)s" % backend if backend else "the API server itself"
            found.append("APIService %s, made by %s, is served by %s" % (item["name"], item["owner"], behind))
    for kind, view in (("Deployment", deployment), ("Service", service)):
        if view and not view["managed"]:
            found.append("%s %s/%s was made by %s" % (kind, view["namespace"], view["name"], view["owner"]))
    return found


def read_pods(api: kube.Api, namespace: str, labels: t.Mapping[str, str], log_lines: int) -> t.List[t.Dict[str, t.Any]]:
    selector = ",".join("%s=%s" % pair for pair in sorted(labels.items()))
    path = "/api/v1/namespaces/%s/pods" % quote(namespace, safe="")
    items, unused = api.list(path, query={"labelSelector": selector})
    pods = []
    for item in items:
        view = cluster_state.pod_view(item)
        view["log"] = []
        if not view["ready"] and log_lines > 0:
            log_path = "%s/%s/log" % (path, quote(str(view["name"]), safe=""))
            try:
                response = api.request("GET", log_path, query={"tailLines": log_lines, "limitBytes": 1 << 16})
            except kube.KubeError:
                response = None
            # No container has started yet, or its kubelet does not answer: the pod's state says that already.
            if response is not None and response.status == 200:
                view["log"] = response.body.decode("utf-8", "replace").splitlines()
        if not view["ready"] and not view["log"]:
            view["trouble"] = with_event(view["trouble"], newest_warning(api, namespace, view["name"]))
        pods.append(view)
    return pods


def newest_warning(api: kube.Api, namespace: str, pod: str) -> str:
    """What the newest warning about a pod says: a pod that is being created says nothing itself."""
    path = "/api/v1/namespaces/%s/events" % quote(namespace, safe="")
    try:
        events, unused = api.list(path, query={"fieldSelector": "type=Warning,involvedObject.name=%s" % pod})
    except kube.KubeError:
        # Only a hint, which others may not be allowed to read.
        return ""
    return cluster_state.newest_event(events)


def with_event(trouble: str, event: str) -> str:
    """A pod's trouble with what its newest warning adds to it."""
    if not event or event in trouble:
        return trouble
    return "%s; its newest warning: %s" % (trouble, event) if trouble else event


def namespace_view(item: cluster_state.Object) -> t.Dict[str, t.Any]:
    labels = cluster_state.dig(item, "metadata", "labels") or {}
    return {
        "terminating": bool(cluster_state.dig(item, "metadata", "deletionTimestamp")),
        "pod_security": labels.get("pod-security.kubernetes.io/enforce") or "",
    }


def missing_objects(api: kube.Api, params: t.Mapping[str, t.Any]) -> t.List[str]:
    found = []
    name = params["priority_class"]
    if name and not get_or_none(api, "/apis/scheduling.k8s.io/v1/priorityclasses/" + quote(name, safe="")):
        found.append("the PriorityClass %s" % name)
    for name in params["secrets"]:
        path = "/api/v1/namespaces/%s/secrets/%s" % (quote(params["namespace"], safe=""), quote(name, safe=""))
        if not get_or_none(api, path):
            found.append("the Secret %s in the namespace %s" % (name, params["namespace"]))
    return found


def named(api: kube.Api, namespace: str, name: str) -> t.List[t.Optional[t.Dict[str, t.Any]]]:
    """The Deployment and the Service of a name."""
    return [
        get_or_none(api, "/apis/apps/v1/namespaces/%s/deployments/%s" % (namespace, name)),
        get_or_none(api, "/api/v1/namespaces/%s/services/%s" % (namespace, name)),
    ]


def service_path(apiservice: cluster_state.Object) -> str:
    """The path of the Service behind an APIService, empty for one that the API server itself serves."""
    backend = cluster_state.dig(apiservice, "spec", "service") or {}
    if not backend.get("name"):
        return ""
    where = quote(str(backend.get("namespace")), safe="")
    return "/api/v1/namespaces/%s/services/%s" % (where, quote(str(backend["name"]), safe=""))


def other_provider(
    api: kube.Api,
    apiservices: t.Sequence[cluster_state.Object],
    standing: t.Sequence[t.Optional[t.Dict[str, t.Any]]],
    nodes: t.Sequence[cluster_state.Object],
) -> t.Dict[str, t.Any]:
    """Whose the registrations are that this collection did not make, and what belongs to their servers.

    `standing` is the Deployment and the Service that have this collection's name.
    """
    others = [item for item in apiservices if not cluster_state.is_managed(item) and service_path(item)]
    services = {path: get_or_none(api, path) for path in map(service_path, others)}
    deployment, service = standing
    found = [*services.values(), service]
    places = {cluster_state.dig(item, "metadata", "namespace") for item in [*found, deployment] if item}
    deployments: t.List[cluster_state.Object] = []
    budgets: t.List[cluster_state.Object] = []
    # Where everything is this collection's, two lists less.
    if any(item and not cluster_state.is_managed(item) for item in [*found, deployment]):
        for place in sorted(quote(str(entry), safe="") for entry in places):
            deployments += api.list("/apis/apps/v1/namespaces/%s/deployments" % place)[0]
            budgets += api.list("/apis/policy/v1/namespaces/%s/poddisruptionbudgets" % place)[0]
    owners = {}
    for item in others:
        backend = services[service_path(item)]
        workloads = providers.workloads_behind(backend, deployments)
        owners[str(cluster_state.dig(item, "metadata", "name"))] = providers.owner_view(item, backend, workloads, nodes)
    removable = providers.removable(found, deployments, budgets)
    # An interrupted takeover has left the Deployment without its Service.
    if deployment and not cluster_state.is_managed(deployment) and providers.is_metrics_server(deployment):
        path = providers.path_of("Deployment", deployment)
        removable += [path] if path not in removable else []
    unfinished = not_removed(api, apiservices)
    known = [
        *(("Service", item) for item in found),
        *(("Deployment", item) for item in [*deployments, deployment]),
        *(("PodDisruptionBudget", item) for item in budgets),
    ]
    removable += [path for path in unfinished if path not in removable]
    uids = {**providers.identities((kind, item) for kind, item in known if item), **unfinished}
    return {
        "unfinished": list(unfinished),
        "uids": {path: uids[path] for path in removable if path in uids},
        "owners": owners,
        "registrations": {
            str(cluster_state.dig(item, "metadata", "name")): providers.path_of("APIService", item) for item in others
        },
        "removable": removable,
    }


def not_removed(api: kube.Api, apiservices: t.Sequence[cluster_state.Object]) -> t.Dict[str, str]:
    """What an interrupted takeover has switched from and not removed, by its path; the UIDs are those of then.

    An object of the same name that somebody has made since is another one, and stays.
    """
    found = {}
    for path, uid in providers.replaced_by(apiservices).items():
        item = get_or_none(api, path)
        if item and not cluster_state.is_managed(item) and cluster_state.dig(item, "metadata", "uid") == uid:
            found[path] = uid
    return found


def connection(
    api: kube.Api, namespace: str, name: str, service: t.Optional[cluster_state.Object]
) -> t.Optional[t.Dict[str, t.Any]]:
    """What it takes to reach this collection's server. Of its Secret, nothing but the CA's certificate leaves here."""
    place = quote(namespace, safe="")
    secret = get_or_none(api, "/api/v1/namespaces/%s/secrets/%s-serving-cert" % (place, quote(name, safe="")))
    authority = cluster_state.dig(secret, "data", "ca.crt")
    if service is None or not authority:
        return None
    slices, unused = api.list(
        "/apis/discovery.k8s.io/v1/namespaces/%s/endpointslices" % place,
        query={"labelSelector": "kubernetes.io/service-name=" + name},
    )
    endpoints = [
        {"ip": address, "port": port["port"]}
        for item in slices
        for endpoint in item.get("endpoints") or ()
        if cluster_state.dig(endpoint, "conditions", "ready") is not False
        for address in endpoint.get("addresses") or ()
        for port in item.get("ports") or ()
    ]
    return {
        "server_name": "%s.%s.svc" % (name, namespace),
        "cluster_ip": cluster_state.dig(service, "spec", "clusterIP"),
        "endpoints": endpoints,
        "ca_data": base64.b64decode(authority).decode("ascii"),
    }


def examine(api: kube.Api, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    namespace = quote(params["namespace"], safe="")
    items, unused = api.list("/apis/apiregistration.k8s.io/v1/apiservices")
    ours = [item for item in items if cluster_state.dig(item, "spec", "group") == cluster_state.METRICS_GROUP]
    apiservices = sorted((cluster_state.apiservice_view(item) for item in ours), key=lambda view: str(view["name"]))
    existing = {name: named(api, namespace, name) for name in (providers.NAME, providers.OTHER_NAME)}
    name = providers.name_for(existing)
    deployment, service = cluster_state.deployment_view(existing[name][0]), cluster_state.object_view(existing[name][1])
    # What has the usual name is in the way even where this collection's objects have the other one.
    standing = existing[providers.NAME]
    nodes = api.list("/api/v1/nodes")[0] if params["nodes"] else []
    result = {
        "name": name,
        "apiservices": apiservices,
        "deployment": deployment,
        "service": service,
        "foreign": foreign_sentences(apiservices, *map(cluster_state.object_view, standing)),
        **other_provider(api, ours, standing, nodes),
    }
    found = get_or_none(api, "/api/v1/namespaces/" + namespace)
    result["namespace"] = namespace_view(found) if found else None
    result["missing"] = missing_objects(api, params)
    if params["nodes"]:
        result["nodes"] = {item["metadata"]["name"]: cluster_state.placement_view(item) for item in nodes}
        pods, unused = api.list(
            "/api/v1/namespaces/%s/pods" % namespace,
            query={"labelSelector": "k8s-app in (%s,%s-csr-approver,%s-nanny)" % (name, name, name)},
        )
        placed = {cluster_state.dig(pod, "spec", "nodeName") for pod in pods}
        result["server_nodes"] = sorted(node for node in placed if node)
    if params["pods"]:
        labels = deployment["match_labels"] if deployment else {}
        # An empty selector would match every pod of the namespace.
        result["pods"] = read_pods(api, params["namespace"], labels, params["log_lines"]) if labels else []
    if params["connection"]:
        result["connection"] = connection(api, params["namespace"], name, existing[name][1])
    return result


def main() -> t.NoReturn:
    module = AnsibleModule(
        argument_spec=dict(
            kube.API_ARGUMENTS,
            namespace={"type": "str", "default": "kube-system"},
            pods={"type": "bool", "default": False},
            nodes={"type": "bool", "default": False},
            priority_class={"type": "str", "default": ""},
            # Names only.
            secrets={"type": "list", "elements": "str", "default": [], "no_log": False},
            log_lines={"type": "int", "default": 5},
            connection={"type": "bool", "default": False},
        ),
        supports_check_mode=True,
    )
    if kube.KUBERNETES_IMPORT_ERROR:
        module.fail_json(msg=missing_required_lib("kubernetes"), exception=kube.KUBERNETES_IMPORT_ERROR)
    params = module.params
    try:
        api = kube.Api.connect(
            kubeconfig=params["kubeconfig"], context=params["context"], request_timeout=params["request_timeout"]
        )
        result = examine(api, params)
    except kube.KubeError as exc:
        module.fail_json(msg="%s %s" % (exc.message, cluster_state.advice(exc.status, exc.reason)))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
