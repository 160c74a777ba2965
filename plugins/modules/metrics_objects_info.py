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

import base64
import contextlib
import time
import typing as t
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects as views
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import dig

AUTHORIZATION = "/apis/authorization.k8s.io/v1/"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
WORKLOADS = (("Deployment", "deployments"), ("StatefulSet", "statefulsets"), ("DaemonSet", "daemonsets"))
MAX_PARALLEL = 12
#: Pods whose logs are read: the first ones tell enough.
MAX_LOGS = 12
LOG_TAIL = 400
LOG_BYTES = 1 << 18
WATCH_SLEEP = 0.1
READER = "system:aggregated-metrics-reader"


class Right(t.NamedTuple):
    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    #: For what is no resource; then the others are empty.
    path: str = ""

    def attributes(self) -> t.Dict[str, t.Any]:
        if self.path:
            return {"nonResourceAttributes": {"verb": self.verb, "path": self.path}}
        fields = {key: value for key, value in self._asdict().items() if value and key != "path"}
        return {"resourceAttributes": fields}


def group_of(apiservice: str) -> str:
    """The group of an APIService, by its name."""
    return apiservice.partition(".")[2]


def wanted_rights(namespace: str, group: str) -> t.List[Right]:
    """What the collection's modules read for a diagnosis of an API of that group."""
    of_metrics = [Right("list", group, resource) for resource in ("nodes", "pods")]
    return [
        Right("list", "", "nodes"),
        Right("list", "", "pods"),
        Right("list", "", "namespaces"),
        Right("get", "", "services", namespace=namespace),
        Right("list", "discovery.k8s.io", "endpointslices", namespace=namespace),
        Right("list", "apps", "deployments", namespace=namespace),
        Right("list", "apps", "statefulsets", namespace=namespace),
        Right("list", "apps", "daemonsets", namespace=namespace),
        Right("get", "", "pods", subresource="log", namespace=namespace),
        Right("list", "", "events", namespace=namespace),
        Right("list", "networking.k8s.io", "networkpolicies", namespace=namespace),
        Right("list", "apiregistration.k8s.io", "apiservices"),
        Right("get", "", "configmaps", namespace="kube-system", name="extension-apiserver-authentication"),
        Right("get", "", "configmaps", namespace="kube-system", name="kubeadm-config"),
        Right("list", "certificates.k8s.io", "certificatesigningrequests"),
        Right("list", "rbac.authorization.k8s.io", "clusterroles"),
        Right("list", "rbac.authorization.k8s.io", "clusterrolebindings"),
        Right("list", "rbac.authorization.k8s.io", "rolebindings", namespace="kube-system"),
        Right("create", "authorization.k8s.io", "subjectaccessreviews"),
        Right("create", "", "serviceaccounts", subresource="token", namespace=namespace),
        Right("list", "autoscaling", "horizontalpodautoscalers"),
        *(of_metrics if group == cluster_state.METRICS_GROUP else ()),
        Right("get", "", "", path="/metrics"),
    ]


#: What a metrics server needs, by the name of its review. Old servers, and only they, need nodes/stats.
SERVER_RIGHTS = {
    "server_nodes_metrics": Right("get", "", "nodes", subresource="metrics"),
    "server_nodes_stats": Right("get", "", "nodes", subresource="stats"),
    "server_nodes": Right("list", "", "nodes"),
    "server_pods": Right("list", "", "pods"),
    "server_tokenreviews": Right("create", "authentication.k8s.io", "tokenreviews"),
    "server_subjectaccessreviews": Right("create", "authorization.k8s.io", "subjectaccessreviews"),
    "server_authentication_configmap": Right(
        "get", "", "configmaps", namespace="kube-system", name="extension-apiserver-authentication"
    ),
}


