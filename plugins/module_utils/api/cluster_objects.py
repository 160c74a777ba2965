# Copyright: the kubemetrics.aggregation maintainers
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of the whole cluster matters to an extension API: who else waits for it, and what it is registered with."""

from __future__ import annotations

import base64
import contextlib
import time
import typing as t
from urllib.parse import quote

from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import cluster_state, kube
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api import metrics_objects as views
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.cluster_state import dig
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.parts import Parts
from ansible_collections.kubemetrics.aggregation.plugins.module_utils.api.server_objects import WORKLOADS

APISERVICES = "/apis/apiregistration.k8s.io/v1/apiservices"
_DISCOVERY = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
_WATCH_SLEEP = 0.1


class ClusterObjects:
    """Reads what is outside the namespace of the server of an APIService."""

    def __init__(self, parts: Parts, apiservice: str) -> None:
        self.parts = parts
        self.apiservice = apiservice
        self.group = apiservice.partition(".")[2]

    def namespaces(self) -> t.List[t.Dict[str, t.Any]]:
        found = [
            {
                "name": dig(item, "metadata", "name"),
                "deleted": dig(item, "metadata", "deletionTimestamp"),
                "conditions": views.conditions_of(item),
            }
            for item in self.parts.list("/api/v1/namespaces")
            if dig(item, "metadata", "deletionTimestamp")
        ]
        return self.parts.cut(found, "namespaces that are being deleted")

    def apiservices_unavailable(self) -> t.List[t.Dict[str, t.Any]]:
        found = [view for view in map(views.apiservice_failure, self.parts.list(APISERVICES)) if view]
        for view in found:
            if view["service"]:
                path = "/api/v1/namespaces/%(namespace)s/services/%(name)s" % view["service"]
                with contextlib.suppress(kube.KubeError):
                    view["service_exists"] = self.parts.get(path) is not None
        return self.parts.cut(found, "APIServices that are not available")

    def ca_bundles(self) -> t.Dict[str, str]:
        found = {}
        for item in self._apiservices_of_group():
            with contextlib.suppress(ValueError):
                found[str(dig(item, "metadata", "name"))] = base64.b64decode(
                    dig(item, "spec", "caBundle") or "", validate=True
                ).decode("ascii")
        return {name: text for name, text in found.items() if text}

    def cluster_ips(self) -> t.Dict[str, t.Optional[str]]:
        found = {}
        for item in self._apiservices_of_group():
            service = dig(item, "spec", "service") or {}
            path = "/api/v1/namespaces/%s/services/%s" % (service.get("namespace"), service.get("name"))
            address = dig(self.parts.get(path), "spec", "clusterIP")
            found["%s/%s" % (service.get("namespace"), service.get("name"))] = None if address == "None" else address
        return found

    def _apiservices_of_group(self) -> t.List[t.Dict[str, t.Any]]:
        """The APIServices of the group that a Service of the cluster serves."""
        group = self.group
        return [
            item
            for item in self.parts.list(APISERVICES)
            if dig(item, "spec", "group") == group and dig(item, "spec", "service")
        ]

    def discovery(self) -> t.Dict[str, t.Any]:
        started = time.monotonic()
        answer = self.parts.api.request("GET", "/apis", accept=_DISCOVERY)
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
        found = [
            views.autoscaler_view(item) for item in self.parts.list("/apis/autoscaling/v2/horizontalpodautoscalers")
        ]
        found = self.parts.cut(found, "autoscalers")
        for view in found:
            if not any(entry["status"] == "False" and entry["type"] == "ScalingActive" for entry in view["conditions"]):
                continue
            resource = dict(WORKLOADS).get(str(view["target"]["kind"]))
            if resource:
                path = "/apis/apps/v1/namespaces/%s/%s/%s" % (view["namespace"], resource, view["target"]["name"])
                with contextlib.suppress(kube.KubeError):
                    view["containers_without_requests"] = views.without_requests(self.parts.get(path), view["metrics"])
        return found

    def node_annotations(self) -> t.Dict[str, t.Dict[str, str]]:
        found = {}
        for item in self.parts.list("/api/v1/nodes"):
            own = {key: value for key, value in views.annotations_of(item).items() if views.NODE_ANNOTATIONS in key}
            if own:
                found[str(dig(item, "metadata", "name"))] = own
        return found

    def kubeadm(self) -> t.Optional[t.Dict[str, t.Any]]:
        found = self.parts.get("/api/v1/namespaces/kube-system/configmaps/kubeadm-config")
        text = dig(found, "data", "ClusterConfiguration")
        if not text:
            return None
        return {"api_server_extra_args": views.extra_arguments(kube.yaml.safe_load(text))}

    def kubernetes(self) -> t.Dict[str, t.Any]:
        service = self.parts.get("/api/v1/namespaces/default/services/kubernetes")
        slices = self.parts.list(
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

    def flips(self, seconds: float) -> t.Dict[str, t.Any]:
        """How often the condition changes, when several API servers disagree about it."""
        end = time.monotonic() + seconds
        seen: t.List[t.Tuple[str, str]] = []
        reads = 0
        while True:
            item = self.parts.get("%s/%s" % (APISERVICES, quote(self.apiservice, safe="")))
            available = cluster_state.condition(item or {}, "Available")
            state = (str(available.get("status") or ""), str(available.get("lastTransitionTime") or ""))
            reads += 1
            if not seen or seen[-1] != state:
                seen.append(state)
            if time.monotonic() + _WATCH_SLEEP > end:
                break
            time.sleep(_WATCH_SLEEP)
        return {
            "seconds": seconds,
            "reads": reads,
            "changes": len(seen) - 1,
            "statuses": sorted({status for status, unused in seen}),
        }
