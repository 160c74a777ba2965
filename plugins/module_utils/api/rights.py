# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The rights that a diagnosis takes, and those that a metrics server needs, as the API reviews them."""

from __future__ import annotations

import typing as t
from concurrent.futures import ThreadPoolExecutor

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects as views
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import dig

_AUTHORIZATION = "/apis/authorization.k8s.io/v1/"
_MAX_PARALLEL = 12


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


def user_of(api: kube.Api) -> t.Optional[t.Dict[str, t.Any]]:
    """Name and groups, as the API server sees whoever asks."""
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    answer = api.send("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body)
    info = dig(answer, "status", "userInfo") or {}
    return {"name": info.get("username") or "", "groups": info.get("groups") or []}


def denied(api: kube.Api, namespace: str, group: str) -> t.List[t.Dict[str, t.Any]]:
    """What of `wanted_rights` the user does not have."""
    wanted = wanted_rights(namespace, group)
    with ThreadPoolExecutor(max_workers=_MAX_PARALLEL) as pool:
        reviewed = list(pool.map(lambda right: (right, _may(api, right)), wanted))
    return [right._asdict() for right, allowed in reviewed if not allowed]


def _may(api: kube.Api, right: Right) -> bool:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": right.attributes(),
    }
    answer = api.send("POST", _AUTHORIZATION + "selfsubjectaccessreviews", body)
    return bool(dig(answer, "status", "allowed"))


def reviews(api: kube.Api, namespace: str, account: str) -> t.List[t.Dict[str, t.Any]]:
    """What the account of a metrics server may do of what such a server needs."""
    user = "system:serviceaccount:%s:%s" % (namespace, account)
    groups = ["system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"]
    wanted = [(what, user, groups, right) for what, right in SERVER_RIGHTS.items()]
    with ThreadPoolExecutor(max_workers=_MAX_PARALLEL) as pool:
        return list(pool.map(lambda entry: _review(api, *entry), wanted))


def _review(api: kube.Api, what: str, user: str, groups: t.List[str], right: Right) -> t.Dict[str, t.Any]:
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, **right.attributes()},
    }
    answer = api.send("POST", _AUTHORIZATION + "subjectaccessreviews", body)
    result = dict(right._asdict(), what=what, user=user)
    result["allowed"] = bool(dig(answer, "status", "allowed"))
    result["reason"] = views.shortened(dig(answer, "status", "reason") or dig(answer, "status", "evaluationError"))
    return result