class Reader:
    """Reads each part of the result on its own."""

    def __init__(self, api: kube.Api, params: t.Mapping[str, t.Any]) -> None:
        self.api = api
        self.params = params
        self.errors: t.Dict[str, str] = {}
        self.truncated: t.List[str] = []

    def part(self, name: str, call: t.Callable[[], t.Any], otherwise: t.Any) -> t.Any:
        """The result of a call; where it fails, something else, and why."""
        try:
            return call()
        except kube.KubeError as exc:
            self.errors[name] = exc.message
            return otherwise
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            # An object of a form that nobody expects must not hide the other parts.
            self.errors[name] = "the answer of the API has an unexpected form (%s: %s)." % (type(exc).__name__, exc)
            return otherwise

    def get(self, path: str) -> t.Optional[t.Dict[str, t.Any]]:
        """An object, or None where there is none."""
        try:
            found = self.api.get(path)[0]
        except kube.KubeError as exc:
            if exc.status == 404:
                return None
            raise
        return found if isinstance(found, dict) else None

    def list(self, path: str, query: t.Optional[t.Mapping[str, t.Any]] = None) -> t.List[t.Dict[str, t.Any]]:
        return self.api.list(path, query=query)[0]

    def cut(self, items: t.List[t.Any], what: str) -> t.List[t.Any]:
        limit = self.params["max_items"]
        if len(items) > limit:
            self.truncated.append("%d of %d %s were left out" % (len(items) - limit, len(items), what))
        return items[:limit]

    # --- the user ---------------------------------------------------------------------------------------------------

    def user(self) -> t.Optional[t.Dict[str, t.Any]]:
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
        answer = self.api.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
        info = dig(answer, "status", "userInfo") or {}
        return {"name": info.get("username") or "", "groups": info.get("groups") or []}

    def denied(self, namespace: str) -> t.List[t.Dict[str, t.Any]]:
        wanted = wanted_rights(namespace, group_of(self.params["apiservice"]))
        with ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
            reviewed = list(pool.map(lambda right: (right, self.may(right)), wanted))
        return [right._asdict() for right, allowed in reviewed if not allowed]

    def may(self, right: Right) -> bool:
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": right.attributes(),
        }
        answer = self.api.send("POST", AUTHORIZATION + "selfsubjectaccessreviews", body)
        return bool(dig(answer, "status", "allowed"))

    # --- the server -------------------------------------------------------------------------------------------------

    def workloads(self, namespace: str, name: str, selector: t.Mapping[str, t.Any]) -> t.List[t.Dict[str, t.Any]]:
        found = []
        for kind, resource in WORKLOADS:
            for item in self.list("/apis/apps/v1/namespaces/%s/%s" % (quote(namespace, safe=""), resource)):
                if views.is_the_servers(item, name, selector):
                    found.append(views.workload_view(item, kind))
        return self.cut(found, "workloads")

    def pods(
        self, namespace: str, selector: t.Mapping[str, t.Any], workloads: t.Sequence[t.Mapping[str, t.Any]]
    ) -> t.List[t.Dict[str, t.Any]]:
        found = []
        for item in self.list("/api/v1/namespaces/%s/pods" % quote(namespace, safe="")):
            labels = dig(item, "metadata", "labels") or {}
            selected = bool(selector) and all(labels.get(key) == value for key, value in selector.items())
            owner = next(
                (
                    entry["name"]
                    for entry in workloads
                    if entry["match_labels"] and views.matches({"matchLabels": entry["match_labels"]}, labels)
                ),
                "",
            )
            if selected or owner:
                found.append(views.pod_view(item, selected=selected, workload=owner))
        return self.cut(sorted(found, key=lambda pod: str(pod["name"])), "pods of the server")

    def logs(self, pods: t.Sequence[t.Dict[str, t.Any]]) -> None:
        """Add the logs to pods. One that cannot be read is said once, with the first reason."""
        wanted = []
        for pod in pods[:MAX_LOGS]:
            for container in pod["containers"]:
                # A container that never started has no log.
                if container["state"]["kind"] in ("running", "terminated") or container["restarts"]:
                    wanted.append((pod, container, False))
                if container["restarts"]:
                    wanted.append((pod, container, True))
        if not wanted:
            return
        with ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
            list(pool.map(lambda entry: self.read_log(*entry), wanted))
        if len(pods) > MAX_LOGS:
            self.truncated.append("the logs of %d of %d pods were not read" % (len(pods) - MAX_LOGS, len(pods)))

    def read_log(self, pod: t.Dict[str, t.Any], container: t.Mapping[str, t.Any], previous: bool) -> None:
        path = "/api/v1/namespaces/%s/pods/%s/log" % (quote(pod["namespace"], safe=""), quote(pod["name"], safe=""))
        query: t.Dict[str, t.Any] = {
            "container": container["name"],
            "tailLines": LOG_TAIL,
            "limitBytes": LOG_BYTES,
        }
        if previous:
            query["previous"] = "true"
        try:
            answer = self.api.request("GET", path, query=query)
            if answer.status != 200:
                raise kube.http_error(answer.status, answer.body, self.api.server, path, None)
        except kube.KubeError as exc:
            # What ended long ago may have left no log.
            if not previous:
                self.errors.setdefault("logs", exc.message)
            return
        lines = views.distinct_lines(answer.body.decode("utf-8", "replace").splitlines(), self.params["log_lines"])
        if len([entry for entry in pod["containers"] if not entry["init"]]) > 1:
            lines = ["[%s] %s" % (container["name"], line) for line in lines]
        pod["previous_log" if previous else "log"] += lines

    def events(self, namespace: str, names: t.Collection[str]) -> t.List[t.Dict[str, t.Any]]:
        items = self.list("/api/v1/namespaces/%s/events" % quote(namespace, safe=""), {"fieldSelector": "type=Warning"})
        found = [
            views.event_view(item)
            for item in items
            # Replica sets and pods bear the name of their Deployment and more.
            if any(
                str(dig(item, "involvedObject", "name")) == name
                or str(dig(item, "involvedObject", "name")).startswith(name + "-")
                for name in names
            )
        ]
        return self.cut(sorted(found, key=lambda event: str(event["time"]), reverse=True), "events")[:50]

    def network_policies(self, namespace: str, pods: t.Sequence[t.Mapping[str, t.Any]]) -> t.List[t.Dict[str, t.Any]]:
        path = "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies" % quote(namespace, safe="")
        return self.cut(
            [
                views.policy_view(item)
                for item in self.list(path)
                if any(views.matches(dig(item, "spec", "podSelector") or {}, pod["labels"]) for pod in pods)
            ],
            "network policies",
        )

    # --- rights -----------------------------------------------------------------------------------------------------

    def reviews(self, namespace: str, account: str) -> t.List[t.Dict[str, t.Any]]:
        user = "system:serviceaccount:%s:%s" % (namespace, account)
        groups = ["system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"]
        wanted = [(what, user, groups, right) for what, right in SERVER_RIGHTS.items()]
        with ThreadPoolExecutor(max_workers=MAX_PARALLEL) as pool:
            return list(pool.map(lambda entry: self.review(*entry), wanted))

    def review(self, what: str, user: str, groups: t.List[str], right: Right) -> t.Dict[str, t.Any]:
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": user, "groups": groups, **right.attributes()},
        }
        answer = self.api.send("POST", AUTHORIZATION + "subjectaccessreviews", body)
        result = dict(right._asdict(), what=what, user=user)
        result["allowed"] = bool(dig(answer, "status", "allowed"))
        result["reason"] = views.shortened(dig(answer, "status", "reason") or dig(answer, "status", "evaluationError"))
        return result

    def roles(self, namespace: str, account: str) -> t.Dict[str, t.Any]:
        bindings = self.list(RBAC + "/clusterrolebindings")
        local = self.list(RBAC + "/namespaces/kube-system/rolebindings")
        reader = self.get(RBAC + "/clusterroles/" + READER)
        view = self.get(RBAC + "/clusterroles/view")
        bound = views.roles_of(bindings, namespace, account)
        rules = []
        for kind, name in bound:
            role = self.get(RBAC + "/clusterroles/" + quote(name, safe="")) if kind == "ClusterRole" else None
            # What every user may is no matter of the server.
            if not name.startswith("system:") or name.startswith("system:metrics-server"):
                rules += [dict(rule, role=name) for rule in (role or {}).get("rules") or ()]
        labels = dig(reader, "metadata", "labels") or {}
        return {
            "aggregated_reader": reader is not None,
            "view_reads_metrics": any(
                cluster_state.METRICS_GROUP in (rule.get("apiGroups") or ()) for rule in (view or {}).get("rules") or ()
            ),
            "aggregated_to": sorted(
                key.rpartition("-to-")[2]
                for key, value in labels.items()
                if key.startswith("rbac.authorization.k8s.io/aggregate-to-") and value == "true"
            ),
            "auth_delegator": ("ClusterRole", "system:auth-delegator") in bound,
            "auth_reader": ("Role", "extension-apiserver-authentication-reader")
            in views.roles_of(local, namespace, account),
            "bound": ["%s/%s" % entry for entry in bound],
            "server_role_rules": rules,
        }

    # --- the cluster ------------------------------------------------------------------------------------------------

    def namespaces(self) -> t.List[t.Dict[str, t.Any]]:
        found = [
            {
                "name": dig(item, "metadata", "name"),
                "deleted": dig(item, "metadata", "deletionTimestamp"),
                "conditions": views.conditions_of(item),
            }
            for item in self.list("/api/v1/namespaces")
            if dig(item, "metadata", "deletionTimestamp")
        ]
        return self.cut(found, "namespaces that are being deleted")

    def apiservices_unavailable(self) -> t.List[t.Dict[str, t.Any]]:
        found = [view for view in map(views.apiservice_failure, self.list(APISERVICES)) if view]
        for view in found:
            if view["service"]:
                path = "/api/v1/namespaces/%(namespace)s/services/%(name)s" % view["service"]
                with contextlib.suppress(kube.KubeError):
                    view["service_exists"] = self.get(path) is not None
        return self.cut(found, "APIServices that are not available")

    def ca_bundles(self) -> t.Dict[str, str]:
        found = {}
        for item in self.apiservices_of_group():
            with contextlib.suppress(ValueError):
                found[str(dig(item, "metadata", "name"))] = base64.b64decode(
                    dig(item, "spec", "caBundle") or "", validate=True
                ).decode("ascii")
        return {name: text for name, text in found.items() if text}

    def cluster_ips(self) -> t.Dict[str, t.Optional[str]]:
        found = {}
        for item in self.apiservices_of_group():
            service = dig(item, "spec", "service") or {}
            path = "/api/v1/namespaces/%s/services/%s" % (service.get("namespace"), service.get("name"))
            address = dig(self.get(path), "spec", "clusterIP")
            found["%s/%s" % (service.get("namespace"), service.get("name"))] = None if address == "None" else address
        return found

    def apiservices_of_group(self) -> t.List[t.Dict[str, t.Any]]:
        """The APIServices of the group that a Service of the cluster serves."""
        group = group_of(self.params["apiservice"])
        return [
            item
            for item in self.list(APISERVICES)
            if dig(item, "spec", "group") == group and dig(item, "spec", "service")
        ]

    def discovery(self) -> t.Dict[str, t.Any]:
        started = time.monotonic()
        answer = self.api.request("GET", "/apis", accept=DISCOVERY)
        result: t.Dict[str, t.Any] = {
            "status": answer.status,
            "seconds": round(time.monotonic() - started, 3),
            "stale": [],
            "message": "" if answer.status == 200 else kube.status_message(answer.body)[1],
        }
        if answer.status == 200:
            result["stale"] = views.stale_versions(answer.json())
        return result

    def autoscalers(self) -> t.List[t.Dict[str, t.Any]]:
        found = [views.autoscaler_view(item) for item in self.list("/apis/autoscaling/v2/horizontalpodautoscalers")]
        found = self.cut(found, "autoscalers")
        for view in found:
            if not any(entry["status"] == "False" and entry["type"] == "ScalingActive" for entry in view["conditions"]):
                continue
            resource = dict(WORKLOADS).get(str(view["target"]["kind"]))
            if resource:
                path = "/apis/apps/v1/namespaces/%s/%s/%s" % (view["namespace"], resource, view["target"]["name"])
                with contextlib.suppress(kube.KubeError):
                    view["containers_without_requests"] = views.without_requests(self.get(path), view["metrics"])
        return found

    def node_annotations(self) -> t.Dict[str, t.Dict[str, str]]:
        found = {}
        for item in self.list("/api/v1/nodes"):
            own = {key: value for key, value in views.annotations_of(item).items() if views.NODE_ANNOTATIONS in key}
            if own:
                found[str(dig(item, "metadata", "name"))] = own
        return found

    def kubeadm(self) -> t.Optional[t.Dict[str, t.Any]]:
        found = self.get("/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
        text = dig(found, "data", "ClusterConfiguration")
        if not text:
            return None
        return {"api_server_extra_args": views.extra_arguments(kube.yaml.safe_load(text))}

    def kubernetes(self) -> t.Dict[str, t.Any]:
        service = self.get("/api/v1/namespaces/default/services/kubernetes")
        slices = self.list(
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            {"labelSelector": "kubernetes.io/service-name=kubernetes"},
        )
        endpoints = set()
        for part in slices:
            for port in part.get("ports") or ():
                for endpoint in part.get("endpoints") or ():
                    for address in endpoint.get("addresses") or ():
                        shown = "[%s]" % address if ":" in address else address
                        endpoints.add("%s:%s" % (shown, port.get("port")))
        return {"cluster_ip": dig(service, "spec", "clusterIP"), "endpoints": sorted(endpoints)}

    def flips(self) -> t.Dict[str, t.Any]:
        """How often the condition changes, when several API servers disagree about it."""
        seconds = self.params["watch_seconds"]
        end = time.monotonic() + seconds
        seen: t.List[t.Tuple[str, str]] = []
        reads = 0
        while True:
            item = self.get("%s/%s" % (APISERVICES, quote(self.params["apiservice"], safe="")))
            available = cluster_state.condition(item or {}, "Available")
            state = (str(available.get("status") or ""), str(available.get("lastTransitionTime") or ""))
            reads += 1
            if not seen or seen[-1] != state:
                seen.append(state)
            if time.monotonic() + WATCH_SLEEP > end:
                break
            time.sleep(WATCH_SLEEP)
        return {
            "seconds": seconds,
            "reads": reads,
            "changes": len(seen) - 1,
            "statuses": sorted({status for status, unused in seen}),
        }


def examine(api: kube.Api, params: t.Mapping[str, t.Any]) -> t.Dict[str, t.Any]:
    reader = Reader(api, params)
    apiservice = None
    try:
        apiservice = reader.get("%s/%s" % (APISERVICES, quote(params["apiservice"], safe="")))
    except kube.KubeError as exc:
        # Where the API server itself does not answer, every other part would wait for its timeout, too.
        if exc.status is None:
            raise
        reader.errors["apiservice"] = exc.message
    namespace = str(dig(apiservice, "spec", "service", "namespace") or params["namespace"])
    name = str(dig(apiservice, "spec", "service", "name") or params["name"])
    result: t.Dict[str, t.Any] = {}
    apart: t.Dict[str, t.Tuple[t.Callable[[], t.Any], t.Any]] = {
        "flips": (reader.flips, None),
        "user": (reader.user, None),
        "denied": (lambda: reader.denied(namespace), []),
        "namespaces": (reader.namespaces, []),
        "apiservices_unavailable": (reader.apiservices_unavailable, []),
        "discovery": (reader.discovery, None),
        "autoscalers": (reader.autoscalers, []),
        "node_annotations": (reader.node_annotations, {}),
        "kubeadm": (reader.kubeadm, None),
        "kubernetes": (reader.kubernetes, None),
        "ca_bundles": (reader.ca_bundles, {}),
        "cluster_ips": (reader.cluster_ips, {}),
    }

    def server() -> None:
        """What depends on each other: the Service, its pods, and the rights of their account."""
        if not name:
            # The API is not registered, and nothing says where its server would be.
            result.update(service=None, workloads=[], pods=[], service_account="")
            result.update(events=[], network_policies=[], reviews=[], roles=None)
            return
        path = "/api/v1/namespaces/%s/services/%s" % (quote(namespace, safe=""), quote(name, safe=""))
        result["service"] = views.service_view(reader.part("service", lambda: reader.get(path), None))
        selector = (result["service"] or {}).get("selector") or {}
        workloads = reader.part("workloads", lambda: reader.workloads(namespace, name, selector), [])
        result["workloads"] = workloads
        pods = reader.part("pods", lambda: reader.pods(namespace, selector, workloads), [])
        result["pods"] = pods
        accounts = [pod["service_account"] for pod in pods] + [entry["service_account"] for entry in workloads] + [name]
        account = accounts[0]
        result["service_account"] = "%s/%s" % (namespace, account)
        names = {name} | {entry["name"] for entry in workloads} | {pod["name"] for pod in pods}
        below: t.Dict[str, t.Tuple[t.Callable[[], t.Any], t.Any]] = {
            "logs": (lambda: reader.logs(pods), None),
            "events": (lambda: reader.events(namespace, names), []),
            "network_policies": (lambda: reader.network_policies(namespace, pods), []),
            "reviews": (lambda: reader.reviews(namespace, account), []),
            "roles": (lambda: reader.roles(namespace, account), None),
        }
        read(below)
        result.pop("logs")

    def read(parts: t.Mapping[str, t.Tuple[t.Callable[[], t.Any], t.Any]]) -> None:
        with ThreadPoolExecutor(max_workers=len(parts)) as pool:
            started = {key: pool.submit(reader.part, key, call, other) for key, (call, other) in parts.items()}
            result.update({key: future.result() for key, future in started.items()})

    with ThreadPoolExecutor(max_workers=1) as pool:
        beside = pool.submit(server)
        read(apart)
        beside.result()
    result["errors"] = dict(sorted(reader.errors.items()))
    result["truncated"] = sorted(reader.truncated)
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
